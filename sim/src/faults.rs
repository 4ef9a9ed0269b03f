//! What goes wrong when, drawn from the seed; and who may reach whom meanwhile.
//!
//! Rule: every fault that begins before `until` is healed at `until` at the latest, so that what follows is quiet.

use std::time::Duration;

use labmesh_proto::id::Time;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::Rng;

use crate::scenario::Faults;

/// One thing that goes wrong, or is put right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The program is killed: its connections are closed by the kernel, its ports refuse.
    Kill(usize),
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
    /// The room is cut: machines reach only those with the same number.
    Cut(Vec<u8>),
    /// The room is one again.
    Heal,
    /// From now on of a thousand datagrams so many are lost.
    Loss(u16),
}

/// A number below `limit`, which is at least 1. The bias of a remainder of 64 bits is nobody's concern here.
pub fn below(rng: &mut ChaCha8Rng, limit: u64) -> u64 {
    rng.next_u64() % limit.max(1)
}

/// The random faults of a run, each with its moment.
pub fn plan(faults: &Faults, machines: usize, rng: &mut ChaCha8Rng) -> Vec<(Time, Fault)> {
    let Some(until) = faults.until.map(|until| until.0) else { return Vec::new() };
    let mut plan = Vec::new();
    if faults.lost_datagrams_permille > 0 {
        plan.push((Time(0), Fault::Loss(faults.lost_datagrams_permille)));
        plan.push((Time(0) + until, Fault::Loss(0)));
    }
    let mut draw = |count: usize, fault: &dyn Fn(usize) -> (Fault, Fault)| {
        for _ in 0..count {
            let span = until.as_nanos() as u64;
            let begin = Duration::from_nanos(below(rng, span));
            let left = (until - begin).as_nanos() as u64;
            // Half of the faults are short: a second and less, where leases and claims overlap.
            let longest = if below(rng, 2) == 0 { left.min(1_000_000_000) } else { left };
            let (what, healed) = fault(below(rng, machines as u64) as usize);
            plan.push((Time(0) + begin, what));
            plan.push((Time(0) + begin + Duration::from_nanos(below(rng, longest)), healed));
        }
    };
    draw(faults.kills, &|m| (Fault::Kill(m), Fault::Start(m)));
    draw(faults.power_cuts, &|m| (Fault::PowerCut(m), Fault::Start(m)));
    draw(faults.suspensions, &|m| (Fault::Suspend(m), Fault::Resume(m)));
    draw(faults.deaf, &|m| (Fault::Deaf(m, true), Fault::Deaf(m, false)));
    for _ in 0..faults.partitions {
        let sides: Vec<u8> = (0..machines).map(|_| below(rng, 2) as u8).collect();
        let begin = below(rng, until.as_nanos() as u64);
        let end = begin + below(rng, until.as_nanos() as u64 - begin);
        plan.push((Time(begin), Fault::Cut(sides)));
        plan.push((Time(end), Fault::Heal));
    }
    // Overlapping faults of one kind end with the first healing, or here.
    plan.push((Time(0) + until, Fault::Heal));
    for m in 0..machines {
        plan.extend([Fault::Resume(m), Fault::Deaf(m, false), Fault::Start(m)].map(|f| (Time(0) + until, f)));
    }
    plan
}
