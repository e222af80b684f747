//! `mixce synthetic`: the paper's bigram experiments, where P is known.

mod plots;
mod report;

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use anyhow::Result;
use clap::{Args, Subcommand};
use indicatif::ProgressBar;
use mixce_base::files::{read_limited, remove_stale, write_atomic};
use mixce_synthetic::bigram::{
    Cell, Estimator, Finished, Grid, ModelKind, ObjectiveName, ReverseGradient, Runner, SEEDS, Selection,
    Source, charges,
};
use serde::de::DeserializeOwned;

use crate::context::Context;
use crate::error::Problem;
use crate::{interrupt, progress};

/// Largest text whose words are counted here; a larger one is refused when P is estimated from it.
const MAX_TEXT_BYTES: u64 = 1 << 29;

/// Objectives x eta x vocabulary x seeds on bigram models whose true distribution is known
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Example: mixce synthetic --objectives mle,mixce --vocab 20,50 --out runs/synthetic\n\
                  Finished cells are kept in OUT/cells; the same command continues an interrupted run."
)]
pub(crate) struct SyntheticArgs {
    #[command(subcommand)]
    command: Option<SyntheticCommand>,
    /// Start from the paper's settings: `table1` (50 % zeros) or `appendix` (10 % and 90 %); other flags override
    #[arg(long, value_name = "NAME", value_parser = ["table1", "appendix"])]
    preset: Option<String>,
    #[arg(long, value_name = "NAMES", value_delimiter = ',', help = objectives_help())]
    objectives: Option<Vec<ObjectiveName>>,
    /// Values of eta, or of the first parameter of objectives without eta [default: 0,0.01,0.1,0.5,0.9,0.99,1]
    #[arg(long, value_name = "NUMBERS", value_delimiter = ',')]
    etas: Option<Vec<f64>>,
    /// Vocabularies, EOS included [default: 20]
    #[arg(long, value_name = "TOKENS", value_delimiter = ',')]
    vocab: Option<Vec<usize>>,
    /// Seeds of P, data and training [default: 7,42,777,4222,99999, or `--seed`]
    #[arg(long, value_name = "SEEDS", value_delimiter = ',')]
    seeds: Option<Vec<u64>>,
    /// Shares of forbidden transitions in random worlds [default: 0.5]
    #[arg(long, value_name = "SHARES", value_delimiter = ',')]
    zeros: Option<Vec<f64>>,
    /// P from a CSV file: V x V probabilities, last row and column EOS
    #[arg(long, value_name = "FILE", conflicts_with_all = ["text", "zeros", "vocab"])]
    transitions: Option<PathBuf>,
    /// P estimated from a text file: its most frequent words and EOS at the end of lines
    #[arg(long, value_name = "FILE", conflicts_with = "zeros")]
    text: Option<PathBuf>,
    /// Gradient estimator: counts, sampled (the authors' way) or exact [default: counts]
    #[arg(long, value_name = "NAME", value_parser = named::<Estimator>)]
    estimator: Option<Estimator>,
    /// Model: network (the authors') or table (free logits; learning rate 0.02, no weight decay) [default: network]
    #[arg(long, value_name = "NAME", value_parser = named::<ModelKind>)]
    model: Option<ModelKind>,
    /// How `counts` differentiates reverse terms: local (as the authors), all-tokens or score-function (full gradient) [default:
    /// local]
    #[arg(long, value_name = "NAME", value_parser = named::<ReverseGradient>)]
    reverse_gradient: Option<ReverseGradient>,
    /// Development criterion that selects the epoch: loss (as in the paper) or potential (monotone) [default: loss]
    #[arg(long, value_name = "NAME", value_parser = named::<Selection>)]
    select: Option<Selection>,
    /// Maximum number of epochs [default: 50]
    #[arg(long)]
    epochs: Option<usize>,
    /// Sequences per step [default: 1000]
    #[arg(long)]
    batch_size: Option<usize>,
    /// Training sequences [default: 50000]
    #[arg(long)]
    train_size: Option<usize>,
    /// Development sequences [default: 5000]
    #[arg(long)]
    dev_size: Option<usize>,
    /// Learning rate of Adam [default: 0.001; table: 0.02]
    #[arg(long)]
    lr: Option<f64>,
    /// Coupled L2 coefficient of Adam [default: 0.0001; table: 0]
    #[arg(long)]
    weight_decay: Option<f64>,
    /// Dropout probability of the network [default: 0.1]
    #[arg(long)]
    dropout: Option<f64>,
    /// Epochs without improvement before a cell stops [default: 5]
    #[arg(long)]
    patience: Option<usize>,
    /// Folder for cells, table and figures
    #[arg(long, value_name = "DIR", default_value = "runs/synthetic")]
    out: PathBuf,
    /// Write no figures
    #[arg(long)]
    no_plots: bool,
}

