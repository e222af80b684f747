//! GGUF files: values of every element type, tokenizers, and which files stand for a model.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use mixce_base::Hint as _;
use mixce_lm::Tokenizer;
use mixce_lm::checkpoint::gguf::{Gguf, find};
use mixce_lm::checkpoint::{self, TensorInfo};
use serde::Deserialize;

mod damage;
mod writer;

use crate::common::fixture;
use writer::{File, Tensor, Value};

/// The names of the models of the fixtures.
const MODELS: [&str; 6] = ["gpt2", "llama3", "smollm", "mistral", "qwen2", "qwen3"];

#[derive(Deserialize)]
struct Case {
    size: usize,
    bos: Option<u32>,
    eos: Option<u32>,
    ids: Vec<Vec<u32>>,
    decoded: Vec<String>,
}

/// The texts, and by model what they become.
fn cases() -> (Vec<String>, BTreeMap<String, Case>) {
    let text = fs::read_to_string(fixture("gguf/tokenizers.json")).unwrap();
    let mut json: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&text).unwrap();
    let texts = serde_json::from_value(json.remove("texts").unwrap()).unwrap();
    (texts, serde_json::from_value(json.into()).unwrap())
}

fn tokenizer_error(path: &Path) -> mixce_lm::Error {
    Tokenizer::from_dir(path).err().unwrap()
}

#[test]
fn every_element_type_has_the_values_that_the_package_gguf_finds() {
    let bytes = fs::read(fixture("gguf/types.safetensors")).unwrap();
    let expected = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let tensors = checkpoint::list(&fixture("gguf/types.gguf")).unwrap();
    assert_eq!(tensors.len(), 14);
    for tensor in tensors {
        let want = expected.tensor(&tensor.name).unwrap();
        let want: Vec<f32> = want.data().as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
        let got = tensor.read_f32().unwrap();
        assert_eq!(tensor.shape, [2, 256], "{}", tensor.name);
        assert!(tensor.dtype.name().eq_ignore_ascii_case(&tensor.name), "{:?}", tensor.dtype);
        assert_eq!(got.len(), want.len());
        for (i, (got, want)) in got.iter().zip(&want).enumerate() {
            // Both multiply f32 scales, in another order.
            assert!(
                (got - want).abs() <= 1e-6 * (1.0 + want.abs()),
                "{} at {i}: {got}, expected {want}",
                tensor.name
            );
        }
    }
}

#[test]
fn stored_sizes_are_those_of_the_blocks() {
    let tensors = checkpoint::list(&fixture("gguf/types.gguf")).unwrap();
    let bytes = |name: &str| tensors.iter().find(|t| t.name == name).map(TensorInfo::stored_bytes).unwrap();
    assert_eq!((bytes("F32"), bytes("BF16"), bytes("Q8_0"), bytes("Q4_K")), (2048, 1024, 16 * 34, 2 * 144));
}

#[test]
fn texts_become_the_ids_of_the_published_tokenizers() {
    let (texts, cases) = cases();
    for name in MODELS {
        let case = &cases[name];
        let tokenizer = Tokenizer::from_dir(&fixture(&format!("gguf/{name}.gguf"))).unwrap();
        assert_eq!(tokenizer.vocab_size(), case.size, "{name}");
        assert_eq!((tokenizer.bos_id(), tokenizer.eos_id()), (case.bos, case.eos), "{name}");
        for ((text, ids), decoded) in texts.iter().zip(&case.ids).zip(&case.decoded) {
            assert_eq!(&tokenizer.encode(text).unwrap(), ids, "{name}: {text:?}");
            assert_eq!(&tokenizer.decode(ids).unwrap(), decoded, "{name}: {text:?}");
        }
    }
}

#[test]
fn a_saved_tokenizer_is_the_same_without_the_file() {
    for name in MODELS {
        let tokenizer = Tokenizer::from_dir(&fixture(&format!("gguf/{name}.gguf"))).unwrap();
        let dir = tempfile::tempdir().unwrap();
        tokenizer.save(dir.path()).unwrap();
        let again = Tokenizer::from_dir(dir.path()).unwrap();
        assert_eq!(again.fingerprint().unwrap(), tokenizer.fingerprint().unwrap(), "{name}");
        let config = fs::read_to_string(dir.path().join("tokenizer_config.json")).unwrap();
        assert_eq!(config.contains("chat_template"), name != "mistral", "{name}");
        assert!(dir.path().join("tokenizer.json").is_file());
    }
}

