//! A crowd of BitTorrent clients that announce as fast as a tracker answers: the load of `tests/bench/tracker`.
//!
//! Rule: one thread, no allocation per announce, and every answer is looked at: what is no announce answer counts as a
//! failure and not as speed. Times are from the first system call of an announce to its whole answer.
//!
//! `hashes SWARMS` prints the info hashes, for a whitelist. `close|keep|udp ADDR` announces:
//! a connection for each (`close`), on open connections (`keep`), or by datagrams (BEP 15).

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for the command line")]

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, connect, recv, send};

/// What is asked for on the command line.
struct Load {
    kind: Kind,
    to: SocketAddrV4,
    peers: usize,
    swarms: usize,
    /// Announces that wait for an answer at once.
    open: usize,
    /// Source addresses 127.1.0.1 and on, so that no limit for one address decides.
    addresses: usize,
    time: Duration,
    /// Stop after so many answers.
    count: Option<usize>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Close,
    Keep,
    Udp,
}

fn main() -> anyhow::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let number = |name: &str, default: usize| -> anyhow::Result<usize> {
        match words.iter().position(|w| w == name) {
            None => Ok(default),
            Some(at) => Ok(words.get(at + 1).with_context(|| format!("{name} needs a number"))?.parse()?),
        }
    };
    let kind = match words.first().map(String::as_str) {
        Some("hashes") => {
            let swarms: usize = words.get(1).context("how many?")?.parse()?;
            (0..swarms).for_each(|s| println!("{}", hex(&info_hash(s))));
            return Ok(());
        }
        Some("close") => Kind::Close,
        Some("keep") => Kind::Keep,
        Some("udp") => Kind::Udp,
        _ => bail!("announcers hashes SWARMS | close|keep|udp ADDR [--peers N] [--swarms N] [--open N] ..."),
    };
    let count = number("--count", 0)?;
    let load = Load {
        kind,
        to: words.get(1).context("which tracker?")?.parse()?,
        peers: number("--peers", 5000)?,
        swarms: number("--swarms", 100)?,
        open: number("--open", 250)?,
        addresses: number("--addresses", 250)?,
        time: Duration::from_secs(number("--seconds", 5)? as u64),
        count: (count > 0).then_some(count),
    };
    let mut crowd = Crowd::new(load)?;
    crowd.run()?;
    println!("{}", crowd.report());
    Ok(())
}

fn info_hash(swarm: usize) -> [u8; 20] {
    let mut hash = *b"announcers, swarm  xx";
    hash[18..20].copy_from_slice(&(swarm as u16).to_be_bytes());
    hash[..20].try_into().expect("twenty bytes")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn quoted(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("%{b:02x}")).collect()
}

fn source(address: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 1, (address / 250) as u8, (address % 250 + 1) as u8)
}

/// One announce at a time.
struct Line {
    socket: Option<OwnedFd>,
    address: usize,
    /// The port of its last connection.
    port: u16,
    /// How often this line has asked: its next peer follows from it.
    turn: usize,
    asked: Instant,
    /// BEP 15.
    connection: [u8; 8],
    transaction: u32,
}

struct Crowd {
    load: Load,
    epoll: OwnedFd,
    lines: Vec<Line>,
    /// Ready-made requests: HTTP heads, or datagrams without connection id and transaction.
    requests: Vec<Vec<u8>>,
    micros: Vec<u32>,
    failures: usize,
    lost: usize,
    began: Instant,
    ended: Instant,
}

impl Crowd {
    fn new(load: Load) -> anyhow::Result<Self> {
        ensure!(load.open > 0 && load.peers > 0 && load.addresses > 0, "nothing to do");
        let requests = (0..load.peers).map(|peer| request(&load, peer)).collect();
        let now = Instant::now();
        let line = |n: usize| Line {
            socket: None,
            address: n % load.addresses,
            port: (10_000 + n / load.addresses * 1000) as u16,
            turn: n / load.addresses,
            asked: now,
            connection: [0; 8],
            transaction: 0,
        };
        let lines = (0..load.open).map(line).collect();
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let micros = Vec::with_capacity(1 << 22);
        Ok(Self { load, epoll, lines, requests, micros, failures: 0, lost: 0, began: now, ended: now })
    }

