//! How far a training run has come, told from its files.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde_json::Value;

/// Larger than any of these files.
const MAX_BYTES: u64 = 16 << 20;

/// How far a run has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Its last model is written.
    Finished,
    /// It is running, or was interrupted.
    Unfinished,
    /// Loss or gradient were not finite at a step, and it has not gone beyond it.
    Failed {
        /// The step.
        step: u64,
    },
}

impl Stage {
    /// The stage of the run in a folder, with the last step that it has logged and the number of all its steps, as far as they are known.
    #[must_use]
    pub fn of(folder: &Path, last: Option<u64>, total: Option<u64>) -> Self {
        match non_finite_step(folder).filter(|step| last.is_none_or(|last| *step > last)) {
            Some(step) => Self::Failed { step },
            None if is_finished(folder, last, total) => Self::Finished,
            None => Self::Unfinished,
        }
    }
}

/// The steps of a whole run with these settings (`run.toml`), as recorded at its start, or by its newest readable checkpoint, or as asked
/// for.
#[must_use]
pub fn total_steps(folder: &Path, settings: &Value) -> Option<u64> {
    let recorded = settings.get("provenance").and_then(|provenance| provenance.get("total_steps"));
    let of_checkpoint = || {
        let mut checkpoints = entries(&folder.join("checkpoints"));
        checkpoints.sort();
        let total = |checkpoint: &PathBuf| read(&checkpoint.join("state.json"))?.get("total_steps")?.as_u64();
        checkpoints.iter().rev().find_map(total)
    };
    let wanted = || settings.get("max_steps").and_then(Value::as_u64);
    recorded.and_then(Value::as_u64).or_else(of_checkpoint).or_else(wanted)
}

/// The state of a checkpoint, or the steps of a cell; none if the file is not there, or half-written.
fn read(path: &Path) -> Option<Value> {
    // A pipe would block.
    if !fs::metadata(path).ok()?.is_file() {
        return None;
    }
    let mut text = String::new();
    File::open(path).ok()?.take(MAX_BYTES).read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok()
}

/// The last model is written, and nothing was logged after it, as a run does that was extended. A sweep, which records what it has trained, keeps
/// the best model alone.
fn is_finished(folder: &Path, last: Option<u64>, total: Option<u64>) -> bool {
    if read(&folder.join("../steps.json")).is_some_and(|steps| steps.get("train").is_some()) {
        return true;
    }
    let modified =
        |name: &str| -> Option<SystemTime> { fs::metadata(folder.join(name)).ok()?.modified().ok() };
    let Some(model) = modified("final/config.json") else { return false };
    let is_complete = last.is_some() && last >= total && total.is_some();
    is_complete || modified("metrics.jsonl").is_none_or(|logged| logged <= model)
}

/// The last step whose documents were kept because its loss or gradient was not finite.
fn non_finite_step(folder: &Path) -> Option<u64> {
    let step = |path: &PathBuf| {
        let name = path.file_name()?.to_str()?;
        name.strip_prefix("non-finite-step-")?.strip_suffix(".jsonl")?.parse::<u64>().ok()
    };
    entries(folder).iter().filter_map(step).max()
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_stage_is_told_from_the_files() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path();
        assert_eq!(Stage::of(folder, None, None), Stage::Unfinished);
        fs::write(folder.join("non-finite-step-00000003.jsonl"), "{}\n").unwrap();
        assert_eq!(Stage::of(folder, Some(2), Some(4)), Stage::Failed { step: 3 });
        // It went on beyond that step.
        assert_eq!(Stage::of(folder, Some(3), Some(4)), Stage::Unfinished);
        fs::create_dir(folder.join("final")).unwrap();
        fs::write(folder.join("metrics.jsonl"), "").unwrap();
        fs::write(folder.join("final/config.json"), "{}").unwrap();
        // Fewer steps than planned: without patience left.
        assert_eq!(Stage::of(folder, Some(3), Some(4)), Stage::Finished);
        // Extended: the model is that of fewer steps.
        let later = SystemTime::now() + std::time::Duration::from_secs(9);
        File::options().write(true).open(folder.join("metrics.jsonl")).unwrap().set_modified(later).unwrap();
        assert_eq!(Stage::of(folder, Some(3), Some(4)), Stage::Unfinished);
        assert_eq!(Stage::of(folder, Some(4), Some(4)), Stage::Finished);
    }

    #[test]
    fn a_cell_of_a_sweep_is_finished_without_its_last_model() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("run");
        fs::create_dir(&folder).unwrap();
        assert_eq!(Stage::of(&folder, Some(4), Some(4)), Stage::Unfinished);
        fs::write(root.path().join("steps.json"), r#"{"train":{"sha256":"x","seconds":1.0}}"#).unwrap();
        assert_eq!(Stage::of(&folder, Some(4), Some(4)), Stage::Finished);
    }

    #[test]
    fn the_number_of_steps_is_found_where_it_is_recorded() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path();
        assert_eq!(total_steps(folder, &Value::Null), None);
        assert_eq!(total_steps(folder, &json!({"max_steps": 9})), Some(9));
        let newest = folder.join("checkpoints/step-00000002");
        fs::create_dir_all(&newest).unwrap();
        fs::write(newest.join("state.json"), "{\"total_steps\":7").unwrap();
        assert_eq!(total_steps(folder, &json!({"max_steps": 9})), Some(9), "half-written");
        fs::write(newest.join("state.json"), "{\"total_steps\":7}").unwrap();
        assert_eq!(total_steps(folder, &json!({"max_steps": 9})), Some(7));
        assert_eq!(total_steps(folder, &json!({"provenance": {"total_steps": 4}})), Some(4));
    }
}
