//! Writing the files of a prepared data set.
use std::path::{Path, PathBuf};

use mixce_base::files::{AtomicFile, remove_stale};

use super::clean::{Cleaning, Detokenize, looks_tokenized};
use super::collection::Collection;
use super::filter::{Dropped, Filter};
use super::source::SplitSource;
use crate::error::{Error, Result};
use crate::quantiles::Lengths;

/// Sizes of the training sets that the paper compares, in documents.
const TRAIN_SETS: [(u64, &str); 4] = [
    (10_000, "train10K.txt"),
    (25_000, "train25K.txt"),
    (50_000, "train50K.txt"),
    (100_000, "train100K.txt"),
];
/// Development and test documents of the paper.
const HELD_OUT: u64 = 5_000;
/// Documents by which it is decided whether texts are tokenised.
const PROBED: usize = 200;

/// How a data set is prepared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrepareSettings {
    /// Which one it is.
    pub collection: Collection,
    /// What is kept.
    pub filter: Filter,
    /// Whether texts are detokenised.
    pub detokenize: Detokenize,
    /// Documents of the development and of the test set; `None`: 5000, but for the user's own text at most a twentieth of it each, and
    /// sets that exist as they are.
    pub held_out: Option<u64>,
}

impl PrepareSettings {
    /// A collection's own.
    #[must_use]
    pub fn new(collection: Collection) -> Self {
        Self { collection, filter: collection.filter(), detokenize: collection.detokenize(), held_out: None }
    }
}

/// What a split became.
#[derive(Clone, Debug, Default)]
pub struct SplitReport {
    /// The file.
    pub path: PathBuf,
    /// Documents read for it, before the filters.
    pub read: u64,
    /// Of those, what the filters dropped.
    pub dropped: Dropped,
    /// Of those, documents that passed the filters but are more than a development or test set may have.
    pub cut: u64,
    /// Documents taken from the head of the training split, to fill it up.
    pub topped_up: u64,
    /// Words of the documents that are in it.
    pub words: Lengths,
}

/// What was written.
#[derive(Clone, Debug, Default)]
pub struct Prepared {
    /// `train.txt`, without its beginnings.
    pub train: SplitReport,
    /// `valid.txt`.
    pub valid: SplitReport,
    /// `test.txt`.
    pub test: SplitReport,
    /// The beginnings of `train.txt` (10K, 25K, ...) that there were enough documents for, with their sizes.
    pub train_sets: Vec<(u64, PathBuf)>,
    /// Whether texts were detokenised.
    pub detokenized: bool,
}

/// Writes `train.txt`, its beginnings of 10K to 100K documents, `valid.txt` and `test.txt` to `out`, one document per line.
///
/// Each split is cleaned and filtered. Test and development sets are cut to `held_out` documents; where they have fewer (or do not exist), the first
/// documents of the training split fill them up, the test set first, and are not trained on. The user's own text keeps the sets that it has as they
/// are, unless `held_out` is given.
///
/// `progress` receives the number of documents read so far; it may stop the work with an error.
///
/// # Errors
/// Errors of the files, [`Error::NothingLeft`], [`Error::NothingToTrainOn`], and `progress`' own. Nothing is written then.
pub fn prepare(
    [train, valid, test]: &[Option<SplitSource>; 3],
    settings: &PrepareSettings,
    out: &Path,
    progress: &mut dyn FnMut(u64) -> Result<()>,
) -> Result<Prepared> {
    let train = train.as_ref().ok_or_else(|| Error::Settings("there is no training split".into()))?;
    let detokenize = decide(train, settings)?;
    let cleaning = Cleaning { collection: settings.collection, detokenize };
    let mut reader = Reader { settings, cleaning, read: 0, progress };
    let held_out = match settings.held_out {
        Some(n) => n,
        None if settings.collection == Collection::Text => HELD_OUT.min(reader.count(train)? / 20),
        None => HELD_OUT,
    };
    std::fs::create_dir_all(out).map_err(Error::io("create", out))?;
    // What a killed process was writing.
    remove_stale(out, &|name| name.ends_with(".txt"))?;

    let mut held = [SplitWriter::create(out, "test.txt")?, SplitWriter::create(out, "valid.txt")?];
    // The user's own development and test files are neither cut nor filled up, unless a number says so.
    let stays = settings.collection == Collection::Text && settings.held_out.is_none();
    let mut wanted = [held_out; 2];
    for ((source, writer), wanted) in [test, valid].into_iter().zip(&mut held).zip(&mut wanted) {
        if let Some(source) = source {
            reader.held_out(source, writer, if stays { u64::MAX } else { held_out })?;
            *wanted = if stays { 0 } else { held_out };
        }
    }
    let mut rest = SplitWriter::create(out, "train.txt")?;
    let mut sets = Vec::new();
    for (size, name) in TRAIN_SETS {
        sets.push((size, out.join(name), AtomicFile::create(&out.join(name))?));
    }
    for document in train.documents() {
        let Some((text, words)) = reader.next(&document?, &mut rest.report)? else { continue };
        let mut unfilled = held.iter_mut().zip(wanted);
        if let Some((writer, _)) = unfilled.find(|(writer, wanted)| writer.documents < *wanted) {
            writer.report.topped_up += 1;
            writer.write(&text, words)?;
            continue;
        }
        for (_, _, file) in sets.iter_mut().filter(|(size, ..)| rest.documents < *size) {
            write_line(file, &text)?;
        }
        rest.write(&text, words)?;
    }
    if rest.documents == 0 {
        return Err(nothing_left(&rest.report, &held, held_out, &settings.filter));
    }
    let kept = rest.documents;
    let mut prepared = Prepared { detokenized: detokenize, ..Prepared::default() };
    // A smaller set would not be what its name says; dropped, its file leaves nothing.
    for (size, path, file) in sets.into_iter().filter(|(size, ..)| *size <= kept) {
        file.finish()?;
        prepared.train_sets.push((size, path));
    }
    let [test, valid] = held;
    (prepared.test, prepared.valid, prepared.train) = (test.finish()?, valid.finish()?, rest.finish()?);
    Ok(prepared)
}

