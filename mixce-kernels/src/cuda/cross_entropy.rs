//! The LM head with its loss, by slices of tokens.
//!
//! Legend: N tokens, C channels, V vocabulary.

use candle_core::{DType, Result, Tensor, bail};

use super::cast::rounded;
use super::matmul::Matrix;
use super::{
    Array, Element, Gpu, Grid, expect_len, in_precision, launch, name_of, uninitialised, unsigned,
    with_arrays,
};
use crate::Precision;
use crate::lm_head::{CrossEntropy, Weighting, slice_tokens};

/// `(first token, tokens)` of the slices of `n` tokens.
fn slices(n: usize, v: usize) -> impl Iterator<Item = (usize, usize)> {
    let slice = slice_tokens(n, v, true).max(1);
    (0..n).step_by(slice).map(move |start| (start, slice.min(n - start)))
}

impl Gpu<'_> {
    /// `log q` of each target, `[N]`; NaN for a target that is not below V.
    pub(crate) fn target_log_probs(
        &self,
        hidden: &Tensor,
        head: &Tensor,
        targets: &Tensor,
    ) -> Result<Tensor> {
        let ((n, c), v, op) = (hidden.dims2()?, head.dim(0)?, "lm_head");
        let log_q = uninitialised(n, DType::F32, hidden)?;
        let (log_z, logits) = (
            uninitialised(n, DType::F32, hidden)?,
            uninitialised((slice_tokens(n, v, true), v), DType::F32, hidden)?,
        );
        with_arrays(op, [targets], [], |_, [targets], []| {
            with_arrays(
                op,
                [hidden, head],
                [&log_q, &log_z, &logits],
                |gpu, [hidden, head], [log_q, log_z, logits]| {
                    for (start, len) in slices(n, v) {
                        let logits = logits.range(0, len * v);
                        let hidden = Matrix::new(hidden.range(start * c, len * c), c);
                        gpu.matmul(Matrix::new(logits, v), false, hidden, Matrix::new(head, c).t())?;
                        let [log_q, log_z] = [log_q, log_z].map(|array| array.range(start, len));
                        gpu.log_probs_of_logits(logits, targets.range(start, len), log_q, log_z)?;
                    }
                    Ok(())
                },
            )
        })?;
        Ok(log_q)
    }

    /// See [`crate::lm_head::weighted_cross_entropy`].
    pub(crate) fn weighted_cross_entropy(
        &self,
        hidden: &Tensor,
        head: &Tensor,
        targets: &Tensor,
        weighting: Weighting<'_>,
        dhead: &Tensor,
        precision: Precision,
    ) -> Result<CrossEntropy> {
        in_precision!(precision, weighted_cross_entropy(hidden, head, targets, weighting, dhead))
    }
}

