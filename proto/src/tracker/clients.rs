//! The foreign clients of one image, packed: a hundred thousand of them have room in twenty megabytes.
//!
//! Rule: a client is known by its address and port, and stands in exactly one of three lists: those that miss pieces,
//! those that have everything, and those that are handed to nobody, since nothing of BitTorrent has been found at their
//! port yet. `places` names the list and the place of each. Not here: limits over all images, our own nodes.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::keeping::KeptClient;
use crate::config::{BOOK_PEERS_MAX, BOOK_PEERS_PER_ADDRESS};
use crate::id::{InfoHash, PeerId, Time};
use crate::wire::control::{ForeignPeer, ForeignRefused};

/// A client's address and port; IPv4 as `::ffff:a.b.c.d`, so that 18 bytes hold either.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    ip: [u8; 16],
    port: u16,
}

impl From<SocketAddr> for Place {
    fn from(addr: SocketAddr) -> Self {
        let ip = match addr.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        Self { ip: ip.octets(), port: addr.port() }
    }
}

impl From<Place> for SocketAddr {
    fn from(place: Place) -> Self {
        Self::new(IpAddr::from(place.ip).to_canonical(), place.port)
    }
}

/// What the connect-back check says of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    /// It may be handed out.
    Shown,
    /// Nothing was found at its port, so many times.
    Tried(u8),
    /// Somebody is looking; it was tried so many times before.
    Checking(u8),
}

/// Somebody who has or wants the image and is not one of our nodes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Client {
    place: Place,
    pub(super) peer_id: PeerId,
    reach: Reach,
    /// It has said `completed`, which counts once.
    counted: bool,
    pub(super) left: u64,
    pub(super) uploaded: u64,
    pub(super) downloaded: u64,
    /// When it is forgotten if it stays silent.
    pub(super) until: Time,
}

impl Client {
    pub(super) fn addr(&self) -> SocketAddr {
        self.place.into()
    }

    pub(super) fn place(&self) -> Place {
        self.place
    }

    pub(super) fn complete(&self) -> bool {
        self.left == 0
    }

    fn peer(&self, info_hash: InfoHash) -> ForeignPeer {
        ForeignPeer {
            info_hash,
            addr: self.addr(),
            peer_id: self.peer_id.0,
            left: self.left,
            uploaded: self.uploaded,
            downloaded: self.downloaded,
        }
    }

    fn list(&self) -> usize {
        match self.reach {
            Reach::Shown if self.complete() => SEEDS,
            Reach::Shown => LEECHERS,
            Reach::Tried(_) | Reach::Checking(_) => HIDDEN,
        }
    }
}

const SEEDS: usize = 0;
const LEECHERS: usize = 1;
const HIDDEN: usize = 2;

/// A list, and a place in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Slot(u32);

impl Slot {
    const PLACES: u32 = 1 << 30;

    fn new(list: usize, at: usize) -> Self {
        Self(list as u32 * Self::PLACES + at as u32)
    }

    fn list(self) -> usize {
        (self.0 / Self::PLACES) as usize
    }

    fn at(self) -> usize {
        (self.0 % Self::PLACES) as usize
    }
}

/// What an announce changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Visited {
    pub(super) joined: bool,
    /// Somebody more, or less, may be handed out, or it is good for something else now.
    pub(super) shown: bool,
    /// A copy was completed, for the first time of this client.
    pub(super) completed: bool,
    /// Its port is to be looked at.
    pub(super) probe: bool,
}

/// The lists.
#[derive(Debug, Default)]
pub(super) struct Clients {
    lists: [Vec<Client>; 3],
    places: BTreeMap<Place, Slot>,
    complete: u32,
}

impl Clients {
    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    /// Whole copies and others, whether they can be reached or not.
    pub(super) fn counts(&self) -> (u32, u32) {
        (self.complete, self.len() as u32 - self.complete)
    }

    /// Those with everything that may be handed out.
    pub(super) fn seeds(&self) -> &[Client] {
        &self.lists[SEEDS]
    }

    /// Those without that may be handed out.
    pub(super) fn leechers(&self) -> &[Client] {
        &self.lists[LEECHERS]
    }

