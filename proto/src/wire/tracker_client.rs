//! The client's half of the tracker protocols: what is asked of a tracker that is not ours, and what it answers.
//!
//! HTTP as in BEP 3, 23, 7, 24 and 31, UDP as in BEP 15 and 41. Rule: what a tracker says is hostile until it is
//! [`Told`]: peers are counted and can be dialled, times are bounded, text is fit for a terminal. Not here: when what
//! is asked (`announcer`), sockets, our own tracker (`http_tracker`, `udp_tracker`).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use bip_bencode::{BRefAccess, BencodeRef};

use crate::config::{ANNOUNCE_INTERVAL_TOLD_MAX, ANNOUNCE_INTERVAL_TOLD_MIN, NUMWANT_MAX, TRACKER_ANSWER_BYTES_MAX};
use crate::id::{InfoHash, PeerId};
use crate::wire::bencode::{self, BadBencode, KeyOrder};
use crate::wire::http_tracker::AnnounceEvent;
use crate::wire::udp_tracker::{PROTOCOL, action};

/// The longest URL of a tracker; real ones with a passkey have some hundred bytes.
const URL_BYTES_MAX: usize = 1024;
/// What is kept of a tracker's words for people.
const REASON_CHARS_MAX: usize = 200;
/// What is kept of a `tracker id`, which is sent back.
const TRACKER_ID_BYTES_MAX: usize = 256;
/// BEP 3 names no interval for a tracker that says none; this is what most say.
const INTERVAL_DEFAULT: Duration = Duration::from_secs(30 * 60);
/// The longest path of an option of BEP 41.
const OPTION_BYTES_MAX: usize = 255;

/// How a tracker is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Hash, Eq, PartialOrd, Ord)]
pub enum Scheme {
    /// BEP 3.
    Http,
    /// BEP 15.
    Udp,
}

/// The URL of a tracker, taken apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrackerUrl {
    /// How it is spoken to.
    pub scheme: Scheme,
    /// A name or an address, in lower case and without brackets.
    pub host: String,
    /// 80 for HTTP if the URL names none.
    pub port: u16,
    /// Path and query, beginning with `/`.
    pub target: String,
}

/// Why a text is no tracker that we can ask.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadUrl {
    /// Such as https or wss.
    #[error("trackers are asked over http and udp, not over {0}")]
    NotSpoken(String),
    /// No URL at all.
    #[error("it is no URL of a tracker")]
    Malformed,
}

impl TrackerUrl {
    /// Reads a URL as it stands in a torrent.
    ///
    /// # Errors
    /// If it is none, or of a scheme that is not spoken.
    pub fn parse(url: &str) -> Result<Self, BadUrl> {
        if url.len() > URL_BYTES_MAX || !url.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(BadUrl::Malformed);
        }
        let (scheme, rest) = url.split_once("://").ok_or(BadUrl::Malformed)?;
        let scheme = match scheme.to_ascii_lowercase().as_str() {
            "http" => Scheme::Http,
            "udp" => Scheme::Udp,
            other if other.bytes().all(|b| b.is_ascii_alphanumeric()) => return Err(BadUrl::NotSpoken(other.into())),
            _ => return Err(BadUrl::Malformed),
        };
        let rest = rest.split('#').next().unwrap_or_default();
        let (place, target) = rest.find(['/', '?']).map_or((rest, "/"), |at| rest.split_at(at));
        let target = if target.starts_with('/') { target.to_owned() } else { format!("/{target}") };
        let (host, port) = host_and_port(place, scheme).ok_or(BadUrl::Malformed)?;
        Ok(Self { scheme, host, port, target })
    }
}

/// `HOST`, `HOST:PORT` or `[IPv6]:PORT`; user names are refused. BEP 15 knows no port of its own.
fn host_and_port(place: &str, scheme: Scheme) -> Option<(String, u16)> {
    let (host, port) = match place.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']')?;
            host.parse::<Ipv6Addr>().ok()?;
            (host, if port.is_empty() { None } else { Some(port.strip_prefix(':')?) })
        }
        None => place.split_once(':').map_or((place, None), |(host, port)| (host, Some(port))),
    };
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._:".contains(&b);
    if host.is_empty() || !host.bytes().all(plain) {
        return None;
    }
    let port = match (port, scheme) {
        (Some(port), _) => port.parse().ok().filter(|port| *port != 0)?,
        (None, Scheme::Http) => 80,
        (None, Scheme::Udp) => return None,
    };
    Some((host.to_ascii_lowercase(), port))
}

