//! The file `documents.json` beside the scores of a system: the value of each prompt, which tests over prompts need.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::input::read_json;

/// The schema that this version writes and reads.
pub const SCHEMA: u32 = 1;

/// The name of the file.
pub const FILE: &str = "documents.json";

/// The values of a system's samples and of the human texts, document by document.
///
/// ```json
/// {"schema": 1, "samplings": [{"diversity": [0.61, null], "coherence": [0.4, 0.5]}], "nll": [3.2, 3.1]}
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Documents {
    /// [`SCHEMA`].
    pub schema: u32,
    /// For each sampling run the values of its texts by the key of the score, in the order of its file; null where a text has none.
    pub samplings: Vec<BTreeMap<String, Vec<Option<f64>>>>,
    /// Mean negative log-likelihood (nats) of each evaluated document's scored tokens; null where none is scored.
    #[serde(default)]
    pub nll: Vec<Option<f64>>,
}

impl Documents {
    /// Reads a file, if it exists.
    ///
    /// # Errors
    /// When it cannot be read, has another form or schema.
    pub fn read(path: &Path) -> Result<Option<Self>> {
        let Some(read) = read_json::<Self>(path)? else { return Ok(None) };
        if read.schema != SCHEMA {
            return Err(Error::Schema { path: path.to_owned(), expected: SCHEMA, found: read.schema });
        }
        Ok(Some(read))
    }

    /// The values of a score in each sampling run, or of `nll` once; empty if one of the runs lacks it.
    #[must_use]
    pub fn values(&self, key: &str) -> Vec<&[Option<f64>]> {
        if key == "nll" {
            return if self.nll.is_empty() { Vec::new() } else { vec![&self.nll] };
        }
        let runs: Option<Vec<&[Option<f64>]>> =
            self.samplings.iter().map(|run| run.get(key).map(Vec::as_slice)).collect();
        runs.unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_those_of_every_run_or_none() {
        let text = r#"{"schema":1,"samplings":[{"a":[1.0,null],"b":[0.5,0.5]},{"a":[2.0,3.0]}],"nll":[4.0]}"#;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        assert_eq!(Documents::read(&path).unwrap(), None);
        std::fs::write(&path, text).unwrap();
        let read = Documents::read(&path).unwrap().unwrap();
        assert_eq!(read.values("a"), [&[Some(1.0), None][..], &[Some(2.0), Some(3.0)]]);
        assert!(read.values("b").is_empty() && read.values("c").is_empty());
        assert_eq!(read.values("nll"), [[Some(4.0)]]);
        std::fs::write(&path, r#"{"schema":2,"samplings":[]}"#).unwrap();
        assert!(Documents::read(&path).unwrap_err().to_string().contains("schema 2, expected 1"));
        std::fs::write(&path, "{\"schema\":1,\n\"samplings\":3}").unwrap();
        let error = Documents::read(&path).unwrap_err().to_string();
        assert!(error.contains("documents.json") && error.contains("line 2"), "{error}");
    }
}
