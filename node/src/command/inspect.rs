//! `labmesh inspect`: what a `.torrent` says; whether an image is what its own says.

use std::path::PathBuf;

use labmesh_proto::wire::metainfo::Metainfo;

use super::torrent;
use crate::cli::Context;
use crate::config::wrapped;
use crate::io::cache::read_torrent;
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
        let checked = torrent::check(context.out, &self.file, &metainfo)?;
        // One more: what is behind the end belongs to no piece.
        let geometry = metainfo.geometry();
        let longer = self.file.metadata().map_err(missing)?.len() > geometry.length();
        let bad = geometry.pieces() - checked.good.count() + u32::from(longer);
        describe(context.out, &metainfo, Some(bad))?;
        if checked.is_good(&metainfo) {
            return Ok(());
        }
        let words = format!("{} (labmesh torrent verify names the pieces)", checked.damage(&self.file, &metainfo));
        Err(Failure::new(Exit::Damaged, words).into())
    }
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
        let shown = view::printable(&value);
        for (n, line) in wrapped(&shown, width().saturating_sub(12).max(20)).iter().enumerate() {
            out.say(&format!("{:<10}  {line}", if n == 0 { key } else { "" }))?;
        }
    }
    Ok(())
}
