//! A room of swarms in virtual time, for the tests of this module: full-duplex links with a rate and a latency, disks
//! that take a millisecond, and a tracker that tells everybody of everybody.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::{Input, Output, Start, Swarm};
use crate::bitfield::Bitfield;
use crate::config::{HUGE_BLOCK_BYTES, Mode, RateLimits, SeedTime};
use crate::error::CloseReason;
use crate::id::{Block, ConnId, ImageIndex, NodeId, PeerId, PieceIndex, Time};
use crate::io;
use crate::limiter::{self, Granted, Limiter};
use crate::testing::metainfo;
use crate::wire::control::{Neighbour, Neighbours, TransferState};
use crate::wire::metainfo::Metainfo;
use crate::wire::peer::{Handshake, Message, Range};

const LATENCY: Duration = Duration::from_micros(200);
const HASHING: Duration = Duration::from_millis(1);

pub(super) struct Host {
    pub(super) swarm: Swarm,
    pub(super) rate: u64,
    pub(super) uploaded: u64,
    pub(super) downloaded: u64,
    /// Bytes of the requests that it sent.
    pub(super) asked: u64,
    /// Bytes of the longest of them.
    pub(super) longest: u32,
    /// The pieces that it began, each behind whom it asked for the first block of it.
    pub(super) begun: Vec<(usize, u32)>,
    pub(super) complete_at: Option<Time>,
    /// Sends bytes that are not those of the image.
    pub(super) liar: bool,
    /// Takes requests and never answers.
    pub(super) silent: bool,
    /// Connections that it closed for what their other end had done before.
    pub(super) refusals: u32,
    limiter: Limiter,
    pub(super) me: PeerId,
    up: bool,
    announced: bool,
    left: u64,
    link_free: Time,
    tainted: BTreeMap<PieceIndex, bool>,
    stored: Option<Block>,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Due(Reverse<(Time, u64)>, usize);

pub(super) struct Room {
    pub(super) now: Time,
    pub(super) hosts: Vec<Host>,
    metainfo: Arc<Metainfo>,
    queue: BinaryHeap<Due>,
    events: BTreeMap<u64, (usize, Input)>,
    sequence: u64,
    /// The two hosts of each connection, and whether it stands.
    conns: Vec<([usize; 2], bool)>,
}

fn addr(host: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, (host / 250) as u8, (host % 250 + 1) as u8], 6881))
}

