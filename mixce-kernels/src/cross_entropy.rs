//! Per-token log-probabilities and the gradient of weighted cross-entropy, for rows of logits.
//!
//! For a row of logits `z` with target `y` and softmax `q`, `log q_y = z_y - log sum_j exp(z_j)`. For a loss
//! `w * (-log q_y)` with a weight `w` that is a constant, the gradient is `dz_j = w (q_j - [j = y])`. The two halves are
//! separate functions because the weight may depend on `log q_y`: compute the log-probabilities, choose the weights, turn the logits
//! into their gradient.
//!
//! In plain candle operations for any device, used where [`crate::lm_head`], which never materialises all logits, has no kernel.

use candle_core::{D, DType, Result, Tensor, bail};

/// `log q` of the target of each row: `logits` `[n, V]`, `targets` `[n]` u32, result `[n]` f32 (nats), without gradient.
///
/// The log-softmax is computed in f32 whatever the dtype of the logits.
///
/// # Errors
/// If shapes do not match or a target is not below `V` (checked only on the CPU).
pub fn target_log_probs(logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
    check(logits, targets)?;
    if logits.elem_count() == 0 {
        return Tensor::zeros(logits.dim(0)?, DType::F32, logits.device());
    }
    let log_softmax = candle_nn::ops::log_softmax(&logits.detach().to_dtype(DType::F32)?, D::Minus1)?;
    log_softmax.gather(&targets.unsqueeze(1)?, 1)?.squeeze(1)
}

/// The gradient of `sum_t w_t (-log q_t)` with respect to the logits: rows `w_t (softmax(z_t) - onehot(y_t))`.
///
/// `weights` are `[n]`. The result has the shape and dtype of `logits`.
///
/// # Errors
/// If shapes do not match or a target is not below `V` (checked only on the CPU).
pub fn logits_gradient(logits: &Tensor, targets: &Tensor, weights: &Tensor) -> Result<Tensor> {
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
    let (n, v) = logits.dims2()?;
    if targets.dims() != [n] || targets.dtype() != DType::U32 {
        bail!(
            "cross_entropy: expected {n} targets of type u32, got {:?} of type {:?}",
            targets.dims(),
            targets.dtype()
        );
    }
    // On other devices this would force a synchronisation.
    if targets.device().is_cpu() { check_targets(&targets.to_vec1()?, v) } else { Ok(()) }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::random;
    use candle_core::Device;

    #[test]
    fn nan_logits_stay_nan() -> Result<()> {
        let targets = Tensor::new(&[0u32, 1, 16], &Device::Cpu)?;
        for at in [0, 1, 16] {
            let mut logits = vec![0.5f32; 3 * 17];
            (0..3).for_each(|row| logits[row * 17 + at] = f32::NAN);
            let logits = Tensor::from_vec(logits, (3, 17), &Device::Cpu)?;
            let log_q = target_log_probs(&logits, &targets)?;
            assert!(log_q.to_vec1::<f32>()?.iter().all(|l| l.is_nan()), "{at}: {log_q}");
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
        let log_q = target_log_probs(&logits_f32, &targets)?.to_vec1::<f32>()?[0];
        assert!((f64::from(log_q) * -2.5 - loss(&logits)?).abs() < 1e-5);
        let gradient = logits_gradient(&logits_f32, &targets, &weights)?.to_vec2::<f32>()?;
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
        let gradient = logits_gradient(&logits, &targets, &Tensor::ones(2, DType::F32, &Device::Cpu)?)?;
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
