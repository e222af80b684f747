//! The header of a GGUF file: metadata and where each tensor lies.
//!
//! Every size in the file is held against the bytes that are left before memory is asked for, so a file costs at most a few times
//! its own length, and its header at most [`MAX_HEADER_BYTES`]. Source of the format: `docs/gguf.md` of ggml; the checks are
//! those of `ggml/src/gguf.cpp`.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use indexmap::IndexMap;
use mixce_base::files::open_regular;

use super::metadata::{Metadata, Scalar, Value};
use crate::checkpoint::blocks::BlockFormat;
use crate::checkpoint::tensor::{TensorInfo, WeightType};
use crate::error::{Error, Result};

/// The first bytes of every GGUF file.
pub(super) const MAGIC: [u8; 4] = *b"GGUF";

/// Longest header that is read; that of a vocabulary of 262 144 tokens has about 20 MB.
const MAX_HEADER_BYTES: u64 = 128 << 20;

/// `GGML_MAX_DIMS`.
const MAX_DIMENSIONS: u32 = 4;

/// Where tensors begin if `general.alignment` does not say otherwise: at multiples of this.
const DEFAULT_ALIGNMENT: u64 = 32;

/// Largest alignment that makes sense: a gap between two tensors is never longer.
const MAX_ALIGNMENT: u64 = 1 << 20;

/// The fewest bytes that a key with its value, a tensor's description, or a text takes.
const LEAST_PAIR_BYTES: u64 = 13;
const LEAST_TENSOR_BYTES: u64 = 24;
const LEAST_TEXT_BYTES: u64 = 8;

/// Reads metadata and descriptions of tensors, and checks that every tensor lies in the file.
pub(super) fn read(path: &Path) -> Result<(Metadata, Vec<TensorInfo>)> {
    let file = open_regular(path)?;
    let file_bytes = file.metadata().map_err(Error::io("read", path))?.len();
    let limit = file_bytes.min(MAX_HEADER_BYTES);
    let mut reader = Reader { path, file: BufReader::new(file), position: 0, limit };
    if reader.array("the magic")? != MAGIC {
        return Err(reader.damaged("not a GGUF file: it does not begin with `GGUF`"));
    }
    check_version(&reader.array("the version")?, path)?;
    let tensor_count = reader.count("tensors", LEAST_TENSOR_BYTES)?;
    let pair_count = reader.count("metadata keys", LEAST_PAIR_BYTES)?;
    let mut values = IndexMap::new();
    for _ in 0..pair_count {
        let key = reader.name("a metadata key")?;
        let value = reader.value(&key)?;
        if values.insert(key.clone(), value).is_some() {
            return Err(reader.damaged(format!("metadata key `{key}` occurs twice")));
        }
    }
    let metadata = Metadata::new(path, values);
    let alignment = alignment(&metadata)?;
    let mut described = Vec::new();
    for _ in 0..tensor_count {
        described.push(reader.description()?);
    }
    let data_start = reader.position.next_multiple_of(alignment);
    let tensors = placed(path, described, data_start, alignment, file_bytes)?;
    Ok((metadata, tensors))
}

/// Versions 2 and 3 differ in nothing that matters here; version 1 had 32-bit sizes.
fn check_version(bytes: &[u8; 4], path: &Path) -> Result<()> {
    let version = u32::from_le_bytes(*bytes);
    match version {
        2 | 3 => Ok(()),
        _ if matches!(u32::from_be_bytes(*bytes), 2 | 3) => {
            Err(Error::malformed(path, "a big-endian GGUF file; only little-endian ones are read"))
        }
        _ => Err(Error::malformed(path, format!("GGUF version {version}; versions 2 and 3 are read"))),
    }
}

