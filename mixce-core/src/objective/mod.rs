//! Token-weighted cross-entropy objectives: `loss = mean_t w(q_t) (-log q_t)` with `w` held constant in the gradient.
//!
//! `q_t` is the model's probability of the token that occurred at position `t`. The gradient with respect to the logits of
//! that position is `w(q_t) (softmax(z) - onehot)`, so an objective is nothing but its weight function. Each has
//!
//! - a *potential*: the function `l(q)` whose true gradient is that of the loss, `dl/d log q = -w(q)`. The loss itself need
//!   not fall when training goes well (for MixCE with `eta = 0` it is `-q log q`, which is 0 both at `q = 1` and at
//!   `q = 0`); the potential does, and is what to plot;
//! - a *fixed point*: for a context whose true next-token distribution is `p`, the model distribution at which the expected
//!   gradient vanishes, `p_j w(q_j) / q_j` being the same for every token of the support.
//!
//! To add an objective: one file here with the struct and its `impl Objective`, one variant in [`ObjectiveConfig`].

mod alpha;
mod config;
mod dft;
mod mixce;
mod mle;
mod tailr;
mod trsft;
mod tvd;

#[cfg(test)]
mod tests;

use std::fmt::Debug;

use candle_core::Tensor;

pub use alpha::Alpha;
pub use config::ObjectiveConfig;
pub use dft::Dft;
pub use mixce::MixCe;
pub use mle::Mle;
pub use tailr::TaiLr;
pub use trsft::TrSft;
pub use tvd::Tvd;

/// A token-weighted cross-entropy objective (see the [module documentation](self)).
pub trait Objective: Debug + Send + Sync {
    /// The name users type.
    fn name(&self) -> &'static str;

    /// The weight `w(q)` of a token's cross-entropy, given `log q` (nats, `<= 0`).
    fn weight(&self, log_q: f64) -> f64;

    /// [`Objective::weight`] for every element of a tensor of any float dtype, on its device.
    ///
    /// # Errors
    /// When a tensor operation fails.
    fn weights(&self, log_q: &Tensor) -> candle_core::Result<Tensor>;

    /// The potential `l(q)` with `dl/d log q = -w(q)` (nats), up to a constant chosen by the objective.
    fn potential(&self, log_q: f64) -> f64;

    /// The model distribution at which the expected gradient vanishes for a context with true distribution `p`
    /// (non-negative, summing to 1), or `None` where no closed form is known or it is not unique.
    fn fixed_point(&self, p: &[f64]) -> Option<Vec<f64>>;

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

/// Refuses a parameter outside `[low, high]`, or NaN.
pub(crate) fn check_range(
    objective: &'static str,
    parameter: &'static str,
    value: f64,
    range: &'static str,
    inside: bool,
) -> crate::Result<f64> {
    if inside { Ok(value) } else { Err(crate::Error::OutOfRange { objective, parameter, range, value }) }
}
