//! Local service discovery (BEP 14): one multicast group that all BitTorrent clients of a LAN share.
//!
//! Rule: what is reported is an announce that came from a network that this node is on; a flood costs little. Not here:
//! when an announce is said, and what one means (`proto`'s `lsd`).

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use labmesh_proto::config::LSD_DATAGRAM_BYTES_MAX;
use labmesh_proto::io::Input;
use labmesh_proto::wire::lsd::{Announce, GROUP};
use socket2::SockRef;
use tokio::net::UdpSocket;
use tokio::task::AbortHandle;
use tokio::time::{MissedTickBehavior, interval};

use super::interfaces::Place;
use super::multicast::{self, Memberships};
use super::{Event, Events};

/// Announces stay on their link.
const TTL: u32 = 1;
/// Interfaces are looked at this often, and the budget is for this long.
const WINDOW: Duration = Duration::from_secs(3);
/// Datagrams that are read in a window: a lab of 300 clients that all start now. Of the others nothing is lost, since
/// they announce again.
const PER_WINDOW: u32 = 300;
/// Before the next try on a socket that failed.
const AFTER_ERROR: Duration = Duration::from_millis(50);

/// The socket of one node.
#[derive(Debug)]
pub struct Lsd {
    place: Place,
    socket: Arc<UdpSocket>,
    receiver: AbortHandle,
}

impl Lsd {
    /// Listens on every interface of the place, now or when it comes.
    ///
    /// Must be called on a tokio runtime.
    ///
    /// # Errors
    /// If the port is taken by a program that does not share it.
    pub fn start(place: &Place, events: Events) -> io::Result<Self> {
        let socket = Arc::new(multicast::socket(GROUP)?);
        SockRef::from(&*socket).set_multicast_ttl_v4(TTL)?;
        // Other clients of this machine hear it too.
        SockRef::from(&*socket).set_multicast_loop_v4(true)?;
        let members = Memberships::new(place.clone(), *GROUP.ip());
        let receiver = tokio::spawn(receive(Arc::clone(&socket), members, events)).abort_handle();
        Ok(Self { place: place.clone(), socket, receiver })
    }

    /// Multicasts it on every interface of the place. A full or absent network drops it.
    pub fn announce(&self, announce: &Announce) {
        let (datagram, socket) = (announce.encode(), SockRef::from(&*self.socket));
        for interface in self.place.interfaces() {
            let sent = socket.set_multicast_if_v4(&interface.ip);
            let sent = sent.and_then(|()| socket.send_to(&datagram, &SocketAddr::from(GROUP).into()));
            if let Err(error) = sent {
                tracing::debug!(ip = %interface.ip, %error, "cannot announce locally");
            }
        }
    }
}

impl Drop for Lsd {
    fn drop(&mut self) {
        self.receiver.abort();
    }
}

async fn receive(socket: Arc<UdpSocket>, members: Memberships, events: Events) {
    let mut buffer = [0; LSD_DATAGRAM_BYTES_MAX + 1];
    let mut windows = interval(WINDOW);
    windows.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut ear = Ear { members, budget: PER_WINDOW };
    loop {
        tokio::select! {
            received = socket.recv_from(&mut buffer) => {
                let (length, from) = match received {
                    Ok((length, from)) => (length, from.ip()),
                    // The network went down, or the like; a socket that says so again and again must not spin.
                    Err(error) => {
                        tracing::debug!(%error, "cannot receive local announces");
                        tokio::time::sleep(AFTER_ERROR).await;
                        continue;
                    }
                };
                let Some(announce) = ear.judge(from, &buffer[..length]) else { continue };
                if events.send(Event::Input(Input::LocalAnnounce { from, announce })).await.is_err() {
                    return;
                }
            }
            _ = windows.tick() => {
                ear.budget = PER_WINDOW;
                ear.members.look(&socket);
            }
        }
    }
}

/// What it takes to judge a datagram.
struct Ear {
    members: Memberships,
    /// Datagrams that are still read in this window.
    budget: u32,
}

impl Ear {
    fn judge(&mut self, from: IpAddr, datagram: &[u8]) -> Option<Announce> {
        if self.budget == 0 || !self.is_near(from) {
            return None;
        }
        self.budget -= 1;
        Announce::decode(datagram).inspect_err(|error| tracing::trace!(%from, %error, "not a local announce")).ok()
    }

    /// Whether that address is on a network of this node: a forged source elsewhere would have it dial a third party.
    fn is_near(&self, from: IpAddr) -> bool {
        let IpAddr::V4(from) = from else { return false };
        self.members.joined().iter().any(|interface| interface.reaches(from))
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use labmesh_proto::id::InfoHash;
    use tokio::sync::mpsc;
    use tokio::time::timeout;

    use super::*;

    fn start(n: u8) -> (Lsd, mpsc::Receiver<Event>) {
        let (events, inbox) = mpsc::channel(64);
        (Lsd::start(&Place::Address(Ipv4Addr::new(127, 0, 0, n)), events).unwrap(), inbox)
    }

    /// Several hear it, and what is no announce before it does no harm. Others on this machine may announce too.
    #[tokio::test]
    async fn an_announce_is_heard_by_everybody_with_the_address_that_it_came_from() {
        let (mouth, mut own) = start(71);
        let (_ear, mut inbox) = start(72);
        let info_hashes = vec![InfoHash([7; 20])];
        let cookie = Some(format!("test-{}", std::process::id()));
        let announce = Announce { port: 6881, info_hashes, cookie };
        for inbox in [&mut own, &mut inbox] {
            // The group is joined by the receivers' first tick; until then nobody listens.
            let mut tries = 0;
            loop {
                let noise = SockRef::from(&*mouth.socket).send_to(b"BT-SEARCH", &SocketAddr::from(GROUP).into());
                assert!(noise.is_ok());
                mouth.announce(&announce);
                match timeout(Duration::from_millis(100), inbox.recv()).await {
                    Ok(Some(Event::Input(Input::LocalAnnounce { from, announce: heard }))) if heard == announce => {
                        assert_eq!(from, IpAddr::from([127, 0, 0, 71]));
                        break;
                    }
                    Ok(Some(Event::Input(Input::LocalAnnounce { .. }))) | Err(_) => {}
                    other => panic!("{other:?}"),
                }
                tries += 1;
                assert!(tries < 200, "the announce is not heard");
            }
        }
    }

    #[tokio::test]
    async fn a_flood_and_strangers_from_elsewhere_are_not_reported() {
        let announce = Announce { port: 1, info_hashes: vec![InfoHash([7; 20])], cookie: None };
        let datagram = announce.encode();
        let mut members = Memberships::new(Place::Address(Ipv4Addr::new(127, 0, 0, 73)), *GROUP.ip());
        members.look(&multicast::socket(GROUP).unwrap());
        let mut ear = Ear { members, budget: 3 };
        assert_eq!(ear.judge([10, 0, 0, 1].into(), &datagram), None);
        assert_eq!(ear.judge("::1".parse().unwrap(), &datagram), None);
        let near = IpAddr::from([127, 0, 0, 1]);
        assert_eq!(ear.judge(near, b"noise"), None);
        assert_eq!(ear.judge(near, &datagram), Some(announce.clone()));
        assert_eq!(ear.judge(near, &datagram), Some(announce));
        assert_eq!(ear.judge(near, &datagram), None, "the budget has ended");
    }
}
