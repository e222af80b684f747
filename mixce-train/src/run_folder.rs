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

use mixce_base::files::{Temporary, write_atomic};
use serde::Serialize;

use crate::checkpoint;
use crate::config::TrainConfig;
use crate::error::{Error, Result};
use crate::leftovers;

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
    /// The folder in which the run was started: relative paths of the configuration are relative to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub folder: Option<PathBuf>,
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
            folder: std::env::current_dir().ok(),
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
    /// Makes a new run folder; one that exists must be empty, but for what a run leaves that was killed before it had a `run.toml`.
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
        for entry in fs::read_dir(root).map_err(Error::io("read", root))? {
            let path = entry.map_err(Error::io("read", root))?.path();
            let found = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            // What a killed run left is removed, or written to, once the folder is locked.
            if !is_leftover(&path, &found) {
                return Err(Error::OutputNotEmpty { path: root.into(), found });
            }
        }
        Ok(())
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
        Ok(write_atomic(&self.run_toml(), text.as_bytes())?)
    }

    /// Removes what a killed run left half-written in the run folder and among its checkpoints. A model folder that was moved aside, and whose
    /// replacement never arrived, is moved back. Only for the one process that owns the run folder.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn clean_up(&self) -> Result<()> {
        leftovers::remove(&self.root, &is_entry)?;
        checkpoint::clean_up(&self.checkpoints())
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

/// Whether a run folder has an entry of this name that is, or may be, written under a temporary one.
fn is_entry(name: &str) -> bool {
    ["best", "final", "run.toml", "metrics.jsonl"].contains(&name) || name.starts_with("events.out.tfevents.")
}

/// Whether an entry is what a run may leave that is killed before it has written `run.toml`: something half-written, or an empty log.
fn is_leftover(path: &Path, name: &str) -> bool {
    match name {
        "metrics.jsonl" => fs::metadata(path).is_ok_and(|data| data.is_file() && data.len() == 0),
        _ => Temporary::of(name).is_some_and(|temporary| is_entry(temporary.target)),
    }
}

#[cfg(test)]
mod tests {
    use mixce_base::Hint as _;
    use mixce_base::files::temporary_beside;

    use super::*;

    #[test]
    fn a_folder_in_use_is_refused_and_untouched() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("thesis.tex"), "dear").unwrap();
        let error = RunFolder::create(folder.path()).unwrap_err();
        assert!(error.to_string().contains("`thesis.tex`"), "{error}");
        assert!(error.hint().unwrap().contains("config.resume"));
        assert!(RunFolder::open_or_create(folder.path()).is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// The names are those that the writing functions make.
    #[test]
    fn what_a_killed_run_left_is_removed_and_an_orphan_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunFolder::create(folder.path()).unwrap();
        let aside = |path: &Path| temporary_beside(path).with_extension("old.tmp");
        // As earlier programs named them.
        let old = |name: &str| folder.path().join(name);
        let step = run.checkpoints().join("step-00000020");
        fs::create_dir(run.checkpoints()).unwrap();
        let orphan = aside(&run.best());
        let folders = [
            temporary_beside(&run.best()),
            old(".best.12-0.tmp"),
            old("..best.12-0.tmp.partial-12"),
            old(".final.partial-12"),
            old(".final.12-3.old.tmp"),
            aside(&run.last()),
            orphan.clone(),
            temporary_beside(&step),
            aside(&step.with_file_name("step-00000010")),
        ];
        let users =
            ["final", "best.tmp", ".mine.tmp", ".best.mine.tmp", ".mine.7-0.tmp", "checkpoints/.step-1.tmp"];
        for path in folders.iter().cloned().chain(users.map(|name| folder.path().join(name))) {
            fs::create_dir(&path).unwrap();
            fs::write(path.join("from"), path.to_str().unwrap()).unwrap();
        }
        let files = [run.run_toml(), run.metrics(), folder.path().join("events.out.tfevents.1.mixce")];
        files.iter().for_each(|path| fs::write(temporary_beside(path), "half").unwrap());
        fs::write(folder.path().join(".notes.txt.swp"), "mine").unwrap();
        run.clean_up().unwrap();
        assert_eq!(
            names(folder.path()),
            [
                ".best.mine.tmp",
                ".mine.7-0.tmp",
                ".mine.tmp",
                ".notes.txt.swp",
                "best",
                "best.tmp",
                "checkpoints",
                "final"
            ]
        );
        assert_eq!(names(&run.checkpoints()), [".step-1.tmp"]);
        assert_eq!(fs::read_to_string(run.best().join("from")).unwrap(), orphan.to_str().unwrap());
        assert!(fs::read_to_string(run.last().join("from")).unwrap().ends_with("/final"));
    }

    #[test]
    fn a_run_killed_before_its_run_toml_can_start_again() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(temporary_beside(&folder.path().join("run.toml")), "half").unwrap();
        fs::write(folder.path().join("metrics.jsonl"), "").unwrap();
        RunFolder::create(folder.path()).unwrap();
        RunFolder::open_or_create(folder.path()).unwrap().clean_up().unwrap();
        assert_eq!(names(folder.path()), ["metrics.jsonl"]);
        // A log with lines is somebody's.
        fs::write(folder.path().join("metrics.jsonl"), "{}\n").unwrap();
        assert!(RunFolder::open_or_create(folder.path()).is_err());
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
