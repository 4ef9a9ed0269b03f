//! The files beside an image: `.torrent`, `.torrent.inactive`, `.sum`, `.full.sum`, `.lock`, `.ant`.
//!
//! Rule: a sidecar is written under a temporary name and renamed, so that nobody reads half of one; those of a
//! read-only library lie in the state folder. The names and contents are OpenGnsys': `.sum` is the MD5 of the last MiB,
//! `.full.sum` that of everything, both as 32 hexadecimal digits and a line end. Not here: when they are written
//! ([`super::keeper`]).

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use bip_metainfo::{Accessor, InfoBuilder, IntoAccessor, PieceAccess, PieceLength};
use labmesh_proto::config::TORRENT_BYTES_MAX;
use labmesh_proto::id::Geometry;
use labmesh_proto::wire::metainfo::{Metainfo, piece_length_for};
use sha1::Digest as _;

use super::{Folders, Stamp};
use crate::io::hash::{self, Progress};
use crate::io::ownership::Ownership;

/// One image and the places of what lies beside it.
#[derive(Clone, Debug)]
pub(super) struct Sidecars {
    image: PathBuf,
    /// What the sidecars' names begin with: the image's path, or a place in the state folder.
    base: PathBuf,
    /// The same for the torrent and its marker: `base`, or a place in the folder for torrents.
    torrent_base: PathBuf,
    /// A torrent of another name that asks for this image.
    other_torrent: Option<PathBuf>,
    ownership: Ownership,
    /// The image lies in a library.
    library: bool,
    /// The sub-folders of the image and of its torrent, if it lies in one.
    sub_folders: Vec<PathBuf>,
}

