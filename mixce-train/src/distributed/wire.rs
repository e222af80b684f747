//! How numbers go over the wire.
use std::fmt;

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
        let mut bytes = Vec::new();
        self.encode_into(&mut bytes, values);
        bytes
    }

    /// [`Self::encode`] in place of what `bytes` has.
    pub(super) fn encode_into(self, bytes: &mut Vec<u8>, values: &[f32]) {
        match self {
            Self::F32 => each_in_bytes(bytes, values, f32::to_le_bytes),
            Self::Bf16 => each_in_bytes(bytes, values, |value| bf16::from_f32(value).to_le_bytes()),
        }
    }

    /// The values that `rank` has sent.
    ///
    /// # Errors
    /// [`Error::RanksDiffer`] if it has sent another number of values.
    pub(super) fn decode_into(self, values: &mut [f32], bytes: &[u8], rank: usize) -> Result<()> {
        self.each(values, bytes, rank, |value, sent| *value = sent)
    }

    /// Adds the values that `rank` has sent.
    ///
    /// # Errors
    /// As [`Self::decode_into`].
    pub(super) fn add(self, sums: &mut [f32], bytes: &[u8], rank: usize) -> Result<()> {
        self.each(sums, bytes, rank, |sum, sent| *sum += sent)
    }

    /// Values as another rank gets them.
    pub(super) fn round(self, values: &mut [f32]) {
        if self == Self::Bf16 {
            values.iter_mut().for_each(|value| *value = bf16::from_f32(*value).to_f32());
        }
    }

    /// The sums of what the ranks have sent, in their order, as the ranks are sent them.
    ///
    /// # Errors
    /// As [`Self::decode_into`].
    pub(super) fn add_up(self, sums: &mut [f32], all: &[Vec<u8>]) -> Result<()> {
        sums.fill(0.0);
        (0..).zip(all).try_for_each(|(rank, bytes)| self.add(sums, bytes, rank))?;
        self.round(sums);
        Ok(())
    }

    fn each(self, values: &mut [f32], bytes: &[u8], rank: usize, take: impl Fn(&mut f32, f32)) -> Result<()> {
        match self {
            Self::F32 => each_of_bytes(values, bytes, rank, f32::from_le_bytes, take),
            Self::Bf16 => {
                each_of_bytes(values, bytes, rank, |bytes| bf16::from_le_bytes(bytes).to_f32(), take)
            }
        }
    }
}

/// The sums of the f64 that the ranks have sent, in their order.
///
/// # Errors
/// [`Error::RanksDiffer`] if one has sent another number of values.
pub(super) fn add_up_f64(sums: &mut [f64], all: &[Vec<u8>]) -> Result<()> {
    sums.fill(0.0);
    let add = |sum: &mut f64, sent| *sum += sent;
    (0..).zip(all).try_for_each(|(rank, bytes)| each_of_bytes(sums, bytes, rank, f64::from_le_bytes, add))
}

fn each_of_bytes<T, const N: usize>(
    values: &mut [T],
    bytes: &[u8],
    rank: usize,
    from_bytes: impl Fn([u8; N]) -> T,
    take: impl Fn(&mut T, T),
) -> Result<()> {
    if bytes.len() != N * values.len() {
        return Err(Error::RanksDiffer { what: "number of values", rank });
    }
    values.iter_mut().zip(bytes.as_chunks().0).for_each(|(value, bytes)| take(value, from_bytes(*bytes)));
    Ok(())
}

pub(super) fn bytes_of(values: &[f32]) -> Vec<u8> {
    ReduceDtype::F32.encode(values)
}

/// One pass over memory of known size: in f32 the compiler makes a copy of it, which it does not of collected bytes.
fn each_in_bytes<const N: usize>(bytes: &mut Vec<u8>, values: &[f32], to_bytes: impl Fn(f32) -> [u8; N]) {
    bytes.resize(N * values.len(), 0);
    bytes.as_chunks_mut().0.iter_mut().zip(values).for_each(|(to, value)| *to = to_bytes(*value));
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
