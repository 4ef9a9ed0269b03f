//! The records themselves: who has which image, by hash, by name and by the version of the last change.
//!
//! Rule: an image is listed while somebody has it, has a part of it, or a master publishes it. Everything that changes
//! is noted until [`Union::take_news`], net of what was undone.

use std::collections::{BTreeMap, BTreeSet};

use crate::config::{CATALOGUE_COPIES_MAX, CATALOGUE_IMAGES_MAX, IMAGE_NAME_BYTES_MAX, NODES_MAX};
use crate::id::{InfoHash, NodeId};
use crate::wire::control::{Copied, Holding, ImageRecord};

/// What one node has of one image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Copy {
    Nothing,
    Part,
    Whole,
}

impl Copy {
    pub(super) fn of(holding: Option<&Holding>) -> Self {
        holding.map_or(Self::Nothing, |h| if h.complete { Self::Whole } else { Self::Part })
    }
}

#[derive(Debug)]
struct Entry {
    /// Its holders are in order.
    record: ImageRecord,
    /// Nodes with a part, in order.
    parts: Vec<NodeId>,
    /// The version of the last change; 0 = none yet.
    changed: u64,
    /// The version since which each holder is known, 0 = from the next on; and that of the last change which was more
    /// than another copy.
    since: Vec<u64>,
    reshaped: u64,
    /// The next version is such a change.
    reshapes: bool,
    /// Some master lists it, whoever has it.
    published: bool,
}

impl Entry {
    fn is_held(&self) -> bool {
        !self.record.holders.is_empty() || !self.parts.is_empty()
    }
}

/// What was listed, and who had a whole copy, before the changes since the last look.
#[derive(Debug, Default)]
pub(super) struct News {
    pub(super) images: BTreeMap<InfoHash, bool>,
    pub(super) copies: BTreeMap<(InfoHash, NodeId), bool>,
}

#[derive(Debug, Default)]
pub(super) struct Union {
    entries: BTreeMap<InfoHash, Entry>,
    names: BTreeSet<(String, InfoHash)>,
    versions: BTreeMap<u64, InfoHash>,
    /// Entries in all lists of holders and parts.
    copies: usize,
    news: News,
}

impl Union {
    pub(super) fn get(&self, info_hash: &InfoHash) -> Option<&ImageRecord> {
        self.entries.get(info_hash).map(|entry| &entry.record)
    }

    /// By name, then by hash.
    pub(super) fn by_name(&self) -> impl Iterator<Item = &ImageRecord> {
        self.names.iter().filter_map(|(_, hash)| self.get(hash))
    }

    pub(super) fn named(&self, name: &str) -> Vec<InfoHash> {
        let from = (name.to_owned(), InfoHash::default());
        self.names.range(from..).take_while(|(n, _)| n == name).map(|(_, hash)| *hash).collect()
    }

    /// Records that changed after a version, oldest change first.
    pub(super) fn since(&self, version: u64) -> impl Iterator<Item = (u64, &ImageRecord)> {
        self.versions.range(version.saturating_add(1)..).filter_map(|(v, hash)| Some((*v, self.get(hash)?)))
    }

    pub(super) fn holds(&self, info_hash: &InfoHash, node: &NodeId) -> bool {
        self.get(info_hash).is_some_and(|record| record.holders.binary_search(node).is_ok())
    }

    pub(super) fn held_by(&self, node: &NodeId) -> impl Iterator<Item = &InfoHash> {
        self.entries.iter().filter(|(_, e)| e.record.holders.binary_search(node).is_ok()).map(|(hash, _)| hash)
    }

    pub(super) fn take_news(&mut self) -> News {
        std::mem::take(&mut self.news)
    }

    pub(super) fn all(&self) -> Vec<InfoHash> {
        self.entries.keys().copied().collect()
    }

    pub(super) fn stamp(&mut self, info_hash: &InfoHash, version: u64) {
        if let Some(entry) = self.entries.get_mut(info_hash) {
            self.versions.remove(&entry.changed);
            self.versions.insert(version, *info_hash);
            entry.changed = version;
            entry.since.iter_mut().filter(|since| **since == 0).for_each(|since| *since = version);
            if std::mem::take(&mut entry.reshapes) {
                entry.reshaped = version;
            }
        }
    }

    /// What changed of an image after a version, if that is only who has a copy of it too.
    pub(super) fn copied(&self, info_hash: &InfoHash, version: u64) -> Option<Copied> {
        let entry = self.entries.get(info_hash).filter(|entry| entry.reshaped <= version)?;
        let new = entry.record.holders.iter().zip(&entry.since).filter(|(_, since)| **since > version);
        let (holders, downloaded) = (new.map(|(node, _)| *node).collect(), entry.record.downloaded);
        Some(Copied { info_hash: *info_hash, holders, downloaded })
    }