#[test]
fn bos_is_put_before_a_text_by_the_template_of_a_model_that_has_it() {
    for (name, begins) in [("llama3", true), ("mistral", true), ("gpt2", false), ("qwen2", false)] {
        let tokenizer = Tokenizer::from_dir(&fixture(&format!("gguf/{name}.gguf"))).unwrap();
        let plain = tokenizer.encode("the mill").unwrap();
        let whole = tokenizer.encode_in_template("the mill", 100).unwrap();
        let expected: Vec<u32> = tokenizer.bos_id().filter(|_| begins).into_iter().chain(plain).collect();
        assert_eq!(whole, expected, "{name}");
    }
}

#[test]
fn control_tokens_are_special_and_user_defined_ones_are_not() {
    let tokenizer = Tokenizer::from_dir(&fixture("gguf/llama3.gguf")).unwrap();
    let added = tokenizer.added_tokens();
    let flags: Vec<(&str, bool)> =
        added.iter().map(|token| (token.content.as_str(), token.special)).collect();
    assert_eq!(
        flags,
        [("<|endoftext|>", true), ("<|im_start|>", true), ("<|im_end|>", true), ("<think>", false)]
    );
}

#[test]
fn a_sample_ends_at_eos_and_at_the_end_of_a_turn() {
    let path = fixture("gguf/llama3.gguf");
    let tokenizer = Tokenizer::from_dir(&path).unwrap();
    assert_eq!(mixce_lm::stop_ids(&path, &tokenizer, 352).unwrap(), [0, 2]);
    assert_eq!(mixce_lm::stop_ids(&path, &tokenizer, 2).unwrap(), [0]);
}

#[test]
fn a_folder_with_one_gguf_file_stands_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("model-q8.gguf");
    fs::copy(fixture("gguf/qwen2.gguf"), &file).unwrap();
    fs::write(dir.path().join("README.md"), "a model").unwrap();
    assert_eq!(find(dir.path()).unwrap(), Some(file.clone()));
    assert_eq!(find(&file).unwrap(), Some(file));
    let tokenizer = Tokenizer::from_dir(dir.path()).unwrap();
    assert_eq!(tokenizer.vocab_size(), 352);
    // A vision tower, and what a trainer leaves, are no weights of the language model.
    fs::write(dir.path().join("mmproj-f16.gguf"), "x").unwrap();
    assert!(find(dir.path()).unwrap().is_some());
}

#[test]
fn the_tokenizer_files_of_the_folder_come_first() {
    let dir = tempfile::tempdir().unwrap();
    fs::copy(fixture("gguf/qwen2.gguf"), dir.path().join("model.gguf")).unwrap();
    fs::copy(fixture("tokenizer/tokenizer.json"), dir.path().join("tokenizer.json")).unwrap();
    assert_eq!(Tokenizer::from_dir(dir.path()).unwrap().vocab_size(), 377);
}

#[test]
fn several_gguf_files_are_refused_with_their_names() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["a-q4.gguf", "a-q8.gguf"] {
        fs::copy(fixture("gguf/gpt2.gguf"), dir.path().join(name)).unwrap();
    }
    assert_eq!(find(dir.path()).unwrap(), None);
    let error = checkpoint::config(dir.path(), &[]).err().unwrap();
    assert!(error.to_string().contains("found `a-q4.gguf`, `a-q8.gguf`"), "{error}");
    assert_eq!(error.hint().as_deref(), Some("name one of the GGUF files"));
}

#[test]
fn safetensors_beside_a_gguf_file_come_first() {
    let dir = tempfile::tempdir().unwrap();
    fs::copy(fixture("gguf/gpt2.gguf"), dir.path().join("model.gguf")).unwrap();
    fs::copy(fixture("gguf/types.safetensors"), dir.path().join("model.safetensors")).unwrap();
    assert_eq!(find(dir.path()).unwrap(), None);
    assert_eq!(checkpoint::list(dir.path()).unwrap().len(), 14);
}

/// A byte-level BPE of two letters.
fn tiny_vocabulary() -> Vec<(&'static str, Value)> {
    vec![
        ("general.architecture", Value::Text("llama")),
        ("tokenizer.ggml.model", Value::Text("gpt2")),
        ("tokenizer.ggml.pre", Value::Text("gpt-2")),
        ("tokenizer.ggml.tokens", Value::Texts(vec!["a", "b", "ab", "<end>"])),
        ("tokenizer.ggml.merges", Value::Texts(vec!["a b"])),
        ("tokenizer.ggml.eos_token_id", Value::U32(3)),
    ]
}

