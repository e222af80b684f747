//! `mixce sweep`: a grid of training runs, and the choice between objectives.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use mixce_core::ObjectiveConfig;
use mixce_sweep::{Shard, TrainSize};
use mixce_train::distributed::Launched;

use super::train::Settings;
use crate::context::Context;
use crate::error::{Problem, at_least, positive};
use crate::objective::ObjectiveParser;
use crate::{progress, sweep};

/// No machine runs more commands at once; a larger number is a typo.
const MAX_JOBS: usize = 1024;

/// Train, sample and score a grid of objectives and their controls, and choose the best on development texts
#[derive(Debug, Args)]
#[command(
    override_usage = "mixce sweep FILE [OPTIONS]\n       mixce sweep --model MODEL --train FILE --valid FILE --test FILE --etas ETAS --out DIR [OPTIONS]",
    after_help = "Example: mixce sweep --model openai-community/gpt2 --train train.txt --valid valid.txt --test test.txt --etas 0.01,0.1,0.5,1 --seeds 1,2,3 \
    --featurizer openai-community/gpt2-large --out runs/eta\n\n\
    The model of every cell is trained and continues the development documents from their first 50 tokens (--prompt-length); the continuations are \
    scored. The objective with the best mean development metric (MAUVE) is chosen; objectives within the standard error of the difference are \
    reported as ties. Test texts are scored last: for the chosen objective, the best one other than maximum likelihood, maximum likelihood and the \
    controls. The controls are the maximum-likelihood models at the top-p with the best development metric, and at the temperature of equal \
    diversity.\n\n\
    A FILE describes several corpora, models, training sizes and lengths; the repository's docs/recipes has examples. Flags override it, and \
    OUT/sweep.toml records the whole grid. Each step is a command of this program; cells/ID/log.txt lists them. The same command continues a sweep \
    that was stopped or killed, tries failed cells again, and adds cells to a grid that was extended.\n\n\
    On several machines: mixce sweep FILE --shard 1/4, 2/4, .. in a shared folder, or in copies that are merged afterwards; then the same command \
    without --shard. The exit status is 1 if a cell failed.",
    mut_arg("objective", |arg| arg.hide(true)),
    mut_arg("eta", |arg| arg.hide(true)),
    mut_arg("gamma", |arg| arg.hide(true)),
    mut_arg("min_weight", |arg| arg.hide(true)),
    mut_arg("alpha", |arg| arg.hide(true)),
    mut_arg("resume", |arg| arg.hide(true))
)]
pub(crate) struct SweepArgs {
    /// The grid as a TOML file [default: OUT/sweep.toml, unless --model describes a grid]
    #[arg(value_name = "FILE", help_heading = "Grid")]
    pub(crate) file: Option<PathBuf>,
    /// Test documents; files as for --train
    #[arg(long, value_name = "FILE", num_args = 1.., help_heading = "Grid")]
    pub(crate) test: Vec<PathBuf>,
    /// Values of MixCE's eta; 1 is maximum likelihood, which is always included
    #[arg(long, value_name = "ETAS", value_delimiter = ',', help_heading = "Grid")]
    pub(crate) etas: Vec<f64>,
    /// Further objectives, with their parameters, as in `tailr:gamma=0.1,min_weight=0.3`
    #[arg(long, value_name = "OBJECTIVE", num_args = 1.., value_parser = ObjectiveParser, hide_possible_values = true, help_heading = "Grid")]
    pub(crate) objectives: Vec<ObjectiveConfig>,
    /// Seeds of training and sampling [default: --seed]
    #[arg(long, value_name = "SEEDS", value_delimiter = ',', help_heading = "Grid")]
    pub(crate) seeds: Vec<u64>,
    /// Training sizes: the first N documents, or `all` [default: all]
    #[arg(long, value_name = "SIZES", value_delimiter = ',', value_parser = sweep::train_size, help_heading = "Grid")]
    pub(crate) train_sizes: Vec<TrainSize>,
    /// Maximum length in tokens of documents, and of samples with their prompt [default: 512]
    #[arg(
        long,
        value_name = "TOKENS",
        value_delimiter = ',',
        conflicts_with = "max_length",
        help_heading = "Grid"
    )]
    pub(crate) max_lengths: Vec<u64>,
    /// Development metric that decides the choice: a key of `mixce score --json`, or perplexity [default: mauve]
    #[arg(long, value_name = "KEY", help_heading = "Comparison")]
    pub(crate) metric: Option<String>,
    /// Metrics to compute, as for `mixce score` [default: diversity,repetition,mauve]
    #[arg(long, value_name = "METRICS", value_delimiter = ',', help_heading = "Comparison")]
    pub(crate) metrics: Vec<String>,
    /// Folder or hub id of the language model for MAUVE's features [default: openai-community/gpt2-large]
    #[arg(long, value_name = "MODEL", help_heading = "Comparison")]
    pub(crate) featurizer: Option<String>,
    /// Folder or hub id of the BERT for coherence [default: princeton-nlp/sup-simcse-bert-base-uncased]
    #[arg(long, value_name = "MODEL", help_heading = "Comparison")]
    pub(crate) embedder: Option<String>,
    /// Tokens of a prompt [default: 50]
    #[arg(long, value_name = "TOKENS", help_heading = "Comparison")]
    pub(crate) prompt_length: Option<u64>,
    /// Samples per prompt [default: 3]
    #[arg(long, value_name = "N", help_heading = "Comparison")]
    pub(crate) samplings: Option<u64>,
    /// Continue and score only the first N documents [default: all]
    #[arg(long, value_name = "N", help_heading = "Comparison")]
    pub(crate) documents: Option<u64>,
    /// Leave out the controls
    #[arg(long, help_heading = "Comparison")]
    pub(crate) no_controls: bool,
    /// Commands that run at the same time; each gets an equal share of --threads
    #[arg(long, default_value_t = 1, value_name = "N", help_heading = "Running")]
    pub(crate) jobs: usize,
    /// Compute only part I of N, to divide the grid over machines [default: all, or part I of N processes of mpirun, srun or torchrun]
    #[arg(long, value_name = "I/N", help_heading = "Running")]
    pub(crate) shard: Option<Shard>,
    /// Print the cells with estimated training time and disk space; run and write nothing
    #[arg(long, help_heading = "Running")]
    pub(crate) dry_run: bool,
    /// For --dry-run: the device's rate of f32 matrix products in GFLOP/s, instead of measuring it
    #[arg(
        long,
        value_name = "GFLOP/S",
        requires = "dry_run",
        allow_negative_numbers = true,
        help_heading = "Running"
    )]
    pub(crate) gflops: Option<f64>,
    #[command(flatten)]
    pub(crate) settings: Settings,
}

pub(crate) fn run(args: SweepArgs, context: &Context) -> Result<()> {
    at_least("--jobs", args.jobs as u64, 1)?;
    positive("--gflops", args.gflops)?;
    if args.jobs > MAX_JOBS {
        return Err(
            Problem::new(format!("`--jobs`: expected at most {MAX_JOBS}, got `{}`", args.jobs)).into()
        );
    }
    let shard = match args.shard {
        Some(shard) => Some(shard),
        None => shard_of_launched()?,
    };
    sweep::run(&SweepArgs { shard, ..args }, context)
}

/// The part of the grid for this process, if a launcher has started it as one of several. They need no connection.
fn shard_of_launched() -> Result<Option<Shard>> {
    let Some(Launched { launcher, rank, size, .. }) = Launched::of_environment()? else { return Ok(None) };
    let shard = Shard::of_rank(rank, size);
    if rank == 0 {
        tracing::warn!(
            "one of {size} processes from {launcher}: each computes its part of the grid, this one `--shard {shard}`"
        );
    } else {
        // One live table is enough for a terminal.
        progress::hide();
    }
    Ok(Some(shard))
}
