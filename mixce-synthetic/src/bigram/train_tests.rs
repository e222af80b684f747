use super::*;
use crate::bigram::{Reward, World};
use mixce_base::Hint as _;

fn config(model: ModelKind, estimator: Estimator) -> TrainConfig {
    TrainConfig {
        model,
        estimator,
        dropout: 0.0,
        train_size: 400,
        dev_size: 50,
        batch_size: 400,
        ..TrainConfig::default()
    }
}

fn gradient(data: &Dataset, loss: &Loss, config: &TrainConfig, stream: u64) -> Vec<f32> {
    let mut trainer = Trainer::new(data, loss, config, 5);
    let batch: Vec<u32> = (0..config.batch_size as u32).collect();
    trainer.gradient(&batch, Stream::new(stream));
    trainer.grads().to_vec()
}

fn largest(xs: impl Iterator<Item = f32>) -> f32 {
    xs.fold(0.0, |m, x| m.max(x.abs()))
}

#[test]
fn counts_equal_the_per_position_gradient_without_dropout() {
    let data = Dataset::sample(World::random(9, 0.5, 1).unwrap(), 400, 50, 1).unwrap();
    for loss in [
        Loss::Token(TokenWeight::One),
        Loss::Token(TokenWeight::Mixce(0.1)),
        Loss::Token(TokenWeight::Mixce(0.0)),
    ] {
        let counts = gradient(&data, &loss, &config(ModelKind::Network, Estimator::Counts), 1);
        let sampled = gradient(&data, &loss, &config(ModelKind::Network, Estimator::Sampled), 1);
        let size = largest(counts.iter().copied());
        let off = largest(counts.iter().zip(&sampled).map(|(a, b)| a - b));
        assert!(size > 0.01 && off < 1e-5 * size.max(0.1), "{loss:?}: {off} of {size}");
    }
}

/// The sequence-level JS data term is the same, too: compare with eta = 1, where the reverse term has weight 0.
#[test]
fn js_data_terms_agree() {
    let data = Dataset::sample(World::random(5, 0.2, 1).unwrap(), 400, 50, 1).unwrap();
    let stride = 16;
    let counts_config = config(ModelKind::Network, Estimator::Counts);
    let loss = Loss::Js { eta: 0.4 };
    let mut trainer = Trainer::new(&data, &loss, &counts_config, 5);
    trainer.model.forward(None, &mut trainer.forward);
    let batch: Vec<u32> = (0..400).collect();
    counts::add_js_data(&data.train, &batch, 0.4, &trainer.forward.probs, stride, &mut trainer.pseudo);
    trainer.model.backward(None, &mut trainer.forward, &trainer.pseudo, &mut trainer.grads);
    let mut sampled = Sampled::new(&trainer.model, Dropout::new(0.0));
    sampled.begin(&trainer.model);
    sampled.add_js_data(&data.train, &batch, 0.4, Stream::new(1));
    let mut grads = vec![0.0; trainer.grads.len()];
    sampled.finish(&trainer.model, &mut grads);
    let size = largest(grads.iter().copied());
    let off = largest(grads.iter().zip(&trainer.grads).map(|(a, b)| a - b));
    assert!(size > 1e-3 && off < 1e-4 * size, "{off} of {size}");
}

