//! One node: joins the parts. Routes inputs to the part that owns them and outputs to the border.
//!
//! Not here: any rule. Who is master is decided in `election`, who talks to whom in `tracker` and `neighbours`, which
//! block is asked of whom in `swarm`. What a person asks is taken apart in `node/commands.rs`, what the other nodes say
//! in `node/mesh.rs`, what people see is put together in `node/status.rs`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::announcer::Announcer;
use crate::board::{self, Board};
use crate::catalogue::{self, Catalogue};
use crate::config::{Config, Mode, RateLimits, SeedTime};
use crate::discovery::Discovery;
use crate::election::Election;
use crate::error::{CloseReason, PeerMisbehaved};
use crate::id::{ConnId, Epoch, ImageIndex, InfoHash, PeerId, RequestId, Time};
use crate::io::{Event, Input, Output};
use crate::limiter::{self, Limiter};
use crate::lsd::Lsd;
use crate::roster::{self, Roster};
use crate::swarm::{self, Swarm};
use crate::torrents::Torrents;
use crate::tracker::Tracker;
use crate::wire::control::{Holding, Holdings};
use crate::wire::metainfo::Metainfo;

pub use self::status::{ImageStatus, NodeStatus, Role, Status, TorrentStatus, TransferStatus};

mod commands;
mod mesh;
mod status;
#[cfg(test)]
mod tests;

/// Why a torrent is wanted.
#[derive(Debug)]
enum WantedBy {
    Get(RequestId, commands::Wish),
    Torrent(RequestId),
}

/// An image of the cache, or one that a person wants there.
#[derive(Debug)]
struct Copy {
    name: String,
    metainfo: Arc<Metainfo>,
    mode: Mode,
    seed_time: Option<SeedTime>,
    complete: bool,
    stopped: bool,
}

/// One labmesh node. See [`crate::io`] for the five verbs.
#[derive(Debug)]
pub struct Node {
    config: Config,
    rng: ChaCha8Rng,

    election: Election,
    discovery: Discovery,
    roster: Roster,
    catalogue: Catalogue,
    tracker: Tracker,
    announcer: Announcer,
    lsd: Lsd,
    torrents: Torrents,
    board: Board,
    limiter: Limiter,

    /// By `ImageIndex`; a withdrawn image leaves a gap that the next one takes.
    swarms: Vec<Option<Swarm>>,
    by_hash: BTreeMap<InfoHash, usize>,
    /// Which image a connection is for, by `ConnId`.
    conns: Vec<Option<usize>>,
    /// When each swarm wants to be woken, in order; `armed` has the same by image.
    timers: BTreeSet<(Time, usize)>,
    armed: Vec<Time>,
    /// Who waits for which torrent.
    wanted: Vec<(InfoHash, WantedBy)>,
    /// Commands that name an image which is not known yet, and the one that is tried for the last time.
    early: VecDeque<commands::Early>,
    /// Images whose files are about to go, and who asked for it.
    deleting: Vec<(RequestId, String)>,
    last_try: Option<RequestId>,
    holdings_version: u64,
    /// Announces of clients that were passed on to the master, until it answers.
    passed_on: VecDeque<mesh::PassedOn>,
    leaving: bool,
    /// The earliest deadline of all parts but the swarms.
    deadline: Option<(Time, &'static str)>,
    /// Some part was told of something since its outputs were carried further.
    unsettled: bool,
    outputs: VecDeque<Output>,
}

impl Node {
    /// A node that starts now. `on_disk` is the last epoch of [`Output::Persist`].
    pub fn new(now: Time, config: Config, on_disk: Epoch) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(config.seed);
        let me = config.id;
        let announcer_seed = config.seed.rotate_left(32);
        let election =
            Election::new(now, me, config.weight, config.keyed, config.control_port, on_disk, rng.next_u64());
        let mut node = Self {
            election: election.preferred(config.prefer && !config.transient),
            discovery: Discovery::new(me, rng.next_u64()),
            roster: Roster::new(now, mesh::member(&config), config.keyed),
            catalogue: Catalogue::new(me),
            tracker: Tracker::new(me, rng.next_u64(), config.tracker),
            announcer: Announcer::new(PeerId::of_node(&me), config.peer_port, config.mesh_host.clone(), announcer_seed),
            lsd: Lsd::new(config.peer_port, config.local_discovery.clone()),
            torrents: Torrents::default(),
            board: Board::new(now, me),
            limiter: Limiter::default(),
            swarms: Vec::new(),
            by_hash: BTreeMap::new(),
            conns: Vec::new(),
            timers: BTreeSet::new(),
            armed: Vec::new(),
            wanted: Vec::new(),
            early: VecDeque::new(),
            deleting: Vec::new(),
            last_try: None,
            // Never one that an earlier life of this node has used for other holdings.
            holdings_version: rng.next_u64() >> 16,
            passed_on: VecDeque::new(),
            leaving: false,
            deadline: None,
            unsettled: false,
            outputs: VecDeque::new(),
            rng,
            config,
        };
        node.settle(now);
        node
    }

