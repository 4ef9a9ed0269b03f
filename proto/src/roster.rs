//! Who is in the mesh: the master's list of members, and every node's copy of it.
//!
//! Rule: a node greets its master again and again ([`HELLO_EVERY`]); heard within [`MEMBER_AWAY`] it is live, unheard
//! for [`MEMBER_FORGET`] it is forgotten. Whoever becomes master goes on with the roster that it knew, but counts only
//! whom it has heard itself, so that the lost half of a partition decides nothing. Followers ask for what changed when
//! a heartbeat shows a newer version, obey deltas of their own epoch only, and keep their copy without a master.
//!
//! Not here: who is master ([`crate::election`]), whom to be connected to ([`crate::discovery`]).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::config::{BEAT_EVERY, MEMBER_AWAY, MEMBER_FORGET, NODES_MAX, PROTOCOL_VERSION, SUCCESSION, Weight};
use crate::id::{Epoch, NodeId, Time};
use crate::wire::control::{Beat, Member, Message, RosterDelta, RosterEntry};

mod table;

use table::{Row, Table};

/// A follower greets its master this often: three greetings may be lost before it is away.
pub const HELLO_EVERY: Duration = Duration::from_millis(MEMBER_AWAY.as_millis() as u64 / 3);
/// How often the master looks for members that fell silent.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// How long a member whose connection ended stays live: it may be redialling.
const REDIAL_GRACE: Duration = Duration::from_secs(1);
/// The least between two questions for the roster, so that a boot of the whole room does not ask at every join.
const ASK_EVERY: Duration = Duration::from_millis(300);
/// Neighbours that are asked where the master is.
const NEIGHBOURS_ASKED: usize = 4;
/// Ended programs that are remembered: a few masters that died one after the other.
const ENDED_MAX: usize = 16;
/// Forgotten members that deltas remember; who is further behind gets the whole roster.
const GONE_MAX: usize = 256;

/// What happens to the roster.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// This node is master, or solo.
    Leading {
        /// Its epoch.
        epoch: Epoch,
    },
    /// This node obeys that epoch.
    Following {
        /// The epoch.
        epoch: Epoch,
    },
    /// This node has no master.
    Leaderless,
    /// A control connection stands.
    Up {
        /// With whom.
        node: NodeId,
        /// Where it is.
        addr: IpAddr,
    },
    /// The last control connection with that node ended.
    Down(NodeId),
    /// That node closed its connection and refuses new ones: its program has ended.
    Gone(NodeId),
    /// That node said something, anything.
    Heard(NodeId),
    /// That node greeted.
    Hello {
        /// Who, by its connection.
        from: NodeId,
        /// What it says of itself.
        member: Member,
        /// Its protocol version.
        protocol: u16,
        /// The freshest heartbeat this node knows, for the answer.
        beat: Option<Beat>,
    },
    /// The answer to our greeting of a node that is not the master.
    Welcome {
        /// The freshest heartbeat it knows.
        beat: Option<Beat>,
        /// Where that master listens.
        master: Option<SocketAddr>,
    },
    /// The obeyed master's heartbeat shows this version.
    Version(u64),
    /// A follower asks what changed.
    Since {
        /// Who.
        from: NodeId,
        /// The version it has; 0 = none of this epoch.
        version: u64,
    },
    /// The roster, or what changed.
    Delta {
        /// Who says it.
        from: NodeId,
        /// What.
        delta: RosterDelta,
    },
    /// This node lost a merge: give that master what we know.
    HandOver {
        /// The winner.
        to: NodeId,
    },
    /// A master that lost a merge gives us what it knew.
    Handover(Vec<RosterEntry>),
    /// The version of this node's own holdings, for its greetings.
    Holdings(u64),
    /// This node's own address became known, or changed.
    Address(IpAddr),
}

/// What the roster wants done.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Say to one node.
    Send {
        /// To whom.
        to: NodeId,
        /// What.
        message: Message,
    },
    /// The live members that count, this node included: for the election and discovery.
    Members(Vec<(NodeId, Weight)>),
    /// Who follows the master, best first.
    Succession(Vec<NodeId>),
    /// The version that this master's heartbeats say.
    Version(u64),
    /// A member is new or came back.
    MemberUp(NodeId),
    /// A member fell silent.
    MemberDown(NodeId),
    /// A member was away for so long that it is forgotten.
    MemberForgotten(NodeId),
    /// That master's control plane listens there: for discovery.
    MasterAt {
        /// Which.
        node: NodeId,
        /// Where.
        addr: SocketAddr,
    },
    /// A node speaks another protocol version and was told so.
    Incompatible {
        /// Who.
        node: NodeId,
        /// Its version.
        theirs: u16,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// No master.
    Alone,
    /// Master or solo; next sweep.
    Leading { epoch: Epoch, sweep_at: Time },
    /// Follower; the version known to exist, when to greet and when a question may be asked.
    Following { epoch: Epoch, wanted: u64, hello_at: Time, ask_at: Time },
}

