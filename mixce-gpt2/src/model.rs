//! The GPT-2 model: token ids in, final hidden states out.
//!
//! Legend: N packed tokens, B sequences, C channels, H heads, D head size, V vocabulary.
//!
//! The logits are `hidden lm_head^T`; they are left to the caller, because training and scoring only ever want them for a
//! slice of tokens and sampling only for the last token of each sequence.

use candle_core::{Device, Tensor};
use mixce_kernels::rng::Stream;
use mixce_kernels::{Dropout, Embedded, Norm, causal_attention, embedding_sum};

use crate::backward::Pass;
use crate::batch::PackedBatch;
use crate::block::{Block, norm};
use crate::config::Gpt2Config;
use crate::error::Result;
use crate::params::Parameters;

/// A GPT-2 (Radford et al., 2019) with its weights.
///
/// Whether a gradient reaches the weights depends on the tensors it was made from: variables for training, plain tensors
/// otherwise (see [`Gpt2::detached`]). Cloning is cheap.
#[derive(Debug, Clone)]
pub struct Gpt2 {
    config: Gpt2Config,
    parameters: Parameters,
    wte: Tensor,
    wpe: Tensor,
    pub(crate) blocks: Vec<Block>,
    pub(crate) ln_f: Norm,
    lm_head: Tensor,
}

/// The parts of a model outside of any gradient graph.
pub(crate) struct Detached {
    pub(crate) config: Gpt2Config,
    pub(crate) wte: Tensor,
    pub(crate) wpe: Tensor,
    pub(crate) blocks: Vec<Block>,
    pub(crate) ln_f: Norm,
    pub(crate) lm_head: Tensor,
}

impl Gpt2 {
    /// A model of this configuration with these weights.
    ///
    /// # Errors
    /// When the configuration is invalid or a parameter is missing.
    pub fn new(config: Gpt2Config, parameters: Parameters) -> Result<Self> {
        config.validate()?;
        let wte = parameters.get("wte.weight")?.clone();
        let blocks = (0..config.n_layer).map(|layer| Block::load(&config, &parameters, layer));
        Ok(Self {
            wpe: parameters.get("wpe.weight")?.clone(),
            blocks: blocks.collect::<Result<_>>()?,
            ln_f: norm(&parameters, "ln_f", config.layer_norm_epsilon)?,
            lm_head: parameters.get(config.lm_head_name())?.clone(),
            wte,
            parameters,
            config,
        })
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &Gpt2Config {
        &self.config
    }

    /// The weights.
    #[must_use]
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// The matrix of the LM head, `[V, C]`: the token embedding when tied.
    #[must_use]
    pub fn lm_head(&self) -> &Tensor {
        &self.lm_head
    }

    /// The device of the weights.
    #[must_use]
    pub fn device(&self) -> &Device {
        self.wte.device()
    }

    /// The same model outside of any gradient graph; it shares the weights, so it sees later updates of variables.
    ///
    /// # Errors
    /// Never for a model that was made by [`Gpt2::new`].
    pub fn detached(&self) -> Result<Self> {
        Self::new(self.config.clone(), self.parameters.detached())
    }

    /// The same, without the parameters by name: whoever takes it apart may free each tensor when it is done with it.
    pub(crate) fn detached_parts(self) -> Detached {
        let Self { config, parameters, wte, wpe, blocks, ln_f, lm_head } = self;
        drop(parameters);
        let blocks = blocks.into_iter().map(|block| block.detach()).collect();
        let (wte, wpe, lm_head) = (wte.detach(), wpe.detach(), lm_head.detach());
        Detached { config, wte, wpe, blocks, ln_f: ln_f.detach(), lm_head }
    }

    /// Packs texts for this model (see [`PackedBatch::new`]).
    ///
    /// # Errors
    /// When a token id is outside the vocabulary or a text is longer than the model's positions.
    pub fn pack(&self, texts: &[&[u32]]) -> Result<PackedBatch> {
        PackedBatch::new(texts, &self.config, self.device())
    }

    /// Final hidden states `[N, C]`, after the last layer norm, of a packed batch.
    ///
    /// With a stream, the configuration's three dropouts act, each layer and site with its own numbers; without one (the
    /// way to evaluate and to sample) nothing is random.
    ///
    /// # Errors
    /// When a tensor operation fails.
    pub fn hidden_states(&self, batch: &PackedBatch, dropout: Option<Stream>) -> Result<Tensor> {
        let mut x = self.embed(&batch.embedded, dropout)?;
        for (layer, block) in (1u64..).zip(&self.blocks) {
            let pass = Pass { dropout, ..Pass::default() }.of_layer(layer);
            x = block.forward(&x, pass, None, |qkv, dropout| {
                Ok(causal_attention(qkv, &batch.cu_seqlens, self.config.n_head, block.scale, dropout)?)
            })?;
        }
        Ok(self.ln_f.forward(&x)?)
    }

    /// The embeddings of tokens and positions.
    pub(crate) fn embeddings(&self) -> [&Tensor; 2] {
        [&self.wte, &self.wpe]
    }

    /// The dropout of the embeddings, given the pass's stream.
    pub(crate) fn embedding_dropout(&self, stream: Option<Stream>) -> Option<Dropout> {
        stream.map(|stream| Dropout { p: self.config.embd_pdrop, stream: stream.fold(0) })
    }

    fn embed(&self, at: &Embedded, stream: Option<Stream>) -> Result<Tensor> {
        Ok(embedding_sum(&self.wte, &self.wpe, at, self.embedding_dropout(stream))?)
    }
}
