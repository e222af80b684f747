//! The documents of an input, one after another.
use std::path::Path;
use std::sync::Arc;

use super::compression;
use super::delimited::{DelimitedRows, DelimitedSettings};
use super::description::FileReport;
use super::files::InputFile;
use super::format::Format;
use super::json::JsonRows;
use super::lines::Lines;
use super::parquet::ParquetRows;
use super::separated::SeparatedRows;
use super::settings::ReadSettings;
use super::text::TextRows;
use super::{Input, Row, Rows};
use crate::error::{Error, Place, Result};

/// Skipped rows that are named in the log one by one.
const MAX_NAMED: u64 = 10;

/// One document and where it stood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// The file, as it was named.
    pub path: Arc<Path>,
    /// Line (of a table's record: the first) or row.
    pub place: Place,
    /// The text. May be empty: the caller counts and skips those.
    pub text: String,
    /// Bytes of the text that are its prompt, where [`ReadSettings::whole_samples`] is set and the row has one.
    pub prompt_bytes: Option<usize>,
}

/// Reads the documents of all files of an [`Input`], in order.
///
/// A bad row is an error, unless [`ReadSettings::skip_bad_rows`] allows for it; then it is logged with file and line and left out. After any
/// other error the iterator ends.
pub struct Documents<'a> {
    input: &'a Input,
    next_file: usize,
    current: Option<CurrentFile>,
    reports: Vec<FileReport>,
    skipped: u64,
    ended: bool,
}

/// The file that is being read.
struct CurrentFile {
    path: Arc<Path>,
    rows: Box<dyn Rows>,
    documents: u64,
    bad: u64,
    empty: u64,
}

impl CurrentFile {
    fn report(&self) -> FileReport {
        FileReport {
            path: self.path.to_path_buf(),
            description: self.rows.describe(),
            rows: self.documents + self.bad,
            bad: self.bad,
            empty: self.empty,
            blank_lines: self.rows.blank_lines(),
        }
    }
}

impl std::fmt::Debug for Documents<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Documents").field("next_file", &self.next_file).finish_non_exhaustive()
    }
}

impl<'a> Documents<'a> {
    pub(super) fn new(input: &'a Input) -> Self {
        Self { input, next_file: 0, current: None, reports: Vec::new(), skipped: 0, ended: false }
    }

    /// Bad rows left out so far.
    #[must_use]
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// What was understood of the files, and what was read, as far as the iterator has come.
    #[must_use]
    pub fn reports(&self) -> Vec<FileReport> {
        self.reports.iter().cloned().chain(self.current.iter().map(CurrentFile::report)).collect()
    }

    fn next_document(&mut self) -> Result<Option<Document>> {
        loop {
            let Some(current) = &mut self.current else {
                let Some(file) = self.input.files().get(self.next_file) else {
                    self.tell_skipped();
                    return Ok(None);
                };
                self.next_file += 1;
                let (path, rows) = (Arc::from(file.shown.as_path()), open(file, self.input.settings())?);
                self.current = Some(CurrentFile { path, rows, documents: 0, bad: 0, empty: 0 });
                continue;
            };
            match current.rows.next_row() {
                Ok(Some(Row { place, text, prompt_bytes })) => {
                    current.documents += 1;
                    current.empty += u64::from(text.trim().is_empty());
                    let path = Arc::clone(&current.path);
                    return Ok(Some(Document { path, place, text, prompt_bytes }));
                }
                Ok(None) => self.end_file(),
                Err(error) if error.is_bad_row() => {
                    current.bad += 1;
                    self.skip(error)?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn end_file(&mut self) {
        let Some(report) = self.current.take().map(|current| current.report()) else { return };
        // A column that nobody named may be another one in each file.
        let columns = &report.description.columns;
        let other = self.reports.iter().find(|before| {
            let before = &before.description.columns;
            !before.is_empty() && !columns.is_empty() && before != columns
        });
        if let Some(other) = other {
            tracing::warn!(
                "the text is column `{}` of `{}`, but `{}` of `{}`",
                other.description.columns.join("`, `"),
                other.path.display(),
                columns.join("`, `"),
                report.path.display()
            );
        }
        self.reports.push(report);
    }

    fn skip(&mut self, error: Error) -> Result<()> {
        let limit = self.input.settings().skip_bad_rows;
        if self.skipped == limit {
            return Err(if limit == 0 {
                error
            } else {
                Error::TooManyBadRows { limit, next: Box::new(error) }
            });
        }
        self.skipped += 1;
        if self.skipped <= MAX_NAMED {
            tracing::warn!("bad row left out: {error}");
        } else {
            tracing::debug!("bad row left out: {error}");
        }
        Ok(())
    }

    fn tell_skipped(&self) {
        if self.skipped > MAX_NAMED {
            tracing::warn!("{} bad rows were left out; the first {MAX_NAMED} are named above", self.skipped);
        }
    }
}

fn open(file: &InputFile, settings: &ReadSettings) -> Result<Box<dyn Rows>> {
    let (shown, wanted) = (file.shown.as_path(), settings.text_column.0.as_slice());
    if file.format == Format::Parquet {
        return Ok(Box::new(ParquetRows::open(file.real(), shown, wanted)?));
    }
    let source = || compression::open(file.real(), shown);
    Ok(match (file.format, settings.separator()?) {
        (format @ (Format::Csv | Format::Tsv), _) => {
            let (delimiter, no_header) = (settings.delimiter_byte()?, settings.no_header);
            let settings = DelimitedSettings { format, delimiter, no_header, wanted };
            Box::new(DelimitedRows::open(&source, shown, settings)?)
        }
        (Format::JsonLines, _) => Box::new(JsonRows::open(&source, shown, wanted, settings.whole_samples)?),
        (_, Some(separator)) => Box::new(SeparatedRows::new(source()?, shown, &separator)),
        (_, None) => Box::new(TextRows(Lines::new(source()?, shown))),
    })
}

impl Iterator for Documents<'_> {
    type Item = Result<Document>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let next = self.next_document();
        self.ended = !matches!(next, Ok(Some(_)));
        next.transpose()
    }
}
