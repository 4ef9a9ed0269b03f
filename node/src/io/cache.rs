//! The image folders: what lies there is offered, and what is asked for is done to them.
//!
//! Rule: a file with a known extension, or one that a torrent beside it names, that has stopped growing and has a torrent
//! that fits it is an image of this node; a torrent of other people's trackers without its image is one that this node fetches; whatever happens to
//! either by hand, the node hears of. The files are the truth, and what this part remembers only spares reading them
//! again. Parts, in reading order: [`listing`] reads folders, [`sidecar`] the files beside an image, [`index`] is what
//! is remembered over restarts, [`keeper`] decides, [`hashing`] reads images, [`adding`] brings files in.
//!
//! Threads: one keeps the books and never reads an image; one hashes, one image after the other on all cores; one
//! computes full MD5s at the lowest priority. Not here: what a node does with an image (`labmesh_proto`), partial
//! copies while they are written (`io/disk.rs`).

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use labmesh_proto::id::InfoHash;
use labmesh_proto::wire::metainfo::Metainfo;
use tokio::sync::{oneshot, watch};
use tokio::task::spawn_blocking;

use super::Events;
use super::ownership::Ownership;
use crate::config::Config;
use crate::config::values::Extension;

pub mod adding;
mod hashing;
mod index;
mod keeper;
mod listing;
mod sidecar;

pub use adding::{Add, AddError, Added, Placement, Step};
use keeper::{Keeper, Message};
use sidecar::Sidecars;
pub use sidecar::{read_torrent, torrent_of};

/// Messages that wait for the keeper. Most only say "look again", so one that does not fit loses nothing.
const MESSAGES_MAX: usize = 256;

/// The image folders of this node. Cheap to clone; the threads end with the last clone.
#[derive(Clone, Debug)]
pub struct Cache(Arc<Shared>);

/// What the handle, the keeper and its helpers know.
#[derive(Debug)]
struct Shared {
    folders: Folders,
    messages: SyncSender<Message>,
}

/// Where images may lie.
#[derive(Clone, Debug)]
struct Folders {
    cache: PathBuf,
    libraries: Vec<PathBuf>,
    /// Where torrents are kept, if not beside their images.
    torrents: Option<PathBuf>,
    state: PathBuf,
    extensions: Vec<Extension>,
    rescan_every: Duration,
    /// Whether images are checked against torrents that were there first.
    check_hashes: bool,
    ownership: Ownership,
    /// The mesh's host name: other trackers are other people's.
    host: String,
    /// Torrents of another name than the image that they ask for, by its relative path, as the keeper saw them last.
    other_names: Arc<Mutex<BTreeMap<String, PathBuf>>>,
    /// What a new torrent names as its tracker; whoever hands it out writes better ones.
    tracker: String,
}

impl Folders {
    /// The relative path of an image that lies in one of these folders.
    fn name_of<'p>(&self, image: &'p Path) -> Option<&'p str> {
        let mut roots = std::iter::once(&self.cache).chain(&self.libraries);
        roots.find_map(|root| image.strip_prefix(root).ok()).and_then(Path::to_str)
    }

    /// The torrent of another name that asks for that image.
    fn other_torrent(&self, name: &str) -> Option<PathBuf> {
        self.other_names.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }
}

impl Cache {
    /// Makes the folder if need be, and starts to report what it holds. `host` is the mesh's host name.
    ///
    /// # Errors
    /// If the cache or the state folder cannot be made or read, or a thread cannot be started.
    pub fn start(config: &Config, host: &str, events: Events) -> anyhow::Result<Self> {
        let folders = Folders {
            cache: config.cache.clone(),
            libraries: config.libraries.clone(),
            torrents: config.torrents.clone(),
            state: config.state.clone(),
            extensions: config.extensions.clone(),
            rescan_every: config.rescan_interval,
            check_hashes: config.check_hashes,
            ownership: config.ownership,
            host: host.to_owned(),
            other_names: Arc::default(),
            tracker: format!("http://{host}:{}/announce", config.http_port),
        };
        for folder in [&folders.cache, &folders.state].into_iter().chain(&folders.torrents) {
            std::fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
        }
        std::fs::read_dir(&folders.cache)
            .with_context(|| format!("cannot read the image folder {}", folders.cache.display()))?;
        adding::remove_leftovers(&folders.cache);
        let (messages, inbox) = sync_channel(MESSAGES_MAX);
        let shared = Arc::new(Shared { folders, messages });
        Keeper::start(&shared, inbox, events)?;
        Ok(Self(shared))
    }

    /// Where the image of that name lies, or will lie: in the cache, else in the first library that has it. `None` if
    /// the name is no relative path of one or two parts.
    pub fn locate(&self, name: &str) -> Option<PathBuf> {
        let relative = listing::checked_name(name)?;
        let here = self.0.folders.cache.join(relative);
        let exists = |path: &PathBuf| path.symlink_metadata().is_ok();
        if exists(&here) {
            return Some(here);
        }
        let there = self.0.folders.libraries.iter().map(|library| library.join(relative)).find(exists);
        there.or(Some(here))
    }

    /// The image folder.
    pub fn folder(&self) -> &Path {
        &self.0.folders.cache
    }

    /// Reads every folder now, and gives images another chance that were left alone. How many images are offered.
    ///
    /// # Errors
    /// If the cache has ended.
    pub async fn rescan(&self) -> Result<usize, AddError> {
        let (reply, done) = oneshot::channel();
        self.tell(Message::Rescan(reply)).await?;
        done.await.map_err(|_| AddError::Ended)
    }

