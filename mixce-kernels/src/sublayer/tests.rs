//! Each sublayer against candle's autograd of the same thing in plain operations.

use candle_core::backprop::GradStore;
use candle_core::{DType, Result, Tensor, Var};

use super::*;
use crate::layer_norm_slow;
use crate::linear_slow;
use crate::residual_dropout_slow;
use crate::rng::Stream;
use crate::testing::{assert_close, random};
use crate::{Activation, Affine, AffineGradients, Dropout, Norm};

/// Rows: none, one, odd, one more than a block.
const ROWS: [usize; 4] = [0, 1, 37, BLOCK_ROWS + 1];

fn variable(shape: &[usize], seed: u64) -> Result<Tensor> {
    Ok(Var::from_tensor(&random(shape, seed)?)?.into_inner())
}

fn norm(c: usize, seed: u64) -> Result<Norm> {
    Ok(Norm { weight: variable(&[c], seed)?, bias: variable(&[c], seed + 100)?, epsilon: 1e-5 })
}

fn map(n_in: usize, n_out: usize, seed: u64) -> Result<Affine> {
    Ok(Affine::new(variable(&[n_in, n_out], seed)?, variable(&[n_out], seed + 100)?))
}

fn mlp(c: usize, inner: usize, activation: Activation) -> Result<Mlp> {
    Ok(Mlp { norm: norm(c, 1)?, up: map(c, inner, 2)?, activation, down: map(inner, c, 3)? })
}

/// Sums that begin at 1.
fn ones(shape: &[usize]) -> Result<AffineGradients> {
    let tensor = |shape: &[usize]| Tensor::ones(shape, DType::F32, &candle_core::Device::Cpu);
    Ok(AffineGradients { weight: tensor(shape)?, bias: tensor(&shape[shape.len() - 1..])? })
}

fn of_norm<'a>(sums: &'a AffineGradients, norm: &'a Norm) -> [(&'a Tensor, &'a Tensor); 2] {
    [(&sums.weight, &norm.weight), (&sums.bias, &norm.bias)]
}

fn of_map<'a>(sums: &'a AffineGradients, map: &'a Affine) -> [(&'a Tensor, &'a Tensor); 2] {
    [(&sums.weight, map.weight.dense().unwrap()), (&sums.bias, &map.bias)]
}

/// Compares sums that were begun at 1 with candle's gradients.
fn assert_added(name: &str, got: &[(&Tensor, &Tensor)], want: &GradStore) -> Result<()> {
    for (i, (sum, variable)) in got.iter().enumerate() {
        let want = want.get(variable).unwrap();
        let scale = want.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>()?.max(1.0);
        assert_close(&format!("{name} {i}"), sum, &(want + 1.0)?, 2e-5 * scale, 1e-4);
    }
    Ok(())
}

/// A forward pass inside candle's graph gives the numbers of the fused one, and its gradients are those of plain operations.
fn assert_tracked(
    name: &str,
    y: &Tensor,
    fused: &Tensor,
    dy: &Tensor,
    want: &GradStore,
    of: &[&Tensor],
) -> Result<()> {
    assert!(y.track_op() && !fused.track_op(), "{name}");
    assert_close(name, y, fused, 1e-4, 1e-5);
    let got = y.mul(dy)?.sum_all()?.backward()?;
    for (i, variable) in of.iter().enumerate() {
        let (got, want) = (got.get(variable).expect("a gradient"), want.get(variable).unwrap());
        let scale = want.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>()?.max(1.0);
        assert_close(&format!("{name}, gradient {i}"), got, want, 2e-5 * scale, 1e-4);
    }
    Ok(())
}

fn plain_linear(x: &Tensor, map: &Affine) -> Result<Tensor> {
    linear_slow(x, map.weight.dense()?, Some(&map.bias))
}

fn plain_norm(x: &Tensor, norm: &Norm) -> Result<Tensor> {
    layer_norm_slow(x, &norm.weight, &norm.bias, norm.epsilon)
}

fn dropouts() -> [Option<Dropout>; 2] {
    [None, Some(Dropout { p: 0.3, stream: Stream::new(7) })]
}

