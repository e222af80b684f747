//! Llamas from GGUF files, against transformers (`scripts/fixtures/make_gguf_fixtures.py`).

use candle_core::{DType, Device, Tensor};
use mixce_llama::FAMILY;
use mixce_lm::checkpoint::{self, WeightFormat};

use crate::common::{fixture, values};

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
    for name in ["llama3", "smollm", "mistral", "qwen2", "qwen3"] {
        let expected = fixture(&format!("gguf/{name}.safetensors"));
        let expected = candle_core::safetensors::load(expected, &Device::Cpu).unwrap();
        let loaded =
            checkpoint::load(&fixture(&format!("gguf/{name}.gguf")), &[&FAMILY], &Device::Cpu).unwrap();
        assert_eq!((loaded.format, loaded.config.unknown_keys()), (WeightFormat::Gguf, vec![]), "{name}");
        for (parameter, tensor) in loaded.parameters.iter() {
            let want = values(&expected[&format!("probes/{parameter}")]);
            assert_close(&format!("{name}: {parameter}"), &probe(tensor), &want, 1e-5);
        }
        let ids = expected["input_ids"].to_dtype(DType::U32).unwrap().to_vec1::<u32>().unwrap();
        let model = loaded.config.build(loaded.parameters).unwrap();
        let hidden = model.hidden_states(&model.pack(&[&ids]).unwrap(), None).unwrap();
        let logits = hidden.matmul(&model.lm_head().t().unwrap()).unwrap();
        assert_close(name, &values(&logits), &values(&expected["logits"]), 1e-4);
    }
}
