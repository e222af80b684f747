//! The flags of an objective, generated from the registry.

use std::ffi::OsStr;

use clap::builder::{PossibleValue, StringValueParser, TypedValueParser};
use clap::{Arg, Command};
use mixce_core::ObjectiveConfig;
use mixce_core::objective::{OBJECTIVES, ObjectiveSpec};

/// Parses `NAME` or `NAME:parameter=value,..`; help and shell completion list the names.
#[derive(Clone)]
pub(crate) struct ObjectiveParser;

impl TypedValueParser for ObjectiveParser {
    type Value = ObjectiveConfig;

    fn parse_ref(
        &self,
        command: &Command,
        arg: Option<&Arg>,
        value: &OsStr,
    ) -> Result<ObjectiveConfig, clap::Error> {
        StringValueParser::new()
            .try_map(|text| text.parse::<ObjectiveConfig>())
            .parse_ref(command, arg, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(OBJECTIVES.iter().map(|spec| PossibleValue::new(spec.name).help(described(spec)))))
    }
}

/// The weight, a description and the parameters.
fn described(spec: &ObjectiveSpec) -> String {
    let parameters = spec.parameters.iter().map(|parameter| format!(". {parameter}: {}", parameter.help));
    format!("w = {}; {}{}", spec.weight, spec.summary, parameters.collect::<String>())
}

/// The help of a flag that is a short form of the parameter of this name.
pub(crate) fn short_form_help(name: &str) -> String {
    let owners = OBJECTIVES.iter().filter_map(|spec| Some((spec.name, spec.parameter(name).ok()?)));
    let owners =
        owners.map(|(objective, parameter)| format!("{objective}'s {parameter}: {}", parameter.help));
    owners.collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_is_made_of_the_registry() {
        let names: Vec<_> =
            ObjectiveParser.possible_values().unwrap().map(|v| v.get_name().to_owned()).collect();
        assert!(names.iter().eq(OBJECTIVES.iter().map(|spec| spec.name)));
        let help = described(ObjectiveSpec::named("mixce").unwrap());
        assert!(help.starts_with("w = eta + (1 - eta) q; mixture of forward and reverse"), "{help}");
        assert!(
            help.contains(". `eta` in [0, 1], default 0.1: weight of the forward cross-entropy"),
            "{help}"
        );
        let help = short_form_help("alpha");
        assert_eq!(
            help,
            "alpha's `alpha` in [0, 1], default 0.2: exponent; \
             trsft's `alpha` in (0, 1], default 0.05: probability below which the weight decreases"
        );
    }

    #[test]
    fn every_short_form_belongs_to_an_objective() {
        for name in ["eta", "gamma", "min_weight", "alpha"] {
            assert!(!short_form_help(name).is_empty(), "{name}");
        }
    }
}
