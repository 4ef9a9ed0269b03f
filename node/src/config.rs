//! What a person may set, and what became of it.
//!
//! Rule: flags over environment (`LABMESH_*`) over `/etc/labmesh/labmesh.toml` over defaults, merged once into a
//! checked [`Config`]; nothing later reads flags, files or the environment. One struct, [`Settings`], is the flags, the
//! keys of the file and the comments of the printed default (`labmesh config`).
//!
//! Not here: how one value is read ([`values`]), the limits of the mesh (`labmesh_proto::config`).

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use labmesh_proto::config::{Mode, NUMWANT_MAX, RateLimit, SeedTime, TrackerConfig, Weight};
use serde::Deserialize;

pub mod origin;
pub mod schedule;
pub mod values;

use crate::io::ownership::Ownership;
use schedule::Schedule;
use values::{Extension, FileMode, Join, Label, MeshKey, one, read, several};

use crate::io::tracker::{Policy, ScrapeAllowed};

/// Read if it is there and `--config` names no other.
pub const FILE: &str = "/etc/labmesh/labmesh.toml";
/// A configuration is a page or two; more is not ours.
const FILE_BYTES_MAX: u64 = 1024 * 1024;
/// The socket of the service.
pub const SYSTEM_SOCKET: &str = "/run/labmesh/control.sock";

