//! SHA-256 digests, which identify data, weights and cached results.

use std::io::{self, Read};

pub use sha2::{Digest, Sha256};

/// Bytes as lower-case hexadecimal digits, the format of digests.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The digest of the bytes read from `source`, in constant memory.
///
/// # Errors
/// Those of `source`.
pub fn sha256(source: &mut dyn Read) -> io::Result<[u8; 32]> {
    let mut hash = Sha256::new();
    let mut chunk = vec![0; 1 << 18];
    loop {
        match source.read(&mut chunk) {
            Ok(0) => return Ok(hash.finalize().into()),
            Ok(n) => hash.update(&chunk[..n]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails with the given errors, last first, then repeats `abc` forever.
    struct Source(Vec<io::Error>);

    impl Read for Source {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            self.0.pop().map_or_else(|| (&b"abc"[..]).read(into), Err)
        }
    }

    #[test]
    fn a_stream_has_the_digest_of_its_bytes() {
        // `printf abc | sha256sum`.
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(hex(&sha256(&mut &b"abc"[..]).unwrap()), abc);
        let long = vec![7; (1 << 18) + 1];
        assert_eq!(sha256(&mut &*long).unwrap(), *Sha256::digest(&long));
        let once = Source(vec![io::ErrorKind::Interrupted.into()]);
        assert_eq!(hex(&sha256(&mut once.take(3)).unwrap()), abc);
        let error = sha256(&mut Source(vec![io::Error::other("disk on fire")])).unwrap_err();
        assert_eq!(error.to_string(), "disk on fire");
    }
}
