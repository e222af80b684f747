//! Small files, read with a size limit.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::error::{Error, Result};

/// The bytes of a file that may have at most `limit_bytes`.
///
/// # Errors
/// When it cannot be read or is larger.
pub fn read_bytes(path: &Path, limit_bytes: u64) -> Result<Vec<u8>> {
    let file = File::open(path).map_err(Error::io("read", path))?;
    let mut bytes = Vec::new();
    file.take(limit_bytes + 1).read_to_end(&mut bytes).map_err(Error::io("read", path))?;
    if bytes.len() as u64 > limit_bytes {
        return Err(Error::malformed(path, format!("larger than the limit of {limit_bytes} bytes")));
    }
    Ok(bytes)
}

/// The text of a UTF-8 file that may have at most `limit_bytes`.
///
/// # Errors
/// When it cannot be read, is larger, or is not UTF-8.
pub fn read_text(path: &Path, limit_bytes: u64) -> Result<String> {
    String::from_utf8(read_bytes(path, limit_bytes)?).map_err(|cause| Error::malformed(path, cause))
}
