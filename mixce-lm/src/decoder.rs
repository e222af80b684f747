//! A transformer made ready for sampling.
//!
//! Legend: N packed tokens, B sequences, C channels, V vocabulary.

use candle_core::{Device, Tensor};
use mixce_kernels::{Embedded, Precision, StepInputs, Weight, has_backward_kernels, upload};

use crate::architecture::{Architecture, Attention, Block as _, LayerOptions};
use crate::batch::PackedBatch;
use crate::cache::KvCache;
use crate::config::ModelSpec;
use crate::error::{Error, Result};
use crate::model::{Decoder, LanguageModel as _};
use crate::sampler::Sampler;
use crate::session::{Started, TransformerSession};
use crate::transformer::{Body, Layer, Transformer};

/// A transformer whose weights lie in the order in which sampling reads them (on the CPU, in f32: [`Weight::Packed`]), in bf16 rounded
/// once.
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
    /// are rounded to bf16, on CUDA also queries, keys, values and the cache; sums, the residual stream and logits stay f32.
    ///
    /// # Errors
    /// When this device has no bf16 ([`Precision::check`]); [`Error::NotFused`] for bf16 elsewhere than on the CPU or CUDA with weights in
    /// f32; when a tensor operation fails.
    pub(crate) fn new(model: Transformer<A>, precision: Precision) -> Result<Self> {
        let device = model.device().clone();
        precision.check(&device)?;
        if precision == Precision::Bf16 && !has_backward_kernels(&model.lm_head) {
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

    /// From C inputs to V outputs.
    pub(crate) fn lm_head(&self) -> &Weight {
        &self.lm_head
    }

    /// Whether tokens are chosen on the device: weights in f32 on CUDA.
    pub(crate) fn is_on_gpu(&self) -> bool {
        self.device.is_cuda() && has_backward_kernels(&self.body.norm.weight)
    }

    /// Refuses tokens, or positions of them, that the sequences of a cache cannot be continued by.
    pub(crate) fn check(&self, ids: &[u32], at: &[u32], cache: &KvCache) -> Result<()> {
        let (vocabulary, positions) = (self.spec.vocabulary, self.spec.positions);
        for (text, (id, position)) in ids.iter().zip(at).enumerate() {
            let position = *position as usize;
            if *id as usize >= vocabulary {
                return Err(Error::TokenOutOfRange { id: *id, position, text, vocabulary });
            }
            if position >= positions {
                return Err(Error::TextTooLong { text, tokens: position + 1, positions });
            }
        }
        cache.check_room()
    }

    /// Final hidden states `[B, C]` of one more token for each sequence of the cache, which is extended by them.
    pub(crate) fn extend(&self, inputs: &StepInputs, cache: &mut KvCache) -> Result<Tensor> {
        cache.set_lengths(inputs.positions.clone());
        let hidden = self.step(&inputs.tokens, cache)?;
        cache.set_lengths(inputs.lengths.clone());
        Ok(hidden)
    }

    /// [`TransformerDecoder::extend`] but for the numbers of tokens, which are the positions of the new ones.
    pub(crate) fn step(&self, tokens: &Embedded, cache: &mut KvCache) -> Result<Tensor> {
        let x = self.body.run(tokens, None, |Layer { index, block, next }, stream| {
            let mut attention = Attention::Cached { cache, layer: index };
            Ok(block.forward(stream, self.options(), &mut attention, false, next)?.0)
        })?;
        Ok(self.body.norm.forward(&x)?)
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
        let last = upload(&last, cache.lengths().len(), &self.device)?;
        let x = self.body.run(&batch.embedded, None, |Layer { index, block, next }, stream| {
            let rows = (index + 1 == self.spec.layers).then_some(&last);
            let mut attention = Attention::Prompts { documents, cache: &mut cache, layer: index, rows };
            Ok(block.forward(stream, self.options(), &mut attention, false, next)?.0)
        })?;
        Ok((self.body.norm.forward(&x)?, cache))
    }

    fn decode(&self, ids: &[u32], cache: &mut KvCache) -> Result<Tensor> {
        self.check(ids, cache.lengths(), cache)?;
        let inputs = StepInputs::new(ids, cache.lengths(), &self.device)?;
        self.extend(&inputs, cache)
    }

    fn logits(&self, hidden: &Tensor, logits: &mut Vec<f32>) -> Result<()> {
        Ok(self.lm_head.product(hidden, logits)?)
    }

    fn start<'a>(
        &'a self,
        batch: &PackedBatch,
        new_tokens: usize,
        sampler: Sampler<'a>,
    ) -> Result<Started<'a>> {
        let (hidden, cache) = self.prefill(batch, new_tokens)?;
        let mut session = TransformerSession::new(self, cache, sampler);
        Ok((session.choose(&hidden)?, Box::new(session)))
    }
}
