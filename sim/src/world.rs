//! The invented world: machines that run the real [`Node`], and everything between them.
//!
//! Rule: it is a driver like `labmesh`'s: after any `handle_*` every output is carried out in its order, then one
//! timer is armed. Nothing happens inside something else: every consequence is an event of its own.
//!
//! Not here: what bandwidth is ([`crate::network`]), what a partition does to TCP ([`crate::control`]), what must not
//! happen ([`crate::check`]). `docs/SIMULATION.md` says what this world does not show.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use labmesh_proto::config::{Mode, SeedTime};
use labmesh_proto::id::{ConnId, ImageIndex, NodeId, RequestId, Time};
use labmesh_proto::io::{self, Input, Output};
use labmesh_proto::node::Node;
use labmesh_proto::wire::control::{Beat, Message};
use labmesh_proto::wire::metainfo::{Metainfo, piece_length_for};
use labmesh_proto::wire::peer::{self, Handshake};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::check::Checker;
use crate::control::{Control, Word};
use crate::disk::Copy;
use crate::faults::{Fault, below, chosen, plan};
use crate::network::{End, Item, Network, Step};
use crate::queue::Queue;
use crate::scenario::Scenario;
use crate::storm;
use crate::trace::Trace;
use crate::trunk::Trunk;

mod links;
mod machine;
mod mishaps;
mod people;
mod storage;
mod truth;

pub use self::machine::machine_at;
use self::machine::{Machine, Power};

const CONTROL_PORT: u16 = 6970;
const PEER_PORT: u16 = 6881;
const HTTP_PORT: u16 = 6969;
/// Between two looks for a `get` that hangs.
const WATCH_EVERY: Duration = Duration::from_secs(5);
/// Between two questions of a browser that found nobody (RFC 6762, s. 5.2).
const BROWSE_AGAIN: Duration = Duration::from_secs(1);
/// Machines do not share the origin of their clocks: so many seconds lie between two of them at most.
const CLOCKS_APART: u64 = 100_000;
/// Timeouts of one machine at one moment; more means that its timer does not advance.
const TIMEOUTS_AT_ONCE: u32 = 10_000;

/// What happens next.
#[derive(Debug)]
enum Event {
    /// To a machine, if it still has the same life.
    Input(usize, u32, Box<Input>),
    /// To a machine, if it still has the same life and has not closed that image or opened it again since: the driver
    /// drops what is reported late.
    OfImage {
        machine: usize,
        life: u32,
        image: ImageIndex,
        opening: u32,
        input: Box<Input>,
    },
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
    /// The cable between the sites has passed a block of that side's.
    Trunk(usize),
    Thaw(End),
    Fault(Fault),
    /// A person wants an image.
    Ask(usize, usize),
    /// There must be one master.
    Inspect,
    /// Everybody who misses pieces must say whom it waits for.
    Hear(usize),
    /// No `get` may hang.
    Watch,
}

/// A room in virtual time.
pub struct World {
    now: Time,
    queue: Queue<Event>,
    rng: ChaCha8Rng,
    scenario: Scenario,
    images: Vec<Arc<Metainfo>>,
    machines: Vec<Machine>,
    /// Which machine has that id; only looked up.
    by_id: HashMap<NodeId, usize>,
    network: Network,
    trunk: Option<Trunk>,
    control: Control,
    frozen: BTreeSet<(usize, usize)>,
    sides: Vec<u8>,
    loss: u16,
    /// Of a thousand control messages so many are lost, and so many come twice.
    words: (u16, u16),
    /// The last message and what the codec made of it: most go to many.
    coded: Option<(Message, Message)>,
    /// Who asked, and for which image.
    requests: BTreeMap<RequestId, (usize, usize)>,
    /// When the last thing went wrong, or was put right.
    disturbed: Time,
    /// How often a peer was refused for bad data.
    refusals: usize,
    next_request: u64,
    steps: Vec<(Time, Step)>,
    master_died: bool,
    /// What the machines must not do.
    pub checker: Checker,
    /// What they did.
    pub trace: Trace,
}

/// The torrent of the image of that number, whose piece hashes are nobody's; its pieces are as long as the mesh has them,
/// or as is said.
pub fn metainfo(number: usize, size: u64, piece: Option<u64>) -> Arc<Metainfo> {
    let piece_length = piece.unwrap_or_else(|| piece_length_for(size).into());
    let pieces = size.div_ceil(piece_length) as usize;
    let name = image_name(number);
    let mut info =
        format!("d6:lengthi{size}e4:name{}:{name}12:piece lengthi{piece_length}e6:pieces{}:", name.len(), pieces * 20)
            .into_bytes();
    info.resize(info.len() + pieces * 20, 0x5a);
    info.push(b'e');
    Arc::new(Metainfo::from_info(info).expect("our own torrent is within the limits"))
}

