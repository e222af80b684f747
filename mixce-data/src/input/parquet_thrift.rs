//! Checks structs in Thrift's compact protocol, in which parquet files describe themselves, before the decoder reads them.
//!
//! The decoder reads a known field without regard to the type that the file gives, and passes over the elements of other collections as often as
//! a number in the file says, even if they have no bytes: without this check, a few bytes would keep it busy for hours. What is accepted here
//! has the types of the format in its known fields, and at least one byte for each element: the decoder reads the same.
//!
//! Source: Thrift's `thrift-compact-protocol.md`.

use std::io::{self, BufRead, Read as _};

/// Nesting of unknown fields; the format has six levels.
const MAX_DEPTH: u32 = 16;

/// What the values of a field are.
#[derive(Clone, Copy, Debug)]
pub(super) enum Shape {
    Bool,
    Byte,
    /// Of 16 to 64 bits, which are written alike.
    Int,
    Double,
    /// Also text.
    Binary,
    /// The known fields of a struct, or of a union, by number.
    Struct(&'static [(i16, Shape)]),
    List(&'static Shape),
}

impl Shape {
    fn allows(self, kind: u8) -> bool {
        match self {
            Self::Bool => matches!(kind, 1 | 2),
            Self::Byte => kind == 3,
            Self::Int => matches!(kind, 4..=6),
            Self::Double => kind == 7,
            Self::Binary => kind == 8,
            Self::List(_) => kind == 9,
            Self::Struct(_) => kind == 12,
        }
    }
}

/// Reads at most `left` bytes.
pub(super) struct Compact<'r, R> {
    pub(super) input: &'r mut R,
    pub(super) left: u64,
}

impl<R: BufRead> Compact<'_, R> {
    /// Passes over a struct with these known fields.
    pub(super) fn structure(&mut self, known: &[(i16, Shape)], depth: u32) -> io::Result<()> {
        let mut id = 0;
        while let Some(kind) = self.field(&mut id)? {
            self.value(kind, shape_of(known, id), depth)?;
        }
        Ok(())
    }

    /// Passes over the value of a field, which is of `kind` and, if the field is known, must have `shape`.
    pub(super) fn value(&mut self, kind: u8, shape: Option<Shape>, depth: u32) -> io::Result<()> {
        if depth > MAX_DEPTH {
            return Err(invalid("it is nested too deeply"));
        }
        if shape.is_some_and(|shape| !shape.allows(kind)) {
            return Err(invalid("a field is of another type than the format says"));
        }
        match kind {
            // The values of booleans are in their kind.
            1 | 2 => Ok(()),
            3 => self.byte().map(drop),
            4..=6 => self.integer().map(drop),
            7 => self.pass(8),
            8 => {
                let length = self.varint()?;
                self.pass(length)
            }
            9 | 10 => self.list(shape, depth),
            12 => {
                let known = if let Some(Shape::Struct(known)) = shape { known } else { &[] };
                self.structure(known, depth + 1)
            }
            _ => Err(invalid("it has a field of an unknown kind")),
        }
    }

    fn list(&mut self, shape: Option<Shape>, depth: u32) -> io::Result<()> {
        let head = self.byte()?;
        let (kind, count) = (head & 0x0f, head >> 4);
        let count = if count == 15 { self.varint()? } else { count.into() };
        if count == 0 {
            return Ok(());
        }
        if matches!(kind, 1 | 2) {
            return Err(invalid("it has a list of booleans"));
        }
        let element = if let Some(Shape::List(element)) = shape { Some(*element) } else { None };
        // Each takes a byte at least.
        (0..count).try_for_each(|_| self.value(kind, element, depth + 1))
    }

    /// The kind of the next field, whose number replaces `id`; `None` at the end of a struct.
    pub(super) fn field(&mut self, id: &mut i16) -> io::Result<Option<u8>> {
        let byte = self.byte()?;
        let (step, kind) = (byte >> 4, byte & 0x0f);
        if kind == 0 {
            return Ok(None);
        }
        let next = if step == 0 { self.integer()? } else { i64::from(*id) + i64::from(step) };
        *id = i16::try_from(next).map_err(|_| invalid("a field has a number beyond 16 bits"))?;
        Ok(Some(kind))
    }

    pub(super) fn integer(&mut self) -> io::Result<i64> {
        let value = self.varint()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    fn byte(&mut self) -> io::Result<u8> {
        let mut byte = [0];
        self.take(1)?;
        self.input.read_exact(&mut byte)?;
        Ok(byte[0])
    }

    fn pass(&mut self, count: u64) -> io::Result<()> {
        self.take(count)?;
        let passed = io::copy(&mut self.input.by_ref().take(count), &mut io::sink())?;
        if passed == count { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    fn take(&mut self, count: u64) -> io::Result<()> {
        self.left = self.left.checked_sub(count).ok_or_else(|| invalid("it reaches beyond its place"))?;
        Ok(())
    }

    fn varint(&mut self) -> io::Result<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(invalid("a number is too long"))
    }
}

pub(super) fn shape_of(known: &[(i16, Shape)], id: i16) -> Option<Shape> {
    known.iter().find(|(number, _)| *number == id).map(|(_, shape)| *shape)
}

fn invalid(problem: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, problem)
}
