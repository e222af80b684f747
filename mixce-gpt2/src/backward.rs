//! Training passes of the model: forward that keeps what backward needs, backward that adds gradients up in place.
//!
//! Legend: N packed tokens, C channels.
//!
//! candle's graph is not used where the kernels have their own backward pass (f32 on CPU and CUDA): for every gradient that reaches
//! a tensor `Tensor::backward` allocates zeros, adds on one thread, and allocates the sum.
//! Elsewhere the pass is [`Gpt2::hidden_states`] with candle's graph behind the same interface.

use candle_core::{Tensor, Var};
use mixce_kernels::rng::Stream;
use mixce_kernels::{
    AffineGradients, Precision, clear, embedding_backward, embedding_sum, has_backward_kernels,
};

use crate::batch::PackedBatch;
use crate::block::{BlockGradients, Saved, gradients};
use crate::config::Gpt2Config;
use crate::error::{Error, Result};
use crate::model::Gpt2;
use crate::params::Parameters;

/// Sums of gradients, one for each parameter of a model, in the model's own order and shapes.
#[derive(Debug)]
pub struct Gradients {
    sums: Parameters,
    /// Views of the same tensors, as the backward pass takes them.
    embeddings: [Tensor; 2],
    blocks: Vec<BlockGradients>,
    ln_f: AffineGradients,
    lm_head: Tensor,
    /// The same tensors, as variables.
    variables: Vec<Var>,
}

impl Gradients {
    /// Zeros for the parameters of a model of this configuration.
    ///
    /// # Errors
    /// When they cannot be allocated.
    pub fn new(config: &Gpt2Config, parameters: &Parameters) -> Result<Self> {
        let mut variables = Vec::with_capacity(parameters.len());
        let sums = parameters.try_map(|_, tensor| {
            let variable = Var::zeros(tensor.shape(), tensor.dtype(), tensor.device())?;
            variables.push(variable.clone());
            // Detached: nothing is ever differentiated with respect to a gradient.
            Ok(variable.as_detached_tensor())
        })?;
        let blocks = (0..config.n_layer).map(|layer| BlockGradients::load(&sums, layer));
        Ok(Self {
            embeddings: [sums.get("wte.weight")?.clone(), sums.get("wpe.weight")?.clone()],
            blocks: blocks.collect::<Result<_>>()?,
            ln_f: gradients(&sums, "ln_f")?,
            lm_head: sums.get(config.lm_head_name())?.clone(),
            sums,
            variables,
        })
    }

    /// The sums by parameter name, in the model's order. They change with every backward pass.
    #[must_use]
    pub fn sums(&self) -> &Parameters {
        &self.sums
    }

    /// The sum of the LM head's gradient, `[V, C]`: that of the token embedding when tied.
    #[must_use]
    pub fn lm_head(&self) -> &Tensor {
        &self.lm_head
    }

    /// Back to zero.
    ///
    /// # Errors
    /// When a tensor operation fails.
    pub fn clear(&self) -> Result<()> {
        for variable in &self.variables {
            clear(variable)?;
        }
        Ok(())
    }
}

/// How a pass of training is computed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pass {
    /// The stream of this microbatch's dropout masks; without one there is no dropout.
    pub dropout: Option<Stream>,
    /// Activation checkpointing: only the input of each block is kept, and the block is computed once more in the backward
    /// pass. About a third more time for a fraction of the memory; the result and all gradients are the same bits.
    pub recompute: bool,
    /// Number format of the operands of the linear layers' products, forward and backward, and on CUDA of what is kept inside the
    /// branches of a block. The residual stream, attention, layer norms, sums and gradients of parameters are computed in f32.
    pub precision: Precision,
}

impl Pass {
    /// The same with the stream of a layer (from 1).
    pub(crate) fn of_layer(self, layer: u64) -> Self {
        Self { dropout: self.dropout.map(|stream| stream.fold(layer)), ..self }
    }
}

