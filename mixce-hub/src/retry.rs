//! Retries after transient failures.

use std::thread;

use crate::{
    environment::Retries,
    error::{Error, Result},
};

/// Retries a request while it fails with transient errors.
pub(crate) fn with_retries<T>(retries: &Retries, mut request: impl FnMut() -> Result<T>) -> Result<T> {
    let mut failures = 0;
    loop {
        match request() {
            Ok(value) => return Ok(value),
            Err(error) => {
                failures += 1;
                pause(retries, failures, error)?;
            }
        }
    }
}

/// Waits after the `failures`-th consecutive failure, or returns the error if retrying is pointless.
pub(crate) fn pause(retries: &Retries, failures: u32, error: Error) -> Result<()> {
    let asked = error.retry_after().unwrap_or_default();
    if !error.is_transient() || failures >= retries.attempts || asked > retries.longest_wait {
        return Err(error);
    }
    let delay =
        retries.first_delay.saturating_mul(1 << (failures - 1).min(10)).max(asked).min(retries.longest_wait);
    tracing::info!(%error, delay_s = delay.as_secs_f64(), "trying again");
    thread::sleep(delay);
    Ok(())
}
