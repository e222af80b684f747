//! Helpers of this crate's tests.

use candle_core::{Device, Result, Tensor};

use crate::rng::Stream;

/// Standard normal numbers, the same for the same seed.
pub(crate) fn random(shape: &[usize], seed: u64) -> Result<Tensor> {
    let stream = Stream::new(seed);
    let n: usize = shape.iter().product();
    let values: Vec<f32> = (0..n as u64).map(|i| stream.normal(i) as f32).collect();
    Tensor::from_vec(values, shape, &Device::Cpu)
}

/// Fails with the worst element unless `|got - want| <= atol + rtol * |want|` everywhere; non-finite values fail.
pub(crate) fn assert_close(name: &str, got: &Tensor, want: &Tensor, atol: f32, rtol: f32) {
    assert_eq!(got.dims(), want.dims(), "{name}: shapes differ");
    let flat = |t: &Tensor| t.flatten_all().and_then(|t| t.to_vec1::<f32>()).expect("an f32 tensor");
    let (got, want) = (flat(got), flat(want));
    let excess = |i: usize| (got[i] - want[i]).abs() - atol - rtol * want[i].abs();
    let bad = |i: &usize| !got[*i].is_finite() || !want[*i].is_finite() || excess(*i) > 0.0;
    if let Some(i) = (0..got.len()).filter(bad).max_by(|a, b| excess(*a).total_cmp(&excess(*b))) {
        panic!("{name}[{i}]: got {}, want {}, over the tolerance by {:e}", got[i], want[i], excess(i));
    }
}

/// Checks candle's gradient of `sum(f(x) * projection)` as [`assert_differences`] does.
pub(crate) fn assert_gradient(name: &str, x: &Tensor, f: impl Fn(&Tensor) -> Result<Tensor>) -> Result<()> {
    let projection = random(f(x)?.dims(), 91)?;
    let var = candle_core::Var::from_tensor(x)?;
    let gradients = f(&var)?.mul(&projection)?.sum_all()?.backward()?;
    assert_differences(name, x, gradients.get(&var).expect("a gradient"), &projection, f)
}

/// Checks a gradient of `sum(f(x) * projection)` against central differences, at every element of `x`.
///
/// The step is large (f32 outputs carry a relative error of about 1e-7, which the quotient divides by it) and the tolerance is
/// relative to the largest derivative.
pub(crate) fn assert_differences(
    name: &str,
    x: &Tensor,
    gradient: &Tensor,
    projection: &Tensor,
    f: impl Fn(&Tensor) -> Result<Tensor>,
) -> Result<()> {
    const STEP: f32 = 4e-3;
    assert_eq!(gradient.dims(), x.dims(), "{name}: shapes differ");
    let projected = |y: &Tensor| -> Result<f64> {
        let products =
            y.flatten_all()?.to_vec1::<f32>()?.into_iter().zip(projection.flatten_all()?.to_vec1::<f32>()?);
        Ok(products.map(|(y, p)| f64::from(y) * f64::from(p)).sum())
    };
    let gradient = gradient.flatten_all()?.to_vec1::<f32>()?;
    let scale = gradient.iter().fold(0f64, |m, g| m.max(f64::from(g.abs())));
    let values = x.flatten_all()?.to_vec1::<f32>()?;
    for (i, gradient) in gradient.into_iter().enumerate() {
        let shifted = |by: f32| {
            let mut values = values.clone();
            values[i] += by;
            projected(&f(&Tensor::from_vec(values, x.shape(), x.device())?)?)
        };
        let numeric = (shifted(STEP)? - shifted(-STEP)?) / (2.0 * f64::from(STEP));
        let error = (numeric - f64::from(gradient)).abs();
        assert!(error < 2e-3 * scale, "{name}[{i}]: gradient {gradient}, central difference {numeric}");
    }
    Ok(())
}
