//! The tables of a report.

use std::collections::BTreeSet;

use mixce_eval::metric::Best;

use crate::arm::{Arm, Over, label_of};
use crate::compare::{Comparison, Evidence, Resampling, Scene, Verdict, badness};
use crate::metric::Metric;
use crate::names::{Names, percent, signed};
use crate::results::{Group, Scores, Split, Status};
use crate::study::{Study, System};
use crate::table::{Cell, Column, Mark, Row, Table};

/// Both parts of a corpus, the final one first.
pub(crate) const SPLITS: [Split; 2] = [Split::Test, Split::Valid];

/// What the parts of a corpus are called.
pub(crate) fn split_title(split: Split) -> &'static str {
    match split {
        Split::Valid => "development",
        Split::Test => "test",
    }
}

/// The paper's table for each corpus and split: perplexity, diversity, MAUVE and coherence beside the human texts.
pub(crate) fn results(study: &Study, resampling: &Resampling, names: &mut Names) -> Vec<Table> {
    let groups = study.groups();
    let mut corpora: Vec<&str> = groups.iter().map(|group| group.corpus.as_str()).collect();
    corpora.dedup();
    let mut tables = Vec::new();
    for corpus in corpora {
        let groups: Vec<&Group> = groups.iter().copied().filter(|group| group.corpus == corpus).collect();
        for split in SPLITS {
            tables.extend(of_corpus(study, &groups, split, resampling, names));
        }
    }
    tables
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

fn of_corpus(
    study: &Study,
    groups: &[&Group],
    split: Split,
    resampling: &Resampling,
    names: &mut Names,
) -> Option<Table> {
    let arms: Vec<(&Group, Vec<Arm<'_>>)> =
        groups.iter().map(|group| (*group, Arm::of_group(study, group))).collect();
    let has_value = |metric: &Metric| {
        arms.iter().any(|(_, arms)| arms.iter().any(|arm| arm.estimate(metric, split).is_some()))
    };
    let metrics: Vec<Metric> = Metric::headline().into_iter().filter(has_value).collect();
    if metrics.is_empty() {
        return None;
    }
    let of_group = group_columns(groups);
    let mut columns = vec![Column::text("system")];
    columns.extend(of_group.iter().map(|(name, _)| Column::text(name)));
    columns.extend(metrics.iter().map(|metric| Column::number(&metric.title)));
    columns.push(Column::number("seeds"));
    let mut rows = Vec::new();
    let mut overs = BTreeSet::new();
    let mut given = Vec::new();
    for (group, arms) in &arms {
        let scene = Scene { study, group, split, resampling };
        let group_cells: Vec<Cell> = of_group.iter().map(|(_, value)| Cell::text(value(group))).collect();
        let human = metrics.iter().map(|metric| {
            scene.human(metric).map_or_else(Cell::empty, |v| Cell::number(v, None, metric.decimals))
        });
        let human: Vec<Cell> = group_cells.iter().cloned().chain(human).chain([Cell::empty()]).collect();
        if study.human(group, split).is_some() {
            rows.push(Row { name: "Human".to_owned(), cells: human });
        }
        let arms: Vec<&Arm<'_>> = arms.iter().filter(|arm| arm.measured(split).next().is_some()).collect();
        let marks: Vec<Vec<Option<Mark>>> =
            metrics.iter().map(|metric| marks(&scene, &arms, metric)).collect();
        for (index, arm) in arms.iter().enumerate() {
            let mut cells = group_cells.clone();
            for (metric, marks) in metrics.iter().zip(&marks) {
                let Some(estimate) = arm.estimate(metric, split) else {
                    cells.push(Cell::empty());
                    continue;
                };
                let spread = estimate.spread();
                overs.extend(spread.map(|(_, over)| over));
                given.extend(marks[index]);
                let cell = Cell::number(estimate.mean(), spread.map(|(std, _)| std), metric.decimals);
                cells.push(Cell { mark: marks[index], ..cell });
            }
            cells.push(Cell::number(arm.measured(split).count() as f64, None, 0));
            rows.push(Row { name: arm.label(), cells });
        }
    }
    let corpus = &groups.first()?.corpus;
    Some(Table {
        id: names.unique(&format!("results-{}-{corpus}", split.name())),
        caption: format!("{corpus}: results on the {} texts", split_title(split)),
        columns,
        rows,
        notes: notes(&metrics, &overs, &given, resampling.level),
    })
}

fn notes(metrics: &[Metric], overs: &BTreeSet<Over>, given: &[Mark], level: f64) -> Vec<String> {
    let over = |over: &Over| match over {
        Over::Seeds => "training runs with different seeds",
        Over::Samplings => "sampling runs of the only seed",
    };
    let mut notes = Vec::new();
    let overs: Vec<&str> = overs.iter().map(over).collect();
    if !overs.is_empty() {
        notes.push(format!("Means \u{b1} standard deviation over {}.", overs.join(", or over ")));
    }
    let of = |best: Best| {
        metrics.iter().filter(|metric| metric.best == best).map(|m| m.title.as_str()).collect::<Vec<_>>()
    };
    let goals = [
        ("closest to human", of(Best::AsHuman)),
        ("highest", of(Best::Highest)),
        ("lowest", of(Best::Lowest)),
    ];
    let goals = goals.into_iter().filter(|(_, of)| !of.is_empty());
    let goals: Vec<String> = goals.map(|(goal, of)| format!("{goal} {}", of.join(" and "))).collect();
    if given.contains(&Mark::Best) {
        notes.push(format!("Bold: {}.", goals.join(", ")));
    }
    if given.contains(&Mark::Tied) {
        let level = percent(level);
        notes.push(format!("In italics (underlined in LaTeX): not told from the best by its {level} interval, over prompts where they were scored one by one, else over seeds."));
    }
    notes
}

/// The best arm of a metric, and those that cannot be told from it.
fn marks(scene: &Scene<'_>, arms: &[&Arm<'_>], metric: &Metric) -> Vec<Option<Mark>> {
    let human = scene.human(metric);
    let badness_of = |arm: &&Arm<'_>| {
        arm.estimate(metric, scene.split).map(|found| badness(metric.best, found.mean(), human))
    };
    let found: Vec<Option<f64>> = arms.iter().map(badness_of).collect();
    let present = found.iter().copied().flatten();
    let Some(least) =
        present.clone().min_by(f64::total_cmp).filter(|least| least.is_finite() && present.count() > 1)
    else {
        return vec![None; arms.len()];
    };
    let Some(best) = found.iter().position(|value| *value == Some(least)) else {
        return vec![None; arms.len()];
    };
    let mark = |(index, value): (usize, &Option<f64>)| match value {
        None => None,
        Some(value) if *value == least => Some(Mark::Best),
        Some(_) => {
            let evidence = scene.evidence(arms[best], arms[index], metric);
            let verdict =
                evidence.verdict(metric.best, evidence.p_value().unwrap_or(0.0), scene.resampling.level);
            (verdict == Verdict::Tie).then_some(Mark::Tied)
        }
    };
    found.iter().enumerate().map(mark).collect()
}

