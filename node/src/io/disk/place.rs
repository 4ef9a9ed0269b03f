//! Where the files of one image lie, and what is done to folders.
//!
//! Rule: a name that came from elsewhere is checked by [`Place::check`] before anything at its path is touched.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Component, Path, PathBuf};

use labmesh_proto::config::IMAGE_NAME_BYTES_MAX;
use labmesh_proto::error::DiskError;
use rustix::fs::{CWD, FallocateFlags, FlockOperation, RenameFlags, fallocate, flock, fstatvfs, renameat_with};
use rustix::io::Errno;

use crate::io::ownership::Ownership;
use crate::io::source::{disk_error, is_in_memory};

/// The path of an image in a cache, and of what lies beside it.
#[derive(Clone, Debug)]
pub(super) struct Place {
    name: String,
    path: PathBuf,
    /// Where its `.torrent` lies, if not beside it.
    torrent: Option<PathBuf>,
}

impl Place {
    /// Unchecked: nothing may be touched there before [`Place::check`].
    pub(super) fn new(cache: &Path, name: &str) -> Self {
        Self { name: name.to_owned(), path: cache.join(name), torrent: None }
    }

    /// The same with its torrent in that folder, if one is named.
    pub(super) fn with_torrent_in(mut self, folder: Option<&Path>) -> Self {
        self.torrent = folder.map(|folder| folder.join(format!("{}.torrent", self.name)));
        self
    }

    /// Where its torrent lies.
    pub(super) fn torrent(&self) -> PathBuf {
        self.torrent.clone().unwrap_or_else(|| self.beside(".torrent"))
    }

    /// The name is relative, at most one sub-folder deep, and leads nowhere else.
    pub(super) fn check(&self) -> Result<(), DiskError> {
        let name = &self.name;
        let plain = |part: &str| matches!(Path::new(part).components().collect::<Vec<_>>()[..], [Component::Normal(whole)] if whole == part);
        let good = name.len() <= IMAGE_NAME_BYTES_MAX
            && !name.contains('\0')
            && name.split('/').count() <= 2
            && name.split('/').all(plain);
        if good {
            return Ok(());
        }
        let reason = "expected NAME or FOLDER/NAME".to_owned();
        Err(DiskError::Io { place: name.escape_debug().to_string(), reason })
    }

    pub(super) fn image(&self) -> &Path {
        &self.path
    }

    /// `NAME` and then something.
    pub(super) fn beside(&self, suffix: &str) -> PathBuf {
        let mut path = self.path.clone().into_os_string();
        path.push(suffix);
        path.into()
    }

    pub(super) fn part(&self) -> PathBuf {
        self.beside(".part")
    }

    pub(super) fn journal(&self) -> PathBuf {
        self.beside(".part.journal")
    }

