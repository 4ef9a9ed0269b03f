//! Decides what is offered: compares what lies in the folders with what the node was told.
//!
//! Rule: an image is in exactly one [`State`]; it is hashed unless the very same content was verified before, and
//! offered only with a torrent that fits. The keeper's thread reads folders and small files only; two helpers hash.
//!
//! Not here: how folders are read ([`super::listing`]), what becomes of an image that does not fit its torrent
//! ([`super::hashing`]), how files are brought in ([`super::adding`]).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use labmesh_proto::announcer::is_foreign;
use labmesh_proto::id::InfoHash;
use labmesh_proto::io::Input;
use labmesh_proto::wire::metainfo::Metainfo;
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::{oneshot, watch};

use super::adding::{AddError, Added, Step};
use super::hashing::{Asked, HashJob, Hashed, Outcome, hash_all, sum_all};
use super::index::Index;
use super::listing::{self, Found, Listing};
use super::sidecar::Sidecars;
use super::{Folders, Shared, Stamp, added};
use crate::io::disk::read_journal;
use crate::io::{Event, Events};

mod wishes;

use wishes::{About, Wanted};

/// How long an image must stay as it is before it is believed to be whole.
const SETTLED: Duration = Duration::from_secs(1);
/// Changes come in crowds: the folders are read once for all of this time's.
const GATHER: Duration = Duration::from_millis(150);
/// How long the watcher's thread takes what is written to partial copies as it comes, before it sleeps for [`GATHER`].
const AWAKE: Duration = Duration::from_millis(5);

/// What the keeper is told.
#[derive(Debug)]
pub(super) enum Message {
    /// Something changed in a folder.
    Changed,
    /// Look now; answered when everything that changed was reported.
    Look(oneshot::Sender<()>),
    /// Look again, at everything; answered with the number of offered images.
    Rescan(oneshot::Sender<usize>),
    /// A file was put there by us: it is whole.
    Adopt {
        /// Relative path.
        name: String,
        /// Told how far the hashing is.
        progress: Arc<watch::Sender<Step>>,
        /// Told when it is offered.
        reply: oneshot::Sender<Result<Added, AddError>>,
    },
    /// A copy was fetched and verified piece by piece.
    Fetched {
        /// Relative path.
        name: String,
        /// Its torrent.
        metainfo: Arc<Metainfo>,
    },
    /// The hashing helper is done.
    Hashed(Hashed),
    /// The summing helper is done: the MD5, or why there is none.
    Summed(Asked, Result<String, String>),
    /// Nobody needs the cache any more.
    End,
}

/// What is known of one image file.
struct Known {
    found: Found,
    state: State,
    /// Who waits for it to be offered.
    waiting: Vec<oneshot::Sender<Result<Added, AddError>>>,
    progress: Option<Arc<watch::Sender<Step>>>,
}

enum State {
    /// Seen, and may still grow.
    Settling(Instant),
    /// Waits for the hashing helper.
    Queued,
    /// With the hashing helper.
    Hashing,
    /// The node was told of it.
    Offered { metainfo: Arc<Metainfo>, torrent: Option<Stamp>, stopped: bool },
    /// Left alone until it, or this torrent of it, changes or somebody asks for a rescan: damaged, unreadable, or its
    /// torrent was removed.
    Left(Option<Stamp>),
}

/// The books.
pub(super) struct Keeper {
    folders: Folders,
    inbox: Receiver<Message>,
    events: Events,
    index: Index,
    known: BTreeMap<String, Known>,
    /// What torrents of others ask for and the node was told to fetch, by relative path of the image.
    wanted: BTreeMap<String, Wanted>,
    /// What was read in torrents without an image of their name.
    read: BTreeMap<PathBuf, (Stamp, Option<About>)>,
    /// Offered images without `.full.sum`.
    unsummed: BTreeSet<String>,
    /// What was said about skipped files, so that it is said once.
    skipped: BTreeMap<PathBuf, String>,
    hasher: SyncSender<HashJob>,
    hashing: bool,
    summer: SyncSender<Asked>,
    summing: bool,
    watcher: Option<RecommendedWatcher>,
    watched: BTreeSet<PathBuf>,
    look_at: Instant,
}

