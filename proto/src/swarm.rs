//! One image on this node: its pieces, its peers, its life.
//!
//! Rule: this file takes inputs apart and keeps the peers' flags true; what to ask is decided in `download`, whom to
//! serve in `upload`, whether to take part at all in [`mode`]. Not here: who the neighbours are (`tracker`), bytes.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use crate::bitfield::Bitfield;
use crate::config::{
    ANNOUNCE_INTERVAL, Direction, Mode, PEERS_PER_IMAGE_MAX, REQUESTS_PER_PEER_MAX, RateLimits, SeedTime,
};
use crate::error::{CloseReason, DiskError, PeerMisbehaved};
use crate::id::{Block, ConnId, Geometry, ImageIndex, InfoHash, PeerId, PieceIndex, Time};
use crate::io;
use crate::wire::control::{Neighbours, NodeAnnounce, TransferState};
use crate::wire::metainfo::Metainfo;
use crate::wire::peer::{Extended, Handshake, Message, Range};

use self::contacts::{Contacts, Source};
use self::download::Serving;
use self::mode::{Life, Situation};
use self::pace::Allowance;
use self::peer::{Ledger, Peer};
use self::picker::Picker;
use self::pieces::Pieces;
use self::rate::Rate;
use self::upload::Upload;

pub mod mode;
pub mod picker;
pub mod pieces;
pub mod rate;

mod contacts;
mod download;
mod pace;
mod peer;
mod pex;
mod upload;

#[cfg(test)]
mod room;
#[cfg(test)]
mod tests;

/// How often an active swarm looks after stalled requests, unused slots and addresses to dial.
const REVIEW: Duration = Duration::from_millis(100);
/// An announce that is not answered is repeated after this, doubling: it may have overtaken the greeting that makes
/// this node known to a new master.
const ANNOUNCE_AGAIN: Duration = Duration::from_millis(250);
/// Pieces that no peer has are worth a new announce, which wakes idle copies, this often at most.
const STARVING_EVERY: Duration = Duration::from_secs(2);
/// Without a new block for this long, and with pieces that nobody has, a swarm is waiting rather than fetching.
const WAITING_AFTER: Duration = Duration::from_secs(1);
/// Dials that one look begins: a storm of connections helps nobody.
const CONTACTS_DIALLED_AT_ONCE: usize = 8;
/// In `by_conn`: no peer of this image has that connection.
const NOBODY: u32 = u32::MAX;

/// What happens to one swarm.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// See [`io::Input::Opened`].
    Opened(Result<Bitfield, DiskError>),
    /// The tracker's answer.
    Neighbours(Neighbours),
    /// Peers that a tracker of others named, which the image's torrent names.
    Strangers(Vec<SocketAddr>),
    /// A peer that local discovery found.
    Stranger(SocketAddr),
    /// See [`io::Input::WebSeed`].
    WebSeed(SocketAddr),
    /// See [`io::Input::PeerUp`].
    PeerUp {
        /// The connection.
        conn: ConnId,
        /// The other side's address.
        addr: SocketAddr,
        /// What it opened with.
        handshake: Handshake,
        /// We dialled.
        outgoing: bool,
    },
    /// See [`io::Input::PeerDown`].
    PeerDown(ConnId),
    /// See [`io::Input::PeerUnreachable`].
    PeerUnreachable(SocketAddr),
    /// See [`io::Input::Peer`].
    Peer(ConnId, Message),
    /// See [`io::Input::Block`].
    Block(ConnId, Range),
    /// See [`io::Input::Sent`].
    Sent(ConnId, Block),
    /// See [`io::Input::Verified`].
    Verified(PieceIndex, Result<bool, DiskError>),
    /// See [`io::Input::Finished`].
    Finished(Result<(), DiskError>),
    /// See [`io::Input::ReadFailed`].
    ReadFailed(DiskError),
    /// This node became master, or is no longer.
    Master(bool),
    /// There is another tracker: announce.
    NewTracker,
    /// The person chose another mode.
    Mode(Mode, Option<SeedTime>),
    /// `stop` or `start`.
    Stopped(bool),
    /// The tracker wakes an idle copy.
    Wake,
    /// Bytes of pieces in flight that this swarm may have.
    BufferBytes(u64),
    /// The node has these limits now.
    Limits(RateLimits),
    /// The answer to [`Output::Wanted`]: so many bytes may go that way.
    Granted(Direction, u64),
    /// The image went away: close everything.
    Withdraw,
}

