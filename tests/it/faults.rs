//! What goes wrong: hostile files and peers, full and read-only disks, too many connections, ports that are taken.
//!
//! Each gets a clear error or a closed connection; the node stays up, nothing is lost, its memory stays bounded.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::harness::{
    HTTP_PORT, MIB, Node, PEER_PORT, connect_from, http_get, one_master, random_file, same_bytes, scratch, stays,
    wait_for,
};
use crate::lab::{Host, Lab, Link};
use crate::peer::{BITFIELD, INTERESTED, NAME, PIECE, REQUEST, RawPeer, UNCHOKE, handshake};

const CONTROL_PORT: u16 = 6970;
const LONG: Duration = Duration::from_secs(60);
/// Far above what a node needs (its piece buffers, its tables), far below what an attack could make it take.
const MEMORY_MAX: u64 = 400 * MIB;

/// It answers commands and pages, and has not grown.
#[track_caller]
fn is_well(node: &mut Node) {
    assert!(node.alive(), "{} is gone: {}", node.name, node.log_text());
    assert!(node.status().is_some(), "{} answers no command", node.name);
    assert_eq!(node.page("/").0, 200);
    let memory = node.memory();
    assert!(memory < MEMORY_MAX, "{} has {} MiB", node.name, memory / MIB);
    assert!(!node.log_text().contains("panicked"), "{}", node.log_text());
}

fn at(node: &Node, port: u16) -> SocketAddr {
    SocketAddr::new(node.host.addr(), port)
}

// ---- torrents

/// A metainfo file with these `info` bytes.
fn torrent(info: &[u8]) -> Vec<u8> {
    [b"d8:announce24:http://127.0.0.1/announce4:info", info, b"e"].concat()
}

/// An `info` dictionary of one file.
fn info(length: &str, name: &[u8], piece_length: &str, pieces: usize) -> Vec<u8> {
    let mut bytes = format!("d6:lengthi{length}e4:name{}:", name.len()).into_bytes();
    bytes.extend_from_slice(name);
    bytes.extend_from_slice(format!("12:piece lengthi{piece_length}e6:pieces{}:", pieces * 20).as_bytes());
    bytes.resize(bytes.len() + pieces * 20, b'h');
    bytes.push(b'e');
    bytes
}

fn hostile_torrents() -> Vec<(&'static str, Vec<u8>)> {
    let good = |name: &[u8]| torrent(&info("1000000", name, "262144", 4));
    let odd_pieces = b"d6:lengthi5e4:name1:a12:piece lengthi262144e6:pieces21:aaaaaaaaaaaaaaaaaaaaae".to_vec();
    let many = b"d5:filesld6:lengthi1e4:pathl1:aeee4:name1:d12:piece lengthi262144e6:pieces20:hhhhhhhhhhhhhhhhhhhhe";
    vec![
        ("empty", Vec::new()),
        ("text", b"<html>not found</html>".to_vec()),
        ("truncated", good(b"x.img")[..150].to_vec()),
        ("piece length 0", torrent(&info("1000000", b"x.img", "0", 4))),
        ("piece length -1", torrent(&info("1000000", b"x.img", "-1", 4))),
        ("piece length huge", torrent(&info("1000000", b"x.img", "9223372036854775807", 1))),
        ("piece length beyond numbers", torrent(&info("1000000", b"x.img", "99999999999999999999", 1))),
        ("length 0", torrent(&info("0", b"x.img", "262144", 0))),
        ("length negative", torrent(&info("-5", b"x.img", "262144", 1))),
        ("length huge", torrent(&info("9223372036854775807", b"x.img", "262144", 4))),
        ("too few pieces", torrent(&info("1000000", b"x.img", "262144", 3))),
        ("too many pieces", torrent(&info("1000000", b"x.img", "262144", 5))),
        ("odd pieces", torrent(&odd_pieces)),
        ("name ..", good(b"..")),
        ("name .", good(b".")),
        ("name absolute", good(b"/etc/passwd")),
        ("name above", good(b"../x.img")),
        ("name with a folder", good(b"a/b/../c.img")),
        ("name empty", good(b"")),
        ("name with NUL", good(b"x\0.img")),
        ("name not UTF-8", good(b"\xff\xfe.img")),
        ("name long", good(&[b'n'; 4096])),
        ("many files", torrent(many)),
        ("no info", b"d8:announce3:foo4:infode".to_vec()),
        ("nested", vec![b'l'; 100_000_000]),
        ("long string", b"d4:info99999999999:abc".to_vec()),
    ]
}