/// Subcommands of `synthetic`.
#[derive(Debug, Subcommand)]
enum SyntheticCommand {
    /// Plot the cost of mass where P is zero under forward and reverse cross-entropy (figure 3 of the paper)
    Figure3(Figure3Args),
}

/// Flags of `synthetic figure3`.
#[derive(Debug, Args)]
struct Figure3Args {
    /// Number of outcomes, half of which have P > 0
    #[arg(long, default_value_t = 20, value_name = "OUTCOMES")]
    outcomes: usize,
    /// Output file of the figure
    #[arg(long, default_value = "figure3.svg", value_name = "FILE")]
    out: PathBuf,
}

/// The context of this subcommand.
struct Environment<'a> {
    /// Whether results are JSON lines.
    json: bool,
    /// The global `--seed`, if given.
    seed: Option<u64>,
    /// Set by Ctrl-C.
    stop: &'a AtomicBool,
    /// Prints a line to stdout.
    print: &'a (dyn Fn(&str) -> Result<()> + Sync),
    /// Creates a progress bar over this many cells.
    bar: &'a (dyn Fn(u64) -> ProgressBar + Sync),
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    /// All cells are done.
    Complete,
    /// Ctrl-C; finished cells are kept.
    Interrupted,
}

fn objectives_help() -> String {
    let names: Vec<&str> = ObjectiveName::all().map(ObjectiveName::as_str).collect();
    format!("Objectives, comma separated: {} [default: mle,mixce]", names.join(", "))
}

/// Reads one of the names of an enumeration.
fn named<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_json::from_value(serde_json::Value::String(text.to_owned())).map_err(|e| e.to_string())
}

pub(crate) fn run(args: &SyntheticArgs, context: &Context) -> Result<()> {
    context.start()?;
    let environment = Environment {
        json: context.output.is_json(),
        seed: context.seed,
        stop: interrupt::install("finished cells are kept; the same command continues from them"),
        print: &|line| context.output.line(line),
        bar: &|cells| progress::bar(cells, "cells"),
    };
    match run_in(args, &environment)? {
        Ended::Complete => Ok(()),
        Ended::Interrupted => Err(Problem::interrupted("interrupted: finished cells are kept")
            .hint("run the same command again")
            .into()),
    }
}

/// Runs the grid, or draws figure 3.
fn run_in(args: &SyntheticArgs, environment: &Environment<'_>) -> Result<Ended> {
    if let Some(SyntheticCommand::Figure3(figure)) = &args.command {
        return figure3(figure, environment);
    }
    let mut grid = grid(args, environment.seed);
    fit_defaults(&mut grid, args);
    // What a killed process was writing.
    for folder in [args.out.clone(), args.out.join("cells")] {
        remove_stale(&folder, &|name| [".json", ".md", ".csv"].iter().any(|end| name.ends_with(end)))?;
    }
    let runner = Runner::new(&grid, Some(&args.out));
    let total = runner.cells()?.len();
    let bar = (environment.bar)(total as u64);
    let done = runner.run(environment.stop, &|finished: &Finished| {
        bar.inc(1);
        let Cell { key, avg_js, .. } = &finished.cell;
        bar.set_message(format!(
            "V {} seed {} {} eta {}: js {avg_js:.2e}",
            key.vocab, key.seed, key.objective, key.eta
        ));
        if environment.json
            && let Ok(line) = serde_json::to_string(&finished.cell)
        {
            // A closed pipe is handled by the printer; the cells continue.
            let _ = (environment.print)(&line);
        }
    });
    bar.finish_and_clear();
    let done = done?;
    if done.len() < total {
        return Ok(Ended::Interrupted);
    }
    let table = report::table(&runner, &done)?;
    write_atomic(&args.out.join("table.md"), table.as_bytes())?;
    write_atomic(&args.out.join("cells.csv"), report::csv(&done).as_bytes())?;
    if !args.no_plots {
        plots::write_all(&runner, &done, &args.out.join("figures"))?;
    }
    if !environment.json {
        (environment.print)(table.trim_end())?;
    }
    Ok(Ended::Complete)
}

