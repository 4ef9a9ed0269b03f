//! Local service discovery (BEP 14): clients of this LAN find this node without a tracker, and it finds them.
//!
//! Rule: every active swarm that is not private is announced every five minutes, one datagram a minute at most, each
//! with a fifth of the swarms: up to five they go one by one, since Transmission and aria2 understand no more than one.
//! A swarm that begins to fetch is announced at once. Whoever announces a swarm that is active here is a stranger to
//! dial, but for the nodes of this mesh, which know each other from its tracker: all of them use one cookie, and
//! announces with that are passed over.
//!
//! Not here: bytes (`wire::lsd`), sockets, what becomes of a stranger (`swarm`).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};

use crate::config::{LSD_EVERY, LSD_PAUSE, LSD_PAUSE_FETCHING};
use crate::id::{InfoHash, Time};
use crate::wire::lsd::{Announce, HASHES_MAX};

/// Swarms are spread over so many datagrams: one a minute in [`LSD_EVERY`].
const SHARES: usize = 5;
/// When a swarm that begins to fetch is due: before all others.
const AT_ONCE: Time = Time(0);

/// What happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A swarm takes part, or still does.
    Active {
        /// Which.
        info_hash: InfoHash,
        /// Pieces are missing.
        fetching: bool,
    },
    /// A swarm takes no part any more.
    Left(InfoHash),
    /// This node has another address, or one at last: nobody has heard of it there.
    Moved,
    /// Somebody in this LAN announced.
    Heard {
        /// The datagram's source.
        from: IpAddr,
        /// What it said.
        announce: Announce,
    },
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Multicast this.
    Announce(Announce),
    /// Somebody of this LAN takes part in that swarm.
    Peer {
        /// Of which image.
        info_hash: InfoHash,
        /// Where it listens.
        addr: SocketAddr,
    },
}

/// Who is announced when. Verbs and outputs as [`crate::io`] explains.
#[derive(Debug)]
pub struct Lsd {
    port: u16,
    /// `None`: switched off.
    cookie: Option<String>,
    /// When each active swarm is due; `queue` has the same in order.
    due: BTreeMap<InfoHash, Time>,
    queue: BTreeSet<(Time, InfoHash)>,
    said_at: Option<Time>,
    outputs: VecDeque<Output>,
}

impl Lsd {
    /// With nothing to announce. `port` is where peers reach this node, `cookie` what the announces of its mesh carry;
    /// without one it neither says nor hears anything.
    pub fn new(port: u16, cookie: Option<String>) -> Self {
        let (due, queue) = (BTreeMap::new(), BTreeSet::new());
        Self { port, cookie, due, queue, said_at: None, outputs: VecDeque::new() }
    }

    /// Something happened.
    pub fn handle_input(&mut self, now: Time, input: Input) {
        if self.cookie.is_none() {
            return;
        }
        match input {
            Input::Active { info_hash, fetching } => {
                if !self.due.contains_key(&info_hash) {
                    self.set_due(info_hash, if fetching { AT_ONCE } else { now });
                }
                self.handle_timeout(now);
            }
            Input::Left(info_hash) => {
                if let Some(due) = self.due.remove(&info_hash) {
                    self.queue.remove(&(due, info_hash));
                }
            }
            Input::Moved => {
                let all: Vec<InfoHash> =
                    self.due.iter().filter(|(_, due)| **due > now).map(|(hash, _)| *hash).collect();
                all.into_iter().for_each(|info_hash| self.set_due(info_hash, now));
                self.handle_timeout(now);
            }
            Input::Heard { from, announce } => self.hear(from, &announce),
        }
    }

