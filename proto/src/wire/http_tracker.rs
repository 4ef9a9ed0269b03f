//! The HTTP tracker protocol: announce (BEP 3, 7, 23) and scrape (BEP 48), query strings in, bencode out.
//!
//! Rule: a query string becomes an [`Announce`] or an error in bttrack's words. Not here: who is in the book
//! (`tracker`), sockets, other pages.
//!
//! Query strings are read as bttrack reads them: of a repeated key the first counts, `+` is itself and not a space
//! (a hash may hold one), hexadecimal digits may be of either case, and a `%` without two of them is itself.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use crate::id::{InfoHash, PeerId};
use crate::wire::bencode::{self, DictWriter};

/// What the client says has just happened (BEP 3 `event`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
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
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Announce {
    /// The image.
    pub info_hash: InfoHash,
    /// The client.
    pub peer_id: PeerId,
    /// Where the announce came from; the only address that a client may announce.
    pub source: IpAddr,
    /// Where the client listens; 0 = nowhere.
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
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TrackedPeer {
    /// Where it listens.
    pub addr: SocketAddr,
    /// Its peer id.
    pub peer_id: PeerId,
}

/// One swarm's counters (BEP 48).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
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

/// Why a query string is no announce or scrape; bttrack's words, which follow `you sent me garbage - `.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum BadQuery {
    /// `info_hash` is missing.
    #[error("no info hash")]
    NoInfoHash,
    /// `info_hash` is something else.
    #[error("info hash not of length 20")]
    InfoHash,
    /// `peer_id` is missing or something else.
    #[error("id not of length 20")]
    PeerId,
    /// `port` is missing or not 0 to 65535.
    #[error("invalid port")]
    Port,
    /// `left` is missing or no number: without it a leecher would pass for a seed.
    #[error("invalid amount left")]
    Left,
    /// `uploaded` is no number; it may be missing.
    #[error("invalid amount uploaded")]
    Uploaded,
    /// `downloaded` is no number; it may be missing.
    #[error("invalid amount downloaded")]
    Downloaded,
}

impl Announce {
    /// Reads the query string of `/announce`, what stands behind the `?`. The address is `source`; see [`claimed_ip`].
    /// Peers are wanted compact unless it says `compact=0`, as BEP 23 lets a tracker decide. Everything else that clients
    /// send is let pass (`key`, `trackerid`, `supportcrypto`, `corrupt`, `redundant`, `ipv6` ...).
    ///
    /// # Errors
    /// If a key that matters is missing or makes no sense. An unknown `event` or `numwant` counts as absent.
    pub fn parse(query: &str, source: IpAddr) -> Result<Self, BadQuery> {
        let keys = Keys::of(query);
        let amount = |value: Option<&str>, error| value.map(|value| value.parse().map_err(|_| error)).transpose();
        let numwant = keys.numwant.and_then(|value| value.parse::<i64>().ok());
        Ok(Self {
            info_hash: InfoHash(twenty(keys.info_hash.ok_or(BadQuery::NoInfoHash)?).ok_or(BadQuery::InfoHash)?),
            peer_id: PeerId(keys.peer_id.and_then(twenty).ok_or(BadQuery::PeerId)?),
            source: source.to_canonical(),
            port: keys.port.and_then(|value| value.parse().ok()).ok_or(BadQuery::Port)?,
            uploaded: amount(keys.uploaded, BadQuery::Uploaded)?.unwrap_or(0),
            downloaded: amount(keys.downloaded, BadQuery::Downloaded)?.unwrap_or(0),
            left: amount(keys.left, BadQuery::Left)?.ok_or(BadQuery::Left)?,
            event: match keys.event {
                Some("started") => AnnounceEvent::Started,
                Some("completed") => AnnounceEvent::Completed,
                Some("stopped") => AnnounceEvent::Stopped,
                _ => AnnounceEvent::None,
            },
            numwant: numwant.filter(|n| *n >= 0).map(|n| u32::try_from(n).unwrap_or(u32::MAX)),
            compact: keys.compact != Some("0"),
            no_peer_id: keys.no_peer_id.is_some_and(|value| value != "0"),
        })
    }
}