impl fmt::Display for TrackerUrl {
    /// Without the path, which may hold a person's passkey.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.scheme {
            Scheme::Http => "http",
            Scheme::Udp => "udp",
        };
        let (open, close) = if self.host.contains(':') { ("[", "]") } else { ("", "") };
        write!(f, "{scheme}://{open}{}{close}:{}", self.host, self.port)
    }
}

/// What a client tells its tracker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The image.
    pub info_hash: InfoHash,
    /// This client.
    pub peer_id: PeerId,
    /// Where it listens.
    pub port: u16,
    /// Bytes it has sent.
    pub uploaded: u64,
    /// Bytes it has received.
    pub downloaded: u64,
    /// Bytes it misses.
    pub left: u64,
    /// What has just happened.
    pub event: AnnounceEvent,
    /// How many peers it wants.
    pub numwant: u32,
    /// Tells the tracker that it is the same client at another address.
    pub key: u32,
    /// What this tracker asked to be sent back.
    pub tracker_id: Option<Vec<u8>>,
}

impl Question {
    /// Path and query of the `GET`, behind what the tracker's URL has already.
    pub fn target(&self, tracker: &TrackerUrl) -> String {
        let join = if tracker.target.contains('?') { '&' } else { '?' };
        let mut target = format!("{}{join}info_hash={}", tracker.target, quoted(&self.info_hash.0));
        let Self { port, uploaded, downloaded, left, numwant, key, .. } = self;
        target += &format!("&peer_id={}&port={port}", quoted(&self.peer_id.0));
        target += &format!("&uploaded={uploaded}&downloaded={downloaded}&left={left}");
        target += &format!("&compact=1&no_peer_id=1&numwant={numwant}&key={key:08x}");
        target += match self.event {
            AnnounceEvent::None => "",
            AnnounceEvent::Started => "&event=started",
            AnnounceEvent::Completed => "&event=completed",
            AnnounceEvent::Stopped => "&event=stopped",
        };
        if let Some(id) = &self.tracker_id {
            target += &format!("&trackerid={}", quoted(id));
        }
        target
    }

    /// The `announce` datagram of BEP 15, with the tracker's path as BEP 41 says if it is more than `/announce`.
    pub fn datagram(&self, connection: u64, transaction: u32, tracker: &TrackerUrl) -> Vec<u8> {
        let mut out = connection.to_be_bytes().to_vec();
        put(&mut out, &[action::ANNOUNCE, transaction]);
        out.extend_from_slice(&self.info_hash.0);
        out.extend_from_slice(&self.peer_id.0);
        for amount in [self.downloaded, self.left, self.uploaded] {
            out.extend_from_slice(&amount.to_be_bytes());
        }
        let event = match self.event {
            AnnounceEvent::None => 0,
            AnnounceEvent::Completed => 1,
            AnnounceEvent::Started => 2,
            AnnounceEvent::Stopped => 3,
        };
        // The address is the datagram's own.
        put(&mut out, &[event, 0, self.key, self.numwant]);
        out.extend_from_slice(&self.port.to_be_bytes());
        if !matches!(tracker.target.as_str(), "/" | "/announce") {
            for part in tracker.target.as_bytes().chunks(OPTION_BYTES_MAX) {
                out.extend_from_slice(&[2, part.len() as u8]);
                out.extend_from_slice(part);
            }
        }
        out
    }
}

/// The `connect` datagram of BEP 15.
pub fn connect_datagram(transaction: u32) -> Vec<u8> {
    let mut out = PROTOCOL.to_be_bytes().to_vec();
    put(&mut out, &[action::CONNECT, transaction]);
    out
}

fn put(out: &mut Vec<u8>, numbers: &[u32]) {
    numbers.iter().for_each(|number| out.extend_from_slice(&number.to_be_bytes()));
}

/// Percent encoding (RFC 3986, s. 2.1) of everything but its unreserved characters.
fn quoted(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len() * 3);
    for byte in bytes {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(*byte)),
            _ => out += &format!("%{byte:02X}"),
        }
    }
    out
}

