//! The development metric of the choice.

use anyhow::Result;
use mixce_eval::METRICS;
use mixce_eval::metric::Best;
use mixce_report::results::Evaluation;
use mixce_sweep::choice::Direction;

use crate::error::Problem;

/// Results of `evaluate`; lower is better.
const LIKELIHOOD: [&str; 2] = ["perplexity", "nll"];

/// A result that objectives are compared by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Metric {
    /// Its key in JSON.
    pub(super) key: &'static str,
    best: Best,
    /// The metric of `score` that computes it; none for results of `evaluate`.
    pub(super) of: Option<&'static str>,
}

impl Metric {
    /// The result of this name, which must be among the computed ones.
    pub(super) fn find(name: &str, computed: &[String]) -> Result<Self> {
        if let Some(key) = LIKELIHOOD.into_iter().find(|key| *key == name) {
            return Ok(Self { key, best: Best::Lowest, of: None });
        }
        let all =
            || METRICS.iter().flat_map(|metric| metric.scores.iter().map(move |score| (metric.name, *score)));
        let Some((of, score)) = all().find(|(_, score)| score.key == name) else {
            let known: Vec<&str> = all().map(|(_, score)| score.key).chain(LIKELIHOOD).collect();
            let problem = format!("`metric`: expected one of {}, got `{name}`", known.join(", "));
            return Err(Problem::new(problem).into());
        };
        if !computed.iter().any(|metric| metric == of) {
            let problem = format!(
                "`metric = \"{name}\"` needs `{of}` in `evaluate.metrics`, which has {}",
                computed.join(", ")
            );
            return Err(Problem::new(problem)
                .hint("add it with `--metrics`, or in `[evaluate]` of the file")
                .into());
        }
        Ok(Self { key: score.key, best: score.best, of: Some(of) })
    }

    /// The direction; `human` is the value of the human texts. None where that is needed and missing.
    pub(super) fn direction(&self, human: Option<f64>) -> Option<Direction> {
        match self.best {
            Best::Highest => Some(Direction::Highest),
            Best::Lowest => Some(Direction::Lowest),
            Best::AsHuman => human.map(Direction::AsHuman),
        }
    }

    /// The values of the sampling runs, or the one value of a model. Runs without a value are left out.
    pub(super) fn values(&self, evaluation: &Evaluation) -> Vec<f64> {
        match (self.of, self.key) {
            (None, "nll") => vec![evaluation.nll],
            (None, _) => vec![evaluation.perplexity],
            (Some(_), key) => evaluation.scores.iter().filter_map(|scores| scores.value(key)).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_found_by_their_key_with_the_metric_that_has_them() {
        let computed = ["mauve", "diversity"].map(str::to_owned);
        let find = |name: &str| Metric::find(name, &computed);
        assert_eq!(find("mauve_star").unwrap().of, Some("mauve"));
        assert_eq!(find("mauve").unwrap().direction(None), Some(Direction::Highest));
        assert_eq!(find("frontier_integral").unwrap().direction(None), Some(Direction::Lowest));
        assert_eq!(find("diversity").unwrap().direction(None), None);
        assert_eq!(find("diversity").unwrap().direction(Some(0.9)), Some(Direction::AsHuman(0.9)));
        assert_eq!(find("perplexity").unwrap().direction(None), Some(Direction::Lowest));
        let error = find("coherence").unwrap_err().to_string();
        assert!(
            error.contains("needs `coherence` in `evaluate.metrics`, which has mauve, diversity"),
            "{error}"
        );
        let error = find("mave").unwrap_err().to_string();
        assert!(error.contains("expected one of diversity,") && error.contains("perplexity"), "{error}");
    }

    #[test]
    fn values_are_those_of_the_sampling_runs() {
        let text = r#"{"perplexity":4.0,"nll":1.4,"scores":[{"mauve":{"mean":0.5}},{"mauve":null},{"mauve":{"mean":0.7}}]}"#;
        let evaluation: Evaluation = serde_json::from_str(text).unwrap();
        let values = |name: &str| Metric::find(name, &["mauve".to_owned()]).unwrap().values(&evaluation);
        assert_eq!(values("mauve"), [0.5, 0.7]);
        assert_eq!((values("perplexity"), values("nll")), (vec![4.0], vec![1.4]));
    }
}
