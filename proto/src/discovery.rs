//! Whom to be connected to over the control plane, and when to look for others by mDNS.
//!
//! Rule: a follower keeps connections to the master, the first deputies and four members by chance; who has no master
//! connects to whomever it has seen; a master dials whoever is missing, so that meshes merge without multicast.
//! A node browses while it has no master and is advertised while it has none or is one, so that steady state is silent.
//! Every dial has a back-off; what was configured or remembered is tried for ever.
//!
//! Not here: who is master ([`crate::election`]), who is a member ([`crate::roster`]), mDNS and sockets (the driver).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::config::{CONTROL_RANDOM, NODES_MAX};
use crate::id::{NodeId, Time};

/// Connections of one node that it keeps by its own wish; whoever dials in comes on top.
pub const DEGREE_MAX: usize = 12;
/// Deputies of the list that everybody is connected to: they answer when the master is gone.
pub const DEPUTIES: usize = 3;
/// Configured and remembered addresses.
const JOIN_MAX: usize = 64;
/// The first wait after a failed dial; doubles with jitter up to [`BACKOFF_MAX`].
const BACKOFF: Duration = Duration::from_millis(250);
/// A program that ends closes its sockets one after the other, over 25 ms on a busy machine (measured), and the one that
/// listens may be among the last: who redials in between is neither taken nor refused, and tries again after this...
const ENDING: Duration = Duration::from_millis(20);
/// ... so often.
const ENDING_DIALS: u32 = 3;
/// The longest wait between two dials of one address: a machine that is switched on is found within this.
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// A dial that nothing was heard of has failed: longer than the driver's own timeout.
const DIAL_PATIENCE: Duration = Duration::from_secs(10);
/// A dial that is out for so long was begun into a cut, and its next retransmission is seconds away.
const STALE_DIAL: Duration = Duration::from_secs(1);
/// How long a follower that lost its master waits before it browses: most have a new one by then, and three hundred
/// nodes that browse at once do not find each other (measured).
const BROWSE_AFTER: Duration = Duration::from_secs(1);

/// What a node is, as far as connections go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Listens first.
    Starting,
    /// Candidate or solo.
    Leaderless,
    /// Obeys that master.
    Following(NodeId),
    /// Is master.
    Leading,
}

/// What happens to discovery.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// mDNS named a node, or a configured or remembered address is to be tried for ever (no `node`).
    Found {
        /// Who, if known.
        node: Option<NodeId>,
        /// Where its control plane listens.
        addr: SocketAddr,
    },
    /// A heartbeat or beacon of that master came from there.
    Beat {
        /// Who.
        node: NodeId,
        /// Where its control plane listens.
        addr: SocketAddr,
    },
    /// A control connection stands.
    Up {
        /// With whom.
        node: NodeId,
        /// Where it is.
        addr: IpAddr,
    },
    /// The last control connection with that node ended.
    Down(NodeId),
    /// A dial failed.
    Unreachable {
        /// Who was meant, if known.
        node: Option<NodeId>,
        /// What was tried.
        addr: SocketAddr,
        /// The port was refused.
        refused: bool,
    },
    /// The election changed this node's standing.
    Standing(Standing),
    /// The live members with their control addresses.
    Members(Vec<(NodeId, SocketAddr)>),
    /// The deputies, best first.
    Succession(Vec<NodeId>),
    /// The lease of that master lapsed: its connections may be dead.
    Redial(NodeId),
}

/// What discovery wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Open a control connection.
    Dial {
        /// Who is expected, if known.
        node: Option<NodeId>,
        /// Where.
        addr: SocketAddr,
    },
    /// Close the control connections with that node.
    Hangup(NodeId),
    /// Look for others by mDNS, or stop.
    Browse(bool),
    /// Be found by mDNS, or stop.
    Advertise(bool),
    /// That node closed its connection and refused a new one: for the election.
    Gone(NodeId),
}

/// The wait between the dials of one address.
#[derive(Clone, Copy, Debug, Default)]
struct Attempts {
    failures: u32,
    /// Not before this; while a dial is out, when it counts as failed.
    next: Time,
    dialing: bool,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    addr: SocketAddr,
    attempts: Attempts,
    up: bool,
    /// We dialled the connection that stands.
    ours: bool,
    /// The connection was ended, not by us.
    ended: bool,
    /// A live member of our mesh.
    member: bool,
}

#[derive(Clone, Copy, Debug)]
struct Join {
    addr: SocketAddr,
    /// Who answered there.
    node: Option<NodeId>,
    attempts: Attempts,
}

