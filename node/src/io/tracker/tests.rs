//! The real port on loopback addresses, in front of a mind that always says the same.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use labmesh_proto::config::{Mode, RateLimit, RateLimits, Weight};
use labmesh_proto::id::{InfoHash, NodeId, PeerId, RequestId};
use labmesh_proto::io::{Command, Refusal, Reply};
use labmesh_proto::node::{ImageStatus, NodeStatus, Role, Status, TorrentStatus, TransferStatus};
use labmesh_proto::wire::control::{TransferReport, TransferState};
use labmesh_proto::wire::http_tracker::{Announce, Announced, Scraped, TrackedPeer};
use labmesh_proto::wire::metainfo::Metainfo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::time::timeout;

use super::limits::{CONNECTIONS_MAX, CONNECTIONS_PER_ADDRESS_MAX};
use super::{Policy, ScrapeAllowed, Server, Token, serve};
use crate::driver::{Handle, Question};
use crate::web::Mesh;

/// More than any answer takes, and less than the patience of whoever runs the tests.
const SOON: Duration = Duration::from_secs(20);
const LOCALHOST: Ipv4Addr = Ipv4Addr::LOCALHOST;

fn torrent(name: &str, fill: u8) -> Arc<Metainfo> {
    let mut info =
        format!("d6:lengthi100000e4:name{}:{name}12:piece lengthi32768e6:pieces80:", name.len()).into_bytes();
    info.extend([fill; 80]);
    info.push(b'e');
    Arc::new(Metainfo::from_info(info).unwrap())
}

fn image(name: &str, torrent: &Metainfo, ambiguous: bool) -> ImageStatus {
    ImageStatus {
        name: name.to_owned(),
        info_hash: torrent.info_hash(),
        size: 100_000,
        piece_length: 32_768,
        holders: vec!["pc01".to_owned()],
        here: None,
        ambiguous,
        complete: 2,
        downloading: 3,
        downloaded: 4,
    }
}

/// Four images: plain, hostile in its name, and two of one name; a master, an absent node, a waiting transfer.
struct World {
    torrents: Vec<Arc<Metainfo>>,
    status: Status,
}

const HOSTILE: &str = "ou1/<script>alert(\"é & 'x'\")</script>.img";

fn world() -> World {
    let torrents = vec![torrent("a.img", 1), torrent("b.img", 2), torrent("c.img", 3), torrent("c.img", 4)];
    let names = [("a.img", false), (HOSTILE, false), ("c.img", true), ("c.img", true)];
    let images: Vec<_> = names.iter().zip(&torrents).map(|((name, twice), t)| image(name, t, *twice)).collect();
    let report = |state, image: usize| TransferReport {
        info_hash: torrents[image].info_hash(),
        mode: Mode::Peer,
        state,
        permille: 412,
        down_bps: 112_000_000,
        up_bps: 0,
        seed_left_s: Some(42),
        missing_pieces: 5,
    };
    let node = |name: &str, role, live, transfers| NodeStatus {
        id: NodeId([7; 32]),
        name: name.to_owned(),
        addr: Some(Ipv4Addr::new(10, 0, 0, 1).into()),
        http_port: 6969,
        role,
        weight: Weight::DEFAULT,
        site: "lab <b>1".to_owned(),
        live,
        transfers,
    };
    let transfer = TransferStatus {
        name: HOSTILE.to_owned(),
        info_hash: torrents[1].info_hash(),
        mode: Mode::Peer,
        state: TransferState::Waiting,
        have: 1,
        pieces: 4,
        bytes_have: 32_768,
        size: 100_000,
        down_bps: 0,
        up_bps: 0,
        downloaded: 32_768,
        uploaded: 0,
        seed_left: None,
        seeds_as_master: false,
        missing_pieces: 3,
        last_seen_on: vec!["pc07".to_owned()],
        sources: vec![("pc01".to_owned(), 32_768, 0)],
        tracker: None,
        error: None,
    };
    let reports = vec![report(TransferState::Seeding, 0), report(TransferState::Waiting, 1)];
    let status = Status {
        id: NodeId([7; 32]),
        name: "pc01".to_owned(),
        role: Role::Master,
        term: 3,
        master: Some("pc01".to_owned()),
        nodes: vec![node("pc01", Role::Master, true, reports), node("pc<07>", Role::Follower, false, vec![])],
        images,
        torrents: vec![TorrentStatus {
            info_hash: InfoHash([9; 20]),
            known: Some(("debian <13>.iso".to_owned(), 700_000_000)),
            complete: 7,
            downloading: 8,
            downloaded: 99,
        }],
        transfers: vec![transfer],
        trackers: vec!["10.0.0.1:6969".parse().unwrap(), "10.0.0.2:7000".parse().unwrap()],
        limits: RateLimits { upload: (1 << 20).try_into().unwrap(), download: RateLimit::NONE },
    };
    World { torrents, status }
}

