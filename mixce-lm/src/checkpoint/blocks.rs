//! The element types of GGUF files: values in blocks with a common scale, and their dequantisation by candle.

use std::borrow::Cow;

use candle_core::CpuStorage;
use candle_core::quantized::GgmlDType;

/// A format of llama.cpp in which a block of values is stored in some bytes. Equal formats are the same entry of one table.
#[derive(Debug, PartialEq, Eq)]
pub struct BlockFormat {
    /// Its number in `enum ggml_type`.
    pub(super) number: u32,
    name: &'static str,
    /// Values in a block.
    pub(super) values: usize,
    /// Bytes of a block.
    pub(super) bytes: usize,
    /// Candle's name for it; `None` for formats that are listed but not read.
    dtype: Option<GgmlDType>,
}

const fn read(number: u32, name: &'static str, values: usize, bytes: usize, dtype: GgmlDType) -> BlockFormat {
    BlockFormat { number, name, values, bytes, dtype: Some(dtype) }
}

const fn listed(number: u32, name: &'static str, values: usize, bytes: usize) -> BlockFormat {
    BlockFormat { number, name, values, bytes, dtype: None }
}

/// Every format but the plain floats. Sizes are those of `GGML_QUANT_SIZES` in the Python package gguf 0.19.
static FORMATS: [BlockFormat; 28] = [
    read(2, "Q4_0", 32, 18, GgmlDType::Q4_0),
    read(3, "Q4_1", 32, 20, GgmlDType::Q4_1),
    read(6, "Q5_0", 32, 22, GgmlDType::Q5_0),
    read(7, "Q5_1", 32, 24, GgmlDType::Q5_1),
    read(8, "Q8_0", 32, 34, GgmlDType::Q8_0),
    read(10, "Q2_K", 256, 84, GgmlDType::Q2K),
    read(11, "Q3_K", 256, 110, GgmlDType::Q3K),
    read(12, "Q4_K", 256, 144, GgmlDType::Q4K),
    read(13, "Q5_K", 256, 176, GgmlDType::Q5K),
    read(14, "Q6_K", 256, 210, GgmlDType::Q6K),
    read(15, "Q8_K", 256, 292, GgmlDType::Q8K),
    listed(16, "IQ2_XXS", 256, 66),
    listed(17, "IQ2_XS", 256, 74),
    listed(18, "IQ3_XXS", 256, 98),
    listed(19, "IQ1_S", 256, 50),
    listed(20, "IQ4_NL", 32, 18),
    listed(21, "IQ3_S", 256, 110),
    listed(22, "IQ2_S", 256, 82),
    listed(23, "IQ4_XS", 256, 136),
    listed(24, "I8", 1, 1),
    listed(25, "I16", 1, 2),
    listed(26, "I32", 1, 4),
    listed(27, "I64", 1, 8),
    listed(29, "IQ1_M", 256, 56),
    listed(34, "TQ1_0", 256, 54),
    listed(35, "TQ2_0", 256, 66),
    listed(39, "MXFP4", 32, 17),
    listed(40, "NVFP4", 64, 36),
];

impl BlockFormat {
    /// The format of a number.
    pub(super) fn of(number: u32) -> Option<&'static Self> {
        FORMATS.iter().find(|format| format.number == number)
    }

    /// llama.cpp's name for it, such as `Q4_K`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Whether it can be dequantised.
    #[must_use]
    pub fn is_read(&self) -> bool {
        self.dtype.is_some()
    }

    /// Appends the values of whole blocks. `bytes` must lie at a multiple of 8 in memory, which candle needs.
    pub(super) fn decode(&self, bytes: &[u8], values: &mut Vec<f32>) -> Result<(), candle_core::Error> {
        let Some(dtype) = self.dtype else {
            return Err(candle_core::Error::Msg(format!("{} cannot be dequantised", self.name)));
        };
        let count = bytes.len() / self.bytes * self.values;
        match dtype.from_data(Cow::Borrowed(bytes)).dequantize(count)? {
            CpuStorage::F32(block) => values.extend_from_slice(&block),
            other => {
                return Err(candle_core::Error::Msg(format!(
                    "{} became {:?}",
                    self.name,
                    other_type(&other)
                )));
            }
        }
        Ok(())
    }
}

fn other_type(storage: &CpuStorage) -> candle_core::DType {
    use candle_core::backend::BackendStorage;
    storage.dtype()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_of_candle() {
        for format in FORMATS.iter().filter(|format| format.is_read()) {
            let dtype = format.dtype.unwrap();
            assert_eq!(
                (format.values, format.bytes),
                (dtype.block_size(), dtype.type_size()),
                "{}",
                format.name
            );
        }
    }
}
