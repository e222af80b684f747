//! Compares what only the Llama family uses on the GPU and the CPU: RMS norms, maps `[out, in]` without biases, gated MLPs, rotary
//! embeddings, heads that share keys and values, windows.

use anyhow::Result;
use candle_core::{Device, Tensor};
use mixce_kernels::sublayer::{GatedMlp, GatedMlpGradients, NormLinear, NormLinearGradients};
use mixce_kernels::{
    Activation, Affine, AffineGradients, CuSeqlens, Embedded, HeadNorm, HeadTransform,
    HeadTransformGradients, Heads, KeyValues, Norm, Positions, Precision, Rotary, Weight, causal_attention,
    decode_attention, token_embedding,
};

use super::checks::{Check, normal};
use super::parity::{compare, same_on_both};

const EPSILON: f64 = 1e-5;

/// The shape of the checks.
#[derive(Clone, Copy)]
struct Shape {
    tokens: usize,
    channels: usize,
    heads: Heads,
    head_size: usize,
}

/// All checks, for `n` tokens of `c` channels in `count` heads, three of which share keys and values.
pub(super) fn checks(gpu: &Device, (n, c, count): (usize, usize, usize)) -> Result<Vec<Check>> {
    let heads = Heads { kv: count / 3, window: Some(n / 3), ..Heads::new(count, 0.2) };
    let shape = Shape { tokens: n, channels: c, heads, head_size: c / count };
    let cpu = |seed, shape: &[usize]| normal(seed, shape, &Device::Cpu);
    let ids: Vec<u32> = (0..n as u32).map(|i| i * 7 % 13).collect();
    let offsets = CuSeqlens::from_lengths([1, n / 2, n - n / 2 - 1]);
    Ok(vec![
        compare(gpu, "RMS norm", &[cpu(1, &[n, c])?, cpu(2, &[c])?], &|t| {
            Ok(Norm::rms(t[1].clone(), EPSILON).forward(&t[0])?)
        })?,
        compare(gpu, "token embedding", &[cpu(3, &[13, c])?], &|t| {
            Ok(token_embedding(&t[0], &Embedded::new(&ids, &ids, t[0].device())?)?)
        })?,
        compare(gpu, "attention with shared keys and a window", &[cpu(4, &[n, shape.qkv()])?], &|t| {
            Ok(causal_attention(&t[0], &offsets, heads, None)?)
        })?,
        same_on_both(gpu, "norm and linear maps without biases", &|device| norm_and_linear(shape, device))?,
        same_on_both(gpu, "gated MLP", &|device| gated_mlp(shape, device))?,
        same_on_both(gpu, "rotary embedding", &|device| rotary(shape, &offsets, false, device))?,
        same_on_both(gpu, "rotary embedding with norms of heads", &|device| {
            rotary(shape, &offsets, true, device)
        })?,
        same_on_both(gpu, "shared attention over a cache", &|device| cached_attention(shape, device))?,
    ])
}

impl Shape {
    /// Channels of queries, keys and values.
    fn qkv(self) -> usize {
        (self.heads.count + 2 * self.heads.kv) * self.head_size
    }
}

/// A map of `n_in` inputs, small enough that results stay around 1.
fn map(n_in: usize, n_out: usize, seed: u64, device: &Device) -> Result<Affine> {
    let weight = (normal(seed, &[n_out, n_in], device)? * (1.0 / (n_in as f64).sqrt()))?;
    Ok(Affine::new(Weight::Transposed(weight.into()), None))
}

fn sums(shape: &[usize], seed: u64, device: &Device) -> Result<AffineGradients> {
    Ok(AffineGradients { weight: normal(seed, shape, device)?, bias: None })
}

