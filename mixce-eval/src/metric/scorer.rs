//! Applies several metrics to each set of texts.

use std::collections::{BTreeMap, BTreeSet};

use super::{Fact, Inputs, Metric, MetricSpec, Need, Scores, SettingValues};
use crate::METRICS;
use crate::error::{Error, Result};

/// The name of the human texts in messages.
const HUMAN: &str = "human";

/// Metrics with their settings.
#[derive(Debug)]
pub struct Scorer {
    metrics: Vec<(&'static MetricSpec, Box<dyn Metric>)>,
    settings: BTreeMap<&'static str, Fact>,
}

impl Scorer {
    /// A scorer of these metrics, duplicates removed.
    ///
    /// # Errors
    /// [`Error::Setting`] for a value that a metric cannot take.
    pub fn new(wanted: &[&'static MetricSpec], values: &SettingValues) -> Result<Self> {
        let mut metrics: Vec<(&'static MetricSpec, Box<dyn Metric>)> = Vec::new();
        for &spec in wanted {
            if metrics.iter().all(|(known, _)| known.name != spec.name) {
                metrics.push((spec, (spec.new)(values)?));
            }
        }
        let needs = needs(metrics.iter().map(|(spec, _)| *spec));
        let mut settings = BTreeMap::new();
        for spec in METRICS.iter().filter(|spec| spec.needs.iter().all(|need| needs.contains(need))) {
            settings.extend((spec.new)(values)?.settings());
        }
        Ok(Self { metrics, settings })
    }

    /// The metrics, in the order of their results.
    pub fn metrics(&self) -> impl Iterator<Item = &'static MetricSpec> {
        self.metrics.iter().map(|(spec, _)| *spec)
    }

    /// The inputs that the metrics need.
    #[must_use]
    pub fn needs(&self) -> BTreeSet<Need> {
        needs(self.metrics())
    }

    /// The settings of these metrics and of all others of [`METRICS`] with the same inputs, so that the recorded settings do not depend on
    /// the choice among them.
    #[must_use]
    pub fn settings(&self) -> &BTreeMap<&'static str, Fact> {
        &self.settings
    }

    /// The scores of the human texts, for metrics that do not compare with them.
    ///
    /// # Errors
    /// [`Error::Metric`] with what went wrong.
    pub fn score_human(&self, inputs: &Inputs<'_>) -> Result<Scores> {
        self.score(HUMAN, inputs, |spec| spec.scores_human)
    }

    /// The scores of a system's texts.
    ///
    /// # Errors
    /// [`Error::Metric`] with what went wrong.
    pub fn score_system(&self, name: &str, inputs: &Inputs<'_>) -> Result<Scores> {
        self.score(name, inputs, |_| true)
    }

    fn score(&self, set: &str, inputs: &Inputs<'_>, applies: impl Fn(&MetricSpec) -> bool) -> Result<Scores> {
        let mut all = Scores::default();
        for (spec, metric) in self.metrics.iter().filter(|(spec, _)| applies(spec)) {
            let mut scores = metric.score(inputs).map_err(|source| Error::Metric {
                title: spec.title,
                set: set.to_owned(),
                source: Box::new(source),
            })?;
            scores
                .warnings
                .iter_mut()
                .for_each(|warning| *warning = format!("{} of `{set}`: {warning}", spec.title));
            all.extend(scores);
        }
        Ok(all)
    }
}

fn needs(metrics: impl Iterator<Item = &'static MetricSpec>) -> BTreeSet<Need> {
    metrics.flat_map(|spec| spec.needs).copied().collect()
}
