//! aria2, Transmission, libtorrent, ctorrent, rTorrent and rqbit in our swarm, and we in theirs; our info hashes beside
//! those of other makers.
//!
//! A client that is not installed skips its test and says so; `tests/run` installs them all but rqbit.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;

use crate::clients::{
    Aria2, Client, Ctorrent, Libtorrent, Rqbit, Rtorrent, Transmission, installed, libtorrent_client,
};
use crate::harness::{HTTP_PORT, MIB, Node, escaped, one_master, random_file, same_bytes, scratch, wait_for};
use crate::lab::{Host, Lab, Link};

pub(crate) const IMAGE: &str = "foreign.img";
const SIZE: u64 = 48 * MIB + 12_345;
const LONG: Duration = Duration::from_secs(90);

/// Waits until the folder holds the image, byte for byte: clients reserve the whole file before they fill it.
#[track_caller]
pub(crate) fn arrives(folder: &Path, image: &Path) {
    wait_for(LONG, &format!("{}", folder.join(IMAGE).display()), || {
        same_bytes(image, &folder.join(IMAGE)).then_some(())
    });
}

/// The torrent as a node hands it out, for strangers.
#[track_caller]
fn handed_out(node: &Node, hash: &str, dir: &Path) -> PathBuf {
    let (code, torrent) = node.page(&format!("/file?info_hash={}", escaped(hash)));
    assert_eq!(code, 200);
    let path = dir.join("fetched.torrent");
    fs::write(&path, torrent).expect("the torrent can be written");
    path
}

/// An empty folder of a stranger.
fn folder_of(stranger: &str, dir: &Path) -> PathBuf {
    let folder = dir.join(stranger);
    fs::create_dir(&folder).expect("a folder can be made");
    folder
}

/// A labmesh master with an image on the first host, another labmesh node on the second, a stranger on the third.
fn downloads_from_us(client: &dyn Client) {
    let Some(lab) = Lab::open(3, Link::Unshaped).filter(|_| client.installed()) else { return };
    let dir = scratch();
    let image = dir.path().join(IMAGE);
    random_file(&image, SIZE, 5);
    let nodes = [0, 1].map(|n| Node::start(lab.host(n), dir.path(), &format!("pc{n}"), &[]));
    one_master(&[&nodes[0], &nodes[1]], Duration::from_secs(15));
    let hash = nodes[0].add(&image);
    nodes[1].sees(IMAGE, 1);

    // From the node that does not hold it: every node serves the whole catalogue.
    let path = handed_out(&nodes[1], &hash, dir.path());
    let folder = folder_of("stranger", dir.path());
    let _program = client.start(lab.host(2), &path, &folder);
    arrives(&folder, &image);

    // Every node counts it in, beside the one that seeds. Not all of them say at once that they have it all.
    for node in &nodes {
        wait_for(LONG, &format!("the stranger to stand in the book as {} tells it", node.name), || {
            let (code, scraped) = node.page(&format!("/scrape?info_hash={}", escaped(&hash)));
            let scraped = String::from_utf8_lossy(&scraped);
            let counted = scraped.contains("8:completei2e") || scraped.contains("10:incompletei1e");
            (code == 200 && counted).then_some(())
        });
    }
}

/// A stranger seeds an image that labmesh knows only by a `.torrent` of mktorrent.
fn fetches_from(client: &dyn Client) {
    let Some(lab) = Lab::open(2, Link::Unshaped).filter(|_| client.installed()) else { return };
    if !installed("mktorrent", &["-h"]) {
        return;
    }
    let dir = scratch();
    let folder = folder_of("stranger", dir.path());
    let image = folder.join(IMAGE);
    random_file(&image, SIZE, 6);
    let torrent = dir.path().join("foreign.torrent");
    let tracker = format!("http://{}:{HTTP_PORT}/announce", lab.host(0).addr());
    mktorrent(&image, &torrent, &tracker, 18);

    let node = Node::start(lab.host(0), dir.path(), "pc01", &[]);
    wait_for(Duration::from_secs(5), "the node to serve", || (node.role()? == "solo").then_some(()));
    let mut getting = node.get(&torrent.to_string_lossy(), &[]);
    wait_for(Duration::from_secs(5), "the transfer to begin", || node.transfer(IMAGE));
    let _program = client.start(lab.host(1), &torrent, &folder);
    getting.completes(LONG);
    assert!(same_bytes(&image, &node.file(IMAGE)));
}

