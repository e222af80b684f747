//! Training in bf16, where a GPU also keeps what is inside a branch in bf16.

use mixce_train::config::{Precision, TrainConfig};

use crate::common::{Setup, assert_bf16_trains_as_f32, documents, largest_difference};
use crate::{config, counts, launches, on_cuda, run};

const BF16: (&str, &str) = ("MIXCE_COUNT_PRECISION", "bf16");

#[test]
fn bf16_trains_as_f32_does() {
    assert_bf16_trains_as_f32(&on_cuda(Setup::new(&documents(20, 1), None)));
}

/// Blocks that are computed again give the same bits as blocks that are kept.
#[test]
fn a_run_gives_the_same_bits_twice() {
    let with = |activation_checkpointing| {
        let setup = on_cuda(Setup::new(&documents(20, 1), None));
        run(&setup, &TrainConfig { precision: Precision::Bf16, activation_checkpointing, ..config() })
    };
    let ((kept, parameters), (again, same)) = (with(false), with(true));
    assert!(kept.steps.len() >= 10);
    assert_eq!(largest_difference(&parameters, &same), 0.0);
    assert_eq!(kept.steps.last().map(|s| s.loss), again.steps.last().map(|s| s.loss));
}

/// The table of docs/src/cuda.md: each of the six passes of a layer's three sublayers rounds its weights, and the LM head its operands.
#[test]
fn rounding_takes_few_launches() {
    let Some(launches) = launches(&[BF16]) else { return };
    assert_eq!(launches, (34 + 6, 12 + 1 + 1 + 4));
}

/// Of the 10 C numbers a token that the backward pass of a layer needs, bf16 halves 8 C. What one more layer takes beside them is the
/// same in both.
#[test]
fn what_is_kept_is_smaller() {
    let (c, many) = (crate::common::tiny_config().n_embd as u64, 60);
    let tokens: u64 = documents(many, 1).iter().map(|document| document.len() as u64 - 1).sum();
    let of_a_layer = |precision: &str| {
        let variables = [("MIXCE_COUNT_PRECISION", precision), ("MIXCE_COUNT_DOCUMENTS", &many.to_string())];
        let peak = |layers| counts(1, layers, &variables)?.pointer("/peak_memory_bytes")?.as_u64();
        Some(peak(4)? - peak(3)?)
    };
    let (Some(exact), Some(rounded)) = (of_a_layer("f32"), of_a_layer("bf16")) else { return };
    assert!(exact >= tokens * 10 * c * 4, "{exact}");
    assert_eq!(exact - rounded, tokens * 8 * c * 2);
}
