use candle_core::{Device, Result, Tensor, Var};
use proptest::prelude::*;

use super::*;
use crate::rng::Stream;
use crate::testing::{assert_close, assert_gradient, random};

fn gradients(out: &Tensor, qkv: &Var) -> Result<Vec<f32>> {
    // A fixed random projection makes every output matter differently.
    let projection = random(out.dims(), 77)?;
    let grads = out.mul(&projection)?.sum_all()?.backward()?;
    grads.get(qkv).unwrap().flatten_all()?.to_vec1()
}

fn compare(lengths: &[usize], heads: usize, d: usize, dropout: Option<Dropout>) -> Result<()> {
    let cu_seqlens = CuSeqlens::from_lengths(lengths.iter().copied());
    let qkv = Var::from_tensor(&random(&[cu_seqlens.tokens(), 3 * heads * d], 5)?)?;
    let scale = 1.0 / (d as f64).sqrt();
    let fused = causal_attention(&qkv, &cu_seqlens, heads, scale, dropout)?;
    let slow = causal_attention_slow(&qkv, &cu_seqlens, heads, scale, dropout)?;
    assert_close("attention", &fused, &slow, 1e-5, 1e-5);
    if cu_seqlens.tokens() > 0 {
        let (fused, slow) = (gradients(&fused, &qkv)?, gradients(&slow, &qkv)?);
        let n = fused.len();
        assert_close(
            "attention gradient",
            &Tensor::from_vec(fused, n, &Device::Cpu)?,
            &Tensor::from_vec(slow, n, &Device::Cpu)?,
            1e-4,
            1e-4,
        );
    }
    Ok(())
}

#[test]
fn fused_equals_slow() -> Result<()> {
    let dropout = Some(Dropout { p: 0.2, stream: Stream::new(11) });
    for lengths in [vec![], vec![1], vec![0, 3, 0], vec![5, 1, 64, 2], vec![65, 130], vec![63, 64, 129]] {
        compare(&lengths, 3, 8, None)?;
        compare(&lengths, 2, 5, dropout)?;
    }
    Ok(())
}

#[test]
fn gradient_is_the_finite_difference() -> Result<()> {
    let cu_seqlens = CuSeqlens::from_lengths([3, 1, 5]);
    for dropout in [None, Some(Dropout { p: 0.3, stream: Stream::new(2) })] {
        let f = |qkv: &Tensor| causal_attention(qkv, &cu_seqlens, 2, 0.6, dropout);
        assert_gradient("attention", &random(&[9, 18], 8)?, f)?;
    }
    Ok(())
}

#[test]
fn packing_equals_one_document_at_a_time() -> Result<()> {
    let cu_seqlens = CuSeqlens::from_lengths([4, 70, 9]);
    let qkv = random(&[83, 24], 3)?;
    let packed = causal_attention(&qkv, &cu_seqlens, 2, 0.5, None)?;
    for (start, t) in cu_seqlens.spans() {
        let alone = causal_attention(&qkv.narrow(0, start, t)?, &CuSeqlens::from_lengths([t]), 2, 0.5, None)?;
        assert_close("document", &packed.narrow(0, start, t)?, &alone, 1e-6, 1e-6);
    }
    Ok(())
}

#[test]
fn bad_offsets_are_refused() -> Result<()> {
    let qkv = random(&[4, 12], 1)?;
    let error = causal_attention(&qkv, &CuSeqlens::from_lengths([3]), 2, 1.0, None).unwrap_err();
    assert!(error.to_string().contains("cover 3 tokens, the tensor has 4"), "{error}");
    assert!(causal_attention(&qkv, &CuSeqlens::from_lengths([4]), 5, 1.0, None).is_err());
    assert!(
        causal_attention(
            &qkv,
            &CuSeqlens::from_lengths([4]),
            2,
            1.0,
            Some(Dropout { p: 1.5, stream: Stream::new(0) })
        )
        .is_err()
    );
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn any_packing_agrees_with_the_slow_twin(lengths in prop::collection::vec(0usize..80, 0..6), heads in 1usize..4, d in 1usize..9, p in prop::option::of(0.0f64..0.9)) {
        compare(&lengths, heads, d, p.map(|p| Dropout { p, stream: Stream::new(1) })).unwrap();
    }
}
