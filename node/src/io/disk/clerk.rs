//! Opens, syncs, records, finishes and closes: everything that may wait long for the disk but moves little.
//!
//! One thread for all images, so that a close and the open after it keep their order.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use labmesh_proto::bitfield::Bitfield;
use labmesh_proto::config::{Mode, SeedTime, TORRENT_BYTES_MAX};
use labmesh_proto::error::DiskError;
use labmesh_proto::io::Input;
use labmesh_proto::wire::metainfo::Metainfo;
use rustix::fs::{FlockOperation, flock};
use tracing::{debug, warn};

use super::doubt::good_in_doubt;
use super::journal::Keeper;
use super::place::{Place, remove};
use super::{Events, Image};
use crate::io::buffers::Buffers;
use crate::io::hash::md5_of_tail;
use crate::io::ownership::Ownership;
use crate::io::page_cache;
use crate::io::source::disk_error;

/// What a power cut may cost: what was written since the last sync, at most a second of it (`doubt` finds again what
/// came to the disk, or is still in memory because only the node was killed)...
const SYNC_EVERY: Duration = Duration::from_secs(1);
/// ... or this much: a fast disk writes it in a tenth of a second, a slow one does not fall further behind.
pub(super) const SYNC_BYTES: u64 = 256 << 20;

/// What the clerk is asked. Not bounded in itself: the driver asks a few things per image, and images are bounded.
#[derive(Debug)]
pub(super) enum Job {
    Open(Open),
    /// Much was written.
    Sync,
    /// The person wants it otherwise than when it was opened.
    Remember(Arc<Image>, Mode, Option<SeedTime>),
    Finish(Arc<Image>),
    Close(Arc<Image>),
    Change(Change),
    End,
}

/// Something else that is to be done to files, in its turn.
pub(super) struct Change(pub(super) Box<dyn FnOnce() + Send>);

impl std::fmt::Debug for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Change(..)")
    }
}

#[derive(Debug)]
pub(super) struct Open {
    pub(super) image: Arc<Image>,
    /// Where a whole copy may be; a partial one is in the first.
    pub(super) places: Vec<Place>,
    pub(super) complete: bool,
    pub(super) mode: Mode,
    pub(super) seed_time: Option<SeedTime>,
}

#[derive(Debug)]
pub(super) struct Clerk {
    jobs: Receiver<Job>,
    buffers: Buffers,
    ownership: Ownership,
    events: Events,
    /// The images with a partial copy.
    partial: Vec<Partial>,
    /// When the next sync is due, if there is a partial copy.
    due: Option<Instant>,
}

#[derive(Debug)]
struct Partial {
    image: Arc<Image>,
    journal: Keeper,
    in_memory: page_cache::Written,
}

impl Clerk {
    pub(super) fn new(jobs: Receiver<Job>, buffers: Buffers, ownership: Ownership, events: Events) -> Self {
        Self { jobs, buffers, ownership, events, partial: Vec::new(), due: None }
    }

    /// Until the driver's side is gone; what was written by then is recorded.
    pub(super) fn run(mut self) {
        loop {
            let wait = self.due.map_or(Duration::MAX, |due| due.saturating_duration_since(Instant::now()));
            match self.jobs.recv_timeout(wait) {
                Ok(Job::Open(open)) => self.open(open),
                Ok(Job::Sync) => self.due = Some(Instant::now()),
                Ok(Job::Remember(image, mode, seed_time)) => self.remember(&image, mode, seed_time),
                Ok(Job::Finish(image)) => self.finish(&image),
                Ok(Job::Close(image)) => self.close(&image),
                Ok(Job::Change(Change(change))) => change(),
                Err(RecvTimeoutError::Timeout) => {}
                Ok(Job::End) | Err(RecvTimeoutError::Disconnected) => break,
            }
            if self.due.is_some_and(|due| due <= Instant::now()) {
                self.sync();
            }
        }
        self.sync();
        self.partial.iter().for_each(Partial::unlock);
    }

