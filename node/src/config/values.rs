//! How one value is read, from a flag, a variable or the file.
//!
//! Rule: every kind of value has one reader, [`Value::read`], and an error that says what was expected. Not here:
//! which settings there are ([`super::Settings`]).

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use labmesh_proto::config::{Mode, NAME_BYTES_MAX, RATE_LIMIT_MIN, RateLimit, SeedTime, Weight};
use labmesh_proto::id::NodeId;
use libp2p::multiaddr::Protocol;
use serde::de::{self, Deserializer, Visitor};

use crate::io::tracker::{ScrapeAllowed, Token};

/// Something that a person can set.
pub trait Value: Sized {
    /// What is expected, for error messages.
    const EXPECTED: &'static str;

    /// Reads and checks it.
    ///
    /// # Errors
    /// In words for the person who wrote it.
    fn read(text: &str) -> Result<Self, String>;
}

/// [`Value::read`] as the command line wants it.
///
/// # Errors
/// As [`Value::read`].
pub fn read<T: Value>(text: &str) -> Result<T, String> {
    T::read(text)
}

/// One value of the file: a string, a number or a truth value.
pub(super) fn one<'de, D: Deserializer<'de>, T: Value>(d: D) -> Result<Option<T>, D::Error> {
    d.deserialize_any(One(std::marker::PhantomData)).map(Some)
}

/// A list of values of the file.
pub(super) fn several<'de, D: Deserializer<'de>, T: Value>(d: D) -> Result<Option<Vec<T>>, D::Error> {
    struct Each<T>(T);
    impl<'de, T: Value> de::Deserialize<'de> for Each<T> {
        fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
            d.deserialize_any(One(std::marker::PhantomData)).map(Self)
        }
    }
    let list: Vec<Each<T>> = de::Deserialize::deserialize(d)?;
    Ok(Some(list.into_iter().map(|each| each.0).collect()))
}

struct One<T>(std::marker::PhantomData<T>);

impl<T: Value> Visitor<'_> for One<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::EXPECTED)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        T::read(text).map_err(E::custom)
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<T, E> {
        T::read(&number.to_string()).map_err(E::custom)
    }

    fn visit_bool<E: de::Error>(self, truth: bool) -> Result<T, E> {
        T::read(&truth.to_string()).map_err(E::custom)
    }
}

/// A name that fits a DNS label: 1 to 63 letters, digits and hyphens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label(String);

