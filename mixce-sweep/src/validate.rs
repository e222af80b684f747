//! Validation of settings, before any file is written.

use std::collections::BTreeSet;
use std::fmt::Display;

use crate::error::{Error, Result};
use crate::grid::{Grid, MLE};
use crate::settings::{Model, Settings};

impl Settings {
    /// All checks that need neither files nor the lists of objectives, metrics and training settings.
    ///
    /// # Errors
    /// [`Error::Settings`].
    pub fn validate(&self) -> Result<()> {
        filled("objectives", &self.objectives)?;
        filled("seeds", &self.seeds)?;
        filled("train_sizes", &self.train_sizes)?;
        filled("max_lengths", &self.max_lengths)?;
        if let Some(seed) = self.seeds.iter().find(|seed| i64::try_from(**seed).is_err()) {
            return Err(Error::settings(format!("`seeds`: expected at most 2^63 - 1, got `{seed}`")));
        }
        if self.corpora.is_empty() {
            return Err(Error::with_hint(
                "expected a corpus",
                "a table `[corpora.NAME]` with `train`, `valid` and `test`",
            ));
        }
        if self.models.is_empty() {
            return Err(Error::with_hint("expected a model", "a table `[models.NAME]` with `model`"));
        }
        self.corpora.keys().try_for_each(|name| plain("corpora", name))?;
        for (name, model) in &self.models {
            plain("models", name)?;
            model.validate(name)?;
        }
        self.validate_evaluation()?;
        self.validate_controls()?;
        Grid::of(self).validate()
    }

    fn validate_evaluation(&self) -> Result<()> {
        let evaluate = &self.evaluate;
        filled("evaluate.metrics", &evaluate.metrics)?;
        at_least_one("evaluate.prompt_length", evaluate.prompt_length)?;
        at_least_one("evaluate.samplings", evaluate.samplings)?;
        at_least_one("evaluate.documents", evaluate.documents.unwrap_or(1))?;
        at_least_one("evaluate.batch_size", evaluate.batch_size.unwrap_or(1))?;
        let least = evaluate.prompt_length.saturating_add(2);
        if let Some(length) = self.max_lengths.iter().find(|length| **length < least) {
            let prompt = evaluate.prompt_length;
            return Err(Error::with_hint(
                format!(
                    "`max_lengths`: expected at least {least}, a prompt of {prompt} tokens and two more, got `{length}`"
                ),
                "lower `evaluate.prompt_length`, or raise the maximum length",
            ));
        }
        if self.models.len() > 1 && evaluate.tokenizer.is_none() {
            return Err(Error::with_hint(
                "several models need `evaluate.tokenizer`: the n-grams of all are counted with one tokenizer",
                "for the paper's numbers `tokenizer = \"openai-community/gpt2\"` in `[evaluate]`",
            ));
        }
        Ok(())
    }

    fn validate_controls(&self) -> Result<()> {
        let controls = &self.controls;
        at_least_one("controls.samplings", controls.samplings)?;
        distinct("controls.top_p", &controls.top_p)?;
        distinct("controls.temperature", &controls.temperature)?;
        if let Some(p) = controls.top_p.iter().find(|p| !(**p > 0.0 && **p < 1.0)) {
            return Err(Error::settings(format!(
                "`controls.top_p`: expected numbers between 0 and 1, got `{p}`"
            )));
        }
        if let Some(t) = controls.temperature.iter().find(|t| !(t.is_finite() && **t > 0.0 && **t != 1.0)) {
            return Err(Error::settings(format!(
                "`controls.temperature`: expected numbers above 0 other than 1, which the MLE cells have, got `{t}`"
            )));
        }
        let wanted = !controls.top_p.is_empty() || !controls.temperature.is_empty();
        if wanted && !self.objectives.iter().any(|objective| objective == MLE) {
            return Err(Error::with_hint(
                format!("the controls sample the `{MLE}` models, but `objectives` has no `{MLE}`"),
                format!(
                    "add `\"{MLE}\"` to `objectives`, or leave the controls out: `top_p = []` and `temperature = []` in `[controls]`"
                ),
            ));
        }
        if !controls.temperature.is_empty() && !self.evaluate.metrics.iter().any(|name| name == "diversity") {
            return Err(Error::with_hint(
                "the temperature of equal diversity needs `diversity` in `evaluate.metrics`",
                "add it, or leave the control out: `temperature = []` in `[controls]`",
            ));
        }
        Ok(())
    }
}

impl Model {
    fn validate(&self, name: &str) -> Result<()> {
        let table = format!("[models.{name}]");
        match (&self.model, &self.from_config, &self.tokenizer) {
            (Some(_), Some(_), _) => Err(Error::settings(format!(
                "`{table}`: `model` and `from_config` exclude each other: finetune, or train from scratch"
            ))),
            (None, None, _) => Err(Error::settings(format!(
                "`{table}`: expected `model` (finetune) or `from_config` (from scratch)"
            ))),
            (None, Some(_), None) => {
                Err(Error::settings(format!("`{table}`: `from_config` needs `tokenizer`")))
            }
            _ => Ok(()),
        }
    }
}

