//! From the flags of an objective to the objective.
use mixce_core::ObjectiveConfig;

use super::{ObjectiveKind, TrainConfig};

/// The paper's choice on WikiText.
const DEFAULT_ETA: f64 = 0.1;
/// EMO's default mixing ratio.
const DEFAULT_TVD_RATIO: f64 = 0.5;
/// TaiLr's setting on WritingPrompts.
const DEFAULT_GAMMA: f64 = 1e-7;
/// As above.
const DEFAULT_MIN_WEIGHT: f64 = 0.2;
/// Mild sharpening for the alpha family.
const DEFAULT_ALPHA: f64 = 0.2;
/// TrSFT's threshold in the MixCE author's study.
const DEFAULT_TRSFT_ALPHA: f64 = 0.05;

impl TrainConfig {
    /// The same configuration with the objective's parameters spelt out where they were left to their defaults: `eta` 0.1 for MixCE and 0.5 for
    /// `tvd`, `gamma` 1e-7 and `min_weight` 0.2 for TaiLr, `alpha` 0.2 for the alpha family and 0.05 for TrSFT.
    #[must_use]
    pub fn resolved(&self) -> Self {
        let mut config = self.clone();
        match config.objective {
            ObjectiveKind::Mle | ObjectiveKind::Dft => {}
            ObjectiveKind::Mixce => config.eta = config.eta.or(Some(DEFAULT_ETA)),
            ObjectiveKind::Tvd => config.eta = config.eta.or(Some(DEFAULT_TVD_RATIO)),
            ObjectiveKind::Tailr => {
                config.gamma = config.gamma.or(Some(DEFAULT_GAMMA));
                config.min_weight = config.min_weight.or(Some(DEFAULT_MIN_WEIGHT));
            }
            ObjectiveKind::Alpha => config.alpha = config.alpha.or(Some(DEFAULT_ALPHA)),
            ObjectiveKind::Trsft => config.alpha = config.alpha.or(Some(DEFAULT_TRSFT_ALPHA)),
        }
        config
    }

    /// The objective that the settings describe; [`ObjectiveConfig::build`] checks its parameters.
    #[must_use]
    pub fn objective_config(&self) -> ObjectiveConfig {
        let config = self.resolved();
        let (eta, alpha) = (config.eta.unwrap_or(f64::NAN), config.alpha.unwrap_or(f64::NAN));
        match config.objective {
            ObjectiveKind::Mle => ObjectiveConfig::Mle {},
            ObjectiveKind::Dft => ObjectiveConfig::Dft {},
            ObjectiveKind::Mixce => ObjectiveConfig::Mixce { eta },
            ObjectiveKind::Tvd => ObjectiveConfig::Tvd { ratio: eta },
            ObjectiveKind::Tailr => ObjectiveConfig::Tailr {
                gamma: config.gamma.unwrap_or(f64::NAN),
                min_weight: config.min_weight.unwrap_or(f64::NAN),
            },
            ObjectiveKind::Alpha => ObjectiveConfig::Alpha { alpha },
            ObjectiveKind::Trsft => ObjectiveConfig::Trsft { alpha },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_defaults_that_build_under_its_own_name() {
        use ObjectiveKind::{Alpha, Dft, Mixce, Mle, Tailr, Trsft, Tvd};
        for objective in [Mle, Mixce, Tailr, Dft, Alpha, Trsft, Tvd] {
            let config = TrainConfig { objective, ..TrainConfig::default() };
            config.resolved().validate_settings().unwrap();
            assert_eq!(config.objective_config().build().unwrap().name(), objective.to_string());
        }
    }

    #[test]
    fn the_default_is_the_papers() {
        assert_eq!(TrainConfig::default().objective_config(), ObjectiveConfig::default());
        let given = TrainConfig { eta: Some(0.7), ..TrainConfig::default() };
        assert_eq!(given.objective_config(), ObjectiveConfig::Mixce { eta: 0.7 });
    }

    #[test]
    fn parameters_out_of_range_are_refused() {
        let config = TrainConfig { eta: Some(1.5), ..TrainConfig::default() };
        let error = config.validate_settings().unwrap_err().to_string();
        assert!(error.contains("`eta`") && error.contains("1.5"), "{error}");
    }
}
