//! Sublayers whose passes meet in one kernel give the same as one after the other.

use candle_core::{DType, Device, Result, Tensor};
use mixce_kernels::rng::Stream;
use mixce_kernels::sublayer::{
    Branch, BranchGradient, GatedMlp, GatedMlpGradients, LinearResidual, MapsNeighbours, Mlp, MlpGradients,
    MlpOutput, Neighbours, NormLinear, NormLinearGradients,
};
use mixce_kernels::{
    Activation, AffineGradients, CuSeqlens, DrawnDropout, Dropout, Heads, Norm, Precision,
    causal_attention_backward, causal_attention_backward_adding, causal_attention_saving,
};

use crate::sublayers::{Form, assert_same, inside, of, problems};
use crate::{assert_close, cuda, on, random, rounded, values};

/// Either MLP.
enum AnyMlp {
    Plain(Mlp, MlpGradients),
    Gated(GatedMlp, GatedMlpGradients),
}

impl AnyMlp {
    /// Gated in the forms of the Llama family.
    fn new(form: Form, c: usize, device: &Device) -> Result<Self> {
        let inner = c + 2;
        let (norm, sums) = (form.norm(c, device, 1)?, form.norm_sums(c, device, 11)?);
        let (up, up_sums) = (form.map(c, inner, device, 3)?, form.sums(c, inner, device, 13)?);
        let (down, down_sums) = (form.map(inner, c, device, 5)?, form.sums(inner, c, device, 15)?);
        let activation = Activation::Silu;
        if matches!(form, Form::Gpt2 | Form::Bare) {
            let sums = MlpGradients { norm: sums, up: up_sums, down: down_sums };
            return Ok(Self::Plain(Mlp { norm, up, activation, down }, sums));
        }
        let (gate, gate_sums) = (form.map(c, inner, device, 7)?, form.sums(c, inner, device, 17)?);
        let sums = GatedMlpGradients { norm: sums, gate: gate_sums, up: up_sums, down: down_sums };
        Ok(Self::Gated(GatedMlp { norm, gate, up, activation, down }, sums))
    }

    fn forward(
        &self,
        x: &Tensor,
        drop: Option<Dropout>,
        precision: Precision,
        next: Option<&Norm>,
    ) -> Result<MlpOutput> {
        match self {
            Self::Plain(mlp, _) => mlp.forward_among(x, None, drop, precision, true, next),
            Self::Gated(mlp, _) => mlp.forward_among(x, None, drop, precision, true, next),
        }
    }

    fn backward(
        &self,
        saved: [&Tensor; 2],
        drop: Option<Dropout>,
        dx: &Tensor,
        precision: Precision,
        neighbours: Neighbours<'_>,
    ) -> Result<Option<BranchGradient>> {
        match self {
            Self::Plain(mlp, sums) => mlp.backward_among(saved, drop, dx, sums, precision, neighbours),
            Self::Gated(mlp, sums) => mlp.backward_among(saved, drop, dx, sums, precision, neighbours),
        }
    }

    /// The sums of the map down.
    fn down(&self) -> &AffineGradients {
        match self {
            Self::Plain(_, sums) => &sums.down,
            Self::Gated(_, sums) => &sums.down,
        }
    }

    fn sums(&self) -> Vec<Tensor> {
        match self {
            Self::Plain(_, sums) => of([&sums.norm, &sums.up, &sums.down]),
            Self::Gated(_, sums) => of([&sums.norm, &sums.gate, &sums.up, &sums.down]),
        }
    }
}

fn branch(dropout: Option<Dropout>, sums: &AffineGradients) -> Branch<'_> {
    Branch { dropout, bias: sums.bias.as_ref() }
}