/// What one swarm asks for.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Something at the border.
    Border(io::Output),
    /// Tell the tracker.
    Announce(NodeAnnounce),
    /// The node's limit that way stops it; answered by [`Input::Granted`].
    Wanted(Direction),
    /// What it does has changed.
    State {
        /// What it does now.
        state: TransferState,
        /// For people.
        detail: Option<String>,
    },
}

/// How a swarm begins.
#[derive(Clone, Debug)]
pub struct Start {
    /// Its index on this node.
    pub image: ImageIndex,
    /// Relative path in the cache.
    pub name: String,
    /// Its torrent.
    pub metainfo: Arc<Metainfo>,
    /// This node's peer id.
    pub me: PeerId,
    /// Where this node listens for peers.
    pub peer_port: u16,
    /// What the person asked for.
    pub mode: Mode,
    /// What the person asked for.
    pub seed_time: Option<SeedTime>,
    /// The cache vouches for a whole copy.
    pub complete: bool,
    /// `.torrent.inactive`.
    pub stopped: bool,
    /// This node is the master.
    pub master: bool,
    /// See [`Input::BufferBytes`].
    pub buffer_bytes: u64,
    /// See [`Input::Limits`].
    pub limits: RateLimits,
    /// The longest block that it asks for and serves.
    pub block_bytes: u32,
    /// Exchange peers with clients that are not ours (BEP 11).
    pub exchange: bool,
    /// See [`Situation::transient`].
    pub transient: bool,
    /// The bytes it draws its chances from.
    pub seed: u64,
}

/// One image on this node.
#[derive(Debug)]
pub struct Swarm {
    image: ImageIndex,
    name: String,
    metainfo: Arc<Metainfo>,
    geometry: Geometry,
    me: PeerId,
    peer_port: u16,
    rng: ChaCha8Rng,

    mode: Mode,
    seed_time: Option<SeedTime>,
    stopped: bool,
    master: bool,
    opened: bool,
    failed: Option<DiskError>,
    complete_since: Option<Time>,
    /// When a person last said how a whole copy is seeded.
    told: Time,
    transient: bool,
    woken: Option<Time>,
    life: Life,
    life_until: Option<Time>,
    shown: TransferState,

    pieces: Pieces,
    picker: Picker,
    /// Pieces that are here and nobody was told of; see [`Swarm::tell_untold`].
    untold: Vec<PieceIndex>,
    peers: Vec<Peer>,
    /// Index into `peers` by connection, or `NOBODY`.
    by_conn: Vec<u32>,
    /// Once counted.
    serving: Option<Serving>,
    ledger: Ledger,
    contacts: Contacts,
    upload: Upload,
    buffer_bytes: u64,
    block_bytes: u32,
    exchange: bool,
    end_game: bool,
    may_ask: Allowance,
    may_send: Allowance,
    /// With a limit: whom to ask first.
    first_asked: usize,

    others_complete: u32,
    others_missing: u32,
    stay: bool,
    announce_at: Time,
    /// Announces since the tracker's last answer.
    unanswered: u32,
    starving_at: Time,
    review_at: Time,
    progress_at: Time,
    down: Rate,
    up: Rate,
    wasted: u64,
    outputs: VecDeque<Output>,
}

impl Swarm {
    /// Opens the image's file first; the rest waits for [`Input::Opened`].
    pub fn new(now: Time, start: Start) -> Self {
        let geometry = start.metainfo.geometry();
        let mut rng = ChaCha8Rng::seed_from_u64(start.seed);
        let none = Bitfield::empty(geometry.pieces());
        let mut swarm = Self {
            image: start.image,
            name: start.name,
            geometry,
            me: start.me,
            peer_port: start.peer_port,
            mode: start.mode,
            seed_time: start.seed_time,
            stopped: start.stopped,
            master: start.master,
            opened: false,
            failed: None,
            complete_since: start.complete.then_some(now),
            told: now,
            transient: start.transient,
            woken: None,
            life: Life::Stopped,
            life_until: None,
            shown: TransferState::Checking,
            picker: Picker::new(geometry, &none, &mut rng),
            pieces: Pieces::new(geometry, none),
            untold: Vec::new(),
            peers: Vec::new(),
            by_conn: Vec::new(),
            serving: None,
            ledger: Ledger::default(),
            contacts: Contacts::default(),
            upload: Upload::default(),
            buffer_bytes: start.buffer_bytes,
            block_bytes: start.block_bytes,
            exchange: start.exchange,
            end_game: false,
            may_ask: Allowance::new(start.limits.download),
            may_send: Allowance::new(start.limits.upload),
            first_asked: 0,
            others_complete: 0,
            others_missing: 0,
            stay: false,
            announce_at: Time::NEVER,
            unanswered: 0,
            starving_at: now,
            review_at: Time::NEVER,
            progress_at: now,
            down: Rate::default(),
            up: Rate::default(),
            wasted: 0,
            outputs: VecDeque::new(),
            metainfo: start.metainfo,
            rng,
        };
        swarm.open();
        swarm
    }

