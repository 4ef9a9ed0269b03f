//! What a node is told at its start, and every limit and interval of the mesh with its reason.
//!
//! Rule: nothing in `proto` grows without a limit from this file. Not here: the configuration file and the flags
//! (`labmesh`'s `config.rs`), which become a [`Config`] once.

use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU64;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::id::NodeId;

/// What a node gives while and after it takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Uploads nothing while it downloads.
    Leecher,
    /// Uploads what it has, then seeds for its seed time.
    #[default]
    Peer,
    /// Uploads what it has, is served and offered first, and goes on until told to stop.
    Seeder,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Leecher => "leecher",
            Self::Peer => "peer",
            Self::Seeder => "seeder",
        })
    }
}

/// A word that names no mode.
#[derive(Clone, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[error("no such mode: {0:?} (expected leecher, peer or seeder)")]
pub struct BadMode(pub String);

impl FromStr for Mode {
    type Err = BadMode;
    fn from_str(text: &str) -> Result<Self, BadMode> {
        match text.to_ascii_lowercase().as_str() {
            "leecher" => Ok(Self::Leecher),
            "peer" => Ok(Self::Peer),
            "seeder" => Ok(Self::Seeder),
            _ => Err(BadMode(text.to_owned())),
        }
    }
}

/// How long a node goes on seeding once its copy is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SeedTime {
    /// This long after completion; zero means not at all.
    For(Duration),
    /// Until nobody in the swarm misses a piece.
    Enough,
    /// Until told to stop.
    Forever,
}

impl fmt::Display for SeedTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::For(d) => f.pad(&d.as_secs().to_string()),
            Self::Enough => f.pad("enough"),
            Self::Forever => f.pad("forever"),
        }
    }
}

/// A text that is no seed time.
#[derive(Clone, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[error("no such seed time: {0:?} (expected seconds, 90s, 10m, 2h, enough or forever)")]
pub struct BadSeedTime(pub String);

impl FromStr for SeedTime {
    type Err = BadSeedTime;
    fn from_str(text: &str) -> Result<Self, BadSeedTime> {
        let bad = || BadSeedTime(text.to_owned());
        match text {
            "enough" => return Ok(Self::Enough),
            "forever" => return Ok(Self::Forever),
            _ => {}
        }
        let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
        let scale = match unit {
            "" | "s" => 1,
            "m" => 60,
            "h" => 3600,
            "d" => 86_400,
            _ => return Err(bad()),
        };
        let seconds = number.parse::<u32>().map_err(|_| bad())?;
        Ok(Self::For(Duration::from_secs(u64::from(seconds) * scale)))
    }
}

/// How willing a node is to be master, 0 (never) to 99.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct Weight(u8);

impl Weight {
    /// What a node has that was told nothing else.
    pub const DEFAULT: Self = Self(50);
    /// More than this needs a mesh key, so that a stranger cannot take over an open mesh by claiming 99.
    pub const UNKEYED_MAX: u8 = 60;

    /// The number.
    pub fn get(self) -> u8 {
        self.0
    }

    /// As it counts: at most [`Self::UNKEYED_MAX`] in a mesh without a key.
    pub fn trusted(self, keyed: bool) -> Self {
        if keyed { self } else { Self(self.0.min(Self::UNKEYED_MAX)) }
    }
}

impl Default for Weight {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// A number that is no weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[error("a weight is 0 to 99, not {0}")]
pub struct BadWeight(pub u8);

impl TryFrom<u8> for Weight {
    type Error = BadWeight;
    fn try_from(n: u8) -> Result<Self, BadWeight> {
        if n < 100 { Ok(Self(n)) } else { Err(BadWeight(n)) }
    }
}

impl From<Weight> for u8 {
    fn from(w: Weight) -> Self {
        w.0
    }
}

/// The way that payload goes, seen from this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// To peers.
    Up,
    /// From peers.
    Down,
}

/// The most payload bytes a second that go one way, over all images and peers of a node; or no limit. As a number 0 is
/// no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct RateLimit(Option<NonZeroU64>);

