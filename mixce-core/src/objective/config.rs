//! Choosing an objective by name and parameters.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Alpha, Dft, MixCe, Mle, Objective, TaiLr, TrSft, Tvd};
use crate::Result;

/// An objective as written in a configuration file; [`ObjectiveConfig::build`] checks the parameters.
///
/// ```
/// use mixce_core::ObjectiveConfig;
/// let config: ObjectiveConfig = serde_json::from_str(r#"{"name": "mixce", "eta": 0.1}"#)?;
/// assert_eq!(config.build()?.name(), "mixce");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "kebab-case", deny_unknown_fields)]
pub enum ObjectiveConfig {
    /// [`Mle`].
    Mle {},
    /// [`MixCe`].
    Mixce {
        /// Share of the forward cross-entropy, in `[0, 1]`.
        eta: f64,
    },
    /// [`TaiLr`].
    Tailr {
        /// Proxy weight, in `[0, 1]`.
        gamma: f64,
        /// Lower clamp of the weight, in `[0, 1]`.
        #[serde(default)]
        min_weight: f64,
    },
    /// [`Dft`].
    Dft {},
    /// [`Alpha`].
    Alpha {
        /// Exponent, in `[0, 1]`.
        alpha: f64,
    },
    /// [`TrSft`].
    Trsft {
        /// Threshold, in `(0, 1]`.
        alpha: f64,
    },
    /// [`Tvd`].
    Tvd {
        /// Mixing ratio, in `[0, 1]`.
        ratio: f64,
    },
}

impl ObjectiveConfig {
    /// Checks the parameters and makes the objective.
    ///
    /// # Errors
    /// When a parameter is out of range.
    pub fn build(&self) -> Result<Arc<dyn Objective>> {
        Ok(match *self {
            Self::Mle {} => Arc::new(Mle),
            Self::Mixce { eta } => Arc::new(MixCe::new(eta)?),
            Self::Tailr { gamma, min_weight } => Arc::new(TaiLr::new(gamma, min_weight)?),
            Self::Dft {} => Arc::new(Dft),
            Self::Alpha { alpha } => Arc::new(Alpha::new(alpha)?),
            Self::Trsft { alpha } => Arc::new(TrSft::new(alpha)?),
            Self::Tvd { ratio } => Arc::new(Tvd::new(ratio)?),
        })
    }
}

impl Default for ObjectiveConfig {
    /// MixCE with `eta = 0.1`, the ratio that the paper's authors chose on WikiText.
    fn default() -> Self {
        Self::Mixce { eta: 0.1 }
    }
}
