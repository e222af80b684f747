//! A transformer made ready for sampling.
//!
//! Legend: N packed tokens, B sequences, C channels, V vocabulary.

use candle_core::{Device, Tensor};
use mixce_kernels::{Embedded, Precision, Weight, has_backward_kernels};

use crate::architecture::{Architecture, Attention, Block as _, LayerOptions};
use crate::batch::PackedBatch;
use crate::cache::KvCache;
use crate::config::ModelSpec;
use crate::error::{Error, Result};
use crate::model::{Decoder, LanguageModel as _};
use crate::transformer::{Body, Transformer};

/// A transformer whose weights lie in the order in which sampling reads them (on the CPU, in f32: [`Weight::Packed`]).
///
/// It holds its own copy of every weight matrix, the LM head apart from the embedding, as they were when it was made.
#[derive(Debug)]
pub struct TransformerDecoder<A: Architecture> {
    spec: ModelSpec,
    body: Body<A>,
    /// From C inputs to V outputs.
    lm_head: Weight,
    device: Device,
    precision: Precision,
}

impl<A: Architecture> TransformerDecoder<A> {
    /// Takes the weights of `model` outside of any gradient graph. In [`Precision::Bf16`] matrices and what is multiplied by them
    /// are rounded to bf16; sums, the residual stream, attention and the cache stay f32.
    ///
    /// # Errors
    /// When this CPU has no bf16 ([`Precision::check`]); [`Error::NotFused`] for bf16 elsewhere than on the CPU with weights in f32;
    /// when a tensor operation fails.
    pub(crate) fn new(model: Transformer<A>, precision: Precision) -> Result<Self> {
        let device = model.device().clone();
        precision.check(&device)?;
        let packs = has_backward_kernels(&model.lm_head) && device.is_cpu();
        if precision == Precision::Bf16 && !packs {
            return Err(Error::NotFused { what: "sampling in bf16" });
        }
        // The parameters by name go with the model: each matrix is freed once it is packed, unless somebody else holds it.
        let Transformer { spec, mut body, lm_head, .. } = { model }.detached()?;
        let lm_head = Weight::Transposed(lm_head).pack(precision)?;
        body.blocks = body.blocks.into_iter().map(|block| block.pack(precision)).collect::<Result<_>>()?;
        Ok(Self { spec, body, lm_head, device, precision })
    }
}

impl<A: Architecture> TransformerDecoder<A> {
    /// No dropout, products in the precision of the weights.
    fn options(&self) -> LayerOptions {
        LayerOptions { dropout: None, precision: self.precision }
    }
}

impl<A: Architecture> Decoder for TransformerDecoder<A> {
    fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    fn device(&self) -> &Device {
        &self.device
    }

    fn prefill(&self, batch: &PackedBatch, new_tokens: usize) -> Result<(Tensor, KvCache)> {
        let documents = &batch.cu_seqlens;
        let mut cache = KvCache::new(documents, new_tokens, &self.device);
        if let Some(text) = cache.lengths().iter().position(|length| *length == 0) {
            return Err(Error::EmptyText { text });
        }
        // Behind the last block's keys and values only the last token of each prompt goes on.
        let last: Vec<u32> = documents.offsets()[1..].iter().map(|end| *end as u32 - 1).collect();
        let last = Tensor::from_vec(last, cache.lengths().len(), &self.device)?;
        let x = self.body.run(&batch.embedded, None, |layer, block, x| {
            let rows = (layer + 1 == self.spec.layers).then_some(&last);
            let mut attention = Attention::Prompts { documents, cache: &mut cache, layer, rows };
            Ok(block.forward(&x, self.options(), &mut attention, false)?.0)
        })?;
        Ok((self.body.norm.forward(&x)?, cache))
    }

    fn decode(&self, ids: &[u32], cache: &mut KvCache) -> Result<Tensor> {
        let (vocabulary, positions) = (self.spec.vocabulary, self.spec.positions);
        for (text, (id, length)) in ids.iter().zip(cache.lengths()).enumerate() {
            let position = *length as usize;
            if *id as usize >= vocabulary {
                return Err(Error::TokenOutOfRange { id: *id, position, text, vocabulary });
            }
            if position >= positions {
                return Err(Error::TextTooLong { text, tokens: position + 1, positions });
            }
        }
        let tokens = Embedded::new(ids, cache.lengths(), &self.device)?;
        let x = self.body.run(&tokens, None, |layer, block, x| {
            let mut attention = Attention::Cached { cache, layer };
            Ok(block.forward(&x, self.options(), &mut attention, false)?.0)
        })?;
        cache.advance();
        Ok(self.body.norm.forward(&x)?)
    }

    fn logits(&self, hidden: &Tensor, logits: &mut Vec<f32>) -> Result<()> {
        Ok(self.lm_head.product(hidden, logits)?)
    }
}
