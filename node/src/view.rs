//! What people and scripts are shown: the shapes of `--json`, tables, and how a command can fail.
//!
//! Rule: the fields that `docs` promise to scripts keep their names and meanings; more may be added. Tables never
//! wrap: they give up width, then columns.
//!
//! Not here: where the facts come from (`labmesh_proto::node::Status`), progress ([`crate::progress`]).

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use bytesize::ByteSize;
use labmesh_proto::config::{Mode, RateLimit, RateLimits};
use labmesh_proto::error::DiskError;
use labmesh_proto::io::Refusal;
use labmesh_proto::node::{self, Role};
use labmesh_proto::wire::control::{TransferReport, TransferState};
use serde::{Deserialize, Serialize};

mod table;

pub use table::Table;

/// How a command ended, as its exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Exit {
    /// It could not be done.
    Failed = 1,
    /// It was not said right.
    Usage = 2,
    /// Nobody has such an image.
    NoSuchImage = 3,
    /// No node runs here, or it finds no other.
    NoMesh = 4,
    /// The disk is too small.
    NoSpace = 5,
    /// An image is not what its torrent says.
    Damaged = 6,
}

/// Why a command failed, in words for the person.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// What happened, to what, and what to do.
    pub message: String,
}

impl Failure {
    /// A failure with these words.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into() }
    }
}

impl From<&DiskError> for Failure {
    fn from(error: &DiskError) -> Self {
        let exit = match error {
            DiskError::NoSpace { .. } => Exit::NoSpace,
            DiskError::Changed { .. } => Exit::Damaged,
            DiskError::ReadOnly { .. } | DiskError::Io { .. } => Exit::Failed,
        };
        Self::new(exit, error.to_string())
    }
}

impl From<&Refusal> for Failure {
    fn from(refusal: &Refusal) -> Self {
        let exit = match refusal {
            Refusal::NoSuchImage(_) | Refusal::NotHere(_) => Exit::NoSuchImage,
            Refusal::Ambiguous { .. }
            | Refusal::OtherContent { .. }
            | Refusal::BeingDeleted(_)
            | Refusal::NotDeleted { .. }
            | Refusal::NoTorrent(_)
            | Refusal::TooMany(_)
            | Refusal::ClosedTracker
            | Refusal::TooManyNames(_)
            | Refusal::NeverMaster
            | Refusal::NoSuccessor
            | Refusal::NotMaster => Exit::Failed,
        };
        Self::new(exit, refusal.to_string())
    }
}

/// `labmesh status --json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The mesh's name.
    pub mesh: String,
    /// This node's name.
    pub node: String,
    /// What this node is: `master`, `follower`, `candidate` or `solo`.
    pub role: String,
    /// The term it lives in.
    pub term: u64,
    /// The master's name.
    pub master: Option<String>,
    /// The most that this node sends to peers now, in bytes a second; 0 = no limit.
    #[serde(default)]
    pub upload_limit: RateLimit,
    /// The most that it fetches from them.
    #[serde(default)]
    pub download_limit: RateLimit,
    /// Every node of the mesh, by name.
    pub nodes: Vec<Node>,
    /// Every image in this node's own swarms.
    pub transfers: Vec<Transfer>,
}

/// One node of `status`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Node {
    /// Unique among the nodes.
    pub name: String,
    /// Its NodeId, 64 hexadecimal digits.
    pub id: String,
    /// Where, as far as known.
    pub addr: Option<IpAddr>,
    /// Its pages and tracker.
    pub http_port: u16,
    /// `master`, `follower`, `candidate` or `solo`.
    pub role: String,
    /// 0 to 99.
    pub weight: u8,
    /// Which switch.
    pub site: String,
    /// `live` or `away`.
    pub state: String,
    /// What it fetches and seeds.
    pub transfers: Vec<Doing>,
}

