//! The names of a Llama's tensors in checkpoints.

use mixce_lm::config::TensorNames;

/// What begins the names of the body, and which stored tensors are buffers.
pub(crate) const NAMES: TensorNames = TensorNames { body: &["embed_tokens", "layers", "norm"], is_buffer };

/// Tables of the rotary embedding that old versions of transformers and other tools stored, in the model or in every layer.
fn is_buffer(name: &str) -> bool {
    let mut segments = name.rsplit('.');
    let table = segments.next().unwrap_or_default();
    segments.next() == Some("rotary_emb")
        && matches!(table, "inv_freq" | "original_inv_freq" | "cos_cached" | "sin_cached")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_rotary_tables_are_ignored() {
        assert!(is_buffer("layers.3.self_attn.rotary_emb.inv_freq"));
        assert!(is_buffer("model.rotary_emb.inv_freq"));
        assert!(!is_buffer("layers.3.self_attn.q_proj.weight"));
        assert!(!is_buffer("layers.3.self_attn.rotary_emb.weight"));
        assert!(!is_buffer("inv_freq"));
    }
}
