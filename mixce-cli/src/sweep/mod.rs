//! A sweep: the cells of a grid, each carried out by this program's own commands.
//!
//! `resolve` makes the settings, `steps`, `lines` and `controls` do the work of a cell in `folder`s by `child` processes, `outcome` reads what is
//! done from the folders, and `table` and `board` show it. Nothing about the state of a cell is kept in memory but failures, so a killed
//! sweep and one split over machines continue from the folders alone.

mod board;
mod child;
mod controls;
mod dry_run;
mod folder;
mod inputs;
mod lines;
mod metric;
mod outcome;
mod resolve;
mod steps;
mod table;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::Result;
use clap::Parser as _;
use mixce_base::files::write_atomic;
use mixce_report::results::{Control, Decoding, Group, Results, Split, Status};
use mixce_sweep::schedule::{self, Task};
use mixce_sweep::{Grid, GridCell, Settings};
use mixce_train::config::TrainConfig;
use serde_json::{Value, json};

use crate::cli::{Cli, Command};
use crate::commands::sweep::SweepArgs;
use crate::context::Context;
use crate::error::Problem;
use crate::files::Lock;
use crate::interrupt;
use board::Board;
use child::{Commands, Failure};
use folder::{CellFolder, write_json};
use inputs::Inputs;
use metric::Metric;
use outcome::GroupChoice;
pub(crate) use resolve::train_size;
use steps::Work;

/// A sweep.
struct Sweep<'a> {
    out: PathBuf,
    settings: Settings,
    grid: Grid,
    metric: Metric,
    inputs: Inputs,
    /// Settings of the training run of each cell.
    configs: Vec<TrainConfig>,
    /// What decides the trained model of each cell.
    training: Vec<Value>,
    commands: Commands<'a>,
    board: Board,
    /// Cells that failed in this process, with their errors.
    failed: Mutex<BTreeMap<usize, String>>,
    writing: Mutex<()>,
}

/// A part of a cell's work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Job {
    /// Train a model and score it on the development texts.
    Grid(usize),
    /// Try the values of a control.
    Tune(usize),
    /// Score a control on development and test texts.
    Control(usize),
    /// Score a cell of the grid on the test texts, if it is among the chosen.
    Test(usize),
}

impl Job {
    fn cell(self) -> usize {
        match self {
            Self::Grid(cell) | Self::Tune(cell) | Self::Control(cell) | Self::Test(cell) => cell,
        }
    }
}

/// Runs `mixce sweep`.
pub(crate) fn run(args: &SweepArgs, context: &Context) -> Result<()> {
    let (out, settings) = resolve::resolve(args, context)?;
    let metric = Metric::find(&settings.metric, &settings.evaluate.metrics)?;
    require_tunable(&settings, metric)?;
    let sweep = Sweep::new(out, settings, metric, args, context, interrupt::flag())?;
    for (index, cell) in sweep.grid.cells.iter().enumerate() {
        CellFolder::new(&sweep.out, &cell.id)
            .require_same_training(&json!({"train": sweep.training[index]}))?;
    }
    sweep.require_valid_lines()?;
    if args.dry_run {
        return dry_run::print(&sweep, args, context);
    }
    let name = args.shard.map_or_else(
        || "sweep".to_owned(),
        |shard| format!("sweep-{}", shard.to_string().replace('/', "-of-")),
    );
    let _lock = Lock::take(&sweep.out.join(name))?;
    write_atomic(&sweep.out.join(resolve::SWEEP_TOML), sweep.settings.to_toml()?.as_bytes())?;
    inputs::write_copies(&sweep.out, &sweep.settings)?;
    // The grid as it stands, for `watch`.
    sweep.write_results()?;
    let jobs = sweep.jobs(args);
    sweep.board.start(jobs.len());
    let tasks = sweep.tasks(&jobs);
    // Until here a signal simply ends the program, however long the data are read.
    let stop = interrupt::install_saving(
        "ending the running commands, which save their progress; the same command continues",
    );
    schedule::run(&tasks, args.jobs, stop, &|task| sweep.perform(jobs[task]));
    sweep.board.finish();
    let results = sweep.write_results()?;
    conclude(&sweep, &results, args, context)
}

/// The top-p of the control is tuned by the metric, which must depend on the samples.
fn require_tunable(settings: &Settings, metric: Metric) -> Result<()> {
    if metric.of.is_some() || settings.controls.top_p.is_empty() {
        return Ok(());
    }
    let problem = Problem::new(format!(
        "`{}` does not depend on how a model is sampled, so no top-p can be tuned by it",
        metric.key
    ));
    Err(problem.hint("leave that control out: `top_p = []` in `[controls]`, or `--no-controls`").into())
}

