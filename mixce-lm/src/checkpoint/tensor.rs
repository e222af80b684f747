//! Where a tensor lies in a file, and reading it as f32.

use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;

use half::{bf16, f16};
use mixce_base::files::open_regular;

use super::blocks::BlockFormat;
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
    /// Blocks of values with common scales, as GGUF files have them.
    Blocks(&'static BlockFormat),
    /// Anything else, by the name the file uses; such tensors are listed but cannot be loaded.
    Other(String),
}

impl WeightType {
    /// The name of the type in listings.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::F64 => "f64",
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::Blocks(format) => format.name(),
            Self::Other(name) => name,
        }
    }

    /// Elements and bytes of the smallest unit of storage; no bytes for types that are not known.
    pub(super) fn block(&self) -> (usize, usize) {
        match self {
            Self::F64 => (1, 8),
            Self::F32 => (1, 4),
            Self::F16 | Self::Bf16 => (1, 2),
            Self::Blocks(format) => (format.values, format.bytes),
            Self::Other(_) => (1, 0),
        }
    }

    /// Whether it can be loaded.
    #[must_use]
    pub fn is_read(&self) -> bool {
        match self {
            Self::Blocks(format) => format.is_read(),
            Self::Other(_) => false,
            _ => true,
        }
    }

    fn decode(&self, bytes: &[u8], values: &mut Vec<f32>) -> Result<()> {
        match self {
            Self::F64 => values.extend(bytes.as_chunks().0.iter().map(|&b| f64::from_le_bytes(b) as f32)),
            Self::F32 => values.extend(bytes.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b))),
            Self::F16 => values.extend(bytes.as_chunks().0.iter().map(|&b| f16::from_le_bytes(b).to_f32())),
            Self::Bf16 => values.extend(bytes.as_chunks().0.iter().map(|&b| bf16::from_le_bytes(b).to_f32())),
            Self::Blocks(format) => format.decode(bytes, values)?,
            Self::Other(_) => {}
        }
        Ok(())
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
    /// How the elements lie there; `None` for row-major order.
    pub(crate) layout: Option<Layout>,
}

/// An order of elements in a file: nested loops, the outermost first, which together pass a tensor in row-major order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layout {
    /// How often each loop runs.
    pub(crate) sizes: Vec<usize>,
    /// How far each step of it goes in the file, in elements.
    pub(crate) steps: Vec<usize>,
}

/// Bytes that are read and converted at a time.
const CHUNK_BYTES: usize = 1 << 20;

/// Where blocks must begin in memory (candle's of the largest element, an f32).
const ALIGNMENT: usize = 8;

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

    /// Bytes in the file; 0 for types that are not known.
    #[must_use]
    pub fn stored_bytes(&self) -> u64 {
        let (elements, bytes) = self.dtype.block();
        (self.element_count() / elements * bytes) as u64
    }

    /// The same numbers as the transposed matrix; only for two dimensions.
    pub(crate) fn transposed(&self) -> Self {
        let mut other = self.clone();
        if let &[rows, columns] = self.shape.as_slice() {
            let row_major = || Layout { sizes: vec![rows, columns], steps: vec![columns, 1] };
            let mut layout = self.layout.clone().unwrap_or_else(row_major);
            // The columns are one loop, the innermost; the rows may be several.
            layout.sizes.rotate_right(1);
            layout.steps.rotate_right(1);
            other.shape = vec![columns, rows];
            other.layout = Some(layout);
        }
        other
    }

    /// A matrix or bias in row-major order whose rows the file has in rotary pairs: of each head the first rows of all pairs, then
    /// the second ones. `None` where the heads do not divide the rows into pairs.
    pub(crate) fn without_rotary_pairs(&self, heads: usize) -> Option<Self> {
        let (&rows, rest) = self.shape.split_first()?;
        if heads == 0 || !rows.is_multiple_of(2 * heads) {
            return None;
        }
        let (pairs, row) = (rows / heads / 2, rest.iter().product::<usize>());
        let layout =
            Layout { sizes: vec![heads, 2, pairs, row], steps: vec![2 * pairs * row, row, 2 * row, 1] };
        Some(Self { layout: Some(layout), ..self.clone() })
    }

    /// Whether both are the same place of the same file.
    pub(crate) fn same_bytes_as(&self, other: &Self) -> bool {
        (&self.file, self.offset, &self.shape, &self.dtype, &self.layout)
            == (&other.file, other.offset, &other.shape, &other.dtype, &other.layout)
    }

    /// The values in row-major order, converted to f32.
    ///
    /// # Errors
    /// When the file cannot be read any more, or the elements are no floating-point numbers.
    pub fn read_f32(&self) -> Result<Vec<f32>> {
        if !self.dtype.is_read() {
            let problem = format!(
                "tensor `{}` has dtype {}, which is not read (f32, f16, bf16, f64, and of llama.cpp's block formats Q4_0 to Q8_0, Q2_K to Q8_K are)",
                self.name,
                self.dtype.name()
            );
            return Err(Error::malformed(&self.file, problem));
        }
        let Some(layout) = &self.layout else { return self.read_span(self.element_count()) };
        if self.element_count() == 0 {
            return Ok(Vec::new());
        }
        let reach: usize =
            layout.sizes.iter().zip(&layout.steps).map(|(&size, &step)| size.saturating_sub(1) * step).sum();
        let span = self.read_span(reach + 1)?;
        Ok(gather(&span, layout))
    }

    /// The next `count` elements of the file from the first one: whole blocks.
    fn read_span(&self, count: usize) -> Result<Vec<f32>> {
        let mut file = open_regular(&self.file)?;
        file.seek(SeekFrom::Start(self.offset)).map_err(Error::io("read", &self.file))?;
        let (elements, bytes) = self.dtype.block();
        let mut left = count / elements * bytes;
        let chunk_bytes = left.min(CHUNK_BYTES / bytes * bytes);
        let mut buffer = vec![0u8; chunk_bytes + ALIGNMENT];
        let start = buffer.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        let chunk = &mut buffer[start..start + chunk_bytes];
        let mut values = Vec::with_capacity(count);
        while left > 0 {
            let take = left.min(chunk_bytes);
            file.read_exact(&mut chunk[..take]).map_err(Error::io("read", &self.file))?;
            self.dtype.decode(&chunk[..take], &mut values)?;
            left -= take;
        }
        Ok(values)
    }
}

