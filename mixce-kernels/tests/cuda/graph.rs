//! The differentiable operations.

use candle_core::{DType, Result, Tensor};
use mixce_kernels::rng::Stream;
use mixce_kernels::{
    Activation, CuSeqlens, Dropout, Embedded, Heads, Norm, causal_attention, dropout, embedding_sum, linear,
    residual_dropout,
};

use crate::{assert_same_on_cuda, cuda, random, rounded};

/// Rows and columns: nothing, one, odd, one more than a warp, one more than a block, more than one of everything.
const SHAPES: [(usize, usize); 7] = [(0, 5), (1, 1), (3, 7), (33, 33), (2, 257), (257, 31), (300, 768)];

#[test]
fn layer_norms() -> Result<()> {
    for (n, c) in SHAPES {
        let inputs = [random(&[n, c], 1)?, random(&[c], 2)?, random(&[c], 3)?];
        assert_same_on_cuda(&format!("layer norm [{n}, {c}]"), &inputs, 1e-5, |t| {
            Norm::layer(t[1].clone(), Some(t[2].clone()), 1e-5).forward(&t[0])
        })?;
    }
    Ok(())
}

#[test]
fn activations() -> Result<()> {
    let all = [Activation::GeluNew, Activation::Gelu, Activation::Relu, Activation::Silu];
    for activation in all {
        for n in [0usize, 1, 33, 257, 4096, 70_001] {
            let x = (random(&[n], 4)? * 3.0)?;
            assert_same_on_cuda(&format!("{activation:?} [{n}]"), &[x], 2e-6, |t| activation.forward(&t[0]))?;
        }
    }
    Ok(())
}

#[test]
fn linears() -> Result<()> {
    for (n, n_in, n_out) in [(0, 3, 4), (1, 1, 1), (3, 5, 7), (33, 257, 33), (257, 33, 65)] {
        let inputs = [random(&[n, n_in], 1)?, random(&[n_in, n_out], 2)?, random(&[n_out], 3)?];
        assert_same_on_cuda(&format!("linear [{n}, {n_in}, {n_out}]"), &inputs, 1e-5, |t| {
            linear(&t[0], &t[1], Some(&t[2]))
        })?;
    }
    Ok(())
}

#[test]
fn dropouts_draw_the_numbers_of_the_cpu() -> Result<()> {
    for (n, c) in SHAPES {
        let (x, branch) = (random(&[n, c], 1)?, random(&[n, c], 2)?);
        let (p, stream) = (0.3, Stream::new(5).fold(3));
        assert_same_on_cuda("dropout", std::slice::from_ref(&x), 0.0, |t| dropout(&t[0], p, stream))?;
        for drop in [None, Some(Dropout { p, stream })] {
            assert_same_on_cuda("residual", &[x.clone(), branch.clone()], 1e-6, |t| {
                residual_dropout(&t[0], &t[1], drop)
            })?;
        }
    }
    Ok(())
}

#[test]
fn embeddings() -> Result<()> {
    // Repeated tokens, and more of them than a block has threads.
    let many: Vec<u32> = (0..700).map(|i| i * i % 13).collect();
    let positions: Vec<u32> = (0..700).map(|i| i % 100).collect();
    let batches = [(&[][..], &[][..]), (&[4][..], &[0][..]), (&many, &positions)];
    for (ids, positions) in batches {
        for (c, drop) in [(5, None), (257, Some(Dropout { p: 0.2, stream: Stream::new(8) }))] {
            let inputs = [random(&[13, c], 1)?, random(&[100, c], 2)?];
            assert_same_on_cuda("embedding", &inputs, 1e-5, |t| {
                embedding_sum(&t[0], &t[1], &Embedded::new(ids, positions, t[0].device())?, drop)
            })?;
        }
    }
    Ok(())
}

/// candle launches no blocks at all for an empty tensor, which CUDA refuses.
fn to_dtype(x: &Tensor, dtype: DType) -> Result<Tensor> {
    if x.elem_count() == 0 { Tensor::zeros(x.dims(), dtype, x.device()) } else { x.to_dtype(dtype) }
}