/// What was said in one place: on the command line with the environment behind it, or in the file.
#[derive(Clone, Debug, Default, PartialEq, clap::Args, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Where the images lie.
    ///
    /// Files of the extensions below, sub-folders one level deep. Without this key: /var/lib/labmesh/images, or
    /// ~/.local/share/labmesh/images for a node that does not run as root.
    #[arg(long, env = "LABMESH_CACHE", hide_env_values = true, value_name = "DIR", value_parser = read::<PathBuf>)]
    #[serde(deserialize_with = "one")]
    pub cache: Option<PathBuf>,
    /// A folder whose images are offered too, and which is never written to.
    ///
    /// There may be several.
    #[arg(
        long, env = "LABMESH_LIBRARY", hide_env_values = true,
        value_name = "DIR", value_delimiter = ':', value_parser = read::<PathBuf>
    )]
    #[serde(deserialize_with = "several")]
    pub library: Option<Vec<PathBuf>>,
    /// Where .torrent files are kept, if not beside their images.
    ///
    /// By the same names, one sub-folder deep. A .torrent of another tracker may be put there as well as into the cache.
    #[arg(long, env = "LABMESH_TORRENTS", hide_env_values = true, value_name = "DIR", value_parser = read::<PathBuf>)]
    #[serde(deserialize_with = "one")]
    pub torrents: Option<PathBuf>,
    /// Where the node keeps its identity and what it knows of the cache.
    ///
    /// Without this key: /var/lib/labmesh/state, or ~/.local/share/labmesh/state for a node that does not run as root.
    /// Two nodes must not share it.
    #[arg(long, env = "LABMESH_STATE", hide_env_values = true, value_name = "DIR", value_parser = read::<PathBuf>)]
    #[serde(deserialize_with = "one")]
    pub state: Option<PathBuf>,
    /// The name of the mesh.
    ///
    /// Nodes of one name find each other and share images. Letters, digits and hyphens.
    #[arg(long, env = "LABMESH_MESH", hide_env_values = true, value_name = "NAME", value_parser = read::<Label>)]
    #[serde(deserialize_with = "one")]
    pub mesh: Option<Label>,
    /// A file with the key of the mesh.
    ///
    /// One line of at least 16 characters, the same on every node. Nodes without it stay outside. Weights over 60 need
    /// one.
    #[arg(long, env = "LABMESH_KEY", hide_env_values = true, value_name = "FILE", value_parser = read::<PathBuf>)]
    #[serde(deserialize_with = "one")]
    pub key: Option<PathBuf>,
    /// What people call this node.
    ///
    /// Without this key: its host name.
    #[arg(long, env = "LABMESH_NAME", hide_env_values = true, value_name = "NODE", value_parser = read::<Label>)]
    #[serde(deserialize_with = "one")]
    pub name: Option<Label>,
    /// The address to listen on and to speak from.
    ///
    /// All addresses if neither this nor `interface` is set.
    #[arg(
        long, env = "LABMESH_BIND", hide_env_values = true,
        value_name = "IP", conflicts_with = "interface", value_parser = read::<IpAddr>
    )]
    #[serde(deserialize_with = "one")]
    pub bind: Option<IpAddr>,
    /// The network interface to find others on, for a PC with several.
    #[arg(long, env = "LABMESH_INTERFACE", hide_env_values = true, value_name = "IF", value_parser = read::<String>)]
    #[serde(deserialize_with = "one")]
    pub interface: Option<String>,
    /// How willing this node is to be master, 0 to 99.
    ///
    /// 60 server, 50 usual, 40 laptop, 30 wireless, 10 live or PXE boot, 0 never.
    #[arg(long, env = "LABMESH_WEIGHT", hide_env_values = true, value_name = "N", value_parser = read::<Weight>)]
    #[serde(deserialize_with = "one")]
    pub weight: Option<Weight>,
    /// Take over when this node joins a mesh whose master has a lower weight.
    ///
    /// Once each time it joins, as by `labmesh master --claim`; whom a person makes master afterwards stays. Without it a
    /// master that sits is left alone, whoever would be better.
    #[arg(long, env = "LABMESH_PREFER", hide_env_values = true, num_args = 0..=1, require_equals = true,
        default_missing_value = "true", value_name = "BOOL", value_parser = read::<bool>)]
    #[serde(deserialize_with = "one")]
    pub prefer: Option<bool>,
    /// Which switch this node hangs on.
    ///
    /// Nodes of one site fetch from each other first. Leave it out if there is only one switch.
    #[arg(long, env = "LABMESH_SITE", hide_env_values = true, value_name = "S", value_parser = read::<Label>)]
    #[serde(deserialize_with = "one")]
    pub site: Option<Label>,
    /// Another node, for networks without multicast.
    ///
    /// 10.1.2.3, 10.1.2.3:6970 or /ip4/10.1.2.3/tcp/6970. There may be several.
    #[arg(
        long, env = "LABMESH_JOIN", hide_env_values = true,
        value_name = "ADDR", value_delimiter = ',', value_parser = read::<Join>
    )]
    #[serde(deserialize_with = "several")]
    pub join: Option<Vec<Join>>,
    /// The port of tracker (HTTP and UDP) and pages.
    #[arg(long, env = "LABMESH_HTTP_PORT", hide_env_values = true, value_name = "PORT", value_parser = read::<u16>)]
    #[serde(deserialize_with = "one")]
    pub http_port: Option<u16>,
    /// The port for BitTorrent peers.
    #[arg(long, env = "LABMESH_PEER_PORT", hide_env_values = true, value_name = "PORT", value_parser = read::<u16>)]
    #[serde(deserialize_with = "one")]
    pub peer_port: Option<u16>,
    /// The port for what nodes say to each other (TCP) and heartbeats (UDP).
    #[arg(
        long, env = "LABMESH_CONTROL_PORT", hide_env_values = true,
        value_name = "PORT", value_parser = read::<u16>
    )]
    #[serde(deserialize_with = "one")]
    pub control_port: Option<u16>,
    /// What a fetched image gives: leecher, peer or seeder.
    ///
    /// A leecher gives nothing while it takes, a peer what it has, a seeder goes on until told to stop. For a `get`
    /// that says nothing else.
    #[arg(long, env = "LABMESH_MODE", hide_env_values = true, value_name = "M", value_parser = read::<Mode>)]
    #[serde(deserialize_with = "one")]
    pub mode: Option<Mode>,
    /// How long a fetched image is seeded.
    ///
    /// Seconds, 90s, 10m, 2h, enough (until nobody misses a piece) or forever. Left out, the mode decides: a leecher
    /// not at all, a peer 60s, a seeder forever.
    #[arg(long, env = "LABMESH_SEED_TIME", hide_env_values = true, value_name = "T", value_parser = read::<SeedTime>)]
    #[serde(deserialize_with = "one")]
    pub seed_time: Option<SeedTime>,
    /// The most that this node sends to peers, in bytes a second; 0 = no limit.
    ///
    /// Over all images and peers, of labmesh and others. At least 16 KiB. `labmesh limit` changes it while the node runs.
    #[arg(
        long, env = "LABMESH_UPLOAD_LIMIT", hide_env_values = true,
        value_name = "RATE", value_parser = read::<RateLimit>
    )]
    #[serde(deserialize_with = "one")]
    pub upload_limit: Option<RateLimit>,
    /// The most that it fetches from them, in bytes a second; 0 = no limit.
    #[arg(
        long, env = "LABMESH_DOWNLOAD_LIMIT", hide_env_values = true,
        value_name = "RATE", value_parser = read::<RateLimit>
    )]
    #[serde(deserialize_with = "one")]
    pub download_limit: Option<RateLimit>,
    /// Other limits at certain hours; see [`LIMITS_COMMENT`].
    #[arg(skip)]
    pub limits: Option<Vec<schedule::Entry>>,
    /// How often the image folders are read again.
    ///
    /// For file systems that do not tell of changes. At least 1s.
    #[arg(
        long, env = "LABMESH_RESCAN_INTERVAL", hide_env_values = true,
        value_name = "T", value_parser = read::<Duration>
    )]
    #[serde(deserialize_with = "one")]
    pub rescan_interval: Option<Duration>,
    /// Track any torrent, not only those of the catalogue.
    #[arg(long, env = "LABMESH_OPEN_TRACKER", hide_env_values = true, num_args = 0..=1, require_equals = true,
        default_missing_value = "true", value_name = "BOOL", value_parser = read::<bool>)]
    #[serde(deserialize_with = "one")]
    pub open_tracker: Option<bool>,
    /// What BitTorrent clients are asked to wait between announces to the tracker.
    #[arg(
        long, env = "LABMESH_REANNOUNCE_INTERVAL", hide_env_values = true,
        value_name = "T", value_parser = read::<Duration>
    )]
    #[serde(deserialize_with = "one")]
    pub reannounce_interval: Option<Duration>,
    /// The least that they may wait; earlier announces are answered all the same.
    #[arg(
        long, env = "LABMESH_MIN_REANNOUNCE_INTERVAL", hide_env_values = true, hide_short_help = true,
        value_name = "T", value_parser = read::<Duration>
    )]
    #[serde(deserialize_with = "one")]
    pub min_reannounce_interval: Option<Duration>,
    /// When a client that has fallen silent leaves the tracker's book.
    ///
    /// Without this key: three times reannounce_interval and 5s, so that two lost announces do no harm.
    #[arg(
        long, env = "LABMESH_TIMEOUT_DOWNLOADERS_INTERVAL", hide_env_values = true, hide_short_help = true,
        value_name = "T", value_parser = read::<Duration>
    )]
    #[serde(deserialize_with = "one")]
    pub timeout_downloaders_interval: Option<Duration>,
    /// Peers that the tracker tells a client that asks for no number, at most 200.
    #[arg(long, env = "LABMESH_RESPONSE_SIZE", hide_env_values = true, hide_short_help = true,
        value_name = "N", value_parser = read::<u32>)]
    #[serde(deserialize_with = "one")]
    pub response_size: Option<u32>,
    /// How often the tracker looks whether a client can be reached at its port before it gives up.
    ///
    /// Who cannot be reached is told to nobody. 0 = do not look.
    #[arg(long, env = "LABMESH_NAT_CHECK", hide_env_values = true, value_name = "N", value_parser = read::<u32>)]
    #[serde(deserialize_with = "one")]
    pub nat_check: Option<u32>,
    /// Hand torrents out by /file and /images/.
    #[arg(long, env = "LABMESH_ALLOW_GET", hide_env_values = true, num_args = 0..=1, require_equals = true,
        default_missing_value = "true", value_name = "BOOL", value_parser = read::<bool>)]
    #[serde(deserialize_with = "one")]
    pub allow_get: Option<bool>,
    /// What may be asked by /scrape: none, specific (only torrents that are named) or full.
    #[arg(long, env = "LABMESH_SCRAPE_ALLOWED", hide_env_values = true, hide_short_help = true,
        value_name = "WHAT", value_parser = read::<ScrapeAllowed>)]
    #[serde(deserialize_with = "one")]
    pub scrape_allowed: Option<ScrapeAllowed>,
    /// Announces that one address may make to the tracker in a second; 0 = as many as it likes.
    #[arg(long, env = "LABMESH_ANNOUNCES_PER_ADDRESS", hide_env_values = true, hide_short_help = true,
        value_name = "N", value_parser = read::<u32>)]
    #[serde(deserialize_with = "one")]
    pub announces_per_address: Option<u32>,
    /// A proxy that may announce for others, by X-Forwarded-For or ip=.
    ///
    /// There may be several. Everybody else announces for the address that the announce comes from.
    #[arg(
        long, env = "LABMESH_TRUSTED_PROXY", hide_env_values = true, hide_short_help = true,
        value_name = "IP", value_delimiter = ',', value_parser = read::<IpAddr>
    )]
    #[serde(deserialize_with = "several")]
    pub trusted_proxy: Option<Vec<IpAddr>>,
    /// A file with a word that lets others name torrents of an open tracker.
    ///
    /// One line of at least 16 characters. Without this key only this machine may, on the page /register.
    #[arg(long, env = "LABMESH_REGISTER_TOKEN", hide_env_values = true, hide_short_help = true,
        value_name = "FILE", value_parser = read::<PathBuf>)]
    #[serde(deserialize_with = "one")]
    pub register_token: Option<PathBuf>,
    /// Find BitTorrent clients of this LAN without a tracker, and be found by them.
    ///
    /// By local service discovery (BEP 14) and peer exchange (BEP 11); never for private torrents.
    #[arg(long, env = "LABMESH_LOCAL_DISCOVERY", hide_env_values = true, hide_short_help = true,
        value_name = "BOOL", value_parser = read::<bool>)]
    #[serde(deserialize_with = "one")]
    pub local_discovery: Option<bool>,
    /// Which files are images, by the end of their names.
    ///
    /// "*" is every file but those that lie beside images, such as .torrent and .sum.
    #[arg(long, env = "LABMESH_EXTENSIONS", hide_env_values = true, value_name = "EXT", value_delimiter = ',',
        hide_short_help = true, value_parser = read::<Extension>)]
    #[serde(deserialize_with = "several")]
    pub extensions: Option<Vec<Extension>>,
    /// Whether an image that has a .torrent is read once to see that they fit.
    ///
    /// With false an image is believed if its length fits, as btlaunchmany does with check_hashes 0. Whoever fetches it
    /// checks every piece all the same.
    #[arg(long, env = "LABMESH_CHECK_HASHES", hide_env_values = true, value_name = "BOOL", hide_short_help = true,
        value_parser = read::<bool>)]
    #[serde(deserialize_with = "one")]
    pub check_hashes: Option<bool>,
    /// The owner of images, torrents and sums that this node makes, by name or number.
    ///
    /// Only root may give files away. Without this key: the user whom the node runs as.
    #[arg(long, env = "LABMESH_FILE_OWNER", hide_env_values = true, value_name = "USER", hide_short_help = true,
        value_parser = read::<String>)]
    #[serde(deserialize_with = "one")]
    pub file_owner: Option<String>,
    /// Their group, by name or number.
    #[arg(long, env = "LABMESH_FILE_GROUP", hide_env_values = true, value_name = "GROUP", hide_short_help = true,
        value_parser = read::<String>)]
    #[serde(deserialize_with = "one")]
    pub file_group: Option<String>,
    /// Their permissions.
    #[arg(long, env = "LABMESH_FILE_MODE", hide_env_values = true, value_name = "OCTAL", hide_short_help = true,
        value_parser = read::<FileMode>)]
    #[serde(deserialize_with = "one")]
    pub file_mode: Option<FileMode>,
    /// Memory for pieces that are on their way, at least 64 MiB.
    #[arg(long, env = "LABMESH_PIECE_BUFFER", hide_env_values = true, value_name = "SIZE", hide_short_help = true,
        value_parser = read::<bytesize::ByteSize>)]
    #[serde(deserialize_with = "one")]
    pub piece_buffer: Option<bytesize::ByteSize>,
    /// Who may use the local socket, as file permissions.
    #[arg(long, env = "LABMESH_SOCKET_MODE", hide_env_values = true, value_name = "OCTAL", hide_short_help = true,
        value_parser = read::<FileMode>)]
    #[serde(deserialize_with = "one")]
    pub socket_mode: Option<FileMode>,
    /// The group of the local socket, by name or number.
    ///
    /// With socket_mode = "0660" its members may use it.
    #[arg(long, env = "LABMESH_SOCKET_GROUP", hide_env_values = true, value_name = "GROUP", hide_short_help = true,
        value_parser = read::<String>)]
    #[serde(deserialize_with = "one")]
    pub socket_group: Option<String>,
    /// The local socket that commands use. Without this key: /run/labmesh/control.sock, or
    /// $XDG_RUNTIME_DIR/labmesh.sock for a node that does not run as root.
    #[arg(skip)]
    #[serde(deserialize_with = "one")]
    pub socket: Option<PathBuf>,
}