/// What the image of that number is called.
pub fn image_name(number: usize) -> String {
    format!("lab{}.img", number + 1)
}

impl World {
    /// The room of a scenario at its first moment.
    pub fn new(scenario: &Scenario, seed: u64) -> Self {
        let scenario = if scenario.storm { storm::drawn(scenario, seed) } else { scenario.clone() };
        let lab = &scenario.lab;
        let images = if lab.image.0 > 0 { lab.images } else { 0 };
        let mut world = Self {
            now: Time(0),
            queue: Queue::new(),
            rng: ChaCha8Rng::seed_from_u64(seed),
            images: (0..images).map(|number| metainfo(number, lab.image.0, lab.piece.map(|piece| piece.0))).collect(),
            machines: Vec::new(),
            by_id: HashMap::new(),
            network: Network::new(lab.latency.0, lab.window.0),
            trunk: lab.uplink.map(|rate| Trunk::new(rate.0)),
            control: Control::default(),
            frozen: BTreeSet::new(),
            sides: vec![0; scenario.machines()],
            loss: 0,
            words: (0, 0),
            coded: None,
            requests: BTreeMap::new(),
            disturbed: Time(0),
            refusals: 0,
            next_request: 0,
            steps: Vec::new(),
            master_died: false,
            checker: Checker::new(lab.buffers.0),
            trace: Trace::new(),
            scenario,
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
        let machines = self.machines.len();
        let random = plan(&scenario.faults, machines, &mut self.rng);
        for (at, fault) in chosen(&scenario.accident, machines).into_iter().chain(random) {
            self.queue.push(at, Event::Fault(fault));
        }
        let started = Duration::from_secs(2) + scenario.lab.starts_within.0;
        let settled = scenario.last_fault().max(started) + scenario.expect.one_master_within.0;
        self.queue.push(Time(0) + settled, Event::Inspect);
        if !self.images.is_empty() {
            self.queue.push(Time(0) + WATCH_EVERY, Event::Watch);
        }
    }

    fn add_machine(&mut self, start: Duration) {
        let index = self.machines.len();
        let lab = self.scenario.lab.clone();
        let mut id = NodeId::default();
        self.rng.fill_bytes(&mut id.0);
        let mut machine = Machine::new(id, index, &self.scenario);
        let spread = Duration::from_nanos(below(&mut self.rng, lab.starts_within.0.as_nanos() as u64));
        machine.starts_at = Time(0) + start + spread;
        machine.ahead = Duration::from_secs(below(&mut self.rng, CLOCKS_APART));
        // A late machine asks as soon as it is up.
        let asks_at = if start.is_zero() { machine.starts_at.max(Time(0) + lab.get_at.0) } else { machine.starts_at };
        self.by_id.insert(id, index);
        self.checker.add(id);
        self.trace.add(id);
        self.queue.push(machine.starts_at, Event::Fault(Fault::Start(index)));
        for (number, metainfo) in self.images.iter().enumerate() {
            if index < lab.holders && index % lab.images == number {
                let copy = Copy::new(metainfo.clone(), true, Mode::Seeder, Some(SeedTime::Forever));
                machine.disk.copies.insert((image_name(number), metainfo.info_hash()), copy);
                self.checker.is_whole(index, metainfo.info_hash());
            } else {
                machine.wants.push(number);
                machine.asks_at = Some(asks_at);
                self.queue.push(asks_at, Event::Ask(index, number));
            }
        }
        self.network.add(machine.up, machine.down);
        self.control.add();
        self.machines.push(machine);
    }

    /// Lets everything happen until the scenario's end.
    ///
    /// # Errors
    /// With the moment, the machine and what it must not have done.
    pub fn run(&mut self) -> Result<(), String> {
        self.run_until(self.ends_at())?;
        self.checker.contest(self.now, false);
        Ok(())
    }

    /// Lets everything happen until then: a part of [`Self::run`], which must follow.
    ///
    /// # Errors
    /// As for [`Self::run`].
    pub fn run_until(&mut self, until: Time) -> Result<(), String> {
        while let Some((at, event)) = self.queue.pop_until(until) {
            self.now = at;
            self.happen(event).map_err(|what| format!("{:.6} s: {what}", at.as_secs_f64()))?;
            for (at, step) in self.steps.drain(..) {
                self.queue.push(at, Event::Network(step));
            }
        }
        self.now = until;
        Ok(())
    }

    /// The moment it has come to.
    pub fn now(&self) -> Time {
        self.now
    }

    /// When the scenario ends.
    pub fn ends_at(&self) -> Time {
        Time(0) + self.scenario.lab.ends_at.0
    }

    fn happen(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Input(machine, life, input) => self.feed_if(machine, life, *input),
            Event::OfImage { machine, life, image, opening, input } => {
                let late = self.machines[machine].opening(image) != opening;
                if late { Ok(()) } else { self.feed_if(machine, life, *input) }
            }
            Event::Timer(machine, life) => self.timer(machine, life),
            Event::Datagram { from, to, beat } => self.datagram(from, to, beat),
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
            Event::Trunk(site) => self.trunk_passed(site),
            Event::Thaw(end) => self.thaw(end),
            Event::Fault(fault) => self.fault(fault),
            Event::Ask(machine, number) => self.ask(machine, number),
            Event::Inspect => self.settled(),
            Event::Hear(master) => self.says_what_it_waits_for(master),
            Event::Watch => self.watch(),
        }
    }

