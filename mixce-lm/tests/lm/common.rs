//! Shared by the integration tests of this crate.

use std::path::{Path, PathBuf};

/// A file or folder under `tests/fixtures` at the root of the workspace.
pub(crate) fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures").join(path)
}
