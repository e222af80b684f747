//! Training checkpoints, written atomically and resumed exactly.
//!
//! A checkpoint is a folder `step-00000100` with `model.safetensors` (parameters), `optimizer.safetensors` (AdamW moments), `state.json`
//! ([`TrainState`]) and, written last, the manifest `COMPLETE`: step, and size and SHA-256 of every file, which loading compares. It is created
//! under a temporary name and renamed; a folder without `COMPLETE` is no checkpoint. No generator state is stored: every random number is a
//! function of seed, step and purpose.
mod find;
mod manifest;
mod retention;
mod state;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use mixce_base::files::{AtomicFolder, write_atomic};
use mixce_lm::checkpoint::{TensorInfo, list};
use mixce_lm::export::{write_safetensors, write_safetensors_without_digest};

use crate::error::{Error, Result};

pub(crate) use find::{candidates, clean_up, is_own_name, set_aside};
pub use find::{complete, latest};
pub use retention::{remove_above, remove_old, steps_to_remove};
pub(crate) use state::are_same_tokens;
pub use state::{STATE_VERSION, TrainState, require_same_architecture};

/// Parameters.
pub const MODEL_FILE: &str = "model.safetensors";
/// AdamW moments.
pub const OPTIMIZER_FILE: &str = "optimizer.safetensors";
/// [`TrainState`].
pub const STATE_FILE: &str = "state.json";
/// The manifest, which is written last.
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
/// `extra` files (name and content), such as a `config.json`, are added. A checkpoint of this step is replaced; a folder of this name that is none is
/// set aside.
///
/// # Errors
/// A file that cannot be written, or a tensor with a value that is not finite; older checkpoints are then unchanged.
pub fn save(
    checkpoints: &Path,
    state: &TrainState,
    parameters: NamedTensors,
    optimizer: NamedTensors,
    extra: &[(&str, &[u8])],
) -> Result<PathBuf> {
    let path = checkpoints.join(folder_name(state.step));
    if path.exists() && !find::is_complete(&path) {
        set_aside(&path, "has no `COMPLETE`")?;
    }
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
    write_safetensors(&folder.join(MODEL_FILE), by_name(&parameters), DType::F32)?;
    // Unlike a model, it is never used without the manifest, whose digest is enough.
    write_safetensors_without_digest(&folder.join(OPTIMIZER_FILE), by_name(&optimizer), DType::F32)?;
    for (name, bytes) in extra {
        write_atomic(&folder.join(name), bytes)?;
    }
    let json = serde_json::to_vec_pretty(state).map_err(|e| Error::BadCheckpoint {
        path: folder.into(),
        problem: format!("cannot serialise: {e}"),
    })?;
    write_atomic(&folder.join(STATE_FILE), &json)?;
    // Each file is synced before the next is written, so the manifest never exists without the rest.
    let mut names = vec![MODEL_FILE, OPTIMIZER_FILE, STATE_FILE];
    names.extend(extra.iter().map(|(name, _)| *name));
    manifest::write(folder, state.step, &names)
}

fn by_name(tensors: &NamedTensors) -> BTreeMap<String, &Tensor> {
    tensors.iter().map(|(name, tensor)| (name.clone(), tensor)).collect()
}

/// Compares a checkpoint with its manifest, without loading it.
///
/// # Errors
/// As [`load`].
pub fn verify(path: &Path) -> Result<()> {
    read_verified_state(path).map(|_| ())
}

fn read_verified_state(path: &Path) -> Result<TrainState> {
    if !path.join(COMPLETE_FILE).is_file() {
        return Err(Error::NoCheckpoint { path: path.into() });
    }
    let state = TrainState::read(&path.join(STATE_FILE))?;
    manifest::verify(path, &state)?;
    Ok(state)
}

/// Reads a complete checkpoint, after comparing it with its manifest.
///
/// # Errors
/// [`Error::NoCheckpoint`] without `COMPLETE`; [`Error::BadCheckpoint`] when a file is missing, is not the one that was written, or is of an
/// unknown version, or if the folder's name, the manifest and `state.json` are of different steps.
pub fn load(path: &Path) -> Result<Loaded> {
    let state = read_verified_state(path)?;
    let tensors = |name: &str| {
        let file = path.join(name);
        read_tensors(&file).map_err(|e| Error::BadCheckpoint { path: file, problem: e.to_string() })
    };
    Ok(Loaded { state, parameters: tensors(MODEL_FILE)?, optimizer: tensors(OPTIMIZER_FILE)? })
}

