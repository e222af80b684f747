//! The Llama family: shared heads of keys and values, norms of heads, a window in the second layer or in all, dropout of attention.

use std::sync::Arc;

use mixce_llama::LlamaConfig;
use mixce_train::config::{Precision, TrainConfig};

use crate::common::{Setup, documents, largest_difference};
use crate::sampling::{assert_bf16_is_near_f32, assert_same_samples};
use crate::{assert_same, config, on_cuda, run};

const MODEL_TYPES: [&str; 4] = ["llama", "mistral", "qwen2", "qwen3"];

/// The size of the other tests' GPT-2.
fn setup(model_type: &str) -> Setup {
    let window = match model_type {
        "llama" => "",
        "mistral" => r#","sliding_window":4"#,
        _ => r#","use_sliding_window":true,"sliding_window":4,"max_window_layers":1"#,
    };
    let json = format!(
        r#"{{"model_type":"{model_type}","vocab_size":23,"max_position_embeddings":12,"hidden_size":16,"intermediate_size":24,
        "num_hidden_layers":2,"num_attention_heads":4,"num_key_value_heads":2,"head_dim":6,"attention_dropout":0.1{window}}}"#
    );
    let model = Arc::new(LlamaConfig::from_json(&json).unwrap());
    Setup::of(model, &documents(20, 1), Some(&documents(8, 2)))
}

#[test]
fn ten_steps_give_the_numbers_of_the_cpu_and_the_same_bits_twice() {
    for model_type in MODEL_TYPES {
        let make = || setup(model_type);
        let (cpu, gpu) = (run(&make(), &config()), run(&on_cuda(make()), &config()));
        assert!(gpu.0.steps.len() >= 10);
        assert_same(&gpu.0.steps, &cpu.0.steps, 1e-3);
        assert!(largest_difference(&gpu.1, &cpu.1) < 2e-3, "{model_type}");
        for (got, want) in gpu.0.evaluations.iter().zip(&cpu.0.evaluations) {
            assert!((got.valid_nll - want.valid_nll).abs() < 1e-3 * want.valid_nll, "{got:?}, {want:?}");
        }
        // Blocks that are recomputed give the same bits as blocks that are kept.
        for precision in [Precision::F32, Precision::Bf16] {
            let with = |activation_checkpointing| {
                run(&on_cuda(make()), &TrainConfig { precision, activation_checkpointing, ..config() })
            };
            let (kept, again) = (with(false), with(true));
            assert_eq!(largest_difference(&kept.1, &again.1), 0.0, "{model_type} in {precision:?}");
            let pairs = kept.0.steps.iter().zip(&cpu.0.steps);
            let losses = pairs.map(|(got, want)| (got.loss - want.loss).abs() / want.loss);
            let worst = losses.fold(0.0, f64::max);
            let rounds = precision == Precision::Bf16;
            assert!(worst < if rounds { 0.03 } else { 1e-3 }, "{model_type} in {precision:?}: {worst}");
            assert_eq!(rounds, largest_difference(&kept.1, &gpu.1) > 0.0);
        }
    }
}

#[test]
fn samples_are_those_of_the_cpu() {
    for model_type in MODEL_TYPES {
        assert_same_samples(|| setup(model_type));
        assert_bf16_is_near_f32(|| setup(model_type));
    }
}
