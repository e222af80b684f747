//! One thread pool instead of two.

#![expect(unsafe_code, reason = "changing the environment is unsafe once other threads run")]

/// Keeps candle's own elementwise thread pool from starting, unless `CANDLE_NUM_THREADS` asks for it.
///
/// candle runs elementwise operations on a pool of its own beside rayon's, whose caller waits for the others in a busy loop.
/// At GPT-2's sizes that costs more than it gains, and where the cores are shared with other work, half of the time. Fused
/// operations and matrix products use rayon and are not affected. Call it first thing in `main`: it has no effect (and
/// returns false) once the process has more than one thread, or where their number is not known.
pub fn use_rayon_alone() -> bool {
    const VARIABLE: &str = "CANDLE_NUM_THREADS";
    if std::env::var_os(VARIABLE).is_some() || !is_single_threaded() {
        return false;
    }
    // SAFETY: no other thread exists that could read the environment meanwhile, as was just checked; new threads can only
    // be started by this one.
    unsafe { std::env::set_var(VARIABLE, "1") };
    true
}

#[cfg(target_os = "linux")]
fn is_single_threaded() -> bool {
    std::fs::read_dir("/proc/self/task").is_ok_and(|tasks| tasks.count() == 1)
}

#[cfg(not(target_os = "linux"))]
fn is_single_threaded() -> bool {
    false
}

#[cfg(test)]
mod tests {
    #[test]
    fn does_nothing_beside_other_threads() {
        let (stop, wait) = std::sync::mpsc::channel::<()>();
        let other = std::thread::spawn(move || wait.recv().is_err());
        assert!(!super::use_rayon_alone());
        drop(stop);
        assert!(other.join().unwrap());
    }
}
