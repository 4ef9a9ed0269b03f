//! One machine: a node while it runs, and what is its own when it does not.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use labmesh_proto::config::{Mode, SeedTime, Weight};
use labmesh_proto::id::{ConnId, ImageIndex, InfoHash, NodeId, Time};
use labmesh_proto::io::Input;
use labmesh_proto::node::Node;

use crate::disk::Disk;
use crate::network::End;
use crate::scenario::{Other, Scenario};

/// The source's, so that it becomes master; the most that an open mesh allows.
const SOURCE_WEIGHT: u8 = 99;

/// Every machine's address is in 10.0.0.0/8: its number is the rest.
const NET: u8 = 10;

/// Whether its program runs, and what others notice of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Power {
    /// It runs.
    On,
    /// The program is gone, the kernel is there: ports refuse.
    Killed,
    /// Nothing is there.
    Off,
    /// The program stands still; the kernel takes what comes.
    Suspended,
}

impl Power {
    /// For people.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::On => "on",
            Self::Killed => "killed",
            Self::Off => "power cut",
            Self::Suspended => "suspended",
        }
    }
}

/// A machine of the room.
pub(super) struct Machine {
    pub(super) id: NodeId,
    pub(super) addr: IpAddr,
    pub(super) node: Option<Node>,
    pub(super) power: Power,
    /// Counts the starts of its program; what was meant for an earlier one is dropped.
    pub(super) life: u32,
    /// It is not there before.
    pub(super) starts_at: Time,
    /// The earliest timer in the queue.
    pub(super) armed: Time,
    pub(super) timed_out_at: Time,
    pub(super) timeouts_now: u32,
    pub(super) disk: Disk,
    pub(super) deaf: bool,
    pub(super) browsing: bool,
    pub(super) advertised: bool,
    images: BTreeMap<ImageIndex, InfoHash>,
    /// How often images were opened and closed, by index.
    openings: BTreeMap<ImageIndex, u32>,
    /// What each slot was accepted for last, and whose it is; kept after its end, for what still waits to be handed over.
    pub(super) accepted: Vec<Option<(ImageIndex, usize)>>,
    /// Peer connections by the slot it knows them by.
    pub(super) slots: Vec<Option<End>>,
    /// What came while it stood still.
    pub(super) mailbox: VecDeque<Input>,
    /// Its own clock is that much ahead of the world's.
    pub(super) ahead: Duration,
    /// Nothing that it sends arrives.
    pub(super) mute: bool,
    /// Bytes a second that its cable sends and receives, when nothing is wrong.
    pub(super) up: u64,
    pub(super) down: u64,
    /// Which switch.
    pub(super) site: usize,
    pub(super) weight: Weight,
    pub(super) mode: Mode,
    pub(super) seed_time: Option<SeedTime>,
    /// Of a thousand blocks that it sends so many are bad.
    pub(super) poison_permille: u16,
    /// The block that is being delivered is bad.
    pub(super) bad_block: bool,
    /// Pieces in memory with a bad block.
    pub(super) tainted: BTreeSet<(ImageIndex, u32)>,
    /// Numbers of the images that its person wants.
    pub(super) wants: Vec<usize>,
    /// Images whose transfer has failed.
    pub(super) failed: BTreeSet<InfoHash>,
    /// When each copy was whole.
    pub(super) got: BTreeMap<InfoHash, Time>,
    /// When it had a new piece, or another life, last.
    pub(super) moved: Time,
    /// When its person says `get`.
    pub(super) asks_at: Option<Time>,
}

/// The scenario's machines that differ, the last word first.
fn others(scenario: &Scenario, index: usize) -> impl DoubleEndedIterator<Item = &Other> {
    scenario.other.iter().rev().filter(move |other| other.pcs.contains(&(index + 1)))
}

/// Which machine has that address, however many there are.
pub fn machine_at(ip: Ipv4Addr) -> Option<usize> {
    let [net, high, middle, low] = ip.octets();
    let index = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
    if net == NET { index.checked_sub(1) } else { None }
}

