//! Local service discovery (BEP 14): who in this LAN takes part in which swarm, as a datagram that looks like HTTP.
//!
//! Rule: lines that we do not know or that make no sense are passed over, as BEP 14 asks; without a port and one info
//! hash it is no announce. Not here: when one is sent, and what follows from one (`lsd`), sockets.

use std::net::{Ipv4Addr, SocketAddrV4};

use crate::config::{DATAGRAM_BYTES_MAX, LSD_DATAGRAM_BYTES_MAX};
use crate::id::InfoHash;

/// Where announces are said and heard.
pub const GROUP: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(239, 192, 152, 143), 6771);
/// What an announce begins with. Of the version only the first number matters.
const METHOD: &str = "BT-SEARCH * HTTP/1.";
/// `Infohash: ` and 40 digits and the end of the line.
const INFO_HASH_LINE: usize = 52;
/// Everything but info hashes, with the longest cookie.
const HEAD_BYTES_MAX: usize = 160;
/// Info hashes in one announce.
pub const HASHES_MAX: usize = (DATAGRAM_BYTES_MAX - HEAD_BYTES_MAX) / INFO_HASH_LINE;
/// The longest cookie that is looked at; those of other programs have 8 characters.
const COOKIE_BYTES_MAX: usize = 64;

/// One announce.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Announce {
    /// Where its sender listens for peers; never 0.
    pub port: u16,
    /// The swarms that it takes part in; at least one.
    pub info_hashes: Vec<InfoHash>,
    /// By this a sender knows its own announces.
    pub cookie: Option<String>,
}

/// The datagram is no announce.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum BadAnnounce {
    /// Longer than any may be.
    #[error("a datagram of {0} bytes")]
    TooLong(usize),
    /// Something else, or cut off.
    #[error("no BT-SEARCH with an empty line at its end")]
    Malformed,
    /// Nobody could be dialled.
    #[error("no port")]
    Port,
    /// About no swarm.
    #[error("no info hash")]
    InfoHash,
}

impl Announce {
    /// The bytes on the wire: of [`HASHES_MAX`] info hashes not more than [`DATAGRAM_BYTES_MAX`].
    pub fn encode(&self) -> Vec<u8> {
        let mut text = format!("{METHOD}1\r\nHost: {GROUP}\r\nPort: {}\r\n", self.port);
        for info_hash in self.info_hashes.iter().take(HASHES_MAX) {
            // Transmission compares with capitals.
            text.push_str(&format!("Infohash: {}\r\n", info_hash.to_string().to_ascii_uppercase()));
        }
        if let Some(cookie) = &self.cookie {
            text.push_str(&format!("cookie: {cookie}\r\n"));
        }
        text.push_str("\r\n\r\n");
        text.into_bytes()
    }

