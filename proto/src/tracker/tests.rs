//! The tracker as its node sees it: announces in, answers, pushes and wake-ups out.

use std::net::IpAddr;
use std::time::Duration;

use proptest::prelude::*;

use super::foreign::{pass_on, passed_back};
use super::keeping::KeptClient;
use super::*;
use crate::config::{
    ANNOUNCE_EXPIRY, ANNOUNCE_INTERVAL, BOOK_PEERS_MAX, BOOK_PEERS_PER_ADDRESS, BOOK_REPLICA_CLIENTS,
    BOOK_REPLICATE_EVERY, BOOK_SAVE_EVERY, Mode, WAKE_AGAIN,
};
use crate::id::PeerId;
use crate::neighbours::{DEGREE_MAX, DEGREE_MIN};
use crate::wire::control::{ForeignPeer, ForeignRefused, Message, Neighbour};
use crate::wire::http_tracker::{AnnounceEvent, TrackedPeer};

const IMAGE: InfoHash = InfoHash([1; 20]);
const OTHER: InfoHash = InfoHash([2; 20]);
const ME: u16 = 0;

fn node(n: u16) -> NodeId {
    let mut bytes = [0; 32];
    bytes[..2].copy_from_slice(&n.to_be_bytes());
    NodeId(bytes)
}

fn contact(n: u16) -> Contact {
    let [high, low] = n.to_be_bytes();
    let addr = SocketAddr::from(([10, 0, high, low], 6881));
    Contact { node: node(n), addr, site: Site::named(""), weight: Weight::DEFAULT }
}

fn left(left: u64) -> NodeAnnounce {
    NodeAnnounce {
        info_hash: IMAGE,
        mode: Mode::Peer,
        left,
        uploaded: 0,
        downloaded: 0,
        leaving: false,
        completed: false,
        starving: false,
    }
}

fn client(addr: &str, left: u64, event: AnnounceEvent) -> Announce {
    let addr: SocketAddr = addr.parse().unwrap();
    Announce {
        info_hash: IMAGE,
        peer_id: PeerId([b'c'; 20]),
        source: addr.ip(),
        port: addr.port(),
        uploaded: 0,
        downloaded: 0,
        left,
        event,
        numwant: None,
        compact: true,
        no_peer_id: false,
    }
}

/// A tracker, a clock, and everything it ever asked for.
struct Desk {
    tracker: Tracker,
    now: Time,
    outputs: Vec<Output>,
    replicas: Vec<BookReplica>,
}

impl Desk {
    /// The master's, with one image in the catalogue.
    fn new() -> Self {
        let mut desk = Self::replica();
        desk.input(Input::BecameMaster);
        desk
    }

    fn replica() -> Self {
        let mut desk = Self::with(TrackerConfig::default());
        desk.input(Input::Tracked { info_hash: IMAGE, downloaded: 0 });
        desk
    }

    fn with(config: TrackerConfig) -> Self {
        let tracker = Tracker::new(node(ME), 7, config);
        Self { tracker, now: Time(1 << 40), outputs: Vec::new(), replicas: Vec::new() }
    }

    /// A master that looks before it hands out.
    fn checking() -> Self {
        let mut desk = Self::with(TrackerConfig { nat_check: 3, ..TrackerConfig::default() });
        desk.input(Input::Tracked { info_hash: IMAGE, downloaded: 0 });
        desk.input(Input::BecameMaster);
        desk
    }

    fn input(&mut self, input: Input) {
        self.tracker.handle_input(self.now, input);
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(output) = self.tracker.poll_output() {
            if output == Output::Replicate {
                self.replicas.push(self.tracker.replica());
            }
            self.outputs.push(output);
        }
    }

    /// Lets time go by as a driver does, from deadline to deadline.
    fn advance(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some((at, reason)) = self.tracker.poll_timeout().filter(|(at, _)| *at <= end) {
            self.now = self.now.max(at);
            self.tracker.handle_timeout(self.now);
            self.drain();
            assert!(self.tracker.poll_timeout().is_none_or(|(at, _)| at > self.now), "{reason} does not move on");
        }
        self.now = end;
    }

    fn announce(&mut self, n: u16, announce: NodeAnnounce) {
        self.input(Input::NodeAnnounce { from: contact(n), announce });
    }

    fn settle(&mut self) {
        self.advance(REGROUP_EVERY);
    }

    /// What a foreign client is told.
    fn ask(&mut self, announce: Announce) -> Result<Announced, &'static str> {
        self.input(Input::Announce { id: RequestId(1), announce });
        match self.outputs.iter().rev().find(|o| matches!(o, Output::Announced { .. })) {
            Some(Output::Announced { result, .. }) => result.clone(),
            other => panic!("no answer: {other:?}"),
        }
    }

    /// What a node was told last.
    fn told(&self, n: u16) -> Neighbours {
        let news = self.outputs.iter().rev().find_map(|output| match output {
            Output::Neighbours { to, neighbours } if *to == node(n) => Some(neighbours.clone()),
            _ => None,
        });
        news.unwrap_or_else(|| panic!("node {n} was told nothing"))
    }

    fn tellings(&self) -> usize {
        self.outputs.iter().filter(|o| matches!(o, Output::Neighbours { .. })).count()
    }

    fn woken(&self) -> Vec<NodeId> {
        let woken = |output: &Output| match output {
            Output::Wake { node, .. } => Some(*node),
            _ => None,
        };
        self.outputs.iter().filter_map(woken).collect()
    }

    #[track_caller]
    fn check_counts(&self, complete: u32, incomplete: u32, downloaded: u64) {
        assert_eq!(self.tracker.counts(&IMAGE), (complete, incomplete));
        assert_eq!(self.tracker.downloaded(&IMAGE), downloaded);
    }
}

fn names(neighbours: &Neighbours) -> Vec<u16> {
    let number = |n: NodeId| u16::from_be_bytes([n.0[0], n.0[1]]);
    let mut names: Vec<u16> = neighbours.neighbours.iter().filter_map(|n| n.node.map(number)).collect();
    names.sort_unstable();
    names
}

// ---- our own nodes

#[test]
fn the_first_node_is_answered_at_once_and_the_late_joiner_is_known_at_once() {
    let mut desk = Desk::new();
    desk.announce(ME, left(0));
    assert_eq!(names(&desk.told(ME)), []);
    desk.advance(Duration::from_secs(3));
    desk.announce(1, left(5));
    assert_eq!(names(&desk.told(ME)), [1]);
    assert_eq!((names(&desk.told(1)), desk.told(1).complete, desk.told(1).incomplete), (vec![ME], 1, 1));
}

