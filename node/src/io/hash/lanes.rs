//! SHA-1 of several pieces at once, block by block.
//!
//! Rule: with vectors if there are pieces for half of their lanes, else [`CHAINS`] at a time with what the `sha1` crate
//! finds best: the processor's own SHA-1 instructions wait for each other within a chain, on many processors.

use std::sync::LazyLock;

use sha1::block_api::compress;

use super::vectors::Vectors;

/// How many chains are alternated: the third still gains a tenth, a fourth nothing.
pub(super) const CHAINS: usize = 3;

/// How many pieces are best hashed at once on this machine; fewer are hashed as well.
pub static LANES: LazyLock<usize> = LazyLock::new(|| VECTORS.map_or(CHAINS, Vectors::lanes));
static VECTORS: LazyLock<Option<Vectors>> = LazyLock::new(Vectors::detect);

pub(super) const BLOCK: usize = 64;
pub(super) type State = [u32; 5];

/// FIPS 180-4, s. 5.3.1.
const START: State = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476, 0xc3d2_e1f0];

/// The SHA-1 of each piece; a piece is the list of its segments in order. Fastest if every segment but the last of a
/// piece is a multiple of 64 bytes.
pub fn sha1_of_pieces<S: AsRef<[u8]>>(pieces: &[&[S]]) -> Vec<[u8; 20]> {
    let mut hashes = Vec::with_capacity(pieces.len());
    for group in pieces.chunks(*LANES) {
        let mut lanes: Vec<_> = group.iter().map(|segments| Lane::new(segments)).collect();
        loop {
            let run = lanes.iter().filter(|lane| !lane.rest.is_empty()).map(|lane| lane.rest.len()).min();
            let Some(run) = run else { break };
            let mut round: Vec<_> = lanes.iter_mut().filter_map(|lane| lane.take(run)).collect();
            feed(&mut round);
            lanes.iter_mut().for_each(Lane::advance);
        }
        hashes.extend(lanes.into_iter().map(|lane| lane.chain.finish()));
    }
    hashes
}

/// One piece on its way through [`sha1_of_pieces`].
struct Lane<'a, S> {
    chain: Chain,
    rest: &'a [u8],
    segments: std::slice::Iter<'a, S>,
}

impl<'a, S: AsRef<[u8]>> Lane<'a, S> {
    fn new(segments: &'a [S]) -> Self {
        let mut lane = Self { chain: Chain::default(), rest: &[], segments: segments.iter() };
        lane.advance();
        lane
    }

    /// The next `run` bytes, unless the piece is at its end.
    fn take(&mut self, run: usize) -> Option<(&mut Chain, &'a [u8])> {
        let (now, rest) = self.rest.split_at_checked(run)?;
        self.rest = rest;
        Some((&mut self.chain, now))
    }

    fn advance(&mut self) {
        while self.rest.is_empty()
            && let Some(segment) = self.segments.next()
        {
            self.rest = segment.as_ref();
        }
    }
}

/// A SHA-1 under way.
#[derive(Clone)]
pub(super) struct Chain {
    state: State,
    /// Bytes so far.
    length: u64,
    /// The last `length % 64` of them.
    tail: [u8; BLOCK],
}

impl Default for Chain {
    fn default() -> Self {
        Self { state: START, length: 0, tail: [0; BLOCK] }
    }
}

impl Chain {
    fn tail_len(&self) -> usize {
        (self.length % BLOCK as u64) as usize
    }

    /// Completes an open tail with the first bytes of `data`, and gives the rest.
    fn close_tail<'a>(&mut self, data: &'a [u8]) -> &'a [u8] {
        let open = self.tail_len();
        if open == 0 {
            return data;
        }
        let (first, rest) = data.split_at(data.len().min(BLOCK - open));
        self.tail[open..open + first.len()].copy_from_slice(first);
        self.length += first.len() as u64;
        if self.tail_len() == 0 {
            compress(&mut self.state, std::slice::from_ref(&self.tail));
        }
        rest
    }

    fn open_tail(&mut self, rest: &[u8]) {
        self.tail[..rest.len()].copy_from_slice(rest);
    }

    /// Pads (FIPS 180-4, s. 5.1.1) and gives the digest.
    pub(super) fn finish(mut self) -> [u8; 20] {
        let bits = self.length * 8;
        let open = self.tail_len();
        self.tail[open] = 0x80;
        self.tail[open + 1..].fill(0);
        if open + 1 > BLOCK - 8 {
            compress(&mut self.state, std::slice::from_ref(&self.tail));
            self.tail.fill(0);
        }
        self.tail[BLOCK - 8..].copy_from_slice(&bits.to_be_bytes());
        compress(&mut self.state, std::slice::from_ref(&self.tail));
        let mut digest = [0; 20];
        for (bytes, word) in digest.chunks_exact_mut(4).zip(self.state) {
            bytes.copy_from_slice(&word.to_be_bytes());
        }
        digest
    }
}

