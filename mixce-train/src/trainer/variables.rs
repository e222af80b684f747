//! The trainable parameters.
use std::collections::HashMap;

use candle_core::{DType, Tensor};
use indexmap::IndexMap;
use mixce_kernels::Parameter;
use mixce_lm::checkpoint::index_of;
use mixce_lm::{ModelConfig, Parameters};

use crate::checkpoint::NamedTensors;
use crate::error::{Error, Result};
use crate::optim::{AdamW, AdamWConfig};

/// f32 variables by published name, in the model's order.
#[derive(Debug)]
pub(super) struct Variables {
    variables: IndexMap<String, Parameter>,
    decays: Vec<bool>,
}

impl Variables {
    /// New variables with copies of `parameters`, each of which is freed once it is copied.
    pub(super) fn new(parameters: Parameters) -> Result<Self> {
        let mut variables = IndexMap::new();
        let mut decays = Vec::new();
        for (name, kind, tensor) in parameters.into_entries() {
            // A copy: ours are updated in place, the caller's must not be.
            let variable = Parameter::new(&tensor);
            variables.insert(name, variable.map_err(Error::tensor("trainable parameters"))?);
            decays.push(kind.decays());
        }
        Ok(Self { variables, decays })
    }

    /// The model's parameters, backed by the variables: an update of the variables is an update of the model.
    pub(super) fn parameters(&self, config: &dyn ModelConfig) -> Result<Parameters> {
        let tensors = self.variables.iter().map(|(name, variable)| (name.clone(), variable.stored()));
        Ok(Parameters::new(config, tensors)?)
    }

    pub(super) fn optimizer(&self, config: AdamWConfig) -> Result<AdamW> {
        let parameters = self.variables.iter().zip(&self.decays);
        AdamW::new(parameters.map(|((name, v), &decays)| (name.clone(), v.clone(), decays)), config)
    }

    /// The name of the variable at `index`; empty past the end.
    pub(super) fn name(&self, index: usize) -> &str {
        self.variables.get_index(index).map_or("", |(name, _)| name)
    }

    /// The values, which must only be read.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.variables.iter().map(|(name, variable)| (name.as_str(), variable.values()))
    }

    /// Runs `f`, which may change the values in place.
    pub(super) fn edit<R>(&self, f: impl FnOnce(&[&Tensor]) -> R) -> R {
        Parameter::edit(self.variables.values(), f)
    }

    /// The current values, which share memory with the variables and must be written before the next update.
    pub(super) fn tensors(&self) -> NamedTensors {
        self.iter().map(|(name, variable)| (name.to_owned(), variable.detach())).collect()
    }

    /// Checks every value, after `step` optimizer steps.
    ///
    /// # Errors
    /// [`Error::NonFiniteParameter`] for the first NaN or infinity.
    pub(super) fn require_finite(&self, step: u64) -> Result<()> {
        for (name, variable) in self.iter() {
            let values = variable.detach().flatten_all().and_then(|flat| flat.to_vec1::<f32>());
            let values = values.map_err(Error::tensor("trainable parameters"))?;
            if let Some(place) = values.iter().position(|value| !value.is_finite()) {
                let (value, index) = (values[place], index_of(place, variable.dims()));
                return Err(Error::NonFiniteParameter { name: name.to_owned(), index, value, step });
            }
        }
        Ok(())
    }

    /// Restores the values of a checkpoint, whose names and shapes must match.
    pub(super) fn load(&self, mut values: HashMap<String, Tensor>) -> std::result::Result<(), String> {
        for (name, variable) in &self.variables {
            let value = values.remove(name).ok_or_else(|| format!("parameter `{name}` is missing"))?;
            if value.dims() != variable.values().dims() {
                let (expected, got) = (variable.values().dims(), value.dims());
                return Err(format!("parameter `{name}`: expected shape {expected:?}, got {got:?}"));
            }
            let set = value
                .to_device(variable.values().device())
                .and_then(|v| v.to_dtype(DType::F32)?.contiguous())
                .and_then(|v| variable.set(&v));
            set.map_err(|e| format!("parameter `{name}`: {e}"))?;
        }
        match values.keys().min() {
            Some(name) => Err(format!("unexpected parameter `{name}`")),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    fn variables() -> Variables {
        let json =
            r#"{"model_type":"gpt2","vocab_size":5,"n_positions":4,"n_embd":4,"n_layer":1,"n_head":1}"#;
        let config = mixce_gpt2::Gpt2Config::from_json(json).unwrap();
        Variables::new(Parameters::random(&config, 1, &Device::Cpu).unwrap()).unwrap()
    }

    /// Weight decay on layer norms because a name did not match (transformers#10598).
    #[test]
    fn decay_spares_biases_and_layer_norms() {
        let optimizer = variables().optimizer(crate::optim::AdamWConfig::default()).unwrap();
        let decaying: Vec<&str> = optimizer.decaying().collect();
        let want = [
            "wte.weight",
            "wpe.weight",
            "h.0.attn.c_attn.weight",
            "h.0.attn.c_proj.weight",
            "h.0.mlp.c_fc.weight",
            "h.0.mlp.c_proj.weight",
        ];
        assert_eq!(decaying, want);
    }
}