#[test]
fn norm_linear_equals_plain_operations() -> Result<()> {
    let (c, n_out) = (12, 20);
    for n in ROWS {
        let (x, sublayer) = (variable(&[n, c], 1)?, NormLinear { norm: norm(c, 2)?, map: map(c, n_out, 3)? });
        let y = sublayer.detach().forward(&x.detach(), Precision::F32)?;
        assert_eq!(y.dims(), [n, n_out]);
        let sums = NormLinearGradients { norm: ones(&[c])?, map: ones(&[c, n_out])? };
        let (dx, dy) = (x.ones_like()?, random(&[n, n_out], 4)?);
        sublayer.backward(&x, &dy, &dx, &sums, Precision::F32)?;
        if n == 0 {
            continue;
        }
        let slow = plain_linear(&plain_norm(&x, &sublayer.norm)?, &sublayer.map)?;
        assert_close("y", &y, &slow, 2e-5, 1e-5);
        let want = slow.mul(&dy)?.sum_all()?.backward()?;
        let parameters = [of_norm(&sums.norm, &sublayer.norm), of_map(&sums.map, &sublayer.map)].concat();
        assert_added("norm_linear", &[&[(&dx, &x)], &parameters[..]].concat(), &want)?;
        let variables: Vec<&Tensor> = parameters.iter().map(|(_, variable)| *variable).chain([&x]).collect();
        assert_tracked("norm_linear", &sublayer.forward(&x, Precision::F32)?, &y, &dy, &want, &variables)?;
    }
    Ok(())
}

#[test]
fn linear_residual_equals_plain_operations() -> Result<()> {
    let (n_in, c) = (10, 7);
    for (n, dropout) in ROWS.into_iter().flat_map(|n| dropouts().map(|dropout| (n, dropout))) {
        let (x, residual) = (variable(&[n, n_in], 1)?, variable(&[n, c], 3)?);
        let sublayer = LinearResidual { map: map(n_in, c, 2)? };
        let y = sublayer.detach().forward(&x.detach(), &residual.detach(), dropout, Precision::F32)?;
        let (dy, sums) = (random(&[n, c], 4)?, ones(&[n_in, c])?);
        let dx = sublayer.backward(&x, &dy, dropout, &sums, Precision::F32)?;
        assert_eq!((y.dims(), dx.dims()), (&[n, c][..], &[n, n_in][..]));
        if n == 0 {
            continue;
        }
        let slow = residual_dropout_slow(&residual, &plain_linear(&x, &sublayer.map)?, dropout)?;
        assert_close("y", &y, &slow, 2e-5, 1e-5);
        let want = slow.mul(&dy)?.sum_all()?.backward()?;
        assert_close("dx", &dx, want.get(&x).unwrap(), 1e-4, 1e-4);
        assert_close("dresidual", &dy, want.get(&residual).unwrap(), 0.0, 0.0);
        let parameters = of_map(&sums, &sublayer.map);
        assert_added("linear_residual", &parameters, &want)?;
        let tracked = sublayer.forward(&x, &residual, dropout, Precision::F32)?;
        let variables = [&x, &residual, parameters[0].1, parameters[1].1];
        assert_tracked("linear_residual", &tracked, &y, &dy, &want, &variables)?;
    }
    Ok(())
}

