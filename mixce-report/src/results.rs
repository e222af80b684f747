//! The file `results.json` of a sweep: every cell of the grid with its state and scores, and what was chosen.
//!
//! ```json
//! {"schema": 1, "versions": {"mixce": "0.1.0"}, "settings": {}, "metric": "mauve", "seconds": 0.0,
//!  "human": [{"corpus": "wiki", "model": "gpt2", "max_length": 128, "split": "valid", "file": "human/wiki-gpt2-l128-valid.jsonl", "diversity": 0.0}],
//!  "cells": [{"id": "wiki-gpt2-mle-n1000-l128-s1", "group": {"corpus": "wiki", "model": "gpt2", "train_size": 1000, "max_length": 128},
//!    "objective": "mle", "role": "grid", "control": null, "decoding": {"temperature": 1.0, "top_p": 1.0}, "seed": 1,
//!    "folder": "cells/wiki-gpt2-mle-n1000-l128-s1", "model": "cells/wiki-gpt2-mle-n1000-l128-s1/run/best", "status": "done",
//!    "error": null, "seconds": 0.0, "valid": {"perplexity": 0.0, "nll": 0.0, "scores": [{"diversity": 0.0}]}, "test": null}],
//!  "chosen": [{"group": {}, "metric": "mauve", "objective": "mixce:eta=0.3", "mean": 0.0, "std": 0.0, "n": 0, "ties": ["mixce:eta=0.1"]}]}
//! ```
//!
//! The same settings give the same file but for `seconds`. Paths are relative to the folder of the file.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// The schema that this version writes and reads.
pub const SCHEMA: u32 = 1;

/// The name of the file in a sweep's folder.
pub const FILE: &str = "results.json";

/// A sweep's results.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Versions of what computed the results, by name.
    pub versions: BTreeMap<String, String>,
    /// The resolved settings (`sweep.toml` as JSON).
    pub settings: Value,
    /// The metric of the choice.
    pub metric: String,
    /// Sum of the cells' seconds: what the grid takes on one machine, whoever computed it.
    pub seconds: f64,
    /// Scores of the human texts.
    pub human: Vec<Human>,
    /// All cells, in the order of the grid; controls last.
    pub cells: Vec<Cell>,
    /// One for each group whose grid is done.
    pub chosen: Vec<Chosen>,
}

/// Scores of the human texts that samples were compared with: documents cut into prompt and continuation by a model's tokenizer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Human {
    /// Name of the corpus.
    pub corpus: String,
    /// Name of the model whose tokenizer cut them.
    pub model: String,
    /// Longest text in tokens.
    pub max_length: u64,
    /// The part of the corpus.
    pub split: Split,
    /// JSON lines of `index`, `prompt` and `text`; a sample of the same document has the same `index`.
    pub file: String,
    /// The scores.
    #[serde(flatten)]
    pub scores: Scores,
}

/// A part of a corpus that models are scored on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// Development texts: objectives are chosen, and controls tuned, on these.
    Valid,
    /// Test texts: only the chosen are scored on these.
    Test,
}

impl Split {
    /// `valid` or `test`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Valid => "valid",
            Self::Test => "test",
        }
    }
}

/// What is compared only within itself: cells that differ in nothing but objective, seed and decoding.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Group {
    /// Name of the corpus.
    pub corpus: String,
    /// Name of the model.
    pub model: String,
    /// Training documents; none: all.
    pub train_size: Option<u64>,
    /// Longest document in tokens.
    pub max_length: u64,
}

/// One cell: a trained model, or a control, with its scores.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    /// Unique name.
    pub id: String,
    /// Its group.
    pub group: Group,
    /// Objective in the form `NAME:parameter=value,..`.
    pub objective: String,
    /// Whether it is a point of the grid.
    pub role: Role,
    /// The kind of control; none in the grid.
    pub control: Option<Control>,
    /// How it was sampled; none for a control that is not tuned yet.
    pub decoding: Option<Decoding>,
    /// Seed of the training run and its samples.
    pub seed: u64,
    /// Its folder.
    pub folder: String,
    /// The model that was scored. Controls name the grid cell's model that they sample.
    pub model: String,
    /// Its state.
    pub status: Status,
    /// Why it failed.
    pub error: Option<String>,
    /// Seconds of its finished steps.
    pub seconds: f64,
    /// Results on the development texts.
    pub valid: Option<Evaluation>,
    /// Results on the test texts: of chosen cells, the MLE cells of the same group, and controls.
    pub test: Option<Evaluation>,
}

/// Whether a cell is part of the grid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// A training run, sampled without modification.
    Grid,
    /// The MLE model of the group, sampled another way.
    Control,
}

/// The controls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Control {
    /// MLE at the top-p with the best development metric.
    TopP,
    /// MLE at the temperature with the development diversity of the chosen objective.
    Temperature,
}

impl Control {
    /// `top_p` or `temperature`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::TopP => "top_p",
            Self::Temperature => "temperature",
        }
    }
}

