//! Which piece next: the rarest that is missing, ties broken at random, differently on every node. Who fetches alone
//! has nobody to be different from, and takes them in the order of the file: hard disks like that, here and where it
//! is read.
//!
//! Rule: missing pieces stand in one array, ordered in buckets by how many connected peers have them; a `have` moves
//! a piece by one bucket with one swap. Seeds are counted once and move nothing. Not here: blocks (`pieces`), who is
//! asked, and who is alone (`swarm`).

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::Rng;

use crate::bitfield::Bitfield;
use crate::id::{Geometry, PieceIndex};

const GONE: u32 = u32::MAX;

/// The missing pieces by rarity.
#[derive(Clone, Debug)]
pub struct Picker {
    geometry: Geometry,
    /// The missing pieces, rarest bucket first.
    order: Vec<PieceIndex>,
    /// Where a piece stands in `order`, or `GONE`.
    place: Vec<u32>,
    /// The same pieces as a set.
    waiting: Bitfield,
    /// How many peers that are not seeds have the piece.
    availability: Vec<u16>,
    /// `starts[a]` is where the bucket of availability `a` begins; the last entry is the end of `order`.
    starts: Vec<u32>,
    seeds: u32,
}

impl Picker {
    /// All pieces that `have` lacks, in a random order of their own.
    pub fn new(geometry: Geometry, have: &Bitfield, rng: &mut ChaCha8Rng) -> Self {
        let mut order: Vec<PieceIndex> = geometry.all().filter(|p| !have.has(*p)).collect();
        for i in (1..order.len()).rev() {
            order.swap(i, rng.next_u64() as usize % (i + 1));
        }
        let mut place = vec![GONE; geometry.pieces() as usize];
        let mut waiting = Bitfield::empty(geometry.pieces());
        for (i, piece) in order.iter().enumerate() {
            place[piece.index()] = i as u32;
            waiting.set(*piece);
        }
        let starts = vec![0, order.len() as u32];
        let availability = vec![0; geometry.pieces() as usize];
        Self { geometry, order, place, waiting, availability, starts, seeds: 0 }
    }

    /// A peer with every piece came or went.
    pub fn seed(&mut self, came: bool) {
        self.seeds = if came { self.seeds + 1 } else { self.seeds - 1 };
    }

    /// A peer that is not a seed has the piece now.
    pub fn more(&mut self, piece: PieceIndex) {
        let a = self.availability[piece.index()];
        self.availability[piece.index()] = a + 1;
        if self.place[piece.index()] != GONE {
            let a = usize::from(a);
            self.grow(a + 1);
            // The piece becomes the first of the next bucket, which begins one earlier.
            self.starts[a + 1] -= 1;
            self.swap_to(piece, self.starts[a + 1]);
        }
    }

    /// A peer that had the piece, and was no seed, is gone.
    pub fn less(&mut self, piece: PieceIndex) {
        let a = self.availability[piece.index()];
        self.availability[piece.index()] = a - 1;
        if self.place[piece.index()] != GONE {
            let a = usize::from(a);
            // The piece becomes the last of the bucket before, which ends one later.
            self.swap_to(piece, self.starts[a]);
            self.starts[a] += 1;
        }
    }

    /// A peer that was no seed has got its last piece.
    #[cold]
    pub fn promote(&mut self) {
        if self.is_empty() {
            self.availability.iter_mut().for_each(|a| *a -= 1);
        } else {
            self.geometry.all().for_each(|piece| self.less(piece));
        }
        self.seed(true);
    }

    /// The piece is no longer to be picked: it was begun, or is here.
    pub fn remove(&mut self, piece: PieceIndex) {
        if self.place[piece.index()] == GONE {
            return;
        }
        let buckets = self.starts.len() - 1;
        for a in usize::from(self.availability[piece.index()])..buckets {
            self.starts[a + 1] -= 1;
            self.swap_to(piece, self.starts[a + 1]);
        }
        self.order.pop();
        self.place[piece.index()] = GONE;
        self.waiting.clear(piece);
    }

    /// The piece is to be picked again: its hash was wrong, or nobody works on it.
    pub fn insert(&mut self, piece: PieceIndex) {
        if self.place[piece.index()] != GONE {
            return;
        }
        let a = usize::from(self.availability[piece.index()]);
        self.grow(a);
        self.place[piece.index()] = self.order.len() as u32;
        self.order.push(piece);
        self.waiting.set(piece);
        for bucket in (a + 1..self.starts.len()).rev() {
            self.swap_to(piece, self.starts[bucket]);
            self.starts[bucket] += 1;
        }
    }

    /// The rarest missing piece that `them` has, the set of a connected peer.
    pub fn rarest(&self, them: &Bitfield) -> Option<PieceIndex> {
        // Nobody but seeds has what is in the first bucket.
        let from = if them.is_full() { 0 } else { self.starts[1] as usize };
        let in_order = self.order[from..].iter().copied();
        // As many are looked at one by one as it takes words to compare the sets, which is better for who has few.
        let rarest = in_order.take(self.place.len().div_ceil(64)).find(|piece| them.has(*piece));
        rarest.or_else(|| {
            let first = self.common(them).map(|piece| self.place[piece.index()]).fold(GONE, u32::min);
            self.order.get(first as usize).copied()
        })
    }

    /// The first missing piece of the file that `them` has.
    pub fn first(&self, them: &Bitfield) -> Option<PieceIndex> {
        self.common(them).next()
    }

