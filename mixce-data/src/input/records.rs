//! The records of a delimited file, with recovery after broken ones.
//!
//! A record is broken when a quote in it is never closed, when there is text after a closing quote, or when it has several lines and another
//! number of fields than the first record. Then, in this order:
//!
//! 1. If it is a record with `\"` for a quote, it is read so.
//! 2. If the quote is never closed, only the lines up to the one where it opens are a bad row, and the file continues after them. As far as its
//!    end was searched for (to the end of the file, or for [`MAX_DOCUMENT_BYTES`](super::MAX_DOCUMENT_BYTES)), another broken record costs the
//!    line on which it is broken, without a search.
//! 3. Otherwise the record would end at the next quote that a delimiter or a line end follows. If what it takes in are, to [`AGREEING`] percent,
//!    records by themselves, the quote was never meant to be closed there: as in 2, up to that line.
//! 4. Otherwise all of its lines are one bad row.
use std::path::Path;

use super::dialect::AGREEING;
use super::lines::too_long;
use super::record::{Fields, MAX_FIELDS, Outcome, Quotes, RecordParser, Syntax};
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
    /// Bytes of the window in which no end is searched for a broken record.
    settled_bytes: usize,
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
    /// Whether the problem is on the line on which the quote opens.
    is_on_line: bool,
}

const NEVER_CLOSED: &str = "a quote that is opened here is never closed";
const STRAY: &str = "text after the closing quote of a field; a quote inside must be doubled";

impl Records {
    /// `line` is the number of the line on which the window begins.
    pub(super) fn new(window: Window, syntax: Syntax, line: u64) -> Self {
        Self {
            window,
            syntax,
            width: None,
            line,
            first_line: line,
            settled_bytes: 0,
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
            let fields = if self.settled_bytes > 0 { self.settled_record()? } else { self.record()? };
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
        self.settled_bytes = self.settled_bytes.saturating_sub(count);
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
            Outcome::TooWide => return Err(self.skip_wide_line()?),
            Outcome::Unfinished if parser.quote_at.is_none() => return Err(self.skip_overlong_line()?),
            Outcome::Unfinished | Outcome::Unclosed => (NEVER_CLOSED.to_owned(), parser.quote_at),
            Outcome::Whole(_) => (self.wrong_width(parser.fields.len()), parser.spanning_quote_at),
            Outcome::Stray(_) => (STRAY.to_owned(), parser.quote_at),
        };
        if let Some(fields) = self.with_backslashes()? {
            return Ok(fields);
        }
        let quote_at = quote_at.unwrap_or(0);
        let is_on_line = match outcome {
            Outcome::Stray(at) => self.syntax.line_ends.count(&self.window.bytes()[quote_at..at]) == 0,
            _ => false,
        };
        let Some(first_lines) = self.end_of_line(quote_at)? else {
            return Err(self.skip_overlong_line()?);
        };
        let end = match outcome {
            Outcome::Whole(end) => Some(end),
            Outcome::Stray(_) => self.lenient_end()?,
            Outcome::Unfinished | Outcome::Unclosed | Outcome::TooWide => None,
        };
        Err(self.resume(&Broken { first_lines, end, problem, is_on_line }, quote_at))
    }

    /// Whether a seemingly complete record has swallowed others: several lines, and the wrong number of fields.
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

    /// The end of the line that contains byte `at` of the window; `None` if it is too long.
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

    /// Skips to where reading resumes after a broken record, and returns its error.
    fn resume(&mut self, broken: &Broken, quote_at: usize) -> Error {
        let Broken { first_lines, end, problem, is_on_line } = broken;
        let (first_lines, end) = (*first_lines, *end);
        let lines = self.syntax.line_ends.count(&self.window.bytes()[..quote_at]);
        match end {
            Some(end) if !self.takes_in_records(first_lines, end) => {
                let more = self.syntax.line_ends.count(&self.window.bytes()[..end]).saturating_sub(1);
                let error = match more {
                    0 => self.bad(problem.as_str()),
                    _ => self.bad(format!("{problem} (the record spans {more} more lines)")),
                };
                self.pass(end);
                error
            }
            _ => {
                let place = Place::Line(self.line + lines);
                let problem = if end.is_none() && *is_on_line { problem.as_str() } else { NEVER_CLOSED };
                let error = Error::bad_row(self.window.path(), place, problem);
                let until = end.unwrap_or(self.window.bytes().len());
                self.pass(first_lines);
                self.settled_bytes = until - first_lines;
                error
            }
        }
    }

    /// Whether a part of the window contains valid records. Not meaningful with a single column.
    fn takes_in_records(&self, begin: usize, end: usize) -> bool {
        let mut rest = &self.window.bytes()[begin.min(end)..end];
        let (mut records, mut all) = (0, 0);
        while !rest.is_empty() {
            let mut parser = RecordParser::new(self.syntax, Quotes::Strict);
            let outcome = parser.run(rest, true);
            let after_line = self.syntax.line_ends.find(rest, true).map_or(rest.len(), |(_, after)| after);
            let after = match outcome {
                Outcome::Whole(after) if parser.fields.is_blank() => after,
                Outcome::Whole(after) if self.width == Some(parser.fields.len()) => {
                    (records, all) = (records + 1, all + 1);
                    after
                }
                _ => {
                    all += 1;
                    after_line
                }
            };
            rest = &rest[after..];
        }
        all > 0 && self.width != Some(1) && records * 100 >= all * AGREEING
    }

    /// Reads a record where one that is broken costs its line only.
    fn settled_record(&mut self) -> Result<Fields> {
        let mut parser = RecordParser::new(self.syntax, Quotes::Strict);
        let outcome = self.run(&mut parser)?;
        let problem = match outcome {
            Outcome::Whole(end) if !self.is_suspicious(&parser.fields, end) => {
                self.pass(end);
                return Ok(parser.fields);
            }
            Outcome::Whole(_) => self.wrong_width(parser.fields.len()),
            Outcome::TooWide => return Err(self.skip_wide_line()?),
            Outcome::Stray(_) => "a stray quote, after a quote that is never closed".to_owned(),
            Outcome::Unfinished | Outcome::Unclosed => NEVER_CLOSED.to_owned(),
        };
        let Some(end) = self.end_of_line(0)? else { return Err(self.skip_overlong_line()?) };
        let error = self.bad(problem);
        self.pass(end);
        Err(error)
    }

    fn skip_overlong_line(&mut self) -> Result<Error> {
        let error = too_long(self.window.path(), Place::Line(self.line));
        self.skip_line()?;
        Ok(error)
    }

    fn skip_wide_line(&mut self) -> Result<Error> {
        let error = self.bad(format!("more than {MAX_FIELDS} fields, the most that a record may have"));
        self.skip_line()?;
        Ok(error)
    }

    fn skip_line(&mut self) -> Result<()> {
        self.window.skip_line(self.syntax.line_ends)?;
        self.settled_bytes = 0;
        self.line += 1;
        Ok(())
    }
}
