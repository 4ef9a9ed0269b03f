//! The one loop: the only caller of [`labmesh_proto::node::Node`] and the only reader of the clock.
//!
//! Rule: after any input the outputs are carried out in order, then one timer is armed, as [`labmesh_proto::io`] asks.
//! The loop has a thread and a runtime of its own with control plane and heartbeats, and never touches a file; peer
//! sockets and pages live on the program's runtime, hashing and files on threads of their own ([`crate::io::disk`]).
//!
//! Not here: any decision.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use labmesh_proto::config as proto;
use labmesh_proto::id::{InfoHash, NodeId, PeerId, RequestId, Time};
use labmesh_proto::io::{Command, Event, Input, Output, Reply};
use labmesh_proto::node::{Node, Status};
use labmesh_proto::wire::http_tracker::{Announce, Scraped};
use tokio::sync::{broadcast, mpsc, oneshot};

use crate::config::Config;
use crate::config::schedule::Schedule;
use crate::io;
use crate::io::announcer::Trackers;
use crate::io::buffers::{Buffer, Buffers};
use crate::io::cache::Cache;
use crate::io::control::{Control, ControlError};
use crate::io::disk::{self, Disk};
use crate::io::heartbeat::{Heartbeat, HeartbeatError};
use crate::io::identity::{Identity, MeshKey};
use crate::io::interfaces::Place;
use crate::io::lsd::Lsd;
use crate::io::mdns::{self, Mdns, Service};
use crate::io::peers::{Limits, Peers};
use crate::io::socket;
use crate::io::tracker;
use crate::io::tracker::answers::{Answer, Answers};
use crate::io::tracker::book::Book;
use crate::io::tracker::probe::Probes;
use crate::io::web_seeds::WebSeeds;
use crate::view;
use crate::web;

/// What the parts have reported and the loop has not taken yet; a part that outruns the loop waits.
const EVENTS_MAX: usize = 1024;
/// Heartbeats wait in a line of their own, so that no block is before them.
const BEATS_MAX: usize = 64;
/// Events that are taken at once, so that timers and heartbeats never wait for more; one may be sixteen together.
const EVENTS_AT_ONCE: usize = 16;
/// Questions of sockets and pages that wait for the loop.
const QUESTIONS_MAX: usize = 256;
/// Commands that wait for an answer; the oldest is given up.
const WAITING_MAX: usize = 4096;
/// Events that a slow reader may be behind.
const READERS_BEHIND_MAX: usize = 1024;
/// How old a status may be.
const STATUS_AGE: Duration = Duration::from_millis(200);
/// How often the machine's address is looked at.
const ADDRESS_EVERY: Duration = Duration::from_secs(5);
/// How often the schedule of the limits is held against the local time.
const SCHEDULE_EVERY: Duration = Duration::from_secs(5);
/// How long the goodbyes may take.
const FAREWELL: Duration = Duration::from_millis(300);
/// Tries to find a number that is free for TCP and for UDP.
const FREE_PORT_TRIES: usize = 16;

/// The node has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the node has ended")]
pub struct Ended;

/// Announces of clients, under numbers of the asker's.
pub type Announces = Vec<(RequestId, Announce)>;

/// Questions to the driver, from sockets and pages.
#[derive(Debug)]
pub enum Question {
    /// See [`Handle::command`].
    Command(Command, oneshot::Sender<Reply>),
    /// See [`Handle::announce`]; each is answered through `answers`, perhaps later.
    Announces {
        /// What was said.
        batch: Announces,
        /// Where the answers go. One for the whole life of a node.
        answers: Arc<Answers>,
    },
    /// See [`Handle::scrape`].
    Scrape(Vec<InfoHash>, oneshot::Sender<Vec<Scraped>>),
    /// See [`Handle::status`].
    Status(oneshot::Sender<Arc<Status>>),
    /// See [`Handle::input`].
    Input(Input),
}

