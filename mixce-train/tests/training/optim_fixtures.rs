//! AdamW, clipping and schedules against numbers from PyTorch and transformers (`tests/fixtures/optim`, scripts/fixtures).
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use mixce_kernels::Parameter;
use mixce_train::optim::{AdamW, AdamWConfig, GradientNorms, Schedule, ScheduleKind, clip_factor};
use serde::Deserialize;
use serde::de::DeserializeOwned;

#[derive(Deserialize)]
struct Cases<T> {
    cases: Vec<T>,
}

#[expect(clippy::unwrap_used, reason = "a helper of tests")]
fn cases<T: DeserializeOwned>(name: &str) -> Vec<T> {
    let path: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/optim").join(name);
    let cases: Cases<T> = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    assert!(!cases.cases.is_empty());
    cases.cases
}

fn assert_close(what: &str, got: &[f32], want: &[f32], atol: f32, rtol: f32) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        // A NaN must fail, so the comparison is not turned around.
        assert!((g - w).abs() <= atol + rtol * w.abs(), "{what}[{i}]: got {g}, want {w}");
    }
}

#[derive(Deserialize)]
struct ScheduleCase {
    kind: ScheduleKind,
    warmup_steps: u64,
    total_steps: u64,
    steps: Vec<u64>,
    multipliers: Vec<f64>,
}

#[test]
fn schedules_are_those_of_transformers() {
    for case in cases::<ScheduleCase>("schedules.json") {
        let ScheduleCase { kind, warmup_steps, total_steps, .. } = case;
        let schedule = Schedule { kind, peak: 1.0, warmup_steps, total_steps };
        for (&step, &want) in case.steps.iter().zip(&case.multipliers) {
            let got = schedule.rate(step);
            assert!((got - want).abs() < 1e-12, "{schedule:?} at {step}: got {got}, want {want}");
        }
    }
}

#[derive(Deserialize)]
struct AdamWSettings {
    lr: f64,
    betas: [f64; 2],
    eps: f64,
    weight_decay: f64,
}

#[derive(Deserialize)]
struct AdamWCase {
    settings: AdamWSettings,
    initial: Vec<f32>,
    gradients: Vec<Vec<f32>>,
    steps: Vec<AdamWStep>,
}

#[derive(Deserialize)]
struct AdamWStep {
    parameter: Vec<f32>,
    first_moment: Vec<f32>,
    second_moment: Vec<f32>,
}

#[test]
fn adamw_is_that_of_pytorch() {
    for case in cases::<AdamWCase>("adamw.json") {
        let AdamWSettings { lr, betas: [beta1, beta2], eps, weight_decay } = case.settings;
        let config = AdamWConfig { beta1, beta2, epsilon: eps, weight_decay };
        let initial = Tensor::new(case.initial.as_slice(), &Device::Cpu).unwrap();
        let parameter = Parameter::new(&initial).unwrap();
        let mut adamw = AdamW::new([("p".into(), parameter.clone(), true)], config).unwrap();
        for (t, (gradient, want)) in case.gradients.iter().zip(&case.steps).enumerate() {
            let gradient = Tensor::new(gradient.as_slice(), &Device::Cpu).unwrap();
            adamw.step(lr, &[gradient], 1.0).unwrap();
            let state = adamw.state();
            let values = |tensor: &Tensor| tensor.to_vec1::<f32>().unwrap();
            let at = |what: &str| format!("{what} after step {}, {config:?}", t + 1);
            assert_close(&at("parameter"), &values(parameter.values()), &want.parameter, 1e-6, 1e-6);
            assert_close(&at("first moment"), &values(&state[0].1), &want.first_moment, 1e-9, 2e-6);
            assert_close(&at("second moment"), &values(&state[1].1), &want.second_moment, 1e-15, 2e-6);
        }
    }
}

#[derive(Deserialize)]
struct ClipCase {
    max_norm: f64,
    gradients: Vec<Vec<f32>>,
    norm: f64,
    clipped: Vec<Vec<f32>>,
}

#[test]
fn clipping_is_that_of_pytorch() {
    for case in cases::<ClipCase>("clip.json") {
        let gradients: Vec<Tensor> =
            case.gradients.iter().map(|g| Tensor::new(g.as_slice(), &Device::Cpu).unwrap()).collect();
        let norm = GradientNorms::of(&gradients).unwrap().global();
        assert!((norm - case.norm).abs() <= 1e-6 * case.norm, "got {norm}, want {}", case.norm);
        let factor = clip_factor(norm, case.max_norm);
        for (gradient, want) in gradients.iter().zip(&case.clipped) {
            let got = (gradient * factor).unwrap().to_vec1::<f32>().unwrap();
            assert_close("clipped", &got, want, 1e-9, 2e-6);
        }
    }
}
