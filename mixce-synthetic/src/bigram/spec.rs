//! Objectives of the synthetic experiments.

use std::fmt;
use std::str::FromStr;

use mixce_core::ObjectiveConfig;
use mixce_core::objective::{OBJECTIVES, ObjectiveSpec};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::estimators::rollouts::Reward;
use super::{Error, Loss, Result, TokenWeight};

/// An objective of the synthetic experiments: one that needs P, or an entry of [`OBJECTIVES`].
///
/// The parameter that is varied is called eta here, whatever its own name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectiveName(&'static str);

impl ObjectiveName {
    /// Forward KL, which is maximum likelihood.
    pub const MLE: Self = Self("mle");
    /// The paper's objective.
    pub const MIXCE: Self = Self("mixce");
    /// DFT, MixCE with eta 0.
    const DFT: Self = Self("dft");
    /// Reverse KL with the gold P.
    pub const REVERSE_KL: Self = Self("reverse-kl");
    /// `eta KL(P || Q) + (1 - eta) KL(Q || P)`.
    pub const TWO_KLS: Self = Self("two-kls");
    /// Generalised Jensen-Shannon divergence of sequences.
    pub const JS: Self = Self("js");
    /// `eta CE(P, Q) + (1 - eta) CE(Q, P)` with the gold P (MixCE*).
    pub const MIXCE_STAR: Self = Self("mixce-star");

    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        let of_p = [Self::MLE, Self::REVERSE_KL, Self::TWO_KLS, Self::JS, Self::MIXCE_STAR];
        let registered = OBJECTIVES.iter().map(|spec| Self(spec.name)).filter(|name| *name != Self::MLE);
        of_p.into_iter().chain(registered)
    }

    /// The name on the command line and in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.0
    }

    /// The entry of the registry, for objectives that need no P.
    fn spec(self) -> Option<&'static ObjectiveSpec> {
        ObjectiveSpec::named(self.0).ok()
    }

    /// Whether it has a parameter to search over.
    #[must_use]
    pub fn has_eta(self) -> bool {
        self != Self::REVERSE_KL && self.spec().is_none_or(|spec| !spec.parameters.is_empty())
    }

    /// The values of eta to run out of the requested ones: none for objectives without a parameter (which then run once,
    /// with the value given here), and of those in `[0, 1]` only where the objective is defined.
    #[must_use]
    pub fn etas(self, asked: &[f64]) -> Vec<f64> {
        if !self.has_eta() {
            return vec![if self == Self::MLE { 1.0 } else { 0.0 }];
        }
        let defined = |eta: f64| match self.spec() {
            // At the ends the sequence-level JS is constant.
            None => self != Self::JS || (eta != 0.0 && eta != 1.0),
            Some(spec) => spec.parameters.first().is_none_or(|parameter| parameter.range.contains(eta)),
        };
        asked.iter().copied().filter(|eta| !(0.0..=1.0).contains(eta) || defined(*eta)).collect()
    }

    /// The cell that has the same loss and is trained instead: MLE at the ends of the mixtures, reverse KL, DFT.
    #[must_use]
    pub fn canonical(self, eta: f64) -> (Self, f64) {
        match self {
            Self::TWO_KLS | Self::MIXCE_STAR | Self::MIXCE if eta == 1.0 => (Self::MLE, 1.0),
            Self::TWO_KLS if eta == 0.0 => (Self::REVERSE_KL, 0.0),
            Self::DFT => (Self::MIXCE, 0.0),
            _ => (self, eta),
        }
    }

    /// The loss.
    ///
    /// # Errors
    /// When eta is out of the objective's range.
    pub fn loss(self, eta: f64) -> Result<Loss> {
        if !(0.0..=1.0).contains(&eta) {
            return Err(Error::range("eta", "a number in [0, 1]", eta));
        }
        Ok(match self {
            Self::MLE => Loss::Token(TokenWeight::One),
            Self::MIXCE => Loss::Token(TokenWeight::Mixce(eta)),
            Self::REVERSE_KL => Loss::Reverse { eta: 0.0, reward: Reward::Kl },
            Self::TWO_KLS => Loss::Reverse { eta, reward: Reward::Kl },
            Self::MIXCE_STAR => Loss::Reverse { eta, reward: Reward::CrossEntropy },
            Self::JS => Loss::Js { eta },
            _ => Loss::Token(TokenWeight::Other(self.config(eta)?.build()?)),
        })
    }

    /// The registered objective with eta for its first parameter. TaiLr is taken without its clamp, so that eta alone decides.
    fn config(self, eta: f64) -> Result<ObjectiveConfig> {
        let config = ObjectiveConfig::named(self.0)?;
        let first = config.spec().parameters.first();
        Ok(config.map(|parameter, _| match parameter.name {
            _ if Some(parameter) == first => Some(eta),
            "min_weight" => Some(0.0),
            _ => None,
        }))
    }
}

