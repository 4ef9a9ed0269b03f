//! Announces that went wrong on their way, as many as a tracker takes: what `tests/bench/tracker abuse` sends.
//!
//! Rule: each begins as what a client would say, so that it comes as far into the tracker as it can, and is then
//! damaged, cut, repeated or filled with values that nobody should send. All follows from the seed. Not here: whether
//! the tracker bears it (the script looks).
//!
//! `mutants http|udp ADDR [--seconds N] [--seed N] [--hash HEX]`; HEX is an image of the tracker's catalogue.

#![allow(clippy::print_stdout, reason = "a program for the command line")]

use std::collections::VecDeque;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect};

/// Source addresses, 127.2.0.1 and on: a room's, so that the limits of one address do not stop most of it.
const ADDRESSES: u32 = 1000;
/// Connections that say half of something and stay: beyond these the oldest goes.
const HELD_MAX: usize = 200;
/// How long an answer is waited for: the tracker may wait for the rest of a head, and then says nothing.
const PATIENCE: Duration = Duration::from_millis(10);
/// Datagrams that are sent before their answers are looked at.
const BURST: usize = 64;
/// What stands where a number, a hash or a port should.
const ODD: [&[u8]; 20] = [
    b"",
    b"0",
    b"-1",
    b"65536",
    b"4294967296",
    b"9223372036854775808",
    b"18446744073709551616",
    b"999999999999999999999999999999999999",
    b"1e9",
    b"%",
    b"%0",
    b"%zz",
    b"%00%00%00%00%00%00%00%00%00%00%00%00%00%00%00%00%00%00%00%00",
    b"\xff\xfe\x80",
    b"\0",
    b" ",
    b"\r\n",
    b"\r\n\r\nGET /scrape HTTP/1.1\r\n",
    b"&info_hash=&peer_id=&port=&left=",
    b"%c3%a9%f0%9f%98%80",
];
const KEYS: [&str; 14] = [
    "info_hash",
    "peer_id",
    "port",
    "uploaded",
    "downloaded",
    "left",
    "event",
    "numwant",
    "compact",
    "no_peer_id",
    "ip",
    "key",
    "trackerid",
    "ipv6",
];

struct Mutants {
    to: SocketAddr,
    rng: ChaCha8Rng,
    hash: [u8; 20],
    sent: u64,
    answers: u64,
}

fn main() -> anyhow::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let value = |name: &str| words.iter().position(|w| w == name).and_then(|at| words.get(at + 1));
    let number = |name, default| value(name).map_or(Ok(default), |word| word.parse::<u64>());
    let (seconds, seed) = (number("--seconds", 10)?, number("--seed", 1)?);
    let to = words.get(1).context("mutants http|udp ADDR [--seconds N] [--seed N] [--hash HEX]")?.parse()?;
    let mut hash = [7; 20];
    for (n, byte) in hash.iter_mut().enumerate() {
        if let Some(hex) = value("--hash") {
            *byte = u8::from_str_radix(hex.get(2 * n..2 * n + 2).context("--hash has 40 digits")?, 16)?;
        }
    }
    let mut mutants = Mutants { to, rng: ChaCha8Rng::seed_from_u64(seed), hash, sent: 0, answers: 0 };
    let until = Instant::now() + Duration::from_secs(seconds);
    match words[0].as_str() {
        "http" => mutants.over_http(until)?,
        "udp" => mutants.over_udp(until)?,
        other => bail!("http or udp, not {other}"),
    }
    println!("{{\"sent\": {}, \"answers\": {}, \"seed\": {seed}}}", mutants.sent, mutants.answers);
    Ok(())
}

impl Mutants {
    fn below(&mut self, n: usize) -> usize {
        (self.rng.next_u64() % n.max(1) as u64) as usize
    }

