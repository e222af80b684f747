//! Sentence embeddings: one vector for each text, by a BERT encoder as SimCSE and sentence-transformers publish them.
//!
//! [`SentenceEncoder::load`] reads a checkpoint's folder and finds out from its files how the vectors of the tokens become one
//! ([`Pooling`]); [`SentenceEncoder::embed`] embeds texts. Two texts are as close as the cosine of their vectors, which is
//! [`cosine`].

mod encoder;
mod error;
mod pooling;
mod weights;

pub use encoder::SentenceEncoder;
pub use error::{Error, Result};
pub use pooling::Pooling;

/// The cosine of two vectors of length 1: their dot product, summed in f64.
///
/// ```
/// assert_eq!(mixce_encoder::cosine(&[0.6, 0.8], &[1.0, 0.0]), f64::from(0.6f32));
/// ```
#[must_use]
pub fn cosine(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

/// The example of the README, compiled as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
