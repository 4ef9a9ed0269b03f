//! Without a master: ask whether it really is gone, then claim in the order of the succession list.
//!
//! Rule: whoever answers with a newer heartbeat stops the claim; whoever answers at all proves that this node is not
//! alone. A node that nobody answers raises no term: it is solo.

use std::time::Duration;

use super::{Election, Output, State};
use crate::config::{LEASE, LISTEN, OBJECTION, RANK_STEP};
use crate::id::{Epoch, NodeId, Time};
use crate::wire::control::Message;

/// Ranks beyond this wait no longer, so that a claim comes at most a lease after the master was lost. Of several that
/// are left then the better one goes first, since they ask each other.
const RANK_MAX: usize = 6;
/// Whoever has to wait longer asks meanwhile: most elections are over by then, and who is alone finds out.
const ASK_AFTER: Duration = Duration::from_millis(2 * RANK_STEP.as_millis() as u64);
/// How many nodes that were not chosen by the master are asked.
const ASK_RANDOM: usize = 3;
/// How long answers may take under load before this node believes that a connection is dead; if all are, that it
/// reaches nobody.
pub(super) const PATIENCE: Duration = Duration::from_millis(3 * OBJECTION.as_millis() as u64);
/// How long a disk may take for one epoch before the claim is given up.
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
    /// Others come first; ask at `ask_at`, claim not before `until`.
    Waiting { ask_at: Time, until: Time },
    /// Questions are out. `asked` shrinks as answers come.
    Asking { asked: Vec<NodeId>, answered: u32, since: Time, until: Time },
    /// The epoch is on its way to the disk.
    Claiming { term: u64, reach: u32, until: Time },
}

impl Phase {
    fn waiting(now: Time, wait: Duration) -> Self {
        Self::Waiting { ask_at: now + wait.min(ASK_AFTER), until: now + wait }
    }
}

impl Candidate {
    pub(super) fn deadline(&self) -> (Time, &'static str) {
        match &self.phase {
            Phase::Waiting { ask_at, .. } => (*ask_at, "election: wait for better candidates"),
            Phase::Asking { answered: 0, since, .. } => (*since + PATIENCE, "election: wait for an answer"),
            Phase::Asking { until, .. } => (*until, "election: wait for objections"),
            Phase::Claiming { until, .. } => (*until, "election: wait for the disk"),
        }
    }
}

impl Election {
    /// Becomes a candidate that asks after `wait`.
    pub(super) fn stand(&mut self, now: Time, wait: Duration) {
        self.wait(now, wait);
        if wait.is_zero() {
            self.ask(now, now);
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

    /// Asks, to claim at `until` or when answers have had their time.
    fn ask(&mut self, now: Time, until: Time) {
        if let Some(term) = self.next_term() {
            // Written while the answers travel, so that the disk costs the claim no time.
            self.persist(Epoch { term, node: self.me });
        }
        let asked = self.whom_to_ask();
        if asked.is_empty() {
            return self.become_solo(now);
        }
        for to in &asked {
            self.question(now, *to);
        }
        let phase = Phase::Asking { asked, answered: 0, since: now, until: until.max(now) + OBJECTION };
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
        let State::Candidate(Candidate { phase: Phase::Asking { asked, answered, until, .. }, .. }) = &mut self.state
        else {
            return;
        };
        let before = asked.len();
        asked.retain(|node| *node != from);
        *answered += u32::from(asked.len() < before);
        // Late answers under load: the time for objections has passed, this was what the claim waited for.
        if *answered == 1 && now >= *until {
            self.claim(now, 2);
        }
    }

    pub(super) fn candidate_timeout(&mut self, now: Time) {
        let State::Candidate(candidate) = &mut self.state else { return };
        if now < candidate.deadline().0 {
            return;
        }
        match &mut candidate.phase {
            Phase::Waiting { until, .. } => {
                let until = *until;
                self.ask(now, until);
            }
            Phase::Asking { answered: 0, .. } => self.become_solo(now),
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

    /// The term of a claim, if this node may claim.
    fn next_term(&self) -> Option<u64> {
        self.highest.term.max(self.rumoured).checked_add(1).filter(|_| self.weight.get() > 0)
    }

    /// Takes the next term, once it is on disk; `reach` is how many nodes this one knows to be on its side.
    pub(super) fn claim(&mut self, now: Time, reach: u32) {
        let Some(term) = self.next_term() else { return self.wait(now, RETRY) };
        if self.is_on_disk(term) {
            return self.become_master(now, term, reach);
        }
        self.persist(Epoch { term, node: self.me });
        let phase = Phase::Claiming { term, reach, until: now + PERSIST_PATIENCE };
        self.state = State::Candidate(Candidate { phase, deferred: 0 });
    }

    fn wait(&mut self, now: Time, wait: Duration) {
        self.state = State::Candidate(Candidate { phase: Phase::waiting(now, wait), deferred: 0 });
    }

    /// A better candidate asks as well: it goes first. One of unknown weight may think the same of us.
    pub(super) fn defer(&mut self, now: Time, other: NodeId) {
        let known = self.succession.contains(&other) || self.members.iter().any(|(member, _)| *member == other);
        // Not by rank: two lists of different age may each put the other node first.
        if known && self.preference(other) < self.preference(self.me) {
            self.step_back(now, OBJECTION + RANK_STEP);
        }
    }

    /// A master of a lower epoch lives: it was asked to raise its term, which is better than a claim against it.
    pub(super) fn postpone(&mut self, now: Time) {
        match &mut self.state {
            State::Candidate(_) => self.step_back(now, LEASE),
            State::Listening { until, .. } => *until = (*until).max(now + LISTEN),
            State::Follower(_) | State::Master(_) | State::Left => {}
        }
    }

    fn step_back(&mut self, now: Time, wait: Duration) {
        let State::Candidate(candidate) = &mut self.state else { return };
        if candidate.deferred >= DEFER_MAX || matches!(candidate.phase, Phase::Claiming { .. }) {
            return;
        }
        if now + wait > candidate.deadline().0 {
            candidate.deferred += 1;
            candidate.phase = Phase::waiting(now, wait);
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