    fn later(&mut self, delay: Duration, event: Event) {
        self.queue.push(self.now + delay, event);
    }

    /// Whether what `from` sends arrives at `to`.
    fn reaches(&self, from: usize, to: usize) -> bool {
        self.sides[from] == self.sides[to] && !self.machines[from].mute
    }

    fn reach_each_other(&self, a: usize, b: usize) -> bool {
        self.reaches(a, b) && self.reaches(b, a)
    }

    fn latency(&self) -> Duration {
        self.network.latency()
    }

    /// The machine of that address, if it listens on that port.
    fn at(&self, addr: SocketAddr, port: u16) -> Option<usize> {
        let IpAddr::V4(ip) = addr.ip() else { return None };
        let index = machine_at(ip)?;
        (index < self.machines.len() && addr.port() == port).then_some(index)
    }

    fn by_id(&self, id: NodeId) -> Option<usize> {
        self.by_id.get(&id).copied()
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
        self.trace.input(self.now, index, &input);
        self.checker.input(index, &input).map_err(|what| format!("pc{:03} {what}", index + 1))?;
        if let Input::Block { conn, range } = &input {
            self.look_at_block(index, *conn, *range);
        }
        let machine = &mut self.machines[index];
        let finished = machine.remember(self.now, &input);
        let local = self.now + machine.ahead;
        let node = machine.node.as_mut().expect("a machine that is on runs a node");
        node.handle_input(local, input);
        self.attend(index)?;
        if let Some(hash) = finished {
            self.finished(index, hash);
        }
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
        let local = self.now + machine.ahead;
        let Some(node) = machine.node.as_mut() else { return Ok(()) };
        match node.poll_timeout() {
            Some((at, why)) if at <= local => {
                machine.timeouts_now = if machine.timed_out_at == self.now { machine.timeouts_now + 1 } else { 0 };
                machine.timed_out_at = self.now;
                if machine.timeouts_now > TIMEOUTS_AT_ONCE {
                    return Err(format!("pc{:03}: the timer {why:?} does not advance", index + 1));
                }
                self.trace.timer(self.now, index, why);
                node.handle_timeout(local);
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
            self.trace.output(self.now, index, &output);
            self.checker.output(index, &output).map_err(|what| format!("pc{:03} {what}", index + 1))?;
            if let Output::Event(event) = &output {
                self.hear_of(index, event);
            }
            self.carry_out(index, output)?;
        }
        self.arm(index);
        Ok(())
    }

    fn arm(&mut self, index: usize) {
        let machine = &mut self.machines[index];
        let local = machine.node.as_ref().and_then(Node::poll_timeout).map(|(at, _)| at);
        let deadline = local.filter(|at| *at < Time::NEVER).map_or(Time::NEVER, |at| at - machine.ahead);
        if deadline < machine.armed {
            machine.armed = deadline;
            let life = machine.life;
            self.queue.push(deadline.max(self.now), Event::Timer(index, life));
        }
    }

    fn carry_out(&mut self, me: usize, output: Output) -> Result<(), String> {
        match output {
            Output::Browse(_) | Output::Advertise(_) => self.discovery(me, &output),
            Output::Beat { to, beat } => {
                for to in to.into_iter().filter_map(|addr| self.at(addr, CONTROL_PORT)).collect::<Vec<_>>() {
                    if !self.is_lost(self.scenario.lab.lost_datagrams_permille) {
                        self.later(self.latency(), Event::Datagram { from: me, to, beat: beat.clone() });
                    }
                }
            }
            Output::Beacon(beat) => {
                for to in (0..self.machines.len()).filter(|to| *to != me) {
                    if !self.is_lost(self.scenario.lab.lost_multicasts_permille) {
                        self.later(self.latency(), Event::Datagram { from: me, to, beat: beat.clone() });
                    }
                }
            }
            Output::Dial { node, addr } => {
                self.later(self.latency(), Event::ControlDial { from: me, life: self.machines[me].life, node, addr });
            }
            Output::Hangup(node) => self.hang_up(me, node),
            Output::Send { to, message } => {
                if let Some(to) = self.by_id(to).filter(|to| self.control.is_up(me, *to)) {
                    let message = self.through_codec(*message)?;
                    self.say(me, to, message);
                }
            }
            Output::Gossip(message) => self.through_codec(*message).map(|message| self.gossip(me, &message))?,
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
            Output::SendBlock { conn, image, block } => self.read_and_send(me, conn, image, block),
            Output::Have { piece, to, .. } => {
                let have = || Item::Message(peer::Message::Have(piece.get()));
                to.into_iter().for_each(|conn| self.send_item(me, conn, have()));
            }
            Output::Reply { id, reply } => self.replied(me, id, &reply),
            Output::Open { .. }
            | Output::Store { .. }
            | Output::Discard { .. }
            | Output::Verify { .. }
            | Output::Remember { .. }
            | Output::Finish { .. }
            | Output::Delete { .. }
            | Output::CloseImage { .. } => self.disk_work(me, output),
            Output::SetAside { name } => self.machines[me].disk.set_aside(&name),
            Output::MarkStopped { name, stopped } => {
                let copies = self.machines[me].disk.copies.iter_mut();
                copies.filter(|((own, _), _)| *own == name).for_each(|(_, copy)| copy.stopped = stopped);
            }
            // Foreign clients, pages, host names and other people's trackers have no place here; what the tracker counted
            // is not looked at after a restart; events were heard before.
            Output::HostName(_)
            | Output::Announced { .. }
            | Output::Probe { .. }
            | Output::SaveBook(_)
            | Output::AskTracker { .. }
            | Output::TrackerDone(_)
            | Output::AnnounceLocally(_)
            | Output::Event(_)
            | Output::Farewell => {}
        }
        Ok(())
    }

    /// What a machine says about itself may concern people, and those who count masters.
    fn hear_of(&mut self, index: usize, event: &io::Event) {
        match event {
            io::Event::Transfer { info_hash, state, .. } => self.transfer_changed(index, *info_hash, *state),
            io::Event::PeerRefused { .. } => self.refusals += 1,
            io::Event::BecameMaster { .. }
            | io::Event::BecameSolo
            | io::Event::Following { .. }
            | io::Event::LostMaster { .. } => self.count_masters(),
            io::Event::MemberUp { .. }
            | io::Event::MemberDown { .. }
            | io::Event::Incompatible { .. }
            | io::Event::Limits(_) => {}
        }
    }

    fn answer_at(&mut self, at: Time, machine: usize, input: Input) {
        let life = self.machines[machine].life;
        self.queue.push(at, Event::Input(machine, life, Box::new(input)));
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
        if self.is_lost(self.scenario.lab.lost_multicasts_permille) {
            self.later(BROWSE_AGAIN, Event::Found { browser, found });
            return Ok(());
        }
        let other = &self.machines[found];
        if !self.reach_each_other(browser, found) || !other.advertised || !self.machines[browser].browsing {
            return Ok(());
        }
        let input = Input::Found { node: Some(other.id), addr: SocketAddr::new(other.addr, CONTROL_PORT) };
        self.feed(browser, input)
    }

    fn datagram(&mut self, from: usize, to: usize, beat: Box<Beat>) -> Result<(), String> {
        if self.is_lost(self.loss) || self.machines[to].deaf || !self.reaches(from, to) {
            return Ok(());
        }
        let from = SocketAddr::new(self.machines[from].addr, CONTROL_PORT);
        self.feed(to, Input::Beat { from, beat })
    }

    /// Of a thousand so many are.
    fn is_lost(&mut self, permille: u16) -> bool {
        permille > 0 && below(&mut self.rng, 1000) < u64::from(permille)
    }

    /// Two masters that reach each other are a contest, however short.
    fn count_masters(&mut self) {
        let masters: Vec<usize> = self.checker.masters().filter(|m| self.machines[*m].power == Power::On).collect();
        let contested =
            masters.iter().enumerate().any(|(n, a)| masters[..n].iter().any(|b| self.reach_each_other(*a, *b)));
        self.checker.contest(self.now, contested);
    }

    /// The scenario; a storm's is drawn.
    pub fn scenario(&self) -> &Scenario {
        &self.scenario
    }

    /// Payload bytes that each machine sent and received.
    pub fn traffic(&self) -> (&[u64], &[u64]) {
        (&self.network.sent, &self.network.received)
    }

    /// Payload bytes that left each site for the other.
    pub fn between_sites(&self) -> [u64; 2] {
        self.trunk.as_ref().map_or([0; 2], |trunk| [0, 1].map(|site| trunk.sent(site)))
    }

    /// How many images there are.
    pub fn images(&self) -> usize {
        self.images.len()
    }

    /// How often a peer was refused for bad data.
    pub fn refusals(&self) -> usize {
        self.refusals
    }

    /// How many events there were.
    pub fn events(&self) -> u64 {
        self.queue.count()
    }
}

#[cfg(test)]
mod tests;
