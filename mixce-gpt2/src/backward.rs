//! Training passes of the model: forward that keeps what backward needs, backward that adds gradients up in place.
//!
//! Legend: N packed tokens, C channels.
//!
//! candle's graph is not used where the kernels have their own backward pass (f32 on CPU and CUDA): for every gradient that reaches
//! a tensor `Tensor::backward` allocates zeros, adds on one thread, and allocates the sum.
//! Elsewhere the pass is [`Gpt2::hidden_states`] with candle's graph behind the same interface.

use candle_core::{Tensor, Var};
use mixce_kernels::rng::Stream;
use mixce_kernels::sublayer::{is_fused, layer_norm_backward};
use mixce_kernels::{Precision, clear, embedding_backward, embedding_sum, layer_norm};

use crate::batch::PackedBatch;
use crate::block::Kept;
use crate::config::Gpt2Config;
use crate::error::{Error, Result};
use crate::model::Gpt2;
use crate::params::Parameters;

/// Sums of gradients, one for each parameter of a model, in the model's own order and shapes.
#[derive(Debug)]
pub struct Gradients {
    /// A model whose weights are the sums.
    sums: Gpt2,
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
        Ok(Self { sums: Gpt2::new(config.clone(), sums)?, variables })
    }

    /// The sums by parameter name, in the model's order. They change with every backward pass.
    #[must_use]
    pub fn sums(&self) -> &Parameters {
        self.sums.parameters()
    }

    /// The sum of the LM head's gradient, `[V, C]`: that of the token embedding when tied.
    #[must_use]
    pub fn lm_head(&self) -> &Tensor {
        self.sums.lm_head()
    }

    /// Back to zero.
    ///
    /// # Errors
    /// When a tensor operation fails.
    pub fn clear(&self) -> Result<()> {
        for variable in &self.variables {
            if is_fused(variable) {
                clear(variable)?;
            } else {
                variable.set(&variable.zeros_like()?)?;
            }
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
    fn of_layer(self, layer: u64) -> Self {
        Self { dropout: self.dropout.map(|stream| stream.fold(layer)), ..self }
    }
}

/// A forward pass of training: the hidden states, and what the backward pass needs.
#[derive(Debug)]
pub struct Forward {
    hidden: Tensor,
    pass: Pass,
    kept: Option<Vec<Kept>>,
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
        if !is_fused(self.lm_head()) {
            if pass.precision == Precision::Bf16 {
                return Err(Error::NotFused { what: "bf16" });
            }
            if pass.recompute {
                return Err(Error::NotFused { what: "activation checkpointing" });
            }
            let hidden = self.hidden_states(batch, dropout)?;
            return Ok(Forward { last: hidden.clone(), hidden, pass, kept: None });
        }
        let [tokens, positions] = self.embeddings().map(Tensor::detach);
        let mut x = embedding_sum(&tokens, &positions, &batch.embedded, self.embedding_dropout(dropout))?;
        let mut all = Vec::with_capacity(self.blocks.len());
        for (layer, block) in (1u64..).zip(&self.blocks) {
            let (y, kept) = block.forward_kept(&x, &batch.cu_seqlens, pass.of_layer(layer))?;
            all.push(kept);
            x = y;
        }
        let ln_f = self.ln_f.detach();
        let hidden = layer_norm(&x, &ln_f.weight, &ln_f.bias, self.config().layer_norm_epsilon)?;
        Ok(Forward { hidden, pass, kept: Some(all), last: x })
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
        let Forward { hidden, pass, kept, last } = forward;
        let Some(kept) = kept else { return self.backward_graph(&hidden, &dhidden, gradients) };
        drop(hidden);
        let sums = &gradients.sums;
        let dx = dhidden.zeros_like()?;
        let norm = (&self.ln_f, self.config().layer_norm_epsilon);
        layer_norm_backward(&last, norm, &dhidden, &dx, &sums.ln_f)?;
        drop((last, dhidden));
        let layers = (1u64..).zip(self.blocks.iter().zip(&sums.blocks).zip(kept));
        for (layer, ((block, sums), kept)) in layers.collect::<Vec<_>>().into_iter().rev() {
            block.backward(kept, &batch.cu_seqlens, &dx, sums, pass.of_layer(layer))?;
        }
        let [dtokens, dpositions] = sums.embeddings();
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
