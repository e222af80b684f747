//! fairseq's `writingPrompts.tar.gz` (and others like it), unpacked.
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Component, Path, PathBuf};

use tar::EntryType;
use tempfile::TempDir;

use super::files::{SourceFile, Unused, file_name, not_data, passed_over};
use crate::error::{Error, Result};
use crate::input::{open_tar, read_error};

/// Bytes copied at a time.
const CHUNK_BYTES: usize = 1 << 18;

/// The data files of an archive, in a temporary folder that goes when this is dropped.
#[derive(Debug)]
pub(super) struct Unpacked {
    folder: TempDir,
    /// The names in messages of the files in the folder.
    shown: HashMap<PathBuf, PathBuf>,
    /// The data files; none of them has another's name.
    pub(super) files: Vec<SourceFile>,
    /// Unused members.
    pub(super) unused: Vec<Unused>,
}

impl Unpacked {
    /// The name in messages of a file in the temporary folder: the member's, after that of the archive.
    pub(super) fn shown(&self, path: &Path) -> Option<&Path> {
        self.shown.get(path).map(PathBuf::as_path)
    }
}

/// Unpacks the data files of an archive.
///
/// Each gets its own folder, so that names cannot collide on any file system; of members with the same name the last is used, as
/// by `tar`.
///
/// # Errors
/// [`Error::Archive`] for a damaged archive, a file that is not an archive, and a member whose name would lead out of a folder;
/// errors of decompression.
pub(super) fn unpack(path: &Path) -> Result<Unpacked> {
    let bad = |problem: String| Error::Archive { path: path.into(), problem };
    let unreadable = |error| match read_error(path, error) {
        Error::Io { source, .. } => bad(source.to_string()),
        compression => compression,
    };
    let folder = TempDir::new().map_err(Error::io("create a folder in", std::env::temp_dir()))?;
    let mut unpacked = Unpacked { folder, shown: HashMap::new(), files: Vec::new(), unused: Vec::new() };
    let mut by_name: HashMap<PathBuf, usize> = HashMap::new();
    let bytes = open_tar(path)?.ok_or_else(|| bad("it is not a tar archive".into()))?;
    let mut archive = tar::Archive::new(bytes);
    for (number, member) in archive.entries().map_err(unreadable)?.enumerate() {
        let mut member = member.map_err(unreadable)?;
        let kind = member.header().entry_type();
        if matches!(kind, EntryType::Directory | EntryType::XGlobalHeader) {
            continue;
        }
        let name = plain_name(&member.path().map_err(unreadable)?).map_err(bad)?;
        if let Some(reason) = passed_over(&name).or_else(|| not_data(&name)) {
            unpacked.unused.push(Unused::new(name, reason));
            continue;
        }
        let target = match kind {
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                let own = unpacked.folder.path().join(number.to_string());
                std::fs::create_dir(&own).map_err(Error::io("create", &own))?;
                let target = own.join(file_name(&name));
                copy(&mut member, &target, &unreadable)?;
                Some(target)
            }
            // `tar` stores a file with several names once.
            EntryType::Link => {
                let link = member.link_name().map_err(unreadable)?.unwrap_or_default();
                let known = plain_name(&link).ok().and_then(|link| by_name.get(&link).copied());
                known.map(|index| unpacked.files[index].path.clone())
            }
            _ => None,
        };
        let Some(target) = target else {
            unpacked.unused.push(Unused::new(name, Unused::LINK));
            continue;
        };
        match by_name.get(&name) {
            Some(&index) => {
                unpacked.files[index].path = target;
                unpacked.unused.push(Unused::new(name, Unused::REPLACED));
            }
            None => {
                by_name.insert(name.clone(), unpacked.files.len());
                unpacked.files.push(SourceFile { name, path: target });
            }
        }
    }
    unpacked.files.sort();
    let shown = unpacked.files.iter().map(|file| (file.path.clone(), path.join(&file.name)));
    unpacked.shown = shown.collect();
    Ok(unpacked)
}

/// The name of a member as a path below a folder.
fn plain_name(name: &Path) -> std::result::Result<PathBuf, String> {
    let mut plain = PathBuf::new();
    for part in name.components() {
        match part {
            Component::Normal(part) => plain.push(part),
            Component::CurDir => {}
            Component::RootDir | Component::Prefix(_) | Component::ParentDir => {
                return Err(format!(
                    "member `{}` would be unpacked outside the target folder",
                    name.display()
                ));
            }
        }
    }
    Ok(plain)
}

fn copy(member: &mut impl Read, target: &Path, unreadable: &dyn Fn(io::Error) -> Error) -> Result<()> {
    let mut copy = File::create_new(target).map_err(Error::io("create", target))?;
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        match member.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(n) => copy.write_all(&buffer[..n]).map_err(Error::io("write", target))?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(unreadable(error)),
        }
    }
}