/// The roster as one node knows it. See [`crate::io`] for the five verbs.
#[derive(Debug)]
pub struct Roster {
    me: Member,
    keyed: bool,
    place: Place,
    table: Table,
    /// Of this epoch; 0 = nothing yet.
    version: u64,
    /// Forgotten members with the version that forgot them, oldest first, and the version before the oldest.
    gone: VecDeque<(u64, NodeId)>,
    gone_since: u64,
    succession: Vec<NodeId>,
    addresses: BTreeMap<NodeId, IpAddr>,
    /// Whose program has ended since it was heard, the latest last: a new master does not wait for those.
    ended: VecDeque<NodeId>,
    holdings: u64,
    outputs: VecDeque<Output>,
}

impl Roster {
    /// A roster of this node alone. `me` is what the node says of itself.
    pub fn new(now: Time, me: Member, keyed: bool) -> Self {
        let mut table = Table::default();
        let me = Member { weight: me.weight.trusted(keyed), ..me };
        table.put(own_row(now, &me));
        Self {
            me,
            keyed,
            place: Place::Alone,
            table,
            version: 0,
            gone: VecDeque::new(),
            gone_since: 0,
            succession: Vec::new(),
            addresses: BTreeMap::new(),
            ended: VecDeque::new(),
            holdings: 0,
            outputs: VecDeque::new(),
        }
    }

    /// Something happened.
    pub fn handle_input(&mut self, now: Time, input: Input) {
        match input {
            Input::Leading { epoch } => self.lead(now, epoch),
            Input::Following { epoch } => {
                self.place = Place::Following { epoch, wanted: 0, hello_at: now, ask_at: Time::NEVER };
                self.version = 0;
                self.greet_master(now);
            }
            Input::Welcome { beat, master } => self.on_welcome(beat, master),
            Input::Leaderless => self.place = Place::Alone,
            Input::Up { node, addr } => self.on_up(node, addr),
            Input::Down(node) => self.on_down(now, node),
            Input::Gone(node) => self.on_gone(now, node),
            Input::Heard(node) => self.on_heard(now, node),
            Input::Hello { from, member, protocol, beat } => self.on_hello(now, from, member, protocol, beat),
            Input::Version(version) => self.on_version(now, version),
            Input::Since { from, version } => self.on_since(from, version),
            Input::Delta { from, delta } => self.on_delta(now, from, delta),
            Input::HandOver { to } => {
                let entries = self.entries().cloned().collect();
                self.send(to, Message::Handover(entries));
            }
            Input::Handover(entries) => self.on_handover(now, entries),
            Input::Holdings(version) => self.holdings = version,
            Input::Address(addr) => {
                self.me.addr = Some(addr);
                self.table.put(own_row(now, &self.me));
                if let Place::Leading { .. } = self.place {
                    self.touch(self.me.id);
                }
            }
        }
    }

    /// The deadline has come.
    pub fn handle_timeout(&mut self, now: Time) {
        match &mut self.place {
            Place::Leading { sweep_at, .. } if now >= *sweep_at => {
                *sweep_at = now + SWEEP_EVERY;
                self.sweep(now);
            }
            Place::Following { epoch, wanted, hello_at, ask_at } => {
                let (master, ask, greet) = (epoch.node, now >= *ask_at, now >= *hello_at);
                if ask {
                    *ask_at = if *wanted > self.version { now + SWEEP_EVERY } else { Time::NEVER };
                }
                if ask && *wanted > self.version {
                    self.send(master, Message::RosterSince(self.version));
                }
                if greet {
                    self.greet_master(now);
                }
            }
            Place::Leading { .. } | Place::Alone => {}
        }
    }

    /// What is to be done, oldest first.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to wake this, and why.
    pub fn poll_timeout(&self) -> Option<(Time, &'static str)> {
        match self.place {
            Place::Alone => None,
            Place::Leading { sweep_at, .. } => Some((sweep_at, "roster: look for silent members")),
            Place::Following { hello_at, ask_at, .. } if hello_at <= ask_at => Some((hello_at, "roster: greet")),
            Place::Following { ask_at, .. } => Some((ask_at, "roster: ask what changed")),
        }
    }