/// A forward pass of training: the hidden states, and what the backward pass needs.
#[derive(Debug)]
pub struct Forward {
    hidden: Tensor,
    pass: Pass,
    /// What each block saved; nothing where the pass is candle's.
    saved: Option<Vec<Saved>>,
    /// The input of the last layer norm.
    last: Tensor,
}

impl Forward {
    /// Final hidden states `[N, C]` after the last layer norm, outside of any graph.
    #[must_use]
    pub fn hidden(&self) -> Tensor {
        self.hidden.detach()
    }
}

impl Gpt2 {
    /// [`Gpt2::hidden_states`] for training.
    ///
    /// # Errors
    /// [`Error::NotFused`] on devices without fused kernels that are asked to compute again or in bf16; when a tensor operation
    /// fails.
    pub fn forward(&self, batch: &PackedBatch, pass: Pass) -> Result<Forward> {
        let dropout = pass.dropout;
        if !has_backward_kernels(self.lm_head()) {
            if pass.precision == Precision::Bf16 {
                return Err(Error::NotFused { what: "bf16" });
            }
            if pass.recompute {
                return Err(Error::NotFused { what: "activation checkpointing" });
            }
            let hidden = self.hidden_states(batch, dropout)?;
            return Ok(Forward { last: hidden.clone(), hidden, pass, saved: None });
        }
        let [tokens, positions] = self.embeddings().map(Tensor::detach);
        let mut x = embedding_sum(&tokens, &positions, &batch.embedded, self.embedding_dropout(dropout))?;
        let mut all = Vec::with_capacity(self.blocks.len());
        for (layer, block) in (1u64..).zip(&self.blocks) {
            let (y, saved) = block.forward_saving(&x, &batch.cu_seqlens, pass.of_layer(layer))?;
            all.push(saved);
            x = y;
        }
        let hidden = self.ln_f.detach().forward(&x)?;
        Ok(Forward { hidden, pass, saved: Some(all), last: x })
    }

    /// The backward pass of [`Gpt2::forward`] on the same batch: `dhidden` `[N, C]` is the gradient of its hidden states; the
    /// gradient of every parameter is added to `gradients`. What was kept is freed on the way, and `dhidden` too.
    ///
    /// # Errors
    /// When a tensor operation fails, or on devices without fused kernels when a parameter has no gradient.
    pub fn backward(
        &self,
        batch: &PackedBatch,
        forward: Forward,
        dhidden: Tensor,
        gradients: &Gradients,
    ) -> Result<()> {
        let Forward { hidden, pass, saved, last } = forward;
        let Some(saved) = saved else { return self.backward_graph(&hidden, &dhidden, gradients) };
        drop(hidden);
        let dx = dhidden.zeros_like()?;
        self.ln_f.backward(&last, &dhidden, &dx, &gradients.ln_f)?;
        drop((last, dhidden));
        let layers = (1u64..).zip(self.blocks.iter().zip(&gradients.blocks).zip(saved));
        for (layer, ((block, sums), saved)) in layers.collect::<Vec<_>>().into_iter().rev() {
            block.backward(saved, &batch.cu_seqlens, &dx, sums, pass.of_layer(layer))?;
        }
        let [dtokens, dpositions] = &gradients.embeddings;
        Ok(embedding_backward(
            &batch.embedded,
            &dx,
            self.embedding_dropout(pass.dropout),
            dtokens,
            dpositions,
        )?)
    }

    /// The backward pass by candle's graph.
    fn backward_graph(&self, hidden: &Tensor, dhidden: &Tensor, gradients: &Gradients) -> Result<()> {
        let store = (hidden * dhidden)?.sum_all()?.backward()?;
        for ((name, tensor), sum) in self.parameters().iter().zip(&gradients.variables) {
            let Some(gradient) = store.get(tensor) else {
                // The LM head's own gradient does not come through the hidden states.
                if name == "lm_head.weight" {
                    continue;
                }
                return Err(Error::MissingGradient { name: name.to_owned() });
            };
            sum.set(&(sum.as_detached_tensor() + gradient)?.detach())?;
        }
        Ok(())
    }
}
