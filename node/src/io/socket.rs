//! The local socket: commands of this machine's users to its node, and the answers.
//!
//! Rule: a request is one line of JSON, at most [`LINE_BYTES_MAX`] long, behind it the bytes of a `.torrent` if it
//! names any; the answer is any number of `step` lines and then one other. Who may open the socket's file may do
//! everything, so its permissions are the only door. Both sides are in this file, and nobody else knows the words.
//!
//! Not here: what commands mean (`labmesh_proto`, [`super::cache`]), what people type ([`crate::command`]).

use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use labmesh_proto::config::{Mode, RateLimit, RateLimits, SeedTime, TORRENT_BYTES_MAX};
use labmesh_proto::io::{Command, Event, Reply};
use labmesh_proto::wire::metainfo::Metainfo;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::broadcast::{self, error::TryRecvError};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

use super::cache::{self, AddError, Cache};
use crate::config::SocketConfig;
use crate::driver::Handle;
use crate::view::{self, Exit, Failure};

/// A path, a name and some words, all of them escaped.
const LINE_BYTES_MAX: u64 = 64 * 1024;
/// The status of the largest mesh.
const ANSWER_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Commands at the same time; each holds a buffer, at most one `.torrent`, and a task.
const CONNECTIONS_MAX: usize = 32;
/// A connection without a word for this long is closed, so that forgotten ones do not fill the table.
const SILENT_MAX: Duration = Duration::from_secs(60);

/// What the node is asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum Request {
    /// For [`view::Status`].
    Status,
    /// Answered when something happens that a person would notice, or has since the last answer; at the latest after
    /// so many milliseconds.
    Wait { ms: u16 },
    /// For [`view::Image`]s.
    List,
    /// [`Command::Get`], or [`Command::GetTorrent`] if bytes follow.
    Get {
        image: String,
        /// How many bytes of a `.torrent` follow the line.
        torrent_bytes: usize,
        mode: Option<Mode>,
        seed_time: Option<SeedTime>,
        replace: bool,
    },
    /// [`Command::Mode`].
    Mode { image: String, mode: Mode, seed_time: Option<SeedTime> },
    /// [`Command::Stop`].
    Stop { image: String },
    /// [`Command::Start`].
    Start { image: String },
    /// [`Command::Remove`].
    Remove { image: String },
    /// [`Cache::rescan`].
    Rescan {},
    /// [`Command::ClaimMaster`] or [`Command::ReleaseMaster`].
    Master { claim: bool },
    /// [`Command::Limit`].
    Limit { upload: Option<RateLimit>, download: Option<RateLimit> },
    /// [`Cache::add`].
    Add(cache::Add),
}

/// What the node says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub(crate) enum Answer {
    /// On the way.
    Step(cache::Step),
    /// The whole.
    Status(view::Status),
    /// The catalogue.
    Images { images: Vec<view::Image> },
    /// Fetching has begun, or the image is here already.
    Fetching { info_hash: String, here: bool },
    /// An image was added.
    Added {
        name: String,
        info_hash: String,
        size: u64,
        piece_length: u32,
        path: String,
        /// The name by which the same content is offered already.
        offered_as: Option<String>,
    },
    /// The limits in force now.
    Limits(RateLimits),
    /// So many images are offered.
    Rescanned { images: usize },
    /// The transfer of this info hash is as was asked for.
    Changed { info_hash: String },
    /// Nothing to say.
    Done,
    /// It could not be done.
    Failed { exit: Exit, message: String },
}

impl From<Failure> for Answer {
    fn from(failure: Failure) -> Self {
        Self::Failed { exit: failure.exit, message: failure.message }
    }
}

/// The bound socket; its file goes when this is dropped.
#[derive(Debug)]
pub struct Listener {
    listener: UnixListener,
    path: PathBuf,
    inode: u64,
}

