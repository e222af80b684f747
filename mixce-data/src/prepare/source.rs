//! The files of each split.
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::TempDir;

use super::archive;
use super::collection::Collection;
use crate::error::{Error, Result};
use crate::input::{Documents, Format, Input, ReadSettings};

/// Endings of files that are taken for data.
const DATA_ENDINGS: [&str; 13] = [
    "txt",
    "raw",
    "tokens",
    "text",
    "jsonl",
    "ndjson",
    "json",
    "csv",
    "tsv",
    "parquet",
    "wp_source",
    "wp_target",
    "lines",
];
/// Folders below the given one that are searched.
const MAX_DEPTH: usize = 3;

/// A part of a data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// To learn from.
    Train,
    /// To choose models by.
    Valid,
    /// To report on.
    Test,
}

impl Split {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Train, Self::Valid, Self::Test];

    /// `train`, `valid` or `test`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Valid => "valid",
            Self::Test => "test",
        }
    }

    /// By the name of a file, or else of the folder it lies in, as in `wikitext-103-raw-v1/train/0000.parquet`.
    #[must_use]
    pub fn of_path(path: &Path) -> Option<Self> {
        Self::of(&file_name(path)).or_else(|| Self::of(&file_name(path.parent()?)))
    }

    /// By a word of a file's name: `wiki.train.raw`, `validation-00000-of-00001.parquet`.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        let name = name.to_ascii_lowercase();
        name.split(|c: char| !c.is_ascii_alphabetic()).find_map(|word| match word {
            "train" | "training" => Some(Self::Train),
            "valid" | "validation" | "val" | "dev" => Some(Self::Valid),
            "test" => Some(Self::Test),
            _ => None,
        })
    }
}

/// The documents of one split.
#[derive(Clone, Debug)]
pub struct SplitSource {
    /// The text, or the prompts.
    first: Input,
    /// The stories that belong to the prompts, line by line.
    second: Option<Input>,
    /// Files that were unpacked for this.
    _folder: Option<Arc<TempDir>>,
}

impl SplitSource {
    /// A split that lies in some files.
    #[must_use]
    pub fn new(input: Input) -> Self {
        Self { first: input, second: None, _folder: None }
    }

    /// The documents, those of two files joined by a space.
    #[must_use]
    pub fn documents(&self) -> SplitDocuments<'_> {
        SplitDocuments { first: self.first.documents(), second: self.second.as_ref().map(Input::documents) }
    }

    /// What it is called in messages.
    #[must_use]
    pub fn name(&self) -> String {
        self.first.name()
    }
}

/// The texts of a split.
#[derive(Debug)]
pub struct SplitDocuments<'a> {
    first: Documents<'a>,
    second: Option<Documents<'a>>,
}

impl Iterator for SplitDocuments<'_> {
    type Item = Result<String>;

    fn next(&mut self) -> Option<Self::Item> {
        let first = self.first.next();
        let Some(second) = &mut self.second else { return first.map(|d| d.map(|d| d.text)) };
        match (first, second.next()) {
            (Some(Ok(prompt)), Some(Ok(story))) => {
                Some(Ok(format!("{} {}", prompt.text.trim(), story.text.trim())))
            }
            (Some(Err(error)), _) | (_, Some(Err(error))) => Some(Err(error)),
            (None, None) => None,
            (Some(Ok(more)), None) => Some(Err(uneven(&more.path, more.place.number(), "targets"))),
            (None, Some(Ok(more))) => Some(Err(uneven(&more.path, more.place.number(), "sources"))),
        }
    }
}

fn uneven(path: &Path, line: u64, missing: &str) -> Error {
    Error::Incomplete {
        path: path.into(),
        missing: format!("partner for line {line}: there are fewer {missing}"),
    }
}

/// Finds the splits of a collection in a folder, an archive or a file.
///
/// In a folder and an archive, files belong to a split by their names; with `config`, only those below a folder of that name count. A single
/// file is the training split.
///
/// # Errors
/// [`Error::Incomplete`] without a training split; errors of the files.
pub fn find(
    path: &Path,
    collection: Collection,
    config: Option<&str>,
    settings: &ReadSettings,
) -> Result<[Option<SplitSource>; 3]> {
    let data = std::fs::metadata(path).map_err(Error::io("read", path))?;
    if archive::is_archive(path) {
        let folder = Arc::new(archive::unpack(path)?);
        let splits = in_folder(folder.path(), path, collection, config, settings)?;
        return Ok(splits
            .map(|split| split.map(|split| SplitSource { _folder: Some(Arc::clone(&folder)), ..split })));
    }
    if data.is_dir() {
        return in_folder(path, path, collection, config, settings);
    }
    let train =
        SplitSource::new(Input::open(&[path], for_collection(&[path.to_owned()], collection, settings))?);
    Ok([Some(train), None, None])
}

fn in_folder(
    folder: &Path,
    shown: &Path,
    collection: Collection,
    config: Option<&str>,
    settings: &ReadSettings,
) -> Result<[Option<SplitSource>; 3]> {
    let mut files = Vec::new();
    collect(folder, 0, &mut files)?;
    files.sort();
    let relative = |path: &PathBuf| path.strip_prefix(folder).unwrap_or(path).to_owned();
    if let Some(config) = config {
        files.retain(|path| relative(path).parent().is_some_and(|p| p.iter().any(|part| part == config)));
        if files.is_empty() {
            let missing = format!("data files below a folder `{config}`");
            return Err(Error::Incomplete { path: shown.into(), missing });
        }
    }
    if collection == Collection::Webtext && files.iter().any(|path| file_name(path).starts_with("webtext.")) {
        // OpenAI's folder holds the models' outputs too.
        files.retain(|path| file_name(path).starts_with("webtext."));
    }
    of_files(shown, &files, collection, settings)
}

