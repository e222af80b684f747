//! Data-parallel training: several processes, the *ranks* of a run, each with a copy of the model.
//!
//! Every rank takes its part of each microbatch; the gradients are added up over the ranks, and each rank then makes the same update. So a run
//! follows that of one process to rounding, and the weights of all ranks are equal bit for bit. Rank 0 alone writes and reports. The optimizer's
//! moments are on every rank, or divided into [`Shards`].
//!
//! A [`Communicator`] connects the ranks: [`Alone`] for one process, [`ThreadRank`] for threads of one process, `MpiRank` (feature `mpi`) and
//! [`SocketRank`] for processes that a launcher has started, on one machine or many, and over one of these `NcclRank` (feature `nccl`) for
//! their GPUs. [`Launched::detect`] finds out what the launcher has told this process.
mod flat;
#[cfg(feature = "nccl")]
mod gpus;
mod launched;
mod lead;
mod part;
#[cfg(feature = "mpi")]
mod processes;
mod rendezvous;
mod same;
mod shards;
mod sockets;
mod threads;

use std::fmt::Debug;
use std::ops::{AddAssign, Range};
use std::sync::Arc;
use std::time::Duration;

use candle_core::{Device, Tensor};
use mixce_kernels::edit_f32;

use flat::Flat;
#[cfg(feature = "nccl")]
pub use gpus::NcclRank;
pub use launched::{Launched, Launcher};
pub use lead::{apart, deal, first_rank_first, lead};
pub use part::Part;
#[cfg(feature = "mpi")]
pub use processes::MpiRank;
pub use same::require_same;
pub use shards::Shards;
pub use sockets::SocketRank;
pub use threads::ThreadRank;

use crate::error::{Error, Result};
use crate::run_folder::device_name;

/// Values in one message of tensors: 4 MiB. Larger messages are hardly faster, and each rank holds some copies of one.
const MESSAGE: usize = 1 << 20;

