//! The encoding of a text, found from its first bytes, and its conversion to UTF-8 while reading.
use std::io::{self, BufRead, Read};

use serde::Serialize;

/// Stands for what cannot be decoded: no UTF-8 has this byte, so the row is a bad one.
const UNDECODABLE: u8 = 0xff;

/// How characters are written as bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Encoding {
    /// The default.
    #[serde(rename = "UTF-8")]
    Utf8,
    /// Little-endian, called Unicode on Windows.
    #[serde(rename = "UTF-16LE")]
    Utf16Le,
    /// Big-endian.
    #[serde(rename = "UTF-16BE")]
    Utf16Be,
    /// Little-endian.
    #[serde(rename = "UTF-32LE")]
    Utf32Le,
    /// Big-endian.
    #[serde(rename = "UTF-32BE")]
    Utf32Be,
}

impl Encoding {
    /// The IANA name, as used by `iconv`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Utf8 => "UTF-8",
            Self::Utf16Le => "UTF-16LE",
            Self::Utf16Be => "UTF-16BE",
            Self::Utf32Le => "UTF-32LE",
            Self::Utf32Be => "UTF-32BE",
        }
    }

    /// Bytes of a code unit.
    fn unit(self) -> usize {
        match self {
            Self::Utf8 => 1,
            Self::Utf16Le | Self::Utf16Be => 2,
            Self::Utf32Le | Self::Utf32Be => 4,
        }
    }

    /// By a byte order mark, and the mark's length. UTF-32 comes first: its little-endian mark begins with that of UTF-16.
    pub(super) fn of_mark(head: &[u8]) -> Option<(Self, usize)> {
        Some(match head {
            [0xff, 0xfe, 0, 0, ..] => (Self::Utf32Le, 4),
            [0, 0, 0xfe, 0xff, ..] => (Self::Utf32Be, 4),
            [0xff, 0xfe, ..] => (Self::Utf16Le, 2),
            [0xfe, 0xff, ..] => (Self::Utf16Be, 2),
            [0xef, 0xbb, 0xbf, ..] => (Self::Utf8, 3),
            _ => return None,
        })
    }

    /// By NUL bytes, which every ASCII character of UTF-16 and UTF-32 has: the encoding in which `head` is text throughout, and most of it ASCII.
    pub(super) fn of_nuls(head: &[u8]) -> Option<Self> {
        memchr::memchr(0, head)?;
        let wide = [Self::Utf32Le, Self::Utf32Be, Self::Utf16Le, Self::Utf16Be];
        let counted = wide.into_iter().filter_map(|encoding| Some((encoding.ascii_in(head)?, encoding)));
        counted.max_by_key(|(ascii, _)| *ascii).map(|(_, encoding)| encoding)
    }

    /// ASCII characters, if the bytes are text in this encoding, and some of them are ASCII.
    fn ascii_in(self, head: &[u8]) -> Option<usize> {
        let whole = &head[..head.len() / self.unit() * self.unit()];
        let mut decoder = Units { encoding: self, high: None };
        let mut out = Vec::new();
        decoder.decode(whole, &mut out);
        let text = std::str::from_utf8(&out).ok()?;
        let is_text = |c: char| !c.is_control() || matches!(c, '\t' | '\n' | '\r' | '\u{c}' | '\u{85}');
        let is_character = |c: char| (c as u32) & 0xfffe != 0xfffe;
        let (ascii, all) = (text.chars().filter(char::is_ascii).count(), text.chars().count());
        // ASCII words with NUL bytes between are no UTF-16: read as that, few of their characters would be ASCII.
        let narrow = head.iter().all(|&b| b == 0 || (b.is_ascii() && is_text(char::from(b))));
        let enough = if narrow { 2 * ascii >= all } else { true };
        (ascii > 0 && enough && text.chars().all(|c| is_text(c) && is_character(c))).then_some(ascii)
    }
}

/// Decodes code units of UTF-16 and UTF-32.
struct Units {
    encoding: Encoding,
    /// The first half of a surrogate pair.
    high: Option<u16>,
}

impl Units {
    /// Appends the UTF-8 of whole code units.
    fn decode(&mut self, units: &[u8], out: &mut Vec<u8>) {
        let mut push = |c: Option<char>| match c {
            Some(c) => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            None => out.push(UNDECODABLE),
        };
        let wide = |b: &[u8]| [b[0], b[1], b[2], b[3]];
        match self.encoding {
            Encoding::Utf8 => out.extend_from_slice(units),
            Encoding::Utf32Le => {
                units.chunks_exact(4).for_each(|b| push(char::from_u32(u32::from_le_bytes(wide(b)))));
            }
            Encoding::Utf32Be => {
                units.chunks_exact(4).for_each(|b| push(char::from_u32(u32::from_be_bytes(wide(b)))));
            }
            Encoding::Utf16Le => {
                units.chunks_exact(2).for_each(|b| self.unit(u16::from_le_bytes([b[0], b[1]]), &mut push));
            }
            Encoding::Utf16Be => {
                units.chunks_exact(2).for_each(|b| self.unit(u16::from_be_bytes([b[0], b[1]]), &mut push));
            }
        }
    }

