//! A matrix of features in a safetensors file.

use std::path::Path;

use safetensors::{Dtype, SafeTensors};

use super::{Features, Number, matrix};
use crate::error::{Error, Result};

/// The tensor that is taken when there are several.
const NAME: &str = "features";

pub(super) fn parse(path: &Path, bytes: &[u8]) -> Result<Features> {
    let tensors = SafeTensors::deserialize(bytes).map_err(|e| Error::malformed(path, format!("{e:?}")))?;
    let names = tensors.names();
    let name = match names.as_slice() {
        _ if names.contains(&NAME) => NAME,
        [only] => *only,
        _ => {
            let problem = format!("expected one tensor, or one named `{NAME}`, got {} tensors", names.len());
            return Err(Error::malformed(path, problem));
        }
    };
    let tensor = tensors.tensor(name).map_err(|e| Error::malformed(path, format!("{e:?}")))?;
    let number = match tensor.dtype() {
        Dtype::F16 => Number::F16,
        Dtype::BF16 => Number::Bf16,
        Dtype::F32 => Number::F32,
        Dtype::F64 => Number::F64,
        other => {
            let problem = format!("tensor `{name}` holds {other:?}, expected F32, F64, F16 or BF16");
            return Err(Error::malformed(path, problem));
        }
    };
    matrix(path, tensor.shape(), number, false, tensor.data())
}
