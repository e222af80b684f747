//! Confidence intervals of means over documents, and paired tests between systems.

use mixce_eval::resample::{bootstrap_mean, paired_test};
use serde_json::{Map, Value, json};

use super::surface::Scores;

/// How intervals and tests are computed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Resampling {
    /// Resamples of an interval, sign patterns of a test; 0: neither.
    pub(super) resamples: usize,
    /// Level of the intervals.
    pub(super) level: f64,
    /// Seed.
    pub(super) seed: u64,
}

impl Resampling {
    /// An interval for each mean, by name.
    pub(super) fn intervals(self, scores: &Scores) -> Map<String, Value> {
        let interval = |(name, values): &(&'static str, Vec<Option<f64>>)| {
            let present: Vec<f64> = values.iter().copied().flatten().collect();
            let found = bootstrap_mean(&present, self.resamples, self.level, self.seed)?;
            Some(((*name).to_owned(), json!([found.low, found.high])))
        };
        scores.documents.iter().filter_map(interval).collect()
    }

    /// Every two systems of equally many documents, every metric that both have document by document.
    pub(super) fn comparisons(self, systems: &[(String, Scores)]) -> Vec<Value> {
        let mut found = Vec::new();
        for (index, (first, first_scores)) in systems.iter().enumerate() {
            for (second, second_scores) in &systems[index + 1..] {
                for (metric, values) in &first_scores.documents {
                    let Some(others) = second_scores.of_documents(metric).filter(|o| o.len() == values.len())
                    else {
                        continue;
                    };
                    let test = paired_test(values, others, self.resamples, self.level, self.seed);
                    found.extend(test.map(|test| {
                        json!({
                            "metric": metric, "first": first, "second": second, "pairs": test.pairs,
                            "difference": test.difference, "interval": [test.interval.low, test.interval.high],
                            "p_value": test.p_value,
                        })
                    }));
                }
            }
        }
        found
    }
}
