//! Resolves a model argument to a folder, a configuration, weights and a tokenizer.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use candle_core::Device;
use mixce::FAMILIES;
use mixce_hub::{Error as HubError, FetchProgress, Hub, HubEnvironment, ModelId, ModelSource, Snapshot};
use mixce_lm::checkpoint::gguf;
use mixce_lm::{LanguageModel, ModelConfig, Tokenizer, checkpoint, config, stop_ids};
use mixce_train::checkpoint::{STATE_FILE, latest};
use mixce_train::config::TrainConfig;

use crate::error::Problem;
use crate::interrupt;
use crate::progress::{self, FetchBars};

/// Whether the hub may be accessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Network {
    /// As the environment variables say.
    Allowed,
    /// Only the cache.
    CacheOnly,
}

/// A model on this machine.
#[derive(Clone, Debug)]
pub(crate) struct ModelFolder {
    /// The folder with `config.json` and the weights, or a GGUF file.
    pub(crate) path: PathBuf,
    /// The commit, for a hub model.
    pub(crate) commit: Option<String>,
}

impl ModelFolder {
    /// `model` in a form that refers to the same files in the future: a hub id gets its commit.
    pub(crate) fn pinned(&self, model: &str) -> String {
        let repository = model.split_once('@').map_or(model, |(repository, _)| repository);
        self.commit.as_ref().map_or_else(|| model.to_owned(), |commit| format!("{repository}@{commit}"))
    }
}

/// Resolves a model argument to a folder; a hub model is downloaded first.
///
/// A run folder stands for its `best` model, else its `final` one, else its newest checkpoint.
pub(crate) fn locate(model: &str, network: Network) -> Result<ModelFolder> {
    find(model, network, Hub::fetch_model)
}

/// As [`locate`], for a tokenizer: from the hub only the tokenizer's files are downloaded.
pub(crate) fn locate_tokenizer(named: &str, network: Network) -> Result<ModelFolder> {
    find(named, network, Hub::fetch_tokenizer)
}

type Fetch = fn(&Hub, &ModelId, &mut dyn FetchProgress) -> Result<Snapshot, HubError>;

fn find(model: &str, network: Network, fetch: Fetch) -> Result<ModelFolder> {
    match ModelSource::parse(model)? {
        ModelSource::Local(path) => Ok(ModelFolder { path: inside_run(path)?, commit: None }),
        ModelSource::Hub(id) => {
            let mut environment = HubEnvironment::from_process()?;
            environment.offline |= network == Network::CacheOnly;
            interrupt::install("partial downloads are kept and resumed next time");
            let snapshot = fetch(&Hub::new(environment)?, &id, &mut FetchBars::default())?;
            interrupt::release();
            Ok(ModelFolder { path: snapshot.path, commit: Some(snapshot.commit) })
        }
    }
}

/// The configuration alone of a model: a published size by name, a `config.json`, a folder with one (also a run folder), or a GGUF file.
/// Nothing is downloaded; `flag` is the flag it was given with.
pub(crate) fn known_config(flag: &str, named: &str) -> Result<Arc<dyn ModelConfig>> {
    if let Some(preset) = config::preset(named, FAMILIES) {
        return Ok(preset);
    }
    let path = Path::new(named);
    if !path.exists() {
        let presets = FAMILIES.iter().flat_map(|family| family.presets);
        let presets = presets.map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        let problem = Problem::new(format!("`{flag}`: expected {presets} or a path, got `{named}`"));
        return Err(problem.hint("a path is a config.json, a folder with one, or a GGUF file").into());
    }
    Ok(match known_model(named)? {
        Some(model) => checkpoint::config(&model, FAMILIES)?,
        None => config::from_file(path, FAMILIES)?,
    })
}