    fn common<'a>(&'a self, them: &'a Bitfield) -> impl Iterator<Item = PieceIndex> + 'a {
        self.waiting.common(them).filter_map(|p| self.geometry.piece(p))
    }

    /// Whether the piece waits to be picked.
    pub fn contains(&self, piece: PieceIndex) -> bool {
        self.place[piece.index()] != GONE
    }

    /// Pieces that wait to be picked.
    pub fn len(&self) -> u32 {
        self.order.len() as u32
    }

    /// Whether no piece waits to be picked.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Waiting pieces that no connected peer has.
    pub fn unavailable(&self) -> u32 {
        if self.seeds > 0 { 0 } else { self.starts[1] }
    }

    /// How many connected peers have the piece.
    pub fn availability(&self, piece: PieceIndex) -> u32 {
        self.seeds + u32::from(self.availability[piece.index()])
    }

    /// Whether a connected peer that is no seed has the piece.
    pub fn is_spread(&self, piece: PieceIndex) -> bool {
        self.availability[piece.index()] > 0
    }

    /// Makes sure that there is a bucket for availability `a`.
    fn grow(&mut self, a: usize) {
        while self.starts.len() < a + 2 {
            self.starts.push(self.order.len() as u32);
        }
    }

    fn swap_to(&mut self, piece: PieceIndex, to: u32) {
        let from = self.place[piece.index()];
        let other = self.order[to as usize];
        self.order.swap(from as usize, to as usize);
        self.place[other.index()] = from;
        self.place[piece.index()] = to;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand_chacha::rand_core::SeedableRng;

    use super::*;

    fn picker(pieces: u32) -> (Geometry, Picker) {
        let g = Geometry::new(u64::from(pieces), 1).unwrap();
        (g, Picker::new(g, &Bitfield::empty(pieces), &mut ChaCha8Rng::seed_from_u64(7)))
    }

    #[test]
    fn the_rarest_piece_that_the_peer_has_comes_first() {
        let (g, mut picker) = picker(4);
        let p = |n| g.piece(n).unwrap();
        for (piece, count) in [(0, 3), (1, 1), (2, 2)] {
            (0..count).for_each(|_| picker.more(p(piece)));
        }
        let mut them = Bitfield::full(4);
        assert_eq!(picker.rarest(&them), Some(p(3)), "nobody else has it");
        assert_eq!(picker.unavailable(), 1);
        assert_eq!(picker.first(&them), Some(p(0)), "however many have it");
        them.clear(p(3));
        assert_eq!(picker.rarest(&them), Some(p(1)));
        them.clear(p(1));
        assert_eq!(picker.rarest(&them), Some(p(2)));
        picker.seed(true);
        assert_eq!((picker.unavailable(), picker.availability(p(2))), (0, 3));
    }

    #[test]
    fn who_got_the_last_piece_counts_as_a_seed_whether_or_not_pieces_wait() {
        for waiting in [0, 2] {
            let (g, mut picker) = picker(4);
            g.all().skip(waiting).for_each(|p| picker.remove(p));
            g.all().for_each(|p| picker.more(p));
            picker.promote();
            assert_eq!(picker.unavailable(), 0);
            assert!(g.all().all(|p| picker.availability(p) == 1 && !picker.is_spread(p)));
            picker.seed(false);
            assert_eq!(picker.unavailable() as usize, waiting);
        }
    }

    #[test]
    fn two_nodes_order_equals_differently() {
        let g = Geometry::new(64, 1).unwrap();
        let order = |seed| Picker::new(g, &Bitfield::empty(64), &mut ChaCha8Rng::seed_from_u64(seed)).order;
        assert_ne!(order(1), order(2));
        assert_eq!(order(1), order(1));
    }

    proptest! {
        #[test]
        fn the_order_always_agrees_with_the_availability(steps in prop::collection::vec((0..4u8, 0..12u32), 0..200)) {
            let (g, mut picker) = picker(12);
            let mut model = [0u16; 12];
            let mut missing = [true; 12];
            for (step, n) in steps {
                let piece = g.piece(n).unwrap();
                let i = n as usize;
                match step {
                    0 => { picker.more(piece); model[i] += 1; }
                    1 if model[i] > 0 => { picker.less(piece); model[i] -= 1; }
                    2 => { picker.remove(piece); missing[i] = false; }
                    3 => { picker.insert(piece); missing[i] = true; }
                    _ => {}
                }
                let listed: Vec<u16> = picker.order.iter().map(|p| model[p.index()]).collect();
                prop_assert!(listed.is_sorted(), "{listed:?}");
                prop_assert_eq!(picker.len() as usize, missing.iter().filter(|m| **m).count());
                let nobody = (0..12).filter(|i| missing[*i] && model[*i] == 0).count();
                prop_assert_eq!(picker.unavailable() as usize, nobody);
                let mut them = Bitfield::empty(12);
                g.all().filter(|p| model[p.index()] > 0 && p.index() % 3 > 0).for_each(|p| _ = them.set(p));
                for them in [them, Bitfield::full(12)] {
                    prop_assert_eq!(picker.rarest(&them), picker.order.iter().copied().find(|p| them.has(*p)));
                }
                for (i, wanted) in missing.iter().enumerate() {
                    prop_assert_eq!(picker.contains(g.piece(i as u32).unwrap()), *wanted);
                }
            }
        }
    }
}