    /// The deadline of [`Self::poll_timeout`] has come.
    pub fn handle_timeout(&mut self, now: Time) {
        let Some(cookie) = self.cookie.clone().filter(|_| self.next().is_some_and(|at| at <= now)) else { return };
        let hurry = self.queue.first().is_some_and(|(due, _)| *due == AT_ONCE);
        let until = if hurry { AT_ONCE } else { now };
        let most = if hurry { HASHES_MAX } else { self.due.len().div_ceil(SHARES).min(HASHES_MAX) };
        let due = self.queue.iter().take_while(|(due, _)| *due <= until);
        let info_hashes: Vec<InfoHash> = due.take(most).map(|(_, info_hash)| *info_hash).collect();
        for info_hash in &info_hashes {
            self.set_due(*info_hash, now + LSD_EVERY);
        }
        self.said_at = Some(now);
        self.outputs.push_back(Output::Announce(Announce { port: self.port, info_hashes, cookie: Some(cookie) }));
    }

    /// What is to be done, oldest first.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When it wants to be woken, and why.
    pub fn poll_timeout(&self) -> Option<(Time, &'static str)> {
        self.next().map(|at| (at, "local discovery: announce"))
    }

    /// When the next datagram goes.
    fn next(&self) -> Option<Time> {
        let (due, _) = self.queue.first()?;
        let pause = if *due == AT_ONCE { LSD_PAUSE_FETCHING } else { LSD_PAUSE };
        Some(self.said_at.map_or(*due, |said| (said + pause).max(*due)))
    }

    fn set_due(&mut self, info_hash: InfoHash, due: Time) {
        if let Some(before) = self.due.insert(info_hash, due) {
            self.queue.remove(&(before, info_hash));
        }
        self.queue.insert((due, info_hash));
    }