/// With enough sequences, both gradients of reverse terms approach the exact one; small batches have no bias either.
#[test]
fn reverse_gradients_are_unbiased() {
    let world = World::random(4, 0.3, 2).unwrap();
    let data = Dataset::sample(world, 100_000, 10, 1).unwrap();
    for (reward, reverse_gradient) in [
        (Reward::Kl, ReverseGradient::ScoreFunction),
        (Reward::CrossEntropy, ReverseGradient::ScoreFunction),
        (Reward::Kl, ReverseGradient::AllTokens),
        (Reward::CrossEntropy, ReverseGradient::AllTokens),
    ] {
        let loss = Loss::Reverse { eta: 0.0, reward };
        let size = TrainConfig {
            batch_size: 100_000,
            train_size: 100_000,
            reverse_gradient,
            ..config(ModelKind::Table, Estimator::Counts)
        };
        let exact = gradient(&data, &loss, &TrainConfig { estimator: Estimator::Exact, ..size.clone() }, 1);
        let counts = gradient(&data, &loss, &size, 1);
        let norm = largest(exact.iter().copied());
        let off = largest(exact.iter().zip(&counts).map(|(a, b)| a - b));
        assert!(norm > 1.0 && off < 0.03 * norm, "{reward:?}, {reverse_gradient:?}: {off} of {norm}");
        let batch_size = if reverse_gradient == ReverseGradient::AllTokens { 40 } else { 3 };
        let small = TrainConfig { batch_size, ..size };
        let mut mean = vec![0f64; exact.len()];
        let rounds = 10_000;
        for round in 0..rounds {
            let one = gradient(&data, &loss, &small, round);
            mean.iter_mut().zip(&one).for_each(|(m, g)| *m += f64::from(*g) / rounds as f64);
        }
        let off = largest(exact.iter().zip(&mean).map(|(a, b)| a - *b as f32));
        assert!(off < 0.06 * norm, "{reward:?}, {reverse_gradient:?}, small batches: {off} of {norm}");
    }
}

/// The exact gradient against differences of the exact loss (which is what the development loss of `exact` is).
#[test]
fn exact_gradient_follows_finite_differences_of_the_loss() {
    let data = Dataset::exact(World::random(6, 0.4, 9).unwrap());
    for reward in [Reward::Kl, Reward::CrossEntropy] {
        let loss = Loss::Reverse { eta: 0.3, reward };
        let config = config(ModelKind::Table, Estimator::Exact);
        let mut trainer = Trainer::new(&data, &loss, &config, 5);
        let logits = trainer.model.params_mut();
        logits.iter_mut().enumerate().for_each(|(i, z)| {
            if i % 16 <= 6 {
                *z = (i * 7 % 11) as f32 / 9.0
            }
        });
        trainer.gradient(&[0], Stream::new(0));
        let grads = trainer.grads().to_vec();
        for i in (0..grads.len()).filter(|i| i % 16 <= 6) {
            let old = trainer.model.params()[i];
            let mut at = |z: f32| {
                trainer.model.params_mut()[i] = z;
                trainer.dev_loss(1)
            };
            let want = (at(old + 5e-3) - at(old - 5e-3)) / 1e-2;
            at(old);
            let got = f64::from(grads[i]);
            assert!((got - want).abs() < 2e-3 + 2e-3 * want.abs(), "{reward:?} {i}: {got} {want}");
        }
    }
}

/// Golden values of the population optimum of MixCE for p = (.5, .3, .15, .05), reached by training the free table.
#[test]
fn mixce_reaches_its_fixed_point() {
    let p = [0.5, 0.3, 0.15, 0.05];
    // Tokens 1..3 all follow p; the fourth outcome is EOS.
    let mut transitions = [p, p, p].concat();
    transitions.extend([0.0; 4]);
    let data = Dataset::exact(World::new(p.to_vec(), transitions).unwrap());
    for (eta, want, js) in [
        (0.9, [0.507474, 0.297768, 0.146461, 0.048296], 3.39e-5),
        (0.5, [0.564734, 0.276403, 0.121421, 0.037443], 2.43e-3),
        (0.1, [0.824657, 0.124672, 0.039933, 0.010738], 6.26e-2),
    ] {
        let config = TrainConfig {
            lr: 0.02,
            weight_decay: 0.0,
            epochs: 120,
            patience: 120,
            train_size: 50,
            batch_size: 1,
            select: Selection::Potential,
            ..config(ModelKind::Table, Estimator::Exact)
        };
        let loss = Loss::Token(TokenWeight::Mixce(eta));
        let outcome = train(&data, &loss, &config, 1, &AtomicBool::new(false)).unwrap().unwrap();
        // EOS is forced at token 500, but P ends long before: the rows stay at p.
        for row in outcome.learned.chunks(5) {
            for (q, want) in row[1..].iter().zip(want) {
                assert!((q - want).abs() < 2e-3, "eta {eta}: {row:?}");
            }
        }
        assert!((outcome.distance.avg_js / js - 1.0).abs() < 0.06, "{eta}: {:?}", outcome.distance);
    }
}

