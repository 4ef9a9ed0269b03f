//! What pages, `status` and `ls` show: one snapshot of everything, put together from the parts.
//!
//! Not here: how it looks (`labmesh`'s `view.rs` and `web.rs`).

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::Node;
use crate::config::{Mode, RateLimits, Weight};
use crate::election;
use crate::error::DiskError;
use crate::id::{InfoHash, NodeId, PeerId, Time};
use crate::swarm::Swarm;
use crate::wire::control::{ImageRecord, RosterEntry, SwarmCount, TransferReport, TransferState};
use crate::wire::http_tracker::Scraped;

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
    /// How fast this node may send and receive now.
    pub limits: RateLimits,
    /// Every node of the roster, this one included, by name.
    pub nodes: Vec<NodeStatus>,
    /// Every image of the catalogue, by name.
    pub images: Vec<ImageStatus>,
    /// Torrents of an open tracker that are not in the catalogue: all with a name, and some without.
    pub torrents: Vec<TorrentStatus>,
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

/// A torrent of an open tracker that no cache of ours holds.
#[derive(Clone, Debug, PartialEq)]
pub struct TorrentStatus {
    /// Its info hash.
    pub info_hash: InfoHash,
    /// What a person called it, and its bytes.
    pub known: Option<(String, u64)>,
    /// Whole copies in the swarm.
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
    /// No end is set because the node is the master, which never leaves; otherwise there would be one.
    pub seeds_as_master: bool,
    /// Pieces that nobody present has.
    pub missing_pieces: u32,
    /// Nodes that had a whole copy and are away.
    pub last_seen_on: Vec<String>,
    /// Per peer: its name or address, bytes received from it, bytes sent to it.
    pub sources: Vec<(String, u64, u64)>,
    /// What the tracker of others that its torrent names has said last; `None` = there is none.
    pub tracker: Option<String>,
    /// Why it stopped, if it failed.
    pub error: Option<DiskError>,
}

/// How many trackers a torrent that this node hands out names before itself: the master and three deputies.
const TRACKERS: usize = 4;
/// Torrents without a name that an open tracker shows; anybody can make them up.
const UNNAMED_SHOWN: usize = 256;

impl Node {
    /// Everything to show.
    pub fn status(&self, now: Time) -> Status {
        let master = self.election.master();
        Status {
            id: self.config.id,
            name: self.name_of(&self.config.id),
            role: role(self.election.role()),
            term: self.election.highest().term,
            master: master.map(|m| self.name_of(&m)),
            limits: self.limiter.limits(),
            nodes: self.node_statuses(),
            images: self.image_statuses(),
            torrents: self.torrent_statuses(),
            transfers: self.transfer_statuses(now),
            trackers: self.trackers(),
        }
    }

    /// What this node is.
    pub fn role(&self) -> Role {
        role(self.election.role())
    }

    /// Its master, perhaps itself.
    pub fn obeys(&self) -> Option<NodeId> {
        self.election.master()
    }

    /// The roster, this node included, by id.
    pub fn members(&self) -> impl Iterator<Item = &RosterEntry> {
        self.roster.entries()
    }

    /// The catalogue, by name.
    pub fn records(&self) -> impl Iterator<Item = &ImageRecord> {
        self.catalogue.records()
    }

    /// Its own images.
    pub fn swarms(&self) -> impl Iterator<Item = &Swarm> {
        self.swarms.iter().flatten()
    }

    /// The counters of an image, if it is tracked here.
    pub fn scrape(&self, images: &[InfoHash]) -> Vec<Scraped> {
        if !images.is_empty() {
            return images.iter().filter_map(|hash| self.scraped(hash)).collect();
        }
        let others = self.tracker.others(usize::MAX);
        let all = self.catalogue.records().map(|r| r.info_hash).chain(others);
        all.filter_map(|hash| self.scraped(&hash)).collect()
    }

    fn scraped(&self, hash: &InfoHash) -> Option<Scraped> {
        let counted = self.tracker.scrape(hash);
        let Some(record) = self.catalogue.record(hash) else { return counted };
        let name = Some(record.name.clone());
        if self.is_ruling() {
            return counted.map(|scraped| Scraped { name, ..scraped });
        }
        let (complete, incomplete) = self.counts(hash);
        let downloaded = record.downloaded.max(self.tracker.downloaded(hash));
        Some(Scraped { info_hash: *hash, name, complete, incomplete, downloaded })
    }

