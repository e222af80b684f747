//! Small studies for tests.

use std::collections::BTreeMap;

use serde_json::json;

use crate::documents::Documents;
use crate::input::Curve;
use crate::results::{Chosen, Control, Decoding, Group, Scores, Split, Status};
use crate::study::{HumanTexts, Measured, Study, System};

pub(crate) fn group() -> Group {
    Group { corpus: "wiki".into(), model: "gpt2".into(), train_size: Some(1000), max_length: 128 }
}

pub(crate) fn study(systems: Vec<System>) -> Study {
    Study { systems, metric: Some("mauve".into()), ..Study::default() }
}

/// A finished cell without results.
pub(crate) fn cell(objective: &str, control: Option<(Control, f64)>, seed: u64) -> System {
    let decoding = match control {
        Some((Control::TopP, top_p)) => Decoding { top_p, ..Decoding::UNBIASED },
        Some((Control::Temperature, temperature)) => Decoding { temperature, ..Decoding::UNBIASED },
        None => Decoding::UNBIASED,
    };
    System {
        id: format!("{objective}-{control:?}-s{seed}"),
        group: group(),
        objective: objective.into(),
        control: control.map(|(control, _)| control),
        decoding: Some(decoding),
        variant: None,
        seed,
        status: Status::Done,
        error: None,
        unfinished: None,
        folder: "cells/x".into(),
        valid: None,
        test: None,
        curve: Curve::default(),
    }
}

fn mean(values: &[Option<f64>]) -> f64 {
    let present: Vec<f64> = values.iter().copied().flatten().collect();
    present.iter().sum::<f64>() / present.len() as f64
}

pub(crate) fn scores(value: serde_json::Value) -> Scores {
    serde_json::from_value(value).unwrap()
}

fn documents(diversity: &[Option<f64>]) -> Documents {
    let run = BTreeMap::from([("diversity".to_owned(), diversity.to_vec())]);
    Documents { schema: 1, samplings: vec![run], nll: Vec::new() }
}

/// Results of one sampling run.
pub(crate) fn measured(mauve: f64, diversity: &[Option<f64>]) -> Measured {
    let found =
        json!({"mauve": {"mean": mauve, "std": 0.0, "values": [mauve]}, "diversity": mean(diversity)});
    Measured {
        folder: "cells/x/valid".into(),
        perplexity: Some(20.0),
        scores: vec![scores(found)],
        documents: Some(documents(diversity)),
    }
}

pub(crate) fn human(diversity: &[Option<f64>]) -> HumanTexts {
    HumanTexts {
        source: "sweep".into(),
        corpus: "wiki".into(),
        model: "gpt2".into(),
        max_length: 128,
        split: Split::Valid,
        scores: scores(json!({"diversity": mean(diversity)})),
        documents: Some(documents(diversity)),
        file: "human/wiki.jsonl".into(),
    }
}

pub(crate) fn chosen(objective: &str) -> Chosen {
    Chosen {
        group: group(),
        metric: "mauve".into(),
        objective: objective.into(),
        mean: 0.902,
        std: Some(0.001),
        n: 3,
        ties: Vec::new(),
    }
}
