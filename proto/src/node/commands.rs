//! What a person asks of a running node, and images as the cache tells of them.
//!
//! Rule: a command is answered once. Words of a person become an info hash here; everything behind takes the hash.

use std::sync::Arc;
use std::time::Duration;

use super::{Copy, Node, WantedBy};
use crate::catalogue::lookup::Lookup;
use crate::config::{IMAGES_MAX, Mode, RateLimits, SeedTime};
use crate::id::{InfoHash, RequestId, Time};
use crate::io::{Command, Output, Refusal, Reply};
use crate::swarm;
use crate::torrents;
use crate::wire::metainfo::Metainfo;

/// How long a `get` waits for the catalogue to name its image: a heartbeat and two messages, under full load.
const PATIENCE: Duration = Duration::from_millis(1500);
/// Commands that wait like that; more are answered at once.
const EARLY_MAX: usize = 64;

/// A command that came before the news of its image.
#[derive(Debug)]
pub(super) struct Early {
    id: RequestId,
    until: Time,
    command: Command,
}

impl Early {
    pub(super) fn until(&self) -> Time {
        self.until
    }
}

/// How a person wants an image.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Wish {
    pub(super) name: String,
    pub(super) mode: Mode,
    pub(super) seed_time: Option<SeedTime>,
    pub(super) replace: bool,
}

impl Node {
    pub(super) fn command(&mut self, now: Time, id: RequestId, command: Command) {
        let reply = match command {
            Command::Get { image, mode, seed_time, replace } => match self.find(&image) {
                // It may have been added on another node a moment ago.
                Err(Refusal::NoSuchImage(_)) if self.early.len() < EARLY_MAX && !self.is_patient(id) => {
                    let command = Command::Get { image, mode, seed_time, replace };
                    self.early.push_back(Early { id, until: now + PATIENCE, command });
                    Ok(None)
                }
                found => found.and_then(|(name, hash)| {
                    let wish = self.wish(name, mode, seed_time, replace);
                    self.get(now, id, hash, wish)
                }),
            },
            Command::GetTorrent { metainfo, mode, seed_time, replace } => {
                let wish = self.wish(metainfo.name().to_owned(), mode, seed_time, replace);
                self.get_torrent(now, metainfo, wish).map(Some)
            }
            Command::Mode { image, mode, seed_time } => self.change(now, &image, mode, seed_time).map(Some),
            Command::Stop(image) => self.stop(now, &image, true).map(Some),
            Command::Start(image) => self.stop(now, &image, false).map(Some),
            Command::Remove(image) => self.remove(now, id, &image).map(|()| None),
            Command::Torrent(hash) => self.torrent(now, id, hash),
            Command::Register(name) => self.register(now, name).map(Some),
            Command::Limit { upload, download } => {
                let RateLimits { upload: up, download: down } = self.limiter.limits();
                let limits = RateLimits { upload: upload.unwrap_or(up), download: download.unwrap_or(down) };
                self.limit(now, limits);
                Ok(Some(Reply::Limits(limits)))
            }
            Command::ClaimMaster if self.config.weight.get() == 0 => Err(Refusal::NeverMaster),
            Command::ClaimMaster => {
                self.election.handle_input(now, crate::election::Input::ForceClaim);
                Ok(Some(Reply::Done))
            }
            Command::ReleaseMaster if !self.is_ruling() => Err(Refusal::NotMaster),
            Command::ReleaseMaster if !self.election.has_successor() => Err(Refusal::NoSuccessor),
            Command::ReleaseMaster => {
                self.election.handle_input(now, crate::election::Input::Release);
                Ok(Some(Reply::Done))
            }
        };
        match reply {
            Ok(Some(reply)) => self.reply(id, reply),
            Ok(None) => {}
            Err(refusal) => self.reply(id, Reply::Refused(refusal)),
        }
    }

    /// Tries the commands again that named an image which nobody knew: something was added, or their time is over.
    pub(super) fn retry_early(&mut self, now: Time, changed: bool) {
        for _ in 0..self.early.len() {
            let Some(early) = self.early.pop_front() else { return };
            let Command::Get { image, .. } = &early.command else { continue };
            if early.until <= now || (changed && !matches!(self.find(image), Err(Refusal::NoSuchImage(_)))) {
                self.last_try = Some(early.id);
                self.command(now, early.id, early.command);
            } else {
                self.early.push_back(early);
            }
        }
    }

    fn is_patient(&self, id: RequestId) -> bool {
        self.last_try == Some(id)
    }

    pub(super) fn reply(&mut self, id: RequestId, reply: Reply) {
        self.outputs.push_back(Output::Reply { id, reply });
    }