    fn run(&mut self) -> anyhow::Result<()> {
        self.began = Instant::now();
        for n in 0..self.lines.len() {
            self.ask(n)?;
        }
        let mut events = Vec::with_capacity(1024);
        let mut looked = Instant::now();
        let wait = rustix::event::Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
        while self.began.elapsed() < self.load.time && self.load.count.is_none_or(|c| self.micros.len() < c) {
            events.clear();
            epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), Some(&wait))?;
            for event in &events {
                self.ready(event.data.u64() as usize)?;
            }
            if looked.elapsed() > Duration::from_secs(1) {
                looked = Instant::now();
                for n in 0..self.lines.len() {
                    if self.lines[n].asked.elapsed() > Duration::from_secs(3) {
                        self.lost += 1;
                        self.lines[n].socket = None;
                        self.ask(n)?;
                    }
                }
            }
        }
        self.ended = Instant::now();
        Ok(())
    }

    /// Begins the next announce of a line.
    fn ask(&mut self, n: usize) -> anyhow::Result<()> {
        let line = &mut self.lines[n];
        line.asked = Instant::now();
        if line.socket.is_none() {
            let kind = if self.load.kind == Kind::Udp { SocketType::DGRAM } else { SocketType::STREAM };
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            let socket = rustix::net::socket_with(AddressFamily::INET, kind, flags, None)?;
            // A port of our own choice spares the kernel the search for one.
            loop {
                line.port = if line.port >= 60_000 { 1024 } else { line.port + 1 };
                match bind(&socket, &SocketAddr::from((source(line.address), line.port))) {
                    Ok(()) => break,
                    Err(Errno::ADDRINUSE) => {}
                    Err(error) => bail!("cannot bind to {}: {error}", source(line.address)),
                }
            }
            match connect(&socket, &SocketAddr::V4(self.load.to)) {
                Ok(()) | Err(Errno::INPROGRESS) => {}
                Err(error) => bail!("cannot connect: {error}"),
            }
            epoll::add(&self.epoll, &socket, EventData::new_u64(n as u64), EventFlags::IN)?;
            line.socket = Some(socket);
            line.connection = [0; 8];
        }
        self.say(n)
    }

    /// Sends the request of a line.
    fn say(&mut self, n: usize) -> anyhow::Result<()> {
        let (addresses, peers) = (self.load.addresses, self.load.peers);
        let line = &mut self.lines[n];
        let socket = line.socket.as_ref().expect("opened by `ask`");
        let own = peers.div_ceil(addresses);
        let peer = (line.address + addresses * (line.turn * 7 % own)) % peers;
        let sent = if self.load.kind == Kind::Udp {
            line.transaction = line.transaction.wrapping_add(1);
            let mut datagram = [0; 98];
            let mut len = 98;
            if line.connection == [0; 8] {
                len = 16;
                datagram[..8].copy_from_slice(&0x0417_2710_1980_u64.to_be_bytes());
            } else {
                datagram.copy_from_slice(&self.requests[peer]);
                datagram[..8].copy_from_slice(&line.connection);
            }
            datagram[12..16].copy_from_slice(&line.transaction.to_be_bytes());
            send(socket, &datagram[..len], SendFlags::empty())
        } else {
            send(socket, &self.requests[peer], SendFlags::NOSIGNAL)
        };
        match sent {
            Ok(_) => Ok(()),
            // The connection is not through yet, or was refused: the handshake is asked after again in a moment.
            Err(Errno::AGAIN | Errno::NOTCONN) => {
                let socket = socket.as_fd();
                epoll::modify(&self.epoll, socket, EventData::new_u64(n as u64), EventFlags::OUT)?;
                Ok(())
            }
            Err(Errno::CONNREFUSED | Errno::PIPE | Errno::CONNRESET) => self.broken(n),
            Err(error) => bail!("cannot send: {error}"),
        }
    }

    fn broken(&mut self, n: usize) -> anyhow::Result<()> {
        self.failures += 1;
        ensure!(self.failures < 10_000 || self.failures < self.micros.len(), "the tracker does not answer");
        self.lines[n].socket = None;
        self.ask(n)
    }

    fn ready(&mut self, n: usize) -> anyhow::Result<()> {
        let Some(socket) = &self.lines[n].socket else { return Ok(()) };
        let mut buffer = [0_u8; 8192];
        let got = match recv(socket, &mut buffer, RecvFlags::empty()) {
            Ok((got, _)) => got,
            Err(Errno::AGAIN) => {
                epoll::modify(&self.epoll, socket.as_fd(), EventData::new_u64(n as u64), EventFlags::IN)?;
                return if self.load.kind == Kind::Udp { Ok(()) } else { self.say(n) };
            }
            Err(error) if std::io::Error::from(error).kind() == ErrorKind::OutOfMemory => bail!("out of memory"),
            Err(_) => return self.broken(n),
        };
        match self.load.kind {
            Kind::Udp => self.datagram(n, &buffer[..got]),
            Kind::Keep | Kind::Close if got == 0 => self.broken(n),
            kind => {
                // An answer of a few hundred bytes comes in one piece; a cut one counts as bad.
                if !is_announce_answer(&buffer[..got]) {
                    self.failures += 1;
                }
                if kind == Kind::Close {
                    self.lines[n].socket = None;
                }
                self.answered(n)
            }
        }
    }

    fn datagram(&mut self, n: usize, datagram: &[u8]) -> anyhow::Result<()> {
        let line = &mut self.lines[n];
        if datagram.len() < 16 || datagram[4..8] != line.transaction.to_be_bytes() {
            return Ok(());
        }
        match datagram[3] {
            0 => {
                line.connection.copy_from_slice(&datagram[8..16]);
                self.say(n)
            }
            1 => self.answered(n),
            _ => {
                line.connection = [0; 8];
                self.failures += 1;
                self.ask(n)
            }
        }
    }

    fn answered(&mut self, n: usize) -> anyhow::Result<()> {
        let line = &mut self.lines[n];
        self.micros.push(line.asked.elapsed().as_micros() as u32);
        line.turn += 1;
        if self.load.count.is_some_and(|count| self.micros.len() + self.load.open > count) {
            return Ok(());
        }
        self.ask(n)
    }

    fn report(&mut self) -> String {
        let seconds = (self.ended - self.began).as_secs_f64();
        self.micros.sort_unstable();
        let at = |share: f64| self.micros.get((self.micros.len() as f64 * share) as usize).copied().unwrap_or(0);
        format!(
            "{{\"answers\": {}, \"per_second\": {:.0}, \"p50_us\": {}, \"p99_us\": {}, \"max_us\": {}, \
             \"failures\": {}, \"lost\": {}}}",
            self.micros.len(),
            self.micros.len() as f64 / seconds,
            at(0.5),
            at(0.99),
            self.micros.last().copied().unwrap_or(0),
            self.failures,
            self.lost
        )
    }
}