/// What the local socket, the pages and the cache hold of the driver. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle {
    questions: mpsc::Sender<Question>,
    events: broadcast::Sender<Event>,
}

impl Handle {
    /// A handle on whoever answers `questions` and says `events`.
    pub fn new(questions: mpsc::Sender<Question>, events: broadcast::Sender<Event>) -> Self {
        Self { questions, events }
    }

    /// Carries out a command.
    ///
    /// # Errors
    /// If the node has ended.
    pub async fn command(&self, command: Command) -> Result<Reply, Ended> {
        self.ask(|answer| Question::Command(command, answer)).await
    }

    /// The counters of these images, or of all if none is named.
    ///
    /// # Errors
    /// If the node has ended.
    pub async fn scrape(&self, images: Vec<InfoHash>) -> Result<Vec<Scraped>, Ended> {
        self.ask(|answer| Question::Scrape(images, answer)).await
    }

    /// Everything to show, at most a fifth of a second old.
    ///
    /// # Errors
    /// If the node has ended.
    pub async fn status(&self) -> Result<Arc<Status>, Ended> {
        self.ask(Question::Status).await
    }

    /// Tells the node of something that happened, such as a change in the cache.
    ///
    /// # Errors
    /// If the node has ended.
    pub async fn input(&self, input: Input) -> Result<(), Ended> {
        self.questions.send(Question::Input(input)).await.map_err(|_| Ended)
    }

    /// Everything a person may want to know from now on. A slow reader loses the oldest.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    /// Has clients' announces answered, without waiting for room in the line. See [`Question::Announces`].
    ///
    /// # Errors
    /// With the announces if there is no room now, or the node has ended.
    pub fn announce(&self, batch: Announces, answers: &Arc<Answers>) -> Result<(), Announces> {
        let question = Question::Announces { batch, answers: Arc::clone(answers) };
        self.questions.try_send(question).map_err(|error| match error.into_inner() {
            Question::Announces { batch, .. } => batch,
            _ => Announces::new(),
        })
    }

    async fn ask<T>(&self, question: impl FnOnce(oneshot::Sender<T>) -> Question) -> Result<T, Ended> {
        let (answer, answered) = oneshot::channel();
        self.questions.send(question(answer)).await.map_err(|_| Ended)?;
        answered.await.map_err(|_| Ended)
    }
}