#[test]
fn thirty_joins_at_once_are_two_rounds_of_news() {
    let mut desk = Desk::new();
    for n in 0..30 {
        desk.announce(n, left(u64::from(n)));
    }
    desk.settle();
    assert!(desk.tellings() <= 31, "{}", desk.tellings());
    for n in 0..30 {
        let told = names(&desk.told(n));
        assert!((DEGREE_MIN..=DEGREE_MAX).contains(&told.len()));
        assert!(told.iter().all(|other| names(&desk.told(*other)).contains(&n)), "{n}");
    }
}

#[test]
fn an_announce_that_changes_nothing_is_answered_at_once_and_told_to_nobody_else() {
    let mut desk = Desk::new();
    for n in 0..5 {
        desk.announce(n, left(9));
    }
    desk.settle();
    let before = desk.tellings();
    desk.announce(3, left(8));
    assert_eq!(desk.tellings(), before + 1);
    assert_eq!(names(&desk.told(3)), [0, 1, 2, 4]);
}

#[test]
fn a_node_that_is_gone_or_leaves_is_no_neighbour_any_more() {
    let mut desk = Desk::new();
    for n in 0..4 {
        desk.announce(n, left(9));
    }
    desk.settle();
    desk.input(Input::NodeGone(node(2)));
    desk.settle();
    assert_eq!(names(&desk.told(0)), [1, 3]);
    desk.announce(1, NodeAnnounce { leaving: true, ..left(9) });
    desk.settle();
    assert_eq!(names(&desk.told(0)), [3]);
    desk.check_counts(0, 2, 0);
}

#[test]
fn a_node_stays_though_two_of_its_announces_were_lost() {
    let mut desk = Desk::new();
    desk.announce(1, left(9));
    desk.advance(3 * ANNOUNCE_INTERVAL);
    desk.check_counts(0, 1, 0);
}

#[test]
fn a_node_that_moved_is_told_anew_to_its_neighbours() {
    let mut desk = Desk::new();
    desk.announce(1, left(9));
    desk.announce(2, left(9));
    desk.settle();
    let moved = Contact { addr: "10.9.9.9:1".parse().unwrap(), ..contact(2) };
    desk.input(Input::NodeAnnounce { from: moved, announce: left(9) });
    desk.settle();
    assert_eq!(desk.told(1).neighbours[0].addr, moved.addr);
    desk.check_counts(0, 2, 0);
}

#[test]
fn whole_copies_are_not_told_of_each_other() {
    let mut desk = Desk::new();
    for n in 0..3 {
        desk.announce(n, left(0));
    }
    desk.announce(3, left(9));
    desk.settle();
    assert_eq!(names(&desk.told(3)), [0, 1, 2]);
    assert_eq!(names(&desk.told(1)), [3]);
}

#[test]
fn everybody_stays_while_somebody_misses_a_piece_then_the_master_and_the_best_other() {
    let mut desk = Desk::new();
    for n in 0..5 {
        let weight = Weight::try_from(if n == 3 { 60 } else { 50 }).unwrap();
        desk.input(Input::NodeAnnounce { from: Contact { weight, ..contact(n) }, announce: left(0) });
    }
    desk.announce(9, left(1));
    desk.settle();
    assert!([0, 1, 2, 3, 4, 9].iter().all(|n| desk.told(*n).stay));
    desk.announce(9, NodeAnnounce { completed: true, ..left(0) });
    desk.settle();
    let staying: Vec<u16> = [0, 1, 2, 3, 4, 9].into_iter().filter(|n| desk.told(*n).stay).collect();
    assert_eq!(staying, [ME, 3]);
}

#[test]
fn without_a_copy_at_the_master_the_two_best_stay() {
    let mut desk = Desk::new();
    for n in 4..8 {
        desk.announce(n, left(0));
    }
    desk.settle();
    let staying: Vec<u16> = (4..8).filter(|n| desk.told(*n).stay).collect();
    assert_eq!(staying, [4, 5]);
}