#[test]
fn mlp_equals_plain_operations() -> Result<()> {
    let (c, inner) = (9, 22);
    let activations = [Activation::GeluNew, Activation::Gelu, Activation::Relu, Activation::Silu];
    for (i, n) in ROWS.into_iter().enumerate() {
        for (dropout, activation) in
            dropouts().into_iter().flat_map(|d| [(d, activations[i]), (d, Activation::GeluNew)])
        {
            let (x, mlp) = (variable(&[n, c], 4)?, mlp(c, inner, activation)?);
            let (y, pre_activation) = mlp.detach().forward_saving(&x.detach(), dropout, Precision::F32)?;
            let again = mlp.detach().forward(&x.detach(), dropout, Precision::F32)?;
            assert_close("without saving", &again, &y, 0.0, 0.0);
            let sums = MlpGradients { norm: ones(&[c])?, up: ones(&[c, inner])?, down: ones(&[inner, c])? };
            let dy = random(&[n, c], 5)?;
            let dx = dy.copy()?;
            mlp.backward(&x, &pre_activation, dropout, &dx, &sums, Precision::F32)?;
            if n == 0 {
                continue;
            }
            let before = plain_linear(&plain_norm(&x, &mlp.norm)?, &mlp.up)?;
            assert_close("pre-activation", &pre_activation, &before, 2e-5, 1e-5);
            let branch = plain_linear(&activation.forward_slow(&before)?, &mlp.down)?;
            let slow = residual_dropout_slow(&x, &branch, dropout)?;
            assert_close("y", &y, &slow, 1e-4, 1e-5);
            let want = slow.mul(&dy)?.sum_all()?.backward()?;
            assert_close("dx", &dx, want.get(&x).unwrap(), 1e-3, 1e-4);
            let parameters =
                [of_norm(&sums.norm, &mlp.norm), of_map(&sums.up, &mlp.up), of_map(&sums.down, &mlp.down)];
            assert_added("mlp", &parameters.concat(), &want)?;
            let variables: Vec<&Tensor> =
                parameters.as_flattened().iter().map(|(_, variable)| *variable).chain([&x]).collect();
            let (tracked, saved) = mlp.forward_saving(&x, dropout, Precision::F32)?;
            assert_close("pre-activation in the graph", &saved, &pre_activation, 2e-5, 1e-5);
            assert_tracked("mlp", &tracked, &y, &dy, &want, &variables)?;
        }
    }
    Ok(())
}

/// One tracked tensor is enough for the graph, whichever it is.
#[test]
fn any_variable_is_in_the_graph() -> Result<()> {
    let (x, mlp) = (random(&[3, 4], 9)?, mlp(4, 8, Activation::Silu)?);
    let detached = mlp.detach();
    let parts = [
        Mlp { norm: mlp.norm.clone(), ..detached.clone() },
        Mlp { up: mlp.up.clone(), ..detached.clone() },
        Mlp { down: mlp.down.clone(), ..detached.clone() },
    ];
    for part in parts {
        assert!(part.forward(&x, None, Precision::F32)?.track_op());
    }
    assert!(!detached.forward(&x, None, Precision::F32)?.track_op());
    assert!(detached.forward(&variable(&[3, 4], 9)?, None, Precision::F32)?.track_op());
    let (norm, map) = (&mlp.norm, Affine::new(random(&[4, 4], 1)?, random(&[4], 2)?));
    assert!(NormLinear { norm: norm.clone(), map: map.clone() }.forward(&x, Precision::F32)?.track_op());
    let residual = LinearResidual { map };
    assert!(residual.forward(&x, &variable(&[3, 4], 9)?, None, Precision::F32)?.track_op());
    assert!(!residual.forward(&x, &x, None, Precision::F32)?.track_op());
    Ok(())
}

/// Packed weights give the numbers of matrices; a precision that is not available is an error.
#[test]
fn packed_weights_and_precisions() -> Result<()> {
    let (x, mlp) = (random(&[5, 6], 1)?, mlp(6, 50, Activation::Gelu)?.detach());
    let packed = mlp.pack(Precision::F32)?;
    let (got, want) = (packed.forward(&x, None, Precision::F32)?, mlp.forward(&x, None, Precision::F32)?);
    assert_close("packed", &got, &want, 2e-5, 1e-5);
    let message = |result: Result<Tensor>| result.unwrap_err().to_string();
    let error = message(packed.forward(&x, None, Precision::Bf16));
    assert!(error.contains("expected F32, in which the weight was packed"), "{error}");
    let error = message(packed.forward(&variable(&[5, 6], 1)?, None, Precision::F32));
    assert!(error.contains("packed for inference"), "{error}");
    let error = message(mlp.forward(&variable(&[5, 6], 1)?, None, Precision::Bf16));
    assert!(error.contains("inside candle's graph"), "{error}");
    let error = message(mlp.forward(&x.to_dtype(DType::F64)?, None, Precision::Bf16));
    assert!(error.contains("got F64 on Cpu"), "{error}");
    let sums = MlpGradients { norm: ones(&[6])?, up: ones(&[6, 50])?, down: ones(&[50, 6])? };
    let error = packed.backward(&x, &random(&[5, 50], 2)?, None, &x.copy()?, &sums, Precision::F32);
    assert!(error.unwrap_err().to_string().contains("packed for inference"));
    Ok(())
}

