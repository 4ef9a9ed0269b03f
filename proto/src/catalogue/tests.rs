//! The catalogue as its node sees it, and a small mesh of catalogues that tell each other.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::wire::control::Holding;

fn node(n: u8) -> NodeId {
    NodeId([n; 32])
}

fn hash(n: u16) -> InfoHash {
    let mut bytes = [0xab; 20];
    bytes[..2].copy_from_slice(&n.to_be_bytes());
    InfoHash(bytes)
}

fn epoch(term: u64, n: u8) -> Epoch {
    Epoch { term, node: node(n) }
}

fn image(name: &str, n: u16) -> Holding {
    Holding { name: name.to_owned(), info_hash: hash(n), size: 100, piece_length: 10, complete: true }
}

fn part(name: &str, n: u16) -> Holding {
    Holding { complete: false, ..image(name, n) }
}

fn holdings(version: u64, images: &[Holding]) -> Holdings {
    Holdings { version, images: images.to_vec() }
}

/// A catalogue, a clock and everything it asked for.
struct Desk {
    catalogue: Catalogue,
    now: Time,
    outputs: Vec<Output>,
}

impl Desk {
    fn new(n: u8) -> Self {
        Self { catalogue: Catalogue::new(node(n)), now: Time(1 << 40), outputs: Vec::new() }
    }

    fn master() -> Self {
        let mut desk = Self::new(0);
        desk.input(Input::BecameMaster(epoch(1, 0)));
        desk
    }

    fn input(&mut self, input: Input) {
        self.catalogue.handle_input(self.now, input);
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(output) = self.catalogue.poll_output() {
            self.outputs.push(output);
        }
    }

    fn advance(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some((at, reason)) = self.catalogue.poll_timeout().filter(|(at, _)| *at <= end) {
            self.now = self.now.max(at);
            self.catalogue.handle_timeout(self.now);
            self.drain();
            assert!(self.catalogue.poll_timeout().is_none_or(|(at, _)| at > self.now), "{reason} does not move on");
        }
        self.now = end;
    }

    fn told(&mut self, from: u8, version: u64, images: &[Holding]) {
        self.input(Input::Holdings { from: node(from), holdings: holdings(version, images) });
    }

    /// Which images are listed, and on which nodes.
    #[track_caller]
    fn check(&self, expected: &[(&str, u16, &[u8])]) {
        let listed: Vec<(&str, InfoHash, Vec<NodeId>)> =
            self.catalogue.records().map(|r| (r.name.as_str(), r.info_hash, r.holders.clone())).collect();
        let nodes = |of: &[u8]| of.iter().map(|n| node(*n)).collect::<Vec<_>>();
        let expected: Vec<_> = expected.iter().map(|(name, n, of)| (*name, hash(*n), nodes(of))).collect();
        assert_eq!(listed, expected);
    }

    fn since(&mut self, version: u64) -> Vec<CatalogueDelta> {
        self.outputs.clear();
        self.input(Input::Since { from: node(9), version });
        self.deltas()
    }

    fn deltas(&mut self) -> Vec<CatalogueDelta> {
        let delta = |output| match output {
            Output::Send { message: Message::Catalogue(delta), .. } => Some(delta),
            _ => None,
        };
        self.outputs.drain(..).filter_map(delta).collect()
    }

    fn asks(&self) -> usize {
        let ask = |o: &&Output| matches!(o, Output::Send { message: Message::CatalogueSince(_), .. });
        self.outputs.iter().filter(ask).count()
    }

    fn receive(&mut self, from: u8, deltas: Vec<CatalogueDelta>) {
        for delta in deltas {
            self.input(Input::Delta { from: node(from), delta });
        }
    }
}

// ---- what is listed

