//! Writes a safetensors file tensor by tensor, without a second copy of the model.

use std::collections::BTreeMap;
use std::io::{Seek as _, SeekFrom};
use std::path::Path;

use candle_core::{DType, Tensor};
use half::{bf16, f16};
use mixce_base::files::AtomicFile;
use serde_json::{Map, Value, json};

use crate::error::{Error, Result};
use crate::tensor_digest::{DIGITS, KEY, TensorDigest};

/// Writes tensors in the order of their names, converted to `dtype` (f32, f16 or bf16), with the metadata
/// `{"format": "pt", "mixce_sha256": ...}`, where the second is the digest of the tensors that
/// [`verify`](crate::checkpoint::verify) compares. The file appears under its name only when it is complete and on disk.
///
/// Format: u64 length of the header, the header as JSON padded with spaces to a multiple of 8, the numbers, all
/// little-endian (<https://huggingface.co/docs/safetensors>).
///
/// # Errors
/// When `dtype` is another one or has no room for a value, a tensor cannot be read back from its device, or the file cannot be written.
pub fn write_safetensors(path: &Path, tensors: BTreeMap<String, &Tensor>, dtype: DType) -> Result<()> {
    write(path, &tensors, dtype, Some(TensorDigest::default()))
}

/// As [`write_safetensors`], without the digest: for a file whose digest is stored elsewhere.
///
/// # Errors
/// As [`write_safetensors`].
pub fn write_safetensors_without_digest(
    path: &Path,
    tensors: BTreeMap<String, &Tensor>,
    dtype: DType,
) -> Result<()> {
    write(path, &tensors, dtype, None)
}

fn write(
    path: &Path,
    tensors: &BTreeMap<String, &Tensor>,
    dtype: DType,
    mut digest: Option<TensorDigest>,
) -> Result<()> {
    let type_name = type_name(dtype)?;
    // The digest is known last; until then zeros hold its place.
    let zeros = digest.as_ref().map(|_| "0".repeat(DIGITS));
    let preliminary = header(tensors, (dtype, type_name), zeros);
    let mut file = AtomicFile::create(path)?;
    file.put(&(preliminary.len() as u64).to_le_bytes())?;
    file.put(&preliminary)?;
    for (name, tensor) in tensors {
        if let Some(digest) = &mut digest {
            digest.begin(name, type_name, tensor.dims());
        }
        let mut put = |bytes: &[u8]| {
            if let Some(digest) = &mut digest {
                digest.add(bytes);
            }
            Ok(file.put(bytes)?)
        };
        put_tensor(name, tensor, dtype, &mut put)?;
    }
    if let Some(digest) = digest {
        file.seek(SeekFrom::Start(8)).map_err(Error::io("write", path))?;
        file.put(&header(tensors, (dtype, type_name), Some(digest.finish())))?;
    }
    Ok(file.finish()?)
}

fn type_name(dtype: DType) -> Result<&'static str> {
    match dtype {
        DType::F32 => Ok("F32"),
        DType::F16 => Ok("F16"),
        DType::BF16 => Ok("BF16"),
        other => Err(candle_core::Error::Msg(format!("cannot write {} weights", other.as_str())).into()),
    }
}

fn header(
    tensors: &BTreeMap<String, &Tensor>,
    (dtype, type_name): (DType, &str),
    digest: Option<String>,
) -> Vec<u8> {
    let mut metadata = Map::from_iter([("format".to_owned(), json!("pt"))]);
    if let Some(digest) = digest {
        metadata.insert(KEY.to_owned(), digest.into());
    }
    let mut object = Map::new();
    object.insert("__metadata__".to_owned(), metadata.into());
    let mut start = 0;
    for (name, tensor) in tensors {
        let end = start + tensor.elem_count() * dtype.size_in_bytes();
        let entry = json!({"dtype": type_name, "shape": tensor.dims(), "data_offsets": [start, end]});
        object.insert(name.clone(), entry);
        start = end;
    }
    let mut header = Value::Object(object).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    header
}

/// Elements that are converted to bytes at a time.
const CHUNK: usize = 1 << 18;

fn put_tensor(
    name: &str,
    tensor: &Tensor,
    dtype: DType,
    put: &mut impl FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let flat = tensor.detach().flatten_all()?.to_dtype(dtype)?;
    let count = match dtype {
        DType::F16 => put_values(&flat.to_vec1()?, f16::is_finite, f16::to_le_bytes, put),
        DType::BF16 => put_values(&flat.to_vec1()?, bf16::is_finite, bf16::to_le_bytes, put),
        _ => put_values(&flat.to_vec1()?, f32::is_finite, f32::to_le_bytes, put),
    }?;
    match count {
        0 => Ok(()),
        _ => Err(Error::NotStorable {
            name: name.to_owned(),
            dtype: dtype.as_str(),
            count,
            total: flat.elem_count(),
        }),
    }
}

/// Puts the bytes of values, and counts those that are not finite.
fn put_values<T: Copy, const N: usize>(
    values: &[T],
    is_finite: impl Fn(T) -> bool,
    bytes: impl Fn(T) -> [u8; N],
    put: &mut impl FnMut(&[u8]) -> Result<()>,
) -> Result<usize> {
    let mut count = 0;
    let mut buffer = Vec::with_capacity(CHUNK.min(values.len()) * N);
    for chunk in values.chunks(CHUNK) {
        count += chunk.iter().filter(|value| !is_finite(**value)).count();
        buffer.clear();
        buffer.extend(chunk.iter().flat_map(|&value| bytes(value)));
        put(&buffer)?;
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use mixce_base::Hint as _;

    use super::*;

    #[test]
    fn values_that_the_type_has_no_room_for_are_refused_and_leave_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.safetensors");
        let tensor = Tensor::new(&[1.0f32, 70_000.0, -66_000.0], &candle_core::Device::Cpu).unwrap();
        let write =
            |dtype| write_safetensors(&path, BTreeMap::from([("wte.weight".to_owned(), &tensor)]), dtype);
        let error = write(DType::F16).unwrap_err();
        assert_eq!(
            error.to_string(),
            "tensor `wte.weight` cannot be stored as f16: 2 of its 3 values would be NaN or infinite"
        );
        assert!(error.hint().unwrap().contains("65504"));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        write(DType::BF16).unwrap();
        write(DType::F32).unwrap();
    }
}
