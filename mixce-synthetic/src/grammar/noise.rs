//! A corpus with wrong words, as in web text, and its exact probability.

use std::ops::Range;

use mixce_base::rng::Stream;

use super::automaton::WordId;
use super::lexicon::SLIPS;
use super::text::is_mark;
use super::{Grammar, check_probability};

/// Which words may replace another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Noise {
    /// Any other word of the lexicon: "The foxes umbrella in the garden."
    AnyWord,
    /// Another function word of the same class: another pronoun, is for are, a for an: "Anna feeds the geese. He is
    /// tired." Such errors occur exactly where the right word is almost certain, unlike those of [`Noise::AnyWord`], each of which is
    /// rare everywhere. Four texts in five have such a word, and no slip is in the support; the others stay clean.
    Slip,
}

/// Texts of a grammar, some of which carry one wrong word.
///
/// The words are divided into classes `C` whose members may be mistaken for each other: under [`Noise::AnyWord`] all
/// words are one class, under [`Noise::Slip`] there are a few small ones and most words are in none. Punctuation marks
/// never change. A text `x` is drawn from `P`; with probability `rate` one of its `n(x)` words that are in a class, at
/// a uniform position, is replaced by another member of its class, uniformly. The result may happen to be in the
/// support of `P` again. Classes are kept, and so `n(x)` is, and the distribution of the noisy texts is
///
/// ```text
/// N(x) = (1 - rate) P(x) + rate / n(x) * sum_i 1 / (|C(x_i)| - 1) sum_{w in C(x_i), w != x_i} P(x with x_i := w)
/// ```
///
/// (`N(x) = P(x)` where `n(x) = 0`).
#[derive(Clone, Debug)]
pub struct NoisyCorpus<'g> {
    grammar: &'g Grammar,
    rate: f64,
    stream: Stream,
    /// Classes with at least two members.
    classes: Vec<Vec<WordId>>,
    /// The class of each word of the lexicon.
    class_of: Vec<Option<usize>>,
}

impl<'g> NoisyCorpus<'g> {
    /// The corpus that `stream` determines.
    ///
    /// # Errors
    ///
    /// If `rate` is not in `[0, 1]`.
    pub fn new(grammar: &'g Grammar, noise: Noise, rate: f64, stream: Stream) -> crate::Result<Self> {
        check_probability("noise rate", rate)?;
        let lexicon = grammar.lexicon();
        let classes = match noise {
            Noise::AnyWord => vec![lexicon.iter().copied().filter(|word| !is_mark(word)).collect()],
            Noise::Slip => SLIPS.iter().map(|class| class.to_vec()).collect(),
        };
        let classes = classes
            .into_iter()
            .map(|class| class.iter().filter_map(|word| grammar.automaton.ids.get(word).copied()).collect())
            .filter(|class: &Vec<WordId>| class.len() > 1)
            .collect::<Vec<_>>();
        let mut class_of = vec![None; lexicon.len()];
        for (index, class) in classes.iter().enumerate() {
            class.iter().for_each(|word| class_of[*word as usize] = Some(index));
        }
        Ok(Self { grammar, rate, stream, classes, class_of })
    }

    /// The members of the class of a token.
    fn class(&self, id: WordId) -> Option<&[WordId]> {
        self.classes.get((*self.class_of.get(id as usize)?)?).map(Vec::as_slice)
    }