    /// More copies of an image that is known, as a master publishes them.
    pub(super) fn add_copies(&mut self, copied: &Copied) {
        let Some(entry) = self.entries.get_mut(&copied.info_hash) else { return };
        entry.record.downloaded = copied.downloaded;
        for node in &copied.holders {
            self.set_copy(&copied.info_hash, *node, Copy::Whole);
        }
    }

    pub(super) fn forget_versions(&mut self) {
        self.versions.clear();
        for entry in self.entries.values_mut() {
            (entry.changed, entry.reshapes) = (0, true);
            entry.since.fill(0);
        }
    }

    fn touch(&mut self, info_hash: InfoHash) {
        let listed = self.entries.contains_key(&info_hash);
        self.news.images.entry(info_hash).or_insert(listed);
    }

    /// What one node has, all of it.
    pub(super) fn set_node(&mut self, node: NodeId, images: &[Holding]) {
        let held = |e: &Entry| e.record.holders.binary_search(&node).is_ok() || e.parts.binary_search(&node).is_ok();
        let before: Vec<InfoHash> = self.entries.iter().filter(|(_, e)| held(e)).map(|(hash, _)| *hash).collect();
        let now: BTreeSet<InfoHash> = images.iter().map(|i| i.info_hash).collect();
        for lost in before.iter().filter(|hash| !now.contains(hash)) {
            self.set_copy(lost, node, Copy::Nothing);
        }
        for image in images {
            self.begin(image);
            self.set_copy(&image.info_hash, node, Copy::of(Some(image)));
            self.rename_if_alone(node, image);
        }
    }

    fn begin(&mut self, image: &Holding) {
        let Holding { ref name, info_hash, size, piece_length, .. } = *image;
        let (name, holders, downloaded) = (name.clone(), Vec::new(), 0);
        if !self.entries.contains_key(&info_hash) {
            self.insert(ImageRecord { name, info_hash, size, piece_length, holders, downloaded }, false);
        }
    }

    /// Beyond [`CATALOGUE_IMAGES_MAX`] the newest is not listed.
    fn insert(&mut self, record: ImageRecord, published: bool) {
        if self.entries.len() < CATALOGUE_IMAGES_MAX && is_name(&record.name) {
            self.touch(record.info_hash);
            self.names.insert((record.name.clone(), record.info_hash));
            let since = vec![0; record.holders.len()];
            let (parts, changed, reshaped, reshapes) = (Vec::new(), 0, 0, true);
            let entry = Entry { record, parts, changed, since, reshaped, reshapes, published };
            self.entries.insert(entry.record.info_hash, entry);
        }
    }

    fn rename_if_alone(&mut self, node: NodeId, image: &Holding) {
        let Some(entry) = self.entries.get(&image.info_hash) else { return };
        if entry.record.holders.iter().chain(&entry.parts).all(|n| *n == node) {
            self.rename(image.info_hash, &image.name);
        }
    }

    fn rename(&mut self, info_hash: InfoHash, name: &str) {
        let other = |entry: &&mut Entry| is_name(name) && entry.record.name != name;
        if let Some(entry) = self.entries.get_mut(&info_hash).filter(other) {
            entry.reshapes = true;
            let old = std::mem::replace(&mut entry.record.name, name.to_owned());
            self.names.remove(&(old, info_hash));
            self.names.insert((name.to_owned(), info_hash));
            self.touch(info_hash);
        }
    }

    /// What one node has of one image. Beyond [`CATALOGUE_COPIES_MAX`] the newest copy is not listed.
    pub(super) fn set_copy(&mut self, info_hash: &InfoHash, node: NodeId, copy: Copy) {
        let Some(entry) = self.entries.get_mut(info_hash) else { return };
        let whole = entry.record.holders.binary_search(&node);
        let part = entry.parts.binary_search(&node);
        let full = self.copies >= CATALOGUE_COPIES_MAX && copy != Copy::Nothing && whole.is_err() && part.is_err();
        let same = (copy == Copy::Whole) == whole.is_ok() && (copy == Copy::Part) == part.is_ok();
        if same || full {
            self.drop_if_unheld(info_hash);
            return;
        }
        match (whole, copy == Copy::Whole) {
            (Ok(at), false) => {
                entry.record.holders.remove(at);
                entry.since.remove(at);
                entry.reshapes = true;
            }
            (Err(at), true) => {
                entry.record.holders.insert(at, node);
                entry.since.insert(at, 0);
            }
            _ => {}
        }
        match (part, copy == Copy::Part) {
            (Ok(at), false) => drop(entry.parts.remove(at)),
            (Err(at), true) => entry.parts.insert(at, node),
            _ => {}
        }
        self.copies += usize::from(copy != Copy::Nothing);
        self.copies -= usize::from(whole.is_ok() || part.is_ok());
        if whole.is_ok() || copy == Copy::Whole {
            self.news.copies.entry((*info_hash, node)).or_insert(whole.is_ok());
            self.touch(*info_hash);
        }
        self.drop_if_unheld(info_hash);
    }

