//! The two bigram models: the authors' small network and a free table of logits.
//!
//! Legend: V vocabulary with EOS, O = V + 1 outputs (0 is PAD, V is EOS), H hidden units. A *context* is the previous
//! output: 0 stands for the begin of a sequence (and for PAD), `1..V` for the ordinary tokens. EOS is never a context.
//! Rows of logits are padded to `stride` columns, rows of hidden units to 64.

use mixce_base::rng::Stream;
use serde::{Deserialize, Serialize};

use super::estimators::logit_gradient;
use super::simd::{PAD, PADDING_LOGIT, View, matmul_add, softmax};

/// Width of the embedding and of the hidden layer (the authors' `hidden_size`).
pub const HIDDEN: usize = 50;
/// Contexts that go through the output layer together: a block of logits and its gradient stay in the second-level cache.
const BLOCK: usize = 32;
/// Row stride of everything that has [`HIDDEN`] columns.
pub(crate) const HIDDEN_STRIDE: usize = HIDDEN.next_multiple_of(PAD);

/// Which model is trained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ModelKind {
    /// `Embedding(V+1, 50) -> Linear(50, 50) -> ReLU -> Dropout(0.1) -> Linear(50, V+1)`, as in the authors' script.
    #[default]
    Network,
    /// One free logit for every pair of context and output.
    Table,
}

/// A bigram model and where its parameters are in one flat vector.
#[derive(Clone, Debug)]
pub struct Model {
    kind: ModelKind,
    vocab: usize,
    stride: usize,
    params: Vec<f32>,
}

/// Offsets of the network's parameters in the flat vector.
#[derive(Clone, Copy)]
pub(crate) struct Offsets {
    /// First layer `[H, HIDDEN_STRIDE]`, input-major.
    pub(crate) w1: usize,
    /// Its bias `[HIDDEN_STRIDE]`.
    pub(crate) b1: usize,
    /// Output layer `[H, stride]`, input-major.
    pub(crate) w2: usize,
    /// Its bias `[stride]`.
    pub(crate) b2: usize,
    /// Number of parameters.
    pub(crate) end: usize,
}

/// What a forward pass over all contexts leaves behind.
#[derive(Clone, Debug)]
pub(crate) struct Forward {
    /// Hidden units after ReLU `[V, HIDDEN_STRIDE]`, before dropout.
    pub(crate) hidden: Vec<f32>,
    /// The same after dropout.
    pub(crate) dropped: Vec<f32>,
    /// Logits, later probabilities `[V, stride]`.
    pub(crate) probs: Vec<f32>,
    /// Log normalisers `[V]`.
    pub(crate) log_z: Vec<f32>,
    /// Scratch for the gradient of the hidden units and for transposed weights.
    scratch: Vec<f32>,
    transposed: Vec<f32>,
}

impl Forward {
    /// Buffers for a model of this size.
    pub(crate) fn new(model: &Model) -> Self {
        let (v, stride) = (model.vocab, model.stride);
        Self {
            hidden: vec![0.0; v * HIDDEN_STRIDE],
            dropped: vec![0.0; v * HIDDEN_STRIDE],
            probs: vec![0.0; v * stride],
            log_z: vec![0.0; v],
            scratch: vec![0.0; v * HIDDEN_STRIDE],
            transposed: vec![0.0; stride.max(HIDDEN_STRIDE) * HIDDEN_STRIDE],
        }
    }
}

impl Model {
    /// A freshly initialised model: the network as PyTorch initialises it (embeddings normal(0, 1), linear layers
    /// uniform in ±1/sqrt(50)), the table with zeros (the uniform distribution).
    #[must_use]
    pub fn new(kind: ModelKind, vocab: usize, stream: Stream) -> Self {
        let stride = (vocab + 1).next_multiple_of(PAD);
        let mut model = Self { kind, vocab, stride, params: Vec::new() };
        let at = model.offsets();
        model.params = match kind {
            ModelKind::Table => vec![0.0; vocab * stride],
            ModelKind::Network => vec![0.0; at.end],
        };
        if kind == ModelKind::Network {
            let normals = stream.fold(0);
            for row in 0..=vocab {
                for unit in 0..HIDDEN {
                    model.params[row * HIDDEN_STRIDE + unit] =
                        normals.normal((row * HIDDEN + unit) as u64) as f32;
                }
            }
            let bound = 1.0 / (HIDDEN as f64).sqrt();
            let uniform =
                |label: u64, index: usize| (stream.fold(label).uniform(index as u64) * 2.0 - 1.0) * bound;
            for i in 0..HIDDEN {
                model.params[at.b1 + i] = uniform(2, i) as f32;
                for j in 0..HIDDEN {
                    model.params[at.w1 + i * HIDDEN_STRIDE + j] = uniform(1, i * HIDDEN + j) as f32;
                }
                for y in 0..=vocab {
                    model.params[at.w2 + i * stride + y] = uniform(3, i * (vocab + 1) + y) as f32;
                }
            }
            for y in 0..=vocab {
                model.params[at.b2 + y] = uniform(4, y) as f32;
            }
        }
        model
    }

