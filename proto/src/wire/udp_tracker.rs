//! The UDP tracker protocol (BEP 15): datagrams in, datagrams out, and connection ids that need no memory.
//!
//! Rule: whoever cannot receive at the address that it sends from gets no more than it sent: everything but `connect`
//! needs a connection id that was made for that address, and a datagram that we cannot read is not answered.
//! Not here: who is in the book (`tracker`), sockets, the clock.

use std::net::{IpAddr, Ipv4Addr};

use sha1::{Digest, Sha1};

use crate::config::{DATAGRAM_BYTES_MAX, SCRAPE_HASHES_MAX};
use crate::id::{InfoHash, PeerId};
use crate::wire::http_tracker::{Announce, AnnounceEvent, Announced, Scraped, put_compact};

/// What stands in a `connect` for the connection id.
pub(super) const PROTOCOL: u64 = 0x0417_2710_1980;
/// Bytes of an announce answer before the peers.
const ANNOUNCE_HEAD: usize = 20;

/// The numbers of BEP 15, in requests and answers.
pub(super) mod action {
    pub(in crate::wire) const CONNECT: u32 = 0;
    pub(in crate::wire) const ANNOUNCE: u32 = 1;
    pub(in crate::wire) const SCRAPE: u32 = 2;
    pub(in crate::wire) const ERROR: u32 = 3;
}

/// What a client asks. `transaction` is its number for the question and belongs into the answer; `connection` is to
/// be checked by [`connection_id_is_valid`] before anything else is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Give me a connection id.
    Connect {
        /// The client's number for it.
        transaction: u32,
    },
    /// The same as an announce by HTTP.
    Announce {
        /// The id that it was given.
        connection: u64,
        /// The client's number for it.
        transaction: u32,
        /// Tells a client that changed its address; we go by address and port.
        key: u32,
        /// The address that it names for itself. Believed of configured proxies only.
        claimed: Option<Ipv4Addr>,
        /// What it says.
        announce: Announce,
    },
    /// The same as a scrape by HTTP, of at least one image and at most [`SCRAPE_HASHES_MAX`].
    Scrape {
        /// The id that it was given.
        connection: u64,
        /// The client's number for it.
        transaction: u32,
        /// Which images.
        hashes: Vec<InfoHash>,
    },
}

/// Why a datagram is no request. It is dropped: an answer could hit somebody who never asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRequest {
    /// Shorter than such a request is.
    #[error("a datagram of {0} bytes, too short for a tracker request")]
    TooShort(usize),
    /// A `connect` without the number that marks the protocol.
    #[error("a connect request of another protocol")]
    NotConnect,
    /// An action that a client does not ask for.
    #[error("action {0}; expected 0 to 2")]
    Action(u32),
    /// A scrape of no or too many images.
    #[error("a scrape of {0} images; expected 1 to {SCRAPE_HASHES_MAX}")]
    Hashes(usize),
}

impl Request {
    /// Reads a datagram from `source`. Bytes behind a connect or announce are options (BEP 41) and ignored.
    ///
    /// # Errors
    /// If it is no request of BEP 15.
    pub fn decode(datagram: &[u8], source: IpAddr) -> Result<Self, BadRequest> {
        Self::read(datagram, source).unwrap_or(Err(BadRequest::TooShort(datagram.len())))
    }

    /// `None` = too short.
    fn read(datagram: &[u8], source: IpAddr) -> Option<Result<Self, BadRequest>> {
        let mut rest = datagram;
        let connection = u64::from_be_bytes(take(&mut rest)?);
        let action = u32::from_be_bytes(take(&mut rest)?);
        let transaction = u32::from_be_bytes(take(&mut rest)?);
        Some(match action {
            action::CONNECT if connection != PROTOCOL => Err(BadRequest::NotConnect),
            action::CONNECT => Ok(Self::Connect { transaction }),
            action::ANNOUNCE => {
                let (key, claimed, announce) = read_announce(rest, source)?;
                Ok(Self::Announce { connection, transaction, key, claimed, announce })
            }
            action::SCRAPE => {
                let (hashes, _) = rest.as_chunks();
                match hashes.len() {
                    1..=SCRAPE_HASHES_MAX => {
                        let hashes = hashes.iter().map(|hash| InfoHash(*hash)).collect();
                        Ok(Self::Scrape { connection, transaction, hashes })
                    }
                    other => Err(BadRequest::Hashes(other)),
                }
            }
            other => Err(BadRequest::Action(other)),
        })
    }
}

