//! Describes a token cache.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use anyhow::Result;
use mixce_data::quantiles::Lengths;
use mixce_lm::Tokenizer;
use mixce_train::data::cache;
use serde_json::json;

use super::dataset::length_table;
use crate::context::Context;
use crate::models::{self, Network};
use crate::output::{grouped, table};

/// Tokens of the sample shown.
const SAMPLE_TOKENS: u64 = 60;

/// Whether a file has a token cache's signature.
pub(super) fn is_cache(path: &Path) -> bool {
    let mut magic = [0; 8];
    path.is_file()
        && File::open(path).is_ok_and(|mut file| file.read_exact(&mut magic).is_ok())
        && magic == *cache::MAGIC
}

pub(super) fn inspect(path: &Path, tokenizer: Option<&str>, context: &Context) -> Result<()> {
    let store = cache::open(path)?;
    let counts = store.counts();
    let mut lengths = Lengths::default();
    for document in 0..store.len() {
        let range = store.range(document);
        lengths.add(range.end - range.start);
    }
    let lengths = lengths.summary();
    let first = store.range(0);
    let ids = store.tokens(first.start..first.end.min(first.start + SAMPLE_TOKENS));
    let sample = match tokenizer {
        Some(name) => {
            let tokenizer = Tokenizer::from_dir(&models::locate_tokenizer(name, Network::Allowed)?.path)?;
            Some(tokenizer.decode(&ids)?)
        }
        None => None,
    };
    let report = json!({
        "kind": "cache",
        "path": path,
        "key": store.fingerprint(),
        "counts": counts,
        "lengths": {"tokens": lengths},
        "sample": {"tokens": ids, "text": sample},
    });
    context.output.either(&report, || {
        let row = |name: &str, value: u64| vec![name.to_owned(), grouped(value)];
        let rows = [
            row("documents", counts.documents),
            row("tokens", counts.tokens),
            row("truncated", counts.truncated),
            row("empty, skipped", counts.empty),
            row("without a target, skipped", counts.short),
            row("bad rows, skipped", counts.bad),
        ];
        let first = sample.map_or_else(|| format!("{ids:?}"), |text| text.replace(char::is_control, " "));
        format!(
            "token cache, valid; made from {}\n{}{}first: {first}",
            store.fingerprint(),
            table(&rows, &[false, true]),
            length_table(&[("tokens", lengths)])
        )
    })
}
