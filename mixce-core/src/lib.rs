//! Training objectives and the LM-head loss.
//!
//! An [`Objective`] maps the model's log-probability of the observed token to the weight of that token's cross-entropy;
//! [`lm_head_loss`] applies it to hidden states without materialising the full matrix of logits.

mod error;
mod lm_head;
pub mod objective;

pub use error::{Error, Result};
pub use lm_head::{LmHeadBackward, LmHeadLoss, lm_head_backward, lm_head_log_q, lm_head_loss, total_loss};
pub use objective::{OBJECTIVES, Objective, ObjectiveConfig};

/// The example of the README, compiled and run as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
