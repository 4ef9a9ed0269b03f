//! What is asked of the whole room: one master, true books, nobody who waits in vain.
//!
//! Not here: what is looked at with every event ([`crate::check`]), and what one scenario expects ([`crate::expect`]).

use std::collections::BTreeSet;
use std::time::Duration;

use labmesh_proto::id::{InfoHash, NodeId, Time};
use labmesh_proto::node::{Node, Role, Status};
use labmesh_proto::wire::control::TransferState;

use super::machine::Power;
use super::{Event, WATCH_EVERY, World};
use crate::lines::name;

/// A `get` that moves nothing for so long, while nothing goes wrong and a holder is up, hangs: a dial that is given up,
/// the longest silence between two announces of a starving copy, and room for the slowest links.
const HANGS_AFTER: Duration = Duration::from_secs(25);
/// How long books may take to follow the room.
const BOOKS_FOLLOW: Duration = Duration::from_secs(3);
const LOOK_EVERY: Duration = Duration::from_millis(250);

impl World {
    /// What every machine that is on says of itself.
    pub fn statuses(&self) -> impl Iterator<Item = (usize, Status)> {
        self.running().map(|(m, node)| (m, node.status(self.local(m))))
    }

    fn running(&self) -> impl Iterator<Item = (usize, &Node)> {
        let on = self.machines.iter().enumerate().filter(|(_, machine)| machine.power == Power::On);
        on.filter_map(|(m, machine)| Some((m, machine.node.as_ref()?)))
    }

    /// What time it is for that machine.
    fn local(&self, m: usize) -> Time {
        self.now + self.machines[m].ahead
    }

    /// One master, and everybody that is on follows it.
    pub(super) fn settled(&self) -> Result<(), String> {
        self.one_master().map(|_| ())
    }

    /// The one master, if everybody follows it.
    fn one_master(&self) -> Result<(usize, &Node), String> {
        let masters: Vec<_> =
            self.running().filter(|(_, node)| matches!(node.role(), Role::Master | Role::Solo)).collect();
        let [(master, node)] = masters[..] else {
            let names: Vec<String> = masters.iter().map(|(m, _)| name(*m)).collect();
            return Err(format!("expected one master, found {names:?}"));
        };
        let id = self.machines[master].id;
        let strays = self.running().filter(|(m, node)| *m != master && node.obeys() != Some(id));
        let strays: Vec<String> = strays.map(|(m, _)| name(m)).collect();
        let follow = strays.is_empty();
        if follow { Ok((master, node)) } else { Err(format!("{strays:?} do not follow {}", name(master))) }
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
        let seeds = |m, node: &Node| node.swarms().any(|s| s.state(self.local(m)) == TransferState::Seeding);
        self.running().filter(|(m, node)| self.machines[*m].asks_at.is_some() && seeds(*m, node)).count()
    }

    /// Numbers of the machines of which a transfer failed and says why.
    pub fn failed(&self) -> Vec<usize> {
        let failed = |m, node: &Node| {
            node.swarms().any(|s| s.state(self.local(m)) == TransferState::Failed && s.error().is_some())
        };
        self.running().filter(|(m, node)| failed(*m, node)).map(|(m, _)| m + 1).collect()
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
            let found = self.roster_is_true().and_then(|()| self.swarms_are_true());
            if found.is_ok() || self.now >= end {
                return found;
            }
            self.run_until(self.now + LOOK_EVERY)?;
        }
    }

    /// Everybody knows who is here, and everybody who is here knows the same images and their holders.
    fn roster_is_true(&self) -> Result<(), String> {
        let (master, ruling) = self.one_master()?;
        let mut here: Vec<NodeId> = self.running().map(|(m, _)| self.machines[m].id).collect();
        here.sort_unstable();
        for (m, node) in self.running() {
            let id = self.machines[m].id;
            let live = node.members().filter(|entry| entry.live || entry.member.id == id).map(|entry| entry.member.id);
            let live: Vec<NodeId> = live.collect();
            if live != here {
                return Err(format!("{} errs about who is here: {:?}", name(m), self.differ(live, here)));
            }
            let images = |node: &Node| -> Vec<_> { node.records().map(|r| (r.info_hash, r.holders.clone())).collect() };
            if images(node) != images(ruling) {
                return Err(format!("{} knows other images or holders than {}", name(m), name(master)));
            }
        }
        Ok(())
    }

    /// The tracker at the master counts who really is in each swarm, and the catalogue names who really has a copy.
    fn swarms_are_true(&self) -> Result<(), String> {
        let (master, ruling) = self.one_master()?;
        for image in &self.images {
            let hash = image.info_hash();
            let states: Vec<TransferState> = self
                .running()
                .flat_map(|(m, node)| node.swarms().map(move |swarm| (m, swarm)))
                .filter(|(_, swarm)| swarm.info_hash() == hash)
                .map(|(m, swarm)| swarm.state(self.local(m)))
                .collect();
            let count = |wanted: &[TransferState]| states.iter().filter(|state| wanted.contains(state)).count() as u32;
            let seeding = count(&[TransferState::Seeding]);
            let fetching = count(&[TransferState::Fetching, TransferState::Waiting]);
            let counted = ruling.scrape(&[hash]).first().map_or((0, 0), |book| (book.complete, book.incomplete));
            if counted != (seeding, fetching) {
                let (complete, downloading) = counted;
                return Err(format!(
                    "the book of {} has {complete} seeds and {downloading} others, true are {seeding} and {fetching}",
                    name(master)
                ));
            }
            let whole = |m: &usize| self.machines[*m].disk.copy(hash).is_some_and(|copy| copy.complete);
            let mut holders: Vec<NodeId> =
                self.running().filter(|(m, _)| whole(m)).map(|(m, _)| self.machines[m].id).collect();
            holders.sort_unstable();
            let named = ruling.records().find(|record| record.info_hash == hash).map_or(&[][..], |r| &r.holders);
            let on = |id: &NodeId| self.by_id(*id).is_some_and(|m| self.machines[m].power == Power::On);
            let named: Vec<NodeId> = named.iter().copied().filter(on).collect();
            if named != holders {
                let (wrong, what) = (self.differ(named, holders), image.name());
                return Err(format!("the catalogue of {} errs about who holds {what}: {wrong:?}", name(master)));
            }
        }
        Ok(())
    }

    /// The names of those in one list only.
    fn differ(&self, some: Vec<NodeId>, others: Vec<NodeId>) -> Vec<String> {
        let (some, others) = (BTreeSet::from_iter(some), BTreeSet::from_iter(others));
        let named = |id: &NodeId| self.by_id(*id).map_or_else(|| id.short(), name);
        some.symmetric_difference(&others).map(named).collect()
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
        let name = name(gone);
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
