//! A smoothed distribution with full support, for reverse cross-entropy.

use super::{Grammar, check_probability, words};

/// The grammar's distribution mixed with a small share of a flat one, so that every text has a finite log-probability:
///
/// ```text
/// S(x) = (1 - epsilon) P(x) + epsilon U(x)
/// U(x) = (1 - s) (s / (L + 1))^n        n tokens, L tokens in the lexicon, s = m / (m + 1), m = mean length under P
/// ```
///
/// `U` draws a length from a geometric distribution with the mean of `P`, then each token uniformly from the lexicon
/// and one more class for all tokens outside it (which unknown token it is has no cost).
///
/// The reverse cross-entropy of samples `x_1..x_k` of a model `Q` is the Monte Carlo estimate
/// `CE(Q, S) = -1/k sum_i log S(x_i)` in nats per text. For `Q = S` it is the entropy `H(S)`; a model that
/// writes few, likely texts gets below that, so read it beside diversity. A text outside the support costs about
/// `-log epsilon + n log(L + 1)`.
#[derive(Clone, Copy, Debug)]
pub struct SmoothedGrammar<'g> {
    grammar: &'g Grammar,
    epsilon: f64,
}

impl<'g> SmoothedGrammar<'g> {
    /// The default share of the flat distribution.
    pub const EPSILON: f64 = 1e-3;

    /// Mixes in a share `epsilon` of the flat distribution.
    ///
    /// # Errors
    ///
    /// If `epsilon` is not in `[0, 1]`.
    pub fn new(grammar: &'g Grammar, epsilon: f64) -> crate::Result<Self> {
        check_probability("smoothing share", epsilon)?;
        Ok(Self { grammar, epsilon })
    }

    /// `log S(tokens)` in nats. Finite for `epsilon > 0` and `epsilon < 1`.
    #[must_use]
    pub fn log_prob(&self, tokens: &[&str]) -> f64 {
        self.mix(self.grammar.log_prob(tokens), tokens.len())
    }

    /// The same for a text. One that is not written exactly as the grammar writes (a second space, a space before a
    /// full stop) has no share in `P`.
    #[must_use]
    pub fn log_prob_text(&self, text: &str) -> f64 {
        self.mix(self.grammar.log_prob_text(text), words(text).len())
    }

    fn mix(&self, clean: Option<f64>, tokens: usize) -> f64 {
        let flat = self.epsilon.ln() + self.log_flat(tokens);
        let clean = clean.map_or(f64::NEG_INFINITY, |clean| (1.0 - self.epsilon).ln() + clean);
        let (high, low) = if flat > clean { (flat, clean) } else { (clean, flat) };
        if high == f64::NEG_INFINITY { high } else { high + (low - high).exp().ln_1p() }
    }

    /// `log U` of a text of `tokens` tokens.
    fn log_flat(&self, tokens: usize) -> f64 {
        let mean = self.grammar.facts().mean_tokens;
        let go_on = mean / (mean + 1.0);
        let classes = self.grammar.lexicon().len() as f64 + 1.0;
        (1.0 - go_on).ln() + tokens as f64 * (go_on / classes).ln()
    }
}

/// Scores of a model's samples under a grammar.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SampleScore {
    /// Number of samples.
    pub samples: usize,
    /// Share of the samples that the clean grammar can generate, in `[0, 1]`.
    pub in_support: f64,
    /// Mean of `-log S`, in nats per text.
    pub reverse_cross_entropy_nats: f64,
    /// Different texts over all texts, in `[0, 1]`.
    pub distinct: f64,
    /// Mean length in tokens.
    pub mean_tokens: f64,
}

impl SampleScore {
    /// Scores rendered texts. `None` without samples.
    #[must_use]
    pub fn of(smoothed: &SmoothedGrammar<'_>, texts: &[impl AsRef<str>]) -> Option<Self> {
        if texts.is_empty() {
            return None;
        }
        let count = texts.len() as f64;
        let share = |total: usize| total as f64 / count;
        let texts = || texts.iter().map(AsRef::as_ref);
        let supported = texts().filter(|text| smoothed.grammar.log_prob_text(text).is_some()).count();
        let distinct = texts().collect::<std::collections::HashSet<&str>>().len();
        Some(Self {
            samples: texts().len(),
            in_support: share(supported),
            reverse_cross_entropy_nats: -texts().map(|text| smoothed.log_prob_text(text)).sum::<f64>()
                / count,
            distinct: share(distinct),
            mean_tokens: share(texts().map(|text| words(text).len()).sum()),
        })
    }
}

