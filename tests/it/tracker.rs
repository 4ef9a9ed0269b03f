//! The tracker of a real node: what it remembers, whom it hands out, and what a crowd or a vandal can do to it.
//!
//! Rule: clients here are sockets of this test, and what they announce is what a client could. Real clients are in
//! [`crate::foreign`].

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use crate::harness::{HTTP_PORT, Node, connect_from, http_get, labmesh, one_master, random_file, scratch, wait_for};
use crate::lab::{Host, Lab, Link};

const HASH: [u8; 20] = *b"a torrent of nobody!";
/// More than any answer takes here.
const SOON: Duration = Duration::from_secs(20);

fn quoted(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("%{b:02x}")).collect()
}

fn announce(port: u16, more: &str) -> String {
    format!("/announce?info_hash={}&peer_id=-XX0001-abcdefghijkl&port={port}&left=5&compact=1{more}", quoted(&HASH))
}

/// The compact peers of an answer; its reason if it is a refusal.
pub(crate) fn peers(body: &[u8]) -> Vec<SocketAddrV4> {
    let addr = |p: &[u8]| SocketAddrV4::new(Ipv4Addr::new(p[0], p[1], p[2], p[3]), u16::from_be_bytes([p[4], p[5]]));
    bytes_of(body, b"5:peers").chunks(6).map(addr).collect()
}

/// One of 18 bytes (BEP 7).
fn peer6(bytes: &[u8]) -> SocketAddr {
    let (ip, port) = bytes.split_first_chunk::<16>().expect("an address");
    SocketAddr::new(Ipv6Addr::from(*ip).into(), u16::from_be_bytes(port.try_into().expect("a port")))
}

/// The byte string behind a key, which the answer has.
fn bytes_of<'b>(body: &'b [u8], key: &[u8]) -> &'b [u8] {
    let at = body.windows(key.len()).position(|w| w == key).unwrap_or_else(|| panic!("{}", body.escape_ascii()));
    let rest = &body[at + key.len()..];
    let colon = rest.iter().position(|b| *b == b':').expect("a byte string");
    let len: usize = std::str::from_utf8(&rest[..colon]).expect("digits").parse().expect("a length");
    &rest[colon + 1..][..len]
}

fn count(haystack: &[u8], needle: &[u8]) -> usize {
    haystack.windows(needle.len()).filter(|w| *w == needle).count()
}

/// How many whole HTTP answers these bytes begin with.
fn whole_answers(mut bytes: &[u8]) -> usize {
    let mut whole = 0;
    while let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
        let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).expect("a length");
        let Some(rest) = bytes.get(end + 4 + length.parse::<usize>().expect("a number")..) else { break };
        (bytes, whole) = (rest, whole + 1);
    }
    whole
}

/// A connection to a node's HTTP port that stays open.
struct Client(TcpStream);

impl Client {
    fn of(node: &Node) -> Self {
        let stream = TcpStream::connect((node.host.addr(), HTTP_PORT)).expect("the port is open");
        stream.set_read_timeout(Some(SOON)).expect("a socket takes a timeout");
        Self(stream)
    }

