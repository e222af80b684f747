//! The folder of one training run.
//!
//! Beside what `mixce train` writes it may hold `valid/` and `test/` with the files that a cell of a sweep has there: `evaluate.json`, `score.json`,
//! `samples-N.jsonl`, `human.jsonl`, `documents.json`, `per-token.jsonl`, `per-token-samples.jsonl`.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::read::{read_json, read_text};
use super::{Curve, Stage, total_steps};
use crate::documents::{self, Documents};
use crate::error::{Error, Result};
use crate::results::{Decoding, Group, Scores, Split, Status};
use crate::study::{HumanTexts, Measured, Source, Study, System};

/// The settings, which make a folder one of a run.
pub(super) const SETTINGS: &str = "run.toml";

/// The settings of the run that its place in the tables depends on.
#[derive(Deserialize)]
struct Settings {
    model: Option<String>,
    from_config: Option<String>,
    #[serde(default)]
    train: Value,
    #[serde(default = "default_max_length")]
    max_length: u64,
    /// Tokens of a block of concatenated documents; 0 for documents one by one.
    #[serde(default)]
    block_size: u64,
    #[serde(default = "default_seed")]
    seed: u64,
    #[serde(default)]
    provenance: Map<String, Value>,
}

/// The default of `mixce train`, which its `run.toml` gives explicitly.
fn default_max_length() -> u64 {
    512
}

/// The default of `mixce train`.
fn default_seed() -> u64 {
    42
}

/// What a run that is not finished has come to, in words.
fn unfinished(folder: &Path, last: Option<u64>, total: Option<u64>) -> Option<String> {
    let of = total.map_or_else(String::new, |total| format!(" of {total}"));
    match (Stage::of(folder, last, total), last) {
        (Stage::Finished, _) => None,
        (Stage::Failed { step }, _) => Some(format!("loss or gradient not finite at step {step}{of}")),
        (Stage::Unfinished, Some(last)) => Some(format!("step {last}{of}")),
        (Stage::Unfinished, None) => Some("no step yet".to_owned()),
    }
}

/// Parameters of an objective that have a key of their own.
const PARAMETERS: [&str; 4] = ["eta", "gamma", "min_weight", "alpha"];

#[derive(Deserialize)]
struct Evaluated {
    perplexity: f64,
}

/// The part of `score --json` that is needed.
#[derive(Deserialize)]
struct Scored {
    human: Option<Scores>,
    systems: Vec<Scores>,
}

/// Adds a training run, unless it was added before.
pub(super) fn add(study: &mut Study, folder: &Path) -> Result<()> {
    let real = |folder: &Path| {
        folder.canonicalize().map_err(|source| Error::Read { path: folder.to_owned(), source })
    };
    for known in &study.sources {
        if real(&known.folder)? == real(folder)? {
            return Ok(());
        }
    }
    let path = folder.join(SETTINGS);
    let malformed = |problem: String| Error::Malformed { path: path.clone(), line: None, problem };
    let text = read_text(&path)?.unwrap_or_default();
    let mut values: Value = toml::from_str(&text).map_err(|error| malformed(error.to_string()))?;
    let settings = Settings::deserialize(&values).map_err(|error| malformed(error.to_string()))?;
    let objective = objective_of(&values).ok_or_else(|| {
        malformed("`objective` is no objective, expected `NAME` or a table with `name`".to_owned())
    })?;
    let group = Group {
        corpus: names(&settings.train),
        model: settings.model.or(settings.from_config).unwrap_or_else(|| "(unnamed model)".to_owned()),
        train_size: None,
        max_length: if settings.block_size > 0 { settings.block_size } else { settings.max_length },
    };
    let curve = Curve::read(&folder.join("metrics.jsonl"))?;
    let mut valid = measured(study, &group, folder, Split::Valid)?;
    if valid.as_ref().is_none_or(|valid| valid.perplexity.is_none())
        && let Some((_, _, perplexity)) = curve.best
    {
        valid
            .get_or_insert_with(|| Measured { folder: folder.join("valid"), ..Measured::default() })
            .perplexity = Some(perplexity);
    }
    let test = measured(study, &group, folder, Split::Test)?;
    let unfinished = unfinished(folder, curve.last_step(), total_steps(folder, &values));
    study.systems.push(System {
        id: folder.display().to_string(),
        group,
        objective,
        control: None,
        decoding: Some(Decoding::UNBIASED),
        variant: None,
        seed: settings.seed,
        status: Status::Done,
        error: None,
        unfinished,
        folder: folder.to_owned(),
        valid,
        test,
        curve,
    });
    if let Some(values) = values.as_object_mut() {
        values.remove("provenance");
    }
    let word = |(name, value): (String, Value)| {
        Some((name, value.as_str().map_or_else(|| value.to_string(), str::to_owned)))
    };
    let mut versions: BTreeMap<String, String> = settings.provenance.into_iter().filter_map(word).collect();
    if let Some(version) = versions.remove("version") {
        versions.insert("mixce".to_owned(), version);
    }
    study.sources.push(Source {
        folder: folder.to_owned(),
        kind: "run",
        versions,
        settings: values,
        seconds: None,
    });
    Ok(())
}

