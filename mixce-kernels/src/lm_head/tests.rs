use super::fused::{Problem, TILE, by_slices};
use super::*;
use crate::cross_entropy;
use crate::testing::{assert_close, random};
use candle_core::{DType, Device};

fn targets(n: usize, v: usize) -> Result<Tensor> {
    Tensor::from_vec((0..n).map(|i| (i * 7 % v) as u32).collect(), n, &Device::Cpu)
}

/// The weights of MixCE at eta 0.2.
struct Mixture;

impl TokenWeights for Mixture {
    fn weight(&self, log_q: f64) -> f64 {
        0.2 + 0.8 * log_q.exp()
    }

    fn weights(&self, log_q: &Tensor) -> Result<Tensor> {
        log_q.exp()?.affine(0.8, 0.2)
    }
}

const WEIGHTING: Weighting<'static> = Weighting { weights: &Mixture, denominator: 4.0 };

#[test]
fn fused_equals_plain_at_awkward_sizes() -> Result<()> {
    for (n, c, v) in [(0, 3, 5), (1, 1, 1), (7, 5, TILE), (40, 8, TILE + 1), (70, 16, 3 * TILE - 5)] {
        let (hidden, head, y) = (random(&[n, c], 1)?, random(&[v, c], 2)?, targets(n, v)?);
        let log_q = target_log_probs(&hidden, &head.clone().into(), &y, Precision::F32)?;
        assert_eq!(log_q.dims(), [n]);
        for slice in [1, 33, 1024] {
            let dhead = Tensor::ones((v, c), DType::F32, &Device::Cpu)?;
            let mut problem = Problem::new(&hidden, &head, Precision::F32)?;
            problem.slice = slice.min(n);
            let got = by_slices(&problem, [&hidden, &head, &y], WEIGHTING, &dhead)?;
            if n == 0 {
                assert_eq!(got.dhidden.dims(), [0, c]);
                continue;
            }
            let logits = hidden.matmul(&head.t()?)?;
            let want = cross_entropy::target_log_probs(&logits, &y)?;
            assert_close("log q", &got.log_q, &want, 2e-5, 1e-5);
            assert_close("log q alone", &log_q, &want, 2e-5, 1e-5);
            let weights: Vec<f32> =
                want.to_vec1::<f32>()?.iter().map(|l| (Mixture.weight(f64::from(*l)) / 4.0) as f32).collect();
            let weights = Tensor::new(weights.as_slice(), &Device::Cpu)?;
            let dlogits = cross_entropy::logits_gradient(&logits, &y, &weights)?;
            assert_close("dhidden", &got.dhidden, &dlogits.matmul(&head)?, 1e-4, 1e-4);
            assert_close("dhead", &dhead, &(dlogits.t()?.matmul(&hidden)? + 1.0)?, 1e-4, 1e-4);
        }
    }
    Ok(())
}

/// The path of other types, however the tokens are cut, against the fused one.
#[test]
fn plain_slices_do_not_change_the_result() -> Result<()> {
    let (n, c, v) = (23, 5, 17);
    let (hidden, head, y) = (random(&[n, c], 1)?, random(&[v, c], 2)?, targets(n, v)?);
    let dhead = head.ones_like()?;
    let want = weighted_cross_entropy(&hidden, &head.clone().into(), &y, WEIGHTING, &dhead, Precision::F32)?;
    for tokens in [1, 7, n - 1, n, 2 * n] {
        let sum = head.ones_like()?;
        let got = slow::weighted_cross_entropy(&hidden, &head, &y, WEIGHTING, &sum, tokens)?;
        assert_close("log q", &got.log_q, &want.log_q, 1e-5, 1e-5);
        assert_close("dhidden", &got.dhidden, &want.dhidden, 1e-6, 1e-5);
        assert_close("dhead", &sum, &dhead, 1e-5, 1e-5);
        assert_close(
            "log q alone",
            &slow::target_log_probs(&hidden, &head, &y, tokens)?,
            &want.log_q,
            1e-5,
            1e-5,
        );
    }
    // Through the public function, with a type without kernels.
    let [hidden, head] = [&hidden, &head].map(|t| t.to_dtype(DType::F64).unwrap());
    let sum = Tensor::ones((v, c), DType::F32, &Device::Cpu)?;
    let got = weighted_cross_entropy(&hidden, &head.clone().into(), &y, WEIGHTING, &sum, Precision::F32)?;
    assert_close("dhidden in f64", &got.dhidden.to_dtype(DType::F32)?, &want.dhidden, 1e-6, 1e-5);
    assert_close("dhead in f64", &sum, &dhead, 1e-5, 1e-5);
    let refused = weighted_cross_entropy(&hidden, &head.clone().into(), &y, WEIGHTING, &sum, Precision::Bf16);
    assert!(refused.unwrap_err().to_string().contains("got F64 on Cpu"));
    Ok(())
}

#[test]
fn extreme_logits_stay_finite_and_nan_stays_nan() -> Result<()> {
    let (hidden, y) = (Tensor::new(&[[1f32], [-1.0]], &Device::Cpu)?, Tensor::new(&[0u32, 0], &Device::Cpu)?);
    let head = Tensor::new(&[[1e4f32], [-1e4], [3e38]], &Device::Cpu)?;
    let log_q = target_log_probs(&hidden, &head.clone().into(), &y, Precision::F32)?.to_vec1::<f32>()?;
    assert!(log_q[0] == -3e38 && log_q[1] == -2e4, "{log_q:?}");
    let broken = Tensor::new(&[[1f32], [f32::NAN], [0.0]], &Device::Cpu)?;
    assert!(
        target_log_probs(&hidden, &broken.clone().into(), &y, Precision::F32)?
            .to_vec1::<f32>()?
            .iter()
            .all(|l| l.is_nan())
    );
    Ok(())
}

#[test]
fn what_does_not_fit_is_refused() -> Result<()> {
    let (hidden, head) = (random(&[3, 2], 1)?, random(&[5, 2], 2)?);
    let message = |r: Result<Tensor>| r.unwrap_err().to_string();
    assert!(
        message(target_log_probs(&hidden, &random(&[5, 4], 1)?.into(), &targets(3, 5)?, Precision::F32))
            .contains("[V, 2]")
    );
    assert!(
        message(target_log_probs(&hidden, &head.clone().into(), &targets(2, 5)?, Precision::F32))
            .contains("targets [3]")
    );
    assert!(
        message(target_log_probs(
            &hidden,
            &head.clone().into(),
            &Tensor::new(&[0u32, 1, 5], &Device::Cpu)?,
            Precision::F32
        ))
        .contains("target 5 of row 2")
    );
    Ok(())
}
