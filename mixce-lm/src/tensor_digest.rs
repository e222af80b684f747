//! The digest of tensors in the metadata of a safetensors file.
//!
//! SHA-256 over every tensor in the order of the names (by their UTF-8 bytes): the JSON array `[name, dtype, shape]` without spaces, a line
//! feed, and the bytes of its elements. The layout of the file does not matter, so a tool that only reorders tensors does not change it.

use mixce_base::digest::{Digest as _, Sha256, hex};
use serde::Serialize;
use serde_json::json;

/// The key of the metadata.
pub(crate) const KEY: &str = "mixce_sha256";

/// Hexadecimal digits of a digest.
pub(crate) const DIGITS: usize = 64;

/// A digest of tensors, which must be added in the order of their names.
#[derive(Debug, Default)]
pub(crate) struct TensorDigest(Sha256);

impl TensorDigest {
    /// Begins a tensor; `dtype` is the format's name, such as `F32`.
    pub(crate) fn begin(&mut self, name: &str, dtype: impl Serialize, shape: &[usize]) {
        self.0.update(format!("{}\n", json!([name, dtype, shape])));
    }

    /// Adds bytes of its elements.
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest as hexadecimal digits.
    pub(crate) fn finish(self) -> String {
        hex(&self.0.finalize())
    }
}