impl Keeper {
    /// Starts the three threads; partial copies and known images are reported first.
    pub(super) fn start(shared: &Shared, inbox: Receiver<Message>, events: Events) -> anyhow::Result<()> {
        let spawn = |name: &str, work: Box<dyn FnOnce() + Send>| {
            thread::Builder::new().name(name.to_owned()).spawn(work).context("cannot start a thread")
        };
        let (hasher, jobs) = sync_channel(1);
        let done = shared.messages.clone();
        spawn("cache-hash", Box::new(move || hash_all(&jobs, &done)))?;
        let (summer, asked) = sync_channel(1);
        let done = shared.messages.clone();
        spawn("cache-md5", Box::new(move || sum_all(&asked, &done)))?;
        let messages = shared.messages.clone();
        let mut woke = Instant::now();
        let changed = move |event: notify::Result<notify::Event>| {
            let (matters, is_piece) = event.map_or((true, false), |event| {
                let access = matches!(event.kind, EventKind::Access(_));
                let closed = matches!(event.kind, EventKind::Access(notify::event::AccessKind::Close(_)));
                let here = event.paths.iter().any(|path| listing::matters(path));
                (event.need_rescan() || ((!access || closed) && here), !access && !here)
            });
            if matters {
                // One that does not fit follows others that make the keeper look.
                let _ = messages.try_send(Message::Changed);
            }
            // Each piece that is written to a partial copy is a change too. Those that nobody takes for a while are one for
            // the kernel.
            if is_piece && woke.elapsed() >= AWAKE {
                thread::sleep(GATHER);
                woke = Instant::now();
            }
        };
        let watcher = notify::recommended_watcher(changed)
            .inspect_err(|e| tracing::warn!("cannot watch the image folders ({e}); they are read again now and then"));
        let keeper = Self {
            index: Index::load(&shared.folders.state),
            folders: shared.folders.clone(),
            inbox,
            events,
            known: BTreeMap::new(),
            wanted: BTreeMap::new(),
            read: BTreeMap::new(),
            unsummed: BTreeSet::new(),
            skipped: BTreeMap::new(),
            hasher,
            hashing: false,
            summer,
            summing: false,
            watcher: watcher.ok(),
            watched: BTreeSet::new(),
            look_at: Instant::now(),
        };
        spawn("cache", Box::new(move || keeper.run()))?;
        Ok(())
    }

    fn run(mut self) {
        self.report_parts();
        self.look(true, false);
        loop {
            // First what the look just found: nothing else may wake this thread for a long time.
            self.employ();
            self.index.save();
            if self.events.is_closed() {
                return;
            }
            match self.inbox.recv_timeout(self.look_at.saturating_duration_since(Instant::now())) {
                Ok(Message::End) | Err(RecvTimeoutError::Disconnected) => return,
                Ok(message) => self.handle(message),
                Err(RecvTimeoutError::Timeout) => {}
            }
            if self.look_at <= Instant::now() {
                self.look(false, false);
            }
        }
    }

    fn handle(&mut self, message: Message) {
        match message {
            Message::Changed => self.look_at = self.look_at.min(Instant::now() + GATHER),
            Message::Look(reply) => {
                self.look(false, false);
                // The asker may have gone.
                let _ = reply.send(());
            }
            Message::Rescan(reply) => {
                self.known.retain(|_, known| !matches!(known.state, State::Left(_)));
                self.look(true, true);
                let offered = |known: &&Known| matches!(known.state, State::Offered { .. });
                // The asker may have gone.
                let _ = reply.send(self.known.values().filter(offered).count());
            }
            Message::Adopt { name, progress, reply } => self.adopt(&name, progress, reply),
            Message::Fetched { name, metainfo } => self.fetched(&name, metainfo),
            Message::Hashed(hashed) => {
                self.hashing = false;
                self.hashed(hashed);
            }
            Message::Summed(asked, sum) => {
                self.summing = false;
                self.summed(&asked, sum);
            }
            // `run` ends with it.
            Message::End => {}
        }
    }

