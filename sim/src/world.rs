//! The invented world: machines that run the real [`Node`], and everything between them.
//!
//! Rule: it is a driver like `labmesh`'s: after any `handle_*` every output is carried out in its order, then one
//! timer is armed. Nothing happens inside something else: every consequence is an event of its own.
//!
//! Not here: what bandwidth is ([`crate::network`]), what a partition does to TCP ([`crate::control`]), what must not
//! happen ([`crate::check`]). `docs/SIMULATION.md` says what this world does not show.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use labmesh_proto::bitfield::Bitfield;
use labmesh_proto::config::{Mode, SeedTime};
use labmesh_proto::id::{ConnId, ImageIndex, NodeId, RequestId, Time};
use labmesh_proto::io::{Command, Input, Output, Reply};
use labmesh_proto::node::{Node, Role, Status};
use labmesh_proto::wire::control::{Beat, TransferState};
use labmesh_proto::wire::metainfo::{Metainfo, piece_length_for};
use labmesh_proto::wire::peer::Handshake;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::check::Checker;
use crate::control::{Control, Word};
use crate::disk::{Copy, Disk};
use crate::faults::{Fault, below, plan};
use crate::network::{End, Item, Network, Step};
use crate::queue::Queue;
use crate::scenario::Scenario;
use crate::trace::{In, Out, Trace};

mod links;
mod machine;
mod mishaps;

use self::machine::{Machine, Power};

const CONTROL_PORT: u16 = 6970;
const PEER_PORT: u16 = 6881;
const HTTP_PORT: u16 = 6969;
/// The image of every scenario.
pub const IMAGE: &str = "lab.img";
/// Between two tries of a person whose `get` was refused.
const ASK_AGAIN: Duration = Duration::from_millis(500);
/// Timeouts of one machine at one moment; more means that its timer does not advance.
const TIMEOUTS_AT_ONCE: u32 = 10_000;
/// Memory for pieces in flight, as the default configuration has it.
const PIECE_BUFFER_BYTES: u64 = 64 << 20;

/// What happens next.
#[derive(Debug)]
enum Event {
    /// To a machine, if it still has the same life.
    Input(usize, u32, Box<Input>),
    Timer(usize, u32),
    Datagram {
        from: usize,
        to: usize,
        beat: Box<Beat>,
    },
    Found {
        browser: usize,
        found: usize,
    },
    ControlDial {
        from: usize,
        life: u32,
        node: Option<NodeId>,
        addr: SocketAddr,
    },
    ControlAnswer {
        from: usize,
        life: u32,
        to: usize,
        addr: SocketAddr,
    },
    Word {
        from: usize,
        to: usize,
        word: Box<Word>,
    },
    ReleaseWords {
        from: usize,
        to: usize,
    },
    PeerDial {
        from: usize,
        life: u32,
        image: ImageIndex,
        addr: SocketAddr,
        handshake: Box<Handshake>,
    },
    PeerDown {
        machine: usize,
        life: u32,
        conn: ConnId,
    },
    Network(Step),
    Thaw(End),
    Fault(Fault),
    Ask(usize),
    Inspect,
}

/// A room in virtual time.
pub struct World {
    now: Time,
    queue: Queue<Event>,
    rng: ChaCha8Rng,
    scenario: Scenario,
    metainfo: Option<Arc<Metainfo>>,
    machines: Vec<Machine>,
    network: Network,
    control: Control,
    frozen: BTreeSet<(usize, usize)>,
    sides: Vec<u8>,
    loss: u16,
    requests: BTreeMap<RequestId, usize>,
    next_request: u64,
    steps: Vec<(Time, Step)>,
    master_died: bool,
    /// What the machines must not do.
    pub checker: Checker,
    /// What they did.
    pub trace: Trace,
}

/// A torrent of that size whose piece hashes are nobody's.
pub fn metainfo(size: u64) -> Arc<Metainfo> {
    let piece_length = piece_length_for(size);
    let pieces = size.div_ceil(u64::from(piece_length)) as usize;
    let mut info = format!(
        "d6:lengthi{size}e4:name{}:{IMAGE}12:piece lengthi{piece_length}e6:pieces{}:",
        IMAGE.len(),
        pieces * 20
    )
    .into_bytes();
    info.resize(info.len() + pieces * 20, 0x5a);
    info.push(b'e');
    Arc::new(Metainfo::from_info(info).expect("our own torrent is within the limits"))
}

