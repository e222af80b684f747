//! Borrowing the elements of tensors and parameters together, for a fused operation.

use candle_core::{Result, Tensor, bail};

use crate::cpu::{with_list, with_list_mut};

/// What elements are borrowed for.
pub(crate) trait Access {
    /// The elements of one tensor.
    type Slice<'a>;
}

/// To be read.
pub(crate) enum Read {}

/// To be written to.
pub(crate) enum Write {}

impl Access for Read {
    type Slice<'a> = &'a [f32];
}

impl Access for Write {
    type Slice<'a> = &'a mut [f32];
}

/// Tensors whose elements are borrowed together: one, those of a part of a sublayer, or several parts.
pub(crate) trait Parts<A: Access> {
    /// The elements in the form in which operations take them.
    type Elements<'a>;

    /// Appends the tensors.
    fn tensors<'t>(&'t self, tensors: &mut Vec<&'t Tensor>);

    /// Takes as many slices as there are tensors, in their order.
    fn elements<'a>(&self, slices: &mut impl Iterator<Item = A::Slice<'a>>) -> Result<Self::Elements<'a>>;
}

impl<A: Access> Parts<A> for Tensor {
    type Elements<'a> = A::Slice<'a>;

    fn tensors<'t>(&'t self, tensors: &mut Vec<&'t Tensor>) {
        tensors.push(self);
    }

    fn elements<'a>(&self, slices: &mut impl Iterator<Item = A::Slice<'a>>) -> Result<Self::Elements<'a>> {
        match slices.next() {
            Some(slice) => Ok(slice),
            None => bail!("expected the elements of another tensor"),
        }
    }
}

/// No tensor.
impl<A: Access> Parts<A> for () {
    type Elements<'a> = ();

    fn tensors<'t>(&'t self, _: &mut Vec<&'t Tensor>) {}

    fn elements<'a>(&self, _: &mut impl Iterator<Item = A::Slice<'a>>) -> Result<()> {
        Ok(())
    }
}

impl<A: Access, P: Parts<A>> Parts<A> for Option<P> {
    type Elements<'a> = Option<P::Elements<'a>>;

    fn tensors<'t>(&'t self, tensors: &mut Vec<&'t Tensor>) {
        self.iter().for_each(|part| part.tensors(tensors));
    }

    fn elements<'a>(&self, slices: &mut impl Iterator<Item = A::Slice<'a>>) -> Result<Self::Elements<'a>> {
        self.as_ref().map(|part| part.elements(slices)).transpose()
    }
}

impl<A: Access, P: Parts<A>> Parts<A> for [P] {
    type Elements<'a> = Vec<P::Elements<'a>>;

    fn tensors<'t>(&'t self, tensors: &mut Vec<&'t Tensor>) {
        self.iter().for_each(|part| part.tensors(tensors));
    }

    fn elements<'a>(&self, slices: &mut impl Iterator<Item = A::Slice<'a>>) -> Result<Self::Elements<'a>> {
        self.iter().map(|part| part.elements(slices)).collect()
    }
}

impl<A: Access, P: Parts<A>, const N: usize> Parts<A> for [P; N] {
    type Elements<'a> = Vec<P::Elements<'a>>;

    fn tensors<'t>(&'t self, tensors: &mut Vec<&'t Tensor>) {
        self[..].tensors(tensors);
    }

    fn elements<'a>(&self, slices: &mut impl Iterator<Item = A::Slice<'a>>) -> Result<Self::Elements<'a>> {
        self[..].elements(slices)
    }
}

impl<A: Access, P: Parts<A> + ?Sized> Parts<A> for &P {
    type Elements<'a> = P::Elements<'a>;

    fn tensors<'t>(&'t self, tensors: &mut Vec<&'t Tensor>) {
        (**self).tensors(tensors);
    }

    fn elements<'a>(&self, slices: &mut impl Iterator<Item = A::Slice<'a>>) -> Result<Self::Elements<'a>> {
        (**self).elements(slices)
    }
}

macro_rules! tuple {
    ($($part:ident),+) => {
        #[expect(non_snake_case, reason = "the variables are named like their types")]
        impl<A: Access, $($part: Parts<A>),+> Parts<A> for ($($part,)+) {
            type Elements<'a> = ($($part::Elements<'a>,)+);

            fn tensors<'t>(&'t self, tensors: &mut Vec<&'t Tensor>) {
                let ($($part,)+) = self;
                $($part.tensors(tensors);)+
            }

            fn elements<'a>(
                &self,
                slices: &mut impl Iterator<Item = A::Slice<'a>>,
            ) -> Result<Self::Elements<'a>> {
                let ($($part,)+) = self;
                Ok(($($part.elements(slices)?,)+))
            }
        }
    };
}
tuple!(P, Q);
tuple!(P, Q, R);
tuple!(P, Q, R, S);
tuple!(P, Q, R, S, T);

/// Runs `f` on the elements of f32 CPU tensors.
///
/// # Errors
/// When a tensor is of another type or elsewhere, or `f` fails.
pub(crate) fn read<P: Parts<Read>, T>(
    op: &'static str,
    parts: P,
    f: impl FnOnce(P::Elements<'_>) -> Result<T>,
) -> Result<T> {
    let mut tensors = Vec::new();
    parts.tensors(&mut tensors);
    with_list(op, &tensors, |slices| f(parts.elements(&mut slices.into_iter())?))
}

/// Runs `f` on the elements of contiguous f32 CPU tensors, which share no memory and which it may change in place.
///
/// # Errors
/// As [`read`], and when a tensor is not contiguous.
pub(crate) fn write<P: Parts<Write>, T>(
    op: &'static str,
    parts: P,
    f: impl FnOnce(P::Elements<'_>) -> Result<T>,
) -> Result<T> {
    let mut tensors = Vec::new();
    parts.tensors(&mut tensors);
    with_list_mut(op, &tensors, |slices| f(parts.elements(&mut slices.into_iter())?))
}
