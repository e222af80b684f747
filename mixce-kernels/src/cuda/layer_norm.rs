//! Layer normalisation over rows.

use candle_core::Result;

use super::{
    Array, Element, Gpu, Grid, MAX_BLOCKS, THREADS, WARP, expect_len, launch, name_of, rows, unsigned,
};

/// A warp a row.
fn grid(rows: usize) -> Grid {
    let blocks = rows.div_ceil((THREADS / WARP) as usize).min(MAX_BLOCKS);
    Grid { blocks: (blocks as u32, 1), threads: (THREADS, 1), shared_bytes: 0 }
}

impl Gpu<'_> {
    /// Normalised rows of `x` into `y`.
    pub(crate) fn layer_norm<T: Element>(
        &self,
        x: Array<'_, f32>,
        (gain, shift): (Array<'_, f32>, Array<'_, f32>),
        eps: f32,
        y: Array<'_, T>,
    ) -> Result<()> {
        let (op, c) = ("layer_norm", gain.len);
        let n = rows(op, x, c)?;
        expect_len(op, "the bias", shift, c)?;
        expect_len(op, "the result", y, x.len)?;
        // SAFETY: the arguments are those of the kernel; n rows of c elements lie inside x and y, c inside gain and shift.
        unsafe {
            launch!(
                self,
                "layer_norm",
                name_of!("mixce_layer_norm", T),
                grid(n),
                x,
                gain,
                shift,
                y,
                n as u64,
                unsigned(op, c)?,
                eps
            )
        }
    }

    /// Adds the gradients of input, weight and bias to `dx`, `dgain` and `dshift`. `moments` has room for two numbers a row.
    pub(super) fn add_layer_norm_gradients<T: Element>(
        &self,
        (x, gain, eps): (Array<'_, f32>, Array<'_, f32>, f32),
        dy: Array<'_, T>,
        dx: Array<'_, f32>,
        (dgain, dshift): (Array<'_, f32>, Array<'_, f32>),
        moments: Array<'_, f32>,
    ) -> Result<()> {
        let (op, c) = ("layer_norm backward", gain.len);
        let n = rows(op, x, c)?;
        expect_len(op, "the result's gradient", dy, x.len)?;
        expect_len(op, "the input's gradient", dx, x.len)?;
        expect_len(op, "the weight's gradient", dgain, c)?;
        expect_len(op, "the bias's gradient", dshift, c)?;
        expect_len(op, "the moments", moments, 2 * n)?;
        if n == 0 {
            return Ok(());
        }
        let (n, columns) = (n as u64, unsigned(op, c)?);
        // SAFETY: the arguments are those of the kernels; the sizes of all arrays were checked.
        unsafe {
            let (name, rows) = (name_of!("mixce_layer_norm_backward", T), grid(n as usize));
            launch!(self, "layer_norm", name, rows, x, gain, dy, dx, moments, n, columns, eps)?;
            let name = name_of!("mixce_layer_norm_backward_parameters", T);
            launch!(self, "layer_norm", name, Grid::columns(c), x, moments, dy, dgain, dshift, n, columns)
        }
    }
}