impl World {
    /// The room of a scenario at its first moment.
    pub fn new(scenario: &Scenario, seed: u64, keep_trace: bool) -> Self {
        let mut world = Self {
            now: Time(0),
            queue: Queue::new(),
            rng: ChaCha8Rng::seed_from_u64(seed),
            scenario: scenario.clone(),
            metainfo: (scenario.lab.image.0 > 0).then(|| metainfo(scenario.lab.image.0)),
            machines: Vec::new(),
            network: Network::new(scenario.lab.latency.0),
            control: Control::default(),
            frozen: BTreeSet::new(),
            sides: vec![0; scenario.machines()],
            loss: 0,
            requests: BTreeMap::new(),
            next_request: 0,
            steps: Vec::new(),
            master_died: false,
            checker: Checker::default(),
            trace: Trace::new(keep_trace),
        };
        world.furnish();
        world
    }

    /// Puts the machines in, and everything that the scenario says of the future.
    fn furnish(&mut self) {
        let scenario = self.scenario.clone();
        let late = scenario.join.iter().flat_map(|join| std::iter::repeat_n(join.at.0, join.machines));
        for start in std::iter::repeat_n(Duration::ZERO, scenario.lab.machines).chain(late) {
            self.add_machine(start);
        }
        for (at, fault) in plan(&scenario.faults, self.machines.len(), &mut self.rng) {
            self.queue.push(at, Event::Fault(fault));
        }
        let settled = scenario.last_fault().max(Duration::from_secs(2)) + scenario.expect.one_master_within.0;
        self.queue.push(Time(0) + settled, Event::Inspect);
    }

    fn add_machine(&mut self, start: Duration) {
        let index = self.machines.len();
        let mut id = NodeId::default();
        self.rng.fill_bytes(&mut id.0);
        let mut machine = Machine::new(id, index, Disk::new(self.scenario.lab.disk.0));
        machine.starts_at = Time(0) + start;
        if let Some(metainfo) = &self.metainfo {
            if index < self.scenario.lab.holders {
                let journal = Bitfield::full(metainfo.geometry().pieces());
                let (mode, seed_time) = (Mode::Seeder, Some(SeedTime::Forever));
                let copy =
                    Copy { metainfo: metainfo.clone(), journal, complete: true, mode, seed_time, stopped: false };
                machine.disk.copies.insert((IMAGE.to_owned(), metainfo.info_hash()), copy);
            } else {
                // A late machine asks as soon as it is up.
                machine.asks_at = Some(Time(0) + if start.is_zero() { self.scenario.lab.get_at.0 } else { start });
            }
        }
        self.network.add(self.scenario.lab.link.0);
        self.control.add();
        self.checker.add(id);
        if let Some(at) = machine.asks_at {
            self.queue.push(at, Event::Ask(index));
        }
        self.machines.push(machine);
        self.queue.push(Time(0) + start, Event::Fault(Fault::Start(index)));
    }

    /// Lets everything happen until the scenario's end.
    ///
    /// # Errors
    /// With the moment, the machine and what it must not have done.
    pub fn run(&mut self) -> Result<(), String> {
        let end = Time(0) + self.scenario.lab.ends_at.0;
        while let Some((at, event)) = self.queue.pop_until(end) {
            self.now = at;
            self.happen(event).map_err(|what| format!("{:.6} s: {what}", at.as_secs_f64()))?;
            for (at, step) in self.steps.drain(..) {
                self.queue.push(at, Event::Network(step));
            }
        }
        self.now = end;
        self.checker.contest(end, false);
        Ok(())
    }