/// The objective of a run's settings (`run.toml` as JSON) as `NAME:parameter=value,..`, whether its parameters are in its name, in a table or keys
/// of their own. `None` if it is something else.
#[must_use]
pub fn objective_of(settings: &Value) -> Option<String> {
    let (name, mut parameters) = match settings.get("objective").unwrap_or(&Value::Null) {
        Value::Null => ("mixce".to_owned(), Vec::new()),
        Value::String(text) => match text.split_once(':') {
            Some((name, parameters)) => (name.to_owned(), parameters.split(',').map(str::to_owned).collect()),
            None => (text.clone(), Vec::new()),
        },
        Value::Object(table) => {
            let parameters = table.iter().filter(|(key, _)| *key != "name");
            (
                table.get("name")?.as_str()?.to_owned(),
                parameters.map(|(key, value)| format!("{key}={value}")).collect(),
            )
        }
        _ => return None,
    };
    for key in PARAMETERS {
        if let Some(value) = settings.get(key).and_then(Value::as_f64) {
            parameters.push(format!("{key}={value}"));
        }
    }
    Some(if parameters.is_empty() { name } else { format!("{name}:{}", parameters.join(",")) })
}

/// One or several file names.
fn names(files: &Value) -> String {
    match files {
        Value::String(file) => file.clone(),
        Value::Array(files) => files.iter().map(names).collect::<Vec<_>>().join(", "),
        _ => "(unnamed data)".to_owned(),
    }
}

/// The results on one part of the corpus that lie in the run folder, and the human texts beside them.
fn measured(study: &mut Study, group: &Group, run: &Path, split: Split) -> Result<Option<Measured>> {
    let folder = run.join(split.name());
    if !folder.is_dir() {
        return Ok(None);
    }
    let evaluated: Option<Evaluated> = read_json(&folder.join("evaluate.json"))?;
    let scored: Option<Scored> = read_json(&folder.join("score.json"))?;
    let documents = Documents::read(&folder.join(documents::FILE))?;
    let (human, scores) = scored.map_or((None, Vec::new()), |scored| (scored.human, scored.systems));
    let file = folder.join("human.jsonl");
    if human.is_some() || file.is_file() {
        study.add_human(HumanTexts {
            source: folder.clone(),
            corpus: group.corpus.clone(),
            model: group.model.clone(),
            max_length: group.max_length,
            split,
            scores: human.unwrap_or_default(),
            documents: Documents::read(&file.with_extension(documents::FILE))?,
            file,
        })?;
    }
    Ok(Some(Measured { folder, perplexity: evaluated.map(|found| found.perplexity), scores, documents }))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_objective_is_the_same_however_it_was_written() {
        for settings in [
            json!({"objective": "mixce", "eta": 0.1}),
            json!({"objective": "mixce:eta=0.1"}),
            json!({"objective": {"name": "mixce", "eta": 0.1}}),
        ] {
            assert_eq!(objective_of(&settings).as_deref(), Some("mixce:eta=0.1"));
        }
        assert_eq!(objective_of(&json!({"objective": "mle"})).as_deref(), Some("mle"));
        assert_eq!(objective_of(&json!({"objective": 3})), None);
    }

    #[test]
    fn a_run_folder_is_read_with_what_lies_in_it() {
        let root = tempfile::tempdir().unwrap();
        let run = root.path().join("first");
        std::fs::create_dir_all(run.join("test")).unwrap();
        let write = |name: &str, text: &str| std::fs::write(run.join(name), text).unwrap();
        write(
            "run.toml",
            "model = \"gpt2\"\ntrain = [\"a.txt\", \"b.txt\"]\nobjective = \"mixce\"\neta = 0.3\nseed = 7\nmax_length = 64\n[provenance]\nversion = \"0.1.0\"\nthreads = 2\n",
        );
        write(
            "metrics.jsonl",
            "{\"event\":\"evaluation\",\"step\":1,\"valid_nll\":1.0,\"valid_perplexity\":2.75,\"best\":true}\n",
        );
        write("test/evaluate.json", "{\"perplexity\":3.5,\"nll\":1.25}");
        write(
            "test/score.json",
            "{\"human\":{\"diversity\":0.9},\"systems\":[{\"name\":\"a\",\"diversity\":0.8}],\"comparisons\":[],\"settings\":{}}",
        );
        let study = Study::read(std::slice::from_ref(&run)).unwrap();
        let system = &study.systems[0];
        assert_eq!(
            (system.objective.as_str(), system.seed, system.group.max_length),
            ("mixce:eta=0.3", 7, 64)
        );
        assert_eq!(system.group.corpus, "a.txt, b.txt");
        let blocks = root.path().join("blocks");
        std::fs::create_dir(&blocks).unwrap();
        std::fs::write(blocks.join("run.toml"), "objective = \"mle\"\nmax_length = 512\nblock_size = 128\n")
            .unwrap();
        assert_eq!(Study::read(&[blocks]).unwrap().systems[0].group.max_length, 128);
        assert_eq!(system.valid.as_ref().unwrap().perplexity, Some(2.75));
        let test = system.test.as_ref().unwrap();
        assert_eq!((test.perplexity, test.scores[0].value("diversity")), (Some(3.5), Some(0.8)));
        assert_eq!(study.human(&system.group, Split::Test).unwrap().scores.value("diversity"), Some(0.9));
        assert_eq!(study.sources[0].versions["mixce"], "0.1.0");
        assert_eq!(study.sources[0].versions["threads"], "2");

        write("run.toml", "objective = 3\n");
        assert!(
            Study::read(std::slice::from_ref(&run))
                .unwrap_err()
                .to_string()
                .contains("run.toml`: `objective`")
        );
        write("run.toml", "objective = \n");
        assert!(Study::read(&[run]).unwrap_err().to_string().contains("run.toml`: TOML parse error"));
        let other = root.path().join("other");
        assert!(matches!(Study::read(std::slice::from_ref(&other)), Err(Error::Read { .. })));
        std::fs::create_dir(&other).unwrap();
        assert!(matches!(Study::read(&[other]), Err(Error::UnknownFolder { .. })));
    }
}