    /// Something happened.
    pub fn handle_input(&mut self, now: Time, input: Input) {
        match input {
            // The data plane first: it is the most of it by far, and seldom concerns more than its swarm.
            Input::Block { conn, range } => self.tell_peer(now, conn, swarm::Input::Block(conn, range)),
            Input::Peer { conn, message } => self.tell_peer(now, conn, swarm::Input::Peer(conn, message)),
            Input::Sent { conn, block } => self.tell_peer(now, conn, swarm::Input::Sent(conn, block)),
            Input::Verified { image, piece, result } => {
                self.tell_image(now, image, swarm::Input::Verified(piece, result));
            }
            input => self.handle_other(now, input),
        }
        if self.unsettled {
            self.settle(now);
        }
    }

    /// Beside the data plane all of this is rare.
    #[cold]
    fn handle_other(&mut self, now: Time, input: Input) {
        self.unsettled = true;
        match input {
            Input::PeerUp { conn, addr, handshake, outgoing } => {
                let Some(image) = self.image_of(&handshake.info_hash) else {
                    let reason = CloseReason::Misbehaved(PeerMisbehaved::UnknownInfoHash);
                    return self.outputs.push_back(Output::Close { conn, reason });
                };
                self.set_conn(conn, Some(image));
                self.tell_swarm(now, image, swarm::Input::PeerUp { conn, addr, handshake, outgoing });
            }
            Input::PeerDown { conn } => {
                self.tell_peer(now, conn, swarm::Input::PeerDown(conn));
                self.set_conn(conn, None);
            }
            Input::WebSeed { image, addr } => self.tell_image(now, image, swarm::Input::WebSeed(addr)),
            Input::PeerUnreachable { image, addr } => self.tell_image(now, image, swarm::Input::PeerUnreachable(addr)),
            Input::Opened { image, result } => self.tell_image(now, image, swarm::Input::Opened(result)),
            Input::Finished { image, result } => {
                self.tell_image(now, image, swarm::Input::Finished(result));
                self.tell_holdings(now);
            }
            Input::ReadFailed { image, error } => self.tell_image(now, image, swarm::Input::ReadFailed(error)),

            Input::CacheHas { name, metainfo, stopped } => {
                let (mode, seed_time, complete) = (Mode::Seeder, None, true);
                self.cache_has(now, Copy { name, metainfo, mode, seed_time, complete, stopped });
            }
            Input::CachePart { name, metainfo, mode, seed_time, stopped } => {
                self.cache_has(now, Copy { name, metainfo, mode, seed_time, complete: false, stopped });
            }
            Input::CacheLost { info_hash } => {
                if let Some(image) = self.image_of(&info_hash) {
                    self.withdraw(now, image);
                }
            }
            Input::Deleted { id, result } => self.deleted(now, id, result),
            Input::CacheStopped { info_hash, stopped } => {
                if let Some(image) = self.image_of(&info_hash) {
                    self.tell_swarm(now, image, swarm::Input::Stopped(stopped));
                }
            }
            Input::Command { id, command } => self.command(now, id, command),
            Input::Limits(limits) => self.limit(now, limits),
            mesh => self.handle_mesh(now, mesh),
        }
    }

