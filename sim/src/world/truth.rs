//! What is asked of the whole room: one master, true books, nobody who waits in vain.
//!
//! Not here: what is looked at with every event ([`crate::check`]), and what one scenario expects ([`crate::expect`]).

use std::collections::BTreeSet;
use std::time::Duration;

use labmesh_proto::id::{InfoHash, Time};
use labmesh_proto::node::{Role, Status};
use labmesh_proto::wire::control::TransferState;

use super::machine::Power;
use super::{Event, WATCH_EVERY, World};

/// A `get` that moves nothing for so long, while nothing goes wrong and a holder is up, hangs: a dial that is given up,
/// the longest silence between two announces of a starving copy, and room for the slowest links.
const HANGS_AFTER: Duration = Duration::from_secs(25);
/// How long books may take to follow the room.
const BOOKS_FOLLOW: Duration = Duration::from_secs(3);
const LOOK_EVERY: Duration = Duration::from_millis(250);

impl World {
    /// What every machine that is on says of itself.
    pub fn statuses(&self) -> Vec<(usize, Status)> {
        let running = self.machines.iter().enumerate().filter(|(_, m)| m.power == Power::On);
        running.filter_map(|(index, m)| Some((index, m.node.as_ref()?.status(self.now + m.ahead)))).collect()
    }

    /// One master, and everybody that is on follows it.
    pub(super) fn settled(&self) -> Result<(), String> {
        one_master(&self.statuses()).map(|_| ())
    }

    /// When each machine that asked was complete, counted from its `get`.
    pub fn finish_times(&self) -> Vec<Option<Duration>> {
        self.takers().into_iter().map(|(_, time)| time).collect()
    }

    /// The same with the machine's number, which begins with 1.
    pub fn takers(&self) -> Vec<(usize, Option<Duration>)> {
        let asked =
            self.machines.iter().enumerate().filter_map(|(m, machine)| Some((m + 1, machine.asks_at?, machine)));
        asked.map(|(pc, asked, machine)| (pc, machine.complete_at().map(|at| at.since(asked)))).collect()
    }

    /// Numbers of the machines that send bad data: others may refuse them, and then they get nothing.
    pub fn liars(&self) -> Vec<usize> {
        (0..self.machines.len()).filter(|m| self.machines[*m].poison_permille > 0).map(|m| m + 1).collect()
    }

    /// How many machines that asked for the image seed it now.
    pub fn seeding(&self) -> usize {
        let seeds = |s: &Status| s.transfers.iter().any(|t| t.state == TransferState::Seeding);
        self.statuses().iter().filter(|(m, s)| self.machines[*m].asks_at.is_some() && seeds(s)).count()
    }

    /// Numbers of the machines of which a transfer failed and says why.
    pub fn failed(&self) -> Vec<usize> {
        let failed = |s: &Status| s.transfers.iter().any(|t| t.state == TransferState::Failed && t.error.is_some());
        self.statuses().iter().filter(|(_, s)| failed(s)).map(|(m, _)| m + 1).collect()
    }

    /// Numbers of the machines that are not on.
    pub fn away(&self) -> Vec<usize> {
        (0..self.machines.len()).filter(|m| self.machines[*m].power != Power::On).map(|m| m + 1).collect()
    }

    /// Whether what everybody believes is what is, at the latest a little while from now.
    ///
    /// # Errors
    /// With the first thing that is not so.
    pub fn books_are_true(&mut self) -> Result<(), String> {
        let end = self.now + BOOKS_FOLLOW;
        loop {
            let statuses = self.statuses();
            let found = self.roster_is_true(&statuses).and_then(|()| self.swarms_are_true(&statuses));
            if found.is_ok() || self.now >= end {
                return found;
            }
            self.run_until(self.now + LOOK_EVERY)?;
        }
    }

    /// Everybody knows who is here, and everybody who is here knows the same images and their holders.
    fn roster_is_true(&self, statuses: &[(usize, Status)]) -> Result<(), String> {
        let (_, master) = one_master(statuses)?;
        let here: BTreeSet<&str> = statuses.iter().map(|(_, s)| s.name.as_str()).collect();
        let images = |s: &Status| -> Vec<(InfoHash, Vec<String>)> {
            s.images.iter().map(|image| (image.info_hash, image.holders.clone())).collect()
        };
        let expected = images(master);
        for (_, status) in statuses {
            let live: BTreeSet<&str> = status.nodes.iter().filter(|n| n.live).map(|n| n.name.as_str()).collect();
            if live != here {
                let wrong: Vec<_> = live.symmetric_difference(&here).collect();
                return Err(format!("{} errs about who is here: {wrong:?}", status.name));
            }
            if images(status) != expected {
                return Err(format!("{} knows other images or holders than {}", status.name, master.name));
            }
        }
        Ok(())
    }

