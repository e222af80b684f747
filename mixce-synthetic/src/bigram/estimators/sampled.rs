//! `sampled`: the authors' estimator, token by token.
//!
//! Dropout is drawn for every position; reverse terms are differentiated through straight-through Gumbel-softmax
//! samples (tau 1, hard) fed back as `one_hot @ E`, with the previous one-hot detached inside log P.
//! Two identities make it fast, without changing results beyond rounding. The first layer depends on the context only, so it runs
//! once per context and step. And dropout removes about two and a half of the 25 active units, so the logits of a position are
//! those of the context minus a few rows of the output layer; backward, the sum of logit gradients per context does all the work
//! of the units that stayed, minus the same few rows.

use mixce_base::rng::Stream;

use super::JsSequence;
use super::gumbel::{argmax, gumbels};
use super::rollouts::{ROLLOUT_TOKENS, Reward};
use crate::bigram::dropout::Dropout;
use crate::bigram::model::{HIDDEN, HIDDEN_STRIDE, Model};
use crate::bigram::objective::TokenWeight;
use crate::bigram::sequences::Sequences;
use crate::bigram::simd::{View, axpy, dot, exp, log_softmax_row, matmul_add, softmax_row, wide};

/// One position of a sequence, kept for the backward pass.
#[derive(Clone, Copy, Debug)]
struct Position {
    context: usize,
    state: usize,
    token: usize,
    dropped: u64,
}

/// State of one step: what depends on the parameters only, and the accumulated gradient.
#[derive(Debug)]
pub(crate) struct Sampled {
    vocab: usize,
    stride: usize,
    dropout: Dropout,
    /// Active units `[V, HIDDEN_STRIDE]`, after ReLU.
    hidden: Vec<f32>,
    /// The same times the dropout scale.
    scaled: Vec<f32>,
    /// Which units are active, as bits `[V]`.
    active: Vec<u64>,
    /// Logits of every context if nothing were dropped `[V, stride]`.
    base: Vec<f32>,
    /// Output layer `[H, stride]`.
    w2: Vec<f32>,
    /// `(E W1)^T` `[H, stride]`: the way from a one-hot input to the units.
    input: Vec<f32>,
    /// Sum of logit gradients by context `[V, stride]`.
    sums: Vec<f32>,
    /// Gradient of the output layer through dropped units `[H, stride]`, negative.
    w2_dropped: Vec<f32>,
    /// Gradient of the units where they were dropped `[V, HIDDEN_STRIDE]`, negative.
    hidden_dropped: Vec<f32>,
    positions: Vec<Position>,
    /// log q of the positions of one sequence `[500, stride]`.
    log_q: Vec<f32>,
    /// Soft Gumbel samples of the positions of one sequence `[500, stride]`.
    soft: Vec<f32>,
    row: Vec<f32>,
    carry: Vec<f32>,
    transposed: Vec<f32>,
    d_dropped: Vec<f32>,
}

impl Sampled {
    /// Buffers for a network; the table has no units to drop and no embeddings to feed back.
    pub(crate) fn new(model: &Model, dropout: Dropout) -> Self {
        let (vocab, stride) = (model.vocab(), model.stride());
        let longest = crate::bigram::sequences::MAX_TOKENS;
        Self {
            vocab,
            stride,
            dropout,
            hidden: vec![0.0; vocab * HIDDEN_STRIDE],
            scaled: vec![0.0; vocab * HIDDEN_STRIDE],
            active: vec![0; vocab],
            base: vec![0.0; vocab * stride],
            w2: vec![0.0; HIDDEN * stride],
            input: vec![0.0; HIDDEN * stride],
            sums: vec![0.0; vocab * stride],
            w2_dropped: vec![0.0; HIDDEN * stride],
            hidden_dropped: vec![0.0; vocab * HIDDEN_STRIDE],
            positions: Vec::with_capacity(longest),
            log_q: vec![0.0; longest * stride],
            soft: vec![0.0; longest * stride],
            row: vec![0.0; stride],
            carry: vec![0.0; stride],
            transposed: vec![0.0; stride.max(HIDDEN_STRIDE) * HIDDEN_STRIDE],
            d_dropped: vec![0.0; vocab * HIDDEN_STRIDE],
        }
    }

