//! Hashes complete pieces, several at once, and writes the good ones.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use labmesh_proto::error::DiskError;
use labmesh_proto::id::{ImageIndex, PieceIndex};
use labmesh_proto::io::Input;
use rustix::io::{Errno, pwritev};
use tracing::{debug, error};

use super::clerk::{Job, SYNC_BYTES};
use super::{Events, Image};
use crate::io::Event;
use crate::io::buffers::{Buffer, Buffers};
use crate::io::hash::{LANES, sha1_of_pieces};
use crate::io::source::disk_error;

/// What one `pwritev` takes (`UIO_MAXIOV` of linux/uio.h).
const SLICES_MAX: usize = 1024;
/// Pieces are reported together until they are so many bytes: each report wakes the driver, and it every connection that
/// is told of the piece.
const REPORT_BYTES: usize = 8 * 1024 * 1024;
/// The same once they have taken so long to write: who is told of a piece of a slow disk does not wait for the next.
const REPORT_TIME: Duration = Duration::from_millis(10);
/// So long pieces are left to workers who are busy: they may be waiting for another image's disk.
const PATIENCE: Duration = Duration::from_millis(20);
/// Workers are behind when so many times their lanes wait. One time is what the next who is done takes.
const BEHIND: usize = 2;

/// A piece that waits for its hash.
#[derive(Debug)]
pub(super) struct Task {
    image: Arc<Image>,
    piece: PieceIndex,
    blocks: Vec<Buffer>,
    /// The blocks are the whole piece, each byte once.
    whole: bool,
}

impl Task {
    /// `blocks` by offset.
    pub(super) fn new(image: Arc<Image>, piece: PieceIndex, blocks: Vec<(u32, Buffer)>) -> Self {
        let mut end = 0;
        let mut whole = true;
        for (offset, data) in &blocks {
            whole &= *offset as usize == end;
            end += data.len();
        }
        whole &= end == image.metainfo.geometry().piece_len(piece) as usize;
        Self { image, piece, blocks: blocks.into_iter().map(|(_, data)| data).collect(), whole }
    }
}

/// Pieces that wait for a worker. Unbounded in itself: each holds its buffers, of which there are few.
#[derive(Debug)]
pub(super) struct Queue {
    state: Mutex<Waiting>,
    changed: Condvar,
    buffers: Buffers,
}

#[derive(Debug, Default)]
struct Waiting {
    tasks: VecDeque<Task>,
    /// Workers that have taken pieces and are not done with them.
    working: usize,
    ended: bool,
}

impl Waiting {
    /// Whether one more worker should take some at once. Fewer than fill its lanes are left to those who are at work: a
    /// piece costs half as much among others.
    fn are_enough(&self) -> bool {
        self.tasks.len() >= if self.working == 0 { 1 } else { *LANES }
    }
}

impl Queue {
    /// `buffers`: told when the workers are behind.
    pub(super) fn new(buffers: Buffers) -> Self {
        Self { state: Mutex::default(), changed: Condvar::new(), buffers }
    }

    pub(super) fn push(&self, task: Task) {
        let mut state = self.state();
        state.tasks.push_back(task);
        // One more worker watches over the first, in case those at work do not come for it.
        if state.tasks.len() == 1 || state.are_enough() {
            self.changed.notify_one();
        }
        if state.tasks.len() == BEHIND * *LANES {
            self.buffers.set_behind(true);
        }
    }

    /// What is waiting is still handed out.
    pub(super) fn end(&self) {
        self.state().ended = true;
        self.changed.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, Waiting> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Up to [`LANES`] pieces; none once the queue has ended. Who gets some is followed by [`Queue::done`].
    fn take(&self) -> Vec<Task> {
        let mut state = self.state();
        while !state.are_enough() && !state.ended {
            if state.tasks.is_empty() {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let waited = self.changed.wait_timeout(state, PATIENCE).unwrap_or_else(PoisonError::into_inner);
            state = waited.0;
            if waited.1.timed_out() && !state.tasks.is_empty() {
                break;
            }
        }
        let number = state.tasks.len().min(*LANES);
        state.working += usize::from(number > 0);
        let tasks = state.tasks.drain(..number).collect();
        if !state.tasks.is_empty() {
            self.changed.notify_one();
        }
        if state.tasks.len() < BEHIND * *LANES {
            self.buffers.set_behind(false);
        }
        tasks
    }

    /// Who is done takes what has come meanwhile.
    fn done(&self) {
        self.state().working -= 1;
    }
}

/// The life of one worker.
pub(super) fn work(queue: &Queue, clerk: &Sender<Job>, events: &Events) {
    loop {
        let mut tasks = queue.take();
        if tasks.is_empty() {
            break;
        }
        // Nobody waits for them any more, and their file may be another's.
        tasks.retain(|task| !task.image.source.is_closed());
        let pieces: Vec<_> = tasks.iter().map(|task| &task.blocks[..]).collect();
        let hashes = sha1_of_pieces(&pieces);
        let mut reports = Reports { events, image: None, waiting: Vec::new(), bytes: 0, since: Instant::now() };
        for (task, hash) in tasks.into_iter().zip(hashes) {
            let bytes = task.blocks.iter().map(|block| block.len()).sum();
            reports.before_writing_to(task.image.source.image());
            reports.add(finish(task, hash, clerk), bytes);
        }
        reports.send();
        queue.done();
    }
}

/// What is to be reported together.
struct Reports<'a> {
    events: &'a Events,
    /// Whose pieces it is about.
    image: Option<ImageIndex>,
    waiting: Vec<Event>,
    /// Of the pieces that it is about.
    bytes: usize,
    /// When the first of them was begun to be written.
    since: Instant,
}

impl Reports<'_> {
    /// The disk of another image may take its time.
    fn before_writing_to(&mut self, image: ImageIndex) {
        if self.image.replace(image) != Some(image) {
            self.send();
        }
    }

