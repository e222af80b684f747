//! Sums of gradients by parameter name.

use candle_core::{Tensor, Var};
use mixce_kernels::clear;

use crate::error::Result;
use crate::params::Parameters;

/// Sums of gradients, one for each parameter of a model, in the model's own order and shapes.
#[derive(Debug)]
pub struct Gradients {
    sums: Parameters,
    /// The same tensors, as variables.
    variables: Vec<Var>,
}

impl Gradients {
    /// Zeros for these parameters.
    ///
    /// # Errors
    /// When they cannot be allocated.
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

    /// The sums by parameter name, in the model's order. They change with every backward pass.
    #[must_use]
    pub fn sums(&self) -> &Parameters {
        &self.sums
    }

    /// Adds to the sum of the parameter at `index` of the model's order.
    ///
    /// # Errors
    /// When shapes do not fit.
    pub(crate) fn add(&self, index: usize, gradient: &Tensor) -> Result<()> {
        let sum = &self.variables[index];
        Ok(sum.set(&(sum.as_detached_tensor() + gradient)?.detach())?)
    }

    /// Back to zero.
    ///
    /// # Errors
    /// When a tensor operation fails.
    pub fn clear(&self) -> Result<()> {
        for variable in &self.variables {
            clear(variable)?;
        }
        Ok(())
    }
}
