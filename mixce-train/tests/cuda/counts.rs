//! What the emulated driver counts: launches, waits and device memory of steps in a process of their own. A GPU counts nothing.

use std::sync::Arc;

use mixce_core::objective::MixCe;
use mixce_gpt2::Gpt2Config;
use mixce_kernels::Precision;
use mixce_kernels::rng::Stream;
use mixce_llama::LlamaConfig;
use mixce_lm::memory::PassShape;
use mixce_lm::params::ParameterKind;
use mixce_lm::{ModelConfig, Parameters, PassOptions};
use mixce_train::data::Microbatch;
use mixce_train::optim::AdamWConfig;
use mixce_train::plan::step_memory;
use mixce_train::trainer::TrainStep;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::common::tiny_config;

/// The steps to count.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Work {
    /// The text of `config.json`.
    config: String,
    /// Tokens of the documents of the one microbatch, which go through the model.
    lengths: Vec<usize>,
    recompute: bool,
    bf16: bool,
    steps: u64,
}

/// The variable that hands the work to the process.
pub(crate) const WORK: &str = "MIXCE_COUNTED_WORK";

/// Counts of the whole process, the making of the model included; `None` on a GPU.
fn count(work: &Work) -> Option<Value> {
    count_in_process("counts::counted_work", work)
}

/// Counts of a process that runs this ignored test with some work; `None` on a GPU.
pub(crate) fn count_in_process(test: &str, work: &impl Serialize) -> Option<Value> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("statistics.json");
    let status = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", test])
        .env(WORK, serde_json::to_string(work).unwrap())
        .env("EMULATED_CUDA_STATISTICS", &file)
        .stdout(std::process::Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
    Some(serde_json::from_slice(&std::fs::read(file).ok()?).unwrap())
}

pub(crate) fn precision(bf16: bool) -> Precision {
    if bf16 { Precision::Bf16 } else { Precision::F32 }
}

pub(crate) fn parse(config: &str) -> Arc<dyn ModelConfig> {
    match Gpt2Config::from_json(config) {
        Ok(config) => Arc::new(config),
        Err(_) => Arc::new(LlamaConfig::from_json(config).unwrap()),
    }
}

#[test]
#[ignore = "what the other tests count"]
fn counted_work() {
    let Ok(work) = std::env::var(WORK) else { return };
    let Work { config, lengths, recompute, bf16, steps } = serde_json::from_str(&work).unwrap();
    let config = &*parse(&config);
    let parameters = Parameters::random(config, 3, &mixce_kernels::cuda_device(0).unwrap()).unwrap();
    let vocabulary = config.spec().vocabulary;
    let objective = Arc::new(MixCe::new(0.5).unwrap());
    let mut step = TrainStep::new(config, parameters, objective, AdamWConfig::default(), 1.0)
        .unwrap()
        .with_options(PassOptions { recompute, precision: precision(bf16), ..PassOptions::default() });
    let document = |n: &usize| (0..=*n).map(|t| (t * t % vocabulary) as u32).collect();
    for number in 0..steps {
        let microbatch = Microbatch { examples: lengths.iter().map(document).collect() };
        step.start(&[microbatch], Stream::new(number), 1e-3, &false.into()).unwrap();
    }
}

/// Launches of a layer and outside the layers, after making sure that nothing waits; none on a GPU. Not counted are updates, sums of
/// squares and clearing. Models of two and of six layers, the tensors of a layer, and the others.
fn launches(of_layers: impl Fn(usize) -> String, tensors: (u64, u64), bf16: bool) -> Option<(u64, u64)> {
    let number = |counts: &Value, path: &str| counts.pointer(path).unwrap().as_u64().unwrap();
    // The first step also loads kernels and the like.
    let of_a_step = |layers, path: &str| {
        let work =
            Work { config: of_layers(layers), lengths: vec![3, 11, 7], recompute: false, bf16, steps: 3 };
        let (more, less) = (count(&work)?, count(&Work { steps: 2, ..work })?);
        Some(number(&more, path) - number(&less, path))
    };
    let two_layers = of_a_step(2, "/launches")?;
    assert_eq!(of_a_step(2, "/device_to_host/calls"), Some(0));
    assert_eq!(of_a_step(2, "/synchronisations"), Some(0));
    let (tensors_of_a_layer, other_tensors) = tensors;
    // Three launches for every 64 tensors.
    let of_tensors = |layers: u64| 3 * (layers * tensors_of_a_layer + other_tensors).div_ceil(64);
    let more = of_a_step(6, "/launches")? - two_layers - (of_tensors(6) - of_tensors(2));
    assert_eq!(more % 4, 0);
    let layer = more / 4;
    Some((layer, two_layers - 2 * layer - of_tensors(2)))
}

/// The LM head's three products, twice for a vocabulary that is no multiple of 8.
fn head_products(vocabulary: usize) -> u64 {
    if vocabulary.is_multiple_of(8) { 3 } else { 6 }
}

/// The table of docs/src/cuda.md: 11 outside the layers and the head's products, and the judge. Among these is what no neighbour does at either end of
/// the layers: the norm of the first and the gradient of the last one's branch. In bf16 attention draws its dropout in a launch of its own, once for
/// both passes, and adds up the gradient of its bias; the products for queries, keys and values and up into the MLP take what follows them into
/// their epilogues, and the LM head rounds the hidden states. No weight or bias is rounded but by the update.
#[test]
fn a_step_launches_little_and_waits_for_nothing() {
    let config = |n_layer| Gpt2Config { n_layer, ..tiny_config() }.to_json();
    let Some(exact) = launches(config, (12, 4), false) else { return };
    let outside = 11 + head_products(tiny_config().vocab_size) + 1;
    assert_eq!(exact, (24, outside));
    assert_eq!(launches(config, (12, 4), true), Some((24 + 1 - 1 - 2, outside + 1)));
}

