//! Pooling of token vectors, according to a checkpoint's files.

use std::path::Path;

use mixce_base::files::{FileError, read_regular};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// Pooling of token vectors into one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pooling {
    /// `tanh(W h_[CLS] + b)`, by the checkpoint's `pooler.dense`: supervised SimCSE.
    ClsPooler,
    /// `h_[CLS]` itself: unsupervised SimCSE.
    Cls,
    /// The mean over the text's tokens, `[CLS]` and `[SEP]` included: most of sentence-transformers' models.
    Mean,
}

/// The settings in a checkpoint's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Recipe {
    pub(crate) pooling: Pooling,
    /// The maximum number of tokens in sentence-transformers.
    pub(crate) max_tokens: Option<usize>,
}

/// Maximum size of such a file.
const MAX_BYTES: u64 = 1 << 20;

impl Recipe {
    /// Reads `modules.json` and the pooling module that it names, or `1_Pooling/config.json`. Without either it is a SimCSE
    /// checkpoint, which is unsupervised if its name says so, as in SimCSE's own tool.
    pub(crate) fn of(folder: &Path, name: &str) -> Result<Self> {
        let pooling = match pooling_module(folder)? {
            Some(module) => module_pooling(&folder.join(module).join("config.json"))?,
            None if name.to_ascii_lowercase().contains("unsup") => Pooling::Cls,
            None => Pooling::ClsPooler,
        };
        let path = folder.join("sentence_bert_config.json");
        let limit = match path.is_file() {
            true => object(&path)?.get("max_seq_length").cloned().unwrap_or(Value::Null),
            false => Value::Null,
        };
        let max_tokens = match (limit.as_u64().and_then(|n| usize::try_from(n).ok()), &limit) {
            (Some(n), _) if n >= 3 => Some(n),
            (None, Value::Null) => None,
            _ => {
                let problem = format!("`max_seq_length`: expected at least 3 tokens, got `{limit}`");
                return Err(Error::unsupported(&path, problem));
            }
        };
        Ok(Self { pooling, max_tokens })
    }
}

/// The folder of the pooling module, if the checkpoint is one of sentence-transformers'.
fn pooling_module(folder: &Path) -> Result<Option<String>> {
    #[derive(Deserialize)]
    struct Module {
        path: String,
        #[serde(rename = "type")]
        kind: String,
    }
    let path = folder.join("modules.json");
    if !path.is_file() {
        return Ok(folder.join("1_Pooling/config.json").is_file().then(|| "1_Pooling".to_owned()));
    }
    let modules: Vec<Module> = serde_json::from_slice(&bytes(&path)?)
        .map_err(|error| Error::unsupported(&path, format!("not a list of modules ({error})")))?;
    let mut pooling = None;
    for module in modules {
        match module.kind.rsplit('.').next().unwrap_or_default() {
            "Transformer" | "Normalize" => {}
            "Pooling" if pooling.is_none() => pooling = Some(module.path),
            other => {
                return Err(Error::unsupported(
                    &path,
                    format!("module `{other}`: expected Transformer, Pooling and Normalize"),
                ));
            }
        }
    }
    let inside = |name: &String| !name.contains(['/', '\\', ':']) && name != "..";
    match pooling {
        Some(name) if inside(&name) => Ok(Some(name)),
        Some(name) => {
            Err(Error::unsupported(&path, format!("pooling module in `{name}`: expected a folder's name")))
        }
        None => Err(Error::unsupported(&path, "no module `Pooling`")),
    }
}

/// The one mode that is switched on: `pooling_mode_NAME: true`, or `pooling_mode: NAME` in newer files.
fn module_pooling(path: &Path) -> Result<Pooling> {
    let config = object(path)?;
    let mut modes: Vec<&str> = config
        .iter()
        .filter(|(_, value)| **value == Value::Bool(true))
        .filter_map(|(key, _)| key.strip_prefix("pooling_mode_"))
        .collect();
    modes.extend(config.get("pooling_mode").and_then(Value::as_str));
    match modes.as_slice() {
        ["mean_tokens" | "mean"] => Ok(Pooling::Mean),
        ["cls_token" | "cls"] => Ok(Pooling::Cls),
        _ => {
            Err(Error::unsupported(path, format!("pooling modes {modes:?}: expected `mean` or `cls` alone")))
        }
    }
}

pub(crate) fn bytes(path: &Path) -> Result<Vec<u8>> {
    read_regular(path, MAX_BYTES).map_err(|FileError { path, source: cause, .. }| Error::Io { path, cause })
}

pub(crate) fn object(path: &Path) -> Result<Map<String, Value>> {
    serde_json::from_slice(&bytes(path)?)
        .map_err(|error| Error::unsupported(path, format!("not a JSON object ({error})")))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const MODULES: &str = r#"[{"path":"","type":"sentence_transformers.models.Transformer"},
        {"path":"1_Pooling","type":"sentence_transformers.models.Pooling"}]"#;

    /// The recipe of a folder with these files.
    fn recipe(name: &str, files: &[(&str, &str)]) -> Result<Recipe> {
        let folder = tempfile::tempdir().unwrap();
        for (file, text) in files {
            let path = folder.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        Recipe::of(folder.path(), name)
    }

    #[test]
    fn the_files_choose() {
        let mean = r#"{"pooling_mode_cls_token":false,"pooling_mode_mean_tokens":true}"#;
        let of = |name: &str, files: &[(&str, &str)]| recipe(name, files).unwrap().pooling;
        assert_eq!(of("sup-simcse", &[]), Pooling::ClsPooler);
        assert_eq!(of("princeton-nlp/unsup-simcse", &[]), Pooling::Cls);
        assert_eq!(of("x", &[("1_Pooling/config.json", mean)]), Pooling::Mean);
        assert_eq!(of("unsup", &[("1_Pooling/config.json", mean), ("modules.json", MODULES)]), Pooling::Mean);
        let cls = r#"{"pooling_mode":"cls"}"#;
        assert_eq!(of("x", &[("1_Pooling/config.json", cls), ("modules.json", MODULES)]), Pooling::Cls);
        let limit = ("sentence_bert_config.json", r#"{"max_seq_length":256}"#);
        assert_eq!(recipe("x", &[limit]).unwrap().max_tokens, Some(256));
    }

    #[test]
    fn what_cannot_be_done_is_named() {
        let dense = MODULES.replace("Pooling\"}", "Dense\"}");
        let outside = MODULES.replace("1_Pooling", "../..");
        let max = r#"{"pooling_mode_max_tokens":true}"#;
        let both = r#"{"pooling_mode_cls_token":true,"pooling_mode_mean_tokens":true}"#;
        for (files, words) in [
            (vec![("modules.json", dense.as_str())], "module `Dense`"),
            (vec![("modules.json", outside.as_str())], "`../..`"),
            (vec![("modules.json", "[]")], "no module `Pooling`"),
            (vec![("modules.json", "{}")], "not a list"),
            (vec![("modules.json", MODULES)], "1_Pooling"),
            (vec![("1_Pooling/config.json", max)], "max_tokens"),
            (vec![("1_Pooling/config.json", both)], "alone"),
            (vec![("sentence_bert_config.json", r#"{"max_seq_length":2}"#)], "got `2`"),
            (vec![("sentence_bert_config.json", r#"{"max_seq_length":"x"}"#)], "got `\"x\"`"),
        ] {
            let error = recipe("x", &files).unwrap_err().to_string();
            assert!(error.contains(words), "{words}: {error}");
        }
    }
}