    /// All members in NodeId order, this node included.
    pub fn entries(&self) -> impl Iterator<Item = &RosterEntry> {
        self.table.rows().map(|row| &row.entry)
    }

    /// One member.
    pub fn member(&self, node: &NodeId) -> Option<&RosterEntry> {
        self.table.get(node).map(|row| &row.entry)
    }

    /// What a member is called here: unique, `pc07-2` for a second `pc07`.
    pub fn name(&self, node: &NodeId) -> Option<&str> {
        self.table.name(node)
    }

    /// Where a node is: by its connection, else by the roster.
    pub fn address(&self, node: &NodeId) -> Option<IpAddr> {
        self.member(node).and_then(|entry| entry.member.addr).or_else(|| self.addresses.get(node).copied())
    }

    /// Where a member's control plane listens.
    pub fn control_addr(&self, node: &NodeId) -> Option<SocketAddr> {
        Some(SocketAddr::new(self.address(node)?, self.member(node)?.member.control_port))
    }

    /// Where the heartbeats go: every live member but this one.
    pub fn followers(&self) -> impl Iterator<Item = SocketAddr> {
        let others = self.entries().filter(|entry| entry.live && entry.member.id != self.me.id);
        others.filter_map(|entry| Some(SocketAddr::new(entry.member.addr?, entry.member.control_port)))
    }

    /// Who follows the master, best first.
    pub fn succession(&self) -> &[NodeId] {
        &self.succession
    }

    /// The version of this copy; 0 = none of this epoch.
    pub fn version(&self) -> u64 {
        self.version
    }

    // ---- as master

    fn lead(&mut self, now: Time, epoch: Epoch) {
        // A master that only raised its term goes on counting whom it has heard.
        let again = matches!(self.place, Place::Leading { epoch: old, .. } if old.node == epoch.node);
        self.place = Place::Leading { epoch, sweep_at: now + SWEEP_EVERY };
        self.version = self.version.max(1);
        if !again {
            self.version = 1;
            self.gone.clear();
            self.gone_since = 0;
            for row in self.table.rows_mut() {
                row.version = 1;
                let ended = self.ended.contains(&row.entry.member.id);
                row.heard = if ended { now - MEMBER_AWAY } else { now };
                row.counted = row.entry.member.id == self.me.id;
            }
        }
        self.set_live(now, self.me.id, true);
        self.outputs.push_back(Output::Version(self.version));
        self.publish();
    }

    fn on_hello(&mut self, now: Time, from: NodeId, member: Member, protocol: u16, beat: Option<Beat>) {
        if protocol != PROTOCOL_VERSION {
            self.outputs.push_back(Output::Incompatible { node: from, theirs: protocol });
            return self.send(from, Message::Incompatible { protocol: PROTOCOL_VERSION });
        }
        if member.id != from || from == self.me.id {
            return;
        }
        self.ended.retain(|other| *other != from);
        match self.place {
            Place::Following { .. } => return self.welcome(from, beat),
            Place::Alone => self.welcome(from, beat),
            Place::Leading { .. } => {}
        }
        let addr = self.seen_address(&from, member.addr);
        let member = Member { addr, weight: member.weight.trusted(self.keyed), ..member };
        let old = self.table.get(&from);
        let (was_live, was_counted) = old.map_or((false, false), |row| (row.entry.live, row.counted));
        let changed = old.is_none_or(|row| row.entry.member != member || !row.entry.live);
        let version = old.map_or(0, |row| row.version);
        let row = Row { entry: RosterEntry { member, live: true }, heard: now, counted: true, version };
        if !self.table.put(row) {
            tracing::warn!(node = %from.short(), "the roster is full: a node was refused");
            return;
        }
        if changed {
            self.touch(from);
        }
        if !was_live {
            self.outputs.push_back(Output::MemberUp(from));
        }
        if changed || !was_counted {
            self.publish();
        }
    }

    /// What the connection shows, which nobody can invent; but nodes of one machine all come from its loopback, so
    /// among those the bound address counts.
    fn seen_address(&self, node: &NodeId, told: Option<IpAddr>) -> Option<IpAddr> {
        match (self.addresses.get(node).copied(), told) {
            (Some(seen), Some(told)) if seen.is_loopback() && told.is_loopback() => Some(told),
            (Some(seen), _) => Some(seen),
            (None, told) => told,
        }
    }

