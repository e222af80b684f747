use candle_core::{Device, Result, Tensor, Var};
use proptest::prelude::*;

use super::*;
use crate::rng::Stream;
use crate::testing::{assert_close, assert_gradient, random};

fn shape(count: usize, kv: usize, window: Option<usize>, d: usize) -> Heads {
    Heads { kv, window, ..Heads::new(count, 1.0 / (d as f64).sqrt()) }
}

fn documents(lengths: &[usize]) -> CuSeqlens {
    CuSeqlens::from_lengths(lengths.iter().copied())
}

fn channels(heads: Heads, d: usize) -> usize {
    (heads.count + 2 * heads.kv) * d
}

fn gradient(out: &Tensor, qkv: &Var) -> Result<Tensor> {
    // A fixed random projection makes every output matter differently.
    let projection = random(out.dims(), 77)?;
    Ok(out.mul(&projection)?.sum_all()?.backward()?.get(qkv).unwrap().clone())
}

fn compare(lengths: &[usize], heads: Heads, d: usize, dropout: Option<Dropout>) -> Result<()> {
    let cu_seqlens = documents(lengths);
    let qkv = Var::from_tensor(&random(&[cu_seqlens.tokens(), channels(heads, d)], 5)?)?;
    let fused = causal_attention(&qkv, &cu_seqlens, heads, dropout)?;
    let slow = causal_attention_slow(&qkv, &cu_seqlens, heads, dropout)?;
    let name = format!("attention {lengths:?}, {heads:?}, {d} channels");
    assert_close(&name, &fused, &slow, 1e-5, 1e-5);
    if cu_seqlens.tokens() > 0 {
        let (fused, slow) = (gradient(&fused, &qkv)?, gradient(&slow, &qkv)?);
        assert_close(&format!("gradient of {name}"), &fused, &slow, 1e-4, 1e-4);
    }
    Ok(())
}

/// Attention in f64 with one sum after another.
fn by_hand(qkv: &Tensor, cu_seqlens: &CuSeqlens, heads: Heads, d: usize) -> Result<Tensor> {
    let rows = qkv.to_vec2::<f32>()?;
    let Heads { count, kv, scale, window } = heads;
    let mut out = Vec::new();
    for (start, t) in cu_seqlens.spans() {
        for i in 0..t {
            for h in 0..count {
                let head = |row: usize, index: usize| &rows[start + row][index * d..][..d];
                let sees = |j: &usize| *j <= i && window.is_none_or(|window| i - j < window);
                let score = |j: usize| -> f64 {
                    let key = head(j, count + h / (count / kv));
                    head(i, h).iter().zip(key).map(|(q, k)| f64::from(*q) * f64::from(*k)).sum()
                };
                let seen: Vec<usize> = (0..t).filter(sees).collect();
                let weights: Vec<f64> = seen.iter().map(|j| (scale * score(*j)).exp()).collect();
                let sum: f64 = weights.iter().sum();
                out.extend((0..d).map(|channel| {
                    let value = |j: &usize| f64::from(head(*j, count + kv + h / (count / kv))[channel]);
                    let total: f64 = seen.iter().zip(&weights).map(|(j, weight)| weight * value(j)).sum();
                    (total / sum) as f32
                }));
            }
        }
    }
    Tensor::from_vec(out, (rows.len(), count * d), &Device::Cpu)
}

/// Every combination of heads and window, of documents that are empty, as long as a window, a block, and more than these.
#[test]
fn fused_equals_slow_and_the_definition() -> Result<()> {
    let dropout = Some(Dropout::new(0.2, Stream::new(11)));
    let batches: [&[usize]; 5] = [&[], &[1], &[0, 3, 0], &[5, 1, 64, 2], &[65, 130]];
    for lengths in batches {
        for (count, kv) in [(3, 3), (4, 2), (3, 1)] {
            for window in [None, Some(1), Some(3), Some(64), Some(usize::MAX)] {
                let heads = shape(count, kv, window, 5);
                compare(lengths, heads, 5, None)?;
                compare(lengths, heads, 5, dropout)?;
                let (cu_seqlens, d) = (documents(lengths), 5);
                let qkv = random(&[cu_seqlens.tokens(), channels(heads, d)], 6)?;
                let want = by_hand(&qkv, &cu_seqlens, heads, d)?;
                assert_close(
                    "by hand",
                    &causal_attention(&qkv, &cu_seqlens, heads, None)?,
                    &want,
                    1e-5,
                    1e-5,
                );
            }
        }
    }
    Ok(())
}