/// Every other metric: a row for each, a column for each system.
pub(crate) fn further(study: &Study, names: &mut Names) -> Vec<Table> {
    let mut tables = Vec::new();
    for group in study.groups() {
        let arms = Arm::of_group(study, group);
        for split in SPLITS {
            let human = study.human(group, split).map(|human| &human.scores);
            let all: Vec<&Scores> = arms
                .iter()
                .flat_map(|arm| arm.measured(split))
                .flat_map(|found| &found.scores)
                .chain(human)
                .collect();
            let metrics = Metric::further(all.into_iter());
            let arms: Vec<&Arm<'_>> =
                arms.iter().filter(|arm| arm.measured(split).next().is_some()).collect();
            if metrics.is_empty() || arms.is_empty() {
                continue;
            }
            let mut columns = vec![Column::text("metric"), Column::number("Human")];
            columns.extend(arms.iter().map(|arm| Column::number(&arm.label())));
            let row = |metric: &Metric| {
                let human = human
                    .and_then(|scores| metric.value(scores))
                    .map(|value| Cell::number(value, None, metric.decimals));
                let of_arm = |arm: &&Arm<'_>| {
                    let found = arm.estimate(metric, split);
                    found.map_or_else(Cell::empty, |found| {
                        Cell::number(found.mean(), found.spread().map(|(std, _)| std), metric.decimals)
                    })
                };
                let cells = std::iter::once(human.unwrap_or_else(Cell::empty))
                    .chain(arms.iter().map(of_arm))
                    .collect();
                Row { name: metric.title.clone(), cells }
            };
            tables.push(Table {
                id: names.unique(&format!("further-{}-{}", split.name(), Names::of_group(group))),
                caption: format!(
                    "{}: further metrics on the {} texts",
                    Names::group_title(group),
                    split_title(split)
                ),
                columns,
                rows: metrics.iter().map(row).collect(),
                notes: vec!["Means \u{b1} standard deviation, as in the table of results.".to_owned()],
            });
        }
    }
    tables
}

