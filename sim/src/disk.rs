//! One machine's disk: what outlives a crash, and how long writing takes.
//!
//! Rule: a piece is in the journal only once its write has ended; whatever was under way at a crash is lost.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use labmesh_proto::bitfield::Bitfield;
use labmesh_proto::config::{Mode, SeedTime};
use labmesh_proto::id::{Epoch, InfoHash, PieceIndex, Time};
use labmesh_proto::wire::metainfo::Metainfo;

/// Opening, renaming, syncing a small file.
const SMALL_WORK: Duration = Duration::from_millis(2);

/// A copy, whole or not.
#[derive(Clone, Debug)]
pub struct Copy {
    /// Its torrent.
    pub metainfo: Arc<Metainfo>,
    /// The pieces that the journal vouches for.
    pub journal: Bitfield,
    /// Renamed and synced.
    pub complete: bool,
    /// As it was fetched.
    pub mode: Mode,
    /// As it was fetched.
    pub seed_time: Option<SeedTime>,
    /// `NAME.torrent.inactive` lies beside it.
    pub stopped: bool,
}

/// What a machine keeps.
#[derive(Clone, Debug)]
pub struct Disk {
    /// Bytes a second, hashing included.
    speed: u64,
    busy_until: Time,
    /// The highest epoch that was persisted.
    pub epoch: Epoch,
    /// By name and content; a name set aside has `.ant` behind it.
    pub copies: BTreeMap<(String, InfoHash), Copy>,
}

impl Disk {
    /// An empty disk of `speed` bytes a second.
    pub fn new(speed: u64) -> Self {
        Self { speed: speed.max(1), busy_until: Time::default(), epoch: Epoch::default(), copies: BTreeMap::new() }
    }

    /// When a write (and hash) of `bytes` that is asked for now has ended: one after the other.
    pub fn write(&mut self, now: Time, bytes: u64) -> Time {
        let took = u128::from(bytes) * 1_000_000_000 / u128::from(self.speed);
        self.busy_until = self.busy_until.max(now) + Duration::from_nanos(u64::try_from(took).unwrap_or(u64::MAX));
        self.busy_until
    }

    /// When a small piece of work that is asked for now has ended; it does not wait for the large ones.
    pub fn small(&self, now: Time) -> Time {
        now + SMALL_WORK
    }

    /// The copy of that content, under whichever name.
    pub fn copy_mut(&mut self, info_hash: InfoHash) -> Option<&mut Copy> {
        self.copies.iter_mut().find(|((_, hash), _)| *hash == info_hash).map(|(_, copy)| copy)
    }

    /// A verified piece has been written.
    pub fn book(&mut self, info_hash: InfoHash, piece: PieceIndex) {
        if let Some(copy) = self.copy_mut(info_hash) {
            copy.journal.set(piece);
        }
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

    #[test]
    fn writes_wait_for_each_other() {
        let mut disk = Disk::new(1_000_000);
        assert_eq!(disk.write(Time(0), 1_000_000), Time(1_000_000_000));
        assert_eq!(disk.write(Time(500_000_000), 500_000), Time(1_500_000_000));
        assert_eq!(disk.write(Time(9_000_000_000), 1_000), Time(9_001_000_000));
    }
}
