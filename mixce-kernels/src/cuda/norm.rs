//! Normalisation of rows.

use candle_core::Result;

use super::column_sums::Chunks;
use super::{
    Array, Element, Gpu, Grid, MAX_BLOCKS, THREADS, WARP, expect_len, launch, name_of, rows, unsigned,
};
use crate::NormKind;
use crate::affine::Sums;
use crate::norm::NormElements;

/// Shared memory that a block has without asking for more.
const SHARED_BYTES: usize = 48 * 1024;

/// Blocks that few rows are spread over: the multiprocessors of an H100.
const FEW_BLOCKS: usize = 132;

/// A warp a row, of which it keeps `copies` rows of `c` elements in shared memory if they fit there; and the elements kept of each, or 0.
fn grid(rows: usize, c: usize, copies: usize) -> (Grid, u32) {
    let kept = c.next_multiple_of(4);
    let bytes = 4 * kept * copies;
    let most = rows.div_ceil(FEW_BLOCKS).clamp(1, (THREADS / WARP) as usize);
    let (warps, kept) = match SHARED_BYTES / bytes.max(1) {
        0 => (most, 0),
        fit => (fit.min(most), kept),
    };
    let blocks = rows.div_ceil(warps).min(MAX_BLOCKS) as u32;
    let shared_bytes = 4 * kept * copies * warps;
    (Grid { blocks: (blocks, 1), threads: (warps as u32 * WARP, 1), shared_bytes }, kept as u32)
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
        let (columns, (grid, kept)) = (unsigned(op, c)?, grid(n, c, 1));
        // SAFETY: the arguments are those of the kernel; n rows of c elements lie inside x and y, c inside gain and shift.
        unsafe { launch!(self, "norm", name, grid, x, gain, shift, y, n as u64, columns, eps, kept) }
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
        let (columns, (grid, kept)) = (unsigned(op, c)?, grid(n, c, 2));
        // SAFETY: the arguments are those of the kernel; the sizes of all arrays were checked.
        unsafe { launch!(self, "norm", name, grid, x, gain, dy, dx, moments, n as u64, columns, eps, kept) }?;
        let chunks = Chunks::new(n, c, 4);
        self.add_shares(chunks, c, [Some(sums.weight), sums.bias], |partial| {
            let (name, grid) = (name_of!("mixce_norm_backward_parameters", T), chunks.grid());
            let (n, rows) = (n as u64, chunks.rows());
            // SAFETY: the arguments are those of the kernel; the sizes were checked, and every chunk has its two rows of shares.
            unsafe { launch!(self, "norm", name, grid, x, moments, dy, partial, n, columns, rows) }
        })
    }
}
