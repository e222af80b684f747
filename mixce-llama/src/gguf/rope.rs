//! The rotary embedding of a GGUF file: linear scaling from its metadata, Llama 3's from the factors that it stores.

use std::f64::consts::TAU;

use mixce_lm::checkpoint::gguf::Gguf;
use mixce_lm::{Error, Result};
use serde_json::{Value, json};

use super::Keys;

/// What each of the D / 2 frequencies is divided by. The converter computes it from Llama 3's scaling, which it does not store.
pub(super) const FACTORS: &str = "rope_freqs.weight";

/// The rotated channels of a head.
pub(super) const DIMENSIONS: &str = "rope.dimension_count";

const BASE: &str = "rope.freq_base";
const SCALING: &str = "rope.scaling.type";
const FACTOR: &str = "rope.scaling.factor";
/// The name of the factor in files from before scaling had a type.
const OLD_FACTOR: &str = "rope.scale_linear";

/// Keys behind the architecture's name that are read, or say nothing where the others are as required.
pub(super) const KEYS: [&str; 7] = [
    DIMENSIONS,
    BASE,
    SCALING,
    FACTOR,
    OLD_FACTOR,
    "rope.scaling.original_context_length",
    "rope.scaling.finetuned",
];

/// llama.cpp's default of the base.
const DEFAULT_BASE: f64 = 10_000.0;

/// How far a stored factor, an f32, may lie from the one that the parameters give.
const TOLERANCE: f64 = 1e-5;

/// Llama 3's `high_freq_factor`, in every published model.
const PUBLISHED_HIGH: f64 = 4.0;

/// `rope_parameters` of a `config.json`.
pub(super) fn parameters(gguf: &Gguf, keys: &Keys<'_>, head_dim: u64) -> Result<Value> {
    let number = |key: &str| keys.metadata.get::<f64>(&keys.name(key));
    let theta = number(BASE)?.unwrap_or(DEFAULT_BASE);
    let factor = number(FACTOR)?.or(number(OLD_FACTOR)?);
    let named = keys.metadata.get::<String>(&keys.name(SCALING))?;
    let scaled = factor.filter(|factor| *factor != 0.0 && *factor != 1.0);
    let linear = match (named.as_deref(), scaled) {
        (Some("none"), _) => None,
        (Some("linear") | None, factor) => factor,
        (Some(other), _) => {
            let reason = "known are `none`, `linear` and Llama 3's, which has no name";
            return Err(keys.metadata.unsupported(&keys.name(SCALING), other, reason));
        }
    };
    let stored = gguf.tensor(FACTORS).map(|tensor| tensor.read_f32()).transpose()?;
    let plain = json!({"rope_type": "default", "rope_theta": theta});
    match (stored, linear) {
        (None, None) => Ok(plain),
        (None, Some(factor)) => Ok(json!({"rope_type": "linear", "rope_theta": theta, "factor": factor})),
        (Some(_), Some(factor)) => {
            let reason = format!("the file has `{FACTORS}` too, and only one of them is applied");
            Err(keys.metadata.unsupported(&keys.name(SCALING), format!("linear by {factor}"), reason))
        }
        (Some(stored), None) => {
            let stored: Vec<f64> = stored.into_iter().map(f64::from).collect();
            if stored.iter().all(|factor| *factor == 1.0) {
                return Ok(plain);
            }
            let fitted = fit(&stored, theta, head_dim).ok_or_else(|| {
                let problem = format!(
                    "tensor `{FACTORS}` is no scaling of Llama 3's kind for {head_dim} channels a head"
                );
                Error::malformed(keys.metadata.path(), problem)
            })?;
            Ok(json!({
                "rope_type": "llama3",
                "rope_theta": theta,
                "factor": fitted.factor,
                "low_freq_factor": LOW,
                "high_freq_factor": fitted.high,
                "original_max_position_embeddings": fitted.original,
            }))
        }
    }
}

/// `low_freq_factor`. The three other numbers are relative to it: twice all of `low`, `high` and the original length are the same scaling.
const LOW: f64 = 1.0;

/// The parameters of Llama 3's scaling.
#[derive(Debug, PartialEq)]
struct Llama3 {
    factor: f64,
    high: f64,
    original: u64,
}

