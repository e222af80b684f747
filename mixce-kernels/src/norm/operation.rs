//! The fused norms as operations of candle's graph.

use candle_core::{CpuStorage, CudaStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor};

use super::{Norm, NormElements, NormKind};
use crate::affine::AffineGradients;
use crate::{cpu, cuda};

const NAME: &str = "norm";

/// `norm(x)` of tensors that have kernels.
pub(super) fn apply(norm: &Norm, x: &Tensor) -> Result<Tensor> {
    let (x, weight) = (x.contiguous()?, norm.weight.contiguous()?);
    let operation = Operation { kind: norm.kind, epsilon: norm.epsilon };
    match &norm.bias {
        Some(bias) => x.apply_op3(&weight, &bias.contiguous()?, operation),
        None => x.apply_op2(&weight, operation),
    }
}

type Operand<'a> = (&'a CpuStorage, &'a Layout);

struct Operation {
    kind: NormKind,
    epsilon: f64,
}

impl Operation {
    fn elements<S>(&self, gain: S, shift: Option<S>) -> NormElements<S> {
        NormElements { kind: self.kind, gain, shift, eps: self.epsilon as f32 }
    }

    fn on_cpu(
        &self,
        x: Operand<'_>,
        weight: Operand<'_>,
        bias: Option<Operand<'_>>,
    ) -> Result<(CpuStorage, Shape)> {
        let slice = |(storage, layout)| cpu::slice(NAME, storage, layout);
        let norm = self.elements(slice(weight)?, bias.map(slice).transpose()?);
        let (shape, x) = (x.1.shape().clone(), slice(x)?);
        let mut y = vec![0f32; x.len()];
        norm.forward(x, &mut y);
        Ok((CpuStorage::F32(y), shape))
    }

    /// The gradients of input and parameters.
    fn gradients(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: Option<&Tensor>,
        dy: &Tensor,
    ) -> Result<(Tensor, AffineGradients)> {
        let norm =
            Norm { weight: weight.clone(), bias: bias.cloned(), epsilon: self.epsilon, kind: self.kind };
        let sums =
            AffineGradients { weight: weight.zeros_like()?, bias: bias.map(Tensor::zeros_like).transpose()? };
        let dx = x.zeros_like()?;
        norm.backward(x, dy, &dx, &sums)?;
        Ok((dx, sums))
    }
}

impl CustomOp2 for Operation {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.on_cpu((x, x_layout), (weight, weight_layout), None)
    }

    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        x_layout: &Layout,
        weight: &CudaStorage,
        weight_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let inputs = [(x, x_layout), (weight, weight_layout)];
        cuda::operation(NAME, inputs, x_layout.shape().clone(), |gpu, [x, weight], y| {
            gpu.norm(x, self.elements(weight, None), y)
        })
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (dx, sums) = self.gradients(x, weight, None, dy)?;
        Ok((Some(dx), Some(sums.weight)))
    }
}

impl CustomOp3 for Operation {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.on_cpu((x, x_layout), (weight, weight_layout), Some((bias, bias_layout)))
    }

    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        x_layout: &Layout,
        weight: &CudaStorage,
        weight_layout: &Layout,
        bias: &CudaStorage,
        bias_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let inputs = [(x, x_layout), (weight, weight_layout), (bias, bias_layout)];
        cuda::operation(NAME, inputs, x_layout.shape().clone(), |gpu, [x, weight, bias], y| {
            gpu.norm(x, self.elements(weight, Some(bias)), y)
        })
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (dx, sums) = self.gradients(x, weight, Some(bias), dy)?;
        Ok((Some(dx), Some(sums.weight), sums.bias))
    }
}
