//! The settings of a training run.

use serde::{Deserialize, Serialize};

use super::{Error, Loss, ModelKind, Result};

/// How the gradient of a step is estimated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Estimator {
    /// The authors' way: every token of every sequence, Gumbel straight-through for reverse terms.
    Sampled,
    /// Transition counts of the batch; the score function for reverse terms.
    #[default]
    Counts,
    /// Expectations under P and Q; nothing random, no dropout.
    Exact,
}

/// How `counts` differentiates reverse KL and reverse cross-entropy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReverseGradient {
    /// The divergence of each context weighted by how often sequences from Q visit it, visits held fixed: what the
    /// authors' straight-through estimator differentiates, without its noise. It has the optimum of the full gradient where
    /// P is reachable.
    #[default]
    Local,
    /// The full gradient: the score function summed over all next tokens, visits and values-to-go from two halves of
    /// the sequences.
    AllTokens,
    /// The full gradient by the score function of the sampled tokens: reward-to-go minus a leave-one-out baseline of
    /// the same context.
    ScoreFunction,
}

/// The development criterion that selects the epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Selection {
    /// The objective's loss, as in the paper; for token-weighted objectives it is `w(q) (-log q)`, which is not
    /// monotone in q.
    #[default]
    Loss,
    /// The potential of token-weighted objectives, whose gradient training follows; the loss for all others.
    Potential,
}

/// The settings of a training run; [`Default`] is the paper's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// The model.
    pub model: ModelKind,
    /// The gradient estimator.
    pub estimator: Estimator,
    /// How `counts` differentiates reverse terms (`exact` always takes the full gradient).
    pub reverse_gradient: ReverseGradient,
    /// Maximum number of epochs.
    pub epochs: usize,
    /// Sequences per step.
    pub batch_size: usize,
    /// Training sequences.
    pub train_size: usize,
    /// Development sequences.
    pub dev_size: usize,
    /// Learning rate of Adam.
    pub lr: f64,
    /// Coupled L2 coefficient.
    pub weight_decay: f64,
    /// Dropout probability of the network's hidden units; `exact` uses none.
    pub dropout: f64,
    /// Epochs without a new best development loss before training stops.
    pub patience: usize,
    /// The development criterion that selects the epoch.
    pub select: Selection,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            model: ModelKind::Network,
            estimator: Estimator::Counts,
            reverse_gradient: ReverseGradient::Local,
            epochs: 50,
            batch_size: 1000,
            train_size: 50_000,
            dev_size: 5_000,
            lr: 1e-3,
            weight_decay: 1e-4,
            dropout: 0.1,
            patience: 5,
            select: Selection::Loss,
        }
    }
}

impl TrainConfig {
    /// Checks the ranges and the combination with a loss.
    ///
    /// # Errors
    /// When a number is out of range, `sampled` meets the table, or `exact` meets JS.
    pub fn validate(&self, loss: &Loss) -> Result<()> {
        let positive = [
            ("config.epochs", self.epochs),
            ("config.batch_size", self.batch_size),
            ("config.train_size", self.train_size),
            ("config.dev_size", self.dev_size),
            ("config.patience", self.patience),
        ];
        if let Some((name, _)) = positive.into_iter().find(|(_, n)| *n == 0) {
            return Err(Error::range(name, "at least 1", 0));
        }
        if self.batch_size > self.train_size {
            return Err(Error::range(
                "config.batch_size",
                format!("at most the {} training sequences", self.train_size),
                self.batch_size,
            ));
        }
        if !(self.lr > 0.0 && self.lr.is_finite()) {
            return Err(Error::range("config.lr", "a positive number", self.lr));
        }
        if !(self.weight_decay >= 0.0 && self.weight_decay.is_finite()) {
            return Err(Error::range("config.weight_decay", "a number of at least 0", self.weight_decay));
        }
        if !(0.0..0.99).contains(&self.dropout) {
            return Err(Error::range("config.dropout", "a probability in [0, 0.99)", self.dropout));
        }
        if self.estimator == Estimator::Sampled && self.model == ModelKind::Table {
            return Err(Error::Unsupported {
                what: "the estimator `sampled` feeds samples back through embeddings, which the model `table` lacks".into(),
                hint: "use `config.model = network`, or `config.estimator = counts`".into(),
            });
        }
        if self.estimator == Estimator::Exact && matches!(loss, Loss::Js { .. }) {
            return Err(Error::Unsupported {
                what: "`js` mixes whole sequences and has no exact expectation".into(),
                hint: "use `config.estimator = counts` or leave `js` out".into(),
            });
        }
        Ok(())
    }
}
