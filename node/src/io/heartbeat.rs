//! Heartbeats: small signed datagrams, to each follower and as a beacon to everybody.
//!
//! Rule: what is reported bears a good signature of this mesh, and a flood of anything else costs little: length,
//! mesh tag and a budget per source come before the one expensive step. Not here: when a heartbeat is sent and what
//! it means (`proto`'s `election`).

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use labmesh_proto::config::PROTOCOL_VERSION;
use labmesh_proto::io::Input;
use labmesh_proto::wire::control::{Beat, Message};
use socket2::SockRef;
use tokio::net::UdpSocket;
use tokio::task::AbortHandle;
use tokio::time::{MissedTickBehavior, interval};

use super::identity::{Identity, MeshKey};
use super::interfaces::Place;
use super::multicast::{self, Memberships};
use super::{Event, Events};

/// Where the beacon is heard: administratively scoped (RFC 2365: 239.255.0.0/16 stays within the site), so that no
/// router passes it on even if its TTL let it.
pub const BEACON_GROUP: Ipv4Addr = Ipv4Addr::new(239, 255, 70, 70);
/// One port for all nodes, whatever their control ports are.
pub const BEACON_PORT: u16 = 6971;
/// The beacon stays on its link.
const BEACON_TTL: u32 = 1;
/// What a datagram begins with: whose it is, which version, which mesh.
const MAGIC: [u8; 2] = *b"LM";
const HEADER_BYTES: usize = 2 + 2 + 8;
/// A beat in MessagePack is under 200 bytes.
const DATAGRAM_BYTES_MAX: usize = 512;
/// Budgets are for this long; interfaces are looked at every few of them.
const WINDOW: Duration = Duration::from_secs(1);
/// A cable, DHCP or Wi-Fi that comes late is used within this many windows.
const LOOK_EVERY: u32 = 3;
/// Before the next try on a socket that failed.
const AFTER_ERROR: Duration = Duration::from_millis(50);
/// Datagrams of one source that are verified in a window: three times a master's ten beats and beacon.
const PER_SOURCE: u32 = 33;
/// Datagrams of all sources that proved nothing yet: at 60 us each, well under a tenth of a core.
const STRANGERS: u32 = 500;
/// Sources that sent a genuine heartbeat lately and have a budget of their own.
const KNOWN_MAX: usize = 64;
/// Windows that a known source is remembered.
const KNOWN_FOR: u32 = 10;

/// Why there are no heartbeats.
#[derive(Debug, thiserror::Error)]
pub enum HeartbeatError {
    /// Somebody has it.
    #[error("UDP port {0} is taken (by another program or another labmesh); choose another with --control-port")]
    PortTaken(u16),
    /// The kernel said no.
    #[error("cannot receive heartbeats on {addr}: {error}")]
    Socket {
        /// Where.
        addr: SocketAddr,
        /// What it said.
        error: io::Error,
    },
}

/// What became of datagrams.
#[derive(Debug, Default)]
pub struct Counters {
    /// Handed to the kernel.
    pub sent: AtomicU64,
    /// Refused by the kernel: no route, no buffer.
    pub unsent: AtomicU64,
    /// Genuine heartbeats that were reported.
    pub heard: AtomicU64,
    /// Of another mesh or version, malformed, or with a bad signature.
    pub foreign: AtomicU64,
    /// Dropped unseen because their source had used up its budget.
    pub over_budget: AtomicU64,
}

/// The heartbeat sockets of one node.
#[derive(Debug)]
pub struct Heartbeat {
    identity: Arc<Identity>,
    mesh: MeshKey,
    place: Place,
    unicast: Arc<UdpSocket>,
    counters: Arc<Counters>,
    receivers: [AbortHandle; 2],
}

impl Heartbeat {
    /// Listens on the place's address and `port` (UDP), and for beacons on every interface of the place, now or when
    /// it comes.
    ///
    /// Must be called on a tokio runtime.
    ///
    /// # Errors
    /// If the port is taken or the address is not ours.
    pub fn start(
        place: &Place,
        port: u16,
        identity: Arc<Identity>,
        mesh: MeshKey,
        events: Events,
    ) -> Result<Self, HeartbeatError> {
        let addr = SocketAddr::new(place.listen_ip(), port);
        let unicast = Arc::new(unicast_socket(addr).map_err(|error| match error.kind() {
            io::ErrorKind::AddrInUse => HeartbeatError::PortTaken(port),
            _ => HeartbeatError::Socket { addr, error },
        })?);
        let beacon_addr = SocketAddrV4::new(BEACON_GROUP, BEACON_PORT);
        let beacon = multicast::socket(beacon_addr)
            .map_err(|error| HeartbeatError::Socket { addr: beacon_addr.into(), error })?;

        let counters = Arc::new(Counters::default());
        let ear = Ear {
            own: identity.node_id(),
            mesh: mesh.clone(),
            events,
            counters: Arc::clone(&counters),
            budget: Budget::default(),
        };
        let members = Memberships::new(place.clone(), BEACON_GROUP);
        let receivers = [
            tokio::spawn(receive(Arc::clone(&unicast), ear.clone(), None)).abort_handle(),
            tokio::spawn(receive(Arc::new(beacon), ear, Some(members))).abort_handle(),
        ];
        Ok(Self { identity, mesh, place: place.clone(), unicast, counters, receivers })
    }

