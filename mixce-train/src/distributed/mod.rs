//! Data-parallel training: several processes, the *ranks* of a run, each with a copy of the model.
//!
//! Every rank takes its part of each microbatch; the gradients are added up over the ranks, and each rank then makes the same update. So a run
//! follows that of one process to rounding, and the weights of all ranks are equal bit for bit. Rank 0 alone writes and reports.
//!
//! A [`Communicator`] connects the ranks: [`Alone`] for one process, [`ThreadRank`] for threads of one process, `MpiRank` (feature `mpi`) and
//! [`SocketRank`] for processes that a launcher has started, on one machine or many, and over one of these `NcclRank` (feature `nccl`) for
//! their GPUs. [`Launched::detect`] finds out what the launcher has told this process.
#[cfg(feature = "nccl")]
mod gpus;
mod launched;
mod lead;
mod part;
#[cfg(feature = "mpi")]
mod processes;
mod rendezvous;
mod same;
mod sockets;
mod threads;

use std::fmt::Debug;
use std::ops::AddAssign;
use std::sync::Arc;
use std::time::Duration;

use candle_core::{Device, Tensor};
use mixce_kernels::edit_f32;

#[cfg(feature = "nccl")]
pub use gpus::NcclRank;
pub use launched::{Launched, Launcher};
pub use lead::{first_rank_first, lead};
pub use part::Part;
#[cfg(feature = "mpi")]
pub use processes::MpiRank;
pub use same::require_same;
pub use sockets::SocketRank;
pub use threads::ThreadRank;

use crate::error::{Error, Result};
use crate::run_folder::device_name;

/// Values in one message of a sum of tensors: 4 MiB. Larger messages are hardly faster, and each rank holds some copies of one.
const BUCKET: usize = 1 << 20;

/// Connects this rank with the others. All ranks make the same calls in the same order; each waits for the others.
///
/// A host engine writes [`Self::all_gather`] and, to save bytes on the wire, [`Self::all_reduce_f32`]; one for GPUs adds tensors up where
/// they are ([`Self::all_reduce`], [`Self::adds_up_on`]).
pub trait Communicator: Debug + Send + Sync {
    /// This rank's number, from 0.
    fn rank(&self) -> usize;

    /// The number of ranks.
    fn size(&self) -> usize;

    /// How long a call waits for the other ranks.
    fn timeout(&self) -> Duration;

    /// The bytes of every rank, in the order of ranks. They may differ in length.
    ///
    /// # Errors
    /// [`Error::RanksSilent`] if a rank does not take part within [`Self::timeout`]; [`Error::RankFailed`] and [`Error::RankLost`] if one has
    /// failed or is gone.
    fn all_gather(&self, own: Vec<u8>) -> Result<Vec<Vec<u8>>>;

    /// Ends all ranks, whatever they wait for, because this one has failed; `status` is the exit status of the run where ranks are processes.
    fn abort(&self, status: u8);

    /// Adds `values` up over the ranks, in the order of ranks: the result has the same bits on each.
    ///
    /// # Errors
    /// As [`Self::all_gather`].
    fn all_reduce_f32(&self, values: &mut [f32]) -> Result<()> {
        let own = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        add_up(values, &self.all_gather(own)?, f32::from_le_bytes);
        Ok(())
    }

    /// The same for a few f64.
    ///
    /// # Errors
    /// As [`Self::all_gather`].
    fn all_reduce_f64(&self, values: &mut [f64]) -> Result<()> {
        let own = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        add_up(values, &self.all_gather(own)?, f64::from_le_bytes);
        Ok(())
    }

    /// Adds f32 tensors up over the ranks in place, in buckets of 4 MiB. They must be contiguous and share no memory.
    ///
    /// # Errors
    /// As [`Self::all_gather`], and if a tensor is not f32, or on a device without [`Self::adds_up_on`].
    fn all_reduce(&self, tensors: &[&Tensor]) -> Result<()> {
        if self.size() == 1 {
            return Ok(());
        }
        let sum =
            |mut slices: Vec<&mut [f32]>| Ok(in_buckets(&mut slices, |bucket| self.all_reduce_f32(bucket)));
        edit_f32("all-reduce", tensors, sum).map_err(Error::tensor("sum over ranks"))?
    }

