//! The fused operation of [`super::causal_attention`] in f32. On the CPU: one task per document and head.

#![expect(
    unsafe_code,
    reason = "strided matrix products write disjoint columns of one buffer from several threads"
)]

use candle_core::{CpuStorage, CudaStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor, bail};
use gemm::Parallelism;
use rayon::prelude::*;

use super::CuSeqlens;
use crate::cuda;
use crate::dropout::Dropout;
use crate::dropout::Keep;
use crate::simd::{self, vectorised};
use crate::{cpu, math};

/// Query rows handled at a time: the scores of a block (64 x T) stay in the second-level cache.
const BLOCK: usize = 64;

/// The operation with everything but its tensors.
pub(crate) struct CausalAttention {
    pub(crate) cu_seqlens: CuSeqlens,
    /// [`CuSeqlens::spans_on`] a GPU.
    pub(crate) spans: Option<Tensor>,
    pub(crate) heads: usize,
    pub(crate) scale: f32,
    pub(crate) dropout: Option<Dropout>,
}

/// A matrix inside a larger buffer: element `(i, j)` lies at `offset + i * row_stride + j`.
#[derive(Clone, Copy)]
struct View {
    offset: usize,
    row_stride: usize,
}

/// A buffer that several tasks write to in disjoint places.
#[derive(Clone, Copy)]
struct Shared {
    data: *mut f32,
    len: usize,
}

// SAFETY: tasks only touch the columns of their own head in the rows of their own document, which no other task touches.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

/// `dst[m, n] = (accumulate ? dst : 0) + alpha * lhs[m, k] rhs[k, n]`; strides are `(column, row)`.
///
/// # Safety
/// All three matrices must lie inside their allocations and `dst` must not be accessed by anyone else meanwhile.
#[expect(clippy::too_many_arguments, reason = "a matrix product has three matrices with strides")]
unsafe fn matmul(
    (m, n, k): (usize, usize, usize),
    dst: *mut f32,
    dst_strides: (usize, usize),
    accumulate: bool,
    lhs: *const f32,
    lhs_strides: (usize, usize),
    rhs: *const f32,
    rhs_strides: (usize, usize),
    alpha: f32,
) {
    // SAFETY: passed on to the caller.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            dst,
            dst_strides.0 as isize,
            dst_strides.1 as isize,
            accumulate,
            lhs,
            lhs_strides.0 as isize,
            lhs_strides.1 as isize,
            rhs,
            rhs_strides.0 as isize,
            rhs_strides.1 as isize,
            1.0,
            alpha,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

/// One document and head of the problem.
struct Task<'a> {
    op: &'a CausalAttention,
    qkv: &'a [f32],
    start: usize,
    t: usize,
    head: usize,
    d: usize,
    c: usize,
}

