//! Dropout masks of the hidden layer as words of bits.

use mixce_base::rng::Stream;

use super::model::{HIDDEN, HIDDEN_STRIDE};

/// Draws Bernoulli bits; the probability is a multiple of 2^-16.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dropout {
    threshold: u32,
    scale: f32,
}

/// The bits that name hidden units.
const UNITS: u64 = (1 << HIDDEN) - 1;

impl Dropout {
    /// Drops a unit with probability `p`, in `[0, 1)`.
    pub(crate) fn new(p: f64) -> Self {
        Self { threshold: (p * 65536.0).round() as u32, scale: (1.0 / (1.0 - p)) as f32 }
    }

    /// The scale of units that are kept.
    pub(crate) fn scale(self) -> f32 {
        self.scale
    }

    /// Whether nothing is ever dropped.
    pub(crate) fn is_off(self) -> bool {
        self.threshold == 0
    }

    /// One mask: a set bit is a dropped unit. The binary digits of p, from the last to the first, join random words by
    /// `or` (digit 1) and `and` (digit 0): afterwards each bit is set with probability p.
    #[inline]
    pub(crate) fn bits(self, stream: Stream, index: u64) -> u64 {
        if self.threshold == 0 {
            return 0;
        }
        let mut acc = 0u64;
        for pair in (self.threshold.trailing_zeros() / 2)..8 {
            let words = stream.u32s(index * 8 + u64::from(pair));
            for half in 0..2 {
                let random = u64::from(words[2 * half]) | u64::from(words[2 * half + 1]) << 32;
                let digit = self.threshold >> (2 * pair + half as u32) & 1;
                acc = if digit == 1 { acc | random } else { acc & random };
            }
        }
        acc & UNITS
    }

    /// Multipliers `[contexts, HIDDEN_STRIDE]`, one mask for every context.
    #[cfg(test)]
    pub(crate) fn mask(self, contexts: usize, stream: Stream) -> Vec<f32> {
        let mut mask = vec![0.0; contexts * HIDDEN_STRIDE];
        self.fill(&mut mask, stream);
        mask
    }

    /// Fills multipliers `[contexts, HIDDEN_STRIDE]`, one mask for every context.
    pub(crate) fn fill(self, mask: &mut [f32], stream: Stream) {
        for (context, row) in mask.chunks_exact_mut(HIDDEN_STRIDE).enumerate() {
            let bits = self.bits(stream, context as u64);
            for (unit, m) in row[..HIDDEN].iter_mut().enumerate() {
                *m = if bits >> unit & 1 == 1 { 0.0 } else { self.scale };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unit_is_dropped_at_the_right_rate() {
        let dropout = Dropout::new(0.1);
        let mut counts = [0u32; HIDDEN];
        let n = 20_000;
        let mut pairs = 0u32;
        for i in 0..n {
            let bits = dropout.bits(Stream::new(5), i);
            assert_eq!(bits >> HIDDEN, 0);
            counts.iter_mut().enumerate().for_each(|(unit, c)| *c += (bits >> unit & 1) as u32);
            pairs += (bits & bits >> 1 & 1) as u32;
        }
        for count in counts {
            let rate = f64::from(count) / n as f64;
            assert!((rate - 0.1).abs() < 0.012, "{rate}");
        }
        assert!((f64::from(pairs) / n as f64 - 0.01).abs() < 0.004);
        assert_eq!(Dropout::new(0.0).bits(Stream::new(1), 0), 0);
    }

    #[test]
    fn masks_keep_the_mean() {
        let mask = Dropout::new(0.1).mask(2000, Stream::new(2));
        let mean = mask.iter().sum::<f32>() / (2000 * HIDDEN) as f32;
        assert!((mean - 1.0).abs() < 0.01, "{mean}");
    }
}