impl Machine {
    /// The machine of that index as the scenario describes it, switched off.
    pub(super) fn new(id: NodeId, index: usize, scenario: &Scenario) -> Self {
        let [.., high, middle, low] = (index as u32 + 1).to_be_bytes();
        let (lab, machines) = (&scenario.lab, scenario.machines());
        let others = || others(scenario, index);
        let speed = others().find_map(|o| o.disk).unwrap_or(lab.disk).0;
        let seek = others().find_map(|o| o.seek).unwrap_or(lab.seek).0;
        let space = others().find_map(|o| o.space).map(|space| space.0);
        let usual = if index == 0 { SOURCE_WEIGHT } else { Weight::DEFAULT.get() };
        let usual = Weight::try_from(usual).expect("our own weights are below 100");
        let seed_time = others().find_map(|o| o.seed_time).or(lab.seed_time);
        Self {
            id,
            addr: IpAddr::V4(Ipv4Addr::new(NET, high, middle, low)),
            node: None,
            power: Power::Off,
            life: 0,
            starts_at: Time(0),
            armed: Time::NEVER,
            timed_out_at: Time::NEVER,
            timeouts_now: 0,
            disk: Disk::new(speed, seek, space),
            ahead: Duration::ZERO,
            mute: false,
            up: others().find_map(|o| o.up).unwrap_or(lab.link).0,
            down: others().find_map(|o| o.down).unwrap_or(lab.link).0,
            site: index * lab.sites / machines,
            weight: others().find_map(|o| o.weight).unwrap_or(usual),
            mode: others().find_map(|o| o.mode).unwrap_or(lab.mode),
            seed_time: seed_time.map(|text| text.0),
            poison_permille: others().map(|o| o.poison_permille).find(|p| *p > 0).unwrap_or(0),
            bad_block: false,
            tainted: BTreeSet::new(),
            wants: Vec::new(),
            failed: BTreeSet::new(),
            got: BTreeMap::new(),
            moved: Time(0),
            deaf: false,
            browsing: false,
            advertised: false,
            images: BTreeMap::new(),
            openings: BTreeMap::new(),
            accepted: Vec::new(),
            slots: Vec::new(),
            mailbox: VecDeque::new(),
            asks_at: None,
        }
    }

    /// Keeps on disk what an answer of the disk says has been written; which copy is whole now, if one is.
    pub(super) fn remember(&mut self, now: Time, input: &Input) -> Option<InfoHash> {
        match input {
            Input::Persisted { epoch } => self.disk.epoch = self.disk.epoch.max(*epoch),
            Input::Verified { image, piece, result: Ok(true) } => {
                self.moved = now;
                if let Some(hash) = self.images.get(image) {
                    self.disk.book(now, *hash, *piece);
                }
            }
            Input::Finished { image, result: Ok(()) } => {
                let hash = *self.images.get(image)?;
                let copy = self.disk.copy_mut(hash)?;
                // Synced and renamed: everything that was written is vouched for.
                Disk::pieces(copy);
                copy.complete = true;
                return Some(hash);
            }
            _ => {}
        }
        None
    }

    /// Which content that image is.
    pub(super) fn content(&self, image: ImageIndex) -> Option<InfoHash> {
        self.images.get(&image).copied()
    }

    /// Whether that content is one of its images in this life.
    pub(super) fn is_open(&self, content: InfoHash) -> bool {
        self.images.values().any(|hash| *hash == content)
    }

    /// The moment when everything that its person wants was here.
    pub(super) fn complete_at(&self) -> Option<Time> {
        if self.got.len() < self.wants.len() { None } else { self.got.values().max().copied() }
    }

    pub(super) fn open(&mut self, image: ImageIndex, hash: InfoHash) {
        self.images.insert(image, hash);
        *self.openings.entry(image).or_default() += 1;
    }

    /// What tells reports about an image from those about it before it was closed or opened again.
    pub(super) fn opening(&self, image: ImageIndex) -> u32 {
        self.openings.get(&image).copied().unwrap_or(0)
    }

    /// Its journal knows how the image is wanted now.
    pub(super) fn keep_wishes(&mut self, image: ImageIndex, mode: Mode, seed_time: Option<SeedTime>) {
        if let Some(copy) = self.images.get(&image).and_then(|hash| self.disk.copy_mut(*hash)) {
            (copy.mode, copy.seed_time) = (mode, seed_time);
        }
    }

    pub(super) fn close(&mut self, image: ImageIndex) {
        self.images.remove(&image);
        *self.openings.entry(image).or_default() += 1;
    }

    /// The first free slot is that end's now.
    pub(super) fn take_slot(&mut self, end: End) -> ConnId {
        let free = self.slots.iter().position(Option::is_none).unwrap_or(self.slots.len());
        if free == self.slots.len() {
            self.slots.push(None);
        }
        self.slots[free] = Some(end);
        ConnId(free as u32)
    }

    /// Whose slot that is.
    pub(super) fn end_of(&self, conn: ConnId) -> Option<End> {
        self.slots.get(conn.0 as usize).copied().flatten()
    }

    /// Its program has ended: everything but the disk is forgotten.
    pub(super) fn end_life(&mut self, power: Power) {
        self.node = None;
        self.power = power;
        self.armed = Time::NEVER;
        self.browsing = false;
        self.advertised = false;
        self.images.clear();
        self.openings.clear();
        self.tainted.clear();
        self.failed.clear();
        self.accepted.clear();
        self.slots.clear();
        self.mailbox.clear();
    }
}
