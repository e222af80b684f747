//! Affine maps: matrix products, biases and the sums of their gradients.

use candle_core::{Result, bail};

use super::matmul::{Epilogue, Matrix};
use super::{Array, Element, Gpu, Grid, launch, name_of, unsigned};
use crate::Activation;
use crate::affine::Sums;

/// An affine map on the device.
#[derive(Clone, Copy)]
pub(super) struct Map<'a, T> {
    /// `W` `[in, out]`, in whatever layout it is stored.
    pub(super) weight: Matrix<'a, T>,
    /// `[out]`.
    pub(super) bias: Option<Array<'a, f32>>,
    /// The same in bf16, the only type in which a product in bf16 adds a bias itself.
    pub(super) rounded_bias: Option<Array<'a, T>>,
}

impl<'a, T: Copy> Map<'a, T> {
    /// Maps of these weights and biases.
    pub(super) fn list(
        weights: Vec<Matrix<'a, T>>,
        biases: Vec<Option<Array<'a, f32>>>,
        rounded: Vec<Option<Array<'a, T>>>,
    ) -> Vec<Self> {
        let all = weights.into_iter().zip(biases).zip(rounded);
        all.map(|((weight, bias), rounded_bias)| Self { weight, bias, rounded_bias }).collect()
    }

    fn n_out(self) -> usize {
        self.weight.columns()
    }

    /// Maps side by side, each with its first column.
    fn columns(maps: &[Self]) -> impl Iterator<Item = (usize, &Self)> {
        maps.iter().scan(0, |next, map| {
            let first = *next;
            *next += map.n_out();
            Some((first, map))
        })
    }
}

impl Gpu<'_> {
    /// `y = x W + b` of f32 arrays, with `W` `[in, out]`.
    pub(crate) fn linear(
        &self,
        x: Array<'_, f32>,
        (weight, bias): (Array<'_, f32>, Array<'_, f32>),
        y: Array<'_, f32>,
    ) -> Result<()> {
        let weight = Matrix::new(weight, bias.len);
        let (x, y) = (Matrix::new(x, weight.rows()), Matrix::new(y, bias.len));
        self.map(x, Map { weight, bias: Some(bias), rounded_bias: None }, y)
    }

    /// `y = x W + b`
    fn map<T: Element>(&self, x: Matrix<'_, T>, map: Map<'_, T>, y: Matrix<'_, T>) -> Result<()> {
        if let Some(bias) = map.rounded_bias
            && self.matmul_with(y, x, map.weight, Epilogue::Bias(bias))?
        {
            return Ok(());
        }
        self.matmul(y, false, x, map.weight)?;
        let Some(bias) = map.bias else { return Ok(()) };
        let (op, n, c) = ("linear", y.rows(), map.n_out());
        if bias.len != c {
            bail!("{op}: expected {c} elements of the bias, got {}", bias.len);
        }
        let (name, grid, columns) =
            (name_of!("mixce_add_bias", T), Grid::packs(n, c, T::PACK), unsigned(op, c)?);
        let (y, stride) = y.address_and_stride();
        // SAFETY: the arguments are those of the kernel; y has n rows of c elements, the bias has c.
        unsafe { launch!(self, "linear", name, grid, y, stride, bias, n as u64, columns) }
    }

    /// `y = [x W_1 + b_1 | x W_2 + b_2 | ..]`
    pub(super) fn maps<T: Element>(
        &self,
        x: Matrix<'_, T>,
        maps: &[Map<'_, T>],
        y: Matrix<'_, T>,
    ) -> Result<()> {
        Map::columns(maps)
            .try_for_each(|(first, map)| self.map(x, *map, y.narrow_columns(first, map.n_out())?))
    }

    /// `y = f(x W + b)`; `x W + b` goes to `pre_activation` if it is wanted.
    pub(super) fn active_map<T: Element>(
        &self,
        f: Activation,
        x: Matrix<'_, T>,
        map: Map<'_, T>,
        y: Array<'_, T>,
        pre_activation: Option<Array<'_, T>>,
    ) -> Result<()> {
        let c = map.n_out();
        if let (Activation::GeluNew, Some(bias)) = (f, map.rounded_bias)
            && self.matmul_with(Matrix::new(y, c), x, map.weight, Epilogue::Gelu { bias, pre_activation })?
        {
            return Ok(());
        }
        self.matmul(Matrix::new(y, c), false, x, map.weight)?;
        self.bias_activation(f, y, (c, map.bias), pre_activation)
    }

    /// `dx = dy W^T`, or `dx += dy W^T`.
    pub(super) fn input_gradient<T: Element>(
        &self,
        weight: Matrix<'_, T>,
        dy: Matrix<'_, T>,
        dx: Matrix<'_, T>,
        add: bool,
    ) -> Result<()> {
        self.matmul(dx, add, dy, weight.t())
    }

    /// `dx = dy_1 W_1^T + dy_2 W_2^T + ..`, rounded to its type after each.
    pub(super) fn input_gradients<T: Element>(
        &self,
        maps: &[Map<'_, T>],
        dy: Matrix<'_, T>,
        dx: Matrix<'_, T>,
    ) -> Result<()> {
        Map::columns(maps).try_for_each(|(first, map)| {
            self.input_gradient(map.weight, dy.narrow_columns(first, map.n_out())?, dx, first > 0)
        })
    }

    /// `dW += x^T dy` in the layout of the weight, `db += sum_rows dy`.
    pub(super) fn parameter_gradients<T: Element>(
        &self,
        weight: Matrix<'_, T>,
        x: Matrix<'_, T>,
        dy: Matrix<'_, T>,
        sums: Sums<Array<'_, f32>>,
    ) -> Result<()> {
        self.weight_gradient(weight, x, dy, sums.weight)?;
        let Some(bias) = sums.bias else { return Ok(()) };
        self.add_column_sums(dy, bias)
    }

    /// `dW += x^T dy` in the layout of the weight.
    pub(super) fn weight_gradient<T: Element>(
        &self,
        weight: Matrix<'_, T>,
        x: Matrix<'_, T>,
        dy: Matrix<'_, T>,
        sums: Array<'_, f32>,
    ) -> Result<()> {
        match weight.is_transposed() {
            _ if dy.rows() == 0 => Ok(()),
            true => self.matmul(Matrix::new(sums, x.columns()), true, dy.t(), x),
            false => self.matmul(Matrix::new(sums, dy.columns()), true, x.t(), dy),
        }
    }

    /// [`Gpu::parameter_gradients`] of each map.
    pub(super) fn parameters_gradients<T: Element>(
        &self,
        maps: &[Map<'_, T>],
        x: Matrix<'_, T>,
        dy: Matrix<'_, T>,
        sums: &[Sums<Array<'_, f32>>],
    ) -> Result<()> {
        Map::columns(maps).zip(sums).try_for_each(|((first, map), sums)| {
            self.parameter_gradients(map.weight, x, dy.narrow_columns(first, map.n_out())?, *sums)
        })
    }
}