    fn open(&mut self, open: Open) {
        let Open { image, places, complete, mode, seed_time } = open;
        let result = image.place.check().and_then(|()| {
            if complete {
                let file = open_whole(&image, &places)?;
                image.source.give(file);
                return Ok(Bitfield::full(image.metainfo.geometry().pieces()));
            }
            let (file, journal) = open_part(&image, mode, seed_time)?;
            let have = take_over(&image, &file, &journal);
            image.source.give(file);
            let in_memory = page_cache::Written::new(image.source.file().expect("it was given just now"));
            self.partial.push(Partial { image: Arc::clone(&image), journal, in_memory });
            self.due.get_or_insert_with(|| Instant::now() + SYNC_EVERY);
            Ok(have)
        });
        let report = Input::Opened { image: image.source.image(), result };
        image.source.report_blocking(&self.events, report);
    }

    fn sync(&mut self) {
        for partial in &mut self.partial {
            if let Err(error) = partial.sync() {
                // What the system failed to write is lost, also to later syncs: the transfer stops here.
                let image = partial.image.source.image();
                partial.image.source.report_blocking(&self.events, Input::ReadFailed { image, error });
            }
        }
        self.due = (!self.partial.is_empty()).then(|| Instant::now() + SYNC_EVERY);
    }

    fn remember(&mut self, image: &Arc<Image>, mode: Mode, seed_time: Option<SeedTime>) {
        // A copy that is whole, or could not be opened, has no journal.
        let Some(at) = self.find(image) else { return };
        if let Err(error) = self.partial[at].journal.remember(mode, seed_time) {
            // The transfer can go on as it is; the next record of pieces says whether the disk is broken.
            warn!(place = %image.place.journal().display(), %error, "a restart will know the former mode only");
        }
    }

    /// A copy that could not be finished stays as it is: it can be tried again, or closed and resumed.
    fn finish(&mut self, image: &Arc<Image>) {
        let not_open = || disk_error(&image.place.part(), &io::Error::other("it is not open for writing"));
        let ownership = self.ownership;
        let result = self.find(image).ok_or_else(not_open).and_then(|at| self.partial[at].finish(&ownership));
        match &result {
            Ok(()) => drop(self.forget(image)),
            Err(error) => warn!(place = %image.place.image().display(), %error, "cannot finish the copy"),
        }
        let report = Input::Finished { image: image.source.image(), result };
        image.source.report_blocking(&self.events, report);
    }

    fn close(&mut self, image: &Arc<Image>) {
        if let Some(mut partial) = self.forget(image) {
            if let Err(error) = partial.sync() {
                debug!(place = %image.place.part().display(), %error, "cannot record the last pieces");
            }
            partial.unlock();
        }
    }

    fn find(&self, image: &Arc<Image>) -> Option<usize> {
        self.partial.iter().position(|partial| Arc::ptr_eq(&partial.image, image))
    }

    fn forget(&mut self, image: &Arc<Image>) -> Option<Partial> {
        let partial = self.partial.swap_remove(self.find(image)?);
        if self.partial.is_empty() {
            self.due = None;
            self.buffers.trim();
        }
        Some(partial)
    }
}

impl Partial {
    /// Write, sync, then record: only the pieces that were written before the sync began.
    fn sync(&mut self) -> Result<(), DiskError> {
        let written = std::mem::take(&mut *self.image.written());
        if written.pieces.is_empty() {
            return Ok(());
        }
        let place = &self.image.place;
        let file = self.image.source.file().expect("a partial copy is open");
        file.sync_data().map_err(|e| place.trouble(&place.part(), &e, written.bytes))?;
        let geometry = self.image.metainfo.geometry();
        for piece in &written.pieces {
            self.in_memory.synced(file, geometry.start(*piece), u64::from(geometry.piece_len(*piece)));
        }
        self.journal.record(written.pieces).map_err(|e| place.trouble(&place.journal(), &e, 0))
    }

