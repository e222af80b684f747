//! Which stored tensor is which parameter.

use indexmap::IndexMap;

use super::tensor::TensorInfo;
use crate::config::Gpt2Config;
use crate::error::TensorMismatch;
use crate::params::{ParameterSpec, parameter_specs};

/// For each parameter the index of its tensor.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) sources: Vec<(ParameterSpec, usize)>,
    /// Embedding and stored head of a tied model.
    pub(super) must_be_equal: Option<(usize, usize)>,
}

/// The published name of a stored tensor: without `transformer.` (transformers' language model) and
/// `lm.` (the MixCE authors' wrapper around it).
fn published(name: &str) -> &str {
    let inner = match name.strip_prefix("lm.") {
        Some(rest) if rest.starts_with("transformer.") || rest.starts_with("lm_head.") => rest,
        _ => name,
    };
    inner.strip_prefix("transformer.").unwrap_or(inner)
}

/// Buffers that old versions of transformers stored: the causal mask and the value of masked scores.
fn is_buffer(name: &str) -> bool {
    name.strip_prefix("h.").and_then(|rest| rest.split_once('.')).is_some_and(|(layer, rest)| {
        layer.parse::<u32>().is_ok() && matches!(rest, "attn.bias" | "attn.masked_bias")
    })
}

pub(super) fn resolve(tensors: &[TensorInfo], config: &Gpt2Config) -> Result<Plan, TensorMismatch> {
    let mut mismatch = TensorMismatch::default();
    let mut stored: IndexMap<&str, usize> = IndexMap::new();
    for (index, tensor) in tensors.iter().enumerate() {
        let name = published(&tensor.name);
        if is_buffer(name) {
            continue;
        }
        if stored.insert(name, index).is_some() {
            // The same parameter under two prefixes: neither can be preferred.
            mismatch.unexpected.push((tensor.name.clone(), tensor.shape.clone()));
        }
    }
    let mut must_be_equal = None;
    if config.tie_word_embeddings
        && let Some(head) = stored.swap_remove("lm_head.weight")
    {
        match stored.get("wte.weight") {
            Some(&embedding) if tensors[embedding].shape == tensors[head].shape => {
                must_be_equal = Some((embedding, head));
            }
            Some(&embedding) => {
                let head = &tensors[head];
                mismatch.misshapen.push((
                    head.name.clone(),
                    tensors[embedding].shape.clone(),
                    head.shape.clone(),
                ));
            }
            // Tools that store shared tensors once may keep the head's name.
            None => {
                stored.insert("wte.weight", head);
            }
        }
    }
    let mut sources = Vec::new();
    for spec in parameter_specs(config) {
        match stored.swap_remove(spec.name.as_str()) {
            None => mismatch.missing.push((spec.name, spec.shape)),
            Some(index) if tensors[index].shape != spec.shape => {
                let stored = &tensors[index];
                mismatch.misshapen.push((stored.name.clone(), spec.shape, stored.shape.clone()));
            }
            Some(index) => sources.push((spec, index)),
        }
    }
    mismatch.unexpected.extend(
        stored.into_values().map(|index| (tensors[index].name.clone(), tensors[index].shape.clone())),
    );
    mismatch.unexpected.sort();
    if mismatch.is_empty() { Ok(Plan { sources, must_be_equal }) } else { Err(mismatch) }
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
