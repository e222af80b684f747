//! What the training tests share: tiny models, documents, and a run in a temporary folder.
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::{Device, Tensor};
use mixce_core::objective::Mle;
use mixce_gpt2::Gpt2Config;
use mixce_kernels::rng::Stream;
use mixce_lm::{ModelConfig, Parameters, ScoringOptions};
use mixce_train::config::{Precision, TrainConfig};
use mixce_train::data::{Examples, TokenStore};
use mixce_train::evaluate::{Scored, evaluate};
use mixce_train::observer::{EvaluationReport, StepReport, TrainObserver};
use mixce_train::run_folder::{Provenance, RunFolder};
use mixce_train::selector::Selector;
use mixce_train::trainer::{TrainJob, TrainOutcome, train};

/// Two layers, 16 channels, 23 tokens, 12 positions.
pub(crate) fn tiny_config() -> Gpt2Config {
    let json = r#"{"model_type":"gpt2","vocab_size":23,"n_positions":12,"n_embd":16,"n_layer":2,"n_head":2,
        "resid_pdrop":0.1,"embd_pdrop":0.1,"attn_pdrop":0.1,"bos_token_id":22,"eos_token_id":22}"#;
    Gpt2Config::from_json(json).unwrap()
}

/// `n` ragged documents of 2 to 12 tokens, the last one EOS; with a pattern to learn.
pub(crate) fn documents(n: u64, seed: u64) -> Vec<Vec<u32>> {
    let stream = Stream::new(seed);
    let document = |i| {
        let stream = stream.fold(i);
        let (start, step) = (stream.below(0, 22), 1 + stream.below(1, 3));
        let length = 1 + stream.below(2, 11);
        (0..length).map(|t| ((start + t * step) % 22) as u32).chain([22]).collect()
    };
    (0..n).map(document).collect()
}

pub(crate) fn examples(documents: &[Vec<u32>]) -> Examples {
    Examples::documents(TokenStore::from_documents(documents))
}

/// Settings for a short run on the CPU.
pub(crate) fn settings() -> TrainConfig {
    TrainConfig {
        objective: "mixce".parse().unwrap(),
        eta: Some(0.5),
        epochs: 2,
        batch_size: 3,
        grad_accum: 2,
        lr: 1e-2,
        log_every: 1,
        seed: 5,
        ..TrainConfig::default()
    }
}

/// Keeps all reports; asks to stop after a step, if told to.
#[derive(Default)]
pub(crate) struct Recorder {
    pub(crate) steps: Vec<StepReport>,
    pub(crate) evaluations: Vec<EvaluationReport>,
    pub(crate) checkpoints: Vec<u64>,
    pub(crate) done: bool,
    pub(crate) stop_after: Option<u64>,
    pub(crate) stop: AtomicBool,
}

/// Records what it hears; sets the flag after [`Recorder::stop_after`].
pub(crate) struct Watch<'a>(pub(crate) &'a mut Recorder, pub(crate) &'a AtomicBool);

