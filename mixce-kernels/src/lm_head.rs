//! The LM head and a token-weighted cross-entropy as one operation.
//!
//! Legend: N tokens, C channels, V vocabulary; S tokens of a slice, T tokens of the vocabulary of a tile.
//!
//! On the CPU the logits of a slice of tokens are made tile by tile, and while a tile is in the cache its share of `log sum exp` is
//! taken. When all of a slice's tiles are there the weights are known, and each tile becomes its gradient just before the two
//! products that need it. On CUDA a slice is one tile, and nothing is read back. The full matrix of logits never exists, and none is computed twice.

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

use crate::cpu::{self, ROWS_PER_TASK, with_slices, with_slices_mut};
use crate::cross_entropy::check_targets;
#[cfg(feature = "cuda")]
use crate::cuda;
use crate::math;
use crate::simd::{self, vectorised};
use crate::{Matrix, Precision, matmul};

/// Logits of a slice take at most about this much memory: on the CPU 1000 tokens of GPT-2's vocabulary, on CUDA 2600.
const SLICE_BYTES: usize = 192 << 20;
const CUDA_SLICE_BYTES: usize = 512 << 20;
/// Most tokens of a slice, and columns of a tile: together 8 MB of logits, which stay in the last-level cache.
const SLICE_TOKENS: usize = 1024;
const TILE: usize = 2048;

/// How many of `tokens` tokens have logits at the same time in the passes of this module, for a vocabulary of `v`.
#[must_use]
pub fn slice_tokens(tokens: usize, v: usize, on_cuda: bool) -> usize {
    let (bytes, most) = if on_cuda { (CUDA_SLICE_BYTES, usize::MAX) } else { (SLICE_BYTES, SLICE_TOKENS) };
    (bytes / 4 / v.max(1)).clamp(1, most).min(tokens)
}

/// `log q_t = z_t[y_t] - log sum_j exp(z_t[j])` of each target under the logits `z = hidden head^T`: `[N]` f32 (nats).
///
/// `hidden` is `[N, C]`, `head` `[V, C]`, `targets` `[N]` u32.
///
/// # Errors
/// When shapes do not fit, a target is not below `V`, or a tensor is not f32 on the CPU.
pub fn target_log_probs(hidden: &Tensor, head: &Tensor, targets: &Tensor) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if [hidden, head].into_iter().all(cuda::is_cuda_f32) {
        check(hidden, head, targets)?;
        return cuda::cross_entropy::target_log_probs(hidden, head, targets);
    }
    let (problem, targets) = (Problem::new(hidden, head, targets)?, targets.to_vec1::<u32>()?);
    let log_q = with_slices("lm_head", [hidden, head], |[hidden, head]| {
        let mut log_q = Vec::with_capacity(targets.len());
        let mut tile = vec![0f32; problem.slice * problem.tile];
        for (start, targets) in problem.slices(&targets) {
            let hidden = problem.hidden(hidden, start, targets.len());
            let mut rows = Row::all(targets);
            for (first, columns) in problem.tiles() {
                let tile = &mut tile[..targets.len() * columns];
                problem.logits(tile, hidden, head, first, columns);
                add_tile(&mut rows, tile, first, columns);
            }
            log_q.extend(rows.iter().map(Row::log_q));
        }
        log_q
    })?;
    Tensor::from_vec(log_q, problem.n, hidden.device())
}

/// What [`weighted_cross_entropy`] returns.
#[derive(Clone, Debug)]
pub struct CrossEntropy {
    /// `log q` of each target (nats), `[N]`.
    pub log_q: Tensor,
    /// The gradient of the hidden states, `[N, C]`.
    pub dhidden: Tensor,
}

/// Forward and backward pass of `sum_t w_t (-log q_t)` at once, with constant weights `w_t = weight(log q_t)`.
///
/// Shapes as in [`target_log_probs`]. The gradient with respect to the logits is `w_t (softmax(z_t) - onehot(y_t))`: that of
/// the hidden states is returned, that of `head` is added to `dhead` `[V, C]` in place. `precision` is that of the three matrix
/// products; softmax and sums are f32.
///
/// # Errors
/// When shapes do not fit, a target is not below `V`, or a tensor is not f32 on the CPU.
pub fn weighted_cross_entropy(
    hidden: &Tensor,
    head: &Tensor,
    targets: &Tensor,
    weight: &(dyn Fn(f64) -> f64 + Sync),
    dhead: &Tensor,
    precision: Precision,
) -> Result<CrossEntropy> {
    let problem = Problem { precision, ..Problem::new(hidden, head, targets)? };
    by_slices(&problem, hidden, head, targets, weight, dhead)
}

