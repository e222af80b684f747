//! The keys of a GGUF file and their values.

use std::path::{Path, PathBuf};

use indexmap::IndexMap;

use crate::error::{Error, Result};

/// The metadata of a GGUF file, by key.
#[derive(Debug, Clone)]
pub struct Metadata {
    path: PathBuf,
    values: IndexMap<String, Value>,
}

/// A value as it is stored: texts are not known to be UTF-8 until they are asked for.
#[derive(Debug, Clone)]
pub(super) enum Value {
    Integer(i128),
    Real(f64),
    Flag(bool),
    Text(Box<[u8]>),
    /// A list of numbers, as the bytes of the file: no larger in memory than there.
    Scalars(Scalar, Box<[u8]>),
    Texts(Vec<Box<[u8]>>),
}

/// The types of fixed size (`enum gguf_type`).
#[derive(Debug, Clone, Copy)]
pub(super) enum Scalar {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    U64,
    I64,
    F64,
}

impl Scalar {
    pub(super) fn of(id: u32) -> Option<Self> {
        Some(match id {
            0 => Self::U8,
            1 => Self::I8,
            2 => Self::U16,
            3 => Self::I16,
            4 => Self::U32,
            5 => Self::I32,
            6 => Self::F32,
            7 => Self::Bool,
            10 => Self::U64,
            11 => Self::I64,
            12 => Self::F64,
            _ => return None,
        })
    }

    pub(super) fn bytes(self) -> u64 {
        match self {
            Self::U8 | Self::I8 | Self::Bool => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 => 8,
        }
    }

    /// The value of [`Scalar::bytes`] bytes. An f32 becomes the f64 of the same shortest decimal: 1e-5 stays 1e-5, as in the
    /// configuration that the file was made from.
    pub(super) fn decode(self, bytes: &[u8]) -> Value {
        let mut wide = [0; 8];
        wide[..bytes.len()].copy_from_slice(bytes);
        let unsigned = u64::from_le_bytes(wide);
        let shift = 64 - 8 * self.bytes();
        match self {
            Self::U8 | Self::U16 | Self::U32 | Self::U64 => Value::Integer(unsigned.into()),
            Self::I8 | Self::I16 | Self::I32 | Self::I64 => {
                Value::Integer((((unsigned << shift) as i64) >> shift).into())
            }
            Self::Bool => Value::Flag(unsigned != 0),
            Self::F64 => Value::Real(f64::from_bits(unsigned)),
            Self::F32 => {
                let value = f32::from_bits(unsigned as u32);
                Value::Real(value.to_string().parse().unwrap_or(value.into()))
            }
        }
    }
}

/// What a value can be asked for as.
pub trait FromMetadata: Sized {
    /// What such a value is called in messages.
    const EXPECTED: &'static str;

    #[doc(hidden)]
    fn read(value: &Stored<'_>) -> Option<Self>;
}

/// A stored value, for [`FromMetadata`].
#[derive(Debug)]
pub struct Stored<'a>(&'a Value);

impl FromMetadata for u64 {
    const EXPECTED: &'static str = "a whole number that is not negative";

    fn read(value: &Stored<'_>) -> Option<Self> {
        match value.0 {
            Value::Integer(number) => (*number).try_into().ok(),
            _ => None,
        }
    }
}

impl FromMetadata for f64 {
    const EXPECTED: &'static str = "a number";

    fn read(value: &Stored<'_>) -> Option<Self> {
        match value.0 {
            Value::Real(number) => Some(*number),
            Value::Integer(number) => Some(*number as Self),
            _ => None,
        }
    }
}

impl FromMetadata for bool {
    const EXPECTED: &'static str = "true or false";

    fn read(value: &Stored<'_>) -> Option<Self> {
        match value.0 {
            Value::Flag(flag) => Some(*flag),
            _ => None,
        }
    }
}

impl FromMetadata for String {
    const EXPECTED: &'static str = "a text in UTF-8";

    fn read(value: &Stored<'_>) -> Option<Self> {
        match value.0 {
            Value::Text(bytes) => Self::from_utf8(bytes.to_vec()).ok(),
            _ => None,
        }
    }
}

impl FromMetadata for Vec<String> {
    const EXPECTED: &'static str = "a list of texts in UTF-8";

    fn read(value: &Stored<'_>) -> Option<Self> {
        match value.0 {
            Value::Texts(texts) => texts.iter().map(|bytes| String::from_utf8(bytes.to_vec()).ok()).collect(),
            _ => None,
        }
    }
}

