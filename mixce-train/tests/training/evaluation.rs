//! The evaluation of a corpus.
use candle_core::Device;
use mixce_core::Objective;
use mixce_core::objective::{MixCe, Mle};
use mixce_lm::{LanguageModel, ModelConfig as _, Parameters, ScoringOptions};
use mixce_train::Error;
use mixce_train::evaluate::{Evaluation, Scored, evaluate};

use crate::common::{assert_bf16_scores_as_f32, documents, examples, tiny_config};

fn model() -> Box<dyn LanguageModel> {
    let config = tiny_config();
    let parameters = Parameters::random(&config, 9, &Device::Cpu).unwrap();
    config.build(parameters).unwrap()
}

fn score(
    documents: &[Vec<u32>],
    objective: &dyn Objective,
    batch_tokens: usize,
) -> (Evaluation, Vec<Vec<f32>>) {
    let mut log_q = Vec::new();
    let mut keep = |scored: Scored<'_>| {
        assert_eq!(scored.index, log_q.len());
        assert_eq!(scored.tokens, documents[scored.index]);
        log_q.push(scored.log_q.to_vec());
        Ok(())
    };
    let options = ScoringOptions { batch_tokens, ..ScoringOptions::default() };
    let evaluation = evaluate(&*model(), &examples(documents), objective, options, &mut keep).unwrap();
    (evaluation, log_q)
}

#[test]
fn the_cut_into_batches_does_not_matter() {
    let documents = documents(30, 4);
    let (whole, whole_log_q) = score(&documents, &Mle, 1_000_000);
    for batch_tokens in [0, 7, 40] {
        let (cut, log_q) = score(&documents, &Mle, batch_tokens);
        assert_eq!((cut.tokens, cut.documents), (whole.tokens, whole.documents));
        assert!((cut.nll - whole.nll).abs() < 1e-6, "{batch_tokens}: {cut:?} {whole:?}");
        for (a, b) in log_q.iter().flatten().zip(whole_log_q.iter().flatten()) {
            assert!((a - b).abs() < 1e-5, "{a} {b}");
        }
    }
}

#[test]
fn the_numbers_are_token_means() {
    let documents = documents(10, 4);
    let objective = MixCe::new(0.1).unwrap();
    let (evaluation, log_q) = score(&documents, &objective, 64);
    let log_q: Vec<f64> = log_q.iter().flatten().map(|&x| f64::from(x)).collect();
    let targets: usize = documents.iter().map(|d| d.len() - 1).sum();
    assert_eq!(log_q.len(), targets);
    assert_eq!((evaluation.tokens, evaluation.documents), (targets as u64, 10));
    let mean = |f: &dyn Fn(f64) -> f64| log_q.iter().map(|&l| f(l)).sum::<f64>() / targets as f64;
    assert!((evaluation.nll - mean(&|l| -l)).abs() < 1e-12);
    assert!((evaluation.loss - mean(&|l| (0.1 + 0.9 * l.exp()) * -l)).abs() < 1e-12);
    assert_eq!(evaluation.perplexity, evaluation.nll.exp());
    // A model of small random weights knows next to nothing: about log 23 nats a token.
    assert!((evaluation.nll - 23f64.ln()).abs() < 0.1, "{}", evaluation.nll);
    let (mle, _) = score(&documents, &Mle, 64);
    assert_eq!(mle.loss, mle.nll);
}

#[test]
fn bf16_scores_as_f32_does() {
    assert_bf16_scores_as_f32(&Device::Cpu);
}

#[test]
fn nothing_to_evaluate_is_an_error() {
    let error = evaluate(&*model(), &examples(&[vec![1]]), &Mle, ScoringOptions::default(), &mut |_| Ok(()))
        .unwrap_err();
    assert!(matches!(error, Error::NothingToEvaluate), "{error}");
}

/// A broken model must not come out as a number, nor as none.
#[test]
fn a_model_that_gives_no_number_is_an_error() {
    let config = tiny_config();
    let parameters = Parameters::random(&config, 9, &Device::Cpu).unwrap();
    let spoilt = parameters
        .iter()
        .map(|(name, t)| {
            (name.to_owned(), if name == "ln_f.bias" { (t * f64::NAN).unwrap() } else { t.clone() })
        })
        .collect::<Vec<_>>();
    let model = config.build(Parameters::new(&config, spoilt).unwrap()).unwrap();
    let error =
        evaluate(&*model, &examples(&documents(3, 4)), &Mle, ScoringOptions::default(), &mut |_| Ok(()))
            .unwrap_err();
    assert!(matches!(error, Error::NonFiniteLikelihood { document: 0, step: None, .. }), "{error}");
    assert!(error.to_string().starts_with("the model is broken"), "{error}");
}
