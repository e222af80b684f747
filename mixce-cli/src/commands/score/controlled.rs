//! Controlled MAUVE and controlled coherence: the same metrics over windows of equal length, so that the texts' lengths play no part.

use std::collections::HashSet;

use anyhow::Result;
use clap::Args;
use mixce_eval::features::Features;
use mixce_eval::mauve::MauveSettings;
use mixce_eval::windows::{draw_windows, words_for_tokens};
use serde_json::{Map, Value, json};

use super::embed::Embedder;
use super::featurize::Featurizer;
use super::surface::Scores;
use super::texts::TextSet;
use super::{Metric, distances};
use crate::error::Problem;
use crate::progress;

/// Which windows are drawn.
#[derive(Debug, Args)]
pub(super) struct WindowFlags {
    /// Lengths of the windows of the controlled metrics, in tokens, at 1.35 tokens a word
    #[arg(long, value_delimiter = ',', default_values_t = [100, 200], value_name = "TOKENS")]
    window_tokens: Vec<usize>,
    /// Windows that are drawn of each set and length
    #[arg(long, default_value_t = 10_000, value_name = "N")]
    windows: usize,
}

/// More windows than anyone waits for.
const MAX_WINDOWS: usize = 10_000_000;

impl WindowFlags {
    /// Refuses what cannot be drawn or split.
    pub(super) fn check(&self, prompt_tokens: usize) -> Result<()> {
        let shortest = words_for_tokens(prompt_tokens) + 1;
        let fits = |tokens: &&usize| words_for_tokens(**tokens) < shortest;
        if let Some(tokens) = self.window_tokens.iter().find(fits) {
            let (got, prompt) = (words_for_tokens(*tokens), words_for_tokens(prompt_tokens));
            let problem = format!(
                "`--window-tokens`: expected windows longer than the prompt of {prompt} words, got `{tokens}` ({got} words)"
            );
            return Err(Problem::new(problem).into());
        }
        if !(2..=MAX_WINDOWS).contains(&self.windows) {
            let got = self.windows;
            return Err(Problem::new(format!("`--windows`: expected 2 to {MAX_WINDOWS}, got `{got}`")).into());
        }
        Ok(())
    }
}

/// Everything that the controlled metrics are computed with.
pub(super) struct Controlled<'a> {
    pub(super) flags: &'a WindowFlags,
    pub(super) wanted: &'a HashSet<Metric>,
    pub(super) featurizer: Option<&'a Featurizer>,
    pub(super) embedder: Option<&'a Embedder>,
    pub(super) mauve: &'a MauveSettings,
    pub(super) prompt_tokens: usize,
    pub(super) seed: u64,
}

