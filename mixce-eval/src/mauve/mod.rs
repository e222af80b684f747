//! MAUVE: similarity of two sets of texts, from their distributions over clusters of a language model's features.
//!
//! Pillutla et al., *MAUVE: Measuring the Gap Between Neural Text and Human Text using Divergence Frontiers*, NeurIPS 2021. As
//! mauve-text 0.4 computes it:
//!
//! 1. stack the features of both sets, divide each row by its norm;
//! 2. project on the principal components that explain 90 % of the variance ([`pca`]);
//! 3. cluster into `n / 10` buckets, the best of five runs of k-means ([`kmeans`]);
//! 4. compare the two histograms over the buckets by a curve of divergences; its area is the score ([`curve`]).
//!
//! Step 3 is random, and its noise is as large as many reported differences: the standard deviation over seeds is 0.005 to 0.01. The
//! default is therefore several seeds. The random numbers differ from mauve-text's, so scores agree in distribution, not exactly.

pub mod curve;
pub mod kmeans;
mod metric;
pub mod pca;

use mixce_base::rng::{Stream, purpose};

use crate::error::{Error, Result};
use crate::features::Features;
use crate::metric::Spread;

pub(crate) use metric::{METRIC, MauveMetric, SETTINGS};

/// Below this number of samples per side, MAUVE is unreliable.
pub const FEW_SAMPLES: usize = 1000;

/// How MAUVE is computed; the defaults are those of mauve-text.
#[derive(Clone, Debug, PartialEq)]
pub struct MauveSettings {
    /// Clusters; `None`: a tenth of the smaller set, at least 2.
    pub buckets: Option<usize>,
    /// Share of the variance that the principal components must explain, in (0, 1].
    pub explained_variance: f64,
    /// Runs of k-means of which the best is taken.
    pub restarts: usize,
    /// Most rounds of a run of k-means.
    pub max_rounds: usize,
    /// Seeds; each gives a score.
    pub seeds: Vec<u64>,
    /// The constant `s` of the divergence curve.
    pub scaling: f64,
    /// Points on the divergence curve.
    pub curve_points: usize,
}

impl Default for MauveSettings {
    fn default() -> Self {
        Self {
            buckets: None,
            explained_variance: 0.9,
            restarts: 5,
            max_rounds: 500,
            seeds: (42..47).collect(),
            scaling: 5.0,
            curve_points: 25,
        }
    }
}

/// MAUVE and its relatives for two sets of features.
#[derive(Clone, Debug, PartialEq)]
pub struct Mauve {
    /// Area under the divergence curve, in `[0, 1]`; 1 for equal histograms.
    pub mauve: Spread,
    /// The same with smoothed histograms.
    pub mauve_star: Spread,
    /// Frontier integral: 0 for equal histograms, 1 for disjoint ones.
    pub frontier_integral: Spread,
    /// Clusters that were asked of k-means.
    pub buckets: usize,
    /// Principal components that were kept.
    pub components: usize,
    /// The share of the variance that they explain.
    pub explained_variance: f64,
    /// Rows of the human features.
    pub human_samples: usize,
    /// Rows of the model's.
    pub model_samples: usize,
}

/// The number of buckets for sets of these sizes: a tenth of the smaller, halves to the even number, at least 2.
///
/// ```
/// use mixce_eval::mauve::default_buckets;
/// assert_eq!((default_buckets(5000, 6000), default_buckets(25, 30), default_buckets(35, 35), default_buckets(4, 4)), (500, 2, 4, 2));
/// ```
#[must_use]
pub fn default_buckets(human: usize, model: usize) -> usize {
    ((human.min(model) as f64 / 10.0).round_ties_even() as usize).max(2)
}