    /// Which model it is.
    #[must_use]
    pub fn kind(&self) -> ModelKind {
        self.kind
    }

    /// Vocabulary with EOS.
    #[must_use]
    pub fn vocab(&self) -> usize {
        self.vocab
    }

    /// Columns of a row of logits with its padding.
    pub(crate) fn stride(&self) -> usize {
        self.stride
    }

    /// All parameters; padding is 0.
    #[must_use]
    pub fn params(&self) -> &[f32] {
        &self.params
    }

    /// All parameters, for the optimizer.
    pub(crate) fn params_mut(&mut self) -> &mut [f32] {
        &mut self.params
    }

    pub(crate) fn offsets(&self) -> Offsets {
        let w1 = (self.vocab + 1) * HIDDEN_STRIDE;
        let b1 = w1 + HIDDEN * HIDDEN_STRIDE;
        let w2 = b1 + HIDDEN_STRIDE;
        let b2 = w2 + HIDDEN * self.stride;
        Offsets { w1, b1, w2, b2, end: b2 + self.stride }
    }

    /// The learned probabilities `[V, V + 1]` of every context, dropout off.
    #[must_use]
    pub fn probabilities(&self) -> Vec<f64> {
        let mut forward = Forward::new(self);
        self.forward(None, &mut forward);
        let rows = forward.probs.chunks_exact(self.stride);
        rows.flat_map(|row| row[..=self.vocab].iter().map(|&q| f64::from(q))).collect()
    }

    /// Fills `hidden`: `relu(E W1 + b1)` for all contexts.
    pub(crate) fn hidden(&self, out: &mut [f32]) {
        let at = self.offsets();
        for row in out.chunks_exact_mut(HIDDEN_STRIDE) {
            row.copy_from_slice(&self.params[at.b1..at.b1 + HIDDEN_STRIDE]);
        }
        let embeddings = View::rows(&self.params, HIDDEN_STRIDE);
        matmul_add(self.vocab, HIDDEN_STRIDE, HIDDEN, embeddings, &self.params[at.w1..at.b1], out);
        out.iter_mut().for_each(|x| *x = x.max(0.0));
    }

    /// Logits `[rows, stride]` of dropped-out hidden units `[rows, HIDDEN_STRIDE]`, padding columns at minus infinity.
    pub(crate) fn logits(&self, dropped: &[f32], out: &mut [f32]) {
        let at = self.offsets();
        for row in out.chunks_exact_mut(self.stride) {
            row.copy_from_slice(&self.params[at.b2..at.end]);
            row[self.vocab + 1..].fill(PADDING_LOGIT);
        }
        let hidden = View::rows(dropped, HIDDEN_STRIDE);
        matmul_add(out.len() / self.stride, self.stride, HIDDEN, hidden, &self.params[at.w2..at.b2], out);
    }

    /// Probabilities and log normalisers of all contexts; `mask` `[V, HIDDEN_STRIDE]` multiplies the hidden units.
    pub(crate) fn forward(&self, mask: Option<&[f32]>, forward: &mut Forward) {
        let Forward { hidden, dropped, probs, log_z, .. } = forward;
        if self.kind == ModelKind::Table {
            probs.copy_from_slice(&self.params);
            for row in probs.chunks_exact_mut(self.stride) {
                row[self.vocab + 1..].fill(PADDING_LOGIT);
            }
            return softmax(probs, self.stride, log_z);
        }
        self.hidden(hidden);
        match mask {
            None => dropped.copy_from_slice(hidden),
            Some(mask) => {
                dropped.iter_mut().zip(hidden.iter().zip(mask)).for_each(|(out, (h, m))| *out = h * m);
            }
        }
        let blocks = dropped.chunks(BLOCK * HIDDEN_STRIDE).zip(probs.chunks_mut(BLOCK * self.stride));
        for ((dropped, probs), log_z) in blocks.zip(log_z.chunks_mut(BLOCK)) {
            self.logits(dropped, probs);
            softmax(probs, self.stride, log_z);
        }
    }

