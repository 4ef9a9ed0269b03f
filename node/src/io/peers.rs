//! Peer connections: accept and dial, handshakes, and the way of a byte from socket to buffer and from file to socket.
//!
//! Rule: payload is received straight into the buffer that it is later hashed and written from, and sent from the
//! page cache by `sendfile`. A slot number is given out again only after the driver has released it, so nothing that
//! an old connection reported is ever taken for a new one's.
//!
//! Each connection is one task on the multi-thread runtime (`connection`): a reader, and a writer with a mailbox
//! (`writer`). Back-pressure: the reader waits for the driver's queue and for buffers, and TCP slows the peer down.
//!
//! Not here: what a message means, whom to dial, what to answer (`proto`), writing to disk (`disk`).

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use labmesh_proto::config::PEERS_MAX;
use labmesh_proto::error::CloseReason;
use labmesh_proto::id::{Block, ConnId, ImageIndex, PieceIndex};
use labmesh_proto::wire::peer::{Handshake, Message};
use tokio::net::TcpSocket;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tracing::debug;

use super::Events;
use super::buffers::Buffers;
use super::source::Source;

mod connect;
mod connection;
mod writer;

/// Connections that the kernel keeps for us while a whole room starts at once.
const BACKLOG: u32 = 1024;
/// What may wait for one peer: its 512 requests, and every `have` of some seconds at full speed. A peer that lets
/// more pile up does not read.
const MAILBOX: usize = 4096;
/// Reads of cold ranges at a time, in the whole node: enough to keep a disk's queue busy.
const COLD_READS: usize = 8;

/// What a connection may cost.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections, and dials under way, in all. The newest beyond is refused.
    pub connections: usize,
    /// Incoming connections whose handshake has not come yet. Beyond, the one that has been silent longest is closed.
    pub greetings: usize,
    /// For connecting, for each handshake, and for the driver's answer to an incoming one.
    pub handshake: Duration,
    /// A peer that says nothing for this long is gone. BEP 3 asks for something every two minutes.
    pub silence: Duration,
    /// We say something at least this often.
    pub keep_alive: Duration,
    /// A block waits this long for a buffer, then is given one beyond the limit: long enough for the disk to write a
    /// few pieces and free theirs.
    pub buffer_wait: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: PEERS_MAX,
            greetings: PEERS_MAX / 4,
            handshake: Duration::from_secs(5),
            silence: Duration::from_secs(150),
            keep_alive: Duration::from_secs(100),
            buffer_wait: Duration::from_secs(2),
        }
    }
}

/// The driver's side. One method per `Output` that concerns a peer connection; none of them waits. When dropped, all
/// connections are closed.
#[derive(Debug)]
pub struct Peers {
    shared: Arc<Shared>,
    port: u16,
}

#[derive(Debug)]
struct Shared {
    runtime: Handle,
    /// Where we listen, and dial from.
    addr: SocketAddr,
    limits: Limits,
    buffers: Buffers,
    events: Events,
    /// One per connection.
    seats: Arc<Semaphore>,
    cold_reads: Arc<Semaphore>,
    slots: Mutex<Slots>,
    /// `None` once [`Peers`] is gone.
    tasks: Mutex<Option<JoinSet<()>>>,
}

/// A dense table; the slot of a connection is its [`ConnId`].
#[derive(Debug, Default)]
struct Slots {
    slots: Vec<Option<Slot>>,
    free: Vec<u32>,
}

/// The driver's end of a connection.
#[derive(Debug)]
struct Slot {
    addr: SocketAddr,
    image: Option<ImageIndex>,
    answer: Option<oneshot::Sender<Answer>>,
    mailbox: mpsc::Sender<Outgoing>,
    /// Dropped to end the connection.
    line: Option<oneshot::Sender<()>>,
    _seat: OwnedSemaphorePermit,
}

/// What the driver answers when a connection is up.
#[derive(Debug)]
struct Answer {
    source: Source,
    handshake: Handshake,
}

#[derive(Debug)]
enum Outgoing {
    Message(Message),
    Block(Block),
}

/// The connection's end of a [`Slot`].
#[derive(Debug)]
struct Post {
    conn: ConnId,
    answer: oneshot::Receiver<Answer>,
    mailbox: mpsc::Receiver<Outgoing>,
    line: oneshot::Receiver<()>,
}

