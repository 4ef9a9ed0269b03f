//! Real files and threads; what a power cut leaves is made by copying the files at that moment.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use labmesh_proto::bitfield::Bitfield;
use labmesh_proto::config::{Mode, SeedTime};
use labmesh_proto::error::DiskError;
use labmesh_proto::io::Input;
use md5::{Digest, Md5};
use rustix::fs::{FallocateFlags, fallocate};

use super::journal::read_journal;
use crate::io::Event;
use crate::io::testing::{Bench, IMAGE, NAME, Sample, cache_with, sample};

/// Eleven pieces, the last one short and of odd length.
fn small() -> Sample {
    sample(10 * 65536 + 12_345, 65536)
}

fn part(cache: &Path) -> PathBuf {
    cache.join(format!("{NAME}.part"))
}

fn journal(cache: &Path) -> PathBuf {
    cache.join(format!("{NAME}.part.journal"))
}

fn set(sample: &Sample, pieces: &[u32]) -> Bitfield {
    let mut set = Bitfield::empty(sample.metainfo.geometry().pieces());
    for piece in pieces {
        set.set(sample.piece(*piece));
    }
    set
}

#[test]
fn a_copy_is_made_byte_for_byte_and_gets_its_name_and_sidecars() {
    let (cache, sample) = (tempfile::tempdir().unwrap(), small());
    let mut bench = Bench::on(cache.path());
    assert_eq!(bench.open(&sample, NAME, false), Ok(set(&sample, &[])));
    assert_eq!(fs::metadata(part(cache.path())).unwrap().len(), sample.bytes.len() as u64);
    for piece in (0..11).rev() {
        assert_eq!(bench.verified(&sample, piece), Ok(true));
    }
    assert_eq!(bench.finish(), Ok(()));
    assert_eq!(fs::read(cache.path().join(NAME)).unwrap(), sample.bytes);
    let torrent = sample.metainfo.to_bytes(sample.metainfo.announce(), sample.metainfo.comment());
    assert_eq!(fs::read(cache.path().join("lab/test.img.torrent")).unwrap(), torrent);
    let sum: String = Md5::digest(&sample.bytes).iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(fs::read_to_string(cache.path().join("lab/test.img.sum")).unwrap(), format!("{sum}\n"));
    let mut left: Vec<_> = fs::read_dir(cache.path().join("lab"))
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    left.sort();
    assert_eq!(left, ["test.img", "test.img.sum", "test.img.torrent"]);
}

/// It could not be given its name in the end, so it is not begun.
#[test]
fn a_name_that_something_has_is_refused_at_the_start() {
    let (cache, sample) = (tempfile::tempdir().unwrap(), small());
    fs::create_dir_all(cache.path().join(NAME).parent().unwrap()).unwrap();
    fs::write(cache.path().join(NAME), b"somebody's").unwrap();
    let mut bench = Bench::on(cache.path());
    let error = bench.open(&sample, NAME, false).unwrap_err().to_string();
    assert!(error.contains("a file of that name is there") && error.contains("--replace"), "{error}");
    assert!(!part(cache.path()).exists());
    fs::remove_file(cache.path().join(NAME)).unwrap();
    bench.open(&sample, NAME, false).unwrap();
    (0..11).for_each(|piece| assert_eq!(bench.verified(&sample, piece), Ok(true)));
    fs::write(cache.path().join(NAME), b"somebody's").unwrap();
    let error = bench.finish().unwrap_err().to_string();
    assert!(error.contains("a file of that name is there"), "{error}");
    assert_eq!(fs::read(cache.path().join(NAME)).unwrap(), b"somebody's");
}

