//! Turns data files into microbatches of token ids.
//!
//! [`Input`]` -> `[`encode`]` -> `[`cache`]` -> `[`TokenStore`]` -> `[`Examples`]` -> `[`Batcher`].
mod batcher;
pub mod cache;
pub mod encode;
mod examples;
mod mapped;
mod store;
mod stream;

pub use batcher::{Batcher, BatcherConfig, Microbatch, Position, StepBatch};
pub use mixce_data::{Document, Input, ReadSettings};

pub use encode::{Encode, EncodeSettings};
pub use examples::Examples;
pub use store::{DataCounts, TokenStore};