    /// Partial copies go on where they were; asked once, since later ones are those of this run.
    fn report_parts(&mut self) {
        let Ok(Listing { parts, torrents, .. }) = listing::list(&self.folders) else { return };
        for name in parts {
            let Some(relative) = listing::checked_name(&name) else { continue };
            let path = self.folders.cache.join(relative);
            let journal = path.with_file_name(format!("{}.part.journal", file_name(&path)));
            match read_journal(&journal) {
                Ok(journal) => {
                    let sidecars = Sidecars::of(&self.folders, &path);
                    let (stopped, hash) = (sidecars.stopped(), journal.metainfo.info_hash());
                    if self.index.was_wished(&path, hash) {
                        if !self.is_wished(&name, &torrents, hash) {
                            tracing::info!(image = name, "is not fetched on: the .torrent that asked for it is gone");
                            continue;
                        }
                        self.wanted.insert(name.clone(), Wanted { info_hash: hash, stopped });
                    }
                    let metainfo = Arc::new(journal.metainfo);
                    let (mode, seed_time) = (journal.mode, journal.seed_time);
                    self.tell(Input::CachePart { name, metainfo, mode, seed_time, stopped });
                }
                Err(e) => tracing::warn!("{} is left alone: {e}; delete it or fetch it again", journal.display()),
            }
        }
    }

    /// Reads the folders and finds what changed. `trusting`: what is older than a second is whole. `again`: what a
    /// person has removed but for its torrent is fetched again.
    fn look(&mut self, trusting: bool, again: bool) {
        let mut listing = match listing::list(&self.folders) {
            Ok(listing) => listing,
            Err(e) => {
                tracing::warn!("cannot read {}: {e}; its images stay as they are", self.folders.cache.display());
                self.look_at = Instant::now() + self.folders.rescan_every;
                return;
            }
        };
        let wishes = self.read_torrents(&mut listing);
        let gone: Vec<String> = self.known.keys().filter(|name| !listing.images.contains_key(*name)).cloned().collect();
        for name in gone {
            self.lose(&name, "is gone");
        }
        self.fulfil(wishes, &listing, again);
        for (name, found) in &listing.images {
            self.compare(name, found, trusting);
        }
        self.say_skipped(&listing);
        let settling = |known: &Known| match known.state {
            State::Settling(since) => Some(since + SETTLED),
            _ => None,
        };
        let settled = self.known.values().filter_map(settling).min();
        let periodic = Instant::now() + self.folders.rescan_every;
        self.look_at = settled.map_or(periodic, |settled| settled.min(periodic));
        self.watch(&listing);
    }

    /// One image as it lies there now.
    fn compare(&mut self, name: &str, found: &Found, trusting: bool) {
        match self.known.get_mut(name) {
            Some(known) if known.found == *found => match &known.state {
                State::Settling(since) if since.elapsed() >= SETTLED => {
                    if !self.offer_verified(name, found) {
                        self.insert(name, found, State::Queued);
                    }
                }
                State::Offered { .. } => self.compare_offered(name),
                State::Left(then) => {
                    let (then, now) =
                        (*then, Sidecars::of(&self.folders, &found.path).torrent_file().map(|(_, stamp)| stamp));
                    if now.is_some() && now != then {
                        self.insert(name, found, State::Queued);
                    }
                }
                State::Settling(_) | State::Queued | State::Hashing => {}
            },
            Some(known) if !matches!(known.state, State::Offered { .. }) => {
                known.found = found.clone();
                known.state = State::Settling(Instant::now());
            }
            Some(_) => {
                self.lose(name, "has changed, so that it is another image now");
                self.meet(name, found, false);
            }
            None => self.meet(name, found, trusting),
        }
    }

