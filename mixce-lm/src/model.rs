//! The model traits used by trainer, evaluation, sampling and the program.
//!
//! Legend: N packed tokens, B sequences, C channels, V vocabulary.

use std::fmt::Debug;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use mixce_kernels::rng::Stream;
use mixce_kernels::{Precision, StoredTensor};

use crate::batch::PackedBatch;
use crate::cache::KvCache;
use crate::config::{ModelConfig, ModelSpec};
use crate::error::Result;
use crate::gradients::Gradients;
use crate::params::Parameters;
use crate::sampler::Sampler;
use crate::session::Started;
use crate::{features, fingerprint};

/// Options of a training pass.
#[derive(Clone, Copy, Debug, Default)]
pub struct PassOptions {
    /// The stream of this microbatch's dropout masks; `None` for no dropout.
    pub dropout: Option<Stream>,
    /// Activation checkpointing: only the input of each block is saved, and the block is recomputed in the backward pass. About a
    /// third more time for a fraction of the memory; the result and all gradients are bit-identical.
    pub recompute: bool,
    /// Number format of the operands of the linear layers' products, forward and backward, and on CUDA of the activations saved
    /// inside the branches of a block. The residual stream, attention, norms, sums and gradients of parameters are computed in
    /// f32.
    pub precision: Precision,
}

/// Tokens per forward pass of scoring, unless a single text is longer.
pub const DEFAULT_BATCH_TOKENS: usize = 4096;

/// How texts are scored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScoringOptions {
    /// Tokens per forward pass, unless a single text is longer. Affects memory, and the result only by rounding.
    pub batch_tokens: usize,
    /// As in [`PassOptions`]; logits are f32.
    pub precision: Precision,
}

impl Default for ScoringOptions {
    fn default() -> Self {
        Self { batch_tokens: DEFAULT_BATCH_TOKENS, precision: Precision::F32 }
    }
}

/// A decoder-only language model with its weights: token ids in, final hidden states out.
///
/// The logits, `hidden lm_head^T`, are left to the caller, because training and scoring compute them for a slice of tokens at a time, and
/// sampling only for the last token of each sequence.
///
/// Whether a gradient reaches the weights depends on the tensors that a model was made from: variables for training, plain
/// tensors otherwise ([`LanguageModel::detached`]).
pub trait LanguageModel: Debug + Send + Sync {
    /// The configuration.
    fn config(&self) -> &Arc<dyn ModelConfig>;

    /// Sizes and special tokens.
    fn spec(&self) -> &ModelSpec;

    /// The weights, by published name.
    fn parameters(&self) -> &Parameters;

    /// The matrix of the LM head, `[V, C]`: the token embedding when tied.
    fn lm_head(&self) -> &StoredTensor;

    /// Final hidden states `[N, C]`, after the last norm, with candle's graph if the weights are variables. With a stream there is dropout,
    /// with separate random numbers for each layer and site.
    ///
    /// # Errors
    /// When a tensor operation fails.
    fn hidden_states(&self, batch: &PackedBatch, dropout: Option<Stream>) -> Result<Tensor>;

    /// [`LanguageModel::hidden_states`] without dropout, outside of any graph, with products in `precision`: the pass of scoring. In bf16
    /// the copies of parameters in training are read; other weights are rounded in each pass, so that no second copy of them exists.
    ///
    /// # Errors
    /// When this device has no bf16 ([`Precision::check`]); [`Error::NotFused`](crate::Error::NotFused) for bf16 elsewhere than on the CPU
    /// or CUDA with weights in f32; when a tensor operation fails.
    fn scoring_states(&self, batch: &PackedBatch, precision: Precision) -> Result<Tensor>;

    /// The forward pass of training, whose result holds the saved activations.
    ///
    /// # Errors
    /// [`Error::NotFused`](crate::Error::NotFused) on devices without fused kernels for what `options` ask; when a tensor
    /// operation fails.
    fn forward<'a>(&'a self, batch: &'a PackedBatch, options: PassOptions) -> Result<Box<dyn Forward + 'a>>;

    /// Prepares the model for sampling. The decoder has its own copy of every weight matrix; to avoid holding the weights twice, pass in
    /// their last owner.
    ///
    /// # Errors
    /// When this device has no products in `precision`; when a tensor operation fails.
    fn into_decoder(self: Box<Self>, precision: Precision) -> Result<Box<dyn Decoder>>;

    /// The same model outside any gradient graph; it shares the weights, so later updates of variables are visible.
    ///
    /// # Errors
    /// Never for a model built with its own parameters.
    fn detached(&self) -> Result<Box<dyn LanguageModel>> {
        self.config().build(self.parameters().detached())
    }

