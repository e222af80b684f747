//! A cache of features and embeddings on disk.
//!
//! A file holds the vectors of some texts and is named after the SHA-256 of the model, its settings and the texts. It contains the
//! SHA-256 of its numbers; a truncated, altered or misshapen file is recomputed.
//!
//! Layout: `MIXCEFT1`, rows and columns (u64), SHA-256 of the numbers, the numbers (f32), all little-endian.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use mixce_base::digest::{Digest as _, Sha256};
use mixce_base::files::{AtomicFile, remove_stale};

use crate::error::Problem;
use crate::{interrupt, progress};

const MAGIC: &[u8; 8] = b"MIXCEFT1";
const HEADER_BYTES: usize = 8 + 16 + 32;

/// Texts per file: after an interruption at most this many are recomputed.
const TEXTS_PER_FILE: usize = 256;

/// A row of `columns` numbers for each item: cached ones are read, the others computed and cached.
pub(super) fn rows<T>(
    cache: Option<&Cache>,
    items: &[T],
    (columns, unit): (usize, &str),
    key: impl Fn(&[T]) -> String,
    compute: impl Fn(&[T]) -> Result<Vec<f32>>,
) -> Result<Vec<f32>> {
    let mut all = Vec::with_capacity(items.len() * columns);
    interrupt::install("finished work is kept");
    let bar = progress::bar(items.len() as u64, unit);
    for items in items.chunks(TEXTS_PER_FILE) {
        if interrupt::is_requested() {
            return Err(Problem::interrupted("interrupted: run the same command again to continue").into());
        }
        let key = key(items);
        let values = match cache.and_then(|cache| cache.get(&key, items.len(), columns)) {
            Some(values) => values,
            None => {
                let values = compute(items)?;
                if let Some(cache) = cache.filter(|_| values.iter().all(|value| value.is_finite())) {
                    cache.put(&key, items.len(), columns, &values);
                }
                values
            }
        };
        all.extend(values);
        bar.inc(items.len() as u64);
    }
    bar.finish_and_clear();
    Ok(all)
}

/// A folder of features.
#[derive(Clone, Debug)]
pub(super) struct Cache {
    folder: PathBuf,
}

impl Cache {
    /// The cache in a folder, which is created on the first write.
    pub(super) fn new(folder: PathBuf) -> Self {
        // What a killed process was writing.
        if let Err(error) = remove_stale(&folder, &|name| name.ends_with(".features")) {
            tracing::warn!("{error}");
        }
        Self { folder }
    }

    /// `mixce/features` below `$XDG_CACHE_HOME`, or else `~/.cache`.
    pub(super) fn default_folder() -> Option<PathBuf> {
        let variable =
            |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let base = variable("XDG_CACHE_HOME").or_else(|| Some(variable("HOME")?.join(".cache")))?;
        Some(base.join("mixce").join("features"))
    }

    fn path(&self, key: &str) -> PathBuf {
        self.folder.join(format!("{key}.features"))
    }

    /// The features under a key, if present, intact and of this shape.
    pub(super) fn get(&self, key: &str, rows: usize, columns: usize) -> Option<Vec<f32>> {
        let path = self.path(key);
        let expected = rows.checked_mul(columns)?.checked_mul(4)?.checked_add(HEADER_BYTES)?;
        let size = fs::metadata(&path).ok()?.len();
        let found = if size == expected as u64 { read(&path, rows, columns) } else { None };
        if found.is_none() {
            tracing::warn!("cached features in `{}` are damaged: recomputing them", path.display());
        }
        found
    }

    /// Stores features under a key. A write failure is only logged.
    pub(super) fn put(&self, key: &str, rows: usize, columns: usize, values: &[f32]) {
        if let Err(error) = write(&self.path(key), rows, columns, values) {
            tracing::warn!("features are not cached: {error:#}");
        }
    }
}

fn read(path: &Path, rows: usize, columns: usize) -> Option<Vec<f32>> {
    let bytes = fs::read(path).ok()?;
    let (header, numbers) = bytes.split_at_checked(HEADER_BYTES)?;
    (header == self::header(rows, columns, numbers).as_slice())
        .then(|| numbers.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
}

fn header(rows: usize, columns: usize, numbers: &[u8]) -> Vec<u8> {
    let sizes = [rows as u64, columns as u64].into_iter().flat_map(u64::to_le_bytes);
    MAGIC.iter().copied().chain(sizes).chain(Sha256::digest(numbers)).collect()
}

fn write(path: &Path, rows: usize, columns: usize, values: &[f32]) -> Result<()> {
    let numbers: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    let mut file = AtomicFile::create(path)?;
    file.put(&header(rows, columns, &numbers))?;
    file.put(&numbers)?;
    Ok(file.finish()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_damaged_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path().join("new"));
        let values = [1.0f32, -2.5, 3.0, 0.0, 7.0, 8.0];
        assert_eq!(cache.get("k", 2, 3), None);
        cache.put("k", 2, 3, &values);
        assert_eq!(cache.get("k", 2, 3), Some(values.to_vec()));
        assert_eq!(cache.get("k", 3, 2), None, "another shape");
        let path = cache.path("k");
        let whole = fs::read(&path).unwrap();
        for place in 0..whole.len() {
            let mut spoilt = whole.clone();
            spoilt[place] ^= 1;
            fs::write(&path, &spoilt).unwrap();
            assert_eq!(cache.get("k", 2, 3), None, "byte {place}");
        }
        fs::write(&path, &whole[..whole.len() - 1]).unwrap();
        assert_eq!(cache.get("k", 2, 3), None);
        cache.put("k", 2, 3, &values);
        assert_eq!(cache.get("k", 2, 3), Some(values.to_vec()));
        let names: Vec<_> = fs::read_dir(&cache.folder).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names.len(), 1, "{names:?}");
    }
}
