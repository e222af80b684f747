//! The common interface of metrics: inputs, settings, results.
//!
//! A metric is one file of this crate with a `METRIC`, its entry in [`METRICS`](crate::METRICS). It gets texts, token ids, features or
//! embeddings as [`Inputs`], never a model; the caller computes what [`MetricSpec::needs`] lists. A [`Scorer`] applies several metrics to
//! each set of texts, and a [`ScoreTable`] holds the results with their intervals and tests.
//!
//! ```
//! use mixce_eval::metric::{Inputs, Resampling, ScoreTable, Scorer, SettingValues, SetScores};
//! use mixce_eval::{METRICS, metric};
//!
//! let human = [vec![1u32, 2, 3, 4], vec![5, 6, 7]];
//! let model = [vec![1u32, 2, 1, 2], vec![5, 5, 5]];
//! let diversity = metric::find("diversity").into_iter().collect::<Vec<_>>();
//! let scorer = Scorer::new(&diversity, &SettingValues::new(42))?;
//! let human = scorer.score_human(&Inputs { token_ids: Some(&human), ..Inputs::default() })?;
//! let model = scorer.score_system("mle", &Inputs { token_ids: Some(&model), ..Inputs::default() })?;
//! let resampling = Resampling { resamples: 100, level: 0.95, seed: 42 };
//! let systems = vec![SetScores { name: "mle".to_owned(), texts: None, scores: model }];
//! let human = SetScores { name: "human".to_owned(), texts: None, scores: human };
//! let table = ScoreTable::new(Some(human), systems, &resampling);
//! assert_eq!(serde_json::to_value(&table)?["human"]["diversity"], 1.0);
//! assert_eq!(serde_json::to_value(&table)?["systems"][0]["diversity"], (7.0 / 10.0 + 2.0 / 5.0) / 2.0);
//! assert!(METRICS.iter().all(|metric| !metric.summary.is_empty()));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod inputs;
mod score;
mod scorer;
mod settings;
mod table;

use std::fmt::Debug;

pub use inputs::{EmbeddedPairs, FeaturePair, Inputs, Need, OfWindows};
pub use score::{Fact, Score, ScoreValue, Scores, Spread};
pub use scorer::Scorer;
pub use settings::{Setting, SettingSpec, SettingValue, SettingValues};
pub use table::{Comparison, Resampling, ScoreTable, SetScores, TextCounts};

use crate::error::Result;

/// A configured metric.
pub trait Metric: Debug + Send + Sync {
    /// The scores of one set of texts, in the order of [`MetricSpec::scores`].
    ///
    /// # Errors
    /// [`Error::MissingInput`](crate::Error::MissingInput) without a required input, or a failure of the computation.
    fn score(&self, inputs: &Inputs<'_>) -> Result<Scores>;

    /// Its settings by their keys in JSON; most metrics have none.
    fn settings(&self) -> Vec<(&'static str, Fact)> {
        Vec::new()
    }
}

/// An entry of [`METRICS`](crate::METRICS).
#[derive(Clone, Copy, Debug)]
pub struct MetricSpec {
    /// The name that users type.
    pub name: &'static str,
    /// The name in messages.
    pub title: &'static str,
    /// A short description.
    pub summary: &'static str,
    /// What its [`Inputs`] must hold.
    pub needs: &'static [Need],
    /// Whether the human texts have a score too; false for metrics that compare a set with them.
    pub scores_human: bool,
    /// Its results, in order.
    pub scores: &'static [ScoreSpec],
    /// Its settings; metrics may share one.
    pub settings: &'static [&'static dyn SettingSpec],
    /// Constructor; fails with [`Error::Setting`](crate::Error::Setting).
    pub new: fn(&SettingValues) -> Result<Box<dyn Metric>>,
}

/// A result of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScoreSpec {
    /// Key in JSON, unique among all metrics.
    pub key: &'static str,
    /// Which value is best.
    pub best: Best,
}

impl ScoreSpec {
    /// A score whose best value is that of human texts.
    #[must_use]
    pub const fn as_human(key: &'static str) -> Self {
        Self { key, best: Best::AsHuman }
    }
}

/// Which value of a score is best.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Best {
    /// That of human texts.
    AsHuman,
    /// The highest.
    Highest,
    /// The lowest.
    Lowest,
}

/// The metric of this name.
#[must_use]
pub fn find(name: &str) -> Option<&'static MetricSpec> {
    crate::METRICS.iter().find(|metric| metric.name == name)
}
