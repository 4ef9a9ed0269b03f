//! What leecher, peer and seeder send, and for how long: measured at the network interface and at a peer connection,
//! not by what the program says of itself.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use labmesh_proto::config::{Mode, SeedTime};

use crate::harness::{MIB, Node, PEER_PORT, escaped, one_master, random_file, same_bytes, scratch, stays, wait_for};
use crate::lab::{Bytes, Host, Lab, Link};
use crate::peer::{HAVE, RawPeer};

const IMAGE: &str = "modes.img";
const LONG: Duration = Duration::from_secs(90);

/// A source that is master and holds the image, and others that may take it, the first of them the next master.
struct Room {
    nodes: Vec<Node>,
    image: PathBuf,
    info_hash: String,
    _dir: tempfile::TempDir,
    lab: Lab,
}

impl Room {
    fn open(link: Link, size: u64, hosts: usize) -> Option<Self> {
        let lab = Lab::open(hosts, link)?;
        let dir = scratch();
        let image = dir.path().join(IMAGE);
        random_file(&image, size, 77);
        let start = |n: usize| {
            let weight = ["60", "50"].get(n).unwrap_or(&"30");
            Node::start(lab.host(n), dir.path(), &format!("pc{:02}", n + 1), &["--weight", weight])
        };
        // The source is there first and the heaviest, so it is master.
        let source = start(0);
        wait_for(Duration::from_secs(10), "the source to be its own master", || {
            (source.role()? == "solo").then_some(())
        });
        let nodes: Vec<Node> = std::iter::once(source).chain((1..hosts).map(start)).collect();
        one_master(&nodes.iter().collect::<Vec<_>>(), Duration::from_secs(15));
        let info_hash = nodes[0].add(&image);
        for node in &nodes {
            node.sees(IMAGE, 1);
        }
        Some(Self { nodes, image, info_hash, _dir: dir, lab })
    }

    fn raw_peer(&self, from: &Host, to: usize) -> RawPeer {
        let addr = SocketAddr::new(self.lab.host(to).addr(), PEER_PORT);
        wait_for(Duration::from_secs(10), "a peer connection", || RawPeer::connect(from, addr, &self.info_hash).ok())
    }

    /// What host `n` has sent since `before` when its node's copy is complete; whole, it may be woken for others at once.
    /// `get` says so up to a tenth of a second later, in which a copy sends 2.5 % at 200 Mbit/s, so the node is asked.
    fn sent_until_complete(&self, n: usize, before: Bytes) -> u64 {
        let mut sent = 0;
        wait_for(LONG, "the leecher to complete", || {
            let now = self.lab.host(n).bytes().since(before).tx;
            let complete = self.nodes[n].percent(IMAGE) >= 100.0;
            sent = if complete { sent } else { now };
            complete.then_some(())
        });
        sent
    }

    /// Bytes a second that host `n` sends now.
    fn sending(&self, n: usize) -> f64 {
        let (begin, before) = (Instant::now(), self.lab.host(n).bytes());
        stays(Duration::from_millis(700), || true);
        self.lab.host(n).bytes().since(before).tx as f64 / begin.elapsed().as_secs_f64()
    }
}

#[test]
fn a_leecher_sends_nothing_a_peer_sends_and_a_seeder_goes_on() {
    let size = 96 * MIB;
    let Some(room) = Room::open(Link::Mbit(200), size, 5) else { return };
    let modes = ["leecher", "peer", "peer", "seeder"];
    let before: Vec<_> = room.lab.hosts().iter().map(Host::bytes).collect();
    let takers = &room.nodes[1..];
    let seed_time = |mode: &str| if mode == "seeder" { vec![] } else { vec!["--seed-time", "0"] };
    let mut gettings: Vec<_> = takers
        .iter()
        .zip(modes)
        .map(|(node, mode)| node.get(IMAGE, &[vec!["--mode", mode], seed_time(mode)].concat()))
        .collect();
    let leeched = room.sent_until_complete(1, before[1]);
    gettings[0].completes(LONG);
    for getting in &mut gettings[1..] {
        getting.completes(LONG);
    }
    let sent = |n: usize| room.lab.host(n).bytes().since(before[n]).tx as f64 / size as f64;
    println!("the leecher sent {:.4} of the image", leeched as f64 / size as f64);
    assert!((leeched as f64) < 0.03 * size as f64, "a leecher sent {leeched} bytes");
    let peers = [sent(2), sent(3), sent(4)];
    println!("peer, peer and seeder sent {peers:.3?} copies");
    assert!(peers.iter().all(|&s| s > 0.05) && peers.iter().sum::<f64>() > 0.5, "peers sent only {peers:.3?} copies");
    for node in takers {
        assert!(same_bytes(&room.image, &node.file(IMAGE)), "{} differs", node.name);
    }

    let state = |n: usize| room.nodes[n].state(IMAGE).unwrap_or_default();
    wait_for(Duration::from_secs(5), "the peer's seed time to end", || (state(2) == "idle").then_some(()));
    assert!(stays(Duration::from_secs(2), || state(4) == "seeding"), "a seeder goes on until it is told to stop");
    assert!(room.nodes[4].transfer(IMAGE).is_some_and(|t| t["seed_left_s"].is_null()));
    room.nodes[4].cli(&["stop", IMAGE]).good();
    wait_for(Duration::from_secs(5), "the seeder to stop", || (state(4) != "seeding").then_some(()));
}

