//! One image's book: who has or wants it, how many have all of it, and who was told of whom.
//!
//! Rule: `complete` and `incomplete` are always the counts of the peers in the book, and `links` is always symmetric
//! between peers that are there. Not here: which images are tracked, when to choose again, limits over all images.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::Rng;

use super::Contact;
use super::foreign::Refused;
use super::holders::Holders;
use crate::config::{BOOK_PEERS_MAX, BOOK_PEERS_PER_ADDRESS, Mode, SEEDERS_WANTED};
use crate::id::{InfoHash, NodeId, PeerId, Time};
use crate::neighbours::{self, Member, MemberId, Part, Site};
use crate::wire::control::{ForeignPeer, Neighbour, Neighbours, NodeAnnounce};

/// Somebody who has or wants the image.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub(super) who: Who,
    pub(super) addr: SocketAddr,
    pub(super) left: u64,
    pub(super) uploaded: u64,
    pub(super) downloaded: u64,
    /// When it announced last.
    pub(super) seen: Time,
    /// It has said `completed`, which counts once.
    counted: bool,
    /// Slots of its neighbours, in order.
    links: Vec<u32>,
    told: Told,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Who {
    Node { contact: Contact, mode: Mode },
    Client { peer_id: PeerId },
}

/// What a node knows of its neighbours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    /// Nothing yet, or something else than what holds.
    Stale,
    /// Its present links, and whether it stays.
    Stay(bool),
}

impl Peer {
    fn complete(&self) -> bool {
        self.left == 0
    }

    fn part(&self) -> Part {
        match (self.who, self.complete()) {
            (Who::Node { .. }, true) => Part::Whole,
            (Who::Node { mode: Mode::Seeder, .. }, false) => Part::Seeder,
            (Who::Node { mode: Mode::Peer, .. }, false) => Part::Peer,
            (Who::Node { mode: Mode::Leecher, .. }, false) => Part::Leecher,
            (Who::Client { .. }, true) => Part::ForeignWhole,
            (Who::Client { .. }, false) => Part::Foreign,
        }
    }

    pub(super) fn node(&self) -> Option<NodeId> {
        match self.who {
            Who::Node { contact, .. } => Some(contact.node),
            Who::Client { .. } => None,
        }
    }

    pub(super) fn peer_id(&self) -> PeerId {
        match self.who {
            Who::Node { contact, .. } => PeerId::of_node(&contact.node),
            Who::Client { peer_id } => peer_id,
        }
    }

    fn member(&self) -> Member {
        let (id, site) = match self.who {
            Who::Node { contact, .. } => (MemberId::of_node(&contact.node), contact.site),
            Who::Client { .. } => (MemberId::of_client(&self.addr), Site::default()),
        };
        Member { id, site, part: self.part() }
    }

    fn neighbour(&self) -> Neighbour {
        Neighbour { node: self.node(), addr: self.addr, complete: self.complete() }
    }
}

/// What an announce changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Change {
    /// Somebody joined, left, or is good for something else now: neighbours are to be chosen again.
    pub(super) regroup: bool,
    /// A copy was completed, for the first time of this peer.
    pub(super) completed: bool,
}

#[derive(Debug, Default)]
pub(super) struct Swarm {
    /// The catalogue has the image; foreign clients are answered.
    pub(super) tracked: bool,
    /// How often somebody said `completed`.
    pub(super) downloaded: u64,
    /// Who has a whole copy, in the swarm or idle.
    pub(super) holders: Holders,
    /// When neighbours were chosen last, and when they will be.
    pub(super) regrouped: Time,
    pub(super) regroup_at: Option<Time>,
    /// When idle copies are looked at again.
    pub(super) wake_at: Option<Time>,
    slots: Vec<Option<Peer>>,
    free: Vec<u32>,
    nodes: BTreeMap<NodeId, u32>,
    clients: BTreeMap<SocketAddr, u32>,
    complete: u32,
    incomplete: u32,
}

impl Swarm {
    /// Whole copies and others.
    pub(super) fn counts(&self) -> (u32, u32) {
        (self.complete, self.incomplete)
    }

    pub(super) fn peers(&self) -> impl Iterator<Item = &Peer> {
        self.slots.iter().flatten()
    }

