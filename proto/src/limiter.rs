//! Which image may move how many bytes now, if the node's rates are limited.
//!
//! Rule: one bucket of bytes for each direction fills at the limit's rate, and is shared by all images and peers of the
//! node. An image that has something to ask for, or to send, waits for a share of it; who has waited longest gets the
//! next one. What nobody took is kept for [`RATE_LIMIT_BURST`] only. So no more than `rate x time + burst` is handed
//! out, and an image that moves little leaves the rest to the others.
//!
//! Not here: what an image does with its share (`swarm/pace.rs`), which limit holds when (`labmesh`'s schedule).

use std::collections::VecDeque;
use std::time::Duration;

use crate::config::{Direction, RATE_LIMIT_BURST, RateLimit, RateLimits};
use crate::id::{ImageIndex, Time};

/// What happens to the limiter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// These limits hold from now on. Who waits must ask again where the limit has changed.
    Limits(RateLimits),
    /// An image has used up what it was allowed, and has more to move.
    Wanted(ImageIndex, Direction),
    /// The image went away.
    Gone(ImageIndex),
}

/// What it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Granted {
    /// Which image may go on.
    pub image: ImageIndex,
    /// That way.
    pub direction: Direction,
    /// For so many bytes.
    pub bytes: u64,
}

/// The limits of a node, and the images that wait for them.
#[derive(Debug, Default)]
pub struct Limiter {
    limits: RateLimits,
    up: Bucket,
    down: Bucket,
    outputs: VecDeque<Granted>,
}

/// How full a bucket is, said in time: it was empty then, and has filled since.
#[derive(Debug, Default)]
struct Bucket {
    empty_at: Time,
    /// Each image once, so no more than there are images.
    waiting: VecDeque<ImageIndex>,
}

impl Limiter {
    /// Something happened.
    pub fn handle_input(&mut self, now: Time, input: Input) {
        match input {
            Input::Limits(limits) => {
                for direction in [Direction::Up, Direction::Down] {
                    if limits.of(direction) != self.limits.of(direction) {
                        *self.bucket(direction) = Bucket { empty_at: now, waiting: VecDeque::new() };
                    }
                }
                self.limits = limits;
            }
            Input::Wanted(image, direction) => {
                let waiting = &mut self.bucket(direction).waiting;
                if !waiting.contains(&image) {
                    waiting.push_back(image);
                }
            }
            Input::Gone(image) => {
                self.up.waiting.retain(|waits| *waits != image);
                self.down.waiting.retain(|waits| *waits != image);
            }
        }
        self.handle_timeout(now);
    }

    /// The deadline has come.
    pub fn handle_timeout(&mut self, now: Time) {
        for direction in [Direction::Up, Direction::Down] {
            let Some((bytes, time)) = share(self.limits.of(direction)) else { continue };
            let bucket = self.bucket(direction);
            bucket.empty_at = bucket.empty_at.max(now - time.max(RATE_LIMIT_BURST));
            let mut granted = Vec::new();
            while bucket.empty_at + time <= now
                && let Some(image) = bucket.waiting.pop_front()
            {
                bucket.empty_at = bucket.empty_at + time;
                granted.push(Granted { image, direction, bytes });
            }
            self.outputs.extend(granted);
        }
    }

    /// What it says, oldest first.
    pub fn poll_output(&mut self) -> Option<Granted> {
        self.outputs.pop_front()
    }

    /// When it wants to be woken, and why.
    pub fn poll_timeout(&self) -> Option<(Time, &'static str)> {
        let next = |limit, bucket: &Bucket| {
            let (_, time) = share(limit).filter(|_| !bucket.waiting.is_empty())?;
            Some((bucket.empty_at + time, "rate limit"))
        };
        let both = [next(self.limits.upload, &self.up), next(self.limits.download, &self.down)];
        both.into_iter().flatten().min_by_key(|(at, _)| *at)
    }

    /// The limits in force.
    pub fn limits(&self) -> RateLimits {
        self.limits
    }

    fn bucket(&mut self, direction: Direction) -> &mut Bucket {
        match direction {
            Direction::Up => &mut self.up,
            Direction::Down => &mut self.down,
        }
    }
}

