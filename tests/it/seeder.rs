//! What the old seeder did: a folder that a node watches, with torrents of other people's trackers in it.
//!
//! The tracker is Debian's opentracker with a list of what it tracks, the other clients are libtorrent and aria2.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::clients::{Aria2, Client, Libtorrent, installed, spawn};
use crate::faults::Mount;
use crate::foreign::{libtorrent_hash, mktorrent};
use crate::harness::{
    HTTP_PORT, MIB, Node, PEER_PORT, Program, escaped, http_get, one_master, random_file, same_bytes, scratch, stays,
    wait_for,
};
use crate::lab::{Host, Lab, Link};
use crate::tracker::peers;

/// With a space and letters that a URL does not have.
pub(crate) const IMAGE: &str = "Aula 3 \u{f1}and\u{fa}.img";
const SIZE: u64 = 24 * MIB + 321;
const LONG: Duration = Duration::from_secs(60);

/// How a tracker is spoken to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Over {
    Http,
    Udp,
}

/// The announce URL of a tracker on that host.
pub(crate) fn tracker(over: Over, host: &Host) -> String {
    match over {
        Over::Http => format!("http://{}:{HTTP_PORT}/announce", host.addr()),
        Over::Udp => format!("udp://{}:{HTTP_PORT}/announce", host.addr()),
    }
}

/// Debian's opentracker on a host, tracking these and nothing else.
pub(crate) fn opentracker(host: &Host, dir: &Path, hashes: &[&str]) -> Program {
    let root = dir.join("opentracker");
    fs::create_dir_all(&root).expect("a folder can be made");
    fs::set_permissions(&root, fs::Permissions::from_mode(0o755)).expect("it is ours");
    fs::write(root.join("whitelist.txt"), hashes.join("\n") + "\n").expect("the list can be written");
    let (addr, port) = (host.addr().to_string(), HTTP_PORT.to_string());
    let mut command = host.command("opentracker");
    command.args(["-i", &addr, "-p", &port, "-P", &port, "-w", "whitelist.txt", "-d"]).arg(&root).current_dir(&root);
    let program = spawn(command, &root);
    wait_for(Duration::from_secs(10), "opentracker to answer", || {
        host.enter(|| std::net::TcpStream::connect((host.addr(), HTTP_PORT)).ok())
    });
    program
}

/// Seeds and others that the tracker on a host counts for an image.
pub(crate) fn counted(host: &Host, hash: &str) -> (u32, u32) {
    let (_, body) = http_get(host, (host.addr(), HTTP_PORT).into(), &format!("/scrape?info_hash={}", escaped(hash)));
    let text = String::from_utf8_lossy(&body).into_owned();
    let number = |key: &str| {
        let digits = text.split(key).nth(1).unwrap_or("i0e").trim_start_matches('i');
        digits.split('e').next().and_then(|n| n.parse().ok()).unwrap_or(0)
    };
    (number("8:complete"), number("10:incomplete"))
}

/// Whether the tracker on a host hands out the peer port of another: it is asked as one more client would.
fn hands_out(tracker: &Host, hash: &str, other: &Host) -> bool {
    let query = format!("info_hash={}&peer_id=-XX0001-012345678901&port=9&left=1&compact=1&numwant=50", escaped(hash));
    let (_, body) = http_get(tracker, (tracker.addr(), HTTP_PORT).into(), &format!("/announce?{query}"));
    peers(&body).into_iter().any(|peer| SocketAddr::V4(peer) == SocketAddr::new(other.addr(), PEER_PORT))
}

/// An image in a stranger's folder, its torrent by mktorrent with these trackers, and its info hash.
pub(crate) fn strangers_image(dir: &Path, trackers: &[String]) -> (PathBuf, PathBuf, String) {
    strangers_file(dir, IMAGE, trackers)
}

/// The same, by another name.
pub(crate) fn strangers_file(dir: &Path, name: &str, trackers: &[String]) -> (PathBuf, PathBuf, String) {
    let folder = dir.join("stranger");
    fs::create_dir(&folder).expect("a folder can be made");
    let (image, torrent) = (folder.join(name), dir.join("made elsewhere.torrent"));
    random_file(&image, SIZE, 11);
    mktorrent(&image, &torrent, &trackers.join(","), 18);
    let hash = libtorrent_hash(&torrent);
    (image, torrent, hash)
}

