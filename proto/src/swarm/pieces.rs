//! The books of one image's pieces.
//!
//! Rule: a piece is in exactly one [`State`]: missing, begun, being verified, or here. A begun piece is counted in
//! cells of 16 KiB; a block covers one or more cells of which each is free, asked, or stored. Not here: which piece is
//! begun next (`picker`), of whom it is asked (`swarm`).

use std::ops::Range;

use crate::bitfield::Bitfield;
use crate::config::BLOCK_BYTES;
use crate::id::{Block, Geometry, PieceIndex};

/// What becomes of a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Not here, not begun.
    Missing,
    /// Some of its blocks are asked or stored.
    Begun,
    /// All blocks are stored; its hash is being made.
    Verifying,
    /// Good and written.
    Here,
}

/// Who sent a block: an index into the swarm's ledger.
pub type Sender = u16;

/// A piece on its way in.
#[derive(Clone, Debug)]
pub struct Partial {
    /// Which piece.
    pub piece: PieceIndex,
    /// The peer that is asked for its blocks in order, if it still is there.
    pub owner: Option<Sender>,
    /// It failed its hash with several senders: now one alone may send it, so that the liar is known.
    pub exclusive: bool,
    /// Who sent stored blocks.
    pub senders: Vec<Sender>,
    cells: u32,
    /// How many of them are free.
    free: u32,
    stored_count: u32,
    /// Cells that are asked or stored.
    taken: Vec<u64>,
    stored: Vec<u64>,
    /// No cell before this one is free.
    first_free: u32,
}

const NONE: u32 = u32::MAX;

/// All pieces of one image.
#[derive(Clone, Debug)]
pub struct Pieces {
    geometry: Geometry,
    here: Bitfield,
    states: Vec<State>,
    /// Index into `partials`, or `NONE`.
    partial_of: Vec<u32>,
    partials: Vec<Partial>,
    /// The free cells of all of them.
    free: u32,
    /// Books that have ended and whose memory the next to begin takes, at most as many as were open at once.
    closed: Vec<Partial>,
    /// Pieces that must come from one sender.
    suspicious: Vec<PieceIndex>,
    in_flight_bytes: u64,
}

impl Pieces {
    /// The pieces of `here` are here, the others missing.
    pub fn new(geometry: Geometry, here: Bitfield) -> Self {
        let states = geometry.all().map(|p| if here.has(p) { State::Here } else { State::Missing }).collect();
        let partial_of = vec![NONE; geometry.pieces() as usize];
        Self {
            geometry,
            here,
            states,
            partial_of,
            partials: Vec::new(),
            free: 0,
            closed: Vec::new(),
            suspicious: Vec::new(),
            in_flight_bytes: 0,
        }
    }

    /// The pieces that are here.
    pub fn here(&self) -> &Bitfield {
        &self.here
    }

    /// What becomes of a piece.
    pub fn state(&self, piece: PieceIndex) -> State {
        self.states[piece.index()]
    }

    /// Bytes of the pieces here.
    pub fn bytes_here(&self) -> u64 {
        let g = self.geometry;
        let whole = u64::from(self.here.count()) * u64::from(g.piece_length());
        let last = g.piece(g.pieces() - 1).filter(|p| self.here.has(*p));
        whole - last.map_or(0, |p| u64::from(g.piece_length() - g.piece_len(p)))
    }

    /// Bytes of begun and verifying pieces: what the driver has buffers for.
    pub fn in_flight_bytes(&self) -> u64 {
        self.in_flight_bytes
    }

    /// The begun pieces, oldest first.
    pub fn partials(&self) -> &[Partial] {
        &self.partials
    }

    /// Those of them of which a block is neither asked nor stored.
    pub fn with_free(&self) -> impl Iterator<Item = &Partial> {
        let looked_at = if self.free == 0 { &[] } else { self.partials() };
        looked_at.iter().filter(|q| q.has_free())
    }

    /// The books of a begun piece.
    pub fn partial(&self, piece: PieceIndex) -> Option<&Partial> {
        self.partials.get(self.partial_of[piece.index()] as usize)
    }

    fn partial_mut(&mut self, piece: PieceIndex) -> Option<&mut Partial> {
        self.partials.get_mut(self.partial_of[piece.index()] as usize)
    }

