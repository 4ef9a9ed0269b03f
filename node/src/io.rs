//! What moves bytes. The parts below do not know each other; `driver.rs` joins them.
//!
//! Rule: every part reports through one bounded channel of [`Event`]s and is told what to do by calls that stand for
//! one [`labmesh_proto::io::Output`] each. Not here: any decision.

use bytes::BytesMut;
use labmesh_proto::id::ConnId;
use labmesh_proto::io::Input;
use labmesh_proto::wire::peer::Range;
use tokio::sync::mpsc;

pub mod tracker;

/// What the parts tell the driver.
#[derive(Debug)]
pub enum Event {
    /// Something that `proto` knows of.
    Input(Input),
    /// [`Input::Block`] with its payload: the driver keeps it only if `proto` says `Store`.
    Block {
        /// The connection.
        conn: ConnId,
        /// Which block, as the peer named it.
        range: Range,
        /// The payload, `range.len` bytes.
        data: BytesMut,
    },
}

/// Where the parts report. Bounded: a part that outruns the driver waits.
pub type Events = mpsc::Sender<Event>;
