//! One transformer block.
//!
//! Legend: N tokens, C channels, H heads, D = C / H head size, I channels inside the MLP.

use candle_core::Tensor;
use mixce_kernels::rng::Stream;
use mixce_kernels::sublayer::{LinearResidual, Mlp, MlpGradients, NormLinear, NormLinearGradients};
use mixce_kernels::{Affine, AffineGradients, CuSeqlens, Dropout, Norm, Precision};
use mixce_kernels::{causal_attention, causal_attention_backward};

use crate::backward::Pass;
use crate::config::Gpt2Config;
use crate::error::Result;
use crate::params::Parameters;

/// The weight and bias called `name`.
fn pair(parameters: &Parameters, name: &str) -> Result<[Tensor; 2]> {
    let get = |part: &str| parameters.get(&format!("{name}.{part}")).cloned();
    Ok([get("weight")?, get("bias")?])
}

/// The layer norm called `name`.
pub(crate) fn norm(parameters: &Parameters, name: &str, epsilon: f64) -> Result<Norm> {
    let [weight, bias] = pair(parameters, name)?;
    Ok(Norm { weight, bias, epsilon })
}

/// The sums for the gradients of the weight and bias called `name`.
pub(crate) fn gradients(sums: &Parameters, name: &str) -> Result<AffineGradients> {
    let [weight, bias] = pair(sums, name)?;
    Ok(AffineGradients { weight, bias })
}

/// Where dropout acts inside a block; folded into the layer's stream.
#[derive(Clone, Copy)]
enum Site {
    Attention = 0,
    AttentionResidual = 1,
    MlpResidual = 2,
}

impl Site {
    /// This site's stream, given its layer's.
    fn stream(self, layer: Stream) -> Stream {
        layer.fold(self as u64)
    }
}

/// Pre-norm block: `x + attention(ln_1(x))`, then `x + mlp(ln_2(x))`.
#[derive(Debug, Clone)]
pub(crate) struct Block {
    /// `ln_1` and `c_attn`.
    attention_in: NormLinear,
    /// `attn.c_proj`.
    attention_out: LinearResidual,
    /// `ln_2`, `c_fc` and `mlp.c_proj`.
    mlp: Mlp,
    resid_pdrop: f64,
    attn_pdrop: f64,
    heads: usize,
    /// The factor of the attention scores.
    pub(crate) scale: f64,
}

/// Sums of the gradients of a block.
#[derive(Debug)]
pub(crate) struct BlockGradients {
    attention_in: NormLinearGradients,
    attention_out: AffineGradients,
    mlp: MlpGradients,
}

/// What the backward pass of a block needs of its forward pass.
#[derive(Debug)]
pub(crate) struct Saved {
    /// The block's input, `[N, C]`.
    x: Tensor,
    /// Everything else, unless it is to be computed again.
    activations: Option<Activations>,
}

#[derive(Debug)]
struct Activations {
    qkv: Tensor,
    attended: Tensor,
    /// The residual stream between attention and MLP.
    middle: Tensor,
    /// The input of the MLP's activation, `[N, I]`.
    pre_activation: Tensor,
}

impl BlockGradients {
    pub(crate) fn load(sums: &Parameters, layer: usize) -> Result<Self> {
        let of = |name: &str| gradients(sums, &format!("h.{layer}.{name}"));
        Ok(Self {
            attention_in: NormLinearGradients { norm: of("ln_1")?, map: of("attn.c_attn")? },
            attention_out: of("attn.c_proj")?,
            mlp: MlpGradients { norm: of("ln_2")?, up: of("mlp.c_fc")?, down: of("mlp.c_proj")? },
        })
    }
}

impl Block {
    pub(crate) fn load(config: &Gpt2Config, parameters: &Parameters, layer: usize) -> Result<Self> {
        let norm = |name: &str| norm(parameters, &format!("h.{layer}.{name}"), config.layer_norm_epsilon);
        let map = |name: &str| -> Result<Affine> {
            let [weight, bias] = pair(parameters, &format!("h.{layer}.{name}"))?;
            Ok(Affine::new(weight, bias))
        };
        Ok(Self {
            attention_in: NormLinear { norm: norm("ln_1")?, map: map("attn.c_attn")? },
            attention_out: LinearResidual { map: map("attn.c_proj")? },
            mlp: Mlp {
                norm: norm("ln_2")?,
                up: map("mlp.c_fc")?,
                activation: config.activation_function,
                down: map("mlp.c_proj")?,
            },
            resid_pdrop: config.resid_pdrop,
            attn_pdrop: config.attn_pdrop,
            heads: config.n_head,
            scale: config.attention_scale(layer),
        })
    }

    /// The same block outside of any gradient graph.
    pub(crate) fn detach(&self) -> Self {
        Self {
            attention_in: self.attention_in.detach(),
            attention_out: self.attention_out.detach(),
            mlp: self.mlp.detach(),
            ..*self
        }
    }

    /// The same block with packed weights, for inference.
    pub(crate) fn pack(self, precision: Precision) -> Result<Self> {
        Ok(Self {
            attention_in: self.attention_in.pack(precision)?,
            attention_out: self.attention_out.pack(precision)?,
            mlp: self.mlp.pack(precision)?,
            ..self
        })
    }

