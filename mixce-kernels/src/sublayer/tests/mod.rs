//! Each sublayer in every form of its parameters against candle's autograd of the same thing in plain operations.

mod gated_mlp;
mod linear_residual;
mod mlp;
mod norm_linear;
mod refusals;

use candle_core::backprop::GradStore;
use candle_core::{DType, Result, Tensor, Var};

use super::*;
use crate::rng::Stream;
use crate::testing::{assert_close, assert_differences, random};
use crate::{Activation, Affine, AffineGradients, Dropout, Norm, NormKind, Weight};
use crate::{linear_slow, residual_dropout_slow};

/// Rows: none, one, odd, one more than a block.
const ROWS: [usize; 4] = [0, 1, 37, BLOCK_ROWS + 1];

/// How the parameters of a sublayer are given.
#[derive(Clone, Copy, Debug)]
struct Form {
    kind: NormKind,
    norm_bias: bool,
    /// Weights of maps are `[out, in]`.
    transposed: bool,
    bias: bool,
}

const GPT2: Form = Form { kind: NormKind::Layer, norm_bias: true, transposed: false, bias: true };
const LLAMA: Form = Form { kind: NormKind::Rms, norm_bias: false, transposed: true, bias: false };
/// Those of GPT-2 and Llama, and the other layout of each with the biases the other way round.
const FORMS: [Form; 4] = [
    GPT2,
    LLAMA,
    Form { bias: false, norm_bias: false, transposed: true, ..GPT2 },
    Form { bias: true, norm_bias: true, transposed: false, ..LLAMA },
];

fn variable(shape: &[usize], seed: u64) -> Result<Tensor> {
    Ok(Var::from_tensor(&random(shape, seed)?)?.into_inner())
}

impl Form {
    fn norm(self, c: usize, seed: u64) -> Result<Norm> {
        let bias = self.norm_bias.then(|| variable(&[c], seed + 100)).transpose()?;
        Ok(Norm { weight: variable(&[c], seed)?, bias, epsilon: 1e-5, kind: self.kind })
    }

    /// The same map in both layouts.
    fn map(self, n_in: usize, n_out: usize, seed: u64) -> Result<Affine> {
        let bias = self.bias.then(|| variable(&[n_out], seed + 100)).transpose()?;
        let matrix = random(&[n_in, n_out], seed)?;
        let weight = match self.transposed {
            false => Weight::Dense(Var::from_tensor(&matrix)?.into_inner().into()),
            true => Weight::Transposed(Var::from_tensor(&matrix.t()?.contiguous()?)?.into_inner().into()),
        };
        Ok(Affine::new(weight, bias))
    }

    fn norm_linear(self, c: usize, widths: &[usize]) -> Result<NormLinear> {
        let maps = widths.iter().zip(3..).map(|(n_out, seed)| self.map(c, *n_out, seed));
        Ok(NormLinear { norm: self.norm(c, 2)?, maps: maps.collect::<Result<_>>()? })
    }

    fn mlp(self, c: usize, inner: usize, activation: Activation) -> Result<Mlp> {
        let (up, down) = (self.map(c, inner, 2)?, self.map(inner, c, 3)?);
        Ok(Mlp { norm: self.norm(c, 1)?, up, activation, down })
    }

    fn gated_mlp(self, c: usize, inner: usize, activation: Activation) -> Result<GatedMlp> {
        let (gate, up, down) = (self.map(c, inner, 2)?, self.map(c, inner, 3)?, self.map(inner, c, 4)?);
        Ok(GatedMlp { norm: self.norm(c, 1)?, gate, up, activation, down })
    }
}

/// Sums that begin at 1, for the gradients of some parameters.
fn ones(weight: &Tensor, bias: Option<&Tensor>) -> Result<AffineGradients> {
    Ok(AffineGradients { weight: weight.ones_like()?, bias: bias.map(Tensor::ones_like).transpose()? })
}

fn ones_of_norm(norm: &Norm) -> Result<AffineGradients> {
    ones(&norm.weight, norm.bias.as_ref())
}

fn ones_of_map(map: &Affine) -> Result<AffineGradients> {
    ones(map.weight.stored()?, map.bias.as_deref())
}

/// The same sums from 0.
fn zeros_of(sums: &AffineGradients) -> Result<AffineGradients> {
    let bias = sums.bias.as_ref().map(Tensor::zeros_like).transpose()?;
    Ok(AffineGradients { weight: sums.weight.zeros_like()?, bias })
}

/// A weight of the layout of `like`.
fn with_stored(like: &Weight, stored: &Tensor) -> Weight {
    match like {
        Weight::Transposed(_) => Weight::Transposed(stored.clone().into()),
        _ => Weight::Dense(stored.clone().into()),
    }
}

/// Sums with their parameters.
type Pairs<'a> = Vec<(&'a Tensor, &'a Tensor)>;

fn pairs<'a>(sums: &'a AffineGradients, weight: &'a Tensor, bias: Option<&'a Tensor>) -> Pairs<'a> {
    [(&sums.weight, weight)].into_iter().chain(sums.bias.as_ref().zip(bias)).collect()
}

fn of_norm<'a>(sums: &'a AffineGradients, norm: &'a Norm) -> Pairs<'a> {
    pairs(sums, &norm.weight, norm.bias.as_ref())
}

fn of_map<'a>(sums: &'a AffineGradients, map: &'a Affine) -> Pairs<'a> {
    pairs(sums, map.weight.stored().unwrap(), map.bias.as_deref())
}

