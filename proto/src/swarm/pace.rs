//! What the node's rate limits let this image ask for and send.
//!
//! Rule: a block is asked for, or given out to be sent, while the allowance of its direction is above zero; what it
//! takes beyond is owed. With none left the node is asked for a share, once, and the swarm goes on when it comes. Who
//! waits for us meanwhile is not slow, and whom we do not ask cannot be late, so nobody is judged by our own limit. What
//! was asked for and will not come is given back. Blocks become as short as the limit needs to be smooth.
//!
//! Not here: how the images of a node share its limits (`limiter`).

use super::{Output, Swarm};
use crate::config::{Direction, LARGE_BLOCK_BYTES, RateLimit, RateLimits};
use crate::id::Time;

/// What may go one way.
#[derive(Debug)]
pub(super) struct Allowance {
    limit: RateLimit,
    /// Bytes; means nothing without a limit.
    left: i64,
    /// The node has been asked for more.
    waiting: bool,
    /// The longest block that suits the limit.
    pub(super) block_most: u32,
}

impl Allowance {
    pub(super) fn new(limit: RateLimit) -> Self {
        let large = u64::from(LARGE_BLOCK_BYTES);
        let block_most = limit.share().map_or(u32::MAX, |share| share.min(large) as u32);
        Self { limit, left: 0, waiting: false, block_most }
    }

    fn is_open(&self) -> bool {
        self.limit == RateLimit::NONE || self.left > 0
    }

    pub(super) fn spend(&mut self, bytes: u32) {
        self.left -= i64::from(bytes);
    }

    pub(super) fn give_back(&mut self, bytes: u32) {
        self.left += i64::from(bytes);
    }
}

impl Swarm {
    /// Whether a block may go that way now; if not, the node is asked for a share.
    pub(super) fn may(&mut self, direction: Direction) -> bool {
        let allowance = self.allowance(direction);
        if allowance.is_open() {
            return true;
        }
        if !std::mem::replace(&mut allowance.waiting, true) {
            self.outputs.push_back(Output::Wanted(direction));
        }
        false
    }

    /// A share of the node's limit.
    pub(super) fn granted(&mut self, now: Time, direction: Direction, bytes: u64) {
        let allowance = self.allowance(direction);
        allowance.waiting = false;
        allowance.left = allowance.left.saturating_add_unsigned(bytes);
        self.go_on(now, direction);
    }

    /// Other limits hold from now on. What is on its way is not called back.
    pub(super) fn limit(&mut self, now: Time, limits: RateLimits) {
        for direction in [Direction::Up, Direction::Down] {
            let limit = limits.of(direction);
            let allowance = self.allowance(direction);
            if allowance.limit == limit {
                continue;
            }
            let block_most = allowance.block_most;
            *allowance = Allowance::new(limit);
            if direction == Direction::Up && allowance.block_most != block_most {
                self.extend_ours();
            }
            self.go_on(now, direction);
        }
    }

    fn go_on(&mut self, now: Time, direction: Direction) {
        match direction {
            Direction::Up => self.serve(now),
            Direction::Down => {
                // A share is little, and the first would get all of it: the next share goes on where this one ends.
                let (first, peers) = (self.first_asked, self.peers.len());
                for p in (0..peers).map(|n| (first + n) % peers) {
                    if self.may_ask.is_open() {
                        self.first_asked = p + 1;
                    }
                    self.fill(now, p);
                }
            }
        }
    }

    fn allowance(&mut self, direction: Direction) -> &mut Allowance {
        match direction {
            Direction::Up => &mut self.may_send,
            Direction::Down => &mut self.may_ask,
        }
    }
}
