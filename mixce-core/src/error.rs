//! The error type of this crate.

/// What can go wrong in this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A parameter lies outside the range in which its formula makes sense.
    #[error("`{parameter}` of objective `{objective}` must be in {range}, got {value}")]
    OutOfRange {
        /// Name of the objective.
        objective: &'static str,
        /// Name of the parameter.
        parameter: &'static str,
        /// The admissible values, in words.
        range: &'static str,
        /// The value given.
        value: f64,
    },
    /// Tensors whose shapes or dtypes do not belong together.
    #[error("{operation}: expected {expected}, got {got}")]
    Mismatch {
        /// The operation that was asked for.
        operation: &'static str,
        /// What would have fitted.
        expected: String,
        /// What was given.
        got: String,
    },
    /// A tensor operation failed.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

impl Error {
    /// Advice for the user, if there is any beyond the message.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::OutOfRange { objective: "mixce", .. } => Some(
                "eta is the share of the forward cross-entropy: 1 is MLE, the paper uses 0.1 to 0.7".into(),
            ),
            _ => None,
        }
    }
}

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;