/// Largest absolute value, at least 1.
fn scale(of: &Tensor) -> Result<f32> {
    Ok(of.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>()?.max(1.0))
}

/// Compares sums that were begun at 1 with candle's gradients.
fn assert_added(name: &str, got: &[(&Tensor, &Tensor)], want: &GradStore) -> Result<()> {
    for (i, (sum, variable)) in got.iter().enumerate() {
        let want = want.get(variable).unwrap();
        assert_close(&format!("{name} {i}"), sum, &(want + 1.0)?, 2e-5 * scale(want)?, 1e-4);
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
        assert_close(&format!("{name}, gradient {i}"), got, want, 2e-5 * scale(want)?, 1e-4);
    }
    Ok(())
}

/// Results of products in bf16 against those in f32: an operand is wrong by at most 2^-9 of itself.
fn assert_near(name: &str, bf16: &[Tensor], f32: &[Tensor]) -> Result<()> {
    for (i, (bf16, f32)) in bf16.iter().zip(f32).enumerate() {
        assert_close(&format!("{name} {i}"), bf16, f32, scale(f32)? / 64.0, 0.0);
        let difference = (bf16 - f32)?.abs()?.max_all()?.to_scalar::<f32>()?;
        assert!(difference > 0.0, "{name} {i}: the products were not rounded");
    }
    Ok(())
}

/// The precisions that this CPU packs weights in.
fn packed_precisions() -> Vec<Precision> {
    let all = [Precision::F32, Precision::Bf16];
    all.into_iter().filter(|precision| precision.check(&candle_core::Device::Cpu).is_ok()).collect()
}

fn plain_linear(x: &Tensor, map: &Affine) -> Result<Tensor> {
    linear_slow(x, &map.weight.matrix()?, map.bias.as_deref())
}

fn dropouts() -> [Option<Dropout>; 2] {
    [None, Some(Dropout::new(0.3, Stream::new(7)))]
}

/// One tracked tensor is enough for the graph, whichever it is.
#[test]
fn any_variable_is_in_the_graph() -> Result<()> {
    let (x, f32) = (random(&[3, 4], 9)?, Precision::F32);
    let mlp = GPT2.mlp(4, 8, Activation::Silu)?;
    let detached = mlp.detach();
    let parts = [
        Mlp { norm: mlp.norm.clone(), ..detached.clone() },
        Mlp { up: mlp.up.clone(), ..detached.clone() },
        Mlp { down: mlp.down.clone(), ..detached.clone() },
    ];
    for part in parts {
        assert!(part.forward(&x, None, f32)?.track_op());
    }
    assert!(!detached.forward(&x, None, f32)?.track_op());
    assert!(detached.forward(&variable(&[3, 4], 9)?, None, f32)?.track_op());
    let gated = LLAMA.gated_mlp(4, 8, Activation::Silu)?;
    let detached = gated.detach();
    let parts = [
        GatedMlp { norm: gated.norm.clone(), ..detached.clone() },
        GatedMlp { gate: gated.gate.clone(), ..detached.clone() },
        GatedMlp { up: gated.up.clone(), ..detached.clone() },
        GatedMlp { down: gated.down.clone(), ..detached.clone() },
    ];
    for part in parts {
        assert!(part.forward(&x, None, f32)?.track_op());
    }
    assert!(!detached.forward(&x, None, f32)?.track_op());
    let map = Affine::new(random(&[4, 4], 1)?, Some(random(&[4], 2)?));
    let (norm, biased) = (mlp.norm, Affine { bias: Some(variable(&[4], 2)?.into()), ..map.clone() });
    assert!(NormLinear { norm: norm.clone(), maps: vec![map.clone()] }.forward(&x, f32)?.track_op());
    let sublayer = NormLinear { norm: norm.detach(), maps: vec![map.clone(), biased] };
    assert!(sublayer.forward(&x, f32)?.track_op() && !sublayer.detach().forward(&x, f32)?.track_op());
    let residual = LinearResidual { map };
    assert!(residual.forward(&x, &variable(&[3, 4], 9)?, None, f32)?.track_op());
    assert!(!residual.forward(&x, &x, None, f32)?.track_op());
    Ok(())
}

/// Types without kernels are computed as they are.
#[test]
fn f64_gives_the_numbers_of_f32() -> Result<()> {
    let wide = |tensor: &Tensor| tensor.to_dtype(DType::F64);
    let wide_map = |map: &Affine| -> Result<Affine> {
        let weight = match &map.weight {
            Weight::Transposed(weight) => Weight::Transposed(wide(weight)?.into()),
            weight => Weight::Dense(wide(weight.stored()?)?.into()),
        };
        Ok(Affine::new(weight, map.bias.as_deref().map(wide).transpose()?))
    };
    let x = random(&[5, 6], 1)?;
    for form in FORMS {
        let sublayer = form.norm_linear(6, &[4, 2, 3])?.detach();
        let NormLinear { norm, maps } = &sublayer;
        let bias = norm.bias.as_ref().map(wide).transpose()?;
        let norm = Norm { weight: wide(&norm.weight)?, bias, ..*norm };
        let wide_sublayer = NormLinear { norm, maps: maps.iter().map(wide_map).collect::<Result<_>>()? };
        let got = wide_sublayer.forward(&wide(&x)?, Precision::F32)?;
        assert_eq!(got.dtype(), DType::F64);
        let want = sublayer.forward(&x, Precision::F32)?;
        assert_close(&format!("{form:?}"), &got.to_dtype(DType::F32)?, &want, 2e-5, 1e-5);
    }
    Ok(())
}
