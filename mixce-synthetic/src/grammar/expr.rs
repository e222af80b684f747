//! A small language in which the grammar is written: words, sequences and weighted choices.
//!
//! Features such as number, gender or a remembered name are ordinary Rust arguments of the functions that build
//! expressions, so they are expanded while the expression is built and nothing of them is left afterwards.

use std::rc::Rc;

use super::text::words;

/// One part of the grammar; cheap to clone, parts are shared.
pub(super) type Expr = Rc<Node>;

/// What a part of the grammar writes.
#[derive(Debug)]
pub(super) enum Node {
    /// Exactly this token.
    Word(&'static str),
    /// Each part in turn; an empty sequence writes nothing.
    Sequence(Vec<Expr>),
    /// One of the parts, drawn in proportion to its weight. Weights are positive and need not sum to one.
    Choice(Vec<(f64, Expr)>),
}

/// Exactly one token.
pub(super) fn word(token: &'static str) -> Expr {
    Rc::new(Node::Word(token))
}

/// Several fixed tokens, split as [`words`] does.
pub(super) fn phrase(text: &'static str) -> Expr {
    sequence(words(text).into_iter().map(word))
}

/// Each part in turn.
pub(super) fn sequence(parts: impl IntoIterator<Item = Expr>) -> Expr {
    Rc::new(Node::Sequence(parts.into_iter().collect()))
}

/// One of the parts, in proportion to its weight; parts with a weight of zero or less are left out.
pub(super) fn choice(parts: impl IntoIterator<Item = (f64, Expr)>) -> Expr {
    Rc::new(Node::Choice(parts.into_iter().filter(|(weight, _)| *weight > 0.0).collect()))
}

/// The part with probability `probability`, else nothing.
pub(super) fn maybe(probability: f64, part: Expr) -> Expr {
    choice([(probability, part), (1.0 - probability, sequence([]))])
}

/// Weight of the item at `rank` (from 0) of a list sorted from common to rare: `1 / (rank + 1)`, Zipf's law.
pub(super) fn zipf_weight(rank: usize) -> f64 {
    1.0 / (rank as f64 + 1.0)
}

/// One item of a list sorted from common to rare, with Zipf's weights.
pub(super) fn zipf<T>(items: impl IntoIterator<Item = T>, part: impl Fn(T) -> Expr) -> Expr {
    choice(items.into_iter().enumerate().map(|(rank, item)| (zipf_weight(rank), part(item))))
}

/// One word of a list sorted from common to rare, with Zipf's weights.
pub(super) fn zipf_word(items: &[&'static str]) -> Expr {
    zipf(items.iter().copied(), word)
}

/// Builds a sequence; a string literal stands for its words.
macro_rules! seq {
    ($($part:expr),* $(,)?) => {
        $crate::grammar::expr::sequence([$($crate::grammar::expr::Part::into_expr($part)),*])
    };
}
pub(super) use seq;

/// What may stand inside [`seq!`].
pub(super) trait Part {
    /// The part as an expression.
    fn into_expr(self) -> Expr;
}

impl Part for Expr {
    fn into_expr(self) -> Expr {
        self
    }
}

impl Part for &Expr {
    fn into_expr(self) -> Expr {
        Rc::clone(self)
    }
}

impl Part for &'static str {
    fn into_expr(self) -> Expr {
        phrase(self)
    }
}