/// Answers as the driver would, on its own task.
fn mind(World { torrents, status }: World) -> Handle {
    let (questions, mut asked) = mpsc::channel(64);
    let status = Arc::new(status);
    tokio::spawn(async move {
        while let Some(question) = asked.recv().await {
            // Who asked may have gone; that is its own affair.
            let _ = match question {
                Question::Status(to) => to.send(status.clone()).is_ok(),
                Question::Command(Command::Torrent(hash), to) => {
                    let found = torrents.iter().find(|t| t.info_hash() == hash);
                    let refused = || Reply::Refused(Refusal::NoSuchImage(hash.to_string()));
                    to.send(found.map_or_else(refused, |t| Reply::Torrent(t.clone()))).is_ok()
                }
                Question::Announces { batch, answers } => {
                    let answer = |(id, announce): (RequestId, Announce)| {
                        let known = torrents.iter().any(|t| t.info_hash() == announce.info_hash);
                        // The asker itself comes back, so that the tests see what it was taken for.
                        let addr = SocketAddr::new(announce.source, announce.port);
                        let peers = vec![TrackedPeer { addr, peer_id: announce.peer_id }];
                        let ok = Announced { interval: 30, min_interval: 10, complete: 1, incomplete: 1, peers };
                        let not_ours = "Requested download is not authorized for use with this tracker.";
                        (id, if known { Ok(ok) } else { Err(not_ours) })
                    };
                    answers.leave(&mut batch.into_iter().map(answer).collect(), true);
                    true
                }
                Question::Command(Command::Register(name), to) => {
                    let open = name.name != "closed";
                    let reply = if open { Reply::Done } else { Reply::Refused(Refusal::ClosedTracker) };
                    to.send(reply).is_ok()
                }
                Question::Scrape(images, to) => {
                    let all = || torrents.iter().map(|t| t.info_hash()).collect();
                    let images = if images.is_empty() { all() } else { images };
                    let scraped =
                        |info_hash| Scraped { info_hash, name: None, complete: 2, incomplete: 3, downloaded: 4 };
                    to.send(images.into_iter().map(scraped).collect()).is_ok()
                }
                Question::Command(..) | Question::Input(_) => panic!("the web changes something: {question:?}"),
            };
        }
    });
    Handle::new(questions, broadcast::channel(1).0)
}

fn mesh() -> Mesh {
    Mesh { name: "labmesh".to_owned(), host: "labmesh.local".to_owned() }
}

struct Port {
    server: Server,
    stop: oneshot::Sender<()>,
}

fn port() -> Port {
    port_with(Policy::default())
}

fn port_with(policy: Policy) -> Port {
    let (stop, stopped) = oneshot::channel::<()>();
    let shutdown = async move { drop(stopped.await) };
    // No limit for one address, unless that is the test.
    let policy =
        if policy.announces_per_address == 1000 { Policy { announces_per_address: 0, ..policy } } else { policy };
    let server = serve(LOCALHOST.into(), 0, mind(world()), mesh(), policy, shutdown).unwrap();
    Port { server, stop }
}

impl Port {
    fn addr(&self) -> SocketAddr {
        self.server.addr
    }

