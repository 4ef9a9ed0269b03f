//! As master: heartbeats, other masters, the goodbye.
//!
//! Rule: of two masters that meet the one with more live members stays, then the higher epoch; it takes a term above
//! both, the other says goodbye to its followers, hands over and follows. A solo loses to every master. Nobody yields to
//! one word of hearsay: a connection that a cut has silenced delivers, seconds later, what a master said that is dead.

use std::time::Duration;

use super::{BACKLOG, Election, Output, State};
use crate::config::{BEACON_EVERY, BEAT_EVERY, LEASE};
use crate::id::{Epoch, NodeId, Time};
use crate::wire::control::{Beat, Message};

/// Heartbeats between two beacons.
const BEATS_PER_BEACON: u64 = (BEACON_EVERY.as_millis() / BEAT_EVERY.as_millis()) as u64;
/// Heartbeats between two that also go by gossip as a second path.
const BEATS_PER_GOSSIP: u64 = 10;
/// Hearsay of a rival is confirmed by newer hearsay within this: two heartbeats of its gossip.
const CONFIRMED_WITHIN: Duration = Duration::from_millis(2 * BEATS_PER_GOSSIP * BEAT_EVERY.as_millis() as u64);
/// A master that nobody has greeted for so long is solo: longer than followers take for a greeting, and a new one.
const ALONE: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(super) struct Master {
    pub(super) epoch: Epoch,
    pub(super) solo: bool,
    seq: u64,
    /// Live members, this node included.
    pub(super) members: u32,
    pub(super) next_beat: Time,
    /// Since when no member counts but this node.
    pub(super) alone_since: Option<Time>,
    /// The term that is on its way to the disk, to replace the present one.
    pub(super) raising: Option<u64>,
    /// The newest hearsay of a rival that this master would yield to, and when it came.
    hearsay: Option<(Beat, Time)>,
}

impl Master {
    /// Whether a rival's heartbeat shows that it lives: it came first-hand, or it is newer than one that came before.
    /// What a connection has kept comes in one burst, which counts as one.
    fn is_confirmed(&mut self, now: Time, rival: &Beat, direct: bool) -> bool {
        let before = self.hearsay.filter(|(beat, _)| beat.epoch == rival.epoch);
        if before.is_some_and(|(beat, _)| beat.seq >= rival.seq) {
            return direct;
        }
        self.hearsay = Some((*rival, now));
        direct || before.is_some_and(|(_, at)| (BACKLOG..=CONFIRMED_WITHIN).contains(&now.since(at)))
    }
}

impl Election {
    pub(super) fn become_master(&mut self, now: Time, term: u64, members: u32) {
        let epoch = Epoch { term, node: self.me };
        self.highest = epoch;
        self.unproven = false;
        self.newest = None;
        self.ruled = true;
        // Whoever makes another one master from now on is a person.
        self.may_prefer = false;
        if !matches!(self.state, State::Master(_)) {
            // Those were the last master's; whoever heard them would ask for what is not there.
            (self.roster_version, self.catalogue_version) = (0, 0);
        }
        self.state = State::Master(Master {
            epoch,
            solo: false,
            seq: 0,
            members,
            next_beat: now,
            alone_since: Some(now),
            raising: None,
            hearsay: None,
        });
        self.outputs.push_back(Output::BecameMaster { term });
        self.outputs.push_back(Output::Gossip(Message::Claim { epoch, members }));
        self.master_timeout(now);
    }

    pub(super) fn become_solo(&mut self, now: Time) {
        let epoch = Epoch { term: self.highest.term, node: self.me };
        self.ruled = true;
        // The next mesh is one to be joined.
        self.may_prefer = self.preferred;
        self.succession.clear();
        self.state = State::Master(Master {
            epoch,
            solo: true,
            seq: 0,
            members: 1,
            next_beat: now,
            alone_since: None,
            raising: None,
            hearsay: None,
        });
        self.outputs.push_back(Output::BecameSolo);
        self.master_timeout(now);
    }

    pub(super) fn own_beat(&self, master: &Master) -> Beat {
        Beat {
            epoch: master.epoch,
            seq: master.seq,
            members: master.members,
            solo: master.solo,
            control_port: self.control_port,
            roster: self.roster_version,
            catalogue: self.catalogue_version,
            ..Beat::silent(self.me)
        }
    }

