//! The folder of a cell: which steps are done, and with what settings.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use mixce_base::digest::{Digest as _, Sha256, hex};
use mixce_base::files::write_atomic;
use mixce_report::results::Split;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::error::Problem;

/// The SHA-256 of a value's JSON text.
pub(super) fn key_of(value: &Value) -> String {
    hex(&Sha256::digest(value.to_string()))
}

/// A finished step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Step {
    /// Key of what decided its results.
    sha256: String,
    seconds: f64,
}

/// `cells/ID`.
#[derive(Clone, Debug)]
pub(super) struct CellFolder {
    path: PathBuf,
}

impl CellFolder {
    pub(super) fn new(out: &Path, id: &str) -> Self {
        Self { path: out.join("cells").join(id) }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn log(&self) -> PathBuf {
        self.path.join("log.txt")
    }

    pub(super) fn run(&self) -> PathBuf {
        self.path.join("run")
    }

    pub(super) fn best(&self) -> PathBuf {
        self.run().join("best")
    }

    pub(super) fn split(&self, split: Split) -> PathBuf {
        self.path.join(split.name())
    }

    /// Whether a step is done with this key.
    pub(super) fn has(&self, step: &str, key: &str) -> Result<bool> {
        Ok(self.steps()?.get(step).is_some_and(|done| done.sha256 == key))
    }

    /// Records a finished step.
    pub(super) fn finish(&self, step: &str, key: &str, seconds: f64) -> Result<()> {
        let mut steps = self.steps()?;
        steps.insert(step.to_owned(), Step { sha256: key.to_owned(), seconds });
        write_json(&self.path.join("steps.json"), &steps)
    }

    /// Seconds of all finished steps.
    pub(super) fn seconds(&self) -> Result<f64> {
        Ok(self.steps()?.values().map(|step| step.seconds).sum())
    }

    fn steps(&self) -> Result<BTreeMap<String, Step>> {
        Ok(read_json(&self.path.join("steps.json"))?.unwrap_or_default())
    }

    /// Writes the settings that decide the cell. Refuses a folder whose model was trained with other settings.
    pub(super) fn claim(&self, settings: &Value) -> Result<()> {
        let path = self.path.join("cell.json");
        self.require_same_training(settings)?;
        fs::create_dir_all(&self.path).with_context(|| format!("cannot create `{}`", self.path.display()))?;
        write_json(&path, &json!({"sha256": key_of(settings), "settings": settings}))
    }

    /// Refuses other settings of training than those in the folder.
    pub(super) fn require_same_training(&self, settings: &Value) -> Result<()> {
        let path = self.path.join("cell.json");
        let Some(before) = read_json::<Value>(&path)? else { return Ok(()) };
        let mut told = Vec::new();
        differences("", &before["settings"]["train"], &settings["train"], &mut told);
        if told.is_empty() {
            return Ok(());
        }
        let problem =
            format!("`{}` was trained with other settings: {}", self.path.display(), told.join("; "));
        Err(Problem::new(problem)
            .hint("choose another `--out`, or remove that folder to train it again")
            .into())
    }
}

/// Tells where two values differ, leaf by leaf.
fn differences(name: &str, before: &Value, now: &Value, told: &mut Vec<String>) {
    match (before, now) {
        (Value::Object(a), Value::Object(b)) => {
            let keys: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            for key in keys {
                differences(
                    key,
                    before.get(key).unwrap_or(&Value::Null),
                    now.get(key).unwrap_or(&Value::Null),
                    told,
                );
            }
        }
        _ if before == now => {}
        _ => told.push(format!("`{name}` was {before} and is {now} now")),
    }
}

/// Reads a JSON file; none if there is no such file.
pub(super) fn read_json<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<Option<T>> {
    let shown = path.display();
    match fs::read(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read `{shown}`")),
        Ok(bytes) => {
            serde_json::from_slice(&bytes).map(Some).with_context(|| format!("`{shown}` is damaged"))
        }
    }
}

/// Writes a JSON file, indented.
pub(super) fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value).context("cannot serialize as JSON")?;
    Ok(write_atomic(path, format!("{text}\n").as_bytes())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn train(lr: f64, data: &str) -> Value {
        json!({"train": {"config": {"lr": lr}, "data": [data]}, "evaluate": {"samplings": lr}})
    }

    #[test]
    fn other_training_is_refused_and_other_evaluation_is_not() {
        let root = tempfile::tempdir().unwrap();
        let folder = CellFolder::new(root.path(), "a");
        folder.claim(&train(0.5, "x")).unwrap();
        folder.claim(&json!({"train": train(0.5, "x")["train"], "evaluate": 7})).unwrap();
        let error = folder.claim(&train(0.25, "y")).unwrap_err().to_string();
        assert!(error.contains("`lr` was 0.5 and is 0.25 now"), "{error}");
        assert!(error.contains("`data` was [\"x\"] and is [\"y\"] now"), "{error}");
    }

    #[test]
    fn steps_are_done_with_their_key() {
        let root = tempfile::tempdir().unwrap();
        let folder = CellFolder::new(root.path(), "a");
        fs::create_dir_all(folder.path()).unwrap();
        assert!(!folder.has("train", "k").unwrap());
        folder.finish("train", "k", 1.5).unwrap();
        folder.finish("valid.score", "l", 0.25).unwrap();
        assert!(folder.has("train", "k").unwrap() && !folder.has("train", "l").unwrap());
        assert_eq!(folder.seconds().unwrap(), 1.75);
        fs::write(folder.path().join("steps.json"), "{").unwrap();
        assert!(folder.has("train", "k").unwrap_err().to_string().contains("is damaged"));
    }
}
