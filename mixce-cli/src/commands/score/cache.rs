//! Features and embeddings: computed by several processes, and cached on disk.
//!
//! A file of the cache holds the vectors of some texts and is named after the SHA-256 of the model, its settings and the texts. It contains the
//! SHA-256 of its numbers; a truncated, altered or misshapen file is recomputed.
//!
//! Layout: `MIXCEFT1`, rows and columns (u64), SHA-256 of the numbers, the numbers (f32), all little-endian.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Error, Result};
use mixce_base::digest::{Digest as _, Sha256};
use mixce_base::files::{AtomicFile, remove_stale};
use mixce_train::distributed::{Alone, Communicator, deal};

use crate::error::Problem;
use crate::{interrupt, progress, ranks};

const MAGIC: &[u8; 8] = b"MIXCEFT1";
const HEADER_BYTES: usize = 8 + 16 + 32;

/// Texts per file: after an interruption at most this many are recomputed.
const TEXTS_PER_FILE: usize = 256;

/// The ranks that compute rows of numbers together, and the cache, which rank 0 reads and writes.
#[derive(Clone, Debug)]
pub(super) struct RowSource {
    ranks: Arc<dyn Communicator>,
    cache: Option<Cache>,
}

impl RowSource {
    pub(super) fn new(ranks: Arc<dyn Communicator>, cache: impl FnOnce() -> Option<Cache>) -> Self {
        let cache = if ranks.rank() == 0 { cache() } else { None };
        Self { ranks, cache }
    }

    /// This process without a cache.
    pub(super) fn alone() -> Self {
        Self { ranks: Arc::new(Alone), cache: None }
    }

    /// A row of `columns` numbers for each item: cached ones are read, the others computed and cached. The files of the cache are dealt to the
    /// ranks, so that each has the bits that one process computes. On ranks other than 0 zeros stand for what was cached.
    pub(super) fn rows<T>(
        &self,
        items: &[T],
        (columns, unit): (usize, &str),
        key: impl Fn(&[T]) -> String,
        compute: impl Fn(&[T]) -> Result<Vec<f32>>,
    ) -> Result<Vec<f32>> {
        let ranks = &*self.ranks;
        interrupt::install(if ranks.rank() == 0 { "finished work is kept" } else { "" });
        let bar = progress::bar(items.len() as u64, unit);
        let portions: Vec<&[T]> = items.chunks(TEXTS_PER_FILE).collect();
        let mut all = vec![0.0; items.len() * columns];
        let mut places: Vec<&mut [f32]> = all.chunks_mut((TEXTS_PER_FILE * columns).max(1)).collect();
        let is_cached = |(portion, place): (&&[T], &mut &mut [f32])| {
            let cached = self.cache.as_ref()?.get(&key(portion), portion.len(), columns)?;
            place.copy_from_slice(&cached);
            bar.inc(portion.len() as u64);
            Some(())
        };
        let look =
            || Ok(portions.iter().zip(&mut places).map(is_cached).map(|found| found.is_some()).collect());
        let cached: Vec<bool> = ranks::from_first(ranks, look)?;
        let missing: Vec<usize> = (0..portions.len()).filter(|portion| !cached[*portion]).collect();
        for round in missing.chunks(ranks.size()) {
            if ranks::is_stopped(ranks)? {
                return Err(
                    Problem::interrupted("interrupted: run the same command again to continue").into()
                );
            }
            let compute = |portion: &usize| {
                let values = compute(portions[*portion])?;
                Ok::<_, Error>(values.iter().flat_map(|value| value.to_le_bytes()).collect())
            };
            for (&portion, bytes) in round.iter().zip(deal(ranks, round, compute)?) {
                let (items, values) = (portions[portion], &mut *places[portion]);
                let numbers = bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
                values.iter_mut().zip(numbers).for_each(|(value, number)| *value = number);
                if let Some(cache) = self.cache.as_ref().filter(|_| values.iter().all(|v| v.is_finite())) {
                    cache.put(&key(items), items.len(), columns, values);
                }
                bar.inc(items.len() as u64);
            }
        }
        bar.finish_and_clear();
        Ok(all)
    }
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