    /// The deadline has come.
    pub fn handle_timeout(&mut self, now: Time) {
        let due = |deadline: Option<(Time, &str)>| deadline.is_some_and(|(at, _)| at <= now);
        if due(self.election.poll_timeout()) {
            self.election.handle_timeout(now);
        }
        if due(self.discovery.poll_timeout()) {
            self.discovery.handle_timeout(now);
        }
        if due(self.roster.poll_timeout()) {
            self.roster.handle_timeout(now);
        }
        if due(self.catalogue.poll_timeout()) {
            self.catalogue.handle_timeout(now);
        }
        if due(self.tracker.poll_timeout()) {
            self.tracker.handle_timeout(now);
        }
        if due(self.announcer.poll_timeout()) {
            self.announcer.handle_timeout(now);
        }
        if due(self.lsd.poll_timeout()) {
            self.lsd.handle_timeout(now);
        }
        if due(self.torrents.poll_timeout()) {
            self.torrents.handle_timeout(now);
        }
        if due(self.limiter.poll_timeout()) {
            self.limiter.handle_timeout(now);
        }
        if due(self.board.poll_timeout()) {
            let (reports, counts) = (self.reports(now), self.is_ruling().then(|| self.swarm_counts()));
            self.board.handle_input(now, board::Input::Mine { reports, counts });
        }
        while let Some((at, image)) = self.timers.first().copied().filter(|(at, _)| *at <= now) {
            self.timers.remove(&(at, image));
            self.armed[image] = Time::NEVER;
            if let Some(swarm) = &mut self.swarms[image] {
                swarm.handle_timeout(now);
                self.collect(now, image);
            }
        }
        self.answer_overdue(now);
        self.retry_early(now, false);
        self.settle(now);
    }

    /// What it wants done, oldest first.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When it wants to be woken, and why.
    pub fn poll_timeout(&self) -> Option<(Time, &'static str)> {
        let swarm = self.timers.first().and_then(|(_, image)| self.swarms[*image].as_ref()?.poll_timeout());
        [self.deadline, swarm].into_iter().flatten().min_by_key(|(at, _)| *at)
    }

    fn deadline(&self) -> Option<(Time, &'static str)> {
        let parts = [
            self.election.poll_timeout(),
            self.discovery.poll_timeout(),
            self.roster.poll_timeout(),
            self.catalogue.poll_timeout(),
            self.tracker.poll_timeout(),
            self.announcer.poll_timeout(),
            self.lsd.poll_timeout(),
            self.torrents.poll_timeout(),
            self.board.poll_timeout(),
            self.limiter.poll_timeout(),
            self.passed_on_timeout(),
            self.early.front().map(|early| (early.until(), "command waits for the catalogue")),
        ];
        parts.iter().flatten().min_by_key(|(at, _)| *at).copied()
    }

    // ---- images

    fn image_of(&self, info_hash: &InfoHash) -> Option<usize> {
        self.by_hash.get(info_hash).copied()
    }

    /// The cache tells of an image; a transfer that just made that copy knows it already.
    fn cache_has(&mut self, now: Time, copy: Copy) {
        if let Some(image) = self.image_of(&copy.metainfo.info_hash()) {
            let known = self.swarms[image].as_ref().is_some_and(|s| s.is_complete() && s.error().is_none());
            if known || !copy.complete {
                return;
            }
            // The same content was added by hand while it was fetched, or after it failed: the new file counts.
            self.withdraw(now, image);
        }
        self.start_swarm(now, copy);
    }