/// The bytes of a share, and how long they take to come in.
fn share(limit: RateLimit) -> Option<(u64, Duration)> {
    let (rate, share) = (limit.per_second()?, limit.share()?);
    let nanos = (u128::from(share) * 1_000_000_000).div_ceil(u128::from(rate));
    Some((share, Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const A: ImageIndex = ImageIndex(0);
    const B: ImageIndex = ImageIndex(1);

    fn limits(upload: u64, download: u64) -> Input {
        let limit = |n| RateLimit::try_from(n).unwrap();
        Input::Limits(RateLimits { upload: limit(upload), download: limit(download) })
    }

    fn at(ms: u64) -> Time {
        Time(60_000_000_000 + ms * 1_000_000)
    }

    /// What greedy images are granted until then, by image and direction. The deadlines are kept, and always move.
    fn greedy(limiter: &mut Limiter, from: Time, until: Time, who: &[(ImageIndex, Direction)]) -> Vec<u64> {
        let mut bytes = vec![0; who.len()];
        let mut now = from;
        who.iter().for_each(|(image, direction)| limiter.handle_input(now, Input::Wanted(*image, *direction)));
        loop {
            while let Some(granted) = limiter.poll_output() {
                let n = who.iter().position(|w| *w == (granted.image, granted.direction)).expect("somebody who asked");
                bytes[n] += granted.bytes;
                limiter.handle_input(now, Input::Wanted(granted.image, granted.direction));
            }
            let (next, _) = limiter.poll_timeout().expect("somebody waits");
            assert!(next > now, "the deadline does not move");
            if next > until {
                return bytes;
            }
            now = next;
            limiter.handle_timeout(now);
        }
    }

    #[test]
    fn what_is_granted_is_the_rate_times_the_time_in_each_direction() {
        for (rate, seconds) in [(16 * 1024, 100), (100_000, 20), (3 * MIB, 10), (1 << 30, 1), (100 << 30, 1)] {
            let mut limiter = Limiter::default();
            limiter.handle_input(at(0), limits(rate, rate / 2 + 8192));
            let who = [(A, Direction::Up), (A, Direction::Down)];
            let bytes = greedy(&mut limiter, at(0), at(seconds * 1000), &who);
            for (bytes, rate) in bytes.into_iter().zip([rate, rate / 2 + 8192]) {
                let most = rate * seconds;
                assert!((most * 98 / 100..=most).contains(&bytes), "{bytes} of {most}");
            }
        }
    }

    #[test]
    fn images_take_turns_whoever_asks_first() {
        let mut limiter = Limiter::default();
        limiter.handle_input(at(0), limits(MIB, 0));
        let bytes = greedy(&mut limiter, at(0), at(10_000), &[(B, Direction::Up), (A, Direction::Up)]);
        assert!(bytes[0].abs_diff(bytes[1]) <= 32 * 1024, "{bytes:?}");
        assert!(bytes.iter().sum::<u64>() <= 10 * MIB);
    }

    #[test]
    fn what_nobody_took_is_kept_for_a_moment_only() {
        let mut limiter = Limiter::default();
        limiter.handle_input(at(0), limits(MIB, 0));
        let bytes = greedy(&mut limiter, at(60_000), at(61_000), &[(A, Direction::Up)]);
        let burst = MIB / 8;
        assert!((MIB..=MIB + burst).contains(&bytes[0]), "{}", bytes[0]);
    }

    #[test]
    fn another_limit_holds_at_once_and_leaves_the_other_direction_alone() {
        let mut limiter = Limiter::default();
        limiter.handle_input(at(0), limits(10 * MIB, 16 * 1024));
        limiter.handle_input(at(900), Input::Wanted(B, Direction::Down));
        limiter.handle_input(at(900), limits(MIB, 16 * 1024));
        let bytes = greedy(&mut limiter, at(900), at(999), &[(A, Direction::Up)]);
        assert!(bytes[0] <= MIB / 10, "{}", bytes[0]);
        limiter.handle_timeout(at(1000));
        let granted = std::iter::from_fn(|| limiter.poll_output()).find(|g| g.direction == Direction::Down);
        assert_eq!(granted, Some(Granted { image: B, direction: Direction::Down, bytes: 16 * 1024 }));
        limiter.handle_input(at(1000), limits(0, 0));
        assert_eq!((limiter.poll_output(), limiter.poll_timeout()), (None, None));
    }

    #[test]
    fn an_image_that_is_gone_takes_no_share() {
        let mut limiter = Limiter::default();
        limiter.handle_input(at(0), limits(0, MIB));
        for image in [A, A, B] {
            limiter.handle_input(at(0), Input::Wanted(image, Direction::Down));
        }
        limiter.handle_input(at(1), Input::Gone(A));
        limiter.handle_timeout(at(1000));
        let granted: Vec<ImageIndex> = std::iter::from_fn(|| limiter.poll_output()).map(|g| g.image).collect();
        assert_eq!((granted, limiter.poll_timeout()), (vec![B], None));
    }
}