    fn wish(&self, name: String, mode: Option<Mode>, seed_time: Option<SeedTime>, replace: bool) -> Wish {
        let seed_time = seed_time.or(self.config.seed_time);
        Wish { name, mode: mode.unwrap_or(self.config.mode), seed_time, replace }
    }

    fn find(&self, image: &str) -> Result<(String, InfoHash), Refusal> {
        match self.catalogue.resolve(image) {
            Ok(record) => Ok((record.name.clone(), record.info_hash)),
            Err(Lookup::NoSuchImage(image)) => Err(Refusal::NoSuchImage(image)),
            Err(Lookup::Ambiguous { name, choices }) => Err(Refusal::Ambiguous { name, choices }),
        }
    }

    /// `None`: the answer comes when the torrent does.
    fn get(&mut self, now: Time, id: RequestId, hash: InfoHash, wish: Wish) -> Result<Option<Reply>, Refusal> {
        self.check_not_deleting(&wish.name)?;
        if self.image_of(&hash).is_some() {
            return Ok(Some(self.resume(now, hash, &wish)));
        }
        self.check_name(&wish.name, hash, wish.replace)?;
        self.want_torrent(now, hash, WantedBy::Get(id, wish));
        Ok(None)
    }

    fn get_torrent(&mut self, now: Time, metainfo: Arc<Metainfo>, wish: Wish) -> Result<Reply, Refusal> {
        let hash = metainfo.info_hash();
        self.check_not_deleting(&wish.name)?;
        if self.image_of(&hash).is_some() {
            return Ok(self.resume(now, hash, &wish));
        }
        self.fetch(now, metainfo, wish)
    }

    /// Starts fetching an image of which nothing is here.
    pub(super) fn fetch(&mut self, now: Time, metainfo: Arc<Metainfo>, wish: Wish) -> Result<Reply, Refusal> {
        let hash = metainfo.info_hash();
        self.check_not_deleting(&wish.name)?;
        self.check_name(&wish.name, hash, wish.replace)?;
        if self.by_hash.len() >= IMAGES_MAX {
            return Err(Refusal::TooMany(IMAGES_MAX));
        }
        if let Some(old) = self.named(&wish.name) {
            self.withdraw(now, old);
        }
        if wish.replace {
            // Also what is no image of this node, such as a damaged one.
            self.outputs.push_back(Output::SetAside { name: wish.name.clone() });
        }
        let Wish { name, mode, seed_time, .. } = wish;
        self.start_swarm(now, Copy { name, metainfo, mode, seed_time, complete: false, stopped: false });
        Ok(Reply::Started(hash))
    }

    fn resume(&mut self, now: Time, hash: InfoHash, wish: &Wish) -> Reply {
        let Some(image) = self.image_of(&hash) else { return Reply::Started(hash) };
        if self.swarms[image].as_ref().is_some_and(swarm::Swarm::is_complete) {
            return Reply::AlreadyHere(hash);
        }
        if let Some(swarm) = self.swarms[image].as_ref().filter(|_| wish.replace) {
            self.outputs.push_back(Output::SetAside { name: swarm.name().to_owned() });
        }
        self.tell_swarm(now, image, swarm::Input::Mode(wish.mode, wish.seed_time));
        self.set_stopped(now, image, false);
        Reply::Started(hash)
    }

    /// Other content under that name is only set aside when the person says so.
    fn check_name(&self, name: &str, wanted: InfoHash, replace: bool) -> Result<(), Refusal> {
        match self.named(name).and_then(|image| self.swarms[image].as_ref()) {
            Some(swarm) if !replace && swarm.info_hash() != wanted => {
                Err(Refusal::OtherContent { name: name.to_owned(), here: swarm.info_hash(), wanted })
            }
            _ => Ok(()),
        }
    }

    fn check_not_deleting(&self, name: &str) -> Result<(), Refusal> {
        let deleting = self.deleting.iter().any(|(_, deleted)| deleted == name);
        if deleting { Err(Refusal::BeingDeleted(name.to_owned())) } else { Ok(()) }
    }

    fn named(&self, name: &str) -> Option<usize> {
        self.swarms.iter().position(|s| s.as_ref().is_some_and(|s| s.name() == name))
    }

    fn here(&self, image: &str) -> Result<usize, Refusal> {
        let (_, hash) = self.find(image)?;
        self.image_of(&hash).ok_or_else(|| Refusal::NotHere(image.to_owned()))
    }

    fn change(&mut self, now: Time, name: &str, mode: Mode, seed_time: Option<SeedTime>) -> Result<Reply, Refusal> {
        let image = self.here(name)?;
        self.tell_swarm(now, image, swarm::Input::Mode(mode, seed_time));
        let swarm = self.swarms[image].as_ref().ok_or_else(|| Refusal::NotHere(name.to_owned()))?;
        Ok(Reply::Changed(swarm.info_hash()))
    }

