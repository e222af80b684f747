//! Utilities shared by all crates of mixce.
//!
//! - [`rng`]: counter-based random numbers: the same seed gives the same numbers, in any order, on any thread or device.

pub mod rng;

/// Bytes as lower-case hexadecimal digits, the format of digests.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