/// What another node does with one image.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Doing {
    /// The image's name, if the catalogue still has it.
    pub image: Option<String>,
    /// 40 hexadecimal digits.
    pub info_hash: String,
    /// As in [`Transfer`].
    pub mode: Mode,
    /// As in [`Transfer`].
    pub state: TransferState,
    /// As in [`Transfer`].
    pub percent: f64,
    /// As in [`Transfer`].
    pub down_bps: u64,
    /// As in [`Transfer`].
    pub up_bps: u64,
    /// As in [`Transfer`].
    #[serde(default)]
    pub left_s: Option<u64>,
    /// As in [`Transfer`].
    #[serde(default)]
    pub seed_left_s: Option<u64>,
    /// As in [`Transfer`].
    #[serde(default)]
    pub missing_pieces: u32,
}

/// One image in this node's swarms.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Transfer {
    /// Relative path in the cache.
    pub image: String,
    /// 40 hexadecimal digits.
    pub info_hash: String,
    /// `leecher`, `peer` or `seeder`.
    pub mode: Mode,
    /// `checking`, `fetching`, `waiting`, `seeding`, `idle`, `stopped` or `failed`.
    pub state: TransferState,
    /// Of the bytes, 0 to 100; 100 only when everything is here.
    pub percent: f64,
    /// Payload bytes per second.
    pub down_bps: u64,
    /// Payload bytes per second.
    pub up_bps: u64,
    /// Payload bytes received.
    pub downloaded: u64,
    /// Payload bytes sent.
    pub uploaded: u64,
    /// Seconds until it is complete at this speed; `null` = nobody knows, or it is.
    #[serde(default)]
    pub left_s: Option<u64>,
    /// Seconds of seeding left; `null` = no end is set.
    pub seed_left_s: Option<u64>,
    /// No end is set because this node is the master; the seed time counts when it is that no more.
    #[serde(default)]
    pub seeds_as_master: bool,
    /// Bytes of the image.
    pub size: u64,
    /// Bytes of the good pieces here.
    pub bytes_have: u64,
    /// Pieces that nobody present has.
    pub missing_pieces: u32,
    /// Nodes that had a whole copy and are away.
    pub last_seen_on: Vec<String>,
    /// From whom, and to whom, how much.
    pub sources: Vec<Source>,
    /// What the tracker of others that its torrent names has said last; `null` = there is none.
    pub tracker: Option<String>,
    /// Why it stopped, if it failed.
    pub error: Option<String>,
    /// What kind of failure that is: `no-space`, `damaged` or `failed`.
    pub error_kind: Option<Exit>,
    /// Where the copy lies, or will.
    pub path: String,
}

/// A peer of a transfer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// Its node name, or its address.
    pub peer: String,
    /// Payload bytes received from it.
    pub downloaded: u64,
    /// Payload bytes sent to it.
    pub uploaded: u64,
}

/// One image of `labmesh ls --json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Image {
    /// Relative path.
    pub name: String,
    /// 40 hexadecimal digits.
    pub info_hash: String,
    /// Bytes.
    pub size: u64,
    /// Bytes.
    pub piece_length: u32,
    /// Names of the nodes with a whole copy.
    pub holders: Vec<String>,
    /// A whole copy is on this node.
    pub here: bool,
    /// How much is on this node; `null` = nothing.
    pub percent: Option<f64>,
    /// Another image has the same name: say `NAME@HASH`.
    pub ambiguous: bool,
    /// Whole copies in the swarm, as the tracker counts.
    #[serde(default)]
    pub complete: u32,
    /// Others in the swarm.
    #[serde(default)]
    pub downloading: u32,
    /// How often a copy was completed.
    #[serde(default)]
    pub downloaded: u64,
}

/// The word that scripts know a role by.
pub fn role(role: Role) -> &'static str {
    match role {
        Role::Master => "master",
        Role::Follower => "follower",
        Role::Candidate => "candidate",
        Role::Solo => "solo",
    }
}

