//! Damaged files.

use std::fs;

use mixce_lm::{Error, Tokenizer};

use super::{error_of, folder};

#[test]
fn damaged_settings_are_named() {
    for (name, text, problem) in [
        ("added_tokens.json", r#"{"[PAD]": "377"}"#, "token `[PAD]` has no id"),
        (
            "tokenizer_config.json",
            r#"{"added_tokens_decoder": {"x": {"content": "a"}}}"#,
            "damaged entry `x`",
        ),
        ("tokenizer_config.json", r#"{"added_tokens_decoder": {"377": "a"}}"#, "damaged entry `377`"),
        ("tokenizer_config.json", r#"{"eos_token": 5}"#, "`eos_token` is not a token: `5`"),
        (
            "special_tokens_map.json",
            r#"{"eos_token": {"content": "a", "lstrip": 1}}"#,
            "whose `lstrip` is `1`",
        ),
        (
            "special_tokens_map.json",
            r#"{"additional_special_tokens": [null]}"#,
            "contains something that is not a token",
        ),
        ("special_tokens_map.json", "[]", "special_tokens_map.json"),
    ] {
        let dir = folder(&["vocab.json", "merges.txt"]);
        fs::write(dir.path().join(name), text).unwrap();
        let error = error_of(dir.path());
        assert!(error.contains(name) && error.contains(problem), "{error}");
    }
}

#[test]
fn damaged_files_are_named() {
    let empty = tempfile::tempdir().unwrap();
    assert!(matches!(Tokenizer::from_dir(empty.path()).unwrap_err(), Error::NoTokenizer { .. }));
    let half = folder(&["vocab.json"]);
    assert!(matches!(Tokenizer::from_dir(half.path()).unwrap_err(), Error::NoTokenizer { .. }));

    let dir = folder(&["vocab.json", "merges.txt"]);
    let merges = dir.path().join("merges.txt");
    let good = fs::read_to_string(&merges).unwrap();
    let lines = good.lines().count();
    for (extra, problem) in [
        ("qqq zzz", "merge `qqq zzz` needs token `qqq`, which is not in the vocabulary"),
        ("a b c", "expected two tokens, got `a b c`"),
        ("alone", "expected two tokens, got `alone`"),
        ("Q Q", "needs token `QQ`"),
    ] {
        fs::write(&merges, format!("{good}{extra}\n")).unwrap();
        let error = error_of(dir.path());
        assert!(error.contains(&format!("line {}: ", lines + 1)) && error.contains(problem), "{error}");
    }
    fs::write(&merges, [0xff, b' ', 0xfe]).unwrap();
    assert!(error_of(dir.path()).contains("merges.txt"));
    fs::write(&merges, &good).unwrap();
    for (vocab, problem) in [
        (r#"{"a": 0, "b": 0}"#, "tokens `a` and `b` have the same id 0"),
        (r#"{"a": -1}"#, "vocab.json"),
        (r#"{"a": 99999999999}"#, "impossible id"),
        ("[]", "vocab.json"),
        ("{", "vocab.json"),
    ] {
        fs::write(dir.path().join("vocab.json"), vocab).unwrap();
        assert!(error_of(dir.path()).contains(problem), "{vocab}: {}", error_of(dir.path()));
    }
}

#[test]
fn a_damaged_tokenizer_json_is_refused() {
    let dir = folder(&["tokenizer.json"]);
    let path = dir.path().join("tokenizer.json");
    let good: serde_json::Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    // The library panics on a merge whose result is longer than any token, and slices blindly at the prefix.
    let long = "x".repeat(500);
    for merge in [serde_json::json!([long, "a"]), serde_json::json!(["a", "b", "c"]), serde_json::json!("a")]
    {
        let mut json = good.clone();
        json["model"]["merges"].as_array_mut().unwrap().push(merge);
        fs::write(&path, json.to_string()).unwrap();
        let error = error_of(dir.path());
        assert!(error.contains("tokenizer.json") && error.contains("merge "), "{error}");
    }
    let mut json = good.clone();
    json["model"]["vocab"][&long] = serde_json::json!(400);
    json["model"]["merges"].as_array_mut().unwrap().push(serde_json::json!([long, "a"]));
    fs::write(&path, json.to_string()).unwrap();
    assert!(error_of(dir.path()).contains("not in the vocabulary"));
    let mut json = good.clone();
    json["model"]["continuing_subword_prefix"] = serde_json::json!("##longer");
    fs::write(&path, json.to_string()).unwrap();
    assert!(error_of(dir.path()).contains("lacks the prefix"));
    for text in ["", "{}", "[]", r#"{"model": {"type": "Nothing"}}"#] {
        fs::write(&path, text).unwrap();
        assert!(error_of(dir.path()).contains("tokenizer.json"), "{text}: {}", error_of(dir.path()));
    }
}
