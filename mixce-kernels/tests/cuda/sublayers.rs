//! The sublayers, whose gradients are added in place.

use candle_core::{Device, Result, Tensor};
use mixce_kernels::rng::Stream;
use mixce_kernels::sublayer::{
    Mlp, layer_norm_backward, linear_residual, linear_residual_backward, mlp_residual, mlp_residual_backward,
    norm_linear, norm_linear_backward,
};
use mixce_kernels::{Activation, Affine, Precision};

use crate::{assert_close, cuda, on, random};

fn affine(weight: &[usize], device: &Device, seed: u64) -> Result<Affine> {
    let c = weight[weight.len() - 1];
    let tensor = |shape: &[usize], seed| on(device, &random(shape, seed)?);
    Ok(Affine { weight: tensor(weight, seed)?, bias: tensor(&[c], seed + 1)? })
}

/// `f` on both devices gives the same tensors.
fn assert_same(name: &str, tolerance: f32, f: impl Fn(&Device) -> Result<Vec<Tensor>>) -> Result<()> {
    for (i, (got, want)) in f(&cuda()?)?.iter().zip(&f(&Device::Cpu)?).enumerate() {
        assert_close(&format!("{name}, result {i}"), got, want, tolerance)?;
    }
    Ok(())
}

/// Tokens and channels.
const SHAPES: [(usize, usize); 5] = [(0, 4), (1, 1), (7, 33), (257, 12), (65, 96)];

#[test]
fn norm_and_linear() -> Result<()> {
    for (n, c) in SHAPES {
        assert_same(&format!("norm_linear [{n}, {c}]"), 1e-5, |device| {
            let (norm, map) = (affine(&[c], device, 1)?, affine(&[c, 3 * c], device, 3)?);
            let (x, dy) = (on(device, &random(&[n, c], 5)?)?, on(device, &random(&[n, 3 * c], 6)?)?);
            // Gradients are added to what is there.
            let (dnorm, dmap) = (affine(&[c], device, 7)?, affine(&[c, 3 * c], device, 9)?);
            let (dx, dz) = (on(device, &random(&[n, c], 11)?)?, on(device, &random(&[n, c], 12)?)?);
            let y = norm_linear(&x, &norm, 1e-5, &map, Precision::F32)?;
            norm_linear_backward(&x, (&norm, 1e-5), &map, &dy, &dx, (&dnorm, &dmap), Precision::F32)?;
            layer_norm_backward(&x, (&norm, 1e-5), &dz, &dx, &dnorm)?;
            Ok(vec![y, dx, dnorm.weight, dnorm.bias, dmap.weight, dmap.bias])
        })?;
    }
    Ok(())
}

#[test]
fn linear_and_residual() -> Result<()> {
    for (n, c) in SHAPES {
        for drop in [None, Some((0.3, Stream::new(4)))] {
            assert_same(&format!("linear_residual [{n}, {c}]"), 1e-5, |device| {
                let (map, dmap) = (affine(&[c + 2, c], device, 1)?, affine(&[c + 2, c], device, 3)?);
                let tensor = |shape: &[usize], seed| on(device, &random(shape, seed)?);
                let (x, residual, dy) = (tensor(&[n, c + 2], 5)?, tensor(&[n, c], 6)?, tensor(&[n, c], 7)?);
                let y = linear_residual(&x, &map, &residual, drop, Precision::F32)?;
                let dx = linear_residual_backward(&x, &map, drop, &dy, &dmap, Precision::F32)?;
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
    for (n, c) in SHAPES {
        for (f, drop) in [(Activation::GeluNew, Some((0.2, Stream::new(6)))), (Activation::Relu, None)] {
            assert_same(&format!("mlp [{n}, {c}]"), 2e-5, |device| {
                let (parameters, sums) = (mlp(c, device, 1)?, mlp(c, device, 11)?);
                let x = on(device, &random(&[n, c], 21)?)?;
                let dx = on(device, &random(&[n, c], 22)?)?;
                let (y, before) = mlp_residual(&x, &parameters, 1e-5, f, drop, true, Precision::F32)?;
                let before = before.expect("kept");
                let (again, nothing) = mlp_residual(&x, &parameters, 1e-5, f, drop, false, Precision::F32)?;
                assert!(nothing.is_none());
                let (kept, map) = ((&x, &before), (&parameters, 1e-5));
                mlp_residual_backward(kept, map, f, drop, &dx, &sums, Precision::F32)?;
                let Mlp { norm, c_fc, c_proj } = sums;
                let sums = [norm.weight, norm.bias, c_fc.weight, c_fc.bias, c_proj.weight, c_proj.bias];
                Ok([y, before, again, dx].into_iter().chain(sums).collect())
            })?;
        }
    }
    Ok(())
}