/// Reads what follows the transaction of an announce: its key, the address it names, and what it says.
fn read_announce(mut rest: &[u8], source: IpAddr) -> Option<(u32, Option<Ipv4Addr>, Announce)> {
    let rest = &mut rest;
    let info_hash = InfoHash(take(rest)?);
    let peer_id = PeerId(take(rest)?);
    let downloaded = u64::from_be_bytes(take(rest)?);
    let left = u64::from_be_bytes(take(rest)?);
    let uploaded = u64::from_be_bytes(take(rest)?);
    let event = match u32::from_be_bytes(take(rest)?) {
        1 => AnnounceEvent::Completed,
        2 => AnnounceEvent::Started,
        3 => AnnounceEvent::Stopped,
        _ => AnnounceEvent::None,
    };
    let claimed = Some(Ipv4Addr::from(take::<4>(rest)?)).filter(|ip| !ip.is_unspecified());
    let key = u32::from_be_bytes(take(rest)?);
    let numwant = u32::try_from(i32::from_be_bytes(take(rest)?)).ok();
    let port = u16::from_be_bytes(take(rest)?);
    let source = source.to_canonical();
    let (compact, no_peer_id) = (true, true);
    let announce =
        Announce { info_hash, peer_id, source, port, uploaded, downloaded, left, event, numwant, compact, no_peer_id };
    Some((key, claimed, announce))
}

/// Takes `N` bytes from the front.
fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (part, tail) = rest.split_first_chunk()?;
    *rest = tail;
    Some(*part)
}

/// What the tracker answers, with the transaction of the question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Response {
    /// Here is your connection id.
    Connect {
        /// The client's number.
        transaction: u32,
        /// From [`connection_id`].
        connection: u64,
    },
    /// Peers of the client's own address family, as many as fit into a datagram.
    Announce {
        /// The client's number.
        transaction: u32,
        /// Where the client is: IPv6 gets peers of 18 bytes, IPv4 of 6.
        source: IpAddr,
        /// The answer.
        announced: Announced,
    },
    /// Counters, in the order of the question.
    Scrape {
        /// The client's number.
        transaction: u32,
        /// At most [`SCRAPE_HASHES_MAX`]; unknown images with zeros, since nothing else can be left out.
        swarms: Vec<Scraped>,
    },
    /// Why not.
    Error {
        /// The client's number.
        transaction: u32,
        /// For people.
        message: String,
    },
}

impl Response {
    /// The datagram, at most [`DATAGRAM_BYTES_MAX`] long.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Connect { transaction, connection } => {
                let mut out = head(action::CONNECT, *transaction);
                out.extend_from_slice(&connection.to_be_bytes());
                out
            }
            Self::Announce { transaction, source, announced } => encode_announced(*transaction, *source, announced),
            Self::Scrape { transaction, swarms } => {
                let mut out = head(action::SCRAPE, *transaction);
                for swarm in swarms.iter().take(SCRAPE_HASHES_MAX) {
                    let downloaded = u32::try_from(swarm.downloaded).unwrap_or(u32::MAX);
                    put(&mut out, &[swarm.complete, downloaded, swarm.incomplete]);
                }
                out
            }
            Self::Error { transaction, message } => {
                let mut out = head(action::ERROR, *transaction);
                out.extend(message.bytes().take(DATAGRAM_BYTES_MAX - out.len()));
                out
            }
        }
    }
}

/// The datagram of a [`Response::Announce`].
pub fn encode_announced(transaction: u32, source: IpAddr, announced: &Announced) -> Vec<u8> {
    let mut out = head(action::ANNOUNCE, transaction);
    put(&mut out, &[announced.interval, announced.incomplete, announced.complete]);
    let v4 = source.to_canonical().is_ipv4();
    let fit = (DATAGRAM_BYTES_MAX - ANNOUNCE_HEAD) / if v4 { 6 } else { 18 };
    let family = announced.peers.iter().filter(|peer| peer.addr.ip().to_canonical().is_ipv4() == v4);
    family.take(fit).for_each(|peer| put_compact(&mut out, peer.addr));
    out
}

fn head(action: u32, transaction: u32) -> Vec<u8> {
    let mut out = Vec::with_capacity(384);
    put(&mut out, &[action, transaction]);
    out
}

fn put(out: &mut Vec<u8>, numbers: &[u32]) {
    numbers.iter().for_each(|number| out.extend_from_slice(&number.to_be_bytes()));
}

/// What makes connection ids unguessable; chosen at random when the tracker starts.
pub type Secret = [u8; 24];

