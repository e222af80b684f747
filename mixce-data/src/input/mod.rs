//! Documents from files: text, JSON, CSV, TSV, parquet, each plain, compressed, or a member of an archive.
//!
//! A file's bytes go through a row of readers: decompression (`compression`), members of an archive (`archive`), decoding to UTF-8 (`encoding`),
//! line endings (`line_ends`), rows. What each finds is kept ([`Decoding`], [`FileReport`]).
//! One reader per format ([`text`](Format::Text), ...), all behind one iterator, [`Documents`]. Memory is bounded by the longest
//! document, not by the file: a compressed file is never decompressed as a whole, and a document longer than
//! [`MAX_DOCUMENT_BYTES`] is a bad row.
mod archive;
mod column;
mod compression;
mod decoding;
mod delimited;
mod description;
mod dialect;
mod documents;
mod encoding;
mod files;
mod find;
mod format;
mod guess;
mod json;
mod json_row;
mod json_survey;
mod json_syntax;
mod json_values;
mod line_ends;
mod lines;
mod members;
mod parquet;
mod parquet_footer;
mod parquet_pages;
mod parquet_thrift;
mod record;
mod record_ends;
mod records;
mod separated;
mod settings;
mod sniff;
mod stream;
mod text;
mod window;
mod zstandard;

#[cfg(test)]
mod archive_tests;
#[cfg(test)]
mod decoding_tests;
#[cfg(test)]
mod every_way;
#[cfg(test)]
mod row_tests;
#[cfg(test)]
mod test_files;
#[cfg(test)]
mod tests;

pub use compression::Compression;
pub use decoding::{Archive, Decoding, Layer, LineEnds, Unused};
pub use description::{Description, Dialect, FileReport, JsonLayout};
pub use documents::{Document, Documents};
pub use encoding::Encoding;
pub use files::{Input, READER_VERSION, STDIN};
pub use format::Format;
pub use settings::{OneOrMany, ReadSettings};

pub(crate) use compression::read_error;

use std::path::Path;

use crate::error::{Place, Result};

/// The bytes of a tar archive, decompressed; `None` for a readable file that is not an archive.
pub(crate) fn open_tar(path: &Path) -> Result<Option<compression::Bytes>> {
    match stream::open(stream::raw(path, path)?, path, &decoding::Recorder::new(path))? {
        stream::Stream::Tar(bytes) => Ok(Some(bytes)),
        stream::Stream::Text(_) | stream::Stream::Parquet(_) => Ok(None),
    }
}

/// Longest document, and longest line or record of a table, in bytes.
pub const MAX_DOCUMENT_BYTES: usize = 64 << 20;

/// One row of a file: a line, a record, a document between separators.
struct Row {
    place: Place,
    text: String,
    /// Bytes of the text that are its prompt, if the row separates prompt and continuation.
    prompt_bytes: Option<usize>,
}

/// Reads the rows of one file.
trait Rows {
    /// The next row; `None` at the end. After an error for which [`crate::Error::is_bad_row`] holds the next call continues after the bad row.
    fn next_row(&mut self) -> Result<Option<Row>>;

    /// The format as detected so far.
    fn describe(&self) -> Description;

    /// Blank lines so far that are not rows.
    fn blank_lines(&self) -> u64 {
        0
    }
}
