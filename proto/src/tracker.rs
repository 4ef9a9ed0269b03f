//! The master's book: who is in which swarm, and who should talk to whom.
//!
//! Rule: every node runs a tracker. At the master it is the truth; elsewhere it is a replica of the foreign clients
//! and the counters, so that a new master begins with them, while our own nodes announce again by themselves.
//!
//! * Our own nodes are told their [`crate::neighbours`] when they announce, and again when these change. The choice is
//!   made at once in a calm swarm and at most every [`REGROUP_EVERY`] in a busy one. They leave by saying so or when
//!   the roster gives them up; since that word may be lost, also by 95 s of silence
//!   ([`crate::config::ANNOUNCE_EXPIRY`]). Two whole copies are not told of each other.
//! * Foreign clients get an ordinary random answer, seeds first, seeds no seeds, and leave after the configured silence.
//!   They are handed our nodes, and each is handed to a few of our nodes. A client is handed out once somebody has
//!   found BitTorrent at its port, if the tracker is told to look ([`TrackerConfig::nat_check`]).
//! * While somebody misses a piece and fewer than [`SEEDERS_WANTED`] of our nodes seed, idle copies are woken. Foreign
//!   seeds do not count there, since nobody vouches for them.
//! * `stay` (seed time `enough`): as long as anybody misses a piece, foreign clients included, everybody stays. Then
//!   all could leave, and two stay for the next who comes: the master and the best of the others by weight and id, or
//!   the two best if the master has no copy.
//! * Counters are those of BEP 48; `completed` counts once for each stay of a peer in the book. They outlive the swarm,
//!   the master and a restart, as do the names that people give to torrents of an open tracker. Foreign clients outlive
//!   the master and its restart, and are forgotten as if it had run all the time.
//!
//! Announces of our own nodes are taken for any image, since they may overtake the news that the catalogue has it;
//! foreign clients are answered for the images of the catalogue, or for all if the tracker is open.
//!
//! Not here: wire formats (`wire::http_tracker`, `wire::udp_tracker`), the graph itself (`neighbours`), names of images
//! (`catalogue`), who is master (`election`).

use std::collections::btree_map::{BTreeMap, Entry};
use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use crate::config::{
    BOOK_CLIENTS_MAX, BOOK_SWEEP_EVERY, CATALOGUE_IMAGES_MAX, NUMWANT_MAX, REGROUP_EVERY, SEEDERS_WANTED,
    TrackerConfig, Weight,
};
use crate::id::{InfoHash, NodeId, RequestId, Time};
use crate::neighbours::Site;
use crate::wire::control::{
    BookReplica, ForeignAnswer, ForeignPeer, ForeignRefused, Neighbours, NodeAnnounce, RegisteredName,
};
use crate::wire::http_tracker::{Announce, Announced, Scraped};

mod clients;
pub mod foreign;
mod holders;
pub mod keeping;
mod ledger;
mod swarm;
#[cfg(test)]
mod tests;

use foreign::{Answer, Visit};
use holders::Wanted;
use keeping::Kept;
use ledger::Ledger;
use swarm::{Change, Found, Swarm};

/// What the roster knows of a node, as far as the tracker needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Contact {
    /// Who.
    pub node: NodeId,
    /// Where it listens for peers.
    pub addr: SocketAddr,
    /// Which switch.
    pub site: Site,
    /// How willing to be master; ranks those who stay and those who are woken.
    pub weight: Weight,
}