    /// Begins a missing piece, to be asked of `owner`.
    pub fn begin(&mut self, piece: PieceIndex, owner: Sender) {
        assert_eq!(self.state(piece), State::Missing, "only a missing piece is begun");
        let len = self.geometry.piece_len(piece);
        let cells = len.div_ceil(BLOCK_BYTES);
        let books = self.closed.pop().map(|old| (old.senders, old.taken, old.stored));
        let (mut senders, mut taken, mut stored) = books.unwrap_or_default();
        senders.clear();
        for bits in [&mut taken, &mut stored] {
            bits.clear();
            bits.resize(cells.div_ceil(64) as usize, 0);
        }
        self.states[piece.index()] = State::Begun;
        self.partial_of[piece.index()] = self.partials.len() as u32;
        self.in_flight_bytes += u64::from(len);
        self.free += cells;
        self.partials.push(Partial {
            piece,
            owner: Some(owner),
            exclusive: self.suspicious.contains(&piece),
            senders,
            cells,
            free: cells,
            stored_count: 0,
            taken,
            stored,
            first_free: 0,
        });
    }

    /// Makes `owner` the one that is asked for the rest of a begun piece.
    pub fn adopt(&mut self, piece: PieceIndex, owner: Sender) {
        if let Some(partial) = self.partial_mut(piece) {
            partial.owner = Some(owner);
        }
    }

    /// `owner` works on the piece no more.
    pub fn disown(&mut self, piece: PieceIndex, owner: Sender) {
        if let Some(partial) = self.partial_mut(piece)
            && partial.owner == Some(owner)
        {
            partial.owner = None;
        }
    }

    /// Marks the next free block of a begun piece as asked: in order, at most `len` bytes.
    pub fn ask_next(&mut self, piece: PieceIndex, len: u32) -> Option<Block> {
        let piece_len = self.geometry.piece_len(piece);
        let partial = self.partial_mut(piece)?;
        if !partial.has_free() {
            return None;
        }
        let first = partial.next(partial.first_free, true);
        let end = partial.next(first, false).min(first + (len / BLOCK_BYTES).max(1));
        partial.first_free = end;
        self.free -= partial.take(first..end);
        let offset = first * BLOCK_BYTES;
        Some(Block { piece, offset, len: ((end - first) * BLOCK_BYTES).min(piece_len - offset) })
    }

    /// Whether all cells of the block still wait, so that it may be asked of a second peer (end game).
    pub fn is_waiting(&self, block: &Block) -> bool {
        self.partial(block.piece).is_some_and(|p| words(cells(block)).all(|(n, mask)| p.stored[n] & mask == 0))
    }

    /// The block is asked of nobody any more.
    pub fn release(&mut self, block: &Block) {
        if let Some(partial) = self.partial_mut(block.piece) {
            self.free += partial.release(cells(block));
        }
    }

    /// The block is still asked of somebody.
    pub fn hold(&mut self, block: &Block) {
        if let Some(partial) = self.partial_mut(block.piece) {
            self.free -= partial.take(cells(block));
        }
    }

    /// Books a block that came. `false`: nobody waits for it, or a part of it is here already; drop it.
    pub fn store(&mut self, block: &Block, sender: Sender) -> bool {
        if self.state(block.piece) != State::Begun || !self.is_waiting(block) {
            return false;
        }
        let Some(partial) = self.partial_mut(block.piece) else { return false };
        words(cells(block)).for_each(|(n, mask)| partial.stored[n] |= mask);
        partial.stored_count += cells(block).len() as u32;
        if !partial.senders.contains(&sender) {
            partial.senders.push(sender);
        }
        self.free -= partial.take(cells(block));
        true
    }

    /// If every block of the piece is stored, it is to be verified from now on.
    pub fn complete(&mut self, piece: PieceIndex) -> bool {
        let whole = self.partial(piece).is_some_and(|p| p.stored_count == p.cells);
        let ready = whole && self.state(piece) == State::Begun;
        if ready {
            self.states[piece.index()] = State::Verifying;
        }
        ready
    }

    /// The piece is good and written.
    pub fn good(&mut self, piece: PieceIndex) {
        let books = self.end(piece);
        self.closed.extend(books);
        self.suspicious.retain(|p| *p != piece);
        self.states[piece.index()] = State::Here;
        self.here.set(piece);
    }

    /// The piece is missing again; who sent it.
    pub fn bad(&mut self, piece: PieceIndex) -> Vec<Sender> {
        let senders = self.end(piece).map(|p| p.senders).unwrap_or_default();
        self.states[piece.index()] = State::Missing;
        if senders.len() > 1 && !self.suspicious.contains(&piece) {
            self.suspicious.push(piece);
        }
        senders
    }

