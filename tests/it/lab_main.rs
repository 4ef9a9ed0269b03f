//! The main job: eight hosts, one image on one of them, everybody gets it, and in the middle the master is killed
//! and a client too.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{
    Getting, MIB, Node, PEER_PORT, http_get, one_master, random_file, same_bytes, scratch, stays, wait_for,
};
use crate::lab::{Bytes, Connection, Host, Lab, Link};

const IMAGE: &str = "class.img";
const SIZE: u64 = 256 * MIB;
/// Headers of TCP/IP, acknowledgements, control, and the blocks in flight when somebody dies.
const OVERHEAD: f64 = 1.08;
/// Eight copies at 200 Mbit/s take 11 s each at the least, and two cores carry them all.
const LONG: Duration = Duration::from_secs(120);

/// A room in which everybody follows one master.
struct Room {
    nodes: Vec<Node>,
    master: usize,
    image: PathBuf,
    size: u64,
    dir: tempfile::TempDir,
    // Last, so that its hosts outlive the nodes on them.
    lab: Lab,
}

impl Room {
    fn open(hosts: usize, size: u64) -> Option<Self> {
        let lab = Lab::open(hosts, Link::Mbit(200))?;
        let dir = scratch();
        let image = dir.path().join(IMAGE);
        random_file(&image, size, hosts as u64);
        let mut nodes: Vec<Node> =
            lab.hosts().iter().enumerate().map(|(n, host)| prepare(host, dir.path(), n)).collect();
        nodes.iter_mut().for_each(Node::spawn);
        let master = one_master(&nodes.iter().collect::<Vec<_>>(), Duration::from_secs(15));
        Some(Self { nodes, master, image, size, dir, lab })
    }

    /// Everybody but these.
    fn others(&self, without: &[usize]) -> Vec<usize> {
        (0..self.nodes.len()).filter(|n| !without.contains(n)).collect()
    }

    fn pick(&self, who: &[usize]) -> Vec<&Node> {
        who.iter().map(|&n| &self.nodes[n]).collect()
    }

    /// Connections of the peer protocol that have both ends among `who`.
    fn connections(&self, who: &[usize]) -> BTreeSet<(usize, Connection)> {
        let addrs: Vec<String> = who.iter().map(|&n| format!("{}:", self.lab.host(n).addr())).collect();
        let inside = |c: &Connection| addrs.iter().any(|a| c.1.starts_with(a.as_str()));
        who.iter()
            .flat_map(|&n| self.lab.host(n).connections(PEER_PORT).into_iter().filter(inside).map(move |c| (n, c)))
            .collect()
    }

    fn bytes(&self, who: &[usize]) -> Vec<Bytes> {
        who.iter().map(|&n| self.lab.host(n).bytes()).collect()
    }

    /// Waits until `who` have on average so many percent.
    fn reach(&self, who: &[usize], percent: f64) {
        wait_for(LONG, &format!("{percent} % of {IMAGE}"), || {
            let sum: f64 = who.iter().map(|&n| self.nodes[n].percent(IMAGE)).sum();
            (sum / who.len() as f64 >= percent).then_some(())
        });
    }

    /// Every one of `who` has the image, byte for byte.
    #[track_caller]
    fn all_whole(&self, who: &[usize]) {
        for &n in who {
            assert!(same_bytes(&self.image, &self.nodes[n].file(IMAGE)), "{} differs", self.nodes[n].name);
        }
    }

    /// Every one of `who` received little more than one copy since `before`.
    #[track_caller]
    fn nothing_twice(&self, who: &[usize], before: &[Bytes]) {
        for (&n, &before) in who.iter().zip(before) {
            let copies = self.lab.host(n).bytes().since(before).rx as f64 / self.size as f64;
            println!("{} received {copies:.3} copies", self.nodes[n].name);
            assert!(copies < OVERHEAD, "{} received {copies:.3} copies", self.nodes[n].name);
        }
    }

