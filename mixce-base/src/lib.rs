//! Utilities shared by all crates of mixce.
//!
//! - [`rng`]: counter-based random numbers: the same seed gives the same numbers, in any order, on any thread or device.
//! - [`files`]: files and folders that appear under their name whole or not at all.
//! - [`digest`]: SHA-256 of values and streams.
//! - [`Hint`]: the advice that goes with an error.

mod hint;

pub mod digest;
pub mod files;
pub mod rng;

pub use hint::Hint;
