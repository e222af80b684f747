//! Ranks as processes, connected by MPI.
//!
//! One thread makes all calls of MPI. It starts an operation, looks whether it is complete, and sleeps in between; the caller waits for its
//! answer as long as the timeout allows. So a rank that has died or hangs cannot block the others for ever, and the waiting costs no core.
use std::fmt;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use half::bf16;
use mpi::Threading;
use mpi::datatype::{Partition, PartitionMut};
use mpi::request::{Request, Scope, scope};
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator as _, CommunicatorCollectives as _, Equivalence};

use super::{Communicator, Launched, ReduceDtype};
use crate::error::{Error, Result};

/// How long MPI is asked without a pause whether an operation is complete, once all ranks take part in it.
const EAGER: Duration = Duration::from_secs(1);
/// The pause between two questions while other ranks are waited for.
const PAUSE: Duration = Duration::from_micros(100);
/// How long the start of the other processes may take at least.
const START: Duration = Duration::from_secs(60);
/// How long a launcher may take to end this process after an abort.
const END: Duration = Duration::from_secs(5);

/// A number as MPI sends it: f32, or the bits of bf16.
trait Sent: Equivalence + Copy + Default + Send + 'static {
    fn of(value: f32) -> Self;

    fn value(self) -> f32;
}

impl Sent for f32 {
    fn of(value: f32) -> Self {
        value
    }

    fn value(self) -> f32 {
        self
    }
}

impl Sent for u16 {
    fn of(value: f32) -> Self {
        bf16::from_f32(value).to_bits()
    }

    fn value(self) -> f32 {
        bf16::from_bits(self).to_f32()
    }
}

fn sent<T: Sent>(values: &[f32]) -> Vec<T> {
    values.iter().map(|value| T::of(*value)).collect()
}

/// Work for the thread that calls MPI.
type Job = Box<dyn FnOnce(&Engine) + Send>;

/// A rank that is a process of an MPI run.
pub struct MpiRank {
    rank: usize,
    size: usize,
    timeout: Duration,
    /// `None` once the rank ends.
    jobs: Mutex<Option<Sender<Job>>>,
    /// Nothing is sent; closed once MPI is finalized.
    finalized: Mutex<Receiver<()>>,
    status: Arc<AtomicI32>,
}

impl fmt::Debug for MpiRank {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MpiRank").field("rank", &self.rank).field("size", &self.size).finish_non_exhaustive()
    }
}

impl MpiRank {
    /// Initializes MPI, which is possible once in a process.
    ///
    /// # Errors
    /// [`Error::Config`] if MPI was initialized before, or knows other processes than the launcher; [`Error::RanksSilent`] if the others do
    /// not start.
    pub fn start(launched: Launched, timeout: Duration) -> Result<Self> {
        let status = Arc::new(AtomicI32::new(0));
        let (jobs, queue) = channel::<Job>();
        let (ready, is_ready) = channel();
        let (finalizing, finalized) = channel();
        let asked = status.clone();
        let serve = move || {
            let _until_finalized = finalizing;
            // Only this thread calls MPI, but it is not the main one.
            let Some((universe, _)) = mpi::initialize_with_threading(Threading::Serialized) else { return };
            let engine = Engine { world: universe.world(), status: asked };
            // The receiver is gone only if the timeout is over.
            let _ = ready.send((engine.world.rank(), engine.world.size()));
            for job in queue {
                job(&engine);
            }
            drop(engine);
            drop(universe);
        };
        let spawned = thread::Builder::new().name("mpi".to_owned()).spawn(serve);
        spawned.map_err(|source| Error::Io { action: "start a thread for", path: "MPI".into(), source })?;
        let (rank, size) = match is_ready.recv_timeout(timeout.max(START)) {
            Ok((rank, size)) => (usize::try_from(rank), usize::try_from(size)),
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => return Err(silent(timeout.max(START))),
            Err(_) => return Err(Error::config("MPI was initialized before in this process")),
        };
        if (rank, size) != (Ok(launched.rank), Ok(launched.size)) {
            return Err(Error::Config {
                message: format!(
                    "{} has started {} processes, but this program's MPI library sees {}",
                    launched.launcher,
                    launched.size,
                    size.unwrap_or_default()
                ),
                hint: Some(
                    "start it with the launcher of the MPI that it was built with (with `srun`, see `--mpi`)"
                        .into(),
                ),
            });
        }
        let Launched { rank, size, .. } = launched;
        Ok(Self {
            rank,
            size,
            timeout,
            jobs: Mutex::new(Some(jobs)),
            finalized: Mutex::new(finalized),
            status,
        })
    }

