//! Encodes a text file once and keeps the tokens in a memory-mapped file.
//!
//! The file's name and header carry a key: SHA-256 over the text file's bytes, the tokenizer's fingerprint and the settings.
//! A cache that does not check out (size, checksum, key) is built again. Building is atomic, so two processes may do it at once.
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::encode::{Encode, EncodeSettings, encode_documents};
use super::mapped::{CHECKED_FROM, MAGIC, MappedTokens, VERSION};
use super::read::{Document, DocumentReader, Format};
use super::store::{DataCounts, TokenStore};
use crate::error::{Error, Result};
use crate::fsio;

/// Documents handed to the tokenizer at once.
const BATCH_DOCUMENTS: usize = 1024;

/// Opens the token cache of `text` in the folder `cache`, building it first when it is absent or damaged.
///
/// # Errors
/// Unreadable, empty, non-UTF-8 or malformed text ([`Error::NotUtf8`], [`Error::BadRow`], [`Error::NoDocuments`]), a tokenizer
/// error, or a folder that cannot be written.
pub fn open_or_build(
    text: &Path,
    tokenizer: &dyn Encode,
    settings: EncodeSettings,
    cache: &Path,
) -> Result<TokenStore> {
    settings.validate()?;
    let key = cache_key(text, tokenizer, settings)?;
    let path = cache_path(text, &key, cache);
    match MappedTokens::open(&path, &key) {
        Ok((mapped, counts)) => return Ok(TokenStore::from_mapped(counts, hex(&key), mapped)),
        Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => tracing::warn!("{error}; building it again"),
    }
    std::fs::create_dir_all(cache).map_err(Error::io("create", cache))?;
    build(text, tokenizer, settings, &key, &path)?;
    let (mapped, counts) = MappedTokens::open(&path, &key)?;
    Ok(TokenStore::from_mapped(counts, hex(&key), mapped))
}

/// Encodes `text` into memory, without a cache.
///
/// # Errors
/// As [`open_or_build`], but for the cache.
pub fn encode_file(text: &Path, tokenizer: &dyn Encode, settings: EncodeSettings) -> Result<TokenStore> {
    settings.validate()?;
    let key = cache_key(text, tokenizer, settings)?;
    let mut documents = Vec::new();
    let counts = for_each_document(text, tokenizer, settings, |ids| {
        documents.push(ids);
        Ok(())
    })?;
    Ok(TokenStore::from_documents(documents).with_source(counts, hex(&key)))
}

fn cache_path(text: &Path, key: &[u8; 32], cache: &Path) -> PathBuf {
    let stem = text.file_stem().map_or_else(|| "data".into(), |s| s.to_string_lossy().into_owned());
    cache.join(format!("{stem}-{}.tokens", &hex(key)[..16]))
}

fn cache_key(text: &Path, tokenizer: &dyn Encode, settings: EncodeSettings) -> Result<[u8; 32]> {
    let mut content = Sha256::new();
    let mut file = File::open(text).map_err(Error::io("read", text))?;
    let mut buffer = vec![0; 1 << 18];
    loop {
        let n = file.read(&mut buffer).map_err(Error::io("read", text))?;
        if n == 0 {
            break;
        }
        content.update(&buffer[..n]);
    }
    // Every field is of fixed length or followed by its length, so that no two inputs run together.
    let mut key = Sha256::new();
    key.update(VERSION.to_le_bytes());
    key.update(content.finalize());
    key.update([u8::from(Format::of(text) == Format::JsonLines), u8::from(settings.add_bos)]);
    key.update(settings.max_length.map_or(u64::MAX, |n| n as u64).to_le_bytes());
    key.update(tokenizer.eos_id().unwrap_or(u32::MAX).to_le_bytes());
    key.update(tokenizer.bos_id().unwrap_or(u32::MAX).to_le_bytes());
    let fingerprint = tokenizer.fingerprint().map_err(|message| Error::Tokenizer { message })?;
    key.update((fingerprint.len() as u64).to_le_bytes());
    key.update(fingerprint.as_bytes());
    let mut bytes = [0; 32];
    bytes.copy_from_slice(&key.finalize());
    Ok(bytes)
}

