//! Rotary position embedding of queries and keys, after a norm of their heads where a model has one.
//!
//! Legend: N tokens, H heads of queries, K heads of keys and values, D head size, P positions.

mod fused;

use candle_core::{D, DType, Device, Result, Tensor, bail};

use self::fused::{NormRow, Pass};
use crate::cpu::{is_cpu_f32, with_slice_mut, with_slices};
use crate::cuda::Gpu;
use crate::simd;
use crate::{Heads, Positions};

/// Rotary position embedding (Su et al., 2021): pairs of a head's channels are rotated by angles in proportion to the position, so that
/// the product of a query and a key depends on the distance between them.
///
/// Channel `i` of the first half of a head makes a pair with channel `i` of the second half (transformers' `rotate_half`): at position `p`
/// `(x1, x2)` becomes `a (x1 cos(p f_i) - x2 sin(p f_i), x2 cos(p f_i) + x1 sin(p f_i))`. Cloning is cheap: clones share the tables.
#[derive(Clone, Debug)]
pub struct Rotary {
    /// `a cos(p f_i)`, `[P, D / 2]` f32.
    pub(crate) cos: Tensor,
    /// `a sin(p f_i)`, likewise.
    pub(crate) sin: Tensor,
}

impl Rotary {
    /// The tables of the positions `0..positions`, for heads of twice as many channels as there are frequencies `f` (radians a token).
    ///
    /// `attention_factor` is `a`: 1 but for some scaled embeddings (YaRN).
    ///
    /// Frequencies and angles are rounded to f32 as transformers rounds them, so a position far from 0 has the angle that a published
    /// model was trained with.
    ///
    /// # Errors
    /// When a number is not finite, or the device has no room.
    pub fn new(
        inverse_frequencies: &[f64],
        positions: usize,
        attention_factor: f64,
        device: &Device,
    ) -> Result<Self> {
        for value in inverse_frequencies.iter().chain([&attention_factor]) {
            if !value.is_finite() {
                bail!("rotary: expected finite frequencies and a finite attention factor, got {value}");
            }
        }
        let table = |f: fn(f64) -> f64| {
            let angles = (0..positions)
                .flat_map(|p| inverse_frequencies.iter().map(move |frequency| p as f32 * *frequency as f32));
            let values: Vec<f32> =
                angles.map(|angle| (attention_factor * f(f64::from(angle))) as f32).collect();
            Tensor::from_vec(values, (positions, inverse_frequencies.len()), device)
        };
        Ok(Self { cos: table(f64::cos)?, sin: table(f64::sin)? })
    }

    /// The number of positions that have an angle.
    #[must_use]
    pub fn positions(&self) -> usize {
        self.cos.dims()[0]
    }

    /// The channels of a head that it rotates.
    #[must_use]
    pub fn head_size(&self) -> usize {
        2 * self.cos.dims()[1]
    }
}

/// RMS norm of each head's channels: `y = x / sqrt(mean(x^2) + epsilon) * weight`.
#[derive(Clone, Debug)]
pub struct HeadNorm {
    /// `[D]`, the same for all heads.
    pub weight: Tensor,
    /// Added to the mean square.
    pub epsilon: f64,
}

impl HeadNorm {
    /// In plain candle operations: `x` is `[.., D]`.
    fn compose(&self, x: &Tensor) -> Result<Tensor> {
        let rms = (x.sqr()?.mean_keepdim(D::Minus1)? + self.epsilon)?.sqrt()?;
        x.broadcast_div(&rms)?.broadcast_mul(&self.weight.to_dtype(x.dtype())?)
    }
}

/// What queries and keys go through between their affine map and attention: a norm of each head (Qwen 3), where there is one, and the
/// rotary embedding. Values stay as they are.
///
/// Fused for f32, and on CUDA for bf16, which is computed in f32, with a backward pass that needs no graph. Where a tensor is part of
/// candle's graph or of another type, the same is composed of candle's differentiable operations, half precision in f32.
#[derive(Clone, Debug)]
pub struct HeadTransform {
    /// Applied to queries and keys, after the norms.
    pub rotary: Rotary,
    /// Of the queries.
    pub q_norm: Option<HeadNorm>,
    /// Of the keys.
    pub k_norm: Option<HeadNorm>,
}

/// Sums of the gradients of a [`HeadTransform`]: there is one for each norm.
#[derive(Clone, Debug)]
pub struct HeadTransformGradients {
    /// Of the weight `[D]` of the queries' norm.
    pub q_norm: Option<Tensor>,
    /// Of the weight `[D]` of the keys' norm.
    pub k_norm: Option<Tensor>,
}

