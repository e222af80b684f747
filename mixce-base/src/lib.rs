//! What every crate of mixce needs and none of them owns.
//!
//! - [`rng`]: counter-based random numbers: the same seed gives the same numbers, in any order, on any thread or device.

pub mod rng;

/// Bytes as lower-case hexadecimal digits: how digests are shown and stored.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