    pub(super) fn forget_node(&mut self, node: NodeId) {
        self.set_node(node, &[]);
    }

    pub(super) fn count_downloads(&mut self, info_hash: &InfoHash, downloaded: u64) {
        if let Some(entry) = self.entries.get_mut(info_hash).filter(|entry| entry.record.downloaded < downloaded) {
            entry.record.downloaded = downloaded;
            self.touch(*info_hash);
        }
    }

    /// A record as a master publishes it. Of parts only those of `me` are known.
    pub(super) fn publish(&mut self, record: &ImageRecord, me: NodeId) {
        let info_hash = record.info_hash;
        if !self.entries.contains_key(&info_hash) {
            self.insert(ImageRecord { holders: Vec::new(), ..record.clone() }, true);
        }
        let Some(entry) = self.entries.get_mut(&info_hash) else { return };
        entry.published = true;
        entry.record.size = record.size;
        entry.record.piece_length = record.piece_length;
        entry.record.downloaded = record.downloaded;
        let holders: BTreeSet<NodeId> = record.holders.iter().take(NODES_MAX).copied().collect();
        let before = entry.record.holders.clone();
        for lost in before.into_iter().filter(|node| !holders.contains(node)) {
            self.set_copy(&info_hash, lost, Copy::Nothing);
        }
        for node in holders {
            self.set_copy(&info_hash, node, Copy::Whole);
        }
        self.rename(info_hash, &record.name);
        self.forget_parts(&info_hash, me);
    }

    fn forget_parts(&mut self, info_hash: &InfoHash, me: NodeId) {
        if let Some(entry) = self.entries.get_mut(info_hash) {
            let before = entry.parts.len();
            entry.parts.retain(|node| *node == me);
            self.copies -= before - entry.parts.len();
        }
    }

    /// Copies that another master knew, of nodes for which `unheard` holds.
    pub(super) fn remember(&mut self, record: &ImageRecord, unheard: impl Fn(&NodeId) -> bool) {
        let holders: Vec<NodeId> = record.holders.iter().take(NODES_MAX).filter(|n| unheard(n)).copied().collect();
        if !holders.is_empty() && !self.entries.contains_key(&record.info_hash) {
            self.insert(ImageRecord { holders: Vec::new(), ..record.clone() }, false);
        }
        for node in holders {
            self.set_copy(&record.info_hash, node, Copy::Whole);
        }
    }

    /// The master lists it no more: only what `me` has counts.
    pub(super) fn unpublish(&mut self, info_hash: &InfoHash, me: NodeId) {
        let Some(entry) = self.entries.get_mut(info_hash) else { return };
        entry.published = false;
        let others: Vec<NodeId> = entry.record.holders.iter().filter(|n| **n != me).copied().collect();
        for node in others {
            self.set_copy(info_hash, node, Copy::Nothing);
        }
        self.forget_parts(info_hash, me);
        self.drop_if_unheld(info_hash);
    }

    /// From now on this node publishes.
    pub(super) fn own(&mut self) {
        self.entries.values_mut().for_each(|entry| entry.published = false);
    }

    pub(super) fn drop_unheld(&mut self) {
        for info_hash in self.all() {
            self.drop_if_unheld(&info_hash);
        }
    }

    fn drop_if_unheld(&mut self, info_hash: &InfoHash) {
        let unheld = self.entries.get(info_hash).is_some_and(|entry| !entry.published && !entry.is_held());
        if unheld {
            self.touch(*info_hash);
            if let Some(entry) = self.entries.remove(info_hash) {
                self.names.remove(&(entry.record.name, *info_hash));
                self.versions.remove(&entry.changed);
            }
        }
    }
}

#[cfg(test)]
impl Union {
    /// The bookkeeping, and what it should be.
    pub(super) fn audit(&self) -> [(usize, usize); 2] {
        let copies = self.entries.values().map(|e| e.record.holders.len() + e.parts.len()).sum();
        [(self.copies, copies), (self.names.len(), self.entries.len())]
    }
}

fn is_name(name: &str) -> bool {
    (1..=IMAGE_NAME_BYTES_MAX).contains(&name.len())
}