/// Runs a node until `shutdown`. `ready` is called once it answers commands.
///
/// Must be called on a multi-thread tokio runtime.
///
/// # Errors
/// If a port is taken or a folder cannot be used; says which and what to do.
pub async fn run(
    config: Config,
    ready: impl FnOnce(Handle) + Send,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> anyhow::Result<()> {
    raise_open_files();
    let (questions, asked) = mpsc::channel(QUESTIONS_MAX);
    let handle = Handle { questions, events: broadcast::Sender::new(READERS_BEHIND_MAX) };
    let (events, reported) = mpsc::channel(EVENTS_MAX);
    let place = place(&config)?;
    let mesh = MeshKey::new(&config.mesh, config.key.as_ref().map(crate::config::values::MeshKey::as_bytes));
    let host = format!("{}.local", mdns::host_label(&config.mesh, &mesh));
    let identity = Arc::new(Identity::load_or_create(&config.state)?);
    let buffers = Buffers::new(config.piece_buffer);
    let peers = bind_peers(&config, &place, &events, &buffers)?;
    let (ended, end) = tokio::sync::watch::channel(());
    let mut end_of_pages = end.clone();
    let page_mesh = web::Mesh { name: config.mesh.clone(), host: host.clone() };
    let pages = bind_pages(&config, &place, &handle, &page_mesh, async move { drop(end_of_pages.changed().await) })?;
    let folders = disk::Folders {
        cache: config.cache.clone(),
        libraries: config.libraries.clone(),
        torrents: config.torrents.clone(),
        ownership: config.ownership,
    };
    let disk = Disk::start(folders, buffers, events.clone())?;
    // First the socket: a second node on it is refused before it has begun to hash.
    let listener = socket::Listener::bind(&config.socket)?;
    let cache = Cache::start(&config, &host, events.clone())?;
    let book = Book::new(&config.state);
    let commands = socket::Node { handle: handle.clone(), cache: cache.clone(), mesh: config.mesh.as_str().into() };
    let commands = tokio::spawn(socket::serve(listener, commands));

    let (entry, limits) = config.schedule.at(local_time());
    let schedule = tokio::spawn(follow(config.schedule.clone(), entry, handle.clone()));

    let setup = Setup {
        limits,
        ports: Ports { peer: peers.local_port(), http: pages.addr.port() },
        mesh,
        host,
        place,
        identity,
        peers,
        cache,
        disk,
        book,
        events,
        broadcast: handle.events.clone(),
        runtime: tokio::runtime::Handle::current(),
    };
    let (started, start) = oneshot::channel();
    let (finished, finish) = oneshot::channel();
    let (stop, stopped) = oneshot::channel();
    let run_loop = move || {
        let result = drive(config, setup, reported, asked, started, stopped);
        // The program may be ending already.
        let _ = finished.send(result);
    };
    std::thread::Builder::new().name("driver".into()).spawn(run_loop).context("cannot start the driver's thread")?;
    let mut finish = finish;
    tokio::select! {
        Ok(()) = start => ready(handle),
        result = &mut finish => return result.context("the driver ended in an unexpected way")?,
    }
    let result = tokio::select! {
        () = shutdown => {
            // It may have ended by itself.
            let _ = stop.send(());
            finish.await
        }
        result = &mut finish => result,
    };
    commands.abort();
    schedule.abort();
    drop(ended);
    pages.ended().await;
    result.context("the driver ended in an unexpected way")?
}

/// A thousand peers are more than the usual limit of open files; the system's own limit is enough for them.
fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
}

fn place(config: &Config) -> anyhow::Result<Place> {
    Ok(match (config.bind, &config.interface) {
        (Some(IpAddr::V4(ip)), _) => {
            // Said here once, since every port would blame its number.
            match std::net::UdpSocket::bind((ip, 0)) {
                Err(e) if e.kind() == std::io::ErrorKind::AddrNotAvailable => {
                    anyhow::bail!("this machine has no address {ip} (ip addr lists them): give another with --bind")
                }
                _ => Place::Address(ip),
            }
        }
        (Some(IpAddr::V6(ip)), _) => {
            anyhow::bail!("cannot bind to {ip}: the mesh speaks IPv4; give an IPv4 address with --bind")
        }
        (None, Some(name)) => Place::Interface(name.clone()),
        (None, None) => Place::Everywhere,
    })
}

/// Tries the configured port, then, if any will do, a free one.
fn on_a_port<T, E>(port: u16, any: bool, bind: impl Fn(u16) -> Result<T, E>) -> Result<T, E> {
    match bind(port) {
        Err(_) if any => bind(0),
        result => result,
    }
}

fn bind_peers(config: &Config, place: &Place, events: &io::Events, buffers: &Buffers) -> anyhow::Result<Peers> {
    let runtime = tokio::runtime::Handle::current();
    on_a_port(config.peer_port, config.transient, |port| {
        let addr = SocketAddr::new(place.listen_ip(), port);
        Peers::bind(&runtime, addr, Limits::default(), buffers.clone(), events.clone())
    })
    .with_context(|| {
        format!(
            "port {} for peers is taken (by another program or another labmesh); choose another with --peer-port",
            config.peer_port
        )
    })
}