/// `path` with something after its name.
fn with(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

impl Sidecars {
    /// The places for an image of these folders.
    pub(super) fn of(folders: &Folders, image: &Path) -> Self {
        let library = !image.starts_with(&folders.cache);
        let base = if library {
            // A path as a file name: its SHA-1, which nobody has to read back.
            let digest = sha1::Sha1::digest(image.as_os_str().as_encoded_bytes());
            let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
            folders.state.join("library").join(hex)
        } else {
            image.to_owned()
        };
        let name = folders.name_of(image);
        let other_torrent = name.and_then(|name| folders.other_torrent(name));
        let kept = folders.torrents.as_ref().zip(name).map(|(torrents, name)| torrents.join(name));
        let torrent_base = kept.unwrap_or_else(|| base.clone());
        let ownership = folders.ownership;
        let is_below = !library && name.is_some_and(|name| name.contains('/'));
        let parents = [image, torrent_base.as_path()].into_iter().filter_map(Path::parent).filter(|_| is_below);
        let sub_folders = parents.map(Path::to_owned).collect();
        Self { image: image.to_owned(), base, torrent_base, other_torrent, ownership, library, sub_folders }
    }

    /// The torrent's own file.
    pub(super) fn torrent(&self) -> PathBuf {
        with(&self.torrent_base, ".torrent")
    }

    fn inactive(&self) -> PathBuf {
        with(&self.torrent_base, ".torrent.inactive")
    }

    /// Whether the image was told to stay out.
    pub(super) fn stopped(&self) -> bool {
        let renamed = self.other_torrent.as_ref().is_some_and(|path| path.extension() == Some("inactive".as_ref()));
        renamed || self.is_marked()
    }

    /// Whether there is a marker of the image's own name.
    pub(super) fn is_marked(&self) -> bool {
        self.inactive().exists()
    }

    /// The torrent file that counts: our place, else beside the image (a library's, or one that somebody put there),
    /// else the one of another name, else one that was made inactive by renaming it, as OpenGnsys' people do.
    pub(super) fn torrent_file(&self) -> Option<(PathBuf, Stamp)> {
        let beside = (self.torrent_base != self.image).then(|| with(&self.image, ".torrent"));
        let places = [Some(self.torrent()), beside, self.other_torrent.clone(), Some(self.inactive())];
        let there = |path: PathBuf| Stamp::of_torrent(&path).map(|stamp| (path, stamp));
        places.into_iter().flatten().find_map(there)
    }

    /// The image is a regular file that may be written to.
    pub(super) fn is_ours(&self) -> bool {
        !self.library && self.image.symlink_metadata().is_ok_and(|m| m.is_file())
    }

    /// The torrent of content that is no longer here becomes `*.ant`.
    pub(super) fn set_torrent_aside(&self) -> io::Result<()> {
        ignore_missing(fs::rename(self.torrent(), with(&self.torrent(), ".ant")))
    }

    /// Reads the torrent that counts.
    ///
    /// # Errors
    /// If it is not one, in words.
    pub(super) fn read_torrent(&self) -> Result<Option<(Metainfo, Stamp)>, String> {
        let Some((path, stamp)) = self.torrent_file() else { return Ok(None) };
        let metainfo = read_torrent(&path).map_err(|e| format!("{e:#}"))?;
        Ok(Some((metainfo, stamp)))
    }

    /// Writes the torrent.
    ///
    /// # Errors
    /// If the system refuses.
    pub(super) fn write_torrent(&self, bytes: &[u8]) -> io::Result<()> {
        self.write(&self.torrent(), bytes)
    }

    /// Writes `.sum`, the MD5 of the last MiB.
    ///
    /// # Errors
    /// If the image cannot be read or the system refuses.
    pub(super) fn write_sum(&self) -> io::Result<()> {
        let sum = hash::md5_of_tail(&File::open(&self.image)?)?;
        self.write(&with(&self.base, ".sum"), format!("{sum}\n").as_bytes())
    }

    /// Writes `.full.sum`.
    ///
    /// # Errors
    /// If the system refuses.
    pub(super) fn write_full_sum(&self, sum: &str) -> io::Result<()> {
        self.write(&with(&self.base, ".full.sum"), format!("{sum}\n").as_bytes())
    }

    /// Whether both sums are there and not older than the image.
    pub(super) fn has_sums(&self, image: Stamp) -> bool {
        [".sum", ".full.sum"].iter().all(|suffix| {
            let metadata = with(&self.base, suffix).metadata();
            metadata.is_ok_and(|m| m.len() >= 32 && Stamp::of(&m).mtime_ns >= image.mtime_ns)
        })
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let folder = path.parent().unwrap_or(Path::new("/"));
        if self.library || self.torrent_base != self.base {
            fs::create_dir_all(folder)?;
        }
        let mut file = tempfile::Builder::new().prefix(".labmesh-").tempfile_in(folder)?;
        file.write_all(bytes)?;
        self.ownership.give(file.as_file())?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|e| e.error)?;
        Ok(())
    }

    /// Image and sidecars become `*.ant`.
    pub(super) fn set_aside(&self) -> io::Result<()> {
        self.must_be_ours()?;
        if self.image.symlink_metadata().is_err() {
            return Ok(());
        }
        for path in [with(&self.image, ".sum"), with(&self.image, ".full.sum"), self.torrent()] {
            ignore_missing(fs::rename(&path, with(&path, ".ant")))?;
        }
        ignore_missing(fs::remove_file(self.inactive()))?;
        ignore_missing(fs::rename(&self.image, with(&self.image, ".ant")))
    }

    /// Image, partial copy and sidecars go, and a sub-folder that is empty then.
    pub(super) fn delete(&self) -> io::Result<()> {
        self.must_be_ours()?;
        // The image last: what was interrupted can be said again.
        let torrents = [Some(self.torrent()), Some(self.inactive()), self.other_torrent.clone()];
        torrents.into_iter().flatten().try_for_each(|path| ignore_missing(fs::remove_file(path)))?;
        for suffix in [".torrent", ".torrent.inactive", ".sum", ".full.sum", ".part.journal", ".part", ""] {
            ignore_missing(fs::remove_file(with(&self.image, suffix)))?;
        }
        for folder in &self.sub_folders {
            // The system refuses while something is in it.
            let _ = fs::remove_dir(folder);
        }
        Ok(())
    }

    fn must_be_ours(&self) -> io::Result<()> {
        let refused = |reason| Err(io::Error::new(io::ErrorKind::PermissionDenied, reason));
        if self.library {
            return refused(format!("{} lies in a library, which is never written to", self.image.display()));
        }
        if with(&self.image, ".lock").exists() {
            return refused(format!("{} is locked by {}.lock", self.image.display(), self.image.display()));
        }
        Ok(())
    }

    /// Writes the marker; or removes it, or makes it the torrent again if it was one.
    pub(super) fn mark_stopped(&self, stopped: bool) -> io::Result<()> {
        if stopped {
            return if self.stopped() { Ok(()) } else { self.write(&self.inactive(), b"") };
        }
        if !self.torrent().exists() && read_torrent(&self.inactive()).is_ok() {
            return fs::rename(self.inactive(), self.torrent());
        }
        ignore_missing(fs::remove_file(self.inactive()))
    }
}

fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Reads and checks a torrent file.
///
/// # Errors
/// If it cannot be read, is too large, or is no torrent of ours; names the file.
pub fn read_torrent(path: &Path) -> anyhow::Result<Metainfo> {
    let shown = path.display();
    let mut bytes = Vec::new();
    let file = File::open(path).with_context(|| format!("cannot read {shown}"))?;
    file.take(TORRENT_BYTES_MAX as u64 + 1).read_to_end(&mut bytes).with_context(|| format!("cannot read {shown}"))?;
    if bytes.len() > TORRENT_BYTES_MAX {
        bail!("{shown} has more than {TORRENT_BYTES_MAX} bytes, which no .torrent of ours has");
    }
    Metainfo::parse(&bytes).with_context(|| format!("{shown} is not a usable .torrent"))
}

/// Hashes an image and makes its torrent, with the mesh's piece length.
///
/// # Errors
/// If the image cannot be read or has a name that no torrent can hold.
pub(super) fn make_torrent(image: &Path, size: u64, progress: &Progress<'_>) -> anyhow::Result<Metainfo> {
    let name = image.file_name().and_then(|name| name.to_str()).context("the name is not UTF-8")?;
    let geometry = Geometry::new(size, piece_length_for(size)).context("the file is too large for a torrent")?;
    torrent_of(image, name, geometry, progress)
}

/// Hashes a file and makes a torrent that calls it `name`.
///
/// # Errors
/// If the file cannot be read, or the name is one that no torrent can hold.
pub fn torrent_of(image: &Path, name: &str, geometry: Geometry, progress: &Progress<'_>) -> anyhow::Result<Metainfo> {
    let hashes = hash::hash_file(image, geometry, progress)?;
    let hashed = Hashed { name, size: geometry.length(), hashes: &hashes };
    let builder = InfoBuilder::new().set_piece_length(PieceLength::Custom(geometry.piece_length() as usize));
    let info = builder.build(1, hashed, |_| {}).map_err(|e| anyhow::anyhow!("no torrent could be made: {e}"))?;
    let metainfo = Metainfo::from_info(info)?;
    if metainfo.geometry() != geometry || metainfo.name() != name {
        bail!("the torrent that was made does not describe {name:?}");
    }
    Ok(metainfo)
}

/// What `bip_metainfo` is told of a file whose pieces are hashed already: its own hashing is three times slower.
struct Hashed<'a> {
    name: &'a str,
    size: u64,
    hashes: &'a [[u8; 20]],
}

impl IntoAccessor for Hashed<'_> {
    type Accessor = Self;

    fn into_accessor(self) -> io::Result<Self> {
        Ok(self)
    }
}

impl Accessor for Hashed<'_> {
    fn access_directory(&self) -> Option<&Path> {
        None
    }

    fn access_metadata<C: FnMut(u64, &Path)>(&self, mut callback: C) -> io::Result<()> {
        callback(self.size, Path::new(self.name));
        Ok(())
    }

    fn access_pieces<C>(&self, mut callback: C) -> io::Result<()>
    where
        C: for<'b> FnMut(PieceAccess<'b>) -> io::Result<()>,
    {
        self.hashes.iter().try_for_each(|hash| {
            let hash = bip_metainfo::InfoHash::from_hash(hash).map_err(|_| io::Error::other("a SHA-1 has 20 bytes"))?;
            callback(PieceAccess::PreComputed(hash))
        })
    }
}