/// Calls `sink` with the ids of every usable document in the file's order.
fn for_each_document(
    text: &Path,
    tokenizer: &dyn Encode,
    settings: EncodeSettings,
    mut sink: impl FnMut(Vec<u32>) -> Result<()>,
) -> Result<DataCounts> {
    let mut counts = DataCounts::default();
    let mut reader = DocumentReader::open(text)?;
    loop {
        let batch: Vec<Document> = reader.by_ref().take(BATCH_DOCUMENTS).collect::<Result<_>>()?;
        let (Some(first), Some(last)) = (batch.first(), batch.last()) else { break };
        let texts: Vec<&str> =
            batch.iter().map(|d| d.text.as_str()).filter(|t| !t.trim().is_empty()).collect();
        counts.empty += (batch.len() - texts.len()) as u64;
        let encoded = encode_documents(tokenizer, &texts, settings).map_err(|message| Error::Tokenize {
            path: text.into(),
            first_line: first.line,
            last_line: last.line,
            message,
        })?;
        for (ids, cut) in encoded {
            if ids.len() < 2 {
                counts.short += 1;
                continue;
            }
            counts.truncated += u64::from(cut);
            counts.documents += 1;
            counts.tokens += ids.len() as u64;
            sink(ids)?;
        }
    }
    if counts.documents == 0 {
        return Err(Error::NoDocuments { path: text.into(), empty: counts.empty, short: counts.short });
    }
    Ok(counts)
}

/// Tokens are streamed to a scratch file (the offsets stand before them in the cache and are known last), then copied behind the header.
fn build(
    text: &Path,
    tokenizer: &dyn Encode,
    settings: EncodeSettings,
    key: &[u8; 32],
    path: &Path,
) -> Result<()> {
    let mut offsets: Vec<u64> = vec![0];
    let scratch = fsio::temporary_beside(path);
    let outcome = (|| {
        let mut counts = DataCounts::default();
        fsio::write_atomic(&scratch, |tokens| {
            let mut written = 0u64;
            counts = for_each_document(text, tokenizer, settings, |ids| {
                written += ids.len() as u64;
                offsets.push(written);
                let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
                tokens.write_all(&bytes).map_err(Error::io("write", &scratch))
            })?;
            Ok(())
        })?;
        write_cache(path, key, counts, &offsets, &scratch)
    })();
    let _ = std::fs::remove_file(&scratch);
    outcome
}