    /// Asks all at once and reads until each has its answer.
    fn ask(&mut self, paths: &[String]) -> Vec<u8> {
        let heads: String = paths.iter().map(|path| format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")).collect();
        self.0.write_all(heads.as_bytes()).expect("the node listens");
        let (mut answers, mut buffer) = (Vec::new(), [0; 16 * 1024]);
        while whole_answers(&answers) < paths.len() {
            match self.0.read(&mut buffer) {
                Ok(len @ 1..) => answers.extend_from_slice(&buffer[..len]),
                end => panic!("the node hangs up ({end:?}) after {}", answers.escape_ascii()),
            }
        }
        answers
    }
}

/// The master's book, told by everybody: whole copies that seed, the copy that is fetched, and who has just come.
#[test]
fn every_node_scrapes_and_shows_what_the_master_counts() {
    const IMAGE: &str = "counted.img";
    let dir = scratch();
    let image = dir.path().join(IMAGE);
    random_file(&image, 3_000_000, 9);
    let node = |n: u8| Node::prepare(&Host::loopback(n), dir.path(), &format!("pc{n}"), &["--mesh", "counted"]);
    let mut nodes = [74, 75, 76].map(node);
    nodes[0].restart();
    nodes[1].restart();
    let master = one_master(&[&nodes[0], &nodes[1]], SOON);
    nodes[0].add(&image);
    nodes[1].sees(IMAGE, 1);
    nodes[1].get(IMAGE, &["--seed-time", "0"]).completes(SOON);
    nodes[2].restart();
    nodes[2].sees(IMAGE, 2);
    // A master is never idle.
    let seeds = 1 + u32::from(master == 1);
    let entry = format!("d8:completei{seeds}e10:downloadedi1e10:incompletei0e4:name11:{IMAGE}e");
    let row = serde_json::json!({"complete": seeds, "downloading": 0, "downloaded": 1});
    for node in &nodes {
        wait_for(SOON, "the same counts everywhere", || {
            let scraped = node.page("/scrape").1;
            let images: serde_json::Value = serde_json::from_slice(&node.page("/api/images").1).ok()?;
            let told = row.as_object()?.iter().all(|(key, value)| images[0][key] == *value);
            (count(&scraped, entry.as_bytes()) == 1 && told).then_some(())
        });
    }
    let torrent = nodes[1].file(&format!("{IMAGE}.torrent"));
    let shown = labmesh(&["torrent", "show", torrent.to_str().expect("a plain path"), "--json"]).good();
    assert!(shown.contains(&format!("http://labmesh-counted.local:{HTTP_PORT}/announce")), "{shown}");
}

#[test]
fn counters_and_names_outlive_a_kill_and_a_restart() {
    let dir = scratch();
    let host = Host::loopback(71);
    let mut node = Node::start(&host, dir.path(), "pc01", &["--mesh", "counters", "--open-tracker"]);
    let to = SocketAddr::new(host.addr(), HTTP_PORT);
    let left_0 = announce(6881, "").replace("left=5", "left=0");
    for event in ["started", "completed", "completed"] {
        assert_eq!(http_get(&host, to, &format!("{left_0}&event={event}")).0, 200);
    }
    let hash: String = HASH.iter().map(|b| format!("{b:02x}")).collect();
    let body = format!("{{\"info_hash\": \"{hash}\", \"name\": \"Debian 13.iso\", \"size\": 700000000}}");
    let mut stream = TcpStream::connect(to).expect("the port is open");
    let head = format!("POST /api/register HTTP/1.1\r\nHost: {to}\r\nContent-Type: application/json\r\n");
    let length = body.len();
    write!(stream, "{head}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}").expect("the node listens");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");

    let kept = dir.path().join("pc01/state/tracker");
    let line = format!("{hash} 1 700000000 Debian 13.iso\n");
    wait_for(SOON, "the counters to be kept", || std::fs::read_to_string(&kept).ok()?.starts_with(&line).then_some(()));
    node.kill_9();
    node.restart();
    let entry = b"d8:completei1e10:downloadedi1e10:incompletei0e4:name13:Debian 13.isoe";
    for path in [format!("/scrape?info_hash={}", quoted(&HASH)), "/scrape".to_owned()] {
        let (code, body) = http_get(&host, to, &path);
        assert!(code == 200 && count(&body, entry) == 1, "{path}: {}", body.escape_ascii());
    }
    let (_, page) = node.page("/");
    assert_eq!(count(&page, b"<bdi>Debian 13.iso</bdi>"), 1);
    // The same client counts once, over the restart too; a clean end keeps what a second has not.
    http_get(&host, to, &format!("{left_0}&event=completed"));
    http_get(&host, to, &format!("{left_0}&event=completed").replace("6881", "6882"));
    assert!(node.stop().success());
    let kept = std::fs::read_to_string(&kept).expect("it is kept");
    assert!(kept.starts_with(&line.replace(" 1 7", " 2 7")), "{kept}");
}

/// Who announces next to a tracker that was killed is told of the others, and what `/scrape` counts is what it counted.
#[test]
fn clients_outlive_a_kill_and_a_restart() {
    let dir = scratch();
    let host = Host::loopback(77);
    let mut node = Node::start(&host, dir.path(), "pc01", &["--mesh", "clients", "--open-tracker"]);
    let to = SocketAddr::new(host.addr(), HTTP_PORT);
    let left_0 = announce(7001, "&event=completed").replace("left=5", "left=0");
    for path in [left_0, announce(7002, "&event=started"), announce(7003, "&event=started")] {
        assert_eq!(http_get(&host, to, &path).0, 200);
    }
    let scrape = || http_get(&host, to, "/scrape").1;
    let before = scrape();
    assert_eq!(count(&before, b"d8:completei1e10:downloadedi1e10:incompletei2ee"), 1, "{}", before.escape_ascii());
    let kept = dir.path().join("pc01/state/tracker");
    let clients = |text: String| text.lines().filter(|line| line.starts_with("client ")).count();
    wait_for(SOON, "the clients to be kept", || (clients(std::fs::read_to_string(&kept).ok()?) == 3).then_some(()));
    node.kill_9();
    node.restart();
    assert_eq!(scrape().escape_ascii().to_string(), before.escape_ascii().to_string());
    let told = peers(&http_get(&host, to, &announce(7003, "")).1);
    assert_eq!(told.iter().map(SocketAddrV4::port).collect::<Vec<_>>(), [7001, 7002]);
}

/// Over HTTP everybody is told to everybody; over UDP a client is told those of its own family (BEP 15).
#[test]
fn clients_with_ipv6_addresses_are_told_and_told_of() {
    let Some(lab) = Lab::open(1, Link::Unshaped) else { return };
    let dir = scratch();
    let host = lab.host(0);
    let node = Node::start(host, dir.path(), "pc01", &["--open-tracker"]);
    let local = SocketAddr::new(Ipv6Addr::LOCALHOST.into(), HTTP_PORT);
    let own = SocketAddr::new(host.addr(), HTTP_PORT);
    for port in [7001, 7002] {
        assert_eq!(http_get(host, local, &announce(port, "")).0, 200);
    }
    let place = |port: u16| SocketAddr::new(Ipv6Addr::LOCALHOST.into(), port);
    let (_, first) = http_get(host, own, &announce(7003, ""));
    let told: Vec<SocketAddr> = bytes_of(&first, b"6:peers6").chunks(18).map(peer6).collect();
    assert_eq!((told, peers(&first)), (vec![place(7001), place(7002)], vec![]));
    let (_, second) = http_get(host, local, &announce(7001, ""));
    let told: Vec<SocketAddr> = bytes_of(&second, b"6:peers6").chunks(18).map(peer6).collect();
    assert_eq!((told, peers(&second).len()), (vec![place(7002)], 1));
    let (_, long) = http_get(host, local, &announce(7001, "").replace("compact=1", "compact=0"));
    assert_eq!(count(&long, b"2:ip3:::1"), 1, "{}", long.escape_ascii());

    let answer = host.enter(|| {
        let socket = UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).expect("a free port");
        socket.connect(local).expect("the address is ours");
        socket.set_read_timeout(Some(SOON)).expect("a socket takes a timeout");
        let mut answer = [0; 2048];
        let mut ask = |question: &[u8]| {
            socket.send(question).expect("the node listens");
            let len = socket.recv(&mut answer).expect("an answer");
            answer[..len].to_vec()
        };
        let connect = [&0x0417_2710_1980_u64.to_be_bytes()[..], &[0, 0, 0, 0, 0, 0, 0, 7]].concat();
        let connected = ask(&connect);
        let ids = [&HASH[..], b"-XX0001-abcdefghijkl"].concat();
        let numbers = [[0; 8], 5_u64.to_be_bytes(), [0; 8]].concat();
        let rest = [&[0; 12][..], &(-1_i32).to_be_bytes(), &7004_u16.to_be_bytes()].concat();
        ask(&[&connected[8..16], &[0, 0, 0, 1, 0, 0, 0, 8], &ids, &numbers, &rest].concat())
    });
    assert_eq!(answer[..8], [0, 0, 0, 1, 0, 0, 0, 8], "it answers the announce: {}", answer.escape_ascii());
    let told: Vec<SocketAddr> = answer[20..].chunks(18).map(peer6).collect();
    assert_eq!(told, [place(7001), place(7002)]);
    let (_, scraped) = node.page("/scrape");
    assert_eq!(count(&scraped, b"10:incompletei4e"), 1, "{}", scraped.escape_ascii());
}

