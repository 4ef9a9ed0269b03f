//! One machine: a node while it runs, and what is its own when it does not.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr};

use labmesh_proto::id::{ConnId, ImageIndex, InfoHash, NodeId, Time};
use labmesh_proto::io::Input;
use labmesh_proto::node::Node;

use crate::disk::Disk;
use crate::network::End;

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
    /// Peer connections by the slot it knows them by.
    pub(super) slots: Vec<Option<End>>,
    /// What came while it stood still.
    pub(super) mailbox: VecDeque<Input>,
    /// When its person says `get`.
    pub(super) asks_at: Option<Time>,
    pub(super) complete_at: Option<Time>,
}

impl Machine {
    pub(super) fn new(id: NodeId, index: usize, disk: Disk) -> Self {
        let [.., high, middle, low] = (index as u32 + 1).to_be_bytes();
        Self {
            id,
            addr: IpAddr::V4(Ipv4Addr::new(10, high, middle, low)),
            node: None,
            power: Power::Off,
            life: 0,
            starts_at: Time(0),
            armed: Time::NEVER,
            timed_out_at: Time::NEVER,
            timeouts_now: 0,
            disk,
            deaf: false,
            browsing: false,
            advertised: false,
            images: BTreeMap::new(),
            slots: Vec::new(),
            mailbox: VecDeque::new(),
            asks_at: None,
            complete_at: None,
        }
    }

    /// Keeps on disk what an answer of the disk says has been written.
    pub(super) fn remember(&mut self, input: &Input) {
        match input {
            Input::Persisted { epoch } => self.disk.epoch = self.disk.epoch.max(*epoch),
            Input::Verified { image, piece, result: Ok(true) } => {
                if let Some(hash) = self.images.get(image) {
                    self.disk.book(*hash, *piece);
                }
            }
            Input::Finished { image, result: Ok(()) } => {
                if let Some(copy) = self.images.get(image).and_then(|hash| self.disk.copy_mut(*hash)) {
                    copy.complete = true;
                }
            }
            _ => {}
        }
    }

    pub(super) fn open(&mut self, image: ImageIndex, hash: InfoHash) {
        self.images.insert(image, hash);
    }

    pub(super) fn close(&mut self, image: ImageIndex) {
        self.images.remove(&image);
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
        self.slots.clear();
        self.mailbox.clear();
    }
}
