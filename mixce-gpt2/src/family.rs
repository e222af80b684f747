//! GPT-2 among the architectures that a program can read.

use std::sync::Arc;

use candle_core::{Device, Tensor};
use mixce_kernels::{AffineGradients, Norm};
use mixce_lm::config::{ExportedKeys, TensorNames};
use mixce_lm::memory::{BlockMemory, PassShape};
use mixce_lm::{
    Architecture, Family, LanguageModel, ModelConfig, ModelSpec, ParameterSpec, Parameters, Result,
};
use serde_json::{Map, Value};

use crate::block::{Block, BlockGradients, gradients, norm};
use crate::config::Gpt2Config;
use crate::embedding::Embedding;
use crate::{Gpt2, flops, gguf, memory, names, parameters};

/// GPT-2.
pub static FAMILY: Family = Family {
    name: "GPT-2",
    model_types: &["gpt2"],
    reads_untyped: true,
    parse: |keys| Ok(Arc::new(Gpt2Config::try_from(keys)?)),
    presets: &Gpt2Config::PRESETS,
    preset: |name| Gpt2Config::preset(name).map(|config| Arc::new(config) as Arc<dyn ModelConfig>),
    gguf: Some(gguf::FORMAT),
};

/// Keys of the configuration that change the numbers of a run; the others are names and ids.
const DECISIVE: [&str; 15] = [
    "vocab_size",
    "n_positions",
    "n_embd",
    "n_layer",
    "n_head",
    "n_inner",
    "activation_function",
    "resid_pdrop",
    "embd_pdrop",
    "attn_pdrop",
    "layer_norm_epsilon",
    "scale_attn_weights",
    "scale_attn_by_inverse_layer_idx",
    "reorder_and_upcast_attn",
    "tie_word_embeddings",
];

impl ModelConfig for Gpt2Config {
    fn family(&self) -> &'static Family {
        &FAMILY
    }

    fn spec(&self) -> ModelSpec {
        ModelSpec {
            name: "GPT-2",
            model_type: "gpt2",
            vocabulary: self.vocab_size,
            positions: self.n_positions,
            channels: self.n_embd,
            layers: self.n_layer,
            heads: self.n_head,
            parameters: self.parameter_count(),
            embedding: "wte.weight",
            head: if self.tie_word_embeddings { "wte.weight" } else { "lm_head.weight" },
            bos: self.bos_id(),
            eos: self.eos_id(),
        }
    }

    fn validate(&self) -> Result<()> {
        self.validate()
    }

    fn to_json(&self) -> String {
        self.to_json()
    }

    fn parameter_specs(&self) -> Vec<ParameterSpec> {
        parameters::specs(self)
    }

    fn build(&self, parameters: Parameters) -> Result<Box<dyn LanguageModel>> {
        Ok(Box::new(Gpt2::new(self.clone(), parameters)?))
    }

    fn dropout(&self) -> Vec<f64> {
        vec![self.embd_pdrop, self.attn_pdrop, self.resid_pdrop]
    }

    fn with_dropout(&self, p: f64) -> Arc<dyn ModelConfig> {
        Arc::new(Self { resid_pdrop: p, embd_pdrop: p, attn_pdrop: p, ..self.clone() })
    }

    fn decisive_keys(&self) -> Map<String, Value> {
        let mut keys = Map::from(Self { n_inner: Some(self.inner_size()), ..self.clone() });
        keys.retain(|key, _| DECISIVE.contains(&key.as_str()));
        keys
    }

    fn unknown_keys(&self) -> Vec<String> {
        self.unknown_keys().into_iter().map(str::to_owned).collect()
    }

    fn describe(&self) -> String {
        format!(
            "GPT-2: {} layers, {} channels, {} heads, {} positions, {} tokens",
            self.n_layer, self.n_embd, self.n_head, self.n_positions, self.vocab_size
        )
    }

    fn tensor_names(&self) -> TensorNames {
        names::NAMES
    }

    fn is_transposed(&self, shape_of: &dyn Fn(&str) -> Option<Vec<usize>>) -> bool {
        names::is_linear(self, shape_of)
    }

    fn transformers_name(&self, name: &str) -> String {
        match name {
            "lm_head.weight" => name.to_owned(),
            _ => format!("transformer.{name}"),
        }
    }

    fn exported(&self, keys: &ExportedKeys<'_>) -> Arc<dyn ModelConfig> {
        let mut config = self.clone();
        // The defaults (50256) lie outside a small vocabulary; the tokenizer knows better.
        config.bos_token_id = config.bos_id().or(keys.bos);
        let mut ends = keys.ends(config.eos_ids(), config.vocab_size).into_iter();
        config.eos_token_id = ends.next();
        config.more_eos_token_ids = ends.collect();
        keys.write("GPT2LMHeadModel", &mut config.extra);
        Arc::new(config)
    }

    fn forward_flops(&self, lengths: &mut dyn Iterator<Item = usize>, logit_tokens: usize) -> u128 {
        flops::forward(self, lengths, logit_tokens)
    }

    fn block_memory(&self, shape: PassShape) -> BlockMemory {
        memory::block(self, shape)
    }
}

impl Architecture for Gpt2Config {
    type Embedding = Embedding;
    type Block = Block;
    type Shared = ();

    fn shared(&self, _: &Device) -> Result<()> {
        Ok(())
    }

    fn embedding(&self, parameters: &Parameters) -> Result<Embedding> {
        let table = |name: &str| -> Result<Tensor> { Ok(parameters.get(name)?.clone()) };
        Ok(Embedding { wte: table("wte.weight")?, wpe: table("wpe.weight")?, embd_pdrop: self.embd_pdrop })
    }

    fn block(&self, parameters: &Parameters, (): &(), layer: usize) -> Result<Block> {
        Block::load(self, parameters, layer)
    }

    fn block_gradients(&self, sums: &Parameters, layer: usize) -> Result<BlockGradients> {
        BlockGradients::load(sums, layer)
    }

    fn final_norm(&self, parameters: &Parameters) -> Result<Norm> {
        norm(parameters, "ln_f", self.layer_norm_epsilon)
    }

    fn final_norm_gradients(&self, sums: &Parameters) -> Result<AffineGradients> {
        gradients(sums, "ln_f")
    }
}
