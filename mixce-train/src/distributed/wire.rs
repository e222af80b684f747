//! How numbers go over the wire.
use std::fmt;
use std::ops::AddAssign;

use half::bf16;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The number format in which gradients, and their sums, are sent.
///
/// With [`Self::Bf16`] each rank rounds its gradients to bf16, to nearest with ties to even, and half the bytes are sent. On CPUs the rounded gradients
/// are added in f32, in the order of ranks, and each sum is rounded once. NCCL's ring rounds at each rank that adds its part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReduceDtype {
    /// As they are computed.
    #[default]
    F32,
    /// bfloat16: the exponents of f32, 8 bits of precision.
    Bf16,
}

impl fmt::Display for ReduceDtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        })
    }
}

impl ReduceDtype {
    /// Bytes of a number.
    #[must_use]
    pub fn bytes(self) -> u64 {
        match self {
            Self::F32 => 4,
            Self::Bf16 => 2,
        }
    }

    /// Values as they are sent.
    pub(super) fn encode(self, values: &[f32]) -> Vec<u8> {
        match self {
            Self::F32 => bytes_of(values),
            Self::Bf16 => each_in_bytes(values, |value| bf16::from_f32(value).to_le_bytes()),
        }
    }

    /// The sums of what the ranks have sent, in their order, as the ranks are sent them.
    ///
    /// # Errors
    /// [`Error::RanksDiffer`] if one has sent another number of values.
    pub(super) fn add_up(self, sums: &mut [f32], all: &[Vec<u8>]) -> Result<()> {
        match self {
            Self::F32 => add_up(sums, all, f32::from_le_bytes),
            Self::Bf16 => {
                add_up(sums, all, |bytes| bf16::from_le_bytes(bytes).to_f32())?;
                sums.iter_mut().for_each(|sum| *sum = bf16::from_f32(*sum).to_f32());
                Ok(())
            }
        }
    }
}

/// The sums of what the ranks have sent, in their order.
///
/// # Errors
/// [`Error::RanksDiffer`] if one has sent another number of values.
pub(super) fn add_up<T: Default + AddAssign, const N: usize>(
    sums: &mut [T],
    all: &[Vec<u8>],
    from_bytes: impl Fn([u8; N]) -> T,
) -> Result<()> {
    if let Some(rank) = all.iter().position(|part| part.len() != N * sums.len()) {
        return Err(Error::RanksDiffer { what: "number of values", rank });
    }
    sums.fill_with(T::default);
    for part in all {
        sums.iter_mut().zip(part.as_chunks().0).for_each(|(sum, bytes)| *sum += from_bytes(*bytes));
    }
    Ok(())
}

pub(super) fn bytes_of(values: &[f32]) -> Vec<u8> {
    each_in_bytes(values, f32::to_le_bytes)
}

/// One pass over memory of known size: in f32 the compiler makes a copy of it, which it does not of collected bytes.
fn each_in_bytes<const N: usize>(values: &[f32], to_bytes: impl Fn(f32) -> [u8; N]) -> Vec<u8> {
    let mut bytes = vec![0; N * values.len()];
    bytes.as_chunks_mut().0.iter_mut().zip(values).for_each(|(to, value)| *to = to_bytes(*value));
    bytes
}

/// The bytes of gradients, and with a sharded optimizer of weights, that each rank sends, and receives, in a step with `values` parameters on
/// `ranks` ranks connected by MPI: its share of the sum from every other rank, then the other shares, of sums or, in f32, of weights.
///
/// Shares differ by a value, shards by a chunk; this is the mean over the ranks.
#[must_use]
pub fn exchanged_bytes(values: u64, ranks: u64, dtype: ReduceDtype, sharded: bool) -> u64 {
    let others = values.saturating_sub(values / ranks.max(1));
    let second = if sharded { ReduceDtype::F32 } else { dtype };
    others.saturating_mul(dtype.bytes() + second.bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rank_sends_its_share_of_both_phases() {
        let bytes = |ranks, dtype, sharded| exchanged_bytes(1000, ranks, dtype, sharded);
        for sharded in [false, true] {
            assert_eq!([1, 2, 4].map(|ranks| bytes(ranks, ReduceDtype::F32, sharded)), [0, 4000, 6000]);
        }
        assert_eq!([1, 2, 4].map(|ranks| bytes(ranks, ReduceDtype::Bf16, false)), [0, 2000, 3000]);
        // Weights are exchanged in f32.
        assert_eq!([1, 2, 4].map(|ranks| bytes(ranks, ReduceDtype::Bf16, true)), [0, 3000, 4500]);
    }

    #[test]
    fn terms_and_sums_are_rounded_once() {
        // 1 + 2^-7 is the number after 1, half the way between two is rounded to the even one, and sums are made in f32.
        let step = 2f32.powi(-7);
        let sent = [1.0 + step / 2.0, step / 2.0, step / 4.0].map(|term| ReduceDtype::Bf16.encode(&[term]));
        assert_eq!(sent.each_ref().map(Vec::len), [2; 3]);
        let mut sum = [0.0];
        ReduceDtype::Bf16.add_up(&mut sum, &sent).unwrap();
        assert_eq!(sum, [1.0 + step], "1 + 3/4 of a step; rounded after each addition it would be 1");
        let mut special = [0.0; 3];
        let sent = [ReduceDtype::Bf16.encode(&[f32::INFINITY, f32::NAN, f32::MAX])];
        ReduceDtype::Bf16.add_up(&mut special, &sent).unwrap();
        assert!(special[0] == f32::INFINITY && special[1].is_nan() && special[2] == f32::INFINITY);
        assert!(matches!(ReduceDtype::Bf16.add_up(&mut [0.0; 2], &sent), Err(Error::RanksDiffer { .. })));
    }
}
