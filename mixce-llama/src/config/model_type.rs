//! The architectures of the family, and where they differ by name alone.

/// The value of `model_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModelType {
    /// Llama 1 to 3, SmolLM2 and many others.
    Llama,
    /// Mistral: a window in every layer, unless `sliding_window` is null.
    Mistral,
    /// Qwen2 and Qwen2.5: biases of queries, keys and values.
    Qwen2,
    /// Qwen3: norms of queries and keys.
    Qwen3,
}

impl ModelType {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Llama, Self::Mistral, Self::Qwen2, Self::Qwen3];

    /// As `config.json` writes it.
    #[must_use]
    pub fn key(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Mistral => "mistral",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
        }
    }

    /// As people write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Llama => "Llama",
            Self::Mistral => "Mistral",
            Self::Qwen2 => "Qwen2",
            Self::Qwen3 => "Qwen3",
        }
    }

    /// transformers' class of the language model.
    #[must_use]
    pub fn class(self) -> String {
        format!("{}ForCausalLM", self.name())
    }

    /// Whether the window is a matter of single layers, with the keys `use_sliding_window`, `max_window_layers` and `layer_types`.
    pub(super) fn has_layer_types(self) -> bool {
        matches!(self, Self::Qwen2 | Self::Qwen3)
    }
}
