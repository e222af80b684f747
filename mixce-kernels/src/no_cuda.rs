//! The module `cuda` of a build without the feature: there are no GPUs, so GPU functions cannot be called.
//!
//! [`Gpu::of`] returns `None`, so the dispatch in this crate is the same code in every build.

use std::convert::Infallible;
use std::marker::PhantomData;

use candle_core::{CudaStorage, DType, Device, Error, Layout, Result, Shape, Tensor};

use crate::adamw::{AdamWParameter, AdamWUpdate};
use crate::attention::{CausalAttention, Heads, KeyValues};
use crate::dropout::Dropout;
use crate::embedding::Embedded;
use crate::lm_head::{CrossEntropy, Weighting};
use crate::norm::NormElements;
use crate::rotary::{HeadTransform, HeadTransformGradients};
use crate::sample::Choice;
use crate::sublayer::{
    Branch, BranchGradient, GatedMlp, GatedMlpGradients, LinearResidual, Mlp, MlpGradients, MlpOutput,
    Neighbours, NormLinear, NormLinearGradients, Normed,
};
use crate::{Activation, AffineGradients, Norm, Positions, Precision, StoredTensor, Weight, device};

/// A GPU: no value of this type exists.
pub(crate) struct Gpu<'a> {
    never: Infallible,
    device: PhantomData<&'a Device>,
}

/// Recorded work: there is none.
#[derive(Debug)]
pub(crate) struct Recording(Infallible);

impl Recording {
    /// # Safety
    /// It is never called.
    #[expect(unsafe_code, reason = "as in the module that this one stands for")]
    pub(crate) unsafe fn run(&mut self) -> Result<()> {
        match self.0 {}
    }
}

/// A point in the work of a GPU: there is none.
#[derive(Debug)]
pub(crate) enum Event {}

impl Event {
    pub(crate) fn is_complete(&self) -> Result<bool> {
        match *self {}
    }
}

/// Elements on a GPU.
pub(crate) type Array<'a, T> = PhantomData<&'a T>;

impl Gpu<'_> {
    pub(crate) fn of(_: &Device) -> Option<Self> {
        None
    }
}

/// Methods of [`Gpu`] with these parameters and results, in the order of the files of `cuda`.
macro_rules! never_called {
    ($($name:ident($($parameter:ty),* $(,)?) -> $result:ty;)*) => {
        impl Gpu<'_> {
            $(pub(crate) fn $name(&self, $(_: $parameter),*) -> Result<$result> {
                match self.never {}
            })*
        }
    };
}

