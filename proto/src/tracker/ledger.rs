//! What of the book survives everybody's leaving: how often each image was completed, and what people call torrents
//! that no cache of ours holds.
//!
//! Rule: an entry outlives its swarm, a change of master and a restart. Strangers can use up half of it at most; when it
//! is full, the least counted entry without a name makes room for an image of ours. Not here: who is in a swarm.

use std::collections::BTreeMap;

use crate::config::CATALOGUE_IMAGES_MAX;
use crate::id::InfoHash;
use crate::wire::control::RegisteredName;

/// Names; the other half of the entries is for the counters of images.
const NAMES_MAX: usize = CATALOGUE_IMAGES_MAX / 2;

#[derive(Debug, Default)]
pub(super) struct Ledger {
    entries: BTreeMap<InfoHash, Entry>,
    /// Entries with a name.
    named: usize,
}

#[derive(Clone, Debug, Default)]
struct Entry {
    downloaded: u64,
    known: Option<(String, u64)>,
}

/// Who asks for an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whose {
    /// The catalogue has the image, or a person registered it.
    Ours,
    /// A client of an open tracker named it.
    Stranger,
}

impl Ledger {
    pub(super) fn downloaded(&self, info_hash: &InfoHash) -> u64 {
        self.entries.get(info_hash).map_or(0, |entry| entry.downloaded)
    }

    /// What a person called it, and its bytes.
    pub(super) fn known(&self, info_hash: &InfoHash) -> Option<(&str, u64)> {
        self.entries.get(info_hash)?.known.as_ref().map(|(name, size)| (name.as_str(), *size))
    }

    pub(super) fn named(&self) -> impl Iterator<Item = &InfoHash> {
        self.entries.iter().filter(|(_, entry)| entry.known.is_some()).map(|(hash, _)| hash)
    }

    /// One more copy was completed.
    pub(super) fn count(&mut self, info_hash: InfoHash, whose: Whose) {
        if let Some(entry) = self.entry(info_hash, whose) {
            entry.downloaded = entry.downloaded.saturating_add(1);
        }
    }

    /// It was completed at least so often, as somebody else knows; whether that is news.
    pub(super) fn raise(&mut self, info_hash: InfoHash, downloaded: u64, whose: Whose) -> bool {
        if downloaded <= self.downloaded(&info_hash) {
            return false;
        }
        let Some(entry) = self.entry(info_hash, whose) else { return false };
        entry.downloaded = downloaded;
        true
    }

    /// How many have a name, if there is no room for another.
    pub(super) fn is_full(&self) -> Option<usize> {
        (self.named >= NAMES_MAX).then_some(self.named)
    }

    /// A person gives it a name and a size; whether that is news, for which there was room.
    pub(super) fn register(&mut self, name: RegisteredName) -> bool {
        if self.is_full().is_some() && self.known(&name.info_hash).is_none() {
            return false;
        }
        let Some(entry) = self.entry(name.info_hash, Whose::Ours) else { return false };
        let known = Some((name.name, name.size));
        if entry.known == known {
            return false;
        }
        let first = entry.known.is_none();
        entry.known = known;
        self.named += usize::from(first);
        true
    }

    pub(super) fn counters(&self) -> impl Iterator<Item = (InfoHash, u64)> {
        self.entries.iter().filter(|(_, entry)| entry.downloaded > 0).map(|(hash, entry)| (*hash, entry.downloaded))
    }

    pub(super) fn names(&self) -> impl Iterator<Item = RegisteredName> {
        self.entries.iter().filter_map(|(hash, entry)| {
            let (name, size) = entry.known.clone()?;
            Some(RegisteredName { info_hash: *hash, name, size })
        })
    }

    fn entry(&mut self, info_hash: InfoHash, whose: Whose) -> Option<&mut Entry> {
        let limit = if whose == Whose::Ours { CATALOGUE_IMAGES_MAX } else { CATALOGUE_IMAGES_MAX / 2 };
        if self.entries.len() >= limit && !self.entries.contains_key(&info_hash) {
            if whose == Whose::Stranger {
                return None;
            }
            let unnamed = self.entries.iter().filter(|(_, entry)| entry.known.is_none());
            let least = unnamed.min_by_key(|(_, entry)| entry.downloaded).map(|(hash, _)| *hash)?;
            self.entries.remove(&least);
        }
        Some(self.entries.entry(info_hash).or_default())
    }
}