    pub(super) fn clients(&self) -> usize {
        self.clients.len()
    }

    pub(super) fn has_client(&self, addr: &SocketAddr) -> bool {
        self.clients.contains_key(addr)
    }

    pub(super) fn has_node(&self, node: &NodeId) -> bool {
        self.nodes.contains_key(node)
    }

    /// Our own nodes with everything: what idle copies are weighed against. A foreign client may say what it likes.
    pub(super) fn seeding_nodes(&self) -> usize {
        self.nodes.values().filter(|slot| self.peer(**slot).complete()).count()
    }

    /// Nothing would be lost by forgetting this swarm.
    pub(super) fn is_idle(&self) -> bool {
        !self.tracked && self.nodes.is_empty() && self.clients.is_empty() && self.holders.is_empty()
    }

    fn peer(&self, slot: u32) -> &Peer {
        self.slots[slot as usize].as_ref().expect("indexes and links name slots that are taken")
    }

    fn peer_mut(&mut self, slot: u32) -> &mut Peer {
        self.slots[slot as usize].as_mut().expect("indexes and links name slots that are taken")
    }

    fn count(&mut self, complete: bool) -> &mut u32 {
        if complete { &mut self.complete } else { &mut self.incomplete }
    }

    fn take_slot(&mut self, peer: Peer) -> u32 {
        *self.count(peer.complete()) += 1;
        if let Some(slot) = self.free.pop() {
            self.slots[slot as usize] = Some(peer);
            slot
        } else {
            self.slots.push(Some(peer));
            self.slots.len() as u32 - 1
        }
    }

    fn give_slot(&mut self, slot: u32) {
        let peer = self.slots[slot as usize].take().expect("indexes name slots that are taken");
        *self.count(peer.complete()) -= 1;
        for neighbour in peer.links {
            let neighbour = self.peer_mut(neighbour);
            neighbour.links.retain(|l| *l != slot);
            neighbour.told = Told::Stale;
        }
        self.free.push(slot);
    }

    fn update(&mut self, now: Time, slot: u32, next: Figures) -> Change {
        let peer = self.peer_mut(slot);
        let before = (peer.complete(), peer.counted);
        (peer.left, peer.uploaded, peer.downloaded) = (next.left, next.uploaded, next.downloaded);
        peer.seen = now;
        peer.counted |= next.completed;
        let after = (peer.complete(), peer.counted);
        if before.0 != after.0 {
            *self.count(before.0) -= 1;
            *self.count(after.0) += 1;
        }
        let completed = before.1 != after.1;
        self.downloaded += u64::from(completed);
        Change { regroup: before.0 != after.0, completed }
    }

    fn join(&mut self, now: Time, who: Who, addr: SocketAddr, left: u64) -> u32 {
        let (uploaded, downloaded, counted) = (0, 0, false);
        let (links, told) = (Vec::new(), Told::Stale);
        self.take_slot(Peer { who, addr, left, uploaded, downloaded, seen: now, counted, links, told })
    }

    /// One of our nodes announces and stays.
    pub(super) fn node_announces(&mut self, now: Time, contact: Contact, announce: &NodeAnnounce) -> Change {
        let figures = Figures {
            left: announce.left,
            uploaded: announce.uploaded,
            downloaded: announce.downloaded,
            completed: announce.completed,
        };
        let who = Who::Node { contact, mode: announce.mode };
        let known = self.nodes.get(&contact.node).copied();
        // A node that moved is another neighbour to everybody, so it leaves and joins.
        let moved = known.filter(|slot| {
            let Who::Node { contact: before, .. } = self.peer(*slot).who else { return false };
            (before.addr, before.site) != (contact.addr, contact.site)
        });
        let counted = moved.is_some_and(|slot| self.peer(slot).counted);
        if let Some(slot) = moved {
            self.give_slot(slot);
        }
        let (slot, joined) = match known.filter(|_| moved.is_none()) {
            Some(slot) => (slot, false),
            None => (self.join(now, who, contact.addr, announce.left), true),
        };
        self.nodes.insert(contact.node, slot);
        let peer = self.peer_mut(slot);
        let regroup = joined || peer.who != who;
        peer.who = who;
        peer.counted |= counted;
        let change = self.update(now, slot, figures);
        self.holders.joined(&contact.node);
        Change { regroup: regroup || change.regroup, ..change }
    }