fn alignment(metadata: &Metadata) -> Result<u64> {
    let key = "general.alignment";
    let alignment = metadata.get::<u64>(key)?.unwrap_or(DEFAULT_ALIGNMENT);
    if alignment.is_power_of_two() && alignment <= MAX_ALIGNMENT {
        return Ok(alignment);
    }
    let reason = format!("expected a power of two up to {MAX_ALIGNMENT}");
    Err(metadata.unsupported(key, alignment.to_string(), reason))
}

/// A tensor as the header describes it.
struct Description {
    name: String,
    /// As in the file, the fastest dimension first.
    dimensions: Vec<u64>,
    dtype: WeightType,
    /// From the start of the tensors' data.
    offset: u64,
}

/// The tensors with their places in the file. They must follow one another, each from the next multiple of the alignment on, as
/// llama.cpp asks too: so no two share bytes, and all together have no more than the file.
fn placed(
    path: &Path,
    described: Vec<Description>,
    data_start: u64,
    alignment: u64,
    file_bytes: u64,
) -> Result<Vec<TensorInfo>> {
    let mut names = HashSet::new();
    let mut tensors = Vec::with_capacity(described.len());
    let mut next = 0u64;
    for Description { name, dimensions, dtype, offset } in described {
        let damaged = |problem: String| Error::malformed(path, format!("tensor `{name}` {problem}"));
        let columns = dimensions.first().copied().unwrap_or(1);
        let (values, bytes) = dtype.block();
        if !columns.is_multiple_of(values as u64) {
            let problem =
                format!("has rows of {columns} values, no multiple of the {values} of {}", dtype.name());
            return Err(damaged(problem));
        }
        // In the order of the shape: where an empty dimension comes last, the others must not overflow.
        let count = dimensions.iter().rev().try_fold(1u64, |product, &size| product.checked_mul(size));
        let length = count.and_then(|count| (count / values as u64).checked_mul(bytes as u64));
        let start = data_start.checked_add(offset);
        let end = start.zip(length).and_then(|(start, length)| start.checked_add(length));
        let (Some(start), Some(length), Some(_)) = (start, length, end.filter(|&end| end <= file_bytes))
        else {
            let problem = format!(
                "of shape {dimensions:?} does not lie in the file of {file_bytes} bytes, which is cut short or damaged"
            );
            return Err(damaged(problem));
        };
        if offset != next {
            return Err(damaged(format!("begins at {offset} of the data, expected {next}")));
        }
        next = (offset + length).next_multiple_of(alignment);
        if !names.insert(name.clone()) {
            return Err(damaged("occurs twice".to_owned()));
        }
        let shape = dimensions.iter().rev().map(|&size| usize::try_from(size));
        let shape = shape.collect::<Result<_, _>>().map_err(|cause| damaged(cause.to_string()))?;
        tensors.push(TensorInfo {
            name,
            dictionary: String::new(),
            shape,
            dtype,
            file: path.to_owned(),
            offset: start,
            layout: None,
        });
    }
    Ok(tensors)
}

struct Reader<'a> {
    path: &'a Path,
    file: BufReader<File>,
    position: u64,
    /// Where the file, or the longest header, ends.
    limit: u64,
}

