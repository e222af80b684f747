//! Building, damaging, stopping and reopening caches.
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::data::encode::tests::Characters;
use crate::data::mapped::HEADER_BYTES;

const SETTINGS: EncodeSettings = EncodeSettings { max_length: Some(5), add_bos: false };

/// Asks for a stop while it encodes the second batch.
struct StopsInSecondBatch {
    stop: AtomicBool,
    batches: AtomicU64,
}

impl Encode for StopsInSecondBatch {
    fn encode_batch(&self, texts: &[&str]) -> std::result::Result<Vec<Vec<u32>>, String> {
        let before = self.batches.fetch_add(1, Ordering::Relaxed);
        self.stop.store(before == 1, Ordering::Relaxed);
        Characters.encode_batch(texts)
    }
    fn eos_id(&self) -> Option<u32> {
        Characters.eos_id()
    }
    fn bos_id(&self) -> Option<u32> {
        Characters.bos_id()
    }
    fn fingerprint(&self) -> std::result::Result<String, String> {
        Characters.fingerprint()
    }
}

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
        self.open_until(&AtomicBool::new(false))
    }
    fn open_until(&self, stop: &AtomicBool) -> Result<TokenStore> {
        open_or_build(&self.input(), &Characters, SETTINGS, &self.folder.path().join("cache"), stop)
    }
    fn key(&self, settings: EncodeSettings) -> [u8; 32] {
        cache_key(&self.input(), &Characters, settings, &AtomicBool::new(false)).unwrap()
    }
    fn files(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.folder.path().join("cache")).unwrap();
        entries.map(|e| e.unwrap().path()).collect()
    }
}

/// A process can be killed between the last byte of a cache and the removal of its scratch files.
#[test]
fn what_was_left_beside_a_complete_cache_is_removed() {
    let f = folder("AB\nC\n");
    f.open().unwrap();
    let complete = f.files();
    std::fs::write(mixce_base::files::temporary_beside(&complete[0]), "scratch").unwrap();
    f.open().unwrap();
    assert_eq!(f.files(), complete);
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
fn a_stopped_build_leaves_nothing() {
    let f = folder("ABCD\n");
    let tokenizer = StopsInSecondBatch { stop: AtomicBool::new(false), batches: AtomicU64::new(0) };
    std::fs::write(&f.text, "ABCD\n".repeat(5 * 1024)).unwrap();
    let cache = f.folder.path().join("cache");
    let error = open_or_build(&f.input(), &tokenizer, SETTINGS, &cache, &tokenizer.stop).unwrap_err();
    assert!(matches!(error, Error::Interrupted), "{error}");
    assert_eq!(tokenizer.batches.load(Ordering::Relaxed), 2, "the batch under way is the last one");
    assert!(f.files().is_empty(), "not even a scratch file");
    let error = f.open_until(&AtomicBool::new(true)).unwrap_err();
    assert!(matches!(error, Error::Data(mixce_data::Error::Stopped)), "{error}");
    assert_eq!(f.open().unwrap().len(), 5 * 1024);
}

#[test]
fn nothing_usable_is_an_error_and_leaves_no_file() {
    let f = folder("\n  \n");
    let error = f.open().unwrap_err();
    assert!(matches!(error, Error::NoDocuments { empty: 2, short: 0, .. }), "{error}");
    assert!(f.files().is_empty(), "not even a scratch file");
    let f = folder("fine\nno!\n");
    let error = f.open().unwrap_err().to_string();
    assert!(error.contains("train.txt` line 2: no `!` please"), "{error}");
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
    let (mut lengths, go_on) = (Vec::new(), AtomicBool::new(false));
    let counts = count_tokens(&f.input(), &Characters, SETTINGS, &go_on, |n| lengths.push(n)).unwrap();
    assert_eq!(counts, f.open().unwrap().counts());
    assert_eq!(lengths[..4], [5, 2, 5, 2]);
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { cases: 300, failure_persistence: None, ..Default::default() })]

    /// A cache from elsewhere may have any numbers and the right checksum.
    #[test]
    fn any_numbers_are_refused_or_can_be_read(
        damage in proptest::collection::vec((16usize..160, proptest::prelude::any::<u64>(), 0u32..64), 1..4),
    ) {
        let f = folder("AB\nCD\n");
        f.open().unwrap();
        let path = f.files().remove(0);
        let mut bytes = std::fs::read(&path).unwrap();
        for (at, value, shift) in damage {
            let at = at % (bytes.len() - 8);
            bytes[at.max(16)..][..8].copy_from_slice(&(value >> shift).to_le_bytes());
        }
        let crc = crc32fast::hash(&bytes[CHECKED_FROM..]);
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
        std::fs::write(&path, &bytes).unwrap();
        if let Ok(store) = super::open(&path) {
            for document in 0..store.len() {
                let _ = store.tokens(store.range(document));
            }
        }
    }
}
