//! Coherence: whether a continuation stays on the topic of its prompt.
//!
//! Su et al., NeurIPS 2022, as measured by the MixCE authors: the mean over texts of the cosine similarity of the sentence embeddings of
//! prompt and continuation. A text without prompt or continuation has no value.

use crate::error::Result;
use crate::metric::{Inputs, Metric, MetricSpec, Need, Score, ScoreSpec, Scores};

pub(crate) const METRIC: MetricSpec = MetricSpec {
    name: "coherence",
    title: "coherence",
    summary: "Similarity of continuations to their prompts",
    needs: &[Need::Embeddings],
    scores_human: true,
    scores: &[ScoreSpec::as_human("coherence")],
    settings: &[],
    new: |_| Ok(Box::new(Coherence)),
};

#[derive(Debug)]
struct Coherence;

impl Metric for Coherence {
    fn score(&self, inputs: &Inputs<'_>) -> Result<Scores> {
        let cosines = inputs.embeddings()?.cosines();
        let scored = cosines.iter().flatten().count();
        let scores = vec![Score::mean_of("coherence", cosines)];
        Ok(Scores { scores, details: vec![("coherence_texts", scored.into())], ..Scores::default() })
    }
}
