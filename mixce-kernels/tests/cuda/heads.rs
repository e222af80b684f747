//! The LM head with its loss, and attention over a cache.

use candle_core::{DType, Device, Result, Tensor};
use mixce_kernels::lm_head::{TokenWeights, Weighting, target_log_probs, weighted_cross_entropy};
use mixce_kernels::{CuSeqlens, Heads, KeyValues, Positions, Precision, decode_attention, fill_cache};

use crate::{assert_close, cuda, on, random, rounded, values};

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
    let head = Tensor::eye(3, DType::F32, &cuda()?)?;
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

/// How the operands of a cache are in memory.
#[derive(Clone, Copy)]
struct Stored {
    dtype: DType,
    /// Rows that are not aligned to 16 bytes are read element by element.
    aligned: bool,
}

impl Stored {
    fn on(self, device: &Device, tensor: &Tensor) -> Result<Tensor> {
        let tensor = tensor.to_dtype(self.dtype)?.to_device(device)?;
        // The CPU's are shared and changed in place: work on copies.
        if self.aligned || device.is_cpu() { tensor.copy() } else { on(device, &tensor) }
    }
}

/// Query heads, key-value heads and window; columns and channels of a head; the position of each sequence's new token.
type Case = ((usize, usize, Option<usize>), usize, usize, &'static [u32]);

const CASES: [Case; 12] = [
    ((1, 1, None), 1, 1, &[0]),
    ((2, 2, None), 9, 5, &[6, 2, 4]),
    ((3, 3, None), 300, 33, &[299, 42]),
    ((4, 2, None), 9, 16, &[6, 2, 4]),
    ((6, 1, Some(1)), 9, 65, &[5, 8]),
    ((4, 2, Some(40)), 300, 64, &[299, 42, 0]),
    ((4, 4, Some(500)), 300, 128, &[298, 41]),
    ((5, 1, None), 70, 80, &[69, 31, 32]),
    ((2, 2, None), 40, 256, &[39, 8]),
    // Several spans of columns.
    ((3, 1, None), 2100, 8, &[2099, 1023, 1024, 5]),
    ((2, 1, Some(1030)), 2100, 5, &[2099, 1500]),
    ((1, 1, Some(20)), 2100, 16, &[2049, 1030]),
];

/// Attended values and caches of a case.
fn decoded(
    ((count, kv, window), capacity, d, positions): Case,
    stored: Stored,
    device: &Device,
) -> Result<[Tensor; 3]> {
    let (b, heads) = (positions.len(), Heads { kv, window, ..Heads::new(count, 0.4) });
    let cache = |seed| stored.on(device, &rounded(&[b, kv, capacity, d], seed)?);
    let cache = KeyValues { keys: cache(2)?, values: cache(3)? };
    let qkv = stored.on(device, &rounded(&[b, (count + 2 * kv) * d], 1)?)?;
    let out = decode_attention(&qkv, &cache, &Positions::new(positions), heads)?;
    Ok([out, cache.keys, cache.values])
}

#[test]
fn decoding_fills_the_cache_and_attends() -> Result<()> {
    for case in CASES {
        let exact = Stored { dtype: DType::F32, aligned: true };
        let want = decoded(case, exact, &Device::Cpu)?;
        for aligned in [true, false] {
            for (got, want) in decoded(case, Stored { aligned, ..exact }, &cuda()?)?.iter().zip(&want) {
                assert_close("decode", got, want, 1e-5)?;
            }
            // The operands have 8 bits, so that only the result is rounded.
            let half = Stored { dtype: DType::BF16, aligned };
            for (i, (got, want)) in decoded(case, half, &cuda()?)?.iter().zip(&want).enumerate() {
                assert_eq!(got.dtype(), DType::BF16);
                assert_close("decode in bf16", got, want, if i == 0 { 5e-3 } else { 0.0 })?;
            }
        }
    }
    Ok(())
}

/// The bits of a sequence depend neither on the others nor on the columns that it does not use.
#[test]
fn decoding_a_batch_is_decoding_its_sequences() -> Result<()> {
    for (shape, capacity, d, positions) in CASES {
        let stored = Stored { dtype: DType::F32, aligned: true };
        let heads = Heads { kv: shape.1, window: shape.2, ..Heads::new(shape.0, 0.4) };
        let [together, ..] = decoded((shape, capacity, d, positions), stored, &cuda()?)?;
        for (row, position) in positions.iter().enumerate() {
            let columns = *position as usize + 1;
            let alone = |seed| -> Result<Tensor> {
                let whole = rounded(&[positions.len(), shape.1, capacity, d], seed)?;
                whole.narrow(0, row, 1)?.narrow(2, 0, columns)?.contiguous()?.to_device(&cuda()?)
            };
            let qkv = rounded(&[positions.len(), (shape.0 + 2 * shape.1) * d], 1)?;
            let qkv = qkv.narrow(0, row, 1)?.copy()?.to_device(&cuda()?)?;
            let cache = KeyValues { keys: alone(2)?, values: alone(3)? };
            let out = decode_attention(&qkv, &cache, &Positions::new([*position]), heads)?;
            assert_eq!(values(&out)?, values(&together.narrow(0, row, 1)?)?);
        }
    }
    Ok(())
}

/// Prompts of different lengths, one of them empty.
#[test]
fn prompts_fill_the_cache() -> Result<()> {
    for ((count, kv), dtype) in
        [(2, 2), (4, 1)].into_iter().flat_map(|heads| [DType::F32, DType::BF16].map(|dtype| (heads, dtype)))
    {
        let (d, prompts) = (5, CuSeqlens::from_lengths([4, 0, 2]));
        let qkv = rounded(&[6, (count + 2 * kv) * d], 1)?;
        let fill = |device: &Device, dtype| -> Result<[Tensor; 2]> {
            let cache = KeyValues::zeros([3, kv, 9, d], dtype, device)?;
            let qkv = on(device, &qkv.to_dtype(dtype)?)?;
            fill_cache(&qkv, &prompts, &cache, Heads { kv, ..Heads::new(count, 1.0) })?;
            Ok([cache.keys, cache.values])
        };
        for (got, want) in fill(&cuda()?, dtype)?.iter().zip(&fill(&Device::Cpu, DType::F32)?) {
            assert_close("cache", got, want, 0.0)?;
        }
    }
    Ok(())
}