    fn start_swarm(&mut self, now: Time, copy: Copy) {
        let Copy { name, metainfo, mode, seed_time, complete, stopped } = copy;
        let image = self.swarms.iter().position(Option::is_none).unwrap_or(self.swarms.len());
        if image == self.swarms.len() {
            self.swarms.push(None);
            self.armed.push(Time::NEVER);
        }
        self.by_hash.insert(metainfo.info_hash(), image);
        let start = swarm::Start {
            image: ImageIndex(image as u32),
            name,
            metainfo,
            me: PeerId::of_node(&self.config.id),
            peer_port: self.config.peer_port,
            mode,
            seed_time,
            complete,
            stopped,
            master: self.is_ruling(),
            buffer_bytes: self.config.piece_buffer_bytes,
            limits: self.limiter.limits(),
            block_bytes: self.config.block_bytes,
            exchange: self.config.peer_exchange,
            transient: self.config.transient,
            seed: self.rng.next_u64(),
        };
        self.swarms[image] = Some(Swarm::new(now, start));
        self.collect(now, image);
        self.share_buffers(now);
        self.tell_holdings(now);
    }

    fn withdraw(&mut self, now: Time, image: usize) {
        self.tell_swarm(now, image, swarm::Input::Withdraw);
        self.arm(image, Time::NEVER);
        if let Some(swarm) = self.swarms[image].take() {
            self.by_hash.remove(&swarm.info_hash());
            self.limiter.handle_input(now, limiter::Input::Gone(swarm.image()));
            self.outputs.push_back(Output::CloseImage { image: swarm.image() });
        }
        for conn in &mut self.conns {
            *conn = conn.filter(|of| *of != image);
        }
        self.share_buffers(now);
        self.tell_holdings(now);
    }

    /// The piece buffer is shared evenly by the images that are being fetched.
    fn share_buffers(&mut self, now: Time) {
        let fetching: Vec<usize> =
            (0..self.swarms.len()).filter(|i| self.swarms[*i].as_ref().is_some_and(|s| !s.is_complete())).collect();
        let share = self.config.piece_buffer_bytes / fetching.len().max(1) as u64;
        for image in fetching {
            self.tell_swarm(now, image, swarm::Input::BufferBytes(share));
        }
    }

    fn limit(&mut self, now: Time, limits: RateLimits) {
        if limits != self.limiter.limits() {
            self.limiter.handle_input(now, limiter::Input::Limits(limits));
            self.tell_all_swarms(now, &swarm::Input::Limits(limits));
            self.event(Event::Limits(limits));
        }
    }

    /// What this node holds goes to its own catalogue, and from there to the master.
    fn tell_holdings(&mut self, now: Time) {
        self.holdings_version += 1;
        self.roster.handle_input(now, roster::Input::Holdings(self.holdings_version));
        let mut images: Vec<Holding> = self.swarms.iter().flatten().map(holding).collect();
        images.sort_by(|a, b| (&a.name, a.info_hash).cmp(&(&b.name, b.info_hash)));
        let holdings = Holdings { version: self.holdings_version, images };
        self.catalogue.handle_input(now, catalogue::Input::Mine(holdings));
    }

    // ---- routing to swarms

    fn tell_peer(&mut self, now: Time, conn: ConnId, input: swarm::Input) {
        if let Some(image) = self.conns.get(conn.0 as usize).copied().flatten() {
            self.tell_swarm(now, image, input);
        }
    }

    fn tell_image(&mut self, now: Time, image: ImageIndex, input: swarm::Input) {
        self.tell_swarm(now, image.0 as usize, input);
    }

    fn tell_swarm(&mut self, now: Time, image: usize, input: swarm::Input) {
        if let Some(swarm) = self.swarms.get_mut(image).and_then(Option::as_mut) {
            swarm.handle_input(now, input);
            self.collect(now, image);
        }
    }

