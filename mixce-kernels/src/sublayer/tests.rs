//! Each sublayer against candle's autograd of the same thing in plain operations.

use candle_core::{Result, Tensor, Var};

use super::*;
use crate::layer_norm_slow;
use crate::linear_slow;
use crate::residual_dropout_slow;
use crate::rng::Stream;
use crate::testing::{assert_close, random};
use crate::{Activation, Affine, Dropout, Precision};

/// Rows: none, one, odd, one more than a block.
const ROWS: [usize; 4] = [0, 1, 37, BLOCK_ROWS + 1];

fn variable(shape: &[usize], seed: u64) -> Result<Tensor> {
    Ok(Var::from_tensor(&random(shape, seed)?)?.into_inner())
}

fn affine(shape: &[usize], seed: u64) -> Result<Affine> {
    let n_out = shape[shape.len() - 1];
    Ok(Affine { weight: variable(shape, seed)?, bias: variable(&[n_out], seed + 100)? })
}

/// Compares sums that were begun at 1 with candle's gradients.
fn assert_added(
    name: &str,
    got: &[(&Tensor, &Tensor)],
    want: &candle_core::backprop::GradStore,
) -> Result<()> {
    for (i, (sum, variable)) in got.iter().enumerate() {
        let want = want.get(variable).unwrap();
        let scale = want.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>()?.max(1.0);
        assert_close(&format!("{name} {i}"), sum, &(want + 1.0)?, 2e-5 * scale, 1e-4);
    }
    Ok(())
}

fn ones(affine: &Affine) -> Result<Affine> {
    Ok(Affine { weight: affine.weight.ones_like()?, bias: affine.bias.ones_like()? })
}

fn dropouts() -> [Dropout; 2] {
    [None, Some((0.3, Stream::new(7)))]
}

#[test]
fn norm_linear_equals_plain_operations() -> Result<()> {
    let (c, n_out, eps) = (12, 20, 1e-5);
    for n in ROWS {
        let (x, norm, map) = (variable(&[n, c], 1)?, affine(&[c], 2)?, affine(&[c, n_out], 3)?);
        let y = norm_linear(&x.detach(), &norm.detach(), eps, &map.detach(), Precision::F32)?;
        assert_eq!(y.dims(), [n, n_out]);
        let (dx, dnorm, dmap) = (x.ones_like()?, ones(&norm)?, ones(&map)?);
        let dy = random(&[n, n_out], 4)?;
        norm_linear_backward(&x, (&norm, eps), &map, &dy, &dx, (&dnorm, &dmap), Precision::F32)?;
        if n == 0 {
            continue;
        }
        let slow =
            linear_slow(&layer_norm_slow(&x, &norm.weight, &norm.bias, eps)?, &map.weight, Some(&map.bias))?;
        assert_close("y", &y, &slow, 2e-5, 1e-5);
        let want = slow.mul(&dy)?.sum_all()?.backward()?;
        let pairs = [
            (&dx, &x),
            (&dnorm.weight, &norm.weight),
            (&dnorm.bias, &norm.bias),
            (&dmap.weight, &map.weight),
            (&dmap.bias, &map.bias),
        ];
        assert_added("norm_linear", &pairs, &want)?;
    }
    Ok(())
}

#[test]
fn linear_residual_equals_plain_operations() -> Result<()> {
    let (n_in, c) = (10, 7);
    for (n, dropout) in ROWS.into_iter().flat_map(|n| dropouts().map(|dropout| (n, dropout))) {
        let (x, map, residual) = (variable(&[n, n_in], 1)?, affine(&[n_in, c], 2)?, variable(&[n, c], 3)?);
        let y = linear_residual(&x.detach(), &map.detach(), &residual.detach(), dropout, Precision::F32)?;
        let (dy, dmap) = (random(&[n, c], 4)?, ones(&map)?);
        let dx = linear_residual_backward(&x, &map, dropout, &dy, &dmap, Precision::F32)?;
        assert_eq!((y.dims(), dx.dims()), (&[n, c][..], &[n, n_in][..]));
        if n == 0 {
            continue;
        }
        let slow =
            residual_dropout_slow(&residual, &linear_slow(&x, &map.weight, Some(&map.bias))?, dropout)?;
        assert_close("y", &y, &slow, 2e-5, 1e-5);
        let want = slow.mul(&dy)?.sum_all()?.backward()?;
        assert_close("dx", &dx, want.get(&x).unwrap(), 1e-4, 1e-4);
        assert_close("dresidual", &dy, want.get(&residual).unwrap(), 0.0, 0.0);
        assert_added("linear_residual", &[(&dmap.weight, &map.weight), (&dmap.bias, &map.bias)], &want)?;
    }
    Ok(())
}