fn write_cache(
    path: &Path,
    key: &[u8; 32],
    counts: DataCounts,
    offsets: &[u64],
    tokens: &Path,
) -> Result<()> {
    fsio::write_atomic(path, |file| {
        let write = |e| Error::io("write", path)(e);
        let mut crc = crc32fast::Hasher::new();
        file.write_all(MAGIC).map_err(write)?;
        file.write_all(&VERSION.to_le_bytes()).map_err(write)?;
        file.write_all(&[0; 4]).map_err(write)?;
        let mut checked = |file: &mut std::io::BufWriter<File>, bytes: &[u8]| {
            crc.update(bytes);
            file.write_all(bytes).map_err(write)
        };
        checked(file, key)?;
        for n in [counts.documents, counts.tokens, counts.empty, counts.short, counts.truncated] {
            checked(file, &n.to_le_bytes())?;
        }
        for offset in offsets {
            checked(file, &offset.to_le_bytes())?;
        }
        let mut source = File::open(tokens).map_err(Error::io("read", tokens))?;
        let mut buffer = vec![0; 1 << 18];
        loop {
            let n = source.read(&mut buffer).map_err(Error::io("read", tokens))?;
            if n == 0 {
                break;
            }
            checked(file, &buffer[..n])?;
        }
        file.seek(SeekFrom::Start(CHECKED_FROM as u64 - 4)).map_err(write)?;
        file.write_all(&crc.finalize().to_le_bytes()).map_err(write)
    })
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::super::encode::tests::Characters;
    use super::super::mapped::HEADER_BYTES;
    use super::*;

    const SETTINGS: EncodeSettings = EncodeSettings { max_length: Some(5), add_bos: false };

    struct Folder {
        folder: tempfile::TempDir,
        text: PathBuf,
    }

    fn folder(content: &str) -> Folder {
        let folder = tempfile::tempdir().unwrap();
        let text = folder.path().join("train.txt");
        std::fs::write(&text, content).unwrap();
        Folder { folder, text }
    }

    impl Folder {
        fn open(&self) -> Result<TokenStore> {
            open_or_build(&self.text, &Characters, SETTINGS, &self.folder.path().join("cache"))
        }
        fn files(&self) -> Vec<PathBuf> {
            let entries = std::fs::read_dir(self.folder.path().join("cache")).unwrap();
            entries.map(|e| e.unwrap().path()).collect()
        }
    }

    #[test]
    fn the_cache_equals_encoding_in_memory_and_is_reused() {
        let f = folder("AB\n\n   \nABCDEFG\nC\n");
        let store = f.open().unwrap();
        let memory = encode_file(&f.text, &Characters, SETTINGS).unwrap();
        assert_eq!(store.counts(), memory.counts());
        assert_eq!(store.fingerprint(), memory.fingerprint(), "a run may be resumed without its cache");
        let counts = DataCounts { documents: 3, tokens: 10, empty: 2, short: 0, truncated: 1 };
        assert_eq!(store.counts(), counts);
        for i in 0..3 {
            assert_eq!(store.document(i), memory.document(i));
        }
        let files = f.files();
        assert_eq!(files.len(), 1, "{files:?}");
        let before = std::fs::metadata(&files[0]).unwrap().modified().unwrap();
        f.open().unwrap();
        assert_eq!(std::fs::metadata(&files[0]).unwrap().modified().unwrap(), before);
    }

    #[test]
    fn content_tokenizer_and_settings_change_the_key() {
        let f = folder("AB\n");
        let key = cache_key(&f.text, &Characters, SETTINGS).unwrap();
        let longer = EncodeSettings { max_length: Some(6), add_bos: false };
        assert_ne!(key, cache_key(&f.text, &Characters, longer).unwrap());
        std::fs::write(&f.text, "AC\n").unwrap();
        assert_ne!(key, cache_key(&f.text, &Characters, SETTINGS).unwrap());
    }

    #[test]
    fn a_damaged_cache_is_found_and_built_again() {
        let f = folder("AB\nCD\n");
        let good = f.open().unwrap().document(1);
        let path = f.files().remove(0);
        let whole = std::fs::read(&path).unwrap();
        let key = cache_key(&f.text, &Characters, SETTINGS).unwrap();
        type Damage = (&'static str, fn(&mut Vec<u8>));
        let damage: [Damage; 6] = [
            ("truncated", |b| b.truncate(b.len() - 3)),
            ("header only", |b| b.truncate(20)),
            ("a flipped token", |b| *b.last_mut().unwrap() ^= 1),
            ("documents beyond the file", |b| b[48..56].copy_from_slice(&u64::MAX.to_le_bytes())),
            ("tokens beyond the file", |b| b[56..64].copy_from_slice(&(1u64 << 40).to_le_bytes())),
            ("magic", |b| b[0] = 0),
        ];
        for (name, damage) in damage {
            let mut bytes = whole.clone();
            damage(&mut bytes);
            std::fs::write(&path, &bytes).unwrap();
            assert!(matches!(MappedTokens::open(&path, &key), Err(Error::BadCache { .. })), "{name}");
            assert_eq!(f.open().unwrap().document(1), good, "{name}");
            assert_eq!(std::fs::read(&path).unwrap(), whole, "{name}");
        }
    }

    #[test]
    fn offsets_out_of_order_are_refused_even_with_a_right_checksum() {
        let f = folder("AB\nCD\n");
        f.open().unwrap();
        let path = f.files().remove(0);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[HEADER_BYTES + 8..HEADER_BYTES + 16].copy_from_slice(&99u64.to_le_bytes());
        let crc = crc32fast::hash(&bytes[CHECKED_FROM..]);
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
        std::fs::write(&path, &bytes).unwrap();
        let key = cache_key(&f.text, &Characters, SETTINGS).unwrap();
        let error = MappedTokens::open(&path, &key).unwrap_err().to_string();
        assert!(error.contains("offsets"), "{error}");
    }

    #[test]
    fn two_builders_at_once_end_with_one_good_file() {
        let f = folder(&"ABCD\n".repeat(5000));
        std::thread::scope(|scope| {
            let handles: Vec<_> = (0..4).map(|_| scope.spawn(|| f.open().unwrap().len())).collect();
            for handle in handles {
                assert_eq!(handle.join().unwrap(), 5000);
            }
        });
        assert_eq!(f.files().len(), 1);
    }

    #[test]
    fn nothing_usable_is_an_error_and_leaves_no_file() {
        let f = folder("\n  \n");
        let error = f.open().unwrap_err();
        assert!(matches!(error, Error::NoDocuments { empty: 2, short: 0, .. }), "{error}");
        assert!(f.files().is_empty());
        let f = folder("fine\nno!\n");
        let error = f.open().unwrap_err().to_string();
        assert!(error.contains("between lines 1 and 2") && error.contains("please"), "{error}");
    }
}
