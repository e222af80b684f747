//! The settings of metrics, declared by a metric and set by a user.

use std::collections::BTreeMap;
use std::fmt::Debug;

use crate::error::{Error, Result};

/// A setting, as its metric declares it.
#[derive(Clone, Copy, Debug)]
pub struct Setting<T> {
    /// Unique among all metrics, unless they share the setting: `mauve-seeds`.
    pub name: &'static str,
    /// Placeholder in usage lines: `N`.
    pub value_name: &'static str,
    /// What it does.
    pub help: &'static str,
    /// The value when a user gives none.
    pub default: T,
    /// The valid values, in words.
    pub expected: &'static str,
    /// Parses a value; `None` if it is invalid.
    pub parse: fn(&str) -> Option<T>,
}

/// The types of settings.
pub trait SettingValue: Copy + Debug + Send + Sync + 'static {
    /// As a user types it; `None` for a default that cannot be typed.
    fn text(self) -> Option<String>;
}

impl SettingValue for usize {
    fn text(self) -> Option<String> {
        Some(self.to_string())
    }
}

impl SettingValue for f64 {
    fn text(self) -> Option<String> {
        Some(self.to_string())
    }
}

impl<T: SettingValue> SettingValue for Option<T> {
    fn text(self) -> Option<String> {
        self.and_then(T::text)
    }
}

/// A [`Setting`] of any type.
pub trait SettingSpec: Debug + Send + Sync {
    /// [`Setting::name`].
    fn name(&self) -> &'static str;
    /// [`Setting::value_name`].
    fn value_name(&self) -> &'static str;
    /// [`Setting::help`].
    fn help(&self) -> &'static str;
    /// [`Setting::default`] as a user types it, if that is possible.
    fn default_text(&self) -> Option<String>;
    /// Checks a value.
    ///
    /// # Errors
    /// [`Error::Setting`] if it is invalid.
    fn check(&self, text: &str) -> Result<()>;
}

impl<T: SettingValue> Setting<T> {
    fn value(&self, text: &str) -> Result<T> {
        let refuse = || Error::Setting { name: self.name, expected: self.expected, got: text.to_owned() };
        (self.parse)(text).ok_or_else(refuse)
    }
}

impl<T: SettingValue> SettingSpec for Setting<T> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn value_name(&self) -> &'static str {
        self.value_name
    }

    fn help(&self) -> &'static str {
        self.help
    }

    fn default_text(&self) -> Option<String> {
        self.default.text()
    }

    fn check(&self, text: &str) -> Result<()> {
        self.value(text).map(|_| ())
    }
}

/// The values of all settings, and the seed of the metrics that draw random numbers.
#[derive(Clone, Debug)]
pub struct SettingValues {
    seed: u64,
    chosen: BTreeMap<&'static str, String>,
}

impl SettingValues {
    /// The default of every setting.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { seed, chosen: BTreeMap::new() }
    }

    /// Sets a value.
    ///
    /// # Errors
    /// [`Error::Setting`] if it is invalid.
    pub fn set(&mut self, setting: &dyn SettingSpec, text: &str) -> Result<()> {
        setting.check(text)?;
        self.chosen.insert(setting.name(), text.to_owned());
        Ok(())
    }

    /// The value of a setting, or its default.
    ///
    /// # Errors
    /// [`Error::Setting`] when another setting of the same name accepted a value that is invalid here.
    pub fn get<T: SettingValue>(&self, setting: &Setting<T>) -> Result<T> {
        self.chosen.get(setting.name).map_or(Ok(setting.default), |text| setting.value(text))
    }

    /// The seed given to [`SettingValues::new`].
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.seed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_chosen_by_name_and_checked() {
        let count = Setting {
            name: "buckets",
            value_name: "K",
            help: "",
            default: None,
            expected: "at least 1",
            parse: |text| text.parse().ok().filter(|n: &usize| *n > 0).map(Some),
        };
        let mut values = SettingValues::new(3);
        assert_eq!((values.get(&count).unwrap(), count.default_text(), values.seed()), (None, None, 3));
        values.set(&count, "7").unwrap();
        assert_eq!(values.get(&count).unwrap(), Some(7));
        let error = values.set(&count, "0").unwrap_err();
        assert_eq!(error.to_string(), "setting `buckets` must be at least 1, got `0`");
        assert_eq!(values.get(&count).unwrap(), Some(7));
    }
}