pub(crate) fn tools() -> bool {
    Libtorrent.installed() && Aria2.installed() && installed("mktorrent", &["-h"]) && opentracker_installed()
}

/// Nobody asks it, so the torrent waits for other ways to its peers, and whoever looks is told why.
#[test]
fn a_torrent_whose_only_tracker_cannot_be_asked_says_so_everywhere() {
    const WORDS: &str = "https://tracker.example: trackers are asked over http and udp, not over https";
    if !tools() {
        return;
    }
    let dir = scratch();
    let (_, torrent, _) = strangers_image(dir.path(), &["https://tracker.example/announce?passkey=secret".to_owned()]);
    let node = Node::start(&Host::loopback(81), dir.path(), "keeper", &["--mesh", "unspoken"]);
    drop_into(&node, &torrent);
    wait_for(LONG, "the torrent to wait", || (node.state(IMAGE)? == "waiting").then_some(()));
    assert_eq!(node.transfer(IMAGE).expect("it waits")["tracker"], WORDS);
    let said = node.get(&torrent.to_string_lossy(), &[]).says("waiting", LONG);
    assert!(said["detail"].as_str().is_some_and(|detail| detail.ends_with(WORDS)), "{said}");
    let page = String::from_utf8_lossy(&node.page("/").1).into_owned();
    let (status, log) = (node.cli(&["status"]).good(), node.log_text());
    for text in [page, status, log] {
        assert!(text.contains(WORDS) && !text.contains("secret"), "{text}");
    }
}

/// Goal: an image that is put elsewhere takes its space once and is nobody else's. Method: a file system of that kind,
/// its free blocks before and after, and a write into what was put out.
fn takes_its_space_once_on(kind: &str, n: u8) {
    const SPACE: u64 = 48 * MIB;
    let dir = scratch();
    let mesh = format!("on-{kind}");
    let mut node = Node::prepare(&Host::loopback(n), dir.path(), "keeper", &["--mesh", &mesh]);
    let Some(_mount) = Mount::with_shared_blocks(kind, &dir.path().join("disk"), &node.cache()) else { return };
    let image = dir.path().join("large.img");
    random_file(&image, SPACE, 4);
    node.restart();
    node.add(&image);
    let free = || {
        rustix::fs::sync();
        let space = rustix::fs::statvfs(node.cache()).expect("it is mounted");
        space.f_bfree * space.f_frsize
    };
    let before = free();
    let out = node.file("put out.bin");
    node.cli(&["get", "large.img", "-o", out.to_str().expect("UTF-8")]).good();
    let taken = before.saturating_sub(free());
    println!("{kind}: {} KiB taken for a second file of {} MiB", taken / 1024, SPACE / MIB);
    assert!(taken < SPACE / 8, "{taken} bytes taken on {kind}");
    assert!(same_bytes(&image, &out));
    let numbers = [&out, &node.file("large.img")].map(|file| fs::metadata(file).expect("it is there").ino());
    assert_ne!(numbers[0], numbers[1], "two names of one file would change together");
    fs::write(&out, b"somebody's work").expect("it is theirs");
    assert!(same_bytes(&image, &node.file("large.img")));
    assert!(node.stop().success());
}

#[test]
fn an_image_takes_its_space_once_on_btrfs() {
    takes_its_space_once_on("btrfs", 79);
}

#[test]
fn an_image_takes_its_space_once_on_xfs() {
    takes_its_space_once_on("xfs", 80);
}

