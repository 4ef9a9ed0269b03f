//! Who is the master of the mesh.
//!
//! Rule: the master is obeyed for as long as its heartbeats come, whoever else would be better; when they end, the
//! first of the succession list that nobody contradicts takes the next term. No quorum: two masters harm no data, and
//! when they meet the side with more live members wins.
//!
//! States: `Listening -> Candidate -> Follower | Master | Solo`, and back to `Candidate` when a master is lost, to
//! `Listening` when the clock shows that this node itself was away.
//!
//! * An [`Epoch`] is (term, node) and ordered as a pair. The highest epoch that a node has obeyed is the only one it
//!   obeys, over restarts too; a live master of a lower one is asked to raise its term. Its own is on disk before it is
//!   claimed; one that it follows is written meanwhile, so that a disk which refuses keeps no node out of the mesh.
//! * A *lease* is renewed by heartbeats newer than the newest of their epoch. Hearsay (gossip, relays) is believed half
//!   as long, and only who heard the master itself within half a lease may object to a claim, so together nobody
//!   believes in a dead master longer than a lease.
//! * A node whose lease is fresh does not change sides by a higher epoch: it tells its master, and masters settle it.
//! * A clean stop and a forced claim are one thing: the master says goodbye and names who follows.
//! * A *preferred* node claims by force when it joins a mesh whose master has a lower weight: once, so that two of them
//!   do not take turns, and what a person claims or releases afterwards stands.
//!
//! Dialogues to read: `tests/traces/election`. Not here: how messages travel (the driver), who is a member
//! ([`crate::roster`]), whom to be connected to ([`crate::discovery`]), what a master does (`tracker`, `catalogue`).

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::config::{BEAT_EVERY, LEASE, LISTEN, NODES_MAX, START_SPREAD, SUCCESSION, TERM_JUMP_MAX, Weight};
use crate::id::{Epoch, NodeId, Time};
use crate::wire::control::{Beat, Message, Signature};

mod candidate;
mod follower;
mod master;

#[cfg(test)]
mod tests;

use candidate::{Candidate, PATIENCE, Phase};
use follower::Follower;
use master::Master;

/// How long hearsay is believed, and how recent first-hand news must be to contradict a claim.
const HEARSAY: Duration = Duration::from_millis(LEASE.as_millis() as u64 / 2);
/// How long heartbeats are passed on to a node that asked; it asks again while it needs them.
const RELAY_FOR: Duration = Duration::from_secs(1);
/// Nodes that get relayed heartbeats: all of a large room behind a firewall that drops datagrams.
const RELAYS_MAX: usize = 64;
/// Between two messages that only hurry something along (raise your term, you have a rival).
const NUDGE_EVERY: Duration = Duration::from_millis(200);
/// What comes sooner after an absence may have waited in the sockets; a master that lives says so again.
const BACKLOG: Duration = Duration::from_millis(BEAT_EVERY.as_millis() as u64 / 2);
/// Nodes that are expected to say something: more than any node asks at once.
const QUESTIONS_MAX: usize = 32;

/// What happens to the election.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// A heartbeat; its signature was good.
    Beat {
        /// What it says.
        beat: Beat,
        /// It came as a datagram from the master itself, not by gossip or relay.
        direct: bool,
    },
    /// A node has lost the master of that epoch, or knows no higher one, and asks whether it lives.
    Ask {
        /// Who asks.
        from: NodeId,
        /// About whom.
        epoch: Epoch,
    },
    /// The answer (also a `Welcome`): a heartbeat if the master lives, else `None`.
    Answer {
        /// Who answers.
        from: NodeId,
        /// The proof of life.
        beat: Option<Beat>,
    },
    /// A node became master.
    Claim {
        /// Who says it; must be the epoch's node.
        from: NodeId,
        /// The new epoch.
        epoch: Epoch,
        /// Live members on its side.
        members: u32,
    },
    /// A master leaves in good order.
    Goodbye {
        /// Who says it; must be the epoch's node.
        from: NodeId,
        /// What ends.
        epoch: Epoch,
        /// Who should follow.
        successor: Option<NodeId>,
    },
    /// A person wants `from` to be master instead of the one of this epoch.
    Yield {
        /// Who wants to be master.
        from: NodeId,
        /// Whom it obeys now.
        epoch: Epoch,
    },
    /// A control connection stands.
    Up(NodeId),
    /// The last control connection with that node ended.
    Down(NodeId),
    /// The other side closed its control connection and refused the redial: the program has ended.
    Gone(NodeId),
    /// That node said something over its connection, anything but gossip: the connection works.
    Heard(NodeId),
    /// The live members, from the roster; whether this node is among them makes no difference.
    Members(Vec<(NodeId, Weight)>),
    /// The master's published list, best first.
    Succession(Vec<NodeId>),
    /// What this node's heartbeats say if it is master.
    Versions {
        /// Of the roster.
        roster: u64,
        /// Of the catalogue.
        catalogue: u64,
    },
    /// The epoch of an [`Output::Persist`] is on disk.
    Persisted {
        /// Which.
        epoch: Epoch,
    },
    /// A person wants this node to be master.
    ForceClaim,
    /// A person wants this node to stop being master.
    Release,
    /// The program ends.
    Shutdown,
}

