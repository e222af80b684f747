//! Memory of this process.

/// Peak resident set of this process so far in bytes, as reported by the system; `None` if it does not report it.
///
/// On Linux from `/proc/self/status`: the value of `getrusage` includes the parent process at the time of the fork.
pub(crate) fn peak_rss_bytes() -> Option<u64> {
    std::fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|status| high_water_mark(&status))
        .or_else(max_rss)
}

/// `VmHWM` of a `/proc/PID/status`.
fn high_water_mark(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

#[cfg(unix)]
fn max_rss() -> Option<u64> {
    use nix::sys::resource::{UsageWho, getrusage};
    // In bytes on macOS, in kibibytes elsewhere.
    let unit = if cfg!(target_vendor = "apple") { 1 } else { 1024 };
    let peak = getrusage(UsageWho::RUSAGE_SELF).ok()?.max_rss();
    u64::try_from(peak).ok()?.checked_mul(unit)
}

#[cfg(not(unix))]
fn max_rss() -> Option<u64> {
    None
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn the_peak_grows_with_what_is_touched_and_never_shrinks() {
        let block = vec![1u8; 64 << 20];
        let with = [peak_rss_bytes().unwrap(), max_rss().unwrap()];
        assert!(with.iter().all(|peak| *peak >= 64 << 20) && block.iter().all(|b| *b == 1));
        drop(block);
        // The kernel's counters lag by a few pages per thread.
        assert!(peak_rss_bytes().unwrap() + (1 << 20) >= with[0]);
    }

    #[test]
    fn the_status_file_is_read() {
        assert_eq!(high_water_mark("VmPeak:\t 9 kB\nVmHWM:\t    1234 kB\n"), Some(1234 * 1024));
        assert_eq!(high_water_mark("VmHWM:\t many kB\n"), None);
        assert_eq!(high_water_mark(""), None);
    }
}
