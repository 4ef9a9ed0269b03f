//! The control plane: messages between nodes over libp2p.
//!
//! Rule: a connection stands only between nodes of one mesh (name and key are bound into the handshake), `from` is
//! who signed or who holds the connection, and every dial is answered. What is said to one node may overtake other
//! things said to it, since every message has a stream of its own. Not here: who is dialled and what is said
//! (`proto`).
//!
//! The swarm is polled by the driver through [`Control::next`]: a call takes effect at once, and a driver that is busy
//! slows the other side down instead of filling a queue.

mod codec;
mod greeters;
mod join;
mod tcp;

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::Either;
use labmesh_proto::config::{CONTROL_BYTES_MAX, GOSSIP_BYTES_MAX, NODES_MAX, PROTOCOL_VERSION};
use labmesh_proto::id::NodeId;
use labmesh_proto::io::Input;
use labmesh_proto::wire::control::Message;
use libp2p::connection_limits::{self, ConnectionLimits};
use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::Boxed;
use libp2p::core::upgrade::Version;
use libp2p::gossipsub::{self, IdentTopic, IdentityTransform, MessageAcceptance, WhitelistSubscriptionFilter};
use libp2p::request_response::{self, OutboundRequestId, ProtocolSupport};
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{ConnectionId, DialError, NetworkBehaviour, SwarmEvent};
use libp2p::{PeerId, StreamProtocol, Swarm, Transport, noise, pnet, yamux};

pub use self::join::{BadJoin, CONTROL_PORT, parse_join};

use self::codec::Codec;
use self::greeters::Greeters;
use self::tcp::{Tcp, multiaddr, socket_addr};
use super::identity::{self, Identity, MeshKey};

/// From the first packet to a connection that can carry messages: five round trips of a saturated link.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(4);
/// A message that is not acknowledged by then is lost; a torrent at its limit takes 0.1 s at 1 Gbit/s.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Two sides that dial each other at once make two connections, and as many dead ones may not be noticed yet.
const CONNECTIONS_PER_NODE: u32 = 4;
/// A master holds one connection per follower.
const CONNECTIONS_MAX: u32 = NODES_MAX as u32;
/// Incoming connections whose handshake is under way: a room that greets at once. Beyond, the oldest makes room.
const GREETERS_MAX: usize = 256;
/// Dials under way: a master that looks for a whole room, and no flood.
const DIALS_MAX: u32 = 256;
/// Messages to one node that wait for their acknowledgement; more are dropped, since that node does not listen.
const IN_FLIGHT_PER_NODE: usize = 48;
/// Bytes that wait for an acknowledgement, of all nodes together. A new master's roster for a thousand nodes does not
/// fit at once; who misses it asks for it.
const IN_FLIGHT_BYTES: usize = 64 * 1024 * 1024;
/// Messages of one connection under way, both ways, so that ours leave room for theirs.
const STREAMS_PER_CONNECTION: usize = 2 * IN_FLIGHT_PER_NODE + 32;
/// And gossip's, two each way and as many that are just being replaced.
const STREAMS_MAX: usize = 2 * STREAMS_PER_CONNECTION + 8;
/// A gossip message with gossipsub's envelope: author, key, signature, topic.
const GOSSIP_PACKET_BYTES: usize = GOSSIP_BYTES_MAX + 4096;
/// How often gossip repairs its links. Whoever speaks says it to all its connections anyway, and others pass it on.
const GOSSIP_HEARTBEAT: Duration = Duration::from_secs(1);
/// Neighbours to whom a node passes gossip on: at least, usually, at most. Each is another copy to unpack and verify.
const GOSSIP_MESH: [usize; 3] = [3, 4, 6];
/// Gossip that waits for one connection longer than this is old news.
const GOSSIP_QUEUE_TIME: Duration = Duration::from_secs(1);
/// Gossip that waits for one connection: a few seconds of the busiest mesh.
const GOSSIP_QUEUE: usize = 64;
/// How long gossip takes to reach the sockets, which nobody reports.
const GOSSIP_SETTLE: Duration = Duration::from_millis(30);
/// Never: a control connection is closed by a decision only.
const IDLE_TIMEOUT: Duration = Duration::from_secs(u64::MAX);

/// Why there is no control plane.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Somebody listens there.
    #[error("port {0} is taken (by another program or another labmesh); choose another with --control-port")]
    PortTaken(u16),
    /// The address is not ours.
    #[error("this machine has no address {0}; choose another with --bind")]
    NoSuchAddress(std::net::IpAddr),
    /// The kernel said no.
    #[error("cannot listen on {addr}: {error}")]
    Listen {
        /// Where.
        addr: SocketAddr,
        /// What it said.
        error: io::Error,
    },
    /// libp2p said no.
    #[error("cannot start the control plane: {0}")]
    Setup(#[source] Box<dyn Error + Send + Sync>),
}

