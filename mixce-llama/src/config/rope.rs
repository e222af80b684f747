//! The rotary embedding's frequencies (Su et al., 2021, RoFormer) and how they are scaled for longer texts.

use std::f64::consts::TAU;

use mixce_lm::Result;
use mixce_lm::config::keys::{unsupported, wrong};
use serde_json::{Map, Value, json};

/// A rotary embedding.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rope {
    /// The base of the frequencies (`rope_theta`).
    pub theta: f64,
    /// What is done to them.
    pub scaling: RopeScaling,
}

/// The `rope_type` of transformers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RopeScaling {
    /// `default`: nothing.
    None,
    /// `linear`: every frequency divided by the factor.
    Linear {
        /// The factor.
        factor: f64,
    },
    /// `llama3`: low frequencies divided by the factor, those between interpolated.
    Llama3 {
        /// The factor.
        factor: f64,
        /// Wavelengths above `original_max_position_embeddings / low_freq_factor` tokens are divided.
        low_freq_factor: f64,
        /// Wavelengths below `original_max_position_embeddings / high_freq_factor` tokens stay.
        high_freq_factor: f64,
        /// The longest text of pretraining, in tokens.
        original_max_position_embeddings: usize,
    },
}

/// transformers' default of `rope_theta`.
const THETA: f64 = 10_000.0;

impl Rope {
    /// The D / 2 inverse frequencies `f_i`, in radians a token:
    ///
    /// ```text
    /// f_i = theta^(-2 i / D)                                    default
    ///       theta^(-2 i / D) / factor                           linear
    /// ```
    ///
    /// and for llama3, with the wavelength `w = 2 pi / f`, `T` the original longest text, `low` and `high` the factors and
    /// `s = (T / w - low) / (high - low)`:
    ///
    /// ```text
    /// f                                 w < T / high
    /// f / factor                        w > T / low
    /// (1 - s) f / factor + s f          between
    /// ```
    ///
    /// Source: `modeling_rope_utils.py` of transformers 5.23.
    #[must_use]
    pub fn inverse_frequencies(&self, head_dim: usize) -> Vec<f64> {
        let plain = (0..head_dim / 2).map(|i| self.theta.powf(-2.0 * i as f64 / head_dim as f64));
        plain.map(|frequency| self.scaling.apply(frequency)).collect()
    }

