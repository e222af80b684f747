//! Decompression while reading.
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use flate2::bufread::MultiGzDecoder;

use crate::error::{Error, Result};

/// Bytes read from the disk, and handed on, at a time.
const BUFFER_BYTES: usize = 1 << 18;

/// How a file is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compression {
    None,
    Gzip,
    Zstd,
}

impl Compression {
    /// By the file's first bytes, whatever its name says.
    pub(super) fn of_bytes(bytes: &[u8]) -> Self {
        match bytes {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            _ => Self::None,
        }
    }

    fn name(self) -> Option<&'static str> {
        match self {
            Self::None => None,
            Self::Gzip => Some("gzip"),
            Self::Zstd => Some("zstd"),
        }
    }

    /// What a read error means: of the disk, or of the compressed data.
    pub(super) fn error(self, path: &Path, source: std::io::Error) -> Error {
        match self.name() {
            Some(kind) => Error::Compressed { path: path.into(), kind, source },
            None => Error::Io { action: "read", path: path.into(), source },
        }
    }
}

/// The decompressed bytes of a file, and what they are decompressed from.
pub(super) struct Source {
    pub(super) bytes: Box<dyn BufRead + Send>,
    pub(super) compression: Compression,
}

/// Opens a regular file. `shown` is its name in messages.
pub(super) fn open(real: &Path, shown: &Path) -> Result<Source> {
    let file = File::open(real).map_err(Error::io("read", shown))?;
    let mut raw = BufReader::with_capacity(BUFFER_BYTES, file);
    let compression = Compression::of_bytes(raw.fill_buf().map_err(Error::io("read", shown))?);
    let promised = shown.extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase);
    let promised = match promised.as_deref() {
        Some("gz") => Compression::Gzip,
        Some("zst" | "zstd") => Compression::Zstd,
        _ => Compression::None,
    };
    if compression == Compression::None && promised != Compression::None {
        let source = std::io::Error::other("it does not begin as such data does");
        return Err(promised.error(shown, source));
    }
    let bytes: Box<dyn BufRead + Send> = match compression {
        Compression::None => Box::new(raw),
        // Several members, one after another, are one file: that is what `cat a.gz b.gz` makes.
        Compression::Gzip => buffered(MultiGzDecoder::new(raw)),
        Compression::Zstd => {
            buffered(zstd::Decoder::with_buffer(raw).map_err(|error| compression.error(shown, error))?)
        }
    };
    Ok(Source { bytes, compression })
}

fn buffered(reader: impl Read + Send + 'static) -> Box<dyn BufRead + Send> {
    Box::new(BufReader::with_capacity(BUFFER_BYTES, reader))
}
