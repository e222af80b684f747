//! Who holds the locks on folders and files, without locking anything.
//!
//! Linux lists all locks in `/proc/locks`. Elsewhere nothing is known, and states are told from the files alone.

use std::fs;
use std::path::Path;

/// Whether a process holds a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Holder {
    /// This one.
    Process(u32),
    /// None.
    Nobody,
    /// The system does not say.
    Unknown,
}

/// The locks of one moment.
#[derive(Debug)]
pub(crate) struct Locks {
    held: Option<Vec<Held>>,
}

/// `flock` of a process on a file: device, inode.
#[derive(Debug, PartialEq, Eq)]
struct Held {
    process: u32,
    device: (u64, u64),
    inode: u64,
}

impl Locks {
    pub(crate) fn read() -> Self {
        let held = fs::read_to_string("/proc/locks").ok();
        Self { held: held.map(|text| text.lines().filter_map(parse).collect()) }
    }

    /// Who holds the lock on a file or folder.
    pub(crate) fn holder(&self, path: &Path) -> Holder {
        let Some(held) = &self.held else { return Holder::Unknown };
        let Some((device, inode)) = identity(path) else { return Holder::Nobody };
        // Some file systems (btrfs, overlays) report another device there than the file has; then the process must have it open.
        let is_it =
            |lock: &&Held| lock.inode == inode && (lock.device == device || has_open(lock.process, path));
        held.iter().find(is_it).map_or(Holder::Nobody, |lock| Holder::Process(lock.process))
    }
}

/// `1: FLOCK  ADVISORY  WRITE 1234 08:01:131094 0 EOF`.
fn parse(line: &str) -> Option<Held> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let ["FLOCK", _, "WRITE", process, place, ..] = words.get(1..)? else { return None };
    let mut place = place.split(':');
    let device = u64::from_str_radix(place.next()?, 16).ok()?;
    let device = (device, u64::from_str_radix(place.next()?, 16).ok()?);
    Some(Held { process: process.parse().ok()?, device, inode: place.next()?.parse().ok()? })
}

/// Major and minor device number, and inode.
#[cfg(unix)]
fn identity(path: &Path) -> Option<((u64, u64), u64)> {
    use std::os::unix::fs::MetadataExt as _;
    let found = fs::metadata(path).ok()?;
    let device = found.dev();
    // As Linux packs them.
    let major = ((device >> 8) & 0xfff) | ((device >> 32) & !0xfff);
    let minor = (device & 0xff) | ((device >> 12) & !0xff);
    Some(((major, minor), found.ino()))
}

#[cfg(not(unix))]
fn identity(_: &Path) -> Option<((u64, u64), u64)> {
    None
}

fn has_open(process: u32, path: &Path) -> bool {
    let Ok(path) = path.canonicalize() else { return false };
    let files = fs::read_dir(format!("/proc/{process}/fd")).into_iter().flatten().flatten();
    files.filter_map(|file| fs::read_link(file.path()).ok()).any(|open| open == path)
}

/// Resident memory of a process in bytes, if the system says.
pub(crate) fn resident_bytes(process: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_system_are_read() {
        let found = parse("12: FLOCK  ADVISORY  WRITE 1234 fe:1a:131094 0 EOF").unwrap();
        assert_eq!(found, Held { process: 1234, device: (0xfe, 0x1a), inode: 131_094 });
        for other in [
            "1: POSIX  ADVISORY  WRITE 1 08:01:1 0 EOF",
            "1: -> FLOCK ADVISORY WRITE 1 08:01:1 0 EOF",
            "",
            "x",
        ] {
            assert_eq!(parse(other), None);
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_holder_is_found_and_nothing_is_locked() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Locks::read().holder(folder.path()), Holder::Nobody);
        assert_eq!(Locks::read().holder(&folder.path().join("none")), Holder::Nobody);
        let file = fs::File::open(folder.path()).unwrap();
        file.try_lock().unwrap();
        let me = std::process::id();
        assert_eq!(Locks::read().holder(folder.path()), Holder::Process(me));
        assert!(has_open(me, folder.path()));
        drop(file);
        assert_eq!(Locks::read().holder(folder.path()), Holder::Nobody);
        assert!(resident_bytes(me).unwrap() > 1 << 20);
        assert_eq!(resident_bytes(u32::MAX), None);
    }
}