/// Goal: sizes and times tell that an image is the one that its torrent was made of, so that a start reads none of it.
/// Method: what the process has read, once it has looked at all of them twice.
#[test]
fn five_hundred_unchanged_images_are_not_read_again_at_a_start() {
    const IMAGES: u64 = 500;
    let dir = scratch();
    let mut node = Node::prepare(&Host::loopback(78), dir.path(), "keeper", &["--mesh", "five-hundred"]);
    for n in 0..IMAGES {
        random_file(&node.file(&format!("image {n}.img")), MIB, n);
    }
    let offered = |node: &Node| {
        wait_for(LONG, "all images to be offered", || {
            let rows = node.json(&["ls"]);
            let here = rows.as_array()?.iter().filter(|row| row["here"] == true);
            let hashes: Vec<String> = here.map(|row| format!("{} {}", row["name"], row["info_hash"])).collect();
            (hashes.len() as u64 == IMAGES).then_some(hashes)
        })
    };
    node.restart();
    let before = offered(&node);
    let sums = || (0..IMAGES).filter(|n| node.file(&format!("image {n}.img.full.sum")).exists()).count() as u64;
    wait_for(LONG, "all sums to be there", || (sums() == IMAGES).then_some(()));
    assert!(node.bytes_read() > IMAGES * MIB, "reads are counted");
    assert!(node.stop().success());
    let times = |node: &Node| {
        let about = |n| fs::metadata(node.file(&format!("image {n}.img.torrent"))).expect("a sidecar").mtime_nsec();
        (0..IMAGES).map(about).collect::<Vec<_>>()
    };
    let written = times(&node);
    node.restart();
    assert_eq!(offered(&node), before);
    node.cli(&["rescan"]).good();
    let read = node.bytes_read();
    println!("{} KiB read for {IMAGES} images of 1 MiB", read / 1024);
    assert!(read < IMAGES * 8 * 1024, "{read} bytes read for {IMAGES} images that did not change");
    assert_eq!(times(&node), written, "no torrent was written again");
}

fn opentracker_installed() -> bool {
    let found = Path::new("/usr/bin/opentracker").exists();
    if !found {
        eprintln!("SKIPPED: opentracker is not installed; tests/run installs it");
    }
    found
}

fn drop_into(node: &Node, torrent: &Path) {
    fs::copy(torrent, node.file(&format!("{IMAGE}.torrent"))).expect("the cache can be written to");
}

#[track_caller]
fn arrives_at(node: &Node, image: &Path) {
    let what = format!("{} to have {IMAGE}", node.name);
    wait_for(LONG, &what, || (node.state(IMAGE)? == "seeding" && same_bytes(image, &node.file(IMAGE))).then_some(()));
}

/// The whole life of a torrent that is dropped into a cache: fetched from its own tracker's swarm, seeded there when
/// the first seed is gone, and let go when the torrent is removed.
fn lives_in_the_swarm_of_another_tracker(over: Over) {
    let Some(lab) = Lab::open(4, Link::Unshaped).filter(|_| tools()) else { return };
    let dir = scratch();
    let (image, torrent, hash) = strangers_image(dir.path(), &[tracker(over, lab.host(0))]);
    let _tracker = opentracker(lab.host(0), dir.path(), &[&hash]);
    let seed = Libtorrent.start(lab.host(1), &torrent, &dir.path().join("stranger"));
    wait_for(LONG, "the seed to announce", || (counted(lab.host(0), &hash).0 == 1).then_some(()));

    let mut node = Node::start(lab.host(2), dir.path(), "keeper", &[]);
    drop_into(&node, &torrent);
    arrives_at(&node, &image);
    wait_for(LONG, "the tracker to count us as a seed", || (counted(lab.host(0), &hash).0 == 2).then_some(()));
    assert_eq!(fs::read(&torrent).expect("readable"), fs::read(node.file(&format!("{IMAGE}.torrent"))).expect("there"));

    // The first seed is gone: who comes now has it of us.
    drop(seed);
    let folder = dir.path().join("latecomer");
    fs::create_dir(&folder).expect("a folder can be made");
    let _latecomer = Aria2.start(lab.host(3), &torrent, &folder);
    wait_for(LONG, "the latecomer", || same_bytes(&image, &folder.join(IMAGE)).then_some(()));

    // Over a restart it goes on without a word; a clean end says so to the tracker.
    assert!(node.stop().success());
    node.restart();
    arrives_at(&node, &image);
    wait_for(LONG, "it to be handed out again", || hands_out(lab.host(0), &hash, lab.host(2)).then_some(()));
    fs::remove_file(node.file(&format!("{IMAGE}.torrent"))).expect("it is there");
    wait_for(LONG, "the offer to end", || node.listed(IMAGE).is_empty().then_some(()));
    // Not by its counts: the latecomer may still be on its way to being counted as a seed.
    let gone = || (!hands_out(lab.host(0), &hash, lab.host(2))).then_some(());
    wait_for(LONG, "the tracker to have heard that we left", gone);
    assert!(node.file(IMAGE).exists(), "the image itself stays");
}

#[test]
fn a_dropped_torrent_lives_in_the_swarm_of_its_http_tracker() {
    lives_in_the_swarm_of_another_tracker(Over::Http);
}

