//! The folder of a sweep.

use std::path::Path;

use super::Curve;
use crate::documents::{self, Documents};
use crate::error::{Error, Result};
use crate::results::{Cell, Evaluation, Results, Role, Split};
use crate::study::{HumanTexts, Measured, Source, Study, System};

/// Adds the results of a sweep.
pub(super) fn add(study: &mut Study, folder: &Path) -> Result<()> {
    let results = Results::read(folder)?;
    match &study.metric {
        Some(metric) if *metric != results.metric => {
            let what = "the metrics of the choice".to_owned();
            let first = study.sources.iter().find(|source| source.kind == "sweep");
            let first = first.map(|source| source.folder.clone()).unwrap_or_default();
            return Err(Error::Conflict { what, first, second: folder.to_owned() });
        }
        _ => study.metric = Some(results.metric),
    }
    for human in results.human {
        let file = folder.join(&human.file);
        let documents = Documents::read(&file.with_extension(documents::FILE))?;
        study.add_human(HumanTexts {
            source: folder.to_owned(),
            corpus: human.corpus,
            model: human.model,
            max_length: human.max_length,
            split: human.split,
            scores: human.scores,
            documents,
            file,
        })?;
    }
    for cell in results.cells {
        study.add_system(system(folder, cell)?)?;
    }
    for chosen in results.chosen {
        if !study.chosen.iter().any(|other| other.group == chosen.group) {
            study.chosen.push(chosen);
        }
    }
    study.sources.push(Source {
        folder: folder.to_owned(),
        kind: "sweep",
        versions: results.versions,
        settings: results.settings,
        seconds: Some(results.seconds),
    });
    Ok(())
}

fn system(root: &Path, cell: Cell) -> Result<System> {
    let folder = root.join(&cell.folder);
    let curve = match cell.role {
        Role::Grid => Curve::read(&folder.join("run/metrics.jsonl"))?,
        Role::Control => Curve::default(),
    };
    let [valid, test] = [(Split::Valid, cell.valid), (Split::Test, cell.test)].map(|(split, evaluation)| {
        evaluation.map(|found| measured(&folder.join(split.name()), found)).transpose()
    });
    Ok(System {
        id: cell.id,
        group: cell.group,
        objective: cell.objective,
        control: cell.control,
        decoding: cell.decoding,
        variant: None,
        seed: cell.seed,
        status: cell.status,
        error: cell.error,
        unfinished: None,
        valid: valid?,
        test: test?,
        folder,
        curve,
    })
}

fn measured(folder: &Path, evaluation: Evaluation) -> Result<Measured> {
    Ok(Measured {
        folder: folder.to_owned(),
        perplexity: Some(evaluation.perplexity),
        scores: evaluation.scores,
        documents: Documents::read(&folder.join(documents::FILE))?,
    })
}
