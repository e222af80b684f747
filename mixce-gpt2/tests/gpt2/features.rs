//! Features of texts against transformers' hidden states (fixtures of `scripts/fixtures`).

use crate::common::fixture;
use candle_core::Device;
use mixce_gpt2::FAMILY;
use mixce_lm::{Error, ScoringOptions, checkpoint};
use serde_json::Value;

fn options(batch_tokens: usize) -> ScoringOptions {
    ScoringOptions { batch_tokens, ..ScoringOptions::default() }
}

#[test]
fn features_are_the_states_at_the_last_tokens_for_any_batch() {
    let folder = fixture("gpt2/plain");
    let loaded = checkpoint::load(&folder, &[&FAMILY], &Device::Cpu).unwrap();
    let model = loaded.config.build(loaded.parameters).unwrap();
    let batch: Value = serde_json::from_slice(&std::fs::read(folder.join("batch.json")).unwrap()).unwrap();
    let ids = |value: &Value| {
        value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect::<Vec<_>>()
    };
    let texts: Vec<Vec<u32>> = batch["documents"]
        .as_array()
        .unwrap()
        .iter()
        .map(ids)
        .map(|mut d| {
            d.pop();
            d
        })
        .collect();
    let ends: Vec<usize> = ids(&batch["offsets"])[1..].iter().map(|end| *end as usize - 1).collect();
    let expected = candle_core::safetensors::load(folder.join("expected.safetensors"), &Device::Cpu).unwrap();
    let expected: Vec<Vec<f32>> = expected["hidden"].to_vec2().unwrap();
    let texts: Vec<&[u32]> = texts.iter().map(Vec::as_slice).collect();
    for batch_tokens in [1, 20, 4096] {
        let found: Vec<Vec<f32>> =
            model.last_hidden_states(&texts, options(batch_tokens)).unwrap().to_vec2().unwrap();
        assert_eq!(found.len(), ends.len());
        for (found, end) in found.iter().zip(&ends) {
            for (got, want) in found.iter().zip(&expected[*end]) {
                assert!((got - want).abs() < 2e-5 * want.abs().max(1.0), "{got} {want}");
            }
        }
    }
    assert_eq!(model.last_hidden_states(&[], options(10)).unwrap().dims(), [0, model.spec().channels]);
    let empty = model.last_hidden_states(&[&[1], &[]], options(10));
    assert!(matches!(empty, Err(Error::EmptyText { text: 1 })));
}