    fn unit(&mut self, unit: u16, push: &mut impl FnMut(Option<char>)) {
        if let Some(high) = self.high.take() {
            if let Some(Ok(pair)) = char::decode_utf16([high, unit]).next() {
                return push(Some(pair));
            }
            push(None);
        }
        match unit {
            0xd800..=0xdbff => self.high = Some(unit),
            other => push(char::from_u32(other.into())),
        }
    }
}

/// A text in UTF-16 or UTF-32 as UTF-8. What cannot be decoded (half a surrogate pair, a number above U+10FFFF, half a code unit at the end)
/// becomes a byte that is not UTF-8.
pub(super) struct Transcoder<R> {
    inner: R,
    units: Units,
    /// Bytes of a code unit that is not complete yet.
    partial: Vec<u8>,
    out: Vec<u8>,
    at: usize,
}

impl<R: BufRead> Transcoder<R> {
    pub(super) fn new(inner: R, encoding: Encoding) -> Self {
        Self { inner, units: Units { encoding, high: None }, partial: Vec::new(), out: Vec::new(), at: 0 }
    }

    fn refill(&mut self) -> io::Result<()> {
        self.out.clear();
        self.at = 0;
        while self.out.is_empty() {
            let chunk = self.inner.fill_buf()?;
            let count = chunk.len();
            if count == 0 {
                if self.units.high.take().is_some() || !self.partial.is_empty() {
                    self.partial.clear();
                    self.out.push(UNDECODABLE);
                }
                return Ok(());
            }
            self.partial.extend_from_slice(chunk);
            self.inner.consume(count);
            let unit = self.units.encoding.unit();
            let whole = self.partial.len() / unit * unit;
            self.units.decode(&self.partial[..whole], &mut self.out);
            self.partial.drain(..whole);
        }
        Ok(())
    }
}

impl<R: BufRead> BufRead for Transcoder<R> {
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

impl<R: BufRead> Read for Transcoder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(buffer)?;
        self.consume(count);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn utf16(text: &str, bytes: fn(u16) -> [u8; 2]) -> Vec<u8> {
        text.encode_utf16().flat_map(bytes).collect()
    }

    /// Decoded, with a reader that hands out `step` bytes at a time.
    fn decoded(bytes: &[u8], encoding: Encoding, step: usize) -> Vec<u8> {
        let mut out = Vec::new();
        let reader = std::io::BufReader::with_capacity(step, bytes);
        Transcoder::new(reader, encoding).read_to_end(&mut out).unwrap();
        out
    }

    #[test]
    fn pairs_and_units_across_reads_are_whole() {
        let text = "a\u{e4}\u{20ac}\u{1f600}\n";
        for step in 1..7 {
            assert_eq!(decoded(&utf16(text, u16::to_le_bytes), Encoding::Utf16Le, step), text.as_bytes());
            assert_eq!(decoded(&utf16(text, u16::to_be_bytes), Encoding::Utf16Be, step), text.as_bytes());
            let wide: Vec<u8> = text.chars().flat_map(|c| (c as u32).to_be_bytes()).collect();
            assert_eq!(decoded(&wide, Encoding::Utf32Be, step), text.as_bytes());
        }
    }

    #[test]
    fn what_cannot_be_decoded_is_no_utf8() {
        let lone: Vec<u8> =
            [0x61u16, 0xd83d, 0x62, 0xde00, 0x63].into_iter().flat_map(u16::to_le_bytes).collect();
        assert_eq!(decoded(&lone, Encoding::Utf16Le, 3), b"a\xffb\xffc");
        assert_eq!(decoded(&[0x61, 0, 0x62], Encoding::Utf16Le, 64), b"a\xff");
        assert_eq!(decoded(&[0x3d, 0xd8], Encoding::Utf16Le, 64), b"\xff");
        assert_eq!(decoded(&[0, 0, 0x11, 0], Encoding::Utf32Le, 64), b"\xff");
    }

    #[test]
    fn marks_and_nuls_tell_the_encoding() {
        assert_eq!(Encoding::of_mark(&[0xff, 0xfe, 0x41, 0]), Some((Encoding::Utf16Le, 2)));
        assert_eq!(Encoding::of_mark(&[0xff, 0xfe, 0, 0]), Some((Encoding::Utf32Le, 4)));
        assert_eq!(Encoding::of_mark(b"\xef\xbb\xbf"), Some((Encoding::Utf8, 3)));
        assert_eq!(Encoding::of_mark(b"\xff"), None);
        for text in ["plain words\n", "\u{4e16}\u{754c}\u{4f60}\u{597d}\n", "\u{43c}\u{438}\u{440} 1\r\n"] {
            assert_eq!(Encoding::of_nuls(&utf16(text, u16::to_le_bytes)), Some(Encoding::Utf16Le), "{text}");
            assert_eq!(Encoding::of_nuls(&utf16(text, u16::to_be_bytes)), Some(Encoding::Utf16Be), "{text}");
            let wide: Vec<u8> = text.chars().flat_map(|c| (c as u32).to_le_bytes()).collect();
            assert_eq!(Encoding::of_nuls(&wide), Some(Encoding::Utf32Le), "{text}");
        }
        for binary in [&b"text"[..], b"a\0b\0\0\0\x01\0", b"\0\0\0\0\0\0\0\0", b"one\0two\0three"] {
            assert_eq!(Encoding::of_nuls(binary), None, "{binary:?}");
        }
    }
}