/// The weights `[n]` of tokens, given their `log q` `[n]`, in candle operations.
pub type TokenWeights<'a> = &'a dyn Fn(&Tensor) -> Result<Tensor>;

/// [`weighted_cross_entropy`] where the numbers are not to be read back: the weights are `scale * weights(log q)`, candle operations on
/// the device. A target that is not below `V` gives NaN.
///
/// # Errors
/// When shapes do not fit, a tensor is not f32 on a CUDA device, or this is a build without CUDA.
pub fn weighted_cross_entropy_on_device(
    hidden: &Tensor,
    head: &Tensor,
    targets: &Tensor,
    (weights, scale): (TokenWeights<'_>, f64),
    dhead: &Tensor,
    precision: Precision,
) -> Result<CrossEntropy> {
    check(hidden, head, targets)?;
    check_gradient(head, dhead)?;
    #[cfg(feature = "cuda")]
    if [hidden, head].into_iter().all(cuda::is_cuda_f32) {
        let (log_q, dhidden) = cuda::in_precision!(
            precision,
            cuda::cross_entropy::weighted_cross_entropy(hidden, head, targets, (weights, scale), dhead)
        )?;
        return Ok(CrossEntropy { log_q, dhidden });
    }
    let _ = (weights, scale, precision);
    bail!("lm_head: expected f32 tensors on a CUDA device, in a build with CUDA")
}

fn by_slices(
    problem: &Problem,
    hidden: &Tensor,
    head: &Tensor,
    targets: &Tensor,
    weight: &(dyn Fn(f64) -> f64 + Sync),
    dhead: &Tensor,
) -> Result<CrossEntropy> {
    let (op, targets) = ("lm_head", targets.to_vec1::<u32>()?);
    check_gradient(head, dhead)?;
    let (mut log_q, mut dhidden) = (Vec::with_capacity(problem.n), vec![0f32; problem.n * problem.c]);
    with_slices(op, [hidden, head], |[hidden, head]| {
        with_slices_mut(op, [dhead], |[dhead]| {
            let mut logits = vec![0f32; problem.slice * problem.v];
            for (start, targets) in problem.slices(&targets) {
                let hidden = problem.hidden(hidden, start, targets.len());
                let dhidden = &mut dhidden[start * problem.c..][..targets.len() * problem.c];
                let mut rows = Row::all(targets);
                for (first, columns) in problem.tiles() {
                    let tile = &mut logits[targets.len() * first..][..targets.len() * columns];
                    problem.logits(tile, hidden, head, first, columns);
                    add_tile(&mut rows, tile, first, columns);
                }
                rows.iter_mut().for_each(|row| row.weight = weight(f64::from(row.log_q())) as f32);
                log_q.extend(rows.iter().map(Row::log_q));
                for (first, columns) in problem.tiles() {
                    let tile = &mut logits[targets.len() * first..][..targets.len() * columns];
                    turn_into_gradient(&rows, tile, first, columns);
                    problem.gradients(tile, (hidden, head), (first, columns), dhidden, dhead);
                }
            }
        })
    })??;
    let dhidden = Tensor::from_vec(dhidden, (problem.n, problem.c), hidden.device())?;
    Ok(CrossEntropy { log_q: Tensor::from_vec(log_q, problem.n, hidden.device())?, dhidden })
}

/// N, C and V of operands that fit.
fn check(hidden: &Tensor, head: &Tensor, targets: &Tensor) -> Result<(usize, usize, usize)> {
    let ((n, c), (v, head_c)) = (hidden.dims2()?, head.dims2()?);
    if head_c != c || targets.dims() != [n] {
        let (head, targets) = (head.dims(), targets.dims());
        bail!("lm_head: expected a head [V, {c}] and targets [{n}], got {head:?} and {targets:?}");
    }
    Ok((n, c, v))
}

fn check_gradient(head: &Tensor, dhead: &Tensor) -> Result<()> {
    match dhead.dims() == head.dims() {
        true => Ok(()),
        false => bail!("lm_head: expected a gradient of shape {:?}, got {:?}", head.dims(), dhead.dims()),
    }
}

/// The sizes.
struct Problem {
    precision: Precision,
    n: usize,
    c: usize,
    v: usize,
    slice: usize,
    tile: usize,
}

impl Problem {
    fn new(hidden: &Tensor, head: &Tensor, targets: &Tensor) -> Result<Self> {
        let (n, c, v) = check(hidden, head, targets)?;
        if ![hidden, head].into_iter().all(cpu::is_cpu_f32) {
            bail!("lm_head: expected f32 tensors on the CPU");
        }
        check_targets(&targets.to_vec1::<u32>()?, v)?;
        let slice = slice_tokens(n, v, false);
        Ok(Self { precision: Precision::F32, n, c, v, slice, tile: TILE.min(v) })
    }

    /// `(first token, targets)` of the slices.
    fn slices<'a>(&self, targets: &'a [u32]) -> impl Iterator<Item = (usize, &'a [u32])> + use<'a> {
        let slice = self.slice.max(1);
        targets.chunks(slice).enumerate().map(move |(i, targets)| (i * slice, targets))
    }

    /// `(first column, columns)` of the tiles.
    fn tiles(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let (v, tile) = (self.v, self.tile.max(1));
        (0..v).step_by(tile).map(move |first| (first, tile.min(v - first)))
    }

    fn hidden<'a>(&self, hidden: &'a [f32], start: usize, tokens: usize) -> Matrix<'a> {
        Matrix::new(&hidden[start * self.c..][..tokens * self.c], self.c)
    }

    fn head<'a>(&self, head: &'a [f32], first: usize, columns: usize) -> Matrix<'a> {
        Matrix::new(&head[first * self.c..][..columns * self.c], self.c)
    }

    /// A tile `[S, T]` of logits.
    fn logits(&self, tile: &mut [f32], hidden: Matrix<'_>, head: &[f32], first: usize, columns: usize) {
        matmul(self.precision, tile, columns, false, hidden, self.head(head, first, columns).t());
    }

    /// Adds what a tile of the logits' gradient gives to the gradients of hidden states and head.
    fn gradients(
        &self,
        tile: &[f32],
        (hidden, head): (Matrix<'_>, &[f32]),
        (first, columns): (usize, usize),
        dhidden: &mut [f32],
        dhead: &mut [f32],
    ) {
        let tile = Matrix::new(tile, columns);
        matmul(self.precision, dhidden, self.c, true, tile, self.head(head, first, columns));
        let dhead = &mut dhead[first * self.c..][..columns * self.c];
        matmul(self.precision, dhead, self.c, true, tile.t(), hidden);
    }
}

