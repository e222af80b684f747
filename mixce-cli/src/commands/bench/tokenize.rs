//! `mixce bench tokenize`.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use clap::Args;
use mixce_lm::Tokenizer;
use mixce_train::data::EncodeSettings;
use mixce_train::data::cache::{count_tokens, open_or_build};
use serde::Serialize;

use crate::context::Context;
use crate::memory::peak_rss_bytes;
use crate::models::{self, Network};
use crate::output::{bytes, grouped, table};
use crate::reading::ReadingArgs;
use crate::{interrupt, progress};

/// Measure reading and encoding of data files, as in `mixce train`
#[derive(Debug, Args)]
#[command(
    after_help = "Example: mixce bench tokenize --data train.txt --tokenizer openai-community/gpt2 --threads 2 --json\n\n\
    Time runs from the first byte read to the last token, the tokenizer's files excluded. Each document's EOS is a token."
)]
pub(super) struct TokenizeBench {
    /// Data files or patterns, or `-`
    #[arg(long, value_name = "FILE", num_args = 1.., required = true)]
    data: Vec<PathBuf>,
    #[command(flatten)]
    reading: ReadingArgs,
    /// Folder or hub id of the tokenizer
    #[arg(long, value_name = "MODEL")]
    tokenizer: String,
    /// Write the token cache to this folder (an existing one is only opened) [default: only count]
    #[arg(long, value_name = "DIR")]
    cache_dir: Option<PathBuf>,
}

/// The output of `--json`.
#[derive(Debug, Serialize)]
struct Report {
    bench: &'static str,
    tokens_per_s: f64,
    megabytes_per_s: f64,
    seconds: f64,
    documents: u64,
    tokens: u64,
    bytes: u64,
    peak_rss_bytes: Option<u64>,
    threads: usize,
    version: &'static str,
}

pub(super) fn run(args: &TokenizeBench, context: &Context) -> Result<()> {
    context.start()?;
    let tokenizer = Tokenizer::from_dir(&models::locate_tokenizer(&args.tokenizer, Network::Allowed)?.path)?;
    let input = args.reading.open(&args.data)?;
    let settings = EncodeSettings::of(&tokenizer, None);
    let stop = interrupt::install("nothing is written");
    let spinner = progress::spinner(format!("encoding {}", input.name()));
    let started_at = Instant::now();
    let counts = match &args.cache_dir {
        Some(folder) => open_or_build(&input, &tokenizer, settings, folder, stop)?.counts(),
        None => count_tokens(&input, &tokenizer, settings, stop, |_| ())?,
    };
    let seconds = started_at.elapsed().as_secs_f64();
    spinner.finish_and_clear();
    let size = input.bytes()?;
    let report = Report {
        bench: "tokenize",
        tokens_per_s: counts.tokens as f64 / seconds,
        megabytes_per_s: size as f64 / seconds / 1e6,
        seconds,
        documents: counts.documents,
        tokens: counts.tokens,
        bytes: size,
        peak_rss_bytes: peak_rss_bytes(),
        threads: rayon::current_num_threads(),
        version: env!("CARGO_PKG_VERSION"),
    };
    context.output.either(&report, || {
        let row = |name: &str, value: String| vec![name.to_owned(), value];
        let rows = [
            row("speed", format!("{:.0} tokens/s, {:.1} MB/s", report.tokens_per_s, report.megabytes_per_s)),
            row("time", format!("{seconds:.2} s for {}", bytes(size))),
            row("documents", grouped(report.documents)),
            row("tokens", grouped(report.tokens)),
            row(
                "memory",
                report.peak_rss_bytes.map_or("unknown".into(), |n| format!("{} at most", bytes(n))),
            ),
            row("threads", report.threads.to_string()),
        ];
        table(&rows, &[])
    })
}
