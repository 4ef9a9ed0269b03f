//! Who is in the mesh: the master's list of members, and every node's copy of it.
//!
//! Rule: a node greets its master again and again ([`HELLO_EVERY`]); heard within [`MEMBER_AWAY`] it is live, unheard
//! for [`MEMBER_FORGET`](crate::config::MEMBER_FORGET) it is forgotten. Whoever becomes master goes on with the roster
//! that it knew, but counts only whom it has heard itself, so that the lost half of a partition decides nothing.
//! Followers ask for what changed when a heartbeat shows a newer version, obey deltas of their own epoch only, and keep
//! their copy without a master.
//!
//! Not here: who is master ([`crate::election`]), whom to be connected to ([`crate::discovery`]).

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::config::{MEMBER_AWAY, NODES_MAX, PROTOCOL_VERSION, SUCCESSION, Weight};
use crate::id::{Epoch, NodeId, Time};
use crate::wire::control::{Beat, Member, Message, RosterDelta, RosterEntry};

mod follower;
mod master;
mod table;

#[cfg(test)]
mod tests;

use table::{Row, Table};

/// A follower greets its master this often: three greetings may be lost before it is away.
pub const HELLO_EVERY: Duration = Duration::from_millis(MEMBER_AWAY.as_millis() as u64 / 3);
/// How often the master looks for members that fell silent.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// How long a member whose connection ended stays live: it may be redialling.
const REDIAL_GRACE: Duration = Duration::from_secs(1);
/// Ended programs that are remembered: a few masters that died one after the other.
const ENDED_MAX: usize = 16;

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

    fn greet(&mut self, to: NodeId) {
        let hello = Message::Hello { member: self.me.clone(), protocol: PROTOCOL_VERSION, holdings: self.holdings };
        self.send(to, hello);
    }

    fn send(&mut self, to: NodeId, message: Message) {
        self.outputs.push_back(Output::Send { to, message });
    }
}

fn own_row(now: Time, me: &Member) -> Row {
    Row { entry: RosterEntry { member: me.clone(), live: true }, heard: now, counted: true, version: 0 }
}
