//! What an image that passes through leaves in the page cache.
//!
//! Rule: it may fill memory that nobody uses, and a little in any case, but not push everything else out: a PC with 8 GiB
//! that fetches or hashes 50 is a PC that somebody works at, and the kernel alone often lets the image win (measured,
//! `docs/BENCHMARKS.md`). Of a file that is written the newest stays, since that is what neighbours ask for next. Of a
//! file that is read through the beginning stays, since the next who reads it through begins there; what was in memory
//! before stays in any case. Files that are sent are left to the kernel: who seeds is there to seed.
//!
//! All of this is advice to the kernel: where it fails, nothing is lost.

use std::collections::VecDeque;
use std::fs::File;
use std::io::IoSliceMut;
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{Advice, fadvise};
use rustix::io::{ReadWriteFlags, preadv2};

use super::source::is_in_memory;

/// What may stay in any case: what arrives in 2 s at a gigabit, since that is what neighbours ask for. Until a sync as
/// much is there all the same.
const ALWAYS: u64 = 256 << 20;
/// Whether a range is in the page cache is asked at every so many bytes: the kernel reads and forgets in larger runs.
const STRIDE: u64 = 64 * 1024;
/// The kernel's usual read-ahead.
const AHEAD: u64 = 128 * 1024;

/// What may stay of an image that begins to pass through now, bytes; `None`: the file is nowhere but in memory.
fn allowance(file: &File) -> Option<u64> {
    let about = rustix::system::sysinfo();
    let free = about.freeram as u64 * u64::from(about.mem_unit);
    (!is_in_memory(file)).then_some(free.max(ALWAYS))
}

/// Whether a read finds a range in the page cache, as far as samples tell. A file system that cannot say counts as cold.
pub(super) fn is_warm(file: &File, start: u64, len: u64) -> bool {
    let last = start + len.saturating_sub(1);
    (start..last).step_by(STRIDE as usize).chain([last]).all(|at| {
        let mut byte = [0];
        // Beyond the end there is nothing to wait for either.
        preadv2(file, &mut [IoSliceMut::new(&mut byte)], at, ReadWriteFlags::NOWAIT).is_ok()
    })
}

/// Has the kernel begin to read a range.
pub(super) fn fetch(file: &File, start: u64, len: u64) {
    // Each call reads at most what the disk takes at once, which is no less than this.
    for at in (start..start + len).step_by(AHEAD as usize) {
        let _ = fadvise(file, at, NonZeroU64::new(AHEAD.min(start + len - at)), Advice::WillNeed);
    }
}

fn forget(file: &File, start: u64, len: u64) {
    let _ = fadvise(file, start, NonZeroU64::new(len), Advice::DontNeed);
}

/// A file that is being written.
#[derive(Debug)]
pub(super) struct Written {
    allowance: Option<u64>,
    /// What is in the page cache of it: start and length, the oldest first.
    ranges: VecDeque<(u64, u64)>,
    bytes: u64,
}

impl Written {
    pub(super) fn new(file: &File) -> Self {
        Self { allowance: allowance(file), ranges: VecDeque::new(), bytes: 0 }
    }

    /// These bytes are on the disk now: only then can they be forgotten.
    pub(super) fn synced(&mut self, file: &File, start: u64, len: u64) {
        let Some(allowance) = self.allowance else { return };
        self.ranges.push_back((start, len));
        self.bytes += len;
        while self.bytes > allowance
            && let Some((start, len)) = self.ranges.pop_front()
        {
            forget(file, start, len);
            self.bytes -= len;
        }
    }
}

/// A file that is being read through, by any number of threads.
#[derive(Debug)]
pub(super) struct Read<'a> {
    file: &'a File,
    left: Option<AtomicU64>,
}

/// A range of it on its way through memory.
#[derive(Debug)]
#[must_use]
pub(super) struct Visit {
    start: u64,
    len: u64,
    was_here: bool,
}

impl<'a> Read<'a> {
    pub(super) fn new(file: &'a File) -> Self {
        // What the kernel reads ahead by itself would look as if it had been here before.
        let _ = fadvise(file, 0, None, Advice::Random);
        Self { file, left: allowance(file).map(AtomicU64::new) }
    }

    /// Has a range read that will be needed soon.
    pub(super) fn begin(&self, start: u64, len: u64) -> Visit {
        let was_here = self.left.is_none() || is_warm(self.file, start, len);
        if !was_here {
            fetch(self.file, start, len);
        }
        Visit { start, len, was_here }
    }

    /// It is not needed any more.
    pub(super) fn end(&self, visit: Visit) {
        let Visit { start, len, was_here } = visit;
        let stays = |left: u64| left.checked_sub(len);
        if let (false, Some(left)) = (was_here, &self.left)
            && left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, stays).is_err()
        {
            forget(self.file, start, len);
        }
    }
}

impl Drop for Read<'_> {
    /// Others may read from the same open file later, and the kernel reads ahead for them.
    fn drop(&mut self) {
        let _ = fadvise(self.file, 0, None, Advice::Normal);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::unix::fs::FileExt as _;

    use super::*;

    const MIB: u64 = 1 << 20;

    /// Four MiB in the folder of the build, since `/tmp` may be memory, where nothing is ever forgotten.
    fn file_of_four() -> (File, bool) {
        let mut file = tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        // One by one, as pieces are: the kernel keeps or forgets whole what was written at once.
        (0..4).for_each(|_| file.write_all(&vec![7; MIB as usize]).unwrap());
        file.sync_data().unwrap();
        let in_memory = is_in_memory(&file);
        (file, in_memory)
    }

    #[track_caller]
    fn check(file: &File, in_memory: bool, warm: [bool; 4]) {
        assert_eq!([0, 1, 2, 3].map(|n| is_warm(file, n * MIB, MIB)), warm.map(|warm| warm || in_memory));
    }

    #[test]
    fn of_what_is_written_the_newest_stays() {
        let (file, in_memory) = file_of_four();
        let mut written = Written { allowance: Some(2 * MIB), ranges: VecDeque::new(), bytes: 0 };
        for mib in [3, 0, 2, 1] {
            written.synced(&file, mib * MIB, MIB);
        }
        check(&file, in_memory, [false, true, true, false]);
    }

    #[test]
    fn of_what_is_read_through_the_beginning_stays_and_what_was_there_before() {
        let (file, in_memory) = file_of_four();
        forget(&file, 0, 3 * MIB);
        check(&file, in_memory, [false, false, false, true]);
        let mut read = Read::new(&file);
        read.left = Some(AtomicU64::new(MIB));
        for mib in 0..4 {
            let visit = read.begin(mib * MIB, MIB);
            file.read_exact_at(&mut vec![0; MIB as usize], mib * MIB).unwrap();
            read.end(visit);
        }
        check(&file, in_memory, [true, false, false, true]);
    }
}
