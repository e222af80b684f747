//! Norms of heads and the rotary position embedding.
//!
//! Legend: N rows, H heads of queries, K heads of keys and values, D head size.

use candle_core::{DType, Result, Tensor, bail};
use half::bf16;

use super::attention::MAX_HEAD_SIZE;
use super::matmul::Matrix;
use super::{
    Arg, Array, Element, Gpu, Grid, MAX_BLOCKS, THREADS, WARP, expect_len, kernel, name_of, uninitialised,
    unsigned, with_arrays, with_parts,
};
use crate::Heads;
use crate::rotary::{HeadTransform, HeadTransformGradients};

/// Warps of a block; each takes one row and head after another.
const WARPS: usize = (THREADS / WARP) as usize;
/// Most blocks of the backward pass of norms, each of which leaves its own sums.
const MAX_SUMS: usize = 1024;

impl Gpu<'_> {
    /// See [`HeadTransform::forward`], whose checks the operands have passed.
    pub(crate) fn rotary(
        &self,
        transform: &HeadTransform,
        qkv: &Tensor,
        positions: &Tensor,
        heads: Heads,
    ) -> Result<Tensor> {
        match qkv.dtype() {
            DType::BF16 => forward::<bf16>(transform, qkv, positions, heads),
            _ => forward::<f32>(transform, qkv, positions, heads),
        }
    }

    /// See [`HeadTransform::backward`], whose checks the operands have passed.
    pub(crate) fn rotary_backward(
        &self,
        transform: &HeadTransform,
        qkv: Option<&Tensor>,
        positions: &Tensor,
        heads: Heads,
        dqkv: &Tensor,
        gradients: &HeadTransformGradients,
    ) -> Result<()> {
        match dqkv.dtype() {
            DType::BF16 => backward::<bf16>(transform, qkv, positions, heads, (dqkv, gradients)),
            _ => backward::<f32>(transform, qkv, positions, heads, (dqkv, gradients)),
        }
    }
}

/// The operands of the kernels beside the rows.
struct Transform<'a> {
    cos: Array<'a, f32>,
    sin: Array<'a, f32>,
    positions: Array<'a, u32>,
    /// Weight and epsilon of the norm of the queries and of the keys.
    norms: [(Option<Array<'a, f32>>, f32); 2],
    heads: Heads,
    d: usize,
}

impl Transform<'_> {
    const OP: &'static str = "rotary";

    /// Runs `f` with the operands.
    fn with<R>(
        transform: &HeadTransform,
        positions: &Tensor,
        heads: Heads,
        f: impl FnOnce(&Gpu<'_>, Transform<'_>) -> Result<R>,
    ) -> Result<R> {
        let HeadTransform { rotary, q_norm, k_norm } = transform;
        let weights = [q_norm, k_norm].map(|norm| norm.as_ref().map(|norm| &norm.weight));
        let epsilons = [q_norm, k_norm].map(|norm| norm.as_ref().map_or(0.0, |norm| norm.epsilon as f32));
        let inputs = (&rotary.cos, &rotary.sin, weights[0], weights[1]);
        with_arrays(Self::OP, [positions], [], |_, [positions], []| {
            with_parts::<f32, _, _, _>(Self::OP, inputs, (), |gpu, (cos, sin, q, k), ()| {
                let norms = [(q, epsilons[0]), (k, epsilons[1])];
                f(gpu, Transform { cos, sin, positions, norms, heads, d: rotary.head_size() })
            })
        })
    }

    fn has_norms(&self) -> bool {
        self.norms.iter().any(|(weight, _)| weight.is_some())
    }

    /// The rows of queries, keys and values.
    fn rows<T>(&self, qkv: Array<'_, T>) -> Result<usize> {
        let n = self.positions.len;
        let channels = (self.heads.count + 2 * self.heads.kv) * self.d;
        expect_len(Self::OP, "queries, keys and values", qkv, n * channels)?;
        for (weight, _) in self.norms {
            if let Some(weight) = weight {
                expect_len(Self::OP, "a norm's weight", weight, self.d)?;
            }
        }
        Ok(n)
    }

    /// The parameters that both kernels have: those of the transform.
    fn arguments(&self) -> [Arg; 7] {
        let [(q, q_epsilon), (k, k_epsilon)] = self.norms;
        let tables = [self.cos.into(), self.sin.into(), self.positions.into()];
        let [cos, sin, positions] = tables;
        [cos, sin, positions, q.into(), q_epsilon.into(), k.into(), k_epsilon.into()]
    }

    /// The last parameters: the sizes.
    fn sizes(&self, n: usize) -> Result<[Arg; 4]> {
        let [count, kv, d] = [self.heads.count, self.heads.kv, self.d].map(|size| unsigned(Self::OP, size));
        Ok([(n as u64).into(), count?.into(), kv?.into(), d?.into()])
    }
}

