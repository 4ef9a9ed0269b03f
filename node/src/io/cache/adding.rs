//! Brings a file into the cache: moved, copied, or left where it is behind a symbolic link.
//!
//! Rule: whatever happens, the cache holds the whole file under its name or nothing: a copy has a hidden temporary name
//! until it is synced. The space is looked at first. Not here: hashing ([`super::keeper`]).

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use labmesh_proto::id::InfoHash;
use labmesh_proto::wire::metainfo::Metainfo;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::{Folders, listing};
use crate::config::values::Extension;
use crate::io::ownership::Ownership;

/// How a copy that is not whole begins.
const UNFINISHED: &str = ".labmesh-adding-";
/// Between two looks at whether anybody still wants the copy, and two reports.
const CHUNK: u64 = 16 * 1024 * 1024;

/// How a file comes into the cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Placement {
    /// The file stays, and the cache has a copy.
    #[default]
    Copy,
    /// The file becomes the cache's.
    Move,
    /// The file stays where it is, and the cache has a symbolic link.
    InPlace,
}

/// A file to bring in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Add {
    /// Absolute path.
    pub file: PathBuf,
    /// Its name in the cache, or the file's.
    pub name: Option<String>,
    /// How.
    pub placement: Placement,
}

/// An image that is offered now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Added {
    /// Relative path in the cache.
    pub name: String,
    /// Its info hash.
    pub info_hash: InfoHash,
    /// Bytes.
    pub size: u64,
    /// Bytes.
    pub piece_length: u32,
    /// Where it lies.
    pub path: PathBuf,
    /// The name by which the same content is offered already; then it is not by this one.
    pub offered_as: Option<String>,
}

/// How far an `add` is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// `copying` or `hashing`; empty before anything has begun.
    pub what: String,
    /// Bytes.
    pub done: u64,
    /// Bytes.
    pub total: u64,
}

/// Why a file is not in the cache.
#[derive(Debug, thiserror::Error)]
pub enum AddError {
    /// Not there, or not readable.
    #[error("cannot read {path}: {error}")]
    Unreadable {
        /// The file.
        path: String,
        /// What the system said.
        error: io::Error,
    },
    /// A folder, a device, an empty file.
    #[error("{0} is not a regular file with something in it")]
    NotAFile(String),
    /// The name cannot be one.
    #[error("{0:?} cannot be the name of an image: expected NAME or FOLDER/NAME, none of them hidden")]
    BadName(String),
    /// The name has no extension of an image.
    #[error("{name:?} does not end like an image ({extensions}): give it another name with --name {name}.img")]
    NoExtension {
        /// The name.
        name: String,
        /// What it could end in.
        extensions: String,
    },
    /// The cache has it.
    #[error("{0} is in the cache already: choose another name with --name, or delete the old one with labmesh rm")]
    Exists(String),
    /// `NAME.lock` is there.
    #[error("{0} is locked: {0}.lock says that somebody is working on it")]
    Locked(String),
    /// The disk is too small.
    #[error("not enough space: {missing} more bytes are needed in {place}")]
    NoSpace {
        /// Bytes.
        missing: u64,
        /// The folder.
        place: String,
    },
    /// Anything else that the system said.
    #[error("cannot put the image into {place}: {error}")]
    Io {
        /// Where.
        place: String,
        /// What the system said.
        error: io::Error,
    },
    /// It was placed, but cannot be offered.
    #[error("{name} is not offered: {reason}")]
    NotOffered {
        /// The name.
        name: String,
        /// Why.
        reason: String,
    },
    /// Somebody else is at work on the file.
    #[error("{0} was changed or removed while it was added")]
    Changed(String),
    /// Nobody waits for it any more.
    #[error("given up: the command was ended")]
    GivenUp,
    /// The node ends.
    #[error("the node has ended")]
    Ended,
}