/// Row-major copy of elements in another order; `span` covers its reach.
fn gather(span: &[f32], layout: &Layout) -> Vec<f32> {
    let Layout { sizes, steps } = layout;
    let count: usize = sizes.iter().product();
    let mut values = Vec::with_capacity(count);
    let mut index = vec![0usize; sizes.len()];
    for _ in 0..count {
        let at: usize = index.iter().zip(steps).map(|(i, step)| i * step).sum();
        values.push(span[at]);
        for dim in (0..sizes.len()).rev() {
            index[dim] += 1;
            if index[dim] < sizes[dim] {
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
        let layout = Layout { sizes: vec![3, 2], steps: vec![1, 3] };
        assert_eq!(gather(&span, &layout), [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
    }

    /// A tensor of f32 in a file that begins with these values.
    fn stored(shape: &[usize], values: &[f32]) -> (tempfile::NamedTempFile, TensorInfo) {
        let file = tempfile::NamedTempFile::new().unwrap();
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        std::fs::write(file.path(), bytes).unwrap();
        let tensor = TensorInfo {
            name: "x".to_owned(),
            dictionary: String::new(),
            shape: shape.to_vec(),
            dtype: WeightType::F32,
            file: file.path().to_owned(),
            offset: 0,
            layout: None,
        };
        (file, tensor)
    }

    #[test]
    fn rotary_pairs_become_halves() {
        // Two heads of four rows of two values: rows 0 and 1 are the first pair, 2 and 3 the second.
        let (_file, tensor) = stored(&[8, 2], &(0..16).map(|x| x as f32).collect::<Vec<_>>());
        let halves = tensor.without_rotary_pairs(2).unwrap();
        let rows = [0.0, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0];
        let expected: Vec<f32> = rows.iter().flat_map(|row| [2.0 * row, 2.0 * row + 1.0]).collect();
        assert_eq!(halves.read_f32().unwrap(), expected);
        assert_eq!(halves.shape, [8, 2]);
        let transposed = halves.transposed();
        let columns =
            [0, 1].map(|column| expected.iter().skip(column).step_by(2).copied().collect::<Vec<_>>());
        assert_eq!(
            (transposed.shape.as_slice(), transposed.read_f32().unwrap()),
            (&[2, 8][..], columns.concat())
        );
        let (_file, bias) = stored(&[4], &[0.0, 1.0, 2.0, 3.0]);
        assert_eq!(bias.without_rotary_pairs(1).unwrap().read_f32().unwrap(), [0.0, 2.0, 1.0, 3.0]);
        assert!(bias.without_rotary_pairs(4).is_none() && bias.without_rotary_pairs(0).is_none());
    }

    #[test]
    fn decodes_every_float_type() {
        let mut values = Vec::new();
        WeightType::F64.decode(&1.5f64.to_le_bytes(), &mut values).unwrap();
        WeightType::F32.decode(&(-2.0f32).to_le_bytes(), &mut values).unwrap();
        WeightType::F16.decode(&f16::from_f32(0.25).to_le_bytes(), &mut values).unwrap();
        WeightType::Bf16.decode(&bf16::from_f32(3.0).to_le_bytes(), &mut values).unwrap();
        assert_eq!(values, [1.5, -2.0, 0.25, 3.0]);
    }
}
