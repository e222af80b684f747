//! `mixce train`: finetune a model, or train one from scratch.

mod dry_run;
mod gpus;
mod select;
mod settings;
pub(crate) mod sources;
mod watch;

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;
use mixce::FAMILIES;
use mixce_train::Error as TrainError;
use mixce_train::config::TrainConfig;
use mixce_train::distributed::{Launched, first_rank_first, lead};
use mixce_train::observer::BestModel;
use mixce_train::prepare::{launch, prepare};
use mixce_train::room::Room;
use mixce_train::run_folder::{Provenance, RunFolder};
use mixce_train::selector::Selector;
use mixce_train::trainer::{End, TrainOutcome};
use serde::Serialize;
use serde_json::json;

use crate::context::Context;
use crate::error::{Problem, with_hint};
use crate::models::Network;
use crate::output::table;
use crate::{interrupt, progress, ranks};
use select::MauveSelector;
pub(crate) use settings::Settings;
pub(crate) use settings::words;
use sources::Located;
use watch::Watcher;

/// What Ctrl-C does during training.
const PROMISE: &str = "writing a checkpoint of the last whole step";

/// Finetune a model with MixCE (or MLE, TaiLr, ...), or train one from scratch, and write a run folder
#[derive(Debug, Args)]
#[command(
    after_help = "Example: mixce train --model openai-community/gpt2 --train train.txt --valid valid.txt --out runs/first --eta 0.1\n\n\
    Defaults are the paper's. A --config file overrides them, and flags override both. The run folder holds run.toml (the settings, \
    usable as --config), metrics.jsonl, TensorBoard events, checkpoints/, best/ and final/. Ctrl-C writes a checkpoint; \
    --resume auto continues from it.\n\n\
    Several processes train one model when a launcher starts them, on one machine or several: `mpirun -n 4 mixce train ...` with a \
    build with the feature mpi, or `torchrun --no-python --nproc-per-node 4 mixce train ...`. Each takes a part of every microbatch; the \
    run is the same as that of one process, up to rounding. With the feature nccl each has a GPU, and --gpus starts them on this machine.\n\n\
    The flag names of the MixCE authors (--train_file, --mixing_ratio, ...) are accepted."
)]
pub(crate) struct TrainArgs {
    /// Read settings from a TOML file, whose keys are the flag names with underscores; a run folder's run.toml repeats that run
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print what would happen, without downloading or writing anything
    #[arg(long)]
    dry_run: bool,
    /// Begin although memory or disk space do not seem to suffice
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    patience: ranks::TimeoutArgs,
    /// Train on the first N GPUs of this machine, with a process for each; needs a build with the feature nccl
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    gpus: Option<u16>,
    #[command(flatten)]
    pub(crate) settings: Settings,
}

pub(crate) fn run(args: &TrainArgs, context: &Context) -> Result<()> {
    train(args, context).map_err(|failure| match args.config.as_deref().and_then(elsewhere) {
        Some(hint) => with_hint(&failure, hint),
        None => failure,
    })
}

/// The hint if a `run.toml`'s files are missing and the working directory is not the one in which the run was started.
fn elsewhere(run_toml: &Path) -> Option<String> {
    let folder = TrainConfig::recorded_folder(run_toml).ok().flatten()?;
    let config = TrainConfig::from_toml_file(run_toml).ok()?;
    let files = [&config.train, &config.valid].into_iter().flatten().flat_map(|files| &files.0);
    let models = [&config.model, &config.tokenizer].into_iter().flatten().map(Path::new);
    let is_there = |path: &Path| !path.exists() && folder.join(path).exists();
    (models.chain(files.map(PathBuf::as_path)).any(is_there)).then(|| {
        let (run_toml, folder) = (run_toml.display(), folder.display());
        format!("relative paths in `{run_toml}` are relative to the folder in which the run was started, `{folder}`: start it there")
    })
}

