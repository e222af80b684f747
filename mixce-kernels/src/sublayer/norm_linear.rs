//! A norm and affine maps side by side: the way into attention.

use candle_core::{Result, Tensor, bail};

use super::{Branch, BranchGradient, MapsNeighbours, Normed, block_buffer, blocks, check, check_composed};
use crate::device::{gpu_of, has_backward_kernels};
use crate::linear::SideBySide;
use crate::parts::{read, write};
use crate::{Affine, AffineGradients, Matrix, Norm, Precision};

/// `y = [n W_1 + b_1 | n W_2 + b_2 | ..]` of the normalised rows `n = norm(x)`.
#[derive(Clone, Debug)]
pub struct NormLinear {
    /// `[C]`.
    pub norm: Norm,
    /// `[C, out_i]` each, at least one: all three of attention in one (GPT-2), or queries, keys and values.
    pub maps: Vec<Affine>,
}

/// Sums of the gradients of a [`NormLinear`].
#[derive(Clone, Debug)]
pub struct NormLinearGradients {
    /// Of the norm.
    pub norm: AffineGradients,
    /// Of the maps, in their order.
    pub maps: Vec<AffineGradients>,
}

impl NormLinearGradients {
    /// Those that are left when the gradients of the maps' biases are added.
    fn without_biases(&self) -> Self {
        let without = |map: &AffineGradients| AffineGradients { bias: None, ..map.clone() };
        Self { norm: self.norm.clone(), maps: self.maps.iter().map(without).collect() }
    }
}

impl NormLinear {
    /// The same values outside of any gradient graph.
    #[must_use]
    pub fn detach(&self) -> Self {
        Self { norm: self.norm.detach(), maps: self.maps.iter().map(Affine::detach).collect() }
    }

    /// The same with its weights packed for inference.
    ///
    /// # Errors
    /// As [`crate::Weight::pack`].
    pub fn pack(&self, precision: Precision) -> Result<Self> {
        let maps = self.maps.iter().map(|map| map.pack(precision)).collect::<Result<_>>()?;
        Ok(Self { norm: self.norm.clone(), maps })
    }

    /// `x` `[N, C]` gives `[N, out_1 + out_2 + ..]`.
    ///
    /// # Errors
    /// When shapes do not fit, or `precision` is not available (see the [module](super)).
    pub fn forward(&self, x: &Tensor, precision: Precision) -> Result<Tensor> {
        self.forward_among(x, None, precision)
    }

    /// [`NormLinear::forward`], given the rows of `x` as the sublayer before has normalised them by this sublayer's norm, if it has.
    ///
    /// # Errors
    /// As [`NormLinear::forward`].
    pub fn forward_among(&self, x: &Tensor, normed: Option<Normed>, precision: Precision) -> Result<Tensor> {
        let n_out = self.check(x, precision)?;
        let tracked = x.track_op() || self.norm.is_tracked() || self.maps.iter().any(Affine::is_tracked);
        if !has_backward_kernels(x) || tracked {
            check_composed("norm_linear", x, precision)?;
            let normed = self.norm.forward(x)?;
            let outputs = self.maps.iter().map(|map| map.forward(&normed)).collect::<Result<Vec<_>>>()?;
            return side_by_side(outputs);
        }
        if let Some(gpu) = gpu_of(x) {
            return gpu.norm_linear(self, (x, normed), precision);
        }
        let (n, c) = x.dims2()?;
        let mut y = vec![0f32; n * n_out];
        read("norm_linear", (x, &self.norm, &self.maps[..]), |(x, norm, maps)| {
            let (mut normed, maps) = (block_buffer(n, c), SideBySide(maps));
            for (start, rows) in blocks(n) {
                let normed = &mut normed[..rows * c];
                norm.forward(&x[start * c..][..rows * c], normed);
                let y = &mut y[start * n_out..][..rows * n_out];
                maps.forward(precision, Matrix::new(normed, c), y);
            }
            Ok(())
        })?;
        Tensor::from_vec(y, (n, n_out), x.device())
    }

