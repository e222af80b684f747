//! Published sizes by name.

use mixce_kernels::Activation;

use super::{LlamaConfig, ModelType, Rope, RopeScaling};

/// What the published sizes differ in.
struct Size {
    model_type: ModelType,
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    layers: usize,
    heads: usize,
    kv: usize,
    head_dim: usize,
    positions: usize,
    rope: Rope,
    rms_norm_eps: f64,
    bos: u32,
    eos: u32,
}

impl Size {
    /// All of them have a tied head, SiLU and neither windows nor biases beyond those of their type.
    fn config(self) -> LlamaConfig {
        LlamaConfig {
            model_type: self.model_type,
            vocab_size: self.vocab_size,
            hidden_size: self.hidden_size,
            intermediate_size: self.intermediate_size,
            num_hidden_layers: self.layers,
            num_attention_heads: self.heads,
            num_key_value_heads: self.kv,
            head_dim: self.head_dim,
            hidden_act: Activation::Silu,
            max_position_embeddings: self.positions,
            rope: self.rope,
            rms_norm_eps: self.rms_norm_eps,
            initializer_range: 0.02,
            attention_bias: false,
            mlp_bias: false,
            attention_dropout: 0.0,
            tie_word_embeddings: true,
            sliding_window: None,
            windowed_layers: vec![false; self.layers],
            use_cache: true,
            bos_token_id: Some(self.bos),
            eos_token_id: Some(self.eos),
            more_eos_token_ids: Vec::new(),
            pad_token_id: None,
            extra: Default::default(),
        }
    }
}

/// A rotary embedding without scaling.
fn rope(theta: f64) -> Rope {
    Rope { theta, scaling: RopeScaling::None }
}

/// SmolLM2, 135 M parameters.
fn smollm2() -> Size {
    Size {
        model_type: ModelType::Llama,
        vocab_size: 49_152,
        hidden_size: 576,
        intermediate_size: 1536,
        layers: 30,
        heads: 9,
        kv: 3,
        head_dim: 64,
        positions: 8192,
        rope: rope(100_000.0),
        rms_norm_eps: 1e-5,
        bos: 0,
        eos: 0,
    }
}

fn size(name: &str) -> Option<Size> {
    Some(match name {
        "SmolLM2-135M" => smollm2(),
        "SmolLM2-360M" => {
            Size { hidden_size: 960, intermediate_size: 2560, layers: 32, heads: 15, kv: 5, ..smollm2() }
        }
        "SmolLM2-1.7B" => Size {
            hidden_size: 2048,
            intermediate_size: 8192,
            layers: 24,
            heads: 32,
            kv: 32,
            rope: rope(130_000.0),
            ..smollm2()
        },
        "Llama-3.2-1B" => Size {
            vocab_size: 128_256,
            hidden_size: 2048,
            intermediate_size: 8192,
            layers: 16,
            heads: 32,
            kv: 8,
            positions: 131_072,
            rope: Rope {
                theta: 500_000.0,
                scaling: RopeScaling::Llama3 {
                    factor: 32.0,
                    low_freq_factor: 1.0,
                    high_freq_factor: 4.0,
                    original_max_position_embeddings: 8192,
                },
            },
            bos: 128_000,
            eos: 128_001,
            ..smollm2()
        },
        "Qwen2.5-0.5B" => Size {
            model_type: ModelType::Qwen2,
            vocab_size: 151_936,
            hidden_size: 896,
            intermediate_size: 4864,
            layers: 24,
            heads: 14,
            kv: 2,
            head_dim: 64,
            positions: 32_768,
            rope: rope(1e6),
            rms_norm_eps: 1e-6,
            bos: 151_643,
            eos: 151_643,
        },
        "Qwen3-0.6B" => Size {
            model_type: ModelType::Qwen3,
            vocab_size: 151_936,
            hidden_size: 1024,
            intermediate_size: 3072,
            layers: 28,
            heads: 16,
            kv: 8,
            head_dim: 128,
            positions: 40_960,
            rope: rope(1e6),
            rms_norm_eps: 1e-6,
            bos: 151_643,
            eos: 151_645,
        },
        _ => return None,
    })
}

/// Who publishes them on the hub.
const OWNERS: [&str; 3] = ["HuggingFaceTB/", "meta-llama/", "Qwen/"];

impl LlamaConfig {
    /// The names that [`LlamaConfig::preset`] knows.
    pub const PRESETS: [&'static str; 6] =
        ["SmolLM2-135M", "SmolLM2-360M", "SmolLM2-1.7B", "Llama-3.2-1B", "Qwen2.5-0.5B", "Qwen3-0.6B"];

    /// A published size by its name on the hub, with or without its owner; `None` for any other name.
    #[must_use]
    pub fn preset(name: &str) -> Option<Self> {
        let name = OWNERS.iter().find_map(|owner| name.strip_prefix(owner)).unwrap_or(name);
        size(name).map(Size::config)
    }
}
