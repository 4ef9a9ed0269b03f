//! An opened image, as those who write it, those who send from it and the driver share it.
//!
//! Rule: a report about an image carries its [`Source`], so that the driver can drop what comes after the close. An
//! `ImageIndex` alone cannot tell, since `proto` uses it again at once.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use labmesh_proto::error::DiskError;
use labmesh_proto::id::{Geometry, ImageIndex};
use labmesh_proto::io::Input;
use rustix::fs::fstatfs;

use super::{Event, Events};

/// `TMPFS_MAGIC` and `RAMFS_MAGIC` of `linux/magic.h`.
const MEMORY_FILE_SYSTEMS: [u64; 2] = [0x0102_1994, 0x8584_58f6];

/// One opening of one image, from `Disk::open` to `Disk::close`. Cheap to clone; the file stays open until the last
/// clone is gone.
#[derive(Clone, Debug)]
pub struct Source(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    image: ImageIndex,
    geometry: Geometry,
    place: PathBuf,
    file: OnceLock<(File, bool)>,
    closed: AtomicBool,
}

impl Source {
    /// The file is given later, by [`Source::give`].
    pub(super) fn new(image: ImageIndex, geometry: Geometry, place: PathBuf) -> Self {
        Self(Arc::new(Inner { image, geometry, place, file: OnceLock::new(), closed: AtomicBool::new(false) }))
    }

    /// The image.
    pub fn image(&self) -> ImageIndex {
        self.0.image
    }

    /// How it is cut.
    pub fn geometry(&self) -> Geometry {
        self.0.geometry
    }

    /// Where it lies, for messages.
    pub fn place(&self) -> &Path {
        &self.0.place
    }

    /// The file, once it is open.
    pub fn file(&self) -> Option<&File> {
        self.0.file.get().map(|(file, _)| file)
    }

    /// Whether reading it never waits for a disk.
    pub(super) fn in_memory(&self) -> bool {
        self.0.file.get().is_some_and(|(_, in_memory)| *in_memory)
    }

    pub(super) fn give(&self, file: File) {
        let in_memory = is_in_memory(&file);
        assert!(self.0.file.set((file, in_memory)).is_ok(), "an image is opened once");
    }

    /// From now on its reports are late ones. Called on the driver's thread, like [`Source::is_closed`].
    pub(super) fn close(&self) {
        self.0.closed.store(true, Ordering::Release);
    }

    /// Whether the driver closed it: what is still reported about it must be dropped.
    pub fn is_closed(&self) -> bool {
        self.0.closed.load(Ordering::Acquire)
    }

    pub(super) fn event(&self, input: Input) -> Event {
        Event::OfImage { source: self.clone(), input }
    }

    /// Reports from a plain thread. Waits while the driver is behind; a driver that has ended is nobody to tell.
    pub(super) fn report_blocking(&self, events: &Events, input: Input) {
        let _ = events.blocking_send(self.event(input));
    }
}

/// Whether a file lies on a file system that is the page cache itself.
pub(super) fn is_in_memory(file: &File) -> bool {
    fstatfs(file).is_ok_and(|fs| MEMORY_FILE_SYSTEMS.contains(&(fs.f_type as u64)))
}

/// What the system said about a file, in our words. `NoSpace` needs more than an error number to say how much is
/// missing: see `disk::place`.
pub(super) fn disk_error(place: &Path, error: &io::Error) -> DiskError {
    let place = place.display().to_string();
    let reason = error.to_string();
    match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => DiskError::ReadOnly { place, reason },
        _ => DiskError::Io { place, reason },
    }
}
