//! SHA-1 of pieces and MD5 of files, as fast as safe code goes.
//!
//! Rule: every core works, and each on as many pieces at once as this processor hashes best ([`LANES`]).
//!
//! Not here: which hash a piece should have (`Metainfo`), writing (`disk`), sidecar files (`cache`).

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::panic::resume_unwind;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;

use labmesh_proto::bitfield::Bitfield;
use labmesh_proto::id::{Geometry, PieceIndex};
use labmesh_proto::wire::metainfo::Metainfo;
use md5::Md5;
use sha1::Digest;

mod lanes;
#[cfg_attr(not(target_arch = "x86_64"), path = "hash/vectors/none.rs")]
mod vectors;

use super::page_cache;
use lanes::{Chain, feed};
pub use lanes::{LANES, sha1_of_pieces};

/// How much of a piece is read at a time: one of each lane lies in the L2 cache while they are hashed.
const CHUNK: usize = 64 * 1024;

/// How much of a file all cores together take at a time, unless that is less than a piece for each: as much has the
/// disk to read ahead, and memory to hold.
const AT_A_TIME: u64 = 256 * 1024 * 1024;

/// How much of a file is read ahead of its MD5.
const WINDOW: u64 = 4 * 1024 * 1024;

/// What `.sum` covers (OpenGnsys: `tail -c1M`).
pub const SUM_TAIL_BYTES: u64 = 1024 * 1024;

/// Told now and then how many bytes are done in all, from any thread.
pub type Progress<'a> = dyn Fn(u64) + Sync + 'a;

/// The SHA-1 of every piece of a file, read and hashed on all cores.
///
/// # Errors
/// If the file cannot be read, or is shorter than `geometry` says.
pub fn hash_file(path: &Path, geometry: Geometry, progress: &Progress<'_>) -> io::Result<Vec<[u8; 20]>> {
    let file = File::open(path)?;
    let hashes = Mutex::new(vec![[0; 20]; geometry.pieces() as usize]);
    let all: Vec<_> = geometry.all().collect();
    each_piece(&file, geometry, &all, progress, &|piece, hash| {
        let hash = hash.ok_or_else(|| io::Error::new(io::ErrorKind::UnexpectedEof, "the file became shorter"))?;
        hashes.lock().expect("no thread panics with it")[piece.index()] = hash;
        Ok(())
    })?;
    Ok(hashes.into_inner().expect("no thread panics with it"))
}

/// Which pieces of the file are as the torrent says. Pieces beyond the end of the file are not.
///
/// # Errors
/// If the file cannot be read.
pub fn verify_file(file: &File, metainfo: &Metainfo, progress: &Progress<'_>) -> io::Result<Bitfield> {
    let all: Vec<_> = metainfo.geometry().all().collect();
    verify_pieces(file, metainfo, &all, progress)
}

/// The same for some pieces, in order.
///
/// # Errors
/// If one of them cannot be read.
pub fn verify_pieces(
    file: &File,
    metainfo: &Metainfo,
    pieces: &[PieceIndex],
    progress: &Progress<'_>,
) -> io::Result<Bitfield> {
    let geometry = metainfo.geometry();
    let good = Mutex::new(Bitfield::empty(geometry.pieces()));
    each_piece(file, geometry, pieces, progress, &|piece, hash| {
        if hash.as_ref() == Some(metainfo.hash(piece)) {
            good.lock().expect("no thread panics with it").set(piece);
        }
        Ok(())
    })?;
    Ok(good.into_inner().expect("no thread panics with it"))
}