/// Discovery as one node sees it. See [`crate::io`] for the five verbs.
#[derive(Debug)]
pub struct Discovery {
    me: NodeId,
    rng: ChaCha8Rng,
    standing: Standing,
    known: BTreeMap<NodeId, Known>,
    joins: Vec<Join>,
    succession: Vec<NodeId>,
    /// The members that this node chose by chance.
    chosen: Vec<NodeId>,
    browsing: bool,
    advertised: bool,
    browse_at: Time,
    /// The earliest deadline, kept by `plan`.
    next: Time,
    outputs: VecDeque<Output>,
}

impl Discovery {
    /// A node that starts: it browses at once.
    pub fn new(me: NodeId, seed: u64) -> Self {
        Self {
            me,
            rng: ChaCha8Rng::seed_from_u64(seed),
            standing: Standing::Starting,
            known: BTreeMap::new(),
            joins: Vec::new(),
            succession: Vec::new(),
            chosen: Vec::new(),
            browsing: true,
            advertised: false,
            browse_at: Time::NEVER,
            next: Time::NEVER,
            outputs: VecDeque::from([Output::Browse(true)]),
        }
    }

    /// Something happened.
    pub fn handle_input(&mut self, now: Time, input: Input) {
        match input {
            Input::Found { node: None, addr } => self.on_join(addr),
            Input::Found { node: Some(node), addr } => self.sight(node, addr),
            Input::Beat { node, addr } => {
                if !self.on_beat(now, node, addr) {
                    return;
                }
            }
            Input::Up { node, addr } => self.on_up(node, addr),
            Input::Down(node) => self.on_down(now, node),
            Input::Unreachable { node, addr, refused } => self.on_unreachable(now, node, addr, refused),
            Input::Standing(standing) => self.on_standing(now, standing),
            Input::Members(members) => self.on_members(members),
            Input::Succession(list) => self.succession = list,
            Input::Redial(node) => self.on_redial(node),
        }
        self.plan(now);
    }

    /// The deadline has come.
    pub fn handle_timeout(&mut self, now: Time) {
        if now >= self.browse_at {
            self.show(true, true);
        }
        self.plan(now);
    }

    /// What is to be done, oldest first.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to wake this, and why.
    pub fn poll_timeout(&self) -> Option<(Time, &'static str)> {
        let next = (self.next, "discovery: next dial").min((self.browse_at, "discovery: browse again"));
        (next.0 != Time::NEVER).then_some(next)
    }

    /// How many nodes a control connection stands with.
    pub fn connected(&self) -> usize {
        self.known.values().filter(|known| known.up).count()
    }

    /// Whether a control connection stands with that node.
    pub fn is_connected(&self, node: &NodeId) -> bool {
        self.known.get(node).is_some_and(|known| known.up)
    }

    fn on_join(&mut self, addr: SocketAddr) {
        if self.joins.len() < JOIN_MAX && !self.joins.iter().any(|join| join.addr == addr) {
            self.joins.push(Join { addr, node: None, attempts: Attempts::default() });
        }
    }

    /// Whether the heartbeat changes anything: a new address, or one that seemed dead.
    fn on_beat(&mut self, now: Time, node: NodeId, addr: SocketAddr) -> bool {
        match self.known.get_mut(&node) {
            Some(known) if known.addr == addr && (known.up || !known.attempts.is_stale(now)) => false,
            Some(known) if known.addr == addr => {
                known.attempts = Attempts::default();
                true
            }
            _ => {
                self.sight(node, addr);
                true
            }
        }
    }

    fn sight(&mut self, node: NodeId, addr: SocketAddr) {
        if node == self.me {
            return;
        }
        if let Some(known) = self.known.get_mut(&node) {
            if known.addr != addr {
                known.addr = addr;
                known.attempts = Attempts::default();
            }
            return;
        }
        self.make_room();
        if self.known.len() < NODES_MAX {
            let attempts = Attempts::default();
            self.known.insert(node, Known { addr, attempts, up: false, ours: false, ended: false, member: false });
        }
    }

    /// Forgets the address that failed most, if the table is full.
    fn make_room(&mut self) {
        if self.known.len() < NODES_MAX {
            return;
        }
        let useless = self.known.iter().filter(|(_, known)| !known.up && !known.member && known.attempts.failures > 0);
        if let Some(node) = useless.max_by_key(|(_, known)| known.attempts.failures).map(|(node, _)| *node) {
            self.known.remove(&node);
        }
    }