#[test]
fn many_pieces_at_once_are_all_answered() {
    let (cache, sample) = (tempfile::tempdir().unwrap(), sample(200 * 16384 + 1, 16384));
    let mut bench = Bench::on(cache.path());
    bench.open(&sample, NAME, false).unwrap();
    let all: Vec<_> = sample.metainfo.geometry().all().collect();
    for piece in &all {
        bench.give(&sample, *piece, sample.piece_bytes(*piece));
    }
    let mut good = set(&sample, &[]);
    while !good.is_full() {
        match bench.report() {
            Input::Verified { piece, result: Ok(true), .. } => assert!(good.set(piece)),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(bench.finish(), Ok(()));
    assert_eq!(fs::read(cache.path().join(NAME)).unwrap(), sample.bytes);
}

#[test]
fn a_wrong_piece_is_reported_and_not_written() {
    let (cache, sample) = (tempfile::tempdir().unwrap(), small());
    let mut bench = Bench::on(cache.path());
    bench.open(&sample, NAME, false).unwrap();
    let mut bytes = sample.piece_bytes(sample.piece(3)).to_vec();
    bytes[65_000] ^= 1;
    bench.give(&sample, sample.piece(3), &bytes);
    assert!(matches!(bench.report(), Input::Verified { result: Ok(false), .. }));
    // A piece with a hole in it is no piece either.
    let block = sample.metainfo.geometry().block(4, 0, 16384).unwrap();
    let data = bench.fill(&sample.piece_bytes(block.piece)[..16384]);
    bench.disk.store(IMAGE, block, data);
    bench.disk.verify(IMAGE, block.piece);
    assert!(matches!(bench.report(), Input::Verified { result: Ok(false), .. }));
    assert!(fs::read(part(cache.path())).unwrap().iter().all(|b| *b == 0));
    assert_eq!(bench.verified(&sample, 3), Ok(true));
}

/// The thread that keeps the journal takes its orders one after the other: the last word counts.
#[test]
fn a_changed_mode_is_in_the_journal() {
    let (cache, sample) = (tempfile::tempdir().unwrap(), small());
    let mut bench = Bench::on(cache.path());
    bench.open(&sample, NAME, false).unwrap();
    assert_eq!(bench.verified(&sample, 4), Ok(true));
    bench.disk.remember(IMAGE, Mode::Peer, Some(SeedTime::Forever));
    bench.disk.remember(IMAGE, Mode::Leecher, None);
    bench.disk.close(IMAGE);
    bench.end();
    let journal = read_journal(&journal(cache.path())).unwrap();
    assert_eq!((journal.mode, journal.seed_time, journal.have), (Mode::Leecher, None, set(&sample, &[4])));
}

#[test]
fn discarded_blocks_are_forgotten() {
    let (cache, sample) = (tempfile::tempdir().unwrap(), small());
    let mut bench = Bench::on(cache.path());
    bench.open(&sample, NAME, false).unwrap();
    let block = sample.metainfo.geometry().block(0, 7, 100).unwrap();
    let data = bench.fill(&[0; 100]);
    bench.disk.store(IMAGE, block, data);
    bench.disk.discard(IMAGE, block.piece);
    assert_eq!(bench.verified(&sample, 0), Ok(true));
}

#[test]
fn a_transfer_goes_on_where_it_was_closed() {
    let (cache, sample) = (tempfile::tempdir().unwrap(), small());
    let mut bench = Bench::on(cache.path());
    bench.open(&sample, NAME, false).unwrap();
    for piece in [0, 5, 10] {
        assert_eq!(bench.verified(&sample, piece), Ok(true));
    }
    bench.disk.close(IMAGE);
    assert_eq!(bench.open(&sample, NAME, false), Ok(set(&sample, &[0, 5, 10])));
    assert_eq!(bench.verified(&sample, 1), Ok(true));
    bench.end();
    let journal = read_journal(&journal(cache.path())).unwrap();
    assert_eq!((journal.mode, journal.seed_time), (Mode::Seeder, Some(SeedTime::Enough)));
    assert_eq!(journal.metainfo.info_hash(), sample.metainfo.info_hash());
    assert_eq!(journal.have, set(&sample, &[0, 1, 5, 10]));
    let mut bench = Bench::on(cache.path());
    assert_eq!(bench.open(&sample, NAME, false), Ok(set(&sample, &[0, 1, 5, 10])));
}

/// Killed at any moment: what the journal vouches for is in the file, and what else is in it is had. The journal is
/// copied first, so the test is harder than a real cut.
#[test]
fn the_journal_is_never_ahead_of_the_file_and_nothing_in_the_file_is_lost() {
    let (cache, sample) = (tempfile::tempdir().unwrap(), small());
    let mut bench = Bench::on(cache.path());
    bench.open(&sample, NAME, false).unwrap();
    for piece in 0..11 {
        bench.verified(&sample, piece).unwrap();
        let cut = tempfile::tempdir().unwrap();
        fs::create_dir(cut.path().join("lab")).unwrap();
        fs::copy(journal(cache.path()), journal(cut.path())).unwrap();
        fs::copy(part(cache.path()), part(cut.path())).unwrap();
        let file = fs::read(part(cut.path())).unwrap();
        for piece in read_journal(&journal(cut.path())).unwrap().have.iter(sample.metainfo.geometry()) {
            let start = sample.metainfo.geometry().start(piece) as usize;
            assert!(file[start..].starts_with(sample.piece_bytes(piece)));
        }
        let so_far = set(&sample, &(0..=piece).collect::<Vec<_>>());
        let mut resumed = Bench::on(cut.path());
        assert_eq!(resumed.open(&sample, NAME, false), Ok(so_far.clone()));
        resumed.end();
        assert_eq!(read_journal(&journal(cut.path())).unwrap().have, so_far, "and vouched for from now on");
    }
}

#[test]
fn a_torn_record_leaves_the_one_before_it() {
    let (cache, sample) = (tempfile::tempdir().unwrap(), small());
    for pieces in [&[1][..], &[2, 3]] {
        let mut bench = Bench::on(cache.path());
        bench.open(&sample, NAME, false).unwrap();
        for piece in pieces {
            bench.verified(&sample, *piece).unwrap();
        }
        bench.end();
    }
    let path = journal(cache.path());
    let good = fs::read(&path).unwrap();
    assert_eq!(read_journal(&path).unwrap().have, set(&sample, &[1, 2, 3]));
    // Sequence 1 and 2 are of the beginning, then one record per ending; even ones lie in the first slot.
    let slots = good.len().next_multiple_of(4096) - 2 * 4096;
    for at in [slots, slots + 8, slots + 11] {
        let mut torn = good.clone();
        torn[at] ^= 0x40;
        fs::write(&path, &torn).unwrap();
        assert_eq!(read_journal(&path).unwrap().have, set(&sample, &[1]), "{at}");
        torn[slots + 4096 + 9] ^= 1;
        fs::write(&path, &torn).unwrap();
        assert!(read_journal(&path).is_err());
    }
    // With no journal to go by, the copy begins anew.
    let mut bench = Bench::on(cache.path());
    assert_eq!(bench.open(&sample, NAME, false), Ok(set(&sample, &[])));
}

#[test]
fn a_damaged_journal_is_an_error_wherever_the_damage_is() {
    let (cache, sample) = (tempfile::tempdir().unwrap(), small());
    let mut bench = Bench::on(cache.path());
    bench.open(&sample, NAME, false).unwrap();
    bench.end();
    let path = journal(cache.path());
    let good = fs::read(&path).unwrap();
    let header = good.len().next_multiple_of(4096) - 2 * 4096;
    let used = good[..header].iter().rposition(|b| *b != 0).unwrap();
    for at in (0..used).step_by(3) {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        fs::write(&path, &bad).unwrap();
        assert!(read_journal(&path).is_err(), "flipped at {at}");
    }
}

#[test]
fn a_partial_copy_of_other_content_is_begun_anew() {
    let (cache, first, second) = (tempfile::tempdir().unwrap(), small(), sample(300_000, 65536));
    let mut bench = Bench::on(cache.path());
    bench.open(&first, NAME, false).unwrap();
    bench.verified(&first, 0).unwrap();
    bench.disk.close(IMAGE);
    assert_eq!(bench.open(&second, NAME, false), Ok(set(&second, &[])));
    assert_eq!(fs::metadata(part(cache.path())).unwrap().len(), 300_000);
    // Nor does a journal vouch for a file that somebody put in its place.
    bench.verified(&second, 0).unwrap();
    bench.disk.close(IMAGE);
    bench.open(&second, NAME, false).unwrap();
    bench.disk.close(IMAGE);
    bench.open(&first, "other.img", false).unwrap();
    fs::write(part(cache.path()), b"short").unwrap();
    assert_eq!(bench.open(&second, NAME, false), Ok(set(&second, &[])));
}

#[test]
fn whole_copies_are_found_in_cache_and_libraries_and_must_have_their_size() {
    let sample = small();
    let cache = cache_with(&sample);
    let mut bench = Bench::on(cache.path());
    assert_eq!(bench.open(&sample, NAME, true), Ok(Bitfield::full(11)));
    fs::create_dir(cache.path().join("library")).unwrap();
    fs::write(cache.path().join("library/far.img"), &sample.bytes).unwrap();
    assert_eq!(bench.open(&sample, "far.img", true), Ok(Bitfield::full(11)));
    fs::write(cache.path().join(NAME), &sample.bytes[1..]).unwrap();
    assert!(matches!(bench.open(&sample, NAME, true), Err(DiskError::Changed { .. })));
    assert!(matches!(bench.open(&sample, "none.img", true), Err(DiskError::Io { .. })));
}

#[test]
fn names_that_lead_out_of_the_cache_are_refused() {
    let (cache, sample) = (tempfile::tempdir().unwrap(), small());
    let mut bench = Bench::on(&cache.path().join("cache"));
    for bad in ["", ".", "..", "../x.img", "/x.img", "a/b/c.img", "a//b", "a/", "/", "a/..", "./a", "a\0b", "a/../../b"]
    {
        for complete in [false, true] {
            assert!(matches!(bench.open(&sample, bad, complete), Err(DiskError::Io { .. })), "{bad}");
        }
    }
    bench.end();
    assert!(fs::read_dir(cache.path()).unwrap().next().is_none(), "nothing was made");
}

#[test]
fn two_programs_cannot_fetch_into_one_file() {
    let (cache, sample) = (tempfile::tempdir().unwrap(), small());
    let (mut first, mut second) = (Bench::on(cache.path()), Bench::on(cache.path()));
    first.open(&sample, NAME, false).unwrap();
    let error = second.open(&sample, NAME, false).unwrap_err();
    assert!(error.to_string().contains("another program"), "{error}");
    // A connection that still has the file does not hold the lock after the close.
    let source = first.disk.source(IMAGE).unwrap();
    first.disk.close(IMAGE);
    first.end();
    assert!(second.open(&sample, NAME, false).is_ok());
    assert!(source.is_closed() && source.file().is_some());
}

#[test]
fn a_name_that_is_taken_meanwhile_is_not_overwritten() {
    let (cache, sample) = (tempfile::tempdir().unwrap(), small());
    let mut bench = Bench::on(cache.path());
    bench.open(&sample, NAME, false).unwrap();
    (0..11).for_each(|piece| assert_eq!(bench.verified(&sample, piece), Ok(true)));
    fs::write(cache.path().join(NAME), b"mine").unwrap();
    assert!(matches!(bench.finish(), Err(DiskError::Io { .. })));
    assert_eq!(fs::read(cache.path().join(NAME)).unwrap(), b"mine");
    assert!(bench.finish().is_err(), "and it stays so");
    bench.disk.close(IMAGE);
    fs::remove_file(cache.path().join(NAME)).unwrap();
    assert_eq!(bench.open(&sample, NAME, false), Ok(Bitfield::full(11)));
    assert_eq!(bench.finish(), Ok(()));
    assert!(bench.finish().is_err(), "once is enough");
}

#[test]
fn what_is_not_whole_cannot_be_finished() {
    let (cache, sample) = (tempfile::tempdir().unwrap(), small());
    let mut bench = Bench::on(cache.path());
    bench.open(&sample, NAME, false).unwrap();
    bench.verified(&sample, 0).unwrap();
    assert!(bench.finish().is_err());
    assert!(!cache.path().join(NAME).exists());
}

#[test]
fn reports_after_the_close_can_be_told_apart() {
    let (cache, sample) = (tempfile::tempdir().unwrap(), small());
    let mut bench = Bench::on(cache.path());
    bench.open(&sample, NAME, false).unwrap();
    bench.give(&sample, sample.piece(0), sample.piece_bytes(sample.piece(0)));
    bench.disk.close(IMAGE);
    let open = bench.open_late(&sample);
    assert_eq!(open, sample.metainfo.geometry().pieces());
}

impl Bench {
    /// Opens again and counts the pieces of the answer; reports of the closed opening may come before it.
    fn open_late(&mut self, sample: &Sample) -> u32 {
        self.disk.open(IMAGE, NAME, std::sync::Arc::clone(&sample.metainfo), false, Mode::Peer, None);
        loop {
            match self.listener.next() {
                Event::OfImage { source, .. } if source.is_closed() => {}
                Event::OfImage { input: Input::Opened { result, .. }, .. } => return result.unwrap().pieces(),
                other => panic!("{other:?}"),
            }
        }
    }
}

/// A file system of a few MiB of its own; gone when dropped.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", "size=4m", "none"]).arg(folder.path()).output();
        mount.is_ok_and(|out| out.status.success()).then(|| Self(folder))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[test]
#[expect(clippy::print_stderr, reason = "a skipped test says so")]
fn full_and_read_only_disks_are_named() {
    let Some(disk) = SmallDisk::mount() else {
        return eprintln!("skipped: mounting a small file system needs root");
    };
    let cache = disk.0.path();
    let mut bench = Bench::on(cache);
    let large = sample(6 << 20, 1 << 20);
    match bench.open(&large, NAME, false) {
        Err(DiskError::NoSpace { missing, place }) => {
            assert!((2 << 20..3 << 20).contains(&missing), "{missing}");
            assert_eq!(place, cache.join("lab").display().to_string());
        }
        other => panic!("{other:?}"),
    }
    assert!(!part(cache).exists());
    // Full in the middle: the reserved space is taken away again, and somebody else uses it.
    let fits = sample(2 << 20, 1 << 20);
    bench.open(&fits, NAME, false).unwrap();
    let file = OpenOptions::new().write(true).open(part(cache)).unwrap();
    fallocate(&file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 0, 2 << 20).unwrap();
    let filler = File::create(cache.join("filler")).unwrap();
    let mut filled = 0;
    while filler.write_all_at(&[1; 4096], filled).is_ok() {
        filled += 4096;
    }
    assert!(matches!(bench.verified(&fits, 1), Err(DiskError::NoSpace { .. })));
    drop((file, filler));
    fs::remove_file(cache.join("filler")).unwrap();
    assert_eq!(bench.verified(&fits, 1), Ok(true));
    bench.end();
    assert!(Command::new("mount").args(["-o", "remount,ro"]).arg(cache).status().unwrap().success());
    let mut bench = Bench::on(cache);
    assert!(matches!(bench.open(&fits, NAME, false), Err(DiskError::ReadOnly { .. })));
    assert!(matches!(bench.open(&fits, "new/x.img", false), Err(DiskError::ReadOnly { .. })));
}
