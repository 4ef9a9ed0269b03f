//! What the tests of the parts under `io` share: an image that needs no disk, and a driver that only listens.

use std::collections::VecDeque;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use labmesh_proto::bitfield::Bitfield;
use labmesh_proto::config::{Mode, SeedTime};
use labmesh_proto::error::DiskError;
use labmesh_proto::id::{ImageIndex, PieceIndex};
use labmesh_proto::io::Input;
use labmesh_proto::wire::metainfo::Metainfo;
use sha1::{Digest, Sha1};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::buffers::{Buffer, Buffers};
use super::disk::Disk;
use super::{Event, Events};

/// Far more than anything here takes; only a failure waits for it.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);
pub(super) const IMAGE: ImageIndex = ImageIndex(0);
pub(super) const NAME: &str = "lab/test.img";

/// Some bytes and their torrent.
pub(crate) struct Sample {
    pub(crate) bytes: Vec<u8>,
    pub(crate) metainfo: Arc<Metainfo>,
}

pub(crate) fn sample(len: usize, piece_length: usize) -> Sample {
    let mut state = len as u64 | 1;
    let mut bytes = vec![0; len];
    for chunk in bytes.chunks_mut(8) {
        // xorshift64: nothing repeats, so a piece in the wrong place is seen.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        chunk.copy_from_slice(&state.to_le_bytes()[..chunk.len()]);
    }
    let hashes: Vec<u8> = bytes.chunks(piece_length).flat_map(|piece| Sha1::digest(piece).to_vec()).collect();
    let mut info = format!("d6:lengthi{len}e4:name8:test.img12:piece lengthi{piece_length}e6:pieces{}:", hashes.len());
    let mut info = std::mem::take(&mut info).into_bytes();
    info.extend_from_slice(&hashes);
    info.push(b'e');
    Sample { bytes, metainfo: Arc::new(Metainfo::from_info(info).unwrap()) }
}

impl Sample {
    pub(super) fn piece(&self, number: u32) -> PieceIndex {
        self.metainfo.geometry().piece(number).unwrap()
    }

    pub(super) fn piece_bytes(&self, piece: PieceIndex) -> &[u8] {
        let geometry = self.metainfo.geometry();
        &self.bytes[geometry.start(piece) as usize..][..geometry.piece_len(piece) as usize]
    }
}

/// The reports, and a runtime to wait for them.
pub(super) struct Listener {
    pub(super) runtime: Runtime,
    pub(super) events: mpsc::Receiver<Event>,
    /// Those that came together with the last one.
    pub(super) rest: VecDeque<Event>,
}

impl Listener {
    pub(super) fn new() -> (Self, Events) {
        let (sender, events) = mpsc::channel(64);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        (Self { runtime, events, rest: VecDeque::new() }, sender)
    }

    #[track_caller]
    pub(super) fn next(&mut self) -> Event {
        if let Some(event) = self.rest.pop_front() {
            return event;
        }
        let event = self.runtime.block_on(async { timeout(PATIENCE, self.events.recv()).await });
        match event.expect("something happens in time").expect("the parts still live") {
            Event::Together(events) => {
                self.rest = events.into();
                self.next()
            }
            event => event,
        }
    }
}

/// A disk on a folder, and who listens to it.
pub(super) struct Bench {
    pub(super) disk: Disk,
    pub(super) listener: Listener,
    pub(super) buffers: Buffers,
}

impl Bench {
    pub(super) fn on(cache: &Path) -> Self {
        let (listener, events) = Listener::new();
        let buffers = Buffers::new(16 << 20);
        let libraries = vec![cache.join("library")];
        let folders = super::disk::Folders { cache: cache.to_owned(), libraries, ..Default::default() };
        let disk = Disk::start(folders, buffers.clone(), events).unwrap();
        Self { disk, listener, buffers }
    }

    pub(super) fn open(&mut self, sample: &Sample, name: &str, complete: bool) -> Result<Bitfield, DiskError> {
        let (mode, seed_time) = (Mode::Seeder, Some(SeedTime::Enough));
        self.disk.open(IMAGE, name, Arc::clone(&sample.metainfo), complete, mode, seed_time);
        match self.report() {
            Input::Opened { image: IMAGE, result } => result,
            other => panic!("expected Opened, got {other:?}"),
        }
    }

    pub(super) fn fill(&self, bytes: &[u8]) -> Buffer {
        let mut buffer = self.listener.runtime.block_on(self.buffers.take(bytes.len()));
        buffer.copy_from_slice(bytes);
        buffer
    }

    /// Stores a piece in blocks of 16 KiB, the last ones first, and asks for its hash.
    pub(super) fn give(&mut self, sample: &Sample, piece: PieceIndex, bytes: &[u8]) {
        let mut blocks: Vec<_> = sample.metainfo.geometry().blocks(piece, 16 * 1024).collect();
        blocks.reverse();
        for block in blocks {
            let data = self.fill(&bytes[block.offset as usize..][..block.len as usize]);
            self.disk.store(IMAGE, block, data);
        }
        self.disk.verify(IMAGE, piece);
    }

    pub(super) fn verified(&mut self, sample: &Sample, number: u32) -> Result<bool, DiskError> {
        let piece = sample.piece(number);
        self.give(sample, piece, sample.piece_bytes(piece));
        match self.report() {
            Input::Verified { image: IMAGE, piece: done, result } if done == piece => result,
            other => panic!("expected Verified, got {other:?}"),
        }
    }

    pub(super) fn finish(&mut self) -> Result<(), DiskError> {
        self.disk.finish(IMAGE);
        match self.report() {
            Input::Finished { image: IMAGE, result } => result,
            other => panic!("expected Finished, got {other:?}"),
        }
    }

    #[track_caller]
    pub(super) fn report(&mut self) -> Input {
        match self.listener.next() {
            Event::OfImage { source, input } if !source.is_closed() => input,
            other => panic!("expected a report of the open image, got {other:?}"),
        }
    }

    /// As the program ends: everything is recorded.
    pub(super) fn end(self) {
        drop(self.listener.events);
        self.disk.end();
    }
}

/// A folder with the whole image.
pub(super) fn cache_with(sample: &Sample) -> TempDir {
    let cache = tempfile::tempdir().unwrap();
    fs::create_dir(cache.path().join("lab")).unwrap();
    fs::write(cache.path().join(NAME), &sample.bytes).unwrap();
    cache
}
