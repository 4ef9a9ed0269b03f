//! The desk: one thread that takes every connection and datagram of the tracker port and answers announces by the batch.
//!
//! Rule: an announce costs as few system calls as the kernel allows, and the mind is asked once for all that came in one
//! turn. A connection is read at once, since the request is often there already; it is watched only if it is not. What
//! is no announce is handed to the pages with what was read of it. While the mind has a batch, at most one more is
//! gathered; then the desk reads no more, and the kernel's buffers and their limits hold. Under load it rests a moment
//! between two turns, so that batches are worth their way.
//!
//! There is no clock here: a timer rings once a second, and every deadline is a number of rings.
//!
//! Not here: what an announce is ([`super::head`], [`super::udp`]), limits for one address ([`super::limits`]).

use std::collections::VecDeque;
use std::io::{self, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use labmesh_proto::id::RequestId;
use labmesh_proto::wire::http_tracker::{self, Announce, Announced};
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketFlags, acceptfrom_with, recv, send};
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use tokio::sync::mpsc;
use tracing::debug;

use super::answers::{Answer, Answers};
use super::head::{self, AnnounceHead, Head};
use super::limits::{Rate, Seat, Seats};
use super::pages::Visitor;
use super::udp::{self, Datagrams};
use super::{LATE, Policy};
use crate::driver::{Announces, Handle};
use crate::metrics::Counters;

/// Announces that are gathered before the mind is asked, and datagrams or connections that are taken in one turn: the
/// mind spends less than a millisecond on them, so that a heartbeat is never late.
const BATCH_MAX: usize = 256;
/// Rest after a turn that brought several announces: under load more come together, so that they share the changes
/// between this thread and the driver's, and the kernel has nobody to wake for each. One that comes alone never waits.
const GATHER: Duration = Duration::from_micros(200);
/// A turn with more than these is worth its way without a rest.
const CROWD_MAX: usize = 32;
/// Announces that wait for the mind or for the master; the oldest is given up.
const WAITING_MAX: usize = 4096;
/// Bytes of a head that the desk keeps: an announce has some 300. With more the pages deal.
const HEAD_BYTES_MAX: usize = 4 * 1024;
/// Rings that a head may take, and a connection may idle between two requests. The tests are less patient.
const HEAD_WITHIN: u64 = if cfg!(test) { 2 } else { 10 };
/// Rings after which a connection gets its present answer and is closed: an announcing client comes once in 30 s.
const CONNECTION_AGE_MAX: u64 = 300;
/// Rings that the mind may take.
const ANSWER_WITHIN: u64 = super::ANSWER_WITHIN.as_secs();
/// Milliseconds that answers may take when the node ends.
const GOODBYE_MS: u64 = 500;
/// Rest after an `accept` that failed, usually for want of file descriptors.
const ACCEPT_PAUSE_MS: u64 = 50;
/// What a client too many hears.
const TURNED_AWAY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 2\r\n\
    Content-Type: text/plain\r\nContent-Length: 40\r\n\r\ntoo many connections, try another node.\n";
/// What an address hears that announces more often than it may.
const TOO_OFTEN: &str = "too many announces from your address, wait a second";

const LISTENER: u64 = u64::MAX;
const UDP: u64 = u64::MAX - 1;
const BELL: u64 = u64::MAX - 2;
const TIMER: u64 = u64::MAX - 3;

/// Everything the desk holds.
pub(super) struct Desk {
    epoll: OwnedFd,
    timer: OwnedFd,
    listener: TcpListener,
    datagrams: Datagrams,
    answers: Arc<Answers>,
    handle: Handle,
    counters: Arc<Counters>,
    policy: Arc<Policy>,
    pages: mpsc::Sender<Visitor>,

    seats: Arc<Seats>,
    announces: Rate,
    /// By number; a closed one leaves a gap that the next takes.
    clients: Vec<Option<Client>>,
    gaps: Vec<u32>,
    /// Tells a connection from one that had its number before.
    next_serial: u32,
    /// For the mind, when it has taken the last.
    batch: Announces,
    asked: bool,
    waiting: Waiting,
    /// Rings of the timer so far.
    rings: u64,
    received: Vec<u8>,
    /// The answer that is being made.
    body: Vec<u8>,
    out: Vec<u8>,
}

