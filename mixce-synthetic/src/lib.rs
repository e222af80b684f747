//! Synthetic data whose distribution P is known exactly, so that a trained model can be compared with it.
//!
//! - [`bigram`]: the paper's synthetic experiments. P is a matrix of transition probabilities, and so is what a model learned.
//! - [`grammar`]: short stories from a probabilistic grammar, with exact probability, entropy and support.

pub mod bigram;
mod error;
pub mod grammar;

pub use error::{Error, Result};
