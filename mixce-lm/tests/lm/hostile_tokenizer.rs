//! A `tokenizer.json` from a stranger neither panics nor exhausts memory.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::fs;

use mixce_lm::Tokenizer;
use proptest::prelude::*;
use serde_json::{Value, json};

/// A small BPE with every kind of part, read as it is.
fn bpe() -> Value {
    json!({
        "version": "1.0",
        "truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0},
        "padding": {"strategy": {"Fixed": 8}, "direction": "Right", "pad_to_multiple_of": 8, "pad_id": 0, "pad_type_id": 0, "pad_token": "<s>"},
        "added_tokens": [
            {"id": 0, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": true, "normalized": false, "special": true},
            {"id": 8, "content": "ab c", "single_word": false, "lstrip": false, "rstrip": false, "normalized": true, "special": false},
        ],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "NFKC"},
            {"type": "Replace", "pattern": {"String": "B"}, "content": "b"},
            {"type": "Replace", "pattern": {"Regex": "[xy]+"}, "content": "c"},
            {"type": "Prepend", "prepend": "a"},
        ]},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"String": " "}, "behavior": "Isolated", "invert": false},
            {"type": "FixedLength", "length": 4},
            {"type": "Digits", "individual_digits": true},
        ]},
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}}},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "c"}, "content": "c"},
            {"type": "Strip", "content": "a", "start": 1, "stop": 0},
            {"type": "Fuse"},
        ]},
        "model": {"type": "BPE", "dropout": null, "unk_token": "<s>", "continuing_subword_prefix": null, "end_of_word_suffix": null,
            "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": {"<s>": 0, "a": 1, "b": 2, "c": 3, " ": 4, "ab": 5, "abc": 6, "1": 7},
            "merges": [["a", "b"], ["ab", "c"]]},
    })
}

/// The same with SentencePiece's model.
fn unigram() -> Value {
    let mut json = bpe();
    json["model"] = json!({"type": "Unigram", "unk_id": 0, "byte_fallback": false,
        "vocab": [["<s>", 0.0], ["a", -1.0], ["b", -1.5], ["c", -2.0], ["ab", -1.2], ["\u{2581}", -3.0], ["1", -4.0]]});
    json["pre_tokenizer"] =
        json!({"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": "always", "split": true});
    json["decoder"] =
        json!({"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": "always", "split": true});
    json
}

