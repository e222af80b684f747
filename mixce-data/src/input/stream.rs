//! Turns a file's bytes into text: decompresses, decodes, or recognises an unsupported format.
use std::fs::File;
use std::io::{BufReader, Cursor, Read};
use std::path::Path;

use super::compression::{BUFFER_BYTES, Bytes, Compression, read_error};
use super::decoding::Recorder;
use super::encoding::{Encoding, Transcoder};
use super::sniff::{Content, HEAD_BYTES};
use crate::error::{Error, Fault, Result};

/// Maximum nested compressions, against decompression bombs.
const MAX_LAYERS: usize = 4;

/// The content of a file after decompression.
pub(super) enum Stream {
    /// Text in UTF-8, without a byte order mark. May hold bytes that are not UTF-8: those are bad rows.
    Text(Bytes),
    /// A parquet file.
    Parquet(Bytes),
    /// A tar archive.
    Tar(Bytes),
}

/// The bytes of a file on disk. `shown` is its name in messages.
pub(super) fn raw(real: &Path, shown: &Path) -> Result<Bytes> {
    let file = File::open(real).map_err(Error::io("read", shown))?;
    Ok(Box::new(BufReader::with_capacity(BUFFER_BYTES, file)))
}

/// Finds out what some bytes are. The name `shown` decides nothing, but a compression that it promises in vain is noted. A file may be opened again:
/// what `recorder` has of it is found anew.
pub(super) fn open(raw: Bytes, shown: &Path, recorder: &Recorder) -> Result<Stream> {
    recorder.note(|decoding| decoding.compression.clear());
    let mut bytes = raw;
    for _ in 0..=MAX_LAYERS {
        let mut head = Vec::new();
        let read = bytes.by_ref().take(HEAD_BYTES as u64).read_to_end(&mut head);
        read.map_err(|error| read_error(shown, error))?;
        let content = Content::of(&head);
        note_promise(content, &head, shown, recorder)?;
        if let Content::Text(encoding, mark) = content {
            head.drain(..mark);
            recorder.note(|decoding| {
                decoding.encoding = Some(encoding);
                decoding.byte_order_mark = mark > 0;
            });
        }
        let whole: Bytes = Box::new(Cursor::new(head).chain(bytes));
        bytes = match content {
            Content::Compressed(kind) => {
                kind.decompress(whole, recorder).map_err(|error| read_error(shown, error))?
            }
            Content::Tar => return Ok(Stream::Tar(whole)),
            Content::Parquet => return Ok(Stream::Parquet(whole)),
            Content::Text(Encoding::Utf8, _) => return Ok(Stream::Text(whole)),
            Content::Text(encoding, _) => {
                return Ok(Stream::Text(Box::new(Transcoder::new(whole, encoding))));
            }
            Content::Foreign(foreign) => return Err(foreign.error(shown)),
            Content::Binary(byte) => return Err(Error::Binary { path: shown.into(), byte: byte as u64 + 1 }),
        };
    }
    let problem = format!("it is compressed more than {MAX_LAYERS} times");
    Err(Error::Compressed { path: shown.into(), kind: "compressed", fault: Fault::Damaged(problem) })
}

/// A file that is named as compressed and is not: text is read as it is, anything else is damaged.
fn note_promise(content: Content, head: &[u8], shown: &Path, recorder: &Recorder) -> Result<()> {
    let name = shown.file_name().map(|name| name.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
    let (promised, _) = Compression::of_name(&name);
    let is_compressed = recorder.note(|decoding| !decoding.compression.is_empty());
    if promised == Compression::None || is_compressed || head.is_empty() {
        return Ok(());
    }
    let is_text = match content {
        Content::Text(Encoding::Utf8, _) => {
            std::str::from_utf8(head).map_or_else(|error| error.error_len().is_none(), |_| true)
        }
        Content::Binary(_) => false,
        Content::Compressed(_) => return Ok(()),
        _ => true,
    };
    if !is_text {
        let fault = Fault::Damaged("it does not begin as such data does".into());
        return Err(Error::Compressed { path: shown.into(), kind: promised.name(), fault });
    }
    recorder.note(|decoding| decoding.not_compressed_as_named = true);
    Ok(())
}
