//! SHA-1 of many pieces at once in vector registers, a lane for each piece.
//!
//! Rule: every step of FIPS 180-4, s. 6.1.2 is done for all lanes by one instruction. Sixteen lanes of AVX-512 hash 2.4
//! times as fast as the processor's own SHA-1 instructions; eight lanes of AVX2 are for processors without those
//! (measured, `docs/BENCHMARKS.md`). A lane without a piece costs as much as one with.
//!
//! All of it must end up in one function that is compiled for those instructions, so everything here is inlined, and
//! what takes a closure is only what inlines it too (`from_fn` does, `map` of an array does not).

use std::arch::x86_64::{__m256i, __m512i};
use std::array::from_fn;
use std::iter;

use pulp::x86::{V3, V4};
use pulp::{NullaryFnOnce, Simd, cast};

use super::lanes::{BLOCK, State};

/// A way to hash so many pieces at once; proof that this processor can.
#[derive(Clone, Copy)]
pub(super) enum Vectors {
    Sixteen(V4),
    Eight(V3),
}

impl Vectors {
    /// What this processor hashes fastest with; `None`: with its SHA-1 instructions, or it has nothing of all this.
    pub(super) fn detect() -> Option<Self> {
        let eight = || V3::try_new().filter(|_| !is_x86_feature_detected!("sha"));
        V4::try_new().map(Self::Sixteen).or_else(|| eight().map(Self::Eight))
    }

    pub(super) fn lanes(self) -> usize {
        match self {
            Self::Sixteen(_) => 16,
            Self::Eight(_) => 8,
        }
    }

    /// Adds `run` blocks to each of up to [`Vectors::lanes`] states.
    pub(super) fn compress<'a>(self, active: &mut [(&'a mut State, &'a [[u8; BLOCK]])], run: usize) {
        match self {
            Self::Sixteen(v4) => v4.vectorize(Pass::<_, 16> { vectors: v4, active, run }),
            Self::Eight(v3) => v3.vectorize(Pass::<_, 8> { vectors: v3, active, run }),
        }
    }
}

/// One call, which is compiled for the instructions of `S`.
struct Pass<'p, 'a, S, const N: usize> {
    vectors: S,
    active: &'p mut [(&'a mut State, &'a [[u8; BLOCK]])],
    run: usize,
}

impl<S: Wide<N>, const N: usize> NullaryFnOnce for Pass<'_, '_, S, N> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self { vectors, active, run } = self;
        let mut states = [[0; N]; 5];
        let mut data: [&[[u8; BLOCK]]; N] = [&active[0].1[..run]; N];
        for (lane, (state, blocks)) in iter::zip(0..N, &*active) {
            data[lane] = &blocks[..run];
            iter::zip(&mut states, **state).for_each(|(word, of_lane)| word[lane] = of_lane);
        }
        let mut words = states.map(|word| vectors.load(word));
        #[expect(clippy::needless_range_loop, reason = "it is a place in every lane's blocks")]
        for block in 0..run {
            let message = vectors.message(from_fn(|lane| &data[lane][block]));
            words = compress(vectors, words, message);
        }
        let states = words.map(|word| vectors.store(word));
        for (lane, (state, _)) in iter::zip(0..N, active) {
            iter::zip(&mut **state, states).for_each(|(of_lane, word)| *of_lane = word[lane]);
        }
    }
}

/// One block of every lane (FIPS 180-4, s. 6.1.2).
#[inline(always)]
fn compress<S: Simd>(s: S, state: [S::u32s; 5], mut w: [S::u32s; 16]) -> [S::u32s; 5] {
    let [mut a, mut b, mut c, mut d, mut e] = state;
    macro_rules! rounds {
        ($rounds:expr, $constant:expr, $function:expr) => {
            for t in $rounds {
                if t >= 16 {
                    let before = parity(s, w[(t + 13) % 16], w[(t + 8) % 16], w[(t + 2) % 16]);
                    w[t % 16] = rotate(s, s.xor_u32s(before, w[t % 16]), 1);
                }
                let known = s.add_u32s(e, s.add_u32s(w[t % 16], s.splat_u32s($constant)));
                let next = s.add_u32s(s.add_u32s(rotate(s, a, 5), $function(s, b, c, d)), known);
                (a, b, c, d, e) = (next, a, rotate(s, b, 30), c, d);
            }
        };
    }
    rounds!(0..20, 0x5a82_7999, choose);
    rounds!(20..40, 0x6ed9_eba1, parity);
    rounds!(40..60, 0x8f1b_bcdc, majority);
    rounds!(60..80, 0xca62_c1d6, parity);
    let [h0, h1, h2, h3, h4] = state;
    [s.add_u32s(h0, a), s.add_u32s(h1, b), s.add_u32s(h2, c), s.add_u32s(h3, d), s.add_u32s(h4, e)]
}

