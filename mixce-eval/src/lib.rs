//! How good is the text: metrics over token ids, texts and features, for any generator.
//!
//! [`METRICS`] lists what `mixce score` offers, each a file of this crate. Its functions can be called without it, too. Beside them:
//!
//! | what | for |
//! | --- | --- |
//! | [`metric`] | several metrics at once: what they need, their settings, results with intervals and tests |
//! | [`perplexity::LikelihoodSums`] | how likely a model finds a text, over tokens or as the MixCE authors average it |
//! | [`histogram::Bins`], [`histogram::Summary`] | how numbers are distributed, several sets over common bins |
//! | [`windows::draw_windows`] | windows of equal length, for the controlled metrics |
//! | [`resample::bootstrap_mean`], [`resample::paired_test`] | how sure a mean or a difference is |
//!
//! Nothing here knows a model or a trainer: texts come as they are, as token ids, as [`features::Features`] or as embeddings. Functions return `None` where a
//! mean has nothing to average over.

mod coherence;
mod controlled_coherence;
mod controlled_mauve;
pub mod distinct;
pub mod distinct_bigrams;
pub mod diversity;
pub mod error;
pub mod features;
pub mod histogram;
pub mod lengths;
pub mod mauve;
pub mod metric;
pub mod perplexity;
pub mod rep_n;
pub mod repetition;
pub mod resample;
pub mod self_bleu;
pub mod windows;
pub mod zipf;

pub use error::{Error, Result};

/// All metrics, in the order of their results. A new one has its line here.
pub static METRICS: &[metric::MetricSpec] = &[
    diversity::METRIC,
    repetition::METRIC,
    lengths::METRIC,
    distinct::METRIC,
    distinct_bigrams::METRIC,
    rep_n::METRIC,
    self_bleu::METRIC,
    zipf::METRIC,
    mauve::METRIC,
    coherence::METRIC,
    controlled_mauve::METRIC,
    controlled_coherence::METRIC,
];

/// The example of the README, compiled and run as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
