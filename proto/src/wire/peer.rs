//! The peer wire protocol: handshake and messages of BEP 3, 6 (fast extension) and 10 (extension handshake).
//!
//! Rule: payload never passes through here. The decoder gives a `piece` message's header; the driver receives the
//! payload straight into its buffer. Not here: what a message means (`swarm`).

use crate::id::{InfoHash, PeerId};

/// The 68 bytes that open a connection (BEP 3, "peer protocol").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handshake {
    /// The image.
    pub info_hash: InfoHash,
    /// The client's name for itself.
    pub peer_id: PeerId,
    /// BEP 6: have all, have none, suggest, reject, allowed fast.
    pub fast: bool,
    /// BEP 10: extended messages.
    pub extended: bool,
}

/// The extension handshake (BEP 10), only the keys that we use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extended {
    /// `v`: the client's name and version.
    pub client: Option<String>,
    /// `reqq`: how many requests it keeps waiting.
    pub reqq: Option<u32>,
    /// `p`: the port that it listens on.
    pub port: Option<u16>,
    /// `labmesh_block`: the longest request it answers, in bytes; only our own nodes say it.
    pub block: Option<u32>,
    /// `upload_only` (BEP 21): it is complete and wants nothing.
    pub upload_only: bool,
}

/// Everything that peers say after the handshake, without payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Length 0.
    KeepAlive,
    /// Id 0: requests are not answered for now.
    Choke,
    /// Id 1: requests are answered.
    Unchoke,
    /// Id 2: you have something that I miss.
    Interested,
    /// Id 3: you have nothing that I miss.
    NotInterested,
    /// Id 4: I have this piece now.
    Have(u32),
    /// Id 5: the pieces I have, in the bit order of BEP 3; unchecked.
    Bitfield(Vec<u8>),
    /// Id 6: send me this block.
    Request(Range),
    /// Id 8: never mind that block.
    Cancel(Range),
    /// Id 9: the DHT port (BEP 5); ignored.
    Port(u16),
    /// Id 13 (BEP 6): this piece would be cheap to send.
    Suggest(u32),
    /// Id 14 (BEP 6): I have every piece.
    HaveAll,
    /// Id 15 (BEP 6): I have no piece.
    HaveNone,
    /// Id 16 (BEP 6): that request will not be answered.
    Reject(Range),
    /// Id 17 (BEP 6): this piece may be asked for while choked.
    AllowedFast(u32),
    /// Id 20, extended id 0 (BEP 10).
    Extended(Extended),
    /// An id or extended id that we do not know; skipped, as BEP 10 asks.
    Unknown(u8),
}

/// A block as a peer names it, unchecked: [`crate::id::Geometry::block`] makes a [`crate::id::Block`] of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// Piece number.
    pub piece: u32,
    /// Offset in the piece, bytes.
    pub offset: u32,
    /// Length, bytes.
    pub len: u32,
}
