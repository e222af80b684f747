//! Trains one cell: one objective on one world.

use std::sync::atomic::{AtomicBool, Ordering};

use mixce_base::rng::{Stream, purpose};

use super::adam::Adam;
use super::dropout::Dropout;
use super::estimators::rollouts::{Beliefs, Reward, Rollouts};
use super::estimators::sampled::Sampled;
use super::estimators::{JsSequence, counts, exact};
use super::model::{Forward, HIDDEN_STRIDE};
use super::objective::{Loss, TokenWeight};
use super::{
    Dataset, Distance, Error, Estimator, Model, ModelKind, Result, ReverseGradient, Selection, TrainConfig,
    compare,
};

/// The result of a trained cell.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The metrics of the best epoch.
    pub distance: Distance,
    /// The epoch with the lowest development loss, from 1.
    pub best_epoch: usize,
    /// Epochs run.
    pub epochs: usize,
    /// The lowest development loss, nats per sequence.
    pub dev_loss: f64,
    /// The learned probabilities `[V, V + 1]` of the best epoch.
    pub learned: Vec<f64>,
}

/// Trains one cell. `seed` draws initial weights, data order, dropout and samples; `stop` ends the run early.
///
/// Returns `None` when stopped.
///
/// # Errors
/// When the settings are invalid, or a parameter becomes NaN or infinite.
pub fn train(
    data: &Dataset,
    loss: &Loss,
    config: &TrainConfig,
    seed: u64,
    stop: &AtomicBool,
) -> Result<Option<Outcome>> {
    config.validate(loss)?;
    let mut trainer = Trainer::new(data, loss, config, seed);
    let mut best: Option<Outcome> = None;
    let mut patience = config.patience;
    let mut epochs = 0;
    for epoch in 1..=config.epochs {
        if stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
        trainer.epoch(epoch as u64);
        epochs = epoch;
        let dev_loss = trainer.dev_loss(epoch as u64);
        if trainer.model.params().iter().any(|p| !p.is_finite()) || dev_loss.is_nan() {
            return Err(Error::Diverged { epoch, cell: format!("{loss:?}") });
        }
        if best.as_ref().is_none_or(|best| dev_loss < best.dev_loss) {
            let learned = trainer.model.probabilities();
            let distance = compare(&learned, &data.world)?;
            best = Some(Outcome { distance, best_epoch: epoch, epochs, dev_loss, learned });
            patience = config.patience;
        } else {
            patience -= 1;
        }
        if patience == 0 {
            break;
        }
    }
    Ok(best.map(|best| Outcome { epochs, ..best }))
}

/// The state of one training run.
pub(crate) struct Trainer<'a> {
    data: &'a Dataset,
    loss: &'a Loss,
    config: &'a TrainConfig,
    pub(crate) model: Model,
    adam: Adam,
    dropout: Dropout,
    forward: Forward,
    mask: Vec<f32>,
    pseudo: Vec<f32>,
    grads: Vec<f32>,
    log_p: Vec<f32>,
    expected: Vec<f32>,
    rollouts: Rollouts,
    sampled: Option<Sampled>,
    stream: Stream,
}

impl<'a> Trainer<'a> {
    pub(crate) fn new(data: &'a Dataset, loss: &'a Loss, config: &'a TrainConfig, seed: u64) -> Self {
        let stream = Stream::new(seed).fold(purpose::BIGRAM).fold(3);
        let vocab = data.world.vocab();
        let model = Model::new(config.model, vocab, stream.fold(0));
        let exact = config.estimator == Estimator::Exact;
        let network = config.model == ModelKind::Network && !exact;
        let dropout = Dropout::new(if network { config.dropout } else { 0.0 });
        let (len, cells) = (model.params().len(), vocab * model.stride());
        Self {
            data,
            loss,
            config,
            adam: Adam::new(len, config.lr, config.weight_decay),
            dropout,
            forward: Forward::new(&model),
            mask: vec![0.0; vocab * HIDDEN_STRIDE],
            pseudo: vec![0.0; cells],
            grads: vec![0.0; len],
            log_p: data.log_p(model.stride()),
            expected: if exact { data.expected_counts(model.stride()) } else { Vec::new() },
            rollouts: Rollouts::new(vocab),
            sampled: (config.estimator == Estimator::Sampled).then(|| Sampled::new(&model, dropout)),
            stream,
            model,
        }
    }

