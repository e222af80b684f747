//! The names of GPT-2's tensors in checkpoints.

/// The published name of a stored tensor: without `transformer.` (transformers' language model) and
/// `lm.` (the MixCE authors' wrapper around it).
pub(crate) fn published(name: &str) -> &str {
    let inner = match name.strip_prefix("lm.") {
        Some(rest) if rest.starts_with("transformer.") || rest.starts_with("lm_head.") => rest,
        _ => name,
    };
    inner.strip_prefix("transformer.").unwrap_or(inner)
}

/// Buffers that old versions of transformers stored: the causal mask and the value of masked scores.
pub(crate) fn is_buffer(name: &str) -> bool {
    name.strip_prefix("h.").and_then(|rest| rest.split_once('.')).is_some_and(|(layer, rest)| {
        layer.parse::<u32>().is_ok() && matches!(rest, "attn.bias" | "attn.masked_bias")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_stripped() {
        for stored in ["wte.weight", "transformer.wte.weight", "lm.transformer.wte.weight"] {
            assert_eq!(published(stored), "wte.weight");
        }
        assert_eq!(published("lm.lm_head.weight"), "lm_head.weight");
        assert_eq!(published("lm.other"), "lm.other");
    }

    #[test]
    fn only_attention_buffers_are_ignored() {
        assert!(is_buffer("h.0.attn.bias"));
        assert!(is_buffer("h.11.attn.masked_bias"));
        assert!(!is_buffer("h.0.attn.c_attn.bias"));
        assert!(!is_buffer("h.x.attn.bias"));
        assert!(!is_buffer("attn.bias"));
    }
}
