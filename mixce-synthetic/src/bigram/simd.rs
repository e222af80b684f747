//! Small dense f32 arithmetic: one matrix product, the softmax of rows, a fast logarithm.
//!
//! The matrices of a bigram model are at most 1000 x 50 x 1001, so the overhead of tensors would dominate. Row strides
//! are multiples of [`PAD`], hence inner loops have no remainder. [`pulp`] picks the widest instructions at run time.

use pulp::{Arch, Simd, WithSimd};

/// Runs a block with the widest instructions of the machine, for the named arguments.
///
/// A closure given to [`pulp::Arch::dispatch`] would be shorter, but has one caller per instruction set, so the optimiser
/// leaves a large one outside all of them and compiles it for the baseline. The method of a type can be forced inside.
macro_rules! wide {
    ($a:lifetime, ($($name:ident: $kind:ty),* $(,)?), $body:block) => {{
        struct Job<$a> {
            $($name: $kind),*
        }
        impl<$a> pulp::WithSimd for Job<$a> {
            type Output = ();

            #[inline(always)]
            fn with_simd<S: pulp::Simd>(self, _: S) {
                let Self { $($name),* } = self;
                $body
            }
        }
        pulp::Arch::new().dispatch(Job { $($name),* })
    }};
}
pub(crate) use wide;

/// Row strides are multiples of this many elements (one AVX-512 register of f32).
pub(crate) const PAD: usize = 16;

/// The logit of a padding column: its probability is exactly 0.
pub(crate) const PADDING_LOGIT: f32 = -1e30;

/// A read-only strided matrix: element `(i, j)` is `data[i * row + j * col]`.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    /// The elements.
    pub(crate) data: &'a [f32],
    /// Distance between rows.
    pub(crate) row: usize,
    /// Distance between columns.
    pub(crate) col: usize,
}

impl<'a> View<'a> {
    /// A row-major matrix with the given row stride.
    pub(crate) fn rows(data: &'a [f32], row: usize) -> Self {
        Self { data, row, col: 1 }
    }

    /// Its transpose.
    pub(crate) fn transposed(data: &'a [f32], row: usize) -> Self {
        Self { data, row: 1, col: row }
    }
}

/// `c += a b`, with `a` `[m, k]` strided, `b` `[k, n]` and `c` `[m, n]` row-major with stride `n`, a multiple of
/// [`PAD`].
pub(crate) fn matmul_add(m: usize, n: usize, k: usize, a: View<'_>, b: &[f32], c: &mut [f32]) {
    debug_assert!(n.is_multiple_of(PAD) && b.len() >= k * n && c.len() >= m * n);
    Arch::new().dispatch(MatMul { m, n, k, a, b, c });
}

struct MatMul<'a> {
    m: usize,
    n: usize,
    k: usize,
    a: View<'a>,
    b: &'a [f32],
    c: &'a mut [f32],
}

impl WithSimd for MatMul<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { m, n, k, a, b, c } = self;
        let (b, _) = S::as_simd_f32s(&b[..k * n]);
        let (c, _) = S::as_mut_simd_f32s(&mut c[..m * n]);
        let nv = n / S::F32_LANES;
        let mut row = 0;
        while row + 4 <= m {
            block::<S, 4>(simd, nv, k, a, b, &mut c[row * nv..(row + 4) * nv], row);
            row += 4;
        }
        while row < m {
            block::<S, 1>(simd, nv, k, a, b, &mut c[row * nv..(row + 1) * nv], row);
            row += 1;
        }
    }
}

/// `R` rows of the product, in tiles of four vectors.
#[inline(always)]
fn block<S: Simd, const R: usize>(
    simd: S,
    nv: usize,
    k: usize,
    a: View<'_>,
    b: &[S::f32s],
    c: &mut [S::f32s],
    row: usize,
) {
    let mut col = 0;
    while col + 4 <= nv {
        tile::<S, R, 4>(simd, nv, k, a, b, c, row, col);
        col += 4;
    }
    while col < nv {
        tile::<S, R, 1>(simd, nv, k, a, b, c, row, col);
        col += 1;
    }
}