never_called! {
    activation(Activation, Array<'_, f32>, Array<'_, f32>) -> ();
    activation_backward(Activation, (Array<'_, f32>, Array<'_, f32>), Option<Array<'_, f32>>, Array<'_, f32>) -> ();
    sums_of_squares(&[&Tensor]) -> Vec<f64>;
    judge(&[Tensor], f64, u64, &Tensor) -> ();
    adamw_step(&[AdamWParameter<'_>], &AdamWUpdate, Option<&Tensor>) -> ();
    clear(&[&Tensor]) -> ();
    target_log_probs(&Tensor, &StoredTensor, &Tensor, Precision) -> Tensor;
    weighted_cross_entropy(&Tensor, &StoredTensor, &Tensor, Weighting<'_>, &Tensor, Precision) -> CrossEntropy;
    draw_attention_dropout((&Tensor, usize), Heads, Dropout) -> Tensor;
    decode_attention(&Tensor, &KeyValues, &Positions, Heads) -> Tensor;
    fill_cache(&Tensor, &Tensor, &KeyValues, Heads) -> ();
    describe() -> device::Gpu;
    event() -> Event;
    peak_bytes() -> Option<u64>;
    check_bf16() -> ();
    dropout(Array<'_, f32>, Dropout, usize, Array<'_, f32>) -> ();
    residual(Array<'_, f32>, (Array<'_, f32>, Option<Array<'_, f32>>), usize, Option<Dropout>, Array<'_, f32>) -> ();
    embedding(Array<'_, f32>, Option<Array<'_, f32>>, &Embedded, (usize, Option<Dropout>), Array<'_, f32>) -> ();
    embedding_backward(&Tensor, ([&Tensor; 3], &Tensor), Option<([&Tensor; 3], &Tensor)>, Option<Dropout>) -> ();
    norm(Array<'_, f32>, NormElements<Array<'_, f32>>, Array<'_, f32>) -> ();
    norm_backward(&Norm, &Tensor, &Tensor, &Tensor, &AffineGradients) -> ();
    linear(Array<'_, f32>, (Array<'_, f32>, Array<'_, f32>), Array<'_, f32>) -> ();
    linear_backward(&Tensor, &Tensor, &Tensor, &AffineGradients) -> Tensor;
    rotary(&HeadTransform, &Tensor, &Tensor, Heads) -> Tensor;
    rotary_backward(&HeadTransform, Option<&Tensor>, &Tensor, Heads, &Tensor, &HeadTransformGradients) -> ();
    record(impl FnOnce() -> Result<()>) -> Recording;
    memory(usize, DType) -> Tensor;
    upload(&[u32], &Tensor) -> ();
    sample((&Tensor, usize), Choice, u64, [&Tensor; 3], &Tensor) -> ();
    logits(&Tensor, &Weight) -> Tensor;
    norm_linear(&NormLinear, (&Tensor, Option<Normed>), Precision) -> Tensor;
    norm_linear_backward(&NormLinear, &Tensor, &Tensor, &Tensor, &NormLinearGradients, (Precision, Option<Branch<'_>>)) -> Option<BranchGradient>;
    linear_residual(&LinearResidual, &Tensor, &Tensor, Option<Dropout>, Option<&Norm>, Precision) -> (Tensor, Option<Tensor>);
    linear_residual_backward(&LinearResidual, &Tensor, &Tensor, Option<Dropout>, &AffineGradients, (Precision, Option<BranchGradient>)) -> Tensor;
    mlp(&Mlp, (&Tensor, Option<Normed>), Option<Dropout>, Precision, bool, Option<&Norm>) -> MlpOutput;
    mlp_backward(&Mlp, [&Tensor; 2], Option<Dropout>, &Tensor, &MlpGradients, (Precision, Neighbours<'_>)) -> Option<BranchGradient>;
    gated_mlp(&GatedMlp, (&Tensor, Option<Normed>), Option<Dropout>, Precision, Option<&Norm>) -> MlpOutput;
    gated_mlp_backward(&GatedMlp, [&Tensor; 2], Option<Dropout>, &Tensor, &GatedMlpGradients, (Precision, Neighbours<'_>)) -> Option<BranchGradient>;
}

pub(crate) fn finish_sums_together<R, E>(
    pass: impl FnOnce() -> std::result::Result<R, E>,
) -> std::result::Result<R, E> {
    pass()
}

pub(crate) fn open(_: usize) -> Result<Device> {
    Err(Error::NotCompiledWithCudaSupport)
}

pub(crate) fn count() -> Result<usize> {
    Err(Error::NotCompiledWithCudaSupport)
}

/// A storage and its layout.
type Operand<'a> = (&'a CudaStorage, &'a Layout);

pub(crate) fn causal_attention(
    _: &CausalAttention,
    _: &Tensor,
    _: Operand<'_>,
) -> Result<(CudaStorage, Shape)> {
    Err(Error::NotCompiledWithCudaSupport)
}

pub(crate) fn causal_attention_backward(
    _: &CausalAttention,
    _: &Tensor,
    _: [Operand<'_>; 3],
    _: Option<&Tensor>,
) -> Result<((CudaStorage, Shape), bool)> {
    Err(Error::NotCompiledWithCudaSupport)
}

pub(crate) fn operation<T, const N: usize>(
    _: &'static str,
    _: [Operand<'_>; N],
    _: Shape,
    _: impl FnOnce(&Gpu<'_>, [Array<'_, T>; N], Array<'_, T>) -> Result<()>,
) -> Result<(CudaStorage, Shape)> {
    Err(Error::NotCompiledWithCudaSupport)
}

/// Its arithmetic needs no device.
#[cfg(test)]
#[path = "cuda/grid.rs"]
#[expect(dead_code, reason = "only launches use all of it")]
mod grid;