impl HeadTransform {
    /// The same values outside of any gradient graph.
    #[must_use]
    pub fn detach(&self) -> Self {
        let detach = |norm: &HeadNorm| HeadNorm { weight: norm.weight.detach(), epsilon: norm.epsilon };
        Self {
            rotary: self.rotary.clone(),
            q_norm: self.q_norm.as_ref().map(detach),
            k_norm: self.k_norm.as_ref().map(detach),
        }
    }

    /// Whether [`HeadTransform::backward`] needs the input of the forward pass: a rotation alone does not.
    #[must_use]
    pub fn backward_needs_input(&self) -> bool {
        self.q_norm.is_some() || self.k_norm.is_some()
    }

    /// Transformed queries and keys, and the values, of `qkv` `[N, (H + 2 K) D]` (see [`Heads`]); `positions` are those of the rows.
    ///
    /// # Errors
    /// When shapes do not fit, or a position is outside of the tables.
    pub fn forward(&self, qkv: &Tensor, positions: &Positions, heads: Heads) -> Result<Tensor> {
        let op = "rotary";
        let d = self.check(op, qkv, positions, heads)?;
        let tracked = self.norms().into_iter().flatten().any(|norm| norm.weight.track_op());
        let gpu = gpu_of(qkv);
        if (gpu.is_none() && !is_cpu_f32(qkv)) || qkv.track_op() || tracked {
            return self.compose(qkv, positions, heads, d);
        }
        if let Some(gpu) = gpu {
            return gpu.rotary(self, qkv, &positions.on(qkv.device())?, heads);
        }
        let (channels, norms) = (qkv.dim(1)?, self.norm_rows()?);
        let mut out = vec![0f32; qkv.elem_count()];
        with_slices(op, [qkv, &self.rotary.cos, &self.rotary.sin], |[qkv, cos, sin]| {
            Pass { heads, d, channels, cos, sin, norms }.forward(positions.as_slice(), qkv, &mut out);
        })?;
        Tensor::from_vec(out, qkv.shape(), qkv.device())
    }

    /// Turns `dqkv`, the gradient of the result, into that of the input `qkv` in place, and adds those of the norms' weights to
    /// `gradients`. `qkv` is only read, and only needed, where there is a norm ([`HeadTransform::backward_needs_input`]).
    ///
    /// # Errors
    /// When shapes do not fit, a position is outside of the tables, the input or a sum is missing, or a tensor is not f32 on the CPU or a
    /// CUDA device, where `qkv` and its gradient may also be bf16.
    pub fn backward(
        &self,
        qkv: Option<&Tensor>,
        positions: &Positions,
        heads: Heads,
        dqkv: &Tensor,
        gradients: &HeadTransformGradients,
    ) -> Result<()> {
        let op = "rotary backward";
        let d = self.check(op, dqkv, positions, heads)?;
        self.check_sums(op, gradients, d)?;
        let qkv = qkv.filter(|_| self.backward_needs_input());
        match qkv {
            Some(qkv) if qkv.dims() != dqkv.dims() => {
                bail!("{op}: a gradient {:?} of an input {:?}", dqkv.dims(), qkv.dims())
            }
            None if self.backward_needs_input() => {
                bail!("{op}: the norms need the input of the forward pass")
            }
            _ => {}
        }
        if let Some(gpu) = gpu_of(dqkv) {
            let positions = positions.on(dqkv.device())?;
            return gpu.rotary_backward(self, qkv, &positions, heads, dqkv, gradients);
        }
        let (channels, norms) = (dqkv.dim(1)?, self.norm_rows()?);
        let run = |qkv: Option<&[f32]>, cos: &[f32], sin: &[f32]| {
            let pass = Pass { heads, d, channels, cos, sin, norms };
            with_slice_mut(op, dqkv, |dqkv| pass.backward(positions.as_slice(), qkv, dqkv))
        };
        let Rotary { cos, sin } = &self.rotary;
        let sums = match qkv {
            Some(qkv) => with_slices(op, [qkv, cos, sin], |[qkv, cos, sin]| run(Some(qkv), cos, sin)),
            None => with_slices(op, [cos, sin], |[cos, sin]| run(None, cos, sin)),
        }??;
        for (total, part) in [&gradients.q_norm, &gradients.k_norm].into_iter().zip(sums.chunks(d)) {
            if let Some(total) = total {
                with_slice_mut(op, total, |total| simd::add_to(total, part))?;
            }
        }
        Ok(())
    }