#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "the coordinates of one register tile")]
fn tile<S: Simd, const R: usize, const N: usize>(
    simd: S,
    nv: usize,
    k: usize,
    a: View<'_>,
    b: &[S::f32s],
    c: &mut [S::f32s],
    row: usize,
    col: usize,
) {
    let mut acc = [[simd.splat_f32s(0.0); N]; R];
    for i in 0..k {
        let b = &b[i * nv + col..][..N];
        for (r, acc) in acc.iter_mut().enumerate() {
            let x = simd.splat_f32s(a.data[(row + r) * a.row + i * a.col]);
            for j in 0..N {
                acc[j] = simd.mul_add_e_f32s(x, b[j], acc[j]);
            }
        }
    }
    for r in 0..R {
        let c = &mut c[r * nv + col..][..N];
        for j in 0..N {
            c[j] = simd.add_f32s(c[j], acc[r][j]);
        }
    }
}

/// `exp(x)` to about 1e-7 relative for `x <= 88`; 0 below -87.3. Cephes' reduction and polynomial, free of branches.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    const MAGIC: f32 = 12_582_912.0; // 1.5 * 2^23: adding it rounds to an integer
    let clamped = x.clamp(-87.3, 88.0);
    let shifted = clamped * std::f32::consts::LOG2_E + MAGIC;
    let n = shifted - MAGIC;
    let r = clamped - n * 0.693_359_4 - n * -2.121_944_4e-4;
    let p = 1.987_569_1e-4;
    let p = p * r + 1.398_2e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 0.5;
    let p = p * r * r + r + 1.0;
    let exponent = (shifted.to_bits() << 23).wrapping_add(0x3f80_0000);
    // The low bits of `shifted` hold n in two's complement.
    let value = p * f32::from_bits(exponent);
    if x < -87.3 { 0.0 } else { value }
}

/// `ln(x)` for normal positive `x`, to about 1e-7 absolute near 1 and relative elsewhere (Cephes' polynomial).
#[inline(always)]
pub(crate) fn ln(x: f32) -> f32 {
    let bits = x.to_bits();
    // Split x = m 2^e with m in [sqrt(1/2), sqrt(2)).
    let shifted = bits.wrapping_sub(0x3f35_04f3);
    let e = (shifted as i32 >> 23) as f32;
    let m = f32::from_bits((shifted & 0x007f_ffff).wrapping_add(0x3f35_04f3)) - 1.0;
    let z = m * m;
    let p = 7.037_683_6e-2;
    let p = p * m - 1.151_461e-1;
    let p = p * m + 1.167_699_9e-1;
    let p = p * m - 1.242_014_1e-1;
    let p = p * m + 1.424_932_3e-1;
    let p = p * m - 1.666_805_8e-1;
    let p = p * m + 2.000_071_5e-1;
    let p = p * m - 2.499_999_4e-1;
    let p = p * m + 3.333_333e-1;
    let y = m * z * p + e * -2.121_944_4e-4 - 0.5 * z;
    m + y + e * 0.693_359_4
}

/// Turns one row of logits into probabilities in place and returns the log of the normaliser.
#[inline(always)]
pub(crate) fn softmax_row(row: &mut [f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; PAD];
    for chunk in row.as_chunks::<PAD>().0 {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = if x > *lane { x } else { *lane };
        }
    }
    let max = lanes.iter().fold(f32::NEG_INFINITY, |m, &x| if x > m { x } else { m });
    let mut sums = [0f32; PAD];
    for chunk in row.as_chunks_mut::<PAD>().0 {
        for (sum, x) in sums.iter_mut().zip(chunk) {
            *x = exp(*x - max);
            *sum += *x;
        }
    }
    let sum: f32 = sums.iter().sum();
    let inverse = 1.0 / sum;
    for x in row.iter_mut() {
        *x *= inverse;
    }
    max + sum.ln()
}

/// Turns logits into log probabilities, in `log_q`; `row` is overwritten.
#[inline(always)]
pub(crate) fn log_softmax_row(row: &mut [f32], log_q: &mut [f32]) {
    log_q.copy_from_slice(row);
    let log_z = softmax_row(row);
    log_q.iter_mut().for_each(|l| *l -= log_z);
}

