//! The lock on a folder of samples, and the record of the settings they were made with.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::error::Problem;
use crate::files::{self, AtomicFile};

/// Exclusive access to the files of a name, released on drop together with the lock file.
pub(super) struct Lock {
    _file: File,
    path: PathBuf,
}

impl Lock {
    /// Acquires the lock.
    pub(super) fn take(out: &Path, name: &str) -> Result<Self> {
        let path = out.join(format!(".{name}.lock"));
        Ok(Self { _file: files::lock(&path, &out.join(name))?, path })
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // A leftover empty file is harmless.
        let _ = fs::remove_file(&self.path);
    }
}

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
            let mut file = AtomicFile::create(&self.path)?;
            file.write(format!("{settings:#}\n").as_bytes())?;
            return file.finish();
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
