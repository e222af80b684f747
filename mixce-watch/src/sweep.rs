//! A sweep: the grid of its cells.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mixce_report::results::{self, Evaluation, Results, Role, Status};
use serde::Serialize;

use crate::files::{entries, last_lines, modified};
use crate::locks::{Holder, Locks, resident_bytes};
use crate::run::RunReader;
use crate::samples::{Sample, Samples};

/// The end of a cell's log, in which its last command is looked for.
const LOG_TAIL: u64 = 64 << 10;

/// How a sweep stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SweepState {
    /// Nothing is computed yet, and no process is at it.
    Waiting,
    /// A process is at it.
    Running,
    /// Every cell is done.
    Finished,
    /// No process is at it, and cells are missing. The same command continues it.
    Interrupted,
    /// No process is at it, and cells failed.
    Failed,
    /// The folder has vanished.
    Gone,
}

/// How a cell stands.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "is")]
pub enum CellState {
    /// Not begun, or to be continued.
    Waiting,
    /// A process is at it.
    Running {
        /// Its command: `train`, `evaluate`, `generate`, `score`.
        command: Option<String>,
        /// Training steps done, and all of them.
        progress: Option<(u64, u64)>,
    },
    /// Complete.
    Done {
        /// Mean of the metric of the choice over its sampling runs.
        value: Option<f64>,
    },
    /// A command of it failed.
    Failed {
        /// What it said.
        error: String,
    },
}

/// A cell of the grid.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Cell {
    /// Its unique name.
    pub id: String,
    /// Its seed.
    pub seed: u64,
    /// How it stands.
    pub state: CellState,
}

/// The cells of a system, one for each seed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// Corpus, model and sizes.
    pub group: String,
    /// Objective or control.
    pub system: String,
    /// Its cells.
    pub cells: Vec<Cell>,
}

/// A sweep at one moment.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Sweep {
    /// Its folder.
    pub folder: PathBuf,
    /// How it stands.
    pub state: SweepState,
    /// The metric of the choice.
    pub metric: Option<String>,
    /// The grid.
    pub rows: Vec<Row>,
    /// What was chosen, in sentences.
    pub chosen: Vec<String>,
    /// Resident memory of its processes together, in bytes; those that train, sample and score, not the one that starts them.
    pub memory_bytes: Option<u64>,
    /// Seconds to the end, estimated from the cells that are done; only of a running one.
    pub seconds_left: Option<f64>,
    /// The last samples of any cell.
    pub samples: Vec<Sample>,
}

impl Sweep {
    /// All cells.
    pub fn cells(&self) -> impl Iterator<Item = &Cell> {
        self.rows.iter().flat_map(|row| &row.cells)
    }

    /// Cells in a state.
    #[must_use]
    pub fn count(&self, is: impl Fn(&CellState) -> bool) -> usize {
        self.cells().filter(|cell| is(&cell.state)).count()
    }

    /// Cells that are done, and all of them.
    #[must_use]
    pub fn progress(&self) -> (usize, usize) {
        (self.count(|state| matches!(state, CellState::Done { .. })), self.cells().count())
    }
}

/// Reads a sweep's folder again and again.
#[derive(Debug)]
pub(crate) struct SweepReader {
    folder: PathBuf,
    /// The last results that could be read.
    results: Option<Arc<Results>>,
    /// When they were written.
    read: Option<std::time::SystemTime>,
    /// Readers of the runs that were seen running.
    runs: HashMap<String, RunReader>,
    samples: Samples,
}

impl SweepReader {
    pub(crate) fn new(folder: PathBuf) -> Self {
        Self { folder, results: None, read: None, runs: HashMap::new(), samples: Samples::default() }
    }

