//! A grid of cells: objectives x eta x vocabulary x zeros x seeds, saved cell by cell.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Instant;

use mixce_base::files::write_atomic;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{Dataset, Error, Estimator, ObjectiveName, Result, TrainConfig, World, compare, train};

/// Where P comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// Random, a new P for every seed.
    Random,
    /// A matrix in a CSV file; its size is the vocabulary.
    Csv(PathBuf),
    /// Estimated from a text file.
    Text(PathBuf),
}

/// What to run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Grid {
    /// Objectives.
    pub objectives: Vec<ObjectiveName>,
    /// Values of eta for objectives that have one.
    pub etas: Vec<f64>,
    /// Vocabularies, EOS included.
    pub vocabs: Vec<usize>,
    /// Shares of forbidden transitions of random worlds.
    pub zeros: Vec<f64>,
    /// Seeds.
    pub seeds: Vec<u64>,
    /// P.
    pub source: Source,
    /// Training.
    pub train: TrainConfig,
}

/// The paper's values of eta.
pub const ETAS: [f64; 7] = [0.0, 0.01, 0.1, 0.5, 0.9, 0.99, 1.0];
/// The paper's seeds.
pub const SEEDS: [u64; 5] = [7, 42, 777, 4222, 99999];
/// The paper's vocabularies.
pub const VOCABS: [usize; 5] = [20, 50, 100, 500, 1000];

impl Grid {
    /// Table 1 of the paper for random P: 50 % zeros.
    #[must_use]
    pub fn table1() -> Self {
        Self {
            objectives: vec![
                ObjectiveName::MLE,
                ObjectiveName::REVERSE_KL,
                ObjectiveName::TWO_KLS,
                ObjectiveName::JS,
                ObjectiveName::MIXCE_STAR,
                ObjectiveName::MIXCE,
            ],
            etas: ETAS.to_vec(),
            vocabs: VOCABS.to_vec(),
            zeros: vec![0.5],
            seeds: SEEDS.to_vec(),
            source: Source::Random,
            train: TrainConfig::default(),
        }
    }

    /// The appendix: 10 % and 90 % zeros.
    #[must_use]
    pub fn appendix() -> Self {
        Self { zeros: vec![0.1, 0.9], ..Self::table1() }
    }
}

/// A requested cell.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct CellKey {
    /// The objective.
    pub objective: ObjectiveName,
    /// Its parameter.
    pub eta: f64,
    /// Vocabulary, EOS included.
    pub vocab: usize,
    /// Share of forbidden transitions.
    pub zeros: f64,
    /// The seed.
    pub seed: u64,
}

/// One finished cell.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    /// Which cell.
    #[serde(flatten)]
    pub key: CellKey,
    /// The estimator.
    pub estimator: Estimator,
    /// Mean Jensen-Shannon divergence between learned and true rows, nats.
    pub avg_js: f64,
    /// Mean learned probability of forbidden transitions.
    pub avg_0s: f64,
    /// The epoch that was kept, from 1.
    pub best_epoch: usize,
    /// Epochs run.
    pub epochs: usize,
    /// Training time, seconds, without sampling the data.
    pub seconds: f64,
}

/// What a cell file holds.
#[derive(Debug, Serialize, Deserialize)]
struct Saved {
    settings: Settings,
    cell: Cell,
    /// Learned probabilities `[V, V + 1]`, for the first seed and small vocabularies.
    learned: Option<Vec<f64>>,
}

/// The settings that must match for a saved cell to be reused.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Settings {
    source: Source,
    train: TrainConfig,
}

/// Learned matrices are kept up to this vocabulary.
const KEEP_MATRIX: usize = 100;

/// A finished cell as the runner reports it.
#[derive(Clone, Debug)]
pub struct Finished {
    /// The cell.
    pub cell: Cell,
    /// The learned matrix, where kept.
    pub learned: Option<Vec<f64>>,
    /// Whether it was read from an earlier run.
    pub restored: bool,
}

type Shared = Arc<OnceLock<std::result::Result<Arc<Dataset>, String>>>;

/// Runs the grid and keeps its cells under `folder/cells`.
#[derive(Debug)]
pub struct Runner<'a> {
    grid: &'a Grid,
    folder: Option<&'a Path>,
    worlds: Mutex<HashMap<String, (Shared, usize)>>,
}

