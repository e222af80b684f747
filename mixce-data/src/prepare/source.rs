//! The documents of each split.
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::archive::{self, Unpacked};
use super::collection::Collection;
use super::files::{SourceFile, Unused, file_name, is_archive, listed};
use super::folder;
use super::split::{Assignment, Split, assign};
use crate::error::{Error, Result};
use crate::input::{Documents, Format, Input, ReadSettings};

/// The hint if names do not determine the splits.
const RENAME: &str = "name files or folders `train`, `valid` and `test`, or give one file or folder alone";

/// The splits of a source, and what is not used of it.
#[derive(Clone, Debug, Default)]
pub struct Source {
    /// Train, valid and test, as far as there are files of them.
    pub splits: [Option<SplitSource>; 3],
    /// Every file that was found and belongs to none of them.
    pub unused: Vec<Unused>,
}

impl Source {
    /// A source whose only split is the training one.
    #[must_use]
    pub fn training(input: Input) -> Self {
        Self { splits: [Some(SplitSource::new(input)), None, None], unused: Vec::new() }
    }
}

/// The documents of one split.
#[derive(Clone, Debug)]
pub struct SplitSource {
    /// The text, or the prompts.
    first: Input,
    /// The stories that belong to the prompts, line by line.
    second: Option<Input>,
    /// The archive that the files were unpacked from.
    unpacked: Option<Arc<Unpacked>>,
}

impl SplitSource {
    /// A split that is in some files.
    #[must_use]
    pub fn new(input: Input) -> Self {
        Self { first: input, second: None, unpacked: None }
    }

    /// The documents, those of two files joined by a space.
    #[must_use]
    pub fn documents(&self) -> SplitDocuments<'_> {
        SplitDocuments {
            first: self.first.documents(),
            second: self.second.as_ref().map(Input::documents),
            unpacked: self.unpacked.as_deref(),
        }
    }

    /// The files, those of an archive by their names in it.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        let inputs = std::iter::once(&self.first).chain(&self.second);
        inputs.flat_map(Input::paths).map(|path| shown(self.unpacked.as_deref(), path)).collect()
    }
}

/// What a file is called in messages.
fn shown(unpacked: Option<&Unpacked>, path: &Path) -> PathBuf {
    unpacked.and_then(|unpacked| unpacked.shown(path)).unwrap_or(path).to_owned()
}

/// The texts of a split.
#[derive(Debug)]
pub struct SplitDocuments<'a> {
    first: Documents<'a>,
    second: Option<Documents<'a>>,
    unpacked: Option<&'a Unpacked>,
}

impl Iterator for SplitDocuments<'_> {
    type Item = Result<String>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.next_text()?;
        Some(next.map_err(|error| error.with_paths(&|path| shown(self.unpacked, path))))
    }
}