    /// The image is as it was; are its torrent and its marker?
    fn compare_offered(&mut self, name: &str) {
        let Some(known) = self.known.get_mut(name) else { return };
        let State::Offered { metainfo, torrent, stopped } = &mut known.state else { return };
        let sidecars = Sidecars::of(&self.folders, &known.found.path);
        let now_stopped = sidecars.stopped();
        if now_stopped != *stopped {
            *stopped = now_stopped;
            let info_hash = metainfo.info_hash();
            tracing::info!(image = name, "{}", if now_stopped { "is stopped" } else { "is started" });
            self.tell(Input::CacheStopped { info_hash, stopped: now_stopped });
            return;
        }
        let stamp_now = sidecars.torrent_file().map(|(_, stamp)| stamp);
        if stamp_now == *torrent {
            return;
        }
        match sidecars.read_torrent() {
            Ok(Some((now, stamp)))
                if now.info_hash() == metainfo.info_hash() && now.announce() == metainfo.announce() =>
            {
                *torrent = Some(stamp);
                self.index.put(&known.found, now.info_hash(), Some(stamp));
            }
            Ok(Some((now, stamp))) if now.info_hash() == metainfo.info_hash() => {
                let found = known.found.clone();
                self.lose(name, "has a .torrent that names other trackers");
                self.insert(name, &found, State::Left(None));
                self.offer(name, Arc::new(now), Some(stamp), true);
            }
            Ok(None) => {
                self.lose(name, "has lost its .torrent and is offered no more (labmesh rescan makes a new one)");
                let found = listing::list(&self.folders).ok().and_then(|mut listing| listing.images.remove(name));
                if let Some(found) = found {
                    self.insert(name, &found, State::Left(None));
                }
            }
            _ => {
                let found = known.found.clone();
                self.lose(name, "has another .torrent");
                self.insert(name, &found, State::Queued);
            }
        }
    }

    /// An image that was not known.
    fn meet(&mut self, name: &str, found: &Found, trusting: bool) {
        if self.offer_verified(name, found) {
            return;
        }
        let age = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let old = age.as_nanos() as i128 - i128::from(found.stamp.mtime_ns) >= SETTLED.as_nanos() as i128;
        let state = if trusting && old { State::Queued } else { State::Settling(Instant::now()) };
        self.insert(name, found, state);
    }

    /// Offers an image without reading it, if it was read before, perhaps under another name.
    fn offer_verified(&mut self, name: &str, found: &Found) -> bool {
        let Some(verified) = self.index.verified(found) else { return false };
        let Ok(Some((metainfo, torrent))) = Sidecars::of(&self.folders, &found.path).read_torrent() else {
            return false;
        };
        if metainfo.info_hash() != verified || metainfo.geometry().length() != found.stamp.size {
            return false;
        }
        self.insert(name, found, State::Left(None));
        self.offer(name, Arc::new(metainfo), Some(torrent), true);
        true
    }

    fn insert(&mut self, name: &str, found: &Found, state: State) {
        let known = Known { found: found.clone(), state, waiting: Vec::new(), progress: None };
        self.known.insert(name.to_owned(), known);
    }

    /// The image is whole and fits its torrent.
    fn offer(&mut self, name: &str, metainfo: Arc<Metainfo>, torrent: Option<Stamp>, tell: bool) {
        let Some(known) = self.known.get_mut(name) else { return };
        let sidecars = Sidecars::of(&self.folders, &known.found.path);
        let stopped = sidecars.stopped();
        known.state = State::Offered { metainfo: Arc::clone(&metainfo), torrent, stopped };
        known.progress = None;
        let waiting = std::mem::take(&mut known.waiting);
        let (path, stamp) = (known.found.path.clone(), known.found.stamp);
        self.index.put(&known.found, metainfo.info_hash(), torrent);
        if self.wanted.remove(name).is_some() && tell {
            // It was brought by hand while it was fetched: what had come takes space for nothing.
            for suffix in [".part.journal", ".part"] {
                let _ = std::fs::remove_file(path.with_file_name(format!("{}{suffix}", file_name(&path))));
            }
        }
        if !sidecars.has_sums(stamp) {
            self.unsummed.insert(name.to_owned());
        }
        if tell {
            tracing::info!(image = name, info_hash = %metainfo.info_hash(), bytes = stamp.size, "is offered");
            let metainfo = Arc::clone(&metainfo);
            self.tell(Input::CacheHas { name: name.to_owned(), metainfo, stopped });
        }
        let other = self.offered_as(name, metainfo.info_hash());
        for reply in waiting {
            // The asker may have gone.
            let _ = reply.send(Ok(added(name, &path, &metainfo, other.clone())));
        }
    }

    /// Another name by which the same content was offered before.
    fn offered_as(&self, name: &str, hash: InfoHash) -> Option<String> {
        let same =
            |known: &Known| matches!(&known.state, State::Offered { metainfo, .. } if metainfo.info_hash() == hash);
        self.known.iter().find(|(other, known)| *other != name && same(known)).map(|(other, _)| other.clone())
    }

