//! The settings of a grid: from a file, from flags, or both.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::ValueEnum as _;
use mixce_core::ObjectiveConfig;
use mixce_sweep::{Corpus, Files, Grid, GridCell, KnownKeys, MLE, Model, READING, Settings, TrainSize};
use mixce_train::config::TrainConfig;
use serde::Deserialize as _;

use super::inputs::{self, Data};
use crate::commands::sweep::SweepArgs;
use crate::context::Context;
use crate::error::Problem;
use crate::flags::in_words_of_flags;

/// Settings of `train` that the grid decides for each cell.
const OF_CELLS: [&str; 15] = [
    "model",
    "from_config",
    "tokenizer",
    "train",
    "valid",
    "out",
    "resume",
    "seed",
    "device",
    "threads",
    "max_length",
    "eta",
    "gamma",
    "min_weight",
    "alpha",
];

/// Flags of `score` that the grid decides, or that another key of `[evaluate]` holds.
const OF_SCORING: [&str; 17] = [
    "per_text",
    "overwrite",
    "human",
    "model_text",
    "metrics",
    "tokenizer",
    "featurizer",
    "embedder",
    "human_features",
    "model_features",
    "prompt_length",
    "device",
    "threads",
    "seed",
    "json",
    "color",
    "help",
];

/// The name of the resolved settings in a sweep's folder.
pub(crate) const SWEEP_TOML: &str = "sweep.toml";

/// Names of the corpus and the model of the short form.
const DATA: &str = "data";

/// Whether a key of training settings can be in `[train]`.
fn is_shared(key: &str) -> bool {
    key != "objective" && !OF_CELLS.contains(&key) && !READING.contains(&key)
}

/// Keys of `[evaluate.settings]`: the flags of `score`, with underscores.
fn score_keys() -> Vec<String> {
    let command = crate::cli::command();
    let flags = command.find_subcommand("score").into_iter().flat_map(|score| score.get_arguments());
    let names = flags.filter_map(|flag| flag.get_long()).map(|name| name.replace('-', "_"));
    names.filter(|name| !OF_SCORING.contains(&name.as_str()) && !READING.contains(&name.as_str())).collect()
}

/// The folder and the validated settings.
pub(super) fn resolve(args: &SweepArgs, context: &Context) -> Result<(PathBuf, Settings)> {
    refuse_flags_of_cells(args)?;
    let out = args.settings.out.clone();
    let mut settings = match file_of(args, out.as_deref()) {
        Some(file) => {
            refuse_flags_of_the_file(args)?;
            read(&file)?
        }
        None => short_form(args)?,
    };
    apply_flags(&mut settings, args, context)?;
    let out = out
        .or_else(|| settings.out.take())
        .ok_or_else(|| Problem::new("expected `--out`, the folder of the sweep, or `out` in the file"))?;
    settings.out = None;
    settings.objectives = objectives(&settings)?;
    settings.validate()?;
    let grid = Grid::of(&settings);
    for cell in &grid.cells {
        config_of(cell, &grid, &settings, &out)?;
    }
    Ok((out, settings))
}

/// The given file; without one and without a model, the resolved settings in the folder.
fn file_of(args: &SweepArgs, out: Option<&Path>) -> Option<PathBuf> {
    let of_folder = || out.map(|out| out.join(SWEEP_TOML)).filter(|path| path.is_file());
    let is_short = args.settings.model.is_some() || args.settings.from_config.is_some();
    args.file.clone().or_else(|| if is_short { None } else { of_folder() })
}

/// Reads a settings file.
pub(super) fn read(path: &Path) -> Result<Settings> {
    let train: Vec<&str> = TrainConfig::keys().iter().copied().filter(|key| is_shared(key)).collect();
    let score = score_keys();
    let score: Vec<&str> = score.iter().map(String::as_str).collect();
    Ok(Settings::read(path, &KnownKeys { train: &train, score: &score })?)
}

/// Flags of `train` that the grid sets itself.
fn refuse_flags_of_cells(args: &SweepArgs) -> Result<()> {
    let given = &args.settings;
    let parameters = [
        ("--eta", given.eta),
        ("--gamma", given.gamma),
        ("--min-weight", given.min_weight),
        ("--alpha", given.alpha),
    ];
    let parameter = parameters.iter().find(|(_, value)| value.is_some()).map(|(flag, _)| *flag);
    if let Some(flag) = parameter.or_else(|| given.objective.as_ref().map(|_| "--objective")) {
        let problem = Problem::new(format!("`{flag}` is not for `sweep`, which compares several objectives"));
        return Err(problem
            .hint("name them with `--etas 0.1,0.5` or `--objectives mle tailr:gamma=0.1`")
            .into());
    }
    if given.resume.is_some() {
        let problem = Problem::new("`--resume` is not for `sweep`");
        return Err(problem.hint("the same command continues a sweep").into());
    }
    Ok(())
}

