//! The memory-mapped token cache.
//!
//! Layout, all integers little-endian:
//!
//! | bytes | content |
//! | --- | --- |
//! | 0..8 | magic `mixcetok` |
//! | 8..12 | version, `u32` |
//! | 12..16 | CRC-32 of everything from byte 16 on |
//! | 16..48 | key, SHA-256 (see [`super::cache`]) |
//! | 48..104 | documents, tokens, empty, short, truncated, bad, largest token id, `u64` each |
//! | 104.. | documents + 1 offsets, `u64`, in tokens; then the tokens, `u32` |
#![expect(unsafe_code, reason = "memory-mapping is unsafe; everything read from the map is checked")]
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use memmap2::Mmap;
use mixce_base::files::open_regular;

use super::store::DataCounts;
use crate::error::{Error, Result};

/// The first bytes of a token cache.
pub const MAGIC: &[u8; 8] = b"mixcetok";
pub(super) const VERSION: u32 = 2;
/// Bytes before the offsets.
pub(super) const HEADER_BYTES: usize = 104;
/// First byte that the checksum covers.
pub(super) const CHECKED_FROM: usize = 16;

/// A validated token cache file.
#[derive(Debug)]
pub(super) struct MappedTokens {
    map: Mmap,
    tokens_at: usize,
}

impl MappedTokens {
    /// Maps `path` and validates magic, version, key (if one is expected), sizes, checksum and offsets.
    pub(super) fn open(path: &Path, key: Option<&[u8; 32]>) -> Result<(Self, DataCounts)> {
        let bad = |problem: String| Error::BadCache { path: path.into(), problem };
        let file = open_regular(path)?;
        let file_bytes = file.metadata().map_err(Error::io("read", path))?.len();
        if file_bytes < HEADER_BYTES as u64 {
            return Err(bad(format!("expected at least {HEADER_BYTES} bytes, got {file_bytes}")));
        }
        // SAFETY: the map is read-only and lives no longer than `Self`. Cache files are created under a temporary name and
        // renamed; this program never writes to or truncates one afterwards, only replaces it by rename, which leaves
        // a mapped file intact. Another program that truncates it would raise SIGBUS, as with any mapped file.
        let map = unsafe { Mmap::map(&file) }.map_err(Error::io("map", path))?;

        if &map[0..8] != MAGIC {
            return Err(bad("it does not start with `mixcetok`".into()));
        }
        let version = u32_at(&map, 8);
        if version != VERSION {
            return Err(bad(format!("expected version {VERSION}, got {version}")));
        }
        if key.is_some_and(|key| &map[16..48] != key) {
            return Err(bad("it was made from other data, another tokenizer or other settings".into()));
        }
        let counts = DataCounts {
            documents: u64_at(&map, 48),
            tokens: u64_at(&map, 56),
            empty: u64_at(&map, 64),
            short: u64_at(&map, 72),
            truncated: u64_at(&map, 80),
            bad: u64_at(&map, 88),
        };
        let expected_bytes = (|| {
            let offsets = counts.documents.checked_add(1)?.checked_mul(8)?;
            offsets.checked_add(counts.tokens.checked_mul(4)?)?.checked_add(HEADER_BYTES as u64)
        })();
        if expected_bytes != Some(file_bytes) || map.len() as u64 != file_bytes {
            return Err(bad(format!(
                "its header promises {expected_bytes:?} bytes, the file has {file_bytes}"
            )));
        }
        let (stored, computed) = (u32_at(&map, 12), checksum(file).map_err(Error::io("read", path))?);
        if stored != computed {
            return Err(bad(format!("expected checksum {stored:08x}, got {computed:08x}")));
        }
        let tokens_at = HEADER_BYTES + (counts.documents as usize + 1) * 8;
        let mapped = Self { map, tokens_at };
        mapped.check_offsets(counts).map_err(bad)?;
        Ok((mapped, counts))
    }

    fn check_offsets(&self, counts: DataCounts) -> std::result::Result<(), String> {
        let documents = counts.documents as usize;
        let rising = (0..documents).all(|i| self.offset(i) <= self.offset(i + 1));
        if !rising || self.offset(0) != 0 || self.offset(documents) != counts.tokens {
            return Err("its document offsets do not rise from 0 to the number of tokens".into());
        }
        Ok(())
    }

    /// The digest of the cache's sources.
    pub(super) fn key(&self) -> &[u8] {
        &self.map[16..48]
    }

    /// The largest token id.
    pub(super) fn largest_id(&self) -> u64 {
        u64_at(&self.map, 96)
    }

    /// Where document `index` starts, in tokens; `index` may be the number of documents.
    pub(super) fn offset(&self, index: usize) -> u64 {
        u64_at(&self.map, HEADER_BYTES + index * 8)
    }

    /// The tokens at `range`, which must lie inside the file's tokens.
    pub(super) fn tokens(&self, range: std::ops::Range<usize>) -> Vec<u32> {
        let bytes = &self.map[self.tokens_at + range.start * 4..self.tokens_at + range.end * 4];
        bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
    }
}

/// The CRC-32 of the checksummed bytes. Read, not mapped, because mapped pages would count as this process's memory.
fn checksum(mut file: File) -> std::io::Result<u32> {
    file.seek(SeekFrom::Start(CHECKED_FROM as u64))?;
    let mut crc = crc32fast::Hasher::new();
    let mut buffer = vec![0; 1 << 18];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(crc.finalize()),
            n => crc.update(&buffer[..n]),
        }
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}