    /// The image is not what it was, or not there.
    fn lose(&mut self, name: &str, why: &str) {
        let Some(known) = self.known.remove(name) else { return };
        self.unsummed.remove(name);
        for reply in known.waiting {
            let _ = reply.send(Err(AddError::Changed(name.to_owned())));
        }
        if let State::Offered { metainfo, .. } = known.state {
            tracing::info!(image = name, info_hash = %metainfo.info_hash(), "{why}");
            self.tell(Input::CacheLost { info_hash: metainfo.info_hash() });
        }
    }

    fn adopt(
        &mut self,
        name: &str,
        progress: Arc<watch::Sender<Step>>,
        reply: oneshot::Sender<Result<Added, AddError>>,
    ) {
        self.look(true, false);
        let hash = self.known.get(name).and_then(|known| match &known.state {
            State::Offered { metainfo, .. } => Some(metainfo.info_hash()),
            _ => None,
        });
        let other = hash.and_then(|hash| self.offered_as(name, hash));
        let Some(known) = self.known.get_mut(name) else {
            let _ = reply.send(Err(AddError::Changed(name.to_owned())));
            return;
        };
        match &known.state {
            State::Offered { metainfo, .. } => {
                let _ = reply.send(Ok(added(name, &known.found.path, metainfo, other)));
            }
            State::Settling(_) | State::Left(_) | State::Queued => {
                known.state = State::Queued;
                known.progress = Some(progress);
                known.waiting.push(reply);
            }
            State::Hashing => known.waiting.push(reply),
        }
    }

    /// The pieces of this copy were verified one by one as they came.
    fn fetched(&mut self, name: &str, metainfo: Arc<Metainfo>) {
        let Some(relative) = listing::checked_name(name) else { return };
        let Ok(Some(found)) = listing::found(&self.folders.cache.join(relative)) else { return };
        let same = |known: &Known| match &known.state {
            State::Offered { metainfo: offered, .. } => offered.info_hash() == metainfo.info_hash(),
            _ => false,
        };
        if found.stamp.size != metainfo.geometry().length() || self.known.get(name).is_some_and(same) {
            return;
        }
        self.insert(name, &found, State::Left(None));
        let sidecars = Sidecars::of(&self.folders, &found.path);
        if let Some(other) = self.folders.other_torrent(name)
            && super::read_torrent(&other).is_ok_and(|there| there.info_hash() == metainfo.info_hash())
        {
            // The disk has written one of the image's own name, which would outlive the one that asked for it.
            let _ = std::fs::remove_file(sidecars.torrent());
        }
        let torrent = sidecars.torrent_file().map(|(_, stamp)| stamp);
        self.offer(name, metainfo, torrent, false);
    }

    /// Gives the idle helpers their next jobs.
    fn employ(&mut self) {
        let next = |(name, known): (&String, &Known)| matches!(known.state, State::Queued).then(|| name.clone());
        if !self.hashing
            && let Some(name) = self.known.iter().find_map(next)
            && let Some(known) = self.known.get_mut(&name)
        {
            let asked = Asked { name: name.clone(), found: known.found.clone() };
            let job = HashJob {
                sidecars: Sidecars::of(&self.folders, &asked.found.path),
                other_known: self.index.knew_other(&asked.found),
                check: self.folders.check_hashes,
                host: self.folders.host.clone(),
                tracker: self.folders.tracker.clone(),
                progress: known.progress.clone(),
                asked,
            };
            // A helper that is still taking its last job leaves this one queued.
            self.hashing = !matches!(self.hasher.try_send(job), Err(TrySendError::Full(_)));
            if self.hashing {
                known.state = State::Hashing;
                tracing::info!(image = name, bytes = known.found.stamp.size, "is being hashed");
            }
        }
        if !self.summing
            && !self.hashing
            && let Some(name) = self.unsummed.pop_first()
            && let Some(known) = self.known.get(&name)
        {
            let asked = Asked { name, found: known.found.clone() };
            self.summing = !matches!(self.summer.try_send(asked), Err(TrySendError::Full(_)));
        }
    }

