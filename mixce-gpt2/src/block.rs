//! One transformer block.
//!
//! Legend: N tokens, C channels, H heads, D = C / H head size, I channels inside the MLP.

use candle_core::Tensor;
use mixce_kernels::rng::Stream;
use mixce_kernels::sublayer::{self, Mlp};
use mixce_kernels::{Activation, Affine, CuSeqlens, Dropout, Precision};
use mixce_kernels::{causal_attention, causal_attention_backward, layer_norm, linear, residual_dropout};

use crate::backward::Pass;
use crate::config::Gpt2Config;
use crate::error::Result;
use crate::params::Parameters;

/// The weight and bias called `name`.
pub(crate) fn affine(parameters: &Parameters, name: &str) -> Result<Affine> {
    let get = |part: &str| parameters.get(&format!("{name}.{part}")).cloned();
    Ok(Affine { weight: get("weight")?, bias: get("bias")? })
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
    ln_1: Affine,
    c_attn: Affine,
    attn_c_proj: Affine,
    mlp: Mlp,
    activation: Activation,
    epsilon: f64,
    resid_pdrop: f64,
    attn_pdrop: f64,
    heads: usize,
    /// The factor of the attention scores.
    pub(crate) scale: f64,
}

/// What the backward pass of a block needs of its forward pass.
#[derive(Debug)]
pub(crate) struct Kept {
    /// The block's input, `[N, C]`.
    x: Tensor,
    /// Everything else, unless it is to be computed again.
    inside: Option<Inside>,
}

#[derive(Debug)]
struct Inside {
    qkv: Tensor,
    attended: Tensor,
    /// The residual stream between attention and MLP.
    middle: Tensor,
    /// The input of the MLP's activation, `[N, I]`.
    before: Option<Tensor>,
}

impl Block {
    pub(crate) fn load(config: &Gpt2Config, parameters: &Parameters, layer: usize) -> Result<Self> {
        let affine = |name: &str| affine(parameters, &format!("h.{layer}.{name}"));
        Ok(Self {
            ln_1: affine("ln_1")?,
            c_attn: affine("attn.c_attn")?,
            attn_c_proj: affine("attn.c_proj")?,
            mlp: Mlp { norm: affine("ln_2")?, c_fc: affine("mlp.c_fc")?, c_proj: affine("mlp.c_proj")? },
            activation: config.activation_function,
            epsilon: config.layer_norm_epsilon,
            resid_pdrop: config.resid_pdrop,
            attn_pdrop: config.attn_pdrop,
            heads: config.n_head,
            scale: config.attention_scale(layer),
        })
    }

    /// The same block outside of any gradient graph.
    pub(crate) fn detach(&self) -> Self {
        let Mlp { norm, c_fc, c_proj } = &self.mlp;
        Self {
            ln_1: self.ln_1.detach(),
            c_attn: self.c_attn.detach(),
            attn_c_proj: self.attn_c_proj.detach(),
            mlp: Mlp { norm: norm.detach(), c_fc: c_fc.detach(), c_proj: c_proj.detach() },
            ..*self
        }
    }

    /// The same block with packed weights, for inference.
    pub(crate) fn packed(self, precision: Precision) -> Result<Self> {
        let Mlp { norm, c_fc, c_proj } = self.mlp;
        Ok(Self {
            c_attn: self.c_attn.packed(precision)?,
            attn_c_proj: self.attn_c_proj.packed(precision)?,
            mlp: Mlp { norm, c_fc: c_fc.packed(precision)?, c_proj: c_proj.packed(precision)? },
            ..self
        })
    }

    /// [`Block::forward`] without dropout.
    pub(crate) fn infer(
        &self,
        x: &Tensor,
        rows: Option<&Tensor>,
        attention: impl FnOnce(&Tensor) -> Result<Tensor>,
    ) -> Result<Tensor> {
        self.forward(x, None, rows, |qkv, _| attention(qkv))
    }

    /// `x` is `[N, C]`; `attention` maps queries, keys and values `[N, 3 C]` to `[N, C]`, given the dropout of its
    /// probabilities; `dropout` is this layer's stream, or `None` for inference. With `rows` only these M rows of `x` are
    /// wanted behind attention, which then gives `[M, C]`, as the block does.
    ///
    /// Fused where no gradient is asked of candle and the sublayers have kernels; candle operations with a graph otherwise.
    pub(crate) fn forward(
        &self,
        x: &Tensor,
        dropout: Option<Stream>,
        rows: Option<&Tensor>,
        attention: impl FnOnce(&Tensor, Dropout) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let tracked = x.track_op() || self.c_attn.weight.track_op();
        if !tracked && sublayer::is_fused(x) {
            return Ok(self.fused(x, dropout, rows, attention, false, Precision::F32)?.0);
        }
        let normed = layer_norm(x, &self.ln_1.weight, &self.ln_1.bias, self.epsilon)?;
        let qkv = linear(&normed, &self.c_attn.weight, Some(&self.c_attn.bias))?;
        let attended = attention(&qkv, self.dropout(dropout, Site::Attention))?;
        let branch = linear(&attended, &self.attn_c_proj.weight, Some(&self.attn_c_proj.bias))?;
        let x = residual_dropout(&select(x, rows)?, &branch, self.dropout(dropout, Site::AttentionResidual))?;
        let Mlp { norm, c_fc, c_proj } = &self.mlp;
        let normed = layer_norm(&x, &norm.weight, &norm.bias, self.epsilon)?;
        let inside = self.activation.forward(&linear(&normed, &c_fc.weight, Some(&c_fc.bias))?)?;
        let branch = linear(&inside, &c_proj.weight, Some(&c_proj.bias))?;
        Ok(residual_dropout(&x, &branch, self.dropout(dropout, Site::MlpResidual))?)
    }