#[test]
fn the_own_cache_is_listed_without_any_master() {
    let mut desk = Desk::new(3);
    desk.input(Input::Mine(holdings(1, &[image("b.img", 2), image("a.img", 1), part("c.img", 3)])));
    desk.check(&[("a.img", 1, &[3]), ("b.img", 2, &[3]), ("c.img", 3, &[])]);
    desk.input(Input::Mine(holdings(2, &[image("b.img", 2)])));
    desk.check(&[("b.img", 2, &[3])]);
    let changed = |added: &[u16], removed: &[u16]| {
        let hashes = |of: &[u16]| of.iter().map(|n| hash(*n)).collect();
        Output::Changed { added: hashes(added), removed: hashes(removed) }
    };
    assert_eq!(desk.outputs, [changed(&[1, 2, 3], &[]), changed(&[], &[1, 3])]);
}

#[test]
fn one_name_with_two_contents_is_two_records() {
    let mut desk = Desk::master();
    desk.told(1, 1, &[image("win.img", 1)]);
    desk.told(2, 1, &[image("win.img", 2)]);
    desk.check(&[("win.img", 1, &[1]), ("win.img", 2, &[2])]);
    assert!(desk.catalogue.is_ambiguous("win.img") && !desk.catalogue.is_ambiguous("x.img"));
}

#[test]
fn one_content_under_two_names_keeps_the_first_until_only_the_second_is_left() {
    let mut desk = Desk::master();
    desk.told(1, 1, &[image("a.img", 1)]);
    desk.told(2, 1, &[image("ou1/a.img", 1)]);
    desk.check(&[("a.img", 1, &[1, 2])]);
    desk.told(1, 2, &[]);
    desk.told(2, 2, &[image("ou1/a.img", 1)]);
    desk.check(&[("ou1/a.img", 1, &[2])]);
}

#[test]
fn a_record_outlives_its_holder_until_that_is_forgotten() {
    let mut desk = Desk::master();
    desk.told(1, 1, &[image("a.img", 1)]);
    desk.input(Input::NodeGone(node(1)));
    desk.check(&[("a.img", 1, &[1])]);
    desk.outputs.clear();
    desk.input(Input::NodeForgotten(node(1)));
    desk.check(&[]);
    let dropped = Output::Dropped { node: node(1), info_hash: hash(1) };
    assert_eq!(desk.outputs, [Output::Changed { added: vec![], removed: vec![hash(1)] }, dropped]);
}

#[test]
fn the_last_holder_takes_the_record_away_unless_somebody_has_a_part() {
    let mut desk = Desk::master();
    desk.told(1, 1, &[image("a.img", 1), image("b.img", 2)]);
    desk.told(2, 1, &[part("a.img", 1)]);
    desk.told(1, 2, &[]);
    desk.check(&[("a.img", 1, &[])]);
    desk.told(2, 2, &[]);
    desk.check(&[]);
}

#[test]
fn a_part_that_becomes_whole_is_a_copy_to_wake() {
    let mut desk = Desk::master();
    desk.told(2, 1, &[part("a.img", 1)]);
    desk.outputs.clear();
    desk.told(2, 2, &[image("a.img", 1)]);
    assert_eq!(desk.outputs, [Output::Holds { node: node(2), info_hash: hash(1) }]);
    assert_eq!(desk.catalogue.held_by(&node(2)).collect::<Vec<_>>(), [&hash(1)]);
}

#[test]
fn absurd_holdings_are_cut_to_what_can_be_listed() {
    let mut desk = Desk::master();
    let mut images: Vec<Holding> = (0..IMAGES_MAX as u16).map(|n| image("x.img", n)).collect();
    images[0].name = String::new();
    images[1].name = "x".repeat(IMAGE_NAME_BYTES_MAX + 1);
    images[2] = part("x.img", 3);
    images.push(image("too many", 9999));
    desk.told(1, 1, &images);
    assert_eq!(desk.catalogue.records().count(), IMAGES_MAX - 3);
    assert!(desk.catalogue.union.holds(&hash(3), &node(1)));
}

#[test]
fn the_catalogue_ends_at_its_limit() {
    let mut desk = Desk::master();
    for n in 0..6u16 {
        let images: Vec<Holding> = (0..IMAGES_MAX as u16).map(|i| image("x.img", n * 4096 + i)).collect();
        desk.told(n as u8 + 1, 1, &images);
    }
    assert_eq!(desk.catalogue.records().count(), crate::config::CATALOGUE_IMAGES_MAX);
}

