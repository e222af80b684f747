//! The fused operation of [`super::causal_attention`] in f32. On the CPU a task is a document and a head: of queries in the forward
//! pass, of keys and values in the backward pass.

mod task;

use std::cell::Cell;

use candle_core::{CpuStorage, CudaStorage, CustomOp1, CustomOp3, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use self::task::{Shared, Task};
use super::{CuSeqlens, DrawnDropout, Heads};
use crate::cpu;
use crate::cuda;
use crate::dropout::Dropout;

/// The operation with everything but its tensors.
pub(crate) struct CausalAttention {
    pub(crate) cu_seqlens: CuSeqlens,
    /// [`CuSeqlens::spans_on`] a GPU.
    pub(crate) spans: Option<Tensor>,
    pub(crate) heads: Heads,
    /// Drawn where the kernels want that.
    pub(crate) dropout: Option<DrawnDropout>,
}

impl CausalAttention {
    pub(crate) fn dropout(&self) -> Option<Dropout> {
        self.dropout.as_ref().map(|drawn| drawn.dropout)
    }

    fn spans(&self) -> Result<&Tensor> {
        match &self.spans {
            Some(spans) => Ok(spans),
            None => bail!("causal_attention: expected the device that the operation was made for, got CUDA"),
        }
    }

    /// The gradient of `qkv`, given the result and its gradient; and whether the sum of its rows was added to that of the bias.
    pub(super) fn gradient(
        &self,
        qkv: &Tensor,
        [out, dout]: [&Tensor; 2],
        bias: Option<&Tensor>,
    ) -> Result<(Tensor, bool)> {
        let backward = Backward { op: self, bias, added: Cell::new(false) };
        let dqkv = qkv.apply_op3_no_bwd(&out.contiguous()?, &dout.contiguous()?, &backward)?;
        Ok((dqkv, backward.added.get()))
    }

    /// Runs `f` for each document that is not empty and each of `heads` heads, in parallel, on a fresh zeroed buffer of `len` elements.
    fn run(&self, heads: usize, len: usize, f: impl Fn((usize, usize), usize, Shared) + Sync) -> Vec<f32> {
        let mut buffer = vec![0f32; len];
        let shared = Shared::new(&mut buffer);
        let spans = self.cu_seqlens.spans().filter(|(_, t)| *t > 0);
        let tasks: Vec<_> = spans.flat_map(|span| (0..heads).map(move |head| (span, head))).collect();
        tasks.into_par_iter().for_each(|(span, head)| f(span, head, shared));
        buffer
    }
}

impl CustomOp1 for CausalAttention {
    fn name(&self) -> &'static str {
        "causal_attention"
    }

    fn cpu_fwd(&self, qkv: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let qkv = cpu::slice(self.name(), qkv, layout)?;
        let (n, channels) = layout.shape().dims2()?;
        let d = self.heads.head_size(self.name(), channels)?;
        let c = self.heads.count * d;
        let out = self.run(self.heads.count, n * c, |span, head, out| {
            Task { op: self, qkv, span, head, d }.forward(out);
        });
        Ok((CpuStorage::F32(out), (n, c).into()))
    }

    fn cuda_fwd(&self, qkv: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        cuda::causal_attention(self, self.spans()?, (qkv, layout))
    }

    fn bwd(&self, qkv: &Tensor, out: &Tensor, dout: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(self.gradient(qkv, [out, dout], None)?.0))
    }
}

/// Of `qkv`, the result and its gradient. The CPU computes what it needs of the result again.
struct Backward<'a> {
    op: &'a CausalAttention,
    /// The sum of the gradients of the bias of `qkv`.
    bias: Option<&'a Tensor>,
    /// Whether that has grown.
    added: Cell<bool>,
}

impl CustomOp3 for Backward<'_> {
    fn name(&self) -> &'static str {
        "causal_attention backward"
    }

    fn cpu_fwd(
        &self,
        qkv: &CpuStorage,
        qkv_layout: &Layout,
        _out: &CpuStorage,
        _out_layout: &Layout,
        dout: &CpuStorage,
        dout_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (op, heads) = (self.op, self.op.heads);
        let qkv = cpu::slice(self.name(), qkv, qkv_layout)?;
        let dout = cpu::slice(self.name(), dout, dout_layout)?;
        let d = heads.head_size(self.name(), qkv_layout.shape().dims2()?.1)?;
        // The query heads that share keys and values add to the same gradients: they belong to one task.
        let dqkv = op.run(heads.kv, qkv.len(), |span, kv_head, dqkv| {
            for head in kv_head * heads.group()..(kv_head + 1) * heads.group() {
                Task { op, qkv, span, head, d }.backward(dout, dqkv);
            }
        });
        Ok((CpuStorage::F32(dqkv), qkv_layout.shape().clone()))
    }

    fn cuda_fwd(
        &self,
        qkv: &CudaStorage,
        qkv_layout: &Layout,
        out: &CudaStorage,
        out_layout: &Layout,
        dout: &CudaStorage,
        dout_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let inputs = [(qkv, qkv_layout), (out, out_layout), (dout, dout_layout)];
        let (gradient, added) =
            cuda::causal_attention_backward(self.op, self.op.spans()?, inputs, self.bias)?;
        self.added.set(added);
        Ok(gradient)
    }
}
