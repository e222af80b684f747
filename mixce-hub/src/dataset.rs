//! Downloads some files of a repository, such as the parquet files of a data set.

use std::path::Path;

use crate::{
    Fetch, Hub, Snapshot, abbreviate,
    cache::RepositoryCache,
    cached_commit,
    error::{Error, Result},
    not_cached,
    progress::FetchProgress,
    remote::Remote,
    source::RepositoryId,
};

/// Maximum depth of folders searched in a snapshot without network access.
const MAX_DEPTH: usize = 6;

impl Hub {
    /// Downloads some files of a repository into the cache, unless they are already there.
    ///
    /// `choose` receives the names of all files and returns the wanted ones, and a description of them for the error if there are none. Offline,
    /// and if the network fails, it receives the names in the cache; shards (`NAME-00000-of-00002.ENDING`) must then be complete.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchFiles`] when nothing is chosen; otherwise as [`Hub::fetch_model`].
    pub fn fetch_files(
        &self,
        id: &RepositoryId,
        wanted: &str,
        choose: &dyn Fn(&[String]) -> Vec<String>,
        progress: &mut dyn FetchProgress,
    ) -> Result<Snapshot> {
        let Some(remote) = &self.remote else { return self.cached_files(id, wanted, choose) };
        match self.download_files(remote, id, wanted, choose, progress) {
            Err(error) if error.is_transient() => match self.cached_files(id, wanted, choose) {
                Ok(snapshot) => {
                    tracing::warn!(%error, id = %id, commit = snapshot.commit, "the hub cannot be reached; using the cache");
                    Ok(snapshot)
                }
                Err(_) => Err(error),
            },
            result => result,
        }
    }

    fn download_files(
        &self,
        remote: &Remote,
        id: &RepositoryId,
        wanted: &str,
        choose: &dyn Fn(&[String]) -> Vec<String>,
        progress: &mut dyn FetchProgress,
    ) -> Result<Snapshot> {
        let listing = remote.listing(id)?;
        let files = choose(&listing.files);
        if files.is_empty() {
            return Err(no_files(id, wanted, &listing.files));
        }
        let cache = RepositoryCache::new(&self.environment.cache_dir, id);
        let fetch = Fetch { remote, cache: &cache, id, commit: &listing.commit };
        for file in &files {
            fetch.file(file, progress)?;
        }
        cache.write_reference(id.revision(), &listing.commit)?;
        Ok(Snapshot { path: cache.snapshot(&listing.commit), commit: listing.commit, files })
    }

    fn cached_files(
        &self,
        id: &RepositoryId,
        wanted: &str,
        choose: &dyn Fn(&[String]) -> Vec<String>,
    ) -> Result<Snapshot> {
        let cache = RepositoryCache::new(&self.environment.cache_dir, id);
        let not_cached = |missing| not_cached(id, missing);
        let commit = cached_commit(&cache, id)?;
        let path = cache.snapshot(&commit);
        let mut names = Vec::new();
        collect(&path, "", 0, &mut names);
        names.sort();
        let files = choose(&names);
        if files.is_empty() {
            return Err(not_cached(path.join(wanted)));
        }
        if let Some(missing) = files.iter().find_map(|file| missing_shard(file, &files)) {
            return Err(not_cached(path.join(missing)));
        }
        Ok(Snapshot { path, commit, files })
    }
}

fn no_files(id: &RepositoryId, wanted: &str, listing: &[String]) -> Error {
    Error::NoSuchFiles {
        kind: id.kind(),
        repository: id.repository().to_owned(),
        revision: id.revision().to_owned(),
        wanted: wanted.to_owned(),
        listing: abbreviate(listing),
    }
}

/// Names of the files below a folder, relative to the first one; what cannot be read is not there.
fn collect(folder: &Path, prefix: &str, depth: usize, names: &mut Vec<String>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        let path = entry.path();
        if path.is_dir() && depth < MAX_DEPTH {
            collect(&path, &format!("{name}/"), depth + 1, names);
        } else if path.is_file() {
            names.push(name);
        }
    }
}

/// The first shard of `NAME-00000-of-00002...` missing in `files`.
fn missing_shard(file: &str, files: &[String]) -> Option<String> {
    let (head, tail) = file.split_once("-of-")?;
    let (name, number) = head.rsplit_once('-')?;
    let digits = tail.bytes().take_while(u8::is_ascii_digit).count();
    let total: u32 = tail[..digits].parse().ok()?;
    let width = number.len();
    number.parse::<u32>().ok()?;
    (0..total.min(10_000)).map(|i| format!("{name}-{i:0width$}-of-{}", &tail[..digits])).find(|shard| {
        // The hub may add a digest behind the numbers.
        !files.iter().any(|file| file.starts_with(shard))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_shards_are_found() {
        let files = ["d/train-00000-of-00002-abc.parquet".to_owned(), "d/test.parquet".to_owned()];
        assert_eq!(missing_shard(&files[0], &files).unwrap(), "d/train-00001-of-00002");
        assert_eq!(missing_shard(&files[1], &files), None);
        let both = [files[0].clone(), "d/train-00001-of-00002-def.parquet".to_owned()];
        assert_eq!(missing_shard(&both[0], &both), None);
        assert_eq!(missing_shard("a-x-of-3", &files), None);
    }
}
