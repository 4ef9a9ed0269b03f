//! What outlives swarms and masters: replicas for deputies, counters and names for the next start; and who has been
//! silent for too long.
//!
//! Not here: what a replica and an entry of the ledger look like (`wire::control`, [`super::ledger`]).

use super::ledger::Whose;
use super::swarm::{Change, Swarm};
use super::{Output, Tracker};
use crate::config::{
    ANNOUNCE_EXPIRY, BOOK_CLIENTS_MAX, BOOK_REPLICA_CLIENTS, BOOK_REPLICATE_EVERY, BOOK_SAVE_EVERY, BOOK_SWEEP_AGAIN,
    BOOK_SWEEP_EVERY, BOOK_SWEEP_MAX,
};
use crate::id::{InfoHash, Time};
use crate::wire::control::{BookReplica, RegisteredName};

impl Tracker {
    /// What announces alone would not restore: some of the clients, and all of what is kept.
    pub fn replica(&self) -> BookReplica {
        let clients = self.swarms.iter().flat_map(|(hash, swarm)| swarm.clients.replica(*hash));
        BookReplica { peers: clients.take(BOOK_REPLICA_CLIENTS).collect(), ..self.kept() }
    }

    /// What the next start should know.
    pub(super) fn kept(&self) -> BookReplica {
        BookReplica {
            peers: Vec::new(),
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
        self.save_at = self.save_at.or(Some(now + BOOK_SAVE_EVERY));
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
        }
        for (info_hash, downloaded) in replica.downloaded {
            self.know_downloads(now, info_hash, downloaded);
        }
        for name in replica.names {
            self.register(now, name);
        }
        for peer in &replica.peers {
            let full = self.clients >= BOOK_CLIENTS_MAX;
            let Some(swarm) = self.swarm(peer.info_hash) else { continue };
            if full || swarm.clients.get(&peer.addr.into()).is_some() || peer.addr.port() == 0 {
                self.forget_if_idle(peer.info_hash);
                continue;
            }
            // The other master has found it there. A client beyond the limits of one image or one address is left out,
            // as it would be by its announce.
            if swarm.clients.announce(now, peer, false, 0).is_ok() {
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
        for swarm in self.swarms.values_mut() {
            swarm.clients.touch(now);
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
        let expiry = self.config.expiry;
        let mut most = BOOK_SWEEP_MAX;
        for info_hash in swarms {
            let Some(swarm) = self.swarms.get_mut(&info_hash) else { continue };
            let left = swarm.retain_nodes(|peer| now.since(peer.seen) < ANNOUNCE_EXPIRY);
            let gone = swarm.clients.retain(most, |client| now.since(client.seen) < expiry);
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
