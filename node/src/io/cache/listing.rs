//! Reads the image folders: which files are images, and what lies beside them.
//!
//! Rule: an image is a regular file of a known extension, or one that a torrent names ([`Listing::take_named`]), whose name is UTF-8, at most one folder deep, or a symbolic
//! link with an absolute target of that kind (`add --in-place`). Folders that are links are not followed, so nothing
//! leads out of the cache by accident. Not here: what is inside the files.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use labmesh_proto::config::{IMAGE_NAME_BYTES_MAX, IMAGES_MAX};

use super::{Folders, Stamp};

/// An image file as it lies there.
#[derive(Clone, Debug)]
pub(super) struct Found {
    /// Where.
    pub(super) path: PathBuf,
    /// Size and time.
    pub(super) stamp: Stamp,
    /// The file's number in its file system, which a rename keeps. It counts for that alone: some network file systems
    /// give another one at every mount.
    pub(super) inode: u64,
}

impl PartialEq for Found {
    fn eq(&self, other: &Self) -> bool {
        (&self.path, self.stamp) == (&other.path, other.stamp)
    }
}

/// All folders at one moment.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// Images that are not locked, by relative path.
    pub(super) images: BTreeMap<String, Found>,
    /// Relative paths of images that have `NAME.part.journal`.
    pub(super) parts: BTreeSet<String>,
    /// Torrents, by relative path without `.torrent`, also if they are inactive.
    pub(super) torrents: BTreeMap<String, Torrent>,
    /// The folders that were read, for the watcher.
    pub(super) folders: Vec<PathBuf>,
    /// What looks like an image and is none, with the reason.
    pub(super) skipped: BTreeMap<PathBuf, String>,
}

/// A `.torrent` file as it lies there.
#[derive(Clone, Debug)]
pub(super) struct Torrent {
    /// Where.
    pub(super) path: PathBuf,
    /// It is called `NAME.torrent.inactive`.
    pub(super) inactive: bool,
    /// The folder that the image's name is relative to.
    pub(super) root: PathBuf,
    /// It may be a person's wish: it lies in the cache or in the folder for torrents, and not in a library.
    pub(super) asks: bool,
}

/// A relative path of one or two ordinary parts, none of them hidden.
pub(super) fn checked_name(name: &str) -> Option<&Path> {
    let good = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.chars().any(char::is_control);
    let parts: Vec<&str> = name.split('/').collect();
    let fits = parts.len() <= 2 && name.len() <= IMAGE_NAME_BYTES_MAX && !name.contains('\\');
    (fits && parts.into_iter().all(good)).then_some(Path::new(name))
}

/// Reads every folder; the cache wins where a library has the same name.
///
/// # Errors
/// If the cache itself cannot be read for another reason than that it is gone.
pub(super) fn list(folders: &Folders) -> io::Result<Listing> {
    let mut listing = Listing::default();
    for root in std::iter::once(&folders.cache).chain(&folders.libraries) {
        match listing.read(folders, root, root, None) {
            Err(e) if *root == folders.cache && e.kind() != io::ErrorKind::NotFound => return Err(e),
            Err(e) => drop(listing.skipped.insert(root.clone(), e.to_string())),
            Ok(below) => {
                for name in below {
                    let folder = root.join(&name);
                    if folders.torrents.as_ref() == Some(&folder) {
                        continue;
                    }
                    if let Err(e) = listing.read(folders, root, &folder, Some(&name)) {
                        listing.skipped.insert(folder, e.to_string());
                    }
                }
            }
        }
    }
    if let Some(root) = &folders.torrents {
        let below = listing.read_torrents(folders, root, None);
        let below = below.and_then(|below| {
            below.iter().try_for_each(|name| listing.read_torrents(folders, &root.join(name), Some(name)).map(drop))
        });
        if let Err(e) = below {
            listing.skipped.insert(root.clone(), e.to_string());
        }
    }
    Ok(listing)
}

