//! As follower, or without a master: greet, ask what changed, apply it.
//!
//! Rule: the roster of the obeyed epoch's master is taken as it is, and nobody else's. A question that got no answer is
//! asked again, in good time.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use super::table::Row;
use super::{HELLO_EVERY, Output, Place, Roster, own_row};
use crate::config::{BEAT_EVERY, NODES_MAX};
use crate::id::{NodeId, Time};
use crate::wire::control::{Beat, Member, Message, RosterDelta, RosterEntry};

/// The least between two questions for the roster, so that a boot of the whole room does not ask at every join.
const ASK_EVERY: Duration = Duration::from_millis(300);
/// Neighbours that are asked where the master is.
const NEIGHBOURS_ASKED: usize = 4;

impl Roster {
    /// Greets the master. Without a connection to it the neighbours are greeted as well, whose answer says where it is:
    /// where multicast is filtered, a claim may be all that was heard of it.
    pub(super) fn greet_master(&mut self, now: Time) {
        let Place::Following { epoch, hello_at, .. } = &mut self.place else { return };
        let master = epoch.node;
        *hello_at = now + HELLO_EVERY;
        if self.addresses.contains_key(&master) {
            return self.greet(master);
        }
        let listed = self.table.get(&master).map(|row| &row.entry.member);
        match listed.and_then(|member| Some(SocketAddr::new(member.addr?, member.control_port))) {
            Some(addr) => self.outputs.push_back(Output::MasterAt { node: master, addr }),
            None => *hello_at = now + BEAT_EVERY,
        }
        let neighbours: Vec<NodeId> = self.addresses.keys().take(NEIGHBOURS_ASKED).copied().collect();
        for node in neighbours {
            self.greet(node);
        }
    }

    pub(super) fn on_welcome(&mut self, beat: Option<Beat>, master: Option<SocketAddr>) {
        if let (Some(beat), Some(addr)) = (beat, master)
            && beat.epoch.node != self.me.id
        {
            self.outputs.push_back(Output::MasterAt { node: beat.epoch.node, addr });
        }
    }

    pub(super) fn welcome(&mut self, to: NodeId, beat: Option<Beat>) {
        let place = beat.and_then(|beat| Some(SocketAddr::new(self.address(&beat.epoch.node)?, beat.control_port)));
        self.send(to, Message::Welcome { beat, master: place });
    }

    pub(super) fn on_version(&mut self, now: Time, version: u64) {
        let Place::Following { wanted, ask_at, .. } = &mut self.place else { return };
        *wanted = version;
        if version > self.version && *ask_at == Time::NEVER {
            *ask_at = now;
        }
    }

    pub(super) fn on_delta(&mut self, now: Time, from: NodeId, delta: RosterDelta) {
        let Place::Following { epoch, wanted, ask_at, .. } = &mut self.place else { return };
        if delta.epoch != *epoch || from != epoch.node {
            return;
        }
        if delta.from != 0 && delta.from != self.version {
            return;
        }
        *ask_at = if *wanted > delta.to { now + ASK_EVERY } else { Time::NEVER };
        self.version = delta.to;
        let keyed = self.keyed;
        let rows = delta.changed.into_iter().map(|entry| {
            let member = Member { weight: entry.member.weight.trusted(keyed), ..entry.member };
            Row { entry: RosterEntry { member, live: entry.live }, heard: now, counted: false, version: 0 }
        });
        if delta.from == 0 {
            let before: BTreeSet<NodeId> = self.live().collect();
            self.table.replace(rows.take(NODES_MAX));
            self.keep_oneself(now);
            let after: BTreeSet<NodeId> = self.live().collect();
            self.outputs.extend(after.difference(&before).map(|id| Output::MemberUp(*id)));
            let away = before.difference(&after).filter(|id| self.table.get(id).is_some());
            self.outputs.extend(away.map(|id| Output::MemberDown(*id)));
        } else {
            for row in rows {
                let (id, live) = (row.entry.member.id, row.entry.live);
                let was_live = self.table.get(&id).is_some_and(|old| old.entry.live);
                if self.table.put(row) && live != was_live {
                    self.outputs.push_back(if live { Output::MemberUp(id) } else { Output::MemberDown(id) });
                }
            }
            for node in &delta.gone {
                self.table.remove(node);
            }
            self.keep_oneself(now);
        }
        self.know_the_master(from);
        if delta.succession != self.succession {
            self.succession = delta.succession;
            self.outputs.push_back(Output::Succession(self.succession.clone()));
        }
        self.publish();
    }

    /// A roster that was written before our greeting does not list us.
    fn keep_oneself(&mut self, now: Time) {
        if self.table.get(&self.me.id).is_none() {
            self.table.put(own_row(now, &self.me));
        }
    }

    /// A master that is bound to no address does not know its own; its followers do.
    fn know_the_master(&mut self, master: NodeId) {
        let Some(row) = self.table.get(&master) else { return };
        if row.entry.member.addr.is_none()
            && let Some(addr) = self.addresses.get(&master)
        {
            let mut row = row.clone();
            row.entry.member.addr = Some(*addr);
            self.table.put(row);
        }
    }

    fn live(&self) -> impl Iterator<Item = NodeId> {
        self.entries().filter(|entry| entry.live).map(|entry| entry.member.id)
    }
}
