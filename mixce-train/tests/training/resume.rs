//! A run that was stopped and continued is the run that was never stopped (transformers#17032), and nothing is lost on the way
//! (transformers#35033, #15089).
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use candle_core::Tensor;
use mixce_gpt2::Gpt2Config;
use mixce_llama::LlamaConfig;
use mixce_train::checkpoint;
use mixce_train::config::{Every, TrainConfig};
use mixce_train::observer::StepReport;
use mixce_train::trainer::{End, TrainOutcome};
use mixce_train::{Error, Result};

use crate::common::{Recorder, Setup, documents, largest_difference, settings, tensors, tiny_config};

/// The size of the other tests' GPT-2, with the options of a Llama: shared heads of keys and values, norms of heads, a window in the second layer.
pub(crate) fn tiny_llama() -> LlamaConfig {
    let json = r#"{"model_type":"qwen3","vocab_size":23,"max_position_embeddings":12,"hidden_size":16,"intermediate_size":24,
        "num_hidden_layers":2,"num_attention_heads":4,"num_key_value_heads":2,"head_dim":6,"attention_dropout":0.1,
        "use_sliding_window":true,"sliding_window":5,"max_window_layers":1,"bos_token_id":22,"eos_token_id":22}"#;
    LlamaConfig::from_json(json).unwrap()
}

fn config() -> TrainConfig {
    TrainConfig {
        eval_every: Every::Steps(3),
        save_every: Every::Steps(2),
        weight_decay: 0.01,
        clip_grad_norm: 1.0,
        warmup_steps: 2,
        ..settings()
    }
}

fn setup() -> Setup {
    Setup::new(&documents(20, 1), Some(&documents(8, 2)))
}

fn go(
    setup: &Setup,
    name: &str,
    config: &TrainConfig,
    stop_after: Option<u64>,
) -> (Recorder, Result<TrainOutcome>) {
    let mut recorder = Recorder { stop_after, ..Recorder::default() };
    let outcome = setup.train(name, config, &mut recorder);
    (recorder, outcome)
}

fn auto() -> TrainConfig {
    TrainConfig { resume: Some("auto".into()), ..config() }
}

fn weights(folder: &Path) -> HashMap<String, Tensor> {
    tensors(&folder.join("model.safetensors"))
}

/// Reports without the one number that is a matter of time.
fn timeless(reports: &[StepReport]) -> Vec<StepReport> {
    reports.iter().map(|r| StepReport { tokens_per_s: 0.0, ..r.clone() }).collect()
}

/// Lines of `metrics.jsonl` without times.
fn metrics(path: &Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(path.join("metrics.jsonl")).unwrap();
    let line = |line| {
        let mut value: serde_json::Value = serde_json::from_str(line).unwrap();
        value.as_object_mut().unwrap().remove("tokens_per_s");
        value
    };
    text.lines().map(line).collect()
}

#[test]
fn a_continued_run_is_bit_for_bit_the_unbroken_one() {
    assert_continued(&setup());
}

#[test]
fn a_llamas_continued_run_too() {
    assert_continued(&Setup::of(Arc::new(tiny_llama()), &documents(20, 1), Some(&documents(8, 2))));
}

fn assert_continued(setup: &Setup) {
    let (unbroken, outcome) = go(setup, "unbroken", &config(), None);
    let unbroken_outcome = outcome.unwrap();
    assert_eq!(unbroken_outcome.end, End::Finished);
    assert_eq!(unbroken.steps.len(), 8);
    // After 3 an evaluation is due and is cut short; 4 ends the epoch; 5 lies between everything.
    for stop_after in [1, 3, 4, 5] {
        let name = format!("broken-{stop_after}");
        let (first, outcome) = go(setup, &name, &config(), Some(stop_after));
        let outcome = outcome.unwrap();
        assert_eq!((outcome.end, outcome.steps), (End::Interrupted, stop_after), "{name}");
        assert!(outcome.final_model.is_none() && !first.done);
        let (second, outcome) = go(setup, &name, &auto(), None);
        let outcome = outcome.unwrap();
        assert_eq!(outcome.end, End::Finished);
        let both: Vec<StepReport> = first.steps.iter().chain(&second.steps).cloned().collect();
        assert_eq!(timeless(&both), timeless(&unbroken.steps), "{name}");
        let evaluations: Vec<_> = first.evaluations.iter().chain(&second.evaluations).cloned().collect();
        assert_eq!(evaluations, unbroken.evaluations, "{name}");
        assert_eq!(metrics(&setup.path(&name)), metrics(&setup.path("unbroken")), "{name}");
        let (a, b) = (outcome.best.unwrap(), unbroken_outcome.best.clone().unwrap());
        assert_eq!((a.step, a.valid_nll), (b.step, b.valid_nll));
        for model in ["final", "best"] {
            let (a, b) = (setup.path(&name).join(model), setup.path("unbroken").join(model));
            assert_eq!(largest_difference(&weights(&a), &weights(&b)), 0.0, "{name}/{model}");
        }
    }
}