/// Everything that can happen to the tracker.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// The catalogue has this image.
    Tracked {
        /// Which.
        info_hash: InfoHash,
        /// How often a copy was completed, as far as the catalogue knows.
        downloaded: u64,
    },
    /// The catalogue has it no more: foreign clients are turned away.
    Untracked(InfoHash),
    /// One of our nodes announces.
    NodeAnnounce {
        /// Who.
        from: Contact,
        /// What.
        announce: NodeAnnounce,
    },
    /// The roster has given a node up: it leaves every swarm and is no holder until [`Input::NodeHolds`].
    NodeGone(NodeId),
    /// A node that is up has a whole copy, and may be woken. Of interest to the master only.
    NodeHolds {
        /// Who.
        holder: Contact,
        /// Of which image.
        info_hash: InfoHash,
    },
    /// It has the copy no more, or was told to stay out.
    NodeDropped {
        /// Who.
        node: NodeId,
        /// Of which image.
        info_hash: InfoHash,
    },
    /// A foreign client announces here; answered by [`Output::Announced`].
    Announce {
        /// Joins the answer.
        id: RequestId,
        /// What it said.
        announce: Announce,
    },
    /// A foreign client announced at a follower; answered by [`Output::ForeignAnnounced`].
    ForeignAnnounce {
        /// The follower.
        from: NodeId,
        /// The follower's number for it.
        id: u64,
        /// The client.
        peer: ForeignPeer,
        /// How many peers it wants.
        numwant: u16,
        /// It leaves.
        stopped: bool,
        /// It has just completed.
        completed: bool,
    },
    /// The port of [`Output::Probe`] was looked at.
    Probed {
        /// Of this image's client.
        info_hash: InfoHash,
        /// Where.
        addr: SocketAddr,
        /// A BitTorrent client may be there.
        reachable: bool,
    },
    /// A person names a torrent of an open tracker.
    Register(RegisteredName),
    /// The node ends: what is not saved yet is saved.
    Shutdown,
    /// Another master's book. A replica is replaced by it; a master adds what it lacks (two meshes have met).
    Replica(BookReplica),
    /// What an earlier life of this node saved; said once, before anything else.
    Kept(Kept),
    /// This node is master now; the catalogue's holders that are up follow as [`Input::NodeHolds`].
    BecameMaster,
    /// It is no more: our own nodes announce elsewhere.
    LostMastership,
}

/// Everything the tracker asks for.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// The answer to [`Input::Announce`]; the error is the `failure reason`.
    Announced {
        /// Whose question.
        id: RequestId,
        /// The answer.
        result: Result<Announced, &'static str>,
    },
    /// Tell one of our nodes (perhaps this one) whom to be connected to.
    Neighbours {
        /// Whom to tell.
        to: NodeId,
        /// What.
        neighbours: Neighbours,
    },
    /// Answer a follower.
    ForeignAnnounced {
        /// The follower.
        to: NodeId,
        /// Its number.
        id: u64,
        /// For its client.
        answer: Result<ForeignAnswer, ForeignRefused>,
    },
    /// Wake an idle copy (perhaps this node's).
    Wake {
        /// Whose.
        node: NodeId,
        /// Of which image.
        info_hash: InfoHash,
    },
    /// A copy was completed, so often by now: for the catalogue.
    Completed {
        /// Of which image.
        info_hash: InfoHash,
        /// How often.
        downloaded: u64,
    },
    /// Look whether a BitTorrent client answers there; answered by [`Input::Probed`].
    Probe {
        /// Which image it should know.
        info_hash: InfoHash,
        /// Where.
        addr: SocketAddr,
    },
    /// Send the deputies the [`Tracker::replica`].
    Replicate,
    /// Keep this for the next start.
    Save(Kept),
}

/// What a swarm waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Job {
    Regroup,
    Wake,
}

impl Job {
    fn reason(self) -> &'static str {
        match self {
            Self::Regroup => "tracker: choose neighbours again",
            Self::Wake => "tracker: look for seeders again",
        }
    }
}

/// The book of all swarms. Verbs, outputs and getters as [`crate::io`] explains.
#[derive(Debug)]
pub struct Tracker {
    me: NodeId,
    config: TrackerConfig,
    master: bool,
    rng: ChaCha8Rng,
    swarms: BTreeMap<InfoHash, Swarm>,
    ledger: Ledger,
    /// Foreign clients of all swarms.
    clients: usize,
    /// They are those that this node kept, and it knows since when each is silent.
    ages_known: bool,
    agenda: BTreeSet<(Time, InfoHash, Job)>,
    sweep_at: Option<Time>,
    replicate_at: Option<Time>,
    replicated: Time,
    save_at: Option<Time>,
    outputs: VecDeque<Output>,
}

