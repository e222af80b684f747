//! Seeded epoch order and the microbatches of each optimizer step.
use mixce_kernels::rng::{Stream, purpose};
use serde::{Deserialize, Serialize};

use super::examples::Examples;
use crate::error::{Error, Result};

/// How examples are grouped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatcherConfig {
    /// Examples per microbatch.
    pub batch_size: usize,
    /// Microbatches per optimizer step.
    pub grad_accum: usize,
    /// Shuffle each epoch; otherwise keep the file's order.
    pub shuffle: bool,
    /// Seed of the order.
    pub seed: u64,
}

/// Position of the next optimizer step in the data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Epoch, counted from 0.
    pub epoch: u64,
    /// Optimizer step of the epoch, counted from 0.
    pub step_in_epoch: u64,
}

impl Position {
    /// The epoch of the step before this position; 0 at the very start.
    #[must_use]
    pub fn epoch_of_last_step(&self) -> u64 {
        if self.step_in_epoch == 0 { self.epoch.saturating_sub(1) } else { self.epoch }
    }
}

/// A microbatch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Microbatch {
    /// Token ids of each example (of confined blocks: of each piece), at least two each.
    pub examples: Vec<Vec<u32>>,
}

impl Microbatch {
    /// Target tokens: each example of `n` tokens has `n - 1`.
    #[must_use]
    pub fn targets(&self) -> u64 {
        self.examples.iter().map(|e| e.len() as u64 - 1).sum()
    }
}

/// The data of one optimizer step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepBatch {
    /// Where it came from.
    pub position: Position,
    /// Its microbatches; never empty.
    pub microbatches: Vec<Microbatch>,
}

impl StepBatch {
    /// Target tokens of the whole step, the denominator of its loss.
    #[must_use]
    pub fn targets(&self) -> u64 {
        self.microbatches.iter().map(Microbatch::targets).sum()
    }
}

/// Groups the examples of an epoch into steps.
///
/// An epoch has `ceil(examples / (batch_size * grad_accum))` steps; the last one may have fewer microbatches and examples. The order of
/// epoch `e` is a permutation determined by `(seed, DATA_ORDER, e)`, so a resumed run only needs a [`Position`].
#[derive(Debug)]
pub struct Batcher<'a> {
    examples: &'a Examples,
    config: BatcherConfig,
    order: Vec<u32>,
    order_epoch: Option<u64>,
}

impl<'a> Batcher<'a> {
    /// A batcher over `examples`.
    ///
    /// # Errors
    /// [`Error::Config`] if a size is 0, or there are no examples, or more than 2^32 - 1.
    pub fn new(examples: &'a Examples, config: BatcherConfig) -> Result<Self> {
        if config.batch_size == 0 || config.grad_accum == 0 {
            return Err(Error::config(
                "`config.batch_size` and `config.grad_accum`: expected at least 1, got 0",
            ));
        }
        if examples.is_empty() || u32::try_from(examples.len()).is_err() {
            let n = examples.len();
            return Err(Error::config(format!("expected 1 to 4294967295 training examples, got {n}")));
        }
        Ok(Self { examples, config, order: Vec::new(), order_epoch: None })
    }

    /// Optimizer steps of an epoch, the last short one included.
    #[must_use]
    pub fn steps_per_epoch(&self) -> u64 {
        self.examples.len().div_ceil(self.examples_per_step()) as u64
    }

    /// The position after `position`.
    #[must_use]
    pub fn after(&self, position: Position) -> Position {
        if position.step_in_epoch + 1 < self.steps_per_epoch() {
            Position { epoch: position.epoch, step_in_epoch: position.step_in_epoch + 1 }
        } else {
            Position { epoch: position.epoch + 1, step_in_epoch: 0 }
        }
    }

    /// The position at which the data continue after `steps` steps.
    #[must_use]
    pub fn position_of(&self, steps: u64) -> Position {
        let per_epoch = self.steps_per_epoch();
        Position { epoch: steps / per_epoch, step_in_epoch: steps % per_epoch }
    }

