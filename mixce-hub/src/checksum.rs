//! The checksums in the hub's etags.
//!
//! A file stored with LFS or xet is named by the SHA-256 of its bytes (64 hexadecimal digits). A small file is in git,
//! which names it by the SHA-1 of `"blob " + length + NUL + bytes` (40 digits). The name is the file's etag, and the name
//! of its blob in the cache.

use mixce_base::digest::{Digest, Sha256, hex};
use sha1::Sha1;

/// A running checksum of the kind given by an etag.
#[derive(Clone)]
pub(crate) enum Checksum {
    Sha256(Sha256),
    Git(Sha1),
    /// The etag is not a known checksum; only the length can be verified.
    Unknown,
}

impl Checksum {
    /// The checksum for `etag`; git's requires the file's length in advance.
    pub(crate) fn for_etag(etag: &str, bytes_total: Option<u64>) -> Self {
        if !etag.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Self::Unknown;
        }
        match (etag.len(), bytes_total) {
            (64, _) => Self::Sha256(Sha256::new()),
            (40, Some(length)) => Self::Git(Sha1::new_with_prefix(format!("blob {length}\0"))),
            _ => Self::Unknown,
        }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::Git(hasher) => hasher.update(bytes),
            Self::Unknown => {}
        }
    }

    /// Name and value in lower-case hexadecimal digits; `None` if there is nothing to compare.
    pub(crate) fn finish(self) -> Option<(&'static str, String)> {
        match self {
            Self::Sha256(hasher) => Some(("SHA-256", hex(&hasher.finalize()))),
            Self::Git(hasher) => Some(("git SHA-1", hex(&hasher.finalize()))),
            Self::Unknown => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_checksums() {
        // `printf abc | sha256sum` and `printf abc | git hash-object --stdin`.
        for (etag, name) in [
            ("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", "SHA-256"),
            ("f2ba8f84ab5c1bce84a7b441cb1959cfc7093b7f", "git SHA-1"),
        ] {
            let mut checksum = Checksum::for_etag(etag, Some(3));
            checksum.update(b"a");
            checksum.update(b"bc");
            assert_eq!(checksum.finish(), Some((name, etag.to_owned())));
        }
        assert!(Checksum::for_etag("abc", Some(3)).finish().is_none());
        assert!(Checksum::for_etag(&"g".repeat(64), Some(3)).finish().is_none());
        assert!(Checksum::for_etag(&"a".repeat(40), None).finish().is_none());
    }
}
