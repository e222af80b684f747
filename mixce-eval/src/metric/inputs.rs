//! The inputs of metrics.

use crate::error::{Error, Result};
use crate::features::Features;

/// A kind of input. The caller computes each required kind once, for all metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Need {
    /// The texts themselves.
    Texts,
    /// Tokens of each text, or numbered words.
    TokenIds,
    /// A language model's features of the set and of the human texts.
    Features,
    /// A sentence encoder's embeddings of each text's prompt and continuation.
    Embeddings,
    /// Features of windows of equal length.
    WindowFeatures,
    /// Embeddings of prompt and continuation of windows of equal length.
    WindowEmbeddings,
}

impl Need {
    /// Its name in messages and documents.
    #[must_use]
    pub fn describe(self) -> &'static str {
        match self {
            Self::Texts => "texts",
            Self::TokenIds => "token ids",
            Self::Features => "features",
            Self::Embeddings => "embeddings of prompts and continuations",
            Self::WindowFeatures => "features of windows",
            Self::WindowEmbeddings => "embeddings of windows",
        }
    }
}

/// The inputs for one set of texts; those that no metric needs are `None`.
#[derive(Clone, Debug, Default)]
pub struct Inputs<'a> {
    /// [`Need::Texts`].
    pub texts: Option<&'a [String]>,
    /// [`Need::TokenIds`], in the order of the texts.
    pub token_ids: Option<&'a [Vec<u32>]>,
    /// [`Need::Features`].
    pub features: Option<FeaturePair<'a>>,
    /// [`Need::Embeddings`].
    pub embeddings: Option<&'a EmbeddedPairs>,
    /// [`Need::WindowFeatures`]: one entry for each length.
    pub window_features: Option<Vec<OfWindows<FeaturePair<'a>>>>,
    /// [`Need::WindowEmbeddings`]: one entry for each length.
    pub window_embeddings: Option<Vec<OfWindows<&'a EmbeddedPairs>>>,
}

impl<'a> Inputs<'a> {
    pub(crate) fn texts(&self) -> Result<&'a [String]> {
        self.texts.ok_or(Error::MissingInput(Need::Texts))
    }

    pub(crate) fn token_ids(&self) -> Result<&'a [Vec<u32>]> {
        self.token_ids.ok_or(Error::MissingInput(Need::TokenIds))
    }

    pub(crate) fn features(&self) -> Result<FeaturePair<'a>> {
        self.features.ok_or(Error::MissingInput(Need::Features))
    }

    pub(crate) fn embeddings(&self) -> Result<&'a EmbeddedPairs> {
        self.embeddings.ok_or(Error::MissingInput(Need::Embeddings))
    }

    pub(crate) fn window_features(&self) -> Result<&[OfWindows<FeaturePair<'a>>]> {
        self.window_features.as_deref().ok_or(Error::MissingInput(Need::WindowFeatures))
    }

    pub(crate) fn window_embeddings(&self) -> Result<&[OfWindows<&'a EmbeddedPairs>]> {
        self.window_embeddings.as_deref().ok_or(Error::MissingInput(Need::WindowEmbeddings))
    }
}

/// Features of a set and of the human texts that it is compared with.
#[derive(Clone, Copy, Debug)]
pub struct FeaturePair<'a> {
    /// Those of the human texts.
    pub human: &'a Features,
    /// Those of the set.
    pub model: &'a Features,
}

/// An input computed from the windows of one length.
#[derive(Clone, Debug)]
pub struct OfWindows<T> {
    /// Length of the windows, in tokens.
    pub tokens: usize,
    /// `None` if the texts have too few windows.
    pub drawn: Option<T>,
}

/// Embeddings of prompts and continuations, as vectors of length 1.
#[derive(Clone, Debug)]
pub struct EmbeddedPairs {
    present: Vec<bool>,
    prompts: Features,
    continuations: Features,
}

impl EmbeddedPairs {
    /// Texts that are `present` have both parts; row `i` of the embeddings belongs to the `i`-th of these.
    ///
    /// # Errors
    /// [`Error::Pairs`] when the embeddings have other numbers of rows than there are present texts, or different widths.
    pub fn new(present: Vec<bool>, prompts: Features, continuations: Features) -> Result<Self> {
        let texts = present.iter().filter(|present| **present).count();
        let shapes = [&prompts, &continuations].map(|side| [side.rows(), side.columns()]);
        if shapes != [[texts, prompts.columns()]; 2] {
            return Err(Error::Pairs { texts, prompts: shapes[0], continuations: shapes[1] });
        }
        Ok(Self { present, prompts, continuations })
    }

    /// The cosine of each text's two embeddings: their dot product, summed in f64.
    #[must_use]
    pub fn cosines(&self) -> Vec<Option<f64>> {
        let dot =
            |(a, b): (&[f32], &[f32])| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
        let width = self.prompts.columns();
        let sides = [&self.prompts, &self.continuations].map(|side| side.values().chunks_exact(width));
        let [prompts, continuations] = sides;
        let mut cosines = prompts.zip(continuations).map(dot);
        self.present.iter().map(|present| if *present { cosines.next() } else { None }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(values: &[f32]) -> Features {
        Features::new(values.len() / 2, 2, values.to_vec()).unwrap()
    }

    #[test]
    fn cosines_belong_to_the_texts_that_have_both_parts() {
        let present = vec![true, false, true];
        let pairs =
            EmbeddedPairs::new(present.clone(), rows(&[1.0, 0.0, 0.6, 0.8]), rows(&[0.0, 1.0, 1.0, 0.0]));
        assert_eq!(pairs.unwrap().cosines(), [Some(0.0), None, Some(f64::from(0.6f32))]);
        let nothing = EmbeddedPairs::new(vec![false], rows(&[]), rows(&[])).unwrap();
        assert_eq!(nothing.cosines(), [None]);
        let error = EmbeddedPairs::new(present, rows(&[1.0, 0.0]), rows(&[0.0, 1.0, 1.0, 0.0])).unwrap_err();
        assert!(
            matches!(error, Error::Pairs { texts: 2, prompts: [1, 2], continuations: [2, 2] }),
            "{error}"
        );
    }
}