    fn stop(&mut self, now: Time, image: &str, stopped: bool) -> Result<Reply, Refusal> {
        let image = self.here(image)?;
        self.set_stopped(now, image, stopped);
        Ok(Reply::Done)
    }

    fn set_stopped(&mut self, now: Time, image: usize, stopped: bool) {
        self.tell_swarm(now, image, swarm::Input::Stopped(stopped));
        if let Some(swarm) = &self.swarms[image] {
            self.outputs.push_back(Output::MarkStopped { name: swarm.name().to_owned(), stopped });
        }
    }

    /// The answer comes when the files are gone, so that whoever asks for the image then does not lose it with them.
    fn remove(&mut self, now: Time, id: RequestId, name: &str) -> Result<(), Refusal> {
        let image = self.here(name)?;
        let Some(swarm) = &self.swarms[image] else { return Err(Refusal::NotHere(name.to_owned())) };
        let (name, complete) = (swarm.name().to_owned(), swarm.is_complete());
        self.check_not_deleting(&name)?;
        // Of a partial copy the files are closed first. A whole one is served until it is gone: it may not be ours to
        // delete.
        if !complete {
            self.withdraw(now, image);
        }
        self.deleting.push((id, name.clone()));
        self.outputs.push_back(Output::Delete { id, name });
        Ok(())
    }

    /// The files of an image are gone, or cannot be deleted.
    pub(super) fn deleted(&mut self, now: Time, id: RequestId, result: Result<(), String>) {
        let Some(at) = self.deleting.iter().position(|(asker, _)| *asker == id) else { return };
        let (_, name) = self.deleting.swap_remove(at);
        let reply = match result {
            Ok(()) => {
                if let Some(image) = self.named(&name) {
                    self.withdraw(now, image);
                }
                Reply::Done
            }
            Err(reason) => Reply::Refused(Refusal::NotDeleted { name, reason }),
        };
        self.reply(id, reply);
    }

    fn torrent(&mut self, now: Time, id: RequestId, hash: InfoHash) -> Result<Option<Reply>, Refusal> {
        if let Some(swarm) = self.image_of(&hash).and_then(|image| self.swarms[image].as_ref()) {
            return Ok(Some(Reply::Torrent(Arc::clone(swarm.metainfo()))));
        }
        self.find(&hash.to_string())?;
        self.want_torrent(now, hash, WantedBy::Torrent(id));
        Ok(None)
    }

    /// Asks those who hold the image or fetch it: the present ones first, of these the connected ones.
    fn want_torrent(&mut self, now: Time, info_hash: InfoHash, by: WantedBy) {
        let record_holders = self.catalogue.record(&info_hash).map_or(&[][..], |r| &r.holders);
        let fetching = self
            .roster
            .entries()
            .map(|e| e.member.id)
            .filter(|node| self.board.of(node).iter().any(|report| report.info_hash == info_hash));
        let mut holders: Vec<_> =
            record_holders.iter().copied().chain(fetching).filter(|n| *n != self.config.id).collect();
        holders.sort_unstable();
        holders.dedup();
        // With a stable order among equals; who only fetches has a torrent as good as any.
        holders.sort_by_key(|node| {
            (!self.roster.member(node).is_some_and(|e| e.live), !self.discovery.is_connected(node))
        });
        self.wanted.push((info_hash, by));
        self.torrents.handle_input(now, torrents::Input::Want { info_hash, holders });
    }

    /// A torrent that was asked for came, or nobody had it.
    pub(super) fn torrent_came(&mut self, now: Time, hash: InfoHash, metainfo: Option<&Arc<Metainfo>>) {
        let (by_hash, rest) = std::mem::take(&mut self.wanted).into_iter().partition(|(wanted, _)| *wanted == hash);
        self.wanted = rest;
        let by_hash: Vec<(InfoHash, WantedBy)> = by_hash;
        for (_, by) in by_hash {
            let name = self.catalogue.record(&hash).map_or_else(|| hash.to_string(), |r| r.name.clone());
            let (id, reply) = match (by, metainfo) {
                (WantedBy::Get(id, _) | WantedBy::Torrent(id), None) => (id, Err(Refusal::NoTorrent(name))),
                (WantedBy::Torrent(id), Some(metainfo)) => (id, Ok(Reply::Torrent(Arc::clone(metainfo)))),
                (WantedBy::Get(id, wish), Some(metainfo)) => {
                    let started = match self.image_of(&hash) {
                        Some(_) => Ok(self.resume(now, hash, &wish)),
                        None => self.fetch(now, Arc::clone(metainfo), wish),
                    };
                    (id, started)
                }
            };
            self.reply(id, reply.unwrap_or_else(Reply::Refused));
        }
    }
}