#[test]
fn completed_is_counted_once_a_peer() {
    let mut desk = Desk::new();
    let done = NodeAnnounce { completed: true, ..left(0) };
    desk.announce(1, left(9));
    desk.announce(1, done);
    desk.announce(1, done);
    desk.announce(2, NodeAnnounce { leaving: true, ..done });
    desk.announce(3, NodeAnnounce { leaving: true, ..left(0) });
    desk.check_counts(1, 0, 2);
    let told = desk.outputs.iter().filter_map(|o| match o {
        Output::Completed { downloaded, .. } => Some(*downloaded),
        _ => None,
    });
    assert_eq!(told.collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn our_nodes_may_announce_before_the_catalogue_knows() {
    let mut desk = Desk::new();
    desk.announce(1, NodeAnnounce { info_hash: OTHER, ..left(9) });
    assert_eq!(desk.told(1).info_hash, OTHER);
    assert_eq!(desk.tracker.scrape(&OTHER), None);
    desk.input(Input::Tracked { info_hash: OTHER, downloaded: 4 });
    assert_eq!(desk.tracker.scrape(&OTHER).map(|s| (s.incomplete, s.downloaded)), Some((1, 4)));
}

#[test]
fn a_follower_takes_no_announces_of_nodes() {
    let mut desk = Desk::replica();
    desk.announce(1, left(9));
    assert_eq!((desk.outputs.len(), desk.tracker.poll_timeout()), (0, None));
}

// ---- foreign clients

#[test]
fn foreign_clients_get_our_nodes_and_our_nodes_get_them() {
    let mut desk = Desk::new();
    desk.announce(1, left(0));
    desk.settle();
    let told = desk.ask(client("10.0.9.9:51413", 5, AnnounceEvent::Started)).unwrap();
    assert_eq!((told.complete, told.incomplete, told.interval, told.min_interval), (1, 1, 30, 10));
    assert_eq!(told.peers, [TrackedPeer { addr: contact(1).addr, peer_id: PeerId::of_node(&node(1)) }]);
    let neighbour = Neighbour { node: None, addr: "10.0.9.9:51413".parse().unwrap(), complete: false };
    assert_eq!(desk.told(1).neighbours, [neighbour]);
}

#[track_caller]
fn check_refused(desk: &mut Desk, announce: Announce, reason: &str) {
    let before = desk.tracker.counts(&announce.info_hash);
    assert_eq!(desk.ask(announce.clone()), Err(reason));
    assert_eq!(desk.tracker.counts(&announce.info_hash), before);
}

#[test]
fn an_unknown_image_is_refused_in_the_words_of_bttrack() {
    let unknown = Announce { info_hash: OTHER, ..client("10.0.9.9:1", 5, AnnounceEvent::Started) };
    let reason = "Requested download is not authorized for use with this tracker.";
    check_refused(&mut Desk::new(), unknown.clone(), reason);
    let mut desk = Desk::new();
    desk.tracker.config.open = true;
    assert_eq!(desk.ask(unknown.clone()).map(|a| a.incomplete), Ok(1));
    assert!(desk.ask(Announce { event: AnnounceEvent::Stopped, ..unknown }).is_ok());
    assert!(!desk.tracker.swarms.contains_key(&OTHER));
}

#[test]
fn who_listens_nowhere_is_answered_and_counted_and_handed_to_nobody() {
    for mut desk in [Desk::new(), Desk::checking()] {
        desk.announce(1, left(0));
        desk.settle();
        assert_eq!(desk.ask(client("10.0.9.9:0", 5, AnnounceEvent::Started)).map(|a| a.peers.len()), Ok(1));
        desk.check_counts(1, 1, 0);
        assert_eq!(desk.ask(client("10.0.9.8:1", 5, AnnounceEvent::Started)).map(|a| a.peers.len()), Ok(1));
        assert!(desk.told(1).neighbours.iter().all(|n| n.addr.port() != 0));
        desk.ask(client("10.0.9.9:0", 5, AnnounceEvent::Stopped)).unwrap();
        desk.check_counts(1, 1, 0);
    }
}

fn probes(desk: &Desk) -> usize {
    desk.outputs.iter().filter(|o| matches!(o, Output::Probe { .. })).count()
}

#[test]
fn a_client_is_handed_out_once_somebody_has_found_it() {
    let mut desk = Desk::checking();
    desk.announce(1, left(0));
    let (honest, liar) = ("10.0.9.9:7", "10.0.9.8:22");
    desk.ask(client(honest, 5, AnnounceEvent::Started)).unwrap();
    desk.ask(client(liar, 5, AnnounceEvent::Started)).unwrap();
    let seen = |desk: &mut Desk| desk.ask(client("10.0.9.1:1", 5, AnnounceEvent::None)).unwrap().peers.len();
    assert_eq!((seen(&mut desk), probes(&desk)), (1, 3));
    desk.check_counts(1, 3, 0);
    let probed = |addr: &str, reachable| Input::Probed { info_hash: IMAGE, addr: addr.parse().unwrap(), reachable };
    desk.input(probed(honest, true));
    desk.settle();
    assert_eq!(seen(&mut desk), 2);
    assert_eq!(desk.told(1).neighbours.len(), 1);
    assert_eq!(desk.tracker.replica().peers.len(), 1);
    // Who was found once is not looked at again; who was not, at each announce, three times in all.
    for _ in 0..5 {
        desk.ask(client(honest, 5, AnnounceEvent::None)).unwrap();
        desk.ask(client(liar, 5, AnnounceEvent::None)).unwrap();
        desk.input(probed(liar, false));
    }
    assert_eq!((seen(&mut desk), probes(&desk)), (2, 5));
    // An answer that nobody waits for says nothing.
    desk.input(probed(liar, true));
    desk.input(probed("10.3.3.3:3", true));
    assert_eq!(seen(&mut desk), 2);
}

#[test]
fn one_address_fills_no_book() {
    let mut desk = Desk::new();
    for ip in ["10.0.9.9", "[fd00::9]"] {
        for port in 1..=BOOK_PEERS_PER_ADDRESS {
            assert!(desk.ask(client(&format!("{ip}:{port}"), 5, AnnounceEvent::None)).is_ok());
        }
        let one_more = client(&format!("{ip}:9999"), 5, AnnounceEvent::None);
        check_refused(&mut desk, one_more, "too many peers of this image at one address");
        assert!(desk.ask(client(&format!("{ip}:1"), 4, AnnounceEvent::None)).is_ok());
    }
}

#[test]
fn a_full_book_refuses_the_newest_and_keeps_the_others() {
    let mut desk = Desk::new();
    for n in 0..BOOK_PEERS_MAX {
        let source = IpAddr::from([10, (n >> 16) as u8 + 1, (n >> 8) as u8, n as u8]);
        assert!(
            desk.ask(Announce { source, numwant: Some(0), ..client("10.0.0.1:1", 5, AnnounceEvent::None) }).is_ok()
        );
    }
    let newest = client("10.0.9.9:1", 5, AnnounceEvent::None);
    check_refused(&mut desk, newest, "too many peers in this tracker, try again later");
    assert!(desk.ask(client("10.1.0.7:1", 4, AnnounceEvent::None)).is_ok());
}

#[test]
fn ipv4_in_ipv6_clothes_is_ipv4() {
    let mut desk = Desk::new();
    let source = "::ffff:10.0.9.9".parse().unwrap();
    desk.ask(Announce { source, ..client("10.0.9.9:7", 5, AnnounceEvent::None) }).unwrap();
    assert_eq!(desk.tracker.peers(&IMAGE).map(|p| p.addr).collect::<Vec<_>>(), ["10.0.9.9:7".parse().unwrap()]);
}

#[test]
fn a_node_without_a_known_address_is_shown_to_no_foreign_client() {
    let mut desk = Desk::new();
    let addr = "0.0.0.0:6881".parse().unwrap();
    desk.input(Input::NodeAnnounce { from: Contact { addr, ..contact(1) }, announce: left(0) });
    let told = desk.ask(client("10.0.9.9:1", 5, AnnounceEvent::None)).unwrap();
    assert_eq!((told.complete, told.peers.len()), (1, 0));
}

#[test]
fn seeds_get_no_seeds_and_others_get_them_first() {
    let mut desk = Desk::new();
    for n in 0..20 {
        desk.announce(n, left(u64::from(n % 2)));
    }
    let leecher = desk.ask(client("10.0.9.9:1", 5, AnnounceEvent::None)).unwrap();
    let numbers: Vec<u8> = leecher.peers.iter().map(|p| p.peer_id.0[9]).collect();
    assert_eq!(numbers.len(), 20);
    assert!(numbers[..10].iter().all(|n| n % 2 == 0));
    let seed = desk.ask(client("10.0.9.8:1", 0, AnnounceEvent::None)).unwrap();
    assert_eq!(seed.peers.len(), 11);
    assert!(seed.peers.iter().all(|p| p.peer_id.0[9] % 2 == 1 || p.addr.port() == 1));
}

#[test]
fn a_client_gets_as_many_as_it_wants_within_reason_all_different_and_never_itself() {
    let mut desk = Desk::new();
    for n in 0..300 {
        desk.announce(n, left(1));
    }
    for (wanted, expected) in [(None, 50), (Some(0), 0), (Some(7), 7), (Some(100_000), 200)] {
        let announce = Announce { numwant: wanted, ..client("10.0.9.9:1", 5, AnnounceEvent::None) };
        let peers: BTreeSet<SocketAddr> = desk.ask(announce).unwrap().peers.iter().map(|p| p.addr).collect();
        assert_eq!(peers.len(), expected);
        assert!(!peers.contains(&"10.0.9.9:1".parse().unwrap()));
    }
}

#[test]
fn answers_are_spread_over_the_whole_swarm() {
    let mut desk = Desk::new();
    for n in 0..100 {
        desk.announce(n, left(1));
    }
    let mut seen = BTreeMap::<SocketAddr, u32>::new();
    for _ in 0..100 {
        let announce = Announce { numwant: Some(10), ..client("10.0.9.9:1", 5, AnnounceEvent::None) };
        for peer in desk.ask(announce).unwrap().peers {
            *seen.entry(peer.addr).or_default() += 1;
        }
    }
    assert_eq!(seen.len(), 100);
    assert!(seen.values().all(|times| (1..=30).contains(times)), "{seen:?}");
}

#[test]
fn silent_clients_leave_and_those_that_announce_do_not() {
    let mut desk = Desk::new();
    desk.ask(client("10.0.9.9:1", 5, AnnounceEvent::Started)).unwrap();
    desk.ask(client("10.0.9.9:2", 5, AnnounceEvent::Started)).unwrap();
    for _ in 0..4 {
        desk.advance(Duration::from_secs(30));
        desk.ask(client("10.0.9.9:2", 5, AnnounceEvent::None)).unwrap();
    }
    desk.check_counts(0, 1, 0);
    desk.advance(ANNOUNCE_EXPIRY + BOOK_SWEEP_EVERY);
    desk.check_counts(0, 0, 0);
    desk.advance(BOOK_REPLICATE_EVERY);
    assert_eq!(desk.tracker.poll_timeout(), None);
}

#[test]
fn a_node_whose_goodbye_was_lost_leaves_the_book_after_a_while() {
    let mut desk = Desk::new();
    desk.announce(1, left(0));
    desk.announce(2, left(9));
    desk.check_counts(1, 1, 0);
    for _ in 0..4 {
        desk.advance(Duration::from_secs(30));
        desk.announce(1, left(0));
    }
    desk.check_counts(1, 0, 0);
}

#[test]
fn stopped_clients_leave_at_once_and_are_told_nobody() {
    let mut desk = Desk::new();
    desk.announce(1, left(0));
    desk.ask(client("10.0.9.9:1", 5, AnnounceEvent::Started)).unwrap();
    let told = desk.ask(client("10.0.9.9:1", 5, AnnounceEvent::Stopped)).unwrap();
    assert_eq!((told.complete, told.incomplete, told.peers.len()), (1, 0, 0));
}

#[test]
fn a_client_of_an_image_that_the_catalogue_lost_is_turned_away() {
    let mut desk = Desk::new();
    desk.ask(client("10.0.9.9:1", 5, AnnounceEvent::Started)).unwrap();
    desk.input(Input::Untracked(IMAGE));
    assert_eq!(desk.tracker.scrape(&IMAGE), None);
    assert!(desk.ask(client("10.0.9.9:1", 5, AnnounceEvent::None)).is_err());
    assert_eq!(desk.tracker.clients, 0);
}

#[test]
fn a_follower_passes_clients_on_and_hands_the_answer_back() {
    let mut desk = Desk::new();
    desk.announce(1, left(0));
    let announce = client("10.0.9.9:1", 5, AnnounceEvent::Completed);
    let Message::ForeignAnnounce { id, peer, numwant, stopped, completed } =
        pass_on(4, &announce, &TrackerConfig::default())
    else {
        panic!("another message");
    };
    desk.input(Input::ForeignAnnounce { from: node(7), id, peer, numwant, stopped, completed });
    let Some(Output::ForeignAnnounced { to, id: 4, answer }) =
        desk.outputs.iter().find(|o| matches!(o, Output::ForeignAnnounced { .. })).cloned()
    else {
        panic!("{:?}", desk.outputs);
    };
    assert_eq!(to, node(7));
    let told = passed_back(answer, &TrackerConfig::default()).unwrap();
    assert_eq!((told.complete, told.incomplete, told.interval), (1, 1, 30));
    assert_eq!(told.peers, [TrackedPeer { addr: contact(1).addr, peer_id: PeerId::of_node(&node(1)) }]);
    desk.check_counts(1, 1, 1);

    // Another client is told of the first with the peer id that it has said, and a refusal keeps its reason.
    let mut pass = |announce: &Announce| {
        let Message::ForeignAnnounce { id, peer, numwant, stopped, completed } =
            pass_on(5, announce, &TrackerConfig::default())
        else {
            panic!("another message");
        };
        desk.outputs.clear();
        desk.input(Input::ForeignAnnounce { from: node(7), id, peer, numwant, stopped, completed });
        let answer = desk.outputs.iter().find_map(|o| match o {
            Output::ForeignAnnounced { answer, .. } => Some(answer.clone()),
            _ => None,
        });
        passed_back(answer.expect("it is answered"), &TrackerConfig::default())
    };
    let told = pass(&client("10.0.9.8:1", 5, AnnounceEvent::Started)).unwrap();
    assert!(told.peers.contains(&TrackedPeer { addr: "10.0.9.9:1".parse().unwrap(), peer_id: announce.peer_id }));
    for port in 1..=BOOK_PEERS_PER_ADDRESS {
        pass(&client(&format!("10.0.9.7:{port}"), 5, AnnounceEvent::Started)).unwrap();
    }
    let one_more = pass(&client("10.0.9.7:9999", 5, AnnounceEvent::Started));
    assert_eq!(one_more, Err("too many peers of this image at one address"));
    let unknown = Announce { info_hash: InfoHash([9; 20]), ..announce };
    assert_eq!(pass(&unknown), Err(ForeignRefused::Unknown.reason()));
}

// ---- waking

#[track_caller]
fn check_woken(desk: &Desk, expected: &[u16]) {
    assert_eq!(desk.woken(), expected.iter().map(|n| node(*n)).collect::<Vec<_>>());
}

fn holder(n: u16) -> Input {
    Input::NodeHolds { holder: contact(n), info_hash: IMAGE }
}

#[test]
fn idle_copies_sleep_until_somebody_misses_a_piece() {
    let mut desk = Desk::new();
    for n in 3..6 {
        desk.input(holder(n));
    }
    desk.advance(Duration::from_secs(60));
    check_woken(&desk, &[]);
    desk.announce(9, left(1));
    check_woken(&desk, &[3, 4]);
}

#[test]
fn with_two_seeders_nobody_is_woken_and_with_one_one_is() {
    let mut desk = Desk::new();
    desk.input(holder(3));
    desk.announce(1, left(0));
    desk.announce(2, left(0));
    desk.announce(9, left(1));
    check_woken(&desk, &[]);
    desk.announce(2, NodeAnnounce { leaving: true, ..left(0) });
    check_woken(&desk, &[3]);
}

#[test]
fn foreign_clients_that_miss_a_piece_wake_copies_and_foreign_seeds_replace_none() {
    let mut desk = Desk::new();
    desk.input(holder(3));
    desk.ask(client("10.0.9.8:1", 0, AnnounceEvent::None)).unwrap();
    desk.ask(client("10.0.9.8:2", 0, AnnounceEvent::None)).unwrap();
    check_woken(&desk, &[]);
    desk.ask(client("10.0.9.9:1", 5, AnnounceEvent::None)).unwrap();
    check_woken(&desk, &[3]);
}

#[test]
fn a_node_that_does_not_come_is_woken_ever_more_seldom() {
    let mut desk = Desk::new();
    desk.input(holder(3));
    desk.announce(9, left(1));
    for (tries, wait) in [(2, 1), (3, 2), (4, 4), (5, 8)] {
        desk.advance(WAKE_AGAIN * wait - Duration::from_millis(1));
        check_woken(&desk, &vec![3; tries - 1]);
        desk.advance(Duration::from_millis(1));
        check_woken(&desk, &vec![3; tries]);
    }
}

#[test]
fn others_are_woken_for_those_that_do_not_come() {
    let mut desk = Desk::new();
    for n in 3..7 {
        desk.input(holder(n));
    }
    desk.announce(9, left(1));
    desk.announce(3, left(0));
    desk.advance(WAKE_AGAIN);
    check_woken(&desk, &[3, 4, 5]);
    desk.announce(5, left(0));
    desk.advance(Duration::from_secs(600));
    check_woken(&desk, &[3, 4, 5]);
}

#[test]
fn a_copy_that_goes_back_to_sleep_too_early_is_woken_again() {
    let mut desk = Desk::new();
    desk.input(holder(3));
    desk.announce(9, left(1));
    desk.announce(3, left(0));
    desk.announce(3, NodeAnnounce { leaving: true, ..left(0) });
    desk.advance(WAKE_AGAIN);
    check_woken(&desk, &[3, 3]);
}

#[test]
fn the_master_is_woken_first_then_the_near_then_the_heavy() {
    let mut desk = Desk::new();
    let far = Site::named("far");
    let heavy = Weight::try_from(60).unwrap();
    desk.announce(9, left(1));
    desk.announce(8, left(0));
    for holder in [
        Contact { site: far, weight: heavy, ..contact(1) },
        contact(2),
        Contact { weight: heavy, ..contact(3) },
        contact(ME),
    ] {
        desk.tracker.swarm(IMAGE).unwrap().holders.add(holder);
    }
    for _ in 0..4 {
        desk.advance(WAKE_AGAIN);
        desk.announce(9, left(1));
    }
    check_woken(&desk, &[ME, 3, 2, 1]);
}

#[test]
fn nodes_that_are_gone_or_hold_it_no_more_are_not_woken() {
    let mut desk = Desk::new();
    desk.input(holder(3));
    desk.input(holder(4));
    desk.input(Input::NodeGone(node(3)));
    desk.input(Input::NodeDropped { node: node(4), info_hash: IMAGE });
    desk.announce(9, left(1));
    desk.advance(Duration::from_secs(60));
    check_woken(&desk, &[]);
}

#[test]
fn who_held_a_copy_before_this_node_was_master_does_not_count() {
    let mut desk = Desk::replica();
    desk.input(holder(3));
    desk.input(Input::BecameMaster);
    desk.announce(9, left(1));
    check_woken(&desk, &[]);
}

#[test]
fn a_holder_that_appears_later_is_woken_at_once() {
    let mut desk = Desk::new();
    desk.announce(9, left(1));
    desk.advance(Duration::from_secs(60));
    desk.input(holder(3));
    check_woken(&desk, &[3]);
}

// ---- masters come and go

#[test]
fn the_book_is_replicated_once_a_second_and_only_if_it_changed() {
    let mut desk = Desk::new();
    desk.advance(Duration::from_secs(10));
    let before = desk.replicas.len();
    for port in 1..10 {
        desk.ask(client(&format!("10.0.9.9:{port}"), 5, AnnounceEvent::None)).unwrap();
    }
    desk.advance(Duration::from_secs(10));
    assert_eq!(desk.replicas.len(), before + 2);
    assert_eq!(desk.replicas.last().unwrap().peers.len(), 9);
    desk.ask(client("10.0.9.9:1", 4, AnnounceEvent::None)).unwrap();
    desk.announce(1, left(5));
    desk.advance(Duration::from_secs(10));
    assert_eq!(desk.replicas.len(), before + 2);
    desk.announce(1, NodeAnnounce { completed: true, ..left(0) });
    desk.advance(Duration::from_secs(10));
    assert_eq!(desk.replicas.last().unwrap().downloaded, [(IMAGE, 1)]);
}

#[test]
fn a_deputy_that_becomes_master_knows_the_clients_and_the_counters() {
    let mut old = Desk::new();
    old.ask(client("10.0.9.9:1", 5, AnnounceEvent::Started)).unwrap();
    old.ask(client("10.0.9.9:2", 0, AnnounceEvent::Completed)).unwrap();
    let mut deputy = Desk::replica();
    deputy.input(Input::Replica(old.tracker.replica()));
    deputy.advance(Duration::from_secs(3600));
    deputy.check_counts(1, 1, 1);
    deputy.input(Input::BecameMaster);
    deputy.advance(ANNOUNCE_EXPIRY - BOOK_SWEEP_EVERY);
    deputy.check_counts(1, 1, 1);
    deputy.advance(BOOK_SWEEP_EVERY * 2);
    deputy.check_counts(0, 0, 1);
}

#[test]
fn a_replica_follows_its_master_and_a_master_adds_what_it_lacks() {
    let mut old = Desk::new();
    old.ask(client("10.0.9.9:1", 5, AnnounceEvent::Started)).unwrap();
    let first = old.tracker.replica();
    old.ask(client("10.0.9.9:1", 5, AnnounceEvent::Stopped)).unwrap();
    old.ask(client("10.0.9.9:2", 5, AnnounceEvent::Started)).unwrap();
    let second = old.tracker.replica();
    let (mut deputy, mut master) = (Desk::replica(), Desk::new());
    for replica in [first, second] {
        deputy.input(Input::Replica(replica.clone()));
        master.input(Input::Replica(replica));
    }
    deputy.check_counts(0, 1, 0);
    master.check_counts(0, 2, 0);
}

#[test]
fn a_replica_from_a_liar_fills_no_more_than_announces_could() {
    let mut desk = Desk::new();
    let peer = |n: u32| ForeignPeer {
        info_hash: IMAGE,
        addr: SocketAddr::from(([10, 0, 9, 9], n as u16)),
        peer_id: [0; 20],
        left: 1,
        uploaded: 0,
        downloaded: 0,
    };
    let peers = (0..60_000).map(peer).collect();
    desk.input(Input::Replica(BookReplica { peers, downloaded: vec![(OTHER, 9)], names: vec![] }));
    desk.check_counts(0, BOOK_PEERS_PER_ADDRESS as u32, 0);
    assert_eq!(desk.tracker.clients, BOOK_PEERS_PER_ADDRESS);
}

#[test]
fn who_is_master_no_more_forgets_our_nodes_and_tells_nobody_anything() {
    let mut desk = Desk::new();
    desk.input(holder(3));
    desk.announce(1, left(5));
    desk.announce(2, left(5));
    desk.ask(client("10.0.9.9:1", 5, AnnounceEvent::Started)).unwrap();
    desk.input(Input::LostMastership);
    desk.outputs.clear();
    desk.advance(Duration::from_secs(600));
    assert_eq!(desk.outputs, [Output::Save(Kept::default())], "the clients are somebody else's now");
    desk.check_counts(0, 1, 0);
}

#[test]
fn a_node_in_many_swarms_leaves_all_of_them() {
    let mut desk = Desk::new();
    desk.announce(1, left(5));
    desk.announce(1, NodeAnnounce { info_hash: OTHER, ..left(5) });
    desk.input(Input::NodeGone(node(1)));
    assert_eq!((desk.tracker.counts(&IMAGE), desk.tracker.counts(&OTHER)), ((0, 0), (0, 0)));
    assert!(!desk.tracker.swarms.contains_key(&OTHER));
}

// ---- what outlives the swarms

fn saved(desk: &Desk) -> Vec<&Kept> {
    desk.outputs.iter().filter_map(|output| if let Output::Save(kept) = output { Some(kept) } else { None }).collect()
}

/// The next life of that master, which was away for so long.
fn next_life(desk: &Desk, kept: Kept, away: Duration) -> Desk {
    let clients = kept.clients.into_iter().map(|c| KeptClient { silent: c.silent + away, ..c }).collect();
    let mut next = Desk::with(desk.tracker.config);
    next.input(Input::Kept(Kept { clients, ..kept }));
    next.input(Input::BecameMaster);
    next.input(Input::Tracked { info_hash: IMAGE, downloaded: 0 });
    next
}

#[test]
fn clients_outlive_a_restart_and_are_forgotten_when_they_would_have_been_without_it() {
    const AWAY: Duration = Duration::from_secs(40);
    let mut desk = Desk::new();
    desk.ask(client("10.0.9.9:1", 0, AnnounceEvent::Completed)).unwrap();
    desk.advance(Duration::from_secs(30));
    desk.ask(client("10.0.9.9:2", 5, AnnounceEvent::Started)).unwrap();
    desk.ask(client("[fd00::9]:3", 5, AnnounceEvent::Started)).unwrap();
    desk.advance(BOOK_SAVE_EVERY);
    let kept = (*saved(&desk).last().unwrap()).clone();
    assert_eq!(kept.clients.len(), 3);

    let mut next = next_life(&desk, kept.clone(), AWAY);
    next.check_counts(1, 2, 1);
    let told = next.ask(client("10.0.9.9:2", 5, AnnounceEvent::None)).unwrap();
    assert_eq!(told.peers.iter().map(|peer| peer.addr.port()).collect::<Vec<_>>(), [1, 3], "seeds first");
    next.ask(client("10.0.9.9:1", 0, AnnounceEvent::Completed)).unwrap();
    next.check_counts(1, 2, 1);
    // One more silence for those that announced; the third has been silent for 45 s already.
    next.advance(ANNOUNCE_EXPIRY - AWAY - BOOK_SAVE_EVERY - Duration::from_secs(1));
    next.check_counts(1, 2, 1);
    next.advance(Duration::from_secs(1) + BOOK_SWEEP_EVERY);
    next.check_counts(1, 1, 1);

    for (away, complete, incomplete) in [(60, 0, 2), (90, 0, 0), (u64::MAX / 2, 0, 0)] {
        next_life(&desk, kept.clone(), Duration::from_secs(away)).check_counts(complete, incomplete, 1);
    }
}

#[test]
fn what_is_kept_fills_no_more_than_announces_could() {
    let mut desk = Desk::with(TrackerConfig { open: true, ..TrackerConfig::default() });
    desk.input(Input::BecameMaster);
    let peer = |n: usize| ForeignPeer {
        info_hash: IMAGE,
        addr: SocketAddr::from(([10, 0, 9, 9], n as u16)),
        peer_id: [b'c'; 20],
        left: 5,
        uploaded: 0,
        downloaded: 0,
    };
    let client = |n| KeptClient { peer: peer(n), silent: Duration::ZERO, counted: false, shown: true };
    // Twice the same, more than one address may have, and one that listens nowhere.
    let clients = [0, 1, 1].into_iter().chain(2..BOOK_PEERS_PER_ADDRESS + 9).map(client).collect();
    let next = next_life(&desk, Kept { clients, ..Kept::default() }, Duration::ZERO);
    next.check_counts(0, BOOK_PEERS_PER_ADDRESS as u32, 0);
    assert_eq!(next.tracker.replica().peers.len(), BOOK_PEERS_PER_ADDRESS - 1);
    // The image went while this node was away.
    let gone = Kept { clients: vec![client(1)], ..Kept::default() };
    let mut next = Desk::with(TrackerConfig::default());
    next.input(Input::Kept(gone));
    next.input(Input::BecameMaster);
    assert_eq!(next.tracker.scrape(&IMAGE), None);
    next.advance(ANNOUNCE_EXPIRY + BOOK_SWEEP_EVERY);
    assert_eq!((next.tracker.clients, next.tracker.swarms.len()), (0, 0));
}

#[test]
fn who_was_not_found_before_a_restart_is_handed_to_nobody_after_it() {
    let mut desk = Desk::checking();
    desk.ask(client("10.0.9.9:1", 5, AnnounceEvent::Started)).unwrap();
    desk.ask(client("10.0.9.9:2", 5, AnnounceEvent::Started)).unwrap();
    desk.input(Input::Probed { info_hash: IMAGE, addr: "10.0.9.9:1".parse().unwrap(), reachable: true });
    desk.advance(BOOK_SAVE_EVERY);
    let mut next = next_life(&desk, saved(&desk)[0].clone(), Duration::ZERO);
    next.check_counts(0, 2, 0);
    let told = next.ask(client("10.0.9.8:1", 5, AnnounceEvent::Started)).unwrap();
    assert_eq!(told.peers.iter().map(|peer| peer.addr.port()).collect::<Vec<_>>(), [1]);
    let before = probes(&next);
    next.ask(client("10.0.9.9:1", 5, AnnounceEvent::None)).unwrap();
    assert_eq!(probes(&next), before);
    next.ask(client("10.0.9.9:2", 5, AnnounceEvent::None)).unwrap();
    assert_eq!(probes(&next), before + 1, "it is looked at again");
}

#[test]
fn a_follower_keeps_no_clients_and_a_replica_has_its_whole_silence_before_it() {
    let mut old = Desk::new();
    old.ask(client("10.0.9.9:1", 0, AnnounceEvent::Completed)).unwrap();
    old.advance(BOOK_SAVE_EVERY);
    let kept = saved(&old)[0].clone();
    let old_client = KeptClient { silent: ANNOUNCE_EXPIRY - Duration::from_secs(1), ..kept.clients[0] };
    let mut deputy = Desk::replica();
    deputy.input(Input::Kept(Kept { clients: vec![old_client], ..kept }));
    deputy.advance(BOOK_SAVE_EVERY);
    assert_eq!((saved(&deputy)[0].clients.len(), &saved(&deputy)[0].downloaded[..]), (0, &[(IMAGE, 1)][..]));
    deputy.check_counts(0, 0, 1);
    deputy.input(Input::Replica(old.tracker.replica()));
    deputy.advance(ANNOUNCE_EXPIRY);
    deputy.input(Input::BecameMaster);
    deputy.advance(ANNOUNCE_EXPIRY - BOOK_SWEEP_EVERY);
    deputy.check_counts(1, 0, 1);
}

#[test]
fn counters_are_saved_soon_after_they_changed_and_known_to_the_next_life() {
    let mut desk = Desk::new();
    desk.ask(client("10.0.9.9:1", 0, AnnounceEvent::Completed)).unwrap();
    desk.ask(client("10.0.9.9:2", 0, AnnounceEvent::Completed)).unwrap();
    assert_eq!(saved(&desk).len(), 0);
    desk.advance(BOOK_SAVE_EVERY);
    let book = saved(&desk)[0].clone();
    assert_eq!(book.downloaded, [(IMAGE, 2)]);
    desk.advance(10 * BOOK_SAVE_EVERY);
    desk.input(Input::Shutdown);
    assert_eq!(saved(&desk).len(), 1, "nothing changed since");
    desk.ask(client("10.0.9.9:3", 0, AnnounceEvent::Completed)).unwrap();
    desk.input(Input::Shutdown);
    assert_eq!(saved(&desk)[1].downloaded, [(IMAGE, 3)]);

    let mut next = next_life(&desk, Kept { clients: vec![], ..book }, Duration::ZERO);
    next.check_counts(0, 0, 2);
    let told = Output::Completed { info_hash: IMAGE, downloaded: 2 };
    assert!(next.outputs.contains(&told), "the catalogue is told");
    // The image may go and come again.
    next.input(Input::Untracked(IMAGE));
    next.input(Input::Tracked { info_hash: IMAGE, downloaded: 0 });
    next.check_counts(0, 0, 2);
}

fn name(info_hash: InfoHash, name: &str) -> RegisteredName {
    RegisteredName { info_hash, name: name.to_owned(), size: 7 }
}

#[test]
fn a_name_is_for_an_open_tracker_and_outlives_swarm_and_master() {
    let mut desk = Desk::new();
    desk.input(Input::Register(name(OTHER, "debian.iso")));
    assert_eq!((desk.tracker.known(&OTHER), desk.tracker.may_register()), (None, Err(NotRegistered::Closed)));
    let open = TrackerConfig { open: true, ..TrackerConfig::default() };
    let mut desk = Desk::with(open);
    desk.input(Input::BecameMaster);
    desk.input(Input::Register(name(OTHER, "debian.iso")));
    assert_eq!(desk.tracker.scrape(&OTHER).map(|s| s.name), Some(Some("debian.iso".to_owned())));
    desk.advance(BOOK_SAVE_EVERY);
    assert_eq!(saved(&desk)[0].names, [name(OTHER, "debian.iso")]);
    assert_eq!(desk.replicas.last().unwrap().names.len(), 1);
    let mut deputy = Desk::with(open);
    deputy.input(Input::Replica(desk.replicas.last().unwrap().clone()));
    assert_eq!(deputy.tracker.known(&OTHER), Some(("debian.iso", 7)));
    deputy.input(Input::Register(name(OTHER, "debian-13.iso")));
    assert_eq!(deputy.tracker.known(&OTHER), Some(("debian-13.iso", 7)));
    assert_eq!(deputy.tracker.others(5), [OTHER]);
    deputy.input(Input::Tracked { info_hash: OTHER, downloaded: 0 });
    assert_eq!(deputy.tracker.others(5), []);
}

#[test]
fn strangers_leave_room_for_the_counters_of_our_images() {
    let mut desk = Desk::with(TrackerConfig { open: true, ..TrackerConfig::default() });
    desk.input(Input::BecameMaster);
    let hash = |n: usize| {
        let mut hash = [7; 20];
        hash[..4].copy_from_slice(&(n as u32).to_be_bytes());
        InfoHash(hash)
    };
    for n in 0..CATALOGUE_IMAGES_MAX {
        for event in [AnnounceEvent::Completed, AnnounceEvent::Stopped] {
            let _ = desk.ask(Announce { info_hash: hash(n), ..client("10.0.9.9:1", 0, event) });
        }
    }
    assert_eq!(desk.tracker.replica().downloaded.len(), CATALOGUE_IMAGES_MAX / 2);
    desk.input(Input::Tracked { info_hash: IMAGE, downloaded: 0 });
    desk.ask(client("10.0.9.9:1", 0, AnnounceEvent::Completed)).unwrap();
    desk.check_counts(1, 0, 1);
}

// ---- many

#[test]
fn a_hundred_thousand_clients_of_one_image_are_answered_and_leave_in_steps() {
    let mut desk = Desk::new();
    let start = desk.now;
    for n in 0..100_000_u32 {
        let [_, a, b, c] = n.to_be_bytes();
        let source = IpAddr::from([10, a, b, c]);
        let announce = Announce { source, ..client("10.0.0.1:6881", u64::from(n % 3), AnnounceEvent::None) };
        // A seed is told of no seed, and every third is one.
        let others = if n % 3 == 0 { n - n.div_ceil(3) } else { n };
        assert_eq!(desk.ask(announce).unwrap().peers.len(), 50.min(others as usize));
    }
    assert_eq!(desk.tracker.counts(&IMAGE), (33_334, 66_666));
    assert!(desk.tracker.replica().peers.len() <= BOOK_REPLICA_CLIENTS);
    desk.outputs.clear();
    desk.now = start + ANNOUNCE_EXPIRY + BOOK_SWEEP_EVERY;
    desk.input(Input::NodeGone(node(1)));
    let left = desk.tracker.clients;
    assert!((1..100_000).contains(&left), "{left}");
    desk.advance(Duration::from_secs(60));
    assert_eq!((desk.tracker.clients, desk.tracker.counts(&IMAGE)), (0, (0, 0)));
}

// ---- chance

#[derive(Clone, Debug)]
enum Step {
    Node { n: u16, left: u64, leaving: bool, completed: bool, moved: bool, mode: Mode },
    Client { n: u16, left: u64, event: AnnounceEvent },
    Gone(u16),
    Holds(u16),
    Wait(u64),
    Lose,
    Become,
    Untrack,
    Track,
}

fn steps() -> impl Strategy<Value = Step> {
    let event = prop_oneof![
        Just(AnnounceEvent::None),
        Just(AnnounceEvent::Started),
        Just(AnnounceEvent::Completed),
        Just(AnnounceEvent::Stopped)
    ];
    let mode = prop_oneof![Just(Mode::Leecher), Just(Mode::Peer), Just(Mode::Seeder)];
    let node = (0..20u16, 0..3u64, prop::bool::weighted(0.2), any::<bool>(), prop::bool::weighted(0.1), mode)
        .prop_map(|(n, left, leaving, completed, moved, mode)| Step::Node { n, left, leaving, completed, moved, mode });
    prop_oneof![
        10 => node,
        10 => (0..40u16, 0..3u64, event).prop_map(|(n, left, event)| Step::Client { n, left, event }),
        2 => (0..20u16).prop_map(Step::Gone),
        2 => (0..20u16).prop_map(Step::Holds),
        4 => (0..40_000u64).prop_map(Step::Wait),
        1 => Just(Step::Lose),
        1 => Just(Step::Become),
        1 => Just(Step::Untrack),
        2 => Just(Step::Track),
    ]
}

fn apply(desk: &mut Desk, step: Step) {
    match step {
        Step::Node { n, left: missing, leaving, completed, moved, mode } => {
            let addr = if moved { "10.8.8.8:8".parse().unwrap() } else { contact(n).addr };
            let announce = NodeAnnounce { leaving, completed, mode, ..left(missing) };
            desk.input(Input::NodeAnnounce { from: Contact { addr, ..contact(n) }, announce });
        }
        Step::Client { n, left, event } => {
            let announce = client(&format!("10.0.9.{}:{}", n % 2, n + 1), left, event);
            desk.input(Input::Announce { id: RequestId(n.into()), announce });
        }
        Step::Gone(n) => desk.input(Input::NodeGone(node(n))),
        Step::Holds(n) => desk.input(holder(n)),
        Step::Wait(ms) => desk.advance(Duration::from_millis(ms)),
        Step::Lose => desk.input(Input::LostMastership),
        Step::Become => desk.input(Input::BecameMaster),
        Step::Untrack => desk.input(Input::Untracked(IMAGE)),
        Step::Track => desk.input(Input::Tracked { info_hash: IMAGE, downloaded: 0 }),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(128) })]

    #[test]
    fn counters_equal_a_recount_after_anything(script in prop::collection::vec(steps(), 0..120)) {
        let mut desk = Desk::new();
        for step in script {
            apply(&mut desk, step);
            let peers: Vec<BookPeer> = desk.tracker.peers(&IMAGE).collect();
            let complete = peers.iter().filter(|p| p.left == 0).count();
            let (counted, others) = desk.tracker.counts(&IMAGE);
            prop_assert_eq!((counted as usize, others as usize), (complete, peers.len() - complete));
            prop_assert_eq!(desk.tracker.clients, peers.iter().filter(|p| p.node.is_none()).count());
            let downloads = desk.outputs.iter().filter(|o| matches!(o, Output::Completed { .. })).count();
            prop_assert!(desk.tracker.downloaded(&IMAGE) <= downloads as u64);
        }
    }

    #[test]
    fn after_a_moment_of_rest_both_ends_of_every_link_were_told(script in prop::collection::vec(steps(), 0..80)) {
        let mut desk = Desk::new();
        for step in script {
            apply(&mut desk, step);
        }
        desk.settle();
        let present: Vec<NodeId> = desk.tracker.peers(&IMAGE).filter_map(|p| p.node).collect();
        for a in &present {
            let told = desk.told(u16::from_be_bytes([a.0[0], a.0[1]]));
            for b in told.neighbours.iter().filter_map(|n| n.node) {
                prop_assert!(present.contains(&b), "{:?} was told of {:?}, who has left", a, b);
                let back = desk.told(u16::from_be_bytes([b.0[0], b.0[1]]));
                prop_assert!(back.neighbours.iter().any(|n| n.node == Some(*a)));
            }
        }
    }

    #[test]
    fn two_runs_with_one_seed_are_identical(script in prop::collection::vec(steps(), 0..80)) {
        let run = |script: Vec<Step>| {
            let mut desk = Desk::new();
            script.into_iter().for_each(|step| apply(&mut desk, step));
            desk.outputs
        };
        prop_assert_eq!(run(script.clone()), run(script));
    }
}
