//! Gradient accumulators by parameter name.

use candle_core::{Tensor, Var};
use mixce_kernels::clear;

use crate::error::Result;
use crate::params::Parameters;

/// Gradient accumulators, one per parameter of a model, in the model's order and shapes.
#[derive(Debug)]
pub struct Gradients {
    sums: Parameters,
    /// The same tensors, as variables.
    variables: Vec<Var>,
}

impl Gradients {
    /// Zero-initialised accumulators for these parameters.
    ///
    /// # Errors
    /// If they cannot be allocated.
    pub fn zeros(parameters: &Parameters) -> Result<Self> {
        let mut variables = Vec::with_capacity(parameters.len());
        let sums = parameters.try_map(|_, tensor| {
            let variable = Var::zeros(tensor.shape(), tensor.dtype(), tensor.device())?;
            variables.push(variable.clone());
            // Detached: nothing is ever differentiated with respect to a gradient.
            Ok(variable.as_detached_tensor())
        })?;
        Ok(Self { sums, variables })
    }

    /// The accumulators by parameter name, in the model's order. Every backward pass updates them.
    #[must_use]
    pub fn sums(&self) -> &Parameters {
        &self.sums
    }

    /// Adds to the accumulator of the parameter at `index` in the model's order.
    ///
    /// # Errors
    /// If shapes do not match.
    pub(crate) fn add(&self, index: usize, gradient: &Tensor) -> Result<()> {
        let sum = &self.variables[index];
        Ok(sum.set(&(sum.as_detached_tensor() + gradient)?.detach())?)
    }

    /// Resets all to zero.
    ///
    /// # Errors
    /// When a tensor operation fails.
    pub fn clear(&self) -> Result<()> {
        Ok(clear(self.variables.iter().map(Var::as_tensor))?)
    }
}