#[test]
fn a_leecher_that_becomes_master_in_mid_download_is_tracker_and_gives_nothing_until_it_is_complete() {
    let size = 96 * MIB;
    let Some(mut room) = Room::open(Link::Mbit(100), size, 4) else { return };
    room.nodes[2].add(&room.image);
    for node in &room.nodes {
        node.sees(IMAGE, 2);
    }
    let before = room.lab.host(1).bytes();
    let mut leecher = room.nodes[1].get(IMAGE, &["--mode", "leecher"]);
    let mut peer = room.nodes[3].get(IMAGE, &[]);
    wait_for(LONG, "a quarter of the image", || (room.nodes[1].percent(IMAGE) > 25.0).then_some(()));
    room.nodes[0].kill_9();
    let left: Vec<_> = room.nodes[1..].iter().collect();
    assert_eq!(one_master(&left, Duration::from_secs(10)), 0, "the heaviest of those who are left");
    let percent = room.nodes[1].percent(IMAGE);
    assert!(percent < 90.0, "it was nearly complete when it became master");

    let hash = escaped(&room.info_hash);
    let announce = format!("/announce?info_hash={hash}&peer_id=-XX0000-stranger0000&port=7000&left=1&compact=0");
    let other_copy = room.lab.host(2).addr().to_string();
    wait_for(Duration::from_secs(5), "the new master's tracker to name the other copy", || {
        let (code, body) = room.nodes[1].page(&announce);
        (code == 200 && String::from_utf8_lossy(&body).contains(&other_copy)).then_some(())
    });
    let sent = room.sent_until_complete(1, before) as f64 / size as f64;
    println!("a leecher that was master from {percent:.0} % on sent {sent:.4} of the image");
    assert!(sent < 0.03, "a leecher that is master sent {sent:.4} of the image");
    leecher.completes(LONG);
    peer.completes(LONG);
    assert!([1, 3].iter().all(|&n| same_bytes(&room.image, &room.nodes[n].file(IMAGE))));
    assert_eq!(room.nodes[1].role().as_deref(), Some("master"));
    // A leecher is idle when it is complete, but for the master.
    let seeds = || (room.nodes[1].state(IMAGE)? == "seeding").then_some(());
    wait_for(Duration::from_secs(5), "the master to seed its copy", seeds);
}

/// A peer that misses everything holds a connection open and reads when the copy becomes whole and when it leaves.
#[test]
fn a_seed_time_of_three_seconds_ends_after_three_seconds() {
    let Some(room) = Room::open(Link::Mbit(200), 64 * MIB, 3) else { return };
    let pieces = 64 * MIB / (256 << 10);
    let mut getting = room.nodes[1].get(IMAGE, &["--seed-time", "3"]);
    let watcher = room.lab.host(2).clone();
    let mut peer = room.raw_peer(&watcher, 1);
    let watch = std::thread::spawn(move || {
        let (mut last, mut haves) = (Instant::now(), 0);
        while peer.read_until(HAVE).expect("it talks").is_some() {
            last = Instant::now();
            haves += 1;
        }
        (last, Instant::now(), haves)
    });
    let (complete, _) = getting.completes(LONG);
    let (last_have, closed, haves) = watch.join().expect("the watcher ends");
    println!("{haves} of {pieces} pieces were announced to the watcher");
    let (shortest, longest) = (closed.duration_since(complete), closed.duration_since(last_have));
    println!("seeded {shortest:?} after `complete`, {longest:?} after the last piece");
    assert!(haves > 0 && longest >= Duration::from_secs(3), "left {longest:?} after its last piece");
    assert!(shortest <= Duration::from_millis(3500), "left {shortest:?} after completion");
    wait_for(Duration::from_secs(1), "the copy to be idle", || (room.nodes[1].state(IMAGE)? == "idle").then_some(()));
}

#[test]
fn enough_ends_when_the_last_one_has_it() {
    let Some(room) = Room::open(Link::Mbit(200), 64 * MIB, 4) else { return };
    let state = |n: usize| room.nodes[n].state(IMAGE).unwrap_or_default();
    let mut first: Vec<_> = [1, 2].map(|n| room.nodes[n].get(IMAGE, &["--seed-time", "enough"])).into();
    room.nodes[1].sees(IMAGE, 1);
    let mut last = room.nodes[3].get(IMAGE, &["--mode", "leecher", "--seed-time", "0"]);
    for getting in &mut first {
        getting.completes(LONG);
    }
    while last.events().iter().all(|(_, v)| v["event"] != "complete") {
        let seeding = [1, 2].map(&state);
        if last.events().iter().all(|(_, v)| v["event"] != "complete") {
            assert!(seeding.iter().all(|s| s != "idle"), "left while somebody misses pieces: {seeding:?}");
        }
    }
    last.completes(LONG);
    // Of those that could leave, the master and the best-ranked other one stay; the master is the source.
    wait_for(Duration::from_secs(10), "one of the two to leave", || {
        [1, 2].iter().any(|&n| state(n) == "idle").then_some(())
    });
    assert!([1, 2].iter().all(|&n| ["idle", "seeding"].contains(&state(n).as_str())));
}

