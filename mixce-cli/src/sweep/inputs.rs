//! Data files and models of a grid: digests for the cells' keys, and files of the first documents of a corpus.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::BufReader;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use mixce_base::digest::{hex, sha256};
use mixce_base::files::AtomicFile;
use mixce_data::{Input, ReadSettings};
use mixce_report::results::Group;
use mixce_sweep::{Corpus, Files, Model, Settings};
use mixce_train::config::TrainConfig;
use serde_json::{Value, json};

use crate::error::Problem;
use crate::models;

/// Settings of training that do not change the model, and names for which the key has digests.
const WITHOUT_EFFECT: [&str; 12] = [
    "model",
    "from_config",
    "tokenizer",
    "train",
    "valid",
    "cache_dir",
    "device",
    "threads",
    "log_every",
    "save_every",
    "keep_last",
    "shard_optimizer",
];

/// A file set of a corpus.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    Train,
    Valid,
    Test,
}

impl Part {
    fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Valid => "valid",
            Self::Test => "test",
        }
    }

    fn files(self, corpus: &Corpus) -> &Files {
        match self {
            Self::Train => &corpus.train,
            Self::Valid => &corpus.valid,
            Self::Test => &corpus.test,
        }
    }
}

/// Data files and how they are read.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Data {
    pub(super) files: Vec<PathBuf>,
    /// Keys of training settings.
    pub(super) reading: toml::Table,
}

/// The inputs of a grid with their digests.
#[derive(Debug)]
pub(super) struct Inputs {
    /// Digests of the files of corpora.
    corpora: BTreeMap<(String, Part), Vec<String>>,
    /// Digests of models, or their names if they are on the hub.
    models: BTreeMap<String, String>,
}

impl Inputs {
    /// Finds and digests everything. Fails if a file is missing.
    pub(super) fn read(settings: &Settings) -> Result<Self> {
        let mut inputs = Self { corpora: BTreeMap::new(), models: BTreeMap::new() };
        for (name, corpus) in &settings.corpora {
            for part in [Part::Train, Part::Valid, Part::Test] {
                if part.files(corpus).0.iter().any(|file| file == "-") {
                    let problem = format!(
                        "`{}` of corpus `{name}`: standard input can be read only once, not by every cell",
                        part.name()
                    );
                    return Err(Problem::new(problem).hint("write it to a file first").into());
                }
                let input = open(part.files(corpus), &corpus.reading)
                    .with_context(|| format!("`{}` of corpus `{name}`", part.name()))?;
                let digests = input.paths().map(digest).collect::<Result<_>>()?;
                inputs.corpora.insert((name.clone(), part), digests);
            }
        }
        for (name, model) in &settings.models {
            inputs.models.insert(name.clone(), digest_of_model(model)?);
        }
        Ok(inputs)
    }

    /// The digests of a corpus's files.
    pub(super) fn digests(&self, corpus: &str, part: Part) -> &[String] {
        self.corpora.get(&(corpus.to_owned(), part)).map_or(&[], Vec::as_slice)
    }

    /// What decides a trained model.
    pub(super) fn training(&self, config: &TrainConfig, group: &Group) -> Result<Value> {
        let mut config = serde_json::to_value(config)?;
        if let Some(config) = config.as_object_mut() {
            config.retain(|key, _| !WITHOUT_EFFECT.contains(&key.as_str()));
        }
        Ok(json!({
            "config": config,
            "train_size": group.train_size,
            "train": self.digests(&group.corpus, Part::Train),
            "valid": self.digests(&group.corpus, Part::Valid),
            "model": self.models.get(&group.model),
        }))
    }
}

/// The data of a corpus, or a file of its first documents.
pub(super) fn data(out: &Path, name: &str, corpus: &Corpus, part: Part, limit: Option<u64>) -> Data {
    match limit {
        None => Data {
            files: part.files(corpus).0.iter().map(PathBuf::from).collect(),
            reading: corpus.reading.clone(),
        },
        Some(n) => copied(out, name, part, &n.to_string()),
    }
}

fn copied(out: &Path, name: &str, part: Part, size: &str) -> Data {
    let file = out.join("data").join(format!("{name}-{}-{size}.jsonl", part.name()));
    Data { files: vec![file], reading: toml::Table::new() }
}

/// Training and development data of a cell. Both are read with the same settings, so if the first is a copy, the other must be one too where
/// the corpus needs settings.
pub(super) fn training_data(out: &Path, name: &str, corpus: &Corpus, size: Option<u64>) -> (Data, Data) {
    let train = data(out, name, corpus, Part::Train, size);
    let valid = match size {
        Some(_) if !corpus.reading.is_empty() => copied(out, name, Part::Valid, "all"),
        _ => data(out, name, corpus, Part::Valid, None),
    };
    (train, valid)
}

