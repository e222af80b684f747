//! Observers that write what happened: `metrics.jsonl` and TensorBoard event files.
mod jsonl;
pub mod tensorboard;

pub use jsonl::JsonlWriter;
pub use tensorboard::TensorBoardWriter;
