//! Reads images: checks them against their torrents, or makes torrents for them.
//!
//! Rule: an image that fits its torrent is whole. One that does not fit: if the torrent is of other people's trackers,
//! it says what should be here, and the rest is fetched, unless not a piece of the image is right. Otherwise, and if
//! this torrent's own content was here before, the image is a new one and gets a new torrent if other content of that
//! name was known or it is newer than the torrent; else it is damaged and left alone.
//!
//! Not here: when an image is read ([`super::keeper`]), how bytes are hashed (`io/hash.rs`).

use std::fs::File;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender};

use anyhow::Context as _;
use labmesh_proto::announcer::is_foreign;
use labmesh_proto::bitfield::Bitfield;
use labmesh_proto::id::InfoHash;
use labmesh_proto::wire::metainfo::Metainfo;
use tokio::sync::watch;

use super::adding::Step;
use super::keeper::Message;
use super::listing::Found;
use super::sidecar::{self, Sidecars};
use crate::io::disk::make_partial;
use crate::io::hash;

/// The niceness of the summing helper: a tenth of what a thread of a transfer gets. Not less, since a program that is
/// killed closes its connections when its last thread has come to run, and until then it looks alive to the others: on two
/// busy cores 0.06 s at 10, but 0.7 to 1.2 s at 19 (measured), busy or asleep.
const SUMMING_NICE: i32 = 10;

/// What a helper was asked to look at.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) name: String,
    pub(super) found: Found,
}

/// What hashing led to.
#[derive(Debug)]
pub(super) struct Hashed {
    pub(super) asked: Asked,
    pub(super) outcome: Result<Outcome, String>,
}

/// What an image is.
#[derive(Debug)]
pub(super) enum Outcome {
    /// It is what this torrent says.
    Whole(Metainfo),
    /// It was part of what its torrent says, and is a partial copy now.
    Partial,
}

/// A job of the hashing helper.
pub(super) struct HashJob {
    pub(super) asked: Asked,
    pub(super) sidecars: Sidecars,
    /// Other content of that name that was verified.
    pub(super) other_known: Option<InfoHash>,
    /// Whether a torrent whose length fits is not simply believed.
    pub(super) check: bool,
    /// The mesh's host name.
    pub(super) host: String,
    /// What a new torrent names.
    pub(super) tracker: String,
    pub(super) progress: Option<Arc<watch::Sender<Step>>>,
}

/// The hashing helper.
pub(super) fn hash_all(jobs: &Receiver<HashJob>, done: &SyncSender<Message>) {
    for job in jobs {
        let outcome = hash_one(&job).map_err(|e| format!("{e:#}"));
        if done.send(Message::Hashed(Hashed { asked: job.asked, outcome })).is_err() {
            return;
        }
    }
}

fn hash_one(job: &HashJob) -> anyhow::Result<Outcome> {
    let Found { path, stamp, .. } = &job.asked.found;
    let progress = |done: u64| {
        if let Some(progress) = &job.progress {
            // The hashing threads report out of order; a bar goes one way.
            progress.send_if_modified(|step| {
                let further = step.what != "hashing" || step.done < done;
                if further {
                    *step = Step { what: "hashing".into(), done: done.min(stamp.size), total: stamp.size };
                }
                further
            });
        }
    };
    match job.sidecars.read_torrent() {
        Ok(Some((metainfo, torrent))) => {
            let fits = metainfo.geometry().length() == stamp.size;
            if fits && !job.check {
                return sums(job, metainfo).map(Outcome::Whole);
            }
            let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
            let good = hash::verify_file(&file, &metainfo, &progress)?;
            if fits && good.is_full() {
                return sums(job, metainfo).map(Outcome::Whole);
            }
            let foreign = is_foreign(&metainfo, &job.host);
            if foreign && job.other_known != Some(metainfo.info_hash()) {
                return complete_it(job, &metainfo, &good);
            }
            if job.other_known.is_none() && torrent.mtime_ns >= stamp.mtime_ns {
                anyhow::bail!(
                    "it is not what its .torrent says; the image is damaged, or the torrent is another image's \
                     (delete the .torrent to offer the image as it is)"
                );
            }
            tracing::info!(image = job.asked.name, "is newer than its .torrent, which is made again");
            if foreign {
                job.sidecars.set_torrent_aside().context("cannot set the old .torrent aside")?;
            }
        }
        Ok(None) => {}
        Err(e) => tracing::warn!(image = job.asked.name, "its .torrent is made again: {e}"),
    }
    let metainfo = sidecar::make_torrent(path, stamp.size, &progress)?;
    let bytes = metainfo.to_bytes(&[vec![job.tracker.clone()]], None);
    // What is published is what is read back.
    let written = Metainfo::parse(&bytes)?;
    anyhow::ensure!(written.info_hash() == metainfo.info_hash(), "the torrent that was written is another one");
    job.sidecars.write_torrent(&bytes).with_context(|| format!("cannot write {}", job.sidecars.torrent().display()))?;
    sums(job, written).map(Outcome::Whole)
}

/// What is good of an image becomes a partial copy, so that only the rest is fetched.
fn complete_it(job: &HashJob, metainfo: &Metainfo, good: &Bitfield) -> anyhow::Result<Outcome> {
    let Found { path, stamp, .. } = &job.asked.found;
    let length = metainfo.geometry().length();
    if !job.sidecars.is_ours() {
        anyhow::bail!("it is not what its .torrent says, and lies where nothing is written");
    }
    if good.count() == 0 || stamp.size > length {
        anyhow::bail!(
            "it is not what its .torrent says: {} of {} pieces are, and it has {} of {length} bytes (move it away to \
             fetch what the .torrent says, or delete the .torrent to offer the image as it is)",
            good.count(),
            good.pieces(),
            stamp.size,
        );
    }
    make_partial(path, metainfo, good)?;
    tracing::info!(
        image = job.asked.name,
        have = good.count(),
        pieces = good.pieces(),
        "is not whole: it is fetched on"
    );
    Ok(Outcome::Partial)
}

fn sums(job: &HashJob, metainfo: Metainfo) -> anyhow::Result<Metainfo> {
    if !job.sidecars.has_sums(job.asked.found.stamp)
        && let Err(e) = job.sidecars.write_sum()
    {
        tracing::warn!(image = job.asked.name, "has no .sum: {e}");
    }
    Ok(metainfo)
}

/// The summing helper, at low priority.
pub(super) fn sum_all(jobs: &Receiver<Asked>, done: &SyncSender<Message>) {
    // On Linux this is the niceness of the calling thread alone. Refused only where being nice is forbidden.
    let _ = rustix::process::setpriority_process(None, SUMMING_NICE);
    for asked in jobs {
        let sum = File::open(&asked.found.path).and_then(|file| hash::md5_of_file(&file, &|_| {}));
        if done.send(Message::Summed(asked, sum.map_err(|e| e.to_string()))).is_err() {
            return;
        }
    }
}
