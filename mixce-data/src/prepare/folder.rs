//! The data files below a folder.
use std::collections::HashSet;
use std::path::{Path, PathBuf};

use super::files::{SourceFile, Unused, not_data, passed_over};
use crate::error::{Error, Result};

/// The data files below `root`, by name, and what was passed over. Links are followed, into each folder once.
pub(super) fn walk(root: &Path) -> Result<(Vec<SourceFile>, Vec<Unused>)> {
    let mut walk = Walk { root, files: Vec::new(), unused: Vec::new(), seen: HashSet::new() };
    walk.enter(root)?;
    walk.files.sort();
    walk.unused.sort();
    Ok((walk.files, walk.unused))
}

struct Walk<'a> {
    root: &'a Path,
    files: Vec<SourceFile>,
    unused: Vec<Unused>,
    seen: HashSet<PathBuf>,
}

impl Walk<'_> {
    fn enter(&mut self, folder: &Path) -> Result<()> {
        if !self.seen.insert(folder.canonicalize().map_err(Error::io("read", folder))?) {
            self.pass_over(folder, Unused::SEEN);
            return Ok(());
        }
        let entries = std::fs::read_dir(folder).map_err(Error::io("read", folder))?;
        let paths = entries.map(|entry| entry.map(|entry| entry.path()).map_err(Error::io("read", folder)));
        let mut paths: Vec<PathBuf> = paths.collect::<Result<_>>()?;
        paths.sort();
        for path in paths {
            let own = Path::new(path.file_name().unwrap_or_default());
            if let Some(reason) = passed_over(own) {
                self.pass_over(&path, reason);
            } else if path.is_dir() {
                self.enter(&path)?;
            } else if !path.is_file() {
                self.pass_over(&path, Unused::NOT_A_FILE);
            } else if let Some(reason) = not_data(own) {
                self.pass_over(&path, reason);
            } else {
                self.files.push(SourceFile { name: self.name(&path), path });
            }
        }
        Ok(())
    }

    fn name(&self, path: &Path) -> PathBuf {
        path.strip_prefix(self.root).unwrap_or(path).to_owned()
    }

    fn pass_over(&mut self, path: &Path, reason: &'static str) {
        self.unused.push(Unused::new(self.name(path), reason));
    }
}
