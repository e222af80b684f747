//! The steps of a cell: each is one command of this program, skipped if it is done with the same settings.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result};
use mixce_base::files::write_atomic;
use mixce_report::results::{Decoding, Evaluation, Group, Scores, Split};
use mixce_sweep::{Corpus, GridCell};
use mixce_train::config::TrainConfig;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::Sweep;
use super::child::Failure;
use super::folder::{CellFolder, key_of, read_json, write_json};
use super::inputs::Part;
use super::lines::{Sampling, part_of, shown, words};

/// The likelihood of the human texts.
const EVALUATE: &str = "evaluate.json";
/// The mean negative log-likelihood of each human text.
const NLL: &str = "nll.json";
/// The values of each text, for paired tests.
const DOCUMENTS: &str = "documents.json";
/// The scores of all sampling runs.
const SCORE: &str = "score.json";

/// A cell with what its steps need.
pub(super) struct Work<'a> {
    pub(super) sweep: &'a Sweep<'a>,
    pub(super) cell: &'a GridCell,
    pub(super) folder: CellFolder,
}

/// Files of texts in a folder of `generate --documents`.
#[derive(Debug, Deserialize)]
struct Generated {
    files: Vec<GeneratedFile>,
}

/// One of them.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct GeneratedFile {
    path: PathBuf,
    pub(super) temperature: f64,
    pub(super) top_p: Option<f64>,
    pub(super) run: u64,
}

impl GeneratedFile {
    /// The file of JSON lines.
    pub(super) fn jsonl(&self) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(".jsonl");
        name.into()
    }
}

impl<'a> Work<'a> {
    pub(super) fn new(sweep: &'a Sweep<'a>, cell: &'a GridCell) -> Self {
        Self { sweep, cell, folder: CellFolder::new(&sweep.out, &cell.id) }
    }