/// Why there is nothing to train on: the filters, or the test and development sets (`held`).
fn nothing_left(train: &SplitReport, held: &[SplitWriter; 2], held_out: u64, filter: &Filter) -> Error {
    let passed = train.read - train.dropped.total();
    if passed == 0 {
        let dropped = match train.read {
            0 => "none at all".to_owned(),
            _ => train.dropped.describe(filter),
        };
        return Error::NothingLeft { read: train.read, dropped };
    }
    let [test, valid] = held.each_ref().map(|writer| writer.report.topped_up);
    Error::NothingToTrainOn { read: train.read, passed, test, valid, held_out }
}

fn decide(train: &SplitSource, settings: &PrepareSettings) -> Result<bool> {
    match settings.detokenize {
        Detokenize::Always => Ok(true),
        Detokenize::Never => Ok(false),
        Detokenize::Auto => {
            let mut probe = Vec::new();
            for document in train.documents().take(20 * PROBED) {
                let document = document?;
                if !document.trim().is_empty() {
                    probe.push(document);
                }
                if probe.len() == PROBED {
                    break;
                }
            }
            Ok(looks_tokenized(&probe))
        }
    }
}

/// Cleans, filters and counts.
struct Reader<'a> {
    settings: &'a PrepareSettings,
    cleaning: Cleaning,
    read: u64,
    progress: &'a mut dyn FnMut(u64) -> Result<()>,
}

impl Reader<'_> {
    /// The document as it is written, with its number of words; `None` if it is filtered out. Either way `report` counts it.
    fn next(&mut self, document: &str, report: &mut SplitReport) -> Result<Option<(String, u64)>> {
        self.read += 1;
        report.read += 1;
        if self.read.is_multiple_of(1024) {
            (self.progress)(self.read)?;
        }
        let text = self.cleaning.apply(document);
        let words = self.settings.filter.keep(&text, &mut report.dropped);
        Ok(words.map(|words| (text, words)))
    }

    /// Documents of a split that the filter keeps.
    fn count(&mut self, source: &SplitSource) -> Result<u64> {
        let mut report = SplitReport::default();
        for document in source.documents() {
            let _ = self.next(&document?, &mut report)?;
        }
        Ok(report.read - report.dropped.total())
    }

    fn held_out(&mut self, source: &SplitSource, writer: &mut SplitWriter, limit: u64) -> Result<()> {
        for document in source.documents() {
            match self.next(&document?, &mut writer.report)? {
                Some((text, words)) if writer.documents < limit => writer.write(&text, words)?,
                Some(_) => writer.report.cut += 1,
                None => {}
            }
        }
        Ok(())
    }
}

fn write_line(file: &mut AtomicFile, text: &str) -> Result<()> {
    file.put(text.as_bytes())?;
    Ok(file.put(b"\n")?)
}

struct SplitWriter {
    file: AtomicFile,
    documents: u64,
    report: SplitReport,
}

impl SplitWriter {
    fn create(out: &Path, name: &str) -> Result<Self> {
        let path = out.join(name);
        let file = AtomicFile::create(&path)?;
        Ok(Self { file, documents: 0, report: SplitReport { path, ..SplitReport::default() } })
    }

    fn write(&mut self, text: &str, words: u64) -> Result<()> {
        self.documents += 1;
        self.report.words.add(words);
        write_line(&mut self.file, text)
    }

    fn finish(self) -> Result<SplitReport> {
        self.file.finish()?;
        Ok(self.report)
    }
}
