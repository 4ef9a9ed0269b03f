//! One connection from the handshakes to its end, and its reader.

use std::convert::Infallible;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;

use labmesh_proto::error::DiskError;
use labmesh_proto::id::ConnId;
use labmesh_proto::io::Input;
use labmesh_proto::wire::peer::{BadMessage, Decoder, Handshake, Item, Range};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::SetUsize;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::task::yield_now;
use tokio::time::timeout;
use tracing::debug;

use super::writer::Writer;
use super::{Answer, Outgoing, Post, Shared};
use crate::io::Event;
use crate::io::buffers::Buffer;

/// Events that are reported together, if they come together.
const BATCH: usize = 16;
/// Payload that is reported at once: a large block does not wait for others.
const BATCH_BYTES: usize = 256 * 1024;
/// After so much from one socket without a pause, the writer and other connections have their turn.
const TURN_BYTES: usize = 1024 * 1024;
/// In the middle of a block we are woken for so much at once, or for its end: nothing else can come before it. Slow peers
/// would wake us for every packet. Half of the window that a connection begins with, so that it never closes.
const WAKE_BYTES: usize = 32 * 1024;
/// Where messages and block headers are received; small, since payload that lands here is copied.
const HEAD_BYTES: usize = 4096;

/// Why a connection ends.
#[derive(Debug, thiserror::Error)]
pub(super) enum End {
    #[error("the peer closed it")]
    Closed,
    #[error("the node closed it")]
    HungUp,
    #[error("the node did not answer")]
    NoAnswer,
    #[error("the peer was silent")]
    Silent,
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("the peer sent {0}")]
    BadMessage(#[from] BadMessage),
    #[error("a block cannot be read: {0}")]
    Disk(DiskError),
    /// Its driver has ended.
    #[error("the node ended")]
    NodeEnded,
}

/// Reports the connection, serves it to its end, reports that.
pub(super) async fn run(
    shared: &Shared,
    mut stream: TcpStream,
    addr: SocketAddr,
    theirs: Handshake,
    outgoing: bool,
    seat: OwnedSemaphorePermit,
) {
    let Post { conn, answer, mailbox, line } = shared.slots().open(addr, seat);
    let up = Event::Input(Input::PeerUp { conn, addr, handshake: theirs, outgoing });
    if shared.events.send(up).await.is_err() {
        return;
    }
    let end = tokio::select! {
        biased;
        _ = line => End::HungUp,
        Err(end) = serve(shared, conn, &mut stream, answer, mailbox, outgoing) => end,
    };
    debug!(conn = conn.0, %addr, %end, "a peer connection ended");
    drop(stream);
    // The last that is heard of this connection: its reader and writer are gone.
    let _ = shared.events.send(Event::Input(Input::PeerDown { conn })).await;
}

async fn serve(
    shared: &Shared,
    conn: ConnId,
    stream: &mut TcpStream,
    answer: oneshot::Receiver<Answer>,
    mailbox: tokio::sync::mpsc::Receiver<Outgoing>,
    outgoing: bool,
) -> Result<Infallible, End> {
    let answer = timeout(shared.limits.handshake, answer).await;
    let Ok(Ok(Answer { source, handshake })) = answer else { return Err(End::NoAnswer) };
    if !outgoing {
        stream.write_all(&handshake.encode()).await?;
    }
    let writer = Writer::new(shared, conn, stream, &source, mailbox);
    let reader = Reader { shared, conn, stream, batch: Vec::with_capacity(BATCH), bytes: 0, turn: 0, low_water: 1 };
    tokio::select! {
        end = writer.run() => end,
        end = reader.run() => end,
    }
}

/// How many bytes must be there before `epoll` calls a socket readable: socket(7).
#[derive(Clone, Debug)]
struct LowWater;
nix::setsockopt_impl!(LowWater, libc::SOL_SOCKET, libc::SO_RCVLOWAT, usize, SetUsize);

struct Reader<'a> {
    shared: &'a Shared,
    conn: ConnId,
    stream: &'a TcpStream,
    batch: Vec<Event>,
    /// Payload in the batch.
    bytes: usize,
    /// Received since the last pause.
    turn: usize,
    /// What the kernel wakes us for, bytes.
    low_water: usize,
}

