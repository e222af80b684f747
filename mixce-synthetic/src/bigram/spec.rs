//! Names of objectives and what a cell of the experiment grid is.

use std::fmt;
use std::str::FromStr;

use mixce_core::ObjectiveConfig;
use serde::{Deserialize, Serialize};

use super::estimators::rollouts::Reward;
use super::{Error, Loss, Result, TokenWeight};

/// An objective of the synthetic experiments. Its one parameter is called eta here whatever its own name is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ObjectiveName {
    /// Forward KL, which is maximum likelihood.
    Mle,
    /// Reverse KL with the gold P.
    ReverseKl,
    /// `eta KL(P || Q) + (1 - eta) KL(Q || P)`.
    TwoKls,
    /// Generalised Jensen-Shannon divergence of sequences.
    Js,
    /// `eta CE(P, Q) + (1 - eta) CE(Q, P)` with the gold P (MixCE*).
    MixceStar,
    /// The paper's objective.
    Mixce,
    /// TaiLr; eta is its gamma.
    Tailr,
    /// DFT, MixCE with eta 0; no parameter.
    Dft,
    /// Weight q^alpha; eta is alpha.
    Alpha,
    /// TrSFT; eta is its threshold.
    Trsft,
    /// EMO's TVD baseline; eta is its mixing ratio.
    Tvd,
}

impl ObjectiveName {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Mle,
        Self::ReverseKl,
        Self::TwoKls,
        Self::Js,
        Self::MixceStar,
        Self::Mixce,
        Self::Tailr,
        Self::Dft,
        Self::Alpha,
        Self::Trsft,
        Self::Tvd,
    ];

    /// The name on the command line and in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Mle => "mle",
            Self::ReverseKl => "reverse-kl",
            Self::TwoKls => "two-kls",
            Self::Js => "js",
            Self::MixceStar => "mixce-star",
            Self::Mixce => "mixce",
            Self::Tailr => "tailr",
            Self::Dft => "dft",
            Self::Alpha => "alpha",
            Self::Trsft => "trsft",
            Self::Tvd => "tvd",
        }
    }

    /// The values of eta to run out of those asked for: none for objectives without a parameter (which then run once,
    /// with the value given here), and only where the objective is defined.
    #[must_use]
    pub fn etas(self, asked: &[f64]) -> Vec<f64> {
        match self {
            Self::Mle => vec![1.0],
            Self::ReverseKl | Self::Dft => vec![0.0],
            // At the ends the sequence-level JS is constant.
            Self::Js => asked.iter().copied().filter(|eta| *eta > 0.0 && *eta < 1.0).collect(),
            Self::Trsft => asked.iter().copied().filter(|eta| *eta > 0.0).collect(),
            _ => asked.to_vec(),
        }
    }

    /// The cell that has the same loss and is trained instead: MLE at the ends of the mixtures, reverse KL, DFT.
    #[must_use]
    pub fn canonical(self, eta: f64) -> (Self, f64) {
        match self {
            Self::TwoKls | Self::MixceStar | Self::Mixce if eta == 1.0 => (Self::Mle, 1.0),
            Self::TwoKls if eta == 0.0 => (Self::ReverseKl, 0.0),
            Self::Dft => (Self::Mixce, 0.0),
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
        let other = |config: ObjectiveConfig| {
            let objective = config.build();
            objective
                .map(|objective| Loss::Token(TokenWeight::Other(objective)))
                .map_err(|e| Error::Objective { name: self.as_str().to_owned(), message: e.to_string() })
        };
        Ok(match self {
            Self::Mle => Loss::Token(TokenWeight::One),
            Self::Mixce => Loss::Token(TokenWeight::Mixce(eta)),
            Self::ReverseKl => Loss::Reverse { eta: 0.0, reward: Reward::Kl },
            Self::TwoKls => Loss::Reverse { eta, reward: Reward::Kl },
            Self::MixceStar => Loss::Reverse { eta, reward: Reward::CrossEntropy },
            Self::Js => Loss::Js { eta },
            Self::Tailr => other(ObjectiveConfig::Tailr { gamma: eta, min_weight: 0.0 })?,
            Self::Dft => other(ObjectiveConfig::Dft {})?,
            Self::Alpha => other(ObjectiveConfig::Alpha { alpha: eta })?,
            Self::Trsft => other(ObjectiveConfig::Trsft { alpha: eta })?,
            Self::Tvd => other(ObjectiveConfig::Tvd { ratio: eta })?,
        })
    }
}

impl fmt::Display for ObjectiveName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for ObjectiveName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|name| name.as_str() == text).ok_or_else(|| {
            let names: Vec<&str> = Self::ALL.iter().map(|name| name.as_str()).collect();
            Error::range("objectives", format!("names out of {}", names.join(", ")), format!("`{text}`"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_losses_exist() {
        for name in ObjectiveName::ALL {
            assert_eq!(name.as_str().parse::<ObjectiveName>().unwrap(), name);
            let json = serde_json::to_string(&name).unwrap();
            assert_eq!(json, format!("\"{name}\""));
            for eta in name.etas(&[0.0, 0.5, 1.0]) {
                name.loss(eta).unwrap();
            }
        }
        assert!("mixc".parse::<ObjectiveName>().unwrap_err().to_string().contains("`mixc`"));
        assert!(ObjectiveName::Mixce.loss(1.5).is_err());
        assert!(ObjectiveName::Trsft.loss(0.0).is_err());
    }

    #[test]
    fn ends_of_mixtures_are_trained_once() {
        assert_eq!(ObjectiveName::Mixce.canonical(1.0), (ObjectiveName::Mle, 1.0));
        assert_eq!(ObjectiveName::TwoKls.canonical(0.0), (ObjectiveName::ReverseKl, 0.0));
        assert_eq!(ObjectiveName::MixceStar.canonical(0.0), (ObjectiveName::MixceStar, 0.0));
        assert_eq!(ObjectiveName::Js.etas(&[0.0, 0.5, 1.0]), [0.5]);
        assert_eq!(ObjectiveName::Mle.etas(&[0.1]), [1.0]);
    }
}
