//! The answers with the names of the systems.

use serde::Serialize;

use crate::error::Error;
use crate::store::{Answer, Store};
use crate::study::{Kind, Study};

/// An answer, joined with its item.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Judged {
    /// Judge, from 1.
    pub judge: usize,
    /// The judge's name.
    pub name: String,
    /// Item, from 0.
    pub item: usize,
    /// What the item is for.
    pub kind: Kind,
    /// The prompt.
    pub prompt: String,
    /// The item's first system.
    pub first: String,
    /// The item's second system.
    pub second: String,
    /// The system shown as text A.
    pub shown_as_a: String,
    /// From `-extreme` to `extreme` of the scale: positive when `first` is better, 0 for no difference.
    pub preference: i8,
    /// The better system; null for no difference.
    pub better: Option<String>,
    /// Reasons that were ticked: `fits`, `sense`, `fluent`, `repeats`, `interesting`.
    pub reasons: Vec<String>,
    /// Free text.
    pub note: String,
    /// From sending the page (for the last time, if it was loaded again) to the answer; null when the clock was set back.
    pub seconds: Option<f64>,
    /// Time of the answer, milliseconds since 1970.
    pub answered_ms: i64,
}

/// All answers so far, by judge, in the order in which they came; also while the study is served.
///
/// # Errors
/// When the database cannot be read, or holds an answer outside the plan.
pub fn answers(study: &Study) -> Result<Vec<Judged>, Error> {
    let Some(store) = Store::existing(study)? else { return Ok(Vec::new()) };
    let mut names = Vec::new();
    for judge in 1..=study.header.judges {
        names.push(store.judge(judge)?.map_or_else(|| format!("judge {judge}"), |judge| judge.name));
    }
    store.answers()?.into_iter().map(|answer| joined(study, &names, answer)).collect()
}

fn joined(study: &Study, names: &[String], answer: Answer) -> Result<Judged, Error> {
    let extreme = study.header.scale.extreme();
    let tasks = answer.judge.checked_sub(1).and_then(|judge| study.plan.get(judge));
    let task = tasks.and_then(|tasks| tasks.iter().find(|task| task.item == answer.item));
    let Some(task) = task.filter(|_| (-extreme..=extreme).contains(&answer.choice)) else {
        let (judge, item, choice) = (answer.judge, answer.item, answer.choice);
        let problem = format!("the answer `{choice}` of judge {judge} for item {item} is not in its plan");
        return Err(Error::Study { path: study.folder.clone(), problem });
    };
    let item = &study.items[task.item];
    // A negative choice is for text A.
    let preference = if task.swapped { answer.choice } else { -answer.choice };
    let better = match preference {
        0 => None,
        1.. => Some(item.first.system.clone()),
        _ => Some(item.second.system.clone()),
    };
    let shown_as_a = if task.swapped { &item.second } else { &item.first };
    let waited = answer.shown_ms.map(|shown| answer.answered_ms - shown).filter(|ms| *ms >= 0);
    Ok(Judged {
        judge: answer.judge,
        name: names[answer.judge - 1].clone(),
        item: answer.item,
        kind: item.kind,
        prompt: item.prompt.clone(),
        first: item.first.system.clone(),
        second: item.second.system.clone(),
        shown_as_a: shown_as_a.system.clone(),
        preference,
        better,
        reasons: answer.reasons.split_whitespace().map(str::to_owned).collect(),
        note: answer.note,
        seconds: waited.map(|ms| ms as f64 / 1000.0),
        answered_ms: answer.answered_ms,
    })
}
