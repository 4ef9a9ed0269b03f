//! `labmesh torrent verify`: whether a file is what its `.torrent` says, and a way to mend it.
//!
//! Rule: a file is only touched with `--repair` and if some piece of it is good, and then no good piece is lost: what
//! is damaged becomes a partial copy (`io::disk`), which `labmesh get` completes.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use labmesh_proto::bitfield::Bitfield;
use labmesh_proto::wire::metainfo::Metainfo;

use super::super::fetch;
use super::{is_url, place};
use crate::io::{disk, hash};
use crate::progress::{Out, SharedJob};
use crate::view::{self, Exit, Failure};

/// Runs of bad pieces that people are shown; `--json` has them all.
const RUNS_SHOWN: usize = 20;

/// Checks every piece of a file against its .torrent; exit code 6 says that it is damaged.
#[derive(Debug, clap::Args)]
pub struct Verify {
    /// The path or URL of a .torrent
    torrent: String,
    /// The file, if it does not lie beside the .torrent under its own name
    file: Option<PathBuf>,
    /// Make a damaged file a partial copy, FILE.part, of which `labmesh get` fetches only what is bad
    #[arg(long)]
    repair: bool,
}

/// How a file compares with its torrent.
#[derive(Debug)]
pub(in crate::command) struct Checked {
    pub(in crate::command) good: Bitfield,
    /// The file's size.
    size: u64,
    /// First and last of each run of bad pieces.
    runs: Vec<(u32, u32)>,
    bad_bytes: u64,
}

impl Checked {
    fn new(good: Bitfield, size: u64, metainfo: &Metainfo) -> Self {
        let geometry = metainfo.geometry();
        let mut runs: Vec<(u32, u32)> = Vec::new();
        let mut bad_bytes = 0;
        for piece in geometry.all().filter(|piece| !good.has(*piece)) {
            bad_bytes += u64::from(geometry.piece_len(piece));
            match runs.last_mut() {
                Some((_, last)) if *last + 1 == piece.get() => *last = piece.get(),
                _ => runs.push((piece.get(), piece.get())),
            }
        }
        Self { good, size, runs, bad_bytes }
    }

    /// The file is the image, whole and nothing else.
    pub(in crate::command) fn is_good(&self, metainfo: &Metainfo) -> bool {
        self.good.is_full() && self.size == metainfo.geometry().length()
    }

    /// What is wrong with the file.
    pub(in crate::command) fn damage(&self, file: &Path, metainfo: &Metainfo) -> String {
        let geometry = metainfo.geometry();
        let mut words = format!("{} is damaged", file.display());
        let bad = geometry.pieces() - self.good.count();
        if bad > 0 {
            let bytes = view::size(self.bad_bytes);
            words.push_str(&format!(": {bad} of {} pieces ({bytes}) differ from the torrent", geometry.pieces()));
        }
        match self.size.checked_sub(geometry.length()) {
            Some(0) => {}
            Some(more) => words.push_str(&format!("; it is {more} bytes longer than the torrent says")),
            None => words.push_str(&format!("; it is {} bytes shorter", geometry.length() - self.size)),
        }
        words
    }

    /// Which pieces are bad.
    fn pieces(&self) -> String {
        let run = |(first, last): &(u32, u32)| match first == last {
            true => first.to_string(),
            false => format!("{first}-{last}"),
        };
        let shown: Vec<String> = self.runs.iter().take(RUNS_SHOWN).map(run).collect();
        let more = self.runs.len().saturating_sub(RUNS_SHOWN);
        let more = if more > 0 { format!(" and {more} more runs (--json has them all)") } else { String::new() };
        format!("bad pieces, counted from 0: {}{more}", shown.join(", "))
    }
}

/// Compares every piece.
///
/// # Errors
/// If the file cannot be read.
pub(in crate::command) fn check(out: Out, file: &Path, metainfo: &Metainfo) -> anyhow::Result<Checked> {
    let missing = |e| Failure::new(Exit::NoSuchImage, format!("cannot read {}: {e}", file.display()));
    let opened = File::open(file).map_err(missing)?;
    let about = opened.metadata().map_err(missing)?;
    if !about.is_file() {
        return Err(Failure::new(Exit::Usage, format!("{} is no file", file.display())).into());
    }
    let job = SharedJob::new(out.job(metainfo.name(), metainfo.geometry().length()), "checking");
    let good = hash::verify_file(&opened, metainfo, &|done| job.reach(done));
    job.clear();
    let good = good.with_context(|| format!("cannot read {}", file.display()))?;
    Ok(Checked::new(good, about.len(), metainfo))
}