/// Adds bytes to each of the chains.
pub(super) fn feed(round: &mut [(&mut Chain, &[u8])]) {
    let mut active = Vec::with_capacity(round.len());
    for (chain, data) in round {
        let rest = chain.close_tail(data);
        let (blocks, tail) = rest.as_chunks::<BLOCK>();
        if !rest.is_empty() {
            chain.open_tail(tail);
            chain.length += rest.len() as u64;
        }
        active.push((&mut chain.state, blocks));
    }
    loop {
        active.retain(|(_, blocks)| !blocks.is_empty());
        let Some(run) = active.iter().map(|(_, blocks)| blocks.len()).min() else { break };
        match *VECTORS {
            Some(vectors) if active.len() >= vectors.lanes() / 2 => {
                active.chunks_mut(vectors.lanes()).for_each(|group| vectors.compress(group, run));
            }
            _ => active.chunks_mut(CHAINS).for_each(|group| alternate(group, run)),
        }
        active.iter_mut().for_each(|(_, blocks)| *blocks = &blocks[run..]);
    }
}

/// Adds `run` blocks to each state, in turn.
pub(super) fn alternate(group: &mut [(&mut State, &[[u8; BLOCK]])], run: usize) {
    match group {
        [(a, x), (b, y), (c, z)] => {
            for ((x, y), z) in x[..run].iter().zip(&y[..run]).zip(&z[..run]) {
                compress(a, std::slice::from_ref(x));
                compress(b, std::slice::from_ref(y));
                compress(c, std::slice::from_ref(z));
            }
        }
        [(a, x), (b, y)] => {
            for (x, y) in x[..run].iter().zip(&y[..run]) {
                compress(a, std::slice::from_ref(x));
                compress(b, std::slice::from_ref(y));
            }
        }
        others => others.iter_mut().for_each(|(state, blocks)| compress(state, &blocks[..run])),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sha1::{Digest, Sha1};

    use super::*;

    fn plain(segments: &[Vec<u8>]) -> [u8; 20] {
        Sha1::digest(segments.concat()).into()
    }

    #[track_caller]
    fn check(pieces: &[Vec<Vec<u8>>]) {
        let views: Vec<&[Vec<u8>]> = pieces.iter().map(Vec::as_slice).collect();
        let expected: Vec<_> = pieces.iter().map(|p| plain(p)).collect();
        assert_eq!(sha1_of_pieces(&views), expected);
    }

    fn piece(lens: &[usize]) -> Vec<Vec<u8>> {
        lens.iter().enumerate().map(|(n, len)| (0..*len).map(|i| (i * 7 + n * 31) as u8).collect()).collect()
    }

    #[test]
    fn pieces_of_all_tail_lengths_hash_as_one_by_one() {
        for n in 0..200 {
            check(&[piece(&[n]), piece(&[64, n]), piece(&[n, 64])]);
        }
    }

    #[test]
    fn pieces_of_different_lengths_and_numbers_hash_as_one_by_one() {
        check(&[]);
        check(&[piece(&[])]);
        check(&[piece(&[16384, 16384, 100]), piece(&[1 << 18]), piece(&[]), piece(&[5]), piece(&[0, 64, 0, 64])]);
    }

    proptest! {
        #[test]
        fn any_pieces_in_any_segments_hash_as_one_by_one(
            lens in prop::collection::vec(prop::collection::vec(0_usize..400, 0..5), 0..40)
        ) {
            check(&lens.iter().map(|l| piece(l)).collect::<Vec<_>>());
        }
    }
}