    /// The answer of the thread that calls MPI.
    fn run<T: Send + 'static>(&self, work: impl FnOnce(&Engine) -> Result<T> + Send + 'static) -> Result<T> {
        let (reply, answer) = channel();
        // The caller may have stopped waiting.
        self.send(Box::new(move |engine: &Engine| drop(reply.send(work(engine)))));
        answer.recv_timeout(self.timeout).map_err(|_| silent(self.timeout))?
    }

    /// A reduce-scatter and an all-gather of equal shares.
    fn all_reduce_as<T: Sent>(&self, values: &mut [f32]) -> Result<()> {
        let (own, total, ranks) = (sent::<T>(values), values.len(), self.size);
        let shares: Vec<usize> = (0..ranks).map(|r| total * (r + 1) / ranks - total * r / ranks).collect();
        let sums = self.run(move |engine| {
            engine.meet();
            let share = engine.sums_of_block(own, &shares)?;
            engine.blocks(&share, &shares)
        })?;
        values.iter_mut().zip(sums).for_each(|(value, sum)| *value = sum.value());
        Ok(())
    }

    fn reduce_scatter_as<T: Sent>(&self, values: &[f32], lengths: &[usize]) -> Result<Vec<f32>> {
        let (values, lengths) = (sent::<T>(values), lengths.to_vec());
        let sums = self.run(move |engine| {
            engine.meet();
            engine.sums_of_block(values, &lengths)
        })?;
        Ok(sums.into_iter().map(T::value).collect())
    }

    fn send(&self, job: Job) {
        if let Some(jobs) = &*self.jobs.lock().unwrap_or_else(PoisonError::into_inner) {
            // A thread that has ended does not answer, which is noticed.
            let _ = jobs.send(job);
        }
    }
}

fn silent(timeout: Duration) -> Error {
    Error::RanksSilent { seconds: timeout.as_secs_f64() }
}

impl Communicator for MpiRank {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn timeout(&self) -> Duration {
        self.timeout
    }

    fn all_gather(&self, own: Vec<u8>) -> Result<Vec<Vec<u8>>> {
        self.run(move |engine| engine.all_gather(&own))
    }

    fn all_reduce_f32(&self, values: &mut [f32], dtype: ReduceDtype) -> Result<()> {
        match dtype {
            ReduceDtype::F32 => self.all_reduce_as::<f32>(values),
            ReduceDtype::Bf16 => self.all_reduce_as::<u16>(values),
        }
    }

    fn reduce_scatter_f32(&self, values: &[f32], lengths: &[usize], dtype: ReduceDtype) -> Result<Vec<f32>> {
        match dtype {
            ReduceDtype::F32 => self.reduce_scatter_as::<f32>(values, lengths),
            ReduceDtype::Bf16 => self.reduce_scatter_as::<u16>(values, lengths),
        }
    }

    fn all_gather_f32(&self, own: &[f32], lengths: &[usize]) -> Result<Vec<f32>> {
        let (own, lengths) = (own.to_vec(), lengths.to_vec());
        self.run(move |engine| {
            engine.meet();
            engine.blocks(&own, &lengths)
        })
    }

    fn abort(&self, status: u8) {
        self.status.store(i32::from(status.max(1)), Ordering::Relaxed);
        // In case that MPI's thread waits for work.
        self.send(Box::new(Engine::end_if_aborted));
        thread::sleep(END);
    }
}

impl Drop for MpiRank {
    /// Finalizes MPI, which waits for the other ranks, unless this one was aborted.
    fn drop(&mut self) {
        if self.status.load(Ordering::Relaxed) != 0 {
            return;
        }
        *self.jobs.lock().unwrap_or_else(PoisonError::into_inner) = None;
        // No message ever comes: this waits until the thread has ended, at most for the timeout.
        let _ = self.finalized.lock().unwrap_or_else(PoisonError::into_inner).recv_timeout(self.timeout);
    }
}

/// What the thread that calls MPI has.
struct Engine {
    world: SimpleCommunicator,
    /// The status to abort with; 0 until then.
    status: Arc<AtomicI32>,
}

impl Engine {
    /// Ends all ranks if this one has failed.
    fn end_if_aborted(&self) {
        let status = self.status.load(Ordering::Relaxed);
        if status != 0 {
            self.world.abort(status);
        }
    }

