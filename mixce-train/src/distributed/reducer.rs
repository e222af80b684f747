//! Sums over the ranks beside the computation of what is still to be summed.
use std::iter::Peekable;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::vec::IntoIter;

use candle_core::{DType, Device, Tensor, bail};
use mixce_kernels::DeviceEvent;

use super::{Communicator, ReduceDtype, Shards, edit};
use crate::error::{Error, Result};

/// Sums of tensors over the ranks that a thread makes, from the last tensor to the first, as soon as they are complete.
///
/// The tensors are divided into buckets of [`Communicator::bucket`] values from their end on, and there is a sum for each, so that all ranks make
/// the same calls in the same order, whenever tensors are complete. Until [`Self::finish`] has returned nothing else may use the ranks, or the tensors
/// that are complete.
///
/// With [`Shards`] each rank gets only the sums of its shard, with the same bits; its other values stay its own.
///
/// Dropped before, because this rank has failed, it leaves the thread behind: that may wait for other ranks, until this one
/// [aborts](Communicator::abort).
#[derive(Debug)]
pub struct Reducer {
    device: Device,
    dtype: ReduceDtype,
    /// Those that are not complete.
    buckets: Peekable<IntoIter<Bucket>>,
    complete: Sender<Complete>,
    thread: JoinHandle<Result<()>>,
}

/// Values that are added up together.
#[derive(Debug)]
struct Bucket {
    /// The first of the tensors that they belong to.
    first: usize,
    /// They share the memory of the tensors, in whose order they are.
    values: Vec<Tensor>,
    /// With shards, how many of the values are in each.
    lengths: Option<Vec<usize>>,
}

/// A bucket whose values are complete behind this point in the device's work, as are, on a GPU that sends bf16, their rounded copies.
type Complete = candle_core::Result<(DeviceEvent, Vec<Tensor>, Bucket)>;

impl Reducer {
    /// Will add up `tensors`, which are f32 and as for [`Communicator::all_reduce`], sent as `dtype`; `shards` are on CPUs.
    ///
    /// # Errors
    /// If a tensor is not contiguous, or the thread cannot be started.
    pub fn start(
        ranks: Arc<dyn Communicator>,
        tensors: &[Tensor],
        shards: Option<&Shards>,
        dtype: ReduceDtype,
    ) -> Result<Self> {
        let device = tensors.first().map_or(Device::Cpu, |tensor| tensor.device().clone());
        let buckets = divide(tensors, ranks.bucket(), shards).map_err(Error::tensor(ACTION))?;
        let (complete, queue) = channel();
        let reduce = move || reduce(&*ranks, &queue, dtype);
        let thread = thread::Builder::new().name("reducer".to_owned()).spawn(reduce);
        let thread = thread.map_err(Error::io("start a thread for", "sums of gradients"))?;
        Ok(Self { device, dtype, buckets: buckets.into_iter().peekable(), complete, thread })
    }

    /// The tensors from index `first` on are complete.
    pub fn complete_from(&mut self, first: usize) {
        while let Some(bucket) = self.buckets.next_if(|bucket| bucket.first >= first) {
            // A thread that has ended has failed, and `finish` returns its error.
            let _ = self.complete.send(self.completed(bucket));
        }
    }

    fn completed(&self, bucket: Bucket) -> Complete {
        // Rounded here, in the order of the device's work: what comes next must not be waited for.
        let rounded = match (self.dtype, self.device.is_cpu()) {
            (ReduceDtype::Bf16, false) => bucket
                .values
                .iter()
                .map(|values| values.to_dtype(DType::BF16))
                .collect::<candle_core::Result<_>>()?,
            _ => Vec::new(),
        };
        Ok((DeviceEvent::record(&self.device)?, rounded, bucket))
    }

    /// All tensors are complete: returns when they are added up.
    ///
    /// # Errors
    /// As [`Communicator::all_reduce`].
    pub fn finish(mut self) -> Result<()> {
        self.complete_from(0);
        drop(self.complete);
        self.thread.join().unwrap_or_else(|panic| resume_unwind(panic))
    }
}

const ACTION: &str = "sum over ranks";

fn reduce(ranks: &dyn Communicator, queue: &Receiver<Complete>, dtype: ReduceDtype) -> Result<()> {
    for complete in queue {
        let (event, rounded, bucket) = complete.map_err(Error::tensor(ACTION))?;
        let values: Vec<&Tensor> = bucket.values.iter().collect();
        if values.iter().all(|tensor| tensor.device().is_cpu()) {
            reduce_on_cpu(ranks, &values, bucket.lengths.as_deref(), dtype)?;
        } else if rounded.is_empty() {
            ranks.all_reduce_after(&event, &values)?;
        } else {
            ranks.all_reduce_after(&event, &rounded.iter().collect::<Vec<_>>())?;
            let widen = |(value, sum): (&&Tensor, &Tensor)| value.slice_set(&sum.to_dtype(DType::F32)?, 0, 0);
            values.iter().zip(&rounded).try_for_each(widen).map_err(Error::tensor(ACTION))?;
        }
    }
    Ok(())
}

