//! `metrics.jsonl`: one JSON object per line, flushed line by line, so that a killed run keeps what it had logged.
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;

use mixce_base::files::write_atomic;
use serde::Serialize;

use crate::error::{Error, Result};
use crate::observer::{EvaluationReport, RunPlan, StepReport, TrainObserver};

/// Appends reports to a JSON lines file, which is opened when the run starts.
///
/// A logged step is a [`StepReport`]; an evaluation is an [`EvaluationReport`] preceded by `"event":"evaluation"`. When a run is resumed,
/// lines of steps after the checkpoint and an incomplete last line are dropped first; the run writes them again.
#[derive(Debug)]
pub struct JsonlWriter {
    path: PathBuf,
    file: Option<File>,
}

#[derive(Serialize)]
struct Tagged<'a, T> {
    event: &'static str,
    #[serde(flatten)]
    report: &'a T,
}

impl JsonlWriter {
    /// A writer for `path`, which is not opened yet.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self { path, file: None }
    }

    fn open(&self, steps_done: u64) -> Result<File> {
        let path = &self.path;
        if path.exists() {
            let old = std::fs::read(path).map_err(Error::io("read", path))?;
            let kept: Vec<u8> = old
                .split_inclusive(|b| *b == b'\n')
                .filter(|line| step_of(line).is_some_and(|step| step <= steps_done))
                .flatten()
                .copied()
                .collect();
            if kept != old {
                write_atomic(path, &kept)?;
            }
        }
        OpenOptions::new().create(true).append(true).open(path).map_err(Error::io("open", path))
    }

    fn write(&mut self, value: &impl Serialize) -> Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        let mut line =
            serde_json::to_vec(value).map_err(|e| Error::config(format!("cannot serialise: {e}")))?;
        line.push(b'\n');
        // One unbuffered write call per line, so that readers never see a partial line.
        file.write_all(&line).map_err(Error::io("write", &self.path))
    }
}

fn step_of(line: &[u8]) -> Option<u64> {
    let value: serde_json::Value = serde_json::from_slice(line.strip_suffix(b"\n")?).ok()?;
    value.get("step")?.as_u64()
}

impl TrainObserver for JsonlWriter {
    fn on_start(&mut self, plan: &RunPlan) -> Result<()> {
        self.file = Some(self.open(plan.steps_done)?);
        Ok(())
    }

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
            skipped: false,
        }
    }

    pub(in crate::metrics) fn plan(steps_done: u64) -> RunPlan {
        RunPlan {
            total_steps: 10,
            steps_done,
            steps_per_epoch: 5,
            examples: 8,
            targets_per_epoch: 80,
            parameters: 1000,
        }
    }

    pub(in crate::metrics) fn evaluation(step: u64) -> EvaluationReport {
        EvaluationReport {
            step,
            epoch: 0,
            valid_loss: 0.25,
            valid_nll: 1.0,
            valid_potential: 0.75,
            valid_perplexity: 1f64.exp(),
            valid_mauve: None,
            tokens: 10,
            documents: 2,
            best: true,
        }
    }

    #[test]
    fn each_report_is_a_line_of_the_documented_shape() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let mut writer = JsonlWriter::new(path.clone());
        writer.on_start(&plan(0)).unwrap();
        writer.on_log(&step(1)).unwrap();
        writer.on_evaluation(&evaluation(1)).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<serde_json::Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        for key in ["step", "epoch", "loss", "nll", "lr", "grad_norm", "tokens", "tokens_per_s"] {
            assert!(lines[0][key].is_number(), "{key}");
        }
        assert_eq!(lines[1]["event"], "evaluation");
        assert_eq!(lines[1]["valid_nll"], 1.0);
        assert_eq!(lines[1]["valid_potential"], 0.75);
    }

    #[test]
    fn resuming_drops_what_will_be_written_again_and_torn_lines() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let mut writer = JsonlWriter::new(path.clone());
        writer.on_start(&plan(0)).unwrap();
        for s in 1..=4 {
            writer.on_log(&step(s)).unwrap();
        }
        drop(writer);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.extend_from_slice(b"{\"step\":1,\"ep");
        std::fs::write(&path, bytes).unwrap();
        let mut writer = JsonlWriter::new(path.clone());
        writer.on_start(&plan(2)).unwrap();
        writer.on_log(&step(3)).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let steps: Vec<_> = text.lines().map(|l| step_of(format!("{l}\n").as_bytes()).unwrap()).collect();
        assert_eq!(steps, [1, 2, 3]);
    }
}