impl RateLimit {
    /// As much as goes.
    pub const NONE: Self = Self(None);

    /// Bytes a second, if there is a limit.
    pub fn per_second(self) -> Option<u64> {
        self.0.map(NonZeroU64::get)
    }

    /// Bytes that one image is allowed at a time, if there is a limit: whole cells of [`BLOCK_BYTES`].
    pub fn share(self) -> Option<u64> {
        let cell = u64::from(BLOCK_BYTES);
        self.per_second().map(|rate| (rate / RATE_LIMIT_SHARES / cell * cell).max(cell))
    }
}

/// A rate that is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[error("a limit is 0 (none) or at least {RATE_LIMIT_MIN} bytes a second, not {0}")]
pub struct BadRateLimit(pub u64);

impl TryFrom<u64> for RateLimit {
    type Error = BadRateLimit;
    fn try_from(n: u64) -> Result<Self, BadRateLimit> {
        if n == 0 || n >= RATE_LIMIT_MIN { Ok(Self(NonZeroU64::new(n))) } else { Err(BadRateLimit(n)) }
    }
}

impl From<RateLimit> for u64 {
    fn from(limit: RateLimit) -> Self {
        limit.per_second().unwrap_or(0)
    }
}

/// How fast payload may go. What nodes say to each other, trackers and pages do not count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RateLimits {
    /// To peers.
    pub upload: RateLimit,
    /// From peers.
    pub download: RateLimit,
}

impl RateLimits {
    /// That of one way.
    pub fn of(&self, direction: Direction) -> RateLimit {
        match direction {
            Direction::Up => self.upload,
            Direction::Down => self.download,
        }
    }
}

/// What a node is told at its start. Resolved and checked by the driver; nothing later reads flags or files.
#[derive(Clone, Debug)]
pub struct Config {
    /// Who this node is.
    pub id: NodeId,
    /// What people call it; at most [`NAME_BYTES_MAX`] bytes.
    pub name: String,
    /// How willing it is to be master.
    pub weight: Weight,
    /// Whether it takes over when it joins a mesh whose master has a lower weight.
    pub prefer: bool,
    /// Which switch it hangs on; empty for the only one.
    pub site: String,
    /// Whether the mesh has a key, so that weights over [`Weight::UNKEYED_MAX`] count.
    pub keyed: bool,
    /// The mode of a `get` that names none.
    pub mode: Mode,
    /// The seed time of a `get` that names none; `None` = what its mode says.
    pub seed_time: Option<SeedTime>,
    /// This node's address on the lab's network, if it is known; others see it better than it does.
    pub addr: Option<IpAddr>,
    /// Where its control plane listens (TCP), and its heartbeats (UDP).
    pub control_port: u16,
    /// Where its peers connect.
    pub peer_port: u16,
    /// Where its tracker and pages answer (HTTP over TCP, BEP 15 over UDP).
    pub http_port: u16,
    /// What its tracker does.
    pub tracker: TrackerConfig,
    /// The mesh's host name, such as `labmesh.local`: a torrent that names it as its tracker is the mesh's own.
    pub mesh_host: String,
    /// Find clients of this LAN by BEP 14, and be found: announces carry this word, by which nodes of one mesh know each
    /// other's. `None` = not at all.
    pub local_discovery: Option<String>,
    /// Exchange peers with clients that are not ours (BEP 11).
    pub peer_exchange: bool,
    /// The node runs for the length of one command: what it fetches ends with its seed time, even if it is master.
    pub transient: bool,
    /// Bytes of pieces in flight that the driver has buffers for.
    pub piece_buffer_bytes: u64,
    /// The longest block that it asks of our own nodes and serves: [`HUGE_BLOCK_BYTES`]; only the simulator has rooms
    /// with others.
    pub block_bytes: u32,
    /// The bytes this node draws its chances from.
    pub seed: u64,
}

