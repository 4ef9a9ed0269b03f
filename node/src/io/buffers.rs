//! The memory that received blocks live in until they are written.
//!
//! Rule: a fixed amount for the whole node. Who finds it used up waits, which stops reading from that peer's socket
//! and so slows the peer down. Nobody waits for ever: when every buffer is part of some piece that is not complete,
//! only more buffers complete one, so [`Buffers::overdraw`] gives them. What is kept is then still bounded by `proto`,
//! which begins no more pieces than there is room for, but at least one per image.
//!
//! While the workers are behind ([`Buffers::set_behind`]) no further block is begun for a while, though there be room: what
//! waits is no faster hashed, and a block that stays in the processor's cache until it is written costs less.
//!
//! Buffers are used again while their pages are warm: a fresh page costs three times what receiving into it does
//! (measured).

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use labmesh_proto::config::{BLOCK_BYTES, HUGE_BLOCK_BYTES, LARGE_BLOCK_BYTES};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::timeout;

/// What buffers there are, in bytes.
const SIZES: [usize; 4] = [SMALL, LARGE_BLOCK_BYTES as usize, LARGEST / 2, LARGEST];
const SMALL: usize = BLOCK_BYTES as usize;
const LARGEST: usize = HUGE_BLOCK_BYTES as usize;

/// Workers who only want for a core need less.
const BEHIND_MAX: Duration = Duration::from_millis(100);

/// Unused buffers, of each of [`SIZES`].
type Free = [Vec<Box<[u8]>>; SIZES.len()];

/// The pool. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Buffers(Arc<Pool>);

#[derive(Debug)]
struct Pool {
    /// One permit per [`SMALL`] bytes.
    room: Arc<Semaphore>,
    /// Those that are not in use.
    free: Mutex<Free>,
    /// Whether the workers are behind with complete pieces.
    behind: watch::Sender<bool>,
}

impl Buffers {
    /// At most this many bytes of buffers are there at any time, used or not, but for the overdrawn; at least one of the
    /// largest.
    pub fn new(bytes: u64) -> Self {
        let permits = usize::try_from(bytes / SMALL as u64).unwrap_or(usize::MAX);
        let room = permits.clamp(LARGEST / SMALL, Semaphore::MAX_PERMITS);
        Self(Arc::new(Pool {
            room: Arc::new(Semaphore::new(room)),
            free: Mutex::default(),
            behind: watch::Sender::new(false),
        }))
    }

    /// A buffer of `len` bytes, at most [`HUGE_BLOCK_BYTES`]; what is in it is left over from others. Waits until
    /// there is room.
    pub async fn take(&self, len: usize) -> Buffer {
        let room = Arc::clone(&self.0.room).acquire_many_owned((SIZES[size_for(len)] / SMALL) as u32).await;
        self.make(len, Some(room.expect("the semaphore is never closed")))
    }

    /// The same at once, beyond the limit; for who has waited long enough.
    pub fn overdraw(&self, len: usize) -> Buffer {
        self.make(len, None)
    }

    /// The workers are behind with complete pieces, or have caught up.
    pub(super) fn set_behind(&self, behind: bool) {
        self.0.behind.send_if_modified(|was| std::mem::replace(was, behind) != behind);
    }

    /// Whether no further block should be begun now.
    pub(super) fn is_behind(&self) -> bool {
        *self.0.behind.borrow()
    }

    /// Until the workers have caught up. If they need longer than [`BEHIND_MAX`] they wait for a disk, and that is what
    /// buffers are for: then it is as if they had.
    pub(super) async fn caught_up(&self) {
        let mut behind = self.0.behind.subscribe();
        if timeout(BEHIND_MAX, behind.wait_for(|behind| !behind)).await.is_err() {
            self.set_behind(false);
        }
    }

    fn make(&self, len: usize, room: Option<OwnedSemaphorePermit>) -> Buffer {
        let size = size_for(len);
        let warm = self.0.pop(size);
        let bytes = warm.unwrap_or_else(|| vec![0; SIZES[size]].into_boxed_slice());
        Buffer { bytes, len, home: Arc::clone(&self.0), room }
    }

