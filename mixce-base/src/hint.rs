//! Advice that goes with an error.

/// An error that may know what to do about it.
pub trait Hint: std::error::Error {
    /// Advice for the user beyond the message, in one line without a final period; that of a cause, where an error only wraps it.
    fn hint(&self) -> Option<String>;
}
