//! A set of pieces, in the bit order of BEP 3: piece 0 is the highest bit of the first byte.
//!
//! Rule: spare bits at the end are 0, and the count is always that of the bits. Not here: who has which piece.

use crate::id::{Geometry, PieceIndex};

/// Which pieces of one image somebody has.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Bitfield {
    bytes: Vec<u8>,
    pieces: u32,
    count: u32,
}

/// Why bytes are not a bitfield of the image (BEP 3: wrong length or spare bits set, drop the connection).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum BadBitfield {
    /// The wrong number of bytes.
    #[error("a bitfield of {got} bytes for an image that needs {expected}")]
    Length {
        /// Bytes that the image needs.
        expected: usize,
        /// Bytes that came.
        got: usize,
    },
    /// A bit beyond the last piece is set.
    #[error("a bitfield with spare bits set")]
    SpareBits,
}

impl Bitfield {
    /// No piece of an image with `pieces` pieces.
    pub fn empty(pieces: u32) -> Self {
        Self { bytes: vec![0; pieces.div_ceil(8) as usize], pieces, count: 0 }
    }

    /// Every piece of an image with `pieces` pieces.
    pub fn full(pieces: u32) -> Self {
        let mut all = Self { bytes: vec![0xff; pieces.div_ceil(8) as usize], pieces, count: pieces };
        if !pieces.is_multiple_of(8)
            && let Some(last) = all.bytes.last_mut()
        {
            *last = 0xff << (8 - pieces % 8);
        }
        all
    }

    /// Checks bytes as they come in a bitfield message or a journal.
    ///
    /// # Errors
    /// If the length is not that of the image or a spare bit is set.
    pub fn from_bytes(bytes: &[u8], pieces: u32) -> Result<Self, BadBitfield> {
        let expected = pieces.div_ceil(8) as usize;
        if bytes.len() != expected {
            return Err(BadBitfield::Length { expected, got: bytes.len() });
        }
        let spare = (8 - pieces % 8) % 8;
        if bytes.last().is_some_and(|last| last.trailing_zeros() < spare && *last != 0) {
            return Err(BadBitfield::SpareBits);
        }
        Ok(Self { bytes: bytes.to_vec(), pieces, count: bytes.iter().map(|b| b.count_ones()).sum() })
    }

    /// The bytes as BEP 3 sends them.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// How many pieces the image has.
    pub fn pieces(&self) -> u32 {
        self.pieces
    }

    /// How many pieces are in the set.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Whether every piece is in the set.
    pub fn is_full(&self) -> bool {
        self.count == self.pieces
    }

    /// Whether `piece` is in the set.
    pub fn has(&self, piece: PieceIndex) -> bool {
        self.bytes[piece.index() / 8] & (0x80 >> (piece.index() % 8)) != 0
    }

    /// Puts a piece in; whether it is new.
    pub fn set(&mut self, piece: PieceIndex) -> bool {
        let new = !self.has(piece);
        self.bytes[piece.index() / 8] |= 0x80 >> (piece.index() % 8);
        self.count += u32::from(new);
        new
    }

    /// Takes a piece out; whether it was there.
    pub fn clear(&mut self, piece: PieceIndex) -> bool {
        let was = self.has(piece);
        self.bytes[piece.index() / 8] &= !(0x80 >> (piece.index() % 8));
        self.count -= u32::from(was);
        was
    }

