//! Metrics for generated text, over token ids, texts and features, for any generator.
//!
//! [`METRICS`] lists the metrics of `mixce score`, one file of this crate each. Their functions can also be called directly. In
//! addition:
//!
//! | what | for |
//! | --- | --- |
//! | [`metric`] | several metrics at once: inputs, settings, results with intervals and tests |
//! | [`perplexity::LikelihoodSums`] | perplexity, averaged over tokens or like the MixCE authors |
//! | [`histogram::Bins`], [`histogram::Summary`] | histograms over common bins, moments and quantiles |
//! | [`windows::draw_windows`] | windows of equal length, for the controlled metrics |
//! | [`resample::bootstrap_mean`], [`resample::paired_test`] | intervals of means, tests of differences |
//! | [`paired::prompt_means`], [`paired::closeness`] | systems with several runs on the same prompts |
//! | [`welch::welch`], [`holm::holm`] | differences over few runs, correction for the number of tests |
//!
//! This crate does not depend on a model or a trainer: its inputs are texts, token ids, [`features::Features`] or embeddings. A mean over
//! nothing is `None`.

mod coherence;
mod controlled_coherence;
mod controlled_mauve;
pub mod distinct;
pub mod distinct_bigrams;
pub mod diversity;
pub mod error;
pub mod features;
pub mod histogram;
pub mod holm;
pub mod lengths;
pub mod mauve;
pub mod metric;
pub mod paired;
pub mod perplexity;
pub mod rep_n;
pub mod repetition;
pub mod resample;
pub mod self_bleu;
pub mod welch;
pub mod windows;
pub mod zipf;

pub use error::{Error, Result};

/// All metrics, in the order of their results.
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
