//! Train autoregressive language models with MixCE, and prove whether the text got better.
//!
//! This crate has no code of its own. It brings the parts of mixce together under short names, for programs that use them as a
//! library; the program `mixce` is made of the same parts.

pub use mixce_core as objectives;
pub use mixce_data as data;
pub use mixce_eval as eval;
pub use mixce_gpt2 as gpt2;
pub use mixce_hub as hub;
pub use mixce_kernels as kernels;
pub use mixce_lm as lm;
pub use mixce_train as train;

pub use candle_core::Device;

/// The architectures that `config.json` can name. A new one is a crate and a line here.
pub static FAMILIES: &[&lm::Family] = &[&gpt2::FAMILY];