#[test]
fn a_dropped_torrent_lives_in_the_swarm_of_its_udp_tracker() {
    lives_in_the_swarm_of_another_tracker(Over::Udp);
}

/// Half of an image lies there already: only the other half is fetched. And with all of it nothing is.
#[test]
fn a_partial_image_is_completed_and_a_whole_one_only_seeded() {
    let Some(lab) = Lab::open(4, Link::Unshaped).filter(|_| tools()) else { return };
    let dir = scratch();
    let (image, torrent, hash) = strangers_image(dir.path(), &[tracker(Over::Http, lab.host(0))]);
    let _tracker = opentracker(lab.host(0), dir.path(), &[&hash]);
    let _seed = Libtorrent.start(lab.host(1), &torrent, &dir.path().join("stranger"));
    wait_for(LONG, "the seed to announce", || (counted(lab.host(0), &hash).0 == 1).then_some(()));

    let node = Node::start(lab.host(2), dir.path(), "half", &["--mesh", "half"]);
    let bytes = fs::read(&image).expect("readable");
    fs::write(node.file(IMAGE), &bytes[..bytes.len() / 2]).expect("the cache can be written to");
    drop_into(&node, &torrent);
    arrives_at(&node, &image);
    let downloaded = node.transfer(IMAGE).expect("it seeds")["downloaded"].as_u64().expect("a number");
    assert!((SIZE / 2..SIZE / 2 + 2 * MIB).contains(&downloaded), "{downloaded} of {SIZE}");

    let whole = Node::start(lab.host(3), dir.path(), "whole", &["--mesh", "whole"]);
    fs::copy(&image, whole.file(IMAGE)).expect("the cache can be written to");
    drop_into(&whole, &torrent);
    arrives_at(&whole, &image);
    assert_eq!(whole.transfer(IMAGE).expect("it seeds")["downloaded"], 0);
    wait_for(LONG, "all three to be counted", || (counted(lab.host(0), &hash).0 == 3).then_some(()));
}

/// The tracker in the torrent is dead, the next tier does not know it; the mesh has the image, the other way round too.
#[test]
fn a_dropped_torrent_is_fetched_from_the_mesh_too_and_passed_on() {
    let Some(lab) = Lab::open(4, Link::Unshaped).filter(|_| tools()) else { return };
    let dir = scratch();
    let dead = format!("http://{}:9/announce", lab.host(0).addr());
    let (image, torrent, hash) = strangers_image(dir.path(), &[dead, tracker(Over::Http, lab.host(0))]);
    let _tracker = opentracker(lab.host(0), dir.path(), &["0000000000000000000000000000000000000001"]);
    let nodes = [1, 2, 3].map(|n| Node::start(lab.host(n), dir.path(), &format!("pc{n}"), &[]));
    one_master(&[&nodes[0], &nodes[1], &nodes[2]], Duration::from_secs(15));

    // It waits as long as nobody has it, and goes on when somebody brings the image.
    drop_into(&nodes[0], &torrent);
    wait_for(LONG, "the transfer to wait", || (nodes[0].state(IMAGE)? == "waiting").then_some(()));
    wait_for(LONG, "both trackers to be tried", || {
        let log = nodes[0].log_text();
        (log.contains("not authorized") && log.contains(":9")).then_some(())
    });
    fs::copy(&torrent, nodes[1].file(&format!("{IMAGE}.torrent"))).expect("the cache can be written to");
    fs::copy(&image, nodes[1].file(IMAGE)).expect("the cache can be written to");
    arrives_at(&nodes[0], &image);
    assert_eq!(nodes[0].sees(IMAGE, 2)["info_hash"], hash.as_str());
    nodes[2].get(IMAGE, &[]).completes(LONG);
    assert!(same_bytes(&image, &nodes[2].file(IMAGE)));
    let log = nodes[2].log_text();
    assert!(!log.contains("its tracker"), "who fetches by name asks nobody outside: {log}");
}