/// What a node's tracker tells foreign clients and takes from them; in brackets what bttrack calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrackerConfig {
    /// Track any info hash, not only those of the catalogue.
    pub open: bool,
    /// What clients are asked to wait between announces (`reannounce_interval`).
    pub interval: Duration,
    /// The least that they may wait; earlier announces are answered all the same.
    pub min_interval: Duration,
    /// A client silent for so long is gone (`timeout_downloaders_interval`).
    pub expiry: Duration,
    /// Peers for a client that asks for no number (`response_size`).
    pub response_size: usize,
    /// How often a client's port is looked at before it counts as unreachable; 0 = never, it is handed out at once
    /// (`nat_check`). Off unless it is set: a client that keeps one connection with an address may take the look for the
    /// seed that is nearly always at ours, and refuse that one.
    pub nat_check: u8,
}

impl Default for TrackerConfig {
    fn default() -> Self {
        Self {
            open: false,
            interval: ANNOUNCE_INTERVAL,
            min_interval: ANNOUNCE_MIN_INTERVAL,
            expiry: ANNOUNCE_EXPIRY,
            response_size: NUMWANT_DEFAULT,
            // A client that has just been looked at from this address may refuse the seed behind it (rTorrent, ctorrent).
            nat_check: 0,
        }
    }
}

/// The version of everything that labmesh nodes say to each other; other versions are refused by name. 3 since the
/// board tells the counts of swarms and an answer for a follower's client has reasons and peer ids.
pub const PROTOCOL_VERSION: u16 = 3;

/// Names of nodes, sites and meshes: a DNS label, so that they fit a TXT record and a column.
pub const NAME_BYTES_MAX: usize = 63;
/// Image names: what a path component may have on Linux, twice, for one sub-folder.
pub const IMAGE_NAME_BYTES_MAX: usize = 511;

// Election (docs/PROTOCOL.md has the sums).

/// How often the master says that it lives: a lost datagram costs a sixth of the lease.
pub const BEAT_EVERY: Duration = Duration::from_millis(100);
/// How long a heartbeat is believed: six, since delivery under full load takes up to 260 ms (measured).
pub const LEASE: Duration = Duration::from_millis(600);
/// How often the master's beacon is multicast: two sides that can reach each other again are one within 1.5 s, and the
/// whole LAN stays below 2 packets/s.
pub const BEACON_EVERY: Duration = Duration::from_millis(600);
/// How long a candidate waits for somebody to object: three times the usual round trip under load.
pub const OBJECTION: Duration = Duration::from_millis(100);
/// Between the claims of two ranks: more than the p99 delivery of a claim under load (92-136 ms measured).
pub const RANK_STEP: Duration = Duration::from_millis(100);
/// How long a starting node only listens: mDNS answers within 40-240 ms (RFC 6762, s. 5.2 and 6).
pub const LISTEN: Duration = Duration::from_millis(300);
/// A starting node then waits its rank times a random part of this, so that thirty do not claim at once.
pub const START_SPREAD: Duration = Duration::from_millis(500);
/// How many deputies the succession list names.
pub const SUCCESSION: usize = 5;
/// A term that jumps further than this came from a bug or a liar, and would brick the mesh since terms are kept.
pub const TERM_JUMP_MAX: u64 = 1 << 20;

// Roster and control.

/// Nodes in one mesh: three times the largest room of the design, so that a storm of inventions is bounded.
pub const NODES_MAX: usize = 4096;
/// Control connections of one node: master, deputies, four random nodes, and room for those that chose us.
pub const CONTROL_RANDOM: usize = 4;
/// A follower that has not been heard by the master for this long is shown as away and leaves the live count.
pub const MEMBER_AWAY: Duration = Duration::from_secs(5);
/// An away member is forgotten after this; its copies are remembered in the catalogue as "last seen on".
pub const MEMBER_FORGET: Duration = Duration::from_secs(24 * 3600);
/// Gossip carries claims and digests only.
pub const GOSSIP_BYTES_MAX: usize = 4 * 1024;
/// The largest control message: a `.torrent` at its limit and its envelope.
pub const CONTROL_BYTES_MAX: usize = TORRENT_BYTES_MAX + 64 * 1024;
/// A `.torrent` of 64 Ki pieces is 1.3 MB; 100 GB at 256 KiB is 8 MB. More is refused before it is parsed.
pub const TORRENT_BYTES_MAX: usize = 10 * 1024 * 1024;
/// Lists and dictionaries inside each other in bencode; a hybrid torrent has 6, and `bip_metainfo` ends at 50.
pub const BENCODE_DEPTH_MAX: usize = 32;
/// Values in one piece of bencode: each costs up to some 700 bytes once read, so this bounds 2 bytes becoming 700.
pub const BENCODE_VALUES_MAX: usize = 16 * 1024;

