//! `NAME.part.journal`: what a partial copy is a copy of, and which of its pieces are safely on the disk.
//!
//! Rule: never ahead of the disk. Pieces are written, synced, and only then recorded, so a piece that the journal
//! vouches for survives a power cut. Two slots are written by turns; a torn write spoils one, and the other, a second
//! older, still holds.
//!
//! Layout, numbers big-endian, each part at a multiple of 4096 bytes so that no two share a sector: a header (magic,
//! torrent, SHA-1 of both), then slot 0 and slot 1 (sequence number, mode, seed time, bitfield, SHA-1 of all that
//! behind the info hash). What may change is in the slots.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use labmesh_proto::bitfield::Bitfield;
use labmesh_proto::config::{Mode, SeedTime, TORRENT_BYTES_MAX};
use labmesh_proto::id::{InfoHash, PieceIndex};
use labmesh_proto::wire::metainfo::Metainfo;
use sha1::{Digest, Sha1};

use super::place::sync_folder;

const MAGIC: &[u8; 16] = b"labmesh journal2";
const SECTOR: usize = 4096;
/// Magic, length of the torrent.
const FIXED: usize = 16 + 4;
/// Sequence number, mode, kind of seed time, its seconds.
const SLOT_FIXED: usize = 8 + 1 + 1 + 8;
const SHA1: usize = 20;
/// The largest torrent, and two bitfields of the most pieces that it can have, rounded up generously.
const JOURNAL_BYTES_MAX: u64 = TORRENT_BYTES_MAX as u64 + (1 << 20);

/// What a journal says.
#[derive(Clone, Debug, PartialEq)]
pub struct Journal {
    /// The torrent of the image.
    pub metainfo: Metainfo,
    /// The mode it is fetched in.
    pub mode: Mode,
    /// The seed time it is fetched with.
    pub seed_time: Option<SeedTime>,
    /// The pieces that are on the disk, if the partial copy is still the file that they were written to.
    pub have: Bitfield,
}

/// Why a journal is of no use; the partial copy is then worth nothing.
#[derive(Debug, thiserror::Error)]
pub enum BadJournal {
    /// It cannot be read.
    #[error("cannot read the journal: {0}")]
    Io(#[from] io::Error),
    /// It is not what this program wrote.
    #[error("the journal is damaged: {0}")]
    Damaged(&'static str),
}

/// Reads a journal without keeping it, for the cache scan.
///
/// # Errors
/// If there is none or it is damaged.
pub fn read_journal(path: &Path) -> Result<Journal, BadJournal> {
    Ok(read(&mut File::open(path)?)?.journal)
}

/// The same from bytes.
///
/// # Errors
/// If they are no journal, or a damaged one.
pub fn parse_journal(bytes: &[u8]) -> Result<Journal, BadJournal> {
    Ok(parse(bytes)?.journal)
}

/// A journal that is being kept.
#[derive(Debug)]
pub(super) struct Keeper {
    file: File,
    slots: Slots,
    sequence: u64,
    pub(super) journal: Journal,
}

impl Keeper {
    /// Goes on with the journal at `path`.
    pub(super) fn resume(path: &Path) -> Result<Self, BadJournal> {
        let mut file = OpenOptions::new().read(true).write(true).open(path)?;
        let Read { journal, slots, sequence } = read(&mut file)?;
        Ok(Self { file, slots, sequence, journal })
    }

    /// Begins a journal that vouches for nothing; it is there whole or not at all.
    pub(super) fn create(
        path: &Path,
        metainfo: &Metainfo,
        mode: Mode,
        seed_time: Option<SeedTime>,
    ) -> io::Result<Self> {
        let have = Bitfield::empty(metainfo.geometry().pieces());
        let journal = Journal { metainfo: metainfo.clone(), mode, seed_time, have };
        let header = header(&journal.metainfo);
        let new = PathBuf::from(format!("{}.new", path.display()));
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&new)?;
        file.write_all(&header)?;
        let slots = Slots::after(header.len(), &journal.have);
        let mut keeper = Self { file, slots, sequence: 0, journal };
        // Both slots, so that a disk that is full later has room for them.
        keeper.record([])?;
        keeper.record([])?;
        fs::rename(&new, path)?;
        sync_folder(path)?;
        Ok(keeper)
    }

    /// Other wishes of the person than at the beginning. Nothing is written if they are the same.
    pub(super) fn remember(&mut self, mode: Mode, seed_time: Option<SeedTime>) -> io::Result<()> {
        if (self.journal.mode, self.journal.seed_time) == (mode, seed_time) {
            return Ok(());
        }
        self.journal.mode = mode;
        self.journal.seed_time = seed_time;
        self.record([])
    }

    /// Vouches for more pieces; they have been synced.
    pub(super) fn record(&mut self, synced: impl IntoIterator<Item = PieceIndex>) -> io::Result<()> {
        for piece in synced {
            self.journal.have.set(piece);
        }
        self.sequence += 1;
        let slot = slot(self.sequence, &self.journal);
        self.file.write_all_at(&slot, self.slots.at(self.sequence))?;
        self.file.sync_data()
    }
}

/// Where the two slots lie.
#[derive(Clone, Copy, Debug)]
struct Slots {
    start: u64,
    stride: u64,
}

impl Slots {
    fn after(header: usize, have: &Bitfield) -> Self {
        let used = SLOT_FIXED + have.as_bytes().len() + SHA1;
        Self { start: header as u64, stride: used.next_multiple_of(SECTOR) as u64 }
    }