impl SplitDocuments<'_> {
    fn next_text(&mut self) -> Option<Result<String>> {
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
/// In a folder and an archive, files belong to a split by their names below it (see [`Split`]); with `config`, only those below a folder of that
/// name count. A single file is the training split.
///
/// # Errors
/// As [`of_files`]; [`Error::Incomplete`] without a data file; errors of the archive.
pub fn find(
    path: &Path,
    collection: Collection,
    config: Option<&str>,
    settings: &ReadSettings,
) -> Result<Source> {
    let data = std::fs::metadata(path).map_err(Error::io("read", path))?;
    let (unpacked, files, unused) = if data.is_dir() {
        let (files, unused) = folder::walk(path)?;
        (None, files, unused)
    } else if is_archive(path) {
        let mut unpacked = archive::unpack(path)?;
        let unused = std::mem::take(&mut unpacked.unused);
        let unpacked = Arc::new(unpacked);
        (Some(Arc::clone(&unpacked)), unpacked.files.clone(), unused)
    } else {
        if let Some(config) = config {
            let problem = format!(
                "the configuration `{config}` is a folder within a source, and `{}` is a file",
                path.display()
            );
            return Err(Error::Settings(problem));
        }
        let settings = for_collection(&[path.to_owned()], collection, settings);
        return Ok(Source::training(Input::open(&[path], settings)?));
    };
    if files.is_empty() {
        return Err(Error::Incomplete { path: path.into(), missing: no_data(&unused) });
    }
    let mut source = Source { unused, ..Source::default() };
    let files = source.choose(path, files, collection, config)?;
    source.sort(path, files, collection, settings)?;
    for split in source.splits.iter_mut().flatten() {
        split.unpacked.clone_from(&unpacked);
    }
    Ok(source)
}

fn no_data(unused: &[Unused]) -> String {
    let names: Vec<&Path> = unused.iter().map(|file| file.name.as_path()).collect();
    match names.as_slice() {
        [] => "data file: it is empty".to_owned(),
        names => format!("data file (`.txt`, `.jsonl`, `.csv`, `.parquet`, ...), only {}", listed(names)),
    }
}

/// Sorts files below the folder `root`, which is called `shown` in messages, into splits by their names.
///
/// # Errors
/// [`Error::Splits`] if the names leave the splits open, or speak of several data sets; [`Error::Incomplete`] without a training split; errors of
/// the files.
pub fn of_files(
    root: &Path,
    shown: &Path,
    files: &[PathBuf],
    collection: Collection,
    settings: &ReadSettings,
) -> Result<Source> {
    let named = |path: &PathBuf| SourceFile {
        name: path.strip_prefix(root).unwrap_or(path).to_owned(),
        path: path.clone(),
    };
    let mut source = Source::default();
    source.sort(shown, files.iter().map(named).collect(), collection, settings)?;
    Ok(source)
}

impl Source {
    /// The files of the configuration, and of OpenAI's folder those that people wrote.
    fn choose(
        &mut self,
        shown: &Path,
        mut files: Vec<SourceFile>,
        collection: Collection,
        config: Option<&str>,
    ) -> Result<Vec<SourceFile>> {
        if let Some(config) = config {
            let is_below =
                |name: &Path| name.parent().is_some_and(|folder| folder.iter().any(|part| part == config));
            files = self.keep(files, Unused::OTHER_CONFIG, |file| is_below(&file.name));
            if files.is_empty() {
                let missing = format!("data files below a folder `{config}`");
                return Err(Error::Incomplete { path: shown.into(), missing });
            }
        }
        let is_webtext = |file: &SourceFile| file_name(&file.name).starts_with("webtext.");
        if collection == Collection::Webtext && files.iter().any(is_webtext) {
            files = self.keep(files, Unused::MODEL_OUTPUT, is_webtext);
        }
        Ok(files)
    }

    fn keep(
        &mut self,
        files: Vec<SourceFile>,
        reason: &'static str,
        keep: impl Fn(&SourceFile) -> bool,
    ) -> Vec<SourceFile> {
        let (kept, others): (Vec<_>, Vec<_>) = files.into_iter().partition(|file| keep(file));
        self.unused.extend(others.into_iter().map(|file| Unused::new(file.name, reason)));
        kept
    }

    fn sort(
        &mut self,
        shown: &Path,
        files: Vec<SourceFile>,
        collection: Collection,
        settings: &ReadSettings,
    ) -> Result<()> {
        let doubt = |problem, hint| Error::Splits { path: shown.into(), problem, hint };
        let names: Vec<&Path> = files.iter().map(|file| file.name.as_path()).collect();
        let Assignment { splits, roots, .. } = assign(&names).map_err(|problem| doubt(problem, RENAME))?;
        for (split, slot) in Split::ALL.into_iter().zip(0..) {
            let own: Vec<usize> = (0..files.len()).filter(|&i| splits[i] == Some(split)).collect();
            if let Some(&other) = own.iter().find(|&&i| roots[i] != roots[own[0]]) {
                let problem = format!(
                    "files of the {} split are in several folders, `{}` and `{}`",
                    split.name(),
                    names[own[0]].display(),
                    names[other].display()
                );
                return Err(doubt(problem, "choose one, or name its folder"));
            }
            let own: Vec<SourceFile> = own.into_iter().map(|i| files[i].clone()).collect();
            self.splits[slot] = self.open(own, collection, settings)?;
        }
        let silent = (0..files.len()).filter(|&i| splits[i].is_none()).map(|i| &files[i]);
        self.unused.extend(silent.map(|file| Unused::new(&file.name, Unused::NO_SPLIT)));
        if self.splits[0].is_none() {
            let missing = format!(
                "file of a training split (such as `train.txt` or `train-00000-of-00001.parquet`), only {}",
                listed(&names)
            );
            return Err(Error::Incomplete { path: shown.into(), missing });
        }
        Ok(())
    }

    fn open(
        &mut self,
        files: Vec<SourceFile>,
        collection: Collection,
        settings: &ReadSettings,
    ) -> Result<Option<SplitSource>> {
        let ends = |file: &SourceFile, ending: &str| file.name.extension().is_some_and(|e| e == ending);
        let paths = |files: &[SourceFile]| -> Vec<PathBuf> { files.iter().map(|f| f.path.clone()).collect() };
        if files.iter().any(|file| ends(file, "wp_source") || ends(file, "wp_target")) {
            let (prompts, others): (Vec<_>, Vec<_>) =
                files.into_iter().partition(|file| ends(file, "wp_source"));
            let stories = self.keep(others, Unused::NOT_PAIRED, |file| ends(file, "wp_target"));
            for (own, missing) in [(&prompts, "wp_source"), (&stories, "wp_target")] {
                if own.is_empty() {
                    let file = prompts.iter().chain(&stories).map(|file| &file.path).next();
                    let path = file.cloned().unwrap_or_default();
                    return Err(Error::Incomplete {
                        path,
                        missing: format!("partner that ends in `.{missing}`"),
                    });
                }
            }
            let first = Input::open(&paths(&prompts), settings.clone())?;
            let second = Some(Input::open(&paths(&stories), settings.clone())?);
            return Ok(Some(SplitSource { first, second, unpacked: None }));
        }
        if files.is_empty() {
            return Ok(None);
        }
        let paths = paths(&files);
        let settings = for_collection(&paths, collection, settings);
        Ok(Some(SplitSource::new(Input::open(&paths, settings)?)))
    }
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