    /// Reads a datagram.
    ///
    /// # Errors
    /// If it is no announce, or one that says nothing.
    pub fn decode(datagram: &[u8]) -> Result<Self, BadAnnounce> {
        if datagram.len() > LSD_DATAGRAM_BYTES_MAX {
            return Err(BadAnnounce::TooLong(datagram.len()));
        }
        let text = std::str::from_utf8(datagram).map_err(|_| BadAnnounce::Malformed)?;
        let (head, _) = text.split_once("\r\n\r\n").ok_or(BadAnnounce::Malformed)?;
        let mut lines = head.split("\r\n");
        if !lines.next().is_some_and(|line| line.starts_with(METHOD)) {
            return Err(BadAnnounce::Malformed);
        }
        let (mut port, mut info_hashes, mut cookie) = (None, Vec::new(), None);
        for (name, value) in lines.filter_map(|line| line.split_once(':')) {
            let value = value.trim();
            match name.to_ascii_lowercase().as_str() {
                "port" => port = value.parse().ok().filter(|port| *port != 0),
                "infohash" => info_hashes.extend(value.parse::<InfoHash>()),
                "cookie" if value.len() <= COOKIE_BYTES_MAX => cookie = Some(value.to_owned()),
                _ => {}
            }
        }
        if info_hashes.is_empty() {
            return Err(BadAnnounce::InfoHash);
        }
        Ok(Self { port: port.ok_or(BadAnnounce::Port)?, info_hashes, cookie })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn announce(hashes: usize, cookie: Option<&str>) -> Announce {
        let info_hashes = (0..hashes).map(|n| InfoHash([n as u8 + 0xa0; 20])).collect();
        Announce { port: 6881, info_hashes, cookie: cookie.map(str::to_owned) }
    }

    fn decode(text: &str) -> Result<Announce, BadAnnounce> {
        Announce::decode(text.as_bytes())
    }

    #[test]
    fn an_announce_has_the_bytes_of_the_bep() {
        let text = "BT-SEARCH * HTTP/1.1\r\nHost: 239.192.152.143:6771\r\nPort: 6881\r\n\
                    Infohash: A0A0A0A0A0A0A0A0A0A0A0A0A0A0A0A0A0A0A0A0\r\ncookie: 0123456789abcdef\r\n\r\n\r\n";
        let announce = announce(1, Some("0123456789abcdef"));
        assert_eq!(String::from_utf8(announce.encode()).unwrap(), text);
        assert_eq!(decode(text), Ok(announce));
        assert!(text.len() <= 200, "Transmission 3.00 and aria2 1.36 read no more");
    }

    #[test]
    fn the_fullest_announce_fits_a_datagram() {
        let full = announce(HASHES_MAX, Some(&"c".repeat(COOKIE_BYTES_MAX)));
        let full = Announce { port: u16::MAX, ..full };
        assert!(full.encode().len() <= DATAGRAM_BYTES_MAX, "{}", full.encode().len());
        assert_eq!(Announce::decode(&full.encode()), Ok(full));
        let more = Announce::decode(&announce(HASHES_MAX + 1, None).encode());
        assert_eq!(more, Ok(announce(HASHES_MAX, None)));
    }

    #[test]
    fn what_other_programs_send_is_understood() {
        let hash = "f60ae72e07713d4f14878a5b24adb34992401ac9";
        let expected = |cookie: Option<&str>| {
            let info_hashes = vec![hash.parse().unwrap()];
            Ok(Announce { port: 51413, info_hashes, cookie: cookie.map(str::to_owned) })
        };
        // libtorrent 2.0 and Transmission 3.00.
        let lower = format!("Port: 51413\r\nInfohash: {hash}\r\ncookie: 5bd1e995\r\n\r\n\r\n");
        assert_eq!(
            decode(&format!("BT-SEARCH * HTTP/1.1\r\nHost: 239.192.152.143:6771\r\n{lower}")),
            expected(Some("5bd1e995"))
        );
        let upper = format!("Port: 51413\r\nInfohash: {}\r\n\r\n\r\n", hash.to_ascii_uppercase());
        assert_eq!(decode(&format!("BT-SEARCH * HTTP/1.1\r\nHost: 239.192.152.143:6771\r\n{upper}")), expected(None));
        // Other headers, other spelling, one empty line, an info hash of something else.
        let odd = format!("X: y\r\nPORT:51413\r\ninfohash: {hash}\r\nInfohash: abc\r\nno header\r\n\r\n");
        assert_eq!(decode(&format!("BT-SEARCH * HTTP/1.0\r\n{odd}")), expected(None));
    }

    #[test]
    fn what_is_no_announce_is_refused() {
        let hash = "Infohash: A0A0A0A0A0A0A0A0A0A0A0A0A0A0A0A0A0A0A0A0\r\n";
        let with = |port: &str| decode(&format!("BT-SEARCH * HTTP/1.1\r\n{port}{hash}\r\n"));
        for port in ["", "Port: 0\r\n", "Port: 65536\r\n", "Port: -1\r\n", "Port: x\r\n"] {
            assert_eq!(with(port), Err(BadAnnounce::Port), "{port}");
        }
        assert_eq!(decode("BT-SEARCH * HTTP/1.1\r\nPort: 1\r\n\r\n"), Err(BadAnnounce::InfoHash));
        for other in ["", "\r\n\r\n", "M-SEARCH * HTTP/1.1\r\n\r\n", "BT-SEARCH * HTTP/2\r\n\r\n"] {
            assert_eq!(decode(other), Err(BadAnnounce::Malformed), "{other}");
        }
        assert_eq!(Announce::decode(b"BT-SEARCH * HTTP/1.1\r\n\xff\r\n\r\n"), Err(BadAnnounce::Malformed));
        let long = "x".repeat(LSD_DATAGRAM_BYTES_MAX + 1);
        assert_eq!(decode(&long), Err(BadAnnounce::TooLong(long.len())));
    }

    #[test]
    fn a_cookie_that_is_too_long_is_nobodys() {
        let text = announce(1, Some(&"c".repeat(COOKIE_BYTES_MAX + 1))).encode();
        assert_eq!(Announce::decode(&text), Ok(announce(1, None)));
    }

    fn any_announce() -> impl Strategy<Value = Announce> {
        let hashes = prop::collection::vec(any::<[u8; 20]>().prop_map(InfoHash), 1..=HASHES_MAX);
        let cookie = prop::option::of("[0-9a-zA-Z-]{1,64}");
        (1..=u16::MAX, hashes, cookie).prop_map(|(port, info_hashes, cookie)| Announce { port, info_hashes, cookie })
    }

    proptest! {
        #[test]
        fn any_announce_comes_out_as_it_went_in(announce in any_announce()) {
            prop_assert_eq!(Announce::decode(&announce.encode()), Ok(announce));
        }

        #[test]
        fn no_truncation_is_an_announce(announce in any_announce()) {
            let bytes = announce.encode();
            // The second of the two empty lines is not missed.
            for end in 0..bytes.len() - 2 {
                prop_assert!(Announce::decode(&bytes[..end]).is_err());
            }
        }

        #[test]
        fn noise_never_panics(bytes: Vec<u8>, text: String) {
            let _ = Announce::decode(&bytes);
            let _ = decode(&format!("BT-SEARCH * HTTP/1.1\r\n{text}\r\n\r\n"));
        }
    }
}
