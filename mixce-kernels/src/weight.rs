//! The weight of an affine map: a matrix, or one that was packed for the products of sampling.

use candle_core::{DType, Result, Tensor, bail};

use crate::Precision;
use crate::cpu::{is_cpu_f32, with_slices};
use crate::packed::PackedWeight;

/// The weight `W` `[in, out]` of `y = x W`.
#[derive(Clone, Debug)]
pub enum Weight {
    /// A matrix (GPT-2's Conv1D layout), which may be part of candle's graph.
    Dense(Tensor),
    /// For inference on the CPU.
    Packed(PackedWeight),
}

impl From<Tensor> for Weight {
    fn from(weight: Tensor) -> Self {
        Self::Dense(weight)
    }
}

impl Weight {
    /// `(in, out)`.
    ///
    /// # Errors
    /// When the tensor is not a matrix.
    pub fn dims2(&self) -> Result<(usize, usize)> {
        match self {
            Self::Dense(weight) => weight.dims2(),
            Self::Packed(weight) => Ok(weight.dims2()),
        }
    }

    /// The matrix.
    ///
    /// # Errors
    /// When the weight is packed: then it has no gradient, and no operation but the product on the CPU.
    pub fn dense(&self) -> Result<&Tensor> {
        match self {
            Self::Dense(weight) => Ok(weight),
            Self::Packed(_) => {
                bail!("expected a weight as a matrix, got one that is packed for inference on the CPU")
            }
        }
    }

    /// The same values outside of any gradient graph.
    #[must_use]
    pub fn detach(&self) -> Self {
        match self {
            Self::Dense(weight) => Self::Dense(weight.detach()),
            Self::Packed(weight) => Self::Packed(weight.clone()),
        }
    }

    /// Packs an f32 matrix on the CPU. On other devices and in other types products read the matrix itself, which is returned.
    ///
    /// # Errors
    /// In bf16 when the weight is not f32 on the CPU or that CPU has no bf16 ([`Precision::check`]); when the weight is packed
    /// already, in another precision.
    pub fn pack(&self, precision: Precision) -> Result<Self> {
        match self {
            Self::Dense(weight) if is_cpu_f32(weight) => {
                Ok(Self::Packed(PackedWeight::new(weight, precision)?))
            }
            Self::Dense(weight) if precision != Precision::F32 => {
                let (dtype, device) = (weight.dtype(), weight.device().location());
                bail!("weights packed in bf16: expected f32 on the CPU, got {dtype:?} on {device:?}")
            }
            Self::Dense(_) => Ok(self.clone()),
            Self::Packed(weight) => {
                weight.check_precision(precision)?;
                Ok(self.clone())
            }
        }
    }

    /// `x W` in f32, row after row, for `x` `[M, in]`; it replaces what `y` held.
    ///
    /// # Errors
    /// When shapes, types or devices do not fit.
    pub fn product(&self, x: &Tensor, y: &mut Vec<f32>) -> Result<()> {
        match self {
            Self::Dense(weight) => *y = x.matmul(weight)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?,
            Self::Packed(weight) => {
                let ((m, k), (n_in, n_out)) = (x.dims2()?, weight.dims2());
                if k != n_in {
                    bail!("packed product: expected an input [M, {n_in}], got [{m}, {k}]");
                }
                y.resize(m * n_out, 0.0);
                with_slices("packed product", [x], |[x]| weight.multiply(x, m, y))?;
            }
        }
        Ok(())
    }

    /// Whether candle's graph tracks it.
    pub(crate) fn is_tracked(&self) -> bool {
        matches!(self, Self::Dense(weight) if weight.track_op())
    }
}

/// The elements of a weight on the CPU.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Elements<'a> {
    /// `[in, out]`, row-major.
    Dense(&'a [f32]),
    Packed(&'a PackedWeight),
}

/// Runs `f` on the elements of a weight on the CPU.
pub(crate) fn with_weight<T>(
    op: &'static str,
    weight: &Weight,
    f: impl FnOnce(Elements<'_>) -> T,
) -> Result<T> {
    match weight {
        Weight::Dense(weight) => with_slices(op, [weight], |[weight]| f(Elements::Dense(weight))),
        Weight::Packed(weight) => Ok(f(Elements::Packed(weight))),
    }
}
