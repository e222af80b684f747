//! The differentiable operations.

use candle_core::{DType, Result, Tensor};
use mixce_kernels::rng::Stream;
use mixce_kernels::{
    Activation, CuSeqlens, Dropout, Embedded, Heads, Norm, NormKind, causal_attention, dropout,
    embedding_sum, linear, residual_dropout, token_embedding,
};

use crate::{assert_same_on_cuda, cuda, is_sample, random, rounded};

/// Rows and columns: nothing, one, odd, one more than a warp, one more than a block, more than one of everything.
fn shapes() -> [(usize, usize); 7] {
    let many = if is_sample() { 70 } else { 300 };
    [(0, 5), (1, 1), (3, 7), (33, 33), (2, 257), (257, 31), (many, 768)]
}

#[test]
fn norms() -> Result<()> {
    let forms = [NormKind::Layer, NormKind::Rms].into_iter().flat_map(|kind| [(kind, 3), (kind, 2)]);
    // Rows too long to be kept in shared memory: in the backward pass only, and in both.
    let shapes = shapes().into_iter().chain([(3, 6200), (2, 13_001)]);
    for ((n, c), (kind, tensors)) in shapes.flat_map(|shape| forms.clone().map(move |f| (shape, f))) {
        // Input and weight, and a bias or none.
        let inputs = [(random(&[n, c], 1)? + 0.5)?, random(&[c], 2)?, random(&[c], 3)?];
        assert_same_on_cuda(&format!("{kind:?} norm [{n}, {c}]"), &inputs[..tensors], 1e-5, |t| {
            Norm { weight: t[1].clone(), bias: t.get(2).cloned(), epsilon: 1e-5, kind }.forward(&t[0])
        })?;
    }
    Ok(())
}

#[test]
fn activations() -> Result<()> {
    let all = [Activation::GeluNew, Activation::Gelu, Activation::Relu, Activation::Silu];
    for activation in all {
        for n in [0usize, 1, 33, 257, 4096, 19_200, 70_001] {
            let x = (random(&[n], 4)? * 3.0)?;
            assert_same_on_cuda(&format!("{activation:?} [{n}]"), &[x], 2e-6, |t| activation.forward(&t[0]))?;
        }
    }
    Ok(())
}

#[test]
fn linears() -> Result<()> {
    // The last has several blocks of columns and several chunks of rows for the sum of its rows.
    let shapes = [(0, 3, 4), (1, 1, 1), (3, 5, 7), (33, 257, 33), (257, 33, 65), (300, 5, 264)];
    for (n, n_in, n_out) in shapes {
        let inputs = [random(&[n, n_in], 1)?, random(&[n_in, n_out], 2)?, random(&[n_out], 3)?];
        assert_same_on_cuda(&format!("linear [{n}, {n_in}, {n_out}]"), &inputs, 1e-5, |t| {
            linear(&t[0], &t[1], Some(&t[2]))
        })?;
    }
    Ok(())
}