/// The operands of the products have type T: hidden states and head are converted once, and the logits' gradient as it is computed.
/// Logits and results are f32.
fn weighted_cross_entropy<T: Element>(
    hidden: &Tensor,
    head: &Tensor,
    targets: &Tensor,
    Weighting { weights, denominator }: Weighting<'_>,
    dhead: &Tensor,
) -> Result<CrossEntropy> {
    let ((n, c), v, op) = (hidden.dims2()?, head.dim(0)?, "lm_head");
    let scale = 1.0 / denominator;
    let slice = slice_tokens(n, v, true);
    let (log_q, log_z) = (uninitialised(n, DType::F32, hidden)?, uninitialised(n, DType::F32, hidden)?);
    let (dhidden, logits) =
        (uninitialised((n, c), DType::F32, hidden)?, uninitialised((slice, v), DType::F32, hidden)?);
    let gradient = match T::DTYPE {
        DType::F32 => logits.clone(),
        other => uninitialised((slice, v), other, hidden)?,
    };
    let operands = rounded::<T>(&[hidden, head])?;
    let [hidden, head] = &operands[..] else { bail!("{op}: expected two operands") };
    for (start, len) in slices(n, v) {
        let narrow = |tensor: &Tensor| tensor.narrow(0, start, len);
        let (hidden, targets, log_q, log_z) =
            (narrow(hidden)?, narrow(targets)?, narrow(&log_q)?, narrow(&log_z)?);
        let (dhidden, logits, gradient) =
            (narrow(&dhidden)?, logits.narrow(0, 0, len)?, gradient.narrow(0, 0, len)?);
        with_arrays(op, [&targets], [], |_, [targets], []| {
            with_arrays(op, [], [&logits, &log_q, &log_z], |gpu, [], [logits, log_q, log_z]| {
                with_arrays::<T, _, 2, 0>(op, [&hidden, head], [], |_, [hidden, head], []| {
                    let (hidden, head) = (Matrix::new(hidden, c), Matrix::new(head, c));
                    gpu.matmul(Matrix::new(logits, v), false, hidden, head.t())
                })?;
                gpu.log_probs_of_logits(logits, targets, log_q, log_z)
            })
        })?;
        let weights = weights.weights(&log_q)?;
        with_arrays(op, [&targets], [], |_, [targets], []| {
            let inputs = [&logits, &log_z, &weights];
            with_arrays(op, inputs, [&dhidden, dhead], |gpu, [logits, log_z, weights], [dhidden, dhead]| {
                let operands = [&hidden, head];
                with_arrays::<T, _, 2, 1>(op, operands, [&gradient], |_, [hidden, head], [gradient]| {
                    gpu.logits_gradient(logits, targets, log_z, (weights, scale as f32), gradient)?;
                    let gradient = Matrix::new(gradient, v);
                    gpu.matmul(Matrix::new(dhidden, c), false, gradient, Matrix::new(head, c))?;
                    gpu.matmul(Matrix::new(dhead, c), true, gradient.t(), Matrix::new(hidden, c))
                })
            })
        })?;
    }
    Ok(CrossEntropy { log_q, dhidden })
}

impl Gpu<'_> {
    /// `log q` of the targets and `log sum exp` of rows of logits.
    fn log_probs_of_logits(
        &self,
        logits: Array<'_, f32>,
        targets: Array<'_, u32>,
        log_q: Array<'_, f32>,
        log_z: Array<'_, f32>,
    ) -> Result<()> {
        let (op, n) = ("cross_entropy", targets.len);
        let v = logits.len / n.max(1);
        expect_len(op, "the logits", logits, n * v)?;
        expect_len(op, "the log-probabilities", log_q, n)?;
        expect_len(op, "the normalisers", log_z, n)?;
        let (v, grid) = (unsigned(op, v)?, Grid::rows(n));
        // SAFETY: the arguments are those of the kernel, which takes no target that is not below v; n rows are in every array.
        unsafe {
            let name = "mixce_target_log_probs";
            launch!(self, "cross_entropy", name, grid, logits, targets, log_q, log_z, n as u64, v)
        }
    }

    /// The gradient of rows of logits, which may be computed in place.
    fn logits_gradient<T: Element>(
        &self,
        logits: Array<'_, f32>,
        targets: Array<'_, u32>,
        log_z: Array<'_, f32>,
        (weights, scale): (Array<'_, f32>, f32),
        gradient: Array<'_, T>,
    ) -> Result<()> {
        let (op, n) = ("cross_entropy", targets.len);
        let v = logits.len / n.max(1);
        expect_len(op, "the logits", logits, n * v)?;
        expect_len(op, "the normalisers", log_z, n)?;
        expect_len(op, "the weights", weights, n)?;
        expect_len(op, "the logits' gradient", gradient, n * v)?;
        let (v, grid) = (unsigned(op, v)?, Grid::rows(n));
        // SAFETY: the arguments are those of the kernel; n rows of v logits lie inside their array.
        unsafe {
            let (name, n) = (name_of!("mixce_logits_gradient", T), n as u64);
            launch!(self, "cross_entropy", name, grid, logits, targets, log_z, weights, scale, gradient, n, v)
        }
    }
}
