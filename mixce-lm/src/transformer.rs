//! A decoder-only transformer: the loop over its blocks.
//!
//! Legend: N packed tokens, C channels, V vocabulary.

use std::sync::Arc;

use candle_core::Tensor;
use mixce_kernels::rng::Stream;
use mixce_kernels::{Embedded, Norm, Precision, StoredTensor, has_backward_kernels};

use crate::architecture::{
    Architecture, Attention, Block, Embedding as _, LayerOptions, Masks, ResidualStream,
};
use crate::batch::PackedBatch;
use crate::config::{ModelConfig, ModelSpec};
use crate::decoder::TransformerDecoder;
use crate::error::{Error, Result};
use crate::model::{Decoder, Forward, LanguageModel, PassOptions};
use crate::params::Parameters;
use crate::training;

/// A transformer of some architecture, with its weights. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct Transformer<A: Architecture> {
    pub(crate) architecture: A,
    config: Arc<dyn ModelConfig>,
    pub(crate) spec: ModelSpec,
    parameters: Parameters,
    shared: A::Shared,
    pub(crate) body: Body<A>,
    pub(crate) lm_head: StoredTensor,
}

/// A block in the loop over blocks.
pub(crate) struct Layer<'a, B> {
    /// From 0.
    pub(crate) index: usize,
    pub(crate) block: &'a B,
    /// The norm that the next block begins with.
    pub(crate) next: Option<&'a Norm>,
}

/// The embedding, the blocks and the last norm.
#[derive(Debug, Clone)]
pub(crate) struct Body<A: Architecture> {
    pub(crate) embedding: A::Embedding,
    pub(crate) blocks: Vec<A::Block>,
    pub(crate) norm: Norm,
}

impl<A: Architecture> Body<A> {
    fn new(architecture: &A, parameters: &Parameters, shared: &A::Shared) -> Result<Self> {
        let layers = 0..architecture.spec().layers;
        let blocks = layers.map(|layer| architecture.block(parameters, shared, layer));
        Ok(Self {
            embedding: architecture.embedding(parameters)?,
            blocks: blocks.collect::<Result<_>>()?,
            norm: architecture.final_norm(parameters)?,
        })
    }

    /// The residual stream after the last block: `run` is called with each block and its input and returns its output.
    pub(crate) fn run(
        &self,
        tokens: &Embedded,
        dropout: Option<Masks>,
        mut run: impl FnMut(Layer<'_, A::Block>, ResidualStream) -> Result<ResidualStream>,
    ) -> Result<Tensor> {
        let mut stream = self.embedding.forward(tokens, embedding_masks(dropout))?.into();
        for (index, block) in self.blocks.iter().enumerate() {
            let next = self.blocks.get(index + 1).map(Block::norm);
            stream = run(Layer { index, block, next }, stream)?;
        }
        Ok(stream.x)
    }
}

/// The masks of the embedding's dropout; the layers have those from 1.
pub(crate) fn embedding_masks(pass: Option<Masks>) -> Option<Masks> {
    pass.map(|masks| masks.fold(0))
}

/// The masks of a layer, from 0.
pub(crate) fn layer_masks(pass: Option<Masks>, layer: usize) -> Option<Masks> {
    pass.map(|masks| masks.fold(layer as u64 + 1))
}

impl<A: Architecture> Transformer<A> {
    /// A model of this architecture with these weights.
    ///
    /// # Errors
    /// When the configuration is invalid or a parameter is missing.
    pub fn new(architecture: A, parameters: Parameters) -> Result<Self> {
        architecture.validate()?;
        let shared = architecture.shared(parameters.get(architecture.spec().head)?.device())?;
        Self::with_shared(architecture, parameters, shared)
    }

    /// [`Transformer::new`] of a valid architecture whose shared part was made before.
    fn with_shared(architecture: A, parameters: Parameters, shared: A::Shared) -> Result<Self> {
        let spec = architecture.spec();
        Ok(Self {
            config: Arc::new(architecture.clone()),
            body: Body::new(&architecture, &parameters, &shared)?,
            lm_head: parameters.stored(spec.head)?.clone(),
            spec,
            architecture,
            parameters,
            shared,
        })
    }

    /// The architecture's own configuration.
    #[must_use]
    pub fn architecture(&self) -> &A {
        &self.architecture
    }

    /// The same model outside any gradient graph; it shares the weights, so later updates of variables are visible.
    ///
    /// # Errors
    /// Never for a model that was made by [`Transformer::new`].
    pub fn detached(&self) -> Result<Self> {
        Self::with_shared(self.architecture.clone(), self.parameters.detached(), self.shared.clone())
    }

    /// Final hidden states `[N, C]`, after the last norm.
    fn states(&self, batch: &PackedBatch, dropout: Option<Stream>, precision: Precision) -> Result<Tensor> {
        let masks = batch.masks(dropout);
        let x = self.body.run(&batch.embedded, masks, |Layer { index, block, next }, stream| {
            let options = LayerOptions { dropout: layer_masks(masks, index), precision };
            let mut attention = Attention::Documents(&batch.cu_seqlens);
            Ok(block.forward(stream, options, &mut attention, false, next)?.0)
        })?;
        Ok(self.body.norm.forward(&x)?)
    }

    /// Prepares the model for sampling (see [`LanguageModel::into_decoder`]).
    ///
    /// # Errors
    /// As [`LanguageModel::into_decoder`].
    pub fn decoder(self, precision: Precision) -> Result<TransformerDecoder<A>> {
        TransformerDecoder::new(self, precision)
    }
}

impl<A: Architecture> LanguageModel for Transformer<A> {
    fn config(&self) -> &Arc<dyn ModelConfig> {
        &self.config
    }

    fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    fn lm_head(&self) -> &StoredTensor {
        &self.lm_head
    }

    fn hidden_states(&self, batch: &PackedBatch, dropout: Option<Stream>) -> Result<Tensor> {
        self.states(batch, dropout, Precision::F32)
    }

    fn scoring_states(&self, batch: &PackedBatch, precision: Precision) -> Result<Tensor> {
        precision.check(self.device())?;
        if precision == Precision::Bf16 && !has_backward_kernels(&self.lm_head) {
            return Err(Error::NotFused { what: "scoring in bf16" });
        }
        Self::detached(self)?.states(batch, None, precision)
    }

    fn forward<'a>(&'a self, batch: &'a PackedBatch, options: PassOptions) -> Result<Box<dyn Forward + 'a>> {
        training::forward(self, batch, options)
    }

    fn detached(&self) -> Result<Box<dyn LanguageModel>> {
        Ok(Box::new(Self::detached(self)?))
    }

    fn into_decoder(self: Box<Self>, precision: Precision) -> Result<Box<dyn Decoder>> {
        Ok(Box::new((*self).decoder(precision)?))
    }
}
