//! One transformer block.
//!
//! Legend: N tokens, C channels, H heads, D = C / H head size, I channels inside the MLP.

use candle_core::Tensor;
use mixce_kernels::rng::Stream;
use mixce_kernels::sublayer::{self, Mlp};
use mixce_kernels::{Activation, Affine, CuSeqlens, Dropout, Precision};
use mixce_kernels::{causal_attention_backward, layer_norm, linear, residual_dropout};
use mixce_lm::{Attention, Heads, LayerOptions, Parameters, Result};

use crate::config::Gpt2Config;

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
pub struct Block {
    ln_1: Affine,
    c_attn: Affine,
    attn_c_proj: Affine,
    mlp: Mlp,
    activation: Activation,
    epsilon: f64,
    resid_pdrop: f64,
    attn_pdrop: f64,
    heads: Heads,
}

/// The activations that the backward pass of a block needs beside its input.
#[derive(Debug)]
pub struct SavedActivations {
    /// Queries, keys and values, `[N, 3 C]`.
    qkv: Tensor,
    /// The attended values, `[N, C]`.
    attended: Tensor,
    /// The residual stream between attention and MLP, `[N, C]`.
    middle: Tensor,
    /// The input of the MLP's activation, `[N, I]`, if it was to be saved.
    pre_activation: Option<Tensor>,
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
            heads: Heads { count: config.n_head, scale: config.attention_scale(layer) },
        })
    }

    /// The same from candle's differentiable operations, for tensors with a graph and devices without fused sublayers.
    fn composed(
        &self,
        x: &Tensor,
        layer: Option<Stream>,
        attention: &mut Attention<'_>,
    ) -> Result<(Tensor, SavedActivations)> {
        let normed = layer_norm(x, &self.ln_1.weight, &self.ln_1.bias, self.epsilon)?;
        let qkv = linear(&normed, &self.c_attn.weight, Some(&self.c_attn.bias))?;
        let attended = attention.attend(&qkv, self.heads, self.dropout(layer, Site::Attention))?;
        let branch = linear(&attended, &self.attn_c_proj.weight, Some(&self.attn_c_proj.bias))?;
        let middle =
            residual_dropout(&attention.rows(x)?, &branch, self.dropout(layer, Site::AttentionResidual))?;
        let Mlp { norm, c_fc, c_proj } = &self.mlp;
        let normed = layer_norm(&middle, &norm.weight, &norm.bias, self.epsilon)?;
        let inside = self.activation.forward(&linear(&normed, &c_fc.weight, Some(&c_fc.bias))?)?;
        let branch = linear(&inside, &c_proj.weight, Some(&c_proj.bias))?;
        let y = residual_dropout(&middle, &branch, self.dropout(layer, Site::MlpResidual))?;
        Ok((y, SavedActivations { qkv, attended, middle, pre_activation: None }))
    }

    /// Probability and stream of the dropout at a site.
    fn dropout(&self, layer: Option<Stream>, site: Site) -> Dropout {
        let p = if matches!(site, Site::Attention) { self.attn_pdrop } else { self.resid_pdrop };
        layer.map(|stream| (p, site.stream(stream)))
    }
}

impl mixce_lm::Block for Block {
    type Saved = SavedActivations;

    fn forward(
        &self,
        x: &Tensor,
        LayerOptions { dropout, precision }: LayerOptions,
        attention: &mut Attention<'_>,
        save: bool,
    ) -> Result<(Tensor, SavedActivations)> {
        if x.track_op() || self.c_attn.weight.track_op() || !sublayer::is_fused(x) {
            return self.composed(x, dropout, attention);
        }
        let qkv = sublayer::norm_linear(x, &self.ln_1, self.epsilon, &self.c_attn, precision)?;
        let attended = attention.attend(&qkv, self.heads, self.dropout(dropout, Site::Attention))?;
        let site = self.dropout(dropout, Site::AttentionResidual);
        let residual = attention.rows(x)?;
        let middle = sublayer::linear_residual(&attended, &self.attn_c_proj, &residual, site, precision)?;
        let site = self.dropout(dropout, Site::MlpResidual);
        let (mlp, activation) = (&self.mlp, self.activation);
        let (y, pre_activation) =
            sublayer::mlp_residual(&middle, mlp, self.epsilon, activation, site, save, precision)?;
        Ok((y, SavedActivations { qkv, attended, middle, pre_activation }))
    }

    fn backward(
        &self,
        x: &Tensor,
        saved: SavedActivations,
        LayerOptions { dropout, precision }: LayerOptions,
        documents: &CuSeqlens,
        dx: &Tensor,
        gradients: &Self,
    ) -> Result<()> {
        let SavedActivations { qkv, attended, middle, pre_activation } = saved;
        let pre_activation = pre_activation
            .ok_or_else(|| candle_core::Error::Msg("the MLP's pre-activations were not saved".into()))?;
        let site = self.dropout(dropout, Site::MlpResidual);
        let (mlp, dmlp) = ((&self.mlp, self.epsilon), &gradients.mlp);
        let inputs = (&middle, &pre_activation);
        sublayer::mlp_residual_backward(inputs, mlp, self.activation, site, dx, dmlp, precision)?;
        drop((middle, pre_activation));
        let site = self.dropout(dropout, Site::AttentionResidual);
        let (projection, dprojection) = (&self.attn_c_proj, &gradients.attn_c_proj);
        let dattended =
            sublayer::linear_residual_backward(&attended, projection, site, dx, dprojection, precision)?;
        let site = self.dropout(dropout, Site::Attention);
        let Heads { count, scale } = self.heads;
        let dqkv = causal_attention_backward(&qkv, documents, count, scale, site, &dattended)?;
        let (norm, sums) = ((&self.ln_1, self.epsilon), (&gradients.ln_1, &gradients.c_attn));
        Ok(sublayer::norm_linear_backward(x, norm, &self.c_attn, &dqkv, dx, sums, precision)?)
    }

    fn packed(self, precision: Precision) -> Result<Self> {
        let Mlp { norm, c_fc, c_proj } = self.mlp;
        Ok(Self {
            c_attn: self.c_attn.packed(precision)?,
            attn_c_proj: self.attn_c_proj.packed(precision)?,
            mlp: Mlp { norm, c_fc: c_fc.packed(precision)?, c_proj: c_proj.packed(precision)? },
            ..self
        })
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
