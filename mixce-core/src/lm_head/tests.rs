use candle_core::{D, Device, Var};
use mixce_kernels::rng::Stream;

use super::*;
use crate::objective::{MixCe, Mle, TaiLr};

fn random(shape: &[usize], seed: u64) -> Tensor {
    let stream = Stream::new(seed);
    let n: usize = shape.iter().product();
    let values: Vec<f32> = (0..n as u64).map(|i| stream.normal(i) as f32).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

fn targets(n: usize, v: usize) -> Tensor {
    let ids: Vec<u32> = (0..n).map(|i| (i * 7 % v) as u32).collect();
    Tensor::from_vec(ids, n, &Device::Cpu).unwrap()
}

/// The same loss in plain candle operations, differentiated by candle.
fn reference(hidden: &Tensor, head: &Tensor, y: &Tensor, objective: &dyn Objective, n: f64) -> Tensor {
    let logits = hidden.matmul(&head.t().unwrap()).unwrap();
    let exp_sum = logits.exp().unwrap().sum_keepdim(D::Minus1).unwrap();
    let log_softmax = logits.broadcast_sub(&exp_sum.log().unwrap()).unwrap();
    let log_q = log_softmax.gather(&y.unsqueeze(1).unwrap(), 1).unwrap().squeeze(1).unwrap();
    let weights = objective.weights(&log_q.detach()).unwrap();
    ((weights * log_q).unwrap().sum_all().unwrap() / -n).unwrap()
}

fn max_difference(a: &Tensor, b: &Tensor) -> f32 {
    (a - b).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar().unwrap()
}

#[test]
fn loss_and_gradients_equal_the_plain_path() {
    for (n, c, v) in [(1, 1, 1), (5, 3, 11), (40, 8, 101)] {
        let hidden = Var::from_tensor(&random(&[n, c], 1)).unwrap();
        let head = Var::from_tensor(&random(&[v, c], 2)).unwrap();
        let y = targets(n, v);
        for objective in [&Mle as &dyn Objective, &MixCe::new(0.1).unwrap(), &TaiLr::new(0.3, 0.2).unwrap()] {
            let got = lm_head_loss(&hidden, &head, &y, objective, n as f64).unwrap();
            let want = reference(&hidden, &head, &y, objective, n as f64);
            assert!(max_difference(&got.loss, &want) < 1e-5);
            let (got_grads, want_grads) = (got.loss.backward().unwrap(), want.backward().unwrap());
            for var in [&hidden, &head] {
                assert!(max_difference(got_grads.get(var).unwrap(), want_grads.get(var).unwrap()) < 1e-5);
            }
            let log_q = lm_head_log_q(&hidden, &head.as_tensor().clone().into(), &y, Precision::F32).unwrap();
            assert!(max_difference(&log_q, &got.log_q) < 1e-6);
        }
    }
}

/// f64 takes the path of plain operations.
#[test]
fn other_types_give_the_same_result() {
    let (n, c, v) = (23, 5, 17);
    let (hidden, head, y) = (random(&[n, c], 1), random(&[v, c], 2), targets(n, v));
    let objective = MixCe::new(0.5).unwrap();
    let run = |dtype: DType| {
        let [hidden, head] = [&hidden, &head].map(|t| Var::from_tensor(&t.to_dtype(dtype).unwrap()).unwrap());
        let LmHeadLoss { loss, log_q } = lm_head_loss(&hidden, &head, &y, &objective, n as f64).unwrap();
        let gradients = loss.backward().unwrap();
        let [dhidden, dhead] =
            [&hidden, &head].map(|var| gradients.get(var).unwrap().to_dtype(DType::F32).unwrap());
        assert!(
            max_difference(
                &lm_head_log_q(&hidden, &head.as_tensor().clone().into(), &y, Precision::F32).unwrap(),
                &log_q
            ) < 1e-6
        );
        [loss, log_q, dhidden, dhead]
    };
    for (got, want) in run(DType::F64).iter().zip(&run(DType::F32)) {
        assert!(max_difference(got, want) < 1e-6);
    }
}

/// The weight is constant in the loss but not in the potential, whose derivative the gradient therefore is.
#[test]
fn gradients_are_the_finite_differences_of_the_potential() {
    let (n, c, v) = (4, 3, 6);
    let (hidden, head, y) = (random(&[n, c], 1), random(&[v, c], 2), targets(n, v));
    for objective in [&Mle as &dyn Objective, &MixCe::new(0.2).unwrap(), &TaiLr::new(0.3, 0.0).unwrap()] {
        let potential = |hidden: &Tensor, head: &Tensor| -> f64 {
            let log_q = lm_head_log_q(hidden, &head.clone().into(), &y, Precision::F32)
                .unwrap()
                .to_vec1::<f32>()
                .unwrap();
            log_q.into_iter().map(|l| objective.potential(f64::from(l))).sum::<f64>() / n as f64
        };
        let (h, w) = (Var::from_tensor(&hidden).unwrap(), Var::from_tensor(&head).unwrap());
        let gradients = lm_head_loss(&h, &w, &y, objective, n as f64).unwrap().loss.backward().unwrap();
        for (which, var) in [(0, &h), (1, &w)] {
            let gradient = gradients.get(var).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
            for (i, gradient) in gradient.into_iter().enumerate() {
                let at = |step: f32| {
                    let mut values = var.flatten_all().unwrap().to_vec1::<f32>().unwrap();
                    values[i] += step;
                    let moved = Tensor::from_vec(values, var.shape(), &Device::Cpu).unwrap();
                    if which == 0 { potential(&moved, &head) } else { potential(&hidden, &moved) }
                };
                let numeric = (at(4e-3) - at(-4e-3)) / 8e-3;
                assert!(
                    (numeric - f64::from(gradient)).abs() < 5e-4,
                    "{objective:?} {which}[{i}]: {gradient} {numeric}"
                );
            }
        }
    }
}

#[test]
fn an_outer_factor_scales_the_gradients() {
    let hidden = Var::from_tensor(&random(&[3, 2], 1)).unwrap();
    let head = Var::from_tensor(&random(&[5, 2], 2)).unwrap();
    let loss = lm_head_loss(&hidden, &head, &targets(3, 5), &Mle, 3.0).unwrap().loss;
    let once = loss.backward().unwrap();
    let thrice = (loss * 3.0).unwrap().backward().unwrap();
    for var in [&hidden, &head] {
        let once = (once.get(var).unwrap() * 3.0).unwrap();
        assert!(max_difference(&once, thrice.get(var).unwrap()) < 1e-6);
    }
}

#[test]
fn no_tokens_is_a_loss_of_zero() {
    let loss = lm_head_loss(&random(&[0, 2], 1), &random(&[5, 2], 2), &targets(0, 5), &Mle, 1.0).unwrap();
    assert_eq!(loss.loss.to_scalar::<f32>().unwrap(), 0.0);
    assert_eq!(loss.log_q.dims(), [0]);
}

#[test]
fn what_does_not_fit_is_refused() {
    let (hidden, head) = (random(&[3, 2], 1), random(&[5, 2], 2));
    let message = |r: Result<LmHeadLoss>| r.unwrap_err().to_string();
    assert!(
        message(lm_head_loss(&hidden, &random(&[5, 4], 1), &targets(3, 5), &Mle, 1.0)).contains("[5, 4]")
    );
    assert!(message(lm_head_loss(&hidden, &head, &targets(2, 5), &Mle, 1.0)).contains("3 targets"));
    assert!(message(lm_head_loss(&hidden, &head, &targets(3, 5), &Mle, 0.0)).contains("positive"));
    let outside = Tensor::new(&[0u32, 1, 5], &Device::Cpu).unwrap();
    assert!(message(lm_head_loss(&hidden, &head, &outside, &Mle, 1.0)).contains("target 5 of row 2"));
}