    /// One pass over the training sequences in a fresh order; the last partial batch is dropped.
    pub(crate) fn epoch(&mut self, epoch: u64) {
        let stream = self.stream.fold(1).fold(epoch);
        let order = match self.config.estimator {
            Estimator::Exact => vec![0; self.config.train_size],
            _ => stream.permutation(self.data.train.len() as u32),
        };
        for (step, batch) in order.chunks_exact(self.config.batch_size).enumerate() {
            self.gradient(batch, stream.fold(step as u64));
            self.adam.step(self.model.params_mut(), &self.grads);
        }
    }

    /// Overwrites the gradient with the estimate from one batch.
    pub(crate) fn gradient(&mut self, batch: &[u32], stream: Stream) {
        match self.config.estimator {
            Estimator::Sampled => self.sampled_gradient(batch, stream),
            Estimator::Counts | Estimator::Exact => self.pseudo_gradient(batch, stream),
        }
    }

    /// The gradient now held, for tests.
    #[cfg(test)]
    pub(crate) fn grads(&self) -> &[f32] {
        &self.grads
    }

    /// `counts` and `exact`: pseudo-counts, then a backward pass over the contexts; dropout for data terms only.
    ///
    /// One mask is shared by all visits to a context in the batch. That is harmless for data terms, but a reverse term incurs 69 nats for
    /// every forbidden token that a mask permits, and the noise of one mask per context dominates its signal.
    fn pseudo_gradient(&mut self, batch: &[u32], stream: Stream) {
        self.grads.fill(0.0);
        if !matches!(self.loss, Loss::Reverse { eta: 0.0, .. }) {
            let masked = !self.dropout.is_off();
            if masked {
                self.dropout.fill(&mut self.mask, stream.fold(0));
            }
            let mask = masked.then_some(self.mask.as_slice());
            self.model.forward(mask, &mut self.forward);
            self.data_pseudo(batch);
            self.backward(masked);
        }
        if !matches!(self.loss, Loss::Token(_)) {
            self.model.forward(None, &mut self.forward);
            self.reverse_pseudo(batch.len(), stream.fold(1));
            self.backward(false);
        }
    }

    /// From pseudo-counts to the gradient of the parameters.
    fn backward(&mut self, masked: bool) {
        let mask = masked.then_some(self.mask.as_slice());
        self.model.backward(mask, &mut self.forward, &self.pseudo, &mut self.grads);
    }

    /// Overwrites the pseudo-counts with those of the data term.
    fn data_pseudo(&mut self, batch: &[u32]) {
        let stride = self.model.stride();
        let (train, probs, n) = (&self.data.train, &self.forward.probs, batch.len() as f64);
        let scale = match self.loss {
            Loss::Token(_) => 1.0,
            Loss::Reverse { eta, .. } => *eta,
            Loss::Js { eta } => {
                self.pseudo.fill(0.0);
                counts::add_js_data(train, batch, *eta, probs, stride, &mut self.pseudo);
                return;
            }
        };
        if self.config.estimator == Estimator::Exact {
            self.pseudo.iter_mut().zip(&self.expected).for_each(|(m, c)| *m = scale as f32 * c);
        } else {
            self.pseudo.fill(0.0);
            counts::add_counts(train, batch, (scale / n) as f32, stride, &mut self.pseudo);
        }
        if let Loss::Token(weight) = self.loss {
            weight.weigh(probs, &mut self.pseudo);
        }
    }

    /// Overwrites the pseudo-counts with those of the reverse term.
    fn reverse_pseudo(&mut self, samples: usize, stream: Stream) {
        let (vocab, stride, probs) = (self.model.vocab(), self.model.stride(), &self.forward.probs);
        let q = Beliefs { vocab, stride, probs, log_p: &self.log_p };
        let (rollouts, pseudo) = (&mut self.rollouts, &mut self.pseudo);
        pseudo.fill(0.0);
        let exact = self.config.estimator == Estimator::Exact;
        if !exact {
            rollouts.sample(&q, samples, stream);
        }
        let (reward, scale) = match self.loss {
            Loss::Token(_) => return,
            Loss::Reverse { eta, reward } => (*reward, 1.0 - eta),
            Loss::Js { eta } => (Reward::Kl, 1.0 - eta),
        };
        if exact {
            return exact::add_reward_gradient(&q, reward, scale, pseudo);
        }
        match self.config.reverse_gradient {
            ReverseGradient::Local => rollouts.add_local_gradient(&q, reward, scale, pseudo),
            ReverseGradient::AllTokens => rollouts.add_all_tokens_gradient(&q, reward, scale, pseudo),
            ReverseGradient::ScoreFunction => rollouts.add_reward_gradient(&q, reward, scale, pseudo),
        }
        if let Loss::Js { eta } = self.loss {
            rollouts.add_mixture_gradient(&q, *eta, scale, pseudo);
        }
    }