    fn on_up(&mut self, node: NodeId, addr: IpAddr) {
        // A bare address was dialled: now it has a name.
        let bare = self.joins.iter_mut().find(|join| join.attempts.dialing && join.addr.ip() == addr);
        let dialled = bare.map(|join| {
            join.node = Some(node);
            join.attempts = Attempts::default();
            join.addr
        });
        if let Some(addr) = dialled {
            self.sight(node, addr);
        }
        if !self.known.contains_key(&node) {
            // It dialled us; port 0 is dialled by nobody, its real one comes with the roster.
            self.sight(node, SocketAddr::new(addr, 0));
        }
        if let Some(known) = self.known.get_mut(&node) {
            known.ours = known.attempts.dialing || dialled.is_some();
            known.up = true;
            known.ended = false;
            known.attempts = Attempts::default();
        }
    }

    fn on_down(&mut self, now: Time, node: NodeId) {
        let Some(known) = self.known.get_mut(&node) else { return };
        known.ended = known.up;
        known.up = false;
        // At once: whether the redial is refused is how a killed master is noticed.
        if !known.attempts.dialing {
            known.attempts = Attempts { next: now, ..Attempts::default() };
        }
    }

    fn on_unreachable(&mut self, now: Time, node: Option<NodeId>, addr: SocketAddr, refused: bool) {
        let jitter = self.rng.next_u32();
        for join in &mut self.joins {
            if join.addr == addr {
                join.attempts.fail(now, jitter);
            }
        }
        let Some(node) = node else { return };
        let Some(known) = self.known.get_mut(&node) else { return };
        known.attempts.fail(now, jitter);
        if refused && known.ended {
            known.ended = false;
            self.outputs.push_back(Output::Gone(node));
        } else if known.ended && known.attempts.failures <= ENDING_DIALS {
            known.attempts.next = now + ENDING;
        }
    }

    fn on_standing(&mut self, now: Time, standing: Standing) {
        let before = std::mem::replace(&mut self.standing, standing);
        if let Standing::Following(master) = standing
            && let Some(known) = self.known.get_mut(&master)
            && !known.up
            && known.attempts.is_stale(now)
        {
            known.attempts = Attempts::default();
        }
        match standing {
            Standing::Starting => self.show(true, false),
            Standing::Following(_) => self.show(false, false),
            Standing::Leading => self.show(false, true),
            Standing::Leaderless if matches!(before, Standing::Following(_)) => self.browse_at = now + BROWSE_AFTER,
            Standing::Leaderless => self.show(true, true),
        }
    }

    fn show(&mut self, browse: bool, advertise: bool) {
        self.browse_at = Time::NEVER;
        if self.browsing != browse {
            self.browsing = browse;
            self.outputs.push_back(Output::Browse(browse));
        }
        if self.advertised != advertise {
            self.advertised = advertise;
            self.outputs.push_back(Output::Advertise(advertise));
        }
    }

    fn on_members(&mut self, members: Vec<(NodeId, SocketAddr)>) {
        for known in self.known.values_mut() {
            known.member = false;
        }
        for (node, addr) in members.into_iter().take(NODES_MAX) {
            self.sight(node, addr);
            if let Some(known) = self.known.get_mut(&node) {
                known.member = true;
            }
        }
    }

    fn on_redial(&mut self, node: NodeId) {
        let Some(known) = self.known.get_mut(&node) else { return };
        if known.up {
            self.outputs.push_back(Output::Hangup(node));
        }
        known.up = false;
        known.ended = true;
        known.attempts = Attempts::default();
    }

    /// Carries out what is due and finds the next deadline.
    fn plan(&mut self, now: Time) {
        self.choose();
        let wanted = self.wanted();
        self.next = Time::NEVER;
        let jitter = self.rng.next_u32();
        for node in &wanted {
            let Some(known) = self.known.get_mut(node) else { continue };
            if known.up || known.addr.port() == 0 {
                continue;
            }
            if known.attempts.due(now, jitter) {
                self.outputs.push_back(Output::Dial { node: Some(*node), addr: known.addr });
            }
            self.next = self.next.min(known.attempts.next);
        }
        for join in &mut self.joins {
            let joined = join.node.and_then(|node| self.known.get(&node));
            if joined.is_some_and(|known| known.up || known.member) {
                continue;
            }
            if join.attempts.due(now, jitter) {
                self.outputs.push_back(Output::Dial { node: None, addr: join.addr });
            }
            self.next = self.next.min(join.attempts.next);
        }
        self.prune(&wanted);
    }