    pub(super) fn master_timeout(&mut self, now: Time) {
        let State::Master(master) = &mut self.state else { return };
        if now < master.next_beat {
            return;
        }
        if !master.solo && master.alone_since.is_some_and(|since| now.since(since) >= ALONE) {
            return self.become_solo(now);
        }
        master.seq += 1;
        let solo = master.solo;
        let gossip = !solo && master.seq % BEATS_PER_GOSSIP == 1;
        let beacon = solo || master.seq % BEATS_PER_BEACON == 1;
        let every = if solo { BEACON_EVERY } else { BEAT_EVERY };
        // From the deadline, so that lateness does not add up; from now, if more than one beat was missed.
        let next = master.next_beat + every;
        master.next_beat = if next > now { next } else { now + every };
        let State::Master(master) = &self.state else { return };
        let beat = self.own_beat(master);
        if !solo {
            self.outputs.push_back(Output::Beat(beat));
            self.relay(now, &beat);
        }
        if beacon {
            self.outputs.push_back(Output::Beacon(beat));
        }
        if gossip {
            self.outputs.push_back(Output::Gossip(Message::Beat(beat)));
        }
        if solo {
            // Somebody may be connected who could not answer before.
            for to in self.whom_to_ask() {
                self.question(now, to);
            }
        }
    }

    /// Another master lives.
    pub(super) fn meet(&mut self, now: Time, rival: &Beat, direct: bool) {
        let State::Master(master) = &self.state else { return };
        if rival.solo {
            return;
        }
        let mine = self.own_beat(master);
        // Two that greeted each other count each other.
        let greeted = self.members.iter().any(|(node, _)| *node == rival.epoch.node);
        let wins = (mine.members - u32::from(greeted), mine.epoch) > (rival.members, rival.epoch);
        let State::Master(master) = &mut self.state else { return };
        if !wins && rival.epoch > mine.epoch && master.is_confirmed(now, rival, direct) {
            self.outputs.push_back(Output::LostMaster { epoch: mine.epoch });
            if rival.is_real() {
                // Our followers may not hear it, and the goodbye makes them look for it.
                self.outputs.push_back(Output::Gossip(Message::Beat(*rival)));
            }
            self.say_goodbye(mine.epoch, Some(rival.epoch.node));
            return self.follow(now, rival, direct);
        }
        if wins && rival.epoch.term >= mine.epoch.term {
            self.raise(now, rival.epoch.term);
        } else {
            // The other has not heard of us, or does not know that its epoch is the lower one, or has to show that it
            // lives: it answers with its next heartbeat.
            self.nudge(now, rival.epoch.node, Message::Beat(mine));
        }
    }

    /// Takes a term above that one and goes on as master.
    pub(super) fn raise(&mut self, now: Time, above: u64) {
        let Some(term) = above.max(self.highest.term).checked_add(1) else { return };
        let ready = self.is_on_disk(term);
        let State::Master(master) = &mut self.state else { return };
        if master.solo || master.raising.is_some_and(|raising| raising >= term) {
            return;
        }
        if ready {
            let members = master.members;
            return self.become_master(now, term, members);
        }
        master.raising = Some(term);
        self.persist(Epoch { term, node: self.me });
    }

    fn say_goodbye(&mut self, epoch: Epoch, successor: Option<NodeId>) {
        if let Some(to) = successor {
            self.send(to, Message::Goodbye { epoch, successor });
        }
        self.outputs.push_back(Output::Gossip(Message::Goodbye { epoch, successor }));
    }

    fn first_deputy(&self) -> Option<NodeId> {
        let mut listed = self.succession.iter().copied();
        listed.find(|node| *node != self.me && self.up.contains(node))
    }

    /// Says goodbye and stands aside for as long as the successor needs.
    fn step_down_for(&mut self, now: Time, successor: NodeId) {
        let State::Master(Master { epoch, .. }) = self.state else { return };
        self.say_goodbye(epoch, Some(successor));
        self.outputs.push_back(Output::LostMaster { epoch });
        self.stand(now, LEASE);
    }

    /// A person wants `from` instead.
    pub(super) fn on_yield(&mut self, now: Time, from: NodeId, epoch: Epoch) {
        let State::Master(master) = &self.state else { return };
        if !master.solo && master.epoch == epoch && from != self.me {
            self.step_down_for(now, from);
        }
    }

    pub(super) fn on_release(&mut self, now: Time) {
        if let Some(deputy) = self.successor() {
            self.step_down_for(now, deputy);
        }
    }

    /// Who follows if this node, as master, stops being it.
    fn successor(&self) -> Option<NodeId> {
        matches!(self.state, State::Master(Master { solo: false, .. })).then(|| self.first_deputy()).flatten()
    }

    /// Whether somebody would follow if this node, as master, stopped being it.
    pub fn has_successor(&self) -> bool {
        self.successor().is_some()
    }

    pub(super) fn on_shutdown(&mut self) {
        if let State::Master(Master { epoch, solo: false, .. }) = self.state {
            self.say_goodbye(epoch, self.first_deputy());
        }
        self.state = State::Left;
    }
}
