//! One image's book: who has or wants it, how many have all of it, and who was told of whom.
//!
//! Rule: `complete` and `incomplete` are always the counts of the peers in the book, and `links` is always symmetric
//! between our nodes that are there. Not here: which images are tracked, when to choose again, limits over all images.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::SocketAddr;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::Rng;

use super::Contact;
use super::clients::{Client, Clients, Place};
use super::holders::Holders;
use crate::config::{FOREIGN_IN_GRAPH_MAX, Mode, SEEDERS_WANTED};
use crate::id::{InfoHash, NodeId, PeerId, Time};
use crate::neighbours::{self, Member, MemberId, Part, Site};
use crate::wire::control::{Neighbour, Neighbours, NodeAnnounce};

/// One of our nodes that has or wants the image.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub(super) contact: Contact,
    mode: Mode,
    pub(super) left: u64,
    pub(super) uploaded: u64,
    pub(super) downloaded: u64,
    /// When it announced last.
    pub(super) seen: Time,
    /// It has said `completed`, which counts once.
    counted: bool,
    /// Its neighbours, in order.
    links: Vec<Link>,
    told: Told,
}

/// A neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Link {
    /// The slot of one of our nodes.
    Node(u32),
    /// A foreign client, which may have left since.
    Client(Place),
}

/// Somebody who is handed to a foreign client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) node: Option<NodeId>,
    pub(super) addr: SocketAddr,
    pub(super) peer_id: PeerId,
    pub(super) complete: bool,
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
    pub(super) fn complete(&self) -> bool {
        self.left == 0
    }

    fn member(&self) -> Member {
        let part = match (self.mode, self.complete()) {
            (_, true) => Part::Whole,
            (Mode::Seeder, false) => Part::Seeder,
            (Mode::Peer, false) => Part::Peer,
            (Mode::Leecher, false) => Part::Leecher,
        };
        Member { id: MemberId::of_node(&self.contact.node), site: self.contact.site, part }
    }

    fn found(&self) -> Found {
        let Contact { node, addr, .. } = self.contact;
        Found { node: Some(node), addr, peer_id: PeerId::of_node(&node), complete: self.complete() }
    }

    fn neighbour(&self) -> Neighbour {
        Neighbour { node: Some(self.contact.node), addr: self.contact.addr, complete: self.complete() }
    }
}

impl Client {
    fn member(&self) -> Member {
        let part = if self.complete() { Part::ForeignWhole } else { Part::Foreign };
        Member { id: MemberId::of_client(&self.addr()), site: Site::default(), part }
    }

    fn found(&self) -> Found {
        Found { node: None, addr: self.addr(), peer_id: self.peer_id, complete: self.complete() }
    }

    fn neighbour(&self) -> Neighbour {
        Neighbour { node: None, addr: self.addr(), complete: self.complete() }
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
    /// The foreign clients.
    pub(super) clients: Clients,
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
    /// Of our nodes.
    complete: u32,
    incomplete: u32,
}

impl Swarm {
    /// Whole copies and others.
    pub(super) fn counts(&self) -> (u32, u32) {
        let (complete, incomplete) = self.clients.counts();
        (self.complete + complete, self.incomplete + incomplete)
    }

    /// Our nodes.
    pub(super) fn peers(&self) -> impl Iterator<Item = &Peer> {
        self.slots.iter().flatten()
    }

    pub(super) fn has_node(&self, node: &NodeId) -> bool {
        self.nodes.contains_key(node)
    }

    /// Our own nodes with everything: what idle copies are weighed against. A foreign client may say what it likes.
    pub(super) fn seeding_nodes(&self) -> usize {
        self.complete as usize
    }

    /// Nothing would be lost by forgetting this swarm.
    pub(super) fn is_idle(&self) -> bool {
        !self.tracked && self.nodes.is_empty() && self.clients.len() == 0 && self.holders.is_empty()
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
            let Link::Node(neighbour) = neighbour else { continue };
            let neighbour = self.peer_mut(neighbour);
            neighbour.links.retain(|l| *l != Link::Node(slot));
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
        Change { regroup: before.0 != after.0, completed: before.1 != after.1 }
    }

    fn join(&mut self, now: Time, contact: Contact, mode: Mode, left: u64) -> u32 {
        let (uploaded, downloaded, counted) = (0, 0, false);
        let (links, told) = (Vec::new(), Told::Stale);
        self.take_slot(Peer { contact, mode, left, uploaded, downloaded, seen: now, counted, links, told })
    }

