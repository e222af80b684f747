//! Checks the pages of a parquet column before the decoder allocates what their headers claim.
//!
//! The decoder makes a buffer of the size in a page's header, and gzip and brotli pages it decompresses to their end, whatever the header
//! says. Source of the layout: the parquet format's `README.md` and `parquet.thrift`.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use parquet::basic::Compression;

use super::parquet_footer::STATISTICS;
use super::parquet_thrift::Shape::{self, Bool, Int, Struct};
use super::parquet_thrift::{Compact, shape_of};
use crate::error::{Error, Result};

/// Largest page after decompression: writers put 1 MiB or 1024 values into one, and those may be books.
pub(super) const MAX_PAGE_BYTES: u64 = 512 << 20;
/// Most bytes that a byte of snappy data can become: a copy of 64 bytes takes three.
const SNAPPY_RATIO: u64 = 22;
/// The same for LZ4, whose lengths grow by 255 with each byte.
const LZ4_RATIO: u64 = 256;
/// Allowed beyond the ratio, for pages of a few bytes.
const SLACK_BYTES: u64 = 4096;

/// The sizes in a page's header.
#[derive(Debug, Default, PartialEq, Eq)]
struct Sizes {
    uncompressed: Option<i64>,
    compressed: Option<i64>,
    /// Bytes of levels before the compressed data, in pages of version 2.
    levels: i64,
}

/// Checks all pages of a column chunk of `length` bytes at `start`.
///
/// # Errors
/// When a header cannot be read, or a page has or would have more than [`MAX_PAGE_BYTES`], or more than its compression can give.
pub(super) fn check(file: &File, path: &Path, (start, length): (u64, u64), codec: Compression) -> Result<()> {
    let bad = |problem: String| Error::Parquet { path: path.into(), problem };
    let mut input = BufReader::new(file);
    input.seek(SeekFrom::Start(start)).map_err(Error::io("read", path))?;
    let end =
        start.checked_add(length).ok_or_else(|| bad("a column beyond the end of the file".to_owned()))?;
    let mut page = 0u64;
    loop {
        let at = input.stream_position().map_err(Error::io("read", path))?;
        if at >= end {
            return Ok(());
        }
        page += 1;
        let damaged = |what: &str| bad(format!("page {page} of a column {what}"));
        let sizes = Sizes::read(&mut Compact { input: &mut input, left: end - at });
        let sizes = sizes.map_err(|cause| damaged(&format!("has a damaged header: {cause}")))?;
        let (Some(uncompressed), Some(compressed)) = (sizes.uncompressed, sizes.compressed) else {
            return Err(damaged("has no size in its header"));
        };
        let (Ok(uncompressed), Ok(compressed)) = (u64::try_from(uncompressed), u64::try_from(compressed))
        else {
            return Err(damaged("has a negative size"));
        };
        let limit = limit_of(codec, compressed);
        if uncompressed > limit {
            return Err(damaged(&format!("claims {uncompressed} bytes; at most {limit} are supported")));
        }
        let next = input.stream_position().map_err(Error::io("read", path))?.saturating_add(compressed);
        if next > end {
            return Err(damaged("reaches beyond the column"));
        }
        let levels = u64::try_from(sizes.levels).unwrap_or(0).min(compressed);
        io::copy(&mut (&mut input).take(levels), &mut io::sink()).map_err(Error::io("read", path))?;
        let body = (&mut input).take(compressed - levels);
        let real = match codec {
            Compression::GZIP(_) => Some(count(flate2::read::MultiGzDecoder::new(body), uncompressed)),
            Compression::BROTLI(_) => {
                Some(count(brotli_decompressor::Decompressor::new(body, 4096), uncompressed))
            }
            _ => None,
        };
        // Damaged data are for the decoder to report.
        if real.is_some_and(|real| real.is_ok_and(|real| real > uncompressed)) {
            return Err(damaged(&format!(
                "decompresses to more than the {uncompressed} bytes in its header"
            )));
        }
        input.seek(SeekFrom::Start(next)).map_err(Error::io("read", path))?;
    }
}

fn limit_of(codec: Compression, compressed: u64) -> u64 {
    let ratio = match codec {
        Compression::UNCOMPRESSED => 1,
        Compression::SNAPPY => SNAPPY_RATIO,
        Compression::LZ4 | Compression::LZ4_RAW => LZ4_RATIO,
        _ => u64::MAX,
    };
    MAX_PAGE_BYTES.min(compressed.saturating_mul(ratio).saturating_add(SLACK_BYTES))
}

/// The number of bytes that a reader gives, or one more than `limit`.
fn count(reader: impl Read, limit: u64) -> io::Result<u64> {
    io::copy(&mut reader.take(limit + 1), &mut io::sink())
}

/// `PageHeader`.
const PAGE: &[(i16, Shape)] = &[
    (1, Int),
    (2, Int),
    (3, Int),
    (4, Int),
    (5, Struct(&[(1, Int), (2, Int), (3, Int), (4, Int), (5, Struct(STATISTICS))])),
    (6, Struct(&[])),
    (7, Struct(&[(1, Int), (2, Int), (3, Bool)])),
    (8, Struct(PAGE_2)),
];

/// `DataPageHeaderV2`.
const PAGE_2: &[(i16, Shape)] =
    &[(1, Int), (2, Int), (3, Int), (4, Int), (5, Int), (6, Int), (7, Bool), (8, Struct(STATISTICS))];