    /// Refuses numbers that make no frequencies.
    ///
    /// # Errors
    /// The first of them.
    pub(super) fn validate(&self) -> Result<()> {
        let numbers = match self.scaling {
            RopeScaling::None => vec![],
            RopeScaling::Linear { factor } => vec![("rope_parameters.factor", factor)],
            RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings,
            } => {
                if high_freq_factor <= low_freq_factor {
                    let expected = format!("greater than `low_freq_factor` ({low_freq_factor})");
                    return Err(wrong("rope_parameters.high_freq_factor", expected, high_freq_factor));
                }
                vec![
                    ("rope_parameters.factor", factor),
                    ("rope_parameters.low_freq_factor", low_freq_factor),
                    (
                        "rope_parameters.original_max_position_embeddings",
                        original_max_position_embeddings as f64,
                    ),
                ]
            }
        };
        for (key, x) in [("rope_theta", self.theta)].into_iter().chain(numbers) {
            if !(x.is_finite() && x > 0.0) {
                return Err(wrong(key, "a positive number", x));
            }
        }
        Ok(())
    }

    /// Takes the keys of the rotary embedding out of `object`: `rope_parameters`, or the older `rope_scaling`, `rope_theta` and
    /// `original_max_position_embeddings`, which count as in transformers.
    ///
    /// # Errors
    /// When a value is of the wrong kind, a key is missing, or one asks for what there is not.
    pub(super) fn take(object: &mut Map<String, Value>, positions: usize) -> Result<Self> {
        let (scaling, parameters) = (object.remove("rope_scaling"), object.remove("rope_parameters"));
        // What counts is `rope_scaling`, unless it is empty.
        let filled = |value: &Value| !(value.is_null() || value.as_object().is_some_and(Map::is_empty));
        let (key, value) = match scaling.filter(filled) {
            Some(value) => ("rope_scaling", value),
            None => ("rope_parameters", parameters.filter(filled).unwrap_or_else(|| json!({}))),
        };
        let Value::Object(values) = value else { return Err(wrong(key, "an object or null", value)) };
        let mut values = Values { key, values };
        let theta = object.remove("rope_theta").filter(|value| !value.is_null());
        let theta = match (values.number("rope_theta")?, theta) {
            (Some(theta), _) => theta,
            (None, Some(value)) => value.as_f64().ok_or_else(|| wrong("rope_theta", "a number", value))?,
            (None, None) => THETA,
        };
        for (name, factor) in [
            ("partial_rotary_factor".to_owned(), object.remove("partial_rotary_factor")),
            (format!("{key}.partial_rotary_factor"), values.values.remove("partial_rotary_factor")),
        ] {
            if let Some(value) = factor.filter(|value| !value.is_null() && value.as_f64() != Some(1.0)) {
                return Err(unsupported(&name, &value, "all channels of a head are rotated"));
            }
        }
        let old = values.values.remove("type");
        let kind = values.values.remove("rope_type").or(old).unwrap_or_else(|| json!("default"));
        let scaling = match kind.as_str() {
            Some("default") => RopeScaling::None,
            Some("linear") => RopeScaling::Linear { factor: values.required("factor")? },
            Some("llama3") => {
                let outer = object.remove("original_max_position_embeddings");
                let inner = values.values.remove("original_max_position_embeddings");
                let original = outer.or(inner).unwrap_or_else(|| json!(positions));
                let name = format!("{key}.original_max_position_embeddings");
                RopeScaling::Llama3 {
                    factor: values.required("factor")?,
                    low_freq_factor: values.required("low_freq_factor")?,
                    high_freq_factor: values.required("high_freq_factor")?,
                    original_max_position_embeddings: original
                        .as_u64()
                        .and_then(|n| usize::try_from(n).ok())
                        .ok_or_else(|| wrong(&name, "a positive integer", original))?,
                }
            }
            _ => {
                let name = format!("{key}.rope_type");
                return Err(unsupported(&name, &kind, "known are `default`, `linear` and `llama3`"));
            }
        };
        match values.values.iter().next() {
            Some((name, value)) => {
                Err(unsupported(&format!("{key}.{name}"), value, "this `rope_type` has no such parameter"))
            }
            None => Ok(Self { theta, scaling }),
        }
    }

    /// The value of `rope_parameters`.
    pub(super) fn to_value(self) -> Value {
        let theta = self.theta;
        match self.scaling {
            RopeScaling::None => json!({"rope_type": "default", "rope_theta": theta}),
            RopeScaling::Linear { factor } => {
                json!({"rope_type": "linear", "rope_theta": theta, "factor": factor})
            }
            RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings,
            } => {
                json!({
                    "rope_type": "llama3",
                    "rope_theta": theta,
                    "factor": factor,
                    "low_freq_factor": low_freq_factor,
                    "high_freq_factor": high_freq_factor,
                    "original_max_position_embeddings": original_max_position_embeddings,
                })
            }
        }
    }
}

impl RopeScaling {
    fn apply(self, frequency: f64) -> f64 {
        match self {
            Self::None => frequency,
            Self::Linear { factor } => frequency / factor,
            Self::Llama3 {
                factor,
                low_freq_factor: low,
                high_freq_factor: high,
                original_max_position_embeddings,
            } => {
                let waves = original_max_position_embeddings as f64 / (TAU / frequency);
                if waves > high {
                    frequency
                } else if waves < low {
                    frequency / factor
                } else {
                    let smooth = (waves - low) / (high - low);
                    (1.0 - smooth) * frequency / factor + smooth * frequency
                }
            }
        }
    }
}

/// The values inside `rope_parameters` or `rope_scaling`.
struct Values {
    key: &'static str,
    values: Map<String, Value>,
}

impl Values {
    fn number(&mut self, name: &str) -> Result<Option<f64>> {
        let Some(value) = self.values.remove(name).filter(|value| !value.is_null()) else { return Ok(None) };
        let number = value.as_f64();
        number.map(Some).ok_or_else(|| wrong(&format!("{}.{name}", self.key), "a number", value))
    }

    fn required(&mut self, name: &str) -> Result<f64> {
        self.number(name)?.ok_or_else(|| wrong(&format!("{}.{name}", self.key), "a number", "nothing"))
    }
}
