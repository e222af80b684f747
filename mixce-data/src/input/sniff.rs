//! Detects a file's type from its first bytes, regardless of its name.
use std::path::Path;

use super::compression::Compression;
use super::encoding::Encoding;
use crate::error::Error;

/// Bytes examined.
pub(super) const HEAD_BYTES: usize = 8192;

/// What begins with some bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Content {
    Compressed(Compression),
    Tar,
    Parquet,
    /// Text, after a mark of so many bytes.
    Text(Encoding, usize),
    /// A known format that is not supported.
    Foreign(&'static Foreign),
    /// Not text, for the first NUL byte stands at this offset.
    Binary(usize),
}

/// A kind of file that is recognised and not read.
#[derive(Debug, PartialEq)]
pub(super) struct Foreign {
    /// Where its mark stands.
    offset: usize,
    mark: &'static [u8],
    /// The file is ...
    what: &'static str,
    /// How to get at the text; `{}` is the file's name.
    hint: &'static str,
}

const fn foreign(offset: usize, mark: &'static [u8], what: &'static str, hint: &'static str) -> Foreign {
    Foreign { offset, mark, what, hint }
}

const NO_TEXT: &str = "use files of text, JSON lines, CSV, TSV or parquet";
const WEIGHTS: &str = "these are a model's weights; data files must hold text";
const ARRAYS: &str = "export the texts, one JSON object per line, and use that file";
const PICKLE: &str = "write it in another format with Python, for example `pandas.read_pickle(\"{}\").to_json(\"data.jsonl\", orient=\"records\", lines=True)`";
const ARROW: &str = "write it as parquet: `pandas.read_feather(\"{}\").to_parquet(\"data.parquet\")`";
const ARROW_STREAM: &str =
    "write it as parquet: `datasets.Dataset.from_file(\"{}\").to_parquet(\"data.parquet\")`";
const OLD_ZSTD: &str = "decompress it with a zstd version that supports the format: `zstd -d {}`";
const UNZIP: &str = "unpack it first, `unzip {} -d FOLDER`, and use the files in the folder";

