//! How good is the text: metrics over token ids, texts and features, for any generator.
//!
//! | function | what it measures |
//! | --- | --- |
//! | [`diversity::text_diversity`], [`diversity::mean_diversity`] | distinct n-grams within each text, as the MixCE paper reports |
//! | [`repetition::repetition`] | spans that follow themselves three times or more, as the MixCE paper reports |
//! | [`diversity::pooled_diversity`], [`diversity::distinct_n`] | distinct n-grams over all texts together |
//! | [`rep_n::rep_n`] | repeated n-grams and the product of their complements |
//! | [`self_bleu::self_bleu`] | how much each text resembles the others |
//! | [`zipf::zipf_coefficient`] | how steeply token frequencies fall |
//! | [`distinct::distinct_share`] | how many of the texts are different from each other |
//! | [`lengths::Lengths`] | how long the texts are |
//! | [`perplexity::LikelihoodSums`] | how likely a model finds a text, over tokens or as the MixCE authors average it |
//! | [`mauve::mauve`] | how close two sets of texts are, by features of a language model |
//! | [`histogram::Bins`], [`histogram::Summary`] | how numbers are distributed, several sets over common bins |
//! | [`windows::draw_windows`] | windows of equal length, for the controlled metrics |
//! | [`resample::bootstrap_mean`], [`resample::paired_test`] | how sure a mean or a difference is |
//!
//! Nothing here knows a model or a trainer: texts come as token ids, or as [`features::Features`]. Functions return `None` where a
//! mean has nothing to average over.

pub mod distinct;
pub mod diversity;
pub mod error;
pub mod features;
pub mod histogram;
pub mod lengths;
pub mod mauve;
pub mod perplexity;
pub mod rep_n;
pub mod repetition;
pub mod resample;
pub mod self_bleu;
pub mod windows;
pub mod zipf;

pub use error::{Error, Result};

/// The example of the README, compiled and run as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
