//! Encodes data files once and keeps the tokens in a memory-mapped file.
//!
//! The file's name and header carry a key: SHA-256 over the data files' bytes, how they are read, the tokenizer's fingerprint and the settings.
//! A cache that does not check out (size, checksum, key) is built again. Building is atomic, so two processes may do it at once.
//!
//! Building takes constant memory: a thread reads batches of documents while the last one is encoded on all threads, and tokens and offsets
//! go to scratch files at once.
use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use mixce_data::{Input, ReadSettings};
use sha2::{Digest, Sha256};

use super::encode::{Encode, EncodeSettings};
pub use super::mapped::MAGIC;
use super::mapped::{CHECKED_FROM, MappedTokens, VERSION};
use super::store::{DataCounts, TokenStore};
use super::stream::for_each_document;
use crate::error::{Error, Result};
use crate::fsio;

/// Opens the token cache of `input` in the folder `cache`, building it first when it is absent or damaged.
///
/// # Errors
/// Unreadable, empty or malformed data ([`Error::Data`], [`Error::NoDocuments`]), a tokenizer error, or a folder that cannot be written.
pub fn open_or_build(
    input: &Input,
    tokenizer: &dyn Encode,
    settings: EncodeSettings,
    cache: &Path,
) -> Result<TokenStore> {
    settings.validate()?;
    let key = cache_key(input, tokenizer, settings)?;
    let path = cache.join(format!("{}-{}.tokens", input.stem(), &hex(&key)[..16]));
    match MappedTokens::open(&path, Some(&key)) {
        Ok((mapped, counts)) => return Ok(TokenStore::from_mapped(counts, hex(&key), mapped)),
        Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => tracing::warn!("{error}; building it again"),
    }
    std::fs::create_dir_all(cache).map_err(Error::io("create", cache))?;
    build(input, tokenizer, settings, &key, &path)?;
    let (mapped, counts) = MappedTokens::open(&path, Some(&key))?;
    Ok(TokenStore::from_mapped(counts, hex(&key), mapped))
}

/// Opens a token cache file, whatever it was made from.
///
/// # Errors
/// [`Error::Io`], [`Error::BadCache`].
pub fn open(path: &Path) -> Result<TokenStore> {
    let (mapped, counts) = MappedTokens::open(path, None)?;
    let key = hex(mapped.key());
    Ok(TokenStore::from_mapped(counts, key, mapped))
}

/// Encodes `input` into memory, without a cache.
///
/// # Errors
/// As [`open_or_build`], but for the cache.
pub fn encode_input(input: &Input, tokenizer: &dyn Encode, settings: EncodeSettings) -> Result<TokenStore> {
    settings.validate()?;
    let key = cache_key(input, tokenizer, settings)?;
    let (mut tokens, mut offsets) = (Vec::new(), vec![0]);
    let counts = for_each_document(input, tokenizer, settings, |ids| {
        tokens.extend_from_slice(ids);
        offsets.push(tokens.len() as u64);
        Ok(())
    })?;
    Ok(TokenStore::from_memory(counts, hex(&key), tokens, offsets))
}

/// [`encode_input`] for one file in the format that its name says.
///
/// # Errors
/// As [`encode_input`].
pub fn encode_file(path: &Path, tokenizer: &dyn Encode, settings: EncodeSettings) -> Result<TokenStore> {
    encode_input(&Input::open(&[path], ReadSettings::default())?, tokenizer, settings)
}

/// Counts documents and tokens, and keeps none; `on_length` is told each document's number of tokens.
///
/// # Errors
/// As [`encode_input`].
pub fn count_tokens(
    input: &Input,
    tokenizer: &dyn Encode,
    settings: EncodeSettings,
    mut on_length: impl FnMut(u64),
) -> Result<DataCounts> {
    settings.validate()?;
    for_each_document(input, tokenizer, settings, |ids| {
        on_length(ids.len() as u64);
        Ok(())
    })
}

fn cache_key(input: &Input, tokenizer: &dyn Encode, settings: EncodeSettings) -> Result<[u8; 32]> {
    // Every field is of fixed length or followed by its length, so that no two inputs run together.
    let mut key = Sha256::new();
    key.update(VERSION.to_le_bytes());
    key.update(input.digest()?);
    key.update([u8::from(settings.add_bos)]);
    key.update(settings.max_length.map_or(u64::MAX, |n| n as u64).to_le_bytes());
    key.update(tokenizer.eos_id().unwrap_or(u32::MAX).to_le_bytes());
    key.update(tokenizer.bos_id().unwrap_or(u32::MAX).to_le_bytes());
    let fingerprint = tokenizer.fingerprint().map_err(|message| Error::Tokenizer { message })?;
    key.update((fingerprint.len() as u64).to_le_bytes());
    key.update(fingerprint.as_bytes());
    Ok(key.finalize().into())
}

/// A file that is removed at the end, whatever happens.
struct Scratch {
    path: PathBuf,
    writer: BufWriter<File>,
}

