//! Which stored tensor is which parameter.

use std::collections::BTreeSet;

use indexmap::IndexMap;

use super::tensor::TensorInfo;
use crate::config::Gpt2Config;
use crate::error::TensorMismatch;
use crate::params::{ParameterSpec, parameter_specs};

/// For each parameter its tensor, and what became of the others.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) sources: Vec<(ParameterSpec, TensorInfo)>,
    /// Embedding and stored head of a tied model.
    pub(super) must_be_equal: Option<(TensorInfo, TensorInfo)>,
    /// Tensors that are no part of the language model: heads of other tasks, extras of trainers.
    pub(super) left_out: Vec<TensorInfo>,
    /// The number of stored masks.
    pub(super) buffers: usize,
    /// Prefixes that wrappers had put before (or into) the names.
    pub(super) wrappers: BTreeSet<String>,
    /// Whether the matrices are stored as those of `torch.nn.Linear`, `[out, in]`.
    pub(super) transposed: bool,
}

impl Plan {
    /// Whether both read the same places of the same files.
    pub(super) fn is_same_as(&self, other: &Self) -> bool {
        let mut pairs = self.sources.iter().zip(&other.sources);
        self.sources.len() == other.sources.len() && pairs.all(|((_, a), (_, b))| a.same_bytes_as(b))
    }
}

/// Segments that wrappers put anywhere into a name: `torch.compile`, data parallelism, sharding, activation checkpointing, Opacus.
const WRAPPERS: [&str; 5] =
    ["_orig_mod", "module", "_module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"];

/// First segments of models that hold the language model: transformers' (`transformer`), the MixCE authors' (`lm`), and others'.
const OWNERS: [&str; 4] = ["transformer", "lm", "model", "base_model"];

/// What begins the names of a GPT-2's body.
const BODY: [&str; 4] = ["wte", "wpe", "h", "ln_f"];

/// The published name of a stored tensor, and the segments that were taken away for it.
fn published(name: &str) -> (String, Vec<&str>) {
    let (wrappers, mut kept): (Vec<&str>, Vec<&str>) =
        name.split('.').partition(|segment| WRAPPERS.contains(segment));
    let owners = kept.iter().take_while(|segment| OWNERS.contains(segment)).count();
    let of_model = kept.get(owners).is_some_and(|first| BODY.contains(first) || *first == "lm_head");
    if !of_model {
        return (name.to_owned(), Vec::new());
    }
    let removed = wrappers.into_iter().chain(kept.drain(..owners)).collect();
    (kept.join("."), removed)
}

/// Buffers that old versions of transformers stored: the causal mask and the value of masked scores.
fn is_buffer(name: &str) -> bool {
    name.strip_prefix("h.").and_then(|rest| rest.split_once('.')).is_some_and(|(layer, rest)| {
        layer.parse::<u32>().is_ok() && matches!(rest, "attn.bias" | "attn.masked_bias")
    })
}

/// Whether a published name belongs to the body, so that leaving it out would change the model.
fn is_body(name: &str) -> bool {
    name.split('.').next().is_some_and(|first| BODY.contains(&first))
}

/// Whether a stored tensor is one of a GPT-2's body, whatever stands before its name.
pub(super) fn is_of_body(name: &str) -> bool {
    is_body(&published(name).0)
}

/// Whether a model can do without a tensor that an index lists and no shard holds.
pub(super) fn can_be_absent(name: &str, config: &Gpt2Config) -> bool {
    let (name, _) = published(name);
    is_buffer(&name) || (config.tie_word_embeddings && name == "lm_head.weight")
}

