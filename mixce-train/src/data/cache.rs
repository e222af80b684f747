//! Encodes data files once and caches the tokens in a memory-mapped file.
//!
//! The file's name and header carry a key: SHA-256 over the data files' bytes, how they are read, the tokenizer's fingerprint and the settings.
//! An invalid cache (size, checksum, key) is rebuilt. Building is atomic, so two processes may do it at once; an interrupted build leaves
//! nothing behind, and what a killed one left is removed when a cache in the folder is next opened or built.
//! Building takes constant memory: one thread reads batches of documents while the previous batch is encoded on all threads, and tokens and
//! offsets are written to scratch files immediately.
use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::atomic::AtomicBool;

use mixce_base::digest::{Digest, Sha256, hex};
use mixce_base::files::{AtomicFile, OwnTemporary, remove_stale};
use mixce_data::input::READER_VERSION;
use mixce_data::{Input, ReadSettings};

use super::encode::{Encode, EncodeSettings};
pub use super::mapped::MAGIC;
use super::mapped::{CHECKED_FROM, MappedTokens, VERSION};
use super::store::{DataCounts, TokenStore};
use super::stream::for_each_document;
use crate::error::{Error, Result};

/// Opens the token cache of `input` in the folder `cache`, building it if it is absent or damaged.
///
/// # Errors
/// Unreadable, empty or malformed data ([`Error::Data`], [`Error::NoDocuments`]), a tokenizer error, or a folder that cannot be written;
/// [`Error::Interrupted`] soon after `stop` has become true.
pub fn open_or_build(
    input: &Input,
    tokenizer: &dyn Encode,
    settings: EncodeSettings,
    cache: &Path,
    stop: &AtomicBool,
) -> Result<TokenStore> {
    settings.validate()?;
    let key = cache_key(input, tokenizer, settings, stop)?;
    let path = cache.join(format!("{}-{}.tokens", input.stem(), &hex(&key)[..16]));
    remove_leftovers(cache);
    match MappedTokens::open(&path, Some(&key)) {
        Ok((mapped, counts)) => return Ok(TokenStore::from_mapped(counts, fingerprint(&key), mapped)),
        Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => tracing::warn!("{error}; rebuilding it"),
    }
    std::fs::create_dir_all(cache).map_err(Error::io("create", cache))?;
    build(input, tokenizer, settings, &key, &path, stop)?;
    let (mapped, counts) = MappedTokens::open(&path, Some(&key))?;
    Ok(TokenStore::from_mapped(counts, fingerprint(&key), mapped))
}

/// Removes what killed processes left of caches, of any data. They may have been killed after their cache was complete, so this is not for
/// builds alone.
fn remove_leftovers(cache: &Path) {
    match remove_stale(cache, &|name| name.ends_with(".tokens")) {
        Ok(removed) => {
            for path in removed {
                tracing::info!("removed the incomplete `{}`", path.display());
            }
        }
        // The caches can be used all the same.
        Err(error) => tracing::warn!("{error}"),
    }
}

/// Opens a token cache file with any key.
///
/// # Errors
/// [`Error::Io`], [`Error::BadCache`].
pub fn open(path: &Path) -> Result<TokenStore> {
    let (mapped, counts) = MappedTokens::open(path, None)?;
    let fingerprint = fingerprint(mapped.key());
    Ok(TokenStore::from_mapped(counts, fingerprint, mapped))
}

/// Encodes `input` into memory, without a cache.
///
/// # Errors
/// As [`open_or_build`], except those of the cache.
pub fn encode_input(
    input: &Input,
    tokenizer: &dyn Encode,
    settings: EncodeSettings,
    stop: &AtomicBool,
) -> Result<TokenStore> {
    settings.validate()?;
    let key = cache_key(input, tokenizer, settings, stop)?;
    let (mut tokens, mut offsets) = (Vec::new(), vec![0]);
    let counts = for_each_document(input, tokenizer, settings, stop, |ids| {
        tokens.extend_from_slice(ids);
        offsets.push(tokens.len() as u64);
        Ok(())
    })?;
    Ok(TokenStore::from_memory(counts, fingerprint(&key), tokens, offsets))
}

/// [`encode_input`] for one file in the format given by its name.
///
/// # Errors
/// As [`encode_input`].
pub fn encode_file(path: &Path, tokenizer: &dyn Encode, settings: EncodeSettings) -> Result<TokenStore> {
    let input = Input::open(&[path], ReadSettings::default())?;
    encode_input(&input, tokenizer, settings, &AtomicBool::new(false))
}

