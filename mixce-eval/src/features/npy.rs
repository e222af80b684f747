//! NumPy's `.npy` format, versions 1 to 3.
//!
//! Magic `\x93NUMPY`, two bytes of version, the length of the header (u16, from version 2 on u32, little-endian), the header (a
//! Python dictionary literal with `descr`, `fortran_order` and `shape`), the numbers.

use std::path::Path;

use super::{Features, Number, matrix};
use crate::error::{Error, Result};

pub(super) fn parse(path: &Path, bytes: &[u8]) -> Result<Features> {
    let bad = |problem: &str| Error::malformed(path, problem);
    let rest = bytes
        .strip_prefix(b"\x93NUMPY")
        .ok_or_else(|| bad("no `.npy` file: it does not begin with `\\x93NUMPY`"))?;
    let cut = || bad("the file ends within its header");
    let (length, rest) = match rest {
        [1, _, a, b, rest @ ..] => (usize::from(u16::from_le_bytes([*a, *b])), rest),
        [2 | 3, _, a, b, c, d, rest @ ..] => (u32::from_le_bytes([*a, *b, *c, *d]) as usize, rest),
        [version, ..] if *version > 3 => {
            return Err(bad(&format!("version {version} of the format, expected 1 to 3")));
        }
        _ => return Err(cut()),
    };
    let (header, data) = rest.split_at_checked(length).ok_or_else(cut)?;
    let header = std::str::from_utf8(header).map_err(|_| bad("the header is not text"))?;
    let value = |key: &str| {
        let quoted = [format!("'{key}'"), format!("\"{key}\"")];
        let after = quoted.iter().find_map(|key| header.split_once(key.as_str())).map(|(_, after)| after);
        after
            .and_then(|after| after.trim_start().strip_prefix(':'))
            .map(str::trim_start)
            .ok_or_else(|| bad(&format!("the header has no `{key}`: `{}`", header.trim())))
    };
    let descr: String = value("descr")?
        .trim_start_matches(['\'', '"'])
        .chars()
        .take_while(|c| !"'\"".contains(*c))
        .take(40)
        .collect();
    let number = match descr.as_str() {
        "<f2" => Number::F16,
        "<f4" => Number::F32,
        "<f8" => Number::F64,
        other => return Err(bad(&format!("numbers of type `{other}`, expected `<f4`, `<f8` or `<f2`"))),
    };
    let column_major = value("fortran_order")?.starts_with("True");
    let shape = value("shape")?;
    let inside = shape.strip_prefix('(').and_then(|s| s.split_once(')')).map(|(inside, _)| inside);
    let numbers = inside.map(|inside| {
        inside
            .split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty())
            .map(str::parse)
            .collect::<std::result::Result<Vec<usize>, _>>()
    });
    match numbers {
        Some(Ok(shape)) => matrix(path, &shape, number, column_major, data),
        _ => Err(bad(&format!("cannot read the shape in the header `{}`", header.trim()))),
    }
}
