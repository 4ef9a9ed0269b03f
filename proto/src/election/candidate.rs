//! Without a master: ask whether it really is gone, then claim in the order of the succession list.
//!
//! Rule: whoever answers with a newer heartbeat stops the claim; whoever answers at all proves that this node is not
//! alone. A node that nobody answers raises no term: it is solo.

use std::time::Duration;

use super::{Election, Output, State};
use crate::config::{LEASE, LISTEN, OBJECTION, RANK_STEP};
use crate::id::{NodeId, Time};
use crate::wire::control::Message;

/// Ranks beyond this wait no longer: whoever is left when nine better ones are dead need not count them.
const RANK_MAX: usize = 9;
/// How many nodes that were not chosen by the master are asked.
const ASK_RANDOM: usize = 3;
/// How long answers may take under load before this node believes that it reaches nobody.
const PATIENCE: Duration = Duration::from_millis(3 * OBJECTION.as_millis() as u64);
/// How long a disk may take for one number before the claim is given up.
const PERSIST_PATIENCE: Duration = Duration::from_secs(2);
/// Between two attempts of a node that may not be master itself, or whose claim came to nothing.
const RETRY: Duration = Duration::from_secs(1);
/// How often one candidacy steps back for others, so that one that never gets to claim cannot hold up the mesh.
const DEFER_MAX: u8 = 6;

#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) phase: Phase,
    deferred: u8,
}

#[derive(Debug)]
pub(super) enum Phase {
    /// Others come first.
    Waiting { until: Time },
    /// Questions are out. `asked` shrinks as answers come.
    Asking { asked: Vec<NodeId>, answered: u32, since: Time, until: Time },
    /// The term is on its way to the disk.
    Claiming { term: u64, reach: u32, until: Time },
}

impl Candidate {
    pub(super) fn deadline(&self) -> (Time, &'static str) {
        match &self.phase {
            Phase::Waiting { until } => (*until, "election: wait for better candidates"),
            Phase::Asking { until, .. } => (*until, "election: wait for objections"),
            Phase::Claiming { until, .. } => (*until, "election: wait for the disk"),
        }
    }
}

impl Election {
    /// Becomes a candidate that asks after `wait`.
    pub(super) fn stand(&mut self, now: Time, wait: Duration) {
        self.state = State::Candidate(Candidate { phase: Phase::Waiting { until: now + wait }, deferred: 0 });
        if wait.is_zero() {
            self.ask(now);
        }
    }

    /// How long that node lets better ones go first.
    pub(super) fn patience_of(&self, node: NodeId) -> Duration {
        RANK_STEP * self.rank(node).min(RANK_MAX) as u32
    }

    /// The place in the last list heard; others come after the list, by weight and NodeId.
    fn rank(&self, node: NodeId) -> usize {
        if let Some(place) = self.succession.iter().position(|listed| *listed == node) {
            return place;
        }
        let lost = self.highest.node;
        let key = self.preference(node);
        let others = self.up.iter().chain(self.members.iter().map(|(other, _)| other)).chain([&self.me]);
        let mut ahead: Vec<NodeId> = others
            .filter(|other| **other != lost && !self.succession.contains(other) && self.preference(**other) < key)
            .copied()
            .collect();
        ahead.sort_unstable();
        ahead.dedup();
        self.succession.len() + ahead.len()
    }

    /// Ordered so that the better candidate is the lower one.
    fn preference(&self, node: NodeId) -> (u8, NodeId) {
        let known = self.members.iter().find(|(other, _)| *other == node).map(|(_, weight)| *weight);
        let weight = if node == self.me { self.weight } else { known.unwrap_or_default() };
        (u8::MAX - weight.get(), node)
    }

    fn ask(&mut self, now: Time) {
        if let Some(term) = self.highest.term.checked_add(1).filter(|_| self.weight.get() > 0) {
            // Written while the answers travel, so that the disk costs the claim no time.
            self.persist(term);
        }
        let asked = self.whom_to_ask();
        if asked.is_empty() {
            return self.be_alone(now);
        }
        for to in &asked {
            self.send(*to, Message::Ask(self.highest));
        }
        let phase = Phase::Asking { asked, answered: 0, since: now, until: now + OBJECTION };
        if let State::Candidate(candidate) = &mut self.state {
            candidate.phase = phase;
        }
    }

