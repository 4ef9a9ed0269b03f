//! `labmesh inspect`: what a `.torrent` says; whether an image is what its own says.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use anyhow::Context as _;
use labmesh_proto::wire::metainfo::Metainfo;

use crate::cli::Context;
use crate::config::wrapped;
use crate::io::cache::read_torrent;
use crate::io::hash;
use crate::progress::{Out, width};
use crate::view::{self, Exit, Failure};

/// Shows what a .torrent says. Of an image it checks every piece against the .torrent beside it; exit code 6 says that
/// it is damaged.
#[derive(Debug, clap::Args)]
pub struct Inspect {
    /// A .torrent, or an image with its .torrent beside it
    file: PathBuf,
}

impl Inspect {
    pub(crate) fn run(self, context: &Context) -> anyhow::Result<()> {
        let shown = self.file.display();
        let missing = |e| Failure::new(Exit::NoSuchImage, format!("cannot read {shown}: {e}"));
        self.file.metadata().map_err(missing)?;
        if self.file.extension().is_some_and(|extension| extension == "torrent") {
            return describe(context.out, &read_torrent(&self.file)?, None);
        }
        let mut beside = self.file.clone().into_os_string();
        beside.push(".torrent");
        let beside = PathBuf::from(beside);
        if !beside.exists() {
            let words = format!("{shown} has no .torrent beside it, so there is nothing to check it against");
            return Err(Failure::new(Exit::NoSuchImage, words).into());
        }
        let metainfo = read_torrent(&beside)?;
        let bad = bad_pieces(context.out, &self.file, &metainfo)?;
        describe(context.out, &metainfo, Some(bad))?;
        if bad == 0 {
            return Ok(());
        }
        let words =
            format!("{shown} is damaged: {bad} of {} pieces differ from the torrent", metainfo.geometry().pieces());
        Err(Failure::new(Exit::Damaged, words).into())
    }
}

/// How many pieces of the image are not what the torrent says.
fn bad_pieces(out: Out, image: &Path, metainfo: &Metainfo) -> anyhow::Result<u32> {
    let file = File::open(image).with_context(|| format!("cannot read {}", image.display()))?;
    let size = file.metadata()?.len();
    let geometry = metainfo.geometry();
    if size != geometry.length() {
        out.note(&format!("the image has {size} bytes, its .torrent says {}", geometry.length()));
    }
    let job = Mutex::new((out.job(metainfo.name(), geometry.length()), 0));
    let progress = |done: u64| {
        // The threads report out of order; the bar goes one way.
        if let Ok(mut job) = job.lock()
            && job.1 < done
        {
            job.1 = done;
            job.0.set(done, "checking", &view::size(done));
        }
    };
    let good = hash::verify_file(&file, metainfo, &progress)?;
    if let Ok((job, _)) = job.into_inner() {
        job.clear();
    }
    // One more: what is behind the end belongs to no piece.
    let longer = u32::from(size > geometry.length());
    Ok(geometry.pieces() - good.count() + longer)
}

fn describe(out: Out, metainfo: &Metainfo, bad: Option<u32>) -> anyhow::Result<()> {
    let geometry = metainfo.geometry();
    out.json(&serde_json::json!({
        "name": metainfo.name(), "info_hash": metainfo.info_hash().to_string(), "size": geometry.length(),
        "piece_length": geometry.piece_length(), "pieces": geometry.pieces(), "private": metainfo.private(),
        "comment": metainfo.comment(), "trackers": metainfo.announce(), "bad_pieces": bad,
    }))?;
    let trackers: Vec<&str> = metainfo.announce().iter().flatten().map(String::as_str).collect();
    let lines = [
        ("name", metainfo.name().to_owned()),
        ("info hash", metainfo.info_hash().to_string()),
        ("size", format!("{} ({} bytes)", view::size(geometry.length()), geometry.length())),
        ("pieces", format!("{} of {} KiB", geometry.pieces(), geometry.piece_length() / 1024)),
        ("comment", metainfo.comment().unwrap_or("-").to_owned()),
        ("trackers", if trackers.is_empty() { "-".to_owned() } else { trackers.join(" ") }),
        ("private", if metainfo.private() { "yes" } else { "no" }.to_owned()),
        (
            "content",
            match bad {
                None => "not checked".to_owned(),
                Some(0) => "good, every piece".to_owned(),
                Some(bad) => format!("damaged, {bad} of {} pieces", metainfo.geometry().pieces()),
            },
        ),
    ];
    for (key, value) in lines {
        let shown: String = value.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
        for (n, line) in wrapped(&shown, width().saturating_sub(12).max(20)).iter().enumerate() {
            out.say(&format!("{:<10}  {line}", if n == 0 { key } else { "" }))?;
        }
    }
    Ok(())
}
