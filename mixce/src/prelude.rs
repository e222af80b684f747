//! The imports of a program that trains a model: `use mixce::prelude::*;`.

pub use std::sync::Arc;
pub use std::sync::atomic::AtomicBool;

pub use candle_core::{Device, Tensor};
pub use mixce_base::Hint;
pub use mixce_core::Objective;
pub use mixce_gpt2::Gpt2Config;
pub use mixce_hub::{Hub, HubEnvironment, ModelSource, NoProgress};
pub use mixce_llama::LlamaConfig;
pub use mixce_lm::{LanguageModel, ModelConfig, Parameters, Tokenizer};
pub use mixce_train::config::{DataFiles, TrainConfig};
pub use mixce_train::data::{Examples, TokenStore};
pub use mixce_train::observer::{StepReport, TrainObserver};
pub use mixce_train::prepare::{Sources, launch, prepare};
pub use mixce_train::room::Room;
pub use mixce_train::run_folder::Provenance;
pub use mixce_train::trainer::{TrainJob, TrainOutcome, train};

pub use crate::FAMILIES;
