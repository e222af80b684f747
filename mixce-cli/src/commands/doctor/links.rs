//! The links between the ranks that a launcher has started: whether sums over them are right, and how long they take.

use anyhow::{Context as _, Result};
use candle_core::{Device, Tensor};
use mixce_base::digest::{Digest as _, Sha256};
use mixce_train::distributed::Communicator;
use serde::Serialize;

use super::checks::Check;
use crate::output::bytes;
use crate::speed::{median, sorted, timed};

/// Timed sums of one number.
const SMALL_SUMS: usize = 50;
/// Timed sums of a bucket: as many as take about this long, and not more than that many.
const BUCKETS_S: f64 = 2.0;
const BUCKETS: f64 = 10.0;
/// The parameters of GPT-2 small.
const GPT2: u64 = 124_439_808;

/// How long all-reduces take.
#[derive(Debug, Serialize)]
pub(super) struct Links {
    ranks: usize,
    /// Microseconds of an all-reduce of one f32.
    latency_us: Times,
    /// The payload of the larger one: f32 values, the same number on each rank.
    bytes: u64,
    /// Its seconds.
    bucket_s: Times,
    /// Its algorithm bandwidth: payload by median time. What a link carries is more or less, depending on the algorithm.
    bytes_per_s: f64,
    /// The time for f32 gradients of GPT-2 small at this bandwidth.
    gpt2_gradients_s: f64,
}

/// The time of a call is that of the rank on which it takes longest; of several calls.
#[derive(Debug, Serialize)]
struct Times {
    median: f64,
    fastest: f64,
    slowest: f64,
    calls: usize,
}

impl Times {
    fn of(times: &[f64], unit_s: f64) -> Self {
        let times = sorted(times.iter().map(|seconds| seconds / unit_s));
        let (fastest, slowest) = times.first().zip(times.last()).unwrap_or((&0.0, &0.0));
        Self { median: median(&times), fastest: *fastest, slowest: *slowest, calls: times.len() }
    }
}

/// Sums over the ranks, on `device`, of as many values as a bucket of gradients has: checks of one, and the times of several.
pub(super) fn measure(ranks: &dyn Communicator, device: &Device) -> Result<(Links, [Check; 2])> {
    measure_buckets(ranks, device, ranks.bucket())
}

/// [`measure`] with buckets of so many values.
fn measure_buckets(ranks: &dyn Communicator, device: &Device, values: usize) -> Result<(Links, [Check; 2])> {
    let own: Vec<f32> = (0..values).map(|index| value(ranks.rank(), index)).collect();
    let own = Tensor::from_vec(own, values, device).context("cannot make a bucket of gradients")?;
    let sums = own.copy()?;
    ranks.all_reduce(&[&sums])?;
    let checks = check(ranks, &sums.to_vec1()?)?;

    let one = Tensor::full(1f32, 1, device)?;
    // The first calls may set something up.
    times(ranks, &one, 3)?;
    let latency = times(ranks, &one, SMALL_SUMS)?;
    let first = times(ranks, &own, 1)?;
    // The times, and so the number, are the same on all ranks.
    let calls = (BUCKETS_S / first[0]).clamp(1.0, BUCKETS) as usize;
    let bucket_s = Times::of(&times(ranks, &own, calls)?, 1.0);
    let bytes = 4 * values as u64;
    let bytes_per_s = bytes as f64 / bucket_s.median;
    let links = Links {
        ranks: ranks.size(),
        latency_us: Times::of(&latency, 1e-6),
        bytes,
        bucket_s,
        bytes_per_s,
        gpt2_gradients_s: 4.0 * GPT2 as f64 / bytes_per_s,
    };
    Ok((links, checks))
}