    /// Whom this node wants to be connected to.
    fn wanted(&self) -> BTreeSet<NodeId> {
        let deputies = self.succession.iter().take(DEPUTIES).filter(|node| **node != self.me);
        match self.standing {
            Standing::Following(master) => deputies.chain([&master]).chain(&self.chosen).copied().collect(),
            Standing::Leading => self.known.iter().filter(|(_, known)| !known.member).map(|(node, _)| *node).collect(),
            Standing::Starting | Standing::Leaderless => {
                let mut wanted: BTreeSet<NodeId> = deputies.chain(&self.chosen).copied().collect();
                let mut others: Vec<_> = self.known.iter().filter(|(node, _)| !wanted.contains(node)).collect();
                others.sort_by_key(|(_, known)| (!known.up, known.attempts.failures));
                let room = DEGREE_MAX.saturating_sub(wanted.len());
                wanted.extend(others.into_iter().take(room).map(|(node, _)| *node));
                wanted
            }
        }
    }

    /// Keeps four members that are neither master nor deputy, and replaces those that went away.
    fn choose(&mut self) {
        let Standing::Following(master) = self.standing else { return };
        let deputies = &self.succession[..DEPUTIES.min(self.succession.len())];
        let fits = |node: &NodeId, known: &Known| {
            known.member && known.attempts.failures < 3 && *node != master && !deputies.contains(node)
        };
        self.chosen.retain(|node| self.known.get(node).is_some_and(|known| fits(node, known)));
        if self.chosen.len() >= CONTROL_RANDOM {
            return;
        }
        let others = self.known.iter().filter(|(node, known)| fits(node, known) && !self.chosen.contains(node));
        let mut others: Vec<NodeId> = others.map(|(node, _)| *node).collect();
        while self.chosen.len() < CONTROL_RANDOM && !others.is_empty() {
            let place = self.rng.next_u32() as usize % others.len();
            self.chosen.push(others.swap_remove(place));
        }
    }

    /// Hangs up what this node dialled and wants no more, as far as it has too many.
    fn prune(&mut self, wanted: &BTreeSet<NodeId>) {
        if !matches!(self.standing, Standing::Following(_)) {
            return;
        }
        let excess = self.connected().saturating_sub(DEGREE_MAX);
        let surplus = self.known.iter_mut().filter(|(node, known)| known.up && known.ours && !wanted.contains(node));
        for (node, known) in surplus.take(excess) {
            known.ours = false;
            self.outputs.push_back(Output::Hangup(*node));
        }
    }
}

impl Attempts {
    /// Whether to dial now; if so, the dial is out.
    fn due(&mut self, now: Time, jitter: u32) -> bool {
        if now < self.next {
            return false;
        }
        if self.dialing {
            self.fail(now, jitter);
            return false;
        }
        self.dialing = true;
        self.next = now + DIAL_PATIENCE;
        true
    }

    /// Whether waiting any longer makes no sense once the other side was heard: dials failed, or one is out that was
    /// begun long before.
    fn is_stale(&self, now: Time) -> bool {
        self.failures > 0 || (self.dialing && self.next <= now + DIAL_PATIENCE - STALE_DIAL)
    }