#[test]
fn mle_and_two_kls_with_the_table_land_on_p() {
    let world = World::random(8, 0.5, 4).unwrap();
    let data = Dataset::exact(world);
    for loss in [Loss::Token(TokenWeight::One), Loss::Reverse { eta: 0.5, reward: Reward::Kl }] {
        let config = TrainConfig {
            lr: 0.05,
            weight_decay: 0.0,
            epochs: 60,
            patience: 60,
            train_size: 50,
            batch_size: 1,
            ..config(ModelKind::Table, Estimator::Exact)
        };
        let outcome = train(&data, &loss, &config, 1, &AtomicBool::new(false)).unwrap().unwrap();
        assert!(outcome.distance.avg_js < 2e-3, "{loss:?}: {:?}", outcome.distance);
        assert!(outcome.distance.avg_0s < 1e-3);
    }
}

#[test]
fn runs_repeat_and_stop() {
    let data = Dataset::sample(World::random(8, 0.5, 4).unwrap(), 3000, 100, 4).unwrap();
    for estimator in [Estimator::Counts, Estimator::Sampled] {
        for loss in [
            Loss::Token(TokenWeight::Mixce(0.5)),
            Loss::Js { eta: 0.5 },
            Loss::Reverse { eta: 0.5, reward: Reward::Kl },
        ] {
            let config = TrainConfig {
                epochs: 3,
                train_size: 3000,
                dev_size: 100,
                batch_size: 1000,
                estimator,
                ..TrainConfig::default()
            };
            let go = AtomicBool::new(false);
            let one = train(&data, &loss, &config, 3, &go).unwrap().unwrap();
            let two = train(&data, &loss, &config, 3, &go).unwrap().unwrap();
            assert_eq!(one.learned, two.learned);
            assert_eq!((one.epochs, one.best_epoch), (two.epochs, two.best_epoch));
            let other = train(&data, &loss, &config, 4, &go).unwrap().unwrap();
            assert_ne!(one.learned, other.learned);
            assert!(train(&data, &loss, &config, 3, &AtomicBool::new(true)).unwrap().is_none());
        }
    }
}

#[test]
fn impossible_settings_are_refused() {
    let js = Loss::Js { eta: 0.5 };
    let mle = Loss::Token(TokenWeight::One);
    let exact = TrainConfig { estimator: Estimator::Exact, ..TrainConfig::default() };
    assert!(exact.validate(&js).unwrap_err().hint().is_some());
    let table =
        TrainConfig { estimator: Estimator::Sampled, model: ModelKind::Table, ..TrainConfig::default() };
    assert!(table.validate(&mle).unwrap_err().to_string().contains("`table`"));
    for bad in [
        TrainConfig { lr: 0.0, ..TrainConfig::default() },
        TrainConfig { dropout: 1.0, ..TrainConfig::default() },
        TrainConfig { patience: 0, ..TrainConfig::default() },
        TrainConfig { batch_size: 60_000, ..TrainConfig::default() },
        TrainConfig { weight_decay: -1.0, ..TrainConfig::default() },
    ] {
        assert!(bad.validate(&mle).is_err(), "{bad:?}");
    }
}

#[test]
fn a_diverged_run_is_an_error() {
    let data = Dataset::sample(World::random(5, 0.5, 4).unwrap(), 100, 10, 4).unwrap();
    let config =
        TrainConfig { lr: 1e38, train_size: 100, dev_size: 10, batch_size: 10, ..TrainConfig::default() };
    let error =
        train(&data, &Loss::Token(TokenWeight::One), &config, 3, &AtomicBool::new(false)).unwrap_err();
    assert!(matches!(error, Error::Diverged { epoch: 1, .. }), "{error}");
}

