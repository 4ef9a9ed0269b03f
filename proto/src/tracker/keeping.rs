//! What outlives swarms and masters: replicas for deputies, the master's whole book for its next start; and who has been
//! silent for too long.
//!
//! Rule: a client that was kept is forgotten when it would have been if this node had run all the time; the clients of a
//! replica have the whole silence before them, since nobody says when they announced.
//!
//! Not here: what a replica and an entry of the ledger look like (`wire::control`, [`super::ledger`]).

use std::time::Duration;

use super::ledger::Whose;
use super::swarm::{Change, Swarm};
use super::{Output, Tracker};
use crate::config::{
    ANNOUNCE_EXPIRY, BOOK_CLIENTS_MAX, BOOK_KEPT_CLIENTS, BOOK_REPLICA_CLIENTS, BOOK_REPLICATE_EVERY, BOOK_SAVE_EVERY,
    BOOK_SWEEP_AGAIN, BOOK_SWEEP_EVERY, BOOK_SWEEP_MAX,
};
use crate::id::{InfoHash, Time};
use crate::wire::control::{BookReplica, ForeignPeer, RegisteredName};

/// What the next life of a node should know of its book.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Kept {
    /// The foreign clients, if this node is master.
    pub clients: Vec<KeptClient>,
    /// How often each image was completed.
    pub downloaded: Vec<(InfoHash, u64)>,
    /// What people call torrents that are not in the catalogue.
    pub names: Vec<RegisteredName>,
}

/// A foreign client, as it is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KeptClient {
    /// What it announced.
    pub peer: ForeignPeer,
    /// How long ago.
    pub silent: Duration,
    /// It has said `completed`, which counts once.
    pub counted: bool,
    /// It may be handed out.
    pub shown: bool,
}

impl Tracker {
    /// What announces alone would not restore: some of the clients, and all of what is kept.
    pub fn replica(&self) -> BookReplica {
        let clients = self.swarms.iter().flat_map(|(hash, swarm)| swarm.clients.replica(*hash));
        BookReplica {
            peers: clients.take(BOOK_REPLICA_CLIENTS).collect(),
            downloaded: self.ledger.counters().collect(),
            names: self.ledger.names().collect(),
        }
    }

    /// What the next start should know. Only a master hears clients.
    pub(super) fn kept(&self, now: Time) -> Kept {
        let swarms = self.swarms.iter().filter(|_| self.master);
        let clients = swarms.flat_map(|(hash, swarm)| swarm.clients.kept(now, self.config.expiry, *hash));
        Kept {
            clients: clients.take(BOOK_KEPT_CLIENTS).collect(),
            downloaded: self.ledger.counters().collect(),
            names: self.ledger.names().collect(),
        }
    }

    // ---- what outlives the swarms

    pub(super) fn whose(&self, info_hash: &InfoHash) -> Whose {
        let ours = self.swarms.get(info_hash).is_some_and(|s| s.tracked) || self.ledger.known(info_hash).is_some();
        if ours { Whose::Ours } else { Whose::Stranger }
    }

    /// Somebody else counted, or this node did before it was started again.
    pub(super) fn know_downloads(&mut self, now: Time, info_hash: InfoHash, downloaded: u64) {
        if self.ledger.raise(info_hash, downloaded, self.whose(&info_hash)) {
            self.save_soon(now);
        }
        let known = self.downloaded(&info_hash);
        if known > downloaded {
            self.outputs.push_back(Output::Completed { info_hash, downloaded: known });
        }
    }

    pub(super) fn register(&mut self, now: Time, name: RegisteredName) {
        if self.ledger.register(name) {
            self.save_soon(now);
            self.replicate_soon(now);
        }
    }

    pub(super) fn save_soon(&mut self, now: Time) {
        self.save_by(now + BOOK_SAVE_EVERY);
    }

    /// A client came, left or announced. A large book is kept more seldom: what it costs a second is bounded.
    pub(super) fn save_clients_soon(&mut self, now: Time) {
        if self.master {
            self.save_by(now + BOOK_SAVE_EVERY * (1 + (self.clients / 1024) as u32));
        }
    }

    fn save_by(&mut self, at: Time) {
        self.save_at = Some(self.save_at.map_or(at, |earlier| earlier.min(at)));
    }

