//! Web seeds (BEP 19): a file on a web server, dressed as a peer that has all of it.
//!
//! Rule: to the swarm a web server is one more client, at an address of this machine. What is asked of it, how much at
//! once, and whether it is slow or sends rubbish is judged as with any peer. Here is only the translation: neighbouring
//! requests become one `GET` with a range (RFC 9110 s. 14), its body becomes `piece` messages. Each server has one
//! connection, and nobody but this machine is passed on to it. Not here: when it is dialled.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{CONTENT_LENGTH, CONTENT_RANGE, HOST, RANGE, USER_AGENT};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use labmesh_proto::config::REQUESTS_PER_PEER_MAX;
use labmesh_proto::id::{Geometry, ImageIndex, InfoHash, PeerId};
use labmesh_proto::io::Input;
use labmesh_proto::wire::metainfo::Metainfo;
use labmesh_proto::wire::peer::piece_header;
use labmesh_proto::wire::peer::{BadHandshake, BadMessage, Decoder, Extended, Handshake, Item, Message, Range};
use labmesh_proto::wire::web_seed::WebSeed;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use super::http::{HttpError, resolve};
use super::{Event, Events};

/// For the handshake of the node, which comes at once.
const GREETING_WITHIN: Duration = Duration::from_secs(5);
/// For the server to be reached and to say that it has the file: less than a node waits for a handshake.
const SERVER_WITHIN: Duration = Duration::from_secs(4);
/// A server that is silent for this long in the middle of an answer is given up.
const SILENT_MAX: Duration = Duration::from_secs(20);
/// The node says something more often than that, so one that does not is another program of this machine.
const NODE_SILENT_MAX: Duration = Duration::from_secs(150);
/// After a failed accept, usually for want of file descriptors.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// The longest range that is asked for at once: long enough that the way to the server and back does not count, short
/// enough that little is fetched in vain when the node changes its mind.
const RUN_BYTES: u64 = 4 << 20;
/// Where messages of the node are received.
const HEAD_BYTES: usize = 4096;

/// The web servers of the images that are being fetched.
#[derive(Debug)]
pub struct WebSeeds {
    runtime: tokio::runtime::Handle,
    /// Where the node finds them: an address that it can reach from the one that it dials from.
    ip: IpAddr,
    events: Events,
    /// Dropping them ends them.
    open: BTreeMap<ImageIndex, JoinSet<()>>,
}

/// What they serve.
#[derive(Clone, Copy, Debug)]
struct Content {
    info_hash: InfoHash,
    geometry: Geometry,
}

impl WebSeeds {
    /// `from` is the address that the node's peer port is bound to; unspecified = any.
    pub fn new(runtime: tokio::runtime::Handle, from: IpAddr, events: Events) -> Self {
        let ip = if from.is_unspecified() { Ipv4Addr::LOCALHOST.into() } else { from };
        Self { runtime, ip, events, open: BTreeMap::new() }
    }

    /// With `Output::Open` of an image that is not complete; says `Input::WebSeed` of each.
    pub fn open(&mut self, image: ImageIndex, metainfo: &Metainfo) {
        let content = Content { info_hash: metainfo.info_hash(), geometry: metainfo.geometry() };
        let mut servers = JoinSet::new();
        for seed in WebSeed::of(metainfo) {
            servers.spawn_on(attend(image, content, seed, self.ip, self.events.clone()), &self.runtime);
        }
        self.open.insert(image, servers);
    }

    /// With `Output::Finish` and `Output::CloseImage`.
    pub fn close(&mut self, image: ImageIndex) {
        self.open.remove(&image);
    }
}

/// Waits for the node to dial, and serves it, one connection after the other.
async fn attend(image: ImageIndex, content: Content, seed: WebSeed, ip: IpAddr, events: Events) {
    let bound = async {
        let listener = TcpListener::bind((ip, 0)).await?;
        io::Result::Ok((listener.local_addr()?, listener))
    };
    let (addr, listener) = match bound.await {
        Ok(bound) => bound,
        Err(error) => return warn!(%seed, %error, "a web seed cannot be used"),
    };
    // A driver that has ended is nobody to tell.
    let _ = events.send(Event::Input(Input::WebSeed { image, addr })).await;
    let mut said = String::new();
    loop {
        match listener.accept().await {
            Ok((stream, from)) if from.ip() == addr.ip() => {
                let Err(end) = serve(stream, &seed, content).await;
                if matches!(end, End::Closed | End::Node(_)) {
                    debug!(%seed, %end, "the node has done with a web seed");
                } else if said != end.to_string() {
                    said = end.to_string();
                    warn!(info_hash = %content.info_hash, %seed, "its web seed is of no use now: {end}");
                }
            }
            Ok((_, from)) => debug!(%from, "only this machine is passed on to a web seed"),
            Err(_) => sleep(ACCEPT_AGAIN).await,
        }
    }
}

