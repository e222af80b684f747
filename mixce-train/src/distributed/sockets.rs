//! Ranks as processes, connected by TCP.
//!
//! Rank 0 is in the middle: the others send it what they have, and it sends what is for all to each. That is right for the small messages
//! of a run whose tensors are summed by something faster, and makes do for a few processes on CPUs.
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread;
use std::time::{Duration, Instant};

use super::link::{Deadline, Link};
use super::rendezvous::Rendezvous;
use super::{Communicator, ReduceDtype};
use crate::error::{Error, Result};

/// How much longer the others wait in the beginning than rank 0, which can name those that are missing.
const LEAD: Duration = Duration::from_secs(5);
/// How long it may take to tell another rank of a failure, and before that until a thread that uses the connections has noticed.
const LAST_WORD: Duration = Duration::from_secs(1);
/// The pause between two looks whether it has.
const PAUSE: Duration = Duration::from_millis(5);

/// A rank that is a process of a run whose processes know the address of the first one.
#[derive(Debug)]
pub struct SocketRank {
    rank: usize,
    size: usize,
    timeout: Duration,
    connections: Mutex<Connections>,
    aborted: AtomicBool,
}

#[derive(Debug)]
struct Connections {
    /// On rank 0 those of all others, in order; on these that of rank 0.
    links: Vec<Link>,
    /// A message of numbers, which keeps its memory: new memory would have to be cleared for each.
    message: Vec<u8>,
}

impl SocketRank {
    /// Connects rank `rank` of `size`, which must be more than one, with the others.
    ///
    /// # Errors
    /// [`Error::RanksMissing`], [`Error::NoFirstRank`], [`Error::Config`].
    pub(super) fn start(at: &Rendezvous, rank: usize, size: usize, timeout: Duration) -> Result<Self> {
        let links = match rank {
            0 => (1..).zip(at.accept(size, timeout)?).map(|(rank, stream)| Link::new(rank, stream)).collect(),
            _ => vec![Link::new(0, at.reach(rank, size, timeout)?)],
        };
        let connections = Mutex::new(Connections { links, message: Vec::new() });
        let own = Self { rank, size, timeout, connections, aborted: AtomicBool::new(false) };
        let all_here = Deadline::after(if rank == 0 { timeout } else { timeout + LEAD });
        own.gather(Vec::new(), all_here)?;
        Ok(own)
    }

    fn lock(&self) -> MutexGuard<'_, Connections> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connections, when no other thread uses them; those that do notice an abort soon.
    fn lock_soon(&self) -> Option<MutexGuard<'_, Connections>> {
        let started = Instant::now();
        loop {
            match self.connections.try_lock() {
                Ok(connections) => return Some(connections),
                Err(TryLockError::Poisoned(connections)) => return Some(connections.into_inner()),
                Err(TryLockError::WouldBlock) if started.elapsed() > LAST_WORD => return None,
                Err(TryLockError::WouldBlock) => thread::sleep(PAUSE),
            }
        }
    }

    /// The bytes of all ranks, in their order.
    fn gather(&self, own: Vec<u8>, deadline: Deadline<'_>) -> Result<Vec<Vec<u8>>> {
        let deadline = deadline.unless(&self.aborted, self.rank);
        let links = &mut self.lock().links;
        if self.rank > 0 {
            let mut joined = Vec::new();
            links[0].send(&own, deadline)?;
            links[0].receive(&mut joined, deadline, &|| Ok(()))?;
            return split(&joined).ok_or(Error::RankLost { rank: 0 });
        }
        let mut all = vec![own];
        for index in 0..links.len() {
            let mut bytes = Vec::new();
            receive_from(links, index, &mut bytes, deadline)?;
            all.push(bytes);
        }
        let joined = join(&all);
        links.iter_mut().try_for_each(|link| link.send(&joined, deadline))?;
        Ok(all)
    }
}

/// Receives a message on rank 0 from the one of `links` with this index, and looks at the others meanwhile.
fn receive_from(links: &mut [Link], index: usize, bytes: &mut Vec<u8>, deadline: Deadline<'_>) -> Result<()> {
    let (before, rest) = links.split_at_mut(index);
    let [link, after @ ..] = rest else { return Ok(()) };
    link.receive(bytes, deadline, &|| before.iter().chain(&*after).try_for_each(Link::check))
}

