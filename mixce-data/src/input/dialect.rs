//! Detects the delimiter of a file from its beginning.
use std::path::Path;

use super::record::{Outcome, Quotes, RecordParser, Syntax};
use super::record_ends::RecordEnds;
use super::window::Window;
use crate::error::{Error, Result};

/// Bytes examined at the beginning of a file.
const HEAD_BYTES: usize = 1 << 20;
/// Maximum number of records examined.
const HEAD_RECORDS: usize = 1000;
/// Delimiters that are detected.
const CANDIDATES: [u8; 4] = [b',', b';', b'\t', b'|'];
/// Percentage of the records that must have as many fields as the first one,
pub(super) const AGREEING: usize = 90;
/// and where no other delimiter separates the first one.
const AGREEING_ALONE: usize = 50;

/// How the delimiter was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DelimiterSource {
    Asked,
    FirstLine,
    Records,
    Format,
}

impl DelimiterSource {
    pub(super) fn words(self) -> &'static str {
        match self {
            Self::Asked => "asked for",
            Self::FirstLine => "named by the first line",
            Self::Records => "by the records",
            Self::Format => "by the format",
        }
    }
}

/// Finds the syntax of a file and leaves the window at its first record.
///
/// Lines end with `\r` if the first one does. The delimiter is `asked`; else that of a first line `sep=X`, which is not a record;
/// else, of the [`CANDIDATES`] that separate the first record, the only one that gives [`AGREEING`] percent of the head's records
/// as many fields as the first ([`AGREEING_ALONE`] percent if it is the only one that separates the first); else `usual`, if it
/// separates the first record or none of them does.
///
/// # Errors
/// [`Error::Delimiter`] where that leaves several.
pub(super) fn detect(window: &mut Window, asked: Option<u8>, usual: u8) -> Result<(Syntax, DelimiterSource)> {
    window.reach(HEAD_BYTES)?;
    let line_ends = line_ends(window.bytes());
    let named = named_delimiter(window.bytes(), line_ends, window.ended());
    if let Some((_, length)) = named {
        window.consume(length);
    }
    let syntax = |delimiter| Syntax { delimiter, line_ends };
    match (asked, named) {
        (Some(delimiter), _) => return Ok((syntax(delimiter), DelimiterSource::Asked)),
        (None, Some((delimiter, _))) => return Ok((syntax(delimiter), DelimiterSource::FirstLine)),
        (None, None) => {}
    }
    let head = window.bytes();
    let candidates: Vec<Candidate> = CANDIDATES
        .iter()
        .map(|&delimiter| Candidate::of(head, window.ended(), syntax(delimiter)))
        .filter(|candidate| candidate.width > 1)
        .collect();
    let share = if candidates.len() == 1 { AGREEING_ALONE } else { AGREEING };
    let agreeing: Vec<u8> = candidates.iter().filter(|c| c.agrees(share)).map(|c| c.delimiter).collect();
    let separates = candidates.iter().any(|candidate| candidate.delimiter == usual);
    match agreeing.as_slice() {
        [only] if *only == usual => Ok((syntax(usual), DelimiterSource::Format)),
        [only] => Ok((syntax(*only), DelimiterSource::Records)),
        [] if separates || candidates.is_empty() => Ok((syntax(usual), DelimiterSource::Format)),
        [] => {
            let all = listed(candidates.iter().map(|candidate| candidate.delimiter));
            Err(doubt(
                window.path(),
                format!("the first line is separated by {all}, but the records are not"),
            ))
        }
        several => {
            let all = listed(several.iter().copied());
            Err(doubt(window.path(), format!("more than one delimiter fits the records: {all}")))
        }
    }
}

fn doubt(path: &Path, problem: String) -> Error {
    Error::Delimiter { path: path.into(), problem }
}

fn listed(delimiters: impl Iterator<Item = u8>) -> String {
    delimiters.map(|delimiter| format!("`{}`", shown(delimiter))).collect::<Vec<_>>().join(" and ")
}

/// A delimiter as a user types it.
fn shown(delimiter: u8) -> String {
    match delimiter {
        b'\t' => r"\t".to_owned(),
        other => char::from(other).to_string(),
    }
}

/// The first line end outside quotes decides.
fn line_ends(head: &[u8]) -> RecordEnds {
    let mut quoted = false;
    for (at, byte) in head.iter().enumerate() {
        match byte {
            b'"' => quoted = !quoted,
            b'\n' if !quoted => return RecordEnds::Lf,
            b'\r' if !quoted && head.get(at + 1) != Some(&b'\n') => return RecordEnds::Any,
            _ => {}
        }
    }
    RecordEnds::Lf
}

/// The delimiter of a first line `sep=X`, as Excel writes and reads it, and that line's length.
fn named_delimiter(head: &[u8], line_ends: RecordEnds, ended: bool) -> Option<(u8, usize)> {
    let (end, after) = line_ends.find(head, ended)?;
    let line = head[..end].strip_prefix(b"\"").and_then(|l| l.strip_suffix(b"\"")).unwrap_or(&head[..end]);
    match line {
        [s, e, p, b'=', delimiter]
            if [*s, *e, *p].eq_ignore_ascii_case(b"sep") && is_delimiter(*delimiter) =>
        {
            Some((*delimiter, after))
        }
        _ => None,
    }
}

/// Whether a byte can be a delimiter.
pub(super) fn is_delimiter(byte: u8) -> bool {
    byte.is_ascii() && !byte.is_ascii_alphanumeric() && !matches!(byte, b'"' | b'\n' | b'\r' | b'\\' | 0)
}