#[cfg(test)]
mod tests {
    use mixce_base::rng::Stream;

    use super::super::expr::{choice, seq, word};
    use super::super::tests::assert_close;
    use super::super::{Noise, NoisyCorpus};
    use super::*;

    fn toy() -> Grammar {
        let names = choice([(3.0, word("Anna")), (1.0, word("Tom"))]);
        Grammar::from_expr(&seq![names, "sings."])
    }

    #[test]
    fn the_formula_holds_on_a_toy() {
        let grammar = toy();
        let smoothed = SmoothedGrammar::new(&grammar, 0.1).unwrap();
        // Four tokens and the unknown class, mean length 3.
        let flat = |n: i32| 0.25 * (0.75f64 / 5.0).powi(n);
        let s = |text| smoothed.log_prob_text(text).exp();
        assert_close("inside", s("Anna sings."), 0.9 * 0.75 + 0.1 * flat(3), 1e-12);
        assert_close("outside", s("Anna Tom"), 0.1 * flat(2), 1e-12);
        assert_close("unknown", s("Zoe sings."), 0.1 * flat(3), 1e-12);
        assert_close("spacing", s("Anna  sings."), 0.1 * flat(3), 1e-12);
        assert_close("empty", s(""), 0.1 * flat(0), 1e-12);
        assert_close(
            "tokens",
            smoothed.log_prob(&["Tom", "sings", "."]).exp(),
            0.9 * 0.25 + 0.1 * flat(3),
            1e-12,
        );
    }

    #[test]
    fn the_flat_distribution_sums_to_one() {
        let grammar = Grammar::stories();
        let smoothed = SmoothedGrammar::new(&grammar, SmoothedGrammar::EPSILON).unwrap();
        let log_classes = (grammar.lexicon().len() as f64 + 1.0).ln();
        let lengths = 0..1000;
        let total: f64 = lengths.clone().map(|n| (smoothed.log_flat(n) + n as f64 * log_classes).exp()).sum();
        let mean: f64 =
            lengths.map(|n| n as f64 * (smoothed.log_flat(n) + n as f64 * log_classes).exp()).sum();
        assert_close("total", total, 1.0, 1e-9);
        assert_close("mean length", mean, grammar.facts().mean_tokens, 1e-9);
    }

    #[test]
    fn the_ends_of_epsilon_are_the_parts() {
        let grammar = toy();
        let clean = SmoothedGrammar::new(&grammar, 0.0).unwrap();
        assert_close("clean", clean.log_prob_text("Tom sings."), 0.25f64.ln(), 1e-12);
        assert_eq!(clean.log_prob_text("Tom"), f64::NEG_INFINITY);
        let flat = SmoothedGrammar::new(&grammar, 1.0).unwrap();
        assert_close("flat", flat.log_prob_text("Tom sings."), flat.log_flat(3), 1e-12);
        assert!(SmoothedGrammar::new(&grammar, f64::NAN).is_err());
    }

    #[test]
    fn own_samples_score_as_the_truth_does_and_noise_costs() {
        let grammar = Grammar::stories();
        let smoothed = SmoothedGrammar::new(&grammar, SmoothedGrammar::EPSILON).unwrap();
        let texts: Vec<String> =
            (0..5_000).map(|i| crate::grammar::render(&grammar.sample(Stream::new(2), i))).collect();
        let score = SampleScore::of(&smoothed, &texts).unwrap();
        assert_eq!((score.samples, score.in_support), (5_000, 1.0));
        assert_close(
            "reverse cross-entropy",
            score.reverse_cross_entropy_nats,
            grammar.facts().entropy_nats,
            0.02,
        );
        let noisy = NoisyCorpus::new(&grammar, Noise::AnyWord, 1.0, Stream::new(2)).unwrap();
        let texts: Vec<String> = noisy.texts(0..5_000).collect();
        let worse = SampleScore::of(&smoothed, &texts).unwrap();
        assert!(worse.in_support < 0.2, "{worse:?}");
        assert!(worse.reverse_cross_entropy_nats > score.reverse_cross_entropy_nats + 50.0, "{worse:?}");
        let twice = ["Tom sings.", "Tom sings.", "Ida sings.", "Sings."];
        let score = SampleScore::of(&smoothed, &twice).unwrap();
        assert_eq!((score.distinct, score.in_support, score.mean_tokens), (0.75, 0.75, 2.75));
        assert!(SampleScore::of(&smoothed, &[] as &[&str]).is_none());
    }
}
