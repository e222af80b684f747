//! The instructions of a pickle, executed one by one on a stack. Source: opcodes of CPython's `Lib/pickletools.py`.

use std::collections::HashMap;
use std::io::Read;
use std::rc::Rc;

use super::{Id, Input, MAX_NAME_BYTES, Object, Problem};

#[derive(Default)]
pub(super) struct Machine {
    pub(super) objects: Vec<Object>,
    stack: Vec<Id>,
    /// Heights of the stack at each open MARK.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
}

impl Machine {
    fn push(&mut self, object: Object) {
        self.objects.push(object);
        self.stack.push(self.objects.len() - 1);
    }

    /// The top of the stack, which must lie above the last mark.
    pub(super) fn pop(&mut self) -> Result<Id, Problem> {
        if self.stack.len() <= self.marks.last().copied().unwrap_or(0) {
            return Err("pickle takes from an empty stack".to_owned());
        }
        self.stack.pop().ok_or_else(|| "pickle takes from an empty stack".to_owned())
    }

    fn top(&self) -> Result<Id, Problem> {
        self.stack.last().copied().ok_or_else(|| "pickle reads an empty stack".to_owned())
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Id>, Problem> {
        let height = self.marks.pop().ok_or_else(|| "pickle without a mark".to_owned())?;
        if height > self.stack.len() {
            return Err("pickle mark above the stack".to_owned());
        }
        Ok(self.stack.split_off(height))
    }

    fn tuple(&mut self, count: usize) -> Result<(), Problem> {
        let mut items = Vec::with_capacity(count);
        for _ in 0..count {
            items.push(self.pop()?);
        }
        items.reverse();
        self.push(Object::Tuple(items));
        Ok(())
    }

    fn set_items(&mut self, items: &[Id]) -> Result<(), Problem> {
        let target = self.top()?;
        let (pairs, rest) = items.as_chunks::<2>();
        if !rest.is_empty() {
            return Err("pickle sets a key without a value".to_owned());
        }
        match &mut self.objects[target] {
            Object::Dict(dict) => dict.extend(pairs.iter().map(|&[key, value]| (key, value))),
            Object::Opaque => {}
            _ => return Err("pickle sets keys of something that is no dictionary".to_owned()),
        }
        Ok(())
    }

    fn append(&mut self, items: &[Id]) -> Result<(), Problem> {
        let target = self.top()?;
        match &mut self.objects[target] {
            Object::List(list) => list.extend(items),
            Object::Opaque => {}
            _ => return Err("pickle appends to something that is no list".to_owned()),
        }
        Ok(())
    }

    fn memo_put(&mut self, key: u32) -> Result<(), Problem> {
        let id = self.top()?;
        self.memo.insert(key, id);
        Ok(())
    }

    fn memo_get(&mut self, key: u32) -> Result<(), Problem> {
        let &id = self
            .memo
            .get(&key)
            .ok_or_else(|| format!("pickle recalls memo {key}, which was never stored"))?;
        self.stack.push(id);
        Ok(())
    }

    /// Executes one instruction; true at STOP.
    pub(super) fn step(&mut self, input: &mut Input<impl Read>) -> Result<bool, Problem> {
        match input.byte()? {
            b'.' => return Ok(true),
            0x80 => drop(input.byte()?),
            0x95 => drop(input.array::<8>()?),
            b'(' => self.marks.push(self.stack.len()),
            b'0' => drop(self.pop()?),
            b'1' => drop(self.pop_to_mark()?),
            b'2' => {
                let id = self.top()?;
                self.stack.push(id);
            }
            b'N' => self.push(Object::None),
            0x88 | 0x89 => self.push(Object::Bool),
            opcode @ (b'K' | b'M' | b'J' | 0x8a | 0x8b) => self.integer(opcode, input)?,
            opcode @ (b'G' | b'U' | b'T' | b'C' | b'B' | b'X' | 0x8c | 0x8d) => {
                self.literal(opcode, input)?
            }
            opcode @ (b'q' | b'r' | b'h' | b'j' | 0x94) => self.memory(opcode, input)?,
            b'c' => {
                let (module, name) = (input.line()?, input.line()?);
                self.push(Object::Global(module.into(), name.into()));
            }
            opcode => self.structure(opcode)?,
        }
        Ok(false)
    }

    fn integer(&mut self, opcode: u8, input: &mut Input<impl Read>) -> Result<(), Problem> {
        let value = match opcode {
            b'K' => i64::from(input.byte()?),
            b'M' => i64::from(u16::from_le_bytes(input.array()?)),
            b'J' => i64::from(i32::from_le_bytes(input.array()?)),
            _ => {
                let count = if opcode == 0x8a {
                    u32::from(input.byte()?)
                } else {
                    u32::from_le_bytes(input.array()?)
                };
                let bytes = input.bytes(u64::from(count))?;
                if bytes.len() > 8 {
                    // PyTorch's magic number, for one.
                    self.push(Object::Opaque);
                    return Ok(());
                }
                let fill = if bytes.last().is_some_and(|&byte| byte >= 0x80) { 0xff } else { 0 };
                let mut all = [fill; 8];
                all[..bytes.len()].copy_from_slice(&bytes);
                i64::from_le_bytes(all)
            }
        };
        self.push(Object::Int(value));
        Ok(())
    }

    fn literal(&mut self, opcode: u8, input: &mut Input<impl Read>) -> Result<(), Problem> {
        let object = match opcode {
            b'G' => {
                input.array::<8>()?;
                Object::Opaque
            }
            b'U' | 0x8c => {
                let count = u64::from(input.byte()?);
                text(input.text(count)?)
            }
            b'T' | b'X' => {
                let count = u64::from(u32::from_le_bytes(input.array()?));
                text(input.text(count)?)
            }
            0x8d => {
                let count = u64::from_le_bytes(input.array()?);
                text(input.text(count)?)
            }
            b'C' => {
                let count = u64::from(input.byte()?);
                input.bytes(count)?;
                Object::Opaque
            }
            _ => {
                let count = u64::from(u32::from_le_bytes(input.array()?));
                input.bytes(count)?;
                Object::Opaque
            }
        };
        self.push(object);
        Ok(())
    }

    fn memory(&mut self, opcode: u8, input: &mut Input<impl Read>) -> Result<(), Problem> {
        match opcode {
            b'q' => {
                let key = u32::from(input.byte()?);
                self.memo_put(key)
            }
            b'r' => {
                let key = u32::from_le_bytes(input.array()?);
                self.memo_put(key)
            }
            b'h' => {
                let key = u32::from(input.byte()?);
                self.memo_get(key)
            }
            b'j' => {
                let key = u32::from_le_bytes(input.array()?);
                self.memo_get(key)
            }
            _ => self.memo_put(self.memo.len() as u32),
        }
    }

    fn structure(&mut self, opcode: u8) -> Result<(), Problem> {
        match opcode {
            b')' => self.push(Object::Tuple(Vec::new())),
            0x85 => self.tuple(1)?,
            0x86 => self.tuple(2)?,
            0x87 => self.tuple(3)?,
            b't' => {
                let items = self.pop_to_mark()?;
                self.push(Object::Tuple(items));
            }
            b']' => self.push(Object::List(Vec::new())),
            b'l' => {
                let items = self.pop_to_mark()?;
                self.push(Object::List(items));
            }
            b'a' => {
                let item = self.pop()?;
                self.append(&[item])?;
            }
            b'e' => {
                let items = self.pop_to_mark()?;
                self.append(&items)?;
            }
            b'}' => self.push(Object::Dict(Vec::new())),
            b'd' => {
                let items = self.pop_to_mark()?;
                self.push(Object::Dict(Vec::new()));
                self.set_items(&items)?;
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.set_items(&[key, value])?;
            }
            b'u' => {
                let items = self.pop_to_mark()?;
                self.set_items(&items)?;
            }
            0x8f => self.push(Object::Opaque),
            0x90 => drop(self.pop_to_mark()?),
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let global = match (&self.objects[module], &self.objects[name]) {
                    (Object::Text(module), Object::Text(name)) => {
                        Object::Global(Rc::clone(module), Rc::clone(name))
                    }
                    _ => return Err("pickle names a class by something that is no text".to_owned()),
                };
                self.push(global);
            }
            b'R' | 0x81 => {
                let (arguments, function) = (self.pop()?, self.pop()?);
                let object = self.call(function, arguments)?;
                self.push(object);
            }
            // The state of an object (`_metadata` of a state dict) says nothing about tensors.
            b'b' => drop(self.pop()?),
            b'Q' => {
                let id = self.pop()?;
                let storage = self.storage(id)?;
                self.push(Object::Storage(Box::new(storage)));
            }
            opcode => return Err(format!("pickle instruction {opcode:#04x} is not known")),
        }
        Ok(())
    }
}

fn text(text: String) -> Object {
    if text.len() > MAX_NAME_BYTES { Object::Opaque } else { Object::Text(text.into()) }
}
