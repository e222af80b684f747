//! Expected visits of the contexts: exact expectations over sequences, with exact gradients.
//!
//! A bigram model is a Markov chain that EOS absorbs. With A the `[V, V]` part of the transitions that continues
//! (outputs 0..V) and `n_1` the distribution after the first token, the expected visits of T tokens are `N = n_1 +
//! n_1 A + ... + n_1 A^(T-2)`, and an expectation of a sum over tokens is linear in N. Without a limit, N solves `N
//! (I - A) = n_1`; the value-to-go solves the adjoint system `(I - A) v = r`. With the limit of 500 tokens both are
//! sums of powers. After a few dozen powers the vectors turn parallel to the leading eigenvector; the rest of the sum
//! is then a geometric series, closed when the next power is parallel to 1e-13. The truncation is thereby exact to
//! rounding, at any limit, without 500 products.

use super::linear::{Factors, axpy64, dot64};

/// The length limit of sequences.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Horizon {
    /// At most this many tokens (at least 1); what continues is truncated.
    Tokens(usize),
    /// Until EOS, however long it takes: the linear system.
    Unbounded,
}

/// Relative deviation from the leading eigenvector below which powers are replaced by the geometric series.
const PARALLEL: f64 = 1e-13;

/// Vectors of a power iteration: explicit ones, then a geometric tail.
struct Powers {
    explicit: Vec<Vec<f64>>,
    ratio: f64,
}

impl Powers {
    /// `start, f(start), f(f(start)), ...`, at most `count` of them.
    fn run(start: Vec<f64>, count: usize, mut next: impl FnMut(&[f64]) -> Vec<f64>) -> Self {
        let mut explicit = vec![start];
        while explicit.len() < count {
            let Some(last) = explicit.last() else { break };
            let new = next(last);
            let norm = dot64(last, last);
            if norm == 0.0 {
                return Self { explicit, ratio: 0.0 };
            }
            let ratio = dot64(&new, last) / norm;
            let off: f64 = new.iter().zip(last).map(|(a, b)| (a - ratio * b).abs()).sum();
            let size: f64 = new.iter().map(|x| x.abs()).sum();
            explicit.push(new);
            if off <= PARALLEL * size {
                return Self { explicit, ratio };
            }
        }
        Self { explicit, ratio: 0.0 }
    }

    /// Vector `index` is `explicit[.0] * .1`.
    fn at(&self, index: usize) -> (usize, f64) {
        let last = self.explicit.len() - 1;
        if index <= last { (index, 1.0) } else { (last, self.ratio.powi((index - last) as i32)) }
    }

    /// The sum of the first `count` vectors.
    fn sum(&self, count: usize) -> Vec<f64> {
        let mut total = vec![0.0; self.explicit[0].len()];
        for index in 0..count {
            let (vector, factor) = self.at(index);
            axpy64(factor, &self.explicit[vector], &mut total);
        }
        total
    }
}

/// A bigram chain over V contexts and V + 1 outputs; row 0 also begins the sequence.
#[derive(Clone, Copy, Debug)]
pub struct Chain<'a> {
    vocab: usize,
    probs: &'a [f64],
}

/// The reward of a token: `[V + 1]` for the first token and `[V, V + 1]` after each output (row 0: after PAD).
#[derive(Clone, Debug)]
pub struct Rewards {
    /// Of the first token.
    pub first: Vec<f64>,
    /// Of the later ones.
    pub later: Vec<f64>,
}

/// An expectation and its gradient with respect to the probabilities, rewards held fixed.
#[derive(Clone, Debug)]
pub struct Expectation {
    /// The expected sum of rewards of a sequence.
    pub value: f64,
    /// `[V, V + 1]`.
    pub gradient: Vec<f64>,
}

impl<'a> Chain<'a> {
    /// A chain with probabilities `[V, V + 1]` (column 0 PAD, column V EOS).
    #[must_use]
    pub fn new(vocab: usize, probs: &'a [f64]) -> Self {
        Self { vocab, probs }
    }

