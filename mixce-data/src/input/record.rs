//! One record of a delimited file, byte by byte (RFC 4180).
use super::record_ends::RecordEnds;

/// Most fields of a record, as in Excel: each takes memory, however short it is.
pub(super) const MAX_FIELDS: usize = 16_384;

/// How a file separates fields and records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Syntax {
    pub(super) delimiter: u8,
    pub(super) line_ends: RecordEnds,
}

/// How a parser treats quotes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Quotes {
    /// A quoted field may hold anything, quotes doubled; after its closing quote the field ends. A quote inside an unquoted field is text.
    Doubled,
    /// The same, but `\"` is a quote inside a quoted field too.
    Backslash,
    /// A quote that is not followed by a delimiter or a line ending is text, also inside a quoted field.
    Lenient,
    /// [`Quotes::Doubled`], but in an unquoted field quotes are in pairs.
    Strict,
}

/// How a record ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It continues beyond the available bytes.
    Unfinished,
    /// It is complete; the next one begins at this byte.
    Whole(usize),
    /// There is text after a closing quote, or a misplaced quote, at this byte.
    Stray(usize),
    /// The bytes end inside a quoted field.
    Unclosed,
    /// It has more than [`MAX_FIELDS`] fields.
    TooWide,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    FieldStart,
    Plain,
    Quoted,
    /// After the closing quote.
    Closed,
}

/// The fields of a record, one after another, and where each ends.
#[derive(Clone, Debug, Default)]
pub(super) struct Fields {
    bytes: Vec<u8>,
    ends: Vec<usize>,
    /// Whether some field is quoted.
    quoted: bool,
}

impl Fields {
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(super) fn get(&self, index: usize) -> &[u8] {
        let begin = if index == 0 { 0 } else { self.ends[index - 1] };
        &self.bytes[begin..self.ends[index]]
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.len()).map(|index| self.get(index))
    }

    /// Whether there is nothing but spaces in the record, not even a delimiter.
    pub(super) fn is_blank(&self) -> bool {
        self.len() == 1 && !self.quoted && self.bytes.iter().all(u8::is_ascii_whitespace)
    }
}

/// Parses one record, which begins at byte 0 of what [`Self::run`] is given.
#[derive(Debug)]
pub(super) struct RecordParser {
    syntax: Syntax,
    quotes: Quotes,
    at: usize,
    state: State,
    /// Where the quote stands that was opened last.
    pub(super) quote_at: Option<usize>,
    /// Where the first quote stands whose field is closed on another line.
    pub(super) spanning_quote_at: Option<usize>,
    pub(super) fields: Fields,
}

impl RecordParser {
    pub(super) fn new(syntax: Syntax, quotes: Quotes) -> Self {
        Self {
            syntax,
            quotes,
            at: 0,
            state: State::FieldStart,
            quote_at: None,
            spanning_quote_at: None,
            fields: Fields::default(),
        }
    }

    /// Continues the record. `bytes` extends the bytes of the last call; `ended`: nothing follows them.
    pub(super) fn run(&mut self, bytes: &[u8], ended: bool) -> Outcome {
        loop {
            if self.fields.len() > MAX_FIELDS {
                return Outcome::TooWide;
            }
            let outcome = match self.state {
                State::FieldStart if bytes.get(self.at) == Some(&b'"') => {
                    self.quote_at = Some(self.at);
                    self.fields.quoted = true;
                    self.state = State::Quoted;
                    self.at += 1;
                    None
                }
                State::FieldStart if self.at == bytes.len() && !ended => Some(Outcome::Unfinished),
                State::FieldStart => {
                    self.state = State::Plain;
                    None
                }
                State::Plain => self.plain(bytes, ended),
                State::Quoted => self.quoted(bytes, ended),
                State::Closed => self.closed(bytes, ended),
            };
            if let Some(outcome) = outcome {
                return outcome;
            }
        }
    }

    fn end_field(&mut self) {
        self.fields.ends.push(self.fields.bytes.len());
        self.state = State::FieldStart;
    }

    /// The end of a record whose line end begins at `at`; `None` if more bytes must be seen.
    fn end_record(&mut self, at: usize, bytes: &[u8], ended: bool) -> Outcome {
        match self.syntax.line_ends.find(&bytes[at..], ended) {
            Some((_, after)) => {
                self.end_field();
                Outcome::Whole(at + after)
            }
            None => Outcome::Unfinished,
        }
    }

