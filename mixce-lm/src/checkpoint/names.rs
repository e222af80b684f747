//! Which stored tensor is which parameter.

use indexmap::IndexMap;

use super::tensor::TensorInfo;
use crate::config::ModelConfig;
use crate::error::TensorMismatch;
use crate::params::ParameterSpec;

/// For each parameter the index of its tensor.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) sources: Vec<(ParameterSpec, usize)>,
    /// Embedding and stored head of a tied model.
    pub(super) must_be_equal: Option<(usize, usize)>,
}

pub(super) fn resolve(tensors: &[TensorInfo], config: &dyn ModelConfig) -> Result<Plan, TensorMismatch> {
    let mut mismatch = TensorMismatch::default();
    let mut stored: IndexMap<&str, usize> = IndexMap::new();
    for (index, tensor) in tensors.iter().enumerate() {
        let name = config.published_name(&tensor.name);
        if config.is_buffer(name) {
            continue;
        }
        if stored.insert(name, index).is_some() {
            // The same parameter under two prefixes: neither can be preferred.
            mismatch.unexpected.push((tensor.name.clone(), tensor.shape.clone()));
        }
    }
    let mut must_be_equal = None;
    let spec = config.spec();
    if spec.is_tied()
        && let Some(head) = stored.swap_remove("lm_head.weight")
    {
        match stored.get(spec.embedding) {
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
                stored.insert(spec.embedding, head);
            }
        }
    }
    let mut sources = Vec::new();
    for spec in config.parameter_specs() {
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
