//! Work that takes longer on one rank than on another.
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use super::Communicator;
use crate::error::{Error, Result};

/// What a rank tells the others.
const WORKING: u8 = 1;
const DONE: u8 = 0;
const FAILED: u8 = 2;

/// The longest time between two signs of life.
const SIGN_OF_LIFE: Duration = Duration::from_secs(5);

/// Runs `work`, which does not use the ranks, on each of them, and returns when all are done, however long one takes: meanwhile all give signs
/// of life, so that a process that hangs as a whole is still noticed.
///
/// # Errors
/// Those of `work`, and [`Error::RankFailed`] if another rank had one; [`Communicator::all_gather`]'s.
pub fn apart<T, E: From<Error>>(
    ranks: &dyn Communicator,
    work: impl FnOnce() -> std::result::Result<T, E>,
) -> std::result::Result<T, E> {
    if ranks.size() == 1 {
        return work();
    }
    let (end, is_over) = channel();
    thread::scope(|scope| {
        let signs = scope.spawn(move || give_signs_of_life(ranks, &is_over));
        let result = work();
        // A thread that has ended has failed to tell the others, which is the error.
        let _ = end.send(if result.is_ok() { DONE } else { FAILED });
        let told: Result<()> = signs.join().unwrap_or(Ok(()));
        let result = result?;
        told?;
        Ok(result)
    })
}

/// Runs `work` on rank 0 while the others wait for it. `None` on the other ranks.
///
/// # Errors
/// As [`apart`].
pub fn lead<T, E: From<Error>>(
    ranks: &dyn Communicator,
    work: impl FnOnce() -> std::result::Result<T, E>,
) -> std::result::Result<Option<T>, E> {
    apart(ranks, || if ranks.rank() == 0 { work().map(Some) } else { Ok(None) })
}

/// Runs `work` on rank 0, then on the others: they find what it has downloaded or cached.
///
/// # Errors
/// Those of `work`; as [`apart`].
pub fn first_rank_first<T, E: From<Error>>(
    ranks: &dyn Communicator,
    work: impl FnOnce() -> std::result::Result<T, E>,
) -> std::result::Result<T, E> {
    if ranks.rank() == 0 {
        return apart(ranks, work);
    }
    apart(ranks, || Ok::<_, E>(()))?;
    work()
}

/// Gives each rank one of `items`, in order, of which there are at most as many as ranks; returns what `work` makes of them, in the same order, on
/// every rank.
///
/// # Errors
/// As [`apart`].
pub fn deal<I, E: From<Error>>(
    ranks: &dyn Communicator,
    items: &[I],
    work: impl FnOnce(&I) -> std::result::Result<Vec<u8>, E>,
) -> std::result::Result<Vec<Vec<u8>>, E> {
    let own = apart(ranks, || items.get(ranks.rank()).map_or(Ok(Vec::new()), work))?;
    let mut all = ranks.all_gather(own)?;
    all.truncate(items.len());
    Ok(all)
}

/// Until all ranks are done, or one has failed.
fn give_signs_of_life(ranks: &dyn Communicator, is_over: &Receiver<u8>) -> Result<()> {
    let every = SIGN_OF_LIFE.min(ranks.timeout() / 4);
    let mut own = WORKING;
    loop {
        if own == WORKING {
            own = match is_over.recv_timeout(every) {
                Err(RecvTimeoutError::Timeout) => WORKING,
                Ok(word) => word,
                // The work has panicked.
                Err(RecvTimeoutError::Disconnected) => FAILED,
            };
        }
        let words = ranks.all_gather(vec![own])?;
        if let Some(rank) = words.iter().position(|word| *word == [FAILED]) {
            return Err(Error::RankFailed { rank });
        }
        if words.iter().all(|word| *word == [DONE]) {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::ThreadRank;
    use super::*;

    #[test]
    fn long_work_of_rank_0_is_waited_for() {
        let ranks = ThreadRank::all(3, Duration::from_millis(200));
        let results = thread::scope(|scope| {
            let slow = || {
                thread::sleep(Duration::from_millis(600));
                Ok::<_, Error>(7)
            };
            let threads: Vec<_> =
                ranks.iter().map(|rank| scope.spawn(move || lead(rank, slow).unwrap())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
        });
        assert_eq!(results, [Some(7), None, None]);
    }

    #[test]
    fn every_rank_waits_for_the_slowest() {
        let ranks = ThreadRank::all(3, Duration::from_millis(200));
        let started = std::time::Instant::now();
        thread::scope(|scope| {
            for rank in &ranks {
                scope.spawn(move || {
                    let work = || {
                        thread::sleep(Duration::from_millis(300 * rank.rank() as u64));
                        Ok::<_, Error>(rank.rank())
                    };
                    assert_eq!(apart(rank, work).unwrap(), rank.rank());
                    assert!(started.elapsed() >= Duration::from_millis(600));
                });
            }
        });
    }

    #[test]
    fn each_rank_that_fails_has_its_own_error() {
        let results = super::super::tests::on_ranks(3, |rank| {
            let work = || if rank.rank() == 1 { Err(Error::NothingToEvaluate) } else { Ok(()) };
            apart(rank, work).unwrap_err()
        });
        assert!(matches!(results[1], Error::NothingToEvaluate), "{}", results[1]);
        for other in [&results[0], &results[2]] {
            assert!(matches!(other, Error::RankFailed { rank: 1 }), "{other}");
        }
    }

    #[test]
    fn each_rank_has_one_item_and_all_get_the_results_in_order() {
        let twice = |item: &u8| Ok::<_, Error>(vec![2 * item]);
        for items in [&[7u8, 5, 6][..], &[7, 5], &[]] {
            let want: Vec<Vec<u8>> = items.iter().map(|item| vec![2 * item]).collect();
            for results in super::super::tests::on_ranks(3, |rank| deal(rank, items, twice).unwrap()) {
                assert_eq!(results, want);
            }
        }
        assert_eq!(deal(&super::super::Alone, &[4], twice).unwrap(), [[8]]);
    }

    #[test]
    fn the_others_learn_of_a_failure() {
        let results = super::super::tests::on_ranks(2, |rank| {
            lead(rank, || Err::<(), _>(Error::NothingToEvaluate)).unwrap_err().to_string()
        });
        assert!(results[0].contains("evaluate") && results[1].contains("rank 0"), "{results:?}");
    }

    #[test]
    fn the_others_work_after_rank_0() {
        let order = std::sync::Mutex::new(Vec::new());
        super::super::tests::on_ranks(3, |rank| {
            first_rank_first(rank, || {
                thread::sleep(Duration::from_millis(20));
                order.lock().unwrap().push(rank.rank());
                Ok::<_, Error>(())
            })
        });
        assert_eq!(order.into_inner().unwrap()[0], 0);
    }
}
