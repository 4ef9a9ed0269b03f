//! TCP for the control plane.
//!
//! Rule: the listener shares its port with nobody, dials leave from the address this node is bound to, and a
//! connection whose other side is gone ends within [`DEAD_AFTER`]. That is what libp2p's own TCP transport cannot do:
//! it sets SO_REUSEPORT, binds no address and knows neither keep-alive nor a user timeout. Not here: encryption and
//! streams, which libp2p puts on top.

use std::future::{Ready, ready};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt, TryFutureExt};
use libp2p::core::multiaddr::Protocol;
use libp2p::core::transport::{DialOpts, ListenerId, TransportError, TransportEvent};
use libp2p::tcp::tokio::TcpStream;
use libp2p::{Multiaddr, Transport};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpSocket};
use tokio::time::Sleep;

/// What a listener keeps waiting: a roomful of nodes greeting a new master at once.
const BACKLOG: u32 = 1024;
/// After this long without an acknowledgement a connection is dead. A lapsed lease hangs up much earlier; this is for
/// nodes that nobody watches, and longer than any queue of a saturated link.
const DEAD_AFTER: Duration = Duration::from_secs(10);
/// An idle connection asks after the other side this often.
const KEEPALIVE: Duration = Duration::from_secs(10);
/// Between tries to accept when the process is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// What the kernel said. Its own type, because libp2p's wrappers pass over the error that they wrap when they are asked
/// for the source, and "connection refused" must be found again.
#[derive(Debug, thiserror::Error)]
#[error("TCP: {0}")]
pub(super) struct TcpError(#[from] io::Error);

/// The one listener of a node, and its dials.
pub(super) struct Tcp {
    listener: TcpListener,
    local: SocketAddr,
    /// Set once libp2p has asked to listen; `true` = it was not told yet that we do.
    listening: Option<(ListenerId, bool)>,
    paused: Option<Pin<Box<Sleep>>>,
}

impl Tcp {
    /// Binds the listener.
    pub(super) fn bind(addr: SocketAddr) -> io::Result<Self> {
        let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        // On Linux this allows a port with old connections, not one with a listener.
        socket.set_reuseaddr(true)?;
        socket.bind(addr)?;
        let listener = socket.listen(BACKLOG)?;
        let local = listener.local_addr()?;
        Ok(Self { listener, local, listening: None, paused: None })
    }

    /// Where it listens, with the port that the kernel chose if 0 was asked for.
    pub(super) fn local(&self) -> SocketAddr {
        self.local
    }

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<(TcpStream, SocketAddr, SocketAddr)>> {
        if let Some(pause) = &mut self.paused {
            std::task::ready!(pause.poll_unpin(cx));
            self.paused = None;
        }
        let accepted = std::task::ready!(self.listener.poll_accept(cx));
        let accepted = accepted.and_then(|(stream, remote)| {
            prepare(&stream)?;
            Ok((stream.local_addr()?, remote, TcpStream(stream)))
        });
        Poll::Ready(match accepted {
            Ok((local, remote, stream)) => Ok((stream, local, remote)),
            Err(error) => {
                self.paused = Some(Box::pin(tokio::time::sleep(ACCEPT_PAUSE)));
                Err(error)
            }
        })
    }
}

impl Transport for Tcp {
    type Output = TcpStream;
    type Error = TcpError;
    type ListenerUpgrade = Ready<Result<TcpStream, TcpError>>;
    type Dial = BoxFuture<'static, Result<TcpStream, TcpError>>;

    fn listen_on(&mut self, id: ListenerId, addr: Multiaddr) -> Result<(), TransportError<TcpError>> {
        if self.listening.is_some() || socket_addr(&addr) != Some(self.local) {
            return Err(TransportError::MultiaddrNotSupported(addr));
        }
        self.listening = Some((id, true));
        Ok(())
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.listening.take_if(|(listening, _)| *listening == id).is_some()
    }

    fn dial(&mut self, addr: Multiaddr, _: DialOpts) -> Result<Self::Dial, TransportError<TcpError>> {
        let target = socket_addr(&addr).filter(|to| to.port() != 0 && !to.ip().is_unspecified());
        let target = target.ok_or(TransportError::MultiaddrNotSupported(addr))?;
        let from = Some(self.local.ip()).filter(|ip| !ip.is_unspecified() && ip.is_ipv4() == target.is_ipv4());
        Ok(connect(from, target).err_into().boxed())
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<TransportEvent<Self::ListenerUpgrade, TcpError>> {
        let local = self.local;
        let Some((listener_id, untold)) = &mut self.listening else { return Poll::Pending };
        let listener_id = *listener_id;
        if std::mem::take(untold) {
            return Poll::Ready(TransportEvent::NewAddress { listener_id, listen_addr: multiaddr(local) });
        }
        Poll::Ready(match std::task::ready!(self.poll_accept(cx)) {
            Ok((stream, local, remote)) => TransportEvent::Incoming {
                listener_id,
                upgrade: ready(Ok(stream)),
                local_addr: multiaddr(local),
                send_back_addr: multiaddr(remote),
            },
            Err(error) => TransportEvent::ListenerError { listener_id, error: error.into() },
        })
    }
}

async fn connect(from: Option<IpAddr>, target: SocketAddr) -> io::Result<TcpStream> {
    let socket = if target.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(from) = from {
        socket.bind(SocketAddr::new(from, 0))?;
    }
    let stream = socket.connect(target).await?;
    prepare(&stream)?;
    Ok(TcpStream(stream))
}

fn prepare(stream: &tokio::net::TcpStream) -> io::Result<()> {
    let socket = SockRef::from(stream);
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_user_timeout(Some(DEAD_AFTER))?;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE / 4))
}

/// The socket address that a multiaddress begins with, if it is one of TCP.
pub(super) fn socket_addr(addr: &Multiaddr) -> Option<SocketAddr> {
    let mut parts = addr.iter();
    let ip = match parts.next()? {
        Protocol::Ip4(ip) => IpAddr::from(ip),
        Protocol::Ip6(ip) => IpAddr::from(ip),
        _ => return None,
    };
    match parts.next()? {
        Protocol::Tcp(port) => Some(SocketAddr::new(ip, port)),
        _ => None,
    }
}

/// A socket address in libp2p's words.
pub(super) fn multiaddr(addr: SocketAddr) -> Multiaddr {
    Multiaddr::from(addr.ip()).with(Protocol::Tcp(addr.port()))
}
