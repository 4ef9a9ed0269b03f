//! What goes wrong when: at the moments that the scenario chose, or drawn from the seed.
//!
//! Rule: every random fault that begins before `until` is healed at `until` at the latest, so that what follows is
//! quiet. Not here: what a fault does ([`crate::world`]), and rooms that are drawn themselves ([`crate::storm`]).

use std::time::Duration;

use labmesh_proto::id::Time;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::Rng;

use crate::scenario::{Accident, Faults, What};

/// One thing that goes wrong, or is put right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The program is killed: its connections are closed by the kernel, its ports refuse.
    Kill(usize),
    /// The program of whoever is master then is killed, and started again after this.
    KillMaster(Option<Duration>),
    /// The machine loses its power: nobody is told, nothing answers.
    PowerCut(usize),
    /// The program is started.
    Start(usize),
    /// The program stands still; what comes waits for it.
    Suspend(usize),
    /// It goes on.
    Resume(usize),
    /// It hears no datagram (`true`), or hears them again.
    Deaf(usize, bool),
    /// Nothing that it sends arrives (`true`), or all of it does again.
    Mute(usize, bool),
    /// The room is cut: machines reach only those with the same number.
    Cut(Vec<u8>),
    /// The room is one again.
    Heal,
    /// From now on of a thousand datagrams so many are lost.
    Loss(u16),
    /// From now on of a thousand control messages so many are lost, and so many come twice.
    Words(u16, u16),
    /// Its cable has so many percent of its speed.
    Link(usize, u32),
    /// Its disk has so many percent of its speed.
    DiskSpeed(usize, u32),
    /// Its disk takes nothing more (`true`), or has room again.
    DiskFull(usize, bool),
    /// Its disk neither reads nor writes (`true`), or does again.
    DiskBroken(usize, bool),
    /// Its clock jumps ahead.
    ClockStep(usize, Duration),
}

/// A number below `limit`, which is at least 1. The bias of a remainder of 64 bits is nobody's concern here.
pub fn below(rng: &mut ChaCha8Rng, limit: u64) -> u64 {
    rng.next_u64() % limit.max(1)
}

/// The longest jump of a random clock: a laptop that slept over a lunch.
const CLOCK_STEP_MAX: Duration = Duration::from_secs(3600);

/// The faults that the scenario chose, each with its moment.
pub fn chosen(accidents: &[Accident], machines: usize) -> Vec<(Time, Fault)> {
    let mut plan = Vec::new();
    for accident in accidents {
        for time in 0..u32::try_from(accident.times).unwrap_or(u32::MAX) {
            let begin = Time(0) + accident.at.0 + accident.every.0.saturating_mul(time);
            let end = accident.lasts.map(|lasts| begin + lasts.0);
            for (what, healed) in happens(accident, machines) {
                plan.push((begin, what));
                if let (Some(end), Some(healed)) = (end, healed) {
                    plan.push((end, healed));
                }
            }
        }
    }
    plan
}

/// One accident as faults, each with what puts it right.
fn happens(accident: &Accident, machines: usize) -> Vec<(Fault, Option<Fault>)> {
    let lasts = accident.lasts.map(|lasts| lasts.0);
    if accident.what == What::Kill && accident.pcs.is_empty() {
        return vec![(Fault::KillMaster(lasts), None)];
    }
    if accident.what == What::Cut {
        let sides = (1..=machines).map(|pc| u8::from(accident.pcs.contains(&pc))).collect();
        return vec![(Fault::Cut(sides), Some(Fault::Heal))];
    }
    let percent = accident.percent;
    let of_machine = |m: usize| match accident.what {
        What::Kill | What::Cut => (Fault::Kill(m), Some(Fault::Start(m))),
        What::PowerCut => (Fault::PowerCut(m), Some(Fault::Start(m))),
        What::Suspend => (Fault::Suspend(m), Some(Fault::Resume(m))),
        What::Deaf => (Fault::Deaf(m, true), Some(Fault::Deaf(m, false))),
        What::Mute => (Fault::Mute(m, true), Some(Fault::Mute(m, false))),
        What::SlowLink => (Fault::Link(m, percent), Some(Fault::Link(m, 100))),
        What::SlowDisk => (Fault::DiskSpeed(m, percent), Some(Fault::DiskSpeed(m, 100))),
        What::DiskFull => (Fault::DiskFull(m, true), Some(Fault::DiskFull(m, false))),
        What::DiskBroken => (Fault::DiskBroken(m, true), Some(Fault::DiskBroken(m, false))),
        What::ClockStep => (Fault::ClockStep(m, lasts.unwrap_or_default()), None),
    };
    accident.pcs.iter().map(|pc| of_machine(pc - 1)).collect()
}