fn norm_and_linear(shape: Shape, device: &Device) -> Result<Vec<Tensor>> {
    let Shape { tokens: n, channels: c, heads, head_size } = shape;
    let widths = [heads.count, heads.kv, heads.kv].map(|heads| heads * head_size);
    let maps = (10..).zip(widths).map(|(seed, width)| map(c, width, seed, device));
    let dmaps = (20..).zip(widths).map(|(seed, width)| sums(&[width, c], seed, device));
    let norm = Norm::rms(normal(1, &[c], device)?, EPSILON);
    let sublayer = NormLinear { norm, maps: maps.collect::<Result<_>>()? };
    let gradients = NormLinearGradients { norm: sums(&[c], 2, device)?, maps: dmaps.collect::<Result<_>>()? };
    let (x, dx) = (normal(3, &[n, c], device)?, normal(4, &[n, c], device)?);
    let y = sublayer.forward(&x, Precision::F32)?;
    sublayer.backward(&x, &normal(5, &[n, shape.qkv()], device)?, &dx, &gradients, Precision::F32)?;
    let weights = gradients.maps.iter().map(|map| map.weight.clone());
    Ok([y, dx, gradients.norm.weight.clone()].into_iter().chain(weights).collect())
}

fn gated_mlp(Shape { tokens: n, channels: c, .. }: Shape, device: &Device) -> Result<Vec<Tensor>> {
    let inner = 8 * c / 3;
    let mlp = GatedMlp {
        norm: Norm::rms(normal(1, &[c], device)?, EPSILON),
        gate: map(c, inner, 2, device)?,
        up: map(c, inner, 3, device)?,
        activation: Activation::Silu,
        down: map(inner, c, 4, device)?,
    };
    let gradients = GatedMlpGradients {
        norm: sums(&[c], 11, device)?,
        gate: sums(&[inner, c], 12, device)?,
        up: sums(&[inner, c], 13, device)?,
        down: sums(&[c, inner], 14, device)?,
    };
    let (x, dx) = (normal(21, &[n, c], device)?, normal(22, &[n, c], device)?);
    let (y, pre_activation) = mlp.forward_saving(&x, None, Precision::F32)?;
    mlp.backward(&x, &pre_activation, None, &dx, &gradients, Precision::F32)?;
    let GatedMlpGradients { norm, gate, up, down } = gradients;
    Ok(vec![y, dx, norm.weight, gate.weight, up.weight, down.weight])
}

fn rotary(shape: Shape, documents: &CuSeqlens, norms: bool, device: &Device) -> Result<Vec<Tensor>> {
    let Shape { tokens: n, heads, head_size: d, .. } = shape;
    let frequencies: Vec<f64> = (0..d / 2).map(|i| 1e4f64.powf(-2.0 * i as f64 / d as f64)).collect();
    let norm = |seed| -> Result<Option<HeadNorm>> {
        let norm = || Ok(HeadNorm { weight: normal(seed, &[d], device)?, epsilon: EPSILON });
        norms.then(norm).transpose()
    };
    let rotary = Rotary::new(&frequencies, n, 1.0, device)?;
    let transform = HeadTransform { rotary, q_norm: norm(1)?, k_norm: norm(2)? };
    let sum = |seed| norms.then(|| normal(seed, &[d], device)).transpose();
    let gradients = HeadTransformGradients { q_norm: sum(3)?, k_norm: sum(4)? };
    let (qkv, dqkv) = (normal(5, &[n, shape.qkv()], device)?, normal(6, &[n, shape.qkv()], device)?);
    let y = transform.forward(&qkv, documents.positions(), heads)?;
    transform.backward(Some(&qkv), documents.positions(), heads, &dqkv, &gradients)?;
    Ok([y, dqkv].into_iter().chain(gradients.q_norm).chain(gradients.k_norm).collect())
}

/// Three sequences of different lengths in a cache for 64 tokens, with a window of 20.
fn cached_attention(shape: Shape, device: &Device) -> Result<Vec<Tensor>> {
    let heads = Heads { window: Some(20), ..shape.heads };
    let cache = |seed| normal(seed, &[3, heads.kv, 64, shape.head_size], device);
    let qkv = normal(1, &[3, shape.qkv()], device)?;
    let cache = KeyValues { keys: cache(2)?, values: cache(3)? };
    let out = decode_attention(&qkv, &cache, &Positions::new([40, 33, 1]), heads)?;
    Ok(vec![out, cache.keys, cache.values])
}