    /// Brings a file into the cache; returns when it is offered. Ends early if nobody listens to `progress` any more.
    ///
    /// # Errors
    /// See [`AddError`]; nothing is left behind then.
    pub async fn add(&self, add: Add, progress: watch::Sender<Step>) -> Result<Added, AddError> {
        let folders = self.0.folders.clone();
        let progress = Arc::new(progress);
        let placing = Arc::clone(&progress);
        let name =
            spawn_blocking(move || adding::place(&folders, &add, &placing)).await.map_err(|_| AddError::Ended)??;
        let (reply, done) = oneshot::channel();
        self.tell(Message::Adopt { name, progress, reply }).await?;
        done.await.map_err(|_| AddError::Ended)?
    }

    /// Reads a file of that name, if there is one and it was not read: who is about to fetch an image of that name must
    /// know whether it is here. Whether it could be offered does not matter here.
    pub async fn settle(&self, name: &str, progress: watch::Sender<Step>) {
        let Some(relative) = listing::checked_name(name) else { return };
        if self.0.folders.cache.join(relative).symlink_metadata().is_err() {
            return;
        }
        let (reply, done) = oneshot::channel();
        let adopt = Message::Adopt { name: name.to_owned(), progress: Arc::new(progress), reply };
        if self.tell(adopt).await.is_ok() {
            // Whatever it is, the node was told before the answer came.
            let _ = done.await;
        }
    }

    /// A fetched copy has its name: every piece was verified, so it is not hashed again. Its `.sum` files follow.
    pub fn fetched(&self, name: &str, metainfo: Arc<Metainfo>) {
        // If it does not fit, the keeper finds the image by itself and hashes it.
        let _ = self.0.messages.try_send(Message::Fetched { name: name.to_owned(), metainfo });
    }

    /// Renames image and sidecars to `*.ant` (OpenGnsys' word for a set-aside image), over older ones. Waits for the disk.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn set_aside(&self, name: &str) -> io::Result<()> {
        let result = self.sidecars(name)?.set_aside();
        let _ = self.0.messages.try_send(Message::Changed);
        result
    }

    /// Deletes image, partial copy and sidecars; of an image that was added in place, the link. Returns when the loss
    /// of the image was reported.
    ///
    /// # Errors
    /// If the system refuses, or the image is locked (`NAME.lock`).
    pub async fn delete(&self, name: &str) -> io::Result<()> {
        self.change(name, Sidecars::delete).await?;
        let (reply, done) = oneshot::channel();
        self.tell(Message::Look(reply)).await.map_err(io::Error::other)?;
        done.await.map_err(io::Error::other)
    }

    /// Writes or removes `NAME.torrent.inactive`.
    ///
    /// # Errors
    /// If the system refuses.
    pub async fn mark_stopped(&self, name: &str, stopped: bool) -> io::Result<()> {
        self.change(name, move |sidecars| sidecars.mark_stopped(stopped)).await
    }

    async fn change(
        &self,
        name: &str,
        change: impl FnOnce(&Sidecars) -> io::Result<()> + Send + 'static,
    ) -> io::Result<()> {
        let sidecars = self.sidecars(name)?;
        let result = spawn_blocking(move || change(&sidecars)).await.map_err(io::Error::other)?;
        // The watcher says so too; a message that does not fit follows others that make the keeper look.
        let _ = self.0.messages.try_send(Message::Changed);
        result
    }

    fn sidecars(&self, name: &str) -> io::Result<Sidecars> {
        let bad = || io::Error::new(io::ErrorKind::InvalidInput, format!("{name:?} is no name of an image"));
        Ok(Sidecars::of(&self.0.folders, &self.locate(name).ok_or_else(bad)?))
    }

    /// Never blocks a runtime's thread; the keeper reads its messages within milliseconds.
    async fn tell(&self, message: Message) -> Result<(), AddError> {
        let messages = self.0.messages.clone();
        let sent = spawn_blocking(move || messages.send(message).is_ok()).await;
        if matches!(sent, Ok(true)) { Ok(()) } else { Err(AddError::Ended) }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // The keeper holds no clone of this and ends when it is told so, or at the next look.
        let _ = self.messages.try_send(Message::End);
    }
}

/// What makes two looks at a file the same content, short of reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
struct Stamp {
    /// Bytes.
    size: u64,
    /// Modification time, nanoseconds since 1970; good until 2262.
    mtime_ns: i64,
}

impl Stamp {
    /// Of a file that may be a torrent; `None` if it is none, or an empty marker.
    fn of_torrent(path: &Path) -> Option<Self> {
        path.metadata().ok().filter(|m| m.is_file() && m.len() > 0).map(|m| Self::of(&m))
    }

    fn of(metadata: &std::fs::Metadata) -> Self {
        use std::os::unix::fs::MetadataExt as _;
        let mtime_ns = metadata.mtime().saturating_mul(1_000_000_000).saturating_add(metadata.mtime_nsec());
        Self { size: metadata.len(), mtime_ns }
    }
}

/// An image that is offered, as others are told.
fn added(name: &str, path: &Path, metainfo: &Metainfo, offered_as: Option<String>) -> Added {
    let geometry = metainfo.geometry();
    let info_hash: InfoHash = metainfo.info_hash();
    Added {
        name: name.to_owned(),
        info_hash,
        size: geometry.length(),
        piece_length: geometry.piece_length(),
        path: path.to_owned(),
        offered_as,
    }
}

#[cfg(test)]
mod tests;
