//! What must hold however the data are cut.
use std::collections::HashMap;

use candle_core::{Device, Tensor, Var};
use mixce_core::lm_head_loss;
use mixce_core::objective::MixCe;
use mixce_gpt2::Gpt2Config;
use mixce_lm::{ModelConfig as _, Parameters};
use mixce_train::config::TrainConfig;

use crate::common::{
    Recorder, Setup, assert_bf16_trains_as_f32, documents, largest_difference, settings, tensors,
    tiny_config, values,
};

/// Without dropout, and with an epsilon that makes AdamW's step proportional to the gradient, so that rounding is not blown up.
fn exact() -> TrainConfig {
    TrainConfig { dropout: Some(0.0), adam_epsilon: 1.0, weight_decay: 0.1, ..settings() }
}

fn run(name: &str, setup: &Setup, config: &TrainConfig) -> (Recorder, HashMap<String, Tensor>) {
    let mut recorder = Recorder::default();
    let outcome = setup.train(name, config, &mut recorder).unwrap();
    (recorder, tensors(&outcome.final_model.unwrap().join("model.safetensors")))
}

/// Accumulation over k microbatches is one big batch (transformers#34191), and a packed batch is its documents one at a time: the
/// documents are ragged, so any average by microbatch would differ.
#[test]
fn accumulation_equals_one_big_batch_and_one_document_at_a_time() {
    let setup = Setup::new(&documents(20, 1), None);
    let cut = |batch_size, grad_accum| TrainConfig { batch_size, grad_accum, ..exact() };
    let (big, big_parameters) = run("big", &setup, &cut(6, 1));
    for (batch_size, grad_accum) in [(3, 2), (2, 3), (1, 6)] {
        let name = format!("{batch_size}x{grad_accum}");
        let (small, parameters) = run(&name, &setup, &cut(batch_size, grad_accum));
        assert_eq!(small.steps.len(), big.steps.len());
        for (a, b) in small.steps.iter().zip(&big.steps) {
            assert_eq!(a.tokens, b.tokens);
            assert!((a.loss - b.loss).abs() < 1e-6, "{name}: {a:?} {b:?}");
            assert!((a.nll - b.nll).abs() < 1e-6, "{name}: {a:?} {b:?}");
            assert!((a.grad_norm - b.grad_norm).abs() < 1e-5 * b.grad_norm, "{name}: {a:?} {b:?}");
        }
        let difference = largest_difference(&parameters, &big_parameters);
        assert!(difference < 1e-6, "{name}: {difference}");
    }
}

/// Blocks recomputed in the backward pass draw the same dropout masks: the run is the same bit for bit.
#[test]
fn activation_checkpointing_changes_nothing() {
    let setup = Setup::new(&documents(20, 1), None);
    let with =
        |activation_checkpointing| TrainConfig { dropout: Some(0.2), activation_checkpointing, ..exact() };
    let (kept, kept_parameters) = run("kept", &setup, &with(false));
    let (again, again_parameters) = run("again", &setup, &with(true));
    assert!(kept.steps.len() > 3);
    assert_eq!(kept.steps.last().unwrap().loss, again.steps.last().unwrap().loss);
    assert_eq!(largest_difference(&kept_parameters, &again_parameters), 0.0);
}

/// bf16 rounds the operands of products only.
#[test]
fn bf16_trains_as_f32_does() {
    assert_bf16_trains_as_f32(&Setup::new(&documents(20, 1), None));
}

/// 20 documents at 6 a step: the fourth step has two, and is applied like the others.
#[test]
fn the_last_short_step_is_applied() {
    let documents = documents(20, 1);
    let setup = Setup::new(&documents, None);
    let exact = || TrainConfig { scheduler: mixce_train::optim::ScheduleKind::Constant, ..exact() };
    let (recorder, parameters) = run("whole", &setup, &exact());
    assert_eq!(recorder.steps.len(), 8, "4 steps an epoch, 2 epochs");
    let targets: usize = documents.iter().map(|d| d.len() - 1).sum();
    let seen: u64 = recorder.steps.iter().map(|s| s.tokens).sum();
    assert_eq!(seen, 2 * targets as u64);
    // Stopping before the last, short step leaves other parameters.
    let (_, shorter) = run("shorter", &setup, &TrainConfig { max_steps: Some(7), ..exact() });
    assert!(largest_difference(&parameters, &shorter) > 1e-4);
}