fn filled<T: Display + PartialEq>(key: &str, values: &[T]) -> Result<()> {
    if values.is_empty() {
        return Err(Error::settings(format!("`{key}`: expected at least one value, got none")));
    }
    distinct(key, values)
}

fn distinct<T: Display + PartialEq>(key: &str, values: &[T]) -> Result<()> {
    let twice = values.iter().enumerate().find(|(index, value)| values[..*index].contains(value));
    twice.map_or(Ok(()), |(_, value)| Err(Error::settings(format!("`{key}`: `{value}` is there twice"))))
}

fn at_least_one(key: &str, value: u64) -> Result<()> {
    if value > 0 {
        return Ok(());
    }
    Err(Error::settings(format!("`{key}`: expected at least 1, got `0`")))
}

/// Names become parts of file names.
fn plain(table: &str, name: &str) -> Result<()> {
    let letter = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if !name.is_empty() && name.chars().all(letter) && !name.starts_with(['.', '-']) {
        return Ok(());
    }
    Err(Error::settings(format!(
        "`[{table}.\"{name}\"]`: expected a name of letters, digits, `.`, `_` and `-`, for file names"
    )))
}

impl Grid {
    /// Different cells must have different folders.
    fn validate(&self) -> Result<()> {
        let mut ids = BTreeSet::new();
        match self.cells.iter().find(|cell| !ids.insert(&cell.id)) {
            None => Ok(()),
            Some(cell) => Err(Error::with_hint(
                format!("two cells of the grid would be called `{}`", cell.id),
                "rename a corpus or a model, or give an objective once",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use mixce_base::Hint as _;

    use super::*;
    use crate::settings::{Corpus, Files};

    fn good() -> Settings {
        let files = || Files(vec!["a.txt".to_owned()]);
        let corpus = Corpus { train: files(), valid: files(), test: files(), reading: toml::Table::new() };
        let model = Model { model: Some("m".to_owned()), ..Model::default() };
        Settings {
            objectives: vec!["mle".to_owned(), "mixce:eta=0.1".to_owned()],
            corpora: [("wiki".to_owned(), corpus)].into(),
            models: [("gpt2".to_owned(), model)].into(),
            ..Settings::default()
        }
    }

    /// The error after a change.
    fn refused(change: impl FnOnce(&mut Settings)) -> String {
        let mut settings = good();
        change(&mut settings);
        let error = settings.validate().unwrap_err();
        format!("{error}; {}", error.hint().unwrap_or_default())
    }

    #[test]
    fn contradictions_are_refused_by_name() {
        good().validate().unwrap();
        let told = [
            (refused(|s| s.seeds.clear()), "`seeds`: expected at least one value"),
            (refused(|s| s.seeds = vec![1, 1]), "`seeds`: `1` is there twice"),
            (refused(|s| s.seeds = vec![u64::MAX]), "2^63 - 1"),
            (refused(|s| s.corpora.clear()), "[corpora.NAME]"),
            (refused(|s| s.models.clear()), "[models.NAME]"),
            (refused(|s| s.max_lengths = vec![51]), "expected at least 52, a prompt of 50 tokens"),
            (refused(|s| s.evaluate.samplings = 0), "`evaluate.samplings`: expected at least 1"),
            (
                refused(|s| s.controls.top_p = vec![1.0]),
                "`controls.top_p`: expected numbers between 0 and 1, got `1`",
            ),
            (refused(|s| s.controls.temperature = vec![1.0]), "above 0 other than 1"),
            (refused(|s| s.objectives = vec!["dft".to_owned()]), "add `\"mle\"` to `objectives`"),
            (refused(|s| s.evaluate.metrics = vec!["mauve".to_owned()]), "needs `diversity`"),
            (
                refused(|s| s.models.values_mut().for_each(|m| m.from_config = Some("c".to_owned()))),
                "exclude each other",
            ),
            (refused(|s| s.models.values_mut().for_each(|m| m.model = None)), "expected `model` (finetune)"),
            (refused(|s| s.objectives.push("mixce:eta=0.1".to_owned())), "is there twice"),
        ];
        for (error, words) in told {
            assert!(error.contains(words), "{error}");
        }
        let renamed = refused(|s| {
            let corpus = s.corpora["wiki"].clone();
            s.corpora.insert("a/b".to_owned(), corpus);
        });
        assert!(renamed.contains("`[corpora.\"a/b\"]`"), "{renamed}");
        let several = refused(|s| {
            let model = s.models["gpt2"].clone();
            s.models.insert("other".to_owned(), model);
        });
        assert!(several.contains("several models need `evaluate.tokenizer`"), "{several}");
        let same = refused(|s| s.objectives.push("mixce-eta0.1".to_owned()));
        assert!(same.contains("two cells of the grid would be called"), "{same}");
    }

    #[test]
    fn controls_can_be_left_out() {
        let mut settings = good();
        settings.objectives = vec!["dft".to_owned()];
        (settings.controls.top_p, settings.controls.temperature) = (Vec::new(), Vec::new());
        settings.validate().unwrap();
    }
}