/// Every comparison with its evidence.
pub(crate) fn comparisons(
    study: &Study,
    all: &[Comparison],
    resampling: &Resampling,
    names: &mut Names,
) -> Option<Table> {
    if all.is_empty() {
        return None;
    }
    let of_group = group_columns(&study.groups());
    let interval = format!("{} interval", percent(resampling.level));
    let mut columns = vec![Column::text("comparison")];
    columns.extend(of_group.iter().map(|(name, _)| Column::text(name)));
    columns.extend(["texts", "metric"].map(Column::text));
    columns.extend(["difference", &interval, "p", "p adjusted"].map(Column::number));
    columns.extend(["tested over", "result"].map(Column::text));
    let rows = all.iter().map(|comparison| {
        let mut cells: Vec<Cell> =
            of_group.iter().map(|(_, value)| Cell::text(value(&comparison.group))).collect();
        cells.extend([split_title(comparison.split), tested_metric(comparison)].map(Cell::text));
        cells.extend(numbers(comparison));
        Row { name: format!("{} \u{2212} {}", comparison.first, comparison.second), cells }
    });
    Some(Table {
        id: names.unique("comparisons"),
        caption: "Differences and their uncertainty".to_owned(),
        columns,
        rows: rows.collect(),
        notes: vec![
            format!("Over prompts: paired bootstrap interval and sign-flip test with {} resamples of the same prompts, given these trained models. Over seeds: Welch's t interval and test, which take the seeds' values as normal.", resampling.resamples),
            "MAUVE compares two sets of texts and is no mean over prompts, so no test over prompts applies to it: its uncertainty is its spread over seeds and sampling runs.".to_owned(),
            "p adjusted: Holm's correction for all tests of the same group and texts. A result other than a tie needs an interval without 0 and an adjusted p below one minus the level; where the goal is the human value, the interval of the difference of the distances to it.".to_owned(),
        ],
    })
}

fn tested_metric(comparison: &Comparison) -> &str {
    match (&comparison.evidence, comparison.metric.key.as_str()) {
        (Evidence::Prompts { .. }, "perplexity") => "nll of a document (nats)",
        _ => &comparison.metric.title,
    }
}

