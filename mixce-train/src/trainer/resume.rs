//! Continuing from a checkpoint.
use std::fs;
use std::path::{Path, PathBuf};

use super::Trainer;
use super::persist::Chosen;
use crate::checkpoint::{self, Loaded, STATE_FILE};
use crate::data::Position;
use crate::distributed::lead;
use crate::error::{Error, Result};
use crate::run_folder::RunFolder;

/// Refuses a checkpoint of another run for a folder that a run has already written to: its checkpoints and metrics would be replaced.
pub(super) fn require_own(resume: &str, run: &RunFolder) -> Result<()> {
    if resume == "auto" || !run.is_in_use()? {
        return Ok(());
    }
    let real = |path: &Path| fs::canonicalize(path).map_err(Error::io("read", path));
    let checkpoint = Path::new(resume);
    // An absent one is reported when it is looked for.
    if checkpoint.exists() && !real(checkpoint)?.starts_with(real(run.root())?) {
        return Err(Error::OtherRun { checkpoint: checkpoint.into(), run: run.root().into() });
    }
    Ok(())
}

impl Trainer<'_> {
    /// Continues on every rank from the checkpoint that rank 0 chooses.
    pub(super) fn resume_ranks(&mut self, run: &RunFolder, resume: &str) -> Result<()> {
        let ranks = self.ranks.clone();
        let chosen = lead(&*ranks, || self.resume(run, resume))?.flatten();
        if ranks.size() == 1 {
            return Ok(());
        }
        let path = chosen.unwrap_or_default().into_os_string().into_string();
        let path =
            path.map_err(|path| Error::config(format!("checkpoint {path:?}: expected a name in UTF-8")))?;
        let path = String::from_utf8_lossy(&ranks.broadcast(path.into_bytes())?).into_owned();
        if ranks.rank() > 0 && !path.is_empty() {
            let path = Path::new(&path);
            self.restore(run, path, checkpoint::load(path)?)?;
        }
        self.require_same_weights()
    }

    /// Continues from the newest checkpoint of `resume` that is as it was written; with `auto`, from the beginning if there is none. Folders
    /// that are not understood are set aside, nothing of the run is changed before a checkpoint has been accepted. Returns the checkpoint.
    fn resume(&mut self, run: &RunFolder, resume: &str) -> Result<Option<PathBuf>> {
        let found = checkpoint::candidates(resume, run.root())?;
        let mut problems: Vec<(PathBuf, String)> = Vec::new();
        for path in &found.checkpoints {
            match checkpoint::load(path) {
                Ok(loaded) => {
                    self.restore(run, path, loaded)?;
                    if !problems.is_empty() {
                        tracing::warn!("continuing from the older checkpoint `{}`", path.display());
                    }
                    problems.extend(found.others);
                    set_aside(&run.checkpoints(), &problems)?;
                    checkpoint::remove_above(&run.checkpoints(), self.state.step)?;
                    return Ok(Some(path.clone()));
                }
                // One that was asked for by its path has no substitute.
                Err(Error::BadCheckpoint { problem, .. }) if path != Path::new(resume) => {
                    problems.push((path.clone(), format!("is damaged ({problem})")));
                }
                Err(error) => return Err(error),
            }
        }
        problems.extend(found.others);
        if !problems.is_empty() {
            let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let listed: Vec<String> =
                problems.iter().map(|(path, problem)| format!("`{}` {problem}", name(path))).collect();
            let path = problems[0].0.parent().unwrap_or(run.root()).into();
            return Err(Error::NoUsableCheckpoint { path, problems: listed.join("; ") });
        }
        if run.last().exists() {
            return Err(Error::OnlyFinal { path: run.root().into() });
        }
        tracing::info!("`config.resume = auto`: no checkpoint yet, starting from the beginning");
        Ok(None)
    }

    /// Restores a checkpoint, after checking that it belongs to this run.
    fn restore(&mut self, run: &RunFolder, path: &Path, loaded: Loaded) -> Result<()> {
        let Loaded { state, parameters, optimizer } = loaded;
        state.require_same_run(path, &self.config, &self.state.train_fingerprint)?;
        checkpoint::require_same_architecture(path, &**self.step.model.config())?;
        let bad = |problem| Error::BadCheckpoint { path: path.into(), problem };
        // With the same data and batch size, the position follows from the step.
        let position = self.batcher.position_of(state.step);
        if state.position != position {
            let Position { epoch, step_in_epoch } = state.position;
            return Err(bad(format!(
                "after step {} the data continue in epoch {} at step {}, but its `{STATE_FILE}` says epoch {epoch}, step {step_in_epoch}",
                state.step, position.epoch, position.step_in_epoch
            )));
        }
        self.step.variables.load(parameters).map_err(bad)?;
        self.step.optimizer.load_state(optimizer, state.step)?;
        let planned = self.state.total_steps;
        if state.total_steps != planned {
            tracing::warn!(
                "the run was planned for {} steps and is now for {planned}: the learning rate follows the new schedule",
                state.total_steps
            );
        }
        self.step.restore_norms(&state.grad_norms);
        let own = std::mem::replace(&mut self.state, state);
        self.state.version = own.version;
        self.state.total_steps = planned;
        self.state.config = own.config;
        self.state.train_fingerprint = own.train_fingerprint;
        let valid = std::mem::replace(&mut self.state.valid_fingerprint, own.valid_fingerprint);
        self.restore_best(run, valid.as_deref());
        Ok(())
    }

    /// The best model is kept only if it was selected on the same development tokens (`valid` is their previous digest) and its folder, which
    /// may have moved with the run, contains it: after a kill, or after resuming from an older checkpoint, the folder may have a later model.
    fn restore_best(&mut self, run: &RunFolder, valid: Option<&str>) {
        let Some(best) = &mut self.state.best else { return };
        best.path = run.best();
        let folder = best.path.display();
        let are_same = match (valid, self.state.valid_fingerprint.as_deref()) {
            (Some(old), Some(new)) => checkpoint::are_same_tokens(old, new),
            (old, new) => old == new,
        };
        if !are_same {
            tracing::warn!("the development tokens have changed: the best model is selected anew");
        } else if !best.path.is_dir() {
            tracing::warn!("`{folder}` is missing: the best model is selected anew");
        } else if Chosen::read(&best.path) != Some(Chosen::of(best)) {
            tracing::warn!(
                "`{folder}` does not contain the model of step {}: the best model is selected anew",
                best.step
            );
        } else {
            return;
        }
        self.state.best = None;
        self.state.evaluations_without_improvement = 0;
        // Without a remaining step there is no further evaluation.
        self.state.evaluation_due |= self.job.valid.is_some() && self.state.step >= self.state.total_steps;
    }
}

/// Sets aside those folders of the run's own checkpoints whose names new checkpoints need.
fn set_aside(checkpoints: &Path, problems: &[(PathBuf, String)]) -> Result<()> {
    let real = |path: Option<&Path>| path.and_then(|path| fs::canonicalize(path).ok());
    let own = real(Some(checkpoints));
    for (path, problem) in problems {
        if own.is_some() && real(path.parent()) == own && checkpoint::is_own_name(path) {
            checkpoint::set_aside(path, problem)?;
        } else {
            tracing::warn!("`{}` {problem}: it is not used", path.display());
        }
    }
    Ok(())
}
