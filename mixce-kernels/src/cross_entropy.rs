//! Per-token log-probabilities and the gradient of weighted cross-entropy, for rows of logits.
//!
//! For a row of logits `z` with target `y` and softmax `q`, `log q_y = z_y - log sum_j exp(z_j)`. For a loss
//! `w * (-log q_y)` with a weight `w` that is a constant, the gradient is `dz_j = w (q_j - [j = y])`. The two halves are
//! apart because the weight may depend on `log q_y`: ask for the log-probabilities, choose the weights, turn the logits
//! into their gradient.

use candle_core::{CpuStorage, CustomOp2, D, DType, InplaceOp2, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use crate::simd::{self, vectorised};
use crate::{cpu, math};

/// `log q` of the target of each row: `logits` `[n, V]`, `targets` `[n]` u32, result `[n]` f32 (nats), without gradient.
///
/// The log-softmax is computed in f32 whatever the dtype of the logits.
///
/// # Errors
/// When shapes do not fit or a target is not below `V`.
pub fn target_log_probs(logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
    check(logits, targets)?;
    if cpu::is_cpu_f32(logits) {
        logits.contiguous()?.apply_op2_no_bwd(&targets.contiguous()?, &TargetLogProbs)
    } else {
        target_log_probs_slow(logits, targets)
    }
}

/// [`target_log_probs`] in plain candle operations.
///
/// # Errors
/// As [`target_log_probs`].
pub fn target_log_probs_slow(logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
    check(logits, targets)?;
    if logits.elem_count() == 0 {
        return Tensor::zeros(logits.dim(0)?, DType::F32, logits.device());
    }
    let log_softmax = candle_nn::ops::log_softmax(&logits.detach().to_dtype(DType::F32)?, D::Minus1)?;
    log_softmax.gather(&targets.unsqueeze(1)?, 1)?.squeeze(1)
}

/// The gradient of `sum_t w_t (-log q_t)` with respect to the logits: rows `w_t (softmax(z_t) - onehot(y_t))`.
///
/// `log_q` and `weights` are `[n]` f32, `log_q` as [`target_log_probs`] returned it for these logits. The result has the
/// shape and dtype of `logits`; on the CPU in f32 the memory of `logits` is overwritten and returned.
///
/// # Errors
/// When shapes do not fit or a target is not below `V`.
pub fn logits_gradient(logits: Tensor, targets: &Tensor, log_q: &Tensor, weights: &Tensor) -> Result<Tensor> {
    check(&logits, targets)?;
    if !cpu::is_cpu_f32(&logits) || !logits.is_contiguous() {
        return logits_gradient_slow(&logits, targets, weights);
    }
    let op = LogitsGradient { log_q: log_q.to_vec1()?, weights: weights.to_dtype(DType::F32)?.to_vec1()? };
    logits.inplace_op2(&targets.contiguous()?, &op)?;
    Ok(logits)
}

/// [`logits_gradient`] in plain candle operations, into a new tensor.
///
/// # Errors
/// As [`logits_gradient`].
pub fn logits_gradient_slow(logits: &Tensor, targets: &Tensor, weights: &Tensor) -> Result<Tensor> {
    check(logits, targets)?;
    if logits.elem_count() == 0 {
        return Ok(logits.clone());
    }
    let wide = logits.detach().to_dtype(DType::F32)?;
    let softmax = candle_nn::ops::softmax(&wide, D::Minus1)?;
    let weights = weights.to_dtype(DType::F32)?.unsqueeze(1)?;
    let gradient = softmax.broadcast_mul(&weights)?;
    gradient.scatter_add(&targets.unsqueeze(1)?, &weights.neg()?, 1)?.to_dtype(logits.dtype())
}

fn check(logits: &Tensor, targets: &Tensor) -> Result<()> {
    let (n, _) = logits.dims2()?;
    if targets.dims() != [n] || targets.dtype() != DType::U32 {
        bail!(
            "cross_entropy: expected {n} targets of type u32, got {:?} of type {:?}",
            targets.dims(),
            targets.dtype()
        );
    }
    Ok(())
}

pub(crate) fn check_targets(targets: &[u32], vocabulary: usize) -> Result<()> {
    match targets.iter().position(|y| *y as usize >= vocabulary) {
        Some(row) => bail!(
            "cross_entropy: target {} of row {row} is outside the vocabulary of {vocabulary} tokens",
            targets[row]
        ),
        None => Ok(()),
    }
}

struct TargetLogProbs;

/// `log sum_j exp(z_j)` of one row, shifted by its maximum.
fn log_sum_exp(row: &[f32]) -> f32 {
    vectorised(|| {
        let max = simd::max(row);
        max + simd::sum(row, |z| math::exp(z - max)).ln()
    })
}

impl CustomOp2 for TargetLogProbs {
    fn name(&self) -> &'static str {
        "target_log_probs"
    }

    fn cpu_fwd(
        &self,
        logits: &CpuStorage,
        logits_layout: &Layout,
        targets: &CpuStorage,
        targets_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (n, v) = logits_layout.shape().dims2()?;
        let logits = cpu::slice(self.name(), logits, logits_layout)?;
        let targets = cpu::slice_u32(self.name(), targets, targets_layout)?;
        check_targets(targets, v)?;
        let log_q = logits
            .par_chunks(v.max(1))
            .zip(targets)
            .map(|(row, y)| {
                let log_q = row[*y as usize] - log_sum_exp(row);
                // Not `min`, which would turn NaN into 0: a broken model would look certain of everything.
                if log_q > 0.0 { 0.0 } else { log_q }
            })
            .collect();
        Ok((CpuStorage::F32(log_q), n.into()))
    }
}