/// The process dies (no checkpoint on the way out) after step 5, with checkpoints at 2 and 4 and log lines up to 5.
#[test]
fn a_killed_run_goes_on_from_its_last_checkpoint() {
    let setup = setup();
    go(&setup, "unbroken", &config(), None).1.unwrap();
    go(&setup, "killed", &config(), Some(5)).1.unwrap();
    let checkpoints = setup.path("killed").join("checkpoints");
    std::fs::remove_dir_all(checkpoints.join(checkpoint::folder_name(5))).unwrap();
    std::fs::create_dir(checkpoints.join(checkpoint::folder_name(6))).unwrap();
    let (recorder, outcome) = go(&setup, "killed", &auto(), None);
    outcome.unwrap();
    assert_eq!(recorder.steps[0].step, 5);
    assert_eq!(metrics(&setup.path("killed")), metrics(&setup.path("unbroken")));
    let (a, b) =
        (weights(&setup.path("killed").join("final")), weights(&setup.path("unbroken").join("final")));
    assert_eq!(largest_difference(&a, &b), 0.0);
}

#[test]
fn rotation_keeps_the_newest_and_never_touches_the_best() {
    let setup = setup();
    // A rate so high that the first evaluation stays the best.
    let config = TrainConfig {
        lr: 2.0,
        scheduler: mixce_train::optim::ScheduleKind::Constant,
        warmup_steps: 0,
        eval_every: Every::Steps(1),
        save_every: Every::Steps(1),
        keep_last: 2,
        ..config()
    };
    let (recorder, outcome) = go(&setup, "run", &config, None);
    let best = outcome.unwrap().best.unwrap();
    assert_eq!(recorder.checkpoints, (1..=8).collect::<Vec<_>>());
    let left = checkpoint::complete(&setup.path("run").join("checkpoints")).unwrap();
    assert_eq!(left.iter().map(|(step, _)| *step).collect::<Vec<_>>(), [7, 8]);
    assert!(best.step < 7, "the test wants a best model older than the checkpoints kept, got {}", best.step);
    let loaded =
        mixce_lm::checkpoint::load(&best.path, &[&mixce_gpt2::FAMILY], &candle_core::Device::Cpu).unwrap();
    assert_eq!(loaded.config.spec().layers, 2);
}

#[test]
fn a_finished_run_can_be_extended_but_not_changed() {
    let setup = setup();
    go(&setup, "run", &config(), None).1.unwrap();
    let changed = TrainConfig { lr: 1e-3, ..auto() };
    let error = go(&setup, "run", &changed, None).1.unwrap_err();
    assert!(matches!(error, Error::ResumeMismatch { .. }) && error.to_string().contains("`lr`"), "{error}");
    let longer = TrainConfig { epochs: 3, ..auto() };
    let (recorder, outcome) = go(&setup, "run", &longer, None);
    assert_eq!(outcome.unwrap().steps, 12);
    assert_eq!(recorder.steps[0].step, 9);
}

#[test]
fn auto_without_a_checkpoint_starts_and_a_path_without_one_is_an_error() {
    let setup = setup();
    let (recorder, outcome) = go(&setup, "new", &auto(), None);
    outcome.unwrap();
    assert_eq!(recorder.steps[0].step, 1);
    let nowhere = setup.path("nowhere").display().to_string();
    let config = TrainConfig { resume: Some(nowhere), ..config() };
    let error = go(&setup, "other", &config, None).1.unwrap_err();
    assert!(matches!(error, Error::NoCheckpoint { .. }), "{error}");
}

#[test]
fn a_checkpoint_is_a_model_folder_too() {
    let setup = setup();
    let outcome = go(&setup, "run", &config(), None).1.unwrap();
    let loaded = mixce_lm::checkpoint::load(
        &outcome.checkpoint.unwrap(),
        &[&mixce_gpt2::FAMILY],
        &candle_core::Device::Cpu,
    )
    .unwrap();
    let weights = weights(&outcome.final_model.unwrap());
    for (name, tensor) in loaded.parameters.iter() {
        assert_eq!(crate::common::values(tensor), crate::common::values(&weights[name]), "{name}");
    }
}

fn steps_kept(setup: &Setup, name: &str) -> Vec<u64> {
    let kept = checkpoint::complete(&setup.path(name).join("checkpoints")).unwrap();
    kept.into_iter().map(|(step, _)| step).collect()
}

fn from_step(setup: &Setup, name: &str, step: u64, config: TrainConfig) -> TrainConfig {
    let path = setup.path(name).join("checkpoints").join(checkpoint::folder_name(step));
    TrainConfig { resume: Some(path.display().to_string()), ..config }
}

/// Rotation keeps the highest steps: it must not find those of the branch that was left.
#[test]
fn going_on_from_an_older_checkpoint_leaves_the_old_branch() {
    let setup = setup();
    let all = TrainConfig { keep_last: 9, ..config() };
    go(&setup, "run", &all, None).1.unwrap();
    assert_eq!(steps_kept(&setup, "run"), [2, 4, 6, 8]);
    let (recorder, outcome) = go(&setup, "run", &from_step(&setup, "run", 2, config()), Some(5));
    let outcome = outcome.unwrap();
    assert_eq!(recorder.checkpoints, [4, 5]);
    let newest = outcome.checkpoint.unwrap();
    assert!(newest.ends_with(checkpoint::folder_name(5)) && newest.is_dir());
    assert_eq!(steps_kept(&setup, "run"), [4, 5]);
    let (recorder, outcome) = go(&setup, "run", &auto(), None);
    outcome.unwrap();
    assert_eq!(recorder.steps[0].step, 6);
}