/// Tensor after tensor: candle would hold the bytes of the whole file beside its tensors.
fn read_tensors(file: &Path) -> mixce_lm::Result<HashMap<String, Tensor>> {
    let read = |stored: TensorInfo| {
        let values = stored.read_f32()?;
        Ok((stored.name, Tensor::from_vec(values, stored.shape, &Device::Cpu)?))
    };
    list(file)?.into_iter().map(read).collect()
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
    fn a_folder_that_is_no_checkpoint_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let mine = folder.path().join("step-00000005");
        fs::create_dir(&mine).unwrap();
        fs::write(mine.join("notes"), "mine").unwrap();
        load(&save_step(folder.path(), 5, 1.0)).unwrap();
        let aside = folder.path().join("step-00000005.set-aside/notes");
        assert_eq!(fs::read_to_string(aside).unwrap(), "mine");
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
            // What is under its final name may be somebody's.
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
        }
    }

    fn problem(path: &Path) -> String {
        match load(path) {
            Err(Error::BadCheckpoint { problem, .. }) => problem,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn damaged_files_are_named() {
        for name in [MODEL_FILE, OPTIMIZER_FILE, STATE_FILE, COMPLETE_FILE, "config.json"] {
            let folder = tempfile::tempdir().unwrap();
            let path = save_step(folder.path(), 1, 1.0);
            let file = path.join(name);
            let bytes = fs::read(&file).unwrap();
            fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
            let error = load(&path).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
            // The last flips a bit of a tensor, a digit or a brace.
            for bit in [0, bytes.len() * 4 + 1, bytes.len() * 8 - 15] {
                let mut spoilt = bytes.clone();
                spoilt[bit / 8] ^= 1 << (bit % 8);
                fs::write(&file, spoilt).unwrap();
                let error = load(&path).unwrap_err();
                assert!(matches!(error, Error::BadCheckpoint { .. }), "{name} {bit}: {error}");
            }
            fs::write(&file, &bytes).unwrap();
            load(&path).unwrap();
            fs::remove_file(&file).unwrap();
            let error = load(&path).unwrap_err();
            let expected = if name == COMPLETE_FILE { "no complete checkpoint" } else { "missing" };
            assert!(error.to_string().contains(expected), "{error}");
        }
    }

    /// Files of the same size from the neighbouring checkpoint, one, several, or all of them.
    #[test]
    fn files_of_another_checkpoint_are_not_accepted() {
        let names = [MODEL_FILE, OPTIMIZER_FILE, STATE_FILE, COMPLETE_FILE];
        for mask in 1..1 << names.len() {
            let folder = tempfile::tempdir().unwrap();
            let (own, other) = (save_step(folder.path(), 10, 1.0), save_step(folder.path(), 12, 2.0));
            for (_, name) in names.iter().enumerate().filter(|(i, _)| mask >> i & 1 == 1) {
                fs::copy(other.join(name), own.join(name)).unwrap();
            }
            problem(&own);
            load(&other).unwrap();
        }
        let folder = tempfile::tempdir().unwrap();
        let own = save_step(folder.path(), 10, 1.0);
        let renamed = folder.path().join("step-00000012");
        fs::rename(&own, &renamed).unwrap();
        assert_eq!(problem(&renamed), "`COMPLETE` is of step 10, the folder's name of step 12");
        let copy = folder.path().join("kept");
        fs::rename(&renamed, &copy).unwrap();
        assert_eq!(load(&copy).unwrap().state.step, 10);
    }

    #[test]
    fn checkpoints_of_earlier_versions_are_read_but_a_lost_manifest_is_not_one_of_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = save_step(folder.path(), 10, 1.0);
        for content in ["", "step 10\n"] {
            fs::write(path.join(COMPLETE_FILE), content).unwrap();
            assert_eq!(problem(&path), "`COMPLETE` has lost its content");
        }
        let state = fs::read_to_string(path.join(STATE_FILE)).unwrap();
        fs::write(path.join(STATE_FILE), state.replace("\"version\": 2", "\"version\": 1")).unwrap();
        for content in ["", "step 10\n"] {
            fs::write(path.join(COMPLETE_FILE), content).unwrap();
            assert_eq!(load(&path).unwrap().state.step, 10);
        }
        let renamed = folder.path().join("step-00000012");
        fs::rename(&path, &renamed).unwrap();
        assert_eq!(problem(&renamed), "`state.json` is of step 10, the folder's name of step 12");
    }

    #[cfg(unix)]
    #[test]
    fn a_manifest_leads_to_no_other_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = save_step(folder.path(), 10, 1.0);
        let manifest = fs::read_to_string(path.join(COMPLETE_FILE)).unwrap();
        fs::write(path.join(COMPLETE_FILE), manifest.replace("config.json", "../config.json")).unwrap();
        assert_eq!(problem(&path), "`COMPLETE` lists `../config.json`, which is not a plain file name");
        fs::write(path.join(COMPLETE_FILE), &manifest).unwrap();
        fs::remove_file(path.join("config.json")).unwrap();
        std::os::unix::fs::symlink("/dev/zero", path.join("config.json")).unwrap();
        assert!(problem(&path).starts_with("`config.json`: expected a file of 2 bytes"));
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig { cases: 100, ..Default::default() })]

        /// Other bytes in one place of the manifest, which are noticed, or of the state under a manifest that fits it.
        #[test]
        fn any_state_and_any_manifest_is_read_or_refused(
            at in proptest::prelude::any::<proptest::sample::Index>(),
            cut in 0usize..20,
            bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..20),
            is_manifest in proptest::prelude::any::<bool>(),
        ) {
            let folder = tempfile::tempdir().unwrap();
            let path = save_step(folder.path(), 10, 1.0);
            let file = path.join(if is_manifest { COMPLETE_FILE } else { STATE_FILE });
            let mut text = fs::read(&file).unwrap();
            let at = at.index(text.len());
            text.splice(at..text.len().min(at + cut), bytes);
            fs::write(&file, text).unwrap();
            if !is_manifest {
                manifest::write(&path, 10, &[MODEL_FILE, OPTIMIZER_FILE, "config.json", STATE_FILE]).unwrap();
            }
            if let Ok(loaded) = load(&path) {
                proptest::prop_assert_eq!(loaded.state.step, 10);
            }
        }
    }

    #[test]
    fn values_that_are_not_finite_are_not_saved() {
        let folder = tempfile::tempdir().unwrap();
        let state = state::tests::state(3);
        let error = save(folder.path(), &state, tensors(f32::NAN), tensors(0.0), &[]).unwrap_err();
        assert!(error.to_string().contains("`p`"), "{error}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
