//! Lengths of continuations, human and sampled.

use super::histogram::densities;
use crate::arm::Arm;
use crate::chart::Chart;
use crate::compare::{Resampling, Scene};
use crate::error::Result;
use crate::findings::final_split;
use crate::input::{Texts, read_texts};
use crate::names::Names;
use crate::results::Group;
use crate::study::Study;
use crate::tables::split_title;

/// A chart for each group: human texts, MLE, its controls and the objectives in focus, each the sampling runs of its first seed.
pub(super) fn charts(study: &Study, names: &mut Names) -> Result<Vec<Chart>> {
    let mut charts = Vec::new();
    for group in study.groups() {
        charts.extend(chart(study, group)?.map(|chart| Chart { id: names.unique(&chart.id), ..chart }));
    }
    Ok(charts)
}

fn chart(study: &Study, group: &Group) -> Result<Option<Chart>> {
    let arms = Arm::of_group(study, group);
    let split = final_split(&arms);
    let mut sets = Vec::new();
    if let Some(human) = study.human(group, split)
        && let Some(texts) = read_texts(&human.file)?
    {
        sets.push(("human".to_owned(), words(&texts)));
    }
    for arm in shown(study, group, &arms) {
        let Some(measured) = arm.measured(split).next() else { continue };
        let mut lengths = Vec::new();
        for file in measured.sample_files() {
            lengths.extend(words(&read_texts(&file)?.unwrap_or_default()));
        }
        sets.push((arm.label(), lengths));
    }
    let title =
        format!("{}: lengths of continuations, {} texts", Names::group_title(group), split_title(split));
    let chart = densities(title, "words of a continuation", "word", &sets, 1);
    Ok(chart.map(|chart| Chart { id: format!("lengths-{}", Names::of_group(group)), ..chart }))
}

/// MLE, its controls, and the objectives in focus.
pub(crate) fn shown<'a>(study: &'a Study, group: &'a Group, arms: &'a [Arm<'a>]) -> Vec<&'a Arm<'a>> {
    let split = final_split(arms);
    // Only the choice of arms is needed, no test.
    let resampling = Resampling { resamples: 0, level: 0.95, seed: 0 };
    let mut shown: Vec<&Arm<'_>> = arms.iter().filter(|arm| arm.objective == "mle").collect();
    shown.extend(Scene { study, group, split, resampling: &resampling }.focus(arms));
    shown
}

fn words(texts: &Texts) -> Vec<f64> {
    texts.iter().map(|text| text.text.split_whitespace().count() as f64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{cell, human, measured, study};

    #[test]
    fn words_are_counted_in_the_files_of_the_first_seed() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, texts: &[&str]| {
            let rows: String = texts.iter().map(|text| format!("{{\"text\":\"{text}\"}}\n")).collect();
            std::fs::write(folder.path().join(name), rows).unwrap();
        };
        write("human.jsonl", &["a b c", "a b c d e"]);
        write("samples-0.jsonl", &["a", "a b"]);
        write("samples-1.jsonl", &["a  b c"]);
        let mut study = study(vec![cell("mle", None, 1)]);
        study.systems[0].valid =
            Some(crate::study::Measured { folder: folder.path().to_owned(), ..measured(0.5, &[Some(0.5)]) });
        let mut texts = human(&[Some(0.5)]);
        texts.file = folder.path().join("human.jsonl");
        study.humans.push(texts);
        let found = charts(&study, &mut Names::default()).unwrap();
        assert_eq!(found.len(), 1);
        assert!(found[0].description.contains("human: 2 values, mean 4.0"), "{}", found[0].description);
        assert!(found[0].description.contains("MLE: 3 values, mean 2.0"), "{}", found[0].description);
    }
}
