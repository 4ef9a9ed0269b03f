//! Three kinds of trouble: a peer's fault closes its connection, the world's fault is an input like any other, and
//! our own fault is an `assert!`, never on data from outside.
//!
//! Reading [`PeerMisbehaved`] is reading what the swarm defends against.

use crate::bitfield::BadBitfield;
use crate::id::PieceIndex;

/// What a peer did that no correct client does. Closes its connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum PeerMisbehaved {
    /// Another image than the one we dialled it for, or one that we do not have.
    #[error("speaks of an image that is not offered here")]
    UnknownInfoHash,
    /// Our own peer id came back.
    #[error("is this node itself")]
    Oneself,
    /// The bitfield does not fit the image.
    #[error("sent {0}")]
    BadBitfield(#[from] BadBitfield),
    /// A piece number beyond the last piece.
    #[error("named piece {got} of {pieces}")]
    NoSuchPiece {
        /// The number it named.
        got: u32,
        /// How many pieces there are.
        pieces: u32,
    },
    /// A range that does not lie inside one piece.
    #[error("named {len} bytes at {offset} of piece {piece}, which is not inside that piece")]
    NoSuchBlock {
        /// The piece it named.
        piece: u32,
        /// The offset it named.
        offset: u32,
        /// The length it named.
        len: u32,
    },
    /// A longer block than we said we serve.
    #[error("asked for {0} bytes at once")]
    RequestTooLong(u32),
    /// More requests than we said we keep.
    #[error("has more than {0} requests waiting")]
    TooManyRequests(usize),
    /// A message of the fast extension without having announced it (BEP 6).
    #[error("used the fast extension without announcing it")]
    FastNotNegotiated,
    /// Blocks that nobody asked for, more often than a lost race explains.
    #[error("sent blocks that nobody asked for")]
    Unrequested,
    /// A piece from this peer alone failed its hash, or it took part in too many that did.
    #[error("sent bad data in piece {}", .0.get())]
    BadData(PieceIndex),
    /// Its extension handshake is not what BEP 10 says.
    #[error("sent a malformed extension handshake")]
    BadExtension,
}

/// Why we close a peer connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum CloseReason {
    /// The peer's fault.
    #[error("the peer {0}")]
    Misbehaved(#[from] PeerMisbehaved),
    /// Both have everything, so there is nothing left to say.
    #[error("neither side needs the other")]
    NothingToDo,
    /// Another connection to the same peer is kept.
    #[error("connected twice")]
    Duplicate,
    /// The tables are full; the newest is refused.
    #[error("too many connections")]
    TooMany,
    /// The peer was refused for this image before.
    #[error("refused for bad data earlier")]
    Refused,
    /// The image is no longer offered here: idle, stopped or removed.
    #[error("the image is not offered any more")]
    Withdrawn,
    /// The tracker gave other neighbours.
    #[error("no longer a neighbour")]
    NotNeighbour,
}

/// What went wrong with a file. The world's fault: that transfer stops with the reason, the node goes on.
#[derive(Clone, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum DiskError {
    /// The disk has no room for the image.
    #[error("not enough space: {missing} more bytes are needed in {place}")]
    NoSpace {
        /// Bytes that are missing.
        missing: u64,
        /// The folder.
        place: String,
    },
    /// Nothing may be written there.
    #[error("cannot write in {place}: {reason}")]
    ReadOnly {
        /// The folder or file.
        place: String,
        /// What the system said.
        reason: String,
    },
    /// Anything else that the system said.
    #[error("{place}: {reason}")]
    Io {
        /// The file.
        place: String,
        /// What the system said.
        reason: String,
    },
    /// The file is not what it was.
    #[error("{place} changed while it was shared")]
    Changed {
        /// The file.
        place: String,
    },
}
