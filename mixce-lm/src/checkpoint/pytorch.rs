//! PyTorch's own checkpoint files: a zip archive (since PyTorch 1.6), or pickles followed by raw numbers before that
//! (the format of the first published GPT-2). Source: `torch/serialization.py` of PyTorch 2.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;
use std::rc::Rc;

use mixce_base::files::open_regular;
use zip::{CompressionMethod, ZipArchive};

use super::integrity::{Checksum, for_each_chunk};
use super::pickle::{Id, Input, Object, Pickle, PickledTensor};
use super::tensor::{Layout, TensorInfo, WeightType};
use crate::error::{Error, Result};

/// Dictionaries deeper than this are not looked into; keeps a file of nested ones from filling memory with their paths.
const MAX_PATH_BYTES: usize = 4096;
/// Most tensors; each takes up to some kilobytes for its path and name.
const MAX_TENSORS: usize = 1 << 18;

/// Where a storage lies in the file.
#[derive(Debug, Clone, Copy)]
struct Block {
    start: u64,
    bytes: u64,
}

/// The entries of a zip archive, all stored plain and inside the file.
struct Entries {
    blocks: HashMap<String, Block>,
    /// CRC-32 by name.
    checksums: HashMap<String, u32>,
    reader: BufReader<File>,
}

pub(super) fn open(path: &Path) -> Result<Vec<TensorInfo>> {
    let mut file = open_regular(path)?;
    let file_bytes = file.metadata().map_err(Error::io("read", path))?.len();
    let mut magic = [0u8; 4];
    if file_bytes < 4 {
        return Err(Error::malformed(path, format!("not a PyTorch checkpoint: {file_bytes} bytes")));
    }
    file.read_exact(&mut magic).map_err(Error::io("read", path))?;
    file.seek(SeekFrom::Start(0)).map_err(Error::io("read", path))?;
    let reader = BufReader::new(file);
    match magic {
        [b'P', b'K', ..] => open_zip(path, reader, file_bytes),
        [0x80, ..] => open_legacy(path, reader, file_bytes),
        _ => Err(Error::malformed(path, "neither a zip archive nor a pickle, so not a PyTorch checkpoint")),
    }
}

fn entries(path: &Path, reader: BufReader<File>, file_bytes: u64) -> Result<Entries> {
    let damaged =
        |cause: zip::result::ZipError| Error::malformed(path, format!("damaged zip archive: {cause}"));
    let mut archive = ZipArchive::new(reader).map_err(damaged)?;
    let (mut blocks, mut checksums) = (HashMap::new(), HashMap::new());
    for index in 0..archive.len() {
        let entry = archive.by_index_raw(index).map_err(damaged)?;
        let name = entry.name().map_err(damaged)?.into_owned();
        let block = Block { start: entry.data_start().unwrap_or(u64::MAX), bytes: entry.size() };
        if entry.compression() != CompressionMethod::Stored || entry.encrypted() {
            return Err(Error::malformed(
                path,
                format!("zip entry `{name}` is compressed; PyTorch stores them plain"),
            ));
        }
        if block.start.checked_add(block.bytes).is_none_or(|end| end > file_bytes) {
            return Err(Error::malformed(
                path,
                format!("zip entry `{name}` reaches beyond the end of the file"),
            ));
        }
        checksums.insert(name.clone(), entry.crc32());
        blocks.insert(name, block);
    }
    Ok(Entries { blocks, checksums, reader: archive.into_inner() })
}

/// Compares the entries of a zip archive with their CRC-32: those that hold one of `offsets`, or all.
///
/// PyTorch can be told not to compute checksums (`torch.serialization.set_crc32_options`); 0 is taken for such a one.
pub(super) fn check_entries(path: &Path, offsets: Option<&[u64]>) -> Result<Checksum> {
    let file = File::open(path).map_err(Error::io("read", path))?;
    let file_bytes = file.metadata().map_err(Error::io("read", path))?.len();
    let Entries { blocks, checksums, mut reader } = entries(path, BufReader::new(file), file_bytes)?;
    let mut names: Vec<&String> = blocks.keys().filter(|name| checksums[*name] != 0).collect();
    names.sort();
    let mut checked = Checksum::Absent;
    for name in names {
        let (Block { start, bytes }, expected) = (blocks[name], checksums[name]);
        let holds_one = |offsets: &[u64]| offsets.iter().any(|at| (start..start + bytes).contains(at));
        // The pickle says where and of which shape the tensors are.
        if offsets.is_some_and(|offsets| !holds_one(offsets) && !name.ends_with("data.pkl")) {
            continue;
        }
        let mut crc = crc32fast::Hasher::new();
        let read = for_each_chunk(&mut reader, start..start + bytes, |bytes| crc.update(bytes));
        read.map_err(Error::io("read", path))?;
        let got = crc.finalize();
        if got != expected {
            let (expected, got) = (format!("{expected:08x}"), format!("{got:08x}"));
            return Err(Error::Checksum {
                path: path.to_owned(),
                what: format!("CRC-32 of zip entry `{name}`"),
                expected,
                got,
            });
        }
        checked = Checksum::Crc32;
    }
    Ok(checked)
}