/// A warp for each of so many rows and heads, in at most so many blocks.
fn grid(items: usize, max_blocks: usize, shared_bytes: usize) -> Grid {
    let blocks = items.div_ceil(WARPS).min(max_blocks) as u32;
    Grid { blocks: (blocks, 1), threads: (THREADS, 1), shared_bytes }
}

fn forward<T: Element>(
    transform: &HeadTransform,
    qkv: &Tensor,
    positions: &Tensor,
    heads: Heads,
) -> Result<Tensor> {
    let y = uninitialised(qkv.shape(), T::DTYPE, qkv)?;
    Transform::with(transform, positions, heads, |_, transform| {
        with_arrays::<T, _, 1, 1>(Transform::OP, [qkv], [&y], |gpu, [qkv], [y]| {
            let n = transform.rows(qkv)?;
            let grid = grid(n * (heads.count + 2 * heads.kv), MAX_BLOCKS, 0);
            let rows = [vec![qkv.into()], transform.arguments().to_vec(), vec![y.into()]].concat();
            let args = [rows, transform.sizes(n)?.to_vec()].concat();
            let name = name_of!("mixce_rotary", T);
            // SAFETY: the arguments are those of the kernel; the sizes were checked, and the callers checked the positions.
            unsafe { gpu.launch(kernel!("rotary", name), grid, &args) }
        })
    })?;
    Ok(y)
}

fn backward<T: Element>(
    transform: &HeadTransform,
    qkv: Option<&Tensor>,
    positions: &Tensor,
    heads: Heads,
    (dqkv, gradients): (&Tensor, &HeadTransformGradients),
) -> Result<()> {
    let (op, d) = (Transform::OP, transform.rotary.head_size());
    let items = positions.elem_count() * (heads.count + heads.kv);
    if items == 0 {
        return Ok(());
    }
    Transform::with(transform, positions, heads, |gpu, transform| {
        if transform.has_norms() && d > MAX_HEAD_SIZE {
            bail!("{op}: norms of heads of {d} channels; on CUDA at most {MAX_HEAD_SIZE}");
        }
        // With norms the kernel leaves the sums [2, D] of each block.
        let (max_blocks, shared_bytes) = match transform.has_norms() {
            true => (MAX_SUMS, 2 * WARPS * d * 4),
            false => (MAX_BLOCKS, 0),
        };
        let grid = grid(items, max_blocks, shared_bytes);
        let sums = if transform.has_norms() { grid.blocks.0 as usize * 2 * d } else { 0 };
        let partial = gpu.buffer(sums)?;
        let changed = (&partial, &gradients.q_norm, &gradients.k_norm);
        with_parts::<f32, _, _, _>(op, (), changed, |_, (), (partial, dq_norm, dk_norm)| {
            with_parts::<T, _, _, _>(op, qkv, dqkv, |gpu, qkv, dqkv| {
                let n = transform.rows(dqkv)?;
                if let Some(qkv) = qkv {
                    transform.rows(qkv)?;
                }
                let sums = transform.has_norms().then_some(partial);
                let mut args = vec![qkv.into()];
                args.extend(transform.arguments());
                args.extend([Arg::from(dqkv), sums.into()]);
                args.extend(transform.sizes(n)?);
                let name = name_of!("mixce_rotary_backward", T);
                // SAFETY: the arguments are those of the kernel; the sizes were checked, and the callers checked the positions and that
                // there is an input where there is a norm.
                unsafe { gpu.launch(kernel!("rotary", name), grid, &args) }
            })?;
            let partial = Matrix::new(partial, 2 * d);
            for (first, total) in [(0, dq_norm), (d, dk_norm)] {
                if let Some(total) = total {
                    gpu.add_column_sums(partial.narrow_columns(first, d)?, total)?;
                }
            }
            Ok(())
        })
    })
}
