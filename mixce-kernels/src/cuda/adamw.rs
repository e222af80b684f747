//! The AdamW update, the gradient norm for clipping, and clearing: each of many tensors in a launch.

use candle_core::cuda::cudarc::driver::DeviceRepr;
use candle_core::{DType, Result, Tensor, bail};
use half::bf16;

use super::{
    Arg, Array, Gpu, Grid, THREADS, expect_len, kernel, launch, uninitialised, unsigned, with_arrays,
    with_list,
};
use crate::adamw::{AdamWParameter, AdamWUpdate};
use crate::device::gpu_of;
use crate::guard::VERDICT;
use crate::parameter::Rounded;

/// Tensors of a launch and the most arrays of each, as in `cuda/adamw.cu`.
const TENSORS: usize = 64;
const ARRAYS: usize = 4;

/// Shares of the sum of squares of a tensor, and the threads that add them up, as in `cuda/adamw.cu`.
const SQUARES_BLOCKS: usize = 128;
const JUDGES: u32 = 1024;

/// Elements of a block, of tensors that have more.
const ELEMENTS_OF_A_BLOCK: usize = 8192;

/// `Tensors` of `cuda/adamw.cu`.
#[repr(C)]
struct Tensors {
    arrays: [[u64; TENSORS]; ARRAYS],
    rounded: [u64; TENSORS],
    sizes: [u64; TENSORS],
    decay_factors: [f32; TENSORS],
    first_block: [u32; TENSORS + 1],
}

// SAFETY: numbers in the layout of C, which is the kernels' own; the padding at the end is not read.
unsafe impl DeviceRepr for Tensors {}

impl Tensors {
    /// Up to `TENSORS` tensors, each with its arrays, of one length; none has more blocks than `most`.
    fn new<'a>(
        op: &'static str,
        tensors: impl Iterator<Item = &'a [Array<'a, f32>]>,
        most: usize,
    ) -> Result<Self> {
        let mut table = Self {
            arrays: [[0; TENSORS]; ARRAYS],
            rounded: [0; TENSORS],
            sizes: [0; TENSORS],
            decay_factors: [1.0; TENSORS],
            first_block: [0; TENSORS + 1],
        };
        let mut end = 0;
        for (i, arrays) in tensors.enumerate() {
            let Some(first) = arrays.first() else { bail!("{op}: expected an array for each tensor") };
            for (slot, array) in table.arrays.iter_mut().zip(arrays) {
                expect_len(op, "every array of a tensor", *array, first.len)?;
                slot[i] = array.address;
            }
            table.sizes[i] = first.len as u64;
            end += unsigned(op, first.len.div_ceil(ELEMENTS_OF_A_BLOCK).clamp(1, most))?;
            table.first_block[i + 1..].fill(end);
        }
        Ok(table)
    }

    fn grid(&self) -> Grid {
        Grid { blocks: (self.first_block[TENSORS], 1), threads: (THREADS, 1), shared_bytes: 0 }
    }
}

/// [`SQUARES_BLOCKS`] shares of `sum_i x_i^2` for each tensor: `[tensors, SQUARES_BLOCKS]`.
fn shares_of_squares(tensors: &[&Tensor], like: &Tensor) -> Result<Tensor> {
    let op = "sum of squares";
    let partial = uninitialised((tensors.len(), SQUARES_BLOCKS), DType::F64, like)?;
    for (i, some) in tensors.chunks(TENSORS).enumerate() {
        let part = partial.narrow(0, i * TENSORS, some.len())?;
        with_arrays::<f64, _, 0, 1>(op, [], [&part], |_, [], [partial]| {
            with_list::<f32, _>(op, some, &[], |gpu, arrays| {
                let tensors = Tensors::new(op, arrays.chunks(1), SQUARES_BLOCKS)?;
                let kernel = kernel!("adamw", "mixce_sums_of_squares");
                // SAFETY: the arguments are those of the kernel; each block writes shares of its own.
                unsafe { gpu.launch_for(kernel, tensors.grid(), &tensors, &[partial.into()]) }
            })
        })?;
    }
    Ok(partial)
}

