//! The folder of a run.
//!
//! ```text
//! NAME/
//!   run.toml                     the resolved configuration, versions, git commit, device
//!   metrics.jsonl                one JSON object for each logged step and each evaluation
//!   events.out.tfevents.*        the same for TensorBoard
//!   checkpoints/step-00000100/   model.safetensors, optimizer.safetensors, state.json, COMPLETE (the manifest, written last)
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

/// The beginning of the names of files with the documents of a step whose loss or gradient was not finite.
const NON_FINITE: &str = "non-finite-step-";

/// Provenance of a run; the table `provenance` of `run.toml`.
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
    /// Device used, with its number.
    pub device: String,
    /// Threads used, by each process.
    pub threads: usize,
    /// Processes that trained it together.
    pub ranks: usize,
    /// Operating system and processor architecture.
    pub platform: String,
    /// Optimizer steps of the whole run, as planned when it was started or continued.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_steps: Option<u64>,
    /// The folder in which the run was started: relative paths of the configuration are relative to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub folder: Option<PathBuf>,
}

impl Provenance {
    /// The fields known to the library; the caller fills in the rest.
    #[must_use]
    pub fn of(device: &candle_core::Device) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").into(),
            git_commit: None,
            model_commit: None,
            total_steps: None,
            device: device_name(device),
            threads: rayon::current_num_threads(),
            ranks: 1,
            platform: format!("{}-{}", std::env::consts::OS, std::env::consts::ARCH),
            folder: std::env::current_dir().ok(),
        }
    }
}

/// The device name: `cpu`, `cuda:0`.
#[must_use]
pub fn device_name(device: &candle_core::Device) -> String {
    match device.location() {
        candle_core::DeviceLocation::Cpu => "cpu".to_owned(),
        candle_core::DeviceLocation::Cuda { gpu_id } => format!("cuda:{gpu_id}"),
        candle_core::DeviceLocation::Metal { gpu_id } => format!("metal:{gpu_id}"),
    }
}

/// An existing run folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunFolder {
    root: PathBuf,
}

impl RunFolder {
    /// Creates a run folder. An existing one must be empty, except for leftovers of a run that was killed before it had a
    /// `run.toml`.
    ///
    /// # Errors
    /// [`Error::OutputNotEmpty`], [`Error::Io`].
    pub fn create(root: &Path) -> Result<Self> {
        Self::require_free(root)?;
        fs::create_dir_all(root).map_err(Error::io("create", root))?;
        Ok(Self { root: root.into() })
    }

    /// Checks that [`Self::create`] may use `root`, without changing anything.
    ///
    /// # Errors
    /// [`Error::OutputNotEmpty`], [`Error::Io`].
    pub fn require_free(root: &Path) -> Result<()> {
        // Leftovers of a killed run are removed or reused once the folder is locked.
        match first_entry(root, |path, name| !is_leftover(path, name))? {
            Some(found) => {
                let is_run = Self::require_run(root).is_ok();
                Err(Error::OutputNotEmpty { path: root.into(), found, is_run })
            }
            None => Ok(()),
        }
    }

    /// Checks that [`Self::open_or_create`] may use `root`, without changing anything: it has a `run.toml`, or nothing but what a run writes
    /// (one that was killed before its `run.toml`, or has lost it), or does not exist.
    ///
    /// # Errors
    /// [`Error::NotARun`], [`Error::Io`].
    pub fn require_run(root: &Path) -> Result<()> {
        if root.join("run.toml").is_file() {
            return Ok(());
        }
        match first_entry(root, |_, name| !is_own(name))? {
            Some(found) => Err(Error::NotARun { path: root.into(), found }),
            None => Ok(()),
        }
    }

    /// Opens the folder of an earlier run to continue it, or creates an absent one.
    ///
    /// # Errors
    /// As [`Self::require_run`].
    pub fn open_or_create(root: &Path) -> Result<Self> {
        Self::require_run(root)?;
        fs::create_dir_all(root).map_err(Error::io("create", root))?;
        Ok(Self { root: root.into() })
    }

    /// A run folder that rank 0 of a run opens or creates, for the other ranks, which do not write to it.
    pub(crate) fn of_first_rank(root: &Path) -> Self {
        Self { root: root.into() }
    }

    /// Whether a run has written to it.
    pub(crate) fn is_in_use(&self) -> Result<bool> {
        Ok(first_entry(&self.root, |path, name| !is_leftover(path, name))?.is_some())
    }

    /// Writes `run.toml`: the configuration, in the format of [`TrainConfig::from_toml_file`], and the provenance.
    ///
    /// # Errors
    /// [`Error::Config`] if a value cannot be written as TOML, [`Error::Io`].
    pub fn write_run_toml(&self, config: &TrainConfig, provenance: &Provenance) -> Result<()> {
        let table = toml::to_string(provenance)
            .map_err(|e| Error::config(format!("cannot write the provenance as TOML: {e}")))?;
        let text = format!("{}\n[{}]\n{table}", config.to_toml()?, crate::config::PROVENANCE);
        Ok(write_atomic(&self.run_toml(), text.as_bytes())?)
    }

