//! The sublayers, whose gradients are added in place.
//!
//! In bf16 both devices round the operands of products alike; the GPU also rounds what it keeps inside a branch. One rounding is
//! wrong by at most 2^-9 of a number.

use candle_core::{DType, Device, Result, Tensor};
use mixce_kernels::rng::Stream;
use mixce_kernels::sublayer::{
    GatedMlp, GatedMlpGradients, LinearResidual, Mlp, MlpGradients, NormLinear, NormLinearGradients,
};
use mixce_kernels::{
    Activation, Affine, AffineGradients, Dropout, Norm, NormKind, Precision, StoredTensor, Weight,
};

use crate::{assert_close, cuda, on, random, rounded, values};

/// The forms of norms and maps: those of GPT-2, without biases; those of the Llama family, with biases.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Form {
    Gpt2,
    Bare,
    Llama,
    Biased,
}

const FORMS: [Form; 4] = [Form::Gpt2, Form::Bare, Form::Llama, Form::Biased];

impl Form {
    fn is_transposed(self) -> bool {
        matches!(self, Self::Llama | Self::Biased)
    }

    /// Numbers for a bias, in maps and in norms.
    fn bias(self, of_map: bool, n: usize, device: &Device, seed: u64) -> Result<Option<Tensor>> {
        let there = self == Self::Gpt2 || (of_map && self == Self::Biased);
        there.then(|| on(device, &random(&[n], seed)?)).transpose()
    }

    fn weight(self, n_in: usize, n_out: usize, device: &Device, seed: u64) -> Result<Tensor> {
        let shape = if self.is_transposed() { [n_out, n_in] } else { [n_in, n_out] };
        on(device, &random(&shape, seed)?)
    }

    pub(crate) fn norm(self, c: usize, device: &Device, seed: u64) -> Result<Norm> {
        let kind = if self.is_transposed() { NormKind::Rms } else { NormKind::Layer };
        let (weight, bias) = (on(device, &random(&[c], seed)?)?, self.bias(false, c, device, seed + 1)?);
        Ok(Norm { weight, bias, epsilon: 1e-5, kind })
    }

    pub(crate) fn map(self, n_in: usize, n_out: usize, device: &Device, seed: u64) -> Result<Affine> {
        let weight = self.weight(n_in, n_out, device, seed)?;
        let bias = self.bias(true, n_out, device, seed + 1)?;
        let weight = if self.is_transposed() { Weight::Transposed(weight.into()) } else { weight.into() };
        Ok(Affine::new(weight, bias))
    }

    /// Sums that hold something already: gradients are added to it.
    pub(crate) fn norm_sums(self, c: usize, device: &Device, seed: u64) -> Result<AffineGradients> {
        let (weight, bias) = (on(device, &random(&[c], seed)?)?, self.bias(false, c, device, seed + 1)?);
        Ok(AffineGradients { weight, bias })
    }

    /// Likewise.
    pub(crate) fn sums(
        self,
        n_in: usize,
        n_out: usize,
        device: &Device,
        seed: u64,
    ) -> Result<AffineGradients> {
        let weight = self.weight(n_in, n_out, device, seed)?;
        Ok(AffineGradients { weight, bias: self.bias(true, n_out, device, seed + 1)? })
    }
}

/// The tensors of sums.
pub(crate) fn of<const N: usize>(sums: [&AffineGradients; N]) -> Vec<Tensor> {
    sums.into_iter().flat_map(|sums| [Some(sums.weight.clone()), sums.bias.clone()]).flatten().collect()
}

/// A tensor inside a branch: bf16 on CUDA in bf16.
pub(crate) fn inside(shape: &[usize], device: &Device, precision: Precision, seed: u64) -> Result<Tensor> {
    match precision {
        Precision::F32 => on(device, &random(shape, seed)?),
        Precision::Bf16 if device.is_cpu() => rounded(shape, seed),
        Precision::Bf16 => on(device, &rounded(shape, seed)?.to_dtype(DType::BF16)?),
    }
}

