//! A damaged copy becomes a partial one, so that only what is bad is fetched again.
//!
//! Rule: no good byte is lost, whenever the power fails: the file is synced, then the journal vouches for its good
//! pieces, then the file gets the name of a partial copy. Not here: which pieces are good (`hash`).

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};

use labmesh_proto::bitfield::Bitfield;
use labmesh_proto::config::Mode;
use labmesh_proto::error::DiskError;
use labmesh_proto::wire::metainfo::Metainfo;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::journal::Keeper;
use super::place::{Place, remove, sync_folder};
use crate::io::source::disk_error;

/// Makes the file at `image` a partial copy of `metainfo` with the `good` pieces; where it lies now. What is behind the
/// end of the image is cut off.
///
/// # Errors
/// If there is a partial copy already, the file is not a regular one, or the system refuses.
pub fn make_partial(image: &Path, metainfo: &Metainfo, good: &Bitfield) -> Result<PathBuf, DiskError> {
    let refused = |place: &Path, reason: &str| {
        Err(DiskError::Io { place: place.display().to_string(), reason: reason.to_owned() })
    };
    let name = image.file_name().unwrap_or_default().to_string_lossy();
    let place = Place::new(image.parent().unwrap_or(Path::new(".")), &name);
    let part = place.part();
    if part.symlink_metadata().is_ok() {
        return refused(&part, "a partial copy is there already; labmesh get goes on with it, or delete it");
    }
    if !image.symlink_metadata().map_err(|e| disk_error(image, &e))?.is_file() {
        return refused(image, "it is no regular file; repair the file that it stands for");
    }
    let file = OpenOptions::new().read(true).write(true).open(image).map_err(|e| disk_error(image, &e))?;
    let length = metainfo.geometry().length();
    file.set_len(length).map_err(|e| disk_error(image, &e))?;
    place.reserve(&file, length)?;
    file.sync_all().map_err(|e| disk_error(image, &e))?;
    let journal = place.journal();
    let vouched = Keeper::create(&journal, metainfo, Mode::Peer, None)
        .and_then(|mut keeper| keeper.record(good.iter(metainfo.geometry())));
    vouched.map_err(|e| place.trouble(&journal, &e, 0))?;
    let renamed = match renameat_with(CWD, image, CWD, &part, RenameFlags::NOREPLACE) {
        // Not every file system knows the flag.
        Err(Errno::INVAL | Errno::NOSYS) => std::fs::rename(image, &part),
        renamed => renamed.map_err(Into::into),
    };
    if let Err(error) = renamed.and_then(|()| sync_folder(&part)) {
        // It vouches for nothing now.
        let _ = remove(&journal);
        return Err(disk_error(&part, &error));
    }
    Ok(part)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::disk::read_journal;
    use crate::io::testing::sample;

    #[test]
    fn what_is_good_stays_and_is_vouched_for() {
        let sample = sample(300_000, 65536);
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("a b.img");
        // Cut short in the third piece, and something behind the end in the second run.
        for len in [140_000, 300_010] {
            let mut bytes = sample.bytes.clone();
            bytes.resize(len, 7);
            bytes[0] ^= 1;
            std::fs::write(&image, &bytes).unwrap();
            let file = std::fs::File::open(&image).unwrap();
            let good = crate::io::hash::verify_file(&file, &sample.metainfo, &|_| ()).unwrap();
            let part = make_partial(&image, &sample.metainfo, &good).unwrap();
            assert_eq!((part.file_name().unwrap().to_str(), image.exists()), (Some("a b.img.part"), false));
            assert_eq!(part.metadata().unwrap().len(), 300_000);
            let journal = read_journal(&folder.path().join("a b.img.part.journal")).unwrap();
            assert_eq!((journal.have, journal.metainfo.info_hash()), (good, sample.metainfo.info_hash()));
            std::fs::write(&image, b"again").unwrap();
            let error = make_partial(&image, &sample.metainfo, &Bitfield::empty(5)).unwrap_err().to_string();
            assert!(error.contains("a partial copy is there already"), "{error}");
            std::fs::remove_file(part).unwrap();
        }
    }

    #[test]
    fn a_link_is_not_followed() {
        let sample = sample(100, 16384);
        let folder = tempfile::tempdir().unwrap();
        let (image, link) = (folder.path().join("x.img"), folder.path().join("link.img"));
        std::fs::write(&image, b"x").unwrap();
        std::os::unix::fs::symlink(&image, &link).unwrap();
        let error = make_partial(&link, &sample.metainfo, &Bitfield::empty(1)).unwrap_err().to_string();
        assert!(error.contains("no regular file"), "{error}");
        assert!(make_partial(&folder.path().join("none"), &sample.metainfo, &Bitfield::empty(1)).is_err());
    }
}