    /// Gives unused buffers back to the system; for when nothing is being fetched.
    pub fn trim(&self) {
        drop(std::mem::take(&mut *self.0.free()));
    }
}

impl Pool {
    fn free(&self) -> MutexGuard<'_, Free> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An unused one; if there is none, others are given back as far as there is no room for a new one beside them.
    fn pop(&self, size: usize) -> Option<Box<[u8]>> {
        let mut free = self.free();
        let warm = free[size].pop();
        if warm.is_none() {
            // What is not in use; the new one is.
            let room = self.room.available_permits() * SMALL;
            let mut held: usize = free.iter().zip(SIZES).map(|(buffers, size)| buffers.len() * size).sum();
            for (buffers, size) in free.iter_mut().zip(SIZES) {
                while held > room && buffers.pop().is_some() {
                    held -= size;
                }
            }
        }
        warm
    }
}

/// One block's bytes; goes back to its pool when dropped.
pub struct Buffer {
    bytes: Box<[u8]>,
    len: usize,
    home: Arc<Pool>,
    /// None if it is overdrawn.
    room: Option<OwnedSemaphorePermit>,
}

/// Which of [`SIZES`] has room for it.
fn size_for(len: usize) -> usize {
    SIZES.iter().position(|size| len <= *size).expect("the decoder refuses longer blocks")
}

impl Deref for Buffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.len]
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({} bytes)", self.len)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        if self.room.is_none() {
            return;
        }
        self.home.free()[size_for(bytes.len())].push(bytes);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn room_is_bounded_and_comes_back() {
        let buffers = Buffers::new(LARGEST as u64);
        let largest = buffers.take(LARGEST).now_or_never().unwrap();
        assert!(buffers.take(1).now_or_never().is_none());
        drop(largest);
        let small: Vec<_> = (0..64).map(|_| buffers.take(SMALL).now_or_never().unwrap()).collect();
        assert!(buffers.take(1).now_or_never().is_none());
        let beyond = buffers.overdraw(LARGEST);
        drop(small);
        drop(beyond);
        let all = buffers.take(LARGEST).now_or_never().unwrap();
        assert!(buffers.take(1).now_or_never().is_none());
        drop(all);
        assert_eq!(buffers.take(SMALL + 1).now_or_never().unwrap().len(), SMALL + 1);
    }

    #[test]
    fn unused_buffers_of_other_sizes_make_room() {
        let room = 4 * LARGEST;
        let buffers = Buffers::new(room as u64);
        let held = || buffers.0.free().iter().flatten().map(|bytes| bytes.len()).sum::<usize>();
        for size in [SMALL, LARGEST, SIZES[1], SIZES[2], LARGEST, SMALL] {
            let all: Vec<_> = (0..room / size).map(|_| buffers.take(size).now_or_never().unwrap()).collect();
            assert_eq!(held(), 0, "what is not in use would be beyond the limit");
            drop(all);
            assert_eq!(held(), room);
        }
        drop(buffers.take(LARGEST).now_or_never().unwrap());
        assert_eq!(held(), room);
    }

    #[test]
    fn a_free_buffer_is_used_again_until_trimmed() {
        let buffers = Buffers::new(1 << 20);
        let mut first = buffers.take(10).now_or_never().unwrap();
        first[0] = 7;
        drop(first);
        assert_eq!(buffers.take(10).now_or_never().unwrap()[0], 7);
        buffers.trim();
        assert_eq!(buffers.take(10).now_or_never().unwrap()[0], 0);
    }

    #[tokio::test]
    async fn who_lets_workers_catch_up_goes_on_when_they_have_or_need_too_long() {
        let buffers = Buffers::new(1 << 20);
        buffers.set_behind(true);
        let mut waiting = std::pin::pin!(buffers.caught_up());
        assert!(waiting.as_mut().now_or_never().is_none());
        buffers.set_behind(false);
        assert!(waiting.now_or_never().is_some());

        buffers.set_behind(true);
        let begun = std::time::Instant::now();
        buffers.caught_up().await;
        assert!(begun.elapsed() >= BEHIND_MAX);
        assert!(!buffers.is_behind(), "they wait for a disk: the next does not wait for them once more");
    }
}
