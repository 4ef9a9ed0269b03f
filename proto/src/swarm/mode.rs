//! The life of a copy: fetching, seeding, idle, stopped; and how long each lasts.
//!
//! Rule: [`rule`], one pure function of the [`Situation`], which the table below it tests. In words:
//!
//! * A leecher uploads nothing while it downloads. Peers and seeders upload what they have.
//! * A whole copy is offered for its seed time: what was asked for, else none for a leecher, a minute for a peer, and
//!   no end for a seeder.
//! * After that it is idle. It is woken for a while when somebody misses a piece and few serve.
//! * The master is never idle, unless its node runs for one command only, which ends with the seed time of what it got.
//! * Nobody leaves as the last whole copy while somebody misses a piece.
//! * `enough` ends when nobody misses a piece, but for the two that the tracker asks to stay for the next who comes.

use std::time::Duration;

use crate::config::{Mode, SeedTime};
use crate::id::Time;

/// A peer that was told nothing else seeds this long (OpenGnsys' classroom default).
pub const PEER_SEED_TIME: Duration = Duration::from_secs(60);
/// A woken copy serves this long after the last wake or upload.
pub const WAKE_TIME: Duration = Duration::from_secs(30);

/// Everything that the rule looks at.
#[derive(Clone, Copy, Debug)]
pub struct Situation {
    /// What the person asked for.
    pub mode: Mode,
    /// What the person asked for, if anything.
    pub seed_time: Option<SeedTime>,
    /// `stop`, or `.torrent.inactive`.
    pub stopped: bool,
    /// When the copy became whole, or when a person said after that how long it is seeded; `None` while it is not.
    pub complete_since: Option<Time>,
    /// This node is the master.
    pub master: bool,
    /// This node runs for the length of one command.
    pub transient: bool,
    /// The last time it was woken, or uploaded to somebody after it was woken.
    pub woken: Option<Time>,
    /// Others in the swarm that miss a piece, as the tracker told.
    pub others_missing: u32,
    /// Other whole copies in the swarm, as the tracker told.
    pub others_complete: u32,
    /// The tracker asked this one to stay although all could leave ([`SeedTime::Enough`]).
    pub stay: bool,
}

/// What a copy does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// Pieces are missing.
    Fetching {
        /// Whether it gives while it takes.
        upload: bool,
    },
    /// Whole and offered, until then if there is an end.
    Seeding {
        /// When the rule is to be asked again.
        until: Option<Time>,
    },
    /// Whole and quiet.
    Idle,
    /// Out of the swarm.
    Stopped,
}

impl Life {
    /// Whether it takes part in the swarm.
    pub fn is_active(self) -> bool {
        matches!(self, Self::Fetching { .. } | Self::Seeding { .. })
    }

    /// Whether others may be sent pieces.
    pub fn uploads(self) -> bool {
        matches!(self, Self::Fetching { upload: true } | Self::Seeding { .. })
    }
}

