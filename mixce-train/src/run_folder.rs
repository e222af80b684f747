//! The folder of a run.
//!
//! ```text
//! NAME/
//!   run.toml                     the resolved configuration, versions, git commit, device
//!   metrics.jsonl                one JSON object for each logged step and each evaluation
//!   events.out.tfevents.*        the same for TensorBoard
//!   checkpoints/step-00000100/   model.safetensors, optimizer.safetensors, state.json, COMPLETE (written last)
//!   best/                        the best model in the Hugging Face layout
//!   final/                       the last one
//! ```
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::config::TrainConfig;
use crate::error::{Error, Result};
use crate::fsio;

/// How a run was made; the table `provenance` of `run.toml`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Provenance {
    /// Version of the program.
    pub version: String,
    /// Commit that the program was built from, if known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub git_commit: Option<String>,
    /// Commit of the model on the hub, if it came from there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_commit: Option<String>,
    /// Device that was used, spelt out.
    pub device: String,
    /// Threads that were used.
    pub threads: usize,
    /// Operating system and processor architecture.
    pub platform: String,
}

impl Provenance {
    /// What the library itself knows; the rest is the caller's to fill in.
    #[must_use]
    pub fn of(device: &candle_core::Device) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").into(),
            git_commit: None,
            model_commit: None,
            device: device_name(device),
            threads: rayon::current_num_threads(),
            platform: format!("{}-{}", std::env::consts::OS, std::env::consts::ARCH),
        }
    }
}

/// The device in words: `cpu`, `cuda:0`.
#[must_use]
pub fn device_name(device: &candle_core::Device) -> String {
    match device.location() {
        candle_core::DeviceLocation::Cpu => "cpu".to_owned(),
        candle_core::DeviceLocation::Cuda { gpu_id } => format!("cuda:{gpu_id}"),
        candle_core::DeviceLocation::Metal { gpu_id } => format!("metal:{gpu_id}"),
    }
}

/// A run folder that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunFolder {
    root: PathBuf,
}

impl RunFolder {
    /// Makes a new run folder; one that exists must be empty.
    ///
    /// # Errors
    /// [`Error::OutputNotEmpty`], [`Error::Io`].
    pub fn create(root: &Path) -> Result<Self> {
        Self::require_free(root)?;
        fs::create_dir_all(root).map_err(Error::io("create", root))?;
        Ok(Self { root: root.into() })
    }

    /// Checks that [`Self::create`] may use `root`, without touching anything.
    ///
    /// # Errors
    /// [`Error::OutputNotEmpty`], [`Error::Io`].
    pub fn require_free(root: &Path) -> Result<()> {
        if !root.exists() {
            return Ok(());
        }
        match fs::read_dir(root).map_err(Error::io("read", root))?.next() {
            None => Ok(()),
            Some(entry) => {
                let entry = entry.map_err(Error::io("read", root))?;
                Err(Error::OutputNotEmpty {
                    path: root.into(),
                    found: entry.file_name().to_string_lossy().into(),
                })
            }
        }
    }

    /// Opens the folder of an earlier run to continue it. An absent or empty one is made; one that holds other things is refused.
    ///
    /// # Errors
    /// [`Error::OutputNotEmpty`] when it holds something but no `run.toml`, [`Error::Io`].
    pub fn open_or_create(root: &Path) -> Result<Self> {
        let folder = Self { root: root.into() };
        if folder.run_toml().is_file() { Ok(folder) } else { Self::create(root) }
    }

    /// Writes `run.toml`: the configuration, readable again by [`TrainConfig::from_toml_file`], and how the run was made.
    ///
    /// # Errors
    /// [`Error::Config`] when a value has no TOML form, [`Error::Io`].
    pub fn write_run_toml(&self, config: &TrainConfig, provenance: &Provenance) -> Result<()> {
        let table = toml::to_string(provenance)
            .map_err(|e| Error::config(format!("the provenance has no TOML form: {e}")))?;
        let text = format!("{}\n[{}]\n{table}", config.to_toml()?, crate::config::PROVENANCE);
        fsio::write_bytes_atomic(&self.run_toml(), text.as_bytes())
    }

