//! Embeddings against transformers: a tiny random BERT always, a real encoder where there is one.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use mixce_base::Hint as _;
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::Device;
use mixce_encoder::{Pooling, SentenceEncoder};
use serde_json::Value;

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/encoder")
}

fn json(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

fn texts(expected: &Value) -> Vec<String> {
    serde_json::from_value(expected["texts"].clone()).unwrap()
}

/// The largest difference of any number.
fn difference(got: &[f32], want: &Value) -> f32 {
    let want: Vec<Vec<f32>> = serde_json::from_value(want.clone()).unwrap();
    let want = want.concat();
    assert_eq!(got.len(), want.len());
    got.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, |a, b| if b.is_nan() { b } else { a.max(b) })
}

/// A copy of the fixture, to be changed.
fn copy() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in ["config.json", "model.safetensors", "tokenizer_config.json", "vocab.txt"] {
        fs::copy(fixture().join(name), folder.path().join(name)).unwrap();
    }
    folder
}

fn load(folder: &Path, name: &str) -> mixce_encoder::Result<SentenceEncoder> {
    SentenceEncoder::load(folder, name, &Device::Cpu, 16)
}

#[test]
fn three_poolings_equal_transformers() {
    let expected = json(&fixture().join("expected.json"));
    let mean = copy();
    fs::create_dir(mean.path().join("1_Pooling")).unwrap();
    fs::write(mean.path().join("1_Pooling/config.json"), r#"{"pooling_mode_mean_tokens": true}"#).unwrap();
    for (folder, name, pooling, key) in [
        (fixture().as_path(), "sup-simcse", Pooling::ClsPooler, "cls-pooler"),
        (fixture().as_path(), "unsup-simcse", Pooling::Cls, "cls"),
        (mean.path(), "mini", Pooling::Mean, "mean"),
    ] {
        let encoder = load(folder, name).unwrap();
        assert_eq!((encoder.pooling(), encoder.width(), encoder.max_tokens()), (pooling, 16, 16));
        // Padding, the composition of batches and their size change nothing but rounding.
        for batch_tokens in [1, 40, 100_000] {
            let got = encoder.embed(&texts(&expected), batch_tokens).unwrap();
            let off = difference(&got, &expected["embeddings"][key]);
            assert!(off < 2e-6, "{key}, {batch_tokens} tokens: {off}");
        }
    }
}

#[test]
fn prefixes_and_old_names_are_the_same_model() {
    let expected = json(&fixture().join("expected.json"));
    let folder = copy();
    let bytes = fs::read(folder.path().join("model.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let renamed: Vec<_> = tensors
        .tensors()
        .into_iter()
        .map(|(name, view)| {
            let old = name
                .replace("LayerNorm.weight", "LayerNorm.gamma")
                .replace("LayerNorm.bias", "LayerNorm.beta");
            (format!("bert.{old}"), view)
        })
        .collect();
    fs::write(folder.path().join("model.safetensors"), safetensors::serialize(renamed, None).unwrap())
        .unwrap();
    let got = load(folder.path(), "x").unwrap().embed(&texts(&expected), 64).unwrap();
    assert!(difference(&got, &expected["embeddings"]["cls-pooler"]) < 2e-6);
}

#[test]
fn fingerprints_tell_models_and_poolings_apart() {
    let of = |folder: &Path, name: &str| load(folder, name).unwrap().fingerprint().to_owned();
    let first = of(&fixture(), "a");
    assert_eq!(first.len(), 64);
    assert_eq!(first, of(copy().path(), "b"));
    assert_ne!(first, of(&fixture(), "unsup"));
    let other = copy();
    let path = other.path().join("model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let last = bytes.len() - 2;
    bytes[last] ^= 1;
    fs::write(&path, bytes).unwrap();
    assert_ne!(first, of(other.path(), "a"));
}

#[test]
fn damaged_checkpoints_are_named() {
    let with = |file: &str, from: &str, to: &str| {
        let folder = copy();
        let path = folder.path().join(file);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{file} has no {from}");
        fs::write(path, text.replacen(from, to, 1)).unwrap();
        let error = load(folder.path(), "x").unwrap_err();
        assert!(error.hint().is_none_or(|hint| !hint.is_empty()));
        error.to_string()
    };
    for (from, to, words) in [
        ("\"model_type\": \"bert\"", "\"model_type\": \"roberta\"", "expected `bert`, got `roberta`"),
        ("\"is_decoder\": false", "\"is_decoder\": true", "is_decoder"),
        ("\"hidden_act\": \"gelu\"", "\"hidden_act\": \"swish\"", "swish"),
        ("\"num_attention_heads\": 2", "\"num_attention_heads\": 3", "expected a multiple"),
        ("\"num_attention_heads\": 2", "\"num_attention_heads\": 0", "expected a multiple"),
        ("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 99999999", "at most 1000"),
        ("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3", "do not match"),
        ("\"intermediate_size\": 24", "\"intermediate_size\": 25", "do not match"),
        ("\"hidden_size\": 16", "\"hidden_size\": 32", "pooler.dense.weight"),
        ("\"vocab_size\": 41", "\"vocab_size\": 40", "41 tokens but the model only 40"),
        ("{", "[", "not a JSON object"),
    ] {
        let told = with("config.json", from, to);
        assert!(told.contains(words), "{words}: {told}");
    }
    let told = with("vocab.txt", "[CLS]", "[C]");
    assert!(told.contains("no token `[CLS]`"), "{told}");
    let folder = copy();
    fs::write(folder.path().join("model.safetensors"), b"short").unwrap();
    assert!(load(folder.path(), "x").unwrap_err().to_string().contains("safetensors"));
    fs::remove_file(folder.path().join("vocab.txt")).unwrap();
    assert!(load(folder.path(), "x").unwrap_err().to_string().contains("no tokenizer"));
}

/// `scripts/check-encoder.sh` fetches the package, writes its embeddings by Python and runs this test.
#[test]
fn a_real_encoder_equals_its_python_output() {
    let Some(path) = std::env::var_os("MIXCE_ENCODER_EMBEDDINGS") else {
        println!("skipped: MIXCE_ENCODER_EMBEDDINGS names no file; scripts/check-encoder.sh makes one");
        return;
    };
    let expected = json(Path::new(&path));
    let folder = PathBuf::from(expected["folder"].as_str().unwrap());
    let encoder = SentenceEncoder::load(&folder, "all-MiniLM-L6-v2", &Device::Cpu, 512).unwrap();
    assert_eq!((encoder.pooling(), encoder.max_tokens()), (Pooling::Mean, 256));
    for batch_tokens in [1, 4096] {
        let got = encoder.embed(&texts(&expected), batch_tokens).unwrap();
        let off = difference(&got, &expected["embeddings"]);
        println!("largest difference at {batch_tokens} tokens a batch: {off:e}");
        assert!(off < 1e-4, "{off}");
    }
}
