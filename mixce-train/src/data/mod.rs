//! From a text file to microbatches of token ids.
//!
//! `text file -> `[`read`]` -> `[`encode`]` -> `[`cache`]` -> `[`TokenStore`]` -> `[`Examples`]` -> `[`Batcher`].
mod batcher;
pub mod cache;
pub mod encode;
mod examples;
mod mapped;
pub mod read;
mod store;

pub use batcher::{Batcher, BatcherConfig, Microbatch, Position, StepBatch};
pub use encode::{Encode, EncodeSettings};
pub use examples::Examples;
pub use store::{DataCounts, TokenStore};