    /// The device of the weights.
    fn device(&self) -> &Device {
        self.lm_head().device()
    }

    /// Packs texts for this model (see [`PackedBatch::new`]).
    ///
    /// # Errors
    /// When a token id is outside the vocabulary or a text is longer than the model's positions.
    fn pack(&self, texts: &[&[u32]]) -> Result<PackedBatch> {
        PackedBatch::new(texts, self.spec(), self.device())
    }

    /// The final hidden state at the last token of each text, `[B, C]` on the CPU, in f32: the features of MAUVE.
    ///
    /// # Errors
    /// When a text is empty, longer than the model's positions or has a token outside the vocabulary; as
    /// [`LanguageModel::scoring_states`].
    fn last_hidden_states(&self, texts: &[&[u32]], options: ScoringOptions) -> Result<Tensor> {
        features::last_hidden_states(self, texts, options)
    }

    /// SHA-256, in hex, of the configuration and all weights in f32: models with equal fingerprints are identical, whatever format they
    /// were stored in.
    ///
    /// # Errors
    /// When a tensor cannot be read.
    fn fingerprint(&self) -> Result<String> {
        fingerprint::fingerprint(&**self.config(), self.parameters())
    }
}

/// A forward pass of training. It borrows its batch and its model, so a backward pass on another batch does not compile.
pub trait Forward {
    /// Final hidden states `[N, C]` after the last norm, outside any graph.
    fn hidden(&self) -> Tensor;

    /// The backward pass: `dhidden` `[N, C]` is the gradient of the hidden states; the gradient of every parameter is added to
    /// `gradients`. Saved activations and `dhidden` are freed as it proceeds. The caller adds the LM head's own gradient.
    ///
    /// # Errors
    /// When a tensor operation fails, or on devices without fused kernels when a parameter has no gradient.
    fn backward(self: Box<Self>, dhidden: Tensor, gradients: &Gradients) -> Result<()> {
        self.backward_with(dhidden, gradients, &mut |_| {})
    }

    /// [`Self::backward`], which goes from the last block to the first: as soon as the gradients of all parameters from an index on, in the
    /// model's order, are complete, `complete_from` is called with that index; those before it are when this returns. The LM head's own gradient must have been
    /// added before.
    ///
    /// Without fused kernels it is not called. On a GPU "complete" is what follows in the order of the device's work.
    ///
    /// # Errors
    /// As [`Self::backward`].
    fn backward_with(
        self: Box<Self>,
        dhidden: Tensor,
        gradients: &Gradients,
        complete_from: &mut dyn FnMut(usize),
    ) -> Result<()>;
}

/// A model prepared for sampling ([`LanguageModel::into_decoder`]).
pub trait Decoder: Debug + Send + Sync {
    /// Sizes and special tokens.
    fn spec(&self) -> &ModelSpec;

    /// The device of the weights.
    fn device(&self) -> &Device;

    /// Final hidden states `[B, C]` at the last token of each prompt, and a cache with room for `new_tokens` more tokens per
    /// sequence.
    ///
    /// # Errors
    /// When a prompt is empty or a tensor operation fails.
    fn prefill(&self, batch: &PackedBatch, new_tokens: usize) -> Result<(Tensor, KvCache)>;

    /// Final hidden states `[B, C]` of one more token for each sequence of the cache, which is extended by them.
    ///
    /// # Errors
    /// When the cache is full, a token id is outside the vocabulary, a sequence has used up the model's positions, or a tensor
    /// operation fails.
    fn decode(&self, ids: &[u32], cache: &mut KvCache) -> Result<Tensor>;

    /// Replaces `logits` by those of hidden states `[B, C]`, row after row: `[B, V]`.
    ///
    /// # Errors
    /// When a tensor operation fails.
    fn logits(&self, hidden: &Tensor, logits: &mut Vec<f32>) -> Result<()>;

    /// Reads prompts and chooses the first token behind each (`None` where a logit is not finite); the session continues them, by up to
    /// `new_tokens` tokens a sequence.
    ///
    /// # Errors
    /// As [`Decoder::prefill`].
    fn start<'a>(
        &'a self,
        batch: &PackedBatch,
        new_tokens: usize,
        sampler: Sampler<'a>,
    ) -> Result<Started<'a>>;

    /// Packs prompts for this model (see [`PackedBatch::new`]).
    ///
    /// # Errors
    /// When a token id is outside the vocabulary or a text is longer than the model's positions.
    fn pack(&self, texts: &[&[u32]]) -> Result<PackedBatch> {
        PackedBatch::new(texts, self.spec(), self.device())
    }
}
