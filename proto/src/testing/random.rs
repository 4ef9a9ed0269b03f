//! Random delays, losses, crashes, stops, partitions and forced claims, then quiet: what must never happen is checked
//! by the group after every event, what must happen is checked here.
//!
//! Rule: the scenarios are the same in every run, so that a change is to blame for what fails; `LABMESH_SCENARIOS=n`
//! draws n others.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed, TestRunner};

use super::{Group, Link, Verbosity};
use crate::config::Weight;
use crate::election::Role;

/// From the last fault until each part of the network has one master for good, with up to 90 ms for every message.
const SETTLED_WITHIN: Duration = Duration::from_millis(1500);
/// How long it is watched that it stays so, and that every roster becomes right.
const WATCHED: Duration = Duration::from_secs(8);

/// Without multicast: the longest wait between two dials of one address, and a silent connection.
const JOINED_WITHIN: Duration = Duration::from_secs(40);

#[derive(Clone, Debug)]
enum Fault {
    Start(usize),
    Kill(usize),
    Stop(usize),
    Suspend(usize),
    Resume(usize),
    Deafen(usize),
    Cure(usize),
    Claim(usize),
    Release(usize),
    Cut(Vec<usize>),
    Heal,
}

#[derive(Clone, Debug)]
struct Scenario {
    seed: u64,
    weights: Vec<u8>,
    delay_max_ms: u64,
    loss_permille: u32,
    /// Else everybody joins by the address of the one before it.
    multicast: bool,
    /// All of weight 60 are preferred as masters.
    preferred: bool,
    faults: Vec<(u64, Fault)>,
}

fn fault(hosts: usize) -> impl Strategy<Value = Fault> {
    let host = 0..hosts;
    prop_oneof![
        3 => host.clone().prop_map(Fault::Start),
        2 => host.clone().prop_map(Fault::Kill),
        1 => host.clone().prop_map(Fault::Stop),
        1 => host.clone().prop_map(Fault::Suspend),
        1 => host.clone().prop_map(Fault::Resume),
        1 => host.clone().prop_map(Fault::Deafen),
        1 => host.clone().prop_map(Fault::Cure),
        1 => host.clone().prop_map(Fault::Claim),
        1 => host.prop_map(Fault::Release),
        2 => proptest::collection::vec(0..2_usize, hosts).prop_map(Fault::Cut),
        2 => Just(Fault::Heal),
    ]
}

fn scenario(multicast: bool) -> impl Strategy<Value = Scenario> {
    (2..9_usize).prop_flat_map(move |hosts| {
        let weights = proptest::collection::vec(prop_oneof![Just(50_u8), Just(60), Just(30), Just(10)], hosts);
        let faults = proptest::collection::vec((0..3000_u64, fault(hosts)), 0..12);
        (any::<u64>(), weights, 2..90_u64, 0..30_u32, faults).prop_map(
            move |(seed, weights, delay_max_ms, loss_permille, faults)| Scenario {
                seed,
                weights,
                delay_max_ms,
                loss_permille,
                multicast,
                preferred: false,
                faults,
            },
        )
    })
}

fn start(group: &mut Group, host: usize) {
    group.start(host);
    if host > 0 && !group.multicast {
        group.join(host, host - 1);
    }
}

fn inflict(group: &mut Group, fault: &Fault) {
    let runs = |group: &Group, host: usize| group.role(host).is_some();
    match *fault {
        Fault::Start(host) if !runs(group, host) => start(group, host),
        Fault::Start(_) => {}
        Fault::Kill(host) => group.kill(host),
        Fault::Stop(host) => group.stop(host),
        Fault::Suspend(host) => group.suspend(host),
        Fault::Resume(host) => group.resume(host),
        Fault::Deafen(host) => group.set_deaf(host, true),
        Fault::Cure(host) => group.set_deaf(host, false),
        Fault::Claim(host) => group.claim(host),
        Fault::Release(host) => group.release(host),
        Fault::Cut(ref islands) => group.cut(islands),
        Fault::Heal => group.heal(),
    }
}

fn group(scenario: &Scenario) -> Group {
    let weights: Vec<Weight> = scenario.weights.iter().map(|weight| Weight::try_from(*weight).unwrap()).collect();
    let link = Link {
        delay_min: Duration::from_millis(1),
        delay_max: Duration::from_millis(scenario.delay_max_ms),
        loss_permille: scenario.loss_permille,
    };
    let mut group = Group::new(&weights, link, scenario.seed);
    group.set_multicast(scenario.multicast);
    (0..weights.len())
        .filter(|host| scenario.preferred && scenario.weights[*host] == 60)
        .for_each(|host| group.prefer(host));
    group
}

/// A runner of so many scenarios, always the same, or of as many others as the environment asks for.
#[expect(clippy::disallowed_methods, reason = "a test that draws more on request")]
fn runner(cases: u32) -> TestRunner {
    let drawn = std::env::var("LABMESH_SCENARIOS").ok().map(|n| n.parse().expect("LABMESH_SCENARIOS is a number"));
    let config = Config { failure_persistence: None, ..Config::default() };
    TestRunner::new(match drawn {
        Some(cases) => Config { cases, ..config },
        None => Config { cases, rng_seed: RngSeed::Fixed(1), ..config },
    })
}