impl Task<'_> {
    /// The matrix `[T, D]` of queries (0), keys (1) or values (2) in a `[N, 3 C]` buffer.
    fn part(&self, part: usize) -> View {
        let row_stride = 3 * self.c;
        View { offset: self.start * row_stride + part * self.c + self.head * self.d, row_stride }
    }

    /// The matrix `[T, D]` of this head in a `[N, C]` buffer.
    fn output(&self) -> View {
        View { offset: self.start * self.c + self.head * self.d, row_stride: self.c }
    }

    fn at(&self, part: usize, row: usize) -> *const f32 {
        let view = self.part(part);
        self.qkv[view.offset + row * view.row_stride..].as_ptr()
    }

    /// Softmax probabilities (before dropout) of query rows `i0..i0 + rows` over keys `0..i0 + rows`, into `probs` with row
    /// stride `keys`; entries above the diagonal are 0.
    fn probabilities(&self, i0: usize, rows: usize, probs: &mut [f32]) {
        let keys = i0 + rows;
        let stride = 3 * self.c;
        assert!(probs.len() >= rows * keys);
        // SAFETY: `at` checks the offset of the first row; rows i0..i0+rows and 0..keys lie inside the document, whose
        // rows lie inside `qkv` (checked against the offsets before the kernel is built); probs was checked above.
        unsafe {
            matmul(
                (rows, keys, self.d),
                probs.as_mut_ptr(),
                (1, keys),
                false,
                self.at(0, i0),
                (1, stride),
                self.at(1, 0),
                (stride, 1),
                self.op.scale,
            );
        }
        vectorised(|| {
            for (i, row) in probs.chunks_mut(keys).take(rows).enumerate() {
                let (seen, future) = row.split_at_mut(i0 + i + 1);
                let max = simd::max(seen);
                seen.iter_mut().for_each(|s| *s = math::exp(*s - max));
                let scale = 1.0 / simd::sum(seen, |s| s);
                seen.iter_mut().for_each(|s| *s *= scale);
                future.fill(0.0);
            }
        });
    }

    /// The dropout factors of a `[rows, keys]` block, 0 above the diagonal; nothing is written without dropout.
    fn factors(&self, i0: usize, keys: usize, rows: usize, factors: &mut [f32]) {
        let Some(Dropout { p, stream }) = self.op.dropout else { return };
        let (keep, stream) = (Keep::new(p), stream.fold(self.head as u64));
        vectorised(|| {
            for (i, row) in factors.chunks_mut(keys).take(rows).enumerate() {
                let (seen, future) = row.split_at_mut(i0 + i + 1);
                keep.factors(seen, &stream, ((self.start + i0 + i) as u64) << 32);
                future.fill(0.0);
            }
        });
    }

    /// Multiplies a block by its dropout factors, if there is a dropout.
    fn drop(&self, block: &mut [f32], factors: &[f32]) {
        if self.op.dropout.is_some() {
            vectorised(|| block.iter_mut().zip(factors).for_each(|(x, factor)| *x *= factor));
        }
    }

    /// Room for the dropout factors of a block, if there is a dropout.
    fn factors_buffer(&self) -> Vec<f32> {
        let size = if self.op.dropout.is_some() { BLOCK.min(self.t) * self.t } else { 0 };
        vec![0f32; size]
    }

    fn blocks(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let t = self.t;
        (0..t).step_by(BLOCK).map(move |i0| (i0, BLOCK.min(t - i0)))
    }

    fn forward(&self, out: Shared) {
        let (mut probs, mut factors) = (vec![0f32; BLOCK.min(self.t) * self.t], self.factors_buffer());
        let (stride, view) = (3 * self.c, self.output());
        for (i0, rows) in self.blocks() {
            let keys = i0 + rows;
            self.probabilities(i0, rows, &mut probs);
            self.factors(i0, keys, rows, &mut factors);
            self.drop(&mut probs[..rows * keys], &factors);
            assert!(view.offset + (i0 + rows - 1) * view.row_stride + self.d <= out.len);
            // SAFETY: the destination rows are inside `out` (just checked) and belong to this task alone; the value rows
            // 0..keys lie inside the document.
            unsafe {
                matmul(
                    (rows, self.d, keys),
                    out.data.add(view.offset + i0 * view.row_stride),
                    (1, view.row_stride),
                    false,
                    probs.as_ptr(),
                    (1, keys),
                    self.at(2, 0),
                    (1, stride),
                    1.0,
                );
            }
        }
    }

    /// Adds this head's gradient to the zeroed `dqkv`. With `P` the probabilities, `M` the dropout factors and `g = dO V^T * M`:
    /// `dV = (P M)^T dO`, `dS = P (g - rowsum(P g))`, `dQ = scale dS K`, `dK = scale dS^T Q`.
    fn backward(&self, dout: &[f32], dqkv: Shared) {
        let size = BLOCK.min(self.t) * self.t;
        let (mut probs, mut dropped, mut dscores) = (vec![0f32; size], vec![0f32; size], vec![0f32; size]);
        let mut factors = self.factors_buffer();
        for (i0, rows) in self.blocks() {
            let keys = i0 + rows;
            self.probabilities(i0, rows, &mut probs);
            self.factors(i0, keys, rows, &mut factors);
            dropped[..rows * keys].copy_from_slice(&probs[..rows * keys]);
            self.drop(&mut dropped[..rows * keys], &factors);
            self.values_backward((i0, rows), dout, &dropped, &mut dscores, dqkv);
            self.drop(&mut dscores[..rows * keys], &factors);
            vectorised(|| {
                for (p, g) in probs.chunks(keys).zip(dscores.chunks_mut(keys)).take(rows) {
                    let mean = simd::dot(p, g);
                    g.iter_mut().zip(p).for_each(|(g, p)| *g = p * (*g - mean));
                }
            });
            self.scores_backward((i0, rows), &dscores, dqkv);
        }
    }

    /// Where row `row` of the gradient of queries (0), keys (1) or values (2) lies.
    fn gradient_row(&self, dqkv: Shared, part: usize, row: usize) -> *mut f32 {
        let offset = self.part(part).offset + row * 3 * self.c;
        assert!(row < self.t && offset + self.d <= dqkv.len);
        // SAFETY: the row lies inside `dqkv`, as was just checked.
        unsafe { dqkv.data.add(offset) }
    }

    /// For a block of query rows: `dV += (P M)^T dO`, and `dO V^T` into `dprobs`.
    fn values_backward(
        &self,
        (i0, rows): (usize, usize),
        dout: &[f32],
        dropped: &[f32],
        dprobs: &mut [f32],
        dqkv: Shared,
    ) {
        let (keys, stride, view) = (i0 + rows, 3 * self.c, self.output());
        assert!(dropped.len() >= rows * keys && dprobs.len() >= rows * keys);
        assert!(view.offset + (keys - 1) * view.row_stride + self.d <= dout.len());
        let dout_rows = dout[view.offset + i0 * view.row_stride..].as_ptr();
        self.gradient_row(dqkv, 2, keys - 1);
        // SAFETY: rows i0..i0+rows of dout and 0..keys of v and dv lie inside their buffers (checked above for the last rows);
        // this task alone touches its head's columns of dqkv; the two blocks hold rows * keys elements.
        unsafe {
            matmul(
                (keys, self.d, rows),
                self.gradient_row(dqkv, 2, 0),
                (1, stride),
                true,
                dropped.as_ptr(),
                (keys, 1),
                dout_rows,
                (1, view.row_stride),
                1.0,
            );
            matmul(
                (rows, keys, self.d),
                dprobs.as_mut_ptr(),
                (1, keys),
                false,
                dout_rows,
                (1, view.row_stride),
                self.at(2, 0),
                (stride, 1),
                1.0,
            );
        }
    }

    /// For a block of query rows: `dQ = scale dS K` and `dK += scale dS^T Q`.
    fn scores_backward(&self, (i0, rows): (usize, usize), dscores: &[f32], dqkv: Shared) {
        let (keys, stride) = (i0 + rows, 3 * self.c);
        assert!(dscores.len() >= rows * keys);
        self.gradient_row(dqkv, 0, keys - 1);
        self.gradient_row(dqkv, 1, keys - 1);
        // SAFETY: rows i0..i0+rows of q and dq and 0..keys of k and dk lie inside their buffers (checked above for the last
        // rows); this task alone touches its head's columns of dqkv; the block holds rows * keys elements.
        unsafe {
            matmul(
                (rows, self.d, keys),
                self.gradient_row(dqkv, 0, i0),
                (1, stride),
                false,
                dscores.as_ptr(),
                (1, keys),
                self.at(1, 0),
                (1, stride),
                self.op.scale,
            );
            matmul(
                (keys, self.d, rows),
                self.gradient_row(dqkv, 1, 0),
                (1, stride),
                true,
                dscores.as_ptr(),
                (keys, 1),
                self.at(0, i0),
                (1, stride),
                self.op.scale,
            );
        }
    }
}