    /// A killed client was started again after `before`: it goes on by itself and fetches only what it had not
    /// on its disk.
    #[track_caller]
    fn resumed(&self, victim: usize, had_percent: f64, before: Bytes) {
        wait_for(LONG, "the killed client to complete", || {
            (self.nodes[victim].percent(IMAGE) >= 100.0 && self.nodes[victim].file(IMAGE).exists()).then_some(())
        });
        let received = self.lab.host(victim).bytes().since(before).rx as f64 / self.size as f64;
        let missing = 1.0 - had_percent / 100.0;
        println!("the killed client missed at most {missing:.3} of the image and received {received:.3}");
        assert!(received < missing * OVERHEAD + 0.02, "received {received:.3} of the image, missed {missing:.3}");
        self.all_whole(&[victim]);
    }
}

fn prepare(host: &Host, dir: &Path, n: usize) -> Node {
    Node::prepare(host, dir, &format!("pc{:02}", n + 1), &["--seed-time", "forever"])
}

/// A ninth host joins when the others are done; in the middle its cable is cut and healed.
fn late_joiner_with_a_bad_cable(room: &mut Room) {
    let number = room.nodes.len();
    let host = room.lab.add_host().clone();
    room.nodes.push(prepare(&host, room.dir.path(), number));
    room.nodes[number].restart();
    room.nodes[number].sees_image();
    let before = host.bytes();
    let mut getting = room.nodes[number].get(IMAGE, &[]);
    room.reach(&[number], 30.0);
    host.unplug();
    let had = room.nodes[number].percent(IMAGE);
    wait_for(Duration::from_secs(10), "the unplugged host to be alone", || {
        (room.nodes[number].role()? != "follower").then_some(())
    });
    assert!(room.nodes[number].percent(IMAGE) >= had, "what it has, it keeps");
    host.plug();
    getting.completes(LONG);
    room.all_whole(&[number]);
    room.nothing_twice(&[number], &[before]);
    one_master(&room.nodes.iter().collect::<Vec<_>>(), Duration::from_secs(30));
}

impl Node {
    fn sees_image(&self) {
        wait_for(Duration::from_secs(20), &format!("{} to see {IMAGE}", self.name), || {
            (!self.listed(IMAGE).is_empty()).then_some(())
        });
    }
}

#[test]
fn all_finish_when_master_and_a_client_die_and_another_full_copy_exists() {
    let Some(mut room) = Room::open(8, SIZE) else { return };
    let master = room.master;
    let clients = room.others(&[master]);
    let (second, victim) = (clients[0], clients[6]);
    let hash = room.nodes[master].add(&room.image);
    assert_eq!(room.nodes[second].add(&room.image), hash, "the same bytes are the same swarm everywhere");
    let survivors = room.others(&[master, victim]);
    for &n in &room.others(&[]) {
        room.nodes[n].sees(IMAGE, 2);
    }

    let takers = room.others(&[master, second]);
    let before = room.bytes(&takers);
    let mut gettings: Vec<Getting> = takers.iter().map(|&n| room.nodes[n].get(IMAGE, &[])).collect();
    room.reach(&takers, 45.0);
    let connections = room.connections(&survivors);
    let had = room.nodes[victim].percent(IMAGE);
    room.nodes[master].kill_9();
    room.nodes[victim].kill_9();
    let killed = Instant::now();
    let old = room.nodes[master].name.clone();
    wait_for(Duration::from_secs(5), "a new master", || (room.nodes[second].master()? != old).then_some(()));
    println!("a new master was seen {:.0} ms after the kill", killed.elapsed().as_secs_f64() * 1e3);
    one_master(&room.pick(&survivors), Duration::from_secs(5));
    let dropped: Vec<_> = connections.difference(&room.connections(&survivors)).cloned().collect();
    let finished = survivors.iter().any(|&n| n != second && room.nodes[n].percent(IMAGE) >= 100.0);
    assert!(finished || dropped.is_empty(), "connections were dropped by the change of master: {dropped:?}");
    assert!(!finished, "somebody was done before the connections could be looked at");

    for (getting, &n) in gettings.iter_mut().zip(&takers) {
        if n != victim {
            getting.completes(LONG);
        }
    }
    room.all_whole(&survivors);
    let alive: Vec<usize> = takers.iter().copied().filter(|&n| n != victim).collect();
    let before: Vec<Bytes> = takers.iter().zip(before).filter(|&(&n, _)| n != victim).map(|(_, b)| b).collect();
    room.nothing_twice(&alive, &before);

    let before = room.lab.host(victim).bytes();
    room.nodes[victim].restart();
    room.resumed(victim, had, before);
    room.nodes[master].restart();
    let everybody = room.others(&[]);
    let unmoved = one_master(&room.pick(&everybody), Duration::from_secs(15));
    assert_ne!(unmoved, master, "a master that comes back unseats nobody");
    late_joiner_with_a_bad_cable(&mut room);
}

