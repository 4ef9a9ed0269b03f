//! A virtual group of nodes: election, roster and discovery of each, joined as the router joins them, on an invented
//! network with clock, latency, loss and partitions.
//!
//! Rule: everything is decided by the seed, and what must never happen is checked after every event. Not here: images
//! (the simulator has them), expectations of single tests.
//!
//! The network behaves as measured: datagrams are lost or late; a control connection across a cut says nothing, and
//! delivers what was said during the cut long after it healed, unless it was closed; a killed program closes its
//! connections and refuses new ones, a stopped one accepts and is silent; mDNS finds who is advertised, and heals
//! nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::config::Weight;
use crate::discovery::{self, Discovery};
use crate::election::{self, Election, Role};
use crate::id::{Epoch, NodeId, Time};
use crate::roster::{self, Roster};
use crate::wire::control::{Beat, Member, Message};
use crate::wire::metainfo::Metainfo;

mod routing;

#[cfg(test)]
mod random;
#[cfg(test)]
mod traces;

/// The control port of every host.
const PORT: u16 = 6970;
/// How long a control connection stays silent after a cut of ten seconds has healed (measured). The wait between two
/// retransmissions doubles, so after a shorter cut it is silent for at most as long again.
const STALL: Duration = Duration::from_millis(3100);
/// How long a dial into nothing takes.
const DIAL_TIMEOUT: Duration = Duration::from_secs(5);

/// What the network does to messages.
#[derive(Clone, Copy, Debug)]
pub struct Link {
    /// The shortest one-way delay.
    pub delay_min: Duration,
    /// The longest one-way delay.
    pub delay_max: Duration,
    /// Of a thousand datagrams, how many are lost.
    pub loss_permille: u32,
}

/// How much of the dialogue is written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verbosity {
    /// Who is what.
    Roles,
    /// And every message of the election but heartbeats.
    Messages,
}

/// One machine.
struct Host {
    id: NodeId,
    addr: SocketAddr,
    weight: Weight,
    preferred: bool,
    /// Nothing while its program is not running.
    parts: Option<Parts>,
    on_disk: Epoch,
    /// The highest epoch that it has obeyed, or had on disk at its start: it obeys no lower one.
    obeyed: Epoch,
    starts: u64,
    /// Which part of a cut network it hangs on.
    island: usize,
    /// Receives no datagrams.
    deaf: bool,
    /// Stopped or suspended; what arrives waits.
    frozen: bool,
    waiting: Vec<Happening>,
    browsing: bool,
    advertised: bool,
}

/// The mind of one node, as far as it takes part here.
struct Parts {
    election: Election,
    roster: Roster,
    discovery: Discovery,
}

/// What reaches a node.
#[derive(Clone, Debug)]
enum Happening {
    Beat { from: SocketAddr, beat: Beat },
    Found(usize),
    Join(SocketAddr),
    Up(usize),
    Down(usize),
    Unreachable { node: Option<NodeId>, addr: SocketAddr, refused: bool },
    Message { from: usize, message: Message },
    Persisted(Epoch),
    ForceClaim,
    Release,
    Shutdown,
}

#[derive(Clone, Debug)]
enum Event {
    /// For the program of a host, if it is still the same start of it.
    Deliver {
        to: usize,
        start: u64,
        what: Happening,
    },
    /// Over a control connection, if it still stands.
    Control {
        from: usize,
        to: usize,
        connection: u64,
        message: Message,
    },
    /// The other side's close arrives.
    Closed {
        at: usize,
        by: usize,
        connection: u64,
    },
    Dialled {
        from: usize,
        start: u64,
        node: Option<NodeId>,
        addr: SocketAddr,
    },
}

/// One control connection, as each side believes.
#[derive(Clone, Debug)]
struct Connection {
    number: u64,
    /// Each side's belief: lower host first.
    open: [bool; 2],
    /// When the last message arrives, in each direction.
    busy_until: [Time; 2],
    /// What was sent across a cut, and since when.
    stalled: Vec<Event>,
    stalled_at: Time,
}

/// Hosts and the network between them.
pub struct Group {
    now: Time,
    rng: ChaCha8Rng,
    link: Link,
    multicast: bool,
    verbosity: Verbosity,
    hosts: Vec<Host>,
    queue: BTreeMap<(Time, u64), Event>,
    sequence: u64,
    connections: BTreeMap<(usize, usize), Connection>,
    log: Vec<String>,
    /// Since when two claimants are in one part of the network, and the longest that it lasted.
    rivals_since: Option<Time>,
    rivals_longest: Duration,
}