impl Scratch {
    fn create(beside: &Path) -> Result<Self> {
        let path = fsio::temporary_beside(beside);
        let file = File::create_new(&path).map_err(Error::io("create", &path))?;
        Ok(Self { path, writer: BufWriter::with_capacity(1 << 18, file) })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.writer.write_all(bytes).map_err(Error::io("write", &self.path))
    }

    /// Calls `sink` with all that was written, piece by piece.
    fn read_back(&mut self, mut sink: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        self.writer.flush().map_err(Error::io("write", &self.path))?;
        let mut source = File::open(&self.path).map_err(Error::io("read", &self.path))?;
        let mut buffer = vec![0; 1 << 18];
        loop {
            let n = source.read(&mut buffer).map_err(Error::io("read", &self.path))?;
            if n == 0 {
                return Ok(());
            }
            sink(&buffer[..n])?;
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // The error that matters, if any, is on its way already.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Counts and offsets stand before the tokens in the cache and are known last: both go to scratch files first.
fn build(
    input: &Input,
    tokenizer: &dyn Encode,
    settings: EncodeSettings,
    key: &[u8; 32],
    path: &Path,
) -> Result<()> {
    let (mut offsets, mut tokens) = (Scratch::create(path)?, Scratch::create(path)?);
    let (mut written, mut largest_id) = (0u64, 0u32);
    offsets.write(&written.to_le_bytes())?;
    let mut bytes = Vec::new();
    let counts = for_each_document(input, tokenizer, settings, |ids| {
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
    fsio::write_atomic(path, |file| {
        let write = |e| Error::io("write", path)(e);
        let mut crc = crc32fast::Hasher::new();
        file.write_all(MAGIC).map_err(write)?;
        file.write_all(&VERSION.to_le_bytes()).map_err(write)?;
        file.write_all(&[0; 4]).map_err(write)?;
        let mut checked = |bytes: &[u8]| {
            crc.update(bytes);
            file.write_all(bytes).map_err(write)
        };
        checked(key)?;
        let DataCounts { documents, tokens: total, empty, short, truncated, bad } = counts;
        for n in [documents, total, empty, short, truncated, bad, u64::from(largest_id)] {
            checked(&n.to_le_bytes())?;
        }
        offsets.read_back(&mut checked)?;
        tokens.read_back(&mut checked)?;
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
        fn input(&self) -> Input {
            Input::open(&[&self.text], ReadSettings::default()).unwrap()
        }
        fn open(&self) -> Result<TokenStore> {
            open_or_build(&self.input(), &Characters, SETTINGS, &self.folder.path().join("cache"))
        }
        fn key(&self, settings: EncodeSettings) -> [u8; 32] {
            cache_key(&self.input(), &Characters, settings).unwrap()
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
        let counts = DataCounts { documents: 3, tokens: 10, empty: 2, short: 0, truncated: 1, bad: 0 };
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
        let key = f.key(SETTINGS);
        let longer = EncodeSettings { max_length: Some(6), add_bos: false };
        assert_ne!(key, f.key(longer));
        std::fs::write(&f.text, "AC\n").unwrap();
        assert_ne!(key, f.key(SETTINGS));
    }

    #[test]
    fn a_damaged_cache_is_found_and_built_again() {
        let f = folder("AB\nCD\n");
        let good = f.open().unwrap().document(1);
        let path = f.files().remove(0);
        let whole = std::fs::read(&path).unwrap();
        let key = f.key(SETTINGS);
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
            assert!(matches!(MappedTokens::open(&path, Some(&key)), Err(Error::BadCache { .. })), "{name}");
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
        let key = f.key(SETTINGS);
        let error = MappedTokens::open(&path, Some(&key)).unwrap_err().to_string();
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
        assert!(f.files().is_empty(), "not even a scratch file");
        let f = folder("fine\nno!\n");
        let error = f.open().unwrap_err().to_string();
        assert!(
            error.contains("train.txt` line 1 and ") && error.contains("line 2: no `!` please"),
            "{error}"
        );
    }

    #[test]
    fn a_cache_can_be_opened_by_itself() {
        let f = folder("AB\nZ\n");
        let built = f.open().unwrap();
        let opened = open(&f.files()[0]).unwrap();
        assert_eq!((opened.counts(), opened.fingerprint()), (built.counts(), built.fingerprint()));
        assert_eq!(opened.document(1), [90 % 90, 90]);
        // The largest id is known without a look at the tokens.
        opened.require_vocabulary(91).unwrap();
        let error = opened.require_vocabulary(90).unwrap_err();
        assert!(matches!(error, Error::TokenOutOfRange { id: 90, document: 0, vocab_size: 90 }), "{error}");
    }

    #[test]
    fn counting_keeps_nothing_and_counts_the_same() {
        let f = folder(&"ABCDEFG\n\nA\n".repeat(700));
        let mut lengths = Vec::new();
        let counts = count_tokens(&f.input(), &Characters, SETTINGS, |n| lengths.push(n)).unwrap();
        assert_eq!(counts, f.open().unwrap().counts());
        assert_eq!(lengths[..4], [5, 2, 5, 2]);
    }
}
