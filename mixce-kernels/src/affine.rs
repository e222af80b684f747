//! Weight and bias of an affine map, and their gradients.

use candle_core::{Result, Tensor, bail};

use crate::parameter::StoredTensor;
use crate::parts::{Access, Parts, Read};
use crate::weight::{Weight, WeightElements};
use crate::{Precision, linear};

/// `y = x W + b`, or `y = x W` without a bias.
#[derive(Clone, Debug)]
pub struct Affine {
    /// `W`, from `in` inputs to `out` outputs.
    pub weight: Weight,
    /// `b`, `[out]`.
    pub bias: Option<StoredTensor>,
}

impl Affine {
    /// A map with this weight; a tensor is one `[in, out]`.
    #[must_use]
    pub fn new(weight: impl Into<Weight>, bias: Option<Tensor>) -> Self {
        Self { weight: weight.into(), bias: bias.map(StoredTensor::from) }
    }

    /// The same values outside of any gradient graph.
    #[must_use]
    pub fn detach(&self) -> Self {
        Self { weight: self.weight.detach(), bias: self.bias.as_ref().map(StoredTensor::detach) }
    }

    /// The same map for inference: its weight packed ([`Weight::pack`]), and on CUDA the copy of the bias that products in bf16 read kept.
    ///
    /// # Errors
    /// As [`Weight::pack`].
    pub fn pack(&self, precision: Precision) -> Result<Self> {
        Ok(Self {
            weight: self.weight.pack(precision)?,
            bias: self.bias.as_ref().map(StoredTensor::keeping_copy),
        })
    }

    /// [`linear`] of `x` `[N, in]`: differentiable, on any device.
    ///
    /// # Errors
    /// When shapes do not fit or the weight is packed.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        linear(x, &self.weight.matrix()?, self.bias.as_deref())
    }

    /// Whether candle's graph tracks a parameter.
    pub(crate) fn is_tracked(&self) -> bool {
        self.weight.is_tracked() || self.bias.as_deref().is_some_and(Tensor::track_op)
    }

    /// The outputs of a map for `n_in` inputs and products in `precision`; refuses any other.
    pub(crate) fn check(&self, name: &str, n_in: usize, precision: Precision) -> Result<usize> {
        let (weight_in, n_out) = self.weight.dims2()?;
        if weight_in != n_in {
            bail!(
                "{name}: expected a weight of {n_in} inputs, got one of {weight_in} inputs and {n_out} outputs"
            );
        }
        if let Some(bias) = self.bias.as_ref().filter(|bias| bias.dims() != [n_out]) {
            bail!("{name}: expected a bias [{n_out}], got {:?}", bias.dims());
        }
        if let Weight::Packed(weight) = &self.weight {
            weight.check_precision(precision)?;
        }
        Ok(n_out)
    }
}

/// The elements of an affine map on the CPU; its arithmetic is in [`crate::linear`].
#[derive(Clone, Debug)]
pub(crate) struct AffineElements<'a> {
    pub(crate) weight: WeightElements<'a>,
    /// `[out]`.
    pub(crate) bias: Option<&'a [f32]>,
}

impl Parts<Read> for Affine {
    type Elements<'a> = AffineElements<'a>;

    fn tensors<'t>(&'t self, tensors: &mut Vec<&'t Tensor>) {
        self.weight.tensors(tensors);
        Parts::<Read>::tensors(&self.bias, tensors);
    }

    fn elements<'a>(&self, slices: &mut impl Iterator<Item = &'a [f32]>) -> Result<AffineElements<'a>> {
        let weight = self.weight.elements(slices)?;
        Ok(AffineElements { weight, bias: Parts::<Read>::elements(&self.bias, slices)? })
    }
}

/// Sums of the gradients of a weight and a bias, of an affine map or a norm. Backward passes add to them in place.
#[derive(Clone, Debug)]
pub struct AffineGradients {
    /// Of the shape and layout in which the weight is stored.
    pub weight: Tensor,
    /// Of the bias's shape; there must be one where there is a bias, and none where there is none.
    pub bias: Option<Tensor>,
}

impl AffineGradients {
    /// Refuses sums that do not have the shapes of their parameters.
    pub(crate) fn check(&self, name: &str, weight: &Tensor, bias: Option<&Tensor>) -> Result<()> {
        let sums = [("weight", Some(&self.weight), Some(weight)), ("bias", self.bias.as_ref(), bias)];
        for (what, sum, parameter) in sums {
            match (sum, parameter) {
                (Some(sum), Some(parameter)) if sum.dims() != parameter.dims() => {
                    let (want, got) = (parameter.dims(), sum.dims());
                    bail!("gradient of {name}: expected shape {want:?} for the {what}, got {got:?}");
                }
                (None, Some(_)) => bail!("gradient of {name}: expected a sum for the {what}, got none"),
                (Some(_), None) => {
                    bail!("gradient of {name}: got a sum for a {what}, but there is no {what}")
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// [`AffineGradients::check`] for the parameters of a map, whose weight must not be packed.
    pub(crate) fn check_map(&self, name: &str, map: &Affine) -> Result<()> {
        self.check(name, map.weight.stored()?, map.bias.as_deref())
    }
}

/// The elements of [`AffineGradients`]: S is a slice on the CPU, or an array on the device.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sums<S> {
    /// In the layout in which the weight is stored.
    pub(crate) weight: S,
    pub(crate) bias: Option<S>,
}

impl<A: Access> Parts<A> for AffineGradients {
    type Elements<'a> = Sums<A::Slice<'a>>;

    fn tensors<'t>(&'t self, tensors: &mut Vec<&'t Tensor>) {
        Parts::<A>::tensors(&self.weight, tensors);
        Parts::<A>::tensors(&self.bias, tensors);
    }

    fn elements<'a>(&self, slices: &mut impl Iterator<Item = A::Slice<'a>>) -> Result<Self::Elements<'a>> {
        let weight = Parts::<A>::elements(&self.weight, slices)?;
        Ok(Sums { weight, bias: Parts::<A>::elements(&self.bias, slices)? })
    }
}
