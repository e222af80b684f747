//! How good is the text: metrics over token ids and texts, for any generator.
//!
//! | function | what it measures |
//! | --- | --- |
//! | [`diversity::text_diversity`], [`diversity::mean_diversity`] | distinct n-grams within each text, as the MixCE paper reports |
//! | [`diversity::pooled_diversity`], [`diversity::distinct_n`] | distinct n-grams over all texts together |
//! | [`distinct::distinct_share`] | how many of the texts are different from each other |
//!
//! Nothing here knows a model or a trainer. Functions return `None` where a mean has nothing to average over.

pub mod distinct;
pub mod diversity;

/// The example of the README, compiled and run as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