fn open_zip(path: &Path, reader: BufReader<File>, file_bytes: u64) -> Result<Vec<TensorInfo>> {
    let Entries { blocks: entries, mut reader, .. } = entries(path, reader, file_bytes)?;
    let root = entries
        .keys()
        .find_map(|name| name.strip_suffix("data.pkl"))
        .ok_or_else(|| {
            Error::malformed(path, "a zip archive without `data.pkl`, so not a PyTorch checkpoint")
        })?
        .to_owned();
    if let Some(&block) = entries.get(&format!("{root}byteorder")) {
        let mut text = String::new();
        window(path, &mut reader, block)?
            .take(16)
            .read_to_string(&mut text)
            .map_err(Error::io("read", path))?;
        if text.trim() == "big" {
            return Err(Error::malformed(path, "numbers are stored big-endian, expected little-endian"));
        }
    }
    let Some(&block) = entries.get(&format!("{root}data.pkl")) else {
        return Err(Error::malformed(path, "a zip archive without `data.pkl`"));
    };
    let mut input = Input::new(window(path, &mut reader, block)?);
    let pickle = Pickle::read(&mut input).map_err(|problem| Error::malformed(path, problem))?;
    tensors(path, &pickle, |key| entries.get(&format!("{root}data/{key}")).copied())
}

fn window<'r>(
    path: &Path,
    reader: &'r mut BufReader<File>,
    block: Block,
) -> Result<std::io::Take<&'r mut BufReader<File>>> {
    reader.seek(SeekFrom::Start(block.start)).map_err(Error::io("read", path))?;
    Ok(reader.take(block.bytes))
}

/// Magic number, protocol version, system information and state dict as pickles, then the keys of the storages as a
/// pickle, then each storage as an i64 length and its numbers.
fn open_legacy(path: &Path, reader: BufReader<File>, file_bytes: u64) -> Result<Vec<TensorInfo>> {
    let damaged = |problem: String| Error::malformed(path, problem);
    let mut input = Input::new(reader);
    // The magic number, the version, and what is known of the machine.
    drop(Pickle::read(&mut input).map_err(damaged)?);
    if !matches!(Pickle::read(&mut input).map_err(damaged)?.root(), Object::Int(1001)) {
        return Err(damaged("a pickle, but not a PyTorch checkpoint (no protocol version 1001)".to_owned()));
    }
    drop(Pickle::read(&mut input).map_err(damaged)?);
    let state = Pickle::read(&mut input).map_err(damaged)?;
    let keys = Pickle::read(&mut input).map_err(damaged)?;
    let Object::List(ids) = keys.root() else {
        return Err(damaged("the list of storages is not a list".to_owned()));
    };
    let sizes: HashMap<&str, u64> =
        state.storages().map(|storage| (&*storage.key, element_bytes(&storage.dtype))).collect();
    let mut blocks = HashMap::new();
    let mut at = input.position;
    let mut file = open_regular(path)?;
    for &id in ids {
        let Object::Text(key) = keys.get(id) else {
            return Err(damaged("the key of a storage is not a text".to_owned()));
        };
        let mut length = [0u8; 8];
        file.seek(SeekFrom::Start(at)).map_err(Error::io("read", path))?;
        file.read_exact(&mut length).map_err(Error::io("read", path))?;
        let count = u64::from_le_bytes(length);
        let element_bytes = sizes.get(&**key).copied().unwrap_or(0);
        let start = at + 8;
        let end = count.checked_mul(element_bytes).and_then(|bytes| start.checked_add(bytes));
        match end {
            Some(end) if end <= file_bytes && element_bytes > 0 => {
                blocks.insert(key.to_string(), Block { start, bytes: end - start });
                at = end;
            }
            _ => {
                return Err(damaged(format!(
                    "storage `{key}` of {count} elements reaches beyond the end of the file ({file_bytes} bytes)"
                )));
            }
        }
    }
    tensors(path, &state, |key| blocks.get(key).copied())
}

