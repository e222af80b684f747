//! The sublayers, whose gradients are added in place.
//!
//! In bf16 both devices round the operands of products alike; the GPU also rounds what it keeps inside a branch. One rounding is
//! wrong by at most 2^-9 of a number.

use candle_core::{DType, Device, Result, Tensor};
use mixce_kernels::rng::Stream;
use mixce_kernels::sublayer::{
    Mlp, layer_norm_backward, linear_residual, linear_residual_backward, mlp_residual, mlp_residual_backward,
    norm_linear, norm_linear_backward,
};
use mixce_kernels::{Activation, Affine, Precision};

use crate::{assert_close, cuda, on, random, rounded, values};

fn affine(weight: &[usize], device: &Device, seed: u64) -> Result<Affine> {
    let c = weight[weight.len() - 1];
    let tensor = |shape: &[usize], seed| on(device, &random(shape, seed)?);
    Ok(Affine { weight: tensor(weight, seed)?, bias: tensor(&[c], seed + 1)? })
}

/// What sublayers hand to each other inside a branch: bf16 on CUDA in bf16.
fn inside(shape: &[usize], device: &Device, precision: Precision, seed: u64) -> Result<Tensor> {
    match precision {
        Precision::F32 => on(device, &random(shape, seed)?),
        Precision::Bf16 if device.is_cpu() => rounded(shape, seed),
        Precision::Bf16 => on(device, &rounded(shape, seed)?.to_dtype(DType::BF16)?),
    }
}

/// `f` on both devices gives the same tensors, and the same bits twice.
fn assert_same(
    name: &str,
    (precision, of_f32): (Precision, f32),
    f: impl Fn(&Device) -> Result<Vec<Tensor>>,
) -> Result<()> {
    let tolerance = if precision == Precision::Bf16 { 8.0 / 512.0 } else { of_f32 };
    let (cpu, gpu, again) = (f(&Device::Cpu)?, f(&cuda()?)?, f(&cuda()?)?);
    for (i, ((got, again), want)) in gpu.iter().zip(&again).zip(&cpu).enumerate() {
        assert_close(&format!("{name} in {precision:?}, result {i}"), got, want, tolerance)?;
        assert_eq!(values(got)?, values(again)?, "{name} in {precision:?}, result {i}: two runs differ");
    }
    Ok(())
}

/// Tokens and channels, in both precisions.
fn problems() -> impl Iterator<Item = (usize, usize, Precision)> {
    let shapes = [(0, 4), (1, 1), (7, 33), (257, 12), (65, 96)];
    shapes.into_iter().flat_map(|(n, c)| [Precision::F32, Precision::Bf16].map(|precision| (n, c, precision)))
}

#[test]
fn norm_and_linear() -> Result<()> {
    for (n, c, precision) in problems() {
        assert_same(&format!("norm_linear [{n}, {c}]"), (precision, 1e-5), |device| {
            let (norm, map) = (affine(&[c], device, 1)?, affine(&[c, 3 * c], device, 3)?);
            let (x, dy) = (on(device, &random(&[n, c], 5)?)?, inside(&[n, 3 * c], device, precision, 6)?);
            // Gradients are added to what is there.
            let (dnorm, dmap) = (affine(&[c], device, 7)?, affine(&[c, 3 * c], device, 9)?);
            let (dx, dz) = (on(device, &random(&[n, c], 11)?)?, on(device, &random(&[n, c], 12)?)?);
            let y = norm_linear(&x, &norm, 1e-5, &map, precision)?;
            assert_eq!(y.dtype(), dy.dtype());
            norm_linear_backward(&x, (&norm, 1e-5), &map, &dy, &dx, (&dnorm, &dmap), precision)?;
            layer_norm_backward(&x, (&norm, 1e-5), &dz, &dx, &dnorm)?;
            Ok(vec![y, dx, dnorm.weight, dnorm.bias, dmap.weight, dmap.bias])
        })?;
    }
    Ok(())
}

#[test]
fn linear_and_residual() -> Result<()> {
    for (n, c, precision) in problems() {
        for drop in [None, Some((0.3, Stream::new(4)))] {
            assert_same(&format!("linear_residual [{n}, {c}]"), (precision, 1e-5), |device| {
                let (map, dmap) = (affine(&[c + 2, c], device, 1)?, affine(&[c + 2, c], device, 3)?);
                let x = inside(&[n, c + 2], device, precision, 5)?;
                let tensor = |seed| on(device, &random(&[n, c], seed)?);
                let (residual, dy) = (tensor(6)?, tensor(7)?);
                let y = linear_residual(&x, &map, &residual, drop, precision)?;
                let dx = linear_residual_backward(&x, &map, drop, &dy, &dmap, precision)?;
                assert_eq!((y.dtype(), dx.dtype()), (DType::F32, x.dtype()));
                Ok(vec![y, dx, dmap.weight, dmap.bias])
            })?;
        }
    }
    Ok(())
}

#[test]
fn mlps() -> Result<()> {
    let mlp = |c: usize, device: &Device, seed: u64| -> Result<Mlp> {
        Ok(Mlp {
            norm: affine(&[c], device, seed)?,
            c_fc: affine(&[c, 4 * c], device, seed + 2)?,
            c_proj: affine(&[4 * c, c], device, seed + 4)?,
        })
    };
    let dropout = Some((0.2, Stream::new(6)));
    let functions = [
        (Activation::GeluNew, dropout),
        (Activation::Gelu, None),
        (Activation::Relu, None),
        (Activation::Silu, dropout),
    ];
    for ((n, c, precision), (f, drop)) in problems().flat_map(|p| functions.map(|f| (p, f))) {
        assert_same(&format!("mlp [{n}, {c}] with {f:?}"), (precision, 2e-5), |device| {
            let (parameters, sums) = (mlp(c, device, 1)?, mlp(c, device, 11)?);
            let x = on(device, &random(&[n, c], 21)?)?;
            let dx = on(device, &random(&[n, c], 22)?)?;
            let (y, before) = mlp_residual(&x, &parameters, 1e-5, f, drop, true, precision)?;
            let before = before.expect("kept");
            let (again, nothing) = mlp_residual(&x, &parameters, 1e-5, f, drop, false, precision)?;
            assert!(nothing.is_none());
            let (kept, map) = ((&x, &before), (&parameters, 1e-5));
            mlp_residual_backward(kept, map, f, drop, &dx, &sums, precision)?;
            let Mlp { norm, c_fc, c_proj } = sums;
            let sums = [norm.weight, norm.bias, c_fc.weight, c_fc.bias, c_proj.weight, c_proj.bias];
            let results = [y, before, again].into_iter();
            // Where rounding takes the input of ReLU over its bend, the gradient is another.
            let bends = precision == Precision::Bf16 && f == Activation::Relu;
            Ok(results.chain(std::iter::once(dx).chain(sums).filter(|_| !bends)).collect())
        })?;
    }
    Ok(())
}
