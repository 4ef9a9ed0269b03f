//! Where `labmesh get -o PATH` puts an image that is complete in the cache.
//!
//! Rule: the image takes no more space than it must. A file system that can shares its blocks between both files; else
//! a node that runs for this command only lets go of what it fetched, so that the file gets a second name and loses the
//! first when it is no longer seeded; else it is copied. A service never shares a *file* with anybody: an edit of one
//! name would change the image that it offers.
//!
//! Whatever happens, the output is whole or not there.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use rustix::fs::{Access, access, ioctl_ficlone, statvfs};
use tempfile::Builder;

use crate::progress::Out;
use crate::view::{self, Exit, Failure};

/// How a file begins that is not whole yet.
const UNFINISHED: &str = ".labmesh-";
/// Between two reports of a copy.
const CHUNK: u64 = 16 << 20;

/// An image that is where it was wanted.
#[derive(Debug)]
pub(super) struct Delivered {
    pub(super) path: PathBuf,
    /// The cache has the same file, and is to let go of it.
    pub(super) moved: bool,
}

/// Before anything is fetched: whether a file can be made there.
///
/// # Errors
/// If its folder is not there or may not be written to.
pub(super) fn check(output: &Path) -> anyhow::Result<()> {
    let output = std::path::absolute(output).with_context(|| format!("bad path {}", output.display()))?;
    let folder = if output.is_dir() { &output } else { folder_of(&output) };
    let words = |error: io::Error| format!("cannot write to the folder {}: {error}", folder.display());
    let there =
        folder.metadata().and_then(|m| if m.is_dir() { Ok(()) } else { Err(io::ErrorKind::NotADirectory.into()) });
    let writable = there.and_then(|()| access(folder, Access::WRITE_OK | Access::EXEC_OK).map_err(Into::into));
    writable.map_err(|error| Failure::new(Exit::Failed, words(error)).into())
}

/// Puts the image `from` of the cache at `to`, or into the folder `to`. `may_move`: the cache need not keep it.
///
/// # Errors
/// If there is no space or the system refuses; says where the image is complete.
pub(super) fn deliver(out: Out, from: &Path, to: &Path, size: u64, may_move: bool) -> anyhow::Result<Delivered> {
    let path = if to.is_dir() { to.join(from.file_name().unwrap_or_default()) } else { std::path::absolute(to)? };
    let cannot = || format!("cannot put the image at {} (it is complete at {})", path.display(), from.display());
    let stays = |path| Delivered { path, moved: false };
    if is_same(from, &path) {
        return Ok(stays(path));
    }
    if clone(from, &path).is_ok() {
        return Ok(stays(path));
    }
    if may_move && link(from, &path).is_ok() {
        return Ok(Delivered { path, moved: true });
    }
    copy(out, from, &path, size).with_context(cannot)?;
    Ok(stays(path))
}

fn folder_of(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("/"))
}

fn is_same(a: &Path, b: &Path) -> bool {
    let about = |path: &Path| path.metadata().map(|m| (m.dev(), m.ino()));
    matches!((about(a), about(b)), (Ok(a), Ok(b)) if a == b)
}

/// Another file of the same blocks: btrfs, XFS, bcachefs.
fn clone(from: &Path, to: &Path) -> io::Result<()> {
    let target = Builder::new().prefix(UNFINISHED).permissions(permissions()).tempfile_in(folder_of(to))?;
    ioctl_ficlone(target.as_file(), File::open(from)?)?;
    target.as_file().sync_all()?;
    target.persist(to).map(drop).map_err(|e| e.error)
}

/// A second name, in place of whatever had it.
fn link(from: &Path, to: &Path) -> io::Result<()> {
    let linked = Builder::new().prefix(UNFINISHED).make_in(folder_of(to), |name| fs::hard_link(from, name))?;
    linked.persist(to).map(drop).map_err(|e| e.error)
}