impl Tracker {
    /// A replica without content.
    pub fn new(me: NodeId, seed: u64, config: TrackerConfig) -> Self {
        Self {
            me,
            config,
            master: false,
            rng: ChaCha8Rng::seed_from_u64(seed),
            swarms: BTreeMap::new(),
            ledger: Ledger::default(),
            clients: 0,
            ages_known: false,
            agenda: BTreeSet::new(),
            sweep_at: None,
            replicate_at: None,
            replicated: Time::default(),
            save_at: None,
            outputs: VecDeque::new(),
        }
    }

    /// Something happened.
    pub fn handle_input(&mut self, now: Time, input: Input) {
        match input {
            Input::Tracked { info_hash, downloaded } => {
                if let Some(swarm) = self.swarm(info_hash) {
                    swarm.tracked = true;
                }
                self.know_downloads(now, info_hash, downloaded);
            }
            Input::Untracked(info_hash) => self.untrack(now, info_hash),
            Input::NodeAnnounce { from, announce } => self.node_announces(now, from, &announce),
            Input::NodeGone(node) => self.node_gone(now, &node),
            Input::NodeHolds { holder, info_hash } => {
                if self.master
                    && let Some(swarm) = self.swarm(info_hash)
                {
                    swarm.holders.add(holder);
                    self.look_for_seeders(now, info_hash);
                }
            }
            Input::NodeDropped { node, info_hash } => {
                if let Some(swarm) = self.swarms.get_mut(&info_hash) {
                    swarm.holders.remove(&node);
                    self.look_for_seeders(now, info_hash);
                    self.forget_if_idle(info_hash);
                }
            }
            Input::Announce { id, announce } => {
                let result = self.visit(now, &Visit::of(&announce, &self.config), Found::tracked);
                let result = result.map(|answer| answer.announced(&self.config)).map_err(ForeignRefused::reason);
                self.outputs.push_back(Output::Announced { id, result });
            }
            Input::ForeignAnnounce { from, id, peer, numwant, stopped, completed } => {
                let visit = Visit { peer, wanted: NUMWANT_MAX.min(numwant.into()), stopped, completed };
                let answer = self.visit(now, &visit, Found::tracked).map(Answer::passed_on);
                self.outputs.push_back(Output::ForeignAnnounced { to: from, id, answer });
            }
            Input::Probed { info_hash, addr, reachable } => self.probed(now, info_hash, addr, reachable),
            Input::Register(name) if self.config.open => self.register(now, name),
            Input::Register(_) => {}
            Input::Shutdown => self.save_at = self.save_at.map(|_| now),
            Input::Replica(replica) => self.take_over(now, replica),
            Input::Kept(kept) => self.restore(now, kept),
            Input::BecameMaster => self.become_master(now),
            Input::LostMastership => self.lose_mastership(),
        }
        self.handle_timeout(now);
    }

    /// The deadline of [`Self::poll_timeout`] has come.
    pub fn handle_timeout(&mut self, now: Time) {
        if self.sweep_at.is_some_and(|at| at <= now) {
            self.sweep(now);
        }
        while let Some(&(at, info_hash, job)) = self.agenda.first()
            && at <= now
        {
            self.agenda.pop_first();
            match job {
                Job::Regroup => self.regroup(now, info_hash),
                Job::Wake => {
                    if let Some(swarm) = self.swarms.get_mut(&info_hash) {
                        swarm.wake_at = None;
                        self.look_for_seeders(now, info_hash);
                    }
                }
            }
        }
        if self.replicate_at.is_some_and(|at| at <= now) {
            self.replicate_at = None;
            self.replicated = now;
            self.outputs.push_back(Output::Replicate);
        }
        if self.save_at.is_some_and(|at| at <= now) {
            self.save_at = None;
            self.outputs.push_back(Output::Save(self.kept(now)));
        }
    }

    /// The oldest thing that it wants done.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When it wants [`Self::handle_timeout`], and why.
    pub fn poll_timeout(&self) -> Option<(Time, &'static str)> {
        let job = self.agenda.first().map(|(at, _, job)| (*at, job.reason()));
        let sweep = self.sweep_at.map(|at| (at, "tracker: forget silent clients"));
        let replicate = self.replicate_at.map(|at| (at, "tracker: send the book to the deputies"));
        let save = self.save_at.map(|at| (at, "tracker: keep the counters"));
        [job, sweep, replicate, save].into_iter().flatten().min()
    }