#[inline(always)]
fn rotate<S: Simd>(s: S, x: S::u32s, by: u32) -> S::u32s {
    let right = s.wrapping_dyn_shr_u32s(x, s.splat_u32s(32 - by));
    s.or_u32s(s.wrapping_dyn_shl_u32s(x, s.splat_u32s(by)), right)
}

#[inline(always)]
fn choose<S: Simd>(s: S, x: S::u32s, y: S::u32s, z: S::u32s) -> S::u32s {
    s.xor_u32s(z, s.and_u32s(x, s.xor_u32s(y, z)))
}

#[inline(always)]
fn parity<S: Simd>(s: S, x: S::u32s, y: S::u32s, z: S::u32s) -> S::u32s {
    s.xor_u32s(x, s.xor_u32s(y, z))
}

#[inline(always)]
fn majority<S: Simd>(s: S, x: S::u32s, y: S::u32s, z: S::u32s) -> S::u32s {
    s.or_u32s(s.and_u32s(x, y), s.and_u32s(z, s.or_u32s(x, y)))
}

/// Vectors of `N` words.
trait Wide<const N: usize>: Simd {
    fn load(self, words: [u32; N]) -> Self::u32s;
    fn store(self, words: Self::u32s) -> [u32; N];
    /// The sixteen words of a block, each of all lanes.
    fn message(self, blocks: [&[u8; BLOCK]; N]) -> [Self::u32s; 16];
}

/// Which byte of sixteen goes where so that four words change their byte order.
const fn swapped<const N: usize>() -> [u8; N] {
    let mut order = [0; N];
    let mut i = 0;
    while i < N {
        order[i] = (i as u8 % 16) ^ 3;
        i += 1;
    }
    order
}

impl Wide<16> for V4 {
    #[inline(always)]
    fn load(self, words: [u32; 16]) -> Self::u32s {
        cast(words)
    }

    #[inline(always)]
    fn store(self, words: Self::u32s) -> [u32; 16] {
        cast(words)
    }

    #[inline(always)]
    fn message(self, blocks: [&[u8; BLOCK]; 16]) -> [Self::u32s; 16] {
        let f = self.avx512f;
        let order: __m512i = cast(swapped::<64>());
        let rows: [__m512i; 16] = from_fn(|lane| self.avx512bw._mm512_shuffle_epi8(cast(*blocks[lane]), order));
        // Words change places among four lanes within every quarter, then quarters among four such groups.
        let mut quarters = rows;
        for (out, row) in iter::zip(quarters.as_chunks_mut::<4>().0, rows.as_chunks::<4>().0) {
            let [a, b, c, d] = *row;
            let (ab, cd) = (f._mm512_unpacklo_epi32(a, b), f._mm512_unpacklo_epi32(c, d));
            let (ab_, cd_) = (f._mm512_unpackhi_epi32(a, b), f._mm512_unpackhi_epi32(c, d));
            *out = [
                f._mm512_unpacklo_epi64(ab, cd),
                f._mm512_unpackhi_epi64(ab, cd),
                f._mm512_unpacklo_epi64(ab_, cd_),
                f._mm512_unpackhi_epi64(ab_, cd_),
            ];
        }
        let mut words = quarters;
        for n in 0..4 {
            let [a, b, c, d] = [0, 4, 8, 12].map(|group| quarters[group + n]);
            let (ab, cd) = (f._mm512_shuffle_i32x4::<0x88>(a, b), f._mm512_shuffle_i32x4::<0x88>(c, d));
            let (ab_, cd_) = (f._mm512_shuffle_i32x4::<0xdd>(a, b), f._mm512_shuffle_i32x4::<0xdd>(c, d));
            words[n] = f._mm512_shuffle_i32x4::<0x88>(ab, cd);
            words[n + 4] = f._mm512_shuffle_i32x4::<0x88>(ab_, cd_);
            words[n + 8] = f._mm512_shuffle_i32x4::<0xdd>(ab, cd);
            words[n + 12] = f._mm512_shuffle_i32x4::<0xdd>(ab_, cd_);
        }
        from_fn(|n| cast(words[n]))
    }
}

impl Wide<8> for V3 {
    #[inline(always)]
    fn load(self, words: [u32; 8]) -> Self::u32s {
        cast(words)
    }

