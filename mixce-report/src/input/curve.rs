//! `metrics.jsonl` of a run.

use std::path::Path;

use serde::Deserialize;

use super::read::read_lines;
use crate::error::Result;

/// The training and development curves of a run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Curve {
    /// Step and training negative log-likelihood (nats per target token) of each logged step.
    pub train_nll: Vec<(u64, f64)>,
    /// Step and development negative log-likelihood of each evaluation.
    pub valid_nll: Vec<(u64, f64)>,
    /// Step, nll and perplexity of the evaluation whose model is `best`.
    pub best: Option<(u64, f64, f64)>,
}

/// A line: a logged step, or an evaluation. Other events have neither.
#[derive(Deserialize)]
struct Line {
    step: Option<u64>,
    nll: Option<f64>,
    valid_nll: Option<f64>,
    valid_perplexity: Option<f64>,
    #[serde(default)]
    best: serde_json::Value,
}

impl Curve {
    /// Reads a run's `metrics.jsonl`; empty if there is none. A line that a killed or running run has not finished is left out.
    ///
    /// # Errors
    /// When it cannot be read, or another line is no JSON object.
    pub fn read(path: &Path) -> Result<Self> {
        let mut curve = Self::default();
        for line in read_lines::<Line>(path, true)?.unwrap_or_default() {
            let Some(step) = line.step else { continue };
            if let Some(nll) = line.valid_nll {
                curve.valid_nll.push((step, nll));
                if line.best == true {
                    curve.best = Some((step, nll, line.valid_perplexity.unwrap_or(nll.exp())));
                }
            } else if let Some(nll) = line.nll {
                curve.train_nll.push((step, nll));
            }
        }
        Ok(curve)
    }

    /// The last logged step.
    #[must_use]
    pub fn last_step(&self) -> Option<u64> {
        self.train_nll.last().map(|(step, _)| *step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_and_evaluations_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        assert_eq!(Curve::read(&path).unwrap(), Curve::default());
        let text = "{\"step\":1,\"nll\":3.0,\"loss\":1.0}\n{\"event\":\"evaluation\",\"step\":1,\"valid_nll\":2.5,\"valid_perplexity\":12.0,\"best\":true}\n\
            {\"step\":2,\"nll\":2.0}\n{\"event\":\"evaluation\",\"step\":2,\"valid_nll\":2.75,\"best\":false}\n{\"event\":\"done\",\"best\":{}}\n{\"step\":3,";
        std::fs::write(&path, text).unwrap();
        let curve = Curve::read(&path).unwrap();
        assert_eq!(
            (curve.train_nll.as_slice(), curve.last_step()),
            ([(1, 3.0), (2, 2.0)].as_slice(), Some(2))
        );
        assert_eq!(curve.valid_nll, [(1, 2.5), (2, 2.75)]);
        assert_eq!(curve.best, Some((1, 2.5, 12.0)));
    }
}
