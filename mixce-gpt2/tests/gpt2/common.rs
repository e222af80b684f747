//! Shared by the integration tests of this crate.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use mixce_gpt2::Gpt2Config;
use mixce_lm::params::Parameters;

/// A file or folder under `tests/fixtures` at the root of the workspace.
pub(crate) fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures").join(path)
}

/// A model with 13 tokens, 8 channels and 2 layers.
pub(crate) fn tiny() -> Gpt2Config {
    Gpt2Config {
        vocab_size: 13,
        n_positions: 8,
        n_embd: 8,
        n_layer: 2,
        n_head: 2,
        bos_token_id: Some(12),
        eos_token_id: Some(12),
        ..Gpt2Config::default()
    }
}

pub(crate) fn random(config: &Gpt2Config) -> Parameters {
    Parameters::random(config, 7, &Device::Cpu).unwrap()
}

pub(crate) fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// Names, shapes and values must be the same, bit for bit.
pub(crate) fn assert_same(got: &Parameters, want: &Parameters) {
    let names = |p: &Parameters| p.iter().map(|(name, _)| name.to_owned()).collect::<Vec<_>>();
    assert_eq!(names(got), names(want));
    for ((name, got), (_, want)) in got.iter().zip(want.iter()) {
        assert_eq!(got.dims(), want.dims(), "{name}");
        assert_eq!(values(got), values(want), "{name}");
    }
}

/// Writes `config.json` and `model.safetensors` by hand: names, shapes and f32 values as given.
pub(crate) fn write_model(dir: &Path, config: &Gpt2Config, tensors: &BTreeMap<String, Tensor>) {
    std::fs::write(dir.join("config.json"), config.to_json()).unwrap();
    let borrowed = tensors.iter().map(|(name, tensor)| (name.clone(), tensor)).collect();
    mixce_lm::export::write_safetensors(&dir.join("model.safetensors"), borrowed, candle_core::DType::F32)
        .unwrap();
}

/// The parameters under their published names, to be changed by a test.
pub(crate) fn named(parameters: &Parameters) -> BTreeMap<String, Tensor> {
    parameters.iter().map(|(name, tensor)| (name.to_owned(), tensor.clone())).collect()
}
