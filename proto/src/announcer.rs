//! Announces of this node to trackers that are not the mesh's: those that a torrent of somebody else names.
//!
//! Rule: for as long as a swarm is active here, its foreign trackers ([`foreign_tiers`]) are asked one at a time in the
//! order of BEP 12: tier by tier, each shuffled once, whoever answered goes to the front of its tier. A tracker hears
//! `started` first, `completed` at once, and `stopped` if it knows us. Its interval is obeyed, and its `min interval`
//! when pieces are missing that nobody has. When nobody answers, the list is tried again later and later.
//!
//! A UDP question is repeated after 15, 30 and 60 s (BEP 15); then the next tracker is asked. Each announce proves our
//! address anew, so there are no connection ids to keep.
//!
//! Not here: bytes of questions and answers (`wire::tracker_client`), sockets, our own tracker (`tracker`).

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::config::{NUMWANT_DEFAULT, TRACKER_GOODBYES_MAX, TRACKER_QUESTIONS_MAX, TRACKERS_PER_TORRENT_MAX};
use crate::id::{InfoHash, PeerId, RequestId, Time};
use crate::wire::control::NodeAnnounce;
use crate::wire::http_tracker::AnnounceEvent;
use crate::wire::metainfo::Metainfo;
use crate::wire::tracker_client::{
    BadUrl, Datagram, Question, Scheme, Told, TrackerUrl, Untold, connect_datagram, parse_body, parse_datagram,
};

/// A UDP question is repeated after this, doubling (BEP 15)...
const DATAGRAM_WAIT: Duration = Duration::from_secs(15);
/// ... so often before the next tracker is asked.
const DATAGRAM_TRIES: u32 = 3;
/// An HTTP question that the driver has not answered by then never will be; its own patience is shorter.
const GET_WAIT: Duration = Duration::from_secs(60);
/// After the whole list has failed; doubles each time.
const RETRY: Duration = Duration::from_secs(30);
const RETRY_MAX: Duration = Duration::from_secs(30 * 60);

/// The trackers in a torrent that are not the mesh's, in tiers.
///
/// The mesh's own are its host name, and in a torrent that names that, which the mesh has handed out, also the plain
/// addresses: those are what its nodes had then. What cannot be asked (https, nonsense) is left out; if nothing else is
/// there, people are told ([`Announcer::said`]).
pub fn foreign_tiers(metainfo: &Metainfo, mesh_host: &str) -> Vec<Vec<TrackerUrl>> {
    let parsed = metainfo.announce().iter().map(|tier| tier.iter().filter_map(|url| TrackerUrl::parse(url).ok()));
    let mut tiers: Vec<Vec<TrackerUrl>> = parsed.map(Iterator::collect).collect();
    let is_host = |url: &TrackerUrl| url.host.eq_ignore_ascii_case(mesh_host);
    let handed_out = tiers.iter().flatten().any(is_host);
    let was_ours = |url: &TrackerUrl| url.scheme == Scheme::Http && url.host.parse::<IpAddr>().is_ok();
    let mut room = TRACKERS_PER_TORRENT_MAX;
    for tier in &mut tiers {
        tier.retain(|url| !(is_host(url) || handed_out && was_ours(url)));
        tier.truncate(room);
        room -= tier.len();
    }
    tiers.retain(|tier| !tier.is_empty());
    tiers
}

/// Whether a torrent names a tracker that is not the mesh's, also one that cannot be asked.
pub fn is_foreign(metainfo: &Metainfo, mesh_host: &str) -> bool {
    not_spoken(metainfo).is_some() || !foreign_tiers(metainfo, mesh_host).is_empty()
}

/// Why the first of its trackers that is of a scheme we do not speak cannot be asked, in words for people. Paths and
/// queries are left out: they may be secrets.
fn not_spoken(metainfo: &Metainfo) -> Option<String> {
    metainfo.announce().iter().flatten().find_map(|url| {
        let bad = TrackerUrl::parse(url).err().filter(|bad| matches!(bad, BadUrl::NotSpoken(_)))?;
        let (scheme, rest) = url.split_once("://")?;
        let place = rest.split(['/', '?', '#']).next()?.rsplit('@').next()?;
        Some(format!("{scheme}://{place}: {bad}"))
    })
}

