//! What the mind answered, on its way back to the desk.
//!
//! Rule: the driver never waits for the desk: it leaves a batch of answers and rings. Not here: what is done with them.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use labmesh_proto::id::RequestId;
use labmesh_proto::wire::http_tracker::Announced;
use rustix::event::{EventfdFlags, eventfd};

/// The answer to one announce; the error is the `failure reason`.
pub type Answer = (RequestId, Result<Announced, &'static str>);

/// Where the driver leaves answers.
#[derive(Debug)]
pub struct Answers {
    left: Mutex<Left>,
    bell: OwnedFd,
    stop: AtomicBool,
}

#[derive(Debug, Default)]
struct Left {
    answers: Vec<Answer>,
    /// The last batch of announces was taken.
    taken: bool,
}

impl Answers {
    /// Nothing yet.
    ///
    /// # Errors
    /// If the system has no file descriptor left.
    pub fn new() -> io::Result<Self> {
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { left: Mutex::default(), bell, stop: AtomicBool::new(false) })
    }

    /// Leaves answers. `taken`: the batch of announces that was asked last has been dealt with, so that the next may
    /// come; some of its answers may follow later.
    pub fn leave(&self, answers: &mut Vec<Answer>, taken: bool) {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        left.answers.append(answers);
        left.taken |= taken;
        drop(left);
        self.ring();
    }

    /// Whoever waits at the bell is to end.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.ring();
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// Takes all that was left into `answers`, and whether the last batch was taken.
    pub(super) fn collect(&self, answers: &mut Vec<Answer>) -> bool {
        let mut count = [0; 8];
        // A bell that was not rung has nothing to read.
        let _ = rustix::io::read(&self.bell, &mut count);
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(&mut left.answers, answers);
        std::mem::take(&mut left.taken)
    }

    pub(super) fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    fn ring(&self) {
        // It is full only if it was rung 2^64 times.
        let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
    }
}
