//! Settings of the experiment; the defaults are those of `mixce quickstart`.

use mixce_core::objective::MixCe;
use mixce_synthetic::grammar::Noise;
use serde::Serialize;

/// The settings of one run of the experiment.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Settings {
    /// Seed of corpus, weights, data order, dropout and samples.
    pub(crate) seed: u64,
    /// MixCE's weight of the forward cross-entropy.
    pub(crate) eta: f64,
    /// The kind of wrong word.
    #[serde(serialize_with = "noise_name")]
    pub(crate) noise: Noise,
    /// Probability that a training text is selected for a wrong word.
    pub(crate) noise_rate: f64,
    /// Training texts.
    pub(crate) texts: u64,
    /// Held-out texts without noise.
    pub(crate) held_out: u64,
    /// MLE steps of the base model.
    pub(crate) base_steps: u64,
    /// Steps of each finetuning.
    pub(crate) finetune_steps: u64,
    /// Texts per step.
    pub(crate) batch_size: usize,
    /// Layers.
    pub(crate) layers: usize,
    /// Channels.
    pub(crate) channels: usize,
    /// Samples drawn from each model.
    pub(crate) samples: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            seed: 42,
            eta: 0.3,
            noise: Noise::Slip,
            noise_rate: 0.3,
            texts: 10_000,
            held_out: 1_000,
            base_steps: 1_200,
            finetune_steps: 800,
            batch_size: 64,
            layers: 2,
            channels: 64,
            samples: 2_000,
        }
    }
}

impl Settings {
    /// Validates the settings before anything is done.
    pub(super) fn validate(&self) -> anyhow::Result<()> {
        MixCe::new(self.eta)?;
        if !(0.0..=1.0).contains(&self.noise_rate) {
            anyhow::bail!("`--noise-rate`: expected a probability in [0, 1], got {}", self.noise_rate);
        }
        Ok(())
    }
}

/// The name of a kind of noise on the command line.
pub(crate) fn name_of(noise: Noise) -> &'static str {
    match noise {
        Noise::AnyWord => "any-word",
        Noise::Slip => "slip",
    }
}

fn noise_name<S: serde::Serializer>(noise: &Noise, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(name_of(*noise))
}
