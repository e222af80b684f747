//! Counts and normalises line endings while a text is read.
use std::io::{self, BufRead, Read};

use super::compression::Bytes;
use super::decoding::{Invalid, LineEnds, Recorder};

/// Counts the line endings of a text and, if requested, turns each `\r\n` and `\r` into `\n`, as Python's text files do
/// ("universal newlines"). No other character ends a line: not U+0085, U+2028, U+2029, the vertical tab or the form feed.
///
/// It also finds the first byte that is not UTF-8, and changes nothing there.
pub(super) struct LineEndReader {
    inner: Bytes,
    unify: bool,
    recorder: Recorder,
    ends: LineEnds,
    /// The last byte was a `\r`, which counts once it is known what follows.
    after_cr: bool,
    validator: Option<Validator>,
    out: Vec<u8>,
    at: usize,
}

impl LineEndReader {
    /// `unify`: whether line endings become `\n`.
    pub(super) fn new(inner: Bytes, unify: bool, recorder: Recorder) -> Self {
        let validator = Some(Validator::default());
        let ends = LineEnds::default();
        Self { inner, unify, recorder, ends, after_cr: false, validator, out: Vec::new(), at: 0 }
    }

    fn refill(&mut self) -> io::Result<()> {
        self.out.clear();
        self.at = 0;
        while self.out.is_empty() {
            let chunk = self.inner.fill_buf()?;
            let count = chunk.len();
            if count == 0 {
                self.ends.cr += u64::from(std::mem::take(&mut self.after_cr));
            } else {
                let mut scanned = Scanned { ends: &mut self.ends, after_cr: &mut self.after_cr };
                scanned.chunk(chunk, self.unify, &mut self.out);
            }
            let invalid = self.validator.as_mut().and_then(|validator| validator.feed(chunk));
            self.inner.consume(count);
            if invalid.is_some() {
                self.validator = None;
            }
            self.recorder.note(|decoding| {
                decoding.line_ends = self.ends;
                decoding.first_invalid = decoding.first_invalid.or(invalid);
            });
            if count == 0 {
                break;
            }
        }
        Ok(())
    }
}

/// Counts, and the state between two chunks.
struct Scanned<'a> {
    ends: &'a mut LineEnds,
    after_cr: &'a mut bool,
}

impl Scanned<'_> {
    fn chunk(&mut self, chunk: &[u8], unify: bool, out: &mut Vec<u8>) {
        let mut rest = chunk;
        // A pair across the border of two chunks: its `\n` has been written already, for the `\r`.
        if std::mem::take(self.after_cr) {
            match rest.split_first() {
                Some((b'\n', behind)) => {
                    self.ends.crlf += 1;
                    rest = behind;
                    if !unify {
                        out.push(b'\n');
                    }
                }
                _ => self.ends.cr += 1,
            }
        }
        while let Some(at) = memchr::memchr(b'\r', rest) {
            self.ends.lf += count_lf(&rest[..at]);
            out.extend_from_slice(&rest[..at]);
            out.push(if unify { b'\n' } else { b'\r' });
            rest = &rest[at + 1..];
            match rest.first() {
                Some(b'\n') => {
                    self.ends.crlf += 1;
                    rest = &rest[1..];
                    if !unify {
                        out.push(b'\n');
                    }
                }
                Some(_) => self.ends.cr += 1,
                None => *self.after_cr = true,
            }
        }
        self.ends.lf += count_lf(rest);
        out.extend_from_slice(rest);
    }
}

fn count_lf(bytes: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', bytes).count() as u64
}

/// Line endings of bytes: `\n`, `\r\n` and `\r` become `\n`.
pub(super) fn unified(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let (mut ends, mut after_cr) = (LineEnds::default(), false);
    Scanned { ends: &mut ends, after_cr: &mut after_cr }.chunk(bytes, true, &mut out);
    out
}

impl BufRead for LineEndReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.out.len() {
            self.refill()?;
        }
        Ok(&self.out[self.at..])
    }

    fn consume(&mut self, count: usize) {
        self.at += count;
    }
}

impl Read for LineEndReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(buffer)?;
        self.consume(count);
        Ok(count)
    }
}

