//! Weights that are no numbers: named when they are loaded, not when training or sampling stumbles over them.

use rayon::prelude::*;

use super::tensor::{TensorInfo, WeightType};
use crate::error::{Error, Result};

/// Values that a thread looks at together.
const CHUNK: usize = 1 << 16;

/// The values of a tensor in f32, all of them finite.
///
/// # Errors
/// As [`TensorInfo::read_f32`]; [`Error::NotFinite`].
pub(super) fn read_finite(tensor: &TensorInfo) -> Result<Vec<f32>> {
    let values = tensor.read_f32()?;
    require_finite(tensor, &values)?;
    Ok(values)
}

fn require_finite(tensor: &TensorInfo, values: &[f32]) -> Result<()> {
    let count: usize =
        values.par_chunks(CHUNK).map(|chunk| chunk.iter().filter(|x| !x.is_finite()).count()).sum();
    if count == 0 {
        return Ok(());
    }
    let first = values.iter().position(|x| !x.is_finite()).unwrap_or_default();
    Err(Error::NotFinite {
        path: tensor.file.clone(),
        name: tensor.name.clone(),
        dtype: match &tensor.dtype {
            WeightType::F64 => "f64",
            WeightType::F32 => "f32",
            WeightType::F16 => "f16",
            WeightType::Bf16 => "bf16",
            WeightType::Blocks(format) => format.name(),
            WeightType::Other(_) => "unknown",
        },
        count,
        total: values.len(),
        index: index_of(first, &tensor.shape),
        value: values[first],
    })
}

/// The index in every dimension of the element that is at `place` in row-major order.
#[must_use]
pub fn index_of(mut place: usize, shape: &[usize]) -> Vec<usize> {
    let mut index: Vec<usize> = shape
        .iter()
        .rev()
        .map(|&size| {
            let own = place % size;
            place /= size;
            own
        })
        .collect();
    index.reverse();
    index
}

#[cfg(test)]
mod tests {
    use mixce_base::Hint as _;

    use super::*;

    #[test]
    fn the_tensor_the_count_and_the_first_place_are_told() {
        let tensor = TensorInfo {
            name: "h.0.mlp.c_fc.weight".into(),
            shape: vec![300, 400],
            dtype: WeightType::F16,
            file: "m.safetensors".into(),
            offset: 0,
            layout: None,
            dictionary: String::new(),
        };
        let mut values = vec![0.5; 120_000];
        require_finite(&tensor, &values).unwrap();
        // Beyond the first chunk, and the later one looked at first.
        values[100_003] = f32::NEG_INFINITY;
        values[119_999] = f32::NAN;
        let error = require_finite(&tensor, &values).unwrap_err();
        assert_eq!(
            error.to_string(),
            "tensor `h.0.mlp.c_fc.weight` in `m.safetensors` (f16): 2 of 120000 values are NaN or infinite, the first is -inf at [250, 3]"
        );
        assert!(error.hint().unwrap().contains("65504"));
        let nan = TensorInfo { dtype: WeightType::F32, shape: vec![2], ..tensor };
        let hint = require_finite(&nan, &[1.0, f32::NAN]).unwrap_err().hint().unwrap();
        assert!(hint.contains("diverged") && !hint.contains("65504"), "{hint}");
    }
}
