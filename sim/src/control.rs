//! Control connections, and what a partition does to them.
//!
//! Model: a connection is known to each of its two ends by itself. During a partition nothing passes and nothing is
//! noticed; what was said on a connection that still stands is delivered up to [`RETRANSMISSION`] after the heal, in
//! order, however old it is by then, as TCP does.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use labmesh_proto::id::Time;
use labmesh_proto::wire::control::Message;

/// How long TCP needs to try again after a cut of some ten seconds (3.1-3.3 s were measured with libp2p). The wait
/// between two tries doubles, so after a shorter cut it is at most as long as that.
pub const RETRANSMISSION: Duration = Duration::from_secs(3);
/// How long a dial into nowhere takes to be given up.
pub const DIAL_TIMEOUT: Duration = Duration::from_secs(3);

/// What travels on a connection.
#[derive(Clone, Debug)]
pub enum Word {
    /// A message.
    Say(Message),
    /// The connection was closed by the other side.
    End,
}

/// What a partition keeps back.
#[derive(Debug)]
struct Held {
    since: Time,
    words: VecDeque<Word>,
}

/// Which machines are connected, each by its own knowledge.
#[derive(Debug, Default)]
pub struct Control {
    up: Vec<BTreeSet<usize>>,
    held: BTreeMap<(usize, usize), Held>,
}

impl Control {
    /// One machine more.
    pub fn add(&mut self) {
        self.up.push(BTreeSet::new());
    }

    /// Whether `machine` believes to be connected with `other`.
    pub fn is_up(&self, machine: usize, other: usize) -> bool {
        self.up[machine].contains(&other)
    }

    /// `machine` learns of a connection; whether it is news.
    pub fn up(&mut self, machine: usize, other: usize) -> bool {
        self.held.remove(&(machine, other));
        self.held.remove(&(other, machine));
        self.up[machine].insert(other)
    }

    /// `machine` closes, or learns that the other side has; whether it had one.
    pub fn down(&mut self, machine: usize, other: usize) -> bool {
        self.held.remove(&(machine, other));
        self.up[machine].remove(&other)
    }

    /// Everybody that `machine` believes to be connected with.
    pub fn of(&self, machine: usize) -> impl Iterator<Item = usize> + '_ {
        self.up[machine].iter().copied()
    }

    /// `machine` has lost its memory; whom it was connected with.
    pub fn forget(&mut self, machine: usize) -> BTreeSet<usize> {
        self.held.retain(|(from, _), _| *from != machine);
        std::mem::take(&mut self.up[machine])
    }

    /// A word that a partition keeps back.
    pub fn hold(&mut self, now: Time, from: usize, to: usize, word: Word) {
        let held = self.held.entry((from, to)).or_insert_with(|| Held { since: now, words: VecDeque::new() });
        held.words.push_back(word);
    }

    /// Whether something is kept back, which what follows must not overtake.
    pub fn is_holding(&self, from: usize, to: usize) -> bool {
        self.held.contains_key(&(from, to))
    }

    /// Between whom something is kept back, and how long it takes to arrive if nothing is in its way any more.
    pub fn held(&self, now: Time) -> impl Iterator<Item = ((usize, usize), Duration)> {
        self.held.iter().map(move |(pair, held)| (*pair, RETRANSMISSION.min(now.since(held.since))))
    }

    /// Everything that was kept back on that way.
    pub fn release(&mut self, from: usize, to: usize) -> VecDeque<Word> {
        self.held.remove(&(from, to)).map(|held| held.words).unwrap_or_default()
    }

    /// Who hears gossip of `machine`, and over how many hops: everybody whom chains of connections reach where both
    /// ends know of them and `passes` lets them through.
    pub fn gossip(&self, machine: usize, passes: impl Fn(usize, usize) -> bool) -> Vec<(usize, u32)> {
        let mut heard = BTreeSet::from([machine]);
        let (mut ring, mut reached, mut hops) = (vec![machine], Vec::new(), 0);
        while !ring.is_empty() {
            hops += 1;
            let mut next = Vec::new();
            for from in ring {
                for to in self.of(from) {
                    if self.is_up(to, from) && passes(from, to) && heard.insert(to) {
                        next.push(to);
                        reached.push((to, hops));
                    }
                }
            }
            ring = next;
        }
        reached
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gossip_follows_connections_that_both_ends_know() {
        let mut control = Control::default();
        (0..5).for_each(|_| control.add());
        for (a, b) in [(0, 1), (1, 2), (3, 4)] {
            assert!(control.up(a, b) && control.up(b, a) && !control.up(a, b));
        }
        control.up(2, 3);
        assert_eq!(control.gossip(0, |_, _| true), [(1, 1), (2, 2)]);
        assert_eq!(control.gossip(0, |_, to| to != 2), [(1, 1)]);
    }

    #[test]
    fn what_is_held_back_keeps_its_order_and_dies_with_its_connection() {
        let mut control = Control::default();
        (0..2).for_each(|_| control.add());
        control.up(0, 1);
        control.hold(Time(0), 0, 1, Word::Say(Message::HoldingsWanted));
        control.hold(Time(5), 0, 1, Word::End);
        assert_eq!(control.held(Time(9)).collect::<Vec<_>>(), [((0, 1), Duration::from_nanos(9))]);
        assert!(matches!(control.release(0, 1).make_contiguous(), [Word::Say(_), Word::End]));
        control.hold(Time(9), 0, 1, Word::End);
        assert!(control.down(0, 1) && !control.down(0, 1));
        assert!(control.release(0, 1).is_empty());
    }
}
