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
