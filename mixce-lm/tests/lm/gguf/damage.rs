//! Damaged GGUF files are errors: no panic, and no memory beyond what the file's length allows.

use std::path::Path;

use mixce_lm::Tokenizer;
use mixce_lm::checkpoint::gguf::Gguf;
use proptest::prelude::*;

use super::writer::{File, Tensor, Value};

/// A file with every kind of value, a tokenizer and two tensors.
fn whole() -> File {
    File::new(
        vec![
            ("general.architecture", Value::Text("gpt2")),
            ("general.alignment", Value::U32(32)),
            ("tokenizer.ggml.model", Value::Text("gpt2")),
            ("tokenizer.ggml.tokens", Value::Texts(vec!["a", "b", "ab"])),
            ("tokenizer.ggml.merges", Value::Texts(vec!["a b"])),
            ("tokenizer.ggml.token_type", Value::F32s(vec![1.0, 1.0, 1.0])),
            ("tokenizer.ggml.add_bos_token", Value::Bool(false)),
        ],
        vec![
            Tensor("token_embd.weight", vec![32, 3], 8, vec![1; 3 * 34]),
            Tensor("output_norm.weight", vec![5], 0, vec![0; 20]),
        ],
    )
}

/// Reads all that there is in a file, and gives its error or the number of values.
fn read(path: &Path) -> Result<usize, String> {
    let gguf = Gguf::open(path).map_err(|error| error.to_string())?;
    let mut count = 0;
    for tensor in gguf.tensors() {
        count += tensor.read_f32().map_err(|error| error.to_string())?.len();
    }
    Tokenizer::from_dir(path).map_err(|error| error.to_string())?;
    Ok(count)
}

fn error_of(file: &File) -> String {
    let (_dir, path) = file.write();
    Gguf::open(&path).err().map_or_else(|| "read without complaint".to_owned(), |error| error.to_string())
}

#[test]
fn the_whole_file_is_read() {
    let (_dir, path) = whole().write();
    assert_eq!(read(&path), Ok(3 * 32 + 5));
    let old = File { version: 2, ..whole() };
    let (_dir, path) = old.write();
    assert_eq!(read(&path), Ok(3 * 32 + 5));
}

#[test]
fn other_alignments_are_followed() {
    let mut file = whole();
    file.alignment = 256;
    file.pairs[1].1 = Value::U32(256);
    let (_dir, path) = file.write();
    assert_eq!(read(&path), Ok(3 * 32 + 5));
}

#[test]
fn a_file_that_is_cut_at_any_byte_is_an_error() {
    let (bytes, _) = whole().bytes();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cut.gguf");
    // The last tensor's padding is not needed.
    let needed = bytes.len() - 12;
    for length in 0..needed {
        std::fs::write(&path, &bytes[..length]).unwrap();
        let error = Gguf::open(&path).err().map(|error| error.to_string());
        assert!(error.is_some_and(|error| error.contains("cut.gguf")), "{length} of {needed} bytes");
    }
    std::fs::write(&path, &bytes[..needed]).unwrap();
    assert_eq!(read(&path), Ok(3 * 32 + 5));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn changed_bytes_give_an_error_or_as_many_values(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)
    ) {
        let (mut bytes, header) = whole().bytes();
        for (at, byte) in changes {
            let at = at.index(header);
            bytes[at] = byte;
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("changed.gguf");
        std::fs::write(&path, &bytes).unwrap();
        // An f32 is the smallest plain element that takes the place of a block; no format has more than 12 values a byte.
        if let Ok(count) = read(&path) {
            prop_assert!(count <= 12 * bytes.len());
        }
    }
}

