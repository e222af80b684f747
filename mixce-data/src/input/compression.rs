//! Detection of compression, by bytes and by names, and its errors.
use std::io::{self, BufRead};
use std::path::Path;

use bzip2::bufread::BzDecoder;
use flate2::bufread::GzDecoder;
use lzma_rust2::XzReader;
use serde::Serialize;

use super::decoding::Recorder;
use super::members::{FullReads, Members, Prefixed};
use super::zstandard::Frames;
use crate::error::{Error, Fault};

/// Bytes read from the disk, and handed on, at a time.
pub(super) const BUFFER_BYTES: usize = 1 << 18;

/// A stream of bytes from a file.
pub(crate) type Bytes = Box<dyn BufRead + Send>;

/// The text of a file, and what the file is compressed with on the outside.
pub(super) struct Source {
    pub(super) bytes: Bytes,
    pub(super) compression: Compression,
}

/// Compression formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// Uncompressed.
    None,
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
    /// As `bzip2` writes it.
    Bzip2,
    /// As `xz` writes it, but not its older format lzma.
    Xz,
}

/// The extensions of compressed files.
const ENDINGS: [(&str, Compression); 11] = [
    (".gz", Compression::Gzip),
    (".gzip", Compression::Gzip),
    (".tgz", Compression::Gzip),
    (".zst", Compression::Zstd),
    (".zstd", Compression::Zstd),
    (".tzst", Compression::Zstd),
    (".bz2", Compression::Bzip2),
    (".tbz2", Compression::Bzip2),
    (".tbz", Compression::Bzip2),
    (".xz", Compression::Xz),
    (".txz", Compression::Xz),
];

impl Compression {
    /// By a file's first bytes, whatever its name says.
    pub(super) fn of_bytes(head: &[u8]) -> Self {
        match head {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            [b'B', b'Z', b'h', b'1'..=b'9', 0x31, 0x41, 0x59, 0x26, 0x53, 0x59, ..]
            | [b'B', b'Z', b'h', b'1'..=b'9', 0x17, 0x72, 0x45, 0x38, 0x50, 0x90, ..] => Self::Bzip2,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Xz,
            _ => Self::None,
        }
    }

    /// By a file's name in lower case, and the name without the ending.
    pub(super) fn of_name(name: &str) -> (Self, &str) {
        let found = ENDINGS.iter().find_map(|(ending, kind)| Some((*kind, name.strip_suffix(ending)?)));
        found.unwrap_or((Self::None, name))
    }

    /// The name in messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "uncompressed",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
            Self::Bzip2 => "bzip2",
            Self::Xz => "xz",
        }
    }

    /// Maps an error while reading to an error of the disk or of the compressed data.
    pub(super) fn error(self, path: &Path, error: io::Error) -> Error {
        let cut_off = error.kind() == io::ErrorKind::UnexpectedEof;
        let error = if self == Self::None { error } else { decoder_error(self, error, cut_off) };
        read_error(path, error)
    }

    /// The decompressed bytes. Several members, frames or streams, one after another, are one file: `cat a.gz b.gz` makes such files, and so do
    /// programs that compress in parallel.
    pub(super) fn decompress(self, raw: Bytes, recorder: &Recorder) -> io::Result<Bytes> {
        if self == Self::None {
            return Ok(raw);
        }
        let layer = recorder.add_layer(self);
        Ok(match self {
            Self::None => raw,
            Self::Gzip => buffered(Members::<GzDecoder<Prefixed>>::new(raw, layer)),
            Self::Bzip2 => buffered(Members::<BzDecoder<Prefixed>>::new(raw, layer)),
            Self::Zstd => buffered(Frames::new(raw, layer)?),
            Self::Xz => buffered(Members::<XzReader<FullReads>>::new(raw, layer)),
        })
    }
}

/// A reader's bytes, with a buffer.
pub(super) fn buffered(reader: impl io::Read + Send + 'static) -> Bytes {
    Box::new(io::BufReader::with_capacity(BUFFER_BYTES, reader))
}

/// A [`Fault`] on its way through readers.
#[derive(Debug, thiserror::Error)]
#[error("{fault}")]
struct Tagged {
    kind: &'static str,
    fault: Fault,
}

/// A fault in compressed data as an I/O error, which [`read_error`] unwraps.
pub(super) fn fault(kind: &'static str, fault: Fault) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, Tagged { kind, fault })
}

/// What a decoder's error means: an error of the disk or of an outer compression passes, the rest is a fault of this data.
pub(super) fn decoder_error(kind: Compression, error: io::Error, cut_off: bool) -> io::Error {
    let passes = error.raw_os_error().is_some() || error.get_ref().is_some_and(|inner| inner.is::<Tagged>());
    if passes || error.kind() == io::ErrorKind::Interrupted {
        return error;
    }
    fault(kind.name(), if cut_off { Fault::CutOff } else { Fault::Damaged(error.to_string()) })
}

/// What a read error means: of the disk, or of the data.
pub(crate) fn read_error(path: &Path, error: io::Error) -> Error {
    match error.downcast::<Tagged>() {
        Ok(Tagged { kind, fault }) => Error::Compressed { path: path.into(), kind, fault },
        Err(source) => Error::Io { action: "read", path: path.into(), source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_promise_and_bytes_decide() {
        assert_eq!(Compression::of_name("a.jsonl.gz"), (Compression::Gzip, "a.jsonl"));
        assert_eq!(Compression::of_name("a.tgz"), (Compression::Gzip, "a"));
        assert_eq!(Compression::of_name("a.tar.bz2"), (Compression::Bzip2, "a.tar"));
        assert_eq!(Compression::of_name("a.txt"), (Compression::None, "a.txt"));
        assert_eq!(Compression::of_bytes(b"BZh11 is a text"), Compression::None);
        assert_eq!(Compression::of_bytes(b"\x51\x2a\x4d\x18"), Compression::Zstd);
        assert_eq!(Compression::of_bytes(b"\xfd7zXZ\0"), Compression::Xz);
        assert_eq!(Compression::of_bytes(b"\x1f"), Compression::None);
    }
}
