//! Ranks as processes, connected by TCP.
//!
//! Rank 0 is in the middle: the others send it what they have, and it sends what is for all to each. That is right for the small messages
//! of a run whose tensors are summed by something faster, and makes do for a few processes on CPUs.
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::rendezvous::Rendezvous;
use super::{Communicator, ReduceDtype};
use crate::error::{Error, Result};

/// The first byte of a message: its length and its bytes follow, or nothing.
const DATA: u8 = 1;
const FAILED: u8 = 2;

/// The longest message.
const LONGEST: u64 = 1 << 31;
/// How much longer the others wait in the beginning than rank 0, which can name those that are missing.
const LEAD: Duration = Duration::from_secs(5);
/// How long it may take to tell another rank of a failure.
const LAST_WORD: Duration = Duration::from_secs(1);

/// A rank that is a process of a run whose processes know the address of the first one.
#[derive(Debug)]
pub struct SocketRank {
    rank: usize,
    size: usize,
    timeout: Duration,
    /// On rank 0 those of all others, in order; on these that of rank 0.
    links: Mutex<Vec<Link>>,
}

/// The connection to a rank.
#[derive(Debug)]
struct Link {
    rank: usize,
    stream: TcpStream,
}

/// When a call gives up.
#[derive(Clone, Copy)]
struct Deadline {
    started: Instant,
    timeout: Duration,
}

impl Deadline {
    fn after(timeout: Duration) -> Self {
        Self { started: Instant::now(), timeout }
    }

    fn silent(&self) -> Error {
        Error::RanksSilent { seconds: self.timeout.as_secs_f64() }
    }

    fn left(&self) -> Result<Duration> {
        let left = self.timeout.saturating_sub(self.started.elapsed());
        if left.is_zero() { Err(self.silent()) } else { Ok(left) }
    }
}

