//! The published sizes by name.

use super::Gpt2Config;

impl Gpt2Config {
    /// `gpt2`: 12 layers, 768 channels, 124 M parameters.
    #[must_use]
    pub fn gpt2_small() -> Self {
        Self::default()
    }

    /// `gpt2-medium`: 24 layers, 1024 channels, 355 M parameters.
    #[must_use]
    pub fn gpt2_medium() -> Self {
        Self { n_layer: 24, n_embd: 1024, n_head: 16, ..Self::default() }
    }

    /// `gpt2-large`: 36 layers, 1280 channels, 774 M parameters.
    #[must_use]
    pub fn gpt2_large() -> Self {
        Self { n_layer: 36, n_embd: 1280, n_head: 20, ..Self::default() }
    }

    /// `gpt2-xl`: 48 layers, 1600 channels, 1558 M parameters.
    #[must_use]
    pub fn gpt2_xl() -> Self {
        Self { n_layer: 48, n_embd: 1600, n_head: 25, ..Self::default() }
    }

    /// The names that [`Gpt2Config::preset`] knows.
    pub const PRESETS: [&'static str; 5] = ["gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl", "distilgpt2"];

    /// A published size by its name on the hub, with or without its owner; `None` for any other name.
    #[must_use]
    pub fn preset(name: &str) -> Option<Self> {
        let name = ["openai-community/", "distilbert/"]
            .iter()
            .find_map(|owner| name.strip_prefix(owner))
            .unwrap_or(name);
        match name {
            "gpt2" | "gpt2-small" => Some(Self::gpt2_small()),
            "gpt2-medium" => Some(Self::gpt2_medium()),
            "gpt2-large" => Some(Self::gpt2_large()),
            "gpt2-xl" => Some(Self::gpt2_xl()),
            "distilgpt2" => Some(Self { n_layer: 6, ..Self::default() }),
            _ => None,
        }
    }
}
