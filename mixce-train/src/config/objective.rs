//! The objective of a run: its name, and its parameters, given with the name or as separate keys.
use mixce_core::ObjectiveConfig;
use mixce_core::objective::{OBJECTIVES, ObjectiveSpec, ParameterSpec};

use super::TrainConfig;
use crate::error::{Error, Result};

impl TrainConfig {
    /// The parameters that have their own key, and its value.
    fn short_forms(&self) -> [(&'static str, Option<f64>); 4] {
        [("eta", self.eta), ("gamma", self.gamma), ("min_weight", self.min_weight), ("alpha", self.alpha)]
    }

    /// The key of a parameter, if it has one.
    fn short_form_mut(&mut self, parameter: &ParameterSpec) -> Option<&mut Option<f64>> {
        match parameter.name {
            "eta" => Some(&mut self.eta),
            "gamma" => Some(&mut self.gamma),
            "min_weight" => Some(&mut self.min_weight),
            "alpha" => Some(&mut self.alpha),
            _ => None,
        }
    }

    /// Replaces the objective; parameters given with its name override their keys.
    pub fn set_objective(&mut self, objective: ObjectiveConfig) {
        for (parameter, _) in objective.given().filter(|(_, given)| given.is_some()) {
            if let Some(key) = self.short_form_mut(parameter) {
                *key = None;
            }
        }
        self.objective = objective;
    }

    /// The objective with both kinds of parameters; [`ObjectiveConfig::build`] checks them.
    #[must_use]
    pub fn objective_config(&self) -> ObjectiveConfig {
        let short_forms = self.short_forms();
        let key = |parameter: &ParameterSpec| {
            short_forms.iter().find(|(name, _)| *name == parameter.name).and_then(|(_, value)| *value)
        };
        self.objective.map(|parameter, given| given.or_else(|| key(parameter)))
    }

    /// The same configuration with all parameters of the objective explicit: as keys where they have one, else with the name, so that
    /// equivalent configurations are equal however they were written.
    #[must_use]
    pub fn resolved(&self) -> Self {
        let mut config = self.clone();
        config.objective = self.objective_config().map(|parameter, given| {
            let value = Some(given.unwrap_or(parameter.default));
            match config.short_form_mut(parameter) {
                Some(key) => {
                    *key = value;
                    None
                }
                None => value,
            }
        });
        config
    }

    /// Moves parameters given with the name to their keys. A parameter given both ways is left, and refused by
    /// [`Self::validate_objective`].
    pub(super) fn with_objective_as_keys(mut self) -> Self {
        self.objective = self.objective.clone().map(|parameter, given| {
            match self.short_form_mut(parameter).filter(|key| key.is_none()) {
                Some(key) => {
                    *key = given;
                    None
                }
                None => given,
            }
        });
        self
    }

    pub(super) fn validate_objective(&self) -> Result<()> {
        let spec = self.objective.spec();
        for (name, value) in self.short_forms() {
            let Some(value) = value else { continue };
            match self.objective.given().find(|(parameter, _)| parameter.name == name) {
                Some((_, None)) => {}
                Some((_, Some(other))) => {
                    return Err(Error::config(format!(
                        "`config.{name} = {value}` and `config.objective = {}:{name}={other}` set the same parameter: give only one",
                        spec.name
                    )));
                }
                None => return Err(without_meaning(name, value, spec)),
            }
        }
        self.objective_config().build()?;
        Ok(())
    }
}

/// A parameter that the objective does not have.
fn without_meaning(name: &str, value: f64, spec: &ObjectiveSpec) -> Error {
    let known: Vec<_> = spec.parameters.iter().map(|parameter| format!("`{}`", parameter.name)).collect();
    let known = if known.is_empty() { "no parameter".to_owned() } else { known.join(", ") };
    let owners = OBJECTIVES.iter().filter(|owner| owner.parameter(name).is_ok());
    let owners: Vec<_> = owners.map(|owner| format!("`config.objective = {}`", owner.name)).collect();
    Error::Config {
        message: format!(
            "`config.{name} = {value}` does not apply to `config.objective = {}`, which has {known}",
            spec.name
        ),
        hint: Some(format!("it belongs to {}", owners.join(" and "))),
    }
}

#[cfg(test)]
mod tests {
    use mixce_base::Hint as _;