    fn source(&mut self) -> SocketAddr {
        let n = self.below(ADDRESSES as usize) as u32;
        (Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 2, 0, 1)) + n), 0).into()
    }

    fn over_http(&mut self, until: Instant) -> anyhow::Result<()> {
        let mut held = VecDeque::with_capacity(HELD_MAX);
        let mut answer = [0; 4096];
        while Instant::now() < until {
            let mut stream = self.connect()?;
            let bytes = self.requests();
            let half = self.below(bytes.len() + 1);
            self.sent += 1;
            // The tracker may have refused it, or hung up after the first part.
            let written = stream.write_all(&bytes[..half]).and_then(|()| stream.write_all(&bytes[half..]));
            if written.is_err() {
                continue;
            }
            match self.below(8) {
                0 => {
                    held.truncate(HELD_MAX - 1);
                    held.push_front(stream);
                }
                1 => {}
                choice => {
                    if choice > 4 && stream.shutdown(Shutdown::Write).is_err() {
                        continue;
                    }
                    if stream.read(&mut answer).is_ok_and(|got| answer[..got].starts_with(b"HTTP/1.")) {
                        self.answers += 1;
                    }
                }
            }
        }
        Ok(())
    }

    fn connect(&mut self) -> anyhow::Result<TcpStream> {
        let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        bind(&socket, &self.source())?;
        connect(&socket, &self.to).context("the tracker takes no connection")?;
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(stream)
    }

    /// What one connection says: one request, sometimes two or three, most of them damaged.
    fn requests(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for _ in 0..=self.below(8).saturating_sub(5) {
            let mut one = self.request();
            if self.below(4) > 0 {
                self.damage(&mut one);
            }
            bytes.extend(one);
        }
        bytes
    }

    fn request(&mut self) -> Vec<u8> {
        let mut bytes = match self.below(12) {
            0 => b"GET /scrape?".to_vec(),
            1 => b"GET /announce.php?".to_vec(),
            2 => b"HEAD /announce?".to_vec(),
            3 => b"GET http://labmesh.local/announce?".to_vec(),
            _ => b"GET /announce?".to_vec(),
        };
        for key in KEYS {
            let value = match self.below(16) {
                0 => continue,
                1 => ODD[self.below(ODD.len())].to_vec(),
                _ => self.value(key),
            };
            for _ in 0..=self.below(20).saturating_sub(18) {
                bytes.extend([key.as_bytes(), b"=", &value, b"&"].concat());
            }
        }
        bytes.extend(b" HTTP/1.1\r\nHost: 127.0.0.1:7979\r\nUser-Agent: mutants\r\n");
        match self.below(6) {
            0 => bytes.extend(b"Connection: close\r\n"),
            1 => bytes.extend(b"X-Forwarded-For: 10.0.0.1, ::1, nobody\r\n"),
            2 => bytes.extend([&b"Cookie: "[..], &vec![b'x'; self.below(20_000)], b"\r\n"].concat()),
            _ => {}
        }
        bytes.extend(b"\r\n");
        bytes
    }

    fn value(&mut self, key: &str) -> Vec<u8> {
        match key {
            "info_hash" => quoted(&self.info_hash()),
            "peer_id" => quoted(&self.peer_id()),
            "port" => self.below(65536).to_string().into_bytes(),
            "event" => [&b"started"[..], b"completed", b"stopped", b""][self.below(4)].to_vec(),
            "numwant" => self.below(300).to_string().into_bytes(),
            "compact" | "no_peer_id" => self.below(2).to_string().into_bytes(),
            "ip" => b"10.1.2.3".to_vec(),
            "ipv6" => b"[fe80::1]:6881".to_vec(),
            _ => (self.rng.next_u64() >> self.below(64)).to_string().into_bytes(),
        }
    }

    /// Of the catalogue, of a hundred others, or of none.
    fn info_hash(&mut self) -> [u8; 20] {
        let mut hash = [9; 20];
        match self.below(8) {
            0..4 => hash = self.hash,
            4..7 => hash[19] = self.below(100) as u8,
            _ => self.rng.fill_bytes(&mut hash),
        }
        hash
    }

    fn peer_id(&mut self) -> [u8; 20] {
        let mut id = *b"-XX0001-............";
        self.rng.fill_bytes(&mut id[8..]);
        id
    }

    /// One to six wounds.
    fn damage(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..=self.below(6) {
            let from = self.below(bytes.len() + 1);
            let to = (from + 1 + self.below(12)).min(bytes.len());
            match self.below(7) {
                0 if from < bytes.len() => bytes[from] ^= 1 << self.below(8),
                1 => drop(bytes.drain(from..to)),
                2 => {
                    let again = bytes[from..to].to_vec();
                    bytes.splice(from..from, again.repeat(1 + self.below(40)));
                }
                3 => {
                    let odd = ODD[self.below(ODD.len())];
                    bytes.splice(from..to, odd.iter().copied());
                }
                4 => {
                    let mut noise = vec![0; self.below(64)];
                    self.rng.fill_bytes(&mut noise);
                    bytes.splice(from..from, noise);
                }
                5 if self.below(4) == 0 => bytes.truncate(from),
                _ => bytes.reverse(),
            }
        }
    }

    fn over_udp(&mut self, until: Instant) -> anyhow::Result<()> {
        let mut answer = [0; 2048];
        while Instant::now() < until {
            let socket = UdpSocket::bind(self.source())?;
            socket.connect(self.to)?;
            socket.set_read_timeout(Some(PATIENCE))?;
            let mut connect = 0x0417_2710_1980_u64.to_be_bytes().to_vec();
            connect.extend([0, 0, 0, 0, 1, 2, 3, 4]);
            let id = match socket.send(&connect).and_then(|_| socket.recv(&mut answer)) {
                Ok(16..) => answer[8..16].try_into().expect("eight bytes"),
                Ok(_) | Err(_) => [0; 8],
            };
            for _ in 0..BURST {
                let datagram = self.datagram(id);
                // Refused if an earlier one was: then nobody listens, which the script sees.
                let _ = socket.send(&datagram);
                self.sent += 1;
            }
            socket.set_read_timeout(Some(Duration::from_millis(1)))?;
            while socket.recv(&mut answer).is_ok() {
                self.answers += 1;
            }
        }
        Ok(())
    }

    fn datagram(&mut self, id: [u8; 8]) -> Vec<u8> {
        let mut bytes = id.to_vec();
        let action = if self.below(5) == 0 { 2 } else { 1 };
        bytes.extend([0, 0, 0, action, 0, 0, 0, self.below(256) as u8]);
        bytes.extend(self.info_hash());
        if action == 2 {
            for _ in 0..self.below(74) {
                bytes.extend(self.info_hash());
            }
        } else {
            bytes.extend(self.peer_id());
            for _ in 0..3 {
                bytes.extend((self.rng.next_u64() >> self.below(64)).to_be_bytes());
            }
            bytes.extend([0, 0, 0, self.below(4) as u8, 0, 0, 0, 0, 1, 2, 3, 4]);
            bytes.extend((self.below(300) as i32 - 1).to_be_bytes());
            bytes.extend((self.below(65536) as u16).to_be_bytes());
        }
        if self.below(4) > 0 {
            self.damage(&mut bytes);
        }
        bytes
    }
}

fn quoted(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().flat_map(|b| format!("%{b:02x}").into_bytes()).collect()
}