#[derive(NetworkBehaviour)]
struct Behaviour {
    // First, so that a connection over the limit never reaches the others.
    limits: connection_limits::Behaviour,
    gossip: gossipsub::Behaviour<IdentityTransform, WhitelistSubscriptionFilter>,
    messages: request_response::Behaviour<Codec>,
}

/// The control plane of one node.
pub struct Control {
    swarm: Swarm<Behaviour>,
    identity: Arc<Identity>,
    mesh: MeshKey,
    topic: IdentTopic,
    local: SocketAddr,
    links: BTreeMap<NodeId, Link>,
    dials: BTreeMap<ConnectionId, (Option<NodeId>, SocketAddr)>,
    in_flight: BTreeMap<OutboundRequestId, (NodeId, usize)>,
    in_flight_bytes: usize,
    /// What happened within a call; never more than the calls since the last [`Control::next`].
    happened: VecDeque<Input>,
}

/// The connections with one node that were not hung up, oldest first; never without one.
#[derive(Default)]
struct Link {
    connections: Vec<Connection>,
    in_flight: usize,
}

#[derive(Clone, Copy)]
struct Connection {
    id: ConnectionId,
    outgoing: bool,
    addr: SocketAddr,
}

impl Control {
    /// Listens on `addr`; port 0 lets the kernel choose.
    ///
    /// Must be called on a tokio runtime, which must run as long as the control plane is used.
    ///
    /// # Errors
    /// If the address cannot be listened on.
    pub fn start(addr: SocketAddr, identity: Arc<Identity>, mesh: MeshKey) -> Result<Self, ControlError> {
        Self::start_with_limit(addr, identity, mesh, CONTROL_BYTES_MAX)
    }