impl Group {
    /// Machines that are switched off, one of each weight.
    pub fn new(weights: &[Weight], link: Link, seed: u64) -> Self {
        let hosts = weights.iter().enumerate().map(|(n, weight)| Host {
            id: NodeId([n as u8 + 1; 32]),
            addr: SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, n as u8 + 1)), PORT),
            weight: *weight,
            preferred: false,
            parts: None,
            on_disk: Epoch::default(),
            obeyed: Epoch::default(),
            starts: 0,
            island: 0,
            deaf: false,
            frozen: false,
            waiting: Vec::new(),
            browsing: false,
            advertised: false,
        });
        Self {
            now: Time(0),
            rng: ChaCha8Rng::seed_from_u64(seed),
            link,
            multicast: true,
            verbosity: Verbosity::Messages,
            hosts: hosts.collect(),
            queue: BTreeMap::new(),
            sequence: 0,
            connections: BTreeMap::new(),
            log: Vec::new(),
            rivals_since: None,
            rivals_longest: Duration::ZERO,
        }
    }

    /// The time of the group.
    pub fn now(&self) -> Time {
        self.now
    }

    /// How many machines there are.
    pub fn len(&self) -> usize {
        self.hosts.len()
    }

    /// Whether there is no machine.
    pub fn is_empty(&self) -> bool {
        self.hosts.is_empty()
    }

    /// From now on the network does this.
    pub fn set_link(&mut self, link: Link) {
        self.link = link;
    }

    /// Whether multicast works: without it there is neither mDNS nor beacon.
    pub fn set_multicast(&mut self, works: bool) {
        self.multicast = works;
    }

    /// A host is given the address of another (`--join`).
    pub fn join(&mut self, host: usize, other: usize) {
        let addr = self.hosts[other].addr;
        self.happen(host, Happening::Join(addr));
    }

    /// From now on this much is written down.
    pub fn set_verbosity(&mut self, verbosity: Verbosity) {
        self.verbosity = verbosity;
    }

    /// What was written down since the last call.
    pub fn take_log(&mut self) -> Vec<String> {
        std::mem::take(&mut self.log)
    }

    /// Writes a remark between the lines.
    pub fn note(&mut self, remark: &str) {
        self.write(Verbosity::Roles, remark);
    }

    /// Starts the program of a host.
    pub fn start(&mut self, host: usize) {
        let seed = self.rng.next_u64();
        let (now, h) = (self.now, &mut self.hosts[host]);
        let member = Member {
            id: h.id,
            name: letter(host),
            addr: None,
            control_port: PORT,
            peer_port: 6881,
            http_port: 6969,
            weight: h.weight,
            site: String::new(),
            version: "0".to_owned(),
        };
        h.starts += 1;
        h.obeyed = h.on_disk;
        h.parts = Some(Parts {
            election: Election::new(now, h.id, h.weight, false, PORT, h.on_disk, seed).preferred(h.preferred),
            roster: Roster::new(now, member, false),
            discovery: Discovery::new(h.id, seed),
        });
        self.drain(host);
    }

    /// From its next start on the host is preferred as master.
    pub fn prefer(&mut self, host: usize) {
        self.hosts[host].preferred = true;
    }

    /// The program ends without a word; the machine lives and refuses connections.
    pub fn kill(&mut self, host: usize) {
        let h = &mut self.hosts[host];
        h.parts = None;
        (h.frozen, h.browsing, h.advertised) = (false, false, false);
        h.waiting.clear();
        for other in 0..self.hosts.len() {
            self.close(host, other);
        }
        self.observe(host);
    }

    /// The program says goodbye and ends.
    pub fn stop(&mut self, host: usize) {
        self.happen(host, Happening::Shutdown);
        self.kill(host);
    }

    /// The program stands still (SIGSTOP), or the machine is suspended; its connections stay open.
    pub fn suspend(&mut self, host: usize) {
        self.hosts[host].frozen = true;
    }

    /// The program goes on: first its timers, then what has arrived meanwhile.
    pub fn resume(&mut self, host: usize) {
        self.hosts[host].frozen = false;
        self.wake(host);
        for what in std::mem::take(&mut self.hosts[host].waiting) {
            self.happen(host, what);
        }
    }

    /// The host receives no datagrams (or does again).
    pub fn set_deaf(&mut self, host: usize, deaf: bool) {
        self.hosts[host].deaf = deaf;
    }

    /// Cuts the network: each host hangs on the island of that number.
    pub fn cut(&mut self, islands: &[usize]) {
        for (host, island) in self.hosts.iter_mut().zip(islands) {
            host.island = *island;
        }
        for (pair, connection) in &mut self.connections {
            if self.hosts[pair.0].island == self.hosts[pair.1].island {
                let silence = STALL.min(self.now.since(connection.stalled_at));
                for (n, event) in connection.stalled.drain(..).enumerate() {
                    self.sequence += 1;
                    let at = self.now + silence + Duration::from_micros(n as u64);
                    self.queue.insert((at, self.sequence), event);
                }
            }
        }
        self.observe_rivals();
    }

    /// One network again. mDNS does not notice; control connections do after a while.
    pub fn heal(&mut self) {
        self.cut(&vec![0; self.hosts.len()]);
    }

    /// A person wants this host to be master.
    pub fn claim(&mut self, host: usize) {
        self.happen(host, Happening::ForceClaim);
    }

    /// A person wants this host to stop being master.
    pub fn release(&mut self, host: usize) {
        self.happen(host, Happening::Release);
    }

    /// A heartbeat that `from` never sent reaches a host.
    pub fn forge(&mut self, from: usize, term: u64, to: usize) {
        let epoch = Epoch { term, node: self.hosts[from].id };
        let beat = Beat {
            epoch,
            seq: 1,
            members: 1000,
            solo: false,
            control_port: PORT,
            roster: 0,
            catalogue: 0,
            signature: crate::wire::control::Signature::default(),
        };
        self.happen(to, Happening::Beat { from: self.hosts[from].addr, beat });
    }

    /// What a host is; nothing if its program does not run.
    pub fn role(&self, host: usize) -> Option<Role> {
        self.hosts[host].parts.as_ref().map(|parts| parts.election.role())
    }

    /// Whom a host obeys.
    pub fn master(&self, host: usize) -> Option<usize> {
        let master = self.hosts[host].parts.as_ref()?.election.master()?;
        self.index(&master)
    }

    /// The epoch a host obeys.
    pub fn epoch(&self, host: usize) -> Option<Epoch> {
        self.hosts[host].parts.as_ref()?.election.epoch()
    }

    /// The live members in a host's roster.
    pub fn live_members(&self, host: usize) -> usize {
        let parts = self.hosts[host].parts.as_ref();
        parts.map_or(0, |parts| parts.roster.entries().filter(|entry| entry.live).count())
    }

    /// The running hosts of a host's part of the network, itself included.
    pub fn reachable(&self, host: usize) -> usize {
        (0..self.hosts.len()).filter(|other| self.awake(*other) && !self.is_cut(host, *other)).count()
    }

    /// The control connections of a host.
    pub fn degree(&self, host: usize) -> usize {
        self.hosts[host].parts.as_ref().map_or(0, |parts| parts.discovery.connected())
    }

    /// The longest time for which two claimants were masters in one part of the network.
    pub fn rivals_longest(&self) -> Duration {
        self.rivals_longest.max(self.rivals_since.map_or(Duration::ZERO, |since| self.now.since(since)))
    }

    /// Every running host of each island obeys one master of that island (or is alone and solo).
    pub fn is_settled(&self) -> bool {
        let islands: BTreeSet<usize> = self.hosts.iter().map(|host| host.island).collect();
        islands.into_iter().all(|island| {
            let awake = |n: &usize| self.awake(*n) && self.hosts[*n].island == island;
            let masters: BTreeSet<Option<usize>> =
                (0..self.hosts.len()).filter(awake).map(|n| self.master(n)).collect();
            masters.len() <= 1 && masters.iter().all(|master| master.is_some_and(|n| awake(&n)))
        })
    }

    /// Lets that much time pass.
    pub fn advance(&mut self, time: Duration) {
        let end = self.now + time;
        while self.step(end) {}
        self.now = end;
    }

    /// Lets time pass until the group is settled, at most `limit`; how long it took.
    pub fn settle(&mut self, limit: Duration) -> Option<Duration> {
        let start = self.now;
        while !self.is_settled() {
            if !self.step(start + limit) {
                return None;
            }
        }
        Some(self.now.since(start))
    }

    /// Lets that much time pass; how long it took until the group was settled for the rest of it.
    pub fn last_unsettled(&mut self, window: Duration) -> Duration {
        let (start, mut last) = (self.now, Duration::ZERO);
        let mut settled = self.is_settled();
        while self.step(start + window) {
            if !settled {
                last = self.now.since(start);
            }
            settled = self.is_settled();
        }
        self.now = start + window;
        if settled { last } else { window }
    }

    /// The next event or timer before `end`.
    fn step(&mut self, end: Time) -> bool {
        let timers = self.hosts.iter().enumerate().filter(|(_, host)| !host.frozen);
        let timer = timers.filter_map(|(n, host)| Some((host.parts.as_ref()?.deadline()?, n))).min();
        let event = self.queue.first_key_value().map(|((at, _), _)| *at);
        match (timer, event) {
            (Some((at, host)), event) if at <= end && event.is_none_or(|event| at <= event) => {
                self.now = self.now.max(at);
                self.wake(host);
            }
            (_, Some(at)) if at <= end => {
                self.now = self.now.max(at);
                if let Some((_, event)) = self.queue.pop_first() {
                    self.carry_out(event);
                }
            }
            _ => return false,
        }
        true
    }

    fn carry_out(&mut self, event: Event) {
        match event {
            Event::Deliver { to, start, what } => {
                if self.hosts[to].starts == start {
                    self.happen(to, what);
                }
            }
            Event::Control { from, to, connection, message } => self.deliver_control(from, to, connection, message),
            Event::Closed { at, by, connection } => self.deliver_close(at, by, connection),
            Event::Dialled { from, start, node, addr } => {
                if self.hosts[from].starts == start && self.hosts[from].parts.is_some() {
                    self.dialled(from, node, addr);
                }
            }
        }
    }

    fn deliver_control(&mut self, from: usize, to: usize, number: u64, message: Message) {
        let cut = self.is_cut(from, to);
        let Some(connection) = self.connections.get_mut(&pair(from, to)) else { return };
        if connection.number != number || !connection.open[side(to, from)] {
            return;
        }
        if cut {
            connection.stall(self.now, Event::Control { from, to, connection: number, message });
        } else {
            self.happen(to, Happening::Message { from, message });
        }
    }

    fn deliver_close(&mut self, at: usize, by: usize, number: u64) {
        let cut = self.is_cut(at, by);
        let Some(connection) = self.connections.get_mut(&pair(at, by)) else { return };
        if connection.number != number {
            return;
        }
        if cut {
            return connection.stall(self.now, Event::Closed { at, by, connection: number });
        }
        let open = std::mem::take(&mut connection.open[side(at, by)]);
        self.connections.remove(&pair(at, by));
        if open {
            self.happen(at, Happening::Down(by));
        }
    }

    fn dialled(&mut self, from: usize, node: Option<NodeId>, addr: SocketAddr) {
        let Some(to) = self.hosts.iter().position(|host| host.addr == addr) else { return };
        let refused = self.hosts[to].parts.is_none();
        if self.is_cut(from, to) || self.hosts[to].frozen || refused {
            let wait = if refused && !self.is_cut(from, to) { Duration::ZERO } else { DIAL_TIMEOUT };
            self.deliver_after(wait, from, Happening::Unreachable { node, addr, refused: wait.is_zero() });
            return;
        }
        let stands = self.connections.get(&pair(from, to)).is_some_and(|c| c.open == [true; 2]);
        if !stands {
            self.sequence += 1;
            let connection = Connection {
                number: self.sequence,
                open: [true; 2],
                busy_until: [self.now; 2],
                stalled: Vec::new(),
                stalled_at: self.now,
            };
            let old = self.connections.insert(pair(from, to), connection);
            if old.is_none_or(|old| !old.open[side(to, from)]) {
                self.happen(to, Happening::Up(from));
            }
        }
        self.happen(from, Happening::Up(to));
    }

    /// One side closes; the other hears of it.
    fn close(&mut self, by: usize, other: usize) {
        let Some(connection) = self.connections.get_mut(&pair(by, other)) else { return };
        connection.open[side(by, other)] = false;
        let (number, at) = (connection.number, self.now + self.delay());
        self.schedule(at, Event::Closed { at: other, by, connection: number });
    }

    /// Something reaches a program; if it stands still, it waits.
    fn happen(&mut self, host: usize, what: Happening) {
        let h = &mut self.hosts[host];
        if h.parts.is_none() {
            return;
        }
        if h.frozen {
            h.waiting.push(what);
            return;
        }
        self.route(host, what);
        self.observe(host);
    }

    fn wake(&mut self, host: usize) {
        let now = self.now;
        let Some(parts) = &mut self.hosts[host].parts else { return };
        let due = |timeout: Option<(Time, &'static str)>| timeout.is_some_and(|(at, _)| at <= now);
        if due(parts.election.poll_timeout()) {
            parts.election.handle_timeout(now);
        }
        if due(parts.roster.poll_timeout()) {
            parts.roster.handle_timeout(now);
        }
        if due(parts.discovery.poll_timeout()) {
            parts.discovery.handle_timeout(now);
        }
        self.drain(host);
        self.observe(host);
    }

    /// What must hold at the host that was just touched.
    fn observe(&mut self, host: usize) {
        let h = &mut self.hosts[host];
        if let Some(parts) = &h.parts {
            let election = &parts.election;
            let role = election.role();
            if let (Role::Follower | Role::Master, Some(epoch)) = (role, election.epoch()) {
                assert!(epoch >= h.obeyed, "{} obeys {epoch:?} after {:?}", letter(host), h.obeyed);
                assert!(role == Role::Follower || h.on_disk >= epoch, "{} claims what is not on disk", letter(host));
                h.obeyed = epoch;
            }
            let late = parts.deadline().is_some_and(|at| at < self.now);
            assert!(!late, "{} has a deadline that does not move: {:?}", letter(host), parts.reason());
        }
        self.observe_rivals();
    }

    fn observe_rivals(&mut self) {
        let mut islands = BTreeSet::new();
        let masters = (0..self.hosts.len()).filter(|n| self.awake(*n) && self.role(*n) == Some(Role::Master));
        let rivals = masters.filter(|n| !islands.insert(self.hosts[*n].island)).count() > 0;
        match (rivals, self.rivals_since) {
            (true, None) => self.rivals_since = Some(self.now),
            (false, Some(since)) => {
                self.rivals_longest = self.rivals_longest.max(self.now.since(since));
                self.rivals_since = None;
            }
            (true, Some(_)) | (false, None) => {}
        }
    }

    fn awake(&self, host: usize) -> bool {
        self.hosts[host].parts.is_some() && !self.hosts[host].frozen
    }

    fn is_cut(&self, a: usize, b: usize) -> bool {
        self.hosts[a].island != self.hosts[b].island
    }

    fn index(&self, node: &NodeId) -> Option<usize> {
        self.hosts.iter().position(|host| host.id == *node)
    }

    fn schedule(&mut self, at: Time, event: Event) {
        self.sequence += 1;
        self.queue.insert((at, self.sequence), event);
    }

    fn deliver_after(&mut self, wait: Duration, to: usize, what: Happening) {
        let start = self.hosts[to].starts;
        self.schedule(self.now + wait, Event::Deliver { to, start, what });
    }

    fn delay(&mut self) -> Duration {
        self.between(self.link.delay_min, self.link.delay_max)
    }

    fn between(&mut self, min: Duration, max: Duration) -> Duration {
        let spread = (max - min).as_nanos() as u64;
        min + Duration::from_nanos(((u128::from(self.rng.next_u64()) * u128::from(spread)) >> 64) as u64)
    }

    fn write(&mut self, verbosity: Verbosity, line: &str) {
        if self.verbosity == verbosity || verbosity == Verbosity::Roles {
            self.log.push(format!("{:.3} {line}", self.now.as_secs_f64()));
        }
    }

    /// `5c`: term 5 of host c; `5-`: a term from a disk.
    fn epoch_name(&self, epoch: Epoch) -> String {
        format!("{}{}", epoch.term, self.index(&epoch.node).map_or("-".to_owned(), letter))
    }
}

