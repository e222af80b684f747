//! The header of a safetensors file. The crate `safetensors` parses it, but wants the whole file in memory to check it;
//! here the header alone is read and its sizes are compared with the file's length.

use std::io::Read;
use std::path::Path;

use mixce_base::files::open_regular;
use safetensors::Dtype;
use safetensors::tensor::Metadata;

use super::tensor::{TensorInfo, WeightType};
use crate::error::{Error, Result};

/// Largest header that the format allows (`MAX_HEADER_SIZE` in the crate `safetensors`).
const MAX_HEADER_BYTES: u64 = 100_000_000;

pub(super) fn open(path: &Path) -> Result<Vec<TensorInfo>> {
    let (metadata, data_start) = header(path)?;
    let tensors = metadata.tensors().into_iter().map(|(name, info)| TensorInfo {
        name,
        dictionary: String::new(),
        shape: info.shape.clone(),
        dtype: weight_type(info.dtype),
        file: path.to_owned(),
        offset: data_start + info.data_offsets.0 as u64,
        layout: None,
    });
    // The crate gives them in an order that changes from run to run.
    let mut tensors: Vec<_> = tensors.collect();
    tensors.sort_by(|a, b| (a.offset, &a.name).cmp(&(b.offset, &b.name)));
    Ok(tensors)
}

/// The parsed header, and where the data begin.
pub(super) fn header(path: &Path) -> Result<(Metadata, u64)> {
    let mut file = open_regular(path)?;
    let file_bytes = file.metadata().map_err(Error::io("read", path))?.len();
    let mut length = [0u8; 8];
    if file_bytes < 8 {
        return Err(Error::malformed(
            path,
            format!("a safetensors file has at least 8 bytes, got {file_bytes}"),
        ));
    }
    file.read_exact(&mut length).map_err(Error::io("read", path))?;
    let header_bytes = u64::from_le_bytes(length);
    if header_bytes > (file_bytes - 8).min(MAX_HEADER_BYTES) {
        let problem = format!(
            "not a safetensors file, or cut short: it promises a header of {header_bytes} bytes, but {} bytes follow",
            file_bytes - 8
        );
        return Err(Error::malformed(path, problem));
    }
    let mut header = Vec::new();
    file.take(header_bytes).read_to_end(&mut header).map_err(Error::io("read", path))?;
    // Parsing also checks that shapes, types and offsets agree, without gaps, without overflow.
    let metadata: Metadata = serde_json::from_slice(&header)
        .map_err(|cause| Error::malformed(path, format!("damaged safetensors header: {cause}")))?;
    let data_start = 8 + header_bytes;
    let data_bytes = file_bytes - data_start;
    if metadata.data_len() as u64 != data_bytes {
        let problem = format!(
            "cut short or damaged: its header promises {} bytes of tensors, but {data_bytes} bytes follow it",
            metadata.data_len()
        );
        return Err(Error::malformed(path, problem));
    }
    Ok((metadata, data_start))
}

fn weight_type(dtype: Dtype) -> WeightType {
    match dtype {
        Dtype::F64 => WeightType::F64,
        Dtype::F32 => WeightType::F32,
        Dtype::F16 => WeightType::F16,
        Dtype::BF16 => WeightType::Bf16,
        other => WeightType::Other(other.to_string()),
    }
}