/// Difference, interval, p, adjusted p, what it was tested over, and the result.
fn numbers(comparison: &Comparison) -> Vec<Cell> {
    let decimals = comparison.metric.decimals.max(3) + 1;
    let of_means = comparison.means[0] - comparison.means[1];
    let p = |value: Option<f64>| value.map_or_else(Cell::empty, |value| Cell::number(value, None, 4));
    let (difference, interval) = match comparison.evidence.interval() {
        Some((difference, interval)) => {
            let text = format!("[{}, {}]", signed(interval.low, decimals), signed(interval.high, decimals));
            (difference, Cell::text(text))
        }
        None => (of_means, Cell::empty()),
    };
    let over = match &comparison.evidence {
        Evidence::Prompts { test, .. } => format!("{} prompts", test.pairs),
        Evidence::Seeds { seeds: [a, b], .. } if comparison.metric.best == Best::AsHuman => {
            format!("{a} and {b} seeds: distances to human")
        }
        Evidence::Seeds { seeds: [a, b], .. } => format!("{a} and {b} seeds"),
        Evidence::None { seeds: [a, b] } => format!("not tested ({a} and {b} seeds)"),
    };
    let better = match comparison.metric.best {
        Best::AsHuman => "closer to human",
        Best::Highest => "higher",
        Best::Lowest => "lower",
    };
    let result = match comparison.verdict {
        Verdict::First => format!("{} is {better}", comparison.first),
        Verdict::Second => format!("{} is {better}", comparison.second),
        Verdict::Tie => "tie".to_owned(),
        Verdict::Untested => "unknown".to_owned(),
    };
    vec![
        Cell::number(difference, None, decimals),
        interval,
        p(comparison.evidence.p_value()),
        p(comparison.adjusted_p),
        Cell::text(over),
        Cell::text(result),
    ]
}

/// Every cell with every number of the tables, one row for each sampling run.
pub(crate) fn cells(study: &Study, names: &mut Names) -> Table {
    let metrics = Metric::headline();
    let words = [
        "system",
        "corpus",
        "model",
        "training documents",
        "longest text",
        "objective",
        "seed",
        "decoding",
        "state",
        "texts",
        "sampling run",
    ];
    let mut columns: Vec<Column> = words.iter().map(|name| Column::text(name)).collect();
    columns.extend(metrics.iter().map(|metric| Column::number(&metric.title)));
    let mut rows = Vec::new();
    for system in &study.systems {
        let before = rows.len();
        for split in SPLITS {
            let Some(measured) = system.measured(split) else { continue };
            for run in 0..measured.scores.len().max(1) {
                let value = |metric: &Metric| match metric.key.as_str() {
                    "perplexity" => measured.perplexity,
                    _ => measured.scores.get(run).and_then(|scores| metric.value(scores)),
                };
                let run = if measured.scores.is_empty() { String::new() } else { run.to_string() };
                let numbers = metrics.iter().map(|metric| {
                    value(metric).map_or_else(Cell::empty, |v| Cell::number(v, None, metric.decimals))
                });
                let cells = cell_words(system)
                    .into_iter()
                    .chain([split_title(split).to_owned(), run])
                    .map(Cell::text)
                    .chain(numbers);
                rows.push(Row { name: system.id.clone(), cells: cells.collect() });
            }
        }
        if rows.len() == before {
            let empty = columns.len() - 1 - cell_words(system).len();
            let cells = cell_words(system).into_iter().map(Cell::text).chain(vec![Cell::empty(); empty]);
            rows.push(Row { name: system.id.clone(), cells: cells.collect() });
        }
    }
    Table {
        id: names.unique("cells"),
        caption: "Every system and sampling run".to_owned(),
        columns,
        rows,
        notes: Vec::new(),
    }
}

