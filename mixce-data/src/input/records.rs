//! The records of a delimited file, and where reading resumes behind a broken one.
//!
//! A record is broken when a quote in it is never closed, when there is text behind a closing quote, or when it has several lines and another
//! number of fields than the first record. Then, in this order:
//!
//! 1. If it is a record with `\"` for a quote, it is read so.
//! 2. If the quote is never closed, only the lines up to the one where it opens are a bad row, and the lines behind it, as far as they were
//!    searched for its end (to the end of the file, or for [`MAX_DOCUMENT_BYTES`](super::MAX_DOCUMENT_BYTES)), are records of one line each.
//! 3. Otherwise the record would end at the next quote that a delimiter or a line end follows. If [`AGREEING`] percent of the lines that it takes
//!    in are records by themselves, the quote was never meant to be closed there: as in 2, up to that line.
//! 4. Otherwise all of its lines are one bad row.
use std::path::Path;

use super::dialect::AGREEING;
use super::lines::too_long;
use super::record::{Fields, Outcome, Quotes, RecordParser, Syntax};
use super::window::Window;
use crate::error::{Error, Place, Result};

pub(super) struct Records {
    window: Window,
    syntax: Syntax,
    /// Fields that a record should have; known after the first one.
    width: Option<usize>,
    /// The line on which the window begins.
    line: u64,
    /// The line on which the record begins that was read last.
    pub(super) first_line: u64,
    /// Bytes of the window whose records have one line each.
    one_line_bytes: usize,
    pub(super) fields: Fields,
    pub(super) blank_lines: u64,
    /// Records that were read with `\"` for a quote.
    pub(super) backslash_records: u64,
}

/// A record that is broken by its quotes.
struct Broken {
    /// Bytes up to the end of the line on which the quote opens.
    first_lines: usize,
    /// Bytes up to where the quote is closed after all, and its record ends.
    end: Option<usize>,
    problem: String,
}

const NEVER_CLOSED: &str = "a quote that is opened here is never closed";
const STRAY: &str = "text behind the closing quote of a field; a quote inside must be doubled";

impl Records {
    /// `line` is the number of the line on which the window begins.
    pub(super) fn new(window: Window, syntax: Syntax, line: u64) -> Self {
        Self {
            window,
            syntax,
            width: None,
            line,
            first_line: line,
            one_line_bytes: 0,
            fields: Fields::default(),
            blank_lines: 0,
            backslash_records: 0,
        }
    }

    pub(super) fn path(&self) -> &Path {
        self.window.path()
    }

    pub(super) fn syntax(&self) -> Syntax {
        self.syntax
    }

    /// Reads a record; `false` at the end of the file. Blank lines are passed, unless there is one column, of which they are empty fields.
    pub(super) fn next_record(&mut self) -> Result<bool> {
        loop {
            if self.window.bytes().is_empty() && !self.window.more()? {
                return Ok(false);
            }
            self.first_line = self.line;
            let fields = if self.one_line_bytes > 0 { self.one_line()? } else { self.record()? };
            if fields.is_blank() && self.width != Some(1) {
                self.blank_lines += 1;
                continue;
            }
            if *self.width.get_or_insert(fields.len()) != fields.len() {
                return Err(self.bad(self.wrong_width(fields.len())));
            }
            self.fields = fields;
            return Ok(true);
        }
    }

    fn wrong_width(&self, got: usize) -> String {
        let width = self.width.unwrap_or_default();
        format!("expected {width} fields, as in the first record, got {got}")
    }

    fn bad(&self, problem: impl Into<String>) -> Error {
        Error::bad_row(self.window.path(), Place::Line(self.first_line), problem)
    }

    /// Drops bytes that end with a line.
    fn pass(&mut self, count: usize) {
        self.line += self.syntax.line_ends.count(&self.window.bytes()[..count]);
        self.one_line_bytes = self.one_line_bytes.saturating_sub(count);
        self.window.consume(count);
    }

    /// Runs a parser over the window, which grows as needed; `Unfinished` if the record is longer than may be.
    fn run(&mut self, parser: &mut RecordParser) -> Result<Outcome> {
        loop {
            let outcome = parser.run(self.window.bytes(), self.window.ended());
            if outcome != Outcome::Unfinished || self.window.is_over_limit() {
                return Ok(outcome);
            }
            self.window.more()?;
        }
    }

    /// Reads a record that may have several lines.
    fn record(&mut self) -> Result<Fields> {
        let mut parser = RecordParser::new(self.syntax, Quotes::Doubled);
        let outcome = self.run(&mut parser)?;
        let (problem, quote_at) = match outcome {
            Outcome::Whole(end) if !self.is_suspicious(&parser.fields, end) => {
                self.pass(end);
                return Ok(parser.fields);
            }
            Outcome::Unfinished if parser.quote_at.is_none() => return Err(self.skip_overlong_line()?),
            Outcome::Unfinished | Outcome::Unclosed => (NEVER_CLOSED.to_owned(), parser.quote_at),
            Outcome::Whole(_) => (self.wrong_width(parser.fields.len()), parser.spanning_quote_at),
            Outcome::Stray(_) => (STRAY.to_owned(), parser.spanning_quote_at.or(parser.quote_at)),
        };
        if let Some(fields) = self.with_backslashes()? {
            return Ok(fields);
        }
        let quote_at = quote_at.unwrap_or(0);
        let Some(first_lines) = self.end_of_line(quote_at)? else {
            return Err(self.skip_overlong_line()?);
        };
        let end = match outcome {
            Outcome::Whole(end) => Some(end),
            Outcome::Stray(_) => self.lenient_end()?,
            Outcome::Unfinished | Outcome::Unclosed => None,
        };
        Err(self.resume(&Broken { first_lines, end, problem }, quote_at))
    }

