//! The weight of an affine map: a matrix in one of two layouts, or one that was packed for the products of sampling.

use candle_core::{DType, Result, Tensor, bail};

use crate::cpu::{is_cpu_f32, with_slices};
use crate::device::gpu_of;
use crate::packed::PackedWeight;
use crate::parameter::StoredTensor;
use crate::parts::{Parts, Read};
use crate::{Matrix, Precision};

/// The weight `W` of `y = x W`, from `in` inputs to `out` outputs.
///
/// Both matrix layouts may be part of candle's graph, and products and gradients read and write them where they lie, without a
/// transposed copy. A gradient has the layout of its weight.
#[derive(Clone, Debug)]
pub enum Weight {
    /// `W` itself, `[in, out]`: the layout of GPT-2's Conv1D.
    Dense(StoredTensor),
    /// The transpose of `W`, `[out, in]`: the layout of PyTorch's `nn.Linear`.
    Transposed(StoredTensor),
    /// For inference on the CPU.
    Packed(PackedWeight),
}

impl From<Tensor> for Weight {
    fn from(weight: Tensor) -> Self {
        Self::Dense(weight.into())
    }
}

impl From<StoredTensor> for Weight {
    fn from(weight: StoredTensor) -> Self {
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
            Self::Transposed(weight) => weight.dims2().map(|(n_out, n_in)| (n_in, n_out)),
            Self::Packed(weight) => Ok(weight.dims2()),
        }
    }

    /// The tensor in the layout in which it is stored.
    ///
    /// # Errors
    /// When the weight is packed: then it has no gradient, and no operation but the product on the CPU.
    pub fn stored(&self) -> Result<&StoredTensor> {
        match self {
            Self::Dense(weight) | Self::Transposed(weight) => Ok(weight),
            Self::Packed(_) => is_packed(),
        }
    }

    /// A view of the tensor as `W` `[in, out]`.
    ///
    /// # Errors
    /// When the weight is packed, or not a matrix.
    pub fn matrix(&self) -> Result<Tensor> {
        match self {
            Self::Dense(weight) => Ok((**weight).clone()),
            Self::Transposed(weight) => weight.t(),
            Self::Packed(_) => is_packed(),
        }
    }

    /// The same values outside of any gradient graph.
    #[must_use]
    pub fn detach(&self) -> Self {
        match self {
            Self::Dense(weight) => Self::Dense(weight.detach()),
            Self::Transposed(weight) => Self::Transposed(weight.detach()),
            Self::Packed(weight) => Self::Packed(weight.clone()),
        }
    }

    /// Packs an f32 matrix on the CPU; on CUDA in bf16 rounds it, in the layout in which it is stored. On other devices and in other types
    /// products read the matrix itself, which is returned.
    ///
    /// # Errors
    /// In bf16 when the weight is not f32 on the CPU or CUDA, or the device has no bf16 ([`Precision::check`]); when the weight is packed
    /// already, in another precision.
    pub fn pack(&self, precision: Precision) -> Result<Self> {
        if let Self::Packed(weight) = self {
            weight.check_precision(precision)?;
            return Ok(self.clone());
        }
        let weight = self.matrix()?;
        if is_cpu_f32(&weight) {
            return Ok(Self::Packed(PackedWeight::new(&weight, precision)?));
        }
        match precision {
            Precision::F32 => Ok(self.clone()),
            Precision::Bf16 if gpu_of(&weight).is_some() => {
                precision.check(weight.device())?;
                self.rounded()
            }
            Precision::Bf16 => {
                let (dtype, device) = (weight.dtype(), weight.device().location());
                bail!("weights in bf16: expected f32 on the CPU or CUDA, got {dtype:?} on {device:?}")
            }
        }
    }

    /// The matrix in bf16, in the layout in which it is stored.
    fn rounded(&self) -> Result<Self> {
        match self {
            Self::Dense(weight) => Ok(Self::Dense(weight.to_dtype(DType::BF16)?.into())),
            Self::Transposed(weight) => Ok(Self::Transposed(weight.to_dtype(DType::BF16)?.into())),
            Self::Packed(_) => is_packed(),
        }
    }

    /// `x W` in f32, row after row, for `x` `[M, in]`; it replaces what `y` held.
    ///
    /// # Errors
    /// When shapes, types or devices do not fit.
    pub fn product(&self, x: &Tensor, y: &mut Vec<f32>) -> Result<()> {
        let Self::Packed(weight) = self else {
            let product = match gpu_of(x) {
                Some(gpu) => gpu.logits(x, self)?.narrow(1, 0, self.dims2()?.1)?,
                None => x.matmul(&self.matrix()?)?.to_dtype(DType::F32)?,
            };
            *y = product.flatten_all()?.to_vec1()?;
            return Ok(());
        };
        let ((m, k), (n_in, n_out)) = (x.dims2()?, weight.dims2());
        if k != n_in {
            bail!("packed product: expected an input [M, {n_in}], got [{m}, {k}]");
        }
        y.resize(m * n_out, 0.0);
        with_slices("packed product", [x], |[x]| weight.multiply(x, m, y, n_out))
    }

    /// [`Weight::product`] of f32 inputs on CUDA, which stays there, outside of any gradient graph: the first `out` numbers of each row of
    /// `[M, S]` f32.
    ///
    /// # Errors
    /// When shapes, types or devices do not fit.
    pub fn product_on_gpu(&self, x: &Tensor) -> Result<Tensor> {
        match gpu_of(x) {
            Some(gpu) => gpu.logits(x, self),
            None => {
                bail!("product: expected f32 on CUDA, got {:?} on {:?}", x.dtype(), x.device().location())
            }
        }
    }

    /// Whether candle's graph tracks it.
    pub(crate) fn is_tracked(&self) -> bool {
        self.stored().is_ok_and(|weight| weight.track_op())
    }
}

