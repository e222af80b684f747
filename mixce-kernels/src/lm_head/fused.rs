//! The LM head with its loss in f32 on the CPU, by slices of tokens and tiles of the vocabulary.

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use super::{CrossEntropy, Slice, Weighting};
use crate::cpu::{ROWS_PER_TASK, with_slices, with_slices_mut};
use crate::cross_entropy::check_targets;
use crate::math;
use crate::simd::{self, vectorised};
use crate::{Matrix, Precision, matmul};

/// Columns of a tile; with the tokens of a [`Slice`] 8 MB of logits, which stay in the last-level cache.
pub(super) const TILE: usize = 2048;

/// [`super::target_log_probs`] of operands that fit.
pub(super) fn target_log_probs(
    hidden: &Tensor,
    head: &Tensor,
    targets: &Tensor,
    precision: Precision,
) -> Result<Tensor> {
    let problem = Problem::new(hidden, head, precision)?;
    let targets = problem.targets(targets)?;
    let log_q = with_slices("lm_head", [hidden, head], |[hidden, head]| {
        let mut log_q = Vec::with_capacity(targets.len());
        let mut tile = vec![0f32; problem.slice * problem.tile];
        for (start, targets) in problem.slices(&targets) {
            let hidden = problem.hidden(hidden, start, targets.len());
            let mut rows = Row::all(targets);
            for (first, columns) in problem.tiles() {
                let tile = &mut tile[..targets.len() * columns];
                problem.logits(tile, hidden, head, first, columns);
                add_tile(&mut rows, tile, first, columns);
            }
            log_q.extend(rows.iter().map(Row::log_q));
        }
        log_q
    })?;
    Tensor::from_vec(log_q, problem.n, hidden.device())
}

/// [`super::weighted_cross_entropy`] of operands that fit.
pub(super) fn weighted_cross_entropy(
    hidden: &Tensor,
    head: &Tensor,
    targets: &Tensor,
    weighting: Weighting<'_>,
    dhead: &Tensor,
    precision: Precision,
) -> Result<CrossEntropy> {
    let problem = Problem::new(hidden, head, precision)?;
    by_slices(&problem, [hidden, head, targets], weighting, dhead)
}

pub(super) fn by_slices(
    problem: &Problem,
    [hidden, head, targets]: [&Tensor; 3],
    Weighting { weights, denominator }: Weighting<'_>,
    dhead: &Tensor,
) -> Result<CrossEntropy> {
    let (op, targets) = ("lm_head", problem.targets(targets)?);
    let (mut log_q, mut dhidden) = (Vec::with_capacity(problem.n), vec![0f32; problem.n * problem.c]);
    with_slices(op, [hidden, head], |[hidden, head]| {
        with_slices_mut(op, [dhead], |[dhead]| {
            let mut logits = vec![0f32; problem.slice * problem.v];
            for (start, targets) in problem.slices(&targets) {
                let hidden = problem.hidden(hidden, start, targets.len());
                let dhidden = &mut dhidden[start * problem.c..][..targets.len() * problem.c];
                let mut rows = Row::all(targets);
                for (first, columns) in problem.tiles() {
                    let tile = &mut logits[targets.len() * first..][..targets.len() * columns];
                    problem.logits(tile, hidden, head, first, columns);
                    add_tile(&mut rows, tile, first, columns);
                }
                let weight = |log_q: f32| (weights.weight(f64::from(log_q)) / denominator) as f32;
                rows.iter_mut().for_each(|row| row.weight = weight(row.log_q()));
                log_q.extend(rows.iter().map(Row::log_q));
                for (first, columns) in problem.tiles() {
                    let tile = &mut logits[targets.len() * first..][..targets.len() * columns];
                    turn_into_gradient(&rows, tile, first, columns);
                    problem.gradients(tile, (hidden, head), (first, columns), dhidden, dhead);
                }
            }
        })
    })??;
    let dhidden = Tensor::from_vec(dhidden, (problem.n, problem.c), hidden.device())?;
    Ok(CrossEntropy { log_q: Tensor::from_vec(log_q, problem.n, hidden.device())?, dhidden })
}

/// The partition of the work.
pub(super) struct Problem {
    precision: Precision,
    n: usize,
    c: usize,
    v: usize,
    /// S.
    pub(super) slice: usize,
    /// T.
    tile: usize,
}

impl Problem {
    pub(super) fn new(hidden: &Tensor, head: &Tensor, precision: Precision) -> Result<Self> {
        let ((n, c), v) = (hidden.dims2()?, head.dim(0)?);
        let slice = Slice::new(n, v, precision, false).tokens;
        Ok(Self { precision, n, c, v, slice, tile: TILE.min(v) })
    }

    /// The targets, all of them in the vocabulary.
    fn targets(&self, targets: &Tensor) -> Result<Vec<u32>> {
        let targets = targets.to_vec1::<u32>()?;
        check_targets(&targets, self.v)?;
        Ok(targets)
    }