fn word_piece() -> Value {
    let mut json = bpe();
    json["model"] = json!({"type": "WordPiece", "unk_token": "<s>", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100,
        "vocab": {"<s>": 0, "a": 1, "##b": 2, "##c": 3, "1": 4}});
    json["normalizer"] = json!({"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null, "lowercase": true});
    json["pre_tokenizer"] = json!({"type": "BertPreTokenizer"});
    json["decoder"] = json!({"type": "WordPiece", "prefix": "##", "cleanup": true});
    json["post_processor"] = json!({"type": "BertProcessing", "sep": ["<s>", 0], "cls": ["<s>", 0]});
    json
}

fn read(json: &Value) -> Result<Tokenizer, String> {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("tokenizer.json"), json.to_string()).unwrap();
    Tokenizer::from_dir(dir.path()).map_err(|error| error.to_string())
}

fn with(pointer: &str, value: Value) -> Value {
    let mut json = bpe();
    *json.pointer_mut(pointer).unwrap() = value;
    json
}

#[test]
fn the_small_tokenizers_work() {
    let tokenizer = read(&bpe()).unwrap();
    assert_eq!(tokenizer.encode("bc 1").unwrap(), [6, 4, 7]);
    assert_eq!(tokenizer.encode_in_template("bc", 9).unwrap(), [0, 6]);
    assert!(!read(&unigram()).unwrap().encode("ab 1").unwrap().is_empty());
    assert_eq!(read(&word_piece()).unwrap().encode("ABC 1").unwrap(), [1, 2, 3, 4]);
}

#[test]
fn fields_that_crash_the_library_are_named() {
    let replace =
        |pattern: Value, content: &str| json!({"type": "Replace", "pattern": pattern, "content": content});
    let precompiled = |table: &str| json!({"type": "Precompiled", "precompiled_charsmap": table});
    let bomb: Vec<Value> = (0..31).map(|_| replace(json!({"String": "a"}), "aa")).collect();
    let nested = json!({"type": "Sequence", "normalizers": [{"type": "Sequence", "normalizers": [precompiled("AAAA")]}]});
    let sequence = |steps: Vec<Value>| json!({"type": "Sequence", "normalizers": steps});
    for (pointer, value, problem) in [
        ("/normalizer", precompiled("AAAA"), "`normalizer.precompiled_charsmap` is damaged"),
        ("/normalizer", precompiled("/////wAA"), "its trie is longer than the table"),
        ("/normalizer", nested, "`normalizer.normalizers[0].normalizers[0].precompiled_charsmap`"),
        ("/normalizer", replace(json!({"String": ""}), "x"), "`normalizer.pattern` is empty"),
        ("/normalizer", sequence(bomb), "`added_tokens`: the normalizer makes more than"),
        ("/normalizer", sequence(vec![json!({"type": "NFC"}); 65]), "`normalizer` has 65 steps; at most 64"),
        (
            "/pre_tokenizer/pretokenizers/0/pattern",
            json!({"String": ""}),
            "`pre_tokenizer.pretokenizers[0].pattern` is empty",
        ),
        (
            "/pre_tokenizer/pretokenizers/1/length",
            json!(0),
            "`pre_tokenizer.pretokenizers[1].length` is 0; expected 1 to 65536",
        ),
        ("/pre_tokenizer/pretokenizers/1/length", json!(1u64 << 40), "expected 1 to 65536"),
        (
            "/pre_tokenizer",
            json!({"type": "Sequence", "pretokenizers": vec![json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true}); 30]}),
            "has 30 steps `ByteLevel`",
        ),
        (
            "/post_processor/single/0/SpecialToken/id",
            json!("<none>"),
            "`single` names `<none>`, which is not in `special_tokens`",
        ),
        ("/post_processor/single/1/Sequence/id", json!("B"), "names the sequence `B`"),
        ("/post_processor/special_tokens/<s>/ids", json!(vec![0; 300]), "`single` has 300 special tokens"),
        ("/decoder/decoders/0/content", json!("c".repeat(100)), "`decoder` has 100 times the length"),
        ("/model/vocab/abc", json!(1u64 << 31), "token `abc` has the impossible id 2147483648"),
        ("/model/merges", json!(["a b", "x y"]), "needs token `x`"),
        ("/model/unk_token", json!("x".repeat(5000)), "`model.unk_token` has 5000 bytes"),
        ("/added_tokens/0/content", json!("x".repeat(5000)), "`added_tokens` has 5000 bytes in one token"),
    ] {
        let error = read(&with(pointer, value)).map(|_| ()).unwrap_err();
        assert!(error.contains("tokenizer.json") && error.contains(problem), "{pointer}: {error}");
    }
    let mut deep = unigram();
    deep["model"]["vocab"].as_array_mut().unwrap().push(json!(["x".repeat(1025), -1.0]));
    assert!(read(&deep).unwrap_err().contains("1025 bytes in one token"));
    let mut slow = word_piece();
    slow["model"]["max_input_chars_per_word"] = json!(1u64 << 31);
    assert!(read(&slow).unwrap_err().contains("`model.max_input_chars_per_word` is 2147483648"));
}

/// Of a key that occurs twice, the checks read the last occurrence; so must the library.
#[test]
fn a_key_that_occurs_twice_hides_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let good = bpe().to_string();
    let twice = good.replacen(r#""length":4"#, r#""length":0,"length":4"#, 1);
    assert_ne!(good, twice);
    fs::write(dir.path().join("tokenizer.json"), twice).unwrap();
    assert_eq!(Tokenizer::from_dir(dir.path()).unwrap().encode("bc 1").unwrap(), [6, 4, 7]);
}

#[test]
fn a_bomb_in_reach_of_a_text_only_is_refused_for_that_text() {
    let doubling: Vec<Value> =
        (0..31).map(|_| json!({"type": "Replace", "pattern": {"String": "q"}, "content": "qq"})).collect();
    let tokenizer = read(&with("/normalizer", json!({"type": "Sequence", "normalizers": doubling}))).unwrap();
    assert_eq!(tokenizer.encode("abc").unwrap(), [6]);
    let error = tokenizer.encode("q").unwrap_err().to_string();
    assert!(error.contains("the normalizer makes more than 4160 bytes of the 1 bytes of a text"), "{error}");
}

