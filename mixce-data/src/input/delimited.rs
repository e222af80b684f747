//! CSV and TSV (RFC 4180): the first record names the columns, a field may be quoted and then hold anything.
use std::path::Path;

use super::column::{Choice, Column, Holds, Reason, by_name, choose};
use super::compression::Source;
use super::description::{Description, Dialect};
use super::dialect::{DelimiterSource, detect};
use super::format::Format;
use super::lines::utf8;
use super::record_ends::RecordEnds;
use super::records::Records;
use super::window::Window;
use super::{Row, Rows};
use crate::error::{Error, Place, Result};

/// Maximum length of a field that looks like a column name, in characters.
const MAX_NAME: usize = 64;

/// How a delimited file is to be read.
#[derive(Clone, Copy, Debug)]
pub(super) struct DelimitedSettings<'a> {
    pub(super) format: Format,
    pub(super) delimiter: Option<u8>,
    pub(super) no_header: bool,
    pub(super) wanted: &'a [String],
}

/// The records of a file.
pub(super) struct DelimitedRows {
    records: Records,
    format: Format,
    delimiter_source: DelimiterSource,
    header: bool,
    names: Vec<String>,
    /// The columns of the text; `None` if the file has no records.
    choice: Option<Choice>,
    /// Whether the last record is a row that has not been returned yet.
    is_pending: bool,
}

impl DelimitedRows {
    /// `open` opens the file at its beginning: where names do not say which column is the text, all of it is examined first.
    pub(super) fn open(
        open: &dyn Fn() -> Result<Source>,
        path: &Path,
        settings: DelimitedSettings<'_>,
    ) -> Result<Self> {
        let mut rows = Self::begin(open()?, path, settings)?;
        if rows.names.is_empty() {
            return Ok(rows);
        }
        rows.choice = by_name(path, settings.wanted, &rows.names)?;
        if rows.choice.is_none() {
            let columns = Self::begin(open()?, path, settings)?.survey()?;
            let choice = choose(path, &[], &columns)?;
            if rows.header && choice.reason != Reason::Name {
                require_names(path, &rows.names)?;
            }
            rows.choice = Some(choice);
        }
        Ok(rows)
    }

    /// Opens the file and reads the first record.
    fn begin(source: Source, path: &Path, settings: DelimitedSettings<'_>) -> Result<Self> {
        let mut window = Window::new(source, path);
        let usual = if settings.format == Format::Tsv { b'\t' } else { b',' };
        let (syntax, delimiter_source) = detect(&mut window, settings.delimiter, usual)?;
        let mut records =
            Records::new(window, syntax, if delimiter_source == DelimiterSource::FirstLine { 2 } else { 1 });
        // Without column names nothing can be read, so this row cannot be skipped.
        let fatal = |error: Error| match error {
            error if error.is_bad_row() => Error::Column { path: path.into(), problem: error.to_string() },
            error => error,
        };
        let mut names = Vec::new();
        if records.next_record().map_err(fatal)? {
            let place = Place::Line(records.first_line);
            for (at, field) in records.fields.iter().enumerate() {
                let name = utf8(field, path, place).map_err(fatal)?.trim();
                names.push(if settings.no_header { (at + 1).to_string() } else { name.to_owned() });
            }
        }
        let (format, header) = (settings.format, !settings.no_header);
        Ok(Self { records, format, delimiter_source, header, names, choice: None, is_pending: !header })
    }

    /// What the columns hold, by all records.
    fn survey(mut self) -> Result<Vec<Column>> {
        let mut holds = vec![Holds::Nothing; self.names.len()];
        let mut is_row = self.is_pending;
        loop {
            if is_row {
                for (holds, field) in holds.iter_mut().zip(self.records.fields.iter()) {
                    *holds = match (*holds, held(field)) {
                        (Holds::Text, _) | (_, Holds::Text) => Holds::Text,
                        (before, Holds::Nothing) => before,
                        (_, now) => now,
                    };
                }
            }
            is_row = match self.records.next_record() {
                Ok(true) => true,
                Ok(false) => break,
                Err(error) if error.is_bad_row() => false,
                Err(error) => return Err(error),
            };
        }
        Ok(self.names.into_iter().zip(holds).map(|(name, holds)| Column { name, holds }).collect())
    }

    /// The text of the current record.
    fn row(&self) -> Result<Row> {
        let (records, place) = (&self.records, Place::Line(self.records.first_line));
        let chosen = self.choice.iter().flat_map(|choice| &choice.columns);
        let texts: Result<Vec<&str>> =
            chosen.map(|&at| utf8(records.fields.get(at), records.path(), place)).collect();
        Ok(Row { place, text: texts?.join(" "), prompt_bytes: None })
    }
}

/// What a field's text is, seen alone.
fn held(field: &[u8]) -> Holds {
    let Ok(text) = std::str::from_utf8(field) else { return Holds::Text };
    match text.trim() {
        "" => Holds::Nothing,
        text if text.parse::<f64>().is_ok() => Holds::Other("numbers"),
        text if ["true", "false"].contains(&text.to_ascii_lowercase().as_str()) => Holds::Other("booleans"),
        _ => Holds::Text,
    }
}

/// Refuses a first record that looks like a row, if no column was requested and none has a usual name.
fn require_names(path: &Path, names: &[String]) -> Result<()> {
    let is_name = |name: &String| {
        let mut characters = name.chars();
        characters.next().is_some_and(|c| c.is_alphabetic() || c == '_')
            && characters.all(|c| c.is_alphanumeric() || "_-.:".contains(c))
            && name.chars().count() <= MAX_NAME
            && held(name.as_bytes()) == Holds::Text
    };
    match names.iter().find(|name| !is_name(name)) {
        None => Ok(()),
        Some(name) => {
            let shown: String = name.chars().take(MAX_NAME).collect();
            Err(Error::Header { path: path.into(), field: shown })
        }
    }
}

impl Rows for DelimitedRows {
    fn next_row(&mut self) -> Result<Option<Row>> {
        if self.choice.is_none() {
            return Ok(None);
        }
        if !std::mem::take(&mut self.is_pending) && !self.records.next_record()? {
            return Ok(None);
        }
        self.row().map(Some)
    }

    fn describe(&self) -> Description {
        let syntax = self.records.syntax();
        let dialect = Dialect {
            delimiter: char::from(syntax.delimiter),
            delimiter_source: self.delimiter_source.words(),
            header: self.header,
            carriage_returns: syntax.line_ends == RecordEnds::Any,
            backslash_records: self.records.backslash_records,
        };
        let columns = self.choice.iter().flat_map(|choice| &choice.columns);
        Description {
            dialect: Some(dialect),
            columns: columns.map(|&at| self.names[at].clone()).collect(),
            chosen: self.choice.as_ref().map(|choice| choice.reason.words()),
            ..Description::of(self.format)
        }
    }

    fn blank_lines(&self) -> u64 {
        self.records.blank_lines
    }
}
