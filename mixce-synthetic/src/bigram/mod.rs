//! The paper's bigram experiments, where the data distribution P is known.
//!
//! A bigram language model P over V tokens (the last is EOS) writes sequences; a model Q is trained on them with each
//! objective and compared with P (section 4 of *MixCE: Training Autoregressive Language Models by Mixing Forward and
//! Reverse Cross-Entropies*, ACL 2023). Because there are only V + 1 contexts, there are three ways to estimate gradients, see
//! [`Estimator`].

mod adam;
mod config;
mod data;
mod dropout;
mod estimators;
mod grid;
mod linear;
mod metrics;
mod model;
mod objective;
mod oracle;
mod sampler;
mod sequences;
mod simd;
mod spec;
pub mod table;
mod text;
mod train;
mod visits;
mod world;

pub use adam::Adam;
pub use config::{Estimator, ReverseGradient, Selection, TrainConfig};
pub use data::Dataset;
pub use estimators::rollouts::Reward;
pub use grid::{Cell, CellKey, ETAS, Finished, Grid, Runner, SEEDS, Source, VOCABS};
pub use metrics::{Distance, compare, jensen_shannon};
pub use model::{HIDDEN, Model, ModelKind};
pub use objective::{Loss, TokenWeight};
pub use oracle::{ChargePoint, charges, population_distance, population_optimum};
pub use sequences::{MAX_TOKENS, Sequences};
pub use spec::ObjectiveName;
pub use train::{Outcome, train};
pub use visits::{Chain, Expectation, Horizon, Rewards};
pub use world::{MAX_VOCAB, PROBABILITY_FLOOR, World};

use crate::{Error, Result};
