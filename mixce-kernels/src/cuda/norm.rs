//! Normalisation of rows.

use candle_core::Result;

use super::{
    Array, Element, Gpu, Grid, MAX_BLOCKS, THREADS, WARP, expect_len, launch, name_of, rows, unsigned,
};
use crate::NormKind;
use crate::affine::Sums;
use crate::norm::NormElements;

/// A warp a row.
fn grid(rows: usize) -> Grid {
    let blocks = rows.div_ceil((THREADS / WARP) as usize).min(MAX_BLOCKS);
    Grid { blocks: (blocks as u32, 1), threads: (THREADS, 1), shared_bytes: 0 }
}

impl Gpu<'_> {
    /// Normalised rows of `x` into `y`.
    pub(crate) fn norm<T: Element>(
        &self,
        x: Array<'_, f32>,
        NormElements { kind, gain, shift, eps }: NormElements<Array<'_, f32>>,
        y: Array<'_, T>,
    ) -> Result<()> {
        let (op, c) = ("norm", gain.len);
        let n = rows(op, x, c)?;
        if let Some(shift) = shift {
            expect_len(op, "the bias", shift, c)?;
        }
        expect_len(op, "the result", y, x.len)?;
        let name = match kind {
            NormKind::Layer => name_of!("mixce_layer_norm", T),
            NormKind::Rms => name_of!("mixce_rms_norm", T),
        };
        let (columns, grid) = (unsigned(op, c)?, grid(n));
        // SAFETY: the arguments are those of the kernel; n rows of c elements lie inside x and y, c inside gain and shift.
        unsafe { launch!(self, "norm", name, grid, x, gain, shift, y, n as u64, columns, eps) }
    }

    /// Adds the gradients of input and parameters to `dx` and `sums`. `moments` has room for two numbers a row.
    pub(super) fn add_norm_gradients<T: Element>(
        &self,
        (x, norm): (Array<'_, f32>, NormElements<Array<'_, f32>>),
        dy: Array<'_, T>,
        dx: Array<'_, f32>,
        sums: Sums<Array<'_, f32>>,
        moments: Array<'_, f32>,
    ) -> Result<()> {
        let NormElements { kind, gain, eps, .. } = norm;
        let (op, c) = ("norm backward", gain.len);
        let n = rows(op, x, c)?;
        expect_len(op, "the result's gradient", dy, x.len)?;
        expect_len(op, "the input's gradient", dx, x.len)?;
        expect_len(op, "the weight's gradient", sums.weight, c)?;
        if let Some(bias) = sums.bias {
            expect_len(op, "the bias's gradient", bias, c)?;
        }
        expect_len(op, "the moments", moments, 2 * n)?;
        if n == 0 {
            return Ok(());
        }
        let name = match kind {
            NormKind::Layer => name_of!("mixce_layer_norm_backward", T),
            NormKind::Rms => name_of!("mixce_rms_norm_backward", T),
        };
        let (of_parameters, rows, columns) = (Grid::columns(c), grid(n), unsigned(op, c)?);
        // SAFETY: the arguments are those of the kernels; the sizes of all arrays were checked.
        unsafe {
            launch!(self, "norm", name, rows, x, gain, dy, dx, moments, n as u64, columns, eps)?;
            let (name, n) = (name_of!("mixce_norm_backward_parameters", T), n as u64);
            launch!(self, "norm", name, of_parameters, x, moments, dy, sums.weight, sums.bias, n, columns)
        }
    }
}