#[test]
fn completed_copies_are_counted_by_the_master_only() {
    let (mut master, mut follower) = (Desk::master(), Desk::new(1));
    for desk in [&mut master, &mut follower] {
        desk.input(Input::Mine(holdings(1, &[image("a.img", 1)])));
        desk.input(Input::Completed { info_hash: hash(1), downloaded: 1 });
    }
    assert_eq!(master.catalogue.record(&hash(1)).map(|r| r.downloaded), Some(1));
    assert_eq!(follower.catalogue.record(&hash(1)).map(|r| r.downloaded), Some(0));
}

// ---- versions and deltas

#[test]
fn a_delta_tells_what_changed_since_a_version() {
    let mut desk = Desk::master();
    desk.told(1, 1, &[image("a.img", 1), image("b.img", 2)]);
    let known = desk.catalogue.version();
    desk.told(1, 2, &[image("b.img", 2), image("c.img", 3)]);
    let [delta] = &desk.since(known)[..] else { panic!("more than one message") };
    assert_eq!((delta.from, delta.to, delta.epoch), (known, desk.catalogue.version(), epoch(1, 0)));
    assert_eq!(delta.changed.iter().map(|r| r.name.as_str()).collect::<Vec<_>>(), ["c.img"]);
    assert_eq!(delta.gone, [hash(1)]);
}

#[test]
fn nothing_new_is_an_empty_delta_and_an_unknown_version_the_whole() {
    let mut desk = Desk::master();
    desk.told(1, 1, &[image("a.img", 1)]);
    let version = desk.catalogue.version();
    let [same] = &desk.since(version)[..] else { panic!() };
    assert_eq!((same.from, same.to, same.changed.len()), (version, version, 0));
    let [whole] = &desk.since(version + 1)[..] else { panic!() };
    assert_eq!((whole.from, whole.changed.len()), (0, 1));
}

#[test]
fn who_missed_more_removals_than_are_remembered_is_sent_the_whole() {
    let mut desk = Desk::master();
    desk.told(1, 1, &[image("a.img", 1)]);
    let early = desk.catalogue.version();
    let many: Vec<Holding> = (10..12 + CATALOGUE_GONE_MAX as u16).map(|n| image("x.img", n)).collect();
    desk.told(2, 1, &many);
    desk.told(2, 2, &[]);
    assert_eq!(desk.since(early)[0].from, 0);
    assert_eq!(desk.since(desk.catalogue.version())[0].from, desk.catalogue.version());
}

#[test]
fn a_large_catalogue_comes_in_messages_of_bounded_size() {
    let mut desk = Desk::master();
    for n in 1..=200 {
        let images: Vec<Holding> = (0..400).map(|i| image(&format!("image {i}"), i)).collect();
        desk.told(n, 1, &images);
    }
    desk.told(1, 2, &[]);
    let deltas = desk.since(0);
    assert!(deltas.len() > 2, "{}", deltas.len());
    assert!(deltas.windows(2).all(|pair| pair[0].to == pair[1].from));
    let mut follower = Desk::new(250);
    follower.input(Input::Following(epoch(1, 0)));
    follower.input(Input::Beat { epoch: epoch(1, 0), version: desk.catalogue.version() });
    follower.receive(0, deltas);
    assert!(desk.catalogue.records().eq(follower.catalogue.records()));
    assert_eq!(follower.asks(), 1);
}

// ---- followers

fn delta(from: u64, to: u64, changed: &[(&str, u16, &[u8])], gone: &[u16]) -> CatalogueDelta {
    let record = |(name, n, holders): &(&str, u16, &[u8])| ImageRecord {
        name: (*name).to_owned(),
        info_hash: hash(*n),
        size: 100,
        piece_length: 10,
        holders: holders.iter().map(|n| node(*n)).collect(),
        downloaded: 0,
    };
    let gone = gone.iter().map(|n| hash(*n)).collect();
    let changed = changed.iter().map(record).collect();
    CatalogueDelta { epoch: epoch(1, 0), from, to, changed, copied: Vec::new(), gone }
}