/// What is sent to a tracker.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Request {
    /// A `GET` of this path and query.
    Get(String),
    /// A datagram.
    Datagram(Vec<u8>),
}

/// What a tracker sent back: the body of an answer with status 200, or a datagram.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Answer {
    /// Who sent it; its family decides how peers are written over UDP.
    pub from: IpAddr,
    /// Unchecked.
    pub bytes: Vec<u8>,
}

/// What happens.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// A swarm announces, wherever to; the first time, the last time, and regularly.
    Swarm {
        /// What it says.
        announce: NodeAnnounce,
        /// Whose trackers these are.
        metainfo: Arc<Metainfo>,
    },
    /// An answer to [`Output::Ask`], or why there is none.
    Said {
        /// Which question.
        id: RequestId,
        /// The answer, or words for people.
        result: Result<Answer, String>,
    },
    /// The tracker of [`Output::Ask`] is a node of this mesh, which is told by other ways: it is not asked.
    Ours(RequestId),
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Ask a tracker; the same `id` again for the same exchange.
    Ask {
        /// Joins the answer.
        id: RequestId,
        /// Whom.
        tracker: TrackerUrl,
        /// What.
        request: Request,
    },
    /// The exchange is over; a later answer is of no use.
    Done(RequestId),
    /// A tracker named these.
    Peers {
        /// Of which image.
        info_hash: InfoHash,
        /// Where they listen.
        peers: Vec<SocketAddr>,
    },
}

/// One tracker of a torrent.
#[derive(Debug)]
struct Tracker {
    url: TrackerUrl,
    /// It has heard `started`.
    knows_us: bool,
    /// What it wants back.
    id: Option<Vec<u8>>,
}

/// One image that others track.
#[derive(Debug)]
struct Swarm {
    tiers: Vec<Vec<Tracker>>,
    /// Tier and place in it of the one to ask next, or that is being asked.
    cursor: (usize, usize),
    announce: NodeAnnounce,
    /// To be told.
    completed: bool,
    asked: Option<RequestId>,
    due: Time,
    /// Not before this, by a tracker's own words.
    earliest: Time,
    /// Times that nobody of the list has answered, since somebody did.
    failures: u32,
    /// How it stands, for people.
    said: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Get,
    Connect,
    Announce(u64),
}

/// A question that waits for its answer.
#[derive(Debug)]
struct Exchange {
    url: TrackerUrl,
    question: Question,
    step: Step,
    transaction: u32,
    tries: u32,
    deadline: Time,
    /// Nobody waits for the answer.
    goodbye: bool,
}

impl Exchange {
    fn request(&self) -> Request {
        match self.step {
            Step::Get => Request::Get(self.question.target(&self.url)),
            Step::Connect => Request::Datagram(connect_datagram(self.transaction)),
            Step::Announce(id) => Request::Datagram(self.question.datagram(id, self.transaction, &self.url)),
        }
    }
}

/// The client of other people's trackers. Verbs, outputs and getters as [`crate::io`] explains.
#[derive(Debug)]
pub struct Announcer {
    me: PeerId,
    port: u16,
    mesh_host: String,
    key: u32,
    rng: ChaCha8Rng,
    swarms: BTreeMap<InfoHash, Swarm>,
    exchanges: BTreeMap<RequestId, Exchange>,
    next_id: u64,
    next_timeout: Option<Time>,
    outputs: VecDeque<Output>,
}

impl Announcer {
    /// With nobody to ask. `port` is where peers reach this node, `mesh_host` the mesh's host name.
    pub fn new(me: PeerId, port: u16, mesh_host: String, seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        Self {
            me,
            port,
            mesh_host,
            key: rng.next_u32(),
            rng,
            swarms: BTreeMap::new(),
            exchanges: BTreeMap::new(),
            next_id: 0,
            next_timeout: None,
            outputs: VecDeque::new(),
        }
    }

    /// Something happened.
    pub fn handle_input(&mut self, now: Time, input: Input) {
        match input {
            Input::Swarm { announce, .. } if announce.leaving => self.leave(now, &announce),
            Input::Swarm { announce, metainfo } => self.hear_swarm(now, announce, &metainfo),
            Input::Said { id, result } => self.hear_tracker(now, id, result),
            Input::Ours(id) => self.forget_tracker(now, id),
        }
        self.handle_timeout(now);
    }