    fn norms(&self) -> [Option<&HeadNorm>; 2] {
        [self.q_norm.as_ref(), self.k_norm.as_ref()]
    }

    fn norm_rows(&self) -> Result<[Option<NormRow>; 2]> {
        let row = |norm: &HeadNorm| -> Result<NormRow> {
            Ok(NormRow { weight: norm.weight.to_vec1()?, epsilon: norm.epsilon as f32 })
        };
        let [q_norm, k_norm] = self.norms().map(|norm| norm.map(row).transpose());
        Ok([q_norm?, k_norm?])
    }

    /// `D`; refuses what does not fit.
    fn check(&self, op: &str, qkv: &Tensor, positions: &Positions, heads: Heads) -> Result<usize> {
        let positions = positions.as_slice();
        let (n, channels) = qkv.dims2()?;
        let d = heads.head_size(op, channels)?;
        if d != self.rotary.head_size() {
            bail!("{op}: expected heads of {} channels, got {d}", self.rotary.head_size());
        }
        if positions.len() != n {
            bail!("{op}: expected the positions of {n} rows, got {}", positions.len());
        }
        let known = self.rotary.positions();
        if let Some(row) = positions.iter().position(|position| *position as usize >= known) {
            bail!("{op}: expected positions below {known}, got {} in row {row}", positions[row]);
        }
        for norm in self.norms().into_iter().flatten() {
            if norm.weight.dims() != [d] {
                bail!("{op}: expected a norm's weight of shape [{d}], got {:?}", norm.weight.dims());
            }
        }
        Ok(d)
    }

    /// Refuses sums that are not those of the norms.
    fn check_sums(&self, op: &str, gradients: &HeadTransformGradients, d: usize) -> Result<()> {
        let sums = [&gradients.q_norm, &gradients.k_norm];
        for ((name, norm), sum) in ["queries", "keys"].into_iter().zip(self.norms()).zip(sums) {
            match (norm, sum) {
                (None, None) => {}
                (Some(_), Some(sum)) if sum.dims() == [d] => {}
                (Some(_), Some(sum)) => {
                    bail!(
                        "{op}: expected a sum of shape [{d}] for the norm of the {name}, got {:?}",
                        sum.dims()
                    )
                }
                (Some(_), None) => bail!("{op}: no sum for the norm of the {name}"),
                (None, Some(_)) => bail!("{op}: a sum for a norm of the {name}, but there is none"),
            }
        }
        Ok(())
    }

    /// The same in candle's differentiable operations, of operands that fit.
    fn compose(&self, qkv: &Tensor, positions: &Positions, heads: Heads, d: usize) -> Result<Tensor> {
        let (n, Heads { count, kv, .. }) = (qkv.dim(0)?, heads);
        if n == 0 {
            return Ok(qkv.clone());
        }
        let dtype = qkv.dtype();
        let wide = if matches!(dtype, DType::F16 | DType::BF16) { DType::F32 } else { dtype };
        let positions = positions.on(qkv.device())?;
        let angles = |table: &Tensor| table.index_select(&positions, 0)?.unsqueeze(1)?.to_dtype(wide);
        let (cos, sin) = (angles(&self.rotary.cos)?, angles(&self.rotary.sin)?);
        let part = |first: usize, heads: usize, norm: Option<&HeadNorm>| {
            let x = qkv.narrow(1, first * d, heads * d)?.reshape((n, heads, d))?.to_dtype(wide)?;
            let x = norm.map_or(Ok(x.clone()), |norm| norm.compose(&x))?;
            let (x1, x2) = (x.narrow(2, 0, d / 2)?, x.narrow(2, d / 2, d / 2)?);
            let y1 = (x1.broadcast_mul(&cos)? - x2.broadcast_mul(&sin)?)?;
            let y2 = (x2.broadcast_mul(&cos)? + x1.broadcast_mul(&sin)?)?;
            Tensor::cat(&[y1, y2], 2)?.reshape((n, heads * d))?.to_dtype(dtype)
        };
        let [q_norm, k_norm] = self.norms();
        let values = qkv.narrow(1, (count + kv) * d, kv * d)?;
        Tensor::cat(&[part(0, count, q_norm)?, part(count, kv, k_norm)?, values], 1)
    }
}

/// The GPU whose kernels take queries, keys and values of this type.
fn gpu_of(qkv: &Tensor) -> Option<Gpu<'_>> {
    Gpu::of(qkv.device()).filter(|_| matches!(qkv.dtype(), DType::F32 | DType::BF16))
}

#[cfg(test)]
mod tests;
