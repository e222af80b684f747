//! One transformer block.
//!
//! Legend: N tokens, C channels, I channels inside the MLP.

use candle_core::Tensor;
use mixce_kernels::sublayer::{
    Branch, LinearResidual, MapsNeighbours, Mlp, MlpGradients, MlpOutput, Neighbours, NormLinear,
    NormLinearGradients, finish_sums_together,
};
use mixce_kernels::{
    Affine, AffineGradients, CuSeqlens, DrawnDropout, Dropout, Norm, Precision,
    causal_attention_backward_adding,
};
use mixce_lm::{Attention, Heads, LayerOptions, Masks, Parameters, ResidualStream, Result, StreamGradient};

use crate::config::Gpt2Config;

/// The weight and bias called `name`.
fn pair(parameters: &Parameters, name: &str) -> Result<[Tensor; 2]> {
    let get = |part: &str| parameters.get(&format!("{name}.{part}")).cloned();
    Ok([get("weight")?, get("bias")?])
}

/// The layer norm called `name`.
pub(crate) fn norm(parameters: &Parameters, name: &str, epsilon: f64) -> Result<Norm> {
    let [weight, bias] = pair(parameters, name)?;
    Ok(Norm::layer(weight, Some(bias), epsilon))
}

/// The sums for the gradients of the weight and bias called `name`.
pub(crate) fn gradients(sums: &Parameters, name: &str) -> Result<AffineGradients> {
    let [weight, bias] = pair(sums, name)?;
    Ok(AffineGradients { weight, bias: Some(bias) })
}

/// Where dropout acts inside a block; folded into the layer's masks.
#[derive(Clone, Copy)]
enum Site {
    Attention = 0,
    AttentionResidual = 1,
    MlpResidual = 2,
}

impl Site {
    /// This site's masks, given its layer's.
    fn masks(self, layer: Masks) -> Masks {
        layer.fold(self as u64)
    }
}

/// Pre-norm block: `x + attention(ln_1(x))`, then `x + mlp(ln_2(x))`.
#[derive(Debug, Clone)]
pub struct Block {
    /// `ln_1` and `c_attn`.
    attention_in: NormLinear,
    /// `attn.c_proj`.
    attention_out: LinearResidual,
    /// `ln_2`, `c_fc` and `mlp.c_proj`.
    mlp: Mlp,
    resid_pdrop: f64,
    attn_pdrop: f64,
    heads: Heads,
}

/// Sums of the gradients of a block.
#[derive(Debug)]
pub struct BlockGradients {
    attention_in: NormLinearGradients,
    attention_out: AffineGradients,
    mlp: MlpGradients,
}

/// The activations that the backward pass of a block needs beside its input.
#[derive(Debug)]
pub struct SavedActivations {
    /// Queries, keys and values, `[N, 3 C]`.
    qkv: Tensor,
    /// The dropout of the probabilities, as it was drawn.
    attention_dropout: Option<DrawnDropout>,
    /// The attended values, `[N, C]`.
    attended: Tensor,
    /// The residual stream between attention and MLP, `[N, C]`.
    middle: Tensor,
    /// The input of the MLP's activation, `[N, I]`.
    pre_activation: Tensor,
}

impl BlockGradients {
    pub(crate) fn load(sums: &Parameters, layer: usize) -> Result<Self> {
        let of = |name: &str| gradients(sums, &format!("h.{layer}.{name}"));
        Ok(Self {
            attention_in: NormLinearGradients { norm: of("ln_1")?, maps: vec![of("attn.c_attn")?] },
            attention_out: of("attn.c_proj")?,
            mlp: MlpGradients { norm: of("ln_2")?, up: of("mlp.c_fc")?, down: of("mlp.c_proj")? },
        })
    }
}

impl Block {
    pub(crate) fn load(config: &Gpt2Config, parameters: &Parameters, layer: usize) -> Result<Self> {
        let norm = |name: &str| norm(parameters, &format!("h.{layer}.{name}"), config.layer_norm_epsilon);
        let map = |name: &str| -> Result<Affine> {
            let get = |part: &str| parameters.stored(&format!("h.{layer}.{name}.{part}")).cloned();
            Ok(Affine { weight: get("weight")?.into(), bias: Some(get("bias")?) })
        };
        Ok(Self {
            attention_in: NormLinear { norm: norm("ln_1")?, maps: vec![map("attn.c_attn")?] },
            attention_out: LinearResidual { map: map("attn.c_proj")? },
            mlp: Mlp {
                norm: norm("ln_2")?,
                up: map("mlp.c_fc")?,
                activation: config.activation_function,
                down: map("mlp.c_proj")?,
            },
            resid_pdrop: config.resid_pdrop,
            attn_pdrop: config.attn_pdrop,
            heads: Heads::new(config.n_head, config.attention_scale(layer)),
        })
    }