    /// A begun piece of which nothing is stored and nothing asked goes back to missing; whether it did.
    pub fn abandon_if_empty(&mut self, piece: PieceIndex) -> bool {
        let empty = self.state(piece) == State::Begun && self.partial(piece).is_some_and(|p| p.free == p.cells);
        if empty {
            self.end(piece);
            self.states[piece.index()] = State::Missing;
        }
        empty
    }

    fn end(&mut self, piece: PieceIndex) -> Option<Partial> {
        let index = self.partial_of[piece.index()];
        if index == NONE {
            return None;
        }
        self.partial_of[piece.index()] = NONE;
        self.in_flight_bytes -= u64::from(self.geometry.piece_len(piece));
        let partial = self.partials.swap_remove(index as usize);
        self.free -= partial.free;
        if let Some(moved) = self.partials.get(index as usize) {
            self.partial_of[moved.piece.index()] = index;
        }
        Some(partial)
    }
}

impl Partial {
    /// Some block is neither asked nor stored.
    pub fn has_free(&self) -> bool {
        self.free > 0
    }

    /// Whether `sender` may send blocks of it.
    pub fn admits(&self, sender: Sender) -> bool {
        !self.exclusive || (self.owner.is_none_or(|o| o == sender) && self.senders.iter().all(|s| *s == sender))
    }

    /// The next cell from there on that is free, or is not; the end if there is none.
    fn next(&self, from: u32, free: bool) -> u32 {
        let found = words(from..self.cells).find_map(|(n, mask)| {
            let wanted = mask & if free { !self.taken[n] } else { self.taken[n] };
            (wanted != 0).then(|| n as u32 * 64 + wanted.trailing_zeros())
        });
        found.unwrap_or(self.cells)
    }

    /// The cells are asked or stored from now on; how many of them were free.
    fn take(&mut self, cells: Range<u32>) -> u32 {
        let mut fewer = 0;
        for (n, mask) in words(cells) {
            fewer += (mask & !self.taken[n]).count_ones();
            self.taken[n] |= mask;
        }
        self.free -= fewer;
        fewer
    }

    /// Those of the cells that are not stored are free from now on; how many more that are.
    fn release(&mut self, cells: Range<u32>) -> u32 {
        self.first_free = self.first_free.min(cells.start);
        let mut more = 0;
        for (n, mask) in words(cells) {
            let freed = mask & self.taken[n] & !self.stored[n];
            more += freed.count_ones();
            self.taken[n] &= !freed;
        }
        self.free += more;
        more
    }
}

fn cells(block: &Block) -> Range<u32> {
    block.offset / BLOCK_BYTES..(block.offset + block.len).div_ceil(BLOCK_BYTES)
}