/// The same document over and over, and parameters that do not move: only the masks can make a difference.
#[test]
fn dropout_masks_differ_between_steps_and_microbatches() {
    let setup = Setup::new(&vec![(0..12).collect(); 12], None);
    let config = |grad_accum, dropout| TrainConfig {
        lr: 1e-30,
        batch_size: 3,
        grad_accum,
        epochs: 1,
        dropout: Some(dropout),
        ..settings()
    };
    let losses = |name: &str, grad_accum, dropout| -> Vec<f64> {
        run(name, &setup, &config(grad_accum, dropout)).0.steps.iter().map(|s| s.loss).collect()
    };
    let (one, two) = (losses("one", 1, 0.3), losses("two", 2, 0.3));
    assert!((one[0] - one[1]).abs() > 1e-4, "steps: {one:?}");
    // The first microbatch is the same in both runs: with the same mask in the second one, so would be the mean.
    assert!((one[0] - two[0]).abs() > 1e-4, "microbatches: {one:?} {two:?}");
    let (one, two) = (losses("one-without", 1, 0.0), losses("two-without", 2, 0.0));
    assert!((one[0] - one[1]).abs() < 1e-6 && (one[0] - two[0]).abs() < 1e-6, "{one:?} {two:?}");
}

#[test]
fn training_learns() {
    let setup = Setup::new(&documents(40, 1), Some(&documents(20, 2)));
    let (recorder, _) = run("run", &setup, &TrainConfig { epochs: 8, ..settings() });
    let nlls: Vec<f64> = recorder.evaluations.iter().map(|e| e.valid_nll).collect();
    assert!(nlls[7] < nlls[0] - 0.5, "{nlls:?}");
    assert!(recorder.done);
}

#[test]
fn the_seed_decides_everything() {
    let setup = Setup::new(&documents(20, 1), None);
    let (_, a) = run("a", &setup, &settings());
    let (_, b) = run("b", &setup, &settings());
    let (_, c) = run("c", &setup, &TrainConfig { seed: 6, ..settings() });
    assert_eq!(largest_difference(&a, &b), 0.0);
    assert!(largest_difference(&a, &c) > 0.0);
}

#[test]
fn blocks_train_on_concatenated_documents() {
    let mut setup = Setup::new(&[], None);
    let store = mixce_train::data::TokenStore::from_documents(documents(20, 1));
    let tokens = store.counts().tokens;
    setup.train = mixce_train::data::Examples::blocks(store, 10).unwrap();
    let (recorder, _) = run("run", &setup, &TrainConfig { epochs: 1, ..exact() });
    let seen: u64 = recorder.steps.iter().map(|s| s.tokens).sum();
    let blocks = tokens / 10;
    assert_eq!(seen, blocks * 9 + (tokens % 10).saturating_sub(1));
}

/// Gradients by name of the MixCE loss of two documents.
fn gradients(config: &Gpt2Config, parameters: &[(String, Tensor)]) -> HashMap<String, Vec<f32>> {
    let variables: Vec<(String, Var)> =
        parameters.iter().map(|(n, t)| (n.clone(), Var::from_tensor(t).unwrap())).collect();
    let tensors = variables.iter().map(|(n, v)| (n.clone(), v.as_tensor().clone()));
    let model = config.build(Parameters::new(config, tensors).unwrap()).unwrap();
    let batch = model.pack(&[&[1, 2, 3], &[4, 5]]).unwrap();
    let targets = Tensor::new(&[2u32, 3, 22, 5, 22], &Device::Cpu).unwrap();
    let hidden = model.hidden_states(&batch, None).unwrap();
    let objective = MixCe::new(0.5).unwrap();
    let loss = lm_head_loss(&hidden, model.lm_head(), &targets, &objective, 5.0).unwrap().loss;
    let store = loss.backward().unwrap();
    variables.iter().map(|(n, v)| (n.clone(), values(store.get(v.as_tensor()).unwrap()))).collect()
}

#[test]
fn a_tied_embedding_gets_both_gradients() {
    let tied = tiny_config();
    let untied = Gpt2Config { tie_word_embeddings: false, ..tied.clone() };
    let parameters = Parameters::random(&tied, 3, &Device::Cpu).unwrap();
    let mut list: Vec<(String, Tensor)> = parameters.iter().map(|(n, t)| (n.to_owned(), t.clone())).collect();
    let both = gradients(&tied, &list);
    list.push(("lm_head.weight".into(), parameters.get("wte.weight").unwrap().clone()));
    let apart = gradients(&untied, &list);
    assert_eq!(both.len() + 1, apart.len());
    let summed = apart["wte.weight"].iter().zip(&apart["lm_head.weight"]).map(|(a, b)| a + b);
    for (got, want) in both["wte.weight"].iter().zip(summed) {
        assert!((got - want).abs() < 1e-6, "{got} {want}");
    }
    assert!(apart["wte.weight"].iter().any(|g| g.abs() > 1e-4));
    assert!(apart["lm_head.weight"].iter().any(|g| g.abs() > 1e-4));
}