#[test]
fn sizes_that_lie_are_refused_before_memory_is_asked_for() {
    let huge = 1u64 << 60;
    let text = |length: u64| Value::Raw(8, length.to_le_bytes().to_vec());
    let list =
        |kind: u32, count: u64| Value::Raw(9, [&kind.to_le_bytes()[..], &count.to_le_bytes()].concat());
    for value in [text(huge), text(u64::MAX), list(8, huge), list(4, huge), list(12, u64::MAX), list(0, huge)]
    {
        let error = error_of(&File::new(vec![("key", value)], Vec::new()));
        assert!(error.contains("metadata key `key`") && error.contains("are left"), "{error}");
    }
    for (place, what) in [(8, "tensors"), (16, "metadata keys")] {
        let (mut bytes, _) = whole().bytes();
        bytes[place..place + 8].copy_from_slice(&huge.to_le_bytes());
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lie.gguf");
        std::fs::write(&path, &bytes).unwrap();
        let error = Gguf::open(&path).err().unwrap().to_string();
        assert!(error.contains(what) && error.contains("are left"), "{error}");
    }
}

#[test]
fn tensors_that_do_not_lie_in_the_file_are_refused_by_name() {
    for (dimensions, kind, expected) in [
        (vec![1 << 40], 0, "does not lie in the file"),
        (vec![1 << 40, 1 << 40], 0, "does not lie in the file"),
        (vec![u64::MAX, 2], 0, "does not lie in the file"),
        (vec![0, 1 << 40, 1 << 40], 0, "does not lie in the file"),
        (vec![33], 8, "no multiple of the 32 of Q8_0"),
        (vec![4; 5], 0, "has 5 dimensions"),
        (vec![4], 77, "unknown element type 77"),
    ] {
        let error = error_of(&File::new(Vec::new(), vec![Tensor("x", dimensions, kind, vec![0; 16])]));
        assert!(error.contains("tensor `x`") && error.contains(expected), "{error}");
    }
}

#[test]
fn names_that_occur_twice_are_refused() {
    let x = || Tensor("x", vec![8], 0, vec![0; 32]);
    let error = error_of(&File::new(Vec::new(), vec![x(), x()]));
    assert!(error.contains("tensor `x` occurs twice"), "{error}");
    let error = error_of(&File::new(vec![("k", Value::U32(1)), ("k", Value::U32(2))], Vec::new()));
    assert!(error.contains("`k` occurs twice"), "{error}");
}

#[test]
fn tensors_that_share_bytes_are_refused() {
    let (mut bytes, header) = File::new(
        Vec::new(),
        vec![Tensor("x", vec![8], 0, vec![0; 32]), Tensor("y", vec![8], 0, vec![0; 32])],
    )
    .bytes();
    // The offset of the second tensor is the last number of the header before its padding.
    let at = bytes[..header].windows(8).rposition(|window| window == 32u64.to_le_bytes()).unwrap();
    bytes[at..at + 8].copy_from_slice(&0u64.to_le_bytes());
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("shared.gguf");
    std::fs::write(&path, &bytes).unwrap();
    let error = Gguf::open(&path).err().unwrap().to_string();
    assert!(error.contains("tensor `y` begins at 0 of the data, expected 32"), "{error}");
}

#[test]
fn other_versions_and_files_are_named() {
    let with = |version: u32| error_of(&File { version, ..whole() });
    assert!(with(1).contains("GGUF version 1"), "{}", with(1));
    assert!(with(4).contains("GGUF version 4"));
    assert!(with(3u32.swap_bytes()).contains("big-endian"));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("other.gguf");
    std::fs::write(&path, b"PK\x03\x04 and so on, a zip archive").unwrap();
    assert!(Gguf::open(&path).err().unwrap().to_string().contains("does not begin with `GGUF`"));
}

#[test]
fn lists_of_lists_and_unknown_types_are_refused_by_key() {
    let nested = Value::Raw(9, [&9u32.to_le_bytes()[..], &1u64.to_le_bytes()].concat());
    let error = error_of(&File::new(vec![("key", nested)], Vec::new()));
    assert!(error.contains("metadata key `key` is a list of lists"), "{error}");
    let error = error_of(&File::new(vec![("key", Value::Raw(13, vec![0; 8]))], Vec::new()));
    assert!(error.contains("metadata key `key` has the unknown type 13"), "{error}");
}