    /// Removes the temporary files and folders that a killed run left in the run folder itself. A model folder that was moved aside, and whose
    /// replacement never arrived, is moved back. Only for the one process that owns the run folder.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn clean_up(&self) -> Result<()> {
        if !self.root.is_dir() {
            return Ok(());
        }
        for entry in fs::read_dir(&self.root).map_err(Error::io("read", &self.root))? {
            let path = entry.map_err(Error::io("read", &self.root))?.path();
            let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
            let Some(target) = temporary_of(&name) else { continue };
            let target = self.root.join(target);
            if name.ends_with(".old.tmp") && !target.exists() {
                fs::rename(&path, &target).map_err(Error::io("rename", &path))?;
                continue;
            }
            tracing::info!("removing the half-written `{}`", path.display());
            let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.map_err(Error::io("remove", &path))?;
        }
        Ok(())
    }

    /// Takes the sole right to write into the run folder, which ends when the result is dropped or the process ends, however it ends.
    ///
    /// It is a lock on the folder itself, so nothing is left behind. A file system that has no locks is used without, with a warning.
    ///
    /// # Errors
    /// [`Error::RunInUse`] when another process (or this one) has it; [`Error::Io`].
    pub fn lock(&self) -> Result<RunLock> {
        #[cfg(unix)]
        {
            let folder = File::open(&self.root).map_err(Error::io("read", &self.root))?;
            match folder.try_lock() {
                Ok(()) => {}
                Err(fs::TryLockError::WouldBlock) => return Err(Error::RunInUse { path: self.root.clone() }),
                Err(fs::TryLockError::Error(error)) => {
                    tracing::warn!(
                        "cannot lock `{}`, which other runs could use too: {error}",
                        self.root.display()
                    );
                }
            }
            Ok(RunLock { _folder: Some(folder) })
        }
        // Elsewhere folders cannot be opened as files.
        #[cfg(not(unix))]
        Ok(RunLock { _folder: None })
    }

    /// The run folder itself.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// `run.toml`.
    #[must_use]
    pub fn run_toml(&self) -> PathBuf {
        self.root.join("run.toml")
    }

    /// `metrics.jsonl`.
    #[must_use]
    pub fn metrics(&self) -> PathBuf {
        self.root.join("metrics.jsonl")
    }

    /// `checkpoints`.
    #[must_use]
    pub fn checkpoints(&self) -> PathBuf {
        self.root.join("checkpoints")
    }

    /// `best`, the best model.
    #[must_use]
    pub fn best(&self) -> PathBuf {
        self.root.join("best")
    }

    /// `final`, the last model.
    #[must_use]
    pub fn last(&self) -> PathBuf {
        self.root.join("final")
    }
}

/// The sole right to write into a run folder; see [`RunFolder::lock`].
#[derive(Debug)]
pub struct RunLock {
    _folder: Option<File>,
}

/// Which entry of a run folder the temporary name `.ENTRY.ANYTHING.tmp` belongs to.
fn temporary_of(name: &str) -> Option<&'static str> {
    let rest = name.strip_prefix('.')?.trim_start_matches('.').strip_suffix(".tmp")?;
    ["best", "final", "run.toml", "metrics.jsonl"]
        .into_iter()
        .find(|entry| rest.strip_prefix(entry).is_some_and(|rest| rest.starts_with('.')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_in_use_is_refused_and_untouched() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("thesis.tex"), "dear").unwrap();
        let error = RunFolder::create(folder.path()).unwrap_err();
        assert!(error.to_string().contains("`thesis.tex`"), "{error}");
        assert!(error.hint().unwrap().contains("--resume"));
        assert!(RunFolder::open_or_create(folder.path()).is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_a_killed_run_left_is_removed_and_an_orphan_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunFolder::create(folder.path()).unwrap();
        for name in
            [".best.7-0.tmp", ".final.7-1.old.tmp", ".best.7-2.old.tmp", "final", "best.tmp", ".mine.tmp"]
        {
            fs::create_dir(folder.path().join(name)).unwrap();
            fs::write(folder.path().join(name).join("from"), name).unwrap();
        }
        fs::write(folder.path().join(".run.toml.7-3.tmp"), "half").unwrap();
        run.clean_up().unwrap();
        let mut left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, [".mine.tmp", "best", "best.tmp", "final"]);
        assert_eq!(fs::read_to_string(run.best().join("from")).unwrap(), ".best.7-2.old.tmp");
        assert_eq!(fs::read_to_string(run.last().join("from")).unwrap(), "final");
    }

    #[cfg(unix)]
    #[test]
    fn a_run_folder_has_one_writer_and_the_lock_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunFolder::create(folder.path()).unwrap();
        let lock = run.lock().unwrap();
        let error = run.lock().unwrap_err();
        assert!(matches!(error, Error::RunInUse { .. }) && error.hint().is_some(), "{error}");
        drop(lock);
        drop(run.lock().unwrap());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn run_toml_repeats_the_run() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunFolder::create(&folder.path().join("a/b")).unwrap();
        let config = TrainConfig { eta: Some(0.3), ..TrainConfig::default() };
        let provenance =
            Provenance { git_commit: Some("abc".into()), ..Provenance::of(&candle_core::Device::Cpu) };
        run.write_run_toml(&config, &provenance).unwrap();
        assert_eq!(TrainConfig::from_toml_file(&run.run_toml()).unwrap(), config);
        let text = fs::read_to_string(run.run_toml()).unwrap();
        assert!(text.contains("git_commit = \"abc\"") && text.contains("device = \"cpu\""), "{text}");
        assert_eq!(RunFolder::open_or_create(run.root()).unwrap(), run);
    }
}
