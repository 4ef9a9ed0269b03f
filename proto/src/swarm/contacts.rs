//! Addresses in the swarm that could be dialled, and when.
//!
//! Rule: one attempt at a time for each address, failures back off, and of two of our own nodes that both miss pieces
//! the one with the smaller peer id dials first. Not here: who the neighbours are (the tracker chose them).

use std::net::SocketAddr;
use std::time::Duration;

use crate::config::PEERS_PER_IMAGE_MAX;
use crate::id::Time;

/// How long the node that should not dial first waits for the other to do so.
const COURTESY: Duration = Duration::from_secs(1);
/// After a failure; doubles with each.
const RETRY: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug)]
struct Contact {
    addr: SocketAddr,
    due: Time,
    failures: u32,
    dialling: bool,
}

/// The addresses that the tracker gave.
#[derive(Clone, Debug, Default)]
pub(super) struct Contacts {
    contacts: Vec<Contact>,
}

impl Contacts {
    /// The tracker's newest answer: `(address, whether the other side dials first)`. Others are forgotten.
    pub(super) fn replace(&mut self, now: Time, neighbours: impl Iterator<Item = (SocketAddr, bool)>) {
        let old = std::mem::take(&mut self.contacts);
        for (addr, wait) in neighbours.take(PEERS_PER_IMAGE_MAX) {
            let known = old.iter().find(|c| c.addr == addr).copied();
            let due = if wait { now + COURTESY } else { now };
            self.contacts.push(known.unwrap_or(Contact { addr, due, failures: 0, dialling: false }));
        }
    }

    /// An address to dial now, marked as being dialled.
    pub(super) fn next(&mut self, now: Time, connected: impl Fn(SocketAddr) -> bool) -> Option<SocketAddr> {
        let contact = self.contacts.iter_mut().find(|c| !c.dialling && c.due <= now && !connected(c.addr))?;
        contact.dialling = true;
        Some(contact.addr)
    }

    /// The dial led to a connection, or the connection ended in good order.
    pub(super) fn reached(&mut self, now: Time, addr: SocketAddr) {
        self.ended(now, addr, false);
    }

    /// The dial failed, or the connection was lost at once.
    pub(super) fn failed(&mut self, now: Time, addr: SocketAddr) {
        self.ended(now, addr, true);
    }

    fn ended(&mut self, now: Time, addr: SocketAddr, failed: bool) {
        if let Some(c) = self.contacts.iter_mut().find(|c| c.addr == addr) {
            c.dialling = false;
            c.failures = if failed { c.failures.saturating_add(1) } else { 0 };
            c.due = now + (RETRY * 2u32.saturating_pow(c.failures.min(10))).min(RETRY_MAX);
        }
    }
}
