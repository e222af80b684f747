//! Reading files that may be anything: pipes, devices, endless.

use std::fs::{File, FileType, Metadata};
use std::io::{self, Read};
use std::path::Path;

use super::FileError;

/// Opens a regular file; links are followed.
///
/// For the files of a model or checkpoint, whose folder may come from elsewhere: opening a named pipe waits for ever, and a device may have no
/// end.
///
/// # Errors
/// When it is a folder, a pipe, a socket or a device, or cannot be opened.
pub fn open_regular(path: &Path) -> Result<File, FileError> {
    let failed = |source| FileError::of("read", path)(source);
    // Asked by name, since opening may already wait, and again after opening, since the name may have changed hands.
    require_regular(&std::fs::metadata(path).map_err(failed)?).map_err(failed)?;
    let file = File::open(path).map_err(failed)?;
    require_regular(&file.metadata().map_err(failed)?).map_err(failed)?;
    Ok(file)
}

/// The bytes of a regular file that may have at most `limit_bytes`.
///
/// # Errors
/// As [`open_regular`], and when it is larger.
pub fn read_regular(path: &Path, limit_bytes: u64) -> Result<Vec<u8>, FileError> {
    bytes_of(open_regular(path)?, path, limit_bytes)
}

/// The bytes of a file that may have at most `limit_bytes`, and may be a pipe or a device such as `/dev/stdin`.
///
/// For files that the user names.
///
/// # Errors
/// When it cannot be read or has more bytes.
pub fn read_limited(path: &Path, limit_bytes: u64) -> Result<Vec<u8>, FileError> {
    bytes_of(File::open(path).map_err(FileError::of("read", path))?, path, limit_bytes)
}

fn bytes_of(file: File, path: &Path, limit_bytes: u64) -> Result<Vec<u8>, FileError> {
    let mut bytes = Vec::new();
    file.take(limit_bytes.saturating_add(1)).read_to_end(&mut bytes).map_err(FileError::of("read", path))?;
    if bytes.len() as u64 > limit_bytes {
        let problem = format!("it has more than {limit_bytes} bytes, the most that are read of such a file");
        return Err(FileError::of("read", path)(io::Error::new(io::ErrorKind::FileTooLarge, problem)));
    }
    Ok(bytes)
}

fn require_regular(metadata: &Metadata) -> io::Result<()> {
    match metadata.is_file() {
        true => Ok(()),
        false => {
            let problem = format!("it is {}, expected a regular file", kind_of(metadata.file_type()));
            Err(io::Error::new(io::ErrorKind::InvalidInput, problem))
        }
    }
}

fn kind_of(kind: FileType) -> &'static str {
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt as _;
        if kind.is_fifo() {
            return "a named pipe";
        }
        if kind.is_socket() {
            return "a socket";
        }
        if kind.is_char_device() || kind.is_block_device() {
            return "a device";
        }
    }
    if kind.is_dir() { "a folder" } else { "not a file" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_up_to_its_limit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        std::fs::write(&path, b"abc").unwrap();
        for read in [read_regular, read_limited] {
            assert_eq!(read(&path, 3).unwrap(), b"abc");
            let error = read(&path, 2).unwrap_err().to_string();
            assert!(error.contains("more than 2 bytes") && error.contains("/a`"), "{error}");
            assert!(read(&folder.path().join("b"), 3).is_err());
        }
        let error = open_regular(folder.path()).unwrap_err().to_string();
        assert!(error.contains("it is a folder, expected a regular file"), "{error}");
    }

    #[cfg(unix)]
    #[test]
    fn pipes_and_devices_are_refused_or_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&pipe, &link).unwrap();
        for path in [&pipe, &link] {
            assert!(open_regular(path).unwrap_err().to_string().contains("it is a named pipe"));
        }
        let zero = Path::new("/dev/zero");
        assert!(open_regular(zero).unwrap_err().to_string().contains("it is a device"));
        assert!(read_limited(zero, 1000).unwrap_err().to_string().contains("more than 1000 bytes"));
        assert_eq!(read_limited(Path::new("/dev/null"), 1000).unwrap(), b"");
        let writer = std::thread::spawn(move || std::fs::write(pipe, b"through the pipe").unwrap());
        assert_eq!(read_limited(&link, 1000).unwrap(), b"through the pipe");
        writer.join().unwrap();
    }
}