impl<'a> Runner<'a> {
    /// A runner; without a folder nothing is kept.
    #[must_use]
    pub fn new(grid: &'a Grid, folder: Option<&'a Path>) -> Self {
        Self { grid, folder, worlds: Mutex::new(HashMap::new()) }
    }

    /// All cells of the grid, in the order of vocabularies, zeros, seeds, objectives, eta.
    ///
    /// # Errors
    /// When a list is empty or out of range, or a file with P cannot be read.
    pub fn cells(&self) -> Result<Vec<CellKey>> {
        let grid = self.grid;
        let lists = [
            ("objectives", grid.objectives.is_empty()),
            ("seeds", grid.seeds.is_empty()),
            ("vocab", grid.vocabs.is_empty()),
            ("zeros", grid.zeros.is_empty()),
        ];
        if let Some((name, _)) = lists.iter().find(|(_, empty)| *empty) {
            return Err(Error::range(name, "at least one value", "none"));
        }
        let mut worlds = Vec::new();
        match &grid.source {
            Source::Random => {
                for &vocab in &grid.vocabs {
                    worlds.extend(grid.zeros.iter().map(|&zeros| (vocab, zeros)));
                }
            }
            Source::Csv(path) => {
                let world = World::from_csv(path)?;
                worlds.push((world.vocab(), world.zero_share()));
            }
            Source::Text(path) => {
                for &vocab in &grid.vocabs {
                    worlds.push((vocab, World::from_text(path, vocab)?.zero_share()));
                }
            }
        }
        let mut cells = Vec::new();
        for (vocab, zeros) in worlds {
            for &seed in &grid.seeds {
                for &objective in &grid.objectives {
                    for eta in objective.etas(&grid.etas) {
                        grid.train.validate(&objective.loss(eta)?)?;
                        cells.push(CellKey { objective, eta, vocab, zeros, seed });
                    }
                }
            }
        }
        Ok(cells)
    }

    /// Runs all cells on the threads of rayon and calls `report` for each; cells that differ in name only are trained
    /// once.
    ///
    /// The result is in the order of [`Runner::cells`]. A set `stop` ends the run after the epochs under way; finished cells stay on disk.
    ///
    /// # Errors
    /// When a setting is wrong, a file cannot be read or written, or a cell diverges.
    pub fn run(&self, stop: &AtomicBool, report: &(dyn Fn(&Finished) + Sync)) -> Result<Vec<Finished>> {
        let mut groups: Vec<(CellKey, Vec<CellKey>)> = Vec::new();
        let mut index: HashMap<String, usize> = HashMap::new();
        let asked = self.cells()?;
        for &key in &asked {
            let (objective, eta) = key.objective.canonical(key.eta);
            let canonical = CellKey { objective, eta, ..key };
            let at = *index.entry(self.name(&canonical)).or_insert_with(|| {
                groups.push((canonical, Vec::new()));
                groups.len() - 1
            });
            groups[at].1.push(key);
        }
        self.count_worlds(&groups)?;
        let done: Vec<Result<Vec<Finished>>> = groups
            .par_iter()
            .with_max_len(1)
            .map(|(canonical, keys)| {
                if stop.load(Ordering::Relaxed) {
                    return Ok(Vec::new());
                }
                let finished = self.cell(canonical, stop)?;
                let named = |cell: &Finished, key: &CellKey| Finished {
                    cell: Cell { key: *key, ..cell.cell.clone() },
                    ..cell.clone()
                };
                let finished: Vec<Finished> =
                    finished.iter().flat_map(|cell| keys.iter().map(move |key| named(cell, key))).collect();
                finished.iter().for_each(report);
                Ok(finished)
            })
            .collect();
        let mut all = Vec::new();
        for part in done {
            all.extend(part?);
        }
        let place = |finished: &Finished| asked.iter().position(|key| *key == finished.cell.key);
        all.sort_by_cached_key(place);
        Ok(all)
    }