/// What is known of a token's logits.
#[derive(Clone, Copy)]
struct Row {
    target: usize,
    target_logit: f32,
    /// The largest logit so far, and the sum of `exp(z - max)`.
    max: f32,
    sum: f64,
    weight: f32,
}

impl Row {
    fn all(targets: &[u32]) -> Vec<Self> {
        let row = |y: &u32| Self {
            target: *y as usize,
            target_logit: f32::NAN,
            max: f32::NEG_INFINITY,
            sum: 0.0,
            weight: 0.0,
        };
        targets.iter().map(row).collect()
    }

    fn log_z(&self) -> f32 {
        (f64::from(self.max) + self.sum.ln()) as f32
    }

    fn log_q(&self) -> f32 {
        let log_q = self.target_logit - self.log_z();
        // Not `min`, which would turn NaN into 0: a broken model would look certain of everything.
        if log_q > 0.0 { 0.0 } else { log_q }
    }

    /// Takes in the logits `z` of the columns `first..`.
    #[inline(always)]
    fn add(&mut self, z: &[f32], first: usize) {
        if let Some(logit) = self.target.checked_sub(first).and_then(|column| z.get(column)) {
            self.target_logit = *logit;
        }
        let max = simd::max(z).max(self.max);
        // Where all logits are minus infinity or NaN, shifting by 0 keeps the sum what it is.
        let shift = if max.is_finite() { max } else { 0.0 };
        let sum = f64::from(simd::sum(z, |z| math::exp(z - shift)));
        let before = if self.sum > 0.0 { self.sum * f64::from(self.max - shift).exp() } else { self.sum };
        (self.sum, self.max) = (before + sum, shift);
    }
}

fn add_tile(rows: &mut [Row], tile: &[f32], first: usize, columns: usize) {
    let tasks = rows.par_chunks_mut(ROWS_PER_TASK).zip(tile.par_chunks((ROWS_PER_TASK * columns).max(1)));
    tasks.for_each(|(rows, tile)| {
        vectorised(|| rows.iter_mut().zip(tile.chunks(columns)).for_each(|(row, z)| row.add(z, first)));
    });
}