    /// One of our nodes announces and stays.
    pub(super) fn node_announces(&mut self, now: Time, contact: Contact, announce: &NodeAnnounce) -> Change {
        let figures = Figures {
            left: announce.left,
            uploaded: announce.uploaded,
            downloaded: announce.downloaded,
            completed: announce.completed,
        };
        let known = self.nodes.get(&contact.node).copied();
        // A node that moved is another neighbour to everybody, so it leaves and joins.
        let moved = known.filter(|slot| {
            let before = self.peer(*slot).contact;
            (before.addr, before.site) != (contact.addr, contact.site)
        });
        let counted = moved.is_some_and(|slot| self.peer(slot).counted);
        if let Some(slot) = moved {
            self.give_slot(slot);
        }
        let (slot, joined) = match known.filter(|_| moved.is_none()) {
            Some(slot) => (slot, false),
            None => (self.join(now, contact, announce.mode, announce.left), true),
        };
        self.nodes.insert(contact.node, slot);
        let peer = self.peer_mut(slot);
        let regroup = joined || (peer.contact, peer.mode) != (contact, announce.mode);
        (peer.contact, peer.mode) = (contact, announce.mode);
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

    /// At most `wanted` others at random for a foreign client, as `tell` puts them; whoever has everything first, for
    /// that is where a client begins to dial. A seed is told of no seed.
    ///
    /// The swarm is cut into `wanted` equal parts, and one is drawn from each: everybody has the same chance, nobody
    /// comes twice, and the time does not depend on the size of the swarm's foreign part.
    pub(super) fn sample<T>(
        &self,
        rng: &mut ChaCha8Rng,
        asking: &SocketAddr,
        seed: bool,
        wanted: usize,
        tell: impl Fn(Found) -> T,
    ) -> Vec<T> {
        // A node that does not know its address is found by our own nodes only.
        let dialable = |p: &&Peer| !p.contact.addr.ip().is_unspecified() && p.contact.addr != *asking;
        let (whole, others): (Vec<&Peer>, Vec<&Peer>) = self.peers().filter(dialable).partition(|p| p.complete());
        let whole = if seed { &[][..] } else { &whole };
        let seeds = if seed { &[][..] } else { self.clients.seeds() };
        let leechers = self.clients.leechers();
        let found = |at: usize| -> Found {
            let mut rest = at;
            if let Some(peer) = whole.get(rest) {
                return peer.found();
            }
            rest -= whole.len();
            if let Some(client) = seeds.get(rest) {
                return client.found();
            }
            rest -= seeds.len();
            others.get(rest).map_or_else(|| leechers[rest - others.len()].found(), |peer| peer.found())
        };
        let before_leechers = whole.len() + seeds.len() + others.len();
        let own = match self.clients.shown_at(&Place::from(*asking)) {
            Some((true, at)) if !seed => whole.len() + at,
            Some((false, at)) => before_leechers + at,
            Some((true, _)) | None => usize::MAX,
        };
        let all = before_leechers + leechers.len() - usize::from(own != usize::MAX);
        let wanted = wanted.min(all);
        let mut told = Vec::with_capacity(wanted);
        for part in 0..wanted {
            let (from, to) = (part * all / wanted, (part + 1) * all / wanted);
            let at = from + ((u64::from(rng.next_u32()) * (to - from) as u64) >> 32) as usize;
            told.push(tell(found(if at >= own { at + 1 } else { at })));
        }
        told
    }

    /// Those of the foreign clients that our nodes may be told of: some, if there are many.
    fn foreign_members(&self) -> impl Iterator<Item = &Client> {
        let half = FOREIGN_IN_GRAPH_MAX / 2;
        self.clients.seeds().iter().take(half).chain(self.clients.leechers().iter().take(half))
    }

    /// Chooses everybody's neighbours again; who must be told what.
    pub(super) fn regroup(&mut self, info_hash: InfoHash, me: &NodeId) -> Vec<(NodeId, Neighbours)> {
        let slots = (0..self.slots.len() as u32).filter(|s| self.slots[*s as usize].is_some());
        let mut links: Vec<Link> = slots.map(Link::Node).collect();
        let nodes = links.len();
        links.extend(self.foreign_members().map(|client| Link::Client(client.place())));
        let members = self.peers().map(Peer::member).chain(self.foreign_members().map(Client::member));
        let members: Vec<Member> = members.collect();
        let graph = neighbours::choose(&info_hash, &members);
        let staying = self.staying(me);
        let mut news = Vec::new();
        for (member, link) in links[..nodes].iter().enumerate() {
            let Link::Node(slot) = *link else { continue };
            let complete = self.peer(slot).complete();
            let whole = |other: u32| matches!(members[other as usize].part, Part::Whole | Part::ForeignWhole);
            let chosen = graph.of(member).iter().filter(|other| !(complete && whole(**other)));
            let mut chosen: Vec<Link> = chosen.map(|other| links[*other as usize]).collect();
            chosen.sort_unstable();
            let peer = self.peer_mut(slot);
            let told = Told::Stay(staying.contains(&peer.contact.node));
            if peer.links != chosen || peer.told != told {
                (peer.links, peer.told) = (chosen, told);
                news.push((peer.contact.node, slot));
            }
        }
        news.into_iter().map(|(node, slot)| (node, self.neighbours_at(info_hash, slot))).collect()
    }

    /// Whoever of our nodes should not leave, as [`super`] explains.
    fn staying(&self, me: &NodeId) -> Vec<NodeId> {
        if self.counts().1 > 0 {
            return self.nodes.keys().copied().collect();
        }
        let mut ranked: Vec<Contact> = self.peers().map(|p| p.contact).collect();
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
        let neighbour = |link: &Link| match link {
            Link::Node(slot) => Some(self.peer(*slot).neighbour()),
            Link::Client(place) => self.clients.get(place).map(Client::neighbour),
        };
        let (complete, incomplete) = self.counts();
        Neighbours {
            info_hash,
            neighbours: peer.links.iter().filter_map(neighbour).collect(),
            complete,
            incomplete,
            stay: peer.told == Told::Stay(true),
        }
    }

    /// The sites where one of our nodes misses a piece.
    pub(super) fn sites_in_need(&self) -> Vec<Site> {
        let missing = self.peers().filter(|p| !p.complete());
        let mut sites: Vec<Site> = missing.map(|p| p.contact.site).collect();
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
