//! The sublayers, whose gradients are added in place.
//!
//! In bf16 both devices round the operands of products alike; the GPU also rounds what it keeps inside a branch. One rounding is
//! wrong by at most 2^-9 of a number.

use candle_core::{DType, Device, Result, Tensor};
use mixce_kernels::rng::Stream;
use mixce_kernels::sublayer::{LinearResidual, Mlp, MlpGradients, NormLinear, NormLinearGradients};
use mixce_kernels::{Activation, Affine, AffineGradients, Dropout, Norm, Precision};

use crate::{assert_close, cuda, on, random, rounded, values};

/// A weight and a bias.
fn pair(weight: &[usize], device: &Device, seed: u64) -> Result<[Tensor; 2]> {
    let c = weight[weight.len() - 1];
    let tensor = |shape: &[usize], seed| on(device, &random(shape, seed)?);
    Ok([tensor(weight, seed)?, tensor(&[c], seed + 1)?])
}

fn norm(c: usize, device: &Device, seed: u64) -> Result<Norm> {
    let [weight, bias] = pair(&[c], device, seed)?;
    Ok(Norm::layer(weight, Some(bias), 1e-5))
}

fn map(n_in: usize, n_out: usize, device: &Device, seed: u64) -> Result<Affine> {
    let [weight, bias] = pair(&[n_in, n_out], device, seed)?;
    Ok(Affine::new(weight, Some(bias)))
}

/// Sums that hold something already: gradients are added to it.
fn sums(weight: &[usize], device: &Device, seed: u64) -> Result<AffineGradients> {
    let [weight, bias] = pair(weight, device, seed)?;
    Ok(AffineGradients { weight, bias: Some(bias) })
}

/// The tensors of sums.
fn of<const N: usize>(sums: [&AffineGradients; N]) -> Vec<Tensor> {
    sums.into_iter().flat_map(|sums| [Some(sums.weight.clone()), sums.bias.clone()]).flatten().collect()
}

/// A tensor inside a branch: bf16 on CUDA in bf16.
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
            let sublayer = NormLinear { norm: norm(c, device, 1)?, maps: vec![map(c, 3 * c, device, 3)?] };
            let (x, dy) = (on(device, &random(&[n, c], 5)?)?, inside(&[n, 3 * c], device, precision, 6)?);
            let gradients = NormLinearGradients {
                norm: sums(&[c], device, 7)?,
                maps: vec![sums(&[c, 3 * c], device, 9)?],
            };
            let (dx, dz) = (on(device, &random(&[n, c], 11)?)?, on(device, &random(&[n, c], 12)?)?);
            let y = sublayer.forward(&x, precision)?;
            assert_eq!(y.dtype(), dy.dtype());
            sublayer.backward(&x, &dy, &dx, &gradients, precision)?;
            sublayer.norm.backward(&x, &dz, &dx, &gradients.norm)?;
            let NormLinearGradients { norm, maps } = &gradients;
            Ok([vec![y, dx], of([norm, &maps[0]])].concat())
        })?;
    }
    Ok(())
}

#[test]
fn linear_and_residual() -> Result<()> {
    for (n, c, precision) in problems() {
        for drop in [None, Some(Dropout { p: 0.3, stream: Stream::new(4) })] {
            assert_same(&format!("linear_residual [{n}, {c}]"), (precision, 1e-5), |device| {
                let sublayer = LinearResidual { map: map(c + 2, c, device, 1)? };
                let gradients = sums(&[c + 2, c], device, 3)?;
                let x = inside(&[n, c + 2], device, precision, 5)?;
                let tensor = |seed| on(device, &random(&[n, c], seed)?);
                let (residual, dy) = (tensor(6)?, tensor(7)?);
                let y = sublayer.forward(&x, &residual, drop, precision)?;
                let dx = sublayer.backward(&x, &dy, drop, &gradients, precision)?;
                assert_eq!((y.dtype(), dx.dtype()), (DType::F32, x.dtype()));
                Ok([vec![y, dx], of([&gradients])].concat())
            })?;
        }
    }
    Ok(())
}

#[test]
fn mlps() -> Result<()> {
    let dropout = Some(Dropout { p: 0.2, stream: Stream::new(6) });
    let functions = [
        (Activation::GeluNew, dropout),
        (Activation::Gelu, None),
        (Activation::Relu, None),
        (Activation::Silu, dropout),
    ];
    for ((n, c, precision), (f, drop)) in problems().flat_map(|p| functions.map(|f| (p, f))) {
        assert_same(&format!("mlp [{n}, {c}] with {f:?}"), (precision, 2e-5), |device| {
            let mlp = Mlp {
                norm: norm(c, device, 1)?,
                up: map(c, 4 * c, device, 3)?,
                activation: f,
                down: map(4 * c, c, device, 5)?,
            };
            let gradients = MlpGradients {
                norm: sums(&[c], device, 11)?,
                up: sums(&[c, 4 * c], device, 13)?,
                down: sums(&[4 * c, c], device, 15)?,
            };
            let x = on(device, &random(&[n, c], 21)?)?;
            let dx = on(device, &random(&[n, c], 22)?)?;
            let (y, pre_activation) = mlp.forward_saving(&x, drop, precision)?;
            let again = mlp.forward(&x, drop, precision)?;
            mlp.backward(&x, &pre_activation, drop, &dx, &gradients, precision)?;
            let sums = of([&gradients.norm, &gradients.up, &gradients.down]);
            let results = [y, pre_activation, again].into_iter();
            // Where rounding takes the input of ReLU over its bend, the gradient is another.
            let bends = precision == Precision::Bf16 && f == Activation::Relu;
            Ok(results.chain(std::iter::once(dx).chain(sums).filter(|_| !bends)).collect())
        })?;
    }
    Ok(())
}