/// The first value of each key that matters, still quoted. One pass, since this is where an announce takes its time.
#[derive(Default)]
struct Keys<'q> {
    info_hash: Option<&'q str>,
    peer_id: Option<&'q str>,
    port: Option<&'q str>,
    uploaded: Option<&'q str>,
    downloaded: Option<&'q str>,
    left: Option<&'q str>,
    event: Option<&'q str>,
    numwant: Option<&'q str>,
    compact: Option<&'q str>,
    no_peer_id: Option<&'q str>,
}

impl<'q> Keys<'q> {
    fn of(query: &'q str) -> Self {
        let mut keys = Self::default();
        for (key, value) in pairs(query) {
            let place = match key {
                "info_hash" => &mut keys.info_hash,
                "peer_id" => &mut keys.peer_id,
                "port" => &mut keys.port,
                "uploaded" => &mut keys.uploaded,
                "downloaded" => &mut keys.downloaded,
                "left" => &mut keys.left,
                "event" => &mut keys.event,
                "numwant" => &mut keys.numwant,
                "compact" => &mut keys.compact,
                "no_peer_id" => &mut keys.no_peer_id,
                _ => continue,
            };
            place.get_or_insert(value);
        }
        keys
    }
}

/// The address that an announce names for itself by `ip=` (BEP 3). Believed of configured proxies only: of anybody else
/// it would make this tracker send others where nobody asked for them.
pub fn claimed_ip(query: &str) -> Option<IpAddr> {
    let ip: IpAddr = pairs(query).find(|(key, _)| *key == "ip")?.1.parse().ok()?;
    Some(ip.to_canonical())
}

/// Reads the images that `/scrape` or `/file` is asked for, in order: any number of `info_hash=` (20 bytes, percent
/// encoded) and `hash=` (40 hexadecimal digits), each key with either form. None means all to `/scrape`.
///
/// # Errors
/// If one of them is neither.
pub fn parse_info_hashes(query: &str) -> Result<Vec<InfoHash>, BadQuery> {
    let hash = |value: &str| twenty(value).map(InfoHash).or_else(|| value.parse().ok()).ok_or(BadQuery::InfoHash);
    pairs(query).filter(|(key, _)| matches!(*key, "info_hash" | "hash")).map(|(_, value)| hash(value)).collect()
}

impl Announced {
    /// The body of the answer to `announce`, see [`Self::write`].
    pub fn encode(&self, announce: &Announce) -> Vec<u8> {
        let mut out = Vec::new();
        self.write(&mut out, announce.compact, announce.no_peer_id);
        out
    }

    /// Appends the body of the answer: peers compact (BEP 23, and BEP 7 for those with IPv6), or a list of dictionaries.
    pub fn write(&self, out: &mut Vec<u8>, compact: bool, no_peer_id: bool) {
        bencode::write_dict(out, |dict| {
            dict.int(b"complete", self.complete);
            dict.int(b"incomplete", self.incomplete);
            dict.int(b"interval", self.interval);
            dict.int(b"min interval", self.min_interval);
            if compact {
                self.compact_peers(dict);
            } else {
                dict.list(b"peers", |out| {
                    self.peers.iter().for_each(|peer| peer.write(out, no_peer_id));
                });
            }
        });
    }

    fn compact_peers(&self, dict: &mut DictWriter<'_>) {
        let (mut v4, mut v6) = (Vec::with_capacity(6 * self.peers.len()), Vec::new());
        for peer in &self.peers {
            let out = if peer.addr.ip().to_canonical().is_ipv4() { &mut v4 } else { &mut v6 };
            put_compact(out, peer.addr);
        }
        dict.bytes(b"peers", &v4);
        if !v6.is_empty() {
            dict.bytes(b"peers6", &v6);
        }
    }
}

/// Appends an address as BEP 23 and BEP 7 do: 4 or 16 bytes, then 2 of the port.
pub(crate) fn put_compact(out: &mut Vec<u8>, addr: SocketAddr) {
    match addr.ip().to_canonical() {
        IpAddr::V4(ip) => out.extend_from_slice(&ip.octets()),
        IpAddr::V6(ip) => out.extend_from_slice(&ip.octets()),
    }
    out.extend_from_slice(&addr.port().to_be_bytes());
}

