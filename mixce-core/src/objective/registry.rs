//! The registry entry of an objective: its name, its parameters and its constructor.

use std::fmt;
use std::ops::{Bound, RangeBounds as _};
use std::sync::Arc;

use super::{OBJECTIVES, Objective, ObjectiveConfig};
use crate::{Error, Result};

/// An entry of [`OBJECTIVES`]. Names of objectives and parameters are those of command lines and configuration files.
#[derive(Debug)]
pub struct ObjectiveSpec {
    /// The name users type.
    pub name: &'static str,
    /// The formula of the weight `w(q)`, as text.
    pub weight: &'static str,
    /// One line: its origin, and what it equals at the ends of its parameters' ranges.
    pub summary: &'static str,
    /// The parameters; the first is the one to tune.
    pub parameters: &'static [ParameterSpec],
    /// Constructs the objective, using [`ObjectiveConfig::get`] for each parameter.
    pub build: fn(&ObjectiveConfig) -> Result<Arc<dyn Objective>>,
}

impl ObjectiveSpec {
    /// The objective of this name.
    ///
    /// # Errors
    /// [`Error::UnknownObjective`], which lists those that exist.
    pub fn named(name: &str) -> Result<&'static Self> {
        let unknown = || Error::UnknownObjective { name: name.to_owned() };
        OBJECTIVES.iter().find(|spec| spec.name == name).ok_or_else(unknown)
    }

    /// The parameter of this name.
    ///
    /// # Errors
    /// [`Error::UnknownParameter`], which lists those that the objective has.
    pub fn parameter(&self, name: &str) -> Result<&'static ParameterSpec> {
        self.parameters.iter().find(|parameter| parameter.name == name).ok_or_else(|| {
            Error::UnknownParameter {
                objective: self.name,
                parameter: name.to_owned(),
                known: self.parameters,
            }
        })
    }

    /// `value` if it is in the parameter's range.
    pub(super) fn check(&self, parameter: &str, value: f64) -> Result<f64> {
        let parameter = *self.parameter(parameter)?;
        if parameter.range.contains(value) {
            Ok(value)
        } else {
            Err(Error::OutOfRange { objective: self.name, parameter, value })
        }
    }
}

/// Entries are equal if their names are.
impl PartialEq for ObjectiveSpec {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

/// A parameter of an objective.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ParameterSpec {
    /// The name users type.
    pub name: &'static str,
    /// The range of valid values.
    pub range: Range,
    /// The default value.
    pub default: f64,
    /// A short description.
    pub help: &'static str,
}

/// Name, range and default.
impl fmt::Display for ParameterSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` in {}, default {}", self.name, self.range, short(self.default))
    }
}

/// An interval of finite numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Range {
    low: Bound<f64>,
    high: Bound<f64>,
}

impl Range {
    /// `[low, high]`.
    #[must_use]
    pub const fn closed(low: f64, high: f64) -> Self {
        Self { low: Bound::Included(low), high: Bound::Included(high) }
    }

    /// `(low, high]`.
    #[must_use]
    pub const fn left_open(low: f64, high: f64) -> Self {
        Self { low: Bound::Excluded(low), high: Bound::Included(high) }
    }

    /// `[low, high)`.
    #[must_use]
    pub const fn right_open(low: f64, high: f64) -> Self {
        Self { low: Bound::Included(low), high: Bound::Excluded(high) }
    }

    /// `[low, inf)`.
    #[must_use]
    pub const fn at_least(low: f64) -> Self {
        Self { low: Bound::Included(low), high: Bound::Unbounded }
    }

    /// Whether `value` is a number inside.
    #[must_use]
    pub fn contains(&self, value: f64) -> bool {
        value.is_finite() && (self.low, self.high).contains(&value)
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.low {
            Bound::Included(low) => write!(f, "[{low}, ")?,
            Bound::Excluded(low) => write!(f, "({low}, ")?,
            Bound::Unbounded => f.write_str("(-inf, ")?,
        }
        match self.high {
            Bound::Included(high) => write!(f, "{high}]"),
            Bound::Excluded(high) => write!(f, "{high})"),
            Bound::Unbounded => f.write_str("inf)"),
        }
    }
}

/// The shorter of the plain and the scientific notation of a number; both round-trip exactly.
pub(crate) fn short(value: f64) -> String {
    let (plain, scientific) = (value.to_string(), format!("{value:e}"));
    if scientific.len() < plain.len() { scientific } else { plain }
}
