//! As master: who is a member, and who counts.
//!
//! Rule: a greeting makes a member, any word over its connection keeps it live, silence for [`MEMBER_AWAY`] makes it
//! away and for [`MEMBER_FORGET`] unknown. Every change is a new version, and followers are told what changed since
//! theirs.

use std::net::IpAddr;

use super::table::Row;
use super::{Output, Place, Roster, SWEEP_EVERY};
use crate::config::{MEMBER_AWAY, MEMBER_FORGET, NODES_MAX, PROTOCOL_VERSION};
use crate::id::{Epoch, NodeId, Time};
use crate::wire::control::{Beat, Member, Message, RosterDelta, RosterEntry};

/// Forgotten members that deltas remember; who is further behind gets the whole roster.
const GONE_MAX: usize = 256;

impl Roster {
    pub(super) fn lead(&mut self, now: Time, epoch: Epoch) {
        // A master that only raised its term goes on counting whom it has heard.
        let again = matches!(self.place, Place::Leading { epoch: old, .. } if old.node == epoch.node);
        self.place = Place::Leading { epoch, sweep_at: now + SWEEP_EVERY };
        self.version = self.version.max(1);
        if !again {
            self.version = 1;
            self.gone.clear();
            self.gone_since = 0;
            for row in self.table.rows_mut() {
                row.version = 1;
                let ended = self.ended.contains(&row.entry.member.id);
                row.heard = if ended { now - MEMBER_AWAY } else { now };
                row.counted = row.entry.member.id == self.me.id;
            }
        }
        self.set_live(now, self.me.id, true);
        self.outputs.push_back(Output::Version(self.version));
        self.publish();
    }

    pub(super) fn on_hello(&mut self, now: Time, from: NodeId, member: Member, protocol: u16, beat: Option<Beat>) {
        if protocol != PROTOCOL_VERSION {
            self.outputs.push_back(Output::Incompatible { node: from, theirs: protocol });
            return self.send(from, Message::Incompatible { protocol: PROTOCOL_VERSION });
        }
        if member.id != from || from == self.me.id {
            return;
        }
        self.ended.retain(|other| *other != from);
        match self.place {
            Place::Following { .. } => return self.welcome(from, beat),
            Place::Alone => self.welcome(from, beat),
            Place::Leading { .. } => {}
        }
        let addr = self.seen_address(&from, member.addr);
        let member = Member { addr, weight: member.weight.trusted(self.keyed), ..member };
        let old = self.table.get(&from);
        let (was_live, was_counted) = old.map_or((false, false), |row| (row.entry.live, row.counted));
        let changed = old.is_none_or(|row| row.entry.member != member || !row.entry.live);
        let version = old.map_or(0, |row| row.version);
        let row = Row { entry: RosterEntry { member, live: true }, heard: now, counted: true, version };
        if !self.table.put(row) {
            tracing::warn!(node = %from.short(), "the roster is full: a node was refused");
            return;
        }
        if changed {
            self.touch(from);
        }
        if !was_live {
            self.outputs.push_back(Output::MemberUp(from));
        }
        if changed || !was_counted {
            self.publish();
        }
    }

    /// What the connection shows, which nobody can invent; but nodes of one machine all come from its loopback, so
    /// among those the bound address counts.
    fn seen_address(&self, node: &NodeId, told: Option<IpAddr>) -> Option<IpAddr> {
        match (self.addresses.get(node).copied(), told) {
            (Some(seen), Some(told)) if seen.is_loopback() && told.is_loopback() => Some(told),
            (Some(seen), _) => Some(seen),
            (None, told) => told,
        }
    }

    /// Any word over a connection shows that a member lives; but only its greeting shows that it follows this master.
    /// Without a connection it is gossip, which others may have carried here behind its end.
    pub(super) fn on_heard(&mut self, now: Time, node: NodeId) {
        let connected = self.addresses.contains_key(&node);
        if let Some(row) = self.table.get_mut(&node).filter(|row| row.entry.live && connected) {
            row.heard = now;
        }
    }

    pub(super) fn sweep(&mut self, now: Time) {
        let me = self.me.id;
        let silent = |row: &&Row| row.entry.member.id != me && now.since(row.heard) >= MEMBER_AWAY;
        let away: Vec<(NodeId, bool)> = self
            .table
            .rows()
            .filter(silent)
            .filter(|row| row.entry.live || now.since(row.heard) >= MEMBER_FORGET)
            .map(|row| (row.entry.member.id, row.entry.live))
            .collect();
        for (node, live) in &away {
            if *live {
                self.set_live(now, *node, false);
            } else {
                self.forget(*node);
            }
        }
        if !away.is_empty() {
            self.publish();
        }
    }

    fn forget(&mut self, node: NodeId) {
        self.table.remove(&node);
        self.outputs.push_back(Output::MemberForgotten(node));
        self.bump();
        self.gone.push_back((self.version, node));
        while self.gone.len() > GONE_MAX {
            if let Some((version, _)) = self.gone.pop_front() {
                self.gone_since = version;
            }
        }
    }

    pub(super) fn set_live(&mut self, now: Time, node: NodeId, live: bool) {
        let Some(row) = self.table.get_mut(&node).filter(|row| row.entry.live != live) else { return };
        row.entry.live = live;
        if live {
            row.heard = now;
        } else {
            row.counted = false;
        }
        self.touch(node);
        self.outputs.push_back(if live { Output::MemberUp(node) } else { Output::MemberDown(node) });
    }

    /// A member changed in a new version.
    pub(super) fn touch(&mut self, node: NodeId) {
        self.bump();
        if let Some(row) = self.table.get_mut(&node) {
            row.version = self.version;
        }
    }

    pub(super) fn bump(&mut self) {
        if let Place::Leading { .. } = self.place {
            self.version += 1;
            self.outputs.push_back(Output::Version(self.version));
        }
    }

    pub(super) fn on_since(&mut self, from: NodeId, version: u64) {
        let Place::Leading { epoch, .. } = self.place else { return };
        // A version that does not exist here is of another epoch.
        let since = if version > self.version || version < self.gone_since { 0 } else { version };
        let changed = self.table.rows().filter(|row| row.version > since).map(|row| row.entry.clone()).collect();
        let gone = self.gone.iter().filter(|(at, _)| since > 0 && *at > since).map(|(_, node)| *node).collect();
        let succession = self.succession.clone();
        let delta = RosterDelta { epoch, from: since, to: self.version, changed, gone, succession };
        self.send(from, Message::Roster(delta));
    }

    pub(super) fn on_handover(&mut self, now: Time, entries: Vec<RosterEntry>) {
        if !matches!(self.place, Place::Leading { .. }) {
            return;
        }
        for entry in entries.into_iter().take(NODES_MAX) {
            let id = entry.member.id;
            if self.table.get(&id).is_some_and(|row| row.entry.live) {
                continue;
            }
            let member = Member { weight: entry.member.weight.trusted(self.keyed), ..entry.member };
            let entry = RosterEntry { member, live: entry.live };
            let live = entry.live;
            if self.table.put(Row { entry, heard: now, counted: false, version: 0 }) {
                self.touch(id);
                if live {
                    self.outputs.push_back(Output::MemberUp(id));
                }
            }
        }
        self.publish();
    }
}
