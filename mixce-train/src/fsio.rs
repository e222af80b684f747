//! Atomic file and folder writes.
use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::Path;

pub(crate) use mixce_data::fsio::temporary_beside;

use crate::error::{Error, Result};

/// Writes `path` through a temporary file in the same folder: written, fsynced, renamed.
///
/// Two processes may do this at once: each has its own temporary file and the last rename wins.
pub(crate) fn write_atomic(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> Result<()>,
) -> Result<()> {
    let temporary = temporary_beside(path);
    let outcome = (|| {
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&temporary)
            .map_err(Error::io("create", &temporary))?;
        let mut writer = BufWriter::with_capacity(1 << 20, file);
        write(&mut writer)?;
        writer.flush().map_err(Error::io("write", &temporary))?;
        writer.get_ref().sync_all().map_err(Error::io("sync", &temporary))?;
        fs::rename(&temporary, path).map_err(Error::io("rename a file to", path))
    })();
    if outcome.is_err() {
        // The first error is reported; a leftover temporary file is harmless.
        let _ = fs::remove_file(&temporary);
    }
    outcome
}

/// [`write_atomic`] for contents already in memory.
pub(crate) fn write_bytes_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    write_atomic(path, |writer| writer.write_all(bytes).map_err(Error::io("write", path)))
}

/// Moves the folder `new` to `path`. An existing folder is moved aside first, restored if the rename fails, and removed at the end.
/// A kill between the two renames leaves the old folder as `.NAME.PID-N.old.tmp`.
pub(crate) fn replace_folder(new: &Path, path: &Path) -> Result<()> {
    let aside = path.exists().then(|| temporary_beside(path).with_extension("old.tmp"));
    if let Some(aside) = &aside {
        fs::rename(path, aside).map_err(Error::io("rename", path))?;
    }
    if let Err(error) = fs::rename(new, path) {
        if let Some(Err(back)) = aside.as_ref().map(|aside| fs::rename(aside, path)) {
            tracing::warn!("cannot move the old folder back to `{}`: {back}", path.display());
        }
        return Err(Error::io("rename a folder to", path)(error));
    }
    if let Some(aside) = &aside {
        let removed = if aside.is_dir() { fs::remove_dir_all(aside) } else { fs::remove_file(aside) };
        removed.map_err(Error::io("remove", aside))?;
    }
    Ok(())
}

/// The parts of a temporary name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Temporary<'a> {
    /// The final name.
    pub(crate) target: &'a str,
    /// Whether it is complete and was moved aside by [`replace_folder`].
    pub(crate) aside: bool,
}

impl<'a> Temporary<'a> {
    /// The names that [`temporary_beside`] (`.NAME.PID-N.tmp`), [`replace_folder`] (`.NAME.PID-N.old.tmp`) and
    /// [`mixce_lm::export::partial_beside`] (`.NAME.partial-PID`) create, also nested; `None` for any other.
    pub(crate) fn of(name: &'a str) -> Option<Self> {
        let mut found = Self::outermost(name)?;
        while let Some(inner) = Self::outermost(found.target) {
            found = Self { target: inner.target, aside: false };
        }
        Some(found)
    }

    fn outermost(name: &'a str) -> Option<Self> {
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let hidden = name.strip_prefix('.')?;
        if let Some((target, _)) = hidden.rsplit_once(".partial-").filter(|(_, pid)| is_number(pid)) {
            return Some(Self { target, aside: false });
        }
        let rest = hidden.strip_suffix(".tmp")?;
        let (rest, aside) = rest.strip_suffix(".old").map_or((rest, false), |rest| (rest, true));
        let (target, unique) = rest.rsplit_once('.')?;
        let (pid, n) = unique.split_once('-')?;
        (is_number(pid) && is_number(n)).then_some(Self { target, aside })
    }
}

/// Removes temporary entries left in `folder` by a killed process, if `is_ours`; a folder that was moved aside and never replaced is
/// moved back. Only for the process that holds the lock. An absent folder is treated as empty.
pub(crate) fn clean_up(folder: &Path, is_ours: &dyn Fn(&str) -> bool) -> Result<()> {
    if !folder.is_dir() {
        return Ok(());
    }
    for entry in fs::read_dir(folder).map_err(Error::io("read", folder))? {
        let path = entry.map_err(Error::io("read", folder))?.path();
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let Some(Temporary { target, aside }) = Temporary::of(&name).filter(|t| is_ours(t.target)) else {
            continue;
        };
        let target = folder.join(target);
        if aside && !target.exists() {
            fs::rename(&path, &target).map_err(Error::io("rename", &path))?;
            continue;
        }
        tracing::info!("removing the incomplete `{}`", path.display());
        let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.map_err(Error::io("remove", &path))?;
    }
    Ok(())
}

/// Syncs `folder`, so that a rename or creation in it survives a power failure, where the system supports it.
pub(crate) fn sync_folder(folder: &Path) -> Result<()> {
    #[cfg(unix)]
    File::open(folder).and_then(|f| f.sync_all()).map_err(Error::io("sync", folder))?;
    #[cfg(not(unix))]
    let _ = folder;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_replaced_and_comes_back_when_that_fails() {
        let root = tempfile::tempdir().unwrap();
        let (path, new) = (root.path().join("best"), root.path().join("new"));
        fs::create_dir(&path).unwrap();
        fs::write(path.join("old"), "").unwrap();
        // The new folder does not exist: the second rename fails.
        assert!(replace_folder(&new, &path).is_err());
        assert!(path.join("old").exists());
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
        fs::create_dir(&new).unwrap();
        replace_folder(&new, &path).unwrap();
        assert!(!path.join("old").exists());
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
    }

    #[test]
    fn temporary_names_are_taken_apart_and_others_are_none() {
        let export = |path: &Path| mixce_lm::export::partial_beside(path).unwrap();
        let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
        for target in ["best", "run.toml", "step-00000020", "events.out.tfevents.17.x"] {
            let path = Path::new("/runs/first").join(target);
            let own = temporary_beside(&path);
            let made =
                [&own, &export(&path), &export(&own), &temporary_beside(&export(&own))].map(|p| name(p));
            for made in &made {
                assert_eq!(Temporary::of(made), Some(Temporary { target, aside: false }), "{made}");
            }
            let aside = name(&own.with_extension("old.tmp"));
            assert_eq!(Temporary::of(&aside), Some(Temporary { target, aside: true }));
        }
        for name in [
            "best",
            "best.7-0.tmp",
            ".best.tmp",
            ".best.mine.tmp",
            ".best.7.tmp",
            ".best.7-x.tmp",
            ".best.partial",
            ".best.partial-a",
            ".partial-7",
            "run.toml.partial-7",
        ] {
            assert_eq!(Temporary::of(name), None, "{name}");
        }
    }

    #[test]
    fn a_failed_write_leaves_the_old_file_and_no_temporary() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        write_bytes_atomic(&path, b"old").unwrap();
        let failed = write_atomic(&path, |writer| {
            writer.write_all(b"half").unwrap();
            Err(Error::config("stop"))
        });
        assert!(failed.is_err());
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
