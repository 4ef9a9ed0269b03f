//! One machine's disk: what outlives a crash, how long writing takes, and when nothing can be written.
//!
//! Rule: a piece is in the journal only once its write has ended and a sync after it; whatever was under way at a
//! crash is lost, and so is what was written since the last sync.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use labmesh_proto::bitfield::Bitfield;
use labmesh_proto::config::{Mode, SeedTime};
use labmesh_proto::error::DiskError;
use labmesh_proto::id::{Epoch, InfoHash, PieceIndex, Time};
use labmesh_proto::wire::metainfo::Metainfo;

/// Opening, renaming, syncing a small file.
const SMALL_WORK: Duration = Duration::from_millis(2);
/// From a write to the journal, as the binary has it.
const SYNC_EVERY: Duration = Duration::from_secs(1);

/// A copy, whole or not.
#[derive(Clone, Debug)]
pub struct Copy {
    /// Its torrent.
    pub metainfo: Arc<Metainfo>,
    /// The pieces that the journal vouches for.
    pub journal: Bitfield,
    /// Pieces that were written, and wait for the sync.
    pub recent: VecDeque<(Time, PieceIndex)>,
    /// Renamed and synced.
    pub complete: bool,
    /// As it was fetched.
    pub mode: Mode,
    /// As it was fetched.
    pub seed_time: Option<SeedTime>,
    /// `NAME.torrent.inactive` lies beside it.
    pub stopped: bool,
}

impl Copy {
    /// A copy of which this is here.
    pub fn new(metainfo: Arc<Metainfo>, complete: bool, mode: Mode, seed_time: Option<SeedTime>) -> Self {
        let pieces = metainfo.geometry().pieces();
        let journal = if complete { Bitfield::full(pieces) } else { Bitfield::empty(pieces) };
        Self { metainfo, journal, recent: VecDeque::new(), complete, mode, seed_time, stopped: false }
    }

    /// What was written a sync ago is in the journal now.
    fn sync(&mut self, now: Time) {
        while let Some((_, piece)) = self.recent.front().copied().filter(|(at, _)| *at + SYNC_EVERY <= now) {
            self.journal.set(piece);
            self.recent.pop_front();
        }
    }
}

/// What a machine keeps.
#[derive(Clone, Debug)]
pub struct Disk {
    /// Bytes a second, hashing included.
    speed: u64,
    /// What is left of the speed.
    percent: u32,
    /// What each write costs beside its bytes.
    seek: Duration,
    busy_until: Time,
    /// Free bytes at the start; `None`: enough for everything.
    space: Option<u64>,
    /// Nothing more can be written.
    pub full: bool,
    /// Nothing can be read or written.
    pub broken: bool,
    /// The highest epoch that was persisted.
    pub epoch: Epoch,
    /// By name and content; a name set aside has `.ant` behind it.
    pub copies: BTreeMap<(String, InfoHash), Copy>,
}

impl Disk {
    /// An empty disk of `speed` bytes a second.
    pub fn new(speed: u64, seek: Duration, space: Option<u64>) -> Self {
        let (full, broken, copies) = (false, false, BTreeMap::new());
        let (speed, busy_until) = (speed.max(1), Time::default());
        Self { speed, percent: 100, seek, busy_until, space, full, broken, epoch: Epoch::default(), copies }
    }

    /// From now on it has so many percent of its speed.
    pub fn slow_down(&mut self, percent: u32) {
        self.percent = percent.max(1);
    }

    /// When a write (and hash) of `bytes` that is asked for now has ended: one after the other.
    pub fn write(&mut self, now: Time, bytes: u64) -> Time {
        let took = u128::from(bytes) * 100_000_000_000 / (u128::from(self.speed) * u128::from(self.percent));
        let took = Duration::from_nanos(u64::try_from(took).unwrap_or(u64::MAX)) + self.seek;
        self.busy_until = self.busy_until.max(now) + took;
        self.busy_until
    }

    /// When a small piece of work that is asked for now has ended; it does not wait for the large ones.
    pub fn small(&self, now: Time) -> Time {
        now + SMALL_WORK
    }

    /// Why nothing can be read.
    pub fn unreadable(&self) -> Option<DiskError> {
        let (place, reason) = ("disk".to_owned(), "input/output error".to_owned());
        self.broken.then_some(DiskError::Io { place, reason })
    }