/// `f` on both devices gives the same tensors, and the same bits twice.
pub(crate) fn assert_same(
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

/// Tokens and channels, in both precisions and all forms.
pub(crate) fn problems() -> impl Iterator<Item = (usize, usize, Precision, Form)> {
    let shapes = [(0, 4), (1, 1), (7, 33), (257, 12), (65, 96)];
    let cases = FORMS.into_iter().flat_map(|form| [Precision::F32, Precision::Bf16].map(|p| (p, form)));
    shapes
        .into_iter()
        .flat_map(move |(n, c)| cases.clone().map(move |(precision, form)| (n, c, precision, form)))
}

#[test]
fn norm_and_linear() -> Result<()> {
    for (n, c, precision, form) in problems() {
        // One map in GPT-2; queries, keys and values of different widths elsewhere.
        let widths = if form == Form::Gpt2 { vec![3 * c] } else { vec![c + 1, 2, c] };
        let (seeds, n_out) = (|first: u64| (first..).step_by(2).zip(&widths), widths.iter().sum::<usize>());
        assert_same(&format!("norm_linear [{n}, {c}], {form:?}"), (precision, 1e-5), |device| {
            let maps = seeds(3).map(|(seed, width)| form.map(c, *width, device, seed));
            let sublayer = NormLinear { norm: form.norm(c, device, 1)?, maps: maps.collect::<Result<_>>()? };
            let (x, dy) = (on(device, &random(&[n, c], 5)?)?, inside(&[n, n_out], device, precision, 6)?);
            let sums = seeds(9).map(|(seed, width)| form.sums(c, *width, device, seed));
            let gradients = NormLinearGradients {
                norm: form.norm_sums(c, device, 7)?,
                maps: sums.collect::<Result<_>>()?,
            };
            let (dx, dz) = (on(device, &random(&[n, c], 11)?)?, on(device, &random(&[n, c], 12)?)?);
            let y = sublayer.forward(&x, precision)?;
            assert_eq!(y.dtype(), dy.dtype());
            sublayer.backward(&x, &dy, &dx, &gradients, precision)?;
            sublayer.norm.backward(&x, &dz, &dx, &gradients.norm)?;
            let NormLinearGradients { norm, maps } = &gradients;
            Ok([vec![y, dx], of([norm]), maps.iter().flat_map(|map| of([map])).collect()].concat())
        })?;
    }
    Ok(())
}

#[test]
fn linear_and_residual() -> Result<()> {
    for (n, c, precision, form) in problems() {
        for drop in [None, Some(Dropout { p: 0.3, stream: Stream::new(4), first_row: 3 })] {
            assert_same(&format!("linear_residual [{n}, {c}], {form:?}"), (precision, 1e-5), |device| {
                let sublayer = LinearResidual { map: form.map(c + 2, c, device, 1)? };
                let gradients = form.sums(c + 2, c, device, 3)?;
                let x = inside(&[n, c + 2], device, precision, 5)?;
                let tensor = |seed| on(device, &random(&[n, c], seed)?);
                let (residual, dy) = (tensor(6)?, tensor(7)?);
                let y = sublayer.forward(&x, &residual, drop, precision)?;
                let dx = sublayer.backward(&x, &dy, drop, &gradients, precision)?;
                assert_eq!((y.dtype(), dx.dtype()), (DType::F32, x.dtype()));
                // With the next sublayer's norm, in one pass.
                let (activation, norm) = (Activation::GeluNew, form.norm(c, device, 8)?);
                let (up, down) = (form.map(c, 2 * c, device, 10)?, form.map(2 * c, c, device, 12)?);
                let mlp = Mlp { norm, up, activation, down };
                let (again, normed) = sublayer.forward_and_norm(&x, &residual, drop, &mlp.norm, precision)?;
                assert_eq!(normed.is_some(), device.is_cuda());
                assert_eq!(values(&again)?, values(&y)?);
                let z = mlp.forward_among(&again, normed, drop, precision, false, None)?.y;
                let tolerance = if precision == Precision::Bf16 { 8.0 / 512.0 } else { 1e-6 };
                assert_close("the mlp behind", &z, &mlp.forward(&y, drop, precision)?, tolerance)?;
                Ok([vec![y, dx], of([&gradients])].concat())
            })?;
        }
    }
    Ok(())
}

#[test]
fn mlps() -> Result<()> {
    let dropout = Some(Dropout::new(0.2, Stream::new(6)));
    let functions = [
        (Activation::GeluNew, dropout, Form::Gpt2),
        (Activation::Gelu, None, Form::Gpt2),
        (Activation::Relu, None, Form::Biased),
        (Activation::Silu, dropout, Form::Llama),
        (Activation::GeluNew, None, Form::Bare),
    ];
    let problems = problems().filter(|(_, _, _, form)| *form == Form::Gpt2);
    for ((n, c, precision, _), (f, drop, form)) in problems.flat_map(|p| functions.map(|f| (p, f))) {
        assert_same(&format!("mlp [{n}, {c}] with {f:?}, {form:?}"), (precision, 2e-5), |device| {
            let mlp = Mlp {
                norm: form.norm(c, device, 1)?,
                up: form.map(c, 4 * c, device, 3)?,
                activation: f,
                down: form.map(4 * c, c, device, 5)?,
            };
            let gradients = MlpGradients {
                norm: form.norm_sums(c, device, 11)?,
                up: form.sums(c, 4 * c, device, 13)?,
                down: form.sums(4 * c, c, device, 15)?,
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

/// Their three products and the gate's own rounding make the errors of bf16 larger than elsewhere, so that weights are of the size at
/// which the results stay near 1.
#[test]
fn gated_mlps() -> Result<()> {
    let dropout = Some(Dropout::new(0.2, Stream::new(6)));
    for (n, c, precision, form) in problems() {
        let (f, drop) = match form {
            Form::Gpt2 => (Activation::GeluNew, dropout),
            Form::Bare => (Activation::Gelu, None),
            Form::Llama => (Activation::Silu, dropout),
            Form::Biased => (Activation::Silu, None),
        };
        let inner = 2 * c + 1;
        assert_same(&format!("gated mlp [{n}, {c}] with {f:?}, {form:?}"), (precision, 2e-5), |device| {
            let map = |n_in: usize, n_out, seed| -> Result<Affine> {
                let Affine { weight, bias } = form.map(n_in, n_out, device, seed)?;
                let small = |weight: StoredTensor| weight.into_tensor() / (n_in as f64).sqrt();
                let weight = match weight {
                    Weight::Dense(weight) => Weight::Dense(small(weight)?.into()),
                    Weight::Transposed(weight) => Weight::Transposed(small(weight)?.into()),
                    packed => packed,
                };
                Ok(Affine { weight, bias })
            };
            let mlp = GatedMlp {
                norm: form.norm(c, device, 1)?,
                gate: map(c, inner, 3)?,
                up: map(c, inner, 5)?,
                activation: f,
                down: map(inner, c, 7)?,
            };
            let gradients = GatedMlpGradients {
                norm: form.norm_sums(c, device, 11)?,
                gate: form.sums(c, inner, device, 13)?,
                up: form.sums(c, inner, device, 15)?,
                down: form.sums(inner, c, device, 17)?,
            };
            let (x, dx) = (on(device, &random(&[n, c], 21)?)?, on(device, &random(&[n, c], 22)?)?);
            let (y, pre_activation) = mlp.forward_saving(&x, drop, precision)?;
            let again = mlp.forward(&x, drop, precision)?;
            mlp.backward(&x, &pre_activation, drop, &dx, &gradients, precision)?;
            let sums = of([&gradients.norm, &gradients.gate, &gradients.up, &gradients.down]);
            Ok([vec![y, pre_activation, again, dx], sums].concat())
        })?;
    }
    Ok(())
}