    /// One swarm's counters, with the name if a person gave it one; `None` if foreign clients are refused there.
    pub fn scrape(&self, info_hash: &InfoHash) -> Option<Scraped> {
        let known = self.known(info_hash);
        let swarm = self.swarms.get(info_hash).filter(|swarm| swarm.tracked || self.config.open);
        let (complete, incomplete) = match swarm {
            Some(swarm) => swarm.counts(),
            None => (0, 0),
        };
        let name = known.map(|(name, _)| name.to_owned());
        (swarm.is_some() || name.is_some()).then(|| Scraped {
            info_hash: *info_hash,
            name,
            complete,
            incomplete,
            downloaded: self.downloaded(info_hash),
        })
    }

    /// The same for pages, whoever may ask: whole copies and others.
    pub fn counts(&self, info_hash: &InfoHash) -> (u32, u32) {
        self.swarms.get(info_hash).map_or((0, 0), Swarm::counts)
    }

    /// How often a copy was completed.
    pub fn downloaded(&self, info_hash: &InfoHash) -> u64 {
        self.ledger.downloaded(info_hash)
    }

    /// The name and the bytes that a person gave a torrent of this open tracker.
    pub fn known(&self, info_hash: &InfoHash) -> Option<(&str, u64)> {
        self.ledger.known(info_hash).filter(|_| self.config.open)
    }

    /// The torrents that are not in the catalogue: those that a person named, then `most` others.
    pub fn others(&self, most: usize) -> Vec<InfoHash> {
        if !self.config.open {
            return Vec::new();
        }
        let untracked = |hash: &&InfoHash| !self.swarms.get(*hash).is_some_and(|swarm| swarm.tracked);
        let named = self.ledger.named().filter(untracked).copied();
        let unnamed = self.swarms.iter().filter(|(hash, swarm)| !swarm.tracked && self.ledger.known(hash).is_none());
        named.chain(unnamed.map(|(hash, _)| *hash).take(most)).collect()
    }

    /// Everybody in one swarm.
    pub fn peers(&self, info_hash: &InfoHash) -> impl Iterator<Item = BookPeer> {
        self.swarms.get(info_hash).into_iter().flat_map(|swarm| {
            let nodes = swarm.peers().map(|peer| BookPeer {
                node: Some(peer.contact.node),
                addr: peer.contact.addr,
                left: peer.left,
                uploaded: peer.uploaded,
                downloaded: peer.downloaded,
            });
            nodes.chain(swarm.clients.iter().map(|client| BookPeer {
                node: None,
                addr: client.addr(),
                left: client.left,
                uploaded: client.uploaded,
                downloaded: client.downloaded,
            }))
        })
    }

    /// Whether a person may name a torrent here.
    ///
    /// # Errors
    /// If the tracker is not open, or has no room.
    pub fn may_register(&self) -> Result<(), NotRegistered> {
        match self.ledger.is_full() {
            _ if !self.config.open => Err(NotRegistered::Closed),
            Some(n) => Err(NotRegistered::Full(n)),
            None => Ok(()),
        }
    }

    fn swarm(&mut self, info_hash: InfoHash) -> Option<&mut Swarm> {
        swarm(&mut self.swarms, info_hash, CATALOGUE_IMAGES_MAX)
    }

    fn untrack(&mut self, now: Time, info_hash: InfoHash) {
        let Some(swarm) = self.swarms.get_mut(&info_hash) else { return };
        swarm.tracked = false;
        if !self.config.open {
            let gone = swarm.clients.retain(usize::MAX, |_| false);
            self.clients_left(now, info_hash, gone);
        }
        self.forget_if_idle(info_hash);
    }

    fn forget_if_idle(&mut self, info_hash: InfoHash) {
        if self.swarms.get(&info_hash).is_some_and(Swarm::is_idle)
            && let Some(swarm) = self.swarms.remove(&info_hash)
        {
            let regroup = swarm.regroup_at.map(|at| (at, info_hash, Job::Regroup));
            let wake = swarm.wake_at.map(|at| (at, info_hash, Job::Wake));
            for job in [regroup, wake].iter().flatten() {
                self.agenda.remove(job);
            }
        }
    }

