//! What things are called: time, nodes, images, connections, pieces and blocks.
//!
//! Rule: an index that came from outside becomes one of these checked types once, and everything behind takes the
//! checked type. Not here: what a person can configure ([`crate::config`]).

use std::fmt;
use std::ops::{Add, Sub};
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A moment: nanoseconds since some start that only the driver knows. The node reads it from `CLOCK_BOOTTIME`, so
/// that a suspended PC notices; the simulator invents it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub u64);

impl Time {
    /// A moment that never comes.
    pub const NEVER: Self = Self(u64::MAX);

    /// How long ago `earlier` was; zero if it lies in the future.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// Seconds since the start, for traces.
    pub fn as_secs_f64(self) -> f64 {
        self.0 as f64 / 1e9
    }
}

impl Add<Duration> for Time {
    type Output = Self;
    fn add(self, d: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl Sub<Duration> for Time {
    type Output = Self;
    fn sub(self, d: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// Why a text is not the id it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected} hexadecimal digits")]
pub struct BadHex {
    /// How many digits the id has.
    pub expected: usize,
}

fn parse_hex<const N: usize>(text: &str) -> Result<[u8; N], BadHex> {
    let bad = BadHex { expected: 2 * N };
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return Err(bad);
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |d: u8| (d as char).to_digit(16).ok_or(bad);
        *byte = (digit(pair[0])? * 16 + digit(pair[1])?) as u8;
    }
    Ok(bytes)
}

fn write_hex(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|b| write!(f, "{b:02x}"))
}

/// A node: the Ed25519 public key behind its libp2p PeerId.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeId(pub [u8; 32]);

impl NodeId {
    /// The first 16 hex digits: the DNS-SD instance name, and what traces and tables show.
    pub fn short(&self) -> String {
        self.to_string()[..16].to_owned()
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0[..4])
    }
}

impl FromStr for NodeId {
    type Err = BadHex;
    fn from_str(text: &str) -> Result<Self, BadHex> {
        parse_hex(text).map(Self)
    }
}

/// An image: the SHA-1 of its torrent's `info` dictionary (BEP 3).
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct InfoHash(pub [u8; 20]);

impl fmt::Display for InfoHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl fmt::Debug for InfoHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0[..4])
    }
}

impl FromStr for InfoHash {
    type Err = BadHex;
    fn from_str(text: &str) -> Result<Self, BadHex> {
        parse_hex(text).map(Self)
    }
}

/// A BitTorrent client's name for itself, 20 bytes that it chose (BEP 3, BEP 20).
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PeerId(pub [u8; 20]);

impl PeerId {
    /// What our own peer ids begin with (BEP 20, "Azureus style").
    pub const PREFIX: &'static [u8; 8] = b"-LM0100-";

    /// The peer id of a labmesh node: our prefix and the first 12 bytes of its NodeId.
    pub fn of_node(node: &NodeId) -> Self {
        let mut bytes = [0; 20];
        bytes[..8].copy_from_slice(Self::PREFIX);
        bytes[8..].copy_from_slice(&node.0[..12]);
        Self(bytes)
    }

    /// Whether this is the peer id that `node` would choose.
    pub fn is_of(&self, node: &NodeId) -> bool {
        *self == Self::of_node(node)
    }

    /// Whether the client says it is labmesh.
    pub fn is_labmesh(&self) -> bool {
        self.0.starts_with(&Self::PREFIX[..3])
    }
}

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..", String::from_utf8_lossy(&self.0[..8]).escape_default())?;
        write_hex(f, &self.0[8..12])
    }
}

/// Orders masters and fences what they relay. Compared as a pair: the term first, then the NodeId.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Epoch {
    /// Raised by one with every claim.
    pub term: u64,
    /// The master.
    pub node: NodeId,
}

/// One image on this node: a dense index that `proto` chooses; the driver keeps what belongs to it in a vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageIndex(pub u32);

/// One peer connection: a dense slot that the driver chooses and may use again once its `PeerDown` is handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(pub u32);

/// Joins a question of the driver to its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// A piece that exists: made by [`Geometry::piece`] only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PieceIndex(u32);

impl PieceIndex {
    /// The number as BEP 3 messages carry it.
    pub fn get(self) -> u32 {
        self.0
    }