impl<'a> Sweep<'a> {
    fn new(
        out: PathBuf,
        settings: Settings,
        metric: Metric,
        args: &SweepArgs,
        context: &Context,
        stop: &'a AtomicBool,
    ) -> Result<Self> {
        let grid = Grid::of(&settings);
        let inputs = Inputs::read(&settings)?;
        let config = |cell: &GridCell| resolve::config_of(&grid.cells[cell.model], &grid, &settings, &out);
        let configs: Vec<TrainConfig> = grid.cells.iter().map(config).collect::<Result<_>>()?;
        let training = configs
            .iter()
            .zip(&grid.cells)
            .map(|(config, cell)| inputs.training(config, &grid.groups[cell.group]));
        let training = training.collect::<Result<_>>()?;
        let mut global = vec!["--threads".to_owned(), threads_of_one(args, context).to_string()];
        if let Some(device) = &context.device {
            global.extend(["--device".to_owned(), device.clone()]);
        }
        Ok(Self {
            commands: Commands::new(global, stop)?,
            board: Board::new(&grid),
            failed: Mutex::default(),
            writing: Mutex::default(),
            out,
            settings,
            metric,
            inputs,
            configs,
            training,
            grid,
        })
    }

    /// Refuses settings that the commands would refuse, before the first model is trained.
    fn require_valid_lines(&self) -> Result<()> {
        let lines = self.grid.cells.first().map(|cell| Work::new(self, cell).lines());
        for line in lines.into_iter().flatten() {
            let words = std::iter::once("mixce").chain(line.iter().map(String::as_str));
            let parsed = Cli::try_parse_from(words).map_err(|error| {
                let told = error.to_string();
                let told = told.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
                Problem::new(format!("`[evaluate]`: {told}"))
            })?;
            match &parsed.command {
                Command::Score(args) => drop(args.scorer(self.settings.evaluate.seed)?),
                Command::Generate(args) => drop(args.check()?),
                _ => {}
            }
        }
        Ok(())
    }

    /// The jobs of this process, in the order in which they are begun if they can be.
    fn jobs(&self, args: &SweepArgs) -> Vec<Job> {
        let all = self.grid.cells.len();
        let owned = args.shard.map_or_else(|| vec![true; all], |shard| shard.owned(&self.grid));
        let of = |is_control: bool| {
            let cells = self.grid.cells.iter().zip(&owned).enumerate();
            cells
                .filter(move |(_, (cell, owned))| **owned && cell.control.is_some() == is_control)
                .map(|(index, _)| index)
        };
        let first = of(false).map(Job::Grid).chain(of(true).map(Job::Tune));
        // The test cells first: controls take over the likelihood of their model.
        first.chain(of(false).map(Job::Test)).chain(of(true).map(Job::Control)).collect()
    }

    /// What each job waits for.
    fn tasks(&self, jobs: &[Job]) -> Vec<Task> {
        let waits = |job: &Job, other: &Job| {
            let (cell, before) = (&self.grid.cells[job.cell()], &self.grid.cells[other.cell()]);
            match (job, other) {
                (Job::Tune(_), Job::Grid(other)) => cell.model == *other,
                (Job::Control(_) | Job::Test(_), Job::Grid(_)) => cell.group == before.group,
                (Job::Control(_), Job::Tune(_)) => {
                    cell.group == before.group && cell.control == before.control
                }
                _ => false,
            }
        };
        let after = |job: &Job| {
            let before = jobs.iter().enumerate().filter(|(_, other)| waits(job, other));
            before.map(|(index, _)| index).collect()
        };
        jobs.iter().map(|job| Task { after: after(job) }).collect()
    }

    /// Does a job. A failure is kept and told, and the others go on.
    fn perform(&self, job: Job) {
        let index = job.cell();
        let cell = &self.grid.cells[index];
        let outcome = self.try_to_perform(job);
        if let Err(Failure::Failed(told)) = &outcome {
            tracing::warn!("cell `{}` failed: {told}", cell.id);
            self.failed().entry(index).or_insert_with(|| told.clone());
        }
        match self.after(index) {
            Ok(value) => self.board.ended(cell, &outcome, value),
            Err(error) => {
                tracing::warn!("cell `{}`: {error:#}", cell.id);
                self.failed().entry(index).or_insert_with(|| format!("{error:#}"));
            }
        }
    }