/// Several messages in one, each with its length.
fn join(all: &[Vec<u8>]) -> Vec<u8> {
    all.iter().flat_map(|one| [(one.len() as u64).to_le_bytes().as_slice(), one].concat()).collect()
}

fn split(mut joined: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut all = Vec::new();
    while !joined.is_empty() {
        let (length, rest) = joined.split_first_chunk()?;
        let (one, rest) = rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
        all.push(one.to_vec());
        joined = rest;
    }
    Some(all)
}

impl Communicator for SocketRank {
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
        self.gather(own, Deadline::after(self.timeout))
    }

    /// The sums are rank 0's, which adds a message while the next one comes.
    fn all_reduce_f32(&self, values: &mut [f32], dtype: ReduceDtype) -> Result<()> {
        let deadline = Deadline::after(self.timeout).unless(&self.aborted, self.rank);
        let Connections { links, message } = &mut *self.lock();
        if self.rank > 0 {
            dtype.encode_into(message, values);
            links[0].send(message, deadline)?;
            links[0].receive(message, deadline, &|| Ok(()))?;
            return dtype.decode_into(values, message, 0);
        }
        dtype.round(values);
        for index in 0..links.len() {
            receive_from(links, index, message, deadline)?;
            dtype.add(values, message, index + 1)?;
        }
        dtype.round(values);
        dtype.encode_into(message, values);
        links.iter_mut().try_for_each(|link| link.send(message, deadline))
    }

    fn check(&self) -> Result<()> {
        match self.connections.try_lock() {
            Ok(connections) => connections.links.iter().try_for_each(Link::check),
            // Another thread waits for a rank, and will see.
            Err(_) => Ok(()),
        }
    }

    fn abort(&self, _: u8) {
        self.aborted.store(true, Ordering::Relaxed);
        // Otherwise the connections end with the process.
        let Some(mut connections) = self.lock_soon() else { return };
        connections.links.iter_mut().for_each(|link| link.fail(Deadline::after(LAST_WORD)));
    }
}

#[cfg(test)]
mod tests {
    use super::super::link::FAILED;
    use super::super::rendezvous::tests::local;
    use super::*;

