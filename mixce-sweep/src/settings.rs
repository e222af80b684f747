//! The settings of a grid, as its TOML file has them.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::{Error, Result};
use crate::keys::{self, KnownKeys};

/// How the data files of a corpus are read; keys of [`Corpus::reading`].
pub const READING: [&str; 6] =
    ["text_column", "document_separator", "skip_bad_rows", "data_format", "delimiter", "no_header"];

/// A grid: corpora x models x training sizes x maximum lengths x objectives x seeds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Folder of the results. Not part of the resolved settings: a folder can be moved.
    #[serde(skip_serializing)]
    pub out: Option<PathBuf>,
    /// Development metric of the choice.
    pub metric: String,
    /// Objectives, `NAME` or `NAME:parameter=value,..`.
    pub objectives: Vec<String>,
    /// Seeds of training and sampling.
    pub seeds: Vec<u64>,
    /// Numbers of training documents.
    pub train_sizes: Vec<TrainSize>,
    /// Longest documents and samples in tokens.
    pub max_lengths: Vec<u64>,
    /// Keep the checkpoints and the last model of finished training runs.
    pub keep_checkpoints: bool,
    /// The corpora by name.
    pub corpora: BTreeMap<String, Corpus>,
    /// The models by name.
    pub models: BTreeMap<String, Model>,
    /// Settings of training, shared by all models.
    pub train: toml::Table,
    /// How cells are evaluated.
    pub evaluate: Evaluate,
    /// The controls.
    pub controls: Controls,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            out: None,
            metric: "mauve".to_owned(),
            objectives: Vec::new(),
            seeds: vec![42],
            train_sizes: vec![TrainSize::All],
            max_lengths: vec![512],
            keep_checkpoints: false,
            corpora: BTreeMap::new(),
            models: BTreeMap::new(),
            train: toml::Table::new(),
            evaluate: Evaluate::default(),
            controls: Controls::default(),
        }
    }
}

/// A corpus.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Corpus {
    /// Training documents.
    pub train: Files,
    /// Development documents.
    pub valid: Files,
    /// Test documents.
    pub test: Files,
    /// How they are read: keys of [`READING`].
    #[serde(flatten)]
    pub reading: toml::Table,
}

/// A model.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Model {
    /// Model to finetune.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Train from scratch: a `config.json`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from_config: Option<String>,
    /// Its tokenizer; default: that of `model`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<String>,
    /// Settings of training that override the shared ones.
    pub train: toml::Table,
}

/// How cells are evaluated.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Evaluate {
    /// Tokens of a prompt.
    pub prompt_length: u64,
    /// Sampling runs.
    pub samplings: u64,
    /// Documents that are continued and scored; none: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub documents: Option<u64>,
    /// Metrics to compute.
    pub metrics: Vec<String>,
    /// Tokenizer for n-grams and lengths; default: that of the only model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<String>,
    /// Model for the features of MAUVE.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub featurizer: Option<String>,
    /// Model for the embeddings of coherence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub embedder: Option<String>,
    /// Samples per batch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch_size: Option<u64>,
    /// Number format of matrix products in evaluation, sampling and scoring.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub precision: Option<String>,
    /// Seed of the metrics.
    pub seed: u64,
    /// Settings of the metrics.
    pub settings: toml::Table,
}

impl Default for Evaluate {
    /// The paper's evaluation, without coherence.
    fn default() -> Self {
        Self {
            prompt_length: 50,
            samplings: 3,
            documents: None,
            metrics: ["diversity", "repetition", "mauve"].map(str::to_owned).to_vec(),
            tokenizer: None,
            featurizer: None,
            embedder: None,
            batch_size: None,
            precision: None,
            seed: 42,
            settings: toml::Table::new(),
        }
    }
}

/// The controls: other ways to sample the MLE models. An empty list leaves a control out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Controls {
    /// Values of top-p to try.
    pub top_p: Vec<f64>,
    /// Temperatures to interpolate between; 1 is known from the MLE cells.
    pub temperature: Vec<f64>,
    /// Sampling runs of each value while tuning.
    pub samplings: u64,
}

impl Default for Controls {
    fn default() -> Self {
        Self {
            top_p: vec![0.7, 0.8, 0.85, 0.9, 0.95],
            temperature: vec![0.5, 0.6, 0.7, 0.8, 0.9],
            samplings: 1,
        }
    }
}

/// Number of training documents: the first so many, or all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrainSize {
    /// All documents.
    All,
    /// The first so many.
    First(u64),
}

impl TrainSize {
    /// The number; none for all.
    #[must_use]
    pub fn limit(self) -> Option<u64> {
        match self {
            Self::All => None,
            Self::First(n) => Some(n),
        }
    }
}

impl fmt::Display for TrainSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::First(n) => write!(f, "{n}"),
        }
    }
}

impl std::str::FromStr for TrainSize {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match (text, text.parse()) {
            ("all", _) => Ok(Self::All),
            (_, Ok(n)) if n > 0 => Ok(Self::First(n)),
            _ => Err(format!("expected `all` or a number of documents above 0, got `{text}`")),
        }
    }
}

impl Serialize for TrainSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        match self {
            Self::All => serializer.serialize_str("all"),
            Self::First(n) => serializer.serialize_u64(*n),
        }
    }
}

impl<'de> Deserialize<'de> for TrainSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "expected `all` or a number of documents")]
        enum Written {
            Word(String),
            Number(i64),
        }
        let text = match Written::deserialize(deserializer)? {
            Written::Word(word) => word,
            Written::Number(n) => n.to_string(),
        };
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// One or more data files: paths or patterns. In TOML a single name needs no brackets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files(pub Vec<String>);

