//! Data-parallel training: several processes, the *ranks* of a run, each with a copy of the model.
//!
//! Every rank takes its part of each microbatch; the gradients are added up over the ranks, and each rank then makes the same update. So a run
//! follows that of one process up to rounding, and the weights of all ranks are equal bit for bit. Rank 0 alone writes and reports. The optimizer's
//! moments are on every rank, or divided into [`Shards`].
//!
//! A [`Communicator`] connects the ranks: [`Alone`] for one process, [`ThreadRank`] for threads of one process, `MpiRank` (feature `mpi`) and
//! [`SocketRank`] for processes that a launcher has started, on one machine or many, and over one of these `NcclRank` (feature `nccl`) for
//! their GPUs. [`Launched::detect`] finds out what the launcher has told this process. A [`Reducer`] adds gradients up while others are computed.
mod flat;
#[cfg(feature = "nccl")]
mod gpus;
mod launched;
mod lead;
mod link;
mod part;
#[cfg(feature = "mpi")]
mod processes;
mod reducer;
mod rendezvous;
mod same;
mod shards;
mod sockets;
#[cfg(test)]
mod tests;
mod threads;
mod wire;

use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use candle_core::{Device, Tensor};
use mixce_kernels::{DeviceEvent, edit_f32};

use flat::Flat;
#[cfg(feature = "nccl")]
pub use gpus::NcclRank;
pub use launched::{Launched, Launcher};
pub use lead::{apart, deal, first_rank_first, lead};
pub use part::Part;
#[cfg(feature = "mpi")]
pub use processes::MpiRank;
pub use reducer::Reducer;
pub use same::require_same;
pub use shards::Shards;
pub use sockets::SocketRank;
pub use threads::ThreadRank;
pub use wire::{ReduceDtype, exchanged_bytes};
use wire::{add_up_f64, bytes_of};

use crate::error::{Error, Result};
use crate::run_folder::device_name;

/// Values in one message of tensors: 4 MiB. Larger messages are hardly faster, and each rank holds some copies of one.
pub(crate) const MESSAGE: usize = 1 << 20;
/// Values in a bucket on GPUs: 24 MiB, so that what each sum costs beside its bytes does not count.
pub(crate) const GPU_BUCKET: usize = 6 * MESSAGE;

/// Connects this rank with the others. All ranks make the same calls in the same order, from any thread, but one at a time; each waits for the
/// others.
///
/// A host engine writes [`Self::all_gather`] and, to save bytes on the wire, the methods for f32; one for GPUs adds tensors up where
/// they are ([`Self::all_reduce_after`], [`Self::adds_up_on`]).
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

    /// Adds `values`, sent as `dtype`, up over the ranks, in the order of ranks: the result has the same bits on each.
    ///
    /// # Errors
    /// As [`Self::all_gather`].
    fn all_reduce_f32(&self, values: &mut [f32], dtype: ReduceDtype) -> Result<()> {
        dtype.add_up(values, &self.all_gather(dtype.encode(values))?)
    }

    /// [`Self::all_reduce_f32`] of `values`, a block of `lengths[r]` for each rank r; returns this rank's block of the sums.
    ///
    /// # Errors
    /// As [`Self::all_gather`].
    fn reduce_scatter_f32(&self, values: &[f32], lengths: &[usize], dtype: ReduceDtype) -> Result<Vec<f32>> {
        let mut sums = values.to_vec();
        self.all_reduce_f32(&mut sums, dtype)?;
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
        add_up_f64(values, &self.all_gather(own)?)
    }

    /// Adds f32 tensors up over the ranks in place, in messages of 4 MiB; on GPUs they may be bf16. They must be contiguous and share no memory.
    ///
    /// # Errors
    /// As [`Self::all_gather`], and if a tensor has another type, or is on a device without [`Self::adds_up_on`].
    fn all_reduce(&self, tensors: &[&Tensor]) -> Result<()> {
        let device = tensors.first().map_or(&Device::Cpu, |tensor| tensor.device());
        let event = DeviceEvent::record(device).map_err(Error::tensor("all-reduce"))?;
        self.all_reduce_after(&event, tensors)
    }

    /// [`Self::all_reduce`] of tensors that are complete when their device has come to `event`, beside what it was given since.
    ///
    /// # Errors
    /// As [`Self::all_reduce`].
    fn all_reduce_after(&self, _: &DeviceEvent, tensors: &[&Tensor]) -> Result<()> {
        if self.size() == 1 {
            return Ok(());
        }
        edit("all-reduce", tensors, |flat| {
            let total = flat.len();
            let mut values = Vec::with_capacity(MESSAGE.min(total));
            for start in (0..total).step_by(MESSAGE) {
                values.clear();
                flat.read(start..total.min(start + MESSAGE), &mut values);
                self.all_reduce_f32(&mut values, ReduceDtype::F32)?;
                flat.write(start, &values);
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

    /// The number of values in a bucket of a [`Reducer`].
    fn bucket(&self) -> usize {
        MESSAGE
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

/// The calls of a [`Communicator`] in an optimizer step on CPUs with parameters of these lengths: whether a rank is to stop, messages of
/// gradients, and sums of losses and counts; for a sharded optimizer also the terms of the gradient norm, and messages of weights.
#[must_use]
pub fn calls_per_step(lengths: impl IntoIterator<Item = usize>, ranks: usize, sharded: bool) -> usize {
    if ranks <= 1 {
        return 0;
    }
    let shards = Shards::new(lengths, ranks);
    let of_shards = if sharded { 1 + shards.messages(MESSAGE).count() } else { 0 };
    2 + shards.len().div_ceil(MESSAGE) + of_shards
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
