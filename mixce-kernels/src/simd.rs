//! Vector instructions selected at run time.

#![cfg_attr(target_arch = "x86_64", expect(unsafe_code, reason = "prefetching takes an address"))]

/// Runs `f` compiled for the widest instructions of the machine (AVX-512, AVX2 with FMA, or the baseline).
///
/// The compiler vectorises loops inlined into `f`, so a `cargo build --release` without target flags uses the machine's full width.
/// Everything that `f` calls must be `#[inline(always)]`.
#[inline(always)]
pub(crate) fn vectorised<R>(f: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(f)
}

/// f32 numbers of a cache line.
pub(crate) const LINE: usize = 16;

/// Prefetches the cache line of an element, which need not exist, into the L2 cache.
#[inline(always)]
pub(crate) fn prefetch(data: &[f32], at: usize) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint without memory access, so any address is valid. The instruction is part of x86-64.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T1>(data.as_ptr().wrapping_add(at).cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (data, at);
}

/// Prefetches the cache line of an address, which need not be valid, into the L1 cache.
#[inline(always)]
pub(crate) fn prefetch_near(address: *const f32) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: as in `prefetch`.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// Number of interleaved partial sums, so that sums can be vectorised.
const LANES: usize = 16;

/// The sum of the partial sums by halving: four vector additions instead of fifteen sequential ones.
#[inline(always)]
fn fold(lanes: [f32; LANES]) -> f32 {
    let eight: [f32; 8] = std::array::from_fn(|i| lanes[i] + lanes[i + 8]);
    let four: [f32; 4] = std::array::from_fn(|i| eight[i] + eight[i + 4]);
    (four[0] + four[2]) + (four[1] + four[3])
}

/// `sum_i f(x_i)` in f32, in [`LANES`] interleaved partial sums.
#[inline(always)]
pub(crate) fn sum(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let (chunks, rest) = x.as_chunks::<LANES>();
    let mut lanes = [0f32; LANES];
    for chunk in chunks {
        for i in 0..LANES {
            lanes[i] += f(chunk[i]);
        }
    }
    fold(lanes) + rest.iter().map(|x| f(*x)).sum::<f32>()
}

/// `sum_i a_i b_i` in f32, in [`LANES`] interleaved partial sums; both slices have one length.
#[inline(always)]
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    let mut lanes = [0f32; LANES];
    for (a, b) in a.iter().zip(b) {
        for i in 0..LANES {
            lanes[i] += a[i] * b[i];
        }
    }
    fold(lanes) + a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum::<f32>()
}

/// `max_i x_i`; minus infinity for an empty slice; NaN is ignored.
#[inline(always)]
pub(crate) fn max(x: &[f32]) -> f32 {
    let (chunks, rest) = x.as_chunks::<LANES>();
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for chunk in chunks {
        for i in 0..LANES {
            lanes[i] = if chunk[i] > lanes[i] { chunk[i] } else { lanes[i] };
        }
    }
    lanes.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max)
}

/// `sums_i += x_i`.
#[inline(always)]
pub(crate) fn add_to(sums: &mut [f32], x: &[f32]) {
    sums.iter_mut().zip(x).for_each(|(sum, x)| *sum += x);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reductions_equal_the_plain_ones_at_every_length() {
        for n in [0usize, 1, 15, 16, 17, 100] {
            let a: Vec<f32> = (0..n).map(|i| (i as f32 * 0.7).sin()).collect();
            let b: Vec<f32> = (0..n).map(|i| (i as f32 * 0.3).cos()).collect();
            vectorised(|| {
                assert!((sum(&a, |x| x * x) - a.iter().map(|x| x * x).sum::<f32>()).abs() < 1e-5);
                assert!((dot(&a, &b) - a.iter().zip(&b).map(|(a, b)| a * b).sum::<f32>()).abs() < 1e-5);
                assert_eq!(max(&a), a.iter().copied().fold(f32::NEG_INFINITY, f32::max));
            });
        }
    }
}