/// An HTTP connection that may announce.
struct Client {
    stream: TcpStream,
    addr: SocketAddr,
    seat: Seat,
    serial: u32,
    /// What was received and is not dealt with.
    head: Vec<u8>,
    /// The kernel tells when there is more.
    watched: bool,
    /// There may be more to read now.
    readable: bool,
    /// The mind has its announce.
    asked: bool,
    born: u64,
    heard: u64,
}

/// Who waits for an answer.
enum Asker {
    Http { number: u32, serial: u32, compact: bool, no_peer_id: bool, keep: bool, old: bool },
    Udp(udp::Asker),
}

/// Who waits, in the order of the questions. Answers come in about that order.
#[derive(Default)]
struct Waiting {
    first: u64,
    askers: VecDeque<Option<(Asker, u64)>>,
}

impl Waiting {
    fn push(&mut self, asker: Asker, until: u64) -> RequestId {
        self.askers.push_back(Some((asker, until)));
        RequestId(self.first + self.askers.len() as u64 - 1)
    }

    fn take(&mut self, id: RequestId) -> Option<Asker> {
        let at = usize::try_from(id.0.checked_sub(self.first)?).ok()?;
        let (asker, _) = self.askers.get_mut(at)?.take()?;
        while let Some(None) = self.askers.front() {
            self.askers.pop_front();
            self.first += 1;
        }
        Some(asker)
    }

    /// Whoever waits too long, or is the oldest of too many.
    fn overdue(&mut self, rings: u64) -> Option<Asker> {
        let crowded = self.askers.len() > WAITING_MAX;
        let late = matches!(self.askers.front(), Some(Some((_, until))) if *until <= rings || crowded);
        late.then(|| self.take(RequestId(self.first))).flatten()
    }
}