/// The library's `Strip` decoder underflows on a token that it would strip to nothing.
#[test]
fn a_panic_while_decoding_is_an_error() {
    let tokenizer =
        read(&with("/decoder", json!({"type": "Strip", "content": "b", "start": 0, "stop": 5}))).unwrap();
    assert_eq!(tokenizer.decode(&[5]).unwrap(), "a");
    let error = tokenizer.decode(&[2]).unwrap_err().to_string();
    assert!(error.contains("the decoder failed unexpectedly"), "{error}");
}

#[test]
fn dropout_is_switched_off_and_noted() {
    let mut json = with("/model/dropout", json!(0.5));
    let text = "abcabcabc ".repeat(20);
    let plain = read(&bpe()).unwrap();
    let tokenizer = read(&json).unwrap();
    assert_eq!(tokenizer.encode(&text).unwrap(), plain.encode(&text).unwrap());
    let note = "`model.dropout` = 0.5 of tokenizer.json is not applied";
    assert!(tokenizer.notes().iter().any(|found| found.starts_with(note)), "{:?}", tokenizer.notes());
    json["model"]["dropout"] = json!(0.0);
    assert_eq!(read(&json).unwrap().notes(), plain.notes());
}

/// All places of a JSON value.
fn places(value: &Value, at: String, found: &mut Vec<String>) {
    found.push(at.clone());
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                places(value, format!("{at}/{}", key.replace('~', "~0").replace('/', "~1")), found);
            }
        }
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(i, value)| places(value, format!("{at}/{i}"), found))
        }
        _ => {}
    }
}

fn hostile_values() -> impl Strategy<Value = Value> {
    prop::sample::select(vec![
        Value::Null,
        json!(true),
        json!(0),
        json!(-1),
        json!(1),
        json!(1u64 << 31),
        json!(u64::MAX),
        json!(1e300),
        json!(0.5),
        json!(""),
        json!("a"),
        json!("##"),
        json!("\u{301}"),
        json!("é".repeat(100)),
        json!([]),
        json!({}),
        json!([[]]),
        json!({"type": "Sequence", "normalizers": [], "pretokenizers": []}),
        json!({"type": "Replace", "pattern": {"Regex": "a*?"}, "content": "aaaaaaaaaaaaaaaaaaaa"}),
        json!({"type": "Split", "pattern": {"Regex": ""}, "behavior": "MergedWithPrevious", "invert": true}),
        json!({"type": "Precompiled", "precompiled_charsmap": "BAAAAAAAAAA="}),
        json!({"type": "FixedLength", "length": 1u64 << 62}),
        json!({"type": "Strip", "content": "a", "start": 1u64 << 60, "stop": 1u64 << 60}),
        json!({"type": "BPEDecoder", "suffix": ""}),
        json!({"type": "ByteFallback"}),
        json!({"type": "CTC", "pad_token": "", "word_delimiter_token": "", "cleanup": true}),
        json!({"type": "RobertaProcessing", "sep": ["", 4294967295u32], "cls": ["a", 0], "trim_offsets": true, "add_prefix_space": true}),
        json!({"type": "Truncate", "length": 1u64 << 60}),
    ])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_field_makes_it_panic(
        base in 0usize..3,
        changes in prop::collection::vec((any::<prop::sample::Index>(), hostile_values()), 1..4),
        text in "[abcxyB1 \u{301}<s>é]{0,40}",
    ) {
        let mut json = [bpe, unigram, word_piece][base]();
        for (at, value) in changes {
            let mut all = Vec::new();
            places(&json, String::new(), &mut all);
            *json.pointer_mut(at.get(&all).as_str()).unwrap() = value;
        }
        if let Ok(tokenizer) = read(&json) {
            if let Ok(ids) = tokenizer.encode(&text) {
                let _ = tokenizer.decode(&ids);
            }
            let _ = tokenizer.encode_in_template(&text, 16);
            let _ = tokenizer.decode(&[0, 1, 2, 3, 4, 5, 6, 7, 8]);
        }
    }
}
