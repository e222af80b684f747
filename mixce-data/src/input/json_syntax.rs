//! Finds the end of a JSON value, or the first byte at which it is not valid JSON.
//!
//! The scanner checks the grammar, so that a truncated value is detected at the next row and not at the end of the file. Python's
//! `NaN`, `Infinity` and `-Infinity` are accepted and noted; numbers and escapes are left to the parser.
use std::ops::Range;

/// Maximum nesting; the parser has the same limit.
const MAX_DEPTH: usize = 127;

/// Longest number, in bytes.
const MAX_WORD: usize = 1024;

/// What the scanner expects next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expect {
    Value,
    /// A value, or the end of an empty array.
    FirstItem,
    Key,
    /// A key, or the end of an empty object.
    FirstKey,
    Colon,
    /// After a value: `,` or the end of the enclosing array or object.
    Next,
}

/// Result of a scan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Scan {
    /// The value continues beyond the available bytes.
    Unfinished,
    /// The value ends before this byte.
    Value(usize),
    /// The byte and the problem.
    Broken(usize, &'static str),
}

/// A scan of one value, which begins at byte 0 of what [`Self::run`] is given.
#[derive(Debug)]
pub(super) struct Scanner {
    at: usize,
    expect: Expect,
    /// Whether what is open is an object (else an array), outermost first.
    open: Vec<bool>,
    in_string: bool,
    /// `NaN` and the infinities, which JSON does not have.
    words: Vec<Range<usize>>,
}

impl Scanner {
    pub(super) fn new() -> Self {
        Self { at: 0, expect: Expect::Value, open: Vec::new(), in_string: false, words: Vec::new() }
    }

    /// The words that the parser would not understand.
    pub(super) fn words(&self) -> &[Range<usize>] {
        &self.words
    }

    /// Continues the scan. `bytes` extends the bytes of the last call; `ended`: nothing follows them.
    pub(super) fn run(&mut self, bytes: &[u8], ended: bool) -> Scan {
        loop {
            if self.in_string {
                match self.string(bytes) {
                    Some(Scan::Unfinished) if ended => {
                        return Scan::Broken(bytes.len(), "the file ends inside a string");
                    }
                    Some(scan) => return scan,
                    None if self.is_complete() => return Scan::Value(self.at),
                    None => {}
                }
            }
            while bytes.get(self.at).is_some_and(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r')) {
                self.at += 1;
            }
            let Some(&byte) = bytes.get(self.at) else {
                return match ended {
                    true => Scan::Broken(self.at, "the file ends inside a value"),
                    false => Scan::Unfinished,
                };
            };
            if let Some(scan) = self.token(byte, bytes, ended) {
                return scan;
            }
            if self.is_complete() {
                return Scan::Value(self.at);
            }
        }
    }

    fn is_complete(&self) -> bool {
        self.open.is_empty() && self.expect == Expect::Next && !self.in_string
    }

    /// To the end of a string; `None` when it is reached.
    fn string(&mut self, bytes: &[u8]) -> Option<Scan> {
        loop {
            let Some(found) = memchr::memchr3(b'"', b'\\', b'\n', &bytes[self.at..]) else {
                self.at = bytes.len();
                return Some(Scan::Unfinished);
            };
            let at = self.at + found;
            match bytes[at] {
                b'"' => {
                    self.at = at + 1;
                    self.in_string = false;
                    return None;
                }
                b'\n' => return Some(Scan::Broken(at, "a string is not closed on its line")),
                _ if at + 1 == bytes.len() => {
                    self.at = at;
                    return Some(Scan::Unfinished);
                }
                _ => self.at = at + 2,
            }
        }
    }

    /// One token other than white space.
    fn token(&mut self, byte: u8, bytes: &[u8], ended: bool) -> Option<Scan> {
        use Expect::{Colon, FirstItem, FirstKey, Key, Next, Value};
        let in_object = self.open.last() == Some(&true);
        match (self.expect, byte) {
            (Value | FirstItem, b'{' | b'[') => {
                if self.open.len() == MAX_DEPTH {
                    return Some(Scan::Broken(self.at, "nested more than 127 levels deep"));
                }
                self.open.push(byte == b'{');
                self.expect = if byte == b'{' { FirstKey } else { FirstItem };
            }
            (FirstKey, b'}') | (FirstItem, b']') => self.close(),
            (Next, b'}') if in_object => self.close(),
            (Next, b']') if !in_object && !self.open.is_empty() => self.close(),
            (Next, b',') if !self.open.is_empty() => self.expect = if in_object { Key } else { Value },
            (Colon, b':') => self.expect = Value,
            (Key | FirstKey, b'"') => {
                self.in_string = true;
                self.expect = Colon;
            }
            (Value | FirstItem, b'"') => {
                self.in_string = true;
                self.expect = Next;
            }
            (Value | FirstItem, _) => return self.word(bytes, ended),
            (Key | FirstKey, _) => return Some(Scan::Broken(self.at, "expected a key in quotes")),
            (Colon, _) => return Some(Scan::Broken(self.at, "expected `:` after a key")),
            (Next, _) => {
                let expected = if in_object { "expected `,` or `}`" } else { "expected `,` or `]`" };
                return Some(Scan::Broken(self.at, expected));
            }
        }
        self.at += 1;
        None
    }

