//! The tracker over UDP (BEP 15).
//!
//! Rule: nothing that an address has not proven by its connection id gets an answer longer than its question, and not
//! more than [`UNPROVEN_PER_SECOND`] of those: with a forged source this port is of no use against anybody. A datagram
//! that cannot be answered now is dropped; the client asks again (BEP 15, "time outs").
//!
//! Not here: the layout of datagrams and connection ids (`labmesh_proto::wire::udp_tracker`).

use std::future::Future;
use std::hash::{BuildHasher as _, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use labmesh_proto::id::InfoHash;
use labmesh_proto::wire::http_tracker::Announce;
use labmesh_proto::wire::udp_tracker::{self, Request, Response};
use tokio::net::UdpSocket;
use tokio::sync::{Semaphore, watch};
use tokio::time::MissedTickBehavior;
use tracing::{debug, trace};

use crate::driver::{Ended, Handle};
use crate::metrics::Counters;

/// Bytes of a datagram that we read: a scrape of 74 images has 1496; what is longer is no request.
const DATAGRAM_BYTES_MAX: usize = 2048;
/// Questions of clients that wait for the mind at once; more are dropped.
const ASKED_MAX: usize = 512;
/// How long the mind may take: a client asks again after 15 s.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// Unproven answers to one address in a second: three hundred PCs behind one address, with one repetition.
const UNPROVEN_PER_SECOND: u16 = 600;
/// Addresses share this many counters by a keyed hash, so the table never grows. Two that share one share its limit.
const UNPROVEN_SLOTS: usize = 4096;
/// What a client with an old or invented connection id hears: no longer than the shortest question that has one.
const BAD_ID: &str = "bad connection id";
/// Rest after a receive that failed.
const RECEIVE_PAUSE: Duration = Duration::from_millis(50);

pub(super) struct Server {
    desk: Arc<Desk>,
    /// Minutes since the start, for connection ids.
    minute: u64,
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
        Self { desk, minute: 0, unproven: Unproven::default(), asked: Arc::new(Semaphore::new(ASKED_MAX)) }
    }

    pub(super) async fn run(mut self, mut stopping: watch::Receiver<bool>) {
        let mut buffer = [0; DATAGRAM_BYTES_MAX];
        let mut second = tokio::time::interval(Duration::from_secs(1));
        let mut minute = tokio::time::interval(Duration::from_secs(60));
        second.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let desk = self.desk.clone();
        loop {
            tokio::select! {
                received = desk.socket.recv_from(&mut buffer) => match received {
                    Ok((len, source)) => self.received(&buffer[..len], source),
                    Err(error) => {
                        debug!(%error, "cannot receive from the tracker's UDP socket");
                        tokio::time::sleep(RECEIVE_PAUSE).await;
                    }
                },
                _ = second.tick(), if self.unproven.any => self.unproven.forget(),
                _ = minute.tick() => self.minute += 1,
                _ = stopping.changed() => return,
            }
        }
    }
}

impl Server {
    fn received(&mut self, datagram: &[u8], source: SocketAddr) {
        let client = source.ip().to_canonical();
        match Request::decode(datagram, client) {
            Ok(Request::Connect { transaction }) => {
                self.desk.counters.udp_connects.add_one();
                let connection = udp_tracker::connection_id(&self.desk.secret, client, self.minute);
                self.answer_unproven(&Response::Connect { transaction, connection }, source);
            }
            Ok(Request::Announce { connection, transaction, announce, .. }) => {
                if self.is_proven(connection, transaction, source) {
                    self.ask(source, |desk| desk.announce(transaction, announce, source));
                }
            }
            Ok(Request::Scrape { connection, transaction, hashes }) => {
                if self.is_proven(connection, transaction, source) {
                    self.ask(source, |desk| desk.scrape(transaction, hashes));
                }
            }
            Err(error) => {
                trace!(%source, %error, "not a request to the tracker");
                self.desk.counters.udp_dropped.add_one();
            }
        }
    }

    fn is_proven(&mut self, connection: u64, transaction: u32, source: SocketAddr) -> bool {
        let client = source.ip().to_canonical();
        let proven = udp_tracker::connection_id_is_valid(connection, &self.desk.secret, client, self.minute);
        if !proven {
            self.answer_unproven(&Response::Error { transaction, message: BAD_ID.to_owned() }, source);
        }
        proven
    }

    fn answer_unproven(&mut self, response: &Response, source: SocketAddr) {
        match self.unproven.allow(source.ip().to_canonical()) {
            true => self.desk.send(response, source),
            false => self.desk.counters.udp_dropped.add_one(),
        }
    }

    /// Lets a question wait for the mind, so that the next datagram does not.
    fn ask<F>(&self, source: SocketAddr, question: impl FnOnce(Arc<Desk>) -> F)
    where
        F: Future<Output = Result<Response, Ended>> + Send + 'static,
    {
        let Ok(place) = self.asked.clone().try_acquire_owned() else {
            return self.desk.counters.udp_dropped.add_one();
        };
        let desk = self.desk.clone();
        let answer = tokio::time::timeout(ANSWER_WITHIN, question(desk.clone()));
        tokio::spawn(async move {
            match answer.await {
                Ok(Ok(response)) => desk.send(&response, source),
                Ok(Err(Ended)) | Err(_) => desk.counters.udp_dropped.add_one(),
            }
            drop(place);
        });
    }
}

impl Desk {
    async fn announce(
        self: Arc<Self>,
        transaction: u32,
        announce: Announce,
        source: SocketAddr,
    ) -> Result<Response, Ended> {
        self.counters.udp_announces.add_one();
        Ok(match self.handle.announce(announce).await? {
            Ok(announced) => Response::Announce { transaction, source: source.ip().to_canonical(), announced },
            Err(reason) => {
                self.counters.announce_failures.add_one();
                Response::Error { transaction, message: reason.to_owned() }
            }
        })
    }

    async fn scrape(self: Arc<Self>, transaction: u32, hashes: Vec<InfoHash>) -> Result<Response, Ended> {
        self.counters.udp_scrapes.add_one();
        let known = self.handle.scrape(hashes.clone()).await?;
        let of = |hash| known.iter().find(|s| s.info_hash == hash).cloned().unwrap_or_default();
        Ok(Response::Scrape { transaction, swarms: hashes.into_iter().map(of).collect() })
    }

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
        assert_eq!(allowed(&mut unproven), usize::from(UNPROVEN_PER_SECOND));
        unproven.forget();
        assert_eq!(allowed(&mut unproven), usize::from(UNPROVEN_PER_SECOND));
    }
}