/// The connection id of an address in a minute: a keyed hash, so that nothing has to be kept for it.
///
/// `secret` is chosen at random when the tracker starts; `minute` counts up once a minute.
pub fn connection_id(secret: &Secret, source: IpAddr, minute: u64) -> u64 {
    // 48 bytes and the padding are one block of SHA-1.
    let mut keyed = [0; 48];
    keyed[..24].copy_from_slice(secret);
    let ip = match source.to_canonical() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    keyed[24..40].copy_from_slice(&ip.octets());
    keyed[40..].copy_from_slice(&minute.to_be_bytes());
    let hash = Sha1::digest(keyed);
    let [a, b, c, d, e, f, g, h, ..] = <[u8; 20]>::from(hash);
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

/// Whether `id` was given to `source` in this minute or the one before: clients use one for a minute, and trackers
/// should take it for up to two (BEP 15).
pub fn connection_id_is_valid(id: u64, secret: &Secret, source: IpAddr, minute: u64) -> bool {
    [Some(minute), minute.checked_sub(1)].into_iter().flatten().any(|m| connection_id(secret, source, m) == id)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::http_tracker::TrackedPeer;

    const V4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 1, 2, 3));

    fn v6() -> IpAddr {
        "fd00::3".parse().unwrap()
    }

    fn libtorrent() -> Vec<Vec<u8>> {
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        let lines = include_str!("../../../tests/vectors/libtorrent.udp").lines();
        lines.map(|line| line.as_bytes().chunks(2).map(byte).collect()).collect()
    }

    fn announce() -> Vec<u8> {
        let mut bytes = vec![1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 1, 0xaa, 0xbb, 0xcc, 0xdd];
        bytes.extend([b'h'; 20]);
        bytes.extend(b"-XX0000-abcdefghijkl");
        bytes.extend([0, 0, 0, 0, 0, 0, 0, 1]);
        bytes.extend([0, 0, 0, 0, 0, 0, 1, 0]);
        bytes.extend([0, 0, 0, 0, 0, 1, 0, 0]);
        bytes.extend([0, 0, 0, 1, 9, 9, 9, 9, 0, 0, 0, 7, 0xff, 0xff, 0xff, 0xff, 0x1a, 0xe1]);
        bytes
    }

    fn scrape(images: usize) -> Vec<u8> {
        [&[1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 2, 0, 0, 0, 9][..], &vec![b'h'; 20 * images]].concat()
    }

    #[test]
    fn what_libtorrent_sends_is_understood() {
        let sent = libtorrent();
        let connect = Request::decode(&sent[0], V4);
        assert_eq!(connect, Ok(Request::Connect { transaction: 0xb16a_04ee }));
        let Ok(Request::Announce { connection, announce, .. }) = Request::decode(&sent[1], V4) else { panic!() };
        assert_eq!(connection.to_be_bytes(), *b"labmesh!");
        assert_eq!(announce.info_hash.to_string(), "15792ab834aa62646e7ec8b1472b58a517650f1e");
        assert!(announce.peer_id.0.starts_with(b"-LT2080-"));
        assert_eq!((announce.event, announce.left, announce.numwant), (AnnounceEvent::Started, 100_000, Some(200)));
        // It also tries uTP on the tracker's port.
        assert!(Request::decode(&sent[2], V4).is_err());
    }

    #[test]
    fn the_fields_of_an_announce_are_where_the_bep_has_them() {
        let expected = Announce {
            info_hash: InfoHash([b'h'; 20]),
            peer_id: PeerId(*b"-XX0000-abcdefghijkl"),
            source: V4,
            port: 6881,
            downloaded: 1,
            left: 0x100,
            uploaded: 0x1_0000,
            event: AnnounceEvent::Completed,
            numwant: None,
            compact: true,
            no_peer_id: true,
        };
        let (connection, transaction) = (0x0102_0304_0506_0708, 0xaabb_ccdd);
        let claimed = Some([9, 9, 9, 9].into());
        let expected = Request::Announce { connection, transaction, key: 7, claimed, announce: expected };
        assert_eq!(Request::decode(&announce(), V4), Ok(expected.clone()));
        let with_options = [&announce()[..], b"\x02\x01/"].concat();
        assert_eq!(Request::decode(&with_options, V4), Ok(expected.clone()));
        assert_eq!(Request::decode(&announce(), "::ffff:10.1.2.3".parse().unwrap()), Ok(expected));
    }

    #[test]
    fn what_is_no_request_is_dropped_with_a_reason() {
        let mut other = announce();
        other[84..88].fill(0);
        other[96..].fill(0);
        let Ok(Request::Announce { claimed: None, announce, .. }) = Request::decode(&other, V4) else { panic!() };
        assert_eq!(announce.port, 0);
        other[11] = 3;
        assert_eq!(Request::decode(&other, V4), Err(BadRequest::Action(3)));
        other[11] = 0;
        assert_eq!(Request::decode(&other, V4), Err(BadRequest::NotConnect));
        for images in [0, SCRAPE_HASHES_MAX + 1] {
            assert_eq!(Request::decode(&scrape(images), V4), Err(BadRequest::Hashes(images)));
        }
        assert!(matches!(Request::decode(&scrape(74), V4), Ok(Request::Scrape { hashes, .. }) if hashes.len() == 74));
    }

    #[test]
    fn no_truncation_is_a_request_of_more_than_it_holds() {
        let connect = &libtorrent()[0];
        for whole in [connect, &announce()] {
            for end in 0..whole.len() {
                assert_eq!(Request::decode(&whole[..end], V4), Err(BadRequest::TooShort(end)));
            }
        }
        for end in 16..scrape(3).len() {
            let hashes = match Request::decode(&scrape(3)[..end], V4) {
                Ok(Request::Scrape { hashes, .. }) => hashes.len(),
                _ => 0,
            };
            assert_eq!(hashes, (end - 16) / 20);
        }
    }

    fn answer(source: IpAddr, peers: usize) -> Vec<u8> {
        let peer = |n: usize| {
            let addr = if n.is_multiple_of(2) { (V4, 6881) } else { (v6(), 6882) };
            TrackedPeer { addr: addr.into(), peer_id: PeerId::default() }
        };
        let peers = (0..peers).map(peer).collect();
        let announced = Announced { interval: 30, min_interval: 10, complete: 2, incomplete: 1, peers };
        Response::Announce { transaction: 0xaabb_ccdd, source, announced }.encode()
    }

    #[test]
    fn answers_have_the_bytes_of_the_bep() {
        let connect = Response::Connect { transaction: 0xaabb_ccdd, connection: 0x0102_0304_0506_0708 };
        assert_eq!(connect.encode(), b"\0\0\0\0\xaa\xbb\xcc\xdd\x01\x02\x03\x04\x05\x06\x07\x08");
        let head = b"\0\0\0\x01\xaa\xbb\xcc\xdd\0\0\0\x1e\0\0\0\x01\0\0\0\x02";
        assert_eq!(answer(V4, 0), head);
        assert_eq!(answer(V4, 2), [&head[..], b"\x0a\x01\x02\x03\x1a\xe1"].concat());
        assert_eq!(answer(v6(), 2), [&head[..], b"\xfd\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x03\x1a\xe2"].concat());
        assert_eq!(answer("::ffff:10.1.2.3".parse().unwrap(), 2), answer(V4, 2));
        let swarm = Scraped { complete: 1, incomplete: 3, downloaded: 2, ..Scraped::default() };
        let busy = Scraped { downloaded: u64::MAX, ..Scraped::default() };
        let scrape = Response::Scrape { transaction: 9, swarms: vec![swarm, busy] };
        let numbers = b"\0\0\0\x01\0\0\0\x02\0\0\0\x03\0\0\0\0\xff\xff\xff\xff\0\0\0\0";
        assert_eq!(scrape.encode(), [b"\0\0\0\x02\0\0\0\x09", &numbers[..]].concat());
        let error = Response::Error { transaction: 9, message: "no".to_owned() };
        assert_eq!(error.encode(), b"\0\0\0\x03\0\0\0\x09no");
    }

    #[test]
    fn no_answer_is_longer_than_a_datagram() {
        assert_eq!(answer(V4, 1000).len(), 20 + 230 * 6);
        assert_eq!(answer(v6(), 1000).len(), 20 + 76 * 18);
        let scrape = Response::Scrape { transaction: 9, swarms: vec![Scraped::default(); 1000] };
        assert_eq!(scrape.encode().len(), 8 + 74 * 12);
        let error = Response::Error { transaction: 9, message: "x".repeat(10_000) };
        assert_eq!(error.encode().len(), DATAGRAM_BYTES_MAX);
    }

    #[test]
    fn connection_ids_belong_to_an_address_a_secret_and_two_minutes() {
        let (secret, other) = ([7; 24], [8; 24]);
        let id = connection_id(&secret, V4, 100);
        let valid = |secret, source, minute| connection_id_is_valid(id, secret, source, minute);
        assert!(valid(&secret, V4, 100) && valid(&secret, V4, 101));
        assert!(valid(&secret, "::ffff:10.1.2.3".parse().unwrap(), 100));
        assert!(!valid(&secret, V4, 99) && !valid(&secret, V4, 102));
        assert!(!valid(&other, V4, 100) && !valid(&secret, v6(), 100));
        assert!(!connection_id_is_valid(id, &secret, V4, 0));
    }

    proptest! {
        #[test]
        fn noise_never_panics(bytes: Vec<u8>, action in 0..4_u8, source: IpAddr) {
            let _ = Request::decode(&bytes, source);
            let _ = Request::decode(&[&PROTOCOL.to_be_bytes()[..], &[0, 0, 0, action], &bytes].concat(), source);
        }
    }
}