fn bind_pages(
    config: &Config,
    place: &Place,
    handle: &Handle,
    mesh: &web::Mesh,
    end: impl Future<Output = ()> + Send + 'static,
) -> anyhow::Result<tracker::Server> {
    let end = futures::FutureExt::shared(futures::FutureExt::boxed(end));
    // Pages and tracker speak IPv6 too, unless one address was asked for.
    let ip = place.address().map_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED), IpAddr::V4);
    let bind =
        |port| tracker::serve(ip, port, handle.clone(), mesh.clone(), config.tracker_policy.clone(), end.clone());
    Ok(on_a_port(config.http_port, config.transient, bind)?)
}

struct Ports {
    peer: u16,
    http: u16,
}

/// What the loop takes over from [`run`].
struct Setup {
    /// Those of the schedule for now.
    limits: proto::RateLimits,
    ports: Ports,
    mesh: MeshKey,
    /// The mesh's host name.
    host: String,
    place: Place,
    identity: Arc<Identity>,
    peers: Peers,
    cache: Cache,
    disk: Disk,
    book: Book,
    events: io::Events,
    broadcast: broadcast::Sender<Event>,
    runtime: tokio::runtime::Handle,
}

/// The loop's thread.
fn drive(
    config: Config,
    setup: Setup,
    reported: mpsc::Receiver<io::Event>,
    asked: mpsc::Receiver<Question>,
    started: oneshot::Sender<()>,
    stopped: oneshot::Receiver<()>,
) -> anyhow::Result<()> {
    io::Precedence::First.take();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let limits = setup.limits;
    let mut driver = runtime.block_on(async { Driver::start(config, setup) })?;
    driver.node.handle_input(now(), Input::Limits(limits));
    // Nobody waits for it if the program is ending.
    let _ = started.send(());
    // It is only lent: the runtime copies the place of a future's result at each wake-up, and a driver is large.
    runtime.block_on(driver.run(reported, asked, stopped));
    let Driver { disk, mdns, book, .. } = driver;
    book.flush();
    runtime.block_on(mdns.shutdown());
    disk.end();
    Ok(())
}

/// Everything that the loop holds: one part for each group of outputs.
struct Driver {
    node: Node,
    control: Control,
    mdns: Mdns,
    heartbeat: Heartbeat,
    heard: mpsc::Receiver<io::Event>,
    trackers: Trackers,
    /// `None`: not wanted, or it cannot be had.
    lsd: Option<Lsd>,
    web_seeds: WebSeeds,
    peers: Peers,
    disk: Disk,
    cache: Cache,
    identity: Arc<Identity>,
    book: Book,
    probes: Probes,
    place: Place,
    address: Option<IpAddr>,
    events: io::Events,
    broadcast: broadcast::Sender<Event>,
    runtime: tokio::runtime::Handle,

    next_request: u64,
    /// Where answers to announces go, those that are to go there, and whether a batch of announces was dealt with.
    answers: Option<Arc<Answers>>,
    answered: Vec<Answer>,
    batch_taken: bool,
    commands: BTreeMap<u64, oneshot::Sender<Reply>>,
    /// The payload of the block that is being handled.
    block: Option<Buffer>,
    status: Option<(Time, Arc<Status>)>,
    farewell: bool,
}