/// MAUVE of `model` against `human`.
///
/// # Errors
/// [`Error::Columns`] when the features differ in width, [`Error::NotFinite`], [`Error::TooFew`] with less than two samples on a side or
/// less samples than buckets, [`Error::Setting`] for settings out of range, [`Error::Eigen`].
pub fn mauve(human: &Features, model: &Features, settings: &MauveSettings) -> Result<Mauve> {
    let (p_rows, q_rows) = (human.rows(), model.rows());
    let buckets = settings.buckets.unwrap_or_else(|| default_buckets(p_rows, q_rows));
    check(human, model, buckets, settings)?;
    let mut rows = [human.values(), model.values()].concat();
    normalise(&mut rows, human.columns());
    let projected = pca::project(&mut rows, human.columns(), settings.explained_variance)?;
    drop(rows);
    let mut values: [Vec<f64>; 3] = Default::default();
    for &seed in &settings.seeds {
        let stream = Stream::new(seed).fold(purpose::METRIC).fold(3);
        let (d, restarts) = (projected.components, settings.restarts);
        let found = kmeans::kmeans(&projected.values, d, buckets, restarts, settings.max_rounds, stream);
        let (p, q) = found.assignments.split_at(p_rows);
        let scores = scores(&histogram(p, buckets), &histogram(q, buckets), settings);
        values.iter_mut().zip(scores).for_each(|(values, score)| values.push(score));
    }
    let [mauve, mauve_star, frontier_integral] = values.map(Spread::of);
    Ok(Mauve {
        mauve,
        mauve_star,
        frontier_integral,
        buckets,
        components: projected.components,
        explained_variance: projected.explained,
        human_samples: p_rows,
        model_samples: q_rows,
    })
}

fn check(human: &Features, model: &Features, buckets: usize, settings: &MauveSettings) -> Result<()> {
    if human.columns() != model.columns() {
        return Err(Error::Columns { human: human.columns(), model: model.columns() });
    }
    let positive = |name: &'static str, value: usize| match value {
        0 => Err(Error::Setting { name, expected: "at least 1", got: "0".to_owned() }),
        _ => Ok(()),
    };
    positive("seeds", settings.seeds.len())?;
    positive("restarts", settings.restarts)?;
    positive("max_rounds", settings.max_rounds)?;
    positive("curve_points", settings.curve_points)?;
    let (share, scaling) = (settings.explained_variance, settings.scaling);
    if !(share > 0.0 && share <= 1.0) {
        return Err(Error::Setting {
            name: "explained_variance",
            expected: "in (0, 1]",
            got: share.to_string(),
        });
    }
    if !(scaling > 0.0 && scaling.is_finite()) {
        return Err(Error::Setting { name: "scaling", expected: "above 0", got: scaling.to_string() });
    }
    let (p_rows, q_rows) = (human.rows(), model.rows());
    if p_rows < 2 || q_rows < 2 || buckets == 0 || buckets > p_rows + q_rows {
        return Err(Error::TooFew { human: p_rows, model: q_rows, buckets });
    }
    human.require_finite("human features")?;
    model.require_finite("model features")
}

/// Divides each row by its norm; rows of zeros stay.
fn normalise(values: &mut [f32], columns: usize) {
    for row in values.chunks_mut(columns) {
        let norm = row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
        if norm > 0.0 {
            row.iter_mut().for_each(|x| *x = (f64::from(*x) / norm) as f32);
        }
    }
}

fn histogram(assignments: &[u32], buckets: usize) -> Vec<usize> {
    let mut counts = vec![0; buckets];
    assignments.iter().for_each(|a| counts[*a as usize] += 1);
    counts
}

/// MAUVE, MAUVE* and frontier integral of two histograms.
fn scores(p: &[usize], q: &[usize], settings: &MauveSettings) -> [f64; 3] {
    let area = |p: &[f64], q: &[f64]| {
        curve::area(&curve::divergence_curve(p, q, settings.curve_points, settings.scaling))
    };
    // Neither side is empty, as was checked.
    let plain = (curve::shares(p).unwrap_or_default(), curve::shares(q).unwrap_or_default());
    let smooth =
        (curve::smoothed_shares(p).unwrap_or_default(), curve::smoothed_shares(q).unwrap_or_default());
    [area(&plain.0, &plain.1), area(&smooth.0, &smooth.1), curve::frontier_integral(&plain.0, &plain.1)]
}

#[cfg(test)]
mod tests;
