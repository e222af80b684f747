//! Checksums of weight files: the digest in the metadata of a safetensors file, and the CRC-32 of the entries of a PyTorch file.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::tensor::TensorInfo;
use super::{open, open_file, pytorch, safetensors};
use crate::error::{Error, Result};
use crate::tensor_digest::{KEY, TensorDigest};

/// What was compared with the contents of a weight file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Checksum {
    /// The SHA-256 of its tensors, in the metadata of a safetensors file that mixce has written.
    Sha256,
    /// The CRC-32 of every entry of a zip archive, as `torch.save` writes.
    Crc32,
    /// The file has no checksum.
    Absent,
}

/// Compares every weight file of a checkpoint folder, or one weight file, with its checksums.
///
/// # Errors
/// [`Error::Checksum`] for the first file that is not what its checksum says; those of [`list`](super::list).
pub fn verify(path: &Path) -> Result<Vec<(PathBuf, Checksum)>> {
    let weights = if path.is_dir() { open(path)? } else { open_file(path, Vec::new())? };
    let files: BTreeSet<PathBuf> = weights.tensors.into_iter().map(|tensor| tensor.file).collect();
    files
        .into_iter()
        .map(|file| {
            let checksum = check(&file, None)?;
            Ok((file, checksum))
        })
        .collect()
}

/// The same for the files of these tensors; of a PyTorch file only the entries in which they lie are read.
pub(super) fn verify_tensors<'a>(tensors: impl Iterator<Item = &'a TensorInfo>) -> Result<()> {
    let mut offsets: BTreeMap<&Path, Vec<u64>> = BTreeMap::new();
    for tensor in tensors {
        offsets.entry(&tensor.file).or_default().push(tensor.offset);
    }
    for (file, offsets) in offsets {
        check(file, Some(&offsets))?;
    }
    Ok(())
}

fn check(path: &Path, offsets: Option<&[u64]>) -> Result<Checksum> {
    let mut magic = [0; 2];
    let mut file = File::open(path).map_err(Error::io("read", path))?;
    let is_zip = file.read_exact(&mut magic).is_ok() && magic == *b"PK";
    if path.extension().is_some_and(|extension| extension == "safetensors") {
        check_safetensors(path, file)
    } else if is_zip {
        pytorch::check_entries(path, offsets)
    } else {
        Ok(Checksum::Absent)
    }
}

fn check_safetensors(path: &Path, mut file: File) -> Result<Checksum> {
    let (metadata, data_start) = safetensors::header(path)?;
    let Some(expected) = metadata.metadata().as_ref().and_then(|metadata| metadata.get(KEY)) else {
        return Ok(Checksum::Absent);
    };
    let tensors: BTreeMap<String, _> = metadata.tensors().into_iter().collect();
    let mut digest = TensorDigest::default();
    for (name, info) in &tensors {
        digest.begin(name, info.dtype, &info.shape);
        let (start, end) = info.data_offsets;
        let range = data_start + start as u64..data_start + end as u64;
        for_each_chunk(&mut file, range, |bytes| digest.add(bytes)).map_err(Error::io("read", path))?;
    }
    let got = digest.finish();
    if got != *expected {
        let (expected, what) = (expected.clone(), "SHA-256 of its tensors".to_owned());
        return Err(Error::Checksum { path: path.to_owned(), what, expected, got });
    }
    Ok(Checksum::Sha256)
}

/// Calls `sink` with the bytes of a range of a file.
pub(super) fn for_each_chunk(
    file: &mut (impl Read + Seek),
    range: std::ops::Range<u64>,
    mut sink: impl FnMut(&[u8]),
) -> std::io::Result<()> {
    file.seek(SeekFrom::Start(range.start))?;
    let mut left = range.end.saturating_sub(range.start);
    let mut buffer = vec![0; left.min(1 << 20) as usize];
    while left > 0 {
        let chunk = left.min(buffer.len() as u64) as usize;
        file.read_exact(&mut buffer[..chunk])?;
        sink(&buffer[..chunk]);
        left -= chunk as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Tensor};
    use mixce_base::Hint as _;

    use super::*;
    use crate::export::write_safetensors;

    fn written(folder: &Path) -> PathBuf {
        let path = folder.join("model.safetensors");
        let tensor = |values: &[f32]| Tensor::new(values, &Device::Cpu).unwrap();
        let (a, b) = (tensor(&[1.0, -2.0, 3.5]), tensor(&[0.25]));
        let tensors = BTreeMap::from([("wte.weight".to_owned(), &a), ("b".to_owned(), &b)]);
        write_safetensors(&path, tensors, DType::F32).unwrap();
        path
    }

    /// The formula in Python: `hashlib.sha256(b'["b","F32",[1]]\n' + struct.pack("<f", 0.25) + b'["wte.weight","F32",[3]]\n' +
    /// struct.pack("<3f", 1, -2, 3.5)).hexdigest()`.
    #[test]
    fn the_digest_is_the_documented_one() {
        let folder = tempfile::tempdir().unwrap();
        let (metadata, _) = safetensors::header(&written(folder.path())).unwrap();
        let metadata = metadata.metadata().clone().unwrap();
        assert_eq!(metadata["format"], "pt");
        assert_eq!(metadata[KEY], "fcf8ec8f154849499a1188fb1f2c3cc2e87d4ffe5d0ecdf1cde4e1468c701d03");
    }

    #[test]
    fn no_changed_byte_is_accepted() {
        let folder = tempfile::tempdir().unwrap();
        let path = written(folder.path());
        assert_eq!(verify(&path).unwrap(), [(path.clone(), Checksum::Sha256)]);
        let whole = std::fs::read(&path).unwrap();
        for bit in 0..whole.len() * 8 {
            let mut spoilt = whole.clone();
            spoilt[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, &spoilt).unwrap();
            // Flips of the padding, the format or the name of the key itself change no tensor.
            if verify(&path).is_ok() {
                let tensors = super::super::list(&path).unwrap();
                let values: Vec<Vec<f32>> = tensors.iter().map(|tensor| tensor.read_f32().unwrap()).collect();
                let names: Vec<&str> = tensors.iter().map(|tensor| tensor.name.as_str()).collect();
                assert_eq!(names, ["b", "wte.weight"], "bit {bit}");
                assert_eq!(values, [vec![0.25], vec![1.0, -2.0, 3.5]], "bit {bit}");
            }
        }
    }

    #[test]
    fn a_changed_element_is_told_with_a_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let path = written(folder.path());
        let mut bytes = std::fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 4;
        std::fs::write(&path, bytes).unwrap();
        let error = verify(folder.path()).unwrap_err();
        assert!(error.to_string().contains("model.safetensors` is damaged: expected the SHA-256"), "{error}");
        assert!(error.hint().unwrap().contains("`mixce_sha256`"));
    }
}
