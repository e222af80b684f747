//! `mixce export`: writes a model folder for Hugging Face tools.

use std::path::{Path, PathBuf};

use anyhow::Result;
use candle_core::{DType, Device};
use clap::{Args, ValueEnum};
use mixce::FAMILIES;
use mixce_lm::checkpoint;
use mixce_lm::export::{self, ExportRequest, NameStyle, TrainingFacts};
use mixce_train::checkpoint::{STATE_FILE, TrainState};
use mixce_train::config::TrainConfig;
use serde_json::json;

use crate::authors;
use crate::context::Context;
use crate::models::{self, Network};

/// Write a model, or a run's checkpoint, as a Hugging Face folder
#[derive(Debug, Args)]
#[command(
    after_help = "Example: mixce export --model runs/first/checkpoints/step-00000100 --out models/step-100"
)]
pub(crate) struct ExportArgs {
    /// Folder or GGUF file of a model, run folder (its best model), RUN/checkpoints/step-N, or hub id
    #[arg(long, alias = authors::MODEL, value_name = "MODEL")]
    model: String,
    /// New folder; must be empty or not exist
    #[arg(long, alias = authors::OUT, value_name = "DIR")]
    out: PathBuf,
    /// Tensor names
    #[arg(long, value_enum, default_value_t = Format::Hf)]
    format: Format,
    /// Element type of the stored weights
    #[arg(long, value_enum, default_value_t = StoredType::F32)]
    dtype: StoredType,
    /// Folder or hub id of the tokenizer [default: the model's own]
    #[arg(long, value_name = "MODEL")]
    tokenizer: Option<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    /// transformer.wte.weight or model.embed_tokens.weight, as transformers saves a language model
    Hf,
    /// wte.weight or embed_tokens.weight, as openai-community/gpt2 is published
    PytorchNames,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum StoredType {
    /// 32-bit float
    F32,
    /// IEEE half precision
    F16,
    /// bfloat16
    Bf16,
}

pub(crate) fn run(args: &ExportArgs, context: &Context) -> Result<()> {
    export::refuse_occupied(&args.out)?;
    let folder = models::locate(&args.model, Network::Allowed)?;
    let loaded = checkpoint::load(&folder.path, FAMILIES, &Device::Cpu)?;
    let tokenizer = models::tokenizer_for(args.tokenizer.as_deref(), &folder.path, Network::Allowed)?;
    let facts = facts_of(&folder.path, &args.model)?;
    let request = ExportRequest {
        config: &*loaded.config,
        parameters: &loaded.parameters,
        tokenizer: Some(&tokenizer),
        facts: &facts,
        names: match args.format {
            Format::Hf => NameStyle::HuggingFace,
            Format::PytorchNames => NameStyle::Published,
        },
        dtype: match args.dtype {
            StoredType::F32 => DType::F32,
            StoredType::F16 => DType::F16,
            StoredType::Bf16 => DType::BF16,
        },
    };
    export::export(&args.out, &request)?;
    let report = json!({
        "path": args.out,
        "source": folder.path,
        "parameters": loaded.parameters.element_count(),
    });
    context.output.either(&report, || args.out.display().to_string())
}

/// Facts about the training: the run's settings if the model is in a run folder, else its origin.
pub(crate) fn facts_of(folder: &Path, model: &str) -> Result<TrainingFacts> {
    let state = folder.join(STATE_FILE);
    let (config, steps) = if state.is_file() {
        let state = TrainState::read(&state)?;
        (state.config, Some(state.step))
    } else if let Some(run) = models::run_of(folder) {
        (TrainConfig::from_toml_file(&run.join("run.toml"))?, None)
    } else {
        return Ok(TrainingFacts { base_model: Some(model.to_owned()), ..TrainingFacts::default() });
    };
    let config = config.resolved();
    Ok(TrainingFacts {
        base_model: config.model.clone(),
        objective: Some(config.objective.to_string()),
        eta: config.eta,
        steps,
        seed: Some(config.seed),
        ..TrainingFacts::default()
    })
}
