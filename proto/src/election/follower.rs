//! With a master: the lease, and what else is heard while it lives.
//!
//! Rule: nothing but the master's own newer heartbeats renews the lease, and nothing but the lease's end, the master's
//! goodbye or its refused connection ends it. A follower that no datagram reaches asks others to relay.

use super::{Election, HEARSAY, Output, RELAY_FOR, State};
use crate::config::{BEAT_EVERY, LEASE};
use crate::id::{Epoch, NodeId, Time};
use crate::wire::control::{Beat, Message};

/// A deaf follower has its heartbeats relayed by the master and this many others.
const HELPERS: usize = 2;

#[derive(Debug)]
pub(super) struct Follower {
    pub(super) epoch: Epoch,
    lease_until: Time,
    /// When a heartbeat came last, on whatever way.
    pub(super) heard_at: Time,
    /// When a datagram of the master itself came last, and its number.
    direct_at: Option<Time>,
    direct_seq: u64,
    /// When to ask for relays if no datagram comes.
    ask_at: Time,
    /// When to claim although the master has not yielded.
    pub(super) force_at: Option<Time>,
    /// The newest heartbeat of a higher epoch that was not followed, and when it came.
    rival: Option<(Beat, Time)>,
}

impl Follower {
    pub(super) fn new(now: Time, beat: &Beat, direct: bool) -> Self {
        let mut follower = Self {
            epoch: beat.epoch,
            lease_until: now,
            heard_at: now,
            direct_at: None,
            direct_seq: 0,
            ask_at: now + BEAT_EVERY,
            force_at: None,
            rival: None,
        };
        follower.renew(now, beat.seq, direct);
        follower
    }

    fn renew(&mut self, now: Time, seq: u64, direct: bool) {
        self.heard_at = now;
        if direct {
            self.lease_until = now + LEASE;
            self.direct_at = Some(now);
            self.direct_seq = seq;
            self.ask_at = now + HEARSAY;
        } else {
            self.lease_until = self.lease_until.max(now + HEARSAY);
        }
    }

    /// The master was heard first-hand, lately.
    pub(super) fn is_fresh(&self, now: Time) -> bool {
        self.direct_at.is_some_and(|at| now.since(at) <= HEARSAY)
    }

    pub(super) fn deadline(&self) -> (Time, &'static str) {
        let lease = (self.lease_until, "election: the lease lapses");
        let ask = (self.ask_at, "election: no heartbeat comes first-hand");
        let force = (self.force_at.unwrap_or(Time::NEVER), "election: claim although the master does not yield");
        lease.min(ask).min(force)
    }
}

impl Election {
    pub(super) fn hear_as_follower(&mut self, now: Time, beat: &Beat, direct: bool) {
        let news = self.is_news(beat);
        let newest = self.newest.map_or(0, |newest| newest.seq);
        let State::Follower(follower) = &mut self.state else { return };
        if beat.epoch == follower.epoch {
            // A relayed copy may overtake the datagram, which is first-hand news all the same.
            if news || (direct && beat.seq == newest && beat.seq > follower.direct_seq) {
                follower.renew(now, beat.seq, direct);
                self.newest = Some(*beat);
                if direct {
                    self.relay(now, beat);
                }
                self.tell_versions(beat);
            }
        } else if beat.solo {
            // It will hear of our master and give up by itself.
        } else if beat.epoch > follower.epoch && (beat.epoch.node == follower.epoch.node || !follower.is_fresh(now)) {
            self.follow(now, beat, direct);
        } else {
            let master = follower.epoch.node;
            if beat.epoch > follower.epoch {
                follower.rival = Some((*beat, now));
            }
            if beat.is_real() {
                self.nudge(now, master, Message::Beat(*beat));
            }
        }
    }

    /// A preferred node that joined a mesh claims it, once, from a master of a lower weight. Strictly lower: of two
    /// preferred ones the first stays, and no row of claims leads back to where it began.
    pub(super) fn prefer(&mut self, now: Time) {
        let State::Follower(Follower { epoch, .. }) = &self.state else { return };
        let master = epoch.node;
        // The roster comes from the master itself, so what it says of it is known and connected at once.
        let known = self.members.iter().find(|(node, _)| *node == master).map(|(_, weight)| *weight);
        if let (true, true, Some(weight)) = (self.may_prefer, self.up.contains(&master), known) {
            self.may_prefer = false;
            if self.weight > weight {
                self.on_force_claim(now);
            }
        }
    }

    pub(super) fn follower_timeout(&mut self, now: Time) {
        let State::Follower(follower) = &mut self.state else { return };
        let master = follower.epoch.node;
        if now >= follower.lease_until {
            self.outputs.push_back(Output::Redial(master));
            self.lose(now, None);
        } else if follower.force_at.is_some_and(|at| now >= at) {
            let epoch = follower.epoch;
            self.outputs.push_back(Output::LostMaster { epoch });
            self.claim(now, self.up.len() as u32 + 1);
        } else if now >= follower.ask_at {
            follower.ask_at = now + RELAY_FOR / 2;
            self.ask_for_relays(now, master);
        }
    }

    fn ask_for_relays(&mut self, now: Time, master: NodeId) {
        let mut helpers = self.whom_to_ask();
        let others = helpers.iter().position(|node| *node == master).map_or(0, |place| place + 1);
        helpers.truncate(others + HELPERS);
        for to in helpers {
            self.question(now, to);
        }
    }

    /// The master is lost: obey a rival that lives, or stand in the order of the list.
    fn lose(&mut self, now: Time, successor: Option<NodeId>) {
        let State::Follower(Follower { epoch, rival, .. }) = self.state else { return };
        self.outputs.push_back(Output::LostMaster { epoch });
        let rival = rival.filter(|(_, at)| now.since(*at) <= LEASE).map(|(beat, _)| beat);
        match (rival, successor) {
            (Some(beat), _) => self.follow(now, &beat, false),
            // Whoever was named claims without asking, so give it the time to be heard.
            (None, Some(_)) => self.stand(now, HEARSAY + self.patience_of(self.me)),
            (None, None) => self.stand(now, self.patience_of(self.me)),
        }
    }

    pub(super) fn on_gone(&mut self, now: Time, node: NodeId) {
        self.up.remove(&node);
        if matches!(&self.state, State::Follower(follower) if follower.epoch.node == node) {
            self.lose(now, None);
        }
    }

    pub(super) fn on_goodbye(&mut self, now: Time, epoch: Epoch, successor: Option<NodeId>) {
        let mine = successor == Some(self.me) && epoch == self.highest;
        match &self.state {
            State::Follower(follower) if follower.epoch != epoch => {}
            State::Follower(_) if mine => {
                self.outputs.push_back(Output::LostMaster { epoch });
                self.claim(now, self.up.len() as u32 + 1);
            }
            State::Follower(_) => self.lose(now, successor),
            State::Candidate(_) if mine => self.claim(now, self.up.len() as u32 + 1),
            State::Listening { .. } | State::Candidate(_) | State::Master(_) | State::Left => {}
        }
    }
}
