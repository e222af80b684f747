//! What training and sampling call beside the differentiable operations, on the GPU and on the CPU: sublayers with their backward passes,
//! attention over a cache, the gradient norm and the update.

use anyhow::Result;
use candle_core::{Device, Tensor};
use mixce_kernels::rng::Stream;
use mixce_kernels::sublayer::{
    Mlp, linear_residual, linear_residual_backward, mlp_residual, mlp_residual_backward, norm_linear,
    norm_linear_backward,
};
use mixce_kernels::{
    Activation, AdamWUpdate, Affine, Columns, Dropout, Precision, adamw_step, decode_attention,
    sum_of_squares,
};

use super::checks::{Check, normal};
use super::parity::same_on_both;

const EPSILON: f64 = 1e-5;

/// All of them, for `n` tokens of `c` channels in `heads` heads.
pub(super) fn passes(gpu: &Device, (n, c, heads): (usize, usize, usize)) -> Result<Vec<Check>> {
    let drop = Some((0.1, Stream::new(11)));
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

/// Weights small enough that results stay around 1.
fn affine(weight: &[usize], seed: u64, device: &Device) -> Result<Affine> {
    let (rows, columns) = (weight[0], weight[weight.len() - 1]);
    let weight = (normal(seed, weight, device)? * (1.0 / (rows as f64).sqrt()))?;
    Ok(Affine { weight, bias: normal(seed + 1, &[columns], device)? })
}

fn norm_and_linear(n: usize, c: usize, device: &Device) -> Result<Vec<Tensor>> {
    let (norm, map) = (affine(&[c], 1, device)?, affine(&[c, 3 * c], 3, device)?);
    let (dnorm, dmap) = (affine(&[c], 5, device)?, affine(&[c, 3 * c], 7, device)?);
    let (x, dx) = (normal(9, &[n, c], device)?, normal(10, &[n, c], device)?);
    let dy = normal(11, &[n, 3 * c], device)?;
    let y = norm_linear(&x, &norm, EPSILON, &map, Precision::F32)?;
    norm_linear_backward(&x, (&norm, EPSILON), &map, &dy, &dx, (&dnorm, &dmap), Precision::F32)?;
    Ok(vec![y, dx, dnorm.weight, dnorm.bias, dmap.weight, dmap.bias])
}

fn linear_and_residual(n: usize, c: usize, drop: Dropout, device: &Device) -> Result<Vec<Tensor>> {
    let (map, dmap) = (affine(&[c, c], 1, device)?, affine(&[c, c], 3, device)?);
    let (x, residual, dy) =
        (normal(5, &[n, c], device)?, normal(6, &[n, c], device)?, normal(7, &[n, c], device)?);
    let y = linear_residual(&x, &map, &residual, drop, Precision::F32)?;
    let dx = linear_residual_backward(&x, &map, drop, &dy, &dmap, Precision::F32)?;
    Ok(vec![y, dx, dmap.weight, dmap.bias])
}

fn mlp(n: usize, c: usize, drop: Dropout, device: &Device) -> Result<Vec<Tensor>> {
    let parameters = |seed| -> Result<Mlp> {
        Ok(Mlp {
            norm: affine(&[c], seed, device)?,
            c_fc: affine(&[c, 4 * c], seed + 2, device)?,
            c_proj: affine(&[4 * c, c], seed + 4, device)?,
        })
    };
    let (mlp, sums, f) = (parameters(1)?, parameters(11)?, Activation::GeluNew);
    let (x, dx) = (normal(21, &[n, c], device)?, normal(22, &[n, c], device)?);
    let (y, before) = mlp_residual(&x, &mlp, EPSILON, f, drop, true, Precision::F32)?;
    let Some(before) = before else { anyhow::bail!("the input of the activation was not kept") };
    mlp_residual_backward((&x, &before), (&mlp, EPSILON), f, drop, &dx, &sums, Precision::F32)?;
    let Mlp { norm, c_fc, c_proj } = sums;
    Ok(vec![y, dx, norm.weight, norm.bias, c_fc.weight, c_fc.bias, c_proj.weight, c_proj.bias])
}

/// Three sequences of which two begin later, at the 41st column of a cache for 64.
fn cached_attention(c: usize, heads: usize, device: &Device) -> Result<Vec<Tensor>> {
    let shape = [3, heads, 64, c / heads];
    let cache = |seed| normal(seed, &shape, device);
    let (qkv, keys, values) = (normal(1, &[3, 3 * c], device)?, cache(2)?, cache(3)?);
    let columns = Columns { first: &[0, 7, 39], new: 40 };
    let out = decode_attention(&qkv, (&keys, &values), columns, 0.2)?;
    Ok(vec![out, keys, values])
}

fn update(n: usize, device: &Device) -> Result<Vec<Tensor>> {
    let tensor = |seed| normal(seed, &[n], device);
    let (parameter, first, second, gradient) = (tensor(1)?, tensor(2)?, tensor(3)?.abs()?, tensor(4)?);
    let update = AdamWUpdate {
        first_rate: 0.1,
        second_keep: 0.999,
        second_rate: 0.001,
        gradient_scale: 0.5,
        decay_factor: 0.99,
        step_size: 0.01,
        root_correction: 0.03,
        epsilon: 1e-8,
    };
    adamw_step((&parameter, &first, &second), &gradient, &update)?;
    Ok(vec![parameter, first, second])
}
