//! `mixce data prepare`: the paper's data sets, and other text, as files with one document per line.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::{Args, ValueEnum};
use mixce_data::Input;
use mixce_data::input::STDIN;
use mixce_data::prepare::{
    Cleaning, Collection, Detokenize, Dropped, PrepareSettings, Source, Unused, find, listed,
    looks_tokenized, prepare,
};

use super::{fetch, report};
use crate::context::Context;
use crate::error::{Problem, with_hint};
use crate::reading::ReadingArgs;
use crate::{interrupt, progress};

/// Number of documents of standard input used to detect tokenised text.
const PROBED: usize = 200;

/// Create train.txt, train10K.txt .. train100K.txt, valid.txt and test.txt from a data set, one document per line
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    mixce data prepare wikitext --out data/wikitext\n  \
    mixce data prepare writingprompts --source writingPrompts.tar.gz --out data/stories\n  \
    mixce data prepare text --dataset owner/name --config en --split train --text-column body --out data/mine\n  \
    mixce data prepare wikitext < wiki.test.tokens > test.txt\n\n\
    The paper's data sets keep documents of 51 to 999 words. Test and development sets are filled up to 5000 documents from the beginning of the \
    training set. Without --source, --dataset and --out it filters stdin to stdout.\n\n\
    In a folder or archive, the split of a file follows from its own name or that of a folder below the source: train, training; valid, \
    validation, val, dev; test. The word must stand alone between dots, with or without a shard number (`wiki.train.tokens`, `test-00001.jsonl`, \
    `dev/a.txt`), or be the only difference between two names (`my_train.txt`, `my_test.txt`). If no name names a split, all files are the \
    training split; otherwise the other files are skipped and listed. The source's own name is ignored.")]
