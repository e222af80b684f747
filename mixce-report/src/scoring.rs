//! The settings that the results were computed with, beside those of training: they are in the files of each cell.

use serde::Deserialize;
use serde_json::Value;

use crate::error::Result;
use crate::input::read_json;
use crate::study::Study;
use crate::tables::SPLITS;

/// Settings that some files share.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Scoring {
    /// What was computed.
    pub(crate) what: String,
    /// The settings.
    pub(crate) settings: Value,
    /// How many files have them.
    pub(crate) files: usize,
}

/// The files with settings, and what they hold.
const FILES: [(&str, &str); 2] = [("evaluate.json", "Perplexity"), ("score.json", "Scores")];
/// Settings that may differ from file to file without making the results less comparable.
const OWN: [&str; 3] = ["device", "seed", "windows"];

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    settings: Value,
}

/// The distinct settings of all files, the most frequent first.
pub(crate) fn scoring(study: &Study) -> Result<Vec<Scoring>> {
    let mut all: Vec<Scoring> = Vec::new();
    for (name, what) in FILES {
        let mut found: Vec<Scoring> = Vec::new();
        for measured in
            study.systems.iter().flat_map(|system| SPLITS.map(|split| system.measured(split))).flatten()
        {
            let Some(File { mut settings }) = read_json(&measured.folder.join(name))? else { continue };
            if let Some(settings) = settings.as_object_mut() {
                OWN.iter().for_each(|key| drop(settings.remove(*key)));
            }
            match found.iter_mut().find(|known| known.settings == settings) {
                Some(known) => known.files += 1,
                None => found.push(Scoring { what: what.to_owned(), settings, files: 1 }),
            }
        }
        found.sort_by_key(|scoring| std::cmp::Reverse(scoring.files));
        all.extend(found);
    }
    Ok(all)
}

/// A sentence if scores were computed with different settings.
pub(crate) fn warning(all: &[Scoring]) -> Option<String> {
    let differ = |what: &str| all.iter().filter(|scoring| scoring.what == what).count() > 1;
    let differing: Vec<String> =
        FILES.iter().filter(|(_, what)| differ(what)).map(|(_, what)| what.to_lowercase()).collect();
    let what = crate::names::list(&differing);
    (!what.is_empty()).then(|| format!("Different systems have {what} computed with different settings (listed below): such numbers are not comparable."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::study::Measured;
    use crate::tests::{cell, measured, study};

    #[test]
    fn equal_settings_are_listed_once_and_different_ones_warned_of() {
        let root = tempfile::tempdir().unwrap();
        let mut study = study((1..=3).map(|seed| cell("mle", None, seed)).collect());
        for (index, system) in study.systems.iter_mut().enumerate() {
            let folder = root.path().join(index.to_string());
            std::fs::create_dir(&folder).unwrap();
            let unit = if index == 2 { "words" } else { "tokens" };
            let score = format!("{{\"systems\":[],\"settings\":{{\"unit\":\"{unit}\",\"seed\":{index}}}}}");
            std::fs::write(folder.join("score.json"), score).unwrap();
            system.valid = Some(Measured { folder, ..measured(0.5, &[Some(0.5)]) });
        }
        let found = scoring(&study).unwrap();
        assert_eq!(found.iter().map(|scoring| scoring.files).collect::<Vec<_>>(), [2, 1]);
        assert_eq!(found[0].settings, serde_json::json!({"unit": "tokens"}));
        assert!(warning(&found).unwrap().contains("have scores computed with different settings"));
        assert_eq!(warning(&found[..1]), None);
    }
}