    fn hashed(&mut self, hashed: Hashed) {
        let Hashed { asked: Asked { name, found }, outcome } = hashed;
        let Some(known) = self.known.get_mut(&name) else { return };
        // It changed in between: `compare` has put it back to settling.
        if known.found != found || !matches!(known.state, State::Hashing) {
            return;
        }
        let is_partial = matches!(outcome, Ok(Outcome::Partial));
        if !is_partial && found.path.metadata().map(|m| Stamp::of(&m)).ok() != Some(found.stamp) {
            known.state = State::Settling(Instant::now());
            self.look_at = Instant::now();
            return;
        }
        match outcome {
            Ok(Outcome::Whole(metainfo)) => {
                let torrent = Sidecars::of(&self.folders, &found.path).torrent_file().map(|(_, stamp)| stamp);
                self.offer(&name, Arc::new(metainfo), torrent, true);
            }
            Ok(Outcome::Partial) => {
                let waiting = self.known.remove(&name).map(|known| known.waiting).unwrap_or_default();
                for reply in waiting {
                    let reason = "it is not whole, and is fetched now as its .torrent says".to_owned();
                    let _ = reply.send(Err(AddError::NotOffered { name: name.clone(), reason }));
                }
                // Its torrent has no image now and asks for one.
                self.look_at = Instant::now();
            }
            Err(reason) => {
                let sidecars = Sidecars::of(&self.folders, &found.path);
                known.state = State::Left(sidecars.torrent_file().map(|(_, stamp)| stamp));
                known.progress = None;
                tracing::warn!(image = name, "is not offered: {reason}");
                for reply in std::mem::take(&mut known.waiting) {
                    let _ = reply.send(Err(AddError::NotOffered { name: name.clone(), reason: reason.clone() }));
                }
            }
        }
    }

    /// The MD5 of everything is known: `.full.sum`, and the torrent's comment if it has none.
    fn summed(&mut self, asked: &Asked, sum: Result<String, String>) {
        let Some(known) = self.known.get_mut(&asked.name) else { return };
        let State::Offered { metainfo, torrent, .. } = &mut known.state else { return };
        if known.found != asked.found {
            return;
        }
        let sidecars = Sidecars::of(&self.folders, &asked.found.path);
        let written = sum.and_then(|sum| {
            sidecars.write_full_sum(&sum).map_err(|e| e.to_string())?;
            let foreign = is_foreign(metainfo, &self.folders.host);
            if metainfo.comment().is_none() && !foreign && sidecars.torrent().exists() {
                let bytes = metainfo.to_bytes(metainfo.announce(), Some(&sum));
                sidecars.write_torrent(&bytes).map_err(|e| e.to_string())?;
                *torrent = sidecars.torrent_file().map(|(_, stamp)| stamp);
            }
            Ok(())
        });
        if let Err(e) = written {
            tracing::warn!(image = asked.name, "has no .full.sum: {e}");
        }
    }

    fn say_skipped(&mut self, listing: &Listing) {
        for (path, reason) in &listing.skipped {
            if self.skipped.get(path) != Some(reason) {
                tracing::warn!("{} is skipped: {reason}", path.display());
            }
        }
        self.skipped.clone_from(&listing.skipped);
    }

    fn watch(&mut self, listing: &Listing) {
        let Some(watcher) = &mut self.watcher else { return };
        let now: BTreeSet<PathBuf> = listing.folders.iter().cloned().collect();
        for folder in self.watched.difference(&now) {
            // The folder is gone, and its watch with it.
            let _ = watcher.unwatch(folder);
        }
        let mut watched = self.watched.intersection(&now).cloned().collect::<BTreeSet<_>>();
        for folder in now.difference(&self.watched) {
            match watcher.watch(folder, RecursiveMode::NonRecursive) {
                Ok(()) => drop(watched.insert(folder.clone())),
                Err(e) => tracing::warn!("cannot watch {}: {e}; it is read again now and then", folder.display()),
            }
        }
        let new = watched.difference(&self.watched).next().is_some();
        self.watched = watched;
        if new {
            // Between the reading and the watching something may have changed.
            let soon = Instant::now() + GATHER;
            self.look_at = self.look_at.min(soon);
        }
    }

    fn tell(&self, input: Input) {
        // A node that has ended is nobody to tell; `run` notices.
        let _ = self.events.blocking_send(Event::Input(input));
    }
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
