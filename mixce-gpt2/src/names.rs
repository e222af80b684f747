//! The names of GPT-2's tensors in checkpoints.

use mixce_lm::config::TensorNames;

use crate::config::Gpt2Config;

/// What begins the names of the body, and which stored tensors are buffers.
pub(crate) const NAMES: TensorNames = TensorNames { body: &["wte", "wpe", "h", "ln_f"], is_buffer };

/// Buffers that old versions of transformers stored: the causal mask and the value of masked scores.
fn is_buffer(name: &str) -> bool {
    name.strip_prefix("h.").and_then(|rest| rest.split_once('.')).is_some_and(|(layer, rest)| {
        layer.parse::<u32>().is_ok() && matches!(rest, "attn.bias" | "attn.masked_bias")
    })
}

/// Whether every query, key and value matrix is stored as `[3 C, C]`: that of a `torch.nn.Linear`, as nanoGPT's, where
/// transformers' `Conv1D` has `[C, 3 C]`. All matrices of the blocks are transposed then, the square ones too.
pub(crate) fn is_linear(config: &Gpt2Config, shape_of: &dyn Fn(&str) -> Option<Vec<usize>>) -> bool {
    let linear = [3 * config.n_embd, config.n_embd];
    let mut shapes =
        (0..config.n_layer).filter_map(|layer| shape_of(&format!("h.{layer}.attn.c_attn.weight"))).peekable();
    shapes.peek().is_some() && shapes.all(|shape| shape == linear)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_attention_buffers_are_ignored() {
        assert!(is_buffer("h.0.attn.bias"));
        assert!(is_buffer("h.11.attn.masked_bias"));
        assert!(!is_buffer("h.0.attn.c_attn.bias"));
        assert!(!is_buffer("h.x.attn.bias"));
        assert!(!is_buffer("attn.bias"));
    }
}
