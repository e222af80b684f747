//! Weights in several files under an index (`*.index.json` with a `weight_map` from tensor to file).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path};

use serde::Deserialize;

use super::tensor::TensorInfo;
use crate::error::{Error, Result};
use crate::files;

const MAX_INDEX_BYTES: u64 = 64 << 20;

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// A tensor that an index promises, and the shard that should hold it and does not.
pub(super) type Promise = (String, String);

/// All tensors of all files that the index names, and what it promises beyond them.
pub(super) fn open(
    path: &Path,
    open_one: fn(&Path) -> Result<Vec<TensorInfo>>,
) -> Result<(Vec<TensorInfo>, Vec<Promise>)> {
    let text = files::read_text(path, MAX_INDEX_BYTES)?;
    let index: Index = serde_json::from_str(&text).map_err(|cause| Error::malformed(path, cause))?;
    let dir = path.parent().unwrap_or(Path::new(""));
    let shards: BTreeSet<&String> = index.weight_map.values().collect();
    let mut tensors: BTreeMap<(String, String), TensorInfo> = BTreeMap::new();
    for shard in shards {
        let mut parts = Path::new(shard).components();
        if !matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)) {
            return Err(Error::malformed(path, format!("shard `{shard}` is not a plain file name")));
        }
        for tensor in open_one(&dir.join(shard))? {
            let key = (tensor.dictionary.clone(), tensor.name.clone());
            if let Some(other) = tensors.get(&key) {
                let (first, second) = (other.file.display(), tensor.file.display());
                let problem = format!("tensor `{}` is in two shards, `{first}` and `{second}`", tensor.name);
                return Err(Error::malformed(path, problem));
            }
            tensors.insert(key, tensor);
        }
    }
    let tensors: Vec<TensorInfo> = tensors.into_values().collect();
    let names: BTreeSet<&str> = tensors.iter().map(|tensor| tensor.name.as_str()).collect();
    let lost = index.weight_map.into_iter().filter(|(name, _)| !names.contains(name.as_str())).collect();
    Ok((tensors, lost))
}
