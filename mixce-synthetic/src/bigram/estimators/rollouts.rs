//! Sequences sampled from Q and the score-function gradient of their rewards.

use mixce_base::rng::Stream;

use super::JsSequence;
use crate::bigram::sampler::{RowSampler, Walks};
use crate::bigram::simd::ln;

/// Tokens a model draws at most: the authors' loop stops when begin and tokens together are 500.
pub(crate) const ROLLOUT_TOKENS: usize = 499;

/// Views of the model and P: probabilities `[V, stride]`, floored log P by state `[V + 1, stride]`.
#[derive(Clone, Copy)]
pub(crate) struct Beliefs<'a> {
    /// V, the number of contexts and the output EOS.
    pub(crate) vocab: usize,
    /// Row stride of both matrices.
    pub(crate) stride: usize,
    /// Q.
    pub(crate) probs: &'a [f32],
    /// log P by state; state V is the begin, state 0 follows PAD.
    pub(crate) log_p: &'a [f32],
}

/// Sequences sampled from Q, in buffers that are used again.
#[derive(Debug)]
pub(crate) struct Rollouts {
    sampler: RowSampler,
    tokens: Vec<u16>,
    ends: Vec<usize>,
    to_go: Vec<f32>,
    totals: Vec<(f64, f64)>,
    own: Vec<(f64, f64)>,
}

/// The reward per token of a reverse term.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reward {
    /// `log Q - log P`: reverse KL.
    Kl,
    /// `-log P`: reverse cross-entropy.
    CrossEntropy,
}

impl Rollouts {
    /// Buffers for `vocab` contexts.
    pub(crate) fn new(vocab: usize) -> Self {
        Self {
            sampler: RowSampler::new(vocab, vocab + 1),
            tokens: Vec::new(),
            ends: Vec::new(),
            to_go: Vec::new(),
            totals: vec![(0.0, 0.0); vocab],
            own: vec![(0.0, 0.0); vocab],
        }
    }

    /// Draws `count` sequences; sequence i depends on the stream and i only.
    pub(crate) fn sample(&mut self, q: &Beliefs<'_>, count: usize, stream: Stream) {
        self.sampler.set(q.probs, q.stride);
        let walks = Walks { count, limit: ROLLOUT_TOKENS, end: q.vocab, stream, first: 0 };
        self.tokens.clear();
        self.ends.clear();
        self.sampler.walk(&walks, &mut self.tokens, &mut self.ends);
    }

    /// The spans of the sequences in the list of tokens.
    pub(crate) fn sequences(&self) -> impl Iterator<Item = std::ops::Range<usize>> {
        let mut start = 0;
        self.ends.iter().map(move |&end| std::mem::replace(&mut start, end)..end)
    }

    /// The tokens of a span.
    pub(crate) fn tokens(&self, span: std::ops::Range<usize>) -> &[u16] {
        &self.tokens[span]
    }

    /// The reward-to-go of each token of a span.
    pub(crate) fn to_go(&self, span: std::ops::Range<usize>) -> &[f32] {
        &self.to_go[span]
    }

    /// Fills the rewards-to-go of all tokens.
    pub(crate) fn measure_to_go(&mut self, q: &Beliefs<'_>, reward: Reward) {
        let mut to_go = std::mem::take(&mut self.to_go);
        to_go.clear();
        to_go.resize(self.tokens.len(), 0.0);
        for span in self.sequences() {
            let out = &mut to_go[span.clone()];
            walk(q, reward, &self.tokens[span], |position, _, r| out[position] = r as f32);
            let mut left = 0.0f64;
            for r in out.iter_mut().rev() {
                left += f64::from(*r);
                *r = left as f32;
            }
        }
        self.to_go = to_go;
    }

    /// The mean over sequences of `log Q` minus `log P`, or of `-log P`.
    pub(crate) fn mean_reward(&self, q: &Beliefs<'_>, reward: Reward) -> f64 {
        let total: f64 = self.sequences().map(|span| walk(q, reward, &self.tokens[span], |_, _, _| ())).sum();
        total / self.ends.len() as f64
    }

    /// The mean over sequences of `log Q - log M`.
    pub(crate) fn mean_js(&self, q: &Beliefs<'_>, eta: f64) -> f64 {
        let terms = self.sequences().map(|span| {
            let ratio = walk(q, Reward::Kl, &self.tokens[span], |_, _, _| ());
            JsSequence::new(eta, ratio, 0.0).from_q
        });
        terms.sum::<f64>() / self.ends.len() as f64
    }

