//! Processes that a launcher has started for one command: which of them speaks, and how they end.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Error, Result};
use candle_core::Device;
use clap::Args;
use mixce_train::Error as TrainError;
use mixce_train::distributed::{Communicator, Launched, lead, on_device};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::cli::ColorWhen;
use crate::error::{self, Problem};
use crate::interrupt;

/// The flag of commands that several processes divide.
#[derive(Debug, Args)]
pub(crate) struct TimeoutArgs {
    /// Seconds to wait for the other processes of a run, before the run ends with an error
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=604_800))]
    comm_timeout: u64,
}

impl TimeoutArgs {
    pub(crate) fn timeout(&self) -> Duration {
        Duration::from_secs(self.comm_timeout)
    }
}

/// How long a process that has failed may take to speak after those before it.
const LAST_WORD: Duration = Duration::from_secs(8);

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

/// The threads of this process if nothing else is set: its share of the machine's cores.
pub(crate) fn threads(launched: Option<Launched>) -> Option<usize> {
    launched.filter(|_| std::env::var_os("RAYON_NUM_THREADS").is_none()).map(|launched| launched.threads())
}

/// What `work` makes on the first process, on all.
pub(crate) fn from_first<T: Serialize + DeserializeOwned>(
    ranks: &dyn Communicator,
    work: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let made = lead(ranks, work)?;
    match made {
        Some(made) if ranks.size() == 1 => Ok(made),
        made => Ok(serde_json::from_slice(&ranks.broadcast(serde_json::to_vec(&made)?)?)?),
    }
}

/// Whether a signal has come to one of the processes: the same answer on all.
pub(crate) fn is_stopped(ranks: &dyn Communicator) -> Result<bool> {
    let own = vec![u8::from(interrupt::is_requested())];
    Ok(ranks.all_gather(own)?.iter().any(|word| *word != [0]))
}

/// The failure of a command without checkpoints, from which training would continue.
pub(crate) fn without_checkpoints(failure: Error) -> Error {
    match failure.downcast_ref() {
        Some(silent @ TrainError::RanksSilent { .. }) => Problem::new(silent.to_string())
            .hint("look at the machine or the log of the process that is missing, then run the command again; if it was only slow, raise `--comm-timeout`")
            .into(),
        _ => failure,
    }
}

/// Ends the connection, when all processes have finished together.
pub(crate) fn disconnect(ranks: Arc<dyn Communicator>) {
    let connection = CONNECTION.lock().unwrap_or_else(PoisonError::into_inner).take();
    // The last one waits for the other processes.
    drop((connection, ranks));
}

/// Gives the first rank, and then those before this one, time to report a failure and to end the run, because most failures are the same on
/// all; a failure of another rank is that rank's to report. Whether the run is being ended: a signal has come from the launcher, or the first
/// rank's word.
pub(crate) fn others_speak_first(is_of_another: bool) -> bool {
    // Open MPI's launcher sends its signal a second after the first failure.
    let patience = match rank() {
        None | Some(0) if !is_of_another => return false,
        Some(rank) if !is_of_another => Duration::from_millis(3000 + 200 * rank.min(20) as u64),
        _ => LAST_WORD,
    };
    interrupt::install("");
    let started = Instant::now();
    let is_ended = || interrupt::is_requested() || has_first_reported();
    while started.elapsed() < patience && !is_ended() {
        thread::sleep(Duration::from_millis(20));
    }
    is_ended()
}

/// Whether the first rank, which the others are connected with, has reported a failure.
fn has_first_reported() -> bool {
    let connection = CONNECTION.lock().unwrap_or_else(PoisonError::into_inner);
    let has_failed = |ranks: &Arc<dyn Communicator>| {
        ranks.rank() > 0 && matches!(ranks.check(), Err(TrainError::RankFailed { .. }))
    };
    connection.as_ref().is_some_and(has_failed)
}

/// Reports the failure that ends this process, and with it the others; returns the exit status.
pub(crate) fn fail(failure: &Error, color: ColorWhen) -> u8 {
    let is_first = rank().is_none_or(|rank| rank == 0);
    if !is_first && error::is_interruption(failure) {
        return interrupt::exit_status();
    }
    let has = |is: &dyn Fn(&TrainError) -> bool| {
        failure.chain().any(|cause| cause.downcast_ref::<TrainError>().is_some_and(is))
    };
    let is_reported = has(&TrainError::is_reported_by_first_rank);
    let is_of_another = has(&|error| matches!(error, TrainError::RankFailed { rank: 1.. }));
    if others_speak_first(is_of_another) || (is_reported && !is_first) {
        return error::FAILURE;
    }
    let status = error::print(failure, color);
    let connection = CONNECTION.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(ranks) = connection {
        ranks.abort(status);
    }
    status
}
