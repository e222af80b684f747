//! As much of Python's pickle language as PyTorch needs for a dictionary of tensors.
//!
//! Nothing is ever executed: the few functions that rebuild tensors are recognised by name, everything else becomes
//! [`Object::Opaque`]. (candle's own reader panics on damaged files, prints to stderr and knows the zip format only.)
//!
//! Objects live in one arena and refer to each other by index, so that each instruction adds at most one object and a small file
//! cannot blow up; texts are shared, and the number of instructions bounds objects, marks, memo and stack. Source: opcodes of CPython's `Lib/pickletools.py`; `torch/_utils.py` and `torch/serialization.py`.

use std::collections::HashMap;
use std::io::Read;
use std::rc::Rc;

use super::tensor::WeightType;

mod input;
mod rebuild;

pub(super) use input::Input;

/// Position of an object in the arena.
pub(super) type Id = usize;

#[derive(Debug, Clone)]
pub(super) enum Object {
    None,
    Bool,
    Int(i64),
    Text(Rc<str>),
    Tuple(Vec<Id>),
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Global(Rc<str>, Rc<str>),
    Storage(Box<Storage>),
    Tensor(Box<PickledTensor>),
    /// Something that no tensor depends on.
    Opaque,
}

impl Object {
    /// Whether it holds other objects.
    pub(super) fn is_container(&self) -> bool {
        matches!(self, Self::Dict(_) | Self::List(_) | Self::Tuple(_))
    }
}

/// A block of numbers that tensors view.
#[derive(Debug, Clone)]
pub(super) struct Storage {
    pub(super) dtype: WeightType,
    pub(super) key: Rc<str>,
    /// Its length in elements.
    pub(super) count: u64,
}

/// A view of a storage; sizes in elements.
#[derive(Debug, Clone)]
pub(super) struct PickledTensor {
    pub(super) storage: Storage,
    pub(super) offset: u64,
    pub(super) shape: Vec<usize>,
    pub(super) strides: Vec<usize>,
}

/// Largest pickle that is read: thousands of times what a list of tensors takes.
const MAX_BYTES: u64 = 256 << 20;
/// Most instructions: thousands of times what a list of tensors takes. Each takes up to 150 bytes of memory.
const MAX_INSTRUCTIONS: u64 = 4_000_000;
/// Longest text that can be a name; a longer one is [`Object::Opaque`].
const MAX_NAME_BYTES: usize = 1024;
/// Most dimensions of a tensor, as in PyTorch.
const MAX_DIMENSIONS: usize = 64;

/// What is wrong with a pickle.
pub(super) type Problem = String;

/// The result of a pickle: an arena and its root.
#[derive(Debug)]
pub(super) struct Pickle {
    objects: Vec<Object>,
    root: Id,
}

impl Pickle {
    /// Reads one pickle up to and including its STOP.
    pub(super) fn read(input: &mut Input<impl Read>) -> Result<Self, Problem> {
        let mut machine = Machine::default();
        let start = input.position;
        let mut instructions = 0;
        while !machine.step(input)? {
            instructions += 1;
            if instructions > MAX_INSTRUCTIONS {
                return Err(format!(
                    "a pickle of more than {MAX_INSTRUCTIONS} instructions, the most that are read"
                ));
            }
            if input.position - start > MAX_BYTES {
                return Err(format!("a pickle of more than {MAX_BYTES} bytes, the most that are read"));
            }
        }
        let root = machine.pop()?;
        Ok(Self { objects: machine.objects, root })
    }

    pub(super) fn root(&self) -> &Object {
        &self.objects[self.root]
    }

    /// Position of the root.
    pub(super) fn root_id(&self) -> Id {
        self.root
    }

    /// What a dictionary or list holds, by key or by number. Keys that are neither text nor integer are left out.
    pub(super) fn entries(&self, container: Id) -> Vec<(Rc<str>, Id)> {
        match &self.objects[container] {
            Object::Dict(pairs) => {
                let name = |&(key, value): &(Id, Id)| match &self.objects[key] {
                    Object::Text(text) => Some((Rc::clone(text), value)),
                    Object::Int(number) => Some((number.to_string().into(), value)),
                    _ => None,
                };
                pairs.iter().filter_map(name).collect()
            }
            Object::List(items) | Object::Tuple(items) => {
                items.iter().enumerate().map(|(index, &item)| (index.to_string().into(), item)).collect()
            }
            _ => Vec::new(),
        }
    }

    /// Every storage that was named, whatever uses it.
    pub(super) fn storages(&self) -> impl Iterator<Item = &Storage> {
        self.objects.iter().filter_map(|object| match object {
            Object::Storage(storage) => Some(&**storage),
            _ => None,
        })
    }

    pub(super) fn get(&self, id: Id) -> &Object {
        &self.objects[id]
    }
}

#[derive(Default)]
struct Machine {
    objects: Vec<Object>,
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
    fn pop(&mut self) -> Result<Id, Problem> {
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
    fn step(&mut self, input: &mut Input<impl Read>) -> Result<bool, Problem> {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Result<Pickle, Problem> {
        Pickle::read(&mut Input::new(bytes))
    }

    /// A pickle of one instruction, over and over.
    fn repeated(prefix: &[u8], instruction: &[u8]) -> Vec<u8> {
        [prefix, &instruction.repeat(MAX_INSTRUCTIONS as usize + 1), b"."].concat()
    }

    #[test]
    fn marks_memo_and_stack_are_bounded() {
        for (prefix, instruction) in
            [(&b""[..], &b"}"[..]), (b"", b"("), (b"N", b"2"), (b"Nq\0", b"h\0"), (b"N", b"\x94")]
        {
            let problem = read(&repeated(prefix, instruction)).err().unwrap();
            assert!(problem.contains("more than 4000000 instructions"), "{instruction:?}: {problem}");
        }
        let memo: Vec<u8> = (0..MAX_INSTRUCTIONS as u32 + 1)
            .flat_map(|key| [&b"r"[..], &key.to_le_bytes()].concat())
            .collect();
        assert!(read(&[b"N", &memo[..]].concat()).is_err());
    }

    #[test]
    fn long_texts_are_no_names_and_shared_ones_are_not_copied() {
        let long = [&b"X"[..], &2000u32.to_le_bytes(), &[b'a'; 2000]].concat();
        assert!(matches!(read(&[&long[..], b"."].concat()).unwrap().root(), Object::Opaque));
        let name = [&b"\x8c\x03abc\x94"[..], &b"h\0h\0\x93".repeat(3), b"."].concat();
        let pickle = read(&name).unwrap();
        let Object::Text(text) = &pickle.objects[0] else { panic!("{pickle:?}") };
        assert_eq!(Rc::strong_count(text), 7);
    }

    #[test]
    fn a_tensor_has_as_many_dimensions_as_in_pytorch() {
        let global = |module: &str, name: &str| format!("c{module}\n{name}\n").into_bytes();
        let shape = |n: usize| [&b"("[..], &b"K\x01".repeat(n), b"t"].concat();
        let tensor = |n: usize| {
            let class = global("torch", "FloatStorage");
            let storage = [b"(\x8c\x07storage".as_slice(), &class, b"\x8c\x010\x8c\x03cpuK\x01tQ"].concat();
            let arguments = [b"(".as_slice(), &storage, b"K\0", &shape(n), &shape(n), b"t"].concat();
            read(&[global("torch._utils", "_rebuild_tensor_v2").as_slice(), &arguments, b"R."].concat())
        };
        assert!(matches!(tensor(64).unwrap().root(), Object::Tensor(_)));
        assert!(tensor(65).err().unwrap().contains("65 dimensions"));
    }
}