#[test]
fn hostile_torrents_are_refused_in_plain_words() {
    let dir = scratch();
    let mut node = Node::start(&Host::loopback(21), dir.path(), "victim", &["--mesh", "torrents"]);
    let path = dir.path().join("hostile.torrent");
    for (what, bytes) in hostile_torrents() {
        fs::write(&path, bytes).expect("it can be written");
        let begin = Instant::now();
        let ran = node.cli(&["get", &path.to_string_lossy()]);
        assert!([1, 6].contains(&ran.code), "{what}: exit {} {}{}", ran.code, ran.stdout, ran.stderr);
        assert!(!ran.stderr.trim().is_empty() && ran.stderr.len() < 1000, "{what}: {}", ran.stderr);
        assert!(!ran.stderr.contains("panicked"), "{what}: {}", ran.stderr);
        assert!(begin.elapsed() < Duration::from_secs(5), "{what} took {:?}", begin.elapsed());
        is_well(&mut node);
    }
    let left: Vec<PathBuf> = fs::read_dir(node.cache()).expect("readable").flatten().map(|e| e.path()).collect();
    assert!(left.is_empty(), "hostile torrents left {left:?}");
}

/// The same files beside an image in the cache: the image is offered all the same, with a torrent of ours.
#[test]
fn hostile_sidecars_do_not_stop_the_scan() {
    let dir = scratch();
    let mut node = Node::prepare(&Host::loopback(22), dir.path(), "scanner", &["--mesh", "sidecars"]);
    let hostile = hostile_torrents();
    for (n, (_, bytes)) in hostile.iter().enumerate().filter(|(_, (what, _))| *what != "nested") {
        let image = node.file(&format!("{n}.img"));
        random_file(&image, 1000 + n as u64, n as u64);
        fs::write(node.file(&format!("{n}.img.torrent")), bytes).expect("it can be written");
    }
    random_file(&node.file("good.img"), MIB, 99);
    node.restart();
    node.sees("good.img", 1);
    is_well(&mut node);
}

// ---- connections

/// Lets this process hold so many files.
fn allow_files(count: u64) {
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|now| now < count) {
        let maximum = limit.maximum.map(|m| m.max(count));
        setrlimit(Resource::Nofile, Rlimit { current: Some(count), maximum })
            .expect("the limit of files can be raised");
    }
}