    /// Whether [`Self::all_reduce`] takes tensors of this device.
    fn adds_up_on(&self, device: &Device) -> bool {
        device.is_cpu()
    }

    /// Whether the other ranks are there, as far as is known without waiting for them.
    ///
    /// # Errors
    /// [`Error::RankFailed`], [`Error::RankLost`].
    fn check(&self) -> Result<()> {
        Ok(())
    }

    /// Rank 0's bytes, on every rank; those of others are ignored.
    ///
    /// # Errors
    /// As [`Self::all_gather`].
    fn broadcast(&self, bytes: Vec<u8>) -> Result<Vec<u8>> {
        let own = if self.rank() == 0 { bytes } else { Vec::new() };
        Ok(self.all_gather(own)?.swap_remove(0))
    }

    /// Waits until all ranks are here.
    ///
    /// # Errors
    /// As [`Self::all_gather`].
    fn barrier(&self) -> Result<()> {
        self.all_gather(Vec::new()).map(drop)
    }
}

/// The connection of ranks whose tensors are on `device`: `host` itself for CPUs, `NcclRank` over it for GPUs.
///
/// # Errors
/// [`Error::RanksDiffer`] if only some ranks have a GPU; [`Error::Config`] if this build or this machine has no NCCL, or for another device.
pub fn on_device(host: Arc<dyn Communicator>, device: &Device) -> Result<Arc<dyn Communicator>> {
    if host.size() == 1 {
        return Ok(host);
    }
    require_same(&*host, "kind of device", vec![u8::from(device.is_cuda())])?;
    match device {
        Device::Cpu => Ok(host),
        #[cfg(feature = "nccl")]
        Device::Cuda(_) => Ok(Arc::new(NcclRank::start(host, device)?)),
        _ => Err(Error::Config {
            message: format!(
                "`config.device`: expected `cpu` for a run of {} processes in a build without NCCL, got `{}`",
                host.size(),
                device_name(device)
            ),
            hint: Some("build it with `cargo build --release --features nccl`".into()),
        }),
    }
}

/// The sums of what the ranks have sent, in their order.
fn add_up<T: Default + AddAssign, const N: usize>(
    sums: &mut [T],
    all: &[Vec<u8>],
    from_bytes: impl Fn([u8; N]) -> T,
) {
    sums.fill_with(T::default);
    for part in all {
        sums.iter_mut().zip(part.as_chunks().0).for_each(|(sum, bytes)| *sum += from_bytes(*bytes));
    }
}

/// Calls `reduce` with the values of all slices, at most [`BUCKET`] at a time, and writes its results back.
fn in_buckets(slices: &mut [&mut [f32]], mut reduce: impl FnMut(&mut [f32]) -> Result<()>) -> Result<()> {
    let mut bucket: Vec<f32> = Vec::with_capacity(BUCKET);
    let mut pieces: Vec<&mut [f32]> = Vec::new();
    let mut flush = |bucket: &mut Vec<f32>, pieces: &mut Vec<&mut [f32]>| {
        reduce(bucket)?;
        let mut rest = bucket.as_slice();
        for piece in pieces.drain(..) {
            let (own, others) = rest.split_at(piece.len());
            piece.copy_from_slice(own);
            rest = others;
        }
        bucket.clear();
        Ok(())
    };
    for piece in slices.iter_mut().flat_map(|slice| slice.chunks_mut(BUCKET)) {
        if bucket.len() + piece.len() > BUCKET {
            flush(&mut bucket, &mut pieces)?;
        }
        bucket.extend_from_slice(piece);
        pieces.push(piece);
    }
    if bucket.is_empty() { Ok(()) } else { flush(&mut bucket, &mut pieces) }
}

