//! The error type of this crate.

use mixce_base::Hint;

use crate::objective::{OBJECTIVES, ParameterSpec, short};

/// The errors of this crate.
#[expect(missing_docs, reason = "the messages say what such fields are")]
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No objective of this name is registered.
    #[error("unknown objective `{name}`: expected one of {}", listed(OBJECTIVES.iter().map(|spec| spec.name)))]
    UnknownObjective { name: String },
    /// The objective has no such parameter.
    #[error("objective `{objective}` has no parameter `{parameter}`: {}", having(known))]
    UnknownParameter { objective: &'static str, parameter: String, known: &'static [ParameterSpec] },
    /// The objective's name is followed by something other than `parameter=number`.
    #[error("objective `{objective}`: expected `parameter=number`, got `{got}`")]
    BadAssignment { objective: &'static str, got: String },
    /// Two values for one parameter.
    #[error("`{parameter}` of objective `{objective}` is given twice")]
    GivenTwice { objective: &'static str, parameter: &'static str },
    /// A parameter is outside its range.
    #[error("`{}` of objective `{objective}` must be in {}, got {}", parameter.name, parameter.range, short(*value))]
    OutOfRange { objective: &'static str, parameter: ParameterSpec, value: f64 },
    /// Tensors with mismatched shapes or dtypes.
    #[error("{operation}: expected {expected}, got {got}")]
    Mismatch { operation: &'static str, expected: String, got: String },
    /// A tensor operation failed.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

impl Hint for Error {
    fn hint(&self) -> Option<String> {
        match self {
            Self::OutOfRange { parameter, .. } => {
                Some(format!("`{}` is the {}", parameter.name, parameter.help))
            }
            Self::BadAssignment { objective, .. } => {
                let spec = OBJECTIVES.iter().find(|spec| spec.name == *objective)?;
                let example = spec.parameters.first().map(|p| format!(":{}={}", p.name, short(p.default)));
                Some(format!("write `{objective}{}`", example.unwrap_or_default()))
            }
            _ => None,
        }
    }
}

/// Lists the parameters.
fn having(known: &[ParameterSpec]) -> String {
    match known {
        [] => "it has none".to_owned(),
        _ => format!("it has {}", listed(known.iter().map(|parameter| parameter.name))),
    }
}

fn listed<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;