fn node(host: usize) -> NodeId {
    let mut id = [0; 32];
    id[..8].copy_from_slice(&(host as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    NodeId(id)
}

impl Room {
    pub(super) fn new(length: u64, piece_length: u32) -> Self {
        Self {
            now: Time(1_000_000_000),
            hosts: Vec::new(),
            metainfo: metainfo(length, piece_length),
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            sequence: 0,
            conns: Vec::new(),
        }
    }

    /// Adds a host and opens its copy; `whole` or nothing.
    pub(super) fn join(&mut self, rate: u64, mode: Mode, seed_time: Option<SeedTime>, whole: bool) -> usize {
        self.join_as(PeerId::of_node(&node(self.hosts.len())), rate, mode, seed_time, whole)
    }

    /// A seed that is no node of ours, as far as the others can see.
    pub(super) fn join_foreign(&mut self, rate: u64) -> usize {
        let mut me = *b"-TR3000-foreigner000";
        me[19] = self.hosts.len() as u8;
        self.join_as(PeerId(me), rate, Mode::Seeder, None, true)
    }

    fn join_as(&mut self, me: PeerId, rate: u64, mode: Mode, seed_time: Option<SeedTime>, whole: bool) -> usize {
        let host = self.hosts.len();
        let start = Start {
            image: ImageIndex(0),
            name: "a.img".to_owned(),
            metainfo: Arc::clone(&self.metainfo),
            me,
            peer_port: 6881,
            mode,
            seed_time,
            complete: whole,
            stopped: false,
            master: false,
            buffer_bytes: 64 << 20,
            limits: RateLimits::default(),
            block_bytes: HUGE_BLOCK_BYTES,
            exchange: true,
            transient: false,
            seed: host as u64,
        };
        let swarm = Swarm::new(self.now, start);
        self.hosts.push(Host {
            swarm,
            rate,
            uploaded: 0,
            downloaded: 0,
            asked: 0,
            longest: 0,
            begun: Vec::new(),
            limiter: Limiter::default(),
            complete_at: None,
            liar: false,
            silent: false,
            refusals: 0,
            me,
            up: true,
            announced: false,
            left: self.metainfo.geometry().length(),
            link_free: self.now,
            tainted: BTreeMap::new(),
            stored: None,
        });
        let pieces = self.metainfo.geometry().pieces();
        let here = if whole { Bitfield::full(pieces) } else { Bitfield::empty(pieces) };
        self.tell(host, Input::Opened(Ok(here)));
        host
    }

    /// Somebody at the address of `from` dials `to` and calls itself `peer_id`; whether it is refused for bad data.
    pub(super) fn refuses(&mut self, to: usize, from: usize, peer_id: PeerId) -> bool {
        let (conn, before) = (ConnId(self.conns.len() as u32), self.hosts[to].refusals);
        self.conns.push(([from, to], true));
        let handshake = Handshake { info_hash: self.metainfo.info_hash(), peer_id, fast: true, extended: true };
        let addr = SocketAddr::new(addr(from).ip(), 40_000);
        self.tell(to, Input::PeerUp { conn, addr, handshake, outgoing: false });
        self.hang_up(conn);
        self.hosts[to].refusals > before
    }

    /// Limits the rates of a host, as its node would.
    pub(super) fn limit(&mut self, host: usize, limits: RateLimits) {
        self.hosts[host].limiter.handle_input(self.now, limiter::Input::Limits(limits));
        self.tell(host, Input::Limits(limits));
    }

    pub(super) fn kill(&mut self, host: usize) {
        self.hosts[host].up = false;
        self.hosts[host].announced = false;
        for conn in 0..self.conns.len() {
            if self.conns[conn].0.contains(&host) {
                self.hang_up(ConnId(conn as u32));
            }
        }
    }

    pub(super) fn tell(&mut self, host: usize, input: Input) {
        if self.hosts[host].up {
            self.hosts[host].swarm.handle_input(self.now, input);
            self.drain(host);
        }
    }

    /// Runs until `done`, or panics after `limit` of virtual time.
    #[track_caller]
    pub(super) fn run_until(&mut self, limit: Duration, what: &str, mut done: impl FnMut(&Self) -> bool) {
        let end = self.now + limit;
        while !done(self) {
            assert!(self.step(end), "{what}: not within {limit:?}");
        }
    }

    pub(super) fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        while self.step(end) {}
    }

    pub(super) fn state(&self, host: usize) -> TransferState {
        self.hosts[host].swarm.state(self.now)
    }

    pub(super) fn all_complete(&self) -> bool {
        self.hosts.iter().all(|h| !h.up || h.swarm.is_complete())
    }

    fn step(&mut self, end: Time) -> bool {
        let event = self.queue.peek().map(|Due(Reverse((at, _)), _)| *at).unwrap_or(Time::NEVER);
        let timeout = (0..self.hosts.len())
            .filter(|h| self.hosts[*h].up)
            .filter_map(|h| self.deadline(h).map(|(at, why)| (at, h, why)))
            .min();
        let at = event.min(timeout.map_or(Time::NEVER, |(at, ..)| at));
        if at > end {
            self.now = end;
            return false;
        }
        self.now = self.now.max(at);
        if event <= at {
            let Some(Due(Reverse((_, sequence)), host)) = self.queue.pop() else { return false };
            let (_, input) = self.events.remove(&sequence).expect("queued with its event");
            self.deliver(host, input);
        } else if let Some((due, host, why)) = timeout {
            let Host { swarm, limiter, .. } = &mut self.hosts[host];
            if limiter.poll_timeout().is_some_and(|(at, _)| at <= self.now) {
                limiter.handle_timeout(self.now);
            }
            if swarm.poll_timeout().is_some_and(|(at, _)| at <= self.now) {
                swarm.handle_timeout(self.now);
            }
            let next = self.deadline(host);
            assert!(next.is_none_or(|(at, _)| at > due), "the deadline {why:?} does not move");
            self.drain(host);
        }
        true
    }

    fn deadline(&self, host: usize) -> Option<(Time, &'static str)> {
        let Host { swarm, limiter, .. } = &self.hosts[host];
        [swarm.poll_timeout(), limiter.poll_timeout()].into_iter().flatten().min()
    }

    fn deliver(&mut self, host: usize, input: Input) {
        let stands = |conn: &ConnId| self.conns[conn.0 as usize].1;
        let gone = match &input {
            Input::Peer(conn, _) | Input::Block(conn, _) | Input::Sent(conn, _) => !stands(conn),
            _ => false,
        };
        if gone {
            return;
        }
        if let Input::Block(conn, range) = &input {
            let [a, b] = self.conns[conn.0 as usize].0;
            let from = if a == host { b } else { a };
            let g = self.metainfo.geometry();
            self.hosts[host].downloaded += u64::from(range.len);
            self.hosts[host].stored = g.block(range.piece, range.offset, range.len);
            let liar = self.hosts[from].liar;
            self.tell(host, input);
            // What was stored last tells whether a lie is in the piece.
            if let Some(block) = self.hosts[host].stored.take()
                && liar
            {
                self.hosts[host].tainted.insert(block.piece, true);
            }
            return;
        }
        self.tell(host, input);
    }

    fn later(&mut self, at: Time, host: usize, input: Input) {
        self.sequence += 1;
        self.events.insert(self.sequence, (host, input));
        self.queue.push(Due(Reverse((at, self.sequence)), host));
    }

    fn drain(&mut self, host: usize) {
        while let Some(output) = self.hosts[host].swarm.poll_output() {
            match output {
                Output::Border(output) => self.carry_out(host, output),
                Output::Announce(announce) => {
                    self.hosts[host].announced = !announce.leaving;
                    self.hosts[host].left = announce.left;
                    self.track(announce.starving);
                }
                Output::Wanted(direction) => {
                    let wanted = limiter::Input::Wanted(ImageIndex(0), direction);
                    self.hosts[host].limiter.handle_input(self.now, wanted);
                }
                Output::State { .. } => {}
            }
        }
        if let Some(Granted { direction, bytes, .. }) = self.hosts[host].limiter.poll_output() {
            return self.tell(host, Input::Granted(direction, bytes));
        }
        if self.hosts[host].complete_at.is_none() && self.hosts[host].swarm.is_complete() {
            self.hosts[host].complete_at = Some(self.now);
        }
    }

    fn track(&mut self, starving: bool) {
        let present: Vec<usize> = (0..self.hosts.len()).filter(|h| self.hosts[*h].announced).collect();
        let complete = present.iter().filter(|h| self.hosts[**h].left == 0).count() as u32;
        let incomplete = present.len() as u32 - complete;
        for host in &present {
            let others = present.iter().filter(|o| *o != host);
            let neighbours =
                others.map(|o| Neighbour { node: Some(node(*o)), addr: addr(*o), complete: self.hosts[*o].left == 0 });
            let info_hash = self.metainfo.info_hash();
            let answer =
                Neighbours { info_hash, neighbours: neighbours.collect(), complete, incomplete, stay: incomplete > 0 };
            self.later(self.now + LATENCY, *host, Input::Neighbours(answer));
        }
        let idle = (0..self.hosts.len()).find(|h| self.hosts[*h].up && self.state(*h) == TransferState::Idle);
        if let Some(idle) = idle
            && complete == 0
            && (starving || incomplete > 0)
        {
            self.later(self.now + LATENCY, idle, Input::Wake);
        }
    }

    fn other(&self, host: usize, conn: ConnId) -> usize {
        let [a, b] = self.conns[conn.0 as usize].0;
        if a == host { b } else { a }
    }

    fn hang_up(&mut self, conn: ConnId) {
        let (hosts, stands) = &mut self.conns[conn.0 as usize];
        if std::mem::take(stands) {
            for host in *hosts {
                self.later(self.now + LATENCY, host, Input::PeerDown(conn));
            }
        }
    }

    fn carry_out(&mut self, host: usize, output: io::Output) {
        match output {
            io::Output::DialPeer { addr: to, handshake, .. } => {
                let other = (0..self.hosts.len()).find(|h| addr(*h) == to && self.hosts[*h].up);
                let Some(other) = other else {
                    return self.later(self.now + LATENCY, host, Input::PeerUnreachable(to));
                };
                let conn = ConnId(self.conns.len() as u32);
                self.conns.push(([host, other], true));
                let answer = Handshake { peer_id: self.hosts[other].me, ..handshake };
                let up = |addr, handshake, outgoing| Input::PeerUp { conn, addr, handshake, outgoing };
                let ephemeral = SocketAddr::new(addr(host).ip(), 40_000);
                self.later(self.now + LATENCY, other, up(ephemeral, handshake, false));
                self.later(self.now + LATENCY * 2, host, up(to, answer, true));
            }
            io::Output::Close { conn, reason } => {
                self.hosts[host].refusals += u32::from(matches!(reason, CloseReason::Refused));
                self.hang_up(conn);
            }
            io::Output::Peer { conn, message } => {
                let other = self.other(host, conn);
                if let Message::Request(range) = &message {
                    let asking = &mut self.hosts[host];
                    asking.asked += u64::from(range.len);
                    asking.longest = asking.longest.max(range.len);
                    if range.offset == 0 {
                        asking.begun.push((other, range.piece));
                    }
                }
                self.later(self.now + LATENCY, other, Input::Peer(conn, message));
            }
            io::Output::Have { piece, to, .. } => {
                for conn in to {
                    let other = self.other(host, conn);
                    let have = Message::Have(piece.get());
                    self.later(self.now + LATENCY, other, Input::Peer(conn, have));
                }
            }
            io::Output::SendBlock { .. } if self.hosts[host].silent => {}
            io::Output::SendBlock { conn, block, .. } => {
                let other = self.other(host, conn);
                let rate = self.hosts[host].rate.min(self.hosts[other].rate);
                let start = self.hosts[host].link_free.max(self.now);
                let took = |rate| Duration::from_nanos(u64::from(block.len) * 1_000_000_000 / rate);
                self.hosts[host].link_free = start + took(self.hosts[host].rate);
                let end = start + took(rate);
                self.hosts[host].uploaded += u64::from(block.len);
                self.later(end, host, Input::Sent(conn, block));
                let range = Range { piece: block.piece.get(), offset: block.offset, len: block.len };
                self.later(end + LATENCY, other, Input::Block(conn, range));
            }
            io::Output::Verify { piece, .. } => {
                // The block that is being delivered is the last; its sender may be the liar.
                let stored = self.hosts[host].stored.take();
                let last = stored.is_some() && self.liar_is_sending(host);
                let bad = self.hosts[host].tainted.remove(&piece).unwrap_or(false) || last;
                self.later(self.now + HASHING, host, Input::Verified(piece, Ok(!bad)));
            }
            io::Output::Finish { .. } => self.later(self.now + HASHING, host, Input::Finished(Ok(()))),
            _ => {}
        }
    }

    fn liar_is_sending(&self, host: usize) -> bool {
        let liars = self.hosts.iter().filter(|h| h.liar).count();
        let sources = self.hosts[host].swarm.sources().filter(|(.., down, _)| *down > 0).count();
        liars > 0 && sources == liars
    }
}