// Catalogue and tracker.

/// Images one node may offer; a folder with more is told so.
pub const IMAGES_MAX: usize = 4096;
/// Foreign clients in one image's tracker book: more than any swarm that one tracker was seen with, in 25 MiB.
pub const BOOK_PEERS_MAX: usize = 128 * 1024;
/// Peers of one address in one image's book, so that one machine cannot fill it.
pub const BOOK_PEERS_PER_ADDRESS: usize = 16;
/// Foreign clients in all books together, at most 200 bytes each.
pub const BOOK_CLIENTS_MAX: usize = 256 * 1024;
/// Foreign clients that deputies are told of: such a message has 1.6 MB, well below [`CONTROL_BYTES_MAX`].
pub const BOOK_REPLICA_CLIENTS: usize = 16 * 1024;
/// Foreign clients of one image that our nodes may be told of, half of them seeds: each of our nodes gets a few, and
/// the choice of neighbours takes time for each.
pub const FOREIGN_IN_GRAPH_MAX: usize = 256;
/// Images in one catalogue and swarms in one tracker: four full folders with nothing in common.
pub const CATALOGUE_IMAGES_MAX: usize = 16 * 1024;
/// Copies that one catalogue remembers (a node with an image): a thousand nodes with a thousand images, 32 MiB.
pub const CATALOGUE_COPIES_MAX: usize = 1024 * 1024;
/// Removals that the catalogue can tell one by one; a follower that missed more is sent the whole.
pub const CATALOGUE_GONE_MAX: usize = 1024;
/// A catalogue message is cut near this size, so that none comes close to [`CONTROL_BYTES_MAX`].
pub const CATALOGUE_DELTA_BYTES: usize = 1024 * 1024;
/// How long a follower waits for the catalogue before it asks again.
pub const CATALOGUE_ASK_AGAIN: Duration = Duration::from_secs(1);
/// A new master keeps images without a known holder this long: holders of parts tell theirs at once.
pub const CATALOGUE_GRACE: Duration = Duration::from_secs(10);
/// At most so often are one swarm's neighbours chosen again, so that thirty joins at once are two rounds, not thirty.
pub const REGROUP_EVERY: Duration = Duration::from_millis(50);
/// How often the book is looked through for silent clients.
pub const BOOK_SWEEP_EVERY: Duration = Duration::from_secs(5);
/// Silent clients that leave at once, so that the driver's other work waits for milliseconds only.
pub const BOOK_SWEEP_MAX: usize = 8 * 1024;
/// When the rest of them leaves.
pub const BOOK_SWEEP_AGAIN: Duration = Duration::from_millis(50);
/// Foreign clients that a master keeps for its next start, in a file of at most 3 MB.
pub const BOOK_KEPT_CLIENTS: usize = 16 * 1024;
/// How often the book is put on disk, if it changed: what a crash may cost. A large one is more seldom.
pub const BOOK_SAVE_EVERY: Duration = Duration::from_secs(5);
/// How often deputies are sent the book, if it changed.
pub const BOOK_REPLICATE_EVERY: Duration = Duration::from_secs(1);
/// With fewer seeders than this in a swarm where somebody misses a piece, idle copies are woken.
pub const SEEDERS_WANTED: usize = 2;
/// How long a woken node has to appear before it is woken again; doubles with every try.
pub const WAKE_AGAIN: Duration = Duration::from_secs(1);
/// The longest wait of [`WAKE_AGAIN`].
pub const WAKE_AGAIN_MAX: Duration = Duration::from_secs(32);
/// The longest name that a person may give a torrent, in bytes.
pub const TORRENT_NAME_BYTES_MAX: usize = 255;
/// What the tracker asks clients to wait between announces (bttrack's value in OpenGnsys).
pub const ANNOUNCE_INTERVAL: Duration = Duration::from_secs(30);
/// The least a client may wait; earlier announces are answered all the same.
pub const ANNOUNCE_MIN_INTERVAL: Duration = Duration::from_secs(10);
/// A peer silent for three intervals is gone; bttrack's 10 s dropped live ones.
pub const ANNOUNCE_EXPIRY: Duration = Duration::from_secs(95);
/// Peers handed to a foreign client that asks for no number (BEP 3's and bttrack's usual 50).
pub const NUMWANT_DEFAULT: usize = 50;
/// Peers handed to anybody at once.
pub const NUMWANT_MAX: usize = 200;
/// Info hashes in one UDP scrape (BEP 15: about 74 fit in a datagram that is not fragmented).
pub const SCRAPE_HASHES_MAX: usize = 74;
/// The shortest interval of somebody else's tracker that is obeyed as it is; bttrack in OpenGnsys says 10 s.
pub const ANNOUNCE_INTERVAL_TOLD_MIN: Duration = Duration::from_secs(5);
/// The longest that is obeyed; a tracker that says a year is asked again all the same.
pub const ANNOUNCE_INTERVAL_TOLD_MAX: Duration = Duration::from_secs(6 * 3600);
/// The longest answer of somebody else's tracker: a thousand peers as dictionaries.
pub const TRACKER_ANSWER_BYTES_MAX: usize = 256 * 1024;
/// Web servers of one torrent that are asked; the rest of its list is not looked at.
pub const WEB_SEEDS_PER_TORRENT_MAX: usize = 4;
/// Trackers of one torrent that are asked; the rest of its list is not looked at.
pub const TRACKERS_PER_TORRENT_MAX: usize = 32;
/// Questions to trackers that wait for an answer at once: five hundred torrents at the start of a node are a queue.
pub const TRACKER_QUESTIONS_MAX: usize = 32;
/// Goodbyes to trackers that wait for an answer at once; the oldest are given up.
pub const TRACKER_GOODBYES_MAX: usize = 256;
/// The longest UDP answer: fits in an Ethernet frame with IPv6 and a tunnel's header.
pub const DATAGRAM_BYTES_MAX: usize = 1400;
/// The longest announce of local discovery that is read: an Ethernet frame's.
pub const LSD_DATAGRAM_BYTES_MAX: usize = 1472;
/// How often a swarm is announced by local discovery (BEP 14).
pub const LSD_EVERY: Duration = Duration::from_secs(5 * 60);
/// A node announces at most this often (BEP 14)...
pub const LSD_PAUSE: Duration = Duration::from_secs(60);
/// ... but for swarms that have just begun to miss pieces: a person waits for those.
pub const LSD_PAUSE_FETCHING: Duration = Duration::from_secs(5);

