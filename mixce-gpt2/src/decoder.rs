//! A model made ready for sampling.
//!
//! Legend: N packed tokens, B sequences, C channels, V vocabulary.

use candle_core::{Device, Tensor};
use mixce_kernels::{
    Embedded, Norm, Precision, Weight, causal_attention, embedding_sum, has_backward_kernels,
};

use crate::backward::Pass;
use crate::batch::PackedBatch;
use crate::block::Block;
use crate::cache::KvCache;
use crate::config::Gpt2Config;
use crate::error::{Error, Result};
use crate::model::Gpt2;

/// A GPT-2 whose weights lie in the order in which sampling reads them (on the CPU, in f32: [`Weight::Packed`]).
///
/// It holds its own copy of every weight matrix, the LM head apart from the embedding, as they were when it was made. To have
/// the memory once only, hand over the model's last clone.
#[derive(Debug)]
pub struct Decoder {
    config: Gpt2Config,
    wte: Tensor,
    wpe: Tensor,
    blocks: Vec<Block>,
    ln_f: Norm,
    /// `[C, V]`.
    lm_head: Weight,
    precision: Precision,
}

impl Decoder {
    /// Takes the weights of `model` outside of any gradient graph. In [`Precision::Bf16`] matrices and what is multiplied by them
    /// are rounded to bf16; sums, the residual stream, attention and the cache stay f32.
    ///
    /// # Errors
    /// When this CPU has no bf16 ([`Precision::check`]); [`Error::NotFused`] for bf16 elsewhere than on the CPU with weights in f32;
    /// when a tensor operation fails.
    pub fn new(model: Gpt2, precision: Precision) -> Result<Self> {
        precision.check(model.device())?;
        let model = model.detached_parts();
        let packs = has_backward_kernels(&model.lm_head) && model.wte.device().is_cpu();
        if precision == Precision::Bf16 && !packs {
            return Err(Error::NotFused { what: "sampling in bf16" });
        }
        let lm_head = Weight::from(model.lm_head.t()?).pack(precision)?;
        // One block after another, so that each one's first copy can go.
        let blocks = model.blocks.into_iter().map(|block| block.pack(precision)).collect::<Result<_>>()?;
        let (wte, wpe, ln_f, config) = (model.wte, model.wpe, model.ln_f, model.config);
        Ok(Self { config, wte, wpe, blocks, ln_f, lm_head, precision })
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &Gpt2Config {
        &self.config
    }

    /// The device of the weights.
    #[must_use]
    pub fn device(&self) -> &Device {
        self.wte.device()
    }

    /// Packs prompts for this model (see [`PackedBatch::new`]).
    ///
    /// # Errors
    /// When a token id is outside the vocabulary or a text is longer than the model's positions.
    pub fn pack(&self, texts: &[&[u32]]) -> Result<PackedBatch> {
        PackedBatch::new(texts, &self.config, self.device())
    }

    /// Final hidden states `[B, C]`, after the last layer norm, at the last token of each prompt; also fills a cache with room for
    /// `new_tokens` more tokens a sequence. Of the last block the others have keys and values alone.
    ///
    /// # Errors
    /// When a prompt is empty or a tensor operation fails.
    pub fn prefill(&self, batch: &PackedBatch, new_tokens: usize) -> Result<(Tensor, KvCache)> {
        let mut cache = KvCache::new(&batch.cu_seqlens, self.config.n_head, new_tokens, self.device());
        if let Some(text) = cache.lengths().iter().position(|length| *length == 0) {
            return Err(Error::EmptyText { text });
        }
        let last: Vec<u32> = batch.cu_seqlens.offsets()[1..].iter().map(|end| *end as u32 - 1).collect();
        let last = Tensor::from_vec(last, cache.lengths().len(), self.device())?;
        let mut x = embedding_sum(&self.wte, &self.wpe, &batch.embedded, None)?;
        let ends = self.blocks.len().saturating_sub(1);
        for (layer, block) in self.blocks.iter().enumerate() {
            let rows = (layer == ends).then_some(&last);
            x = block.forward(&x, self.pass(), rows, |qkv, _| {
                cache.push_prompt(qkv, &batch.cu_seqlens)?;
                match rows {
                    Some(rows) => cache.attend_again(layer, &qkv.index_select(rows, 0)?, block.scale),
                    None => {
                        Ok(causal_attention(qkv, &batch.cu_seqlens, self.config.n_head, block.scale, None)?)
                    }
                }
            })?;
        }
        Ok((self.ln_f.forward(&x)?, cache))
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
        let at = Embedded::new(ids, cache.lengths(), self.device())?;
        let mut x = embedding_sum(&self.wte, &self.wpe, &at, None)?;
        for (layer, block) in self.blocks.iter().enumerate() {
            x = block.forward(&x, self.pass(), None, |qkv, _| cache.attend(layer, qkv, block.scale))?;
        }
        cache.advance();
        Ok(self.ln_f.forward(&x)?)
    }

    /// The logits `[B, V]` of hidden states `[B, C]`: `logits` becomes them, row after row.
    ///
    /// # Errors
    /// When a tensor operation fails.
    pub fn logits(&self, hidden: &Tensor, logits: &mut Vec<f32>) -> Result<()> {
        Ok(self.lm_head.product(hidden, logits)?)
    }

    /// The pass of the blocks: no dropout, products in the precision of the weights.
    fn pass(&self) -> Pass {
        Pass { precision: self.precision, ..Pass::default() }
    }
}
