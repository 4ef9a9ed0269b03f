//! The best that any protocol can do, on the cables of this world: the binomial pipeline.
//!
//! With one block a round up and one down for each machine, `n` machines of which one has the image need
//! `k - 1 + ceil(log2 n)` rounds for `k` blocks, and the hypercube schedule of Ganesan and Seshadri ("On Cooperative
//! Content Distribution and the Price of Barter", ICDCS 2005) needs no more: in round `t` every vertex sends the highest
//! block that it has along dimension `t mod l`, and the source sends block `t`. If `n` is no power of two, vertices are
//! single machines or twins: one of two twins sends out while it is given what it lacks by the other, which receives.
//!
//! Here these senders drive the same servers as the nodes do, and wait for each other after each round, so what comes
//! out is the model's own: that both ways of a cable are independent, that nobody is in the way of another pair, and
//! that a block takes its time and no more.

use std::collections::BTreeSet;
use std::time::Duration;

use labmesh_proto::id::{Geometry, ImageIndex, Time};

use crate::network::{End, Item, Network, Step, wire_time};
use crate::queue::Queue;

const LATENCY: Duration = Duration::from_micros(100);
const BYTES_PER_SECOND: u64 = 125_000_000;
/// What a round moves: a piece, cut into blocks that follow each other through both servers.
const PIECE: u32 = 1 << 20;
const BLOCK: u32 = 1 << 16;

/// A transfer of one round: from, to, block of the image.
type Transfer = (usize, usize, u32);

/// The schedule's room: which blocks each machine has; machine 0 has all.
struct Room {
    blocks: u32,
    has: Vec<BTreeSet<u32>>,
    dimensions: u32,
}

impl Room {
    fn new(machines: usize, blocks: u32) -> Self {
        let mut has = vec![BTreeSet::new(); machines];
        has[0] = (0..blocks).collect();
        Self { blocks, has, dimensions: machines.ilog2() }
    }

    fn is_done(&self) -> bool {
        self.has.iter().all(|has| has.len() == self.blocks as usize)
    }

    /// The machines of a vertex: one, or twins; the source is alone.
    fn members(&self, vertex: usize) -> Vec<usize> {
        let twin = vertex + (1 << self.dimensions) - 1;
        let alone = vertex == 0 || twin >= self.has.len();
        if alone { vec![vertex] } else { vec![vertex, twin] }
    }

    /// Of the members of a vertex the one that sends in this round, and what; and the one that receives.
    fn roles(&self, round: u32, vertex: usize) -> (usize, Option<u32>, usize) {
        let members = self.members(vertex);
        let highest = members.iter().filter_map(|m| self.has[*m].last().copied()).max();
        let block = if vertex == 0 { Some(round.min(self.blocks - 1)) } else { highest };
        let sends = members.iter().copied().find(|m| block.is_some_and(|b| self.has[*m].contains(&b)));
        let sends = sends.unwrap_or(members[0]);
        let receives = members.iter().copied().find(|m| *m != sends).unwrap_or(sends);
        (sends, block, receives)
    }

    fn transfers(&self, round: u32) -> Vec<Transfer> {
        let mut transfers = Vec::new();
        for vertex in 0..1usize << self.dimensions {
            let (sends, block, receives) = self.roles(round, vertex);
            let partner = if self.dimensions > 0 { vertex ^ (1 << (round % self.dimensions)) } else { vertex };
            let (_, _, to) = self.roles(round, partner);
            let new = |block: &u32| self.members(partner).iter().all(|m| !self.has[*m].contains(block));
            let out = block.filter(|block| partner != 0 && new(block));
            transfers.extend(out.map(|block| (sends, to, block)));
            let lacks = |from: usize, to: usize| self.has[from].difference(&self.has[to]).next().copied();
            if receives != sends {
                transfers.extend(lacks(receives, sends).map(|block| (receives, sends, block)));
                // Once nothing more comes in or goes out, both ways between the twins are free.
                let comes_in = self
                    .roles(round, partner)
                    .1
                    .is_some_and(|block| self.members(vertex).iter().all(|m| !self.has[*m].contains(&block)));
                if out.is_none() && !comes_in {
                    transfers.extend(lacks(sends, receives).map(|block| (sends, receives, block)));
                }
            }
        }
        transfers
    }
}

/// Moves a round's pieces over the cables; when the last has arrived.
fn carry(network: &mut Network, now: Time, transfers: &[Transfer]) -> Time {
    let (mut queue, mut steps, mut last) = (Queue::new(), Vec::new(), now);
    let geometry = Geometry::new(u64::from(PIECE), PIECE).unwrap();
    for (from, to, _) in transfers {
        let conn = network.connect([*from, *to], [0, 0], ImageIndex(0));
        for offset in (0..PIECE).step_by(BLOCK as usize) {
            let block = geometry.block(0, offset, BLOCK).unwrap();
            network.send(now, End { conn, side: 0 }, Item::Block(block), &mut steps);
        }
    }
    loop {
        steps.drain(..).for_each(|(at, step)| queue.push(at, step));
        let Some((now, step)) = queue.pop() else { return last };
        match step {
            Step::UpDone(machine) => drop(network.up_done(now, machine, &mut steps)),
            Step::Arrive(end, item) => network.arrive(now, end, item, &mut steps),
            Step::DownDone(machine) => {
                let (end, _) = network.down_done(now, machine, &mut steps).unwrap();
                network.queue_down(now, end, &mut steps);
                last = now;
            }
        }
    }
}

/// Plays the schedule; how many rounds it took, and how long.
fn play(machines: usize, blocks: u32) -> (u32, Duration) {
    let mut room = Room::new(machines, blocks);
    let mut network = Network::new(LATENCY, u64::from(PIECE));
    (0..machines).for_each(|_| network.add(BYTES_PER_SECOND, BYTES_PER_SECOND));
    let (mut rounds, mut now) = (0, Time(0));
    while !room.is_done() {
        let transfers = room.transfers(rounds);
        assert!(!transfers.is_empty(), "{machines} machines, {blocks} blocks: round {rounds} moves nothing");
        now = carry(&mut network, now, &transfers);
        for (_, to, block) in transfers {
            assert!(room.has[to].insert(block), "machine {to} is given block {block} twice");
        }
        rounds += 1;
    }
    (rounds, now.since(Time(0)))
}

#[test]
fn the_binomial_pipeline_needs_its_rounds_and_the_cables_their_time() {
    let sizes = [2, 4, 8, 16, 64, 128].into_iter().chain([3, 5, 6, 7, 9, 11, 13, 23, 24, 31, 33, 100]);
    // Up and down one block after the other, so the last of a piece is one block later down than up.
    let blocks_on_the_way = 1 + PIECE / BLOCK;
    let round = wire_time(u64::from(BLOCK), BYTES_PER_SECOND) * blocks_on_the_way + LATENCY;
    for machines in sizes {
        for blocks in [1, 2, 7, 40] {
            let (rounds, took) = play(machines, blocks);
            let least = blocks - 1 + machines.next_power_of_two().ilog2();
            assert_eq!((rounds, took), (least, round * least), "{machines} machines, {blocks} blocks");
        }
    }
}
