//! What sublayers refuse.

use super::*;

/// Sums of a shape, with a bias for the last dimension.
fn sums(shape: &[usize]) -> Result<AffineGradients> {
    Ok(AffineGradients { weight: random(shape, 1)?, bias: Some(random(&shape[shape.len() - 1..], 2)?) })
}

fn message<T>(result: Result<T>) -> String {
    match result {
        Ok(_) => "no error".to_owned(),
        Err(error) => error.to_string(),
    }
}

#[track_caller]
fn assert_refused<T>(result: Result<T>, parts: &[&str]) {
    let error = message(result);
    assert!(parts.iter().all(|part| error.contains(part)), "{error}");
}

/// A precision that is not available is an error, as is a packed weight where a matrix is needed.
#[test]
fn precisions_and_packed_weights() -> Result<()> {
    let (x, mlp) = (random(&[5, 6], 1)?, GPT2.mlp(6, 50, Activation::Gelu)?.detach());
    let (packed, tracked) = (mlp.pack(Precision::F32)?, variable(&[5, 6], 1)?);
    assert_refused(
        packed.forward(&x, None, Precision::Bf16),
        &["expected F32, in which the weight was packed"],
    );
    assert_refused(packed.forward(&tracked, None, Precision::F32), &["packed for inference"]);
    assert_refused(mlp.forward(&tracked, None, Precision::Bf16), &["inside candle's graph"]);
    let wide = x.to_dtype(DType::F64)?;
    assert_refused(mlp.forward(&wide, None, Precision::Bf16), &["got F64 on Cpu"]);
    let gradients = MlpGradients { norm: sums(&[6])?, up: sums(&[6, 50])?, down: sums(&[50, 6])? };
    let saved = random(&[5, 50], 2)?;
    let result = packed.backward(&x, &saved, None, &x.copy()?, &gradients, Precision::F32);
    assert_refused(result, &["packed for inference"]);
    let sublayer = LLAMA.norm_linear(6, &[3, 4])?.detach().pack(Precision::F32)?;
    assert_refused(sublayer.forward(&tracked, Precision::F32), &["packed for inference"]);
    let gradients = NormLinearGradients {
        norm: ones_of_norm(&sublayer.norm)?,
        maps: vec![AffineGradients { weight: saved.clone(), bias: None }; 2],
    };
    let dy = random(&[5, 7], 3)?;
    let result = sublayer.backward(&x, &dy, &x.copy()?, &gradients, Precision::F32);
    assert_refused(result, &["packed for inference"]);
    let gated = LLAMA.gated_mlp(6, 8, Activation::Silu)?.detach();
    assert_refused(gated.forward(&tracked, None, Precision::Bf16), &["gated mlp", "inside candle's graph"]);
    assert_refused(
        gated.pack(Precision::F32)?.forward(&x, None, Precision::Bf16),
        &["expected F32, in which"],
    );
    Ok(())
}

#[test]
fn misshapen_parameters() -> Result<()> {
    let (x, f32) = (random(&[2, 4], 1)?, Precision::F32);
    for form in FORMS {
        let map = |n_in, n_out| Ok::<_, candle_core::Error>(form.map(n_in, n_out, 3)?.detach());
        let norm = form.norm(4, 2)?.detach();
        let sublayer = |maps| NormLinear { norm: norm.clone(), maps };
        let expected =
            ["norm_linear's map: expected a weight of 4 inputs, got one of 3 inputs and 5 outputs"];
        assert_refused(sublayer(vec![map(4, 6)?, map(3, 5)?]).forward(&x, f32), &expected);
        assert_refused(sublayer(Vec::new()).forward(&x, f32), &["at least one map"]);
        let biased = Affine { bias: Some(random(&[4], 1)?.into()), ..map(4, 5)? };
        assert_refused(sublayer(vec![biased]).forward(&x, f32), &["expected a bias [5], got [4]"]);
        assert!(LinearResidual { map: map(4, 5)? }.forward(&x, &x, None, f32).is_err());
        let mlp = |up: (usize, usize), down: (usize, usize)| -> Result<Mlp> {
            let (up, down) = (map(up.0, up.1)?, map(down.0, down.1)?);
            Ok(Mlp { norm: norm.clone(), up, activation: Activation::Relu, down })
        };
        let expected = ["the mlp's map down: expected a weight of 8 inputs"];
        assert_refused(mlp((4, 8), (7, 4))?.forward(&x, None, f32), &expected);
        assert!(mlp((4, 8), (8, 5))?.forward(&x, None, f32).is_err());
        let certain = Some(Dropout::new(1.0, Stream::new(1)));
        assert!(mlp((4, 8), (8, 4))?.forward(&x, certain, f32).is_err());
        let gated = form.gated_mlp(4, 8, Activation::Silu)?.detach();
        let with_up = |up| GatedMlp { up, ..gated.clone() };
        assert_refused(with_up(map(4, 7)?).forward(&x, None, f32), &["got 7 and 8"]);
        assert_refused(with_up(map(5, 8)?).forward(&x, None, f32), &["the gated mlp's map up", "4 inputs"]);
        assert!(gated.forward(&x, certain, f32).is_err());
        let down = GatedMlp { down: map(8, 5)?, ..gated.clone() };
        assert_refused(down.forward(&x, None, f32), &["the gated mlp's residual"]);
    }
    Ok(())
}