    /// The deadline of [`Self::poll_timeout`] has come.
    pub fn handle_timeout(&mut self, now: Time) {
        let overdue: Vec<RequestId> =
            self.exchanges.iter().filter(|(_, e)| e.deadline <= now).map(|(id, _)| *id).collect();
        for id in overdue {
            self.overdue(now, id);
        }
        let asking = self.exchanges.values().filter(|e| !e.goodbye).count();
        let mut due: Vec<(Time, InfoHash)> =
            self.swarms.iter().filter(|(_, s)| s.asked.is_none() && s.due <= now).map(|(h, s)| (s.due, *h)).collect();
        due.sort_unstable();
        for (_, info_hash) in due.into_iter().take(TRACKER_QUESTIONS_MAX.saturating_sub(asking)) {
            self.ask(now, &info_hash);
        }
        self.next_timeout = self.earliest();
    }

    /// What is to be done, oldest first.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When it wants to be woken, and why.
    pub fn poll_timeout(&self) -> Option<(Time, &'static str)> {
        self.next_timeout.map(|at| (at, "announcer: ask a tracker of others"))
    }

    /// What the tracker of an image said last, for people.
    pub fn said(&self, info_hash: &InfoHash) -> Option<&str> {
        self.swarms.get(info_hash)?.said.as_deref()
    }

    fn earliest(&self) -> Option<Time> {
        let asking = self.exchanges.values().filter(|e| !e.goodbye).count();
        let free = |swarm: &&Swarm| swarm.asked.is_none() && asking < TRACKER_QUESTIONS_MAX;
        let due = self.swarms.values().filter(free).map(|s| s.due);
        due.chain(self.exchanges.values().map(|e| e.deadline)).min().filter(|at| *at < Time::NEVER)
    }

    fn hear_swarm(&mut self, now: Time, announce: NodeAnnounce, metainfo: &Metainfo) {
        let info_hash = metainfo.info_hash();
        if let Some(swarm) = self.swarms.get_mut(&info_hash) {
            if announce.completed {
                swarm.completed = true;
                swarm.due = now;
            }
            if announce.starving {
                swarm.due = swarm.due.min(swarm.earliest.max(now));
            }
            swarm.announce = announce;
            return;
        }
        let mut tiers = foreign_tiers(metainfo, &self.mesh_host);
        let cannot = not_spoken(metainfo).filter(|_| tiers.is_empty());
        if tiers.is_empty() && cannot.is_none() {
            return;
        }
        if let Some(reason) = &cannot {
            tracing::warn!(%info_hash, "no tracker of its torrent can be asked: {reason}");
        }
        for tier in &mut tiers {
            for at in (1..tier.len()).rev() {
                tier.swap(at, (self.rng.next_u64() % (at as u64 + 1)) as usize);
            }
        }
        let tracker = |url| Tracker { url, knows_us: false, id: None };
        let swarm = Swarm {
            tiers: tiers.into_iter().map(|tier| tier.into_iter().map(tracker).collect()).collect(),
            cursor: (0, 0),
            announce,
            completed: false,
            asked: None,
            due: now,
            earliest: now,
            failures: 0,
            said: cannot,
        };
        self.swarms.insert(info_hash, swarm);
    }

    /// Asks the tracker at the cursor.
    fn ask(&mut self, now: Time, info_hash: &InfoHash) {
        let Some(swarm) = self.swarms.get_mut(info_hash) else { return };
        let (tier, at) = swarm.cursor;
        let Some(tracker) = swarm.tiers.get(tier).and_then(|tier| tier.get(at)) else {
            // None is left.
            swarm.due = Time::NEVER;
            return;
        };
        let event = match tracker.knows_us {
            false => AnnounceEvent::Started,
            true if swarm.completed => AnnounceEvent::Completed,
            true => AnnounceEvent::None,
        };
        let (url, announce, tracker_id) = (tracker.url.clone(), swarm.announce, tracker.id.clone());
        let question = self.question(&announce, event, tracker_id);
        let id = self.begin(now, url, question, false);
        if let Some(swarm) = self.swarms.get_mut(info_hash) {
            swarm.asked = Some(id);
        }
    }

