//! Hints of errors.

/// An error that may have a hint.
pub trait Hint: std::error::Error {
    /// A one-line hint for the user, if there is one, without a final period; an error that only wraps another has that one's hint.
    fn hint(&self) -> Option<String>;
}