    /// What became of datagrams so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Signs a heartbeat once and sends it to each. A full or absent network drops it; the next one follows soon.
    pub fn send_beat(&self, to: &[SocketAddr], mut beat: Beat) {
        self.identity.sign_beat(&self.mesh, &mut beat);
        let datagram = datagram(&self.mesh, beat);
        for addr in to {
            self.send(&datagram, *addr);
        }
    }

    /// Signs a heartbeat and multicasts it on every interface of the place.
    pub fn send_beacon(&self, mut beat: Beat) {
        self.identity.sign_beat(&self.mesh, &mut beat);
        let datagram = datagram(&self.mesh, beat);
        for interface in self.place.interfaces() {
            if let Err(error) = SockRef::from(&*self.unicast).set_multicast_if_v4(&interface.ip) {
                tracing::trace!(ip = %interface.ip, %error, "no beacon on this interface");
                continue;
            }
            self.send(&datagram, SocketAddr::from((BEACON_GROUP, BEACON_PORT)));
        }
    }

    fn send(&self, datagram: &[u8], to: SocketAddr) {
        // Straight to the kernel: tokio would refuse until its poll has seen the socket writable.
        let sent = SockRef::from(&*self.unicast).send_to(datagram, &to.into());
        let counter = if sent.is_ok() { &self.counters.sent } else { &self.counters.unsent };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        self.receivers.iter().for_each(AbortHandle::abort);
    }
}

fn datagram(mesh: &MeshKey, beat: Beat) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(DATAGRAM_BYTES_MAX);
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&PROTOCOL_VERSION.to_be_bytes());
    bytes.extend_from_slice(&mesh.tag());
    bytes.extend_from_slice(&Message::Beat(beat).encode());
    bytes
}

/// The beat of a datagram with the header of our mesh; who signed it is not looked at.
pub fn parse(mesh: &MeshKey, datagram: &[u8]) -> Option<Beat> {
    let body = datagram.strip_prefix(&MAGIC)?.strip_prefix(&PROTOCOL_VERSION.to_be_bytes())?;
    match Message::decode(body.strip_prefix(&mesh.tag())?).ok()? {
        Message::Beat(beat) => Some(beat),
        _ => None,
    }
}

fn unicast_socket(addr: SocketAddr) -> io::Result<UdpSocket> {
    let socket = std::net::UdpSocket::bind(addr)?;
    socket.set_nonblocking(true)?;
    socket.set_multicast_ttl_v4(BEACON_TTL)?;
    // Other nodes of this machine hear the beacon too.
    socket.set_multicast_loop_v4(true)?;
    UdpSocket::from_std(socket)
}

/// What both receivers need to judge a datagram.
#[derive(Clone)]
struct Ear {
    own: labmesh_proto::id::NodeId,
    mesh: MeshKey,
    events: Events,
    counters: Arc<Counters>,
    budget: Budget,
}