impl CausalAttention {
    fn spans(&self) -> Result<&Tensor> {
        match &self.spans {
            Some(spans) => Ok(spans),
            None => bail!("causal_attention: expected the device that the operation was made for, got CUDA"),
        }
    }

    /// The gradient of `qkv`.
    pub(super) fn gradient(&self, qkv: &Tensor, dout: &Tensor) -> Result<Tensor> {
        qkv.apply_op2_no_bwd(&dout.contiguous()?, &Backward(self))
    }

    fn tasks<'a>(&'a self, qkv: &'a [f32], c: usize) -> Vec<Task<'a>> {
        let spans = self.cu_seqlens.spans().filter(|(_, t)| *t > 0);
        spans
            .flat_map(|(start, t)| (0..self.heads).map(move |head| (start, t, head)))
            .map(|(start, t, head)| Task { op: self, qkv, start, t, head, d: c / self.heads, c })
            .collect()
    }

    /// Runs the tasks in parallel on a fresh zeroed buffer of `len` elements.
    fn run(&self, qkv: &[f32], c: usize, len: usize, f: impl Fn(&Task<'_>, Shared) + Sync) -> Vec<f32> {
        let mut buffer = vec![0f32; len];
        let shared = Shared { data: buffer.as_mut_ptr(), len };
        self.tasks(qkv, c).into_par_iter().for_each(|task| f(&task, shared));
        buffer
    }
}

impl CustomOp1 for CausalAttention {
    fn name(&self) -> &'static str {
        "causal_attention"
    }

    fn cpu_fwd(&self, qkv: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let qkv = cpu::slice(self.name(), qkv, layout)?;
        let (n, c3) = layout.shape().dims2()?;
        let c = c3 / 3;
        let out = self.run(qkv, c, n * c, |task, out| task.forward(out));
        Ok((CpuStorage::F32(out), (n, c).into()))
    }

    fn cuda_fwd(&self, qkv: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        cuda::causal_attention(self, self.spans()?, (qkv, layout))
    }

    fn bwd(&self, qkv: &Tensor, _out: &Tensor, dout: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(self.gradient(qkv, dout)?))
    }
}

struct Backward<'a>(&'a CausalAttention);

impl CustomOp2 for Backward<'_> {
    fn name(&self) -> &'static str {
        "causal_attention backward"
    }

    fn cpu_fwd(
        &self,
        qkv: &CpuStorage,
        qkv_layout: &Layout,
        dout: &CpuStorage,
        dout_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let qkv = cpu::slice(self.name(), qkv, qkv_layout)?;
        let dout = cpu::slice(self.name(), dout, dout_layout)?;
        let (_, c3) = qkv_layout.shape().dims2()?;
        let dqkv = self.0.run(qkv, c3 / 3, qkv.len(), |task, dqkv| task.backward(dout, dqkv));
        Ok((CpuStorage::F32(dqkv), qkv_layout.shape().clone()))
    }

    fn cuda_fwd(
        &self,
        qkv: &CudaStorage,
        qkv_layout: &Layout,
        dout: &CudaStorage,
        dout_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        cuda::causal_attention_backward(self.0, self.0.spans()?, (qkv, qkv_layout), (dout, dout_layout))
    }
}