impl Driver {
    fn start(config: Config, setup: Setup) -> anyhow::Result<Self> {
        let Setup { ports, mesh, host, place, identity, peers, cache, disk, book, events, runtime, .. } = setup;
        let (beats, heard) = mpsc::channel(BEATS_MAX);
        let (control, heartbeat) = bind_control(&config, &place, &identity, &mesh, &beats)?;
        let control_port = control.local_addr().port();
        let lsd = local_discovery(&config, &place, &events);
        let service = Service {
            id: identity.node_id(),
            mesh_name: config.mesh.clone(),
            mesh,
            weight: config.weight,
            control_port,
            http_port: ports.http,
        };
        let mdns = Mdns::start(&place, &service, events.clone()).context("cannot start mDNS")?;
        let address = own_address(&place);
        let node = proto::Config {
            id: identity.node_id(),
            name: config.name,
            weight: config.weight,
            prefer: config.prefer,
            site: config.site,
            keyed: config.key.is_some(),
            mode: config.mode,
            seed_time: config.seed_time,
            addr: address,
            control_port,
            peer_port: ports.peer,
            http_port: ports.http,
            tracker: config.tracker,
            mesh_host: host,
            local_discovery: lsd.as_ref().map(|_| service.mesh.tag_hex()),
            peer_exchange: config.local_discovery,
            transient: config.transient,
            piece_buffer_bytes: config.piece_buffer,
            block_bytes: proto::HUGE_BLOCK_BYTES,
            seed: seed(identity.node_id()),
        };
        let mut node = Node::new(now(), node, identity.epoch());
        node.handle_input(now(), Input::Saved(book.load(SystemTime::now()).context("cannot read the tracker's book")?));
        config.join.iter().for_each(|join| node.handle_input(now(), Input::Found { node: join.node, addr: join.addr }));
        Ok(Self {
            node,
            control,
            mdns,
            heartbeat,
            heard,
            lsd,
            trackers: Trackers::new(runtime.clone(), place.listen_ip(), events.clone()),
            web_seeds: WebSeeds::new(runtime.clone(), place.listen_ip(), events.clone()),
            probes: Probes::new(PeerId::of_node(&identity.node_id()), runtime.clone(), events.clone()),
            peers,
            disk,
            cache,
            identity,
            book,
            place,
            address,
            events,
            broadcast: setup.broadcast,
            runtime,
            next_request: 0,
            answers: None,
            answered: Vec::new(),
            batch_taken: false,
            commands: BTreeMap::new(),
            block: None,
            status: None,
            farewell: false,
        })
    }

    async fn run(
        &mut self,
        mut reported: mpsc::Receiver<io::Event>,
        mut asked: mpsc::Receiver<Question>,
        mut stopped: oneshot::Receiver<()>,
    ) {
        let mut batch = Vec::with_capacity(EVENTS_AT_ONCE);
        let mut look = tokio::time::interval(ADDRESS_EVERY);
        let mut stopping = false;
        self.carry_out();
        while !self.farewell {
            let wake = self.node.poll_timeout().map_or(ADDRESS_EVERY, |(at, _)| at.since(now()));
            // A timer of the runtime ends at its next tick, so an overdue deadline must not wait for one.
            if wake.is_zero() {
                self.node.handle_timeout(now());
                self.carry_out();
                self.hand_answers_out();
                continue;
            }
            tokio::select! {
                biased;
                () = tokio::time::sleep(wake) => {}
                Some(event) = self.heard.recv() => self.take(event),
                input = self.control.next() => self.node.handle_input(now(), input),
                _ = &mut stopped, if !stopping => {
                    stopping = true;
                    self.node.handle_input(now(), Input::Shutdown);
                }
                _ = reported.recv_many(&mut batch, EVENTS_AT_ONCE) => {
                    for event in batch.drain(..) {
                        self.take(event);
                        self.carry_out();
                    }
                }
                Some(question) = asked.recv() => self.answer(question),
                _ = look.tick() => self.look_at_address(),
            }
            self.carry_out();
            self.hand_answers_out();
        }
        let goodbyes = async { tokio::time::timeout(FAREWELL, self.say_goodbye(&mut reported)).await };
        // What was not answered in time is not waited for.
        let _ = goodbyes.await;
        self.control.flush(FAREWELL).await;
    }

    /// Until the trackers of others have heard that this node leaves: over UDP that takes two questions.
    async fn say_goodbye(&mut self, reported: &mut mpsc::Receiver<io::Event>) {
        while !self.trackers.is_idle() {
            let Some(event) = reported.recv().await else { return };
            self.take(event);
            self.carry_out();
        }
    }

