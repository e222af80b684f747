//! Ranks as threads of one process.
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Communicator;
use crate::error::{Error, Result};

/// A rank that is a thread of this process: for tests, and for libraries that bring their own threads.
#[derive(Clone, Debug)]
pub struct ThreadRank {
    rank: usize,
    timeout: Duration,
    meeting: Arc<Meeting>,
}

/// Where the ranks of a run meet.
#[derive(Debug)]
struct Meeting {
    state: Mutex<State>,
    changed: Condvar,
}

/// One exchange at a time: every rank brings its bytes, then every rank takes them all.
#[derive(Debug)]
struct State {
    brought: Vec<Option<Arc<Vec<u8>>>>,
    taken: usize,
    aborted_by: Option<usize>,
}

impl ThreadRank {
    /// The ranks of a run, in order.
    #[must_use]
    pub fn all(size: usize, timeout: Duration) -> Vec<Self> {
        let state = State { brought: vec![None; size], taken: 0, aborted_by: None };
        let meeting = Arc::new(Meeting { state: Mutex::new(state), changed: Condvar::new() });
        (0..size).map(|rank| Self { rank, timeout, meeting: meeting.clone() }).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.meeting.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `is_ready`, a rank aborts, or the time since `started` is over.
    fn wait<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        started: Instant,
        is_ready: impl Fn(&State) -> bool,
    ) -> Result<MutexGuard<'a, State>> {
        loop {
            // What all have brought is still taken after an abort: ranks that find the same error report the same.
            if is_ready(&state) {
                return Ok(state);
            }
            if let Some(rank) = state.aborted_by {
                return Err(Error::RankFailed { rank });
            }
            let left = self.timeout.saturating_sub(started.elapsed());
            if left.is_zero() {
                return Err(Error::RanksSilent { seconds: self.timeout.as_secs_f64() });
            }
            let waited = self.meeting.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Communicator for ThreadRank {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.lock().brought.len()
    }

    fn timeout(&self) -> Duration {
        self.timeout
    }

    fn all_gather(&self, own: Vec<u8>) -> Result<Vec<Vec<u8>>> {
        let started = Instant::now();
        // Until all have taken what the previous exchange brought.
        let mut state = self.wait(self.lock(), started, |state| state.brought[self.rank].is_none())?;
        state.brought[self.rank] = Some(Arc::new(own));
        self.meeting.changed.notify_all();
        let mut state = self.wait(state, started, |state| state.brought.iter().all(Option::is_some))?;
        let all: Vec<Arc<Vec<u8>>> = state.brought.iter().flatten().cloned().collect();
        state.taken += 1;
        if state.taken == state.brought.len() {
            state.taken = 0;
            state.brought.fill(None);
            self.meeting.changed.notify_all();
        }
        drop(state);
        Ok(all.into_iter().map(Arc::unwrap_or_clone).collect())
    }

    fn abort(&self, _: u8) {
        self.lock().aborted_by.get_or_insert(self.rank);
        self.meeting.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rank_that_stays_away_is_noticed() {
        let ranks = ThreadRank::all(2, Duration::from_millis(50));
        let error = ranks[0].barrier().unwrap_err();
        assert!(matches!(error, Error::RanksSilent { .. }), "{error}");
    }

    #[test]
    fn an_abort_ends_all_that_wait() {
        let ranks = ThreadRank::all(3, Duration::from_secs(30));
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| ranks[0].barrier());
            ranks[2].abort(2);
            let error = waiting.join().unwrap().unwrap_err();
            assert!(matches!(error, Error::RankFailed { rank: 2 }), "{error}");
        });
        assert!(ranks[1].barrier().is_err());
    }
}