/// Puts the file into the cache; its name there.
pub(super) fn place(folders: &Folders, add: &Add, progress: &watch::Sender<Step>) -> Result<String, AddError> {
    let shown = || add.file.display().to_string();
    let unreadable = |error| AddError::Unreadable { path: shown(), error };
    let source = add.file.canonicalize().map_err(unreadable)?;
    let metadata = source.metadata().map_err(unreadable)?;
    if !metadata.is_file() || metadata.len() == 0 {
        return Err(AddError::NotAFile(shown()));
    }
    // A torrent that is there already wins: the same bytes stay the same swarm.
    let torrent = beside(&source, ".torrent");
    let own_torrent =
        super::read_torrent(&torrent).ok().filter(|metainfo| metainfo.geometry().length() == metadata.len());
    let cache =
        folders.cache.canonicalize().map_err(|error| AddError::Io { place: place_of(&folders.cache), error })?;
    if let Some(name) = source.strip_prefix(&cache).ok().and_then(Path::to_str)
        && add.name.as_deref().is_none_or(|wanted| wanted == name)
    {
        // It lies in the cache: nothing to bring in.
        return checked(folders, name, own_torrent.as_ref()).map(|_| name.to_owned());
    }
    let own = add.file.file_name().and_then(|name| name.to_str()).map(ToOwned::to_owned);
    let name = add.name.clone().or(own).ok_or_else(|| AddError::BadName(shown()))?;
    let target = folders.cache.join(checked(folders, &name, own_torrent.as_ref())?);
    let failed = |error| AddError::Io { place: place_of(&target), error };
    if target.symlink_metadata().is_ok() || beside(&target, ".part").exists() {
        return Err(AddError::Exists(name));
    }
    if let Some(folder) = target.parent() {
        fs::create_dir_all(folder).map_err(failed)?;
    }
    if own_torrent.is_some() {
        let kept = super::sidecar::Sidecars::of(folders, &target).torrent();
        fs::create_dir_all(kept.parent().unwrap_or(Path::new("/"))).map_err(failed)?;
        fs::copy(&torrent, &kept).map_err(failed)?;
    }
    let placed = match add.placement {
        Placement::InPlace => std::os::unix::fs::symlink(&source, &target).map_err(failed),
        Placement::Move if fs::rename(&source, &target).is_ok() => {
            // The torrent was copied; what is left of it has nothing to belong to.
            let _ = fs::remove_file(&torrent);
            Ok(())
        }
        Placement::Copy => copy(&source, &target, metadata.len(), folders.ownership, progress),
        Placement::Move => {
            let copied = copy(&source, &target, metadata.len(), folders.ownership, progress);
            copied.and_then(|()| fs::remove_file(&source).map_err(failed))
        }
    };
    if placed.is_err() && !target.exists() {
        let _ = fs::remove_file(super::sidecar::Sidecars::of(folders, &target).torrent());
    }
    placed.map(|()| name)
}

fn checked<'a>(folders: &Folders, name: &'a str, torrent: Option<&Metainfo>) -> Result<&'a Path, AddError> {
    let path = listing::checked_name(name).ok_or_else(|| AddError::BadName(name.to_owned()))?;
    let is_named = torrent.is_some_and(|torrent| path.file_name() == Some(torrent.name().as_ref()));
    let ends_well = folders.extensions.iter().any(|extension| extension.fits(name));
    if !ends_well && (!is_named || Extension::is_of_sidecar(name)) {
        let extensions: Vec<String> = folders.extensions.iter().map(ToString::to_string).collect();
        return Err(AddError::NoExtension { name: name.to_owned(), extensions: extensions.join(", ") });
    }
    if beside(&folders.cache.join(path), ".lock").exists() {
        return Err(AddError::Locked(name.to_owned()));
    }
    Ok(path)
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn place_of(path: &Path) -> String {
    path.parent().unwrap_or(path).display().to_string()
}

/// Copies under a temporary name, syncs, renames.
fn copy(
    source: &Path,
    target: &Path,
    size: u64,
    ownership: Ownership,
    progress: &watch::Sender<Step>,
) -> Result<(), AddError> {
    let folder = target.parent().unwrap_or(Path::new("/"));
    let io = |error| AddError::Io { place: folder.display().to_string(), error };
    let space = rustix::fs::statvfs(folder).map_err(|e| io(e.into()))?;
    let free = space.f_bavail.saturating_mul(space.f_frsize);
    let no_space = |missing| AddError::NoSpace { missing, place: folder.display().to_string() };
    if free < size {
        return Err(no_space(size - free));
    }
    let mut from =
        File::open(source).map_err(|error| AddError::Unreadable { path: source.display().to_string(), error })?;
    let mut to = tempfile::Builder::new().prefix(UNFINISHED).tempfile_in(folder).map_err(io)?;
    let mut done = 0;
    while done < size {
        progress.send_replace(Step { what: "copying".into(), done, total: size });
        if progress.is_closed() {
            return Err(AddError::GivenUp);
        }
        match io::copy(&mut (&mut from).take(CHUNK), to.as_file_mut()) {
            Ok(0) => return Err(AddError::Changed(source.display().to_string())),
            Ok(more) => done += more,
            Err(e) if e.kind() == io::ErrorKind::StorageFull => return Err(no_space(size - done)),
            Err(e) => return Err(io(e)),
        }
    }
    to.flush().and_then(|()| to.as_file().sync_all()).map_err(io)?;
    ownership.give(to.as_file()).map_err(io)?;
    to.persist_noclobber(target).map_err(|e| match e.error.kind() {
        io::ErrorKind::AlreadyExists => AddError::Exists(target.display().to_string()),
        _ => io(e.error),
    })?;
    Ok(())
}

/// Copies that a power cut left behind.
pub(super) fn remove_leftovers(cache: &Path) {
    let folders = fs::read_dir(cache).into_iter().flatten().flatten().filter(|e| e.path().is_dir()).map(|e| e.path());
    for folder in folders.chain([cache.to_owned()]) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.file_name().as_encoded_bytes().starts_with(UNFINISHED.as_bytes()) {
                tracing::info!("{} was left by an add that was cut short, and is removed", entry.path().display());
                // If it cannot be removed it stays hidden.
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}
