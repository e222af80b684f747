//! Grids of training runs.
//!
//! - [`Settings`]: the file that describes a grid, with unknown keys refused.
//! - [`Grid`]: its cells, their names and groups.
//! - [`Shard`]: the part of a grid that one machine computes.
//! - [`schedule`]: runs dependent tasks on several workers.
//! - [`choice`]: the best objective of a group, with its ties.
//! - [`tuning`]: the temperature of equal diversity.
//!
//! Nothing here knows a model or a command line: the caller does the work of a cell and hands in its numbers.

pub mod choice;
mod error;
mod grid;
mod keys;
pub mod schedule;
mod settings;
mod shard;
pub mod tuning;
mod validate;

pub use error::{Error, Result};
pub use grid::{Grid, GridCell, MLE};
pub use keys::KnownKeys;
pub use settings::{Controls, Corpus, Evaluate, Files, Model, READING, Settings, TrainSize};
pub use shard::Shard;