#[test]
fn a_mode_changed_in_mid_transfer_takes_effect_within_a_second_on_the_same_connections() {
    let size = 96 * MIB;
    let Some(room) = Room::open(Link::Mbit(40), size, 3) else { return };
    let (leecher, taker) = (&room.nodes[1], &room.nodes[2]);
    let mut first = leecher.get(IMAGE, &["--mode", "leecher"]);
    wait_for(LONG, "a tenth of the image", || (leecher.percent(IMAGE) > 10.0).then_some(()));
    let mut second = taker.get(IMAGE, &[]);
    let host = room.lab.host(1);
    let between = || -> Vec<_> {
        let other = format!("{}:", room.lab.host(2).addr());
        host.connections(PEER_PORT).into_iter().filter(|c| c.1.starts_with(&other)).collect()
    };
    let connections = wait_for(LONG, "a leecher to be connected too", || Some(between()).filter(|c| !c.is_empty()));
    let silent = room.sending(1);
    assert!(leecher.percent(IMAGE) < 100.0, "complete too early to be a leecher");

    let changed = Instant::now();
    leecher.cli(&["mode", IMAGE, "seeder"]).good();
    wait_for(Duration::from_secs(1), "a seeder to send", || {
        let before = host.bytes();
        stays(Duration::from_millis(100), || true);
        (host.bytes().since(before).tx > 100_000).then_some(())
    });
    println!("from {silent:.0} B/s; sends {:.0} ms after the command", changed.elapsed().as_secs_f64() * 1e3);
    assert!(silent < 150_000.0, "a leecher sent {silent:.0} B/s");
    assert_eq!(between(), connections, "the connections stay");

    leecher.cli(&["mode", IMAGE, "leecher"]).good();
    wait_for(Duration::from_secs(1), "a leecher to be silent", || {
        let before = host.bytes();
        stays(Duration::from_millis(100), || true);
        (host.bytes().since(before).tx < 20_000).then_some(())
    });
    assert_eq!(between(), connections, "the connections stay");
    leecher.cli(&["mode", IMAGE, "peer"]).good();
    first.completes(LONG);
    second.completes(LONG);
    assert!([leecher, taker].iter().all(|n| same_bytes(&room.image, &n.file(IMAGE))));
}

#[test]
fn a_mode_changed_in_mid_transfer_outlives_a_kill() {
    let Some(mut room) = Room::open(Link::Mbit(100), 96 * MIB, 2) else { return };
    let taker = &mut room.nodes[1];
    let _getting = taker.get(IMAGE, &["--mode", "leecher"]);
    wait_for(LONG, "a tenth of the image", || (taker.percent(IMAGE) > 10.0).then_some(()));
    taker.cli(&["mode", IMAGE, "seeder", "10m"]).good();
    let journal = taker.file(&format!("{IMAGE}.part.journal"));
    let written = || labmesh::io::disk::read_journal(&journal).ok().map(|j| (j.mode, j.seed_time));
    let wish = (Mode::Seeder, Some(SeedTime::For(Duration::from_secs(600))));
    wait_for(Duration::from_secs(2), "the journal to say so", || (written()? == wish).then_some(()));
    taker.kill_9();
    taker.restart();
    let mode = wait_for(LONG, "the transfer to go on", || Some(taker.transfer(IMAGE)?["mode"].clone()));
    assert_eq!(mode, "seeder");
    wait_for(LONG, "the copy to be seeded", || (taker.state(IMAGE)? == "seeding").then_some(()));
    let left = taker.transfer(IMAGE).and_then(|t| t["seed_left_s"].as_u64());
    assert!(left.is_some_and(|s| (590..=600).contains(&s)), "{left:?}");
}

/// A source that is busy with one taker has room for a second at once, even if the first gives it nothing.
#[test]
fn a_second_taker_gets_its_share_of_the_source() {
    let size = 96 * MIB;
    let Some(room) = Room::open(Link::Mbit(40), size, 3) else { return };
    let (first, second) = (&room.nodes[1], &room.nodes[2]);
    let _first = first.get(IMAGE, &["--mode", "leecher"]);
    wait_for(LONG, "a tenth of the image", || (first.percent(IMAGE) > 10.0).then_some(()));
    let _second = second.get(IMAGE, &["--mode", "leecher"]);
    wait_for(LONG, "the second to begin", || (second.state(IMAGE)? == "fetching").then_some(()));
    stays(Duration::from_secs(4), || true);
    let shares = [first, second].map(|n| n.percent(IMAGE));
    println!("four seconds later the first has {:.1} %, the second {:.1} %", shares[0], shares[1]);
    // Of the 20 MB that the source sends meanwhile, a quarter.
    assert!(shares[1] > 4.0, "the second taker starves beside the first: {shares:?} %");
}
