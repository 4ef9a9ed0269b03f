//! The tracker over UDP (BEP 15).
//!
//! Rule: nothing that an address has not proven by its connection id gets an answer longer than its question, and not
//! more than [`UNPROVEN_PER_SECOND`] of those: with a forged source this port is of no use against anybody. A datagram
//! that cannot be answered now is dropped; the client asks again (BEP 15, "time outs").
//!
//! Not here: the layout of datagrams and connection ids (`labmesh_proto::wire::udp_tracker`).

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use labmesh_proto::wire::udp_tracker::{self, Request, Response};
use tokio::net::UdpSocket;
use tokio::sync::{Semaphore, watch};
use tokio::time::MissedTickBehavior;
use tracing::debug;

use crate::driver::Handle;
use crate::metrics::Counters;

/// Bytes of a datagram that we read: a scrape of 74 images has 1496; what is longer is no request.
const DATAGRAM_BYTES_MAX: usize = 2048;
/// How long a connection id's window lasts; an id is good in its own window and the next (BEP 15 asks for two minutes
/// at most, and lets a client use one for a minute).
const WINDOW: Duration = Duration::from_secs(60);
/// Questions of clients that wait for the mind at once; more are dropped.
const ASKED_MAX: usize = 512;
/// How long the mind may take: a client asks again after 15 s.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// Unproven answers to one address in a second: three hundred PCs behind one address, with one repetition.
const UNPROVEN_PER_SECOND: u16 = 600;
/// Addresses share this many counters by a keyed hash, so the table never grows. Two that share one share its limit.
const UNPROVEN_SLOTS: usize = 4096;
/// Rest after a receive that failed.
const RECEIVE_PAUSE: Duration = Duration::from_millis(50);

pub(super) struct Server {
    desk: Arc<Desk>,
    /// Counts [`WINDOW`]s since the start.
    window: u64,
    unproven: Unproven,
    asked: Arc<Semaphore>,
}

/// What outlives a datagram that waits for the mind.
struct Desk {
    socket: UdpSocket,
    handle: Handle,
    counters: Arc<Counters>,
    secret: [u8; 32],
}

impl Server {
    pub(super) fn new(socket: UdpSocket, handle: Handle, counters: Arc<Counters>) -> Self {
        let desk = Arc::new(Desk { socket, handle, counters, secret: secret() });
        Self { desk, window: 0, unproven: Unproven::default(), asked: Arc::new(Semaphore::new(ASKED_MAX)) }
    }

    pub(super) async fn run(mut self, mut stopping: watch::Receiver<bool>) {
        let mut buffer = [0; DATAGRAM_BYTES_MAX];
        let mut second = tokio::time::interval(Duration::from_secs(1));
        let mut window = tokio::time::interval(WINDOW);
        second.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let desk = self.desk.clone();
        loop {
            tokio::select! {
                received = desk.socket.recv_from(&mut buffer) => match received {
                    Ok((len, source)) => self.received(&buffer[..len], source).await,
                    Err(error) => {
                        debug!(%error, "cannot receive from the tracker's UDP socket");
                        tokio::time::sleep(RECEIVE_PAUSE).await;
                    }
                },
                _ = second.tick(), if self.unproven.any => self.unproven.forget(),
                _ = window.tick() => self.window += 1,
                _ = stopping.changed() => return,
            }
        }
    }
}

impl Server {
    fn received(&mut self, datagram: &[u8], source: SocketAddr) {
        let desk = &self.desk;
        let Ok(request) = Request::decode(datagram) else { return desk.counters.udp_dropped.add_one() };
        let client = source.ip().to_canonical();
        if let Request::Connect { transaction } = request {
            if !self.unproven.allow(client) {
                return desk.counters.udp_dropped.add_one();
            }
            desk.counters.udp_connects.add_one();
            let connection = udp_tracker::connection_id(&desk.secret, client, self.window);
            return desk.send(&Response::Connect { transaction, connection }, source);
        }
        todo!()
    }
}

impl Desk {
    /// Hands an answer to the kernel, or drops it if its buffers are full.
    fn send(&self, response: &Response, source: SocketAddr) {
        if let Err(error) = self.socket.try_send_to(&response.encode(), source) {
            debug!(%source, %error, "cannot send an answer of the tracker");
            self.counters.udp_dropped.add_one();
        }
    }
}

/// How many unproven answers each address got in this second.
struct Unproven {
    keys: RandomState,
    counts: Box<[u16; UNPROVEN_SLOTS]>,
    any: bool,
}

impl Default for Unproven {
    fn default() -> Self {
        Self { keys: RandomState::new(), counts: Box::new([0; UNPROVEN_SLOTS]), any: false }
    }
}

impl Unproven {
    fn allow(&mut self, source: IpAddr) -> bool {
        let slot = self.keys.hash_one(source) as usize % UNPROVEN_SLOTS;
        self.any = true;
        self.counts[slot] += u16::from(self.counts[slot] < UNPROVEN_PER_SECOND + 1);
        self.counts[slot] <= UNPROVEN_PER_SECOND
    }

    fn forget(&mut self) {
        self.counts.fill(0);
        self.any = false;
    }
}

/// 32 bytes that nobody outside can guess: SipHash under keys that the standard library took from the system.
fn secret() -> [u8; 32] {
    let mut bytes = [0; 32];
    for (n, part) in bytes.chunks_exact_mut(8).enumerate() {
        part.copy_from_slice(&RandomState::new().hash_one(n).to_be_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_gets_its_share_of_a_second_and_no_more() {
        let (mut unproven, source) = (Unproven::default(), IpAddr::from([10, 0, 0, 1]));
        let allowed = |unproven: &mut Unproven| (0..70_000).filter(|_| unproven.allow(source)).count();
        assert_eq!(allowed(&mut unproven), UNPROVEN_PER_SECOND.into());
        unproven.forget();
        assert_eq!(allowed(&mut unproven), UNPROVEN_PER_SECOND.into());
    }
}