fn follower() -> Desk {
    let mut desk = Desk::new(5);
    desk.input(Input::Mine(holdings(7, &[image("mine.img", 50)])));
    desk.outputs.clear();
    desk.input(Input::Following(epoch(1, 0)));
    desk
}

#[test]
fn a_follower_tells_its_holdings_and_asks_for_the_whole_at_once() {
    let send = |message| Output::Send { to: node(0), message };
    let holdings = holdings(7, &[image("mine.img", 50)]);
    assert_eq!(follower().outputs, [send(Message::Holdings(holdings)), send(Message::CatalogueSince(0))]);
}

#[test]
fn a_follower_asks_again_while_nobody_answers_and_when_a_beat_shows_a_newer_version() {
    let mut desk = follower();
    desk.advance(CATALOGUE_ASK_AGAIN * 2);
    assert_eq!(desk.asks(), 3);
    desk.receive(0, vec![delta(0, 4, &[], &[])]);
    desk.input(Input::Beat { epoch: epoch(1, 0), version: 4 });
    assert_eq!((desk.asks(), desk.catalogue.poll_timeout()), (3, None));
    desk.input(Input::Beat { epoch: epoch(1, 0), version: 5 });
    desk.input(Input::Beat { epoch: epoch(1, 0), version: 5 });
    assert_eq!(desk.outputs.last(), Some(&Output::Send { to: node(0), message: Message::CatalogueSince(4) }));
    assert_eq!(desk.asks(), 4);
}

/// Who hears a beacon obeys the master before there is a connection, and what it says then goes nowhere.
#[test]
fn what_was_asked_before_there_was_a_connection_is_asked_again_at_once() {
    let mut desk = follower();
    assert_eq!(desk.asks(), 1);
    desk.input(Input::Up(node(3)));
    assert_eq!(desk.asks(), 1, "that is not the master");
    desk.input(Input::Up(node(0)));
    assert_eq!(desk.asks(), 2);
    desk.receive(0, vec![delta(0, 4, &[], &[])]);
    desk.input(Input::Beat { epoch: epoch(1, 0), version: 4 });
    desk.input(Input::Up(node(0)));
    assert_eq!((desk.asks(), desk.catalogue.poll_timeout()), (2, None), "nothing is missing");
}

#[test]
fn what_is_here_shows_whatever_the_master_says() {
    let mut desk = follower();
    desk.receive(0, vec![delta(0, 4, &[("mine.img", 50, &[1]), ("a.img", 1, &[1, 5])], &[])]);
    desk.check(&[("a.img", 1, &[1]), ("mine.img", 50, &[1, 5])]);
    desk.receive(0, vec![delta(4, 5, &[], &[50, 1])]);
    desk.check(&[("mine.img", 50, &[5])]);
    desk.input(Input::Mine(holdings(8, &[])));
    desk.check(&[]);
}

#[test]
fn deltas_that_do_not_fit_or_come_from_somebody_else_are_not_applied() {
    let mut desk = follower();
    let wrong = [
        (0, delta(3, 4, &[("a.img", 1, &[1])], &[])),
        (1, delta(0, 4, &[("a.img", 1, &[1])], &[])),
        (0, CatalogueDelta { epoch: epoch(2, 0), ..delta(0, 4, &[("a.img", 1, &[1])], &[]) }),
    ];
    for (from, delta) in wrong {
        desk.receive(from, vec![delta]);
        desk.check(&[("mine.img", 50, &[5])]);
    }
    desk.receive(0, vec![delta(0, 4, &[], &[]), delta(4, 3, &[("a.img", 1, &[1])], &[])]);
    desk.check(&[("mine.img", 50, &[5])]);
}