    fn open(&mut self) {
        self.ask_border(io::Output::Open {
            image: self.image,
            name: self.name.clone(),
            metainfo: Arc::clone(&self.metainfo),
            complete: self.complete_since.is_some(),
            mode: self.mode,
            seed_time: self.seed_time,
        });
    }

    /// After a crash, a partial copy goes on as the person said last.
    fn remember(&mut self, mode: Mode, seed_time: Option<SeedTime>) {
        let changed = (self.mode, self.seed_time) != (mode, seed_time);
        self.mode = mode;
        self.seed_time = seed_time;
        if changed && self.complete_since.is_none() {
            self.ask_border(io::Output::Remember { image: self.image, mode, seed_time });
        }
    }

    /// Something happened.
    pub fn handle_input(&mut self, now: Time, input: Input) {
        match input {
            // The data plane first: it is the most of it by far.
            Input::Block(conn, range) => {
                if let Some(p) = self.peer_of(conn)
                    && let Err(fault) = self.block(now, p, range)
                {
                    self.misbehaved(now, conn, fault);
                }
            }
            Input::Peer(conn, message) => {
                if let Some(p) = self.peer_of(conn)
                    && let Err(fault) = self.handle_message(now, p, message)
                {
                    self.misbehaved(now, conn, fault);
                }
            }
            Input::Sent(conn, block) => self.sent(now, conn, &block),
            Input::Verified(piece, result) => self.verified(now, piece, result),
            input => {
                self.handle_other(now, input);
                return self.review_life(now);
            }
        }
        // Nothing of that is what the rule of a life without a set end looks at.
        if self.life_until.is_some() { self.review_life(now) } else { self.show(now) }
    }

    /// Beside the data plane all of this is rare.
    #[cold]
    fn handle_other(&mut self, now: Time, input: Input) {
        match input {
            Input::Opened(result) => self.handle_opened(now, result),
            Input::Neighbours(neighbours) => self.handle_neighbours(now, &neighbours),
            Input::Strangers(addresses) => self.handle_strangers(now, addresses),
            Input::Stranger(addr) => self.handle_hearsay(now, &[addr]),
            Input::WebSeed(addr) => self.contacts.add_web_server(now, addr),
            Input::PeerUp { conn, addr, handshake, outgoing } => self.peer_up(now, conn, addr, &handshake, outgoing),
            Input::PeerDown(conn) => {
                if let Some(p) = self.peer_of(conn) {
                    self.forget(now, p);
                }
            }
            Input::PeerUnreachable(addr) => self.contacts.failed(now, addr),
            Input::Finished(Ok(())) => self.complete_since = Some(now),
            Input::Finished(Err(error)) | Input::ReadFailed(error) => self.fail(now, error),
            Input::Master(master) => self.master = master,
            Input::NewTracker => {
                self.unanswered = 0;
                if self.announce_at < Time::NEVER {
                    self.announce_at = now;
                }
            }
            Input::Mode(mode, seed_time) => {
                self.remember(mode, seed_time);
                self.told = now;
                self.extend_ours();
            }
            Input::Stopped(stopped) => {
                self.stopped = stopped;
                if !stopped && self.failed.take().is_some() {
                    self.open();
                }
            }
            Input::Wake => self.woken = Some(now),
            Input::BufferBytes(bytes) => self.buffer_bytes = bytes,
            Input::Limits(limits) => self.limit(now, limits),
            Input::Granted(direction, bytes) => self.granted(now, direction, bytes),
            Input::Withdraw => self.stopped = true,
            Input::Block(..) | Input::Peer(..) | Input::Sent(..) | Input::Verified(..) => {}
        }
    }

    /// The deadline has come.
    pub fn handle_timeout(&mut self, now: Time) {
        if self.review_at <= now {
            self.tell_untold();
            self.review_requests(now);
            self.review_slots(now);
            self.dial(now);
            self.review_starving(now);
            self.review_exchange(now);
            self.review_at = self.next_review(now);
        }
        self.review_life(now);
        if self.announce_at <= now {
            self.announce(now, false);
        }
    }