    /// One of our nodes leaves; whether it was there.
    pub(super) fn node_leaves(&mut self, node: &NodeId) -> bool {
        let slot = self.nodes.remove(node);
        if let Some(slot) = slot {
            self.give_slot(slot);
        }
        slot.is_some()
    }

    /// A foreign client announces and stays.
    ///
    /// # Errors
    /// If it is new and this image, or its address, has too many peers.
    pub(super) fn client_announces(
        &mut self,
        now: Time,
        peer: &ForeignPeer,
        completed: bool,
    ) -> Result<Change, Refused> {
        let who = Who::Client { peer_id: PeerId(peer.peer_id) };
        let (slot, joined) = match self.clients.get(&peer.addr) {
            Some(slot) => (*slot, false),
            None if self.clients.len() >= BOOK_PEERS_MAX => return Err(Refused::BookFull),
            None if self.clients_at(peer.addr.ip()) >= BOOK_PEERS_PER_ADDRESS => return Err(Refused::AddressFull),
            None => (self.join(now, who, peer.addr, peer.left), true),
        };
        self.clients.insert(peer.addr, slot);
        self.peer_mut(slot).who = who;
        let figures = Figures { left: peer.left, uploaded: peer.uploaded, downloaded: peer.downloaded, completed };
        let change = self.update(now, slot, figures);
        Ok(Change { regroup: joined || change.regroup, ..change })
    }

    fn clients_at(&self, ip: IpAddr) -> usize {
        self.clients.range(SocketAddr::new(ip, 0)..=SocketAddr::new(ip, u16::MAX)).count()
    }

    /// A foreign client leaves; whether it was there.
    pub(super) fn client_leaves(&mut self, addr: &SocketAddr) -> bool {
        let slot = self.clients.remove(addr);
        if let Some(slot) = slot {
            self.give_slot(slot);
        }
        slot.is_some()
    }

    /// Removes the foreign clients that `keep` refuses; how many.
    pub(super) fn retain_clients(&mut self, keep: impl Fn(&Peer) -> bool) -> usize {
        let gone: Vec<SocketAddr> =
            self.clients.iter().filter(|(_, slot)| !keep(self.peer(**slot))).map(|(addr, _)| *addr).collect();
        for addr in &gone {
            self.client_leaves(addr);
        }
        gone.len()
    }

    /// Lets those of our nodes leave that are not to be kept; whether any was.
    pub(super) fn retain_nodes(&mut self, keep: impl Fn(&Peer) -> bool) -> bool {
        let gone: Vec<NodeId> =
            self.nodes.iter().filter(|(_, slot)| !keep(self.peer(**slot))).map(|(node, _)| *node).collect();
        for node in &gone {
            self.node_leaves(node);
        }
        !gone.is_empty()
    }

    pub(super) fn has_nodes(&self) -> bool {
        !self.nodes.is_empty()
    }

    /// Our nodes announce to another master now.
    pub(super) fn forget_nodes(&mut self) {
        while let Some((node, _)) = self.nodes.first_key_value() {
            let node = *node;
            self.node_leaves(&node);
        }
        self.holders = Holders::default();
    }

    pub(super) fn touch_clients(&mut self, now: Time) {
        self.slots.iter_mut().flatten().filter(|p| p.node().is_none()).for_each(|p| p.seen = now);
    }

    /// The foreign clients as deputies keep them.
    pub(super) fn foreign(&self, info_hash: InfoHash) -> impl Iterator<Item = ForeignPeer> {
        self.clients.iter().map(move |(addr, slot)| {
            let Peer { left, uploaded, downloaded, .. } = *self.peer(*slot);
            let peer_id = self.peer(*slot).peer_id().0;
            ForeignPeer { info_hash, addr: *addr, peer_id, left, uploaded, downloaded }
        })
    }