/// JS over all sequences of a chain that ends after at most a few tokens, differentiated by differences.
#[test]
fn js_gradient_is_unbiased() {
    // Three tokens, long sequences are rare: enumerate up to 12 tokens.
    let world = World::new(vec![0.4, 0.3, 0.3], vec![0.2, 0.1, 0.7, 0.0, 0.3, 0.7, 0.0, 0.0, 0.0]).unwrap();
    let data = Dataset::sample(world, 200_000, 10, 3).unwrap();
    let loss = Loss::Js { eta: 0.4 };
    let settings = TrainConfig {
        batch_size: 200_000,
        train_size: 200_000,
        reverse_gradient: ReverseGradient::AllTokens,
        ..config(ModelKind::Table, Estimator::Counts)
    };
    let mut trainer = Trainer::new(&data, &loss, &settings, 5);
    let start: Vec<f32> =
        (0..48).map(|i| if i % 16 < 4 { [-3.0, 0.3, -0.2, 2.0][i % 16] } else { 0.0 }).collect();
    trainer.model.params_mut().copy_from_slice(&start);
    let batch: Vec<u32> = (0..200_000).collect();
    trainer.gradient(&batch, Stream::new(2));
    let grads = trainer.grads().to_vec();
    let log_p = data.world.log_by_state();
    let value = |model: &Model| -> f64 {
        let q = model.probabilities();
        let mut stack = vec![(3usize, 0.0f64, 0.0f64, 0usize)];
        let mut total = 0.0;
        while let Some((state, log_q, lp, length)) = stack.pop() {
            let context = if state == 3 { 0 } else { state };
            for y in 0..4 {
                let (log_q, lp) = (log_q + q[context * 4 + y].ln(), lp + log_p[state * 4 + y]);
                if y == 3 {
                    let js = JsSequence::new(0.4, log_q, lp);
                    total += 0.6 * log_q.exp() * js.from_q;
                    total += if lp > -60.0 { 0.4 * lp.exp() * js.from_p } else { 0.0 };
                } else if length < 11 && log_q > -16.0 {
                    stack.push((y, log_q, lp, length + 1));
                }
            }
        }
        total
    };
    let norm = largest(grads.iter().copied());
    for i in (0..48).filter(|i| i % 16 < 4) {
        let mut at = |x: f32| {
            trainer.model.params_mut()[i] = x;
            value(&trainer.model)
        };
        let want = (at(start[i] + 0.02) - at(start[i] - 0.02)) / 0.04;
        at(start[i]);
        assert!(
            (f64::from(grads[i]) - want).abs() < 0.04 * f64::from(norm),
            "{i}: {} {want}, {norm}",
            grads[i]
        );
    }
}

/// The local gradient is the visits times the gradient of each row's own divergence, and vanishes at P.
#[test]
fn local_reverse_gradient_is_the_row_gradient() {
    let world = World::random(5, 0.0, 2).unwrap();
    let data = Dataset::sample(world, 100_000, 10, 1).unwrap();
    let settings = TrainConfig {
        batch_size: 100_000,
        train_size: 100_000,
        ..config(ModelKind::Table, Estimator::Counts)
    };
    let loss = Loss::Reverse { eta: 0.0, reward: Reward::Kl };
    let mut trainer = Trainer::new(&data, &loss, &settings, 5);
    let batch: Vec<u32> = (0..100_000).collect();
    let contexts = data.world.contexts();
    trainer.gradient(&batch, Stream::new(3));
    let q = trainer.model.probabilities();
    let chain = crate::bigram::Chain::new(5, &q);
    let mut visits = chain.visits(crate::bigram::Horizon::Tokens(499));
    let log_p = data.world.log_by_state();
    for row in 1..5 {
        let (q, log_p) = (&q[row * 6..][..6], &log_p[row * 6..][..6]);
        let mean: f64 = q.iter().zip(log_p).map(|(q, l)| q * (q.ln() - l)).sum();
        for y in 0..6 {
            let want = visits[row] * q[y] * (q[y].ln() - log_p[y] - mean);
            let got = f64::from(trainer.grads()[row * 16 + y]);
            assert!((got - want).abs() < 0.02 * want.abs() + 0.01, "{row} {y}: {got} {want}");
        }
    }
    visits[0] += 1.0;
    assert!(visits.iter().sum::<f64>() > 2.0);
    let logits: Vec<f32> = (0..80)
        .map(|i| if i % 16 <= 5 { (contexts[i / 16 * 6 + i % 16] + 1e-30).ln() as f32 } else { 0.0 })
        .collect();
    trainer.model.params_mut().copy_from_slice(&logits);
    trainer.gradient(&batch, Stream::new(3));
    assert!(largest(trainer.grads().iter().copied()) < 1e-4);
}
