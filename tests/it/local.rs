//! Clients that find us without a tracker: local discovery (BEP 14) and peer exchange (BEP 11).
//!
//! No torrent here names a tracker, and nobody asks ours.

use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::clients::{Aria2, Client as _, Libtorrent, Local, Transmission, installed};
use crate::foreign::{IMAGE, arrives, libtorrent_hash, mktorrent};
use crate::harness::{MIB, Node, PEER_PORT, one_master, random_file, same_bytes, scratch, wait_for};
use crate::lab::{Host, Lab, Link};

const SIZE: u64 = 16 * MIB + 777;
const LONG: Duration = Duration::from_secs(90);
const GROUP: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(239, 192, 152, 143), 6771);

/// An image in a folder of its own, and a torrent of mktorrent without a tracker.
fn image_without_tracker(dir: &Path) -> (PathBuf, PathBuf) {
    let folder = dir.join("stranger");
    fs::create_dir(&folder).expect("a folder can be made");
    let (image, torrent) = (folder.join(IMAGE), dir.join("no tracker.torrent"));
    random_file(&image, SIZE, 21);
    mktorrent(&image, &torrent, "", 18);
    (image, torrent)
}

/// Puts image and torrent into a node's cache, as a person would, and waits until they are shared.
fn drop_into(node: &Node, image: &Path, torrent: &Path) {
    fs::copy(torrent, node.file(&format!("{IMAGE}.torrent"))).expect("the cache can be written to");
    fs::copy(image, node.file(IMAGE)).expect("the cache can be written to");
    wait_for(LONG, "the image to be shared", || (node.state(IMAGE)? == "seeding").then_some(()));
}

fn is_ready(client: &dyn Local) -> bool {
    client.installed() && installed("mktorrent", &["-h"])
}

/// We hold an image; a client that knows nobody fetches it.
fn is_found_by(client: &dyn Local) {
    let Some(lab) = Lab::open(2, Link::Unshaped).filter(|_| is_ready(client)) else { return };
    let dir = scratch();
    let (image, torrent) = image_without_tracker(dir.path());
    let node = Node::start(lab.host(0), dir.path(), "pc01", &[]);
    drop_into(&node, &image, &torrent);
    let folder = dir.path().join("taker");
    fs::create_dir(&folder).expect("a folder can be made");
    let _program = client.start_local(lab.host(1), &torrent, &folder);
    arrives(&folder, &image);
}

/// A client holds an image; we know nobody and fetch it.
fn finds(client: &dyn Local) {
    let Some(lab) = Lab::open(2, Link::Unshaped).filter(|_| is_ready(client)) else { return };
    let dir = scratch();
    let (image, torrent) = image_without_tracker(dir.path());
    let node = Node::start(lab.host(0), dir.path(), "pc01", &[]);
    wait_for(LONG, "the node to serve", || (node.role()? == "solo").then_some(()));
    let _program = client.start_local(lab.host(1), &torrent, image.parent().expect("a folder"));
    let mut getting = node.get(&torrent.to_string_lossy(), &[]);
    getting.completes(LONG);
    assert!(same_bytes(&image, &node.file(IMAGE)));
}

#[test]
fn aria2_finds_us_on_the_lan() {
    is_found_by(&Aria2);
}

#[test]
fn transmission_finds_us_on_the_lan() {
    is_found_by(&Transmission);
}

#[test]
fn libtorrent_finds_us_on_the_lan() {
    is_found_by(&Libtorrent);
}

#[test]
fn we_find_aria2_on_the_lan() {
    finds(&Aria2);
}

#[test]
fn we_find_transmission_on_the_lan() {
    finds(&Transmission);
}

#[test]
fn we_find_libtorrent_on_the_lan() {
    finds(&Libtorrent);
}

/// A socket on a host that hears what is announced.
fn ear(host: &Host) -> UdpSocket {
    host.enter(|| {
        let ear = UdpSocket::bind(GROUP).expect("nobody else listens there");
        ear.join_multicast_v4(GROUP.ip(), &Ipv4Addr::UNSPECIFIED).expect("the host has an interface");
        ear.set_read_timeout(Some(LONG)).expect("a limit can be set");
        ear
    })
}

