//! Checks the description of a parquet file, at its end, before the decoder reads it.
//!
//! Source of the fields: the parquet format's `README.md` and `parquet.thrift`.

use std::fs::File;
use std::io::{BufReader, Read as _, Seek as _, SeekFrom};
use std::path::Path;

use super::parquet_thrift::Compact;
use super::parquet_thrift::Shape::{self, Binary, Bool, Byte, Double, Int, List, Struct};
use crate::error::{Error, Result};

/// A struct or union without fields.
const EMPTY: Shape = Struct(&[]);
const INTS: Shape = List(&Int);
const TEXTS: Shape = List(&Binary);

/// `FileMetaData`.
const FILE: &[(i16, Shape)] = &[
    (1, Int),
    (2, List(&Struct(SCHEMA_ELEMENT))),
    (3, Int),
    (4, List(&Struct(ROW_GROUP))),
    (5, KEY_VALUES),
    (6, Binary),
    (7, List(&Struct(&[(1, EMPTY), (2, EMPTY)]))),
    (8, Struct(&[(1, AES), (2, AES)])),
    (9, Binary),
];

const KEY_VALUES: Shape = List(&Struct(&[(1, Binary), (2, Binary)]));
const AES: Shape = Struct(&[(1, Binary), (2, Binary), (3, Bool)]);

const SCHEMA_ELEMENT: &[(i16, Shape)] = &[
    (1, Int),
    (2, Int),
    (3, Int),
    (4, Binary),
    (5, Int),
    (6, Int),
    (7, Int),
    (8, Int),
    (9, Int),
    (10, Struct(LOGICAL_TYPE)),
];

const LOGICAL_TYPE: &[(i16, Shape)] = &[
    (1, EMPTY),
    (2, EMPTY),
    (3, EMPTY),
    (4, EMPTY),
    (5, Struct(&[(1, Int), (2, Int)])),
    (6, EMPTY),
    (7, TIME),
    (8, TIME),
    (10, Struct(&[(1, Byte), (2, Bool)])),
    (11, EMPTY),
    (12, EMPTY),
    (13, EMPTY),
    (14, EMPTY),
    (15, EMPTY),
    (16, Struct(&[(1, Byte)])),
    (17, Struct(&[(1, Binary)])),
    (18, Struct(&[(1, Binary), (2, Int)])),
];

const TIME: Shape = Struct(&[(1, Bool), (2, Struct(&[(1, EMPTY), (2, EMPTY), (3, EMPTY)]))]);

const ROW_GROUP: &[(i16, Shape)] = &[
    (1, List(&Struct(COLUMN_CHUNK))),
    (2, Int),
    (3, Int),
    (4, List(&Struct(&[(1, Int), (2, Bool), (3, Bool)]))),
    (5, Int),
    (6, Int),
    (7, Int),
];

const COLUMN_CHUNK: &[(i16, Shape)] = &[
    (1, Binary),
    (2, Int),
    (3, Struct(COLUMN)),
    (4, Int),
    (5, Int),
    (6, Int),
    (7, Int),
    (8, Struct(&[(1, EMPTY), (2, Struct(&[(1, TEXTS), (2, Binary)]))])),
    (9, Binary),
];

/// `ColumnMetaData`.
const COLUMN: &[(i16, Shape)] = &[
    (1, Int),
    (2, INTS),
    (3, TEXTS),
    (4, Int),
    (5, Int),
    (6, Int),
    (7, Int),
    (8, KEY_VALUES),
    (9, Int),
    (10, Int),
    (11, Int),
    (12, Struct(STATISTICS)),
    (13, List(&Struct(&[(1, Int), (2, Int), (3, Int)]))),
    (14, Int),
    (15, Int),
    (16, Struct(&[(1, Int), (2, INTS), (3, INTS)])),
    (17, Struct(&[(1, Struct(BOUNDING_BOX)), (2, INTS)])),
];

pub(super) const STATISTICS: &[(i16, Shape)] =
    &[(1, Binary), (2, Binary), (3, Int), (4, Int), (5, Binary), (6, Binary), (7, Bool), (8, Bool), (9, Int)];

