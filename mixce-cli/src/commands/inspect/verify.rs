//! `--verify`: weights and checkpoints against their checksums.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use mixce_base::Hint as _;
use mixce_lm::checkpoint;
use mixce_train::checkpoint::COMPLETE_FILE;
use serde_json::{Value, json};

use crate::error::Problem;

/// Verifies a folder of weights, or a weight file; one object per weight file. A damaged one is a failed check.
pub(super) fn verified(path: &Path) -> Result<Vec<Value>> {
    let files = checkpoint::verify(path).map_err(|error| match error {
        mixce_lm::Error::Checksum { .. } | mixce_lm::Error::Malformed { .. } => {
            failed(error.to_string(), error.hint())
        }
        other => other.into(),
    })?;
    if path.join(COMPLETE_FILE).is_file() {
        mixce_train::checkpoint::verify(path).map_err(|error| match error {
            mixce_train::Error::BadCheckpoint { .. } => failed(error.to_string(), error.hint()),
            other => other.into(),
        })?;
    }
    Ok(files.into_iter().map(|(file, checksum)| json!({"file": file, "checksum": checksum})).collect())
}

fn failed(message: String, hint: Option<String>) -> anyhow::Error {
    let problem = Problem::check_failed(message);
    hint.into_iter().fold(problem, Problem::hint).into()
}

/// How many files have been verified, and by which checksum.
pub(super) fn summary(files: &[Value]) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for file in files {
        *counts.entry(file["checksum"].as_str().unwrap_or_default()).or_insert(0) += 1;
    }
    let words = |(checksum, count): (&str, usize)| match checksum {
        "absent" => format!("{count} without a checksum"),
        name => format!("{count} by {}", name.to_uppercase()),
    };
    let counts: Vec<String> = counts.into_iter().map(words).collect();
    format!("weight files verified: {}", counts.join(", "))
}