/// [`tiny_vocabulary`] with another value for a key, or without it.
fn vocabulary_with(key: &'static str, value: Option<Value>) -> File {
    let mut pairs = tiny_vocabulary();
    pairs.retain(|(name, _)| *name != key);
    pairs.extend(value.map(|value| (key, value)));
    File::new(pairs, Vec::new())
}

#[test]
fn damaged_vocabularies_are_refused_by_key() {
    use Value::{F32s, Text, Texts, U32};
    let (_dir, path) = File::new(tiny_vocabulary(), Vec::new()).write();
    assert_eq!(Tokenizer::from_dir(&path).unwrap().encode("abba").unwrap(), [2, 1, 0]);
    for (key, value, expected) in [
        ("tokenizer.ggml.model", Some(Text("bert")), "`tokenizer.ggml.model` = `bert`"),
        ("tokenizer.ggml.pre", Some(Text("viking")), "`tokenizer.ggml.pre` = `viking`"),
        ("tokenizer.ggml.pre", None, "`tokenizer.ggml.pre` = `(missing)`"),
        ("tokenizer.ggml.pre", Some(U32(1)), "must be a text in UTF-8, got 1"),
        ("tokenizer.ggml.tokens", None, "no metadata key `tokenizer.ggml.tokens`"),
        ("tokenizer.ggml.tokens", Some(Texts(vec!["a", "a"])), "tokens 0 and 1 are the same"),
        ("tokenizer.ggml.tokens", Some(F32s(vec![1.0])), "must be a list of texts"),
        ("tokenizer.ggml.merges", None, "no metadata key `tokenizer.ggml.merges`"),
        ("tokenizer.ggml.merges", Some(Texts(vec!["ab"])), "entry 1: expected two tokens, got `ab`"),
        ("tokenizer.ggml.merges", Some(Texts(vec!["b a"])), "needs token `ba`"),
        ("tokenizer.ggml.token_type", Some(F32s(vec![1.0])), "has 1 entries for 4 tokens"),
        ("tokenizer.ggml.eos_token_id", Some(U32(4)), "`tokenizer.ggml.eos_token_id` = `4`"),
        ("tokenizer.ggml.padding_token_id", Some(U32(9)), "`tokenizer.ggml.padding_token_id` = `9`"),
        ("tokenizer.ggml.bos_token_id", Some(Text("a")), "must be a whole number"),
    ] {
        let (_dir, path) = vocabulary_with(key, value).write();
        let error = tokenizer_error(&path);
        assert!(
            error.to_string().contains(expected) && error.to_string().contains("tiny.gguf"),
            "{key}: {error}"
        );
    }
    let (_dir, path) = vocabulary_with("tokenizer.ggml.pre", Some(Text("viking"))).write();
    assert!(tokenizer_error(&path).hint().unwrap().contains("tokenizer.json"));
    let (_dir, path) = vocabulary_with("tokenizer.ggml.model", None).write();
    assert!(matches!(tokenizer_error(&path), mixce_lm::Error::NoTokenizer { .. }));
}

#[test]
fn mistrals_pieces_end_where_capitals_begin() {
    for (pre, ids) in [("gpt-2", vec![2]), ("tekken", vec![0, 1])] {
        let mut file = vocabulary_with("tokenizer.ggml.pre", Some(Value::Text(pre)));
        file.pairs.retain(|(key, _)| !key.ends_with("tokens") && !key.ends_with("merges"));
        file.pairs.push(("tokenizer.ggml.tokens", Value::Texts(vec!["a", "B", "aB", "<end>"])));
        file.pairs.push(("tokenizer.ggml.merges", Value::Texts(vec!["a B"])));
        let (_dir, path) = file.write();
        assert_eq!(Tokenizer::from_dir(&path).unwrap().encode("aB").unwrap(), ids, "{pre}");
    }
}

#[test]
fn a_pre_tokenizer_without_rules_is_gpt2s_and_said() {
    let (_dir, path) = vocabulary_with("tokenizer.ggml.pre", Some(Value::Text("default"))).write();
    let tokenizer = Tokenizer::from_dir(&path).unwrap();
    assert!(
        tokenizer.notes().iter().any(|note| note.contains("GPT-2's are used")),
        "{:?}",
        tokenizer.notes()
    );
}

