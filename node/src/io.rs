//! What moves bytes. The parts below do not know each other; `driver.rs` joins them.
//!
//! Rule: every part reports through one bounded channel of [`Event`]s and is told what to do by calls that stand for
//! one [`labmesh_proto::io::Output`] each. Not here: any decision.

use labmesh_proto::id::ConnId;
use labmesh_proto::io::Input;
use labmesh_proto::wire::peer::Range;
use tokio::sync::mpsc;

// First what a byte passes through, then the control plane, then what people and other programs reach.
pub mod buffers;
pub mod disk;
pub mod hash;
mod page_cache;
pub mod peers;
pub mod source;

pub mod control;
pub mod heartbeat;
pub mod identity;
pub mod interfaces;
pub mod mdns;
pub mod multicast;

pub mod announcer;
pub mod cache;
pub mod http;
pub mod lsd;
pub mod ownership;
pub mod socket;
pub mod tracker;
pub mod web_seeds;

#[cfg(test)]
pub(crate) mod testing;

use buffers::Buffer;
use source::Source;

/// A thread that goes before those that hash and copy. It needs little.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Precedence {
    /// The driver: a heartbeat that waits for a core is an election.
    First,
    /// The tracker: a room that starts waits for its announces, but a flood of them must not keep the driver waiting.
    Second,
}

impl Precedence {
    /// Gives it to the calling thread. Only root may ask.
    pub(crate) fn take(self) {
        let nice = match self {
            Self::First => -10,
            Self::Second => -5,
        };
        // On Linux this is the calling thread alone.
        if let Err(error) = rustix::process::setpriority_process(None, nice) {
            tracing::debug!(%error, "a thread has no precedence");
        }
    }
}

/// What the parts tell the driver.
#[derive(Debug)]
pub enum Event {
    /// Something that `proto` knows of.
    Input(Input),
    /// The same, about one opening of an image: dropped if `source` [is closed](Source::is_closed) by now.
    OfImage {
        /// Which opening.
        source: Source,
        /// What happened.
        input: Input,
    },
    /// [`Input::Block`] with its payload: the driver keeps it only if `proto` says `Store`.
    Block {
        /// The connection.
        conn: ConnId,
        /// Which block, as the peer named it.
        range: Range,
        /// The payload, `range.len` bytes.
        data: Buffer,
    },
    /// Some of the others, one after the other: the driver is woken once.
    Together(Vec<Self>),
}

impl Event {
    /// One event for several, of which there is one at least.
    fn together(mut events: Vec<Self>) -> Self {
        match events.pop() {
            Some(only) if events.is_empty() => only,
            last => {
                events.extend(last);
                Self::Together(events)
            }
        }
    }
}

/// Where the parts report. Bounded: a part that outruns the driver waits.
pub type Events = mpsc::Sender<Event>;
