//! Encodings against transformers, and files in and out.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::fs;
use std::path::Path;

use mixce_lm::Tokenizer;
use proptest::prelude::*;
use serde::Deserialize;

use crate::common::fixture;

mod damaged;

#[derive(Deserialize)]
struct Cases {
    vocab_size: usize,
    eos_id: u32,
    cases: Vec<Case>,
    decode_only: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    text: String,
    ids: Vec<u32>,
}

fn cases() -> Cases {
    serde_json::from_str(&fs::read_to_string(fixture("tokenizer/cases.json")).unwrap()).unwrap()
}

/// A folder with some of the fixture's files.
fn folder(names: &[&str]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for name in names {
        fs::copy(fixture("tokenizer").join(name), dir.path().join(name)).unwrap();
    }
    dir
}

fn error_of(dir: &Path) -> String {
    match Tokenizer::from_dir(dir) {
        Ok(_) => "loaded without complaint".to_owned(),
        Err(error) => error.to_string(),
    }
}

#[test]
fn both_sources_encode_as_transformers_does() {
    let cases = cases();
    for names in [vec!["tokenizer.json", "tokenizer_config.json"], vec!["vocab.json", "merges.txt"]] {
        let dir = folder(&names);
        let tokenizer = Tokenizer::from_dir(dir.path()).unwrap();
        assert_eq!(
            (tokenizer.vocab_size(), tokenizer.eos_id()),
            (cases.vocab_size, Some(cases.eos_id)),
            "{names:?}"
        );
        assert_eq!(tokenizer.bos_id(), Some(cases.eos_id));
        for case in &cases.cases {
            assert_eq!(tokenizer.encode(&case.text).unwrap(), case.ids, "{names:?} {:?}", case.text);
            assert_eq!(tokenizer.decode(&case.ids).unwrap(), case.text, "{names:?}");
        }
        for case in &cases.decode_only {
            assert_eq!(tokenizer.decode(&case.ids).unwrap(), case.text, "{names:?} {:?}", case.ids);
        }
        let texts: Vec<&str> = cases.cases.iter().map(|case| case.text.as_str()).collect();
        let batch = tokenizer.encode_batch(&texts).unwrap();
        assert!(batch.iter().zip(&cases.cases).all(|(ids, case)| *ids == case.ids));
    }
}

/// A text of megabytes, of which the first tokens are wanted.
#[test]
fn a_long_text_is_encoded_as_far_as_is_wanted() {
    let tokenizer = Tokenizer::from_dir(&fixture("tokenizer")).unwrap();
    let text = "the river ran to the mill. ".repeat(60_000);
    let whole = tokenizer.encode(&text).unwrap();
    let beginnings = tokenizer.encode_beginnings(&[text.as_str(), "the mill"], 64).unwrap();
    assert!(beginnings[0].len() > 64 && beginnings[0].len() < whole.len() * 2 / 3, "{}", beginnings[0].len());
    assert_eq!(beginnings[0], whole[..beginnings[0].len()]);
    assert_eq!(beginnings[1], tokenizer.encode("the mill").unwrap());
}

#[test]
fn special_text_can_be_plain() {
    let tokenizer = Tokenizer::from_dir(&fixture("tokenizer")).unwrap();
    let eos = tokenizer.eos_id().unwrap();
    let text = "the end<|endoftext|>";
    assert!(tokenizer.encode(text).unwrap().contains(&eos));
    let fingerprint = tokenizer.fingerprint().unwrap();
    let plain = tokenizer.with_special_tokens_as_text(true);
    let ids = plain.encode(text).unwrap();
    assert!(!ids.contains(&eos));
    assert_eq!(plain.decode(&ids).unwrap(), text);
    assert_ne!(plain.fingerprint().unwrap(), fingerprint);
}

#[test]
fn decoding_can_leave_out_special_and_foreign_ids() {
    let tokenizer = Tokenizer::from_dir(&fixture("tokenizer")).unwrap();
    let mut ids = tokenizer.encode("the river").unwrap();
    ids.extend([tokenizer.eos_id().unwrap(), 100_000]);
    assert_eq!(tokenizer.decode(&ids).unwrap(), "the river<|endoftext|>");
    assert_eq!(tokenizer.decode_plain(&ids).unwrap(), "the river");
}