/// The words of `status`, `get` and the page while pieces are missing.
fn names_what_is_missing(text: &str, holder: &str) -> bool {
    text.contains("waiting for") && text.contains("pieces") && text.contains(&format!("last seen on {holder}"))
}

/// What a reader sees of a page.
fn without_tags(page: &str) -> String {
    let text: String = page.split('<').map(|part| part.split_once('>').map_or(part, |(_, text)| text)).collect();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn all_wait_and_say_for_what_when_the_only_holder_dies_and_finish_when_it_is_back() {
    let Some(mut room) = Room::open(8, SIZE) else { return };
    let master = room.master;
    let victim = room.others(&[master])[6];
    let takers = room.others(&[master, victim]);
    room.nodes[master].add(&room.image);
    room.nodes[victim].sees(IMAGE, 1);
    for &n in &takers {
        room.nodes[n].sees(IMAGE, 1);
    }
    let before = room.bytes(&takers);
    let mut gettings: Vec<Getting> = takers.iter().map(|&n| room.nodes[n].get(IMAGE, &[])).collect();
    let _ended_with_its_node = room.nodes[victim].get(IMAGE, &[]);
    room.reach(&takers, 40.0);
    let victim_had = room.nodes[victim].percent(IMAGE);
    room.nodes[master].kill_9();
    room.nodes[victim].kill_9();
    let holder = room.nodes[master].name.clone();
    let acting = takers[one_master(&room.pick(&takers), Duration::from_secs(10))];

    for &n in &takers {
        wait_for(Duration::from_secs(30), &format!("{} to wait", room.nodes[n].name), || {
            (room.nodes[n].state(IMAGE)? == "waiting").then_some(())
        });
        // A machine that is gone counts as away after five seconds.
        let says = || names_what_is_missing(&room.nodes[n].cli(&["status"]).good(), &holder).then_some(());
        wait_for(Duration::from_secs(10), &format!("status of {} to name {holder}", room.nodes[n].name), says);
    }
    for getting in &mut gettings {
        let last_seen = |v: &Value| v["last_seen_on"].as_array().is_some_and(|on| on.iter().any(|n| *n == *holder));
        let is_said = |v: &Value| v["missing_pieces"].as_u64() > Some(0) && last_seen(v);
        wait_for(Duration::from_secs(10), &format!("get to name {holder}"), || {
            getting.events().iter().any(|(_, v)| is_said(v)).then_some(())
        });
    }
    let (code, page) = room.nodes[acting].page("/");
    let page = without_tags(&String::from_utf8_lossy(&page));
    assert!(code == 200 && names_what_is_missing(&page, &holder), "the page does not name {holder}: {page}");
    let had: Vec<f64> = takers.iter().map(|&n| room.nodes[n].percent(IMAGE)).collect();
    assert!(had.iter().all(|&h| h < 100.0), "the only copy died too late: {had:?}");
    let keep = |room: &Room| takers.iter().zip(&had).all(|(&n, had)| room.nodes[n].percent(IMAGE) >= *had);
    assert!(stays(Duration::from_secs(1), || keep(&room)));

    let victim_before = room.lab.host(victim).bytes();
    room.nodes[victim].restart();
    wait_for(Duration::from_secs(30), "the killed client to wait too", || {
        (room.nodes[victim].state(IMAGE)? == "waiting").then_some(())
    });
    room.nodes[master].restart();
    for getting in &mut gettings {
        getting.completes(LONG);
    }
    room.all_whole(&takers);
    room.nothing_twice(&takers, &before);
    room.resumed(victim, victim_had, victim_before);
}

#[test]
fn the_wait_ends_when_the_same_image_is_added_elsewhere() {
    let Some(mut room) = Room::open(4, 64 * MIB) else { return };
    let master = room.master;
    let takers = room.others(&[master]);
    room.nodes[master].add(&room.image);
    for &n in &takers {
        room.nodes[n].sees(IMAGE, 1);
    }
    let before = room.bytes(&takers[1..]);
    let mut gettings: Vec<Getting> = takers[1..].iter().map(|&n| room.nodes[n].get(IMAGE, &[])).collect();
    room.reach(&takers[1..], 20.0);
    room.nodes[master].kill_9();
    for &n in &takers[1..] {
        wait_for(Duration::from_secs(30), "the takers to wait", || {
            (room.nodes[n].state(IMAGE)? == "waiting").then_some(())
        });
    }
    room.nodes[takers[0]].add(&room.image);
    for getting in &mut gettings {
        getting.completes(LONG);
    }
    room.all_whole(&takers[1..]);
    room.nothing_twice(&takers[1..], &before);
}

#[test]
fn a_node_alone_serves_pages_within_a_few_seconds() {
    let Some(lab) = Lab::open(1, Link::Unshaped) else { return };
    let dir = scratch();
    let begin = Instant::now();
    let node = Node::start(lab.host(0), dir.path(), "alone", &[]);
    wait_for(Duration::from_secs(5), "the node to be solo", || (node.role()? == "solo").then_some(()));
    println!("solo after {:.0} ms", begin.elapsed().as_secs_f64() * 1e3);
    for path in ["/", "/metrics", "/images/", "/scrape"] {
        let (code, _) = http_get(lab.host(0), (lab.host(0).addr(), crate::harness::HTTP_PORT).into(), path);
        assert_eq!(code, 200, "{path}");
    }
}

/// A suspended PC: its lease runs out, another is master, and it does not come back as the old one.
#[test]
fn a_stopped_master_is_replaced_and_comes_back_as_a_follower() {
    let Some(room) = Room::open(4, MIB) else { return };
    let master = room.master;
    let others = room.others(&[master]);
    room.nodes[master].signal(Signal::STOP);
    let begin = Instant::now();
    let new = others[one_master(&room.pick(&others), Duration::from_secs(10))];
    println!("replaced {:.0} ms after it was stopped", begin.elapsed().as_secs_f64() * 1e3);
    stays(Duration::from_secs(3).saturating_sub(begin.elapsed()), || true);
    room.nodes[master].signal(Signal::CONT);
    let name = room.nodes[new].name.clone();
    wait_for(Duration::from_secs(10), "the old master to follow", || {
        (room.nodes[master].role()? == "follower" && room.nodes[master].master()? == name).then_some(())
    });
    let everybody = room.others(&[]);
    assert_eq!(one_master(&room.pick(&everybody), Duration::from_secs(5)), new);
}

#[test]
fn a_preferred_newcomer_takes_over_and_whom_a_person_wants_then_stays() {
    let Some(mut room) = Room::open(3, MIB) else { return };
    let host = room.lab.add_host().clone();
    room.nodes.push(Node::start(&host, room.dir.path(), "server", &["--weight", "60", "--prefer"]));
    wait_for(Duration::from_secs(10), "the server to be master", || (room.nodes[3].role()? == "master").then_some(()));
    let everybody = room.others(&[]);
    assert_eq!(one_master(&room.pick(&everybody), Duration::from_secs(10)), 3);
    room.nodes[0].cli(&["master", "--claim"]).good();
    assert_eq!(one_master(&room.pick(&everybody), Duration::from_secs(10)), 0);
    assert!(stays(Duration::from_secs(2), || room.nodes[0].role().as_deref() == Some("master")));
}
