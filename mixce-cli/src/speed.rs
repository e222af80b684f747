//! Timing on a device, medians of times, and the peak rate for plain matrix products, to which shares are relative.

use std::time::Instant;

use anyhow::{Context as _, Result};
use candle_core::{Device, Tensor};
use mixce_kernels::rng::Stream;
use mixce_kernels::{Matrix, Precision, matmul};
use serde::Serialize;

/// Rows, inner size, columns: GPT-2 small's MLP at 2048 tokens, up and down, its LM head's gradient of a slice, and a square.
const SHAPES: [[usize; 3]; 4] = [[2048, 768, 3072], [2048, 3072, 768], [768, 512, 8192], [2048, 2048, 2048]];
/// Sides of larger squares, for devices that finish a product within [`SHORT_S`]: small products do not fill a GPU.
const SIDES: [usize; 2] = [4096, 8192];
const SHORT_S: f64 = 0.01;
/// Products per shape while time remains; the best counts.
const REPETITIONS: usize = 6;
/// Time limit of the measurement, beyond one product per shape.
const ENOUGH_S: f64 = 5.0;
/// A device that takes this long for one product (an emulated one) gets no further ones.
const SLOW_S: f64 = 0.5;

/// Runs `f` and synchronizes the device; returns the result and the seconds taken.
pub(crate) fn timed<T>(device: &Device, f: impl FnOnce() -> Result<T>) -> Result<(T, f64)> {
    device.synchronize().context("cannot synchronize the device")?;
    let started_at = Instant::now();
    let result = f()?;
    device.synchronize().context("cannot synchronize the device")?;
    Ok((result, started_at.elapsed().as_secs_f64()))
}

/// The rate of matrix products that shares are relative to.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Peak {
    /// `[m, k, n]` of the fastest product `[m, k] [k, n]`; none if the rate was given.
    pub(crate) shape: Option<[usize; 3]>,
    /// 10^9 floating-point operations per second, 2 m k n per product.
    pub(crate) gflops: f64,
}

/// The fastest of several f32 matrix products on all threads, through candle and, on the CPU, also through [`matmul`].
pub(crate) fn peak(device: &Device) -> Result<Peak> {
    let (mut best, started_at) = (Peak { shape: None, gflops: 0.0 }, Instant::now());
    let mut last_s = f64::INFINITY;
    for (shape, always) in SHAPES.map(|s| (s, true)).into_iter().chain(SIDES.map(|n| ([n; 3], false))) {
        if !always && last_s > SHORT_S {
            break;
        }
        let [m, k, n] = shape;
        let (left, right) = (random(m * k), random(k * n));
        let tensor = |values: &[f32], shape: [usize; 2]| {
            Tensor::from_slice(values, &shape, device)
                .context("cannot create the matrices of the peak measurement")
        };
        let (a, b) = (tensor(&left, [m, k])?, tensor(&right, [k, n])?);
        let mut ours = vec![0f32; if device.is_cpu() { m * n } else { 0 }];
        for repetition in 0..REPETITIONS {
            if repetition > 0 && started_at.elapsed().as_secs_f64() > ENOUGH_S {
                break;
            }
            let (_, mut seconds) =
                timed(device, || a.matmul(&b).context("a matrix product of the peak measurement failed"))?;
            if device.is_cpu() {
                let (left, right) = (Matrix::new(&left, k), Matrix::new(&right, n));
                let (_, own) = timed(device, || {
                    matmul(Precision::F32, &mut ours, n, false, left, right);
                    Ok(())
                })?;
                seconds = seconds.min(own);
            }
            let gflops = 2.0 * (m * k * n) as f64 / seconds / 1e9;
            if gflops > best.gflops {
                best = Peak { shape: Some(shape), gflops };
            }
            if seconds > SLOW_S {
                return Ok(best);
            }
            last_s = seconds;
        }
    }
    Ok(best)
}

/// Numbers in [-1, 1): multiplying zeros takes less power and is faster on some processors.
fn random(n: usize) -> Vec<f32> {
    let stream = Stream::new(0);
    let number = |word: u32| (f64::from(word) / f64::from(1u32 << 31) - 1.0) as f32;
    (0..n as u64 / 4).flat_map(|block| stream.u32s(block)).map(number).collect()
}

/// In ascending order.
pub(crate) fn sorted(values: impl IntoIterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values
}

/// The median: the middle of the sorted numbers, or the mean of the middle two; 0 if empty.
pub(crate) fn median(sorted: &[f64]) -> f64 {
    let n = sorted.len();
    match (n, n % 2) {
        (0, _) => 0.0,
        (_, 1) => sorted[n / 2],
        _ => (sorted[n / 2 - 1] + sorted[n / 2]) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!([median(&[]), median(&[3.0]), median(&[1.0, 2.0, 9.0])], [0.0, 3.0, 2.0]);
    }
}
