//! MAUVE as a metric.

use super::{FEW_SAMPLES, Mauve, MauveSettings, mauve};
use crate::error::Result;
use crate::metric::{
    Best, Fact, FeaturePair, Inputs, Metric, MetricSpec, Need, Score, ScoreSpec, ScoreValue, Scores, Setting,
    SettingSpec, SettingValues,
};

/// More seeds than is practical.
const MAX_SEEDS: usize = 100_000;

const SEEDS: Setting<usize> = Setting {
    name: "mauve-seeds",
    value_name: "N",
    help: "Number of k-means seeds; mean and standard deviation of the scores are reported",
    default: 5,
    expected: "1 to 100000",
    parse: |text| text.parse().ok().filter(|n| (1..=MAX_SEEDS).contains(n)),
};

const BUCKETS: Setting<Option<usize>> = Setting {
    name: "mauve-buckets",
    value_name: "K",
    help: "Clusters [default: a tenth of the smaller set]",
    default: None,
    expected: "a whole number, at least 1",
    parse: |text| text.parse().ok().filter(|n| *n > 0).map(Some),
};

const SCALING: Setting<f64> = Setting {
    name: "mauve-scaling",
    value_name: "S",
    help: "Constant of the divergence curve",
    default: 5.0,
    expected: "a number above 0",
    parse: |text| text.parse().ok().filter(|s: &f64| *s > 0.0 && s.is_finite()),
};

/// The settings shared by the MAUVE metrics.
pub(crate) const SETTINGS: &[&dyn SettingSpec] = &[&SEEDS, &BUCKETS, &SCALING];

pub(crate) const METRIC: MetricSpec = MetricSpec {
    name: "mauve",
    title: "MAUVE",
    summary: "Overlap with the human texts in clusters of a language model's features: MAUVE, MAUVE* and the frontier integral",
    needs: &[Need::Features],
    scores_human: false,
    scores: &[
        ScoreSpec { key: "mauve", best: Best::Highest },
        ScoreSpec { key: "mauve_star", best: Best::Highest },
        ScoreSpec { key: "frontier_integral", best: Best::Lowest },
    ],
    settings: SETTINGS,
    new: |values| Ok(Box::new(MauveMetric::new(values)?)),
};

/// MAUVE with its settings.
#[derive(Debug)]
pub(crate) struct MauveMetric {
    settings: MauveSettings,
}

impl MauveMetric {
    /// Consecutive seeds from that of the values.
    pub(crate) fn new(values: &SettingValues) -> Result<Self> {
        let seeds = (0..values.get(&SEEDS)? as u64).map(|i| values.seed().wrapping_add(i)).collect();
        let (buckets, scaling) = (values.get(&BUCKETS)?, values.get(&SCALING)?);
        Ok(Self { settings: MauveSettings { seeds, buckets, scaling, ..MauveSettings::default() } })
    }

    /// MAUVE, with a warning if there are few samples.
    pub(crate) fn compare(&self, features: FeaturePair<'_>) -> Result<(Mauve, Option<String>)> {
        let FeaturePair { human, model } = features;
        let few = human.rows().min(model.rows());
        let warning = (few < FEW_SAMPLES).then(|| {
            format!(
                "a score of {few} samples is unreliable: bias and noise fall with the number of samples, use {FEW_SAMPLES} or more, preferably 5000"
            )
        });
        Ok((mauve(human, model, &self.settings)?, warning))
    }
}

impl Metric for MauveMetric {
    fn score(&self, inputs: &Inputs<'_>) -> Result<Scores> {
        let (found, warning) = self.compare(inputs.features()?)?;
        let score = |key, spread| Score::of_set(key, ScoreValue::Spread(Some(spread)));
        let facts = vec![
            ("buckets", found.buckets.into()),
            ("components", found.components.into()),
            ("explained_variance", found.explained_variance.into()),
            ("human_samples", found.human_samples.into()),
            ("model_samples", found.model_samples.into()),
        ];
        Ok(Scores {
            scores: vec![
                score("mauve", found.mauve),
                score("mauve_star", found.mauve_star),
                score("frontier_integral", found.frontier_integral),
            ],
            details: vec![("mauve_facts", Fact::Group(facts))],
            warnings: warning.into_iter().collect(),
        })
    }

    fn settings(&self) -> Vec<(&'static str, Fact)> {
        let MauveSettings { buckets, explained_variance, restarts, max_rounds, seeds, scaling, curve_points } =
            &self.settings;
        let facts = vec![
            ("buckets", buckets.map_or(Fact::Unset, Fact::from)),
            ("explained_variance", (*explained_variance).into()),
            ("restarts", (*restarts).into()),
            ("max_rounds", (*max_rounds).into()),
            ("seeds", Fact::Counts(seeds.clone())),
            ("scaling", (*scaling).into()),
            ("curve_points", (*curve_points).into()),
        ];
        vec![("mauve", Fact::Group(facts))]
    }
}