/// Softmax of every row of `[rows, stride]` in place; `log_z[i]` receives the log normaliser of row `i`.
pub(crate) fn softmax(data: &mut [f32], stride: usize, log_z: &mut [f32]) {
    wide!('a, (data: &'a mut [f32], stride: usize, log_z: &'a mut [f32]), {
        for (row, z) in data.chunks_exact_mut(stride).zip(log_z) {
            *z = softmax_row(row);
        }
    });
}

/// `y += alpha x`.
#[inline(always)]
pub(crate) fn axpy(alpha: f32, x: &[f32], y: &mut [f32]) {
    for (y, x) in y.as_chunks_mut::<PAD>().0.iter_mut().zip(x.as_chunks::<PAD>().0) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y += alpha * x;
        }
    }
}

/// `x . y`, accumulated in [`PAD`] lanes.
#[inline(always)]
pub(crate) fn dot(x: &[f32], y: &[f32]) -> f32 {
    let mut lanes = [0f32; PAD];
    for (x, y) in x.as_chunks::<PAD>().0.iter().zip(y.as_chunks::<PAD>().0) {
        for ((lane, &x), &y) in lanes.iter_mut().zip(x).zip(y) {
            *lane += x * y;
        }
    }
    lanes.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_and_ln_follow_the_standard_library() {
        for i in -8700..8800 {
            let x = i as f32 / 100.0;
            let want = f64::from(x).exp();
            assert!((f64::from(exp(x)) / want - 1.0).abs() < 4e-7, "exp({x})");
        }
        assert_eq!(exp(-1e30), 0.0);
        for i in 1..100_000u32 {
            let x = i as f32 / 1000.0;
            let want = f64::from(x).ln();
            assert!((f64::from(ln(x)) - want).abs() < 1e-7 + 3e-7 * want.abs(), "ln({x})");
        }
        assert!((ln(2f32.powi(-24)) + 24.0 * std::f32::consts::LN_2).abs() < 1e-5);
    }

    #[test]
    fn matmul_equals_the_naive_loop_with_both_layouts() {
        for (m, n, k) in [(1, 16, 1), (5, 48, 7), (9, 112, 50), (4, 80, 3), (0, 16, 2), (3, 16, 0)] {
            let a: Vec<f32> = (0..m * k).map(|i| ((i * 37 % 11) as f32 - 5.0) / 3.0).collect();
            let b: Vec<f32> = (0..k * n).map(|i| ((i * 53 % 13) as f32 - 6.0) / 5.0).collect();
            let mut at = vec![0f32; m * k];
            for i in 0..m {
                for j in 0..k {
                    at[j * m + i] = a[i * k + j];
                }
            }
            let mut plain = vec![0.5f32; m * n];
            let mut flipped = plain.clone();
            matmul_add(m, n, k, View::rows(&a, k), &b, &mut plain);
            matmul_add(m, n, k, View::transposed(&at, m), &b, &mut flipped);
            for i in 0..m {
                for j in 0..n {
                    let want = 0.5 + (0..k).map(|l| a[i * k + l] * b[l * n + j]).sum::<f32>();
                    assert!((plain[i * n + j] - want).abs() < 1e-4);
                    assert_eq!(plain[i * n + j], flipped[i * n + j]);
                }
            }
        }
    }

    #[test]
    fn softmax_ignores_padding_columns() {
        let mut row = [PADDING_LOGIT; 32];
        let logits = [1.0f32, -2.0, 0.5, 80.0, 79.0];
        row[..5].copy_from_slice(&logits);
        let mut log_z = [0f32];
        softmax(&mut row, 32, &mut log_z);
        let z: f64 = logits.iter().map(|&x| f64::from(x - 80.0).exp()).sum();
        assert!((f64::from(log_z[0]) - 80.0 - z.ln()).abs() < 1e-5);
        for (q, x) in row.iter().zip(logits) {
            assert!((f64::from(*q) - f64::from(x - 80.0).exp() / z).abs() < 1e-7);
        }
        assert!(row[5..].iter().all(|&q| q == 0.0));
    }
}