/// Types without kernels are computed as they are.
#[test]
fn f64_gives_the_numbers_of_f32() -> Result<()> {
    let (x, sublayer) =
        (random(&[5, 6], 1)?, NormLinear { norm: norm(6, 2)?.detach(), map: map(6, 4, 3)?.detach() });
    let wide = |tensor: &Tensor| tensor.to_dtype(DType::F64);
    let NormLinear { norm, map } = &sublayer;
    let norm = Norm { weight: wide(&norm.weight)?, bias: wide(&norm.bias)?, epsilon: norm.epsilon };
    let map = Affine::new(wide(map.weight.dense()?)?, wide(&map.bias)?);
    let got = NormLinear { norm, map }.forward(&wide(&x)?, Precision::F32)?;
    assert_eq!(got.dtype(), DType::F64);
    let want = sublayer.forward(&x, Precision::F32)?;
    assert_close("f64", &got.to_dtype(DType::F32)?, &want, 2e-5, 1e-5);
    Ok(())
}

#[test]
fn what_does_not_fit_is_refused() -> Result<()> {
    let (x, f32) = (random(&[2, 4], 1)?, Precision::F32);
    let (norm, map) =
        (norm(4, 2)?.detach(), |n_in, n_out| Ok::<_, candle_core::Error>(map(n_in, n_out, 3)?.detach()));
    let error = NormLinear { norm: norm.clone(), map: map(3, 5)? }.forward(&x, f32).unwrap_err().to_string();
    assert!(
        error.contains("norm_linear's map: expected a weight [4, out]") && error.contains("[3, 5]"),
        "{error}"
    );
    assert!(LinearResidual { map: map(4, 5)? }.forward(&x, &x, None, f32).is_err());
    let mlp = |up: (usize, usize), down: (usize, usize)| -> Result<Mlp> {
        let (up, down) = (map(up.0, up.1)?, map(down.0, down.1)?);
        Ok(Mlp { norm: norm.clone(), up, activation: Activation::Relu, down })
    };
    let error = mlp((4, 8), (7, 4))?.forward(&x, None, f32).unwrap_err().to_string();
    assert!(error.contains("the mlp's map down: expected a weight [8, out]"), "{error}");
    assert!(mlp((4, 8), (8, 5))?.forward(&x, None, f32).is_err());
    assert!(mlp((4, 8), (8, 4))?.forward(&x, Some(Dropout { p: 1.0, stream: Stream::new(1) }), f32).is_err());
    Ok(())
}

/// A gradient of another shape is refused, not cut short.
#[test]
fn backward_passes_check_shapes() -> Result<()> {
    let (x, f32) = (random(&[2, 4], 1)?, Precision::F32);
    let (dx, dy) = (x.zeros_like()?, random(&[2, 5], 4)?);
    let sublayer = NormLinear { norm: norm(4, 2)?, map: map(4, 5, 3)? };
    let backward = |dy: &Tensor, dx: &Tensor, map: &AffineGradients| {
        let sums = NormLinearGradients { norm: ones(&[4])?, map: map.clone() };
        sublayer.backward(&x, dy, dx, &sums, f32)
    };
    let sums = ones(&[4, 5])?;
    assert!(backward(&dy, &dx, &sums).is_ok());
    assert!(backward(&random(&[3, 5], 4)?, &dx, &sums).is_err());
    assert!(backward(&dy, &random(&[2, 3], 4)?, &sums).is_err());
    assert!(backward(&dy, &dx, &ones(&[4, 6])?).is_err());
    assert!(sublayer.norm.backward(&x, &dy, &dx, &ones(&[4])?).is_err());
    assert!(LinearResidual { map: map(4, 5, 3)? }.backward(&x, &x, None, &sums, f32).is_err());
    let mlp = mlp(4, 5, Activation::Relu)?;
    let sums = MlpGradients { norm: ones(&[4])?, up: ones(&[4, 5])?, down: ones(&[5, 4])? };
    let backward =
        |pre_activation: &Tensor, dx: &Tensor| mlp.backward(&x, pre_activation, None, dx, &sums, f32);
    assert!(backward(&dy, &dx).is_ok());
    assert!(backward(&x, &dx).is_err() && backward(&dy, &dy).is_err());
    Ok(())
}