/// Silent connections of one machine, at each port in turn, and while they stand somebody who has something to say.
#[test]
fn ten_thousand_connections_leave_the_node_up() {
    const CROWD: usize = 10_000;
    /// An honest client is served within this.
    const SOON: Duration = Duration::from_secs(2);
    let dir = scratch();
    let mut node = Node::start(&Host::loopback(23), dir.path(), "busy", &["--mesh", "crowd"]);
    let image = dir.path().join("busy.img");
    random_file(&image, MIB, 1);
    let hash = node.add(&image);
    allow_files(CROWD as u64 + 500);
    for port in [PEER_PORT, HTTP_PORT, CONTROL_PORT] {
        let begin = Instant::now();
        let knock = |n| {
            TcpStream::connect_timeout(&at(&node, port), Duration::from_secs(5))
                .unwrap_or_else(|e| panic!("port {port} does not even refuse number {n}: {e}"))
        };
        let crowd: Vec<TcpStream> = (0..CROWD).map(knock).collect();
        let (took, memory) = (begin.elapsed(), node.memory() / MIB);
        let begin = Instant::now();
        match port {
            PEER_PORT => {
                let mut peer = RawPeer::connect(&node.host, at(&node, port), &hash).expect("a peer is greeted");
                peer.send(INTERESTED, &[]).expect("it reads");
                assert!(peer.read_until(UNCHOKE).expect("it talks").is_some(), "a peer is served");
            }
            // One address may take its share and no more, so the honest client is another machine.
            HTTP_PORT => assert!(page_for(Ipv4Addr::new(127, 0, 0, 9), at(&node, port)).contains("200 OK")),
            // libp2p says by this word which protocols it speaks, and the other side repeats it.
            _ => {
                let mut stream = connect_from(Ipv4Addr::new(127, 0, 0, 9), at(&node, port));
                stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout can be set");
                let (word, mut answer) = (b"\x13/multistream/1.0.0\n", [0; 20]);
                stream.write_all(word).expect("it reads");
                stream.read_exact(&mut answer).expect("it answers");
                assert_eq!(answer, *word);
            }
        }
        let served = begin.elapsed();
        if port == CONTROL_PORT {
            let friend = Node::start(&Host::loopback(30), dir.path(), "friend", &["--mesh", "crowd"]);
            one_master(&[&node, &friend], Duration::from_secs(15));
            friend.sees("busy.img", 1);
        }
        println!(
            "port {port}: {CROWD} connections in {took:.1?}, {memory} MiB; an honest one is served in {served:.1?}"
        );
        assert!(served < SOON, "port {port}: an honest client waits {served:?}");
        assert!(node.memory() < MEMORY_MAX);
        assert!(node.alive() && node.status().is_some(), "port {port}");
        drop(crowd);
        is_well(&mut node);
    }
}

