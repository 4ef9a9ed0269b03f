//! Torrents of other people's trackers that somebody dropped here: what they name is fetched and shared until they go.
//!
//! Rule: a `.torrent` without its image asks for it if it names a tracker that is not the mesh's; the mesh's own
//! torrents that lie about ask for nothing. The image is called as the torrent's file, or, if that does not end like an
//! image, as the torrent says, whatever that ends in. Removing the torrent ends it; removing the image ends it too, until the torrent is
//! dropped anew or somebody says `rescan`. Not here: an image that is there but not whole ([`super::super::hashing`]).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};

use labmesh_proto::announcer::is_foreign;
use labmesh_proto::config::Mode;
use labmesh_proto::id::InfoHash;
use labmesh_proto::io::Input;

use super::super::listing::{self, Listing, Torrent};
use super::super::sidecar::{Sidecars, read_torrent};
use super::super::{Folders, Stamp};
use super::Keeper;
use crate::config::values::Extension;

/// What the node was told to fetch because a torrent asks for it.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) info_hash: InfoHash,
    pub(super) stopped: bool,
}

/// What a torrent says that has no image of its name.
#[derive(Clone, Debug)]
pub(super) struct About {
    info_hash: InfoHash,
    /// The name in it.
    name: String,
    /// It names a tracker that is not the mesh's.
    foreign: bool,
}

/// What torrents ask for, by relative path of the image.
pub(super) type Wishes = BTreeMap<String, Wish>;

/// A torrent that asks for an image.
pub(super) struct Wish {
    path: PathBuf,
    stamp: Stamp,
    info_hash: InfoHash,
    stopped: bool,
}

impl Keeper {
    /// Reads the torrents without an image of their name: what they name and is there is an image, what is not may be
    /// asked for.
    pub(super) fn read_torrents(&mut self, listing: &mut Listing) -> Wishes {
        let torrents = std::mem::take(&mut listing.torrents);
        let mut wishes = BTreeMap::new();
        let mut other_names = BTreeMap::new();
        let mut read = BTreeMap::new();
        for (stem, torrent) in &torrents {
            // Beside an image of its name it is a sidecar.
            if listing.images.contains_key(stem) {
                continue;
            }
            let Some((stamp, about)) = self.read(torrent) else { continue };
            read.insert(torrent.path.clone(), (stamp, about.clone()));
            let Some(about) = about else {
                listing.skipped.insert(torrent.path.clone(), "it is not a usable .torrent".to_owned());
                continue;
            };
            let Some(name) = image_name(&self.folders, stem, &about.name) else {
                let reason = format!("it names {:?}, which cannot be the name of an image", about.name);
                listing.skipped.insert(torrent.path.clone(), reason);
                continue;
            };
            // The mesh's own torrents are called as their images; a stray one must not stand in an image's way.
            let asks = about.foreign && torrent.asks;
            if asks || name == *stem {
                listing.take_named(&torrent.root, &name);
            }
            if !asks {
                continue;
            }
            if name != *stem {
                if self.folders.cache.join(format!("{name}.lock")).exists() {
                    continue;
                }
                other_names.entry(name.clone()).or_insert_with(|| torrent.path.clone());
            }
            if listing.images.contains_key(&name) {
                continue;
            }
            let sidecars = Sidecars::of(&self.folders, &self.folders.cache.join(&name));
            let stopped = torrent.inactive || sidecars.is_marked();
            let wish = Wish { path: torrent.path.clone(), stamp, info_hash: about.info_hash, stopped };
            wishes.entry(name).or_insert(wish);
        }
        self.read = read;
        *self.folders.other_names.lock().unwrap_or_else(PoisonError::into_inner) = other_names;
        listing.torrents = torrents;
        wishes
    }

    /// Compares what torrents ask for with what the node was told to fetch.
    pub(super) fn fulfil(&mut self, wishes: Wishes, listing: &Listing, again: bool) {
        self.end_wishes(&wishes, listing);
        for (name, wish) in wishes {
            self.begin_wish(name, &wish, again);
        }
    }

