//! The fused passes of [`super::HeadTransform`] in f32 on the CPU.

use rayon::prelude::*;

use crate::Heads;
use crate::cpu::ROWS_PER_TASK;
use crate::simd::{self, vectorised};

/// [`HeadNorm`] of one head in the fused passes.
pub(super) struct NormRow {
    pub(super) weight: Vec<f32>,
    pub(super) epsilon: f32,
}

impl NormRow {
    #[inline(always)]
    fn reciprocal_rms(&self, x: &[f32]) -> f32 {
        1.0 / (simd::dot(x, x) / x.len() as f32 + self.epsilon).sqrt()
    }

    #[inline(always)]
    fn forward(&self, x: &mut [f32]) {
        let r = self.reciprocal_rms(x);
        x.iter_mut().zip(&self.weight).for_each(|(x, weight)| *x *= r * weight);
    }

    /// Turns the gradient `dy` of the result into that of the input `x`, and adds that of the weight to `dweight`. With `r` the reciprocal
    /// of the root mean square and `g = dy * weight`: `dx = r (g - x r^2 mean(g x))`, `dweight += dy x r`.
    #[inline(always)]
    fn backward(&self, x: &[f32], dy: &mut [f32], dweight: &mut [f32]) {
        let r = self.reciprocal_rms(x);
        for i in 0..x.len() {
            dweight[i] += dy[i] * x[i] * r;
            dy[i] *= self.weight[i];
        }
        let mean = simd::dot(dy, x) / x.len() as f32;
        dy.iter_mut().zip(x).for_each(|(g, x)| *g = r * (*g - x * r * r * mean));
    }
}

/// What the fused passes read beside the rows.
pub(super) struct Pass<'a> {
    pub(super) heads: Heads,
    pub(super) d: usize,
    /// Of a row.
    pub(super) channels: usize,
    pub(super) cos: &'a [f32],
    pub(super) sin: &'a [f32],
    /// Of the queries and of the keys.
    pub(super) norms: [Option<NormRow>; 2],
}

impl Pass<'_> {
    /// Whether a head is one of queries (0) or of keys (1).
    #[inline(always)]
    fn part(&self, head: usize) -> usize {
        usize::from(head >= self.heads.count)
    }

    /// The queries and keys of a row.
    #[inline(always)]
    fn rotated<'b>(&self, row: &'b mut [f32]) -> &'b mut [f32] {
        &mut row[..(self.heads.count + self.heads.kv) * self.d]
    }

    /// `cos` and `sin` at a position.
    #[inline(always)]
    fn angles(&self, position: u32) -> [&[f32]; 2] {
        let half = self.d / 2;
        [self.cos, self.sin].map(|table| &table[position as usize * half..][..half])
    }

    /// The forward pass of all rows on all threads, from `qkv` into `out`.
    pub(super) fn forward(&self, positions: &[u32], qkv: &[f32], out: &mut [f32]) {
        let block = ROWS_PER_TASK * self.channels;
        let blocks = out.par_chunks_mut(block).zip(qkv.par_chunks(block));
        blocks.zip(positions.par_chunks(ROWS_PER_TASK)).for_each(|((out, qkv), positions)| {
            out.copy_from_slice(qkv);
            vectorised(|| {
                for (row, position) in out.chunks_mut(self.channels).zip(positions) {
                    self.forward_row(row, *position);
                }
            });
        });
    }

    #[inline(always)]
    fn forward_row(&self, row: &mut [f32], position: u32) {
        let [cos, sin] = self.angles(position);
        for (head, x) in self.rotated(row).chunks_mut(self.d).enumerate() {
            if let Some(norm) = &self.norms[self.part(head)] {
                norm.forward(x);
            }
            for_pairs(x, cos, sin, |x1, x2, cos, sin| (x1 * cos - x2 * sin, x2 * cos + x1 * sin));
        }
    }

    /// The backward pass of all rows on all threads; returns the sums `[2 D]` for the weights of both norms.
    pub(super) fn backward(&self, positions: &[u32], qkv: Option<&[f32]>, dqkv: &mut [f32]) -> Vec<f32> {
        let channels = self.channels;
        let block = ROWS_PER_TASK * channels;
        let blocks = dqkv.par_chunks_mut(block).zip(positions.par_chunks(ROWS_PER_TASK)).enumerate();
        let partial: Vec<Vec<f32>> = blocks
            .map(|(index, (dqkv, positions))| {
                let mut sums = vec![0f32; 2 * self.d];
                vectorised(|| {
                    for (i, (dy, position)) in dqkv.chunks_mut(channels).zip(positions).enumerate() {
                        let x = qkv.map(|qkv| &qkv[index * block + i * channels..][..channels]);
                        self.backward_row(x, dy, *position, &mut sums);
                    }
                });
                sums
            })
            .collect();
        // In the order of the rows, so that the sums do not depend on the number of threads.
        let mut sums = vec![0f32; 2 * self.d];
        partial.iter().for_each(|partial| simd::add_to(&mut sums, partial));
        sums
    }

    #[inline(always)]
    fn backward_row(&self, x: Option<&[f32]>, dy: &mut [f32], position: u32, sums: &mut [f32]) {
        let ([cos, sin], d) = (self.angles(position), self.d);
        for (head, dy) in self.rotated(dy).chunks_mut(d).enumerate() {
            // The transpose of a rotation is the rotation back.
            for_pairs(dy, cos, sin, |y1, y2, cos, sin| (y1 * cos + y2 * sin, y2 * cos - y1 * sin));
            let part = self.part(head);
            if let (Some(norm), Some(x)) = (&self.norms[part], x) {
                norm.backward(&x[head * d..][..d], dy, &mut sums[part * d..][..d]);
            }
        }
    }
}

/// Replaces each pair of channels by `f` of it and of its cosine and sine.
#[inline(always)]
fn for_pairs(x: &mut [f32], cos: &[f32], sin: &[f32], f: impl Fn(f32, f32, f32, f32) -> (f32, f32)) {
    let (x1, x2) = x.split_at_mut(cos.len());
    for ((x1, x2), (cos, sin)) in x1.iter_mut().zip(x2).zip(cos.iter().zip(sin)) {
        (*x1, *x2) = f(*x1, *x2, *cos, *sin);
    }
}