    pub(crate) fn poll(&mut self, locks: &Locks) -> Sweep {
        self.read_results();
        let results = self.results.clone();
        let cells = results.as_ref().map_or(&[][..], |results| &results.cells);
        let running = self.running(locks);
        let is_running = !running.is_empty() || !locked(&self.folder, "sweep", locks).is_empty();
        let mut rows: Vec<Row> = Vec::new();
        for cell in cells {
            let row = (group_in_words(&cell.group), system(cell));
            let of_cell =
                Cell { id: cell.id.clone(), seed: cell.seed, state: self.cell_state(cell, &running, locks) };
            match rows.iter_mut().find(|known| (&known.group, &known.system) == (&row.0, &row.1)) {
                Some(known) => known.cells.push(of_cell),
                None => rows.push(Row { group: row.0, system: row.1, cells: vec![of_cell] }),
            }
        }
        self.runs.retain(|id, _| running.contains_key(id));
        let memory: Vec<u64> =
            self.processes(&running, locks).iter().filter_map(|process| resident_bytes(*process)).collect();
        let folders = cells
            .iter()
            .flat_map(|cell| ["valid", "test"].map(|split| self.folder.join(&cell.folder).join(split)));
        let samples = self.samples.poll(folders);
        let mut sweep = Sweep {
            folder: self.folder.clone(),
            state: SweepState::Waiting,
            metric: results.as_ref().map(|results| results.metric.clone()),
            chosen: results.iter().flat_map(|results| &results.chosen).map(chosen_in_words).collect(),
            memory_bytes: (!memory.is_empty()).then(|| memory.iter().sum()),
            seconds_left: None,
            samples,
            rows,
        };
        sweep.state = state(&sweep, is_running, self.folder.is_dir());
        sweep.seconds_left =
            results.filter(|_| is_running).and_then(|results| seconds_left(&sweep, &results));
        sweep
    }

    /// `results.json` is replaced whole; one that cannot be read now leaves what was known.
    fn read_results(&mut self) {
        let path = self.folder.join(results::FILE);
        let written = modified(&path);
        if written.is_some() && written == self.read {
            return;
        }
        if let Ok(results) = Results::read(&path) {
            (self.results, self.read) = (Some(Arc::new(results)), written);
        }
    }

    /// The cells that are locked, by name, with the process.
    fn running(&self, locks: &Locks) -> HashMap<String, Option<u32>> {
        locked(&self.folder.join("cells"), "", locks).into_iter().collect()
    }

    fn cell_state(
        &mut self,
        cell: &results::Cell,
        running: &HashMap<String, Option<u32>>,
        locks: &Locks,
    ) -> CellState {
        if running.contains_key(&cell.id) {
            let folder = self.folder.join(&cell.folder);
            let command = last_command(&folder.join("log.txt"));
            let is_training = command.as_deref() == Some("train");
            let reader = || RunReader::new(folder.join("run"));
            let progress = is_training
                .then(|| self.runs.entry(cell.id.clone()).or_insert_with(reader).poll(locks).progress())
                .flatten();
            return CellState::Running { command, progress };
        }
        match cell.status {
            Status::Waiting => CellState::Waiting,
            Status::Failed => CellState::Failed { error: cell.error.clone().unwrap_or_default() },
            Status::Done => {
                let metric = self.results.as_ref().map_or("", |results| &results.metric);
                CellState::Done { value: cell.valid.as_ref().and_then(|valid| value(valid, metric)) }
            }
        }
    }

    /// The processes that train: they hold their run's folder. Others are counted by the sweep that started them.
    fn processes(&self, running: &HashMap<String, Option<u32>>, locks: &Locks) -> HashSet<u32> {
        let of_run = |id: &String| match locks.holder(&self.folder.join("cells").join(id).join("run")) {
            Holder::Process(process) => Some(process),
            _ => None,
        };
        running.keys().filter_map(of_run).collect()
    }
}

/// The names `NAME` of the lock files `.NAME.lock` in a folder that a process holds, and the process.
fn locked(folder: &Path, prefix: &str, locks: &Locks) -> Vec<(String, Option<u32>)> {
    let name_of = |file: &str| Some(file.strip_prefix('.')?.strip_suffix(".lock")?.to_owned());
    let held = |(file, path): (String, PathBuf)| {
        let name = name_of(&file).filter(|name| name.starts_with(prefix))?;
        match locks.holder(&path) {
            Holder::Process(process) => Some((name, Some(process))),
            // The file is removed when the lock is released, unless the process was killed.
            Holder::Unknown => Some((name, None)),
            Holder::Nobody => None,
        }
    };
    entries(folder).into_iter().filter_map(held).collect()
}