    fn try_to_perform(&self, job: Job) -> Result<(), Failure> {
        let index = job.cell();
        let cell = &self.grid.cells[index];
        if self.has_failed(index) {
            return Ok(());
        }
        let model = Work::new(self, &self.grid.cells[cell.model]);
        if cell.control.is_some()
            && self.has_failed(cell.model)
            && model.evaluation(Split::Valid, Decoding::UNBIASED)?.is_none()
        {
            return Err(Failure::Failed(format!(
                "it samples the model of `{}`, which failed",
                self.grid.cells[cell.model].id
            )));
        }
        let work = Work::new(self, cell);
        let decoding = match (job, cell.control) {
            (Job::Grid(_), _) => Decoding::UNBIASED,
            (Job::Test(_), _) => {
                if !self
                    .choice(cell.group)?
                    .is_some_and(|choice: GroupChoice| choice.is_tested(&cell.objective))
                {
                    return Ok(());
                }
                Decoding::UNBIASED
            }
            (Job::Control(_), Some(kind)) => match self.decoding_of(cell.group, kind)? {
                Some(decoding) => decoding,
                None => return Ok(()),
            },
            (Job::Tune(_) | Job::Control(_), _) => Decoding::UNBIASED,
        };
        // After Ctrl-C nothing is begun, also no folder.
        if self.commands.is_stopped() {
            return Err(Failure::Stopped);
        }
        let _lock = Lock::take(work.folder.path())?;
        work.folder.claim(&work.settings())?;
        match job {
            Job::Grid(_) => {
                work.train()?;
                work.assess(Split::Valid, decoding)
            }
            Job::Tune(_) => work.tune(),
            Job::Control(_) => {
                if cell.control == Some(Control::Temperature)
                    && self.settings.seeds.first() == Some(&cell.seed)
                {
                    self.warn_of_the_range(cell.group)?;
                }
                work.assess(Split::Valid, decoding)?;
                work.assess(Split::Test, decoding)
            }
            Job::Test(_) => work.assess(Split::Test, decoding),
        }
    }

    /// Writes the results after a job; returns the cell's value of the metric.
    fn after(&self, index: usize) -> Result<Option<f64>> {
        let results = self.write_results()?;
        let cell = &results.cells[index];
        if cell.status == Status::Done {
            let work = Work::new(self, &self.grid.cells[index]);
            let key = folder::key_of(&work.settings());
            write_json(&work.folder.path().join("result.json"), &json!({"sha256": key, "cell": cell}))?;
        }
        let values = cell.valid.as_ref().map(|valid| self.metric.values(valid)).unwrap_or_default();
        Ok((!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64))
    }

    fn failed(&self) -> MutexGuard<'_, BTreeMap<usize, String>> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has_failed(&self, index: usize) -> bool {
        self.failed().contains_key(&index)
    }

    /// Why a cell failed in this process.
    fn failure(&self, index: usize) -> Option<String> {
        self.failed().get(&index).cloned()
    }

    /// A group in words.
    fn group_name(&self, group: usize) -> String {
        group_in_words(&self.grid.groups[group])
    }
}

/// A group in words.
fn group_in_words(group: &Group) -> String {
    let Group { corpus, model, train_size, max_length } = group;
    let size = train_size.map_or_else(String::new, |n| format!(", {n} training documents"));
    format!("{corpus}, {model}{size}, length {max_length}")
}

/// The threads of one command: an equal share of all.
fn threads_of_one(args: &SweepArgs, context: &Context) -> usize {
    let all = || std::thread::available_parallelism().map_or(1, usize::from);
    (context.threads.unwrap_or_else(all) / args.jobs.max(1)).max(1)
}

/// Prints the results, and fails if a cell failed.
fn conclude(sweep: &Sweep<'_>, results: &Results, args: &SweepArgs, context: &Context) -> Result<()> {
    if context.output.is_json() {
        for cell in &results.cells {
            context.output.json(cell)?;
        }
        for chosen in &results.chosen {
            let mut event = serde_json::to_value(chosen)?;
            event["event"] = json!("chosen");
            context.output.json(&event)?;
        }
    } else {
        context.output.line(table::text(sweep, results).trim_end())?;
    }
    if interrupt::is_requested() {
        return Err(Problem::interrupted("interrupted: finished steps are kept")
            .hint("run the same command again")
            .into());
    }
    let failed: Vec<String> =
        sweep.failed().keys().map(|index| format!("`{}`", sweep.grid.cells[*index].id)).collect();
    if !failed.is_empty() {
        let problem =
            format!("{} of {} cells failed: {}", failed.len(), sweep.grid.cells.len(), failed.join(", "));
        let hint = format!(
            "`{}/cells/ID/log.txt` has their commands and messages; the same command tries them again",
            sweep.out.display()
        );
        return Err(Problem::check_failed(problem).hint(hint).into());
    }
    if let Some(shard) = args.shard.filter(|_| results.chosen.len() < sweep.grid.groups.len()) {
        tracing::warn!(
            "shard {shard} is done, other cells are not: when all are, the same command in one process, without `--shard`, chooses, and scores the test texts"
        );
    }
    Ok(())
}