impl Serialize for Files {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        match self.0.as_slice() {
            [one] => one.serialize(serializer),
            many => many.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Files {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "expected a path or a list of paths")]
        enum Written {
            One(String),
            Many(Vec<String>),
        }
        Ok(Self(match Written::deserialize(deserializer)? {
            Written::One(one) => vec![one],
            Written::Many(many) => many,
        }))
    }
}

impl Settings {
    /// Reads a file. Call [`Self::validate`] once flags have been applied.
    ///
    /// # Errors
    /// [`Error::Read`], or [`Error::File`] with the line and, for an unknown key, the nearest known one.
    pub fn read(path: &Path, known: &KnownKeys<'_>) -> Result<Self> {
        let text = fs::read_to_string(path).map_err(|source| Error::Read { path: path.into(), source })?;
        Self::parse(&text, path, known)
    }

    /// Reads text; `path` is only used in messages.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn parse(text: &str, path: &Path, known: &KnownKeys<'_>) -> Result<Self> {
        keys::check(text, path, known)?;
        toml::from_str(text).map_err(|error| keys::located(&error, text, path))
    }

    /// The settings as TOML text, which reads back to the same without `out`.
    ///
    /// # Errors
    /// [`Error::Settings`] for a value that TOML cannot hold (such as a seed above 2^63 - 1).
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string(self)
            .map_err(|error| Error::settings(format!("cannot write the settings as TOML: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use mixce_base::Hint as _;

    use super::*;

    const KNOWN: KnownKeys<'_> =
        KnownKeys { train: &["lr", "epochs", "batch_size"], score: &["mauve_seeds"] };

    const TEXT: &str = r#"
out = "runs/a"
objectives = ["mle", "mixce:eta=0.3"]
seeds = [1, 2]
train_sizes = [100, "all"]
max_lengths = [64]

[corpora.wiki]
train = ["a.txt", "b.txt"]
valid = "v.txt"
test = "t.txt"
text_column = "story"

[models.gpt2]
model = "openai-community/gpt2"
[models.gpt2.train]
lr = 1e-4

[train]
epochs = 2

[evaluate]
samplings = 2
[evaluate.settings]
mauve_seeds = 3

[controls]
top_p = []
"#;

    fn parse(text: &str) -> Result<Settings> {
        Settings::parse(text, Path::new("grid.toml"), &KNOWN)
    }

    fn refused(text: &str) -> (String, Option<String>) {
        let error = parse(text).unwrap_err();
        (error.to_string(), error.hint())
    }

    #[test]
    fn a_file_is_read_over_the_defaults() {
        let settings = parse(TEXT).unwrap();
        assert_eq!(settings.out.as_deref(), Some(Path::new("runs/a")));
        assert_eq!(settings.train_sizes, [TrainSize::First(100), TrainSize::All]);
        assert_eq!(settings.corpora["wiki"].train.0, ["a.txt", "b.txt"]);
        assert_eq!(settings.corpora["wiki"].reading["text_column"].as_str(), Some("story"));
        assert_eq!(settings.models["gpt2"].train["lr"].as_float(), Some(1e-4));
        assert_eq!((settings.evaluate.samplings, settings.evaluate.prompt_length), (2, 50));
        assert_eq!(settings.controls.temperature, Controls::default().temperature);
        assert!(settings.controls.top_p.is_empty());
    }

    #[test]
    fn written_settings_read_back_without_their_folder() {
        let settings = parse(TEXT).unwrap();
        let text = settings.to_toml().unwrap();
        assert!(!text.contains("runs/a"), "{text}");
        assert_eq!(parse(&text).unwrap(), Settings { out: None, ..settings });
    }

    #[test]
    fn unknown_keys_are_refused_at_every_level_with_the_nearest() {
        let (error, hint) = refused("seed = [1]\n");
        assert_eq!(error, "`grid.toml`: line 1: unknown key `seed`");
        assert_eq!(hint.as_deref(), Some("did you mean `seeds`?"));
        for (from, to, line, table, nearest) in [
            ("valid =", "vaild =", 10, "corpora.wiki", "valid"),
            ("model =", "modle =", 15, "models.gpt2", "model"),
            ("lr =", "rl =", 17, "models.gpt2.train", "lr"),
            ("epochs =", "epoch =", 20, "train", "epochs"),
            ("samplings =", "sampling =", 23, "evaluate", "samplings"),
            ("mauve_seeds =", "mauve_seed =", 25, "evaluate.settings", "mauve_seeds"),
            ("top_p =", "topp =", 28, "controls", "top_p"),
        ] {
            let (error, hint) = refused(&TEXT.replace(from, to));
            let key = to.trim_end_matches(" =");
            assert_eq!(error, format!("`grid.toml`: line {line}: unknown key `{key}` in `[{table}]`"));
            assert_eq!(hint, Some(format!("did you mean `{nearest}`?")));
        }
        assert_eq!(refused("zzz = 1\n").1, None);
    }

    #[test]
    fn wrong_values_name_the_line() {
        for (text, words) in [
            ("metric = \"mauve\"\nseeds = [\"a\"]\n", "line 2: invalid type: string \"a\", expected u64"),
            ("train_sizes = [0]\n", "line 1: expected `all` or a number of documents above 0, got `0`"),
            ("seeds = = 3\n", "line 1: "),
            ("\n[corpora.a]\ntrain = 3\nvalid = \"v\"\ntest = \"t\"\n", "expected a path or a list of paths"),
        ] {
            let (error, _) = refused(text);
            assert!(error.contains(words) && !error.contains('\n'), "{error}");
        }
        assert!(
            Settings::read(Path::new("no/such.toml"), &KNOWN)
                .unwrap_err()
                .to_string()
                .contains("no/such.toml")
        );
    }
}
