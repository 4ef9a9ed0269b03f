//! Rooms that are drawn themselves: how many machines, which images, what goes wrong and how much of it.
//!
//! Rule: small rooms, so that ten thousand seeds are a matter of minutes; every kind of fault is left out in half of
//! the rooms, so that one kind does not hide what another would have shown. Everything is over at [`QUIET_AT`].

use std::time::Duration;

use labmesh_proto::config::{Mode, SeedTime, Weight};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use crate::faults::below;
use crate::scenario::{Faults, Other, Rate, Scenario, Size, Span, Text};

/// The last fault is over.
const QUIET_AT: Duration = Duration::from_secs(20);
/// The room and its faults have chances of their own: the world's are drawn from the seed itself.
const STREAM: u64 = 1;
const MIB: u64 = 1 << 20;

/// The room of that seed.
pub fn drawn(scenario: &Scenario, seed: u64) -> Scenario {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(STREAM);
    let mut room = scenario.clone();
    room.storm = false;
    let machines = 4 + below(&mut rng, 9) as usize;
    let lab = &mut room.lab;
    lab.machines = machines;
    lab.images = 1 + usize::from(below(&mut rng, 4) == 0);
    lab.holders = lab.images + usize::from(below(&mut rng, 3) == 0);
    lab.image = Size(MIB + below(&mut rng, 15 * MIB));
    lab.link = Rate(1_000_000 << below(&mut rng, 7));
    // What one cable carries in two seconds: a dozen leechers of one source are done in time.
    lab.image.0 = lab.image.0.min(2 * lab.link.0);
    lab.latency = Span(Duration::from_micros(50 + below(&mut rng, 3000)));
    lab.buffers = Size(MIB << below(&mut rng, 6));
    lab.seek = Span(Duration::from_millis(below(&mut rng, 8)));
    lab.starts_within = Span(Duration::from_millis(below(&mut rng, 3000)));
    lab.get_at = Span(Duration::from_millis(below(&mut rng, 12_000)));
    lab.mode = mode(&mut rng);
    lab.seed_time = seed_time(&mut rng);
    room.other = (1..=machines).map(|pc| other(pc, room.lab.holders, &mut rng)).collect();
    room.faults = faults(&mut rng);
    room
}

fn mode(rng: &mut ChaCha8Rng) -> Mode {
    [Mode::Leecher, Mode::Peer, Mode::Peer, Mode::Seeder][below(rng, 4) as usize]
}

fn seed_time(rng: &mut ChaCha8Rng) -> Option<Text<SeedTime>> {
    let seconds = SeedTime::For(Duration::from_secs(below(rng, 20)));
    let zero = SeedTime::For(Duration::ZERO);
    [None, Some(zero), Some(seconds), Some(SeedTime::Enough), Some(SeedTime::Forever)][below(rng, 5) as usize].map(Text)
}

/// One machine in four differs in mode, weight or honesty; those who hold an image from the start do not lie.
fn other(pc: usize, holders: usize, rng: &mut ChaCha8Rng) -> Other {
    let mut draw = |of: u64| below(rng, of) == 0;
    let (own_mode, weighty, lies) = (draw(4), draw(4), draw(16));
    let weight = weighty.then(|| Weight::try_from(below(rng, 100) as u8).unwrap_or_default());
    Other {
        pcs: vec![pc],
        up: None,
        down: None,
        disk: None,
        seek: None,
        space: None,
        mode: own_mode.then(|| mode(rng)),
        seed_time: None,
        weight,
        poison_permille: if lies && pc > holders { 1 + below(rng, 1000) as u16 } else { 0 },
    }
}

fn faults(rng: &mut ChaCha8Rng) -> Faults {
    let mut some = |most: u64| {
        let none = below(rng, 2) == 0;
        if none { 0 } else { below(rng, most + 1) }
    };
    Faults {
        master_killed_at_percent: None,
        master_back_after: None,
        kills: some(6) as usize,
        master_kills: some(4) as usize,
        power_cuts: some(3) as usize,
        suspensions: some(3) as usize,
        deaf: some(3) as usize,
        mute: some(3) as usize,
        partitions: some(3) as usize,
        slow_links: some(3) as usize,
        slow_disks: some(3) as usize,
        full_disks: some(2) as usize,
        broken_disks: some(2) as usize,
        clock_steps: some(3) as usize,
        lost_datagrams_permille: some(200) as u16,
        lost_words_permille: some(100) as u16,
        doubled_words_permille: some(100) as u16,
        until: Some(Span(QUIET_AT)),
    }
}
