//! The automaton against a plain enumeration of every derivation, and the English of the stories.

use std::collections::HashMap;

use proptest::prelude::*;

use super::expr::{Node, choice, maybe, phrase, seq, sequence, word, zipf_word};
use super::lexicon::Lexicon;
use super::*;

/// Parts that are still to be written, first one first.
struct Todo<'a> {
    part: &'a Expr,
    rest: Option<&'a Todo<'a>>,
}

/// Calls `visit` with the tokens and the probability of every derivation: the slow, obvious reading of an expression.
fn derive(
    todo: Option<&Todo<'_>>,
    tokens: &mut Vec<&'static str>,
    p: f64,
    visit: &mut dyn FnMut(&[&'static str], f64),
) {
    let Some(Todo { part, rest }) = todo else { return visit(tokens, p) };
    match part.as_ref() {
        Node::Word(token) => {
            tokens.push(token);
            derive(*rest, tokens, p, visit);
            tokens.pop();
        }
        Node::Sequence(parts) => derive_all(parts, *rest, tokens, p, visit),
        Node::Choice(parts) => {
            let total: f64 = parts.iter().map(|(weight, _)| weight).sum();
            for (weight, part) in parts {
                derive(Some(&Todo { part, rest: *rest }), tokens, p * weight / total, visit);
            }
        }
    }
}

/// [`derive`] for `parts` followed by `rest`.
fn derive_all(
    parts: &[Expr],
    rest: Option<&Todo<'_>>,
    tokens: &mut Vec<&'static str>,
    p: f64,
    visit: &mut dyn FnMut(&[&'static str], f64),
) {
    match parts {
        [] => derive(rest, tokens, p, visit),
        [part] => derive(Some(&Todo { part, rest }), tokens, p, visit),
        [parts @ .., last] => derive_all(parts, Some(&Todo { part: last, rest }), tokens, p, visit),
    }
}

/// Every text with its probability, summed over its derivations.
pub(super) fn enumerate(expr: &Expr) -> HashMap<Vec<&'static str>, f64> {
    let mut texts = HashMap::new();
    derive(Some(&Todo { part: expr, rest: None }), &mut Vec::new(), 1.0, &mut |tokens, p| {
        *texts.entry(tokens.to_vec()).or_insert(0.0) += p;
    });
    texts
}

pub(super) fn assert_close(what: &str, got: f64, want: f64, tolerance: f64) {
    assert!((got - want).abs() <= tolerance * (1.0 + want.abs()), "{what}: got {got}, want {want}");
}

/// Compares all that a grammar says with the enumeration of its expression.
fn assert_exact(expr: &Expr) {
    let texts = enumerate(expr);
    let grammar = Grammar::from_expr(expr);
    let facts = grammar.facts();
    assert_close("total probability", texts.values().sum(), 1.0, 1e-12);
    assert_eq!(facts.distinct_texts, texts.len() as u128);
    assert_eq!(facts.max_tokens, texts.keys().map(Vec::len).max().unwrap());
    let entropy: f64 = texts.values().map(|p| -p * p.ln()).sum();
    assert_close("entropy", facts.entropy_nats, entropy, 1e-9);
    assert_close("length", facts.mean_tokens, texts.iter().map(|(t, p)| t.len() as f64 * p).sum(), 1e-9);
    for (tokens, p) in &texts {
        let got = grammar.log_prob(tokens).unwrap_or(f64::NEG_INFINITY);
        assert_close(&render(tokens), got, p.ln(), 1e-9);
        assert_eq!(grammar.first_error(tokens), None);
    }
}

#[test]
fn stories_over_a_cut_lexicon_equal_their_enumeration() {
    let expr = stories::stories(Lexicon::first(1));
    assert!(enumerate(&expr).len() > 300_000);
    assert_exact(&expr);
}

#[test]
fn two_derivations_of_one_text_are_summed() {
    let either = choice([
        (0.25, phrase("the fish sleep")),
        (0.75, seq!["the", choice([(1.0, word("fish")), (1.0, word("dog"))]), "sleep"]),
    ]);
    let grammar = Grammar::from_expr(&either);
    let p = grammar.log_prob(&["the", "fish", "sleep"]).unwrap().exp();
    assert_close("p", p, 0.25 + 0.75 * 0.5, 1e-15);
    assert_eq!(grammar.facts().distinct_texts, 2);
    // The number of "sheep" is decided only at the verb.
    let herd = choice([
        (2.0, phrase("the sheep sleeps")),
        (1.0, phrase("the sheep sleep")),
        (1.0, phrase("the dog sleeps")),
    ]);
    assert_exact(&herd);
}

fn expressions() -> impl Strategy<Value = Expr> {
    let leaf = prop::sample::select(vec!["a", "b", "c"]).prop_map(word);
    leaf.prop_recursive(4, 16, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(sequence),
            prop::collection::vec((0.1f64..3.0, inner.clone()), 1..4).prop_map(choice),
            (0.0f64..1.0, inner).prop_map(|(p, part)| maybe(p, part)),
        ]
    })
}

proptest! {
    #[test]
    fn any_expression_equals_its_enumeration(expr in expressions()) {
        assert_exact(&expr);
    }

    #[test]
    fn support_of_any_expression_is_its_enumeration(
        expr in expressions(),
        tokens in prop::collection::vec(prop::sample::select(vec!["a", "b", "c", "d"]), 0..6),
    ) {
        let inside = enumerate(&expr).contains_key(&tokens);
        let grammar = Grammar::from_expr(&expr);
        prop_assert_eq!(grammar.log_prob(&tokens).is_some(), inside);
        prop_assert_eq!(grammar.first_error(&tokens).is_none(), inside);
    }

    #[test]
    fn no_text_is_refused_with_a_panic(text in "\\PC{0,60}") {
        let grammar = Grammar::from_expr(&phrase("Anna sings."));
        prop_assert_eq!(grammar.log_prob_text(&text).is_some(), text == "Anna sings.");
    }
}

/// Pearson's statistic of samples against probabilities, all texts expected fewer than 5 times in one class, and the
/// degrees of freedom.
fn chi_square(
    counts: &HashMap<Vec<&'static str>, u32>,
    expected: &HashMap<Vec<&'static str>, f64>,
) -> (f64, f64) {
    let total: f64 = counts.values().map(|n| f64::from(*n)).sum();
    assert!(counts.keys().all(|text| expected.contains_key(text)), "a text outside the support was drawn");
    let (mut statistic, mut classes, mut rare_seen, mut rare_expected) = (0.0, 0.0, 0.0, 0.0);
    for (text, p) in expected {
        let seen = f64::from(counts.get(text).copied().unwrap_or(0));
        if p * total < 5.0 {
            rare_seen += seen;
            rare_expected += p * total;
        } else {
            statistic += (seen - p * total).powi(2) / (p * total);
            classes += 1.0;
        }
    }
    if rare_expected > 0.0 {
        statistic += (rare_seen - rare_expected) * (rare_seen - rare_expected) / rare_expected;
        classes += 1.0;
    }
    (statistic, classes - 1.0)
}

pub(super) fn assert_drawn_from(
    expected: &HashMap<Vec<&'static str>, f64>,
    draws: impl Iterator<Item = Vec<&'static str>>,
) {
    let mut counts = HashMap::new();
    draws.for_each(|text| *counts.entry(text).or_insert(0) += 1);
    let (statistic, freedom) = chi_square(&counts, expected);
    // Five standard deviations; the seed is fixed, so this passes always or never.
    assert!(
        statistic < freedom + 5.0 * (2.0 * freedom).sqrt(),
        "chi-square {statistic} at {freedom} degrees"
    );
    assert!(freedom >= 2.0, "too few classes to mean anything");
}

#[test]
fn texts_are_drawn_as_often_as_their_probability_says() {
    let stream = Stream::new(7);
    let names = seq![
        zipf_word(&["Anna", "Tom", "Ida"]),
        maybe(0.3, phrase("often")),
        zipf_word(&["sings", "waits"]),
        "."
    ];
    let grammar = Grammar::from_expr(&names);
    assert_drawn_from(&enumerate(&names), (0..20_000).map(|i| grammar.sample(stream, i)));
    let cut = stories::stories(Lexicon::first(1));
    let grammar = Grammar::from_expr(&cut);
    assert_drawn_from(&enumerate(&cut), (0..100_000).map(|i| grammar.sample(stream, i)));
}

#[test]
fn every_state_is_a_distribution_with_one_arc_a_word() {
    let automaton = Grammar::stories().automaton;
    for (id, state) in automaton.states.iter().enumerate() {
        let total: f64 = state.accept + state.arcs.iter().map(|arc| arc.probability).sum::<f64>();
        assert_close("total", total, 1.0, 1e-12);
        assert!(state.arcs.windows(2).all(|pair| pair[0].word < pair[1].word));
        assert!(state.arcs.iter().all(|arc| (arc.to as usize) < id && arc.probability > 0.0));
    }
}

#[test]
fn the_world_is_small_but_rich() {
    let facts = *Grammar::stories().facts();
    assert!((150..=300).contains(&facts.vocabulary), "{facts:?}");
    assert!((10.0..=16.0).contains(&facts.mean_tokens), "{facts:?}");
    assert!(facts.max_tokens <= 30 && facts.distinct_texts > 1_000_000, "{facts:?}");
}

#[test]
fn entropy_and_length_equal_the_mean_over_many_samples() {
    let grammar = Grammar::stories();
    let count = 20_000;
    let samples: Vec<_> = (0..count).map(|i| grammar.sample(Stream::new(3), i)).collect();
    let surprise: Vec<f64> = samples.iter().map(|text| -grammar.log_prob(text).unwrap()).collect();
    let mean = |values: &mut dyn Iterator<Item = f64>| values.sum::<f64>() / count as f64;
    let entropy = mean(&mut surprise.iter().copied());
    let spread = mean(&mut surprise.iter().map(|s| (s - entropy).powi(2))).sqrt();
    let error = (entropy - grammar.facts().entropy_nats).abs();
    assert!(error < 4.0 * spread / (count as f64).sqrt(), "off by {error}, spread {spread}");
    let length = mean(&mut samples.iter().map(|text| text.len() as f64));
    assert_close("length", length, grammar.facts().mean_tokens, 0.01);
}

#[test]
fn what_should_agree_must_agree() {
    let grammar = Grammar::stories();
    // Each pair differs in what one word agrees with; the first text is English.
    let pairs = [
        ("The foxes behind the old barn sleep.", "The foxes behind the old barn sleeps."),
        ("The fox behind the old barns sleeps.", "The fox behind the old barns sleep."),
        ("The geese that Anna feeds hide in the garden.", "The geese that Anna feeds hides in the garden."),
        ("The goose that the children feed hides.", "The goose that the children feeds hides."),
        (
            "The hens that live near the mill run to the barn.",
            "The hens that lives near the mill run to the barn.",
        ),
        ("Anna feeds the geese. She is tired.", "Anna feeds the geese. He is tired."),
        ("Tom, who lives near the mill, sells his boat.", "Tom, who lives near the mill, sells her boat."),
        ("Tom talks to himself.", "Tom talks to herself."),
        ("Mara waits because she is cold.", "Mara waits because he is cold."),
        ("Anna feeds the dog. Only Anna knows why.", "Anna feeds the dog. Only Mara knows why."),
        ("The baker mends the lamp. The baker is proud.", "The baker mends the lamp. The farmer is proud."),
        ("The bakers sing. They are proud.", "The bakers sing. They is proud."),
        ("Tom finds an old key. The key is wet.", "Tom finds an old key. The lamp is wet."),
        ("Tom finds an old key. He keeps the key.", "Tom finds an old key. She keeps the key."),
        ("Tom buys a map. He gives the map to Ida.", "Tom buys a map. He gives the map to Tom."),
        ("Tom buys a map. Now the map belongs to Tom.", "Tom buys a map. Now the map belongs to Ida."),
        ("Ida makes an umbrella. She keeps the umbrella.", "Ida makes a umbrella. She keeps the umbrella."),
        (
            "Anna and Tom sing. Anna is happy, but Tom is not.",
            "Anna and Tom sing. Tom is happy, but Anna is not.",
        ),
        ("Anna and Tom mend their boat.", "Anna and Tom mend his boat."),
        ("The owl shivers because it is cold.", "The owl shivers because they are cold."),
    ];
    for (right, wrong) in pairs {
        assert!(
            grammar.log_prob_text(right).is_some(),
            "`{right}` breaks at {:?}",
            grammar.first_error(&words(right))
        );
        assert!(grammar.log_prob_text(wrong).is_none(), "`{wrong}` is in the support");
    }
    for wrong in
        ["", "Anna", "Anna feeds the geese", "anna sings.", "Anna  sings.", "Anna sings .", "Anna sings. "]
    {
        assert!(grammar.log_prob_text(wrong).is_none(), "`{wrong}` is in the support");
    }
}

#[test]
fn the_first_error_is_found() {
    let grammar = Grammar::stories();
    let at = |text| grammar.first_error(&words(text));
    assert_eq!(at("The foxes behind the old barn sleeps."), Some(6));
    assert_eq!(at("The foxes behind the unseen barn sleep."), Some(4));
    assert_eq!(at("The foxes behind the old"), Some(5));
    assert_eq!(at(""), Some(0));
    assert_eq!(at("The foxes sleep."), None);
}

#[test]
fn samples_survive_a_round_trip_through_text_and_are_pinned() {
    let grammar = Grammar::stories();
    for index in 0..2_000 {
        let tokens = grammar.sample(Stream::new(1), index);
        let text = render(&tokens);
        assert_eq!(words(&text), tokens);
        assert!(grammar.log_prob_text(&text).is_some(), "`{text}`");
    }
    // A change of these texts changes every quickstart result: update its documentation too.
    let pinned: Vec<_> = (0..3).map(|index| render(&grammar.sample(Stream::new(1), index))).collect();
    assert_eq!(
        pinned,
        [
            "The owls near the mill follow the dog. They are tired.",
            "The teacher behind the mill feeds the geese.",
            "Tom and Ben mend their bell. Then they wait beside the pond.",
        ]
    );
}