/// The key, the value as the file writes it, and whether it is the default (`true`) or an example of a key that has
/// none, or one that depends on the machine.
const DEFAULTS: &[(&str, &str, bool)] = &[
    ("cache", r#""/var/lib/labmesh/images""#, false),
    ("library", r#"["/mnt/images"]"#, false),
    ("torrents", r#""/var/lib/labmesh/torrents""#, false),
    ("state", r#""/var/lib/labmesh/state""#, false),
    ("mesh", r#""labmesh""#, true),
    ("key", r#""/etc/labmesh/mesh.key""#, false),
    ("name", r#""pc07""#, false),
    ("bind", r#""10.1.2.3""#, false),
    ("interface", r#""eth0""#, false),
    ("weight", "50", true),
    ("prefer", "false", true),
    ("site", r#""room-1""#, false),
    ("join", r#"["10.1.2.3"]"#, false),
    ("http_port", "6969", true),
    ("peer_port", "6881", true),
    ("control_port", "6970", true),
    ("mode", r#""peer""#, true),
    ("seed_time", r#""60s""#, false),
    ("upload_limit", "0", true),
    ("download_limit", "0", true),
    (
        "limits",
        r#"[{ days = ["mon-fri"], from = "08:00", to = "14:00", upload = "1 MiB", download = "2 MiB" }]"#,
        false,
    ),
    ("rescan_interval", r#""60s""#, true),
    ("open_tracker", "false", true),
    ("reannounce_interval", r#""30s""#, true),
    ("min_reannounce_interval", r#""10s""#, true),
    ("timeout_downloaders_interval", r#""95s""#, false),
    ("response_size", "50", true),
    ("nat_check", "0", true),
    ("allow_get", "true", true),
    ("scrape_allowed", r#""full""#, true),
    ("announces_per_address", "1000", true),
    ("trusted_proxy", r#"["10.1.2.3"]"#, false),
    ("register_token", r#""/etc/labmesh/register.token""#, false),
    ("local_discovery", "true", true),
    ("extensions", r#"["img", "dsk", "pgz", "iso", "qcow2", "img.zst", "img.gz", "img.xz", "img.lz4"]"#, true),
    ("check_hashes", "true", true),
    ("file_owner", r#""opengnsys""#, false),
    ("file_group", r#""opengnsys""#, false),
    ("file_mode", r#""0644""#, true),
    ("piece_buffer", r#""256 MiB""#, true),
    ("socket_mode", r#""0600""#, true),
    ("socket_group", r#""labmesh""#, false),
    ("socket", r#""/run/labmesh/control.sock""#, false),
];

impl Settings {
    /// The settings of a file.
    ///
    /// # Errors
    /// If it cannot be read, or with file, line, column, key and the known keys if it is not one of ours.
    pub fn from_file(path: &Path) -> anyhow::Result<Self> {
        let shown = path.display();
        let size = std::fs::metadata(path).with_context(|| format!("cannot read the configuration {shown}"))?.len();
        if size > FILE_BYTES_MAX {
            bail!("the configuration {shown} has {size} bytes, at most {FILE_BYTES_MAX} are read");
        }
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read the configuration {shown}"))?;
        Self::parse(&text).map_err(|e| anyhow::anyhow!("in {shown}: {}", e.to_string().trim_end()))
    }

    /// What a file says.
    ///
    /// # Errors
    /// If it is no TOML, names a key that there is not, or holds a value that makes no sense; says where.
    pub fn parse(text: &str) -> Result<Self, toml::de::Error> {
        toml::from_str(text)
    }

    /// These settings, and where they are silent, those of `below`.
    #[must_use]
    pub fn over(self, below: Self) -> Self {
        // An address on the command line replaces an interface in the file, and the other way round.
        let placed = self.bind.is_some() || self.interface.is_some();
        Self {
            cache: self.cache.or(below.cache),
            library: self.library.or(below.library),
            torrents: self.torrents.or(below.torrents),
            state: self.state.or(below.state),
            mesh: self.mesh.or(below.mesh),
            key: self.key.or(below.key),
            name: self.name.or(below.name),
            bind: if placed { self.bind } else { below.bind },
            interface: if placed { self.interface } else { below.interface },
            weight: self.weight.or(below.weight),
            prefer: self.prefer.or(below.prefer),
            site: self.site.or(below.site),
            join: self.join.or(below.join),
            http_port: self.http_port.or(below.http_port),
            peer_port: self.peer_port.or(below.peer_port),
            control_port: self.control_port.or(below.control_port),
            mode: self.mode.or(below.mode),
            seed_time: self.seed_time.or(below.seed_time),
            upload_limit: self.upload_limit.or(below.upload_limit),
            download_limit: self.download_limit.or(below.download_limit),
            limits: self.limits.or(below.limits),
            rescan_interval: self.rescan_interval.or(below.rescan_interval),
            open_tracker: self.open_tracker.or(below.open_tracker),
            reannounce_interval: self.reannounce_interval.or(below.reannounce_interval),
            min_reannounce_interval: self.min_reannounce_interval.or(below.min_reannounce_interval),
            timeout_downloaders_interval: self.timeout_downloaders_interval.or(below.timeout_downloaders_interval),
            response_size: self.response_size.or(below.response_size),
            nat_check: self.nat_check.or(below.nat_check),
            allow_get: self.allow_get.or(below.allow_get),
            scrape_allowed: self.scrape_allowed.or(below.scrape_allowed),
            announces_per_address: self.announces_per_address.or(below.announces_per_address),
            trusted_proxy: self.trusted_proxy.or(below.trusted_proxy),
            register_token: self.register_token.or(below.register_token),
            local_discovery: self.local_discovery.or(below.local_discovery),
            extensions: self.extensions.or(below.extensions),
            check_hashes: self.check_hashes.or(below.check_hashes),
            file_owner: self.file_owner.or(below.file_owner),
            file_group: self.file_group.or(below.file_group),
            file_mode: self.file_mode.or(below.file_mode),
            piece_buffer: self.piece_buffer.or(below.piece_buffer),
            socket_mode: self.socket_mode.or(below.socket_mode),
            socket_group: self.socket_group.or(below.socket_group),
            socket: self.socket.or(below.socket),
        }
    }

    fn defaults() -> Self {
        let lines =
            DEFAULTS.iter().filter(|(_, _, active)| *active).map(|(key, value, _)| format!("{key} = {value}\n"));
        toml::from_str(&lines.collect::<String>()).expect("the built-in defaults parse; a test prints and reads them")
    }
}

/// The commented default, as `labmesh config` prints it and `deploy/labmesh.toml` holds it.
pub fn printed_default() -> String {
    use clap::Args as _;
    let command = Settings::augment_args(clap::Command::new("labmesh"));
    let mut text = String::from(
        "# labmesh: settings of a node, normally /etc/labmesh/labmesh.toml.\n\
         # Flags win over the environment (LABMESH_MESH, LABMESH_CACHE, ...), which wins over this file.\n\
         # A key with # in front has no default, or one that depends on the machine: its value is an example.\n",
    );
    for (key, value, active) in DEFAULTS {
        let documented = command.get_arguments().find(|arg| arg.get_id() == key);
        let comment = documented.and_then(|arg| arg.get_long_help().or_else(|| arg.get_help())).map_or_else(
            || if *key == "limits" { LIMITS_COMMENT } else { SOCKET_COMMENT }.to_owned(),
            ToString::to_string,
        );
        text.push('\n');
        for line in wrapped(&format!("{}.", comment.trim_end_matches('.')), 98) {
            text.push_str(&format!("# {line}\n"));
        }
        text.push_str(&format!("{}{key} = {value}\n", if *active { "" } else { "# " }));
    }
    text
}

/// `socket` is a flag of every command, so its comment is not among those of the node's flags.
const SOCKET_COMMENT: &str = "The local socket that commands use. Without this key: /run/labmesh/control.sock, or \
    $XDG_RUNTIME_DIR/labmesh.sock for a node that does not run as root.";

/// A list of tables is no flag.
const LIMITS_COMMENT: &str = "Other limits at certain hours of this machine's clock, such as lessons. The first entry \
    that fits holds; the two keys above outside, and for what an entry leaves out. Days: mon, tue, wed, thu, fri, sat, \
    sun or several such as mon-fri, all if left out. From 22:00 to 06:00 is over midnight.";

/// Breaks a text at spaces into lines of at most `width` characters, if no word is longer.
pub fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// What a node is told, resolved and checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The image folder; absolute.
    pub cache: PathBuf,
    /// Read-only image folders; absolute.
    pub libraries: Vec<PathBuf>,
    /// Where torrents are kept, if not beside their images; absolute.
    pub torrents: Option<PathBuf>,
    /// Identity, terms, cache index; absolute.
    pub state: PathBuf,
    /// The mesh's name.
    pub mesh: String,
    /// The mesh's key.
    pub key: Option<MeshKey>,
    /// This node's name, not unique.
    pub name: String,
    /// The address to listen on and to speak from; `None` if `interface` is named.
    pub bind: Option<IpAddr>,
    /// The interface, if one is named.
    pub interface: Option<String>,
    /// How willing to be master.
    pub weight: Weight,
    /// Take over from a master of a lower weight.
    pub prefer: bool,
    /// Which switch; empty for the only one.
    pub site: String,
    /// Nodes to greet without mDNS.
    pub join: Vec<Join>,
    /// Tracker and pages; 0 = any free port.
    pub http_port: u16,
    /// BitTorrent peers; 0 = any free port.
    pub peer_port: u16,
    /// Control plane and heartbeats; 0 = any free port.
    pub control_port: u16,
    /// Take a free port where the configured one is taken: a node for the length of one command.
    pub transient: bool,
    /// The mode of a `get` that names none.
    pub mode: Mode,
    /// The seed time of a `get` that names none; `None` = what its mode says.
    pub seed_time: Option<SeedTime>,
    /// How fast payload may go, and when.
    pub schedule: Schedule,
    /// How often folders are read again.
    pub rescan_interval: Duration,
    /// What the tracker tells clients and takes from them.
    pub tracker: TrackerConfig,
    /// What the tracker's port does for whom.
    pub tracker_policy: Policy,
    /// Find clients of this LAN without a tracker.
    pub local_discovery: bool,
    /// Which files are images.
    pub extensions: Vec<Extension>,
    /// Whether images are checked against the torrents that they come with.
    pub check_hashes: bool,
    /// Whose the files are that the node makes in image folders.
    pub ownership: Ownership,
    /// Bytes of pieces in flight.
    pub piece_buffer: u64,
    /// The local socket.
    pub socket: SocketConfig,
}

/// Why a setting cannot be missing.
const WHY: &str = "the built-in defaults name this key";

/// The local socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketConfig {
    /// Where.
    pub path: PathBuf,
    /// Its permissions.
    pub mode: FileMode,
    /// Its group, if not the node's own.
    pub group: Option<String>,
}

impl Config {
    /// Merges what the command line and the environment say over the file (the given one, or [`FILE`] if it is there)
    /// and the defaults, and checks it as a whole.
    ///
    /// # Errors
    /// If the file is bad, or two settings do not go together; says which and what to do.
    pub fn resolve(file: Option<&Path>, said: Settings) -> anyhow::Result<Self> {
        let below = file_in_use(file).map(Settings::from_file).transpose()?.unwrap_or_default();
        Self::check(said.over(below).over(Settings::defaults()))
    }

    fn check(s: Settings) -> anyhow::Result<Self> {
        if s.bind.is_some() && s.interface.is_some() {
            bail!("bind and interface are both set; one of them says where to listen");
        }
        let key = s.key.as_deref().map(MeshKey::from_file).transpose()?;
        let weight = s.weight.expect(WHY);
        if weight.get() > Weight::UNKEYED_MAX && key.is_none() {
            bail!(
                "weight {} is over {}, which needs a mesh key (--key FILE), so that no stranger can become master",
                weight.get(),
                Weight::UNKEYED_MAX
            );
        }
        let piece_buffer = s.piece_buffer.expect(WHY).as_u64();
        if piece_buffer < u64::from(labmesh_proto::config::PIECE_BYTES_MAX) {
            bail!(
                "piece_buffer is {}, it must be at least 64 MiB (one piece of the largest kind)",
                s.piece_buffer.expect(WHY)
            );
        }
        let rescan_interval = s.rescan_interval.expect(WHY);
        if rescan_interval < Duration::from_secs(1) {
            bail!("rescan_interval is {}, it must be at least 1s", humantime::format_duration(rescan_interval));
        }
        let [http_port, peer_port, control_port] = check_ports(&s)?;
        if let Some(interface) = &s.interface {
            values::check_interface(interface)?;
        }
        let (tracker, tracker_policy) = check_tracker(&s)?;
        let ownership = Ownership::new(s.file_owner.as_deref(), s.file_group.as_deref(), s.file_mode.expect(WHY).0)
            .context("file_owner and file_group")?;
        let absolute = |path: PathBuf| std::path::absolute(&path).with_context(|| format!("bad path {path:?}"));
        let cache = s.cache.map_or_else(|| data_folder("images"), Ok)?;
        let state = s.state.map_or_else(|| data_folder("state"), Ok)?;
        Ok(Self {
            cache: absolute(cache)?,
            libraries: s.library.unwrap_or_default().into_iter().map(absolute).collect::<Result<_, _>>()?,
            torrents: s.torrents.map(absolute).transpose()?,
            state: absolute(state)?,
            mesh: s.mesh.expect(WHY).to_string(),
            key,
            name: s.name.unwrap_or_else(Label::of_host).to_string(),
            bind: s.bind,
            interface: s.interface,
            weight,
            prefer: s.prefer.expect(WHY),
            site: s.site.map(|site| site.to_string()).unwrap_or_default(),
            join: s.join.unwrap_or_default(),
            http_port,
            peer_port,
            control_port,
            transient: false,
            mode: s.mode.expect(WHY),
            seed_time: s.seed_time,
            schedule: Schedule::new(s.upload_limit.expect(WHY), s.download_limit.expect(WHY), s.limits),
            rescan_interval,
            tracker,
            tracker_policy,
            local_discovery: s.local_discovery.expect(WHY),
            extensions: s.extensions.expect(WHY),
            check_hashes: s.check_hashes.expect(WHY),
            ownership,
            piece_buffer,
            socket: SocketConfig {
                path: absolute(s.socket.map_or_else(default_socket, Ok)?)?,
                mode: s.socket_mode.expect(WHY),
                group: s.socket_group,
            },
        })
    }
}

/// The given file, or [`FILE`] if it is there.
fn file_in_use(given: Option<&Path>) -> Option<&Path> {
    given.or_else(|| Some(Path::new(FILE)).filter(|path| path.exists()))
}

/// The ports of tracker and pages, peers and control plane.
fn check_ports(s: &Settings) -> anyhow::Result<[u16; 3]> {
    let ports = [s.http_port.expect(WHY), s.peer_port.expect(WHY), s.control_port.expect(WHY)];
    if ports.iter().enumerate().any(|(n, port)| *port != 0 && ports[..n].contains(port)) {
        bail!("http_port {}, peer_port {} and control_port {} must differ", ports[0], ports[1], ports[2]);
    }
    Ok(ports)
}

/// The settings of the tracker, checked against each other.
fn check_tracker(s: &Settings) -> anyhow::Result<(TrackerConfig, Policy)> {
    /// Longer than anybody would wait for news of a peer; also keeps sums of times small.
    const INTERVAL_MAX: Duration = Duration::from_secs(24 * 3600);
    let interval = s.reannounce_interval.expect(WHY);
    let expiry = s.timeout_downloaders_interval.unwrap_or(interval.saturating_mul(3) + Duration::from_secs(5));
    let shown = humantime::format_duration;
    if !(Duration::from_secs(1)..=INTERVAL_MAX).contains(&interval) {
        bail!("reannounce_interval is {}, it must be 1s to 1day", shown(interval));
    }
    let min_interval = s.min_reannounce_interval.expect(WHY).min(interval);
    if expiry < interval * 2 || expiry > INTERVAL_MAX * 4 {
        bail!(
            "timeout_downloaders_interval is {}, it must be at least twice reannounce_interval ({}), or peers that are \
             there would be dropped",
            shown(expiry),
            shown(interval)
        );
    }
    let response_size = s.response_size.expect(WHY) as usize;
    if response_size > NUMWANT_MAX {
        bail!("response_size is {response_size}, it must be at most {NUMWANT_MAX}");
    }
    let nat_check = s.nat_check.expect(WHY);
    let Ok(nat_check @ 0..=100) = u8::try_from(nat_check) else {
        bail!("nat_check is {nat_check}, it must be at most 100")
    };
    let open = s.open_tracker.expect(WHY);
    let policy = Policy {
        allow_get: s.allow_get.expect(WHY),
        scrape_allowed: s.scrape_allowed.expect(WHY),
        trusted_proxies: s.trusted_proxy.iter().flatten().map(IpAddr::to_canonical).collect(),
        announces_per_address: s.announces_per_address.expect(WHY),
        open,
        register_token: s.register_token.as_deref().map(values::token_from_file).transpose()?,
    };
    Ok((TrackerConfig { open, interval, min_interval, expiry, response_size, nat_check }, policy))
}

/// A folder of this program for the user who runs it.
fn data_folder(below: &str) -> anyhow::Result<PathBuf> {
    if rustix::process::geteuid().is_root() {
        return Ok(Path::new("/var/lib/labmesh").join(below));
    }
    let set = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let data = set("XDG_DATA_HOME").or_else(|| set("HOME").map(|home| home.join(".local/share")));
    data.map(|data| data.join("labmesh").join(below))
        .context("HOME is not set, so there is no place for images: set it, or give --cache and --state")
}

fn default_socket() -> anyhow::Result<PathBuf> {
    if rustix::process::geteuid().is_root() {
        return Ok(PathBuf::from(SYSTEM_SOCKET));
    }
    user_socket().map_or_else(|| data_folder("control.sock"), Ok)
}

fn user_socket() -> Option<PathBuf> {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute())?;
    Some(runtime.join("labmesh.sock"))
}

/// Where a command looks for the local node if no socket is named, in this order.
pub fn socket_candidates() -> Vec<PathBuf> {
    [Some(PathBuf::from(SYSTEM_SOCKET)), user_socket(), data_folder("control.sock").ok()]
        .into_iter()
        .flatten()
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The printed default with every example switched on: a file that says everything that can be said.
    fn everything() -> String {
        DEFAULTS
            .iter()
            .fold(printed_default(), |text, (key, _, _)| text.replace(&format!("\n# {key} = "), &format!("\n{key} = ")))
    }

    #[track_caller]
    fn refused(file: &str, expected: &[&str]) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lab.toml");
        std::fs::write(&path, file).unwrap();
        let error = Config::resolve(Some(&path), Settings::default()).map_err(|e| format!("{e:#}")).unwrap_err();
        for part in expected {
            assert!(error.contains(part), "{part:?} is missing in: {error}");
        }
    }

    fn resolved(file: &str, said: Settings) -> Config {
        Config::check(said.over(toml::from_str(file).unwrap()).over(Settings::defaults())).unwrap()
    }

    #[test]
    fn the_printed_default_is_the_default() {
        assert_eq!(resolved(&printed_default(), Settings::default()), resolved("", Settings::default()));
    }

    #[test]
    fn the_examples_in_the_printed_default_are_good_values() {
        let settings = Settings::parse(&everything()).unwrap();
        assert_eq!(settings.key.as_deref(), Some(Path::new("/etc/labmesh/mesh.key")));
        assert_eq!(DEFAULTS.len(), 43, "every key of Settings has a line in the printed default");
    }

    #[test]
    fn every_setting_is_printed_with_its_comment() {
        use clap::Args as _;
        let command = Settings::augment_args(clap::Command::new("labmesh"));
        for arg in command.get_arguments() {
            let id = arg.get_id().as_str();
            assert!(DEFAULTS.iter().any(|(key, _, _)| *key == id), "{id} is not printed");
            assert!(arg.get_help().is_some(), "{id} has no comment");
        }
    }

    #[test]
    fn the_packaged_file_is_the_printed_default() {
        let packaged = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/labmesh.toml");
        assert_eq!(std::fs::read_to_string(packaged).unwrap(), printed_default());
    }

    /// A file that was cut off is refused with its place, or says a part of what the whole one says.
    #[test]
    fn a_file_may_end_anywhere() {
        // `interface` aside: it would unsay `bind`.
        let said = |line: &&str| !line.is_empty() && !line.starts_with(['#', 'i']);
        let lines: String = everything().lines().filter(said).flat_map(|line| [line, "\n"]).collect();
        let whole = Settings::parse(&lines).unwrap();
        for end in 0..=lines.len() {
            match Settings::parse(&lines[..end]) {
                Ok(part) if lines[..end].ends_with('\n') => {
                    assert_eq!(part.clone().over(whole.clone()), whole, "cut at {end}");
                    assert!(part != whole || end == lines.len(), "cut at {end}");
                }
                // A number that has lost digits is a number.
                Ok(_) => {}
                Err(error) => {
                    assert!(!lines[..end].ends_with('\n'), "cut at {end}: {error}");
                    assert!(error.to_string().contains("line "), "cut at {end}: {error}");
                }
            }
        }
    }

    proptest! {
        #[test]
        fn noise_is_refused_with_its_place(noise in "\\PC*", bytes: Vec<u8>, at in any::<prop::sample::Index>()) {
            let mut spoilt = everything();
            let at = spoilt.floor_char_boundary(at.index(spoilt.len()));
            spoilt.insert_str(at, &noise);
            for text in [&spoilt, &noise, &String::from_utf8_lossy(&bytes).into_owned()] {
                if let Err(error) = Settings::parse(text) {
                    prop_assert!(error.to_string().contains("line "), "{}", error);
                }
            }
        }

        #[test]
        fn words_of_our_own_in_any_order_do_not_panic(
            words in prop::collection::vec(prop::sample::select(DEFAULTS), 0..8),
            glue in prop::collection::vec("( = |\n|,|\\[|\\]|\\{|\\}|\"|#|-|[0-9]{1,20})", 16),
        ) {
            let all = words.iter().flat_map(|(key, value, _)| [key, value]).zip(&glue);
            let text: String = all.flat_map(|(word, glue)| [*word, glue.as_str()]).collect();
            if let Ok(settings) = Settings::parse(&text) {
                let _ = Config::check(Settings { key: None, ..settings }.over(Settings::defaults()));
            }
        }
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_place_and_the_known_keys() {
        refused("mesh = \"lab\"\n\ncolour = 3\n", &["lab.toml", "line 3, column 1", "colour", "`rescan_interval`"]);
    }

    #[test]
    fn a_bad_value_is_refused_with_its_place() {
        refused("weight = 100\n", &["line 1, column 10", "a weight is 0 to 99, not 100"]);
        refused("\nseed_time = \"soon\"", &["line 2, column 13", "no such seed time"]);
        refused("mode = \"giver\"", &["expected leecher, peer or seeder"]);
        refused("mesh = \"two words\"", &["letters, digits and hyphens"]);
        refused("http_port = 65536", &["port"]);
        refused("join = [\"labmesh.local\"]", &["labmesh.local"]);
        refused("weight = 61", &["needs a mesh key"]);
        refused("http_port = 6881", &["must differ"]);
        refused("bind = \"10.0.0.1\"\ninterface = \"eth0\"", &["both set"]);
        refused("piece_buffer = \"1 MiB\"", &["at least 64 MiB"]);
        refused("socket_mode = \"0999\"", &["octal"]);
        refused("\nupload_limit = \"fast\"", &["line 2, column 16", "no such limit: \"fast\"", "2MiB"]);
        refused("download_limit = 500", &["line 1, column 18", "500 B a second is too low (at least 16.0 KiB)"]);
        refused("download_limit = -1", &["no such limit: \"-1\""]);
        refused("file_owner = \"nobody here\"", &["no user \"nobody here\""]);
        refused("reannounce_interval = 0", &["must be 1s to 1day"]);
        refused("timeout_downloaders_interval = 30", &["at least twice reannounce_interval (30s)"]);
        refused("response_size = 201", &["at most 200"]);
        refused("nat_check = 101", &["at most 100"]);
        refused("nat_check = -1", &["expected 0"]);
        refused("scrape_allowed = \"all\"", &["none, specific or full"]);
        refused("trusted_proxy = [\"proxy.lab\"]", &["no such IP address"]);
        refused("register_token = \"/nonexistent/token\"", &["/nonexistent/token"]);
    }

    #[test]
    fn a_bad_entry_of_limits_is_refused_with_its_place() {
        let lessons = |line: &str| format!("[[limits]]\nupload = \"1 MiB\"\n{line}\n");
        refused(&lessons("days = [\"mon\", \"noday\"]"), &["line 3, column 16", "no such day: \"noday\""]);
        refused(&lessons("days = [\"mon-\"]"), &["line 3, column 9", "no such day: \"mon-\""]);
        refused(&lessons("days = []"), &["line 1, column 1", "has no days"]);
        refused(&lessons("days = \"mon\""), &["line 3, column 8"]);
        for bad in ["8", "08:0", "8:60", "24:01", ":30", "+8:00", "08:00:00", ""] {
            refused(&lessons(&format!("from = \"{bad}\"")), &["line 3, column 8", "no such time of day", bad]);
        }
        refused(&lessons("from = \"08:00\"\nto = \"08:00\""), &["line 1, column 1", "from 08:00 to 08:00"]);
        refused(&lessons("from = \"24:00\""), &["from 24:00 to 24:00"]);
        refused(&lessons("download = \"1 KiB\""), &["line 3, column 12", "too low"]);
        refused(&lessons("until = \"08:00\""), &["line 3, column 1", "until", "`from`"]);
        refused("[[limits]]\nfrom = \"08:00\"", &["line 1, column 1", "says upload, download or both"]);
        refused("limits = 3", &["line 1, column 10"]);
    }

    #[test]
    fn limits_are_merged_and_hold_outside_their_entries() {
        let said = Settings { upload_limit: Some(RateLimit::try_from(100_000).unwrap()), ..Settings::default() };
        let file = "upload_limit = \"1MiB\"\ndownload_limit = \"2MiB\"\n[[limits]]\nto = \"12:00\"\nupload = 0";
        let schedule = resolved(file, said).schedule;
        let at = |hour: i8| {
            let (entry, limits) = schedule.at(jiff::civil::date(2026, 11, 27).at(hour, 0, 0, 0));
            (entry, limits.upload.per_second(), limits.download.per_second())
        };
        assert_eq!([at(11), at(12)], [(Some(0), None, Some(2 << 20)), (None, Some(100_000), Some(2 << 20))]);
        assert_eq!(resolved("", Settings::default()).schedule, Schedule::default());
    }

    #[test]
    fn a_tracker_without_a_timeout_forgives_two_lost_announces() {
        let config = resolved("reannounce_interval = \"10m\"\nmin_reannounce_interval = \"1h\"", Settings::default());
        assert_eq!(config.tracker.expiry, Duration::from_secs(1805));
        assert_eq!(config.tracker.min_interval, Duration::from_secs(600));
        assert_eq!(resolved("", Settings::default()).tracker, TrackerConfig::default());
        assert_eq!(resolved("", Settings::default()).tracker_policy, Policy::default());
    }

    #[test]
    fn a_missing_file_is_an_error_only_if_it_was_named() {
        let error = Config::resolve(Some(Path::new("/nonexistent/x.toml")), Settings::default()).unwrap_err();
        assert!(format!("{error:#}").contains("/nonexistent/x.toml"));
    }

    #[test]
    fn the_command_line_wins_over_the_file() {
        let said = Settings { weight: Some(Weight::try_from(10).unwrap()), ..Settings::default() };
        let config = resolved("weight = 40\nseed_time = 90\nlibrary = [\"/srv/a\", \"/srv/b\"]", said);
        assert_eq!(config.weight.get(), 10);
        assert_eq!(config.seed_time, Some(SeedTime::For(Duration::from_secs(90))));
        assert_eq!(config.libraries, [Path::new("/srv/a"), Path::new("/srv/b")]);
    }

    #[test]
    fn an_address_on_the_command_line_replaces_an_interface_in_the_file() {
        let said = Settings { bind: Some(IpAddr::from([127, 0, 0, 2])), ..Settings::default() };
        let config = resolved("interface = \"eth7\"", said);
        assert_eq!((config.bind, config.interface), (Some(IpAddr::from([127, 0, 0, 2])), None));
    }
}