fn around(below: Option<Branch<'_>>) -> MapsNeighbours<'_> {
    MapsNeighbours { biases_added: false, below }
}

/// The results and gradients of a way out of attention, an MLP and the way into the next attention, with passes that meet or not; and the
/// gradients of the biases of both branches, whose sums have another order.
fn both_passes(
    (n, c, precision, form): (usize, usize, Precision, Form),
    drop: Option<Dropout>,
    device: &Device,
    meet: bool,
) -> Result<(Vec<Tensor>, Vec<Tensor>)> {
    let tensor = |seed| on(device, &random(&[n, c], seed)?);
    let (out, out_sums) =
        (LinearResidual { map: form.map(c + 2, c, device, 21)? }, form.sums(c + 2, c, device, 31)?);
    let mlp = AnyMlp::new(form, c, device)?;
    let next = NormLinear { norm: form.norm(c, device, 23)?, maps: vec![form.map(c, 2 * c, device, 25)?] };
    let (norm, maps) = (form.norm_sums(c, device, 33)?, vec![form.sums(c, 2 * c, device, 35)?]);
    let next_sums = NormLinearGradients { norm, maps };

    let (attended, middle, dx) = (inside(&[n, c + 2], device, precision, 41)?, tensor(42)?, tensor(43)?);
    let dqkv = inside(&[n, 2 * c], device, precision, 44)?;
    let MlpOutput { y, pre_activation, normed } =
        mlp.forward(&middle, drop, precision, meet.then_some(&next.norm))?;
    assert_eq!(normed.is_some(), meet && device.is_cuda());
    let qkv = next.forward_among(&y, normed, precision)?;
    let of_attention = drop.map(|drop| Dropout { first_row: 8, ..drop });
    let (below_next, below_mlp) = (branch(drop, mlp.down()), branch(of_attention, &out_sums));

    let above =
        next.backward_among(&y, &dqkv, &dx, &next_sums, precision, around(meet.then_some(below_next)))?;
    assert_eq!(above.is_some(), meet && device.is_cuda());
    let neighbours = Neighbours { above, below: meet.then_some(below_mlp) };
    let above = mlp.backward([&middle, &pre_activation], drop, &dx, precision, neighbours)?;
    assert_eq!(above.is_some(), meet && device.is_cuda());
    let dattended = out.backward_among(&attended, &dx, of_attention, &out_sums, precision, above)?;

    let sums = [mlp.sums(), of([&out_sums, &next_sums.norm, &next_sums.maps[0]])].concat();
    let of_branches = [mlp.down(), &out_sums].map(|sums| sums.bias.clone());
    let biases: Vec<Tensor> = of_branches.into_iter().flatten().collect();
    let is_bias = |sum: &Tensor| biases.iter().any(|bias| bias.id() == sum.id());
    let others = sums.into_iter().filter(|sum| !is_bias(sum));
    Ok(([y, qkv, dx, dattended].into_iter().chain(others).collect(), biases))
}

#[test]
fn passes_that_meet_give_the_same_bits() -> Result<()> {
    let part = Dropout { p: 0.3, stream: Stream::new(4), first_row: 3 };
    for problem @ (n, c, precision, form) in problems() {
        for drop in [None, Some(part)] {
            let name = format!("sublayers that meet [{n}, {c}], {form:?}, dropout {}", drop.is_some());
            let (met, biases) = both_passes(problem, drop, &cuda()?, true)?;
            let (apart, biases_apart) = both_passes(problem, drop, &cuda()?, false)?;
            for (i, (met, apart)) in met.iter().zip(&apart).enumerate() {
                assert_eq!(values(met)?, values(apart)?, "{name} in {precision:?}, result {i}");
            }
            for (met, apart) in biases.iter().zip(&biases_apart) {
                assert_close(&name, met, apart, 1e-5)?;
            }
            // The errors of bf16 add up over three sublayers: only the same bits are wanted there.
            if precision == Precision::F32 {
                assert_same(&name, (precision, 1e-4), |device| {
                    let (met, biases) = both_passes(problem, drop, device, true)?;
                    Ok([met, biases].concat())
                })?;
            }
        }
    }
    Ok(())
}

#[test]
fn another_branch_is_refused() -> Result<()> {
    let (c, precision, form, device) = (4, Precision::Bf16, Form::Gpt2, cuda()?);
    let tensor = |n, seed| on(&device, &random(&[n, c], seed)?);
    let next = NormLinear { norm: form.norm(c, &device, 1)?, maps: vec![form.map(c, c, &device, 3)?] };
    let sums = NormLinearGradients {
        norm: form.norm_sums(c, &device, 5)?,
        maps: vec![form.sums(c, c, &device, 7)?],
    };
    let dy = inside(&[3, c], &device, precision, 9)?;
    let below = Some(Branch::default());
    let above =
        next.backward_among(&tensor(3, 11)?, &dy, &tensor(3, 12)?, &sums, precision, around(below))?;
    let out = LinearResidual { map: form.map(c, c, &device, 13)? };
    let (sums, attended) = (form.sums(c, c, &device, 15)?, inside(&[5, c], &device, precision, 17)?);
    let error = out.backward_among(&attended, &tensor(5, 18)?, None, &sums, precision, above).unwrap_err();
    assert!(error.to_string().contains("the gradient of this branch"), "{error}");
    Ok(())
}

/// The sums of the columns of the gradient of queries, keys and values, of ragged documents and heads that share keys.
#[test]
fn attention_adds_the_gradient_of_a_bias() -> Result<()> {
    let drop = Dropout { p: 0.25, stream: Stream::new(3), first_row: 7 };
    for (lengths, heads, kv, d) in [(&[70, 1, 65][..], 2, 2, 64), (&[129, 3], 4, 2, 16), (&[5], 2, 1, 128)] {
        let documents = CuSeqlens::from_lengths(lengths.iter().copied());
        let (n, channels) = (documents.tokens(), (heads + 2 * kv) * d);
        let heads = Heads { kv, ..Heads::new(heads, 1.0 / (d as f64).sqrt()) };
        let half = |width, seed| rounded(&[n, width], seed)?.to_device(&cuda()?)?.to_dtype(DType::BF16);
        let (qkv, dout) = (half(channels, 1)?, half(heads.count * d, 2)?);
        let (out, drawn) = causal_attention_saving(&qkv, &documents, heads, Some(drop))?;
        let (outputs, drawn) = ([&out, &dout], drawn.as_ref());
        let bias = on(&cuda()?, &random(&[channels], 3)?)?;
        let before = bias.copy()?;
        let (dqkv, added) =
            causal_attention_backward_adding(&qkv, &documents, heads, drawn, outputs, Some(&bias))?;
        assert!(added);
        // Without a bias, and with a dropout that is drawn again, the same bits.
        let again = DrawnDropout::from(drop);
        let alone = causal_attention_backward(&qkv, &documents, heads, Some(&again), &out, &dout)?;
        assert_eq!(values(&dqkv)?, values(&alone)?);
        let want = (before + dqkv.to_dtype(DType::F32)?.sum(0)?)?;
        assert_close(&format!("bias of {lengths:?}, {heads:?}"), &bias, &want, 4.0 / 512.0)?;
        let error = causal_attention_backward_adding(&qkv, &documents, heads, drawn, outputs, Some(&out));
        assert!(error.unwrap_err().to_string().contains("the gradient of a bias"));
    }
    Ok(())
}
