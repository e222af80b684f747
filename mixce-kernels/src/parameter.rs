//! Trainable tensors, and their copies in bf16 for matrix products on CUDA.

use std::ops::{Deref, Range};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::{DType, Result, Tensor, Var};

use crate::parts::{Access, Parts};

/// A trainable f32 tensor. On CUDA a product in bf16 that reads it makes a copy rounded to bf16, which is kept: [`crate::adamw_step`]
/// writes both in one pass.
///
/// The values change through this type alone, so that no product reads an outdated copy: any other change than an update marks the
/// copy as outdated, and the next product that reads it rounds the values again. Clones share values and copy.
#[derive(Clone, Debug)]
pub struct Parameter {
    values: Var,
    rounded: Rounded,
}

impl Parameter {
    /// A parameter with a copy of these values in f32.
    ///
    /// # Errors
    /// When the device is out of memory.
    pub fn new(values: &Tensor) -> Result<Self> {
        // Detaching copies it even if it is a variable.
        let values = Var::from_tensor(&values.detach().to_dtype(DType::F32)?)?;
        Ok(Self { values, rounded: Rounded::default() })
    }

    /// The values, a variable of candle's graph, which must only be read.
    #[must_use]
    pub fn values(&self) -> &Tensor {
        &self.values
    }

    /// The values as a model reads them, with the copy.
    #[must_use]
    pub fn stored(&self) -> StoredTensor {
        StoredTensor { values: self.values.as_tensor().clone(), rounded: Some(self.rounded.clone()) }
    }

    /// Replaces the values.
    ///
    /// # Errors
    /// When the shape, type or device differs.
    pub fn set(&self, values: &Tensor) -> Result<()> {
        self.rounded.invalidate();
        self.values.set(values)
    }

    /// Runs `f`, which may change the values of these parameters in place.
    pub fn edit<'a, R>(parameters: impl IntoIterator<Item = &'a Self>, f: impl FnOnce(&[&Tensor]) -> R) -> R {
        let parameters: Vec<&Self> = parameters.into_iter().collect();
        let values: Vec<&Tensor> = parameters.iter().map(|parameter| parameter.values()).collect();
        let result = f(&values);
        parameters.iter().for_each(|parameter| parameter.rounded.invalidate());
        result
    }

    /// Some entries in row-major order, which share its memory, and the copy: what an update changes.
    ///
    /// # Errors
    /// When there are fewer entries.
    pub fn part(&self, entries: &Range<usize>) -> Result<(Tensor, &Rounded)> {
        let values = match *entries == (0..self.values.elem_count()) {
            true => self.values.as_tensor().clone(),
            false => {
                self.values.as_detached_tensor().flatten_all()?.narrow(0, entries.start, entries.len())?
            }
        };
        Ok((values, &self.rounded))
    }
}

/// The copy of a [`Parameter`] in bf16: none until a product on CUDA has read it. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Rounded(Arc<Mutex<Copied>>);

/// A copy, and whether it has the parameter's present values.
#[derive(Debug, Default)]
pub(crate) struct Copied {
    pub(crate) copy: Option<Tensor>,
    pub(crate) is_current: bool,
}

impl Rounded {
    /// The copy, if there is one that has the present values.
    #[must_use]
    pub fn current(&self) -> Option<Tensor> {
        let copied = self.lock();
        copied.copy.clone().filter(|_| copied.is_current)
    }

    /// The values have changed, and the copy has not.
    pub(crate) fn invalidate(&self) {
        self.lock().is_current = false;
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Copied> {
        // A panic cannot leave it half written.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A tensor as it is stored, and its copy in bf16 if it is a [`Parameter`], or one that is read in many steps of inference.
#[derive(Clone, Debug)]
pub struct StoredTensor {
    values: Tensor,
    rounded: Option<Rounded>,
}

impl StoredTensor {
    /// The same outside of any gradient graph.
    #[must_use]
    pub fn detach(&self) -> Self {
        Self { values: self.values.detach(), rounded: self.rounded.clone() }
    }

    /// The same values, which do not change any more, with a copy that is kept from the first product that reads it.
    pub(crate) fn keeping_copy(&self) -> Self {
        Self { values: self.values.clone(), rounded: Some(self.rounded.clone().unwrap_or_default()) }
    }

    /// The tensor by itself.
    #[must_use]
    pub fn into_tensor(self) -> Tensor {
        self.values
    }

    /// The copy, current or not, where one is kept.
    #[must_use]
    pub fn rounded(&self) -> Option<&Rounded> {
        self.rounded.as_ref()
    }
}

impl From<Tensor> for StoredTensor {
    fn from(values: Tensor) -> Self {
        Self { values, rounded: None }
    }
}

impl Deref for StoredTensor {
    type Target = Tensor;

    fn deref(&self) -> &Tensor {
        &self.values
    }
}

impl<A: Access> Parts<A> for StoredTensor {
    type Elements<'a> = A::Slice<'a>;

    fn tensors<'t>(&'t self, tensors: &mut Vec<&'t Tensor>) {
        tensors.push(&self.values);
    }

    fn elements<'a>(&self, slices: &mut impl Iterator<Item = A::Slice<'a>>) -> Result<Self::Elements<'a>> {
        Parts::<A>::elements(&self.values, slices)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::random;

    /// A copy is made by hand here, because only products on CUDA make one.
    #[test]
    fn every_change_but_an_update_outdates_the_copy() -> Result<()> {
        let parameter = Parameter::new(&random(&[2, 3], 1)?)?;
        let (rounded, other) =
            (parameter.stored().rounded().cloned().unwrap_or_default(), random(&[2, 3], 2)?);
        let has_copy = |is_current| {
            *rounded.lock() = Copied { copy: Some(other.clone()), is_current };
            parameter.stored().detach().rounded().is_some_and(|rounded| rounded.current().is_some())
        };
        assert!(!has_copy(false) && has_copy(true));
        parameter.set(&other)?;
        assert!(rounded.current().is_none());
        assert!(has_copy(true));
        Parameter::edit([&parameter.clone()], |values| assert_eq!(values[0].dims(), [2, 3]));
        assert!(rounded.current().is_none());
        let (part, _) = parameter.part(&(1..4))?;
        assert_eq!(part.to_vec1::<f32>()?, other.flatten_all()?.to_vec1::<f32>()?[1..4]);
        assert!(parameter.part(&(1..7)).is_err());
        assert!(StoredTensor::from(other.clone()).rounded().is_none());
        Ok(())
    }
}