/// Without dropout of the branches their gradients are copied only where they are rounded: outside of the layers by a launch of its own. Biases of
/// queries, keys and values take two launches each, in bf16 one, norms of heads two more in the backward pass.
#[test]
fn a_step_of_the_llama_family_too() {
    let cases = [("llama", 211, 9, 33, 0), ("qwen2", 216, 12, 33 + 6, 3), ("qwen3", 211, 11, 33 + 2, 0)];
    for (model_type, vocabulary, tensors_of_a_layer, of_a_layer, epilogues) in cases {
        let config = |layers| llama(model_type, (vocabulary, 16, layers, 2)).to_json();
        let outside = 10 + head_products(vocabulary) + 1;
        let tensors = (tensors_of_a_layer, 2);
        let Some(exact) = launches(config, tensors, false) else { return };
        assert_eq!(exact, (of_a_layer, outside), "{model_type}");
        assert_eq!(
            launches(config, tensors, true),
            Some((of_a_layer - epilogues, outside + 2)),
            "{model_type} in bf16"
        );
    }
}

/// To the device go ids, positions and documents of the batch at once, the targets, and the order in which the embeddings' gradients are added up,
/// of tokens and, in GPT-2, of positions; all through page-locked memory.
#[test]
fn a_step_copies_its_batch_alone() {
    let cases = [(tiny_config().to_json(), 4), (llama("llama", (211, 16, 2, 2)).to_json(), 3)];
    for (config, copies) in cases {
        let work = Work { config, lengths: vec![3, 11, 7], recompute: false, bf16: true, steps: 3 };
        let (Some(more), Some(less)) = (count(&work), count(&Work { steps: 2, ..work.clone() })) else {
            return;
        };
        let calls = |path: &str| {
            let of = |counts: &Value| counts[path]["calls"].as_u64().unwrap();
            of(&more) - of(&less)
        };
        assert_eq!((calls("host_to_device"), calls("host_to_device_from_pageable")), (copies, 0), "{work:?}");
    }
}

/// A model of tied embeddings with this vocabulary, channels, layers and heads of keys and values.
pub(crate) fn llama(
    model_type: &str,
    (vocabulary, channels, layers, kv): (usize, usize, usize, usize),
) -> LlamaConfig {
    let json = format!(
        r#"{{"model_type":"{model_type}","vocab_size":{vocabulary},"max_position_embeddings":64,"hidden_size":{channels},
        "intermediate_size":{},"num_hidden_layers":{layers},"num_attention_heads":4,"num_key_value_heads":{kv},
        "head_dim":12,"tie_word_embeddings":true}}"#,
        3 * channels
    );
    LlamaConfig::from_json(&json).unwrap()
}

/// Of products with an epilogue, for which a GPU would allocate it outside of the memory pool; the plan counts none of the libraries' memory.
const WORKSPACE_BYTES: u64 = 32 << 20;

/// The most device memory that training takes, the making of the model included, is within 10 % of the plan's.
#[test]
fn the_peak_is_the_planned_one() {
    let gpt2 = |vocab_size, n_embd, n_layer| {
        let shape = Gpt2Config { vocab_size, n_positions: 64, n_embd, n_layer, ..Gpt2Config::gpt2_small() };
        Gpt2Config { n_head: 2, ..shape }.to_json()
    };
    let llama = |model_type, sizes| llama(model_type, sizes).to_json();
    // Many layers, many tokens of the vocabulary with ragged documents, and activations that outweigh both.
    let cases = [
        ("layers", gpt2(200, 32, 6), vec![48; 4]),
        ("vocabulary", gpt2(6000, 16, 1), vec![48, 3, 31, 17]),
        ("tokens", gpt2(100, 32, 2), vec![64; 5]),
        ("layers of a Llama", llama("llama", (200, 32, 6, 1)), vec![48; 4]),
        ("vocabulary of a Qwen3", llama("qwen3", (6000, 16, 1, 2)), vec![48, 3, 31, 17]),
        ("tokens of a Mistral", llama("mistral", (100, 32, 2, 2)), vec![64; 5]),
    ];
    for (name, config, lengths) in cases {
        for (recompute, bf16) in [(false, false), (true, false), (false, true), (true, true)] {
            let (tokens, longest) = (lengths.iter().sum(), *lengths.iter().max().unwrap());
            let precision = precision(bf16);
            let shape = PassShape { tokens, longest, recompute, on_cuda: true, precision };
            let plan = step_memory(&*parse(&config), shape);
            let work = Work { config: config.clone(), lengths: lengths.clone(), recompute, bf16, steps: 1 };
            let Some(counts) = count(&work) else { return };
            let has_biases =
                parse(&config).parameter_specs().iter().any(|spec| spec.kind == ParameterKind::Bias);
            let workspace = if bf16 && has_biases { WORKSPACE_BYTES } else { 0 };
            let peak = counts["peak_memory_bytes"].as_u64().unwrap() - workspace;
            let case = format!("{name}, recompute {recompute}, {precision:?}");
            let ratio = peak as f64 / plan.peak as f64;
            println!("{case}: {peak} bytes, {ratio:.3} of the plan");
            assert!((ratio - 1.0).abs() < 0.1, "{case}: {peak} bytes, {plan:?}");
        }
    }
}