    /// Something was reported by a part.
    fn take(&mut self, event: io::Event) {
        match event {
            io::Event::Input(input) => self.tell(input),
            io::Event::OfImage { source, .. } if source.is_closed() => {}
            io::Event::OfImage { input, .. } => {
                let finished = match &input {
                    Input::Finished { image, result: Ok(()) } => Some(*image),
                    _ => None,
                };
                self.tell(input);
                if let Some((name, metainfo)) = finished.and_then(|image| self.node.image(image)) {
                    self.cache.fetched(name, Arc::clone(metainfo));
                }
            }
            io::Event::Block { conn, range, data } => {
                self.block = Some(data);
                self.tell(Input::Block { conn, range });
            }
            io::Event::Together(events) => {
                for event in events {
                    self.take(event);
                    self.carry_out();
                }
            }
        }
    }

    fn tell(&mut self, input: Input) {
        let down = match &input {
            Input::PeerDown { conn } => Some(*conn),
            _ => None,
        };
        self.node.handle_input(now(), input);
        if let Some(conn) = down {
            self.carry_out();
            self.peers.release(conn);
        }
    }

    fn answer(&mut self, question: Question) {
        match question {
            Question::Command(command, answer) => {
                let id = wait(&mut self.commands, &mut self.next_request, answer);
                self.node.handle_input(now(), Input::Command { id, command });
                // Whoever asks after a command sees what it did.
                self.status = None;
            }
            Question::Announces { batch, answers } => {
                let now = now();
                for (id, announce) in batch {
                    self.node.handle_input(now, Input::Announce { id, announce });
                    self.carry_out();
                }
                (self.answers, self.batch_taken) = (Some(answers), true);
            }
            // Whoever asked may have gone away.
            Question::Scrape(images, answer) => drop(answer.send(self.node.scrape(&images))),
            Question::Status(answer) => drop(answer.send(self.status())),
            Question::Input(input) => self.tell(input),
        }
    }

    /// All at once: the other side is woken once for a batch.
    fn hand_answers_out(&mut self) {
        if (self.batch_taken || !self.answered.is_empty())
            && let Some(answers) = &self.answers
        {
            answers.leave(&mut self.answered, std::mem::take(&mut self.batch_taken));
        }
    }

    fn status(&mut self) -> Arc<Status> {
        let now = now();
        match &self.status {
            Some((at, status)) if now.since(*at) < STATUS_AGE => Arc::clone(status),
            _ => {
                let status = Arc::new(self.node.status(now));
                self.status = Some((now, Arc::clone(&status)));
                status
            }
        }
    }

    fn look_at_address(&mut self) {
        let address = own_address(&self.place);
        if let Some(addr) = address.filter(|_| address != self.address) {
            self.address = address;
            self.node.handle_input(now(), Input::Address(addr));
        }
    }

    /// Carries out everything that the node wants done, in order.
    fn carry_out(&mut self) {
        while let Some(output) = self.node.poll_output() {
            self.carry_out_one(output);
        }
        // A block that was not stored is not wanted.
        self.block = None;
    }