impl Peers {
    /// Listens at `addr` (port 0: any) and accepts at once. Connections dial from the same IP address, unless that is
    /// the unspecified one. `runtime` is the multi-thread one.
    ///
    /// # Errors
    /// If the address is in use or not ours.
    pub fn bind(
        runtime: &Handle,
        addr: SocketAddr,
        limits: Limits,
        buffers: Buffers,
        events: Events,
    ) -> io::Result<Self> {
        let _here = runtime.enter();
        let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(true)?;
        socket.bind(addr)?;
        let listener = socket.listen(BACKLOG)?;
        let port = listener.local_addr()?.port();
        let shared = Arc::new(Shared {
            runtime: runtime.clone(),
            addr,
            limits,
            buffers,
            events,
            seats: Arc::new(Semaphore::new(limits.connections)),
            cold_reads: Arc::new(Semaphore::new(COLD_READS)),
            slots: Mutex::default(),
            tasks: Mutex::new(Some(JoinSet::new())),
        });
        shared.spawn(connect::accept(Arc::clone(&shared), listener));
        Ok(Self { shared, port })
    }

    /// The port that we listen on.
    pub fn local_port(&self) -> u16 {
        self.port
    }

    /// `Output::DialPeer`; answered by `Input::PeerUp` or `Input::PeerUnreachable`.
    pub fn dial(&self, image: ImageIndex, addr: SocketAddr, handshake: Handshake) {
        self.shared.spawn(connect::dial(Arc::clone(&self.shared), image, addr, handshake));
    }

    /// `Output::Accept`: the connection is one of that image's from now on. An incoming one is answered with
    /// `handshake`.
    pub fn accept(&self, conn: ConnId, image: ImageIndex, source: Source, handshake: Handshake) {
        let mut slots = self.shared.slots();
        let Some(slot) = slots.get(conn) else { return };
        slot.image = Some(image);
        if let Some(answer) = slot.answer.take() {
            // It may have gone down meanwhile: its `PeerDown` is on the way.
            let _ = answer.send(Answer { source, handshake });
        }
    }

    /// `Output::Peer`.
    pub fn send(&self, conn: ConnId, message: Message) {
        if let Some(slot) = self.shared.slots().get(conn) {
            slot.post(Outgoing::Message(message));
        }
    }

    /// `Output::Have`.
    pub fn have(&self, to: &[ConnId], piece: PieceIndex) {
        let mut slots = self.shared.slots();
        for conn in to {
            if let Some(slot) = slots.get(*conn) {
                slot.post(Outgoing::Message(Message::Have(piece.get())));
            }
        }
    }

    /// `Output::SendBlock`; answered by `Input::Sent`, or by `Input::ReadFailed` and the connection's end.
    pub fn send_block(&self, conn: ConnId, block: Block) {
        if let Some(slot) = self.shared.slots().get(conn) {
            slot.post(Outgoing::Block(block));
        }
    }

    /// `Output::Close`; its `Input::PeerDown` still comes.
    pub fn close(&self, conn: ConnId, reason: &CloseReason) {
        if let Some(slot) = self.shared.slots().get(conn) {
            debug!(conn = conn.0, addr = %slot.addr, %reason, "closing");
            slot.line = None;
        }
    }

    /// The driver has handled the connection's `Input::PeerDown`: its number is free.
    pub fn release(&self, conn: ConnId) {
        let mut slots = self.shared.slots();
        if slots.slots.get_mut(conn.0 as usize).and_then(Option::take).is_some() {
            slots.free.push(conn.0);
        }
    }
}

impl Drop for Peers {
    fn drop(&mut self) {
        let tasks = self.shared.tasks().take();
        drop(tasks);
    }
}

impl Slot {
    fn post(&mut self, outgoing: Outgoing) {
        if let Err(mpsc::error::TrySendError::Full(_)) = self.mailbox.try_send(outgoing)
            && self.line.take().is_some()
        {
            debug!(addr = %self.addr, "closing: the peer does not read what we send");
        }
    }
}

impl Slots {
    fn get(&mut self, conn: ConnId) -> Option<&mut Slot> {
        self.slots.get_mut(conn.0 as usize)?.as_mut()
    }

    /// A new connection. There are no more slots than seats.
    fn open(&mut self, addr: SocketAddr, seat: OwnedSemaphorePermit) -> Post {
        let (answer, answered) = oneshot::channel();
        let (line, cut) = oneshot::channel();
        let (mailbox, mail) = mpsc::channel(MAILBOX);
        let slot = Slot { addr, image: None, answer: Some(answer), mailbox, line: Some(line), _seat: seat };
        let conn = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            (self.slots.len() - 1) as u32
        });
        self.slots[conn as usize] = Some(slot);
        Post { conn: ConnId(conn), answer: answered, mailbox: mail, line: cut }
    }
}

impl Shared {
    fn slots(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tasks(&self) -> MutexGuard<'_, Option<JoinSet<()>>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a task that ends with [`Peers`].
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        if let Some(tasks) = &mut *self.tasks() {
            while tasks.try_join_next().is_some() {}
            tasks.spawn_on(task, &self.runtime);
        }
    }
}

#[cfg(test)]
mod tests;
