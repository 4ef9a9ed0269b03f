//! What labmesh nodes say to each other: heartbeats, claims, roster, catalogue, torrents, tracker book.
//!
//! Rule: MessagePack by `rmp-serde`, one [`Message`] a request (the answer on the wire is an empty acknowledgement;
//! a reply is a message of its own), at most [`crate::config::CONTROL_BYTES_MAX`] bytes, every list and name
//! checked before anybody sees it. Not here: transport (`labmesh`'s `io/control.rs`), meaning (`election`, `roster`,
//! `catalogue`, `tracker`).

use std::net::{IpAddr, SocketAddr};

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::config::{Mode, Weight};
use crate::id::{Epoch, InfoHash, NodeId, PeerId};

mod check;

pub use check::BadMessage;

/// An Ed25519 signature. `proto` neither makes nor checks it: the driver signs what this node says and drops what
/// does not verify before it becomes an input. In the simulator it is zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Signature(pub [u8; 64]);

impl Default for Signature {
    fn default() -> Self {
        Self([0; 64])
    }
}

impl Serialize for Signature {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Signature {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let bytes = byte_buf::deserialize(d)?;
        let length = bytes.len();
        bytes.try_into().map(Self).map_err(|_| D::Error::invalid_length(length, &"64 bytes"))
    }
}

/// Bytes as MessagePack `bin` instead of an array of numbers.
mod byte_buf {
    use std::fmt;

    use serde::de::{Deserializer, Error, Visitor};
    use serde::ser::Serializer;

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], s: S) -> Result<S::Ok, S::Error> {
        s.serialize_bytes(bytes)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<u8>, D::Error> {
        struct Bytes;
        impl Visitor<'_> for Bytes {
            type Value = Vec<u8>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }
            fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
                Ok(bytes.to_vec())
            }
            fn visit_byte_buf<E: Error>(self, bytes: Vec<u8>) -> Result<Vec<u8>, E> {
                Ok(bytes)
            }
        }
        d.deserialize_byte_buf(Bytes)
    }
}

impl std::fmt::Debug for Signature {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("sig")
    }
}

/// The master lives. Signed by `epoch.node`, so that anybody may relay it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Beat {
    /// Whose heartbeat, in which term.
    pub epoch: Epoch,
    /// Counts up within the epoch; an older one renews nothing.
    pub seq: u64,
    /// Live members on the master's side, itself included; decides which of two meshes wins.
    pub members: u32,
    /// The master is alone and its term is not raised: any other master or node makes it an election.
    pub solo: bool,
    /// Where the master's control plane listens; the address is that of the datagram.
    pub control_port: u16,
    /// The roster's version at the master, so that a follower knows when to ask.
    pub roster: u64,
    /// The catalogue's version at the master.
    pub catalogue: u64,
    /// Over all of the above and the mesh key.
    pub signature: Signature,
}

/// What a node says of itself when it greets.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Member {
    /// Who it is.
    pub id: NodeId,
    /// What people call it; not unique.
    pub name: String,
    /// Where it is, as its master saw it; `None` while only it speaks of itself and is bound to no address.
    pub addr: Option<IpAddr>,
    /// Control plane and heartbeats.
    pub control_port: u16,
    /// Peer protocol.
    pub peer_port: u16,
    /// Tracker and pages.
    pub http_port: u16,
    /// How willing it is to be master.
    pub weight: Weight,
    /// Which switch it hangs on.
    pub site: String,
    /// The program's version, for people.
    pub version: String,
}

/// A member in the master's roster.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RosterEntry {
    /// Who and where.
    pub member: Member,
    /// Heard by the master within [`crate::config::MEMBER_AWAY`].
    pub live: bool,
}

/// The roster, or what changed in it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RosterDelta {
    /// The master that publishes it; versions of another epoch do not compare.
    pub epoch: Epoch,
    /// Applies to this version; 0 = to an empty roster.
    pub from: u64,
    /// Leads to this version.
    pub to: u64,
    /// Members that are new or changed.
    pub changed: Vec<RosterEntry>,
    /// Members that were forgotten.
    pub gone: Vec<NodeId>,
    /// Who follows the master, best first; at most [`crate::config::SUCCESSION`].
    pub succession: Vec<NodeId>,
}

/// One image that a node holds or fetches.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Holding {
    /// Relative path in the cache, `ou1/win10.img`.
    pub name: String,
    /// Its info hash.
    pub info_hash: InfoHash,
    /// Bytes.
    pub size: u64,
    /// Bytes.
    pub piece_length: u32,
    /// The copy is whole and verified.
    pub complete: bool,
}

/// Everything that a node holds: small enough to be sent whole when it changes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Holdings {
    /// Counts up with every change on that node.
    pub version: u64,
    /// What it holds, by name.
    pub images: Vec<Holding>,
}

/// One image of the mesh. One name with two contents is two records.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ImageRecord {
    /// Relative path, `ou1/win10.img`.
    pub name: String,
    /// Its info hash.
    pub info_hash: InfoHash,
    /// Bytes.
    pub size: u64,
    /// Bytes.
    pub piece_length: u32,
    /// Nodes with a whole copy, present or last seen.
    pub holders: Vec<NodeId>,
    /// How often a copy was completed since the image appeared.
    pub downloaded: u64,
}

