//! A seeded, counter-based random number generator.
//!
//! Philox4x32-10 (Salmon et al., *Parallel random numbers: as easy as 1, 2, 3*, SC 2011) maps a 64-bit key and a
//! 128-bit counter to four 32-bit words by ten rounds of multiplication. There is no state: the number at any index is
//! computed directly, so results do not depend on the order of evaluation, on the number of threads or on the device,
//! a dropout mask need not be stored for the backward pass, and a resumed run draws the same numbers as an uninterrupted one.
//! The key is the seed; one half of the counter is the *stream* (see [`Stream::fold`]), the other the block in it.

/// The purpose of a stream of random numbers, folded in first, so that different uses of one seed are independent.
pub mod purpose {
    /// Initial weights.
    pub const INIT: u64 = 1;
    /// Dropout masks.
    pub const DROPOUT: u64 = 2;
    /// The order of the documents in an epoch.
    pub const DATA_ORDER: u64 = 3;
    /// Sampling text from a model.
    pub const SAMPLING: u64 = 4;
    /// Writing a synthetic corpus.
    pub const CORPUS: u64 = 5;
    /// Estimators and initialisation of the bigram experiments.
    pub const BIGRAM: u64 = 6;
    /// Resampling, clustering and other randomised metrics.
    pub const METRIC: u64 = 7;
    /// The items and the plan of a human evaluation, and its bootstrap.
    pub const JUDGE: u64 = 8;
}

const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];

/// The Philox4x32-10 bijection: ten rounds on a counter of four words under a key of two.
#[inline]
#[must_use]
pub fn philox4x32(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let p0 = u64::from(MULTIPLIERS[0]) * u64::from(counter[0]);
        let p1 = u64::from(MULTIPLIERS[1]) * u64::from(counter[2]);
        counter = [
            (p1 >> 32) as u32 ^ counter[1] ^ key[0],
            p1 as u32,
            (p0 >> 32) as u32 ^ counter[3] ^ key[1],
            p0 as u32,
        ];
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    counter
}

/// An indexable stream of random numbers: a seed and the path of labels folded into it.
///
/// ```
/// use mixce_base::rng::{Stream, purpose};
/// let masks = Stream::new(42).fold(purpose::DROPOUT).fold(/* step */ 7).fold(/* layer */ 0);
/// assert_eq!(masks.uniform(1_000_000), masks.uniform(1_000_000));
/// assert_ne!(masks.uniform(0), masks.fold(1).uniform(0));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stream {
    key: [u32; 2],
    label: u64,
}