/// A SentencePiece vocabulary: `▁a` and `ab` overlap in `▁ab`, and the scores decide.
fn sentencepiece(scores: Vec<f32>, more: Vec<(&'static str, Value)>) -> File {
    let mut pairs = vec![
        ("general.architecture", Value::Text("llama")),
        ("tokenizer.ggml.model", Value::Text("llama")),
        ("tokenizer.ggml.tokens", Value::Texts(vec!["<unk>", "\u{2581}", "a", "b", "\u{2581}a", "ab"])),
        ("tokenizer.ggml.scores", Value::F32s(scores)),
        ("tokenizer.ggml.unknown_token_id", Value::U32(0)),
    ];
    pairs.extend(more);
    File::new(pairs, Vec::new())
}

#[test]
fn scores_decide_the_merges_of_sentencepiece() {
    for (scores, ids) in [([-1.0, -2.0], [4, 3]), ([-2.0, -1.0], [1, 5])] {
        let scores = [vec![0.0, -3.0, -4.0, -5.0], scores.to_vec()].concat();
        let (_dir, path) = sentencepiece(scores, Vec::new()).write();
        let tokenizer = Tokenizer::from_dir(&path).unwrap();
        assert_eq!(tokenizer.encode("ab").unwrap(), ids);
        assert_eq!(tokenizer.decode(&ids).unwrap(), "ab");
        // No bytes in this vocabulary: what it cannot spell is unknown, not dropped.
        assert_eq!(tokenizer.encode("abc").unwrap(), [&ids[..], &[0]].concat());
    }
}

#[test]
fn the_space_before_a_text_can_be_left_out() {
    let more = vec![("tokenizer.ggml.add_space_prefix", Value::Bool(false))];
    let (_dir, path) = sentencepiece(vec![0.0, -3.0, -4.0, -5.0, -1.0, -2.0], more).write();
    let tokenizer = Tokenizer::from_dir(&path).unwrap();
    assert_eq!(tokenizer.encode("ab ab").unwrap(), [5, 4, 3]);
    assert_eq!(tokenizer.decode(&[4, 3]).unwrap(), " ab");
}

#[test]
fn damaged_scores_are_refused() {
    for (scores, expected) in [
        (vec![1.0], "has 1 entries for 6 tokens"),
        (vec![0.0, 0.0, f32::NAN, 0.0, 0.0, 0.0], "the score of token 2 is no number"),
    ] {
        let (_dir, path) = sentencepiece(scores, Vec::new()).write();
        let error = tokenizer_error(&path).to_string();
        assert!(error.contains(expected), "{error}");
    }
    let more = vec![("tokenizer.ggml.remove_extra_whitespaces", Value::Bool(true))];
    let (_dir, path) = sentencepiece(vec![0.0; 6], more).write();
    assert!(tokenizer_error(&path).to_string().contains("remove_extra_whitespaces"));
}

#[test]
fn formats_that_are_not_read_are_listed_and_refused_by_name() {
    // IQ4_XS: 136 bytes for 256 values.
    let tensor = Tensor("x", vec![256, 1], 23, vec![0; 136]);
    let (_dir, path) = File::new(Vec::new(), vec![tensor]).write();
    let listed = checkpoint::list(&path).unwrap();
    assert_eq!((listed[0].dtype.name(), listed[0].stored_bytes()), ("IQ4_XS", 136));
    let error = listed[0].read_f32().unwrap_err().to_string();
    assert!(error.contains("`x` has dtype IQ4_XS, which is not read"), "{error}");
}

#[test]
fn what_is_no_whole_model_is_refused_by_key() {
    for (key, value, expected) in [
        ("split.count", Value::U32(3), "`split.count` = `3`"),
        ("general.type", Value::Text("adapter"), "`general.type` = `adapter`"),
        ("general.alignment", Value::U32(24), "`general.alignment` = `24`"),
    ] {
        let (_dir, path) = File::new(vec![(key, value)], Vec::new()).write();
        let error = Gguf::open(&path).err().unwrap().to_string();
        assert!(error.contains(expected), "{error}");
    }
    let (_dir, path) = File::new(vec![("general.architecture", Value::Text("gemma"))], Vec::new()).write();
    let error = checkpoint::config(&path, &[]).err().unwrap().to_string();
    assert!(error.contains("`general.architecture` = `gemma`"), "{error}");
}