#[test]
fn saving_and_reading_gives_the_same_tokenizer() {
    for names in [
        vec!["tokenizer.json"],
        vec!["vocab.json", "merges.txt"],
        vec!["tokenizer.json", "tokenizer_config.json"],
    ] {
        let source = folder(&names);
        let tokenizer = Tokenizer::from_dir(source.path()).unwrap();
        let saved = tempfile::tempdir().unwrap();
        tokenizer.save(saved.path()).unwrap();
        for name in &names {
            assert_eq!(
                fs::read(saved.path().join(name)).unwrap(),
                fs::read(source.path().join(name)).unwrap()
            );
        }
        let all = [
            "tokenizer.json",
            "vocab.json",
            "merges.txt",
            "tokenizer_config.json",
            "special_tokens_map.json",
        ];
        assert!(all.iter().all(|name| saved.path().join(name).is_file()), "{names:?}");
        let again = Tokenizer::from_dir(saved.path()).unwrap();
        assert_eq!(again.fingerprint().unwrap(), tokenizer.fingerprint().unwrap(), "{names:?}");
        // The other pair of files describes the same tokenizer.
        fs::remove_file(saved.path().join("tokenizer.json")).unwrap();
        let other = Tokenizer::from_dir(saved.path()).unwrap();
        assert!(cases().cases.iter().all(|case| other.encode(&case.text).unwrap() == case.ids), "{names:?}");
        assert_eq!(other.eos_id(), tokenizer.eos_id());
    }
}

