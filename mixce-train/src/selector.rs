//! Selection of the best model by a score of the caller's.

use std::fmt::Debug;
use std::sync::atomic::AtomicBool;

use mixce_lm::LanguageModel;

use crate::error::Result;

/// Scores the model at each evaluation, for [`Selection::Mauve`](crate::config::Selection::Mauve): the model with the highest score is kept.
///
/// This crate computes no score of samples, so that it needs no metrics and no second model: the caller brings one. A score must depend on
/// the model alone, else a resumed run may select another one.
pub trait Selector: Debug {
    /// The score of a model; higher is better. A NaN is never the best.
    ///
    /// # Errors
    /// [`Error::Interrupted`](crate::Error::Interrupted) once `stop` is true; [`Error::Selector`](crate::Error::Selector) for a failure.
    fn score(&self, model: &dyn LanguageModel, stop: &AtomicBool) -> Result<f64>;
}
