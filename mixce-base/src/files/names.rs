//! Temporary names.

use std::ffi::OsString;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::path::{Path, PathBuf};

use super::FileError;

/// A unique name in the folder of `path`: `.NAME.RANDOM.tmp`, with 64 random bits as 16 hexadecimal digits.
#[must_use]
pub fn temporary_beside(path: &Path) -> PathBuf {
    // The standard library's only source of system randomness: each `RandomState` has different keys.
    let random = RandomState::new().build_hasher().finish();
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{random:016x}.tmp"));
    path.with_file_name(name)
}

/// The name of an old folder while it is replaced: `.NAME.RANDOM.old.tmp`.
pub(super) fn aside_of(path: &Path) -> PathBuf {
    temporary_beside(path).with_extension("old.tmp")
}

/// Calls `create` with temporary names until one is free.
pub(super) fn create_beside<T>(
    path: &Path,
    create: impl Fn(&Path) -> io::Result<T>,
) -> Result<(PathBuf, T), FileError> {
    const ATTEMPTS: usize = 8;
    if path.file_name().is_none() {
        let source = io::Error::new(io::ErrorKind::InvalidInput, "the path ends in no name");
        return Err(FileError::of("create", path)(source));
    }
    for _ in 1..ATTEMPTS {
        let temporary = temporary_beside(path);
        match create(&temporary) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            outcome => {
                return outcome.map_err(FileError::of("create", &temporary)).map(|made| (temporary, made));
            }
        }
    }
    let temporary = temporary_beside(path);
    create(&temporary).map_err(FileError::of("create", &temporary)).map(|made| (temporary, made))
}

/// The parts of a temporary name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Temporary<'a> {
    /// The final name.
    pub target: &'a str,
    /// Whether it is complete and was moved aside by [`AtomicFolder::replace`](super::AtomicFolder::replace), perhaps without being replaced.
    pub is_aside: bool,
}

impl<'a> Temporary<'a> {
    /// Parses a temporary name; `None` for any other.
    ///
    /// Temporary names are `.NAME.RANDOM.tmp` and `.NAME.RANDOM.old.tmp`; earlier versions used `.NAME.PID-N.tmp`, `.NAME.PID-N.old.tmp` and
    /// `.NAME.partial-PID`, also nested.
    #[must_use]
    pub fn of(name: &'a str) -> Option<Self> {
        let mut outer = Self::outermost(name)?;
        while let Some(inner) = Self::outermost(outer.target) {
            outer = Self { target: inner.target, is_aside: false };
        }
        Some(outer)
    }

    fn outermost(name: &'a str) -> Option<Self> {
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let is_random =
            |text: &str| text.len() == 16 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let hidden = name.strip_prefix('.')?;
        if let Some((target, _)) = hidden.rsplit_once(".partial-").filter(|(_, pid)| is_number(pid)) {
            return Some(Self { target, is_aside: false });
        }
        let rest = hidden.strip_suffix(".tmp")?;
        let (rest, is_aside) = rest.strip_suffix(".old").map_or((rest, false), |rest| (rest, true));
        let (target, unique) = rest.rsplit_once('.')?;
        let is_old = || unique.split_once('-').is_some_and(|(pid, n)| is_number(pid) && is_number(n));
        (is_random(unique) || is_old()).then_some(Self { target, is_aside })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_apart_and_others_are_none() {
        for target in ["best", "run.toml", "step-00000020", "events.out.tfevents.17.x"] {
            let path = Path::new("/runs/first").join(target);
            let name = |path: PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
            let own = name(temporary_beside(&path));
            let export = format!(".{target}.partial-7");
            for made in [
                own,
                export.clone(),
                format!(".{target}.12-0.tmp"),
                format!(".{export}.7-3.tmp"),
                format!(".{target}.7-3.tmp"),
            ] {
                assert_eq!(Temporary::of(&made), Some(Temporary { target, is_aside: false }), "{made}");
            }
            for aside in [name(aside_of(&path)), format!(".{target}.12-0.old.tmp")] {
                assert_eq!(Temporary::of(&aside), Some(Temporary { target, is_aside: true }), "{aside}");
            }
        }
        for name in [
            "best",
            "best.7-0.tmp",
            ".best.tmp",
            ".best.mine.tmp",
            ".best.7.tmp",
            ".best.7-x.tmp",
            ".best.0123456789abcde.tmp",
            ".best.0123456789ABCDEF.tmp",
            ".best.partial",
            ".best.partial-a",
            ".partial-7",
            "run.toml.partial-7",
        ] {
            assert_eq!(Temporary::of(name), None, "{name}");
        }
    }

    #[test]
    fn a_name_that_is_taken_is_passed_over() {
        let taken = std::cell::Cell::new(2);
        let create = |_: &Path| match taken.replace(taken.get() - 1) {
            0 => Ok(()),
            _ => Err(io::Error::from(io::ErrorKind::AlreadyExists)),
        };
        let (temporary, ()) = create_beside(Path::new("a/b"), create).unwrap();
        assert!(temporary.starts_with("a") && temporary != temporary_beside(Path::new("a/b")));
        let never = |_: &Path| Err::<(), _>(io::Error::from(io::ErrorKind::AlreadyExists));
        assert_eq!(create_beside(Path::new("a/b"), never).unwrap_err().action, "create");
        assert!(create_beside(Path::new("/"), |_| Ok(())).unwrap_err().to_string().contains("no name"));
    }
}