/// What a tracker answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// Until the next announce.
    pub interval: Duration,
    /// At least this long until the next, if the tracker says so.
    pub min_interval: Option<Duration>,
    /// Seeds in the swarm, if the tracker says so.
    pub complete: Option<u32>,
    /// Others in the swarm, if the tracker says so.
    pub incomplete: Option<u32>,
    /// Whom to talk to, at most [`NUMWANT_MAX`].
    pub peers: Vec<SocketAddr>,
    /// To be sent back with the next announce.
    pub tracker_id: Option<Vec<u8>>,
    /// Where the tracker sees this client (BEP 24).
    pub external: Option<IpAddr>,
    /// For people.
    pub warning: Option<String>,
}

/// A tracker that says no, or something that is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Untold {
    /// Its own words.
    #[error("it says: {reason}")]
    Failure {
        /// For people.
        reason: String,
        /// When it would like to be asked again (BEP 31).
        retry_in: Option<Duration>,
    },
    /// Longer than any answer.
    #[error("it answers with {0} bytes; more than {TRACKER_ANSWER_BYTES_MAX} are refused")]
    TooLong(usize),
    /// Not bencode.
    #[error("it does not answer like a tracker: {0}")]
    Bencode(#[from] BadBencode),
    /// Bencode of something else.
    #[error("it does not answer like a tracker: expected a dictionary with peers")]
    NoPeers,
}

/// Reads the body of the answer to a `GET`.
///
/// # Errors
/// If the tracker refuses, or it is no answer.
pub fn parse_body(bytes: &[u8]) -> Result<Told, Untold> {
    if bytes.len() > TRACKER_ANSWER_BYTES_MAX {
        return Err(Untold::TooLong(bytes.len()));
    }
    let root = bencode::decode(bytes, KeyOrder::Any)?;
    let value = |key| bencode::lookup(&root, key);
    let number = |key| value(key).and_then(BRefAccess::int);
    if let Some(reason) = value("failure reason").and_then(BRefAccess::bytes) {
        let retry_in = number("retry in").and_then(|minutes| u64::try_from(minutes).ok());
        let retry_in = retry_in.map(|minutes| bounded(minutes.saturating_mul(60)));
        return Err(Untold::Failure { reason: readable(reason), retry_in });
    }
    let mut peers = value("peers").map(peers_of).unwrap_or_default();
    if let Some(bytes) = value("peers6").and_then(BRefAccess::bytes) {
        peers.extend(compact6(bytes));
    }
    let interval = number("interval").and_then(|seconds| u64::try_from(seconds).ok());
    if value("peers").is_none() && value("peers6").is_none() && interval.is_none() {
        return Err(Untold::NoPeers);
    }
    peers.retain(can_be_dialled);
    peers.truncate(NUMWANT_MAX);
    let count = |key| number(key).and_then(|n| u32::try_from(n).ok());
    let min_interval = number("min interval").and_then(|seconds| u64::try_from(seconds).ok()).map(bounded);
    let tracker_id = value("tracker id").and_then(BRefAccess::bytes).filter(|id| id.len() <= TRACKER_ID_BYTES_MAX);
    Ok(Told {
        interval: interval.map_or(INTERVAL_DEFAULT, bounded),
        min_interval,
        complete: count("complete"),
        incomplete: count("incomplete"),
        peers,
        tracker_id: tracker_id.map(<[u8]>::to_vec),
        external: value("external ip").and_then(BRefAccess::bytes).and_then(address),
        warning: value("warning message").and_then(BRefAccess::bytes).map(readable),
    })
}

/// `peers`: 6 bytes each (BEP 23), or a list of dictionaries (BEP 3). Host names among those are left out: they would
/// have to be looked up one by one.
fn peers_of(value: &BencodeRef<'_>) -> Vec<SocketAddr> {
    if let Some(bytes) = value.bytes() {
        return compact4(bytes).collect();
    }
    let peer = |peer: &BencodeRef<'_>| {
        let ip: IpAddr = bencode::lookup(peer, "ip")?.str()?.parse().ok()?;
        let port = u16::try_from(bencode::lookup(peer, "port")?.int()?).ok()?;
        Some(SocketAddr::new(ip.to_canonical(), port))
    };
    let list = value.list().map(|list| list.into_iter().filter_map(peer).take(NUMWANT_MAX).collect());
    list.unwrap_or_default()
}

