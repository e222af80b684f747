//! Training in bf16, where a GPU also keeps what is inside a branch in bf16.

use mixce_train::config::{Precision, TrainConfig};

use crate::common::{
    Recorder, Setup, assert_bf16_scores_as_f32, assert_bf16_trains_as_f32, documents, largest_difference,
};
use crate::{config, on_cuda, run};

#[test]
fn bf16_trains_as_f32_does() {
    assert_bf16_trains_as_f32(&on_cuda(Setup::new(&documents(20, 1), None)));
}

#[test]
fn bf16_scores_as_f32_does() {
    assert_bf16_scores_as_f32(&mixce_kernels::cuda_device(0).unwrap());
}

/// Development documents are scored in the precision of training.
#[test]
fn evaluations_have_the_precision_of_training() {
    let nll = |precision| {
        let setup = on_cuda(Setup::new(&documents(6, 1), Some(&documents(8, 2))));
        // Steps so small that the model stays what it is.
        let config = TrainConfig { precision, lr: 1e-12, epochs: 1, ..config() };
        let mut recorder = Recorder::default();
        setup.train("run", &config, &mut recorder).unwrap();
        recorder.evaluations[0].valid_nll
    };
    let (exact, rounded) = (nll(Precision::F32), nll(Precision::Bf16));
    assert!(exact != rounded && (exact - rounded).abs() < 3e-3 * exact, "{exact} {rounded}");
}

/// Blocks that are recomputed give the same bits as blocks that are kept.
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