/// How a model is sampled; 1 and 1 is without modification.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Decoding {
    /// Divisor of the logits.
    pub temperature: f64,
    /// Probability mass of the nucleus.
    pub top_p: f64,
}

impl Decoding {
    /// Samples of the model itself.
    pub const UNBIASED: Self = Self { temperature: 1.0, top_p: 1.0 };
}

/// A cell's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Complete. Its test results may still be missing.
    Done,
    /// A command of it failed; `error` says how.
    Failed,
    /// Not computed yet.
    Waiting,
}

/// Results of a cell on one set of texts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// exp(nll).
    pub perplexity: f64,
    /// Mean negative log-likelihood of the human texts, in nats per token.
    pub nll: f64,
    /// Scores of each sampling run.
    pub scores: Vec<Scores>,
}

/// Scores of one set of texts: the keys of an entry of `systems` that `mixce score --json` prints. A metric that was not requested has no key.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Scores(pub Map<String, Value>);

impl Scores {
    /// The value of a metric: the number, or the `mean` of an object with one. None if the metric is absent or null.
    #[must_use]
    pub fn value(&self, metric: &str) -> Option<f64> {
        let value = self.0.get(metric)?;
        value.as_f64().or_else(|| value.get("mean")?.as_f64())
    }
}

/// The choice in a group: the objective with the best mean development metric.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Chosen {
    /// The group.
    pub group: Group,
    /// The metric of the choice.
    pub metric: String,
    /// The chosen objective.
    pub objective: String,
    /// Mean of its development metric over seeds; each seed's value is the mean over its sampling runs.
    pub mean: f64,
    /// Standard deviation over seeds (divisor n - 1), or with one seed over its sampling runs; none with one value.
    pub std: Option<f64>,
    /// Values in `std`.
    pub n: u64,
    /// Other objectives that cannot be told from it.
    pub ties: Vec<String>,
}

impl Results {
    /// Reads `path`, a results file or a folder that holds one.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, is not a results file, or has another schema.
    pub fn read(path: &Path) -> Result<Self> {
        let path = if path.is_dir() { path.join(FILE) } else { path.to_owned() };
        let text = fs::read_to_string(&path).map_err(|source| Error::Read { path: path.clone(), source })?;
        let not_results = |source| Error::NotResults { path: path.clone(), source };
        let header: Header = serde_json::from_str(&text).map_err(not_results)?;
        if header.schema != SCHEMA {
            return Err(Error::Schema { path, expected: SCHEMA, found: header.schema });
        }
        serde_json::from_str(&text).map_err(not_results)
    }
}

/// The part of a results file that every schema has.
#[derive(Deserialize)]
struct Header {
    schema: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"{"schema":1,"versions":{"mixce":"0.1.0"},"settings":{"seeds":[1]},"metric":"mauve","seconds":2.5,
        "human":[{"corpus":"wiki","model":"gpt2","max_length":128,"split":"valid","file":"human/a.jsonl","diversity":0.9}],
        "cells":[{"id":"a","group":{"corpus":"wiki","model":"gpt2","train_size":null,"max_length":128},"objective":"mle","role":"control",
          "control":"top_p","decoding":{"temperature":1.0,"top_p":0.9},"seed":1,"folder":"cells/a","model":"cells/b/run/best","status":"done",
          "error":null,"seconds":1.0,"valid":{"perplexity":2.0,"nll":0.6931471805599453,"scores":[{"diversity":0.8,
          "mauve":{"mean":0.5,"std":0.1,"values":[0.4,0.6]},"coherence":null}]},"test":null}],
        "chosen":[{"group":{"corpus":"wiki","model":"gpt2","train_size":null,"max_length":128},"metric":"mauve","objective":"mixce:eta=0.3",
          "mean":0.5,"std":null,"n":1,"ties":["mle"]}]}"#;

    #[test]
    fn the_file_is_read_and_written_as_documented() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(FILE), TEXT).unwrap();
        let results = Results::read(folder.path()).unwrap();
        assert_eq!(serde_json::to_value(&results).unwrap(), serde_json::from_str::<Value>(TEXT).unwrap());
        let scores = &results.cells[0].valid.as_ref().unwrap().scores[0];
        assert_eq!(scores.value("diversity"), Some(0.8));
        assert_eq!(scores.value("mauve"), Some(0.5));
        assert_eq!(scores.value("coherence"), None);
        assert_eq!(scores.value("zipf"), None);
        assert_eq!(results.human[0].scores.value("diversity"), Some(0.9));
    }

    #[test]
    fn another_schema_is_refused_before_its_keys() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        fs::write(&path, r#"{"schema":7}"#).unwrap();
        let message = Results::read(&path).unwrap_err().to_string();
        assert!(message.ends_with("has schema 7, expected 1"), "{message}");
        fs::write(&path, "{").unwrap();
        assert!(matches!(Results::read(&path), Err(Error::NotResults { .. })));
        fs::remove_file(&path).unwrap();
        assert!(matches!(Results::read(&path), Err(Error::Read { .. })));
    }
}