/// Writes all files of first documents that the cells need.
pub(super) fn write_copies(out: &Path, settings: &Settings) -> Result<()> {
    for (name, corpus) in &settings.corpora {
        let sizes: Vec<u64> = settings.train_sizes.iter().filter_map(|size| size.limit()).collect();
        for size in &sizes {
            copy(out, name, corpus, Part::Train, Some(*size))?;
        }
        if !sizes.is_empty() && !corpus.reading.is_empty() {
            copy(out, name, corpus, Part::Valid, None)?;
        }
        if let Some(documents) = settings.evaluate.documents {
            copy(out, name, corpus, Part::Valid, Some(documents))?;
            copy(out, name, corpus, Part::Test, Some(documents))?;
        }
    }
    Ok(())
}

/// Copies the first documents with text as JSON lines. The same input gives the same bytes, so a copy of several processes is no conflict.
fn copy(out: &Path, name: &str, corpus: &Corpus, part: Part, limit: Option<u64>) -> Result<()> {
    let size = limit.map_or_else(|| "all".to_owned(), |n| n.to_string());
    let target = copied(out, name, part, &size).files.remove(0);
    let input = open(part.files(corpus), &corpus.reading)?;
    let mut file = AtomicFile::create(&target)?;
    let mut written = 0;
    for document in input.documents() {
        if limit.is_some_and(|limit| written >= limit) {
            break;
        }
        let text = document?.text;
        if !text.trim().is_empty() {
            file.put(format!("{}\n", json!({"text": text})).as_bytes())?;
            written += 1;
        }
    }
    if let Some(limit) = limit.filter(|limit| written < *limit) {
        tracing::warn!("corpus `{name}`: `{}` has {written} documents with text, not {limit}", part.name());
    }
    Ok(file.finish()?)
}

/// The documents and their bytes, at most so many.
pub(super) fn lengths(corpus: &Corpus, part: Part, limit: Option<u64>) -> Result<Vec<usize>> {
    let input = open(part.files(corpus), &corpus.reading)?;
    let limit = limit.map_or(usize::MAX, |n| usize::try_from(n).unwrap_or(usize::MAX));
    let with_text = |length: &Result<usize>| !matches!(length, Ok(0));
    input.documents().map(|document| Ok(document?.text.trim().len())).filter(with_text).take(limit).collect()
}

fn open(files: &Files, reading: &toml::Table) -> Result<Input> {
    Ok(Input::open(&files.0, read_settings(reading)?)?)
}

fn read_settings(reading: &toml::Table) -> Result<ReadSettings> {
    Ok(super::resolve::train_config(reading, "a corpus")?.reading())
}

fn digest(path: &Path) -> Result<String> {
    let told = || format!("cannot read `{}`", path.display());
    let file = File::open(path).with_context(told)?;
    Ok(hex(&sha256(&mut BufReader::new(file)).with_context(told)?))
}

/// A digest of a local model's files; the name of one on the hub.
fn digest_of_model(model: &Model) -> Result<String> {
    let named = [&model.model, &model.from_config, &model.tokenizer].map(|name| match name {
        None => Ok(Value::Null),
        Some(name) => match models::known_model(name)?
            .or_else(|| Some(PathBuf::from(name)))
            .filter(|path| path.exists())
        {
            None => Ok(json!(name)),
            Some(path) => Ok(json!(digests_in(&path)?)),
        },
    });
    let named: Vec<Value> = named.into_iter().collect::<Result<_>>()?;
    Ok(super::folder::key_of(&json!(named)))
}

/// The digests of a file, or of the files in a folder, by name.
fn digests_in(path: &Path) -> Result<BTreeMap<String, String>> {
    if path.is_file() {
        return Ok([(String::new(), digest(path)?)].into());
    }
    let told = || format!("cannot read `{}`", path.display());
    let mut digests = BTreeMap::new();
    for entry in fs::read_dir(path).with_context(told)? {
        let path = entry.with_context(told)?.path();
        if let Some(name) = path.file_name().map(|name| name.to_string_lossy().into_owned())
            && path.is_file()
            && !name.starts_with('.')
        {
            digests.insert(name, digest(&path)?);
        }
    }
    Ok(digests)
}

impl Data {
    /// Puts the reading settings into a configuration.
    pub(super) fn into_config(self, config: &mut TrainConfig) -> Result<()> {
        let reading = super::resolve::train_config(&self.reading, "a corpus")?;
        config.text_column = reading.text_column;
        config.document_separator = reading.document_separator;
        config.skip_bad_rows = reading.skip_bad_rows;
        config.data_format = reading.data_format;
        config.delimiter = reading.delimiter;
        config.no_header = reading.no_header;
        Ok(())
    }
}
