//! zstd: concatenated frames with any window size, and skippable frames.
use std::io::{self, BufRead, Read};

use zstd::stream::raw::{DParameter, Decoder, InBuffer, Operation, OutBuffer};

use super::compression::{Bytes, Compression, decoder_error, fault};
use super::decoding::LayerRecorder;
use crate::error::Fault;

/// The largest accepted window, as a power of two: that of `zstd --ultra --long=31`, the library's maximum on a 64-bit machine.
const MAX_WINDOW_LOG: u32 = if usize::BITS == 64 { 31 } else { 30 };
/// Bytes that identify a frame: its magic number and the longest header.
const HEADER_BYTES: u64 = 18;

/// The data of all frames. What follows the last one must be zero bytes.
pub(super) struct Frames {
    source: Bytes,
    decoder: Decoder<'static>,
    /// The part of a frame's beginning that has not been decoded.
    head: Vec<u8>,
    head_used: usize,
    in_frame: bool,
    ended: bool,
    layer: LayerRecorder,
}

impl Frames {
    pub(super) fn new(source: Bytes, layer: LayerRecorder) -> io::Result<Self> {
        let mut decoder = Decoder::new()?;
        decoder.set_parameter(DParameter::WindowLogMax(MAX_WINDOW_LOG))?;
        Ok(Self { source, decoder, head: Vec::new(), head_used: 0, in_frame: false, ended: false, layer })
    }

    /// Reads the beginning of the next frame; `false` at the end.
    fn next_frame(&mut self) -> io::Result<bool> {
        // The decoder may not have needed all of the last head: a frame can be shorter.
        self.head.drain(..std::mem::take(&mut self.head_used));
        self.skip_zeros()?;
        let wanted = HEADER_BYTES - self.head.len() as u64;
        self.source.by_ref().take(wanted).read_to_end(&mut self.head)?;
        if self.head.is_empty() {
            return Ok(false);
        }
        let mark = &self.head[..self.head.len().min(4)];
        if Compression::of_bytes(mark) != Compression::Zstd {
            let frame = [0x28, 0xb5, 0x2f, 0xfd].starts_with(mark);
            let skippable = (0x50..=0x5f).contains(&mark[0]) && [0x2a, 0x4d, 0x18].starts_with(&mark[1..]);
            let what = "bytes that are not a zstd frame follow the last frame";
            let what = if frame || skippable { Fault::CutOff } else { Fault::Damaged(what.into()) };
            return Err(fault(Compression::Zstd.name(), what));
        }
        let skippable = mark[0] != 0x28;
        // The last two bits of the descriptor: how many bytes the dictionary's number has.
        if !skippable && self.head.get(4).is_some_and(|descriptor| descriptor & 3 != 0) {
            return Err(fault(Compression::Zstd.name(), Fault::NeedsDictionary));
        }
        let window = if skippable { None } else { window_bytes(&self.head) };
        if let Some(bytes) = window.filter(|bytes| *bytes > 1 << MAX_WINDOW_LOG) {
            let limit = 1 << MAX_WINDOW_LOG;
            return Err(fault(Compression::Zstd.name(), Fault::TooMuchMemory { bytes, limit }));
        }
        self.layer.note(|layer| {
            layer.parts += u64::from(!skippable);
            layer.skippable += u64::from(skippable);
            layer.window_bytes = layer.window_bytes.max(window.unwrap_or(0));
        });
        self.in_frame = true;
        Ok(true)
    }

    fn skip_zeros(&mut self) -> io::Result<()> {
        let mut padding = self.head.iter().take_while(|byte| **byte == 0).count();
        self.head.drain(..padding);
        while self.head.is_empty() {
            let zeros = self.source.fill_buf()?.iter().take_while(|byte| **byte == 0).count();
            if zeros == 0 {
                break;
            }
            self.source.consume(zeros);
            padding += zeros;
        }
        self.layer.note(|layer| layer.padding_bytes += padding as u64);
        Ok(())
    }

    /// Decodes some bytes of the frame; may return 0 before its end.
    fn decode(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let from_head = self.head_used < self.head.len();
        let input = if from_head { &self.head[self.head_used..] } else { self.source.fill_buf()? };
        let at_end = input.is_empty();
        let mut input = InBuffer::around(input);
        let mut output = OutBuffer::around(buffer);
        let hint = self
            .decoder
            .run(&mut input, &mut output)
            .map_err(|error| decoder_error(Compression::Zstd, error, false))?;
        let (used, written) = (input.pos(), output.pos());
        if from_head {
            self.head_used += used;
        } else {
            self.source.consume(used);
        }
        self.in_frame = hint != 0;
        // Without input the decoder can only flush its buffer.
        if at_end && written == 0 && self.in_frame {
            return Err(fault(Compression::Zstd.name(), Fault::CutOff));
        }
        Ok(written)
    }
}

impl Read for Frames {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while !self.ended && !buffer.is_empty() {
            let step = if self.in_frame {
                self.decode(buffer)
            } else {
                self.next_frame().map(|found| {
                    self.ended = !found;
                    0
                })
            };
            match step {
                Ok(0) => {}
                Ok(count) => return Ok(count),
                Err(error) => {
                    self.ended = error.kind() != io::ErrorKind::Interrupted;
                    return Err(error);
                }
            }
        }
        Ok(0)
    }
}

/// The window of a frame by its header (RFC 8878, 3.1.1.1), or its size where that is the window; `None` if the header is not complete.
fn window_bytes(head: &[u8]) -> Option<u64> {
    let descriptor = *head.get(4)?;
    if descriptor & 0x20 == 0 {
        let window = *head.get(5)?;
        let base = 1u64 << (10 + (window >> 3));
        return Some(base + base / 8 * u64::from(window & 7));
    }
    let dictionary_id = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let width = [1, 2, 4, 8][usize::from(descriptor >> 6)];
    let field = head.get(5 + dictionary_id..5 + dictionary_id + width)?;
    let size = field.iter().rev().fold(0u64, |size, byte| size << 8 | u64::from(*byte));
    Some(if width == 2 { size + 256 } else { size })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_read_from_the_header() {
        assert_eq!(window_bytes(b"\x28\xb5\x2f\xfd\x04\xa8"), Some(1 << 31));
        assert_eq!(window_bytes(b"\x28\xb5\x2f\xfd\x00\x59"), Some((1 << 21) + (1 << 18)));
        assert_eq!(window_bytes(b"\x28\xb5\x2f\xfd\x20\x07"), Some(7));
        assert_eq!(window_bytes(b"\x28\xb5\x2f\xfd\x60\x00\x01"), Some(512));
        assert_eq!(window_bytes(b"\x28\xb5\x2f\xfd\xa1\x09\x01\x00\x00\x80"), Some(0x8000_0001));
        assert_eq!(window_bytes(b"\x28\xb5\x2f\xfd\xe0\x00"), None);
    }
}
