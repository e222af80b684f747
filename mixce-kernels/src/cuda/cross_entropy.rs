//! The LM head with its loss, by slices of tokens.
//!
//! In training logits have the type of the products' operands and become their own gradient, in place.
//!
//! Legend: N tokens, C channels, V vocabulary; S tokens of a slice.

use candle_core::{DType, Result, Tensor, bail};

use super::cast::rounded_or_kept;
use super::matmul::Matrix;
use super::{
    Array, Element, Gpu, Grid, expect_len, in_precision, launch, name_of, uninitialised, unsigned,
    with_arrays,
};
use crate::lm_head::{CrossEntropy, Slice, Weighting, vocabulary_parts};
use crate::{Precision, StoredTensor};

impl Gpu<'_> {
    /// See [`crate::lm_head::target_log_probs`].
    pub(crate) fn target_log_probs(
        &self,
        hidden: &Tensor,
        head: &StoredTensor,
        targets: &Tensor,
        precision: Precision,
    ) -> Result<Tensor> {
        in_precision!(precision, target_log_probs(hidden, head, targets))
    }

    /// See [`crate::lm_head::weighted_cross_entropy`].
    pub(crate) fn weighted_cross_entropy(
        &self,
        hidden: &Tensor,
        head: &StoredTensor,
        targets: &Tensor,
        weighting: Weighting<'_>,
        dhead: &Tensor,
        precision: Precision,
    ) -> Result<CrossEntropy> {
        let slice = Slice::new(hidden.dim(0)?, head.dim(0)?, precision, true);
        in_precision!(precision, weighted_cross_entropy((hidden, head, targets), weighting, dhead, slice))
    }
}

/// The operands of the products have type T: hidden states, and a head of which no copy is kept, are converted once. Logits are f32: here they are not saved for a
/// gradient, and not rounding them costs little beside their product.
fn target_log_probs<T: Element>(hidden: &Tensor, head: &StoredTensor, targets: &Tensor) -> Result<Tensor> {
    let ((n, c), v, op) = (hidden.dims2()?, head.dim(0)?, "lm_head");
    let slice = Slice::new(n, v, Precision::F32, true);
    let (log_q, log_z) = (uninitialised(n, DType::F32, hidden)?, uninitialised(n, DType::F32, hidden)?);
    let logits = uninitialised((slice.tokens, slice.pitch), DType::F32, hidden)?;
    let operands = rounded_or_kept::<T>(&[&hidden.clone().into(), head])?;
    let [hidden, head] = &operands[..] else { bail!("{op}: expected two operands") };
    with_arrays(op, [targets], [], |_, [targets], []| {
        with_arrays(op, [], [&log_q, &log_z, &logits], |_, [], [log_q, log_z, logits]| {
            with_arrays::<T, _, 2, 0>(op, [hidden, head], [], |gpu, [hidden, head], []| {
                for (start, len) in slice.ranges(n) {
                    let logits = Matrix::strided(logits.range(0, len * slice.pitch), v, slice.pitch)?;
                    let hidden = Matrix::new(hidden.range(start * c, len * c), c);
                    gpu.multiply_head(hidden, Matrix::new(head, c), logits)?;
                    let [log_q, log_z] = [log_q, log_z].map(|array| array.range(start, len));
                    gpu.log_probs_of_logits(logits, targets.range(start, len), log_q, log_z)?;
                }
                Ok(())
            })
        })
    })?;
    Ok(log_q)
}