#[test]
fn a_new_master_s_catalogue_replaces_the_old_one_without_a_gap() {
    let mut desk = follower();
    desk.receive(0, vec![delta(0, 4, &[("a.img", 1, &[1]), ("b.img", 2, &[1])], &[])]);
    desk.input(Input::LostMaster);
    desk.input(Input::Following(epoch(2, 3)));
    desk.outputs.clear();
    let whole = CatalogueDelta { epoch: epoch(2, 3), ..delta(0, 2, &[("b.img", 2, &[1])], &[]) };
    desk.receive(3, vec![whole]);
    desk.check(&[("a.img", 1, &[1]), ("b.img", 2, &[1]), ("mine.img", 50, &[5])]);
    desk.input(Input::Beat { epoch: epoch(2, 3), version: 2 });
    desk.check(&[("b.img", 2, &[1]), ("mine.img", 50, &[5])]);
    assert_eq!(desk.outputs, [Output::Changed { added: vec![], removed: vec![hash(1)] }]);
}

// ---- masters come and go

#[test]
fn a_new_master_begins_with_what_it_followed() {
    let mut desk = follower();
    desk.receive(0, vec![delta(0, 4, &[("a.img", 1, &[1, 2]), ("part.img", 9, &[])], &[])]);
    desk.outputs.clear();
    desk.input(Input::BecameMaster(epoch(2, 5)));
    desk.check(&[("a.img", 1, &[1, 2]), ("mine.img", 50, &[5]), ("part.img", 9, &[])]);
    assert_eq!((desk.catalogue.version(), desk.outputs.len()), (3, 3));
    desk.told(1, 8, &[]);
    desk.check(&[("a.img", 1, &[2]), ("mine.img", 50, &[5]), ("part.img", 9, &[])]);
    desk.advance(CATALOGUE_GRACE);
    desk.check(&[("a.img", 1, &[2]), ("mine.img", 50, &[5])]);
}

#[test]
fn a_part_that_is_claimed_in_time_stays() {
    let mut desk = follower();
    desk.receive(0, vec![delta(0, 4, &[("part.img", 9, &[])], &[])]);
    desk.input(Input::BecameMaster(epoch(2, 5)));
    desk.told(1, 1, &[part("part.img", 9)]);
    desk.advance(CATALOGUE_GRACE);
    desk.check(&[("mine.img", 50, &[5]), ("part.img", 9, &[])]);
}

#[test]
fn the_master_asks_for_holdings_that_it_does_not_know() {
    let mut desk = Desk::master();
    let wanted = Output::Send { to: node(1), message: Message::HoldingsWanted };
    desk.input(Input::Greeted { from: node(1), holdings: 4 });
    assert_eq!(desk.outputs, std::slice::from_ref(&wanted));
    desk.told(1, 4, &[]);
    desk.input(Input::Greeted { from: node(1), holdings: 4 });
    assert_eq!(desk.outputs.len(), 1);
    desk.input(Input::NodeGone(node(1)));
    desk.input(Input::Greeted { from: node(1), holdings: 4 });
    assert_eq!(desk.outputs, [wanted.clone(), wanted]);
}

#[test]
fn whoever_is_asked_for_its_holdings_tells_them() {
    let mut desk = follower();
    desk.input(Input::HoldingsWanted { from: node(3) });
    let message = Message::Holdings(holdings(7, &[image("mine.img", 50)]));
    assert_eq!(desk.outputs.last(), Some(&Output::Send { to: node(3), message }));
}

#[test]
fn a_master_that_lost_a_merge_hands_its_catalogue_over_and_what_was_heard_counts_more() {
    let (mut loser, mut winner) = (Desk::new(1), Desk::master());
    loser.input(Input::BecameMaster(epoch(1, 1)));
    loser.told(2, 1, &[image("a.img", 1), image("b.img", 2)]);
    loser.told(3, 1, &[image("b.img", 2)]);
    winner.told(2, 2, &[image("a.img", 1)]);
    loser.outputs.clear();
    loser.input(Input::Following(epoch(1, 0)));
    winner.receive(1, loser.deltas());
    winner.check(&[("a.img", 1, &[2]), ("b.img", 2, &[3])]);
}

#[test]
fn a_follower_ignores_what_only_a_master_takes() {
    let mut desk = follower();
    desk.outputs.clear();
    desk.told(1, 1, &[image("a.img", 1)]);
    desk.input(Input::Since { from: node(1), version: 0 });
    desk.input(Input::Greeted { from: node(1), holdings: 1 });
    desk.input(Input::NodeForgotten(node(1)));
    desk.check(&[("mine.img", 50, &[5])]);
    assert_eq!(desk.outputs, []);
}