    fn at(self, sequence: u64) -> u64 {
        self.start + (sequence % 2) * self.stride
    }
}

fn seal(image: InfoHash, slot: &[u8]) -> [u8; SHA1] {
    Sha1::new().chain_update(image.0).chain_update(slot).finalize().into()
}

fn header(metainfo: &Metainfo) -> Vec<u8> {
    let torrent = metainfo.to_bytes(metainfo.announce(), metainfo.comment());
    let mut header = MAGIC.to_vec();
    header.extend_from_slice(&u32::to_be_bytes(torrent.len() as u32));
    header.extend_from_slice(&torrent);
    header.extend_from_slice(&<[u8; SHA1]>::from(Sha1::digest(&header)));
    header.resize(header.len().next_multiple_of(SECTOR), 0);
    header
}

fn slot(sequence: u64, journal: &Journal) -> Vec<u8> {
    let mode = match journal.mode {
        Mode::Leecher => 0,
        Mode::Peer => 1,
        Mode::Seeder => 2,
    };
    let (kind, seconds) = match journal.seed_time {
        None => (0, 0),
        Some(SeedTime::For(time)) => (1, time.as_secs()),
        Some(SeedTime::Enough) => (2, 0),
        Some(SeedTime::Forever) => (3, 0),
    };
    let mut slot = sequence.to_be_bytes().to_vec();
    slot.extend_from_slice(&[mode, kind]);
    slot.extend_from_slice(&u64::to_be_bytes(seconds));
    slot.extend_from_slice(journal.have.as_bytes());
    let seal = seal(journal.metainfo.info_hash(), &slot);
    slot.extend_from_slice(&seal);
    slot
}

struct Read {
    journal: Journal,
    slots: Slots,
    sequence: u64,
}

fn read(file: &mut File) -> Result<Read, BadJournal> {
    if file.metadata()?.len() > JOURNAL_BYTES_MAX {
        return Err(BadJournal::Damaged("it is too long"));
    }
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(file, JOURNAL_BYTES_MAX), &mut bytes)?;
    parse(&bytes)
}

fn parse(bytes: &[u8]) -> Result<Read, BadJournal> {
    use BadJournal::Damaged;
    let short = Damaged("it ends in its header");
    let (fixed, rest) = bytes.split_at_checked(FIXED).ok_or(short)?;
    let (magic, fixed) = fixed.split_at(MAGIC.len());
    if magic != MAGIC {
        return Err(Damaged("it is of another version, or no journal"));
    }
    let torrent_len = u32::from_be_bytes(fixed.try_into().expect("4 are left")) as usize;
    let short = Damaged("it ends in its header");
    let (torrent, rest) = rest.split_at_checked(torrent_len).ok_or(short)?;
    if rest.get(..SHA1) != Some(&Sha1::digest(&bytes[..FIXED + torrent_len])[..]) {
        return Err(Damaged("the checksum of its header is wrong"));
    }
    let metainfo = Metainfo::parse(torrent).map_err(|_| Damaged("its torrent is"))?;
    let header_len = (FIXED + torrent_len + SHA1).next_multiple_of(SECTOR);
    let slots = Slots::after(header_len, &Bitfield::empty(metainfo.geometry().pieces()));
    let (sequence, mode, seed_time, have) = [0, 1]
        .into_iter()
        .filter_map(|slot| parse_slot(bytes.get(slots.at(slot) as usize..)?, &metainfo))
        .max_by_key(|(sequence, ..)| *sequence)
        .ok_or(Damaged("both its records are"))?;
    Ok(Read { journal: Journal { metainfo, mode, seed_time, have }, slots, sequence })
}

