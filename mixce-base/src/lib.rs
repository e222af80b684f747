//! Utilities shared by all crates of mixce.
//!
//! - [`rng`]: counter-based random numbers: the same seed gives the same numbers, in any order, on any thread or device.
//! - [`files`]: atomic file and folder writes, and bounded reads.
//! - [`digest`]: SHA-256 of values and streams.
//! - [`panics`]: panics of libraries as errors.
//! - [`printable`]: text that a terminal shows and does not obey.
//! - [`Hint`]: the trait of errors that have a hint.

mod hint;

pub mod digest;
pub mod files;
pub mod panics;
pub mod printable;
pub mod rng;

pub use hint::Hint;
