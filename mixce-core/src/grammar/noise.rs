//! A corpus with wrong words in it, as text from the web has, and its exact probability.

use std::ops::Range;

use mixce_kernels::rng::Stream;

use super::automaton::WordId;
use super::text::is_mark;
use super::{Grammar, InvalidProbability};

/// Texts of a grammar, some of which carry one wrong word.
///
/// A text `x` is drawn from `P`. With probability `rate` one of its `n(x)` words (punctuation marks never change), at a
/// uniform position, is replaced by one of the `W - 1` other words of the lexicon, uniformly. The result may happen to
/// be in the support of `P` again. The distribution of the noisy texts is therefore
///
/// ```text
/// N(x) = (1 - rate) P(x) + rate / (n(x) (W - 1)) * sum over word positions i, words w != x_i of P(x with x_i := w)
/// ```
#[derive(Clone, Copy, Debug)]
pub struct NoisyCorpus<'g> {
    grammar: &'g Grammar,
    rate: f64,
    stream: Stream,
}

impl<'g> NoisyCorpus<'g> {
    /// The corpus that `stream` determines.
    ///
    /// # Errors
    ///
    /// If `rate` is not in `[0, 1]`.
    pub fn new(grammar: &'g Grammar, rate: f64, stream: Stream) -> Result<Self, InvalidProbability> {
        InvalidProbability::check("noise rate", rate)?;
        Ok(Self { grammar, rate, stream })
    }

    /// Words that can be put in the place of another: the lexicon without punctuation marks.
    fn replacements(&self) -> impl Iterator<Item = (WordId, &'static str)> {
        (0..).zip(self.grammar.lexicon().iter().copied()).filter(|(_, word)| !is_mark(word))
    }

    /// The text at `index`, and the position of the wrong word in it if it has one.
    #[must_use]
    pub fn text(&self, index: u64) -> (Vec<&'static str>, Option<usize>) {
        let mut tokens = self.grammar.sample(self.stream.fold(0), index);
        let draws = self.stream.fold(1).fold(index);
        if draws.uniform(0) >= self.rate {
            return (tokens, None);
        }
        let positions: Vec<usize> = (0..tokens.len()).filter(|at| !is_mark(tokens[*at])).collect();
        let position = positions.get(draws.below(1, positions.len() as u64) as usize).copied();
        let wrong = position.and_then(|at| {
            let others: Vec<_> =
                self.replacements().map(|(_, word)| word).filter(|word| *word != tokens[at]).collect();
            others.get(draws.below(2, others.len() as u64) as usize).copied()
        });
        let (Some(position), Some(wrong)) = (position, wrong) else { return (tokens, None) };
        tokens[position] = wrong;
        (tokens, Some(position))
    }

    /// The texts at a range of indices, rendered.
    pub fn texts(&self, indices: Range<u64>) -> impl Iterator<Item = String> {
        indices.map(|index| super::render(&self.text(index).0))
    }

    /// `log N(tokens)` in nats; `None` if no noisy text reads so.
    #[must_use]
    pub fn log_prob(&self, tokens: &[&str]) -> Option<f64> {
        let clean = self.grammar.log_prob(tokens).map_or(0.0, f64::exp);
        let word_positions = tokens.iter().filter(|token| !is_mark(token)).count();
        let others = self.replacements().count().saturating_sub(1);
        let mut probability = (1.0 - self.rate) * clean;
        if word_positions > 0 && others > 0 {
            probability += self.rate * self.repaired(tokens) / (word_positions * others) as f64;
        }
        (probability > 0.0).then(|| probability.ln())
    }

