//! Llama and its relatives among the architectures that a program can read.

use std::sync::Arc;

use candle_core::Device;
use mixce_kernels::{AffineGradients, Norm, Rotary};
use mixce_lm::config::{ExportedKeys, TensorNames};
use mixce_lm::memory::{BlockMemory, PassShape};
use mixce_lm::{
    Architecture, Family, LanguageModel, ModelConfig, ModelSpec, ParameterSpec, Parameters, Result,
};
use serde_json::{Map, Value, json};

use crate::block::{Block, BlockGradients};
use crate::config::{LlamaConfig, RopeScaling};
use crate::embedding::Embedding;
use crate::{Llama, flops, gguf, memory, names, parameters};

/// Llama, Mistral, Qwen2 and Qwen3.
pub static FAMILY: Family = Family {
    name: "Llama",
    model_types: &["llama", "mistral", "qwen2", "qwen3"],
    reads_untyped: false,
    parse: |keys| Ok(Arc::new(LlamaConfig::try_from(keys)?)),
    presets: &LlamaConfig::PRESETS,
    preset: |name| LlamaConfig::preset(name).map(|config| Arc::new(config) as Arc<dyn ModelConfig>),
    gguf: Some(gguf::FORMAT),
};

/// Keys of the configuration that change the numbers of a run; the others are names and ids.
const DECISIVE: [&str; 18] = [
    "model_type",
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "max_position_embeddings",
    "rope_parameters",
    "rms_norm_eps",
    "attention_bias",
    "mlp_bias",
    "attention_dropout",
    "tie_word_embeddings",
    "sliding_window",
    "layer_types",
];

impl ModelConfig for LlamaConfig {
    fn family(&self) -> &'static Family {
        &FAMILY
    }

    fn spec(&self) -> ModelSpec {
        ModelSpec {
            name: self.model_type.name(),
            model_type: self.model_type.key(),
            vocabulary: self.vocab_size,
            positions: self.max_position_embeddings,
            channels: self.hidden_size,
            layers: self.num_hidden_layers,
            heads: self.num_attention_heads,
            parameters: self.parameter_count(),
            embedding: "embed_tokens.weight",
            head: if self.tie_word_embeddings { "embed_tokens.weight" } else { "lm_head.weight" },
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
        Ok(Box::new(Llama::new(self.clone(), parameters)?))
    }

    fn dropout(&self) -> Vec<f64> {
        vec![0.0, self.attention_dropout, 0.0]
    }

    /// There is dropout of attention alone.
    fn with_dropout(&self, p: f64) -> Arc<dyn ModelConfig> {
        Arc::new(Self { attention_dropout: p, ..self.clone() })
    }

    fn decisive_keys(&self) -> Map<String, Value> {
        let mut keys = Map::from(self.clone());
        keys.insert("head_dim".to_owned(), json!(self.head_dim));
        keys.retain(|key, _| DECISIVE.contains(&key.as_str()));
        keys
    }

    fn unknown_keys(&self) -> Vec<String> {
        self.unknown_keys().into_iter().map(str::to_owned).collect()
    }

    fn describe(&self) -> String {
        let mut text = format!(
            "{}: {} layers, {} channels, {} heads ({} of keys and values) of {}, {} positions, {} tokens",
            self.model_type.name(),
            self.num_hidden_layers,
            self.hidden_size,
            self.num_attention_heads,
            self.num_key_value_heads,
            self.head_dim,
            self.max_position_embeddings,
            self.vocab_size
        );
        match self.rope.scaling {
            RopeScaling::None => {}
            RopeScaling::Linear { factor } => text.push_str(&format!(", linear rope scaling by {factor}")),
            RopeScaling::Llama3 { factor, .. } => {
                text.push_str(&format!(", llama3 rope scaling by {factor}"))
            }
        }
        if let Some(window) = self.sliding_window {
            let layers = self.windowed_layers.iter().filter(|windowed| **windowed).count();
            text.push_str(&format!(", a window of {window} in {layers} layers"));
        }
        text
    }

    fn tensor_names(&self) -> TensorNames {
        names::NAMES
    }

    /// Never: transformers and the trainers that follow it store all of them alike.
    fn is_transposed(&self, _: &dyn Fn(&str) -> Option<Vec<usize>>) -> bool {
        false
    }

    fn transformers_name(&self, name: &str) -> String {
        match name {
            "lm_head.weight" => name.to_owned(),
            _ => format!("model.{name}"),
        }
    }

    fn exported(&self, keys: &ExportedKeys<'_>) -> Arc<dyn ModelConfig> {
        let mut config = self.clone();
        config.bos_token_id = config.bos_id().or(keys.bos);
        let mut ends = keys.ends(config.eos_ids(), config.vocab_size).into_iter();
        config.eos_token_id = ends.next();
        config.more_eos_token_ids = ends.collect();
        keys.write(&self.model_type.class(), &mut config.extra);
        Arc::new(config)
    }

    fn forward_flops(&self, lengths: &mut dyn Iterator<Item = usize>, logit_tokens: usize) -> u128 {
        flops::forward(self, lengths, logit_tokens)
    }

    fn block_memory(&self, shape: PassShape) -> BlockMemory {
        memory::block(self, shape)
    }
}

impl Architecture for LlamaConfig {
    type Embedding = Embedding;
    type Block = Block;
    /// The rotary embedding's tables.
    type Shared = Rotary;

    fn shared(&self, device: &Device) -> Result<Rotary> {
        let frequencies = self.rope.inverse_frequencies(self.head_dim);
        Ok(Rotary::new(&frequencies, self.max_position_embeddings, 1.0, device)?)
    }

    fn embedding(&self, parameters: &Parameters) -> Result<Embedding> {
        Ok(Embedding { embed_tokens: parameters.get("embed_tokens.weight")?.clone() })
    }

    fn block(&self, parameters: &Parameters, rotary: &Rotary, layer: usize) -> Result<Block> {
        Block::load(self, parameters, rotary, layer)
    }

    fn block_gradients(&self, sums: &Parameters, layer: usize) -> Result<BlockGradients> {
        BlockGradients::load(self, sums, layer)
    }

    fn final_norm(&self, parameters: &Parameters) -> Result<Norm> {
        Ok(Norm::rms(parameters.get("norm.weight")?.clone(), self.rms_norm_eps))
    }

    fn final_norm_gradients(&self, sums: &Parameters) -> Result<AffineGradients> {
        Ok(AffineGradients { weight: sums.get("norm.weight")?.clone(), bias: None })
    }
}
