//! Training examples: documents, or blocks of concatenated documents.
use std::ops::Range;

use super::store::TokenStore;
use crate::error::{Error, Result};

/// The items of batches.
///
/// Without blocks an example is a document. With blocks of `N` tokens the documents, each ending in EOS, are concatenated in the file's
/// order and cut every `N` tokens; the remainder is a shorter last block, unless it is a single token, which has no target. A block of `n`
/// tokens has `n - 1` targets.
/// Attention is restricted to a *piece* ([`Self::pieces`]): the whole example, or, in confined blocks, the part of a document in the block.
/// Each piece of `n` tokens has `n - 1` targets.
#[derive(Debug)]
pub struct Examples {
    store: TokenStore,
    block_tokens: Option<usize>,
    confined: bool,
}

impl Examples {
    /// One example per document.
    #[must_use]
    pub fn documents(store: TokenStore) -> Self {
        Self { store, block_tokens: None, confined: false }
    }

    /// Blocks of `block_tokens` tokens.
    ///
    /// # Errors
    /// [`Error::Config`] for blocks of fewer than two tokens.
    pub fn blocks(store: TokenStore, block_tokens: usize) -> Result<Self> {
        if block_tokens < 2 {
            return Err(Error::config(format!(
                "`config.block_size = {block_tokens}`: expected 0 (off) or at least 2"
            )));
        }
        Ok(Self { store, block_tokens: Some(block_tokens), confined: false })
    }

    /// Blocks of `block_tokens` tokens, with attention confined to each document.
    ///
    /// # Errors
    /// [`Error::Config`] for blocks of fewer than three tokens: one of two may hold an end and a beginning, neither with a target.
    pub fn confined_blocks(store: TokenStore, block_tokens: usize) -> Result<Self> {
        if block_tokens < 3 {
            return Err(Error::config(format!(
                "`config.block_size = {block_tokens}`: expected at least 3 with `config.confine_attention`"
            )));
        }
        Ok(Self { confined: true, ..Self::blocks(store, block_tokens)? })
    }

    /// Number of examples; each has at least two tokens.
    #[must_use]
    pub fn len(&self) -> usize {
        let Some(block) = self.block_tokens else { return self.store.len() };
        let (whole, rest) = (self.tokens() / block as u64, self.tokens() % block as u64);
        whole as usize + usize::from(rest >= 2)
    }

    /// Whether there is no example.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Token ids of example `index`; empty past the end.
    #[must_use]
    pub fn get(&self, index: usize) -> Vec<u32> {
        self.store.tokens(self.range(index))
    }

    /// The pieces of example `index` to which attention is confined, in order, without those that have no target.
    #[must_use]
    pub fn pieces(&self, index: usize) -> Vec<Vec<u32>> {
        self.piece_ranges(index).into_iter().map(|range| self.store.tokens(range)).collect()
    }

    /// Target tokens of example `index`.
    #[must_use]
    pub fn targets_of(&self, index: usize) -> u64 {
        self.piece_ranges(index).iter().map(|range| range.end - range.start - 1).sum()
    }

    /// Length of example `index` in tokens; 0 past the end.
    #[must_use]
    pub fn length(&self, index: usize) -> usize {
        let range = self.range(index);
        (range.end - range.start) as usize
    }

    /// Length of the longest example in tokens.
    #[must_use]
    pub fn longest(&self) -> usize {
        (0..self.len()).map(|i| self.length(i)).max().unwrap_or(0)
    }

    /// Target tokens of one pass over all examples.
    #[must_use]
    pub fn targets(&self) -> u64 {
        (0..self.len()).map(|i| self.targets_of(i)).sum()
    }

    /// The documents from which the examples are made.
    #[must_use]
    pub fn store(&self) -> &TokenStore {
        &self.store
    }

    fn tokens(&self) -> u64 {
        self.store.counts().tokens
    }

    fn piece_ranges(&self, index: usize) -> Vec<Range<u64>> {
        let whole = self.range(index);
        let mut pieces = Vec::new();
        let mut start = whole.start;
        if self.confined {
            let mut document = self.store.document_at(whole.start);
            while start < whole.end {
                let end = self.store.range(document).end.min(whole.end);
                pieces.push(start..end);
                start = end;
                document += 1;
            }
        } else {
            pieces.push(whole);
        }
        pieces.retain(|piece| piece.end >= piece.start + 2);
        pieces
    }

    fn range(&self, index: usize) -> Range<u64> {
        match self.block_tokens {
            _ if index >= self.len() => 0..0,
            None => self.store.range(index),
            Some(block) => {
                let start = index as u64 * block as u64;
                start..(start + block as u64).min(self.tokens())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> TokenStore {
        TokenStore::from_documents([vec![1, 2, 9], vec![3, 9], vec![4, 5, 6, 9]])
    }

    #[test]
    fn documents_are_examples() {
        let examples = Examples::documents(store());
        assert_eq!((examples.len(), examples.targets(), examples.longest()), (3, 6, 4));
        assert_eq!(examples.get(1), [3, 9]);
        assert!(examples.get(3).is_empty());
    }

    #[test]
    fn blocks_glue_documents_and_keep_the_remainder() {
        let examples = Examples::blocks(store(), 6).unwrap();
        assert_eq!(examples.len(), 2);
        assert_eq!(examples.get(0), [1, 2, 9, 3, 9, 4]);
        assert_eq!(examples.get(1), [5, 6, 9]);
        assert_eq!(examples.targets(), 7);
    }

    #[test]
    fn a_remainder_of_one_token_has_no_target() {
        let examples = Examples::blocks(store(), 4).unwrap();
        assert_eq!(examples.len(), 2);
        assert_eq!(examples.length(1), 4);
        assert!(Examples::blocks(store(), 1).is_err());
    }

    #[test]
    fn confined_blocks_are_cut_at_documents() {
        let examples = Examples::confined_blocks(store(), 6).unwrap();
        assert_eq!(examples.pieces(0), [vec![1, 2, 9], vec![3, 9]]);
        assert_eq!(examples.pieces(1), [vec![5, 6, 9]]);
        assert_eq!((examples.targets_of(0), examples.targets()), (3, 5));
        assert_eq!(examples.get(0), [1, 2, 9, 3, 9, 4]);
        assert!(examples.pieces(2).is_empty());
        let open = Examples::blocks(store(), 6).unwrap();
        assert_eq!(open.pieces(0), [open.get(0)]);
        assert_eq!(open.targets(), 7);
    }
}