fn element_bytes(dtype: &WeightType) -> u64 {
    match dtype {
        WeightType::Other(name) => match name.as_str() {
            "BoolStorage" | "ByteStorage" | "CharStorage" => 1,
            "ShortStorage" => 2,
            "IntStorage" => 4,
            "LongStorage" => 8,
            _ => 0,
        },
        float => float.block().1 as u64,
    }
}

/// Every tensor of every dictionary and list, wherever trainers keep them, with the path of the dictionary that holds it.
fn tensors(path: &Path, pickle: &Pickle, find: impl Fn(&str) -> Option<Block>) -> Result<Vec<TensorInfo>> {
    if !pickle.root().is_container() {
        return Err(Error::malformed(path, "holds no dictionary of tensors"));
    }
    let mut found: BTreeMap<(String, String), TensorInfo> = BTreeMap::new();
    // Each container is visited once, by the first path to it: a file could refer to one in many places.
    let mut visited = HashSet::from([pickle.root_id()]);
    // Those to be looked into, each with its parent's path and its name there.
    let mut open: VecDeque<(Id, Rc<str>, Rc<str>)> =
        VecDeque::from([(pickle.root_id(), "".into(), "".into())]);
    while let Some((container, parent, name)) = open.pop_front() {
        let dot = if parent.is_empty() { "" } else { "." };
        let dictionary: Rc<str> = format!("{parent}{dot}{name}").into();
        for (name, value) in pickle.entries(container) {
            match pickle.get(value) {
                Object::Tensor(tensor) => {
                    let mut info = locate(path, &name, tensor, find(&tensor.storage.key))
                        .map_err(|problem| Error::malformed(path, format!("tensor `{name}` {problem}")))?;
                    info.dictionary = dictionary.to_string();
                    if found.len() == MAX_TENSORS {
                        return Err(Error::malformed(path, format!("more than {MAX_TENSORS} tensors")));
                    }
                    if found.insert((dictionary.to_string(), name.to_string()), info).is_some() {
                        return Err(Error::malformed(path, format!("tensor `{name}` occurs twice")));
                    }
                }
                object
                    if object.is_container()
                        && dictionary.len() < MAX_PATH_BYTES
                        && visited.insert(value) =>
                {
                    open.push_back((value, Rc::clone(&dictionary), name));
                }
                _ => {}
            }
        }
    }
    Ok(found.into_values().collect())
}

/// Checks that every element that a tensor views lies inside its storage, and the storage inside its block.
fn locate(
    path: &Path,
    name: &str,
    tensor: &PickledTensor,
    block: Option<Block>,
) -> Result<TensorInfo, String> {
    let storage = &tensor.storage;
    let block = block.ok_or_else(|| format!("lies in storage `{}`, which the file lacks", storage.key))?;
    let size = element_bytes(&storage.dtype);
    let count = tensor.shape.iter().try_fold(1u64, |count, &n| count.checked_mul(n as u64));
    // Elements from the offset to the last one, inclusive.
    let reach = if count == Some(0) {
        Some(0)
    } else {
        let steps = tensor.shape.iter().zip(&tensor.strides);
        steps
            .map(|(&n, &stride)| (n as u64).saturating_sub(1).checked_mul(stride as u64))
            .try_fold(1u64, |reach, step| reach.checked_add(step?))
    };
    let available = block.bytes.checked_div(size).unwrap_or(u64::MAX).min(storage.count);
    let end = reach.and_then(|reach| reach.checked_add(tensor.offset));
    // More elements than the storage has would be an expanded view (stride 0), which could be of any size.
    let fits = count.is_some_and(|count| count <= available) && end.is_some_and(|end| end <= available);
    let start = tensor.offset.checked_mul(size).and_then(|bytes| bytes.checked_add(block.start));
    let (true, Some(offset)) = (fits, start) else {
        let (shape, at) = (&tensor.shape, tensor.offset);
        return Err(format!("of shape {shape:?} at {at} does not fit its storage of {available} elements"));
    };
    Ok(TensorInfo {
        name: name.to_owned(),
        dictionary: String::new(),
        shape: tensor.shape.clone(),
        dtype: storage.dtype.clone(),
        file: path.to_owned(),
        offset,
        layout: (!is_row_major(&tensor.shape, &tensor.strides))
            .then(|| Layout { sizes: tensor.shape.clone(), steps: tensor.strides.clone() }),
    })
}

fn is_row_major(shape: &[usize], strides: &[usize]) -> bool {
    let mut step = 1usize;
    shape.iter().zip(strides).rev().all(|(&n, &stride)| {
        let fits = n == 1 || stride == step;
        step = step.saturating_mul(n);
        fits
    })
}
