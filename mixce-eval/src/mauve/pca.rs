//! Principal components, as many as explain a given share of the variance.
//!
//! Legend: N rows, D columns, K components.

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par, Side};
use rayon::prelude::*;

use crate::error::{Error, Result};

/// Columns of a covariance that a task computes at a time.
const PANEL: usize = 128;
/// Rows that a task projects at a time.
const ROWS_PER_TASK: usize = 512;

/// Rows in the coordinates of their leading principal components.
#[derive(Clone, Debug)]
pub struct Projection {
    /// `[N, K]`, row-major: centred coordinates, the component of the largest variance first.
    pub values: Vec<f32>,
    /// K.
    pub components: usize,
    /// Share of the variance that the K components explain.
    pub explained: f64,
}

/// Projects rows `[N, D]` (row-major; they are centred in place) on the fewest components that explain `share` of the variance:
/// up to and with the first at which the cumulated share reaches it.
///
/// The components are eigenvectors of the covariance, or of the Gram matrix of the rows if N is smaller than D. The numbers do
/// not depend on the number of threads: every task does a fixed part of the work alone.
///
/// # Errors
/// [`Error::Eigen`] when the eigenvalue iteration fails.
pub fn project(values: &mut [f32], columns: usize, share: f64) -> Result<Projection> {
    let rows = values.len() / columns.max(1);
    centre(values, columns);
    let by_columns = columns <= rows;
    let x = MatRef::from_row_major_slice(values, rows, columns);
    let products = if by_columns { products(x.transpose()) } else { products(x) };
    let size = columns.min(rows);
    let eigen = MatRef::from_column_major_slice(&products, size, size)
        .self_adjoint_eigen(Side::Lower)
        .map_err(|_| Error::Eigen)?;
    // Ascending; rounding may leave tiny negative ones.
    let variances: Vec<f64> = (0..size).rev().map(|i| f64::from(eigen.S()[i]).max(0.0)).collect();
    let (components, explained) = leading(&variances, share);
    let mut projected = vec![0.0f32; rows * components];
    if by_columns {
        let vectors = eigen.U();
        let basis = faer::Mat::from_fn(columns, components, |i, k| vectors[(i, size - 1 - k)]);
        let tasks = projected
            .par_chunks_mut(ROWS_PER_TASK * components)
            .zip(values.par_chunks(ROWS_PER_TASK * columns));
        tasks.for_each(|(projected, values)| {
            let n = values.len() / columns;
            let out = MatMut::from_row_major_slice_mut(projected, n, components);
            let rows = MatRef::from_row_major_slice(values, n, columns);
            matmul(out, Accum::Replace, rows, basis.as_ref(), 1.0, Par::Seq);
        });
    } else {
        // X X' = U L U': the coordinates are U sqrt(L) themselves.
        for (i, row) in projected.chunks_mut(components).enumerate() {
            for (k, value) in row.iter_mut().enumerate() {
                *value = eigen.U()[(i, size - 1 - k)] * variances[k].sqrt() as f32;
            }
        }
    }
    Ok(Projection { values: projected, components, explained })
}

/// Subtracts each column's mean.
fn centre(values: &mut [f32], columns: usize) {
    let mut sums = vec![0.0f64; columns];
    for row in values.chunks(columns) {
        sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += f64::from(*value));
    }
    let rows = (values.len() / columns).max(1) as f64;
    let means: Vec<f32> = sums.iter().map(|sum| (sum / rows) as f32).collect();
    for row in values.chunks_mut(columns) {
        row.iter_mut().zip(&means).for_each(|(value, mean)| *value -= mean);
    }
}

/// `A A'` of a matrix `[S, M]`, column-major; above the diagonal it may hold zeros.
fn products(a: MatRef<'_, f32>) -> Vec<f32> {
    let size = a.nrows();
    let mut products = vec![0.0f32; size * size];
    products.par_chunks_mut(PANEL * size).enumerate().for_each(|(panel, out)| {
        let (first, width) = (panel * PANEL, out.len() / size);
        let out = MatMut::from_column_major_slice_mut(out, size, width);
        let out = out.subrows_mut(first, size - first);
        let (below, own) = (a.subrows(first, size - first), a.subrows(first, width));
        matmul(out, Accum::Replace, below, own.transpose(), 1.0, Par::Seq);
    });
    products
}

/// How many of the variances (descending) reach the share together, and the share they have.
fn leading(variances: &[f64], share: f64) -> (usize, f64) {
    let total: f64 = variances.iter().sum();
    if total <= 0.0 {
        // All rows are equal: one coordinate, which is zero.
        return (1, 1.0);
    }
    let mut cumulated = 0.0;
    for (index, variance) in variances.iter().enumerate() {
        cumulated += variance / total;
        if cumulated >= share {
            return (index + 1, cumulated);
        }
    }
    (variances.len(), cumulated)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mixce_base::rng::Stream;

    /// Rows in a plane of a space of `columns` dimensions, with a little noise.
    fn plane(rows: usize, columns: usize) -> Vec<f32> {
        let (stream, noise) = (Stream::new(1), Stream::new(2));
        let axis = |k: u64, j: usize| stream.fold(100 + k).normal(j as u64) as f32;
        let value = |i: usize, j: usize| {
            let (a, b) = (stream.fold(0).normal(i as u64) as f32, stream.fold(1).normal(i as u64) as f32);
            3.0 * a * axis(0, j) + b * axis(1, j) + 1e-3 * noise.normal((i * columns + j) as u64) as f32 + 5.0
        };
        (0..rows * columns).map(|at| value(at / columns, at % columns)).collect()
    }

    fn distance(values: &[f32], columns: usize, a: usize, b: usize) -> f64 {
        let row = |i: usize| &values[i * columns..(i + 1) * columns];
        row(a).iter().zip(row(b)).map(|(x, y)| f64::from(x - y).powi(2)).sum::<f64>().sqrt()
    }

    #[test]
    fn distances_in_the_plane_survive() {
        for (rows, columns) in [(300, 20), (20, 300), (40, 40)] {
            let original = plane(rows, columns);
            let found = project(&mut original.clone(), columns, 0.999).unwrap();
            assert_eq!(found.components, 2, "{rows} x {columns}");
            for (a, b) in [(0, 1), (3, 17), (19, 2)] {
                let (before, after) = (distance(&original, columns, a, b), distance(&found.values, 2, a, b));
                assert!((before - after).abs() < 1e-2 * before.max(1.0), "{before} {after}");
            }
        }
    }

    #[test]
    fn the_first_component_that_reaches_the_share_is_the_last() {
        let (components, explained) = leading(&[5.0, 4.0, 1.0], 0.9);
        assert_eq!(components, 2);
        assert!((explained - 0.9).abs() < 1e-12);
        assert_eq!(leading(&[5.0, 4.0, 1.0], 0.91).0, 3);
        assert_eq!(leading(&[0.0, 0.0], 0.9), (1, 1.0));
    }

    #[test]
    fn equal_rows_become_zeros() {
        let found = project(&mut [2.0; 12], 4, 0.9).unwrap();
        assert_eq!((found.components, found.values), (1, vec![0.0; 3]));
    }
}
