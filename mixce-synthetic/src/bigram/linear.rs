//! Dense f64 linear algebra for the exact expectations: LU with partial pivoting, and two vector loops.

use pulp::Arch;

/// `y += alpha x` over the shorter length.
#[inline]
pub(crate) fn axpy64(alpha: f64, x: &[f64], y: &mut [f64]) {
    Arch::new().dispatch(|| y.iter_mut().zip(x).for_each(|(y, x)| *y += alpha * x));
}

/// `x . y` over the shorter length, accumulated in eight lanes.
#[inline]
pub(crate) fn dot64(x: &[f64], y: &[f64]) -> f64 {
    let len = x.len().min(y.len());
    Arch::new().dispatch(|| {
        let ((x, x_rest), (y, y_rest)) = (x[..len].as_chunks::<8>(), y[..len].as_chunks::<8>());
        let mut lanes = [0.0; 8];
        for (x, y) in x.iter().zip(y) {
            for ((lane, x), y) in lanes.iter_mut().zip(x).zip(y) {
                *lane += x * y;
            }
        }
        lanes.iter().sum::<f64>() + x_rest.iter().zip(y_rest).map(|(x, y)| x * y).sum::<f64>()
    })
}

/// `P M = L U` of a square matrix.
#[derive(Clone, Debug)]
pub(crate) struct Factors {
    n: usize,
    lu: Vec<f64>,
    pivots: Vec<usize>,
}

impl Factors {
    /// Factors a row-major `[n, n]` matrix. A singular matrix gives infinite solutions.
    pub(crate) fn new(n: usize, mut lu: Vec<f64>) -> Self {
        let mut pivots = Vec::with_capacity(n);
        for k in 0..n {
            let mut pivot = k;
            for i in k + 1..n {
                if lu[i * n + k].abs() > lu[pivot * n + k].abs() {
                    pivot = i;
                }
            }
            pivots.push(pivot);
            if pivot != k {
                let (head, tail) = lu.split_at_mut(pivot * n);
                head[k * n..(k + 1) * n].swap_with_slice(&mut tail[..n]);
            }
            let (head, tail) = lu.split_at_mut((k + 1) * n);
            let top = &head[k * n..];
            for row in tail.chunks_exact_mut(n) {
                let factor = row[k] / top[k];
                row[k] = factor;
                if factor != 0.0 {
                    axpy64(-factor, &top[k + 1..n], &mut row[k + 1..]);
                }
            }
        }
        Self { n, lu, pivots }
    }

    /// Solves `M x = b`.
    pub(crate) fn solve(&self, mut b: Vec<f64>) -> Vec<f64> {
        let n = self.n;
        self.pivots.iter().enumerate().for_each(|(k, &p)| b.swap(k, p));
        for i in 0..n {
            b[i] -= dot64(&self.lu[i * n..i * n + i], &b[..i]);
        }
        for i in (0..n).rev() {
            let rest = dot64(&self.lu[i * n + i + 1..(i + 1) * n], &b[i + 1..]);
            b[i] = (b[i] - rest) / self.lu[i * n + i];
        }
        b
    }

    /// Solves `M^T x = b`, that is `x M = b`.
    pub(crate) fn solve_transposed(&self, mut b: Vec<f64>) -> Vec<f64> {
        let n = self.n;
        for i in 0..n {
            b[i] /= self.lu[i * n + i];
            let (head, tail) = b.split_at_mut(i + 1);
            axpy64(-head[i], &self.lu[i * n + i + 1..(i + 1) * n], tail);
        }
        for i in (0..n).rev() {
            let (head, tail) = b.split_at_mut(i);
            axpy64(-tail[0], &self.lu[i * n..i * n + i], head);
        }
        self.pivots.iter().enumerate().rev().for_each(|(k, &p)| b.swap(k, p));
        b
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mixce_base::rng::Stream;

    #[test]
    fn solutions_satisfy_both_systems() {
        for n in [1, 2, 5, 33] {
            let stream = Stream::new(n as u64);
            let matrix: Vec<f64> = (0..n * n).map(|i| stream.normal(i as u64)).collect();
            let b: Vec<f64> = (0..n).map(|i| stream.normal((n * n + i) as u64)).collect();
            let factors = Factors::new(n, matrix.clone());
            let x = factors.solve(b.clone());
            let y = factors.solve_transposed(b.clone());
            for i in 0..n {
                let row: f64 = (0..n).map(|j| matrix[i * n + j] * x[j]).sum();
                let column: f64 = (0..n).map(|j| matrix[j * n + i] * y[j]).sum();
                assert!((row - b[i]).abs() < 1e-9 && (column - b[i]).abs() < 1e-9, "{n} {i}");
            }
        }
    }

    #[test]
    fn vector_loops() {
        let x: Vec<f64> = (0..19).map(f64::from).collect();
        assert_eq!(dot64(&x, &x), (0..19).map(|i| f64::from(i * i)).sum::<f64>());
        let mut y = vec![1.0; 19];
        axpy64(2.0, &x, &mut y);
        assert_eq!(y[18], 37.0);
    }
}
