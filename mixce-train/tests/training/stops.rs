//! Runs that end early, for good or bad reasons.
use candle_core::Tensor;
use mixce_base::Hint as _;
use mixce_lm::Parameters;
use mixce_train::Error;
use mixce_train::config::{Every, TrainConfig};
use mixce_train::trainer::End;

use crate::common::{Recorder, Setup, documents, examples, settings};

#[test]
fn a_loss_that_is_not_a_number_stops_before_the_update() {
    let mut setup = Setup::new(&documents(20, 1), None);
    let tensors = setup.parameters.iter().map(|(name, tensor)| {
        let spoilt = name == "h.1.mlp.c_fc.bias";
        (name.to_owned(), if spoilt { (tensor * f64::NAN).unwrap() } else { tensor.clone() })
    });
    let tensors: Vec<(String, Tensor)> = tensors.collect();
    setup.parameters = Parameters::new(&*setup.model, tensors).unwrap();
    let mut recorder = Recorder::default();
    let error = setup.train("run", &settings(), &mut recorder).unwrap_err();
    let Error::NonFiniteLoss { step: 1, microbatch: 0, documents: Some(path), .. } = &error else {
        panic!("{error:?}")
    };
    let hint = error.hint().unwrap();
    assert!(hint.contains("config.lr") && hint.contains("non-finite-step-00000001.jsonl"), "{hint}");
    assert!(recorder.steps.is_empty());
    assert!(!setup.path("run").join("final").exists());
    // The documents of the step, in two microbatches of three.
    let text = std::fs::read_to_string(path).unwrap();
    let rows: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let microbatches: Vec<_> = rows.iter().map(|row| row["microbatch"].as_u64().unwrap()).collect();
    assert_eq!(microbatches, [0, 0, 0, 1, 1, 1]);
    for row in &rows {
        let tokens: Vec<u32> = serde_json::from_value(row["tokens"].clone()).unwrap();
        assert!(documents(20, 1).contains(&tokens), "{row}");
    }
}

/// The only update overflows, and no evaluation looks at the model.
#[test]
fn a_model_that_is_not_finite_after_its_last_step_is_not_exported() {
    let setup = Setup::new(&documents(20, 1), None);
    let config = TrainConfig { lr: 1e39, max_steps: Some(1), ..settings() };
    let mut recorder = Recorder::default();
    let error = setup.train("run", &config, &mut recorder).unwrap_err();
    assert!(matches!(error, Error::NonFiniteParameter { step: 1, .. }), "{error}");
    assert!(error.to_string().contains("` at [") && error.hint().unwrap().contains("config.lr"), "{error}");
    assert_eq!((recorder.steps.len(), recorder.checkpoints.len(), recorder.done), (1, 0, false));
    for name in ["final", "checkpoints"] {
        assert!(!setup.path("run").join(name).exists(), "{name}");
    }
}

#[test]
fn a_run_that_diverges_keeps_its_last_good_checkpoint() {
    let setup = Setup::new(&documents(20, 1), None);
    let config = TrainConfig { lr: 1e30, save_every: Every::Steps(1), ..settings() };
    let mut recorder = Recorder::default();
    let error = setup.train("run", &config, &mut recorder).unwrap_err();
    let (Error::NonFiniteLoss { step, .. } | Error::NonFiniteGradient { step, .. }) = error else {
        panic!("{error}")
    };
    assert_eq!(step, recorder.steps.len() as u64 + 1);
    assert_eq!(recorder.checkpoints.last(), Some(&(step - 1)));
}

#[test]
fn patience_ends_a_run_that_no_longer_improves() {
    let setup = Setup::new(&documents(20, 1), Some(&documents(8, 2)));
    let config = TrainConfig { lr: 0.5, epochs: 50, patience: Some(2), ..settings() };
    let mut recorder = Recorder::default();
    let outcome = setup.train("run", &config, &mut recorder).unwrap();
    assert_eq!(outcome.end, End::OutOfPatience);
    let last: Vec<bool> = recorder.evaluations.iter().rev().take(2).map(|e| e.best).collect();
    assert_eq!(last, [false, false]);
    assert!(outcome.steps < 200 && outcome.final_model.unwrap().is_dir());
    let best = outcome.best.unwrap();
    let lowest = recorder.evaluations.iter().map(|e| e.valid_nll).fold(f64::INFINITY, f64::min);
    assert_eq!(best.valid_nll, lowest);
}

#[test]
fn ids_outside_the_vocabulary_are_refused_before_anything_is_written() {
    let mut setup = Setup::new(&[], None);
    setup.train = examples(&[vec![1, 2, 3], vec![4, 23]]);
    let error = setup.train("run", &settings(), &mut Recorder::default()).unwrap_err();
    assert!(matches!(error, Error::TokenOutOfRange { id: 23, document: 1, vocab_size: 23 }), "{error}");
    assert!(!setup.path("run").join("metrics.jsonl").exists());
}

#[test]
fn settings_and_data_that_do_not_fit_are_refused() {
    let setup = Setup::new(&[], None);
    assert!(setup.train("none", &settings(), &mut Recorder::default()).is_err());
    let mut setup = Setup::new(&documents(4, 1), None);
    let bad = TrainConfig { eta: Some(2.0), ..settings() };
    assert!(setup.train("eta", &bad, &mut Recorder::default()).is_err());
    setup.train = examples(&[(0..14).collect()]);
    let error = setup.train("long", &settings(), &mut Recorder::default()).unwrap_err();
    assert!(matches!(error, Error::Model(_)), "{error}");
}

/// The step itself was fine, its update was not: the evaluation finds out, and no checkpoint of it is written.
#[test]
fn an_evaluation_that_gives_no_number_stops_the_run() {
    let setup = Setup::new(&documents(20, 1), Some(&documents(8, 2)));
    let every = Every::Steps(1);
    let config =
        TrainConfig { lr: 1e30, warmup_steps: 0, eval_every: every, save_every: every, ..settings() };
    let mut recorder = Recorder::default();
    let error = setup.train("run", &config, &mut recorder).unwrap_err();
    let Error::NonFiniteLikelihood { step: Some(step), .. } = error else { panic!("{error}") };
    assert_eq!(step, recorder.steps.len() as u64);
    assert!(recorder.checkpoints.iter().all(|kept| *kept < step));
    assert!(error.hint().unwrap().contains("config.lr"));
}

/// What a kill left half-written goes, and a file in the way of a model is replaced.
#[test]
fn nothing_temporary_stays_in_the_run_folder() {
    let setup = Setup::new(&documents(20, 1), Some(&documents(8, 2)));
    setup.train("run", &settings(), &mut Recorder::default()).unwrap();
    let run = setup.path("run");
    std::fs::create_dir(run.join(".best.1-1.tmp")).unwrap();
    let longer = TrainConfig { epochs: 3, resume: Some("auto".into()), ..settings() };
    std::fs::remove_dir_all(run.join("final")).unwrap();
    std::fs::write(run.join("final"), "in the way").unwrap();
    setup.train("run", &longer, &mut Recorder::default()).unwrap();
    assert!(run.join("final").is_dir());
    let hidden = std::fs::read_dir(&run)
        .unwrap()
        .filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().starts_with('.'));
    assert_eq!(hidden.count(), 0);
}