#[test]
fn eos_comes_from_the_nearest_file_that_names_it() {
    let dir = folder(&["tokenizer.json"]);
    let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
    let eos = || Tokenizer::from_dir(dir.path()).unwrap().eos_id();
    let id = |token: &str| Tokenizer::from_dir(dir.path()).unwrap().token_id(token);
    write("config.json", r#"{"eos_token_id": 5, "bos_token_id": 50256}"#);
    let tokenizer = Tokenizer::from_dir(dir.path()).unwrap();
    assert_eq!((tokenizer.eos_id(), tokenizer.bos_id()), (Some(5), Some(376)));
    // Of several, the first that the vocabulary has; generation_config.json comes first.
    write("config.json", r#"{"eos_token_id": [50256, 6, 5]}"#);
    assert_eq!(eos(), Some(6));
    write("generation_config.json", r#"{"eos_token_id": [7, 6]}"#);
    assert_eq!(eos(), Some(7));
    write("tokenizer_config.json", r#"{"eos_token": "b"}"#);
    assert_eq!(eos(), id("b"));
    // special_tokens_map.json overrules, as in transformers, unless there is an added_tokens_decoder.
    write("special_tokens_map.json", r#"{"eos_token": {"content": "a"}}"#);
    assert_eq!(eos(), id("a"));
    write("tokenizer_config.json", r#"{"eos_token": "b", "added_tokens_decoder": {}}"#);
    assert_eq!(eos(), id("b"));
    write("tokenizer_config.json", r#"{"eos_token": "</nowhere>", "added_tokens_decoder": {}}"#);
    assert_eq!(eos(), Some(377), "a token that the vocabulary lacks is added");
    write("generation_config.json", r#"{"eos_token_id": "x"}"#);
    assert!(error_of(dir.path()).contains("generation_config.json"));
}

#[test]
fn every_end_of_a_text_ends_a_sample() {
    let dir = folder(&["tokenizer.json", "tokenizer_config.json"]);
    let tokenizer = Tokenizer::from_dir(dir.path()).unwrap();
    let stop = || mixce_lm::stop_ids(dir.path(), &tokenizer, 377).unwrap();
    assert_eq!(stop(), [376]);
    fs::write(dir.path().join("config.json"), r#"{"eos_token_id": [4, 376, 50256]}"#).unwrap();
    assert_eq!(stop(), [376, 4]);
    fs::write(dir.path().join("generation_config.json"), r#"{"eos_token_id": 9}"#).unwrap();
    assert_eq!(stop(), [376, 9]);
}

#[test]
fn what_is_done_otherwise_than_the_files_ask_is_noted() {
    let notes = |files: &[(&str, &str)]| {
        let dir = folder(&["vocab.json", "merges.txt"]);
        files.iter().for_each(|(name, text)| fs::write(dir.path().join(name), text).unwrap());
        Tokenizer::from_dir(dir.path()).unwrap().notes().to_vec()
    };
    let config = "tokenizer_config.json";
    assert_eq!(notes(&[]), [""; 0]);
    for (text, note) in [
        (r#"{"add_eos_token": true}"#, "`add_eos_token` of tokenizer_config.json is not applied"),
        (r#"{"add_bos_token": true}"#, "texts begin with BOS, `<|endoftext|>`"),
        (
            r#"{"clean_up_tokenization_spaces": true}"#,
            "`clean_up_tokenization_spaces` of tokenizer_config.json is not applied",
        ),
        (r#"{"tokenizer_class": "CodeGenTokenizer"}"#, "tokenizer class `CodeGenTokenizer` is not known"),
        (
            r#"{"added_tokens_decoder": {"900": {"content": "[PAD]"}}}"#,
            "token `[PAD]` should have id 900 and gets 377, as in transformers",
        ),
    ] {
        let notes = notes(&[(config, text)]);
        assert!(notes.len() == 1 && notes[0].starts_with(note), "{notes:?}");
    }
    let map = r#"{"pad_token": "[PAD]"}"#;
    let ignored = notes(&[(config, r#"{"added_tokens_decoder": {}}"#), ("special_tokens_map.json", map)]);
    assert!(ignored.len() == 1 && ignored[0].starts_with("`pad_token` = `[PAD]` of special_tokens_map.json"));
}

/// A template that begins with BOS, as Llama 3's; `tokenizer_config.json` overrules it.
#[test]
fn the_files_say_whether_texts_begin_with_bos() {
    let opening = |template: bool, config: &str| {
        let dir = folder(&[]);
        let mut json: serde_json::Value =
            serde_json::from_slice(&fs::read(fixture("tokenizer/tokenizer.json")).unwrap()).unwrap();
        if template {
            json["post_processor"] = serde_json::json!({"type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                "special_tokens": {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [376], "tokens": ["<|endoftext|>"]}}});
        }
        fs::write(dir.path().join("tokenizer.json"), json.to_string()).unwrap();
        fs::write(dir.path().join("tokenizer_config.json"), config).unwrap();
        let tokenizer = Tokenizer::from_dir(dir.path()).unwrap();
        assert_eq!(tokenizer.encode("a").unwrap().len(), 1, "encoding itself adds nothing");
        assert_eq!(tokenizer.opening().is_some(), tokenizer.notes().iter().any(|note| note.contains("BOS")));
        tokenizer.opening()
    };
    let class = |more: &str| {
        format!(r#"{{"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|endoftext|>"{more}}}"#)
    };
    assert_eq!(opening(false, &class("")), None);
    assert_eq!(opening(true, &class("")), Some(376));
    assert_eq!(opening(true, &class(r#", "add_bos_token": false"#)), None);
    assert_eq!(opening(false, &class(r#", "add_bos_token": true"#)), Some(376));
    // Either key replaces the template.
    assert_eq!(opening(true, &class(r#", "add_eos_token": false"#)), None);
    // What the template begins with is BOS only if it is called so.
    assert_eq!(opening(true, r#"{"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "a"}"#), None);
}

#[test]
fn a_token_that_nobody_names_is_noted() {
    let dir = folder(&["merges.txt"]);
    let text = fs::read_to_string(fixture("tokenizer/vocab.json")).unwrap();
    let mut vocab: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&text).unwrap();
    vocab.remove("<|endoftext|>");
    fs::write(dir.path().join("vocab.json"), serde_json::Value::from(vocab).to_string()).unwrap();
    let tokenizer = Tokenizer::from_dir(dir.path()).unwrap();
    assert_eq!(tokenizer.vocab_size(), 377);
    assert_eq!(
        tokenizer.notes(),
        [
            "no file names `<|endoftext|>`, which the vocabulary lacks: it is added, as in transformers' GPT2Tokenizer"
        ]
    );
    // ruGPT-3: another token is named, and none is added.
    let map = r#"{"bos_token": "a", "eos_token": "b", "unk_token": "c"}"#;
    fs::write(dir.path().join("special_tokens_map.json"), map).unwrap();
    let tokenizer = Tokenizer::from_dir(dir.path()).unwrap();
    assert_eq!((tokenizer.vocab_size(), tokenizer.eos_id()), (376, tokenizer.token_id("b")));
    assert_eq!(tokenizer.notes(), [""; 0]);
}

#[test]
fn a_prefix_space_is_added_when_the_config_says_so() {
    for name in [vec!["tokenizer.json"], vec!["vocab.json", "merges.txt"]] {
        let dir = folder(&name);
        let write = |class: &str, space: bool| {
            let text = format!(r#"{{"tokenizer_class": "{class}", "add_prefix_space": {space}}}"#);
            fs::write(dir.path().join("tokenizer_config.json"), text).unwrap();
            Tokenizer::from_dir(dir.path()).unwrap()
        };
        let (plain, spaced) = (write("GPT2Tokenizer", false), write("GPT2Tokenizer", true));
        assert_eq!(spaced.encode("river").unwrap(), plain.encode(" river").unwrap());
        assert_ne!(spaced.fingerprint().unwrap(), plain.fingerprint().unwrap());
    }
    // A generic tokenizer is what its tokenizer.json says.
    let dir = folder(&["tokenizer.json"]);
    let text = r#"{"tokenizer_class": "PreTrainedTokenizerFast", "add_prefix_space": true}"#;
    fs::write(dir.path().join("tokenizer_config.json"), text).unwrap();
    let tokenizer = Tokenizer::from_dir(dir.path()).unwrap();
    assert_ne!(tokenizer.encode("river").unwrap(), tokenizer.encode(" river").unwrap());
    assert!(tokenizer.notes()[0].starts_with("`add_prefix_space` of tokenizer_config.json is not applied"));
}

#[test]
fn stored_truncation_and_padding_are_ignored() {
    let dir = folder(&["tokenizer.json"]);
    let path = dir.path().join("tokenizer.json");
    let mut json: serde_json::Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    json["truncation"] =
        serde_json::json!({"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0});
    fs::write(&path, json.to_string()).unwrap();
    let tokenizer = Tokenizer::from_dir(dir.path()).unwrap();
    assert!(tokenizer.encode("the miller's daughter").unwrap().len() > 2);
}

const STORY: &str = "the river ran to the mill and the miller ran to the river";

#[test]
fn a_tokenizer_can_be_learnt() {
    let tokenizer = Tokenizer::train([STORY, "the mill stood still"], 280).unwrap();
    assert_eq!(tokenizer.vocab_size(), 280);
    assert_eq!(tokenizer.eos_id(), Some(279));
    let ids = tokenizer.encode(STORY).unwrap();
    assert!(ids.len() < STORY.len() * 2 / 3, "{ids:?}");
    assert_eq!(tokenizer.decode(&ids).unwrap(), STORY);
    let again = Tokenizer::train([STORY, "the mill stood still"], 280).unwrap();
    assert_eq!(again.fingerprint().unwrap(), tokenizer.fingerprint().unwrap());
    let dir = tempfile::tempdir().unwrap();
    tokenizer.save(dir.path()).unwrap();
    let read = Tokenizer::from_dir(dir.path()).unwrap();
    assert_eq!(read.encode(STORY).unwrap(), ids);
    assert_eq!((read.vocab_size(), read.eos_id()), (280, Some(279)));
}

#[test]
fn a_vocabulary_in_memory_is_checked() {
    let tokens = ["a", "b", "ab"].map(str::to_owned);
    let tokenizer = Tokenizer::from_vocab(&tokens, &[("a".to_owned(), "b".to_owned())]).unwrap();
    assert_eq!(tokenizer.encode("abba").unwrap(), [2, 1, 0]);
    assert_eq!(tokenizer.eos_id(), Some(3));
    assert!(Tokenizer::from_vocab(&tokens, &[("b".to_owned(), "b".to_owned())]).is_err());
    assert!(Tokenizer::from_vocab(&["a", "a"].map(str::to_owned), &[]).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_survives_the_round_trip(text in any::<String>()) {
        let tokenizer = Tokenizer::from_dir(&fixture("tokenizer")).unwrap();
        let ids = tokenizer.encode(&text).unwrap();
        prop_assert!(ids.iter().all(|&id| (id as usize) < tokenizer.vocab_size()));
        prop_assert_eq!(tokenizer.decode(&ids).unwrap(), text);
    }

    #[test]
    fn damaged_tokenizers_never_panic(damage in prop::collection::vec((any::<usize>(), any::<u8>()), 1..4)) {
        let dir = folder(&["tokenizer.json"]);
        let path = dir.path().join("tokenizer.json");
        let mut bytes = fs::read(&path).unwrap();
        for (at, value) in damage {
            let at = at % bytes.len();
            bytes[at] = value;
        }
        fs::write(&path, bytes).unwrap();
        if let Ok(tokenizer) = Tokenizer::from_dir(dir.path()) {
            let _ = tokenizer.encode("the river ran");
        }
    }
}