/// Two whole copies in one mesh announce themselves and leave each other alone; a private torrent is not announced, nor
/// anything by a node that was told so.
#[test]
fn public_images_are_announced_and_our_own_nodes_not_dialled_for_it() {
    let Some(lab) = Lab::open(4, Link::Unshaped).filter(|_| is_ready(&Libtorrent)) else { return };
    let dir = scratch();
    let (image, torrent) = image_without_tracker(dir.path());
    let hash = libtorrent_hash(&torrent).to_ascii_uppercase();
    let ear = ear(lab.host(3));
    let silent = Node::start(lab.host(2), dir.path(), "silent", &["--mesh", "other", "--local-discovery", "false"]);
    drop_into(&silent, &image, &torrent);
    let nodes = [0, 1].map(|n| Node::start(lab.host(n), dir.path(), &format!("pc{n}"), &[]));
    one_master(&[&nodes[0], &nodes[1]], Duration::from_secs(15));
    let private = dir.path().join("private.img");
    random_file(&private, MIB, 22);
    let secret = nodes[0].file("private.img.torrent");
    nodes[0]
        .cli(&["torrent", "create", &private.to_string_lossy(), "--private", "-o", &secret.to_string_lossy()])
        .good();
    fs::copy(&private, nodes[0].file("private.img")).expect("the cache can be written to");
    wait_for(LONG, "the private image", || (nodes[0].state("private.img")? == "seeding").then_some(()));
    for node in &nodes {
        drop_into(node, &image, &torrent);
    }

    let mut heard = std::collections::BTreeSet::new();
    while heard.len() < 2 {
        let mut buffer = [0; 1500];
        let (length, from) = ear.recv_from(&mut buffer).expect("both announce");
        let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
        let begin = "BT-SEARCH * HTTP/1.1\r\nHost: 239.192.152.143:6771\r\nPort: 6881\r\n";
        assert!(text.starts_with(begin) && text.ends_with("\r\n\r\n"), "{text:?}");
        assert_eq!(text.matches("Infohash: ").count(), 1, "{text:?}");
        assert!(text.contains(&format!("Infohash: {hash}\r\n")), "{text:?}");
        assert_ne!(from.ip(), lab.host(2).addr(), "it was told to be silent");
        heard.insert(from.ip());
    }
    assert!(lab.host(0).connections(PEER_PORT).is_empty(), "two whole copies have nothing to say to each other");
    let log = nodes.iter().map(Node::log_text).collect::<String>();
    assert!(!log.contains("no local discovery"), "{log}");
}

/// Whether two hosts are connected as peers, whoever dialled.
fn connected(host: &Host, other: &Host) -> bool {
    let from = format!("{}:", other.addr());
    host.connections(PEER_PORT).iter().any(|(_, remote)| remote.starts_with(&from))
}

/// Whether a host has dialled another, so that it knows of it.
fn has_dialled(host: &Host, other: &Host) -> bool {
    let to = format!("{}:{PEER_PORT}", other.addr());
    host.connections(PEER_PORT).iter().any(|(_, remote)| *remote == to)
}

/// The seed is known to us only, by local discovery; a client that knows only us learns of it from us.
#[test]
fn a_client_learns_of_others_from_us() {
    let Some(lab) = Lab::open(3, Link::Mbit(10)).filter(|_| is_ready(&Libtorrent)) else { return };
    let dir = scratch();
    let (image, torrent) = image_without_tracker(dir.path());
    let (seed, ours, taker) = (lab.host(0), lab.host(1), lab.host(2));
    let _seed = Libtorrent.start_local(seed, &torrent, image.parent().expect("a folder"));
    let node = Node::start(ours, dir.path(), "pc01", &[]);
    wait_for(LONG, "the node to serve", || (node.role()? == "solo").then_some(()));
    let mut getting = node.get(&torrent.to_string_lossy(), &[]);
    wait_for(LONG, "a connection with the seed", || connected(ours, seed).then_some(()));
    let folder = dir.path().join("taker");
    fs::create_dir(&folder).expect("a folder can be made");
    let _taker = Libtorrent::spawn(taker, &torrent, &folder, &["pex", &ours.addr().to_string()]);
    wait_for(LONG, "the client to know the seed", || has_dialled(taker, seed).then_some(()));
    getting.completes(LONG);
    arrives(&folder, &image);
}

/// The seed is known to a client only, and we know only that client: it tells us. The seed itself hears nothing, or it
/// would dial us first. That the client is there we hear until we have dialled it, since on its full cable a datagram of
/// its own may be lost, and the next comes in minutes.
#[test]
fn we_learn_of_others_from_a_client() {
    let Some(lab) = Lab::open(3, Link::Mbit(10)).filter(|_| is_ready(&Libtorrent)) else { return };
    let dir = scratch();
    let (image, torrent) = image_without_tracker(dir.path());
    let (seed, ours, taker) = (lab.host(0), lab.host(1), lab.host(2));
    let _seed = Libtorrent.start(seed, &torrent, image.parent().expect("a folder"));
    let node = Node::start(ours, dir.path(), "pc01", &[]);
    let mut getting = node.get(&torrent.to_string_lossy(), &[]);
    wait_for(LONG, "it to wait for somebody", || (node.state(IMAGE)? == "waiting").then_some(()));
    let folder = dir.path().join("taker");
    fs::create_dir(&folder).expect("a folder can be made");
    // Its first list goes as soon as it has two connections, the next a minute later: so first with the seed.
    let _taker = Libtorrent::spawn(taker, &torrent, &folder, &["pex", &seed.addr().to_string()]);
    wait_for(LONG, "the client to fetch", || (taker.bytes().rx > MIB).then_some(()));
    let announce = format!(
        "BT-SEARCH * HTTP/1.1\r\nHost: {GROUP}\r\nPort: {PEER_PORT}\r\nInfohash: {}\r\n\r\n\r\n",
        libtorrent_hash(&torrent)
    );
    wait_for(LONG, "us to know the client", || {
        let mouth = taker.enter(|| UdpSocket::bind("0.0.0.0:0")).expect("a free port");
        mouth.send_to(announce.as_bytes(), GROUP).expect("the cable is there");
        has_dialled(ours, taker).then_some(())
    });
    wait_for(LONG, "us to know the seed", || has_dialled(ours, seed).then_some(()));
    getting.completes(LONG);
    assert!(same_bytes(&image, &node.file(IMAGE)));
}