fn parse_slot(slot: &[u8], metainfo: &Metainfo) -> Option<(u64, Mode, Option<SeedTime>, Bitfield)> {
    let pieces = metainfo.geometry().pieces();
    let (sealed, rest) = slot.split_at_checked(SLOT_FIXED + pieces.div_ceil(8) as usize)?;
    if rest.get(..SHA1)? != seal(metainfo.info_hash(), sealed) {
        return None;
    }
    let (sequence, rest) = sealed.split_first_chunk()?;
    let ([mode, kind], rest) = rest.split_first_chunk()?;
    let (seconds, bits) = rest.split_first_chunk()?;
    let mode = match mode {
        0 => Mode::Leecher,
        1 => Mode::Peer,
        2 => Mode::Seeder,
        _ => return None,
    };
    let seed_time = match kind {
        0 => None,
        1 => Some(SeedTime::For(Duration::from_secs(u64::from_be_bytes(*seconds)))),
        2 => Some(SeedTime::Enough),
        3 => Some(SeedTime::Forever),
        _ => return None,
    };
    Some((u64::from_be_bytes(*sequence), mode, seed_time, Bitfield::from_bytes(bits, pieces).ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::io::testing::sample;

    proptest! {
        #[test]
        fn no_bytes_are_too_strange(noise: Vec<u8>, at in 0_usize..9000, torrent in any::<bool>()) {
            let metainfo = Metainfo::clone(&sample(100_000, 16384).metainfo);
            let mut bytes = if torrent { header(&metainfo) } else { MAGIC.to_vec() };
            let at = at.min(bytes.len());
            bytes.splice(at..(at + noise.len()).min(bytes.len()), noise);
            prop_assert!(parse(&bytes).is_err(), "no record was ever made");
        }
    }

    proptest! {
        /// Noise behind a good header, where records lie or are sealed as records are.
        #[test]
        fn noise_for_records_is_refused_or_sealed_and_sensible(
            noise in prop::collection::vec(any::<u8>(), 0..3 * SECTOR),
            fields in prop::collection::vec(any::<u8>(), SLOT_FIXED + 1),
        ) {
            let metainfo = Metainfo::clone(&sample(100_000, 16384).metainfo);
            let mut bytes = header(&metainfo);
            bytes.extend_from_slice(&noise);
            prop_assert!(matches!(parse(&bytes), Err(BadJournal::Damaged(_))));
            bytes.truncate(header(&metainfo).len());
            bytes.extend_from_slice(&fields);
            bytes.extend_from_slice(&seal(metainfo.info_hash(), &fields));
            // Seven pieces: the last bit is none.
            let good = fields[8] < 3 && fields[9] < 4 && fields[SLOT_FIXED] & 1 == 0;
            prop_assert_eq!(parse(&bytes).is_ok(), good);
        }
    }

    /// A file that was cut off, wherever, gives what one of its records says, or an error.
    #[test]
    fn a_journal_may_end_anywhere() {
        let metainfo = Metainfo::clone(&sample(100_000, 16384).metainfo);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.img.part.journal");
        let mut kept = Keeper::create(&path, &metainfo, Mode::Peer, None).unwrap();
        // Records 3 to 5; the newest lies in the second slot, which a cut reaches first.
        let [_, older, newer] = [1, 2, 5].map(|pieces| {
            kept.record(metainfo.geometry().all().take(pieces)).unwrap();
            kept.journal.clone()
        });
        let bytes = fs::read(&path).unwrap();
        let used = SLOT_FIXED + newer.have.as_bytes().len() + SHA1;
        let first = kept.slots.start as usize + used;
        assert_eq!(kept.slots.at(5) as usize + used, bytes.len());
        for end in 0..=bytes.len() {
            let read = parse(&bytes[..end]).map(|read| read.journal);
            match read {
                Ok(journal) if end == bytes.len() => assert_eq!(journal, newer),
                Ok(journal) => assert!(end >= first && journal == older, "cut at {end}: {journal:?}"),
                Err(error) => assert!(end < first && matches!(error, BadJournal::Damaged(_)), "cut at {end}: {error}"),
            }
        }
        assert_ne!(older, newer);
    }

    #[test]
    fn every_mode_and_seed_time_comes_back() {
        let metainfo = Metainfo::clone(&sample(100_000, 16384).metainfo);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.img.part.journal");
        let times =
            [None, Some(SeedTime::For(Duration::from_secs(90))), Some(SeedTime::Enough), Some(SeedTime::Forever)];
        for mode in [Mode::Leecher, Mode::Peer, Mode::Seeder] {
            for seed_time in times {
                let mut kept = Keeper::create(&path, &metainfo, mode, seed_time).unwrap();
                assert_eq!(read_journal(&path).unwrap(), kept.journal);
                kept.remember(Mode::Peer, Some(SeedTime::Enough)).unwrap();
                kept.remember(mode, seed_time).unwrap();
                assert_eq!(read_journal(&path).unwrap(), kept.journal);
                assert_eq!((kept.journal.mode, kept.journal.seed_time), (mode, seed_time));
            }
        }
    }

    /// Power fails while a change is written: what was said before still holds, and so do the pieces.
    #[test]
    fn a_change_of_mode_that_is_torn_leaves_the_record_before_it() {
        let metainfo = Metainfo::clone(&sample(100_000, 16384).metainfo);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.img.part.journal");
        let mut kept = Keeper::create(&path, &metainfo, Mode::Peer, None).unwrap();
        kept.record(metainfo.geometry().all().take(3)).unwrap();
        let before = kept.journal.clone();
        kept.remember(Mode::Seeder, Some(SeedTime::Forever)).unwrap();
        kept.file.write_all_at(b"torn", kept.slots.at(kept.sequence) + 7).unwrap();
        assert_eq!(read_journal(&path).unwrap(), before);
    }
}