    /// Given the gradient `dy` `[N, out_1 + out_2 + ..]` of the result: adds that of the input `x` to `dx` and those of the parameters
    /// to `gradients`, in place.
    ///
    /// # Errors
    /// When shapes do not fit, a tensor has no kernels ([`has_backward_kernels`]) or a weight is packed.
    pub fn backward(
        &self,
        x: &Tensor,
        dy: &Tensor,
        dx: &Tensor,
        gradients: &NormLinearGradients,
        precision: Precision,
    ) -> Result<()> {
        self.backward_among(x, dy, dx, gradients, precision, MapsNeighbours::default())?;
        Ok(())
    }

    /// [`NormLinear::backward`], in one pass with its neighbours where that is possible: returns the gradient of the branch below if it was
    /// computed.
    ///
    /// # Errors
    /// As [`NormLinear::backward`].
    pub fn backward_among(
        &self,
        x: &Tensor,
        dy: &Tensor,
        dx: &Tensor,
        gradients: &NormLinearGradients,
        precision: Precision,
        MapsNeighbours { biases_added, below }: MapsNeighbours<'_>,
    ) -> Result<Option<BranchGradient>> {
        let (op, (n, c)) = ("norm_linear backward", x.dims2()?);
        let n_out = self.check(x, precision)?;
        check("gradient of norm_linear", dy, &[n, n_out])?;
        check("gradient of norm_linear's input", dx, &[n, c])?;
        self.check_gradients(gradients)?;
        let rest;
        let gradients = match biases_added {
            true => {
                rest = gradients.without_biases();
                &rest
            }
            false => gradients,
        };
        if let Some(gpu) = gpu_of(x) {
            let below = below.map(Branch::active).transpose()?;
            return gpu.norm_linear_backward(self, x, dy, dx, gradients, (precision, below));
        }
        let sums = (dx, &gradients.norm, &gradients.maps[..]);
        read(op, (x, dy, &self.norm, &self.maps[..]), |(x, dy, norm, maps)| {
            write(op, sums, |(dx, mut dnorm, mut dmaps)| {
                let (mut normed, maps) = (block_buffer(n, c), SideBySide(maps));
                for (start, rows) in blocks(n) {
                    let normed = &mut normed[..rows * c];
                    let (x, dx) = (&x[start * c..][..rows * c], &mut dx[start * c..][..rows * c]);
                    let dy = &dy[start * n_out..][..rows * n_out];
                    norm.forward(x, normed);
                    maps.parameter_gradients(precision, Matrix::new(normed, c), dy, &mut dmaps);
                    // The normalised rows have served: their memory takes their gradient.
                    maps.input_gradient(precision, dy, normed)?;
                    norm.backward(x, normed, dx, &mut dnorm);
                }
                Ok(None)
            })
        })
    }

    /// All outputs; refuses parameters that do not fit `x`.
    fn check(&self, x: &Tensor, precision: Precision) -> Result<usize> {
        let (_, c) = x.dims2()?;
        self.norm.check(x)?;
        if self.maps.is_empty() {
            bail!("norm_linear: expected at least one map, got none");
        }
        self.maps.iter().map(|map| map.check("norm_linear's map", c, precision)).sum()
    }

    /// Refuses sums that do not fit the parameters.
    fn check_gradients(&self, gradients: &NormLinearGradients) -> Result<()> {
        let (maps, sums) = (self.maps.len(), gradients.maps.len());
        if maps != sums {
            bail!("gradient of norm_linear: expected sums for {maps} maps, got {sums}");
        }
        self.norm.check_gradients("norm_linear's norm", &gradients.norm)?;
        let mut pairs = self.maps.iter().zip(&gradients.maps);
        pairs.try_for_each(|(map, sums)| sums.check_map("norm_linear's map", map))
    }
}

/// Tensors `[N, out_i]` as one `[N, out_1 + out_2 + ..]`; a single one is not copied.
pub(super) fn side_by_side(mut outputs: Vec<Tensor>) -> Result<Tensor> {
    match outputs.pop() {
        Some(only) if outputs.is_empty() => Ok(only),
        last => {
            outputs.extend(last);
            Tensor::cat(&outputs, 1)
        }
    }
}
