//! Computes the inputs of the metrics that need a tokenizer or a model, once per set of texts.

use std::borrow::Cow;
use std::collections::BTreeSet;

use anyhow::Result;
use mixce_eval::features::Features;
use mixce_eval::metric::{EmbeddedPairs, FeaturePair, Inputs, Need, OfWindows};
use mixce_eval::windows::{WindowSource, words_for_tokens};

use super::ScoreArgs;
use super::features::FeatureFiles;
use super::models::Models;
use super::prompts::Split;
use super::texts::{TextSet, Words};

/// The sources of the inputs.
pub(super) struct Preparation<'a> {
    pub(super) args: &'a ScoreArgs,
    pub(super) needs: BTreeSet<Need>,
    pub(super) models: &'a Models,
    pub(super) files: Option<&'a FeatureFiles>,
    pub(super) split: Split<'a>,
    pub(super) human: Option<&'a TextSet>,
    /// The systems' texts; empty if only features are scored.
    pub(super) systems: &'a [TextSet],
    pub(super) words: Words<'a>,
    pub(super) seed: u64,
}

/// The reference that systems are compared with.
pub(super) struct Reference<'a> {
    features: Option<Cow<'a, Features>>,
    /// One entry per window length.
    windows: Vec<Option<Features>>,
}

/// The inputs of one set.
#[derive(Default)]
pub(super) struct Prepared<'a> {
    texts: Option<&'a TextSet>,
    ids: Option<Vec<Vec<u32>>>,
    features: Option<Cow<'a, Features>>,
    pairs: Option<EmbeddedPairs>,
    window_features: Vec<OfWindows<Features>>,
    window_pairs: Vec<OfWindows<EmbeddedPairs>>,
}