impl Reader<'_> {
    fn damaged(&self, problem: impl ToString) -> Error {
        Error::malformed(self.path, problem)
    }

    /// Fails unless `count` more items of at least `least_bytes` each can follow.
    fn require(&self, count: u64, least_bytes: u64, what: &str) -> Result<()> {
        let left = self.limit - self.position;
        if count.checked_mul(least_bytes).is_some_and(|bytes| bytes <= left) {
            return Ok(());
        }
        let bound = if self.limit == MAX_HEADER_BYTES { " of the longest header that is read" } else { "" };
        let position = self.position;
        Err(self.damaged(format!(
            "cut short or damaged: {what} at byte {position} needs {count} times {least_bytes} bytes, but {left}{bound} are left"
        )))
    }

    fn bytes(&mut self, count: u64, what: &str) -> Result<Box<[u8]>> {
        self.require(count, 1, what)?;
        // Not above the limit, which fits.
        let mut bytes = vec![0; count as usize];
        self.file.read_exact(&mut bytes).map_err(Error::io("read", self.path))?;
        self.position += count;
        Ok(bytes.into())
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N]> {
        self.require(1, N as u64, what)?;
        let mut bytes = [0; N];
        self.file.read_exact(&mut bytes).map_err(Error::io("read", self.path))?;
        self.position += N as u64;
        Ok(bytes)
    }

    fn u32(&mut self, what: &str) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    fn u64(&mut self, what: &str) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// A number of items of which each takes at least `least_bytes` of what follows.
    fn count(&mut self, what: &str, least_bytes: u64) -> Result<u64> {
        let count = self.u64(&format!("the number of {what}"))?;
        self.require(count, least_bytes, what)?;
        Ok(count)
    }

    fn text(&mut self, what: &str) -> Result<Box<[u8]>> {
        let length = self.u64(what)?;
        self.bytes(length, what)
    }

    fn name(&mut self, what: &str) -> Result<String> {
        let position = self.position;
        let bytes = self.text(what)?;
        String::from_utf8(bytes.into())
            .map_err(|_| self.damaged(format!("{what} at byte {position} is not UTF-8")))
    }

    fn value(&mut self, key: &str) -> Result<Value> {
        let what = format!("metadata key `{key}`");
        match self.u32(&what)? {
            8 => Ok(Value::Text(self.text(&what)?)),
            9 => self.list(&what),
            id => {
                let scalar = self.scalar(id, &what)?;
                let bytes = self.bytes(scalar.bytes(), &what)?;
                Ok(scalar.decode(&bytes))
            }
        }
    }

    fn list(&mut self, what: &str) -> Result<Value> {
        match self.u32(what)? {
            8 => {
                let count = self.count(what, LEAST_TEXT_BYTES)?;
                let texts = (0..count).map(|_| self.text(what)).collect::<Result<_>>()?;
                Ok(Value::Texts(texts))
            }
            // llama.cpp reads none either.
            9 => Err(self.damaged(format!("{what} is a list of lists"))),
            id => {
                let scalar = self.scalar(id, what)?;
                let count = self.count(what, scalar.bytes())?;
                Ok(Value::Scalars(scalar, self.bytes(count * scalar.bytes(), what)?))
            }
        }
    }

    fn scalar(&self, id: u32, what: &str) -> Result<Scalar> {
        Scalar::of(id).ok_or_else(|| self.damaged(format!("{what} has the unknown type {id}")))
    }

    /// The type of a number of `enum ggml_type`. The size of an unknown one, and so of the file, cannot be checked.
    fn element_type(&mut self, what: &str) -> Result<WeightType> {
        match self.u32(what)? {
            0 => Ok(WeightType::F32),
            1 => Ok(WeightType::F16),
            28 => Ok(WeightType::F64),
            30 => Ok(WeightType::Bf16),
            number => match BlockFormat::of(number) {
                Some(format) => Ok(WeightType::Blocks(format)),
                None => Err(self.damaged(format!("{what} has the unknown element type {number}"))),
            },
        }
    }

    fn description(&mut self) -> Result<Description> {
        let name = self.name("a tensor's name")?;
        let what = format!("tensor `{name}`");
        let count = self.u32(&what)?;
        if count > MAX_DIMENSIONS {
            return Err(
                self.damaged(format!("{what} has {count} dimensions, at most {MAX_DIMENSIONS} are read"))
            );
        }
        let dimensions = (0..count).map(|_| self.u64(&what)).collect::<Result<_>>()?;
        let dtype = self.element_type(&what)?;
        let offset = self.u64(&what)?;
        Ok(Description { name, dimensions, dtype, offset })
    }
}

/// Whether a file begins as a GGUF file does.
pub(super) fn is_gguf(path: &Path) -> bool {
    let mut start = [0; 4];
    open_regular(path).is_ok_and(|mut file| file.read_exact(&mut start).is_ok()) && start == MAGIC
}