fn train(args: &TrainArgs, context: &Context) -> Result<()> {
    let config = resolve(args, context)?;
    let launched = Launched::of_environment()?;
    if let Some(gpus) = args.gpus.map(usize::from)
        && gpus::starts_processes(gpus, launched.as_ref(), &config)?
    {
        return gpus::launch(gpus);
    }
    let ranks = ranks::connect(launched, args.patience.timeout())?;
    let leads = ranks.rank() == 0;
    if leads {
        require_usable(&config)?;
    }
    // Processes on one machine share its cores, unless the user says otherwise.
    let threads = config.threads.or(ranks::threads(launched));
    let device = context.start_rank(Some(&config.device), threads, launched.as_ref())?;
    let ranks = ranks::connect_devices(ranks, &device)?;
    let network = if args.dry_run { Network::CacheOnly } else { Network::Allowed };
    let spinner = progress::spinner("loading model and data");
    let Located { sources, commit, pinned } = first_rank_first(&*ranks, || sources::find(&config, network))?;
    let stop = interrupt::install(if leads { "nothing is written" } else { "" });
    // The cache folder does not affect the run; a dry run writes no cache.
    let cache_dir = if args.dry_run { None } else { sources::cache_folder(&config) };
    let room = if args.force || args.dry_run { Room::Warn } else { Room::Require };
    let run = TrainConfig { cache_dir, ..config.clone() };
    let mut prepared = first_rank_first(&*ranks, || prepare(&run, &sources, FAMILIES, &device, room, stop))
        .map_err(|error| match error {
        TrainError::NoRoom { .. } => {
            with_hint(&error.into(), "`--force` begins the run all the same".to_owned())
        }
        other => other.into(),
    })?;
    spinner.finish_and_clear();
    let size = ranks.size();
    if args.dry_run {
        ranks::disconnect(ranks);
        if !leads {
            return Ok(());
        }
        return dry_run::print(
            &config.resolved_for(prepared.model.spec().positions, Some(&prepared.tokenizer)),
            &prepared,
            &device,
            size,
            context,
        );
    }

    prepared.selector = lead(&*ranks, || MauveSelector::of(&config, &prepared, &sources, &device))?
        .flatten()
        .map(|selector| Box::new(selector) as Box<dyn Selector>);
    prepared.ranks = ranks.clone();
    let provenance = Provenance { model_commit: commit, ranks: size, ..Provenance::of(&device) };
    if !leads {
        // Rank 0 promises and saves.
        interrupt::install_saving("");
    }
    let mut watcher = Watcher::new(context);
    let outcome = launch(&pinned, prepared, &provenance, &mut [&mut watcher], stop)?;
    drop(watcher);
    ranks::disconnect(ranks);
    match outcome.end {
        End::Finished | End::OutOfPatience if !leads => Ok(()),
        _ => conclude(&outcome, &config, size, context),
    }
}

/// The validated settings: defaults, then the file, then flags.
fn resolve(args: &TrainArgs, context: &Context) -> Result<TrainConfig> {
    let base = args.config.as_deref().map(TrainConfig::from_run_toml).transpose()?.unwrap_or_default();
    let mut config = args.settings.over(base);
    if let Some(seed) = context.seed {
        config.seed = seed;
    }
    if let Some(device) = &context.device {
        config.device.clone_from(device);
    }
    if args.gpus.is_some() && config.device == "auto" {
        "cuda".clone_into(&mut config.device);
    }
    config.threads = context.threads.or(config.threads);
    let run_toml = config.out.as_ref().filter(|_| config.resume.is_some()).map(|out| out.join("run.toml"));
    if let Some(run_toml) = run_toml.filter(|path| path.is_file()) {
        sources::keep_pins(&mut config, &run_toml)?;
    }
    config.validate()?;
    Ok(config.resolved())
}

/// Refuses an output folder that cannot be used before anything is loaded or written.
fn require_usable(config: &TrainConfig) -> Result<()> {
    match &config.out {
        Some(out) if config.resume.is_none() => Ok(RunFolder::require_free(out)?),
        Some(out) => Ok(RunFolder::require_run(out)?),
        None => Ok(()),
    }
}

/// The last line of `--json`.
#[derive(Debug, Serialize)]
struct Done<'a> {
    event: &'static str,
    best: Option<&'a BestModel>,
    steps: u64,
    #[serde(rename = "final")]
    last: Option<&'a Path>,
    out_of_patience: bool,
    ranks: usize,
}

fn conclude(outcome: &TrainOutcome, config: &TrainConfig, ranks: usize, context: &Context) -> Result<()> {
    if outcome.end == End::Interrupted {
        if context.output.is_json() && ranks::rank().is_none_or(|rank| rank == 0) {
            let event =
                json!({"event": "interrupted", "step": outcome.steps, "checkpoint": outcome.checkpoint});
            context.output.json(&event)?;
        }
        let steps = outcome.steps;
        let checkpoint = outcome.checkpoint.as_deref().unwrap_or(Path::new("(none)")).display();
        return Err(Problem::interrupted(format!(
            "interrupted after step {steps}; checkpoint `{checkpoint}`"
        ))
        .hint("continue with the same command and `--resume auto`")
        .into());
    }
    let done = Done {
        event: "done",
        best: outcome.best.as_ref(),
        steps: outcome.steps,
        last: outcome.final_model.as_deref(),
        out_of_patience: outcome.end == End::OutOfPatience,
        ranks,
    };
    context.output.either(&done, || summary(outcome, config))
}

fn summary(outcome: &TrainOutcome, config: &TrainConfig) -> String {
    let row = |name: &str, value: String| vec![name.to_owned(), value];
    let patience = if outcome.end == End::OutOfPatience { ", out of patience" } else { "" };
    let mut rows = vec![row("steps", format!("{}{patience}", outcome.steps))];
    rows.extend(outcome.best.as_ref().map(|best| {
        let (path, perplexity) = (best.path.display(), best.valid_nll.exp());
        row(
            "best model",
            format!("{path} (step {}, nll {:.4}, perplexity {perplexity:.3})", best.step, best.valid_nll),
        )
    }));
    rows.extend(outcome.final_model.as_ref().map(|path| row("last model", path.display().to_string())));
    rows.extend(
        config.out.as_ref().map(|out| row("metrics", out.join("metrics.jsonl").display().to_string())),
    );
    table(&rows, &[])
}