    /// What each of some ranks returns.
    fn on_ranks<T: Send>(size: usize, timeout: Duration, work: impl Fn(SocketRank) -> T + Sync) -> Vec<T> {
        let (at, work) = (local(), &work);
        thread::scope(|scope| {
            let at = &at;
            let start = |rank| scope.spawn(move || work(SocketRank::start(at, rank, size, timeout).unwrap()));
            let threads: Vec<_> = (0..size).map(start).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    }

    const PATIENCE: Duration = Duration::from_secs(30);

    #[test]
    fn bytes_are_gathered_and_sums_equal_on_all() {
        let results = on_ranks(3, PATIENCE, |rank| {
            let own = vec![rank.rank() as u8; 3 * rank.rank()];
            let all = rank.all_gather(own).unwrap();
            assert_eq!(all, [vec![], vec![1; 3], vec![2; 6]]);
            assert_eq!(rank.broadcast(vec![7; 1 - rank.rank().min(1)]).unwrap(), [7]);
            // More than the buffers of a connection hold.
            let mut values = vec![[1e8f32, 1.0, -1e8][rank.rank()]; 1 << 20];
            rank.all_reduce_f32(&mut values, ReduceDtype::F32).unwrap();
            let mut doubles = [rank.rank() as f64];
            rank.all_reduce_f64(&mut doubles).unwrap();
            rank.check().unwrap();
            rank.barrier().unwrap();
            (values, doubles)
        });
        // 1e8 + 1 is 1e8 in f32.
        assert!(
            results.iter().all(|(values, doubles)| values.iter().all(|x| *x == 0.0) && *doubles == [3.0])
        );
    }

    #[test]
    fn a_silent_rank_is_noticed_in_time() {
        let errors = on_ranks(2, Duration::from_millis(200), |rank| match rank.rank() {
            0 => rank.barrier().unwrap_err().to_string(),
            _ => {
                thread::sleep(Duration::from_millis(600));
                String::new()
            }
        });
        assert!(errors[0].contains("within 0.2 s"), "{errors:?}");
    }

    /// A rank ends, with and without a word; those in a call and those that only look hear of it.
    #[test]
    fn the_end_of_a_rank_is_noticed_at_once() {
        for (aborts, ends) in [(false, 1), (true, 1), (false, 0), (true, 0)] {
            let seen = on_ranks(3, PATIENCE, |rank| {
                if rank.rank() == ends {
                    if aborts {
                        rank.abort(2);
                    }
                    return None;
                }
                let looks = rank.rank() == 0;
                while looks && rank.check().is_ok() {
                    thread::sleep(Duration::from_millis(5));
                }
                let error = if looks { rank.check() } else { rank.barrier() }.unwrap_err();
                // Rank 0 passes on what ends it.
                rank.abort(2);
                Some(error)
            });
            let says = |rank: usize, of: usize, failed: bool| match seen[rank] {
                Some(Error::RankFailed { rank }) => failed && rank == of,
                Some(Error::RankLost { rank }) => !failed && rank == of,
                _ => false,
            };
            match ends {
                0 => assert!(says(1, 0, aborts) && says(2, 0, aborts), "{seen:?}"),
                _ => assert!(says(0, 1, aborts) && says(2, 0, true), "{seen:?}"),
            }
        }
    }

    /// A rank fails while its other thread waits for a rank that does not come: the others hear of it, those that wait for the same rank too.
    #[test]
    fn a_failure_beside_a_call_is_told_at_once() {
        for fails in [0, 1] {
            let started = Instant::now();
            let seen = on_ranks(3, PATIENCE, |rank| {
                let error = match rank.rank() {
                    2 => {
                        while rank.check().is_ok() {
                            thread::sleep(Duration::from_millis(5));
                        }
                        rank.check().unwrap_err()
                    }
                    own if own == fails => thread::scope(|scope| {
                        let waiting = scope.spawn(|| rank.barrier());
                        thread::sleep(Duration::from_millis(300));
                        assert!(!waiting.is_finished());
                        rank.abort(2);
                        waiting.join().unwrap().unwrap_err()
                    }),
                    _ => rank.barrier().unwrap_err(),
                };
                // Rank 0 passes on what ends it.
                rank.abort(2);
                error
            });
            assert!(started.elapsed() < Duration::from_secs(10), "{seen:?}");
            let failed = |error: &Error| match error {
                Error::RankFailed { rank } => Some(*rank),
                _ => None,
            };
            assert_eq!(
                [0, 1, 2].map(|rank| failed(&seen[rank])),
                [Some(fails), Some(fails), Some(0)],
                "{seen:?}"
            );
        }
    }

    /// A word would be a part of the message.
    #[test]
    fn a_failure_within_a_message_ends_the_connection() {
        let started = Instant::now();
        let (failed, has_failed) = std::sync::mpsc::channel();
        let (failed, has_failed) = (Mutex::new(failed), Mutex::new(has_failed));
        let seen = on_ranks(2, PATIENCE, |rank| {
            if rank.rank() == 0 {
                has_failed.lock().unwrap().recv().unwrap();
                return rank.all_gather(Vec::new()).unwrap_err();
            }
            // More than the buffers of a connection hold, which rank 0 does not read.
            let error = thread::scope(|scope| {
                let sending = scope.spawn(|| rank.all_gather(vec![FAILED; 64 << 20]));
                thread::sleep(Duration::from_millis(300));
                assert!(!sending.is_finished());
                rank.abort(2);
                sending.join().unwrap().unwrap_err()
            });
            failed.lock().unwrap().send(()).unwrap();
            error
        });
        assert!(started.elapsed() < Duration::from_secs(10), "{seen:?}");
        assert!(matches!(seen[..], [Error::RankLost { rank: 1 }, Error::RankFailed { rank: 1 }]), "{seen:?}");
    }

    #[test]
    fn messages_that_do_not_end_are_refused() {
        assert_eq!(split(&join(&[vec![], vec![1, 2]])), Some(vec![vec![], vec![1, 2]]));
        assert_eq!(split(&[9, 0, 0, 0, 0, 0, 0, 0, 1]), None);
        assert_eq!(split(&[0; 5]), None);
    }
}