/// The random faults of a run, each with its moment.
pub fn plan(faults: &Faults, machines: usize, rng: &mut ChaCha8Rng) -> Vec<(Time, Fault)> {
    let Some(until) = faults.until.map(|until| until.0) else { return Vec::new() };
    let mut plan = Vec::new();
    let end = Time(0) + until;
    if faults.lost_datagrams_permille > 0 {
        plan.extend([(Time(0), Fault::Loss(faults.lost_datagrams_permille)), (end, Fault::Loss(0))]);
    }
    if faults.lost_words_permille + faults.doubled_words_permille > 0 {
        let (lost, doubled) = (faults.lost_words_permille, faults.doubled_words_permille);
        plan.extend([(Time(0), Fault::Words(lost, doubled)), (end, Fault::Words(0, 0))]);
    }
    for (count, what) in [
        (faults.kills, What::Kill),
        (faults.power_cuts, What::PowerCut),
        (faults.suspensions, What::Suspend),
        (faults.deaf, What::Deaf),
        (faults.mute, What::Mute),
        (faults.slow_links, What::SlowLink),
        (faults.slow_disks, What::SlowDisk),
        (faults.full_disks, What::DiskFull),
        (faults.broken_disks, What::DiskBroken),
        (faults.partitions, What::Cut),
    ] {
        for _ in 0..count {
            let (begin, lasts) = span(until, rng);
            let pcs = match what {
                What::Cut => (1..=machines).filter(|_| below(rng, 2) == 1).collect(),
                _ => vec![1 + below(rng, machines as u64) as usize],
            };
            let percent = 1 + below(rng, 50) as u32;
            plan.extend(chosen(&[accident(what, begin, lasts, pcs, percent)], machines));
        }
    }
    for _ in 0..faults.master_kills {
        let (begin, lasts) = span(until, rng);
        plan.push((Time(0) + begin, Fault::KillMaster(Some(lasts))));
    }
    for _ in 0..faults.clock_steps {
        let (begin, _) = span(until, rng);
        let step = Duration::from_millis(below(rng, CLOCK_STEP_MAX.as_millis() as u64));
        plan.push((Time(0) + begin, Fault::ClockStep(below(rng, machines as u64) as usize, step)));
    }
    // Overlapping faults of one kind end with the first healing, or here.
    if faults.is_random() {
        plan.extend(healing(machines).into_iter().map(|fault| (end, fault)));
    }
    plan
}

fn accident(what: What, at: Duration, lasts: Duration, pcs: Vec<usize>, percent: u32) -> Accident {
    let span = crate::scenario::Span;
    Accident { at: span(at), what, pcs, lasts: Some(span(lasts)), percent, times: 1, every: span(Duration::ZERO) }
}

/// A random begin and length. Half of them are short: a second and less, where leases and claims overlap.
fn span(until: Duration, rng: &mut ChaCha8Rng) -> (Duration, Duration) {
    let begin = Duration::from_nanos(below(rng, until.as_nanos() as u64));
    let left = (until - begin).as_nanos() as u64;
    let longest = if below(rng, 2) == 0 { left.min(1_000_000_000) } else { left };
    (begin, Duration::from_nanos(below(rng, longest)))
}

/// Everything that puts a room right, whatever happened to it.
fn healing(machines: usize) -> Vec<Fault> {
    let of_machine = |m| {
        [
            Fault::DiskFull(m, false),
            Fault::DiskBroken(m, false),
            Fault::DiskSpeed(m, 100),
            Fault::Link(m, 100),
            Fault::Mute(m, false),
            Fault::Deaf(m, false),
            Fault::Resume(m),
            Fault::Start(m),
        ]
    };
    std::iter::once(Fault::Heal).chain((0..machines).flat_map(of_machine)).collect()
}

#[cfg(test)]
mod tests {
    use rand_chacha::rand_core::SeedableRng;

    use super::*;
    use crate::scenario::Span;

    #[test]
    fn random_faults_are_over_in_time_and_depend_on_nothing_but_the_seed() {
        let until = Duration::from_secs(10);
        let faults =
            Faults { kills: 5, mute: 3, partitions: 2, master_kills: 2, until: Some(Span(until)), ..Faults::default() };
        let draw = |seed| plan(&faults, 7, &mut ChaCha8Rng::seed_from_u64(seed));
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        assert!(draw(1).iter().all(|(at, _)| *at <= Time(0) + until));
        assert!(
            plan(&Faults { until: Some(Span(until)), ..Faults::default() }, 7, &mut ChaCha8Rng::seed_from_u64(1))
                .is_empty()
        );
    }

    #[test]
    fn an_accident_is_repeated_and_put_right() {
        let kill = Accident {
            times: 2,
            every: Span(Duration::from_secs(4)),
            ..accident(What::Kill, Duration::from_secs(5), Duration::from_secs(1), vec![2], 10)
        };
        let second = |s: u64| Time(s * 1_000_000_000);
        let (dies, comes) = (Fault::Kill(1), Fault::Start(1));
        let expected = [(second(5), dies.clone()), (second(6), comes.clone()), (second(9), dies), (second(10), comes)];
        assert_eq!(chosen(&[kill], 3), expected);
    }
}
