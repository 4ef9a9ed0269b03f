//! What is remembered of images over a restart: path, size, time, inode, info hash.
//!
//! Rule: an entry says "this file, unchanged, was verified against that torrent", or "that torrent asked for it and it
//! is on its way"; a missing or unreadable index only costs time. Not here: what is done with it ([`super::keeper`]).

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use labmesh_proto::config::IMAGES_MAX;
use labmesh_proto::id::InfoHash;
use serde::{Deserialize, Serialize};

use super::Stamp;
use super::listing::Found;

/// Its name in the state folder.
const FILE: &str = "cache-index.json";
/// [`IMAGES_MAX`] entries with the longest paths.
const BYTES_MAX: u64 = (IMAGES_MAX * 8192) as u64;

/// One verified image, or one that a torrent of others asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    path: PathBuf,
    /// Size 0: it is on its way.
    stamp: Stamp,
    #[serde(default)]
    inode: u64,
    /// In hexadecimal, as people compare it.
    info_hash: String,
    /// Of the torrent, as it was then.
    #[serde(default)]
    torrent: Option<Stamp>,
}

/// What is remembered of one path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Memory {
    stamp: Stamp,
    inode: u64,
    info_hash: InfoHash,
    torrent: Option<Stamp>,
}

/// Everything that was verified or wished for, by path.
#[derive(Debug)]
pub(super) struct Index {
    file: PathBuf,
    entries: BTreeMap<PathBuf, Memory>,
    changed: bool,
}

impl Index {
    /// Reads the index, or begins an empty one.
    pub(super) fn load(state: &Path) -> Self {
        let file = state.join(FILE);
        let entries = read(&file).unwrap_or_else(|e| {
            if e.kind() != io::ErrorKind::NotFound {
                tracing::warn!("cannot use {}: {e}; images are verified again", file.display());
            }
            Vec::new()
        });
        let good = |e: Entry| {
            let info_hash = e.info_hash.parse().ok()?;
            Some((e.path, Memory { stamp: e.stamp, inode: e.inode, info_hash, torrent: e.torrent }))
        };
        Self { file, entries: entries.into_iter().take(IMAGES_MAX).filter_map(good).collect(), changed: false }
    }

    /// The torrent that this content was verified against: under this path, or under another that it was renamed from.
    pub(super) fn verified(&self, found: &Found) -> Option<InfoHash> {
        let here = self.entries.get(&found.path).filter(|then| then.stamp == found.stamp);
        let same = |then: &&Memory| then.stamp == found.stamp && then.inode == found.inode && then.inode != 0;
        here.or_else(|| self.entries.values().find(same)).map(|then| then.info_hash)
    }

    /// What other content was verified under this path.
    pub(super) fn knew_other(&self, found: &Found) -> Option<InfoHash> {
        let then = self.entries.get(&found.path)?;
        (then.stamp.size > 0 && then.stamp != found.stamp).then_some(then.info_hash)
    }

    /// Whether an image was whole here that this very torrent asks for: then a person has removed it.
    pub(super) fn was_removed(&self, path: &Path, info_hash: InfoHash, torrent: Stamp) -> bool {
        let same = |then: &Memory| then.stamp.size > 0 && (then.info_hash, then.torrent) == (info_hash, Some(torrent));
        self.entries.get(path).is_some_and(same)
    }

    /// Whether a torrent had asked for this image.
    pub(super) fn was_wished(&self, path: &Path, info_hash: InfoHash) -> bool {
        self.entries.get(path).is_some_and(|then| then.stamp.size == 0 && then.info_hash == info_hash)
    }

    /// This content was verified.
    pub(super) fn put(&mut self, found: &Found, info_hash: InfoHash, torrent: Option<Stamp>) {
        self.set(&found.path, Memory { stamp: found.stamp, inode: found.inode, info_hash, torrent });
    }