    pub(super) fn group(&self) -> &'a Group {
        &self.sweep.grid.groups[self.cell.group]
    }

    pub(super) fn corpus(&self) -> &'a Corpus {
        &self.sweep.settings.corpora[&self.group().corpus]
    }

    /// The cell whose model is sampled.
    fn trained(&self) -> &'a GridCell {
        &self.sweep.grid.cells[self.cell.model]
    }

    pub(super) fn model(&self) -> PathBuf {
        CellFolder::new(&self.sweep.out, &self.trained().id).best()
    }

    pub(super) fn config(&self) -> &'a TrainConfig {
        &self.sweep.configs[self.cell.model]
    }

    /// What decides the trained model.
    fn training(&self) -> &'a Value {
        &self.sweep.training[self.cell.model]
    }

    /// All settings that decide the cell.
    pub(super) fn settings(&self) -> Value {
        let settings = &self.sweep.settings;
        let test = self.sweep.inputs.digests(&self.group().corpus, Part::Test);
        json!({
            "train": self.training(),
            "evaluate": settings.evaluate,
            "test": test,
            "control": self.cell.control,
            "controls": self.cell.control.map(|_| (&settings.controls, &settings.metric, &settings.objectives)),
        })
    }

    /// Runs `work` unless the step is done with the same settings, and records it with the time it took.
    pub(super) fn step(
        &self,
        name: &str,
        key: &Value,
        work: impl FnOnce() -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let key = key_of(key);
        if self.folder.has(name, &key)? {
            return Ok(());
        }
        self.sweep.board.running(self.cell, name);
        let started_at = Instant::now();
        work()?;
        Ok(self.folder.finish(name, &key, started_at.elapsed().as_secs_f64())?)
    }

    /// Trains the model.
    pub(super) fn train(&self) -> Result<(), Failure> {
        self.step("train", self.training(), || {
            let file = self.folder.path().join("train.toml");
            let text = self.config().to_toml().map_err(anyhow::Error::from)?;
            write_atomic(&file, text.as_bytes()).map_err(anyhow::Error::from)?;
            let (file, run) = (shown(&file), shown(&self.folder.run()));
            self.command(&words(&["train", "--config", &file, "--out", &run, "--resume", "auto"]))?;
            Ok(())
        })?;
        if !self.sweep.settings.keep_checkpoints {
            remove(&self.folder.run().join("checkpoints"))?;
            remove(&self.folder.run().join("final"))?;
        }
        Ok(())
    }

    pub(super) fn command(&self, words: &[String]) -> Result<String, Failure> {
        self.sweep.commands.run(words, Some(&self.folder.log()))
    }

    /// Evaluates, samples and scores on one set of texts.
    pub(super) fn assess(&self, split: Split, decoding: Decoding) -> Result<(), Failure> {
        fs::create_dir_all(self.folder.split(split))
            .with_context(|| format!("cannot create `{}`", self.folder.split(split).display()))?;
        self.likelihood(split)?;
        let sampled = self.samples(split, decoding)?;
        let files: Vec<PathBuf> = self.sample_files(split);
        let metrics = &self.sweep.settings.evaluate.metrics;
        let key = self.scoring_key(&sampled, metrics);
        self.step(&format!("{}.score", split.name()), &key, || {
            let folder = self.folder.split(split);
            let per_text = folder.join("per-text.json");
            let scores = self.score(split, &files, metrics, Some(&per_text))?;
            let values: PerText = read_json(&per_text)?.context("`score` wrote no values of texts")?;
            self.write_documents(split, values)?;
            fs::remove_file(&per_text).with_context(|| format!("cannot remove `{}`", per_text.display()))?;
            Ok(write_json(&folder.join(SCORE), &scores)?)
        })
    }

    /// Writes the values of each text, of the samples and of the human texts.
    fn write_documents(&self, split: Split, values: PerText) -> Result<()> {
        let folder = self.folder.split(split);
        let nll: Value = read_json(&folder.join(NLL))?.unwrap_or_default();
        let documents =
            |samplings: Value, nll: &Value| json!({"schema": 1, "samplings": samplings, "nll": nll});
        let mut samplings = values.systems;
        for sampling in &mut samplings {
            sampling.remove("name");
        }
        write_json(&folder.join(DOCUMENTS), &documents(json!(samplings), &nll))?;
        let human = self.human(split).with_extension(DOCUMENTS);
        write_json(&human, &documents(json!([values.human]), &json!([])))
    }

    fn likelihood_key(&self, split: Split) -> Value {
        let group = self.group();
        let digests = self.sweep.inputs.digests(&group.corpus, part_of(split));
        let reading = &self.corpus().reading;
        self.in_precision(json!({"train": self.training(), "data": digests, "reading": reading}))
    }

    /// The key of a step that has the precision of evaluation, if it is set.
    fn in_precision(&self, mut key: Value) -> Value {
        if let Some(precision) = &self.sweep.settings.evaluate.precision {
            key["precision"] = json!(precision);
        }
        key
    }

    /// The likelihood of the human texts under the model.
    fn likelihood(&self, split: Split) -> Result<(), Failure> {
        let key = self.likelihood_key(split);
        let step = format!("{}.evaluate", split.name());
        self.step(&step, &key, || {
            let target = self.folder.split(split).join(EVALUATE);
            // A control has the likelihood of its model.
            let of_model = CellFolder::new(&self.sweep.out, &self.trained().id);
            if self.cell.control.is_some()
                && of_model.has(&step, &key_of(&key))?
                && let Some(evaluation) = read_json::<Value>(&of_model.split(split).join(EVALUATE))?
                && let Some(nll) = read_json::<Value>(&of_model.split(split).join(NLL))?
            {
                write_json(&self.folder.split(split).join(NLL), &nll)?;
                return Ok(write_json(&target, &evaluation)?);
            }
            let stdout = self.command(&self.evaluate_line(split))?;
            let per_token = self.per_token(split);
            write_json(&self.folder.split(split).join(NLL), &mean_nll(&per_token)?)?;
            fs::remove_file(&per_token)
                .with_context(|| format!("cannot remove `{}`", per_token.display()))?;
            let evaluation: Value = serde_json::from_str(&stdout).context("`evaluate` printed no JSON")?;
            Ok(write_json(&target, &evaluation)?)
        })
    }

    pub(super) fn per_token(&self, split: Split) -> PathBuf {
        self.folder.split(split).join("per-token.jsonl")
    }

    pub(super) fn sample_files(&self, split: Split) -> Vec<PathBuf> {
        let runs = 0..self.sweep.settings.evaluate.samplings;
        runs.map(|run| self.folder.split(split).join(format!("samples-{run}.jsonl"))).collect()
    }

    /// What decides samples.
    pub(super) fn sampling_key(&self, split: Split, how: &Sampling) -> Value {
        let evaluate = &self.sweep.settings.evaluate;
        json!({
            "likelihood": self.likelihood_key(split),
            "how": how,
            "prompt_length": evaluate.prompt_length,
            "documents": evaluate.documents,
            "precision": evaluate.precision,
        })
    }

    /// The folder in which samples are drawn; that of other settings is another one.
    pub(super) fn texts(&self, folder: &str, key: &Value) -> PathBuf {
        self.folder.path().join(folder).join(format!("texts-{}", &key_of(key)[..12]))
    }

    /// Draws the samples of all runs; returns the key of what decided them.
    fn samples(&self, split: Split, decoding: Decoding) -> Result<Value, Failure> {
        let how = Sampling::of(decoding, self.sweep.settings.evaluate.samplings);
        let key = self.sampling_key(split, &how);
        self.step(&format!("{}.sample", split.name()), &key, || {
            let texts = self.texts(split.name(), &key);
            let generated = self.generate(split, &texts, &how)?;
            for (file, target) in generated.iter().zip(self.sample_files(split)) {
                rename(&file.jsonl(), &target)?;
            }
            Ok(remove(&texts)?)
        })?;
        Ok(key)
    }

    /// Continues the documents into a folder, which may hold a part of the samples. Leaves the human texts where all cells find them.
    pub(super) fn generate(
        &self,
        split: Split,
        texts: &Path,
        how: &Sampling,
    ) -> Result<Vec<GeneratedFile>, Failure> {
        let stdout = self.command(&self.generate_line(split, texts, how))?;
        let generated: Generated = serde_json::from_str(&stdout).context("`generate` printed no report")?;
        rename(&texts.join(format!("{}.human.jsonl", split.name())), &self.human(split))?;
        Ok(generated.files)
    }

    /// The human texts that the samples are compared with.
    pub(super) fn human(&self, split: Split) -> PathBuf {
        self.sweep.out.join(human_file(self.group(), split))
    }

    pub(super) fn scoring_key(&self, samples: &Value, metrics: &[String]) -> Value {
        let evaluate = &self.sweep.settings.evaluate;
        self.in_precision(json!({
            "samples": samples,
            "metrics": metrics,
            "tokenizer": self.tokenizer(),
            "featurizer": evaluate.featurizer,
            "embedder": evaluate.embedder,
            "seed": evaluate.seed,
            "settings": evaluate.settings,
        }))
    }

    /// The tokenizer of the n-grams.
    pub(super) fn tokenizer(&self) -> Option<&'a str> {
        let settings = &self.sweep.settings;
        let of_model = || {
            let model = &settings.models[&self.group().model];
            model.tokenizer.as_deref().or(model.model.as_deref())
        };
        settings.evaluate.tokenizer.as_deref().or_else(of_model)
    }

    /// Scores files of samples: the object that `score --json` prints.
    pub(super) fn score(
        &self,
        split: Split,
        files: &[PathBuf],
        metrics: &[String],
        per_text: Option<&Path>,
    ) -> Result<Value, Failure> {
        let mut line = self.score_line(split, files, metrics);
        line.extend(
            per_text.into_iter().flat_map(|path| words(&["--per-text", &shown(path), "--overwrite"])),
        );
        let stdout = self.command(&line)?;
        Ok(serde_json::from_str(&stdout).context("`score` printed no JSON")?)
    }

    /// The result on a set of texts, if all its steps are done with these settings.
    pub(super) fn evaluation(&self, split: Split, decoding: Decoding) -> Result<Option<Evaluation>> {
        let sampled =
            self.sampling_key(split, &Sampling::of(decoding, self.sweep.settings.evaluate.samplings));
        let scored = self.scoring_key(&sampled, &self.sweep.settings.evaluate.metrics);
        let steps = [("evaluate", self.likelihood_key(split)), ("sample", sampled), ("score", scored)];
        for (step, key) in steps {
            if !self.folder.has(&format!("{}.{step}", split.name()), &key_of(&key))? {
                return Ok(None);
            }
        }
        let folder = self.folder.split(split);
        let Some(likelihood) = read_json::<Likelihood>(&folder.join(EVALUATE))? else { return Ok(None) };
        let Some(scored) = read_json::<Scored>(&folder.join(SCORE))? else { return Ok(None) };
        let Likelihood { perplexity, nll } = likelihood;
        Ok(Some(Evaluation { perplexity, nll, scores: scored.systems }))
    }

    /// The scores of the human texts, as the cell's scoring has them.
    pub(super) fn human_scores(&self, split: Split) -> Result<Option<Scores>> {
        Ok(read_json::<Scored>(&self.folder.split(split).join(SCORE))?.and_then(|scored| scored.human))
    }
}