/// Flags that describe what the file describes.
fn refuse_flags_of_the_file(args: &SweepArgs) -> Result<()> {
    let given = &args.settings;
    let named = [
        ("--model", given.model.is_some()),
        ("--from-config", given.from_config.is_some()),
        ("--tokenizer", given.tokenizer.is_some()),
        ("--train", !given.train.is_empty()),
        ("--valid", !given.valid.is_empty()),
        ("--test", !args.test.is_empty()),
        ("--text-column", !given.reading.text_column.is_empty()),
        ("--document-separator", given.reading.document_separator.is_some()),
        ("--skip-bad-rows", given.reading.skip_bad_rows.is_some()),
        ("--data-format", given.reading.data_format.is_some()),
        ("--delimiter", given.reading.delimiter.is_some()),
        ("--no-header", given.reading.no_header),
    ];
    match named.iter().find(|(_, is_given)| *is_given) {
        None => Ok(()),
        Some((flag, _)) => {
            let problem = Problem::new(format!(
                "`{flag}` cannot be combined with a file, which has models and corpora"
            ));
            Err(problem.hint("change the file, or describe the whole grid by flags").into())
        }
    }
}

/// One corpus and one model, from flags.
fn short_form(args: &SweepArgs) -> Result<Settings> {
    let given = &args.settings;
    if given.model.is_none() && given.from_config.is_none() {
        let problem =
            Problem::new("expected a file, or `--model`, `--train`, `--valid`, `--test` and `--etas`");
        return Err(problem.hint("`mixce sweep --help` shows both forms").into());
    }
    let files = |flag: &str, paths: &[PathBuf]| match paths {
        [] => Err(Problem::new(format!("expected `{flag}`, documents"))),
        paths => Ok(Files(paths.iter().map(|path| path.display().to_string()).collect())),
    };
    let corpus = Corpus {
        train: files("--train", &given.train)?,
        valid: files("--valid", &given.valid)?,
        test: files("--test", &args.test)?,
        reading: reading(args)?,
    };
    let model = Model {
        model: given.model.clone(),
        from_config: given.from_config.as_ref().map(|path| path.display().to_string()),
        tokenizer: given.tokenizer.clone(),
        train: toml::Table::new(),
    };
    let name = given.model.as_deref().or(model.from_config.as_deref()).unwrap_or_default();
    Ok(Settings {
        corpora: [(DATA.to_owned(), corpus)].into(),
        models: [(short_name(name), model)].into(),
        ..Settings::default()
    })
}

/// The last part of a model's name or path, in letters that file names may have.
fn short_name(model: &str) -> String {
    let last = model.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    let last = last.split('@').next().unwrap_or_default().trim_end_matches(".json");
    let letter = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '_' };
    let name: String = last.chars().map(letter).collect();
    let name = name.trim_start_matches(['.', '-']);
    if name.is_empty() { "model".to_owned() } else { name.to_owned() }
}

/// The reading flags as keys.
fn reading(args: &SweepArgs) -> Result<toml::Table> {
    let given = &args.settings.reading;
    let mut table = toml::Table::new();
    let mut put = |key: &str, value: Option<toml::Value>| {
        value.and_then(|value| table.insert(key.to_owned(), value));
    };
    let columns: Vec<toml::Value> = given.text_column.iter().cloned().map(toml::Value::String).collect();
    put("text_column", (!columns.is_empty()).then_some(toml::Value::Array(columns)));
    put("document_separator", given.document_separator.clone().map(toml::Value::String));
    let bad = given.skip_bad_rows.map(i64::try_from).transpose();
    let bad = bad.map_err(|_| Problem::new("`--skip-bad-rows`: expected at most 2^63 - 1"))?;
    put("skip_bad_rows", bad.map(toml::Value::Integer));
    let format = given.data_format.and_then(|format| Some(format.to_possible_value()?.get_name().to_owned()));
    put("data_format", format.map(toml::Value::String));
    put("delimiter", given.delimiter.clone().map(toml::Value::String));
    put("no_header", given.no_header.then_some(toml::Value::Boolean(true)));
    Ok(table)
}

