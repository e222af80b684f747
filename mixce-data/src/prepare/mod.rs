//! The paper's data sets, and other text, as files of one document per line.
//!
//! `documents -> `[`Cleaning`]` -> `[`Filter`]` -> valid.txt, test.txt, train.txt, train10K.txt ...`
//!
//! Everything is read once, in order, and nothing is shuffled: the same source gives the same files, byte for byte.
mod archive;
mod choose;
mod clean;
mod collection;
mod files;
mod filter;
mod folder;
mod source;
mod split;
mod splits;

#[cfg(test)]
mod tests;

pub use choose::{Chosen, choose_files};
pub use clean::{Cleaning, Detokenize, looks_tokenized};
pub use collection::Collection;
pub use files::{Unused, listed};
pub use filter::{Dropped, Filter};
pub use source::{Source, SplitSource, find, of_files};
pub use split::Split;
pub use splits::{PrepareSettings, Prepared, SplitReport, prepare};