/// A gradient of another shape is refused, not cut short, and so is a bias on one side only.
#[test]
fn misshapen_gradients() -> Result<()> {
    let (x, f32) = (random(&[2, 4], 1)?, Precision::F32);
    let (dx, dy) = (x.zeros_like()?, random(&[2, 5], 4)?);
    let sublayer = GPT2.norm_linear(4, &[5])?;
    let backward = |dy: &Tensor, dx: &Tensor, maps: &[&AffineGradients]| {
        let maps = maps.iter().map(|sums| (*sums).clone()).collect();
        sublayer.backward(&x, dy, dx, &NormLinearGradients { norm: sums(&[4])?, maps }, f32)
    };
    let map = sums(&[4, 5])?;
    assert!(backward(&dy, &dx, &[&map]).is_ok());
    assert!(backward(&random(&[3, 5], 4)?, &dx, &[&map]).is_err());
    assert!(backward(&dy, &random(&[2, 3], 4)?, &[&map]).is_err());
    assert_refused(
        backward(&dy, &dx, &[&sums(&[4, 6])?]),
        &["expected shape [4, 5] for the weight, got [4, 6]"],
    );
    assert_refused(backward(&dy, &dx, &[&map, &map]), &["expected sums for 1 maps, got 2"]);
    let without = AffineGradients { bias: None, ..map.clone() };
    assert_refused(backward(&dy, &dx, &[&without]), &["expected a sum for the bias, got none"]);
    assert!(sublayer.norm.backward(&x, &dy, &dx, &sums(&[4])?).is_err());
    assert!(LinearResidual { map: GPT2.map(4, 5, 3)? }.backward(&x, &x, None, &map, f32).is_err());

    let mlp = GPT2.mlp(4, 5, Activation::Relu)?;
    let gradients = MlpGradients { norm: sums(&[4])?, up: sums(&[4, 5])?, down: sums(&[5, 4])? };
    let backward = |saved: &Tensor, dx: &Tensor| mlp.backward(&x, saved, None, dx, &gradients, f32);
    assert!(backward(&dy, &dx).is_ok());
    assert!(backward(&x, &dx).is_err() && backward(&dy, &dy).is_err());
    Ok(())
}

/// The sums of a transposed weight are transposed; those of a gated MLP fit their own map.
#[test]
fn misshapen_gradients_of_a_gated_mlp() -> Result<()> {
    let (x, f32, mlp) = (random(&[2, 4], 1)?, Precision::F32, LLAMA.gated_mlp(4, 5, Activation::Silu)?);
    let (dx, saved) = (x.zeros_like()?, random(&[2, 10], 4)?);
    let sum = |shape: [usize; 2]| {
        Ok::<_, candle_core::Error>(AffineGradients { weight: random(&shape, 1)?, bias: None })
    };
    let gradients = GatedMlpGradients {
        norm: ones_of_norm(&mlp.norm)?,
        gate: sum([5, 4])?,
        up: sum([5, 4])?,
        down: sum([4, 5])?,
    };
    let backward =
        |saved: &Tensor, gradients: &GatedMlpGradients| mlp.backward(&x, saved, None, &dx, gradients, f32);
    assert!(backward(&saved, &gradients).is_ok());
    assert_refused(
        backward(&random(&[2, 5], 4)?, &gradients),
        &["the gated mlp's pre-activation", "[2, 10]"],
    );
    let gate = GatedMlpGradients { gate: sum([4, 5])?, ..gradients.clone() };
    assert_refused(backward(&saved, &gate), &["the gated mlp's gate", "expected shape [5, 4]"]);
    let up = GatedMlpGradients { up: sums(&[5, 4])?, ..gradients.clone() };
    assert_refused(backward(&saved, &up), &["the gated mlp's map up", "there is no bias"]);
    Ok(())
}