/// A stranger is ended half way and started again: it goes on with what it had. Those that can find us by the UDP
/// tracker only.
fn goes_on_half_way(client: &dyn Client) {
    let Some(lab) = Lab::open(2, Link::Mbit(100)).filter(|_| client.installed()) else { return };
    if !installed("mktorrent", &["-h"]) {
        return;
    }
    let dir = scratch();
    let image = dir.path().join(IMAGE);
    random_file(&image, SIZE, 7);
    let node = Node::start(lab.host(0), dir.path(), "pc01", &[]);
    let hash = node.add(&image);
    let torrent = dir.path().join("fetched.torrent");
    let scheme = if client.knows_udp_trackers() { "udp" } else { "http" };
    mktorrent(&image, &torrent, &format!("{scheme}://{}:{HTTP_PORT}/announce", lab.host(0).addr()), 16);
    assert_eq!(shown_hash(&torrent), hash, "the same bytes are the same swarm");

    let folder = folder_of("stranger", dir.path());
    let received = || lab.host(1).bytes().rx as f64 / SIZE as f64;
    let first = client.start(lab.host(1), &torrent, &folder);
    wait_for(LONG, "half of the image to pass the cable", || (received() > 0.5).then_some(()));
    first.ends_after(Signal::INT, Duration::from_secs(30));
    let had = received();
    assert!(had < 0.95 && !same_bytes(&image, &folder.join(IMAGE)), "it was ended too late, after {had:.2} copies");

    let _second = client.start(lab.host(1), &torrent, &folder);
    arrives(&folder, &image);
    // Blocks of pieces that were not whole are fetched again, and some clients ask twice in their end game.
    let copies = received();
    println!("ended after {had:.2} copies, whole after {copies:.2}");
    assert!(copies < 1.3, "{copies:.2} copies in all, of which {had:.2} before it was ended");
}

/// The master is killed when a stranger has about half. It goes on with the other holder, which becomes master and is
/// looked at by `then`, with the image's hash, while the stranger still runs.
fn outlives_the_master(client: &dyn Client, then: impl FnOnce(&Node, &str)) {
    let Some(lab) = Lab::open(3, Link::Mbit(50)).filter(|_| client.installed()) else { return };
    let dir = scratch();
    let image = dir.path().join(IMAGE);
    random_file(&image, SIZE, 11);
    let mut nodes = [0, 1].map(|n| Node::start(lab.host(n), dir.path(), &format!("pc{n}"), &[]));
    let master = one_master(&[&nodes[0], &nodes[1]], Duration::from_secs(15));
    let next = 1 - master;
    let hash = nodes[master].add(&image);
    nodes[next].add(&image);
    nodes[next].sees(IMAGE, 2);
    let path = handed_out(&nodes[next], &hash, dir.path());
    let folder = folder_of("stranger", dir.path());
    let _program = client.start(lab.host(2), &path, &folder);

    let received = || lab.host(2).bytes().rx as f64 / SIZE as f64;
    wait_for(LONG, "some of the image to pass the cable", || (received() > 0.4).then_some(()));
    nodes[master].kill_9();
    let had = received();
    assert!(had < 0.9, "the master died too late, after {had:.2} copies");
    arrives(&folder, &image);
    println!("the master died after {had:.2} copies, whole after {:.2}", received());
    then(&nodes[next], &hash);
}

/// Its first tracker being dead, it says to the next in its torrent that it is done.
fn tells_the_next_master(client: &dyn Client) {
    outlives_the_master(client, |next, hash| {
        wait_for(LONG, "the new tracker to hear that it is done", || {
            let scraped = next.page(&format!("/scrape?info_hash={}", escaped(hash))).1;
            String::from_utf8_lossy(&scraped).contains("10:downloadedi1e").then_some(())
        });
    });
}

/// Whether it tells the next tracker is left to it: it often does not within three minutes.
#[test]
fn aria2_outlives_the_master() {
    outlives_the_master(&Aria2, |_, _| ());
}

#[test]
fn transmission_tells_the_next_master() {
    tells_the_next_master(&Transmission);
}

#[test]
fn libtorrent_tells_the_next_master() {
    tells_the_next_master(&Libtorrent);
}