/// What the election wants done. Heartbeats of this node's own epoch carry no signature yet, in whichever message.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Send to every follower, as datagrams.
    Beat(Beat),
    /// Multicast.
    Beacon(Beat),
    /// Say to everybody.
    Gossip(Message),
    /// Say to one node.
    Send {
        /// To whom.
        to: NodeId,
        /// What.
        message: Message,
    },
    /// Put the epoch on disk, then say [`Input::Persisted`].
    Persist {
        /// Which; higher than every one before.
        epoch: Epoch,
    },
    /// The lease of that master lapsed: close its control connections, which may deliver old news, and dial anew.
    Redial(NodeId),
    /// This node changed its role.
    Role(Role),
    /// This node is master; said again, with a higher term, when it has won over another master.
    BecameMaster {
        /// Its term.
        term: u64,
    },
    /// This node reaches nobody and serves itself.
    BecameSolo,
    /// This node obeys that epoch from now on.
    Following {
        /// The epoch.
        epoch: Epoch,
    },
    /// The epoch has ended for this node (its own, if it was master).
    LostMaster {
        /// The epoch.
        epoch: Epoch,
    },
    /// This node was master, or solo, and obeys that one now: it gets our roster, catalogue, book and orders. Said
    /// once a connection stands.
    HandOver {
        /// The new master.
        to: NodeId,
    },
    /// The obeyed master has other versions than it had.
    Versions {
        /// Of the roster.
        roster: u64,
        /// Of the catalogue.
        catalogue: u64,
    },
}

/// What a node is in its mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Just started, or back from a suspension: hears only.
    Listening,
    /// Has no master and tries to find or become one.
    Candidate,
    /// Obeys a master.
    Follower,
    /// Is the master.
    Master,
    /// Is master of itself, since it reaches nobody.
    Solo,
}

#[derive(Debug)]
enum State {
    Listening {
        /// What is heard before is old.
        from: Time,
        until: Time,
    },
    Candidate(Candidate),
    Follower(Follower),
    Master(Master),
    /// Said goodbye; nothing happens any more.
    Left,
}

/// The election as one node sees it. See [`crate::io`] for the five verbs.
#[derive(Debug)]
pub struct Election {
    me: NodeId,
    weight: Weight,
    keyed: bool,
    control_port: u16,
    rng: ChaCha8Rng,
    state: State,
    /// The highest epoch obeyed, this node's own included; after a start the one on disk.
    highest: Epoch,
    /// The highest term that a candidate or solo was asked about: a claim below it would not last.
    rumoured: u64,
    /// Nothing was obeyed since the start: `highest` is what the disk said, and a disk may be damaged.
    unproven: bool,
    /// The newest heartbeat of `highest`: kept when the master is lost, so that an older one renews nothing.
    newest: Option<Beat>,
    /// The highest epoch that is on disk, and the highest that was asked to be written. Higher than `highest` when a
    /// claim was prepared and came to nothing.
    on_disk: Epoch,
    to_disk: Epoch,
    up: BTreeSet<NodeId>,
    /// Other live members.
    members: Vec<(NodeId, Weight)>,
    succession: Vec<NodeId>,
    /// What this node's own heartbeats say.
    roster_version: u64,
    catalogue_version: u64,
    /// What the obeyed master's say.
    heard_versions: Option<(u64, u64)>,
    /// Who gets relayed heartbeats, until when.
    relays: Vec<(NodeId, Time)>,
    nudge_at: Time,
    /// Who was asked something and is silent since, and when its connection counts as dead.
    questions: Vec<(NodeId, Time)>,
    /// This node ruled and has not handed over yet.
    ruled: bool,
    told: Role,
    preferred: bool,
    /// It is preferred and has not yet compared itself with the master of the mesh that it joins.
    may_prefer: bool,
    outputs: VecDeque<Output>,
}