pub(crate) struct PrepareArgs {
    /// Data set; `text` for any other
    #[arg(value_enum, value_name = "COLLECTION")]
    collection: CollectionArg,
    /// Local copy: a folder, a file, or a tar archive, plain or compressed [default: downloaded from the hub]
    #[arg(long, value_name = "PATH", conflicts_with = "dataset")]
    source: Option<PathBuf>,
    /// Data set on the hub: owner/name, owner/name@revision
    #[arg(long, value_name = "ID")]
    dataset: Option<String>,
    /// Configuration: the folder within the data set [default: wikitext-103-raw-v1 for wikitext]
    #[arg(long, value_name = "NAME")]
    config: Option<String>,
    /// Read only the files whose names contain this word, as the training split [default: train, valid, test]
    #[arg(long, value_name = "WORD", requires = "dataset", conflicts_with = "source")]
    split: Option<String>,
    /// Output folder
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Replace files of an earlier run
    #[arg(long)]
    overwrite: bool,
    /// When to detokenise [default: auto for wikitext and writingprompts, never for others]
    #[arg(long, value_enum)]
    detokenize: Option<DetokenizeArg>,
    /// Minimum words of a document [default: 51; for `text` 1]
    #[arg(long, value_name = "N")]
    min_words: Option<u64>,
    /// Maximum words of a document [default: 999; for `text` no limit]
    #[arg(long, value_name = "N")]
    max_words: Option<u64>,
    /// Documents in each of the development and test sets [default: 5000; for `text` at most a twentieth, and your own files as
    /// they are]
    #[arg(long, value_name = "N")]
    held_out: Option<u64>,
    /// Folder or hub id of a tokenizer, to count tokens too
    #[arg(long, value_name = "MODEL")]
    tokenizer: Option<String>,
    #[command(flatten)]
    reading: ReadingArgs,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum CollectionArg {
    /// WikiText-103 (or -2), without headings
    Wikitext,
    /// OpenAI's sample of WebText (webtext.*.jsonl)
    Webtext,
    /// Prompts and stories
    Writingprompts,
    /// Any other text
    Text,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum DetokenizeArg {
    /// If the first documents look tokenised
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

impl PrepareArgs {
    fn collection(&self) -> Collection {
        match self.collection {
            CollectionArg::Wikitext => Collection::Wikitext,
            CollectionArg::Webtext => Collection::Webtext,
            CollectionArg::Writingprompts => Collection::WritingPrompts,
            CollectionArg::Text => Collection::Text,
        }
    }

    fn settings(&self) -> PrepareSettings {
        let mut settings =
            PrepareSettings { held_out: self.held_out, ..PrepareSettings::new(self.collection()) };
        settings.filter.min_words = self.min_words.unwrap_or(settings.filter.min_words);
        settings.filter.max_words = self.max_words.unwrap_or(settings.filter.max_words);
        if let Some(detokenize) = self.detokenize {
            settings.detokenize = match detokenize {
                DetokenizeArg::Auto => Detokenize::Auto,
                DetokenizeArg::Always => Detokenize::Always,
                DetokenizeArg::Never => Detokenize::Never,
            };
        }
        settings
    }
}

pub(crate) fn run(args: &PrepareArgs, context: &Context) -> Result<()> {
    let settings = args.settings();
    if settings.filter.min_words > settings.filter.max_words {
        return Err(Problem::new(format!(
            "`--min-words {}` is more than `--max-words {}`",
            settings.filter.min_words, settings.filter.max_words
        ))
        .into());
    }
    let Some(out) = &args.out else {
        if args.source.is_none() && args.dataset.is_none() {
            return filter_stdin(args, &settings, context);
        }
        return Err(Problem::new("expected `--out`, the folder for train.txt, valid.txt and test.txt").into());
    };
    refuse_occupied(out, args.overwrite)?;
    let source = source(args).map_err(with_flags)?;
    warn_unused(&source.unused);
    interrupt::install("nothing is written");
    let spinner = progress::spinner("reading");
    let mut watch = |read: u64| {
        spinner.set_message(format!("{read} documents read"));
        if interrupt::is_requested() {
            return Err(mixce_data::Error::Stopped);
        }
        Ok(())
    };
    let prepared = prepare(&source.splits, &settings, out, &mut watch)?;
    spinner.finish_and_clear();
    for (name, split) in [("development", &prepared.valid), ("test", &prepared.test)] {
        if split.words.summary().documents == 0 && args.held_out != Some(0) {
            tracing::warn!("the {name} set is empty: choose its size with `--held-out`");
        }
        if split.cut > 0 {
            tracing::warn!(
                "the {name} set is cut to {} documents (`--held-out`): {} more are not used",
                split.words.summary().documents,
                split.cut
            );
        }
    }
    report::print(&prepared, &source, settings.collection, out, args.tokenizer.as_deref(), context)
}

/// Lists the unused files, one line per reason.
fn warn_unused(unused: &[Unused]) {
    let mut by_reason: BTreeMap<&str, Vec<&Path>> = BTreeMap::new();
    unused.iter().for_each(|file| by_reason.entry(file.reason).or_default().push(&file.name));
    for (reason, names) in by_reason {
        tracing::warn!("not used ({reason}): {}", listed(&names));
    }
}

/// Adds a hint with flags where the libraries cannot determine the files.
fn with_flags(failure: anyhow::Error) -> anyhow::Error {
    let hint = match (failure.downcast_ref(), failure.downcast_ref()) {
        (Some(mixce_data::Error::Splits { .. }), _) => {
            "`--config` chooses a configuration, `--source` a file or folder"
        }
        (_, Some(mixce_hub::Error::NoSuchFiles { .. })) => {
            "choose the configuration with `--config` and the split with `--split`"
        }
        (_, Some(mixce_hub::Error::InvalidDataset { .. })) => "use `--source` for your own files",
        _ => return failure,
    };
    with_hint(&failure, hint.to_owned())
}

/// The splits' documents, from the user's files or the hub.
fn source(args: &PrepareArgs) -> Result<Source> {
    let (collection, reading) = (args.collection(), args.reading.settings());
    if let Some(source) = &args.source {
        if source == Path::new(STDIN) {
            return Ok(Source::training(Input::open(&[source], reading)?));
        }
        return Ok(find(source, collection, args.config.as_deref(), &reading)?);
    }
    let (id, config) = match (&args.dataset, collection.hub()) {
        (Some(id), _) => (id.clone(), args.config.clone()),
        (None, Some((id, config))) => (id.to_owned(), args.config.clone().or(config.map(str::to_owned))),
        (None, None) => {
            let problem =
                format!("`mixce data prepare {}` needs `--source` or `--dataset`", collection.name());
            let problem = Problem::new(problem);
            return Err(match collection {
                Collection::Webtext => problem.hint(
                    "OpenAI's gpt-2-output-dataset has webtext.train.jsonl, webtext.valid.jsonl and webtext.test.jsonl: name the folder with `--source`",
                ),
                _ => problem.hint("`--source` takes a file, a folder, or a tar archive"),
            }
            .into());
        }
    };
    fetch::fetch(&id, config.as_deref(), args.split.as_deref(), collection, reading)
}

/// Cleans and filters standard input to standard output.
fn filter_stdin(args: &PrepareArgs, settings: &PrepareSettings, context: &Context) -> Result<()> {
    let input = args.reading.open(&[STDIN])?;
    let detokenize = match settings.detokenize {
        Detokenize::Always => true,
        Detokenize::Never => false,
        Detokenize::Auto => {
            let probe: Result<Vec<String>, _> =
                input.documents().take(PROBED).map(|document| document.map(|d| d.text)).collect();
            looks_tokenized(&probe?)
        }
    };
    let cleaning = Cleaning { collection: settings.collection, detokenize };
    let (mut read, mut dropped) = (0u64, Dropped::default());
    for document in input.documents() {
        let text = cleaning.apply(&document?.text);
        read += 1;
        if settings.filter.keep(&text, &mut dropped).is_some() {
            context.output.text(&text)?;
        }
    }
    let told = dropped.describe(&settings.filter);
    if read > 0 && dropped.total() == read {
        tracing::warn!("no document passes the filters: of {read} documents read, {told}");
    } else if dropped.total() > 0 {
        tracing::info!("of {read} documents, the filters dropped {told}");
    }
    Ok(())
}

/// Refuses a folder that holds a prepared data set, unless overwriting is allowed.
fn refuse_occupied(out: &Path, overwrite: bool) -> Result<()> {
    if out.exists() && !out.is_dir() {
        return Err(Problem::new(format!("`--out {}` is a file, not a folder", out.display())).into());
    }
    let names = ["train.txt", "valid.txt", "test.txt"];
    match names.into_iter().find(|name| out.join(name).exists()) {
        Some(name) if !overwrite => {
            let problem = Problem::new(format!("`{}` already contains `{name}`", out.display()));
            Err(problem.hint("choose another folder, or replace the files with `--overwrite`").into())
        }
        _ => Ok(()),
    }
}