/// Everybody's client and ours in one swarm. Half way the master is killed; a second whole copy is there.
#[test]
fn all_clients_share_one_swarm_and_outlive_the_master() {
    let clients: [(&str, &dyn Client); 6] = [
        ("aria2", &Aria2),
        ("transmission", &Transmission),
        ("libtorrent", &Libtorrent),
        ("ctorrent", &Ctorrent),
        ("rtorrent", &Rtorrent),
        ("rqbit", &Rqbit),
    ];
    let Some(lab) = Lab::open(3 + clients.len(), Link::Mbit(50)) else { return };
    let dir = scratch();
    let image = dir.path().join(IMAGE);
    random_file(&image, SIZE, 8);
    let mut nodes: Vec<Node> =
        (0..3).map(|n| Node::start(lab.host(n), dir.path(), &format!("pc{n}"), &["--seed-time", "forever"])).collect();
    let master = one_master(&nodes.iter().collect::<Vec<_>>(), Duration::from_secs(15));
    let (holder, taker) = ((master + 1) % 3, (master + 2) % 3);
    let hash = nodes[master].add(&image);
    nodes[holder].add(&image);
    nodes[taker].sees(IMAGE, 2);

    let path = handed_out(&nodes[taker], &hash, dir.path());
    let mut programs = Vec::new();
    let mut folders = Vec::new();
    for (n, (name, client)) in clients.iter().enumerate().filter(|(_, (_, client))| client.installed()) {
        let folder = folder_of(name, dir.path());
        programs.push(client.start(lab.host(3 + n), &path, &folder));
        folders.push(folder);
    }
    let mut getting = nodes[taker].get(&hash, &[]);
    wait_for(LONG, "half of the image to be here", || (nodes[taker].percent(IMAGE) >= 50.0).then_some(()));
    nodes[master].kill_9();
    let whole = folders.iter().filter(|folder| same_bytes(&image, &folder.join(IMAGE))).count();
    assert!(whole < folders.len(), "everybody was done before the master died");
    println!("{whole} of {} foreign clients were done when the master died", folders.len());

    getting.completes(LONG);
    assert!(same_bytes(&image, &nodes[taker].file(IMAGE)));
    for folder in &folders {
        arrives(folder, &image);
    }
}

