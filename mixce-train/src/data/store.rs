//! Encoded documents, in memory or in a mapped file.
use std::ops::Range;

use mixce_base::digest::{Digest, Sha256, hex};
use serde::{Deserialize, Serialize};

use super::mapped::MappedTokens;
use crate::error::{Error, Result};

/// Counts of a file's documents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataCounts {
    /// Documents kept.
    pub documents: u64,
    /// Their tokens, EOS (and BOS) included.
    pub tokens: u64,
    /// Documents that were empty or blank, skipped.
    pub empty: u64,
    /// Documents of fewer than two tokens, which have no target, skipped.
    pub short: u64,
    /// Truncated documents.
    pub truncated: u64,
    /// Bad rows skipped (`config.skip_bad_rows`).
    pub bad: u64,
}

/// Encoded documents: token ids with document boundaries.
#[derive(Debug)]
pub struct TokenStore {
    counts: DataCounts,
    fingerprint: String,
    backing: Backing,
}

#[derive(Debug)]
enum Backing {
    Memory { tokens: Vec<u32>, offsets: Vec<u64> },
    Mapped(MappedTokens),
}

impl TokenStore {
    /// Encoded documents in memory. Those of fewer than two tokens are skipped and counted.
    #[must_use]
    pub fn from_documents<I, D>(documents: I) -> Self
    where
        I: IntoIterator<Item = D>,
        D: AsRef<[u32]>,
    {
        let mut tokens = Vec::new();
        let mut offsets = vec![0];
        let mut counts = DataCounts::default();
        for document in documents {
            let document = document.as_ref();
            if document.len() < 2 {
                counts.short += 1;
                continue;
            }
            tokens.extend_from_slice(document);
            offsets.push(tokens.len() as u64);
        }
        counts.documents = offsets.len() as u64 - 1;
        counts.tokens = tokens.len() as u64;
        let fingerprint = fingerprint_of(&tokens, &offsets);
        Self { counts, fingerprint, backing: Backing::Memory { tokens, offsets } }
    }

    /// Concatenated documents with their offsets and counts.
    pub(super) fn from_memory(
        counts: DataCounts,
        fingerprint: String,
        tokens: Vec<u32>,
        offsets: Vec<u64>,
    ) -> Self {
        Self { counts, fingerprint, backing: Backing::Memory { tokens, offsets } }
    }

    pub(super) fn from_mapped(counts: DataCounts, fingerprint: String, mapped: MappedTokens) -> Self {
        Self { counts, fingerprint, backing: Backing::Mapped(mapped) }
    }

    /// What was kept and what was skipped.
    #[must_use]
    pub fn counts(&self) -> DataCounts {
        self.counts
    }

    /// Number of documents.
    #[must_use]
    pub fn len(&self) -> usize {
        self.counts.documents as usize
    }

    /// Whether there is no document.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Hexadecimal digest that changes with the tokens; a resumed run compares it. For a file it covers its bytes, the tokenizer and the
    /// settings, cached or not; otherwise the tokens themselves.
    #[must_use]
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// The range of document `index` in [`Self::tokens`]; empty past the end.
    #[must_use]
    pub fn range(&self, index: usize) -> Range<u64> {
        if index >= self.len() {
            return 0..0;
        }
        match &self.backing {
            Backing::Memory { offsets, .. } => offsets[index]..offsets[index + 1],
            Backing::Mapped(mapped) => mapped.offset(index)..mapped.offset(index + 1),
        }
    }

    /// The document that the token at `position` belongs to; the number of documents past the end.
    #[must_use]
    pub fn document_at(&self, position: u64) -> usize {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low.midpoint(high);
            if self.range(middle).end <= position { low = middle + 1 } else { high = middle }
        }
        low
    }

    /// The token ids in a range of the concatenated documents, clipped at the end.
    #[must_use]
    pub fn tokens(&self, range: Range<u64>) -> Vec<u32> {
        let end = range.end.min(self.counts.tokens);
        let range = range.start.min(end) as usize..end as usize;
        match &self.backing {
            Backing::Memory { tokens, .. } => tokens[range].to_vec(),
            Backing::Mapped(mapped) => mapped.tokens(range),
        }
    }

    /// The token ids of document `index`; empty past the end.
    #[must_use]
    pub fn document(&self, index: usize) -> Vec<u32> {
        self.tokens(self.range(index))
    }

    /// Checks that every id is below `vocab_size`.
    ///
    /// # Errors
    /// [`Error::TokenOutOfRange`] with the first offending id and its document.
    pub fn require_vocabulary(&self, vocab_size: usize) -> Result<()> {
        if let Backing::Mapped(mapped) = &self.backing
            && mapped.largest_id() < vocab_size as u64
        {
            return Ok(());
        }
        for document in 0..self.len() {
            let found = self.document(document).into_iter().find(|&id| id as usize >= vocab_size);
            if let Some(id) = found {
                return Err(Error::TokenOutOfRange { id, document, vocab_size });
            }
        }
        Ok(())
    }
}

fn fingerprint_of(tokens: &[u32], offsets: &[u64]) -> String {
    let mut hash = Sha256::new();
    hash.update((offsets.len() as u64).to_le_bytes());
    for offset in offsets {
        hash.update(offset.to_le_bytes());
    }
    for token in tokens {
        hash.update(token.to_le_bytes());
    }
    hex(&hash.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_without_a_target_are_counted() {
        let store = TokenStore::from_documents([vec![1, 2, 3], vec![], vec![9], vec![4, 5]]);
        assert_eq!(store.len(), 2);
        assert_eq!(store.counts().short, 2);
        assert_eq!(store.counts().tokens, 5);
        assert_eq!(store.document(1), [4, 5]);
        assert!(store.document(2).is_empty());
        assert_eq!(store.tokens(2..99), [3, 4, 5]);
        assert_eq!([0, 2, 3, 4, 5].map(|at| store.document_at(at)), [0, 0, 1, 1, 2]);
    }

    #[test]
    fn ids_outside_the_vocabulary_are_named() {
        let store = TokenStore::from_documents([vec![1, 2], vec![3, 7]]);
        store.require_vocabulary(8).unwrap();
        let error = store.require_vocabulary(7).unwrap_err();
        assert!(matches!(error, Error::TokenOutOfRange { id: 7, document: 1, vocab_size: 7 }), "{error}");
    }

    #[test]
    fn the_fingerprint_sees_boundaries() {
        let a = TokenStore::from_documents([vec![1, 2], vec![3, 4]]);
        let b = TokenStore::from_documents([vec![1, 2, 3, 4]]);
        assert_ne!(a.fingerprint(), b.fingerprint());
    }
}
