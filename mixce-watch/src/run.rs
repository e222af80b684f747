//! A training run.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use mixce_report::{Stage, objective_of, total_steps};
use serde::Serialize;
use serde_json::Value;

use crate::curves::{Curves, Evaluation, Step};
use crate::files::{entries, modified, text};
use crate::locks::{Holder, Locks, resident_bytes};
use crate::samples::{Sample, Samples};
use crate::tail::{Growth, Tail};

/// Larger than any `run.toml`.
const MAX_SETTINGS: u64 = 16 << 20;
/// Without locks to look at, a run that has written nothing for this long is not called running.
const QUIET_S: f64 = 600.0;

/// How a run stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "is")]
pub enum RunState {
    /// Nothing has been logged, and no process is at it.
    Waiting,
    /// A process holds the folder, or, where that cannot be told, something was logged in the last minutes.
    Running {
        /// The process.
        process: Option<u32>,
    },
    /// Its last model is written.
    Finished,
    /// No process is at it, and its last model is not written. `train --resume auto` continues it.
    Interrupted,
    /// Loss or gradient were not finite.
    Failed {
        /// The step.
        step: u64,
    },
    /// The folder has vanished.
    Gone,
}

/// A run at one moment.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Run {
    /// Its folder.
    pub folder: PathBuf,
    /// How it stands.
    pub state: RunState,
    /// The model that it began with.
    pub model: Option<String>,
    /// Its objective, `NAME:parameter=value,..`.
    pub objective: Option<String>,
    /// Steps of the whole run, if the files tell.
    pub total_steps: Option<u64>,
    /// The last logged step.
    pub last_step: Option<Step>,
    /// The last evaluation.
    pub last_evaluation: Option<Evaluation>,
    /// The evaluation of the best model.
    pub best: Option<Evaluation>,
    /// Resident memory of the process, in bytes.
    pub memory_bytes: Option<u64>,
    /// Seconds to the last step at the speed of the last ones, without evaluations; only of a running one.
    pub seconds_left: Option<f64>,
    /// Seconds since something was logged.
    pub quiet_seconds: Option<f64>,
    /// Lines of `metrics.jsonl` that are neither a step nor an evaluation.
    pub unreadable_lines: u64,
    /// The last samples in `valid/` or `test/`.
    pub samples: Vec<Sample>,
    /// Everything that was logged.
    #[serde(skip)]
    pub curves: Arc<Curves>,
}

impl Run {
    /// Steps done of all, if both are known.
    #[must_use]
    pub fn progress(&self) -> Option<(u64, u64)> {
        let total = self.total_steps.filter(|total| *total > 0)?;
        Some((self.last_step.as_ref().map_or(0, |step| step.step).min(total), total))
    }
}

/// Reads a run's folder again and again.
#[derive(Debug)]
pub(crate) struct RunReader {
    folder: PathBuf,
    tail: Tail,
    /// Shared with the snapshots; it is copied only if one of them is still in use when it grows.
    curves: Arc<Curves>,
    samples: Samples,
}

impl RunReader {
    pub(crate) fn new(folder: PathBuf) -> Self {
        let tail = Tail::new(folder.join("metrics.jsonl"));
        Self { folder, tail, curves: Arc::default(), samples: Samples::default() }
    }

    pub(crate) fn poll(&mut self, locks: &Locks) -> Run {
        match self.tail.poll() {
            Growth::Absent => self.curves = Arc::default(),
            Growth::Lines { lines, is_new } => {
                if is_new {
                    self.curves = Arc::default();
                }
                if !lines.is_empty() {
                    let curves = Arc::make_mut(&mut self.curves);
                    lines.iter().for_each(|line| curves.add(line));
                }
            }
        }
        let settings = self.settings();
        let word = |key: &str| settings.get(key).and_then(Value::as_str).map(str::to_owned);
        let total_steps = total_steps(&self.folder, &settings);
        let written = modified(&self.folder.join("metrics.jsonl")).filter(|_| !self.curves.steps.is_empty());
        let quiet_seconds =
            written.and_then(|at| SystemTime::now().duration_since(at).ok()).map(|d| d.as_secs_f64());
        let state = self.state(locks, total_steps, quiet_seconds);
        let done = self.curves.last().map_or(0, |step| step.step);
        let is_running = matches!(state, RunState::Running { .. });
        let left = total_steps.filter(|_| is_running).map(|total| total.saturating_sub(done));
        let folders = ["valid", "test"].map(|name| self.folder.join(name));
        Run {
            folder: self.folder.clone(),
            model: word("model").or_else(|| word("from_config")),
            objective: settings.is_object().then(|| objective_of(&settings)).flatten(),
            total_steps,
            last_step: self.curves.last().cloned(),
            last_evaluation: self.curves.evaluations.last().cloned(),
            best: self.curves.best().cloned(),
            memory_bytes: match state {
                RunState::Running { process: Some(process) } => resident_bytes(process),
                _ => None,
            },
            seconds_left: left.and_then(|steps| self.curves.seconds_for(steps)),
            quiet_seconds,
            unreadable_lines: self.curves.unreadable_lines,
            samples: self.samples.poll(folders.into_iter()),
            curves: Arc::clone(&self.curves),
            state,
        }
    }

