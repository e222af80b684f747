//! CSV and TSV (RFC 4180): the first record names the columns, a field may be quoted and then hold anything.
use std::io::BufRead;
use std::path::{Path, PathBuf};

use super::column::{Column, choose};
use super::compression::{Compression, Source};
use super::lines::{too_long, utf8};
use super::{MAX_DOCUMENT_BYTES, Row, Rows};
use crate::error::{Error, Place, Result};

/// The records of a file.
pub(super) struct DelimitedRows {
    records: Records,
    wanted: Vec<String>,
    /// Number of columns, and those of the text; known after the first record.
    header: Option<(usize, Vec<usize>)>,
}

impl DelimitedRows {
    pub(super) fn new(source: Source, path: &Path, delimiter: u8, wanted: &[String]) -> Self {
        Self { records: Records::new(source, path, delimiter), wanted: wanted.to_vec(), header: None }
    }

    /// Reads the first record; `None` if there is none.
    fn header(&mut self) -> Result<Option<(usize, Vec<usize>)>> {
        // Without the names of the columns nothing else can be read: this is no row to leave out.
        let fatal = |path: &Path, error: Error| match error {
            error if error.is_bad_row() => Error::Column { path: path.into(), problem: error.to_string() },
            error => error,
        };
        if self.header.is_none()
            && self.records.next_record().map_err(|error| fatal(&self.records.path, error))?
        {
            let path = &self.records.path;
            let names: Result<Vec<&str>> =
                self.records.fields().map(|field| utf8(field, path, Place::Line(1))).collect();
            let names = names.map_err(|error| fatal(path, error))?;
            let columns: Vec<Column<'_>> =
                names.iter().map(|name| Column { name: name.trim(), is_text: true }).collect();
            self.header = Some((columns.len(), choose(path, &self.wanted, &columns)?));
        }
        Ok(self.header.clone())
    }
}

impl Rows for DelimitedRows {
    fn next_row(&mut self) -> Result<Option<Row>> {
        let Some((width, chosen)) = self.header()? else { return Ok(None) };
        loop {
            if !self.records.next_record()? {
                return Ok(None);
            }
            let records = &self.records;
            let place = Place::Line(records.first_line);
            let got = records.ends.len();
            // A blank line is no record of several fields.
            if got == 1 && width > 1 && records.bytes.is_empty() {
                continue;
            }
            if got != width {
                let problem = format!("expected {width} fields, as in the first line, got {got}");
                return Err(Error::bad_row(&records.path, place, problem));
            }
            let texts: Result<Vec<&str>> =
                chosen.iter().map(|&at| utf8(records.field(at), &records.path, place)).collect();
            return Ok(Some(Row { place, text: texts?.join(" ") }));
        }
    }
}

/// Where in a record the parser is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    FieldStart,
    Plain,
    Quoted,
    /// Behind a quote inside a quoted field: the field's end, or the first half of a doubled quote.
    QuoteInQuoted,
    /// The record is bad; its line is read to the end.
    Bad,
}

/// The records of a file as bytes, with the lines they begin on.
struct Records {
    path: PathBuf,
    source: Box<dyn BufRead + Send>,
    compression: Compression,
    delimiter: u8,
    /// Lines read so far.
    lines: u64,
    /// First line of the record.
    first_line: u64,
    /// The fields of the record, one after another, and where each ends.
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Records {
    fn new(source: Source, path: &Path, delimiter: u8) -> Self {
        let Source { bytes, compression } = source;
        Self {
            path: path.into(),
            source: bytes,
            compression,
            delimiter,
            lines: 0,
            first_line: 0,
            bytes: Vec::new(),
            ends: Vec::new(),
        }
    }

    fn field(&self, index: usize) -> &[u8] {
        let begin = if index == 0 { 0 } else { self.ends[index - 1] };
        &self.bytes[begin..self.ends[index]]
    }

    fn fields(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.ends.len()).map(|index| self.field(index))
    }

    /// Reads a record; `false` at the end of the file.
    fn next_record(&mut self) -> Result<bool> {
        self.bytes.clear();
        self.ends.clear();
        self.first_line = self.lines + 1;
        let mut state = State::FieldStart;
        let mut problem = None;
        let mut any = false;
        loop {
            let chunk = self.source.fill_buf().map_err(|error| self.compression.error(&self.path, error))?;
            if chunk.is_empty() {
                return self.finish_last(any, state, problem);
            }
            let mut used = 0;
            let mut ended = false;
            if self.lines == 0 && !any && chunk.starts_with(b"\xef\xbb\xbf") {
                used = 3;
            }
            any = true;
            while used < chunk.len() && !ended {
                let byte = chunk[used];
                used += 1;
                self.lines += u64::from(byte == b'\n');
                (state, ended) = step(byte, self.delimiter, state, &mut self.bytes, &mut self.ends);
                if state == State::Bad && problem.is_none() {
                    problem =
                        Some("text behind the closing quote of a field; a quote inside must be doubled");
                    self.bytes = Vec::new();
                }
            }
            self.source.consume(used);
            if self.bytes.len() > MAX_DOCUMENT_BYTES {
                self.source.skip_until(b'\n').map_err(|error| self.compression.error(&self.path, error))?;
                self.lines += 1;
                return Err(too_long(&self.path, Place::Line(self.first_line)));
            }
            if ended {
                return self.judge(problem);
            }
        }
    }

    /// The record at the end of a file without a final line end.
    fn finish_last(&mut self, any: bool, state: State, problem: Option<&str>) -> Result<bool> {
        if !any {
            return Ok(false);
        }
        let problem = match state {
            State::Quoted => Some("a quote that is opened here is never closed"),
            _ => problem,
        };
        self.ends.push(self.bytes.len());
        self.judge(problem)
    }

    fn judge(&self, problem: Option<&str>) -> Result<bool> {
        match problem {
            None => Ok(true),
            Some(problem) => Err(Error::bad_row(&self.path, Place::Line(self.first_line), problem)),
        }
    }
}

/// One byte further; whether the record ends with it.
fn step(byte: u8, delimiter: u8, state: State, bytes: &mut Vec<u8>, ends: &mut Vec<usize>) -> (State, bool) {
    match (state, byte) {
        (State::Bad, b'\n') => (State::Bad, true),
        (State::Bad, _) => (State::Bad, false),
        (State::Quoted, b'"') => (State::QuoteInQuoted, false),
        (State::Quoted, _) => {
            bytes.push(byte);
            (State::Quoted, false)
        }
        (State::QuoteInQuoted, b'"') => {
            bytes.push(b'"');
            (State::Quoted, false)
        }
        (_, b'\n') => {
            if state == State::Plain && bytes.last() == Some(&b'\r') {
                bytes.pop();
            }
            ends.push(bytes.len());
            (State::FieldStart, true)
        }
        (_, _) if byte == delimiter => {
            ends.push(bytes.len());
            (State::FieldStart, false)
        }
        // The line end of a record whose last field is quoted.
        (State::QuoteInQuoted, b'\r') => (State::QuoteInQuoted, false),
        (State::QuoteInQuoted, _) => (State::Bad, false),
        (State::FieldStart, b'"') => (State::Quoted, false),
        (State::FieldStart | State::Plain, _) => {
            bytes.push(byte);
            (State::Plain, false)
        }
    }
}
