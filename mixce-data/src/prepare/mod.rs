//! The paper's data sets, and other text, as files of one document a line.
//!
//! `documents -> `[`Cleaning`]` -> `[`Filter`]` -> valid.txt, test.txt, train.txt, train10K.txt ...`
//!
//! Everything is read once, in order, and nothing is shuffled: the same source gives the same files, byte for byte.
mod archive;
mod clean;
mod collection;
mod filter;
mod source;
mod splits;

#[cfg(test)]
mod tests;

pub use clean::{Cleaning, Detokenize, looks_tokenized};
pub use collection::Collection;
pub use filter::Filter;
pub use source::{Split, SplitSource, choose_files, find, of_files};
pub use splits::{PrepareSettings, Prepared, SplitReport, prepare};
