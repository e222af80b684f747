//! The command lines of a cell's steps.

use std::path::{Path, PathBuf};

use mixce_report::results::{Decoding, Split};
use serde::Serialize;

use super::inputs::{self, Data, Part};
use super::steps::Work;

/// How samples are drawn: flags of `generate` and their number of runs.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Sampling {
    pub(super) temperatures: Vec<f64>,
    pub(super) top_ps: Vec<f64>,
    pub(super) runs: u64,
}

impl Sampling {
    pub(super) fn of(decoding: Decoding, runs: u64) -> Self {
        Self { temperatures: vec![decoding.temperature], top_ps: vec![decoding.top_p], runs }
    }
}

pub(super) fn part_of(split: Split) -> Part {
    match split {
        Split::Valid => Part::Valid,
        Split::Test => Part::Test,
    }
}

/// Words of a command line.
pub(super) fn words(line: &[&str]) -> Vec<String> {
    line.iter().map(|word| (*word).to_owned()).collect()
}

pub(super) fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// A table's keys as flags: `true` is a flag without a value, lists have commas.
fn flags(table: &toml::Table) -> Vec<String> {
    let text = |value: &toml::Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let mut words = Vec::new();
    for (key, value) in table {
        let flag = format!("--{}", key.replace('_', "-"));
        match value {
            toml::Value::Boolean(true) => words.push(flag),
            toml::Value::Boolean(false) => {}
            toml::Value::Array(values) if key == "text_column" => {
                words.extend(values.iter().map(|value| format!("{flag}={}", text(value))));
            }
            toml::Value::Array(values) => {
                words.push(format!("{flag}={}", values.iter().map(text).collect::<Vec<_>>().join(",")));
            }
            value => words.push(format!("{flag}={}", text(value))),
        }
    }
    words
}

impl Work<'_> {
    pub(super) fn evaluate_line(&self, split: Split) -> Vec<String> {
        let group = self.group();
        let Data { files, reading } =
            inputs::data(&self.sweep.out, &group.corpus, self.corpus(), part_of(split), None);
        let mut line = words(&["evaluate", "--model", &shown(&self.model()), "--json", "--data"]);
        line.extend(files.iter().map(|file| shown(file)));
        line.extend(["--max-length".to_owned(), group.max_length.to_string()]);
        line.extend(words(&["--per-token", &shown(&self.per_token(split)), "--overwrite"]));
        if let Some(bos) = self.config().add_bos {
            line.push(format!("--add-bos={bos}"));
        }
        line.extend(self.precision());
        line.extend(flags(&reading));
        line
    }

    /// The precision of evaluation, if it is set.
    fn precision(&self) -> Vec<String> {
        match &self.sweep.settings.evaluate.precision {
            Some(precision) => words(&["--precision", precision]),
            None => Vec::new(),
        }
    }

    pub(super) fn generate_line(&self, split: Split, texts: &Path, how: &Sampling) -> Vec<String> {
        let (evaluate, group) = (&self.sweep.settings.evaluate, self.group());
        let data =
            inputs::data(&self.sweep.out, &group.corpus, self.corpus(), part_of(split), evaluate.documents);
        let mut line = words(&["generate", "--model", &shown(&self.model()), "--documents"]);
        line.extend(data.files.iter().map(|file| shown(file)));
        line.extend(words(&["--name", split.name(), "--out", &shown(texts), "--resume", "--json"]));
        let mut put = |flag: &str, value: String| line.extend([flag.to_owned(), value]);
        put("--prompt-length", evaluate.prompt_length.to_string());
        put("--max-length", group.max_length.to_string());
        put("--num-samples", how.runs.to_string());
        put("--seed", self.cell.seed.to_string());
        let list = |values: &[f64]| values.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        for (flag, values) in [("--temperature", &how.temperatures), ("--top-p", &how.top_ps)] {
            if !values.is_empty() && values.as_slice() != [1.0] {
                put(flag, list(values));
            }
        }
        if let Some(size) = evaluate.batch_size {
            put("--batch-size", size.to_string());
        }
        line.extend(self.precision());
        line.extend(flags(&data.reading));
        line
    }

    pub(super) fn score_line(&self, split: Split, files: &[PathBuf], metrics: &[String]) -> Vec<String> {
        let evaluate = &self.sweep.settings.evaluate;
        let mut line = words(&["score", "--json", "--human", &shown(&self.human(split)), "--model-text"]);
        line.extend(files.iter().map(|file| shown(file)));
        let mut put = |flag: &str, value: &str| line.extend([flag.to_owned(), value.to_owned()]);
        put("--metrics", &metrics.join(","));
        put("--seed", &evaluate.seed.to_string());
        let named = [
            ("--tokenizer", self.tokenizer()),
            ("--featurizer", evaluate.featurizer.as_deref()),
            ("--embedder", evaluate.embedder.as_deref()),
        ];
        named.into_iter().for_each(|(flag, value)| value.into_iter().for_each(|value| put(flag, value)));
        line.extend(self.precision());
        line.extend(flags(&evaluate.settings));
        line
    }

    /// The command lines of an evaluation, to be checked before anything runs.
    pub(super) fn lines(&self) -> [Vec<String>; 3] {
        let how = Sampling::of(Decoding::UNBIASED, self.sweep.settings.evaluate.samplings);
        let texts = self.folder.split(Split::Valid);
        [
            self.evaluate_line(Split::Valid),
            self.generate_line(Split::Valid, &texts, &how),
            self.score_line(
                Split::Valid,
                &self.sample_files(Split::Valid),
                &self.sweep.settings.evaluate.metrics,
            ),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_become_flags() {
        let text =
            "a_b = 3\nlist = [1, 2]\nno = false\ntext_column = [\"x\", \"y\"]\nword = \"-w\"\nyes = true\n";
        let table: toml::Table = toml::from_str(text).unwrap();
        assert_eq!(
            flags(&table),
            ["--a-b=3", "--list=1,2", "--text-column=x", "--text-column=y", "--word=-w", "--yes"]
        );
    }
}