/// The model that such a name refers to, if it is more than a configuration: the folder, that of a run's best model, or the GGUF file.
pub(crate) fn known_model(named: &str) -> Result<Option<PathBuf>> {
    let path = PathBuf::from(named);
    if config::preset(named, FAMILIES).is_some() {
        return Ok(None);
    }
    match gguf::find(&path)? {
        Some(_) => Ok(Some(path)),
        None => path.is_dir().then(|| inside_run(path)).transpose(),
    }
}

fn inside_run(path: PathBuf) -> Result<PathBuf> {
    if path.join("config.json").is_file() || !path.join("run.toml").is_file() {
        return Ok(path);
    }
    let exported = ["best", "final"].map(|name| path.join(name));
    let newest = latest(&path.join("checkpoints"))?.map(|(_, folder)| folder);
    match exported.into_iter().find(|folder| folder.join("config.json").is_file()).or(newest) {
        Some(folder) => {
            tracing::info!("`{}` is a run folder: using `{}`", path.display(), folder.display());
            Ok(folder)
        }
        None => {
            Err(Problem::new(format!("run folder `{}` contains no model or checkpoint yet", path.display()))
                .into())
        }
    }
}

/// The run folder that contains a model folder: `RUN/best`, `RUN/final` or `RUN/checkpoints/step-N`.
pub(crate) fn run_of(folder: &Path) -> Option<PathBuf> {
    let folder = std::path::absolute(folder).ok()?;
    folder.ancestors().skip(1).take(2).find(|up| up.join("run.toml").is_file()).map(Path::to_owned)
}

/// A loaded model.
#[derive(Debug)]
pub(crate) struct LoadedModel {
    /// The model.
    pub(crate) model: Box<dyn LanguageModel>,
    /// Its tokenizer.
    pub(crate) tokenizer: Tokenizer,
    /// The tokens that end a sample.
    pub(crate) ends: Vec<u32>,
}

/// Loads a model and its tokenizer (or the given one).
pub(crate) fn load(model: &str, tokenizer: Option<&str>, device: &Device) -> Result<LoadedModel> {
    let folder = locate(model, Network::Allowed)?;
    let spinner = progress::spinner(format!("loading {}", folder.path.display()));
    let loaded = checkpoint::load(&folder.path, FAMILIES, device)?;
    let tokenizer = tokenizer_for(tokenizer, &folder.path, Network::Allowed)?;
    let vocabulary = loaded.config.spec().vocabulary;
    tokenizer.check_vocabulary(vocabulary);
    let ends = stop_ids(&folder.path, &tokenizer, vocabulary)?;
    let model = loaded.config.build(loaded.parameters)?;
    spinner.finish_and_clear();
    Ok(LoadedModel { model, tokenizer, ends })
}

/// The folder of the given tokenizer, else the model's own; for a training checkpoint, which has none, the run's.
pub(crate) fn tokenizer_folder(named: Option<&str>, folder: &Path, network: Network) -> Result<PathBuf> {
    if let Some(named) = named {
        return Ok(locate_tokenizer(named, network)?.path);
    }
    match run_of(folder).filter(|_| folder.join(STATE_FILE).is_file()) {
        Some(run) => tokenizer_of_run(&run, network),
        None => Ok(folder.to_owned()),
    }
}

/// The tokenizer in [`tokenizer_folder`].
pub(crate) fn tokenizer_for(named: Option<&str>, folder: &Path, network: Network) -> Result<Tokenizer> {
    Ok(Tokenizer::from_dir(&tokenizer_folder(named, folder, network)?)?)
}

fn tokenizer_of_run(run: &Path, network: Network) -> Result<PathBuf> {
    if let Some(exported) = ["best", "final"].map(|name| run.join(name)).into_iter().find(|f| f.is_dir()) {
        return Ok(exported);
    }
    let config = TrainConfig::from_run_toml(&run.join("run.toml"))?;
    match config.tokenizer.or(config.model) {
        Some(source) => Ok(locate_tokenizer(&source, network)?.path),
        None => Err(Problem::new(format!("`{}` names no tokenizer", run.join("run.toml").display())).into()),
    }
}