    /// Removes incomplete files of a killed run from the run folder and its checkpoints. A model folder that was moved aside and never replaced
    /// is moved back. Only for the process that holds the lock on the run folder.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn clean_up(&self) -> Result<()> {
        leftovers::remove(&self.root, &is_entry)?;
        checkpoint::clean_up(&self.checkpoints())
    }

    /// Locks the run folder for writing until the result is dropped or the process ends, however it ends.
    ///
    /// The lock is on the folder itself, so no lock file is left. On a file system without locks there is only a warning.
    ///
    /// # Errors
    /// [`Error::RunInUse`] if another process (or this one) holds it; [`Error::Io`].
    pub fn lock(&self) -> Result<RunLock> {
        #[cfg(unix)]
        {
            let folder = File::open(&self.root).map_err(Error::io("read", &self.root))?;
            match folder.try_lock() {
                Ok(()) => {}
                Err(fs::TryLockError::WouldBlock) => return Err(Error::RunInUse { path: self.root.clone() }),
                Err(fs::TryLockError::Error(error)) => {
                    tracing::warn!(
                        "cannot lock `{}`, so other runs could write to it too: {error}",
                        self.root.display()
                    );
                }
            }
            Ok(RunLock { root: self.root.clone(), folder: Some(folder) })
        }
        // On other systems folders cannot be opened as files.
        #[cfg(not(unix))]
        Ok(RunLock { root: self.root.clone(), folder: None })
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

    /// `non-finite-step-00000100.jsonl`, the documents of a step whose loss or gradient was not finite.
    #[must_use]
    pub fn non_finite(&self, step: u64) -> PathBuf {
        self.root.join(format!("{NON_FINITE}{step:08}.jsonl"))
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

/// The lock on a run folder; see [`RunFolder::lock`].
#[derive(Debug)]
pub struct RunLock {
    root: PathBuf,
    folder: Option<File>,
}

impl RunLock {
    /// Checks that the folder is still the one that was locked: otherwise writes would go to a new folder of the same name, or to files that
    /// nobody can see.
    ///
    /// # Errors
    /// [`Error::RunFolderGone`], [`Error::Io`].
    pub fn require_folder(&self) -> Result<()> {
        let gone = || Error::RunFolderGone { path: self.root.clone() };
        let now = match fs::metadata(&self.root) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(gone()),
            other => other.map_err(Error::io("read", &self.root))?,
        };
        match &self.folder {
            Some(folder) => {
                let own = folder.metadata().map_err(Error::io("read", &self.root))?;
                if is_same(&own, &now) { Ok(()) } else { Err(gone()) }
            }
            None => Ok(()),
        }
    }
}

#[cfg(unix)]
fn is_same(a: &fs::Metadata, b: &fs::Metadata) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

#[cfg(not(unix))]
fn is_same(_: &fs::Metadata, _: &fs::Metadata) -> bool {
    true
}

/// The name of the first entry of a folder for which `is_wanted`; an absent folder is treated as empty.
fn first_entry(root: &Path, is_wanted: impl Fn(&Path, &str) -> bool) -> Result<Option<String>> {
    if !root.exists() {
        return Ok(None);
    }
    for entry in fs::read_dir(root).map_err(Error::io("read", root))? {
        let path = entry.map_err(Error::io("read", root))?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if is_wanted(&path, &name) {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// Whether this is the name of something that a run writes, complete or not.
fn is_own(name: &str) -> bool {
    name == "checkpoints" || is_entry(Temporary::of(name).map_or(name, |temporary| temporary.target))
}

/// Whether this is the name of a run folder's entry that is written under a temporary name.
fn is_entry(name: &str) -> bool {
    ["best", "final", "run.toml", "metrics.jsonl"].contains(&name)
        || name.starts_with("events.out.tfevents.")
        || name.starts_with(NON_FINITE)
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
        assert_eq!(error.hint().unwrap(), "choose another `config.out`", "there is no run to resume");
        let error = RunFolder::open_or_create(folder.path()).unwrap_err();
        assert!(matches!(&error, Error::NotARun { found, .. } if found == "thesis.tex"), "{error}");
        assert!(!error.hint().unwrap().contains("resume"));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// With the names that the writing functions use.
    #[test]
    fn what_a_killed_run_left_is_removed_and_an_orphan_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunFolder::create(folder.path()).unwrap();
        let aside = |path: &Path| temporary_beside(path).with_extension("old.tmp");
        // The names used by earlier versions.
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
        // The one that was moved aside is back; whether it is a checkpoint is found out when it is read.
        assert_eq!(names(&run.checkpoints()), [".step-1.tmp", "step-00000010"]);
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
        // A log with lines is a run's, which can be continued, but not begun anew.
        fs::write(folder.path().join("metrics.jsonl"), "{}\n").unwrap();
        let error = RunFolder::create(folder.path()).unwrap_err();
        assert!(error.hint().unwrap().contains("config.resume = auto"));
        RunFolder::open_or_create(folder.path()).unwrap();
    }

    #[test]
    fn a_run_that_lost_its_run_toml_can_be_continued() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["metrics.jsonl", "events.out.tfevents.1.mixce", "non-finite-step-00000003.jsonl"] {
            fs::write(folder.path().join(name), "x\n").unwrap();
        }
        fs::create_dir(folder.path().join("checkpoints")).unwrap();
        RunFolder::open_or_create(folder.path()).unwrap();
        fs::write(folder.path().join("thesis.tex"), "dear").unwrap();
        assert!(matches!(RunFolder::open_or_create(folder.path()), Err(Error::NotARun { .. })));
        fs::write(folder.path().join("run.toml"), "").unwrap();
        RunFolder::open_or_create(folder.path()).unwrap();
    }

    #[cfg(unix)]
    #[test]
    fn a_folder_that_was_deleted_or_replaced_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunFolder::create(&folder.path().join("run")).unwrap();
        let lock = run.lock().unwrap();
        lock.require_folder().unwrap();
        fs::rename(run.root(), folder.path().join("moved")).unwrap();
        assert!(matches!(lock.require_folder(), Err(Error::RunFolderGone { .. })));
        fs::create_dir(run.root()).unwrap();
        assert!(matches!(lock.require_folder(), Err(Error::RunFolderGone { .. })));
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
