//! Train autoregressive language models with MixCE, and evaluate the text they generate.
//!
//! This crate re-exports the crates of mixce under short names, for use as a library. The program `mixce` is built from the same
//! crates.
//!
//! | module | purpose |
//! | --- | --- |
//! | [`objectives`] | training objectives (MLE, MixCE and related ones), and the LM head fused with the loss |
//! | [`lm`] | the model traits, loading and saving checkpoints, tokenizers, sampling |
//! | [`gpt2`], [`llama`] | GPT-2; Llama, Mistral, Qwen2 and Qwen3 |
//! | [`data`] | readers for data files |
//! | [`train`] | the training loop, evaluation, run folders |
//! | [`eval`] | metrics of generated text |
//! | [`hub`] | models and data sets from the Hugging Face hub |
//! | [`kernels`] | differentiable tensor operations that candle lacks |
//!
//! # Finetune a checkpoint
//! Load a folder in the hub's layout, train on a file with one document per line, and find the model in `runs/first/final`:
//!
//! ```no_run
//! use mixce::prelude::*;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let config = TrainConfig {
//!     model: Some("models/gpt2".into()),
//!     train: Some(DataFiles(vec!["train.txt".into()])),
//!     out: Some("runs/first".into()),
//!     eta: Some(0.1),
//!     ..TrainConfig::default()
//! };
//! let sources = Sources { model: Some("models/gpt2".into()), tokenizer: "models/gpt2".into() };
//! let (device, stop) = (Device::Cpu, AtomicBool::new(false));
//! let prepared = prepare(&config, &sources, FAMILIES, &device, Room::Require, &stop)?;
//! launch(&config, prepared, &Provenance::of(&device), &mut [], &stop)?;
//! # Ok(())
//! # }
//! ```
//!
//! # A custom objective
//!
//! An [`Objective`](objectives::Objective) gives the weight of a token's cross-entropy from its log-probability. Pass your own to
//! [`TrainJob`](train::trainer::TrainJob) instead of one from the registry; without a run folder everything stays in memory. The
//! example `own_objective` trains with the focal loss.
//!
//! # A custom model
//!
//! A decoder-only transformer is an [`Architecture`](lm::Architecture): a configuration, an embedding, a
//! [`Block`](lm::Block). Any other model implements [`LanguageModel`](lm::LanguageModel) itself; trainer, evaluation and sampling
//! need nothing else.

pub mod prelude;

pub use mixce_core as objectives;
pub use mixce_data as data;
pub use mixce_eval as eval;
pub use mixce_gpt2 as gpt2;
pub use mixce_hub as hub;
pub use mixce_kernels as kernels;
pub use mixce_llama as llama;
pub use mixce_lm as lm;
pub use mixce_train as train;

pub use candle_core::Device;

/// The supported architectures. A new one is a crate and a line here.
pub static FAMILIES: &[&lm::Family] = &[&gpt2::FAMILY, &llama::FAMILY];
