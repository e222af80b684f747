//! Copies a checkpoint out of the cache.

use std::{fs, io, path::Path};

use mixce_base::files::temporary_beside;

use crate::{
    Snapshot,
    cache::create_parent,
    error::{Error, Result},
};

/// Refuses a non-empty folder, and a path that is not a folder.
pub(crate) fn check_empty(folder: &Path) -> Result<()> {
    match fs::read_dir(folder) {
        Ok(mut entries) => match entries.next() {
            None => Ok(()),
            Some(_) => Err(Error::FolderNotEmpty { path: folder.to_owned() }),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::io("use as the output folder", folder)(error)),
    }
}

/// Copies the snapshot's files to a hidden folder within `folder`, and moves them up when all are there.
///
/// After a failure to copy, `folder` is as it was.
pub(crate) fn copy(snapshot: &Snapshot, folder: &Path) -> Result<()> {
    check_empty(folder)?;
    let existed = folder.is_dir();
    fs::create_dir_all(folder).map_err(Error::io("create the folder", folder))?;
    let staging = temporary_beside(&folder.join("download"));
    if let Err(error) = copy_files(snapshot, &staging) {
        // The first error is reported.
        let _ = fs::remove_dir_all(&staging);
        if !existed {
            let _ = fs::remove_dir(folder);
        }
        return Err(error);
    }
    let entries = fs::read_dir(&staging).map_err(Error::io("read", &staging))?;
    for entry in entries {
        let entry = entry.map_err(Error::io("read", &staging))?;
        let target = folder.join(entry.file_name());
        fs::rename(entry.path(), &target).map_err(Error::io("write", &target))?;
    }
    fs::remove_dir(&staging).map_err(Error::io("remove", &staging))
}

fn copy_files(snapshot: &Snapshot, staging: &Path) -> Result<()> {
    for file in &snapshot.files {
        let target = staging.join(file);
        create_parent(&target)?;
        let source = snapshot.path.join(file);
        let mut bytes = fs::File::open(&source).map_err(Error::io("open", &source))?;
        let mut copy = fs::File::create(&target).map_err(Error::io("create", &target))?;
        io::copy(&mut bytes, &mut copy).map_err(Error::io("copy to", &target))?;
        copy.sync_all().map_err(Error::io("write", &target))?;
    }
    Ok(())
}
