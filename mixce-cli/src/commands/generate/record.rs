//! The record of the settings that the samples in a folder were made with.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use mixce_base::files::write_atomic;
use serde_json::Value;

use crate::error::Problem;

/// `NAME.settings.json`: the settings of the samples beside it.
pub(super) struct Record {
    path: PathBuf,
    resume: bool,
}

impl Record {
    /// The record for the files of a name.
    pub(super) fn new(out: &Path, name: &str, resume: bool) -> Self {
        Self { path: out.join(format!("{name}.settings.json")), resume }
    }

    /// Refuses the files of an earlier run, unless it is resumed.
    pub(super) fn require_usable(&self) -> Result<()> {
        if self.resume || !self.path.exists() {
            return Ok(());
        }
        let problem = Problem::new(format!("`{}` exists", self.path.display()));
        Err(problem.hint("continue that run with `--resume`, or choose another `--out` or `--name`").into())
    }

    /// Writes the settings, or compares them with those of the resumed run. The model's name may change.
    pub(super) fn keep(&self, settings: &Value) -> Result<()> {
        if !self.path.exists() {
            return Ok(write_atomic(&self.path, format!("{settings:#}\n").as_bytes())?);
        }
        let shown = self.path.display();
        let text = fs::read(&self.path).with_context(|| format!("cannot read `{shown}`"))?;
        let before: Value = serde_json::from_slice(&text).with_context(|| format!("`{shown}` is damaged"))?;
        let keys = settings.as_object().into_iter().flat_map(|object| object.keys());
        let differ = keys.filter(|key| *key != "model" && before.get(key) != settings.get(key));
        let told: Vec<String> =
            differ.map(|key| format!("`{key}` was {} and is {} now", before[key], settings[key])).collect();
        if told.is_empty() {
            return Ok(());
        }
        let problem = Problem::new(format!("cannot resume the run of `{shown}`: {}", told.join("; ")));
        Err(problem.hint("choose another `--out` or `--name`").into())
    }
}