    /// Whole copies and others in the swarm: by the book here, or by the master's.
    fn counts(&self, info_hash: &InfoHash) -> (u32, u32) {
        if self.is_ruling() { self.tracker.counts(info_hash) } else { self.board.counts(info_hash) }
    }

    fn is_live(&self, node: &NodeId) -> bool {
        *node == self.config.id || self.roster.member(node).is_some_and(|e| e.live)
    }

    /// What the book here has of every image, for everybody else.
    pub(super) fn swarm_counts(&self) -> Vec<SwarmCount> {
        let count = |record: &ImageRecord| {
            let (info_hash, (complete, incomplete)) = (record.info_hash, self.tracker.counts(&record.info_hash));
            (complete + incomplete > 0).then_some(SwarmCount { info_hash, complete, incomplete })
        };
        self.catalogue.records().filter_map(count).collect()
    }

    /// What a node is called here; unique.
    pub fn name_of(&self, node: &NodeId) -> String {
        self.roster.name(node).map_or_else(|| node.short(), str::to_owned)
    }

    fn node_statuses(&self) -> Vec<NodeStatus> {
        let mut all: Vec<NodeStatus> = self.roster.entries().map(|entry| self.node_status(entry)).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    fn node_status(&self, entry: &RosterEntry) -> NodeStatus {
        let member = &entry.member;
        let me = member.id == self.config.id;
        let is_master = self.election.master() == Some(member.id);
        NodeStatus {
            id: member.id,
            name: self.name_of(&member.id),
            addr: member.addr.or_else(|| self.roster.address(&member.id)),
            http_port: member.http_port,
            role: match (me, is_master) {
                (true, _) => role(self.election.role()),
                (false, true) => Role::Master,
                (false, false) => Role::Follower,
            },
            weight: member.weight,
            site: member.site.clone(),
            live: me || entry.live,
            transfers: self.board.of(&member.id).to_vec(),
        }
    }

    fn image_statuses(&self) -> Vec<ImageStatus> {
        let mut names: BTreeMap<&str, u32> = BTreeMap::new();
        for record in self.catalogue.records() {
            *names.entry(&record.name).or_default() += 1;
        }
        let status = |record: &ImageRecord| {
            let (complete, downloading) = self.counts(&record.info_hash);
            let swarm = self.image_of(&record.info_hash).and_then(|image| self.swarms[image].as_ref());
            ImageStatus {
                name: record.name.clone(),
                info_hash: record.info_hash,
                size: record.size,
                piece_length: record.piece_length,
                holders: self.names_of(&record.holders),
                here: swarm.map(permille),
                ambiguous: names.get(record.name.as_str()).is_some_and(|n| *n > 1),
                complete,
                downloading,
                downloaded: record.downloaded.max(self.tracker.downloaded(&record.info_hash)),
            }
        };
        self.catalogue.records().map(status).collect()
    }

    fn torrent_statuses(&self) -> Vec<TorrentStatus> {
        let status = |info_hash: InfoHash| {
            let (complete, downloading) = self.tracker.counts(&info_hash);
            TorrentStatus {
                info_hash,
                known: self.tracker.known(&info_hash).map(|(name, size)| (name.to_owned(), size)),
                complete,
                downloading,
                downloaded: self.tracker.downloaded(&info_hash),
            }
        };
        let in_catalogue = |hash: &InfoHash| self.catalogue.record(hash).is_some();
        let others = self.tracker.others(UNNAMED_SHOWN).into_iter().filter(|hash| !in_catalogue(hash));
        others.map(status).collect()
    }

    fn names_of(&self, nodes: &[NodeId]) -> Vec<String> {
        let mut names: Vec<String> = nodes.iter().map(|node| self.name_of(node)).collect();
        names.sort();
        names
    }

    fn transfer_statuses(&self, now: Time) -> Vec<TransferStatus> {
        let mut all: Vec<TransferStatus> = self.swarms.iter().flatten().map(|s| self.transfer_status(now, s)).collect();
        all.sort_by(|a, b| (&a.name, a.info_hash).cmp(&(&b.name, b.info_hash)));
        all
    }

    fn transfer_status(&self, now: Time, swarm: &Swarm) -> TransferStatus {
        let (down_bps, up_bps) = swarm.rates(now);
        let (downloaded, uploaded) = swarm.totals();
        let missing_pieces = swarm.missing_pieces();
        let holders = self.catalogue.record(&swarm.info_hash()).map_or(&[][..], |r| &r.holders);
        let away: Vec<NodeId> = holders.iter().copied().filter(|node| !self.is_live(node)).collect();
        TransferStatus {
            name: swarm.name().to_owned(),
            info_hash: swarm.info_hash(),
            mode: swarm.mode(),
            state: swarm.state(now),
            have: swarm.here().count(),
            pieces: swarm.here().pieces(),
            bytes_have: swarm.bytes_here(),
            size: swarm.metainfo().geometry().length(),
            down_bps,
            up_bps,
            downloaded,
            uploaded,
            seed_left: swarm.seed_left(now),
            seeds_as_master: swarm.seeds_as_master(now),
            missing_pieces,
            last_seen_on: if missing_pieces > 0 { self.names_of(&away) } else { Vec::new() },
            sources: self.sources(swarm),
            tracker: self.announcer.said(&swarm.info_hash()).map(str::to_owned),
            error: swarm.error().cloned(),
        }
    }

    /// Bytes by peer; several connections of one peer are one line.
    fn sources(&self, swarm: &Swarm) -> Vec<(String, u64, u64)> {
        let mut by_name: BTreeMap<String, (u64, u64)> = BTreeMap::new();
        for (addr, id, down, up) in swarm.sources() {
            let node = self.roster.entries().map(|e| e.member.id).find(|node| id == PeerId::of_node(node));
            let name = node.map_or_else(|| addr.to_string(), |node| self.name_of(&node));
            let sums = by_name.entry(name).or_default();
            *sums = (sums.0 + down, sums.1 + up);
        }
        by_name.into_iter().map(|(name, (down, up))| (name, down, up)).collect()
    }

    /// This node's transfers for the board.
    pub(super) fn reports(&self, now: Time) -> Vec<TransferReport> {
        let report = |swarm: &Swarm| {
            let (down_bps, up_bps) = swarm.rates(now);
            TransferReport {
                info_hash: swarm.info_hash(),
                mode: swarm.mode(),
                state: swarm.state(now),
                permille: permille(swarm),
                down_bps,
                up_bps,
                seed_left_s: swarm.seed_left(now).map(|d| d.as_secs() as u32),
                missing_pieces: swarm.missing_pieces(),
            }
        };
        self.swarms.iter().flatten().map(report).collect()
    }

    /// The master first, then those who would follow it, then this node.
    fn trackers(&self) -> Vec<SocketAddr> {
        let succession = self.roster.succession().iter().copied();
        let mut nodes: Vec<NodeId> = Vec::new();
        for node in self.election.master().into_iter().chain(succession) {
            if !nodes.contains(&node) && nodes.len() < TRACKERS {
                nodes.push(node);
            }
        }
        if !nodes.contains(&self.config.id) {
            nodes.push(self.config.id);
        }
        let http = |node: NodeId| {
            let entry = self.roster.member(&node)?;
            let own = (node == self.config.id).then_some(self.config.addr).flatten();
            let ip = entry.member.addr.or(own).or_else(|| self.roster.address(&node))?;
            Some(SocketAddr::new(ip, entry.member.http_port))
        };
        nodes.into_iter().filter_map(http).collect()
    }
}

fn permille(swarm: &Swarm) -> u16 {
    let here = swarm.here();
    match here.count() {
        _ if swarm.is_complete() => 1000,
        n => (u64::from(n) * 1000 / u64::from(here.pieces())).min(999) as u16,
    }
}

fn role(role: election::Role) -> Role {
    match role {
        election::Role::Listening | election::Role::Candidate => Role::Candidate,
        election::Role::Follower => Role::Follower,
        election::Role::Master => Role::Master,
        election::Role::Solo => Role::Solo,
    }
}
