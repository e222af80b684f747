//! A growable buffer of a file's unread bytes.
use std::io::BufRead;
use std::path::{Path, PathBuf};

use super::MAX_DOCUMENT_BYTES;
use super::compression::{Compression, Source};
use super::record_ends::RecordEnds;
use crate::error::Result;

/// A buffer that grows on demand. A byte order mark at the start is dropped.
pub(super) struct Window {
    path: PathBuf,
    source: Box<dyn BufRead + Send>,
    compression: Compression,
    buffer: Vec<u8>,
    /// Where the unread bytes begin.
    begin: usize,
    started: bool,
    ended: bool,
}

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

impl Window {
    pub(super) fn new(source: Source, path: &Path) -> Self {
        let Source { bytes, compression } = source;
        Self {
            path: path.into(),
            source: bytes,
            compression,
            buffer: Vec::new(),
            begin: 0,
            started: false,
            ended: false,
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The unread bytes that are in memory.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.buffer[self.begin..]
    }

    /// Whether all of the file is read into memory, so that [`Self::bytes`] are its last ones.
    pub(super) fn ended(&self) -> bool {
        self.ended
    }

    /// Whether the unread bytes are more than one row may have.
    pub(super) fn is_over_limit(&self) -> bool {
        self.bytes().len() > MAX_DOCUMENT_BYTES
    }

    /// Reads more of the file behind [`Self::bytes`]; `false` at its end.
    pub(super) fn more(&mut self) -> Result<bool> {
        if self.ended {
            return Ok(false);
        }
        // Moving the rest to the front costs at most as much as was read since the last time.
        if self.begin > self.buffer.len() / 2 {
            self.buffer.drain(..self.begin);
            self.begin = 0;
        }
        let chunk = self.source.fill_buf().map_err(|error| self.compression.error(&self.path, error))?;
        let read = chunk.len();
        self.buffer.extend_from_slice(chunk);
        self.source.consume(read);
        self.ended = read == 0;
        if !self.started {
            self.drop_mark();
        }
        Ok(read > 0)
    }

    /// Calls [`Self::more`] until there are `wanted` bytes or the file ends.
    pub(super) fn reach(&mut self, wanted: usize) -> Result<()> {
        while self.bytes().len() < wanted && self.more()? {}
        Ok(())
    }

    fn drop_mark(&mut self) {
        let may_follow =
            self.buffer.len() < BYTE_ORDER_MARK.len() && BYTE_ORDER_MARK.starts_with(&self.buffer);
        if may_follow && !self.ended {
            return;
        }
        self.started = true;
        self.begin = if self.buffer.starts_with(BYTE_ORDER_MARK) { BYTE_ORDER_MARK.len() } else { 0 };
    }

    /// Drops `count` of the unread bytes.
    pub(super) fn consume(&mut self, count: usize) {
        self.begin += count;
    }

    /// Drops bytes to the end of a line, that end included; `false` if the file ends before. `ends` says which bytes end a line.
    pub(super) fn skip_line(&mut self, ends: RecordEnds) -> Result<bool> {
        loop {
            let found = ends.find(self.bytes(), self.ended);
            if let Some((_, after)) = found {
                self.consume(after);
                return Ok(true);
            }
            // A `\r` at the end of what is in memory may be half of a `\r\n`.
            let kept = usize::from(self.bytes().last() == Some(&b'\r'));
            self.consume(self.bytes().len() - kept);
            if !self.more()? {
                self.consume(self.bytes().len());
                return Ok(false);
            }
        }
    }
}