/// Connects this rank with the others. All ranks make the same calls in the same order; each waits for the others.
///
/// A host engine writes [`Self::all_gather`] and, to save bytes on the wire, the methods for f32; one for GPUs adds tensors up where
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
        add_up(values, &self.all_gather(bytes_of(values))?, f32::from_le_bytes)
    }

    /// [`Self::all_reduce_f32`] of `values`, a block of `lengths[r]` for each rank r; returns this rank's block of the sums.
    ///
    /// # Errors
    /// As [`Self::all_gather`].
    fn reduce_scatter_f32(&self, values: &[f32], lengths: &[usize]) -> Result<Vec<f32>> {
        let mut sums = values.to_vec();
        self.all_reduce_f32(&mut sums)?;
        let (before, own) = (&lengths[..self.rank()], lengths[self.rank()]);
        Ok(sums.split_off(before.iter().sum())[..own].to_vec())
    }

    /// The blocks of all ranks, `lengths[r]` values of rank r, in their order.
    ///
    /// # Errors
    /// As [`Self::all_gather`].
    fn all_gather_f32(&self, own: &[f32], lengths: &[usize]) -> Result<Vec<f32>> {
        let all = self.all_gather(bytes_of(own))?;
        if let Some(rank) = all.iter().zip(lengths).position(|(bytes, length)| bytes.len() != 4 * length) {
            return Err(Error::RanksDiffer { what: "number of values", rank });
        }
        let values = all.iter().flat_map(|bytes| bytes.as_chunks().0).map(|bytes| f32::from_le_bytes(*bytes));
        Ok(values.collect())
    }

    /// The same for a few f64.
    ///
    /// # Errors
    /// As [`Self::all_gather`].
    fn all_reduce_f64(&self, values: &mut [f64]) -> Result<()> {
        let own = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        add_up(values, &self.all_gather(own)?, f64::from_le_bytes)
    }

    /// Adds f32 tensors up over the ranks in place, in messages of 4 MiB. They must be contiguous and share no memory.
    ///
    /// # Errors
    /// As [`Self::all_gather`], and if a tensor is not f32, or on a device without [`Self::adds_up_on`].
    fn all_reduce(&self, tensors: &[&Tensor]) -> Result<()> {
        if self.size() == 1 {
            return Ok(());
        }
        edit("all-reduce", tensors, |flat| {
            let total = flat.len();
            let mut values = Vec::with_capacity(MESSAGE.min(total));
            for start in (0..total).step_by(MESSAGE) {
                values.clear();
                flat.read(start..total.min(start + MESSAGE), &mut values);
                self.all_reduce_f32(&mut values)?;
                flat.write(start, &values);
            }
            Ok(())
        })
    }

    /// [`Self::all_reduce`] of which each rank gets the sums of its shard, with the same bits; its other values stay its own.
    ///
    /// # Errors
    /// As [`Self::all_reduce`].
    fn reduce_scatter(&self, tensors: &[&Tensor], shards: &Shards) -> Result<()> {
        edit("reduce-scatter", tensors, |flat| {
            let mut values = Vec::new();
            for pieces in shards.messages(MESSAGE) {
                values.clear();
                pieces.iter().for_each(|piece| flat.read(piece.clone(), &mut values));
                let sums = self.reduce_scatter_f32(&values, &lengths(&pieces))?;
                flat.write(pieces[self.rank()].start, &sums);
            }
            Ok(())
        })
    }

    /// Replaces the values outside this rank's shard by those of the ranks whose shards they are in.
    ///
    /// # Errors
    /// As [`Self::all_reduce`].
    fn all_gather_shards(&self, tensors: &[&Tensor], shards: &Shards) -> Result<()> {
        edit("all-gather", tensors, |flat| {
            let mut own = Vec::new();
            for pieces in shards.messages(MESSAGE) {
                own.clear();
                flat.read(pieces[self.rank()].clone(), &mut own);
                flat.write_pieces(&pieces, &self.all_gather_f32(&own, &lengths(&pieces))?);
            }
            Ok(())
        })
    }

    /// The values of all shards on rank 0, of which `own` has this rank's; empty on the others.
    ///
    /// # Errors
    /// As [`Self::all_gather`].
    fn gather_shards(&self, own: &[f32], shards: &Shards) -> Result<Vec<f32>> {
        let (rank, mut all) = (self.rank(), Vec::new());
        if rank == 0 {
            all.resize(shards.len(), 0.0);
        }
        let mut unsent = own;
        for pieces in shards.messages(MESSAGE) {
            let (sent, later) = unsent.split_at(pieces[rank].len());
            unsent = later;
            let gathered = self.all_gather_f32(sent, &lengths(&pieces))?;
            if rank == 0 {
                Flat::new(vec![&mut all]).write_pieces(&pieces, &gathered);
            }
        }
        Ok(all)
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
///
/// # Errors
/// [`Error::RanksDiffer`] if one has sent another number of values.
fn add_up<T: Default + AddAssign, const N: usize>(
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

fn bytes_of(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn lengths(pieces: &[Range<usize>]) -> Vec<usize> {
    pieces.iter().map(Range::len).collect()
}

/// Edits f32 tensors on the CPU as one list of values.
fn edit(
    action: &'static str,
    tensors: &[&Tensor],
    work: impl FnOnce(&mut Flat<'_>) -> Result<()>,
) -> Result<()> {
    edit_f32(action, tensors, |slices| Ok(work(&mut Flat::new(slices)))).map_err(Error::tensor(action))?
}

/// The bytes that each rank sends, and receives, to add up `values` f32 over `ranks` ranks with [`Communicator::all_reduce`] of MPI: its share
/// of the sum from every other rank, then the other shares. A sharded optimizer exchanges as many: shares of gradients, then of weights.
///
/// Shares differ by a value, shards by a chunk; this is the mean over the ranks.
#[must_use]
pub fn all_reduce_bytes(values: u64, ranks: u64) -> u64 {
    2 * 4 * values.saturating_sub(values / ranks.max(1))
}

/// The calls of a [`Communicator`] in an optimizer step on CPUs with parameters of these lengths: sums of losses and counts, and messages
/// of gradients; for a sharded optimizer also the terms of the gradient norm, and as many messages of weights.
#[must_use]
pub fn calls_per_step(lengths: impl IntoIterator<Item = usize>, ranks: usize, sharded: bool) -> usize {
    match (ranks, sharded) {
        (0 | 1, _) => 0,
        (_, false) => 1 + lengths.into_iter().sum::<usize>().div_ceil(MESSAGE),
        (_, true) => 2 + 2 * Shards::new(lengths, ranks).messages(MESSAGE).count(),
    }
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
            let large = Tensor::full(1.0 + r, 2 * MESSAGE + 5, &Device::Cpu).unwrap();
            rank.all_reduce(&[&small, &large]).unwrap();
            (small.sum_all().unwrap().to_scalar::<f32>().unwrap(), large.to_vec1::<f32>().unwrap())
        });
        for (small, large) in results {
            assert_eq!(small, 6.0);
            assert!(large.len() == 2 * MESSAGE + 5 && large.iter().all(|x| *x == 3.0));
        }
    }

    #[test]
    fn shards_are_the_sums_of_an_all_reduce_and_gathered_the_whole() {
        let lengths = [6, 2 * MESSAGE + 5, 3];
        let shards = Shards::new(lengths, 3);
        let value = |rank: usize, i: usize| (1 + rank) as f32 * 0.1 + (i % 97) as f32;
        let results = on_ranks(3, |rank| {
            let tensors = || {
                lengths.map(|n| {
                    let values: Vec<f32> = (0..n).map(|i| value(rank.rank(), i)).collect();
                    Tensor::from_vec(values, n, &Device::Cpu).unwrap()
                })
            };
            let (whole, divided) = (tensors(), tensors());
            rank.all_reduce(&whole.each_ref()).unwrap();
            rank.reduce_scatter(&divided.each_ref(), &shards).unwrap();
            let values = |tensors: &[Tensor]| -> Vec<f32> {
                tensors.iter().flat_map(|tensor| tensor.to_vec1::<f32>().unwrap()).collect()
            };
            let (sums, own) = (values(&whole), shards.shard(rank.rank()));
            assert!(values(&divided)[own.clone()] == sums[own], "bit for bit");
            rank.all_gather_shards(&divided.each_ref(), &shards).unwrap();
            (sums, values(&divided))
        });
        for (sums, gathered) in &results {
            assert!(gathered == sums && *sums == results[0].0);
        }
    }

    #[test]
    fn blocks_of_another_length_are_noticed() {
        for result in on_ranks(2, |rank| rank.all_gather_f32(&[1.0; 2], &[2, 3])) {
            let error = result.unwrap_err();
            assert!(matches!(error, Error::RanksDiffer { rank: 1, .. }), "{error}");
        }
        for result in on_ranks(2, |rank| rank.all_reduce_f32(&mut [1.0; 2][rank.rank()..])) {
            assert!(matches!(result, Err(Error::RanksDiffer { .. })), "{result:?}");
        }
    }

    #[test]
    fn each_rank_sends_its_share_of_both_phases() {
        assert_eq!(all_reduce_bytes(1000, 1), 0);
        assert_eq!(all_reduce_bytes(1000, 2), 4000);
        assert_eq!(all_reduce_bytes(1000, 4), 6000);
    }
}
