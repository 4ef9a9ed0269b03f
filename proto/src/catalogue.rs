//! Which images the mesh has, and who holds them: the union of the caches of all nodes.
//!
//! Rule: the master keeps the union and publishes it in versions; a follower shows what its master published, with its
//! own cache always as it is now. A record stays while somebody known, present or away, holds the image or a part of
//! it. One name with two contents is two records; one content under two names keeps the name that was known first.
//!
//! How versions work: every change of a record gives it the next version, so "what changed since 17" is a range, and
//! the whole is what changed since 0. Only removals need a history; it is short, and who missed more is sent the whole.
//! Versions of two masters do not compare: a follower begins anew with each.
//!
//! A new master begins with the union that it followed. Its members tell their holdings again, each of which replaces
//! what was believed of that node; images of which only parts are around are given [`CATALOGUE_GRACE`] to be claimed.
//!
//! Not here: who is up (`roster`), the files (`labmesh`'s `io/cache.rs`), `.torrent` bytes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::config::{
    BEAT_EVERY, CATALOGUE_ASK_AGAIN, CATALOGUE_DELTA_BYTES, CATALOGUE_GONE_MAX, CATALOGUE_GRACE, IMAGE_NAME_BYTES_MAX,
    IMAGES_MAX, NODES_MAX,
};
use crate::id::{Epoch, InfoHash, NodeId, Time};
use crate::wire::control::{CatalogueDelta, Holdings, ImageRecord, Message};

pub mod lookup;
#[cfg(test)]
mod tests;
mod union;

use lookup::Lookup;
use union::{Copy, Union};

/// Everything that can happen to the catalogue.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// This node's own cache, at the start and whenever it changes. The version must not repeat an earlier one of
    /// this node with other content, not even after a restart.
    Mine(Holdings),
    /// This node is master now, in this epoch.
    BecameMaster(Epoch),
    /// This node obeys the master of this epoch now.
    Following(Epoch),
    /// Nobody is obeyed at the moment. What was published stays visible.
    LostMaster,
    /// A control connection with that node stands: what it was told before may have been lost. Who hears the master's
    /// beacon first obeys it before there is a connection.
    Up(NodeId),
    /// A node greeted, and has holdings of this version.
    Greeted {
        /// Who.
        from: NodeId,
        /// [`Message::Hello`]'s `holdings`.
        holdings: u64,
    },
    /// A node says what it holds.
    Holdings {
        /// Who.
        from: NodeId,
        /// What; replaces what it said before.
        holdings: Holdings,
    },
    /// The master asks for ours.
    HoldingsWanted {
        /// Who asks.
        from: NodeId,
    },
    /// A node is away: its copies are listed as last seen there.
    NodeGone(NodeId),
    /// A node is forgotten, and its copies with it.
    NodeForgotten(NodeId),
    /// A copy was completed, so often by now (the tracker counts them).
    Completed {
        /// Of which image.
        info_hash: InfoHash,
        /// How often.
        downloaded: u64,
    },
    /// A heartbeat of the obeyed master.
    Beat {
        /// Its epoch.
        epoch: Epoch,
        /// The catalogue's version there.
        version: u64,
    },
    /// A follower asks for what changed.
    Since {
        /// Who asks.
        from: NodeId,
        /// What it has.
        version: u64,
    },
    /// What changed: from the obeyed master, or the whole from a master that lost a merge.
    Delta {
        /// Who says so.
        from: NodeId,
        /// What.
        delta: CatalogueDelta,
    },
}

/// Everything the catalogue asks for.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Say it to one node.
    Send {
        /// To whom.
        to: NodeId,
        /// What.
        message: Message,
    },
    /// The images that are listed changed.
    Changed {
        /// Listed now.
        added: Vec<InfoHash>,
        /// Listed no more.
        removed: Vec<InfoHash>,
    },
    /// A node, perhaps this one or one that is away, has a whole copy now.
    Holds {
        /// Who.
        node: NodeId,
        /// Of which image.
        info_hash: InfoHash,
    },
    /// It has the copy no more.
    Dropped {
        /// Who.
        node: NodeId,
        /// Of which image.
        info_hash: InfoHash,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// Obeys nobody; shows what it knew.
    Alone,
    Master(Epoch),
    Follower(Epoch),
}

