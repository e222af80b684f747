//! Attention of one head of queries in one document: blocks of scores, and the matrix products around them.
//!
//! Legend: T tokens of the document, D head size.

#![expect(
    unsafe_code,
    reason = "strided matrix products write disjoint columns of one buffer from several threads"
)]

use gemm::Parallelism;

use super::CausalAttention;
use crate::dropout::{Dropout, Keep};
use crate::math;
use crate::simd::{self, vectorised};

/// Query rows handled at a time: the scores of a block (64 x T) stay in the second-level cache.
const BLOCK: usize = 64;

/// A buffer that several tasks write to in disjoint places.
#[derive(Clone, Copy)]
pub(super) struct Shared {
    data: *mut f32,
    len: usize,
}

impl Shared {
    /// Whoever holds a copy may write to `buffer` until it is accessed by another way.
    pub(super) fn new(buffer: &mut [f32]) -> Self {
        Self { data: buffer.as_mut_ptr(), len: buffer.len() }
    }
}

// SAFETY: a task of the forward pass only touches the columns of its own head of queries, one of the backward pass those of its own head of
// keys and values and of the heads of queries that read it, in the rows of its own document; no other task touches these.
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

/// What a row of `qkv` holds.
#[derive(Clone, Copy)]
enum Part {
    Queries,
    Keys,
    Values,
}

/// Query rows `first_query..first_query + rows` of a document and the keys that any of them sees, `first_key..first_key + keys`.
#[derive(Clone, Copy)]
struct Block {
    first_query: usize,
    rows: usize,
    first_key: usize,
    keys: usize,
}

impl Block {
    /// Elements of its scores, a matrix `[rows, keys]`.
    fn size(self) -> usize {
        self.rows * self.keys
    }

    fn last_query(self) -> usize {
        self.first_query + self.rows - 1
    }
}

/// One document and head of queries of the problem.
#[derive(Clone, Copy)]
pub(super) struct Task<'a> {
    pub(super) op: &'a CausalAttention,
    pub(super) qkv: &'a [f32],
    /// Where the document begins in `qkv`, and its length.
    pub(super) span: (usize, usize),
    pub(super) head: usize,
    /// `D`.
    pub(super) d: usize,
}