    fn row(&self, context: usize) -> &'a [f64] {
        &self.probs[context * (self.vocab + 1)..][..=self.vocab]
    }

    /// `n A`.
    fn forward(&self, n: &[f64]) -> Vec<f64> {
        let mut out = vec![0.0; self.vocab];
        for (context, &mass) in n.iter().enumerate() {
            if mass != 0.0 {
                axpy64(mass, &self.row(context)[..self.vocab], &mut out);
            }
        }
        out
    }

    /// `A v`.
    fn backward(&self, v: &[f64]) -> Vec<f64> {
        (0..self.vocab).map(|context| dot64(&self.row(context)[..self.vocab], v)).collect()
    }

    fn factors(&self) -> Factors {
        let mut matrix = vec![0.0; self.vocab * self.vocab];
        for (context, row) in matrix.chunks_exact_mut(self.vocab).enumerate() {
            row.iter_mut().zip(self.row(context)).for_each(|(out, p)| *out = -p);
            row[context] += 1.0;
        }
        Factors::new(self.vocab, matrix)
    }

    /// Distributions after 1, 2, ... tokens, at most `count`.
    fn occupation(&self, count: usize) -> Powers {
        Powers::run(self.row(0)[..self.vocab].to_vec(), count, |n| self.forward(n))
    }

    /// Expected visits `[V]` of each context after the first token (the visit of the begin itself is not counted).
    #[must_use]
    pub fn visits(&self, horizon: Horizon) -> Vec<f64> {
        match horizon {
            Horizon::Tokens(0 | 1) => vec![0.0; self.vocab],
            Horizon::Tokens(tokens) => self.occupation(tokens - 1).sum(tokens - 1),
            Horizon::Unbounded => self.factors().solve_transposed(self.row(0)[..self.vocab].to_vec()),
        }
    }

    /// Expected transition counts `[V, V + 1]` of one sequence whose token number `limit` is a forced EOS.
    #[must_use]
    pub fn counts_with_forced_eos(&self, limit: usize) -> Vec<f64> {
        let outputs = self.vocab + 1;
        let free = self.visits(Horizon::Tokens(limit.saturating_sub(1)));
        let mut counts = vec![0.0; self.vocab * outputs];
        for (context, row) in counts.chunks_exact_mut(outputs).enumerate() {
            let visits = free[context] + if context == 0 && limit > 1 { 1.0 } else { 0.0 };
            axpy64(visits, self.row(context), row);
        }
        if limit > 1 {
            let occupation = self.occupation(limit - 1);
            let (vector, factor) = occupation.at(limit - 2);
            for (context, mass) in occupation.explicit[vector].iter().enumerate() {
                counts[context * outputs + self.vocab] += factor * mass;
            }
        } else {
            counts[self.vocab] += 1.0;
        }
        counts
    }

    /// The mean of `rewards` over contexts' own outputs `[V]`.
    fn mean_rewards(&self, rewards: &Rewards) -> Vec<f64> {
        let rows = rewards.later.chunks_exact(self.vocab + 1);
        rows.enumerate().map(|(context, row)| dot64(self.row(context), row)).collect()
    }

    /// The expected sum of rewards of a sequence, without gradient.
    #[must_use]
    pub fn expected(&self, rewards: &Rewards, horizon: Horizon) -> f64 {
        let visits = self.visits(horizon);
        dot64(self.row(0), &rewards.first) + dot64(&visits, &self.mean_rewards(rewards))
    }

    /// The expected sum of rewards of a sequence and its gradient: `N_c (reward_cy + value-to-go of y)`, with the
    /// visits and the values of the time left when there is a limit.
    #[must_use]
    pub fn expected_with_gradient(&self, rewards: &Rewards, horizon: Horizon) -> Expectation {
        let outputs = self.vocab + 1;
        let mean = self.mean_rewards(rewards);
        let mut gradient = vec![0.0; self.vocab * outputs];
        let (visits, first_value) = match horizon {
            Horizon::Unbounded => {
                let factors = self.factors();
                let visits = factors.solve_transposed(self.row(0)[..self.vocab].to_vec());
                let value = factors.solve(mean.clone());
                for (n, row) in visits.iter().zip(gradient.chunks_exact_mut(outputs)) {
                    axpy64(*n, &value, &mut row[..self.vocab]);
                }
                (visits, value)
            }
            Horizon::Tokens(tokens) => self.truncated(tokens, &mean, &mut gradient),
        };
        for ((n, row), reward) in
            visits.iter().zip(gradient.chunks_exact_mut(outputs)).zip(rewards.later.chunks_exact(outputs))
        {
            axpy64(*n, reward, row);
        }
        axpy64(1.0, &rewards.first, &mut gradient[..outputs]);
        axpy64(1.0, &first_value, &mut gradient[..self.vocab]);
        let value = dot64(self.row(0), &rewards.first) + dot64(&visits, &mean);
        Expectation { value, gradient }
    }

    /// Adds `sum_t n_t (x) v_(T-1-t)` to the gradient; returns the visits and the value-to-go after the first token.
    fn truncated(&self, tokens: usize, mean: &[f64], gradient: &mut [f64]) -> (Vec<f64>, Vec<f64>) {
        let left = tokens.saturating_sub(1); // tokens after the first one
        if left == 0 {
            return (vec![0.0; self.vocab], vec![0.0; self.vocab]);
        }
        let occupation = self.occupation(left);
        let powers = Powers::run(mean.to_vec(), left, |v| self.backward(v));
        // values[s]: expected reward of the next s tokens.
        let mut values = vec![vec![0.0; self.vocab]];
        for s in 0..left {
            let mut value = values[s].clone();
            let (vector, factor) = powers.at(s);
            axpy64(factor, &powers.explicit[vector], &mut value);
            values.push(value);
        }
        // Token t + 1 (t = 1..left) is drawn at n_t and leaves left - t tokens. Times with parallel n_t share one
        // product.
        let last = occupation.explicit.len() - 1;
        let mut products: Vec<Vec<f64>> =
            (0..=last).map(|i| values[left - 1 - i.min(left - 1)].clone()).collect();
        for index in last + 1..left {
            let (_, factor) = occupation.at(index);
            axpy64(factor, &values[left - 1 - index], &mut products[last]);
        }
        for (n, value) in occupation.explicit.iter().zip(&products) {
            for (mass, row) in n.iter().zip(gradient.chunks_exact_mut(self.vocab + 1)) {
                axpy64(*mass, value, &mut row[..self.vocab]);
            }
        }
        (occupation.sum(left), values.swap_remove(left))
    }
}

#[cfg(test)]
#[path = "visits_tests.rs"]
mod tests;
