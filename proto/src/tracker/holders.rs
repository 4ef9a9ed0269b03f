//! Who has a whole copy of one image and may be idle, and whom to wake.
//!
//! Rule: somebody near is woken before somebody far, and a node that does not come is asked again ever more seldom,
//! after others. Not here: whether anybody is needed at all.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::Contact;
use crate::config::{NODES_MAX, WAKE_AGAIN, WAKE_AGAIN_MAX};
use crate::id::{NodeId, Time};
use crate::neighbours::Site;

#[derive(Debug, Default)]
pub(super) struct Holders {
    of: BTreeMap<NodeId, Holder>,
}

#[derive(Debug)]
struct Holder {
    contact: Contact,
    /// How often it was woken since it was last seen in the swarm.
    tries: u32,
    /// Until then it is expected to appear.
    again: Time,
}

impl Holders {
    pub(super) fn is_empty(&self) -> bool {
        self.of.is_empty()
    }

    /// A node has a whole copy. Beyond [`NODES_MAX`] the newest is not noted.
    pub(super) fn add(&mut self, contact: Contact) {
        if let Some(holder) = self.of.get_mut(&contact.node) {
            holder.contact = contact;
        } else if self.of.len() < NODES_MAX {
            self.of.insert(contact.node, Holder { contact, tries: 0, again: Time::default() });
        }
    }

    /// It has none any more, or is gone; whether it had.
    pub(super) fn remove(&mut self, node: &NodeId) -> bool {
        self.of.remove(node).is_some()
    }

    /// It came.
    pub(super) fn joined(&mut self, node: &NodeId) {
        if let Some(holder) = self.of.get_mut(node) {
            holder.tries = 0;
        }
    }

    /// Whom to wake so that `needed` holders are on their way, and when to look again.
    pub(super) fn wake(&mut self, now: Time, needed: usize, whom: &Wanted<'_>) -> (Vec<NodeId>, Option<Time>) {
        let idle: Vec<NodeId> = self.of.keys().filter(|node| !(whom.present)(node)).copied().collect();
        let (coming, mut ready): (Vec<NodeId>, Vec<NodeId>) = idle.into_iter().partition(|n| self.of[n].again > now);
        ready.sort_by_key(|node| {
            let Holder { contact, tries, .. } = &self.of[node];
            (*tries, *node != whom.me, !whom.sites.contains(&contact.site), Reverse(contact.weight), *node)
        });
        ready.truncate(needed.saturating_sub(coming.len()));
        for node in &ready {
            let holder = self.of.get_mut(node).expect("taken from the map above");
            let wait = WAKE_AGAIN_MAX.min(WAKE_AGAIN * (1 << holder.tries.min(8)));
            holder.tries += 1;
            holder.again = now + wait;
        }
        let look_again = coming.iter().chain(&ready).map(|node| self.of[node].again).min();
        (ready, look_again)
    }
}

/// Who is wanted.
pub(super) struct Wanted<'a> {
    /// In the swarm already.
    pub(super) present: &'a dyn Fn(&NodeId) -> bool,
    /// Where pieces are missed.
    pub(super) sites: &'a [Site],
    /// The master, which is never idle and so comes first.
    pub(super) me: NodeId,
}
