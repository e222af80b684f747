//! Records how a file's bytes were decoded.
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;

use super::compression::Compression;
use super::encoding::Encoding;
use super::format::Format;

/// Members of an archive, and files that were not read, that are listed one by one at most; all of them are counted.
const MAX_LISTED: usize = 1000;
/// Those that a warning names at most.
const MAX_NAMED: usize = 10;
/// Windows from this size on are mentioned: zstd's own program refuses larger ones unless asked to accept them.
const LARGE_WINDOW_BYTES: u64 = 128 << 20;

/// What one file (or one member of an archive) turned out to be, complete once its last document has been read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Decoding {
    /// The file; for a member the archive's path and the member's.
    pub path: PathBuf,
    /// `None` for an archive, whose members have one each.
    pub format: Option<Format>,
    /// What it is compressed with, the outermost first; empty if it is not.
    pub compression: Vec<Layer>,
    /// The encoding of the text; `None` for archives and for parquet.
    pub encoding: Option<Encoding>,
    /// Whether a byte order mark stood before the text, and was dropped.
    pub byte_order_mark: bool,
    /// The line endings of the text.
    pub line_ends: LineEnds,
    /// Documents, with the empty ones and without bad rows; of an archive those of all members.
    pub documents: u64,
    /// The extension indicates a compression that the bytes do not have; the file was read as is.
    pub not_compressed_as_named: bool,
    /// The members, if it is an archive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub archive: Option<Archive>,
    /// Where the text stops being valid for the first time.
    #[serde(skip)]
    pub(super) first_invalid: Option<Invalid>,
}

/// A compression, as it was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Layer {
    /// Its kind.
    pub kind: Compression,
    /// Members (gzip), frames (zstd) or streams (bzip2, xz) one after another.
    pub parts: u64,
    /// Frames that hold no data (zstd).
    pub skippable: u64,
    /// Zero bytes after a part.
    pub padding_bytes: u64,
    /// Bytes after the last part that are not of this compression and were ignored.
    pub trailing_bytes: u64,
    /// The largest window of a frame (zstd): memory that decompression may need.
    pub window_bytes: u64,
}

/// How often each kind of line end occurs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LineEnds {
    /// `\n`.
    pub lf: u64,
    /// `\r\n`.
    pub crlf: u64,
    /// `\r` without `\n`.
    pub cr: u64,
}

/// The members of an archive.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Archive {
    /// Members that were read.
    pub members: u64,
    /// The first thousand of them.
    pub used: Vec<Decoding>,
    /// Members that were not read: folders, links, hidden files.
    pub not_used: u64,
    /// The first thousand of them.
    pub unused: Vec<Unused>,
    /// Whether the two empty blocks are missing that end an archive.
    pub unterminated: bool,
    /// Trailing bytes that are not an archive and were ignored.
    pub trailing_bytes: u64,
}

/// Something that was found and not read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Unused {
    /// Its path.
    pub path: PathBuf,
    /// What it is.
    pub reason: String,
}

/// The first byte that is not of the text's encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Invalid {
    /// From the beginning of the decompressed file, counted from 0.
    pub(super) offset: u64,
    /// Line, counted from 1.
    pub(super) line: u64,
}

/// The reason of a folder: not worth a warning, its files have entries of their own.
pub(super) const FOLDER: &str = "a folder";

impl Layer {
    pub(super) fn new(kind: Compression) -> Self {
        Self { kind, parts: 0, skippable: 0, padding_bytes: 0, trailing_bytes: 0, window_bytes: 0 }
    }
}

impl Archive {
    pub(super) fn add_used(&mut self, member: Decoding) {
        self.members += 1;
        if self.used.len() < MAX_LISTED {
            self.used.push(member);
        }
    }

    pub(super) fn add_unused(&mut self, path: PathBuf, reason: String) {
        self.not_used += 1;
        if self.unused.len() < MAX_LISTED {
            self.unused.push(Unused { path, reason });
        }
    }
}