    /// What it wants done, oldest first.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When it wants to be woken, and why.
    pub fn poll_timeout(&self) -> Option<(Time, &'static str)> {
        let until = self.life_until.unwrap_or(Time::NEVER);
        let next = [(self.review_at, "swarm review"), (self.announce_at, "announce"), (until, "seed time")];
        next.into_iter().min_by_key(|(at, _)| *at).filter(|(at, _)| *at < Time::NEVER)
    }

    // ---- the life of the copy

    fn handle_opened(&mut self, now: Time, result: Result<Bitfield, DiskError>) {
        let here = match result {
            Ok(here) => here,
            Err(error) => return self.fail(now, error),
        };
        self.opened = true;
        if self.complete_since.is_none() && here.is_full() {
            self.ask_border(io::Output::Finish { image: self.image });
        }
        self.picker = Picker::new(self.geometry, &here, &mut self.rng);
        self.pieces = Pieces::new(self.geometry, here);
    }

    /// Asks the rule what this copy does now, and carries a change out.
    fn review_life(&mut self, now: Time) {
        let life =
            if self.failed.is_some() || !self.opened { Life::Stopped } else { mode::rule(now, &self.situation()) };
        let before = std::mem::replace(&mut self.life, life);
        self.life_until = match life {
            Life::Seeding { until } => until,
            Life::Fetching { .. } | Life::Idle | Life::Stopped => None,
        };
        if before.is_active() && !life.is_active() {
            self.announce(now, true);
            self.announce_at = Time::NEVER;
            self.review_at = Time::NEVER;
            self.untold.clear();
            self.contacts.clear();
            for p in (0..self.peers.len()).rev() {
                self.close(now, p, CloseReason::Withdrawn);
            }
        }
        if life.is_active() && !before.is_active() {
            self.announce_at = now;
            self.review_at = now + REVIEW;
            self.progress_at = now;
        }
        if life.is_active() && before.uploads() != life.uploads() {
            self.review_slots(now);
        }
        if matches!((before, life), (Life::Fetching { .. }, Life::Seeding { .. } | Life::Idle)) {
            self.completed(now);
        }
        self.show(now);
    }

    fn situation(&self) -> Situation {
        Situation {
            mode: self.mode,
            seed_time: self.seed_time,
            stopped: self.stopped,
            complete_since: self.complete_since.map(|since| since.max(self.told)),
            master: self.master,
            transient: self.transient,
            woken: self.woken,
            others_missing: self.others_missing,
            others_complete: self.others_complete,
            stay: self.stay,
        }
    }

    /// The last piece is written and the file has its name.
    fn completed(&mut self, now: Time) {
        if self.life.is_active() {
            self.announce(now, false);
        }
        // Backwards, since closing one moves the last into its place.
        for p in (0..self.peers.len()).rev() {
            self.review_interest(p);
            if self.peers[p].is_ours() && self.peers[p].fast {
                // Not every piece was told to everybody.
                self.tell(p, Message::HaveAll);
            }
            if self.peers[p].has.is_full() {
                self.close(now, p, CloseReason::NothingToDo);
            }
        }
    }

    #[inline]
    fn show(&mut self, now: Time) {
        let state = self.state(now);
        if state != self.shown {
            self.show_other(state);
        }
    }

    #[cold]
    fn show_other(&mut self, state: TransferState) {
        self.shown = state;
        let detail = match state {
            TransferState::Failed => self.failed.as_ref().map(ToString::to_string),
            TransferState::Waiting => Some(format!("{} pieces are missing", self.unavailable())),
            _ => None,
        };
        self.outputs.push_back(Output::State { state, detail });
    }

    pub(crate) fn fail(&mut self, now: Time, error: DiskError) {
        self.failed = Some(error);
        self.opened = false;
        self.review_life(now);
    }

    fn next_review(&self, now: Time) -> Time {
        match self.life {
            Life::Idle | Life::Stopped => Time::NEVER,
            Life::Seeding { .. } if self.peers.is_empty() => {
                self.contacts.strangers_due().map_or(Time::NEVER, |due| due.max(now + REVIEW))
            }
            Life::Fetching { .. } | Life::Seeding { .. } => now + REVIEW,
        }
    }

    // ---- the tracker

    fn announce(&mut self, now: Time, leaving: bool) {
        self.announce_at = now + (ANNOUNCE_AGAIN * 2u32.saturating_pow(self.unanswered.min(8))).min(ANNOUNCE_INTERVAL);
        self.unanswered = self.unanswered.saturating_add(1);
        let left = self.geometry.length() - self.pieces.bytes_here();
        self.outputs.push_back(Output::Announce(NodeAnnounce {
            info_hash: self.info_hash(),
            mode: self.mode,
            left,
            uploaded: self.up.total(),
            downloaded: self.down.total(),
            leaving,
            completed: self.complete_since == Some(now) && left == 0 && self.down.total() > 0,
            starving: self.is_starving(),
        }));
    }