/// The catalogue of one node. Verbs, outputs and getters as [`crate::io`] explains.
#[derive(Debug)]
pub struct Catalogue {
    me: NodeId,
    role: Role,
    mine: Holdings,
    union: Union,
    /// As master: whose holdings came since, and in which version.
    heard: BTreeMap<NodeId, u64>,
    /// As master: the next version is one more.
    version: u64,
    /// As master: removals, oldest first, and the version up to which they are forgotten.
    gone: VecDeque<(u64, InfoHash)>,
    gone_before: u64,
    /// As follower: the version that was applied; `None` = nothing of this master yet.
    applied: Option<u64>,
    /// As follower: the newest version heard of.
    newest: Option<u64>,
    /// As follower: the whole is under way, and these records are left over from before.
    leftover: BTreeSet<InfoHash>,
    ask_again: Option<Time>,
    grace_ends: Option<Time>,
    outputs: VecDeque<Output>,
}

impl Catalogue {
    /// Empty, obeying nobody.
    pub fn new(me: NodeId) -> Self {
        Self {
            me,
            role: Role::Alone,
            mine: Holdings::default(),
            union: Union::default(),
            heard: BTreeMap::new(),
            version: 0,
            gone: VecDeque::new(),
            gone_before: 0,
            applied: None,
            newest: None,
            leftover: BTreeSet::new(),
            ask_again: None,
            grace_ends: None,
            outputs: VecDeque::new(),
        }
    }

    /// Something happened.
    pub fn handle_input(&mut self, now: Time, input: Input) {
        match input {
            Input::Mine(holdings) => self.set_mine(holdings),
            Input::BecameMaster(epoch) => self.become_master(now, epoch),
            Input::Following(epoch) => self.follow(now, epoch),
            Input::LostMaster => {
                self.role = Role::Alone;
                (self.ask_again, self.grace_ends) = (None, None);
            }
            Input::Up(node) => {
                if matches!(self.role, Role::Follower(epoch) if epoch.node == node) {
                    self.ask_again = None;
                    self.catch_up(now);
                }
            }
            Input::Greeted { from, holdings } => {
                if self.is_master() && from != self.me && self.heard.get(&from) != Some(&holdings) {
                    self.send(from, Message::HoldingsWanted);
                }
            }
            Input::Holdings { from, holdings } => self.take_holdings(from, &holdings),
            Input::HoldingsWanted { from } => self.send(from, Message::Holdings(self.mine.clone())),
            Input::NodeGone(node) => drop(self.heard.remove(&node)),
            Input::NodeForgotten(node) => {
                self.heard.remove(&node);
                if self.is_master() && node != self.me {
                    self.union.forget_node(node);
                }
            }
            Input::Completed { info_hash, downloaded } => {
                if self.is_master() {
                    self.union.count_downloads(&info_hash, downloaded);
                }
            }
            Input::Beat { epoch, version } => {
                if self.role == Role::Follower(epoch) {
                    self.newest = self.newest.max(Some(version));
                    self.catch_up(now);
                }
            }
            Input::Since { from, version } => self.answer(from, version),
            Input::Delta { from, delta } => self.take_delta(now, from, &delta),
        }
        self.publish();
    }

    /// The deadline of [`Self::poll_timeout`] has come.
    pub fn handle_timeout(&mut self, now: Time) {
        if self.grace_ends.is_some_and(|at| at <= now) {
            self.grace_ends = None;
            self.union.drop_unheld();
        }
        if self.ask_again.is_some_and(|at| at <= now) {
            self.ask_again = None;
            self.catch_up(now);
        }
        self.publish();
    }

    /// The oldest thing that it wants done.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When it wants [`Self::handle_timeout`], and why.
    pub fn poll_timeout(&self) -> Option<(Time, &'static str)> {
        let ask = self.ask_again.map(|at| (at, "catalogue: ask the master again"));
        let grace = self.grace_ends.map(|at| (at, "catalogue: drop images that nobody claimed"));
        [ask, grace].into_iter().flatten().min()
    }

    /// The version that heartbeats carry: what is published here, or was applied.
    pub fn version(&self) -> u64 {
        if self.is_master() { self.version } else { self.applied.unwrap_or(0) }
    }

    /// What this node holds, for its greeting.
    pub fn mine(&self) -> &Holdings {
        &self.mine
    }

    /// Every image, by name; two contents of one name by hash.
    pub fn records(&self) -> impl Iterator<Item = &ImageRecord> {
        self.union.by_name()
    }

    /// One image.
    pub fn record(&self, info_hash: &InfoHash) -> Option<&ImageRecord> {
        self.union.get(info_hash)
    }

    /// Whether another image has the same name.
    pub fn is_ambiguous(&self, name: &str) -> bool {
        self.union.named(name).len() > 1
    }

    /// The images of which a node has whole copies: for the tracker, when that node comes up.
    pub fn held_by(&self, node: &NodeId) -> impl Iterator<Item = &InfoHash> {
        self.union.held_by(node)
    }