/// Plays all faults, then quiet. Returns how long it took to settle, or the last lines of the dialogue.
fn play(scenario: &Scenario, group: &mut Group) -> Result<Duration, String> {
    for host in 0..group.len() {
        start(group, host);
    }
    for (wait_ms, fault) in &scenario.faults {
        group.advance(Duration::from_millis(*wait_ms));
        group.note(&format!("* {fault:?}"));
        inflict(group, fault);
    }
    for host in 0..group.len() {
        group.resume(host);
        group.set_deaf(host, false);
    }
    group.set_link(Link { loss_permille: 0, ..group.link });
    group.note("* quiet");
    if !scenario.multicast {
        // A chain of addresses joins those who run only if no link of it is missing.
        group.heal();
        (0..group.len())
            .filter(|host| group.role(*host).is_none())
            .collect::<Vec<_>>()
            .iter()
            .for_each(|host| start(group, *host));
    }
    let settled = if scenario.multicast {
        // Whoever is preferred may claim once more, from the master that there is then.
        let within = SETTLED_WITHIN * if scenario.preferred { 2 } else { 1 };
        Some(group.last_unsettled(WATCHED)).filter(|settled| *settled <= within)
    } else {
        let settled = group.settle(JOINED_WITHIN);
        group.advance(WATCHED);
        settled
    };
    let Some(settled) = settled else { return Err(format!("not settled:\n{}", tail(group))) };
    let before = group.take_log();
    group.set_verbosity(Verbosity::Roles);
    group.advance(Duration::from_secs(5));
    let after = group.take_log();
    let counts = |host: usize| group.role(host).is_none() || group.live_members(host) == group.reachable(host);
    if !after.is_empty() || !group.is_settled() || !(0..group.len()).all(counts) {
        let rosters: Vec<(usize, usize)> =
            (0..group.len()).map(|host| (group.live_members(host), group.reachable(host))).collect();
        return Err(format!("no peace: {rosters:?}\n{}\n{}", before.join("\n"), after.join("\n")));
    }
    Ok(settled)
}

fn tail(group: &mut Group) -> String {
    let log = group.take_log();
    log[log.len().saturating_sub(150)..].join("\n")
}

