//! Mean negative log-likelihood and perplexity, over tokens and as the MixCE authors' scripts report them.
//!
//! ```text
//! nll          = sum over documents, over their tokens, of -log q / number of tokens
//! nll, authors = mean over documents of m(batch of the document),   m(batch) = sum of -log q in it / its tokens
//! perplexity   = exp(nll)
//! ```
//! The authors average the token means of batches of documents, weighting each batch by its number of documents. A batch of short documents
//! weighs as much as one of long ones, so their value depends on the batch size and the order of documents; the first does not.
//! Source: `run_clm_no_trainer.py` of <https://github.com/bloomberg/MixCE-acl2023>, commit 7f8f9b2.

/// Accumulates log-likelihoods, one document at a time, in the order of the data.
///
/// ```
/// use mixce_eval::perplexity::LikelihoodSums;
///
/// let mut sums = LikelihoodSums::new(2);
/// for log_q in [&[-1.0_f32, -2.0, -3.0][..], &[-6.0], &[-4.0]] {
///     sums.add(log_q);
/// }
/// assert_eq!(sums.nll(), Some(16.0 / 5.0));
/// // Batches (1 + 2 + 3 + 6) / 4 = 3 for two documents, 4 for one.
/// assert_eq!(sums.mean_of_batch_means(), Some((3.0 + 3.0 + 4.0) / 3.0));
/// ```
#[derive(Clone, Debug)]
pub struct LikelihoodSums {
    batch_documents: usize,
    nll: f64,
    tokens: u64,
    documents: u64,
    batch: Batch,
    /// Over the full batches: the sum of mean times documents, and the number of documents.
    batch_means: (f64, f64),
}

/// The current, incomplete batch.
#[derive(Clone, Copy, Debug, Default)]
struct Batch {
    nll: f64,
    tokens: u64,
    documents: usize,
}

impl Batch {
    /// Mean times documents, and documents; nothing for a batch without tokens.
    fn weighted(self) -> (f64, f64) {
        let documents = self.documents as f64;
        if self.tokens == 0 { (0.0, 0.0) } else { (documents * self.nll / self.tokens as f64, documents) }
    }
}

impl LikelihoodSums {
    /// Sums over nothing, with batches of `batch_documents` documents (0 counts as 1).
    #[must_use]
    pub fn new(batch_documents: usize) -> Self {
        Self {
            batch_documents: batch_documents.max(1),
            nll: 0.0,
            tokens: 0,
            documents: 0,
            batch: Batch::default(),
            batch_means: (0.0, 0.0),
        }
    }

    /// Adds the `log q` (nats) of a document's scored tokens. A document without any still counts in its batch.
    pub fn add(&mut self, log_q: &[f32]) {
        let (nll, tokens) = (-log_q.iter().map(|log_q| f64::from(*log_q)).sum::<f64>(), log_q.len() as u64);
        self.nll += nll;
        self.tokens += tokens;
        self.documents += u64::from(tokens > 0);
        self.batch.nll += nll;
        self.batch.tokens += tokens;
        self.batch.documents += 1;
        if self.batch.documents == self.batch_documents {
            self.batch_means = self.batch_means_with_rest();
            self.batch = Batch::default();
        }
    }

    fn batch_means_with_rest(&self) -> (f64, f64) {
        let (mean, documents) = self.batch.weighted();
        (self.batch_means.0 + mean, self.batch_means.1 + documents)
    }

    /// Counted tokens.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Documents with at least one counted token.
    #[must_use]
    pub fn documents(&self) -> u64 {
        self.documents
    }

    /// Mean of `-log q` over all counted tokens, in nats; `None` without any.
    #[must_use]
    pub fn nll(&self) -> Option<f64> {
        (self.tokens > 0).then(|| self.nll / self.tokens as f64)
    }

    /// The mean over documents of their batch's mean, in nats; `None` without tokens.
    #[must_use]
    pub fn mean_of_batch_means(&self) -> Option<f64> {
        let (sum, documents) = self.batch_means_with_rest();
        (documents > 0.0).then(|| sum / documents)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nothing_has_no_mean() {
        let mut sums = LikelihoodSums::new(0);
        assert_eq!((sums.nll(), sums.mean_of_batch_means()), (None, None));
        sums.add(&[]);
        assert_eq!((sums.nll(), sums.mean_of_batch_means(), sums.documents()), (None, None, 0));
    }

    #[test]
    fn a_document_without_tokens_takes_its_place() {
        let mut sums = LikelihoodSums::new(2);
        for log_q in [&[-1.0_f32][..], &[], &[], &[]] {
            sums.add(log_q);
        }
        assert_eq!((sums.nll(), sums.mean_of_batch_means()), (Some(1.0), Some(1.0)));
        assert_eq!((sums.documents(), sums.tokens()), (1, 1));
    }

    proptest! {
        #[test]
        fn one_batch_is_the_corpus_and_the_batch_means_are_what_they_say(
            documents in prop::collection::vec(prop::collection::vec(-9.0f32..0.0, 1..6), 1..20),
            size in 1usize..8,
        ) {
            let of = |size: usize| {
                let mut sums = LikelihoodSums::new(size);
                documents.iter().for_each(|d| sums.add(d));
                sums
            };
            let whole = of(documents.len());
            prop_assert!((whole.nll().unwrap() - whole.mean_of_batch_means().unwrap()).abs() < 1e-9);
            // As in the scripts: a list with the batch's mean once per document, and its mean.
            let mut losses = Vec::new();
            for batch in documents.chunks(size) {
                let all: Vec<f64> = batch.iter().flatten().map(|q| -f64::from(*q)).collect();
                losses.extend(vec![all.iter().sum::<f64>() / all.len() as f64; batch.len()]);
            }
            let expected = losses.iter().sum::<f64>() / losses.len() as f64;
            prop_assert!((of(size).mean_of_batch_means().unwrap() - expected).abs() < 1e-9);
        }
    }
}
