//! Iterates over the values of a JSON file: lines, multi-line objects, or the items of an array.
//!
//! A file that begins with `[` is an array of rows, or several such arrays one after another; any other is a sequence of values with white
//! space between them. After a broken value, reading resumes at the line after the one on which it begins; if an earlier value spanned
//! several lines, at the next line that begins with `{` at the indentation of the broken value. Where values share lines, or an array has
//! no further line, the following values cannot be separated.
use std::ops::Range;
use std::path::Path;

use super::compression::Source;
use super::json_row::list_of_rows;
use super::json_syntax::{Scan, Scanner};
use super::lines::too_long;
use super::record_ends::RecordEnds;
use super::window::Window;
use crate::error::{Error, Place, Result};

/// JSON lines may end with any of these, because line breaks inside strings are escaped.
const LINE_ENDS: RecordEnds = RecordEnds::Any;

/// The layout of the values read so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// Each value on a line of its own.
    Lines,
    /// Values over several lines, or several on one line.
    Objects,
    /// The items of an array.
    Array,
}

/// The scanner's position in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Position {
    /// At the beginning of the file.
    Start,
    /// Outside of any array.
    Top,
    /// After the `[` of an array.
    First,
    /// After a value of an array.
    Item,
    /// After the `,` of an array.
    Comma,
    /// In an array behind something broken.
    Resumed,
}

/// The bytes of one value.
pub(super) struct Value<'a> {
    pub(super) place: Place,
    pub(super) bytes: &'a [u8],
    /// `NaN` and infinities among the bytes.
    pub(super) words: Vec<Range<usize>>,
}

pub(super) struct Values {
    window: Window,
    position: Position,
    /// Bytes of the window that belong to the last returned value.
    used: usize,
    /// The line on which the window's bytes begin, and whether a value began on it.
    line: u64,
    line_is_used: bool,
    /// Bytes before the window on its line.
    column: usize,
    /// Items of arrays so far, broken ones included.
    items: u64,
    layout: Layout,
    /// Whether some value has had several lines.
    spans_lines: bool,
    /// Whether some value began on a line that another one had.
    shares_lines: bool,
    /// The line on which the value before began or ended last.
    last_line: u64,
    /// Lines with nothing on them.
    blank_lines: u64,
}

impl Values {
    pub(super) fn new(source: Source, path: &Path) -> Self {
        Self {
            window: Window::new(source, path),
            position: Position::Start,
            used: 0,
            line: 1,
            line_is_used: false,
            column: 0,
            items: 0,
            layout: Layout::Lines,
            spans_lines: false,
            shares_lines: false,
            last_line: 0,
            blank_lines: 0,
        }
    }

    pub(super) fn path(&self) -> &Path {
        self.window.path()
    }

    pub(super) fn layout(&self) -> Layout {
        self.layout
    }

    pub(super) fn blank_lines(&self) -> u64 {
        self.blank_lines
    }

    fn in_array(&self) -> bool {
        !matches!(self.position, Position::Start | Position::Top)
    }