impl<'a> Preparation<'a> {
    /// The human reference for comparisons.
    pub(super) fn reference(&self) -> Result<Reference<'a>> {
        let features = match (self.files, self.human) {
            (Some(files), _) => Some(Cow::Borrowed(&files.human)),
            (None, Some(human)) => self.features(human)?,
            (None, None) => None,
        };
        let windows = match self.human.filter(|_| self.needs.contains(&Need::WindowFeatures)) {
            None => Vec::new(),
            Some(human) => {
                let source = WindowSource::new(&human.wholes);
                let of_length =
                    |tokens: &usize| self.window_features(&self.draw(&source, *tokens, self.seed));
                self.args.windows.window_tokens.iter().map(of_length).collect::<Result<_>>()?
            }
        };
        Ok(Reference { features, windows })
    }

    /// The inputs of the human texts. Their windows are a different draw from those of the reference.
    pub(super) fn human(&mut self, human: &'a TextSet) -> Result<Prepared<'a>> {
        let partner = self.systems.first().unwrap_or(human);
        self.texts(human, partner, self.seed.wrapping_add(1))
    }

    /// The inputs of the system with this index.
    pub(super) fn system(&mut self, index: usize) -> Result<Prepared<'a>> {
        let mut prepared = match (self.systems.get(index), self.human) {
            (Some(system), human) => self.texts(system, human.unwrap_or(system), self.seed)?,
            (None, _) => Prepared::default(),
        };
        prepared.features = match (self.files, self.systems.get(index)) {
            (Some(files), _) => files.systems.get(index).map(Cow::Borrowed),
            (None, Some(system)) => self.features(system)?,
            (None, None) => None,
        };
        Ok(prepared)
    }

    fn texts(&mut self, set: &'a TextSet, partner: &TextSet, seed: u64) -> Result<Prepared<'a>> {
        let ids = self.needs.contains(&Need::TokenIds).then(|| self.words.ids(&set.wholes)).transpose()?;
        let pairs = match self.models.embedder.as_ref().filter(|_| self.needs.contains(&Need::Embeddings)) {
            Some(embedder) => Some(embedder.pairs(self.split.pairs(set, partner)?)?),
            None => None,
        };
        let mut prepared = Prepared { texts: Some(set), ids, pairs, ..Prepared::default() };
        self.add_windows(&mut prepared, set, seed)?;
        Ok(prepared)
    }

    /// The features of the texts, if there is a featurizer.
    fn features(&self, set: &TextSet) -> Result<Option<Cow<'a, Features>>> {
        let featurizer = self.models.featurizer.as_ref().filter(|_| self.needs.contains(&Need::Features));
        featurizer.map(|featurizer| Ok(Cow::Owned(featurizer.features(&set.wholes)?))).transpose()
    }

    fn add_windows(&self, prepared: &mut Prepared<'_>, set: &TextSet, seed: u64) -> Result<()> {
        let [features, pairs] =
            [Need::WindowFeatures, Need::WindowEmbeddings].map(|need| self.needs.contains(&need));
        if !features && !pairs {
            return Ok(());
        }
        let source = WindowSource::new(&set.wholes);
        for &tokens in &self.args.windows.window_tokens {
            let windows = self.draw(&source, tokens, seed);
            if features {
                let drawn = self.window_features(&windows)?;
                prepared.window_features.push(OfWindows { tokens, drawn });
            }
            if pairs {
                let drawn = self.window_pairs(&windows)?;
                prepared.window_pairs.push(OfWindows { tokens, drawn });
            }
        }
        Ok(())
    }

    /// The number of windows that the flags ask for; `None` if there are fewer.
    fn draw<'s, 't>(
        &self,
        source: &'s WindowSource<'t>,
        tokens: usize,
        seed: u64,
    ) -> Option<Vec<&'s [&'t str]>> {
        source.draw(tokens, self.args.windows.windows, seed).ok()
    }

    fn window_features(&self, windows: &Option<Vec<&[&str]>>) -> Result<Option<Features>> {
        let texts = |windows: &Vec<&[&str]>| windows.iter().map(|words| words.join(" ")).collect::<Vec<_>>();
        let windows = self.models.featurizer.as_ref().zip(windows.as_ref());
        windows.map(|(featurizer, windows)| featurizer.features(&texts(windows))).transpose()
    }

    fn window_pairs(&self, windows: &Option<Vec<&[&str]>>) -> Result<Option<EmbeddedPairs>> {
        let prompt = words_for_tokens(self.args.prompt_length);
        let pair = |words: &&[&str]| {
            let (prompt, continuation) = words.split_at(prompt.min(words.len()));
            [prompt.join(" "), continuation.join(" ")]
        };
        let windows = self.models.embedder.as_ref().zip(windows.as_ref());
        let embed = |(embedder, windows): (&super::embed::Embedder, &Vec<&[&str]>)| {
            embedder.pairs(super::prompts::Pairs::all(windows.iter().map(pair).collect()))
        };
        windows.map(embed).transpose()
    }
}

impl<'a> Prepared<'a> {
    /// As metrics see them.
    pub(super) fn inputs<'p>(&'p self, reference: &'p Reference<'_>) -> Inputs<'p> {
        let features = reference.features.as_deref().zip(self.features.as_deref());
        let window_features = self.window_features.iter().zip(&reference.windows).map(|(own, human)| {
            let drawn = human.as_ref().zip(own.drawn.as_ref());
            OfWindows { tokens: own.tokens, drawn: drawn.map(pair_of_features) }
        });
        let window_pairs = self.window_pairs.iter();
        let window_pairs =
            window_pairs.map(|own| OfWindows { tokens: own.tokens, drawn: own.drawn.as_ref() });
        Inputs {
            texts: self.texts.map(|set| set.wholes.as_slice()),
            token_ids: self.ids.as_deref(),
            features: features.map(pair_of_features),
            embeddings: self.pairs.as_ref(),
            window_features: (!self.window_features.is_empty()).then(|| window_features.collect()),
            window_embeddings: (!self.window_pairs.is_empty()).then(|| window_pairs.collect()),
        }
    }
}

fn pair_of_features<'f>((human, model): (&'f Features, &'f Features)) -> FeaturePair<'f> {
    FeaturePair { human, model }
}