    fn carry_out_one(&mut self, output: Output) {
        match output {
            Output::Browse(on) => self.mdns.browse(on),
            Output::Advertise(on) => self.mdns.advertise(on),
            Output::HostName(on) => self.mdns.host_name(on),
            Output::Beat { to, beat } => self.heartbeat.send_beat(&to, *beat),
            Output::Beacon(beat) => self.heartbeat.send_beacon(*beat),
            Output::Dial { node, addr } => self.control.dial(node, addr),
            Output::Hangup(node) => self.control.hangup(node),
            Output::Send { to, message } => self.control.send(to, *message),
            Output::Gossip(message) => self.control.gossip(*message),
            Output::Persist { epoch } => self.identity.persist_epoch(epoch, self.events.clone()),
            Output::AskTracker { id, tracker, request } => self.trackers.ask(id, tracker, request),
            Output::TrackerDone(id) => self.trackers.done(id),
            Output::AnnounceLocally(announce) => {
                if let Some(lsd) = &self.lsd {
                    lsd.announce(&announce);
                }
            }
            Output::DialPeer { image, addr, handshake } => self.peers.dial(image, addr, handshake),
            Output::Accept { conn, image, handshake } => {
                if let Some(source) = self.disk.source(image) {
                    self.peers.accept(conn, image, source, handshake);
                }
            }
            Output::Close { conn, reason } => self.peers.close(conn, &reason),
            Output::Peer { conn, message } => self.peers.send(conn, message),
            Output::Have { to, piece, .. } => self.peers.have(&to, piece),
            Output::SendBlock { conn, block, .. } => self.peers.send_block(conn, block),
            Output::Store { image, block } => {
                if let Some(data) = self.block.take() {
                    self.disk.store(image, block, data);
                }
            }
            Output::Open { image, name, metainfo, complete, mode, seed_time } => {
                if !complete {
                    self.web_seeds.open(image, &metainfo);
                }
                self.disk.open(image, &name, metainfo, complete, mode, seed_time);
            }
            Output::Verify { image, piece } => self.disk.verify(image, piece),
            Output::Discard { image, piece } => self.disk.discard(image, piece),
            Output::Remember { image, mode, seed_time } => self.disk.remember(image, mode, seed_time),
            Output::Finish { image } => {
                self.web_seeds.close(image);
                self.disk.finish(image);
            }
            Output::CloseImage { image } => {
                self.web_seeds.close(image);
                self.disk.close(image);
            }
            Output::SetAside { name } => {
                // By the disk's clerk, so that it is done before the file that takes its name is begun.
                let cache = self.cache.clone();
                self.disk.first(move || {
                    if let Err(error) = cache.set_aside(&name) {
                        tracing::warn!(%error, image = name, "cannot set aside");
                    }
                });
            }
            Output::Delete { id, name } => self.delete(id, name),
            Output::MarkStopped { name, stopped } => {
                self.in_cache("mark", move |cache| async move { cache.mark_stopped(&name, stopped).await });
            }
            Output::Announced { id, result } => self.answered.push((id, result)),
            Output::Probe { info_hash, addr } => self.probes.look(info_hash, addr),
            Output::SaveBook(kept) => self.book.save(&self.runtime, kept, SystemTime::now()),
            Output::Reply { id, reply } => drop(self.commands.remove(&id.0).map(|a| a.send(reply))),
            Output::Event(event) => self.report(event),
            Output::Farewell => self.farewell = true,
        }
    }