#[test]
fn mlp_residual_equals_plain_operations() -> Result<()> {
    let (c, inner, eps) = (9, 22, 1e-5);
    let activations = [Activation::GeluNew, Activation::Gelu, Activation::Relu, Activation::Silu];
    for (i, n) in ROWS.into_iter().enumerate() {
        for (dropout, activation) in
            dropouts().into_iter().flat_map(|d| [(d, activations[i]), (d, Activation::GeluNew)])
        {
            let mlp = Mlp {
                norm: affine(&[c], 1)?,
                c_fc: affine(&[c, inner], 2)?,
                c_proj: affine(&[inner, c], 3)?,
            };
            let x = variable(&[n, c], 4)?;
            let detached =
                Mlp { norm: mlp.norm.detach(), c_fc: mlp.c_fc.detach(), c_proj: mlp.c_proj.detach() };
            let forward =
                |keep| mlp_residual(&x.detach(), &detached, eps, activation, dropout, keep, Precision::F32);
            let ((y, before), (again, nothing)) = (forward(true)?, forward(false)?);
            assert!(nothing.is_none());
            assert_close("without keeping", &again, &y, 0.0, 0.0);
            let gradients =
                Mlp { norm: ones(&mlp.norm)?, c_fc: ones(&mlp.c_fc)?, c_proj: ones(&mlp.c_proj)? };
            let dy = random(&[n, c], 5)?;
            let dx = dy.copy()?;
            let (kept, map) = ((&x, &before.unwrap()), (&mlp, eps));
            mlp_residual_backward(kept, map, activation, dropout, &dx, &gradients, Precision::F32)?;
            if n == 0 {
                continue;
            }
            let normed = layer_norm_slow(&x, &mlp.norm.weight, &mlp.norm.bias, eps)?;
            let inside =
                activation.forward_slow(&linear_slow(&normed, &mlp.c_fc.weight, Some(&mlp.c_fc.bias))?)?;
            let branch = linear_slow(&inside, &mlp.c_proj.weight, Some(&mlp.c_proj.bias))?;
            let slow = residual_dropout_slow(&x, &branch, dropout)?;
            assert_close("y", &y, &slow, 1e-4, 1e-5);
            let want = slow.mul(&dy)?.sum_all()?.backward()?;
            assert_close("dx", &dx, want.get(&x).unwrap(), 1e-3, 1e-4);
            let pairs = [
                (&gradients.norm, &mlp.norm),
                (&gradients.c_fc, &mlp.c_fc),
                (&gradients.c_proj, &mlp.c_proj),
            ];
            let pairs = pairs.map(|(g, p)| [(&g.weight, &p.weight), (&g.bias, &p.bias)]).concat();
            assert_added("mlp", &pairs, &want)?;
        }
    }
    Ok(())
}

#[test]
fn what_does_not_fit_is_refused() -> Result<()> {
    let (x, norm, map) = (random(&[2, 4], 1)?, affine(&[4], 2)?, affine(&[3, 5], 3)?);
    assert!(norm_linear(&x, &norm, 1e-5, &map, Precision::F32).is_err());
    assert!(linear_residual(&x, &affine(&[4, 5], 2)?, &x, None, Precision::F32).is_err());
    let mlp = Mlp { norm: norm.clone(), c_fc: affine(&[4, 8], 1)?, c_proj: affine(&[7, 4], 1)? };
    let error = mlp_residual(&x, &mlp, 1e-5, Activation::Relu, None, false, Precision::F32).unwrap_err();
    assert!(error.to_string().contains("c_proj of the mlp: expected shape [8, 4], got [7, 4]"), "{error}");
    backward_passes_check_shapes(&x, &norm)
}

/// A gradient of another shape is refused, not cut short.
fn backward_passes_check_shapes(x: &Tensor, norm: &Affine) -> Result<()> {
    let (map, dx, dy) = (affine(&[4, 5], 3)?, x.zeros_like()?, random(&[2, 5], 4)?);
    let (sums, wrong) = ((norm.zeros_like()?, map.zeros_like()?), affine(&[4, 6], 5)?);
    let backward = |dy: &Tensor, dx: &Tensor, dmap: &Affine| {
        norm_linear_backward(x, (norm, 1e-5), &map, dy, dx, (&sums.0, dmap), Precision::F32)
    };
    assert!(backward(&dy, &dx, &sums.1).is_ok());
    assert!(backward(&random(&[3, 5], 4)?, &dx, &sums.1).is_err());
    assert!(backward(&dy, &random(&[2, 3], 4)?, &sums.1).is_err());
    assert!(backward(&dy, &dx, &wrong).is_err());
    assert!(layer_norm_backward(x, (norm, 1e-5), &dy, &dx, &sums.0).is_err());
    assert!(linear_residual_backward(x, &map, None, x, &sums.1, Precision::F32).is_err());
    let mlp = Mlp { norm: norm.clone(), c_fc: affine(&[4, 5], 1)?, c_proj: affine(&[5, 4], 1)? };
    let sums = Mlp { norm: sums.0, c_fc: mlp.c_fc.zeros_like()?, c_proj: mlp.c_proj.zeros_like()? };
    let relu = Activation::Relu;
    let backward = |before: &Tensor, dx: &Tensor| {
        mlp_residual_backward((x, before), (&mlp, 1e-5), relu, None, dx, &sums, Precision::F32)
    };
    assert!(backward(&dy, &dx).is_ok());
    assert!(backward(x, &dx).is_err() && backward(&dy, &dy).is_err());
    Ok(())
}