/// A torrent of another name than its image; removing it in mid-transfer ends the transfer, over restarts too, and
/// what is there is used when it is dropped again.
#[test]
fn removing_a_torrent_ends_its_transfer_until_it_is_dropped_again() {
    let dir = scratch();
    let Some(lab) = Lab::open(2, Link::Unshaped).filter(|_| tools()) else { return };
    let (image, torrent, hash) = strangers_image(dir.path(), &["http://10.77.0.200:6969/announce".to_owned()]);
    let mut node = Node::prepare(lab.host(0), dir.path(), "keeper", &["--seed-time", "0"]);
    // Half is there.
    fs::create_dir(node.file("ou1")).expect("the cache can be written to");
    let bytes = fs::read(&image).expect("readable");
    fs::write(node.file("ou1").join(IMAGE), &bytes[..bytes.len() / 2]).expect("the cache can be written to");
    node.restart();
    let dropped = node.file("ou1/some other name.torrent");
    fs::copy(&torrent, &dropped).expect("the cache can be written to");
    let name = format!("ou1/{IMAGE}");
    let waits = |node: &Node| (node.state(&name)? == "waiting" && node.percent(&name) > 45.0).then_some(());
    wait_for(LONG, "it to be taken as half a copy", || waits(&node));
    fs::remove_file(&dropped).expect("it is there");
    wait_for(LONG, "the transfer to end", || node.transfer(&name).is_none().then_some(()));
    assert!(node.file(&format!("{name}.part")).exists(), "what is there stays");
    node.stop();
    node.restart();
    node.cli(&["rescan"]).good();
    assert!(node.transfer(&name).is_none(), "nobody asks for it");
    fs::copy(&torrent, &dropped).expect("the cache can be written to");
    wait_for(LONG, "it to go on", || waits(&node));

    // Stopped by renaming, as btlaunchmany's users do, and started again.
    let inactive = node.file("ou1/some other name.torrent.inactive");
    fs::rename(&dropped, &inactive).expect("it is there");
    wait_for(LONG, "it to stop", || (node.state(&name)? == "stopped").then_some(()));
    fs::rename(&inactive, &dropped).expect("it is there");
    wait_for(LONG, "it to start", || waits(&node));
    assert_eq!(node.transfer(&name).expect("it waits")["info_hash"], hash.as_str());
}

/// A file that is something else is nobody's partial copy: it is not touched.
#[test]
fn an_image_of_other_content_is_left_alone() {
    if !tools() {
        return;
    }
    let dir = scratch();
    let (_, torrent, _) = strangers_image(dir.path(), &["http://127.0.0.1:9/announce".to_owned()]);
    let node = Node::start(&Host::loopback(31), dir.path(), "keeper", &["--mesh", "leave"]);
    fs::write(node.file(IMAGE), b"somebody's work").expect("the cache can be written to");
    drop_into(&node, &torrent);
    wait_for(LONG, "it to be looked at", || node.log_text().contains("0 of 97 pieces").then_some(()));
    assert_eq!(fs::read(node.file(IMAGE)).expect("it is there"), b"somebody's work");
    assert!(node.transfer(IMAGE).is_none() && !node.file(&format!("{IMAGE}.part")).exists());
}

/// Renamed with its torrent an image is the same swarm under another name, and is not read again.
#[test]
fn a_renamed_image_keeps_its_swarm_and_is_not_read_again() {
    let dir = scratch();
    let node = Node::start(&Host::loopback(32), dir.path(), "keeper", &["--mesh", "rename"]);
    random_file(&node.file("old.img"), 3 * MIB, 1);
    let hash = node.sees("old.img", 1)["info_hash"].clone();
    wait_for(LONG, "its sums", || node.file("old.img.full.sum").exists().then_some(()));
    for suffix in ["", ".torrent", ".sum", ".full.sum"] {
        fs::rename(node.file(&format!("old.img{suffix}")), node.file(&format!("new name.img{suffix}"))).expect("there");
    }
    assert_eq!(node.sees("new name.img", 1)["info_hash"], hash);
    assert!(node.listed("old.img").is_empty());
    assert_eq!(node.log_text().matches("is being hashed").count(), 1);
}