impl Reader<'_> {
    async fn run(mut self) -> Result<Infallible, End> {
        let mut decoder = Decoder::default();
        let mut head = vec![0; HEAD_BYTES];
        let mut input = 0..0;
        loop {
            let mut rest = &head[input.clone()];
            let item = decoder.next(&mut rest)?;
            input.start = input.end - rest.len();
            match item {
                None => input = 0..self.receive(&mut [], &mut head).await?,
                Some(Item::Message(message)) => {
                    self.report(Event::Input(Input::Peer { conn: self.conn, message }), 0).await?;
                }
                Some(Item::Piece(range)) => {
                    let (data, left) = self.payload(range, &mut head, input).await?;
                    input = left;
                    let len = data.len();
                    self.report(Event::Block { conn: self.conn, range, data }, len).await?;
                }
            }
        }
    }

    /// Receives a block: what of it came with the head, then the rest straight into its buffer. The same call to the
    /// kernel brings what follows the block into the head; the range of that is returned too.
    async fn payload(
        &mut self,
        range: Range,
        head: &mut [u8],
        input: std::ops::Range<usize>,
    ) -> Result<(Buffer, std::ops::Range<usize>), End> {
        let mut data = self.buffer(range.len as usize).await?;
        let copied = data.len().min(input.len());
        data[..copied].copy_from_slice(&head[input.start..input.start + copied]);
        let (mut at, mut left) = (copied, input.start + copied..input.end);
        while at < data.len() {
            at += self.receive(&mut data[at..], head).await?;
            left = 0..at.saturating_sub(data.len());
        }
        Ok((data, left))
    }

    /// A buffer; while none is free, what was received is not held back.
    async fn buffer(&mut self, len: usize) -> Result<Buffer, End> {
        if self.shared.buffers.is_behind() {
            flush(self.shared, &mut self.batch, &mut self.bytes).await?;
            self.shared.buffers.caught_up().await;
        }
        let buffer = self.shared.buffers.take(len);
        tokio::pin!(buffer);
        tokio::select! {
            biased;
            buffer = &mut buffer => return Ok(buffer),
            () = std::future::ready(()) => {}
        }
        flush(self.shared, &mut self.batch, &mut self.bytes).await?;
        Ok(timeout(self.shared.limits.buffer_wait, buffer).await.unwrap_or_else(|_| {
            debug!(conn = self.conn.0, "the piece buffers are used up: one is added");
            self.shared.buffers.overdraw(len)
        }))
    }

    /// Receives into `first`, and what is more into `second`. Never returns 0.
    async fn receive(&mut self, first: &mut [u8], second: &mut [u8]) -> Result<usize, End> {
        if self.turn >= TURN_BYTES {
            self.turn = 0;
            yield_now().await;
        }
        loop {
            let mut into = [IoSliceMut::new(first), IoSliceMut::new(second)];
            match self.stream.try_read_vectored(&mut into) {
                Ok(0) => {
                    flush(self.shared, &mut self.batch, &mut self.bytes).await?;
                    return Err(End::Closed);
                }
                Ok(n) => {
                    self.turn += n;
                    return Ok(n);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    self.turn = 0;
                    flush(self.shared, &mut self.batch, &mut self.bytes).await?;
                    self.wake_at(first.len().clamp(1, WAKE_BYTES))?;
                    timeout(self.shared.limits.silence, self.stream.readable()).await.map_err(|_| End::Silent)??;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// What is there already counts: the kernel looks at once.
    fn wake_at(&mut self, bytes: usize) -> io::Result<()> {
        if self.low_water != bytes {
            self.low_water = bytes;
            setsockopt(self.stream, LowWater, &bytes)?;
        }
        Ok(())
    }

    async fn report(&mut self, event: Event, bytes: usize) -> Result<(), End> {
        self.batch.push(event);
        self.bytes += bytes;
        if self.batch.len() >= BATCH || self.bytes >= BATCH_BYTES {
            flush(self.shared, &mut self.batch, &mut self.bytes).await?;
        }
        Ok(())
    }
}

/// Hands the batch to the driver; waits while it is behind.
async fn flush(shared: &Shared, batch: &mut Vec<Event>, bytes: &mut usize) -> Result<(), End> {
    if batch.is_empty() {
        return Ok(());
    }
    *bytes = 0;
    let events = Event::together(std::mem::take(batch));
    shared.events.send(events).await.map_err(|_| End::NodeEnded)
}
