//! Results of experiments: the file `results.json` of a sweep.

mod error;
pub mod results;

pub use error::{Error, Result};