    fn question(&self, announce: &NodeAnnounce, event: AnnounceEvent, tracker_id: Option<Vec<u8>>) -> Question {
        Question {
            info_hash: announce.info_hash,
            peer_id: self.me,
            port: self.port,
            uploaded: announce.uploaded,
            downloaded: announce.downloaded,
            left: announce.left,
            event,
            numwant: if event == AnnounceEvent::Stopped { 0 } else { NUMWANT_DEFAULT as u32 },
            key: self.key,
            tracker_id,
        }
    }

    fn begin(&mut self, now: Time, url: TrackerUrl, question: Question, goodbye: bool) -> RequestId {
        self.next_id += 1;
        let id = RequestId(self.next_id);
        let (step, wait) = match url.scheme {
            Scheme::Http => (Step::Get, GET_WAIT),
            Scheme::Udp => (Step::Connect, DATAGRAM_WAIT),
        };
        let transaction = self.rng.next_u32();
        let exchange = Exchange { url, question, step, transaction, tries: 1, deadline: now + wait, goodbye };
        self.send(id, &exchange);
        self.exchanges.insert(id, exchange);
        id
    }

    fn send(&mut self, id: RequestId, exchange: &Exchange) {
        let (tracker, request) = (exchange.url.clone(), exchange.request());
        self.outputs.push_back(Output::Ask { id, tracker, request });
    }

    fn end(&mut self, id: RequestId) -> Option<Exchange> {
        let exchange = self.exchanges.remove(&id)?;
        self.outputs.push_back(Output::Done(id));
        Some(exchange)
    }

    fn hear_tracker(&mut self, now: Time, id: RequestId, result: Result<Answer, String>) {
        let Some(exchange) = self.exchanges.get_mut(&id) else { return };
        let answer = match result {
            Ok(answer) => answer,
            Err(reason) => return self.failed(now, id, reason, None),
        };
        if exchange.step == Step::Get {
            return match parse_body(&answer.bytes) {
                Ok(told) => self.told(now, id, told),
                Err(untold) => {
                    let retry_in = match &untold {
                        Untold::Failure { retry_in, .. } => *retry_in,
                        _ => None,
                    };
                    self.failed(now, id, untold.to_string(), retry_in);
                }
            };
        }
        match (exchange.step, parse_datagram(&answer.bytes, answer.from)) {
            // An old answer, or something else: the right one may still come.
            (_, Some((transaction, _))) if transaction != exchange.transaction => {}
            (Step::Connect, Some((_, Datagram::Connected(connection)))) => {
                exchange.step = Step::Announce(connection);
                exchange.transaction = self.rng.next_u32();
                (exchange.tries, exchange.deadline) = (1, now + DATAGRAM_WAIT);
                let (tracker, request) = (exchange.url.clone(), exchange.request());
                self.outputs.push_back(Output::Ask { id, tracker, request });
            }
            (Step::Announce(_), Some((_, Datagram::Told(told)))) => self.told(now, id, told),
            (_, Some((_, Datagram::Error(reason)))) => self.failed(now, id, format!("it says: {reason}"), None),
            _ => {}
        }
    }

    /// The tracker has answered.
    fn told(&mut self, now: Time, id: RequestId, mut told: Told) {
        let Some(exchange) = self.end(id) else { return };
        let info_hash = exchange.question.info_hash;
        let Some(swarm) = self.swarms.get_mut(&info_hash).filter(|swarm| swarm.asked == Some(id)) else { return };
        let (tier, at) = swarm.cursor;
        swarm.asked = None;
        let tracker = &mut swarm.tiers[tier][at];
        tracker.knows_us = true;
        tracker.id = told.tracker_id.or(tracker.id.take());
        swarm.tiers[tier][..=at].rotate_right(1);
        (swarm.cursor, swarm.failures) = ((0, 0), 0);
        let told_completed = exchange.question.event != AnnounceEvent::None && exchange.question.left == 0;
        swarm.completed &= !told_completed;
        swarm.earliest = now + told.min_interval.unwrap_or(told.interval);
        swarm.due = if swarm.completed { now } else { now + told.interval.max(told.min_interval.unwrap_or_default()) };
        let (seeds, others) = (told.complete.unwrap_or_default(), told.incomplete.unwrap_or_default());
        let warning = told.warning.map(|words| format!(" ({words})")).unwrap_or_default();
        if exchange.question.event == AnnounceEvent::Started {
            tracing::info!(%info_hash, tracker = %exchange.url, peers = told.peers.len(), "its tracker answers{warning}");
        }
        swarm.said = Some(format!("{}: {seeds} complete, {others} downloading{warning}", exchange.url));
        told.peers.retain(|peer| Some(peer.ip()) != told.external || peer.port() != self.port);
        self.outputs.push_back(Output::Peers { info_hash, peers: told.peers });
    }