/// The grid described by the flags.
fn grid(args: &SyntheticArgs, seed: Option<u64>) -> Grid {
    let mut grid = match args.preset.as_deref() {
        Some("appendix") => Grid::appendix(),
        Some(_) => Grid::table1(),
        None => Grid {
            objectives: vec![ObjectiveName::MLE, ObjectiveName::MIXCE],
            vocabs: vec![20],
            seeds: seed.map_or_else(|| SEEDS.to_vec(), |seed| vec![seed]),
            ..Grid::table1()
        },
    };
    if let Some(path) = &args.transitions {
        grid.source = Source::Csv(path.clone());
    } else if let Some(path) = &args.text {
        grid.source = Source::Text(path.clone());
    }
    let train = &mut grid.train;
    if args.model == Some(ModelKind::Table) {
        (train.lr, train.weight_decay) = (0.02, 0.0);
    }
    set(&mut train.model, args.model);
    set(&mut train.estimator, args.estimator);
    set(&mut train.reverse_gradient, args.reverse_gradient);
    set(&mut train.select, args.select);
    set(&mut train.epochs, args.epochs);
    set(&mut train.batch_size, args.batch_size);
    set(&mut train.train_size, args.train_size);
    set(&mut train.dev_size, args.dev_size);
    set(&mut train.lr, args.lr);
    set(&mut train.weight_decay, args.weight_decay);
    set(&mut train.dropout, args.dropout);
    set(&mut train.patience, args.patience);
    set(&mut grid.objectives, args.objectives.clone());
    set(&mut grid.etas, args.etas.clone());
    set(&mut grid.vocabs, args.vocab.clone());
    set(&mut grid.seeds, args.seeds.clone());
    set(&mut grid.zeros, args.zeros.clone());
    grid
}

/// Reduces defaults to fit the data, with a warning: a batch larger than the training set, vocabularies larger than the text's.
fn fit_defaults(grid: &mut Grid, args: &SyntheticArgs) {
    let train = &mut grid.train;
    if args.batch_size.is_none() && (1..train.batch_size).contains(&train.train_size) {
        train.batch_size = train.train_size;
        tracing::warn!("`--batch-size` is {}, the whole training set", train.batch_size);
    }
    // An unreadable text is reported when P is estimated from it.
    let read = |path: &PathBuf| String::from_utf8(read_limited(path, MAX_TEXT_BYTES).ok()?).ok();
    let Some(text) = args.text.as_ref().and_then(read) else { return };
    // Its words plus EOS.
    let most = text.split_whitespace().collect::<HashSet<_>>().len() + 1;
    if args.vocab.is_none() && most > 1 && grid.vocabs.iter().any(|vocab| *vocab > most) {
        grid.vocabs.retain(|vocab| *vocab < most);
        grid.vocabs.push(most);
        tracing::warn!("`--vocab` is {:?}: the text has {} distinct words, plus EOS", grid.vocabs, most - 1);
    }
}

fn set<T>(field: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *field = value;
    }
}

fn figure3(args: &Figure3Args, environment: &Environment<'_>) -> Result<Ended> {
    let points = charges(args.outcomes, 200);
    write_atomic(&args.out, plots::figure3(&points)?.as_bytes())?;
    if environment.json {
        for point in &points {
            (environment.print)(&serde_json::to_string(point)?)?;
        }
    } else {
        (environment.print)(&format!("{}", args.out.display()))?;
    }
    Ok(Ended::Complete)
}

#[cfg(test)]
mod tests;
