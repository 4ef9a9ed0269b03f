//! The node's tracker port: HTTP over TCP and BEP 15 over UDP, both on one number.
//!
//! Rule: nobody outside can make this port unusable for the others. Connections are counted in all and per address,
//! and the newest beyond the limits is turned away; a head must come in time and in bounds; who does not read is cut
//! off by the kernel; no connection lives for ever.
//!
//! One thread, the [`desk`], takes every connection and datagram and answers announces; what is none goes to the
//! [`pages`].
//!
//! Not here: what the pages say (`web`), who is in the book (`labmesh_proto::tracker`), the text of both protocols
//! (`labmesh_proto::wire`).

use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use rustix::net::sockopt;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tracing::{debug, info};

use crate::driver::Handle;
use crate::metrics::Counters;
use crate::web::{self, Mesh, Site};

pub mod answers;
pub mod book;
mod desk;
pub mod head;
mod limits;
mod pages;
pub mod probe;
mod udp;

use answers::Answers;
use desk::Desk;
use pages::Pages;

/// Connections that the kernel keeps ready for us: as many as may arrive in one tick of a boot storm.
const BACKLOG: i32 = 4096;
/// Bytes of datagrams that the kernel keeps for us: each takes some 800 of them, whatever its size, and a room of a
/// thousand that all start sends two. What is lost is asked again after 15 s only (BEP 15).
const DATAGRAMS_WAITING: usize = 4 * 1024 * 1024;
/// How long a client may leave what we sent unread or unconfirmed (TCP_USER_TIMEOUT).
const READ_WITHIN: Duration = Duration::from_secs(20);
/// How long the mind may take: an announce at a follower goes to the master and back, a torrent comes from a holder,
/// perhaps the third that is asked, and both outlast a change of master.
pub(crate) const ANSWER_WITHIN: Duration = Duration::from_secs(8);
/// What is heard when it takes longer.
pub(crate) const LATE: &str = "no answer from the mesh in time, try again";
/// How often a port free for both TCP and UDP is looked for when any will do.
const FREE_PORT_TRIES: usize = 16;

/// What this port does for whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Torrents are handed out (bttrack's `allow_get`).
    pub allow_get: bool,
    /// What may be asked by `/scrape`.
    pub scrape_allowed: ScrapeAllowed,
    /// Addresses that may announce for others.
    pub trusted_proxies: Vec<IpAddr>,
    /// Announces that one address may make in a second; 0 = as many as it likes.
    pub announces_per_address: u32,
    /// Any torrent is tracked, and may be given a name.
    pub open: bool,
    /// What lets somebody elsewhere name torrents of an open tracker; without it only this machine may.
    pub register_token: Option<Token>,
}

/// Words that prove a right. Not shown by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(pub String);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(..)")
    }
}

/// What may be asked by `/scrape` (bttrack's `scrape_allowed`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ScrapeAllowed {
    /// Nothing.
    None,
    /// The torrents that are named.
    Specific,
    /// All of them too.
    #[default]
    Full,
}

impl ScrapeAllowed {
    /// Whether named torrents may be asked for.
    ///
    /// # Errors
    /// In bttrack's words if not.
    pub fn specific(self) -> Result<(), &'static str> {
        match self {
            Self::None => Err("specific scrape function is not available with this tracker."),
            Self::Specific | Self::Full => Ok(()),
        }
    }

    /// Whether all torrents may be asked for.
    ///
    /// # Errors
    /// In bttrack's words if not.
    pub fn full(self) -> Result<(), &'static str> {
        match self {
            Self::None | Self::Specific => Err("full scrape function is not available with this tracker."),
            Self::Full => Ok(()),
        }
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            allow_get: true,
            scrape_allowed: ScrapeAllowed::Full,
            trusted_proxies: Vec::new(),
            announces_per_address: 1000,
            open: false,
            register_token: None,
        }
    }
}

/// The running tracker port.
#[derive(Debug)]
pub struct Server {
    /// Where it answers; the port that was found if 0 was asked for.
    pub addr: SocketAddr,
    /// What it counts.
    pub counters: Arc<Counters>,
    task: JoinHandle<()>,
}

impl Server {
    /// Waits until the port has shut down, at most half a second after `shutdown` of [`serve`] came true.
    pub async fn ended(self) {
        if self.task.await.is_err() {
            debug!("the tracker port ended with its runtime");
        }
    }
}

