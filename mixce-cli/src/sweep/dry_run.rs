//! `--dry-run`: the cells, and the time and disk space that their training takes. Nothing is written.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use mixce::FAMILIES;
use mixce_lm::config::preset;
use mixce_report::results::{Decoding, Group, Split};
use mixce_sweep::GridCell;
use mixce_train::config::{Precision, TrainConfig};
use serde::Serialize;
use serde_json::Value;

use super::Sweep;
use super::child::Failure;
use super::inputs::{self, Part};
use super::lines::words;
use super::steps::Work;
use crate::commands::sweep::SweepArgs;
use crate::context::Context;
use crate::error::Problem;
use crate::output::{bytes, table};

/// Bytes of a text per token, about that of GPT-2's tokenizer on English.
const BYTES_PER_TOKEN: usize = 4;
/// Bytes of a parameter in f32.
const F32_BYTES: u64 = 4;

/// The output of `--json`.
#[derive(Debug, Serialize)]
struct Report {
    dry_run: bool,
    out: String,
    groups: usize,
    cells: Vec<Planned>,
    /// Cells that are not done.
    waiting: usize,
    /// Training of the cells that are not done, one after the other; null if unknown for one of them.
    train_hours: Option<f64>,
    /// Models of all cells when the sweep is done; null if unknown for one of them.
    disk_bytes: Option<u64>,
    /// More for each running job: its checkpoints.
    disk_bytes_per_job: Option<u64>,
}

/// A cell.
#[derive(Debug, Serialize)]
struct Planned {
    id: String,
    is_done: bool,
    /// Whether it belongs to this shard.
    is_owned: bool,
    /// About how many target tokens its training sees, at 4 bytes per token; null for controls.
    train_tokens: Option<u64>,
    train_hours: Option<f64>,
    disk_bytes: Option<u64>,
}

/// What `plan` says of a kind of cell.
#[derive(Clone, Copy, Debug)]
struct Estimate {
    tokens: u64,
    hours: Option<f64>,
    parameters: Option<u64>,
}

/// Prints the plan.
pub(super) fn print(sweep: &Sweep<'_>, args: &SweepArgs, context: &Context) -> Result<()> {
    let mut planner = Planner { sweep, known: BTreeMap::new(), peak: args.gflops };
    let owned =
        args.shard.map_or_else(|| vec![true; sweep.grid.cells.len()], |shard| shard.owned(&sweep.grid));
    let mut cells = Vec::new();
    for (index, cell) in sweep.grid.cells.iter().enumerate() {
        let estimate = match cell.control {
            None => Some(planner.estimate(cell, &sweep.configs[index])?),
            Some(_) => None,
        };
        let is_done = match cell.control {
            None => Work::new(sweep, cell).evaluation(Split::Valid, Decoding::UNBIASED)?.is_some(),
            Some(_) => sweep.cell(index, None)?.valid.is_some(),
        };
        cells.push(Planned {
            id: cell.id.clone(),
            is_done,
            is_owned: owned[index],
            train_tokens: estimate.map(|estimate| estimate.tokens),
            train_hours: estimate.and_then(|estimate| estimate.hours),
            disk_bytes: estimate.and_then(|estimate| Some(estimate.parameters? * F32_BYTES)),
        });
    }
    let mine = || cells.iter().filter(|cell| cell.is_owned);
    let trained = || mine().filter(|cell| cell.train_tokens.is_some());
    let hours: Option<f64> = trained().filter(|cell| !cell.is_done).map(|cell| cell.train_hours).sum();
    let disk: Option<u64> = trained().map(|cell| cell.disk_bytes).sum();
    // Parameters and two moments in each checkpoint, one more while a new one is written, and the last model.
    let keep = sweep.configs.iter().map(|config| config.keep_last as u64).max().unwrap_or(1);
    let largest: Option<u64> = trained()
        .map(|cell| cell.disk_bytes)
        .collect::<Option<Vec<_>>>()
        .and_then(|all| all.into_iter().max());
    let report = Report {
        dry_run: true,
        out: sweep.out.display().to_string(),
        groups: sweep.grid.groups.len(),
        waiting: mine().filter(|cell| !cell.is_done).count(),
        train_hours: hours,
        disk_bytes: disk,
        disk_bytes_per_job: largest.map(|model| model.saturating_mul(3 * (keep + 1) + 1)),
        cells,
    };
    context.output.either(&report, || report.text())
}

/// Asks `plan` once for each kind of cell.
struct Planner<'a> {
    sweep: &'a Sweep<'a>,
    known: BTreeMap<Group, Estimate>,
    /// The rate of matrix products, given or measured once.
    peak: Option<f64>,
}

