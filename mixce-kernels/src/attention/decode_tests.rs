use candle_core::{DType, Device};

use super::*;
use crate::causal_attention;
use crate::testing::{assert_close, random};

fn shape(count: usize, kv: usize, window: Option<usize>) -> Heads {
    Heads { kv, window, ..Heads::new(count, 0.3) }
}

/// Decoding token after token gives the rows of causal attention.
#[test]
fn decoding_equals_causal_attention() -> Result<()> {
    let shapes = [
        (shape(1, 1, None), 1, 1),
        (shape(2, 2, None), 5, 4),
        (shape(3, 3, None), 64, 19),
        (shape(4, 2, None), 5, 9),
        (shape(3, 1, Some(1)), 4, 5),
        (shape(6, 2, Some(4)), 65, 11),
        (shape(2, 2, Some(100)), 3, 7),
    ];
    for (heads, d, t) in shapes {
        let channels = (heads.count + 2 * heads.kv) * d;
        let texts = [random(&[t, channels], 1)?, random(&[t, channels], 2)?];
        let cache = || KeyValues::zeros([2, heads.kv, t + 2, d], DType::F32, &Device::Cpu);
        let (fused, slow) = (cache()?, cache()?);
        for column in 0..t {
            // The second text is two tokens shorter.
            let rows = [texts[0].narrow(0, column, 1)?, texts[1].narrow(0, column.saturating_sub(2), 1)?];
            let positions = Positions::new([column as u32, column.saturating_sub(2) as u32]);
            let qkv = Tensor::cat(&rows, 0)?;
            let out = decode_attention(&qkv, &fused, &positions, heads)?;
            assert_close("slow", &decode_attention_slow(&qkv, &slow, &positions, heads)?, &out, 1e-5, 1e-5);
            for (row, position) in positions.as_slice().iter().enumerate() {
                let length = *position as usize + 1;
                let whole = texts[row].narrow(0, 0, length)?;
                let want = causal_attention(&whole, &CuSeqlens::from_lengths([length]), heads, None)?;
                let want = want.narrow(0, length - 1, 1)?;
                assert_close("decoded", &out.narrow(0, row, 1)?, &want, 1e-5, 1e-5);
            }
        }
    }
    Ok(())
}

#[test]
fn a_cache_holds_the_prompts_from_its_first_column_on() -> Result<()> {
    let (d, capacity) = (3, 6);
    let prompts = CuSeqlens::from_lengths([4, 0, 2]);
    for heads in [shape(2, 2, None), shape(4, 2, Some(1))] {
        let Heads { count, kv, .. } = heads;
        let qkv = random(&[6, (count + 2 * kv) * d], 1)?;
        let zeros = || KeyValues::zeros([3, kv, capacity, d], DType::F32, &Device::Cpu);
        let (cache, slow) = (zeros()?, zeros()?);
        fill_cache(&qkv, &prompts, &cache, heads)?;
        fill_cache_slow(&qkv, &prompts, &slow, heads)?;
        assert_close("slow keys", &slow.keys, &cache.keys, 0.0, 0.0);
        assert_close("slow values", &slow.values, &cache.values, 0.0, 0.0);
        let rows = qkv.reshape((6, count + 2 * kv, d))?;
        for (first, cache) in [(count, &cache.keys), (count + kv, &cache.values)] {
            for (sequence, (start, t)) in prompts.spans().enumerate() {
                let sums = cache.get(sequence)?.abs()?.sum((0, 2))?.to_vec1::<f32>()?;
                let filled: Vec<bool> = sums.iter().map(|sum| *sum > 0.0).collect();
                assert_eq!(filled, (0..capacity).map(|i| i < t).collect::<Vec<_>>());
                if t > 0 {
                    let want = rows.narrow(0, start, t)?.narrow(1, first, kv)?.transpose(0, 1)?;
                    let got = cache.get(sequence)?.narrow(1, 0, t)?;
                    assert_close("cached", &got, &want.contiguous()?, 0.0, 0.0);
                }
            }
        }
        let refused =
            |qkv: &Tensor, prompts: &CuSeqlens, heads| fill_cache(qkv, prompts, &cache, heads).is_err();
        let (longer, channels) = (CuSeqlens::from_lengths([7, 0, 2]), qkv.dim(1)?);
        assert!(refused(&random(&[9, channels], 1)?, &longer, heads));
        assert!(refused(&qkv, &CuSeqlens::from_lengths([4, 2]), heads));
        assert!(refused(&qkv.narrow(0, 0, 5)?, &prompts, heads));
        assert!(refused(&qkv, &prompts, Heads { kv: 1, ..heads }));
    }
    Ok(())
}

/// Types without a kernel take plain operations.
#[test]
fn f64_gives_the_numbers_of_f32() -> Result<()> {
    let (d, prompts) = (3, CuSeqlens::from_lengths([2, 1]));
    for heads in [shape(2, 2, None), shape(4, 2, Some(2))] {
        let channels = (heads.count + 2 * heads.kv) * d;
        let (prompt, next) = (random(&[3, channels], 1)?, random(&[2, channels], 2)?);
        let run = |dtype: DType| -> Result<[Tensor; 3]> {
            let cache = KeyValues::zeros([2, heads.kv, 5, d], dtype, &Device::Cpu)?;
            fill_cache(&prompt.to_dtype(dtype)?, &prompts, &cache, heads)?;
            let positions = Positions::new([2, 1]);
            let out = decode_attention(&next.to_dtype(dtype)?, &cache, &positions, heads)?;
            let kept = cache.select(&Tensor::new(&[1u32], &Device::Cpu)?)?;
            Ok([out, kept.keys, kept.values].map(|t| t.to_dtype(DType::F32).unwrap()))
        };
        for (got, want) in run(DType::F64)?.iter().zip(&run(DType::F32)?) {
            assert_close("f64", got, want, 1e-6, 1e-6);
        }
    }
    Ok(())
}

#[test]
fn what_does_not_fit_is_refused() -> Result<()> {
    let cache = KeyValues::zeros([1, 2, 3, 4], DType::F32, &Device::Cpu)?;
    let decode = |channels: usize, rows: usize, positions: &[u32], heads| {
        decode_attention(&random(&[rows, channels], 1)?, &cache, &Positions::new(positions), heads)
    };
    let heads = shape(2, 2, None);
    assert!(decode(24, 1, &[2], heads).is_ok());
    assert!(decode(24, 1, &[3], heads).unwrap_err().to_string().contains("a cache of 3 columns, got 3"));
    assert!(decode(24, 1, &[1, 1], heads).is_err());
    assert!(decode(21, 1, &[1], heads).is_err());
    assert!(decode(24, 2, &[1, 1], heads).is_err());
    assert!(decode(32, 1, &[1], shape(4, 2, Some(1))).is_ok());
    // Head sizes, heads of the cache, and shapes that no attention has.
    assert!(decode(16, 1, &[1], shape(4, 2, None)).is_err());
    assert!(decode(24, 1, &[1], shape(4, 1, None)).is_err());
    assert!(decode(24, 1, &[1], shape(2, 0, None)).is_err());
    assert!(decode(28, 1, &[1], shape(3, 2, None)).is_err());
    assert!(decode(24, 1, &[1], shape(2, 2, Some(0))).is_err());
    Ok(())
}