    /// Whether a torrent asks for this copy.
    pub(super) fn is_wished(&self, name: &str, torrents: &BTreeMap<String, Torrent>, hash: InfoHash) -> bool {
        let asks = |(stem, torrent): (&String, &Torrent)| {
            let about = self.read(torrent).and_then(|(_, about)| about).filter(|_| torrent.asks);
            about.is_some_and(|about| {
                about.info_hash == hash && image_name(&self.folders, stem, &about.name).as_deref() == Some(name)
            })
        };
        torrents.iter().any(asks)
    }

    /// What a torrent says, read again only if it has changed. `None`: it is gone, or an empty marker.
    fn read(&self, torrent: &Torrent) -> Option<(Stamp, Option<About>)> {
        let stamp = Stamp::of_torrent(&torrent.path)?;
        if let Some((then, about)) = self.read.get(&torrent.path).filter(|(then, _)| *then == stamp) {
            return Some((*then, about.clone()));
        }
        let about = read_torrent(&torrent.path).ok().map(|metainfo| About {
            info_hash: metainfo.info_hash(),
            name: metainfo.name().to_owned(),
            foreign: is_foreign(&metainfo, &self.folders.host),
        });
        Some((stamp, about))
    }

    fn end_wishes(&mut self, wishes: &Wishes, listing: &Listing) {
        let asked_for =
            |name: &String, wanted: &Wanted| wishes.get(name).is_some_and(|w| w.info_hash == wanted.info_hash);
        let ended: Vec<String> = self
            .wanted
            .iter()
            .filter(|(name, wanted)| !asked_for(name, wanted))
            .map(|(name, _)| name.clone())
            .collect();
        for name in ended {
            let Some(Wanted { info_hash, .. }) = self.wanted.remove(&name) else { continue };
            // With the image there it is complete, and its torrent a sidecar.
            if !listing.images.contains_key(&name) {
                tracing::info!(image = name, %info_hash, "is not fetched on: the .torrent that asked for it is gone");
                self.tell(Input::CacheLost { info_hash });
            }
        }
    }

    fn begin_wish(&mut self, name: String, wish: &Wish, again: bool) {
        let info_hash = wish.info_hash;
        if let Some(wanted) = self.wanted.get_mut(&name) {
            if wanted.stopped != wish.stopped {
                wanted.stopped = wish.stopped;
                self.tell(Input::CacheStopped { info_hash, stopped: wish.stopped });
            }
            return;
        }
        let image = self.folders.cache.join(&name);
        // What was stopped before it began takes no space.
        if wish.stopped || (!again && self.index.was_removed(&image, info_hash, wish.stamp)) {
            return;
        }
        let Ok(metainfo) = read_torrent(&wish.path) else { return };
        tracing::info!(image = name, %info_hash, "is fetched: {} asks for it", wish.path.display());
        self.index.wish(&image, info_hash, wish.stamp);
        self.wanted.insert(name.clone(), Wanted { info_hash, stopped: false });
        let (metainfo, mode, seed_time) = (Arc::new(metainfo), Mode::Seeder, None);
        self.tell(Input::CachePart { name, metainfo, mode, seed_time, stopped: false });
    }
}

/// The image that a torrent is about, by its own name without the ending, or else by the name in it.
fn image_name(folders: &Folders, stem: &str, named: &str) -> Option<String> {
    let below = Path::new(stem).parent().and_then(Path::to_str).filter(|below| !below.is_empty());
    let inner = below.map_or_else(|| named.to_owned(), |below| format!("{below}/{named}"));
    let ends_well = |name: &str| folders.extensions.iter().any(|e| !e.is_every() && e.fits(name));
    let name = if ends_well(stem) { stem.to_owned() } else { inner };
    (!Extension::is_of_sidecar(&name) && listing::checked_name(&name).is_some()).then_some(name)
}