impl Listing {
    /// Reads one folder for torrents; the names of the folders in it.
    fn read_torrents(&mut self, folders: &Folders, folder: &Path, below: Option<&str>) -> io::Result<Vec<String>> {
        let mut names = BTreeSet::new();
        let mut inner = Vec::new();
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            match entry.file_name().into_string() {
                Ok(name) if name.starts_with('.') => {}
                Ok(name) if entry.file_type()?.is_dir() => inner.push(name),
                Ok(name) => drop(names.insert(name)),
                Err(_) => {}
            }
        }
        self.folders.push(folder.to_owned());
        self.take_torrents(&names, &folders.cache, true, folder, below);
        Ok(inner)
    }

    fn take_torrents(&mut self, names: &BTreeSet<String>, root: &Path, asks: bool, folder: &Path, below: Option<&str>) {
        for name in names {
            let inactive = name.strip_suffix(".torrent.inactive");
            let Some(stem) = inactive.or_else(|| name.strip_suffix(".torrent")) else { continue };
            // The marker of a torrent is no other torrent.
            let marks = inactive.is_some() && names.contains(&format!("{stem}.torrent"));
            if !marks && !names.contains(&format!("{stem}.lock")) && self.torrents.len() < IMAGES_MAX {
                let (path, root, inactive) = (folder.join(name), root.to_owned(), inactive.is_some());
                let torrent = Torrent { path, inactive, root, asks };
                if asks {
                    self.torrents.insert(relative(stem, below), torrent);
                } else {
                    self.torrents.entry(relative(stem, below)).or_insert(torrent);
                }
            }
        }
    }

    /// Reads one folder; the names of the folders in it.
    fn read(&mut self, folders: &Folders, root: &Path, folder: &Path, below: Option<&str>) -> io::Result<Vec<String>> {
        let mut names = BTreeSet::new();
        let mut inner = Vec::new();
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else {
                if folders.extensions.iter().any(|e| e.fits(&entry.file_name().to_string_lossy())) {
                    self.skipped.insert(entry.path(), "its name is not UTF-8".to_owned());
                }
                continue;
            };
            // Hidden files are nobody's images, among them our own unfinished copies.
            if name.starts_with('.') {
                continue;
            }
            if entry.file_type()?.is_dir() {
                inner.push(name);
            } else {
                names.insert(name);
            }
        }
        inner.sort_unstable();
        self.folders.push(folder.to_owned());
        self.take_torrents(&names, root, *root == folders.cache, folder, below);
        for name in &names {
            if let Some(image) = name.strip_suffix(".part.journal")
                && folder.starts_with(&folders.cache)
                && names.contains(&format!("{image}.part"))
            {
                self.parts.insert(relative(image, below));
            }
            if folders.extensions.iter().any(|e| e.fits(name)) && !names.contains(&format!("{name}.lock")) {
                self.take(folder.join(name), relative(name, below));
            }
        }
        Ok(inner)
    }

    /// Takes the file of that name below `root`, if there is one, for an image whatever it ends in: a torrent names it.
    pub(super) fn take_named(&mut self, root: &Path, name: &str) {
        let path = root.join(name);
        if !self.images.contains_key(name) && path.symlink_metadata().is_ok() {
            self.take(path, name.to_owned());
        }
    }

    fn take(&mut self, path: PathBuf, relative: String) {
        if self.images.contains_key(&relative) {
            self.skipped.insert(path, "another folder has an image of this name, which comes first".to_owned());
        } else if checked_name(&relative).is_none() {
            self.skipped.insert(path, "its name is too long or holds control characters or backslashes".to_owned());
        } else if self.images.len() >= IMAGES_MAX {
            self.skipped.insert(path, format!("a node offers at most {IMAGES_MAX} images"));
        } else {
            match found(&path) {
                Ok(Some(found)) => drop(self.images.insert(relative, found)),
                Ok(None) => {}
                Err(reason) => drop(self.skipped.insert(path, reason)),
            }
        }
    }
}

fn relative(name: &str, below: Option<&str>) -> String {
    below.map_or_else(|| name.to_owned(), |below| format!("{below}/{name}"))
}

/// An image as it lies there; `None` for an empty file, which is about to grow.
///
/// # Errors
/// If it cannot be one, in words.
pub(super) fn found(path: &Path) -> Result<Option<Found>, String> {
    let link = path.symlink_metadata().map_err(|e| e.to_string())?;
    if link.is_symlink() && !std::fs::read_link(path).is_ok_and(|target| target.is_absolute()) {
        return Err("it is a symbolic link without an absolute target".to_owned());
    }
    let metadata = path.metadata().map_err(|e| e.to_string())?;
    if !metadata.is_file() {
        return Err("it is not a regular file".to_owned());
    }
    use std::os::unix::fs::MetadataExt as _;
    let (path, stamp, inode) = (path.to_owned(), Stamp::of(&metadata), metadata.ino());
    Ok((metadata.len() > 0).then_some(Found { path, stamp, inode }))
}

/// Whether a change of this file can matter: not our temporary files, not the blocks of a partial copy.
pub(super) fn matters(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    let extension = path.extension().and_then(OsStr::to_str).unwrap_or_default();
    !name.starts_with(b".") && !matches!(extension, "part" | "journal")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for good in ["a.img", "ou1/win 10.img", "\u{e1}ula/im\u{e1}gen.img", "a..b/c..img"] {
            assert!(checked_name(good).is_some(), "{good}");
        }
        for bad in ["", "/a.img", "../a.img", "a/../b.img", "a/b/c.img", "a//b", "a/", ".a.img", "a/.b.img", "a\nb.img"]
        {
            assert!(checked_name(bad).is_none(), "{bad}");
        }
        assert!(checked_name(&"a".repeat(IMAGE_NAME_BYTES_MAX + 1)).is_none());
    }
}
