//! Text to batches to optimizer steps to checkpoints.
