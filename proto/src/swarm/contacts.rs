//! Addresses in the swarm that could be dialled, and when.
//!
//! Rule: one attempt at a time for each address, failures back off, and of two of our own nodes that both miss pieces
//! the one with the smaller peer id dials first. Not here: who the neighbours are (the tracker chose them).

use std::net::SocketAddr;
use std::time::Duration;

use crate::config::{PEERS_PER_IMAGE_MAX, WEB_SEEDS_PER_TORRENT_MAX};
use crate::id::Time;

/// How long the node that should not dial first waits for the other to do so.
const COURTESY: Duration = Duration::from_secs(1);
/// A web server is not dialled before the peers have had this long.
const PEERS_FIRST: Duration = Duration::from_secs(3);
/// After a failure; doubles with each.
const RETRY: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);
/// A stranger with whom nothing was to be done is dialled again after this.
const USELESS: Duration = Duration::from_secs(10 * 60);

/// Who named an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// The mesh's tracker.
    Mesh,
    /// A tracker of others.
    Stranger,
    /// The torrent itself: a web server (BEP 19), behind an address of this machine.
    WebServer,
}

#[derive(Clone, Copy, Debug)]
struct Contact {
    addr: SocketAddr,
    source: Source,
    due: Time,
    failures: u32,
    dialling: bool,
}

/// The addresses that trackers gave.
#[derive(Clone, Debug, Default)]
pub(super) struct Contacts {
    contacts: Vec<Contact>,
}

impl Contacts {
    /// A tracker's newest answer: `(address, whether the other side dials first)`. What it named before is forgotten;
    /// an address that both sources name is the mesh's.
    pub(super) fn replace(&mut self, now: Time, source: Source, addresses: impl Iterator<Item = (SocketAddr, bool)>) {
        let old = std::mem::take(&mut self.contacts);
        for (addr, wait) in addresses.take(PEERS_PER_IMAGE_MAX) {
            let known = old.iter().find(|c| c.addr == addr).copied();
            let due = if wait { now + COURTESY } else { now };
            let contact = known.unwrap_or(Contact { addr, source, due, failures: 0, dialling: false });
            let source =
                if contact.source == Source::Mesh && source == Source::Stranger { Source::Mesh } else { source };
            self.contacts.push(Contact { source, ..contact });
        }
        let named = self.contacts.len();
        let others = old.into_iter().filter(|c| c.source != source);
        for other in others {
            if !self.contacts[..named].iter().any(|c| c.addr == other.addr) {
                self.contacts.push(other);
            }
        }
    }

    /// A web server of the torrent.
    pub(super) fn add_web_server(&mut self, now: Time, addr: SocketAddr) {
        if self.contacts.iter().filter(|c| c.source == Source::WebServer).count() < WEB_SEEDS_PER_TORRENT_MAX {
            let (source, due) = (Source::WebServer, now + PEERS_FIRST);
            self.contacts.push(Contact { addr, source, due, failures: 0, dialling: false });
        }
    }

    /// Forgets whom trackers named.
    pub(super) fn clear(&mut self) {
        self.contacts.retain(|c| c.source == Source::WebServer);
    }

    /// Whether trackers of others have named anybody.
    pub(super) fn has_strangers(&self) -> bool {
        self.contacts.iter().any(|c| c.source == Source::Stranger)
    }