    pub(super) fn folder(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("."))
    }

    /// Makes the image's folder; the cache itself too on a first start.
    pub(super) fn make_folder(&self) -> Result<(), DiskError> {
        fs::create_dir_all(self.folder()).map_err(|e| disk_error(self.folder(), &e))
    }

    /// Writes a small file so that it is there whole or not at all.
    pub(super) fn write(&self, path: &Path, bytes: &[u8], ownership: &Ownership) -> Result<(), DiskError> {
        let new = PathBuf::from(format!("{}.new", path.display()));
        let write = || {
            fs::create_dir_all(path.parent().unwrap_or(Path::new("/")))?;
            let mut file = File::create(&new)?;
            file.write_all(bytes)?;
            ownership.give(&file)?;
            file.sync_data()?;
            fs::rename(&new, path)
        };
        write().map_err(|e| self.trouble(path, &e, bytes.len() as u64))
    }

    /// A partial copy is not begun for a name that it cannot be given.
    pub(super) fn must_be_free(&self) -> Result<(), DiskError> {
        match self.path.symlink_metadata() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(disk_error(&self.path, &e)),
            Ok(_) => Err(self.is_taken()),
        }
    }

    fn is_taken(&self) -> DiskError {
        let reason = "a file of that name is there, which is not known to be this image; move it away, or say \
                      get --replace to set it aside";
        DiskError::Io { place: self.path.display().to_string(), reason: reason.to_owned() }
    }

    /// Gives the partial copy its name, unless something has it already.
    pub(super) fn complete(&self) -> Result<(), DiskError> {
        let (part, whole) = (self.part(), self.image());
        let renamed = match renameat_with(CWD, &part, CWD, whole, RenameFlags::NOREPLACE) {
            // Not every file system knows the flag.
            Err(Errno::INVAL | Errno::NOSYS) if !whole.exists() => fs::rename(&part, whole),
            Err(Errno::INVAL | Errno::NOSYS) => Err(Errno::EXIST.into()),
            renamed => renamed.map_err(Into::into),
        };
        renamed.and_then(|()| sync_folder(whole)).map_err(|e| match e.kind() {
            io::ErrorKind::AlreadyExists => self.is_taken(),
            _ => disk_error(whole, &e),
        })
    }

    /// Makes the file as long as the image and takes the space for it now.
    pub(super) fn reserve(&self, file: &File, length: u64) -> Result<(), DiskError> {
        let missing = self.missing(file, length).map_err(|e| disk_error(&self.part(), &e))?;
        if missing > 0 {
            return Err(self.no_space(missing));
        }
        let reserved = loop {
            // In memory it would have to find every page now: 0.25 s per GiB (measured).
            if is_in_memory(file) {
                break file.set_len(length);
            }
            match fallocate(file, FallocateFlags::empty(), 0, length) {
                Err(Errno::INTR) => {}
                // NFS 3, FAT, ZFS: the space was there a moment ago, more cannot be had.
                Err(Errno::OPNOTSUPP | Errno::NOSYS) => break file.set_len(length),
                other => break other.map_err(Into::into),
            }
        };
        reserved.map_err(|e| self.trouble(&self.part(), &e, self.missing(file, length).unwrap_or(0)))
    }

    /// How many bytes the disk lacks for the rest of the file.
    fn missing(&self, file: &File, length: u64) -> io::Result<u64> {
        let has = std::os::unix::fs::MetadataExt::blocks(&file.metadata()?) * 512;
        let disk = fstatvfs(file)?;
        Ok(length.saturating_sub(has).saturating_sub(disk.f_bavail.saturating_mul(disk.f_frsize)))
    }

    fn no_space(&self, missing: u64) -> DiskError {
        DiskError::NoSpace { missing: missing.max(1), place: self.folder().display().to_string() }
    }

    /// What went wrong with `path`; if the disk or a quota is full, with the bytes that were wanted.
    pub(super) fn trouble(&self, path: &Path, error: &io::Error, wanted: u64) -> DiskError {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => self.no_space(wanted),
            _ => disk_error(path, error),
        }
    }

    /// Opens the partial copy if it is there; nobody else may have it open for writing.
    pub(super) fn open_part(&self) -> Result<Option<File>, DiskError> {
        let part = self.part();
        match OpenOptions::new().read(true).write(true).open(&part) {
            Ok(file) => self.lock(file).map(Some),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(disk_error(&part, &e)),
        }
    }

    /// Begins a partial copy. What was there under its name is gone.
    pub(super) fn create_part(&self) -> Result<File, DiskError> {
        let part = self.part();
        let create = || {
            for old in [self.journal(), part.clone()] {
                remove(&old)?;
            }
            sync_folder(&part)?;
            OpenOptions::new().read(true).write(true).create_new(true).open(&part)
        };
        self.lock(create().map_err(|e| self.trouble(&part, &e, 0))?)
    }

    fn lock(&self, file: File) -> Result<File, DiskError> {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => {
                let reason = "another program is fetching into it".to_owned();
                Err(DiskError::Io { place: self.part().display().to_string(), reason })
            }
            // A file system without locks is no reason not to fetch.
            _ => Ok(file),
        }
    }
}

/// Removes a file that may not be there.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Makes names in the folder of `path` survive a power cut.
pub(super) fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match File::open(folder)?.sync_all() {
        // Some network file systems cannot sync a folder.
        Err(e) if matches!(e.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => Ok(()),
        other => other,
    }
}