    use super::*;

    fn with(objective: &str) -> TrainConfig {
        TrainConfig { objective: objective.parse().unwrap(), ..TrainConfig::default() }
    }

    fn parse(toml: &str) -> TrainConfig {
        TrainConfig::from_toml_str(toml, "run.toml".as_ref()).unwrap()
    }

    fn refusal(config: &TrainConfig) -> (String, Option<String>) {
        let error = config.validate_settings().unwrap_err();
        (error.to_string(), error.hint())
    }

    #[test]
    fn every_objective_has_defaults_that_are_valid() {
        for spec in OBJECTIVES {
            let config = with(spec.name).resolved();
            config.validate_settings().unwrap();
            assert_eq!(config.objective_config().build().unwrap().name(), spec.name);
            assert_eq!(config.resolved(), config);
            assert!(config.objective_config().given().all(|(_, given)| given.is_some()), "{config:?}");
        }
    }

    #[test]
    fn the_default_is_the_papers() {
        let config = TrainConfig::default().resolved();
        assert_eq!((config.objective.to_string().as_str(), config.eta), ("mixce", Some(0.1)));
        let given = TrainConfig { eta: Some(0.7), ..TrainConfig::default() };
        assert_eq!(given.objective_config(), "mixce:eta=0.7".parse().unwrap());
    }

    #[test]
    fn all_ways_to_write_an_objective_are_one_configuration() {
        let keys = parse("objective = \"tailr\"\ngamma = 0.1\n");
        for other in [
            "objective = \"tailr:gamma=0.1\"",
            "[objective]\nname = \"tailr\"\ngamma = 0.1",
            "gamma = 0.1\n[objective]\nname = \"tailr\"",
        ] {
            assert_eq!(parse(other), keys);
        }
        let resolved = keys.resolved();
        assert_eq!((resolved.gamma, resolved.min_weight), (Some(0.1), Some(0.2)));
        assert_eq!(with("tailr:gamma=0.1,min_weight=0.2").resolved(), resolved);
        assert_eq!(parse(&resolved.to_toml().unwrap()), resolved);
    }

    #[test]
    fn an_objective_with_parameters_overrules_keys() {
        let mut config = TrainConfig { eta: Some(0.5), ..TrainConfig::default() };
        config.set_objective("mixce:eta=0.3".parse().unwrap());
        config.validate_settings().unwrap();
        assert_eq!(config.resolved().eta, Some(0.3));
        let mut config = TrainConfig { eta: Some(0.5), ..TrainConfig::default() };
        config.set_objective("tvd".parse().unwrap());
        assert_eq!(config.resolved().eta, Some(0.5));
    }

    #[test]
    fn a_parameter_is_given_once_and_belongs_to_the_objective() {
        let (error, _) = refusal(&TrainConfig { eta: Some(0.5), ..with("mixce:eta=0.3") });
        assert_eq!(
            error,
            "`config.eta = 0.5` and `config.objective = mixce:eta=0.3` set the same parameter: give only one"
        );
        let file = parse("objective = \"mixce:eta=0.3\"\neta = 0.5\n");
        assert_eq!(refusal(&file).0, error);

        let (error, hint) = refusal(&TrainConfig { min_weight: Some(1e-3), ..with("mixce") });
        assert_eq!(
            error,
            "`config.min_weight = 0.001` does not apply to `config.objective = mixce`, which has `eta`"
        );
        assert_eq!(hint.unwrap(), "it belongs to `config.objective = tailr`");
        let (error, hint) = refusal(&TrainConfig { alpha: Some(0.5), ..with("mle") });
        assert_eq!(
            error,
            "`config.alpha = 0.5` does not apply to `config.objective = mle`, which has no parameter"
        );
        assert_eq!(hint.unwrap(), "it belongs to `config.objective = alpha` and `config.objective = trsft`");
    }

    #[test]
    fn parameters_out_of_range_are_refused() {
        for config in [TrainConfig { eta: Some(1.5), ..TrainConfig::default() }, with("mixce:eta=1.5")] {
            assert_eq!(refusal(&config).0, "`eta` of objective `mixce` must be in [0, 1], got 1.5");
        }
    }
}
