//! fairseq's `writingPrompts.tar.gz` (and others like it), unpacked.
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use flate2::bufread::MultiGzDecoder;
use tempfile::TempDir;

use crate::error::{Error, Result};

/// Whether a file is an archive by its name.
pub(super) fn is_archive(path: &Path) -> bool {
    let name = path.file_name().map(|n| n.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
    [".tar", ".tar.gz", ".tgz"].iter().any(|ending| name.ends_with(ending))
}

/// Unpacks the archive's plain files into a temporary folder, which goes when the value is dropped.
///
/// Only the last part of a member's name is used, so that none can leave the folder; links and devices are passed over.
pub(super) fn unpack(path: &Path) -> Result<TempDir> {
    let bad =
        |error: &dyn std::fmt::Display| Error::Archive { path: path.into(), problem: error.to_string() };
    let folder = TempDir::new().map_err(Error::io("create a folder in", std::env::temp_dir()))?;
    let file = File::open(path).map_err(Error::io("read", path))?;
    let mut bytes = io::BufReader::with_capacity(1 << 18, file);
    let packed =
        io::BufRead::fill_buf(&mut bytes).map_err(Error::io("read", path))?.starts_with(&[0x1f, 0x8b]);
    let bytes: Box<dyn io::Read> =
        if packed { Box::new(MultiGzDecoder::new(bytes)) } else { Box::new(bytes) };
    let mut archive = tar::Archive::new(bytes);
    for member in archive.entries().map_err(|error| bad(&error))? {
        let mut member = member.map_err(|error| bad(&error))?;
        if !member.header().entry_type().is_file() {
            continue;
        }
        let name = member.path().map_err(|error| bad(&error))?.file_name().map(ToOwned::to_owned);
        // macOS archivers add `._name` beside `name`.
        let Some(name) = name.filter(|name| !name.to_string_lossy().starts_with('.')) else { continue };
        let target = folder.path().join(name);
        let mut copy = File::create(&target).map_err(Error::io("create", &target))?;
        // A failure may be of the archive or of the disk; the archive is the likelier.
        io::copy(&mut member, &mut copy).map_err(|error| bad(&error))?;
        copy.flush().map_err(Error::io("write", &target))?;
    }
    Ok(folder)
}
