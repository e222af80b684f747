//! As much of Python's pickle language as PyTorch needs for a dictionary of tensors.
//!
//! Nothing is ever executed: the few functions that rebuild tensors are recognised by name, everything else becomes
//! [`Object::Opaque`]. (candle's own reader panics on damaged files, prints to stderr and knows the zip format only.)
//!
//! Objects live in one arena and refer to each other by index, so that each instruction adds at most one object and a small file
//! cannot blow up; texts are shared, and the number of instructions bounds objects, marks, memo and stack. Sources: `torch/_utils.py` and
//! `torch/serialization.py` of PyTorch.

use std::io::Read;
use std::rc::Rc;

use super::tensor::WeightType;

mod input;
mod machine;
mod rebuild;

pub(super) use input::Input;
use machine::Machine;

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
