//! The LM head with its loss, and attention over a cache.

use candle_core::{DType, Device, Result, Tensor};
use mixce_kernels::cross_entropy;
use mixce_kernels::lm_head::{TokenWeights, Weighting, target_log_probs, weighted_cross_entropy};
use mixce_kernels::{CuSeqlens, Heads, KeyValues, Positions, Precision, decode_attention, fill_cache};

use crate::{assert_close, cuda, is_sample, on, random, rounded, values};

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

/// Multiples of 1/8 up to 1: their products, and the sums of some, are exact in f32 whatever the order.
fn eighths(shape: &[usize], seed: u64) -> Result<Tensor> {
    (random(shape, seed)?.clamp(-1f32, 1f32)? * 8.0)?.round()? / 8.0
}

const WEIGHTING: Weighting<'static> = Weighting { weights: &MixCe, denominator: 8.0 };

/// Targets all over a vocabulary, its last token among them.
fn targets(n: usize, v: usize) -> Result<Tensor> {
    Tensor::from_vec((0..n).map(|i| ((i + 1) * (v - 1) % v) as u32).collect(), n, &Device::Cpu)
}

/// `log q`, the gradient of the hidden states, and the sum that the head's gradient was added to.
fn head_and_loss(
    device: &Device,
    [hidden, head, targets, dhead]: [&Tensor; 4],
    precision: Precision,
) -> Result<[Tensor; 3]> {
    // A copy: on the CPU the sum would be shared and changed in place.
    let dhead = on(device, &dhead.copy()?)?;
    // The rows after the first of a larger tensor: with an odd C they are not aligned to anything.
    let hidden = on(device, &Tensor::cat(&[&random(&[1, hidden.dim(1)?], 9)?, hidden], 0)?)?;
    let hidden = hidden.narrow(0, 1, hidden.dim(0)? - 1)?;
    let (head, targets) = (on(device, head)?, on(device, targets)?);
    let out = weighted_cross_entropy(&hidden, &head.into(), &targets, WEIGHTING, &dhead, precision)?;
    Ok([out.log_q, out.dhidden, dhead])
}

/// What bf16 on CUDA computes, in f32 operations: of operands that bf16 represents, and with logits and their gradient rounded.
fn rounded_head_and_loss([hidden, head, targets, dhead]: [&Tensor; 4]) -> Result<[Tensor; 3]> {
    let round = |x: Tensor| x.to_dtype(DType::BF16)?.to_dtype(DType::F32);
    let logits = round(hidden.matmul(&head.t()?)?)?;
    let log_q = cross_entropy::target_log_probs(&logits, targets)?;
    let weights = (MixCe.weights(&log_q)? / WEIGHTING.denominator)?;
    let gradient = round(cross_entropy::logits_gradient(&logits, targets, &weights)?)?;
    let dhead = (dhead + gradient.t()?.matmul(hidden)?)?;
    Ok([log_q, gradient.matmul(head)?, dhead])
}

fn assert_all_close(case: &str, got: &[Tensor; 3], want: &[Tensor; 3], tolerances: [f32; 3]) -> Result<()> {
    for (i, name) in ["log q", "dhidden", "dhead"].into_iter().enumerate() {
        assert_close(&format!("{name} of {case}"), &got[i], &want[i], tolerances[i])?;
    }
    Ok(())
}

/// Vocabularies around the multiples that rows and products are divided by, and more tokens than a slice has.
const SHAPES: [(usize, usize, usize); 8] =
    [(0, 3, 5), (1, 1, 1), (5, 33, 17), (3, 8, 64), (4, 7, 72), (40, 24, 1001), (6, 16, 4099), (8201, 5, 77)];

#[test]
fn lm_head_with_mixce_weights() -> Result<()> {
    let cuda = cuda()?;
    for (n, c, v) in SHAPES {
        let (hidden, head) = (random(&[n, c], 1)?, random(&[v, c], 2)?);
        let operands = [&hidden, &head, &targets(n, v)?, &random(&[v, c], 3)?];
        for (precision, log_q, gradient) in
            // Half a unit in the last place of the logits, twice; what that changes the probabilities by.
            [(Precision::F32, 1e-5, 1e-5), (Precision::Bf16, 1.0 / 256.0, 2e-2)]
        {
            // The test below has several slices in bf16, too.
            if is_sample() && n > 8192 && precision == Precision::Bf16 {
                continue;
            }
            let case = format!("[{n}, {c}] and {v} tokens in {precision:?}");
            let got = head_and_loss(&cuda, operands, precision)?;
            let want = head_and_loss(&Device::Cpu, operands, precision)?;
            assert_all_close(&case, &got, &want, [log_q, gradient, gradient])?;
            let again = head_and_loss(&cuda, operands, precision)?;
            for (got, again) in got.iter().zip(&again) {
                assert_eq!(values(got)?, values(again)?, "{case}: two runs differ");
            }
            // Logits are not rounded there, on the CPU never.
            let [hidden, head, targets, _] = operands.map(|t| on(&cuda, t));
            let log_q = target_log_probs(&hidden?, &head?.into(), &targets?, precision)?;
            assert_close(&format!("log q alone of {case}"), &log_q, &want[0], 1e-5)?;
        }
    }
    Ok(())
}

/// In bf16 logits and their gradient are rounded once, to nearest, and nothing else is.
#[test]
fn logits_in_bf16_are_rounded_once() -> Result<()> {
    for (n, c, v) in SHAPES.into_iter().filter(|(n, _, _)| *n > 0) {
        let (hidden, head) = (eighths(&[n, c], 1)?, eighths(&[v, c], 2)?);
        let operands = [&hidden, &head, &targets(n, v)?, &random(&[v, c], 3)?];
        let got = head_and_loss(&cuda()?, operands, Precision::Bf16)?;
        let want = rounded_head_and_loss(operands)?;
        // A gradient beside a bf16 number's half may be rounded up here and down there.
        assert_all_close(&format!("[{n}, {c}] and {v} tokens"), &got, &want, [1e-5, 1e-3, 1e-3])?;
    }
    Ok(())
}

#[test]
fn extreme_logits_stay_finite_and_broken_ones_are_seen() -> Result<()> {
    // With the identity as the head, hidden states are logits.
    let head = Tensor::eye(3, DType::F32, &cuda()?)?;
    let log_q = |logits: [f32; 3], target: u32| -> Result<f32> {
        let hidden = Tensor::new(&[logits], &cuda()?)?;
        Ok(values(&target_log_probs(
            &hidden,
            &head.clone().into(),
            &Tensor::new(&[target], &cuda()?)?,
            Precision::F32,
        )?)?[0])
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
