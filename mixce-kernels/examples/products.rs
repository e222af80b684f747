//! Times f32 matrix products for `scripts/bench/products.py`, which calls ours, `gemm` and PyTorch in turn.
//!
//! Reads lines `ours|gemm M K N LEFT RIGHT` from standard input, where a side is `plain` or `transposed`; answers each with the seconds of
//! one product.
#![expect(unsafe_code, reason = "gemm takes pointers")]

use std::io::{BufRead as _, Write as _};
use std::time::Instant;

use mixce_kernels::{Matrix, Precision, matmul};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut answers = std::io::stdout().lock();
    let (mut left, mut right, mut product) = (Vec::new(), Vec::new(), Vec::new());
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let [kind, m, k, n, left_layout, right_layout] = line.split(' ').collect::<Vec<_>>()[..] else {
            return Err(format!("expected 6 words, got `{line}`").into());
        };
        let (m, k, n): (usize, usize, usize) = (m.parse()?, k.parse()?, n.parse()?);
        for (matrix, size) in [(&mut left, m * k), (&mut right, k * n), (&mut product, m * n)] {
            matrix.resize(size, 0.5f32);
        }
        let side = |data, rows, columns, layout| match layout {
            "transposed" => Matrix::new(data, rows).t(),
            _ => Matrix::new(data, columns),
        };
        let started_at = Instant::now();
        if kind == "ours" {
            let (left, right) = (side(&left, m, k, left_layout), side(&right, k, n, right_layout));
            matmul(Precision::F32, &mut product, n, false, left, right);
        } else {
            let strides =
                |rows, columns, layout| if layout == "transposed" { (rows, 1) } else { (1, columns) };
            let (left_strides, right_strides) = (strides(m, k, left_layout), strides(k, n, right_layout));
            gemm_product((m, k, n), &mut product, (&left, left_strides), (&right, right_strides));
        }
        writeln!(answers, "{}", started_at.elapsed().as_secs_f64())?;
        answers.flush()?;
    }
    Ok(())
}

/// The product through `gemm`, on all threads; strides are `(column, row)`.
fn gemm_product(
    (m, k, n): (usize, usize, usize),
    product: &mut [f32],
    (left, left_strides): (&[f32], (usize, usize)),
    (right, right_strides): (&[f32], (usize, usize)),
) {
    assert!(left.len() == m * k && right.len() == k * n && product.len() == m * n);
    let threads = gemm::Parallelism::Rayon(rayon::current_num_threads());
    let stride = |n: usize| n as isize;
    // SAFETY: the matrices are as large as their sizes and strides say (checked above), and `product` is borrowed mutably.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            product.as_mut_ptr(),
            1,
            stride(n),
            false,
            left.as_ptr(),
            stride(left_strides.0),
            stride(left_strides.1),
            right.as_ptr(),
            stride(right_strides.0),
            stride(right_strides.1),
            0.0,
            1.0,
            false,
            false,
            false,
            threads,
        );
    }
}