    /// Adds to pseudo-counts the gradient of `scale * E_Q[sum of rewards]`.
    ///
    /// Score function: `E_Q[sum_t (R_t - b_t) grad log q_t]`, where `R_t` is the reward from token t on and the
    /// baseline `b_t` is the mean reward-to-go over the visits that *other* sequences make to the same context (over
    /// all their tokens when there is no such visit). A baseline that does not look at its own sequence leaves the
    /// mean of the gradient unchanged.
    pub(crate) fn add_reward_gradient(
        &mut self,
        q: &Beliefs<'_>,
        reward: Reward,
        scale: f64,
        pseudo: &mut [f32],
    ) {
        self.measure_to_go(q, reward);
        let to_go = std::mem::take(&mut self.to_go);
        self.totals.fill((0.0, 0.0));
        let (mut all_sum, mut all_visits) = (0.0, 0.0);
        let mut start = 0;
        for &end in &self.ends {
            each_context(&self.tokens[start..end], |position, context| {
                let r = f64::from(to_go[start + position]);
                self.totals[context].0 += r;
                self.totals[context].1 += 1.0;
                all_sum += r;
                all_visits += 1.0;
            });
            start = end;
        }
        let weight = scale / self.ends.len() as f64;
        start = 0;
        for &end in &self.ends {
            let tokens = &self.tokens[start..end];
            let (mut own_sum, mut own_visits) = (0.0, 0.0);
            each_context(tokens, |position, context| {
                let r = f64::from(to_go[start + position]);
                self.own[context].0 += r;
                self.own[context].1 += 1.0;
                own_sum += r;
                own_visits += 1.0;
            });
            let fallback =
                if all_visits > own_visits { (all_sum - own_sum) / (all_visits - own_visits) } else { 0.0 };
            each_context(tokens, |position, context| {
                let (total, own) = (self.totals[context], self.own[context]);
                let baseline = if total.1 > own.1 { (total.0 - own.0) / (total.1 - own.1) } else { fallback };
                let advantage = f64::from(to_go[start + position]) - baseline;
                pseudo[context * q.stride + usize::from(tokens[position])] -= (weight * advantage) as f32;
            });
            each_context(tokens, |_, context| self.own[context] = (0.0, 0.0));
            start = end;
        }
        self.to_go = to_go;
    }

    /// Adds to pseudo-counts the gradient of `scale * E_Q[log P - log M]`, the part of `KL(Q || M)` that is no
    /// reverse KL.
    ///
    /// `E_Q[(g - b + dg/dlog Q) grad log Q]` with `g = log P - log M` of the whole sequence, which the clamp bounds,
    /// and b the mean of g over the other sequences.
    pub(crate) fn add_mixture_gradient(&self, q: &Beliefs<'_>, eta: f64, scale: f64, pseudo: &mut [f32]) {
        let terms: Vec<JsSequence> = self
            .sequences()
            .map(|span| JsSequence::new(eta, walk(q, Reward::Kl, &self.tokens[span], |_, _, _| ()), 0.0))
            .collect();
        let n = terms.len() as f64;
        let total: f64 = terms.iter().map(|t| t.from_p).sum();
        for (span, term) in self.sequences().zip(&terms) {
            let baseline = if n > 1.0 { (total - term.from_p) / (n - 1.0) } else { 0.0 };
            let weight = scale / n * (term.from_p - baseline - term.share);
            let tokens = &self.tokens[span];
            each_context(tokens, |position, context| {
                pseudo[context * q.stride + usize::from(tokens[position])] -= weight as f32;
            });
        }
    }
}

/// Visits (position, context) of every token.
#[inline]
fn each_context(tokens: &[u16], mut visit: impl FnMut(usize, usize)) {
    let mut context = 0;
    for (position, &token) in tokens.iter().enumerate() {
        visit(position, context);
        context = usize::from(token);
    }
}

/// Visits (position, state, reward) of every token and returns the sum of rewards.
fn walk(q: &Beliefs<'_>, reward: Reward, tokens: &[u16], mut visit: impl FnMut(usize, usize, f64)) -> f64 {
    let mut total = 0.0;
    let mut state = q.vocab;
    for (position, &token) in tokens.iter().enumerate() {
        let token = usize::from(token);
        let context = if state == q.vocab { 0 } else { state };
        let log_p = f64::from(q.log_p[state * q.stride + token]);
        let log_q = match reward {
            Reward::Kl => f64::from(ln(q.probs[context * q.stride + token].max(f32::MIN_POSITIVE))),
            Reward::CrossEntropy => 0.0,
        };
        visit(position, state, log_q - log_p);
        total += log_q - log_p;
        state = token;
    }
    total
}