    /// Adds to `grads` the gradient of the parameters, given pseudo-counts `[V, stride]` (see [`logit_gradient`]).
    pub(crate) fn backward(
        &self,
        mask: Option<&[f32]>,
        forward: &mut Forward,
        pseudo: &[f32],
        grads: &mut [f32],
    ) {
        let stride = self.stride;
        let Forward { hidden, dropped, probs, scratch, transposed, .. } = forward;
        let d_logits = |first: usize, block: &mut [f32]| {
            let span = first * stride..first * stride + block.len();
            logit_gradient(&pseudo[span.clone()], &probs[span], stride, block);
        };
        match self.kind {
            ModelKind::Table => {
                let mut block = vec![0.0; BLOCK * stride];
                for (index, grads) in grads.chunks_mut(block.len()).enumerate() {
                    let block = &mut block[..grads.len()];
                    d_logits(index * BLOCK, block);
                    grads.iter_mut().zip(block).for_each(|(g, d)| *g += *d);
                }
            }
            ModelKind::Network => {
                self.backward_output(dropped, d_logits, transposed, scratch, grads);
                if let Some(mask) = mask {
                    scratch.iter_mut().zip(mask).for_each(|(d, m)| *d *= m);
                }
                self.backward_input(hidden, scratch, transposed, grads);
            }
        }
    }

    /// Adds the gradients of the output layer and overwrites that of its inputs. `d_logits` writes the gradient of the
    /// logits `[rows, stride]` from a given context on.
    pub(crate) fn backward_output(
        &self,
        dropped: &[f32],
        d_logits: impl Fn(usize, &mut [f32]),
        transposed: &mut [f32],
        d_dropped: &mut [f32],
        grads: &mut [f32],
    ) {
        let at = self.offsets();
        let (weights, biases) = grads[at.w2..at.end].split_at_mut(at.b2 - at.w2);
        transpose(&self.params[at.w2..at.b2], self.stride, transposed);
        d_dropped.fill(0.0);
        let mut block = vec![0.0; BLOCK * self.stride];
        let blocks = dropped.chunks(BLOCK * HIDDEN_STRIDE).zip(d_dropped.chunks_mut(BLOCK * HIDDEN_STRIDE));
        for (index, (dropped, d_dropped)) in blocks.enumerate() {
            let rows = dropped.len() / HIDDEN_STRIDE;
            let d = &mut block[..rows * self.stride];
            d_logits(index * BLOCK, d);
            let inputs = View::transposed(dropped, HIDDEN_STRIDE);
            matmul_add(HIDDEN, self.stride, rows, inputs, d, weights);
            for row in d.chunks_exact(self.stride) {
                biases.iter_mut().zip(row).for_each(|(g, d)| *g += d);
            }
            matmul_add(rows, HIDDEN_STRIDE, self.stride, View::rows(d, self.stride), transposed, d_dropped);
        }
    }

    /// Adds the gradients of the first layer and of the embeddings; `d_hidden` becomes the gradient before ReLU.
    pub(crate) fn backward_input(
        &self,
        hidden: &[f32],
        d_hidden: &mut [f32],
        transposed: &mut [f32],
        grads: &mut [f32],
    ) {
        let at = self.offsets();
        d_hidden.iter_mut().zip(hidden).for_each(|(d, &h)| *d = if h > 0.0 { *d } else { 0.0 });
        for row in d_hidden.chunks_exact(HIDDEN_STRIDE) {
            grads[at.b1..at.w2].iter_mut().zip(row).for_each(|(g, d)| *g += d);
        }
        let embeddings = View::transposed(&self.params, HIDDEN_STRIDE);
        matmul_add(HIDDEN, HIDDEN_STRIDE, self.vocab, embeddings, d_hidden, &mut grads[at.w1..at.b1]);
        transpose(&self.params[at.w1..at.b1], HIDDEN_STRIDE, transposed);
        let d = View::rows(d_hidden, HIDDEN_STRIDE);
        matmul_add(
            self.vocab,
            HIDDEN_STRIDE,
            HIDDEN,
            d,
            transposed,
            &mut grads[..self.vocab * HIDDEN_STRIDE],
        );
    }
}

/// Writes the transpose of `[HIDDEN, stride]` into `[stride, HIDDEN_STRIDE]`.
pub(crate) fn transpose(matrix: &[f32], stride: usize, out: &mut [f32]) {
    for (i, row) in matrix.chunks_exact(stride).enumerate() {
        for (j, &x) in row.iter().enumerate() {
            out[j * HIDDEN_STRIDE + i] = x;
        }
    }
}

#[cfg(test)]
#[path = "model_tests.rs"]
mod tests;