impl Desk {
    #[expect(clippy::too_many_arguments, reason = "called once, with what it holds")]
    pub(super) fn new(
        listener: TcpListener,
        udp: std::net::UdpSocket,
        answers: Arc<Answers>,
        handle: Handle,
        counters: Arc<Counters>,
        policy: Arc<Policy>,
        pages: mpsc::Sender<Visitor>,
        runtime: tokio::runtime::Handle,
    ) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer = rustix::time::timerfd_create(TimerfdClockId::Monotonic, flags)?;
        let second = Timespec { tv_sec: 1, tv_nsec: 0 };
        let spec = Itimerspec { it_interval: second, it_value: second };
        rustix::time::timerfd_settime(&timer, TimerfdTimerFlags::empty(), &spec)?;
        let datagrams = Datagrams::new(udp, handle.clone(), counters.clone(), policy.clone(), runtime);
        for (fd, token) in
            [(listener.as_fd(), LISTENER), (datagrams.socket(), UDP), (answers.bell(), BELL), (timer.as_fd(), TIMER)]
        {
            epoll::add(&epoll, fd, EventData::new_u64(token), EventFlags::IN)?;
        }
        Ok(Self {
            epoll,
            timer,
            listener,
            datagrams,
            answers,
            handle,
            counters,
            announces: Rate::new(policy.announces_per_address),
            policy,
            pages,
            seats: Arc::default(),
            clients: Vec::new(),
            gaps: Vec::new(),
            next_serial: 0,
            batch: Vec::with_capacity(BATCH_MAX),
            asked: false,
            waiting: Waiting::default(),
            rings: 0,
            received: vec![0; HEAD_BYTES_MAX],
            body: Vec::with_capacity(4096),
            out: Vec::with_capacity(4096),
        })
    }

    /// Answers until [`Answers::stop`].
    pub(super) fn run(mut self) {
        let mut events = Vec::with_capacity(BATCH_MAX);
        while !self.answers.is_stopped() {
            if self.batch.len() >= BATCH_MAX && self.asked {
                // Nothing more can be taken until the mind has dealt with the last batch.
                let mut bell = [PollFd::from_borrowed_fd(self.answers.bell(), PollFlags::IN)];
                if poll(&mut bell, None).is_ok() {
                    self.hand_out();
                }
            } else {
                events.clear();
                match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), None) {
                    Ok(_) | Err(Errno::INTR) => {}
                    Err(error) => {
                        tracing::error!(%error, "the tracker port cannot wait for its sockets");
                        return;
                    }
                }
                for event in &events {
                    self.happened(event.data.u64());
                }
            }
            let came = self.batch.len();
            self.ask();
            if (2..=CROWD_MAX).contains(&came) {
                std::thread::sleep(GATHER);
            }
        }
        self.say_goodbye();
    }

    fn happened(&mut self, token: u64) {
        match token {
            LISTENER => self.accept(),
            UDP => self.receive(),
            BELL => self.hand_out(),
            TIMER => self.ring(),
            client => {
                let (number, serial) = (client as u32, (client >> 32) as u32);
                if let Some(client) = self.client(number, serial) {
                    client.readable = true;
                    if !client.asked {
                        self.read(number);
                    }
                }
            }
        }
    }

    /// Asks the mind, unless it is still busy with the last batch.
    fn ask(&mut self) {
        if self.asked || self.batch.is_empty() {
            return;
        }
        let batch = std::mem::replace(&mut self.batch, Vec::with_capacity(BATCH_MAX));
        match self.handle.announce(batch, &self.answers) {
            Ok(()) => self.asked = true,
            // The line is full: the next ring of the timer, or whatever comes first, tries again.
            Err(batch) => self.batch = batch,
        }
    }

    fn ring(&mut self) {
        let mut count = [0; 8];
        // It may have been read before.
        let _ = rustix::io::read(&self.timer, &mut count);
        self.rings += 1;
        self.announces.forget();
        self.datagrams.ring(self.rings);
        while let Some(asker) = self.waiting.overdue(self.rings) {
            self.answer_late(asker, Err(LATE));
        }
        for number in 0..self.clients.len() as u32 {
            let Some(client) = &self.clients[number as usize] else { continue };
            let idle = self.rings.saturating_sub(client.heard) > HEAD_WITHIN;
            let old = self.rings - client.born > CONNECTION_AGE_MAX;
            if !client.asked && (idle || old) {
                self.close(number);
            }
        }
    }

    // ---- datagrams

    fn receive(&mut self) {
        for _ in 0..BATCH_MAX {
            if self.batch.len() >= BATCH_MAX {
                return;
            }
            match self.datagrams.receive() {
                None => return,
                Some(None) => {}
                Some(Some((asker, announce))) => {
                    self.counters.udp_announces.add_one();
                    if self.announces.allow(announce.source) {
                        let id = self.waiting.push(Asker::Udp(asker), self.rings + ANSWER_WITHIN);
                        self.batch.push((id, announce));
                    } else {
                        self.counters.announce_failures.add_one();
                        self.datagrams.refuse(&asker, TOO_OFTEN);
                    }
                }
            }
        }
    }

    // ---- connections

    fn accept(&mut self) {
        for _ in 0..BATCH_MAX {
            if self.batch.len() >= BATCH_MAX {
                return;
            }
            let (stream, addr) = match acceptfrom_with(&self.listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
                Ok((stream, addr)) => (TcpStream::from(stream), addr.and_then(|a| SocketAddr::try_from(a).ok())),
                Err(Errno::AGAIN) => return,
                // The client has gone away again.
                Err(Errno::CONNABORTED | Errno::INTR) => continue,
                Err(error) => {
                    debug!(%error, "cannot take an HTTP connection");
                    return std::thread::sleep(Duration::from_millis(ACCEPT_PAUSE_MS));
                }
            };
            let Some(addr) = addr else { continue };
            let ip = addr.ip().to_canonical();
            match Seats::take(&self.seats, (!self.policy.trusts(ip)).then_some(ip)) {
                Some(seat) => {
                    self.counters.http_connections.add_one();
                    let number = self.sit(stream, addr, seat);
                    self.read(number);
                }
                None => {
                    self.counters.http_refused.add_one();
                    // Says why, if the kernel takes it at once.
                    let _ = send(&stream, TURNED_AWAY, SendFlags::NOSIGNAL);
                }
            }
        }
    }

    fn sit(&mut self, stream: TcpStream, addr: SocketAddr, seat: Seat) -> u32 {
        self.next_serial = self.next_serial.wrapping_add(1) & 0x7fff_ffff;
        let client = Client {
            stream,
            addr,
            seat,
            serial: self.next_serial,
            head: Vec::new(),
            watched: false,
            readable: true,
            asked: false,
            born: self.rings,
            heard: self.rings,
        };
        if let Some(number) = self.gaps.pop() {
            self.clients[number as usize] = Some(client);
            return number;
        }
        self.clients.push(Some(client));
        self.clients.len() as u32 - 1
    }

    fn client(&mut self, number: u32, serial: u32) -> Option<&mut Client> {
        self.clients.get_mut(number as usize)?.as_mut().filter(|client| client.serial == serial)
    }

    fn close(&mut self, number: u32) {
        if self.clients[number as usize].take().is_some() {
            self.gaps.push(number);
        }
    }

    /// Deals with what there is, until there is an announce for the mind, nothing more, or something for the pages.
    fn read(&mut self, number: u32) {
        let mut received = std::mem::take(&mut self.received);
        // What is kept may hold a whole head, unless it was looked at and nothing has come since.
        let mut fresh = true;
        while let Some(client) = self.clients[number as usize].as_mut().filter(|client| !client.asked) {
            if fresh && !client.head.is_empty() {
                let kept = std::mem::take(&mut client.head);
                let used = self.dealt_with(number, &kept);
                fresh = self.keep(number, &kept, used);
            } else if !client.readable {
                self.watch(number);
                break;
            } else {
                match recv(&client.stream, &mut received[..], RecvFlags::empty()) {
                    Ok((len @ 1.., _)) => {
                        // With an edge-triggered watch, a read that did not fill its buffer has read all.
                        client.readable = len == received.len();
                        if client.head.is_empty() {
                            let used = self.dealt_with(number, &received[..len]);
                            fresh = self.keep(number, &received[..len], used);
                        } else {
                            client.head.extend_from_slice(&received[..len]);
                            fresh = true;
                        }
                    }
                    Err(Errno::AGAIN) => client.readable = false,
                    Err(Errno::INTR) => {}
                    Ok(_) | Err(_) => self.close(number),
                }
            }
        }
        self.received = received;
    }

    /// Keeps what was not used of a client's bytes; whether another head may be in it.
    fn keep(&mut self, number: u32, bytes: &[u8], used: Option<usize>) -> bool {
        let Some((used, client)) = used.zip(self.clients[number as usize].as_mut()) else { return false };
        client.head.extend_from_slice(&bytes[used..]);
        used > 0
    }

    /// Takes one announce from the front; how many bytes it was, or `None` if the connection is gone from here.
    fn dealt_with(&mut self, number: u32, bytes: &[u8]) -> Option<usize> {
        match head::read(bytes) {
            Head::Partial if bytes.len() < HEAD_BYTES_MAX => Some(0),
            Head::Announce(announce) => {
                self.announced(number, &announce);
                Some(announce.len)
            }
            Head::Partial | Head::Page => {
                self.show_pages(number, bytes);
                None
            }
        }
    }

    fn announced(&mut self, number: u32, head: &AnnounceHead<'_>) {
        let Some(client) = self.clients[number as usize].as_mut() else { return };
        self.counters.http_requests.add_one();
        self.counters.http_announces.add_one();
        client.heard = self.rings;
        let AnnounceHead { keep, old, .. } = *head;
        let keep = keep && self.rings - client.born <= CONNECTION_AGE_MAX;
        let source = self.policy.client(client.addr.ip(), head.forwarded, || http_tracker::claimed_ip(head.query));
        let asker = |announce: Option<&Announce>| Asker::Http {
            number,
            serial: client.serial,
            compact: announce.is_none_or(|a| a.compact),
            no_peer_id: announce.is_some_and(|a| a.no_peer_id),
            keep,
            old,
        };
        match Announce::parse(head.query, source) {
            Ok(announce) if self.announces.allow(source) => {
                client.asked = true;
                let id = self.waiting.push(asker(Some(&announce)), self.rings + ANSWER_WITHIN);
                self.batch.push((id, announce));
            }
            Ok(_) => {
                let asker = asker(None);
                self.answer(asker, Err(TOO_OFTEN));
            }
            Err(bad) => {
                let asker = asker(None);
                self.answer(asker, Err(&http_tracker::garbage(&bad)));
            }
        }
    }

    /// Has the kernel tell when a connection says more.
    fn watch(&mut self, number: u32) {
        let Some(client) = self.clients[number as usize].as_mut() else { return };
        if client.watched {
            return;
        }
        let token = u64::from(client.serial) << 32 | u64::from(number);
        let flags = EventFlags::IN | EventFlags::RDHUP | EventFlags::ET;
        match epoll::add(&self.epoll, &client.stream, EventData::new_u64(token), flags) {
            Ok(()) => client.watched = true,
            Err(error) => {
                debug!(%error, "cannot watch an HTTP connection");
                self.close(number);
            }
        }
    }

    /// Hands a connection to the pages, with what was read of it.
    fn show_pages(&mut self, number: u32, read: &[u8]) {
        let Some(client) = self.clients[number as usize].take() else { return };
        self.gaps.push(number);
        if client.watched && epoll::delete(&self.epoll, &client.stream).is_err() {
            return;
        }
        let Client { stream, addr, seat, .. } = client;
        // There is room for as many as there are seats, unless the node is ending.
        let _ = self.pages.try_send(Visitor { stream, addr, seat, read: read.to_vec() });
    }

    // ---- answers

    fn hand_out(&mut self) {
        let mut answers: Vec<Answer> = Vec::new();
        if self.answers.collect(&mut answers) {
            self.asked = false;
        }
        for (id, result) in answers {
            let Some(asker) = self.waiting.take(id) else { continue };
            self.answer_late(asker, result.as_ref().map_err(|reason| *reason));
        }
    }

    /// Answers somebody who had to wait, and goes on with its connection.
    fn answer_late(&mut self, asker: Asker, result: Result<&Announced, &str>) {
        let client = match asker {
            Asker::Http { number, serial, .. } => Some((number, serial)),
            Asker::Udp(_) => None,
        };
        self.answer(asker, result);
        if let Some((number, serial)) = client
            && self.client(number, serial).is_some()
        {
            self.read(number);
        }
    }

    fn answer(&mut self, asker: Asker, result: Result<&Announced, &str>) {
        if result.is_err() {
            self.counters.announce_failures.add_one();
        }
        match asker {
            Asker::Udp(asker) => self.datagrams.answer(asker, result),
            Asker::Http { number, serial, compact, no_peer_id, keep, old } => {
                if self.client(number, serial).is_some() {
                    self.body.clear();
                    match result {
                        Ok(announced) => announced.write(&mut self.body, compact, no_peer_id),
                        Err(reason) => self.body.extend_from_slice(&http_tracker::encode_failure(reason)),
                    }
                    write_answer(&mut self.out, &self.body, keep, old);
                    self.send(number, keep);
                }
            }
        }
    }

    /// Sends what is in `out`. Who does not take a whole answer at once is cut off: the kernel has room for many.
    fn send(&mut self, number: u32, keep: bool) {
        let Some(client) = self.clients[number as usize].as_mut() else { return };
        client.asked = false;
        client.heard = self.rings;
        // The last answer leaves together with the end of the connection, in one packet.
        let flags = if keep { SendFlags::NOSIGNAL } else { SendFlags::NOSIGNAL | SendFlags::MORE };
        let sent = send(&client.stream, &self.out, flags);
        if !keep || sent != Ok(self.out.len()) {
            self.close(number);
        }
    }

    /// Those who wait still get their answers, if the mind is quick.
    fn say_goodbye(mut self) {
        let wait = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
        for _ in 0..GOODBYE_MS / 50 {
            if self.waiting.askers.is_empty() {
                return;
            }
            let mut bell = [PollFd::from_borrowed_fd(self.answers.bell(), PollFlags::IN)];
            if poll(&mut bell, Some(&wait)).is_ok() {
                self.hand_out();
            }
        }
    }
}