/// Applies the flags that override the file, and spells the shared training settings out.
fn apply_flags(settings: &mut Settings, args: &SweepArgs, context: &Context) -> Result<()> {
    let mut wanted = args.objectives.clone();
    for eta in &args.etas {
        let text = if *eta == 1.0 { MLE.to_owned() } else { format!("mixce:eta={eta}") };
        let objective: ObjectiveConfig = text.parse()?;
        if !wanted.contains(&objective) {
            wanted.push(objective);
        }
    }
    if !wanted.is_empty() {
        let others = wanted.iter().map(ToString::to_string).filter(|name| name != MLE);
        settings.objectives = std::iter::once(MLE.to_owned()).chain(others).collect();
    }
    if let Some(seed) = context.seed {
        settings.seeds = vec![seed];
    }
    set_list(&mut settings.seeds, &args.seeds);
    set_list(&mut settings.train_sizes, &args.train_sizes);
    if let Some(length) = args.settings.max_length {
        settings.max_lengths = vec![length as u64];
    }
    set_list(&mut settings.max_lengths, &args.max_lengths);
    set_list(&mut settings.evaluate.metrics, &args.metrics);
    set(&mut settings.metric, args.metric.clone());
    set(&mut settings.evaluate.samplings, args.samplings);
    set(&mut settings.evaluate.prompt_length, args.prompt_length);
    let evaluate = &mut settings.evaluate;
    evaluate.documents = args.documents.or(evaluate.documents);
    for (given, key) in
        [(&args.featurizer, &mut evaluate.featurizer), (&args.embedder, &mut evaluate.embedder)]
    {
        if given.is_some() {
            key.clone_from(given);
        }
    }
    if args.no_controls {
        (settings.controls.top_p, settings.controls.temperature) = (Vec::new(), Vec::new());
    }
    let train = args.settings.over(train_config(&settings.train, "[train]")?);
    settings.train = shared_table(&train)?;
    Ok(())
}

fn set<T>(field: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *field = value;
    }
}

fn set_list<T: Clone>(field: &mut Vec<T>, values: &[T]) {
    if !values.is_empty() {
        *field = values.to_vec();
    }
}

/// The objectives in their usual spelling, with their parameters checked.
fn objectives(settings: &Settings) -> Result<Vec<String>> {
    let canonical = |text: &String| -> Result<String> {
        let objective: ObjectiveConfig = text.parse()?;
        objective.build()?;
        Ok(objective.to_string())
    };
    settings.objectives.iter().map(canonical).collect()
}

/// All settings of a configuration that are not a cell's own.
fn shared_table(config: &TrainConfig) -> Result<toml::Table> {
    let mut table: toml::Table = toml::from_str(&config.to_toml()?)?;
    table.retain(|key, _| is_shared(key));
    Ok(table)
}

/// Training settings from a table; `place` is named in errors.
pub(super) fn train_config(table: &toml::Table, place: &str) -> Result<TrainConfig> {
    for (key, value) in table {
        let single = toml::Table::from_iter([(key.clone(), value.clone())]);
        if let Err(error) = TrainConfig::deserialize(single) {
            let told = error.message().lines().map(str::trim).filter(|line| !line.is_empty());
            let told = told.collect::<Vec<_>>().join(" ");
            return Err(Problem::new(format!("`{key}` in `{place}`: {told}")).into());
        }
    }
    Ok(TrainConfig::deserialize(table.clone())?)
}

/// The settings of a cell's training run. Of controls, those of the model that they sample.
pub(super) fn config_of(
    cell: &GridCell,
    grid: &Grid,
    settings: &Settings,
    out: &Path,
) -> Result<TrainConfig> {
    let group = &grid.groups[cell.group];
    let (corpus, model) = (&settings.corpora[&group.corpus], &settings.models[&group.model]);
    let place = format!("[models.{}.train]", group.model);
    let mut table = settings.train.clone();
    train_config(&model.train, &place)?;
    table.extend(model.train.clone());
    let mut config = train_config(&table, "[train]")?;
    config.model.clone_from(&model.model);
    config.from_config = model.from_config.as_ref().map(PathBuf::from);
    config.tokenizer.clone_from(&model.tokenizer);
    config.set_objective(cell.objective.parse()?);
    config.seed = cell.seed;
    config.max_length = Some(usize::try_from(group.max_length)?);
    let (train, valid): (Data, Data) = inputs::training_data(out, &group.corpus, corpus, group.train_size);
    config.train = Some(mixce_train::config::DataFiles(train.files.clone()));
    config.valid = Some(mixce_train::config::DataFiles(valid.files));
    Data { files: Vec::new(), reading: train.reading }.into_config(&mut config)?;
    let mut whole = config.clone();
    whole.out = Some(out.to_owned());
    whole.validate().map_err(|error| {
        Problem::new(format!("cell `{}`: {}", cell.id, in_words_of_flags(&error.to_string())))
    })?;
    Ok(config)
}