/// The start page's head, as a client of that address gets it.
fn page_for(client: Ipv4Addr, to: SocketAddr) -> String {
    let mut stream = connect_from(client, to);
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout can be set");
    write!(stream, "GET / HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n\r\n").expect("it reads");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("it answers");
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn slow_loris_connections_are_closed() {
    let dir = scratch();
    let mut node = Node::start(&Host::loopback(24), dir.path(), "patient", &["--mesh", "loris"]);
    let mut slow: Vec<TcpStream> = Vec::new();
    let openings: [(u16, &[u8]); 3] = [
        (PEER_PORT, b"\x13BitTorrent pro"),
        (HTTP_PORT, b"GET / HTTP/1.1\r\nHost: x\r\nX-"),
        // Nineteen letters are announced, of which the node may wait for seventeen.
        (CONTROL_PORT, b"\x13/m"),
    ];
    for (port, opening) in openings {
        for _ in 0..50 {
            let mut stream = TcpStream::connect(at(&node, port)).expect("it listens");
            stream.write_all(opening).expect("it reads");
            stream.set_nonblocking(true).expect("it can be set");
            slow.push(stream);
        }
    }
    let mut fed = Instant::now();
    wait_for(LONG, "every slow connection to be closed", || {
        // A byte a second keeps a timer of silence from running out: the opening as a whole needs a limit.
        let feed = fed.elapsed() > Duration::from_secs(1);
        if feed {
            fed = Instant::now();
        }
        slow.retain_mut(|stream| (!feed || stream.write_all(b"x").is_ok()) && is_open(stream));
        slow.is_empty().then_some(())
    });
    is_well(&mut node);
}

/// Whether a stream that does not block has neither ended nor failed.
fn is_open(stream: &mut TcpStream) -> bool {
    match stream.read(&mut [0; 512]) {
        Ok(count) => count > 0,
        Err(e) => e.kind() == std::io::ErrorKind::WouldBlock,
    }
}

#[test]
fn peers_that_misbehave_are_closed_and_others_are_served() {
    let dir = scratch();
    let mut node = Node::start(&Host::loopback(25), dir.path(), "server", &["--mesh", "manners"]);
    let image = dir.path().join("served.img");
    random_file(&image, MIB + 100, 3);
    let hash = node.add(&image);
    let connect = || {
        let mut peer = RawPeer::connect(&node.host, at(&node, PEER_PORT), &hash).expect("it serves");
        peer.send(INTERESTED, &[]).expect("it reads");
        assert!(peer.read_until(UNCHOKE).expect("it talks").is_some(), "an interested peer is unchoked");
        peer
    };
    let close = Duration::from_secs(10);
    let number = |n: u32| n.to_be_bytes();
    let wrong: [(&str, Vec<u8>); 10] = [
        ("a message of 4 GiB", number(u32::MAX).to_vec()),
        ("a message of 100 MB", number(100_000_000).to_vec()),
        ("an unknown message of 1 MiB and a byte", [&number((1 << 20) + 1)[..], &[99]].concat()),
        ("a request beyond the last piece", [&number(13)[..], &[6], &number(99), &number(0), &number(16384)].concat()),
        ("a request beyond its piece", [&number(13)[..], &[6], &number(16), &number(90), &number(16384)].concat()),
        ("a request that wraps", [&number(13)[..], &[6], &number(0), &number(u32::MAX), &number(2)].concat()),
        ("a request of 256 MiB", [&number(13)[..], &[6], &number(0), &number(0), &number(1 << 28)].concat()),
        ("a piece number beyond the last", [&number(5)[..], &[4], &number(17)].concat()),
        ("a bitfield of a wrong length", [&number(9)[..], &[5], &[0; 8]].concat()),
        ("a request that is too short", [&number(5)[..], &[6], &number(0)].concat()),
    ];
    for (what, bytes) in wrong {
        let mut peer = connect();
        // It may close before everything is written.
        let _ = peer.send_raw(&bytes);
        assert!(peer.is_closed(close), "{what} is not answered by closing");
    }
    let mut peer = connect();
    for _ in 0..200 {
        let block = [&number(0)[..], &number(0), &[7; 16384]].concat();
        if peer.send(PIECE, &block).is_err() {
            break;
        }
    }
    assert!(peer.is_closed(close), "blocks that nobody asked for are not answered by closing");

    let mut stranger = TcpStream::connect(at(&node, PEER_PORT)).expect("it listens");
    stranger.write_all(&handshake(NAME, &"ab".repeat(20))).expect("it reads");
    stranger.set_read_timeout(Some(close)).expect("it can be set");
    assert!(!matches!(stranger.read(&mut [0; 68]), Ok(1..)), "an unknown image is not answered by a handshake");

    let mut honest = connect();
    honest.request(16, 0, 100).expect("it reads");
    let block = honest.read_until(PIECE).expect("it talks").expect("an honest peer is served");
    assert_eq!(block[8..], fs::read(&image).expect("readable")[MIB as usize..]);
    is_well(&mut node);
}

#[test]
fn garbage_at_every_port_is_survived() {
    let dir = scratch();
    let mut node = Node::start(&Host::loopback(26), dir.path(), "dump", &["--mesh", "garbage"]);
    let path = dir.path().join("noise");
    random_file(&path, MIB, 4);
    let noise = fs::read(path).expect("readable");
    for port in [PEER_PORT, HTTP_PORT, CONTROL_PORT] {
        for chunk in noise.chunks(16_384) {
            let mut stream = TcpStream::connect(at(&node, port)).expect("it listens");
            // It may close before everything is written.
            let _ = stream.write_all(chunk);
        }
    }
    let socket = UdpSocket::bind(SocketAddr::new(node.host.addr(), 0)).expect("a socket");
    for (n, chunk) in noise.chunks(1000).enumerate() {
        for port in [HTTP_PORT, CONTROL_PORT] {
            let len = chunk.len() - n % 700;
            socket.send_to(&chunk[..len], at(&node, port)).expect("loopback carries it");
        }
    }
    for query in [
        "/announce",
        "/announce?info_hash=short",
        "/announce?info_hash=%zz&port=99999",
        "/scrape?info_hash=%0",
        "/file?info_hash=../../etc/passwd",
        "/images/../../etc/passwd",
        "/images/%2e%2e/%2e%2e/etc/passwd",
        "/%00",
    ] {
        let (code, body) = http_get(&node.host, at(&node, HTTP_PORT), query);
        let text = String::from_utf8_lossy(&body);
        assert!(code < 500 && !text.contains("root:"), "{query}: {code} {text}");
    }
    let (code, body) = http_get(&node.host, at(&node, HTTP_PORT), &format!("/announce?{}", "a=b&".repeat(50_000)));
    assert!((400..500).contains(&code) || body.starts_with(b"d14:failure reason"), "a long query: {code}");
    is_well(&mut node);
}

/// Two nodes with a cable between them, the first with an image.
fn pair(lab: &Lab, dir: &Path, image: &Path, second: impl FnOnce(&mut Node)) -> [Node; 2] {
    let holder = Node::start(lab.host(0), dir, "holder", &[]);
    let mut taker = Node::prepare(lab.host(1), dir, "taker", &[]);
    second(&mut taker);
    taker.restart();
    one_master(&[&holder, &taker], Duration::from_secs(15));
    holder.add(image);
    taker.sees(&image.file_name().expect("a name").to_string_lossy(), 1);
    [holder, taker]
}

/// A peer that says it has everything and gives random bytes, beside an honest one.
#[test]
fn bad_bytes_never_reach_the_copy_and_their_sender_is_refused() {
    let Some(lab) = Lab::open(3, Link::Mbit(40)) else { return };
    let dir = scratch();
    let image = dir.path().join("pure.img");
    random_file(&image, 24 * MIB, 8);
    let [holder, mut taker] = pair(&lab, dir.path(), &image, |_| ());
    let hash = holder.listed("pure.img")[0]["info_hash"].as_str().expect("a hash").to_owned();
    let mut getting = taker.get("pure.img", &[]);
    let host = lab.host(2).clone();
    let to = at(&taker, PEER_PORT);
    let liar =
        wait_for(Duration::from_secs(10), "the taker to take a connection", || RawPeer::connect(&host, to, &hash).ok());
    let lies = std::thread::spawn(move || poison(liar));
    getting.completes(LONG);
    assert!(same_bytes(&image, &taker.file("pure.img")));
    let lies = lies.join().expect("the liar ends");
    println!("{lies} false blocks were sent");
    assert!(lies > 0, "nothing was asked of the liar");
    // It is refused when it comes again, and under another name too; somebody else is not.
    for name in [NAME, b"-XX0001-another name"] {
        assert!(RawPeer::connect_as(name, &host, to, &hash).is_err(), "the liar is let in again");
    }
    RawPeer::connect(&holder.host, to, &hash).expect("an honest peer is greeted");
    is_well(&mut taker);
}

fn poison(mut peer: RawPeer) -> u32 {
    let mut lies = 0;
    // 384 pieces, and no spare bit.
    if peer.send(BITFIELD, &[0xff; 48]).is_err() || peer.send(UNCHOKE, &[]).is_err() {
        return 0;
    }
    while let Ok(Some((id, payload))) = peer.read() {
        if id == REQUEST && payload.len() == 12 {
            let len = u32::from_be_bytes(payload[8..].try_into().expect("four bytes")) as usize;
            if peer.send(PIECE, &[&payload[..8], &vec![0x55; len]].concat()).is_err() {
                break;
            }
            lies += 1;
        }
    }
    lies
}

// ---- disks

/// A small file system, gone with its value.
pub(crate) struct Mount(PathBuf);

impl Mount {
    /// One in a file, of a kind that can share blocks between files; `None`, and a line that says why, if it cannot be
    /// made here.
    pub(crate) fn with_shared_blocks(kind: &str, file: &Path, at: &Path) -> Option<Self> {
        let skipped = |why: &str| eprintln!("SKIPPED: no {kind} can be made here: {why}");
        if !rustix::process::geteuid().is_root() {
            skipped("only root may mount it");
            return None;
        }
        fs::File::create(file).and_then(|file| file.set_len(400 * MIB)).expect("a sparse file");
        for (program, words) in [(format!("mkfs.{kind}"), ["-q", "-f"]), ("mount".to_owned(), ["-o", "loop"])] {
            let mut command = Command::new(&program);
            command.args(words).arg(file).args((program == "mount").then_some(at));
            match command.output() {
                Ok(output) if output.status.success() => {}
                Ok(output) => {
                    skipped(String::from_utf8_lossy(&output.stderr).trim());
                    return None;
                }
                Err(error) => {
                    skipped(&format!("{program}: {error}; tests/run installs it"));
                    return None;
                }
            }
        }
        Some(Self(at.to_owned()))
    }

    fn tmpfs(at: &Path, options: &str) -> Self {
        let status = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(at).status();
        assert!(status.is_ok_and(|s| s.success()), "root may mount a tmpfs");
        Self(at.to_owned())
    }

    fn remount(&self, options: &str) {
        let status = Command::new("mount").args(["-o", &format!("remount,{options}")]).arg(&self.0).status();
        assert!(status.is_ok_and(|s| s.success()), "root may remount");
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Lazy: a node that still runs keeps it until it ends.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_is_named_at_the_start_and_the_node_stays_up() {
    let Some(lab) = Lab::open(2, Link::Unshaped) else { return };
    let dir = scratch();
    let image = dir.path().join("large.img");
    random_file(&image, 64 * MIB, 2);
    let mut mount = None;
    let small = |taker: &mut Node| mount = Some(Mount::tmpfs(&taker.cache(), "size=32m"));
    let [holder, mut taker] = pair(&lab, dir.path(), &image, small);
    taker.get("large.img", &[]).ends(LONG).refused(5, &["space"]);
    is_well(&mut taker);
    let little = dir.path().join("little.img");
    random_file(&little, MIB, 3);
    holder.add(&little);
    taker.sees("little.img", 1);
    taker.get("little.img", &[]).completes(LONG);
    assert!(same_bytes(&little, &taker.file("little.img")), "what fits is still fetched");
}

#[test]
fn a_read_only_cache_is_served_from_and_said_to_be_read_only() {
    let Some(lab) = Lab::open(2, Link::Unshaped) else { return };
    let dir = scratch();
    let image = dir.path().join("wanted.img");
    random_file(&image, 4 * MIB, 2);
    let mut mount = None;
    let frozen = |taker: &mut Node| {
        let made = Mount::tmpfs(&taker.cache(), "size=32m");
        random_file(&taker.file("frozen.img"), 2 * MIB, 7);
        // A first life writes the sidecars, as whoever burned the medium did.
        taker.restart();
        taker.sees("frozen.img", 1);
        taker.stop();
        made.remount("ro");
        mount = Some(made);
    };
    let [holder, mut taker] = pair(&lab, dir.path(), &image, frozen);
    let ran = taker.get("wanted.img", &[]).ends(LONG);
    assert!(ran.code != 0 && ran.code != 5, "{}{}", ran.stdout, ran.stderr);
    assert!(["write", "read-only", "Read-only"].iter().any(|w| ran.said().contains(w)), "{}", ran.said());
    is_well(&mut taker);
    holder.sees("frozen.img", 1);
    holder.get("frozen.img", &[]).completes(LONG);
    assert!(same_bytes(&taker.file("frozen.img"), &holder.file("frozen.img")), "what is there is offered");
}

#[test]
fn an_image_that_changes_while_it_is_shared_becomes_a_new_image() {
    let Some(lab) = Lab::open(3, Link::Mbit(40)) else { return };
    let dir = scratch();
    let image = dir.path().join("mutable.img");
    random_file(&image, 32 * MIB, 2);
    let [mut holder, taker] = pair(&lab, dir.path(), &image, |_| ());
    let late = Node::start(lab.host(2), dir.path(), "late", &[]);
    let old = holder.listed("mutable.img")[0]["info_hash"].clone();
    let mut getting = taker.get("mutable.img", &[]);
    wait_for(LONG, "a fifth of the image", || (taker.percent("mutable.img") > 20.0).then_some(()));
    random_file(&holder.file("mutable.img"), 32 * MIB, 3);
    let new = wait_for(LONG, "the new content to be offered", || {
        holder.listed("mutable.img").into_iter().map(|r| r["info_hash"].clone()).find(|h| *h != old)
    });
    assert!(holder.log_text().contains("changed"), "the log says so: {}", holder.log_text());
    assert!(getting.events().iter().all(|(_, v)| v["event"] != "complete"), "the old image cannot have been completed");
    let name = format!("mutable.img@{}", &new.as_str().expect("a hash")[..10]);
    wait_for(LONG, "the late node to see it", || {
        late.listed("mutable.img").iter().any(|r| r["info_hash"] == new).then_some(())
    });
    late.get(&name, &[]).completes(LONG);
    assert!(same_bytes(&holder.file("mutable.img"), &late.file("mutable.img")));
    is_well(&mut holder);
}

// ---- the network and the configuration

#[test]
fn a_port_that_is_taken_is_named() {
    let dir = scratch();
    let host = Host::loopback(27);
    for port in [PEER_PORT, HTTP_PORT, CONTROL_PORT] {
        let _taken = TcpListener::bind((host.addr(), port)).expect("nobody else has our address");
        let mut node = Node::prepare(&host, dir.path(), &format!("late{port}"), &["--mesh", "ports"]);
        node.spawn();
        node.ends(Duration::from_secs(10)).refused(1, &[&port.to_string()]);
    }
    let mut first = Node::start(&host, dir.path(), "first", &["--mesh", "ports"]);
    let mut second = Node::prepare(&host, dir.path(), "second", &["--mesh", "ports"]);
    second.spawn();
    second.ends(Duration::from_secs(10)).refused(1, &["port", "taken"]);
    is_well(&mut first);
}

#[test]
fn a_node_without_a_network_interface_serves_itself() {
    let Some(lab) = Lab::open(1, Link::Unshaped) else { return };
    let dir = scratch();
    lab.host(0).remove_interface();
    let mut node = Node::start(lab.host(0), dir.path(), "lonely", &[]);
    wait_for(Duration::from_secs(5), "the node to be solo", || (node.role()? == "solo").then_some(()));
    let image = dir.path().join("own.img");
    random_file(&image, MIB, 2);
    node.add(&image);
    assert!(node.stop().success());
}

#[test]
fn two_meshes_on_one_network_do_not_mix() {
    let Some(lab) = Lab::open(4, Link::Unshaped) else { return };
    let dir = scratch();
    let start = |n: usize| {
        let mesh = ["red", "blue"][n % 2];
        Node::start(lab.host(n), dir.path(), &format!("{mesh}{n}"), &["--mesh", mesh])
    };
    let nodes: Vec<Node> = (0..4).map(start).collect();
    let image = dir.path().join("red.img");
    random_file(&image, MIB, 2);
    for colour in [0, 1] {
        let mesh = [&nodes[colour], &nodes[colour + 2]];
        let master = one_master(&mesh, Duration::from_secs(15));
        if colour == 0 {
            mesh[master].add(&image);
            mesh[1 - master].sees("red.img", 1);
        }
    }
    let apart = || {
        nodes.iter().enumerate().all(|(n, node)| {
            let status = node.status().expect("it answers");
            let names: Vec<&str> =
                status["nodes"].as_array().expect("nodes").iter().filter_map(|n| n["name"].as_str()).collect();
            names.len() == 2 && names.iter().all(|name| name.starts_with(["red", "blue"][n % 2]))
        })
    };
    assert!(stays(Duration::from_secs(3), apart), "a mesh took nodes of the other");
    assert!(nodes[1].listed("red.img").is_empty());
}

#[test]
fn unknown_configuration_keys_are_refused_by_name() {
    let dir = scratch();
    for (text, word) in
        [("colour = \"blue\"\n", "colour"), ("weight = \"heavy\"\n", "weight"), ("name = [\n", "labmesh.toml")]
    {
        let mut node = Node::prepare(&Host::loopback(28), dir.path(), "typo", &[]);
        fs::write(node.config(), text).expect("it can be written");
        node.spawn();
        let ran = node.ends(Duration::from_secs(10));
        assert!([1, 2].contains(&ran.code), "{text}: exit {}", ran.code);
        assert!(ran.stderr.contains(word) && !ran.stderr.contains("panicked"), "{text}: {}", ran.stderr);
        fs::remove_dir_all(node.config().parent().expect("a folder")).expect("ours");
    }
}
