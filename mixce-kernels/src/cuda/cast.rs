//! Operands of matrix products.

use candle_core::{DType, Result, Tensor};

use super::matmul::Matrix;
use super::{Array, Element, Grid, OnGpu, launch, uninitialised, with_arrays};
use crate::parameter::{Copied, Rounded, StoredTensor};
use crate::parts::Parts;
use crate::{Affine, Weight};

/// The weight of a map as products read it: `W` `[in, out]`, in the layout in which it is stored.
pub(super) struct Operand {
    stored: Tensor,
    transposed: bool,
}

impl<T: Element> Parts<OnGpu<T>> for Operand {
    type Elements<'a> = Matrix<'a, T>;

    fn tensors<'t>(&'t self, tensors: &mut Vec<&'t Tensor>) {
        tensors.push(&self.stored);
    }

    fn elements<'a>(&self, slices: &mut impl Iterator<Item = Array<'a, T>>) -> Result<Matrix<'a, T>> {
        let (_, columns) = self.stored.dims2()?;
        let matrix = Matrix::new(Parts::<OnGpu<T>>::elements(&self.stored, slices)?, columns);
        Ok(if self.transposed { matrix.t() } else { matrix })
    }
}

/// The weights of maps as operands of type T: of parameters in training the copies that are kept.
///
/// # Errors
/// When a weight is packed, or the device fails.
pub(super) fn operands<T: Element>(maps: &[&Affine]) -> Result<Vec<Operand>> {
    Ok(operands_and_biases::<T>(maps, &[])?.0)
}

/// [`operands`], and for products in bf16 the biases of `biased`, some of the products, in this type.
pub(super) fn operands_and_biases<T: Element>(
    maps: &[&Affine],
    biased: &[&Affine],
) -> Result<(Vec<Operand>, Vec<Option<Tensor>>)> {
    let mut stored = maps.iter().map(|map| map.weight.stored()).collect::<Result<Vec<_>>>()?;
    stored.extend(biased.iter().filter_map(|map| bias_in_bf16::<T>(map)));
    let mut all = rounded_or_kept::<T>(&stored)?.into_iter();
    let operand = |(map, stored): (&&Affine, Tensor)| {
        let transposed = matches!(map.weight, Weight::Transposed(_));
        Operand { stored, transposed }
    };
    let operands = maps.iter().zip(all.by_ref()).map(operand).collect();
    let biases = biased.iter().map(|map| bias_in_bf16::<T>(map).and_then(|_| all.next()));
    Ok((operands, biases.collect()))
}

/// The bias of a map, if products are in bf16.
fn bias_in_bf16<T: Element>(map: &Affine) -> Option<&StoredTensor> {
    map.bias.as_ref().filter(|_| T::DTYPE == DType::BF16)
}

/// [`rounded`], but of parameters the copies that are kept. Only those that are missing or outdated are rounded.
pub(super) fn rounded_or_kept<T: Element>(tensors: &[&StoredTensor]) -> Result<Vec<Tensor>> {
    if T::DTYPE == DType::F32 {
        return Ok(tensors.iter().map(|tensor| (***tensor).clone()).collect());
    }
    let is_rounded = |tensor: &Tensor| tensor.dtype() == T::DTYPE;
    let others = tensors.iter().filter(|tensor| tensor.rounded().is_none() && !is_rounded(tensor));
    let mut others = rounded::<T>(&others.map(|tensor| &***tensor).collect::<Vec<_>>())?.into_iter();
    let mut operands = Vec::with_capacity(tensors.len());
    for tensor in tensors {
        match tensor.rounded() {
            _ if is_rounded(tensor) => operands.push((***tensor).clone()),
            Some(kept) => operands.push(current(kept, tensor)?),
            None => operands.extend(others.next()),
        }
    }
    Ok(operands)
}

/// The copy of a parameter with these values, which is made or rounded again if it has to be.
fn current(kept: &Rounded, values: &Tensor) -> Result<Tensor> {
    let mut copied = kept.lock();
    let copy = match copied.copy.take() {
        Some(copy) => copy,
        None => uninitialised(values.shape(), DType::BF16, values)?,
    };
    if !copied.is_current {
        cast([values; TENSORS], [&copy; TENSORS], 1)?;
    }
    *copied = Copied { copy: Some(copy.clone()), is_current: true };
    Ok(copy)
}

/// Tensors of type T as they are, or copies of f32 ones rounded to bf16.
pub(super) fn rounded<T: Element>(tensors: &[&Tensor]) -> Result<Vec<Tensor>> {
    if T::DTYPE == DType::F32 || tensors.iter().all(|tensor| tensor.dtype() == T::DTYPE) {
        return Ok(tensors.iter().map(|tensor| (*tensor).clone()).collect());
    }
    let copy = |tensor: &&Tensor| uninitialised(tensor.shape(), DType::BF16, tensor);
    let copies = tensors.iter().map(copy).collect::<Result<Vec<_>>>()?;
    for (some, copies) in tensors.chunks(TENSORS).zip(copies.chunks(TENSORS)) {
        // Unused slots are filled with the first tensor and get no block.
        let x = std::array::from_fn(|i| *some.get(i).unwrap_or(&some[0]));
        let y = std::array::from_fn(|i| copies.get(i).unwrap_or(&copies[0]));
        cast(x, y, some.len())?;
    }
    Ok(copies)
}

/// Tensors of a launch.
const TENSORS: usize = 3;

/// Rounds the first `count` of these tensors to bf16.
fn cast(x: [&Tensor; TENSORS], y: [&Tensor; TENSORS], count: usize) -> Result<()> {
    let op = "cast";
    with_arrays::<f32, _, TENSORS, 0>(op, x, [], |gpu, x, []| {
        with_arrays::<half::bf16, _, 0, TENSORS>(op, [], y, |_, [], [y0, y1, y2]| {
            let ([x0, x1, x2], [n0, n1, n2]) = (x, x.map(|x| x.len as u64));
            let longest = x.iter().map(|x| x.len).max().unwrap_or(0);
            let mut grid = Grid::fours(longest);
            grid.blocks.1 = count as u32;
            let name = "mixce_cast_bf16";
            // SAFETY: the arguments are those of the kernel; a result has the shape of its tensor.
            unsafe { launch!(gpu, "cast", name, grid, x0, x1, x2, y0, y1, y2, n0, n1, n2) }
        })
    })
}