impl Llama3 {
    /// What a frequency with this wavelength in tokens is divided by (`generate_extra_tensors` of `LlamaModel`).
    fn divisor(&self, wavelength: f64) -> f64 {
        let waves = self.original as f64 / wavelength;
        let share = ((waves - LOW) / (self.high - LOW)).clamp(0.0, 1.0);
        1.0 / ((1.0 - share) / self.factor + share)
    }
}

/// The parameters that give these divisors of the frequencies, if any do.
fn fit(stored: &[f64], theta: f64, head_dim: u64) -> Option<Llama3> {
    if stored.len() as u64 != head_dim / 2
        || stored.iter().any(|divisor| !divisor.is_finite() || *divisor < 1.0)
    {
        return None;
    }
    let factor = stored.iter().copied().fold(1.0, f64::max);
    let wavelength = |i: usize| TAU * theta.powf(2.0 * i as f64 / head_dim as f64);
    // Between the ends, a frequency's share of being kept is a line in the waves per token, of which two points are enough.
    let between: Vec<(f64, f64)> = (0..stored.len())
        .filter(|&i| stored[i] > 1.0 + TOLERANCE && stored[i] < factor * (1.0 - TOLERANCE))
        .map(|i| (wavelength(i), (1.0 / stored[i] - 1.0 / factor) / (1.0 - 1.0 / factor)))
        .collect();
    let original = |high: f64| match between.first() {
        Some(&(wavelength, share)) => wavelength * (LOW + share * (high - LOW)),
        // No frequency lies between: the shortest wave that is divided is just too long.
        None => (0..stored.len()).find(|&i| stored[i] > 1.0).map_or(0.0, wavelength).floor(),
    };
    let through_two = match (between.first(), between.last()) {
        (Some(&(w0, s0)), Some(&(w1, s1))) if w0 < w1 => {
            let slope = (s0 - s1) / (1.0 / w0 - 1.0 / w1);
            Some(LOW + LOW / (slope / w0 - s0))
        }
        _ => None,
    };
    let candidates = [Some(PUBLISHED_HIGH), through_two].into_iter().flatten();
    let mut fits = candidates.map(|high| {
        let high = (high * 1e3).round() / 1e3;
        Llama3 { factor, high, original: original(high).round() as u64 }
    });
    fits.find(|fit| {
        let close = |i: usize| (fit.divisor(wavelength(i)) - stored[i]).abs() <= TOLERANCE * stored[i];
        fit.high > LOW && fit.original > 0 && (0..stored.len()).all(close)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the converter computes and stores them.
    fn stored(scaling: &Llama3, theta: f64, head_dim: u64) -> Vec<f64> {
        let wavelengths = (0..head_dim / 2).map(|i| TAU * theta.powf(2.0 * i as f64 / head_dim as f64));
        wavelengths.map(|wavelength| f64::from(scaling.divisor(wavelength) as f32)).collect()
    }

    #[test]
    fn the_parameters_are_found_from_the_factors() {
        for (factor, high, original, theta, head_dim) in [
            // Llama 3.1 8B, Llama 3.2 1B, other numbers, and too few channels for more than one frequency between.
            (8.0, 4.0, 8192, 500_000.0, 128),
            (32.0, 4.0, 8192, 500_000.0, 64),
            (16.0, 2.5, 4096, 10_000.0, 128),
            (8.0, 4.0, 64, 10_000.0, 8),
        ] {
            let scaling = Llama3 { factor, high, original };
            assert_eq!(fit(&stored(&scaling, theta, head_dim), theta, head_dim), Some(scaling));
        }
    }

    #[test]
    fn a_scaling_without_frequencies_between_is_found_as_any_that_does_the_same() {
        // Wavelengths of 6 and 628 tokens.
        let found = fit(&[1.0, 8.0], 10_000.0, 4).unwrap();
        assert_eq!((found.divisor(TAU), found.divisor(100.0 * TAU)), (1.0, 8.0));
    }

    #[test]
    fn factors_of_another_kind_are_not_fitted() {
        let scaling = Llama3 { factor: 8.0, high: 4.0, original: 8192 };
        let mut other = stored(&scaling, 500_000.0, 64);
        assert_eq!(fit(&other, 500_000.0, 128), None);
        assert_eq!(fit(&other, 10_000.0, 64), None);
        other[3] = 2.0;
        assert_eq!(fit(&other, 500_000.0, 64), None);
        other[3] = f64::NAN;
        assert_eq!(fit(&other, 500_000.0, 64), None);
    }
}