// ---- lookup

#[track_caller]
fn check_lookup(desk: &Desk, text: &str, expected: Result<u16, &str>) {
    let found = desk.catalogue.resolve(text).map(|record| record.info_hash).map_err(|e| e.to_string());
    assert_eq!(found, expected.map(hash).map_err(str::to_owned), "{text}");
}

#[test]
fn images_are_found_by_name_prefix_and_hash() {
    let mut desk = Desk::new(1);
    let images = [image("one.img", 0x1234), image("two.img", 0x1235), image("two.img", 0xabcd), image("a@b.img", 3)];
    desk.input(Input::Mine(holdings(1, &images)));
    check_lookup(&desk, "one.img", Ok(0x1234));
    check_lookup(&desk, "a@b.img", Ok(3));
    check_lookup(&desk, "a@b.img@0003", Ok(3));
    check_lookup(&desk, "two.img@ABCD", Ok(0xabcd));
    check_lookup(&desk, "two.img@1235abab", Ok(0x1235));
    check_lookup(&desk, &hash(0x1234).to_string(), Ok(0x1234));
    check_lookup(&desk, &hash(0x1234).to_string().to_uppercase(), Ok(0x1234));
    let choose = "two.img has several contents; say which: two.img@1235, two.img@abcd";
    check_lookup(&desk, "two.img", Err(choose));
    for none in ["", "three.img", "one.img@", "one.img@123", "one.img@abcd", "one.img@wxyz", &"0".repeat(40), "@"] {
        check_lookup(&desk, none, Err(&format!("no such image: {none} (try: labmesh ls)")));
    }
}

#[test]
fn choices_are_as_long_as_it_takes_to_tell_them_apart() {
    let mut desk = Desk::new(1);
    let mut close = image("x.img", 1);
    close.info_hash.0[4] = 0;
    desk.input(Input::Mine(holdings(1, &[image("x.img", 1), close])));
    let Err(Lookup::Ambiguous { choices, .. }) = desk.catalogue.resolve("x.img") else { panic!() };
    assert_eq!(choices, ["x.img@0001abab0", "x.img@0001ababa"]);
    assert!(choices.iter().all(|choice| desk.catalogue.resolve(choice).is_ok()));
    assert!(matches!(desk.catalogue.resolve("x.img@0001"), Err(Lookup::Ambiguous { .. })));
}

// ---- a mesh of catalogues

/// Nodes that pass each other's messages on as `node.rs` does, over links that may lose them.
struct Mesh {
    desks: Vec<Desk>,
    caches: Vec<Vec<Holding>>,
    versions: u64,
    epoch: Epoch,
    losing: bool,
}

impl Mesh {
    const NODES: u8 = 4;

    fn new() -> Self {
        let desks = (0..Self::NODES).map(Desk::new).collect();
        let caches = vec![Vec::new(); Self::NODES.into()];
        let mut mesh = Self { desks, caches, versions: 0, epoch: Epoch::default(), losing: false };
        mesh.elect(0);
        mesh
    }

    fn elect(&mut self, n: u8) {
        self.epoch = epoch(self.epoch.term + 1, n);
        self.input(n, Input::BecameMaster(self.epoch));
        for other in (0..Self::NODES).filter(|o| *o != n) {
            self.input(other, Input::Following(self.epoch));
        }
    }

    fn cache(&mut self, n: u8, images: Vec<Holding>) {
        self.versions += 1;
        self.caches[usize::from(n)].clone_from(&images);
        self.input(n, Input::Mine(holdings(self.versions, &images)));
    }

    fn input(&mut self, n: u8, input: Input) {
        self.desks[usize::from(n)].input(input);
        self.pass_on();
    }

