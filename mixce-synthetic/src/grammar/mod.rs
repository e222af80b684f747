//! A grammar of short stories whose distribution is known exactly.
//!
//! [`Grammar::stories`] writes one to three short sentences: about animals, trades, people, things and pairs of
//! people. Words follow Zipf's law within their class, and there are long-range dependencies:
//!
//! | what must agree | example |
//! | --- | --- |
//! | subject and verb, across a phrase or clause | The *foxes* behind the old barn *sleep*. The *goose* that the children feed *hides*. |
//! | subject and verb inside the clause | the goose that the *children feed* |
//! | a person and the pronouns after them | *Anna*, who lives near the mill, paints *her* boat. *She* is tired. |
//! | a name and its return in the last sentence | *Anna* feeds the geese. Only *Anna* knows why. |
//! | a thing and its return, with the finder's pronoun | *Tom* finds an old *key*. *He* gives the *key* to Mara. |
//! | two names in order | *Anna* and *Tom* sing. *Anna* is happy, but *Tom* is not. |
//! | a and an | a key, an old key, an umbrella |
//!
//! Each rule is an expression of words, sequences and weighted choices, with number, gender and remembered names
//! expanded while it is built. The expression is compiled to a *deterministic* acyclic automaton, whose states are
//! distributions over the next token. Two derivations of one text become one path that carries the sum of both, so
//!
//! ```text
//! P(x) = accept(s_n) * product_i p(x_i | s_{i-1})        s_i = state after i tokens
//! ```
//!
//! is exact in linear time, sampling is a walk, and entropy, mean length and the number of texts ([`GrammarFacts`])
//! follow by dynamic programming. [`NoisyCorpus`] puts wrong words into some texts, [`SmoothedGrammar`] gives every
//! text a finite probability, [`SampleScore`] scores the samples of a model under the true distribution.
//!
//! ```
//! use mixce_synthetic::grammar::{Grammar, words};
//! let grammar = Grammar::stories();
//! assert!(grammar.log_prob_text("The foxes behind the old barn sleep in the garden.").is_some());
//! assert!(grammar.log_prob_text("The foxes behind the old barn sleeps in the garden.").is_none());
//! ```

mod automaton;
mod expr;
mod lexicon;
mod noise;
mod phrases;
mod smooth;
mod statistics;
mod stories;
#[cfg(test)]
mod tests;
mod text;

use mixce_base::rng::Stream;

use automaton::Automaton;
use expr::Expr;
pub use noise::{Noise, NoisyCorpus};
pub use smooth::{SampleScore, SmoothedGrammar};
pub use statistics::GrammarFacts;
pub use text::{is_mark, render, words};

/// A probability distribution over texts that can be sampled and evaluated exactly.
#[derive(Clone, Debug)]
pub struct Grammar {
    automaton: Automaton,
    facts: GrammarFacts,
}

impl Grammar {
    /// The built-in stories.
    #[must_use]
    pub fn stories() -> Self {
        Self::from_expr(&stories::stories(lexicon::Lexicon::full()))
    }

    fn from_expr(expr: &Expr) -> Self {
        let automaton = Automaton::compile(expr);
        let facts = GrammarFacts::of(&automaton);
        Self { automaton, facts }
    }

    /// Every token that occurs, punctuation marks included, in byte order.
    #[must_use]
    pub fn lexicon(&self) -> &[&'static str] {
        &self.automaton.words
    }

    /// Entropy, mean length and other exact facts.
    #[must_use]
    pub fn facts(&self) -> &GrammarFacts {
        &self.facts
    }

    /// Draws text number `index` of a stream.
    #[must_use]
    pub fn sample(&self, stream: Stream, index: u64) -> Vec<&'static str> {
        let draws = stream.fold(index);
        let mut tokens = Vec::new();
        let mut state = self.automaton.state(self.automaton.start);
        for step in 0.. {
            let mut left = draws.uniform(step) - state.accept;
            if left < 0.0 {
                break;
            }
            // Rounding may leave a rest after the last arc, which is then taken.
            let drawn = state.arcs.iter().find(|arc| {
                left -= arc.probability;
                left < 0.0
            });
            let Some(arc) = drawn.or(state.arcs.last()) else { break };
            tokens.extend(self.automaton.words.get(arc.word as usize));
            state = self.automaton.state(arc.to);
        }
        tokens
    }

    /// `log P(tokens)` in nats; `None` outside the support.
    #[must_use]
    pub fn log_prob(&self, tokens: &[&str]) -> Option<f64> {
        let (state, log_prob) = self.read(tokens).ok()?;
        let accept = self.automaton.state(state).accept;
        (accept > 0.0).then(|| log_prob + accept.ln())
    }

    /// `log P` of a text in nats; `None` outside the support, or if it is not written exactly as [`render`] does.
    #[must_use]
    pub fn log_prob_text(&self, text: &str) -> Option<f64> {
        let tokens = words(text);
        self.log_prob(&tokens).filter(|_| render(&tokens) == text)
    }

    /// Where a token sequence leaves the support: the position of the first token that no text of the grammar has
    /// there, given those before it; the length if only the end comes too early; `None` inside the support.
    #[must_use]
    pub fn first_error(&self, tokens: &[&str]) -> Option<usize> {
        match self.read(tokens) {
            Ok((state, _)) => (self.automaton.state(state).accept <= 0.0).then_some(tokens.len()),
            Err(position) => Some(position),
        }
    }

    /// The state after `tokens` and the log-probability of this prefix, or the position of the first wrong token.
    fn read(&self, tokens: &[&str]) -> Result<(automaton::StateId, f64), usize> {
        let (mut state, mut log_prob) = (self.automaton.start, 0.0);
        for (position, token) in tokens.iter().enumerate() {
            let word = self.automaton.ids.get(token).ok_or(position)?;
            let arc = self.automaton.state(state).arc(*word).ok_or(position)?;
            log_prob += arc.probability.ln();
            state = arc.to;
        }
        Ok((state, log_prob))
    }
}

/// `Ok` if `value` is a probability.
fn check_probability(name: &'static str, value: f64) -> crate::Result<()> {
    if (0.0..=1.0).contains(&value) {
        Ok(())
    } else {
        Err(crate::Error::NotAProbability { name, got: value })
    }
}
