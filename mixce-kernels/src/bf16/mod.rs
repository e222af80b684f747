//! Products of f32 matrices with operands rounded to bf16 and f32 accumulation.
//!
//! AVX512-BF16 multiplies two pairs of bf16 numbers per lane and adds both products to an f32: twice the rate of f32. Operands
//! are rounded (to nearest, ties to even) while they are packed, so callers keep f32 matrices.
//!
//! Legend: `dst` `[M, N]`, left side `[M, K]`, right side `[K, N]`.

#[cfg(target_arch = "x86_64")]
mod avx512;

use half::bf16;

use crate::matmul::{Matrix, matmul_f32};
use crate::packed::PANEL;

/// Whether this CPU has the instructions.
#[must_use]
pub(crate) fn is_available() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("avx512f")
        && std::arch::is_x86_feature_detected!("avx512bw")
        && std::arch::is_x86_feature_detected!("avx512bf16");
    #[cfg(not(target_arch = "x86_64"))]
    return false;
}

/// `dst = lhs rhs`, or `dst += lhs rhs`; `dst` is row-major with rows `dst_stride` apart. The caller has checked the shapes.
pub(crate) fn product(
    dst: &mut [f32],
    (dst_stride, accumulate): (usize, bool),
    lhs: Matrix<'_>,
    rhs: Matrix<'_>,
) {
    #[cfg(target_arch = "x86_64")]
    if is_available() {
        return avx512::product(dst, (dst_stride, accumulate), lhs, rhs);
    }
    product_slow(dst, (dst_stride, accumulate), lhs, rhs);
}

/// [`product`] by rounding both operands and multiplying in f32: the reference, and the fallback for other CPUs.
fn product_slow(dst: &mut [f32], (dst_stride, accumulate): (usize, bool), lhs: Matrix<'_>, rhs: Matrix<'_>) {
    let round = |x: &f32| bf16::from_f32(*x).to_f32();
    let (lhs_data, rhs_data): (Vec<f32>, Vec<f32>) =
        (lhs.data.iter().map(round).collect(), rhs.data.iter().map(round).collect());
    let (lhs, rhs) = (Matrix { data: &lhs_data, ..lhs }, Matrix { data: &rhs_data, ..rhs });
    matmul_f32(dst, (dst_stride, accumulate), lhs, rhs);
}

/// Packs a right side for [`multiply_panel`]: `[ceil(N / 48), ceil(K / 2), 48]`.
pub(crate) fn pack_right(rhs: Matrix<'_>) -> Vec<u32> {
    #[cfg(target_arch = "x86_64")]
    if is_available() {
        let mut packed = vec![0; rhs.columns.div_ceil(PANEL) * rhs.rows.div_ceil(2) * PANEL];
        avx512::pack_right(rhs, &mut packed);
        return packed;
    }
    // Never reached where `Precision::check` refuses bf16.
    let _ = rhs;
    Vec::new()
}

/// Packs a left side for [`multiply_panel`]: `[ceil(M / 8), ceil(K / 2), 8]`.
pub(crate) fn pack_left(lhs: Matrix<'_>) -> Vec<u32> {
    #[cfg(target_arch = "x86_64")]
    if is_available() {
        return avx512::pack_left(lhs);
    }
    let _ = lhs;
    Vec::new()
}

/// `out = lhs rhs` for some rows, from a multiple of 8 on, and one panel of 48 columns, packed by [`pack_left`] and [`pack_right`];
/// `out` is `[M, 48]`, initially zero.
pub(crate) fn multiply_panel(left: &[u32], panel: &[u32], out: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if is_available() {
        avx512::multiply_panel(left, panel, out);
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (left, panel, out);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Stream;

    fn random(n: usize, seed: u64) -> Vec<f32> {
        (0..n as u64).map(|i| Stream::new(seed).normal(i) as f32).collect()
    }

    /// Rounding is the same on both paths; f32 sums differ only in their order.
    #[test]
    fn fast_equals_slow_in_every_layout() {
        let sizes = [
            (0, 3, 2),
            (1, 1, 1),
            (3, 0, 4),
            (2, 3, 0),
            (5, 7, 3),
            (8, 48, 32),
            (65, 97, 257),
            (300, 50, 700),
        ];
        for (m, n, k) in sizes {
            let (a, b) = (random(m * k, 1), random(k * n, 2));
            let matrix = |data, rows, columns| Matrix { rows, ..Matrix::new(data, columns) };
            for lhs in [matrix(&a, m, k), matrix(&a, k, m).t()] {
                for rhs in [matrix(&b, k, n), matrix(&b, n, k).t()] {
                    for accumulate in [false, true] {
                        let stride = n + 3;
                        let mut fast = vec![0.5f32; m * stride];
                        let mut slow = fast.clone();
                        product(&mut fast, (stride, accumulate), lhs, rhs);
                        product_slow(&mut slow, (stride, accumulate), lhs, rhs);
                        for (at, (fast, slow)) in fast.iter().zip(&slow).enumerate() {
                            let bound = 1e-5 * (k as f32).sqrt() * (1.0 + slow.abs());
                            assert!((fast - slow).abs() <= bound, "[{m}, {n}, {k}] at {at}: {fast} {slow}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn many_columns_are_packed_in_parts() {
        let (m, n, k) = (3, 50_000, 200);
        let (a, b) = (random(m * k, 1), random(k * n, 2));
        let (mut fast, mut slow) = (vec![0f32; m * n], vec![0f32; m * n]);
        product(&mut fast, (n, false), Matrix::new(&a, k), Matrix::new(&b, n));
        product_slow(&mut slow, (n, false), Matrix::new(&a, k), Matrix::new(&b, n));
        assert!(fast.iter().zip(&slow).all(|(fast, slow)| (fast - slow).abs() < 1e-3));
    }

    #[test]
    fn the_number_of_threads_changes_nothing_and_nan_stays_nan() {
        let (m, n, k) = (70, 90, 300);
        let (mut a, b) = (random(m * k, 1), random(k * n, 2));
        a[k + 7] = f32::NAN;
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let mut dst = vec![0f32; m * n];
            pool.install(|| product(&mut dst, (n, false), Matrix::new(&a, k), Matrix::new(&b, n)));
            dst
        };
        let (one, three) = (run(1), run(3));
        assert!(one.iter().zip(&three).all(|(one, three)| one.to_bits() == three.to_bits()));
        assert!(one[n..2 * n].iter().all(|x| x.is_nan()) && !one[..n].iter().any(|x| x.is_nan()));
    }
}