    /// `sampled`: token by token.
    fn sampled_gradient(&mut self, batch: &[u32], stream: Stream) {
        let Some(sampled) = self.sampled.as_mut() else { return };
        let (train, n) = (&self.data.train, batch.len());
        let (masks, noise) = (stream.fold(0), stream.fold(1));
        sampled.begin(&self.model);
        match self.loss {
            Loss::Token(weight) => sampled.add_data(train, batch, weight, 1.0 / n as f64, masks),
            Loss::Reverse { eta, reward } => {
                if *eta > 0.0 {
                    sampled.add_data(train, batch, &TokenWeight::One, eta / n as f64, masks);
                }
                sampled.add_reverse(&self.log_p, *reward, n, 1.0 - eta, noise);
            }
            Loss::Js { eta } => {
                sampled.add_js_data(train, batch, *eta, masks);
                sampled.add_js_reverse(&self.log_p, *eta, n, 1.0 - eta, noise);
            }
        }
        sampled.finish(&self.model, &mut self.grads);
    }

    /// The development loss, dropout off, nats per sequence.
    ///
    /// Reverse terms: `sampled` draws as many sequences as the development set has; `counts` and `exact` take the
    /// exact expectation, so that early stopping is not affected by noise. JS is always sampled from Q.
    pub(crate) fn dev_loss(&mut self, epoch: u64) -> f64 {
        let stride = self.model.stride();
        self.model.forward(None, &mut self.forward);
        let probs = &self.forward.probs;
        let q = Beliefs { vocab: self.model.vocab(), stride, probs, log_p: &self.log_p };
        let dev = &self.data.dev;
        let stream = self.stream.fold(2).fold(epoch);
        let samples = self.config.dev_size;
        match self.loss {
            Loss::Token(weight) => self.dev_data(|q| match self.config.select {
                Selection::Loss => weight.loss(f64::from(q).ln()),
                Selection::Potential => weight.potential(f64::from(q).ln()),
            }),
            Loss::Reverse { eta, reward } => {
                let reverse = if self.config.estimator == Estimator::Sampled {
                    self.rollouts.sample(&q, samples, stream);
                    self.rollouts.mean_reward(&q, *reward)
                } else {
                    exact::expected_reward(&q, *reward)
                };
                let forward = if *eta > 0.0 { self.dev_data(|q| -f64::from(q).ln()) } else { 0.0 };
                eta * forward + (1.0 - eta) * reverse
            }
            Loss::Js { eta } => {
                let terms = (0..dev.len()).map(|index| {
                    let log_q = counts::log_q(dev.get(index), probs, stride);
                    JsSequence::new(*eta, log_q, dev.log_p(index)).from_p
                });
                let from_p = terms.sum::<f64>() / dev.len() as f64;
                self.rollouts.sample(&q, samples, stream);
                eta * from_p + (1.0 - eta) * self.rollouts.mean_js(&q, *eta)
            }
        }
    }

    /// The mean over development sequences (or the expectation) of the sum over tokens of `loss(q)`.
    fn dev_data(&self, loss: impl Fn(f32) -> f64) -> f64 {
        let stride = self.model.stride();
        let sum = |counts: &[f32]| -> f64 {
            let pairs = counts.iter().zip(&self.forward.probs).filter(|(c, _)| **c > 0.0);
            pairs.map(|(&c, &q)| f64::from(c) * loss(q.max(f32::MIN_POSITIVE))).sum()
        };
        if self.config.estimator == Estimator::Exact {
            return sum(&self.expected);
        }
        let dev = &self.data.dev;
        let mut counts = vec![0f32; self.forward.probs.len()];
        (0..dev.len()).for_each(|index| dev.count(index, 1.0, stride, &mut counts));
        sum(&counts) / dev.len() as f64
    }
}

impl std::fmt::Debug for Trainer<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trainer")
            .field("loss", &self.loss)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "train_tests.rs"]
mod tests;
