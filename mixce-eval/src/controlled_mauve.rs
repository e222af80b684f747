//! Controlled MAUVE: [MAUVE](crate::mauve) over [windows](crate::windows) of equal length, so that text lengths do not matter.
//!
//! Zhang et al., ACL 2023, and the authors' code. One value per window length; `None` if a set has too few windows. The score of the human
//! texts compares a second draw of windows with the first, as a ceiling.

use crate::error::Result;
use crate::mauve::{self, MauveMetric};
use crate::metric::{Best, Fact, Inputs, Metric, MetricSpec, Need, Score, ScoreSpec, ScoreValue, Scores};

pub(crate) const METRIC: MetricSpec = MetricSpec {
    name: "controlled-mauve",
    title: "controlled MAUVE",
    summary: "MAUVE over windows of equal length",
    needs: &[Need::WindowFeatures],
    scores_human: true,
    scores: &[ScoreSpec { key: "controlled_mauve", best: Best::Highest }],
    settings: mauve::SETTINGS,
    new: |values| Ok(Box::new(ControlledMauve(MauveMetric::new(values)?))),
};

#[derive(Debug)]
struct ControlledMauve(MauveMetric);

impl Metric for ControlledMauve {
    fn score(&self, inputs: &Inputs<'_>) -> Result<Scores> {
        let (mut lengths, mut warnings) = (Vec::new(), Vec::new());
        for windows in inputs.window_features()? {
            let found = windows.drawn.map(|features| self.0.compare(features)).transpose()?;
            let (mauve, warning) =
                found.map_or((None, None), |(found, warning)| (Some(found.mauve), warning));
            warnings
                .extend(warning.map(|warning| format!("in windows of {} tokens {warning}", windows.tokens)));
            lengths.push((windows.tokens.to_string(), ScoreValue::Spread(mauve)));
        }
        let scores = vec![Score::of_set("controlled_mauve", ScoreValue::Parts(lengths))];
        Ok(Scores { scores, warnings, ..Scores::default() })
    }

    fn settings(&self) -> Vec<(&'static str, Fact)> {
        self.0.settings()
    }
}
