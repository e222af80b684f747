//! Gumbel noise: the largest of `logit + noise` is a sample of the softmax (Gumbel-max).

use mixce_base::rng::Stream;

use crate::bigram::simd::{PAD, ln};

/// Standard Gumbel noise `-ln(-ln u)` with 23 random bits.
#[inline(always)]
pub(super) fn gumbels(stream: Stream, position: u64, row: &mut [f32]) {
    let blocks = row.len() as u64 / 4;
    for (block, chunk) in row.as_chunks_mut::<4>().0.iter_mut().enumerate() {
        let words = stream.u32s(position * blocks + block as u64);
        for (g, word) in chunk.iter_mut().zip(words) {
            *g = ((word >> 9) as f32 + 0.5) * (1.0 / 8_388_608.0);
        }
    }
    for chunk in row.as_chunks_mut::<PAD>().0 {
        chunk.iter_mut().for_each(|g| *g = -ln(-ln(*g)));
    }
}

/// The index of the largest element; the first of equals.
#[inline(always)]
pub(super) fn argmax(row: &[f32]) -> usize {
    row.iter()
        .enumerate()
        .fold((0, f32::NEG_INFINITY), |best, (i, &x)| if x > best.1 { (i, x) } else { best })
        .0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_is_a_sample_of_the_softmax() {
        let p = [0.05f64, 0.5, 0.15, 0.3];
        let mut counts = [0u32; 4];
        let n = 100_000;
        let mut row = [0f32; PAD];
        for position in 0..n {
            gumbels(Stream::new(11), position, &mut row);
            let noisy: Vec<f32> = row.iter().zip(p).map(|(g, p)| g + p.ln() as f32).collect();
            counts[argmax(&noisy)] += 1;
        }
        for (count, p) in counts.iter().zip(p) {
            let rate = f64::from(*count) / n as f64;
            assert!((rate - p).abs() < 5.0 * (p * (1.0 - p) / n as f64).sqrt(), "{rate} {p}");
        }
        assert_eq!((argmax(&[1.0, 3.0, 3.0]), argmax(&[])), (1, 0));
    }
}
