//! Tables of the synthetic experiments.

use std::fmt::Write as _;

use anyhow::Result;
use mixce_synthetic::bigram::table::{self, Reference, Spread};
use mixce_synthetic::bigram::{Cell, CellKey, Estimator, Finished, Runner};

/// The Markdown table: gold, the empirical matrix (if data were sampled), the best eta of every objective.
pub(super) fn table(runner: &Runner<'_>, done: &[Finished]) -> Result<String> {
    let cells: Vec<Cell> = done.iter().map(|f| f.cell.clone()).collect();
    let zero = Spread { mean: 0.0, sd: 0.0 };
    let mut references = Vec::new();
    for (vocab, zeros, keys) in worlds(&cells) {
        references.push(Reference { name: "gold", vocab, zeros, avg_js: zero, avg_0s: zero });
        if cells.iter().any(|c| c.estimator != Estimator::Exact) {
            let distances = keys.iter().map(|key| runner.empirical(key)).collect::<Result<Vec<_>, _>>()?;
            let js: Vec<f64> = distances.iter().map(|d| d.avg_js).collect();
            let leaks: Vec<f64> = distances.iter().map(|d| d.avg_0s).collect();
            references.push(Reference {
                name: "counted",
                vocab,
                zeros,
                avg_js: Spread::of(&js),
                avg_0s: Spread::of(&leaks),
            });
        }
    }
    Ok(table::markdown(&table::best(&table::rows(&cells)), &references))
}

/// The settings of P (vocabulary, zeros), each with one cell per seed.
pub(super) fn worlds(cells: &[Cell]) -> Vec<(usize, f64, Vec<CellKey>)> {
    let mut worlds: Vec<(usize, f64, Vec<CellKey>)> = Vec::new();
    for key in cells.iter().map(|c| c.key) {
        let known = worlds.iter().position(|w| (w.0, w.1) == (key.vocab, key.zeros));
        let at = known.unwrap_or_else(|| {
            worlds.push((key.vocab, key.zeros, Vec::new()));
            worlds.len() - 1
        });
        if worlds[at].2.iter().all(|k| k.seed != key.seed) {
            worlds[at].2.push(key);
        }
    }
    worlds
}

/// All cells, comma separated.
pub(super) fn csv(done: &[Finished]) -> String {
    let mut out = String::from("objective,eta,vocab,zeros,seed,avg_js,avg_0s,best_epoch,epochs,seconds\n");
    for Finished { cell, .. } in done {
        let CellKey { objective, eta, vocab, zeros, seed } = cell.key;
        let Cell { avg_js, avg_0s, best_epoch, epochs, seconds, .. } = cell;
        let _ = writeln!(
            out,
            "{objective},{eta},{vocab},{zeros},{seed},{avg_js},{avg_0s},{best_epoch},{epochs},{seconds:.3}"
        );
    }
    out
}