    /// The pieces in the set, in order.
    pub fn iter(&self, geometry: Geometry) -> impl Iterator<Item = PieceIndex> + '_ {
        geometry.all().filter(|p| self.has(*p))
    }

    /// The index of the first piece in the set that is not before `from`.
    pub fn first_from(&self, from: u32) -> Option<u32> {
        if self.count == 0 {
            return None;
        }
        let (words, rest) = self.bytes.get(from as usize / 64 * 8..)?.as_chunks();
        let rest = (!rest.is_empty()).then(|| padded(rest));
        let mut mask = u64::MAX >> (from % 64);
        words.iter().copied().chain(rest).zip(from / 64..).find_map(|(word, at)| {
            let word = u64::from_be_bytes(word) & std::mem::replace(&mut mask, u64::MAX);
            (word != 0).then(|| at * 64 + word.leading_zeros())
        })
    }

    /// The indexes of the pieces in both sets, in order; quick where they have few in common.
    pub fn common<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = u32> + 'a {
        let ((mine, my_rest), (theirs, their_rest)) = (self.bytes.as_chunks(), other.bytes.as_chunks());
        let mut pairs = mine.iter().zip(theirs);
        let mut rest = (!my_rest.is_empty()).then(|| (padded(my_rest), padded(their_rest)));
        let (mut end, mut both) = (0, 0);
        std::iter::from_fn(move || {
            while both == 0 {
                let (a, b) = pairs.next().map(|(a, b)| (*a, *b)).or_else(|| rest.take())?;
                both = u64::from_be_bytes(a) & u64::from_be_bytes(b);
                end += 64;
            }
            let bit = both.leading_zeros();
            both &= !(1 << 63 >> bit);
            Some(end - 64 + bit)
        })
    }

    /// Whether `other` has a piece that this set lacks.
    pub fn lacks_some_of(&self, other: &Self) -> bool {
        self.bytes.iter().zip(&other.bytes).any(|(mine, theirs)| theirs & !mine != 0)
    }
}

/// Fewer than eight bytes, and zeros.
fn padded(rest: &[u8]) -> [u8; 8] {
    let mut word = [0; 8];
    word[..rest.len()].copy_from_slice(rest);
    word
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_come_and_go_and_are_counted() {
        let g = Geometry::new(11, 1).unwrap();
        let mut set = Bitfield::empty(11);
        let p = |n| g.piece(n).unwrap();
        assert!(set.set(p(0)) && set.set(p(10)) && !set.set(p(10)));
        assert_eq!((set.count(), set.as_bytes()), (2, &[0x80, 0x20][..]));
        assert_eq!(set.iter(g).map(PieceIndex::get).collect::<Vec<_>>(), [0, 10]);
        assert!(set.lacks_some_of(&Bitfield::full(11)) && !Bitfield::full(11).lacks_some_of(&set));
        assert!(set.clear(p(0)) && !set.clear(p(0)));
        assert_eq!(set.count(), 1);
    }

    #[test]
    fn what_is_common_is_in_both() {
        for pieces in [1, 11, 64, 65, 200] {
            let g = Geometry::new(u64::from(pieces), 1).unwrap();
            let every = |n: u32| {
                let mut set = Bitfield::empty(pieces);
                g.all().filter(|p| p.get().is_multiple_of(n)).for_each(|p| _ = set.set(p));
                set
            };
            let common: Vec<u32> = every(2).common(&every(5)).collect();
            assert_eq!(common, (0..pieces).step_by(10).collect::<Vec<_>>(), "{pieces}");
            assert_eq!(Bitfield::full(pieces).common(&Bitfield::full(pieces)).count(), pieces as usize);
            assert_eq!(every(1).common(&Bitfield::empty(pieces)).count(), 0);
        }
    }

    #[test]
    fn the_first_from_anywhere() {
        for pieces in [1, 11, 64, 200] {
            let g = Geometry::new(u64::from(pieces), 1).unwrap();
            let mut set = Bitfield::empty(pieces);
            g.all().filter(|p| p.get() % 17 == 3).for_each(|p| _ = set.set(p));
            for from in 0..pieces + 20 {
                assert_eq!(set.first_from(from), (from..pieces).find(|n| n % 17 == 3), "{pieces}, {from}");
            }
        }
    }

    #[test]
    fn bytes_of_a_wrong_length_or_with_spare_bits_are_refused() {
        assert_eq!(Bitfield::from_bytes(&[0xff, 0xe0], 11), Ok(Bitfield::full(11)));
        assert_eq!(Bitfield::from_bytes(&[0xff, 0xf0], 11), Err(BadBitfield::SpareBits));
        assert_eq!(Bitfield::from_bytes(&[0xff], 11), Err(BadBitfield::Length { expected: 2, got: 1 }));
        assert_eq!(Bitfield::from_bytes(&[0xff], 8), Ok(Bitfield::full(8)));
        assert_eq!(Bitfield::from_bytes(&[0, 0], 11), Ok(Bitfield::empty(11)));
    }
}
