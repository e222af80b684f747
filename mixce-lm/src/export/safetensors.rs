//! Writing a safetensors file tensor by tensor, so that no second copy of the model is needed.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

use candle_core::{DType, Tensor};
use half::{bf16, f16};
use serde_json::{Map, Value, json};

use crate::error::{Error, Result};

/// Writes tensors in the order of their names, converted to `dtype` (f32, f16 or bf16), with the metadata
/// `{"format": "pt"}`. The file appears under its name only when it is complete and on disk.
///
/// Format: u64 length of the header, the header as JSON padded with spaces to a multiple of 8, the numbers, all
/// little-endian (<https://huggingface.co/docs/safetensors>).
///
/// # Errors
/// When `dtype` is another one, a tensor cannot be read back from its device, or the file cannot be written.
pub fn write_safetensors(path: &Path, tensors: BTreeMap<String, &Tensor>, dtype: DType) -> Result<()> {
    let header = header(&tensors, dtype)?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".partial-{}", std::process::id()));
    let partial = path.with_file_name(name);
    let write = || -> Result<()> {
        let mut file = BufWriter::new(File::create(&partial).map_err(Error::io("create", &partial))?);
        let mut put = |bytes: &[u8]| file.write_all(bytes).map_err(Error::io("write", &partial));
        put(&(header.len() as u64).to_le_bytes())?;
        put(&header)?;
        for tensor in tensors.values() {
            put_tensor(tensor, dtype, &mut put)?;
        }
        let file = file.into_inner().map_err(|cause| Error::io("write", &partial)(cause.into_error()))?;
        file.sync_all().map_err(Error::io("write", &partial))?;
        fs::rename(&partial, path).map_err(Error::io("create", path))
    };
    let written = write();
    if written.is_err() {
        // The error that matters is the one above.
        let _ = fs::remove_file(&partial);
    }
    written
}

fn header(tensors: &BTreeMap<String, &Tensor>, dtype: DType) -> Result<Vec<u8>> {
    let type_name = match dtype {
        DType::F32 => "F32",
        DType::F16 => "F16",
        DType::BF16 => "BF16",
        other => {
            return Err(candle_core::Error::Msg(format!("cannot write {} weights", other.as_str())).into());
        }
    };
    let mut object = Map::new();
    object.insert("__metadata__".to_owned(), json!({"format": "pt"}));
    let mut start = 0;
    for (name, tensor) in tensors {
        let end = start + tensor.elem_count() * dtype.size_in_bytes();
        let entry = json!({"dtype": type_name, "shape": tensor.dims(), "data_offsets": [start, end]});
        object.insert(name.clone(), entry);
        start = end;
    }
    let mut header = Value::Object(object).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    Ok(header)
}

/// Elements that are converted to bytes at a time.
const CHUNK: usize = 1 << 18;

fn put_tensor(tensor: &Tensor, dtype: DType, put: &mut impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let flat = tensor.detach().flatten_all()?.to_dtype(dtype)?;
    match dtype {
        DType::F16 => put_values(&flat.to_vec1::<f16>()?, |x| x.to_le_bytes(), put),
        DType::BF16 => put_values(&flat.to_vec1::<bf16>()?, |x| x.to_le_bytes(), put),
        _ => put_values(&flat.to_vec1::<f32>()?, |x| x.to_le_bytes(), put),
    }
}

fn put_values<T: Copy, const N: usize>(
    values: &[T],
    bytes: impl Fn(T) -> [u8; N],
    put: &mut impl FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let mut buffer = Vec::with_capacity(CHUNK.min(values.len()) * N);
    for chunk in values.chunks(CHUNK) {
        buffer.clear();
        buffer.extend(chunk.iter().flat_map(|&value| bytes(value)));
        put(&buffer)?;
    }
    Ok(())
}
