//! One transformer block.
//!
//! Legend: N tokens, C channels, H heads, D = C / H head size, I channels inside the MLP.

use candle_core::Tensor;
use mixce_kernels::rng::Stream;
use mixce_kernels::{Activation, dropout, layer_norm, linear};

use crate::config::Gpt2Config;
use crate::error::Result;
use crate::params::Parameters;

/// Weight and bias of one layer.
#[derive(Debug, Clone)]
pub(crate) struct Affine {
    pub(crate) weight: Tensor,
    pub(crate) bias: Tensor,
}

impl Affine {
    pub(crate) fn load(parameters: &Parameters, name: &str) -> Result<Self> {
        let get = |part: &str| parameters.get(&format!("{name}.{part}")).cloned();
        Ok(Self { weight: get("weight")?, bias: get("bias")? })
    }

    pub(crate) fn layer_norm(&self, x: &Tensor, eps: f64) -> Result<Tensor> {
        Ok(layer_norm(x, &self.weight, &self.bias, eps)?)
    }

    fn linear(&self, x: &Tensor) -> Result<Tensor> {
        Ok(linear(x, &self.weight, Some(&self.bias))?)
    }
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
    ln_2: Affine,
    c_fc: Affine,
    mlp_c_proj: Affine,
    activation: Activation,
    epsilon: f64,
    resid_pdrop: f64,
    attn_pdrop: f64,
    /// The factor of the attention scores.
    pub(crate) scale: f64,
}

impl Block {
    pub(crate) fn load(config: &Gpt2Config, parameters: &Parameters, layer: usize) -> Result<Self> {
        let affine = |name: &str| Affine::load(parameters, &format!("h.{layer}.{name}"));
        Ok(Self {
            ln_1: affine("ln_1")?,
            c_attn: affine("attn.c_attn")?,
            attn_c_proj: affine("attn.c_proj")?,
            ln_2: affine("ln_2")?,
            c_fc: affine("mlp.c_fc")?,
            mlp_c_proj: affine("mlp.c_proj")?,
            activation: config.activation_function,
            epsilon: config.layer_norm_epsilon,
            resid_pdrop: config.resid_pdrop,
            attn_pdrop: config.attn_pdrop,
            scale: config.attention_scale(layer),
        })
    }

    /// `x` is `[N, C]`; `attention` maps queries, keys and values `[N, 3 C]` to `[N, C]`, given the dropout of its
    /// probabilities; `dropout` is this layer's stream, or `None` for inference.
    pub(crate) fn forward(
        &self,
        x: &Tensor,
        dropout: Option<Stream>,
        attention: impl FnOnce(&Tensor, Option<(f64, Stream)>) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let site = |site: Site| dropout.map(|stream| site.stream(stream));
        let qkv = self.c_attn.linear(&self.ln_1.layer_norm(x, self.epsilon)?)?;
        let attended = attention(&qkv, site(Site::Attention).map(|stream| (self.attn_pdrop, stream)))?;
        let x = self.add(x, &self.attn_c_proj.linear(&attended)?, site(Site::AttentionResidual))?;
        let inner = self.activation.forward(&self.c_fc.linear(&self.ln_2.layer_norm(&x, self.epsilon)?)?)?;
        self.add(&x, &self.mlp_c_proj.linear(&inner)?, site(Site::MlpResidual))
    }

    fn add(&self, x: &Tensor, branch: &Tensor, stream: Option<Stream>) -> Result<Tensor> {
        match stream {
            Some(stream) => Ok((x + dropout(branch, self.resid_pdrop, stream)?)?),
            None => Ok((x + branch)?),
        }
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