// Swarm.

/// The unit of requests between foreign clients (BEP 3, "request"): 16 KiB, more is refused by most.
pub const BLOCK_BYTES: u32 = 16 * 1024;
/// The unit between our own nodes: a sixteenth of the messages, and a large enough sendfile.
pub const LARGE_BLOCK_BYTES: u32 = 256 * 1024;
/// The unit for who receives so much that it takes no longer than a [`LARGE_BLOCK_BYTES`] does at a gigabit: there the
/// threads that wake each other for every block are a sixth of all work.
pub const HUGE_BLOCK_BYTES: u32 = 1024 * 1024;
/// Bytes a second, from all peers together, with which one asks for [`HUGE_BLOCK_BYTES`] at once.
pub const HUGE_BLOCK_RATE: u64 = 256 * 1024 * 1024;
/// And so many of the one that is asked: others wait for no more than 40 ms behind such a block.
pub const HUGE_BLOCK_RATE_OF_ONE: u64 = HUGE_BLOCK_RATE / 10;
/// The longest request we answer.
pub const REQUEST_BYTES_MAX: u32 = HUGE_BLOCK_BYTES;
/// The longest bitfield: that of a torrent at its limit, which has no room for more piece hashes of 20 bytes.
pub const BITFIELD_BYTES_MAX: usize = TORRENT_BYTES_MAX.div_ceil(20).div_ceil(8);
/// The longest extension handshake, and the longest peer exchange; real ones have a few hundred bytes.
pub const EXTENDED_BYTES_MAX: usize = 16 * 1024;
/// The longest message that we skip because we do not know it; libtorrent refuses more than 1 MiB too.
pub const UNKNOWN_BYTES_MAX: usize = 1024 * 1024;
/// Peers in one list of an exchange (BEP 11).
pub const PEX_PEERS_MAX: usize = 50;
/// Requests one peer may have waiting at ours (BEP 10 `reqq`).
pub const REQUESTS_PER_PEER_MAX: usize = 512;
/// Connections of one image.
pub const PEERS_PER_IMAGE_MAX: usize = 128;
/// Connections of the whole node; the newest is refused beyond.
pub const PEERS_MAX: usize = 1024;
/// Pieces shorter than this and longer than that are refused in a `.torrent`.
pub const PIECE_BYTES_MIN: u32 = 16 * 1024;
/// See [`PIECE_BYTES_MIN`].
pub const PIECE_BYTES_MAX: u32 = 64 * 1024 * 1024;