#[test]
fn heads_of_usual_and_odd_sizes() -> Result<()> {
    let dropout = Some(Dropout::new(0.2, Stream::new(12)));
    for d in [1, 64, 65] {
        for (count, kv, window) in [(2, 2, None), (4, 2, None), (2, 1, Some(30))] {
            compare(&[70, 0, 9], shape(count, kv, window, d), d, dropout)?;
        }
    }
    Ok(())
}

#[test]
fn gradient_is_the_finite_difference() -> Result<()> {
    let cu_seqlens = documents(&[3, 1, 5]);
    for dropout in [None, Some(Dropout::new(0.3, Stream::new(2)))] {
        for (kv, window) in [(2, None), (1, None), (1, Some(2))] {
            let heads = Heads { kv, window, ..Heads::new(2, 0.6) };
            let f = |qkv: &Tensor| causal_attention(qkv, &cu_seqlens, heads, dropout);
            assert_gradient("attention", &random(&[9, channels(heads, 3)], 8)?, f)?;
        }
    }
    Ok(())
}

/// Grouped-query attention is ordinary attention in which each head of keys and values is there once for every query head.
#[test]
fn shared_heads_equal_repeated_ones() -> Result<()> {
    let (cu_seqlens, d, count) = (documents(&[7, 0, 66]), 4, 6);
    let dropout = Some(Dropout::new(0.2, Stream::new(4)));
    for kv in [1, 2, 3, 6] {
        let heads = shape(count, kv, None, d);
        let qkv = Var::from_tensor(&random(&[73, channels(heads, d)], 9)?)?;
        let repeated = |first: usize| (0..count).map(move |h| first + h / (count / kv));
        let order = (0..count).chain(repeated(count)).chain(repeated(count + kv));
        let order: Vec<u32> = order.flat_map(|head| (head * d..(head + 1) * d).map(|i| i as u32)).collect();
        let expanded = qkv.index_select(&Tensor::new(order, &Device::Cpu)?, 1)?;
        let want = causal_attention(&expanded, &cu_seqlens, Heads::new(count, heads.scale), dropout)?;
        let got = causal_attention(&qkv, &cu_seqlens, heads, dropout)?;
        assert_close("grouped", &got, &want, 0.0, 0.0);
        assert_close("grouped gradient", &gradient(&got, &qkv)?, &gradient(&want, &qkv)?, 1e-5, 1e-5);
    }
    Ok(())
}

/// A window that no document exceeds changes no bit, and one of a single token returns the values.
#[test]
fn windows_at_their_ends() -> Result<()> {
    let (cu_seqlens, d) = (documents(&[3, 130]), 6);
    let dropout = Some(Dropout::new(0.2, Stream::new(4)));
    let qkv = Var::from_tensor(&random(&[133, 4 * d], 9)?)?;
    let run = |window, dropout| causal_attention(&qkv, &cu_seqlens, shape(2, 1, window, d), dropout);
    let (want, got) = (run(None, dropout)?, run(Some(130), dropout)?);
    assert_close("wide", &got, &want, 0.0, 0.0);
    assert_close("wide gradient", &gradient(&got, &qkv)?, &gradient(&want, &qkv)?, 0.0, 0.0);
    let values = qkv.narrow(1, 3 * d, d)?;
    assert_close("window of 1", &run(Some(1), None)?, &Tensor::cat(&[&values, &values], 1)?, 1e-6, 1e-6);
    Ok(())
}

/// Keys outside of all windows are not read: NaN there stays out of the result, as a mask would not keep it.
#[test]
fn keys_before_all_windows_are_skipped() -> Result<()> {
    let (cu_seqlens, heads, d) = (documents(&[128]), shape(1, 1, Some(4), 2), 2);
    let mut rows = random(&[128, 3 * d], 3)?.to_vec2::<f32>()?;
    let clean = causal_attention(&Tensor::new(rows.clone(), &Device::Cpu)?, &cu_seqlens, heads, None)?;
    // The second block begins with query 64, which sees the keys 61..=64.
    rows[60].fill(f32::NAN);
    let broken = causal_attention(&Tensor::new(rows, &Device::Cpu)?, &cu_seqlens, heads, None)?;
    assert_close("rows behind", &broken.narrow(0, 64, 64)?, &clean.narrow(0, 64, 64)?, 0.0, 0.0);
    Ok(())
}

