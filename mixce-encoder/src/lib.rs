//! BERT sentence embeddings, from SimCSE and sentence-transformers checkpoints.
//!
//! [`SentenceEncoder::load`] reads a checkpoint's folder and determines the pooling from its files
//! ([`Pooling`]); [`SentenceEncoder::embed`] embeds texts. The similarity of two texts is the cosine of their vectors,
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