    fn add(&mut self, report: Event, bytes: usize) {
        self.waiting.push(report);
        self.bytes += bytes;
        if self.bytes >= REPORT_BYTES || self.since.elapsed() >= REPORT_TIME {
            self.send();
        }
    }

    fn send(&mut self) {
        if !self.waiting.is_empty() {
            // A driver that has ended is nobody to tell.
            let _ = self.events.blocking_send(Event::together(std::mem::take(&mut self.waiting)));
        }
        (self.bytes, self.since) = (0, Instant::now());
    }
}

/// Writes a piece if it is good; the report of it.
fn finish(task: Task, hash: [u8; 20], clerk: &Sender<Job>) -> Event {
    let Task { image, piece, blocks, whole } = task;
    let result = if !whole {
        error!(piece = piece.get(), "asked to verify a piece that is not whole");
        Ok(false)
    } else if hash != *image.metainfo.hash(piece) {
        debug!(piece = piece.get(), place = %image.place.image().display(), "wrong hash");
        Ok(false)
    } else {
        write(&image, piece, &blocks, clerk).map(|()| true)
    };
    image.source.event(Input::Verified { image: image.source.image(), piece, result })
}

fn write(image: &Image, piece: PieceIndex, blocks: &[Buffer], clerk: &Sender<Job>) -> Result<(), DiskError> {
    let part = image.place.part();
    let not_open = || disk_error(&part, &io::Error::other("it is not open for writing"));
    let file = image.source.file().ok_or_else(not_open)?;
    let geometry = image.metainfo.geometry();
    let len = u64::from(geometry.piece_len(piece));
    let turn = image.writing.lock().unwrap_or_else(PoisonError::into_inner);
    let written = write_all(file, blocks, geometry.start(piece));
    drop(turn);
    written.map_err(|e| image.place.trouble(Path::new(&part), &e, len))?;
    let mut state = image.written();
    let before = state.bytes;
    state.pieces.push(piece);
    state.bytes += len;
    if before < SYNC_BYTES && state.bytes >= SYNC_BYTES {
        let _ = clerk.send(Job::Sync);
    }
    Ok(())
}

/// One positioned write of all buffers, as far as the system lets it be one.
fn write_all(file: &std::fs::File, blocks: &[Buffer], mut at: u64) -> io::Result<()> {
    let mut slices: Vec<_> = blocks.iter().map(|block| IoSlice::new(block)).collect();
    let mut rest = &mut slices[..];
    while !rest.is_empty() {
        let now = rest.len().min(SLICES_MAX);
        match pwritev(file, &rest[..now], at) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => {
                at += n as u64;
                IoSlice::advance_slices(&mut rest, n);
            }
            Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::io::disk::place::Place;
    use crate::io::source::Source;
    use crate::io::testing::sample;

    /// Makes tasks that are all about one piece.
    fn tasks() -> impl Fn() -> Task {
        let sample = sample(2 * 65536, 65536);
        let place = Place::new(Path::new("nowhere"), "a.img");
        let source = Source::new(ImageIndex(0), sample.metainfo.geometry(), place.image().to_owned());
        let (metainfo, piece) = (Arc::clone(&sample.metainfo), sample.piece(0));
        let image = Arc::new(Image { source, metainfo, place, written: Mutex::default(), writing: Mutex::default() });
        move || Task { image: Arc::clone(&image), piece, blocks: Vec::new(), whole: false }
    }

    /// Its worker may be waiting for the disk of another image.
    #[test]
    fn pieces_that_are_left_to_a_busy_worker_do_not_wait_for_it_for_long() {
        let task = tasks();
        let queue = Queue::new(Buffers::new(1 << 20));
        queue.push(task());
        assert_eq!(queue.take().len(), 1, "nobody is at work");
        thread::scope(|scope| {
            let other = scope.spawn(|| queue.take().len());
            queue.push(task());
            assert_eq!(other.join().unwrap(), 1, "the first is never done");
            let ended = scope.spawn(|| queue.take().len());
            queue.end();
            assert_eq!(ended.join().unwrap(), 0);
        });
    }

    #[test]
    fn workers_are_behind_from_twice_their_lanes_on_until_one_takes_some() {
        let (task, buffers) = (tasks(), Buffers::new(1 << 20));
        let queue = Queue::new(buffers.clone());
        (1..BEHIND * *LANES).for_each(|_| queue.push(task()));
        assert!(!buffers.is_behind());
        queue.push(task());
        assert!(buffers.is_behind());
        assert_eq!(queue.take().len(), *LANES);
        assert!(!buffers.is_behind());
    }
}