    /// At most `wanted` others at random for a foreign client; whoever has everything first, for that is where a
    /// client begins to dial. A seed is told of no seed.
    pub(super) fn sample(
        &self,
        rng: &mut ChaCha8Rng,
        asking: &SocketAddr,
        seed: bool,
        wanted: usize,
    ) -> Vec<(Neighbour, PeerId)> {
        // A node that does not know its address is found by our own nodes only.
        let dialable = |p: &&Peer| p.addr != *asking && !p.addr.ip().is_unspecified();
        let mut pool: Vec<&Peer> = self.peers().filter(|p| dialable(p) && !(seed && p.complete())).collect();
        let wanted = wanted.min(pool.len());
        for at in 0..wanted {
            let rest = (pool.len() - at) as u64;
            let chosen = at + ((u64::from(rng.next_u32()) * rest) >> 32) as usize;
            pool.swap(at, chosen);
        }
        pool.truncate(wanted);
        pool.sort_by_key(|p| !p.complete());
        pool.into_iter().map(|p| (p.neighbour(), p.peer_id())).collect()
    }

    /// Chooses everybody's neighbours again; who must be told what.
    pub(super) fn regroup(&mut self, info_hash: InfoHash, me: &NodeId) -> Vec<(NodeId, Neighbours)> {
        let slots: Vec<u32> = (0..self.slots.len() as u32).filter(|s| self.slots[*s as usize].is_some()).collect();
        let members: Vec<Member> = slots.iter().map(|s| self.peer(*s).member()).collect();
        let graph = neighbours::choose(&info_hash, &members);
        let staying = self.staying(me);
        let mut news = Vec::new();
        for (member, slot) in slots.iter().enumerate() {
            let complete = self.peer(*slot).complete();
            let mut links: Vec<u32> = graph.of(member).iter().map(|m| slots[*m as usize]).collect();
            links.retain(|other| !(complete && self.peer(*other).complete()));
            links.sort_unstable();
            let peer = self.peer_mut(*slot);
            let Some(node) = peer.node() else {
                peer.links = links;
                continue;
            };
            let told = Told::Stay(staying.contains(&node));
            if peer.links != links || peer.told != told {
                (peer.links, peer.told) = (links, told);
                news.push((node, *slot));
            }
        }
        news.into_iter().map(|(node, slot)| (node, self.neighbours_at(info_hash, slot))).collect()
    }

    /// Whoever of our nodes should not leave, as [`super`] explains.
    fn staying(&self, me: &NodeId) -> Vec<NodeId> {
        if self.incomplete > 0 {
            return self.nodes.keys().copied().collect();
        }
        let contacts = self.peers().filter_map(|p| match p.who {
            Who::Node { contact, .. } => Some(contact),
            Who::Client { .. } => None,
        });
        let mut ranked: Vec<Contact> = contacts.collect();
        ranked.sort_unstable_by_key(|c| (c.node != *me, Reverse(c.weight), c.node));
        ranked.iter().take(SEEDERS_WANTED).map(|c| c.node).collect()
    }

    /// What the node was told last, with the counts of now; `None` if it is not here or is about to be told anew.
    pub(super) fn neighbours_of(&self, info_hash: InfoHash, node: &NodeId) -> Option<Neighbours> {
        let slot = *self.nodes.get(node)?;
        (self.peer(slot).told != Told::Stale).then(|| self.neighbours_at(info_hash, slot))
    }

    /// The node's next choice of neighbours reaches it even if it is the old one.
    pub(super) fn owe_answer(&mut self, node: &NodeId) {
        if let Some(slot) = self.nodes.get(node).copied() {
            self.peer_mut(slot).told = Told::Stale;
        }
    }

    fn neighbours_at(&self, info_hash: InfoHash, slot: u32) -> Neighbours {
        let peer = self.peer(slot);
        Neighbours {
            info_hash,
            neighbours: peer.links.iter().map(|l| self.peer(*l).neighbour()).collect(),
            complete: self.complete,
            incomplete: self.incomplete,
            stay: peer.told == Told::Stay(true),
        }
    }

    /// The sites where one of our nodes misses a piece.
    pub(super) fn sites_in_need(&self) -> Vec<Site> {
        let mut sites: Vec<Site> = self
            .peers()
            .filter_map(|p| match p.who {
                Who::Node { contact, .. } if !p.complete() => Some(contact.site),
                _ => None,
            })
            .collect();
        sites.sort_unstable();
        sites.dedup();
        sites
    }
}

/// What every announce says.
struct Figures {
    left: u64,
    uploaded: u64,
    downloaded: u64,
    completed: bool,
}
