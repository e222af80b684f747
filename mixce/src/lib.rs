//! Train autoregressive language models with MixCE, and measure whether the text got better.
//!
//! This crate has no code of its own: it brings the parts of mixce together for programs that use them as a library. The program
//! `mixce` is made of the same parts.
//!
//! | part | what for |
//! | --- | --- |
//! | [`objectives`] | what is minimised: MLE, MixCE and its relatives, and the LM head fused with the loss |
//! | [`lm`] | the contract of language models, checkpoints in and out, tokenizers, sampling |
//! | [`gpt2`], [`llama`] | GPT-2; Llama, Mistral, Qwen2 and Qwen3 |
//! | [`data`] | documents from files |
//! | [`train`] | the training loop, evaluation, run folders |
//! | [`eval`] | metrics of generated text |
//! | [`hub`] | models and data sets from the Hugging Face hub |
//! | [`kernels`] | differentiable tensor operations that candle lacks |
//!
//! # Finetune a checkpoint
//!
//! Load a folder as the hub serves it, train on a file with one document a line, and find the model in `runs/first/final`:
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
//! let prepared = prepare(&config, &sources, FAMILIES, &device, &stop)?;
//! launch(&config, prepared, &Provenance::of(&device), &mut [], &stop)?;
//! # Ok(())
//! # }
//! ```
//!
//! # An objective of your own
//!
//! An [`Objective`](objectives::Objective) is a weight for the cross-entropy of a token, given its log-probability. Hand one to
//! [`TrainJob`](train::trainer::TrainJob) in place of those in the registry; without a run folder everything stays in memory. The
//! example `own_objective` trains with the focal loss.
//!
//! # A model of your own
//!
//! A decoder-only transformer is an [`Architecture`](lm::Architecture): a configuration, an embedding, a
//! [`Block`](lm::Block). Any other model implements [`LanguageModel`](lm::LanguageModel) itself; the trainer, evaluation and
//! sampling ask for no more.

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

/// The architectures that `config.json` can name. A new one is a crate and a line here.
pub static FAMILIES: &[&lm::Family] = &[&gpt2::FAMILY, &llama::FAMILY];
