//! Bytes per second over the last two seconds.
//!
//! Rule: integers only, so that every machine and both drivers see the same rate.

use std::time::Duration;

use crate::id::Time;

const BUCKETS: u64 = 8;
const BUCKET: u64 = 250_000_000;

/// A transfer rate and a total, both of payload bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rate {
    buckets: [u64; BUCKETS as usize],
    /// Of all buckets.
    sum: u64,
    newest: u64,
    first: u64,
    total: u64,
}

impl Rate {
    /// Counts bytes that moved just now.
    pub fn add(&mut self, now: Time, bytes: u64) {
        let tick = now.0 / BUCKET;
        if self.total == 0 || tick >= self.newest + BUCKETS {
            self.buckets = [0; BUCKETS as usize];
            self.sum = 0;
            self.first = tick;
            self.newest = tick;
        }
        while self.newest < tick {
            self.newest += 1;
            self.sum -= std::mem::take(&mut self.buckets[(self.newest % BUCKETS) as usize]);
        }
        self.buckets[(tick % BUCKETS) as usize] += bytes;
        self.sum += bytes;
        self.total += bytes;
    }

    /// Bytes per second at `now`; a rate younger than the window is taken over its own age.
    pub fn per_second(&self, now: Time) -> u64 {
        let tick = now.0 / BUCKET;
        let oldest = (tick + 1).saturating_sub(BUCKETS);
        // What has fallen out of the window since the last bytes counts no more.
        let fallen = (self.newest + 1).saturating_sub(BUCKETS)..oldest.min(self.newest + 1);
        let bytes = self.sum - fallen.map(|tick| self.bucket(tick)).sum::<u64>();
        let since = oldest.max(self.first) * BUCKET;
        bytes * 1_000_000_000 / now.0.saturating_sub(since).max(BUCKET / 2)
    }

    /// All bytes so far.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// How long `bytes` take at the present rate, but at most `most`; `most` if nothing moves.
    pub fn time_for(&self, now: Time, bytes: u64, most: Duration) -> Duration {
        match self.per_second(now) {
            0 => most,
            rate => Duration::from_nanos(bytes.saturating_mul(1_000_000_000) / rate).min(most),
        }
    }

    fn bucket(&self, tick: u64) -> u64 {
        self.buckets[(tick % BUCKETS) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Time {
        Time(ms * 1_000_000)
    }

    #[test]
    fn a_steady_flow_has_its_rate_and_a_stopped_one_ends() {
        let mut rate = Rate::default();
        for ms in (10_000..14_000).step_by(10) {
            rate.add(at(ms), 1000);
        }
        let steady = rate.per_second(at(14_000));
        assert!((90_000..115_000).contains(&steady), "{steady}");
        assert_eq!(rate.per_second(at(17_000)), 0);
        assert_eq!(rate.total(), 400_000);
    }

    #[test]
    fn a_young_flow_is_not_diluted_by_the_time_before_it() {
        let mut rate = Rate::default();
        for ms in (60_000..60_500).step_by(10) {
            rate.add(at(ms), 1000);
        }
        let young = rate.per_second(at(60_500));
        assert!((80_000..120_000).contains(&young), "{young}");
    }
}