    fn start_with_limit(
        addr: SocketAddr,
        identity: Arc<Identity>,
        mesh: MeshKey,
        limit: usize,
    ) -> Result<Self, ControlError> {
        let tcp = Tcp::bind(addr).map_err(|error| match error.kind() {
            io::ErrorKind::AddrInUse => ControlError::PortTaken(addr.port()),
            io::ErrorKind::AddrNotAvailable => ControlError::NoSuchAddress(addr.ip()),
            _ => ControlError::Listen { addr, error },
        })?;
        let local = tcp.local();
        let topic = IdentTopic::new(format!("labmesh/{PROTOCOL_VERSION}/{}", mesh.tag_hex()));
        let transport = transport(tcp, &identity, &mesh).map_err(ControlError::Setup)?;
        let behaviour = behaviour(&identity, &topic, limit).map_err(ControlError::Setup)?;
        let config = libp2p::swarm::Config::with_tokio_executor()
            .with_idle_connection_timeout(IDLE_TIMEOUT)
            // One protocol per kind of stream, so nothing is to be negotiated: a round trip less for every message.
            .with_substream_upgrade_protocol_override(Version::V1Lazy);
        let mut swarm = Swarm::new(transport, behaviour, identity.keypair().public().to_peer_id(), config);
        swarm.listen_on(multiaddr(local)).map_err(|error| ControlError::Setup(error.into()))?;
        Ok(Self {
            swarm,
            identity,
            mesh,
            topic,
            local,
            links: BTreeMap::new(),
            dials: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            in_flight_bytes: 0,
            happened: VecDeque::new(),
        })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Waits for the next thing to happen. Nothing is lost if the wait is given up.
    pub async fn next(&mut self) -> Input {
        loop {
            if let Some(input) = self.happened.pop_front() {
                return input;
            }
            let event = self.swarm.select_next_some().await;
            if let Some(input) = self.understand(event) {
                return input;
            }
        }
    }

    /// Opens a connection, if none was dialled to that address that still stands. Answered by one `ControlUp`, which
    /// says who it is even if the node is known to be connected, or one `ControlUnreachable`.
    pub fn dial(&mut self, node: Option<NodeId>, addr: SocketAddr) {
        let stands = |c: &Connection| c.outgoing && c.addr == addr;
        let connected = self.links.iter().find(|(_, link)| link.connections.iter().any(stands)).map(|(id, _)| *id);
        if let Some(connected) = connected.filter(|id| node.is_none_or(|node| node == *id)) {
            self.happened.push_back(Input::ControlUp { node: connected, addr: addr.ip() });
            return;
        }
        let opts = match node.map(identity::peer_id) {
            Some(None) => return self.unreachable(node, addr, false),
            Some(Some(peer)) => DialOpts::peer_id(peer)
                .condition(PeerCondition::Always)
                .addresses(vec![multiaddr(addr)])
                .allocate_new_port()
                .build(),
            None => DialOpts::unknown_peer_id().address(multiaddr(addr)).allocate_new_port().build(),
        };
        let id = opts.connection_id();
        match self.swarm.dial(opts) {
            Ok(()) => {
                self.dials.insert(id, (node, addr));
            }
            Err(error) => {
                tracing::debug!(%addr, %error, "not dialled");
                self.unreachable(node, addr, is_refusal(&error));
            }
        }
    }

    /// Closes the connections with a node. `ControlDown` follows at once, whatever the network does, and a connection
    /// that is dialled from now on is a new one.
    pub fn hangup(&mut self, node: NodeId) {
        let Some(link) = self.links.remove(&node) else { return };
        for connection in link.connections {
            self.swarm.close_connection(connection.id);
        }
        self.happened.push_back(Input::ControlDown { node });
    }

    /// Says it to one node; a heartbeat of our own inside is signed. Dropped if there is no connection or that node has
    /// too much unread.
    pub fn send(&mut self, to: NodeId, mut message: Message) {
        let peer = identity::peer_id(to).filter(|peer| self.swarm.is_connected(peer));
        let (Some(peer), Some(link)) = (peer, self.links.get_mut(&to)) else {
            tracing::trace!(?to, "not connected, message dropped");
            return;
        };
        self.identity.sign_message(&self.mesh, &mut message);
        let bytes: Arc<[u8]> = message.encode().into();
        let length = bytes.len();
        if length > CONTROL_BYTES_MAX {
            tracing::error!(?to, length, limit = CONTROL_BYTES_MAX, "message too large, not sent");
            return;
        }
        if link.in_flight >= IN_FLIGHT_PER_NODE || self.in_flight_bytes + length > IN_FLIGHT_BYTES {
            tracing::debug!(?to, length, "too much unacknowledged, message dropped");
            return;
        }
        link.in_flight += 1;
        self.in_flight_bytes += length;
        let id = self.swarm.behaviour_mut().messages.send_request(&peer, bytes);
        self.in_flight.insert(id, (to, length));
    }

    /// Says it to everybody; a heartbeat of our own inside is signed. Lost if nobody is connected.
    pub fn gossip(&mut self, mut message: Message) {
        self.identity.sign_message(&self.mesh, &mut message);
        let bytes = message.encode();
        if bytes.len() > GOSSIP_BYTES_MAX {
            tracing::error!(length = bytes.len(), limit = GOSSIP_BYTES_MAX, "message too large for gossip, not sent");
            return;
        }
        if let Err(error) = self.swarm.behaviour_mut().gossip.publish(self.topic.clone(), bytes) {
            tracing::trace!(%error, "gossip not sent");
        }
    }

    /// Before the end: goes on until what was said is acknowledged or lost, at most `limit`. What happens meanwhile
    /// is dropped.
    pub async fn flush(&mut self, limit: Duration) {
        let settled = tokio::time::sleep(GOSSIP_SETTLE.min(limit));
        let flushed = async {
            tokio::pin!(settled);
            while !self.in_flight.is_empty() || !settled.is_elapsed() {
                tokio::select! {
                    () = &mut settled, if !settled.is_elapsed() => {}
                    event = self.swarm.select_next_some() => {
                        self.understand(event);
                    }
                }
            }
        };
        if tokio::time::timeout(limit, flushed).await.is_err() {
            tracing::debug!(unacknowledged = self.in_flight.len(), "not everything was said");
        }
    }

    fn unreachable(&mut self, node: Option<NodeId>, addr: SocketAddr, refused: bool) {
        self.happened.push_back(Input::ControlUnreachable { node, addr, refused });
    }

    fn understand(&mut self, event: SwarmEvent<BehaviourEvent>) -> Option<Input> {
        match event {
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => {
                self.dials.remove(&connection_id);
                let addr = socket_addr(endpoint.get_remote_address())?;
                self.connected(peer_id, Connection { id: connection_id, outgoing: endpoint.is_dialer(), addr })
            }
            SwarmEvent::ConnectionClosed { peer_id, connection_id, cause, .. } => {
                tracing::debug!(%peer_id, ?cause, "control connection closed");
                self.disconnected(peer_id, connection_id)
            }
            SwarmEvent::OutgoingConnectionError { connection_id, error, .. } => {
                let (node, addr) = self.dials.remove(&connection_id)?;
                let refused = is_refusal(&error);
                tracing::debug!(?node, %addr, refused, %error, "dial failed");
                Some(Input::ControlUnreachable { node, addr, refused })
            }
            SwarmEvent::IncomingConnectionError { send_back_addr, error, .. } => {
                tracing::debug!(from = %send_back_addr, %error, "incoming control connection refused");
                None
            }
            SwarmEvent::ListenerError { error, .. } => {
                tracing::warn!(%error, "cannot accept control connections");
                None
            }
            SwarmEvent::Behaviour(BehaviourEvent::Messages(event)) => self.understand_message(event),
            SwarmEvent::Behaviour(BehaviourEvent::Gossip(gossipsub::Event::Message {
                propagation_source,
                message_id,
                message,
            })) => {
                let heard = self.authentic(message.source, &message.data);
                let verdict = if heard.is_some() { MessageAcceptance::Accept } else { MessageAcceptance::Reject };
                let gossip = &mut self.swarm.behaviour_mut().gossip;
                gossip.report_message_validation_result(&message_id, &propagation_source, verdict);
                heard
            }
            _ => None,
        }
    }

    fn connected(&mut self, peer: PeerId, connection: Connection) -> Option<Input> {
        let Some(node) = identity::node_id(&peer) else {
            tracing::debug!(%peer, "not a labmesh node");
            self.swarm.close_connection(connection.id);
            return None;
        };
        let link = self.links.entry(node).or_default();
        if connection.outgoing && link.connections.iter().any(|other| other.outgoing) {
            // We dialled twice, perhaps two addresses of one machine: the first is as good.
            self.swarm.close_connection(connection.id);
        } else {
            link.connections.push(connection);
        }
        let news = connection.outgoing || link.connections.len() == 1;
        news.then_some(Input::ControlUp { node, addr: connection.addr.ip() })
    }

    fn disconnected(&mut self, peer: PeerId, connection: ConnectionId) -> Option<Input> {
        let node = identity::node_id(&peer)?;
        let link = self.links.get_mut(&node)?;
        link.connections.retain(|other| other.id != connection);
        if !link.connections.is_empty() {
            return None;
        }
        self.links.remove(&node);
        Some(Input::ControlDown { node })
    }

    /// Whether the connection was not hung up. If it is an incoming one, older incoming ones end: that node speaks on a
    /// second connection only if it has lost the first, and half of what we say would go there.
    fn is_in_use(&mut self, node: NodeId, connection: ConnectionId) -> bool {
        let Some(link) = self.links.get_mut(&node) else { return false };
        let Some(at) = link.connections.iter().position(|c| c.id == connection) else { return false };
        if !link.connections[at].outgoing {
            let newer = link.connections.split_off(at);
            for lost in link.connections.extract_if(.., |c| !c.outgoing) {
                self.swarm.close_connection(lost.id);
            }
            link.connections.extend(newer);
        }
        true
    }

    fn understand_message(&mut self, event: request_response::Event<Arc<[u8]>, ()>) -> Option<Input> {
        match event {
            request_response::Event::Message { peer, connection_id, message } => match message {
                request_response::Message::Request { request, channel, .. } => {
                    let node = identity::node_id(&peer)?;
                    if !self.is_in_use(node, connection_id) {
                        return None;
                    }
                    // A channel that is dropped closes the stream, which the other side sees as a refusal.
                    let heard = self.authentic(Some(peer), &request)?;
                    // Fails if the asker is gone; the message counts all the same.
                    let _ = self.swarm.behaviour_mut().messages.send_response(channel, ());
                    Some(heard)
                }
                request_response::Message::Response { request_id, .. } => {
                    self.settle(request_id);
                    None
                }
            },
            request_response::Event::OutboundFailure { request_id, error, .. } => {
                if let Some((to, length)) = self.settle(request_id) {
                    tracing::debug!(?to, length, %error, "message lost");
                }
                None
            }
            request_response::Event::InboundFailure { peer, error, .. } => {
                tracing::debug!(%peer, %error, "message refused");
                None
            }
            request_response::Event::ResponseSent { .. } => None,
        }
    }

    /// A message is no longer in flight.
    fn settle(&mut self, id: OutboundRequestId) -> Option<(NodeId, usize)> {
        let (to, length) = self.in_flight.remove(&id)?;
        self.in_flight_bytes -= length;
        if let Some(link) = self.links.get_mut(&to) {
            link.in_flight = link.in_flight.saturating_sub(1);
        }
        Some((to, length))
    }

    /// The message of an author that is proven, if it can be read and what it relays is genuine.
    fn authentic(&self, author: Option<PeerId>, bytes: &[u8]) -> Option<Input> {
        let from = identity::node_id(&author?)?;
        let mut message = match Message::decode(bytes) {
            Ok(message) => message,
            Err(error) => {
                tracing::debug!(?from, %error, "unreadable message refused");
                return None;
            }
        };
        if !self.mesh.verify_message(&mut message) {
            tracing::debug!(?from, "message with a forged heartbeat refused");
            return None;
        }
        Some(Input::Control { from, message: Box::new(message) })
    }
}

type AnyError = Box<dyn Error + Send + Sync>;

/// TCP, under the mesh's key if it has one, then Noise and Yamux.
fn transport(tcp: Tcp, identity: &Identity, mesh: &MeshKey) -> Result<Boxed<(PeerId, StreamMuxerBox)>, AnyError> {
    let preshared = mesh.preshared().map(pnet::PreSharedKey::new);
    let keyed = tcp.and_then(move |stream, _| async move {
        match preshared {
            Some(key) => match pnet::PnetConfig::new(key).handshake(stream).await {
                Ok(stream) => Ok(Either::Left(stream)),
                Err(error) => Err(io::Error::other(error)),
            },
            None => Ok(Either::Right(stream)),
        }
    });
    // Bound to the mesh, so that nodes of another one, keyed or not, do not get through the handshake.
    let noise = noise::Config::new(&identity.keypair())?.with_prologue(mesh.prefix().to_vec());
    let mut yamux = yamux::Config::default();
    yamux.set_max_num_streams(STREAMS_MAX);
    let secure = keyed.upgrade(Version::V1Lazy).authenticate(noise).multiplex(yamux);
    Ok(Greeters::new(secure.timeout(CONNECT_TIMEOUT).boxed(), GREETERS_MAX).boxed())
}

fn behaviour(identity: &Identity, topic: &IdentTopic, limit: usize) -> Result<Behaviour, AnyError> {
    let limits = ConnectionLimits::default()
        .with_max_pending_outgoing(Some(DIALS_MAX))
        .with_max_established_per_peer(Some(CONNECTIONS_PER_NODE))
        .with_max_established(Some(CONNECTIONS_MAX));

    let config = gossipsub::ConfigBuilder::default()
        .protocol_id("/labmesh/gossip", gossipsub::Version::V1_1)
        .validation_mode(gossipsub::ValidationMode::Strict)
        .validate_messages()
        .heartbeat_initial_delay(GOSSIP_HEARTBEAT / 10)
        .heartbeat_interval(GOSSIP_HEARTBEAT)
        .mesh_n_low(GOSSIP_MESH[0])
        .mesh_n(GOSSIP_MESH[1])
        .mesh_n_high(GOSSIP_MESH[2])
        // No lists of what was said, for others to ask for: the next heartbeat is sooner and newer.
        .gossip_lazy(0)
        .gossip_factor(0.0)
        .max_transmit_size(GOSSIP_PACKET_BYTES)
        .flood_publish(true)
        .connection_handler_queue_len(GOSSIP_QUEUE)
        .publish_queue_duration(GOSSIP_QUEUE_TIME)
        .forward_queue_duration(GOSSIP_QUEUE_TIME)
        .build()?;
    let only_ours = WhitelistSubscriptionFilter(HashSet::from([topic.hash()]));
    let author = gossipsub::MessageAuthenticity::Signed(identity.keypair());
    let mut gossip = gossipsub::Behaviour::new_with_subscription_filter(author, config, only_ours)?;
    gossip.subscribe(topic)?;

    let config = request_response::Config::default()
        .with_request_timeout(REQUEST_TIMEOUT)
        .with_max_concurrent_streams(STREAMS_PER_CONNECTION);
    let protocol = [(StreamProtocol::new("/labmesh/control"), ProtocolSupport::Full)];
    let messages = request_response::Behaviour::with_codec(Codec::new(limit), protocol, config);

    Ok(Behaviour { limits: connection_limits::Behaviour::new(limits), gossip, messages })
}

/// Whether the other machine said that nobody listens there.
fn is_refusal(error: &DialError) -> bool {
    let DialError::Transport(tries) = error else { return false };
    tries.iter().any(|(_, error)| is_refused(error))
}

fn is_refused(error: &(dyn Error + 'static)) -> bool {
    let io_error = error.downcast_ref::<io::Error>();
    io_error.is_some_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
        // An `io::Error` skips the error that it wraps when asked for its source.
        || io_error.and_then(io::Error::get_ref).is_some_and(|inner| is_refused(inner))
        || error.source().is_some_and(is_refused)
}

#[cfg(test)]
mod tests;
