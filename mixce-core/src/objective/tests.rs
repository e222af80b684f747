use candle_core::{DType, Device, Tensor};

use super::*;

const P: [f64; 4] = [0.5, 0.3, 0.15, 0.05];

/// Every objective with a spread of parameters, the ends of their ranges included.
fn all() -> Vec<Box<dyn Objective>> {
    let mut objectives: Vec<Box<dyn Objective>> = vec![Box::new(Mle), Box::new(Dft)];
    for x in [0.0, 0.01, 0.1, 0.5, 0.9, 0.99, 1.0] {
        objectives.push(Box::new(MixCe::new(x).unwrap()));
        objectives.push(Box::new(Alpha::new(x).unwrap()));
        objectives.push(Box::new(TaiLr::new(x, 0.0).unwrap()));
        objectives.push(Box::new(TaiLr::new(x, 0.2).unwrap()));
        objectives.push(Box::new(Tvd::new(x).unwrap()));
        if x > 0.0 {
            objectives.push(Box::new(TrSft::new(x).unwrap()));
        }
    }
    objectives
}

fn grid() -> impl Iterator<Item = f64> {
    (1..=400).map(|i| -0.05 * f64::from(i))
}

/// Gradient descent on the logits of one context under the expected gradient `sum_j p_j w(q_j) (q - onehot_j)`.
fn descend(objective: &dyn Objective, p: &[f64], steps: usize) -> Vec<f64> {
    let mut logits: Vec<f64> = vec![0.0; p.len()];
    let softmax = |z: &[f64]| {
        let sum: f64 = z.iter().map(|z| z.exp()).sum();
        z.iter().map(|z| z.exp() / sum).collect::<Vec<_>>()
    };
    for _ in 0..steps {
        let q = softmax(&logits);
        let pull: Vec<f64> = p.iter().zip(&q).map(|(p, q)| p * objective.weight(q.ln())).collect();
        let total: f64 = pull.iter().sum();
        for ((z, q), pull) in logits.iter_mut().zip(&q).zip(&pull) {
            *z -= 2.0 * (total * q - pull);
        }
    }
    softmax(&logits)
}

fn assert_near(name: &str, got: &[f64], want: &[f64], tolerance: f64) {
    for (got, want) in got.iter().zip(want) {
        assert!((got - want).abs() < tolerance, "{name}: got {got}, want {want}");
    }
}

#[test]
fn population_optimum_of_mixce_is_reached_by_gradient_descent() {
    let golden = [
        (0.99, [0.500682, 0.299802, 0.149675, 0.049841]),
        (0.9, [0.507474, 0.297768, 0.146461, 0.048296]),
        (0.5, [0.564734, 0.276403, 0.121421, 0.037443]),
        (0.1, [0.824657, 0.124672, 0.039933, 0.010738]),
        (0.01, [0.979853, 0.014771, 0.004266, 0.001110]),
    ];
    for (eta, want) in golden {
        let objective = MixCe::new(eta).unwrap();
        assert_near("closed form", &objective.fixed_point(&P).unwrap(), &want, 1e-6);
        assert_near("descent", &descend(&objective, &P, 40_000), &want, 2e-6);
    }
}

#[test]
fn fixed_points_of_the_peers() {
    let alpha = Alpha::new(0.2).unwrap();
    assert_near("alpha", &alpha.fixed_point(&P).unwrap(), &[0.553610, 0.292343, 0.122915, 0.031132], 1e-6);
    assert_near("alpha", &descend(&alpha, &P, 20_000), &alpha.fixed_point(&P).unwrap(), 1e-6);
    for (gamma, want) in [(0.1, [0.590643, 0.309942, 0.099415, 0.0]), (0.3, [0.732143, 0.267857, 0.0, 0.0])] {
        let tailr = TaiLr::new(gamma, 0.0).unwrap();
        assert_near("tailr", &tailr.fixed_point(&P).unwrap(), &want, 1e-6);
        // The zeros are approached only like 1 / steps.
        assert_near("tailr descent", &descend(&tailr, &P, 200_000), &want, 1e-4);
    }
}

