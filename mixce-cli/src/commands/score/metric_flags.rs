//! The flags generated from the list of metrics: the names under `--metrics`, and the metrics' settings.

use anyhow::Result;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{Arg, ArgMatches, Args, Command, FromArgMatches};
use mixce_eval::metric::{MetricSpec, SettingSpec, SettingValues};
use mixce_eval::{METRICS, metric};

use crate::error::Problem;

/// A metric by its name.
pub(super) fn metric_parser() -> impl TypedValueParser<Value = &'static MetricSpec> {
    let names = METRICS.iter().map(|metric| PossibleValue::new(metric.name).help(metric.summary));
    PossibleValuesParser::new(names).try_map(|name| metric::find(&name).ok_or("no such metric"))
}

/// The settings of all metrics, without duplicates: several metrics may share one.
fn settings() -> Vec<&'static dyn SettingSpec> {
    let mut all: Vec<&'static dyn SettingSpec> = Vec::new();
    for setting in METRICS.iter().flat_map(|metric| metric.settings) {
        if all.iter().all(|known| known.name() != setting.name()) {
            all.push(*setting);
        }
    }
    all
}

/// The values from the command line, defaults included, not yet validated.
#[derive(Debug)]
pub(super) struct SettingFlags(Vec<(&'static dyn SettingSpec, String)>);

impl SettingFlags {
    /// The validated values.
    pub(super) fn values(&self, seed: u64) -> Result<SettingValues> {
        let mut values = SettingValues::new(seed);
        for (setting, text) in &self.0 {
            values.set(*setting, text).map_err(|error| match error {
                mixce_eval::Error::Setting { name, expected, got } => {
                    Problem::new(format!("`--{name}`: expected {expected}, got `{got}`")).into()
                }
                other => anyhow::Error::new(other),
            })?;
        }
        Ok(values)
    }
}

impl Args for SettingFlags {
    fn augment_args(command: Command) -> Command {
        command.args(settings().into_iter().map(|setting| {
            let flag = Arg::new(setting.name()).long(setting.name());
            let flag = flag.value_name(setting.value_name()).help(setting.help());
            match setting.default_text() {
                Some(default) => flag.default_value(default),
                None => flag,
            }
        }))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for SettingFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let value = |setting: &'static dyn SettingSpec| {
            Some((setting, matches.get_one::<String>(setting.name())?.clone()))
        };
        Ok(Self(settings().into_iter().filter_map(value).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