    fn hear(&mut self, from: IpAddr, announce: &Announce) {
        if announce.cookie == self.cookie {
            return;
        }
        let addr = SocketAddr::new(from, announce.port);
        for info_hash in announce.info_hashes.iter().filter(|hash| self.due.contains_key(*hash)) {
            self.outputs.push_back(Output::Peer { info_hash: *info_hash, addr });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const COOKIE: &str = "0123456789abcdef";

    fn hash(n: u32) -> InfoHash {
        let mut bytes = [0; 20];
        bytes[..4].copy_from_slice(&n.to_be_bytes());
        InfoHash(bytes)
    }

    fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    struct Desk {
        lsd: Lsd,
        now: Time,
        /// Seconds since the start, and the swarms of each datagram.
        said: Vec<(u64, Vec<InfoHash>)>,
        peers: Vec<(InfoHash, SocketAddr)>,
    }

    const START: Time = Time(1_000_000_000_000);

    impl Desk {
        fn new(cookie: Option<&str>) -> Self {
            let lsd = Lsd::new(6881, cookie.map(str::to_owned));
            Self { lsd, now: START, said: Vec::new(), peers: Vec::new() }
        }

        fn drain(&mut self) {
            while let Some(output) = self.lsd.poll_output() {
                match output {
                    Output::Announce(announce) => {
                        assert_eq!((announce.port, announce.cookie.as_deref()), (6881, Some(COOKIE)));
                        self.said.push((self.now.since(START).as_secs(), announce.info_hashes));
                    }
                    Output::Peer { info_hash, addr } => self.peers.push((info_hash, addr)),
                }
            }
        }

        fn active(&mut self, n: u32, fetching: bool) {
            self.lsd.handle_input(self.now, Input::Active { info_hash: hash(n), fetching });
            self.drain();
        }

        fn hear(&mut self, cookie: Option<&str>, hashes: &[u32]) {
            let info_hashes = hashes.iter().map(|n| hash(*n)).collect();
            let announce = Announce { port: 51413, info_hashes, cookie: cookie.map(str::to_owned) };
            self.lsd.handle_input(self.now, Input::Heard { from: [10, 0, 0, 9].into(), announce });
            self.drain();
        }

        fn run(&mut self, time: Duration) {
            let end = self.now + time;
            while let Some((at, _)) = self.lsd.poll_timeout().filter(|(at, _)| *at <= end) {
                self.now = self.now.max(at);
                self.lsd.handle_timeout(self.now);
                self.drain();
            }
            self.now = end;
        }
    }

    #[test]
    fn a_swarm_is_announced_at_once_and_every_five_minutes_until_it_ends() {
        let mut desk = Desk::new(Some(COOKIE));
        desk.active(1, false);
        desk.active(1, false);
        assert_eq!(desk.said, [(0, vec![hash(1)])]);
        desk.run(secs(650));
        assert_eq!(desk.said[1..], [(300, vec![hash(1)]), (600, vec![hash(1)])]);
        desk.lsd.handle_input(desk.now, Input::Left(hash(1)));
        assert_eq!(desk.lsd.poll_timeout(), None);
    }

    #[test]
    fn up_to_five_swarms_go_one_by_one_each_minute() {
        let mut desk = Desk::new(Some(COOKIE));
        (0..5).for_each(|n| desk.active(n, false));
        desk.run(secs(3600));
        let expected: Vec<_> = (0..=60).map(|minute| (minute * 60, vec![hash(minute as u32 % 5)])).collect();
        assert_eq!(desk.said, expected);
    }

    #[test]
    fn a_hundred_are_all_said_in_five_minutes_and_five_hundred_in_turn() {
        let mut desk = Desk::new(Some(COOKIE));
        (0..100).for_each(|n| desk.active(n, false));
        desk.run(secs(359));
        let said: BTreeSet<InfoHash> = desk.said.iter().flat_map(|(_, hashes)| hashes.clone()).collect();
        assert_eq!((said.len(), desk.said.len()), (100, 6), "the first was alone then");
        (100..500).for_each(|n| desk.active(n, false));
        let before = desk.said.len();
        desk.run(secs(23 * 60));
        let later = &desk.said[before..];
        assert!(later.iter().all(|(_, hashes)| hashes.len() <= HASHES_MAX));
        assert!(later.windows(2).all(|w| w[1].0 - w[0].0 >= 60), "one a minute");
        let said: BTreeSet<InfoHash> = later.iter().flat_map(|(_, hashes)| hashes.clone()).collect();
        assert_eq!(said.len(), 500);
    }

    #[test]
    fn what_begins_to_fetch_does_not_wait_for_the_minute() {
        let mut desk = Desk::new(Some(COOKIE));
        desk.active(1, false);
        desk.active(2, false);
        desk.run(secs(2));
        desk.active(3, true);
        desk.active(4, true);
        desk.run(secs(78));
        assert_eq!(desk.said, [(0, vec![hash(1)]), (5, vec![hash(3), hash(4)]), (65, vec![hash(2)])]);
        desk.active(3, true);
        desk.run(secs(40));
        assert_eq!(desk.said.len(), 3, "it has begun long ago");
    }

    #[test]
    fn at_a_new_address_everything_is_announced_anew() {
        let mut desk = Desk::new(Some(COOKIE));
        desk.active(1, false);
        desk.run(secs(100));
        desk.lsd.handle_input(desk.now, Input::Moved);
        desk.drain();
        assert_eq!(desk.said, [(0, vec![hash(1)]), (100, vec![hash(1)])]);
    }

    #[test]
    fn who_announces_an_active_swarm_is_told_of_but_for_our_own_mesh() {
        let mut desk = Desk::new(Some(COOKIE));
        desk.active(1, false);
        desk.active(2, true);
        desk.hear(Some(COOKIE), &[1, 2]);
        assert_eq!(desk.peers, []);
        desk.hear(Some("5bd1e995"), &[1, 3, 2]);
        desk.hear(None, &[3]);
        let addr = ([10, 0, 0, 9], 51413).into();
        assert_eq!(desk.peers, [(hash(1), addr), (hash(2), addr)]);
        desk.lsd.handle_input(desk.now, Input::Left(hash(1)));
        desk.hear(None, &[1]);
        assert_eq!(desk.peers.len(), 2);
    }

    #[test]
    fn switched_off_it_neither_says_nor_hears() {
        let mut desk = Desk::new(None);
        desk.active(1, true);
        desk.hear(None, &[1]);
        desk.run(secs(3600));
        assert!(desk.said.is_empty() && desk.peers.is_empty());
        assert_eq!(desk.lsd.poll_timeout(), None);
    }
}