impl Listener {
    /// Binds the socket with its permissions. The file of a node that has died is replaced.
    ///
    /// # Errors
    /// If a node answers there, something else is there, or the system refuses.
    pub fn bind(config: &SocketConfig) -> anyhow::Result<Self> {
        let path = &config.path;
        let shown = path.display();
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).with_context(|| format!("cannot make the folder of the socket {shown}"))?;
        }
        if let Ok(metadata) = path.symlink_metadata() {
            if !metadata.file_type().is_socket() {
                bail!("{shown} is in the way of the socket: delete it, or give another path with --socket");
            }
            if std::os::unix::net::UnixStream::connect(path).is_ok() {
                bail!(
                    "a labmesh node is running already and answers at {shown}; a second one needs its own --socket, \
                     --cache, --state and ports"
                );
            }
        }
        // Under a name that nobody knows until its permissions are right; renaming replaces a dead node's file.
        let hidden = path.with_file_name(format!(".labmesh-{}.sock", std::process::id()));
        let _ = std::fs::remove_file(&hidden);
        let listener = UnixListener::bind(&hidden).with_context(|| format!("cannot make the socket {shown}"))?;
        let placed = (|| {
            let group = config.group.as_deref().map(super::ownership::group_id).transpose()?;
            rustix::fs::chown(&hidden, None, group).context("cannot give the socket its group")?;
            std::fs::set_permissions(&hidden, std::fs::Permissions::from_mode(config.mode.0))?;
            std::fs::rename(&hidden, path)?;
            anyhow::Ok(path.symlink_metadata()?.ino())
        })();
        match placed {
            Ok(inode) => Ok(Self { listener, path: path.clone(), inode }),
            Err(e) => {
                let _ = std::fs::remove_file(&hidden);
                Err(e.context(format!("cannot make the socket {shown}")))
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Only our own: another node may have replaced it.
        if self.path.symlink_metadata().is_ok_and(|m| m.ino() == self.inode) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// What a connection needs of the node.
#[derive(Clone, Debug)]
pub struct Node {
    /// The driver.
    pub handle: Handle,
    /// The image folders.
    pub cache: Cache,
    /// The mesh's name.
    pub mesh: Arc<str>,
}

/// Answers connections until it is dropped.
pub async fn serve(listener: Listener, node: Node) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut open = tokio::task::JoinSet::new();
    loop {
        while open.try_join_next().is_some() {}
        let stream = match listener.listener.accept().await {
            Ok((stream, _)) => stream,
            Err(e) => {
                // Out of file descriptors, most likely: others must close first.
                tracing::warn!("the local socket: {e}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let node = node.clone();
        match Arc::clone(&places).try_acquire_owned() {
            Ok(place) => {
                open.spawn(async move {
                    if let Err(e) = converse(stream, &node).await {
                        tracing::debug!("a command's connection: {e}");
                    }
                    drop(place);
                });
            }
            Err(_) => {
                let words = format!("{CONNECTIONS_MAX} commands are under way, try again");
                let _ = refuse(stream, &words).await;
            }
        }
    }
}

async fn refuse(mut stream: UnixStream, words: &str) -> io::Result<()> {
    let line = line(&Failure::new(Exit::Failed, words).into())?;
    timeout(Duration::from_millis(100), stream.write_all(&line)).await.map_err(io::Error::from)?
}

fn line(answer: &Answer) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    Ok(line)
}

/// One line without its end, `None` at the end of the stream.
async fn read_line(reader: &mut (impl AsyncBufRead + Unpin), max: u64) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    reader.take(max + 1).read_until(b'\n', &mut bytes).await?;
    match bytes.pop() {
        None => Ok(None),
        Some(b'\n') => Ok(Some(bytes)),
        Some(_) if bytes.len() as u64 >= max => Err(io::Error::new(io::ErrorKind::InvalidData, "the line is too long")),
        Some(_) => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

async fn converse(stream: UnixStream, node: &Node) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    // From the first word on, so that nothing passes between a status and the wait for a newer one.
    let mut events = node.handle.events();
    loop {
        let read = timeout(SILENT_MAX, read_request(&mut reader)).await.map_err(io::Error::from)?;
        let (request, torrent) = match read {
            Ok(Some(request)) => request,
            Ok(None) => return Ok(()),
            Err(e) => {
                // What follows cannot be told from what was meant.
                let failure = Failure::new(Exit::Usage, format!("the request was not understood: {e}"));
                return writer.write_all(&line(&failure.into())?).await;
            }
        };
        let (steps, mut seen) = watch::channel(cache::Step::default());
        let mut answer = std::pin::pin!(node.answer(request, torrent, steps, &mut events));
        let last = loop {
            let step = tokio::select! {
                answer = &mut answer => break answer,
                Ok(()) = seen.changed() => seen.borrow_and_update().clone(),
            };
            // An asker who has gone is noticed here, and what was asked for ends with `answer`.
            writer.write_all(&line(&Answer::Step(step))?).await?;
            // A bar does not move faster than eyes do.
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        writer.write_all(&line(&last)?).await?;
    }
}

async fn read_request(reader: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Option<(Request, Vec<u8>)>> {
    let Some(line) = read_line(reader, LINE_BYTES_MAX).await? else { return Ok(None) };
    let request: Request = serde_json::from_slice(&line)?;
    let mut torrent = Vec::new();
    if let Request::Get { torrent_bytes, .. } = request {
        if torrent_bytes > TORRENT_BYTES_MAX {
            let words = format!("a .torrent of {torrent_bytes} bytes; at most {TORRENT_BYTES_MAX} are taken");
            return Err(io::Error::new(io::ErrorKind::InvalidData, words));
        }
        reader.take(torrent_bytes as u64).read_to_end(&mut torrent).await?;
        if torrent.len() != torrent_bytes {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(Some((request, torrent)))
}

impl Node {
    async fn answer(
        &self,
        request: Request,
        torrent: Vec<u8>,
        steps: watch::Sender<cache::Step>,
        events: &mut broadcast::Receiver<Event>,
    ) -> Answer {
        let command = match request {
            Request::Status => return self.status().await,
            Request::Wait { ms } => return wait(events, Duration::from_millis(ms.into())).await,
            Request::List => return self.images().await,
            Request::Rescan {} => return self.rescan().await,
            Request::Add(add) => return self.add(add, steps).await,
            Request::Get { image, mode, seed_time, replace, .. } if torrent.is_empty() => {
                Command::Get { image, mode, seed_time, replace }
            }
            Request::Get { image, mode, seed_time, replace, .. } => match Metainfo::parse(&torrent) {
                Ok(metainfo) => {
                    self.cache.settle(metainfo.name(), steps).await;
                    Command::GetTorrent { metainfo: Arc::new(metainfo), mode, seed_time, replace }
                }
                Err(e) => return Failure::new(Exit::Failed, format!("{image} is not a usable .torrent: {e}")).into(),
            },
            Request::Mode { image, mode, seed_time } => Command::Mode { image, mode, seed_time },
            Request::Stop { image } => Command::Stop(image),
            Request::Start { image } => Command::Start(image),
            Request::Remove { image } => Command::Remove(image),
            Request::Limit { upload, download } => Command::Limit { upload, download },
            Request::Master { claim: true } => Command::ClaimMaster,
            Request::Master { claim: false } => Command::ReleaseMaster,
        };
        match self.handle.command(command).await {
            Ok(Reply::Started(hash)) => Answer::Fetching { info_hash: hash.to_string(), here: false },
            Ok(Reply::AlreadyHere(hash)) => Answer::Fetching { info_hash: hash.to_string(), here: true },
            Ok(Reply::Changed(hash)) => Answer::Changed { info_hash: hash.to_string() },
            Ok(Reply::Done | Reply::Torrent(_)) => Answer::Done,
            Ok(Reply::Limits(limits)) => Answer::Limits(limits),
            Ok(Reply::Refused(refusal)) => Failure::from(&refusal).into(),
            Err(ended) => Failure::new(Exit::Failed, ended.to_string()).into(),
        }
    }

    async fn status(&self) -> Answer {
        let path = |name: &str| self.cache.locate(name).unwrap_or_default();
        match self.handle.status().await {
            Ok(status) => Answer::Status(view::Status::new(&self.mesh, &status, path)),
            Err(ended) => Failure::new(Exit::Failed, ended.to_string()).into(),
        }
    }

    async fn images(&self) -> Answer {
        match self.handle.status().await {
            Ok(status) => Answer::Images { images: status.images.iter().map(view::Image::new).collect() },
            Err(ended) => Failure::new(Exit::Failed, ended.to_string()).into(),
        }
    }

    async fn rescan(&self) -> Answer {
        match self.cache.rescan().await {
            Ok(images) => Answer::Rescanned { images },
            Err(e) => Failure::from(&e).into(),
        }
    }

    async fn add(&self, add: cache::Add, steps: watch::Sender<cache::Step>) -> Answer {
        match self.cache.add(add, steps).await {
            Ok(added) => Answer::Added {
                name: added.name,
                info_hash: added.info_hash.to_string(),
                size: added.size,
                piece_length: added.piece_length,
                path: added.path.display().to_string(),
                offered_as: added.offered_as,
            },
            Err(e) => Failure::from(&e).into(),
        }
    }
}

async fn wait(events: &mut broadcast::Receiver<Event>, most: Duration) -> Answer {
    // Having missed some is news too, and a node that ends says so to the next question.
    let _ = timeout(most, events.recv()).await;
    while matches!(events.try_recv(), Ok(_) | Err(TryRecvError::Lagged(_))) {}
    Answer::Done
}

impl From<&AddError> for Failure {
    fn from(error: &AddError) -> Self {
        let exit = match error {
            AddError::Unreadable { .. } => Exit::NoSuchImage,
            AddError::BadName(_) | AddError::NoExtension { .. } | AddError::NotAFile(_) => Exit::Usage,
            AddError::NoSpace { .. } => Exit::NoSpace,
            AddError::NotOffered { .. } => Exit::Damaged,
            AddError::Exists(_)
            | AddError::Locked(_)
            | AddError::Io { .. }
            | AddError::Changed(_)
            | AddError::GivenUp
            | AddError::Ended => Exit::Failed,
        };
        Self::new(exit, error.to_string())
    }
}

/// A command's side.
#[derive(Debug)]
pub(crate) struct Client {
    reader: BufReader<tokio::net::unix::OwnedReadHalf>,
    writer: tokio::net::unix::OwnedWriteHalf,
}

impl Client {
    /// Connects to the node that answers at the first of these places.
    ///
    /// # Errors
    /// With exit code 4 if none does; says why.
    pub(crate) async fn connect(places: &[PathBuf]) -> Result<Self, Failure> {
        let mut forbidden = None;
        for place in places {
            match UnixStream::connect(place).await {
                Ok(stream) => {
                    let (reader, writer) = stream.into_split();
                    return Ok(Self { reader: BufReader::new(reader), writer });
                }
                Err(e) if e.kind() == io::ErrorKind::PermissionDenied => forbidden = forbidden.or(Some(place)),
                Err(_) => {}
            }
        }
        let message = match (forbidden, places) {
            (Some(place), _) => format!(
                "a node may run here, but you may not use its socket {} (run this command as root, or see socket_mode \
                 and socket_group in labmesh config)",
                place.display()
            ),
            (None, [place]) => format!("no node answers at {} (start one: labmesh run)", place.display()),
            (None, _) => "no node runs here (start one: labmesh run)".to_owned(),
        };
        Err(Failure::new(Exit::NoMesh, message))
    }

    /// Asks, and gives every step to `on_step`; the last answer, which is never [`Answer::Failed`].
    ///
    /// # Errors
    /// What the node said, or that it has ended.
    pub(crate) async fn ask(
        &mut self,
        request: &Request,
        torrent: &[u8],
        mut on_step: impl FnMut(&cache::Step),
    ) -> Result<Answer, Failure> {
        let ended = |e: io::Error| Failure::new(Exit::Failed, format!("the node has ended or does not answer: {e}"));
        let mut line = serde_json::to_vec(request).map_err(|e| ended(e.into()))?;
        line.push(b'\n');
        if line.len() as u64 > LINE_BYTES_MAX {
            return Err(Failure::new(Exit::Usage, "a name or path is too long"));
        }
        line.extend_from_slice(torrent);
        self.writer.write_all(&line).await.map_err(ended)?;
        loop {
            let line = read_line(&mut self.reader, ANSWER_BYTES_MAX).await.map_err(ended)?;
            let line = line.ok_or_else(|| ended(io::ErrorKind::UnexpectedEof.into()))?;
            match serde_json::from_slice(&line).map_err(|e| ended(e.into()))? {
                Answer::Step(step) => on_step(&step),
                Answer::Failed { exit, message } => return Err(Failure { exit, message }),
                answer => return Ok(answer),
            }
        }
    }

    /// Asks what needs no steps.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub(crate) async fn say(&mut self, request: &Request) -> Result<Answer, Failure> {
        self.ask(request, &[], |_| {}).await
    }

    /// Waits until something happens that a person would notice, or has since the last answer, but at most so long.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub(crate) async fn wait(&mut self, most: Duration) -> Result<(), Failure> {
        let ms = u16::try_from(most.as_millis()).unwrap_or(u16::MAX);
        self.say(&Request::Wait { ms }).await.map(drop)
    }

    /// The node's status.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub(crate) async fn status(&mut self) -> Result<view::Status, Failure> {
        match self.say(&Request::Status).await? {
            Answer::Status(status) => Ok(status),
            other => Err(unexpected(&other)),
        }
    }
}

/// The node said something that does not answer the question: another version.
pub(crate) fn unexpected(answer: &Answer) -> Failure {
    let kind = serde_json::to_value(answer).ok().and_then(|v| v["answer"].as_str().map(ToOwned::to_owned));
    let words = kind.unwrap_or_default();
    Failure::new(Exit::Failed, format!("the node gave an answer of another kind ({words}): is it another version?"))
}

/// Where a command looks for the node.
pub(crate) fn places(named: Option<&Path>) -> Vec<PathBuf> {
    named.map_or_else(crate::config::socket_candidates, |path| vec![path.to_owned()])
}

#[cfg(test)]
mod tests;