    /// `run.toml`; null if it is not there or half-written.
    fn settings(&self) -> Value {
        let text = text(&self.folder.join("run.toml"), MAX_SETTINGS);
        text.and_then(|text| toml::from_str(&text).ok()).unwrap_or_default()
    }

    fn state(&self, locks: &Locks, total: Option<u64>, quiet: Option<f64>) -> RunState {
        if !self.folder.is_dir() {
            return RunState::Gone;
        }
        let holder = locks.holder(&self.folder);
        if let Holder::Process(process) = holder {
            return RunState::Running { process: Some(process) };
        }
        let last = self.curves.last().map(|step| step.step);
        match Stage::of(&self.folder, last, total) {
            Stage::Failed { step } => return RunState::Failed { step },
            Stage::Finished => return RunState::Finished,
            Stage::Unfinished => {}
        }
        match (holder, quiet) {
            (Holder::Unknown, Some(quiet)) if quiet < QUIET_S => RunState::Running { process: None },
            _ if last.is_none() && !self.folder.join("checkpoints").is_dir() => RunState::Waiting,
            _ => RunState::Interrupted,
        }
    }
}

/// Whether a folder is that of a run, or may become one.
pub(crate) fn is_run(folder: &Path) -> bool {
    let own = ["run.toml", "metrics.jsonl", "checkpoints"].iter().any(|name| folder.join(name).exists());
    own || entries(folder).is_empty()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const STEPS: &str = "{\"step\":1,\"nll\":3.0,\"lr\":0.1,\"grad_norm\":1.5,\"tokens\":100,\"tokens_per_s\":50.0}\n\
        {\"step\":2,\"nll\":2.0,\"tokens\":100,\"tokens_per_s\":50.0}\n";

    #[test]
    fn the_state_is_told_from_the_files() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("run");
        fs::create_dir(&folder).unwrap();
        assert!(is_run(&folder));
        let mut reader = RunReader::new(folder.clone());
        let mut poll = || reader.poll(&Locks::read());
        assert_eq!((poll().state, poll().progress()), (RunState::Waiting, None));

        let write = |name: &str, text: &str| {
            fs::create_dir_all(folder.join(name).parent().unwrap()).unwrap();
            fs::write(folder.join(name), text).unwrap();
        };
        write(
            "run.toml",
            "model = \"gpt2\"\nobjective = \"mixce\"\neta = 0.3\nmax_steps = 9\n[provenance]\ntotal_steps = 4\n",
        );
        write("metrics.jsonl", STEPS);
        let lock = fs::File::open(&folder).unwrap();
        lock.try_lock().unwrap();
        let run = poll();
        if cfg!(target_os = "linux") {
            assert_eq!(run.state, RunState::Running { process: Some(std::process::id()) });
            assert!(run.memory_bytes.unwrap() > 0);
            // Two of four steps, two seconds each.
            assert_eq!(run.seconds_left, Some(4.0));
        }
        assert_eq!((run.model.as_deref(), run.objective.as_deref()), (Some("gpt2"), Some("mixce:eta=0.3")));
        assert_eq!(run.progress(), Some((2, 4)));
        drop(lock);
        if cfg!(target_os = "linux") {
            assert_eq!((poll().state, poll().seconds_left), (RunState::Interrupted, None));
        }
        write("non-finite-step-00000003.jsonl", "{}\n");
        assert_eq!(poll().state, RunState::Failed { step: 3 });
        // Continued beyond it, and finished early, for want of patience.
        write("metrics.jsonl", &format!("{STEPS}{{\"step\":3,\"nll\":1.0}}\n"));
        write("final/config.json", "{}");
        assert_eq!(poll().state, RunState::Finished);
        fs::remove_dir_all(&folder).unwrap();
        let gone = poll();
        assert_eq!((gone.state, gone.last_step), (RunState::Gone, None));
    }

    #[test]
    fn half_written_files_are_no_error() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path();
        fs::write(folder.join("run.toml"), "model = \"gp").unwrap();
        fs::write(folder.join("metrics.jsonl"), "{\"step\":1,\"nl").unwrap();
        fs::create_dir_all(folder.join("checkpoints/step-00000002")).unwrap();
        fs::write(folder.join("checkpoints/step-00000002/state.json"), "{\"total_steps\":7").unwrap();
        let mut reader = RunReader::new(folder.to_owned());
        let run = reader.poll(&Locks::read());
        assert_eq!((run.model, run.total_steps, run.unreadable_lines), (None, None, 0));
        fs::write(folder.join("checkpoints/step-00000002/state.json"), "{\"total_steps\":7}").unwrap();
        assert_eq!(reader.poll(&Locks::read()).total_steps, Some(7));
    }
}