#[test]
#[expect(clippy::print_stderr, reason = "the longest rivalry is a result that people want to see")]
fn one_master_in_each_part_soon_after_the_last_fault() {
    let (longest, times) = (Cell::new(Duration::ZERO), RefCell::new(Vec::new()));
    let result = runner(1500).run(&scenario(true), |scenario| {
        let mut group = group(&scenario);
        let settled = play(&scenario, &mut group).map_err(TestCaseError::fail)?;
        times.borrow_mut().push(settled);
        longest.set(longest.get().max(group.rivals_longest()));
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
    let mut times = times.into_inner();
    times.sort_unstable();
    let [median, usual, most, slowest] = [500, 990, 999, 1000].map(|n| times[(times.len() - 1) * n / 1000]);
    eprintln!(
        "{} scenarios settled within {median:.2?} (p50), {usual:.2?} (p99), {most:.2?} (p99.9), {slowest:.2?} (max); \
         longest rivalry {:.2?}",
        times.len(),
        longest.get()
    );
}

#[test]
fn preferred_nodes_do_not_fight() {
    let result = runner(1000).run(&scenario(true), |scenario| {
        let scenario = Scenario { preferred: true, ..scenario };
        play(&scenario, &mut group(&scenario)).map_err(TestCaseError::fail).map(|_| ())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}

/// Scenarios that once took 1.7 to 3.4 s, each by a fault of the protocol.
#[test]
#[expect(clippy::too_many_lines, reason = "most of them are the scenarios")]
fn what_was_slow_once_is_settled_in_time() {
    let case = |seed, weights: &[u8], delay_max_ms, loss_permille, faults: &[(u64, Fault)]| Scenario {
        seed,
        weights: weights.to_vec(),
        delay_max_ms,
        loss_permille,
        multicast: true,
        preferred: false,
        faults: faults.to_vec(),
    };
    let cut = |islands: &[usize]| Fault::Cut(islands.to_vec());
    use Fault::{Claim, Cure, Deafen, Heal, Kill, Release, Resume, Start, Stop, Suspend};
    let cases = [
        // A node alone followed a dead master whose heartbeat a connection had kept since before the cut.
        case(
            12_872_724_910_051_846_245,
            &[30, 60, 60],
            88,
            1,
            &[
                (2944, Deafen(0)),
                (2448, cut(&[1, 0, 0])),
                (1301, Kill(1)),
                (1433, Stop(2)),
                (173, Kill(2)),
                (547, Release(1)),
                (2931, cut(&[1, 0, 0])),
                (1455, Start(0)),
                (2722, Heal),
            ],
        ),
        // A candidate asked a master that it heard to raise its term, over a connection that was dead.
        case(
            17_183_273_898_854_555_065,
            &[30, 30, 10, 10, 30],
            16,
            28,
            &[
                (2123, Kill(0)),
                (2893, Deafen(4)),
                (2197, Deafen(0)),
                (434, Kill(0)),
                (2723, cut(&[1, 0, 0, 1, 1])),
                (310, Claim(4)),
                (1017, cut(&[0, 1, 0, 1, 0])),
            ],
        ),
        // Two candidates with different lists let each other go first.
        case(
            16_327_776_476_264_318_218,
            &[50, 50, 10, 30],
            83,
            7,
            &[
                (2311, Resume(2)),
                (2282, cut(&[1, 0, 1, 0])),
                (698, Start(3)),
                (2884, Suspend(0)),
                (377, Cure(3)),
                (2357, Cure(0)),
            ],
        ),
        // A node that came back believed what had waited for it, twice, and then waited for six better ones.
        case(
            2_058_859_619_176_767_428,
            &[10, 10, 10, 60, 60, 60, 10, 50],
            73,
            7,
            &[
                (859, Heal),
                (329, Stop(3)),
                (236, Suspend(2)),
                (715, Start(2)),
                (1763, Heal),
                (2419, Claim(5)),
                (1483, cut(&[1, 1, 0, 0, 1, 1, 1, 1])),
                (1526, Release(5)),
                (55, Claim(5)),
            ],
        ),
        // A follower heard its new master, which did not hear it, and lost it again.
        case(
            13_492_553_479_285_519_463,
            &[30, 10, 30, 10, 60, 60, 50],
            62,
            10,
            &[(847, Heal), (630, cut(&[0, 1, 1, 0, 0, 0, 0])), (2761, cut(&[1, 1, 1, 1, 0, 0, 0]))],
        ),
        // The goodbye of a node that was gone came last, and kept it a member: its master was alone late.
        case(518_175_568_015_303_294, &[30, 50], 37, 0, &[(915, Kill(0))]),
        // A master alone obeyed a dead one whose heartbeat a connection had kept over a cut.
        case(
            7_709_213_180_774_281_084,
            &[30, 50, 50, 30, 60],
            54,
            18,
            &[
                (896, cut(&[0, 0, 1, 1, 0])),
                (624, cut(&[0, 1, 0, 0, 1])),
                (222, Kill(0)),
                (2463, cut(&[1, 0, 0, 0, 1])),
            ],
        ),
    ];
    for scenario in cases {
        let played = play(&scenario, &mut group(&scenario));
        assert!(played.is_ok(), "{scenario:?}: {}", played.unwrap_err());
    }
}

#[test]
fn addresses_alone_join_everybody() {
    let result = runner(1000).run(&scenario(false), |scenario| {
        let mut group = group(&scenario);
        play(&scenario, &mut group).map_err(TestCaseError::fail).map(|_| ())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}

/// A mesh that has settled and is left alone elects nobody, even if three datagrams in a hundred are lost.
#[test]
fn nobody_is_elected_in_an_hour_of_load() {
    let weights = [Weight::DEFAULT; 12];
    let link = Link { delay_min: Duration::from_millis(20), delay_max: Duration::from_millis(140), loss_permille: 30 };
    let mut group = Group::new(&weights, link, 7);
    group.set_verbosity(Verbosity::Roles);
    (0..12).for_each(|host| group.start(host));
    group.advance(Duration::from_secs(10));
    assert!(group.is_settled());
    group.take_log();
    group.advance(Duration::from_secs(3600));
    assert_eq!(group.take_log(), Vec::<String>::new());
    for host in 0..12 {
        assert_eq!(group.live_members(host), 12);
        assert!(group.role(host) == Some(Role::Master) || group.degree(host) <= 12);
    }
}

/// The same seed and the same faults give the same dialogue.
#[test]
fn two_runs_with_one_seed_are_identical() {
    let faults = vec![(4000, Fault::Kill(0)), (1000, Fault::Cut(vec![0, 0, 1, 1, 1])), (3000, Fault::Heal)];
    let scenario = Scenario {
        seed: 5,
        weights: vec![50; 5],
        delay_max_ms: 50,
        loss_permille: 20,
        multicast: true,
        preferred: false,
        faults,
    };
    let (mut first, mut second) = (group(&scenario), group(&scenario));
    assert_eq!(play(&scenario, &mut first), play(&scenario, &mut second));
    assert_eq!(first.take_log(), second.take_log());
}

#[test]
fn thirty_that_start_together_follow_one_master_within_two_and_a_half_seconds() {
    for seed in 0..40 {
        let link =
            Link { delay_min: Duration::from_millis(1), delay_max: Duration::from_millis(40), loss_permille: 10 };
        let mut group = Group::new(&[Weight::DEFAULT; 30], link, seed);
        (0..30).for_each(|host| group.start(host));
        let settled = group.settle(Duration::from_millis(2500));
        assert!(settled.is_some(), "seed {seed}: {}", tail(&mut group));
    }
}