struct LogitsGradient {
    log_q: Vec<f32>,
    weights: Vec<f32>,
}

impl InplaceOp2 for LogitsGradient {
    fn name(&self) -> &'static str {
        "logits_gradient"
    }

    fn cpu_fwd(
        &self,
        logits: &mut CpuStorage,
        logits_layout: &Layout,
        targets: &CpuStorage,
        targets_layout: &Layout,
    ) -> Result<()> {
        let (n, v) = logits_layout.shape().dims2()?;
        let targets = cpu::slice_u32(self.name(), targets, targets_layout)?;
        check_targets(targets, v)?;
        if self.log_q.len() != n || self.weights.len() != n {
            bail!("logits_gradient: expected {n} log-probabilities and weights");
        }
        let (CpuStorage::F32(logits), Some((start, end))) = (logits, logits_layout.contiguous_offsets())
        else {
            bail!("logits_gradient: expected contiguous f32 logits");
        };
        let rows = targets.iter().zip(self.log_q.iter().zip(&self.weights));
        logits[start..end].par_chunks_mut(v.max(1)).zip(rows.collect::<Vec<_>>()).for_each(
            |(row, (y, (log_q, weight)))| {
                let log_z = row[*y as usize] - log_q;
                vectorised(|| row.iter_mut().for_each(|z| *z = weight * math::exp(*z - log_z)));
                row[*y as usize] -= weight;
            },
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, random};
    use candle_core::Device;

    #[test]
    fn fused_equals_slow() -> Result<()> {
        for (n, v) in [(0, 5), (1, 1), (3, 15), (7, 100), (40, 1003)] {
            let logits = (random(&[n, v], 4)? * 5.0)?;
            let targets: Vec<u32> = (0..n).map(|i| (i * 31 % v) as u32).collect();
            let targets = Tensor::from_vec(targets, n, &Device::Cpu)?;
            let weights = random(&[n], 8)?.abs()?;
            let log_q = target_log_probs(&logits, &targets)?;
            assert_close("log q", &log_q, &target_log_probs_slow(&logits, &targets)?, 1e-5, 1e-5);
            let slow = logits_gradient_slow(&logits, &targets, &weights)?;
            assert_close(
                "gradient",
                &logits_gradient(logits, &targets, &log_q, &weights)?,
                &slow,
                1e-5,
                1e-5,
            );
        }
        Ok(())
    }

    #[test]
    fn nan_logits_stay_nan() -> Result<()> {
        let targets = Tensor::new(&[0u32, 1, 16], &Device::Cpu)?;
        for at in [0, 1, 16] {
            let mut logits = vec![0.5f32; 3 * 17];
            (0..3).for_each(|row| logits[row * 17 + at] = f32::NAN);
            let logits = Tensor::from_vec(logits, (3, 17), &Device::Cpu)?;
            for log_q in [target_log_probs(&logits, &targets)?, target_log_probs_slow(&logits, &targets)?] {
                assert!(log_q.to_vec1::<f32>()?.iter().all(|l| l.is_nan()), "{at}: {log_q}");
            }
        }
        Ok(())
    }

    #[test]
    fn gradient_is_the_finite_difference() -> Result<()> {
        let logits = random(&[1, 6], 2)?.to_dtype(DType::F64)?;
        let targets = Tensor::new(&[3u32], &Device::Cpu)?;
        let loss = |z: &Tensor| -> Result<f64> {
            let z: Vec<f64> = z.to_vec2::<f64>()?.remove(0);
            Ok(2.5 * (z.iter().map(|z| z.exp()).sum::<f64>().ln() - z[3]))
        };
        let weights = Tensor::new(&[2.5f32], &Device::Cpu)?;
        let logits_f32 = logits.to_dtype(DType::F32)?;
        let log_q = target_log_probs(&logits_f32, &targets)?;
        let gradient = logits_gradient(logits_f32, &targets, &log_q, &weights)?.to_vec2::<f32>()?;
        for j in 0..6 {
            let mut bump = vec![0f64; 6];
            bump[j] = 1e-5;
            let bump = Tensor::from_vec(bump, (1, 6), &Device::Cpu)?;
            let numeric = (loss(&(&logits + &bump)?)? - loss(&(&logits - &bump)?)?) / 2e-5;
            assert!((numeric - f64::from(gradient[0][j])).abs() < 1e-5, "{j}: {numeric} {}", gradient[0][j]);
        }
        Ok(())
    }

    #[test]
    fn extreme_logits_stay_finite() -> Result<()> {
        let logits = Tensor::new(&[[1e4f32, -1e4, 0.0], [-3e38, 3e38, 0.0]], &Device::Cpu)?;
        let targets = Tensor::new(&[1u32, 1], &Device::Cpu)?;
        let log_q = target_log_probs(&logits, &targets)?;
        assert_eq!(log_q.to_vec1::<f32>()?, [-2e4, 0.0]);
        let gradient =
            logits_gradient(logits, &targets, &log_q, &Tensor::ones(2, DType::F32, &Device::Cpu)?)?;
        assert_eq!(gradient.to_vec2::<f32>()?, [[1.0, -1.0, 0.0], [0.0, 0.0, 0.0]]);
        Ok(())
    }

    #[test]
    fn a_target_outside_the_vocabulary_is_an_error() -> Result<()> {
        let logits = random(&[2, 4], 1)?;
        let targets = Tensor::new(&[1u32, 4], &Device::Cpu)?;
        let error = target_log_probs(&logits, &targets).unwrap_err().to_string();
        assert!(error.contains("target 4 of row 1"), "{error}");
        Ok(())
    }
}
