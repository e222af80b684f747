//! The processes of a training run that a launcher has started: which of them speaks, and how they end.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Error, Result};
use candle_core::Device;
use mixce_train::distributed::{Communicator, Launched, on_device};

use crate::cli::ColorWhen;
use crate::{error, interrupt};

/// The connection to the other processes, until all have ended well.
static CONNECTION: Mutex<Option<Arc<dyn Communicator>>> = Mutex::new(None);

/// This process's rank, if a launcher has started it as one of several.
pub(crate) fn rank() -> Option<usize> {
    Launched::of_environment().ok().flatten().map(|launched| launched.rank)
}

/// Connects with the other processes; from now on a failure of this one ends them all.
pub(crate) fn connect(launched: Option<Launched>, timeout: Duration) -> Result<Arc<dyn Communicator>> {
    let ranks = Launched::connect(launched, timeout)?;
    *CONNECTION.lock().unwrap_or_else(PoisonError::into_inner) = Some(ranks.clone());
    Ok(ranks)
}

/// The connection of processes whose tensors are on `device`, in place of the one that [`connect`] made.
pub(crate) fn connect_devices(
    ranks: Arc<dyn Communicator>,
    device: &Device,
) -> Result<Arc<dyn Communicator>> {
    let ranks = on_device(ranks, device)?;
    *CONNECTION.lock().unwrap_or_else(PoisonError::into_inner) = Some(ranks.clone());
    Ok(ranks)
}

/// Ends the connection, when all processes have finished together.
pub(crate) fn disconnect(ranks: Arc<dyn Communicator>) {
    let connection = CONNECTION.lock().unwrap_or_else(PoisonError::into_inner).take();
    // The last one waits for the other processes.
    drop((connection, ranks));
}

/// Gives the first rank, and then those before this one, time to report a failure and to end the run, because most failures are the same on
/// all. Whether the launcher is ending it: a signal has come.
pub(crate) fn others_speak_first() -> bool {
    let Some(rank @ 1..) = rank() else { return false };
    interrupt::install("");
    // Open MPI's launcher sends its signal a second after the first failure.
    let patience = Duration::from_millis(3000 + 200 * rank.min(20) as u64);
    let started = Instant::now();
    while started.elapsed() < patience && !interrupt::is_requested() {
        thread::sleep(Duration::from_millis(20));
    }
    interrupt::is_requested()
}

/// Reports the failure that ends this process, and with it the others; returns the exit status.
pub(crate) fn fail(failure: &Error, color: ColorWhen) -> u8 {
    let is_first = rank().is_none_or(|rank| rank == 0);
    if !is_first && error::is_interruption(failure) {
        return interrupt::exit_status();
    }
    let is_reported = failure.chain().any(|cause| {
        let error = cause.downcast_ref::<mixce_train::Error>();
        error.is_some_and(mixce_train::Error::is_reported_by_first_rank)
    });
    if others_speak_first() || (is_reported && !is_first) {
        return error::FAILURE;
    }
    let status = error::print(failure, color);
    let connection = CONNECTION.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(ranks) = connection {
        ranks.abort(status);
    }
    status
}
