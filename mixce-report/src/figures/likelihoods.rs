//! Figure 2 of the paper: negative log-likelihoods of human texts and of a system's own samples under its model.

use super::histogram::densities;
use crate::arm::Arm;
use crate::chart::Chart;
use crate::error::Result;
use crate::input::Likelihoods;
use crate::names::Names;
use crate::study::{Study, System};
use crate::tables::SPLITS;

/// Likelihoods of human texts under a system's model, `mixce evaluate --per-token`.
const HUMAN: &str = "per-token.jsonl";
/// Likelihoods of the system's own samples.
const SAMPLES: &str = "per-token-samples.jsonl";

/// Name, axis and values of a chart.
type Level = (&'static str, &'static str, fn(&Likelihoods) -> &Vec<f64>);
const LEVELS: [Level; 2] = [
    ("texts", "mean nll of a text's tokens (nats)", |found| &found.texts),
    ("tokens", "nll of a token (nats)", |found| &found.tokens),
];

/// Two charts, of texts and of tokens, for the first seed of each arm whose files are there.
pub(super) fn charts(study: &Study, names: &mut Names) -> Result<Vec<Chart>> {
    let mut charts = Vec::new();
    for group in study.groups() {
        for arm in Arm::of_group(study, group) {
            for system in &arm.systems {
                let Some([human, samples]) = read(system)? else { continue };
                let title = format!("{}: {}, seed {}", Names::group_title(group), arm.label(), system.seed);
                for (level, label, of) in LEVELS {
                    let [human, samples] = [("human texts", &human), ("its samples", &samples)]
                        .map(|(name, found)| (name.to_owned(), of(found).clone()));
                    let title = format!("{title}: likelihood of {level}");
                    let id = names.unique(&format!("nll-{level}-{}-{}", Names::of_group(group), arm.label()));
                    let chart = densities(title, label, "nat", &[human, samples], 3);
                    charts.extend(chart.map(|chart| Chart { id, ..chart }));
                }
                break;
            }
        }
    }
    Ok(charts)
}

/// The likelihoods of human texts and samples, from the test or development folder or the run folder itself.
fn read(system: &System) -> Result<Option<[Likelihoods; 2]>> {
    let folders = SPLITS.map(|split| system.folder.join(split.name()));
    for folder in folders.iter().chain([&system.folder]) {
        let [human, samples] = [HUMAN, SAMPLES].map(|name| Likelihoods::read(&folder.join(name)));
        if let (Some(human), Some(samples)) = (human?, samples?) {
            return Ok(Some([human, samples]));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{cell, study};

    #[test]
    fn both_levels_are_drawn_where_both_files_are() {
        let folder = tempfile::tempdir().unwrap();
        let valid = folder.path().join("valid");
        std::fs::create_dir(&valid).unwrap();
        let mut study = study(vec![cell("mle", None, 1), cell("mixce:eta=0.1", None, 1)]);
        study.systems[0].folder = folder.path().to_owned();
        std::fs::write(valid.join(HUMAN), "{\"log_q\":[-1.0,-2.0,-9.0]}\n{\"log_q\":[-3.0,-9.0]}\n").unwrap();
        assert!(charts(&study, &mut Names::default()).unwrap().is_empty());
        std::fs::write(valid.join(SAMPLES), "{\"log_q\":[-1.0,-9.0]}\n").unwrap();
        let found = charts(&study, &mut Names::default()).unwrap();
        assert_eq!(found.len(), 2);
        assert!(
            found[0].description.contains("human texts: 2 values, mean 2.250"),
            "{}",
            found[0].description
        );
        assert!(
            found[1].description.contains("human texts: 3 values, mean 2.000"),
            "{}",
            found[1].description
        );
        std::fs::write(valid.join(SAMPLES), "{}\n").unwrap();
        assert!(
            charts(&study, &mut Names::default())
                .unwrap_err()
                .to_string()
                .contains("per-token-samples.jsonl`, line 1")
        );
    }
}