    async fn connect_from(&self, source: Ipv4Addr) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((source, 0).into()).unwrap();
        timeout(SOON, socket.connect(self.addr())).await.unwrap().unwrap()
    }

    /// Sends a request as it stands, and reads until the server closes.
    async fn raw(&self, request: &str) -> Vec<u8> {
        let mut stream = TcpStream::connect(self.addr()).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        read_all(&mut stream).await
    }

    /// Status, head and body.
    async fn get(&self, path: &str) -> (u16, String, Vec<u8>) {
        split(&self.raw(&format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")).await)
    }

    async fn page(&self, path: &str) -> String {
        let (code, _, body) = self.get(path).await;
        assert_eq!(code, 200, "{path}");
        String::from_utf8(body).unwrap()
    }
}

async fn read_all(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    // A reset after the answer is an end too.
    let _ = timeout(SOON, stream.read_to_end(&mut bytes)).await.expect("the server closes the connection");
    bytes
}

fn split(answer: &[u8]) -> (u16, String, Vec<u8>) {
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n").expect("an answer has a head");
    let head = String::from_utf8(answer[..end].to_vec()).unwrap();
    (head[9..12].parse().unwrap(), head.to_ascii_lowercase(), answer[end + 4..].to_vec())
}

fn escaped(hash: InfoHash) -> String {
    hash.0.iter().map(|b| format!("%{b:02x}")).collect()
}

fn announce_path(hash: InfoHash) -> String {
    format!(
        "/announce?info_hash={}&peer_id=-XX0001-abcdefghijkl&port=6881&uploaded=0&downloaded=0&left=9&compact=1",
        escaped(hash)
    )
}

#[tokio::test]
async fn an_announce_gets_compact_peers_in_plain_bencode() {
    let port = port();
    let known = world().torrents[0].info_hash();
    let (code, head, body) = port.get(&announce_path(known)).await;
    assert_eq!(code, 200);
    assert!(head.contains("content-type: text/plain"), "{head}");
    let mut expected = b"d8:completei1e10:incompletei1e8:intervali30e12:min intervali10e5:peers6:".to_vec();
    expected.extend([127, 0, 0, 1, 0x1a, 0xe1, b'e']);
    assert_eq!(body, expected, "{}", String::from_utf8_lossy(&body));
}

#[tokio::test]
async fn refused_announces_are_answered_in_bttracks_words() {
    let port = port();
    let (code, _, body) = port.get(&announce_path(InfoHash([9; 20]))).await;
    let words = "Requested download is not authorized for use with this tracker.";
    assert_eq!((code, body), (200, format!("d14:failure reason{}:{words}e", words.len()).into_bytes()));
    for bad in ["/announce", "/announce?info_hash=abc", "/announce?%", "/announce?info_hash=%zz&port=99999999"] {
        let (code, _, body) = port.get(bad).await;
        assert!(code == 200 && body.starts_with(b"d14:failure reason"), "{bad}: {}", String::from_utf8_lossy(&body));
    }
}

async fn announced(port: &Port, head: &str) -> Vec<u8> {
    let path = announce_path(world().torrents[0].info_hash());
    let (code, _, body) = split(&port.raw(&format!("GET {path}{head}\r\nConnection: close\r\n\r\n")).await);
    assert_eq!(code, 200);
    body
}

#[tokio::test]
async fn a_client_announces_for_itself_and_a_configured_proxy_for_others() {
    let (mine, theirs) = ([127, 0, 0, 1, 0x1a, 0xe1], [10, 9, 8, 7, 0x1a, 0xe1]);
    let claims = ["&ip=10.9.8.7 HTTP/1.1\r\nHost: x", " HTTP/1.1\r\nX-Forwarded-For: 1.2.3.4, 10.9.8.7"];
    let proxy = Policy { trusted_proxies: vec![LOCALHOST.into()], ..Policy::default() };
    for (policy, expected) in [(Policy::default(), mine), (proxy, theirs)] {
        let port = port_with(policy);
        for claim in claims {
            let body = announced(&port, claim).await;
            assert!(body.windows(6).any(|w| w == expected), "{claim}: {}", body.escape_ascii());
        }
        let client = UdpClient::of(&port).await;
        let mut request = announce_request(client.connect().await, world().torrents[0].info_hash());
        request[84..88].copy_from_slice(&theirs[..4]);
        assert_eq!(client.ask(&request).await[20..], expected);
    }
}

#[tokio::test]
async fn pages_and_announces_share_a_connection_in_any_order_and_cut_in_any_way() {
    let port = port();
    let path = announce_path(world().torrents[0].info_hash());
    let announce = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
    let last = "GET /style.css HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let all = format!("{announce}GET /announce HTTP/1.1\r\n\r\n{announce}{last}");
    for cut in [1, 7, 60, announce.len() - 1, announce.len(), announce.len() + 5, all.len() - 3] {
        let mut stream = port.connect_from(LOCALHOST).await;
        stream.write_all(&all.as_bytes()[..cut]).await.unwrap();
        // The first part is on its way alone.
        tokio::task::yield_now().await;
        stream.write_all(&all.as_bytes()[cut..]).await.unwrap();
        let answers = read_all(&mut stream).await;
        let answers = String::from_utf8_lossy(&answers);
        assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 4, "{cut}: {answers}");
        assert_eq!((answers.matches("8:intervali30e").count(), answers.matches("no info hash").count()), (2, 1));
        assert!(answers.contains("text/css"));
    }
}