/// Sorts files into splits by their names. If no name speaks of a split, all are the training split.
///
/// # Errors
/// [`Error::Incomplete`] without a training split, [`Error::Settings`] if the files of a split lie in several folders; errors of the files.
pub fn of_files(
    shown: &Path,
    files: &[PathBuf],
    collection: Collection,
    settings: &ReadSettings,
) -> Result<[Option<SplitSource>; 3]> {
    let nameless = files.iter().all(|path| Split::of_path(path).is_none());
    let mut splits = [None, None, None];
    for (split, slot) in Split::ALL.into_iter().zip(&mut splits) {
        let belongs = |path: &&PathBuf| match Split::of_path(path) {
            None => nameless && split == Split::Train,
            known => known == Some(split),
        };
        let own: Vec<PathBuf> = files.iter().filter(belongs).cloned().collect();
        one_folder(&own, shown, split)?;
        *slot = open_split(&own, collection, settings)?;
    }
    if splits[0].is_none() {
        let missing = "file of a training split (such as `train.txt` or `train-00000-of-00001.parquet`)";
        return Err(Error::Incomplete { path: shown.into(), missing: missing.into() });
    }
    Ok(splits)
}

/// Which files of a data set's repository are data: those below a folder `config` (if one is named), of the split `split` (a word of the file's or its
/// folder's name), or else of any split. Parquet is taken where there is any.
#[must_use]
pub fn choose_files(names: &[String], config: Option<&str>, split: Option<&str>) -> Vec<String> {
    let in_config = |name: &&String| {
        config.is_none_or(|config| name.split('/').rev().skip(1).any(|folder| folder == config))
    };
    let data: Vec<&String> = names.iter().filter(|name| is_data(Path::new(name))).filter(in_config).collect();
    let words = |name: &str| -> Vec<String> {
        let (folder, file) = name.rsplit_once('/').unwrap_or(("", name));
        let own = file.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        own.chain(folder.rsplit('/').take(1)).map(str::to_ascii_lowercase).collect()
    };
    let mut chosen: Vec<&String> = match split {
        Some(split) => {
            let split = split.to_ascii_lowercase();
            data.iter().copied().filter(|name| words(name).contains(&split)).collect()
        }
        None => data.iter().copied().filter(|name| Split::of_path(Path::new(name)).is_some()).collect(),
    };
    if chosen.is_empty() && split.is_none() {
        // Such as `stories.jsonl`; but a lone `.json` is rather a description.
        chosen = data.into_iter().filter(|name| !name.ends_with(".json")).collect();
    }
    if chosen.iter().any(|name| name.ends_with(".parquet")) {
        chosen.retain(|name| name.ends_with(".parquet"));
    }
    chosen.sort();
    chosen.into_iter().cloned().collect()
}

/// Refuses to mix two configurations of a data set, which lie in folders of their own.
fn one_folder(files: &[PathBuf], shown: &Path, split: Split) -> Result<()> {
    let other = files.iter().find(|path| path.parent() != files[0].parent());
    match other {
        None => Ok(()),
        Some(other) => Err(Error::Settings(format!(
            "`{}` has files of the {} split in several folders, `{}` and `{}`: choose one with `--config`, or name a folder",
            shown.display(),
            split.name(),
            files[0].display(),
            other.display()
        ))),
    }
}

fn open_split(
    files: &[PathBuf],
    collection: Collection,
    settings: &ReadSettings,
) -> Result<Option<SplitSource>> {
    let with = |ending: &str| -> Vec<PathBuf> {
        files.iter().filter(|path| path.extension().is_some_and(|e| e == ending)).cloned().collect()
    };
    let (prompts, stories) = (with("wp_source"), with("wp_target"));
    if !prompts.is_empty() || !stories.is_empty() {
        let first = Input::open(&prompts, settings.clone())?;
        let second = Some(Input::open(&stories, settings.clone())?);
        return Ok(Some(SplitSource { first, second, _folder: None }));
    }
    if files.is_empty() {
        return Ok(None);
    }
    Ok(Some(SplitSource::new(Input::open(files, for_collection(files, collection, settings))?)))
}

/// The columns of the collection, where the user names none and the files are tables.
fn for_collection(files: &[PathBuf], collection: Collection, settings: &ReadSettings) -> ReadSettings {
    let mut settings = settings.clone();
    let tables =
        files.iter().all(|path| settings.data_format.unwrap_or_else(|| Format::of(path)) != Format::Text);
    if settings.text_column.is_empty() && tables {
        settings.text_column.0 = collection.columns().iter().map(|name| (*name).to_owned()).collect();
    }
    settings
}

fn collect(folder: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(folder).map_err(Error::io("read", folder))? {
        let path = entry.map_err(Error::io("read", folder))?.path();
        if file_name(&path).starts_with('.') {
            continue;
        }
        if path.is_dir() && depth < MAX_DEPTH {
            collect(&path, depth + 1, files)?;
        } else if path.is_file() && is_data(&path) {
            files.push(path);
        }
    }
    Ok(())
}

fn is_data(path: &Path) -> bool {
    let name = file_name(path).to_ascii_lowercase();
    let plain = [".gz", ".zst", ".zstd"].iter().find_map(|e| name.strip_suffix(e)).unwrap_or(&name);
    plain.rsplit_once('.').is_some_and(|(_, ending)| DATA_ENDINGS.contains(&ending))
}

fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}