/// The last command in a cell's log, if it has not ended: lines `$ mixce COMMAND ...` and `# exit status: 0`.
fn last_command(log: &Path) -> Option<String> {
    let lines = last_lines(log, LOG_TAIL);
    let mut marks =
        lines.iter().rev().filter(|line| line.starts_with("$ mixce ") || line.starts_with("# exit"));
    let command = marks.next()?.strip_prefix("$ mixce ")?;
    command.split_whitespace().next().map(str::to_owned)
}

fn state(sweep: &Sweep, is_running: bool, exists: bool) -> SweepState {
    let (done, all) = sweep.progress();
    let failed = sweep.count(|state| matches!(state, CellState::Failed { .. }));
    if !exists {
        SweepState::Gone
    } else if is_running {
        SweepState::Running
    } else if failed > 0 {
        SweepState::Failed
    } else if all > 0 && done == all {
        SweepState::Finished
    } else if done > 0 {
        SweepState::Interrupted
    } else {
        SweepState::Waiting
    }
}

/// Cells that are not done take as long as those of their kind that are, shared by the cells that run at the same time.
fn seconds_left(sweep: &Sweep, results: &Results) -> Option<f64> {
    let mean = |role: Role| {
        let of_role = results.cells.iter().filter(|cell| cell.role == role && cell.status == Status::Done);
        let seconds: Vec<f64> = of_role.map(|cell| cell.seconds).collect();
        (!seconds.is_empty()).then(|| seconds.iter().sum::<f64>() / seconds.len() as f64)
    };
    let (grid, control) = (mean(Role::Grid), mean(Role::Control));
    let mut seconds = 0.0;
    for cell in &results.cells {
        let whole = match cell.role {
            Role::Grid => grid?,
            Role::Control => control.or(grid)?,
        };
        let state = sweep.cells().find(|known| known.id == cell.id).map(|known| &known.state);
        seconds += match state {
            Some(CellState::Waiting) => whole,
            Some(CellState::Running { progress: Some((done, all)), .. }) => {
                whole * (1.0 - *done as f64 / *all as f64)
            }
            Some(CellState::Running { .. }) if cell.status != Status::Done => whole / 2.0,
            _ => 0.0,
        };
    }
    let running = sweep.count(|state| matches!(state, CellState::Running { .. })).max(1);
    Some(seconds / running as f64)
}

