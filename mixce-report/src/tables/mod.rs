//! The tables of a report.

mod cells;
mod comparisons;
mod corpora;
mod further;
mod judged;
mod results;

use std::collections::BTreeSet;

use crate::results::{Group, Split};

pub(crate) use cells::cells;
pub(crate) use comparisons::comparisons;
pub(crate) use further::further;
pub(crate) use judged::judged;
pub(crate) use results::results;

/// Both parts of a corpus, the final one first.
pub(crate) const SPLITS: [Split; 2] = [Split::Test, Split::Valid];

/// What the parts of a corpus are called.
pub(crate) fn split_title(split: Split) -> &'static str {
    match split {
        Split::Valid => "development",
        Split::Test => "test",
    }
}

/// How a column says which group a row belongs to.
type GroupColumn = (&'static str, fn(&Group) -> String);

/// The columns that tell groups apart.
fn group_columns(groups: &[&Group]) -> Vec<GroupColumn> {
    let all: [GroupColumn; 4] = [
        ("corpus", |group| group.corpus.clone()),
        ("model", |group| group.model.clone()),
        ("training documents", |group| group.train_size.map_or_else(|| "all".to_owned(), |n| n.to_string())),
        ("longest text", |group| group.max_length.to_string()),
    ];
    let differs = |value: fn(&Group) -> String| {
        groups.iter().map(|group| value(group)).collect::<BTreeSet<_>>().len() > 1
    };
    all.into_iter().filter(|(_, value)| differs(*value)).collect()
}

#[cfg(test)]
mod tests {
    use crate::compare::Resampling;
    use crate::results::Control;
    use crate::study::Study;
    use crate::tests::{cell, human, measured, study};

    pub(super) const RESAMPLING: Resampling = Resampling { resamples: 300, level: 0.95, seed: 1 };

    /// MLE with two seeds, a control and an objective, on the development texts.
    pub(super) fn small() -> Study {
        // Enough prompts for a sign-flip test to reject.
        let prompts = |value: f64| {
            [value - 0.125, value, value + 0.125, value].repeat(4).into_iter().map(Some).collect::<Vec<_>>()
        };
        let with = |objective: &str, control, seed, mauve, diversity| {
            let mut system = cell(objective, control, seed);
            system.valid = Some(measured(mauve, &prompts(diversity)));
            system
        };
        let mut study = study(vec![
            with("mle", None, 1, 0.5, 0.75),
            with("mle", None, 2, 0.75, 0.75),
            with("mle", Some((Control::TopP, 0.9)), 1, 0.75, 0.5),
            with("mixce:eta=0.1", None, 1, 0.75, 0.625),
            with("mixce:eta=0.1", None, 2, 1.0, 0.625),
        ]);
        study.humans.push(human(&prompts(0.6875)));
        study
    }
}