/// The lowest limit of a rate: one block a second, so that a peer is not taken for dead between two.
pub const RATE_LIMIT_MIN: u64 = BLOCK_BYTES as u64;
/// A limited node's images take turns in so many shares a second: smooth for the eye, and few wake-ups.
pub const RATE_LIMIT_SHARES: u64 = 32;
/// What a limited node has not used for this long it may make up for: more than its timers are late.
pub const RATE_LIMIT_BURST: Duration = Duration::from_millis(125);

/// Before rates are known all peers together are asked for this much, enough for a gigabit link's first round trips, and
/// a whole copy suggests each peer as many pieces as that takes, and one more (BEP 6). Who asked it for more would ask
/// for what is promised to others, and those pieces would go out twice.
pub const FIRST_BYTES: u64 = 1024 * 1024;
/// Pieces that one peer may have suggested and we remember: as many as it suggests of the shortest.
pub const SUGGESTIONS_MAX: usize = (FIRST_BYTES / PIECE_BYTES_MIN as u64) as usize + 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seed_times_are_read_as_people_and_opengnsys_write_them() {
        let secs = |n| Ok(SeedTime::For(Duration::from_secs(n)));
        for (text, expected) in [
            ("0", secs(0)),
            ("60", secs(60)),
            ("90s", secs(90)),
            ("10m", secs(600)),
            ("2h", secs(7200)),
            ("1d", secs(86_400)),
            ("forever", Ok(SeedTime::Forever)),
            ("enough", Ok(SeedTime::Enough)),
        ] {
            assert_eq!(text.parse(), expected, "{text}");
        }
        for bad in ["", "-1", "1.5h", "10 m", "soon", "99999999999", "s", "5é"] {
            assert_eq!(bad.parse::<SeedTime>(), Err(BadSeedTime(bad.to_owned())));
        }
    }

    #[test]
    fn a_limit_is_none_or_a_block_a_second_and_more() {
        let share = |n| RateLimit::try_from(n).map(RateLimit::share);
        assert_eq!(RateLimit::try_from(0), Ok(RateLimit::NONE));
        assert_eq!(share(0), Ok(None));
        assert_eq!(share(16 * 1024), Ok(Some(16 * 1024)));
        assert_eq!(share(2 << 20), Ok(Some(64 * 1024)));
        assert_eq!(share(2_000_000), Ok(Some(48 * 1024)), "whole blocks");
        for bad in [1, 500, 16 * 1024 - 1] {
            assert_eq!(RateLimit::try_from(bad), Err(BadRateLimit(bad)));
        }
    }

    #[test]
    fn weights_end_at_99() {
        assert_eq!(Weight::try_from(99).map(Weight::get), Ok(99));
        assert_eq!(Weight::try_from(100), Err(BadWeight(100)));
    }
}