impl TrackedPeer {
    fn write(&self, out: &mut Vec<u8>, no_peer_id: bool) {
        bencode::write_dict(out, |dict| {
            dict.bytes(b"ip", self.addr.ip().to_canonical().to_string().as_bytes());
            if !no_peer_id {
                dict.bytes(b"peer id", &self.peer_id.0);
            }
            dict.int(b"port", self.addr.port());
        });
    }
}

/// The `failure reason` for what is no announce or scrape, in bttrack's words.
pub fn garbage(bad: &BadQuery) -> String {
    format!("you sent me garbage - {bad}")
}

/// The body of an answer that only says why (BEP 3 `failure reason`).
pub fn encode_failure(reason: &str) -> Vec<u8> {
    let mut out = Vec::new();
    bencode::write_dict(&mut out, |dict| dict.bytes(b"failure reason", reason.as_bytes()));
    out
}

/// The body of the answer to `/scrape` (BEP 48); of an image that comes twice the last counts.
pub fn encode_scrape(swarms: &[Scraped]) -> Vec<u8> {
    let sorted: BTreeMap<InfoHash, &Scraped> = swarms.iter().map(|swarm| (swarm.info_hash, swarm)).collect();
    let mut out = Vec::new();
    bencode::write_dict(&mut out, |dict| {
        dict.dict(b"files", |files| {
            for (info_hash, swarm) in &sorted {
                files.dict(&info_hash.0, |file| swarm.write(file));
            }
        });
    });
    out
}

impl Scraped {
    fn write(&self, file: &mut DictWriter<'_>) {
        file.int(b"complete", self.complete);
        file.int(b"downloaded", self.downloaded);
        file.int(b"incomplete", self.incomplete);
        if let Some(name) = &self.name {
            file.bytes(b"name", name.as_bytes());
        }
    }
}

/// `key=value` pairs, as they stand in the query.
fn pairs(query: &str) -> impl Iterator<Item = (&str, &str)> {
    query.split('&').filter_map(|pair| pair.split_once('='))
}

/// Undoes percent encoding (RFC 3986, s. 2.1); what is no escape stays as it is. `None` if that makes more or fewer than
/// twenty bytes.
fn twenty(value: &str) -> Option<[u8; 20]> {
    let (mut out, mut len) = ([0; 20], 0);
    let mut rest = value.as_bytes();
    while let [first, tail @ ..] = rest {
        let (byte, tail) = match (first, tail) {
            (b'%', [high, low, after @ ..]) => match (digit(*high), digit(*low)) {
                (Some(high), Some(low)) => (high * 16 + low, after),
                _ => (b'%', tail),
            },
            _ => (*first, tail),
        };
        *out.get_mut(len)? = byte;
        len += 1;
        rest = tail;
    }
    (len == 20).then_some(out)
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).map(|digit| digit as u8)
}

#[cfg(test)]
mod tests {
    use bip_bencode::BRefAccess;
    use proptest::prelude::*;

    use super::*;
    use crate::wire::bencode::KeyOrder;