    /// The forward pass of training: also returns what [`Block::backward`] needs, only the block's input when it is to be
    /// computed again. The stream of `pass` is this layer's.
    pub(crate) fn forward_kept(
        &self,
        x: &Tensor,
        cu_seqlens: &CuSeqlens,
        pass: Pass,
    ) -> Result<(Tensor, Kept)> {
        let keep = !pass.recompute;
        let (y, inside) =
            self.fused(x, pass.dropout, None, self.attention(cu_seqlens), keep, pass.precision)?;
        Ok((y, Kept { x: x.clone(), inside: keep.then_some(inside) }))
    }

    /// The backward pass: turns `dx`, which holds the gradient of the block's output, into that of its input in place, and adds
    /// those of the parameters to `gradients`, a block of the same shape. `pass` is that of the forward pass.
    pub(crate) fn backward(
        &self,
        kept: Kept,
        cu_seqlens: &CuSeqlens,
        dx: &Tensor,
        gradients: &Self,
        Pass { dropout, precision, .. }: Pass,
    ) -> Result<()> {
        let (x, epsilon) = (&kept.x, self.epsilon);
        let Inside { qkv, attended, middle, before } = match kept.inside {
            Some(inside) => inside,
            None => self.fused(x, dropout, None, self.attention(cu_seqlens), true, precision)?.1,
        };
        let before =
            before.ok_or_else(|| candle_core::Error::Msg("the activation's input was not kept".into()))?;
        let site = self.dropout(dropout, Site::MlpResidual);
        let (mlp, dmlp) = ((&self.mlp, epsilon), &gradients.mlp);
        sublayer::mlp_residual_backward((&middle, &before), mlp, self.activation, site, dx, dmlp, precision)?;
        drop((middle, before));
        let site = self.dropout(dropout, Site::AttentionResidual);
        let (projection, dprojection) = (&self.attn_c_proj, &gradients.attn_c_proj);
        let dattended =
            sublayer::linear_residual_backward(&attended, projection, site, dx, dprojection, precision)?;
        let site = self.dropout(dropout, Site::Attention);
        let dqkv = causal_attention_backward(&qkv, cu_seqlens, self.heads, self.scale, site, &dattended)?;
        let (norm, sums) = ((&self.ln_1, epsilon), (&gradients.ln_1, &gradients.c_attn));
        Ok(sublayer::norm_linear_backward(x, norm, &self.c_attn, &dqkv, dx, sums, precision)?)
    }

    fn fused(
        &self,
        x: &Tensor,
        dropout: Option<Stream>,
        rows: Option<&Tensor>,
        attention: impl FnOnce(&Tensor, Dropout) -> Result<Tensor>,
        keep: bool,
        precision: Precision,
    ) -> Result<(Tensor, Inside)> {
        let qkv = sublayer::norm_linear(x, &self.ln_1, self.epsilon, &self.c_attn, precision)?;
        let attended = attention(&qkv, self.dropout(dropout, Site::Attention))?;
        let site = self.dropout(dropout, Site::AttentionResidual);
        let residual = select(x, rows)?;
        let middle = sublayer::linear_residual(&attended, &self.attn_c_proj, &residual, site, precision)?;
        let site = self.dropout(dropout, Site::MlpResidual);
        let (mlp, activation) = (&self.mlp, self.activation);
        let (y, before) =
            sublayer::mlp_residual(&middle, mlp, self.epsilon, activation, site, keep, precision)?;
        Ok((y, Inside { qkv, attended, middle, before }))
    }

    fn attention<'a>(
        &'a self,
        cu_seqlens: &'a CuSeqlens,
    ) -> impl FnOnce(&Tensor, Dropout) -> Result<Tensor> + 'a {
        |qkv, dropout| Ok(causal_attention(qkv, cu_seqlens, self.heads, self.scale, dropout)?)
    }

    /// Probability and stream of the dropout at a site.
    fn dropout(&self, layer: Option<Stream>, site: Site) -> Dropout {
        let p = if matches!(site, Site::Attention) { self.attn_pdrop } else { self.resid_pdrop };
        layer.map(|stream| (p, site.stream(stream)))
    }
}

/// These rows of `x`, or all.
fn select(x: &Tensor, rows: Option<&Tensor>) -> Result<Tensor> {
    Ok(rows.map_or_else(|| Ok(x.clone()), |rows| x.index_select(rows, 0))?)
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