impl Election {
    /// A node that starts: it listens, then waits a part of [`START_SPREAD`] that its weight and chance decide.
    /// `on_disk` is the highest epoch it has persisted.
    pub fn new(
        now: Time,
        me: NodeId,
        weight: Weight,
        keyed: bool,
        control_port: u16,
        on_disk: Epoch,
        seed: u64,
    ) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let weight = weight.trusted(keyed);
        // A term that leaves no room to count is damage, and would keep this node out of every mesh.
        let on_disk = if on_disk.term < u64::MAX - TERM_JUMP_MAX { on_disk } else { Epoch::default() };
        let until = now + LISTEN + start_wait(weight, &mut rng);
        Self {
            me,
            weight,
            keyed,
            control_port,
            rng,
            state: State::Listening { from: now, until },
            highest: on_disk,
            rumoured: 0,
            unproven: true,
            newest: None,
            on_disk,
            to_disk: on_disk,
            up: BTreeSet::new(),
            members: Vec::new(),
            succession: Vec::new(),
            roster_version: 0,
            catalogue_version: 0,
            heard_versions: None,
            relays: Vec::new(),
            nudge_at: now,
            questions: Vec::new(),
            ruled: false,
            told: Role::Listening,
            preferred: false,
            may_prefer: false,
            outputs: VecDeque::new(),
        }
    }

    /// The same for a node that is to be master wherever it joins, unless the master there has its weight or a higher
    /// one.
    #[must_use]
    pub fn preferred(self, preferred: bool) -> Self {
        Self { preferred, may_prefer: preferred, ..self }
    }

    /// Something happened.
    pub fn handle_input(&mut self, now: Time, input: Input) {
        if matches!(self.state, State::Left) {
            return;
        }
        self.notice_absence(now);
        self.hear_answer(&input);
        match input {
            Input::Beat { beat, direct } => self.on_beat(now, &beat, direct),
            Input::Ask { from, epoch } => self.on_ask(now, from, epoch),
            Input::Answer { from, beat } => self.on_answer(now, from, beat.as_ref()),
            Input::Claim { from, epoch, members } if from == epoch.node => {
                self.on_beat(now, &Beat { epoch, members, ..Beat::silent(from) }, false);
            }
            Input::Goodbye { from, epoch, successor } if from == epoch.node => {
                self.on_goodbye(now, epoch, successor);
            }
            Input::Claim { .. } | Input::Goodbye { .. } => {}
            Input::Yield { from, epoch } => self.on_yield(now, from, epoch),
            Input::Up(node) => self.on_up(now, node),
            Input::Down(node) => {
                self.up.remove(&node);
            }
            Input::Gone(node) => self.on_gone(now, node),
            Input::Heard(_) => {}
            Input::Members(members) => self.on_members(now, members),
            // A solo would list whom it meets ahead of itself, and so would they.
            Input::Succession(_) if self.role() == Role::Solo => {}
            Input::Succession(list) => {
                self.succession = list;
                self.succession.truncate(SUCCESSION);
            }
            Input::Versions { roster, catalogue } => {
                self.roster_version = roster;
                self.catalogue_version = catalogue;
            }
            Input::Persisted { epoch } => self.on_persisted(now, epoch),
            Input::ForceClaim => self.on_force_claim(now),
            Input::Release => self.on_release(now),
            Input::Shutdown => self.on_shutdown(),
        }
        self.prefer(now);
        self.tell_role();
    }

    /// The deadline has come.
    pub fn handle_timeout(&mut self, now: Time) {
        self.notice_absence(now);
        self.redial_the_silent(now);
        match &self.state {
            State::Listening { until, .. } if now >= *until => self.stand(now, Duration::ZERO),
            State::Candidate(_) => self.candidate_timeout(now),
            State::Follower(_) => self.follower_timeout(now),
            State::Master(_) => self.master_timeout(now),
            State::Listening { .. } | State::Left => {}
        }
        self.tell_role();
    }

    /// What is to be done, oldest first.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to wake this, and why.
    pub fn poll_timeout(&self) -> Option<(Time, &'static str)> {
        let deadline = match &self.state {
            State::Listening { until, .. } => (*until, "election: listened long enough"),
            State::Candidate(candidate) => candidate.deadline(),
            State::Follower(follower) => follower.deadline(),
            State::Master(master) => (master.next_beat, "election: next heartbeat"),
            State::Left => return None,
        };
        let silent = self.questions.iter().map(|(_, until)| (*until, "election: no answer comes"));
        silent.chain([deadline]).min_by_key(|(at, _)| *at)
    }

    /// What this node is.
    pub fn role(&self) -> Role {
        match &self.state {
            State::Listening { .. } => Role::Listening,
            State::Candidate(_) | State::Left => Role::Candidate,
            State::Follower(_) => Role::Follower,
            State::Master(master) if master.solo => Role::Solo,
            State::Master(_) => Role::Master,
        }
    }

    /// The epoch that holds for this node now; its own if it is master or solo.
    pub fn epoch(&self) -> Option<Epoch> {
        match &self.state {
            State::Follower(follower) => Some(follower.epoch),
            State::Master(master) => Some(master.epoch),
            State::Listening { .. } | State::Candidate(_) | State::Left => None,
        }
    }

    /// The highest epoch that this node has ever obeyed; after a start, the one on disk.
    pub fn highest(&self) -> Epoch {
        self.highest
    }

    /// Who is master now, this node included.
    pub fn master(&self) -> Option<NodeId> {
        self.epoch().map(|epoch| epoch.node)
    }

    /// The newest heartbeat of the obeyed master, or this node's own: what a `Welcome` carries.
    pub fn latest_beat(&self) -> Option<Beat> {
        match &self.state {
            State::Follower(_) => self.newest.filter(Beat::is_real),
            State::Master(master) => Some(self.own_beat(master)),
            State::Listening { .. } | State::Candidate(_) | State::Left => None,
        }
    }

    /// The last list heard, or this node's own.
    pub fn succession(&self) -> &[NodeId] {
        &self.succession
    }

    /// A deadline that is missed by so much that a lease has passed: this node was suspended, stopped or starved, and
    /// what it believes may be old. It listens first, whatever it was.
    fn notice_absence(&mut self, now: Time) {
        let Some((deadline, _)) = self.poll_timeout() else { return };
        if now.since(deadline) <= LEASE - BEAT_EVERY {
            return;
        }
        if let State::Follower(Follower { epoch, .. }) | State::Master(Master { epoch, solo: false, .. }) = self.state {
            self.outputs.push_back(Output::LostMaster { epoch });
        }
        self.questions.clear();
        self.may_prefer = self.preferred;
        self.state = State::Listening { from: now + BACKLOG, until: now + LISTEN };
    }

    fn on_beat(&mut self, now: Time, beat: &Beat, direct: bool) {
        if beat.epoch.node == self.me || self.is_absurd(beat.epoch) {
            return;
        }
        match &self.state {
            State::Listening { from, .. } if now < *from => {}
            State::Listening { .. } | State::Candidate(_) => self.hear_unled(now, beat, direct),
            State::Follower(_) => self.hear_as_follower(now, beat, direct),
            State::Master(master) if master.solo => self.hear_unled(now, beat, direct),
            State::Master(_) => self.meet(now, beat, direct),
            State::Left => {}
        }
    }

    /// A heartbeat at a node that has no master: follow it, unless it is older than what this node knows.
    fn hear_unled(&mut self, now: Time, beat: &Beat, direct: bool) {
        if beat.solo {
            return;
        }
        // A term from a damaged disk may not keep this node out of a living mesh.
        let damaged = self.unproven && self.highest.term - self.highest.term.min(beat.epoch.term) > TERM_JUMP_MAX;
        if beat.epoch > self.highest || damaged || (beat.epoch == self.highest && self.is_news(beat)) {
            self.follow(now, beat, direct);
        } else if beat.epoch < self.highest {
            self.postpone(now);
            self.nudge(now, beat.epoch.node, Message::Ask(self.highest));
        }
    }

    fn on_ask(&mut self, now: Time, from: NodeId, epoch: Epoch) {
        let proof = match &self.state {
            State::Follower(follower) if follower.is_fresh(now) => self.newest,
            State::Master(master) if !master.solo => Some(self.own_beat(master)),
            State::Listening { .. } | State::Candidate(_) | State::Follower(_) | State::Master(_) | State::Left => None,
        };
        self.send(from, Message::Answer(proof));
        if proof.is_some() {
            self.relay_to(now, from);
        } else if !self.is_absurd(epoch) {
            self.rumoured = self.rumoured.max(epoch.term);
        }
        match &self.state {
            State::Master(master) if master.solo => self.nudge(now, from, Message::Ask(self.highest)),
            State::Master(master) if epoch > master.epoch && !self.is_absurd(epoch) => self.raise(now, epoch.term),
            State::Candidate(_) => self.defer(now, from),
            State::Listening { .. } | State::Follower(_) | State::Master(_) | State::Left => {}
        }
    }

    fn on_answer(&mut self, now: Time, from: NodeId, beat: Option<&Beat>) {
        if let Some(beat) = beat {
            self.on_beat(now, beat, false);
        }
        match &mut self.state {
            State::Candidate(_) => self.count_answer(now, from),
            // Somebody answers and has no master either: this is an election.
            State::Master(master) if master.solo && beat.is_none() => self.stand(now, self.patience_of(self.me)),
            State::Listening { .. } | State::Follower(_) | State::Master(_) | State::Left => {}
        }
    }

    fn on_up(&mut self, now: Time, node: NodeId) {
        if node == self.me || self.up.len() >= NODES_MAX {
            return;
        }
        self.up.insert(node);
        match &self.state {
            State::Master(master) if master.solo => {
                self.nudge_at = now;
                self.nudge(now, node, Message::Ask(self.highest));
            }
            State::Follower(follower) if follower.epoch.node == node => self.hand_over(node),
            // Two masters that no multicast joins meet here, and a newcomer need not wait for a datagram.
            State::Master(master) => self.send(node, Message::Beat(self.own_beat(master))),
            State::Listening { .. } | State::Candidate(_) | State::Follower(_) | State::Left => {}
        }
    }

    fn on_members(&mut self, now: Time, members: Vec<(NodeId, Weight)>) {
        let (me, keyed) = (self.me, self.keyed);
        let others = members.into_iter().filter(|(node, _)| *node != me).take(NODES_MAX);
        self.members = others.map(|(node, weight)| (node, weight.trusted(keyed))).collect();
        if let State::Master(master) = &mut self.state {
            master.members = self.members.len() as u32 + 1;
            master.alone_since = self.members.is_empty().then(|| master.alone_since.unwrap_or(now));
        }
    }

    fn on_persisted(&mut self, now: Time, epoch: Epoch) {
        self.on_disk = self.on_disk.max(epoch);
        match &self.state {
            State::Candidate(Candidate { phase: Phase::Claiming { term: wanted, reach, .. }, .. }) => {
                let (wanted, reach) = (*wanted, *reach);
                if self.is_on_disk(wanted) {
                    self.become_master(now, wanted, reach);
                }
            }
            State::Master(Master { raising: Some(wanted), members, .. }) => {
                let (wanted, members) = (*wanted, *members);
                if self.is_on_disk(wanted) {
                    self.become_master(now, wanted, members);
                }
            }
            State::Listening { .. } | State::Candidate(_) | State::Follower(_) | State::Master(_) | State::Left => {}
        }
    }

    /// Obeys that epoch from now on.
    fn follow(&mut self, now: Time, beat: &Beat, direct: bool) {
        self.highest = beat.epoch;
        self.unproven = false;
        self.newest = Some(*beat);
        self.persist(beat.epoch);
        self.state = State::Follower(Follower::new(now, beat, direct));
        self.outputs.push_back(Output::Following { epoch: beat.epoch });
        // The roster is asked for now. A master that this node hears and that cannot hear it would not count it.
        self.expect(beat.epoch.node, now + HEARSAY + BEAT_EVERY);
        self.hand_over(beat.epoch.node);
        self.heard_versions = None;
        self.tell_versions(beat);
    }

    fn hand_over(&mut self, to: NodeId) {
        if self.ruled && self.up.contains(&to) {
            self.ruled = false;
            self.outputs.push_back(Output::HandOver { to });
        }
    }

    fn tell_versions(&mut self, beat: &Beat) {
        let versions = Some((beat.roster, beat.catalogue));
        if beat.is_real() && versions != self.heard_versions {
            self.heard_versions = versions;
            self.outputs.push_back(Output::Versions { roster: beat.roster, catalogue: beat.catalogue });
        }
    }

    fn is_absurd(&self, epoch: Epoch) -> bool {
        epoch.term.saturating_sub(self.highest.term) > TERM_JUMP_MAX
    }

    /// Whether a heartbeat of the highest epoch is newer than any before it.
    fn is_news(&self, beat: &Beat) -> bool {
        self.newest.is_none_or(|newest| newest.epoch != beat.epoch || beat.seq > newest.seq)
    }

    fn persist(&mut self, epoch: Epoch) {
        if epoch > self.to_disk {
            self.to_disk = epoch;
            self.outputs.push_back(Output::Persist { epoch });
        }
    }

    /// Whether this node may rule in that term.
    fn is_on_disk(&self, term: u64) -> bool {
        self.on_disk >= Epoch { term, node: self.me }
    }

    fn relay_to(&mut self, now: Time, node: NodeId) {
        self.relays.retain(|(other, until)| *other != node && *until > now);
        if self.relays.len() < RELAYS_MAX {
            self.relays.push((node, now + RELAY_FOR));
        }
    }

    /// Passes on a heartbeat that was heard first-hand, or is our own, to those who asked.
    fn relay(&mut self, now: Time, beat: &Beat) {
        self.relays.retain(|(_, until)| *until > now);
        for (to, _) in &self.relays {
            if *to != beat.epoch.node {
                self.outputs.push_back(Output::Send { to: *to, message: Message::Beat(*beat) });
            }
        }
    }

    fn send(&mut self, to: NodeId, message: Message) {
        self.outputs.push_back(Output::Send { to, message });
    }

    /// Asks for proof that the highest epoch's master lives, which is always answered.
    fn question(&mut self, now: Time, to: NodeId) {
        // Who still hears of its master has time; others need a connection that works.
        let led = matches!(&self.state, State::Follower(follower) if now.since(follower.heard_at) < HEARSAY);
        self.expect(to, now + if led { LEASE } else { PATIENCE });
        self.send(to, Message::Ask(self.highest));
    }

    /// That node is going to say something until then, if the connection works.
    fn expect(&mut self, node: NodeId, until: Time) {
        let known = self.questions.iter().any(|(asked, _)| *asked == node);
        if !known && self.up.contains(&node) && self.questions.len() < QUESTIONS_MAX {
            self.questions.push((node, until));
        }
    }

    /// Whoever says anything over its connection can be reached over it.
    fn hear_answer(&mut self, input: &Input) {
        if let Input::Heard(node) | Input::Up(node) | Input::Down(node) = input {
            self.questions.retain(|(asked, _)| asked != node);
        }
    }

    /// A connection over which no answer comes is as good as none: after a cut it stays silent for seconds, and then
    /// delivers old news.
    fn redial_the_silent(&mut self, now: Time) {
        let Self { questions, outputs, .. } = self;
        questions.retain(|(node, until)| {
            if *until <= now {
                outputs.push_back(Output::Redial(*node));
            }
            *until > now
        });
    }

    /// Only over a connection: whoever is not connected yet is told when it is.
    fn nudge(&mut self, now: Time, to: NodeId, message: Message) {
        if now < self.nudge_at || !self.up.contains(&to) {
            return;
        }
        self.nudge_at = now + NUDGE_EVERY;
        if let Message::Ask(_) = message {
            self.question(now, to);
        } else {
            self.send(to, message);
        }
    }

    fn tell_role(&mut self) {
        let role = self.role();
        if role != self.told && !matches!(self.state, State::Left) {
            self.told = role;
            self.outputs.push_back(Output::Role(role));
        }
    }

    /// A number below `limit`, which is small enough for the bias of a remainder not to matter.
    fn below(&mut self, limit: usize) -> usize {
        self.rng.next_u32() as usize % limit.max(1)
    }
}

/// Chance spreads nodes of one weight; the factor lets a server (60) decide before a live system (10).
fn start_wait(weight: Weight, rng: &mut ChaCha8Rng) -> Duration {
    let whole = (u64::from(rng.next_u32()) * START_SPREAD.as_nanos() as u64) >> 32;
    Duration::from_nanos(whole * (100 - u64::from(weight.get())) / 50)
}

impl Beat {
    /// A heartbeat that says nothing but who: what a claim is worth until the first real one. It is passed to nobody.
    fn silent(node: NodeId) -> Self {
        Self {
            epoch: Epoch { term: 0, node },
            seq: 0,
            members: 0,
            solo: false,
            control_port: 0,
            roster: 0,
            catalogue: 0,
            signature: Signature::default(),
        }
    }

    /// Whether its master sent it; real ones count from 1.
    fn is_real(&self) -> bool {
        self.seq > 0
    }
}
