//! `metrics.jsonl`: one JSON object a line, flushed line by line, so that a killed run keeps what it had logged.
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::error::{Error, Result};
use crate::fsio;
use crate::observer::{EvaluationReport, StepReport, TrainObserver};

/// Appends reports to a JSON-lines file.
///
/// A logged step is the bare [`StepReport`]; an evaluation is an [`EvaluationReport`] with `"event":"evaluation"` in front.
#[derive(Debug)]
pub struct JsonlWriter {
    path: PathBuf,
    file: File,
}

#[derive(Serialize)]
struct Tagged<'a, T> {
    event: &'static str,
    #[serde(flatten)]
    report: &'a T,
}

impl JsonlWriter {
    /// Opens `path` for appending. Lines of steps after `steps_done`, and a torn last line, are dropped: a resumed run writes them again.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn open(path: &Path, steps_done: u64) -> Result<Self> {
        if path.exists() {
            let old = std::fs::read(path).map_err(Error::io("read", path))?;
            let kept: Vec<u8> = old
                .split_inclusive(|b| *b == b'\n')
                .filter(|line| step_of(line).is_some_and(|step| step <= steps_done))
                .flatten()
                .copied()
                .collect();
            if kept != old {
                fsio::write_bytes_atomic(path, &kept)?;
            }
        }
        let file = OpenOptions::new().create(true).append(true).open(path);
        Ok(Self { path: path.into(), file: file.map_err(Error::io("open", path))? })
    }

    fn write(&mut self, value: &impl Serialize) -> Result<()> {
        let mut line =
            serde_json::to_vec(value).map_err(|e| Error::config(format!("cannot serialise: {e}")))?;
        line.push(b'\n');
        // One write call a line: nothing is buffered, and readers never see half a line from it.
        self.file.write_all(&line).map_err(Error::io("write", &self.path))
    }
}

fn step_of(line: &[u8]) -> Option<u64> {
    let value: serde_json::Value = serde_json::from_slice(line.strip_suffix(b"\n")?).ok()?;
    value.get("step")?.as_u64()
}

impl TrainObserver for JsonlWriter {
    fn on_log(&mut self, report: &StepReport) -> Result<()> {
        self.write(report)
    }

    fn on_evaluation(&mut self, report: &EvaluationReport) -> Result<()> {
        self.write(&Tagged { event: "evaluation", report })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::metrics) fn step(step: u64) -> StepReport {
        StepReport {
            step,
            epoch: 0,
            loss: 0.5,
            nll: 1.25,
            mean_weight: 0.4,
            lr: 5e-5,
            grad_norm: 2.0,
            tokens: 100,
            tokens_per_s: 1000.0,
        }
    }

    pub(in crate::metrics) fn evaluation(step: u64) -> EvaluationReport {
        EvaluationReport {
            step,
            epoch: 0,
            valid_loss: 0.25,
            valid_nll: 1.0,
            valid_perplexity: 1f64.exp(),
            tokens: 10,
            documents: 2,
            best: true,
        }
    }

    #[test]
    fn each_report_is_a_line_of_the_documented_shape() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let mut writer = JsonlWriter::open(&path, 0).unwrap();
        writer.on_log(&step(1)).unwrap();
        writer.on_evaluation(&evaluation(1)).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<serde_json::Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        for key in ["step", "epoch", "loss", "nll", "lr", "grad_norm", "tokens", "tokens_per_s"] {
            assert!(lines[0][key].is_number(), "{key}");
        }
        assert_eq!(lines[1]["event"], "evaluation");
        assert_eq!(lines[1]["valid_nll"], 1.0);
    }

    #[test]
    fn resuming_drops_what_will_be_written_again_and_torn_lines() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let mut writer = JsonlWriter::open(&path, 0).unwrap();
        for s in 1..=4 {
            writer.on_log(&step(s)).unwrap();
        }
        drop(writer);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.extend_from_slice(b"{\"step\":1,\"ep");
        std::fs::write(&path, bytes).unwrap();
        let mut writer = JsonlWriter::open(&path, 2).unwrap();
        writer.on_log(&step(3)).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let steps: Vec<_> = text.lines().map(|l| step_of(format!("{l}\n").as_bytes()).unwrap()).collect();
        assert_eq!(steps, [1, 2, 3]);
    }
}