/// `z = w (softmax(z) - onehot(y))` for the columns `first..`.
fn turn_into_gradient(rows: &[Row], tile: &mut [f32], first: usize, columns: usize) {
    let tasks = tile.par_chunks_mut((ROWS_PER_TASK * columns).max(1)).zip(rows.par_chunks(ROWS_PER_TASK));
    tasks.for_each(|(tile, rows)| {
        vectorised(|| {
            for (z, row) in tile.chunks_mut(columns).zip(rows) {
                let (log_z, weight) = (row.log_z(), row.weight);
                z.iter_mut().for_each(|z| *z = weight * math::exp(*z - log_z));
                if let Some(z) = row.target.checked_sub(first).and_then(|column| z.get_mut(column)) {
                    *z -= weight;
                }
            }
        });
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cross_entropy;
    use crate::testing::{assert_close, random};
    use candle_core::{DType, Device};

    fn targets(n: usize, v: usize) -> Result<Tensor> {
        Tensor::from_vec((0..n).map(|i| (i * 7 % v) as u32).collect(), n, &Device::Cpu)
    }

    #[test]
    fn fused_equals_plain_at_awkward_sizes() -> Result<()> {
        let weight = |log_q: f64| 0.2 + 0.8 * log_q.exp();
        for (n, c, v) in [(0, 3, 5), (1, 1, 1), (7, 5, TILE), (40, 8, TILE + 1), (70, 16, 3 * TILE - 5)] {
            let (hidden, head, y) = (random(&[n, c], 1)?, random(&[v, c], 2)?, targets(n, v)?);
            let log_q = target_log_probs(&hidden, &head, &y)?;
            assert_eq!(log_q.dims(), [n]);
            for slice in [1, 33, 1024] {
                let dhead = Tensor::ones((v, c), DType::F32, &Device::Cpu)?;
                let problem = Problem { slice: slice.min(n), ..Problem::new(&hidden, &head, &y)? };
                let got = by_slices(&problem, &hidden, &head, &y, &weight, &dhead)?;
                if n == 0 {
                    assert_eq!(got.dhidden.dims(), [0, c]);
                    continue;
                }
                let logits = hidden.matmul(&head.t()?)?;
                let want = cross_entropy::target_log_probs(&logits, &y)?;
                assert_close("log q", &got.log_q, &want, 2e-5, 1e-5);
                assert_close("log q alone", &log_q, &want, 2e-5, 1e-5);
                let weights: Vec<f32> =
                    want.to_vec1::<f32>()?.iter().map(|l| weight(f64::from(*l)) as f32).collect();
                let weights = Tensor::new(weights.as_slice(), &Device::Cpu)?;
                let dlogits = cross_entropy::logits_gradient(&logits, &y, &weights)?;
                assert_close("dhidden", &got.dhidden, &dlogits.matmul(&head)?, 1e-4, 1e-4);
                assert_close("dhead", &dhead, &(dlogits.t()?.matmul(&hidden)? + 1.0)?, 1e-4, 1e-4);
            }
        }
        Ok(())
    }

    #[test]
    fn extreme_logits_stay_finite_and_nan_stays_nan() -> Result<()> {
        let (hidden, y) =
            (Tensor::new(&[[1f32], [-1.0]], &Device::Cpu)?, Tensor::new(&[0u32, 0], &Device::Cpu)?);
        let head = Tensor::new(&[[1e4f32], [-1e4], [3e38]], &Device::Cpu)?;
        let log_q = target_log_probs(&hidden, &head, &y)?.to_vec1::<f32>()?;
        assert!(log_q[0] == -3e38 && log_q[1] == -2e4, "{log_q:?}");
        let broken = Tensor::new(&[[1f32], [f32::NAN], [0.0]], &Device::Cpu)?;
        assert!(target_log_probs(&hidden, &broken, &y)?.to_vec1::<f32>()?.iter().all(|l| l.is_nan()));
        Ok(())
    }

    #[test]
    fn what_does_not_fit_is_refused() -> Result<()> {
        let (hidden, head) = (random(&[3, 2], 1)?, random(&[5, 2], 2)?);
        let message = |r: Result<Tensor>| r.unwrap_err().to_string();
        assert!(message(target_log_probs(&hidden, &random(&[5, 4], 1)?, &targets(3, 5)?)).contains("[V, 2]"));
        assert!(message(target_log_probs(&hidden, &head, &targets(2, 5)?)).contains("targets [3]"));
        assert!(
            message(target_log_probs(&hidden, &head, &Tensor::new(&[0u32, 1, 5], &Device::Cpu)?))
                .contains("target 5 of row 2")
        );
        Ok(())
    }
}
