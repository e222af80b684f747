//! The results of a sweep as text.

use mixce_report::results::{Cell, Chosen, Control, Evaluation, Results, Status};
use mixce_sweep::MLE;
use mixce_sweep::choice::Summary;

use super::Sweep;
use super::controls::DIVERSITY;
use super::group_in_words;
use crate::output::table;

/// A table for each group, and what was chosen in it.
pub(super) fn text(sweep: &Sweep<'_>, results: &Results) -> String {
    let mut parts = Vec::new();
    for group in &sweep.grid.groups {
        let cells: Vec<&Cell> = results.cells.iter().filter(|cell| cell.group == *group).collect();
        let chosen = results.chosen.iter().find(|chosen| chosen.group == *group);
        parts.push(format!(
            "{}\n{}{}",
            group_in_words(group),
            rows(&cells, &results.metric, chosen),
            sentence(chosen)
        ));
    }
    parts.push(format!("results  {}", sweep.out.join(mixce_report::results::FILE).display()));
    parts.join("\n")
}

/// A system: an objective, or a control.
fn system(cell: &Cell) -> String {
    match (cell.control, cell.decoding) {
        (Some(Control::TopP), Some(decoding)) => format!("{} top-p {}", cell.objective, decoding.top_p),
        (Some(Control::Temperature), Some(decoding)) => {
            format!("{} temperature {}", cell.objective, decoding.temperature)
        }
        (Some(kind), None) => format!("{} {}", cell.objective, kind.name()),
        (None, _) => cell.objective.clone(),
    }
}

fn rows(cells: &[&Cell], metric: &str, chosen: Option<&Chosen>) -> String {
    // The likelihood is that of the model, whatever the metric of the choice.
    let shown: Vec<&str> = std::iter::once(metric)
        .chain([DIVERSITY, "perplexity"].into_iter().filter(|key| *key != metric))
        .collect();
    let mut head = vec![String::new(), "system".to_owned(), "cells".to_owned()];
    head.extend(
        ["valid", "test"].iter().flat_map(|split| shown.iter().map(move |key| format!("{split} {key}"))),
    );
    let mut rows = vec![head];
    let mut systems: Vec<String> = Vec::new();
    for name in cells.iter().map(|cell| system(cell)) {
        if !systems.contains(&name) {
            systems.push(name);
        }
    }
    for name in systems {
        let of: Vec<&&Cell> = cells.iter().filter(|cell| system(cell) == name).collect();
        let is =
            |objective: &String| of.iter().all(|cell| cell.control.is_none() && cell.objective == *objective);
        let mark = match chosen {
            Some(chosen) if is(&chosen.objective) => "*",
            Some(chosen) if chosen.ties.iter().any(is) => "=",
            _ => "",
        };
        let done = of.iter().filter(|cell| cell.status == Status::Done).count();
        let mut row = vec![mark.to_owned(), name.clone(), format!("{done}/{}", of.len())];
        for of_split in [|cell: &Cell| cell.valid.clone(), |cell: &Cell| cell.test.clone()] {
            let found: Vec<Evaluation> = of.iter().filter_map(|cell| of_split(cell)).collect();
            row.extend(shown.iter().map(|key| summary(&found, key)));
        }
        rows.push(row);
    }
    table(&rows, &[false, false, true, true, true, true, true, true, true])
}

/// Mean and standard deviation over seeds.
fn summary(evaluations: &[Evaluation], key: &str) -> String {
    let values = |evaluation: &Evaluation| match key {
        "perplexity" => vec![evaluation.perplexity],
        "nll" => vec![evaluation.nll],
        _ => evaluation.scores.iter().filter_map(|scores| scores.value(key)).collect(),
    };
    match Summary::of(&evaluations.iter().map(values).collect::<Vec<_>>()) {
        None => "-".to_owned(),
        Some(Summary { mean, std: None, .. }) => format!("{mean:.4}"),
        Some(Summary { mean, std: Some(std), .. }) => format!("{mean:.4} ± {std:.4}"),
    }
}

/// What was chosen, in a sentence.
fn sentence(chosen: Option<&Chosen>) -> String {
    let Some(Chosen { metric, objective, mean, std, n, ties, .. }) = chosen else {
        return "nothing is chosen yet: cells are missing\n".to_owned();
    };
    let spread = std.map_or_else(
        || "one value, no spread".to_owned(),
        |std| format!("standard deviation {std:.4} of {n} values"),
    );
    let mut text = format!("* chosen by development {metric}: {objective} ({mean:.4}, {spread})\n");
    match ties.as_slice() {
        [] if std.is_none() => text += "  ties cannot be told without a spread: add seeds\n",
        [] => text += "  no other objective is within the standard error of the difference\n",
        ties => {
            text += &format!("= within the standard error of the difference, a tie: {}\n", ties.join(", "))
        }
    }
    if objective == MLE {
        text += "  maximum likelihood is the best objective here\n";
    }
    text
}

#[cfg(test)]
mod tests {
    use mixce_report::results::Group;

    use super::*;

    fn chosen(objective: &str, std: Option<f64>, ties: &[&str]) -> Chosen {
        let group =
            Group { corpus: "wiki".to_owned(), model: "gpt2".to_owned(), train_size: None, max_length: 64 };
        let ties = ties.iter().map(|name| (*name).to_owned()).collect();
        Chosen {
            group,
            metric: "mauve".to_owned(),
            objective: objective.to_owned(),
            mean: 0.9,
            std,
            n: 3,
            ties,
        }
    }

    #[test]
    fn the_choice_is_told_with_its_ties() {
        let told = sentence(Some(&chosen("mixce:eta=0.1", Some(0.01), &["mixce:eta=0.3"])));
        assert!(
            told.contains(
                "* chosen by development mauve: mixce:eta=0.1 (0.9000, standard deviation 0.0100 of 3 values)"
            ),
            "{told}"
        );
        assert!(told.contains("a tie: mixce:eta=0.3"), "{told}");
        let told = sentence(Some(&chosen("mle", Some(0.01), &[])));
        assert!(
            told.contains("no other objective is within") && told.contains("maximum likelihood is the best"),
            "{told}"
        );
        assert!(sentence(Some(&chosen("mle", None, &[]))).contains("add seeds"));
        assert!(sentence(None).contains("cells are missing"));
    }

    #[test]
    fn values_are_means_over_seeds_of_means_over_runs() {
        let of = |a: f64, b: f64| -> Evaluation {
            let text =
                format!(r#"{{"perplexity":{a},"nll":1.0,"scores":[{{"mauve":{a}}},{{"mauve":{b}}}]}}"#);
            serde_json::from_str(&text).unwrap()
        };
        assert_eq!(summary(&[of(1.0, 3.0), of(4.0, 4.0)], "mauve"), "3.0000 ± 1.4142");
        assert_eq!(summary(&[of(1.0, 3.0)], "perplexity"), "1.0000");
        assert_eq!(summary(&[of(1.0, 3.0)], "zipf"), "-");
    }
}