#[test]
fn the_gradient_does_not_depend_on_the_number_of_threads() -> Result<()> {
    let (cu_seqlens, heads) = (documents(&[70, 3, 20]), shape(6, 2, Some(33), 4));
    let (qkv, dout) = (random(&[93, channels(heads, 4)], 1)?, random(&[93, 24], 2)?);
    let out = causal_attention(&qkv, &cu_seqlens, heads, None)?;
    let run = || causal_attention_backward(&qkv, &cu_seqlens, heads, None, &out, &dout)?.to_vec2::<f32>();
    let with = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(run);
    assert_eq!(with(1)?, with(4)?);
    Ok(())
}

#[test]
fn packing_equals_one_document_at_a_time() -> Result<()> {
    let cu_seqlens = documents(&[4, 70, 9]);
    for heads in [Heads::new(2, 0.5), shape(2, 1, Some(20), 4)] {
        let qkv = random(&[83, channels(heads, 4)], 3)?;
        let packed = causal_attention(&qkv, &cu_seqlens, heads, None)?;
        for (start, t) in cu_seqlens.spans() {
            let alone = causal_attention(&qkv.narrow(0, start, t)?, &documents(&[t]), heads, None)?;
            assert_close("document", &packed.narrow(0, start, t)?, &alone, 1e-6, 1e-6);
        }
    }
    Ok(())
}

/// Types without a kernel take plain operations.
#[test]
fn f64_gives_the_numbers_of_f32() -> Result<()> {
    let (cu_seqlens, heads) = (documents(&[4, 0, 11]), shape(4, 2, Some(5), 3));
    let qkv = random(&[15, channels(heads, 3)], 3)?;
    let got = causal_attention(&qkv.to_dtype(DType::F64)?, &cu_seqlens, heads, None)?;
    assert_eq!(got.dtype(), DType::F64);
    let want = causal_attention(&qkv, &cu_seqlens, heads, None)?;
    assert_close("f64", &got.to_dtype(DType::F32)?, &want, 1e-5, 1e-5);
    Ok(())
}

#[test]
fn tokens_know_their_positions() {
    let cu_seqlens = documents(&[0, 3, 0, 2, 1]);
    assert_eq!(cu_seqlens.positions().as_slice(), [0, 1, 2, 0, 1, 0]);
    assert!(documents(&[]).positions().as_slice().is_empty());
}

#[test]
fn what_does_not_fit_is_refused() -> Result<()> {
    let (qkv, all) = (random(&[4, 12], 1)?, documents(&[4]));
    let refused = |cu_seqlens: &CuSeqlens, heads, dropout| {
        causal_attention(&qkv, cu_seqlens, heads, dropout).unwrap_err().to_string()
    };
    let error = refused(&documents(&[3]), Heads::new(2, 1.0), None);
    assert!(error.contains("cover 3 tokens, the tensor has 4"), "{error}");
    assert!(refused(&all, Heads::new(5, 1.0), None).contains("15 D channels for 5 heads"));
    assert!(refused(&all, shape(2, 0, None, 1), None).contains("got 2 and 0"));
    assert!(refused(&all, shape(3, 2, None, 1), None).contains("got 3 and 2"));
    assert!(refused(&all, shape(2, 1, Some(0), 1), None).contains("at least 1 token"));
    let dropout = Some(Dropout::new(1.5, Stream::new(0)));
    assert!(refused(&all, Heads::new(2, 1.0), dropout).contains("[0, 1)"));
    // With half as many keys and values the result has more channels than a third.
    let heads = shape(2, 1, None, 3);
    let [rows, other] = [random(&[4, 6], 1)?, random(&[4, 4], 1)?];
    assert!(causal_attention_backward(&qkv, &all, heads, None, &rows, &rows).is_ok());
    let error = causal_attention_backward(&qkv, &all, heads, None, &rows, &other).unwrap_err();
    assert!(error.to_string().contains("a gradient [4, 6]"), "{error}");
    let error = causal_attention_backward(&qkv, &all, heads, None, &other, &rows).unwrap_err();
    assert!(error.to_string().contains("a result [4, 6]"), "{error}");
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn any_packing_agrees_with_the_slow_twin(
        lengths in prop::collection::vec(0usize..80, 0..6),
        kv in 1usize..4,
        group in 1usize..4,
        window in prop::option::of(1usize..100),
        d in 1usize..9,
        p in prop::option::of(0.0f64..0.9),
    ) {
        let dropout = p.map(|p| Dropout::new(p, Stream::new(1)));
        compare(&lengths, shape(kv * group, kv, window, d), d, dropout).unwrap();
    }
}
