//! One transformer block.
//!
//! Legend: N tokens, C channels, I channels inside the MLP, H heads of queries, K heads of keys and values, D channels of a head.

use candle_core::Tensor;
use mixce_kernels::sublayer::{
    Branch, GatedMlp, GatedMlpGradients, LinearResidual, MapsNeighbours, MlpOutput, Neighbours, NormLinear,
    NormLinearGradients, finish_sums_together,
};
use mixce_kernels::{
    Affine, AffineGradients, CuSeqlens, DrawnDropout, Dropout, HeadNorm, HeadTransform,
    HeadTransformGradients, Heads, Norm, Precision, Rotary, StoredTensor, Weight, causal_attention_backward,
};
use mixce_lm::{Attention, LayerOptions, Masks, Parameters, ResidualStream, Result, StreamGradient};

use crate::config::LlamaConfig;

/// Tensors of one block by their names inside it.
#[derive(Clone, Copy)]
struct Tensors<'a> {
    config: &'a LlamaConfig,
    parameters: &'a Parameters,
    layer: usize,
}

/// The maps of attention and of the MLP: name, and whether it has a bias.
type Map = (&'static str, bool);

impl Tensors<'_> {
    fn get(&self, name: &str) -> Result<Tensor> {
        Ok(self.parameters.get(&format!("layers.{}.{name}", self.layer))?.clone())
    }

    fn stored(&self, name: &str) -> Result<StoredTensor> {
        Ok(self.parameters.stored(&format!("layers.{}.{name}", self.layer))?.clone())
    }

    fn map(&self, (name, has_bias): Map) -> Result<Affine> {
        let weight = Weight::Transposed(self.stored(&format!("{name}.weight"))?);
        let bias = has_bias.then(|| self.stored(&format!("{name}.bias"))).transpose()?;
        Ok(Affine { weight, bias })
    }

    fn sums(&self, (name, has_bias): Map) -> Result<AffineGradients> {
        let bias = has_bias.then(|| self.get(&format!("{name}.bias"))).transpose()?;
        Ok(AffineGradients { weight: self.get(&format!("{name}.weight"))?, bias })
    }

    fn norm(&self, name: &str) -> Result<Norm> {
        Ok(Norm::rms(self.get(&format!("{name}.weight"))?, self.config.rms_norm_eps))
    }

    /// The weight of a norm of heads, where the model has it.
    fn head_norm(&self, name: &str) -> Result<Option<Tensor>> {
        self.config.has_head_norms().then(|| self.get(&format!("self_attn.{name}.weight"))).transpose()
    }

    fn qkv(&self) -> [Map; 3] {
        ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]
            .map(|name| (name, self.config.has_qkv_bias()))
    }

    fn o_proj(&self) -> Map {
        ("self_attn.o_proj", self.config.attention_bias)
    }

    /// Gate, up and down.
    fn mlp(&self) -> [Map; 3] {
        ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"].map(|name| (name, self.config.mlp_bias))
    }
}

/// Pre-norm block: `x + o_proj(attention(input_layernorm(x)))`, then `x + mlp(post_attention_layernorm(x))`.
#[derive(Debug, Clone)]
pub struct Block {
    /// `input_layernorm`, `q_proj`, `k_proj` and `v_proj`.
    attention_in: NormLinear,
    /// `q_norm` and `k_norm`, where there are such, and the rotary embedding.
    transform: HeadTransform,
    /// `o_proj`.
    attention_out: LinearResidual,
    /// `post_attention_layernorm`, `gate_proj`, `up_proj` and `down_proj`.
    mlp: GatedMlp,
    attention_dropout: f64,
    heads: Heads,
}

/// Sums of the gradients of a block.
#[derive(Debug)]
pub struct BlockGradients {
    attention_in: NormLinearGradients,
    transform: HeadTransformGradients,
    attention_out: AffineGradients,
    mlp: GatedMlpGradients,
}

/// The activations that the backward pass of a block needs beside its input.
#[derive(Debug)]
pub struct SavedActivations {
    /// Queries, keys and values as they leave their maps, `[N, (H + 2 K) D]`; only where norms of heads need them.
    projected: Option<Tensor>,
    /// The same as attention takes them.
    qkv: Tensor,
    /// The dropout of the probabilities, as it was drawn.
    attention_dropout: Option<DrawnDropout>,
    /// The attended values, `[N, H D]`.
    attended: Tensor,
    /// The residual stream between attention and MLP, `[N, C]`.
    middle: Tensor,
    /// The outputs of gate and up, `[N, 2 I]`.
    pre_activation: Tensor,
}

