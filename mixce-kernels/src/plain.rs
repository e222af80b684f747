//! The forms of norms and affine maps that CUDA has kernels for: those of GPT-2. Every other form is refused by name.

use candle_core::{Result, Tensor, bail};

use crate::sublayer::{NormLinear, NormLinearGradients};
use crate::{Affine, AffineGradients, Norm, NormKind, Weight};

/// Weight and bias of a layer norm or of a map with a weight `[in, out]`, or the sums of their gradients.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plain<'a> {
    pub(crate) weight: &'a Tensor,
    pub(crate) bias: &'a Tensor,
}

fn no_kernel<T>(what: &str) -> Result<T> {
    bail!("no CUDA kernel yet for {what}; expected tensors on the CPU")
}

impl Norm {
    /// Of a layer norm with a bias.
    pub(crate) fn plain(&self) -> Result<Plain<'_>> {
        match (self.kind, &self.bias) {
            (NormKind::Layer, Some(bias)) => Ok(Plain { weight: &self.weight, bias }),
            (NormKind::Layer, None) => no_kernel("a layer norm without a bias"),
            (NormKind::Rms, _) => no_kernel("an RMS norm"),
        }
    }
}

impl Affine {
    /// Of a map with a weight `[in, out]` and a bias.
    pub(crate) fn plain(&self) -> Result<Plain<'_>> {
        match (&self.weight, &self.bias) {
            (Weight::Dense(weight), Some(bias)) => Ok(Plain { weight, bias }),
            (Weight::Dense(_), None) => no_kernel("an affine map without a bias"),
            (Weight::Transposed(_), _) => no_kernel("a weight in the layout [out, in]"),
            (Weight::Packed(_), _) => no_kernel("a packed weight"),
        }
    }
}

impl AffineGradients {
    /// Of parameters with a bias.
    pub(crate) fn plain(&self) -> Result<Plain<'_>> {
        match &self.bias {
            Some(bias) => Ok(Plain { weight: &self.weight, bias }),
            None => no_kernel("parameters without a bias"),
        }
    }
}

impl NormLinear {
    /// Of the norm and its only map.
    pub(crate) fn plain(&self) -> Result<[Plain<'_>; 2]> {
        match &self.maps[..] {
            [map] => Ok([self.norm.plain()?, map.plain()?]),
            maps => no_kernel(&format!("{} maps of one norm", maps.len())),
        }
    }
}

impl NormLinearGradients {
    /// Of the norm and its only map.
    pub(crate) fn plain(&self) -> Result<[Plain<'_>; 2]> {
        match &self.maps[..] {
            [map] => Ok([self.norm.plain()?, map.plain()?]),
            maps => no_kernel(&format!("{} maps of one norm", maps.len())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Precision;
    use crate::testing::random;

    #[test]
    fn forms_without_kernels_are_named() -> Result<()> {
        let (square, vector) = (random(&[3, 3], 1)?, random(&[3], 2)?);
        let map = Affine::new(square.clone(), Some(vector.clone()));
        let layer = Norm::layer(vector.clone(), Some(vector.clone()), 1e-5);
        assert!(layer.has_cuda_kernels());
        let sublayer = |norm: &Norm, maps: &[&Affine]| NormLinear {
            norm: norm.clone(),
            maps: maps.iter().map(|map| (*map).clone()).collect(),
        };
        let plain = sublayer(&layer, &[&map]);
        let shapes = plain.plain()?.map(|part| [part.weight.dims(), part.bias.dims()]);
        assert_eq!(shapes, [[&[3][..], &[3]], [&[3, 3], &[3]]]);
        let rms = Norm::rms(vector.clone(), 1e-5);
        assert!(!rms.has_cuda_kernels());
        let without_bias = Affine::new(square.clone(), None);
        let transposed = Affine::new(Weight::Transposed(square), Some(vector.clone()));
        let errors = [
            (rms.plain().map(drop), "an RMS norm"),
            (Norm::layer(vector.clone(), None, 1e-5).plain().map(drop), "a layer norm without a bias"),
            (without_bias.plain().map(drop), "an affine map without a bias"),
            (transposed.plain().map(drop), "a weight in the layout [out, in]"),
            (map.pack(Precision::F32)?.plain().map(drop), "a packed weight"),
            (sublayer(&layer, &[&map, &map]).plain().map(drop), "2 maps of one norm"),
            (sublayer(&rms, &[&map]).plain().map(drop), "an RMS norm"),
        ];
        for (result, what) in errors {
            let error = result.unwrap_err().to_string();
            assert!(error.contains(&format!("no CUDA kernel yet for {what};")), "{error}");
        }
        let sums = AffineGradients { weight: vector, bias: None };
        assert!(sums.plain().unwrap_err().to_string().contains("parameters without a bias"));
        let sums = NormLinearGradients { norm: sums.clone(), maps: vec![sums.clone(), sums] };
        assert!(sums.plain().unwrap_err().to_string().contains("2 maps of one norm"));
        Ok(())
    }
}
