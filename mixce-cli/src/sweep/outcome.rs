//! What the folder of a sweep holds: the results of its cells, and the choice in each group.

use std::collections::BTreeMap;

use anyhow::Result;
use mixce_report::results::{
    Cell, Chosen, Decoding, Evaluation, FILE, Group, Human, Results, SCHEMA, Split, Status,
};
use mixce_sweep::choice::{Candidate, choose};
use mixce_sweep::{GridCell, MLE};

use super::Sweep;
use super::folder::write_json;
use super::steps::{Work, human_file};

/// The choice in a group.
#[derive(Clone, Debug)]
pub(super) struct GroupChoice {
    pub(super) chosen: Chosen,
    /// The best objective other than MLE.
    pub(super) rival: Option<String>,
}

impl GroupChoice {
    /// Whether cells of this objective are scored on the test texts.
    pub(super) fn is_tested(&self, objective: &str) -> bool {
        objective == MLE || objective == self.chosen.objective || Some(objective) == self.rival.as_deref()
    }
}

impl Sweep<'_> {
    /// The finished cells of an objective in a group.
    pub(super) fn evaluations(&self, group: usize, objective: &str) -> Result<Vec<(usize, Evaluation)>> {
        let cells =
            self.grid.grid_cells(group).filter(|index| self.grid.cells[*index].objective == objective);
        let mut found = Vec::new();
        for index in cells {
            let work = Work::new(self, &self.grid.cells[index]);
            found.extend(
                work.evaluation(Split::Valid, Decoding::UNBIASED)?.map(|evaluation| (index, evaluation)),
            );
        }
        Ok(found)
    }

    /// The choice in a group; none while a cell is missing that has not failed.
    pub(super) fn choice(&self, group: usize) -> Result<Option<GroupChoice>> {
        let mut candidates: Vec<Candidate<&String>> = Vec::new();
        for objective in &self.settings.objectives {
            let found = self.evaluations(group, objective)?;
            let has = |index: usize| self.has_failed(index) || found.iter().any(|(known, _)| *known == index);
            let mut cells =
                self.grid.grid_cells(group).filter(|index| self.grid.cells[*index].objective == *objective);
            if !cells.all(has) {
                return Ok(None);
            }
            let values = found.iter().map(|(_, evaluation)| self.metric.values(evaluation)).collect();
            candidates.push(Candidate { what: objective, values });
        }
        let Some(direction) = self.metric.direction(self.human_value(group, self.metric.key)?) else {
            return Ok(None);
        };
        let Some(choice) = choose(&candidates, direction) else { return Ok(None) };
        let Some(summary) = choice.summaries[choice.best] else { return Ok(None) };
        let others: Vec<Candidate<&String>> = candidates.iter().filter(|c| c.what != MLE).cloned().collect();
        let rival = choose(&others, direction).map(|rival| others[rival.best].what.clone());
        let chosen = Chosen {
            group: self.grid.groups[group].clone(),
            metric: self.metric.key.to_owned(),
            objective: candidates[choice.best].what.clone(),
            mean: summary.mean,
            std: summary.std,
            n: summary.n as u64,
            ties: choice.ties.iter().map(|index| candidates[*index].what.clone()).collect(),
        };
        Ok(Some(GroupChoice { chosen, rival }))
    }

    /// The human texts' value of a metric in a group.
    pub(super) fn human_value(&self, group: usize, key: &str) -> Result<Option<f64>> {
        for index in self.grid.grid_cells(group) {
            if let Some(scores) = Work::new(self, &self.grid.cells[index]).human_scores(Split::Valid)? {
                return Ok(scores.value(key));
            }
        }
        Ok(None)
    }

    /// A cell with everything that is known about it.
    pub(super) fn cell(&self, index: usize, choice: Option<&GroupChoice>) -> Result<Cell> {
        let cell = &self.grid.cells[index];
        let work = Work::new(self, cell);
        let decoding = match cell.control {
            None => Some(Decoding::UNBIASED),
            Some(kind) => self.decoding_of(cell.group, kind)?,
        };
        let on = |split: Split| decoding.map_or(Ok(None), |decoding| work.evaluation(split, decoding));
        let valid = on(Split::Valid)?;
        let is_tested = choice.is_some_and(|choice| choice.is_tested(&cell.objective));
        let test = if is_tested { on(Split::Test)? } else { None };
        let error = self.failure(index);
        let status = match (&error, &valid) {
            (Some(_), _) => Status::Failed,
            (None, Some(_)) => Status::Done,
            (None, None) => Status::Waiting,
        };
        Ok(Cell {
            id: cell.id.clone(),
            group: self.grid.groups[cell.group].clone(),
            objective: cell.objective.clone(),
            role: cell.role(),
            control: cell.control,
            decoding,
            seed: cell.seed,
            folder: format!("cells/{}", cell.id),
            model: format!("cells/{}/run/best", self.grid.cells[cell.model].id),
            status,
            error,
            seconds: work.folder.seconds()?,
            valid,
            test,
        })
    }

    /// Everything that the folder holds now.
    pub(super) fn results(&self) -> Result<Results> {
        let groups = 0..self.grid.groups.len();
        let choices: Vec<Option<GroupChoice>> =
            groups.map(|group| self.choice(group)).collect::<Result<_>>()?;
        let of_cell = |(index, cell): (usize, &GridCell)| self.cell(index, choices[cell.group].as_ref());
        let cells: Vec<Cell> = self.grid.cells.iter().enumerate().map(of_cell).collect::<Result<_>>()?;
        Ok(Results {
            schema: SCHEMA,
            versions: [("mixce".to_owned(), env!("CARGO_PKG_VERSION").to_owned())].into(),
            settings: serde_json::to_value(&self.settings)?,
            metric: self.metric.key.to_owned(),
            seconds: cells.iter().map(|cell| cell.seconds).sum(),
            human: self.human(&cells)?,
            cells,
            chosen: choices.into_iter().flatten().map(|choice| choice.chosen).collect(),
        })
    }

    /// The scores of the human texts, from the first cell of each kind that has them.
    fn human(&self, cells: &[Cell]) -> Result<Vec<Human>> {
        let mut found: BTreeMap<(Split, String), Human> = BTreeMap::new();
        for (cell, of_grid) in cells.iter().zip(&self.grid.cells) {
            for (split, evaluation) in [(Split::Valid, &cell.valid), (Split::Test, &cell.test)] {
                let file = human_file(&cell.group, split);
                if evaluation.is_none() || found.contains_key(&(split, file.clone())) {
                    continue;
                }
                if let Some(scores) = Work::new(self, of_grid).human_scores(split)? {
                    let Group { corpus, model, max_length, .. } = cell.group.clone();
                    let human = Human { corpus, model, max_length, split, file: file.clone(), scores };
                    found.insert((split, file), human);
                }
            }
        }
        Ok(found.into_values().collect())
    }

    /// Writes `results.json`.
    pub(super) fn write_results(&self) -> Result<Results> {
        let _one_at_a_time = self.writing.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let results = self.results()?;
        write_json(&self.out.join(FILE), &results)?;
        Ok(results)
    }
}