/// Finds the parameters of a configuration among the tensors of one dictionary.
pub(super) fn resolve(tensors: &[TensorInfo], config: &Gpt2Config) -> Result<Plan, TensorMismatch> {
    let mut mismatch = TensorMismatch::default();
    let mut plan = Plan {
        sources: Vec::new(),
        must_be_equal: None,
        left_out: Vec::new(),
        buffers: 0,
        wrappers: BTreeSet::new(),
        transposed: false,
    };
    let mut stored: IndexMap<String, TensorInfo> = IndexMap::new();
    for tensor in tensors {
        let (name, removed) = published(&tensor.name);
        plan.wrappers.extend(removed.into_iter().map(str::to_owned));
        if is_buffer(&name) {
            plan.buffers += 1;
        } else if let Some(other) = stored.get(&name) {
            // The same parameter under two prefixes: neither can be preferred.
            mismatch.ambiguous.push((name, other.name.clone(), tensor.name.clone()));
        } else {
            stored.insert(name, tensor.clone());
        }
    }
    plan.transposed = is_linear(&stored, config);
    if config.tie_word_embeddings
        && let Some(head) = stored.swap_remove("lm_head.weight")
    {
        match stored.get("wte.weight") {
            Some(embedding) if embedding.shape == head.shape => {
                plan.must_be_equal = Some((embedding.clone(), head));
            }
            Some(embedding) => {
                mismatch.misshapen.push((head.name, embedding.shape.clone(), head.shape));
            }
            // Tools that store shared tensors once may keep the head's name.
            None => drop(stored.insert("wte.weight".to_owned(), head)),
        }
    }
    for spec in parameter_specs(config) {
        let Some(tensor) = stored.swap_remove(spec.name.as_str()) else {
            mismatch.missing.push((spec.name, spec.shape));
            continue;
        };
        let flip = plan.transposed && spec.name.starts_with("h.") && spec.shape.len() == 2;
        let tensor = if flip { tensor.transposed() } else { tensor };
        if tensor.shape == spec.shape {
            plan.sources.push((spec, tensor));
        } else {
            mismatch.misshapen.push((tensor.name, spec.shape, tensor.shape));
        }
    }
    for (name, tensor) in stored {
        if is_body(&name) {
            mismatch.unexpected.push((tensor.name, tensor.shape));
        } else {
            plan.left_out.push(tensor);
        }
    }
    mismatch.unexpected.sort();
    plan.left_out.sort_by(|a, b| a.name.cmp(&b.name));
    if mismatch.is_empty() { Ok(plan) } else { Err(mismatch) }
}

/// Whether every query, key and value matrix is stored as `[3 C, C]`: that of a `torch.nn.Linear`, as nanoGPT's, where
/// transformers' `Conv1D` has `[C, 3 C]`. All matrices of the blocks are transposed then, the square ones too.
fn is_linear(stored: &IndexMap<String, TensorInfo>, config: &Gpt2Config) -> bool {
    let mut matrices = stored.iter().filter(|(name, _)| name.ends_with(".attn.c_attn.weight")).peekable();
    matrices.peek().is_some()
        && matrices.all(|(_, tensor)| tensor.shape == [3 * config.n_embd, config.n_embd])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_stripped_in_any_nesting() {
        for stored in [
            "wte.weight",
            "transformer.wte.weight",
            "lm.transformer.wte.weight",
            "_orig_mod.transformer.wte.weight",
            "module._orig_mod.transformer.wte.weight",
            "_orig_mod.module.wte.weight",
            "_module.module.lm.transformer.wte.weight",
            "model.transformer.wte.weight",
            "base_model.model.transformer.wte.weight",
            "module.base_model.model.transformer._orig_mod.wte.weight",
        ] {
            assert_eq!(published(stored).0, "wte.weight", "{stored}");
        }
        assert_eq!(published("lm.lm_head.weight").0, "lm_head.weight");
        assert_eq!(
            published("module.transformer.h.0._orig_mod.ln_1.bias"),
            ("h.0.ln_1.bias".to_owned(), vec!["module", "_orig_mod", "transformer"])
        );
    }

    #[test]
    fn other_names_stay() {
        for name in
            ["lm.other", "score.weight", "module.v_head.weight", "model.classifier.bias", "module", ""]
        {
            assert_eq!(published(name), (name.to_owned(), vec![]));
        }
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
