//! The GPT-2 model: token ids in, final hidden states out.
//!
//! Legend: N packed tokens, B sequences, C channels, H heads, D head size, V vocabulary.
//!
//! The logits are `hidden lm_head^T`; they are left to the caller, because training and scoring only ever want them for a
//! slice of tokens and sampling only for the last token of each sequence.

use candle_core::{Device, Tensor};
use mixce_kernels::rng::Stream;
use mixce_kernels::{Affine, Dropout, Embedded, causal_attention, embedding_sum, layer_norm};

use crate::batch::PackedBatch;
use crate::block::{Block, affine};
use crate::cache::KvCache;
use crate::config::Gpt2Config;
use crate::error::{Error, Result};
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
    pub(crate) ln_f: Affine,
    lm_head: Tensor,
}

impl Gpt2 {
    /// A model of this configuration with these weights.
    ///
    /// # Errors
    /// When the configuration is invalid or a parameter is missing.
    pub fn new(config: Gpt2Config, parameters: Parameters) -> Result<Self> {
        config.validate()?;
        let wte = parameters.get("wte.weight")?.clone();
        let head = if config.tie_word_embeddings { "wte.weight" } else { "lm_head.weight" };
        let blocks = (0..config.n_layer).map(|layer| Block::load(&config, &parameters, layer));
        Ok(Self {
            wpe: parameters.get("wpe.weight")?.clone(),
            blocks: blocks.collect::<Result<_>>()?,
            ln_f: affine(&parameters, "ln_f")?,
            lm_head: parameters.get(head)?.clone(),
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
            x = block.forward(&x, dropout.map(|stream| stream.fold(layer)), |qkv, dropout| {
                Ok(causal_attention(qkv, &batch.cu_seqlens, self.config.n_head, block.scale, dropout)?)
            })?;
        }
        self.norm(&x)
    }

    /// [`Gpt2::hidden_states`] without dropout, which also fills a cache for [`Gpt2::decode`] with room for
    /// `new_tokens` more tokens a sequence.
    ///
    /// # Errors
    /// When a tensor operation fails.
    pub fn prefill(&self, batch: &PackedBatch, new_tokens: usize) -> Result<(Tensor, KvCache)> {
        let mut cache = KvCache::new(&batch.cu_seqlens, self.config.n_head, new_tokens, self.device())?;
        let mut x = self.embed(&batch.embedded, None)?;
        for block in &self.blocks {
            x = block.forward(&x, None, |qkv, _| {
                cache.push_prompt(qkv)?;
                Ok(causal_attention(qkv, &batch.cu_seqlens, self.config.n_head, block.scale, None)?)
            })?;
        }
        Ok((self.norm(&x)?, cache))
    }

    /// Final hidden states `[B, C]` of one more token for each sequence of the cache, which they join.
    ///
    /// # Errors
    /// When the cache is full, a token id is outside the vocabulary, a sequence has used up the model's positions, or a tensor
    /// operation fails.
    pub fn decode(&self, ids: &[u32], cache: &mut KvCache) -> Result<Tensor> {
        let (vocabulary, positions) = (self.config.vocab_size, self.config.n_positions);
        for (text, (id, length)) in ids.iter().zip(cache.lengths()).enumerate() {
            let position = *length as usize;
            if *id as usize >= vocabulary {
                return Err(Error::TokenOutOfRange { id: *id, position, text, vocabulary });
            }
            if position >= positions {
                return Err(Error::TextTooLong { text, tokens: position + 1, positions });
            }
        }
        let mut x = self.embed(&Embedded::new(ids, cache.lengths(), self.device())?, None)?;
        for (layer, block) in self.blocks.iter().enumerate() {
            x = block.forward(&x, None, |qkv, _| cache.attend(layer, qkv, block.scale))?;
        }
        cache.advance();
        self.norm(&x)
    }

    /// The embeddings of tokens and positions.
    pub(crate) fn embeddings(&self) -> [&Tensor; 2] {
        [&self.wte, &self.wpe]
    }

    /// The dropout of the embeddings, given the pass's stream.
    pub(crate) fn embedding_dropout(&self, stream: Option<Stream>) -> Dropout {
        stream.map(|stream| (self.config.embd_pdrop, stream.fold(0)))
    }

    fn embed(&self, at: &Embedded, stream: Option<Stream>) -> Result<Tensor> {
        Ok(embedding_sum(&self.wte, &self.wpe, at, self.embedding_dropout(stream))?)
    }

    fn norm(&self, x: &Tensor) -> Result<Tensor> {
        Ok(layer_norm(x, &self.ln_f.weight, &self.ln_f.bias, self.config.layer_norm_epsilon)?)
    }
}