impl Links {
    /// Names and values.
    pub(super) fn in_words(&self) -> [(&'static str, String); 3] {
        let Self { ranks, latency_us, bytes: payload, bucket_s, bytes_per_s, gpt2_gradients_s } = self;
        let Times { median, fastest, slowest, calls } = latency_us;
        let latency = format!(
            "{median:.0} us for an all-reduce of one number, median of {calls} ({fastest:.0} - {slowest:.0})"
        );
        let Times { median, fastest, slowest, calls } = bucket_s;
        let [ms, fastest, slowest] = [median, fastest, slowest].map(|seconds| 1e3 * seconds);
        let (rate, payload, gradients) = (bytes(*bytes_per_s as u64), bytes(*payload), bytes(4 * GPT2));
        let bandwidth = format!(
            "{rate}/s: an all-reduce of {payload} takes {ms:.1} ms, median of {calls} ({fastest:.1} - {slowest:.1}); of GPT-2 small's gradients ({gradients}) {gpt2_gradients_s:.2} s"
        );
        [("ranks", ranks.to_string()), ("latency", latency), ("bandwidth", bandwidth)]
    }
}

/// A value in [-1, 1], different for neighbours and ranks, whose sums are rounded.
fn value(rank: usize, index: usize) -> f32 {
    let mixed =
        (index as u32 + 1).wrapping_mul(2_654_435_761) ^ (rank as u32 + 1).wrapping_mul(2_246_822_519);
    mixed.wrapping_mul(3_266_489_917) as f32 / (1u32 << 31) as f32 - 1.0
}

/// Whether the sums are right on each rank, up to rounding, and have the same bits on all.
fn check(ranks: &dyn Communicator, sums: &[f32]) -> Result<[Check; 2]> {
    let size = ranks.size();
    // Each of N - 1 additions of terms below 1 rounds a number below N.
    let tolerance = (size * size) as f64 * f64::from(f32::EPSILON);
    let is_right = |(index, sum): (usize, &f32)| {
        let exact: f64 = (0..size).map(|rank| f64::from(value(rank, index))).sum();
        (f64::from(*sum) - exact).abs() <= tolerance
    };
    let wrong = sums.iter().enumerate().filter(|sum| !is_right(*sum)).count();
    let mut hash = Sha256::new();
    sums.chunks(1 << 14).for_each(|part| {
        hash.update(part.iter().flat_map(|sum| sum.to_le_bytes()).collect::<Vec<_>>());
    });
    let counts = ranks.all_gather((wrong as u64).to_le_bytes().to_vec())?;
    let digests = ranks.all_gather(hash.finalize().to_vec())?;
    let zero = 0u64.to_le_bytes();
    let right = match counts.iter().position(|count| *count != zero) {
        None => Check::new("sum over ranks", true, format!("{} values on each of {size} ranks", sums.len())),
        Some(rank) => Check::new("sum over ranks", false, format!("wrong values on rank {rank}")),
    };
    let same = match digests.iter().position(|digest| *digest != digests[0]) {
        None => Check::new("same sum on all ranks", true, "equal bits".to_owned()),
        Some(rank) => {
            Check::new("same sum on all ranks", false, format!("rank {rank} has other bits than rank 0"))
        }
    };
    Ok([right, same])
}

/// The seconds of each of several sums of copies of `own`, which all ranks begin together.
fn times(ranks: &dyn Communicator, own: &Tensor, calls: usize) -> Result<Vec<f64>> {
    let mut longest = vec![0f64; calls];
    for time in &mut longest {
        let sums = own.copy()?;
        own.device().synchronize()?;
        ranks.barrier()?;
        *time = timed(own.device(), || Ok(ranks.all_reduce(&[&sums])?))?.1;
    }
    for of_rank in ranks.all_gather(longest.iter().flat_map(|time| time.to_le_bytes()).collect())? {
        let of_rank = of_rank.as_chunks().0.iter().map(|bytes| f64::from_le_bytes(*bytes));
        longest.iter_mut().zip(of_rank).for_each(|(time, other)| *time = time.max(other));
    }
    Ok(longest)
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Duration;

    use mixce_train::Result as TrainResult;
    use mixce_train::distributed::{ReduceDtype, ThreadRank};

    use super::*;

    /// A rank whose sums are changed.
    #[derive(Debug)]
    struct Spoilt(ThreadRank, fn(&Self, &mut f32));

    impl Communicator for Spoilt {
        fn rank(&self) -> usize {
            self.0.rank()
        }

        fn size(&self) -> usize {
            self.0.size()
        }

        fn timeout(&self) -> Duration {
            self.0.timeout()
        }

        fn all_gather(&self, own: Vec<u8>) -> TrainResult<Vec<Vec<u8>>> {
            self.0.all_gather(own)
        }

        fn abort(&self, status: u8) {
            self.0.abort(status);
        }

        fn all_reduce_f32(&self, values: &mut [f32], dtype: ReduceDtype) -> TrainResult<()> {
            self.0.all_reduce_f32(values, dtype)?;
            self.1(self, &mut values[0]);
            Ok(())
        }
    }

    fn checks(spoil: fn(&Spoilt, &mut f32)) -> [Check; 2] {
        let ranks = ThreadRank::all(3, Duration::from_secs(60));
        thread::scope(|scope| {
            let on_rank = |rank: &ThreadRank| {
                let rank = Spoilt(rank.clone(), spoil);
                scope.spawn(move || measure_buckets(&rank, &Device::Cpu, 1 << 12).unwrap())
            };
            let threads: Vec<_> = ranks.iter().map(on_rank).collect();
            let (links, checks) =
                threads.into_iter().map(|thread| thread.join().unwrap()).next_back().unwrap();
            let Times { median, fastest, slowest, .. } = links.bucket_s;
            assert!(0.0 < fastest && fastest <= median && median <= slowest, "{links:?}");
            assert_eq!(links.bytes_per_s, links.bytes as f64 / median);
            checks
        })
    }

    #[test]
    fn wrong_and_differing_sums_are_noticed() {
        let hold = |spoil| checks(spoil).map(|check| check.holds);
        assert_eq!(hold(|_, _| ()), [true, true]);
        assert_eq!(hold(|_, value| *value += 0.1), [false, true]);
        // The last bit, on one rank.
        let flip = |rank: &Spoilt, value: &mut f32| {
            if rank.rank() == 1 {
                *value = f32::from_bits(value.to_bits() ^ 1);
            }
        };
        assert_eq!(hold(flip), [true, false]);
        let [sum, same] = checks(|rank, value| {
            if rank.rank() == 2 {
                *value = f32::NAN;
            }
        });
        assert!(!sum.holds && sum.detail.contains("rank 2"), "{sum:?}");
        assert!(!same.holds && same.detail.contains("rank 2"), "{same:?}");
    }
}
