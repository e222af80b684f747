//! The grammar as a deterministic weighted automaton: one path per text, so every probability is a product.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use super::expr::{Expr, Node};

/// Index of a token in the lexicon.
pub(super) type WordId = u32;
/// Index of a state.
pub(super) type StateId = u32;

/// A transition: with probability `probability` write `word` and continue at `to`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Arc {
    pub(super) word: WordId,
    pub(super) probability: f64,
    pub(super) to: StateId,
}

/// What may follow a prefix. `accept` plus the probabilities of all arcs is 1.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct State {
    /// At most one arc a word, sorted by word.
    pub(super) arcs: Vec<Arc>,
    /// Probability that the text ends here.
    pub(super) accept: f64,
}

impl State {
    /// The arc that writes `word`.
    pub(super) fn arc(&self, word: WordId) -> Option<&Arc> {
        self.arcs.binary_search_by_key(&word, |arc| arc.word).ok().and_then(|at| self.arcs.get(at))
    }
}

/// Deterministic, acyclic, trimmed to the states that a text can pass. A target always has a smaller index than its
/// source, so a pass over the states in index order sees targets first.
#[derive(Clone, Debug)]
pub(super) struct Automaton {
    pub(super) words: Vec<&'static str>,
    pub(super) ids: HashMap<&'static str, WordId>,
    pub(super) states: Vec<State>,
    pub(super) start: StateId,
}

impl Automaton {
    /// Compiles an expression. Two derivations of one text end in one path that carries the sum of both.
    pub(super) fn compile(root: &Expr) -> Self {
        let mut builder = Builder::new(root);
        let end = builder.state(Vec::new(), 1.0);
        let start = builder.compile(root, end);
        builder.finish(start)
    }

    /// The state at `id`; a state without any continuation for an index out of range.
    pub(super) fn state(&self, id: StateId) -> &State {
        static DEAD: State = State { arcs: Vec::new(), accept: 0.0 };
        self.states.get(id as usize).unwrap_or(&DEAD)
    }
}

/// Key of a state: probabilities by their bits, so that equal states are found again.
type StateKey = (Vec<(WordId, u64, StateId)>, u64);

struct Builder {
    words: Vec<&'static str>,
    ids: HashMap<&'static str, WordId>,
    states: Vec<State>,
    known: HashMap<StateKey, StateId>,
    mixed: HashMap<Vec<(u64, StateId)>, StateId>,
    /// Compiled parts by address (all parts live as long as the root) and continuation.
    compiled: HashMap<(*const Node, StateId), StateId>,
}

impl Builder {
    fn new(root: &Expr) -> Self {
        let mut words = Vec::new();
        let mut seen = std::collections::HashSet::new();
        collect_words(root, &mut words, &mut seen);
        words.sort_unstable();
        words.dedup();
        let ids = words.iter().zip(0..).map(|(word, id)| (*word, id)).collect();
        Self {
            words,
            ids,
            states: Vec::new(),
            known: HashMap::new(),
            mixed: HashMap::new(),
            compiled: HashMap::new(),
        }
    }

    /// The state with these arcs (sorted by word), new or known.
    fn state(&mut self, arcs: Vec<Arc>, accept: f64) -> StateId {
        let key = (
            arcs.iter().map(|arc| (arc.word, arc.probability.to_bits(), arc.to)).collect(),
            accept.to_bits(),
        );
        if let Some(&id) = self.known.get(&key) {
            return id;
        }
        let id = self.states.len() as StateId;
        self.states.push(State { arcs, accept });
        self.known.insert(key, id);
        id
    }

    /// The state that behaves like `id` with probability proportional to its weight, for each of `parts`.
    ///
    /// Arcs of one word are merged: `p(w) = sum_i a_i p_i(w)`, and its target is the mixture of the targets with
    /// weights `a_i p_i(w) / p(w)`. That is determinisation; it ends because the automaton has no cycles.
    fn mix(&mut self, mut parts: Vec<(f64, StateId)>) -> StateId {
        parts.sort_unstable_by_key(|(_, id)| *id);
        parts.dedup_by(|next, kept| {
            let same = next.1 == kept.1;
            if same {
                kept.0 += next.0;
            }
            same
        });
        if let [(_, only)] = parts.as_slice() {
            return *only;
        }
        let total: f64 = parts.iter().map(|(weight, _)| weight).sum();
        parts.iter_mut().for_each(|(weight, _)| *weight /= total);
        let key: Vec<_> = parts.iter().map(|(weight, id)| (weight.to_bits(), *id)).collect();
        if let Some(&id) = self.mixed.get(&key) {
            return id;
        }
        let mut accept = 0.0;
        let mut targets: BTreeMap<WordId, Vec<(f64, StateId)>> = BTreeMap::new();
        for (weight, id) in &parts {
            let state = &self.states[*id as usize];
            accept += weight * state.accept;
            for arc in &state.arcs {
                targets.entry(arc.word).or_default().push((weight * arc.probability, arc.to));
            }
        }
        let mut arcs = Vec::with_capacity(targets.len());
        for (word, targets) in targets {
            let probability = targets.iter().map(|(weight, _)| weight).sum();
            arcs.push(Arc { word, probability, to: self.mix(targets) });
        }
        let id = self.state(arcs, accept);
        self.mixed.insert(key, id);
        id
    }

    /// The state that writes `part` and then continues at `next`.
    fn compile(&mut self, part: &Expr, next: StateId) -> StateId {
        let key = (Rc::as_ptr(part), next);
        if let Some(&id) = self.compiled.get(&key) {
            return id;
        }
        let id = match part.as_ref() {
            Node::Word(token) => {
                let word = self.ids.get(token).copied().unwrap_or(WordId::MAX);
                self.state(vec![Arc { word, probability: 1.0, to: next }], 0.0)
            }
            Node::Sequence(parts) => parts.iter().rev().fold(next, |next, part| self.compile(part, next)),
            Node::Choice(parts) => {
                let parts = parts.iter().map(|(weight, part)| (*weight, self.compile(part, next))).collect();
                self.mix(parts)
            }
        };
        self.compiled.insert(key, id);
        id
    }

    /// Keeps the states that are reachable from `start`, in the order in which they were made: targets first.
    fn finish(self, start: StateId) -> Automaton {
        let mut reachable = vec![false; self.states.len()];
        reachable[start as usize] = true;
        for id in (0..self.states.len()).rev() {
            if reachable[id] {
                self.states[id].arcs.iter().for_each(|arc| reachable[arc.to as usize] = true);
            }
        }
        let mut renamed = vec![0; self.states.len()];
        let mut states = Vec::new();
        for (id, mut state) in self.states.into_iter().enumerate() {
            if reachable[id] {
                renamed[id] = states.len() as StateId;
                state.arcs.iter_mut().for_each(|arc| arc.to = renamed[arc.to as usize]);
                states.push(state);
            }
        }
        Automaton { words: self.words, ids: self.ids, states, start: renamed[start as usize] }
    }
}

/// Adds every token below `part` once for each place that writes it; shared parts are visited once.
fn collect_words(
    part: &Expr,
    words: &mut Vec<&'static str>,
    seen: &mut std::collections::HashSet<*const Node>,
) {
    if !seen.insert(Rc::as_ptr(part)) {
        return;
    }
    match part.as_ref() {
        Node::Word(token) => words.push(token),
        Node::Sequence(parts) => parts.iter().for_each(|part| collect_words(part, words, seen)),
        Node::Choice(parts) => parts.iter().for_each(|(_, part)| collect_words(part, words, seen)),
    }
}