/// The word that scripts know a transfer's state by.
pub fn state(state: TransferState) -> &'static str {
    match state {
        TransferState::Checking => "checking",
        TransferState::Fetching => "fetching",
        TransferState::Waiting => "waiting",
        TransferState::Seeding => "seeding",
        TransferState::Idle => "idle",
        TransferState::Stopped => "stopped",
        TransferState::Failed => "failed",
    }
}

/// Never 100 before the end, never 0.1 + 0.2.
fn percent(done: u64, all: u64) -> f64 {
    if done >= all {
        return 100.0;
    }
    (u128::from(done) * 1000 / u128::from(all.max(1))) as f64 / 10.0
}

impl Status {
    /// `path` says where the copy of an image of that name lies.
    pub fn new(mesh: &str, status: &node::Status, path: impl Fn(&str) -> std::path::PathBuf) -> Self {
        let doing = |t: &TransferReport| {
            let image = status.images.iter().find(|image| image.info_hash == t.info_hash);
            Doing {
                image: image.map(|image| image.name.clone()),
                info_hash: t.info_hash.to_string(),
                mode: t.mode,
                state: t.state,
                percent: f64::from(t.permille.min(1000)) / 10.0,
                down_bps: t.down_bps,
                up_bps: t.up_bps,
                left_s: image.and_then(|image| report_left(image.size, t)).map(|left| left.as_secs()),
                seed_left_s: t.seed_left_s.map(u64::from),
                missing_pieces: t.missing_pieces,
            }
        };
        // What the others know of this node is a second old.
        let busy = |t: &&node::TransferStatus| !matches!(t.state, TransferState::Idle | TransferState::Stopped);
        let own: Vec<Doing> = status.transfers.iter().filter(busy).map(Doing::own).collect();
        let node = |n: &node::NodeStatus| Node {
            name: n.name.clone(),
            id: n.id.to_string(),
            addr: n.addr,
            http_port: n.http_port,
            role: role(n.role).to_owned(),
            weight: n.weight.get(),
            site: n.site.clone(),
            state: if n.live { "live" } else { "away" }.to_owned(),
            transfers: if n.id == status.id { own.clone() } else { n.transfers.iter().map(doing).collect() },
        };
        Self {
            mesh: mesh.to_owned(),
            node: status.name.clone(),
            role: role(status.role).to_owned(),
            term: status.term,
            master: status.master.clone(),
            upload_limit: status.limits.upload,
            download_limit: status.limits.download,
            nodes: status.nodes.iter().map(node).collect(),
            transfers: status.transfers.iter().map(|t| Transfer::new(t, &path(&t.name))).collect(),
        }
    }