impl Verify {
    pub(super) async fn run(self, out: Out) -> anyhow::Result<()> {
        let bytes = fetch::torrent(&place(&self.torrent)).await?.unwrap_or_default();
        let metainfo = Metainfo::parse(&bytes)?;
        let file = match self.file {
            Some(file) => file,
            None if is_url(&self.torrent) => {
                return Err(Failure::new(Exit::Usage, "which file? verify URL FILE").into());
            }
            None => beside(Path::new(&self.torrent), metainfo.name())?,
        };
        let checked = check(out, &file, &metainfo)?;
        let pieces = metainfo.geometry().pieces();
        out.json(&serde_json::json!({
            "event": "verified", "file": file, "info_hash": metainfo.info_hash().to_string(), "pieces": pieces,
            "bad_pieces": pieces - checked.good.count(), "bad_bytes": checked.bad_bytes, "bad": checked.runs,
            "size": checked.size, "expected_size": metainfo.geometry().length(),
        }))?;
        if checked.is_good(&metainfo) {
            let size = view::size(checked.size);
            return Ok(out.say(&format!("{} is good: {pieces} pieces, {size}", file.display()))?);
        }
        if !checked.runs.is_empty() {
            out.say(&checked.pieces())?;
        }
        let damage = checked.damage(&file, &metainfo);
        if !self.repair {
            let words = format!("{damage} (--repair makes it a partial copy, of which labmesh get fetches the rest)");
            return Err(Failure::new(Exit::Damaged, words).into());
        }
        // Nothing would be saved, and it may be another file altogether.
        if checked.good.count() == 0 {
            let words =
                format!("{damage}; no piece is good, so it is left as it is (labmesh get fetches the image anew)");
            return Err(Failure::new(Exit::Damaged, words).into());
        }
        let part = disk::make_partial(&std::path::absolute(&file)?, &metainfo, &checked.good)
            .map_err(|e| Failure::from(&e))
            .with_context(|| format!("cannot repair {}", file.display()))?;
        out.json(&serde_json::json!({ "event": "partial", "path": part, "missing_bytes": checked.bad_bytes }))?;
        let todo = format!("it is the partial copy {} now; labmesh get completes it there", part.display());
        Err(Failure::new(Exit::Damaged, format!("{damage}; {todo}")).into())
    }
}

/// The file of a torrent that lies beside it: `NAME` for `NAME.torrent`, else by the name in the torrent.
fn beside(torrent: &Path, name: &str) -> Result<PathBuf, Failure> {
    let (named, told) = (torrent.with_extension(""), torrent.with_file_name(name));
    [&named, &told].into_iter().find(|file| file.is_file() && *file != torrent).cloned().ok_or_else(|| {
        let words = format!("neither {} nor {} is there; say which file", named.display(), told.display());
        Failure::new(Exit::NoSuchImage, words)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::testing::sample;

    #[test]
    fn bad_pieces_are_named_in_runs() {
        let sample = sample(20 * 16384 - 5, 16384);
        let geometry = sample.metainfo.geometry();
        let mut good = Bitfield::empty(20);
        geometry.all().filter(|p| ![3, 4, 5, 9, 19].contains(&p.get())).for_each(|p| assert!(good.set(p)));
        let checked = Checked::new(good, geometry.length() + 2, &sample.metainfo);
        assert_eq!(checked.pieces(), "bad pieces, counted from 0: 3-5, 9, 19");
        assert_eq!(checked.bad_bytes, 5 * 16384 - 5);
        let words = checked.damage(Path::new("x.img"), &sample.metainfo);
        let expected = "x.img is damaged: 5 of 20 pieces (81.9 kB) differ from the torrent; it is 2 bytes longer";
        assert!(words.starts_with(expected), "{words}");
        let long = Checked::new(Bitfield::full(20), geometry.length() + 2, &sample.metainfo);
        assert!(!long.is_good(&sample.metainfo) && long.runs.is_empty());
    }

    #[test]
    fn too_many_runs_are_counted() {
        let sample = sample(100 * 16384, 16384);
        let mut good = Bitfield::empty(100);
        sample.metainfo.geometry().all().filter(|p| p.get() % 2 == 0).for_each(|p| assert!(good.set(p)));
        let words = Checked::new(good, 100 * 16384, &sample.metainfo).pieces();
        assert!(words.ends_with("39 and 30 more runs (--json has them all)"), "{words}");
    }
}
