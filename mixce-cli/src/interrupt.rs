//! Ctrl-C: the first asks the work to stop at a safe point, the second ends the program.

use std::io::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, Once, PoisonError};

static STOP: AtomicBool = AtomicBool::new(false);
static INSTALL: Once = Once::new();
/// What Ctrl-C will do now; `None` if no running work checks the flag.
static PROMISE: Mutex<Option<&str>> = Mutex::new(None);

/// Makes Ctrl-C (and SIGTERM) set a flag instead of ending the program; `promise` tells the user what will happen.
pub(crate) fn install(promise: &'static str) -> &'static AtomicBool {
    set(Some(promise));
    INSTALL.call_once(|| {
        if let Err(error) = ctrlc::set_handler(on_signal) {
            tracing::warn!("Ctrl-C will end the program at once: {error}");
        }
    });
    &STOP
}

/// Restores the default, for work that does not check the flag.
pub(crate) fn release() {
    set(None);
}

/// Whether Ctrl-C was pressed since [`install`].
pub(crate) fn is_requested() -> bool {
    STOP.load(Ordering::Relaxed)
}

fn set(promise: Option<&'static str>) {
    *PROMISE.lock().unwrap_or_else(PoisonError::into_inner) = promise;
}

fn on_signal() {
    let promise = *PROMISE.lock().unwrap_or_else(PoisonError::into_inner);
    let again = STOP.swap(true, Ordering::Relaxed);
    let Some(promise) = promise.filter(|_| !again) else {
        std::process::exit(i32::from(crate::error::INTERRUPTED));
    };
    crate::progress::suspend(|| {
        // A closed stderr is ignored.
        let _ = writeln!(std::io::stderr(), "stopping: {promise} (Ctrl-C again to abort at once)");
    });
}