const BOUNDING_BOX: &[(i16, Shape)] =
    &[(1, Double), (2, Double), (3, Double), (4, Double), (5, Double), (6, Double), (7, Double), (8, Double)];

/// Bytes at the end of a file: the length of the description, and the format's mark.
const END: u64 = 8;

/// Checks the description of a file. One that has none, or is no parquet file, is for the decoder to report.
///
/// # Errors
/// When it is damaged such that the decoder might not end.
pub(super) fn check(file: &File, path: &Path) -> Result<()> {
    let mut file = file;
    let size = file.metadata().map_err(Error::io("read", path))?.len();
    let mut end = [0; END as usize];
    if size < END {
        return Ok(());
    }
    file.seek(SeekFrom::End(-(END as i64))).map_err(Error::io("read", path))?;
    file.read_exact(&mut end).map_err(Error::io("read", path))?;
    let [a, b, c, d, mark @ ..] = end;
    let length = u64::from(u32::from_le_bytes([a, b, c, d]));
    if mark != *b"PAR1" || length > size - END {
        return Ok(());
    }
    file.seek(SeekFrom::Start(size - END - length)).map_err(Error::io("read", path))?;
    let mut input = BufReader::new(file);
    Compact { input: &mut input, left: length }.structure(FILE, 0).map_err(|cause| Error::Parquet {
        path: path.into(),
        problem: format!("its description at the end is damaged: {cause}"),
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use proptest::prelude::*;

    use super::*;

    fn checked(description: &[u8]) -> std::result::Result<(), String> {
        let mut file = tempfile::tempfile().unwrap();
        let length = (description.len() as u32).to_le_bytes();
        file.write_all(&[b"PAR1", description, &length, b"PAR1"].concat()).unwrap();
        check(&file, Path::new("a.parquet")).map_err(|error| error.to_string())
    }

    /// Billions of elements without bytes keep the decoder busy, as do numbers under which it reads something else than is there.
    #[test]
    fn what_keeps_the_decoder_busy_is_refused() {
        let billions = [0xff, 0xff, 0xff, 0xff, 0x07];
        let list = |head: u8| [&[0x09, 0x50, head][..], &billions, &[0x00]].concat();
        for (description, problem) in [
            (list(0xf1), "a list of booleans"),
            (list(0xf2), "a list of booleans"),
            (list(0xf5), "beyond its place"),
            // An unknown field with a map of booleans.
            ([&[0x0b, 0x50][..], &billions, &[0x11, 0x00]].concat(), "unknown kind"),
            // Field 3, the number of rows, as text; the decoder would read the length as the number, and then the text as fields.
            (vec![0x38, 0x03, b'a', b'b', b'c', 0x00], "another type"),
            // Field 2, the schema, as a list of numbers.
            (vec![0x29, 0x15, 0x02, 0x00], "another type"),
            // Field 65 539 is number 3 for whoever keeps 16 bits.
            (vec![0x06, 0x86, 0x80, 0x08, 0x02, 0x00], "beyond 16 bits"),
            ([&[0x09, 0x50][..], &[0x19; 40]].concat(), "nested too deeply"),
            (vec![0x15], "beyond its place"),
        ] {
            let error = checked(&description).unwrap_err();
            assert!(error.contains("a.parquet") && error.contains(problem), "{description:?}: {error}");
        }
    }

    #[test]
    fn what_has_the_types_of_the_format_passes() {
        checked(&[0x00]).unwrap();
        // Version 1, an empty schema, 3 rows, no row groups, a writer; a field that is not known yet.
        checked(&[
            0x15, 0x02, 0x19, 0x0c, 0x16, 0x06, 0x19, 0x0c, 0x28, 0x01, b'x', 0x08, 0x50, 0x01, b'y', 0x00,
        ])
        .unwrap();
        // No description: the decoder says so.
        for bytes in [&b""[..], b"PAR1", b"\xff\xff\xff\xffPAR1", b"0123456789"] {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(bytes).unwrap();
            check(&file, Path::new("a.parquet")).unwrap();
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_checked(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = checked(&bytes);
        }
    }
}