    /// The image that `text` names: an info hash, a name, or `NAME@HASHPREFIX` with at least
    /// [`lookup::PREFIX_DIGITS_MIN`] digits.
    ///
    /// # Errors
    /// If there is none, or several of that name.
    pub fn resolve(&self, text: &str) -> Result<&ImageRecord, Lookup> {
        let none = || Lookup::NoSuchImage(text.to_owned());
        if let Some(record) = text.parse().ok().and_then(|hash| self.union.get(&hash)) {
            return Ok(record);
        }
        let mut found = self.union.named(text);
        let mut name = text;
        if found.is_empty() {
            let (before, prefix) = lookup::split_prefix(text).ok_or_else(none)?;
            name = before;
            found = self.union.named(before);
            found.retain(|hash| hash.to_string().starts_with(&prefix));
        }
        let hash = lookup::only_one(name, &found).map_err(|e| if found.is_empty() { none() } else { e })?;
        self.union.get(&hash).ok_or_else(none)
    }

    fn is_master(&self) -> bool {
        matches!(self.role, Role::Master(_))
    }

    fn send(&mut self, to: NodeId, message: Message) {
        self.outputs.push_back(Output::Send { to, message });
    }

    fn set_mine(&mut self, holdings: Holdings) {
        self.mine = checked(holdings);
        self.union.set_node(self.me, &self.mine.images);
        if let Role::Follower(epoch) = self.role {
            self.send(epoch.node, Message::Holdings(self.mine.clone()));
        }
    }

    /// What changed becomes versions, if this node publishes, and outputs.
    fn publish(&mut self) {
        let news = self.union.take_news();
        let (mut added, mut removed) = (Vec::new(), Vec::new());
        for (info_hash, was_listed) in news.images {
            let listed = self.union.get(&info_hash).is_some();
            match (was_listed, listed) {
                (false, false) => continue,
                (false, true) => added.push(info_hash),
                (true, false) => removed.push(info_hash),
                (true, true) => {}
            }
            if self.is_master() {
                self.version += 1;
                self.union.stamp(&info_hash, self.version);
                if !listed {
                    self.gone.push_back((self.version, info_hash));
                }
            }
        }
        while self.gone.len() > CATALOGUE_GONE_MAX
            && let Some((version, _)) = self.gone.pop_front()
        {
            self.gone_before = version;
        }
        if !added.is_empty() || !removed.is_empty() {
            self.outputs.push_back(Output::Changed { added, removed });
        }
        if self.is_master() {
            for ((info_hash, node), held) in news.copies {
                match (held, self.union.holds(&info_hash, &node)) {
                    (false, true) => self.outputs.push_back(Output::Holds { node, info_hash }),
                    (true, false) => self.outputs.push_back(Output::Dropped { node, info_hash }),
                    _ => {}
                }
            }
        }
    }

    // ---- as master

    fn become_master(&mut self, now: Time, epoch: Epoch) {
        self.publish();
        self.role = Role::Master(epoch);
        self.heard.clear();
        self.gone.clear();
        self.leftover.clear();
        self.ask_again = None;
        self.grace_ends = Some(now + CATALOGUE_GRACE);
        self.union.own();
        self.union.forget_versions();
        (self.version, self.gone_before) = (0, 0);
        for info_hash in self.union.all() {
            self.version += 1;
            self.union.stamp(&info_hash, self.version);
            let holders = self.union.get(&info_hash).into_iter().flat_map(|record| &record.holders);
            self.outputs.extend(holders.map(|node| Output::Holds { node: *node, info_hash }));
        }
    }

    fn take_holdings(&mut self, from: NodeId, holdings: &Holdings) {
        let room = self.heard.len() < NODES_MAX || self.heard.contains_key(&from);
        if self.is_master() && from != self.me && room {
            self.heard.insert(from, holdings.version);
            self.union.set_node(from, &checked(holdings.clone()).images);
        }
    }

    fn answer(&mut self, to: NodeId, version: u64) {
        if let Role::Master(epoch) = self.role {
            let known = version <= self.version && version >= self.gone_before;
            for delta in self.deltas(epoch, if known { version } else { 0 }) {
                self.send(to, Message::Catalogue(delta));
            }
        }
    }

