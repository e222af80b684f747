//! The LM head with its loss, and attention over a cache.

use candle_core::{Device, Result, Tensor};
use mixce_kernels::lm_head::{TokenWeights, Weighting, target_log_probs, weighted_cross_entropy};
use mixce_kernels::{Columns, CuSeqlens, Heads, KeyValues, Precision, decode_attention, fill_cache};

use crate::{assert_close, cuda, on, random, values};

/// The weights of MixCE at eta 0.1.
struct MixCe;

impl TokenWeights for MixCe {
    fn weight(&self, log_q: f64) -> f64 {
        0.1 + 0.9 * log_q.exp()
    }

    fn weights(&self, log_q: &Tensor) -> Result<Tensor> {
        log_q.exp()?.affine(0.9, 0.1)
    }
}

/// In bf16 both devices round the same numbers to it: only where these differ by their own rounding may the results.
#[test]
fn lm_head_with_mixce_weights() -> Result<()> {
    let shapes = [(0, 3, 5), (1, 1, 1), (5, 33, 17), (40, 24, 1001)];
    let precisions = [(Precision::F32, 1e-5), (Precision::Bf16, 1e-3)];
    for ((n, c, v), (precision, tolerance)) in shapes.into_iter().flat_map(|s| precisions.map(|p| (s, p))) {
        // The rows after the first of a larger tensor: with an odd C they are not aligned to anything.
        let (hidden, head) = (random(&[n + 1, c], 1)?.narrow(0, 1, n)?, random(&[v, c], 2)?);
        let targets: Vec<u32> = (0..n as u32).map(|i| i * 7 % v as u32).collect();
        let targets = Tensor::from_vec(targets, n, &Device::Cpu)?;
        let dhead = random(&[v, c], 3)?;
        let dhead_cuda = on(&cuda()?, &dhead)?;
        let weighting = Weighting { weights: &MixCe, denominator: 8.0 };
        let want = weighted_cross_entropy(&hidden, &head, &targets, weighting, &dhead, precision)?;
        let [hidden, head, targets] =
            [&random(&[n + 1, c], 1)?, &head, &targets].map(|t| on(&cuda().unwrap(), t).unwrap());
        let hidden = hidden.narrow(0, 1, n)?;
        let got = weighted_cross_entropy(&hidden, &head, &targets, weighting, &dhead_cuda, precision)?;
        assert_close("log q", &got.log_q, &want.log_q, 1e-5)?;
        assert_close("dhidden", &got.dhidden, &want.dhidden, tolerance)?;
        assert_close("dhead", &dhead_cuda, &dhead, tolerance)?;
        if precision == Precision::F32 {
            assert_close("log q alone", &target_log_probs(&hidden, &head, &targets)?, &want.log_q, 1e-5)?;
        }
    }
    Ok(())
}

#[test]
fn extreme_logits_stay_finite_and_broken_ones_are_seen() -> Result<()> {
    // With the identity as the head, hidden states are logits.
    let head = Tensor::eye(3, candle_core::DType::F32, &cuda()?)?;
    let log_q = |logits: [f32; 3], target: u32| -> Result<f32> {
        let hidden = Tensor::new(&[logits], &cuda()?)?;
        Ok(values(&target_log_probs(&hidden, &head, &Tensor::new(&[target], &cuda()?)?)?)?[0])
    };
    assert_eq!(log_q([1e4, -1e4, 0.0], 1)?, -2e4);
    assert_eq!(log_q([-1e38, 1e38, 0.0], 1)?, 0.0);
    assert!(log_q([f32::NAN, 0.0, 0.0], 1)?.is_nan());
    assert!(log_q([0.0; 3], 3)?.is_nan(), "a target outside of the vocabulary");
    Ok(())
}

#[test]
fn decoding_fills_the_cache_and_attends() -> Result<()> {
    // Heads of queries, those of keys and values, a window.
    let cases = [
        ((1, 1, None), 1, 1, vec![0], 0),
        ((2, 2, None), 9, 5, vec![0, 4, 2], 6),
        ((3, 3, None), 300, 33, vec![0, 257], 299),
        ((4, 2, None), 9, 5, vec![0, 4, 2], 6),
        ((6, 1, Some(1)), 9, 65, vec![3, 0], 8),
        ((4, 2, Some(40)), 300, 64, vec![0, 257, 299], 299),
        ((4, 4, Some(500)), 300, 128, vec![0, 257], 298),
    ];
    for ((count, kv, window), capacity, d, first, new) in cases {
        let (b, heads) = (first.len(), Heads { kv, window, ..Heads::new(count, 0.4) });
        let cached = [b, kv, capacity, d];
        let (qkv, keys, values) =
            (random(&[b, (count + 2 * kv) * d], 1)?, random(&cached, 2)?, random(&cached, 3)?);
        let on = |device: &Device| -> Result<[Tensor; 3]> {
            let (keys, values) = (on(device, &keys)?, on(device, &values)?);
            // The CPU's are shared and changed in place: work on copies.
            let (keys, values) =
                if device.is_cpu() { (keys.copy()?, values.copy()?) } else { (keys, values) };
            let (cache, columns) = (KeyValues { keys, values }, Columns { first: &first, new });
            let out = decode_attention(&on(device, &qkv)?, &cache, columns, heads)?;
            Ok([out, cache.keys, cache.values])
        };
        for (got, want) in on(&cuda()?)?.iter().zip(&on(&Device::Cpu)?) {
            assert_close("decode", got, want, 1e-5)?;
        }
    }
    Ok(())
}

/// Prompts of different lengths, one of them empty, end in the same column.
#[test]
fn prompts_fill_the_cache() -> Result<()> {
    for (count, kv) in [(2, 2), (4, 1)] {
        let (d, prompts) = (5, CuSeqlens::from_lengths([4, 0, 2]));
        let qkv = random(&[6, (count + 2 * kv) * d], 1)?;
        let fill = |device: &Device| -> Result<[Tensor; 2]> {
            let cache = KeyValues::zeros([3, kv, 9, d], qkv.dtype(), device)?;
            fill_cache(&on(device, &qkv)?, &prompts, 7, &cache, Heads { kv, ..Heads::new(count, 1.0) })?;
            Ok([cache.keys, cache.values])
        };
        for (got, want) in fill(&cuda()?)?.iter().zip(&fill(&Device::Cpu)?) {
            assert_close("cache", got, want, 0.0)?;
        }
    }
    Ok(())
}
