//! Which stored tensor is which parameter.

use std::collections::BTreeSet;

use indexmap::IndexMap;

use super::tensor::TensorInfo;
use crate::config::{ModelConfig, TensorNames};
use crate::error::TensorMismatch;
use crate::params::ParameterSpec;

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

/// The name of a head of its own, in every family.
const HEAD: &str = "lm_head.weight";

/// The published name of a stored tensor, and the segments that were taken away for it.
fn published<'a>(name: &'a str, names: &TensorNames) -> (String, Vec<&'a str>) {
    let (wrappers, mut kept): (Vec<&str>, Vec<&str>) =
        name.split('.').partition(|segment| WRAPPERS.contains(segment));
    let owners = kept.iter().take_while(|segment| OWNERS.contains(segment)).count();
    let of_model = kept.get(owners).is_some_and(|first| names.body.contains(first) || *first == "lm_head");
    if !of_model {
        return (name.to_owned(), Vec::new());
    }
    let removed = wrappers.into_iter().chain(kept.drain(..owners)).collect();
    (kept.join("."), removed)
}

/// Whether a published name belongs to the body, so that leaving it out would change the model.
fn is_body(name: &str, names: &TensorNames) -> bool {
    name.split('.').next().is_some_and(|first| names.body.contains(&first))
}

/// Whether a stored tensor is one of the body, whatever stands before its name.
pub(super) fn is_of_body(name: &str, names: &TensorNames) -> bool {
    is_body(&published(name, names).0, names)
}

/// Whether a model can do without a tensor that an index lists and no shard holds.
pub(super) fn can_be_absent(name: &str, config: &dyn ModelConfig) -> bool {
    let names = config.tensor_names();
    let (name, _) = published(name, &names);
    (names.is_buffer)(&name) || (config.spec().is_tied() && name == HEAD)
}

/// Finds the parameters of a configuration among the tensors of one dictionary.
pub(super) fn resolve(tensors: &[TensorInfo], config: &dyn ModelConfig) -> Result<Plan, TensorMismatch> {
    let (names, model) = (config.tensor_names(), config.spec());
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
        let (name, removed) = published(&tensor.name, &names);
        plan.wrappers.extend(removed.into_iter().map(str::to_owned));
        if (names.is_buffer)(&name) {
            plan.buffers += 1;
        } else if let Some(other) = stored.get(&name) {
            // The same parameter under two prefixes: neither can be preferred.
            mismatch.ambiguous.push((name, other.name.clone(), tensor.name.clone()));
        } else {
            stored.insert(name, tensor.clone());
        }
    }
    plan.transposed = config.is_transposed(&|name| stored.get(name).map(|tensor| tensor.shape.clone()));
    if model.is_tied()
        && let Some(head) = stored.swap_remove(HEAD)
    {
        match stored.get(model.embedding) {
            Some(embedding) if embedding.shape == head.shape => {
                plan.must_be_equal = Some((embedding.clone(), head));
            }
            Some(embedding) => {
                mismatch.misshapen.push((head.name, embedding.shape.clone(), head.shape));
            }
            // Tools that store shared tensors once may keep the head's name.
            None => drop(stored.insert(model.embedding.to_owned(), head)),
        }
    }
    for spec in config.parameter_specs() {
        let Some(tensor) = stored.swap_remove(spec.name.as_str()) else {
            mismatch.missing.push((spec.name, spec.shape));
            continue;
        };
        let flip = plan.transposed && spec.is_block_matrix();
        let tensor = if flip { tensor.transposed() } else { tensor };
        if tensor.shape == spec.shape {
            plan.sources.push((spec, tensor));
        } else {
            mismatch.misshapen.push((tensor.name, spec.shape, tensor.shape));
        }
    }
    for (name, tensor) in stored {
        if is_body(&name, &names) {
            mismatch.unexpected.push((tensor.name, tensor.shape));
        } else {
            plan.left_out.push(tensor);
        }
    }
    mismatch.unexpected.sort();
    plan.left_out.sort_by(|a, b| a.name.cmp(&b.name));
    if mismatch.is_empty() { Ok(plan) } else { Err(mismatch) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: TensorNames = TensorNames { body: &["wte", "wpe", "h", "ln_f"], is_buffer: |_| false };

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
            assert_eq!(published(stored, &NAMES).0, "wte.weight", "{stored}");
        }
        assert_eq!(published("lm.lm_head.weight", &NAMES).0, "lm_head.weight");
        assert_eq!(
            published("module.transformer.h.0._orig_mod.ln_1.bias", &NAMES),
            ("h.0.ln_1.bias".to_owned(), vec!["module", "_orig_mod", "transformer"])
        );
    }

    #[test]
    fn other_names_stay() {
        for name in
            ["lm.other", "score.weight", "module.v_head.weight", "model.classifier.bias", "module", ""]
        {
            assert_eq!(published(name, &NAMES), (name.to_owned(), vec![]));
        }
    }
}
