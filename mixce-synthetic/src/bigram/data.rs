//! A world with the sequences sampled from it: what every cell with the same world and seed shares.

use super::sequences::{MAX_TOKENS, Sequences};
use super::visits::Chain;
use super::{Error, Result, World};

/// P, training and development sequences, and what is derived from them once.
#[derive(Clone, Debug)]
pub struct Dataset {
    /// P.
    pub world: World,
    /// Training sequences.
    pub train: Sequences,
    /// Development sequences.
    pub dev: Sequences,
}

impl Dataset {
    /// Samples `dev + train` sequences from `world`; the first `dev` of them are the development set.
    ///
    /// # Errors
    /// When a size is 0.
    pub fn sample(world: World, train: usize, dev: usize, seed: u64) -> Result<Self> {
        if train == 0 || dev == 0 {
            return Err(Error::range("train, dev", "at least 1 sequence", format!("{train}, {dev}")));
        }
        let (dev, train) = Sequences::sample(&world, train + dev, seed).split(dev);
        Ok(Self { world, train, dev })
    }

    /// P without samples, for the `exact` estimator.
    #[must_use]
    pub fn exact(world: World) -> Self {
        Self { world, train: Sequences::default(), dev: Sequences::default() }
    }

    /// The floored log P by state, `[V + 1, stride]` in f32, padding 0.
    pub(crate) fn log_p(&self, stride: usize) -> Vec<f32> {
        let outputs = self.world.vocab() + 1;
        let mut out = vec![0.0; outputs * stride];
        let log_p = self.world.log_by_state();
        for (row, from) in out.chunks_exact_mut(stride).zip(log_p.chunks_exact(outputs)) {
            row.iter_mut().zip(from).for_each(|(out, l)| *out = *l as f32);
        }
        out
    }

    /// Expected transition counts of one sequence from P, `[V, stride]`.
    pub(crate) fn expected_counts(&self, stride: usize) -> Vec<f32> {
        let vocab = self.world.vocab();
        let contexts = self.world.contexts();
        let counts = Chain::new(vocab, &contexts).counts_with_forced_eos(MAX_TOKENS);
        let mut out = vec![0.0; vocab * stride];
        for (row, from) in out.chunks_exact_mut(stride).zip(counts.chunks_exact(vocab + 1)) {
            row.iter_mut().zip(from).for_each(|(out, c)| *out = *c as f32);
        }
        out
    }

    /// The empirical transition probabilities of the training sequences, `[V, V + 1]`: maximum likelihood without a
    /// network. A context that never occurs gets the uniform distribution over V.
    #[must_use]
    pub fn empirical(&self) -> Vec<f64> {
        let (vocab, outputs) = (self.world.vocab(), self.world.vocab() + 1);
        let mut counts = vec![0u64; vocab * outputs];
        for index in 0..self.train.len() {
            let mut context = 0;
            for &token in self.train.get(index) {
                counts[context * outputs + usize::from(token)] += 1;
                context = usize::from(token);
            }
        }
        let rows = counts.chunks_exact(outputs).map(|row| {
            let total: u64 = row.iter().sum();
            row.iter().enumerate().map(move |(y, &c)| match total {
                0 => f64::from(u8::from(y > 0)) / vocab as f64,
                _ => c as f64 / total as f64,
            })
        });
        rows.flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bigram::compare;

    #[test]
    fn empirical_and_expected_counts_approach_p() {
        let world = World::random(12, 0.5, 6).unwrap();
        let data = Dataset::sample(world.clone(), 20_000, 10, 6).unwrap();
        let distance = compare(&data.empirical(), &world).unwrap();
        assert!(distance.avg_js < 3e-4 && distance.avg_0s == 0.0, "{distance:?}");
        let stride = 16;
        let mut counts = vec![0f32; 12 * stride];
        for i in 0..data.train.len() {
            data.train.count(i, 1.0 / 20_000.0, stride, &mut counts);
        }
        for (want, got) in data.expected_counts(stride).iter().zip(&counts) {
            assert!((want - got).abs() < 0.02 * (1.0 + want), "{want} {got}");
        }
        assert!(Dataset::sample(world, 0, 1, 0).is_err());
    }
}