fn cell_words(system: &System) -> Vec<String> {
    let Group { corpus, model, train_size, max_length } = &system.group;
    let decoding = match &system.decoding {
        Some(decoding) => format!("temperature {}, top-p {}", decoding.temperature, decoding.top_p),
        None => String::new(),
    };
    let state = match (system.status, &system.error) {
        (Status::Done, _) => "done".to_owned(),
        (Status::Waiting, _) => "waiting".to_owned(),
        (Status::Failed, None) => "failed".to_owned(),
        (Status::Failed, Some(error)) => format!("failed: {error}"),
    };
    vec![
        corpus.clone(),
        model.clone(),
        train_size.map_or_else(|| "all".to_owned(), |n| n.to_string()),
        max_length.to_string(),
        label_of(&system.objective),
        system.seed.to_string(),
        decoding,
        state,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::Control;
    use crate::tests::{cell, human, measured, study};

    const RESAMPLING: Resampling = Resampling { resamples: 300, level: 0.95, seed: 1 };

    fn small() -> Study {
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

    #[test]
    fn the_paper_s_table_has_a_human_row_and_marks_the_best_and_its_ties() {
        let found = results(&small(), &RESAMPLING, &mut Names::default());
        assert_eq!(found.len(), 1);
        let table = &found[0];
        assert_eq!(
            (table.id.as_str(), table.caption.as_str()),
            ("results-valid-wiki", "wiki: results on the development texts")
        );
        assert_eq!(
            table.markdown(),
            "**wiki: results on the development texts**\n\n\
             | system | perplexity | diversity | MAUVE | seeds |\n\
             | --- | ---: | ---: | ---: | ---: |\n\
             | Human |  | 0.688 |  |  |\n\
             | MLE | **20.00 \u{b1} 0.00** | **0.750 \u{b1} 0.000** | *0.625 \u{b1} 0.177* | 2 |\n\
             | MLE, top-p 0.9 | **20.00** | 0.500 | 0.750 | 1 |\n\
             | MixCE (eta = 0.1) | **20.00 \u{b1} 0.00** | **0.625 \u{b1} 0.000** | **0.875 \u{b1} 0.177** | 2 |\n\
             \nMeans \u{b1} standard deviation over training runs with different seeds.\n\
             \nBold: closest to human diversity, highest MAUVE, lowest perplexity.\n\
             \nIn italics (underlined in LaTeX): not told from the best by its 95 % interval, over prompts where they were scored one by one, else over seeds.\n"
        );
    }

    #[test]
    fn every_sampling_run_is_listed_and_states_are_told() {
        let mut study = small();
        study.systems[0]
            .valid
            .as_mut()
            .unwrap()
            .scores
            .push(crate::tests::scores(serde_json::json!({"diversity": 0.25})));
        study.systems[1].valid = None;
        study.systems[1].status = Status::Failed;
        study.systems[1].error = Some("out of memory".into());
        let table = cells(&study, &mut Names::default());
        assert_eq!(table.rows.len(), 6);
        let texts = |row: usize| table.rows[row].cells.iter().map(Cell::shown).collect::<Vec<_>>();
        assert_eq!(texts(1)[7..], ["done", "development", "1", "20.00", "0.250", "", ""]);
        assert_eq!(
            texts(2)[4..],
            ["MLE", "2", "temperature 1, top-p 1", "failed: out of memory", "", "", "", "", "", ""]
        );
        assert!(table.rows.iter().all(|row| row.cells.len() + 1 == table.columns.len()));
    }

    #[test]
    fn comparisons_say_what_they_rest_on() {
        let study = small();
        let group = study.groups()[0].clone();
        let arms = Arm::of_group(&study, &group);
        let all = Scene { study: &study, group: &group, split: Split::Valid, resampling: &RESAMPLING }
            .compare(&arms);
        let table = comparisons(&study, &all, &RESAMPLING, &mut Names::default()).unwrap();
        let row = &table.rows[1];
        assert_eq!(row.name, "MixCE (eta = 0.1) \u{2212} MLE");
        let texts: Vec<String> = row.cells.iter().map(Cell::shown).collect();
        assert_eq!(
            texts[..4],
            ["development", "diversity", "\u{2212}0.1250", "[\u{2212}0.1250, \u{2212}0.1250]"]
        );
        assert_eq!(texts[6..], ["16 prompts", "tie"]);
        assert_eq!(table.rows[2].cells[6].shown(), "2 and 2 seeds");
        assert_eq!(table.rows[4].cells[6].shown(), "not tested (2 and 1 seeds)");
        assert!(table.rows.iter().all(|row| row.cells.len() + 1 == table.columns.len()));
    }

    #[test]
    fn further_metrics_are_rows() {
        let mut study = small();
        study.systems[0].valid.as_mut().unwrap().scores[0] =
            crate::tests::scores(serde_json::json!({"diversity": 0.5, "zipf": 1.25}));
        let tables = further(&study, &mut Names::default());
        assert_eq!(tables.len(), 1);
        let row = &tables[0].rows[0];
        assert_eq!(
            (row.name.as_str(), row.cells[1].shown().as_str(), row.cells[2].shown().as_str()),
            ("zipf", "1.250", "")
        );
    }
}