    /// For people. If it has to be within `height` lines, nodes that do nothing and copies that rest are left out.
    pub fn table(&self, width: usize, height: Option<usize>) -> String {
        /// What a headline, the limits, the heads of two tables, the lines between them and the count of what is left
        /// out take.
        const AROUND: usize = 7;
        let place = match (&self.master, self.role.as_str()) {
            (_, "master") => "is the master".to_owned(),
            (Some(master), "follower") => format!("follows {master}"),
            (_, "solo") => "is alone".to_owned(),
            _ => "looks for a master".to_owned(),
        };
        let mut text = format!("mesh {}: {} {place} (term {})\n", self.mesh, self.node, self.term);
        let limits = RateLimits { upload: self.upload_limit, download: self.download_limit };
        if limits != RateLimits::default() {
            text.push_str(&format!("{}\n", self::limits(&limits)));
        }
        text.push('\n');
        let mut nodes = Table::new(&["NODE", "ROLE", "STATE", "DOING", "ADDRESS", "WEIGHT", "SITE"]);
        let mut shown: Vec<&Node> = self.nodes.iter().collect();
        let mut own: Vec<&Transfer> = self.transfers.iter().collect();
        if let Some(height) = height {
            own.sort_by_key(|t| (t.state == TransferState::Idle, t.percent >= 100.0));
            own.truncate((height / 2).saturating_sub(AROUND).max(1));
        }
        let trouble = own.iter().filter(|t| t.trouble().is_some()).count();
        let room = height.map(|height| height.saturating_sub(AROUND + own.len() + trouble).max(1));
        if let Some(room) = room.filter(|room| *room < shown.len()) {
            shown.sort_by_key(|node| (node.role != "master", node.transfers.is_empty()));
            shown.truncate(room);
        }
        for node in &shown {
            let addr = node.addr.map_or_else(|| "-".to_owned(), |addr| addr.to_string());
            let site = if node.site.is_empty() { "-" } else { &node.site };
            let weight = node.weight.to_string();
            nodes.row([&node.name, &node.role, &node.state, &node.doing(), &addr, &weight, site]);
        }
        text.push_str(&nodes.fit(width, &[0, 3]));
        if let Some(more) = self.nodes.len().checked_sub(shown.len()).filter(|more| *more > 0) {
            text.push_str(&format!("and {more} more\n"));
        }
        if !own.is_empty() {
            let mut transfers = Table::new(&["IMAGE", "STATE", "DONE", "LEFT", "DOWN", "UP", "MODE", "SEEDS FOR"]);
            for t in &own {
                let left = t.left_s.map_or_else(|| "-".to_owned(), |left| span(Duration::from_secs(left)));
                let done = format!("{:.1} %", t.percent);
                let (down, up, mode) = (rate(t.down_bps), rate(t.up_bps), t.mode.to_string());
                transfers.row([&t.image, state(t.state), &done, &left, &down, &up, &mode, &t.seeds_for()]);
            }
            text.push('\n');
            text.push_str(&transfers.fit(width, &[0]));
        }
        for t in own {
            text.push_str(&t.trouble().map(|words| format!("{}: {words}\n", t.image)).unwrap_or_default());
        }
        text
    }
}

impl Node {
    fn doing(&self) -> String {
        let busy = self.transfers.iter().find(|t| t.percent < 100.0).or_else(|| self.transfers.first());
        busy.map_or_else(
            || "-".to_owned(),
            |t| {
                let image = t.image.as_deref().unwrap_or(&t.info_hash[..8.min(t.info_hash.len())]);
                match t.state {
                    TransferState::Fetching | TransferState::Waiting => {
                        format!("{} {:.0} % {image}", state(t.state), t.percent.floor())
                    }
                    _ => format!("{} {image}", state(t.state)),
                }
            },
        )
    }
}

impl Doing {
    fn own(t: &node::TransferStatus) -> Self {
        Self {
            image: Some(t.name.clone()),
            info_hash: t.info_hash.to_string(),
            mode: t.mode,
            state: t.state,
            percent: percent(t.bytes_have, t.size),
            down_bps: t.down_bps,
            up_bps: t.up_bps,
            left_s: left_of(t),
            seed_left_s: t.seed_left.map(|left| left.as_secs()),
            missing_pieces: t.missing_pieces,
        }
    }
}

impl Transfer {
    fn new(t: &node::TransferStatus, path: &Path) -> Self {
        Self {
            image: t.name.clone(),
            info_hash: t.info_hash.to_string(),
            mode: t.mode,
            state: t.state,
            percent: percent(t.bytes_have, t.size),
            down_bps: t.down_bps,
            up_bps: t.up_bps,
            downloaded: t.downloaded,
            uploaded: t.uploaded,
            left_s: left_of(t),
            seed_left_s: t.seed_left.map(|left| left.as_secs()),
            seeds_as_master: t.seeds_as_master,
            size: t.size,
            bytes_have: t.bytes_have,
            missing_pieces: t.missing_pieces,
            last_seen_on: t.last_seen_on.clone(),
            sources: t
                .sources
                .iter()
                .map(|(peer, downloaded, uploaded)| Source {
                    peer: peer.clone(),
                    downloaded: *downloaded,
                    uploaded: *uploaded,
                })
                .collect(),
            error: t.error.as_ref().map(ToString::to_string),
            tracker: t.tracker.clone(),
            error_kind: t.error.as_ref().map(|error| Failure::from(error).exit),
            path: path.display().to_string(),
        }
    }