    fn plain(&mut self, bytes: &[u8], ended: bool) -> Option<Outcome> {
        let rest = &bytes[self.at..];
        let found = match self.syntax.line_ends {
            RecordEnds::Lf => memchr::memchr2(self.syntax.delimiter, b'\n', rest),
            RecordEnds::Any => memchr::memchr3(self.syntax.delimiter, b'\n', b'\r', rest),
        };
        let end = self.at + found.unwrap_or(rest.len());
        self.fields.bytes.extend_from_slice(&bytes[self.at..end]);
        self.at = end;
        if end == bytes.len() && !ended {
            return Some(Outcome::Unfinished);
        }
        if self.quotes == Quotes::Strict && memchr::memchr_iter(b'"', self.field()).count() % 2 == 1 {
            return Some(Outcome::Stray(end));
        }
        match bytes.get(end) {
            None => {
                self.drop_return();
                self.end_field();
                Some(Outcome::Whole(end))
            }
            Some(&byte) if byte == self.syntax.delimiter => {
                self.end_field();
                self.at = end + 1;
                None
            }
            Some(&byte) => {
                if byte == b'\n' {
                    self.drop_return();
                }
                Some(self.end_record(end, bytes, ended))
            }
        }
    }

    /// The field that is being read.
    fn field(&self) -> &[u8] {
        &self.fields.bytes[self.fields.ends.last().copied().unwrap_or(0)..]
    }

    /// Takes the `\r` of a line end off the field.
    fn drop_return(&mut self) {
        if self.field().last() == Some(&b'\r') {
            self.fields.bytes.pop();
        }
    }

    fn quoted(&mut self, bytes: &[u8], ended: bool) -> Option<Outcome> {
        let rest = &bytes[self.at..];
        let found = match self.quotes {
            Quotes::Backslash => memchr::memchr2(b'"', b'\\', rest),
            Quotes::Doubled | Quotes::Lenient | Quotes::Strict => memchr::memchr(b'"', rest),
        };
        let Some(found) = found else {
            self.fields.bytes.extend_from_slice(rest);
            self.at = bytes.len();
            return Some(if ended { Outcome::Unclosed } else { Outcome::Unfinished });
        };
        let at = self.at + found;
        self.fields.bytes.extend_from_slice(&bytes[self.at..at]);
        self.at = at;
        let Some(&next) = bytes.get(at + 1) else {
            if !ended {
                return Some(Outcome::Unfinished);
            }
            self.at = at + 1;
            if bytes[at] == b'"' {
                self.close(bytes);
                return None;
            }
            return Some(Outcome::Unclosed);
        };
        match (bytes[at], next) {
            (b'"', b'"') => {
                self.fields.bytes.push(b'"');
                self.at = at + 2;
            }
            (b'"', _) if self.quotes == Quotes::Lenient && !self.ends_field(next) => {
                self.fields.bytes.push(b'"');
                self.at = at + 1;
            }
            (b'"', _) => {
                self.at = at + 1;
                self.close(bytes);
            }
            (b'\\', b'"') => {
                self.fields.bytes.push(b'"');
                self.at = at + 2;
            }
            (b'\\', b'\\') => {
                self.fields.bytes.extend_from_slice(b"\\\\");
                self.at = at + 2;
            }
            _ => {
                self.fields.bytes.push(b'\\');
                self.at = at + 1;
            }
        }
        None
    }

    /// After a closing quote.
    fn close(&mut self, bytes: &[u8]) {
        self.state = State::Closed;
        let spans = |&quote: &usize| memchr::memchr2(b'\n', b'\r', &bytes[quote..self.at]).is_some();
        self.spanning_quote_at = self.spanning_quote_at.or(self.quote_at.filter(spans));
    }

    fn ends_field(&self, byte: u8) -> bool {
        byte == self.syntax.delimiter || byte == b'\n' || byte == b'\r'
    }