    /// Missing pieces, begun ones too, that no connected peer has.
    fn unavailable(&self) -> u32 {
        let begun = self.pieces.partials().iter().filter(|q| self.picker.availability(q.piece) == 0);
        let waits = begun.filter(|q| self.pieces.state(q.piece) == pieces::State::Begun).count();
        self.picker.unavailable() + waits as u32
    }

    fn is_starving(&self) -> bool {
        matches!(self.life, Life::Fetching { .. }) && self.unavailable() > 0
    }

    fn review_starving(&mut self, now: Time) {
        if self.is_starving() && now.since(self.starving_at) >= STARVING_EVERY {
            self.starving_at = now;
            self.announce(now, false);
        }
    }

    /// Whether more than `few` others miss pieces, as far as is known here. Whom the tracker counts may not be connected
    /// yet, so those who begin together know of each other before they ask for anything; whom a connection shows may be
    /// new to the tracker.
    fn takers_exceed(&self, few: usize) -> bool {
        self.others_missing as usize > few || self.peers.iter().filter(|p| !p.has.is_full()).nth(few).is_some()
    }

    fn handle_neighbours(&mut self, now: Time, answer: &Neighbours) {
        let here = u32::from(self.complete_since.is_some());
        self.others_complete = answer.complete.saturating_sub(here);
        self.others_missing = answer.incomplete.saturating_sub(1 - here);
        self.stay = answer.stay;
        if !self.life.is_active() {
            return;
        }
        // Neighbours are told unasked too, when they change.
        if std::mem::take(&mut self.unanswered) > 0 {
            self.announce_at = now + ANNOUNCE_INTERVAL;
        }
        let (me, private) = (self.me, self.metainfo.private());
        // BEP 27: of a private torrent only its own tracker names clients; our nodes are the one client of this lab.
        let allowed = answer.neighbours.iter().filter(|n| !private || n.node.is_some());
        let to_dial = allowed.map(|n| {
            let first = n.complete || n.node.is_none_or(|node| me < PeerId::of_node(&node));
            (n.addr, !first)
        });
        self.contacts.replace(now, Source::Mesh, to_dial);
        self.dial(now);
    }

    fn handle_strangers(&mut self, now: Time, addresses: Vec<SocketAddr>) {
        if self.life.is_active() {
            self.contacts.replace(now, Source::Stranger, addresses.into_iter().map(|addr| (addr, false)));
            self.review_at = self.review_at.min(now + REVIEW);
            self.dial(now);
        }
    }

    fn handle_hearsay(&mut self, now: Time, addresses: &[SocketAddr]) {
        // BEP 27: a private torrent has no peers but those of its tracker.
        if self.life.is_active() && !self.metainfo.private() {
            addresses.iter().for_each(|addr| self.contacts.add(now, *addr));
            self.review_at = self.review_at.min(now + REVIEW);
            self.dial(now);
        }
    }

    /// Who misses pieces dials everybody, but web servers only for what nobody else has: many rooms share one. A whole
    /// copy waits to be asked by our own nodes, which hear of it at once, but dials strangers, which may not ask their
    /// tracker again for half an hour. Half of the connections stay free for who is not a stranger.
    fn dial(&mut self, now: Time) {
        let fetching = matches!(self.life, Life::Fetching { .. });
        if !(fetching || self.life.is_active() && self.contacts.has_strangers()) {
            return;
        }
        let starving = self.is_starving();
        for _ in 0..CONTACTS_DIALLED_AT_ONCE {
            let peers = &self.peers;
            let room = peers.len() < PEERS_PER_IMAGE_MAX / 2;
            let wanted = |source| match source {
                Source::Mesh => fetching,
                Source::Stranger | Source::Hearsay => room,
                Source::WebServer => starving,
            };
            let connected = |addr| peers.iter().any(|p| p.listens == Some(addr));
            let Some(addr) = self.contacts.next(now, wanted, connected) else { break };
            let handshake = self.handshake();
            self.ask_border(io::Output::DialPeer { image: self.image, addr, handshake });
        }
    }

    // ---- peers come and go

    fn handshake(&self) -> Handshake {
        Handshake { info_hash: self.info_hash(), peer_id: self.me, fast: true, extended: true }
    }