    /// A change of files in the cache, which the loop does not wait for.
    fn in_cache<F>(&self, what: &'static str, change: impl FnOnce(Cache) -> F)
    where
        F: Future<Output = std::io::Result<()>> + Send + 'static,
    {
        let change = change(self.cache.clone());
        self.runtime.spawn(async move {
            if let Err(error) = change.await {
                tracing::warn!(%error, "cannot {what} in the image folder");
            }
        });
    }

    /// The losses that the cache reports come before the answer.
    fn delete(&self, id: RequestId, name: String) {
        let (cache, events) = (self.cache.clone(), self.events.clone());
        self.runtime.spawn(async move {
            let result = cache.delete(&name).await.map_err(|error| error.to_string());
            // A node that has ended is nobody to tell.
            let _ = events.send(io::Event::Input(Input::Deleted { id, result })).await;
        });
    }

    fn report(&mut self, event: Event) {
        // Whoever asks after this event sees what it says.
        self.status = None;
        match &event {
            Event::BecameMaster { term } => tracing::info!(term, "is master now"),
            Event::BecameSolo => tracing::info!("reaches no other node: serves itself"),
            Event::Following { node, term } => {
                tracing::info!(master = self.node.name_of(node), term, "follows");
            }
            Event::LostMaster { node } => tracing::info!(master = self.node.name_of(node), "lost its master"),
            Event::MemberUp { name, .. } => tracing::info!(node = name, "joined"),
            Event::MemberDown { name, .. } => tracing::info!(node = name, "is gone"),
            Event::Incompatible { node, theirs, ours } => {
                tracing::warn!(node = node.short(), theirs, ours, "speaks another protocol version and is refused");
            }
            Event::Transfer { name, state, detail, .. } => {
                tracing::info!(image = name, ?state, detail = detail.as_deref().unwrap_or(""), "transfer");
            }
            Event::PeerRefused { addr, reason } => tracing::info!(%addr, reason, "peer refused"),
            Event::Limits(limits) => tracing::info!("{}", view::limits(limits)),
        }
        // Nobody may be listening.
        let _ = self.broadcast.send(event);
    }
}

/// Notes who waits; the one that waits longest is given up if there are too many.
fn wait<T>(waiting: &mut BTreeMap<u64, oneshot::Sender<T>>, next: &mut u64, who: oneshot::Sender<T>) -> RequestId {
    if waiting.len() >= WAITING_MAX {
        waiting.pop_first();
    }
    *next += 1;
    waiting.insert(*next, who);
    RequestId(*next)
}

/// A node goes on without it. On loopback there is no LAN.
fn local_discovery(config: &Config, place: &Place, events: &io::Events) -> Option<Lsd> {
    if !config.local_discovery || place.is_loopback() {
        return None;
    }
    Lsd::start(place, events.clone())
        .inspect_err(|error| tracing::warn!(%error, "no local discovery: clients find this node by its tracker only"))
        .ok()
}

/// Control plane and heartbeats share a port number.
fn bind_control(
    config: &Config,
    place: &Place,
    identity: &Arc<Identity>,
    mesh: &MeshKey,
    events: &io::Events,
) -> anyhow::Result<(Control, Heartbeat)> {
    let mut port = config.control_port;
    for _ in 0..FREE_PORT_TRIES {
        let any = config.transient || config.control_port == 0;
        let addr = SocketAddr::new(place.listen_ip(), port);
        let control = match Control::start(addr, Arc::clone(identity), mesh.clone()) {
            Err(ControlError::PortTaken(_)) if any && port != 0 => {
                port = 0;
                continue;
            }
            control => control?,
        };
        match Heartbeat::start(place, control.local_addr().port(), Arc::clone(identity), mesh.clone(), events.clone()) {
            Err(HeartbeatError::PortTaken(_)) if any => port = 0,
            heartbeat => return Ok((control, heartbeat?)),
        }
    }
    anyhow::bail!("found no port that is free for TCP and UDP; choose one with --control-port")
}

/// What a node draws its chances from: other ones than every other node's, and than its own at the start before.
fn seed(node: NodeId) -> u64 {
    node.0.iter().fold(now().0, |seed, byte| seed.rotate_left(5) ^ u64::from(*byte))
}

fn own_address(place: &Place) -> Option<IpAddr> {
    place.interfaces().first().map(|interface| IpAddr::V4(interface.ip))
}

/// Tells the node its limits whenever another entry of the schedule holds; `told` is the one that it knows. The local
/// time may jump and the machine may sleep, so it is looked at again and again. Not by the loop, since whoever asks for
/// the local time may read the file of its rules.
async fn follow(schedule: Schedule, mut told: Option<usize>, node: Handle) {
    while !schedule.is_constant() {
        tokio::time::sleep(SCHEDULE_EVERY).await;
        let (entry, limits) = schedule.at(local_time());
        if entry != told && node.input(Input::Limits(limits)).await.is_err() {
            return;
        }
        told = entry;
    }
}

/// What the clock on the wall shows.
fn local_time() -> jiff::civil::DateTime {
    jiff::ZonedDateTime::now().datetime()
}

/// The moment, by a clock that goes on while the machine is suspended.
fn now() -> Time {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Time(t.tv_sec.unsigned_abs() * 1_000_000_000 + t.tv_nsec.unsigned_abs())
}