    /// Any word shows that a member lives; but only its greeting shows that it follows this master.
    fn on_heard(&mut self, now: Time, node: NodeId) {
        if let Some(row) = self.table.get_mut(&node).filter(|row| row.entry.live) {
            row.heard = now;
        }
    }

    fn on_up(&mut self, node: NodeId, addr: IpAddr) {
        self.ended.retain(|other| *other != node);
        if self.addresses.len() < NODES_MAX {
            self.addresses.insert(node, addr);
        }
        // A solo greets whom it meets, so that both know the weights; a master greets strangers, whose answer is the
        // heartbeat of the master that they follow.
        let stranger = self.table.get(&node).is_none_or(|row| !row.counted);
        match self.place {
            Place::Alone => self.greet(node),
            Place::Following { epoch, wanted, .. } if epoch.node == node => {
                self.greet(node);
                if wanted > self.version {
                    // What was asked before went nowhere.
                    self.send(node, Message::RosterSince(self.version));
                }
            }
            Place::Leading { .. } if stranger => self.greet(node),
            Place::Leading { .. } | Place::Following { .. } => {}
        }
    }

    fn on_gone(&mut self, now: Time, node: NodeId) {
        self.ended.retain(|other| *other != node);
        self.ended.push_back(node);
        if self.ended.len() > ENDED_MAX {
            self.ended.pop_front();
        }
        if let Some(row) = self.table.get_mut(&node) {
            row.heard = row.heard.min(now - MEMBER_AWAY);
        }
    }

    fn on_down(&mut self, now: Time, node: NodeId) {
        self.addresses.remove(&node);
        if let Some(row) = self.table.get_mut(&node) {
            row.heard = row.heard.min(now + REDIAL_GRACE - MEMBER_AWAY);
        }
    }

    fn sweep(&mut self, now: Time) {
        let me = self.me.id;
        let silent = |row: &&Row| row.entry.member.id != me && now.since(row.heard) >= MEMBER_AWAY;
        let away: Vec<(NodeId, bool)> = self
            .table
            .rows()
            .filter(silent)
            .filter(|row| row.entry.live || now.since(row.heard) >= MEMBER_FORGET)
            .map(|row| (row.entry.member.id, row.entry.live))
            .collect();
        for (node, live) in &away {
            if *live {
                self.set_live(now, *node, false);
            } else {
                self.forget(*node);
            }
        }
        if !away.is_empty() {
            self.publish();
        }
    }

    fn forget(&mut self, node: NodeId) {
        self.table.remove(&node);
        self.outputs.push_back(Output::MemberForgotten(node));
        self.bump();
        self.gone.push_back((self.version, node));
        while self.gone.len() > GONE_MAX {
            if let Some((version, _)) = self.gone.pop_front() {
                self.gone_since = version;
            }
        }
    }

    fn set_live(&mut self, now: Time, node: NodeId, live: bool) {
        let Some(row) = self.table.get_mut(&node).filter(|row| row.entry.live != live) else { return };
        row.entry.live = live;
        if live {
            row.heard = now;
        } else {
            row.counted = false;
        }
        self.touch(node);
        self.outputs.push_back(if live { Output::MemberUp(node) } else { Output::MemberDown(node) });
    }

    /// A member changed in a new version.
    fn touch(&mut self, node: NodeId) {
        self.bump();
        if let Some(row) = self.table.get_mut(&node) {
            row.version = self.version;
        }
    }

    fn bump(&mut self) {
        if let Place::Leading { .. } = self.place {
            self.version += 1;
            self.outputs.push_back(Output::Version(self.version));
        }
    }

    /// Says who counts, and the succession if it changed.
    fn publish(&mut self) {
        let leading = matches!(self.place, Place::Leading { .. });
        let counts = |row: &&Row| row.entry.live && (row.counted || !leading);
        let members: Vec<(NodeId, Weight)> =
            self.table.rows().filter(counts).map(|row| (row.entry.member.id, row.entry.member.weight)).collect();
        if leading {
            let mut willing: Vec<_> = members.iter().filter(|(id, w)| *id != self.me.id && w.get() > 0).collect();
            willing.sort_unstable_by_key(|(id, weight)| (u8::MAX - weight.get(), *id));
            let succession: Vec<NodeId> = willing.iter().take(SUCCESSION).map(|(id, _)| *id).collect();
            if succession != self.succession {
                self.succession.clone_from(&succession);
                self.bump();
                self.outputs.push_back(Output::Succession(succession));
            }
        }
        self.outputs.push_back(Output::Members(members));
    }