/// Addresses as BEP 23 has them, at most [`NUMWANT_MAX`].
pub(crate) fn compact4(bytes: &[u8]) -> impl Iterator<Item = SocketAddr> {
    let (peers, _) = bytes.as_chunks::<6>();
    let peer = |[a, b, c, d, high, low]: &[u8; 6]| {
        SocketAddr::new(Ipv4Addr::new(*a, *b, *c, *d).into(), u16::from_be_bytes([*high, *low]))
    };
    peers.iter().take(NUMWANT_MAX).map(peer)
}

/// The same for IPv6 (BEP 7).
pub(crate) fn compact6(bytes: &[u8]) -> impl Iterator<Item = SocketAddr> {
    let (peers, _) = bytes.as_chunks::<18>();
    let peer = |peer: &[u8; 18]| {
        let mut ip = [0; 16];
        ip.copy_from_slice(&peer[..16]);
        SocketAddr::new(IpAddr::from(ip).to_canonical(), u16::from_be_bytes([peer[16], peer[17]]))
    };
    peers.iter().take(NUMWANT_MAX).map(peer)
}

/// BEP 24: 4 or 16 bytes.
fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(|ip| IpAddr::from(ip).to_canonical())).ok()
}

/// An address of one machine with a port; whether it leads anywhere is another matter.
fn can_be_dialled(addr: &SocketAddr) -> bool {
    let nobody = match addr.ip() {
        IpAddr::V4(ip) => ip.is_unspecified() || ip.is_multicast() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_unspecified() || ip.is_multicast(),
    };
    addr.port() != 0 && !nobody
}

fn bounded(seconds: u64) -> Duration {
    Duration::from_secs(seconds).clamp(ANNOUNCE_INTERVAL_TOLD_MIN, ANNOUNCE_INTERVAL_TOLD_MAX)
}

/// Text of a stranger, short and fit for a terminal.
fn readable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(REASON_CHARS_MAX).collect()
}

/// A datagram of a tracker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Datagram {
    /// The answer to `connect`: an id for the next question.
    Connected(u64),
    /// The answer to `announce`.
    Told(Told),
    /// Why not.
    Error(String),
}

