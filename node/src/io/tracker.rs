//! The node's tracker port: HTTP over TCP and BEP 15 over UDP, both on one number.
//!
//! Rule: nobody outside can make this port unusable for the others. Connections are counted in all and per address,
//! and the newest beyond the limits is turned away; a head must come in time and in bounds; who does not read is cut
//! off by the kernel; no connection lives for ever.
//!
//! Not here: what the pages say (`web`), who is in the book (`labmesh_proto::tracker`), the text of both protocols
//! (`labmesh_proto::wire`).

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tracing::{debug, info};

use crate::driver::Handle;
use crate::metrics::Counters;
use crate::web::{self, Mesh, ReachedAt, Site};

mod udp;

/// Connections at once: a room of 300 that all start, three times over, and far below a usual limit of open files.
const CONNECTIONS_MAX: usize = 1000;
/// Connections at once of one address, so that one machine cannot take all of them.
const CONNECTIONS_PER_ADDRESS_MAX: usize = 250;
/// Connections that the kernel keeps ready for us: as many as may arrive in one tick of a boot storm.
const BACKLOG: i32 = 4096;
/// A request's head: a scrape of a hundred images has 7 KiB.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// How long a head may take, and how long a connection may idle between two requests. The tests are less patient.
const HEAD_WITHIN: Duration = Duration::from_secs(if cfg!(test) { 2 } else { 10 });
/// How long a client may leave what we sent unread or unconfirmed (TCP_USER_TIMEOUT).
const READ_WITHIN: Duration = Duration::from_secs(20);
/// After this a connection gets its present answer and is closed: an announcing client comes once in 30 s.
const CONNECTION_AGE_MAX: Duration = Duration::from_secs(300);
/// How long that last answer may take.
const LAST_ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// How long answers may take when the node ends.
const GOODBYE_WITHIN: Duration = Duration::from_millis(500);
/// Rest after an `accept` that failed, usually for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How often a port free for both TCP and UDP is looked for when any will do.
const FREE_PORT_TRIES: usize = 16;
/// What a client too many hears.
const TURNED_AWAY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 2\r\n\
    Content-Type: text/plain\r\nContent-Length: 40\r\n\r\ntoo many connections, try another node.\n";

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
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<Server> {
    let (http, udp) = sockets(bind, port)?;
    let addr = http.local_addr()?;
    let counters = Arc::new(Counters::default());
    let (stop, stopping) = watch::channel(false);
    let site = Arc::new(Site::new(handle.clone(), mesh, counters.clone(), stopping.clone()));
    let pages = Pages { router: web::router(site), counters: counters.clone(), stopping: stopping.clone() };
    let datagrams = udp::Server::new(udp, handle, counters.clone());
    info!(%addr, "tracker and pages answer");
    let task = tokio::spawn(async move {
        let tell = async move {
            shutdown.await;
            stop.send_replace(true);
        };
        tokio::join!(accept(http, pages), datagrams.run(stopping), tell);
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
                return Ok((TcpListener::from_std(tcp.into())?, UdpSocket::from_std(udp.into())?));
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

/// What every connection needs.
#[derive(Clone)]
struct Pages {
    router: Router,
    counters: Arc<Counters>,
    stopping: watch::Receiver<bool>,
}

async fn accept(listener: TcpListener, mut pages: Pages) {
    let seats = Arc::new(Seats::default());
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
            _ = pages.stopping.wait_for(|stop| *stop) => break,
        };
        match accepted {
            Ok((stream, client)) => match Seats::take(&seats, client.ip().to_canonical()) {
                Some(seat) => {
                    pages.counters.http_connections.add_one();
                    connections.spawn(connection(stream, client, seat, pages.clone()));
                }
                None => {
                    pages.counters.http_refused.add_one();
                    turn_away(&stream);
                }
            },
            Err(error) => {
                debug!(%error, "cannot take an HTTP connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    if tokio::time::timeout(GOODBYE_WITHIN, async { while connections.join_next().await.is_some() {} }).await.is_err() {
        connections.abort_all();
    }
}

/// Says why, if the kernel takes it at once.
fn turn_away(stream: &TcpStream) {
    if let Err(error) = stream.try_write(TURNED_AWAY) {
        debug!(%error, "cannot tell a client that it is one too many");
    }
}

async fn connection(stream: TcpStream, client: SocketAddr, _seat: Seat, mut pages: Pages) {
    let options = SockRef::from(&stream);
    let prepared = options.set_tcp_nodelay(true).and_then(|()| options.set_tcp_user_timeout(Some(READ_WITHIN)));
    let (Ok(()), Ok(reached_at)) = (prepared, stream.local_addr()) else { return };
    let reached_at = ReachedAt(canonical(reached_at));
    let counters = pages.counters;
    let router = TowerToHyperService::new(pages.router);
    let service = service_fn(move |mut request: Request<Incoming>| {
        counters.http_requests.add_one();
        request.extensions_mut().insert(ConnectInfo(client));
        request.extensions_mut().insert(reached_at);
        router.call(request)
    });
    let mut http = http1::Builder::new();
    // Some clients close their half once they have asked.
    http.half_close(true);
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_WITHIN).max_buf_size(HEAD_BYTES_MAX);
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = old_or(&mut pages.stopping) => {
            connection.as_mut().graceful_shutdown();
            tokio::time::timeout(LAST_ANSWER_WITHIN, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        debug!(%client, %error, "an HTTP connection ended");
    }
}

/// Until the connection has lived long enough, or the node ends.
async fn old_or(stopping: &mut watch::Receiver<bool>) {
    tokio::select! {
        () = tokio::time::sleep(CONNECTION_AGE_MAX) => {}
        _ = stopping.wait_for(|stop| *stop) => {}
    }
}

/// IPv4 as IPv4, also where one socket serves both.
fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

/// Who holds how many connections. As many entries as connections at most.
#[derive(Debug, Default)]
struct Seats(Mutex<Taken>);

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    by_address: BTreeMap<IpAddr, usize>,
}

/// One connection's place, free again when dropped.
#[derive(Debug)]
struct Seat {
    seats: Arc<Seats>,
    address: IpAddr,
}

impl Seats {
    fn take(seats: &Arc<Self>, address: IpAddr) -> Option<Seat> {
        let mut taken = seats.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_address = taken.by_address.get(&address).copied().unwrap_or(0);
        if taken.all >= CONNECTIONS_MAX || of_address >= CONNECTIONS_PER_ADDRESS_MAX {
            return None;
        }
        taken.all += 1;
        taken.by_address.insert(address, of_address + 1);
        Some(Seat { seats: seats.clone(), address })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.0.lock().unwrap_or_else(PoisonError::into_inner);
        taken.all -= 1;
        match taken.by_address.get_mut(&self.address) {
            Some(n) if *n > 1 => *n -= 1,
            _ => drop(taken.by_address.remove(&self.address)),
        }
    }
}

#[cfg(test)]
mod tests;