/// The operands of the products have type T: hidden states, and a head of which no copy is kept, are converted once, and products
/// write the logits in it.
/// Results are f32.
fn weighted_cross_entropy<T: Element>(
    (hidden, head, targets): (&Tensor, &StoredTensor, &Tensor),
    Weighting { weights, denominator }: Weighting<'_>,
    dhead: &Tensor,
    slice: Slice,
) -> Result<CrossEntropy> {
    let ((n, c), v, op) = (hidden.dims2()?, head.dim(0)?, "lm_head");
    let scale = (1.0 / denominator) as f32;
    let (log_q, log_z) = (uninitialised(n, DType::F32, hidden)?, uninitialised(n, DType::F32, hidden)?);
    let dhidden = uninitialised((n, c), DType::F32, hidden)?;
    let logits = uninitialised((slice.tokens, slice.pitch), T::DTYPE, hidden)?;
    let operands = rounded_or_kept::<T>(&[&hidden.clone().into(), head])?;
    let [hidden, head] = &operands[..] else { bail!("{op}: expected two operands") };
    for (start, len) in slice.ranges(n) {
        let narrow = |tensor: &Tensor| tensor.narrow(0, start, len);
        let (hidden, targets, dhidden) = (narrow(hidden)?, narrow(targets)?, narrow(&dhidden)?);
        let (log_q, log_z, logits) = (narrow(&log_q)?, narrow(&log_z)?, logits.narrow(0, 0, len)?);
        with_arrays(op, [&targets], [], |_, [targets], []| {
            with_arrays(op, [], [&log_q, &log_z], |_, [], [log_q, log_z]| {
                with_arrays::<T, _, 2, 1>(op, [&hidden, head], [&logits], |gpu, [hidden, head], [logits]| {
                    let (hidden, head) = (Matrix::new(hidden, c), Matrix::new(head, c));
                    let logits = Matrix::strided(logits, v, slice.pitch)?;
                    gpu.multiply_head(hidden, head, logits)?;
                    gpu.log_probs_of_logits(logits, targets, log_q, log_z)
                })
            })
        })?;
        let weights = weights.weights(&log_q)?;
        with_arrays(op, [&targets], [], |_, [targets], []| {
            with_arrays(op, [&log_z, &weights], [&dhidden, dhead], |_, [log_z, weights], [dhidden, dhead]| {
                with_arrays::<T, _, 2, 1>(op, [&hidden, head], [&logits], |gpu, [hidden, head], [logits]| {
                    let (hidden, head) = (Matrix::new(hidden, c), Matrix::new(head, c));
                    let logits = Matrix::strided(logits, v, slice.pitch)?;
                    gpu.turn_into_gradient(logits, targets, log_z, (weights, scale))?;
                    let sums = (Matrix::new(dhidden, c), Matrix::new(dhead, c));
                    gpu.head_gradients(logits, (hidden, head), sums)
                })
            })
        })?;
    }
    Ok(CrossEntropy { log_q, dhidden })
}

impl Gpu<'_> {
    /// `logits = hidden head^T`
    fn multiply_head<T: Element, Logit: Element>(
        &self,
        hidden: Matrix<'_, T>,
        head: Matrix<'_, T>,
        logits: Matrix<'_, Logit>,
    ) -> Result<()> {
        vocabulary_parts(head.rows()).try_for_each(|(first, len)| {
            let logits = logits.narrow_columns(first, len)?;
            self.matmul(logits, false, hidden, head.narrow_rows(first, len)?.t())
        })
    }

    /// `dhidden = gradient head`, `dhead += gradient^T hidden`
    fn head_gradients<T: Element>(
        &self,
        gradient: Matrix<'_, T>,
        (hidden, head): (Matrix<'_, T>, Matrix<'_, T>),
        (dhidden, dhead): (Matrix<'_, f32>, Matrix<'_, f32>),
    ) -> Result<()> {
        vocabulary_parts(head.rows()).try_for_each(|(first, len)| {
            let gradient = gradient.narrow_columns(first, len)?;
            self.matmul(dhidden, first > 0, gradient, head.narrow_rows(first, len)?)?;
            self.matmul(dhead.narrow_rows(first, len)?, true, gradient.t(), hidden)
        })
    }

    /// `log q` of the targets and `log sum exp` of rows of logits, which begin at multiples of 16 bytes.
    fn log_probs_of_logits<T: Element>(
        &self,
        logits: Matrix<'_, T>,
        targets: Array<'_, u32>,
        log_q: Array<'_, f32>,
        log_z: Array<'_, f32>,
    ) -> Result<()> {
        let (op, n) = ("cross_entropy", logits.rows());
        expect_len(op, "the targets", targets, n)?;
        expect_len(op, "the log-probabilities", log_q, n)?;
        expect_len(op, "the normalisers", log_z, n)?;
        let (v, grid) = (unsigned(op, logits.columns())?, Grid::rows(n));
        let (logits, pitch) = logits.address_and_stride();
        // SAFETY: the arguments are those of the kernel, which takes no target that is not below v; n rows are in every array, aligned as it wants.
        unsafe {
            let (name, n) = (name_of!("mixce_target_log_probs", T), n as u64);
            launch!(self, "cross_entropy", name, grid, logits, pitch, targets, log_q, log_z, n, v)
        }
    }

    /// Turns rows of logits, which begin at multiples of 16 bytes, into their gradient.
    fn turn_into_gradient<T: Element>(
        &self,
        logits: Matrix<'_, T>,
        targets: Array<'_, u32>,
        log_z: Array<'_, f32>,
        (weights, scale): (Array<'_, f32>, f32),
    ) -> Result<()> {
        let (op, n) = ("cross_entropy", logits.rows());
        expect_len(op, "the targets", targets, n)?;
        expect_len(op, "the normalisers", log_z, n)?;
        expect_len(op, "the weights", weights, n)?;
        let (v, grid) = (unsigned(op, logits.columns())?, Grid::rows(n));
        let (logits, pitch) = logits.address_and_stride();
        // SAFETY: the arguments are those of the kernel; n rows are in every array, aligned as it wants.
        unsafe {
            let (name, n) = (name_of!("mixce_logits_gradient", T), n as u64);
            launch!(self, "cross_entropy", name, grid, logits, pitch, targets, log_z, weights, scale, n, v)
        }
    }
}