impl SocketRank {
    /// Connects rank `rank` of `size`, which must be more than one, with the others.
    ///
    /// # Errors
    /// [`Error::RanksMissing`], [`Error::NoFirstRank`], [`Error::Config`].
    pub(super) fn start(at: &Rendezvous, rank: usize, size: usize, timeout: Duration) -> Result<Self> {
        let links = match rank {
            0 => (1..).zip(at.accept(size, timeout)?).map(|(rank, stream)| Link { rank, stream }).collect(),
            _ => vec![Link { rank: 0, stream: at.reach(rank, size, timeout)? }],
        };
        let own = Self { rank, size, timeout, links: Mutex::new(links) };
        let all_here = Deadline::after(if rank == 0 { timeout } else { timeout + LEAD });
        own.gather(Vec::new(), all_here)?;
        Ok(own)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Link>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What rank 0 makes of the bytes of all ranks, in their order, on every rank.
    fn through_first(
        &self,
        own: Vec<u8>,
        deadline: Deadline,
        make: impl FnOnce(&[Vec<u8>]) -> Result<Vec<u8>>,
    ) -> Result<Vec<u8>> {
        let mut links = self.lock();
        if self.rank > 0 {
            links[0].send(&own, deadline)?;
            return links[0].receive(deadline);
        }
        let mut all = vec![own];
        for link in links.iter_mut() {
            all.push(link.receive(deadline)?);
        }
        let made = make(&all)?;
        links.iter_mut().try_for_each(|link| link.send(&made, deadline))?;
        Ok(made)
    }

    fn gather(&self, own: Vec<u8>, deadline: Deadline) -> Result<Vec<Vec<u8>>> {
        let joined = self.through_first(own, deadline, |all| Ok(join(all)))?;
        split(&joined).ok_or(Error::RankLost { rank: 0 })
    }
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

impl Link {
    fn lost(&self) -> Error {
        Error::RankLost { rank: self.rank }
    }

    fn send(&mut self, bytes: &[u8], deadline: Deadline) -> Result<()> {
        let length = bytes.len() as u64;
        if length > LONGEST {
            return Err(Error::config("messages between ranks: expected less than 2 GiB in all"));
        }
        let mut header = vec![DATA];
        header.extend(length.to_le_bytes());
        self.write(&header, deadline)?;
        self.write(bytes, deadline)
    }

    fn receive(&mut self, deadline: Deadline) -> Result<Vec<u8>> {
        let mut word = [0];
        self.read(&mut word, deadline)?;
        if word[0] == FAILED {
            return Err(Error::RankFailed { rank: self.rank });
        }
        let mut length = [0; 8];
        self.read(&mut length, deadline)?;
        let length = u64::from_le_bytes(length);
        if word[0] != DATA || length > LONGEST {
            return Err(self.lost());
        }
        let mut bytes = vec![0; length as usize];
        self.read(&mut bytes, deadline)?;
        Ok(bytes)
    }

    fn read(&mut self, mut to: &mut [u8], deadline: Deadline) -> Result<()> {
        while !to.is_empty() {
            self.stream.set_read_timeout(Some(deadline.left()?)).map_err(|_| self.lost())?;
            match self.stream.read(to) {
                Ok(0) => return Err(self.lost()),
                Ok(n) => to = &mut to[n..],
                Err(error) => self.look_at(&error)?,
            }
        }
        Ok(())
    }

    fn write(&mut self, mut from: &[u8], deadline: Deadline) -> Result<()> {
        while !from.is_empty() {
            self.stream.set_write_timeout(Some(deadline.left()?)).map_err(|_| self.lost())?;
            match self.stream.write(from) {
                Ok(n) => from = &from[n..],
                // A rank that has failed has said so before it closed its end.
                Err(error) => self.look_at(&error).or_else(|lost| self.check().and(Err(lost)))?,
            }
        }
        Ok(())
    }

    /// Whether the connection is still there after an error.
    fn look_at(&self, error: &std::io::Error) -> Result<()> {
        match error.kind() {
            ErrorKind::Interrupted | ErrorKind::WouldBlock | ErrorKind::TimedOut => Ok(()),
            _ => Err(self.lost()),
        }
    }

    /// Whether the other rank is there, as far as it has said.
    fn check(&self) -> Result<()> {
        let mut word = [0];
        match self.peek(&mut word) {
            Ok(0) => Err(self.lost()),
            Ok(_) if word[0] == FAILED => Err(Error::RankFailed { rank: self.rank }),
            Ok(_) => Ok(()),
            Err(error) => self.look_at(&error),
        }
    }

    /// What has come, without waiting.
    fn peek(&self, word: &mut [u8]) -> std::io::Result<usize> {
        self.stream.set_nonblocking(true)?;
        let seen = self.stream.peek(word);
        self.stream.set_nonblocking(false)?;
        seen
    }
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

    /// The sums are rank 0's.
    fn all_reduce_f32(&self, values: &mut [f32], dtype: ReduceDtype) -> Result<()> {
        let sums = self.through_first(dtype.encode(values), Deadline::after(self.timeout), |all| {
            let mut sums = vec![0.0; values.len()];
            dtype.add_up(&mut sums, all)?;
            Ok(dtype.encode(&sums))
        })?;
        dtype.add_up(values, &[sums])
    }

    fn check(&self) -> Result<()> {
        match self.links.try_lock() {
            Ok(links) => links.iter().try_for_each(Link::check),
            // Another thread waits for a rank, and will see.
            Err(_) => Ok(()),
        }
    }

    fn abort(&self, _: u8) {
        // A thread that waits for another rank keeps the links; they end with the process.
        let Ok(mut links) = self.links.try_lock() else { return };
        for link in links.iter_mut() {
            // One that cannot be told sees that the connection ends.
            let _ = link.write(&[FAILED], Deadline::after(LAST_WORD));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

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

    #[test]
    fn messages_that_do_not_end_are_refused() {
        assert_eq!(split(&join(&[vec![], vec![1, 2]])), Some(vec![vec![], vec![1, 2]]));
        assert_eq!(split(&[9, 0, 0, 0, 0, 0, 0, 0, 1]), None);
        assert_eq!(split(&[0; 5]), None);
    }
}