fn copy(out: Out, from: &Path, to: &Path, size: u64) -> anyhow::Result<()> {
    let folder = folder_of(to);
    let space = statvfs(folder)?;
    if let Some(missing) = size.checked_sub(space.f_bavail.saturating_mul(space.f_frsize)).filter(|m| *m > 0) {
        let words = format!("not enough space: {missing} more bytes are needed in {}", folder.display());
        return Err(Failure::new(Exit::NoSpace, words).into());
    }
    let mut source = File::open(from)?;
    let mut target = Builder::new().prefix(UNFINISHED).permissions(permissions()).tempfile_in(folder)?;
    let title = from.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let (mut job, mut done) = (out.job(&title, size), 0);
    loop {
        let more = io::copy(&mut (&mut source).take(CHUNK), target.as_file_mut())?;
        if more == 0 {
            break;
        }
        done += more;
        job.set(done, "copying", &view::size(done));
    }
    target.as_file().sync_all()?;
    target.persist(to).map_err(|e| e.error)?;
    job.clear();
    Ok(())
}

/// Those of any new file, where a temporary one would be for its owner only; the system takes the umask from them.
fn permissions() -> fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(0o666)
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUIET: Out = Out { json: true };

    struct Lab {
        folder: tempfile::TempDir,
        image: PathBuf,
    }

    impl Lab {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            fs::create_dir(folder.path().join("cache")).unwrap();
            let image = folder.path().join("cache/a.img");
            fs::write(&image, b"whole").unwrap();
            Self { folder, image }
        }

        fn deliver(&self, to: &Path, may_move: bool) -> Delivered {
            let delivered = deliver(QUIET, &self.image, to, 5, may_move).unwrap();
            assert_eq!(fs::read(&delivered.path).unwrap(), b"whole");
            let left = fs::read_dir(folder_of(&delivered.path)).unwrap().map(|e| e.unwrap().file_name());
            let hidden = left.filter(|name| name.as_encoded_bytes().starts_with(b".")).count();
            assert_eq!(hidden, 0, "nothing unfinished is left");
            delivered
        }

        fn shares_a_file(&self, delivered: &Delivered) -> bool {
            is_same(&self.image, &delivered.path)
        }
    }

    /// In a folder whose file system cannot share blocks; where it can, nothing is moved.
    #[test]
    fn a_service_shares_no_file_and_a_command_moves_its_own() {
        let lab = Lab::new();
        let kept = lab.deliver(&lab.folder.path().join("kept.img"), false);
        assert!(!kept.moved && !lab.shares_a_file(&kept));
        let mode = fs::metadata(&kept.path).unwrap().mode() & 0o777;
        fs::write(lab.folder.path().join("usual"), b"").unwrap();
        assert_eq!(mode, fs::metadata(lab.folder.path().join("usual")).unwrap().mode() & 0o777);
        // What had the name is replaced.
        let moved = lab.deliver(&lab.folder.path().join("kept.img"), true);
        assert_eq!(moved.moved, lab.shares_a_file(&moved));
        // The same file again, or the cache's own: there is nothing to do, above all nothing to remove.
        assert!(!lab.deliver(&moved.path, true).moved || !lab.shares_a_file(&moved));
        let own = lab.deliver(&lab.image, true);
        assert!(!own.moved && lab.shares_a_file(&own));
        assert_eq!(lab.deliver(lab.folder.path(), false).path, lab.folder.path().join("a.img"));
    }

    #[test]
    fn a_folder_that_is_not_there_is_named_before_anything_is_fetched() {
        let lab = Lab::new();
        for (path, reason) in [("none/a.img", "No such file"), ("cache/a.img/b.img", "ot a directory")] {
            let path = lab.folder.path().join(path);
            let words = check(&path).unwrap_err().to_string();
            assert!(words.contains(reason) && words.contains(&folder_of(&path).display().to_string()), "{words}");
        }
        for path in ["new.img", "cache", "cache/a.img"] {
            check(&lab.folder.path().join(path)).unwrap();
        }
    }
}
