//! Feature matrices, one row per text, in memory and from files.

mod npy;
mod safetensors;

use std::path::Path;

use mixce_base::files::read_limited;

use crate::error::{Error, Result};

/// Largest file of features: 262 144 rows of 1024 values in f32.
const MAX_FILE_BYTES: u64 = 1 << 30;

/// One row of features for each text, row-major, f32.
#[derive(Clone, Debug, PartialEq)]
pub struct Features {
    rows: usize,
    columns: usize,
    values: Vec<f32>,
}

impl Features {
    /// A matrix of `rows` times `columns` values, row by row.
    ///
    /// # Errors
    /// [`Error::Shape`] when the number of values is another, or there are no columns.
    pub fn new(rows: usize, columns: usize, values: Vec<f32>) -> Result<Self> {
        if columns == 0 || rows.checked_mul(columns) != Some(values.len()) {
            return Err(Error::Shape { rows, columns, values: values.len() });
        }
        Ok(Self { rows, columns, values })
    }

    /// Reads `.npy` (a matrix of f16, f32 or f64) or `.safetensors` (the tensor `features`, or the only matrix in it).
    ///
    /// The file's size is checked against the shape in its header before anything is allocated.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read; [`Error::Malformed`] if it has another format, is truncated, or is not a numeric
    /// matrix.
    pub fn read(path: &Path) -> Result<Self> {
        let extension = path.extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase);
        let parse: fn(&Path, &[u8]) -> Result<Self> = match extension.as_deref() {
            Some("npy") => npy::parse,
            Some("safetensors") => safetensors::parse,
            _ => return Err(Error::malformed(path, "expected a name that ends in `.npy` or `.safetensors`")),
        };
        // Reads as much as the file has: its header does not determine the allocation.
        let bytes = read_limited(path, MAX_FILE_BYTES)?;
        parse(path, &bytes)
    }

    /// Texts.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Features of a text.
    #[must_use]
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// All values, row by row.
    #[must_use]
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// Checks that every value is finite; `name` says in the error whose features these are.
    ///
    /// # Errors
    /// [`Error::NotFinite`] with the first that is not.
    pub fn require_finite(&self, name: &'static str) -> Result<()> {
        match self.values.iter().position(|value| !value.is_finite()) {
            None => Ok(()),
            Some(place) => Err(Error::NotFinite {
                name,
                row: place / self.columns,
                column: place % self.columns,
                value: self.values[place],
            }),
        }
    }
}

/// Types of numbers in files.
#[derive(Clone, Copy, Debug)]
enum Number {
    F16,
    Bf16,
    F32,
    F64,
}

impl Number {
    fn bytes(self) -> usize {
        match self {
            Self::F16 | Self::Bf16 => 2,
            Self::F32 => 4,
            Self::F64 => 8,
        }
    }

    /// A little-endian number as f32.
    fn read(self, bytes: &[u8]) -> f32 {
        match (self, bytes) {
            (Self::F16, &[a, b]) => half::f16::from_le_bytes([a, b]).to_f32(),
            (Self::Bf16, &[a, b]) => half::bf16::from_le_bytes([a, b]).to_f32(),
            (Self::F32, &[a, b, c, d]) => f32::from_le_bytes([a, b, c, d]),
            (Self::F64, &[a, b, c, d, e, f, g, h]) => f64::from_le_bytes([a, b, c, d, e, f, g, h]) as f32,
            _ => f32::NAN,
        }
    }
}

/// The matrix in `data`, whose size must be that of the shape.
fn matrix(path: &Path, shape: &[usize], number: Number, column_major: bool, data: &[u8]) -> Result<Features> {
    let &[rows, columns] = shape else {
        return Err(Error::malformed(
            path,
            format!("expected a matrix (rows, columns), got shape {shape:?}"),
        ));
    };
    let expected = rows.checked_mul(columns).and_then(|n| n.checked_mul(number.bytes()));
    if expected != Some(data.len()) {
        let size = expected.map_or_else(|| "more bytes than exist".to_owned(), |n| format!("{n} bytes"));
        let problem = format!(
            "the header announces {rows} x {columns} numbers ({size}), the file has {} bytes",
            data.len()
        );
        return Err(Error::malformed(path, problem));
    }
    let numbers = || data.chunks_exact(number.bytes()).map(|bytes| number.read(bytes));
    let values = if column_major {
        let mut values = vec![0.0; rows * columns];
        for (place, value) in numbers().enumerate() {
            values[place % rows * columns + place / rows] = value;
        }
        values
    } else {
        numbers().collect()
    };
    Features::new(rows, columns, values).map_err(|_| Error::malformed(path, "the matrix has no columns"))
}

#[cfg(test)]
mod tests;