    /// The dropout at a site.
    fn dropout(&self, layer: Option<Masks>, site: Site) -> Option<Dropout> {
        let p = if matches!(site, Site::Attention) { self.attn_pdrop } else { self.resid_pdrop };
        layer.map(|masks| site.masks(masks).dropout(p))
    }
}

impl mixce_lm::Block for Block {
    type Saved = SavedActivations;
    type Gradients = BlockGradients;

    fn norm(&self) -> &Norm {
        &self.attention_in.norm
    }

    fn forward(
        &self,
        ResidualStream { x, normed }: ResidualStream,
        LayerOptions { dropout, precision }: LayerOptions,
        attention: &mut Attention<'_>,
        save: bool,
        next: Option<&Norm>,
    ) -> Result<(ResidualStream, Option<SavedActivations>)> {
        let qkv = self.attention_in.forward_among(&x, normed, precision)?;
        let site = self.dropout(dropout, Site::Attention);
        let (attended, attention_dropout) = attention.attend(&qkv, self.heads, site)?;
        let attention_dropout = attention_dropout.filter(|_| save);
        let site = self.dropout(dropout, Site::AttentionResidual);
        let (out, norm, x) = (&self.attention_out, &self.mlp.norm, attention.rows(&x)?);
        let (middle, normed) = out.forward_and_norm(&attended, &x, site, norm, precision)?;
        let site = self.dropout(dropout, Site::MlpResidual);
        let MlpOutput { y, pre_activation, normed } =
            self.mlp.forward_among(&middle, normed, site, precision, save, next)?;
        let saved = SavedActivations { qkv, attention_dropout, attended, middle, pre_activation };
        Ok((ResidualStream { x: y, normed }, save.then_some(saved)))
    }

    fn last_branch<'a>(
        &self,
        LayerOptions { dropout, .. }: LayerOptions,
        gradients: &'a BlockGradients,
    ) -> Branch<'a> {
        let dropout = self.dropout(dropout, Site::MlpResidual);
        Branch { dropout, bias: gradients.mlp.down.bias.as_ref() }
    }

    fn backward(
        &self,
        (x, saved): (&Tensor, SavedActivations),
        options @ LayerOptions { dropout, precision }: LayerOptions,
        documents: &CuSeqlens,
        StreamGradient { dx, branch }: StreamGradient,
        gradients: &BlockGradients,
        below: Option<Branch<'_>>,
    ) -> Result<StreamGradient> {
        finish_sums_together(|| {
            let SavedActivations { qkv, attention_dropout, attended, middle, pre_activation } = saved;
            let (site, sums) = (self.dropout(dropout, Site::AttentionResidual), &gradients.attention_out);
            let of_attention = Branch { dropout: site, bias: sums.bias.as_ref() };
            let neighbours = Neighbours { above: branch, below: Some(of_attention) };
            let (inputs, of_mlp) = ([&middle, &pre_activation], self.last_branch(options, gradients).dropout);
            let branch =
                self.mlp.backward_among(inputs, of_mlp, &dx, &gradients.mlp, precision, neighbours)?;
            drop((middle, pre_activation));
            let dattended =
                self.attention_out.backward_among(&attended, &dx, site, sums, precision, branch)?;
            let (heads, drawn) = (self.heads, attention_dropout.as_ref());
            let sums = &gradients.attention_in;
            let bias = sums.maps.first().and_then(|map| map.bias.as_ref());
            let outputs = [&attended, &dattended];
            let (dqkv, biases_added) =
                causal_attention_backward_adding(&qkv, documents, heads, drawn, outputs, bias)?;
            drop((qkv, attention_dropout, attended, dattended));
            let neighbours = MapsNeighbours { biases_added, below };
            let branch = self.attention_in.backward_among(x, &dqkv, &dx, sums, precision, neighbours)?;
            Ok(StreamGradient { dx, branch })
        })
    }

    fn pack(self, precision: Precision) -> Result<Self> {
        Ok(Self {
            attention_in: self.attention_in.pack(precision)?,
            attention_out: self.attention_out.pack(precision)?,
            mlp: self.mlp.pack(precision)?,
            ..self
        })
    }
}

#[cfg(test)]
mod tests {
    use mixce_kernels::rng::Stream;

    use super::*;

    #[test]
    fn every_site_of_every_layer_draws_its_own_numbers() {
        let sites = [Site::Attention, Site::AttentionResidual, Site::MlpResidual];
        let step = Masks { stream: Stream::new(1), first_row: 0 };
        let mut draws: Vec<u64> =
            (0..3).flat_map(|layer| sites.map(|site| site.masks(step.fold(layer)).stream.u64(0))).collect();
        draws.sort_unstable();
        draws.dedup();
        assert_eq!(draws.len(), 9);
    }
}