    /// Prepares a step at the model's present parameters.
    pub(crate) fn begin(&mut self, model: &Model) {
        let at = model.offsets();
        model.hidden(&mut self.hidden);
        let scale = self.dropout.scale();
        self.scaled.iter_mut().zip(&self.hidden).for_each(|(s, h)| *s = scale * h);
        for (bits, row) in self.active.iter_mut().zip(self.hidden.chunks_exact(HIDDEN_STRIDE)) {
            *bits = row[..HIDDEN].iter().enumerate().fold(0, |bits, (i, h)| bits | u64::from(*h > 0.0) << i);
        }
        model.logits(&self.scaled, &mut self.base);
        self.w2.copy_from_slice(&model.params()[at.w2..at.b2]);
        let rows = self.vocab + 1;
        let mut product = vec![0.0; rows * HIDDEN_STRIDE];
        let embeddings = View::rows(model.params(), HIDDEN_STRIDE);
        matmul_add(rows, HIDDEN_STRIDE, HIDDEN, embeddings, &model.params()[at.w1..at.b1], &mut product);
        for (output, row) in product.chunks_exact(HIDDEN_STRIDE).enumerate() {
            row[..HIDDEN]
                .iter()
                .enumerate()
                .for_each(|(unit, x)| self.input[unit * self.stride + output] = *x);
        }
        for buffer in [&mut self.sums, &mut self.w2_dropped, &mut self.hidden_dropped] {
            buffer.fill(0.0);
        }
    }

    /// Overwrites `grads` with the gradient of everything added since [`Sampled::begin`].
    pub(crate) fn finish(&mut self, model: &Model, grads: &mut [f32]) {
        let at = model.offsets();
        grads.fill(0.0);
        let (sums, stride) = (&self.sums, self.stride);
        let d_logits = |first: usize, block: &mut [f32]| {
            block.copy_from_slice(&sums[first * stride..][..block.len()]);
        };
        model.backward_output(&self.scaled, d_logits, &mut self.transposed, &mut self.d_dropped, grads);
        grads[at.w2..at.b2].iter_mut().zip(&self.w2_dropped).for_each(|(g, d)| *g += d);
        let scale = self.dropout.scale();
        self.d_dropped.iter_mut().zip(&self.hidden_dropped).for_each(|(d, x)| *d = scale * (*d + x));
        model.backward_input(&self.hidden, &mut self.d_dropped, &mut self.transposed, grads);
    }

