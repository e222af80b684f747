//! The configuration of a Llama, as `config.json` holds it.
//!
//! Every key of transformers' `LlamaConfig`, `MistralConfig`, `Qwen2Config` and `Qwen3Config` (5.23) is known, with the defaults
//! of its `model_type` for keys that are missing. A key that would change the computation in a way this crate does not have is an
//! error that names it; keys that change nothing here are kept and written back on export.

use std::collections::BTreeMap;
use std::path::Path;

use mixce_kernels::{Activation, Heads};
use mixce_lm::config::keys::wrong;
use mixce_lm::config::{MAX_PARAMETERS, json_object};
use mixce_lm::{Error, Result, files};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

mod keys;
mod model_type;
mod preset;
mod rope;

pub use model_type::ModelType;
pub use rope::{Rope, RopeScaling};

/// Largest `num_hidden_layers` that is accepted; keeps a lying configuration from filling memory with tensor names.
pub const MAX_LAYERS: usize = 4096;

/// Largest `config.json` that is read.
const MAX_CONFIG_BYTES: u64 = 16 << 20;

/// The shape and the constants of a Llama.
///
/// Letters: V `vocab_size`, T `max_position_embeddings`, C `hidden_size`, H `num_attention_heads`, K `num_key_value_heads`,
/// D `head_dim`, L `num_hidden_layers`, I `intermediate_size`.
///
/// Reference: `models/llama`, `models/mistral`, `models/qwen2` and `models/qwen3` of transformers 5.23.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Map<String, Value>", into = "Map<String, Value>")]
pub struct LlamaConfig {
    /// Which of the architectures it is.
    pub model_type: ModelType,
    /// V, the number of token ids.
    pub vocab_size: usize,
    /// C, the channels.
    pub hidden_size: usize,
    /// I, the channels inside an MLP.
    pub intermediate_size: usize,
    /// L, the number of blocks.
    pub num_hidden_layers: usize,
    /// H, the heads of queries.
    pub num_attention_heads: usize,
    /// K, the heads of keys and values; H / K heads of queries share one.
    pub num_key_value_heads: usize,
    /// D, the channels of one head. H D need not be C.
    pub head_dim: usize,
    /// The function of the MLP's gate.
    pub hidden_act: Activation,
    /// The longest text in tokens.
    pub max_position_embeddings: usize,
    /// The rotary embedding.
    pub rope: Rope,
    /// The epsilon of every RMS norm.
    pub rms_norm_eps: f64,
    /// Standard deviation of the initial weights.
    pub initializer_range: f64,
    /// Whether the four maps of attention have biases (Llama and Qwen3). Qwen2 has those of queries, keys and values, always.
    pub attention_bias: bool,
    /// Whether the three maps of the MLP have biases (Llama).
    pub mlp_bias: bool,
    /// Dropout on the attention probabilities, in `[0, 1)`.
    pub attention_dropout: f64,
    /// Whether the LM head is the token embedding matrix itself.
    pub tie_word_embeddings: bool,
    /// The keys that a query sees in the layers with a window, its own position included; `None` where no layer has one.
    pub sliding_window: Option<usize>,
    /// Which layers have the window, where there is one: in Mistral all, in Qwen those that `layer_types` or `max_window_layers` say.
    pub windowed_layers: Vec<bool>,
    /// Whether generation keeps keys and values; kept for export only.
    pub use_cache: bool,
    /// The token that begins a text; see [`LlamaConfig::bos_id`].
    pub bos_token_id: Option<u32>,
    /// The token that ends a text; see [`LlamaConfig::eos_id`]. The first, where the file has a list of them.
    pub eos_token_id: Option<u32>,
    /// The further ids of such a list: each ends a sample too.
    pub more_eos_token_ids: Vec<u32>,
    /// The token used for padding by other tools.
    pub pad_token_id: Option<u32>,
    /// All other keys, as read.
    pub extra: BTreeMap<String, Value>,
}

impl LlamaConfig {
    /// Reads and validates a `config.json`.
    ///
    /// # Errors
    /// When the file cannot be read or is larger than 16 MiB, and as [`LlamaConfig::from_json`].
    pub fn from_file(path: &Path) -> Result<Self> {
        let text = files::read_text(path, MAX_CONFIG_BYTES)?;
        Self::from_json(&text).map_err(|error| error.in_file(path))
    }

    /// Parses and validates the text of a `config.json`.
    ///
    /// # Errors
    /// When it is not a JSON object, has no `model_type` of this family, a key has a value of the wrong kind or out of range, or a key
    /// asks for an unsupported computation.
    pub fn from_json(text: &str) -> Result<Self> {
        Self::try_from(json_object(text)?)
    }

    /// The text of a `config.json` that transformers loads: keys sorted, two spaces of indentation, a final newline.
    #[must_use]
    pub fn to_json(&self) -> String {
        let sorted: BTreeMap<String, Value> = Map::from(self.clone()).into_iter().collect();
        // A map of JSON values always has a textual form.
        let mut text = serde_json::to_string_pretty(&sorted).unwrap_or_default();
        text.push('\n');
        text
    }