/// Why the node is served no more.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("the node closed it")]
    Closed,
    #[error("the node broke off: {0}")]
    Node(#[from] io::Error),
    #[error("the node opened with something else: {0}")]
    Handshake(#[from] BadHandshake),
    #[error("the node meant another image")]
    OtherImage,
    #[error("the node sent {0}")]
    BadMessage(#[from] BadMessage),
    #[error("the node asks for what is not there")]
    NoSuchBlock,
    #[error("the node asks for too much at once")]
    TooMany,
    #[error(transparent)]
    Unreachable(#[from] HttpError),
    #[error("it broke off: {0}")]
    Server(#[from] hyper::Error),
    #[error("no answer in {} s", .0.as_secs())]
    Silent(Duration),
    #[error("it answers {0}, not 206 (a part of the file)")]
    Status(StatusCode),
    #[error("it has another file: the answer's length is {got} and should be {expected}")]
    OtherFile { got: String, expected: String },
}

/// The node's requests, oldest first.
#[derive(Default)]
struct Asked {
    queue: Mutex<VecDeque<Asking>>,
    more: Notify,
}

struct Asking {
    range: Range,
    /// Its answer is a `reject` (BEP 6).
    cancelled: bool,
}

async fn serve(mut stream: TcpStream, seed: &WebSeed, content: Content) -> Result<std::convert::Infallible, End> {
    let mut theirs = [0; Handshake::BYTES];
    timeout(GREETING_WITHIN, stream.read_exact(&mut theirs)).await.map_err(|_| End::Silent(GREETING_WITHIN))??;
    if Handshake::decode(&theirs)?.info_hash != content.info_hash {
        return Err(End::OtherImage);
    }
    // A server that cannot serve is one that the node did not reach.
    let began = timeout(SERVER_WITHIN, Server::begin(seed, content.geometry.length())).await;
    let server = began.map_err(|_| End::Silent(SERVER_WITHIN))??;
    let ours = Handshake { info_hash: content.info_hash, peer_id: peer_id(seed), fast: true, extended: true };
    let mut hello = ours.encode().to_vec();
    let requests = Some(REQUESTS_PER_PEER_MAX as u32);
    let about = Extended { client: Some(format!("web seed {seed}")), reqq: requests, ..Extended::default() };
    [Message::Extended(about), Message::HaveAll, Message::Unchoke].iter().for_each(|m| m.encode(&mut hello));
    stream.write_all(&hello).await?;
    let asked = Asked::default();
    let (from, to) = stream.split();
    tokio::select! {
        end = hear(from, &asked, content) => end,
        end = answer(to, &asked, content, server) => end,
    }
}

/// One name for each server, so that a node that has two of them takes them for two.
fn peer_id(seed: &WebSeed) -> PeerId {
    use sha1::Digest as _;
    let digest = sha1::Sha1::digest(format!("{seed}{}", seed.target));
    let mut id = *b"-WS0100-xxxxxxxxxxxx";
    id[8..].copy_from_slice(&digest[..12]);
    PeerId(id)
}

/// Takes down what the node asks.
async fn hear(mut from: ReadHalf<'_>, asked: &Asked, content: Content) -> Result<std::convert::Infallible, End> {
    let mut decoder = Decoder::default();
    let mut head = vec![0; HEAD_BYTES];
    loop {
        let n = timeout(NODE_SILENT_MAX, from.read(&mut head)).await.map_err(|_| End::Closed)??;
        if n == 0 {
            return Err(End::Closed);
        }
        let mut input = &head[..n];
        while let Some(item) = decoder.next(&mut input)? {
            let mut queue = asked.queue.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            match item {
                Item::Message(Message::Request(range)) => {
                    content.geometry.block(range.piece, range.offset, range.len).ok_or(End::NoSuchBlock)?;
                    if queue.len() >= REQUESTS_PER_PEER_MAX {
                        return Err(End::TooMany);
                    }
                    queue.push_back(Asking { range, cancelled: false });
                    asked.more.notify_one();
                }
                Item::Message(Message::Cancel(range)) => {
                    queue.iter_mut().filter(|a| a.range == range).for_each(|a| a.cancelled = true);
                }
                Item::Message(_) => {}
                // It was told that nothing is missing here.
                Item::Piece(_) => return Err(End::NoSuchBlock),
            }
        }
    }
}

/// Answers it, in order.
async fn answer(
    mut to: WriteHalf<'_>,
    asked: &Asked,
    content: Content,
    mut server: Server<'_>,
) -> Result<std::convert::Infallible, End> {
    loop {
        let run = asked.next_run(content);
        let Some(first) = run.first() else {
            asked.more.notified().await;
            continue;
        };
        if first.cancelled {
            let mut reject = Vec::new();
            Message::Reject(first.range).encode(&mut reject);
            to.write_all(&reject).await?;
            continue;
        }
        let len = run.iter().map(|a| u64::from(a.range.len)).sum();
        let mut body = server.get(content.offset(&first.range), len).await?.into_body();
        let mut chunk = Bytes::new();
        for Asking { range, .. } in &run {
            to.write_all(&piece_header(range)).await?;
            let mut left = range.len as usize;
            while left > 0 {
                if chunk.is_empty() {
                    chunk = next_chunk(&mut body).await?;
                }
                let part = chunk.split_to(left.min(chunk.len()));
                to.write_all(&part).await?;
                left -= part.len();
            }
        }
    }
}

async fn next_chunk(body: &mut Incoming) -> Result<Bytes, End> {
    loop {
        let frame = timeout(SILENT_MAX, body.frame()).await.map_err(|_| End::Silent(SILENT_MAX))?;
        let short = || End::OtherFile { got: "shorter".to_owned(), expected: "as it said".to_owned() };
        // What is no data are trailers.
        if let Ok(data) = frame.ok_or_else(short)??.into_data() {
            return Ok(data);
        }
    }
}

impl Asked {
    /// The oldest request and those after it that go on where it ends; or one that was cancelled.
    fn next_run(&self, content: Content) -> Vec<Asking> {
        let mut queue = self.queue.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let Some(first) = queue.front() else { return Vec::new() };
        if first.cancelled {
            return queue.pop_front().into_iter().collect();
        }
        let begin = content.offset(&first.range);
        let mut end = begin;
        let goes_on = |asking: &&Asking| {
            let on = !asking.cancelled && content.offset(&asking.range) == end && end - begin < RUN_BYTES;
            end += u64::from(asking.range.len);
            on
        };
        let count = queue.iter().take_while(goes_on).count();
        queue.drain(..count).collect()
    }
}

impl Content {
    /// Bytes from the beginning of the file.
    fn offset(&self, range: &Range) -> u64 {
        u64::from(range.piece) * u64::from(self.geometry.piece_length()) + u64::from(range.offset)
    }
}

/// A server that has the file.
struct Server<'a> {
    seed: &'a WebSeed,
    /// Of the whole file, bytes.
    length: u64,
    send: SendRequest<Empty<Bytes>>,
}

impl<'a> Server<'a> {
    /// Connects, and makes sure that the file is there, has this length, and that parts of it can be had.
    async fn begin(seed: &'a WebSeed, length: u64) -> Result<Self, End> {
        let mut server = Self { seed, length, send: connect(seed).await? };
        let mut body = server.get(0, 1).await?.into_body();
        next_chunk(&mut body).await?;
        Ok(server)
    }

    /// A part of the file. A connection that the server has closed since the last one is opened anew.
    async fn get(&mut self, offset: u64, len: u64) -> Result<Response<Incoming>, End> {
        if self.send.ready().await.is_err() {
            self.send = connect(self.seed).await?;
        }
        let WebSeed { host, port, target } = self.seed;
        let shown = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        let last = offset + len - 1;
        let request = Request::get(target)
            .header(HOST, shown)
            .header(USER_AGENT, "labmesh")
            .header(RANGE, format!("bytes={offset}-{last}"))
            .body(Empty::new())
            .map_err(|_| End::Status(StatusCode::BAD_REQUEST))?;
        let answer = timeout(SILENT_MAX, self.send.send_request(request)).await;
        let answer = answer.map_err(|_| End::Silent(SILENT_MAX))??;
        if answer.status() != StatusCode::PARTIAL_CONTENT {
            return Err(End::Status(answer.status()));
        }
        let said = |name| answer.headers().get(name).map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned());
        let expected = format!("bytes {offset}-{last}/{}", self.length);
        let got = said(CONTENT_RANGE).unwrap_or_default();
        if got != expected || said(CONTENT_LENGTH).is_some_and(|n| n != len.to_string()) {
            return Err(End::OtherFile { got, expected });
        }
        Ok(answer)
    }
}

async fn connect(seed: &WebSeed) -> Result<SendRequest<Empty<Bytes>>, End> {
    let addr: SocketAddr = resolve(&seed.host, seed.port).await?;
    // The kernel would try for minutes.
    let connected = timeout(SERVER_WITHIN, TcpStream::connect(addr)).await.map_err(|_| End::Silent(SERVER_WITHIN))?;
    let stream = connected.map_err(|e| HttpError::Unreachable(addr, e))?;
    let (send, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // It ends when nobody can send any more; what went wrong is said to who waits for an answer.
    tokio::spawn(async move { drop(connection.await) });
    Ok(send)
}