impl Decoding {
    /// Warnings about ignored data, or data read differently from what the file's name says. One sentence each.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        let name = self.path.display();
        if self.not_compressed_as_named {
            warnings.push(format!("`{name}` is not compressed, although its name says so; it is read as is"));
        }
        for layer in &self.compression {
            let kind = layer.kind.name();
            if layer.trailing_bytes > 0 {
                let bytes = layer.trailing_bytes;
                warnings
                    .push(format!("`{name}`: {bytes} bytes after the end of the {kind} data are ignored"));
            }
            if layer.window_bytes > LARGE_WINDOW_BYTES {
                let mebibytes = layer.window_bytes >> 20;
                warnings.push(format!("`{name}`: decompressing it may take {mebibytes} MiB of memory"));
            }
        }
        let LineEnds { lf, crlf, cr } = self.line_ends;
        if cr > 0 && lf + crlf > 0 && self.format == Some(Format::Text) {
            warnings.push(format!(
                "`{name}`: {cr} line endings are lone carriage returns, {} are not; each ends a line",
                lf + crlf
            ));
        }
        if self.documents == 0 && self.archive.is_none() {
            warnings.push(format!("`{name}` holds no documents"));
        }
        if let Some(archive) = &self.archive {
            archive.warn(&name.to_string(), &mut warnings);
        }
        warnings
    }
}

impl Archive {
    fn warn(&self, name: &str, warnings: &mut Vec<String>) {
        let loud: Vec<&Unused> = self.unused.iter().filter(|unused| unused.reason != FOLDER).collect();
        if let Some(list) = named(&loud) {
            warnings.push(format!("`{name}`: {} members are read, these are not: {list}", self.members));
        }
        if self.members == 0 {
            warnings.push(format!("`{name}` is an archive without files"));
        }
        if self.unterminated {
            warnings.push(format!("`{name}` has no end-of-archive marker; it may be truncated"));
        }
        if self.trailing_bytes > 0 {
            let bytes = self.trailing_bytes;
            warnings.push(format!("`{name}`: {bytes} bytes after the end of the archive are ignored"));
        }
        warnings.extend(self.used.iter().flat_map(Decoding::warnings));
    }
}

/// The first few of some unused files in words; `None` if there is none.
pub(super) fn named(unused: &[&Unused]) -> Option<String> {
    let mut words: Vec<String> = unused
        .iter()
        .take(MAX_NAMED)
        .map(|unused| format!("`{}` ({})", unused.path.display(), unused.reason))
        .collect();
    if unused.len() > MAX_NAMED {
        words.push(format!("and {} more", unused.len() - MAX_NAMED));
    }
    (!words.is_empty()).then(|| words.join(", "))
}

/// The [`Decoding`] of a file while it is read: every stage of reading adds what it finds.
#[derive(Clone, Debug, Default)]
pub(super) struct Recorder(Arc<Mutex<Decoding>>);

impl Recorder {
    pub(super) fn new(path: impl Into<PathBuf>) -> Self {
        Self(Arc::new(Mutex::new(Decoding { path: path.into(), ..Decoding::default() })))
    }

    pub(super) fn note<T>(&self, f: impl FnOnce(&mut Decoding) -> T) -> T {
        // A panic elsewhere leaves counts that are still the best there are.
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What has been found so far.
    pub(super) fn decoding(&self) -> Decoding {
        self.note(|decoding| decoding.clone())
    }

    /// Adds a compression within those found before, and returns its position.
    pub(super) fn add_layer(&self, kind: Compression) -> LayerRecorder {
        let at = self.note(|decoding| {
            decoding.compression.push(Layer::new(kind));
            decoding.compression.len() - 1
        });
        LayerRecorder { recorder: self.clone(), at }
    }
}

/// One [`Layer`] of a [`Recorder`].
#[derive(Clone, Debug)]
pub(super) struct LayerRecorder {
    recorder: Recorder,
    at: usize,
}

impl LayerRecorder {
    pub(super) fn note(&self, f: impl FnOnce(&mut Layer)) {
        self.recorder.note(|decoding| decoding.compression.get_mut(self.at).map(f));
    }
}