/// The effect of a delimiter on the head.
#[derive(Debug)]
struct Candidate {
    delimiter: u8,
    /// Fields of the first record.
    width: usize,
    /// Records after the first, and those of them that have as many fields.
    records: usize,
    agreeing: usize,
}

impl Candidate {
    fn of(head: &[u8], ended: bool, syntax: Syntax) -> Self {
        let mut candidate = Self { delimiter: syntax.delimiter, width: 0, records: 0, agreeing: 0 };
        let mut rest = head;
        while !rest.is_empty() && candidate.records < HEAD_RECORDS {
            let mut parser = RecordParser::new(syntax, Quotes::Doubled);
            let outcome = parser.run(rest, ended);
            let fields = match outcome {
                Outcome::Unfinished => break,
                Outcome::Whole(_) if parser.fields.is_blank() => None,
                Outcome::Whole(_) => Some(parser.fields.len()),
                Outcome::Stray(_) | Outcome::Unclosed | Outcome::TooWide => Some(0),
            };
            if let Some(fields) = fields {
                candidate.add(fields);
            }
            rest = match (outcome, syntax.line_ends.find(rest, ended)) {
                (Outcome::Whole(end), _) => &rest[end..],
                (_, Some((_, after))) => &rest[after..],
                (_, None) => break,
            };
        }
        candidate
    }

    fn add(&mut self, fields: usize) {
        if self.width == 0 {
            self.width = fields;
        } else {
            self.records += 1;
            self.agreeing += usize::from(fields == self.width);
        }
    }

    fn agrees(&self, percent: usize) -> bool {
        self.agreeing * 100 >= self.records * percent
    }
}

#[cfg(test)]
mod tests {
    use super::super::compression::{Compression, Source};
    use super::*;
    use mixce_base::Hint as _;

    fn detected(text: &str, usual: u8) -> Result<(char, DelimiterSource, String)> {
        let bytes = Box::new(std::io::Cursor::new(text.as_bytes().to_vec()));
        let mut window = Window::new(Source { bytes, compression: Compression::None }, Path::new("a.csv"));
        let (syntax, found) = detect(&mut window, None, usual)?;
        let rest = String::from_utf8(window.bytes().to_vec()).unwrap();
        Ok((char::from(syntax.delimiter), found, rest))
    }

    fn delimiter(text: &str) -> (char, DelimiterSource) {
        let (delimiter, found, _) = detected(text, b',').unwrap();
        (delimiter, found)
    }

    #[test]
    fn the_records_tell_the_delimiter() {
        for (text, want) in [
            ("id;text\n1;Hello world, again\n2;Second\n", (';', DelimiterSource::Records)),
            ("id|text\n1|a, b; c\n", ('|', DelimiterSource::Records)),
            ("id\ttext\n1\ta,b\n2\tc\n", ('\t', DelimiterSource::Records)),
            ("id,text\n1,a;b\n2,\"c;d\"\n", (',', DelimiterSource::Format)),
            // A comma in the header only: every semicolon fits.
            ("id;text, in full\n1;a\n2;b, c, d\n", (';', DelimiterSource::Records)),
            ("text\na;b\nc;d\n", (',', DelimiterSource::Format)),
            ("text\n", (',', DelimiterSource::Format)),
            ("id;text\n", (';', DelimiterSource::Records)),
            ("", (',', DelimiterSource::Format)),
            // Records of a file in commas that do not fit are bad rows.
            ("id,text\n1\n2,b,c\n", (',', DelimiterSource::Format)),
            ("id;text\n1;\"a\nb;\"\"c\"\"\"\n", (';', DelimiterSource::Records)),
        ] {
            assert_eq!(delimiter(text), want, "{text:?}");
        }
        let one_ragged = format!("id;text\n{}9\n", "1;a\n".repeat(20));
        assert_eq!(delimiter(&one_ragged).0, ';');
        assert_eq!(detected("a,b\n1,2\n", b'\t').unwrap().0, ',');
        assert_eq!(detected("a\tb\n1\t2\n", b'\t').unwrap().1, DelimiterSource::Format);
    }

    #[test]
    fn doubt_names_the_candidates() {
        let error = detected("id;price,eur\n1;2,50\n2;3,10\n", b',').unwrap_err();
        assert_eq!(error.to_string(), "`a.csv`: more than one delimiter fits the records: `,` and `;`");
        assert!(error.hint().unwrap().contains("settings.delimiter"));
        let error = detected("id;text\n1\n2\n3;4;5\n", b',').unwrap_err();
        assert!(error.to_string().contains("the first line is separated by `;`"), "{error}");
    }

    #[test]
    fn excel_names_it_in_the_first_line() {
        for (text, want) in [("sep=;\na;b\n", ';'), ("SEP=|\r\na;b\n", '|'), ("\"sep=\t\"\na;b\n", '\t')] {
            assert_eq!(detected(text, b',').unwrap(), (want, DelimiterSource::FirstLine, "a;b\n".to_owned()));
        }
        assert_eq!(detected("sep=\na\n", b',').unwrap().2, "sep=\na\n");
    }

    #[test]
    fn the_first_line_end_counts() {
        assert_eq!(line_ends(b"a,b\rc"), RecordEnds::Any);
        assert_eq!(line_ends(b"a,b\r\nc\rd"), RecordEnds::Lf);
        assert_eq!(line_ends(b"\"a\rb\"\nc\rd"), RecordEnds::Lf);
    }
}