    fn peer_up(&mut self, now: Time, conn: ConnId, addr: SocketAddr, handshake: &Handshake, outgoing: bool) {
        if outgoing {
            self.contacts.reached(now, addr);
        }
        let refusal = if handshake.peer_id == self.me {
            Some(PeerMisbehaved::Oneself.into())
        } else if !self.life.is_active() {
            Some(CloseReason::Withdrawn)
        } else if self.ledger.is_refused(addr, handshake.peer_id) {
            Some(CloseReason::Refused)
        } else if self.peers.len() >= PEERS_PER_IMAGE_MAX {
            Some(CloseReason::TooMany)
        } else {
            self.duplicate(now, addr, handshake.peer_id, outgoing)
        };
        let sender = match refusal {
            None => self.ledger.open(addr, handshake.peer_id).ok_or(CloseReason::TooMany),
            Some(reason) => Err(reason),
        };
        let sender = match sender {
            Ok(sender) => sender,
            Err(reason) => {
                if outgoing {
                    self.contacts.useless(now, addr);
                }
                return self.ask_border(io::Output::Close { conn, reason });
            }
        };
        let ours = self.handshake();
        self.ask_border(io::Output::Accept { conn, image: self.image, handshake: ours });
        let p = self.peers.len();
        self.peers.push(Peer::new(now, conn, addr, handshake, outgoing, self.geometry.pieces(), sender));
        self.index(conn, p as u32);
        self.introduce(p);
        self.review_at = self.review_at.min(now + REVIEW);
    }

    /// Two connections with one peer: both sides keep the one that the smaller peer id dialled.
    fn duplicate(&mut self, now: Time, addr: SocketAddr, id: PeerId, outgoing: bool) -> Option<CloseReason> {
        let p = self.peers.iter().position(|p| p.id == id && p.addr.ip() == addr.ip())?;
        let dialled_by_smaller = |outgoing: bool| outgoing == (self.me < id);
        if self.peers[p].outgoing == outgoing || !dialled_by_smaller(outgoing) {
            // The kept one may be dead: a peer that lost its power told nobody. Its kernel answers to any word.
            self.tell(p, Message::KeepAlive);
            return Some(CloseReason::Duplicate);
        }
        self.close(now, p, CloseReason::Duplicate);
        None
    }

    /// The extension handshake; it is said again when it changes (BEP 10).
    fn extend(&mut self, p: usize) {
        if self.peers[p].extended {
            let ours = Extended {
                client: Some(concat!("labmesh ", env!("CARGO_PKG_VERSION")).to_owned()),
                reqq: Some(REQUESTS_PER_PEER_MAX as u32),
                port: Some(self.peer_port),
                block: Some(self.block_bytes.min(self.may_send.block_most)),
                seeder: self.mode == Mode::Seeder && !self.pieces.here().is_full(),
                pex: self.exchanges_with(p).then_some(Extended::PEX),
                upload_only: self.pieces.here().is_full(),
            };
            self.tell(p, Message::Extended(ours));
        }
    }

    fn extend_ours(&mut self) {
        for p in 0..self.peers.len() {
            if self.peers[p].is_ours() {
                self.extend(p);
            }
        }
    }

    /// What comes first on a new connection: extension handshake, then pieces.
    fn introduce(&mut self, p: usize) {
        self.extend(p);
        let here = self.pieces.here();
        let message = match (here.count(), self.peers[p].fast) {
            (0, true) => Message::HaveNone,
            (0, false) => return,
            (n, true) if n == here.pieces() => Message::HaveAll,
            _ => Message::Bitfield(here.as_bytes().to_vec()),
        };
        self.tell(p, message);
    }

    /// Closes a connection and forgets the peer; its `PeerDown` finds nobody.
    pub(crate) fn close(&mut self, now: Time, p: usize, reason: CloseReason) {
        let Peer { conn, addr, .. } = self.peers[p];
        if let CloseReason::Misbehaved(fault) = &reason {
            self.ask_border(io::Output::Event(io::Event::PeerRefused { addr, reason: fault.to_string() }));
        }
        self.ask_border(io::Output::Close { conn, reason });
        self.forget(now, p);
    }

    fn forget(&mut self, now: Time, p: usize) {
        self.unask_all(p);
        self.stop_serving(p);
        let peer = self.peers.swap_remove(p);
        self.index(peer.conn, NOBODY);
        if let Some(moved) = self.peers.get(p) {
            self.index(moved.conn, p as u32);
        }
        self.serving = None;
        self.ledger.close(peer.sender);
        if peer.outgoing && self.complete_since.is_some() {
            self.contacts.useless(now, peer.addr);
        }
        if peer.has.is_full() {
            self.picker.seed(false);
        } else {
            peer.has.iter(self.geometry).for_each(|piece| self.picker.less(piece));
        }
        self.fill_all(now);
        self.fill_slots(now);
    }