/// A library that is not mounted yet when the node starts: nothing tells of what a mount brings, but it is read again.
/// It is read-only, and its torrents are kept elsewhere. Every file is an image there.
#[test]
fn a_library_that_is_mounted_later_is_found_by_reading_again() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: mounting needs root");
        return;
    }
    let dir = scratch();
    let (library, torrents) = (dir.path().join("library"), dir.path().join("torrents"));
    fs::create_dir(&library).expect("a folder can be made");
    let node = Node::prepare(&Host::loopback(33), dir.path(), "keeper", &["--mesh", "library"]);
    let text = format!(
        "library = [{library:?}]\ntorrents = {torrents:?}\nrescan_interval = \"1s\"\nextensions = [\"*\"]\n\
         file_owner = \"1\"\nfile_group = 2\nfile_mode = \"0640\"\n"
    );
    fs::write(node.config(), text).expect("the configuration can be written");
    let mut node = node;
    node.restart();
    let mounted = Mounted::tmpfs(&library);
    fs::create_dir(library.join("ou 1")).expect("it is mounted");
    random_file(&library.join("ou 1/no ending"), MIB, 3);
    mounted.remount_read_only();
    node.sees("ou 1/no ending", 1);
    let torrent = torrents.join("ou 1/no ending.torrent");
    let about = torrent.metadata().expect("torrents have a folder of their own");
    assert_eq!((about.uid(), about.gid(), about.mode() & 0o777), (1, 2, 0o640));
    // The server is away, and comes back.
    drop(mounted);
    wait_for(LONG, "the image to be gone", || node.listed("ou 1/no ending").is_empty().then_some(()));
}

/// A file system in memory on a folder.
struct Mounted(PathBuf);

impl Mounted {
    fn tmpfs(folder: &Path) -> Self {
        let done = Command::new("mount").args(["-t", "tmpfs", "none"]).arg(folder).status();
        assert!(done.is_ok_and(|s| s.success()), "root may mount");
        Self(folder.to_owned())
    }

    fn remount_read_only(&self) {
        let done = Command::new("mount").args(["-o", "remount,ro"]).arg(&self.0).status();
        assert!(done.is_ok_and(|s| s.success()), "root may mount");
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Lazily, since the node may be reading it.
        let _ = Command::new("umount").arg("-l").arg(&self.0).stderr(Stdio::null()).status();
    }
}

/// With `check_hashes = false` what lies there is believed, as btlaunchmany does on request.
#[test]
fn what_is_there_is_believed_on_request() {
    if !tools() {
        return;
    }
    let dir = scratch();
    let (_, torrent, hash) = strangers_image(dir.path(), &["http://127.0.0.1:9/announce".to_owned()]);
    let mut node = Node::prepare(&Host::loopback(34), dir.path(), "keeper", &["--mesh", "trust"]);
    fs::write(node.config(), "check_hashes = false\n").expect("the configuration can be written");
    random_file(&node.file(IMAGE), SIZE, 12);
    drop_into(&node, &torrent);
    node.restart();
    assert_eq!(node.sees(IMAGE, 1)["info_hash"], hash.as_str(), "other bytes of the same length");

    // Asked to look, it sees.
    fs::write(node.config(), "").expect("the configuration can be written");
    node.stop();
    fs::remove_dir_all(dir.path().join("keeper/state")).expect("it is there");
    node.restart();
    wait_for(LONG, "it to be looked at", || node.log_text().contains("is not offered").then_some(()));
    assert!(stays(Duration::from_secs(1), || node.listed(IMAGE).is_empty()));
}

/// `rm` answers when the files are gone: a `get` right after it used to lose what it had begun.
#[test]
fn what_was_deleted_can_be_fetched_at_once_and_what_is_locked_stays() {
    let Some(lab) = Lab::open(2, Link::Unshaped) else { return };
    let dir = scratch();
    let image = dir.path().join("room.img");
    random_file(&image, 3 * MIB, 41);
    let nodes = [0, 1].map(|n| Node::start(lab.host(n), dir.path(), &format!("pc{n:02}"), &[]));
    nodes[0].add(&image);
    nodes[1].sees("room.img", 1);
    let copy = nodes[1].file("room.img");
    for _ in 0..10 {
        nodes[1].cli(&["get", "room.img"]).good();
        assert!(same_bytes(&image, &copy));
        nodes[1].cli(&["rm", "--yes", "room.img"]).good();
        assert!(!copy.exists() && nodes[1].transfer("room.img").is_none());
    }
    nodes[1].cli(&["get", "room.img"]).good();
    let lock = nodes[1].file("room.img.lock");
    fs::write(&lock, "").expect("the cache can be written to");
    nodes[1].cli(&["rm", "--yes", "room.img"]).refused(1, &["room.img is not deleted", "room.img.lock"]);
    assert_eq!(nodes[1].state("room.img").as_deref(), Some("seeding"));
    fs::remove_file(lock).expect("it is there");
    nodes[1].cli(&["rm", "--yes", "room.img"]).good();
}
