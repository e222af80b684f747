//! How good is the text: perplexity, diversity and related metrics.
