//! Selection of an objective by name and parameters.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Objective, ObjectiveSpec, ParameterSpec, mixce, short};
use crate::{Error, Result};

/// An objective of [`OBJECTIVES`](super::OBJECTIVES) and its explicit parameters; the others have their defaults.
///
/// As text `NAME` or `NAME:parameter=value,..`. In a configuration file it is that text, or a table of `name` and parameters.
/// Values are checked by [`Self::build`].
///
/// ```
/// use mixce_core::ObjectiveConfig;
/// let config: ObjectiveConfig = "tailr:gamma=0.1".parse()?;
/// assert_eq!((config.get("gamma")?, config.get("min_weight")?), (0.1, 0.2));
/// assert_eq!(config.build()?.name(), "tailr");
/// assert_eq!(config.to_string(), "tailr:gamma=0.1");
/// # Ok::<(), mixce_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct ObjectiveConfig {
    spec: &'static ObjectiveSpec,
    /// One entry per parameter of the specification, in its order.
    given: Vec<Option<f64>>,
}

impl ObjectiveConfig {
    /// The objective with the defaults of all its parameters.
    #[must_use]
    pub fn new(spec: &'static ObjectiveSpec) -> Self {
        Self { spec, given: vec![None; spec.parameters.len()] }
    }

    /// The objective of this name with the defaults of all its parameters.
    ///
    /// # Errors
    /// [`Error::UnknownObjective`].
    pub fn named(name: &str) -> Result<Self> {
        ObjectiveSpec::named(name).map(Self::new)
    }

    /// The entry of the registry.
    #[must_use]
    pub fn spec(&self) -> &'static ObjectiveSpec {
        self.spec
    }

    /// Each parameter and its value, if one was given.
    pub fn given(&self) -> impl Iterator<Item = (&'static ParameterSpec, Option<f64>)> {
        self.spec.parameters.iter().zip(self.given.iter().copied())
    }

    /// Each parameter and its value, given or default.
    pub fn parameters(&self) -> impl Iterator<Item = (&'static ParameterSpec, f64)> {
        self.given().map(|(parameter, given)| (parameter, given.unwrap_or(parameter.default)))
    }

    /// The value of a parameter, given or default.
    ///
    /// # Errors
    /// [`Error::UnknownParameter`].
    pub fn get(&self, parameter: &str) -> Result<f64> {
        let known = self.spec.parameter(parameter)?;
        Ok(self
            .parameters()
            .find(|(parameter, _)| *parameter == known)
            .map_or(known.default, |(_, value)| value))
    }

    /// The same objective with `given(parameter, current explicit value)` as the value of each parameter.
    #[must_use]
    pub fn map(&self, mut given: impl FnMut(&'static ParameterSpec, Option<f64>) -> Option<f64>) -> Self {
        Self {
            spec: self.spec,
            given: self.given().map(|(parameter, value)| given(parameter, value)).collect(),
        }
    }

    /// Gives a parameter a value.
    ///
    /// # Errors
    /// [`Error::UnknownParameter`]; [`Error::GivenTwice`] when it already has one.
    pub fn give(&mut self, parameter: &str, value: f64) -> Result<()> {
        let known = self.spec.parameter(parameter)?;
        for (parameter, given) in self.spec.parameters.iter().zip(&mut self.given) {
            if parameter == known && given.replace(value).is_some() {
                return Err(Error::GivenTwice { objective: self.spec.name, parameter: parameter.name });
            }
        }
        Ok(())
    }

    /// Checks the parameters and constructs the objective.
    ///
    /// # Errors
    /// [`Error::OutOfRange`].
    pub fn build(&self) -> Result<Arc<dyn Objective>> {
        (self.spec.build)(self)
    }
}

impl Default for ObjectiveConfig {
    /// MixCE with `eta = 0.1`, the ratio that the paper's authors chose on WikiText.
    fn default() -> Self {
        Self::new(&mixce::SPEC)
    }
}

impl FromStr for ObjectiveConfig {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (name, parameters) = text.split_once(':').map_or((text, None), |(name, rest)| (name, Some(rest)));
        let mut config = Self::named(name)?;
        for assignment in parameters.into_iter().flat_map(|list| list.split(',')) {
            let bad = || Error::BadAssignment { objective: config.spec.name, got: assignment.to_owned() };
            let (parameter, value) = assignment.split_once('=').ok_or_else(bad)?;
            let number = value.trim().parse().map_err(|_| bad())?;
            config.give(parameter.trim(), number)?;
        }
        Ok(config)
    }
}

impl fmt::Display for ObjectiveConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.spec.name)?;
        let given = self.given().filter_map(|(parameter, value)| Some((parameter.name, value?)));
        for (index, (name, value)) in given.enumerate() {
            let mark = if index == 0 { ':' } else { ',' };
            write!(f, "{mark}{name}={}", short(value))?;
        }
        Ok(())
    }
}

impl Serialize for ObjectiveConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ObjectiveConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(
            untagged,
            expecting = "expected an objective, `NAME` or `NAME:parameter=value,..`, or a table of `name` and numbers"
        )]
        enum Written {
            Text(String),
            Table {
                name: String,
                #[serde(flatten)]
                parameters: BTreeMap<String, f64>,
            },
        }
        match Written::deserialize(deserializer)? {
            Written::Text(text) => text.parse().map_err(D::Error::custom),
            Written::Table { name, parameters } => {
                let mut config = Self::named(&name).map_err(D::Error::custom)?;
                for (parameter, value) in parameters {
                    config.give(&parameter, value).map_err(D::Error::custom)?;
                }
                Ok(config)
            }
        }
    }
}