impl Sizes {
    /// Reads a page's header.
    fn read<R: BufRead>(header: &mut Compact<'_, R>) -> io::Result<Self> {
        let mut sizes = Self::default();
        let mut id = 0;
        while let Some(kind) = header.field(&mut id)? {
            match (id, kind) {
                (2, 5) => sizes.uncompressed = Some(header.integer()?),
                (3, 5) => sizes.compressed = Some(header.integer()?),
                (8, 12) => sizes.levels = level_bytes(header)?,
                _ => header.value(kind, shape_of(PAGE, id), 0)?,
            }
        }
        Ok(sizes)
    }
}

/// The lengths of definition and repetition levels in a header of version 2.
fn level_bytes<R: BufRead>(header: &mut Compact<'_, R>) -> io::Result<i64> {
    let (mut id, mut bytes) = (0, 0i64);
    while let Some(kind) = header.field(&mut id)? {
        match (id, kind) {
            (5 | 6, 5) => bytes = bytes.saturating_add(header.integer()?),
            _ => header.value(kind, shape_of(PAGE_2, id), 1)?,
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use proptest::prelude::*;

    use super::*;

    /// The header of a data page: kind, sizes, a checksum, and the nested header with statistics.
    fn header(uncompressed: i64, compressed: i64) -> Vec<u8> {
        let mut bytes = vec![0x15, 0x00, 0x15];
        number(&mut bytes, uncompressed);
        bytes.push(0x15);
        number(&mut bytes, compressed);
        // 4: crc; 5: a struct of 4 integers, statistics with a binary, and a field that is not known yet, a list of two integers.
        bytes.extend([0x15, 0x02, 0x1c, 0x15, 0x04, 0x15, 0x00, 0x15, 0x06, 0x15, 0x06]);
        bytes.extend([0x1c, 0x18, 0x03, b'm', b'a', b'x', 0x00, 0x49, 0x25, 0x02, 0x04, 0x00, 0x00]);
        bytes
    }

    fn number(bytes: &mut Vec<u8>, value: i64) {
        let mut rest = ((value << 1) ^ (value >> 63)) as u64;
        while rest >= 0x80 {
            bytes.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        bytes.push(rest as u8);
    }

    fn checked(bytes: &[u8], codec: Compression) -> std::result::Result<(), String> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"PAR1").unwrap();
        file.write_all(bytes).unwrap();
        check(&file, Path::new("a.parquet"), (4, bytes.len() as u64), codec)
            .map_err(|error| error.to_string())
    }

    fn page(uncompressed: i64, body: &[u8]) -> Vec<u8> {
        [&header(uncompressed, body.len() as i64)[..], body].concat()
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        super::super::test_files::gzip(bytes)
    }

    #[test]
    fn honest_pages_pass() {
        checked(&[page(300, &[7; 300]), page(5, &[1; 5])].concat(), Compression::UNCOMPRESSED).unwrap();
        checked(&page(2000, &[7; 100]), Compression::SNAPPY).unwrap();
        let packed = gzip(&[b'x'; 100_000]);
        checked(&page(100_000, &packed), Compression::GZIP(parquet::basic::GzipLevel::default())).unwrap();
        checked(&[], Compression::SNAPPY).unwrap();
    }

    /// In version 2 the levels come first, as they are.
    #[test]
    fn a_bomb_behind_levels_is_found() {
        let body = [&[1, 2, 3][..], &gzip(&[b'x'; 100_000])].concat();
        let mut bytes = vec![0x15, 0x06, 0x15];
        number(&mut bytes, 100);
        bytes.push(0x15);
        number(&mut bytes, body.len() as i64);
        // 8: a struct whose fields 5 and 6 are the lengths of the levels.
        bytes.extend([0x5c, 0x55, 0x04, 0x15, 0x02, 0x00, 0x00]);
        bytes.extend(body);
        let error = checked(&bytes, Compression::GZIP(parquet::basic::GzipLevel::default())).unwrap_err();
        assert!(error.contains("decompresses to more than the 100 bytes"), "{error}");
    }

    #[test]
    fn claims_and_bombs_are_refused() {
        let zstd = Compression::ZSTD(parquet::basic::ZstdLevel::default());
        let gzipped = Compression::GZIP(parquet::basic::GzipLevel::default());
        for (bytes, codec, problem) in [
            (page(i64::from(i32::MAX), &[0; 10]), zstd, "claims 2147483647 bytes; at most 536870912"),
            (page(100_000, &[0; 10]), Compression::SNAPPY, "claims 100000 bytes; at most 4316"),
            (page(100_000, &[0; 10]), Compression::LZ4_RAW, "claims 100000 bytes; at most 6656"),
            (page(100, &gzip(&[b'x'; 10_000_000])), gzipped, "decompresses to more than the 100 bytes"),
            (header(10, 1000), zstd, "reaches beyond the column"),
            (page(-5, b"x"), zstd, "negative size"),
            (vec![0x00], zstd, "no size"),
            (vec![0x15], zstd, "damaged header"),
            (vec![0x9e, 0x00], zstd, "unknown kind"),
            ([&[0x9c][..], &[0x1c; 40]].concat(), zstd, "nested too deeply"),
            (vec![0x18, 0x00, 0x00], zstd, "another type"),
        ] {
            let error = checked(&bytes, codec).unwrap_err();
            assert!(error.contains("a.parquet") && error.contains(problem), "{error}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = checked(&bytes, Compression::SNAPPY);
            let _ = checked(&[header(9, 9), bytes].concat(), Compression::GZIP(parquet::basic::GzipLevel::default()));
        }
    }
}