impl fmt::Display for ObjectiveName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.0)
    }
}

impl Serialize for ObjectiveName {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0)
    }
}

impl<'de> Deserialize<'de> for ObjectiveName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

impl FromStr for ObjectiveName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::all().find(|name| name.0 == text).ok_or_else(|| {
            let names: Vec<&str> = Self::all().map(|name| name.0).collect();
            Error::range("objectives", format!("names out of {}", names.join(", ")), format!("`{text}`"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_losses_exist() {
        for name in ObjectiveName::all() {
            assert_eq!(name.as_str().parse::<ObjectiveName>().unwrap(), name);
            let json = serde_json::to_string(&name).unwrap();
            assert_eq!(json, format!("\"{name}\""));
            assert_eq!(serde_json::from_str::<ObjectiveName>(&json).unwrap(), name);
            for eta in name.etas(&[0.0, 0.5, 1.0]) {
                name.loss(eta).unwrap();
            }
        }
        assert_eq!(ObjectiveName::all().count(), OBJECTIVES.len() + 4);
        assert!("mixc".parse::<ObjectiveName>().unwrap_err().to_string().contains("`mixc`"));
        assert!(serde_json::from_str::<ObjectiveName>("\"mixc\"").is_err());
        assert!(ObjectiveName::MIXCE.loss(1.5).is_err());
        assert!("trsft".parse::<ObjectiveName>().unwrap().loss(0.0).is_err());
    }

    #[test]
    fn eta_is_the_first_parameter_and_tailr_has_no_clamp() {
        let weight = |name: &str, eta: f64, log_q: f64| {
            let Loss::Token(weight) = name.parse::<ObjectiveName>().unwrap().loss(eta).unwrap() else {
                panic!("not token-weighted")
            };
            f64::from(weight.weight(log_q.exp() as f32))
        };
        assert!((weight("alpha", 0.5, -1.0) - (-0.5f64).exp()).abs() < 1e-6);
        assert!(weight("tailr", 1.0, -20.0) < 1e-8);
    }

    #[test]
    fn ends_of_mixtures_are_trained_once() {
        assert_eq!(ObjectiveName::MIXCE.canonical(1.0), (ObjectiveName::MLE, 1.0));
        assert_eq!(ObjectiveName::TWO_KLS.canonical(0.0), (ObjectiveName::REVERSE_KL, 0.0));
        assert_eq!(ObjectiveName::MIXCE_STAR.canonical(0.0), (ObjectiveName::MIXCE_STAR, 0.0));
        assert_eq!(ObjectiveName::DFT.canonical(0.0), (ObjectiveName::MIXCE, 0.0));
        assert_eq!(ObjectiveName::JS.etas(&[0.0, 0.5, 1.0]), [0.5]);
        assert_eq!(ObjectiveName::MLE.etas(&[0.1]), [1.0]);
        assert_eq!(ObjectiveName::REVERSE_KL.etas(&[0.1]), [0.0]);
        assert_eq!("trsft".parse::<ObjectiveName>().unwrap().etas(&[0.0, 1.0, 7.0]), [1.0, 7.0]);
    }
}
