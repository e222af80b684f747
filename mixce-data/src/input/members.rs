//! gzip, bzip2 and xz: concatenated members (streams), and trailing bytes.
use std::io::{self, BufRead, Cursor, Read};

use bzip2::bufread::BzDecoder;
use flate2::bufread::GzDecoder;
use lzma_rust2::XzReader;

use super::compression::{Bytes, Compression, decoder_error, fault};
use super::decoding::LayerRecorder;
use crate::error::Fault;

/// Bytes that tell whether another member begins.
const MARK_BYTES: usize = 10;

/// Bytes that were looked at, and those after them.
pub(super) type Prefixed = io::Chain<Cursor<Vec<u8>>, Bytes>;

/// Decodes one member, and gives its source back at the member's end.
pub(super) trait Member: Read + Sized {
    const KIND: Compression;
    /// Whether other bytes may follow, which are ignored: as the program does it that is named like the kind.
    const IGNORES_REST: bool;
    fn begin(source: Prefixed) -> Self;
    fn end(self) -> Prefixed;

    /// Whether the source ended while the decoder wanted more.
    fn is_cut_off(&self, error: &io::Error) -> bool {
        error.kind() == io::ErrorKind::UnexpectedEof
    }
}

impl Member for GzDecoder<Prefixed> {
    const KIND: Compression = Compression::Gzip;
    const IGNORES_REST: bool = true;

    fn begin(source: Prefixed) -> Self {
        Self::new(source)
    }

    fn end(self) -> Prefixed {
        self.into_inner()
    }
}

impl Member for BzDecoder<Prefixed> {
    const KIND: Compression = Compression::Bzip2;
    const IGNORES_REST: bool = true;

    fn begin(source: Prefixed) -> Self {
        Self::new(source)
    }

    fn end(self) -> Prefixed {
        self.into_inner()
    }
}

/// Reads until the buffer is full or the source has ended: the xz decoder takes any shorter read for an end.
pub(super) struct FullReads {
    source: Prefixed,
    ended: bool,
}

impl Read for FullReads {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.source.read(&mut buffer[filled..]) {
                Ok(0) => {
                    self.ended = true;
                    break;
                }
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }
}

impl Member for XzReader<FullReads> {
    const KIND: Compression = Compression::Xz;
    const IGNORES_REST: bool = false;

    fn begin(source: Prefixed) -> Self {
        Self::new(FullReads { source, ended: false }, false)
    }

    fn end(self) -> Prefixed {
        self.into_inner().source
    }

    fn is_cut_off(&self, _: &io::Error) -> bool {
        self.inner().ended
    }
}

/// The data of all members.
///
/// Between members, and after the last one, zero bytes are padding. Other bytes that begin no member are counted and ignored
/// ([`Member::IGNORES_REST`]), or a fault.
pub(super) struct Members<M> {
    state: State<M>,
    layer: LayerRecorder,
}

enum State<M> {
    Inside(M),
    Between(Prefixed),
    Ended,
}

impl<M: Member> Members<M> {
    /// `raw` begins with a member.
    pub(super) fn new(raw: Bytes, layer: LayerRecorder) -> Self {
        Self { state: State::Between(Cursor::new(Vec::new()).chain(raw)), layer }
    }

    /// What follows a member.
    fn next_member(&mut self, mut source: Prefixed) -> io::Result<State<M>> {
        let mut padding = 0;
        loop {
            let zeros = source.fill_buf()?.iter().take_while(|byte| **byte == 0).count();
            if zeros == 0 {
                break;
            }
            source.consume(zeros);
            padding += zeros as u64;
        }
        let mut head = Vec::new();
        source.by_ref().take(MARK_BYTES as u64).read_to_end(&mut head)?;
        self.layer.note(|layer| layer.padding_bytes += padding);
        if head.is_empty() {
            return Ok(State::Ended);
        }
        // gzip's mark has two bytes, and no text begins with them.
        if Compression::of_bytes(&head) == M::KIND {
            self.layer.note(|layer| layer.parts += 1);
            let (_, rest) = source.into_inner();
            return Ok(State::Inside(M::begin(Cursor::new(head).chain(rest))));
        }
        if !M::IGNORES_REST {
            let what = Fault::Damaged("other bytes follow the last stream".into());
            return Err(fault(M::KIND.name(), what));
        }
        let ignored = head.len() as u64 + io::copy(&mut source, &mut io::sink())?;
        self.layer.note(|layer| layer.trailing_bytes = ignored);
        Ok(State::Ended)
    }
}

impl<M: Member> Read for Members<M> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            // After an error there is nothing more.
            match std::mem::replace(&mut self.state, State::Ended) {
                State::Ended => return Ok(0),
                State::Between(source) => self.state = self.next_member(source)?,
                State::Inside(mut member) => match member.read(buffer) {
                    Ok(0) if !buffer.is_empty() => self.state = State::Between(member.end()),
                    Ok(count) => {
                        self.state = State::Inside(member);
                        return Ok(count);
                    }
                    Err(error) => {
                        let cut_off = member.is_cut_off(&error);
                        return Err(decoder_error(M::KIND, error, cut_off));
                    }
                },
            }
        }
    }
}