/// Without a tracker if that is empty.
pub(crate) fn mktorrent(image: &Path, torrent: &Path, tracker: &str, exponent: u32) {
    let mut command = Command::new("mktorrent");
    command.args(["-l", &exponent.to_string(), "-o"]).arg(torrent);
    if !tracker.is_empty() {
        command.args(["-a", tracker]);
    }
    command.arg(image);
    let output = command.output().expect("mktorrent is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

/// The info hash as libtorrent reads it, which knows hybrids too.
pub(crate) fn libtorrent_hash(torrent: &Path) -> String {
    let output = Command::new(libtorrent_client()).arg(torrent).args(["-", "show"]).output().expect("it is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// The info hash as Transmission reads it.
fn shown_hash(torrent: &Path) -> String {
    let output = Command::new("transmission-show").arg(torrent).output().expect("transmission-cli is installed");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().find_map(|l| l.trim().strip_prefix("Hash: "));
    line.unwrap_or_else(|| panic!("no hash in {text}")).trim().to_owned()
}

#[test]
fn aria2_downloads_from_us() {
    downloads_from_us(&Aria2);
}

#[test]
fn transmission_downloads_from_us() {
    downloads_from_us(&Transmission);
}

#[test]
fn libtorrent_downloads_from_us() {
    downloads_from_us(&Libtorrent);
}

#[test]
fn ctorrent_downloads_from_us() {
    downloads_from_us(&Ctorrent);
}

#[test]
fn we_fetch_what_ctorrent_seeds() {
    fetches_from(&Ctorrent);
}

#[test]
fn we_fetch_what_aria2_seeds() {
    fetches_from(&Aria2);
}

#[test]
fn we_fetch_what_transmission_seeds() {
    fetches_from(&Transmission);
}

#[test]
fn we_fetch_what_libtorrent_seeds() {
    fetches_from(&Libtorrent);
}

#[test]
fn rtorrent_downloads_from_us() {
    downloads_from_us(&Rtorrent);
}

#[test]
fn we_fetch_what_rtorrent_seeds() {
    fetches_from(&Rtorrent);
}

#[test]
fn rqbit_downloads_from_us() {
    downloads_from_us(&Rqbit);
}

#[test]
fn we_fetch_what_rqbit_seeds() {
    fetches_from(&Rqbit);
}

#[test]
fn rqbit_goes_on_half_way() {
    goes_on_half_way(&Rqbit);
}

#[test]
fn aria2_goes_on_half_way() {
    goes_on_half_way(&Aria2);
}

#[test]
fn transmission_goes_on_half_way() {
    goes_on_half_way(&Transmission);
}

#[test]
fn libtorrent_goes_on_half_way() {
    goes_on_half_way(&Libtorrent);
}

#[test]
fn ctorrent_goes_on_half_way() {
    goes_on_half_way(&Ctorrent);
}

#[test]
fn rtorrent_goes_on_half_way() {
    goes_on_half_way(&Rtorrent);
}

#[test]
fn our_info_hash_is_that_of_mktorrent_and_transmission() {
    if !installed("transmission-create", &["--version"]) || !installed("mktorrent", &["-h"]) {
        return;
    }
    let dir = scratch();
    let node = Node::start(&Host::loopback(11), dir.path(), "maker", &["--mesh", "hashes"]);
    // Our rule gives 64 KiB up to 128 MiB.
    for size in [1, 64 * 1024, 64 * 1024 + 1, 7 * MIB + 3] {
        let image = dir.path().join(format!("made {size} ñ.img"));
        random_file(&image, size, size);
        let ours = node.add(&image);
        let theirs = dir.path().join("theirs.torrent");
        mktorrent(&image, &theirs, "http://127.0.0.1/announce", 16);
        assert_eq!(ours, shown_hash(&theirs), "mktorrent, {size} bytes");
        let mut command = Command::new("transmission-create");
        command.args(["-s", "64", "-t", "http://127.0.0.1/announce", "-o"]).arg(&theirs).arg(&image);
        assert!(command.output().is_ok_and(|o| o.status.success()));
        without_private_0(&theirs);
        assert_eq!(ours, shown_hash(&theirs), "transmission-create, {size} bytes");
        fs::remove_file(theirs).expect("just made");
    }
}

/// Transmission 3 writes `private` 0 into every `info`, which nobody else does: the rest must be the same bytes.
pub(crate) fn without_private_0(torrent: &Path) {
    const KEY: &[u8] = b"7:privatei0e";
    let mut bytes = fs::read(torrent).expect("readable");
    if let Some(at) = bytes.windows(KEY.len()).position(|w| w == KEY) {
        bytes.drain(at..at + KEY.len());
        fs::write(torrent, bytes).expect("writable");
    }
}

/// Torrents that were there before us keep their identity: an info key nobody knows, and a hybrid of v1 and v2.
#[test]
fn torrents_of_others_keep_their_info_hash_through_add_export_and_rewrite() {
    if !Libtorrent.installed() {
        return;
    }
    let dir = scratch();
    let mut node = Node::prepare(&Host::loopback(12), dir.path(), "keeper", &["--mesh", "keeping"]);
    let mut hashes = Vec::new();
    for kind in ["v1", "hybrid"] {
        let (image, torrent) = (node.file(&format!("{kind}.img")), node.file(&format!("{kind}.img.torrent")));
        random_file(&image, 5 * MIB + 7, 9);
        let mut maker = Command::new(libtorrent_client());
        assert!(maker.arg(&image).arg(&torrent).args(["make", kind]).status().is_ok_and(|s| s.success()));
        hashes.push((kind, libtorrent_hash(&torrent)));
    }
    node.restart();
    for (kind, hash) in hashes {
        let name = format!("{kind}.img");
        assert_eq!(node.sees(&name, 1)["info_hash"], hash.as_str(), "the catalogue's, {kind}");
        for path in [format!("/file?hash={hash}"), format!("/images/{name}.torrent")] {
            let (code, bytes) = node.page(&path);
            let exported = dir.path().join("exported.torrent");
            fs::write(&exported, bytes).expect("it can be written");
            assert_eq!((code, libtorrent_hash(&exported)), (200, hash.clone()), "{path}");
        }
        assert_eq!(libtorrent_hash(&node.file(&format!("{name}.torrent"))), hash, "the sidecar after the scan, {kind}");
    }
}
