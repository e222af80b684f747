//! Choosing tokens, and the logits that they are chosen from.

use candle_core::{DType, Result, Tensor, bail};
use half::bf16;

use super::cast::{operands, rounded};
use super::matmul::Matrix;
use super::{Element, Gpu, Grid, expect_len, launch, uninitialised, unsigned, with_arrays, with_parts};
use crate::sample::Choice;
use crate::{Affine, Weight};

/// Threads of a block.
const SAMPLE_THREADS: u32 = 1024;
/// Tokens whose weights have a sum of their own, and the most of such sums that fit the shared memory of a block beside the rest.
const CHUNK: usize = 256;
const MAX_CHUNKS: usize = 3 * 1024;
/// Logits of 32 bytes: cuBLAS writes rows that begin anywhere slowly.
const ALIGNED: usize = 8;

impl Gpu<'_> {
    /// See [`crate::sample_on_gpu`], whose checks the operands have passed: with the key of all streams, their labels' bits, the tokens that each
    /// sequence began with, and those that it has.
    pub(crate) fn sample(
        &self,
        (logits, v): (&Tensor, usize),
        choice: Choice,
        key: u64,
        [labels, starts, lengths]: [&Tensor; 3],
        tokens: &Tensor,
    ) -> Result<()> {
        let (op, (b, stride)) = ("sample", logits.dims2()?);
        let chunks = v.div_ceil(CHUNK);
        if chunks > MAX_CHUNKS {
            bail!("{op}: a vocabulary of {v} tokens; on CUDA at most {}", MAX_CHUNKS * CHUNK);
        }
        let (greedy, temperature, top_k, top_p) = match choice {
            Choice::Greedy => (1i32, 1.0, None, None),
            Choice::Draw { temperature, top_k, top_p } => (0, temperature, top_k, top_p),
        };
        let (scale, dropped) = ((1.0 / temperature) as f32, 1.0 - top_p.unwrap_or(1.0));
        let top_k = unsigned(op, top_k.unwrap_or(v).min(v))?;
        let grid = Grid {
            blocks: (unsigned(op, b)?, 1),
            threads: (SAMPLE_THREADS, 1),
            shared_bytes: chunks * size_of::<u64>(),
        };
        with_arrays::<f32, _, 1, 0>(op, [logits], [], |_, [logits], []| {
            with_arrays::<i64, _, 1, 0>(op, [labels], [], |_, [labels], []| {
                with_arrays::<u32, _, 2, 1>(
                    op,
                    [starts, lengths],
                    [tokens],
                    |gpu, [starts, lengths], [tokens]| {
                        expect_len(op, "the labels", labels, b)?;
                        for of_sequences in [starts, lengths, tokens] {
                            expect_len(op, "sequences", of_sequences, b)?;
                        }
                        let (name, v, stride) = ("mixce_sample", unsigned(op, v)?, unsigned(op, stride)?);
                        // SAFETY: the arguments are those of the kernel; there are B rows of V logits or more, and B of all else.
                        unsafe {
                            launch!(
                                gpu, "sample", name, grid, logits, labels, starts, lengths, tokens, v,
                                stride, key, scale, top_k, dropped, greedy
                            )
                        }
                    },
                )
            })
        })
    }

    /// `x W` in f32 for `x` `[B, in]` f32 and a weight of f32 or bf16, to which `x` is then rounded: `[B, S]`, where S is V rounded up so that
    /// rows are aligned, and what lies behind V is nothing.
    pub(crate) fn logits(&self, x: &Tensor, weight: &Weight) -> Result<Tensor> {
        match weight.stored()?.dtype() {
            DType::BF16 => logits::<bf16>(x, weight),
            _ => logits::<f32>(x, weight),
        }
    }
}

fn logits<T: Element>(x: &Tensor, weight: &Weight) -> Result<Tensor> {
    let (op, (b, n_in), (_, v)) = ("logits", x.dims2()?, weight.dims2()?);
    let stride = v.next_multiple_of(ALIGNED);
    let (x, y) = (rounded::<T>(&[x])?, uninitialised((b, stride), DType::F32, x)?);
    let weight = operands::<T>(&[&Affine::new(weight.clone(), None)])?;
    with_arrays::<f32, _, 0, 1>(op, [], [&y], |_, [], [y]| {
        with_parts::<T, _, _, _>(op, (&x[0], &weight[0]), (), |gpu, (x, weight), ()| {
            gpu.matmul(Matrix::new(y, stride).narrow_columns(0, v)?, false, Matrix::new(x, n_in), weight)
        })
    })?;
    Ok(y)
}
