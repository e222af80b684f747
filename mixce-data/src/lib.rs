//! Readers for the common file formats, the Moses detokenizer, and the paper's data sets.
//!
//! - [`input`]: text, JSON lines, CSV, TSV and parquet, compressed or not, one document after another in bounded memory;
//! - [`moses`]: tokenised English back to running text, as `detokenizer.perl -l en` does;
//! - [`mod@prepare`]: WikiText, WebText and WritingPrompts as the MixCE paper uses them, and any other text;
//! - [`quantiles`]: summaries of document lengths.
//!
//! This crate does not depend on tensors or models.
pub mod error;
pub mod input;
pub mod moses;
pub mod prepare;
pub mod quantiles;

pub use error::{Error, Place, Result};
pub use input::{Document, Documents, Format, Input, ReadSettings};

/// The example of the README, compiled as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
