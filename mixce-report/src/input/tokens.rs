//! Files that `mixce evaluate --per-token` writes.

use std::path::Path;

use serde::Deserialize;

use super::read::read_lines;
use crate::error::Result;

/// Negative log-likelihoods (nats) of a set of texts under a model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Likelihoods {
    /// Of each text, the mean over its tokens.
    pub texts: Vec<f64>,
    /// Of each token.
    pub tokens: Vec<f64>,
}

#[derive(Deserialize)]
struct Line {
    log_q: Vec<f64>,
}

impl Likelihoods {
    /// Reads a file; `None` if there is no such file. The last token of each text does not count, because it is its EOS, which a truncated sample
    /// does not have; a text without another one is left out.
    ///
    /// # Errors
    /// When it cannot be read or a line has another form.
    pub(crate) fn read(path: &Path) -> Result<Option<Self>> {
        let Some(lines) = read_lines::<Line>(path, false)? else { return Ok(None) };
        let mut read = Self::default();
        for line in lines {
            let counted = &line.log_q[..line.log_q.len().saturating_sub(1)];
            if !counted.is_empty() {
                read.texts.push(-counted.iter().sum::<f64>() / counted.len() as f64);
                read.tokens.extend(counted.iter().map(|log_q| -log_q));
            }
        }
        Ok(Some(read))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_text_does_not_count() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.jsonl");
        let text = "{\"index\":0,\"tokens\":[1,2,3,0],\"log_q\":[-1.0,-3.0,-9.0]}\n{\"log_q\":[-2.0]}\n{\"log_q\":[]}\n";
        std::fs::write(&path, text).unwrap();
        let read = Likelihoods::read(&path).unwrap().unwrap();
        assert_eq!((read.texts, read.tokens), (vec![2.0], vec![1.0, 3.0]));
    }
}