    /// The tracker at the master counts who really is in each swarm, and the catalogue names who really has a copy.
    fn swarms_are_true(&self, statuses: &[(usize, Status)]) -> Result<(), String> {
        let (_, master) = one_master(statuses)?;
        for image in &self.images {
            let hash = image.info_hash();
            let transfers = || statuses.iter().flat_map(|(_, s)| &s.transfers).filter(|t| t.info_hash == hash);
            let count = |states: &[TransferState]| transfers().filter(|t| states.contains(&t.state)).count() as u32;
            let seeding = count(&[TransferState::Seeding]);
            let fetching = count(&[TransferState::Fetching, TransferState::Waiting]);
            let book = master.images.iter().find(|i| i.info_hash == hash);
            let counted = book.map_or((0, 0), |i| (i.complete, i.downloading));
            if counted != (seeding, fetching) {
                let (complete, downloading) = counted;
                return Err(format!(
                    "the book of {} has {complete} seeds and {downloading} others, true are {seeding} and {fetching}",
                    master.name
                ));
            }
            let whole = |m: &usize| self.machines[*m].disk.copy(hash).is_some_and(|copy| copy.complete);
            let holders: BTreeSet<&str> =
                statuses.iter().filter(|(m, _)| whole(m)).map(|(_, s)| s.name.as_str()).collect();
            let named = book.map_or(&[][..], |i| &i.holders);
            let away = |name: &str| !statuses.iter().any(|(_, s)| s.name == name);
            let named: BTreeSet<&str> = named.iter().map(String::as_str).filter(|name| !away(name)).collect();
            if named != holders {
                let wrong: Vec<_> = named.symmetric_difference(&holders).collect();
                return Err(format!(
                    "the catalogue of {} errs about who holds {}: {wrong:?}",
                    master.name,
                    image.name()
                ));
            }
        }
        Ok(())
    }

    /// No `get` hangs while a holder is up.
    pub(super) fn watch(&mut self) -> Result<(), String> {
        self.later(WATCH_EVERY, Event::Watch);
        let quiet = |since: Time| self.now.since(since.max(self.disturbed)) > HANGS_AFTER;
        for (m, machine) in self.machines.iter().enumerate().filter(|(_, m)| m.power == Power::On) {
            let since = machine.asks_at.map(|asked| machine.moved.max(asked));
            let liar = machine.poison_permille > 0;
            if liar || !since.is_some_and(quiet) || machine.disk.unwritable(0).is_some() {
                continue;
            }
            for number in &machine.wants {
                let image = &self.images[*number];
                let (hash, length) = (image.info_hash(), image.geometry().length());
                let new = if machine.disk.copy(hash).is_none() { length } else { 0 };
                let fits = machine.disk.unwritable(new).is_none();
                if fits && !machine.got.contains_key(&hash) && self.is_up_for(m, hash) {
                    return Err(format!(
                        "pc{:03} hangs: it misses lab{}.img, of which a holder is up",
                        m + 1,
                        number + 1
                    ));
                }
            }
        }
        Ok(())
    }

    /// Whether a machine with a whole copy runs, and both reach each other.
    fn is_up_for(&self, m: usize, hash: InfoHash) -> bool {
        let holds = |machine: &super::Machine| {
            machine.power == Power::On
                && machine.disk.unreadable().is_none()
                && machine.disk.copy(hash).is_some_and(|copy| copy.complete && !copy.stopped)
        };
        (0..self.machines.len()).any(|h| h != m && holds(&self.machines[h]) && self.reach_each_other(h, m))
    }

    /// Everybody who misses pieces that nobody present has says so, and names the one that had them.
    pub(super) fn says_what_it_waits_for(&self, gone: usize) -> Result<(), String> {
        let name = format!("pc{:03}", gone + 1);
        let mut waiting = 0;
        for (m, status) in self.statuses() {
            let transfers = status.transfers.iter();
            for transfer in transfers.filter(|t| t.have < t.pieces && self.machines[m].asks_at.is_some()) {
                let says = transfer.state == TransferState::Waiting && transfer.missing_pieces > 0;
                if !says || !transfer.last_seen_on.contains(&name) {
                    let (state, missing, seen) = (transfer.state, transfer.missing_pieces, &transfer.last_seen_on);
                    return Err(format!(
                        "{} does not say that it waits for {name}: {state:?}, {missing} missing, last seen on {seen:?}",
                        status.name
                    ));
                }
                waiting += 1;
            }
        }
        if waiting == 0 { Err(format!("nobody waits for {name}: it died too late")) } else { Ok(()) }
    }
}

/// The one master and what it says, if everybody follows it.
fn one_master(statuses: &[(usize, Status)]) -> Result<(usize, &Status), String> {
    let rules = |s: &Status| matches!(s.role, Role::Master | Role::Solo);
    let masters: Vec<_> = statuses.iter().filter(|(_, s)| rules(s)).collect();
    let [(index, master)] = masters[..] else {
        let names: Vec<&str> = masters.iter().map(|(_, s)| s.name.as_str()).collect();
        return Err(format!("expected one master, found {names:?}"));
    };
    let follows = |s: &Status| s.name == master.name || s.master.as_ref() == Some(&master.name);
    let strays: Vec<&str> = statuses.iter().filter(|(_, s)| !follows(s)).map(|(_, s)| s.name.as_str()).collect();
    if strays.is_empty() { Ok((*index, master)) } else { Err(format!("{strays:?} do not follow {}", master.name)) }
}