impl Task<'_> {
    /// Elements of a row of `qkv`.
    fn qkv_stride(&self) -> usize {
        (self.op.heads.count + 2 * self.op.heads.kv) * self.d
    }

    /// Elements of a row of the result.
    fn out_stride(&self) -> usize {
        self.op.heads.count * self.d
    }

    /// Where this head's queries, or the keys or values that they read, begin in row `row` of the document in a buffer like `qkv`.
    fn offset(&self, part: Part, row: usize) -> usize {
        let heads = self.op.heads;
        let kv_head = self.head / heads.group();
        let column = match part {
            Part::Queries => self.head,
            Part::Keys => heads.count + kv_head,
            Part::Values => heads.count + heads.kv + kv_head,
        };
        (self.span.0 + row) * self.qkv_stride() + column * self.d
    }

    fn at(&self, part: Part, row: usize) -> *const f32 {
        self.qkv[self.offset(part, row)..].as_ptr()
    }

    /// Where this head begins in row `row` of the document in a buffer like the result.
    fn out_offset(&self, row: usize) -> usize {
        (self.span.0 + row) * self.out_stride() + self.head * self.d
    }

    /// The blocks of the document: keys outside of the window of all queries of a block are not part of it.
    fn blocks(&self) -> impl Iterator<Item = Block> + use<> {
        let ((_, t), heads) = (self.span, self.op.heads);
        (0..t).step_by(BLOCK).map(move |first_query| {
            let (rows, first_key) = (BLOCK.min(t - first_query), heads.first_key(first_query));
            Block { first_query, rows, first_key, keys: first_query + rows - first_key }
        })
    }

    /// Room for the scores of any block.
    fn buffer(&self) -> Vec<f32> {
        let (_, t) = self.span;
        let rows = BLOCK.min(t);
        let keys = self.op.heads.window.map_or(t, |window| t.min(window.saturating_add(rows - 1)));
        vec![0f32; rows * keys]
    }

    /// Room for the dropout factors of any block, if there is a dropout.
    fn factors_buffer(&self) -> Vec<f32> {
        if self.op.dropout.is_some() { self.buffer() } else { Vec::new() }
    }

    /// Row `i` of a block's matrix: the keys before the window, those that the query sees, those after it.
    #[inline(always)]
    fn split<'b>(&self, block: Block, i: usize, row: &'b mut [f32]) -> [&'b mut [f32]; 3] {
        let query = block.first_query + i;
        let (seen, future) = row.split_at_mut(query + 1 - block.first_key);
        let (past, seen) = seen.split_at_mut(self.op.heads.first_key(query) - block.first_key);
        [past, seen, future]
    }

    /// Softmax probabilities (before dropout) of a block into `probs`; entries of keys that a query does not see are 0.
    fn probabilities(&self, block: Block, probs: &mut [f32]) {
        let stride = self.qkv_stride();
        assert!(probs.len() >= block.size());
        // SAFETY: `at` checks the offsets of the first rows; the rows of the block's queries and keys lie inside the document, whose
        // rows lie inside `qkv` (checked against the offsets before the kernel is built); probs was checked above.
        unsafe {
            matmul(
                (block.rows, block.keys, self.d),
                probs.as_mut_ptr(),
                (1, block.keys),
                false,
                self.at(Part::Queries, block.first_query),
                (1, stride),
                self.at(Part::Keys, block.first_key),
                (stride, 1),
                self.op.heads.scale as f32,
            );
        }
        vectorised(|| {
            for (i, row) in probs.chunks_mut(block.keys).take(block.rows).enumerate() {
                let [past, seen, future] = self.split(block, i, row);
                let max = simd::max(seen);
                seen.iter_mut().for_each(|s| *s = math::exp(*s - max));
                let scale = 1.0 / simd::sum(seen, |s| s);
                seen.iter_mut().for_each(|s| *s *= scale);
                past.fill(0.0);
                future.fill(0.0);
            }
        });
    }

    /// The dropout factors of a block, 0 for keys that a query does not see; nothing is written without dropout.
    fn factors(&self, block: Block, factors: &mut [f32]) {
        let Some(Dropout { p, stream, first_row }) = self.op.dropout() else { return };
        let (keep, stream) = (Keep::new(p), stream.fold(self.head as u64));
        vectorised(|| {
            for (i, row) in factors.chunks_mut(block.keys).take(block.rows).enumerate() {
                let query = block.first_query + i;
                let of_batch = (first_row + self.span.0 + query) as u64;
                let word = (of_batch << 32) + self.op.heads.first_key(query) as u64;
                let [past, seen, future] = self.split(block, i, row);
                keep.factors(seen, &stream, word);
                past.fill(0.0);
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

    /// Writes this head's columns of the result `out`.
    pub(super) fn forward(&self, out: Shared) {
        let (mut probs, mut factors) = (self.buffer(), self.factors_buffer());
        for block in self.blocks() {
            self.probabilities(block, &mut probs);
            self.factors(block, &mut factors);
            self.drop(&mut probs[..block.size()], &factors);
            assert!(self.out_offset(block.last_query()) + self.d <= out.len);
            // SAFETY: the destination rows are inside `out` (just checked) and belong to this task alone; the rows of the block's
            // values lie inside the document.
            unsafe {
                matmul(
                    (block.rows, self.d, block.keys),
                    out.data.add(self.out_offset(block.first_query)),
                    (1, self.out_stride()),
                    false,
                    probs.as_ptr(),
                    (1, block.keys),
                    self.at(Part::Values, block.first_key),
                    (1, self.qkv_stride()),
                    1.0,
                );
            }
        }
    }

    /// Adds the gradient of this head, and of the keys and values that it reads, to `dqkv`, which is zero where no other head has added
    /// its own. With `P` the probabilities, `M` the dropout factors and `g = dO V^T * M`:
    /// `dV = (P M)^T dO`, `dS = P (g - rowsum(P g))`, `dQ = scale dS K`, `dK = scale dS^T Q`.
    pub(super) fn backward(&self, dout: &[f32], dqkv: Shared) {
        let (mut probs, mut dropped, mut dscores) = (self.buffer(), self.buffer(), self.buffer());
        let mut factors = self.factors_buffer();
        for block in self.blocks() {
            let (keys, size) = (block.keys, block.size());
            self.probabilities(block, &mut probs);
            self.factors(block, &mut factors);
            dropped[..size].copy_from_slice(&probs[..size]);
            self.drop(&mut dropped[..size], &factors);
            self.values_backward(block, dout, &dropped, &mut dscores, dqkv);
            self.drop(&mut dscores[..size], &factors);
            vectorised(|| {
                for (p, g) in probs.chunks(keys).zip(dscores.chunks_mut(keys)).take(block.rows) {
                    let mean = simd::dot(p, g);
                    g.iter_mut().zip(p).for_each(|(g, p)| *g = p * (*g - mean));
                }
            });
            self.scores_backward(block, &dscores, dqkv);
        }
    }

    /// Where a row of a gradient lies.
    fn gradient_row(&self, dqkv: Shared, part: Part, row: usize) -> *mut f32 {
        let offset = self.offset(part, row);
        assert!(row < self.span.1 && offset + self.d <= dqkv.len);
        // SAFETY: the row lies inside `dqkv`, as was just checked.
        unsafe { dqkv.data.add(offset) }
    }

    /// For a block: `dV += (P M)^T dO`, and `dO V^T` into `dprobs`.
    fn values_backward(&self, block: Block, dout: &[f32], dropped: &[f32], dprobs: &mut [f32], dqkv: Shared) {
        let Block { rows, keys, .. } = block;
        let (stride, out_stride) = (self.qkv_stride(), self.out_stride());
        assert!(dropped.len() >= block.size() && dprobs.len() >= block.size());
        assert!(self.out_offset(block.last_query()) + self.d <= dout.len());
        let dout_rows = dout[self.out_offset(block.first_query)..].as_ptr();
        self.gradient_row(dqkv, Part::Values, block.last_query());
        // SAFETY: the rows of the block's queries in dout and of its keys in v and dv, of which the last is that of its last query, lie
        // inside their buffers (checked above for the last rows); this task alone touches its columns of dqkv; the two blocks hold
        // rows * keys elements.
        unsafe {
            matmul(
                (keys, self.d, rows),
                self.gradient_row(dqkv, Part::Values, block.first_key),
                (1, stride),
                true,
                dropped.as_ptr(),
                (keys, 1),
                dout_rows,
                (1, out_stride),
                1.0,
            );
            matmul(
                (rows, keys, self.d),
                dprobs.as_mut_ptr(),
                (1, keys),
                false,
                dout_rows,
                (1, out_stride),
                self.at(Part::Values, block.first_key),
                (stride, 1),
                1.0,
            );
        }
    }

    /// For a block: `dQ = scale dS K` and `dK += scale dS^T Q`.
    fn scores_backward(&self, block: Block, dscores: &[f32], dqkv: Shared) {
        let Block { rows, keys, .. } = block;
        let (stride, scale) = (self.qkv_stride(), self.op.heads.scale as f32);
        assert!(dscores.len() >= block.size());
        self.gradient_row(dqkv, Part::Queries, block.last_query());
        self.gradient_row(dqkv, Part::Keys, block.last_query());
        // SAFETY: the rows of the block's queries in q and dq and of its keys in k and dk, of which the last is that of its last query,
        // lie inside their buffers (checked above for the last rows); this task alone touches its columns of dqkv; the block holds
        // rows * keys elements.
        unsafe {
            matmul(
                (rows, self.d, keys),
                self.gradient_row(dqkv, Part::Queries, block.first_query),
                (1, stride),
                false,
                dscores.as_ptr(),
                (1, keys),
                self.at(Part::Keys, block.first_key),
                (1, stride),
                scale,
            );
            matmul(
                (keys, self.d, rows),
                self.gradient_row(dqkv, Part::Keys, block.first_key),
                (1, stride),
                true,
                dscores.as_ptr(),
                (keys, 1),
                self.at(Part::Queries, block.first_query),
                (1, stride),
                scale,
            );
        }
    }
}
