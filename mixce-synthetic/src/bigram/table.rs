//! The table of the paper: per objective the best eta by mean avg. js over seeds.

use std::fmt::Write as _;

use super::{Cell, ObjectiveName};

/// Mean and sample standard deviation (0 for one value).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// The mean.
    pub mean: f64,
    /// The standard deviation with n - 1.
    pub sd: f64,
}

impl Spread {
    /// Of these values; NaN when there is none.
    #[must_use]
    pub fn of(values: &[f64]) -> Self {
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let squares: f64 = values.iter().map(|x| (x - mean).powi(2)).sum();
        Self { mean, sd: if values.len() > 1 { (squares / (n - 1.0)).sqrt() } else { 0.0 } }
    }
}

/// One eta of one objective in one kind of world, over its seeds.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Vocabulary.
    pub vocab: usize,
    /// Share of forbidden transitions.
    pub zeros: f64,
    /// The objective.
    pub objective: ObjectiveName,
    /// Its parameter.
    pub eta: f64,
    /// Seeds that finished.
    pub seeds: usize,
    /// avg. js over seeds.
    pub avg_js: Spread,
    /// avg. 0s over seeds.
    pub avg_0s: Spread,
}

/// All (world, objective, eta) with their spread over seeds, in the order in which they first occur.
#[must_use]
pub fn rows(cells: &[Cell]) -> Vec<Row> {
    let mut keys: Vec<(usize, f64, ObjectiveName, f64)> = Vec::new();
    for cell in cells {
        let key = (cell.key.vocab, cell.key.zeros, cell.key.objective, cell.key.eta);
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    keys.into_iter()
        .map(|(vocab, zeros, objective, eta)| {
            let mine: Vec<&Cell> = cells
                .iter()
                .filter(|c| {
                    (c.key.vocab, c.key.zeros, c.key.objective, c.key.eta) == (vocab, zeros, objective, eta)
                })
                .collect();
            let js: Vec<f64> = mine.iter().map(|c| c.avg_js).collect();
            let leaks: Vec<f64> = mine.iter().map(|c| c.avg_0s).collect();
            Row {
                vocab,
                zeros,
                objective,
                eta,
                seeds: mine.len(),
                avg_js: Spread::of(&js),
                avg_0s: Spread::of(&leaks),
            }
        })
        .collect()
}

/// Of each (world, objective) the row with the lowest mean avg. js.
#[must_use]
pub fn best(rows: &[Row]) -> Vec<Row> {
    let mut best: Vec<Row> = Vec::new();
    for row in rows {
        let same = |b: &&mut Row| (b.vocab, b.zeros, b.objective) == (row.vocab, row.zeros, row.objective);
        match best.iter_mut().find(same) {
            None => best.push(row.clone()),
            Some(old) if row.avg_js.mean < old.avg_js.mean => *old = row.clone(),
            Some(_) => {}
        }
    }
    best
}

/// A reference row above the objectives: its name, vocabulary, zeros, avg. js and avg. 0s.
#[derive(Clone, Debug, PartialEq)]
pub struct Reference {
    /// Name.
    pub name: &'static str,
    /// Vocabulary.
    pub vocab: usize,
    /// Share of forbidden transitions.
    pub zeros: f64,
    /// avg. js over seeds.
    pub avg_js: Spread,
    /// avg. 0s over seeds.
    pub avg_0s: Spread,
}

/// The Markdown table of best rows, one block per world, with reference rows (gold and others) on top.
#[must_use]
pub fn markdown(best: &[Row], references: &[Reference]) -> String {
    let mut out = String::from(
        "| V | zeros | objective | eta | avg. js | avg. 0s | seeds |\n|---|---|---|---|---|---|---|\n",
    );
    let mut worlds: Vec<(usize, f64)> = Vec::new();
    for row in best {
        if !worlds.contains(&(row.vocab, row.zeros)) {
            worlds.push((row.vocab, row.zeros));
        }
    }
    let number =
        |s: Spread| if s.mean == 0.0 { "0".to_owned() } else { format!("{:.2e} ± {:.0e}", s.mean, s.sd) };
    for (vocab, zeros) in worlds {
        let share = format!("{:.0} %", zeros * 100.0);
        for r in references.iter().filter(|r| (r.vocab, r.zeros) == (vocab, zeros)) {
            let (js, leak) = (number(r.avg_js), number(r.avg_0s));
            let _ = writeln!(out, "| {vocab} | {share} | *{}* | | {js} | {leak} | |", r.name);
        }
        for row in best.iter().filter(|r| (r.vocab, r.zeros) == (vocab, zeros)) {
            let (js, leak) = (number(row.avg_js), number(row.avg_0s));
            let _ = writeln!(
                out,
                "| {vocab} | {share} | {} | {} | {js} | {leak} | {} |",
                row.objective, row.eta, row.seeds
            );
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bigram::{CellKey, Estimator};

    fn cell(objective: ObjectiveName, eta: f64, seed: u64, avg_js: f64) -> Cell {
        Cell {
            key: CellKey { objective, eta, vocab: 20, zeros: 0.5, seed },
            estimator: Estimator::Counts,
            avg_js,
            avg_0s: avg_js / 10.0,
            best_epoch: 1,
            epochs: 2,
            seconds: 0.0,
        }
    }

    #[test]
    fn the_best_eta_is_chosen_by_the_mean_over_seeds() {
        let (mle, mixce) = (ObjectiveName::MLE, ObjectiveName::MIXCE);
        let cells = [
            cell(mle, 1.0, 1, 0.2),
            cell(mle, 1.0, 2, 0.4),
            cell(mixce, 0.5, 1, 0.01),
            cell(mixce, 0.5, 2, 0.9),
            cell(mixce, 0.9, 1, 0.1),
            cell(mixce, 0.9, 2, 0.2),
        ];
        let best = best(&rows(&cells));
        assert_eq!(best.len(), 2);
        assert_eq!((best[1].eta, best[1].seeds), (0.9, 2));
        assert!((best[0].avg_js.mean - 0.3).abs() < 1e-12);
        assert!((best[0].avg_js.sd - 0.02f64.sqrt()).abs() < 1e-12);
        let zero = Spread { mean: 0.0, sd: 0.0 };
        let gold = Reference { name: "gold", vocab: 20, zeros: 0.5, avg_js: zero, avg_0s: zero };
        let text = markdown(&best, &[gold]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[2], "| 20 | 50 % | *gold* | | 0 | 0 | |");
        assert_eq!(lines[4], "| 20 | 50 % | mixce | 0.9 | 1.50e-1 ± 7e-2 | 1.50e-2 ± 7e-3 | 2 |");
        assert_eq!(Spread::of(&[3.0]).sd, 0.0);
    }
}
