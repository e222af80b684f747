//! Training checkpoints, written atomically and resumed exactly.
//!
//! A checkpoint is a folder `step-00000100` with `model.safetensors` (parameters), `optimizer.safetensors` (AdamW moments), `state.json`
//! ([`TrainState`]) and, written last, `COMPLETE`. It is created under a temporary name and renamed; one without `COMPLETE` is ignored. No
//! generator state is stored: every random number is a function of seed, step and purpose.
mod find;
mod retention;
mod state;

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use mixce_base::files::{AtomicFolder, write_atomic};

use crate::error::{Error, Result};

pub use find::{clean_up, complete, latest, resolve_resume};
pub use retention::{remove_above, remove_old, steps_to_remove};
pub(crate) use state::are_same_tokens;
pub use state::{STATE_VERSION, TrainState, require_same_architecture};

/// Parameters.
pub const MODEL_FILE: &str = "model.safetensors";
/// AdamW moments.
pub const OPTIMIZER_FILE: &str = "optimizer.safetensors";
/// [`TrainState`].
pub const STATE_FILE: &str = "state.json";
/// The marker that is written last.
pub const COMPLETE_FILE: &str = "COMPLETE";

/// Tensors by name.
pub type NamedTensors = Vec<(String, Tensor)>;

/// The contents of a checkpoint.
#[derive(Debug)]
pub struct Loaded {
    /// Everything but tensors.
    pub state: TrainState,
    /// Parameters by name, on the CPU.
    pub parameters: HashMap<String, Tensor>,
    /// Moments by name, on the CPU.
    pub optimizer: HashMap<String, Tensor>,
}

/// The folder name of a step's checkpoint.
#[must_use]
pub fn folder_name(step: u64) -> String {
    format!("step-{step:08}")
}

/// Writes the checkpoint of `state.step` into the folder `checkpoints` and returns its path.
///
/// `extra` files (name and content), such as a `config.json`, are added.
///
/// # Errors
/// [`Error::Io`] or [`Error::BadCheckpoint`]; older checkpoints are then unchanged.
pub fn save(
    checkpoints: &Path,
    state: &TrainState,
    parameters: NamedTensors,
    optimizer: NamedTensors,
    extra: &[(&str, &[u8])],
) -> Result<PathBuf> {
    let path = checkpoints.join(folder_name(state.step));
    let folder = AtomicFolder::create(&path)?;
    write_files(folder.path(), state, parameters, optimizer, extra)?;
    folder.replace()?;
    Ok(path)
}

fn write_files(
    folder: &Path,
    state: &TrainState,
    parameters: NamedTensors,
    optimizer: NamedTensors,
    extra: &[(&str, &[u8])],
) -> Result<()> {
    write_tensors(&folder.join(MODEL_FILE), parameters)?;
    write_tensors(&folder.join(OPTIMIZER_FILE), optimizer)?;
    for (name, bytes) in extra {
        write_atomic(&folder.join(name), bytes)?;
    }
    let json = serde_json::to_vec_pretty(state).map_err(|e| Error::BadCheckpoint {
        path: folder.into(),
        problem: format!("cannot serialise: {e}"),
    })?;
    write_atomic(&folder.join(STATE_FILE), &json)?;
    // Each file is synced before the next is written, so the marker never exists without the rest.
    Ok(write_atomic(&folder.join(COMPLETE_FILE), format!("step {}\n", state.step).as_bytes())?)
}

fn write_tensors(path: &Path, tensors: NamedTensors) -> Result<()> {
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::serialize_to_file(tensors, Some(metadata), path)
        .map_err(|e| Error::BadCheckpoint { path: path.into(), problem: format!("cannot write: {e}") })?;
    File::open(path).and_then(|f| f.sync_all()).map_err(Error::io("sync", path))
}

/// Reads a complete checkpoint.
///
/// # Errors
/// [`Error::NoCheckpoint`] without `COMPLETE`; [`Error::BadCheckpoint`] when a file is damaged or of an unknown version.
pub fn load(path: &Path) -> Result<Loaded> {
    if !path.join(COMPLETE_FILE).is_file() {
        return Err(Error::NoCheckpoint { path: path.into() });
    }
    let state = TrainState::read(&path.join(STATE_FILE))?;
    let tensors = |name: &str| {
        let file = path.join(name);
        candle_core::safetensors::load(&file, &Device::Cpu)
            .map_err(|e| Error::BadCheckpoint { path: file, problem: e.to_string() })
    };
    Ok(Loaded { state, parameters: tensors(MODEL_FILE)?, optimizer: tensors(OPTIMIZER_FILE)? })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn tensors(value: f32) -> NamedTensors {
        vec![("p".into(), Tensor::new(&[value, 2.0], &Device::Cpu).unwrap())]
    }

    fn save_step(folder: &Path, step: u64, value: f32) -> PathBuf {
        let state = state::tests::state(step);
        save(folder, &state, tensors(value), tensors(-value), &[("config.json", b"{}")]).unwrap()
    }

    #[test]
    fn what_was_saved_is_loaded() {
        let folder = tempfile::tempdir().unwrap();
        let path = save_step(folder.path(), 100, 1.5);
        assert!(path.ends_with("step-00000100"));
        let loaded = load(&path).unwrap();
        assert_eq!(loaded.state, state::tests::state(100));
        assert_eq!(loaded.parameters["p"].to_vec1::<f32>().unwrap(), [1.5, 2.0]);
        assert_eq!(loaded.optimizer["p"].to_vec1::<f32>().unwrap(), [-1.5, 2.0]);
        let entries = fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(entries, 1, "no temporary folder stays");
    }

    #[test]
    fn a_step_saved_again_replaces_the_first() {
        let folder = tempfile::tempdir().unwrap();
        save_step(folder.path(), 5, 1.0);
        let path = save_step(folder.path(), 5, 7.0);
        assert_eq!(load(&path).unwrap().parameters["p"].to_vec1::<f32>().unwrap(), [7.0, 2.0]);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    /// A run killed between any two files of a checkpoint still has the one before (half-written checkpoints).
    #[test]
    fn a_kill_between_files_leaves_the_previous_checkpoint() {
        let names = [MODEL_FILE, OPTIMIZER_FILE, "config.json", STATE_FILE];
        for written in 0..=names.len() {
            let folder = tempfile::tempdir().unwrap();
            let good = save_step(folder.path(), 10, 1.0);
            let whole = save_step(folder.path(), 20, 2.0);
            // What the kill leaves, under the temporary name and, for a file system that reordered things, under the final one.
            for half in [folder.path().join(".step-00000020.1-1.tmp"), folder.path().join("step-00000030")] {
                fs::create_dir(&half).unwrap();
                for name in &names[..written] {
                    fs::copy(whole.join(name), half.join(name)).unwrap();
                }
            }
            fs::remove_dir_all(&whole).unwrap();
            assert_eq!(latest(folder.path()).unwrap(), Some((10, good.clone())));
            assert!(matches!(load(&folder.path().join("step-00000030")), Err(Error::NoCheckpoint { .. })));
            load(&good).unwrap();
            clean_up(folder.path()).unwrap();
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        }
    }

    #[test]
    fn damaged_files_are_named() {
        for name in [MODEL_FILE, OPTIMIZER_FILE, STATE_FILE] {
            let folder = tempfile::tempdir().unwrap();
            let path = save_step(folder.path(), 1, 1.0);
            let bytes = fs::read(path.join(name)).unwrap();
            fs::write(path.join(name), &bytes[..bytes.len() / 2]).unwrap();
            let error = load(&path).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
    }
}
