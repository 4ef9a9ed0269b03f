//! Which of the machine's addresses this node lives on.
//!
//! Rule: `--bind` and `--interface` are understood here, once. Not here: what is sent there (`mdns`, `heartbeat`).

use std::net::{IpAddr, Ipv4Addr, UdpSocket};

use if_addrs::{IfAddr, get_if_addrs};

/// Interfaces that a node speaks on; a machine with more (containers, virtual machines) names one with `--interface`.
const INTERFACES_MAX: usize = 16;

/// An address that is on nobody's network (RFC 5737).
const SOMEWHERE_ELSE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// Where a node lives on the network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Place {
    /// On every interface but loopback.
    #[default]
    Everywhere,
    /// On this address only (`--bind`); on 127.0.0.0/8 the node speaks with nodes of this machine only.
    Address(Ipv4Addr),
    /// Looks for others on this interface only (`--interface`), whatever address it has now or gets later. It still
    /// answers those who find it by another way.
    Interface(String),
}

impl Place {
    /// The address to listen on.
    pub fn listen_ip(&self) -> IpAddr {
        self.address().unwrap_or(Ipv4Addr::UNSPECIFIED).into()
    }

    /// The address that this node is bound to, if it is one.
    pub fn address(&self) -> Option<Ipv4Addr> {
        match self {
            Self::Address(ip) => Some(*ip),
            Self::Everywhere | Self::Interface(_) => None,
        }
    }

    /// Whether the node speaks with nodes of this machine only.
    pub fn is_loopback(&self) -> bool {
        self.address().is_some_and(|ip| ip.is_loopback())
    }

    /// The address that others of the lab would best use: the one bound to, else that of the default route, else the
    /// first. `None` while there is no network.
    pub fn own_address(&self) -> Option<Ipv4Addr> {
        let interfaces = self.interfaces();
        let routed = default_source().filter(|ip| interfaces.iter().any(|interface| interface.ip == *ip));
        self.address().or(routed).or(interfaces.first().map(|interface| interface.ip))
    }

    /// The interfaces of this place that have an IPv4 address now; a cable or DHCP may bring more later.
    pub fn interfaces(&self) -> Vec<Interface> {
        let all = get_if_addrs().unwrap_or_else(|error| {
            tracing::debug!(%error, "cannot list the network interfaces");
            Vec::new()
        });
        let mut found = Vec::new();
        for interface in all {
            let (IfAddr::V4(v4), Some(index)) = (interface.addr, interface.index) else { continue };
            let here = Interface { index, ip: self.address().unwrap_or(v4.ip), prefix: v4.prefixlen };
            let belongs = match self {
                Self::Everywhere => !v4.ip.is_loopback(),
                Self::Address(ip) => here.reaches(v4.ip) && (*ip == v4.ip || ip.is_loopback()),
                Self::Interface(name) => *name == interface.name,
            };
            let known = found.iter().any(|other: &Interface| other.index == index);
            if belongs && !known && found.len() < INTERFACES_MAX {
                found.push(here);
            }
        }
        found
    }
}

/// What the kernel would send from by its default route. Connecting a UDP socket asks for the route and sends nothing.
fn default_source() -> Option<Ipv4Addr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((SOMEWHERE_ELSE, 9)).ok()?;
    match socket.local_addr().ok()?.ip() {
        IpAddr::V4(ip) => Some(ip),
        IpAddr::V6(_) => None,
    }
}

/// An interface and the first of its addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interface {
    /// The kernel's number for it.
    pub index: u32,
    /// This node's address there.
    pub ip: Ipv4Addr,
    /// Bits of the network part.
    pub prefix: u8,
}

impl Interface {
    /// Whether that address is on the same network.
    pub fn reaches(&self, other: Ipv4Addr) -> bool {
        let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix.min(32))).unwrap_or(0);
        (u32::from(self.ip) ^ u32::from(other)) & mask == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_end_where_their_prefix_says() {
        #[track_caller]
        fn check(prefix: u8, other: [u8; 4], reached: bool) {
            let interface = Interface { index: 1, ip: Ipv4Addr::new(10, 1, 12, 90), prefix };
            assert_eq!(interface.reaches(other.into()), reached, "/{prefix} {other:?}");
        }
        check(24, [10, 1, 12, 1], true);
        check(24, [10, 1, 13, 1], false);
        check(32, [10, 1, 12, 90], true);
        check(32, [10, 1, 12, 91], false);
        check(0, [192, 168, 0, 1], true);
        check(255, [10, 1, 12, 91], false);
    }

    #[test]
    fn a_node_knows_its_own_address() {
        let bound = Ipv4Addr::new(127, 0, 0, 7);
        assert_eq!(Place::Address(bound).own_address(), Some(bound));
        assert_eq!(Place::Interface("no such".to_owned()).own_address(), None);
        assert_eq!(Place::Interface("lo".to_owned()).own_address(), Some(Ipv4Addr::LOCALHOST));
        let anywhere = Place::Everywhere.own_address();
        assert_eq!(anywhere.is_some(), !Place::Everywhere.interfaces().is_empty());
    }

    #[test]
    fn every_address_of_127_is_on_loopback_and_nowhere_else() {
        let places = Place::Address(Ipv4Addr::new(127, 0, 0, 7)).interfaces();
        assert_eq!(places.len(), 1, "{places:?}");
        assert_eq!(places[0].ip, Ipv4Addr::new(127, 0, 0, 7));
        assert!(Place::Everywhere.interfaces().iter().all(|i| !i.ip.is_loopback()));
        assert_eq!(Place::Interface("no such".to_owned()).interfaces(), []);
        assert_eq!(Place::Interface("lo".to_owned()).interfaces().len(), 1);
    }
}
