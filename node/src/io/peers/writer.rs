//! The sending half of a connection: messages gathered into one call, blocks from the page cache by `sendfile`.

use std::convert::Infallible;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use labmesh_proto::error::DiskError;
use labmesh_proto::id::{Block, ConnId};
use labmesh_proto::io::Input;
use labmesh_proto::wire::peer::{Message, Range, piece_header};
use rustix::fs::sendfile;
use rustix::net::{SendFlags, send};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::sync::mpsc::Receiver;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::connection::End;
use super::{Outgoing, Shared};
use crate::io::Event;
use crate::io::page_cache::{fetch, is_warm};
use crate::io::source::{Source, disk_error};

/// Messages are gathered up to this many bytes before they are sent.
const GATHER_BYTES: usize = 16 * 1024;

pub(super) struct Writer<'a> {
    shared: &'a Shared,
    conn: ConnId,
    stream: &'a TcpStream,
    source: &'a Source,
    mailbox: Receiver<Outgoing>,
    /// Encoded, not yet sent.
    out: Vec<u8>,
}

impl<'a> Writer<'a> {
    pub(super) fn new(
        shared: &'a Shared,
        conn: ConnId,
        stream: &'a TcpStream,
        source: &'a Source,
        mailbox: Receiver<Outgoing>,
    ) -> Self {
        Self { shared, conn, stream, source, mailbox, out: Vec::new() }
    }

    pub(super) async fn run(mut self) -> Result<Infallible, End> {
        loop {
            let first = match timeout(self.shared.limits.keep_alive, self.mailbox.recv()).await {
                Ok(first) => first.ok_or(End::HungUp)?,
                Err(_) => Outgoing::Message(Message::KeepAlive),
            };
            let mut next = Some(first);
            while let Some(outgoing) = next {
                match outgoing {
                    Outgoing::Message(message) => message.encode(&mut self.out),
                    Outgoing::Block(block) => self.send_block(block).await?,
                }
                if self.out.len() >= GATHER_BYTES {
                    self.flush(SendFlags::empty()).await?;
                }
                next = self.mailbox.try_recv().ok();
            }
            self.flush(SendFlags::empty()).await?;
        }
    }

    /// Sends what is gathered; with `MSG_MORE` the kernel keeps the end of it for the payload that follows.
    async fn flush(&mut self, more: SendFlags) -> io::Result<()> {
        let mut rest = &self.out[..];
        while !rest.is_empty() {
            let sending = || Ok(send(self.stream, rest, more | SendFlags::NOSIGNAL)?);
            let sent = self.stream.async_io(Interest::WRITABLE, sending).await?;
            rest = &rest[sent..];
        }
        self.out.clear();
        Ok(())
    }

    async fn send_block(&mut self, block: Block) -> Result<(), End> {
        match self.block(block).await {
            Err(End::Disk(error)) => {
                let input = Input::ReadFailed { image: self.source.image(), error: error.clone() };
                let _ = self.shared.events.send(self.source.event(input)).await;
                Err(End::Disk(error))
            }
            other => other,
        }
    }

    async fn block(&mut self, block: Block) -> Result<(), End> {
        let not_open = || End::Disk(disk_error(self.source.place(), &io::Error::other("it is not open")));
        let file = self.source.file().ok_or_else(not_open)?;
        let start = self.source.geometry().start(block.piece) + u64::from(block.offset);
        if !self.source.in_memory() && !is_warm(file, start, u64::from(block.len)) {
            self.warm(block).await?;
        }
        let range = Range { piece: block.piece.get(), offset: block.offset, len: block.len };
        self.out.extend_from_slice(&piece_header(&range));
        self.flush(SendFlags::MORE).await?;
        let (mut at, mut left) = (start, block.len as usize);
        while left > 0 {
            let sending = || Ok(sendfile(self.stream, file, Some(&mut at), left)?);
            match self.stream.async_io(Interest::WRITABLE, sending).await {
                Ok(0) => return Err(End::Disk(changed(self.source))),
                Ok(sent) => left -= sent,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) => {
                    return Err(End::Disk(disk_error(self.source.place(), &e)));
                }
                Err(e) => return Err(e.into()),
            }
        }
        let sent = Event::Input(Input::Sent { conn: self.conn, block });
        self.shared.events.send(sent).await.map_err(|_| End::NodeEnded)
    }

    /// Brings a range into the page cache on a thread that may wait for the disk.
    async fn warm(&self, block: Block) -> Result<(), End> {
        let permit = Arc::clone(&self.shared.cold_reads).acquire_owned().await.expect("it is never closed");
        let source = self.source.clone();
        let read = move || {
            let _permit = permit;
            fault_in(&source, block)
        };
        let done = spawn_blocking(read).await.map_err(|_| End::NodeEnded)?;
        done.map_err(End::Disk)
    }
}

fn changed(source: &Source) -> DiskError {
    DiskError::Changed { place: source.place().display().to_string() }
}

fn fault_in(source: &Source, block: Block) -> Result<(), DiskError> {
    let Some(file) = source.file() else { return Err(changed(source)) };
    let geometry = source.geometry();
    let start = geometry.start(block.piece) + u64::from(block.offset);
    // The rest of the piece will be asked for next: one run of the disk's head instead of one per block.
    let rest = u64::from(geometry.piece_len(block.piece) - block.offset);
    fetch(file, start, rest);
    let mut scratch = [0; 16 * 1024];
    let (mut at, end) = (start, start + u64::from(block.len));
    while at < end {
        let want = (end - at).min(scratch.len() as u64) as usize;
        match file.read_at(&mut scratch[..want], at) {
            Ok(0) => return Err(changed(source)),
            Ok(n) => at += n as u64,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(disk_error(source.place(), &e)),
        }
    }
    Ok(())
}