/// A number of training documents on the command line.
pub(crate) fn train_size(text: &str) -> Result<TrainSize, String> {
    text.parse()
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};
    use crate::output::Output;

    fn resolved(line: &str) -> Result<(PathBuf, Settings)> {
        let Command::Sweep(args) = Cli::try_parse_from(line.split_whitespace()).unwrap().command else {
            panic!("not sweep")
        };
        let context = Context { output: Output::new(false), device: None, threads: None, seed: None };
        resolve(&args, &context)
    }

    #[test]
    fn flags_and_a_file_describe_the_same_grid() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("grid.toml");
        std::fs::write(
            &file,
            r#"
            out = "here"
            objectives = ["mle", "tailr:gamma=0.1", "mixce:eta=0.1"]
            seeds = [1, 2]
            train_sizes = [100, "all"]
            max_lengths = [128]
            [corpora.data]
            train = ["a.csv", "b.csv"]
            valid = "v.csv"
            test = "t.csv"
            delimiter = ";"
            [models.gpt2]
            model = "openai-community/gpt2"
            [train]
            epochs = 2
            [evaluate]
            documents = 50
            featurizer = "f"
            "#,
        )
        .unwrap();
        let (out, of_file) = resolved(&format!("mixce sweep {}", file.display())).unwrap();
        let line = "mixce sweep --model openai-community/gpt2 --train a.csv b.csv --valid v.csv --test t.csv --delimiter ; --etas 0.1,1 \
            --objectives mle tailr:gamma=0.1 --seeds 1,2 --train-sizes 100,all --max-length 128 --epochs 2 --documents 50 --featurizer f --out here";
        let (same, of_flags) = resolved(line).unwrap();
        assert_eq!((out, of_file.to_toml().unwrap()), (same, of_flags.to_toml().unwrap()));
        assert_eq!(of_file.train["lr"].as_float(), Some(5e-5), "defaults are spelt out");

        let (out, changed) = resolved(&format!(
            "mixce sweep {} --epochs 3 --seeds 9 --out there --no-controls",
            file.display()
        ))
        .unwrap();
        assert_eq!((out.to_str(), changed.seeds.as_slice()), (Some("there"), [9].as_slice()));
        assert_eq!(changed.train["epochs"].as_integer(), Some(3));
        assert!(changed.controls.top_p.is_empty() && changed.controls.temperature.is_empty());
    }

    #[test]
    fn a_cell_is_trained_with_the_settings_of_its_model() {
        let text = r#"
            objectives = ["mle", "mixce:eta=0.3"]
            seeds = [7]
            train_sizes = [10]
            max_lengths = [64, 96]
            [corpora.c]
            train = "a.csv"
            valid = "v.csv"
            test = "t.csv"
            text_column = "story"
            [models.m]
            model = "m"
            [models.m.train]
            batch_size = 2
            [train]
            batch_size = 4
            lr = 1e-3
            "#;
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("grid.toml");
        std::fs::write(&file, text).unwrap();
        let (out, settings) = resolved(&format!("mixce sweep {} --out o", file.display())).unwrap();
        let grid = Grid::of(&settings);
        let cell = grid.cells.iter().find(|cell| cell.id == "c-m-mixce-eta0.3-n10-l96-s7").unwrap();
        let config = config_of(cell, &grid, &settings, &out).unwrap();
        assert_eq!((config.batch_size, config.lr, config.seed, config.max_length), (2, 1e-3, 7, Some(96)));
        assert_eq!(config.objective.to_string(), "mixce:eta=0.3");
        // The copies are JSON lines, which need no column.
        assert_eq!(config.train, Some("o/data/c-train-10.jsonl".into()));
        assert_eq!(config.valid, Some("o/data/c-valid-all.jsonl".into()));
        assert!(config.text_column.is_empty());
    }

    #[test]
    fn the_recipes_are_valid() {
        let recipes = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/recipes");
        let mut cells = Vec::new();
        for entry in std::fs::read_dir(recipes).unwrap() {
            let path = entry.unwrap().path();
            let (_, settings) = resolved(&format!("mixce sweep {} --out o", path.display())).unwrap();
            super::super::Metric::find(&settings.metric, &settings.evaluate.metrics).unwrap();
            cells.push((
                path.file_name().unwrap().to_str().unwrap().to_owned(),
                Grid::of(&settings).cells.len(),
            ));
        }
        cells.sort();
        assert_eq!(cells, [("paper-table2.toml".to_owned(), 72 + 18), ("small.toml".to_owned(), 6 + 4)]);
    }

    #[test]
    fn names_of_models_become_names_of_folders() {
        for (model, name) in [
            ("openai-community/gpt2", "gpt2"),
            ("me/a b@v1.0", "a_b"),
            ("runs/first/", "first"),
            ("models/m.gguf", "m.gguf"),
            ("shapes/tiny.json", "tiny"),
            ("..", "model"),
        ] {
            assert_eq!(short_name(model), name);
        }
    }
}