/// The catalogue, or what changed in it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CatalogueDelta {
    /// The master that publishes it.
    pub epoch: Epoch,
    /// Applies to this version; 0 = to an empty catalogue.
    pub from: u64,
    /// Leads to this version.
    pub to: u64,
    /// Images that are new or changed.
    pub changed: Vec<ImageRecord>,
    /// Images that only have more copies.
    pub copied: Vec<Copied>,
    /// Images that nobody offers any more.
    pub gone: Vec<InfoHash>,
}

/// An image that has more copies than before, and is what it was otherwise. A room of a thousand completes its copies
/// within a second: everybody is told of each once, and not of all again with each.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Copied {
    /// Which image.
    pub info_hash: InfoHash,
    /// Who has a whole copy too.
    pub holders: Vec<NodeId>,
    /// How often a copy was completed since the image appeared.
    pub downloaded: u64,
}

/// A node's announce to the tracker, by control message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct NodeAnnounce {
    /// The image.
    pub info_hash: InfoHash,
    /// Its mode, so that seeders are spread and offered first.
    pub mode: Mode,
    /// Bytes that it misses.
    pub left: u64,
    /// Bytes it has sent.
    pub uploaded: u64,
    /// Bytes it has received.
    pub downloaded: u64,
    /// It leaves the swarm; its copy, if whole, is idle and may be woken.
    pub leaving: bool,
    /// Its copy became whole with this announce.
    pub completed: bool,
    /// It misses pieces that nobody among its neighbours has: wake somebody.
    pub starving: bool,
}

/// A neighbour that the tracker chose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Neighbour {
    /// Which of our nodes, if it is one.
    pub node: Option<NodeId>,
    /// Where it listens for peers.
    pub addr: SocketAddr,
    /// It has every piece.
    pub complete: bool,
}

/// The tracker's answer to a node.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Neighbours {
    /// The image.
    pub info_hash: InfoHash,
    /// Whom to be connected to.
    pub neighbours: Vec<Neighbour>,
    /// Whole copies in the swarm now.
    pub complete: u32,
    /// Others in the swarm now.
    pub incomplete: u32,
    /// With [`crate::config::SeedTime::Enough`] this one stays, perhaps for the next who comes.
    pub stay: bool,
}

/// A foreign client in the tracker's book, replicated so that a new master does not lose it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ForeignPeer {
    /// The image.
    pub info_hash: InfoHash,
    /// Where it listens.
    pub addr: SocketAddr,
    /// Its peer id.
    pub peer_id: [u8; 20],
    /// Bytes that it misses.
    pub left: u64,
    /// Bytes it has sent.
    pub uploaded: u64,
    /// Bytes it has received.
    pub downloaded: u64,
}

/// What a foreign client at a follower is told.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ForeignAnswer {
    /// Whole copies in the swarm.
    pub complete: u32,
    /// Others in the swarm.
    pub incomplete: u32,
    /// Peers: where they listen, and what they call themselves.
    pub peers: Vec<(SocketAddr, PeerId)>,
}

/// Why a tracker refuses a foreign client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ForeignRefused {
    /// It tracks no such image.
    Unknown,
    /// It has no room for one more peer.
    BookFull,
    /// It has no room for one more peer of that image at that address.
    AddressFull,
}

impl ForeignRefused {
    /// The `failure reason` of BEP 3. The first is bttrack's sentence, which scripts compare.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Unknown => "Requested download is not authorized for use with this tracker.",
            Self::BookFull => "too many peers in this tracker, try again later",
            Self::AddressFull => "too many peers of this image at one address",
        }
    }
}

/// The part of the tracker's book that announces alone would not restore.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct BookReplica {
    /// Foreign clients.
    pub peers: Vec<ForeignPeer>,
    /// How often each image was completed.
    pub downloaded: Vec<(InfoHash, u64)>,
    /// What people call torrents that are not in the catalogue.
    pub names: Vec<RegisteredName>,
}

/// What a person calls a torrent of an open tracker that no cache of ours holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RegisteredName {
    /// The torrent.
    pub info_hash: InfoHash,
    /// Its name: 1 to [`crate::config::TORRENT_NAME_BYTES_MAX`] bytes without control characters.
    pub name: String,
    /// Its bytes.
    pub size: u64,
}

impl RegisteredName {
    /// Whether the name may be shown and kept.
    pub fn is_good(&self) -> bool {
        let fits = (1..=crate::config::TORRENT_NAME_BYTES_MAX).contains(&self.name.len());
        fits && !self.name.chars().any(char::is_control) && self.name.trim() == self.name
    }
}

/// One transfer on one node, for pages and `status`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TransferReport {
    /// The image.
    pub info_hash: InfoHash,
    /// Its mode.
    pub mode: Mode,
    /// `fetching`, `seeding`, `idle`, `waiting`, `checking`, `stopped` or `failed`.
    pub state: TransferState,
    /// Pieces here, in thousandths of all.
    pub permille: u16,
    /// Bytes per second, payload only.
    pub down_bps: u64,
    /// Bytes per second, payload only.
    pub up_bps: u64,
    /// Seconds of seeding left; `None` = no end is set.
    pub seed_left_s: Option<u32>,
    /// Pieces that nobody present has.
    pub missing_pieces: u32,
}

