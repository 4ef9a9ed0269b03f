//! How connections begin: by accepting or by dialling, and with both handshakes.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use labmesh_proto::id::ImageIndex;
use labmesh_proto::io::Input;
use labmesh_proto::wire::peer::{BadHandshake, Handshake};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use super::{Shared, connection};
use crate::io::Event;

/// Sent data that is not acknowledged for this long: the other machine is gone. TCP alone takes a quarter of an hour.
const USER_TIMEOUT: Duration = Duration::from_secs(15);
/// A silent connection is probed by the kernel, so that an unplugged peer that owes us blocks is noticed too.
const PROBE_AFTER: Duration = Duration::from_secs(10);
const PROBE_EVERY: Duration = Duration::from_secs(5);
/// Unsent bytes the kernel takes from us: enough for full speed, and little enough that a request behind them leaves
/// in a few milliseconds.
const UNSENT_BYTES: u32 = 256 * 1024;
/// After a failed accept, usually for want of file descriptors.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Why a connection did not come about.
#[derive(Debug, thiserror::Error)]
enum NoConnection {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    BadHandshake(#[from] BadHandshake),
    #[error("it answered for another image")]
    OtherImage,
    #[error("no handshake in time")]
    Late,
    #[error("too many connections")]
    TooMany,
}

/// Accepts for as long as the node lives.
pub(super) async fn accept(shared: Arc<Shared>, listener: TcpListener) {
    let greetings = Arc::new(Semaphore::new(shared.limits.greetings));
    loop {
        let greeting = Arc::clone(&greetings).acquire_owned().await.expect("it is never closed");
        match listener.accept().await {
            Ok((stream, addr)) => match Arc::clone(&shared.seats).try_acquire_owned() {
                Ok(seat) => shared.spawn(greet(Arc::clone(&shared), stream, addr, seat, greeting)),
                Err(_) => debug!(%addr, "refused: too many connections"),
            },
            Err(error) => {
                warn!(%error, "cannot accept a peer");
                sleep(ACCEPT_AGAIN).await;
            }
        }
    }
}

async fn greet(
    shared: Arc<Shared>,
    mut stream: TcpStream,
    addr: SocketAddr,
    seat: OwnedSemaphorePermit,
    greeting: OwnedSemaphorePermit,
) {
    let theirs = async {
        tune(&stream)?;
        read_handshake(&shared, &mut stream).await
    };
    match theirs.await {
        Ok(theirs) => {
            drop(greeting);
            // A socket for both families shows IPv4 peers in IPv6 clothes.
            let addr = SocketAddr::new(addr.ip().to_canonical(), addr.port());
            connection::run(&shared, stream, addr, theirs, false, seat).await;
        }
        Err(reason) => debug!(%addr, %reason, "an incoming connection ended before it began"),
    }
}

/// Dials a peer for an image.
pub(super) async fn dial(shared: Arc<Shared>, image: ImageIndex, addr: SocketAddr, ours: Handshake) {
    match open(&shared, addr, &ours).await {
        Ok((stream, theirs, seat)) => connection::run(&shared, stream, addr, theirs, true, seat).await,
        Err(reason) => {
            debug!(%addr, %reason, "cannot connect");
            // A driver that has ended is nobody to tell.
            let _ = shared.events.send(Event::Input(Input::PeerUnreachable { image, addr })).await;
        }
    }
}

async fn open(
    shared: &Shared,
    addr: SocketAddr,
    ours: &Handshake,
) -> Result<(TcpStream, Handshake, OwnedSemaphorePermit), NoConnection> {
    let seat = Arc::clone(&shared.seats).try_acquire_owned().map_err(|_| NoConnection::TooMany)?;
    let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // On a machine with several addresses the peer should see the one that the tracker names.
    if !shared.addr.ip().is_unspecified() && shared.addr.is_ipv4() == addr.is_ipv4() {
        socket.bind((shared.addr.ip(), 0).into())?;
    }
    let connected = timeout(shared.limits.handshake, socket.connect(addr)).await;
    let mut stream = connected.map_err(|_| NoConnection::Late)??;
    tune(&stream)?;
    stream.write_all(&ours.encode()).await?;
    let theirs = read_handshake(shared, &mut stream).await?;
    if theirs.info_hash != ours.info_hash {
        return Err(NoConnection::OtherImage);
    }
    Ok((stream, theirs, seat))
}

async fn read_handshake(shared: &Shared, stream: &mut TcpStream) -> Result<Handshake, NoConnection> {
    let mut bytes = [0; Handshake::BYTES];
    timeout(shared.limits.handshake, stream.read_exact(&mut bytes)).await.map_err(|_| NoConnection::Late)??;
    Ok(Handshake::decode(&bytes)?)
}

/// Buffer sizes are left to the kernel: setting them would end its tuning.
fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(PROBE_AFTER).with_interval(PROBE_EVERY))?;
    socket.set_tcp_notsent_lowat(UNSENT_BYTES)
}