impl Stream {
    /// The root stream of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { key: [seed as u32, (seed >> 32) as u32], label: 0 }
    }

    /// Derives an independent sub-stream. The order of folds matters: `s.fold(1).fold(2)` is not `s.fold(2).fold(1)`.
    ///
    /// The label is mixed by the generator itself, so labels from different paths collide with probability 2^-64.
    #[must_use]
    pub fn fold(self, label: u64) -> Self {
        let counter = [label as u32, (label >> 32) as u32, self.label as u32, (self.label >> 32) as u32];
        // The complemented key separates the derivation of labels from the numbers drawn under them.
        let word = philox4x32(counter, [!self.key[0], !self.key[1]]);
        Self { key: self.key, label: u64::from(word[0]) | u64::from(word[1]) << 32 }
    }

    /// The key and the stream's half of the counter, with which a device can draw the same numbers.
    #[must_use]
    pub fn key_and_label(&self) -> (u64, u64) {
        (u64::from(self.key[0]) | u64::from(self.key[1]) << 32, self.label)
    }

    /// The four words of one block.
    #[inline]
    #[must_use]
    pub fn u32s(&self, block: u64) -> [u32; 4] {
        philox4x32(
            [block as u32, (block >> 32) as u32, self.label as u32, (self.label >> 32) as u32],
            self.key,
        )
    }

    /// The 64 words of the blocks `first..first + 16`, in order: [`Stream::u32s`] of 16 blocks side by side, as vector code.
    #[inline(always)]
    #[must_use]
    pub fn words64(&self, first: u64) -> [u32; 64] {
        const BLOCKS: usize = 16;
        let block = |i: usize| first.wrapping_add(i as u64);
        let mut counter: [[u32; BLOCKS]; 4] = [
            std::array::from_fn(|i| block(i) as u32),
            std::array::from_fn(|i| (block(i) >> 32) as u32),
            [self.label as u32; BLOCKS],
            [(self.label >> 32) as u32; BLOCKS],
        ];
        let mut key = self.key;
        for _ in 0..10 {
            let [c0, c1, c2, c3] = counter;
            for i in 0..BLOCKS {
                let p0 = u64::from(MULTIPLIERS[0]) * u64::from(c0[i]);
                let p1 = u64::from(MULTIPLIERS[1]) * u64::from(c2[i]);
                counter[0][i] = (p1 >> 32) as u32 ^ c1[i] ^ key[0];
                counter[1][i] = p1 as u32;
                counter[2][i] = (p0 >> 32) as u32 ^ c3[i] ^ key[1];
                counter[3][i] = p0 as u32;
            }
            key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
        }
        let mut words = [0u32; 64];
        for i in 0..BLOCKS {
            for (word, counter) in counter.iter().enumerate() {
                words[4 * i + word] = counter[i];
            }
        }
        words
    }

    /// The word at `index`: word `index % 4` of block `index / 4`.
    #[inline]
    #[must_use]
    pub fn u32(&self, index: u64) -> u32 {
        self.u32s(index / 4)[(index % 4) as usize]
    }

    /// The 64-bit word at `index`: half of block `index / 2`.
    #[inline]
    #[must_use]
    pub fn u64(&self, index: u64) -> u64 {
        let words = self.u32s(index / 2);
        let half = 2 * (index % 2) as usize;
        u64::from(words[half]) | u64::from(words[half + 1]) << 32
    }

    /// A uniform number in `[0, 1)` with 53 random bits.
    #[inline]
    #[must_use]
    pub fn uniform(&self, index: u64) -> f64 {
        (self.u64(index) >> 11) as f64 * 2f64.powi(-53)
    }

    /// A uniform number in the open interval `(0, 1)`, safe to take the logarithm of.
    #[inline]
    #[must_use]
    pub fn uniform_open(&self, index: u64) -> f64 {
        ((self.u64(index) >> 12) as f64 + 0.5) * 2f64.powi(-52)
    }

    /// The standard normal numbers at `2 pair` and `2 pair + 1` (Box-Muller on the two uniforms of block `pair`); half the
    /// work of asking [`Stream::normal`] twice.
    #[inline]
    #[must_use]
    pub fn normal_pair(&self, pair: u64) -> [f64; 2] {
        let radius = (-2.0 * self.uniform_open(2 * pair).ln()).sqrt();
        let (sin, cos) = (std::f64::consts::TAU * self.uniform(2 * pair + 1)).sin_cos();
        [radius * cos, radius * sin]
    }

    /// A standard normal number.
    #[must_use]
    pub fn normal(&self, index: u64) -> f64 {
        self.normal_pair(index / 2)[(index % 2) as usize]
    }

    /// A uniform integer in `0..n` (0 when `n` is 0), by the high half of a 128-bit product; the bias is below `n / 2^64`.
    #[inline]
    #[must_use]
    pub fn below(&self, index: u64, n: u64) -> u64 {
        ((u128::from(self.u64(index)) * u128::from(n)) >> 64) as u64
    }

    /// A uniform permutation of `0..n` (Fisher-Yates; draw `i` is number `i` of the stream).
    #[must_use]
    pub fn permutation(&self, n: u32) -> Vec<u32> {
        let mut order: Vec<u32> = (0..n).collect();
        for i in (1..n as usize).rev() {
            order.swap(i, self.below(i as u64, i as u64 + 1) as usize);
        }
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Known-answer vectors of the Random123 distribution (`kat_vectors`, philox4x32 with 10 rounds).
    #[test]
    fn known_answers() {
        assert_eq!(philox4x32([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(
            philox4x32([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        assert_eq!(
            philox4x32([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn moments_of_uniform_and_normal() {
        let stream = Stream::new(3).fold(purpose::METRIC);
        let n = 200_000u64;
        let mean = |f: &dyn Fn(u64) -> f64| (0..n).map(f).sum::<f64>() / n as f64;
        assert!((mean(&|i| stream.uniform(i)) - 0.5).abs() < 3e-3);
        assert!(mean(&|i| stream.normal(i)).abs() < 1e-2);
        assert!((mean(&|i| stream.normal(i).powi(2)) - 1.0).abs() < 2e-2);
        assert!((mean(&|i| stream.normal(i).powi(4)) - 3.0).abs() < 0.1);
        // The two halves of a Box-Muller pair are uncorrelated.
        assert!(mean(&|i| stream.normal(2 * i) * stream.normal(2 * i + 1)).abs() < 1e-2);
    }

    #[test]
    fn every_permutation_of_three_is_equally_likely() {
        let mut counts = std::collections::HashMap::new();
        for seed in 0..6000 {
            *counts.entry(Stream::new(seed).permutation(3)).or_insert(0) += 1;
        }
        assert_eq!(counts.len(), 6);
        assert!(counts.values().all(|c| (850..1150).contains(c)), "{counts:?}");
    }

    proptest! {
        #[test]
        fn ranges_hold(seed: u64, label: u64, index: u64, n in 1u64..) {
            let stream = Stream::new(seed).fold(label);
            prop_assert!((0.0..1.0).contains(&stream.uniform(index)));
            let open = stream.uniform_open(index);
            prop_assert!(open > 0.0 && open < 1.0);
            prop_assert!(stream.normal(index).is_finite());
            prop_assert!(stream.below(index, n) < n);
        }

        #[test]
        fn sixteen_blocks_are_the_blocks_one_by_one(seed: u64, label: u64, first in 0..u64::MAX - 16) {
            let stream = Stream::new(seed).fold(label);
            let one_by_one: Vec<u32> = (0..16).flat_map(|i| stream.u32s(first + i)).collect();
            prop_assert_eq!(stream.words64(first).to_vec(), one_by_one);
        }

        #[test]
        fn permutations_are_permutations(seed: u64, n in 0u32..200) {
            let mut order = Stream::new(seed).permutation(n);
            order.sort_unstable();
            prop_assert_eq!(order, (0..n).collect::<Vec<_>>());
        }
    }
}
