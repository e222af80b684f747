//! Compares the non-differentiable parts of training and sampling on the GPU and the CPU: sublayers with their backward passes,
//! attention over a cache, the gradient norm and the update.

use anyhow::Result;
use candle_core::{Device, Tensor};
use mixce_kernels::rng::Stream;
use mixce_kernels::sublayer::{LinearResidual, Mlp, MlpGradients, NormLinear, NormLinearGradients};
use mixce_kernels::{
    Activation, AdamWParameter, AdamWUpdate, Affine, AffineGradients, Dropout, Heads, KeyValues, Norm,
    Positions, Precision, adamw_step, decode_attention, sum_of_squares,
};

use super::checks::{Check, normal};
use super::parity::same_on_both;

const EPSILON: f64 = 1e-5;

/// All checks, for `n` tokens of `c` channels in `heads` heads.
pub(super) fn passes(gpu: &Device, (n, c, heads): (usize, usize, usize)) -> Result<Vec<Check>> {
    let drop = Some(Dropout::new(0.1, Stream::new(11)));
    Ok(vec![
        same_on_both(gpu, "norm and linear", &|device| norm_and_linear(n, c, device))?,
        same_on_both(gpu, "linear and residual", &|device| linear_and_residual(n, c, drop, device))?,
        same_on_both(gpu, "MLP", &|device| mlp(n, c, drop, device))?,
        same_on_both(gpu, "attention over a cache", &|device| cached_attention(c, heads, device))?,
        same_on_both(gpu, "gradient norm", &|device| {
            let sum = sum_of_squares(&normal(1, &[n, c], device)?)?;
            Ok(vec![Tensor::new((sum / (n * c) as f64) as f32, &Device::Cpu)?])
        })?,
        same_on_both(gpu, "AdamW", &|device| update(n * c, device))?,
    ])
}

/// Weight and bias, small enough that results stay around 1.
fn pair(weight: &[usize], seed: u64, device: &Device) -> Result<[Tensor; 2]> {
    let (rows, columns) = (weight[0], weight[weight.len() - 1]);
    let weight = (normal(seed, weight, device)? * (1.0 / (rows as f64).sqrt()))?;
    Ok([weight, normal(seed + 1, &[columns], device)?])
}

fn norm(c: usize, seed: u64, device: &Device) -> Result<Norm> {
    let [weight, bias] = pair(&[c], seed, device)?;
    Ok(Norm::layer(weight, Some(bias), EPSILON))
}

fn map(n_in: usize, n_out: usize, seed: u64, device: &Device) -> Result<Affine> {
    let [weight, bias] = pair(&[n_in, n_out], seed, device)?;
    Ok(Affine::new(weight, Some(bias)))
}

fn gradients(weight: &[usize], seed: u64, device: &Device) -> Result<AffineGradients> {
    let [weight, bias] = pair(weight, seed, device)?;
    Ok(AffineGradients { weight, bias: Some(bias) })
}

/// Sums of gradients, one tensor after another.
fn tensors<const N: usize>(sums: [&AffineGradients; N]) -> Vec<Tensor> {
    sums.into_iter().flat_map(|sums| [Some(sums.weight.clone()), sums.bias.clone()]).flatten().collect()
}

fn norm_and_linear(n: usize, c: usize, device: &Device) -> Result<Vec<Tensor>> {
    let sublayer = NormLinear { norm: norm(c, 1, device)?, maps: vec![map(c, 3 * c, 3, device)?] };
    let maps = vec![gradients(&[c, 3 * c], 7, device)?];
    let sums = NormLinearGradients { norm: gradients(&[c], 5, device)?, maps };
    let (x, dx) = (normal(9, &[n, c], device)?, normal(10, &[n, c], device)?);
    let dy = normal(11, &[n, 3 * c], device)?;
    let y = sublayer.forward(&x, Precision::F32)?;
    sublayer.backward(&x, &dy, &dx, &sums, Precision::F32)?;
    Ok([vec![y, dx], tensors([&sums.norm, &sums.maps[0]])].concat())
}

fn linear_and_residual(n: usize, c: usize, drop: Option<Dropout>, device: &Device) -> Result<Vec<Tensor>> {
    let (sublayer, sums) = (LinearResidual { map: map(c, c, 1, device)? }, gradients(&[c, c], 3, device)?);
    let (x, residual, dy) =
        (normal(5, &[n, c], device)?, normal(6, &[n, c], device)?, normal(7, &[n, c], device)?);
    let y = sublayer.forward(&x, &residual, drop, Precision::F32)?;
    let dx = sublayer.backward(&x, &dy, drop, &sums, Precision::F32)?;
    Ok([vec![y, dx], tensors([&sums])].concat())
}

fn mlp(n: usize, c: usize, drop: Option<Dropout>, device: &Device) -> Result<Vec<Tensor>> {
    let mlp = Mlp {
        norm: norm(c, 1, device)?,
        up: map(c, 4 * c, 3, device)?,
        activation: Activation::GeluNew,
        down: map(4 * c, c, 5, device)?,
    };
    let sums = MlpGradients {
        norm: gradients(&[c], 11, device)?,
        up: gradients(&[c, 4 * c], 13, device)?,
        down: gradients(&[4 * c, c], 15, device)?,
    };
    let (x, dx) = (normal(21, &[n, c], device)?, normal(22, &[n, c], device)?);
    let (y, pre_activation) = mlp.forward_saving(&x, drop, Precision::F32)?;
    mlp.backward(&x, &pre_activation, drop, &dx, &sums, Precision::F32)?;
    Ok([vec![y, dx], tensors([&sums.norm, &sums.up, &sums.down])].concat())
}

/// Three sequences of different lengths in a cache for 64 tokens.
fn cached_attention(c: usize, heads: usize, device: &Device) -> Result<Vec<Tensor>> {
    let shape = [3, heads, 64, c / heads];
    let cache = |seed| normal(seed, &shape, device);
    let (qkv, cache) = (normal(1, &[3, 3 * c], device)?, KeyValues { keys: cache(2)?, values: cache(3)? });
    let positions = Positions::new([40, 33, 1]);
    let out = decode_attention(&qkv, &cache, &positions, Heads::new(heads, 0.2))?;
    Ok(vec![out, cache.keys, cache.values])
}

fn update(n: usize, device: &Device) -> Result<Vec<Tensor>> {
    let tensor = |seed| normal(seed, &[n], device);
    let (parameter, first, second, gradient) = (tensor(1)?, tensor(2)?, tensor(3)?.abs()?, tensor(4)?);
    let update = AdamWUpdate {
        first_rate: 0.1,
        second_keep: 0.999,
        second_rate: 0.001,
        gradient_scale: 0.5,
        step_size: 0.01,
        root_correction: 0.03,
        epsilon: 1e-8,
    };
    let of = AdamWParameter {
        parameter: &parameter,
        rounded: None,
        first_moment: &first,
        second_moment: &second,
        gradient: &gradient,
        decay_factor: 0.99,
    };
    adamw_step(&[of], &update)?;
    Ok(vec![parameter, first, second])
}