    /// This node has just been started again.
    pub(super) fn restore(&mut self, now: Time, kept: Kept) {
        for (info_hash, downloaded) in kept.downloaded {
            self.know_downloads(now, info_hash, downloaded);
        }
        for name in kept.names {
            self.register(now, name);
        }
        let (expiry, checks) = (self.config.expiry, self.config.nat_check);
        for client in kept.clients.iter().take(BOOK_KEPT_CLIENTS).filter(|client| client.silent < expiry) {
            let (info_hash, addr) = (client.peer.info_hash, client.peer.addr);
            let until = now + (expiry - client.silent);
            let Some(swarm) = self.swarm(info_hash) else { continue };
            if swarm.clients.get(&addr.into()).is_none() && swarm.clients.restore(until, client, checks).is_ok() {
                self.clients += 1;
            }
            self.forget_if_idle(info_hash);
        }
        self.ages_known = true;
        self.sweep_at = (self.clients > 0).then_some(now + BOOK_SWEEP_EVERY);
    }

    // ---- masters come and go

    pub(super) fn replicate_soon(&mut self, now: Time) {
        if self.master && self.replicate_at.is_none() {
            // A large book more seldom: what it costs a second is bounded.
            let wait = BOOK_REPLICATE_EVERY * (1 + (self.clients / 1024) as u32);
            self.replicate_at = Some(now.max(self.replicated + wait));
        }
    }

    pub(super) fn take_over(&mut self, now: Time, replica: BookReplica) {
        if !self.master {
            for swarm in self.swarms.values_mut() {
                swarm.clients.retain(usize::MAX, |_| false);
            }
            self.clients = 0;
            // A master's replica is swept by its master.
            (self.ages_known, self.sweep_at) = (false, None);
        }
        for (info_hash, downloaded) in replica.downloaded {
            self.know_downloads(now, info_hash, downloaded);
        }
        for name in replica.names {
            self.register(now, name);
        }
        let until = now + self.config.expiry;
        for peer in &replica.peers {
            let full = self.clients >= BOOK_CLIENTS_MAX;
            let Some(swarm) = self.swarm(peer.info_hash) else { continue };
            if full || swarm.clients.get(&peer.addr.into()).is_some() || peer.addr.port() == 0 {
                self.forget_if_idle(peer.info_hash);
                continue;
            }
            // The other master has found it there. A client beyond the limits of one image or one address is left out,
            // as it would be by its announce.
            if swarm.clients.announce(until, peer, false, 0).is_ok() {
                self.clients += 1;
                self.changed(now, peer.info_hash, Change { regroup: true, completed: false });
            }
        }
        if self.master {
            self.sweep_at = self.sweep_at.or(Some(now + BOOK_SWEEP_EVERY));
            self.replicate_soon(now);
        }
    }

    pub(super) fn become_master(&mut self, now: Time) {
        self.master = true;
        if !std::mem::take(&mut self.ages_known) {
            for swarm in self.swarms.values_mut() {
                swarm.clients.touch(now + self.config.expiry);
            }
        }
        self.sweep_at = (self.clients > 0).then_some(now + BOOK_SWEEP_EVERY);
        self.replicate_soon(now);
    }

    pub(super) fn lose_mastership(&mut self) {
        self.master = false;
        self.agenda.clear();
        (self.sweep_at, self.replicate_at) = (None, None);
        for swarm in self.swarms.values_mut() {
            swarm.forget_nodes();
            (swarm.regroup_at, swarm.wake_at) = (None, None);
        }
        self.swarms.retain(|_, swarm| !swarm.is_idle());
    }

    // ---- silence

    pub(super) fn sweep(&mut self, now: Time) {
        let swarms: Vec<InfoHash> = self.swarms.keys().copied().collect();
        let mut most = BOOK_SWEEP_MAX;
        for info_hash in swarms {
            let Some(swarm) = self.swarms.get_mut(&info_hash) else { continue };
            let left = swarm.retain_nodes(|peer| now.since(peer.seen) < ANNOUNCE_EXPIRY);
            let gone = swarm.clients.retain(most, |client| now < client.until);
            most -= gone;
            if left {
                self.changed(now, info_hash, Change { regroup: true, completed: false });
            }
            self.clients_left(now, info_hash, gone);
            self.forget_if_idle(info_hash);
        }
        let wait = if most == 0 { BOOK_SWEEP_AGAIN } else { BOOK_SWEEP_EVERY };
        self.sweep_at = self.has_somebody().then_some(now + wait);
    }

    /// Whether anybody in any book could fall silent.
    pub(super) fn has_somebody(&self) -> bool {
        self.clients > 0 || self.swarms.values().any(Swarm::has_nodes)
    }
}
