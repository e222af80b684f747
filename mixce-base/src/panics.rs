//! Catches panics of libraries that panic on damaged input.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind, set_hook, take_hook};
use std::sync::Once;

thread_local! {
    /// How many calls of [`caught`] are running on this thread.
    static CATCHING: Cell<u32> = const { Cell::new(0) };
}

/// A panic that was caught.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the decoder failed unexpectedly: {message}")]
pub struct Panicked {
    /// The panic's message on one line, cut at 200 characters.
    pub message: String,
}

/// Runs `f` and returns a panic as an error, without printing it.
///
/// What `f` borrows mutably may be inconsistent after a panic: drop it. Panics on other threads that `f` starts are not caught. The first
/// call wraps the process's panic hook.
///
/// # Errors
/// When `f` panics.
pub fn caught<T>(f: impl FnOnce() -> T) -> Result<T, Panicked> {
    silence_caught_panics();
    CATCHING.set(CATCHING.get() + 1);
    let outcome = catch_unwind(AssertUnwindSafe(f));
    CATCHING.set(CATCHING.get() - 1);
    outcome.map_err(|payload| Panicked { message: message_of(&*payload) })
}

/// Makes the panic hook skip panics that [`caught`] returns as errors.
fn silence_caught_panics() {
    static WRAPPED: Once = Once::new();
    WRAPPED.call_once(|| {
        let before = take_hook();
        set_hook(Box::new(move |info: &PanicHookInfo<'_>| {
            if CATCHING.get() == 0 {
                before(info);
            }
        }));
    });
}

fn message_of(payload: &(dyn Any + Send)) -> String {
    const MAX_CHARS: usize = 200;
    let text = payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message");
    text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(MAX_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn a_panic_is_an_error_and_the_hook_stays_silent() {
        let printed = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&printed);
        set_hook(Box::new(move |_| {
            count.fetch_add(1, Ordering::Relaxed);
        }));
        assert_eq!(caught(|| 5), Ok(5));
        let fail = |text: &str| panic!("{text}");
        let nested = caught(|| {
            let long = format!("inner\n {}", "x".repeat(500));
            let inner = caught(|| fail(&long)).unwrap_err().message;
            assert!(inner.starts_with("inner x") && inner.len() == 200, "{inner}");
            fail("outer");
        });
        assert_eq!(nested, Err(Panicked { message: "outer".into() }));
        assert_eq!(printed.load(Ordering::Relaxed), 0);
        // Outside, the hook that was there before is called.
        assert!(catch_unwind(|| fail("seen")).is_err());
        assert_eq!(printed.load(Ordering::Relaxed), 1);
    }
}
