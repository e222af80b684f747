//! `COMPLETE`, the manifest of a checkpoint: step, and size and SHA-256 of every file.
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::Path;

use mixce_base::digest::{hex, sha256};
use mixce_base::files::write_atomic;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::find::step_of;
use super::{COMPLETE_FILE, MODEL_FILE, OPTIMIZER_FILE, STATE_FILE, STATE_VERSION, TrainState};
use crate::error::{Error, Result};

/// Version of the format; a manifest of another version is refused.
const VERSION: u32 = 1;

/// A manifest is a few hundred bytes; anything larger is not read.
const MAX_BYTES: u64 = 1 << 20;

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    version: u32,
    step: u64,
    files: BTreeMap<String, Entry>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    bytes: u64,
    sha256: String,
}

impl Entry {
    fn of(path: &Path) -> io::Result<Self> {
        let mut file = File::open(path)?;
        Ok(Self { bytes: file.metadata()?.len(), sha256: hex(&sha256(&mut file)?) })
    }
}

/// Writes the manifest of these files of a folder.
pub(super) fn write(folder: &Path, step: u64, names: &[&str]) -> Result<()> {
    let entry = |name: &&str| {
        let path = folder.join(name);
        Ok(((*name).to_owned(), Entry::of(&path).map_err(Error::io("read", &path))?))
    };
    let files = names.par_iter().map(entry).collect::<Result<_>>()?;
    let manifest = Manifest { version: VERSION, step, files };
    let mut json = serde_json::to_vec_pretty(&manifest).map_err(|e| damaged(folder, e.to_string()))?;
    json.push(b'\n');
    Ok(write_atomic(&folder.join(COMPLETE_FILE), &json)?)
}

/// Checks that a checkpoint is as it was written: its files against the manifest, and the manifest against `state` and the folder's name (if
/// that is one of a checkpoint).
///
/// Checkpoints of earlier versions have no digests: only their names are compared, with a warning.
pub(super) fn verify(folder: &Path, state: &TrainState) -> Result<()> {
    let bytes = read(folder)?;
    // Versions up to 0.1.0 wrote `step N`, or nothing.
    let is_old = bytes.is_empty() || bytes.starts_with(b"step ");
    let step = match is_old {
        true if state.version >= STATE_VERSION => {
            return Err(damaged(folder, format!("`{COMPLETE_FILE}` has lost its content")));
        }
        true => {
            tracing::warn!(
                "checkpoint `{}` was written by an earlier version without digests: whether its files have changed since cannot be told",
                folder.display()
            );
            state.step
        }
        false => check_files(folder, &bytes)?,
    };
    let named = folder.file_name().and_then(|name| step_of(name.to_str()?));
    for (what, other) in [("`state.json`", Some(state.step)), ("the folder's name", named)] {
        if let Some(other) = other.filter(|other| *other != step) {
            let own = if is_old { "`state.json`".to_owned() } else { format!("`{COMPLETE_FILE}`") };
            return Err(damaged(folder, format!("{own} is of step {step}, {what} of step {other}")));
        }
    }
    Ok(())
}

fn read(folder: &Path) -> Result<Vec<u8>> {
    let path = folder.join(COMPLETE_FILE);
    let bytes = fs::metadata(&path).map_err(Error::io("read", &path))?.len();
    if bytes > MAX_BYTES {
        return Err(damaged(
            folder,
            format!("`{COMPLETE_FILE}` has {bytes} bytes, expected at most {MAX_BYTES}"),
        ));
    }
    fs::read(&path).map_err(Error::io("read", &path))
}

/// Compares the files with a manifest; returns its step.
fn check_files(folder: &Path, bytes: &[u8]) -> Result<u64> {
    let bad = |problem: String| damaged(folder, problem);
    let manifest: Manifest =
        serde_json::from_slice(bytes).map_err(|e| bad(format!("`{COMPLETE_FILE}` is damaged: {e}")))?;
    if manifest.version != VERSION {
        let version = manifest.version;
        return Err(bad(format!("`{COMPLETE_FILE}`: expected version {VERSION}, got {version}")));
    }
    if let Some(name) =
        [MODEL_FILE, OPTIMIZER_FILE, STATE_FILE].iter().find(|n| !manifest.files.contains_key(**n))
    {
        return Err(bad(format!("`{COMPLETE_FILE}` does not list `{name}`")));
    }
    let files: Vec<_> = manifest.files.iter().collect();
    let problems: Vec<Option<String>> =
        files.par_iter().map(|(name, entry)| difference(folder, name, entry)).collect::<Result<_>>()?;
    match problems.into_iter().flatten().next() {
        Some(problem) => Err(bad(problem)),
        None => Ok(manifest.step),
    }
}

/// How a file differs from its entry.
fn difference(folder: &Path, name: &str, expected: &Entry) -> Result<Option<String>> {
    if Path::new(name).file_name().is_none_or(|plain| plain != name) {
        return Ok(Some(format!("`{COMPLETE_FILE}` lists `{name}`, which is not a plain file name")));
    }
    let path = folder.join(name);
    let metadata = match fs::metadata(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(Some(format!("`{name}` is missing")));
        }
        other => other.map_err(Error::io("read", &path))?,
    };
    // A pipe or device would be read without end.
    if !metadata.is_file() || metadata.len() != expected.bytes {
        let got = metadata.len();
        return Ok(Some(format!("`{name}`: expected a file of {} bytes, got {got}", expected.bytes)));
    }
    let got = Entry::of(&path).map_err(Error::io("read", &path))?;
    Ok((got != *expected)
        .then(|| format!("`{name}`: expected SHA-256 `{}`, got `{}`", expected.sha256, got.sha256)))
}

fn damaged(folder: &Path, problem: String) -> Error {
    Error::BadCheckpoint { path: folder.into(), problem }
}
