//! Selection of the best model by a score of the caller's.
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use mixce_lm::LanguageModel;
use mixce_train::Error;
use mixce_train::config::{Selection, TrainConfig};
use mixce_train::selector::Selector;
use mixce_train::trainer::End;

use crate::common::{Recorder, Setup, documents, settings};

/// Gives these scores in turn, and keeps the fingerprints of the models; fails after the last.
#[derive(Debug, Default)]
struct Scripted {
    scores: Vec<f64>,
    seen: Mutex<Vec<String>>,
    interrupts: AtomicBool,
}

impl Selector for &'static Scripted {
    fn score(&self, model: &dyn LanguageModel, _: &AtomicBool) -> mixce_train::Result<f64> {
        if self.interrupts.swap(false, Ordering::Relaxed) {
            return Err(Error::Interrupted);
        }
        let mut seen = self.seen.lock().unwrap();
        let score = self.scores.get(seen.len()).ok_or_else(|| Error::Selector("no score left".into()))?;
        seen.push(model.fingerprint()?);
        Ok(*score)
    }
}

fn scripted(scores: &[f64]) -> (&'static Scripted, Setup) {
    let script: &Scripted = Box::leak(Box::new(Scripted { scores: scores.to_vec(), ..Scripted::default() }));
    let mut setup = Setup::new(&documents(20, 1), Some(&documents(8, 2)));
    setup.selector = Some(Box::new(script));
    (script, setup)
}

fn by_score(epochs: u64) -> TrainConfig {
    TrainConfig { select: Selection::Mauve, epochs, ..settings() }
}

#[test]
fn the_model_with_the_highest_score_is_kept() {
    let (script, setup) = scripted(&[0.2, 0.9, f64::NAN, 0.9, 0.5]);
    let mut recorder = Recorder::default();
    let best = setup.train("run", &by_score(5), &mut recorder).unwrap().best.unwrap();
    assert_eq!(best.valid_mauve, Some(0.9));
    assert_eq!(best.step, recorder.evaluations[1].step);
    let marks: Vec<bool> = recorder.evaluations.iter().map(|evaluation| evaluation.best).collect();
    assert_eq!(marks, [true, true, false, false, false]);
    assert_eq!(recorder.evaluations[4].valid_mauve, Some(0.5));
    let seen = script.seen.lock().unwrap();
    assert!(seen.windows(2).all(|pair| pair[0] != pair[1]), "each evaluation has another model");
    let text = std::fs::read_to_string(setup.path("run").join("best/selection.json")).unwrap();
    let chosen: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&chosen["valid_mauve"], &chosen["step"]), (&0.9.into(), &best.step.into()));
}

#[test]
fn an_interrupted_score_is_computed_after_resuming() {
    let (script, setup) = scripted(&[0.9, 0.5]);
    script.interrupts.store(true, Ordering::Relaxed);
    let outcome = setup.train("run", &by_score(2), &mut Recorder::default()).unwrap();
    assert_eq!(outcome.end, End::Interrupted);
    let config = TrainConfig { resume: Some("auto".into()), ..by_score(2) };
    let mut recorder = Recorder::default();
    let best = setup.train("run", &config, &mut recorder).unwrap().best.unwrap();
    assert_eq!((best.valid_mauve, best.step), (Some(0.9), outcome.steps));
    assert_eq!(recorder.evaluations.len(), 2);
}

#[test]
fn a_failing_and_a_missing_selector_are_told() {
    let (_, setup) = scripted(&[]);
    let error = setup.train("run", &by_score(1), &mut Recorder::default()).unwrap_err().to_string();
    assert!(error.contains("`config.select`: no score left"), "{error}");
    let without = Setup::new(&documents(20, 1), Some(&documents(8, 2)));
    let error = without.train("run", &by_score(1), &mut Recorder::default()).unwrap_err().to_string();
    assert!(error.contains("needs a selector"), "{error}");
}
