//! Work of rank 0 alone.
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use super::Communicator;
use crate::error::Result;

/// What rank 0 tells those that wait for it.
const WORKING: u8 = 1;
const DONE: u8 = 0;

/// The longest time between two signs of life.
const SIGN_OF_LIFE: Duration = Duration::from_secs(5);

/// Runs `work` on rank 0 while the others wait for it, however long it takes: meanwhile rank 0 gives signs of life, so that one that hangs as
/// a whole is still noticed. `None` on the other ranks.
///
/// # Errors
/// Those of `work`, on rank 0: the other ranks go on and learn of it when rank 0 aborts. [`Communicator::broadcast`]'s on all.
pub fn lead<T, E: From<crate::Error>>(
    ranks: &dyn Communicator,
    work: impl FnOnce() -> std::result::Result<T, E>,
) -> std::result::Result<Option<T>, E> {
    if ranks.rank() > 0 {
        wait_for_first(ranks)?;
        return Ok(None);
    }
    let (result, told) = with_signs_of_life(ranks, work);
    let result = result?;
    told?;
    Ok(Some(result))
}

/// Runs `work` on rank 0, then on the others: they find what it has downloaded or cached.
///
/// # Errors
/// Those of `work`; as [`lead`].
pub fn first_rank_first<T, E: From<crate::Error>>(
    ranks: &dyn Communicator,
    work: impl FnOnce() -> std::result::Result<T, E>,
) -> std::result::Result<T, E> {
    if ranks.rank() > 0 {
        wait_for_first(ranks)?;
        return work();
    }
    let (result, told) = with_signs_of_life(ranks, work);
    let result = result?;
    told?;
    Ok(result)
}

/// Waits until rank 0 is done.
fn wait_for_first(ranks: &dyn Communicator) -> Result<()> {
    while ranks.broadcast(Vec::new())? == [WORKING] {}
    Ok(())
}

/// The result of `work`, and whether the others could be told.
fn with_signs_of_life<T>(ranks: &dyn Communicator, work: impl FnOnce() -> T) -> (T, Result<()>) {
    if ranks.size() == 1 {
        return (work(), Ok(()));
    }
    let every = SIGN_OF_LIFE.min(ranks.timeout() / 4);
    let (done, is_done) = channel::<()>();
    thread::scope(|scope| {
        let signs = scope.spawn(move || {
            while is_done.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
                ranks.broadcast(vec![WORKING])?;
            }
            ranks.broadcast(vec![DONE]).map(drop)
        });
        let result = work();
        drop(done);
        // The thread does not panic.
        (result, signs.join().unwrap_or(Ok(())))
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
                Ok::<_, crate::Error>(7)
            };
            let threads: Vec<_> =
                ranks.iter().map(|rank| scope.spawn(move || lead(rank, slow).unwrap())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
        });
        assert_eq!(results, [Some(7), None, None]);
    }

    #[test]
    fn the_others_work_after_rank_0() {
        let order = std::sync::Mutex::new(Vec::new());
        super::super::tests::on_ranks(3, |rank| {
            first_rank_first(rank, || {
                thread::sleep(Duration::from_millis(20));
                order.lock().unwrap().push(rank.rank());
                Ok::<_, crate::Error>(())
            })
        });
        assert_eq!(order.into_inner().unwrap()[0], 0);
    }
}