/// The error where a matrix is needed.
fn is_packed<T>() -> Result<T> {
    bail!("expected a weight as a matrix, got one that is packed for inference on the CPU")
}

/// The elements of a weight on the CPU; a matrix is viewed as `W` `[in, out]` in either layout.
#[derive(Clone, Debug)]
pub(crate) enum WeightElements<'a> {
    Dense(Matrix<'a>),
    Transposed(Matrix<'a>),
    Packed(PackedWeight),
}

impl<'a> WeightElements<'a> {
    /// `(in, out)`.
    pub(crate) fn dims2(&self) -> (usize, usize) {
        match self {
            Self::Dense(weight) | Self::Transposed(weight) => (weight.rows, weight.columns),
            Self::Packed(weight) => weight.dims2(),
        }
    }

    /// `W`, which must not be packed.
    pub(crate) fn matrix(&self) -> Result<Matrix<'a>> {
        match self {
            Self::Dense(weight) | Self::Transposed(weight) => Ok(*weight),
            Self::Packed(_) => is_packed(),
        }
    }
}

impl Parts<Read> for Weight {
    type Elements<'a> = WeightElements<'a>;

    fn tensors<'t>(&'t self, tensors: &mut Vec<&'t Tensor>) {
        tensors.extend(self.stored().map(|weight| &**weight));
    }

    fn elements<'a>(&self, slices: &mut impl Iterator<Item = &'a [f32]>) -> Result<WeightElements<'a>> {
        let mut matrix = |weight: &Tensor| {
            let (rows, columns) = weight.dims2()?;
            let data = Parts::<Read>::elements(weight, slices)?;
            Ok::<_, candle_core::Error>(Matrix { rows, ..Matrix::new(data, columns) })
        };
        match self {
            Self::Dense(weight) => Ok(WeightElements::Dense(matrix(weight)?)),
            Self::Transposed(weight) => Ok(WeightElements::Transposed(matrix(weight)?.t())),
            Self::Packed(weight) => Ok(WeightElements::Packed(weight.clone())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, random};

    /// The two layouts are two ways to store one matrix.
    #[test]
    fn layouts_hold_the_same_matrix() -> Result<()> {
        let (w, x) = (random(&[3, 50], 1)?, random(&[4, 3], 2)?);
        let (dense, transposed) = (Weight::from(w.clone()), Weight::Transposed(w.t()?.contiguous()?.into()));
        assert_eq!((transposed.dims2()?, transposed.stored()?.dims()), ((3, 50), &[50, 3][..]));
        assert_close("matrix", &transposed.matrix()?, &dense.matrix()?, 0.0, 0.0);
        let mut precisions = vec![Precision::F32];
        precisions.extend(Some(Precision::Bf16).filter(|bf16| bf16.check(x.device()).is_ok()));
        for precision in precisions {
            let (mut got, mut want) = (Vec::new(), Vec::new());
            transposed.pack(precision)?.product(&x, &mut got)?;
            dense.pack(precision)?.product(&x, &mut want)?;
            assert_eq!(got, want, "{precision:?}");
        }
        let (mut got, mut want) = (Vec::new(), Vec::new());
        transposed.product(&x, &mut got)?;
        dense.product(&x, &mut want)?;
        let got = Tensor::from_vec(got, (4, 50), x.device())?;
        assert_close("product", &got, &Tensor::from_vec(want, (4, 50), x.device())?, 1e-6, 1e-6);
        Ok(())
    }

    #[test]
    fn a_packed_weight_has_no_matrix() -> Result<()> {
        let packed = Weight::Transposed(random(&[5, 3], 1)?.into()).pack(Precision::F32)?;
        assert_eq!(packed.dims2()?, (3, 5));
        let errors = [packed.stored().map(drop), packed.matrix().map(drop)];
        assert!(errors.into_iter().all(|e| e.unwrap_err().to_string().contains("packed for inference")));
        Ok(())
    }
}
