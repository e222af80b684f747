//! `mixce data detokenize`: tokenised English to running text, line by line.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, ValueEnum};
use mixce_data::input::STDIN;
use mixce_data::moses::{detokenize, wikitext_markers, writing_prompt_marks};

use crate::context::Context;
use crate::files::{self, OutputFile};
use crate::reading::ReadingArgs;

/// Detokenise English text with the Moses rules; filters stdin to stdout
#[derive(Debug, Args)]
#[command(after_help = "Example: mixce data detokenize --marks wikitext wiki.test.tokens --out test.txt")]
pub(crate) struct DetokenizeArgs {
    /// Files or patterns [default: standard input]
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// First resolve the special tokens of a data set
    #[arg(long, value_enum, default_value_t = Marks::None)]
    marks: Marks,
    /// Write here instead of to stdout
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Replace an existing `--out` file
    #[arg(long)]
    overwrite: bool,
    #[command(flatten)]
    reading: ReadingArgs,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Marks {
    /// None: only the detokenizer's rules
    None,
    /// WikiText's @-@, @,@ and @.@
    Wikitext,
    /// <newline>, `` and '' of WritingPrompts
    Writingprompts,
}

pub(crate) fn run(args: &DetokenizeArgs, context: &Context) -> Result<()> {
    let plain = |line: &str| match args.marks {
        Marks::None => detokenize(line),
        Marks::Wikitext => detokenize(&wikitext_markers(line)),
        Marks::Writingprompts => detokenize(&writing_prompt_marks(line)),
    };
    let stdin = [PathBuf::from(STDIN)];
    let names = if args.files.is_empty() { &stdin[..] } else { &args.files };
    let input = args.reading.open(names)?;
    if let Some(out) = &args.out {
        files::refuse_input(out, input.paths())?;
    }
    let claim = |path: &PathBuf| OutputFile::claim(path, args.overwrite);
    let mut out = args.out.as_ref().map(claim).transpose()?;
    for document in input.documents() {
        // The detokenizer works line by line.
        for line in lines(&document?.text) {
            match &mut out {
                Some(file) => file.put(format!("{}\n", plain(line)).as_bytes())?,
                None => context.output.text(&plain(line))?,
            }
        }
    }
    out.map_or(Ok(()), OutputFile::finish)
}

/// The lines of a document, at least one.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.split('\n').map(|line| line.strip_suffix('\r').unwrap_or(line))
}
