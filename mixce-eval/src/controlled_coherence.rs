//! Controlled coherence: [coherence](crate::coherence) over [windows](crate::windows) of equal length.
//!
//! Zhang et al., ACL 2023, and the authors' code. One value per window length; `None` if a set has too few windows. Windows overlap and come
//! from the same texts, so they are not independent samples, and there is no interval.

use crate::error::Result;
use crate::metric::{EmbeddedPairs, Inputs, Metric, MetricSpec, Need, Score, ScoreSpec, ScoreValue, Scores};

pub(crate) const METRIC: MetricSpec = MetricSpec {
    name: "controlled-coherence",
    title: "controlled coherence",
    summary: "Coherence over windows of equal length",
    needs: &[Need::WindowEmbeddings],
    scores_human: true,
    scores: &[ScoreSpec::as_human("controlled_coherence")],
    settings: &[],
    new: |_| Ok(Box::new(ControlledCoherence)),
};

#[derive(Debug)]
struct ControlledCoherence;

impl Metric for ControlledCoherence {
    fn score(&self, inputs: &Inputs<'_>) -> Result<Scores> {
        let lengths = inputs.window_embeddings()?.iter().map(|windows| {
            let mean =
                windows.drawn.map(EmbeddedPairs::cosines).map(|cosines| Score::mean_of("", cosines).value);
            (windows.tokens.to_string(), mean.unwrap_or(ScoreValue::Number(None)))
        });
        let value = ScoreValue::Parts(lengths.collect());
        Ok(vec![Score::of_set("controlled_coherence", value)].into())
    }
}