    /// The copy is whole and verified.
    pub fn is_complete(&self) -> bool {
        let whole = matches!(self.state, TransferState::Seeding | TransferState::Idle | TransferState::Stopped);
        whole && self.bytes_have >= self.size
    }

    /// What keeps it from going on, if anything.
    pub fn trouble(&self) -> Option<String> {
        if let Some(error) = &self.error {
            return Some(error.clone());
        }
        let seen = match self.last_seen_on.as_slice() {
            [] => "that nobody present has".to_owned(),
            names => format!("last seen on {}", names.join(", ")),
        };
        let tracker = self.tracker.as_ref().map(|said| format!("; its tracker, {said}")).unwrap_or_default();
        let waiting = || format!("waiting for {} pieces {seen}{tracker}", self.missing_pieces);
        (self.state == TransferState::Waiting).then(waiting)
    }

    /// How long it is seeded from now on, in words that follow the image's name, if it is.
    pub fn seeding(&self) -> Option<String> {
        let words = match (self.state, self.seed_left_s) {
            (TransferState::Seeding, Some(seconds)) => format!("seeded for {}", span(Duration::from_secs(seconds))),
            (TransferState::Seeding, None) if self.seeds_as_master => {
                "seeded for as long as this node is the master, whatever its seed time".to_owned()
            }
            (TransferState::Seeding, None) => "seeded until it is stopped".to_owned(),
            _ => return None,
        };
        Some(words)
    }

    fn seeds_for(&self) -> String {
        match (self.state, self.seed_left_s) {
            (TransferState::Seeding, Some(seconds)) => span(Duration::from_secs(seconds)),
            (TransferState::Seeding, None) if self.seeds_as_master => "as master".to_owned(),
            (TransferState::Seeding, None) => "ever".to_owned(),
            _ => "-".to_owned(),
        }
    }
}

impl Image {
    /// One image of the catalogue.
    pub fn new(image: &node::ImageStatus) -> Self {
        Self {
            name: image.name.clone(),
            info_hash: image.info_hash.to_string(),
            size: image.size,
            piece_length: image.piece_length,
            holders: image.holders.clone(),
            here: image.here == Some(1000),
            percent: image.here.map(|permille| f64::from(permille.min(1000)) / 10.0),
            ambiguous: image.ambiguous,
            complete: image.complete,
            downloading: image.downloading,
            downloaded: image.downloaded,
        }
    }

    /// For people.
    pub fn table(images: &[Self], width: usize) -> String {
        if images.is_empty() {
            return "no images in this mesh (labmesh add FILE offers one)\n".to_owned();
        }
        let mut table = Table::new(&["IMAGE", "SIZE", "HERE", "HELD BY"]);
        for image in images {
            let hash = &image.info_hash[..8.min(image.info_hash.len())];
            let name = if image.ambiguous { format!("{}@{hash}", image.name) } else { image.name.clone() };
            let here = match image.percent {
                Some(_) if image.here => "yes".to_owned(),
                Some(part) => format!("{part:.0} %"),
                None => "no".to_owned(),
            };
            let holders = if image.holders.is_empty() { "nobody".to_owned() } else { image.holders.join(", ") };
            table.row([name.as_str(), &size(image.size), &here, &holders]);
        }
        table.fit(width, &[0, 3])
    }
}

/// Bytes for people: `20.0 GB`.
pub fn size(bytes: u64) -> String {
    ByteSize(bytes).display().si().to_string()
}

