//! What the machine reaches in a plain matrix product: the yardstick of the share.

use anyhow::{Context as _, Result};
use candle_core::{Device, Tensor};
use mixce_kernels::rng::Stream;
use serde::Serialize;

use super::measure::timed;

/// Rows, inner size, columns: GPT-2 small's MLP at 2048 tokens, up and down, its LM head's gradient of a slice, and a square.
const SHAPES: [[usize; 3]; 4] = [[2048, 768, 3072], [2048, 3072, 768], [768, 512, 8192], [2048, 2048, 2048]];
/// Products of each shape; the best counts.
const REPETITIONS: usize = 6;

/// The best rate of one shape.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Peak {
    /// `[m, k, n]` of the product `[m, k] [k, n]`.
    pub(super) shape: [usize; 3],
    /// 2 m k n operations a product, in 10^9 a second.
    pub(super) gflops: f64,
}

/// The fastest of several f32 matrix products through candle, on all threads.
pub(super) fn peak(device: &Device) -> Result<Peak> {
    let mut best = Peak { shape: SHAPES[0], gflops: 0.0 };
    for shape in SHAPES {
        let [m, k, n] = shape;
        let (a, b) = (random([m, k], device)?, random([k, n], device)?);
        for _ in 0..REPETITIONS {
            let (_, seconds) =
                timed(device, || a.matmul(&b).context("a matrix product of the peak measurement failed"))?;
            let gflops = 2.0 * (m * k * n) as f64 / seconds / 1e9;
            if gflops > best.gflops {
                best = Peak { shape, gflops };
            }
        }
    }
    Ok(best)
}

/// Numbers in [-1, 1): some processors multiply zeros with less power, and then faster.
fn random(shape: [usize; 2], device: &Device) -> Result<Tensor> {
    let stream = Stream::new(0);
    let words = shape[0] * shape[1] / 4;
    let number = |word: u32| f64::from(word) / f64::from(1u32 << 31) - 1.0;
    let values: Vec<f32> =
        (0..words as u64).flat_map(|block| stream.u32s(block)).map(|word| number(word) as f32).collect();
    Tensor::from_vec(values, &shape, device).context("cannot make the matrices of the peak measurement")
}