    /// It has not, or says no: the next one is asked, or all of them again later.
    fn failed(&mut self, now: Time, id: RequestId, reason: String, retry_in: Option<Duration>) {
        let Some(exchange) = self.end(id) else { return };
        let info_hash = exchange.question.info_hash;
        let Some(swarm) = self.swarms.get_mut(&info_hash).filter(|swarm| swarm.asked == Some(id)) else { return };
        swarm.asked = None;
        let said = format!("{}: {reason}", exchange.url);
        if swarm.said.as_ref() != Some(&said) {
            tracing::info!(%info_hash, tracker = %exchange.url, "its tracker is of no use now: {reason}");
            swarm.said = Some(said);
        }
        let (tier, at) = swarm.cursor;
        swarm.cursor = if at + 1 < swarm.tiers[tier].len() { (tier, at + 1) } else { (tier + 1, 0) };
        swarm.due = now;
        if swarm.cursor.0 >= swarm.tiers.len() {
            swarm.cursor = (0, 0);
            let pause = (RETRY * 2u32.saturating_pow(swarm.failures.min(10))).min(RETRY_MAX);
            swarm.failures = swarm.failures.saturating_add(1);
            swarm.due = now + pause.max(retry_in.unwrap_or_default());
            swarm.earliest = swarm.due;
        }
    }

    /// It is a node of the mesh after all.
    fn forget_tracker(&mut self, now: Time, id: RequestId) {
        let Some(exchange) = self.end(id) else { return };
        let Some(swarm) = self.swarms.get_mut(&exchange.question.info_hash) else { return };
        for tier in &mut swarm.tiers {
            tier.retain(|tracker| tracker.url != exchange.url);
        }
        swarm.tiers.retain(|tier| !tier.is_empty());
        (swarm.asked, swarm.cursor, swarm.due) = (None, (0, 0), now);
    }

    fn overdue(&mut self, now: Time, id: RequestId) {
        let Some(exchange) = self.exchanges.get_mut(&id) else { return };
        if exchange.step == Step::Get || exchange.tries >= DATAGRAM_TRIES || exchange.goodbye {
            return self.failed(now, id, "no answer".to_owned(), None);
        }
        exchange.deadline = now + DATAGRAM_WAIT * 2u32.saturating_pow(exchange.tries);
        exchange.tries += 1;
        let (tracker, request) = (exchange.url.clone(), exchange.request());
        self.outputs.push_back(Output::Ask { id, tracker, request });
    }

    /// The swarm is not active any more: whoever knows us is told.
    fn leave(&mut self, now: Time, announce: &NodeAnnounce) {
        let Some(swarm) = self.swarms.remove(&announce.info_hash) else { return };
        let asked = swarm.asked.and_then(|id| self.end(id)).map(|exchange| exchange.url);
        for tracker in swarm.tiers.into_iter().flatten() {
            // One that was being asked may know us by now.
            if tracker.knows_us || asked.as_ref() == Some(&tracker.url) {
                let goodbyes = self.exchanges.iter().filter(|(_, e)| e.goodbye);
                if goodbyes.clone().count() >= TRACKER_GOODBYES_MAX
                    && let Some((oldest, _)) = goodbyes.min_by_key(|(id, _)| **id)
                {
                    let oldest = *oldest;
                    self.end(oldest);
                }
                let question = self.question(announce, AnnounceEvent::Stopped, tracker.id);
                self.begin(now, tracker.url, question, true);
            }
        }
    }
}

#[cfg(test)]
mod tests;