    /// The sidecars come before the name: whoever sees the name finds them.
    fn finish(&mut self, ownership: &Ownership) -> Result<(), DiskError> {
        self.sync()?;
        let place = &self.image.place;
        if !self.journal.journal.have.is_full() {
            return Err(disk_error(&place.part(), &io::Error::other("pieces of it were never written")));
        }
        let (metainfo, torrent) = (&self.image.metainfo, place.torrent());
        // One that a person put there stays as it is, trackers, dates and all.
        if !is_torrent_of(&torrent, metainfo) {
            place.write(&torrent, &metainfo.to_bytes(metainfo.announce(), metainfo.comment()), ownership)?;
        }
        let sum = md5_of_tail(self.file()).map_err(|e| disk_error(&place.part(), &e))?;
        place.write(&place.beside(".sum"), format!("{sum}\n").as_bytes(), ownership)?;
        ownership.give(self.file()).map_err(|e| disk_error(&place.part(), &e))?;
        place.complete()?;
        self.unlock();
        remove(&place.journal()).map_err(|e| disk_error(&place.journal(), &e))
    }

    fn file(&self) -> &File {
        self.image.source.file().expect("a partial copy is open")
    }

    /// Connections may keep the file open for longer than the lock should last.
    fn unlock(&self) {
        let _ = flock(self.file(), FlockOperation::Unlock);
    }
}

fn is_torrent_of(path: &Path, metainfo: &Metainfo) -> bool {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(TORRENT_BYTES_MAX as u64 + 1).read_to_end(&mut bytes));
    read.is_ok() && Metainfo::parse(&bytes).is_ok_and(|there| there.info_hash() == metainfo.info_hash())
}

fn open_whole(image: &Image, places: &[Place]) -> Result<File, DiskError> {
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for place in places {
        match File::open(place.image()).and_then(|file| file.metadata().map(|about| (file, about))) {
            Ok((file, about)) if about.is_file() && about.len() == image.metainfo.geometry().length() => {
                return Ok(file);
            }
            Ok(_) => return Err(DiskError::Changed { place: place.image().display().to_string() }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => last = e,
        }
    }
    Err(disk_error(image.place.image(), &last))
}

/// What the copy has: what its journal vouches for, and what else is good in it, which the next sync records.
fn take_over(image: &Image, file: &File, journal: &Keeper) -> Bitfield {
    let mut have = journal.journal.have.clone();
    let good = good_in_doubt(file, &image.metainfo, &have);
    if good.count() > 0 {
        debug!(pieces = good.count(), place = %image.place.part().display(), "found more than the journal vouches for");
    }
    let mut written = image.written();
    for piece in good.iter(image.metainfo.geometry()) {
        have.set(piece);
        written.pieces.push(piece);
        written.bytes += u64::from(image.metainfo.geometry().piece_len(piece));
    }
    have
}

/// Resumes what the journal vouches for, or begins anew.
fn open_part(image: &Image, mode: Mode, seed_time: Option<SeedTime>) -> Result<(File, Keeper), DiskError> {
    let place = &image.place;
    let length = image.metainfo.geometry().length();
    place.make_folder()?;
    place.must_be_free()?;
    if let Some(file) = place.open_part()? {
        let about = file.metadata().map_err(|e| disk_error(&place.part(), &e))?;
        match Keeper::resume(&place.journal()) {
            Ok(mut keeper)
                if about.is_file()
                    && about.len() == length
                    && keeper.journal.metainfo.info_hash() == image.metainfo.info_hash() =>
            {
                place.reserve(&file, length)?;
                keeper.remember(mode, seed_time).map_err(|e| place.trouble(&place.journal(), &e, 0))?;
                return Ok((file, keeper));
            }
            Ok(_) => debug!(place = %place.part().display(), "the partial copy is of something else"),
            Err(error) => debug!(place = %place.part().display(), %error, "the partial copy cannot be resumed"),
        }
    }
    let file = place.create_part()?;
    let journal = place.reserve(&file, length).and_then(|()| {
        Keeper::create(&place.journal(), &image.metainfo, mode, seed_time)
            .map_err(|e| place.trouble(&place.journal(), &e, 0))
    });
    match journal {
        Ok(journal) => Ok((file, journal)),
        Err(error) => {
            // Nothing is in it yet, so the little space that it took is given back.
            let _ = remove(&place.part());
            Err(error)
        }
    }
}