impl Planner<'_> {
    fn estimate(&mut self, cell: &GridCell, config: &TrainConfig) -> Result<Estimate> {
        let group = self.sweep.grid.groups[cell.group].clone();
        if let Some(known) = self.known.get(&group) {
            return Ok(*known);
        }
        let tokens = self.tokens(&group, config)?;
        let mut estimate = Estimate { tokens, hours: None, parameters: None };
        if let Some(plan) = self.plan(&group, config, tokens)? {
            estimate.parameters = plan["parameters"].as_u64();
            estimate.hours = plan["time"]["hours"].as_f64();
            self.peak = self.peak.or_else(|| plan["time"]["matmul_peak_gflops"].as_f64());
        }
        self.known.insert(group, estimate);
        Ok(estimate)
    }

    /// Target tokens of the whole training, from the bytes of the documents.
    fn tokens(&self, group: &Group, config: &TrainConfig) -> Result<u64> {
        let corpus = &self.sweep.settings.corpora[&group.corpus];
        let lengths = inputs::lengths(corpus, Part::Train, group.train_size)?;
        let longest = usize::try_from(group.max_length)?;
        let of_epoch: u64 =
            lengths.iter().map(|bytes| (bytes / BYTES_PER_TOKEN + 1).min(longest) as u64).sum();
        let documents_per_step = (config.batch_size * config.grad_accum) as u64;
        Ok(match config.max_steps {
            None => of_epoch.saturating_mul(config.epochs),
            Some(steps) => {
                let mean = of_epoch as f64 / lengths.len().max(1) as f64;
                (mean * steps as f64 * documents_per_step as f64) as u64
            }
        })
    }

    /// What `plan` says; none for a model whose shapes are not known without a download.
    fn plan(&self, group: &Group, config: &TrainConfig, tokens: u64) -> Result<Option<Value>> {
        let Some(model) = known_shape(config) else { return Ok(None) };
        let mut line = words(&["plan", "--json", "--model", &model]);
        let mut put = |flag: &str, value: String| line.extend([flag.to_owned(), value]);
        put("--batch-size", config.batch_size.to_string());
        put("--grad-accum", config.grad_accum.to_string());
        put("--max-length", group.max_length.to_string());
        put("--tokens", tokens.to_string());
        put("--precision", if config.precision == Precision::Bf16 { "bf16" } else { "f32" }.to_owned());
        if let Some(peak) = self.peak {
            put("--gflops", peak.to_string());
        }
        if config.activation_checkpointing {
            line.push("--activation-checkpointing".to_owned());
        }
        match self.sweep.commands.run(&line, None) {
            Ok(stdout) => Ok(Some(serde_json::from_str(&stdout).context("`plan` printed no JSON")?)),
            Err(Failure::Failed(told)) => Err(Problem::new(told).into()),
            Err(Failure::Stopped) => Err(Problem::interrupted("interrupted: nothing is written").into()),
        }
    }
}

/// A model's name for `plan`, if its shapes are known without a download.
fn known_shape(config: &TrainConfig) -> Option<String> {
    if let Some(path) = &config.from_config {
        return Some(path.display().to_string());
    }
    let named = config.model.as_ref()?;
    let last = named.rsplit('/').next().unwrap_or_default().split('@').next().unwrap_or_default();
    if std::path::Path::new(named).exists() {
        Some(named.clone())
    } else {
        preset(last, FAMILIES).map(|_| last.to_owned())
    }
}

impl Report {
    fn text(&self) -> String {
        let unknown = || "unknown".to_owned();
        let hours = |value: Option<f64>| value.map_or_else(unknown, in_words);
        let mut rows = vec![["cell", "state", "training", "disk"].map(str::to_owned).to_vec()];
        for cell in self.cells.iter().filter(|cell| cell.is_owned) {
            let is_trained = cell.train_tokens.is_some();
            rows.push(vec![
                cell.id.clone(),
                if cell.is_done { "done" } else { "waiting" }.to_owned(),
                if is_trained { hours(cell.train_hours) } else { "-".to_owned() },
                if is_trained { cell.disk_bytes.map_or_else(unknown, bytes) } else { "-".to_owned() },
            ]);
        }
        let size = |value: Option<u64>| value.map_or_else(unknown, bytes);
        format!(
            "{}\n{} cells wait, {} of training one after the other; sampling and scoring are not estimated\ndisk: {} for the models, {} more for each running job\nnothing was written; tokens are estimated at {BYTES_PER_TOKEN} bytes each",
            table(&rows, &[false, false, true, true]),
            self.waiting,
            hours(self.train_hours),
            size(self.disk_bytes),
            size(self.disk_bytes_per_job),
        )
    }
}

fn in_words(hours: f64) -> String {
    match hours {
        ..0.02 => format!("{:.0} s", hours * 3600.0),
        ..1.0 => format!("{:.0} min", hours * 60.0),
        _ => format!("{hours:.1} h"),
    }
}
