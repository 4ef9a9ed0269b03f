//! UDP multicast over IPv4 on the interfaces of a place, those that come and go included.
//!
//! Rule: a group is joined on every interface of the place and on no other. Not here: what is said (`heartbeat`, `lsd`).

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};

use socket2::{Domain, InterfaceIndexOrAddress, Protocol, SockRef, Socket, Type};
use tokio::net::UdpSocket;

use super::interfaces::{Interface, Place};

/// A socket that can hear a group, once it has joined.
///
/// # Errors
/// If the port is taken by a program that does not share it.
pub fn socket(group: SocketAddrV4) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    // Several programs of one machine share the port; each gets every datagram.
    socket.set_reuse_address(true)?;
    // Otherwise it would also hear what other sockets of this machine have joined on other interfaces.
    socket.set_multicast_all_v4(false)?;
    socket.set_nonblocking(true)?;
    socket.bind(&group.into())?;
    UdpSocket::from_std(socket.into())
}

/// The interfaces on which a socket has joined its group.
#[derive(Debug)]
pub struct Memberships {
    place: Place,
    group: Ipv4Addr,
    joined: Vec<Interface>,
}

impl Memberships {
    /// None yet.
    pub fn new(place: Place, group: Ipv4Addr) -> Self {
        Self { place, group, joined: Vec::new() }
    }

    /// Where it has joined.
    pub fn joined(&self) -> &[Interface] {
        &self.joined
    }

    /// Joins where it can and has not. An interface that lost or changed its address is left first, since the kernel
    /// forgets groups with the last address of an interface.
    pub fn look(&mut self, socket: &UdpSocket) {
        let (socket, group) = (SockRef::from(socket), self.group);
        let present = self.place.interfaces();
        self.joined.retain(|interface| {
            let stays = present.contains(interface);
            if !stays {
                // Fails if the interface itself is gone, and the membership with it.
                let _ = socket.leave_multicast_v4_n(&group, &InterfaceIndexOrAddress::Index(interface.index));
            }
            stays
        });
        for interface in present {
            if self.joined.contains(&interface) {
                continue;
            }
            match socket.join_multicast_v4_n(&group, &InterfaceIndexOrAddress::Index(interface.index)) {
                Ok(()) => {
                    tracing::debug!(ip = %interface.ip, %group, "listening to a multicast group");
                    self.joined.push(interface);
                }
                Err(error) => tracing::trace!(ip = %interface.ip, %group, %error, "not on this interface"),
            }
        }
    }
}