/// Looks for the first byte that is not UTF-8.
#[derive(Debug, Default)]
struct Validator {
    /// Bytes before the chunk, those of `partial` not counted.
    offset: u64,
    /// Line endings before the chunk: `\n`, and `\r` that no `\n` follows.
    lines: u64,
    last: u8,
    /// The beginning of a character that the next chunk completes.
    partial: Vec<u8>,
}

impl Validator {
    /// The next chunk; an empty one is the end.
    fn feed(&mut self, chunk: &[u8]) -> Option<Invalid> {
        let joined;
        let bytes = if self.partial.is_empty() {
            chunk
        } else {
            joined = [std::mem::take(&mut self.partial).as_slice(), chunk].concat();
            &joined
        };
        let (valid, ended) = match std::str::from_utf8(bytes) {
            Ok(_) => (bytes.len(), false),
            Err(error) => (error.valid_up_to(), error.error_len().is_some() || chunk.is_empty()),
        };
        let before = &bytes[..valid];
        if ended {
            let pending = u64::from(before.last().copied().unwrap_or(self.last) == b'\r');
            let line = 1 + self.lines + self.line_ends(before) + pending;
            return Some(Invalid { offset: self.offset + valid as u64, line });
        }
        self.lines += self.line_ends(before);
        self.last = before.last().copied().unwrap_or(self.last);
        self.offset += valid as u64;
        self.partial = bytes[valid..].to_vec();
        None
    }

    /// Line endings that are complete within these bytes; a `\r` at their end counts with what follows.
    fn line_ends(&self, bytes: &[u8]) -> u64 {
        let mut count = count_lf(bytes);
        if memchr::memchr(b'\r', bytes).is_some() || self.last == b'\r' {
            let before = std::iter::once(self.last).chain(bytes.iter().copied());
            let pairs = before.zip(bytes.iter().copied());
            count += pairs.filter(|&(a, b)| a == b'\r' && b != b'\n').count() as u64;
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes out, and what was counted, with `step` bytes read at a time.
    fn read(bytes: &'static [u8], unify: bool, step: usize) -> (Vec<u8>, LineEnds, Option<Invalid>) {
        let recorder = Recorder::new("a");
        let inner = Box::new(io::BufReader::with_capacity(step, bytes));
        let mut out = Vec::new();
        LineEndReader::new(inner, unify, recorder.clone()).read_to_end(&mut out).unwrap();
        let decoding = recorder.decoding();
        (out, decoding.line_ends, decoding.first_invalid)
    }

    #[test]
    fn line_ends_are_unified_and_counted_wherever_reads_end() {
        let mixed = b"a\r\nb\rc\n\r\r\n\n\rd\r";
        for step in 1..9 {
            let (out, ends, _) = read(mixed, true, step);
            assert_eq!(out, b"a\nb\nc\n\n\n\n\nd\n", "{step}");
            assert_eq!(ends, LineEnds { lf: 2, crlf: 2, cr: 4 }, "{step}");
            let (same, again, _) = read(mixed, false, step);
            assert_eq!((same.as_slice(), again), (&mixed[..], ends), "{step}");
        }
        assert_eq!(unified(b"\r\n\r\n"), b"\n\n");
    }

    #[test]
    fn other_separators_are_no_line_ends() {
        let text = "a\u{85}b\u{2028}c\u{2029}d\u{b}e\u{c}f\u{1c}\n".as_bytes();
        let (out, ends, _) = read(text, true, 3);
        assert_eq!((out.as_slice(), ends), (text, LineEnds { lf: 1, crlf: 0, cr: 0 }));
    }

    #[test]
    fn the_first_invalid_byte_is_found_wherever_reads_end() {
        for step in 1..9 {
            let at = |bytes| read(bytes, true, step).2.map(|invalid| (invalid.offset, invalid.line));
            assert_eq!(at("\u{e4}\r\n\u{1f600}\r".as_bytes()), None);
            assert_eq!(at(b"a\r\nb\rc\xfcd\n\xff"), Some((6, 3)), "{step}");
            assert_eq!(at(b"a\n\r\xff"), Some((3, 3)), "{step}");
            // A character cut off by the end.
            assert_eq!(at(b"a\nb\xf0\x9f\x98"), Some((3, 2)), "{step}");
        }
    }
}