/// Reads a datagram that came from `from`: its transaction, and what it says. `None`: it is no answer of BEP 15.
pub fn parse_datagram(bytes: &[u8], from: IpAddr) -> Option<(u32, Datagram)> {
    let number = |at: usize| Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let (kind, transaction) = (number(0)?, number(4)?);
    let said = match kind {
        action::CONNECT => Datagram::Connected(u64::from_be_bytes(bytes.get(8..16)?.try_into().ok()?)),
        action::ANNOUNCE => {
            let (interval, incomplete, complete) = (number(8)?, number(12)?, number(16)?);
            let rest = bytes.get(20..)?;
            let v4 = from.to_canonical().is_ipv4();
            let mut peers: Vec<_> = if v4 { compact4(rest).collect() } else { compact6(rest).collect() };
            peers.retain(can_be_dialled);
            Datagram::Told(Told {
                interval: bounded(interval.into()),
                complete: Some(complete),
                incomplete: Some(incomplete),
                peers,
                ..Told::default()
            })
        }
        action::ERROR => Datagram::Error(readable(&bytes[8..])),
        _ => return None,
    };
    Some((transaction, said))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::http_tracker::{Announce, Announced, TrackedPeer, encode_failure};
    use crate::wire::udp_tracker::{Request, Response};

    const ME: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 1, 2, 3));

    fn question() -> Question {
        Question {
            info_hash: InfoHash(*b"\x00%& hash of an image"),
            peer_id: PeerId(*b"-LM0100-abcdefghijkl"),
            port: 6881,
            uploaded: 1,
            downloaded: u64::MAX,
            left: 3,
            event: AnnounceEvent::Completed,
            numwant: 50,
            key: 7,
            tracker_id: None,
        }
    }

    fn announced() -> Announced {
        let peer = |addr: &str| TrackedPeer { addr: addr.parse().unwrap(), peer_id: PeerId(*b"-XX0000-abcdefghijkl") };
        let peers = vec![peer("10.0.0.7:6881"), peer("[fd00::1]:258"), peer("10.0.0.8:6882")];
        Announced { interval: 1800, min_interval: 600, complete: 2, incomplete: 1, peers }
    }

    #[track_caller]
    fn url(text: &str, expected: Result<(Scheme, &str, u16, &str), BadUrl>) {
        let parsed = TrackerUrl::parse(text);
        let parsed = parsed.as_ref().map(|u| (u.scheme, u.host.as_str(), u.port, u.target.as_str()));
        assert_eq!(parsed, expected.as_ref().map(|e| *e), "{text}");
    }

    #[test]
    fn urls_are_read_as_torrents_have_them() {
        use Scheme::{Http, Udp};
        url("http://10.1.12.90:6969/announce", Ok((Http, "10.1.12.90", 6969, "/announce")));
        url("HTTP://Tracker.Example.org/x/announce?k=v#f", Ok((Http, "tracker.example.org", 80, "/x/announce?k=v")));
        url("http://host", Ok((Http, "host", 80, "/")));
        url("http://host?a", Ok((Http, "host", 80, "/?a")));
        url("udp://[fd00::1]:80", Ok((Udp, "fd00::1", 80, "/")));
        url("https://host/announce", Err(BadUrl::NotSpoken("https".to_owned())));
        url("wss://host", Err(BadUrl::NotSpoken("wss".to_owned())));
        for bad in [
            "",
            "host:80",
            "http://",
            "http://u@host/",
            "http://h:0/",
            "http://h:99999/",
            "udp://host",
            "http://[x]:1/",
        ] {
            url(bad, Err(BadUrl::Malformed));
        }
        url("http://host/a b", Err(BadUrl::Malformed));
        url("http://host/\r\nX: y", Err(BadUrl::Malformed));
        url(&format!("http://host/{}", "a".repeat(1024)), Err(BadUrl::Malformed));
        let shown = |text| TrackerUrl::parse(text).unwrap().to_string();
        assert_eq!(shown("udp://[fd00::1]:80/secret"), "udp://[fd00::1]:80");
    }

    #[test]
    fn our_own_tracker_understands_what_is_asked_over_http() {
        let tracker = TrackerUrl::parse("http://h/announce?passkey=x").unwrap();
        let target = question().target(&tracker);
        let query = target.strip_prefix("/announce?").unwrap();
        assert!(query.starts_with("passkey=x&info_hash=%00%25%26%20hash"), "{query}");
        let read = Announce::parse(query, ME).unwrap();
        assert_eq!((read.info_hash, read.peer_id, read.port), (question().info_hash, question().peer_id, 6881));
        assert_eq!((read.uploaded, read.downloaded, read.left), (1, u64::MAX, 3));
        assert_eq!((read.event, read.numwant), (AnnounceEvent::Completed, Some(50)));
        assert!(read.compact && read.no_peer_id);
        let with_id = Question { tracker_id: Some(b"a b".to_vec()), event: AnnounceEvent::None, ..question() };
        assert!(with_id.target(&tracker).ends_with("&key=00000007&trackerid=a%20b"));
    }

    #[test]
    fn our_own_tracker_understands_what_is_asked_over_udp() {
        let tracker = TrackerUrl::parse("udp://h:1/announce").unwrap();
        let bytes = question().datagram(9, 8, &tracker);
        assert_eq!(bytes.len(), 98);
        let Ok(Request::Announce { connection: 9, transaction: 8, key: 7, claimed: None, announce }) =
            Request::decode(&bytes, ME)
        else {
            panic!("{bytes:?}")
        };
        assert_eq!((announce.info_hash, announce.port, announce.left), (question().info_hash, 6881, 3));
        assert_eq!((announce.event, announce.numwant), (AnnounceEvent::Completed, Some(50)));
        assert_eq!(Request::decode(&connect_datagram(8), ME), Ok(Request::Connect { transaction: 8 }));
        let secret = TrackerUrl::parse("udp://h:1/announce?key=1").unwrap();
        assert!(question().datagram(9, 8, &secret).ends_with(b"\x02\x0f/announce?key=1"));
    }

    #[test]
    fn answers_of_our_own_tracker_are_read_back() {
        let ask =
            Announce::parse("info_hash=aaaaaaaaaaaaaaaaaaaa&peer_id=bbbbbbbbbbbbbbbbbbbb&port=1&left=5", ME).unwrap();
        let addrs: Vec<SocketAddr> = announced().peers.iter().map(|p| p.addr).collect();
        for compact in [true, false] {
            let bytes = announced().encode(&Announce { compact, ..ask.clone() });
            let mut told = parse_body(&bytes).unwrap();
            told.peers.sort_by_key(|peer| addrs.iter().position(|a| a == peer));
            assert_eq!(told.peers, addrs, "compact {compact}");
            assert_eq!((told.interval.as_secs(), told.min_interval.unwrap().as_secs()), (1800, 600));
            assert_eq!((told.complete, told.incomplete), (Some(2), Some(1)));
        }
        for (source, kept) in [(ME, 2), ("fd00::3".parse().unwrap(), 1)] {
            let response = Response::Announce { transaction: 5, source, announced: announced() };
            let Some((5, Datagram::Told(told))) = parse_datagram(&response.encode(), source) else { panic!() };
            assert_eq!((told.peers.len(), told.interval.as_secs(), told.complete), (kept, 1800, Some(2)));
        }
        let connected = Response::Connect { transaction: 5, connection: 77 };
        assert_eq!(parse_datagram(&connected.encode(), ME), Some((5, Datagram::Connected(77))));
        let error = Response::Error { transaction: 5, message: "no\x1b[2J".to_owned() };
        assert_eq!(parse_datagram(&error.encode(), ME), Some((5, Datagram::Error("no [2J".to_owned()))));
    }

    #[test]
    fn refusals_and_oddities_are_understood() {
        let failure = Untold::Failure { reason: "not here".to_owned(), retry_in: None };
        assert_eq!(parse_body(&encode_failure("not here")), Err(failure));
        let later = parse_body(b"d14:failure reason4:busy8:retry ini5ee");
        let five = Some(Duration::from_secs(300));
        assert_eq!(later, Err(Untold::Failure { reason: "busy".to_owned(), retry_in: five }));
        assert_eq!(parse_body(b"d4:spam3:egge"), Err(Untold::NoPeers));
        assert!(matches!(parse_body(b"<html>"), Err(Untold::Bencode(_))));
        assert_eq!(
            parse_body(&vec![b'l'; TRACKER_ANSWER_BYTES_MAX + 1]),
            Err(Untold::TooLong(TRACKER_ANSWER_BYTES_MAX + 1))
        );
        let told = parse_body(
            b"d11:external ip4:\x0a\x01\x02\x038:intervali-1e5:peers0:10:tracker id2:xy15:warning message2:hie",
        );
        let told = told.unwrap();
        assert_eq!((told.external, told.interval), (Some(ME), INTERVAL_DEFAULT));
        assert_eq!((told.tracker_id.as_deref(), told.warning.as_deref()), (Some(&b"xy"[..]), Some("hi")));
    }

    #[test]
    fn a_hostile_answer_is_bounded_and_leads_to_machines_only() {
        let nobody =
            b"\0\0\0\0\x1a\xe1\xff\xff\xff\xff\x1a\xe1\xe0\0\0\x01\x1a\xe1\x0a\0\0\x01\0\0\x0a\0\0\x01\x1a\xe1";
        let mut body = format!("d8:intervali99999999999e5:peers{}:", nobody.len()).into_bytes();
        body.extend_from_slice(nobody);
        body.push(b'e');
        let told = parse_body(&body).unwrap();
        assert_eq!(told.peers, ["10.0.0.1:6881".parse().unwrap()]);
        assert_eq!(told.interval, ANNOUNCE_INTERVAL_TOLD_MAX);
        assert_eq!(parse_body(b"d8:intervali0e5:peers0:e").unwrap().interval, ANNOUNCE_INTERVAL_TOLD_MIN);
        let many = b"\x0a\0\0\x01\x1a\xe1".repeat(5000);
        let body = [format!("d5:peers{}:", many.len()).as_bytes(), &many, b"e"].concat();
        assert_eq!(parse_body(&body).unwrap().peers.len(), NUMWANT_MAX);
    }

    proptest! {
        #[test]
        fn noise_and_truncations_never_panic(bytes: Vec<u8>, kind in 0..5_u8, v6: bool, text in "\\PC*", end in 0..200_usize) {
            let from = if v6 { IpAddr::V6(Ipv6Addr::LOCALHOST) } else { ME };
            let _ = parse_body(&bytes);
            let _ = parse_datagram(&bytes, from);
            let _ = parse_datagram(&[&[0, 0, 0, kind, 0, 0, 0, 1], &bytes[..]].concat(), from);
            let _ = TrackerUrl::parse(&text);
            let _ = TrackerUrl::parse(&format!("http://{text}"));
            let whole = Response::Announce { transaction: 5, source: from, announced: announced() }.encode();
            let _ = parse_datagram(&whole[..end.min(whole.len())], from);
        }
    }
}
