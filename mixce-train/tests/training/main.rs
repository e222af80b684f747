//! The training loop on tiny models.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]
mod common;
mod distributed;
mod evaluation;
mod files;
mod gradients;
mod invariants;
mod optim_fixtures;
mod overlap;
mod pytorch_steps;
mod resume;
mod selection;
mod sharded;
mod stops;