impl Label {
    /// This machine's host name, made fit.
    pub fn of_host() -> Self {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let first = host.split('.').next().unwrap_or_default();
        let fit: String =
            first.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(NAME_BYTES_MAX).collect();
        let fit = fit.trim_matches('-');
        Self(if fit.is_empty() { "node".to_owned() } else { fit.to_owned() })
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Value for Label {
    const EXPECTED: &'static str = "a name of letters, digits and hyphens";

    fn read(text: &str) -> Result<Self, String> {
        let good = |c: char| c.is_ascii_alphanumeric() || c == '-';
        if text.is_empty() || text.len() > NAME_BYTES_MAX || !text.chars().all(good) {
            return Err(format!("no good name: {text:?} (expected 1 to {NAME_BYTES_MAX} letters, digits and hyphens)"));
        }
        if text.starts_with('-') || text.ends_with('-') {
            return Err(format!("no good name: {text:?} (a hyphen cannot be first or last)"));
        }
        Ok(Self(text.to_owned()))
    }
}

/// The end of a name that makes a file an image, without the dot: `img`, `img.zst`; or `*` for every file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extension(String);

/// Ends of names that belong to an image, or to the work of another client on one, and are none.
const SIDECARS: [&str; 12] =
    ["torrent", "sum", "lock", "part", "journal", "inactive", "ant", "bf", "bfog", "new", "aria2", "mcast"];

impl Extension {
    /// Whether every file is an image.
    pub fn is_every(&self) -> bool {
        self.0 == "*"
    }

    /// Whether a file of this name lies beside images and is none, whatever the extensions are.
    pub fn is_of_sidecar(name: &str) -> bool {
        name.rsplit_once('.').is_some_and(|(_, last)| SIDECARS.contains(&last.to_ascii_lowercase().as_str()))
    }

    /// Whether a file of this name is an image of this kind, in capitals or not.
    pub fn fits(&self, name: &str) -> bool {
        if self.is_every() {
            return !name.starts_with('.') && !Self::is_of_sidecar(name);
        }
        let (name, end) = (name.as_bytes(), self.0.as_bytes());
        let Some(dot) = name.len().checked_sub(end.len() + 1) else { return false };
        dot > 0 && name[dot] == b'.' && name[dot + 1..].eq_ignore_ascii_case(end)
    }
}

impl fmt::Display for Extension {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Value for Extension {
    const EXPECTED: &'static str = "an extension such as img or img.zst";

    fn read(text: &str) -> Result<Self, String> {
        if text == "*" {
            return Ok(Self(text.to_owned()));
        }
        let text = text.strip_prefix('.').unwrap_or(text);
        let good = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '-' || c == '_';
        if text.is_empty() || text.len() > 16 || !text.chars().all(good) || text.split('.').any(str::is_empty) {
            return Err(format!("no good extension: {text:?} (expected one such as img or img.zst)"));
        }
        if text.split('.').next_back().is_some_and(|last| SIDECARS.contains(&last.to_ascii_lowercase().as_str())) {
            return Err(format!("{text:?} is the extension of a file that lies beside an image, not of an image"));
        }
        Ok(Self(text.to_owned()))
    }
}

/// Permissions of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileMode(pub u32);

impl Value for FileMode {
    const EXPECTED: &'static str = "permissions in octal, such as \"0600\"";

    fn read(text: &str) -> Result<Self, String> {
        match u32::from_str_radix(text, 8) {
            Ok(mode) if mode <= 0o777 => Ok(Self(mode)),
            _ => Err(format!("no such permissions: {text:?} (expected three octal digits, such as 0600 or 0660)")),
        }
    }
}

/// A node to greet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Join {
    /// Where its control plane listens.
    pub addr: SocketAddr,
    /// Who it must be, if the address says so.
    pub node: Option<NodeId>,
}

impl Value for Join {
    const EXPECTED: &'static str = "an address such as 10.1.2.3, 10.1.2.3:6970 or /ip4/10.1.2.3/tcp/6970";

    fn read(text: &str) -> Result<Self, String> {
        /// Where other nodes listen unless they were told otherwise.
        const PORT: u16 = 6970;
        let bad = || format!("no such address: {text:?} (expected {})", Self::EXPECTED);
        if !text.starts_with('/') {
            let addr = text.parse().or_else(|_| text.parse().map(|ip: IpAddr| SocketAddr::new(ip, PORT)));
            return addr.map(|addr| Self { addr, node: None }).map_err(|_| bad());
        }
        let parts: Vec<Protocol<'_>> = match text.parse::<libp2p::Multiaddr>() {
            Ok(address) => address.iter().map(|part| part.acquire()).collect(),
            Err(_) => return Err(bad()),
        };
        let (ip, rest) = match parts.split_first() {
            Some((Protocol::Ip4(ip), rest)) => (IpAddr::from(*ip), rest),
            Some((Protocol::Ip6(ip), rest)) => (IpAddr::from(*ip), rest),
            _ => return Err(bad()),
        };
        match rest {
            [] => Ok(Self { addr: SocketAddr::new(ip, PORT), node: None }),
            [Protocol::Tcp(port)] => Ok(Self { addr: SocketAddr::new(ip, *port), node: None }),
            [Protocol::Tcp(port), Protocol::P2p(peer)] => {
                let node = node_of(peer).ok_or_else(|| format!("{peer} is not the id of a labmesh node (Ed25519)"))?;
                Ok(Self { addr: SocketAddr::new(ip, *port), node: Some(node) })
            }
            _ => Err(bad()),
        }
    }
}

/// The Ed25519 key that a PeerId of ours holds in the clear (libp2p peer ids, "identity" multihash).
fn node_of(peer: &libp2p::PeerId) -> Option<NodeId> {
    let key = libp2p::identity::PublicKey::try_decode_protobuf(peer.as_ref().digest()).ok()?;
    Some(NodeId(key.try_into_ed25519().ok()?.to_bytes()))
}

/// What the nodes of one mesh know and nobody else does.
#[derive(Clone, PartialEq, Eq)]
pub struct MeshKey(Vec<u8>);

impl MeshKey {
    /// Reads the key's file: one line.
    ///
    /// # Errors
    /// If it cannot be read or is too short or too long to be a key.
    pub fn from_file(path: &Path) -> anyhow::Result<Self> {
        let bytes = std::fs::read(path).with_context(|| format!("cannot read the mesh key {}", path.display()))?;
        let key = bytes.trim_ascii();
        if !(16..=1024).contains(&key.len()) {
            bail!("the mesh key {} has {} characters, expected 16 to 1024", path.display(), key.len());
        }
        Ok(Self(key.to_vec()))
    }

