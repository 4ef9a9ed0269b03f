//! Peer exchange (BEP 11): whom a peer is connected with, as an extension message (BEP 10).
//!
//! Rule: what makes no sense is left out, and of a list that is longer than BEP 11 allows the beginning is taken. Not
//! here: the frame around it (`wire::peer`), whom to tell and whom to believe (`swarm`).

use std::net::{IpAddr, SocketAddr};

use bip_bencode::BRefAccess;

use crate::config::PEX_PEERS_MAX;
use crate::wire::bencode::{self, KeyOrder};
use crate::wire::http_tracker::put_compact;
use crate::wire::tracker_client::{compact4, compact6};

/// It has every piece.
pub const SEED: u8 = 0x02;
/// The sender has connected to it, so its port is open.
pub const REACHABLE: u8 = 0x10;

/// One message.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Pex {
    /// Where peers listen that the sender is connected with now, with their flags ([`SEED`], [`REACHABLE`]).
    pub added: Vec<(SocketAddr, u8)>,
    /// Those that it is not connected with any more.
    pub dropped: Vec<SocketAddr>,
}

impl Pex {
    /// The bencoded dictionary.
    pub fn encode(&self) -> Vec<u8> {
        let (mut added, mut flags) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
        for (addr, flag) in self.added.iter().take(PEX_PEERS_MAX) {
            put_compact(&mut added[family(addr)], *addr);
            flags[family(addr)].push(*flag);
        }
        let mut dropped = [Vec::new(), Vec::new()];
        for addr in self.dropped.iter().take(PEX_PEERS_MAX) {
            put_compact(&mut dropped[family(addr)], *addr);
        }
        let mut out = Vec::new();
        bencode::write_dict(&mut out, |dict| {
            dict.bytes(b"added", &added[0]);
            dict.bytes(b"added.f", &flags[0]);
            dict.bytes(b"added6", &added[1]);
            dict.bytes(b"added6.f", &flags[1]);
            dict.bytes(b"dropped", &dropped[0]);
            dict.bytes(b"dropped6", &dropped[1]);
        });
        out
    }

    /// Reads a dictionary; `None` if it is none.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let dict = bencode::decode(bytes, KeyOrder::Any).ok()?;
        dict.dict()?;
        let of = |key| bencode::lookup(&dict, key).and_then(BRefAccess::bytes).unwrap_or_default();
        let (flags4, flags6) = (of("added.f"), of("added6.f"));
        let flagged = |flags: &[u8], at: usize, addr| (addr, flags.get(at).copied().unwrap_or_default());
        let v4 = compact4(of("added")).enumerate().map(|(at, addr)| flagged(flags4, at, addr));
        let v6 = compact6(of("added6")).enumerate().map(|(at, addr)| flagged(flags6, at, addr));
        let dropped = compact4(of("dropped")).chain(compact6(of("dropped6")));
        Some(Self {
            added: v4.chain(v6).filter(|(addr, _)| addr.port() != 0).take(PEX_PEERS_MAX).collect(),
            dropped: dropped.take(PEX_PEERS_MAX).collect(),
        })
    }
}

/// 0 for IPv4, 1 for IPv6.
fn family(addr: &SocketAddr) -> usize {
    usize::from(matches!(addr.ip().to_canonical(), IpAddr::V6(_)))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_message_has_the_bytes_of_the_bep() {
        let v4 = |n| SocketAddr::from(([10, 0, 0, n], 0x1ae1));
        let v6 = SocketAddr::new(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1).into(), 0x1ae1);
        let pex = Pex { added: vec![(v4(1), SEED), (v4(2), 0), (v6, REACHABLE)], dropped: vec![v4(3)] };
        let ip6 = b"\xfd\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\x1a\xe1";
        let parts: [&[u8]; 5] = [
            b"d5:added12:\x0a\0\0\x01\x1a\xe1\x0a\0\0\x02\x1a\xe17:added.f2:\x02\0",
            b"6:added618:",
            ip6,
            b"8:added6.f1:\x10",
            b"7:dropped6:\x0a\0\0\x03\x1a\xe18:dropped60:e",
        ];
        assert_eq!(pex.encode().escape_ascii().to_string(), parts.concat().escape_ascii().to_string());
        assert_eq!(Pex::decode(&parts.concat()), Some(pex));
    }

    #[test]
    fn what_makes_no_sense_is_left_out() {
        assert_eq!(Pex::decode(b"de"), Some(Pex::default()));
        assert_eq!(Pex::decode(b"d5:addedi3e7:added.fl1:xee"), Some(Pex::default()));
        // Half an address, port 0, flags of nobody.
        assert_eq!(Pex::decode(b"d5:added9:\x0a\0\0\x01\0\0\x0a\0\x007:added.f3:\x01\x02\x03e"), Some(Pex::default()));
        let bare = Pex::decode(b"d5:added6:\x0a\0\0\x01\x1a\xe1e").unwrap();
        assert_eq!(bare.added, [(([10, 0, 0, 1], 6881).into(), 0)]);
        for bad in ["", "i1e", "le", "d", "d5:added"] {
            assert_eq!(Pex::decode(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn more_than_the_bep_allows_is_cut() {
        let addrs = (1..=200).map(|n| SocketAddr::from(([10, 0, 0, n], 6881)));
        let pex = Pex { added: addrs.clone().map(|addr| (addr, 0)).collect(), dropped: addrs.collect() };
        let read = Pex::decode(&pex.encode()).unwrap();
        assert_eq!((read.added.len(), read.dropped.len()), (PEX_PEERS_MAX, PEX_PEERS_MAX));
        assert_eq!(read.added[..], pex.added[..PEX_PEERS_MAX]);
        let many = [b"d5:added600:".to_vec(), [10, 0, 0, 1, 26, 225].repeat(100), b"e".to_vec()].concat();
        assert_eq!(Pex::decode(&many).unwrap().added.len(), PEX_PEERS_MAX);
    }

    fn any_addr(v6: bool) -> impl Strategy<Value = SocketAddr> {
        (any::<[u8; 4]>(), 1..=u16::MAX).prop_map(move |(ip, port)| match v6 {
            true => SocketAddr::new(Ipv6Addr::from([0xfd00_u16, 0, 0, 0, 0, 0, 0, u16::from(ip[0])]).into(), port),
            false => SocketAddr::from((ip, port)),
        })
    }

    fn any_pex() -> impl Strategy<Value = Pex> {
        let added = |v6| prop::collection::vec((any_addr(v6), any::<u8>()), 0..25);
        let dropped = |v6| prop::collection::vec(any_addr(v6), 0..25);
        (added(false), added(true), dropped(false), dropped(true)).prop_map(|(a4, a6, d4, d6)| Pex {
            added: a4.into_iter().chain(a6).collect(),
            dropped: d4.into_iter().chain(d6).collect(),
        })
    }

    proptest! {
        #[test]
        fn any_message_comes_out_as_it_went_in(pex in any_pex()) {
            prop_assert_eq!(Pex::decode(&pex.encode()), Some(pex));
        }

        #[test]
        fn no_truncation_is_a_message(pex in any_pex()) {
            let bytes = pex.encode();
            for end in 0..bytes.len() {
                prop_assert_eq!(Pex::decode(&bytes[..end]), None);
            }
        }

        #[test]
        fn noise_never_panics(bytes: Vec<u8>) {
            let _ = Pex::decode(&bytes);
            let _ = Pex::decode(&[&b"d5:added"[..], &bytes].concat());
        }
    }
}