    fn on_since(&mut self, from: NodeId, version: u64) {
        let Place::Leading { epoch, .. } = self.place else { return };
        // A version that does not exist here is of another epoch.
        let since = if version > self.version || version < self.gone_since { 0 } else { version };
        let changed = self.table.rows().filter(|row| row.version > since).map(|row| row.entry.clone()).collect();
        let gone = self.gone.iter().filter(|(at, _)| since > 0 && *at > since).map(|(_, node)| *node).collect();
        let succession = self.succession.clone();
        let delta = RosterDelta { epoch, from: since, to: self.version, changed, gone, succession };
        self.send(from, Message::Roster(delta));
    }

    fn on_handover(&mut self, now: Time, entries: Vec<RosterEntry>) {
        if !matches!(self.place, Place::Leading { .. }) {
            return;
        }
        for entry in entries.into_iter().take(NODES_MAX) {
            let id = entry.member.id;
            if self.table.get(&id).is_some_and(|row| row.entry.live) {
                continue;
            }
            let member = Member { weight: entry.member.weight.trusted(self.keyed), ..entry.member };
            let entry = RosterEntry { member, live: entry.live };
            let live = entry.live;
            if self.table.put(Row { entry, heard: now, counted: false, version: 0 }) {
                self.touch(id);
                if live {
                    self.outputs.push_back(Output::MemberUp(id));
                }
            }
        }
        self.publish();
    }

    // ---- as follower

    fn greet(&mut self, to: NodeId) {
        let hello = Message::Hello { member: self.me.clone(), protocol: PROTOCOL_VERSION, holdings: self.holdings };
        self.send(to, hello);
    }

    /// Greets the master. Without a connection to it the neighbours are greeted as well, whose answer says where it is:
    /// where multicast is filtered, a claim may be all that was heard of it.
    fn greet_master(&mut self, now: Time) {
        let Place::Following { epoch, hello_at, .. } = &mut self.place else { return };
        let master = epoch.node;
        *hello_at = now + HELLO_EVERY;
        if self.addresses.contains_key(&master) {
            return self.greet(master);
        }
        let listed = self.table.get(&master).map(|row| &row.entry.member);
        match listed.and_then(|member| Some(SocketAddr::new(member.addr?, member.control_port))) {
            Some(addr) => self.outputs.push_back(Output::MasterAt { node: master, addr }),
            None => *hello_at = now + BEAT_EVERY,
        }
        let neighbours: Vec<NodeId> = self.addresses.keys().take(NEIGHBOURS_ASKED).copied().collect();
        for node in neighbours {
            self.greet(node);
        }
    }

    fn welcome(&mut self, to: NodeId, beat: Option<Beat>) {
        let place = beat.and_then(|beat| Some(SocketAddr::new(self.address(&beat.epoch.node)?, beat.control_port)));
        self.send(to, Message::Welcome { beat, master: place });
    }

    fn on_welcome(&mut self, beat: Option<Beat>, master: Option<SocketAddr>) {
        if let (Some(beat), Some(addr)) = (beat, master)
            && beat.epoch.node != self.me.id
        {
            self.outputs.push_back(Output::MasterAt { node: beat.epoch.node, addr });
        }
    }

    fn on_version(&mut self, now: Time, version: u64) {
        let Place::Following { wanted, ask_at, .. } = &mut self.place else { return };
        *wanted = version;
        if version > self.version && *ask_at == Time::NEVER {
            *ask_at = now;
        }
    }

