//! Resolves relative paths in a `run.toml` that is read from another folder than the one in which the run was started.
use std::path::{Component, Path, PathBuf};

use mixce_data::input::STDIN;

use super::load::{PROVENANCE, read_text};
use super::{DataFiles, TrainConfig};
use crate::error::Result;

impl TrainConfig {
    /// As [`Self::from_toml_file`], but relative paths in a `run.toml` inside its run folder refer to the same files whatever the working
    /// directory: `/a/runs/x/run.toml` with `out = "runs/x"` belongs to a run started in `/a`, so its paths are relative to `/a`. A project can
    /// thus be moved as a whole.
    ///
    /// # Errors
    /// As [`Self::from_toml_file`].
    pub fn from_run_toml(path: &Path) -> Result<Self> {
        let text = read_text(path)?;
        let mut config = Self::from_toml_str(&text, path)?;
        let here = std::env::current_dir().ok();
        if let Some(base) = provenance(&text).and_then(|_| started_in(path, config.out.as_deref()?))
            && here.as_ref().is_none_or(|here| !same_folder(here, &base))
        {
            tracing::warn!(
                "relative paths in `{}` are relative to `{}`, in which the run was started",
                path.display(),
                base.display()
            );
            config.take_paths_from(&base);
        }
        Ok(config)
    }

    /// The folder in which the run of a `run.toml` was started; `None` for other files and those of earlier versions.
    ///
    /// # Errors
    /// [`crate::Error::Io`].
    pub fn recorded_folder(path: &Path) -> Result<Option<PathBuf>> {
        let folder =
            provenance(&read_text(path)?).and_then(|table| Some(table.get("folder")?.as_str()?.into()));
        Ok(folder)
    }

    fn take_paths_from(&mut self, base: &Path) {
        for path in [&mut self.from_config, &mut self.out, &mut self.cache_dir].into_iter().flatten() {
            *path = base.join(&*path);
        }
        for DataFiles(files) in [&mut self.train, &mut self.valid].into_iter().flatten() {
            for file in files.iter_mut().filter(|file| file.as_path() != Path::new(STDIN)) {
                *file = base.join(&*file);
            }
        }
        for name in [&mut self.model, &mut self.tokenizer, &mut self.select_featurizer].into_iter().flatten()
        {
            // If it is not a folder there, it is a hub id.
            let folder = base.join(&*name);
            if folder.exists() {
                *name = folder.to_string_lossy().into_owned();
            }
        }
    }
}

fn provenance(text: &str) -> Option<toml::Table> {
    let mut table: toml::Table = toml::from_str(text).ok()?;
    match table.remove(PROVENANCE) {
        Some(toml::Value::Table(provenance)) => Some(provenance),
        _ => None,
    }
}

/// The folder in which the run of the `run.toml` at `path` was started, if the relative path `out` leads from it to `path`.
fn started_in(path: &Path, out: &Path) -> Option<PathBuf> {
    let mut parts = PathBuf::new();
    for part in out.components() {
        match part {
            Component::Normal(part) => parts.push(part),
            Component::CurDir => {}
            Component::RootDir | Component::Prefix(_) | Component::ParentDir => return None,
        }
    }
    let absolute = std::path::absolute(path).ok()?;
    let run = absolute.parent()?;
    if absolute.file_name()? != "run.toml" || !run.ends_with(&parts) {
        return None;
    }
    let base = run.ancestors().nth(parts.components().count())?;
    // Without the `..` components of the given path.
    Some(base.canonicalize().unwrap_or_else(|_| base.to_owned()))
}

fn same_folder(a: &Path, b: &Path) -> bool {
    a == b || a.canonicalize().is_ok_and(|a| b.canonicalize().is_ok_and(|b| a == b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(root: &Path, text: &str) -> TrainConfig {
        let path = root.join("runs/x/run.toml");
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        TrainConfig::from_run_toml(&path).unwrap()
    }

    #[test]
    fn relative_paths_are_those_of_the_folder_above_the_run() {
        let root = tempfile::tempdir().unwrap();
        let root = &root.path().canonicalize().unwrap();
        std::fs::create_dir(root.join("model")).unwrap();
        let text = "model = \"model\"\ntokenizer = \"openai-community/gpt2\"\ntrain = [\"a.txt\", \"b/*.txt\", \"-\"]\n\
                    valid = \"/elsewhere/v.txt\"\ncache_dir = \"cache\"\nout = \"./runs/x\"\n[provenance]\nversion = \"0\"\n";
        let config = read(root, text);
        assert_eq!(config.model.as_deref(), root.join("model").to_str());
        assert_eq!(config.tokenizer.as_deref(), Some("openai-community/gpt2"));
        assert_eq!(config.train, Some(DataFiles(vec![root.join("a.txt"), root.join("b/*.txt"), "-".into()])));
        assert_eq!(config.valid, Some("/elsewhere/v.txt".into()));
        assert_eq!((config.cache_dir, config.out), (Some(root.join("cache")), Some(root.join("runs/x"))));
    }

    #[test]
    fn files_that_do_not_lie_in_their_run_folder_are_read_as_they_are() {
        let root = tempfile::tempdir().unwrap();
        let started = "[provenance]\nfolder = \"/there\"\n";
        for (out, provenance) in
            [("runs/x", ""), ("runs/other", started), ("../runs/x", started), ("/runs/x", started)]
        {
            let text = format!("train = \"a.txt\"\nout = \"{out}\"\n{provenance}");
            assert_eq!(read(root.path(), &text).train, Some("a.txt".into()), "{out}");
            let folder = TrainConfig::recorded_folder(&root.path().join("runs/x/run.toml")).unwrap();
            assert_eq!(folder, (!provenance.is_empty()).then(|| PathBuf::from("/there")));
        }
    }
}