/// The bytes that each rank sends, and receives, to add up `values` f32 over `ranks` ranks with [`Communicator::all_reduce`] of MPI: its share
/// of the sum from every other rank, then the other shares.
#[must_use]
pub fn all_reduce_bytes(values: u64, ranks: u64) -> u64 {
    // One share of each bucket; the last value of a share may be padding, which is left out here.
    2 * 4 * values.saturating_sub(values / ranks.max(1))
}

/// The only rank of a run in one process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Alone;

impl Communicator for Alone {
    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        1
    }

    fn timeout(&self) -> Duration {
        Duration::MAX
    }

    fn all_gather(&self, own: Vec<u8>) -> Result<Vec<Vec<u8>>> {
        Ok(vec![own])
    }

    fn abort(&self, _: u8) {}
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What each of some ranks returns.
    pub(super) fn on_ranks<T: Send>(size: usize, work: impl Fn(&ThreadRank) -> T + Sync) -> Vec<T> {
        let ranks = ThreadRank::all(size, Duration::from_secs(30));
        std::thread::scope(|scope| {
            let work = &work;
            let threads: Vec<_> = ranks.iter().map(|rank| scope.spawn(move || work(rank))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    }

    #[test]
    fn sums_are_in_the_order_of_ranks_and_equal_on_all() {
        let terms = [1e8f32, 1.0, -1e8];
        let sums = on_ranks(3, |rank| {
            let mut values = [terms[rank.rank()], 1.0];
            rank.all_reduce_f32(&mut values).unwrap();
            let mut doubles = [rank.rank() as f64 + 0.5];
            rank.all_reduce_f64(&mut doubles).unwrap();
            (values, doubles)
        });
        // 1e8 + 1 is 1e8 in f32.
        assert_eq!(sums, [([0.0, 3.0], [4.5]); 3]);
    }

    #[test]
    fn bytes_of_any_length_are_gathered_and_broadcast() {
        let gathered = on_ranks(3, |rank| {
            let own = vec![rank.rank() as u8; rank.rank()];
            let all = rank.all_gather(own.clone()).unwrap();
            rank.barrier().unwrap();
            (all, rank.broadcast(vec![7 + rank.rank() as u8]).unwrap())
        });
        for (all, broadcast) in gathered {
            assert_eq!(all, [vec![], vec![1], vec![2, 2]]);
            assert_eq!(broadcast, [7]);
        }
    }

    #[test]
    fn tensors_are_summed_in_place() {
        let results = on_ranks(2, |rank| {
            let r = rank.rank() as f32;
            let small = Tensor::full(r, (2, 3), &Device::Cpu).unwrap();
            let large = Tensor::full(1.0 + r, 2 * BUCKET + 5, &Device::Cpu).unwrap();
            rank.all_reduce(&[&small, &large]).unwrap();
            (small.sum_all().unwrap().to_scalar::<f32>().unwrap(), large.to_vec1::<f32>().unwrap())
        });
        for (small, large) in results {
            assert_eq!(small, 6.0);
            assert!(large.len() == 2 * BUCKET + 5 && large.iter().all(|x| *x == 3.0));
        }
    }

    #[test]
    fn each_rank_sends_its_share_of_both_phases() {
        assert_eq!(all_reduce_bytes(1000, 1), 0);
        assert_eq!(all_reduce_bytes(1000, 2), 4000);
        assert_eq!(all_reduce_bytes(1000, 4), 6000);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..Default::default() })]

        #[test]
        fn buckets_hold_every_value_once(lengths in proptest::collection::vec(0usize..BUCKET / 2, 0..6)) {
            let mut tensors: Vec<Vec<f32>> = lengths.iter().map(|n| vec![1.0; *n]).collect();
            let mut slices: Vec<&mut [f32]> = tensors.iter_mut().map(Vec::as_mut_slice).collect();
            let mut total = 0;
            in_buckets(&mut slices, |bucket| {
                assert!((1..=BUCKET).contains(&bucket.len()));
                total += bucket.len();
                bucket.iter_mut().for_each(|x| *x += 1.0);
                Ok(())
            }).unwrap();
            prop_assert_eq!(total, lengths.iter().sum::<usize>());
            prop_assert!(tensors.iter().flatten().all(|x| *x == 2.0));
        }
    }
}