    const SOURCE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 1, 2, 3));
    const MKTORRENT: &str = "15792ab834aa62646e7ec8b1472b58a517650f1e";
    const LEAST: &str = "info_hash=aaaaaaaaaaaaaaaaaaaa&peer_id=bbbbbbbbbbbbbbbbbbbb&port=6881&left=5";

    fn least() -> Announce {
        Announce {
            info_hash: InfoHash([b'a'; 20]),
            peer_id: PeerId([b'b'; 20]),
            source: SOURCE,
            port: 6881,
            uploaded: 0,
            downloaded: 0,
            left: 5,
            event: AnnounceEvent::None,
            numwant: None,
            compact: true,
            no_peer_id: false,
        }
    }

    #[track_caller]
    fn check(query: &str, expected: Result<Announce, BadQuery>) {
        assert_eq!(Announce::parse(query, SOURCE), expected, "{query}");
    }

    #[track_caller]
    fn check_bytes(bytes: &[u8], expected: &str) {
        assert_eq!(bytes.escape_ascii().to_string(), expected);
        assert!(bencode::decode(bytes, KeyOrder::Sorted).is_ok());
    }

    #[test]
    fn what_real_clients_announce_is_understood() {
        use AnnounceEvent::{Started, Stopped};
        for (query, id, port, numwant, event) in [
            (include_str!("../../../tests/vectors/libtorrent.announce"), "-LT2080-", 39_937, 200, Started),
            (include_str!("../../../tests/vectors/aria2.announce"), "A2-1-36-", 26_884, 50, Started),
            (include_str!("../../../tests/vectors/transmission.announce"), "-TR3000-", 26_900, 0, Stopped),
        ] {
            let announce = Announce::parse(query, SOURCE).unwrap();
            assert_eq!(announce.info_hash.to_string(), MKTORRENT);
            assert!(announce.peer_id.0.starts_with(id.as_bytes()), "{announce:?}");
            assert_eq!((announce.port, announce.numwant, announce.left), (port, Some(numwant), 100_000));
            assert_eq!((announce.event, announce.compact), (event, true));
        }
    }

    #[test]
    fn what_is_left_out_has_a_default_and_what_makes_no_sense_too() {
        check(LEAST, Ok(least()));
        let with = |more: &str| Announce::parse(&format!("{LEAST}&{more}"), SOURCE).unwrap();
        assert_eq!(with("event=paused&numwant=-1&ip=1.2.3.4&key=%&=&&x"), least());
        assert_eq!(with("event=").event, AnnounceEvent::None);
        assert_eq!(with("event=stopped&event=started").event, AnnounceEvent::Stopped);
        assert_eq!(with("event=completed").event, AnnounceEvent::Completed);
        assert_eq!(with("numwant=0").numwant, Some(0));
        assert_eq!(with("numwant=99999999999").numwant, Some(u32::MAX));
        assert_eq!(with("numwant=many").numwant, None);
        assert!(!with("compact=0").compact && with("compact=1").compact);
        assert!(with("no_peer_id=1").no_peer_id && !with("no_peer_id=0").no_peer_id);
        assert_eq!(with("port=1").port, 6881);
        let chatter =
            "key=1a2b&trackerid=x&supportcrypto=1&requirecrypto=1&cryptoport=5&corrupt=0&redundant=9&ipv6=fe80::1";
        assert_eq!(with(chatter), least());
        assert_eq!(Announce::parse(&LEAST.replace("6881", "0"), SOURCE).map(|a| a.port), Ok(0));
        let mapped = Announce::parse(LEAST, "::ffff:10.1.2.3".parse().unwrap());
        assert_eq!(mapped, Ok(least()));
    }

    #[test]
    fn the_first_ip_that_it_names_is_the_one() {
        assert_eq!(claimed_ip(&format!("{LEAST}&ip=10.9.8.7&ip=1.1.1.1")), Some([10, 9, 8, 7].into()));
        assert_eq!(claimed_ip("ip=::ffff:10.9.8.7"), Some([10, 9, 8, 7].into()));
        for none in [LEAST, "ip=", "ip=pc07.lab", "xip=1.1.1.1"] {
            assert_eq!(claimed_ip(none), None);
        }
    }

    #[test]
    fn errors_are_in_bttracks_words() {
        for (change, error, words) in [
            (("info_hash=aaaaaaaaaaaaaaaaaaaa", ""), BadQuery::NoInfoHash, "no info hash"),
            (("aaaaaaaaaaaaaaaaaaaa", "aaaaaaaaaaaaaaaaaaa"), BadQuery::InfoHash, "info hash not of length 20"),
            (("aaaaaaaaaaaaaaaaaaaa", MKTORRENT), BadQuery::InfoHash, "info hash not of length 20"),
            (("peer_id=bb", "peer_id="), BadQuery::PeerId, "id not of length 20"),
            (("peer_id", "peerid"), BadQuery::PeerId, "id not of length 20"),
            (("6881", "-1"), BadQuery::Port, "invalid port"),
            (("6881", "65536"), BadQuery::Port, "invalid port"),
            (("&port=6881", ""), BadQuery::Port, "invalid port"),
            (("left=5", "left=-1"), BadQuery::Left, "invalid amount left"),
            (("&left=5", ""), BadQuery::Left, "invalid amount left"),
            (("left=5", "left=5&uploaded=x"), BadQuery::Uploaded, "invalid amount uploaded"),
            (("left=5", "left=5&downloaded=-5"), BadQuery::Downloaded, "invalid amount downloaded"),
        ] {
            check(&LEAST.replace(change.0, change.1), Err(error));
            assert_eq!(error.to_string(), words);
        }
        check("", Err(BadQuery::NoInfoHash));
    }

    /// Too little until a digit of both numbers that must be there, which come behind hash and id.
    #[test]
    fn an_announce_may_end_anywhere() {
        for query in [
            LEAST,
            include_str!("../../../tests/vectors/libtorrent.announce"),
            include_str!("../../../tests/vectors/aria2.announce"),
            include_str!("../../../tests/vectors/transmission.announce"),
        ] {
            let whole = Announce::parse(query, SOURCE).unwrap();
            let enough = ["left=", "port="].map(|key| query.find(key).unwrap() + key.len() + 1).into_iter().max();
            for cut in (0..=query.len()).map(|end| &query[..end]) {
                let ids = Announce::parse(cut, SOURCE).ok().map(|announce| (announce.info_hash, announce.peer_id));
                assert_eq!(ids, (Some(cut.len()) >= enough).then_some((whole.info_hash, whole.peer_id)), "{cut}");
                let hashes = parse_info_hashes(cut);
                assert!(matches!(hashes.as_deref(), Ok([] | [_]) | Err(BadQuery::InfoHash)), "{cut}");
                assert_eq!(claimed_ip(cut), None, "{cut}");
            }
        }
    }

    #[test]
    fn hashes_come_quoted_in_any_way_or_in_hexadecimal() {
        let hash: InfoHash = MKTORRENT.parse().unwrap();
        let quoted = |upper: bool| {
            let digits = if upper { MKTORRENT.to_uppercase() } else { MKTORRENT.to_owned() };
            digits
                .as_bytes()
                .chunks(2)
                .map(|pair| format!("%{}", std::str::from_utf8(pair).unwrap()))
                .collect::<String>()
        };
        let shortest = "%15y*%b84%aabdn~%c8%b1G+X%a5%17e%0f%1e";
        for value in [&quoted(true), &quoted(false), shortest, &shortest.replace('+', "%2B"), MKTORRENT] {
            assert_eq!(parse_info_hashes(&format!("info_hash={value}")), Ok(vec![hash]), "{value}");
        }
        let other = InfoHash([b'a'; 20]);
        let several = format!("hash={}&x=1&info_hash={other}&info_hash=aaaaaaaaaaaaaaaaaaaa", MKTORRENT.to_uppercase());
        assert_eq!(parse_info_hashes(&several), Ok(vec![hash, other, other]));
        assert_eq!(parse_info_hashes(""), Ok(vec![]));
        for bad in ["info_hash=", "hash=15", "hash=%zz", "info_hash=%aaaaaaaaaaaaaaaaaaaa"] {
            assert_eq!(parse_info_hashes(bad), Err(BadQuery::InfoHash), "{bad}");
        }
        assert_eq!(twenty("%41%4a%4J%%4%41%zzzzzzzzzz").as_ref(), Some(b"AJ%4J%%4A%zzzzzzzzzz"));
        assert_eq!(twenty("a+%2b\u{f1}aaaaaaaaaaaaaaa").as_ref(), Some(b"a++\xc3\xb1aaaaaaaaaaaaaaa"));
    }

    fn answer() -> Announced {
        let peer = |addr: &str| TrackedPeer { addr: addr.parse().unwrap(), peer_id: PeerId(*b"-LM0100-abcdefghijkl") };
        let peers = vec![peer("10.0.0.7:6881"), peer("[fd00::1]:258"), peer("[::ffff:10.0.0.8]:6882")];
        Announced { interval: 30, min_interval: 10, complete: 2, incomplete: 1, peers }
    }

    #[test]
    fn answers_have_the_bytes_of_the_beps() {
        const HEAD: &str = "d8:completei2e10:incompletei1e8:intervali30e12:min intervali10e";
        let compact = answer().encode(&least());
        let (v4, v6) = (r"\n\x00\x00\x07\x1a\xe1\n\x00\x00\x08\x1a\xe2", r"\xfd\x00");
        let v6 = format!("{v6}{}{}", r"\x00".repeat(13), r"\x01\x01\x02");
        check_bytes(&compact, &format!("{HEAD}5:peers12:{v4}6:peers618:{v6}e"));
        let only_v4 = Announced { peers: answer().peers[..1].to_vec(), ..answer() };
        check_bytes(&only_v4.encode(&least()), &format!(r"{HEAD}5:peers6:\n\x00\x00\x07\x1a\xe1e"));
        let none = Announced { peers: vec![], ..answer() };
        check_bytes(&none.encode(&least()), &format!("{HEAD}5:peers0:e"));
        let long = Announce { compact: false, ..least() };
        let id = "7:peer id20:-LM0100-abcdefghijkl";
        check_bytes(&only_v4.encode(&long), &format!("{HEAD}5:peersld2:ip8:10.0.0.7{id}4:porti6881eeee"));
        let all = "d2:ip8:10.0.0.74:porti6881eed2:ip7:fd00::14:porti258eed2:ip8:10.0.0.84:porti6882ee";
        check_bytes(&answer().encode(&Announce { no_peer_id: true, ..long }), &format!("{HEAD}5:peersl{all}ee"));
        check_bytes(&encode_failure("no"), "d14:failure reason2:noe");
    }

    #[test]
    fn scrapes_are_sorted_by_hash_and_name_each_image_once() {
        let swarm = |byte: u8, name: Option<&str>| Scraped {
            info_hash: InfoHash([byte; 20]),
            name: name.map(str::to_owned),
            complete: 1,
            incomplete: 2,
            downloaded: 3,
        };
        let counters = "d8:completei1e10:downloadedi3e10:incompletei2e";
        let (a, b) =
            (format!("20:{}{counters}e", "a".repeat(20)), format!("20:{}{counters}4:name5:x.imge", "b".repeat(20)));
        let swarms = [swarm(b'b', None), swarm(b'a', None), swarm(b'b', Some("x.img"))];
        check_bytes(&encode_scrape(&swarms), &format!("d5:filesd{a}{b}ee"));
        check_bytes(&encode_scrape(&[]), "d5:filesdee");
    }

    proptest! {
        #[test]
        fn any_twenty_bytes_survive_quoting(bytes: [u8; 20], bare: bool) {
            let plain = |b: u8| bare && b.is_ascii_graphic() && !b"%&=#".contains(&b);
            let quoted: String =
                bytes.iter().map(|b| if plain(*b) { char::from(*b).to_string() } else { format!("%{b:02x}") }).collect();
            let announce = Announce::parse(&LEAST.replace("aaaaaaaaaaaaaaaaaaaa", &quoted), SOURCE).unwrap();
            prop_assert_eq!(announce.info_hash, InfoHash(bytes));
        }

        #[test]
        fn noise_never_panics(query in "\\PC*", soup in "(info_hash|peer_id|port|left|[%=&a-f0-9]){0,20}") {
            for text in [&query, &soup] {
                let _ = Announce::parse(text, SOURCE);
                let _ = parse_info_hashes(text);
            }
        }

        #[test]
        fn any_answer_is_bencode(peers: Vec<(SocketAddr, [u8; 20])>, numbers: [u32; 4], compact: bool, no_peer_id: bool) {
            let [interval, min_interval, complete, incomplete] = numbers;
            let peers: Vec<_> = peers.into_iter().map(|(addr, id)| TrackedPeer { addr, peer_id: PeerId(id) }).collect();
            let answer = Announced { interval, min_interval, complete, incomplete, peers };
            let bytes = answer.encode(&Announce { compact, no_peer_id, ..least() });
            let dict = bencode::decode(&bytes, KeyOrder::Sorted).unwrap();
            prop_assert_eq!(bencode::lookup(&dict, "complete").and_then(BRefAccess::int), Some(complete.into()));
        }
    }
}
