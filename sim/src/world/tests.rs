//! Whole rooms: that one seed is one trace, and what elections must stand.

use std::cell::{Cell, RefCell};

use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed, TestRunner};

use super::*;
use crate::scenario::Faults;

fn scenario(text: &str) -> Scenario {
    Scenario::parse(&format!("about = \"a test\"\n{text}")).unwrap()
}

/// Twelve machines, or so many, that only elect.
fn quiet(machines: usize, seconds: u64) -> Scenario {
    scenario(&format!("[lab]\nmachines = {machines}\nlink = \"1Gbit/s\"\nends_at = \"{seconds}s\""))
}

impl World {
    fn plan(&mut self, seconds: f64, fault: Fault) {
        self.queue.push(Time((seconds * 1e9) as u64), Event::Fault(fault));
    }

    /// The master's index and term, when there is one that everybody follows.
    fn master(&self) -> (usize, u64) {
        self.settled().unwrap();
        let statuses = self.statuses();
        let (index, status) = statuses.iter().find(|(_, s)| matches!(s.role, Role::Master | Role::Solo)).unwrap();
        (*index, status.term)
    }

    /// Runs to that second.
    fn run_to(&mut self, seconds: u64) {
        self.scenario.lab.ends_at.0 = Duration::from_secs(seconds);
        self.run().unwrap();
    }
}

#[test]
fn one_seed_gives_one_trace() {
    let room = scenario(
        "[lab]\nmachines = 8\nlink = \"1Gbit/s\"\nimage = \"16MiB\"\nends_at = \"20s\"\n\
         [faults]\nkills = 2\nsuspensions = 1\npartitions = 1\nlost_datagrams_permille = 100\nuntil = \"10s\"",
    );
    let trace = |seed| {
        let mut world = World::new(&room, seed, false);
        // A seed that fails must fail twice in the same way.
        let end = world.run();
        (world.trace.hash(), world.events(), world.finish_times(), end)
    };
    assert_eq!(trace(3), trace(3));
    assert_ne!(trace(3).0, trace(4).0);
}

/// How many of each fault, and the seed that decides the rest.
#[derive(Clone, Debug)]
struct Misfortune {
    seed: u64,
    machines: usize,
    faults: Faults,
}

const FAULTS_END: Duration = Duration::from_secs(20);
const ONE_MASTER_WITHIN: Duration = Duration::from_millis(1500);

fn misfortune() -> impl Strategy<Value = Misfortune> {
    let counts = (0usize..6, 0usize..3, 0usize..4, 0usize..4, 0usize..4, 0u16..300);
    (any::<u64>(), 2usize..16, counts).prop_map(|(seed, machines, counts)| {
        let (kills, power_cuts, suspensions, deaf, partitions, lost_datagrams_permille) = counts;
        let until = Some(crate::scenario::Span(FAULTS_END));
        let some = Faults { kills, power_cuts, suspensions, deaf, ..Faults::default() };
        Misfortune { seed, machines, faults: Faults { partitions, lost_datagrams_permille, until, ..some } }
    })
}

/// Plays it and ten seconds of quiet. Returns how long there was not one master for all, and how long two that reach
/// each other coexisted at most.
fn play(misfortune: &Misfortune) -> Result<(Duration, Duration), String> {
    let mut room = quiet(misfortune.machines, 20);
    room.faults = misfortune.faults.clone();
    room.expect.one_master_within.0 = ONE_MASTER_WITHIN;
    let mut world = World::new(&room, misfortune.seed, false);
    world.run()?;
    let mut unsettled = Duration::ZERO;
    for step in (0..4000).step_by(10).chain([10_000]).map(Duration::from_millis) {
        world.scenario.lab.ends_at.0 = FAULTS_END + step;
        world.run()?;
        if let Err(why) = world.settled() {
            unsettled = step;
            if unsettled > ONE_MASTER_WITHIN {
                return Err(format!("after {step:?}: {why}"));
            }
        }
    }
    Ok((unsettled, world.checker.two_masters))
}

