//! Sequences sampled from P, and their transition counts.

use mixce_base::rng::{Stream, purpose};
use rayon::prelude::*;

use super::sampler::{RowSampler, Walks};
use super::{World, world::PROBABILITY_FLOOR};

/// Tokens of a sequence at most, EOS included (the authors' `MAX_LENGTH`); data end with a forced EOS there.
pub const MAX_TOKENS: usize = 500;

/// Sequences one after another. Tokens are outputs of the model: `1..=V`, where V is EOS.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sequences {
    tokens: Vec<u16>,
    ends: Vec<usize>,
    log_p: Vec<f64>,
}

impl Sequences {
    /// Samples `count` sequences from `world`. EOS is forced as token [`MAX_TOKENS`]; its log probability is recorded
    /// from P. Sequence i depends on `seed` and i only.
    #[must_use]
    pub fn sample(world: &World, count: usize, seed: u64) -> Self {
        let vocab = world.vocab();
        let contexts = world.contexts();
        let mut sampler = RowSampler::new(vocab, vocab + 1);
        let rows: Vec<f32> = contexts.iter().map(|p| *p as f32).collect();
        sampler.set(&rows, vocab + 1);
        let log_p: Vec<f64> = contexts.iter().map(|p| (p + PROBABILITY_FLOOR).ln()).collect();
        let stream = Stream::new(seed).fold(purpose::BIGRAM).fold(2);
        let chunk = 512;
        let parts: Vec<Self> = (0..count.div_ceil(chunk))
            .into_par_iter()
            .map(|part| {
                let first = part * chunk;
                let walks = Walks {
                    count: chunk.min(count - first),
                    limit: MAX_TOKENS - 1,
                    end: vocab,
                    stream,
                    first,
                };
                let mut out = Self::default();
                sampler.walk(&walks, &mut out.tokens, &mut out.ends);
                out.finish(&log_p, vocab);
                out
            })
            .collect();
        let mut all = Self::default();
        for part in parts {
            let offset = all.tokens.len();
            all.tokens.extend(part.tokens);
            all.ends.extend(part.ends.into_iter().map(|end| offset + end));
            all.log_p.extend(part.log_p);
        }
        all
    }

    /// Forces EOS where a walk reached its limit and adds up log P.
    fn finish(&mut self, log_p: &[f64], vocab: usize) {
        let walked = std::mem::take(&mut self.tokens);
        let mut start = 0;
        for end in &mut self.ends {
            let mut context = 0;
            let mut total = 0.0;
            let tokens = &walked[std::mem::replace(&mut start, *end)..*end];
            let forced = tokens.last().is_none_or(|last| usize::from(*last) != vocab).then_some(vocab as u16);
            for token in tokens.iter().copied().chain(forced) {
                self.tokens.push(token);
                total += log_p[context * (vocab + 1) + usize::from(token)];
                context = usize::from(token);
            }
            *end = self.tokens.len();
            self.log_p.push(total);
        }
    }

    /// How many sequences there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// How many tokens there are, EOS included.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.tokens.len()
    }

    /// The tokens of sequence `index`; empty past the end.
    #[must_use]
    pub fn get(&self, index: usize) -> &[u16] {
        let Some(&end) = self.ends.get(index) else { return &[] };
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        &self.tokens[start..end]
    }

    /// log P of sequence `index`, nats.
    #[must_use]
    pub fn log_p(&self, index: usize) -> f64 {
        self.log_p.get(index).copied().unwrap_or(0.0)
    }

    /// Splits off the first `count` sequences.
    #[must_use]
    pub fn split(mut self, count: usize) -> (Self, Self) {
        let count = count.min(self.len());
        let at = if count == 0 { 0 } else { self.ends[count - 1] };
        let tail = Self {
            tokens: self.tokens.split_off(at),
            ends: self.ends.split_off(count).into_iter().map(|end| end - at).collect(),
            log_p: self.log_p.split_off(count),
        };
        (self, tail)
    }

    /// Adds `weight` to cell (context, token) of `[V, stride]` for every token of sequence `index`.
    #[inline]
    pub fn count(&self, index: usize, weight: f32, stride: usize, counts: &mut [f32]) {
        let mut context = 0usize;
        for &token in self.get(index) {
            counts[context * stride + usize::from(token)] += weight;
            context = usize::from(token);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_end_once_and_follow_p() {
        let world = World::random(6, 0.5, 5).unwrap();
        let data = Sequences::sample(&world, 20_000, 5);
        let contexts = world.contexts();
        let mut counts = vec![0f32; 6 * 16];
        for i in 0..data.len() {
            let tokens = data.get(i);
            assert_eq!(tokens.iter().filter(|t| **t == 6).count(), 1);
            assert_eq!(tokens.last(), Some(&6));
            data.count(i, 1.0, 16, &mut counts);
            let mut context = 0;
            let log_p: f64 = tokens
                .iter()
                .map(|&t| contexts[std::mem::replace(&mut context, usize::from(t)) * 7 + usize::from(t)].ln())
                .sum();
            assert!((log_p - data.log_p(i)).abs() < 1e-9);
        }
        for (row, p) in counts.chunks(16).zip(contexts.chunks(7)) {
            let n: f32 = row.iter().sum();
            for (c, p) in row.iter().zip(p) {
                let sd = (p * (1.0 - p) / f64::from(n)).sqrt();
                assert!((f64::from(c / n) - p).abs() <= 5.0 * sd, "{c} {n} {p}");
            }
        }
    }

    #[test]
    fn eos_is_forced_at_500_and_thread_count_does_not_matter() {
        let stay = 0.9999;
        let world = World::new(vec![1.0, 0.0], vec![stay, 1.0 - stay, 0.0, 0.0]).unwrap();
        let data = Sequences::sample(&world, 200, 1);
        let longest = (0..200).map(|i| data.get(i).len()).max().unwrap();
        assert_eq!(longest, 500);
        let forced = (0..200).find(|&i| data.get(i).len() == 500).unwrap();
        let want = 498.0 * stay.ln() + (1.0 - stay).ln();
        assert!((data.log_p(forced) - want).abs() < 1e-9);
        let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        assert_eq!(one.install(|| Sequences::sample(&world, 700, 1)), Sequences::sample(&world, 700, 1));
        let (head, tail) = data.clone().split(60);
        assert_eq!((head.len(), tail.len()), (60, 140));
        assert_eq!(tail.get(3), data.get(63));
        assert_eq!(tail.log_p(3), data.log_p(63));
        assert!(data.get(200).is_empty());
    }
}