/// A whole HTTP answer that carries peers.
fn is_announce_answer(bytes: &[u8]) -> bool {
    let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") else { return false };
    let (head, body) = (&bytes[..end], &bytes[end + 4..]);
    let key = b"Content-Length: ";
    let length = head.windows(key.len()).position(|w| w == key).map(|at| &head[at + key.len()..]);
    let digits = length.unwrap_or_default().iter().take_while(|b| b.is_ascii_digit());
    let length = digits.fold(0, |sum, digit| sum * 10 + usize::from(digit - b'0'));
    head.starts_with(b"HTTP/1.") && head[8..].starts_with(b" 200") && body.len() == length && body.starts_with(b"d8:c")
}

fn request(load: &Load, peer: usize) -> Vec<u8> {
    // Peers of one address are in different swarms, as on real machines.
    let (swarm, port) = (peer / load.addresses + peer % load.addresses, 10_000 + peer % 50_000);
    let hash = info_hash(swarm % load.swarms);
    let id = format!("-XX0001-{peer:012}");
    if load.kind != Kind::Udp {
        let connection = if load.kind == Kind::Close { "close" } else { "keep-alive" };
        return format!(
            "GET /announce?info_hash={}&peer_id={id}&port={port}&uploaded=0&downloaded=0&left=1000&compact=1\
             &numwant=50&key={peer:08x} HTTP/1.1\r\nHost: {}\r\nUser-Agent: announcers\r\nConnection: {connection}\
             \r\n\r\n",
            quoted(&hash),
            load.to
        )
        .into_bytes();
    }
    let mut datagram = vec![0; 8];
    datagram.extend([0, 0, 0, 1, 0, 0, 0, 0]);
    datagram.extend(hash);
    datagram.extend(id.as_bytes());
    datagram.extend([0; 8]);
    datagram.extend(1000_u64.to_be_bytes());
    datagram.extend([0; 8]);
    datagram.extend([0; 8]);
    datagram.extend((peer as u32).to_be_bytes());
    datagram.extend(50_i32.to_be_bytes());
    datagram.extend((port as u16).to_be_bytes());
    datagram
}
