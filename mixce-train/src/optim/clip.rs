//! Global gradient norm and clipping.
use candle_core::Tensor;
use mixce_kernels::sums_of_squares;

use crate::error::{Error, Result};

/// Sums of squares of all gradients.
#[derive(Clone, Debug)]
pub struct GradientNorms {
    squared: Vec<f64>,
}

impl GradientNorms {
    /// Squared norms of `gradients`, in their order: see [`mixce_kernels::sum_of_squares`].
    ///
    /// # Errors
    /// [`Error::Tensor`] if a tensor operation fails.
    pub fn of<'a>(gradients: impl IntoIterator<Item = &'a Tensor>) -> Result<Self> {
        let gradients: Vec<&Tensor> = gradients.into_iter().collect();
        Ok(Self { squared: sums_of_squares(&gradients).map_err(Error::tensor("gradient norm"))? })
    }

    /// Squared norms that are known.
    pub(crate) fn of_squares(squared: Vec<f64>) -> Self {
        Self { squared }
    }

    /// `sqrt(sum of squares of every entry of every gradient)`; 0 if there are none.
    #[must_use]
    pub fn global(&self) -> f64 {
        self.squared.iter().sum::<f64>().sqrt()
    }

    /// Index and squared norm of the first gradient with a NaN or an infinity (or whose sum of squares overflows f32).
    #[must_use]
    pub fn first_non_finite(&self) -> Option<(usize, f64)> {
        self.squared.iter().copied().enumerate().find(|(_, s)| !s.is_finite())
    }
}

/// The clipping factor for gradients of norm `norm`: `min(1, max_norm / (norm + 1e-6))`, as in `torch.nn.utils.clip_grad_norm_`.
/// `max_norm` 0 disables clipping.
#[must_use]
pub fn clip_factor(norm: f64, max_norm: f64) -> f64 {
    if max_norm == 0.0 { 1.0 } else { (max_norm / (norm + 1e-6)).min(1.0) }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn the_norm_is_over_all_gradients_together() {
        let a = Tensor::new(&[[3f32, 0.], [0., 0.]], &Device::Cpu).unwrap();
        let b = Tensor::new(&[4f32], &Device::Cpu).unwrap();
        let norms = GradientNorms::of([&a, &b]).unwrap();
        assert!((norms.global() - 5.0).abs() < 1e-6);
        assert_eq!(norms.first_non_finite(), None);
    }

    #[test]
    fn a_bad_gradient_is_found_by_position() {
        let a = Tensor::new(&[1f32], &Device::Cpu).unwrap();
        for bad in [f32::NAN, f32::INFINITY, 1e30] {
            let b = Tensor::new(&[0f32, bad], &Device::Cpu).unwrap();
            let norms = GradientNorms::of([&a, &b, &a]).unwrap();
            assert_eq!(norms.first_non_finite().unwrap().0, 1);
            assert!(!norms.global().is_finite());
        }
    }

    #[test]
    fn clipping_only_shrinks() {
        assert_eq!(clip_factor(0.5, 1.0), 1.0);
        assert!((clip_factor(4.0, 1.0) - 0.25).abs() < 1e-6);
        assert_eq!(clip_factor(4.0, 0.0), 1.0);
        assert_eq!(GradientNorms::of([]).unwrap().global(), 0.0);
    }
}