    /// An address to dial now, marked as being dialled.
    pub(super) fn next(
        &mut self,
        now: Time,
        wanted: impl Fn(Source) -> bool,
        connected: impl Fn(SocketAddr) -> bool,
    ) -> Option<SocketAddr> {
        let fits = |c: &&mut Contact| !c.dialling && c.due <= now && wanted(c.source) && !connected(c.addr);
        let contact = self.contacts.iter_mut().find(fits)?;
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

    /// A stranger or a web server with whom nothing is to be done now: it is this node itself, or connected already, or
    /// refused, or this node is whole and it has what it wanted.
    pub(super) fn useless(&mut self, now: Time, addr: SocketAddr) {
        if let Some(c) = self.contacts.iter_mut().find(|c| c.addr == addr && c.source != Source::Mesh) {
            c.due = now + USELESS;
        }
    }

    fn ended(&mut self, now: Time, addr: SocketAddr, failed: bool) {
        if let Some(c) = self.contacts.iter_mut().find(|c| c.addr == addr) {
            c.dialling = false;
            c.failures = if failed { c.failures.saturating_add(1) } else { 0 };
            c.due = now + (RETRY * 2u32.saturating_pow(c.failures.min(10))).min(RETRY_MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(n: u8) -> SocketAddr {
        ([10, 0, 0, n], 6881).into()
    }

    /// Whom it would dial now, in order.
    fn dialled(contacts: &mut Contacts, now: Time, wanted: impl Fn(Source) -> bool) -> Vec<SocketAddr> {
        std::iter::from_fn(|| contacts.next(now, &wanted, |_| false)).collect()
    }

    #[test]
    fn a_web_server_comes_after_the_peers_and_outlives_what_trackers_say() {
        let mut contacts = Contacts::default();
        let now = Time(0);
        contacts.add_web_server(now, addr(1));
        contacts.replace(now, Source::Stranger, [(addr(2), false)].into_iter());
        contacts.replace(now, Source::Mesh, [(addr(3), false)].into_iter());
        let due = |contacts: &Contacts, at| dialled(&mut contacts.clone(), at, |_| true);
        assert!(!due(&contacts, now).contains(&addr(1)));
        assert!(due(&contacts, now + PEERS_FIRST).contains(&addr(1)));
        contacts.clear();
        assert_eq!(due(&contacts, now + PEERS_FIRST), [addr(1)]);
        (2..9).for_each(|n| contacts.add_web_server(now, addr(n)));
        assert_eq!(due(&contacts, now + PEERS_FIRST).len(), WEB_SEEDS_PER_TORRENT_MAX);
    }

    #[test]
    fn each_tracker_replaces_what_it_named_itself() {
        let mut contacts = Contacts::default();
        let now = Time(0);
        contacts.replace(now, Source::Mesh, [(addr(1), false), (addr(2), false)].into_iter());
        assert!(!contacts.has_strangers());
        contacts.replace(now, Source::Stranger, [(addr(2), false), (addr(3), false), (addr(4), false)].into_iter());
        assert!(contacts.has_strangers());
        contacts.replace(now, Source::Stranger, [(addr(3), false)].into_iter());
        let of_mesh = [addr(2), addr(1)];
        assert_eq!(dialled(&mut contacts.clone(), now, |s| s == Source::Mesh), of_mesh, "2 was named by both");
        contacts.replace(now, Source::Mesh, std::iter::empty());
        assert_eq!(dialled(&mut contacts, now, |_| true), [addr(3)]);
        contacts.clear();
        assert!(!contacts.has_strangers());
    }

    #[test]
    fn a_stranger_of_no_use_is_left_in_peace() {
        let mut contacts = Contacts::default();
        let now = Time(0);
        contacts.replace(now, Source::Mesh, [(addr(1), false)].into_iter());
        contacts.replace(now, Source::Stranger, [(addr(2), false)].into_iter());
        assert_eq!(dialled(&mut contacts, now, |_| true), [addr(2), addr(1)]);
        for n in [1, 2] {
            contacts.reached(now, addr(n));
            contacts.useless(now, addr(n));
        }
        assert_eq!(dialled(&mut contacts, now + RETRY, |_| true), [addr(1)]);
        contacts.replace(now + RETRY, Source::Stranger, [(addr(2), false)].into_iter());
        assert!(dialled(&mut contacts, now + RETRY, |_| true).is_empty(), "named again makes no difference");
        assert_eq!(dialled(&mut contacts, now + USELESS, |_| true), [addr(2)]);
    }
}
