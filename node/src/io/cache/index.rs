//! What is remembered of verified images over a restart: path, size, time, info hash.
//!
//! Rule: an entry says "this file, unchanged, was verified against that torrent"; a missing or unreadable index only
//! costs time. Not here: what is done with it ([`super::keeper`]).

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use labmesh_proto::config::IMAGES_MAX;
use labmesh_proto::id::InfoHash;
use serde::{Deserialize, Serialize};

use super::Stamp;

/// Its name in the state folder.
const FILE: &str = "cache-index.json";
/// [`IMAGES_MAX`] entries with the longest paths.
const BYTES_MAX: u64 = (IMAGES_MAX * 8192) as u64;

/// One verified image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    path: PathBuf,
    stamp: Stamp,
    /// In hexadecimal, as people compare it.
    info_hash: String,
}

/// Everything that was verified, by path.
#[derive(Debug)]
pub(super) struct Index {
    file: PathBuf,
    entries: BTreeMap<PathBuf, (Stamp, InfoHash)>,
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
        let good = |e: Entry| Some((e.path, (e.stamp, e.info_hash.parse().ok()?)));
        Self { file, entries: entries.into_iter().take(IMAGES_MAX).filter_map(good).collect(), changed: false }
    }

    /// The torrent that this content was verified against.
    pub(super) fn verified(&self, path: &Path, stamp: Stamp) -> Option<InfoHash> {
        self.entries.get(path).filter(|(then, _)| *then == stamp).map(|(_, hash)| *hash)
    }

    /// Whether other content was verified under this path.
    pub(super) fn knew_other(&self, path: &Path, stamp: Stamp) -> bool {
        self.entries.get(path).is_some_and(|(then, _)| *then != stamp)
    }

    /// This content was verified.
    pub(super) fn put(&mut self, path: &Path, stamp: Stamp, info_hash: InfoHash) {
        self.changed |= self.entries.insert(path.to_owned(), (stamp, info_hash)) != Some((stamp, info_hash));
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
        let entry = |(path, (stamp, hash)): (&PathBuf, &(Stamp, InfoHash))| Entry {
            path: path.clone(),
            stamp: *stamp,
            info_hash: hash.to_string(),
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

    #[test]
    fn what_was_verified_is_known_after_a_restart_unless_it_changed() {
        let folder = tempfile::tempdir().unwrap();
        let (path, stamp) = (Path::new("/cache/a.img"), Stamp { size: 7, mtime_ns: 1 << 62 });
        let mut index = Index::load(folder.path());
        index.put(path, stamp, InfoHash([3; 20]));
        index.save();
        let index = Index::load(folder.path());
        assert_eq!(index.verified(path, stamp), Some(InfoHash([3; 20])));
        let other = Stamp { size: 8, ..stamp };
        assert_eq!((index.verified(path, other), index.knew_other(path, other)), (None, true));
    }

    #[test]
    fn a_damaged_index_is_an_empty_one() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(FILE), b"[{\"path\":").unwrap();
        assert!(Index::load(folder.path()).entries.is_empty());
    }
}
