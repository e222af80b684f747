//! Loading under the names of transformers and of wrappers, and what does not fit.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::BTreeMap;

use crate::common::{assert_same, random, renamed, tiny, tiny_keys, write_model};
use candle_core::{DType, Device, Tensor};
use mixce_base::Hint as _;
use mixce_llama::{FAMILY, LlamaConfig};
use mixce_lm::checkpoint::{Checkpoint, load};
use mixce_lm::{Error, Result};

fn loaded(config: &LlamaConfig, tensors: &BTreeMap<String, Tensor>) -> Result<Checkpoint> {
    let dir = tempfile::tempdir().unwrap();
    write_model(dir.path(), config, tensors);
    load(dir.path(), &[&FAMILY], &Device::Cpu)
}

fn of_model(name: &str) -> String {
    if name == "lm_head.weight" { name.to_owned() } else { format!("model.{name}") }
}

#[test]
fn names_are_read_with_and_without_prefixes() {
    for model_type in ["llama", "mistral", "qwen2", "qwen3"] {
        let config = tiny(model_type);
        let parameters = random(&config);
        let checkpoint = loaded(&config, &renamed(&parameters, of_model)).unwrap();
        assert_same(&checkpoint.parameters, &parameters);
        assert_eq!(checkpoint.reading.prefixes, ["model"]);
        assert!(checkpoint.reading.notes().is_empty(), "transformers' own prefix is not worth a word");
        let bare = loaded(&config, &renamed(&parameters, str::to_owned)).unwrap();
        assert_same(&bare.parameters, &parameters);
        let wrapped =
            loaded(&config, &renamed(&parameters, |name| format!("module._orig_mod.{}", of_model(name))));
        let wrapped = wrapped.unwrap();
        assert_same(&wrapped.parameters, &parameters);
        assert!(wrapped.reading.notes()[0].contains("`_orig_mod.`"), "{:?}", wrapped.reading.notes());
    }
}

#[test]
fn rotary_tables_are_not_read() {
    let config = tiny("llama");
    let mut tensors = renamed(&random(&config), of_model);
    let table = Tensor::ones(2, DType::F32, &Device::Cpu).unwrap();
    for name in ["model.layers.0.self_attn.rotary_emb.inv_freq", "model.rotary_emb.inv_freq"] {
        tensors.insert(name.to_owned(), table.clone());
    }
    let checkpoint = loaded(&config, &tensors).unwrap();
    assert_same(&checkpoint.parameters, &random(&config));
    assert_eq!((checkpoint.reading.buffers, checkpoint.reading.left_out.len()), (2, 0));
}

#[test]
fn what_does_not_fit_is_listed() {
    let config = tiny("llama");
    let mut tensors = renamed(&random(&config), of_model);
    tensors.remove("model.layers.1.mlp.gate_proj.weight");
    let bias = Tensor::ones(4, DType::F32, &Device::Cpu).unwrap();
    tensors.insert("model.layers.0.self_attn.k_proj.bias".to_owned(), bias.clone());
    tensors.insert("model.norm.weight".to_owned(), bias);
    let error = loaded(&config, &tensors).unwrap_err().to_string();
    assert!(error.contains("1 missing: `layers.1.mlp.gate_proj.weight` [12, 8]"), "{error}");
    assert!(error.contains("1 unexpected: `model.layers.0.self_attn.k_proj.bias` [4]"), "{error}");
    assert!(error.contains("1 misshapen: `model.norm.weight` expected [8] got [4]"), "{error}");
}

#[test]
fn a_tied_head_may_be_stored_twice_but_not_differ() {
    let mut keys = tiny_keys("qwen2");
    keys.insert("tie_word_embeddings".to_owned(), true.into());
    let tied = LlamaConfig::try_from(keys).unwrap();
    let mut tensors = renamed(&random(&tied), of_model);
    let embedding = tensors["model.embed_tokens.weight"].clone();
    tensors.insert("lm_head.weight".to_owned(), embedding.clone());
    assert_same(&loaded(&tied, &tensors).unwrap().parameters, &random(&tied));
    tensors.insert("lm_head.weight".to_owned(), (embedding * 2.0).unwrap());
    assert!(matches!(loaded(&tied, &tensors), Err(Error::HeadNotTied { .. })));
    // The default of all four types is a head of its own.
    let untied = tiny("qwen2");
    let mut tensors = renamed(&random(&untied), of_model);
    tensors.remove("lm_head.weight");
    let error = loaded(&untied, &tensors).unwrap_err();
    assert!(error.hint().unwrap().contains("tie_word_embeddings"), "{error}");
}

/// A square `o_proj` tells nothing about its layout: it is read as it is stored.
#[test]
fn matrices_are_never_transposed() {
    let mut keys = tiny_keys("llama");
    keys.extend([("num_key_value_heads".to_owned(), 2.into()), ("intermediate_size".to_owned(), 8.into())]);
    let config = LlamaConfig::try_from(keys).unwrap();
    let checkpoint = loaded(&config, &renamed(&random(&config), of_model)).unwrap();
    assert!(!checkpoint.reading.transposed);
    assert_same(&checkpoint.parameters, &random(&config));
}