/// The words that have bits for these cells, and which bits.
fn words(cells: Range<u32>) -> impl Iterator<Item = (usize, u64)> {
    (cells.start / 64..cells.end.div_ceil(64)).map(move |n| {
        let (from, to) = (cells.start.max(n * 64) - n * 64, cells.end.min(n * 64 + 64) - n * 64);
        (n as usize, u64::MAX >> (64 - (to - from)) << from)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const K: u32 = BLOCK_BYTES;

    fn pieces() -> (Geometry, Pieces) {
        let g = Geometry::new(u64::from(4 * K) * 2 + 100, 4 * K).unwrap();
        (g, Pieces::new(g, Bitfield::empty(g.pieces())))
    }

    #[test]
    fn a_piece_is_asked_in_order_stored_verified_and_here() {
        let (g, mut pieces) = pieces();
        let p = g.piece(0).unwrap();
        pieces.begin(p, 1);
        let a = pieces.ask_next(p, 3 * K).unwrap();
        let b = pieces.ask_next(p, 3 * K).unwrap();
        assert_eq!(((a.offset, a.len), (b.offset, b.len)), ((0, 3 * K), (3 * K, K)));
        assert_eq!(pieces.ask_next(p, K), None);
        assert!(pieces.store(&b, 1) && !pieces.complete(p));
        assert!(pieces.store(&a, 1) && pieces.complete(p) && !pieces.complete(p));
        assert_eq!(pieces.state(p), State::Verifying);
        pieces.good(p);
        assert_eq!(
            (pieces.state(p), pieces.bytes_here(), pieces.in_flight_bytes()),
            (State::Here, u64::from(4 * K), 0)
        );
    }

    #[test]
    fn a_released_block_is_asked_again_and_a_late_copy_is_dropped() {
        let (g, mut pieces) = pieces();
        let p = g.piece(0).unwrap();
        pieces.begin(p, 1);
        let block = pieces.ask_next(p, 4 * K).unwrap();
        pieces.release(&block);
        let small = pieces.ask_next(p, K).unwrap();
        assert_eq!((small.offset, small.len), (0, K));
        assert!(pieces.store(&small, 2));
        assert!(!pieces.store(&small, 1), "twice");
        assert!(!pieces.store(&block, 1), "a part of it is here");
    }

    #[test]
    fn a_bad_piece_of_several_senders_must_come_from_one() {
        let (g, mut pieces) = pieces();
        let p = g.piece(2).unwrap();
        pieces.begin(p, 1);
        let only = pieces.ask_next(p, K).unwrap();
        assert_eq!(only.len, 100, "the last piece is short");
        pieces.store(&only, 1);
        assert_eq!(pieces.bad(p), [1]);
        let p = g.piece(0).unwrap();
        pieces.begin(p, 1);
        for sender in 1..=2 {
            let block = pieces.ask_next(p, 2 * K).unwrap();
            pieces.store(&block, sender);
        }
        assert!(pieces.complete(p));
        assert_eq!(pieces.bad(p), [1, 2]);
        pieces.begin(p, 2);
        let partial = pieces.partial(p).unwrap();
        assert!(partial.exclusive && partial.admits(2) && !partial.admits(1));
    }

    #[test]
    fn a_piece_that_nobody_is_asked_for_any_more_goes_back() {
        let (g, mut pieces) = pieces();
        let p = g.piece(1).unwrap();
        pieces.begin(p, 1);
        let block = pieces.ask_next(p, K).unwrap();
        assert!(!pieces.abandon_if_empty(p));
        pieces.release(&block);
        assert!(pieces.abandon_if_empty(p));
        assert_eq!((pieces.state(p), pieces.in_flight_bytes()), (State::Missing, 0));
    }

    #[test]
    fn books_that_are_used_again_begin_empty() {
        let (g, mut pieces) = pieces();
        for index in 0..2 {
            let p = g.piece(index).unwrap();
            pieces.begin(p, 1);
            let block = pieces.ask_next(p, 4 * K).unwrap();
            assert_eq!((block.offset, block.len), (0, 4 * K));
            assert!(pieces.partial(p).unwrap().senders.is_empty() && pieces.store(&block, 1) && pieces.complete(p));
            pieces.good(p);
        }
        assert_eq!(pieces.with_free().count(), 0);
    }

    proptest! {
        /// Two pieces of more cells than a word has bits, against an array of cells.
        #[test]
        fn the_books_agree_with_the_cells(steps in prop::collection::vec((0..4u8, 0..2u32, 0..70u32, 1..70u32), 0..60)) {
            const CELLS: u32 = 70;
            let g = Geometry::new(u64::from(CELLS * K * 2), CELLS * K).unwrap();
            let mut pieces = Pieces::new(g, Bitfield::empty(2));
            g.all().for_each(|p| pieces.begin(p, 1));
            let mut model = [[' '; CELLS as usize]; 2];
            for (step, n, from, cells) in steps {
                let p = g.piece(n).unwrap();
                let cell = &mut model[n as usize];
                let block = Block { piece: p, offset: from * K, len: cells.min(CELLS - from) * K };
                let covered = &mut cell[from as usize..(from + cells).min(CELLS) as usize];
                match step {
                    0 => {
                        let first = cell.iter().position(|c| *c == ' ');
                        let run = |first: usize| cell[first..].iter().take(cells as usize).take_while(|c| **c == ' ').count();
                        let expected = first.map(|first| (first as u32 * K, run(first) as u32 * K));
                        prop_assert_eq!(pieces.ask_next(p, cells * K).map(|b| (b.offset, b.len)), expected);
                        if let Some((offset, len)) = expected {
                            cell[(offset / K) as usize..((offset + len) / K) as usize].fill('a');
                        }
                    }
                    1 => {
                        pieces.release(&block);
                        covered.iter_mut().filter(|c| **c == 'a').for_each(|c| *c = ' ');
                    }
                    2 => {
                        pieces.hold(&block);
                        covered.iter_mut().filter(|c| **c == ' ').for_each(|c| *c = 'a');
                    }
                    _ => {
                        let waits = covered.iter().all(|c| *c != 's');
                        prop_assert_eq!(pieces.store(&block, 1), waits);
                        if waits {
                            covered.fill('s');
                        }
                    }
                }
                let free = |p: PieceIndex| model[p.index()].contains(&' ');
                let with_free: Vec<PieceIndex> = pieces.with_free().map(|q| q.piece).collect();
                prop_assert_eq!(with_free, g.all().filter(|p| free(*p)).collect::<Vec<_>>());
            }
        }
    }
}
