use super::*;
use crate::bigram::dropout::Dropout;

/// A linear function of the log probabilities, evaluated in f64.
fn functional(model: &Model, mask: Option<&[f32]>, weights: &[f32]) -> (f64, Vec<bool>) {
    let mut forward = Forward::new(model);
    model.forward(mask, &mut forward);
    let pairs = forward.probs.iter().zip(weights).filter(|(_, w)| **w != 0.0);
    let value = pairs.map(|(&q, &w)| -f64::from(w) * f64::from(q).ln()).sum();
    (value, forward.hidden.iter().map(|h| *h > 0.0).collect())
}

#[test]
fn gradients_follow_finite_differences() {
    for kind in [ModelKind::Network, ModelKind::Table] {
        let mut model = Model::new(kind, 5, Stream::new(1));
        let stride = model.stride();
        let weights: Vec<f32> =
            (0..5 * stride).map(|i| if i % stride <= 5 { (i * 7 % 5) as f32 / 4.0 } else { 0.0 }).collect();
        let mask = Dropout::new(0.1).mask(5, Stream::new(3));
        for mask in [None, Some(mask.as_slice())] {
            let mut forward = Forward::new(&model);
            model.forward(mask, &mut forward);
            let mut grads = vec![0.0; model.params().len()];
            model.backward(mask, &mut forward, &weights, &mut grads);
            let mut checked = 0;
            for i in (0..grads.len()).step_by(if kind == ModelKind::Table { 1 } else { 3 }) {
                let eps = 2e-3f32;
                let old = model.params[i];
                model.params[i] = old + eps;
                let (up, active_up) = functional(&model, mask, &weights);
                model.params[i] = old - eps;
                let (down, active_down) = functional(&model, mask, &weights);
                model.params[i] = old;
                if active_up != active_down {
                    continue; // a kink of ReLU lies between: there is no derivative to compare with
                }
                let want = (up - down) / (2.0 * f64::from(eps));
                let got = f64::from(grads[i]);
                assert!((got - want).abs() < 4e-3 + 1e-2 * want.abs(), "{kind:?} {i}: {got} {want}");
                checked += usize::from(want.abs() > 0.05);
            }
            assert!(checked > 10, "the check must meet real gradients: {checked}");
        }
    }
}

/// The gradient of the network written out with loops over one context after another, in f64.
fn plain_gradient(model: &Model, mask: &[f32], forward: &Forward, pseudo: &[f32]) -> Vec<f64> {
    let (at, stride) = (model.offsets(), model.stride);
    let param = |i: usize| f64::from(model.params[i]);
    let mut grads = vec![0f64; at.end];
    for c in 0..model.vocab {
        let (m, q) = (&pseudo[c * stride..][..stride], &forward.probs[c * stride..][..stride]);
        let total: f64 = m.iter().map(|m| f64::from(*m)).sum();
        let d: Vec<f64> = m.iter().zip(q).map(|(m, q)| total * f64::from(*q) - f64::from(*m)).collect();
        d.iter().enumerate().for_each(|(y, d)| grads[at.b2 + y] += d);
        for j in 0..HIDDEN {
            let unit = c * HIDDEN_STRIDE + j;
            let (h, keep) = (f64::from(forward.hidden[unit]), f64::from(mask[unit]));
            let mut d_hidden = 0.0;
            for (y, d) in d.iter().enumerate() {
                grads[at.w2 + j * stride + y] += h * keep * d;
                d_hidden += param(at.w2 + j * stride + y) * d;
            }
            d_hidden *= if h > 0.0 { keep } else { 0.0 };
            grads[at.b1 + j] += d_hidden;
            for i in 0..HIDDEN {
                grads[at.w1 + i * HIDDEN_STRIDE + j] += param(c * HIDDEN_STRIDE + i) * d_hidden;
                grads[c * HIDDEN_STRIDE + i] += param(at.w1 + i * HIDDEN_STRIDE + j) * d_hidden;
            }
        }
    }
    grads
}

#[test]
fn contexts_of_several_blocks_add_up() {
    for vocab in [BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 7] {
        let model = Model::new(ModelKind::Network, vocab, Stream::new(6));
        let stride = model.stride();
        let mask = Dropout::new(0.1).mask(vocab, Stream::new(7));
        let pseudo: Vec<f32> = (0..vocab * stride)
            .map(|i| if i % stride <= vocab { (i * 11 % 7) as f32 / 6.0 } else { 0.0 })
            .collect();
        let mut forward = Forward::new(&model);
        model.forward(Some(&mask), &mut forward);
        for (c, row) in forward.probs.chunks_exact(stride).enumerate() {
            assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-5, "V = {vocab}, context {c}");
        }
        let want = plain_gradient(&model, &mask, &forward, &pseudo);
        let mut grads = vec![0.0; model.params().len()];
        model.backward(Some(&mask), &mut forward, &pseudo, &mut grads);
        let largest = want.iter().fold(0f64, |m, w| m.max(w.abs()));
        for (i, (got, want)) in grads.iter().zip(&want).enumerate() {
            assert!((f64::from(*got) - want).abs() < 1e-5 * largest, "V = {vocab}, {i}: {got} {want}");
        }
    }
}

#[test]
fn rows_sum_to_one_and_initialisation_is_seeded() {
    let model = Model::new(ModelKind::Network, 20, Stream::new(9));
    let q = model.probabilities();
    assert_eq!(q.len(), 20 * 21);
    for row in q.chunks(21) {
        assert!((row.iter().sum::<f64>() - 1.0).abs() < 1e-6);
    }
    assert_eq!(model.params(), Model::new(ModelKind::Network, 20, Stream::new(9)).params());
    assert_ne!(model.params(), Model::new(ModelKind::Network, 20, Stream::new(8)).params());
}
