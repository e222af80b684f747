//! Compares the fused operations with plain ones, on this machine's device.

use anyhow::Result;
use candle_core::{DType, Device, Tensor, Var};
use mixce_core::objective::MixCe;
use mixce_core::{lm_head_log_q, lm_head_loss};
use mixce_kernels::rng::Stream;
use mixce_kernels::{CuSeqlens, Heads, Norm, Precision, causal_attention, causal_attention_slow};
use serde::Serialize;

use crate::speed::Peak;

/// Tolerance for f32 results around 1 that are summed in different orders.
const TOLERANCE: f64 = 1e-4;

/// One check and its outcome.
#[derive(Debug, Serialize)]
pub(super) struct Check {
    pub(super) name: &'static str,
    /// What it was compared with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) against: Option<&'static str>,
    pub(super) holds: bool,
    pub(super) detail: String,
    /// For a check that is a measurement.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) speed: Option<Speed>,
}

/// How fast a device trains.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Speed {
    tokens_per_s: f64,
    gflops: f64,
    /// Of f32 matrix products, in the same process; null if the model is too small for a meaningful share.
    matmul_peak_gflops: Option<f64>,
    matmul_peak_share: Option<f64>,
}

impl Speed {
    pub(super) fn new(tokens_per_s: f64, gflops: f64, peak: Option<Peak>) -> Self {
        let matmul_peak_gflops = peak.map(|peak| peak.gflops);
        let matmul_peak_share = matmul_peak_gflops.map(|peak| gflops / peak);
        Self { tokens_per_s, gflops, matmul_peak_gflops, matmul_peak_share }
    }

    pub(super) fn in_words(&self, precision: &str) -> String {
        let speed = format!("{:.0} tokens/s, {:.1} GFLOP/s in {precision}", self.tokens_per_s, self.gflops);
        match (self.matmul_peak_share, self.matmul_peak_gflops) {
            (Some(share), Some(peak)) => {
                format!("{speed}, {:.1} % of the f32 matmul peak of {peak:.1} GFLOP/s", 100.0 * share)
            }
            _ => format!("{speed} with a tiny model; `--full` for GPT-2 small and its share of the peak"),
        }
    }
}

impl Check {
    pub(super) fn new(name: &'static str, holds: bool, detail: String) -> Self {
        Self { name, against: None, holds, detail, speed: None }
    }

    /// Adds what it was compared with.
    pub(super) fn against(self, other: &'static str) -> Self {
        Self { against: self.speed.is_none().then_some(other), ..self }
    }

    /// Passes if two tensors agree within the tolerance; NaN fails.
    fn agree(name: &'static str, got: &Tensor, want: &Tensor) -> Result<Self> {
        let difference =
            got.to_device(&Device::Cpu)?.sub(&want.to_device(&Device::Cpu)?)?.abs()?.max_all()?;
        let difference = f64::from(difference.to_dtype(DType::F32)?.to_scalar::<f32>()?);
        Ok(Self::new(name, difference <= TOLERANCE, format!("largest difference {difference:.1e}")))
    }
}

/// Compares values and gradients of the fused operations with those of plain tensor operations.
pub(super) fn numeric(device: &Device) -> Result<Vec<Check>> {
    let mut checks = Vec::new();
    let (weight, bias) = (normal(1, &[48], device)?, normal(2, &[48], device)?);
    let x = Var::from_tensor(&normal(0, &[37, 48], device)?)?;
    let norm = Norm::layer(weight, Some(bias), 1e-5);
    let (fast, slow) = (norm.forward(&x)?, norm.forward_slow(&x)?);
    checks.push(Check::agree("layer norm", &fast, &slow)?);
    checks.push(Check::agree("layer norm gradient", &gradient(&fast, &x)?, &gradient(&slow, &x)?)?);

    let (offsets, heads) = (CuSeqlens::from_lengths([1, 19, 17]), Heads::new(4, 0.35));
    let qkv = Var::from_tensor(&normal(3, &[37, 96], device)?)?;
    let fast = causal_attention(&qkv, &offsets, heads, None)?;
    let slow = causal_attention_slow(&qkv, &offsets, heads, None)?;
    checks.push(Check::agree("attention", &fast, &slow)?);
    checks.push(Check::agree("attention gradient", &gradient(&fast, &qkv)?, &gradient(&slow, &qkv)?)?);
    checks.extend(head(device)?);
    Ok(checks.into_iter().map(|check| check.against("plain operations")).collect())
}

/// The LM head: log-likelihoods against a plain log-softmax, the gradient of MixCE against its formula.
fn head(device: &Device) -> Result<Vec<Check>> {
    let (tokens, vocabulary) = (37, 101);
    let hidden = Var::from_tensor(&normal(4, &[tokens, 32], device)?)?;
    let matrix = normal(5, &[vocabulary, 32], device)?;
    let ids: Vec<u32> = (0..tokens as u32).map(|i| i * 7 % vocabulary as u32).collect();
    let targets = Tensor::new(ids.as_slice(), device)?;
    let objective = MixCe::new(0.1)?;
    let loss = lm_head_loss(&hidden, &matrix, &targets, &objective, tokens as f64)?;

    let logits = hidden.matmul(&matrix.t()?)?;
    let shifted = logits.broadcast_sub(&logits.max_keepdim(1)?)?;
    let log_softmax = shifted.broadcast_sub(&shifted.exp()?.sum_keepdim(1)?.log()?)?;
    let log_q = log_softmax.gather(&targets.unsqueeze(1)?, 1)?.squeeze(1)?;
    // The weight eta + (1 - eta) q is held constant in the gradient.
    let weight = ((log_q.exp()? * 0.9)? + 0.1)?.detach();
    let plain = ((weight * &log_q)?.neg()?.sum_all()? / tokens as f64)?;

    let scored = lm_head_log_q(&hidden, &matrix.clone().into(), &targets, Precision::F32)?;
    Ok(vec![
        Check::agree("log-likelihood", &scored, &log_q)?,
        Check::agree("MixCE loss", &loss.loss, &plain)?,
        Check::agree(
            "MixCE gradient",
            &gradient_of_scalar(&loss.loss, &hidden)?,
            &gradient_of_scalar(&plain, &hidden)?,
        )?,
    ])
}

fn gradient(y: &Tensor, x: &Var) -> Result<Tensor> {
    gradient_of_scalar(&y.sqr()?.sum_all()?, x)
}

fn gradient_of_scalar(y: &Tensor, x: &Var) -> Result<Tensor> {
    let store = y.backward()?;
    store.get(x).cloned().ok_or_else(|| anyhow::anyhow!("an operation has no gradient"))
}

/// Normal random numbers from their own seed.
pub(super) fn normal(seed: u64, shape: &[usize], device: &Device) -> Result<Tensor> {
    let stream = Stream::new(seed);
    let values: Vec<f32> =
        (0..shape.iter().product::<usize>() as u64).map(|i| stream.normal(i) as f32).collect();
    Ok(Tensor::from_vec(values, shape, device)?)
}