    fn happen(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Input(machine, life, input) => self.feed_if(machine, life, *input),
            Event::Timer(machine, life) => self.timer(machine, life),
            Event::Datagram { from, to, beat } => self.datagram(from, to, *beat),
            Event::Found { browser, found } => self.found(browser, found),
            Event::ControlDial { from, life, node, addr } => self.control_dial(from, life, node, addr),
            Event::ControlAnswer { from, life, to, addr } => self.control_answer(from, life, to, addr),
            Event::Word { from, to, word } => self.word(from, to, *word),
            Event::ReleaseWords { from, to } => {
                self.control.release(from, to).into_iter().try_for_each(|word| self.word(from, to, word))
            }
            Event::PeerDial { from, life, image, addr, handshake } => {
                self.peer_dial(from, life, image, addr, *handshake)
            }
            Event::PeerDown { machine, life, conn } => self.peer_down(machine, life, conn),
            Event::Network(step) => self.network_step(step),
            Event::Thaw(end) => self.thaw(end),
            Event::Fault(fault) => self.fault(fault),
            Event::Ask(machine) => self.ask(machine),
            Event::Inspect => self.settled(),
        }
    }

    fn later(&mut self, delay: Duration, event: Event) {
        self.queue.push(self.now + delay, event);
    }

    fn reaches(&self, a: usize, b: usize) -> bool {
        self.sides[a] == self.sides[b]
    }

    fn latency(&self) -> Duration {
        self.network.latency()
    }

    /// The machine of that address, if it listens on that port.
    fn at(&self, addr: SocketAddr, port: u16) -> Option<usize> {
        let IpAddr::V4(ip) = addr.ip() else { return None };
        let [_, high, middle, low] = ip.octets();
        let index = (usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low)).checked_sub(1)?;
        (index < self.machines.len() && addr.port() == port).then_some(index)
    }

    fn by_id(&self, id: NodeId) -> Option<usize> {
        self.machines.iter().position(|m| m.id == id)
    }

    // ---- a machine and its node

    /// Hands an input over, unless the machine was started again since.
    fn feed_if(&mut self, machine: usize, life: u32, input: Input) -> Result<(), String> {
        if self.machines[machine].life == life { self.feed(machine, input) } else { Ok(()) }
    }

    fn feed(&mut self, index: usize, input: Input) -> Result<(), String> {
        let machine = &mut self.machines[index];
        match machine.power {
            Power::On => {}
            Power::Suspended => {
                machine.mailbox.push_back(input);
                return Ok(());
            }
            Power::Killed | Power::Off => return Ok(()),
        }
        self.trace.note(self.now, index, format_args!("{}", In(&input)));
        self.checker.input(index, &input);
        if let Input::Block { range, .. } = &input {
            let geometry = self.metainfo.as_ref().map(|m| m.geometry());
            if let Some(block) = geometry.and_then(|g| g.block(range.piece, range.offset, range.len)) {
                self.checker.delivering(index, block);
            }
        }
        machine.remember(&input);
        if matches!(input, Input::Finished { result: Ok(()), .. }) {
            machine.complete_at.get_or_insert(self.now);
        }
        let node = machine.node.as_mut().expect("a machine that is on runs a node");
        node.handle_input(self.now, input);
        self.attend(index)?;
        self.kill_master_if_it_is_time();
        Ok(())
    }

    fn timer(&mut self, index: usize, life: u32) -> Result<(), String> {
        let machine = &mut self.machines[index];
        if machine.life != life || machine.power != Power::On {
            // A suspended machine looks at its clock when it goes on.
            return Ok(());
        }
        machine.armed = Time::NEVER;
        let Some(node) = machine.node.as_mut() else { return Ok(()) };
        match node.poll_timeout() {
            Some((at, why)) if at <= self.now => {
                machine.timeouts_now = if machine.timed_out_at == self.now { machine.timeouts_now + 1 } else { 0 };
                machine.timed_out_at = self.now;
                if machine.timeouts_now > TIMEOUTS_AT_ONCE {
                    return Err(format!("pc{:03}: the timer {why:?} does not advance", index + 1));
                }
                self.trace.note(self.now, index, format_args!("< timer {why}"));
                node.handle_timeout(self.now);
                self.attend(index)
            }
            _ => {
                self.arm(index);
                Ok(())
            }
        }
    }

    /// Carries out every output, then arms the timer.
    fn attend(&mut self, index: usize) -> Result<(), String> {
        while let Some(output) = self.machines[index].node.as_mut().and_then(Node::poll_output) {
            self.trace.note(self.now, index, format_args!("{}", Out(&output)));
            self.checker.output(index, &output).map_err(|what| format!("pc{:03} {what}", index + 1))?;
            if matches!(output, Output::Event(_)) {
                self.count_masters();
            }
            self.carry_out(index, output);
        }
        self.arm(index);
        Ok(())
    }

    fn arm(&mut self, index: usize) {
        let machine = &mut self.machines[index];
        let deadline = machine.node.as_ref().and_then(Node::poll_timeout).map_or(Time::NEVER, |(at, _)| at);
        if deadline < machine.armed {
            machine.armed = deadline;
            let life = machine.life;
            self.queue.push(deadline.max(self.now), Event::Timer(index, life));
        }
    }

    fn carry_out(&mut self, me: usize, output: Output) {
        match output {
            Output::Browse(_) | Output::Advertise(_) => self.discovery(me, &output),
            Output::Beat { to, beat } => {
                for to in to.into_iter().filter_map(|addr| self.at(addr, CONTROL_PORT)).collect::<Vec<_>>() {
                    self.later(self.latency(), Event::Datagram { from: me, to, beat: Box::new(beat) });
                }
            }
            Output::Beacon(beat) => {
                for to in (0..self.machines.len()).filter(|to| *to != me) {
                    self.later(self.latency(), Event::Datagram { from: me, to, beat: Box::new(beat) });
                }
            }
            Output::Dial { node, addr } => {
                let life = self.machines[me].life;
                self.later(self.latency(), Event::ControlDial { from: me, life, node, addr });
            }
            Output::Hangup(node) => self.hang_up(me, node),
            Output::Send { to, message } => {
                if let Some(to) = self.by_id(to).filter(|to| self.control.is_up(me, *to)) {
                    self.later(self.latency(), Event::Word { from: me, to, word: Box::new(Word::Say(message)) });
                }
            }
            Output::Gossip(message) => self.gossip(me, &message),
            Output::Persist { epoch } => {
                let at = self.machines[me].disk.small(self.now);
                self.answer_at(at, me, Input::Persisted { epoch });
            }
            Output::DialPeer { image, addr, handshake } => {
                let (life, handshake) = (self.machines[me].life, Box::new(handshake));
                self.later(self.latency(), Event::PeerDial { from: me, life, image, addr, handshake });
            }
            Output::Accept { conn, image, handshake } => self.accept(me, conn, image, handshake),
            Output::Close { conn, .. } => self.close(me, conn),
            Output::Peer { conn, message } => self.send_item(me, conn, Item::Message(message)),
            Output::SendBlock { conn, block, .. } => self.send_item(me, conn, Item::Block(block)),
            Output::Have { image, piece } => self.have(me, image, piece.get()),
            Output::Reply { id, reply } => self.replied(me, id, &reply),
            Output::Open { .. } | Output::Verify { .. } | Output::Finish { .. } | Output::CloseImage { .. } => {
                self.disk_work(me, output);
            }
            Output::SetAside { name } => self.machines[me].disk.set_aside(&name),
            Output::Delete { name } => drop(self.machines[me].disk.take(&name)),
            Output::MarkStopped { name, stopped } => {
                let copies = self.machines[me].disk.copies.iter_mut();
                copies.filter(|((own, _), _)| *own == name).for_each(|(_, copy)| copy.stopped = stopped);
            }
            // Foreign clients, pages and host names have no place here; stored blocks are counted by the checker.
            Output::HostName(_)
            | Output::Announced { .. }
            | Output::Store { .. }
            | Output::Discard { .. }
            | Output::Event(_)
            | Output::Farewell => {}
        }
    }

    fn answer_at(&mut self, at: Time, machine: usize, input: Input) {
        let life = self.machines[machine].life;
        self.queue.push(at, Event::Input(machine, life, Box::new(input)));
    }

    fn disk_work(&mut self, me: usize, output: Output) {
        let machine = &mut self.machines[me];
        let small = machine.disk.small(self.now);
        match output {
            Output::Open { image, name, metainfo, complete, mode, seed_time } => {
                let hash = metainfo.info_hash();
                machine.open(image, hash);
                let pieces = metainfo.geometry().pieces();
                let copy = machine.disk.copies.entry((name, hash)).or_insert_with(|| {
                    let journal = Bitfield::empty(pieces);
                    Copy { metainfo, journal, complete: false, mode, seed_time, stopped: false }
                });
                let found = if complete { Bitfield::full(pieces) } else { copy.journal.clone() };
                self.answer_at(small, me, Input::Opened { image, result: Ok(found) });
            }
            Output::Verify { image, piece } => {
                let bytes = self.metainfo.as_ref().map_or(0, |m| u64::from(m.geometry().piece_len(piece)));
                let at = machine.disk.write(self.now, bytes);
                self.answer_at(at, me, Input::Verified { image, piece, result: Ok(true) });
            }
            Output::Finish { image } => self.answer_at(small, me, Input::Finished { image, result: Ok(()) }),
            Output::CloseImage { image } => machine.close(image),
            _ => {}
        }
    }

    // ---- discovery and heartbeat

    fn discovery(&mut self, me: usize, output: &Output) {
        match output {
            Output::Browse(on) => self.machines[me].browsing = *on,
            Output::Advertise(on) => self.machines[me].advertised = *on,
            _ => {}
        }
        for other in (0..self.machines.len()).filter(|other| *other != me) {
            let (browser, found) = match output {
                Output::Browse(true) => (me, other),
                Output::Advertise(true) => (other, me),
                _ => continue,
            };
            if self.machines[browser].browsing && self.machines[found].advertised {
                // RFC 6762, s. 6: shared records are answered after 20 to 120 ms.
                let delay = Duration::from_millis(20 + below(&mut self.rng, 101));
                self.later(delay, Event::Found { browser, found });
            }
        }
    }

    fn found(&mut self, browser: usize, found: usize) -> Result<(), String> {
        let other = &self.machines[found];
        if !self.reaches(browser, found) || !other.advertised || !self.machines[browser].browsing {
            return Ok(());
        }
        let input = Input::Found { node: Some(other.id), addr: SocketAddr::new(other.addr, CONTROL_PORT) };
        self.feed(browser, input)
    }

    fn datagram(&mut self, from: usize, to: usize, beat: Beat) -> Result<(), String> {
        let lost = self.loss > 0 && below(&mut self.rng, 1000) < u64::from(self.loss);
        if lost || self.machines[to].deaf || !self.reaches(from, to) {
            return Ok(());
        }
        let from = SocketAddr::new(self.machines[from].addr, CONTROL_PORT);
        self.feed(to, Input::Beat { from, beat })
    }

    // ---- people

    fn ask(&mut self, index: usize) -> Result<(), String> {
        let machine = &self.machines[index];
        if machine.complete_at.is_some() {
            return Ok(());
        }
        if machine.power != Power::On {
            self.later(ASK_AGAIN, Event::Ask(index));
            return Ok(());
        }
        let id = RequestId(self.next_request);
        self.next_request += 1;
        self.requests.insert(id, index);
        let lab = &self.scenario.lab;
        let (mode, seed_time) = (Some(lab.mode), lab.seed_time.map(|t| t.0));
        let command = Command::Get { image: IMAGE.to_owned(), mode, seed_time, replace: false };
        self.feed(index, Input::Command { id, command })
    }

    fn replied(&mut self, me: usize, id: RequestId, reply: &Reply) {
        if self.requests.remove(&id).is_none() {
            return;
        }
        match reply {
            Reply::Refused(_) => self.later(ASK_AGAIN, Event::Ask(me)),
            Reply::AlreadyHere(_) => {
                self.machines[me].complete_at.get_or_insert(self.now);
            }
            Reply::Started(_) | Reply::Done | Reply::Torrent(_) => {}
        }
    }

    // ---- what is asked of the whole room

    /// Two masters that reach each other are a contest, however short.
    fn count_masters(&mut self) {
        let masters: Vec<usize> = self.checker.masters().filter(|m| self.machines[*m].power == Power::On).collect();
        let contested = masters.iter().enumerate().any(|(n, a)| masters[..n].iter().any(|b| self.reaches(*a, *b)));
        self.checker.contest(self.now, contested);
    }

    /// What every machine that is on says of itself.
    pub fn statuses(&self) -> Vec<(usize, Status)> {
        let running = self.machines.iter().enumerate().filter(|(_, m)| m.power == Power::On);
        running.filter_map(|(index, m)| Some((index, m.node.as_ref()?.status(self.now)))).collect()
    }

    /// One master, and everybody that is on follows it.
    fn settled(&self) -> Result<(), String> {
        let statuses = self.statuses();
        let masters: Vec<&str> = statuses
            .iter()
            .filter(|(_, s)| matches!(s.role, Role::Master | Role::Solo))
            .map(|(_, s)| s.name.as_str())
            .collect();
        let [master] = masters[..] else { return Err(format!("expected one master, found {masters:?}")) };
        let strays: Vec<&str> = statuses
            .iter()
            .filter(|(_, s)| s.name != master && s.master.as_deref() != Some(master))
            .map(|(_, s)| s.name.as_str())
            .collect();
        if strays.is_empty() { Ok(()) } else { Err(format!("{strays:?} do not follow {master}")) }
    }

    /// When each machine that asked was complete, counted from its `get`.
    pub fn finish_times(&self) -> Vec<Option<Duration>> {
        let asked = self.machines.iter().filter_map(|m| Some((m.asks_at?, m.complete_at)));
        asked.map(|(asked, complete)| complete.map(|at| at.since(asked))).collect()
    }

    /// How many machines that asked for the image seed it now.
    pub fn seeding(&self) -> usize {
        let seeds = |s: &Status| s.transfers.iter().any(|t| t.state == TransferState::Seeding);
        self.statuses().iter().filter(|(m, s)| self.machines[*m].asks_at.is_some() && seeds(s)).count()
    }

    /// Payload bytes that each machine sent and received.
    pub fn traffic(&self) -> (&[u64], &[u64]) {
        (&self.network.sent, &self.network.received)
    }

    /// How many events there were.
    pub fn events(&self) -> u64 {
        self.queue.count()
    }
}

#[cfg(test)]
mod tests;