    /// Adds `scale * sum over the batch of -log q_t` with detached weights w(q_t).
    pub(crate) fn add_data(
        &mut self,
        data: &Sequences,
        batch: &[u32],
        weight: &TokenWeight,
        scale: f64,
        stream: Stream,
    ) {
        let sampled = self;
        wide!('a, (
            sampled: &'a mut Sampled, data: &'a Sequences, batch: &'a [u32], weight: &'a TokenWeight,
            scale: f64, stream: Stream,
        ), {
            for &index in batch {
                let stream = stream.fold(u64::from(index));
                let mut context = 0;
                for (position, &token) in data.get(index as usize).iter().enumerate() {
                    let token = usize::from(token);
                    let dropped = sampled.dropout.bits(stream, position as u64) & sampled.active[context];
                    let mut row = std::mem::take(&mut sampled.row);
                    sampled.logits(context, dropped, &mut row);
                    softmax_row(&mut row);
                    let q = row[token];
                    let factor = scale as f32 * weight.weight(q);
                    row[token] -= 1.0;
                    row.iter_mut().for_each(|d| *d *= factor);
                    sampled.accumulate(context, dropped, &row);
                    sampled.row = row;
                    context = token;
                }
            }
        });
    }

    /// Adds `scale * mean over the batch of (log P - log M)`, sequence by sequence.
    pub(crate) fn add_js_data(&mut self, data: &Sequences, batch: &[u32], eta: f64, stream: Stream) {
        let (scale, sampled) = (eta / batch.len() as f64, self);
        wide!('a, (
            sampled: &'a mut Sampled, data: &'a Sequences, batch: &'a [u32], eta: f64, scale: f64, stream: Stream,
        ), {
            for &index in batch {
                let stream = stream.fold(u64::from(index));
                let log_q = sampled.run_data(data.get(index as usize), stream);
                let share = JsSequence::new(eta, log_q, data.log_p(index as usize)).share;
                sampled.backward_log_q((scale * share) as f32);
            }
        });
    }

    /// Adds `scale * mean over count samples of f`, f the reward of the sequence.
    pub(crate) fn add_reverse(
        &mut self,
        log_p: &[f32],
        reward: Reward,
        count: usize,
        scale: f64,
        stream: Stream,
    ) {
        let factor = (scale / count as f64) as f32;
        let by_q = if reward == Reward::Kl { factor } else { 0.0 };
        let sampled = self;
        wide!('a, (
            sampled: &'a mut Sampled, log_p: &'a [f32], by_q: f32, factor: f32, count: usize, stream: Stream,
        ), {
            for index in 0..count {
                sampled.run_gumbel(stream.fold(index as u64));
                sampled.backward_gumbel(log_p, by_q, factor);
            }
        });
    }

    /// Adds `scale * mean over count samples of (log Q - log M)`.
    pub(crate) fn add_js_reverse(
        &mut self,
        log_p: &[f32],
        eta: f64,
        count: usize,
        scale: f64,
        stream: Stream,
    ) {
        let sampled = self;
        wide!('a, (
            sampled: &'a mut Sampled, log_p: &'a [f32], eta: f64, count: usize, scale: f64, stream: Stream,
        ), {
            for index in 0..count {
                sampled.run_gumbel(stream.fold(index as u64));
                let ratio: f64 = (sampled.positions.iter().enumerate())
                    .map(|(t, p)| {
                        f64::from(sampled.log_q[t * sampled.stride + p.token])
                            - f64::from(log_p[p.state * sampled.stride + p.token])
                    })
                    .sum();
                let share = JsSequence::new(eta, ratio, 0.0).share;
                let factor = (scale / count as f64 * (1.0 - share)) as f32;
                sampled.backward_gumbel(log_p, factor, factor);
            }
        });
    }

    /// Logits of a position.
    #[inline(always)]
    fn logits(&self, context: usize, dropped: u64, row: &mut [f32]) {
        row.copy_from_slice(&self.base[context * self.stride..][..self.stride]);
        each_unit(dropped, |unit| {
            let h = self.scaled[context * HIDDEN_STRIDE + unit];
            axpy(-h, &self.w2[unit * self.stride..][..self.stride], row);
        });
    }

    /// Adds the logit gradient of a position to the sums.
    #[inline(always)]
    fn accumulate(&mut self, context: usize, dropped: u64, d: &[f32]) {
        let stride = self.stride;
        axpy(1.0, d, &mut self.sums[context * stride..][..stride]);
        each_unit(dropped, |unit| {
            let h = self.scaled[context * HIDDEN_STRIDE + unit];
            axpy(-h, d, &mut self.w2_dropped[unit * stride..][..stride]);
            let lost = dot(&self.w2[unit * stride..][..stride], d);
            self.hidden_dropped[context * HIDDEN_STRIDE + unit] -= lost;
        });
    }

    /// Forward over a data sequence; keeps positions and log q, returns log Q.
    #[inline(always)]
    fn run_data(&mut self, tokens: &[u16], stream: Stream) -> f64 {
        self.positions.clear();
        let (mut context, mut total) = (0, 0.0);
        for (t, &token) in tokens.iter().enumerate() {
            let token = usize::from(token);
            let dropped = self.dropout.bits(stream, t as u64) & self.active[context];
            self.positions.push(Position { context, state: context, token, dropped });
            let mut row = std::mem::take(&mut self.row);
            self.logits(context, dropped, &mut row);
            let log_q = &mut self.log_q[t * self.stride..][..self.stride];
            log_softmax_row(&mut row, log_q);
            total += f64::from(log_q[token]);
            self.row = row;
            context = token;
        }
        total
    }

    /// Backward of `factor * -log Q` over the kept positions.
    #[inline(always)]
    fn backward_log_q(&mut self, factor: f32) {
        for t in 0..self.positions.len() {
            let position = self.positions[t];
            let mut row = std::mem::take(&mut self.row);
            row.iter_mut().zip(&self.log_q[t * self.stride..]).for_each(|(d, l)| *d = factor * exp(*l));
            row[position.token] -= factor;
            self.accumulate(position.context, position.dropped, &row);
            self.row = row;
        }
    }

    /// Samples one sequence with Gumbel noise; keeps positions, log q and soft samples.
    #[inline(always)]
    fn run_gumbel(&mut self, stream: Stream) {
        let (masks, noise) = (stream.fold(0), stream.fold(1));
        let stride = self.stride;
        self.positions.clear();
        let (mut context, mut state) = (0, self.vocab);
        for t in 0..ROLLOUT_TOKENS {
            let dropped = self.dropout.bits(masks, t as u64) & self.active[context];
            let mut row = std::mem::take(&mut self.row);
            self.logits(context, dropped, &mut row);
            let soft = &mut self.soft[t * stride..][..stride];
            gumbels(noise, t as u64, soft);
            soft.iter_mut().zip(&row).for_each(|(g, z)| *g += z);
            let token = argmax(&soft[..=self.vocab]);
            softmax_row(soft);
            log_softmax_row(&mut row, &mut self.log_q[t * stride..][..stride]);
            self.row = row;
            self.positions.push(Position { context, state, token, dropped });
            if token == self.vocab {
                break;
            }
            (context, state) = (token, token);
        }
    }

    /// Backward of `sum_t one_hot_t . (by_q log q_t - by_p log P_t)` through the straight-through samples.
    #[inline(always)]
    fn backward_gumbel(&mut self, log_p: &[f32], by_q: f32, by_p: f32) {
        let stride = self.stride;
        let mut carry = std::mem::take(&mut self.carry);
        carry.fill(0.0);
        for t in (0..self.positions.len()).rev() {
            let Position { context, state, token, dropped } = self.positions[t];
            let mut row = std::mem::take(&mut self.row);
            let log_q = &self.log_q[t * stride..][..stride];
            let soft = &self.soft[t * stride..][..stride];
            let log_p = &log_p[state * stride..][..stride];
            // The gradient of the one-hot: its own terms and what the next input asks for.
            for (((g, c), l), p) in row.iter_mut().zip(&carry).zip(log_q).zip(log_p) {
                *g = c + by_q * l - by_p * p;
            }
            let mean = dot(&row, soft);
            for ((g, y), l) in row.iter_mut().zip(soft).zip(log_q) {
                *g = y * (*g - mean) - by_q * exp(*l);
            }
            row[token] += by_q;
            self.accumulate(context, dropped, &row);
            if t > 0 {
                self.feed_back(context, dropped, &row, &mut carry);
            }
            self.row = row;
        }
        self.carry = carry;
    }

    /// The gradient of the one-hot that was this position's input.
    #[inline(always)]
    fn feed_back(&self, context: usize, dropped: u64, d: &[f32], carry: &mut [f32]) {
        carry.fill(0.0);
        let scale = self.dropout.scale();
        each_unit(self.active[context] & !dropped, |unit| {
            let du = scale * dot(&self.w2[unit * self.stride..][..self.stride], d);
            axpy(du, &self.input[unit * self.stride..][..self.stride], carry);
        });
    }
}

/// Visits the set bits.
#[inline(always)]
fn each_unit(mut bits: u64, mut visit: impl FnMut(usize)) {
    while bits != 0 {
        visit(bits.trailing_zeros() as usize);
        bits &= bits - 1;
    }
}

#[cfg(test)]
#[path = "sampled_tests.rs"]
mod tests;