    /// The lost master, its deputies, and three others by chance; of those, whom a connection reaches.
    pub(super) fn whom_to_ask(&mut self) -> Vec<NodeId> {
        let master = self.highest.node;
        let mut asked = vec![master];
        asked.extend(self.succession.iter().filter(|node| **node != self.me && **node != master));
        asked.retain(|node| self.up.contains(node));
        let mut others: Vec<NodeId> = self.up.iter().filter(|node| !asked.contains(node)).copied().collect();
        for _ in 0..ASK_RANDOM.min(others.len()) {
            let chosen = self.below(others.len());
            asked.push(others.swap_remove(chosen));
        }
        asked
    }

    pub(super) fn count_answer(&mut self, now: Time, from: NodeId) {
        let State::Candidate(Candidate { phase: Phase::Asking { asked, answered, since, .. }, .. }) = &mut self.state
        else {
            return;
        };
        let before = asked.len();
        asked.retain(|node| *node != from);
        *answered += u32::from(asked.len() < before);
        // Late answers under load: the time for objections has passed, this was what the claim waited for.
        if *answered == 1 && now >= *since + OBJECTION {
            self.claim(now, 2);
        }
    }

    pub(super) fn candidate_timeout(&mut self, now: Time) {
        let State::Candidate(candidate) = &mut self.state else { return };
        if now < candidate.deadline().0 {
            return;
        }
        match &mut candidate.phase {
            Phase::Waiting { .. } => self.ask(now),
            Phase::Asking { answered: 0, since, until, .. } if now < *since + PATIENCE => *until = *since + PATIENCE,
            Phase::Asking { answered: 0, .. } => self.be_alone(now),
            Phase::Asking { answered, .. } => {
                let reach = *answered + 1;
                self.claim(now, reach);
            }
            Phase::Claiming { .. } => {
                self.to_disk = self.on_disk;
                self.wait(now, RETRY);
            }
        }
    }

    /// Takes the next term, once it is on disk; `reach` is how many nodes this one knows to be on its side.
    pub(super) fn claim(&mut self, now: Time, reach: u32) {
        let Some(term) = self.highest.term.checked_add(1).filter(|_| self.weight.get() > 0) else {
            return self.wait(now, RETRY);
        };
        if self.on_disk >= term {
            return self.become_master(now, term, reach);
        }
        self.persist(term);
        let phase = Phase::Claiming { term, reach, until: now + PERSIST_PATIENCE };
        self.state = State::Candidate(Candidate { phase, deferred: 0 });
    }

    fn be_alone(&mut self, now: Time) {
        if self.weight.get() > 0 {
            self.become_solo(now);
        } else {
            self.wait(now, RETRY);
        }
    }

    fn wait(&mut self, now: Time, wait: Duration) {
        self.state = State::Candidate(Candidate { phase: Phase::Waiting { until: now + wait }, deferred: 0 });
    }

    /// A better candidate asks as well: it goes first. One of unknown weight may think the same of us.
    pub(super) fn defer(&mut self, now: Time, other: NodeId) {
        let known = self.succession.contains(&other) || self.members.iter().any(|(member, _)| *member == other);
        if known && self.rank(other) < self.rank(self.me) {
            self.step_back(now + OBJECTION + RANK_STEP);
        }
    }

    /// A master of a lower epoch lives: it was asked to raise its term, which is better than a claim against it.
    pub(super) fn postpone(&mut self, now: Time) {
        match &mut self.state {
            State::Candidate(_) => self.step_back(now + LEASE),
            State::Listening { until } => *until = (*until).max(now + LISTEN),
            State::Follower(_) | State::Master(_) | State::Left => {}
        }
    }

    fn step_back(&mut self, until: Time) {
        let State::Candidate(candidate) = &mut self.state else { return };
        if candidate.deferred >= DEFER_MAX || matches!(candidate.phase, Phase::Claiming { .. }) {
            return;
        }
        if until > candidate.deadline().0 {
            candidate.deferred += 1;
            candidate.phase = Phase::Waiting { until };
        }
    }

    pub(super) fn on_force_claim(&mut self, now: Time) {
        if self.weight.get() == 0 {
            return;
        }
        match &mut self.state {
            State::Follower(follower) => {
                let epoch = follower.epoch;
                follower.force_at = Some(now + LEASE);
                self.outputs.push_back(Output::Send { to: epoch.node, message: Message::Yield(epoch) });
            }
            State::Listening { .. } | State::Candidate(_) => self.claim(now, self.up.len() as u32 + 1),
            State::Master(_) | State::Left => {}
        }
    }
}