    /// Closes the connection of a peer that misbehaved, if it still stands.
    #[cold]
    fn misbehaved(&mut self, now: Time, conn: ConnId, fault: PeerMisbehaved) {
        if let Some(p) = self.peer_of(conn) {
            self.close(now, p, CloseReason::Misbehaved(fault));
        }
    }

    fn handle_message(&mut self, now: Time, p: usize, message: Message) -> Result<(), PeerMisbehaved> {
        let fast_only = matches!(
            message,
            Message::Suggest(_) | Message::HaveAll | Message::HaveNone | Message::Reject(_) | Message::AllowedFast(_)
        );
        if fast_only && !self.peers[p].fast {
            return Err(PeerMisbehaved::FastNotNegotiated);
        }
        match message {
            Message::KeepAlive | Message::Port(_) | Message::Unknown(_) | Message::AllowedFast(_) => {}
            Message::Extended(extended) => self.peers[p].extend(&extended, self.block_bytes),
            Message::Pex(_, pex) => self.hear_exchange(now, p, &pex),
            Message::Bitfield(bytes) => {
                let has = Bitfield::from_bytes(&bytes, self.geometry.pieces())?;
                self.learn(now, p, has);
            }
            Message::HaveAll => self.learn(now, p, Bitfield::full(self.geometry.pieces())),
            Message::HaveNone => {}
            Message::Have(piece) => {
                let piece = self.piece(piece)?;
                let first = self.note(p, piece);
                let peer = &self.peers[p];
                let (conn, news) = (peer.conn, peer.hungry && self.is_left_to_ask(piece));
                self.after_learning(now, p, news);
                if let Some(p) = self.peer_of(conn).filter(|_| first) {
                    self.offered(p, piece);
                }
            }
            Message::Choke => {
                self.peers[p].peer_choking = true;
                self.serving = None;
                self.peers[p].suggested.clear();
                // BEP 6: a fast peer refuses each request by name; another just forgets them.
                if !self.peers[p].fast {
                    self.unask_all(p);
                }
                self.fill_all(now);
            }
            Message::Unchoke => {
                self.peers[p].peer_choking = false;
                self.serving = None;
                self.fill(now, p);
            }
            Message::Interested => {
                self.peers[p].peer_interested = true;
                self.fill_slots(now);
            }
            Message::NotInterested => {
                self.peers[p].peer_interested = false;
                if !self.peers[p].am_choking {
                    self.choke(p);
                }
                self.fill_slots(now);
            }
            Message::Request(range) => self.requested(now, p, range)?,
            Message::Cancel(range) => self.cancelled(p, range),
            Message::Reject(range) => self.rejected(now, p, range),
            Message::Suggest(piece) => {
                let piece = self.piece(piece)?;
                self.peers[p].suggest(piece);
            }
        }
        Ok(())
    }

    fn piece(&self, index: u32) -> Result<PieceIndex, PeerMisbehaved> {
        let pieces = self.geometry.pieces();
        self.geometry.piece(index).ok_or(PeerMisbehaved::NoSuchPiece { got: index, pieces })
    }

    /// BEP 3 wants a bitfield first and once, but aria2 sends one later too, in place of many a `have`.
    fn learn(&mut self, now: Time, p: usize, has: Bitfield) {
        if self.peers[p].has.count() > 0 {
            let known = &self.peers[p].has;
            let new: Vec<PieceIndex> = has.iter(self.geometry).filter(|piece| !known.has(*piece)).collect();
            for piece in new {
                self.note(p, piece);
            }
            return self.after_learning(now, p, true);
        }
        if has.is_full() {
            self.picker.seed(true);
        } else {
            has.iter(self.geometry).for_each(|piece| self.picker.more(piece));
        }
        let here = self.pieces.here();
        self.peers[p].useful = has.iter(self.geometry).filter(|piece| !here.has(*piece)).count() as u32;
        self.peers[p].has = has;
        self.after_learning(now, p, true);
    }

    /// The peer has this piece; nothing is done about it yet. Whether that is news.
    fn note(&mut self, p: usize, piece: PieceIndex) -> bool {
        let peer = &mut self.peers[p];
        if !peer.has.set(piece) {
            return false;
        }
        self.picker.more(piece);
        if peer.has.is_full() {
            self.picker.promote();
            self.serving = None;
        }
        peer.useful += u32::from(!self.pieces.here().has(piece));
        true
    }