    // ---- our own nodes

    fn node_announces(&mut self, now: Time, from: Contact, announce: &NodeAnnounce) {
        if !self.master {
            return;
        }
        self.sweep_at = self.sweep_at.or(Some(now + BOOK_SWEEP_EVERY));
        let info_hash = announce.info_hash;
        let Some(swarm) = self.swarm(info_hash) else { return };
        // The last announce of a node that leaves may also be the one that says `completed`.
        let change = if announce.leaving && !(announce.completed || swarm.has_node(&from.node)) {
            Change::default()
        } else {
            swarm.node_announces(now, from, announce)
        };
        if announce.leaving {
            let left = swarm.node_leaves(&from.node);
            self.changed(now, info_hash, Change { regroup: left, ..change });
            self.forget_if_idle(info_hash);
            return;
        }
        let settled = !change.regroup && swarm.regroup_at.is_none();
        match swarm.neighbours_of(info_hash, &from.node) {
            Some(neighbours) if settled => {
                self.outputs.push_back(Output::Neighbours { to: from.node, neighbours });
                self.changed(now, info_hash, change);
            }
            _ => {
                swarm.owe_answer(&from.node);
                self.changed(now, info_hash, Change { regroup: true, ..change });
            }
        }
    }

    fn node_gone(&mut self, now: Time, node: &NodeId) {
        let swarms: Vec<InfoHash> = self.swarms.keys().copied().collect();
        for info_hash in swarms {
            let Some(swarm) = self.swarms.get_mut(&info_hash) else { continue };
            let held = swarm.holders.remove(node);
            let left = swarm.node_leaves(node);
            if held || left {
                self.changed(now, info_hash, Change { regroup: left, completed: false });
                self.forget_if_idle(info_hash);
            }
        }
    }

    /// Somebody joined, left or completed: carry it further.
    fn changed(&mut self, now: Time, info_hash: InfoHash, change: Change) {
        if change.completed {
            self.ledger.count(info_hash, self.whose(&info_hash));
            let downloaded = self.downloaded(&info_hash);
            self.outputs.push_back(Output::Completed { info_hash, downloaded });
            self.save_soon(now);
            self.replicate_soon(now);
        }
        if change.regroup {
            self.regroup_soon(now, info_hash);
        }
        self.look_for_seeders(now, info_hash);
    }

    fn regroup_soon(&mut self, now: Time, info_hash: InfoHash) {
        let Some(swarm) = self.swarms.get_mut(&info_hash) else { return };
        if self.master && swarm.regroup_at.is_none() && swarm.has_nodes() {
            let at = now.max(swarm.regrouped + REGROUP_EVERY);
            swarm.regroup_at = Some(at);
            self.agenda.insert((at, info_hash, Job::Regroup));
        }
    }

    fn regroup(&mut self, now: Time, info_hash: InfoHash) {
        let Some(swarm) = self.swarms.get_mut(&info_hash) else { return };
        swarm.regroup_at = None;
        swarm.regrouped = now;
        for (to, neighbours) in swarm.regroup(info_hash, &self.me) {
            self.outputs.push_back(Output::Neighbours { to, neighbours });
        }
    }

    /// Wakes idle copies if somebody needs them and too few serve.
    fn look_for_seeders(&mut self, now: Time, info_hash: InfoHash) {
        let Some(swarm) = self.swarms.get_mut(&info_hash) else { return };
        if let Some(at) = swarm.wake_at.take() {
            self.agenda.remove(&(at, info_hash, Job::Wake));
        }
        let (_, incomplete) = swarm.counts();
        if !self.master || incomplete == 0 || swarm.holders.is_empty() {
            return;
        }
        let needed = SEEDERS_WANTED.saturating_sub(swarm.seeding_nodes());
        if needed == 0 {
            return;
        }
        let sites = swarm.sites_in_need();
        let mut holders = std::mem::take(&mut swarm.holders);
        let wanted = Wanted { present: &|node| swarm.has_node(node), sites: &sites, me: self.me };
        let (woken, look_again) = holders.wake(now, needed, &wanted);
        swarm.holders = holders;
        swarm.wake_at = look_again;
        self.agenda.extend(look_again.map(|at| (at, info_hash, Job::Wake)));
        self.outputs.extend(woken.into_iter().map(|node| Output::Wake { node, info_hash }));
    }