#[test]
fn attention_of_ragged_documents() -> Result<()> {
    let batches = [&[][..], &[0], &[1], &[3], &[33], &[1, 0, 5, 17, 1, 40], &[130, 3]];
    for lengths in batches {
        for (heads, d) in [(1, 1), (3, 5), (2, 64), (1, 72), (1, 130)] {
            for drop in [None, Some(Dropout { p: 0.25, stream: Stream::new(3).fold(9) })] {
                let cu_seqlens = CuSeqlens::from_lengths(lengths.iter().copied());
                let qkv = random(&[cu_seqlens.tokens(), 3 * heads * d], 5)?;
                let shape = Heads::new(heads, 1.0 / (d as f64).sqrt());
                let name = format!("attention {lengths:?}, {heads} heads of {d}, dropout {}", drop.is_some());
                assert_same_on_cuda(&name, &[qkv], 2e-5, |t| {
                    causal_attention(&t[0], &cu_seqlens, shape, drop)
                })?;
                // bf16 tensors against the CPU's f32: what goes in and what comes out is rounded, by 2^-9 of it at most.
                let qkv = rounded(&[cu_seqlens.tokens(), 3 * heads * d], 5)?;
                assert_same_on_cuda(&format!("{name}, in bf16"), &[qkv], 4.0 / 512.0, |t| {
                    let cuda = t[0].device().is_cuda();
                    let qkv = to_dtype(&t[0], if cuda { DType::BF16 } else { DType::F32 })?;
                    let attended = causal_attention(&qkv, &cu_seqlens, shape, drop)?;
                    assert_eq!(attended.dtype(), qkv.dtype());
                    to_dtype(&attended, DType::F32)
                })?;
            }
        }
    }
    Ok(())
}

#[test]
fn strided_inputs_are_copied_first() -> Result<()> {
    let x = random(&[33, 66], 1)?;
    let part = |x: &Tensor| x.narrow(1, 7, 33)?.t();
    let (gain, shift) = (random(&[33], 2)?, random(&[33], 3)?);
    assert_same_on_cuda("layer norm", &[x.clone(), gain, shift], 1e-5, |t| {
        Norm::layer(t[1].clone(), Some(t[2].clone()), 1e-5).forward(&part(&t[0])?)
    })?;
    assert_same_on_cuda("activation", std::slice::from_ref(&x), 2e-6, |t| {
        Activation::Gelu.forward(&part(&t[0])?)
    })?;
    assert_same_on_cuda("dropout", std::slice::from_ref(&x), 0.0, |t| {
        dropout(&part(&t[0])?, 0.5, Stream::new(1))
    })?;
    assert_same_on_cuda("attention", &[x], 1e-5, |t| {
        causal_attention(&part(&t[0])?, &CuSeqlens::from_lengths([20, 13]), Heads::new(1, 0.3), None)
    })
}

#[test]
fn heads_too_large_are_refused() -> Result<()> {
    let qkv = random(&[2, 3 * 257], 1)?.to_device(&cuda()?)?;
    let error = causal_attention(&qkv, &CuSeqlens::from_lengths([2]), Heads::new(1, 1.0), None).unwrap_err();
    assert!(error.to_string().contains("at most 256"), "{error}");
    Ok(())
}

#[test]
fn shared_keys_and_windows_are_refused_by_name() -> Result<()> {
    let (qkv, cu_seqlens) = (random(&[2, 12], 1)?.to_device(&cuda()?)?, CuSeqlens::from_lengths([2]));
    let refused = |heads| causal_attention(&qkv, &cu_seqlens, heads, None).unwrap_err().to_string();
    let grouped = refused(Heads { kv: 1, ..Heads::new(2, 1.0) });
    assert!(grouped.contains("grouped-query attention (2 heads, 1 key-value heads)"), "{grouped}");
    let windowed = refused(Heads { window: Some(1), ..Heads::new(2, 1.0) });
    assert!(windowed.contains("sliding-window attention (1 tokens)"), "{windowed}");
    Ok(())
}