impl Gpu<'_> {
    /// `sum_i x_i^2` of each tensor, read back.
    pub(crate) fn sums_of_squares(&self, tensors: &[&Tensor]) -> Result<Vec<f64>> {
        let Some(like) = tensors.first() else { return Ok(Vec::new()) };
        let shares = shares_of_squares(tensors, like)?.to_vec2::<f64>()?;
        Ok(shares.iter().map(|shares| shares.iter().sum()).collect())
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
        let partial = shares_of_squares(&gradients.iter().collect::<Vec<_>>(), verdict)?;
        with_arrays::<f64, _, 1, 1>(op, [&partial], [verdict], |gpu, [partial], [verdict]| {
            expect_len(op, "the verdict", verdict, VERDICT)?;
            let grid = Grid { blocks: (1, 1), threads: (JUDGES, 1), shared_bytes: 0 };
            let (tensors, step) = (unsigned(op, gradients.len())?, step as f64);
            // SAFETY: the arguments are those of the kernel; every tensor has its shares.
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
        parameters: &[AdamWParameter<'_>],
        update: &AdamWUpdate,
        verdict: Option<&Tensor>,
    ) -> Result<()> {
        let op = "adamw";
        let result = match verdict {
            None => parameters.chunks(TENSORS).try_for_each(|some| apply(some, update, None)),
            Some(verdict) => with_arrays::<f64, _, 1, 0>(op, [verdict], [], |_, [verdict], []| {
                expect_len(op, "the verdict", verdict, VERDICT)?;
                parameters.chunks(TENSORS).try_for_each(|some| apply(some, update, Some(verdict)))
            }),
        };
        if result.is_err() {
            parameters.iter().filter_map(|parameter| parameter.rounded).for_each(Rounded::invalidate);
        }
        result
    }

    /// Sets every element of these tensors to 0.
    pub(crate) fn clear(&self, tensors: &[&Tensor]) -> Result<()> {
        let op = "clear";
        tensors.chunks(TENSORS).try_for_each(|some| {
            with_list::<f32, _>(op, &[], some, |gpu, arrays| {
                let tensors = Tensors::new(op, arrays.chunks(1), usize::MAX)?;
                // SAFETY: the argument is that of the kernel, which stays inside the tensors.
                unsafe { gpu.launch_for(kernel!("adamw", "mixce_clear"), tensors.grid(), &tensors, &[]) }
            })
        })
    }
}

/// The copies that an update writes with their parameters; those of which it changes a part become outdated.
fn written_copies(parameters: &[AdamWParameter<'_>]) -> Vec<Option<Tensor>> {
    let copy = |of: &AdamWParameter<'_>| {
        let copy = of.rounded?.current();
        let whole = copy.filter(|copy| copy.elem_count() == of.parameter.elem_count());
        if whole.is_none() {
            of.rounded?.invalidate();
        }
        whole
    };
    parameters.iter().map(copy).collect()
}

/// Notes the addresses of the copies, as long as `f` runs.
fn with_copies(
    op: &'static str,
    copies: &[Option<Tensor>],
    slots: &mut [u64; TENSORS],
    f: impl FnOnce(&[u64; TENSORS]) -> Result<()>,
) -> Result<()> {
    let present: Vec<&Tensor> = copies.iter().flatten().collect();
    if present.is_empty() {
        return f(slots);
    }
    with_list::<bf16, _>(op, &[], &present, |_, arrays| {
        let places = slots.iter_mut().zip(copies).filter(|(_, copy)| copy.is_some());
        places.zip(arrays).for_each(|((slot, _), array)| *slot = array.address);
        f(slots)
    })
}

/// The update of up to `TENSORS` parameters.
fn apply(parameters: &[AdamWParameter<'_>], u: &AdamWUpdate, verdict: Option<Array<'_, f64>>) -> Result<()> {
    let op = "adamw";
    let gradients: Vec<&Tensor> = parameters.iter().map(|parameter| parameter.gradient).collect();
    let changed = parameters.iter().flat_map(|p| [p.parameter, p.first_moment, p.second_moment]);
    let changed: Vec<&Tensor> = changed.collect();
    with_list::<f32, _>(op, &gradients, &changed, |gpu, arrays| {
        let (gradients, changed) = arrays.split_at(parameters.len());
        let arrays: Vec<[Array<'_, f32>; ARRAYS]> = changed
            .chunks_exact(3)
            .zip(gradients)
            .map(|(p, gradient)| [p[0], p[1], p[2], *gradient])
            .collect();
        let mut tensors = Tensors::new(op, arrays.iter().map(|arrays| &arrays[..]), usize::MAX)?;
        for (slot, parameter) in tensors.decay_factors.iter_mut().zip(parameters) {
            *slot = parameter.decay_factor;
        }
        let rates = [u.first_rate, u.second_keep, u.second_rate, u.gradient_scale];
        let rates = rates.into_iter().chain([u.step_size, u.root_correction, u.epsilon]);
        let args: Vec<Arg> = rates.map(Arg::from).chain([verdict.into()]).collect();
        let copies = written_copies(parameters);
        with_copies(op, &copies, &mut [0; TENSORS], |addresses| {
            tensors.rounded = *addresses;
            // SAFETY: the arguments are those of the kernel, which stays inside the tensors; a copy has the size of its parameter.
            unsafe { gpu.launch_for(kernel!("adamw", "mixce_adamw"), tensors.grid(), &tensors, &args) }
        })
    })
}
