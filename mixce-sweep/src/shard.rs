//! The part of a grid that one machine computes.

use std::fmt;
use std::str::FromStr;

use mixce_base::digest::{Digest as _, Sha256};

use crate::error::Error;
use crate::grid::Grid;

/// Part `index` of `count`, from 1.
///
/// Trained cells are ordered by the SHA-256 of their names and dealt out in turn, so that parts have equal numbers of cells and costly models
/// and lengths are spread. A control goes where the model that it samples is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    index: usize,
    count: usize,
}

impl Shard {
    /// The part of process `rank`, from 0, among `size`.
    #[must_use]
    pub fn of_rank(rank: usize, size: usize) -> Self {
        Self { index: rank + 1, count: size }
    }

    /// Whether each cell belongs to this part.
    #[must_use]
    pub fn owned(self, grid: &Grid) -> Vec<bool> {
        let mut trained: Vec<usize> =
            (0..grid.cells.len()).filter(|i| grid.cells[*i].control.is_none()).collect();
        trained.sort_by_cached_key(|&i| Sha256::digest(grid.cells[i].id.as_bytes()));
        let mut owned = vec![false; grid.cells.len()];
        for (rank, cell) in trained.into_iter().enumerate() {
            owned[cell] = rank % self.count == self.index - 1;
        }
        grid.cells.iter().map(|cell| owned[cell.model]).collect()
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.count)
    }
}

impl FromStr for Shard {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let bad = || Error::Shard { got: text.to_owned() };
        let (index, count) = text.split_once('/').ok_or_else(bad)?;
        let (index, count) = (index.parse().map_err(|_| bad())?, count.parse().map_err(|_| bad())?);
        if index == 0 || index > count {
            return Err(bad());
        }
        Ok(Self { index, count })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{Corpus, Files, Model, Settings};

    #[test]
    fn parts_are_equal_disjoint_and_everything() {
        let files = || Files(vec!["a.txt".to_owned()]);
        let corpus = Corpus { train: files(), valid: files(), test: files(), reading: toml::Table::new() };
        let settings = Settings {
            objectives: ["mle", "mixce:eta=0.1", "mixce:eta=0.5"].map(str::to_owned).to_vec(),
            seeds: vec![1, 2, 3],
            corpora: [("wiki".to_owned(), corpus)].into(),
            models: [("gpt2".to_owned(), Model::default())].into(),
            ..Settings::default()
        };
        let grid = Grid::of(&settings);
        let parts: Vec<Vec<bool>> =
            (1..=3).map(|i| format!("{i}/3").parse::<Shard>().unwrap().owned(&grid)).collect();
        for (index, cell) in grid.cells.iter().enumerate() {
            assert_eq!(parts.iter().filter(|part| part[index]).count(), 1, "{}", cell.id);
            assert!(parts.iter().all(|part| part[index] == part[cell.model]), "a control is with its model");
        }
        for part in &parts {
            assert_eq!((0..9).filter(|i| part[*i]).count(), 3);
        }
    }

    #[test]
    fn other_words_are_refused() {
        assert_eq!("2/3".parse::<Shard>().unwrap().to_string(), "2/3");
        for bad in ["", "1", "0/3", "4/3", "a/b", "1/0", "-1/2"] {
            let error = bad.parse::<Shard>().unwrap_err().to_string();
            assert!(error.contains(&format!("got `{bad}`")), "{error}");
        }
    }
}