#[tokio::test]
async fn who_announces_too_often_is_told_so_and_others_are_not() {
    let port = port_with(Policy { announces_per_address: 20, ..Policy::default() });
    let request = format!("GET {} HTTP/1.1\r\nHost: x\r\n\r\n", announce_path(world().torrents[0].info_hash()));
    let mut stream = port.connect_from(Ipv4Addr::new(127, 3, 0, 1)).await;
    stream.write_all(request.repeat(100).as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let answers = String::from_utf8_lossy(&read_all(&mut stream).await).into_owned();
    let (good, bad) = (answers.matches("8:intervali30e").count(), answers.matches("too many announces").count());
    // A second may begin in the middle.
    assert!((20..=40).contains(&good) && good + bad == 100, "{good} {bad}");
    assert!(String::from_utf8_lossy(&announced(&port, " HTTP/1.1\r\nHost: x").await).contains("8:intervali30e"));
}

#[tokio::test]
async fn who_announces_too_often_over_udp_is_told_so_too() {
    let port = port_with(Policy { announces_per_address: 3, ..Policy::default() });
    let client = UdpClient::of(&port).await;
    let id = client.connect().await;
    let request = announce_request(id, world().torrents[0].info_hash());
    let mut refused = 0;
    for _ in 0..20 {
        let answer = client.ask(&request).await;
        assert_eq!(answer[4..8], request[12..16], "every one is answered, under its number");
        match answer[3] {
            1 => {}
            3 => {
                assert!(answer[8..].starts_with(b"too many announces"), "{}", answer.escape_ascii());
                assert!(answer.len() < request.len());
                refused += 1;
            }
            other => panic!("action {other}"),
        }
    }
    // A second may begin in the middle, or several.
    assert!((1..=17).contains(&refused), "{refused}");
}

#[tokio::test]
async fn torrents_and_scrapes_can_be_switched_off() {
    let hash = world().torrents[0].info_hash();
    let port = port_with(Policy { allow_get: false, scrape_allowed: ScrapeAllowed::Specific, ..Policy::default() });
    for path in [format!("/file?hash={hash}"), "/file".to_owned(), "/images/a.img.torrent".to_owned()] {
        let (code, _, body) = port.get(&path).await;
        assert_eq!((code, &body[..]), (400, &b"get function is not available with this tracker."[..]), "{path}");
    }
    let words = b"d14:failure reason56:full scrape function is not available with this tracker.e";
    let (code, _, body) = port.get("/scrape").await;
    assert_eq!((code, body.escape_ascii().to_string()), (400, words.escape_ascii().to_string()));
    assert_eq!(port.get(&format!("/scrape.php?info_hash={}", escaped(hash))).await.0, 200);
    let port = port_with(Policy { scrape_allowed: ScrapeAllowed::None, ..Policy::default() });
    let (code, _, body) = port.get(&format!("/scrape?info_hash={}", escaped(hash))).await;
    assert!(code == 400 && body.ends_with(b"specific scrape function is not available with this tracker.e"));
}

#[tokio::test]
async fn a_torrent_is_named_from_this_machine_or_with_the_token() {
    let word = "0123456789abcdefghij";
    let port = port_with(Policy { open: true, register_token: Some(Token(word.to_owned())), ..Policy::default() });
    let hash = InfoHash([9; 20]).to_string();
    let host = format!("Host: 127.0.0.1:{}\r\n", port.addr().port());
    let send = async |path: &str, kind: &str, headers: &str, body: &str| {
        let length = body.len();
        let head = format!("POST {path} HTTP/1.1\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n{headers}");
        split(&port.raw(&format!("{head}Connection: close\r\n\r\n{body}")).await)
    };
    let (json, form) = ("application/json", "application/x-www-form-urlencoded");
    let asked = format!("{{\"info_hash\": \"{hash}\", \"name\": \"x.iso\", \"size\": 5}}");
    let filled = format!("info_hash={hash}&name=x.iso&size=5");
    let (code, _, body) = send("/api/register", json, &host, &asked).await;
    assert_eq!(code, 200, "{}", String::from_utf8_lossy(&body));
    let (code, head, _) = send("/register", form, &host, &filled).await;
    assert!(code == 303 && head.contains("location: /"), "{head}");
    let foreign = format!("{host}Origin: http://evil.example\r\n");
    assert_eq!(send("/register", form, &foreign, &filled).await.0, 403);
    assert_eq!(send("/register", form, &foreign, &format!("{filled}&token={word}")).await.0, 303);
    assert_eq!(send("/register", form, &foreign, &format!("{filled}&token={word}x")).await.0, 403);
    let bearer = format!("Host: labmesh.local\r\nAuthorization: Bearer {word}\r\n");
    assert_eq!(send("/api/register", json, &bearer, &asked).await.0, 200);
    for (path, kind, body) in [
        ("/api/register", form, &asked[..]),
        ("/api/register", json, "{}"),
        ("/api/register", json, &asked.replace("x.iso", "")),
        ("/api/register", json, &asked.replace(&hash, "12")),
        ("/api/register", json, &asked.replace("x.iso", "closed")),
        ("/register", form, "name=x&size=5"),
        ("/register", form, &"x".repeat(5000)),
    ] {
        assert_eq!(send(path, kind, &host, body).await.0, 400, "{path} {body}");
    }
    assert!(port.page("/register").await.contains("<form method=post action=\"/register\">"));
    let closed = port_with(Policy::default());
    let (code, _, body) = closed.get("/register").await;
    let words = String::from_utf8_lossy(&body).into_owned();
    assert!(code == 403 && words.contains("for the images of the catalogue only"), "{code} {words}");
    assert!(port.page("/").await.contains("<bdi>debian &lt;13&gt;.iso</bdi>"));
    let torrents: serde_json::Value = serde_json::from_str(&port.page("/api/torrents").await).unwrap();
    assert_eq!((&torrents[0]["name"], &torrents[0]["downloaded"]), (&"debian <13>.iso".into(), &99.into()));
}

#[tokio::test]
async fn a_scrape_names_the_images_that_were_asked_for_or_all() {
    let port = port();
    let hash = world().torrents[0].info_hash();
    let (_, _, body) = port.get(&format!("/scrape?info_hash={}", escaped(hash))).await;
    let mut expected = b"d5:filesd20:".to_vec();
    expected.extend(hash.0);
    expected.extend(b"d8:completei2e10:downloadedi4e10:incompletei3eeee");
    assert_eq!(body, expected, "{}", String::from_utf8_lossy(&body));
    let (_, _, all) = port.get("/scrape").await;
    assert_eq!(all.windows(10).filter(|w| w == b"8:complete").count(), 4);
}

#[tokio::test]
async fn a_torrent_keeps_its_info_hash_and_gets_the_trackers_of_this_moment() {
    let port = port();
    let torrent = &world().torrents[1];
    let hash = torrent.info_hash();
    let by_path =
        "/images/ou1/%3Cscript%3Ealert%28%22%C3%A9%20%26%20%27x%27%22%29%3C%2Fscript%3E.img.torrent".to_owned();
    for path in [format!("/file?info_hash={}", escaped(hash)), format!("/file?hash={hash}"), by_path] {
        let (code, head, body) = port.get(&path).await;
        assert_eq!(code, 200, "{path}");
        assert!(head.contains("content-type: application/x-bittorrent"), "{head}");
        assert!(head.contains("content-disposition: attachment; filename=\"script_.img.torrent\"; "), "{head}");
        let got = Metainfo::parse(&body).unwrap();
        assert_eq!(got.info_hash(), hash);
        let urls =
            ["http://10.0.0.1:6969/announce", "http://10.0.0.2:7000/announce", "http://labmesh.local:6969/announce"];
        assert_eq!(got.announce(), urls.map(|url| vec![url.to_owned()]));
    }
}

#[tokio::test]
async fn torrents_that_nobody_has_exist_elsewhere_in_the_universe() {
    let port = port();
    let nothing = b"your file may exist elsewhere in the universe\nbut alas, not here\n".to_vec();
    let unknown = format!("/file?hash={}", InfoHash([9; 20]));
    for path in [unknown.as_str(), "/images/no.img.torrent", "/images/a.img", "/images/..%2f..%2fetc%2fpasswd.torrent"]
    {
        let (code, _, body) = port.get(path).await;
        assert_eq!((code, &body), (404, &nothing), "{path}");
    }
    assert_eq!(port.get("/file").await.0, 400);
    assert_eq!(port.get("/file?hash=12").await.0, 400);
    assert_eq!(port.get("/images/%ff.torrent").await.0, 400);
}

#[tokio::test]
async fn of_two_contents_with_one_name_the_hash_says_which() {
    let port = port();
    let (code, _, body) = port.get("/images/c.img.torrent").await;
    let (page, torrents) = (String::from_utf8(body).unwrap(), world().torrents);
    assert_eq!(code, 300);
    for torrent in &torrents[2..] {
        let path = format!("/images/c.img@{}.torrent", &torrent.info_hash().to_string()[..8]);
        assert!(page.contains(&path.replace('@', "%40")) || page.contains(&path), "{page}");
        let (code, _, body) = port.get(&path).await;
        assert_eq!((code, Metainfo::parse(&body).unwrap().info_hash()), (200, torrent.info_hash()));
    }
}

#[tokio::test]
async fn the_page_shows_bttracks_columns_the_nodes_and_what_is_waited_for() {
    let port = port();
    let page = port.page("/").await;
    assert!(page.contains("BitTorrent download info</title>"));
    for column in ["info hash", "torrent name", "size", "complete", "downloading", "downloaded", "transferred"] {
        assert!(page.contains(&format!(">{column}</th>")), "{column}");
    }
    assert!(page.contains("4 images") && page.contains("400.0 kB"), "totals: {page}");
    assert!(page.contains("waiting for 3 pieces last seen on <bdi>pc07</bdi>"), "{page}");
    assert!(page.contains("href=\"/images/a.img.torrent\""));
    assert!(page.contains("href=\"http://10.0.0.1:6969/\""));
    assert!(page.contains("41.2 %") && page.contains("↓ 112.0 MB/s") && page.contains("42 s"));
    assert!(page.contains("<p class=dim>limits: up 1.0 MiB/s, down unlimited</p>"));
    assert_eq!(page.matches("<script").count(), 1, "ours: {page}");
    assert!(
        page.contains("<script src=/live.js defer></script>") && !page.contains("pc<07>") && !page.contains("lab <b>1")
    );
    assert!(page.contains("&lt;script&gt;alert(&quot;é &amp; &#39;x&#39;&quot;)"));
    assert!(port.page("/images/").await.contains("href=\"/images/ou1/%3Cscript"));
}

/// Reads a chunked stream of events until it holds `last`.
async fn events_until(stream: &mut TcpStream, last: &str) -> String {
    let mut text = Vec::new();
    let mut chunk = [0; 4096];
    while !String::from_utf8_lossy(&text).contains(last) {
        let len = timeout(SOON, stream.read(&mut chunk)).await.expect("events come").unwrap();
        assert!(len > 0, "the stream ended: {}", String::from_utf8_lossy(&text));
        text.extend_from_slice(&chunk[..len]);
    }
    String::from_utf8_lossy(&text).into_owned()
}

#[tokio::test]
async fn who_follows_the_page_is_told_every_part_and_then_what_changes() {
    let port = port();
    let mut stream = port.connect_from(LOCALHOST).await;
    stream.write_all(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let text = events_until(&mut stream, "data: <section id=here>").await;
    assert!(text.to_ascii_lowercase().contains("content-type: text/event-stream"), "{text}");
    assert!(text.contains("retry: 2000\n\n"));
    for part in ["title", "top", "now", "room", "images", "nodes", "here"] {
        assert_eq!(text.matches(&format!(" id={part}>")).count(), 1, "{part} in {text}");
    }
    assert!(!text.contains("<script"), "{text}");
    // Nothing changes here, so nothing is said; the end of the node is the end of the stream.
    port.stop.send(()).unwrap();
    let rest = read_all(&mut stream).await;
    assert!(!String::from_utf8_lossy(&rest).contains("event: part"), "{}", String::from_utf8_lossy(&rest));
    assert!(rest.ends_with(b"0\r\n\r\n"), "it ends as it should");
}

#[tokio::test]
async fn one_listener_too_many_is_told_so_and_places_become_free_again() {
    let port = port();
    let mut listeners = Vec::new();
    for _ in 0..crate::web::LISTENERS_MAX {
        let mut stream = port.connect_from(LOCALHOST).await;
        stream.write_all(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        events_until(&mut stream, "retry: ").await;
        listeners.push(stream);
    }
    let (code, _, body) = port.get("/events").await;
    assert_eq!((code, String::from_utf8(body).unwrap().contains("too many listeners")), (503, true));
    assert_eq!(port.get("/").await.0, 200, "the page itself is there for everybody");
    drop(listeners);
    let served = async {
        loop {
            let mut stream = port.connect_from(LOCALHOST).await;
            stream.write_all(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
            let mut head = [0; 12];
            stream.read_exact(&mut head).await.unwrap();
            if &head == b"HTTP/1.1 200" {
                return;
            }
        }
    };
    timeout(SOON, served).await.expect("places become free again");
}

#[tokio::test]
async fn programs_read_json_and_prometheus_text() {
    let port = port();
    let status: serde_json::Value = serde_json::from_str(&port.page("/api/status").await).unwrap();
    assert_eq!((&status["node"], &status["nodes"][1]["state"]), (&"pc01".into(), &"away".into()));
    let images: serde_json::Value = serde_json::from_str(&port.page("/api/images").await).unwrap();
    assert_eq!(images[1]["name"], HOSTILE);
    port.page(&announce_path(InfoHash([9; 20]))).await;
    let metrics = port.page("/metrics").await;
    for line in [
        "labmesh_nodes{state=\"live\"} 1",
        "labmesh_role{role=\"master\"} 1",
        "labmesh_tracker_announces_total{protocol=\"http\"} 1",
        "labmesh_tracker_failures_total 1",
        "# TYPE labmesh_transfer_received_bytes_total counter",
    ] {
        assert!(metrics.lines().any(|l| l == line), "{line} is not in {metrics}");
    }
}

#[tokio::test]
async fn only_get_and_head_are_answered() {
    let port = port();
    let (code, head, body) = split(&port.raw("HEAD / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await);
    assert_eq!((code, body.len()), (200, 0));
    assert!(head.contains("text/html; charset=utf-8") && head.contains("content-security-policy: default-src 'none'"));
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "BREW"] {
        let request = format!("{method} / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        assert_eq!(split(&port.raw(&request).await).0, 405, "{method}");
    }
    assert_eq!(port.get("/nothing").await.0, 404);
}

#[tokio::test]
async fn a_connection_serves_several_requests() {
    let port = port();
    let two = "GET /style.css HTTP/1.1\r\nHost: x\r\n\r\nGET /scrape HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let answers = port.raw(two).await;
    assert_eq!(answers.windows(12).filter(|w| w == b"HTTP/1.1 200").count(), 2);
}

#[tokio::test]
async fn old_clients_are_answered_in_their_protocol() {
    // As ctorrent asks: HTTP/1.0 without a host, and then it only listens.
    let port = port();
    let mut stream = port.connect_from(LOCALHOST).await;
    let request = format!("GET {} HTTP/1.0\r\n\r\n", announce_path(world().torrents[0].info_hash()));
    stream.write_all(request.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let answer = read_all(&mut stream).await;
    assert!(answer.starts_with(b"HTTP/1.0 200 OK\r\n"), "{}", String::from_utf8_lossy(&answer));
    assert!(split(&answer).2.starts_with(b"d8:completei1e"));
}

#[tokio::test]
async fn heads_that_are_malformed_or_too_long_are_refused() {
    let port = port();
    let long = format!("GET / HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "y".repeat(64 * 1024));
    assert_eq!(split(&port.raw(&long).await).0, 431);
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(2000));
    assert_eq!(split(&port.raw(&many).await).0, 431);
    assert_eq!(split(&port.raw("what is this\r\n\r\n").await).0, 400);
    assert_eq!(port.get("/style.css").await.0, 200);
}

#[tokio::test]
async fn who_sends_its_head_drop_by_drop_is_cut_off() {
    let port = port();
    let (mut slow, mut idle) = (port.connect_from(LOCALHOST).await, port.connect_from(LOCALHOST).await);
    let drops = async {
        for byte in b"GET / HTTP/1.1\r\nX: ".iter().cycle() {
            if slow.write_all(&[*byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(SOON, drops).await.expect("a slow head is cut off");
    assert_eq!(read_all(&mut idle).await, b"", "an idle connection is closed");
}

#[tokio::test]
async fn two_thousand_announces_at_once_are_all_answered() {
    let port = Arc::new(port());
    let path = announce_path(world().torrents[0].info_hash());
    let mut askers = tokio::task::JoinSet::new();
    for n in 0..2000u32 {
        let (port, path) = (port.clone(), path.clone());
        askers.spawn(async move {
            // As a room would: from many addresses.
            let mut stream = port.connect_from(Ipv4Addr::new(127, 1, 0, 1 + (n % 100) as u8)).await;
            let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
            let written = stream.write_all(request.as_bytes()).await;
            let answer = read_all(&mut stream).await;
            written.is_ok() && answer.starts_with(b"HTTP/1.1 200")
        });
    }
    let answered = askers.join_all().await.into_iter().filter(|ok| *ok).count();
    let refused = port.server.counters.http_refused.get() as usize;
    assert_eq!(answered + refused, 2000);
    assert!(answered >= CONNECTIONS_MAX / 2, "{answered}");
}

#[tokio::test]
async fn one_address_cannot_take_all_connections_and_places_become_free_again() {
    let port = port();
    let mut held = Vec::new();
    for _ in 0..CONNECTIONS_PER_ADDRESS_MAX {
        held.push(port.connect_from(Ipv4Addr::new(127, 2, 0, 1)).await);
    }
    let mut refused = port.connect_from(Ipv4Addr::new(127, 2, 0, 1)).await;
    assert!(read_all(&mut refused).await.starts_with(b"HTTP/1.1 503"));
    assert_eq!(port.get("/style.css").await.0, 200, "other addresses are served");
    drop(held);
    let served = async {
        loop {
            let mut stream = port.connect_from(Ipv4Addr::new(127, 2, 0, 1)).await;
            let sent = stream.write_all(b"GET /style.css HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
            if read_all(&mut stream).await.starts_with(b"HTTP/1.1 200") && sent.is_ok() {
                return;
            }
        }
    };
    timeout(SOON, served).await.expect("places become free again");
}

#[tokio::test]
async fn the_end_closes_idle_connections_and_frees_the_port() {
    let Port { server, stop } = port();
    let addr = server.addr;
    let mut idle = TcpStream::connect(addr).await.unwrap();
    idle.write_all(b"GET /style.css HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    idle.read_u8().await.unwrap();
    stop.send(()).unwrap();
    timeout(SOON, server.ended()).await.unwrap();
    read_all(&mut idle).await;
    let again = serve(addr.ip(), addr.port(), mind(world()), mesh(), Policy::default(), std::future::pending());
    assert_eq!(again.unwrap().addr, addr);
}

#[tokio::test]
async fn a_taken_port_says_what_to_do() {
    let first = port();
    let addr = first.addr();
    let second = serve(addr.ip(), addr.port(), mind(world()), mesh(), Policy::default(), std::future::pending());
    let message = second.unwrap_err().to_string();
    let expected =
        format!("port {} is taken on 127.0.0.1, perhaps by another node; choose another with --http-port", addr.port());
    assert_eq!(message, expected);
}

struct UdpClient(UdpSocket);

impl UdpClient {
    async fn of(port: &Port) -> Self {
        let socket = UdpSocket::bind((LOCALHOST, 0)).await.unwrap();
        socket.connect(port.addr()).await.unwrap();
        Self(socket)
    }

    async fn ask(&self, request: &[u8]) -> Vec<u8> {
        self.0.send(request).await.unwrap();
        let mut answer = [0; 2048];
        let len = timeout(SOON, self.0.recv(&mut answer)).await.expect("an answer").unwrap();
        answer[..len].to_vec()
    }

    async fn connect(&self) -> [u8; 8] {
        let answer = self.ask(&connect_request(77)).await;
        assert_eq!((answer.len(), &answer[..8]), (16, &[0, 0, 0, 0, 0, 0, 0, 77][..]));
        answer[8..].try_into().unwrap()
    }
}

fn connect_request(transaction: u32) -> Vec<u8> {
    let mut request = 0x0417_2710_1980u64.to_be_bytes().to_vec();
    request.extend([0; 4]);
    request.extend(transaction.to_be_bytes());
    request
}

fn announce_request(connection: [u8; 8], hash: InfoHash) -> Vec<u8> {
    let mut request = connection.to_vec();
    request.extend([0, 0, 0, 1, 0, 0, 0, 78]);
    request.extend(hash.0);
    request.extend(PeerId(*b"-XX0001-abcdefghijkl").0);
    request.extend([0; 24]); // downloaded, left, uploaded
    request.extend([0, 0, 0, 2]); // started
    request.extend([8, 8, 8, 8]); // an address that is not ours, to be ignored
    request.extend([0; 4]); // key
    request.extend((-1i32).to_be_bytes());
    request.extend(6881u16.to_be_bytes());
    request
}

#[tokio::test]
async fn udp_clients_connect_announce_and_scrape() {
    let port = port();
    let client = UdpClient::of(&port).await;
    let id = client.connect().await;
    let known = world().torrents[0].info_hash();
    let answer = client.ask(&announce_request(id, known)).await;
    let mut expected = vec![0, 0, 0, 1, 0, 0, 0, 78, 0, 0, 0, 30, 0, 0, 0, 1, 0, 0, 0, 1];
    expected.extend([127, 0, 0, 1, 0x1a, 0xe1]);
    assert_eq!(answer, expected);

    let mut scrape = id.to_vec();
    scrape.extend([0, 0, 0, 2, 0, 0, 0, 79]);
    scrape.extend(known.0);
    let answer = client.ask(&scrape).await;
    assert_eq!(answer, [0, 0, 0, 2, 0, 0, 0, 79, 0, 0, 0, 2, 0, 0, 0, 4, 0, 0, 0, 3]);

    let refused = client.ask(&announce_request(id, InfoHash([9; 20]))).await;
    assert_eq!(refused[..8], [0, 0, 0, 3, 0, 0, 0, 78]);
    assert!(refused.ends_with(b"not authorized for use with this tracker."));
}

#[tokio::test]
async fn without_a_good_connection_id_no_answer_is_longer_than_its_question() {
    let port = port();
    let client = UdpClient::of(&port).await;
    let mine = client.connect().await;
    let other = UdpSocket::bind((Ipv4Addr::new(127, 0, 0, 9), 0)).await.unwrap();
    other.connect(port.addr()).await.unwrap();
    let other = UdpClient(other);
    let request = announce_request(mine, world().torrents[0].info_hash());
    let answer = other.ask(&request).await;
    assert_eq!(answer[..8], [0, 0, 0, 3, 0, 0, 0, 78], "an id is good for its own address only");
    let mut scrape = [mine.as_slice(), &[0, 0, 0, 2, 0, 0, 0, 79]].concat();
    scrape.extend([1; 20]);
    assert!(other.ask(&scrape).await.len() <= scrape.len());
}

#[tokio::test]
async fn broken_datagrams_are_harmless() {
    let port = port();
    let client = UdpClient::of(&port).await;
    let id = client.connect().await;
    let whole = announce_request(id, world().torrents[0].info_hash());
    for len in 0..whole.len() {
        client.0.send(&whole[..len]).await.unwrap();
    }
    for n in 0..200u64 {
        if n.is_multiple_of(50) {
            // The socket is served in order: when this is answered, all before it was, and its buffer has room again.
            client.connect().await;
        }
        let noise: Vec<u8> = (0..n).map(|i| (i.wrapping_mul(n).wrapping_mul(0x9e37_79b9) >> 7) as u8).collect();
        client.0.send(&noise).await.unwrap();
    }
    let fresh = UdpClient::of(&port).await;
    fresh.connect().await;
    assert!(port.server.counters.udp_dropped.get() > 200);
}