    /// Returns once a request is complete: after `eager` it is looked at only now and then.
    fn complete<'a, D: ?Sized, S: Scope<'a>>(&self, mut request: Request<'a, D, S>, eager: Duration) {
        let started = Instant::now();
        while let Err(pending) = request.test() {
            request = pending;
            self.end_if_aborted();
            if started.elapsed() < eager {
                thread::yield_now();
            } else {
                thread::sleep(PAUSE);
            }
        }
    }

    /// Waits until all ranks are here, so that what follows need not pause.
    fn meet(&self) {
        self.complete(self.world.immediate_barrier(), Duration::ZERO);
    }

    fn all_gather(&self, own: &[u8]) -> Result<Vec<Vec<u8>>> {
        self.meet();
        let (length, mut lengths) = ([own.len() as u64], vec![0u64; self.size()]);
        scope(|scope| {
            self.complete(self.world.immediate_all_gather_into(scope, &length[..], &mut lengths[..]), EAGER)
        });
        let sizes = lengths.iter().map(|length| usize::try_from(*length).unwrap_or(usize::MAX));
        let (counts, starts, total) = layout(sizes)?;
        let mut all = vec![0u8; total];
        // The address of no bytes may be 1, by which Open MPI means `MPI_IN_PLACE`.
        let own = if own.is_empty() { &[0u8][..0] } else { own };
        if total > 0 {
            let mut parts = PartitionMut::new(&mut all[..], &counts[..], &starts[..]);
            scope(|scope| {
                self.complete(self.world.immediate_all_gather_varcount_into(scope, own, &mut parts), EAGER);
            });
        }
        let mut rest = all.as_slice();
        let part = |count: &u64| {
            let (own, others) = rest.split_at(*count as usize);
            rest = others;
            own.to_vec()
        };
        Ok(lengths.iter().map(part).collect())
    }

    /// This rank's block of the sums: it gets that block of all ranks and adds them in f32 in the order of ranks, so that the bits do not depend on
    /// what MPI does.
    fn sums_of_block<T: Sent>(&self, values: Vec<T>, lengths: &[usize]) -> Result<Vec<T>> {
        let own = lengths[self.world.rank().unsigned_abs() as usize];
        let (counts, starts, _) = layout(lengths.iter().copied())?;
        let (own_counts, own_starts, total) = layout(lengths.iter().map(|_| own))?;
        let blocks = Partition::new(&values[..], &counts[..], &starts[..]);
        let mut received = vec![T::default(); total];
        {
            let mut parts = PartitionMut::new(&mut received[..], &own_counts[..], &own_starts[..]);
            scope(|scope| {
                let exchange = self.world.immediate_all_to_all_varcount_into(scope, &blocks, &mut parts);
                self.complete(exchange, EAGER);
            });
        }
        let mut sums = vec![0f32; own];
        for part in received.chunks(own.max(1)) {
            sums.iter_mut().zip(part).for_each(|(sum, value)| *sum += value.value());
        }
        Ok(sent(&sums))
    }

    /// The blocks of all ranks.
    fn blocks<T: Sent>(&self, own: &[T], lengths: &[usize]) -> Result<Vec<T>> {
        let (counts, starts, total) = layout(lengths.iter().copied())?;
        let mut all = vec![T::default(); total];
        {
            let mut parts = PartitionMut::new(&mut all[..], &counts[..], &starts[..]);
            scope(|scope| {
                self.complete(self.world.immediate_all_gather_varcount_into(scope, own, &mut parts), EAGER);
            });
        }
        Ok(all)
    }

    fn size(&self) -> usize {
        self.world.size().unsigned_abs() as usize
    }
}

/// Counts and starts of consecutive blocks as MPI takes them, and their total length.
fn layout(lengths: impl Iterator<Item = usize>) -> Result<(Vec<i32>, Vec<i32>, usize)> {
    let (mut counts, mut starts, mut total) = (Vec::new(), Vec::new(), 0i32);
    for length in lengths {
        let count = i32::try_from(length).ok();
        let end = count.and_then(|count| total.checked_add(count));
        let (Some(count), Some(end)) = (count, end) else {
            return Err(Error::config(
                "messages between ranks: expected fewer than 2^31 bytes or numbers in all",
            ));
        };
        counts.push(count);
        starts.push(total);
        total = end;
    }
    Ok((counts, starts, total.unsigned_abs() as usize))
}
