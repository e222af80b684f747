//! Ctrl-C: the first asks the work to stop at a safe point, the second ends the program.

use std::io::Write as _;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

static STOP: AtomicBool = AtomicBool::new(false);
static INSTALL: Once = Once::new();

/// Makes Ctrl-C (and SIGTERM) set a flag instead of ending the program; `promise` says what will be done then.
pub(crate) fn install(promise: &'static str) -> &'static AtomicBool {
    INSTALL.call_once(|| {
        let handler = move || {
            if STOP.swap(true, Ordering::Relaxed) {
                std::process::exit(i32::from(crate::error::INTERRUPTED));
            }
            crate::progress::suspend(|| {
                // With stderr closed there is nobody to tell.
                let _ = writeln!(std::io::stderr(), "stopping: {promise} (Ctrl-C again to abort at once)");
            });
        };
        if let Err(error) = ctrlc::set_handler(handler) {
            tracing::warn!("Ctrl-C will end the program at once: {error}");
        }
    });
    &STOP
}

/// Whether Ctrl-C was pressed since [`install`].
pub(crate) fn is_requested() -> bool {
    STOP.load(Ordering::Relaxed)
}
