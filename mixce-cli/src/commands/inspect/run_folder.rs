//! Describes a run folder.

use std::path::Path;

use anyhow::{Context as _, Result};
use mixce_base::files::read_regular;
use mixce_train::checkpoint::complete;
use mixce_train::config::TrainConfig;
use serde_json::{Value, json};

use super::verify::{summary, verified};
use crate::context::Context;
use crate::output::table;

pub(super) fn inspect(path: &Path, verify: bool, context: &Context) -> Result<()> {
    let config = TrainConfig::from_toml_file(&path.join("run.toml"))?;
    let provenance = provenance(&path.join("run.toml"))?;
    let checkpoints = complete(&path.join("checkpoints"))?;
    let exported: Vec<&str> =
        ["best", "final"].into_iter().filter(|name| path.join(name).join("config.json").is_file()).collect();
    let models = exported.iter().map(|name| path.join(name));
    let folders = checkpoints.iter().map(|(_, path)| path.clone()).chain(models);
    let verified = verify.then(|| folders.map(|folder| verified(&folder)).collect::<Result<Vec<_>>>());
    let verified = verified.transpose()?.map(|folders| folders.concat());
    let (last_step, last_evaluation) = last_metrics(&path.join("metrics.jsonl"))?;
    let report = json!({
        "kind": "run",
        "path": path,
        "config": config,
        "provenance": provenance,
        "checkpoints": checkpoints.iter().map(|(step, path)| json!({"step": step, "path": path})).collect::<Vec<Value>>(),
        "models": exported.iter().map(|name| path.join(name)).collect::<Vec<_>>(),
        "last_step": last_step,
        "last_evaluation": last_evaluation,
        "verified": verified,
    });
    context.output.either(&report, || {
        let row = |name: &str, value: String| vec![name.to_owned(), value];
        let shown =
            |value: &Option<Value>| value.as_ref().map_or_else(|| "none".to_owned(), Value::to_string);
        let scratch = || config.from_config.as_ref().map(|path| format!("{} (from scratch)", path.display()));
        let from = config.model.clone().or_else(scratch).unwrap_or_else(|| "?".to_owned());
        let eta = config.eta.map_or_else(String::new, |eta| format!(", eta {eta}"));
        let steps: Vec<String> = checkpoints.iter().map(|(step, _)| step.to_string()).collect();
        let list = |names: &[String]| if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        let models: Vec<String> = exported.iter().map(|name| (*name).to_owned()).collect();
        let mut rows = vec![
            row("model", from),
            row("objective", format!("{}{eta}", config.objective)),
            row("data", config.train.as_ref().map_or_else(|| "?".to_owned(), ToString::to_string)),
            row("made by", made_by(&provenance)),
            row("checkpoints", list(&steps)),
            row("models", list(&models)),
            row("last step", shown(&last_step)),
            row("last evaluation", shown(&last_evaluation)),
        ];
        rows.extend(verified.as_deref().map(|files| row("", summary(files))));
        table(&rows, &[])
    })
}

/// Largest file of a run folder that is read: metrics of millions of steps.
const MAX_FILE_BYTES: u64 = 1 << 30;

fn read_text(path: &Path) -> Result<String> {
    let bytes = read_regular(path, MAX_FILE_BYTES)?;
    String::from_utf8(bytes).with_context(|| format!("`{}` is not UTF-8", path.display()))
}

/// The provenance recorded in `run.toml`.
pub(super) fn provenance(path: &Path) -> Result<toml::Table> {
    let text = read_text(path)?;
    let mut all: toml::Table =
        toml::from_str(&text).with_context(|| format!("`{}` is not valid TOML", path.display()))?;
    Ok(match all.remove("provenance") {
        Some(toml::Value::Table(table)) => table,
        _ => toml::Table::new(),
    })
}

pub(super) fn made_by(provenance: &toml::Table) -> String {
    let word = |key: &str| provenance.get(key).and_then(toml::Value::as_str).unwrap_or("?");
    let commit = provenance.get("git_commit").and_then(toml::Value::as_str);
    let commit = commit.map_or_else(String::new, |commit| format!(" ({commit})"));
    format!("mixce {}{commit} on {}, {}", word("version"), word("device"), word("platform"))
}

/// The last logged step and the last evaluation of `metrics.jsonl`. A killed run may have left an incomplete line.
fn last_metrics(path: &Path) -> Result<(Option<Value>, Option<Value>)> {
    if !path.is_file() {
        return Ok((None, None));
    }
    let text = read_text(path)?;
    let rows = || text.lines().rev().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let step = rows().find(|row| row.get("loss").is_some());
    let evaluation = rows().find(|row| row.get("valid_nll").is_some());
    Ok((step, evaluation))
}
