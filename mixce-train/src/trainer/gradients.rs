//! Gradients summed over the microbatches of a step.
use candle_core::Tensor;
use candle_core::backprop::GradStore;

use super::variables::Variables;
use crate::error::{Error, Result};

/// One sum for each variable, in the variables' order.
#[derive(Debug, Default)]
pub(super) struct Gradients {
    sums: Vec<Option<Tensor>>,
}

impl Gradients {
    /// Adds the gradients of one backward pass. They are detached: nothing of the pass's graph stays alive.
    pub(super) fn add(&mut self, mut store: GradStore, variables: &Variables) -> Result<()> {
        self.sums.resize(variables.len(), None);
        for (sum, (_, variable)) in self.sums.iter_mut().zip(variables.iter()) {
            let Some(gradient) = store.remove(variable.as_tensor()) else { continue };
            let gradient = gradient.detach();
            *sum = Some(match sum.take() {
                None => gradient,
                Some(sum) => (sum + gradient).map_err(Error::tensor("sum of gradients"))?.detach(),
            });
        }
        Ok(())
    }

    /// The sums; each variable must have one.
    pub(super) fn complete(self, variables: &Variables) -> Result<Vec<Tensor>> {
        if self.sums.is_empty() {
            let name = variables.iter().next().map(|(name, _)| name.to_owned()).unwrap_or_default();
            return Err(Error::MissingGradient { name });
        }
        let named = variables.iter().zip(self.sums);
        named
            .map(|((name, _), sum)| sum.ok_or_else(|| Error::MissingGradient { name: name.to_owned() }))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use mixce_gpt2::{Gpt2Config, Parameters};

    use super::*;

    fn variables() -> Variables {
        let json =
            r#"{"model_type":"gpt2","vocab_size":5,"n_positions":4,"n_embd":4,"n_layer":1,"n_head":1}"#;
        let config = Gpt2Config::from_json(json).unwrap();
        Variables::new(&Parameters::random(&config, 1, &Device::Cpu).unwrap()).unwrap()
    }

    /// Sum of the squares of all variables but those named in `without`.
    fn backward(variables: &Variables, without: &str) -> GradStore {
        let squares = variables.iter().filter(|(name, _)| *name != without).map(|(_, v)| v.sqr()?.sum_all());
        let squares: Vec<Tensor> = squares.collect::<candle_core::Result<_>>().unwrap();
        Tensor::stack(&squares, 0).unwrap().sum_all().unwrap().backward().unwrap()
    }

    #[test]
    fn gradients_add_up_and_hold_no_graph() {
        let variables = variables();
        let mut gradients = Gradients::default();
        gradients.add(backward(&variables, ""), &variables).unwrap();
        gradients.add(backward(&variables, ""), &variables).unwrap();
        for ((_, variable), sum) in variables.iter().zip(gradients.complete(&variables).unwrap()) {
            // `detach` returns the tensor itself when there is nothing to detach from.
            assert_eq!(sum.detach().id(), sum.id());
            let want = (variable.as_detached_tensor() * 4.0).unwrap();
            let difference =
                (sum - want).unwrap().abs().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap();
            assert!(difference < 1e-4);
        }
    }

    #[test]
    fn a_parameter_without_a_gradient_is_named() {
        let variables = variables();
        let mut gradients = Gradients::default();
        gradients.add(backward(&variables, "h.0.ln_2.bias"), &variables).unwrap();
        let error = gradients.complete(&variables).unwrap_err();
        assert!(matches!(&error, Error::MissingGradient { name } if name == "h.0.ln_2.bias"), "{error}");
        assert!(Gradients::default().complete(&variables).is_err());
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