fn value(evaluation: &Evaluation, metric: &str) -> Option<f64> {
    let values: Vec<f64> = match metric {
        "perplexity" => vec![evaluation.perplexity],
        "nll" => vec![evaluation.nll],
        _ => evaluation.scores.iter().filter_map(|scores| scores.value(metric)).collect(),
    };
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

fn system(cell: &results::Cell) -> String {
    cell.control.map_or_else(|| cell.objective.clone(), |control| format!("mle {}", control.name()))
}

fn group_in_words(group: &results::Group) -> String {
    let results::Group { corpus, model, train_size, max_length } = group;
    let size = train_size.map_or_else(String::new, |n| format!(", {n} training documents"));
    format!("{corpus}, {model}{size}, length {max_length}")
}

fn chosen_in_words(chosen: &results::Chosen) -> String {
    let group = group_in_words(&chosen.group);
    let ties = if chosen.ties.is_empty() {
        String::new()
    } else {
        format!(", a tie with {}", chosen.ties.join(", "))
    };
    format!("{group}: {} by development {} ({:.4}){ties}", chosen.objective, chosen.metric, chosen.mean)
}

/// Whether a folder is that of a sweep.
pub(crate) fn is_sweep(folder: &Path) -> bool {
    ["sweep.toml", results::FILE].iter().any(|name| folder.join(name).is_file())
}

#[cfg(test)]
pub(crate) mod tests {
    use std::fs;

    use super::*;

    fn cell(objective: &str, control: &str, seed: u64, status: &str, seconds: f64) -> String {
        let id = format!("{objective}-{control}-{seed}").replace(['"', ':', '='], "");
        let role = if control == "null" { "grid" } else { "control" };
        let valid = match status {
            "done" => r#"{"perplexity":9.0,"nll":2.2,"scores":[{"mauve":0.5},{"mauve":0.75}]}"#,
            _ => "null",
        };
        let error = if status == "failed" { "\"out of\\u001b[2J memory\"" } else { "null" };
        format!(
            r#"{{"id":"{id}","group":{{"corpus":"wiki","model":"gpt2","train_size":null,"max_length":64}},"objective":"{objective}","role":"{role}",
            "control":{control},"decoding":null,"seed":{seed},"folder":"cells/{id}","model":"","status":"{status}","error":{error},
            "seconds":{seconds},"valid":{valid},"test":null}}"#
        )
    }

    /// Writes the results of a sweep with a done, a failed and two unfinished cells, and a control.
    pub(crate) fn write(folder: &Path) {
        let cells = [
            cell("mle", "null", 1, "done", 10.0),
            cell("mle", "null", 2, "waiting", 0.0),
            cell("mixce:eta=0.1", "null", 1, "failed", 1.0),
            cell("mixce:eta=0.1", "null", 2, "waiting", 0.0),
            cell("mle", "\"top_p\"", 1, "waiting", 0.0),
        ];
        let chosen = r#"{"group":{"corpus":"wiki","model":"gpt2","train_size":null,"max_length":64},"metric":"mauve","objective":"mle","mean":0.625,"std":null,"n":1,"ties":["mixce:eta=0.1"]}"#;
        let text = format!(
            r#"{{"schema":1,"versions":{{}},"settings":{{}},"metric":"mauve","seconds":11.0,"human":[],"cells":[{}],"chosen":[{chosen}]}}"#,
            cells.join(",")
        );
        fs::create_dir_all(folder.join("cells")).unwrap();
        fs::write(folder.join(results::FILE), text).unwrap();
    }

    #[test]
    fn cells_have_states_and_the_grid_rows() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path();
        write(folder);
        assert!(is_sweep(folder));
        let mut reader = SweepReader::new(folder.to_owned());
        let sweep = reader.poll(&Locks::read());
        assert_eq!((sweep.state, sweep.progress(), sweep.rows.len()), (SweepState::Failed, (1, 5), 3));
        assert_eq!(sweep.rows[0].cells[0].state, CellState::Done { value: Some(0.625) });
        assert_eq!(sweep.rows[2].system, "mle top_p");
        assert_eq!(
            sweep.chosen,
            ["wiki, gpt2, length 64: mle by development mauve (0.6250), a tie with mixce:eta=0.1"]
        );
        // Half-written results leave what was known; a sweep that is continued forgets its failures.
        fs::write(folder.join(results::FILE), "{\"schema\":1,").unwrap();
        assert_eq!(reader.poll(&Locks::read()).rows.len(), 3);
        fs::remove_dir_all(folder.join("cells")).unwrap();
        assert_eq!(reader.poll(&Locks::read()).progress(), (1, 5));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn running_cells_are_locked_and_have_progress() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path();
        write(folder);
        let lock = |name: &str| {
            let file = fs::File::create(folder.join(name)).unwrap();
            file.try_lock().unwrap();
            file
        };
        // The lock file of a killed process stays, without a lock.
        fs::write(folder.join("cells/.mixceeta0.1-null-2.lock"), "").unwrap();
        let (_sweep, _cell) = (lock(".sweep-1-of-2.lock"), lock("cells/.mle-null-2.lock"));
        let cell = folder.join("cells/mle-null-2");
        fs::create_dir_all(cell.join("run")).unwrap();
        fs::write(
            cell.join("log.txt"),
            "$ mixce evaluate x\n# exit status: 0\n$ mixce train --config a\nwarning\n",
        )
        .unwrap();
        fs::write(cell.join("run/run.toml"), "[provenance]\ntotal_steps = 4\n").unwrap();
        fs::write(cell.join("run/metrics.jsonl"), "{\"step\":3,\"nll\":2.0}\n").unwrap();
        let mut reader = SweepReader::new(folder.to_owned());
        let sweep = reader.poll(&Locks::read());
        assert_eq!(sweep.state, SweepState::Running);
        let running = CellState::Running { command: Some("train".into()), progress: Some((3, 4)) };
        assert_eq!(sweep.rows[0].cells[1].state, running);
        assert_eq!(sweep.rows[1].cells[1].state, CellState::Waiting);
        // A quarter of the running cell, the waiting one and the control, each of ten seconds.
        assert_eq!(sweep.seconds_left, Some(22.5));
        fs::write(cell.join("log.txt"), "$ mixce train\n# exit status: 0\n").unwrap();
        let between = CellState::Running { command: None, progress: None };
        assert_eq!(reader.poll(&Locks::read()).rows[0].cells[1].state, between);
    }
}