    #[inline(always)]
    fn store(self, words: Self::u32s) -> [u32; 8] {
        cast(words)
    }

    #[inline(always)]
    fn message(self, blocks: [&[u8; BLOCK]; 8]) -> [Self::u32s; 16] {
        let order: __m256i = cast(swapped::<32>());
        let f = self.avx2;
        let mut words = [self.splat_u32s(0); 16];
        for half in 0..2 {
            let rows: [__m256i; 8] =
                from_fn(|lane| f._mm256_shuffle_epi8(cast(blocks[lane].as_chunks::<32>().0[half]), order));
            let mut quarters = rows;
            for (out, row) in iter::zip(quarters.as_chunks_mut::<4>().0, rows.as_chunks::<4>().0) {
                let [a, b, c, d] = *row;
                let (ab, cd) = (f._mm256_unpacklo_epi32(a, b), f._mm256_unpacklo_epi32(c, d));
                let (ab_, cd_) = (f._mm256_unpackhi_epi32(a, b), f._mm256_unpackhi_epi32(c, d));
                *out = [
                    f._mm256_unpacklo_epi64(ab, cd),
                    f._mm256_unpackhi_epi64(ab, cd),
                    f._mm256_unpacklo_epi64(ab_, cd_),
                    f._mm256_unpackhi_epi64(ab_, cd_),
                ];
            }
            for n in 0..4 {
                words[8 * half + n] = cast(f._mm256_permute2x128_si256::<0x20>(quarters[n], quarters[n + 4]));
                words[8 * half + n + 4] = cast(f._mm256_permute2x128_si256::<0x31>(quarters[n], quarters[n + 4]));
            }
        }
        words
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::io::hash::lanes::{CHAINS, alternate};

    #[track_caller]
    fn check(vectors: Vectors) {
        let data: Vec<u8> = (0..16 * 3 * BLOCK).map(|i| (i * 7 + (i >> 6) * 31 + (i >> 11)) as u8).collect();
        let blocks: Vec<&[[u8; BLOCK]]> = data.as_chunks().0.chunks(3).collect();
        for number in 1..=vectors.lanes() {
            let mut states: Vec<State> = (0..number as u32).map(|n| from_fn(|word| n << 28 | word as u32)).collect();
            let mut expected = states.clone();
            for (state, blocks) in iter::zip(&mut expected, &blocks) {
                sha1::block_api::compress(state, &blocks[..2]);
            }
            let mut active: Vec<_> = iter::zip(&mut states, &blocks).map(|(state, blocks)| (state, *blocks)).collect();
            vectors.compress(&mut active, 2);
            assert_eq!(states, expected, "{number} lanes");
        }
    }

    /// All that this processor can, whichever it would choose.
    fn every_kind() -> impl Iterator<Item = Vectors> {
        let sixteen = V4::try_new().map(Vectors::Sixteen).into_iter();
        sixteen.chain(V3::try_new().map(Vectors::Eight))
    }

    #[test]
    fn every_lane_is_as_the_sha1_crate_has_it() {
        every_kind().for_each(check);
    }

    #[test]
    #[ignore = "a benchmark, which asserts nothing: tests/bench/hashing runs it and shows what it prints"]
    #[expect(clippy::print_stdout, reason = "what it is for")]
    fn speed_of_one_core() {
        const CHUNK: usize = 1024;
        let data = vec![7; CHUNK * BLOCK];
        let blocks: &[[u8; BLOCK]] = data.as_chunks().0;
        type Hash<'h> = &'h dyn for<'a> Fn(&mut [(&'a mut State, &'a [[u8; BLOCK]])]);
        let measure = |name: &str, lanes: usize, hash: Hash<'_>| {
            let mut states = vec![State::default(); lanes];
            let mut active: Vec<_> = states.iter_mut().map(|state| (state, blocks)).collect();
            let (begin, mut bytes) = (Instant::now(), 0);
            while begin.elapsed() < Duration::from_secs(1) {
                hash(&mut active);
                bytes += data.len() * lanes;
            }
            println!("one core, {name}: {:.2} GB/s", bytes as f64 / begin.elapsed().as_secs_f64() / 1e9);
        };
        for chains in [1, CHAINS] {
            measure(&format!("`sha1` with {chains} in turn"), chains, &|active| alternate(active, CHUNK));
        }
        for vectors in every_kind() {
            let name = format!("vectors of {}", vectors.lanes());
            measure(&name, vectors.lanes(), &|active| vectors.compress(active, CHUNK));
        }
    }
}
