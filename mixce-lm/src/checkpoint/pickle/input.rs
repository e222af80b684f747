//! Reading a pickle byte by byte, without trusting its lengths.

use std::io::Read;

use super::{MAX_BYTES, Problem};

/// A reader that counts, so that what follows a pickle can be found.
pub(in crate::checkpoint) struct Input<R> {
    reader: R,
    pub(in crate::checkpoint) position: u64,
}

impl<R: Read> Input<R> {
    pub(in crate::checkpoint) fn new(reader: R) -> Self {
        Self { reader, position: 0 }
    }

    pub(in crate::checkpoint) fn array<const N: usize>(&mut self) -> Result<[u8; N], Problem> {
        let mut bytes = [0; N];
        self.reader.read_exact(&mut bytes).map_err(|cause| format!("pickle ends early: {cause}"))?;
        self.position += N as u64;
        Ok(bytes)
    }

    pub(super) fn byte(&mut self) -> Result<u8, Problem> {
        Ok(self.array::<1>()?[0])
    }

    /// Reads `count` bytes, or fails, without trusting `count` for the size of the buffer.
    pub(super) fn bytes(&mut self, count: u64) -> Result<Vec<u8>, Problem> {
        if count > MAX_BYTES {
            return Err(format!("a text of {count} bytes in a pickle"));
        }
        let mut bytes = Vec::new();
        let got =
            (&mut self.reader).take(count).read_to_end(&mut bytes).map_err(|cause| cause.to_string())?;
        if (got as u64) < count {
            return Err(format!("pickle ends early: {got} of {count} bytes of a text"));
        }
        self.position += count;
        Ok(bytes)
    }

    pub(super) fn text(&mut self, count: u64) -> Result<String, Problem> {
        String::from_utf8(self.bytes(count)?).map_err(|cause| cause.to_string())
    }

    pub(super) fn line(&mut self) -> Result<String, Problem> {
        let mut bytes = Vec::new();
        loop {
            match self.byte()? {
                b'\n' => return String::from_utf8(bytes).map_err(|cause| cause.to_string()),
                byte if bytes.len() < 1024 => bytes.push(byte),
                _ => return Err("a line of more than 1024 bytes in a pickle".to_owned()),
            }
        }
    }
}
