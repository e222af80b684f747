//! Exact statistics of the grammar's distribution, by dynamic programming over the automaton.

use super::automaton::{Automaton, State};

/// Exact statistics of a grammar's texts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GrammarFacts {
    /// Number of different tokens, punctuation marks included.
    pub vocabulary: usize,
    /// States of the automaton.
    pub states: usize,
    /// Number of different texts (saturates at `u128::MAX`).
    pub distinct_texts: u128,
    /// `H(P) = -sum_x P(x) log P(x)`, in nats per text.
    pub entropy_nats: f64,
    /// `sum_x P(x) |x|`, in tokens.
    pub mean_tokens: f64,
    /// Length of the longest text, in tokens.
    pub max_tokens: usize,
}

impl GrammarFacts {
    /// Each text is one path, so the entropy of the texts is that of the paths: over all states, the probability of
    /// passing the state times the entropy of the choice made in it.
    pub(super) fn of(automaton: &Automaton) -> Self {
        let mut distinct: Vec<u128> = Vec::with_capacity(automaton.states.len());
        let mut longest: Vec<usize> = Vec::with_capacity(automaton.states.len());
        for state in &automaton.states {
            // Targets have smaller indices than their source.
            let below = state.arcs.iter().map(|arc| distinct[arc.to as usize]);
            distinct.push(below.fold(u128::from(state.accept > 0.0), u128::saturating_add));
            longest.push(state.arcs.iter().map(|arc| longest[arc.to as usize] + 1).max().unwrap_or(0));
        }
        let start = automaton.start as usize;
        let (mut entropy_nats, mut mean_tokens) = (0.0, 0.0);
        for (state, visits) in automaton.states.iter().zip(visits(automaton)) {
            entropy_nats += visits * choice_entropy(state);
            mean_tokens += visits * (1.0 - state.accept);
        }
        Self {
            vocabulary: automaton.words.len(),
            states: automaton.states.len(),
            distinct_texts: distinct.get(start).copied().unwrap_or(0),
            entropy_nats,
            mean_tokens,
            max_tokens: longest.get(start).copied().unwrap_or(0),
        }
    }
}

/// Probability that a text passes each state.
fn visits(automaton: &Automaton) -> Vec<f64> {
    let mut visits = vec![0.0; automaton.states.len()];
    if let Some(start) = visits.get_mut(automaton.start as usize) {
        *start = 1.0;
    }
    for (id, state) in automaton.states.iter().enumerate().rev() {
        for arc in &state.arcs {
            visits[arc.to as usize] += visits[id] * arc.probability;
        }
    }
    visits
}

/// Entropy in nats of the choice in a state: which arc is taken, or that the text ends.
fn choice_entropy(state: &State) -> f64 {
    let probabilities = state.arcs.iter().map(|arc| arc.probability).chain([state.accept]);
    probabilities.filter(|p| *p > 0.0).map(|p| -p * p.ln()).sum()
}
