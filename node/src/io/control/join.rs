//! The addresses that people give to `--join`.
//!
//! Rule: what is accepted is an address and a port, and perhaps who is expected there. Not here: when it is dialled
//! (`proto`'s `discovery`).

use std::net::{IpAddr, SocketAddr};

use labmesh_proto::id::NodeId;
use libp2p::Multiaddr;
use libp2p::core::multiaddr::Protocol;

use super::tcp;
use crate::io::identity;

/// Where the control plane listens unless told otherwise.
pub const CONTROL_PORT: u16 = 6970;

/// A text that is no address of a node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "cannot join {text:?}: {reason} (expected 10.1.12.90, 10.1.12.90:6970 or /ip4/10.1.12.90/tcp/6970, \
     optionally with /p2p/ID)"
)]
pub struct BadJoin {
    text: String,
    reason: &'static str,
}

/// Reads an address for `--join`: an IP address with or without a port, or a libp2p multiaddress.
///
/// # Errors
/// If it is neither, names no host or port, or expects a node that cannot be one of labmesh.
pub fn parse_join(text: &str) -> Result<(Option<NodeId>, SocketAddr), BadJoin> {
    let (node, addr) = match text.strip_prefix('/') {
        Some(_) => parse_multiaddr(text),
        None => parse_plain(text).map(|addr| (None, addr)),
    }
    .and_then(|(node, addr)| match addr {
        _ if addr.ip().is_unspecified() || addr.ip().is_multicast() => Err("that is not the address of one machine"),
        _ if addr.port() == 0 => Err("port 0 is nobody's"),
        _ => Ok((node, addr)),
    })
    .map_err(|reason| BadJoin { text: text.to_owned(), reason })?;
    Ok((node, addr))
}

fn parse_plain(text: &str) -> Result<SocketAddr, &'static str> {
    let bare = |_| text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, CONTROL_PORT));
    text.parse::<SocketAddr>().or_else(bare).map_err(|_| "that is no IP address")
}

fn parse_multiaddr(text: &str) -> Result<(Option<NodeId>, SocketAddr), &'static str> {
    let whole: Multiaddr = text.parse().map_err(|_| "that is no multiaddress")?;
    let addr = tcp::socket_addr(&whole).ok_or("it does not begin with /ip4/ADDRESS/tcp/PORT")?;
    let mut rest = whole.iter().skip(2);
    let node = match rest.next() {
        None => None,
        Some(Protocol::P2p(peer)) => Some(identity::node_id(&peer).ok_or("no labmesh node has that id")?),
        Some(_) => return Err("only /p2p/ID may follow the port"),
    };
    match rest.next() {
        None => Ok((node, addr)),
        Some(_) => Err("nothing may follow the id"),
    }
}

#[cfg(test)]
mod tests {
    use libp2p::identity::Keypair;

    use super::*;

    #[test]
    fn people_and_libp2p_write_addresses_in_their_ways() {
        #[track_caller]
        fn check(text: &str, addr: &str) {
            assert_eq!(parse_join(text), Ok((None, addr.parse().unwrap())));
        }
        check("10.1.12.90", "10.1.12.90:6970");
        check("10.1.12.90:7000", "10.1.12.90:7000");
        check("/ip4/10.1.12.90/tcp/6970", "10.1.12.90:6970");
        check("fd00::1", "[fd00::1]:6970");
        check("[fd00::1]:7", "[fd00::1]:7");
        check("/ip6/fd00::1/tcp/7", "[fd00::1]:7");
    }

    #[test]
    fn a_node_may_be_expected() {
        let peer = Keypair::generate_ed25519().public().to_peer_id();
        let expected = (identity::node_id(&peer), "127.0.0.2:6970".parse().unwrap());
        assert!(expected.0.is_some());
        assert_eq!(parse_join(&format!("/ip4/127.0.0.2/tcp/6970/p2p/{peer}")), Ok(expected));
    }

    #[test]
    fn everything_else_is_refused_in_words() {
        let hashed = "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N";
        for bad in [
            "",
            "/",
            "pc07",
            "10.1.12",
            "10.1.12.90:",
            "10.1.12.90:99999",
            "10.1.12.90:0",
            "0.0.0.0",
            "224.0.0.1",
            "/ip4/10.1.12.90",
            "/ip4/10.1.12.90/udp/6970",
            "/ip4/10.1.12.90/tcp/0",
            "/dns4/pc07/tcp/6970",
            "/ip4/10.1.12.90/tcp/6970/ws",
            &format!("/ip4/10.1.12.90/tcp/6970/p2p/{hashed}"),
            &format!("/ip4/10.1.12.90/tcp/6970/p2p/{}/tcp/1", Keypair::generate_ed25519().public().to_peer_id()),
        ] {
            let error = parse_join(bad).unwrap_err().to_string();
            assert!(error.starts_with("cannot join") && error.contains("expected"), "{error}");
        }
    }
}