impl Controlled<'_> {
    /// Adds the controlled metrics of every set, the human one first, and returns which windows there were.
    ///
    /// The human set is drawn twice: its second draw is scored against the first like a system, which shows how much a
    /// metric can reach.
    pub(super) fn add(&self, scores: &mut [Scores], sets: &[&TextSet]) -> Result<Value> {
        let mut found = Vec::new();
        for &tokens in &self.flags.window_tokens {
            let reference = self.draw(sets[0], tokens, self.seed);
            let second = self.draw(sets[0], tokens, self.seed.wrapping_add(1));
            let others = sets[1..].iter().map(|set| self.draw(set, tokens, self.seed));
            let drawn: Vec<Drawn> = std::iter::once(second).chain(others).collect();
            for (set, drawn) in sets.iter().zip(&drawn) {
                found.push(json!({
                    "set": set.name, "tokens": tokens, "words": words_for_tokens(tokens),
                    "found": drawn.found, "needed": self.flags.windows,
                }));
                if drawn.windows.is_none() {
                    tracing::warn!(
                        "{}: not enough windows of {tokens} tokens ({} words): found {}, needed {}",
                        set.name,
                        words_for_tokens(tokens),
                        drawn.found,
                        self.flags.windows
                    );
                }
            }
            if let Some(featurizer) =
                self.featurizer.filter(|_| self.wanted.contains(&Metric::ControlledMauve))
            {
                self.add_mauve(scores, sets, tokens, (&reference, &drawn), featurizer)?;
            }
            if let Some(embedder) =
                self.embedder.filter(|_| self.wanted.contains(&Metric::ControlledCoherence))
            {
                self.add_coherence(scores, tokens, &drawn, embedder)?;
            }
        }
        Ok(json!({
            "seed": self.seed, "prompt_words": words_for_tokens(self.prompt_tokens), "sets": found,
        }))
    }

    fn draw<'t>(&self, set: &'t TextSet, tokens: usize, seed: u64) -> Drawn<'t> {
        let texts: Vec<Vec<&str>> = set.wholes.iter().map(|text| text.split_whitespace().collect()).collect();
        let counts: Vec<usize> = texts.iter().map(Vec::len).collect();
        let words = words_for_tokens(tokens);
        let found = counts.iter().map(|count| count.saturating_sub(words)).sum();
        let places = draw_windows(&counts, words, self.flags.windows, seed).ok();
        let window = |(text, first): (usize, usize)| texts[text][first..first + words].to_vec();
        Drawn { found, windows: places.map(|places| places.into_iter().map(window).collect()) }
    }

    fn add_mauve(
        &self,
        scores: &mut [Scores],
        sets: &[&TextSet],
        tokens: usize,
        (reference, drawn): (&Drawn<'_>, &[Drawn<'_>]),
        featurizer: &Featurizer,
    ) -> Result<()> {
        let features = |drawn: &Drawn<'_>| -> Result<Option<Features>> {
            let texts =
                drawn.windows.as_ref().map(|windows| windows.iter().map(|w| w.join(" ")).collect::<Vec<_>>());
            texts.map(|texts| featurizer.features(&texts)).transpose()
        };
        let human = features(reference)?;
        let bar = progress::bar((sets.len() * self.mauve.seeds.len()) as u64, "MAUVE seeds");
        for ((scores, set), drawn) in scores.iter_mut().zip(sets).zip(drawn) {
            let spread = match (&human, features(drawn)?) {
                (Some(human), Some(system)) => {
                    let name = format!("{} in windows of {tokens} tokens", set.name);
                    json!(distances::measure(human, &system, self.mauve, &name, &mut || bar.inc(1))?.mauve)
                }
                _ => Value::Null,
            };
            insert(scores, "controlled_mauve", tokens, spread);
        }
        bar.finish_and_clear();
        Ok(())
    }

    fn add_coherence(
        &self,
        scores: &mut [Scores],
        tokens: usize,
        drawn: &[Drawn<'_>],
        embedder: &Embedder,
    ) -> Result<()> {
        let prompt = words_for_tokens(self.prompt_tokens);
        for (scores, drawn) in scores.iter_mut().zip(drawn) {
            let pairs = |windows: &Vec<Vec<&str>>| -> Vec<[String; 2]> {
                windows.iter().map(|words| [words[..prompt].join(" "), words[prompt..].join(" ")]).collect()
            };
            let mean = match &drawn.windows {
                Some(windows) => {
                    let cosines = embedder.cosines(&pairs(windows))?;
                    json!(cosines.iter().sum::<f64>() / cosines.len() as f64)
                }
                None => Value::Null,
            };
            insert(scores, "controlled_coherence", tokens, mean);
        }
        Ok(())
    }
}

/// The windows of one set: how many exist, and those that were drawn if there are enough, as words.
struct Drawn<'t> {
    found: usize,
    windows: Option<Vec<Vec<&'t str>>>,
}

/// Puts a value under the length of its windows.
fn insert(scores: &mut Scores, metric: &str, tokens: usize, value: Value) {
    let by_length = scores.values.entry(metric).or_insert_with(|| Value::Object(Map::new()));
    if let Some(by_length) = by_length.as_object_mut() {
        by_length.insert(tokens.to_string(), value);
    }
}
