//! The documents of an input, one after another.
use std::path::Path;
use std::sync::Arc;

use super::compression;
use super::delimited::DelimitedRows;
use super::files::InputFile;
use super::format::Format;
use super::json_lines::JsonLinesRows;
use super::lines::Lines;
use super::parquet::ParquetRows;
use super::separated::SeparatedRows;
use super::settings::ReadSettings;
use super::text::TextRows;
use super::{Input, Rows};
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
}

/// Reads the documents of all files of an [`Input`], in order.
///
/// A bad row is an error, unless [`ReadSettings::skip_bad_rows`] allows for it; then it is logged with file and line and left out. After any
/// other error the iterator ends.
pub struct Documents<'a> {
    input: &'a Input,
    next_file: usize,
    current: Option<(Arc<Path>, Box<dyn Rows + 'a>)>,
    skipped: u64,
    ended: bool,
}

impl std::fmt::Debug for Documents<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Documents").field("next_file", &self.next_file).finish_non_exhaustive()
    }
}

impl<'a> Documents<'a> {
    pub(super) fn new(input: &'a Input) -> Self {
        Self { input, next_file: 0, current: None, skipped: 0, ended: false }
    }

    /// Bad rows left out so far.
    #[must_use]
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    fn next_document(&mut self) -> Result<Option<Document>> {
        loop {
            let Some((path, rows)) = &mut self.current else {
                let Some(file) = self.input.files().get(self.next_file) else { return Ok(None) };
                self.next_file += 1;
                self.current = Some((Arc::from(file.shown.as_path()), open(file, self.input.settings())?));
                continue;
            };
            match rows.next_row() {
                Ok(Some(row)) => {
                    return Ok(Some(Document { path: Arc::clone(path), place: row.place, text: row.text }));
                }
                Ok(None) => self.current = None,
                Err(error) if error.is_bad_row() => self.skip(error)?,
                Err(error) => return Err(error),
            }
        }
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
}

fn open(file: &InputFile, settings: &ReadSettings) -> Result<Box<dyn Rows>> {
    let (shown, wanted) = (file.shown.as_path(), settings.text_column.0.as_slice());
    if file.format == Format::Parquet {
        return Ok(Box::new(ParquetRows::open(file.real(), shown, wanted)?));
    }
    let source = compression::open(file.real(), shown)?;
    Ok(match (file.format, settings.separator()?) {
        (Format::Csv, _) => Box::new(DelimitedRows::new(source, shown, b',', wanted)),
        (Format::Tsv, _) => Box::new(DelimitedRows::new(source, shown, b'\t', wanted)),
        (Format::JsonLines, _) => {
            Box::new(JsonLinesRows::new(Lines::new(source, shown), wanted, settings.whole_samples))
        }
        (_, Some(separator)) => Box::new(SeparatedRows::new(source, shown, &separator)),
        (_, None) => Box::new(TextRows(Lines::new(source, shown))),
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