/// What is transferred in the mesh, as the master knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct BoardState {
    /// Each node's transfers.
    pub transfers: Vec<(NodeId, Vec<TransferReport>)>,
    /// Who is in each swarm, by the master's book; empty swarms are left out.
    pub counts: Vec<SwarmCount>,
}

/// Who is in a swarm, other people's clients included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SwarmCount {
    /// Its image.
    pub info_hash: InfoHash,
    /// Those with the whole of it.
    pub complete: u32,
    /// The others.
    pub incomplete: u32,
}

/// What a copy is doing, in the words of `status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TransferState {
    /// Its file is being opened and its journal read.
    Checking,
    /// Pieces are missing and come.
    Fetching,
    /// Pieces are missing and nobody present has some of them.
    Waiting,
    /// Whole, and offered.
    Seeding,
    /// Whole, and woken when somebody needs it.
    Idle,
    /// Told to stay out of the swarm.
    Stopped,
    /// Stopped by an error.
    Failed,
}

/// Everything that one node says to another over the control plane.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Message {
    /// A heartbeat by the second path (gossip) or relayed by somebody who objects to a claim.
    Beat(Beat),
    /// A candidate that lost this master asks whether it is really gone.
    Ask(Epoch),
    /// The answer: the latest heartbeat of that master if its lease is alive here.
    Answer(Option<Beat>),
    /// From now on this is the master's epoch; with the number of nodes that the claimant reaches.
    Claim {
        /// The claimant's epoch.
        epoch: Epoch,
        /// Live members on its side.
        members: u32,
    },
    /// The master leaves in good order and names who should follow.
    Goodbye {
        /// The epoch that ends.
        epoch: Epoch,
        /// The first deputy.
        successor: Option<NodeId>,
    },
    /// A person wants the sender to be master: whoever is master in this epoch says goodbye and names it.
    Yield(Epoch),
    /// A node introduces itself, to the master or to whom it believes to be one.
    Hello {
        /// Itself.
        member: Member,
        /// [`crate::config::PROTOCOL_VERSION`] of the sender.
        protocol: u16,
        /// The version of its holdings; the master asks for them if it has another.
        holdings: u64,
    },
    /// The answer to `Hello` of a node that is not the master.
    Welcome {
        /// The freshest heartbeat it knows.
        beat: Option<Beat>,
        /// Where that master's control plane listens: a heartbeat does not say it, and not everybody gets datagrams.
        master: Option<SocketAddr>,
    },
    /// The answer to `Hello` of another protocol version.
    Incompatible {
        /// The version of the node that refuses.
        protocol: u16,
    },
    /// Asks the master for the roster since this version.
    RosterSince(u64),
    /// Roster, or what changed.
    Roster(RosterDelta),
    /// A node tells the master what it holds.
    Holdings(Holdings),
    /// The master asks a node for its holdings.
    HoldingsWanted,
    /// Asks the master for the catalogue since this version.
    CatalogueSince(u64),
    /// Catalogue, or what changed.
    Catalogue(CatalogueDelta),
    /// Asks a holder for the `.torrent`.
    TorrentWanted(InfoHash),
    /// The bytes of a `.torrent`.
    Torrent {
        /// Of this image.
        info_hash: InfoHash,
        /// Unchecked until parsed.
        #[serde(with = "byte_buf")]
        bytes: Vec<u8>,
    },
    /// The asked node has no such image.
    NoTorrent(InfoHash),
    /// A node's announce.
    Announce(NodeAnnounce),
    /// The tracker's answer.
    Neighbours(Neighbours),
    /// The tracker wakes an idle copy.
    Wake(InfoHash),
    /// A foreign client announced at a follower, which passes it on; joined by `id`.
    ForeignAnnounce {
        /// The follower's number for it.
        id: u64,
        /// The client, as the tracker keeps it.
        peer: ForeignPeer,
        /// How many peers it wants.
        numwant: u16,
        /// It leaves.
        stopped: bool,
        /// It has just completed.
        completed: bool,
    },
    /// The master's answer for the follower's client.
    ForeignAnnounced {
        /// The follower's number.
        id: u64,
        /// What the client is told, or why it is refused.
        answer: Result<ForeignAnswer, ForeignRefused>,
    },
    /// The master's book for its deputies, and of a master that lost a merge for the winner.
    Book(BookReplica),
    /// A node's transfers, for the master's page.
    Progress(Vec<TransferReport>),
    /// What the master knows of everybody, for everybody's page.
    Board(BoardState),
    /// A master that lost a merge hands over the members that it knew.
    Handover(Vec<RosterEntry>),
}

impl Message {
    /// Whether it may have come by way of others, so that it says nothing of the connection with who said it.
    pub fn is_gossip(&self) -> bool {
        matches!(self, Self::Beat(_) | Self::Claim { .. } | Self::Goodbye { .. })
    }
}