/// Crashes, power cuts, suspensions, deafness, partitions and losses at random, then quiet: no machine ever obeys a
/// lower epoch than the highest it knows (the checker sees every output), and within 1.5 s there is one master for good.
/// The scenarios are always the same; `LABMESH_SCENARIOS=n` draws n others.
#[test]
#[expect(clippy::print_stderr, reason = "how long it took is a result that people want to see")]
fn any_faults_end_in_one_master() {
    let drawn = std::env::var("LABMESH_SCENARIOS").ok().map(|n| n.parse().expect("LABMESH_SCENARIOS is a number"));
    let config = Config { failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new(match drawn {
        Some(cases) => Config { cases, ..config },
        None => Config { cases: 200, rng_seed: RngSeed::Fixed(1), ..config },
    });
    let (times, longest) = (RefCell::new(Vec::new()), Cell::new(Duration::ZERO));
    let result = runner.run(&misfortune(), |misfortune| {
        let (unsettled, two_masters) = play(&misfortune).map_err(TestCaseError::fail)?;
        times.borrow_mut().push(unsettled);
        longest.set(longest.get().max(two_masters));
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
    let mut times = times.into_inner();
    times.sort_unstable();
    let [median, usual, most, slowest] = [500, 990, 999, 1000].map(|n| times[(times.len() - 1) * n / 1000]);
    eprintln!(
        "{} scenarios settled within {median:?} (p50), {usual:?} (p99), {most:?} (p99.9), {slowest:?} (max); two masters \
         coexisted for {:?} at most",
        times.len(),
        longest.get()
    );
}

/// Cases that once took longer, or went wrong.
#[test]
fn what_was_slow_once_is_settled_in_time() {
    let misfortune = |seed, machines, [kills, power_cuts, suspensions, deaf, partitions]: [usize; 5], lost| {
        let until = Some(crate::scenario::Span(FAULTS_END));
        let some = Faults { kills, power_cuts, suspensions, deaf, ..Faults::default() };
        Misfortune { seed, machines, faults: Faults { partitions, lost_datagrams_permille: lost, until, ..some } }
    };
    for case in [
        // Two solos that heard of each other by a beacon of 1 Hz.
        misfortune(4_194_147_326_298_258_781, 3, [4, 1, 3, 1, 3], 0),
        misfortune(16_919_616_601_895_127_803, 12, [3, 2, 2, 1, 3], 164),
        // A restarted follower whose greeting waited in a connection that a short cut had silenced.
        misfortune(13_672_763_680_306_449_455, 4, [3, 1, 3, 3, 2], 41),
        // A restarted follower that dialled its master in a cut, and did not ask for the roster when it was connected.
        misfortune(8_876_409_701_589_166_534, 9, [3, 0, 2, 0, 1], 211),
        misfortune(1_463_697_361_565_778_374, 6, [5, 2, 3, 2, 0], 224),
        misfortune(4_587_525_794_350_583_979, 4, [2, 0, 3, 3, 1], 128),
    ] {
        assert_eq!(play(&case).map(drop), Ok(()), "{case:?}");
    }
}

#[test]
fn a_machine_that_was_alone_for_a_day_unseats_nobody() {
    const DAY: u64 = 86_400;
    let mut world = World::new(&quiet(3, 10), 1, false);
    world.run_to(10);
    let (master, term) = world.master();
    let lonely = (master + 1) % 3;
    let sides = (0..3).map(|m| u8::from(m == lonely)).collect();
    world.plan(10.5, Fault::Cut(sides));
    world.plan(10.5 + DAY as f64, Fault::Heal);
    world.run_to(DAY + 20);
    let (after, later) = world.master();
    assert_eq!(after, master);
    assert!(later <= term + 1, "term {term} became {later}");
}

#[test]
fn a_suspended_master_comes_back_as_a_follower() {
    let mut world = World::new(&quiet(6, 10), 2, false);
    world.run_to(10);
    let (master, term) = world.master();
    world.plan(10.5, Fault::Suspend(master));
    world.run_to(13);
    let (new, newer) = world.master();
    assert!(new != master && newer == term + 1);
    // What it hears first is a burst of everything that was sent meanwhile.
    world.plan(14.0, Fault::Resume(master));
    world.run_to(20);
    assert_eq!(world.master(), (new, newer));
}

#[test]
fn a_deaf_follower_unseats_nobody() {
    let mut world = World::new(&quiet(6, 10), 3, false);
    world.run_to(10);
    let seated = world.master();
    world.plan(10.5, Fault::Deaf((seated.0 + 1) % 6, true));
    world.plan(40.0, Fault::Deaf((seated.0 + 1) % 6, false));
    world.run_to(50);
    assert_eq!(world.master(), seated);
}

/// TCP delivers after the heal what was said during the cut, in order and however old: it renews no lease.
#[test]
fn old_news_after_a_heal_unseats_nobody() {
    let mut world = World::new(&quiet(7, 10), 4, false);
    world.run_to(10);
    let (master, _) = world.master();
    // The master alone on one side: the others elect, and win by their number.
    world.plan(10.5, Fault::Cut((0..7).map(|m| u8::from(m == master)).collect()));
    world.plan(25.0, Fault::Heal);
    world.run_to(40);
    let (new, term) = world.master();
    assert_ne!(new, master);
    world.run_to(60);
    assert_eq!(world.master(), (new, term));
}