    fn on_delta(&mut self, now: Time, from: NodeId, delta: RosterDelta) {
        let Place::Following { epoch, wanted, ask_at, .. } = &mut self.place else { return };
        if delta.epoch != *epoch || from != epoch.node {
            return;
        }
        if delta.from != 0 && delta.from != self.version {
            return;
        }
        *ask_at = if *wanted > delta.to { now + ASK_EVERY } else { Time::NEVER };
        self.version = delta.to;
        let keyed = self.keyed;
        let rows = delta.changed.into_iter().map(|entry| {
            let member = Member { weight: entry.member.weight.trusted(keyed), ..entry.member };
            Row { entry: RosterEntry { member, live: entry.live }, heard: now, counted: false, version: 0 }
        });
        if delta.from == 0 {
            let before: BTreeSet<NodeId> = self.live().collect();
            self.table.replace(rows.take(NODES_MAX));
            self.keep_oneself(now);
            let after: BTreeSet<NodeId> = self.live().collect();
            self.outputs.extend(after.difference(&before).map(|id| Output::MemberUp(*id)));
            let away = before.difference(&after).filter(|id| self.table.get(id).is_some());
            self.outputs.extend(away.map(|id| Output::MemberDown(*id)));
        } else {
            for row in rows {
                let (id, live) = (row.entry.member.id, row.entry.live);
                let was_live = self.table.get(&id).is_some_and(|old| old.entry.live);
                if self.table.put(row) && live != was_live {
                    self.outputs.push_back(if live { Output::MemberUp(id) } else { Output::MemberDown(id) });
                }
            }
            for node in &delta.gone {
                self.table.remove(node);
            }
            self.keep_oneself(now);
        }
        self.know_the_master(from);
        if delta.succession != self.succession {
            self.succession = delta.succession;
            self.outputs.push_back(Output::Succession(self.succession.clone()));
        }
        self.publish();
    }

    /// A roster that was written before our greeting does not list us.
    fn keep_oneself(&mut self, now: Time) {
        if self.table.get(&self.me.id).is_none() {
            self.table.put(own_row(now, &self.me));
        }
    }

    /// A master that is bound to no address does not know its own; its followers do.
    fn know_the_master(&mut self, master: NodeId) {
        let Some(row) = self.table.get(&master) else { return };
        if row.entry.member.addr.is_none()
            && let Some(addr) = self.addresses.get(&master)
        {
            let mut row = row.clone();
            row.entry.member.addr = Some(*addr);
            self.table.put(row);
        }
    }

    fn live(&self) -> impl Iterator<Item = NodeId> {
        self.entries().filter(|entry| entry.live).map(|entry| entry.member.id)
    }

    fn send(&mut self, to: NodeId, message: Message) {
        self.outputs.push_back(Output::Send { to, message });
    }
}

