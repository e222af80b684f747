//! Converts operands of matrix products.

use candle_core::{DType, Result, Tensor};

use super::{Element, Grid, launch, uninitialised, with_arrays};

/// `x` itself, or a copy rounded to bf16.
pub(super) fn operand<T: Element>(x: &Tensor) -> Result<Tensor> {
    if T::DTYPE == DType::F32 {
        return Ok(x.clone());
    }
    let y = uninitialised(x.shape(), DType::BF16, x)?;
    cast([x, x], [&y, &y], 1)?;
    Ok(y)
}

/// Two [`operand`]s in one launch.
pub(super) fn operands<T: Element>(a: &Tensor, b: &Tensor) -> Result<[Tensor; 2]> {
    if T::DTYPE == DType::F32 {
        return Ok([a.clone(), b.clone()]);
    }
    let rounded = [uninitialised(a.shape(), DType::BF16, a)?, uninitialised(b.shape(), DType::BF16, b)?];
    cast([a, b], [&rounded[0], &rounded[1]], 2)?;
    Ok(rounded)
}

/// Rounds the first `count` of two tensors to bf16.
fn cast(x: [&Tensor; 2], y: [&Tensor; 2], tensors: u32) -> Result<()> {
    const ELEMENTS_OF_A_THREAD: usize = 4;
    let op = "cast";
    with_arrays::<f32, _, 2, 0>(op, x, [], |gpu, [x0, x1], []| {
        with_arrays::<half::bf16, _, 0, 2>(op, [], y, |_, [], [y0, y1]| {
            let mut grid = Grid::elements(x0.len.max(x1.len).div_ceil(ELEMENTS_OF_A_THREAD));
            grid.blocks.1 = tensors;
            let [n0, n1] = [x0.len as u64, x1.len as u64];
            // SAFETY: the arguments are those of the kernel; a result has the shape of its tensor.
            unsafe { launch!(gpu, "cast", "mixce_cast_bf16", grid, x0, x1, y0, y1, n0, n1) }
        })
    })
}
