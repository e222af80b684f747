//! Enumerated settings.
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// How often something happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Every {
    /// At the end of each epoch.
    Epoch,
    /// Every this many optimizer steps.
    Steps(u64),
    /// Only at the end of the run.
    Never,
}

impl Every {
    /// Whether it is due after `steps_done` steps of the run, the last of which may have ended an epoch.
    #[must_use]
    pub fn is_due(&self, steps_done: u64, epoch_ended: bool) -> bool {
        match *self {
            Self::Epoch => epoch_ended,
            Self::Steps(n) => n > 0 && steps_done.is_multiple_of(n),
            Self::Never => false,
        }
    }
}

impl fmt::Display for Every {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Epoch => f.write_str("epoch"),
            Self::Steps(n) => write!(f, "{n}"),
            Self::Never => f.write_str("never"),
        }
    }
}

impl FromStr for Every {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.parse()) {
            ("epoch", _) => Ok(Self::Epoch),
            ("never", _) => Ok(Self::Never),
            (_, Ok(n)) if n > 0 => Ok(Self::Steps(n)),
            _ => Err(format!("expected `epoch`, `never` or a number of steps above 0, got `{text}`")),
        }
    }
}

impl Serialize for Every {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match *self {
            Self::Epoch => serializer.serialize_str("epoch"),
            Self::Steps(n) => serializer.serialize_u64(n),
            Self::Never => serializer.serialize_str("never"),
        }
    }
}

impl<'de> Deserialize<'de> for Every {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Value {
            Word(String),
            Number(i64),
        }
        let text = match Value::deserialize(deserializer)? {
            Value::Word(word) => word,
            Value::Number(n) => n.to_string(),
        };
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Number format of matrix products in the forward and backward passes; parameters, moments and accumulation are always f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// Single precision.
    #[default]
    F32,
    /// bfloat16 operands.
    Bf16,
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        })
    }
}

impl From<Precision> for mixce_kernels::Precision {
    fn from(precision: Precision) -> Self {
        match precision {
            Precision::F32 => Self::F32,
            Precision::Bf16 => Self::Bf16,
        }
    }
}

/// How examples are formed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pack {
    /// One document.
    Documents,
    /// A block of concatenated documents, each ending in EOS.
    Concat,
}

/// Criterion for the best model, on the development documents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Selection {
    /// Smallest mean negative log-likelihood per token.
    #[default]
    Nll,
    /// Smallest loss of the objective, the MixCE authors' criterion. With a small `eta` it is not monotone in the likelihood.
    Loss,
    /// Highest score of the run's [`Selector`](crate::selector::Selector): MAUVE of samples, in the program.
    Mauve,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reads_words_and_numbers() {
        assert_eq!("epoch".parse(), Ok(Every::Epoch));
        assert_eq!("20".parse(), Ok(Every::Steps(20)));
        assert_eq!("never".parse(), Ok(Every::Never));
        for bad in ["0", "-3", "often"] {
            assert!(bad.parse::<Every>().unwrap_err().contains(bad));
        }
    }

    #[test]
    fn every_is_due_when_it_says() {
        assert!(Every::Epoch.is_due(7, true) && !Every::Epoch.is_due(7, false));
        assert!(Every::Steps(5).is_due(10, false) && !Every::Steps(5).is_due(11, true));
        assert!(!Every::Never.is_due(10, true));
    }
}
