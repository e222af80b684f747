//! Trains a tiny model from scratch with a custom objective, in memory: no run folder, no files.
//!
//! ```text
//! cargo run --release -p mixce --example own_objective
//! ```

#![expect(clippy::print_stdout, reason = "an example shows its result")]

use mixce::prelude::*;

/// `w(q) = (1 - q)^2`: tokens that the model already predicts well count less (the focal loss of Lin et al., 2017, with its weight
/// held constant in the gradient).
#[derive(Debug)]
struct Focal;

impl Objective for Focal {
    fn name(&self) -> &'static str {
        "focal"
    }

    fn weight(&self, log_q: f64) -> f64 {
        (1.0 - log_q.exp()).powi(2)
    }

    fn weights(&self, log_q: &Tensor) -> candle_core::Result<Tensor> {
        log_q.exp()?.affine(-1.0, 1.0)?.sqr()
    }

    fn potential(&self, log_q: f64) -> f64 {
        // The integral of -(1 - q)^2 / q.
        let q = log_q.exp();
        -log_q + 2.0 * q - 0.5 * q * q
    }

    fn fixed_point(&self, _: &[f64]) -> Option<Vec<f64>> {
        None
    }
}

/// The mean negative log-likelihood of the first and of the last step, in nats per token.
pub(crate) fn run() -> Result<[f64; 2], Box<dyn std::error::Error>> {
    let lines: Vec<String> = (0..64).map(|i| format!("the {i} cats sat on the mat")).collect();
    let tokenizer = Tokenizer::train(lines.iter().map(String::as_str), 300)?;
    let end = tokenizer.eos_id();
    let documents: Vec<Vec<u32>> = lines
        .iter()
        .map(|line| Ok(tokenizer.encode(line)?.into_iter().chain(end).collect()))
        .collect::<Result<_, mixce::lm::Error>>()?;

    let size = tokenizer.vocab_size();
    let model = Gpt2Config {
        vocab_size: size,
        n_positions: 32,
        n_embd: 32,
        n_layer: 2,
        n_head: 2,
        ..Gpt2Config::default()
    };
    let parameters = Parameters::random(&model, 1, &Device::Cpu)?;
    let config = TrainConfig { max_steps: Some(60), lr: 3e-3, dropout: Some(0.0), ..TrainConfig::default() };
    let examples = Examples::documents(TokenStore::from_documents(&documents));

    let mut losses = Losses::default();
    let job = TrainJob { objective: Arc::new(Focal), ..TrainJob::new(&config, Arc::new(model), &examples)? };
    let outcome = train(&job, parameters, &mut [&mut losses])?;
    println!(
        "{} steps: from {:.3} to {:.3} nats a token",
        outcome.steps,
        losses.0[0],
        losses.0[losses.0.len() - 1]
    );
    Ok([losses.0[0], losses.0[losses.0.len() - 1]])
}

/// Keeps the negative log-likelihood of every step.
#[derive(Default)]
struct Losses(Vec<f64>);

impl TrainObserver for Losses {
    fn on_step(&mut self, report: &StepReport) -> mixce::train::Result<()> {
        self.0.push(report.nll);
        Ok(())
    }
}

#[cfg(not(test))]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    run().map(|_| ())
}