    /// Whether a record that seems whole has taken in others: several lines, and the wrong number of fields.
    fn is_suspicious(&self, fields: &Fields, end: usize) -> bool {
        self.width.is_some_and(|width| width != fields.len())
            && self.syntax.line_ends.count(&self.window.bytes()[..end]) > 1
    }

    /// The record with `\"` for a quote, if there is one and it is whole then.
    fn with_backslashes(&mut self) -> Result<Option<Fields>> {
        let mut parser = RecordParser::new(self.syntax, Quotes::Backslash);
        let Outcome::Whole(end) = self.run(&mut parser)? else { return Ok(None) };
        let has_one = memchr::memmem::find(&self.window.bytes()[..end], br#"\""#).is_some();
        if !has_one || self.width.is_some_and(|width| width != parser.fields.len()) {
            return Ok(None);
        }
        self.backslash_records += 1;
        self.pass(end);
        Ok(Some(parser.fields))
    }

    fn lenient_end(&mut self) -> Result<Option<usize>> {
        let mut parser = RecordParser::new(self.syntax, Quotes::Lenient);
        Ok(match self.run(&mut parser)? {
            Outcome::Whole(end) => Some(end),
            _ => None,
        })
    }

    /// Where the line ends on which byte `at` of the window stands; `None` if it is too long.
    fn end_of_line(&mut self, at: usize) -> Result<Option<usize>> {
        loop {
            let (bytes, ended) = (self.window.bytes(), self.window.ended());
            if let Some((_, after)) = self.syntax.line_ends.find(&bytes[at..], ended) {
                return Ok(Some(at + after));
            }
            if ended {
                return Ok(Some(bytes.len()));
            }
            if self.window.is_over_limit() {
                return Ok(None);
            }
            self.window.more()?;
        }
    }

    /// Goes to where reading resumes behind a broken record, whose error this returns.
    fn resume(&mut self, broken: &Broken, quote_at: usize) -> Error {
        let Broken { first_lines, end, problem } = broken;
        let (first_lines, end) = (*first_lines, *end);
        let lines = self.syntax.line_ends.count(&self.window.bytes()[..quote_at]);
        let taken_in = end.map(|end| self.records_of_one_line(first_lines, end));
        match (end, taken_in) {
            (Some(end), Some((records, lines))) if records * 100 < lines * AGREEING || lines == 0 => {
                let error = match lines {
                    0 => self.bad(problem.as_str()),
                    _ => self.bad(format!("{problem} (the record goes on for {lines} more lines)")),
                };
                self.pass(end);
                error
            }
            _ => {
                let place = Place::Line(self.line + lines);
                let error = Error::bad_row(self.window.path(), place, NEVER_CLOSED);
                let until = end.unwrap_or(self.window.bytes().len());
                self.pass(first_lines);
                self.one_line_bytes = until - first_lines;
                error
            }
        }
    }

    /// How many lines of a part of the window are records by themselves, of the lines that are not blank. One column has no telling records.
    fn records_of_one_line(&self, begin: usize, end: usize) -> (usize, usize) {
        let mut rest = &self.window.bytes()[begin.min(end)..end];
        let (mut records, mut lines) = (0, 0);
        while !rest.is_empty() {
            let after = self.syntax.line_ends.find(rest, true).map_or(rest.len(), |(_, after)| after);
            let mut parser = RecordParser::new(self.syntax, Quotes::OneLine);
            let outcome = parser.run(&rest[..after], true);
            if !parser.fields.is_blank() {
                lines += 1;
                let has_width = self.width.is_some_and(|width| width > 1 && width == parser.fields.len());
                records += usize::from(has_width && matches!(outcome, Outcome::Whole(_)));
            }
            rest = &rest[after..];
        }
        (records, lines)
    }

    /// Reads a record of one line.
    fn one_line(&mut self) -> Result<Fields> {
        let Some(end) = self.end_of_line(0)? else { return Err(self.skip_overlong_line()?) };
        let mut parser = RecordParser::new(self.syntax, Quotes::OneLine);
        let outcome = parser.run(&self.window.bytes()[..end], true);
        self.pass(end);
        match outcome {
            Outcome::Whole(_) => Ok(parser.fields),
            Outcome::Stray(_) => Err(self.bad("a stray quote, behind a quote that is never closed")),
            Outcome::Unfinished | Outcome::Unclosed => Err(self.bad(NEVER_CLOSED)),
        }
    }

    fn skip_overlong_line(&mut self) -> Result<Error> {
        let error = too_long(self.window.path(), Place::Line(self.line));
        self.window.skip_line(self.syntax.line_ends)?;
        self.one_line_bytes = 0;
        self.line += 1;
        Ok(error)
    }
}
