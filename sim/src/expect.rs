//! What a scenario expects of its end, and what it cannot expect: the limit of its links.
//!
//! Rule: with no `[expect]` at all everybody who asked must be complete, and the books must be true.

use std::time::Duration;

use crate::network::wire_time;
use crate::scenario::Scenario;
use crate::world::World;

/// Bytes by which a cable is measured.
const PAYLOAD_PROBE: u64 = 1_000_000_000;

/// Everything that the scenario expected and did not get; asked when the world has ended.
pub fn shortcomings(scenario: &Scenario, world: &mut World) -> Vec<String> {
    let expect = &scenario.expect;
    let mut found = late(scenario, world);
    found.extend(missing("failed", &expect.failed, &world.failed()));
    found.extend(missing("away", &expect.away, &world.away()));
    let size = scenario.lab.image.0.max(1) as f64;
    let (sent, received) = world.traffic();
    let source = sent.first().map_or(0.0, |sent| *sent as f64 / size);
    let all = received.iter().sum::<u64>() as f64 / (size * needed(world) as f64);
    let uplink = world.between_sites().iter().map(|sent| *sent as f64 / size).fold(0.0, f64::max);
    let mut at_most = |what: &str, got: f64, most: Option<f64>| {
        if let Some(most) = most.filter(|most| got > *most) {
            found.push(format!("{what} {got:.3}, expected at most {most}"));
        }
    };
    at_most("copies sent by the source:", source, expect.source_copies);
    at_most("received of what is needed:", all, expect.received);
    at_most("copies over the uplink:", uplink, expect.uplink_copies);
    at_most("machines that seed at the end:", world.seeding() as f64, expect.seeding_at_end.map(|most| most as f64));
    if world.refusals() < expect.refusals {
        found.push(format!("{} peers were refused, expected at least {}", world.refusals(), expect.refusals));
    }
    found.extend(world.books_are_true().err());
    found
}

/// Copies that are needed.
fn needed(world: &World) -> usize {
    (world.takers().len() * world.images().max(1)).max(1)
}

/// Who is not complete, or not in time.
fn late(scenario: &Scenario, world: &World) -> Vec<String> {
    let expect = &scenario.expect;
    let times = world.takers();
    let liars = world.liars();
    let should = |pc: &usize| ![&expect.failed, &expect.away, &liars].into_iter().any(|list| list.contains(pc));
    let incomplete: Vec<usize> =
        times.iter().filter(|(pc, time)| time.is_none() && should(pc)).map(|(pc, _)| *pc).collect();
    let mut found = Vec::new();
    if !incomplete.is_empty() {
        found.push(format!("not complete: machines {incomplete:?}"));
    }
    let in_time = times.iter().filter(|(pc, _)| !expect.slow.contains(pc) && should(pc));
    let last = in_time.filter_map(|(_, time)| *time).max().unwrap_or_default();
    let time_of = |is_first: bool| {
        let those = times.iter().filter(move |(pc, _)| expect.first.contains(pc) == is_first);
        those.filter_map(|(_, time)| *time)
    };
    if let (Some(last_of_first), Some(next)) = (time_of(true).max(), time_of(false).min())
        && next < last_of_first
    {
        found.push(format!(
            "one of {:?} was complete after {last_of_first:.3?}, another after {next:.3?}",
            expect.first
        ));
    }
    let by_limit = expect.over_limit.map(|over| Duration::from_secs_f64(limit(scenario) * over));
    for within in expect.complete_within.map(|within| within.0).into_iter().chain(by_limit) {
        if last > within {
            found.push(format!("complete after {last:.3?}, expected within {within:.3?}"));
        }
    }
    found
}

fn missing(what: &str, expected: &[usize], got: &[usize]) -> Option<String> {
    let mut expected = expected.to_vec();
    expected.sort_unstable();
    (expected != got).then(|| format!("{what}: machines {got:?}, expected {expected:?}"))
}

/// The fluid bound in seconds, with the headers of each block: no protocol is faster (Kumar and Ross 2006). 0 without
/// an image. Machines in `slow` do not count as receivers, who come later and who lie count as everybody.
pub fn limit(scenario: &Scenario) -> f64 {
    let lab = &scenario.lab;
    let machines = scenario.machines();
    let wants = |pc: usize| pc > lab.holders || lab.images > 1;
    let takers: Vec<usize> = (1..=machines).filter(|pc| wants(*pc) && !scenario.expect.slow.contains(pc)).collect();
    if lab.image.0 == 0 || takers.is_empty() {
        return 0.0;
    }
    let other = |pc: usize| scenario.other.iter().rev().filter(move |other| other.pcs.contains(&pc));
    let up = |pc: usize| payload(other(pc).find_map(|o| o.up).unwrap_or(lab.link).0);
    let down = |pc: usize| payload(other(pc).find_map(|o| o.down).unwrap_or(lab.link).0);
    let size = lab.image.0 as f64;
    let each = size * if lab.images > 1 { lab.images as f64 - 1.0 } else { 1.0 };
    let slowest = takers.iter().map(|pc| down(*pc)).fold(f64::INFINITY, f64::min);
    let source: f64 = (1..=lab.holders).map(up).sum();
    // Who uploads nothing while it downloads gives nothing to the others before they are done.
    let gives = |pc: usize| pc <= lab.holders || !lab.stop_when_complete;
    let all: f64 = (1..=machines).filter(|pc| gives(*pc)).map(up).sum();
    (each / slowest).max(size * lab.images as f64 / source).max(takers.len() as f64 * each / all)
}

/// Payload bytes a second of a cable.
fn payload(bytes_per_second: u64) -> f64 {
    PAYLOAD_PROBE as f64 / wire_time(PAYLOAD_PROBE, bytes_per_second.max(1)).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(lab: &str) -> Scenario {
        let text = format!("about = \"a room\"\n[lab]\nlink = \"100MB/s\"\nimage = \"1GB\"\nends_at = \"9min\"\n{lab}");
        Scenario::parse(&text).unwrap()
    }

    #[track_caller]
    fn limit_is(lab: &str, seconds: f64) {
        let wire = seconds * 1538.0 / 1448.0;
        let found = limit(&room(lab));
        assert!((found / wire - 1.0).abs() < 1e-6, "{found}, expected {wire}");
    }

    #[test]
    fn the_limit_is_that_of_kumar_and_ross() {
        limit_is("machines = 2", 10.0);
        limit_is("machines = 30", 10.0);
        limit_is("machines = 5\nstop_when_complete = true", 40.0);
        limit_is("machines = 4\n[[other]]\npcs = [2]\ndown = \"10MB/s\"", 100.0);
        limit_is("machines = 4\n[[other]]\npcs = [2]\ndown = \"10MB/s\"\n[expect]\nslow = [2]", 10.0);
        limit_is("machines = 4\n[[other]]\npcs = [1]\nup = \"50MB/s\"", 20.0);
    }
}
