//! The files of images: open, gather blocks into pieces, hash and write them, vouch for them, give the whole its name.
//!
//! Rule: nothing here waits on the driver's thread, and a piece is written once, after its hash was found good, from
//! the buffers that it was received into. It is recorded in the journal only after a sync, so the journal is never
//! ahead of the disk.
//!
//! Threads: a worker per core hashes and writes (`worker`); one clerk opens, syncs, records, finishes and closes
//! (`clerk`). Bound: what waits for a worker lives in [`super::buffers`], which is a fixed amount.
//!
//! Not here: which piece is wanted (`proto`), sending (`peers`), finding images in the cache (`cache`).

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::{self, JoinHandle};

use labmesh_proto::config::{Mode, SeedTime};
use labmesh_proto::id::{Block, ImageIndex, PieceIndex};
use labmesh_proto::wire::metainfo::Metainfo;

use super::Events;
use super::buffers::{Buffer, Buffers};
use super::ownership::Ownership;
use super::source::Source;

mod clerk;
mod doubt;
mod journal;
mod place;
mod repair;
mod worker;

use clerk::{Change, Clerk, Job, Open};
pub use journal::{BadJournal, Journal, parse_journal, read_journal};
use place::Place;
pub use repair::make_partial;
use worker::{Queue, Task};

/// Where files are looked for, and made.
#[derive(Clone, Debug, Default)]
pub struct Folders {
    /// Where copies are made.
    pub cache: PathBuf,
    /// Only read.
    pub libraries: Vec<PathBuf>,
    /// Where `.torrent` files are kept, if not beside their images.
    pub torrents: Option<PathBuf>,
    /// Whose the copies are.
    pub ownership: Ownership,
}

/// The driver's side. One method per `Output` that concerns a file; none of them waits.
#[derive(Debug)]
pub struct Disk {
    folders: Folders,
    images: Vec<Option<Gathering>>,
    queue: Arc<Queue>,
    clerk: mpsc::Sender<Job>,
    threads: Vec<JoinHandle<()>>,
    events: Events,
}

/// An open image and the pieces of it that are not complete.
#[derive(Debug)]
struct Gathering {
    image: Arc<Image>,
    pieces: BTreeMap<PieceIndex, Vec<(u32, Buffer)>>,
}

/// What workers and clerk know of one opening of an image.
#[derive(Debug)]
struct Image {
    source: Source,
    metainfo: Arc<Metainfo>,
    place: Place,
    /// Written since the last sync.
    written: Mutex<Written>,
    /// Held by who writes. The kernel lets only one write at a time too, but who waits for it spins.
    writing: Mutex<()>,
}

#[derive(Debug, Default)]
struct Written {
    pieces: Vec<PieceIndex>,
    bytes: u64,
}

impl Image {
    fn written(&self) -> std::sync::MutexGuard<'_, Written> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Disk {
    /// Starts the threads.
    ///
    /// # Errors
    /// If no thread can be started.
    pub fn start(folders: Folders, buffers: Buffers, events: Events) -> io::Result<Self> {
        let queue = Arc::new(Queue::new(buffers.clone()));
        let (clerk, jobs) = mpsc::channel();
        let mut threads = Vec::new();
        let cores = thread::available_parallelism().map_or(1, usize::from);
        for n in 0..cores {
            let (queue, clerk, events) = (Arc::clone(&queue), clerk.clone(), events.clone());
            let work = move || worker::work(&queue, &clerk, &events);
            threads.push(thread::Builder::new().name(format!("disk-{n}")).spawn(work)?);
        }
        let keeper = Clerk::new(jobs, buffers, folders.ownership, events.clone());
        threads.push(thread::Builder::new().name("disk-clerk".into()).spawn(move || keeper.run())?);
        Ok(Self { folders, images: Vec::new(), queue, clerk, threads, events })
    }

    /// `Output::Open`; answered by `Input::Opened`. A complete copy is looked for in the cache, then in the
    /// libraries; a partial one is begun or resumed in the cache.
    pub fn open(
        &mut self,
        image: ImageIndex,
        name: &str,
        metainfo: Arc<Metainfo>,
        complete: bool,
        mode: Mode,
        seed_time: Option<SeedTime>,
    ) {
        self.close(image);
        let index = image.0 as usize;
        if self.images.len() <= index {
            self.images.resize_with(index + 1, || None);
        }
        let Folders { cache, libraries, torrents, .. } = &self.folders;
        let place = Place::new(cache, name).with_torrent_in(torrents.as_deref());
        let elsewhere = libraries.iter().map(|library| Place::new(library, name));
        let places: Vec<_> = std::iter::once(place.clone()).chain(elsewhere).collect();
        let source = Source::new(image, metainfo.geometry(), place.image().to_owned());
        let image = Arc::new(Image { source, metainfo, place, written: Mutex::default(), writing: Mutex::default() });
        self.images[index] = Some(Gathering { image: Arc::clone(&image), pieces: BTreeMap::new() });
        self.ask(Job::Open(Open { image, places, complete, mode, seed_time }));
    }

