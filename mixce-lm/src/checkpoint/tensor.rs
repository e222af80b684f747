//! Where a tensor lies in a file, and reading it as f32.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;

use half::{bf16, f16};

use crate::error::{Error, Result};

/// Element type of a stored tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WeightType {
    /// 64-bit float.
    F64,
    /// 32-bit float.
    F32,
    /// IEEE half precision.
    F16,
    /// bfloat16.
    Bf16,
    /// Anything else, by the name the file uses; such tensors are listed but cannot be loaded.
    Other(String),
}

impl WeightType {
    /// Bytes of one element; 0 for types that cannot be loaded.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        match self {
            Self::F64 => 8,
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::Other(_) => 0,
        }
    }

    fn decode(&self, bytes: &[u8], values: &mut Vec<f32>) {
        match self {
            Self::F64 => values.extend(bytes.as_chunks().0.iter().map(|&b| f64::from_le_bytes(b) as f32)),
            Self::F32 => values.extend(bytes.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b))),
            Self::F16 => values.extend(bytes.as_chunks().0.iter().map(|&b| f16::from_le_bytes(b).to_f32())),
            Self::Bf16 => values.extend(bytes.as_chunks().0.iter().map(|&b| bf16::from_le_bytes(b).to_f32())),
            Self::Other(_) => {}
        }
    }
}

/// One tensor of a weight file. Its bytes have been checked to lie inside the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// The name in the file, prefix included.
    pub name: String,
    /// The dictionary of a PyTorch file that holds it, such as `model` or `optimizer.state.0`; empty for the outermost one.
    pub dictionary: String,
    /// The shape.
    pub shape: Vec<usize>,
    /// The element type.
    pub dtype: WeightType,
    /// The file that holds the values.
    pub file: PathBuf,
    /// Where the first element lies, in bytes from the start of the file.
    pub(crate) offset: u64,
    /// Steps between neighbours of each dimension, in elements; `None` for row-major order.
    pub(crate) strides: Option<Vec<usize>>,
}

/// Bytes that are read and converted at a time.
const CHUNK_BYTES: usize = 1 << 20;

impl TensorInfo {
    /// The number of elements.
    #[must_use]
    pub fn element_count(&self) -> usize {
        self.shape.iter().product()
    }

    /// The name behind its dictionary.
    #[must_use]
    pub fn path(&self) -> String {
        let dot = if self.dictionary.is_empty() { "" } else { "." };
        format!("{}{dot}{}", self.dictionary, self.name)
    }

    /// The same numbers as the transposed matrix; only for two dimensions.
    pub(crate) fn transposed(&self) -> Self {
        let mut other = self.clone();
        if let &[rows, columns] = self.shape.as_slice() {
            let strides = self.strides.clone().unwrap_or_else(|| vec![columns, 1]);
            other.shape = vec![columns, rows];
            other.strides = Some(strides.into_iter().rev().collect());
        }
        other
    }

    /// Whether both are the same place of the same file.
    pub(crate) fn same_bytes_as(&self, other: &Self) -> bool {
        (&self.file, self.offset, &self.shape, &self.dtype, &self.strides)
            == (&other.file, other.offset, &other.shape, &other.dtype, &other.strides)
    }

    /// The values in row-major order, converted to f32.
    ///
    /// # Errors
    /// When the file cannot be read any more, or the elements are no floating-point numbers.
    pub fn read_f32(&self) -> Result<Vec<f32>> {
        if let WeightType::Other(dtype) = &self.dtype {
            let problem = format!("tensor `{}` has dtype {dtype}, expected f32, f16, bf16 or f64", self.name);
            return Err(Error::malformed(&self.file, problem));
        }
        let Some(strides) = &self.strides else { return self.read_span(self.element_count()) };
        let reach: usize =
            self.shape.iter().zip(strides).map(|(&size, &stride)| size.saturating_sub(1) * stride).sum();
        if self.element_count() == 0 {
            return Ok(Vec::new());
        }
        let span = self.read_span(reach + 1)?;
        Ok(gather(&span, &self.shape, strides))
    }

    /// The next `count` elements of the file from the first one.
    fn read_span(&self, count: usize) -> Result<Vec<f32>> {
        let mut file = File::open(&self.file).map_err(Error::io("read", &self.file))?;
        file.seek(SeekFrom::Start(self.offset)).map_err(Error::io("read", &self.file))?;
        let mut left = count * self.dtype.size_bytes();
        let mut chunk = vec![0u8; left.min(CHUNK_BYTES)];
        let mut values = Vec::with_capacity(count);
        while left > 0 {
            let take = left.min(CHUNK_BYTES);
            file.read_exact(&mut chunk[..take]).map_err(Error::io("read", &self.file))?;
            self.dtype.decode(&chunk[..take], &mut values);
            left -= take;
        }
        Ok(values)
    }
}

/// Row-major copy of a strided view; `span` covers its reach.
fn gather(span: &[f32], shape: &[usize], strides: &[usize]) -> Vec<f32> {
    let count: usize = shape.iter().product();
    let mut values = Vec::with_capacity(count);
    let mut index = vec![0usize; shape.len()];
    for _ in 0..count {
        let at: usize = index.iter().zip(strides).map(|(i, stride)| i * stride).sum();
        values.push(span[at]);
        for dim in (0..shape.len()).rev() {
            index[dim] += 1;
            if index[dim] < shape[dim] {
                break;
            }
            index[dim] = 0;
        }
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gathers_a_transposed_matrix() {
        // Stored [[0, 1, 2], [3, 4, 5]], seen as its transpose.
        let span = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0];
        assert_eq!(gather(&span, &[3, 2], &[1, 3]), [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
    }

    #[test]
    fn decodes_every_float_type() {
        let mut values = Vec::new();
        WeightType::F64.decode(&1.5f64.to_le_bytes(), &mut values);
        WeightType::F32.decode(&(-2.0f32).to_le_bytes(), &mut values);
        WeightType::F16.decode(&f16::from_f32(0.25).to_le_bytes(), &mut values);
        WeightType::Bf16.decode(&bf16::from_f32(3.0).to_le_bytes(), &mut values);
        assert_eq!(values, [1.5, -2.0, 0.25, 3.0]);
    }
}