#[test]
fn whoever_lies_about_its_port_is_handed_to_nobody() {
    let dir = scratch();
    let host = Host::loopback(72);
    let _node = Node::start(&host, dir.path(), "pc01", &["--mesh", "liars", "--open-tracker", "--nat-check", "3"]);
    let to = SocketAddr::new(host.addr(), HTTP_PORT);
    let answering = |words: &'static [u8]| {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let port = listener.local_addr().expect("it has an address").port();
        std::thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                // Whoever looked may have seen enough.
                let _ = stream.write_all(words);
            }
        });
        port
    };
    let honest = answering(b"\x13BitTorrent protocol\0\0\0\0\0\0\0\0");
    let ssh = answering(b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n");
    let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|l| l.local_addr()).expect("a free port").port();
    let ask = |port: u16| peers(&http_get(&host, to, &announce(port, "")).1);
    for port in [ssh, closed] {
        ask(port);
    }
    let seen = wait_for(SOON, "the honest client to be handed out", || {
        ask(honest);
        Some(ask(closed)).filter(|seen| !seen.is_empty())
    });
    assert_eq!(seen.iter().map(SocketAddrV4::port).collect::<Vec<_>>(), [honest]);
    for port in [ssh, closed] {
        assert!(ask(port).iter().all(|peer| peer.port() == honest));
    }
    let (_, body) = http_get(&host, to, "/scrape");
    assert_eq!(count(&body, b"10:incompletei3e"), 1, "all are counted: {}", body.escape_ascii());
}

