//! Observers that write `metrics.jsonl` and TensorBoard event files.
mod jsonl;
pub mod tensorboard;

pub use jsonl::JsonlWriter;
pub use tensorboard::TensorBoardWriter;