    // ---- foreign clients

    /// Books a foreign client and answers it with peers, as `tell` puts them.
    fn visit<T>(&mut self, now: Time, visit: &Visit, tell: impl Fn(Found) -> T) -> Result<Answer<T>, ForeignRefused> {
        let Visit { peer, stopped, completed, wanted } = *visit;
        let info_hash = peer.info_hash;
        let (open, clients, checks) = (self.config.open, self.clients, self.config.nat_check);
        let until = now + self.config.expiry;
        // Strangers may name what they like to an open tracker, but not use up the room of our own images.
        let limit = if open { CATALOGUE_IMAGES_MAX / 2 } else { 0 };
        let swarm = swarm(&mut self.swarms, info_hash, limit);
        let swarm = swarm.filter(|swarm| swarm.tracked || open).ok_or(ForeignRefused::Unknown)?;
        if stopped {
            let gone = usize::from(swarm.clients.leave(&peer.addr.into()));
            let (complete, incomplete) = swarm.counts();
            self.clients_left(now, info_hash, gone);
            self.forget_if_idle(info_hash);
            return Ok(Answer { complete, incomplete, peers: Vec::new() });
        }
        if clients >= BOOK_CLIENTS_MAX && swarm.clients.get(&peer.addr.into()).is_none() {
            self.forget_if_idle(info_hash);
            return Err(ForeignRefused::BookFull);
        }
        let visited = swarm.clients.announce(until, &peer, completed, checks)?;
        let (complete, incomplete) = swarm.counts();
        let peers = swarm.sample(&mut self.rng, &peer.addr, peer.left == 0, wanted, tell);
        self.clients += usize::from(visited.joined);
        if self.master {
            self.sweep_at = self.sweep_at.or(Some(now + BOOK_SWEEP_EVERY));
        }
        self.save_clients_soon(now);
        if visited.probe {
            self.outputs.push_back(Output::Probe { info_hash, addr: peer.addr });
        }
        if visited.shown {
            self.replicate_soon(now);
        }
        if visited.joined || visited.shown || visited.completed {
            self.changed(now, info_hash, Change { regroup: visited.shown, completed: visited.completed });
        }
        Ok(Answer { complete, incomplete, peers })
    }

    fn probed(&mut self, now: Time, info_hash: InfoHash, addr: SocketAddr, reachable: bool) {
        let Some(swarm) = self.swarms.get_mut(&info_hash) else { return };
        if swarm.clients.probed(addr, reachable) {
            self.save_clients_soon(now);
            self.replicate_soon(now);
            self.changed(now, info_hash, Change { regroup: true, completed: false });
        }
    }

    fn clients_left(&mut self, now: Time, info_hash: InfoHash, gone: usize) {
        self.clients -= gone;
        if gone > 0 {
            self.replicate_soon(now);
            self.save_clients_soon(now);
            self.changed(now, info_hash, Change { regroup: true, completed: false });
        }
    }
}

/// The swarm of that image, which is begun if fewer than `limit` exist.
fn swarm(swarms: &mut BTreeMap<InfoHash, Swarm>, info_hash: InfoHash, limit: usize) -> Option<&mut Swarm> {
    let full = swarms.len() >= limit;
    match swarms.entry(info_hash) {
        Entry::Occupied(entry) => Some(entry.into_mut()),
        Entry::Vacant(_) if full => None,
        Entry::Vacant(entry) => Some(entry.insert(Swarm::default())),
    }
}

/// Why a torrent cannot be named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotRegistered {
    /// The tracker is for the images of the catalogue.
    Closed,
    /// So many are named already.
    Full(usize),
}

/// One peer of the book, for pages and tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BookPeer {
    /// Which of our nodes, if it is one.
    pub node: Option<NodeId>,
    /// Where it listens for peers.
    pub addr: SocketAddr,
    /// Bytes that it misses.
    pub left: u64,
    /// Bytes it has sent.
    pub uploaded: u64,
    /// Bytes it has received.
    pub downloaded: u64,
}
