//! The members by NodeId, with what is looked up often: unique names.
//!
//! Rule: at most [`NODES_MAX`] members; names are made unique for display in NodeId order, identity is the NodeId.
//! Not here: who is live, and versions ([`super::Roster`]).

use std::collections::BTreeMap;

use crate::config::NODES_MAX;
use crate::id::{NodeId, Time};
use crate::wire::control::RosterEntry;

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
    /// How many members say that they are called so.
    given: BTreeMap<String, u32>,
    /// Names that several members say.
    shared: usize,
    /// What those are called who are not called what they say.
    renamed: BTreeMap<NodeId, String>,
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
            self.remove(&oldest);
        }
        let name = row.entry.member.name.clone();
        let old = self.rows.insert(id, row);
        if old.as_ref().is_none_or(|old| old.entry.member.name != name) {
            self.gives(name);
            if let Some(old) = old {
                self.gave(&old.entry.member.name);
            }
            self.rename();
        }
        true
    }

    pub(super) fn remove(&mut self, node: &NodeId) -> Option<Row> {
        let row = self.rows.remove(node);
        if let Some(row) = &row {
            self.gave(&row.entry.member.name);
            self.rename();
        }
        row
    }

    /// Replaces all rows at once.
    pub(super) fn replace(&mut self, rows: impl Iterator<Item = Row>) {
        self.rows = rows.map(|row| (row.entry.member.id, row)).collect();
        (self.given, self.shared) = (BTreeMap::new(), 0);
        let names: Vec<String> = self.rows.values().map(|row| row.entry.member.name.clone()).collect();
        names.into_iter().for_each(|name| self.gives(name));
        self.rename();
    }

    pub(super) fn name(&self, node: &NodeId) -> Option<&str> {
        self.renamed.get(node).or_else(|| Some(&self.rows.get(node)?.entry.member.name)).map(String::as_str)
    }

    /// Another member says that name.
    fn gives(&mut self, name: String) {
        let count = self.given.entry(name).or_insert(0);
        *count += 1;
        self.shared += usize::from(*count == 2);
    }

    /// One member less says that name.
    fn gave(&mut self, name: &str) {
        let Some(count) = self.given.get_mut(name) else { return };
        *count -= 1;
        self.shared -= usize::from(*count == 1);
        if *count == 0 {
            self.given.remove(name);
        }
    }

    /// Names in NodeId order: the first `pc07` keeps its name, the next is `pc07-2`, unless somebody is called so.
    fn rename(&mut self) {
        self.renamed.clear();
        if self.shared == 0 {
            return;
        }
        let mut taken: BTreeMap<&str, u32> = BTreeMap::new();
        for (id, row) in &self.rows {
            let given = &row.entry.member.name;
            let count = taken.entry(given).or_insert(0);
            *count += 1;
            if *count == 1 {
                continue;
            }
            let mut name = format!("{given}-{count}");
            while self.given.contains_key(&name) {
                *count += 1;
                name = format!("{given}-{count}");
            }
            self.renamed.insert(*id, name);
        }
    }
}