impl Ear {
    fn judge(&mut self, from: SocketAddr, datagram: &[u8]) -> Option<Beat> {
        // Fewer bytes than that are no beat, more are cut by the buffer: neither is worth a look.
        if !(HEADER_BYTES + 1..=DATAGRAM_BYTES_MAX).contains(&datagram.len()) {
            self.counters.foreign.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        let Some(beat) = parse(&self.mesh, datagram) else {
            self.counters.foreign.fetch_add(1, Ordering::Relaxed);
            return None;
        };
        if beat.epoch.node == self.own {
            return None;
        }
        if !self.budget.spend(from.ip()) {
            self.counters.over_budget.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        if !self.mesh.verify_beat(&beat) {
            self.counters.foreign.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        self.budget.proved(from.ip());
        self.counters.heard.fetch_add(1, Ordering::Relaxed);
        Some(beat)
    }
}

async fn receive(socket: Arc<UdpSocket>, mut ear: Ear, mut members: Option<Memberships>) {
    let mut buffer = [0; DATAGRAM_BYTES_MAX + 1];
    let mut windows = interval(WINDOW);
    windows.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut until_look = 0;
    loop {
        tokio::select! {
            received = socket.recv_from(&mut buffer) => {
                let (length, from) = match received {
                    Ok(received) => received,
                    // The network went down, or the like; a socket that says so again and again must not spin.
                    Err(error) => {
                        tracing::debug!(%error, "cannot receive heartbeats");
                        tokio::time::sleep(AFTER_ERROR).await;
                        continue;
                    }
                };
                let Some(beat) = ear.judge(from, &buffer[..length]) else { continue };
                if ear.events.send(Event::Input(Input::Beat { from, beat: Box::new(beat) })).await.is_err() {
                    return;
                }
            }
            _ = windows.tick() => {
                ear.budget.new_window();
                if until_look == 0 {
                    until_look = LOOK_EVERY;
                    if let Some(members) = &mut members {
                        members.look(&socket);
                    }
                }
                until_look -= 1;
            }
        }
    }
}

/// How many datagrams of whom are still verified in this window.
#[derive(Clone, Default)]
struct Budget {
    spent: BTreeMap<IpAddr, u32>,
    strangers: u32,
    known: BTreeMap<IpAddr, u32>,
}

impl Budget {
    fn spend(&mut self, source: IpAddr) -> bool {
        if !self.known.contains_key(&source) {
            // Bounds the table as well: every stranger in it has spent at least one.
            if self.strangers >= STRANGERS {
                return false;
            }
            self.strangers += 1;
        }
        let spent = self.spent.entry(source).or_default();
        *spent += 1;
        *spent <= PER_SOURCE
    }

    fn proved(&mut self, source: IpAddr) {
        if self.known.len() < KNOWN_MAX || self.known.contains_key(&source) {
            self.known.insert(source, KNOWN_FOR);
        }
    }

    fn new_window(&mut self) {
        self.spent.clear();
        self.strangers = 0;
        self.known.retain(|_, windows| {
            *windows -= 1;
            *windows > 0
        });
    }
}

#[cfg(test)]
mod tests {
    use labmesh_proto::id::Epoch;
    use labmesh_proto::wire::control::Signature;
    use tempfile::{TempDir, tempdir};
    use tokio::sync::mpsc;
    use tokio::time::timeout;

    use super::*;

    struct Node {
        heartbeat: Heartbeat,
        inbox: mpsc::Receiver<Event>,
        _state: TempDir,
    }

    fn start(n: u8, mesh: &MeshKey) -> Node {
        let state = tempdir().unwrap();
        let identity = Arc::new(Identity::load_or_create(state.path()).unwrap());
        let (events, inbox) = mpsc::channel(64);
        let place = Place::Address(Ipv4Addr::new(127, 0, 0, n));
        let heartbeat = Heartbeat::start(&place, 0, identity, mesh.clone(), events).unwrap();
        Node { heartbeat, inbox, _state: state }
    }

    /// Tests that run at the same time, perhaps by somebody else on this machine, must not meet.
    fn mesh(test: &str) -> MeshKey {
        MeshKey::new(&format!("{test}-{}", std::process::id()), None)
    }

    impl Node {
        fn addr(&self) -> SocketAddr {
            self.heartbeat.unicast.local_addr().unwrap()
        }

        fn beat(&self, seq: u64) -> Beat {
            Beat {
                epoch: Epoch { term: 7, node: self.heartbeat.identity.node_id() },
                seq,
                members: 3,
                solo: false,
                control_port: self.addr().port(),
                roster: 2,
                catalogue: 3,
                signature: Signature::default(),
            }
        }

        async fn hears(&mut self) -> (SocketAddr, u64) {
            match timeout(Duration::from_secs(20), self.inbox.recv()).await.expect("nothing heard") {
                Some(Event::Input(Input::Beat { from, beat })) => (from, beat.seq),
                other => panic!("{other:?}"),
            }
        }

        fn counter(&self, pick: impl Fn(&Counters) -> &AtomicU64) -> u64 {
            pick(self.heartbeat.counters()).load(Ordering::Relaxed)
        }
    }

    #[tokio::test]
    async fn a_beat_reaches_every_follower() {
        let mesh = mesh("beat");
        let master = start(31, &mesh);
        let mut followers = [start(32, &mesh), start(33, &mesh)];
        let to: Vec<_> = followers.iter().map(Node::addr).collect();
        master.heartbeat.send_beat(&to, master.beat(5));
        for follower in &mut followers {
            assert_eq!(follower.hears().await, (master.addr(), 5));
        }
        assert_eq!(master.counter(|c| &c.sent), 2);
    }

    #[tokio::test]
    async fn the_beacon_is_heard_by_every_node_of_the_mesh_and_nobody_else() {
        let mesh_key = mesh("beacon");
        let master = start(41, &mesh_key);
        let mut others: Vec<_> = (42..=45).map(|n| start(n, &mesh_key)).collect();
        let mut stranger = start(46, &mesh("beacon of others"));
        // The group is joined by the receivers' first tick; until then nobody listens.
        let mut seq = 0;
        for other in &mut others {
            let heard = loop {
                seq += 1;
                master.heartbeat.send_beacon(master.beat(seq));
                if let Ok(event) = timeout(Duration::from_millis(100), other.inbox.recv()).await {
                    break event;
                }
                assert!(seq < 200, "the beacon is not heard");
            };
            let Some(Event::Input(Input::Beat { from, .. })) = heard else { panic!("{heard:?}") };
            assert_eq!(from, master.addr());
        }
        // The stranger's own beat arrives, so the beacons before it were dropped.
        let companion = start(47, &mesh("beacon of others"));
        companion.heartbeat.send_beat(&[stranger.addr()], companion.beat(1));
        assert_eq!(stranger.hears().await, (companion.addr(), 1));
    }

    #[tokio::test]
    async fn forged_foreign_and_senseless_datagrams_are_dropped() {
        let mesh_key = mesh("forged");
        let mut node = start(51, &mesh_key);
        let friend = start(52, &mesh_key);
        let signed = |mesh: &MeshKey, beat: Beat| {
            let mut beat = beat;
            friend.heartbeat.identity.sign_beat(mesh, &mut beat);
            beat
        };
        let good = signed(&mesh_key, friend.beat(1));
        let mut version = datagram(&mesh_key, good);
        version[3] ^= 1;
        let mut tag = datagram(&mesh_key, good);
        tag[5] ^= 1;
        let bad = [
            Vec::new(),
            b"LM".to_vec(),
            vec![0; DATAGRAM_BYTES_MAX + 1],
            vec![0xc1; 100],
            datagram(&mesh_key, good)[..HEADER_BYTES].to_vec(),
            datagram(&mesh_key, good)[..100].to_vec(),
            version,
            tag,
            datagram(&mesh_key, friend.beat(2)),
            datagram(&mesh_key, Beat { seq: 3, ..good }),
            // A key whose signature is good in another mesh, under our tag.
            datagram(&mesh_key, signed(&mesh("other"), friend.beat(4))),
        ];
        for datagram in &bad {
            friend.heartbeat.unicast.send_to(datagram, node.addr()).await.unwrap();
        }
        friend.heartbeat.unicast.send_to(&datagram(&mesh_key, good), node.addr()).await.unwrap();
        assert_eq!(node.hears().await, (friend.addr(), 1));
        assert_eq!(node.counter(|c| &c.foreign), bad.len() as u64);
        assert_eq!(node.counter(|c| &c.heard), 1);
    }

    #[tokio::test]
    async fn a_taken_port_is_a_clear_error() {
        let mesh = mesh("taken");
        let node = start(61, &mesh);
        let state = tempdir().unwrap();
        let identity = Arc::new(Identity::load_or_create(state.path()).unwrap());
        let (events, _inbox) = mpsc::channel(1);
        let place = Place::Address(Ipv4Addr::new(127, 0, 0, 61));
        let error = Heartbeat::start(&place, node.addr().port(), identity, mesh, events).unwrap_err();
        assert!(error.to_string().contains("--control-port"), "{error}");
    }

    #[tokio::test]
    async fn a_node_without_network_starts_all_the_same() {
        let state = tempdir().unwrap();
        let identity = Arc::new(Identity::load_or_create(state.path()).unwrap());
        let (events, _inbox) = mpsc::channel(1);
        let place = Place::Interface("not plugged in".to_owned());
        let heartbeat = Heartbeat::start(&place, 0, identity, mesh("alone"), events).unwrap();
        assert_eq!(place.interfaces(), []);
        drop(heartbeat);
    }

    #[test]
    fn strangers_cannot_use_up_the_budget_of_a_known_master() {
        let mut budget = Budget::default();
        let master = IpAddr::from([10, 0, 0, 1]);
        assert!(budget.spend(master));
        budget.proved(master);
        for n in 0..2 * STRANGERS {
            let [.., a, b] = n.to_be_bytes();
            assert_eq!(budget.spend(IpAddr::from([9, 9, a, b])), n + 1 < STRANGERS, "stranger {n}");
        }
        assert!(budget.spent.len() <= STRANGERS as usize + KNOWN_MAX);
        assert!(budget.spend(master));
        budget.new_window();
        assert_eq!((0..2 * PER_SOURCE).filter(|_| budget.spend(master)).count(), PER_SOURCE as usize);
        for _ in 0..KNOWN_FOR {
            budget.new_window();
        }
        assert!(budget.known.is_empty() && budget.spent.is_empty());
    }
}