    /// The key itself.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for MeshKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MeshKey(..)")
    }
}

/// Reads the file of a token: one line.
///
/// # Errors
/// If it cannot be read or is no word of 16 to 1024 printable characters.
pub(super) fn token_from_file(path: &Path) -> anyhow::Result<Token> {
    let shown = path.display();
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read the token {shown}"))?;
    let word = text.trim();
    if !(16..=1024).contains(&word.len()) || !word.chars().all(|c| c.is_ascii_graphic()) {
        bail!("the token {shown} must be one word of 16 to 1024 letters, digits and signs");
    }
    Ok(Token(word.to_owned()))
}

/// Whether there is such a network interface; it may get its address later.
pub(super) fn check_interface(interface: &str) -> anyhow::Result<()> {
    let all = std::fs::read_dir("/sys/class/net").context("cannot list the network interfaces")?;
    let mut names: Vec<String> =
        all.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).filter(|name| name != "lo").collect();
    names.sort_unstable();
    if interface != "lo" && !names.iter().any(|name| name == interface) {
        bail!("no network interface {interface:?} here (there are: {})", names.join(", "));
    }
    Ok(())
}

macro_rules! values {
    ($($kind:ty: $expected:literal, $read:expr;)*) => {$(
        impl Value for $kind {
            const EXPECTED: &'static str = $expected;

            fn read(text: &str) -> Result<Self, String> {
                let read: fn(&str) -> Result<Self, String> = $read;
                read(text)
            }
        }
    )*};
}

