//! Plain text with a separator between documents.
use std::io::BufRead;
use std::path::{Path, PathBuf};

use memchr::memmem::Finder;

use super::compression::{Compression, Source};
use super::format::Format;
use super::line_ends::unified;
use super::lines::{too_long, utf8};
use super::{Description, MAX_DOCUMENT_BYTES, Row, Rows};
use crate::error::{Place, Result};

/// Documents between occurrences of a separator, whose line endings are normalised to `\n` like the text's ([`super::line_ends`]). Line
/// breaks around a document are dropped; those inside are kept.
pub(super) struct SeparatedRows {
    path: PathBuf,
    bytes: Box<dyn BufRead + Send>,
    compression: Compression,
    separator: Finder<'static>,
    /// Read, not yet returned.
    buffer: Vec<u8>,
    /// No separator begins before this byte of the buffer.
    searched: usize,
    /// Line on which the buffer begins.
    line: u64,
    /// The document at the buffer's beginning is too long, and its rest is discarded.
    overflowed: bool,
    ended: bool,
}

impl SeparatedRows {
    pub(super) fn new(source: Source, path: &Path, separator: &[u8]) -> Self {
        Self {
            path: path.into(),
            bytes: source.bytes,
            compression: source.compression,
            separator: Finder::new(&unified(separator)).into_owned(),
            buffer: Vec::new(),
            searched: 0,
            line: 1,
            overflowed: false,
            ended: false,
        }
    }

    /// Bytes of the buffer up to the next separator, and how many to drop after them.
    fn find(&mut self) -> Option<(usize, usize)> {
        let separator = self.separator.needle().len();
        if let Some(at) = self.separator.find(&self.buffer[self.searched..]) {
            return Some((self.searched + at, separator));
        }
        // The separator may have begun at the buffer's end.
        self.searched = self.buffer.len().saturating_sub(separator - 1);
        (self.ended && !self.buffer.is_empty()).then_some((self.buffer.len(), 0))
    }

    fn read_more(&mut self) -> Result<()> {
        let chunk = self.bytes.fill_buf().map_err(|error| self.compression.error(&self.path, error))?;
        let count = chunk.len();
        self.buffer.extend_from_slice(chunk);
        self.bytes.consume(count);
        self.ended = count == 0;
        Ok(())
    }

    fn take(&mut self, length: usize, dropped: usize) -> Result<Row> {
        let rest = self.buffer.split_off(length + dropped);
        let taken = std::mem::replace(&mut self.buffer, rest);
        self.searched = 0;
        let begin = taken[..length].iter().take_while(|byte| **byte == b'\n').count();
        let place = Place::Line(self.line + count_lines(&taken[..begin]));
        self.line += count_lines(&taken);
        if std::mem::take(&mut self.overflowed) {
            return Err(too_long(&self.path, place));
        }
        let document = without_line_ends(&taken[begin..length]);
        let text = utf8(document, &self.path, place)?.to_owned();
        Ok(Row { place, text, prompt_bytes: None })
    }
}

impl Rows for SeparatedRows {
    fn next_row(&mut self) -> Result<Option<Row>> {
        loop {
            if let Some((length, dropped)) = self.find() {
                return self.take(length, dropped).map(Some);
            }
            if self.ended {
                return Ok(None);
            }
            if self.buffer.len() > MAX_DOCUMENT_BYTES {
                self.overflowed = true;
                self.line += count_lines(&self.buffer[..self.searched]);
                self.buffer.drain(..self.searched);
                self.searched = 0;
            }
            self.read_more()?;
        }
    }

    fn describe(&self) -> Description {
        Description::of(Format::Text)
    }
}

fn count_lines(bytes: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', bytes).count() as u64
}

/// `bytes` without the line endings behind.
fn without_line_ends(bytes: &[u8]) -> &[u8] {
    let kept = bytes.iter().rposition(|byte| *byte != b'\n').map_or(0, |at| at + 1);
    &bytes[..kept]
}