/// What a copy does now.
pub fn rule(now: Time, s: &Situation) -> Life {
    if s.stopped {
        return Life::Stopped;
    }
    let Some(since) = s.complete_since else {
        return Life::Fetching { upload: s.mode != Mode::Leecher };
    };
    if s.master && !s.transient {
        return Life::Seeding { until: None };
    }
    let seed_time = s.seed_time.unwrap_or(match s.mode {
        Mode::Leecher => SeedTime::For(Duration::ZERO),
        Mode::Peer => SeedTime::For(PEER_SEED_TIME),
        Mode::Seeder => SeedTime::Forever,
    });
    let until = match seed_time {
        SeedTime::Forever => return Life::Seeding { until: None },
        SeedTime::Enough if s.others_missing > 0 || s.stay => return Life::Seeding { until: None },
        SeedTime::Enough => since,
        SeedTime::For(d) => since + d,
    };
    let until = s.woken.map_or(until, |woken| until.max(woken + WAKE_TIME));
    if now < until {
        Life::Seeding { until: Some(until) }
    } else if s.others_missing > 0 && s.others_complete == 0 {
        // The last whole copy stays; the tracker's next word, or the next look, decides again.
        Life::Seeding { until: Some(now + Duration::from_secs(1)) }
    } else {
        Life::Idle
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Time = Time(1_000_000_000_000);
    const EMPTY: Situation = Situation {
        mode: Mode::Peer,
        seed_time: None,
        stopped: false,
        complete_since: None,
        master: false,
        transient: false,
        woken: None,
        others_missing: 0,
        others_complete: 5,
        stay: false,
    };

    fn ago(s: u64) -> Option<Time> {
        Some(NOW - Duration::from_secs(s))
    }

    #[track_caller]
    fn check(s: Situation, expected: Life) {
        assert_eq!(rule(NOW, &s), expected, "{s:?}");
    }

    fn seeding(left: u64) -> Life {
        Life::Seeding { until: Some(NOW + Duration::from_secs(left)) }
    }

    #[test]
    fn while_it_downloads_only_a_leecher_gives_nothing() {
        for (mode, upload) in [(Mode::Leecher, false), (Mode::Peer, true), (Mode::Seeder, true)] {
            check(Situation { mode, ..EMPTY }, Life::Fetching { upload });
            // A leecher that is elected in mid-download goes on as leecher.
            check(Situation { mode, master: true, ..EMPTY }, Life::Fetching { upload });
        }
    }

    #[test]
    fn a_whole_copy_is_offered_for_its_seed_time() {
        let whole = Situation { complete_since: ago(10), ..EMPTY };
        check(whole, seeding(50));
        check(Situation { mode: Mode::Leecher, ..whole }, Life::Idle);
        check(Situation { mode: Mode::Seeder, ..whole }, Life::Seeding { until: None });
        for mode in [Mode::Leecher, Mode::Peer, Mode::Seeder] {
            let timed = |s| Situation { mode, seed_time: Some(SeedTime::For(Duration::from_secs(s))), ..whole };
            check(timed(0), Life::Idle);
            check(timed(10), Life::Idle);
            check(timed(11), seeding(1));
            check(Situation { seed_time: Some(SeedTime::Forever), ..timed(0) }, Life::Seeding { until: None });
        }
    }

    #[test]
    fn enough_is_when_nobody_misses_a_piece_but_some_are_asked_to_stay() {
        let s = Situation { seed_time: Some(SeedTime::Enough), complete_since: ago(10), ..EMPTY };
        check(s, Life::Idle);
        check(Situation { others_missing: 1, ..s }, Life::Seeding { until: None });
        check(Situation { stay: true, ..s }, Life::Seeding { until: None });
    }

    #[test]
    fn nobody_leaves_as_the_last_whole_copy_and_the_master_never() {
        let over = Situation { mode: Mode::Leecher, complete_since: ago(100), others_complete: 0, ..EMPTY };
        check(over, Life::Idle);
        check(Situation { others_missing: 1, ..over }, seeding(1));
        check(Situation { others_missing: 1, others_complete: 1, ..over }, Life::Idle);
        check(Situation { master: true, ..over }, Life::Seeding { until: None });
    }

    /// `labmesh get` with no service running: its node is alone, so it is its own master.
    #[test]
    fn a_node_for_one_command_ends_with_its_seed_time_whatever_it_is() {
        let master = Situation { complete_since: ago(10), master: true, transient: true, ..EMPTY };
        check(master, seeding(50));
        check(Situation { mode: Mode::Leecher, ..master }, Life::Idle);
        check(Situation { mode: Mode::Seeder, ..master }, Life::Seeding { until: None });
        check(Situation { seed_time: Some(SeedTime::For(Duration::ZERO)), ..master }, Life::Idle);
        // Not as the last whole copy.
        let last = Situation { mode: Mode::Leecher, others_missing: 1, others_complete: 0, ..master };
        check(last, seeding(1));
    }

    #[test]
    fn a_woken_copy_serves_for_a_while_and_a_stopped_one_not_at_all() {
        let idle = Situation { complete_since: ago(1000), ..EMPTY };
        check(Situation { woken: ago(10), ..idle }, seeding(20));
        check(Situation { woken: ago(30), ..idle }, Life::Idle);
        let stopped = Situation { stopped: true, woken: ago(1), master: true, ..idle };
        check(stopped, Life::Stopped);
        check(Situation { complete_since: None, ..stopped }, Life::Stopped);
    }
}
