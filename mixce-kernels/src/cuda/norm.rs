//! Normalisation of rows.

use candle_core::Result;

use super::dropout::arguments;
use super::grid::chunks;
use super::{
    Arg, Array, Element, Gpu, Grid, MAX_BLOCKS, THREADS, WARP, expect_len, kernel, launch, name_of, rows,
    unsigned,
};
use crate::NormKind;
use crate::affine::Sums;
use crate::dropout::Dropout;
use crate::norm::NormElements;

/// Shared memory that a block has without asking for more.
const SHARED_BYTES: usize = 48 * 1024;

/// Blocks that few rows are spread over: the multiprocessors of an H100.
const FEW_BLOCKS: usize = 132;

/// The norm that comes next, and where the rows that it normalises go.
type NextNorm<'a, T> = (NormElements<Array<'a, f32>>, Array<'a, T>);

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

    /// `y = residual + dropout(branch + bias)` as [`Gpu::residual`], and its rows normalised by the next norm, if there is one.
    pub(super) fn residual_and_norm<T: Element>(
        &self,
        residual: Array<'_, f32>,
        branch: (Array<'_, f32>, Option<Array<'_, f32>>),
        dropout: Option<Dropout>,
        y: Array<'_, f32>,
        (c, next): (usize, Option<NextNorm<'_, T>>),
    ) -> Result<()> {
        match next {
            Some(next) => self.residual_norm(residual, branch, dropout, y, next),
            None => self.residual(residual, branch, c, dropout, y),
        }
    }

    /// `y = residual + dropout(branch + bias)`, and its normalised rows.
    fn residual_norm<T: Element>(
        &self,
        residual: Array<'_, f32>,
        (branch, bias): (Array<'_, f32>, Option<Array<'_, f32>>),
        dropout: Option<Dropout>,
        y: Array<'_, f32>,
        (norm, normed): NextNorm<'_, T>,
    ) -> Result<()> {
        let NormElements { kind, gain, shift, eps } = norm;
        let (op, c) = ("residual and norm", gain.len);
        let n = rows(op, y, c)?;
        expect_len(op, "the residual", residual, y.len)?;
        expect_len(op, "the branch", branch, y.len)?;
        expect_len(op, "the normalised rows", normed, y.len)?;
        for parameter in [bias, shift].into_iter().flatten() {
            expect_len(op, "a bias", parameter, c)?;
        }
        let name = match kind {
            NormKind::Layer => name_of!("mixce_residual_layer_norm", T),
            NormKind::Rms => name_of!("mixce_residual_rms_norm", T),
        };
        let [key, label, first, threshold, scale] = arguments(dropout, c as u64);
        let (columns, (grid, kept), n) = (unsigned(op, c)?, grid(n, c, 1), n as u64);
        // SAFETY: the arguments are those of the kernel; n rows of c elements lie inside the arrays, c inside the parameters.
        unsafe {
            launch!(
                self, "norm", name, grid, residual, branch, bias, y, gain, shift, normed, n, columns, eps,
                kept, key, label, first, threshold, scale
            )
        }
    }

    /// Adds the gradients of input and parameters to `dx` and `sums`. `moments` has room for two numbers a row. Then `dx` is also that of
    /// the branch that ends in `x`, if there is one. `normed`, which may be `dy`, takes the normalised rows of `x`, those of [`Gpu::norm`].
    pub(super) fn add_norm_gradients<T: Element>(
        &self,
        (x, norm): (Array<'_, f32>, NormElements<Array<'_, f32>>),
        (dy, normed): (Array<'_, T>, Option<Array<'_, T>>),
        dx: Array<'_, f32>,
        sums: Sums<Array<'_, f32>>,
        moments: Array<'_, f32>,
        branch: Option<BranchArrays<'_, T>>,
    ) -> Result<()> {
        let NormElements { kind, gain, shift, eps } = norm;
        let (op, c) = ("norm backward", gain.len);
        let n = rows(op, x, c)?;
        for rows in [Some(dy), normed].into_iter().flatten() {
            expect_len(op, "the result's gradient", rows, x.len)?;
        }
        if let Some(shift) = shift {
            expect_len(op, "the bias", shift, c)?;
        }
        expect_len(op, "the input's gradient", dx, x.len)?;
        expect_len(op, "the weight's gradient", sums.weight, c)?;
        if let Some(bias) = sums.bias {
            expect_len(op, "the bias's gradient", bias, c)?;
        }
        expect_len(op, "the moments", moments, 2 * n)?;
        if let Some(gradient) = branch.and_then(|branch| branch.gradient) {
            expect_len(op, "the branch's gradient", gradient, x.len)?;
        }
        if n == 0 {
            return Ok(());
        }
        let branch = branch.filter(|branch| branch.gradient.is_some() || branch.bias.is_some());
        let name = match (kind, branch) {
            (NormKind::Layer, None) => name_of!("mixce_layer_norm_backward", T),
            (NormKind::Rms, None) => name_of!("mixce_rms_norm_backward", T),
            (NormKind::Layer, Some(_)) => name_of!("mixce_layer_norm_branch_backward", T),
            (NormKind::Rms, Some(_)) => name_of!("mixce_rms_norm_branch_backward", T),
        };
        let (columns, (mut grid, kept)) = (unsigned(op, c)?, grid(n, c, 2));
        let (blocks, chunk_rows) = chunks(n, (grid.threads.0 / WARP) as usize);
        grid.blocks.0 = blocks as u32;
        let launch = |partial: Array<'_, f32>| {
            let (rows, chunk_rows) = (Arg::Size(n as u64), Arg::Size(chunk_rows as u64));
            let mut args: Vec<Arg> = vec![x.into(), gain.into(), shift.into(), dy.into(), normed.into()];
            args.extend::<[Arg; 3]>([dx.into(), moments.into(), partial.into()]);
            args.extend([rows, columns.into(), eps.into(), kept.into(), chunk_rows]);
            args.extend(branch.iter().flat_map(|branch| branch.arguments(c)));
            // SAFETY: the arguments are those of the kernel; the sizes of all arrays were checked, and every block has its rows of shares.
            unsafe { self.launch(kernel!("norm", name), grid, &args) }
        };
        match branch.and_then(|branch| branch.bias) {
            Some(bias) => self.add_shares(blocks, c, [Some(sums.weight), sums.bias, Some(bias)], launch),
            None => self.add_shares(blocks, c, [Some(sums.weight), sums.bias], launch),
        }
    }
}

/// The branch that ends in the input of a norm.
#[derive(Clone, Copy)]
pub(super) struct BranchArrays<'a, T> {
    /// Of its end.
    pub(super) dropout: Option<Dropout>,
    /// Takes its gradient, unless that is the stream's.
    pub(super) gradient: Option<Array<'a, T>>,
    /// What the sum of the gradient's rows is added to.
    pub(super) bias: Option<Array<'a, f32>>,
}

impl<T: Element> BranchArrays<'_, T> {
    /// Those of the kernels, for rows of `c` elements.
    fn arguments(&self, c: usize) -> impl Iterator<Item = Arg> + use<T> {
        let sums: u32 = if self.bias.is_some() { 3 } else { 2 };
        [self.gradient.into(), sums.into()].into_iter().chain(arguments(self.dropout, c as u64))
    }
}
