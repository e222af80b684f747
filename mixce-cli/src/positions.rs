//! Lengths in tokens against a model's context length: explicit values are kept or refused, defaults are reduced to fit.

use anyhow::Result;

use crate::error::Problem;

/// Default length of a text in tokens, as in training.
pub(crate) const DEFAULT_MAX_LENGTH: usize = mixce_train::config::DEFAULT_MAX_LENGTH;

/// The value given for `flag`; else `default`, or the model's positions if fewer, with a log line.
///
/// # Errors
/// The given value exceeds the model's positions.
pub(crate) fn fitted(flag: &str, typed: Option<usize>, default: usize, positions: usize) -> Result<usize> {
    match typed {
        Some(tokens) if tokens > positions => {
            let problem = format!("`{flag} {tokens}` is more than the model's {positions} positions");
            Err(Problem::new(problem).hint(format!("use `{flag} {positions}`")).into())
        }
        _ => Ok(at_most(flag, typed, default, positions)),
    }
}

/// The value given for `flag`, unchecked; else `default`, or `most` if that is less, with a log line.
pub(crate) fn at_most(flag: &str, typed: Option<usize>, default: usize, most: usize) -> usize {
    if typed.is_none() && most < default {
        tracing::warn!(
            "`{flag}` is {most}: the model's positions leave no room for the default of {default}"
        );
    }
    typed.unwrap_or(default.min(most))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_fitted_and_what_was_typed_is_not() {
        assert_eq!(fitted("--max-length", None, 512, 1024).unwrap(), 512);
        assert_eq!(fitted("--max-length", None, 512, 256).unwrap(), 256);
        assert_eq!(fitted("--max-length", Some(256), 512, 256).unwrap(), 256);
        let error = fitted("--max-length", Some(512), 512, 256).unwrap_err().to_string();
        assert_eq!(error, "`--max-length 512` is more than the model's 256 positions");
        assert_eq!(at_most("--max-length", Some(257), 512, 256), 257);
    }
}
