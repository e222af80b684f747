//! Work of rank 0 alone.
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use super::Communicator;
use crate::error::{Error, Result};

/// What rank 0 tells those that wait for it.
const WORKING: u8 = 1;
const DONE: u8 = 0;
const FAILED: u8 = 2;

/// The longest time between two signs of life.
const SIGN_OF_LIFE: Duration = Duration::from_secs(5);

/// Runs `work` on rank 0 while the others wait for it, however long it takes: meanwhile rank 0 gives signs of life, so that a process that
/// hangs as a whole is still noticed. `None` on the other ranks.
///
/// # Errors
/// Those of `work` on rank 0, and [`Error::RankFailed`] on the others; [`Communicator::broadcast`]'s on all.
pub fn lead<T, E: From<Error>>(
    ranks: &dyn Communicator,
    work: impl FnOnce() -> std::result::Result<T, E>,
) -> std::result::Result<Option<T>, E> {
    if ranks.rank() > 0 {
        wait_for_first(ranks)?;
        return Ok(None);
    }
    with_signs_of_life(ranks, work).map(Some)
}

/// Runs `work` on rank 0, then on the others: they find what it has downloaded or cached.
///
/// # Errors
/// Those of `work`; as [`lead`].
pub fn first_rank_first<T, E: From<Error>>(
    ranks: &dyn Communicator,
    work: impl FnOnce() -> std::result::Result<T, E>,
) -> std::result::Result<T, E> {
    if ranks.rank() > 0 {
        wait_for_first(ranks)?;
        return work();
    }
    with_signs_of_life(ranks, work)
}

/// Waits until rank 0 is done.
fn wait_for_first(ranks: &dyn Communicator) -> Result<()> {
    loop {
        match ranks.broadcast(Vec::new())?[..] {
            [WORKING] => {}
            [DONE] => return Ok(()),
            _ => return Err(Error::RankFailed { rank: 0 }),
        }
    }
}

/// The result of `work`, of which the others are told.
fn with_signs_of_life<T, E: From<Error>>(
    ranks: &dyn Communicator,
    work: impl FnOnce() -> std::result::Result<T, E>,
) -> std::result::Result<T, E> {
    if ranks.size() == 1 {
        return work();
    }
    let every = SIGN_OF_LIFE.min(ranks.timeout() / 4);
    let (end, is_over) = channel();
    thread::scope(|scope| {
        let signs = scope.spawn(move || {
            loop {
                let word = match is_over.recv_timeout(every) {
                    Err(RecvTimeoutError::Timeout) => WORKING,
                    Ok(word) => word,
                    // The work has panicked.
                    Err(RecvTimeoutError::Disconnected) => FAILED,
                };
                ranks.broadcast(vec![word])?;
                if word != WORKING {
                    return Ok(());
                }
            }
        });
        let result = work();
        // A thread that has ended has failed to tell the others, which is the error.
        let _ = end.send(if result.is_ok() { DONE } else { FAILED });
        let told: Result<()> = signs.join().unwrap_or(Ok(()));
        let result = result?;
        told?;
        Ok(result)
    })
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