    /// The data of the step at `position`; a step past the end of the epoch is an empty batch.
    pub fn step(&mut self, position: Position) -> StepBatch {
        self.load_order(position.epoch);
        let per_step = self.examples_per_step();
        let skipped = (position.step_in_epoch as usize).saturating_mul(per_step).min(self.order.len());
        let taken = &self.order[skipped..self.order.len().min(skipped.saturating_add(per_step))];
        let microbatch = |indices: &[u32]| Microbatch {
            examples: indices.iter().flat_map(|&i| self.examples.pieces(i as usize)).collect(),
        };
        let microbatches = taken.chunks(self.config.batch_size).map(microbatch).collect();
        StepBatch { position, microbatches }
    }

    fn examples_per_step(&self) -> usize {
        self.config.batch_size.saturating_mul(self.config.grad_accum)
    }

    fn load_order(&mut self, epoch: u64) {
        if self.order_epoch == Some(epoch) {
            return;
        }
        // `new` has checked the range.
        let n = self.examples.len() as u32;
        self.order = if self.config.shuffle {
            Stream::new(self.config.seed).fold(purpose::DATA_ORDER).fold(epoch).permutation(n)
        } else {
            (0..n).collect()
        };
        self.order_epoch = Some(epoch);
    }
}

#[cfg(test)]
mod tests {
    use super::super::store::TokenStore;
    use super::*;

    fn examples(n: u32) -> Examples {
        Examples::documents(TokenStore::from_documents((0..n).map(|i| vec![i, 100, 100])))
    }

    fn config(shuffle: bool) -> BatcherConfig {
        BatcherConfig { batch_size: 2, grad_accum: 3, shuffle, seed: 7 }
    }

    fn firsts(batch: &StepBatch) -> Vec<Vec<u32>> {
        batch.microbatches.iter().map(|m| m.examples.iter().map(|e| e[0]).collect()).collect()
    }

    #[test]
    fn the_last_short_step_is_dealt_out() {
        let examples = examples(9);
        let mut batcher = Batcher::new(&examples, config(false)).unwrap();
        assert_eq!(batcher.steps_per_epoch(), 2);
        let first = batcher.step(Position::default());
        assert_eq!(firsts(&first), [vec![0, 1], vec![2, 3], vec![4, 5]]);
        assert_eq!(first.targets(), 12);
        let next = batcher.after(first.position);
        let second = batcher.step(next);
        assert_eq!(firsts(&second), [vec![6, 7], vec![8]]);
        assert_eq!(second.targets(), 6);
        assert_eq!(batcher.after(next), Position { epoch: 1, step_in_epoch: 0 });
        let mut position = Position::default();
        for steps in 0..5 {
            assert_eq!(batcher.position_of(steps), position);
            position = batcher.after(position);
        }
    }

    #[test]
    fn an_epoch_visits_every_example_once_in_an_order_of_its_own() {
        let examples = examples(50);
        let mut batcher = Batcher::new(&examples, config(true)).unwrap();
        let epoch = |batcher: &mut Batcher<'_>, epoch| -> Vec<u32> {
            let steps = 0..batcher.steps_per_epoch();
            let at = |step_in_epoch| batcher.step(Position { epoch, step_in_epoch });
            steps.map(at).flat_map(|b| firsts(&b).concat()).collect()
        };
        let (a, b, again) = (epoch(&mut batcher, 0), epoch(&mut batcher, 1), epoch(&mut batcher, 0));
        assert_eq!(a, again);
        assert_ne!(a, b);
        let mut sorted = a.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..50).collect::<Vec<_>>());
        let other = BatcherConfig { seed: 8, ..config(true) };
        assert_ne!(a, epoch(&mut Batcher::new(&examples, other).unwrap(), 0));
    }

    #[test]
    fn sizes_of_zero_are_refused() {
        let examples = examples(2);
        assert!(Batcher::new(&examples, BatcherConfig { batch_size: 0, ..config(true) }).is_err());
        let none = Examples::documents(TokenStore::from_documents(Vec::<Vec<u32>>::new()));
        assert!(Batcher::new(&none, config(true)).is_err());
    }
}