/// The MD5 of a whole file in hex, as `.full.sum` and the torrent's comment have it. Serial, and three times as dear
/// as the SHA-1 of all pieces.
///
/// # Errors
/// If the file cannot be read.
pub fn md5_of_file(file: &File, progress: &Progress<'_>) -> io::Result<String> {
    let mut md5 = Md5::new();
    let mut chunk = vec![0; CHUNK];
    let in_memory = page_cache::Read::new(file);
    let mut at = 0;
    let mut next = in_memory.begin(0, WINDOW);
    loop {
        // The disk reads the next window while this one is hashed.
        let end = at + WINDOW;
        let window = std::mem::replace(&mut next, in_memory.begin(end, WINDOW));
        while at < end {
            let want = chunk.len().min((end - at) as usize);
            match file.read_at(&mut chunk[..want], at) {
                Ok(0) => return Ok(hex(md5)),
                Ok(n) => {
                    md5.update(&chunk[..n]);
                    at += n as u64;
                    progress(at);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        in_memory.end(window);
    }
}

/// The MD5 of the last MiB of a file in hex, as `.sum` has it; of all of it if it is shorter.
///
/// # Errors
/// If the file cannot be read.
pub fn md5_of_tail(file: &File) -> io::Result<String> {
    // Read plainly: connections send from the same file, and advice about reading it through would hold for them too.
    let len = file.metadata()?.len();
    let mut tail = vec![0; len.min(SUM_TAIL_BYTES) as usize];
    file.read_exact_at(&mut tail, len.saturating_sub(SUM_TAIL_BYTES))?;
    Ok(hex(Md5::new_with_prefix(tail)))
}

fn hex(md5: Md5) -> String {
    md5.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What becomes of each piece; `None` if the file ends before it does.
type Found<'a> = dyn Fn(PieceIndex, Option<[u8; 20]>) -> io::Result<()> + Sync + 'a;

/// Pieces of a file on their way through all cores.
struct Pass<'a> {
    file: &'a File,
    geometry: Geometry,
    /// In order.
    pieces: &'a [PieceIndex],
    progress: &'a Progress<'a>,
    found: &'a Found<'a>,
    in_memory: page_cache::Read<'a>,
    /// How many pieces a thread takes at a time.
    lanes: usize,
    /// Of the runs of so many pieces, the first that no thread has taken.
    next: AtomicUsize,
    done: AtomicU64,
    failed: AtomicBool,
}

fn each_piece(
    file: &File,
    geometry: Geometry,
    pieces: &[PieceIndex],
    progress: &Progress<'_>,
    found: &Found<'_>,
) -> io::Result<()> {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let in_memory = page_cache::Read::new(file);
    let fit = AT_A_TIME / u64::from(geometry.piece_length()) / cores as u64;
    let share = pieces.len().div_ceil(cores);
    let lanes = (*LANES).min(fit as usize).min(share).max(1);
    let (next, done, failed) = Default::default();
    let pass = Pass { file, geometry, pieces, progress, found, in_memory, lanes, next, done, failed };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..cores.min(pieces.len())).map(|_| scope.spawn(|| pass.work())).collect();
        let results = threads.into_iter().map(|t| t.join().unwrap_or_else(|panic| resume_unwind(panic)));
        results.fold(Ok(()), io::Result::and)
    })
}

impl Pass<'_> {
    /// Takes runs of pieces until none is left.
    fn work(&self) -> io::Result<()> {
        let mut chunks = vec![vec![0; CHUNK]; self.lanes];
        while !self.failed.load(Ordering::Relaxed) {
            let next = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(pieces) = self.pieces.chunks(self.lanes).nth(next) else { break };
            let ranges = pieces.iter().map(|p| (self.geometry.start(*p), u64::from(self.geometry.piece_len(*p))));
            let len: u64 = ranges.clone().map(|(_, len)| len).sum();
            let visits: Vec<_> = ranges.map(|(start, len)| self.in_memory.begin(start, len)).collect();
            self.run(pieces, &mut chunks).inspect_err(|_| self.failed.store(true, Ordering::Relaxed))?;
            visits.into_iter().for_each(|visit| self.in_memory.end(visit));
            (self.progress)(self.done.fetch_add(len, Ordering::Relaxed) + len);
        }
        Ok(())
    }

    fn run(&self, pieces: &[PieceIndex], chunks: &mut [Vec<u8>]) -> io::Result<()> {
        let mut chains = vec![Some(Chain::default()); pieces.len()];
        let longest = self.geometry.piece_len(pieces[0]) as usize;
        for offset in (0..longest).step_by(CHUNK) {
            let mut round = Vec::with_capacity(pieces.len());
            for ((piece, chain), chunk) in pieces.iter().zip(&mut chains).zip(&mut *chunks) {
                let want = (self.geometry.piece_len(*piece) as usize).saturating_sub(offset).min(CHUNK);
                let at = self.geometry.start(*piece) + offset as u64;
                if !read_whole(self.file, &mut chunk[..want], at)? {
                    *chain = None;
                }
                round.extend(chain.as_mut().map(|chain| (chain, &chunk[..want])));
            }
            feed(&mut round);
        }
        for (piece, chain) in pieces.iter().zip(chains) {
            (self.found)(*piece, chain.map(Chain::finish))?;
        }
        Ok(())
    }
}

