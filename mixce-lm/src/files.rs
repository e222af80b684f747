//! Small files, read with a size limit.

use std::path::Path;

use mixce_base::files::read_regular;

use crate::error::{Error, Result};

/// The bytes of a file that may have at most `limit_bytes`.
///
/// # Errors
/// When it cannot be read, is larger, or is no regular file.
pub fn read_bytes(path: &Path, limit_bytes: u64) -> Result<Vec<u8>> {
    Ok(read_regular(path, limit_bytes)?)
}

/// The text of a UTF-8 file that may have at most `limit_bytes`.
///
/// # Errors
/// When it cannot be read, is larger, or is not UTF-8.
pub fn read_text(path: &Path, limit_bytes: u64) -> Result<String> {
    String::from_utf8(read_bytes(path, limit_bytes)?).map_err(|cause| Error::malformed(path, cause))
}