values! {
    PathBuf: "a path", |text| if text.is_empty() { Err("expected a path".to_owned()) } else { Ok(Self::from(text)) };
    String: "a word", |text| if text.is_empty() { Err("expected a word".to_owned()) } else { Ok(text.to_owned()) };
    IpAddr: "an IP address", |text| text.parse().map_err(|_| format!("no such IP address: {text:?}"));
    u32: "a number", |text| text.parse().map_err(|_| format!("expected 0 or a positive number, not {text:?}"));
    ScrapeAllowed: "none, specific or full", |text| match text {
        "none" => Ok(Self::None),
        "specific" => Ok(Self::Specific),
        "full" => Ok(Self::Full),
        _ => Err(format!("expected none, specific or full, not {text:?}")),
    };
    u16: "a port", |text| text.parse().map_err(|_| format!("no such port: {text} (expected 0 to 65535)"));
    bool: "true or false", |text| text.parse().map_err(|_| format!("expected true or false, not {text:?}"));
    Mode: "leecher, peer or seeder", |text| text.parse().map_err(|e| format!("{e}"));
    SeedTime: "a seed time such as 60s", |text| text.parse().map_err(|e| format!("{e}"));
    bytesize::ByteSize: "a size such as \"256 MiB\"",
        |text| text.parse().map_err(|_| format!("no such size: {text:?} (expected one such as 256MiB)"));
    RateLimit: "bytes a second such as \"2 MiB\", or 0 for no limit", |text| {
        let bad = |_| format!("no such limit: {text:?} (expected bytes a second such as 2MiB, or 0 for no limit)");
        let rate: bytesize::ByteSize = text.parse().map_err(bad)?;
        let low = |_| format!("a limit of {rate} a second is too low (at least {})", bytesize::ByteSize(RATE_LIMIT_MIN));
        Self::try_from(rate.as_u64()).map_err(low)
    };
    Weight: "a weight from 0 to 99", |text| {
        let number: u8 = text.parse().map_err(|_| format!("a weight is 0 to 99, not {text}"))?;
        Self::try_from(number).map_err(|e| e.to_string())
    };
    Duration: "a time such as \"60s\"", |text| {
        let seconds = text.parse().map(Self::from_secs).ok();
        let bad = |_| format!("no such time: {text:?} (expected seconds, or one such as 90s, 10m, 2h)");
        seconds.map_or_else(|| humantime::parse_duration(text).map_err(bad), Ok)
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_to_join_are_read_as_people_write_them() {
        for text in ["10.1.2.3", "10.1.2.3:6970", "/ip4/10.1.2.3/tcp/6970", "/ip4/10.1.2.3"] {
            let join = Join { addr: SocketAddr::from(([10, 1, 2, 3], 6970)), node: None };
            assert_eq!(Join::read(text), Ok(join), "{text}");
        }
        assert_eq!(Join::read("[::1]:7").map(|j| j.addr), Ok("[::1]:7".parse().unwrap()));
        for bad in ["", "pc07", "/dns4/pc07/tcp/1", "/ip4/10.1.2.3/udp/1", "10.1.2.3:99999", "/ip4/1.2.3.4/tcp/1/ws"] {
            assert!(Join::read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_id_in_an_address_becomes_a_node_id() {
        let key = libp2p::identity::Keypair::generate_ed25519().public();
        let text = format!("/ip4/10.1.2.3/tcp/6970/p2p/{}", key.to_peer_id());
        let id = NodeId(key.try_into_ed25519().unwrap().to_bytes());
        assert_eq!(Join::read(&text).map(|j| j.node), Ok(Some(id)));
    }

    #[test]
    fn extensions_fit_whole_ends_of_names_only() {
        let img = Extension::read(".img").unwrap();
        assert!(img.fits("a.img") && img.fits("A.IMG") && img.fits("ü.img"));
        assert!(!img.fits(".img") && !img.fits("aimg") && !img.fits("a.img.torrent") && !img.fits("img"));
        assert!(Extension::read("img.zst").unwrap().fits("win10.img.zst"));
        let every = Extension::read("*").unwrap();
        assert!(every.fits("a.img") && every.fits("README") && every.fits("a b.iso.zst"));
        for sidecar in [".a.img", "a.img.torrent", "a.img.full.sum", "a.img.PART", "a.img.torrent.inactive", "x.aria2"]
        {
            assert!(!every.fits(sidecar), "{sidecar}");
        }
        for bad in ["", ".", "a..b", "img.torrent", "PART", "a/b", "**", "*.img"] {
            assert!(Extension::read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn times_are_seconds_or_have_a_unit() {
        assert_eq!(Duration::read("90"), Ok(Duration::from_secs(90)));
        assert_eq!(Duration::read("2m"), Ok(Duration::from_secs(120)));
        assert!(Duration::read("soon").is_err());
    }

    #[test]
    fn limits_are_sizes_a_second_or_none() {
        assert_eq!(RateLimit::read("2MiB"), RateLimit::try_from(2 << 20).map_err(|e| e.to_string()));
        assert_eq!(RateLimit::read("0"), Ok(RateLimit::NONE));
        for bad in ["", "-1", "fast", "2MiB/s", "500", "10 kB"] {
            assert!(RateLimit::read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_host_name_is_a_good_name() {
        assert!(Label::read(&Label::of_host().to_string()).is_ok());
    }
}
