//! Shared by the integration tests of this crate.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use mixce_llama::{FAMILY, Llama, LlamaConfig};
use mixce_lm::{Parameters, checkpoint};
use serde_json::Value;

/// The models of `tests/fixtures/llama`.
pub(crate) const CONFIGURATIONS: [&str; 5] =
    ["llama3", "llama_bias_linear", "mistral_window", "qwen2", "qwen3"];

/// A file or folder under `tests/fixtures` at the root of the workspace.
pub(crate) fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures").join(path)
}

pub(crate) fn json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// One of the models of the fixtures.
pub(crate) fn model(name: &str) -> Llama {
    let folder = fixture("llama").join(name);
    let checkpoint = checkpoint::load(&folder, &[&FAMILY], &Device::Cpu).unwrap();
    let config = LlamaConfig::from_file(&folder.join("config.json")).unwrap();
    Llama::new(config, checkpoint.parameters).unwrap()
}

pub(crate) fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// The documents of a model's batch.
pub(crate) fn documents(name: &str) -> Vec<Vec<u32>> {
    let batch = json(&fixture("llama").join(name).join("batch.json"));
    batch["documents"].as_array().unwrap().iter().map(ids).collect()
}

/// Their inputs: all but the last token.
pub(crate) fn inputs(name: &str) -> Vec<Vec<u32>> {
    documents(name).into_iter().map(|document| document[..document.len() - 1].to_vec()).collect()
}

pub(crate) fn slices(texts: &[Vec<u32>]) -> Vec<&[u32]> {
    texts.iter().map(Vec::as_slice).collect()
}

/// A model of 13 tokens, 8 channels, 2 layers, 2 heads of queries and 1 of keys and values, as a JSON object.
pub(crate) fn tiny_keys(model_type: &str) -> serde_json::Map<String, Value> {
    let keys = serde_json::json!({"model_type": model_type, "vocab_size": 13, "hidden_size": 8, "intermediate_size": 12,
        "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 4, "max_position_embeddings": 16,
        "bos_token_id": 12, "eos_token_id": 12});
    keys.as_object().unwrap().clone()
}

pub(crate) fn tiny(model_type: &str) -> LlamaConfig {
    LlamaConfig::try_from(tiny_keys(model_type)).unwrap()
}

pub(crate) fn random(config: &LlamaConfig) -> Parameters {
    Parameters::random(config, 7, &Device::Cpu).unwrap()
}

pub(crate) fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// Fails unless every element is within `tolerance` of the reference's largest entry.
pub(crate) fn assert_close(name: &str, got: &Tensor, want: &Tensor, tolerance: f32) {
    assert_eq!(got.dims(), want.dims(), "{name}");
    let (got, want) = (values(got), values(want));
    let scale = want.iter().fold(1e-3f32, |m, v| m.max(v.abs()));
    for (i, (got, want)) in got.iter().zip(&want).enumerate() {
        assert!(
            (got - want).abs() <= tolerance * scale,
            "{name}[{i}]: got {got}, want {want} (scale {scale})"
        );
    }
}

/// Names, shapes and values must be the same, bit for bit.
pub(crate) fn assert_same(got: &Parameters, want: &Parameters) {
    let names = |p: &Parameters| p.iter().map(|(name, _)| name.to_owned()).collect::<Vec<_>>();
    assert_eq!(names(got), names(want));
    for ((name, got), (_, want)) in got.iter().zip(want.iter()) {
        assert_eq!((got.dims(), values(got)), (want.dims(), values(want)), "{name}");
    }
}

/// Writes `config.json` and `model.safetensors` by hand: names, shapes and f32 values as given.
pub(crate) fn write_model(dir: &Path, config: &LlamaConfig, tensors: &BTreeMap<String, Tensor>) {
    std::fs::write(dir.join("config.json"), config.to_json()).unwrap();
    let borrowed = tensors.iter().map(|(name, tensor)| (name.clone(), tensor)).collect();
    mixce_lm::export::write_safetensors(&dir.join("model.safetensors"), borrowed, candle_core::DType::F32)
        .unwrap();
}

/// The parameters under other names, to be changed by a test.
pub(crate) fn renamed(parameters: &Parameters, rename: impl Fn(&str) -> String) -> BTreeMap<String, Tensor> {
    parameters.iter().map(|(name, tensor)| (rename(name), tensor.clone())).collect()
}