/// The part of `evaluate --json` that is a result.
#[derive(Debug, Deserialize)]
struct Likelihood {
    perplexity: f64,
    nll: f64,
}

/// The part of `score --json` that is a result.
#[derive(Debug, Deserialize)]
struct Scored {
    human: Option<Scores>,
    systems: Vec<Scores>,
}

/// The file that `score --per-text` writes.
#[derive(Debug, Deserialize)]
struct PerText {
    human: Value,
    systems: Vec<Map<String, Value>>,
}

/// The mean negative log-likelihood of each text of a file that `evaluate --per-token` wrote.
fn mean_nll(per_token: &Path) -> Result<Vec<Option<f64>>> {
    #[derive(Deserialize)]
    struct Row {
        log_q: Vec<f64>,
    }
    let told = || format!("cannot read `{}`", per_token.display());
    let mut means = Vec::new();
    for line in BufReader::new(File::open(per_token).with_context(told)?).lines() {
        let Row { log_q } = serde_json::from_str(&line.with_context(told)?).with_context(told)?;
        means.push((!log_q.is_empty()).then(|| -log_q.iter().sum::<f64>() / log_q.len() as f64));
    }
    Ok(means)
}

/// The file of a group's human texts, relative to the folder of the sweep.
pub(super) fn human_file(group: &Group, split: Split) -> String {
    let Group { corpus, model, max_length, .. } = group;
    format!("human/{corpus}-{model}-l{max_length}-{}.jsonl", split.name())
}

fn rename(from: &Path, to: &Path) -> Result<()> {
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot create `{}`", folder.display()))?;
    }
    fs::rename(from, to).with_context(|| format!("cannot rename `{}` to `{}`", from.display(), to.display()))
}

/// Removes a folder, which may be gone.
pub(super) fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove `{}`", folder.display()))
        }
        _ => Ok(()),
    }
}
