use super::*;
use crate::bigram::model::ModelKind;
use crate::bigram::{Dataset, World};

/// A slow, obvious forward pass in f64: logits of one position with some units dropped.
fn logits(model: &Model, input: &[f64], dropped: u64, scale: f64) -> Vec<f64> {
    let (at, p, v) = (model.offsets(), model.params(), model.vocab());
    let embedded: Vec<f64> =
        (0..HIDDEN).map(|k| (0..=v).map(|y| input[y] * f64::from(p[y * HIDDEN_STRIDE + k])).sum()).collect();
    let hidden: Vec<f64> = (0..HIDDEN)
        .map(|j| {
            let sum: f64 =
                (0..HIDDEN).map(|k| embedded[k] * f64::from(p[at.w1 + k * HIDDEN_STRIDE + j])).sum();
            let h = (sum + f64::from(p[at.b1 + j])).max(0.0);
            if dropped >> j & 1 == 1 { 0.0 } else { h * scale }
        })
        .collect();
    (0..=v)
        .map(|y| {
            let sum: f64 =
                (0..HIDDEN).map(|j| hidden[j] * f64::from(p[at.w2 + j * model.stride() + y])).sum();
            sum + f64::from(p[at.b2 + y])
        })
        .collect()
}

fn log_softmax64(z: &[f64]) -> Vec<f64> {
    let max = z.iter().copied().fold(f64::MIN, f64::max);
    let log_z = max + z.iter().map(|x| (x - max).exp()).sum::<f64>().ln();
    z.iter().map(|x| x - log_z).collect()
}

fn one_hot(v: usize, y: usize) -> Vec<f64> {
    (0..=v).map(|i| f64::from(u8::from(i == y))).collect()
}

/// The loss of which straight-through takes the gradient, as a smooth function of the parameters near `at0`: each
/// sample is `hard + soft(theta) - soft(theta_0)`, each detached quantity is frozen.
fn surrogate(
    model: &Model,
    positions: &[Position],
    soft0: &[Vec<f64>],
    noise: &[Vec<f64>],
    log_p: &[f32],
    scale: f64,
    kl: bool,
) -> f64 {
    let v = model.vocab();
    let mut input = one_hot(v, 0);
    let mut loss = 0.0;
    for (t, position) in positions.iter().enumerate() {
        let z = logits(model, &input, position.dropped, scale);
        let noisy: Vec<f64> = z.iter().zip(&noise[t]).map(|(z, g)| z + g).collect();
        let soft: Vec<f64> = log_softmax64(&noisy).iter().map(|l| l.exp()).collect();
        let hard = one_hot(v, position.token);
        let sample: Vec<f64> =
            (0..=v).map(|y| hard[y] + soft[y] - soft0.get(t).map_or(soft[y], |s| s[y])).collect();
        let log_q = log_softmax64(&z);
        for y in 0..=v {
            let reward =
                f64::from(u8::from(kl)) * log_q[y] - f64::from(log_p[position.state * model.stride() + y]);
            loss += sample[y] * reward;
        }
        input = sample;
    }
    loss
}

#[test]
fn straight_through_gradient_follows_finite_differences_of_its_surrogate() {
    let world = World::random(4, 0.3, 3).unwrap();
    let data = Dataset::exact(world);
    for kl in [true, false] {
        let mut model = Model::new(ModelKind::Network, 4, Stream::new(21));
        let dropout = Dropout::new(0.1);
        let log_p = data.log_p(model.stride());
        let stream = Stream::new(8);
        let mut sampled = Sampled::new(&model, dropout);
        sampled.begin(&model);
        // The first stream whose sequence has a few tokens.
        let stream = (0..).map(|i| stream.fold(i)).find(|s| {
            sampled.run_gumbel(*s);
            (3..9).contains(&sampled.positions.len())
        });
        let stream = stream.unwrap();
        sampled.backward_gumbel(&log_p, f32::from(u8::from(kl)), 1.0);
        let mut grads = vec![0.0; model.params().len()];
        sampled.finish(&model, &mut grads);
        let noise: Vec<Vec<f64>> = (0..sampled.positions.len())
            .map(|t| {
                let mut row = vec![0.0; model.stride()];
                gumbels(stream.fold(1), t as u64, &mut row);
                row[..=4].iter().map(|&g| f64::from(g)).collect()
            })
            .collect();
        let soft0: Vec<Vec<f64>> = (0..sampled.positions.len())
            .map(|t| sampled.soft[t * model.stride()..][..=4].iter().map(|&y| f64::from(y)).collect())
            .collect();
        let scale = 1.0 / 0.9;
        let positions = sampled.positions.clone();
        let (mut checked, mut kinks) = (0, 0);
        for i in (0..grads.len()).step_by(2) {
            let old = model.params()[i];
            let mut at = |x: f32| {
                model.params_mut()[i] = x;
                surrogate(&model, &positions, &soft0, &noise, &log_p, scale, kl)
            };
            let (up, down, middle) = (at(old + 1e-3), at(old - 1e-3), at(old));
            let want = (up - down) / 2e-3;
            if ((up - middle) - (middle - down)).abs() > 2e-5 * (1.0 + want.abs()) {
                kinks += 1;
                continue;
            }
            let got = f64::from(grads[i]);
            assert!((got - want).abs() < 2e-2 + 1e-2 * want.abs(), "kl {kl}, {i}: {got} {want}");
            checked += usize::from(want.abs() > 0.1);
        }
        assert!(checked > 100 && kinks < checked / 4, "{checked} {kinks}");
    }
}

#[test]
fn data_gradient_with_dropout_follows_finite_differences() {
    let world = World::random(5, 0.3, 3).unwrap();
    let data = Dataset::sample(world, 6, 1, 2).unwrap();
    let mut model = Model::new(ModelKind::Network, 5, Stream::new(4));
    let (dropout, stream) = (Dropout::new(0.1), Stream::new(77));
    let batch: Vec<u32> = (0..6).collect();
    let mut sampled = Sampled::new(&model, dropout);
    sampled.begin(&model);
    sampled.add_data(&data.train, &batch, &TokenWeight::One, 0.5, stream);
    let mut grads = vec![0.0; model.params().len()];
    sampled.finish(&model, &mut grads);
    let loss = |model: &Model| -> f64 {
        let mut total = 0.0;
        for &index in &batch {
            let mut context = 0;
            for (t, &token) in data.train.get(index as usize).iter().enumerate() {
                let dropped = dropout.bits(stream.fold(u64::from(index)), t as u64);
                let z = logits(model, &one_hot(5, context), dropped, 1.0 / 0.9);
                total -= 0.5 * log_softmax64(&z)[usize::from(token)];
                context = usize::from(token);
            }
        }
        total
    };
    let (mut checked, mut kinks) = (0, 0);
    for i in (0..grads.len()).step_by(3) {
        let old = model.params()[i];
        let mut at = |x: f32| {
            model.params_mut()[i] = x;
            loss(&model)
        };
        let (up, down, middle) = (at(old + 1e-3), at(old - 1e-3), at(old));
        let want = (up - down) / 2e-3;
        if ((up - middle) - (middle - down)).abs() > 3e-6 * (1.0 + want.abs()) {
            kinks += 1;
            continue;
        }
        let got = f64::from(grads[i]);
        assert!((got - want).abs() < 5e-3 + 5e-3 * want.abs(), "{i}: {got} {want}");
        checked += usize::from(want.abs() > 0.05);
    }
    assert!(checked > 100 && kinks < checked / 4, "{checked} {kinks}");
}
