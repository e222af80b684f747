//! What a report is about: trained systems with their scores, and the human texts that they were compared with.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::documents::Documents;
use crate::error::{Error, Result};
use crate::input::Curve;
use crate::judged::JudgedStudy;
use crate::results::{Chosen, Control, Decoding, Group, Scores, Split, Status};

/// Everything that was read.
#[derive(Clone, Debug, Default)]
pub struct Study {
    /// The folders.
    pub sources: Vec<Source>,
    /// The metric by which sweeps chose.
    pub metric: Option<String>,
    /// The human texts.
    pub humans: Vec<HumanTexts>,
    /// The systems.
    pub systems: Vec<System>,
    /// What sweeps chose, one for each group.
    pub chosen: Vec<Chosen>,
    /// Human evaluations.
    pub judged: Vec<JudgedStudy>,
}

/// A folder that was read.
#[derive(Clone, Debug)]
pub struct Source {
    /// The folder.
    pub folder: PathBuf,
    /// `run` or `sweep`.
    pub kind: &'static str,
    /// Versions of what computed its results, by name.
    pub versions: BTreeMap<String, String>,
    /// Its settings.
    pub settings: Value,
    /// Seconds that its cells took together.
    pub seconds: Option<f64>,
}

/// Human texts, cut into prompt and continuation as the samples are.
#[derive(Clone, Debug)]
pub struct HumanTexts {
    /// Where they come from, for messages.
    pub source: PathBuf,
    /// Name of the corpus.
    pub corpus: String,
    /// Name of the model whose tokenizer cut them.
    pub model: String,
    /// Longest text in tokens.
    pub max_length: u64,
    /// The part of the corpus.
    pub split: Split,
    /// Their scores.
    pub scores: Scores,
    /// The scores of each text, if the file is there.
    pub documents: Option<Documents>,
    /// The texts, if the file is there.
    pub file: PathBuf,
}

/// A trained model and a way to sample from it.
#[derive(Clone, Debug)]
pub struct System {
    /// Unique name.
    pub id: String,
    /// What it is compared within.
    pub group: Group,
    /// Objective in the form `NAME:parameter=value,..`.
    pub objective: String,
    /// The kind of control; none for a model sampled without modification.
    pub control: Option<Control>,
    /// How it was sampled; none for a control that is not tuned yet.
    pub decoding: Option<Decoding>,
    /// What tells it from other runs of the same objective whose settings differ.
    pub variant: Option<String>,
    /// Seed of the training run and its samples.
    pub seed: u64,
    /// Its state.
    pub status: Status,
    /// Why it failed.
    pub error: Option<String>,
    /// How far its training has come if it is not finished, in words; always none of the cells of a sweep.
    pub unfinished: Option<String>,
    /// Its folder.
    pub folder: PathBuf,
    /// Results on the development texts.
    pub valid: Option<Measured>,
    /// Results on the test texts.
    pub test: Option<Measured>,
    /// Its training; empty for controls.
    pub curve: Curve,
}

/// Results of a system on one set of texts.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    /// The folder with its files.
    pub folder: PathBuf,
    /// Perplexity of the human texts.
    pub perplexity: Option<f64>,
    /// Scores of each sampling run.
    pub scores: Vec<Scores>,
    /// The scores of each text, if the file is there.
    pub documents: Option<Documents>,
}

impl Measured {
    /// The files of its samples that are there: `samples-0.jsonl`, `samples-1.jsonl`, ...
    #[must_use]
    pub fn sample_files(&self) -> Vec<PathBuf> {
        let file = |run: usize| self.folder.join(format!("samples-{run}.jsonl"));
        (0..).map(file).take_while(|file| file.is_file()).collect()
    }
}

impl System {
    /// Its results on one part of the corpus.
    #[must_use]
    pub fn measured(&self, split: Split) -> Option<&Measured> {
        match split {
            Split::Valid => self.valid.as_ref(),
            Split::Test => self.test.as_ref(),
        }
    }

    fn is_same_cell(&self, other: &Self) -> bool {
        let key = |system: &Self| (system.seed, system.control, system.variant.clone());
        self.group == other.group && self.objective == other.objective && key(self) == key(other)
    }

    fn has_same_results(&self, other: &Self) -> bool {
        let results = |system: &Self| {
            [Split::Valid, Split::Test]
                .map(|split| system.measured(split).map(|found| (found.perplexity, found.scores.clone())))
        };
        results(self) == results(other)
    }
}

impl Study {
    /// Adds human texts. The same ones may be in several sources.
    pub(crate) fn add_human(&mut self, human: HumanTexts) -> Result<()> {
        let same = |other: &&HumanTexts| {
            (&other.corpus, &other.model, other.max_length, other.split)
                == (&human.corpus, &human.model, human.max_length, human.split)
        };
        match self.humans.iter().find(same) {
            None => self.humans.push(human),
            Some(other) if other.scores == human.scores => {}
            Some(other) => {
                let what =
                    format!("the scores of the human {} texts of `{}`", human.split.name(), human.corpus);
                return Err(conflict(what, &other.source, &human.source));
            }
        }
        Ok(())
    }

    /// Adds a system. The same cell may be in several sources, of which all but one may not have finished it.
    pub(crate) fn add_system(&mut self, system: System) -> Result<()> {
        let Some(other) = self.systems.iter_mut().find(|other| other.is_same_cell(&system)) else {
            self.systems.push(system);
            return Ok(());
        };
        match (other.status, system.status) {
            (Status::Done, Status::Done) if !other.has_same_results(&system) => {
                let what = format!("the results of `{}` with seed {}", system.objective, system.seed);
                return Err(conflict(what, &other.folder, &system.folder));
            }
            (Status::Done, _) => {}
            _ => *other = system,
        }
        Ok(())
    }

    /// All groups, sorted.
    #[must_use]
    pub fn groups(&self) -> Vec<&Group> {
        let mut groups: Vec<&Group> = self.systems.iter().map(|system| &system.group).collect();
        groups.sort();
        groups.dedup();
        groups
    }

    /// The human texts that a group's samples were compared with.
    #[must_use]
    pub fn human(&self, group: &Group, split: Split) -> Option<&HumanTexts> {
        self.humans.iter().find(|human| {
            (&human.corpus, &human.model, human.max_length, human.split)
                == (&group.corpus, &group.model, group.max_length, split)
        })
    }
}

fn conflict(what: String, first: &Path, second: &Path) -> Error {
    Error::Conflict { what, first: first.to_owned(), second: second.to_owned() }
}
