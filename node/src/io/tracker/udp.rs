//! The tracker over UDP (BEP 15): datagrams in, datagrams out.
//!
//! Rule: nothing that an address has not proven by its connection id gets an answer longer than its question, and not
//! more than [`SHORT_PER_SECOND`] of those: with a forged source this port is of no use against anybody. Who announces
//! too often hears so as often at most. A datagram that cannot be answered now is dropped; the client asks again (BEP 15,
//! "time outs").
//!
//! Not here: the layout of datagrams and connection ids (`labmesh_proto::wire::udp_tracker`), when to read
//! ([`super::desk`]).

use std::hash::{BuildHasher as _, RandomState};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use labmesh_proto::id::InfoHash;
use labmesh_proto::wire::http_tracker::{Announce, Announced};
use labmesh_proto::wire::udp_tracker::{self, Request, Response, Secret};
use tokio::sync::Semaphore;
use tracing::{debug, trace};

use super::Policy;
use super::limits::Rate;
use crate::driver::Handle;
use crate::metrics::Counters;

/// Bytes of a datagram that we read: a scrape of 74 images has 1496; what is longer is no request.
const DATAGRAM_BYTES_MAX: usize = 2048;
/// Scrapes that wait for the mind at once; more are dropped.
const SCRAPES_MAX: usize = 64;
/// How long the mind may take for one: a client asks again after 15 s.
const SCRAPED_WITHIN: Duration = Duration::from_secs(5);
/// Short answers to one address in a second, to the unproven and to those who ask too often: three hundred PCs behind one address, with one repetition.
const SHORT_PER_SECOND: u32 = 600;
/// What a client with an old or invented connection id hears: no longer than the shortest question that has one.
const BAD_ID: &str = "bad connection id";
/// Rings of the desk's timer, one a second, for which a connection id is new.
const MINUTE: u64 = 60;

pub(super) struct Datagrams {
    socket: Arc<UdpSocket>,
    handle: Handle,
    counters: Arc<Counters>,
    policy: Arc<Policy>,
    runtime: tokio::runtime::Handle,
    secret: Secret,
    /// Minutes since the start, for connection ids.
    minute: u64,
    short: Rate,
    scrapes: Arc<Semaphore>,
    received: Box<[u8; DATAGRAM_BYTES_MAX]>,
}

/// Who waits for the answer to an announce.
pub(super) struct Asker {
    transaction: u32,
    /// As the socket knows it.
    addr: SocketAddr,
}

impl Datagrams {
    pub(super) fn new(
        socket: UdpSocket,
        handle: Handle,
        counters: Arc<Counters>,
        policy: Arc<Policy>,
        runtime: tokio::runtime::Handle,
    ) -> Self {
        Self {
            socket: Arc::new(socket),
            handle,
            counters,
            policy,
            runtime,
            secret: secret(),
            minute: 0,
            short: Rate::new(SHORT_PER_SECOND),
            scrapes: Arc::new(Semaphore::new(SCRAPES_MAX)),
            received: Box::new([0; DATAGRAM_BYTES_MAX]),
        }
    }

    pub(super) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// A second has gone by; so many since the start.
    pub(super) fn ring(&mut self, seconds: u64) {
        self.short.forget();
        self.minute = seconds / MINUTE;
    }

    /// Takes the next datagram: `None` if there is none, an announce for the mind, or something that was dealt with.
    pub(super) fn receive(&mut self) -> Option<Option<(Asker, Announce)>> {
        let (len, addr) = match self.socket.recv_from(&mut self.received[..]) {
            Ok(received) => received,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return None,
            Err(error) => {
                // Such as a client that is not there any more, as an answer to it has shown.
                debug!(%error, "cannot receive from the tracker's UDP socket");
                return Some(None);
            }
        };
        let client = addr.ip().to_canonical();
        match Request::decode(&self.received[..len], client) {
            Ok(Request::Connect { transaction }) => {
                self.counters.udp_connects.add_one();
                let connection = udp_tracker::connection_id(&self.secret, client, self.minute);
                self.answer_shortly(&Response::Connect { transaction, connection }, addr);
            }
            Ok(Request::Announce { connection, transaction, claimed, mut announce, .. }) => {
                if self.is_proven(connection, transaction, addr) {
                    announce.source = self.policy.client(client, None, || claimed.map(IpAddr::V4));
                    return Some(Some((Asker { transaction, addr }, announce)));
                }
            }
            Ok(Request::Scrape { connection, transaction, hashes }) => {
                if self.is_proven(connection, transaction, addr) {
                    self.scrape(transaction, hashes, addr);
                }
            }
            Err(error) => {
                trace!(%addr, %error, "not a request to the tracker");
                self.counters.udp_dropped.add_one();
            }
        }
        Some(None)
    }

