//! Token-weighted cross-entropy objectives: `loss = mean_t w(q_t) (-log q_t)` with `w` held constant in the gradient.
//!
//! `q_t` is the model's probability of the observed token at position `t`. The gradient with respect to the logits of that
//! position is `w(q_t) (softmax(z) - onehot)`, so an objective is defined by its weight function. Each has
//!
//! - a *potential*: the function `l(q)` whose true gradient is that of the loss, `dl/d log q = -w(q)`. The loss itself need
//!   not decrease in training (for MixCE with `eta = 0` it is `-q log q`, which is 0 both at `q = 1` and at
//!   `q = 0`); the potential does, and is the curve to plot;
//! - a *fixed point*: for a context whose true next-token distribution is `p`, the model distribution at which the expected
//!   gradient vanishes, `p_j w(q_j) / q_j` being the same for every token of the support.
//!
//! [`OBJECTIVES`] lists the objectives that can be selected by name, with their parameters; [`ObjectiveConfig`] is a selection. A
//! custom objective needs no entry: implement [`Objective`] and pass it as `Arc<dyn Objective>`.
//!
//! To add an objective to the list: create a file here with the struct, its `SPEC` and its `impl Objective`, and name it in this file
//! and in [`OBJECTIVES`]. Command line, configuration files and tests pick it up from there.

mod alpha;
mod config;
mod dft;
mod mixce;
mod mle;
mod registry;
mod tailr;
mod threshold;
mod trsft;
mod tvd;

#[cfg(test)]
mod tests;

use std::fmt::Debug;

use candle_core::{DType, Tensor};

pub use alpha::Alpha;
pub use config::ObjectiveConfig;
pub use dft::Dft;
pub use mixce::MixCe;
pub use mle::Mle;
pub(crate) use registry::short;
pub use registry::{ObjectiveSpec, ParameterSpec, Range};
pub use tailr::TaiLr;
pub use threshold::Threshold;
pub use trsft::TrSft;
pub use tvd::Tvd;

/// The objectives that can be chosen by name.
pub static OBJECTIVES: &[ObjectiveSpec] = &[
    // The order of the help and of the table in docs/src/method/peers.md.
    mle::SPEC,
    mixce::SPEC,
    tailr::SPEC,
    dft::SPEC,
    alpha::SPEC,
    trsft::SPEC,
    tvd::SPEC,
    threshold::SPEC,
];

/// A token-weighted cross-entropy objective (see the [module documentation](self)).
///
/// A custom objective:
///
/// ```
/// use candle_core::{Device, Tensor, Var};
/// use mixce_core::{Objective, lm_head_loss};
///
/// /// Focal loss (Lin et al., 2017) with exponent 2 and a detached weight: `w = (1 - q)^2`.
/// #[derive(Debug)]
/// struct Focal;
///
/// impl Objective for Focal {
///     fn name(&self) -> &'static str {
///         "focal"
///     }
///     fn weight(&self, log_q: f64) -> f64 {
///         (1.0 - log_q.exp()).powi(2)
///     }
///     fn potential(&self, log_q: f64) -> f64 {
///         let q = log_q.exp();
///         -log_q + 2.0 * q - 0.5 * q * q
///     }
/// }
///
/// let hidden = Var::from_vec(vec![0.1f32, -0.2, 0.3, 0.4], (2, 2), &Device::Cpu)?;
/// let head = Var::from_vec(vec![0.5f32, 0.1, -0.3, 0.2, 0.0, 0.7], (3, 2), &Device::Cpu)?;
/// let targets = Tensor::new(&[2u32, 0], &Device::Cpu)?;
/// let out = lm_head_loss(&hidden, &head, &targets, &Focal, 2.0)?;
/// let mean = out.log_q.to_vec1::<f32>()?.iter().map(|l| Focal.loss(f64::from(*l))).sum::<f64>() / 2.0;
/// assert!((f64::from(out.loss.to_scalar::<f32>()?) - mean).abs() < 1e-6);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Objective: Debug + Send + Sync {
    /// The name in messages and model cards.
    fn name(&self) -> &'static str;

    /// The weight `w(q)` of a token's cross-entropy, given `log q` (nats, `<= 0`, minus infinity included).
    fn weight(&self, log_q: f64) -> f64;

    /// The potential `l(q)` with `dl/d log q = -w(q)` (nats), up to a constant chosen by the objective.
    fn potential(&self, log_q: f64) -> f64;

    /// [`Objective::weight`] for every element of a tensor of any float dtype, on its device.
    ///
    /// The default computes [`Objective::weight`] on the host, which on a GPU synchronises the device for every slice of tokens. An
    /// objective used on a GPU should override it with tensor operations.
    ///
    /// # Errors
    /// When a tensor operation fails.
    fn weights(&self, log_q: &Tensor) -> candle_core::Result<Tensor> {
        let host = log_q.flatten_all()?.to_dtype(DType::F64)?.to_vec1::<f64>()?;
        let weights: Vec<f64> = host.into_iter().map(|log_q| self.weight(log_q)).collect();
        Tensor::from_vec(weights, log_q.shape(), log_q.device())?.to_dtype(log_q.dtype())
    }

    /// The model distribution at which the expected gradient vanishes for a context with true distribution `p`
    /// (non-negative, summing to 1), or `None` if no closed form is known or it is not unique.
    fn fixed_point(&self, _p: &[f64]) -> Option<Vec<f64>> {
        None
    }

    /// The value of the loss for one token, `w(q) (-log q)` (nats); 0 at `q = 0` when the weight vanishes there faster.
    fn loss(&self, log_q: f64) -> f64 {
        let weight = self.weight(log_q);
        if weight == 0.0 { 0.0 } else { -weight * log_q }
    }
}

/// The root of a decreasing function on `[low, high]` by bisection.
pub(crate) fn bisect(mut low: f64, mut high: f64, f: impl Fn(f64) -> f64) -> f64 {
    for _ in 0..200 {
        let middle = 0.5 * (low + high);
        if f(middle) > 0.0 { low = middle } else { high = middle }
    }
    0.5 * (low + high)
}
