//! One node: joins the parts. Routes inputs to the part that owns them and outputs to the border.
//!
//! Not here: any rule. Who is master is decided in `election`, who talks to whom in `tracker` and `neighbours`, which
//! block is asked of whom in `swarm`.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::config::{Mode, Weight};
use crate::id::{InfoHash, NodeId};
use crate::wire::control::{TransferReport, TransferState};

/// What a node is in its mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Catalogue and tracker are here.
    Master,
    /// Obeys a master.
    Follower,
    /// Has lost its master, or just started.
    Candidate,
    /// Master of itself, since it reaches nobody.
    Solo,
}

/// Everything that pages, `status` and `ls` show, at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    /// This node.
    pub id: NodeId,
    /// Its name.
    pub name: String,
    /// What it is.
    pub role: Role,
    /// The term it lives in.
    pub term: u64,
    /// Its master's name, if it has one.
    pub master: Option<String>,
    /// Every node of the roster, this one included, by name.
    pub nodes: Vec<NodeStatus>,
    /// Every image of the catalogue, by name.
    pub images: Vec<ImageStatus>,
    /// Every image in this node's own swarms, by name.
    pub transfers: Vec<TransferStatus>,
    /// Trackers for a torrent that this node hands out: the master, three deputies, this node.
    pub trackers: Vec<SocketAddr>,
}

/// One node of the roster.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeStatus {
    /// Who.
    pub id: NodeId,
    /// Unique among the nodes: `pc07`, and `pc07-2` for a second of that name.
    pub name: String,
    /// Where, as far as known.
    pub addr: Option<IpAddr>,
    /// Its pages and tracker.
    pub http_port: u16,
    /// What it is.
    pub role: Role,
    /// How willing to be master.
    pub weight: Weight,
    /// Which switch.
    pub site: String,
    /// Heard by the master lately.
    pub live: bool,
    /// What it fetches and seeds.
    pub transfers: Vec<TransferReport>,
}

/// One image of the catalogue.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageStatus {
    /// Relative path.
    pub name: String,
    /// Its info hash.
    pub info_hash: InfoHash,
    /// Bytes.
    pub size: u64,
    /// Bytes.
    pub piece_length: u32,
    /// Names of the nodes with a whole copy.
    pub holders: Vec<String>,
    /// Pieces here in thousandths; 1000 = whole; `None` = nothing here.
    pub here: Option<u16>,
    /// Another image has the same name.
    pub ambiguous: bool,
    /// Whole copies in the swarm (bttrack's column).
    pub complete: u32,
    /// Others in the swarm.
    pub downloading: u32,
    /// How often a copy was completed.
    pub downloaded: u64,
}

/// One image in this node's swarms.
#[derive(Clone, Debug, PartialEq)]
pub struct TransferStatus {
    /// Relative path.
    pub name: String,
    /// Its info hash.
    pub info_hash: InfoHash,
    /// Its mode.
    pub mode: Mode,
    /// What it does.
    pub state: TransferState,
    /// Pieces here.
    pub have: u32,
    /// All pieces.
    pub pieces: u32,
    /// Bytes of the pieces here.
    pub bytes_have: u64,
    /// Bytes of the image.
    pub size: u64,
    /// Payload bytes per second.
    pub down_bps: u64,
    /// Payload bytes per second.
    pub up_bps: u64,
    /// Payload bytes received.
    pub downloaded: u64,
    /// Payload bytes sent.
    pub uploaded: u64,
    /// How long it goes on seeding; `None` = no end is set.
    pub seed_left: Option<Duration>,
    /// Pieces that nobody present has.
    pub missing_pieces: u32,
    /// Nodes that had a whole copy and are away.
    pub last_seen_on: Vec<String>,
    /// Per peer: its name or address, bytes received from it, bytes sent to it.
    pub sources: Vec<(String, u64, u64)>,
    /// Why it stopped, if it failed.
    pub error: Option<String>,
}