    /// What follows from what a peer has; `news` if something that is left to ask may be among it.
    fn after_learning(&mut self, now: Time, p: usize, news: bool) {
        if self.complete_since.is_some() && self.peers[p].has.is_full() {
            return self.close(now, p, CloseReason::NothingToDo);
        }
        self.review_interest(p);
        // Who has enough to send is asked again when a block comes.
        if news && self.peers[p].hungry {
            self.fill(now, p);
        }
    }

    /// Keeps `interested` true.
    fn review_interest(&mut self, p: usize) {
        let interested = self.peers[p].useful > 0 && matches!(self.life, Life::Fetching { .. });
        if interested != self.peers[p].am_interested {
            self.peers[p].am_interested = interested;
            self.serving = None;
            self.tell(p, if interested { Message::Interested } else { Message::NotInterested });
        }
    }

    // ---- helpers of all parts

    fn peer_of(&self, conn: ConnId) -> Option<usize> {
        self.by_conn.get(conn.0 as usize).filter(|p| **p != NOBODY).map(|p| *p as usize)
    }

    fn index(&mut self, conn: ConnId, p: u32) {
        let slot = conn.0 as usize;
        if slot >= self.by_conn.len() {
            self.by_conn.resize(slot + 1, NOBODY);
        }
        self.by_conn[slot] = p;
    }

    fn tell(&mut self, p: usize, message: Message) {
        let conn = self.peers[p].conn;
        self.ask_border(io::Output::Peer { conn, message });
    }

    fn ask_border(&mut self, output: io::Output) {
        self.outputs.push_back(Output::Border(output));
    }

    // ---- getters

    /// Its index on this node.
    pub fn image(&self) -> ImageIndex {
        self.image
    }

    /// Relative path in the cache.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its info hash.
    pub fn info_hash(&self) -> InfoHash {
        self.metainfo.info_hash()
    }

    /// Its torrent.
    pub fn metainfo(&self) -> &Arc<Metainfo> {
        &self.metainfo
    }

    /// What it gives while and after it takes.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The pieces here.
    pub fn here(&self) -> &Bitfield {
        self.pieces.here()
    }

    /// Bytes of the pieces here.
    pub fn bytes_here(&self) -> u64 {
        self.pieces.bytes_here()
    }

    /// The copy is whole, verified and has its name.
    pub fn is_complete(&self) -> bool {
        self.complete_since.is_some()
    }

    /// Missing pieces that no connected peer has, while it fetches.
    pub fn missing_pieces(&self) -> u32 {
        if matches!(self.life, Life::Fetching { .. }) { self.unavailable() } else { 0 }
    }

    /// Payload bytes per second, in and out; who is out of the swarm has none.
    pub fn rates(&self, now: Time) -> (u64, u64) {
        if !self.life.is_active() {
            return (0, 0);
        }
        (self.down.per_second(now), self.up.per_second(now))
    }

    /// Payload bytes, in and out, since the node started.
    pub fn totals(&self) -> (u64, u64) {
        (self.down.total(), self.up.total())
    }

    /// Payload bytes that came in vain: twice, late, or with a wrong hash.
    pub fn wasted(&self) -> u64 {
        self.wasted
    }

    /// How long it goes on seeding; `None` = no end is set.
    pub fn seed_left(&self, now: Time) -> Option<Duration> {
        self.life_until.map(|until| until.since(now))
    }

    /// It is seeded without an end because this node is the master, though it was to end.
    pub fn seeds_as_master(&self, now: Time) -> bool {
        let otherwise = mode::rule(now, &Situation { master: false, ..self.situation() });
        self.life == Life::Seeding { until: None } && otherwise != self.life
    }

    /// Why it stopped, if it failed.
    pub fn error(&self) -> Option<&DiskError> {
        self.failed.as_ref()
    }

    /// Everybody who ever was connected: address, peer id, bytes received, bytes sent.
    pub fn sources(&self) -> impl Iterator<Item = (SocketAddr, PeerId, u64, u64)> + '_ {
        self.ledger.iter().map(|a| (a.addr, a.id, a.downloaded, a.uploaded))
    }

    /// What it does, in the words of `status`.
    pub fn state(&self, now: Time) -> TransferState {
        match self.life {
            _ if self.failed.is_some() => TransferState::Failed,
            Life::Stopped if self.stopped => TransferState::Stopped,
            Life::Stopped => TransferState::Checking,
            Life::Idle => TransferState::Idle,
            Life::Seeding { .. } => TransferState::Seeding,
            Life::Fetching { .. } => {
                let stuck = self.progress_at + WAITING_AFTER < now && self.unavailable() > 0;
                if stuck { TransferState::Waiting } else { TransferState::Fetching }
            }
        }
    }
}
