//! The state of a run except tensors.
use std::path::Path;

use mixce_lm::{ModelConfig, config};
use serde::{Deserialize, Serialize};

use crate::config::TrainConfig;
use crate::data::Position;
use crate::error::{Error, Result};
use crate::observer::BestModel;

/// Version of `state.json`; a file of a later version is refused. Since version 2, `COMPLETE` is a manifest.
pub const STATE_VERSION: u32 = 2;

/// The state needed to resume a run exactly.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainState {
    /// [`STATE_VERSION`].
    pub version: u32,
    /// Optimizer steps done.
    pub step: u64,
    /// Position of the next step in the data.
    pub position: Position,
    /// The best model so far.
    pub best: Option<BestModel>,
    /// Consecutive evaluations without improvement.
    pub evaluations_without_improvement: u64,
    /// Whether the evaluation that is due after `step` was not finished (the run was interrupted in it).
    pub evaluation_due: bool,
    /// Gradient norms of the last steps, the oldest first, if `config.skip_outlier_steps` is set.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub grad_norms: Vec<f64>,
    /// Digest of the training tokens.
    pub train_fingerprint: String,
    /// Digest of the development tokens, if there are any.
    pub valid_fingerprint: Option<String>,
    /// Optimizer steps of the whole run, as planned.
    pub total_steps: u64,
    /// The resolved configuration.
    pub config: TrainConfig,
}

/// Settings that affect a run's results. Epochs and steps affect the schedule too, but may be extended.
const DECISIVE: &[&str] = &[
    "objective",
    "eta",
    "gamma",
    "min_weight",
    "alpha",
    "batch_size",
    "grad_accum",
    "max_length",
    "block_size",
    "confine_attention",
    "add_bos",
    "no_shuffle",
    "lr",
    "scheduler",
    "warmup_steps",
    "weight_decay",
    "clip_grad_norm",
    "skip_outlier_steps",
    "betas",
    "adam_epsilon",
    "dropout",
    "precision",
    "grad_reduce_dtype",
    "seed",
];

impl TrainState {
    /// Reads `state.json`.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::BadCheckpoint`] when it is missing, damaged or of a later version.
    pub fn read(path: &Path) -> Result<Self> {
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let bad = |problem: String| Error::BadCheckpoint {
            path: path.parent().unwrap_or(path).into(),
            problem: format!("`{}`: {problem}", path.file_name().unwrap_or_default().to_string_lossy()),
        };
        let bytes = match std::fs::read(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(bad("it is missing".into()));
            }
            other => other.map_err(Error::io("read", path))?,
        };
        let Version { version } = serde_json::from_slice(&bytes).map_err(|e| bad(e.to_string()))?;
        if !(1..=STATE_VERSION).contains(&version) {
            return Err(bad(format!("expected version 1 to {STATE_VERSION}, got {version}")));
        }
        serde_json::from_slice(&bytes).map_err(|e| bad(e.to_string()))
    }

    /// Checks that a run with `config` on these data continues this one. Both configurations must be resolved.
    ///
    /// # Errors
    /// [`Error::ResumeMismatch`] with every setting that differs and both its values.
    pub fn require_same_run(&self, checkpoint: &Path, config: &TrainConfig, fingerprint: &str) -> Result<()> {
        let as_json = |config: &TrainConfig| serde_json::to_value(config).unwrap_or_default();
        let mut differences = differences(DECISIVE, &as_json(&self.config), &as_json(config));
        if !are_same_tokens(&self.train_fingerprint, fingerprint) {
            differences.push("the training tokens have changed".into());
        }
        refuse(checkpoint, &differences)
    }
}

/// Whether two fingerprints may belong to the same tokens. Fingerprints of versions that read files differently cannot be compared, and are
/// assumed equal, with a warning.
pub(crate) fn are_same_tokens(old: &str, new: &str) -> bool {
    let version = |fingerprint: &str| fingerprint.split_once('-').map(|(version, _)| version.to_owned());
    if version(old) == version(new) {
        return old == new;
    }
    tracing::warn!(
        "the checkpoint is from another version of the program, whose data fingerprints cannot be compared: the tokens are assumed to be the same"
    );
    true
}

/// Checks that `model` has the architecture of the model in a checkpoint, dropout rates and epsilon included.
///
/// # Errors
/// [`Error::ResumeMismatch`] with every key that differs and both its values; a `config.json` that cannot be read.
pub fn require_same_architecture(checkpoint: &Path, model: &dyn ModelConfig) -> Result<()> {
    let old = config::from_file(&checkpoint.join("config.json"), &[model.family()])?.decisive_keys();
    let new = model.decisive_keys();
    let mut keys: Vec<&str> = new.keys().chain(old.keys()).map(String::as_str).collect();
    keys.sort_unstable();
    keys.dedup();
    refuse(checkpoint, &differences(&keys, &old.clone().into(), &new.clone().into()))
}

/// The keys whose values are not the same, with both values.
fn differences(keys: &[&str], old: &serde_json::Value, new: &serde_json::Value) -> Vec<String> {
    let shown = |value: Option<&serde_json::Value>| value.map_or("unset".to_owned(), ToString::to_string);
    keys.iter()
        .filter(|key| old.get(key) != new.get(key))
        .map(|key| format!("`{key}` was {} and is {} now", shown(old.get(key)), shown(new.get(key))))
        .collect()
}

fn refuse(checkpoint: &Path, differences: &[String]) -> Result<()> {
    if differences.is_empty() {
        return Ok(());
    }
    Err(Error::ResumeMismatch { path: checkpoint.into(), differences: differences.join("; ") })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::checkpoint) fn state(step: u64) -> TrainState {
        TrainState {
            version: STATE_VERSION,
            step,
            position: Position { epoch: 1, step_in_epoch: 3 },
            best: Some(BestModel {
                step: 50,
                valid_nll: 0.1 + 0.2,
                valid_loss: 0.25,
                valid_mauve: Some(0.5),
                path: "best".into(),
            }),
            evaluations_without_improvement: 1,
            evaluation_due: false,
            grad_norms: Vec::new(),
            train_fingerprint: "abc".into(),
            valid_fingerprint: None,
            total_steps: 500,
            config: TrainConfig { lr: 1e-4, ..TrainConfig::default() },
        }
    }

    #[test]
    fn another_version_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.json");
        std::fs::write(&path, br#"{"version":99}"#).unwrap();
        let error = TrainState::read(&path).unwrap_err().to_string();
        assert!(error.contains("expected version 1 to 2, got 99"), "{error}");
    }

    #[test]
    fn differences_are_listed_with_both_values() {
        let state = state(1);
        let longer = TrainConfig { epochs: 9, log_every: 3, ..state.config.clone() };
        state.require_same_run(Path::new("c"), &longer, "abc").unwrap();
        let other = TrainConfig { lr: 1e-3, eta: Some(0.5), ..state.config.clone() };
        let error = state.require_same_run(Path::new("c"), &other, "xyz").unwrap_err().to_string();
        for words in ["`lr` was 0.0001 and is 0.001 now", "`eta` was unset and is 0.5", "training tokens"] {
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn decisive_settings_exist() {
        assert!(DECISIVE.iter().all(|key| TrainConfig::keys().contains(key)));
    }
}
