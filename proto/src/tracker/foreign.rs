//! One visit of a foreign client: what it wants, what it is told, and how a follower passes both on.
//!
//! Not here: the book ([`super`]), query strings and bencode (`wire::http_tracker`).

use std::net::SocketAddr;

use crate::config::{ANNOUNCE_INTERVAL, ANNOUNCE_MIN_INTERVAL, NUMWANT_DEFAULT, NUMWANT_MAX};
use crate::id::{InfoHash, PeerId};
use crate::wire::control::{ForeignPeer, Message, Neighbour, Neighbours};
use crate::wire::http_tracker::{Announce, AnnounceEvent, Announced, TrackedPeer};

/// Why a foreign client is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    Unknown,
    Port,
    BookFull,
    AddressFull,
}

impl Refused {
    /// The `failure reason` of BEP 3. The first is bttrack's sentence, which scripts compare.
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::Unknown => "Requested download is not authorized for use with this tracker.",
            Self::Port => "port 0 cannot be connected to",
            Self::BookFull => "too many peers in this tracker, try again later",
            Self::AddressFull => "too many peers of this image at one address",
        }
    }
}

/// What a foreign client wants.
pub(super) struct Visit {
    pub(super) peer: ForeignPeer,
    pub(super) wanted: usize,
    pub(super) stopped: bool,
    pub(super) completed: bool,
}

impl Visit {
    pub(super) fn of(announce: &Announce) -> Self {
        let peer = ForeignPeer {
            info_hash: announce.info_hash,
            // A socket for both families shows IPv4 clients as `::ffff:a.b.c.d`, which others cannot dial.
            addr: SocketAddr::new(announce.source.to_canonical(), announce.port),
            peer_id: announce.peer_id.0,
            left: announce.left,
            uploaded: announce.uploaded,
            downloaded: announce.downloaded,
        };
        let wanted = announce.numwant.map_or(NUMWANT_DEFAULT, |n| NUMWANT_MAX.min(n as usize));
        let stopped = announce.event == AnnounceEvent::Stopped;
        Self { peer, wanted, stopped, completed: announce.event == AnnounceEvent::Completed }
    }
}

/// What a foreign client is told.
pub(super) struct Answer {
    pub(super) complete: u32,
    pub(super) incomplete: u32,
    pub(super) peers: Vec<(Neighbour, PeerId)>,
}

impl Answer {
    pub(super) fn announced(self) -> Announced {
        let tracked = |(neighbour, peer_id): (Neighbour, _)| TrackedPeer { addr: neighbour.addr, peer_id };
        announced(self.complete, self.incomplete, self.peers.into_iter().map(tracked).collect())
    }

    pub(super) fn neighbours(self, info_hash: InfoHash) -> Neighbours {
        let (complete, incomplete) = (self.complete, self.incomplete);
        let neighbours = self.peers.into_iter().map(|(neighbour, _)| neighbour).collect();
        Neighbours { info_hash, neighbours, complete, incomplete, stay: false }
    }
}

fn announced(complete: u32, incomplete: u32, peers: Vec<TrackedPeer>) -> Announced {
    let interval = ANNOUNCE_INTERVAL.as_secs() as u32;
    Announced { interval, min_interval: ANNOUNCE_MIN_INTERVAL.as_secs() as u32, complete, incomplete, peers }
}

/// At a follower: the message that passes a client's announce on to the master, under the follower's number.
pub fn pass_on(id: u64, announce: &Announce) -> Message {
    let Visit { peer, wanted, stopped, completed } = Visit::of(announce);
    Message::ForeignAnnounce { id, peer, numwant: wanted as u16, stopped, completed }
}

/// At a follower: what the client is told for the master's [`Message::ForeignAnnounced`]. The peer ids of foreign
/// clients stayed with the master, so they are zero here.
///
/// # Errors
/// The `failure reason` if the master refused.
pub fn passed_back(answer: Option<Neighbours>) -> Result<Announced, &'static str> {
    let answer = answer.ok_or(Refused::Unknown.reason())?;
    let tracked = |n: &Neighbour| TrackedPeer {
        addr: n.addr,
        peer_id: n.node.as_ref().map_or_else(PeerId::default, PeerId::of_node),
    };
    Ok(announced(answer.complete, answer.incomplete, answer.neighbours.iter().map(tracked).collect()))
}