impl BlockGradients {
    pub(crate) fn load(config: &LlamaConfig, sums: &Parameters, layer: usize) -> Result<Self> {
        let of = Tensors { config, parameters: sums, layer };
        let [gate, up, down] = of.mlp();
        let maps = of.qkv().into_iter().map(|map| of.sums(map)).collect::<Result<_>>()?;
        Ok(Self {
            attention_in: NormLinearGradients { norm: of.sums(("input_layernorm", false))?, maps },
            transform: HeadTransformGradients {
                q_norm: of.head_norm("q_norm")?,
                k_norm: of.head_norm("k_norm")?,
            },
            attention_out: of.sums(of.o_proj())?,
            mlp: GatedMlpGradients {
                norm: of.sums(("post_attention_layernorm", false))?,
                gate: of.sums(gate)?,
                up: of.sums(up)?,
                down: of.sums(down)?,
            },
        })
    }
}

impl Block {
    pub(crate) fn load(
        config: &LlamaConfig,
        parameters: &Parameters,
        rotary: &Rotary,
        layer: usize,
    ) -> Result<Self> {
        let of = Tensors { config, parameters, layer };
        let [gate, up, down] = of.mlp();
        let maps = of.qkv().into_iter().map(|map| of.map(map)).collect::<Result<_>>()?;
        let head_norm = |name: &str| -> Result<Option<HeadNorm>> {
            Ok(of.head_norm(name)?.map(|weight| HeadNorm { weight, epsilon: config.rms_norm_eps }))
        };
        Ok(Self {
            attention_in: NormLinear { norm: of.norm("input_layernorm")?, maps },
            transform: HeadTransform {
                rotary: rotary.clone(),
                q_norm: head_norm("q_norm")?,
                k_norm: head_norm("k_norm")?,
            },
            attention_out: LinearResidual { map: of.map(of.o_proj())? },
            mlp: GatedMlp {
                norm: of.norm("post_attention_layernorm")?,
                gate: of.map(gate)?,
                up: of.map(up)?,
                activation: config.hidden_act,
                down: of.map(down)?,
            },
            attention_dropout: config.attention_dropout,
            heads: config.heads(layer),
        })
    }

    /// Dropout acts in one place of a block, which has the layer's masks for itself.
    fn dropout(&self, layer: Option<Masks>) -> Option<Dropout> {
        layer.map(|masks| masks.dropout(self.attention_dropout))
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
        let projected = self.attention_in.forward_among(&x, normed, precision)?;
        let qkv = self.transform.forward(&projected, attention.positions(), self.heads)?;
        let projected = Some(projected).filter(|_| save && self.transform.backward_needs_input());
        let (attended, attention_dropout) = attention.attend(&qkv, self.heads, self.dropout(dropout))?;
        let attention_dropout = attention_dropout.filter(|_| save);
        let (out, norm, x) = (&self.attention_out, &self.mlp.norm, attention.rows(&x)?);
        let (middle, normed) = out.forward_and_norm(&attended, &x, None, norm, precision)?;
        let MlpOutput { y, pre_activation, normed } =
            self.mlp.forward_among(&middle, normed, None, precision, save, next)?;
        let saved = SavedActivations { projected, qkv, attention_dropout, attended, middle, pre_activation };
        Ok((ResidualStream { x: y, normed }, save.then_some(saved)))
    }

    fn last_branch<'a>(&self, _: LayerOptions, gradients: &'a BlockGradients) -> Branch<'a> {
        Branch { dropout: None, bias: gradients.mlp.down.bias.as_ref() }
    }

    fn backward(
        &self,
        (x, saved): (&Tensor, SavedActivations),
        LayerOptions { precision, .. }: LayerOptions,
        documents: &CuSeqlens,
        StreamGradient { dx, branch }: StreamGradient,
        gradients: &BlockGradients,
        below: Option<Branch<'_>>,
    ) -> Result<StreamGradient> {
        finish_sums_together(|| {
            let SavedActivations { projected, qkv, attention_dropout, attended, middle, pre_activation } =
                saved;
            let sums = &gradients.attention_out;
            let of_attention = Branch { dropout: None, bias: sums.bias.as_ref() };
            let neighbours = Neighbours { above: branch, below: Some(of_attention) };
            let inputs = [&middle, &pre_activation];
            let branch = self.mlp.backward_among(inputs, None, &dx, &gradients.mlp, precision, neighbours)?;
            drop((middle, pre_activation));
            let dattended =
                self.attention_out.backward_among(&attended, &dx, None, sums, precision, branch)?;
            let (heads, drawn) = (self.heads, attention_dropout.as_ref());
            let dqkv = causal_attention_backward(&qkv, documents, heads, drawn, &attended, &dattended)?;
            drop((qkv, attention_dropout, attended, dattended));
            let (positions, sums) = (documents.positions(), &gradients.transform);
            self.transform.backward(projected.as_ref(), positions, heads, &dqkv, sums)?;
            let sums = &gradients.attention_in;
            // The rotary embedding lies between attention and the biases.
            let neighbours = MapsNeighbours { biases_added: false, below };
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