    /// Answers an announce; the error is the reason.
    pub(super) fn answer(&self, asker: Asker, result: Result<&Announced, &str>) {
        let Asker { transaction, addr } = asker;
        let response = match result {
            Ok(announced) => udp_tracker::encode_announced(transaction, addr.ip(), announced),
            Err(reason) => Response::Error { transaction, message: reason.to_owned() }.encode(),
        };
        send(&self.socket, &response, addr, &self.counters);
    }

    /// Tells a client that asks too often the reason why it gets no answer.
    pub(super) fn refuse(&mut self, asker: &Asker, reason: &str) {
        let Asker { transaction, addr } = *asker;
        self.answer_shortly(&Response::Error { transaction, message: reason.to_owned() }, addr);
    }

    fn is_proven(&mut self, connection: u64, transaction: u32, addr: SocketAddr) -> bool {
        let client = addr.ip().to_canonical();
        let proven = udp_tracker::connection_id_is_valid(connection, &self.secret, client, self.minute);
        if !proven {
            self.answer_shortly(&Response::Error { transaction, message: BAD_ID.to_owned() }, addr);
        }
        proven
    }

    fn answer_shortly(&mut self, response: &Response, addr: SocketAddr) {
        match self.short.allow(addr.ip().to_canonical()) {
            true => send(&self.socket, &response.encode(), addr, &self.counters),
            false => self.counters.udp_dropped.add_one(),
        }
    }

    /// Lets a scrape wait for the mind, so that the next datagram does not.
    fn scrape(&self, transaction: u32, hashes: Vec<InfoHash>, addr: SocketAddr) {
        self.counters.udp_scrapes.add_one();
        let Ok(place) = self.scrapes.clone().try_acquire_owned() else {
            return self.counters.udp_dropped.add_one();
        };
        let (socket, handle, counters) = (self.socket.clone(), self.handle.clone(), self.counters.clone());
        let allowed = self.policy.scrape_allowed.specific();
        self.runtime.spawn(async move {
            let response = match allowed {
                Err(reason) => Response::Error { transaction, message: reason.to_owned() },
                Ok(()) => match tokio::time::timeout(SCRAPED_WITHIN, handle.scrape(hashes.clone())).await {
                    Ok(Ok(known)) => {
                        let of = |hash| known.iter().find(|s| s.info_hash == hash).cloned().unwrap_or_default();
                        Response::Scrape { transaction, swarms: hashes.into_iter().map(of).collect() }
                    }
                    Ok(Err(_)) | Err(_) => return counters.udp_dropped.add_one(),
                },
            };
            send(&socket, &response.encode(), addr, &counters);
            drop(place);
        });
    }
}

/// Hands an answer to the kernel, or drops it if its buffers are full.
fn send(socket: &UdpSocket, response: &[u8], addr: SocketAddr, counters: &Counters) {
    if let Err(error) = socket.send_to(response, addr) {
        debug!(%addr, %error, "cannot send an answer of the tracker");
        counters.udp_dropped.add_one();
    }
}

/// Bytes that nobody outside can guess: SipHash under keys that the standard library took from the system.
fn secret() -> Secret {
    let mut bytes = Secret::default();
    for (n, part) in bytes.chunks_exact_mut(8).enumerate() {
        part.copy_from_slice(&RandomState::new().hash_one(n).to_be_bytes());
    }
    bytes
}