    /// `sum_i sum_{w != x_i} P(x with x_i := w)` over word positions and words, by following every arc that leaves
    /// the path of `tokens` and reading the rest from there.
    fn repaired(&self, tokens: &[&str]) -> f64 {
        let automaton = &self.grammar.automaton;
        let ids: Vec<Option<WordId>> = tokens.iter().map(|token| automaton.ids.get(token).copied()).collect();
        let rest = |mut state, from: usize| {
            let mut probability = 1.0;
            for id in ids.get(from..).unwrap_or_default() {
                let Some(arc) = id.and_then(|id| automaton.state(state).arc(id)) else { return 0.0 };
                probability *= arc.probability;
                state = arc.to;
            }
            probability * automaton.state(state).accept
        };
        let (mut sum, mut prefix, mut state) = (0.0, 1.0, automaton.start);
        for (position, (token, id)) in tokens.iter().zip(&ids).enumerate() {
            // A token outside the lexicon is never written; `rest` has then given 0 for every position before it.
            let Some(id) = *id else { return sum };
            if !is_mark(token) {
                for arc in &automaton.state(state).arcs {
                    let known = automaton.words.get(arc.word as usize);
                    if arc.word != id && known.is_some_and(|word| !is_mark(word)) {
                        sum += prefix * arc.probability * rest(arc.to, position + 1);
                    }
                }
            }
            let Some(arc) = automaton.state(state).arc(id) else { return sum };
            prefix *= arc.probability;
            state = arc.to;
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::super::expr::{Expr, choice, maybe, seq, word};
    use super::super::tests::{assert_close, assert_drawn_from, enumerate};
    use super::*;

    fn toy() -> Expr {
        let names = choice([(2.0, word("Anna")), (1.0, word("Tom"))]);
        seq![names, choice([(3.0, word("sings")), (1.0, word("waits"))]), maybe(0.4, word("again")), "."]
    }

    /// The noisy distribution by enumeration of text, position and word.
    fn noisy(expr: &Expr, rate: f64) -> HashMap<Vec<&'static str>, f64> {
        let lexicon = Grammar::from_expr(expr).lexicon().to_vec();
        let mut result = HashMap::new();
        for (text, p) in enumerate(expr) {
            *result.entry(text.clone()).or_insert(0.0) += (1.0 - rate) * p;
            let positions: Vec<_> = (0..text.len()).filter(|at| text[*at] != ".").collect();
            for at in &positions {
                let others: Vec<_> = lexicon.iter().filter(|w| **w != "." && **w != text[*at]).collect();
                for other in &others {
                    let mut changed = text.clone();
                    changed[*at] = other;
                    *result.entry(changed).or_insert(0.0) +=
                        rate * p / (positions.len() * others.len()) as f64;
                }
            }
        }
        result
    }

    #[test]
    fn noisy_probabilities_equal_their_enumeration() {
        let grammar = Grammar::from_expr(&toy());
        for rate in [0.0, 0.3, 1.0] {
            let corpus = NoisyCorpus::new(&grammar, rate, Stream::new(5)).unwrap();
            let expected: HashMap<_, _> = noisy(&toy(), rate).into_iter().filter(|(_, p)| *p > 0.0).collect();
            assert_close("total", expected.values().sum(), 1.0, 1e-12);
            for (text, p) in &expected {
                assert_close("p", corpus.log_prob(text).unwrap(), p.ln(), 1e-9);
            }
            assert_drawn_from(&expected, (0..20_000).map(|index| corpus.text(index).0));
        }
        let corpus = NoisyCorpus::new(&grammar, 0.3, Stream::new(5)).unwrap();
        for outside in [&["Tom", "Anna", "Tom", "."][..], &["unknown", "sings", "."], &["Anna", "sings"], &[]]
        {
            assert_eq!(corpus.log_prob(outside), None, "{outside:?}");
        }
    }

    #[test]
    fn the_asked_share_of_texts_has_exactly_one_wrong_word() {
        let grammar = Grammar::stories();
        let stream = Stream::new(11);
        let corpus = NoisyCorpus::new(&grammar, 0.3, stream).unwrap();
        let count = 5_000;
        let mut wrong = 0;
        for index in 0..count {
            let clean = grammar.sample(stream.fold(0), index);
            let (text, position) = corpus.text(index);
            let differs: Vec<_> = (0..clean.len()).filter(|at| clean[*at] != text[*at]).collect();
            assert_eq!(differs, position.into_iter().collect::<Vec<_>>());
            assert!(differs.iter().all(|at| !is_mark(clean[*at]) && !is_mark(text[*at])));
            assert!(corpus.log_prob(&text).is_some());
            wrong += differs.len();
        }
        // Standard deviation 0.0065.
        assert_close("rate", wrong as f64 / count as f64, 0.3, 0.02);
        let rendered: Vec<String> = corpus.texts(3..6).collect();
        assert_eq!(rendered[1], crate::grammar::render(&corpus.text(4).0));
    }

    #[test]
    fn a_rate_that_is_no_probability_is_refused() {
        let grammar = Grammar::from_expr(&toy());
        for rate in [-0.1, 1.5, f64::NAN, f64::INFINITY] {
            assert!(NoisyCorpus::new(&grammar, rate, Stream::new(0)).is_err());
        }
        let error = NoisyCorpus::new(&grammar, 1.5, Stream::new(0)).unwrap_err();
        assert_eq!(error.to_string(), "the noise rate must be a number from 0 to 1, got `1.5`");
    }
}
