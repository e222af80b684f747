//! The configuration of a GPT-2, as `config.json` holds it.
//!
//! Every key of transformers' `GPT2Config` (5.23) is known, with the same defaults for keys that are missing. A key that
//! would change the computation in a way this crate does not have is an error that names it; keys that change nothing
//! here (`architectures`, `task_specific_params`, `summary_*`, ...) are kept and written back on export.

use std::collections::BTreeMap;
use std::path::Path;

use mixce_kernels::Activation;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use mixce_lm::config::keys::wrong;
use mixce_lm::config::{MAX_PARAMETERS, json_object};
use mixce_lm::{Error, Result, files};

mod keys;
mod preset;

/// Largest `n_layer` that is accepted; keeps a lying configuration from filling memory with tensor names.
pub const MAX_LAYERS: usize = 4096;

/// Largest `config.json` that is read.
const MAX_CONFIG_BYTES: u64 = 16 << 20;

/// The shape and the constants of a GPT-2.
///
/// Letters: V `vocab_size`, T `n_positions`, C `n_embd`, H `n_head`, D = C / H the head size, L `n_layer`,
/// I `n_inner` or 4 C.
///
/// Reference: `GPT2Config` and `GPT2Attention` of transformers 5.23 (`models/gpt2`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Map<String, Value>", into = "Map<String, Value>")]
pub struct Gpt2Config {
    /// V, the number of token ids.
    pub vocab_size: usize,
    /// The longest text in tokens (also `max_position_embeddings`, `n_ctx`).
    pub n_positions: usize,
    /// C, the channels (also `hidden_size`).
    pub n_embd: usize,
    /// The number of blocks (also `num_hidden_layers`).
    pub n_layer: usize,
    /// H, the attention heads (also `num_attention_heads`).
    pub n_head: usize,
    /// The channels inside an MLP; `None` means 4 C.
    pub n_inner: Option<usize>,
    /// The function inside an MLP.
    pub activation_function: Activation,
    /// Dropout on what a block adds to the residual stream, in `[0, 1)`.
    pub resid_pdrop: f64,
    /// Dropout on the sum of the embeddings, in `[0, 1)`.
    pub embd_pdrop: f64,
    /// Dropout on the attention probabilities, in `[0, 1)`.
    pub attn_pdrop: f64,
    /// The epsilon of every layer norm.
    pub layer_norm_epsilon: f64,
    /// Standard deviation of the initial weights.
    pub initializer_range: f64,
    /// Whether attention scores are divided by sqrt(D).
    pub scale_attn_weights: bool,
    /// Whether attention scores of block `i` (from 0) are also divided by `i + 1`.
    pub scale_attn_by_inverse_layer_idx: bool,
    /// Whether scores are computed in f32 under mixed precision. This crate always does, so the key changes nothing.
    pub reorder_and_upcast_attn: bool,
    /// Whether the LM head is the token embedding matrix itself.
    pub tie_word_embeddings: bool,
    /// Whether generation keeps keys and values; kept for export only.
    pub use_cache: bool,
    /// The token that begins a text. May lie outside the vocabulary (the default does in small models): see
    /// [`Gpt2Config::bos_id`].
    pub bos_token_id: Option<u32>,
    /// The token that ends a text; see [`Gpt2Config::eos_id`]. The first, where the file has a list of them.
    pub eos_token_id: Option<u32>,
    /// The further ids of such a list: each ends a sample too.
    pub more_eos_token_ids: Vec<u32>,
    /// The token used for padding by other tools.
    pub pad_token_id: Option<u32>,
    /// All other keys, as read.
    pub extra: BTreeMap<String, Value>,
}

impl Default for Gpt2Config {
    /// transformers' defaults: GPT-2 small.
    fn default() -> Self {
        Self {
            vocab_size: 50257,
            n_positions: 1024,
            n_embd: 768,
            n_layer: 12,
            n_head: 12,
            n_inner: None,
            activation_function: Activation::GeluNew,
            resid_pdrop: 0.1,
            embd_pdrop: 0.1,
            attn_pdrop: 0.1,
            layer_norm_epsilon: 1e-5,
            initializer_range: 0.02,
            scale_attn_weights: true,
            scale_attn_by_inverse_layer_idx: false,
            reorder_and_upcast_attn: false,
            tie_word_embeddings: true,
            use_cache: true,
            bos_token_id: Some(50256),
            eos_token_id: Some(50256),
            more_eos_token_ids: Vec::new(),
            pad_token_id: None,
            extra: BTreeMap::new(),
        }
    }
}

impl Gpt2Config {
    /// Reads and validates a `config.json`.
    ///
    /// # Errors
    /// When the file cannot be read or is larger than 16 MiB, and as [`Gpt2Config::from_json`].
    pub fn from_file(path: &Path) -> Result<Self> {
        let text = files::read_text(path, MAX_CONFIG_BYTES)?;
        Self::from_json(&text).map_err(|error| error.in_file(path))
    }