/// By a proxy, since one machine may not have so many; the limits of the book are those of a node that was told nothing.
#[test]
fn a_hundred_thousand_peers_of_one_torrent_take_less_than_250_bytes_each() {
    const PEERS: u32 = 100_000;
    let dir = scratch();
    let host = Host::loopback(73);
    let proxy = host.addr().to_string();
    let words =
        ["--mesh", "many", "--open-tracker", "--trusted-proxy", &format!("{proxy},127.0.0.1"), "--nat-check", "0"];
    let node = Node::start(&host, dir.path(), "pc01", &words);
    let mut client = Client::of(&node);
    client.ask(&[announce(6881, "&numwant=0")]);
    let before = node.memory();
    for first in (1..PEERS).step_by(20) {
        let path = |n: u32| announce(6881, &format!("&numwant=5&ip={}", Ipv4Addr::from(0x0a00_0000 | n)));
        client.ask(&(first..PEERS.min(first + 20)).map(path).collect::<Vec<_>>());
    }
    let each = (node.memory() - before) / u64::from(PEERS);
    assert!(each <= 250, "{each} bytes each");
    let to = SocketAddr::new(host.addr(), HTTP_PORT);
    let (_, body) = http_get(&host, to, "/scrape");
    assert_eq!(count(&body, format!("10:incompletei{PEERS}e").as_bytes()), 1, "{}", body.escape_ascii());
    let told = peers(&client.ask(&[announce(6881, "")]));
    let distinct: std::collections::BTreeSet<_> = told.iter().collect();
    assert_eq!((told.len(), distinct.len()), (50, 50));
    assert_eq!(node.page("/").0, 200);
    assert_eq!(node.role().as_deref(), Some("solo"));
}

#[test]
fn a_flood_of_noise_and_of_announces_keeps_nobody_from_the_tracker_or_the_page() {
    const NOISE: u64 = 20_000;
    let dir = scratch();
    let host = Host::loopback(74);
    let words = ["--mesh", "flood", "--open-tracker", "--announces-per-address", "100"];
    let node = Node::start(&host, dir.path(), "pc01", &words);
    let to = SocketAddr::new(host.addr(), HTTP_PORT);
    // The vandal has an address of its own: its connections fill the seats of that one, and of nobody else.
    let vandal = Ipv4Addr::new(127, 0, 0, 2);
    let udp = UdpSocket::bind((vandal, 0)).expect("a free port");
    let mut state = 1_u64;
    let mut random = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state >> 33
    };
    let good = announce(6881, "");
    for n in 0..NOISE {
        let mut noise: Vec<u8> = (0..random() % 120).map(|_| random() as u8).collect();
        if n % 2 == 0 && noise.len() >= 16 {
            // Plausible at first sight: an action, and the marks of a connect.
            noise[8..12].copy_from_slice(&[0, 0, 0, (n % 4) as u8]);
            noise[..8].copy_from_slice(&0x0417_2710_1980_u64.to_be_bytes());
        }
        // A full buffer drops it, which is right.
        let _ = udp.send_to(&noise, to);
        if n % 20 == 0 {
            let mut request = format!("GET {good} HTTP/1.1\r\n\r\n").into_bytes();
            for _ in 0..=random() % 4 {
                let at = random() as usize % request.len();
                request[at] = random() as u8;
            }
            let mut stream = connect_from(vandal, to);
            // It may hang up in the middle.
            let _ = stream.write_all(&request);
        }
    }
    // As many announces as one address can make, on one connection: most are told to wait.
    let mut client = Client::of(&node);
    let (mut answered, mut refused) = (0, 0);
    for _ in 0..250 {
        let answers = client.ask(&vec![good.clone(); 20]);
        answered += count(&answers, b"8:intervali30e");
        refused += count(&answers, b"too many announces from your address");
    }
    assert_eq!(answered + refused, 5000);
    assert!(refused > 0, "one address announces 5000 times, and nobody stops it");
    // Somebody else is served at once.
    let (code, body) = http_get(&host, to, "/scrape");
    assert!(code == 200 && count(&body, b"10:incomplete") > 0);
    assert_eq!(node.page("/").0, 200);
    assert_eq!(node.role().as_deref(), Some("solo"));
}