/// `best` of a step after the checkpoint is not the model that the checkpoint's state names.
#[test]
fn the_best_model_is_the_one_that_the_state_names() {
    let setup = setup();
    let all = TrainConfig { keep_last: 9, eval_every: Every::Steps(2), ..config() };
    let chosen = |setup: &Setup| -> serde_json::Value {
        serde_json::from_slice(&std::fs::read(setup.path("run").join("best/selection.json")).unwrap())
            .unwrap()
    };
    let best = go(&setup, "run", &all, None).1.unwrap().best.unwrap();
    assert!(best.step > 4, "the test wants a run that improves after step 4, got {}", best.step);
    assert_eq!(
        (chosen(&setup)["step"].as_u64(), chosen(&setup)["valid_nll"].as_f64()),
        (Some(best.step), Some(best.valid_nll))
    );
    // The checkpoint of step 4 names the model of step 4 at the latest; the folder holds a later one.
    let (recorder, outcome) = go(&setup, "run", &from_step(&setup, "run", 4, all.clone()), Some(5));
    assert_eq!(outcome.unwrap().best, None);
    assert!(recorder.evaluations.is_empty());
    let best =
        go(&setup, "run", &TrainConfig { resume: Some("auto".into()), ..all }, None).1.unwrap().best.unwrap();
    assert_eq!(chosen(&setup)["step"].as_u64(), Some(best.step));
}

#[test]
fn other_development_data_choose_the_best_model_anew() {
    let mut setup = setup();
    let first = go(&setup, "run", &config(), None).1.unwrap().best.unwrap();
    setup.valid = Some(crate::common::examples(&documents(8, 77)));
    let (recorder, outcome) = go(&setup, "run", &auto(), None);
    let best = outcome.unwrap().best.unwrap();
    assert_eq!(recorder.evaluations.len(), 1);
    assert_eq!(best.step, 8);
    assert!(best.valid_nll != first.valid_nll);
}

/// Numbers that no tensor's shape shows.
#[test]
fn another_architecture_is_refused() {
    let mut setup = setup();
    go(&setup, "run", &config(), Some(2)).1.unwrap();
    let other = Gpt2Config { n_head: 4, layer_norm_epsilon: 0.5, ..tiny_config() };
    setup.model = Arc::new(other);
    let error = go(&setup, "run", &auto(), None).1.unwrap_err().to_string();
    assert!(
        error.contains("`n_head` was 2 and is 4 now") && error.contains("`layer_norm_epsilon`"),
        "{error}"
    );
}

#[test]
fn another_window_is_refused() {
    let mut setup = Setup::of(Arc::new(tiny_llama()), &documents(20, 1), Some(&documents(8, 2)));
    go(&setup, "run", &config(), Some(2)).1.unwrap();
    setup.model = Arc::new(LlamaConfig { sliding_window: Some(3), ..tiny_llama() });
    let error = go(&setup, "run", &auto(), None).1.unwrap_err().to_string();
    assert!(error.contains("`sliding_window` was 5 and is 3 now"), "{error}");
}

/// The norms that decide which steps are skipped are part of the checkpoint.
#[test]
fn the_same_steps_are_skipped_after_a_break() {
    let setup = setup();
    let with_rule = |factor| TrainConfig { skip_outlier_steps: factor, epochs: 6, ..config() };
    let (unbroken, outcome) = go(&setup, "unbroken", &with_rule(Some(1.2)), None);
    outcome.unwrap();
    let skipped = |steps: &[StepReport]| -> Vec<u64> {
        steps.iter().filter(|step| step.skipped).map(|step| step.step).collect()
    };
    let all = skipped(&unbroken.steps);
    assert!(all.iter().any(|step| *step <= 12) && all.iter().any(|step| *step > 12), "{all:?}");
    go(&setup, "broken", &with_rule(Some(1.2)), Some(12)).1.unwrap();
    let resumed = TrainConfig { resume: Some("auto".into()), ..with_rule(Some(1.2)) };
    let (rest, outcome) = go(&setup, "broken", &resumed, None);
    outcome.unwrap();
    assert_eq!(skipped(&rest.steps), all.iter().copied().filter(|step| *step > 12).collect::<Vec<_>>());
    let (a, b) =
        (weights(&setup.path("broken").join("final")), weights(&setup.path("unbroken").join("final")));
    assert_eq!(largest_difference(&a, &b), 0.0);
    assert_eq!(metrics(&setup.path("broken")), metrics(&setup.path("unbroken")));
    // A skipped step leaves the parameters as they were, so the run differs from one without the rule.
    go(&setup, "plain", &with_rule(None), None).1.unwrap();
    assert!(largest_difference(&a, &weights(&setup.path("plain").join("final"))) > 0.0);
}
