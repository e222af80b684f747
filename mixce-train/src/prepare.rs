//! Prepares and launches a run: loads, encodes and checks; then creates the run folder and trains.
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::Device;
use mixce_data::input::STDIN;
use mixce_lm::{Family, ModelConfig, Parameters, Tokenizer, checkpoint, config as model_config};

use crate::config::{DEFAULT_MAX_LENGTH, DataFiles, TrainConfig};
use crate::data::{EncodeSettings, Examples, Input, cache};
use crate::distributed::{Alone, Communicator};
use crate::error::{Error, Result};
use crate::observer::{RunPlan, TrainObserver};
use crate::room::{self, Room};
use crate::run_folder::{Provenance, RunFolder};
use crate::selector::Selector;
use crate::trainer::{TrainJob, TrainOutcome, train};

/// Local folders of model and tokenizer, once hub ids are downloaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sources {
    /// Checkpoint folder or GGUF file to finetune; `None`: train from scratch with the configuration's `from_config`.
    pub model: Option<PathBuf>,
    /// Folder with the tokenizer's files, or GGUF file with a tokenizer.
    pub tokenizer: PathBuf,
}

/// A model, its tokenizer and its data, loaded and checked against each other.
#[derive(Debug)]
pub struct Prepared {
    /// The model's configuration.
    pub model: Arc<dyn ModelConfig>,
    /// Its initial parameters, f32, on the training device.
    pub parameters: Parameters,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// Training examples.
    pub train: Examples,
    /// Development examples.
    pub valid: Option<Examples>,
    /// Scores the model at evaluations; none from [`prepare`]. [`Selection::Mauve`](crate::config::Selection::Mauve) needs one.
    pub selector: Option<Box<dyn Selector>>,
    /// The other processes of the run; none from [`prepare`], which sets [`Alone`].
    pub ranks: Arc<dyn Communicator>,
}