/// The whole HTTP answer to one announce.
fn write_answer(out: &mut Vec<u8>, body: &[u8], keep: bool, old: bool) {
    out.clear();
    out.extend_from_slice(if old { b"HTTP/1.0 200 OK\r\n" } else { b"HTTP/1.1 200 OK\r\n" });
    out.extend_from_slice(b"Content-Type: text/plain\r\nCache-Control: no-store\r\n");
    match (keep, old) {
        (true, false) => {}
        (true, true) => out.extend_from_slice(b"Connection: keep-alive\r\n"),
        (false, _) => out.extend_from_slice(b"Connection: close\r\n"),
    }
    write!(out, "Content-Length: {}\r\n\r\n", body.len()).expect("a vector takes every byte");
    out.extend_from_slice(body);
}

impl Policy {
    /// Whether this address may speak for others.
    pub(super) fn trusts(&self, ip: IpAddr) -> bool {
        self.trusted_proxies.contains(&ip)
    }

    /// Whom an announce is for: whoever sent it, or whom a configured proxy names.
    pub(super) fn client(
        &self,
        source: IpAddr,
        forwarded: Option<IpAddr>,
        claimed: impl FnOnce() -> Option<IpAddr>,
    ) -> IpAddr {
        let source = source.to_canonical();
        if !self.trusts(source) {
            return source;
        }
        forwarded.or_else(claimed).unwrap_or(source)
    }
}