/// Counts documents and tokens without keeping them; `on_length` receives each document's number of tokens.
///
/// # Errors
/// As [`encode_input`].
pub fn count_tokens(
    input: &Input,
    tokenizer: &dyn Encode,
    settings: EncodeSettings,
    stop: &AtomicBool,
    mut on_length: impl FnMut(u64),
) -> Result<DataCounts> {
    settings.validate()?;
    for_each_document(input, tokenizer, settings, stop, |ids| {
        on_length(ids.len() as u64);
        Ok(())
    })
}

fn cache_key(
    input: &Input,
    tokenizer: &dyn Encode,
    settings: EncodeSettings,
    stop: &AtomicBool,
) -> Result<[u8; 32]> {
    // Every field has fixed length or is followed by its length, so that the encoding is unambiguous.
    let mut key = Sha256::new();
    key.update(VERSION.to_le_bytes());
    key.update(input.digest(stop)?);
    key.update([u8::from(settings.add_bos)]);
    key.update(settings.max_length.map_or(u64::MAX, |n| n as u64).to_le_bytes());
    key.update(tokenizer.eos_id().unwrap_or(u32::MAX).to_le_bytes());
    key.update(tokenizer.bos_id().unwrap_or(u32::MAX).to_le_bytes());
    let fingerprint = tokenizer.fingerprint().map_err(|message| Error::Tokenizer { message })?;
    key.update((fingerprint.len() as u64).to_le_bytes());
    key.update(fingerprint.as_bytes());
    Ok(key.finalize().into())
}

/// A scratch file that is removed on drop.
struct Scratch {
    // Closed before it is removed.
    writer: BufWriter<File>,
    temporary: OwnTemporary,
}

impl Scratch {
    fn create(beside: &Path) -> Result<Self> {
        let (temporary, file) = OwnTemporary::file(beside)?;
        Ok(Self { writer: BufWriter::with_capacity(1 << 18, file), temporary })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.writer.write_all(bytes).map_err(Error::io("write", self.temporary.path()))
    }

    /// Calls `sink` with the file's contents in chunks.
    fn read_back(&mut self, mut sink: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let path = self.temporary.path();
        self.writer.flush().map_err(Error::io("write", path))?;
        let mut source = File::open(path).map_err(Error::io("read", path))?;
        let mut buffer = vec![0; 1 << 18];
        loop {
            let n = source.read(&mut buffer).map_err(Error::io("read", path))?;
            if n == 0 {
                return Ok(());
            }
            sink(&buffer[..n])?;
        }
    }
}

/// Counts and offsets precede the tokens in the cache but are known last, so all are written to scratch files first.
fn build(
    input: &Input,
    tokenizer: &dyn Encode,
    settings: EncodeSettings,
    key: &[u8; 32],
    path: &Path,
    stop: &AtomicBool,
) -> Result<()> {
    let (mut offsets, mut tokens) = (Scratch::create(path)?, Scratch::create(path)?);
    let (mut written, mut largest_id) = (0u64, 0u32);
    offsets.write(&written.to_le_bytes())?;
    let mut bytes = Vec::new();
    let counts = for_each_document(input, tokenizer, settings, stop, |ids| {
        written += ids.len() as u64;
        largest_id = ids.iter().copied().fold(largest_id, u32::max);
        offsets.write(&written.to_le_bytes())?;
        bytes.clear();
        bytes.extend(ids.iter().flat_map(|id| id.to_le_bytes()));
        tokens.write(&bytes)
    })?;
    write_cache(path, key, counts, largest_id, &mut offsets, &mut tokens)
}

fn write_cache(
    path: &Path,
    key: &[u8; 32],
    counts: DataCounts,
    largest_id: u32,
    offsets: &mut Scratch,
    tokens: &mut Scratch,
) -> Result<()> {
    let mut file = AtomicFile::create(path)?;
    file.put(MAGIC)?;
    file.put(&VERSION.to_le_bytes())?;
    file.put(&[0; 4])?;
    let mut crc = crc32fast::Hasher::new();
    let mut checked = |bytes: &[u8]| {
        crc.update(bytes);
        Ok(file.put(bytes)?)
    };
    checked(key)?;
    let DataCounts { documents, tokens: total, empty, short, truncated, bad } = counts;
    for n in [documents, total, empty, short, truncated, bad, u64::from(largest_id)] {
        checked(&n.to_le_bytes())?;
    }
    offsets.read_back(&mut checked)?;
    tokens.read_back(&mut checked)?;
    file.seek(SeekFrom::Start(CHECKED_FROM as u64 - 4)).map_err(Error::io("write", path))?;
    file.put(&crc.finalize().to_le_bytes())?;
    Ok(file.finish()?)
}

/// The fingerprint of an input's tokens in a checkpoint: the version of the readers, and the key.
fn fingerprint(key: &[u8]) -> String {
    format!("{READER_VERSION}-{}", hex(key))
}

#[cfg(test)]
mod tests;