/// Loads the model, tokenizer and data of `config`; the architecture is one of `families`. Whether the run fits is checked before the weights are
/// loaded.
///
/// # Errors
/// [`Error::NoRoom`]; an invalid configuration, or one that the device does not support; a model, tokenizer or data file that cannot be read; a document with
/// a token outside the model's vocabulary; `config.max_length` or `config.block_size` beyond the model's positions; [`Error::Interrupted`]
/// if `stop` becomes true.
pub fn prepare(
    config: &TrainConfig,
    sources: &Sources,
    families: &[&'static Family],
    device: &Device,
    room: Room,
    stop: &AtomicBool,
) -> Result<Prepared> {
    config.validate()?;
    config.check_device(device)?;
    let tokenizer = Tokenizer::from_dir(&sources.tokenizer)?;
    let model = match (&sources.model, &config.from_config) {
        (Some(path), _) => checkpoint::config(path, families)?,
        (None, Some(file)) => model_config::from_file(file, families)?,
        (None, None) => return Err(Error::config("expected `config.model` or `config.from_config`")),
    };
    let (vocabulary, positions) = (model.spec().vocabulary, model.spec().positions);
    tokenizer.check_vocabulary(vocabulary);
    require_positions(config, positions)?;
    let fitted = config.resolved_for(positions, Some(&tokenizer));
    if let (None, Some(length)) = (config.max_length, fitted.max_length.filter(|n| *n < DEFAULT_MAX_LENGTH)) {
        tracing::warn!(
            "`config.max_length` is {length}: the model's positions leave no room for the default of {DEFAULT_MAX_LENGTH}"
        );
    }
    let config = &fitted;

    // Data before weights: a bad line is found in seconds, loading a large checkpoint takes longer.
    let (train, valid) = inputs(config)?;
    let train =
        train.ok_or_else(|| Error::config("expected `config.train`, a file of training documents"))?;
    let train = examples(&train, &tokenizer, config, stop)?;
    let valid = valid.map(|valid| examples(&valid, &tokenizer, config, stop)).transpose()?;
    for examples in [Some(&train), valid.as_ref()].into_iter().flatten() {
        examples.store().require_vocabulary(model.spec().vocabulary)?;
    }
    room::check(room, config, &*config.with_dropout(&model), &train, device)?;
    let parameters = match &sources.model {
        Some(folder) => checkpoint::load_parameters(folder, &*model, device)?,
        None => Parameters::random(&*model, config.seed, device)?,
    };
    if stop.load(Ordering::Relaxed) {
        return Err(Error::Interrupted);
    }
    Ok(Prepared { model, parameters, tokenizer, train, valid, selector: None, ranks: Arc::new(Alone) })
}

/// Resolves the files of training and development documents.
fn inputs(config: &TrainConfig) -> Result<(Option<Input>, Option<Input>)> {
    let is_stdin =
        |files: &Option<DataFiles>| files.iter().flat_map(|f| &f.0).any(|path| path == Path::new(STDIN));
    if is_stdin(&config.train) && is_stdin(&config.valid) {
        return Err(mixce_data::Error::StdinTwice.into());
    }
    let open = |files: &Option<DataFiles>| {
        files.as_ref().map(|files| Input::open(&files.0, config.reading())).transpose()
    };
    Ok((open(&config.train)?, open(&config.valid)?))
}

/// The examples of some files, encoded and truncated or concatenated according to the configuration. Without `max_length`, which
/// [`TrainConfig::resolved_for`] sets, documents are not truncated.
///
/// # Errors
/// As [`cache::open_or_build`].
pub fn examples(
    input: &Input,
    tokenizer: &Tokenizer,
    config: &TrainConfig,
    stop: &AtomicBool,
) -> Result<Examples> {
    // Blocks are made of whole documents.
    let max_length = config.max_length.filter(|_| config.block_size == 0);
    let settings = EncodeSettings { max_length, add_bos: config.add_bos_for(Some(tokenizer)) };
    let store = match &config.cache_dir {
        Some(folder) => cache::open_or_build(input, tokenizer, settings, folder, stop)?,
        None => cache::encode_input(input, tokenizer, settings, stop)?,
    };
    let counts = store.counts();
    tracing::info!(
        "`{}`: {} documents, {} tokens ({} truncated, {} empty, {} without a target and {} bad ones skipped)",
        input.name(),
        counts.documents,
        counts.tokens,
        counts.truncated,
        counts.empty,
        counts.short,
        counts.bad
    );
    match (config.block_size, config.confine_attention) {
        (0, _) => Ok(Examples::documents(store)),
        (block, true) => {
            tracing::info!(
                "documents are concatenated into blocks of {block} tokens; attention is confined to each document"
            );
            Examples::confined_blocks(store, block)
        }
        (block, false) => {
            tracing::warn!(
                "documents are concatenated into blocks of {block} tokens, and attention crosses document boundaries (`config.confine_attention` prevents that)"
            );
            Examples::blocks(store, block)
        }
    }
}

/// Creates (or, with `config.resume`, reopens) the run folder `config.out`, writes `run.toml` and trains.
///
/// # Errors
/// [`Error::OutputNotEmpty`], and as [`train`].
pub fn launch(
    config: &TrainConfig,
    prepared: Prepared,
    provenance: &Provenance,
    observers: &mut [&mut dyn TrainObserver],
    stop: &AtomicBool,
) -> Result<TrainOutcome> {
    config.validate_settings()?;
    let out = config.out.as_deref().ok_or_else(|| Error::config("expected `config.out`, the run folder"))?;
    let run = match config.resume {
        // Rank 0 makes it.
        _ if prepared.ranks.rank() > 0 => RunFolder::of_first_rank(out),
        Some(_) => RunFolder::open_or_create(out)?,
        None => RunFolder::create(out)?,
    };
    // Without `resume`: the file is for repeating the run, not for continuing it.
    let resolved = config.resolved_for(prepared.model.spec().positions, Some(&prepared.tokenizer));
    let repeated = TrainConfig { resume: None, ..resolved };
    let mut run_toml = RunTomlWriter { run: &run, config: repeated, provenance };
    let mut all: Vec<&mut dyn TrainObserver> = vec![&mut run_toml];
    all.extend(observers.iter_mut().map(|o| &mut **o as &mut dyn TrainObserver));
    let Prepared { model, parameters, tokenizer, train: examples, valid, selector, ranks } = prepared;
    let job = TrainJob {
        valid: valid.as_ref(),
        selector: selector.as_deref(),
        tokenizer: Some(&tokenizer),
        run: Some(&run),
        stop: Some(stop),
        ranks,
        ..TrainJob::new(config, model, &examples)?
    };
    train(&job, parameters, &mut all)
}

/// Writes `run.toml` when the run starts, after the checkpoint to resume from has been accepted, so that a refused one changes
/// nothing.
struct RunTomlWriter<'a> {
    run: &'a RunFolder,
    config: TrainConfig,
    provenance: &'a Provenance,
}

impl TrainObserver for RunTomlWriter<'_> {
    fn on_start(&mut self, plan: &RunPlan) -> Result<()> {
        let provenance = Provenance { total_steps: Some(plan.total_steps), ..self.provenance.clone() };
        self.run.write_run_toml(&self.config, &provenance)
    }
}

fn require_positions(config: &TrainConfig, positions: usize) -> Result<()> {
    let (field, asked) = match config.block_size {
        0 => ("max_length", config.max_length_for(positions)),
        block => ("block_size", block),
    };
    if asked > positions {
        return Err(Error::Config {
            message: format!("`config.{field} = {asked}` is more than the model's {positions} positions"),
            hint: Some(format!("use `config.{field} = {positions}`")),
        });
    }
    Ok(())
}