#[test]
fn fixed_points_are_distributions_and_keep_zeros() {
    let p = [0.7, 0.0, 0.3];
    for objective in all() {
        let Some(q) = objective.fixed_point(&p) else { continue };
        assert!((q.iter().sum::<f64>() - 1.0).abs() < 1e-9, "{objective:?}: {q:?}");
        assert_eq!(q[1], 0.0, "{objective:?}");
        assert!(q[0] >= 0.7 - 1e-12, "{objective:?} is not a sharpening: {q:?}");
        let one_hot = objective.fixed_point(&[0.0, 1.0]).unwrap();
        assert_near("one-hot", &one_hot, &[0.0, 1.0], 1e-9);
    }
}

#[test]
fn weights_on_tensors_equal_the_scalar_formula() {
    let log_q: Vec<f64> = grid().chain([0.0]).collect();
    let tensor = Tensor::new(log_q.as_slice(), &Device::Cpu).unwrap();
    for objective in all() {
        let want: Vec<f64> = log_q.iter().map(|l| objective.weight(*l)).collect();
        let got = objective.weights(&tensor).unwrap().to_vec1::<f64>().unwrap();
        assert_near(objective.name(), &got, &want, 1e-12);
        let single = objective.weights(&tensor.to_dtype(DType::F32).unwrap()).unwrap();
        assert_eq!(single.dtype(), DType::F32);
        let single: Vec<f64> = single.to_vec1::<f32>().unwrap().into_iter().map(f64::from).collect();
        assert_near(objective.name(), &single, &want, 2e-6);
    }
}

#[test]
fn weight_is_minus_the_derivative_of_the_potential() {
    for objective in all() {
        for log_q in grid() {
            let h = 1e-5;
            let slope = (objective.potential(log_q + h) - objective.potential(log_q - h)) / (2.0 * h);
            // At the knee of a clamp the derivative jumps; central differences see the average of both sides.
            let (low, high) = (objective.weight(log_q - h), objective.weight(log_q + h));
            let inside = -slope >= low.min(high) - 1e-6 && -slope <= low.max(high) + 1e-6;
            assert!(inside, "{objective:?} at {log_q}: slope {slope}, weight {low}..{high}");
        }
    }
}

#[test]
fn limits_equal_the_known_simpler_objective() {
    let pairs: [(Box<dyn Objective>, Box<dyn Objective>); 7] = [
        (Box::new(MixCe::new(1.0).unwrap()), Box::new(Mle)),
        (Box::new(MixCe::new(0.0).unwrap()), Box::new(Dft)),
        (Box::new(Alpha::new(0.0).unwrap()), Box::new(Mle)),
        (Box::new(Alpha::new(1.0).unwrap()), Box::new(Dft)),
        (Box::new(TaiLr::new(0.0, 0.2).unwrap()), Box::new(Mle)),
        (Box::new(TaiLr::new(1.0, 0.0).unwrap()), Box::new(Dft)),
        (Box::new(Tvd::new(1.0).unwrap()), Box::new(Mle)),
    ];
    for (limit, simple) in pairs {
        for log_q in grid() {
            assert!((limit.weight(log_q) - simple.weight(log_q)).abs() < 1e-12, "{limit:?} at {log_q}");
        }
    }
}

#[test]
fn nothing_is_nan_at_the_ends() {
    for objective in all() {
        for log_q in [0.0, -745.0, f64::NEG_INFINITY] {
            assert!(objective.weight(log_q).is_finite(), "{objective:?} at {log_q}");
            assert!(!objective.loss(log_q).is_nan(), "{objective:?} at {log_q}");
            assert!(!objective.potential(log_q).is_nan(), "{objective:?} at {log_q}");
        }
    }
}

#[test]
fn parameters_out_of_range_are_refused() {
    for value in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
        assert!(
            MixCe::new(value)
                .unwrap_err()
                .to_string()
                .contains("`eta` of objective `mixce` must be in [0, 1]")
        );
        assert!(Alpha::new(value).is_err() && TrSft::new(value).is_err() && Tvd::new(value).is_err());
        assert!(TaiLr::new(value, 0.0).is_err() && TaiLr::new(0.5, value).is_err());
    }
    assert!(TrSft::new(0.0).is_err());
    assert!(serde_json::from_str::<ObjectiveConfig>(r#"{"name": "mixce", "eta": 0.1, "gamma": 1}"#).is_err());
}