    /// `(first token, targets)` of the slices.
    fn slices<'a>(&self, targets: &'a [u32]) -> impl Iterator<Item = (usize, &'a [u32])> + use<'a> {
        let slice = self.slice.max(1);
        targets.chunks(slice).enumerate().map(move |(i, targets)| (i * slice, targets))
    }

    /// `(first column, columns)` of the tiles.
    fn tiles(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let (v, tile) = (self.v, self.tile.max(1));
        (0..v).step_by(tile).map(move |first| (first, tile.min(v - first)))
    }

    fn hidden<'a>(&self, hidden: &'a [f32], start: usize, tokens: usize) -> Matrix<'a> {
        Matrix::new(&hidden[start * self.c..][..tokens * self.c], self.c)
    }

    fn head<'a>(&self, head: &'a [f32], first: usize, columns: usize) -> Matrix<'a> {
        Matrix::new(&head[first * self.c..][..columns * self.c], self.c)
    }

    /// A tile `[S, T]` of logits.
    fn logits(&self, tile: &mut [f32], hidden: Matrix<'_>, head: &[f32], first: usize, columns: usize) {
        matmul(self.precision, tile, columns, false, hidden, self.head(head, first, columns).t());
    }

    /// Adds the contribution of a tile of the logits' gradient to the gradients of hidden states and head.
    fn gradients(
        &self,
        tile: &[f32],
        (hidden, head): (Matrix<'_>, &[f32]),
        (first, columns): (usize, usize),
        dhidden: &mut [f32],
        dhead: &mut [f32],
    ) {
        let tile = Matrix::new(tile, columns);
        matmul(self.precision, dhidden, self.c, true, tile, self.head(head, first, columns));
        let dhead = &mut dhead[first * self.c..][..columns * self.c];
        matmul(self.precision, dhead, self.c, true, tile.t(), hidden);
    }
}

/// The running softmax of a token's logits.
#[derive(Clone, Copy)]
struct Row {
    target: usize,
    target_logit: f32,
    /// The largest logit so far, and the sum of `exp(z - max)`.
    max: f32,
    sum: f64,
    weight: f32,
}

impl Row {
    fn all(targets: &[u32]) -> Vec<Self> {
        let row = |y: &u32| Self {
            target: *y as usize,
            target_logit: f32::NAN,
            max: f32::NEG_INFINITY,
            sum: 0.0,
            weight: 0.0,
        };
        targets.iter().map(row).collect()
    }

    fn log_z(&self) -> f32 {
        (f64::from(self.max) + self.sum.ln()) as f32
    }

    fn log_q(&self) -> f32 {
        let log_q = self.target_logit - self.log_z();
        // Not `min`, which would turn NaN into 0, so that a broken model would look certain.
        if log_q > 0.0 { 0.0 } else { log_q }
    }

    /// Adds the logits `z` of the columns `first..`.
    #[inline(always)]
    fn add(&mut self, z: &[f32], first: usize) {
        if let Some(logit) = self.target.checked_sub(first).and_then(|column| z.get(column)) {
            self.target_logit = *logit;
        }
        let max = simd::max(z).max(self.max);
        // If all logits are minus infinity or NaN, shift by 0 to leave the sum unchanged.
        let shift = if max.is_finite() { max } else { 0.0 };
        let sum = f64::from(simd::sum(z, |z| math::exp(z - shift)));
        let rescaled = if self.sum > 0.0 { self.sum * f64::from(self.max - shift).exp() } else { self.sum };
        (self.sum, self.max) = (rescaled + sum, shift);
    }
}

fn add_tile(rows: &mut [Row], tile: &[f32], first: usize, columns: usize) {
    let tasks = rows.par_chunks_mut(ROWS_PER_TASK).zip(tile.par_chunks((ROWS_PER_TASK * columns).max(1)));
    tasks.for_each(|(rows, tile)| {
        vectorised(|| rows.iter_mut().zip(tile.chunks(columns)).for_each(|(row, z)| row.add(z, first)));
    });
}

/// `z = w (softmax(z) - onehot(y))` for the columns `first..`.
fn turn_into_gradient(rows: &[Row], tile: &mut [f32], first: usize, columns: usize) {
    let tasks = tile.par_chunks_mut((ROWS_PER_TASK * columns).max(1)).zip(rows.par_chunks(ROWS_PER_TASK));
    tasks.for_each(|(tile, rows)| {
        vectorised(|| {
            for (z, row) in tile.chunks_mut(columns).zip(rows) {
                let (log_z, weight) = (row.log_z(), row.weight);
                z.iter_mut().for_each(|z| *z = weight * math::exp(*z - log_z));
                if let Some(z) = row.target.checked_sub(first).and_then(|column| z.get_mut(column)) {
                    *z -= weight;
                }
            }
        });
    });
}