    fn pass_on(&mut self) {
        while let Some((from, to, message)) = self.next_message() {
            let from = node(from);
            let input = match message {
                _ if self.losing => continue,
                Message::Holdings(holdings) => Input::Holdings { from, holdings },
                Message::HoldingsWanted => Input::HoldingsWanted { from },
                Message::CatalogueSince(version) => Input::Since { from, version },
                Message::Catalogue(delta) => Input::Delta { from, delta },
                other => panic!("not of the catalogue: {other:?}"),
            };
            self.desks[usize::from(to)].input(input);
        }
    }

    fn next_message(&mut self) -> Option<(u8, u8, Message)> {
        for (from, desk) in (0..).zip(&mut self.desks) {
            while !desk.outputs.is_empty() {
                if let Output::Send { to, message } = desk.outputs.remove(0) {
                    return Some((from, to.0[0], message));
                }
            }
        }
        None
    }

    /// Greetings, beats and time, until nothing is missing.
    fn settle(&mut self) {
        self.losing = false;
        for _ in 0..3 {
            let version = self.desks[usize::from(self.epoch.node.0[0])].catalogue.version();
            for n in 0..Self::NODES {
                let mine = self.desks[usize::from(n)].catalogue.mine().version;
                self.input(self.epoch.node.0[0], Input::Greeted { from: node(n), holdings: mine });
                self.input(n, Input::Beat { epoch: self.epoch, version });
                self.desks[usize::from(n)].advance(CATALOGUE_GRACE);
                self.pass_on();
            }
        }
    }

    fn expected(&self) -> BTreeMap<InfoHash, Vec<NodeId>> {
        let mut union = BTreeMap::<InfoHash, Vec<NodeId>>::new();
        for (n, cache) in (0..).zip(&self.caches) {
            for image in cache {
                let holders = union.entry(image.info_hash).or_default();
                holders.extend(image.complete.then(|| node(n)));
            }
        }
        union
    }
}

#[derive(Clone, Debug)]
enum Step {
    Cache(u8, Vec<(u16, bool)>),
    Elect(u8),
    Lose(bool),
    Completed(u16),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let images = prop::collection::btree_map(0..6u16, any::<bool>(), 0..5);
    prop_oneof![
        6 => (0..Mesh::NODES, images).prop_map(|(n, images)| Step::Cache(n, images.into_iter().collect())),
        2 => (0..Mesh::NODES).prop_map(Step::Elect),
        1 => any::<bool>().prop_map(Step::Lose),
        1 => (0..6u16).prop_map(Step::Completed),
        1 => (0..3000u64).prop_map(Step::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    #[test]
    fn in_the_end_everybody_lists_what_the_caches_hold(script in prop::collection::vec(step(), 0..40)) {
        let mut mesh = Mesh::new();
        for step in script {
            match step {
                Step::Cache(n, images) => {
                    let image = |(i, complete): (u16, bool)| Holding { complete, ..image(&format!("i{}.img", i % 4), i) };
                    mesh.cache(n, images.into_iter().map(image).collect());
                }
                Step::Elect(n) => mesh.elect(n),
                Step::Lose(losing) => mesh.losing = losing,
                Step::Completed(i) => {
                    mesh.input(mesh.epoch.node.0[0], Input::Completed { info_hash: hash(i), downloaded: 7 });
                }
                Step::Wait(ms) => {
                    for desk in &mut mesh.desks {
                        desk.advance(Duration::from_millis(ms));
                    }
                    mesh.pass_on();
                }
            }
        }
        mesh.settle();
        let expected = mesh.expected();
        let master = &mesh.desks[usize::from(mesh.epoch.node.0[0])].catalogue;
        for desk in &mesh.desks {
            let listed: BTreeMap<InfoHash, Vec<NodeId>> =
                desk.catalogue.records().map(|r| (r.info_hash, r.holders.clone())).collect();
            prop_assert_eq!(&listed, &expected);
            prop_assert_eq!(desk.catalogue.records().count(), expected.len());
            prop_assert!(desk.catalogue.records().eq(master.records()));
            prop_assert_eq!(desk.catalogue.version(), master.version());
            prop_assert!(desk.catalogue.union.audit().iter().all(|(kept, counted)| kept == counted));
        }
    }
}