    fn tell_all_swarms(&mut self, now: Time, input: &swarm::Input) {
        for image in 0..self.swarms.len() {
            self.tell_swarm(now, image, input.clone());
        }
    }

    fn set_conn(&mut self, conn: ConnId, image: Option<usize>) {
        let slot = conn.0 as usize;
        if slot >= self.conns.len() {
            self.conns.resize(slot + 1, None);
        }
        self.conns[slot] = image;
    }

    /// Takes the outputs of a swarm that was told of something, and arms its timer anew.
    fn collect(&mut self, now: Time, image: usize) {
        let next = loop {
            let Some(swarm) = &mut self.swarms[image] else { break Time::NEVER };
            match swarm.poll_output() {
                Some(swarm::Output::Border(output)) => self.outputs.push_back(output),
                Some(output) => self.do_for_swarm(now, image, output),
                None => break swarm.poll_timeout().map_or(Time::NEVER, |(at, _)| at),
            }
        };
        if next != self.armed[image] {
            self.arm(image, next);
        }
    }

    /// Has a swarm woken then, and not when it would have been.
    #[cold]
    fn arm(&mut self, image: usize, next: Time) {
        let before = std::mem::replace(&mut self.armed[image], next);
        self.timers.remove(&(before, image));
        if next < Time::NEVER {
            self.timers.insert((next, image));
        }
    }

    #[cold]
    fn do_for_swarm(&mut self, now: Time, image: usize, output: swarm::Output) {
        match output {
            swarm::Output::Border(output) => self.outputs.push_back(output),
            swarm::Output::Announce(announce) => {
                self.unsettled = true;
                self.announce(now, image, announce);
            }
            swarm::Output::Wanted(direction) => {
                self.unsettled = true;
                let image = ImageIndex(image as u32);
                self.limiter.handle_input(now, limiter::Input::Wanted(image, direction));
            }
            swarm::Output::State { state, detail } => self.tell_state(image, state, detail),
        }
    }

    /// Carries what the parts want done to whom it concerns, until none wants anything.
    fn settle(&mut self, now: Time) {
        loop {
            if let Some(output) = self.election.poll_output() {
                self.do_for_election(now, output);
            } else if let Some(output) = self.roster.poll_output() {
                self.do_for_roster(now, output);
            } else if let Some(output) = self.discovery.poll_output() {
                self.do_for_discovery(now, output);
            } else if let Some(output) = self.catalogue.poll_output() {
                self.do_for_catalogue(now, output);
            } else if let Some(output) = self.tracker.poll_output() {
                self.do_for_tracker(now, output);
            } else if let Some(output) = self.announcer.poll_output() {
                self.do_for_announcer(now, output);
            } else if let Some(output) = self.lsd.poll_output() {
                self.do_for_lsd(now, output);
            } else if let Some(output) = self.torrents.poll_output() {
                self.do_for_torrents(now, output);
            } else if let Some(output) = self.board.poll_output() {
                self.do_for_board(output);
            } else if let Some(limiter::Granted { image, direction, bytes }) = self.limiter.poll_output() {
                self.tell_image(now, image, swarm::Input::Granted(direction, bytes));
            } else {
                break;
            }
        }
        self.unsettled = false;
        self.deadline = self.deadline();
    }

    /// The name and the torrent of an image.
    pub fn image(&self, image: ImageIndex) -> Option<(&str, &Arc<Metainfo>)> {
        let swarm = self.swarms.get(image.0 as usize)?.as_ref()?;
        Some((swarm.name(), swarm.metainfo()))
    }

    fn event(&mut self, event: Event) {
        self.outputs.push_back(Output::Event(event));
    }
}

fn holding(swarm: &Swarm) -> Holding {
    let geometry = swarm.metainfo().geometry();
    Holding {
        name: swarm.name().to_owned(),
        info_hash: swarm.info_hash(),
        size: geometry.length(),
        piece_length: geometry.piece_length(),
        complete: swarm.is_complete(),
    }
}