    /// What changed since a version, in messages of bounded size.
    fn deltas(&self, epoch: Epoch, since: u64) -> Vec<CatalogueDelta> {
        let begin = |from| CatalogueDelta {
            epoch,
            from,
            to: self.version,
            changed: Vec::new(),
            copied: Vec::new(),
            gone: Vec::new(),
        };
        let mut deltas = Vec::new();
        let mut delta = begin(since);
        let mut bytes = 0;
        for (version, record) in self.union.since(since) {
            let copied = self.union.copied(&record.info_hash, since).filter(|_| since > 0);
            let holders = copied.as_ref().map_or(&record.holders, |copied| &copied.holders).len();
            bytes += record.name.len() + 34 * holders + 64;
            match copied {
                Some(copied) => delta.copied.push(copied),
                None => delta.changed.push(record.clone()),
            }
            if bytes > CATALOGUE_DELTA_BYTES && version < self.version {
                delta.to = version;
                deltas.push(std::mem::replace(&mut delta, begin(version)));
                bytes = 0;
            }
        }
        deltas.push(delta);
        for delta in deltas.iter_mut().filter(|delta| delta.from > 0) {
            let within = |(version, _): &&(u64, InfoHash)| (delta.from + 1..=delta.to).contains(version);
            delta.gone = self.gone.iter().filter(within).map(|(_, hash)| *hash).collect();
        }
        deltas
    }

    // ---- as follower

    fn follow(&mut self, now: Time, epoch: Epoch) {
        if self.role == Role::Follower(epoch) {
            return;
        }
        // Whoever was master itself hands over what it knew; the new master unites it with its own.
        if let Role::Master(old) = self.role {
            for delta in self.deltas(old, 0) {
                self.send(epoch.node, Message::Catalogue(delta));
            }
        }
        self.role = Role::Follower(epoch);
        (self.applied, self.newest, self.ask_again, self.grace_ends) = (None, None, None, None);
        self.send(epoch.node, Message::Holdings(self.mine.clone()));
        self.catch_up(now);
    }

    /// Asks for what is missing; once nothing is, lets go of what the master did not list.
    fn catch_up(&mut self, now: Time) {
        let Role::Follower(epoch) = self.role else { return };
        if self.applied.is_none() || self.applied < self.newest {
            if self.ask_again.is_none() {
                self.ask_again = Some(now + CATALOGUE_ASK_AGAIN);
                self.send(epoch.node, Message::CatalogueSince(self.applied.unwrap_or(0)));
            }
            return;
        }
        self.ask_again = None;
        if self.newest.is_some() {
            for info_hash in std::mem::take(&mut self.leftover) {
                self.union.unpublish(&info_hash, self.me);
            }
        }
    }

    fn take_delta(&mut self, now: Time, from: NodeId, delta: &CatalogueDelta) {
        match self.role {
            Role::Follower(epoch) if epoch == delta.epoch && epoch.node == from => self.apply(now, delta),
            Role::Master(epoch) if epoch != delta.epoch && delta.epoch.node == from => {
                let (me, heard) = (self.me, &self.heard);
                for record in &delta.changed {
                    self.union.remember(record, |node| *node != me && !heard.contains_key(node));
                }
            }
            _ => {}
        }
    }

    fn apply(&mut self, now: Time, delta: &CatalogueDelta) {
        let fits = delta.from == 0 || self.applied == Some(delta.from);
        if !fits || delta.to < delta.from {
            self.catch_up(now);
            return;
        }
        if delta.from == 0 {
            self.leftover = self.union.all().into_iter().collect();
        }
        for info_hash in &delta.gone {
            self.union.unpublish(info_hash, self.me);
        }
        for record in &delta.changed {
            self.leftover.remove(&record.info_hash);
            self.union.publish(record, self.me);
        }
        for copied in &delta.copied {
            self.union.add_copies(copied);
        }
        let changed = delta.changed.iter().map(|record| record.info_hash);
        for info_hash in changed.chain(delta.copied.iter().map(|copied| copied.info_hash)) {
            // The master may not have heard yet what is here, or no more here.
            let here = self.mine.images.iter().find(|image| image.info_hash == info_hash);
            self.union.set_copy(&info_hash, self.me, Copy::of(here));
        }
        self.applied = Some(delta.to);
        // What is still missing may be under way in further messages of the same answer.
        self.ask_again = Some(now + BEAT_EVERY);
        self.catch_up(now);
    }
}

/// Holdings without images that nobody could list: beyond the limit, without a name, or named twice.
fn checked(mut holdings: Holdings) -> Holdings {
    holdings.images.truncate(IMAGES_MAX);
    holdings.images.retain(|image| (1..=IMAGE_NAME_BYTES_MAX).contains(&image.name.len()));
    holdings.images.sort_by_key(|image| (image.info_hash, !image.complete));
    holdings.images.dedup_by_key(|image| image.info_hash);
    holdings.images.sort_by(|a, b| (&a.name, a.info_hash).cmp(&(&b.name, b.info_hash)));
    holdings
}
