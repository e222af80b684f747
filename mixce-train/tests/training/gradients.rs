//! Logits, loss, log-likelihoods and every gradient of GPT-2 and the Llama family under MixCE against PyTorch (fixtures of
//! `scripts/fixtures`): on the CPU, and as a part of the target `cuda` on a CUDA device.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor, Var};
use mixce_core::objective::MixCe;
use mixce_core::{lm_head_backward, lm_head_loss, total_loss};
use mixce_kernels::Precision;
use mixce_lm::{Gradients, LanguageModel, PassOptions, checkpoint};
use serde::Deserialize;

const GPT2: [&str; 5] =
    ["gpt2/plain", "gpt2/inverse_layer_inner", "gpt2/untied_relu", "gpt2/gelu_exact", "gpt2/silu"];

const LLAMA: [&str; 5] =
    ["llama/llama3", "llama/llama_bias_linear", "llama/mistral_window", "llama/qwen2", "llama/qwen3"];

const ON_CUDA: bool = matches!(env!("CARGO_CRATE_NAME").as_bytes(), b"cuda");

fn device() -> Device {
    if ON_CUDA { mixce_kernels::cuda_device(0).unwrap() } else { Device::Cpu }
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures").join(name)
}

/// A model whose parameters are variables.
fn model(name: &str) -> Box<dyn LanguageModel> {
    let checkpoint =
        checkpoint::load(&folder(name), &[&mixce_gpt2::FAMILY, &mixce_llama::FAMILY], &device()).unwrap();
    let parameters = checkpoint.parameters.try_map(|_, t| Ok(Var::from_tensor(t)?.into_inner())).unwrap();
    checkpoint.config.build(parameters).unwrap()
}

#[derive(Deserialize)]
struct Batch {
    documents: Vec<Vec<u32>>,
    /// Those whose gradients are kept.
    gradient_etas: Vec<f64>,
}

fn batch(name: &str) -> Batch {
    serde_json::from_slice(&std::fs::read(folder(name).join("batch.json")).unwrap()).unwrap()
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// Fails unless every element is within `tolerance` of the reference's largest entry.
fn assert_close(name: &str, got: &Tensor, want: &Tensor, tolerance: f32) {
    assert_eq!(got.dims(), want.dims(), "{name}");
    let (got, want) = (values(got), values(want));
    let scale = want.iter().fold(0f32, |m, v| m.max(v.abs()));
    for (i, (got, want)) in got.iter().zip(&want).enumerate() {
        let error = (got - want).abs();
        assert!(error <= tolerance * scale, "{name}[{i}]: got {got}, want {want} (largest {scale})");
    }
}

fn compare(name: &str, eta: &str, want: &HashMap<String, Tensor>) -> usize {
    let (model, documents) = (model(name), batch(name).documents);
    let inputs: Vec<&[u32]> = documents.iter().map(|d| &d[..d.len() - 1]).collect();
    let targets: Vec<u32> = documents.iter().flat_map(|d| d[1..].to_vec()).collect();
    let n = targets.len();
    let targets = Tensor::from_vec(targets, n, &device()).unwrap();
    let hidden = model.hidden_states(&model.pack(&inputs).unwrap(), None).unwrap();
    let logits = hidden.matmul(&model.lm_head().t().unwrap()).unwrap();
    assert_close(name, &logits, &want["logits"], 1e-5);
    let objective = MixCe::new(eta.parse().unwrap()).unwrap();
    let out = lm_head_loss(&hidden, model.lm_head(), &targets, &objective, n as f64).unwrap();
    assert_close(name, &out.log_q, &want["log_q"], 1e-5);
    assert_close(name, &out.loss, &want[&format!("eta{eta}/loss")], 1e-5);
    let gradients = out.loss.backward().unwrap();
    // The explicit backward pass, keeping everything and computing blocks again; the second adds to the first.
    let batch = model.pack(&inputs).unwrap();
    let sums = Gradients::zeros(model.parameters()).unwrap();
    for recompute in [false, true] {
        let forward = model.forward(&batch, PassOptions { recompute, ..PassOptions::default() }).unwrap();
        let head = model.lm_head();
        let dhead = (sums.sums().get(model.spec().head).unwrap(), Precision::F32);
        let out = lm_head_backward(&forward.hidden(), head, &targets, &objective, n as f64, dhead).unwrap();
        let loss = total_loss(&values(&out.log_q), &objective) / n as f64;
        assert!((loss as f32 - values(&want[&format!("eta{eta}/loss")])[0]).abs() < 1e-5);
        forward.backward(out.dhidden, &sums).unwrap();
    }
    let mut compared = 0;
    for (parameter, tensor) in model.parameters().iter() {
        let Some(want) = want.get(&format!("eta{eta}/grad/{parameter}")) else { continue };
        // The keys' share of this bias has a gradient of exactly zero; the scale of the whole tensor covers its rounding.
        assert_close(&format!("{name} eta {eta} {parameter}"), gradients.get(tensor).unwrap(), want, 1e-4);
        let twice = (want * 2.0).unwrap();
        assert_close(&format!("sum of {parameter}"), sums.sums().get(parameter).unwrap(), &twice, 1e-4);
        compared += 1;
    }
    compared
}

fn compare_all(names: &[&str]) {
    for name in names {
        let path = folder(name).join("expected.safetensors");
        let want = candle_core::safetensors::load(path, &Device::Cpu).unwrap();
        let (parameters, kept) = (model(name).parameters().len(), batch(name).gradient_etas);
        // The objective is the same code on both; an emulated device is slow.
        let etas: &[&str] = if ON_CUDA { &["0.5"] } else { &["0", "0.1", "0.5", "1"] };
        for &eta in etas {
            let all = kept.contains(&eta.parse().unwrap());
            assert_eq!(compare(name, eta, &want), if all { parameters } else { 0 }, "{name} eta {eta}");
        }
        assert!(kept.len() >= 2, "{name}");
    }
}

#[test]
fn losses_and_every_gradient_equal_pytorch() {
    compare_all(&GPT2);
}

#[test]
fn those_of_the_llama_family_too() {
    compare_all(&LLAMA);
}