    /// The number as an index into a vector.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// A range inside one piece: made by [`Geometry::block`] only, so it never reaches outside its piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Block {
    /// Which piece.
    pub piece: PieceIndex,
    /// Where in the piece it starts, in bytes.
    pub offset: u32,
    /// How many bytes; never 0.
    pub len: u32,
}

/// How an image is cut: total length and piece length, both in bytes and both at least 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Geometry {
    length: u64,
    piece_length: u32,
    pieces: u32,
}

impl Geometry {
    /// `None` if a length is 0 or there would be more than 2^32 - 1 pieces.
    pub fn new(length: u64, piece_length: u32) -> Option<Self> {
        if length == 0 || piece_length == 0 {
            return None;
        }
        let pieces = u32::try_from(length.div_ceil(u64::from(piece_length))).ok()?;
        Some(Self { length, piece_length, pieces })
    }

    /// The image's size in bytes.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// The length of every piece but the last, in bytes.
    pub fn piece_length(&self) -> u32 {
        self.piece_length
    }

    /// How many pieces.
    pub fn pieces(&self) -> u32 {
        self.pieces
    }

    /// The piece of that number, if there is one.
    pub fn piece(&self, index: u32) -> Option<PieceIndex> {
        (index < self.pieces()).then_some(PieceIndex(index))
    }

    /// All pieces in order.
    pub fn all(&self) -> impl Iterator<Item = PieceIndex> + use<> {
        (0..self.pieces()).map(PieceIndex)
    }

    /// The length of one piece in bytes; only the last may be shorter.
    pub fn piece_len(&self, piece: PieceIndex) -> u32 {
        let start = self.start(piece);
        (self.length - start).min(u64::from(self.piece_length)) as u32
    }

    /// Where a piece starts in the image, in bytes.
    pub fn start(&self, piece: PieceIndex) -> u64 {
        u64::from(piece.0) * u64::from(self.piece_length)
    }

    /// The range that a peer named, if it lies inside one piece.
    pub fn block(&self, index: u32, offset: u32, len: u32) -> Option<Block> {
        let piece = self.piece(index)?;
        let end = offset.checked_add(len)?;
        (len > 0 && end <= self.piece_len(piece)).then_some(Block { piece, offset, len })
    }

    /// Cuts a piece into blocks of at most `len` bytes, in order.
    pub fn blocks(&self, piece: PieceIndex, len: u32) -> impl Iterator<Item = Block> + use<> {
        let total = self.piece_len(piece);
        (0..total.div_ceil(len.max(1))).map(move |n| {
            let offset = n * len;
            Block { piece, offset, len: len.min(total - offset) }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_piece_and_block_may_be_short() {
        let g = Geometry::new(100, 32).unwrap();
        assert_eq!(g.pieces(), 4);
        assert_eq!(g.piece_len(g.piece(3).unwrap()), 4);
        let lens: Vec<u32> = g.blocks(g.piece(0).unwrap(), 20).map(|b| b.len).collect();
        assert_eq!(lens, [20, 12]);
    }

    #[test]
    fn ranges_outside_the_image_are_no_blocks() {
        let g = Geometry::new(100, 32).unwrap();
        assert_eq!(g.block(3, 0, 4).map(|b| b.len), Some(4));
        for (index, offset, len) in [(4, 0, 1), (3, 0, 5), (0, 32, 1), (0, 0, 0), (0, u32::MAX, 2), (0, 1, u32::MAX)] {
            assert_eq!(g.block(index, offset, len), None, "{index} {offset} {len}");
        }
    }

    #[test]
    fn empty_images_and_pieces_have_no_geometry() {
        assert_eq!(Geometry::new(0, 1), None);
        assert_eq!(Geometry::new(1, 0), None);
        assert_eq!(Geometry::new(u64::MAX, 1), None);
    }

    #[test]
    fn hex_ids_survive_the_round_trip_and_bad_ones_are_refused() {
        let hash = InfoHash([0xab; 20]);
        assert_eq!(hash.to_string().parse(), Ok(hash));
        for bad in ["", "ab", &"g".repeat(40), &"a".repeat(41), &"é".repeat(20)] {
            assert_eq!(bad.parse::<InfoHash>(), Err(BadHex { expected: 40 }), "{bad}");
        }
    }
}
