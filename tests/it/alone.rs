//! `labmesh get` where no node runs: a client for one download, like aria2c or btdownloadheadless.
//!
//! The trackers are Debian's opentracker with a list of what it tracks, the seed is libtorrent.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;

use crate::clients::{Client, Libtorrent};
use crate::harness::{Alone, Getting, Node, Program, same_bytes, scratch, wait_for};
use crate::lab::{Lab, Link};
use crate::seeder::{IMAGE, Over, counted, opentracker, strangers_file, tools, tracker};

const LONG: Duration = Duration::from_secs(60);

/// A tracker on host 0 that tracks one image, a seed of it on host 1; host 2 is for `get`.
struct Room {
    image: PathBuf,
    torrent: PathBuf,
    hash: String,
    _programs: [Program; 2],
    lab: Lab,
    dir: tempfile::TempDir,
}

impl Room {
    /// With these trackers in the torrent beside that of host 0.
    fn open(link: Link, over: Over, before: &[&str]) -> Option<Self> {
        Self::of(IMAGE, link, over, before)
    }

    fn of(name: &str, link: Link, over: Over, before: &[&str]) -> Option<Self> {
        let lab = Lab::open(3, link).filter(|_| tools())?;
        let dir = scratch();
        let mut tiers: Vec<String> = before.iter().map(|&url| url.to_owned()).collect();
        tiers.push(tracker(over, lab.host(0)));
        let (image, torrent, hash) = strangers_file(dir.path(), name, &tiers);
        let server = opentracker(lab.host(0), dir.path(), &[&hash]);
        let seed = Libtorrent.start(lab.host(1), &torrent, &dir.path().join("stranger"));
        wait_for(LONG, "the seed to announce", || (counted(lab.host(0), &hash).0 == 1).then_some(()));
        Some(Self { image, torrent, hash, _programs: [server, seed], lab, dir })
    }

    fn alone(&self) -> Alone {
        Alone::new(self.lab.host(2), self.dir.path())
    }

    fn torrent(&self) -> &str {
        self.torrent.to_str().expect("the tests' paths are UTF-8")
    }
}

/// The `get` ends by itself, and the copy is good.
#[track_caller]
fn completes(room: &Room, getting: &mut Getting) {
    getting.completes(LONG);
    assert!(same_bytes(&room.image, &room.alone().file(IMAGE)));
}

#[test]
fn an_image_comes_from_the_swarm_of_an_http_tracker_and_the_command_ends() {
    let Some(room) = Room::open(Link::Unshaped, Over::Http, &[]) else { return };
    let alone = room.alone();
    completes(&room, &mut alone.get(room.torrent(), &["--seed-time", "0"]));
    let gone = || (counted(room.lab.host(0), &room.hash) == (1, 0)).then_some(());
    wait_for(LONG, "the tracker to have heard that we left", gone);
    // Said again it has nothing to do, and says so.
    let again = alone.cli(&["get", room.torrent()]).good();
    assert!(again.contains("is here already"), "{again}");
}

/// The URL of the first tier is dead, the second speaks UDP. A leecher gives nothing, so it does not stay.
#[test]
fn an_image_comes_from_a_udp_tracker_behind_a_dead_tier_and_a_leecher_ends() {
    let Some(room) = Room::open(Link::Unshaped, Over::Udp, &["http://10.77.0.1:9/announce"]) else { return };
    completes(&room, &mut room.alone().get(room.torrent(), &["--mode", "leecher"]));
}

/// Goal: no look for a mesh goes before a torrent with trackers of its own. Method: the order of what is seen.
#[test]
fn a_torrent_is_fetched_at_once_and_a_signal_after_the_end_is_no_failure() {
    let Some(room) = Room::open(Link::Unshaped, Over::Http, &[]) else { return };
    let alone = room.alone();
    let mut getting = alone.get(room.torrent(), &["--seed-time", "forever"]);
    let complete = getting.says("complete", LONG);
    assert_eq!(complete["bytes"], fs::metadata(&room.image).expect("it is there").len());
    wait_for(LONG, "the tracker to count us as a seed", || {
        (counted(room.lab.host(0), &room.hash).0 == 2).then_some(())
    });
    getting.signal(Signal::INT);
    let ran = getting.ends(LONG);
    assert_eq!(ran.code, 0, "{}", ran.said());
    assert!(ran.stdout.lines().last().is_some_and(|line| line.contains("\"complete\"")), "{}", ran.said());
}