    /// Doubles the wait; between one half and the whole of it by chance, so that nodes do not dial in step.
    fn fail(&mut self, now: Time, jitter: u32) {
        let wait = (BACKOFF * (1 << self.failures.min(10))).min(BACKOFF_MAX);
        let part = ((wait.as_nanos() / 2 * u128::from(jitter)) >> 32) as u64;
        self.failures = self.failures.saturating_add(1);
        self.next = now + wait / 2 + Duration::from_nanos(part);
        self.dialing = false;
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn ms(n: u64) -> Time {
        Time(n * 1_000_000)
    }

    fn id(n: u8) -> NodeId {
        NodeId([n; 32])
    }

    fn addr(n: u8) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, n)), 6970)
    }

    fn dial(n: u8) -> Output {
        Output::Dial { node: Some(id(n)), addr: addr(n) }
    }

    fn said(discovery: &mut Discovery) -> Vec<Output> {
        std::iter::from_fn(|| discovery.poll_output()).collect()
    }

    fn tell(discovery: &mut Discovery, at: u64, input: Input) -> Vec<Output> {
        discovery.handle_input(ms(at), input);
        said(discovery)
    }

    fn up(n: u8) -> Input {
        Input::Up { node: id(n), addr: addr(n).ip() }
    }

    fn refused(n: u8) -> Input {
        Input::Unreachable { node: Some(id(n)), addr: addr(n), refused: true }
    }

    /// Node 0 follows node 1 among nodes 1 to 40, of which 2 to 6 are listed.
    fn follower() -> (Discovery, Vec<Output>) {
        let mut discovery = Discovery::new(id(0), 1);
        said(&mut discovery);
        tell(&mut discovery, 0, Input::Found { node: Some(id(1)), addr: addr(1) });
        tell(&mut discovery, 5, up(1));
        let mut outputs = tell(&mut discovery, 10, Input::Standing(Standing::Following(id(1))));
        outputs.extend(tell(&mut discovery, 10, Input::Succession((2..=6).map(id).collect())));
        outputs.extend(tell(&mut discovery, 10, Input::Members((0..=40).map(|n| (id(n), addr(n))).collect())));
        (discovery, outputs)
    }

    #[test]
    fn a_follower_is_connected_to_master_deputies_and_four_others() {
        let (discovery, outputs) = follower();
        assert_eq!(outputs[0], Output::Browse(false));
        let dials = outputs.iter().filter(|output| matches!(output, Output::Dial { .. })).count();
        assert_eq!(dials, DEPUTIES + CONTROL_RANDOM);
        assert!((2..=4).all(|n| outputs.contains(&dial(n))));
        assert!(discovery.wanted().len() <= DEGREE_MAX);
    }

    #[test]
    fn a_closed_connection_is_redialled_at_once_and_a_refusal_means_gone() {
        let (mut discovery, _) = follower();
        assert_eq!(tell(&mut discovery, 100, Input::Down(id(1))), [dial(1)]);
        assert_eq!(tell(&mut discovery, 110, refused(1)), [Output::Gone(id(1))]);
        assert_eq!(tell(&mut discovery, 120, refused(1)), [], "said once");
    }

    #[test]
    fn a_redial_that_a_program_cuts_off_as_it_ends_is_soon_repeated() {
        let (mut discovery, _) = follower();
        tell(&mut discovery, 100, Input::Down(id(1)));
        let reset = || Input::Unreachable { node: Some(id(1)), addr: addr(1), refused: false };
        for dials in 0..u64::from(ENDING_DIALS) {
            assert_eq!(tell(&mut discovery, 100 + 20 * dials, reset()), []);
            discovery.handle_timeout(ms(120 + 20 * dials));
            assert_eq!(said(&mut discovery), [dial(1)]);
        }
        assert_eq!(tell(&mut discovery, 160, reset()), [], "it lives, and wants no connection");
        discovery.handle_timeout(ms(180));
        assert_eq!(said(&mut discovery), []);
        let (next, _) = discovery.poll_timeout().unwrap();
        discovery.handle_timeout(next);
        assert_eq!(said(&mut discovery), [dial(1)]);
        assert_eq!(tell(&mut discovery, 5000, refused(1)), [Output::Gone(id(1))]);
    }

    #[test]
    fn a_dial_that_fails_is_not_repeated_at_once_and_ever_more_seldom() {
        let mut discovery = Discovery::new(id(0), 1);
        tell(&mut discovery, 0, Input::Standing(Standing::Leaderless));
        assert_eq!(tell(&mut discovery, 0, Input::Found { node: Some(id(1)), addr: addr(1) }), [dial(1)]);
        let (mut now, mut waits) = (ms(0), Vec::new());
        for _ in 0..12 {
            discovery.handle_input(now, refused(1));
            assert_eq!(said(&mut discovery), []);
            let (next, _) = discovery.poll_timeout().unwrap();
            waits.push(next.since(now));
            now = next;
            discovery.handle_timeout(now);
            assert_eq!(said(&mut discovery), [dial(1)]);
        }
        assert!(waits[0] >= BACKOFF / 2 && waits[4] > waits[0] && waits[11] >= BACKOFF_MAX / 2);
        assert!(waits.iter().all(|wait| *wait <= BACKOFF_MAX));
    }

    #[test]
    fn a_lapsed_lease_hangs_up_and_dials_anew() {
        let (mut discovery, _) = follower();
        assert_eq!(tell(&mut discovery, 700, Input::Redial(id(1))), [Output::Hangup(id(1)), dial(1)]);
        assert_eq!(tell(&mut discovery, 701, Input::Down(id(1))), []);
    }

    #[test]
    fn only_who_has_no_master_or_is_one_is_advertised() {
        let mut discovery = Discovery::new(id(0), 1);
        assert_eq!(said(&mut discovery), [Output::Browse(true)]);
        assert_eq!(tell(&mut discovery, 600, Input::Standing(Standing::Leaderless)), [Output::Advertise(true)]);
        assert_eq!(tell(&mut discovery, 700, Input::Standing(Standing::Leading)), [Output::Browse(false)]);
        let following = Input::Standing(Standing::Following(id(1)));
        assert_eq!(tell(&mut discovery, 800, following), [Output::Advertise(false)]);
        assert_eq!(tell(&mut discovery, 900, Input::Standing(Standing::Leaderless)), [], "a new master is near");
        discovery.handle_timeout(ms(1900));
        assert_eq!(said(&mut discovery), [Output::Browse(true), Output::Advertise(true)]);
    }

    #[test]
    fn a_configured_address_is_tried_until_it_has_joined_our_mesh() {
        let (mut discovery, _) = follower();
        let join = Output::Dial { node: None, addr: addr(77) };
        assert_eq!(tell(&mut discovery, 100, Input::Found { node: None, addr: addr(77) }), std::slice::from_ref(&join));
        tell(&mut discovery, 200, Input::Unreachable { node: None, addr: addr(77), refused: false });
        let (next, _) = discovery.poll_timeout().unwrap();
        discovery.handle_timeout(next);
        assert!(said(&mut discovery).contains(&join));
        tell(&mut discovery, 2000, up(77));
        assert_eq!(discovery.joins[0].node, Some(id(77)));
        let members = (0..=40).chain([77]).map(|n| (id(n), addr(n))).collect();
        tell(&mut discovery, 2100, Input::Members(members));
        tell(&mut discovery, 2200, Input::Down(id(77)));
        discovery.handle_timeout(ms(60_000));
        assert!(!said(&mut discovery).contains(&join), "a member needs no connection of ours");
    }

    #[test]
    fn a_master_looks_for_members_that_are_missing() {
        let (mut discovery, _) = follower();
        tell(&mut discovery, 100, Input::Standing(Standing::Leading));
        let members = (0..=39).map(|n| (id(n), addr(n))).collect();
        assert_eq!(tell(&mut discovery, 200, Input::Members(members)), [dial(40)]);
    }

    #[test]
    fn a_heartbeat_from_an_address_that_seemed_dead_is_dialled_at_once() {
        let (mut discovery, _) = follower();
        tell(&mut discovery, 100, Input::Down(id(1)));
        for at in [200, 300, 400, 500] {
            tell(&mut discovery, at, Input::Unreachable { node: Some(id(1)), addr: addr(1), refused: false });
        }
        assert_eq!(tell(&mut discovery, 510, Input::Beat { node: id(1), addr: addr(1) }), [dial(1)]);
        assert_eq!(tell(&mut discovery, 520, Input::Beat { node: id(1), addr: addr(1) }), []);
    }

    #[test]
    fn surplus_connections_of_ours_are_closed() {
        let mut discovery = Discovery::new(id(0), 1);
        for n in 1..=30 {
            tell(&mut discovery, 0, Input::Found { node: Some(id(n)), addr: addr(n) });
            tell(&mut discovery, 1, up(n));
        }
        assert!(discovery.connected() > DEGREE_MAX, "others may dial us as they like");
        let outputs = tell(&mut discovery, 10, Input::Standing(Standing::Following(id(1))));
        let hangups = outputs.iter().filter(|output| matches!(output, Output::Hangup(_))).count();
        assert!(hangups > 0 && !outputs.contains(&Output::Hangup(id(1))), "{outputs:?}");
    }

    #[test]
    fn tables_are_bounded() {
        let mut discovery = Discovery::new(id(0), 1);
        tell(&mut discovery, 0, Input::Standing(Standing::Following(id(1))));
        for n in 0..NODES_MAX as u32 + 100 {
            let node = NodeId([&n.to_be_bytes()[..], &[200; 28]].concat().try_into().unwrap());
            tell(&mut discovery, 0, Input::Found { node: Some(node), addr: addr(1) });
            let join = SocketAddr::new(addr(1).ip(), n as u16);
            tell(&mut discovery, 0, Input::Found { node: None, addr: join });
        }
        assert_eq!((discovery.known.len(), discovery.joins.len()), (NODES_MAX, JOIN_MAX));
    }
}