    /// The next value; `None` at the end of the file.
    pub(super) fn next_value(&mut self) -> Result<Option<Value<'_>>> {
        let used = std::mem::take(&mut self.used);
        self.pass(used);
        if !self.advance_to_value()? {
            return Ok(None);
        }
        self.shares_lines |= self.last_line == self.line;
        if self.in_array() {
            self.items += 1;
        } else if self.shares_lines {
            self.layout = Layout::Objects;
        }
        self.line_is_used = true;
        self.last_line = self.line;
        let place = if self.in_array() { Place::Row(self.items) } else { Place::Line(self.line) };
        let is_first = self.position == Position::Start;
        if is_first {
            self.position = Position::Top;
        }
        let mut scanner = Scanner::new();
        let end = loop {
            match scanner.run(self.window.bytes(), self.window.ended()) {
                Scan::Value(end) => break end,
                Scan::Broken(at, problem) => return Err(self.broken(place, at, problem)?),
                Scan::Unfinished if self.window.is_over_limit() => {
                    return Err(self.overlong(place, is_first)?);
                }
                Scan::Unfinished => {
                    self.window.more()?;
                }
            }
        };
        if let Some(problem) = self.what_follows(end)? {
            return Err(self.broken(place, end, problem)?);
        }
        if self.in_array() {
            self.position = Position::Item;
        }
        self.used = end;
        let lines = LINE_ENDS.count(&self.window.bytes()[..end]);
        self.last_line += lines;
        if lines > 0 {
            self.spans_lines = true;
            self.layout = if self.layout == Layout::Lines { Layout::Objects } else { self.layout };
        }
        let words = scanner.words().to_vec();
        Ok(Some(Value { place, bytes: &self.window.bytes()[..end], words }))
    }

    /// Drops bytes of the window and counts their lines.
    fn pass(&mut self, count: usize) {
        let passed = &self.window.bytes()[..count];
        let lines = LINE_ENDS.count(passed);
        if lines > 0 {
            self.line += lines;
            self.column = 0;
        }
        let last = memchr::memrchr2(b'\n', b'\r', passed).map_or(0, |at| at + 1);
        self.column += count - last;
        self.window.consume(count);
    }

    /// Passes white space and what stands between values; `false` at the end of the file.
    fn advance_to_value(&mut self) -> Result<bool> {
        loop {
            self.pass_white_space()?;
            let Some(&byte) = self.window.bytes().first() else {
                return self.at_end();
            };
            let place = Place::Line(self.line);
            match (self.position, byte) {
                (Position::Start, b'[') => {
                    self.layout = Layout::Array;
                    self.position = Position::First;
                }
                (Position::Top, b'[') if self.layout == Layout::Array => self.position = Position::First,
                (Position::First | Position::Item | Position::Resumed, b']') => self.position = Position::Top,
                (Position::Item | Position::Resumed, b',') => self.position = Position::Comma,
                (Position::Comma, b']') => {
                    self.position = Position::Top;
                    self.pass(1);
                    return Err(Error::bad_row(self.path(), place, "expected a row between `,` and `]`"));
                }
                (Position::Item, _) => {
                    self.position = Position::Resumed;
                    return Err(Error::bad_row(self.path(), place, "expected `,` or `]` between rows"));
                }
                _ => return Ok(true),
            }
            self.line_is_used = true;
            self.pass(1);
        }
    }

    fn at_end(&mut self) -> Result<bool> {
        if self.in_array() {
            self.position = Position::Top;
            let problem = "the file ends inside its array: it is truncated";
            return Err(Error::bad_row(self.path(), Place::Line(self.line), problem));
        }
        Ok(false)
    }

    fn pass_white_space(&mut self) -> Result<()> {
        loop {
            let bytes = self.window.bytes();
            let blank = bytes.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
            match bytes.get(blank) {
                None if !self.window.ended() => {
                    self.pass(blank);
                    self.window.more()?;
                }
                Some(b'\n' | b'\r') => {
                    self.pass(blank);
                    self.window.reach(2)?;
                    let after = LINE_ENDS.find(self.window.bytes(), self.window.ended());
                    self.pass(after.map_or(1, |(_, after)| after));
                    self.blank_lines += u64::from(!std::mem::take(&mut self.line_is_used));
                }
                _ => {
                    self.pass(blank);
                    return Ok(());
                }
            }
        }
    }

    /// The problem with the text after a value outside an array, on its line.
    fn what_follows(&mut self, end: usize) -> Result<Option<&'static str>> {
        if self.in_array() {
            return Ok(None);
        }
        let mut at = end;
        loop {
            match self.window.bytes().get(at).copied() {
                Some(b' ' | b'\t') => at += 1,
                Some(b'\n' | b'\r' | b'{') => return Ok(None),
                Some(b',') => {
                    return Ok(Some(
                        "a comma after the value: is this part of an array without its brackets?",
                    ));
                }
                Some(_) => return Ok(Some("text after the value, on the same line")),
                None if !self.window.more()? => return Ok(None),
                None => {}
            }
        }
    }

    /// The error of a value that breaks at the window's byte `at`; goes to where reading resumes.
    fn broken(&mut self, place: Place, at: usize, problem: &str) -> Result<Error> {
        let is_cut_off = self.window.ended() && at >= self.window.bytes().len();
        let line = self.line + LINE_ENDS.count(&self.window.bytes()[..at]);
        let problem = match place {
            Place::Line(begin) if begin == line => format!("not a JSON value ({problem})"),
            _ => format!("not a JSON value (line {line}: {problem})"),
        };
        self.resume(is_cut_off, Error::bad_row(self.window.path(), place, problem))
    }

    /// The error of a value beyond the limit.
    fn overlong(&mut self, place: Place, is_first: bool) -> Result<Error> {
        let nested = if is_first { list_of_rows(self.window.bytes()) } else { None };
        match nested {
            Some(key) => Ok(Error::NestedRows { path: self.path().into(), key }),
            None => self.resume(false, too_long(self.window.path(), place)),
        }
    }

    /// Advances to the next line that may begin a value. If the following values cannot be separated, the error is final.
    fn resume(&mut self, is_cut_off: bool, error: Error) -> Result<Error> {
        if self.shares_lines && !is_cut_off {
            return Ok(Error::LostRows(Box::new(error)));
        }
        let column = self.column;
        let mut found = self.next_line()?;
        while found && self.spans_lines && !self.begins_value(column)? {
            found = self.next_line()?;
        }
        if !self.in_array() {
            return Ok(error);
        }
        self.position = if found { Position::Resumed } else { Position::Top };
        Ok(if found || is_cut_off { error } else { Error::LostRows(Box::new(error)) })
    }

    /// Passes the rest of the line; `false` if it is the last one.
    fn next_line(&mut self) -> Result<bool> {
        self.line += 1;
        self.column = 0;
        self.line_is_used = false;
        Ok(self.window.skip_line(LINE_ENDS)? && (!self.window.bytes().is_empty() || self.window.more()?))
    }

    /// Whether the line begins a value `column` bytes to the right, or ends the array.
    fn begins_value(&mut self, column: usize) -> Result<bool> {
        let mut blank = 0;
        loop {
            match self.window.bytes().get(blank).copied() {
                Some(b' ' | b'\t') => blank += 1,
                Some(b'{') => return Ok(blank == column),
                Some(b']') => return Ok(self.in_array() && blank < column),
                Some(_) => return Ok(false),
                None if !self.window.more()? => return Ok(false),
                None => {}
            }
        }
    }
}