impl FromMetadata for Vec<f64> {
    const EXPECTED: &'static str = "a list of numbers";

    fn read(value: &Stored<'_>) -> Option<Self> {
        match value.0 {
            Value::Scalars(scalar, bytes) => {
                let items = bytes.chunks_exact(scalar.bytes() as usize).map(|bytes| scalar.decode(bytes));
                items.map(|item| f64::read(&Stored(&item))).collect()
            }
            _ => None,
        }
    }
}

impl Metadata {
    pub(super) fn new(path: &Path, values: IndexMap<String, Value>) -> Self {
        Self { path: path.to_owned(), values }
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The value of a key, if the file has it.
    ///
    /// # Errors
    /// When it is of another type.
    pub fn get<T: FromMetadata>(&self, key: &str) -> Result<Option<T>> {
        let Some(value) = self.values.get(key) else { return Ok(None) };
        match T::read(&Stored(value)) {
            Some(value) => Ok(Some(value)),
            None => {
                let problem =
                    format!("metadata key `{key}` must be {}, got {}", T::EXPECTED, self.shown(key));
                Err(Error::malformed(&self.path, problem))
            }
        }
    }

    /// The value of a key that the file must have.
    ///
    /// # Errors
    /// When it does not, or the value is of another type.
    pub fn require<T: FromMetadata>(&self, key: &str) -> Result<T> {
        let missing =
            || Error::malformed(&self.path, format!("no metadata key `{key}`: expected {}", T::EXPECTED));
        self.get(key)?.ok_or_else(missing)
    }

    /// All keys, in the order of the file.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.values.keys().map(String::as_str)
    }

    /// A value for messages: short, whatever it is.
    #[must_use]
    pub fn shown(&self, key: &str) -> String {
        const LONGEST: usize = 60;
        match self.values.get(key) {
            None => "nothing".to_owned(),
            Some(Value::Integer(number)) => number.to_string(),
            Some(Value::Real(number)) => number.to_string(),
            Some(Value::Flag(flag)) => flag.to_string(),
            Some(Value::Text(bytes)) => {
                let text = String::from_utf8_lossy(&bytes[..bytes.len().min(4 * LONGEST)]);
                text.chars().take(LONGEST).collect()
            }
            Some(Value::Scalars(scalar, bytes)) => {
                format!("a list of {} numbers", bytes.len() as u64 / scalar.bytes())
            }
            Some(Value::Texts(texts)) => format!("a list of {} texts", texts.len()),
        }
    }

    /// The error that the value of a key asks for what the program does not have.
    #[must_use]
    pub fn unsupported(&self, key: &str, value: impl Into<String>, reason: impl Into<String>) -> Error {
        Error::MetadataUnsupported {
            path: self.path.clone(),
            key: key.to_owned(),
            value: value.into(),
            reason: reason.into(),
        }
    }

    /// Refuses keys of an architecture, `ARCHITECTURE.*`, that are not among these: each says something about the computation.
    ///
    /// # Errors
    /// The first such key.
    pub fn require_known(&self, architecture: &str, known: &[&str]) -> Result<()> {
        let prefix = format!("{architecture}.");
        let own = self.keys().filter_map(|key| Some((key, key.strip_prefix(&prefix)?)));
        match own.into_iter().find(|(_, key)| !known.contains(key)) {
            Some((key, _)) => Err(self.unsupported(key, self.shown(key), "this key is not known")),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_every_width_are_read() {
        let integer = |scalar: Scalar, bytes: &[u8]| u64::read(&Stored(&scalar.decode(bytes)));
        assert_eq!(integer(Scalar::U8, &[200]), Some(200));
        assert_eq!(integer(Scalar::U16, &[1, 2]), Some(513));
        assert_eq!(integer(Scalar::I32, &7i32.to_le_bytes()), Some(7));
        assert_eq!(integer(Scalar::U64, &u64::MAX.to_le_bytes()), Some(u64::MAX));
        assert_eq!(integer(Scalar::I8, &[255]), None);
        let real = |scalar: Scalar, bytes: &[u8]| f64::read(&Stored(&scalar.decode(bytes)));
        assert_eq!(real(Scalar::I64, &(-3i64).to_le_bytes()), Some(-3.0));
        assert_eq!(real(Scalar::F32, &1e-5f32.to_le_bytes()), Some(1e-5));
        assert_eq!(real(Scalar::F64, &0.1f64.to_le_bytes()), Some(0.1));
        assert!(real(Scalar::F32, &f32::NAN.to_le_bytes()).unwrap().is_nan());
    }
}