/// Marks that text does not begin with, in the order in which they are tried.
static FOREIGN: [Foreign; 38] = [
    foreign(
        0,
        b"version https://git-lfs.github.com/spec/",
        "a Git LFS pointer, not the file itself",
        "fetch the file with `git lfs pull`",
    ),
    foreign(0, b"PK\x03\x04", "a zip archive", UNZIP),
    foreign(0, b"PK\x05\x06", "an empty zip archive", NO_TEXT),
    foreign(0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it first: `7z x {}`"),
    foreign(0, b"Rar!\x1a\x07", "a rar archive", "unpack it first: `unrar x {}`"),
    foreign(0, b"\x04\x22\x4d\x18", "lz4 data", "decompress it first: `lz4 -d {} FILE`"),
    foreign(0, b"\x02\x21\x4c\x18", "lz4 data", "decompress it first: `lz4 -d {} FILE`"),
    foreign(0, b"LZIP\x01", "lzip data", "decompress it first: `lzip -dk {}`"),
    foreign(0, b"\x89LZO\0\r\n\x1a\n", "lzop data", "decompress it first: `lzop -d {}`"),
    foreign(0, b"\x1f\x9d", "data of `compress`", "decompress it first: `gzip -dc {} > FILE`"),
    foreign(0, b"\xff\x06\0\0sNaPpY", "snappy data", "decompress it first: `python -m snappy -d {} FILE`"),
    foreign(0, b"\x37\xa4\x30\xec", "a dictionary of zstd", NO_TEXT),
    foreign(1, b"\xb5\x2f\xfd", "zstd data of a version before 0.8", OLD_ZSTD),
    foreign(0, b"ARROW1\0\0", "an Arrow file (Feather)", ARROW),
    foreign(0, b"FEA1\0", "a Feather file", ARROW),
    foreign(0, b"\xff\xff\xff\xff", "an Arrow stream, as `datasets` keeps its tables", ARROW_STREAM),
    foreign(0, b"PARE", "an encrypted parquet file", "write it without encryption"),
    foreign(
        0,
        b"ORC\x0a\x0b",
        "an ORC file",
        "write it as parquet: `pandas.read_orc(\"{}\").to_parquet(\"data.parquet\")`",
    ),
    foreign(0, b"Obj\x01", "an Avro file", ARRAYS),
    foreign(0, b"%PDF-", "a PDF document", "extract its text first: `pdftotext {} FILE.txt`"),
    foreign(0, b"{\\rtf", "an RTF document", "save it as plain text: `pandoc {} -t plain -o FILE.txt`"),
    foreign(0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an Office document", "save it as plain text or CSV"),
    foreign(
        0,
        b"SQLite format 3\0",
        "an SQLite database",
        "export the texts: `sqlite3 -header -csv {} \"select COLUMN from TABLE\" > data.csv`",
    ),
    foreign(0, b"\x89HDF\r\n\x1a\n", "an HDF5 file", ARRAYS),
    foreign(
        0,
        b"\x93NUMPY",
        "a NumPy array",
        "texts are read from text, JSON lines, CSV, TSV and parquet; `mixce score` takes arrays of features",
    ),
    foreign(0, b"\x80\x02", "a Python pickle", PICKLE),
    foreign(0, b"\x80\x03", "a Python pickle", PICKLE),
    foreign(0, b"\x80\x04", "a Python pickle", PICKLE),
    foreign(0, b"\x80\x05", "a Python pickle", PICKLE),
    foreign(0, b"GGUF", "the weights of a model (GGUF)", WEIGHTS),
    foreign(0, b"\x89PNG\r\n\x1a\n", "an image (PNG)", NO_TEXT),
    foreign(0, b"\xff\xd8\xff", "an image (JPEG)", NO_TEXT),
    foreign(0, b"GIF89a", "an image (GIF)", NO_TEXT),
    foreign(0, b"RIFF", "an audio file, a film or an image (RIFF)", NO_TEXT),
    foreign(0, b"\x7fELF", "a program (ELF)", NO_TEXT),
    foreign(0, b"\0asm", "a program (WebAssembly)", NO_TEXT),
    foreign(0, b"!<arch>\n", "an archive of `ar`", "unpack it first: `ar x {}`"),
    foreign(0, b"070701", "an archive of `cpio`", "unpack it first: `cpio -id < {}`"),
];

/// The signatures above that text may begin with: they count only if a control or non-ASCII byte follows soon.
const ALSO_TEXT: [&[u8]; 5] = [b"PARE", b"GGUF", b"GIF89a", b"RIFF", b"070701"];

static SAFETENSORS: Foreign = foreign(0, b"", "the weights of a model (safetensors)", WEIGHTS);
static LZMA: Foreign =
    foreign(0, b"", "data in the old lzma format", "decompress it first: `xz --format=lzma -dc {} > FILE`");
static DOCX: Foreign =
    foreign(0, b"", "a Word document (docx)", "save it as plain text: `pandoc {} -t plain -o FILE.txt`");
static XLSX: Foreign = foreign(0, b"", "an Excel workbook (xlsx)", "save the sheet as CSV");
static PPTX: Foreign = foreign(0, b"", "a PowerPoint file (pptx)", "save it as plain text");
static ODF: Foreign = foreign(0, b"", "an OpenDocument file", "save it as plain text or CSV");
static EPUB: Foreign =
    foreign(0, b"", "an EPUB book", "save it as plain text: `pandoc {} -t plain -o FILE.txt`");
static TORCH: Foreign = foreign(0, b"", "a PyTorch file", WEIGHTS);
static NPZ: Foreign = foreign(0, b"", "NumPy arrays (npz)", ARRAYS);

/// What is known by the names of a zip archive's first members.
static ZIPS: [(&[u8], &Foreign); 8] = [
    (b"word/", &DOCX),
    (b"xl/", &XLSX),
    (b"ppt/", &PPTX),
    (b"mimetypeapplication/vnd.oasis.", &ODF),
    (b"mimetypeapplication/epub+zip", &EPUB),
    (b"/data.pkl", &TORCH),
    (b"/version", &TORCH),
    (b".npy", &NPZ),
];

impl Content {
    /// Of a file that begins with `head` (the whole file, if it is shorter than [`HEAD_BYTES`]).
    pub(super) fn of(head: &[u8]) -> Self {
        if head.starts_with(b"PAR1") && head.get(4).is_none_or(u8::is_ascii_control) {
            return Self::Parquet;
        }
        match Compression::of_bytes(head) {
            Compression::None => {}
            compression => return Self::Compressed(compression),
        }
        // The UTF-32BE mark begins with two NULs, so marks are checked before NULs.
        if let Some((encoding, mark)) = Encoding::of_mark(head) {
            return Self::Text(encoding, mark);
        }
        if is_tar(head) {
            return Self::Tar;
        }
        if let Some(foreign) = Foreign::of(head) {
            return Self::Foreign(foreign);
        }
        match memchr::memchr(0, head) {
            None => Self::Text(Encoding::Utf8, 0),
            Some(at) => Encoding::of_nuls(head).map_or(Self::Binary(at), |encoding| Self::Text(encoding, 0)),
        }
    }
}

impl Foreign {
    fn of(head: &[u8]) -> Option<&'static Self> {
        let found = FOREIGN.iter().find(|known| {
            head.get(known.offset..).is_some_and(|rest| rest.starts_with(known.mark))
                && (!ALSO_TEXT.contains(&known.mark) || is_binary(head))
        });
        match found {
            Some(zip) if zip.mark.starts_with(b"PK") => {
                let holds = |name: &[u8]| memchr::memmem::find(head, name).is_some();
                Some(ZIPS.iter().find(|(name, _)| holds(name)).map_or(zip, |(_, known)| known))
            }
            Some(known) => Some(known),
            None if is_safetensors(head) => Some(&SAFETENSORS),
            None if is_lzma(head) => Some(&LZMA),
            None => None,
        }
    }

    pub(super) fn error(&self, path: &Path) -> Error {
        let hint = self.hint.replace("{}", &path.display().to_string());
        Error::Foreign { path: path.into(), what: self.what, hint }
    }
}

/// Whether control characters or bytes beyond ASCII occur near the beginning.
fn is_binary(head: &[u8]) -> bool {
    let control = |b: &u8| b.is_ascii_control() && !b.is_ascii_whitespace();
    head.iter().take(64).any(|b| control(b) || !b.is_ascii())
}

/// Every tar header contains a checksum of its own bytes.
pub(super) fn is_tar(head: &[u8]) -> bool {
    let Some(block) = head.get(..512) else { return false };
    // The sum is taken with blanks in its own place.
    let sum: u32 = block[..148].iter().chain(&block[156..]).map(|&b| u32::from(b)).sum::<u32>() + 8 * 32;
    let digits = block[148..156].trim_ascii_start();
    let digits = digits.split(|b| !(b'0'..=b'7').contains(b)).next().unwrap_or_default();
    let stored = std::str::from_utf8(digits).ok().and_then(|digits| u32::from_str_radix(digits, 8).ok());
    stored == Some(sum)
}

fn is_safetensors(head: &[u8]) -> bool {
    let Some((length, rest)) = head.split_first_chunk::<8>() else { return false };
    rest.starts_with(b"{") && u64::from_le_bytes(*length) < 100_000_000
}

/// Properties of the default kind, a dictionary of whole 64 KiB, and a length that is unknown or below 2^40.
fn is_lzma(head: &[u8]) -> bool {
    let Some(length) = head.get(5..13) else { return false };
    head.starts_with(&[0x5d, 0, 0]) && (length == [0xff; 8] || length[5..] == [0; 3])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn what(head: &[u8]) -> &'static str {
        match Content::of(head) {
            Content::Foreign(foreign) => foreign.what,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn foreign_files_are_named() {
        assert_eq!(what(b"PK\x03\x04\x14\0data.txt"), "a zip archive");
        assert_eq!(
            what(b"PK\x03\x04\x14\0[Content_Types].xml....word/document.xml"),
            "a Word document (docx)"
        );
        assert_eq!(what(b"PK\x03\x04\x14\0\x08archive/data.pkl"), "a PyTorch file");
        assert_eq!(
            what(b"\x28\0\0\0\0\0\0\0{\"wte\":{\"dtype\":\"F32\"}}"),
            "the weights of a model (safetensors)"
        );
        assert_eq!(
            what(b"\x5d\0\0\x80\0\xff\xff\xff\xff\xff\xff\xff\xff\0\x2c"),
            "data in the old lzma format"
        );
        assert_eq!(what(b"\xff\xff\xff\xff\x10\x02\0\0"), "an Arrow stream, as `datasets` keeps its tables");
        assert_eq!(what(b"version https://git-lfs.github.com/spec/v1\noid sha256:"), FOREIGN[0].what);
        assert_eq!(what(b"GGUF\x03\0\0\0"), "the weights of a model (GGUF)");
        for known in &FOREIGN {
            let mut head = vec![1; known.offset];
            head.extend_from_slice(known.mark);
            head.extend_from_slice(b"\x01\0\x02");
            assert_eq!(what(&head), known.what);
            let Error::Foreign { hint, .. } = known.error(Path::new("my.file")) else { panic!() };
            assert!(!hint.contains("{}") && !hint.is_empty());
        }
    }

    #[test]
    fn text_is_text() {
        for text in
            ["PAR1 is the mark of parquet", "RIFF raff", "GGUF files", "070701 is a number", "", "]\n"]
        {
            assert_eq!(Content::of(text.as_bytes()), Content::Text(Encoding::Utf8, 0), "{text}");
        }
        assert_eq!(Content::of(b"m\xfchle"), Content::Text(Encoding::Utf8, 0));
        assert_eq!(Content::of(b"\xef\xbb\xbfx"), Content::Text(Encoding::Utf8, 3));
        assert_eq!(Content::of(b"one\0two"), Content::Binary(3));
        assert_eq!(Content::of(b"PAR1\x15\x04"), Content::Parquet);
    }

    #[test]
    fn archives_are_known_by_their_sum() {
        for mut header in [tar::Header::new_gnu(), tar::Header::new_ustar(), tar::Header::new_old()] {
            header.set_path("a.txt").unwrap();
            header.set_size(3);
            header.set_cksum();
            assert_eq!(Content::of(header.as_bytes()), Content::Tar);
            let mut spoilt = header.as_bytes().to_vec();
            spoilt[1] ^= 1;
            assert_eq!(Content::of(&spoilt), Content::Binary(5));
        }
    }
}