    /// One cell, restored or trained; `None` when stopped.
    fn cell(&self, key: &CellKey, stop: &AtomicBool) -> Result<Option<Finished>> {
        let path = self.folder.map(|folder| folder.join("cells").join(format!("{}.json", self.name(key))));
        let settings = Settings { source: self.grid.source.clone(), train: self.grid.train.clone() };
        if let Some(saved) = path.as_deref().and_then(|path| restore(path, &settings)) {
            self.release(key);
            return Ok(Some(Finished { cell: saved.cell, learned: saved.learned, restored: true }));
        }
        let data = self.dataset(key)?;
        let started_at = Instant::now();
        let loss = key.objective.loss(key.eta)?;
        let outcome = train(&data, &loss, &self.grid.train, key.seed, stop);
        let seconds = started_at.elapsed().as_secs_f64();
        drop(data);
        self.release(key);
        let Some(outcome) = outcome? else { return Ok(None) };
        let cell = Cell {
            key: *key,
            estimator: self.grid.train.estimator,
            avg_js: outcome.distance.avg_js,
            avg_0s: outcome.distance.avg_0s,
            best_epoch: outcome.best_epoch,
            epochs: outcome.epochs,
            seconds,
        };
        let keep = key.vocab <= KEEP_MATRIX && self.grid.seeds.first() == Some(&key.seed);
        let saved = Saved { settings, cell, learned: keep.then_some(outcome.learned) };
        if let Some(path) = path {
            write_json(&path, &saved)?;
        }
        Ok(Some(Finished { cell: saved.cell, learned: saved.learned, restored: false }))
    }

    /// The file name of a cell.
    fn name(&self, key: &CellKey) -> String {
        let train = &self.grid.train;
        let kind = |value: serde_json::Result<String>| value.unwrap_or_default().replace('"', "");
        let estimator = kind(serde_json::to_string(&train.estimator));
        let model = kind(serde_json::to_string(&train.model));
        let CellKey { objective, eta, vocab, zeros, seed } = key;
        format!("v{vocab}-z{zeros:.3}-s{seed}-{estimator}-{model}-{objective}-eta{eta}")
    }

    /// P of a cell.
    ///
    /// # Errors
    /// When a file with P cannot be read.
    pub fn world(&self, key: &CellKey) -> Result<World> {
        match &self.grid.source {
            Source::Random => World::random(key.vocab, key.zeros, key.seed),
            Source::Csv(path) => World::from_csv(path),
            Source::Text(path) => World::from_text(path, key.vocab),
        }
    }

    fn world_name(key: &CellKey) -> String {
        format!("{}-{}-{}", key.vocab, key.zeros, key.seed)
    }

    fn count_worlds(&self, groups: &[(CellKey, Vec<CellKey>)]) -> Result<()> {
        let mut worlds = lock(&self.worlds);
        worlds.clear();
        for (key, _) in groups {
            worlds.entry(Self::world_name(key)).or_insert_with(|| (Shared::default(), 0)).1 += 1;
        }
        Ok(())
    }

    /// The data of a cell's world, sampled by the first cell that needs them.
    fn dataset(&self, key: &CellKey) -> Result<Arc<Dataset>> {
        let shared = lock(&self.worlds).entry(Self::world_name(key)).or_default().0.clone();
        let world = self.world(key)?;
        let train = &self.grid.train;
        let made = shared.get_or_init(|| match train.estimator {
            Estimator::Exact => Ok(Arc::new(Dataset::exact(world))),
            _ => Dataset::sample(world, train.train_size, train.dev_size, key.seed)
                .map(Arc::new)
                .map_err(|e| e.to_string()),
        });
        made.clone().map_err(|message| Error::Data { world: Self::world_name(key), message })
    }

    /// Forgets the data of a world after its last cell.
    fn release(&self, key: &CellKey) {
        let mut worlds = lock(&self.worlds);
        let name = Self::world_name(key);
        if let Some((_, left)) = worlds.get_mut(&name) {
            *left = left.saturating_sub(1);
            if *left == 0 {
                worlds.remove(&name);
            }
        }
    }

    /// The metrics of the empirical transition matrix of a cell's training data: maximum likelihood without a model.
    ///
    /// # Errors
    /// If P or its samples are not available.
    pub fn empirical(&self, key: &CellKey) -> Result<super::Distance> {
        let train = &self.grid.train;
        let data = Dataset::sample(self.world(key)?, train.train_size, train.dev_size, key.seed)?;
        compare(&data.empirical(), &data.world)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// A saved cell with the same settings, if there is one that can be read.
fn restore(path: &Path, settings: &Settings) -> Option<Saved> {
    let saved: Saved = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
    (saved.settings == *settings).then_some(saved)
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_vec(value).map_err(|e| Error::io(path, std::io::Error::other(e)))?;
    Ok(write_atomic(path, &text)?)
}

#[cfg(test)]
#[path = "grid_tests.rs"]
mod tests;
