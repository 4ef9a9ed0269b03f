//! Peer exchange (BEP 11) with clients that are not ours.
//!
//! Rule: a client that wants it is told once a minute with whom we are connected and no longer are; what it tells is
//! heard once a minute and is hearsay to dial. Our own nodes know better from the mesh's tracker, and of a private
//! torrent nobody is told (BEP 27). Not here: bytes (`wire::pex`), who is dialled when (`contacts`).

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use super::Swarm;
use crate::config::PEX_PEERS_MAX;
use crate::id::Time;
use crate::wire::peer::Message;
use crate::wire::pex::{Pex, REACHABLE, SEED};

/// Between two messages to one peer (BEP 11).
const EVERY: Duration = Duration::from_secs(60);
/// Between two of a peer's that are heard: somewhat less, since its messages may be held up on their way.
const HEARD_EVERY: Duration = Duration::from_secs(55);
/// When there was nothing to tell, that is looked at again.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// What is known of one peer's exchange.
#[derive(Debug, Default)]
pub(super) struct Exchange {
    /// The extended id under which it wants to be told, if it does.
    pub(super) wants: Option<u8>,
    /// What it was told and what still holds: at most as many as there are connections.
    told: BTreeSet<SocketAddr>,
    tell_at: Time,
    hear_at: Time,
}

impl Swarm {
    /// Whether this peer is offered the exchange.
    pub(super) fn exchanges_with(&self, p: usize) -> bool {
        self.exchange && !self.metainfo.private() && !self.peers[p].is_ours()
    }

    /// Tells those whose minute is over.
    pub(super) fn review_exchange(&mut self, now: Time) {
        for p in 0..self.peers.len() {
            let Some(id) = self.peers[p].exchange.wants.filter(|_| self.exchanges_with(p)) else { continue };
            if self.peers[p].exchange.tell_at > now {
                continue;
            }
            let pex = self.news_for(p);
            let exchange = &mut self.peers[p].exchange;
            if pex == Pex::default() {
                exchange.tell_at = now + LOOK_AGAIN;
                continue;
            }
            exchange.tell_at = now + EVERY;
            exchange.told.extend(pex.added.iter().map(|(addr, _)| *addr));
            exchange.told.retain(|addr| !pex.dropped.contains(addr));
            self.tell(p, Message::Pex(id, pex));
        }
    }

    fn news_for(&self, p: usize) -> Pex {
        let told = &self.peers[p].exchange.told;
        let others = self.peers.iter().enumerate().filter(|(other, _)| *other != p);
        let connected = others.filter_map(|(_, peer)| {
            let reachable = if peer.outgoing { REACHABLE } else { 0 };
            let listens = peer.listens.filter(|addr| !self.contacts.is_web_server(*addr))?;
            Some((listens, reachable | if peer.has.is_full() { SEED } else { 0 }))
        });
        let connected: Vec<(SocketAddr, u8)> = connected.collect();
        let gone = told.iter().filter(|addr| !connected.iter().any(|(other, _)| other == *addr));
        let dropped = gone.take(PEX_PEERS_MAX).copied().collect();
        let added = connected.iter().filter(|(addr, _)| !told.contains(addr)).take(PEX_PEERS_MAX).copied().collect();
        Pex { added, dropped }
    }

    /// A peer tells. What it lost is not looked at: who is gone fails by itself, and who is not need not be believed to be.
    pub(super) fn hear_exchange(&mut self, now: Time, p: usize, pex: &Pex) {
        if !self.exchanges_with(p) || self.peers[p].exchange.hear_at > now {
            return;
        }
        self.peers[p].exchange.hear_at = now + HEARD_EVERY;
        let (whole, local) = (self.complete_since.is_some(), self.peers[p].addr.ip().is_loopback());
        // One whole copy has nothing to do with another; and no other machine knows what listens on this one.
        let of_use = |addr: &SocketAddr, flags: u8| {
            let ip = addr.ip();
            !(whole && flags & SEED != 0 || ip.is_loopback() && !local || ip.is_unspecified() || ip.is_multicast())
        };
        let named = pex.added.iter().filter(|(addr, flags)| of_use(addr, *flags)).map(|(addr, _)| *addr);
        let named: Vec<SocketAddr> = named.collect();
        self.handle_hearsay(now, &named);
    }
}