impl Connection {
    fn stall(&mut self, now: Time, event: Event) {
        if self.stalled.is_empty() {
            self.stalled_at = now;
        }
        self.stalled.push(event);
    }
}

impl Parts {
    fn reason(&self) -> Option<(Time, &'static str)> {
        let timeouts = [self.election.poll_timeout(), self.roster.poll_timeout(), self.discovery.poll_timeout()];
        timeouts.into_iter().flatten().min()
    }

    fn deadline(&self) -> Option<Time> {
        self.reason().map(|(at, _)| at)
    }
}

/// `a` to `z`, then `a1`.
fn letter(host: usize) -> String {
    let letter = char::from(b'a' + (host % 26) as u8);
    if host < 26 { letter.to_string() } else { format!("{letter}{}", host / 26) }
}

fn pair(a: usize, b: usize) -> (usize, usize) {
    (a.min(b), a.max(b))
}

/// Which side of their connection `host` is.
fn side(host: usize, other: usize) -> usize {
    usize::from(host > other)
}

/// A torrent of that size whose piece hashes mean nothing: enough for everything that never sees a byte.
pub fn metainfo(length: u64, piece_length: u32) -> Arc<Metainfo> {
    let pieces = length.div_ceil(u64::from(piece_length)) as usize * 20;
    let mut info =
        format!("d6:lengthi{length}e4:name4:a.im12:piece lengthi{piece_length}e6:pieces{pieces}:").into_bytes();
    info.resize(info.len() + pieces, 7);
    info.push(b'e');
    Arc::new(Metainfo::from_info(info).expect("the info dictionary is well formed"))
}