/// Whether the file was long enough.
fn read_whole(file: &File, into: &mut [u8], at: u64) -> io::Result<bool> {
    match file.read_exact_at(into, at) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use sha1::Sha1;

    use super::*;
    use crate::io::testing::sample;

    fn file_of(len: usize) -> (tempfile::NamedTempFile, Vec<u8>) {
        let bytes: Vec<u8> = (0..len).map(|i| (i % 251) as u8 ^ (i >> 11) as u8).collect();
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&bytes).unwrap();
        (file, bytes)
    }

    #[track_caller]
    fn check(len: usize, piece_length: u32) {
        let (file, bytes) = file_of(len);
        let geometry = Geometry::new(len as u64, piece_length).unwrap();
        let furthest = AtomicU64::new(0);
        let progress = |done| _ = furthest.fetch_max(done, Ordering::Relaxed);
        let expected: Vec<[u8; 20]> = bytes.chunks(piece_length as usize).map(|p| Sha1::digest(p).into()).collect();
        assert_eq!(hash_file(file.path(), geometry, &progress).unwrap(), expected);
        assert_eq!(furthest.into_inner(), len as u64);
    }

    #[test]
    fn files_hash_piece_by_piece_whatever_their_cut() {
        for (len, piece_length) in [(1, 16384), (100_000, 16384), (3 << 20, 1 << 20), (2_500_001, 1_000_003)] {
            check(len, piece_length);
        }
    }

    #[test]
    fn a_file_that_is_shorter_than_said_is_an_error() {
        let (file, _) = file_of(100_000);
        let error = hash_file(file.path(), Geometry::new(100_001, 16384).unwrap(), &|_| ()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn damaged_and_missing_pieces_are_found() {
        let sample = sample(300_000, 65536);
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&sample.bytes).unwrap();
        assert!(verify_file(file.as_file(), &sample.metainfo, &|_| ()).unwrap().is_full());
        file.as_file().write_all_at(&[!sample.bytes[70_000]], 70_000).unwrap();
        file.as_file().set_len(299_999).unwrap();
        let good = verify_file(file.as_file(), &sample.metainfo, &|_| ()).unwrap();
        let good: Vec<_> = good.iter(sample.metainfo.geometry()).map(PieceIndex::get).collect();
        assert_eq!(good, [0, 2, 3]);
    }

    #[test]
    fn sums_are_those_of_md5sum() {
        let (file, bytes) = file_of(1_500_000);
        let hex = |bytes: &[u8]| Md5::digest(bytes).iter().map(|b| format!("{b:02x}")).collect::<String>();
        assert_eq!(md5_of_file(file.as_file(), &|_| ()).unwrap(), hex(&bytes));
        assert_eq!(md5_of_tail(file.as_file()).unwrap(), hex(&bytes[1_500_000 - (1 << 20)..]));
        let (short, bytes) = file_of(3);
        assert_eq!(md5_of_tail(short.as_file()).unwrap(), hex(&bytes));
    }
}