    /// This image is on its way because a torrent asks for it.
    pub(super) fn wish(&mut self, path: &Path, info_hash: InfoHash, torrent: Stamp) {
        let stamp = Stamp { size: 0, mtime_ns: 0 };
        self.set(path, Memory { stamp, inode: 0, info_hash, torrent: Some(torrent) });
    }

    fn set(&mut self, path: &Path, memory: Memory) {
        self.changed |= self.entries.insert(path.to_owned(), memory) != Some(memory);
    }

    /// Writes what changed; forgets files that are gone if there are more than fit.
    pub(super) fn save(&mut self) {
        if !self.changed {
            return;
        }
        if self.entries.len() > IMAGES_MAX {
            self.entries.retain(|path, _| path.exists());
        }
        self.changed = false;
        if let Err(e) = self.write() {
            tracing::warn!("cannot write {}: {e}; images are verified again after a restart", self.file.display());
        }
    }

    fn write(&self) -> io::Result<()> {
        let entry = |(path, then): (&PathBuf, &Memory)| Entry {
            path: path.clone(),
            stamp: then.stamp,
            inode: then.inode,
            info_hash: then.info_hash.to_string(),
            torrent: then.torrent,
        };
        let entries: Vec<Entry> = self.entries.iter().map(entry).collect();
        let mut file = tempfile::NamedTempFile::new_in(self.file.parent().unwrap_or(Path::new("/")))?;
        serde_json::to_writer(io::BufWriter::new(file.as_file_mut()), &entries)?;
        file.flush()?;
        file.as_file().sync_all()?;
        file.persist(&self.file).map_err(|e| e.error)?;
        Ok(())
    }
}

fn read(file: &Path) -> io::Result<Vec<Entry>> {
    let mut text = String::new();
    File::open(file)?.take(BYTES_MAX).read_to_string(&mut text)?;
    serde_json::from_str(&text).map_err(io::Error::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: InfoHash = InfoHash([3; 20]);

    fn found(path: &str, size: u64, inode: u64) -> Found {
        Found { path: path.into(), stamp: Stamp { size, mtime_ns: 1 << 62 }, inode }
    }

    #[test]
    fn what_was_verified_is_known_after_a_restart_unless_it_changed() {
        let folder = tempfile::tempdir().unwrap();
        let mut index = Index::load(folder.path());
        index.put(&found("/cache/a.img", 7, 5), HASH, None);
        index.save();
        let index = Index::load(folder.path());
        assert_eq!(index.verified(&found("/cache/a.img", 7, 6)), Some(HASH), "mounted anew");
        let other = found("/cache/a.img", 8, 5);
        assert_eq!((index.verified(&other), index.knew_other(&other)), (None, Some(HASH)));
        assert_eq!(index.verified(&found("/cache/renamed.img", 7, 5)), Some(HASH));
        assert_eq!(index.verified(&found("/cache/another.img", 7, 6)), None);
    }

    #[test]
    fn a_wish_is_not_an_image_and_an_image_that_was_here_is_not_wished_for_again() {
        let folder = tempfile::tempdir().unwrap();
        let (path, torrent) = (Path::new("/cache/a.img"), Stamp { size: 100, mtime_ns: 1 });
        let mut index = Index::load(folder.path());
        index.wish(path, HASH, torrent);
        assert_eq!(index.knew_other(&found("/cache/a.img", 7, 5)), None);
        assert!(index.was_wished(path, HASH) && !index.was_removed(path, HASH, torrent));
        index.put(&found("/cache/a.img", 7, 5), HASH, Some(torrent));
        index.save();
        let index = Index::load(folder.path());
        assert!(!index.was_wished(path, HASH) && index.was_removed(path, HASH, torrent));
        assert!(!index.was_removed(path, HASH, Stamp { mtime_ns: 2, ..torrent }), "dropped anew");
    }

    #[test]
    fn a_damaged_index_is_an_empty_one() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(FILE), b"[{\"path\":").unwrap();
        assert!(Index::load(folder.path()).entries.is_empty());
    }
}
