//! The BOS and EOS ids in a model's folder.

use std::path::Path;

use serde_json::{Map, Value};

use crate::checkpoint::gguf::{self, Gguf};
use crate::error::{Error, Result};
use crate::files;
use crate::tokenizer::Tokenizer;

const MAX_FILE_BYTES: u64 = 16 << 20;

/// The ids under `key` (`bos_token_id`, `eos_token_id`): those of `generation_config.json` if it has any, else those of
/// `config.json`, else those of a GGUF file, the order of transformers' `generate`. Defaults that are not in a file do not count.
pub(crate) fn named_ids(dir: &Path, key: &str) -> Result<Vec<u32>> {
    for name in ["generation_config.json", "config.json"] {
        let path = dir.join(name);
        if !path.is_file() {
            continue;
        }
        let text = files::read_text(&path, MAX_FILE_BYTES)?;
        let object: Map<String, Value> =
            serde_json::from_str(&text).map_err(|cause| Error::malformed(&path, cause))?;
        let Some(value) = object.get(key) else { continue };
        let ids = id_list(value).ok_or_else(|| {
            Error::malformed(
                &path,
                format!("`{key}` must be a token id, a list of them or null, got `{value}`"),
            )
        })?;
        if !ids.is_empty() {
            return Ok(ids);
        }
    }
    match gguf::find(dir)? {
        Some(file) => Gguf::open(&file)?.named_ids(key),
        None => Ok(Vec::new()),
    }
}

/// The ids of a value of `eos_token_id`, each once: a number, a list, null, or the -1 that old files have for none.
#[must_use]
pub fn id_list(value: &Value) -> Option<Vec<u32>> {
    let of_one = |value: &Value| u32::try_from(value.as_u64()?).ok();
    match value {
        Value::Null => Some(Vec::new()),
        Value::Number(number) if number.as_i64() == Some(-1) => Some(Vec::new()),
        Value::Array(list) => {
            let ids = list.iter().map(of_one).collect::<Option<Vec<u32>>>()?;
            Some(ids.into_iter().collect::<indexmap::IndexSet<u32>>().into_iter().collect())
        }
        one => of_one(one).map(|id| vec![id]),
    }
}

/// Every token that ends a sample of the model in `dir`: the tokenizer's EOS, which training appends, and those that
/// `generation_config.json` names, or else `config.json`. Ids without a row in the model are left out.
///
/// # Errors
/// When one of the files is damaged.
pub fn stop_ids(dir: &Path, tokenizer: &Tokenizer, vocab_size: usize) -> Result<Vec<u32>> {
    let ids = tokenizer.eos_id().into_iter().chain(named_ids(dir, "eos_token_id")?);
    let ids: indexmap::IndexSet<u32> = ids.filter(|&id| (id as usize) < vocab_size).collect();
    Ok(ids.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn ids_are_one_or_many_or_none() {
        assert_eq!(id_list(&json!(7)), Some(vec![7]));
        assert_eq!(id_list(&json!([7, 5, 7])), Some(vec![7, 5]));
        for none in [json!(null), json!(-1), json!([])] {
            assert_eq!(id_list(&none), Some(vec![]), "{none}");
        }
        for wrong in [json!("7"), json!([7, "5"]), json!(-2), json!(1.5), json!({})] {
            assert_eq!(id_list(&wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_generation_config_comes_first_where_it_names_any() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        let ids = || named_ids(dir.path(), "eos_token_id").unwrap();
        assert_eq!(ids(), [0; 0]);
        write("config.json", r#"{"eos_token_id": [3, 4]}"#);
        assert_eq!(ids(), [3, 4]);
        write("generation_config.json", "{}");
        assert_eq!(ids(), [3, 4]);
        write("generation_config.json", r#"{"eos_token_id": 2}"#);
        assert_eq!(ids(), [2]);
        write("generation_config.json", r#"{"eos_token_id": "2"}"#);
        let error = named_ids(dir.path(), "eos_token_id").unwrap_err().to_string();
        assert!(
            error.contains("generation_config.json") && error.contains("`eos_token_id` must be"),
            "{error}"
        );
    }
}
