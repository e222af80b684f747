//! The functions and classes that a pickled state dict refers to, recognised by name. Source: `torch/_utils.py`,
//! `torch/_tensor.py` and `torch/storage.py` of PyTorch 2.

use std::rc::Rc;

use super::machine::Machine;
use super::{Id, MAX_DIMENSIONS, Object, PickledTensor, Problem, Storage};
use crate::checkpoint::tensor::WeightType;

/// Longest name of a storage's class; PyTorch's have up to 20 characters.
const MAX_CLASS_BYTES: usize = 64;

impl Machine {
    fn items(&self, id: Id) -> Result<&[Id], Problem> {
        match &self.objects[id] {
            Object::Tuple(items) | Object::List(items) => Ok(items),
            _ => Err("pickle has no tuple where one is needed".to_owned()),
        }
    }

    fn argument(&self, arguments: &[Id], index: usize) -> Result<&Object, Problem> {
        let id = arguments
            .get(index)
            .ok_or_else(|| "pickle calls a function with too few arguments".to_owned())?;
        Ok(&self.objects[*id])
    }

    /// The result of calling a function by its name.
    pub(super) fn call(&self, function: Id, arguments: Id) -> Result<Object, Problem> {
        let Object::Global(module, name) = &self.objects[function] else { return Ok(Object::Opaque) };
        let items = self.items(arguments)?;
        match (&**module, &**name) {
            ("collections", "OrderedDict" | "defaultdict") => Ok(Object::Dict(Vec::new())),
            ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2") => self.tensor(items),
            ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => {
                match self.argument(items, 0)? {
                    Object::Tensor(tensor) => Ok(Object::Tensor(tensor.clone())),
                    _ => Ok(Object::Opaque),
                }
            }
            ("torch._tensor", "_rebuild_from_type_v2") => match items {
                // Only around a plain tensor: no recursion that a file could drive.
                &[inner, _, arguments, ..] if self.is_rebuild(inner) => self.tensor(self.items(arguments)?),
                _ => Ok(Object::Opaque),
            },
            _ => Ok(Object::Opaque),
        }
    }

    fn is_rebuild(&self, function: Id) -> bool {
        matches!(&self.objects[function], Object::Global(module, name)
            if **module == *"torch._utils" && **name == *"_rebuild_tensor_v2")
    }

    /// `_rebuild_tensor_v2(storage, offset, shape, strides, ...)`.
    fn tensor(&self, arguments: &[Id]) -> Result<Object, Problem> {
        let (Object::Storage(storage), Object::Int(offset)) =
            (self.argument(arguments, 0)?, self.argument(arguments, 1)?)
        else {
            return Ok(Object::Opaque);
        };
        let sizes = |index: usize| -> Result<Vec<usize>, Problem> {
            let &id =
                arguments.get(index).ok_or_else(|| "pickled tensor without shape or strides".to_owned())?;
            let items = self.items(id)?;
            if items.len() > MAX_DIMENSIONS {
                return Err(format!("pickled tensor with {} dimensions", items.len()));
            }
            let sizes = items.iter().map(|&id| match &self.objects[id] {
                Object::Int(size) => usize::try_from(*size).ok(),
                _ => None,
            });
            sizes
                .collect::<Option<Vec<usize>>>()
                .ok_or_else(|| "pickled tensor with a negative size".to_owned())
        };
        let offset =
            u64::try_from(*offset).map_err(|_| "pickled tensor with a negative offset".to_owned())?;
        let (shape, strides) = (sizes(2)?, sizes(3)?);
        if shape.len() != strides.len() {
            return Err("pickled tensor with fewer strides than dimensions".to_owned());
        }
        let storage = (**storage).clone();
        Ok(Object::Tensor(Box::new(PickledTensor { storage, offset, shape, strides })))
    }

    /// `("storage", type, key, location, count[, view])`.
    pub(super) fn storage(&self, id: Id) -> Result<Storage, Problem> {
        let items = self.items(id)?;
        let (Object::Global(_, class), Object::Text(key), Object::Int(count)) =
            (self.argument(items, 1)?, self.argument(items, 2)?, self.argument(items, 4)?)
        else {
            return Err("pickled storage of an unknown form".to_owned());
        };
        if items.get(5).is_some_and(|&view| !matches!(self.objects[view], Object::None)) {
            return Err("pickled storage that is a view of another; save the checkpoint anew".to_owned());
        }
        let dtype = match &**class {
            "DoubleStorage" => WeightType::F64,
            "FloatStorage" => WeightType::F32,
            "HalfStorage" => WeightType::F16,
            "BFloat16Storage" => WeightType::Bf16,
            other if other.len() <= MAX_CLASS_BYTES => WeightType::Other(other.to_owned()),
            _ => return Err("pickled storage of a class with an unreasonable name".to_owned()),
        };
        let count = u64::try_from(*count).map_err(|_| "pickled storage of negative length".to_owned())?;
        Ok(Storage { dtype, key: Rc::clone(key), count })
    }
}
