//! The cells of a grid.

use mixce_report::results::{Control, Group, Role};

use crate::settings::Settings;

/// The objective that everything is compared with.
pub const MLE: &str = "mle";

/// A cell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GridCell {
    /// Unique name, of characters that file names may have.
    pub id: String,
    /// Index of its group in [`Grid::groups`].
    pub group: usize,
    /// The objective; of controls [`MLE`].
    pub objective: String,
    /// The seed.
    pub seed: u64,
    /// The kind of control; none in the grid.
    pub control: Option<Control>,
    /// Index of the cell whose model it samples: of a control the MLE cell of its seed, else itself.
    pub model: usize,
}

impl GridCell {
    /// Its role.
    #[must_use]
    pub fn role(&self) -> Role {
        match self.control {
            None => Role::Grid,
            Some(_) => Role::Control,
        }
    }
}

/// All cells of a grid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grid {
    /// Groups of cells that are compared with each other: corpora x models x training sizes x maximum lengths.
    pub groups: Vec<Group>,
    /// The cells: groups x objectives x seeds, then the controls of each group.
    pub cells: Vec<GridCell>,
}

impl Grid {
    /// The cells of these settings.
    #[must_use]
    pub fn of(settings: &Settings) -> Self {
        let mut grid = Self { groups: groups(settings), cells: Vec::new() };
        for group in 0..grid.groups.len() {
            for objective in &settings.objectives {
                settings.seeds.iter().for_each(|seed| grid.add(group, objective, *seed, None));
            }
        }
        let kinds = [
            (Control::TopP, settings.controls.top_p.is_empty()),
            (Control::Temperature, settings.controls.temperature.is_empty()),
        ];
        let kinds = kinds.iter().filter(|(_, left_out)| !left_out).map(|(kind, _)| *kind);
        for (group, kind) in
            (0..grid.groups.len()).flat_map(|group| kinds.clone().map(move |kind| (group, kind)))
        {
            settings.seeds.iter().for_each(|seed| grid.add(group, MLE, *seed, Some(kind)));
        }
        grid
    }

    /// Adds a cell. A control without an MLE cell has no model to sample and is left out; validation refuses such settings.
    fn add(&mut self, group: usize, objective: &str, seed: u64, control: Option<Control>) {
        let model = match control {
            None => Some(self.cells.len()),
            Some(_) => self.cells.iter().position(|cell| {
                cell.control.is_none() && cell.group == group && cell.objective == MLE && cell.seed == seed
            }),
        };
        let Some(model) = model else { return };
        let system = control.map_or_else(|| plain(objective), |kind| kind.name().to_owned());
        let Group { corpus, model: name, train_size, max_length } = &self.groups[group];
        let size = train_size.map_or_else(|| "all".to_owned(), |n| n.to_string());
        let id = format!("{corpus}-{name}-{system}-n{size}-l{max_length}-s{seed}");
        self.cells.push(GridCell { id, group, objective: objective.to_owned(), seed, control, model });
    }

    /// Indices of a group's cells that are points of the grid.
    pub fn grid_cells(&self, group: usize) -> impl Iterator<Item = usize> {
        self.indices(move |cell| cell.group == group && cell.control.is_none())
    }

    /// Indices of a group's controls of a kind.
    pub fn controls(&self, group: usize, kind: Control) -> impl Iterator<Item = usize> {
        self.indices(move |cell| cell.group == group && cell.control == Some(kind))
    }

    fn indices(&self, wanted: impl Fn(&GridCell) -> bool) -> impl Iterator<Item = usize> {
        self.cells.iter().enumerate().filter(move |(_, cell)| wanted(cell)).map(|(index, _)| index)
    }
}

fn groups(settings: &Settings) -> Vec<Group> {
    let mut groups = Vec::new();
    for corpus in settings.corpora.keys() {
        for model in settings.models.keys() {
            for size in &settings.train_sizes {
                for &max_length in &settings.max_lengths {
                    let (corpus, model) = (corpus.clone(), model.clone());
                    groups.push(Group { corpus, model, train_size: size.limit(), max_length });
                }
            }
        }
    }
    groups
}

/// An objective as part of a file name: `mixce:eta=0.1` is `mixce-eta0.1`.
fn plain(objective: &str) -> String {
    objective.replace([':', ','], "-").replace('=', "")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{Corpus, Files, Model, TrainSize};

    fn settings() -> Settings {
        let files = || Files(vec!["a.txt".to_owned()]);
        let corpus = Corpus { train: files(), valid: files(), test: files(), reading: toml::Table::new() };
        Settings {
            objectives: ["mle", "tailr:gamma=0.1,min_weight=0.3"].map(str::to_owned).to_vec(),
            seeds: vec![1, 2],
            train_sizes: vec![TrainSize::First(1000), TrainSize::All],
            max_lengths: vec![64, 128],
            corpora: [("wiki".to_owned(), corpus)].into(),
            models: [("gpt2".to_owned(), Model::default())].into(),
            ..Settings::default()
        }
    }

    #[test]
    fn cells_are_the_product_and_controls_sample_the_mle_model_of_their_seed() {
        let grid = Grid::of(&settings());
        assert_eq!((grid.groups.len(), grid.cells.len()), (4, 4 * 4 + 4 * 4));
        assert_eq!(grid.cells[0].id, "wiki-gpt2-mle-n1000-l64-s1");
        assert_eq!(grid.cells[3].id, "wiki-gpt2-tailr-gamma0.1-min_weight0.3-n1000-l64-s2");
        assert_eq!(grid.cells[4].id, "wiki-gpt2-mle-n1000-l128-s1");
        assert_eq!(
            grid.cells.last().map(|cell| cell.id.as_str()),
            Some("wiki-gpt2-temperature-nall-l128-s2")
        );
        for (index, cell) in grid.cells.iter().enumerate() {
            let model = &grid.cells[cell.model];
            assert_eq!((model.group, model.seed, model.control), (cell.group, cell.seed, None));
            assert!(
                cell.control.is_none() == (cell.model == index)
                    && (cell.control.is_none() || model.objective == MLE)
            );
        }
        assert_eq!(grid.grid_cells(1).collect::<Vec<_>>(), [4, 5, 6, 7]);
        assert_eq!(grid.controls(0, Control::Temperature).collect::<Vec<_>>(), [18, 19]);
    }

    #[test]
    fn an_empty_list_leaves_a_control_out() {
        let mut settings = settings();
        settings.controls.top_p.clear();
        assert!(Grid::of(&settings).cells.iter().all(|cell| cell.control != Some(Control::TopP)));
    }
}