/// Ended half way it is a failure, and the same command goes on with what is here.
#[test]
fn a_get_that_was_ended_half_way_goes_on() {
    let Some(room) = Room::open(Link::Mbit(100), Over::Http, &[]) else { return };
    let alone = room.alone();
    let mut getting = alone.get(room.torrent(), &["--seed-time", "0"]);
    getting.says_more_than(LONG, 20.0);
    getting.signal(Signal::INT);
    getting.ends(LONG).refused(1, &["is kept"]);
    assert!(Path::new(&alone.file(&format!("{IMAGE}.part"))).exists());
    let mut again = alone.get(room.torrent(), &["--seed-time", "0"]);
    completes(&room, &mut again);
    let fetching = again.events().iter().find(|(_, event)| event["event"] == "fetching");
    let first = fetching.and_then(|(_, event)| event["percent"].as_f64()).expect("it says how far it is");
    assert!(first >= 15.0, "it began at {first} %");
}

/// A whole image that was never read is not fetched again into a partial copy beside it.
#[test]
fn what_lies_in_the_cache_is_looked_at_first() {
    let Some(room) = Room::open(Link::Unshaped, Over::Http, &[]) else { return };
    let alone = room.alone();
    fs::create_dir_all(alone.file("")).expect("the cache can be made");
    fs::copy(&room.image, alone.file(IMAGE)).expect("the cache can be written to");
    fs::copy(&room.torrent, alone.file(&format!("{IMAGE}.torrent"))).expect("the cache can be written to");
    let said = alone.cli(&["get", room.torrent()]).good();
    assert!(said.contains("is here already"), "{said}");
    // One seed, of which there is one file: who was told to seed it does, for as long as was said.
    let mut seeding = alone.get(room.torrent(), &["--seed-time", "600"]);
    wait_for(LONG, "the tracker to count us as a seed", || {
        (counted(room.lab.host(0), &room.hash).0 == 2).then_some(())
    });
    assert!(seeding.events().iter().any(|(_, event)| event["event"] == "complete"));
}

/// A file that does not end like an image is one by its torrent: over restarts, and to a second `get`.
#[test]
fn a_file_of_any_name_is_an_image_by_its_torrent() {
    let Some(room) = Room::of("data.bin", Link::Unshaped, Over::Http, &[]) else { return };
    let mut node = Node::start(room.lab.host(2), room.dir.path(), "keeper", &[]);
    node.get(room.torrent(), &[]).completes(LONG);
    assert!(same_bytes(&room.image, &node.file("data.bin")));
    assert!(node.stop().success());
    node.restart();
    assert_eq!(node.sees("data.bin", 1)["info_hash"], room.hash.as_str());
    let again = node.cli(&["get", room.torrent()]).good();
    assert!(again.contains("is here already"), "{again}");
    assert!(!node.log_text().contains("is skipped"), "{}", node.log_text());

    // Something else has the name: that is said before anything is fetched, and it can be set aside.
    node.cli(&["rm", "--yes", "data.bin"]).good();
    fs::write(node.file("data.bin"), b"somebody's work").expect("the cache can be written to");
    node.cli(&["get", room.torrent()]).refused(1, &["a file of that name is there", "--replace"]);
    assert_eq!(fs::read(node.file("data.bin")).expect("it is there"), b"somebody's work");
    node.cli(&["get", room.torrent(), "--replace"]).good();
    assert!(same_bytes(&room.image, &node.file("data.bin")));
    assert_eq!(fs::read(node.file("data.bin.ant")).expect("it was set aside"), b"somebody's work");
}

/// Goal: an image that is wanted elsewhere takes its space once. Method: where the file system shares no blocks, the
/// cache lets go of it; while it is seeded both names are one file.
#[test]
fn an_image_that_is_put_elsewhere_takes_its_space_once() {
    let Some(room) = Room::open(Link::Unshaped, Over::Http, &[]) else { return };
    let alone = room.alone();
    let nowhere = room.dir.path().join("none/x.img");
    let asked = alone.cli(&["get", room.torrent(), "-o", nowhere.to_str().expect("UTF-8")]);
    asked.refused(1, &["cannot write to the folder", "none"]);
    assert!(!alone.file("").exists(), "that was said before a node was started");
    let output = room.dir.path().join("x.img");
    let words = ["-o", output.to_str().expect("UTF-8"), "--seed-time", "0"];
    let complete = alone.get(room.torrent(), &words).completes(LONG).1;
    assert_eq!(complete["path"], output.to_str().expect("UTF-8"));
    assert!(same_bytes(&room.image, &output));
    assert_eq!(fs::metadata(&output).expect("it is there").nlink(), 1);
    let shares_blocks = alone.file(IMAGE).exists();
    assert!(shares_blocks || !alone.file(&format!("{IMAGE}.torrent")).exists(), "nothing of it is left in the cache");
}