    /// The members of the class of a token at each position that has one.
    fn places<'a>(&'a self, tokens: &'a [&str]) -> impl Iterator<Item = (usize, WordId, &'a [WordId])> {
        let ids = tokens.iter().map(|token| self.grammar.automaton.ids.get(token).copied());
        ids.enumerate().filter_map(|(at, id)| Some((at, id?, self.class(id?)?)))
    }

    /// The text at `index`, and the position of the wrong word in it if it has one.
    #[must_use]
    pub fn text(&self, index: u64) -> (Vec<&'static str>, Option<usize>) {
        let mut tokens = self.grammar.sample(self.stream.fold(0), index);
        let draws = self.stream.fold(1).fold(index);
        if draws.uniform(0) >= self.rate {
            return (tokens, None);
        }
        let places: Vec<_> = self.places(&tokens).collect();
        let place = places.get(draws.below(1, places.len() as u64) as usize);
        let wrong = place.and_then(|(at, id, class)| {
            let nth = draws.below(2, class.len() as u64 - 1) as usize;
            let other = class.iter().filter(|other| *other != id).nth(nth)?;
            Some((*at, *self.grammar.lexicon().get(*other as usize)?))
        });
        let Some((position, wrong)) = wrong else { return (tokens, None) };
        tokens[position] = wrong;
        (tokens, Some(position))
    }

    /// The texts at a range of indices, rendered.
    pub fn texts(&self, indices: Range<u64>) -> impl Iterator<Item = String> {
        indices.map(|index| super::render(&self.text(index).0))
    }

    /// `log N(tokens)` in nats; `None` if it is not a possible noisy text.
    #[must_use]
    pub fn log_prob(&self, tokens: &[&str]) -> Option<f64> {
        let clean = self.grammar.log_prob(tokens).map_or(0.0, f64::exp);
        let places = self.places(tokens).count();
        let probability = if places == 0 {
            clean
        } else {
            (1.0 - self.rate) * clean + self.rate * self.repaired(tokens) / places as f64
        };
        (probability > 0.0).then(|| probability.ln())
    }

    /// `sum_i 1 / (|C(x_i)| - 1) sum_{w in C(x_i), w != x_i} P(x with x_i := w)`, by following every arc that leaves
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
        for (position, id) in ids.iter().enumerate() {
            // A token outside the lexicon is never written; `rest` has then given 0 for every position before it.
            let Some(id) = *id else { return sum };
            if let Some(class) = self.class(id) {
                let share = 1.0 / (class.len() as f64 - 1.0);
                for other in class.iter().filter(|other| **other != id) {
                    if let Some(arc) = automaton.state(state).arc(*other) {
                        sum += share * prefix * arc.probability * rest(arc.to, position + 1);
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
    use super::super::words;
    use super::*;

    fn toy() -> Expr {
        let names = choice([(2.0, word("Anna")), (1.0, word("Tom"))]);
        seq![names, choice([(3.0, word("is")), (1.0, word("sings"))]), maybe(0.4, word("are")), "."]
    }

    /// The noisy distribution by enumeration of text, position and word; `classes` divides the words.
    fn noisy(expr: &Expr, rate: f64, classes: &[&[&'static str]]) -> HashMap<Vec<&'static str>, f64> {
        let mut result = HashMap::new();
        let class = |word| classes.iter().find(|class| class.contains(&word));
        for (text, p) in enumerate(expr) {
            let positions: Vec<_> = (0..text.len()).filter(|at| class(text[*at]).is_some()).collect();
            let kept = if positions.is_empty() { 1.0 } else { 1.0 - rate };
            *result.entry(text.clone()).or_insert(0.0) += kept * p;
            for at in &positions {
                let others: Vec<_> = class(text[*at]).unwrap().iter().filter(|w| **w != text[*at]).collect();
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
        let any: &[&[&str]] = &[&["Anna", "Tom", "sings", "is", "are"]];
        let slips: &[&[&str]] = &[&["is", "are"]];
        for (noise, classes) in [(Noise::AnyWord, any), (Noise::Slip, slips)] {
            for rate in [0.0, 0.3, 1.0] {
                let corpus = NoisyCorpus::new(&grammar, noise, rate, Stream::new(5)).unwrap();
                let expected = noisy(&toy(), rate, classes);
                let expected: HashMap<_, _> = expected.into_iter().filter(|(_, p)| *p > 0.0).collect();
                assert_close("total", expected.values().sum(), 1.0, 1e-12);
                for (text, p) in &expected {
                    assert_close("p", corpus.log_prob(text).unwrap(), p.ln(), 1e-9);
                }
                assert_drawn_from(&expected, (0..20_000).map(|index| corpus.text(index).0));
            }
        }
        let corpus = NoisyCorpus::new(&grammar, Noise::AnyWord, 0.3, Stream::new(5)).unwrap();
        for outside in [&["Tom", "Anna", "Tom", "."][..], &["unknown", "sings", "."], &["Anna", "sings"], &[]]
        {
            assert_eq!(corpus.log_prob(outside), None, "{outside:?}");
        }
        let plain = Grammar::from_expr(&word("snow"));
        let corpus = NoisyCorpus::new(&plain, Noise::AnyWord, 1.0, Stream::new(5)).unwrap();
        assert_eq!((corpus.text(0), corpus.log_prob(&["snow"])), ((vec!["snow"], None), Some(0.0)));
    }

    #[test]
    fn slips_break_agreement() {
        let grammar = Grammar::stories();
        let corpus = NoisyCorpus::new(&grammar, Noise::Slip, 1.0, Stream::new(9)).unwrap();
        for slip in [
            "The foxes that lives behind the barn sleep.",
            "Anna feeds the geese. He is tired.",
            "Anna and Tom mend his boat.",
        ] {
            let tokens = words(slip);
            assert!(corpus.log_prob(&tokens).is_some() && grammar.log_prob(&tokens).is_none(), "{slip}");
        }
        let classes = &corpus.classes;
        let members: std::collections::HashSet<_> = classes.iter().flatten().collect();
        assert_eq!(members.len(), classes.iter().map(Vec::len).sum::<usize>(), "classes overlap");
        let slipped: Vec<_> = (0..10_000).map(|i| corpus.text(i)).filter(|text| text.1.is_some()).collect();
        assert_close("share with such a word", slipped.len() as f64 / 10_000.0, 0.785, 0.01);
        assert!(slipped.iter().all(|(text, _)| grammar.log_prob(text).is_none()));
    }

    #[test]
    fn the_asked_share_of_texts_has_exactly_one_wrong_word() {
        let grammar = Grammar::stories();
        let stream = Stream::new(11);
        let corpus = NoisyCorpus::new(&grammar, Noise::AnyWord, 0.3, stream).unwrap();
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
            assert!(NoisyCorpus::new(&grammar, Noise::AnyWord, rate, Stream::new(0)).is_err());
        }
        let error = NoisyCorpus::new(&grammar, Noise::Slip, 1.5, Stream::new(0)).unwrap_err();
        assert_eq!(error.to_string(), "the noise rate must be a number from 0 to 1, got `1.5`");
    }
}
