//! Training on CUDA: the CPU's numbers, the CPU's promises, and nothing that waits. With the feature `cuda`, on a GPU or on an
//! emulated driver.
#![cfg(feature = "cuda")]
#![expect(clippy::unwrap_used, reason = "helpers of tests")]
mod bf16;
#[path = "../training/common.rs"]
mod common;
mod counts;
#[path = "../training/gradients.rs"]
mod gradients;
mod llama;
mod loading;
#[path = "../training/pytorch_steps.rs"]
mod pytorch_steps;
mod sampling;

use std::collections::HashMap;

use candle_core::Tensor;
use mixce_lm::Parameters;
use mixce_train::Error;
use mixce_train::config::{Every, Precision, TrainConfig};
use mixce_train::observer::StepReport;

use crate::common::{Recorder, Setup, documents, largest_difference, settings, tensors};
use crate::sampling::assert_same_samples;

/// The same setup with its parameters on the GPU.
fn on_cuda(mut setup: Setup) -> Setup {
    let device = mixce_kernels::cuda_device(0).unwrap();
    setup.parameters = setup.parameters.try_map(|_, tensor| Ok(tensor.to_device(&device)?)).unwrap();
    setup
}

fn config() -> TrainConfig {
    TrainConfig { epochs: 3, weight_decay: 0.01, clip_grad_norm: 0.5, ..settings() }
}

fn assert_same(got: &[StepReport], want: &[StepReport], tolerance: f64) {
    assert_eq!(got.len(), want.len());
    for (got, want) in got.iter().zip(want) {
        let pairs = [
            (got.loss, want.loss),
            (got.nll, want.nll),
            (got.mean_weight, want.mean_weight),
            (got.grad_norm, want.grad_norm),
        ];
        for (got, want) in pairs {
            assert!((got - want).abs() <= tolerance * want.abs(), "step: {got} instead of {want}");
        }
        assert_eq!((got.step, got.tokens, got.lr), (want.step, want.tokens, want.lr));
    }
}

/// The reports of a run, and the parameters that came of it.
fn run(setup: &Setup, config: &TrainConfig) -> (Recorder, HashMap<String, Tensor>) {
    let mut recorder = Recorder::default();
    let outcome = setup.train("run", config, &mut recorder).unwrap();
    (recorder, tensors(&outcome.final_model.unwrap().join("model.safetensors")))
}

#[test]
fn ten_steps_give_the_numbers_of_the_cpu_and_the_same_bits_twice() {
    let make = || Setup::new(&documents(20, 1), Some(&documents(8, 2)));
    let (cpu, gpu) = (run(&make(), &config()), run(&on_cuda(make()), &config()));
    assert!(gpu.0.steps.len() >= 10);
    assert_same(&gpu.0.steps, &cpu.0.steps, 1e-3);
    assert!(largest_difference(&gpu.1, &cpu.1) < 2e-3);
    for (got, want) in gpu.0.evaluations.iter().zip(&cpu.0.evaluations) {
        assert!((got.valid_nll - want.valid_nll).abs() < 1e-3 * want.valid_nll, "{got:?}, {want:?}");
    }
    // Blocks that are recomputed give the same bits as blocks that are kept.
    let again = run(&on_cuda(make()), &TrainConfig { activation_checkpointing: true, ..config() });
    assert_eq!(largest_difference(&gpu.1, &again.1), 0.0);
    assert_eq!(again.0.steps.last().map(|s| s.loss), gpu.0.steps.last().map(|s| s.loss));
}

#[test]
fn a_run_goes_from_cpu_to_cuda_and_back() {
    let make = || Setup::new(&documents(20, 1), None);
    let mut whole = Recorder::default();
    make().train("run", &config(), &mut whole).unwrap();

    let mut reports = Vec::new();
    let resumed = TrainConfig { resume: Some("auto".into()), ..config() };
    let mut go = |setup: &Setup, config: &TrainConfig, stop_after| {
        let mut recorder = Recorder { stop_after, ..Recorder::default() };
        setup.train("run", config, &mut recorder).unwrap();
        reports.extend(recorder.steps);
    };
    let setup = make();
    go(&setup, &config(), Some(3));
    let setup = Setup { folder: setup.folder, ..on_cuda(make()) };
    go(&setup, &resumed, Some(7));
    let setup = Setup { folder: setup.folder, ..make() };
    go(&setup, &resumed, None);
    assert_same(&reports, &whole.steps, 1e-3);
}

#[test]
fn samples_are_those_of_the_cpu() {
    assert_same_samples(|| Setup::new(&[], None));
}

#[test]
fn a_loss_that_is_not_a_number_stops_before_the_update() {
    let mut setup = Setup::new(&documents(20, 1), None);
    let spoilt: Vec<(String, Tensor)> = setup
        .parameters
        .iter()
        .map(|(name, t)| {
            (name.to_owned(), if name == "h.1.mlp.c_fc.bias" { (t * f64::NAN).unwrap() } else { t.clone() })
        })
        .collect();
    setup.parameters = Parameters::new(&*setup.model, spoilt).unwrap();
    let error = on_cuda(setup).train("run", &settings(), &mut Recorder::default()).unwrap_err();
    assert!(matches!(error, Error::NonFiniteLoss { step: 1, microbatch: 0, .. }), "{error}");
}

/// Nobody looks at steps that are not logged: the device itself stops updating, and what failed first is reported later.
#[test]
fn a_run_that_diverges_unseen_never_writes_what_came_of_it() {
    for precision in [Precision::F32, Precision::Bf16] {
        let setup = on_cuda(Setup::new(&documents(40, 1), None));
        let config = TrainConfig {
            lr: 1e30,
            epochs: 4,
            warmup_steps: 0,
            log_every: 100,
            save_every: Every::Steps(9),
            precision,
            ..settings()
        };
        let mut recorder = Recorder::default();
        let error = setup.train("run", &config, &mut recorder).unwrap_err();
        assert!(matches!(error, Error::NonFiniteGradient { step: 2..=4, .. }), "{error}");
        assert_eq!(recorder.steps.len(), 1, "only the first step was looked at");
        assert!(recorder.checkpoints.is_empty());
    }
}
