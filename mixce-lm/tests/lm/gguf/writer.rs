//! Writes GGUF files, right ones and wrong ones.

use std::path::PathBuf;

/// A value of the metadata.
pub(crate) enum Value {
    U32(u32),
    Bool(bool),
    Text(&'static str),
    Texts(Vec<&'static str>),
    F32s(Vec<f32>),
    /// Type and bytes as given.
    Raw(u32, Vec<u8>),
}

/// A tensor: name, dimensions as in the file (the fastest first), number of its type, data.
pub(crate) struct Tensor(pub(crate) &'static str, pub(crate) Vec<u64>, pub(crate) u32, pub(crate) Vec<u8>);

/// A file to be written.
pub(crate) struct File {
    pub(crate) version: u32,
    pub(crate) alignment: usize,
    pub(crate) pairs: Vec<(&'static str, Value)>,
    pub(crate) tensors: Vec<Tensor>,
}

impl File {
    pub(crate) fn new(pairs: Vec<(&'static str, Value)>, tensors: Vec<Tensor>) -> Self {
        Self { version: 3, alignment: 32, pairs, tensors }
    }

    /// The bytes, and how many of them are the header.
    pub(crate) fn bytes(&self) -> (Vec<u8>, usize) {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(self.version.to_le_bytes());
        bytes.extend((self.tensors.len() as u64).to_le_bytes());
        bytes.extend((self.pairs.len() as u64).to_le_bytes());
        for (key, value) in &self.pairs {
            text(&mut bytes, key);
            value.write(&mut bytes);
        }
        let mut data = Vec::new();
        for Tensor(name, dimensions, kind, values) in &self.tensors {
            text(&mut bytes, name);
            bytes.extend((dimensions.len() as u32).to_le_bytes());
            bytes.extend(dimensions.iter().flat_map(|size| size.to_le_bytes()));
            bytes.extend(kind.to_le_bytes());
            bytes.extend((data.len() as u64).to_le_bytes());
            data.extend(values);
            data.resize(data.len().next_multiple_of(self.alignment), 0);
        }
        bytes.resize(bytes.len().next_multiple_of(self.alignment), 0);
        let header = bytes.len();
        bytes.extend(data);
        (bytes, header)
    }

    /// Writes `tiny.gguf` into a new folder.
    pub(crate) fn write(&self) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tiny.gguf");
        std::fs::write(&path, self.bytes().0).unwrap();
        (dir, path)
    }
}

impl Value {
    fn write(&self, bytes: &mut Vec<u8>) {
        let kind: u32 = match self {
            Self::U32(_) => 4,
            Self::Bool(_) => 7,
            Self::Text(_) => 8,
            Self::Texts(_) | Self::F32s(_) => 9,
            Self::Raw(kind, _) => *kind,
        };
        bytes.extend(kind.to_le_bytes());
        match self {
            Self::U32(value) => bytes.extend(value.to_le_bytes()),
            Self::Bool(value) => bytes.push((*value).into()),
            Self::Text(value) => text(bytes, value),
            Self::Texts(values) => {
                bytes.extend(8u32.to_le_bytes());
                bytes.extend((values.len() as u64).to_le_bytes());
                values.iter().for_each(|value| text(bytes, value));
            }
            Self::F32s(values) => {
                bytes.extend(6u32.to_le_bytes());
                bytes.extend((values.len() as u64).to_le_bytes());
                values.iter().for_each(|value| bytes.extend(value.to_le_bytes()));
            }
            Self::Raw(_, value) => bytes.extend(value),
        }
    }
}

fn text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}