    fn close(&mut self) {
        self.open.pop();
        self.expect = Expect::Next;
    }

    /// A number, `true`, `false`, `null`, or Python's NaN and infinities.
    fn word(&mut self, bytes: &[u8], ended: bool) -> Option<Scan> {
        let length = bytes[self.at..]
            .iter()
            .take_while(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.' | b'_'))
            .count();
        let end = self.at + length;
        if !matches!(bytes[self.at], b't' | b'f' | b'n' | b'N' | b'I' | b'-' | b'0'..=b'9')
            || length > MAX_WORD
        {
            return Some(Scan::Broken(self.at, "expected a value"));
        }
        if end == bytes.len() && !ended {
            return Some(Scan::Unfinished);
        }
        match &bytes[self.at..end] {
            b"true" | b"false" | b"null" => {}
            b"NaN" | b"Infinity" | b"-Infinity" => self.words.push(self.at..end),
            [b'-' | b'0'..=b'9', ..] => {}
            _ => return Some(Scan::Broken(self.at, "expected a value")),
        }
        self.at = end;
        self.expect = Expect::Next;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(text: &str) -> Scan {
        let whole = Scanner::new().run(text.as_bytes(), true);
        // In pieces it is the same.
        let mut scanner = Scanner::new();
        for end in 0..text.len() {
            match scanner.run(&text.as_bytes()[..end], false) {
                Scan::Unfinished => {}
                early => {
                    assert_eq!(early, whole, "{text} at {end}");
                    return whole;
                }
            }
        }
        assert_eq!(scanner.run(text.as_bytes(), true), whole, "{text}");
        whole
    }

    #[test]
    fn values_end_where_their_brackets_close() {
        for value in [r#"{"a":[1,{"b":"}\""}],"c":{}}"#, "[]", r#""a b""#, r#"{ "a" : [ ] }"#] {
            assert_eq!(scan(&format!("{value} {{")), Scan::Value(value.len()), "{value}");
        }
        assert_eq!(scan("-1.5e3\n"), Scan::Value(6));
        assert_eq!(scan("null"), Scan::Value(4));
    }

    #[test]
    fn a_value_breaks_at_the_first_byte_that_cannot_belong_to_it() {
        for (text, at, words) in [
            ("{\"a\":1\n{\"a\":2}", 7, "expected `,` or `}`"),
            ("{\"a\n\":1}", 3, "a string is not closed"),
            ("{oops}", 1, "a key in quotes"),
            ("{\"a\" 1}", 5, "expected `:`"),
            ("[1 2]", 3, "expected `,` or `]`"),
            ("[1,]", 3, "expected a value"),
            ("{\"a\":[1}", 7, "expected `,` or `]`"),
            ("nonsense", 0, "expected a value"),
            ("{\"a\":", 5, "the file ends inside a value"),
            ("{\"a", 3, "the file ends inside a string"),
        ] {
            let Scan::Broken(got, problem) = scan(text) else { panic!("{text}: {:?}", scan(text)) };
            assert!(got == at && problem.contains(words), "{text}: {got} {problem}");
        }
        assert!(matches!(scan(&"[".repeat(200)), Scan::Broken(127, _)));
    }

    #[test]
    fn words_of_python_are_noted_outside_of_strings_only() {
        let text = r#"{"NaN":"NaN, Infinity","a":NaN,"b":[-Infinity,Infinity]}"#;
        let mut scanner = Scanner::new();
        assert_eq!(scanner.run(text.as_bytes(), true), Scan::Value(text.len()));
        let words: Vec<&str> = scanner.words().iter().map(|range| &text[range.clone()]).collect();
        assert_eq!(words, ["NaN", "-Infinity", "Infinity"]);
    }
}
