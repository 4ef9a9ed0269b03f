//! The HTTP tracker protocol: announce (BEP 3, 7, 23) and scrape (BEP 48), query strings in, bencode out.
//!
//! Rule: a query string becomes an [`Announce`] or an error in bttrack's words. Not here: who is in the book
//! (`tracker`), sockets, other pages.

use std::net::{IpAddr, SocketAddr};

use crate::id::{InfoHash, PeerId};

/// What the client says has just happened (BEP 3 `event`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AnnounceEvent {
    /// Nothing: a regular announce.
    #[default]
    None,
    /// It joined.
    Started,
    /// It has everything now.
    Completed,
    /// It leaves.
    Stopped,
}

/// One announce, whether it came by HTTP or by UDP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announce {
    /// The image.
    pub info_hash: InfoHash,
    /// The client.
    pub peer_id: PeerId,
    /// Where the announce came from; the only address that a client may announce.
    pub source: IpAddr,
    /// Where the client listens.
    pub port: u16,
    /// Bytes it has sent.
    pub uploaded: u64,
    /// Bytes it has received.
    pub downloaded: u64,
    /// Bytes it misses; 0 = it is a seed.
    pub left: u64,
    /// What has just happened.
    pub event: AnnounceEvent,
    /// How many peers it wants; `None` = the default.
    pub numwant: Option<u32>,
    /// BEP 23: 6 bytes a peer (and BEP 7: 18) instead of dictionaries.
    pub compact: bool,
    /// With `compact=0`: leave the peer ids out.
    pub no_peer_id: bool,
}

/// What the tracker answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announced {
    /// Seconds until the next announce.
    pub interval: u32,
    /// Seconds that must pass at least.
    pub min_interval: u32,
    /// Seeds in the swarm.
    pub complete: u32,
    /// Others in the swarm.
    pub incomplete: u32,
    /// Whom to talk to.
    pub peers: Vec<TrackedPeer>,
}

/// A peer as the tracker hands it out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrackedPeer {
    /// Where it listens.
    pub addr: SocketAddr,
    /// Its peer id.
    pub peer_id: PeerId,
}

/// One swarm's counters (BEP 48).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scraped {
    /// The image.
    pub info_hash: InfoHash,
    /// Its name, which bttrack tells too.
    pub name: Option<String>,
    /// Seeds.
    pub complete: u32,
    /// Others.
    pub incomplete: u32,
    /// How often somebody said `completed`.
    pub downloaded: u64,
}