    /// Why so many bytes more cannot be written; 0: into space that is reserved, which a full disk has lost.
    pub fn unwritable(&self, bytes: u64) -> Option<DiskError> {
        let room = self.space.map_or(u64::MAX, |space| space.saturating_sub(self.used()));
        let missing = if self.full { bytes.max(1) } else { bytes.saturating_sub(room) };
        let full = (missing > 0).then(|| DiskError::NoSpace { missing, place: "disk".to_owned() });
        self.unreadable().or(full)
    }

    /// Space is reserved when an image is opened.
    fn used(&self) -> u64 {
        self.copies.values().map(|copy| copy.metainfo.geometry().length()).sum()
    }

    /// The copy of that content, under whichever name.
    pub fn copy(&self, info_hash: InfoHash) -> Option<&Copy> {
        self.copies.iter().find(|((_, hash), _)| *hash == info_hash).map(|(_, copy)| copy)
    }

    /// The same, to change it.
    pub fn copy_mut(&mut self, info_hash: InfoHash) -> Option<&mut Copy> {
        self.copies.iter_mut().find(|((_, hash), _)| *hash == info_hash).map(|(_, copy)| copy)
    }

    /// A verified piece has been written.
    pub fn book(&mut self, now: Time, info_hash: InfoHash, piece: PieceIndex) {
        if let Some(copy) = self.copy_mut(info_hash) {
            copy.sync(now);
            copy.recent.push_back((now, piece));
        }
    }

    /// What a crash leaves: what was written since the last sync is not vouched for.
    pub fn crash(&mut self, now: Time) {
        self.busy_until = now;
        for copy in self.copies.values_mut() {
            copy.sync(now);
            copy.recent.clear();
        }
    }

    /// The pieces that are here for a program that opens the file, which syncs it first.
    pub fn pieces(copy: &mut Copy) -> Bitfield {
        while let Some((_, piece)) = copy.recent.pop_front() {
            copy.journal.set(piece);
        }
        copy.journal.clone()
    }

    /// Sets every content of that name aside.
    pub fn set_aside(&mut self, name: &str) {
        for ((_, hash), copy) in self.take(name) {
            self.copies.insert((format!("{name}.ant"), hash), copy);
        }
    }

    /// Removes every content of that name.
    pub fn take(&mut self, name: &str) -> Vec<((String, InfoHash), Copy)> {
        let keys: Vec<_> = self.copies.keys().filter(|(own, _)| own == name).cloned().collect();
        keys.into_iter().filter_map(|key| self.copies.remove_entry(&key)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::metainfo;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn writes_wait_for_each_other() {
        let mut disk = Disk::new(1_000_000, Duration::ZERO, None);
        assert_eq!(disk.write(Time(0), 1_000_000), Time(SECOND));
        assert_eq!(disk.write(Time(SECOND / 2), 500_000), Time(3 * SECOND / 2));
        assert_eq!(disk.write(Time(9 * SECOND), 1_000), Time(9_001_000_000));
        disk.slow_down(10);
        assert_eq!(disk.write(Time(20 * SECOND), 1_000_000), Time(30 * SECOND));
    }

    #[test]
    fn a_crash_costs_what_was_not_synced_and_no_more() {
        let mut disk = Disk::new(1_000_000, Duration::ZERO, None);
        let image = metainfo(0, 2_000_000, None);
        let (hash, geometry) = (image.info_hash(), image.geometry());
        disk.copies.insert(("x".to_owned(), hash), Copy::new(image, false, Mode::Peer, None));
        disk.book(Time(0), hash, geometry.piece(0).unwrap());
        disk.book(Time(SECOND / 2), hash, geometry.piece(1).unwrap());
        disk.crash(Time(SECOND + 1));
        let found = Disk::pieces(disk.copy_mut(hash).unwrap());
        assert!(found.has(geometry.piece(0).unwrap()) && !found.has(geometry.piece(1).unwrap()));
    }

    #[test]
    fn a_disk_without_room_says_how_much_is_missing() {
        let mut disk = Disk::new(1_000_000, Duration::ZERO, Some(1000));
        assert_eq!(disk.unwritable(1000), None);
        assert!(matches!(disk.unwritable(1001), Some(DiskError::NoSpace { missing: 1, .. })));
        disk.full = true;
        assert!(matches!(disk.unwritable(0), Some(DiskError::NoSpace { missing: 1, .. })));
        disk.broken = true;
        assert!(matches!(disk.unwritable(1), Some(DiskError::Io { .. })));
    }
}
