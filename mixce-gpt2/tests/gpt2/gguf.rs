//! GPT-2 from a GGUF file, against transformers (`scripts/fixtures/make_gguf_fixtures.py`).
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use crate::common::{fixture, values};
use candle_core::{DType, Device, Tensor};
use mixce_gpt2::FAMILY;
use mixce_lm::checkpoint::{self, WeightFormat, gguf::Gguf};

/// As the fixtures' script: a vector as it is, of a matrix the sums of its rows times the cosines of the columns.
fn probe(parameter: &Tensor) -> Vec<f32> {
    let &[rows, columns] = parameter.dims() else { return values(parameter) };
    let flat = values(parameter);
    let sum = |row: usize| -> f64 {
        (0..columns).map(|i| f64::from(flat[row * columns + i]) * (i as f64).cos()).sum()
    };
    (0..rows).map(|row| sum(row) as f32).collect()
}

fn assert_close(name: &str, got: &[f32], want: &[f32], tolerance: f32) {
    assert_eq!(got.len(), want.len(), "{name}");
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        assert!((got - want).abs() <= tolerance * (1.0 + want.abs()), "{name}[{i}]: {got}, expected {want}");
    }
}

#[test]
fn parameters_and_logits_equal_transformers() {
    let expected = candle_core::safetensors::load(fixture("gguf/gpt2.safetensors"), &Device::Cpu).unwrap();
    let loaded = checkpoint::load(&fixture("gguf/gpt2.gguf"), &[&FAMILY], &Device::Cpu).unwrap();
    assert_eq!(loaded.format, WeightFormat::Gguf);
    for (name, parameter) in loaded.parameters.iter() {
        let want = values(&expected[&format!("probes/{name}")]);
        assert_close(name, &probe(parameter), &want, 1e-5);
    }
    let counts = &loaded.reading.dequantised;
    assert_eq!((counts["Q4_0"], counts["Q5_0"], counts["Q8_0"], counts.len()), (2, 2, 1, 3), "{counts:?}");
    assert!(loaded.reading.notes()[0].contains("(2 Q4_0, 2 Q5_0, 1 Q8_0)"), "{:?}", loaded.reading.notes());
    assert!(!loaded.reading.transposed);

    let ids = expected["input_ids"].to_dtype(DType::U32).unwrap().to_vec1::<u32>().unwrap();
    let model = loaded.config.build(loaded.parameters).unwrap();
    let hidden = model.hidden_states(&model.pack(&[&ids]).unwrap(), None).unwrap();
    let logits = hidden.matmul(&model.lm_head().t().unwrap()).unwrap();
    assert_close("logits", &values(&logits), &values(&expected["logits"]), 1e-4);
}

#[test]
fn the_configuration_is_that_of_the_metadata() {
    let config = checkpoint::config(&fixture("gguf/gpt2.gguf"), &[&FAMILY]).unwrap();
    let spec = config.spec();
    assert_eq!(
        (spec.vocabulary, spec.positions, spec.channels, spec.layers, spec.heads),
        (352, 64, 32, 2, 4)
    );
    assert_eq!((spec.bos, spec.eos, spec.is_tied()), (Some(1), Some(0), true));
    assert!(config.unknown_keys().is_empty(), "{:?}", config.unknown_keys());
}

#[test]
fn other_architectures_are_refused_by_name() {
    let error = checkpoint::config(&fixture("gguf/qwen2.gguf"), &[&FAMILY]).err().unwrap().to_string();
    assert!(
        error.contains("`general.architecture` = `qwen2`") && error.contains("known architectures are gpt2"),
        "{error}"
    );
}

/// The committed file with some bytes of its header replaced by as many others.
fn changed(from: &[u8], to: &[u8]) -> (tempfile::TempDir, std::path::PathBuf) {
    let mut bytes = std::fs::read(fixture("gguf/gpt2.gguf")).unwrap();
    let at = bytes.windows(from.len()).position(|window| window == from).unwrap();
    bytes[at..at + to.len()].copy_from_slice(to);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("changed.gguf");
    std::fs::write(&path, bytes).unwrap();
    (dir, path)
}

#[test]
fn tensors_and_keys_that_gpt2_does_not_have_are_refused_by_name() {
    let (_dir, path) = changed(b"blk.0.ffn_norm.weight", b"blk.0.ffn_gate.weight");
    assert!(Gguf::open(&path).is_ok());
    let error = checkpoint::load(&path, &[&FAMILY], &Device::Cpu).err().unwrap().to_string();
    assert!(error.contains("1 unexpected: `blk.0.ffn_gate.weight` [32]"), "{error}");
    let (_dir, path) = changed(b"gpt2.block_count", b"gpt2.block_COUNT");
    let error = checkpoint::config(&path, &[&FAMILY]).err().unwrap().to_string();
    assert!(error.contains("`gpt2.block_COUNT` = `2`") && error.contains("not known"), "{error}");
}