    /// Checks that the values describe a model that can exist.
    ///
    /// # Errors
    /// The first key that does not hold: sizes are positive and fit in memory's address space, `num_attention_heads` is a multiple of
    /// `num_key_value_heads`, `head_dim` is even, dropout lies in `[0, 1)`, epsilon and initial deviation are finite and not negative,
    /// and the rotary embedding's numbers are positive.
    pub fn validate(&self) -> Result<()> {
        let sizes = [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("num_key_value_heads", self.num_key_value_heads),
            ("head_dim", self.head_dim),
            ("max_position_embeddings", self.max_position_embeddings),
            ("sliding_window", self.sliding_window.unwrap_or(1)),
        ];
        for (key, size) in sizes {
            let limit = if key == "num_hidden_layers" { MAX_LAYERS } else { i32::MAX as usize };
            if size == 0 || size > limit {
                return Err(wrong(key, format!("between 1 and {limit}"), size));
            }
        }
        let (heads, kv) = (self.num_attention_heads, self.num_key_value_heads);
        if !heads.is_multiple_of(kv) {
            return Err(wrong(
                "num_key_value_heads",
                format!("a divisor of `num_attention_heads` ({heads})"),
                kv,
            ));
        }
        if !self.head_dim.is_multiple_of(2) {
            return Err(wrong(
                "head_dim",
                "even, as the rotary embedding turns pairs of channels",
                self.head_dim,
            ));
        }
        if !(0.0..1.0).contains(&self.attention_dropout) {
            return Err(wrong("attention_dropout", "in [0, 1)", self.attention_dropout));
        }
        for (key, x) in [("rms_norm_eps", self.rms_norm_eps), ("initializer_range", self.initializer_range)] {
            if !x.is_finite() || x < 0.0 {
                return Err(wrong(key, "finite and not negative", x));
            }
        }
        if self.windowed_layers.len() != self.num_hidden_layers {
            let expected = format!("a list of `num_hidden_layers` ({}) entries", self.num_hidden_layers);
            return Err(wrong("layer_types", expected, self.windowed_layers.len()));
        }
        self.rope.validate()?;
        match self.checked_parameter_count() {
            Some(count) if count <= MAX_PARAMETERS => Ok(()),
            count => Err(wrong(
                "vocab_size, hidden_size, intermediate_size, num_hidden_layers, num_attention_heads, head_dim",
                format!("sizes of a model of at most {MAX_PARAMETERS} parameters"),
                count.map_or_else(|| "more than 2^64".to_owned(), |count| count.to_string()),
            )),
        }
    }

    /// The window of block `layer` (from 0), if it has one.
    #[must_use]
    pub fn window(&self, layer: usize) -> Option<usize> {
        self.sliding_window.filter(|_| self.windowed_layers.get(layer).copied().unwrap_or_default())
    }

    /// The attention heads of block `layer` (from 0).
    #[must_use]
    pub fn heads(&self, layer: usize) -> Heads {
        Heads {
            count: self.num_attention_heads,
            kv: self.num_key_value_heads,
            scale: (self.head_dim as f64).powf(-0.5),
            window: self.window(layer),
        }
    }

    /// Whether the projections of queries, keys and values have biases.
    #[must_use]
    pub fn has_qkv_bias(&self) -> bool {
        self.attention_bias || self.model_type == ModelType::Qwen2
    }

    /// Whether queries and keys are normalised head by head (Qwen3).
    #[must_use]
    pub fn has_head_norms(&self) -> bool {
        self.model_type == ModelType::Qwen3
    }

    /// The number of weights; a tied LM head is counted once. Saturates on a configuration that is not valid.
    #[must_use]
    pub fn parameter_count(&self) -> u64 {
        self.checked_parameter_count().unwrap_or(u64::MAX)
    }

    /// The token that begins a text, if the vocabulary has it.
    #[must_use]
    pub fn bos_id(&self) -> Option<u32> {
        self.bos_token_id.filter(|&id| (id as usize) < self.vocab_size)
    }

    /// The token that ends a text, if the vocabulary has it.
    #[must_use]
    pub fn eos_id(&self) -> Option<u32> {
        self.eos_ids().next()
    }

    /// Every token that ends a text and that the vocabulary has.
    pub fn eos_ids(&self) -> impl Iterator<Item = u32> {
        let ids = self.eos_token_id.iter().chain(&self.more_eos_token_ids);
        ids.copied().filter(|&id| (id as usize) < self.vocab_size)
    }

    /// The keys of the file that neither the architecture nor transformers' common part knows: typing errors, most likely.
    #[must_use]
    pub fn unknown_keys(&self) -> Vec<&str> {
        self.extra.keys().map(String::as_str).filter(|key| !keys::is_harmless(key)).collect()
    }

    fn checked_parameter_count(&self) -> Option<u64> {
        let [v, c, l, i, h, k, d] = [
            self.vocab_size,
            self.hidden_size,
            self.num_hidden_layers,
            self.intermediate_size,
            self.num_attention_heads,
            self.num_key_value_heads,
            self.head_dim,
        ]
        .map(|n| n as u128);
        let qkv = (h + 2 * k).checked_mul(d)?;
        let bias = |has: bool, size: u128| if has { size } else { 0 };
        let attention = qkv.checked_add(h * d)?.checked_mul(c)?;
        let biases = bias(self.has_qkv_bias(), qkv)
            + bias(self.attention_bias, c)
            + bias(self.mlp_bias, 2 * i + c)
            + bias(self.has_head_norms(), 2 * d);
        let block = attention + 3 * c * i + 2 * c + biases;
        let head = if self.tie_word_embeddings { 0 } else { v * c };
        u64::try_from((v * c + c + head).checked_add(l.checked_mul(block)?)?).ok()
    }
}

impl TryFrom<Map<String, Value>> for LlamaConfig {
    type Error = Error;

    fn try_from(object: Map<String, Value>) -> Result<Self> {
        let config = keys::parse(object)?;
        config.validate()?;
        Ok(config)
    }
}

impl From<LlamaConfig> for Map<String, Value> {
    fn from(config: LlamaConfig) -> Self {
        keys::write(config)
    }
}