/// Sums of a bucket in one message.
fn reduce_on_cpu(
    ranks: &dyn Communicator,
    tensors: &[&Tensor],
    lengths: Option<&[usize]>,
    dtype: ReduceDtype,
) -> Result<()> {
    edit(ACTION, tensors, |flat| {
        let mut values = Vec::with_capacity(flat.len());
        flat.read(0..flat.len(), &mut values);
        match lengths {
            None => {
                ranks.all_reduce_f32(&mut values, dtype)?;
                flat.write(0, &values);
            }
            Some(lengths) => {
                let sums = ranks.reduce_scatter_f32(&values, lengths, dtype)?;
                flat.write(lengths[..ranks.rank()].iter().sum(), &sums);
            }
        }
        Ok(())
    })
}

/// Buckets of `size` values, the last values of the last tensor first; the last bucket may have fewer.
fn divide(tensors: &[Tensor], size: usize, shards: Option<&Shards>) -> candle_core::Result<Vec<Bucket>> {
    let (mut buckets, mut room) = (Vec::<Bucket>::new(), 0);
    for (first, tensor) in tensors.iter().enumerate().rev() {
        if !tensor.is_contiguous() {
            bail!("expected contiguous tensors, got strides {:?}", tensor.stride())
        }
        let flat = tensor.flatten_all()?;
        let mut left = flat.elem_count();
        while left > 0 {
            if room == 0 {
                buckets.push(Bucket { first, values: Vec::new(), lengths: None });
                room = size.max(1);
            }
            let count = left.min(room);
            (left, room) = (left - count, room - count);
            if let Some(bucket) = buckets.last_mut() {
                bucket.first = first;
                bucket.values.push(flat.narrow(0, left, count)?);
            }
        }
    }
    let mut start: usize = tensors.iter().map(Tensor::elem_count).sum();
    for bucket in &mut buckets {
        bucket.values.reverse();
        let end = start;
        start -= bucket.values.iter().map(Tensor::elem_count).sum::<usize>();
        bucket.lengths = shards.map(|shards| shards.lengths_within(start..end));
    }
    Ok(buckets)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::{Alone, ThreadRank};
    use super::*;

    /// As [`ThreadRank`], with buckets of 4 values.
    #[derive(Debug)]
    struct Small(ThreadRank);

    impl Communicator for Small {
        fn rank(&self) -> usize {
            self.0.rank()
        }

        fn size(&self) -> usize {
            self.0.size()
        }

        fn timeout(&self) -> Duration {
            self.0.timeout()
        }

        fn all_gather(&self, own: Vec<u8>) -> Result<Vec<Vec<u8>>> {
            self.0.all_gather(own)
        }

        fn abort(&self, status: u8) {
            self.0.abort(status);
        }

        fn bucket(&self) -> usize {
            4
        }
    }

    fn counting(start: u8, shape: &[usize]) -> Tensor {
        let count = shape.iter().product::<usize>() as u8;
        let values: Vec<f32> = (start..start + count).map(f32::from).collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    }

    fn values(tensor: &Tensor) -> Vec<f32> {
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn buckets_are_cut_from_the_end() {
        let tensors = [counting(0, &[3]), counting(3, &[2, 3]), counting(9, &[0]), counting(9, &[1])];
        let buckets = divide(&tensors, 4, None).unwrap();
        let seen = |bucket: &Bucket| (bucket.first, bucket.values.iter().map(values).collect::<Vec<_>>());
        let want = [
            (1, vec![vec![6.0, 7.0, 8.0], vec![9.0]]),
            (0, vec![vec![2.0], vec![3.0, 4.0, 5.0]]),
            (0, vec![vec![0.0, 1.0]]),
        ];
        assert_eq!(buckets.iter().map(seen).collect::<Vec<_>>(), want);
        assert!(divide(&[], 4, None).unwrap().is_empty());
        assert!(divide(&[counting(0, &[2, 3]).t().unwrap()], 4, None).is_err());
    }

    /// One rank hands over every tensor when it is complete, the other all of them at the end.
    #[test]
    fn every_value_is_summed_once_whenever_it_is_complete() {
        let ranks = ThreadRank::all(2, Duration::from_secs(30));
        let of_rank = |rank: ThreadRank| {
            let tensors = [counting(0, &[3]), counting(3, &[2, 3]), counting(9, &[5])];
            let first = rank.rank() == 0;
            let mut reducer =
                Reducer::start(Arc::new(Small(rank)), &tensors, None, ReduceDtype::F32).unwrap();
            if first {
                (0..tensors.len()).rev().for_each(|index| reducer.complete_from(index));
            }
            reducer.finish().unwrap();
            tensors.iter().flat_map(values).collect::<Vec<_>>()
        };
        let sums: Vec<Vec<f32>> = thread::scope(|scope| {
            let threads: Vec<_> = ranks.into_iter().map(|rank| scope.spawn(move || of_rank(rank))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let want: Vec<f32> = (0..14).map(|value| 2.0 * value as f32).collect();
        assert_eq!(sums, [want.clone(), want]);
    }

    #[test]
    fn an_error_of_the_sums_is_that_of_the_end() {
        let mut ranks = ThreadRank::all(2, Duration::from_millis(50));
        let mut reducer =
            Reducer::start(Arc::new(ranks.swap_remove(0)), &[counting(0, &[3])], None, ReduceDtype::F32)
                .unwrap();
        reducer.complete_from(0);
        // Meanwhile the thread has ended, which a second call must not mind.
        reducer.complete_from(0);
        assert!(matches!(reducer.finish(), Err(Error::RanksSilent { .. })));
        Reducer::start(Arc::new(Alone), &[], None, ReduceDtype::F32).unwrap().finish().unwrap();
    }
}