impl TrainObserver for Watch<'_> {
    fn on_step(&mut self, report: &StepReport) -> mixce_train::Result<()> {
        self.0.steps.push(report.clone());
        if self.0.stop_after == Some(report.step) {
            self.1.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    fn on_evaluation(&mut self, report: &EvaluationReport) -> mixce_train::Result<()> {
        self.0.evaluations.push(report.clone());
        Ok(())
    }

    fn on_checkpoint(&mut self, step: u64, _: &Path) -> mixce_train::Result<()> {
        self.0.checkpoints.push(step);
        Ok(())
    }

    fn on_done(&mut self, _: u64, _: Option<&mixce_train::observer::BestModel>) -> mixce_train::Result<()> {
        self.0.done = true;
        Ok(())
    }
}

/// A run of a model with its data.
pub(crate) struct Setup {
    pub(crate) model: Arc<dyn ModelConfig>,
    pub(crate) parameters: Parameters,
    pub(crate) train: Examples,
    pub(crate) valid: Option<Examples>,
    pub(crate) selector: Option<Box<dyn Selector>>,
    pub(crate) folder: tempfile::TempDir,
}

impl Setup {
    pub(crate) fn new(train: &[Vec<u32>], valid: Option<&[Vec<u32>]>) -> Self {
        Self::of(Arc::new(tiny_config()), train, valid)
    }

    /// A model of this configuration with random weights.
    pub(crate) fn of(model: Arc<dyn ModelConfig>, train: &[Vec<u32>], valid: Option<&[Vec<u32>]>) -> Self {
        let parameters = Parameters::random(&*model, 3, &Device::Cpu).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let (train, valid) = (examples(train), valid.map(examples));
        Self { model, parameters, train, valid, selector: None, folder }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Trains into the folder `name`.
    pub(crate) fn train(
        &self,
        name: &str,
        config: &TrainConfig,
        recorder: &mut Recorder,
    ) -> mixce_train::Result<TrainOutcome> {
        let run = match config.resume {
            Some(_) => RunFolder::open_or_create(&self.path(name))?,
            None => RunFolder::create(&self.path(name))?,
        };
        run.write_run_toml(config, &Provenance::of(&Device::Cpu))?;
        let stop = AtomicBool::new(recorder.stop.load(Ordering::Relaxed));
        let job = TrainJob {
            valid: self.valid.as_ref(),
            selector: self.selector.as_deref(),
            run: Some(&run),
            stop: Some(&stop),
            ..TrainJob::new(config, self.model.clone(), &self.train)?
        };
        let mut watch = Watch(recorder, &stop);
        train(&job, self.parameters.clone(), &mut [&mut watch])
    }
}

/// The tensors of a safetensors file, without the prefixes `transformer.` and `model.`.
pub(crate) fn tensors(path: &Path) -> HashMap<String, Tensor> {
    let loaded = candle_core::safetensors::load(path, &Device::Cpu).unwrap();
    let prefixes = ["transformer.", "model."];
    let short = |k: &str| prefixes.iter().find_map(|p| k.strip_prefix(p)).unwrap_or(k).to_owned();
    loaded.into_iter().map(|(k, v)| (short(&k), v)).collect()
}

pub(crate) fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// The largest difference of two models' parameters.
pub(crate) fn largest_difference(a: &HashMap<String, Tensor>, b: &HashMap<String, Tensor>) -> f32 {
    assert_eq!(a.len(), b.len());
    let difference = |(name, x): (&String, &Tensor)| {
        values(x).iter().zip(values(&b[name])).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max)
    };
    a.iter().map(difference).fold(0.0, f32::max)
}

/// Scored in bf16, documents have the likelihood of f32 up to the rounding of operands to 8 bits, which is not nothing: the mean per token to
/// 0.3 %, each token to 3 % of the least likely one's. Where the device has no bf16 it is refused.
pub(crate) fn assert_bf16_scores_as_f32(device: &Device) {
    let config = tiny_config();
    // Of such a size that the model is sure of some tokens.
    let parameters = Parameters::random(&config, 9, &Device::Cpu).unwrap();
    let parameters = parameters.try_map(|_, t| Ok((t * 5.0)?.to_device(device)?)).unwrap();
    let model = config.build(parameters).unwrap();
    let examples = examples(&documents(30, 4));
    let score = |precision| {
        let (mut log_q, options) = (Vec::new(), ScoringOptions { batch_tokens: 64, precision });
        let mut keep = |scored: Scored<'_>| {
            log_q.extend_from_slice(scored.log_q);
            Ok(())
        };
        evaluate(&*model, &examples, &Mle, options, &mut keep).map(|evaluation| (evaluation.nll, log_q))
    };
    let (nll, log_q) = score(Precision::F32.into()).unwrap();
    let spread = |log_q: &[f32]| log_q.iter().fold(0f32, |most, l| most.max(-l));
    assert!(spread(&log_q) > 5.0, "some tokens are unlikely: {}", spread(&log_q));
    if let Err(refused) = mixce_kernels::Precision::Bf16.check(device) {
        let (refused, error) = (refused.to_string(), score(Precision::Bf16.into()).unwrap_err().to_string());
        // Behind the first line may be where it came from.
        return assert!(error.contains(refused.lines().next().unwrap()), "{error}");
    }
    let (rounded_nll, rounded) = score(Precision::Bf16.into()).unwrap();
    assert_ne!(log_q, rounded);
    assert!((nll - rounded_nll).abs() < 3e-3 * nll, "{nll} {rounded_nll}");
    let apart = log_q.iter().zip(&rounded).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
    assert!(apart < 0.03 * spread(&log_q), "a token's log q differs by {apart} of {}", spread(&log_q));
}

/// Over a run that learns, the losses of bf16 stay those of f32 to about a percent. 20 documents, in steps of 6.
pub(crate) fn assert_bf16_trains_as_f32(setup: &Setup) {
    let nll = |name, precision| {
        let config = TrainConfig { precision, epochs: 20, dropout: Some(0.1), ..settings() };
        let mut recorder = Recorder::default();
        setup.train(name, &config, &mut recorder).unwrap();
        recorder.steps.iter().map(|step| step.nll).collect::<Vec<_>>()
    };
    let (exact, rounded) = (nll("f32", Precision::F32), nll("bf16", Precision::Bf16));
    assert_ne!(exact, rounded);
    let mean = |nll: &[f64]| nll.iter().sum::<f64>() / nll.len() as f64;
    let (first, last) = (mean(&exact[..4]), mean(&exact[exact.len() - 4..]));
    assert!(last < 0.5 * first, "f32 learns: {first} {last}");
    for (epoch, (exact, rounded)) in exact.chunks(4).zip(rounded.chunks(4)).enumerate() {
        let (exact, rounded) = (mean(exact), mean(rounded));
        assert!((exact - rounded).abs() < 0.02 * exact + 0.01, "epoch {epoch}: {exact} {rounded}");
    }
}
