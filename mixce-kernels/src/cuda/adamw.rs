//! The AdamW update, and the gradient norm for clipping.

use candle_core::{DType, Result, Tensor, bail};

use super::{Arg, Array, Gpu, Grid, expect_len, kernel, launch, uninitialised, unsigned, with_arrays};
use crate::adamw::{AdamWState, AdamWUpdate};
use crate::device::gpu_of;
use crate::guard::VERDICT;

/// Blocks of the sum of squares, and of their threads, as in `cuda/adamw.cu`.
const SQUARES_BLOCKS: usize = 64;
const SQUARES_THREADS: u32 = 256;

/// Tensors per launch of the sum of squares.
const TENSORS: usize = 8;

/// 64 partial sums of `sum_i x_i^2` for each tensor: `[tensors, 64]`.
fn sums_of_squares(tensors: &[Tensor], like: &Tensor) -> Result<Tensor> {
    let op = "sum of squares";
    let partial = uninitialised((tensors.len(), SQUARES_BLOCKS), DType::F64, like)?;
    for (i, some) in tensors.chunks(TENSORS).enumerate() {
        // Unused slots are filled with the first tensor and get no block.
        let padded: [&Tensor; TENSORS] = std::array::from_fn(|i| some.get(i).unwrap_or(&some[0]));
        let part = partial.narrow(0, i * TENSORS, some.len())?;
        with_arrays::<f64, _, 0, 1>(op, [], [&part], |_, [], [partial]| {
            with_arrays::<f32, _, TENSORS, 0>(op, padded, [], |gpu, arrays, []| {
                let blocks = (SQUARES_BLOCKS as u32, some.len() as u32);
                let grid = Grid { blocks, threads: (SQUARES_THREADS, 1), shared_bytes: 0 };
                let sizes = arrays.map(|array| Arg::Size(array.len as u64));
                let args: Vec<Arg> =
                    arrays.map(Arg::from).into_iter().chain(sizes).chain([partial.into()]).collect();
                // SAFETY: the arguments are those of the kernel; each block writes its own share.
                unsafe { gpu.launch(kernel!("adamw", "mixce_sums_of_squares"), grid, &args) }
            })
        })?;
    }
    Ok(partial)
}

impl Gpu<'_> {
    /// `sum_i x_i^2`, read back.
    pub(crate) fn sum_of_squares(&self, x: &Tensor) -> Result<f64> {
        let partial = sums_of_squares(std::slice::from_ref(x), x)?;
        Ok(partial.flatten_all()?.to_vec1::<f64>()?.iter().sum())
    }

    /// Checks the gradients of a step: see `mixce_judge_gradients` in `cuda/adamw.cu`.
    pub(crate) fn judge(
        &self,
        gradients: &[Tensor],
        max_norm: f64,
        step: u64,
        verdict: &Tensor,
    ) -> Result<()> {
        let op = "gradient norm";
        if !gradients.iter().all(|gradient| gpu_of(gradient).is_some()) {
            bail!("{op}: expected f32 gradients on one CUDA device");
        }
        let partial = sums_of_squares(gradients, verdict)?;
        with_arrays::<f64, _, 1, 1>(op, [&partial], [verdict], |gpu, [partial], [verdict]| {
            expect_len(op, "the verdict", verdict, VERDICT)?;
            let grid = Grid { blocks: (1, 1), threads: (SQUARES_THREADS, 1), shared_bytes: 0 };
            let (tensors, step) = (unsigned(op, gradients.len())?, step as f64);
            // SAFETY: the arguments are those of the kernel; the shares are 64 a tensor.
            unsafe {
                launch!(
                    gpu,
                    "adamw",
                    "mixce_judge_gradients",
                    grid,
                    partial,
                    tensors,
                    max_norm,
                    step,
                    verdict
                )
            }
        })
    }

    /// One update in place; with a verdict, its factor instead of the update's, and none when the gradients were not finite.
    pub(crate) fn adamw_step(
        &self,
        state: AdamWState<'_>,
        gradient: &Tensor,
        update: &AdamWUpdate,
        verdict: Option<&Tensor>,
    ) -> Result<()> {
        let op = "adamw";
        let apply = |verdict: Option<Array<'_, f64>>| {
            let changed = [state.parameter, state.first_moment, state.second_moment];
            with_arrays::<f32, _, 1, 3>(op, [gradient], changed, |gpu, [g], [p, m, v]| {
                for array in [p, m, v] {
                    expect_len(op, "the parameter or a moment", array, g.len)?;
                }
                let (u, grid, n) = (update, Grid::elements(g.len), g.len as u64);
                // SAFETY: the arguments are those of the kernel; the four arrays have n elements.
                unsafe {
                    launch!(
                        gpu,
                        "adamw",
                        "mixce_adamw",
                        grid,
                        p,
                        m,
                        v,
                        g,
                        n,
                        u.first_rate,
                        u.second_keep,
                        u.second_rate,
                        u.gradient_scale,
                        u.decay_factor,
                        u.step_size,
                        u.root_correction,
                        u.epsilon,
                        verdict
                    )
                }
            })
        };
        match verdict {
            Some(verdict) => with_arrays::<f64, _, 1, 0>(op, [verdict], [], |_, [verdict], []| {
                expect_len(op, "the verdict", verdict, VERDICT)?;
                apply(Some(verdict))
            }),
            None => apply(None),
        }
    }

    /// Sets every element to 0.
    pub(crate) fn clear(&self, x: &Tensor) -> Result<()> {
        with_arrays::<f32, _, 0, 1>("clear", [], [x], |gpu, [], [x]| gpu.clear_array(x))
    }

    fn clear_array(&self, x: Array<'_, f32>) -> Result<()> {
        use candle_core::cuda::WrapErr;
        use candle_core::cuda::cudarc::driver::result::memset_d8_async;
        if x.len == 0 {
            return Ok(());
        }
        let stream = self.0.cuda_stream();
        stream.context().bind_to_thread().w()?;
        // SAFETY: the elements lie inside a borrowed storage; bytes of 0 are the number 0.
        unsafe { memset_d8_async(x.address, 0, x.len * 4, stream.cu_stream()) }.w()
    }
}