    /// After the closing quote.
    fn closed(&mut self, bytes: &[u8], ended: bool) -> Option<Outcome> {
        match bytes.get(self.at) {
            None if !ended => Some(Outcome::Unfinished),
            None => {
                self.end_field();
                Some(Outcome::Whole(self.at))
            }
            Some(&byte) if byte == self.syntax.delimiter => {
                self.end_field();
                self.at += 1;
                None
            }
            Some(b'\n') => Some(self.end_record(self.at, bytes, ended)),
            Some(b'\r') => match bytes.get(self.at + 1) {
                None if !ended => Some(Outcome::Unfinished),
                None => {
                    self.end_field();
                    Some(Outcome::Whole(self.at + 1))
                }
                Some(b'\n') => Some(self.end_record(self.at, bytes, ended)),
                Some(_) if self.syntax.line_ends == RecordEnds::Any => {
                    Some(self.end_record(self.at, bytes, ended))
                }
                Some(_) => Some(Outcome::Stray(self.at)),
            },
            Some(_) => Some(Outcome::Stray(self.at)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMAS: Syntax = Syntax { delimiter: b',', line_ends: RecordEnds::Lf };

    /// The fields of the first record, joined by `|`, and what is left; or what is wrong.
    fn parse(text: &str, quotes: Quotes, syntax: Syntax) -> Result<(String, String), Outcome> {
        let outcome = RecordParser::new(syntax, quotes).run(text.as_bytes(), true);
        // In pieces it is the same.
        let mut pieces = RecordParser::new(syntax, quotes);
        let early = (0..text.len())
            .map(|end| pieces.run(&text.as_bytes()[..end], false))
            .find(|outcome| *outcome != Outcome::Unfinished);
        let last = early.unwrap_or_else(|| pieces.run(text.as_bytes(), true));
        assert_eq!(last, outcome, "{text:?}");
        let Outcome::Whole(end) = outcome else { return Err(outcome) };
        let fields: Vec<String> =
            pieces.fields.iter().map(|field| String::from_utf8(field.to_vec()).unwrap()).collect();
        Ok((fields.join("|"), text[end..].to_owned()))
    }

    fn whole(text: &str, quotes: Quotes) -> (String, String) {
        parse(text, quotes, COMMAS).unwrap()
    }

    fn pair(fields: &str, rest: &str) -> (String, String) {
        (fields.to_owned(), rest.to_owned())
    }

    #[test]
    fn fields_may_be_quoted() {
        for quotes in [Quotes::Doubled, Quotes::Backslash, Quotes::Lenient, Quotes::Strict] {
            assert_eq!(whole("1,\"a \"\"q\"\", b\",\nnext", quotes), pair("1|a \"q\", b|", "next"));
            assert_eq!(whole("1,\"\"\r\nx", quotes), pair("1|", "x"));
            assert_eq!(whole("a,b", quotes), pair("a|b", ""));
            assert_eq!(whole("\"a\"\r", quotes), pair("a", ""));
            assert_eq!(whole("\n", quotes), pair("", ""));
            assert_eq!(whole("a\rb,c\n", quotes), pair("a\rb|c", ""));
        }
        assert_eq!(whole("1,a \"b\" c\n", Quotes::Doubled), pair("1|a \"b\" c", ""));
        assert_eq!(whole("1,\"a\r\nb\rc\"\n", Quotes::Doubled), pair("1|a\r\nb\rc", ""));
    }

    #[test]
    fn a_record_may_have_so_many_fields() {
        let text = ",".repeat(MAX_FIELDS - 1);
        let outcome = |text: &str| RecordParser::new(COMMAS, Quotes::Doubled).run(text.as_bytes(), true);
        assert_eq!(outcome(&text), Outcome::Whole(text.len()));
        assert_eq!(outcome(&format!("{text},,\nx")), Outcome::TooWide);
        let mut parser = RecordParser::new(COMMAS, Quotes::Doubled);
        assert_eq!(parser.run(",\"\"".repeat(10 * MAX_FIELDS).as_bytes(), false), Outcome::TooWide);
        assert_eq!(parser.fields.len(), MAX_FIELDS + 1);
    }

    #[test]
    fn carriage_returns_end_records_where_the_file_has_them() {
        let syntax = Syntax { line_ends: RecordEnds::Any, ..COMMAS };
        for (text, rest) in
            [("a,b\rc", "c"), ("a,b\r\nc", "c"), ("a,b\nc", "c"), ("a,\"b\"\rc", "c"), ("a,b\r", "")]
        {
            assert_eq!(parse(text, Quotes::Doubled, syntax), Ok(pair("a|b", rest)), "{text:?}");
        }
    }

    #[test]
    fn broken_quotes_are_told() {
        let broken = |text, quotes| parse(text, quotes, COMMAS).unwrap_err();
        assert_eq!(broken("1,\"a\"b\n", Quotes::Doubled), Outcome::Stray(5));
        assert_eq!(broken("1,\"a\n2,b\n", Quotes::Doubled), Outcome::Unclosed);
        assert_eq!(broken("1,a\"\n", Quotes::Strict), Outcome::Stray(4));
        assert_eq!(whole("1,\"a \"b\" c\"\n2", Quotes::Lenient), pair("1|a \"b\" c", "2"));
        let (text, want) = (r#"1,"a \"b\" \\c","d\\""#, r#"1|a "b" \\c|d\\"#);
        assert_eq!(whole(text, Quotes::Backslash), pair(want, ""));
    }
}
