//! Lines with their numbers, of bounded length.
use std::io::{BufRead, Read};
use std::path::{Path, PathBuf};

use super::MAX_DOCUMENT_BYTES;
use super::compression::{Compression, Source};
use super::guess;
use crate::error::{Error, Place, Result};

/// The lines of a text whose line endings are `\n` ([`super::line_ends`] makes them so).
pub(super) struct Lines {
    path: PathBuf,
    bytes: Box<dyn BufRead + Send>,
    compression: Compression,
    line: u64,
    buffer: Vec<u8>,
}

impl Lines {
    pub(super) fn new(source: Source, path: &Path) -> Self {
        let Source { bytes, compression } = source;
        Self { path: path.into(), bytes, compression, line: 0, buffer: Vec::new() }
    }

    /// Number of the line read last, counted from 1.
    pub(super) fn line(&self) -> u64 {
        self.line
    }

    /// The next line without its end; `None` at the end of the file.
    pub(super) fn next_line(&mut self) -> Result<Option<&[u8]>> {
        self.buffer.clear();
        let limit = MAX_DOCUMENT_BYTES as u64 + 1;
        let read = (&mut self.bytes).take(limit).read_until(b'\n', &mut self.buffer);
        let read = read.map_err(|error| self.compression.error(&self.path, error))?;
        if read == 0 {
            return Ok(None);
        }
        self.line += 1;
        if read as u64 == limit && self.buffer.last() != Some(&b'\n') {
            self.buffer = Vec::new();
            self.bytes.skip_until(b'\n').map_err(|error| self.compression.error(&self.path, error))?;
            return Err(too_long(&self.path, Place::Line(self.line)));
        }
        let line = self.buffer.as_slice();
        Ok(Some(line.strip_suffix(b"\n").unwrap_or(line)))
    }

    /// The next line as text.
    pub(super) fn next_text(&mut self) -> Result<Option<String>> {
        let number = self.line + 1;
        let path = self.path.clone();
        match self.next_line()? {
            None => Ok(None),
            Some(line) => utf8(line, &path, Place::Line(number)).map(|text| Some(text.to_owned())),
        }
    }
}

/// The text of some bytes, or where they stop being one.
pub(super) fn utf8<'a>(bytes: &'a [u8], path: &Path, place: Place) -> Result<&'a str> {
    std::str::from_utf8(bytes).map_err(|error| Error::NotUtf8 {
        path: path.into(),
        place,
        byte: error.valid_up_to() + 1,
        offset: None,
        guess: guess::encoding(bytes, error.valid_up_to()),
    })
}

/// A document beyond [`MAX_DOCUMENT_BYTES`].
pub(super) fn too_long(path: &Path, place: Place) -> Error {
    let limit = MAX_DOCUMENT_BYTES >> 20;
    Error::bad_row(path, place, format!("longer than {limit} MiB; is this a file of documents?"))
}