    /// Parses and validates the text of a `config.json`.
    ///
    /// # Errors
    /// When it is not a JSON object, a key has a value of the wrong kind or out of range, two names of one setting
    /// disagree, or a key requires an unsupported computation.
    pub fn from_json(text: &str) -> Result<Self> {
        let object = json_object(text)?;
        let config = keys::parse(object)?;
        config.validate()?;
        Ok(config)
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
    /// The first key that does not hold: sizes are positive and fit in memory's address space, `n_embd` is a multiple of
    /// `n_head`, dropouts are in `[0, 1)`, epsilon and initial deviation are finite and not negative.
    pub fn validate(&self) -> Result<()> {
        let sizes = [
            ("vocab_size", self.vocab_size),
            ("n_positions", self.n_positions),
            ("n_embd", self.n_embd),
            ("n_layer", self.n_layer),
            ("n_head", self.n_head),
            ("n_inner", self.inner_size()),
        ];
        for (key, size) in sizes {
            let limit = if key == "n_layer" { MAX_LAYERS } else { i32::MAX as usize };
            if size == 0 || size > limit {
                return Err(wrong(key, format!("between 1 and {limit}"), size));
            }
        }
        if !self.n_embd.is_multiple_of(self.n_head) {
            return Err(wrong("n_embd", format!("a multiple of `n_head` ({})", self.n_head), self.n_embd));
        }
        let probabilities = [
            ("resid_pdrop", self.resid_pdrop),
            ("embd_pdrop", self.embd_pdrop),
            ("attn_pdrop", self.attn_pdrop),
        ];
        for (key, p) in probabilities {
            if !(0.0..1.0).contains(&p) {
                return Err(wrong(key, "in [0, 1)", p));
            }
        }
        for (key, x) in
            [("layer_norm_epsilon", self.layer_norm_epsilon), ("initializer_range", self.initializer_range)]
        {
            if !x.is_finite() || x < 0.0 {
                return Err(wrong(key, "finite and not negative", x));
            }
        }
        match self.checked_parameter_count() {
            Some(count) if count <= MAX_PARAMETERS => Ok(()),
            count => Err(Error::ConfigValue {
                key: "vocab_size, n_positions, n_embd, n_inner, n_layer".to_owned(),
                expected: format!("sizes of a model of at most {MAX_PARAMETERS} parameters"),
                got: count.map_or_else(|| "more than 2^64".to_owned(), |count| count.to_string()),
            }),
        }
    }

    /// D = C / H, the channels of one attention head.
    #[must_use]
    pub fn head_size(&self) -> usize {
        self.n_embd / self.n_head.max(1)
    }

    /// I, the channels inside an MLP.
    #[must_use]
    pub fn inner_size(&self) -> usize {
        self.n_inner.unwrap_or_else(|| self.n_embd.saturating_mul(4))
    }

    /// The factor on the attention scores of block `layer` (from 0):
    /// `(scale_attn_weights ? D^-1/2 : 1) / (scale_attn_by_inverse_layer_idx ? layer + 1 : 1)`.
    #[must_use]
    pub fn attention_scale(&self, layer: usize) -> f64 {
        let by_size = if self.scale_attn_weights { (self.head_size() as f64).powf(-0.5) } else { 1.0 };
        if self.scale_attn_by_inverse_layer_idx { by_size / (layer + 1) as f64 } else { by_size }
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

    /// The keys of the file that neither GPT-2 nor transformers' common part knows: typing errors, most likely.
    #[must_use]
    pub fn unknown_keys(&self) -> Vec<&str> {
        self.extra.keys().map(String::as_str).filter(|key| !keys::is_harmless(key)).collect()
    }

    fn checked_parameter_count(&self) -> Option<u64> {
        let [v, t, c, l, i] =
            [self.vocab_size, self.n_positions, self.n_embd, self.n_layer, self.inner_size()]
                .map(|n| n as u128);
        // ln_1 and ln_2; c_attn and attention c_proj; c_fc and MLP c_proj, each with its bias.
        let block = 4 * c + (3 * c * c + 3 * c) + (c * c + c) + (c * i + i) + (i * c + c);
        let head = if self.tie_word_embeddings { 0 } else { v * c };
        u64::try_from(v * c + t * c + l * block + 2 * c + head).ok()
    }
}

impl TryFrom<Map<String, Value>> for Gpt2Config {
    type Error = Error;

    fn try_from(object: Map<String, Value>) -> Result<Self> {
        let config = keys::parse(object)?;
        config.validate()?;
        Ok(config)
    }
}

impl From<Gpt2Config> for Map<String, Value> {
    fn from(config: Gpt2Config) -> Self {
        keys::write(config)
    }
}