    /// What connections of that image send from; the file is in it once `Input::Opened` has come.
    pub fn source(&self, image: ImageIndex) -> Option<Source> {
        self.gathering(image).map(|g| g.image.source.clone())
    }

    /// `Output::Store`: keeps a received block as part of its piece.
    pub fn store(&mut self, image: ImageIndex, block: Block, data: Buffer) {
        debug_assert_eq!(block.len as usize, data.len(), "a block is as long as it says");
        let Some(gathering) = self.gathering_mut(image) else { return };
        let blocks = gathering.pieces.entry(block.piece).or_default();
        // In order nearly always: one peer is asked for the blocks of a piece one after the other.
        let at = blocks.partition_point(|(offset, _)| *offset < block.offset);
        match blocks.get_mut(at) {
            Some((offset, old)) if *offset == block.offset => *old = data,
            _ => blocks.insert(at, (block.offset, data)),
        }
    }

    /// A change of files that comes before everything that is asked after it.
    pub fn first(&self, change: impl FnOnce() + Send + 'static) {
        self.ask(Job::Change(Change(Box::new(change))));
    }

    /// `Output::Verify`: hashes the stored blocks of a piece and writes them if they are good; answered by
    /// `Input::Verified`.
    pub fn verify(&mut self, image: ImageIndex, piece: PieceIndex) {
        let Some(gathering) = self.gathering_mut(image) else { return };
        let blocks = gathering.pieces.remove(&piece).unwrap_or_default();
        let task = Task::new(Arc::clone(&gathering.image), piece, blocks);
        self.queue.push(task);
    }

    /// `Output::Discard`: forgets the stored blocks of a piece.
    pub fn discard(&mut self, image: ImageIndex, piece: PieceIndex) {
        if let Some(gathering) = self.gathering_mut(image) {
            gathering.pieces.remove(&piece);
        }
    }

    /// `Output::Finish`: syncs, writes `.torrent` and `.sum`, gives the copy its name; answered by `Input::Finished`.
    pub fn finish(&mut self, image: ImageIndex) {
        if let Some(gathering) = self.gathering(image) {
            self.ask(Job::Finish(Arc::clone(&gathering.image)));
        }
    }

    /// `Output::Remember`: a restart knows this mode and seed time.
    pub fn remember(&self, image: ImageIndex, mode: Mode, seed_time: Option<SeedTime>) {
        if let Some(gathering) = self.gathering(image) {
            self.ask(Job::Remember(Arc::clone(&gathering.image), mode, seed_time));
        }
    }

    /// `Output::CloseImage`. What a partial copy has is recorded; what is still reported about it carries a closed
    /// [`Source`].
    pub fn close(&mut self, image: ImageIndex) {
        let open = self.images.get_mut(image.0 as usize).and_then(Option::take);
        if let Some(Gathering { image, .. }) = open {
            image.source.close();
            self.ask(Job::Close(image));
        }
    }

    /// Ends the threads: what was handed over is written, synced and recorded. Waits for the disk, so this is for the
    /// end of the program.
    ///
    /// Call it after the receiver of the events is gone; reports would wait for it for ever.
    pub fn end(mut self) {
        debug_assert!(self.events.is_closed(), "nobody reads the reports any more");
        self.queue.end();
        let clerk = self.threads.pop();
        self.threads.drain(..).for_each(|worker| drop(worker.join()));
        self.ask(Job::End);
        if let Some(clerk) = clerk {
            let _ = clerk.join();
        }
    }

    fn ask(&self, job: Job) {
        // The clerk only ends with this side of the channel, or by a panic that its thread has printed.
        let _ = self.clerk.send(job);
    }

    fn gathering(&self, image: ImageIndex) -> Option<&Gathering> {
        self.images.get(image.0 as usize)?.as_ref()
    }

    fn gathering_mut(&mut self, image: ImageIndex) -> Option<&mut Gathering> {
        self.images.get_mut(image.0 as usize)?.as_mut()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.queue.end();
    }
}

#[cfg(test)]
mod tests;
