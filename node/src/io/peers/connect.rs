//! How connections begin: by accepting or by dialling, and with both handshakes.
//!
//! Rule: whoever says nothing makes room for whoever does. Refusing the newest would let a few hundred silent
//! connections keep everybody out for as long as a handshake may take; closing the one that has been silent longest
//! keeps nobody out who speaks at once, as every client does.

use std::collections::VecDeque;
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
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
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
/// in a few milliseconds, and that a block counts as sent when it is: what else is handed out rests on it.
const UNSENT_BYTES: u32 = 64 * 1024;
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
    #[error("it was silent while others came")]
    MadeRoom,
}

/// Accepts for as long as the node lives.
pub(super) async fn accept(shared: Arc<Shared>, listener: TcpListener) {
    let mut greeters = Greeters::new(shared.limits.greetings);
    loop {
        match listener.accept().await {
            Ok((stream, addr)) => {
                let greeter = greeters.admit().await;
                shared.spawn(greet(Arc::clone(&shared), stream, addr, greeter));
            }
            Err(error) => {
                warn!(%error, "cannot accept a peer");
                sleep(ACCEPT_AGAIN).await;
            }
        }
    }
}

/// Incoming connections whose handshake has not come.
struct Greeters {
    places: Arc<Semaphore>,
    /// The oldest first; some have ended. Dropping one ends its connection.
    waiting: VecDeque<oneshot::Sender<()>>,
    limit: usize,
}

/// One of them, for as long as it is.
struct Greeter {
    _place: OwnedSemaphorePermit,
    /// Resolves when it has to make room.
    told: oneshot::Receiver<()>,
}

impl Greeters {
    fn new(limit: usize) -> Self {
        Self { places: Arc::new(Semaphore::new(limit)), waiting: VecDeque::with_capacity(limit), limit }
    }

    /// A place for a newcomer. With none free the oldest has to go, which takes no longer than its task's next turn.
    async fn admit(&mut self) -> Greeter {
        if self.waiting.len() >= self.limit {
            self.waiting.retain(|waiting| !waiting.is_closed());
        }
        if self.places.available_permits() == 0 {
            // One that has just ended by itself frees no second place.
            while self.waiting.pop_front().is_some_and(|oldest| oldest.is_closed()) {}
        }
        let place = Arc::clone(&self.places).acquire_owned().await.expect("it is never closed");
        let (waiting, told) = oneshot::channel();
        self.waiting.push_back(waiting);
        Greeter { _place: place, told }
    }
}

async fn greet(shared: Arc<Shared>, mut stream: TcpStream, addr: SocketAddr, greeter: Greeter) {
    match greeting(&shared, &mut stream, greeter).await {
        Ok((theirs, seat)) => {
            // A socket for both families shows IPv4 peers in IPv6 clothes.
            let addr = SocketAddr::new(addr.ip().to_canonical(), addr.port());
            connection::run(&shared, stream, addr, theirs, false, seat).await;
        }
        Err(reason) => debug!(%addr, %reason, "an incoming connection ended before it began"),
    }
}

async fn greeting(
    shared: &Shared,
    stream: &mut TcpStream,
    mut greeter: Greeter,
) -> Result<(Handshake, OwnedSemaphorePermit), NoConnection> {
    tune(stream)?;
    let theirs = tokio::select! {
        // A handshake that has come counts, however long it took.
        biased;
        theirs = read_handshake(shared, stream) => theirs?,
        _ = &mut greeter.told => return Err(NoConnection::MadeRoom),
    };
    let seat = Arc::clone(&shared.seats).try_acquire_owned().map_err(|_| NoConnection::TooMany)?;
    Ok((theirs, seat))
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