/// How fast payload may go, for people.
pub fn limits(limits: &RateLimits) -> String {
    let one = |limit: RateLimit| {
        limit.per_second().map_or_else(|| "unlimited".to_owned(), |rate| format!("{}/s", binary_size(rate)))
    };
    format!("limits: up {}, down {}", one(limits.upload), one(limits.download))
}

/// Bytes in the binary units that pieces are cut in: `256 KiB`.
pub fn binary_size(bytes: u64) -> String {
    ByteSize(bytes).display().iec().to_string()
}

/// Text from outside for a terminal: control characters become `?`.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// How long the rest takes at this speed; `None` = there is no rest, or it does not move.
pub fn time_left(rest: u64, bps: u64) -> Option<Duration> {
    (rest > 0 && bps > 0).then(|| Duration::from_secs(rest.div_ceil(bps)))
}

/// The same for what a node says of a transfer of an image of this size.
pub fn report_left(size: u64, report: &TransferReport) -> Option<Duration> {
    let rest = u128::from(size) * u128::from(1000 - report.permille.min(1000)) / 1000;
    time_left(rest as u64, report.down_bps)
}

fn left_of(t: &node::TransferStatus) -> Option<u64> {
    time_left(t.size.saturating_sub(t.bytes_have), t.down_bps).map(|left| left.as_secs())
}

/// A time for people, no finer than they need: `40 s`, `5 min`, `1 h 20 min`, `3 d 4 h`.
pub fn span(time: Duration) -> String {
    let two = |many: u64, big: &str, few: u64, small: &str| match few {
        0 => format!("{many} {big}"),
        _ => format!("{many} {big} {few} {small}"),
    };
    match time.as_secs() {
        s @ 0..120 => format!("{s} s"),
        s if s.div_ceil(60) < 60 => format!("{} min", s.div_ceil(60)),
        s if s.div_ceil(60) < 24 * 60 => two(s.div_ceil(60) / 60, "h", s.div_ceil(60) % 60, "min"),
        s => two(s / 86_400, "d", s % 86_400 / 3600, "h"),
    }
}

