//! The members by NodeId, with what is looked up often: unique names and peer addresses.
//!
//! Rule: at most [`NODES_MAX`] members; names are made unique for display in NodeId order, identity is the NodeId.
//! Not here: who is live, and versions ([`super::Roster`]).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::config::NODES_MAX;
use crate::id::{NodeId, Time};
use crate::wire::control::{Member, RosterEntry};

/// One member and what its master keeps beside it.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) entry: RosterEntry,
    /// When the master heard it last.
    pub(super) heard: Time,
    /// The master has heard it in this reign: until then it is shown, but counts for nothing.
    pub(super) counted: bool,
    /// The version in which it changed last.
    pub(super) version: u64,
}

/// All members.
#[derive(Debug, Default)]
pub(super) struct Table {
    rows: BTreeMap<NodeId, Row>,
    names: BTreeMap<NodeId, String>,
    by_peer_addr: BTreeMap<(IpAddr, u16), NodeId>,
}

impl Table {
    pub(super) fn get(&self, node: &NodeId) -> Option<&Row> {
        self.rows.get(node)
    }

    /// For changes that touch neither names nor addresses.
    pub(super) fn get_mut(&mut self, node: &NodeId) -> Option<&mut Row> {
        self.rows.get_mut(node)
    }

    pub(super) fn rows(&self) -> impl Iterator<Item = &Row> {
        self.rows.values()
    }

    /// For changes that touch neither names nor addresses.
    pub(super) fn rows_mut(&mut self) -> impl Iterator<Item = &mut Row> {
        self.rows.values_mut()
    }

    /// Adds or replaces; refused if the table is full of live members.
    pub(super) fn put(&mut self, row: Row) -> bool {
        let id = row.entry.member.id;
        if self.rows.len() >= NODES_MAX && !self.rows.contains_key(&id) {
            let away = self.rows.iter().filter(|(_, row)| !row.entry.live);
            let Some(oldest) = away.min_by_key(|(_, row)| row.heard).map(|(id, _)| *id) else { return false };
            self.rows.remove(&oldest);
        }
        let same = self.rows.get(&id).is_some_and(|old| shown_alike(&old.entry.member, &row.entry.member));
        self.rows.insert(id, row);
        if !same {
            self.index();
        }
        true
    }

    pub(super) fn remove(&mut self, node: &NodeId) -> Option<Row> {
        let row = self.rows.remove(node);
        if row.is_some() {
            self.index();
        }
        row
    }

    /// Replaces all rows at once.
    pub(super) fn replace(&mut self, rows: impl Iterator<Item = Row>) {
        self.rows = rows.map(|row| (row.entry.member.id, row)).collect();
        self.index();
    }

    pub(super) fn name(&self, node: &NodeId) -> Option<&str> {
        self.names.get(node).map(String::as_str)
    }

    pub(super) fn at(&self, addr: IpAddr, peer_port: u16) -> Option<NodeId> {
        self.by_peer_addr.get(&(addr, peer_port)).copied()
    }

    /// Names in NodeId order: the first `pc07` keeps its name, the next is `pc07-2`, unless somebody is called so.
    fn index(&mut self) {
        let members = || self.rows.values().map(|row| &row.entry.member);
        let given: BTreeSet<&str> = members().map(|member| member.name.as_str()).collect();
        let mut taken: BTreeMap<&str, u32> = BTreeMap::new();
        let mut names = BTreeMap::new();
        for member in members() {
            let count = taken.entry(&member.name).or_insert(0);
            *count += 1;
            let mut name = member.name.clone();
            while *count > 1 {
                name = format!("{}-{count}", member.name);
                if !given.contains(name.as_str()) {
                    break;
                }
                *count += 1;
            }
            names.insert(member.id, name);
        }
        let addresses = members().filter_map(|member| Some(((member.addr?, member.peer_port), member.id)));
        self.by_peer_addr = addresses.collect();
        self.names = names;
    }
}

fn shown_alike(a: &Member, b: &Member) -> bool {
    (&a.name, a.addr, a.peer_port) == (&b.name, b.addr, b.peer_port)
}
