//! Disables candle's second thread pool.

#![expect(unsafe_code, reason = "changing the environment is unsafe once other threads run")]

/// Keeps candle's own elementwise thread pool from starting, unless `CANDLE_NUM_THREADS` asks for it.
///
/// candle runs elementwise operations on its own pool beside rayon's, whose caller busy-waits for the other threads. At GPT-2's sizes
/// that costs more than it gains, and on shared cores up to half of the time. Fused operations and matrix products use rayon and are
/// not affected. Call it first in `main`: it has no effect (and returns false) once the process has more than one thread, or if the
/// number of threads is unknown.
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