    /// Everybody.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Client> {
        self.lists.iter().flatten()
    }

    pub(super) fn get(&self, place: &Place) -> Option<&Client> {
        let slot = self.places.get(place)?;
        self.lists[slot.list()].get(slot.at())
    }

    /// Its place in [`Self::seeds`], or in [`Self::leechers`].
    pub(super) fn shown_at(&self, place: &Place) -> Option<(bool, usize)> {
        let slot = self.places.get(place)?;
        (slot.list() != HIDDEN).then(|| (slot.list() == SEEDS, slot.at()))
    }

    /// A client announces and stays, silent `until` then at most. It is looked at up to `checks` times before it is
    /// handed out; 0 = at once.
    ///
    /// # Errors
    /// If it is new, and this image or its address has too many.
    pub(super) fn announce(
        &mut self,
        until: Time,
        peer: &ForeignPeer,
        completed: bool,
        checks: u8,
    ) -> Result<Visited, ForeignRefused> {
        let place = Place::from(peer.addr);
        let Some(slot) = self.places.get(&place).copied() else {
            self.room_for(&place)?;
            // Nobody can connect to port 0: such a client is counted and handed to nobody.
            let hidden = checks > 0 || place.port == 0;
            let probe = checks > 0 && place.port != 0;
            let client = Client {
                place,
                peer_id: PeerId(peer.peer_id),
                reach: match (hidden, probe) {
                    (false, _) => Reach::Shown,
                    (true, true) => Reach::Checking(0),
                    (true, false) => Reach::Tried(u8::MAX),
                },
                counted: completed,
                left: peer.left,
                uploaded: peer.uploaded,
                downloaded: peer.downloaded,
                until,
            };
            self.complete += u32::from(client.complete());
            self.push(client);
            return Ok(Visited { joined: true, shown: !hidden, completed, probe });
        };
        let client = &mut self.lists[slot.list()][slot.at()];
        let (was_complete, was_counted) = (client.complete(), client.counted);
        client.peer_id = PeerId(peer.peer_id);
        (client.left, client.uploaded, client.downloaded) = (peer.left, peer.uploaded, peer.downloaded);
        client.until = until;
        client.counted |= completed;
        let probe = matches!(client.reach, Reach::Tried(tries) if tries < checks);
        if let (Reach::Tried(tries), true) = (client.reach, probe) {
            client.reach = Reach::Checking(tries);
        }
        let (is_complete, is_counted) = (client.complete(), client.counted);
        self.complete += u32::from(is_complete);
        self.complete -= u32::from(was_complete);
        let flipped = was_complete != is_complete;
        if flipped {
            self.settle(slot);
        }
        let shown = flipped && slot.list() != HIDDEN;
        Ok(Visited { joined: false, shown, completed: !was_counted && is_counted, probe })
    }

    /// A client that an earlier life of this node kept. One that was not found then is looked at again when it
    /// announces.
    ///
    /// # Errors
    /// If this image or its address has too many.
    pub(super) fn restore(&mut self, until: Time, kept: &KeptClient, checks: u8) -> Result<(), ForeignRefused> {
        let checks = if kept.shown { 0 } else { checks };
        if self.announce(until, &kept.peer, kept.counted, checks)?.probe {
            self.probed(kept.peer.addr, false);
        }
        Ok(())
    }

    /// Somebody looked at a client's port; whether it may be handed out since.
    pub(super) fn probed(&mut self, addr: SocketAddr, reachable: bool) -> bool {
        let Some(slot) = self.places.get(&addr.into()).copied() else { return false };
        let client = &mut self.lists[slot.list()][slot.at()];
        let Reach::Checking(tries) = client.reach else { return false };
        client.reach = if reachable { Reach::Shown } else { Reach::Tried(tries.saturating_add(1)) };
        if reachable {
            self.settle(slot);
        }
        reachable
    }

    fn room_for(&self, place: &Place) -> Result<(), ForeignRefused> {
        if self.len() >= BOOK_PEERS_MAX {
            return Err(ForeignRefused::BookFull);
        }
        let of_address = Place { port: 0, ..*place }..=Place { port: u16::MAX, ..*place };
        if self.places.range(of_address).take(BOOK_PEERS_PER_ADDRESS).count() >= BOOK_PEERS_PER_ADDRESS {
            return Err(ForeignRefused::AddressFull);
        }
        Ok(())
    }

    fn push(&mut self, client: Client) {
        let list = client.list();
        self.places.insert(client.place, Slot::new(list, self.lists[list].len()));
        self.lists[list].push(client);
    }

    fn take(&mut self, slot: Slot) -> Client {
        let list = &mut self.lists[slot.list()];
        let client = list.swap_remove(slot.at());
        if let Some(moved) = list.get(slot.at()) {
            self.places.insert(moved.place, slot);
        }
        if list.capacity() > 64 && list.len() * 4 < list.capacity() {
            list.shrink_to(list.len() * 2);
        }
        client
    }

    /// Puts a client that changed into the list that is right for it now.
    fn settle(&mut self, slot: Slot) {
        let client = self.take(slot);
        self.push(client);
    }

    /// A client leaves; whether it was there.
    pub(super) fn leave(&mut self, place: &Place) -> bool {
        let Some(slot) = self.places.remove(place) else { return false };
        let client = self.take(slot);
        self.complete -= u32::from(client.complete());
        true
    }

    /// Removes at most `most` of those that `keep` refuses; how many.
    pub(super) fn retain(&mut self, most: usize, keep: impl Fn(&Client) -> bool) -> usize {
        let gone: Vec<Place> = self.iter().filter(|client| !keep(client)).map(|c| c.place).take(most).collect();
        for place in &gone {
            self.leave(place);
        }
        gone.len()
    }

    /// All of them may be silent `until` then.
    pub(super) fn touch(&mut self, until: Time) {
        self.lists.iter_mut().flatten().for_each(|client| client.until = until);
    }

    /// Those that may be handed out, as deputies keep them.
    pub(super) fn replica(&self, info_hash: InfoHash) -> impl Iterator<Item = ForeignPeer> {
        self.seeds().iter().chain(self.leechers()).map(move |client| client.peer(info_hash))
    }

    /// Everybody, for the next life of this node; who is silent for `expiry` is forgotten.
    pub(super) fn kept(&self, now: Time, expiry: Duration, info_hash: InfoHash) -> impl Iterator<Item = KeptClient> {
        self.iter().map(move |client| KeptClient {
            peer: client.peer(info_hash),
            silent: expiry.saturating_sub(client.until.since(now)),
            counted: client.counted,
            shown: client.list() != HIDDEN,
        })
    }
}
