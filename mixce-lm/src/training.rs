//! Training passes: a forward pass that saves activations, and a backward pass that accumulates gradients in place.
//!
//! Legend: N packed tokens, C channels.
//! candle's graph is not used if the kernels have their own backward pass, because `Tensor::backward` allocates zeros, adds on one
//! thread, and allocates the sum for every gradient that reaches a tensor. Otherwise the pass is [`LanguageModel::hidden_states`] with
//! candle's graph, behind the same interface.

use candle_core::Tensor;
use mixce_kernels::{Precision, has_backward_kernels};

use crate::architecture::{Architecture, Attention, Block, Embedding as _, LayerOptions, StreamGradient};
use crate::batch::PackedBatch;
use crate::error::{Error, Result};
use crate::gradients::Gradients;
use crate::model::{Forward, LanguageModel, PassOptions};
use crate::transformer::{Layer, Transformer, embedding_masks, layer_masks};

/// The forward pass of training.
pub(crate) fn forward<'a, A: Architecture>(
    model: &'a Transformer<A>,
    batch: &'a PackedBatch,
    options: PassOptions,
) -> Result<Box<dyn Forward + 'a>> {
    if has_backward_kernels(&model.lm_head) {
        return Ok(Box::new(FusedForward::new(model.detached()?, batch, options)?));
    }
    if options.precision == Precision::Bf16 {
        return Err(Error::NotFused { what: "bf16" });
    }
    if options.recompute {
        return Err(Error::NotFused { what: "activation checkpointing" });
    }
    Ok(Box::new(GraphForward { hidden: model.hidden_states(batch, options.dropout)?, model }))
}

/// A pass with the kernels' own forward and backward passes.
struct FusedForward<'a, A: Architecture> {
    /// Outside of any graph.
    model: Transformer<A>,
    batch: &'a PackedBatch,
    options: PassOptions,
    hidden: Tensor,
    /// The input of each block, and its saved activations unless they are recomputed.
    layers: Vec<(Tensor, Option<<A::Block as Block>::Saved>)>,
    /// The input of the last norm.
    last: Tensor,
}

impl<'a, A: Architecture> FusedForward<'a, A> {
    fn new(model: Transformer<A>, batch: &'a PackedBatch, options: PassOptions) -> Result<Self> {
        let save = !options.recompute;
        let mut layers = Vec::with_capacity(model.body.blocks.len());
        let masks = batch.masks(options.dropout);
        let last = model.body.run(&batch.embedded, masks, |Layer { index, block, next }, stream| {
            let (x, options) = (stream.x.clone(), layer_options(batch, options, index));
            let mut attention = Attention::Documents(&batch.cu_seqlens);
            let (y, saved) = block.forward(stream, options, &mut attention, save, next)?;
            layers.push((x, saved));
            Ok(y)
        })?;
        let hidden = model.body.norm.forward(&last)?;
        Ok(Self { model, batch, options, hidden, layers, last })
    }
}

fn layer_options(batch: &PackedBatch, options: PassOptions, layer: usize) -> LayerOptions {
    LayerOptions { dropout: layer_masks(batch.masks(options.dropout), layer), precision: options.precision }
}

impl<A: Architecture> Forward for FusedForward<'_, A> {
    fn hidden(&self) -> Tensor {
        self.hidden.clone()
    }

    fn backward_with(
        self: Box<Self>,
        dhidden: Tensor,
        gradients: &Gradients,
        complete_from: &mut dyn FnMut(usize),
    ) -> Result<()> {
        let Self { model, batch, options, hidden, layers, last } = *self;
        drop(hidden);
        let Transformer { body, architecture, .. } = model;
        let (sums, specs) = (gradients.sums(), architecture.parameter_specs());
        let dx = dhidden.zeros_like()?;
        body.norm.backward(&last, &dhidden, &dx, &architecture.final_norm_gradients(sums)?)?;
        drop((last, dhidden));
        if let Some(last) = specs.iter().rposition(|spec| spec.layer.is_some()) {
            complete_from(last + 1);
        }
        let documents = &batch.cu_seqlens;
        let mut gradient = StreamGradient { dx, branch: None };
        // The sums of the gradients of the next block of the loop.
        let mut next_sums = None;
        for (layer, ((x, saved), block)) in layers.into_iter().zip(&body.blocks).enumerate().rev() {
            let of_layer = |layer| layer_options(batch, options, layer);
            let saved = match saved {
                Some(saved) => Some(saved),
                None => {
                    let mut attention = Attention::Documents(documents);
                    block.forward(x.clone().into(), of_layer(layer), &mut attention, true, None)?.1
                }
            };
            let saved = saved.ok_or(Error::NothingSaved { layer })?;
            let own_sums = match next_sums.take() {
                Some(own_sums) => own_sums,
                None => architecture.block_gradients(sums, layer)?,
            };
            let before = layer.checked_sub(1).and_then(|before| Some((before, body.blocks.get(before)?)));
            next_sums = before.map(|(before, _)| architecture.block_gradients(sums, before)).transpose()?;
            let below = before.zip(next_sums.as_ref());
            let below = below.map(|((before, block), sums)| block.last_branch(of_layer(before), sums));
            gradient = block.backward((&x, saved), of_layer(layer), documents, gradient, &own_sums, below)?;
            if let Some(first) = specs.iter().position(|spec| spec.layer == Some(layer)) {
                complete_from(first);
            }
        }
        let masks = embedding_masks(batch.masks(options.dropout));
        body.embedding.backward(&batch.embedded, masks, &gradient.dx, &architecture.embedding(sums)?)
    }
}

/// A pass with candle's graph.
struct GraphForward<'a, A: Architecture> {
    model: &'a Transformer<A>,
    hidden: Tensor,
}

impl<A: Architecture> Forward for GraphForward<'_, A> {
    fn hidden(&self) -> Tensor {
        self.hidden.detach()
    }

    fn backward_with(
        self: Box<Self>,
        dhidden: Tensor,
        gradients: &Gradients,
        _: &mut dyn FnMut(usize),
    ) -> Result<()> {
        let store = (&self.hidden * &dhidden)?.sum_all()?.backward()?;
        for (index, (name, tensor)) in self.model.parameters().iter().enumerate() {
            match store.get(tensor) {
                Some(gradient) => gradients.add(index, gradient)?,
                // The LM head's own gradient does not flow through the hidden states.
                None if name == self.model.spec.head && !self.model.spec.is_tied() => {}
                None => return Err(Error::MissingGradient { name: name.to_owned() }),
            }
        }
        Ok(())
    }
}
