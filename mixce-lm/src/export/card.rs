//! The model card, which states only facts about the training.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use crate::config::ModelConfig;

/// Facts about the training for the model card. Unknown ones are omitted.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TrainingFacts {
    /// The model that training started from: a hub id (with or without `@revision`), or anything else as a word.
    pub base_model: Option<String>,
    /// The name of the objective: `mle`, `mixce`, ...
    pub objective: Option<String>,
    /// The mixing ratio of MixCE, if the objective has one.
    pub eta: Option<f64>,
    /// The data files.
    pub data: Vec<DataFacts>,
    /// Optimizer steps up to the exported weights.
    pub steps: Option<u64>,
    /// Mean negative log-likelihood on the development data, in nats per token.
    pub dev_nll_nats: Option<f64>,
    /// The seed of the run.
    pub seed: Option<u64>,
}

/// One data file of a training run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DataFacts {
    /// What it was used for: `train`, `valid`, ...
    pub role: String,
    /// The file's name, without its folder.
    pub name: String,
    /// How many documents it holds.
    pub documents: Option<u64>,
    /// How many tokens they have, EOS included.
    pub tokens: Option<u64>,
}

pub(super) fn render(config: &dyn ModelConfig, facts: &TrainingFacts) -> String {
    let hub_id = facts.base_model.as_deref().and_then(hub_id);
    let mut card = String::from("---\nlibrary_name: transformers\npipeline_tag: text-generation\n");
    if let Some(id) = hub_id {
        line(&mut card, format_args!("base_model: {id}"));
    }
    let spec = config.spec();
    line(
        &mut card,
        format_args!("tags:\n- {}\n- mixce\n---\n\n# A {} language model\n", spec.model_type, spec.name),
    );
    line(&mut card, format_args!("Written by mixce {}.", env!("CARGO_PKG_VERSION")));
    card.push_str("\n| fact | value |\n| --- | --- |\n");
    let mut row = |fact: &str, value: Option<String>| {
        if let Some(value) = value {
            line(&mut card, format_args!("| {fact} | {} |", cell(&value)));
        }
    };
    row("architecture", Some(config.describe()));
    row("parameters", Some(spec.parameters.to_string()));
    row("base model", facts.base_model.clone());
    row("objective", facts.objective.clone());
    row("eta", facts.eta.map(|eta| eta.to_string()));
    row("optimizer steps", facts.steps.map(|steps| steps.to_string()));
    row("development NLL (nats per token)", facts.dev_nll_nats.map(|nll| format!("{nll:.4}")));
    row("development perplexity", facts.dev_nll_nats.map(|nll| format!("{:.3}", nll.exp())));
    row("seed", facts.seed.map(|seed| seed.to_string()));
    if !facts.data.is_empty() {
        card.push_str("\n## Data\n\n| use | file | documents | tokens |\n| --- | --- | ---: | ---: |\n");
        for data in &facts.data {
            let count = |n: Option<u64>| n.map_or_else(String::new, |n| n.to_string());
            let (role, name) = (cell(&data.role), cell(&data.name));
            let (documents, tokens) = (count(data.documents), count(data.tokens));
            line(&mut card, format_args!("| {role} | {name} | {documents} | {tokens} |"));
        }
    }
    if facts.objective.as_deref() == Some("mixce") {
        card.push_str(
            "\nMixCE: Zhang et al., *MixCE: Training Autoregressive Language Models by Mixing Forward and ",
        );
        card.push_str("Reverse Cross-Entropies*, ACL 2023.\n");
    }
    card.push_str("\n## Licence\n\nTo be stated by the publisher of this model. The licences of the base model and the data apply too.\n");
    card
}

/// The id in `owner/name` or `owner/name@revision`; the hub refuses cards whose `base_model` is anything else.
fn hub_id(model: &str) -> Option<&str> {
    let id = model.split('@').next()?;
    let legal = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphanumeric())
            && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    let (owner, name) = id.split_once('/')?;
    (legal(owner) && legal(name)).then_some(id)
}

/// Text that stays within one cell of a Markdown table.
fn cell(text: &str) -> String {
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    text.replace('\\', "\\\\").replace('|', "\\|").replace('<', "&lt;")
}

fn line(card: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = writeln!(card, "{text}");
}