    /// `x` is `[N, C]`; `attention` maps queries, keys and values `[N, 3 C]` to `[N, C]`, given the dropout of its
    /// probabilities; the stream of `pass` is this layer's. With `rows` only these M rows of `x` are
    /// wanted behind attention, which then gives `[M, C]`, as the block does.
    pub(crate) fn forward(
        &self,
        x: &Tensor,
        Pass { dropout, precision, .. }: Pass,
        rows: Option<&Tensor>,
        attention: impl FnOnce(&Tensor, Option<Dropout>) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let qkv = self.attention_in.forward(x, precision)?;
        let attended = attention(&qkv, self.dropout(dropout, Site::Attention))?;
        let residual = rows.map_or_else(|| Ok(x.clone()), |rows| x.index_select(rows, 0))?;
        let site = self.dropout(dropout, Site::AttentionResidual);
        let middle = self.attention_out.forward(&attended, &residual, site, precision)?;
        Ok(self.mlp.forward(&middle, self.dropout(dropout, Site::MlpResidual), precision)?)
    }

    /// The forward pass of training: also returns what [`Block::backward`] needs, only the block's input when it is to be
    /// computed again. The stream of `pass` is this layer's.
    pub(crate) fn forward_saving(
        &self,
        x: &Tensor,
        cu_seqlens: &CuSeqlens,
        pass: Pass,
    ) -> Result<(Tensor, Saved)> {
        // Outside of any graph: the parameters are variables.
        let block = self.detach();
        let (y, activations) = match pass.recompute {
            true => (block.forward(x, pass, None, block.attention(cu_seqlens))?, None),
            false => {
                let (y, activations) = block.forward_with_activations(x, cu_seqlens, pass)?;
                (y, Some(activations))
            }
        };
        Ok((y, Saved { x: x.clone(), activations }))
    }

    fn forward_with_activations(
        &self,
        x: &Tensor,
        cu_seqlens: &CuSeqlens,
        Pass { dropout, precision, .. }: Pass,
    ) -> Result<(Tensor, Activations)> {
        let qkv = self.attention_in.forward(x, precision)?;
        let attended = self.attention(cu_seqlens)(&qkv, self.dropout(dropout, Site::Attention))?;
        let site = self.dropout(dropout, Site::AttentionResidual);
        let middle = self.attention_out.forward(&attended, x, site, precision)?;
        let site = self.dropout(dropout, Site::MlpResidual);
        let (y, pre_activation) = self.mlp.forward_saving(&middle, site, precision)?;
        Ok((y, Activations { qkv, attended, middle, pre_activation }))
    }

    /// The backward pass: turns `dx`, which holds the gradient of the block's output, into that of its input in place, and adds
    /// those of the parameters to `gradients`. `pass` is that of the forward pass.
    pub(crate) fn backward(
        &self,
        saved: Saved,
        cu_seqlens: &CuSeqlens,
        dx: &Tensor,
        gradients: &BlockGradients,
        pass: Pass,
    ) -> Result<()> {
        let (x, Pass { dropout, precision, .. }) = (&saved.x, pass);
        let Activations { qkv, attended, middle, pre_activation } = match saved.activations {
            Some(activations) => activations,
            None => self.detach().forward_with_activations(x, cu_seqlens, pass)?.1,
        };
        let site = self.dropout(dropout, Site::MlpResidual);
        self.mlp.backward(&middle, &pre_activation, site, dx, &gradients.mlp, precision)?;
        drop((middle, pre_activation));
        let site = self.dropout(dropout, Site::AttentionResidual);
        let dattended =
            self.attention_out.backward(&attended, dx, site, &gradients.attention_out, precision)?;
        let site = self.dropout(dropout, Site::Attention);
        let dqkv = causal_attention_backward(&qkv, cu_seqlens, self.heads, self.scale, site, &dattended)?;
        Ok(self.attention_in.backward(x, &dqkv, dx, &gradients.attention_in, precision)?)
    }

    fn attention<'a>(
        &'a self,
        cu_seqlens: &'a CuSeqlens,
    ) -> impl FnOnce(&Tensor, Option<Dropout>) -> Result<Tensor> + 'a {
        |qkv, dropout| Ok(causal_attention(qkv, cu_seqlens, self.heads, self.scale, dropout)?)
    }

    /// Probability and stream of the dropout at a site.
    fn dropout(&self, layer: Option<Stream>, site: Site) -> Option<Dropout> {
        let p = if matches!(site, Site::Attention) { self.attn_pdrop } else { self.resid_pdrop };
        layer.map(|stream| Dropout { p, stream: site.stream(stream) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_site_of_every_layer_draws_its_own_numbers() {
        let sites = [Site::Attention, Site::AttentionResidual, Site::MlpResidual];
        let step = Stream::new(1);
        let mut draws: Vec<u64> =
            (0..3).flat_map(|layer| sites.map(|site| site.stream(step.fold(layer)).u64(0))).collect();
        draws.sort_unstable();
        draws.dedup();
        assert_eq!(draws.len(), 9);
    }
}
