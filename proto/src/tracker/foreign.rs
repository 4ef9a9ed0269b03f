//! One visit of a foreign client: what it wants, what it is told, and how a follower passes both on.
//!
//! Not here: the book ([`super`]), query strings and bencode (`wire::http_tracker`).

use std::net::SocketAddr;

use super::swarm::Found;
use crate::config::{NUMWANT_MAX, TrackerConfig};
use crate::wire::control::{ForeignAnswer, ForeignPeer, ForeignRefused, Message};
use crate::wire::http_tracker::{Announce, AnnounceEvent, Announced, TrackedPeer};

/// What a foreign client wants.
pub(super) struct Visit {
    pub(super) peer: ForeignPeer,
    pub(super) wanted: usize,
    pub(super) stopped: bool,
    pub(super) completed: bool,
}

impl Visit {
    pub(super) fn of(announce: &Announce, config: &TrackerConfig) -> Self {
        let peer = ForeignPeer {
            info_hash: announce.info_hash,
            // A socket for both families shows IPv4 clients as `::ffff:a.b.c.d`, which others cannot dial.
            addr: SocketAddr::new(announce.source.to_canonical(), announce.port),
            peer_id: announce.peer_id.0,
            left: announce.left,
            uploaded: announce.uploaded,
            downloaded: announce.downloaded,
        };
        let wanted = announce.numwant.map_or(config.response_size, |n| NUMWANT_MAX.min(n as usize));
        let stopped = announce.event == AnnounceEvent::Stopped;
        Self { peer, wanted, stopped, completed: announce.event == AnnounceEvent::Completed }
    }
}

/// What a foreign client is told.
pub(super) struct Answer<T> {
    pub(super) complete: u32,
    pub(super) incomplete: u32,
    pub(super) peers: Vec<T>,
}

impl Found {
    pub(super) fn tracked(self) -> TrackedPeer {
        TrackedPeer { addr: self.addr, peer_id: self.peer_id }
    }
}

impl Answer<TrackedPeer> {
    /// For a client of a follower.
    pub(super) fn passed_on(self) -> ForeignAnswer {
        let Self { complete, incomplete, peers } = self;
        ForeignAnswer { complete, incomplete, peers: peers.into_iter().map(|p| (p.addr, p.peer_id)).collect() }
    }

    pub(super) fn announced(self, config: &TrackerConfig) -> Announced {
        announced(config, self.complete, self.incomplete, self.peers)
    }
}

fn announced(config: &TrackerConfig, complete: u32, incomplete: u32, peers: Vec<TrackedPeer>) -> Announced {
    let (interval, min_interval) = (config.interval.as_secs() as u32, config.min_interval.as_secs() as u32);
    Announced { interval, min_interval, complete, incomplete, peers }
}

/// At a follower: the message that passes a client's announce on to the master, under the follower's number.
pub fn pass_on(id: u64, announce: &Announce, config: &TrackerConfig) -> Message {
    let Visit { peer, wanted, stopped, completed } = Visit::of(announce, config);
    Message::ForeignAnnounce { id, peer, numwant: wanted as u16, stopped, completed }
}

/// At a follower: what the client is told for the master's [`Message::ForeignAnnounced`].
///
/// # Errors
/// The `failure reason` if the master refused.
pub fn passed_back(
    answer: Result<ForeignAnswer, ForeignRefused>,
    config: &TrackerConfig,
) -> Result<Announced, &'static str> {
    let ForeignAnswer { complete, incomplete, peers } = answer.map_err(ForeignRefused::reason)?;
    let peers = peers.into_iter().map(|(addr, peer_id)| TrackedPeer { addr, peer_id }).collect();
    Ok(announced(config, complete, incomplete, peers))
}