fn own_row(now: Time, me: &Member) -> Row {
    Row { entry: RosterEntry { member: me.clone(), live: true }, heard: now, counted: true, version: 0 }
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

    fn member(n: u8, name: &str) -> Member {
        Member {
            id: id(n),
            name: name.to_owned(),
            addr: None,
            control_port: 6970,
            peer_port: 6881,
            http_port: 6969,
            weight: Weight::DEFAULT,
            site: String::new(),
            version: "0".to_owned(),
        }
    }

    fn said(roster: &mut Roster) -> Vec<Output> {
        std::iter::from_fn(|| roster.poll_output()).collect()
    }

    fn address(n: u8) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(10, 0, 0, n))
    }

    fn greet(roster: &mut Roster, at: u64, member: Member) {
        let from = member.id;
        roster.handle_input(ms(at), Input::Up { node: from, addr: address(from.0[0]) });
        roster.handle_input(ms(at), Input::Hello { from, member, protocol: PROTOCOL_VERSION, beat: None });
    }

    fn epoch(term: u64, n: u8) -> Epoch {
        Epoch { term, node: id(n) }
    }

    /// Node 1 leads, nodes 2 to 4 have greeted it.
    fn leader() -> Roster {
        let mut roster = Roster::new(ms(0), member(1, "pc01"), false);
        roster.handle_input(ms(0), Input::Leading { epoch: epoch(1, 1) });
        for n in 2..=4 {
            greet(&mut roster, 10, member(n, "pc"));
        }
        roster
    }

    fn delta(roster: &mut Roster, version: u64) -> RosterDelta {
        said(roster);
        roster.handle_input(ms(100), Input::Since { from: id(9), version });
        match said(roster).pop() {
            Some(Output::Send { message: Message::Roster(delta), .. }) => delta,
            other => panic!("no roster but {other:?}"),
        }
    }

    fn follower() -> Roster {
        let mut roster = Roster::new(ms(0), member(9, "pc09"), false);
        roster.handle_input(ms(0), Input::Following { epoch: epoch(1, 1) });
        roster
    }

    #[test]
    fn a_follower_has_the_masters_roster_by_deltas() {
        let (mut leader, mut follower) = (leader(), follower());
        let full = delta(&mut leader, 0);
        follower.handle_input(ms(100), Input::Delta { from: id(1), delta: full });
        assert_eq!(follower.entries().count(), 5, "and itself, which has not greeted yet");
        greet(&mut leader, 110, member(5, "pc05"));
        greet(&mut leader, 110, member(9, "pc09"));
        let more = delta(&mut leader, follower.version());
        assert_eq!(more.changed.len(), 2);
        follower.handle_input(ms(120), Input::Delta { from: id(1), delta: more });
        assert!(follower.entries().eq(leader.entries()));
        assert_eq!((follower.version(), follower.succession()), (leader.version(), leader.succession()));
        assert_eq!(follower.address(&id(3)), Some(address(3)));
    }

    #[test]
    fn deltas_of_other_masters_epochs_and_versions_are_ignored() {
        let (mut leader, mut follower) = (leader(), follower());
        let full = delta(&mut leader, 0);
        let wrong = [
            (id(2), full.clone()),
            (id(1), RosterDelta { epoch: epoch(2, 1), ..full.clone() }),
            (id(1), RosterDelta { from: 7, ..full }),
        ];
        for (from, delta) in wrong {
            follower.handle_input(ms(100), Input::Delta { from, delta });
            assert_eq!(follower.entries().count(), 1);
        }
    }

    #[test]
    fn a_newer_version_in_a_heartbeat_is_asked_for_once_in_a_while() {
        let mut roster = follower();
        said(&mut roster);
        for at in [10, 110, 210] {
            roster.handle_input(ms(at), Input::Version(at));
            while roster.poll_timeout().is_some_and(|(due, _)| due <= ms(at)) {
                roster.handle_timeout(ms(at));
            }
        }
        assert_eq!(said(&mut roster), [Output::Send { to: id(1), message: Message::RosterSince(0) }]);
    }

    #[test]
    fn a_master_that_is_connected_late_is_asked_at_once() {
        let mut roster = follower();
        roster.handle_input(ms(10), Input::Version(3));
        said(&mut roster);
        roster.handle_input(ms(20), Input::Up { node: id(1), addr: address(1) });
        let question = Output::Send { to: id(1), message: Message::RosterSince(0) };
        assert!(said(&mut roster).contains(&question));
    }

    #[test]
    fn silent_members_are_away_then_forgotten_and_greetings_bring_them_back() {
        let mut roster = leader();
        said(&mut roster);
        roster.handle_input(ms(4000), Input::Heard(id(2)));
        let mut at = 0;
        while at < 6000 {
            at += 1000;
            roster.handle_timeout(ms(at));
        }
        let live: Vec<u8> = roster.entries().filter(|entry| entry.live).map(|entry| entry.member.id.0[0]).collect();
        assert_eq!(live, [1, 2]);
        assert!(said(&mut roster).contains(&Output::MemberDown(id(3))));
        greet(&mut roster, 6500, member(3, "pc"));
        assert!(said(&mut roster).contains(&Output::MemberUp(id(3))));
        let before = roster.version();
        roster.handle_timeout(Time(MEMBER_FORGET.as_nanos() as u64 + 60_000_000_000));
        roster.handle_timeout(Time(MEMBER_FORGET.as_nanos() as u64 + 70_000_000_000));
        assert_eq!(roster.entries().count(), 1);
        let gone = delta(&mut roster, before).gone;
        assert_eq!(gone, [id(4), id(2), id(3)], "in the order of forgetting");
    }

    #[test]
    fn a_member_whose_connection_ended_is_away_soon() {
        let mut roster = leader();
        for second in 1..=20 {
            for n in 2..=4 {
                roster.handle_input(ms(1000 * second), Input::Heard(id(n)));
            }
            roster.handle_timeout(ms(1000 * second));
        }
        roster.handle_input(ms(20_000), Input::Down(id(2)));
        roster.handle_timeout(ms(21_000));
        assert_eq!(roster.member(&id(2)).map(|entry| entry.live), Some(false));
        assert_eq!(roster.member(&id(3)).map(|entry| entry.live), Some(true));
    }

    #[test]
    fn a_new_master_counts_only_who_greeted_it() {
        let (mut leader, mut follower) = (leader(), follower());
        let full = delta(&mut leader, 0);
        follower.handle_input(ms(100), Input::Delta { from: id(1), delta: full });
        said(&mut follower);
        follower.handle_input(ms(200), Input::Leading { epoch: epoch(2, 9) });
        greet(&mut follower, 210, member(2, "pc"));
        let members = said(&mut follower).into_iter().rev().find_map(|output| match output {
            Output::Members(members) => Some(members.iter().map(|(node, _)| node.0[0]).collect::<Vec<_>>()),
            _ => None,
        });
        assert_eq!(members, Some(vec![2, 9]));
        assert_eq!(follower.entries().filter(|entry| entry.live).count(), 5, "but all are shown for a while");
    }

    #[test]
    fn the_succession_is_by_weight_then_node_id_and_holds_five() {
        let mut roster = Roster::new(ms(0), member(1, "pc01"), false);
        roster.handle_input(ms(0), Input::Leading { epoch: epoch(1, 1) });
        for (n, weight) in [(9, 60), (8, 99), (7, 50), (6, 50), (5, 0), (4, 10), (3, 30), (2, 40)] {
            let weight = Weight::try_from(weight).unwrap();
            greet(&mut roster, 10, Member { weight, ..member(n, "pc") });
        }
        assert_eq!(roster.succession(), [8, 9, 6, 7, 2].map(id), "99 counts as 60 in a mesh without a key");
    }

    #[test]
    fn two_nodes_of_one_name_are_told_apart() {
        let mut roster = Roster::new(ms(0), member(1, "pc"), false);
        roster.handle_input(ms(0), Input::Leading { epoch: epoch(1, 1) });
        for (n, name) in [(2, "pc"), (3, "pc-2"), (4, "pc"), (5, "lab")] {
            greet(&mut roster, 10, member(n, name));
        }
        let names: Vec<&str> = (1..=5).filter_map(|n| roster.name(&id(n))).collect();
        assert_eq!(names, ["pc", "pc-3", "pc-2", "pc-4", "lab"]);
    }

    #[test]
    fn who_speaks_for_others_or_another_protocol_is_not_listed() {
        let mut roster = leader();
        said(&mut roster);
        let hello = |protocol| Input::Hello { from: id(7), member: member(8, "pc"), protocol, beat: None };
        roster.handle_input(ms(20), hello(PROTOCOL_VERSION));
        assert_eq!(said(&mut roster), []);
        roster.handle_input(ms(20), hello(99));
        let refusal = Message::Incompatible { protocol: PROTOCOL_VERSION };
        let told = Output::Send { to: id(7), message: refusal };
        assert_eq!(said(&mut roster), [Output::Incompatible { node: id(7), theirs: 99 }, told]);
        assert_eq!(roster.entries().count(), 4);
    }

    #[test]
    fn the_address_is_what_the_connection_shows_except_among_nodes_of_one_machine() {
        let mut roster = leader();
        let lie = Member { addr: Some(address(99)), ..member(7, "pc") };
        greet(&mut roster, 20, lie);
        assert_eq!(roster.address(&id(7)), Some(address(7)));
        let loopback = |n| IpAddr::V4(Ipv4Addr::new(127, 0, 0, n));
        let bound = Member { addr: Some(loopback(8)), ..member(8, "pc") };
        roster.handle_input(ms(20), Input::Up { node: id(8), addr: loopback(1) });
        roster
            .handle_input(ms(20), Input::Hello { from: id(8), member: bound, protocol: PROTOCOL_VERSION, beat: None });
        assert_eq!(roster.address(&id(8)), Some(loopback(8)));
    }

    #[test]
    fn the_loser_of_a_merge_hands_over_whom_the_winner_does_not_know() {
        let (mut winner, mut loser) = (leader(), follower());
        loser.handle_input(ms(100), Input::Leading { epoch: epoch(2, 9) });
        greet(&mut loser, 100, member(6, "pc06"));
        said(&mut loser);
        loser.handle_input(ms(200), Input::HandOver { to: id(1) });
        let Some(Output::Send { message: Message::Handover(entries), .. }) = loser.poll_output() else {
            panic!("nothing is handed over")
        };
        winner.handle_input(ms(210), Input::Handover(entries));
        assert!(winner.followers().any(|addr| addr.ip() == address(6)), "it gets heartbeats at once");
    }

    #[test]
    fn a_full_roster_refuses_the_newest() {
        let row = |n: u32| {
            let id = NodeId([&n.to_be_bytes()[..], &[200; 28]].concat().try_into().unwrap());
            own_row(ms(0), &Member { id, ..member(7, "pc") })
        };
        let mut roster = leader();
        roster.table.replace((0..NODES_MAX as u32).map(row));
        assert!(!roster.table.put(row(1 << 20)));
        greet(&mut roster, 20, member(7, "pc07"));
        assert_eq!((roster.entries().count(), roster.member(&id(7))), (NODES_MAX, None));
        roster.table.get_mut(&row(5).entry.member.id).unwrap().entry.live = false;
        greet(&mut roster, 30, member(7, "pc07"));
        assert!(roster.member(&id(7)).is_some(), "in the place of one that is away");
    }
}
