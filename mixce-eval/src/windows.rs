//! Windows of equal length, for comparing texts whose lengths differ.
//!
//! MAUVE and coherence depend on the lengths of the texts. The MixCE authors' *controlled* versions compare windows of
//! `floor(L / 1.35)` whitespace words (about `L` tokens), 10 000 of them drawn from all places in all texts.

use mixce_base::rng::{Stream, purpose};

/// The number of words corresponding to this many tokens, `floor(tokens / 1.35)`.
///
/// ```
/// use mixce_eval::windows::words_for_tokens;
/// assert_eq!([50, 100, 200].map(words_for_tokens), [37, 74, 148]);
/// ```
#[must_use]
pub fn words_for_tokens(tokens: usize) -> usize {
    (tokens as f64 / 1.35) as usize
}

/// There are fewer windows than requested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shortage {
    /// Windows that exist.
    pub available: usize,
    /// Windows requested.
    pub needed: usize,
}

/// Draws `count` distinct windows of `length` words uniformly from all positions of all texts: `(text, first word)`. `words` are the
/// word counts of the texts. As in the authors' code a text of `w` words has `w - length` positions: the last possible one is excluded.
///
/// # Errors
/// [`Shortage`] if there are fewer than `count` positions.
pub fn draw_windows(
    words: &[usize],
    length: usize,
    count: usize,
    seed: u64,
) -> Result<Vec<(usize, usize)>, Shortage> {
    // Where the places of each text begin in the row of all places.
    let mut starts = Vec::with_capacity(words.len());
    let mut available = 0usize;
    for words in words {
        starts.push(available);
        available = available.saturating_add(words.saturating_sub(length));
    }
    if available < count {
        return Err(Shortage { available, needed: count });
    }
    let stream = Stream::new(seed).fold(purpose::METRIC).fold(4);
    let place = |number: usize| {
        let text = starts.partition_point(|start| *start <= number) - 1;
        (text, number - starts[text])
    };
    Ok(draw_without_replacement(available, count, stream).into_iter().map(place).collect())
}

/// Texts as whitespace words, to draw windows from.
#[derive(Clone, Debug)]
pub struct WindowSource<'t> {
    texts: Vec<Vec<&'t str>>,
    words: Vec<usize>,
}

impl<'t> WindowSource<'t> {
    /// The words of these texts.
    #[must_use]
    pub fn new(texts: &'t [String]) -> Self {
        let texts: Vec<Vec<&str>> = texts.iter().map(|text| text.split_whitespace().collect()).collect();
        let words = texts.iter().map(Vec::len).collect();
        Self { texts, words }
    }

    /// How many windows of `tokens` tokens there are.
    #[must_use]
    pub fn count(&self, tokens: usize) -> usize {
        count_windows(&self.words, words_for_tokens(tokens))
    }

    /// `count` windows of `tokens` tokens, drawn by [`draw_windows`], as their words.
    ///
    /// # Errors
    /// [`Shortage`] when there are less.
    pub fn draw(&self, tokens: usize, count: usize, seed: u64) -> Result<Vec<&[&'t str]>, Shortage> {
        let length = words_for_tokens(tokens);
        let places = draw_windows(&self.words, length, count, seed)?;
        Ok(places.into_iter().map(|(text, first)| &self.texts[text][first..first + length]).collect())
    }
}

/// How many places texts of so many words have for windows of `length` words.
fn count_windows(words: &[usize], length: usize) -> usize {
    words.iter().map(|words| words.saturating_sub(length)).fold(0, usize::saturating_add)
}

/// The first `count` elements of a random permutation of `0..n` (Fisher-Yates with a sparse table of swaps).
fn draw_without_replacement(n: usize, count: usize, stream: Stream) -> Vec<usize> {
    let mut swapped = std::collections::HashMap::new();
    let mut drawn = Vec::with_capacity(count);
    for i in 0..count {
        let j = i + stream.below(i as u64, (n - i) as u64) as usize;
        let at_j = swapped.get(&j).copied().unwrap_or(j);
        let at_i = swapped.get(&i).copied().unwrap_or(i);
        swapped.insert(j, at_i);
        drawn.push(at_j);
    }
    drawn
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_shortage_is_counted() {
        assert_eq!(draw_windows(&[5, 3, 9], 4, 7, 1), Err(Shortage { available: 6, needed: 7 }));
        assert_eq!(draw_windows(&[], 4, 1, 1), Err(Shortage { available: 0, needed: 1 }));
        let mut all = draw_windows(&[5, 3, 9], 4, 6, 1).unwrap();
        all.sort_unstable();
        assert_eq!(all, [(0, 0), (2, 0), (2, 1), (2, 2), (2, 3), (2, 4)]);
    }

    #[test]
    fn windows_are_words_of_the_texts() {
        let texts = ["a b  c d".to_owned(), "e".to_owned()];
        let source = WindowSource::new(&texts);
        // 3 tokens stand for 2 words; the last place of a text is not taken.
        let mut drawn = source.draw(3, 2, 1).unwrap();
        drawn.sort_unstable();
        assert_eq!(drawn, [["a", "b"], ["b", "c"]]);
        assert_eq!((source.count(3), source.count(9)), (2, 0));
        assert_eq!(source.draw(3, 3, 1), Err(Shortage { available: 2, needed: 3 }));
    }

    #[test]
    fn every_place_is_as_likely() {
        let mut counts = std::collections::HashMap::new();
        for seed in 0..3000 {
            for window in draw_windows(&[4, 0, 3], 1, 2, seed).unwrap() {
                *counts.entry(window).or_insert(0) += 1;
            }
        }
        assert_eq!(counts.len(), 5);
        assert!(counts.values().all(|count| (1080..1320).contains(count)), "{counts:?}");
    }

    proptest! {
        #[test]
        fn windows_are_different_and_fit(words in prop::collection::vec(0usize..30, 1..20), length in 1usize..6, seed: u64) {
            let places: usize = words.iter().map(|w| w.saturating_sub(length)).sum();
            let drawn = draw_windows(&words, length, places / 2, seed).unwrap();
            let distinct: std::collections::HashSet<_> = drawn.iter().collect();
            prop_assert_eq!(distinct.len(), drawn.len());
            prop_assert!(drawn.iter().all(|(text, first)| first + length < words[*text] + 1));
        }
    }
}