#[test]
fn dropouts_draw_the_numbers_of_the_cpu() -> Result<()> {
    for (n, c) in shapes() {
        let (x, branch) = (random(&[n, c], 1)?, random(&[n, c], 2)?);
        let (p, stream) = (0.3, Stream::new(5).fold(3));
        assert_same_on_cuda("dropout", std::slice::from_ref(&x), 0.0, |t| dropout(&t[0], p, stream))?;
        for drop in [None, Some(Dropout::new(p, stream)), Some(Dropout { p, stream, first_row: 5 })] {
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
        let part = Dropout { p: 0.2, stream: Stream::new(8), first_row: 3 };
        for (c, drop) in [(5, None), (257, Some(Dropout::new(0.2, Stream::new(8)))), (36, Some(part))] {
            let inputs = [random(&[13, c], 1)?, random(&[100, c], 2)?];
            assert_same_on_cuda("embedding", &inputs, 1e-5, |t| {
                embedding_sum(&t[0], &t[1], &Embedded::new(ids, positions, t[0].device())?, drop)
            })?;
            assert_same_on_cuda("token embedding", &inputs[..1], 1e-5, |t| {
                token_embedding(&t[0], &Embedded::new(ids, positions, t[0].device())?)
            })?;
        }
    }
    Ok(())
}

/// candle launches no blocks at all for an empty tensor, which CUDA refuses.
fn to_dtype(x: &Tensor, dtype: DType) -> Result<Tensor> {
    if x.elem_count() == 0 { Tensor::zeros(x.dims(), dtype, x.device()) } else { x.to_dtype(dtype) }
}

/// Attention in f32 and in bf16, for heads of `d` channels.
fn assert_same_attention(lengths: &[usize], heads: Heads, d: usize, drop: Option<Dropout>) -> Result<()> {
    let cu_seqlens = CuSeqlens::from_lengths(lengths.iter().copied());
    let (shape, heads) = (
        [cu_seqlens.tokens(), (heads.count + 2 * heads.kv) * d],
        Heads { scale: 1.0 / (d as f64).sqrt(), ..heads },
    );
    let name = format!("attention {lengths:?}, {heads:?} of {d}, dropout {}", drop.is_some());
    assert_same_on_cuda(&name, &[random(&shape, 5)?], 2e-5, |t| {
        causal_attention(&t[0], &cu_seqlens, heads, drop)
    })?;
    // bf16 tensors against the CPU's f32: what goes in and what comes out is rounded, by 2^-9 of it at most.
    assert_same_on_cuda(&format!("{name}, in bf16"), &[rounded(&shape, 5)?], 4.0 / 512.0, |t| {
        let cuda = t[0].device().is_cuda();
        let qkv = to_dtype(&t[0], if cuda { DType::BF16 } else { DType::F32 })?;
        let attended = causal_attention(&qkv, &cu_seqlens, heads, drop)?;
        assert_eq!(attended.dtype(), qkv.dtype());
        to_dtype(&attended, DType::F32)
    })
}

fn drops() -> [Option<Dropout>; 2] {
    [None, Some(Dropout { p: 0.25, stream: Stream::new(3).fold(9), first_row: 7 })]
}

#[test]
fn attention_of_ragged_documents() -> Result<()> {
    let shapes = [(1, 1), (3, 5), (2, 64), (1, 72), (1, 130)];
    for lengths in [&[][..], &[0], &[1], &[3], &[33], &[1, 0, 5, 17, 1, 40]] {
        for ((heads, d), drop) in shapes.into_iter().flat_map(|shape| drops().map(|drop| (shape, drop))) {
            assert_same_attention(lengths, Heads::new(heads, 1.0), d, drop)?;
        }
    }
    // Several blocks of queries and of keys.
    let [none, some] = drops();
    let sample = [((3, 5), some), ((1, 64), none), ((1, 64), some), ((1, 72), some), ((1, 130), none)];
    let all = shapes.into_iter().flat_map(|shape| drops().map(|drop| (shape, drop)));
    for ((heads, d), drop) in if is_sample() { sample.to_vec() } else { all.collect() } {
        assert_same_attention(&[130, 3], Heads::new(heads, 1.0), d, drop)?;
    }
    Ok(())
}

/// Heads that share keys and values, all of them or some; windows of a token, within a block of queries, over several, and longer than
/// any document.
#[test]
fn attention_with_shared_keys_and_windows() -> Result<()> {
    let shapes = [
        (4, 2, 5, None),
        (4, 1, 64, Some(7)),
        (6, 2, 65, Some(33)),
        (2, 2, 128, Some(1)),
        (3, 1, 3, Some(500)),
    ];
    for (index, (count, kv, d, window)) in shapes.into_iter().enumerate() {
        let heads = Heads { kv, window, ..Heads::new(count, 1.0) };
        for (drop, has_several_blocks) in drops().into_iter().zip([index % 2 == 1, index % 2 == 0]) {
            assert_same_attention(&[], heads, d, drop)?;
            assert_same_attention(&[1, 0, 5, 17, 1, 40], heads, d, drop)?;
            if has_several_blocks || !is_sample() {
                assert_same_attention(&[90, 3], heads, d, drop)?;
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
