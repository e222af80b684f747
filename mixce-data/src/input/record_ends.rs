//! Which bytes end a line of a table or of JSON.

/// The line endings that a file has outside quotes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RecordEnds {
    /// `\n`, with or without `\r` before it. A `\r` alone is text.
    Lf,
    /// `\r`, `\n` and `\r\n`.
    Any,
}

impl RecordEnds {
    /// Where the first line of `bytes` ends and where the next one begins; `None` if that is not known yet. `ended`: nothing follows `bytes`.
    pub(super) fn find(self, bytes: &[u8], ended: bool) -> Option<(usize, usize)> {
        if self == Self::Lf {
            let at = memchr::memchr(b'\n', bytes)?;
            let end = if at > 0 && bytes[at - 1] == b'\r' { at - 1 } else { at };
            return Some((end, at + 1));
        }
        let at = memchr::memchr2(b'\n', b'\r', bytes)?;
        match (bytes[at], bytes.get(at + 1)) {
            (b'\n', _) => Some((at, at + 1)),
            (_, Some(b'\n')) => Some((at, at + 2)),
            (_, None) if !ended => None,
            _ => Some((at, at + 1)),
        }
    }

    /// How many line endings are in `bytes`, which must not stop between `\r` and `\n`.
    pub(super) fn count(self, bytes: &[u8]) -> u64 {
        let feeds = memchr::memchr_iter(b'\n', bytes).count();
        if self == Self::Lf {
            return feeds as u64;
        }
        let lone = |at: usize| bytes.get(at + 1) != Some(&b'\n');
        (feeds + memchr::memchr_iter(b'\r', bytes).filter(|&at| lone(at)).count()) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_end_with_what_the_file_uses() {
        assert_eq!(RecordEnds::Lf.find(b"a\rb\r\nc", true), Some((3, 5)));
        assert_eq!(RecordEnds::Any.find(b"a\rb\r\nc", true), Some((1, 2)));
        assert_eq!(RecordEnds::Any.find(b"b\r\nc", true), Some((1, 3)));
        assert_eq!(RecordEnds::Any.find(b"b\r", false), None);
        assert_eq!(RecordEnds::Any.find(b"b\r", true), Some((1, 2)));
        assert_eq!((RecordEnds::Lf.count(b"\n\r\r\n"), RecordEnds::Any.count(b"\n\r\r\n")), (2, 3));
    }
}
