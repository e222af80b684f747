//! The windows of the controlled metrics.

use anyhow::Result;
use clap::Args;
use mixce_eval::windows::{WindowSource, words_for_tokens};
use serde::Serialize;

use super::texts::TextSet;
use crate::error::Problem;

/// The flags for drawing windows.
#[derive(Debug, Args)]
pub(super) struct WindowFlags {
    /// Window lengths of the controlled metrics, in tokens, at 1.35 tokens per word
    #[arg(long, value_delimiter = ',', default_values_t = [100, 200], value_name = "TOKENS")]
    pub(super) window_tokens: Vec<usize>,
    /// Number of windows drawn for each set and length
    #[arg(long, default_value_t = 10_000, value_name = "N")]
    pub(super) windows: usize,
}

/// More windows than is practical.
const MAX_WINDOWS: usize = 10_000_000;

impl WindowFlags {
    /// Refuses windows that cannot be drawn or split.
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

    /// The number of windows of each length in each set, with a warning if there are too few.
    pub(super) fn record(&self, sets: &[&TextSet], prompt_tokens: usize, seed: u64) -> WindowRecord {
        let sources: Vec<WindowSource<'_>> = sets.iter().map(|set| WindowSource::new(&set.wholes)).collect();
        let mut counts = Vec::new();
        for &tokens in &self.window_tokens {
            let (words, needed) = (words_for_tokens(tokens), self.windows);
            for (set, source) in sets.iter().zip(&sources) {
                let found = source.count(tokens);
                if found < needed {
                    tracing::warn!(
                        "{}: not enough windows of {tokens} tokens ({words} words): found {found}, needed {needed}",
                        set.name
                    );
                }
                counts.push(WindowCount { set: set.name.clone(), tokens, words, found, needed });
            }
        }
        WindowRecord { seed, prompt_words: words_for_tokens(prompt_tokens), sets: counts }
    }
}

/// The description of the windows in the report.
#[derive(Debug, Serialize)]
pub(super) struct WindowRecord {
    seed: u64,
    prompt_words: usize,
    sets: Vec<WindowCount>,
}

/// The windows of one length in one set.
#[derive(Debug, Serialize)]
struct WindowCount {
    set: String,
    tokens: usize,
    words: usize,
    found: usize,
    needed: usize,
}