/// Bytes per second for people; `-` for none.
pub fn rate(bps: u64) -> String {
    if bps == 0 { "-".to_owned() } else { format!("{}/s", size(bps)) }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use labmesh_proto::config::Weight;
    use labmesh_proto::id::{InfoHash, NodeId};

    use super::*;

    fn transfer(state: TransferState) -> node::TransferStatus {
        node::TransferStatus {
            name: "ou1/a rather long name of an image, with spaces.img".into(),
            info_hash: InfoHash([0xab; 20]),
            mode: Mode::Peer,
            state,
            have: 999,
            pieces: 1000,
            bytes_have: 19_999_999_999,
            size: 20_000_000_000,
            down_bps: 117_000_000,
            up_bps: 1_000,
            downloaded: 1,
            uploaded: 2,
            seed_left: Some(Duration::from_millis(41_900)),
            seeds_as_master: false,
            missing_pieces: 412,
            last_seen_on: vec!["pc07".into()],
            sources: vec![("pc01".into(), 10, 20)],
            tracker: None,
            error: None,
        }
    }

    fn status() -> node::Status {
        let node = |n: u8| node::NodeStatus {
            id: NodeId([n; 32]),
            name: format!("computer-with-a-long-name-{n}"),
            addr: Some("2001:db8:1111:2222:3333:4444:5555:6666".parse().unwrap()),
            http_port: 6969,
            role: Role::Follower,
            weight: Weight::DEFAULT,
            site: "first-floor".into(),
            live: n.is_multiple_of(2),
            transfers: vec![],
        };
        node::Status {
            torrents: Vec::new(),
            id: NodeId([1; 32]),
            name: "pc07".into(),
            role: Role::Follower,
            term: 3,
            master: Some("pc01".into()),
            nodes: (0..3).map(node).collect(),
            images: vec![],
            transfers: vec![transfer(TransferState::Fetching), transfer(TransferState::Seeding)],
            trackers: vec![],
            limits: RateLimits { upload: (1023 << 20).try_into().unwrap(), download: RateLimit::NONE },
        }
    }

    fn shown() -> Status {
        Status::new("labmesh", &status(), |name| Path::new("/cache").join(name))
    }

    #[test]
    fn status_has_the_fields_that_scripts_rely_on() {
        let json = serde_json::to_value(shown()).unwrap();
        for field in ["mesh", "node", "term", "master", "nodes", "transfers"] {
            assert!(!json[field].is_null(), "{field}");
        }
        for field in ["name", "id", "addr", "role", "weight", "site", "state"] {
            assert!(!json["nodes"][0][field].is_null(), "{field}");
        }
        let transfer = &json["transfers"][0];
        for field in
            ["image", "info_hash", "mode", "state", "percent", "down_bps", "up_bps", "left_s", "downloaded", "uploaded"]
        {
            assert!(!transfer[field].is_null(), "{field}");
        }
        assert_eq!(transfer["seed_left_s"], 41);
        assert_eq!((&transfer["mode"], &transfer["state"]), (&"peer".into(), &"fetching".into()));
        assert_eq!(json["nodes"][1]["state"], "away");
        assert_eq!((&json["upload_limit"], &json["download_limit"]), (&(1023 << 20).into(), &0.into()));
    }

    #[test]
    fn ls_has_the_fields_that_scripts_rely_on() {
        let image = node::ImageStatus {
            name: "a.img".into(),
            info_hash: InfoHash([0xab; 20]),
            size: 1,
            piece_length: 262_144,
            holders: vec!["pc01".into()],
            here: Some(1000),
            ambiguous: false,
            complete: 1,
            downloading: 0,
            downloaded: 0,
        };
        let json = serde_json::to_value(Image::new(&image)).unwrap();
        assert_eq!(json["holders"], serde_json::json!(["pc01"]));
        assert_eq!((&json["here"], &json["piece_length"]), (&true.into(), &262_144.into()));
        assert_eq!((&json["name"], &json["size"]), (&"a.img".into(), &1.into()));
        assert_eq!(json["info_hash"], "ab".repeat(20));
    }

    #[test]
    fn this_node_is_shown_as_it_is_now() {
        let mut status = status();
        status.nodes[1].transfers = vec![];
        let shown = Status::new("labmesh", &status, |name| Path::new("/cache").join(name));
        assert_eq!(status.nodes[1].id, status.id);
        assert_eq!(shown.nodes[1].transfers.len(), 2, "whatever the others have heard of it");
        assert!(shown.nodes[0].transfers.is_empty());
    }

    #[test]
    fn what_went_wrong_with_a_file_decides_the_exit_code() {
        let (place, reason) = ("/cache".to_owned(), "no".to_owned());
        for (error, exit) in [
            (DiskError::NoSpace { missing: 5, place: place.clone() }, Exit::NoSpace),
            (DiskError::Changed { place: place.clone() }, Exit::Damaged),
            (DiskError::ReadOnly { place: place.clone(), reason: reason.clone() }, Exit::Failed),
            // The words decide nothing.
            (DiskError::Io { place, reason: "not enough space".to_owned() }, Exit::Failed),
        ] {
            assert_eq!(Failure::from(&error).exit, exit, "{error}");
            let failed = node::TransferStatus { error: Some(error), ..transfer(TransferState::Failed) };
            assert_eq!(Transfer::new(&failed, Path::new("/cache")).error_kind, Some(exit));
        }
    }

    #[test]
    fn tables_never_wrap() {
        let image = Image {
            name: "Ubuntu 24.04 \u{2014} l\u{e1}mina de im\u{e1}genes \u{6559}\u{5ba4}.img".into(),
            info_hash: "ab".repeat(20),
            size: 20_000_000_000,
            piece_length: 1,
            holders: (0..30).map(|n| format!("pc{n:02}")).collect(),
            here: true,
            percent: Some(100.0),
            ambiguous: true,
            complete: 30,
            downloading: 0,
            downloaded: 29,
        };
        let limits =
            RateLimits { upload: (1023 << 30).try_into().unwrap(), download: (1023 << 20).try_into().unwrap() };
        assert_eq!(super::limits(&limits), "limits: up 1023.0 GiB/s, down 1023.0 MiB/s");
        for width in [20, 40, 60, 80, 200] {
            for text in [shown().table(width, None), Image::table(std::slice::from_ref(&image), width)] {
                let free = |line: &&str| {
                    line.starts_with("mesh ") || line.starts_with("limits: ") || line.contains(": waiting")
                };
                for line in text.lines().filter(|line| !free(line)) {
                    assert!(console::measure_text_width(line) <= width, "{width}: {line:?}");
                }
            }
        }
        let text = Image::table(&[image], 60);
        assert!(text.contains("IMAGE") && text.contains("HELD BY") && text.contains("20.0 GB"), "{text}");
    }

    #[test]
    fn what_is_watched_stays_within_the_terminal() {
        let mut status = status();
        let idle = status.nodes[0].clone();
        let resting = transfer(TransferState::Idle);
        status.transfers.splice(0..0, (0..30).map(|_| resting.clone()));
        status.nodes.extend((0..40).map(|n| node::NodeStatus { name: format!("idle{n}"), ..idle.clone() }));
        let shown = Status::new("labmesh", &status, |name| Path::new("/cache").join(name));
        let text = shown.table(80, Some(20));
        assert!(text.lines().count() <= 20, "{text}");
        assert_eq!(text.lines().nth(1), Some("limits: up 1023.0 MiB/s, down unlimited"));
        status.limits = RateLimits::default();
        let unlimited = Status::new("labmesh", &status, |name| Path::new("/cache").join(name));
        assert!(!unlimited.table(80, None).contains("limits"), "nothing to say");
        assert!(text.contains("\ncomput") && text.contains("\nand 3"), "{text}");
        assert!(text.contains("  fetching  ") && text.contains("  seeding  "), "{text}");
        assert_eq!(
            shown.table(80, Some(3)).lines().filter(|line| line.starts_with("comput")).count(),
            1,
            "one at least"
        );
    }

    #[test]
    fn one_hundred_percent_is_everything() {
        assert_eq!((percent(19_999_999_999, 20_000_000_000), percent(2, 2), percent(0, 0)), (99.9, 100.0, 100.0));
    }

    #[test]
    fn times_are_no_finer_than_people_need() {
        let shown = |s| span(Duration::from_secs(s));
        let times = [0, 119, 120, 121, 3540, 3541, 3600, 4740, 86_340, 86_400, 273_600].map(shown);
        let expected =
            ["0 s", "119 s", "2 min", "3 min", "59 min", "1 h", "1 h", "1 h 19 min", "23 h 59 min", "1 d", "3 d 4 h"];
        assert_eq!(times, expected);
        assert_eq!((time_left(10, 3), time_left(10, 0), time_left(0, 3)), (Some(Duration::from_secs(4)), None, None));
    }

    #[test]
    fn a_waiting_transfer_says_for_what() {
        let waiting = Transfer::new(&transfer(TransferState::Waiting), Path::new("/x"));
        assert_eq!(waiting.trouble().unwrap(), "waiting for 412 pieces last seen on pc07");
        let told = Transfer { tracker: Some("http://a:80: 0 complete, 1 downloading".into()), ..waiting };
        let words = "waiting for 412 pieces last seen on pc07; its tracker, http://a:80: 0 complete, 1 downloading";
        assert_eq!(told.trouble().unwrap(), words);
    }
}
