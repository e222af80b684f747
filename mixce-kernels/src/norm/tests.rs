//! The fused norms against plain operations and finite differences.

use candle_core::{Device, Var};

use super::*;
use crate::testing::{assert_close, assert_gradient, random};

/// Every form: both kinds, with a bias and without.
const FORMS: [(NormKind, bool); 4] =
    [(NormKind::Layer, true), (NormKind::Layer, false), (NormKind::Rms, true), (NormKind::Rms, false)];

fn norm((kind, bias): (NormKind, bool), c: usize, epsilon: f64) -> Result<Norm> {
    let bias = bias.then(|| random(&[c], 3)).transpose()?;
    Ok(Norm { weight: random(&[c], 2)?, bias, epsilon, kind })
}

#[test]
fn fused_equals_slow_forward_and_backward() -> Result<()> {
    let shapes = [(0, 4), (1, 1), (3, 7), (33, 16), (100, 129)];
    for (form, (n, c)) in FORMS.into_iter().flat_map(|form| shapes.map(|shape| (form, shape))) {
        let x = Var::from_tensor(&(random(&[n, c], 1)? * 3.0)?)?;
        let mut norm = norm(form, c, 1e-5)?;
        norm.weight = Var::from_tensor(&norm.weight)?.into_inner();
        norm.bias = norm
            .bias
            .map(|bias| Ok::<_, candle_core::Error>(Var::from_tensor(&bias)?.into_inner()))
            .transpose()?;
        let (fused, slow) = (norm.forward(&x)?, norm.forward_slow(&x)?);
        assert_close("y", &fused, &slow, 1e-5, 1e-5);
        if n == 0 {
            continue;
        }
        let projection = random(&[n, c], 4)?;
        let fused = fused.mul(&projection)?.sum_all()?.backward()?;
        let slow = slow.mul(&projection)?.sum_all()?.backward()?;
        // A single channel has zero variance: its exact gradient is 0, and rounding is amplified by 1 / sqrt(eps).
        let tolerance = if c == 1 { 1e-2 } else { 2e-4 };
        for variable in [x.as_tensor(), &norm.weight].into_iter().chain(&norm.bias) {
            let name = format!("{form:?} [{n}, {c}]");
            assert_close(&name, fused.get(variable).unwrap(), slow.get(variable).unwrap(), tolerance, 1e-4);
        }
    }
    Ok(())
}

#[test]
fn gradients_are_the_finite_differences() -> Result<()> {
    for form in FORMS {
        let (x, norm) = (random(&[5, 6], 1)?, norm(form, 6, 1e-3)?);
        assert_gradient("x", &x, |x| norm.forward(x))?;
        assert_gradient("weight", &norm.weight, |weight| {
            Norm { weight: weight.clone(), ..norm.clone() }.forward(&x)
        })?;
        if let Some(bias) = &norm.bias {
            assert_gradient("bias", bias, |bias| {
                Norm { bias: Some(bias.clone()), ..norm.clone() }.forward(&x)
            })?;
        }
    }
    Ok(())
}

/// By hand: mean 2, variance 2/3; mean of the squares 14/3.
#[test]
fn rows_are_scaled_by_the_formulas() -> Result<()> {
    let device = Device::Cpu;
    let (x, weight) = (Tensor::new(&[[1f32, 2.0, 3.0]], &device)?, Tensor::new(&[1f32, 2.0, 10.0], &device)?);
    let layer = 1.0 / (2f32 / 3.0 + 0.5).sqrt();
    let got = Norm::layer(weight.clone(), None, 0.5).forward(&x)?;
    assert_close("layer", &got, &Tensor::new(&[[-layer, 0.0, 10.0 * layer]], &device)?, 1e-6, 1e-6);
    let rms = 1.0 / (14f32 / 3.0 + 0.5).sqrt();
    let got = Norm::rms(weight, 0.5).forward(&x)?;
    assert_close("rms", &got, &Tensor::new(&[[rms, 4.0 * rms, 30.0 * rms]], &device)?, 1e-6, 1e-6);
    Ok(())
}

/// The square of 300 has no f16: half-precision rows are normalised in f32.
#[test]
fn half_precision_is_normalised_in_f32() -> Result<()> {
    let x = Tensor::new(&[[300f32, -300.0]], &Device::Cpu)?.to_dtype(DType::F16)?;
    let weight = Tensor::ones(2, DType::F16, &Device::Cpu)?;
    let y = Norm::rms(weight, 1e-6).forward(&x)?;
    assert_eq!(y.dtype(), DType::F16);
    assert_eq!(y.to_dtype(DType::F32)?.to_vec2::<f32>()?, [[1.0, -1.0]]);
    Ok(())
}

#[test]
fn what_does_not_fit_is_refused() -> Result<()> {
    let (x, weight) = (random(&[2, 4], 1)?, random(&[4], 2)?);
    let error = Norm::rms(random(&[3], 2)?, 1e-5).forward(&x).unwrap_err().to_string();
    assert!(error.contains("a weight of shape [4], got [3]"), "{error}");
    let error =
        Norm::layer(weight.clone(), Some(random(&[5], 2)?), 1e-5).forward(&x).unwrap_err().to_string();
    assert!(error.contains("a bias of shape [4], got [5]"), "{error}");
    let (norm, dx) = (Norm::rms(weight.clone(), 1e-5), x.zeros_like()?);
    let sums = |bias: Option<Tensor>| AffineGradients { weight: weight.clone(), bias };
    let error = norm.backward(&x, &x, &dx, &sums(Some(weight.clone()))).unwrap_err().to_string();
    assert!(error.contains("got a sum for a bias, but there is no bias"), "{error}");
    let norm = Norm::layer(weight.copy()?, Some(weight.copy()?), 1e-5);
    let error = norm.backward(&x, &x, &dx, &sums(None)).unwrap_err().to_string();
    assert!(error.contains("expected a sum for the bias, got none"), "{error}");
    Ok(())
}