/// Opens the port and answers until `shutdown` is true. `::` takes IPv4 too, and means `0.0.0.0` where the kernel has
/// no IPv6. Port 0 takes one that is free for TCP and UDP. Must be called within a tokio runtime.
///
/// # Errors
/// If the port is taken or the address is not this machine's; the message says what to do.
pub fn serve(
    bind: IpAddr,
    port: u16,
    handle: Handle,
    mesh: Mesh,
    policy: Policy,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<Server> {
    let (http, udp) = sockets(bind, port)?;
    let addr = http.local_addr()?;
    let counters = Arc::new(Counters::default());
    let policy = Arc::new(policy);
    let (stop, stopping) = watch::channel(false);
    let site = Arc::new(Site::new(handle.clone(), mesh, policy.clone(), counters.clone(), stopping.clone()));
    let pages = Pages { router: web::router(site), counters: counters.clone(), stopping };
    let (hand_over, visitors) = mpsc::channel(limits::CONNECTIONS_MAX);
    let answers = Arc::new(Answers::new()?);
    let runtime = tokio::runtime::Handle::current();
    let desk = Desk::new(http, udp, answers.clone(), handle, counters.clone(), policy, hand_over, runtime)?;
    let (closed, close) = oneshot::channel();
    let run = move || {
        crate::io::Precedence::Second.take();
        desk.run();
        // Nobody may be waiting.
        let _ = closed.send(());
    };
    std::thread::Builder::new().name("tracker".into()).spawn(run)?;
    info!(%addr, "tracker and pages answer");
    let task = tokio::spawn(async move {
        let tell = async move {
            shutdown.await;
            answers.stop();
            stop.send_replace(true);
        };
        // The desk has no other end than this one.
        let ((), (), _) = tokio::join!(pages.serve(visitors), tell, close);
    });
    Ok(Server { addr, counters, task })
}

fn sockets(bind: IpAddr, port: u16) -> io::Result<(TcpListener, UdpSocket)> {
    let mut tries = if port == 0 { FREE_PORT_TRIES } else { 1 };
    loop {
        tries -= 1;
        let both = open(bind, port, Type::STREAM).and_then(|tcp| {
            let port = tcp.local_addr()?.as_socket().map_or(port, |addr| addr.port());
            Ok((tcp, open(bind, port, Type::DGRAM)?))
        });
        match both {
            Ok((tcp, udp)) => {
                tcp.listen(BACKLOG)?;
                // What is accepted has the options of the listener (tcp(7)).
                let options = SockRef::from(&tcp);
                options.set_tcp_nodelay(true)?;
                options.set_tcp_user_timeout(Some(READ_WITHIN))?;
                // Beyond the system's limit only root may; others get what the limit allows.
                if sockopt::set_socket_recv_buffer_size_force(&udp, DATAGRAMS_WAITING).is_err() {
                    udp.set_recv_buffer_size(DATAGRAMS_WAITING)?;
                }
                return Ok((tcp.into(), udp.into()));
            }
            Err(e) if e.kind() == io::ErrorKind::AddrInUse && tries > 0 => {}
            Err(e) => return Err(explain(e, bind, port)),
        }
    }
}

fn open(bind: IpAddr, port: u16, kind: Type) -> io::Result<Socket> {
    let any_family = bind.is_ipv6() && bind.is_unspecified();
    let protocol = if kind == Type::STREAM { Protocol::TCP } else { Protocol::UDP };
    let addr = SocketAddr::new(bind, port);
    let socket = match Socket::new(Domain::for_address(addr), kind, Some(protocol)) {
        Err(_) if any_family => return open(Ipv4Addr::UNSPECIFIED.into(), port, kind),
        socket => socket?,
    };
    socket.set_nonblocking(true)?;
    if any_family {
        socket.set_only_v6(false)?;
    }
    // A restarted node takes its port back at once; a second one is still refused.
    socket.set_reuse_address(kind == Type::STREAM)?;
    match socket.bind(&addr.into()) {
        Err(e) if any_family && e.kind() == io::ErrorKind::AddrNotAvailable => {
            open(Ipv4Addr::UNSPECIFIED.into(), port, kind)
        }
        bound => bound.map(|()| socket),
    }
}

fn explain(error: io::Error, bind: IpAddr, port: u16) -> io::Error {
    let message = match error.kind() {
        io::ErrorKind::AddrInUse => {
            format!("port {port} is taken on {bind}, perhaps by another node; choose another with --http-port")
        }
        io::ErrorKind::PermissionDenied => {
            format!("port {port} needs more rights than this program has; choose one above 1023 with --http-port")
        }
        io::ErrorKind::AddrNotAvailable => format!("{bind} is not an address of this machine; see --bind"),
        _ => format!("cannot listen on port {port} of {bind}: {error}"),
    };
    io::Error::new(error.kind(), message)
}

#[cfg(test)]
mod tests;
